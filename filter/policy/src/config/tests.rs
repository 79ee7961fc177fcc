//! One valid baseline, poked one field at a time.

#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

use super::*;

mod selection;
mod tables;

/// Every field, each at a value that is not its default where it can be.
const BASELINE: &str = r#"{
  "membership": {"envoy_admin": {"cluster": "admin", "interval": "2s", "timeout": "250ms"}},
  "defaults": {
    "lb_policy": {"maglev": {"table_size": 251}},
    "hash_policy": [{"path": {}}],
    "circuit_breaker": {"consecutive_failures": 7, "success_rate": {"minimum_requests": 9}},
    "retry": {"num_retries": 3, "budget": {"percent": 30}}
  },
  "clusters": [{
    "name": "backend",
    "match": {"authorities": ["A.example:80"], "path_prefixes": ["/api"]},
    "membership": {"static": {"endpoints": [{
      "address": "10.0.0.1:80", "weight": 2, "priority": 0,
      "locality": {"region": "r", "zone": "z", "sub_zone": "s"}
    }]}},
    "lb_policy": {"ring_hash": {
      "minimum_ring_size": 64, "maximum_ring_size": 128, "hash_function": "murmur_hash_2"
    }},
    "hash_policy": [
      {"header": {"header_name": "X-Key"}, "terminal": true},
      {"cookie": {"name": "sid"}},
      {"connection_properties": {"source_ip": true}},
      {"path": {}}, {"query_parameter": {"name": "Q"}}
    ],
    "circuit_breaker": {
      "consecutive_failures": 6,
      "success_rate": {"threshold_percent": 70, "window": "20s", "minimum_requests": 30},
      "base_ejection_time": "2s", "max_ejection_time": "90s", "ejection_time_jitter_percent": 40,
      "max_ejection_percent": 30, "healthy_panic_threshold": 20
    },
    "retry": {
      "num_retries": 1, "per_try_timeout": "1.5s", "idempotent_methods": ["GET"],
      "budget": {"percent": 10, "min_retries_per_second": 5, "interval": "5s"}
    }
  }]
}"#;

fn ok(json: &str) -> Config {
    parse(json.as_bytes()).unwrap_or_else(|error| panic!("{error}\n{json}"))
}

fn err(json: &str) -> String {
    match parse(json.as_bytes()) {
        Ok(config) => panic!("accepted {json}\nas {config:?}"),
        Err(error) => error.to_string(),
    }
}

/// What the object at a step of a path requires.
fn required(step: &str) -> &'static [(&'static str, &'static str)] {
    match step {
        "clusters[]" => &[("name", r#""backend""#)],
        "endpoints[]" => &[("address", r#""10.0.0.1:80""#)],
        "header" => &[("header_name", r#""x""#)],
        "regex_rewrite" => &[("pattern", r#"{"regex": "a"}"#)],
        "cookie" => &[("name", r#""sid""#)],
        "slow_start" => &[("slow_start_window", r#""30s""#)],
        "zone_aware" => &[("local_cluster", r#""self""#)],
        "subsets" => &[("selectors", r#"[{"key": "k", "header": "h"}]"#)],
        "selectors[]" => &[("key", r#""k""#), ("header", r#""h""#)],
        "session" => &[("cookie", r#"{"name": "sid"}"#), ("secret", r#""sixteen bytes, or more""#)],
        _ => &[],
    }
}

/// A document with `value` at `path`, and what is required around it; without a value,
/// what is required alone.
fn document(path: &str, value: Option<&str>) -> String {
    let mut json = value.map(str::to_owned);
    let mut child = "";
    for (depth, step) in path.rsplit('.').enumerate() {
        let key = step.trim_end_matches("[]");
        if depth > 0 {
            let mut entries: Vec<String> = required(step)
                .iter()
                .filter(|(name, _)| *name != child)
                .map(|(name, value)| format!("\"{name}\": {value}"))
                .collect();
            if (step, child) == ("hash_policy[]", "terminal") {
                entries.push(r#""path": {}"#.into());
            }
            entries.extend(json.map(|json| format!("\"{child}\": {json}")));
            json = Some(format!("{{{}}}", entries.join(", ")));
        }
        if step != key {
            json = json.map(|json| format!("[{json}]"));
        }
        child = key;
    }
    json.map_or("{}".into(), |json| format!("{{\"{child}\": {json}}}"))
}

fn at(path: &str, value: &str) -> String {
    document(path, Some(value))
}

fn indexed(path: &str) -> String {
    path.replace("[]", "[0]")
}

#[test]
fn an_empty_configuration_is_the_defaults_and_so_is_none_at_all() {
    let config = ok("{}");
    assert_eq!(config, Config::default());
    assert_eq!(ok(""), config);
    assert_eq!(ok(" \r\n\t"), config);
    assert_eq!(config.admin.cluster, "outrigger_admin");
    assert_eq!(config.defaults.lb_policy, LbPolicy::RoundRobin { order: TurnOrder::Edf });
    assert_eq!(config.settings("any"), &config.defaults);
    assert!(config.cluster("any").is_none());
}

#[test]
fn every_field_of_the_baseline_arrives() {
    let config = ok(BASELINE);
    assert_eq!(
        config.admin,
        AdminSource {
            cluster: "admin".into(),
            interval: Duration::from_secs(2),
            timeout: Duration::from_millis(250),
        }
    );
    let cluster = config.cluster("backend").unwrap();
    assert_eq!(cluster.matches.authorities, ["a.example:80"]);
    assert_eq!(cluster.matches.path_prefixes, ["/api"]);
    assert!(!cluster.matches.is_empty());
    let endpoints = cluster.static_endpoints.as_ref().unwrap();
    assert_eq!(
        endpoints[0],
        StaticEndpoint {
            address: "10.0.0.1:80".into(),
            weight: 2,
            priority: 0,
            locality: Locality { region: "r".into(), zone: "z".into(), sub_zone: "s".into() },
            metadata: Vec::new(),
        }
    );
    let source = |source, terminal| HashPolicy { source, terminal };
    assert_eq!(
        cluster.settings,
        ClusterSettings {
            lb_policy: LbPolicy::RingHash {
                minimum_ring_size: 64,
                maximum_ring_size: 128,
                hash_function: HashFunction::MurmurHash2,
                hash_balance_factor: 0,
            },
            hash_policy: vec![
                source(HashSource::Header { name: "x-key".into(), rewrite: None }, true),
                source(
                    HashSource::Cookie { name: "sid".into(), ttl: None, path: String::new() },
                    false
                ),
                source(HashSource::SourceIp, false),
                source(HashSource::Path, false),
                source(HashSource::QueryParameter("Q".into()), false),
            ],
            circuit_breaker: CircuitBreaker {
                consecutive_failures: 6,
                success_rate: SuccessRate {
                    threshold_percent: 70,
                    window: Duration::from_secs(20),
                    minimum_requests: 30,
                },
                base_ejection_time: Duration::from_secs(2),
                max_ejection_time: Duration::from_secs(90),
                ejection_time_jitter_percent: 40,
                max_ejection_percent: 30,
                healthy_panic_threshold: 20,
            },
            retry: Retry {
                num_retries: Some(1),
                per_try_timeout: Some(Duration::from_millis(1500)),
                idempotent_methods: vec!["GET".into()],
                budget: Budget {
                    percent: 10,
                    min_retries_per_second: 5,
                    interval: Duration::from_secs(5),
                },
            },
            ..ClusterSettings::default()
        }
    );
}

#[test]
fn a_cluster_merges_over_the_defaults_field_by_field() {
    let config = ok(r#"{
      "defaults": {
        "lb_policy": {"maglev": {"table_size": 251}},
        "hash_policy": [{"path": {}}],
        "circuit_breaker": {"consecutive_failures": 7, "success_rate": {"minimum_requests": 9}},
        "retry": {"num_retries": 3, "per_try_timeout": "1s", "budget": {"percent": 30}}
      },
      "clusters": [
        {"name": "plain"},
        {"name": "own",
         "hash_policy": [],
         "circuit_breaker": {"success_rate": {"window": "1s"}},
         "retry": {"num_retries": null, "budget": {"interval": "2s"}}}
      ]
    }"#);
    assert_eq!(config.settings("plain"), &config.defaults);
    let own = config.settings("own");
    assert_eq!(own.lb_policy, LbPolicy::Maglev { table_size: 251, hash_balance_factor: 0 });
    assert_eq!(own.hash_policy, []);
    assert_eq!(own.circuit_breaker.consecutive_failures, 7);
    assert_eq!(own.circuit_breaker.success_rate.minimum_requests, 9);
    assert_eq!(own.circuit_breaker.success_rate.threshold_percent, 80);
    assert_eq!(own.circuit_breaker.success_rate.window, Duration::from_secs(1));
    assert_eq!(own.retry.num_retries, None, "null takes the default back");
    assert_eq!(own.retry.per_try_timeout, Some(Duration::from_secs(1)));
    assert_eq!(own.retry.budget.percent, 30);
    assert_eq!(own.retry.budget.interval, Duration::from_secs(2));
}

#[test]
fn the_table_of_fields_states_the_defaults_that_hold() {
    for field in FIELDS.iter().filter(|field| field.path != "defaults") {
        if field.default == "required" || field.default.starts_with("unset") {
            continue;
        }
        let explicit = ok(&at(field.path, field.default));
        let config = ok(&document(field.path, None));
        assert_eq!(explicit, config, "{}", field.path);
    }
}

#[test]
fn every_field_refuses_another_type_by_its_own_path() {
    for field in FIELDS {
        let nothing = ["null", "{}", "[]", "true", "\"\\u0000\"", "-0.5"];
        let is_block = field.range == "an object or null";
        let refused: Vec<String> = nothing
            .iter()
            .filter(|value| !(is_block && ["null", "{}"].contains(value)))
            .filter_map(|value| parse(at(field.path, value).as_bytes()).err())
            .map(|error| {
                assert_eq!(error.path, indexed(field.path), "{}", error.reason);
                assert!(error.reason.starts_with("must "), "{error}");
                assert!(error.reason.contains(", got "), "{error}");
                error.to_string()
            })
            .collect();
        assert!(refused.len() >= 4, "{}: {refused:#?}", field.path);
    }
}

#[test]
fn every_number_and_duration_refuses_what_is_out_of_the_range_in_the_table() {
    let mut checked = 0;
    for field in FIELDS {
        let range = field.range.trim_start_matches("a prime in ");
        let Some((least, most)) = range.split_once("..") else {
            continue;
        };
        if most.contains(' ') {
            continue;
        }
        let is_duration = most.ends_with(|c: char| c.is_alphabetic());
        let (low, high) =
            if is_duration { ("\"0s\"", "\"1000000h\"") } else { ("-1", "4294967296") };
        for got in [low, high].into_iter().skip(usize::from(least == "0s")) {
            assert_eq!(
                err(&at(field.path, got)),
                format!("{}: must be {range}, got {got}", indexed(field.path))
            );
        }
        // The ends themselves are in; where another field bounds them, it is set along.
        for end in [least.trim_start_matches("0 or "), most] {
            if field.path.ends_with(".priority") && end != "0" {
                continue;
            }
            let value = if is_duration { format!("\"{end}\"") } else { end.to_owned() };
            let json = at(field.path, &value)
                .replace(
                    "{\"maximum_ring_size\"",
                    "{\"minimum_ring_size\": 1, \"maximum_ring_size\"",
                )
                .replace("{\"max_ejection", "{\"base_ejection_time\": \"10ms\", \"max_ejection")
                .replace(
                    "{\"base_ejection_time\": \"24h\"",
                    "{\"base_ejection_time\": \"24h\", \"max_ejection_time\": \"24h\"",
                );
            ok(&json);
        }
        checked += 1;
    }
    assert_eq!(checked, 43, "fields with a numeric range");
}

#[test]
fn an_unknown_field_is_named_with_those_that_are_known() {
    assert_eq!(
        err(r#"{"cluster": []}"#),
        "cluster: unknown field, did you mean `clusters`? \
         (known here: `membership`, `defaults`, `clusters`)"
    );
    assert_eq!(
        err(r#"{"clusters": [{"name": "a"}, {"name": "b", "retry": {"budget": {"ratio": 1}}}]}"#),
        "clusters[1].retry.budget.ratio: unknown field \
         (known here: `percent`, `min_retries_per_second`, `interval`)"
    );
    assert_eq!(
        err(r#"{"clusters": [{"name": "a", "lb_policy": {"random": {"x": 1}}}]}"#),
        "clusters[0].lb_policy.random.x: unknown field (known here: none)"
    );
    let weird = err("{\"a b\\n\": 1}");
    assert!(weird.starts_with(r#"["a b\n"]: unknown field"#), "{weird}");
    let long = err(&format!("{{\"{}\": 1}}", "é".repeat(1000)));
    assert!(long.len() < 300, "{long}");
}

/// Every object that the reader knows says what is known there; each of those is in the table or
/// leads to it.
#[test]
fn every_known_field_is_in_the_table_at_every_level() {
    let mut prefixes: Vec<String> = vec![String::new()];
    for field in FIELDS {
        let mut path = String::new();
        for step in field.path.split('.') {
            path = if path.is_empty() { step.into() } else { format!("{path}.{step}") };
            prefixes.push(path.clone());
        }
    }
    prefixes.sort();
    prefixes.dedup();
    let is_field = |path: &str| FIELDS.iter().any(|field| field.path == path);
    let mut levels = 0;
    let has_fields = |path: &str| FIELDS.iter().any(|f| f.path.starts_with(&format!("{path}.")));
    for prefix in prefixes.iter().filter(|prefix| !is_field(prefix) || has_fields(prefix)) {
        let json = if prefix.is_empty() {
            r#"{"nonsense": 1}"#.into()
        } else {
            at(&format!("{prefix}.nonsense"), "1")
        };
        let error = err(&json);
        let (path, known) = error.split_once(": unknown field (known here: ").unwrap();
        let dot = if prefix.is_empty() { "" } else { "." };
        assert_eq!(path, indexed(&format!("{prefix}{dot}nonsense")));
        for name in known.trim_end_matches(')').split(", ").map(|name| name.trim_matches('`')) {
            let child = format!("{prefix}{dot}{name}");
            let there =
                prefixes.iter().any(|p| p.trim_end_matches("[]") == child.trim_end_matches("[]"));
            assert!(there, "{child} is read and not in FIELDS");
        }
        levels += 1;
    }
    assert!(levels >= 35, "{levels}");
    let defaults = err(r#"{"defaults": {"name": 1}}"#);
    assert!(defaults.contains(&format!("(known here: {})", raw_range("defaults"))), "{defaults}");
}

fn raw_range(path: &str) -> &'static str {
    FIELDS.iter().find(|field| field.path == path).unwrap().range
}

#[test]
fn a_key_that_is_there_twice_is_refused() {
    assert_eq!(
        err(r#"{"clusters": [{"name": "a", "name": "b"}]}"#),
        "clusters[0].name: must be written once, got it twice"
    );
}

#[test]
fn the_message_is_the_one_that_was_promised() {
    assert_eq!(
        err(r#"{"clusters": [{"name": "a", "retry": {"budget": {"percent": 250}}}]}"#),
        "clusters[0].retry.budget.percent: must be 0..100, got 250"
    );
}

#[test]
fn a_syntax_error_has_its_line_and_column() {
    assert_eq!(
        err("{\n  \"clusters\": [,]\n}"),
        "config: not valid JSON: expected value at line 2 column 16"
    );
    for text in ["{", "nul", "{} {}", "\u{feff}{}", "{\"a\": 1e999}", "'x'", "{\"a\":\"\\ud800\"}"]
    {
        let error = err(text);
        assert!(error.starts_with("config: not valid JSON: "), "{error}");
        assert!(error.contains(" at line 1 column "), "{error}");
    }
    assert!(parse(b"{\"clusters\": [{\"name\": \"\xff\"}]}").is_err());
    assert_eq!(err("[]"), "config: must be an object, got a list");
}

#[test]
fn nesting_and_size_are_bounded() {
    let deep = "[".repeat(100_000);
    assert!(err(&deep).contains("recursion limit exceeded"));
    let nested = format!("{{\"defaults\": {}1{}}}", "[".repeat(100), "]".repeat(100));
    assert_eq!(err(&nested), "defaults: must be an object, got a list");
    let long = " ".repeat(limits::CONFIG_BYTES_MAX + 1);
    assert_eq!(err(&long), "config: must be at most 4194304 bytes, got 4194305");
}

#[test]
fn counts_are_bounded_by_name() {
    let clusters = |n: usize| {
        let items: Vec<String> = (0..n).map(|i| format!(r#"{{"name": "c{i}"}}"#)).collect();
        format!(r#"{{"clusters": [{}]}}"#, items.join(","))
    };
    assert_eq!(ok(&clusters(256)).clusters.len(), 256);
    assert_eq!(err(&clusters(257)), "clusters: must be 0..256 items, got 257");

    let endpoints = |n: u32| {
        let items: Vec<String> = (0..n)
            .map(|i| format!(r#"{{"address": "10.{}.{}.1:80"}}"#, i / 256, i % 256))
            .collect();
        at("clusters[].membership.static.endpoints", &format!("[{}]", items.join(",")))
    };
    let config = ok(&endpoints(10_000));
    assert_eq!(config.clusters[0].static_endpoints.as_ref().unwrap().len(), 10_000);
    for (n, got) in [(0, "0"), (10_001, "10001")] {
        let error = err(&endpoints(n));
        let path = "clusters[0].membership.static.endpoints";
        assert_eq!(error, format!("{path}: must be 1..10000 items, got {got}"));
    }
    for (path, item, most) in [
        ("clusters[].hash_policy", r#"{"path": {}}"#, 16),
        ("clusters[].match.authorities", r#""a""#, 64),
        ("clusters[].match.path_prefixes", r#""/a""#, 64),
        ("clusters[].retry.idempotent_methods", r#""GET""#, 64),
    ] {
        let list = |n: usize| at(path, &format!("[{}]", vec![item; n].join(",")));
        ok(&list(most));
        let error = err(&list(most + 1));
        assert_eq!(error, format!("{}: must be 0..{most} items, got {}", indexed(path), most + 1));
    }
}

#[test]
fn names_have_a_length_and_no_control_characters() {
    for path in ["clusters[].name", "membership.envoy_admin.cluster"] {
        let path_shown = indexed(path);
        assert_eq!(
            err(&at(path, "\"\"")),
            format!("{path_shown}: must be 1..255 bytes, got 0 bytes")
        );
        let long = format!("\"{}\"", "n".repeat(256));
        assert!(err(&at(path, &long)).ends_with("got 256 bytes"));
        assert!(err(&at(path, r#""a\nb""#)).contains("control characters, got \"a\\nb\""));
        ok(&at(path, r#""outbound|80||svc.ns.svc.cluster.local""#));
        ok(&at(path, r#""größe""#));
    }
    assert_eq!(err(r#"{"clusters": [{}]}"#), "clusters[0].name: is required, got nothing");
    assert_eq!(
        err(r#"{"clusters": [{"name": "a"}, {"name": "b"}, {"name": "a"}]}"#),
        "clusters[2].name: must be unique, got \"a\" again (first in clusters[0])"
    );
}

#[test]
fn addresses_are_spelt_as_envoy_spells_them() {
    let path = "clusters[].membership.static.endpoints[].address";
    for (given, spelt) in [
        ("10.0.0.1:80", "10.0.0.1:80"),
        ("10.0.0.1:65535", "10.0.0.1:65535"),
        ("[::1]:8080", "[::1]:8080"),
        ("[2001:DB8:0:0:0:0:0:12]:443", "[2001:db8::12]:443"),
        ("[::ffff:10.0.0.9]:443", "[::ffff:10.0.0.9]:443"),
    ] {
        let config = ok(&at(path, &format!("\"{given}\"")));
        assert_eq!(config.clusters[0].static_endpoints.as_ref().unwrap()[0].address, spelt);
    }
    for (given, remedy) in [
        ("db.local:80", "host names are not looked up"),
        ("localhost", "host names are not looked up"),
        ("10.0.0.1", "add the port"),
        ("::1", "put the address in brackets and add the port"),
        ("::1:8080", "put the address in brackets and add the port"),
        ("10.0.0.1:0", "the port must be 1..65535"),
        ("10.0.0.1:65536", "host names are not looked up"),
        ("10.0.0.01:80", "host names are not looked up"),
        (" 10.0.0.1:80", "host names are not looked up"),
        ("10.0.0.1:80,10.0.0.2:80", "host names are not looked up"),
    ] {
        let error = err(&at(path, &format!("\"{given}\"")));
        let start = format!("{}: must be ip:port or [ipv6]:port, got \"{given}\": ", indexed(path));
        assert!(error.starts_with(&start) && error.contains(remedy), "{error}");
    }
}

#[test]
fn endpoints_of_a_cluster_are_unique_and_sum_up_and_leave_no_priority_out() {
    let of = |items: &str| at("clusters[].membership.static.endpoints", items);
    let path = "clusters[0].membership.static.endpoints";
    assert_eq!(
        err(&of(r#"[{"address": "[::1]:1"}, {"address": "[0:0::1]:1"}]"#)),
        format!(
            "{path}[1].address: must be unique in the cluster, got \"[::1]:1\" again \
             (first in endpoints[0])"
        )
    );
    assert_eq!(
        err(&of(r#"[{"address": "1.1.1.1:1", "weight": 4294967295}, {"address": "1.1.1.2:1"}]"#)),
        format!("{path}: weights must sum to at most 4294967295, got 4294967296")
    );
    assert_eq!(
        err(&of(r#"[{"address": "1.1.1.1:1"}, {"address": "1.1.1.2:1", "priority": 2}]"#)),
        format!("{path}: priorities must be used from 0 without a gap, got 2 and no 1")
    );
    ok(&of(r#"[{"address": "1.1.1.1:1", "priority": 1}, {"address": "1.1.1.2:1"}]"#));
    assert_eq!(
        err(&of(r#"[{"weight": 1}]"#)),
        format!("{path}[0].address: is required, got nothing")
    );
    assert_eq!(
        err(&at("clusters[].membership.static", "{}")),
        format!("{path}: is required, got nothing")
    );
}

#[test]
fn fields_that_bound_each_other_are_checked_where_they_were_written() {
    assert_eq!(
        err(r#"{"clusters": [{"name": "a", "circuit_breaker": {"base_ejection_time": "2m"}}]}"#),
        "clusters[0].circuit_breaker.base_ejection_time: must be at most max_ejection_time (1m), \
         got \"2m\""
    );
    assert_eq!(
        err(r#"{"defaults": {"circuit_breaker": {"max_ejection_time": "500ms"}}}"#),
        "defaults.circuit_breaker.max_ejection_time: must be at least base_ejection_time (1s), \
         got \"500ms\""
    );
    assert_eq!(
        err(&at("clusters[].lb_policy.ring_hash.maximum_ring_size", "512")),
        "clusters[0].lb_policy.ring_hash.maximum_ring_size: must be at least minimum_ring_size \
         (1024), got 512"
    );
    assert_eq!(
        err(&at("clusters[].lb_policy.maglev.table_size", "65536")),
        "clusters[0].lb_policy.maglev.table_size: must be a prime, got 65536: the next prime is \
         65537"
    );
    for prime in ["2", "3", "5", "251", "65537", "5000011"] {
        ok(&at("clusters[].lb_policy.maglev.table_size", prime));
    }
    for composite in ["4", "9", "25", "65535", "4995221"] {
        err(&at("clusters[].lb_policy.maglev.table_size", composite));
    }
}

#[test]
fn one_policy_is_chosen_not_none_nor_two() {
    assert_eq!(
        err(&at("clusters[].lb_policy", "{}")),
        "clusters[0].lb_policy: must have one of `round_robin`, `random`, `least_request`, \
         `peak_ewma`, `ring_hash`, `maglev`, `rendezvous`, got none"
    );
    assert_eq!(
        err(&at("clusters[].lb_policy", r#"{"maglev": {}, "round_robin": {}}"#)),
        "clusters[0].lb_policy: must have one of `round_robin`, `random`, `least_request`, \
         `peak_ewma`, `ring_hash`, `maglev`, `rendezvous`, got both `round_robin` and `maglev`"
    );
    assert_eq!(
        err(&at("clusters[].hash_policy", r#"[{"path": {}}, {"terminal": true}]"#)),
        "clusters[0].hash_policy[1]: must have one of `header`, `cookie`, \
         `connection_properties`, `path`, `query_parameter`, got none"
    );
    assert_eq!(
        err(&at("clusters[].hash_policy[].connection_properties.source_ip", "false")),
        "clusters[0].hash_policy[0].connection_properties.source_ip: must be true, got false: \
         leave the item out instead"
    );
    let unknown = err(&at("clusters[].lb_policy.ring_hash.hash_function", "\"XX_HASH\""));
    assert!(unknown.ends_with("must be \"xx_hash\" or \"murmur_hash_2\", got \"XX_HASH\""));
}

#[test]
fn what_goes_into_headers_is_a_token() {
    let header = "clusters[].hash_policy[].header.header_name";
    ok(&at(header, "\":authority\""));
    for bad in ["x key", "x:y", ":bad", "naïve", "x\\u0000y"] {
        let error = err(&at(header, &format!("\"{bad}\"")));
        assert!(error.contains("must be an HTTP token"), "{error}");
    }
    let methods = "clusters[].retry.idempotent_methods";
    ok(&at(methods, "[]"));
    assert_eq!(
        err(&at(methods, r#"["GET", "get"]"#)),
        "clusters[0].retry.idempotent_methods[1]: must be upper case, got \"get\": methods are \
         case-sensitive, write \"GET\""
    );
    assert!(err(&at(methods, r#"["GE T"]"#)).contains("HTTP token"));
    let wild = err(&at("clusters[].match.authorities", r#"["*.example"]"#));
    assert!(wild.starts_with("clusters[0].match.authorities[0]: must be a whole host name"));
    for bad in [r#"["a b"]"#, r#"["a/b"]"#, r#"["é"]"#] {
        err(&at("clusters[].match.authorities", bad));
    }
    assert_eq!(
        err(&at("clusters[].match.path_prefixes", r#"["/a", "b"]"#)),
        "clusters[0].match.path_prefixes[1]: must be visible ASCII beginning with \"/\", got \"b\""
    );
}

#[test]
fn numbers_and_durations_say_how_to_write_them() {
    let percent = "clusters[].retry.budget.percent";
    assert_eq!(ok(&at(percent, "5.0")), ok(&at(percent, "5")), "a protobuf Struct prints doubles");
    for (value, reason) in [
        ("\"20\"", "must be a whole number, got \"20\""),
        ("0.5", "must be a whole number, got 0.5"),
        ("-1", "must be 0..100, got -1"),
        ("1e300", "must be 0..100, got 1"),
        ("18446744073709551616", "must be 0..100, got 18446744073709552000"),
        ("true", "must be a whole number, got true"),
        ("null", "must be a whole number, got null"),
    ] {
        let error = err(&at(percent, value));
        assert!(error.starts_with(&format!("{}: {reason}", indexed(percent))), "{error}");
    }
    let interval = "clusters[].retry.budget.interval";
    for (value, reason) in [
        ("10", "must be a duration, got 10: write the unit, as in \"10s\""),
        ("1.5", "must be a duration such as \"250ms\" or \"1.5s\", got 1.5"),
        (
            "\"1m30s\"",
            "must be a duration, got \"1m30s\": write one number and one of ms, s, m, h, as in \
             \"250ms\" or \"1.5s\"",
        ),
        ("\"500ms\"", "must be 1s..1m, got \"500ms\""),
    ] {
        assert_eq!(err(&at(interval, value)), format!("{}: {reason}", indexed(interval)));
    }
}

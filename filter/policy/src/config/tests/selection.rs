//! The blocks that say which endpoint serves.

#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

use super::*;

fn policy(json: &str) -> LbPolicy {
    ok(&at("clusters[].lb_policy", json)).clusters[0].settings.lb_policy
}

fn settings(block: &str, json: &str) -> ClusterSettings {
    ok(&at(&format!("clusters[].{block}"), json)).clusters[0].settings.clone()
}

const ALL: &str = r#"{
  "overprovisioning_factor": 150,
  "slow_start": {"slow_start_window": "1m", "aggression": 1.5, "min_weight_percent": 5},
  "orca_weights": {
    "blackout_period": "0s", "weight_expiration_period": "1m", "weight_update_period": "250ms",
    "error_utilization_penalty": 2.25
  },
  "zone_aware": {
    "local_cluster": "self", "local_zone": "z", "routing_enabled": 90, "min_cluster_size": 3
  },
  "subsets": {
    "selectors": [{"key": "version", "header": "X-Version"}, {"key": "v2", "header": ":path"}],
    "fallback": "no_fallback"
  },
  "random_subsetting": {"subset_size": 20},
  "session": {
    "cookie": {"name": "sid", "path": "/a", "ttl": "1h"}, "secret": "0123456789abcdef"
  }
}"#;

fn all() -> ClusterSettings {
    ClusterSettings {
        overprovisioning_factor: 150,
        slow_start: Some(SlowStart {
            window: Duration::from_secs(60),
            aggression_milli: 1500,
            min_weight_percent: 5,
        }),
        orca_weights: Some(OrcaWeights {
            blackout_period: Duration::ZERO,
            weight_expiration_period: Duration::from_secs(60),
            weight_update_period: Duration::from_millis(250),
            error_utilization_penalty_milli: 2250,
        }),
        zone_aware: Some(ZoneAware {
            local_cluster: "self".into(),
            local_zone: "z".into(),
            routing_enabled_percent: 90,
            min_cluster_size: 3,
        }),
        subsets: Some(Subsets {
            selectors: vec![("version".into(), "x-version".into()), ("v2".into(), ":path".into())],
            fallback: SubsetFallback::NoFallback,
        }),
        random_subsetting: Some(RandomSubsetting { subset_size: 20 }),
        session: Some(Session {
            cookie_name: "sid".into(),
            cookie_path: "/a".into(),
            ttl: Duration::from_secs(3600),
            secret: "0123456789abcdef".into(),
        }),
        ..ClusterSettings::default()
    }
}

#[test]
fn every_policy_has_its_own_defaults_and_takes_its_own_fields() {
    for (json, expected) in [
        (r#"{"round_robin": {}}"#, LbPolicy::RoundRobin { order: TurnOrder::Edf }),
        (
            r#"{"round_robin": {"order": "smooth"}}"#,
            LbPolicy::RoundRobin { order: TurnOrder::Smooth },
        ),
        (r#"{"random": {}}"#, LbPolicy::Random),
        (
            r#"{"least_request": {}}"#,
            LbPolicy::LeastRequest {
                choice_count: 2,
                active_request_bias_milli: 1000,
                full_scan: false,
            },
        ),
        (
            r#"{"least_request": {
                "choice_count": 3, "active_request_bias": 0.125, "selection_method": "full_scan"
            }}"#,
            LbPolicy::LeastRequest {
                choice_count: 3,
                active_request_bias_milli: 125,
                full_scan: true,
            },
        ),
        (
            r#"{"peak_ewma": {}}"#,
            LbPolicy::PeakEwma {
                choice_count: 2,
                decay_time: Duration::from_secs(10),
                default_rtt: Duration::from_millis(30),
            },
        ),
        (
            r#"{"peak_ewma": {"choice_count": 5, "decay_time": "5s", "default_rtt": "1ms"}}"#,
            LbPolicy::PeakEwma {
                choice_count: 5,
                decay_time: Duration::from_secs(5),
                default_rtt: Duration::from_millis(1),
            },
        ),
        (
            r#"{"ring_hash": {"hash_balance_factor": 150}}"#,
            LbPolicy::RingHash {
                minimum_ring_size: 1024,
                maximum_ring_size: 8_388_608,
                hash_function: HashFunction::XxHash,
                hash_balance_factor: 150,
            },
        ),
        (
            r#"{"maglev": {"hash_balance_factor": 100}}"#,
            LbPolicy::Maglev { table_size: 65_537, hash_balance_factor: 100 },
        ),
        (
            r#"{"rendezvous": {}}"#,
            LbPolicy::Rendezvous { table_size: 65_536, hash_balance_factor: 0 },
        ),
        (
            r#"{"rendezvous": {"table_size": 12, "hash_balance_factor": 200}}"#,
            LbPolicy::Rendezvous { table_size: 12, hash_balance_factor: 200 },
        ),
    ] {
        assert_eq!(policy(json), expected, "{json}");
    }
}

#[test]
fn every_field_of_every_block_arrives_in_a_cluster_and_in_the_defaults() {
    let config = ok(&format!(r#"{{"defaults": {ALL}}}"#));
    assert_eq!(config.defaults, all());
    let cluster = ALL.replacen('{', r#"{"name": "backend", "#, 1);
    let config = ok(&format!(r#"{{"clusters": [{cluster}]}}"#));
    assert_eq!(config.settings("backend"), &all());
    assert_eq!(config.defaults, ClusterSettings::default());
}

#[test]
fn a_block_replaces_that_of_the_defaults_whole_and_null_switches_it_off() {
    let config = ok(&format!(
        r#"{{"defaults": {ALL}, "clusters": [
          {{"name": "same"}},
          {{"name": "off", "slow_start": null, "orca_weights": null, "zone_aware": null,
            "subsets": null, "random_subsetting": null, "session": null,
            "overprovisioning_factor": 140}},
          {{"name": "own", "slow_start": {{"slow_start_window": "5s"}}, "orca_weights": {{}},
            "zone_aware": {{"local_cluster": "other"}},
            "subsets": {{"selectors": [{{"key": "k", "header": "h"}}]}},
            "session": {{"cookie": {{"name": "s2"}}, "secret": "fedcba9876543210"}}}}
        ]}}"#
    ));
    assert_eq!(config.settings("same"), &all());
    assert_eq!(config.settings("off"), &ClusterSettings::default());
    let expected = ClusterSettings {
        slow_start: Some(SlowStart {
            window: Duration::from_secs(5),
            aggression_milli: 1000,
            min_weight_percent: 10,
        }),
        orca_weights: Some(OrcaWeights {
            blackout_period: Duration::from_secs(10),
            weight_expiration_period: Duration::from_secs(180),
            weight_update_period: Duration::from_secs(1),
            error_utilization_penalty_milli: 1000,
        }),
        zone_aware: Some(ZoneAware {
            local_cluster: "other".into(),
            local_zone: String::new(),
            routing_enabled_percent: 100,
            min_cluster_size: 6,
        }),
        subsets: Some(Subsets {
            selectors: vec![("k".into(), "h".into())],
            fallback: SubsetFallback::AnyEndpoint,
        }),
        session: Some(Session {
            cookie_name: "s2".into(),
            cookie_path: "/".into(),
            ttl: Duration::ZERO,
            secret: "fedcba9876543210".into(),
        }),
        ..all()
    };
    assert_eq!(config.settings("own"), &expected);
}

#[test]
fn thousandths_are_exact_and_more_decimals_are_refused() {
    let path = "clusters[].slow_start.aggression";
    for milli in 1..=10_000_u32 {
        let text = format!("{}.{:03}", milli / 1000, milli % 1000);
        let read = ok(&at(path, &text)).clusters[0].settings.slow_start.unwrap();
        assert_eq!(read.aggression_milli, milli, "{text}");
    }
    for (text, milli) in [("1", 1000), ("1.50", 1500), ("1e-3", 1), ("1e1", 10_000)] {
        let read = ok(&at(path, text)).clusters[0].settings.slow_start.unwrap();
        assert_eq!(read.aggression_milli, milli, "{text}");
    }
    for (text, reason) in [
        ("0", "must be 0.001..10, got 0"),
        ("0.0001", "must be 0.001..10, got 0.0001"),
        ("10.001", "must be 0.001..10, got 10.001"),
        ("1.0005", "must be a number of at most 3 decimals, got 1.0005"),
        ("0.3333333333333333", "must be a number of at most 3 decimals, got 0.3333333333333333"),
        ("-1", "must be 0.001..10, got -1"),
        ("1e300", "must be 0.001..10, got 1"),
        ("\"1\"", "must be a number, got \"1\""),
    ] {
        let error = err(&at(path, text));
        assert!(error.starts_with(&format!("{}: {reason}", indexed(path))), "{error}");
    }
}

#[test]
fn what_is_one_of_a_few_words_says_which() {
    for (path, words) in [
        ("clusters[].lb_policy.round_robin.order", r#""edf" or "smooth""#),
        ("clusters[].lb_policy.least_request.selection_method", r#""n_choices" or "full_scan""#),
        ("clusters[].subsets.fallback", r#""any_endpoint" or "no_fallback""#),
    ] {
        assert_eq!(
            err(&at(path, "\"EDF\"")),
            format!("{}: must be {words}, got \"EDF\"", indexed(path))
        );
    }
}

#[test]
fn a_balance_factor_is_off_or_at_least_the_mean() {
    for kind in ["ring_hash", "maglev", "rendezvous"] {
        let path = format!("clusters[].lb_policy.{kind}.hash_balance_factor");
        for good in ["0", "100", "1000000", "125.0"] {
            ok(&at(&path, good));
        }
        for bad in ["1", "99", "1000001", "true", "150.5"] {
            let path_shown = indexed(&path);
            let reason = format!("must be 0 or 100..1000000, got {bad}");
            assert_eq!(err(&at(&path, bad)), format!("{path_shown}: {reason}"));
        }
    }
}

#[test]
fn a_rewrite_is_compiled_before_it_is_accepted() {
    let path = "clusters[].hash_policy[].header.regex_rewrite.pattern.regex";
    let rewrite = |json: &str| {
        let path = "clusters[].hash_policy[].header.regex_rewrite";
        match &ok(&at(path, json)).clusters[0].settings.hash_policy[0].source {
            HashSource::Header { name, rewrite } => (name.clone(), rewrite.clone().unwrap()),
            other => panic!("{other:?}"),
        }
    };
    let (name, read) = rewrite(r#"{"pattern": {"regex": "^/(\\w+)/.*"}, "substitution": "\\1"}"#);
    assert_eq!(name, "x");
    assert_eq!((read.pattern.as_str(), read.substitution.as_str()), (r"^/(\w+)/.*", r"\1"));
    let (_, read) = rewrite(r#"{"pattern": {"regex": "a"}}"#);
    assert_eq!(read.substitution, "");

    for bad in ["(", "*a", "[z-a]", r"\\1", "(?=a)", r"\\p{L}", "x{2,1}", "(?P<n>"] {
        let error = err(&at(path, &format!("\"{bad}\"")));
        let start = format!("{}: must be a pattern of RE2, got ", indexed(path));
        assert!(error.starts_with(&start), "{error}");
        assert!(error.len() < 300 && !error.contains('\n'), "{error}");
    }
    for large in ["(((a{100}){100}){100}){100}".into(), "(".repeat(512), "a{4000000000}".into()] {
        err(&at(path, &format!("\"{large}\"")));
    }
    ok(&at(path, &format!("\"[{}]\"", "ab".repeat(255))));
    let error = err(&at(path, &format!("\"{}\"", "a".repeat(513))));
    assert!(error.ends_with("must be 1..512 bytes, got 513 bytes"), "{error}");
    assert!(err(&at(path, "\"\"")).ends_with("must be 1..512 bytes, got 0 bytes"));
}

#[test]
fn a_substitution_names_only_groups_that_are_there() {
    let path = "clusters[].hash_policy[].header.regex_rewrite";
    let json = |pattern: &str, text: &str| {
        let (pattern, text) = (pattern.replace('\\', r"\\"), text.replace('\\', r"\\"));
        at(path, &format!(r#"{{"pattern": {{"regex": "{pattern}"}}, "substitution": "{text}"}}"#))
    };
    for (pattern, text) in [
        ("a", ""),
        ("a", r"\0"),
        ("(a)", r"x\1y\1"),
        ("(a)(b)", r"\2\1"),
        ("(a)", r"\\2"),
        ("a", r"\\"),
        ("(a)", r"\12"),
        ("a", "$1"),
    ] {
        ok(&json(pattern, text));
    }
    for (pattern, text) in
        [("a", r"\1"), ("(?:a)", r"\1"), ("(a)", r"\2"), ("a", r"\"), ("a", r"\\\"), ("a", r"\n")]
    {
        let error = err(&json(pattern, text));
        let start = format!("{}.substitution: must be a substitution of RE2, got ", indexed(path));
        assert!(error.starts_with(&start), "{error}");
    }
}

#[test]
fn a_cookie_to_hash_may_be_made_and_a_life_is_whole_seconds() {
    let read = |json: &str| match &settings("hash_policy", json).hash_policy[0].source {
        HashSource::Cookie { name, ttl, path } => (name.clone(), *ttl, path.clone()),
        other => panic!("{other:?}"),
    };
    assert_eq!(read(r#"[{"cookie": {"name": "c"}}]"#), ("c".into(), None, String::new()));
    assert_eq!(
        read(r#"[{"cookie": {"name": "c", "ttl": "0s", "path": "/"}}]"#),
        ("c".into(), Some(Duration::ZERO), "/".into())
    );
    for path in ["clusters[].hash_policy[].cookie", "clusters[].session.cookie"] {
        ok(&at(&format!("{path}.ttl"), "\"2000ms\""));
        assert_eq!(
            err(&at(&format!("{path}.ttl"), "\"1500ms\"")),
            format!("{}.ttl: must be whole seconds, got \"1500ms\"", indexed(path))
        );
        for bad in ["a", "/a;Secure", "/a b", "/\\u000a", "/é"] {
            let error = err(&at(&format!("{path}.path"), &format!("\"{bad}\"")));
            assert!(error.contains("must be visible ASCII"), "{error}");
        }
        for bad in ["a=b", "a;b", "a b", "é"] {
            let error = err(&at(&format!("{path}.name"), &format!("\"{bad}\"")));
            assert!(error.contains("must be an HTTP token"), "{error}");
        }
    }
    err(&at("clusters[].session.cookie.path", "\"\""));
}

#[test]
fn a_secret_is_in_no_error_and_in_no_debug_output() {
    let path = "clusters[].session.secret";
    let long = "hunter2".repeat(40);
    for (value, reason) in [
        (r#""hunter2""#.to_owned(), "must be 16..255 bytes, got 7 bytes"),
        (format!("\"{long}\""), "must be 16..255 bytes, got 280 bytes"),
        ("72".repeat(8), "must be a string, got something else"),
        (r#"["hunter2"]"#.to_owned(), "must be a string, got something else"),
        (r#"{"hunter2": 1}"#.to_owned(), "must be a string, got something else"),
    ] {
        let error = err(&at(path, &value));
        assert_eq!(error, format!("{}: {reason}", indexed(path)));
        assert!(!error.contains("hunter2") && !error.contains("7272"), "{error}");
    }
    let config = ok(&at(path, r#""hunter2hunter2hunter2""#));
    assert_eq!(
        config.clusters[0].settings.session.as_ref().unwrap().secret,
        "hunter2hunter2hunter2"
    );
    assert!(!format!("{config:?} {config:#?}").contains("hunter2"));
    ok(&at(path, &format!("\"{}\"", "ü".repeat(127))));
}

#[test]
fn metadata_is_sorted_text_by_unique_keys() {
    let path = "clusters[].membership.static.endpoints[].metadata";
    let read = |json: &str| {
        ok(&at(path, json)).clusters[0].static_endpoints.as_ref().unwrap()[0].metadata.clone()
    };
    let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    assert_eq!(read("{}"), []);
    assert_eq!(read(r#"{"stage": "prod", "a b": ""}"#), [pair("a b", ""), pair("stage", "prod")]);
    let many = |n: usize| {
        let entries: Vec<String> = (0..n).map(|i| format!("\"k{i}\": \"v\"")).collect();
        format!("{{{}}}", entries.join(", "))
    };
    assert_eq!(read(&many(16)).len(), 16);
    let base = indexed(path);
    assert_eq!(err(&at(path, &many(17))), format!("{base}: must be 0..16 items, got 17"));
    assert_eq!(err(&at(path, r#"{"k": 1}"#)), format!("{base}.k: must be a string, got 1"));
    assert_eq!(
        err(&at(path, r#"{"k": "a", "k": "b"}"#)),
        format!("{base}.k: must be written once, got it twice")
    );
    assert_eq!(
        err(&at(path, r#"{"": "a"}"#)),
        format!("{base}[\"\"]: key must be 1..255 bytes, got 0 bytes")
    );
    let long = "v".repeat(256);
    assert_eq!(
        err(&at(path, &format!("{{\"k\": \"{long}\"}}"))),
        format!("{base}.k: must be 0..255 bytes, got 256 bytes")
    );
    let error = err(&at(path, &format!("{{\"{long}\": \"v\"}}")));
    assert!(error.ends_with("key must be 1..255 bytes, got 256 bytes"), "{error}");
}

#[test]
fn selectors_are_few_and_their_keys_differ() {
    let path = "clusters[].subsets.selectors";
    let list = |n: usize| {
        let items: Vec<String> =
            (0..n).map(|i| format!(r#"{{"key": "k{i}", "header": "h"}}"#)).collect();
        format!("[{}]", items.join(", "))
    };
    ok(&at(path, &list(8)));
    for n in [0, 9] {
        let error = err(&at(path, &list(n)));
        assert_eq!(error, format!("{}: must be 1..8 items, got {n}", indexed(path)));
    }
    assert_eq!(
        err(&at(path, r#"[{"key": "k", "header": "a"}, {"key": "k", "header": "b"}]"#)),
        format!(
            "{}[1].key: must be unique, got \"k\" again (first in selectors[0])",
            indexed(path)
        )
    );
    let error = err(&at(path, r#"[{"key": "k", "header": "a b"}]"#));
    assert!(error.contains("selectors[0].header: must be an HTTP token"), "{error}");
}

#[test]
fn what_a_block_cannot_do_without_is_missed_by_name() {
    for (block, json, missing) in [
        ("slow_start", "{}", "slow_start_window"),
        ("zone_aware", "{}", "local_cluster"),
        ("subsets", "{}", "selectors"),
        ("subsets", r#"{"selectors": [{"header": "h"}]}"#, "selectors[0].key"),
        ("subsets", r#"{"selectors": [{"key": "k"}]}"#, "selectors[0].header"),
        ("random_subsetting", "{}", "subset_size"),
        ("session", r#"{"secret": "0123456789abcdef"}"#, "cookie"),
        ("session", r#"{"cookie": {}, "secret": "0123456789abcdef"}"#, "cookie.name"),
        ("session", r#"{"cookie": {"name": "a"}}"#, "secret"),
        ("hash_policy", r#"[{"query_parameter": {}}]"#, "[0].query_parameter.name"),
        ("hash_policy", r#"[{"header": {}}]"#, "[0].header.header_name"),
    ] {
        let error = err(&at(&format!("clusters[].{block}"), json));
        let dot = if missing.starts_with('[') { "" } else { "." };
        let path = format!("clusters[0].{block}{dot}{missing}");
        assert_eq!(error, format!("{path}: is required, got nothing"));
    }
}

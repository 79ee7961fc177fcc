//! Properties of the configuration: no input traps, and what is accepted is stable.
#![cfg(not(target_arch = "wasm32"))]
#![allow(clippy::indexing_slicing, reason = "a test")]

use std::{collections::BTreeMap, time::Duration};

use outrigger_policy::config::{
    self, ClusterConfig, ClusterSettings, Config, FIELDS, HashFunction, HashPolicy, HashSource,
    LbPolicy, StaticEndpoint, SubsetFallback, TurnOrder, limits,
};
use proptest::{collection::vec, prelude::*};
use serde_json::{Map, Value, json};

/// Any JSON, made of the configuration's own keys more often than not.
fn any_json() -> impl Strategy<Value = Value> {
    let keys: Vec<String> = FIELDS
        .iter()
        .flat_map(|field| field.path.split('.'))
        .map(|step| step.trim_end_matches("[]").to_owned())
        .chain(["nonsense".to_owned(), String::new(), "a b".to_owned()])
        .collect();
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (0_u64..200).prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,20}".prop_map(Value::from),
        "[0-9]{1,3}(ms|s|m|h)".prop_map(Value::from),
        "[0-9.:\\[\\]]{1,20}".prop_map(Value::from),
    ];
    leaf.prop_recursive(8, 64, 6, move |inner| {
        let entries = vec((prop::sample::select(keys.clone()), inner.clone()), 0..6);
        prop_oneof![
            vec(inner, 0..4).prop_map(Value::from),
            entries.prop_map(|entries| Value::Object(entries.into_iter().collect::<Map<_, _>>())),
        ]
    })
}

fn duration(ms: std::ops::RangeInclusive<u64>) -> impl Strategy<Value = Value> {
    ms.prop_map(|ms| Value::from(format!("{ms}ms")))
}

/// A valid `circuit_breaker` block with every field.
fn breaker() -> impl Strategy<Value = Value> {
    let rate = (0_u32..=100, duration(100..=600_000), 1_u32..=1_000_000);
    let times = (10_u64..=1000, 1000_u64..=86_400_000);
    (0_u32..=1000, rate, times, 0_u32..=100, 0_u32..=100, 0_u32..=100).prop_map(
        |(failures, (threshold, window, minimum), (base, max), jitter, most, panic)| {
            json!({
                "consecutive_failures": failures,
                "success_rate": {
                    "threshold_percent": threshold, "window": window, "minimum_requests": minimum
                },
                "base_ejection_time": format!("{base}ms"),
                "max_ejection_time": format!("{max}ms"),
                "ejection_time_jitter_percent": jitter,
                "max_ejection_percent": most,
                "healthy_panic_threshold": panic,
            })
        },
    )
}

/// A valid `retry` block with every field.
fn retry() -> impl Strategy<Value = Value> {
    let budget = (0_u32..=100, 0_u32..=1_000_000, duration(1000..=60_000));
    let tries = prop::option::of(0_u32..=10);
    let timeout = prop::option::of(duration(1..=3_600_000));
    (tries, timeout, vec("[A-Z]{1,32}", 0..4), budget).prop_map(
        |(tries, timeout, methods, (percent, least, interval))| {
            json!({
                "num_retries": tries,
                "per_try_timeout": timeout,
                "idempotent_methods": methods,
                "budget": {
                    "percent": percent, "min_retries_per_second": least, "interval": interval
                },
            })
        },
    )
}

fn thousandths(milli: std::ops::RangeInclusive<u32>) -> impl Strategy<Value = Value> {
    milli.prop_map(|milli| Value::from(f64::from(milli) / 1000.0))
}

fn balance() -> impl Strategy<Value = u32> {
    prop_oneof![Just(0), 100_u32..=1_000_000]
}

/// Every policy with every field.
fn lb_policy() -> impl Strategy<Value = Value> {
    let sizes = (1_u64..=64, 64_u64..=8_388_608, balance());
    let function = prop::sample::select(vec!["xx_hash", "murmur_hash_2"]);
    let method = prop::sample::select(vec!["n_choices", "full_scan"]);
    prop_oneof![
        prop::sample::select(vec!["edf", "smooth"])
            .prop_map(|order| json!({"round_robin": {"order": order}})),
        Just(json!({"random": {}})),
        (2_u32..=10, thousandths(0..=10_000), method).prop_map(|(count, bias, method)| {
            json!({"least_request": {
                "choice_count": count, "active_request_bias": bias, "selection_method": method
            }})
        }),
        (2_u32..=10, duration(100..=600_000), duration(1..=60_000)).prop_map(
            |(count, decay, rtt)| json!({"peak_ewma": {
                "choice_count": count, "decay_time": decay, "default_rtt": rtt
            }})
        ),
        (sizes, function).prop_map(|((least, most, balance), function)| json!({"ring_hash": {
            "minimum_ring_size": least, "maximum_ring_size": most, "hash_function": function,
            "hash_balance_factor": balance
        }})),
        (prop::sample::select(vec![2, 251, 65_537, 5_000_011]), balance()).prop_map(
            |(size, balance)| json!({"maglev": {
                "table_size": size, "hash_balance_factor": balance
            }})
        ),
        (1_u64..=1_048_576, balance()).prop_map(|(size, balance)| json!({"rendezvous": {
            "table_size": size, "hash_balance_factor": balance
        }})),
    ]
}

/// Every source of a hash with every field.
fn hash_policy() -> impl Strategy<Value = Value> {
    let rewrite = prop_oneof![
        Just(json!({"pattern": {"regex": "^/(\\w+)"}, "substitution": "\\1"})),
        "[a-z]{1,9}".prop_map(|regex| json!({"pattern": {"regex": regex}})),
    ];
    let ttl = (0_u32..=1_000_000).prop_map(|s| format!("{s}s"));
    let source = prop_oneof![
        "[a-z-]{1,9}".prop_map(|name| json!({"header": {"header_name": name}})),
        ("[a-z-]{1,9}", rewrite).prop_map(|(name, rewrite)| {
            json!({"header": {"header_name": name, "regex_rewrite": rewrite}})
        }),
        "[A-Za-z]{1,9}".prop_map(|name| json!({"cookie": {"name": name}})),
        ("[a-z]{1,9}", ttl, "(/[a-z]{0,9})?").prop_map(|(name, ttl, path)| json!({"cookie": {
            "name": name, "ttl": ttl, "path": path
        }})),
        Just(json!({"connection_properties": {"source_ip": true}})),
        Just(json!({"path": {}})),
        "[ -~]{1,9}".prop_map(|name| json!({"query_parameter": {"name": name}})),
    ];
    let policy = (source, any::<bool>()).prop_map(|(mut source, terminal)| {
        source["terminal"] = terminal.into();
        source
    });
    let at_most_one_is_generated = |mut policies: Vec<Value>| {
        let mut generated = false;
        policies.retain(|policy| {
            policy["cookie"]["ttl"].is_null() || !core::mem::replace(&mut generated, true)
        });
        Value::from(policies)
    };
    vec(policy, 0..5).prop_map(at_most_one_is_generated)
}

/// The other blocks of the selection, each with every field, or `null`.
fn selection() -> impl Strategy<Value = Value> {
    let slow_start = (duration(1000..=86_400_000), thousandths(1..=10_000), 0_u32..=100);
    let periods = (duration(0..=3_600_000), duration(1000..=86_400_000), duration(100..=3_600_000));
    let zone_aware = ("[ -~]{1,20}", "[ -~]{0,20}", 0_u32..=100, 0_u32..=10_000);
    let selectors = prop::collection::btree_map("[ -~]{1,20}", "[a-z-]{1,20}", 1..=8);
    let fallback = prop::sample::select(vec!["any_endpoint", "no_fallback"]);
    let cookie = ("[a-z]{1,9}", "/[a-z]{0,9}", 0_u32..=1_000_000);
    (
        prop::option::of(slow_start),
        prop::option::of((periods, thousandths(0..=100_000))),
        100_u32..=10_000,
        prop::option::of(zone_aware),
        prop::option::of((selectors, fallback)),
        prop::option::of(1_u32..=10_000),
        prop::option::of((cookie, "[ -~]{16,60}")),
    )
        .prop_map(|(slow_start, orca, factor, zone, subsets, size, session)| {
            json!({
                "slow_start": slow_start.map(|(window, aggression, least)| json!({
                    "slow_start_window": window, "aggression": aggression,
                    "min_weight_percent": least
                })),
                "orca_weights": orca.map(|((blackout, expiration, update), penalty)| json!({
                    "blackout_period": blackout, "weight_expiration_period": expiration,
                    "weight_update_period": update, "error_utilization_penalty": penalty
                })),
                "overprovisioning_factor": factor,
                "zone_aware": zone.map(|(cluster, zone, enabled, least)| json!({
                    "local_cluster": cluster, "local_zone": zone, "routing_enabled": enabled,
                    "min_cluster_size": least
                })),
                "subsets": subsets.map(|(selectors, fallback)| json!({
                    "selectors": selectors.iter().map(|(key, header)| {
                        json!({"key": key, "header": header})
                    }).collect::<Vec<_>>(),
                    "fallback": fallback
                })),
                "random_subsetting": size.map(|size| json!({"subset_size": size})),
                "session": session.map(|((name, path, ttl), secret)| json!({
                    "cookie": {"name": name, "path": path, "ttl": format!("{ttl}s")},
                    "secret": secret
                })),
            })
        })
}

fn valid_cluster(index: usize) -> impl Strategy<Value = Value> {
    let metadata = prop::collection::btree_map("[ -~]{1,9}", "[ -~]{0,9}", 0..3);
    let hosts = vec((1_u32..=1000, metadata), 1..20).prop_map(|hosts| {
        let host = |(i, (weight, metadata))| {
            let address = format!("[::{:x}]:{}", i + 1, 80 + i);
            json!({"address": address, "weight": weight, "metadata": metadata})
        };
        let hosts: Vec<Value> = hosts.into_iter().enumerate().map(host).collect();
        json!({"static": {"endpoints": hosts}})
    });
    let named = ("[ -~]{1,40}", hosts, selection());
    (named, lb_policy(), hash_policy(), breaker(), retry()).prop_map(
        move |((name, membership, mut cluster), lb_policy, hash_policy, breaker, retry)| {
            cluster["name"] = format!("{index}{name}").into();
            cluster["membership"] = membership;
            cluster["lb_policy"] = lb_policy;
            cluster["hash_policy"] = hash_policy;
            cluster["circuit_breaker"] = breaker;
            cluster["retry"] = retry;
            cluster
        },
    )
}

fn ns(d: Duration) -> String {
    format!("{}.{:09}s", d.as_secs(), d.subsec_nanos())
}

fn written_lb_policy(policy: &LbPolicy) -> Value {
    match *policy {
        LbPolicy::RoundRobin { order } => json!({"round_robin": {"order": match order {
            TurnOrder::Edf => "edf",
            TurnOrder::Smooth => "smooth",
        }}}),
        LbPolicy::Random => json!({"random": {}}),
        LbPolicy::LeastRequest { choice_count, active_request_bias_milli, full_scan } => {
            json!({"least_request": {
                "choice_count": choice_count,
                "active_request_bias": f64::from(active_request_bias_milli) / 1000.0,
                "selection_method": if full_scan { "full_scan" } else { "n_choices" },
            }})
        }
        LbPolicy::PeakEwma { choice_count, decay_time, default_rtt } => json!({"peak_ewma": {
            "choice_count": choice_count,
            "decay_time": ns(decay_time),
            "default_rtt": ns(default_rtt),
        }}),
        LbPolicy::RingHash {
            minimum_ring_size,
            maximum_ring_size,
            hash_function,
            hash_balance_factor,
        } => json!({"ring_hash": {
            "minimum_ring_size": minimum_ring_size,
            "maximum_ring_size": maximum_ring_size,
            "hash_function": match hash_function {
                HashFunction::XxHash => "xx_hash",
                HashFunction::MurmurHash2 => "murmur_hash_2",
            },
            "hash_balance_factor": hash_balance_factor,
        }}),
        LbPolicy::Maglev { table_size, hash_balance_factor } => json!({"maglev": {
            "table_size": table_size, "hash_balance_factor": hash_balance_factor
        }}),
        LbPolicy::Rendezvous { table_size, hash_balance_factor } => json!({"rendezvous": {
            "table_size": table_size, "hash_balance_factor": hash_balance_factor
        }}),
    }
}

fn written_hash_policy(policy: &HashPolicy) -> Value {
    let mut item = match &policy.source {
        HashSource::Header { name, rewrite: None } => json!({"header": {"header_name": name}}),
        HashSource::Header { name, rewrite: Some(rewrite) } => json!({"header": {
            "header_name": name,
            "regex_rewrite": {
                "pattern": {"regex": rewrite.pattern}, "substitution": rewrite.substitution
            }
        }}),
        HashSource::Cookie { name, ttl: None, path } => {
            json!({"cookie": {"name": name, "path": path}})
        }
        HashSource::Cookie { name, ttl: Some(ttl), path } => {
            json!({"cookie": {"name": name, "ttl": ns(*ttl), "path": path}})
        }
        HashSource::SourceIp => json!({"connection_properties": {"source_ip": true}}),
        HashSource::Path => json!({"path": {}}),
        HashSource::QueryParameter(name) => json!({"query_parameter": {"name": name}}),
    };
    item["terminal"] = policy.terminal.into();
    item
}

/// Breaker and retries.
fn written_failures(settings: &ClusterSettings) -> (Value, Value) {
    let (breaker, retry) = (&settings.circuit_breaker, &settings.retry);
    let breaker = json!({
        "consecutive_failures": breaker.consecutive_failures,
        "success_rate": {
            "threshold_percent": breaker.success_rate.threshold_percent,
            "window": ns(breaker.success_rate.window),
            "minimum_requests": breaker.success_rate.minimum_requests,
        },
        "base_ejection_time": ns(breaker.base_ejection_time),
        "max_ejection_time": ns(breaker.max_ejection_time),
        "ejection_time_jitter_percent": breaker.ejection_time_jitter_percent,
        "max_ejection_percent": breaker.max_ejection_percent,
        "healthy_panic_threshold": breaker.healthy_panic_threshold,
    });
    let retry = json!({
        "num_retries": retry.num_retries,
        "per_try_timeout": retry.per_try_timeout.map(ns),
        "idempotent_methods": retry.idempotent_methods,
        "budget": {
            "percent": retry.budget.percent,
            "min_retries_per_second": retry.budget.min_retries_per_second,
            "interval": ns(retry.budget.interval),
        },
    });
    (breaker, retry)
}

fn written_settings(settings: &ClusterSettings) -> Value {
    let (breaker, retry) = written_failures(settings);
    json!({
        "lb_policy": written_lb_policy(&settings.lb_policy),
        "hash_policy": settings.hash_policy.iter().map(written_hash_policy).collect::<Vec<_>>(),
        "slow_start": settings.slow_start.map(|slow| json!({
            "slow_start_window": ns(slow.window),
            "aggression": f64::from(slow.aggression_milli) / 1000.0,
            "min_weight_percent": slow.min_weight_percent,
        })),
        "orca_weights": settings.orca_weights.map(|orca| json!({
            "blackout_period": ns(orca.blackout_period),
            "weight_expiration_period": ns(orca.weight_expiration_period),
            "weight_update_period": ns(orca.weight_update_period),
            "error_utilization_penalty":
                f64::from(orca.error_utilization_penalty_milli) / 1000.0,
        })),
        "overprovisioning_factor": settings.overprovisioning_factor,
        "zone_aware": settings.zone_aware.as_ref().map(|zone| json!({
            "local_cluster": zone.local_cluster,
            "local_zone": zone.local_zone,
            "routing_enabled": zone.routing_enabled_percent,
            "min_cluster_size": zone.min_cluster_size,
        })),
        "subsets": settings.subsets.as_ref().map(|subsets| json!({
            "selectors": subsets.selectors.iter().map(|(key, header)| {
                json!({"key": key, "header": header})
            }).collect::<Vec<_>>(),
            "fallback": match subsets.fallback {
                SubsetFallback::AnyEndpoint => "any_endpoint",
                SubsetFallback::NoFallback => "no_fallback",
            },
        })),
        "random_subsetting":
            settings.random_subsetting.map(|random| json!({"subset_size": random.subset_size})),
        "session": settings.session.as_ref().map(|session| json!({
            "cookie": {
                "name": session.cookie_name,
                "path": session.cookie_path,
                "ttl": ns(session.ttl),
            },
            "secret": session.secret,
        })),
        "circuit_breaker": breaker,
        "retry": retry,
    })
}

/// The configuration as JSON again, through the public types alone.
fn written(config: &Config) -> Value {
    let cluster = |cluster: &ClusterConfig| {
        let hosts = cluster.static_endpoints.iter().flatten();
        let host = |host: &StaticEndpoint| {
            json!({
                "address": host.address, "weight": host.weight, "priority": host.priority,
                "metadata": host.metadata.iter().cloned().collect::<BTreeMap<_, _>>(),
            })
        };
        let mut json = written_settings(&cluster.settings);
        json["name"] = cluster.name.as_str().into();
        let hosts: Vec<Value> = hosts.map(host).collect();
        json["membership"] = json!({"static": {"endpoints": hosts}});
        json
    };
    json!({"clusters": config.clusters.iter().map(cluster).collect::<Vec<_>>()})
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in vec(any::<u8>(), 0..200)) {
        let _ = config::parse(&bytes);
    }

    #[test]
    fn arbitrary_json_never_panics_and_its_error_is_short_and_on_one_line(json in any_json()) {
        if let Err(error) = config::parse(json.to_string().as_bytes()) {
            let text = error.to_string();
            prop_assert!(text.len() < 1000 && !text.contains('\n'), "{}", text);
            prop_assert!(!error.path.is_empty() && !error.reason.is_empty());
        }
    }

    #[test]
    fn a_known_path_with_arbitrary_json_never_panics(
        field in prop::sample::select(FIELDS.to_vec()), value in any_json()
    ) {
        let mut json = value;
        for step in field.path.rsplit('.') {
            let (key, list) = step.strip_suffix("[]").map_or((step, false), |key| (key, true));
            if list {
                if let Value::Object(item) = &mut json {
                    let key = if key == "endpoints" { "address" } else { "name" };
                    let text = if key == "address" { "10.0.0.1:80" } else { "backend" };
                    if matches!(step, "endpoints[]" | "clusters[]") {
                        item.entry(key).or_insert_with(|| Value::from(text));
                    }
                }
                json = Value::from(vec![json]);
            }
            let mut object = Map::new();
            object.insert(key.to_owned(), json);
            json = Value::Object(object);
        }
        let _ = config::parse(json.to_string().as_bytes());
    }

    #[test]
    fn a_valid_configuration_that_is_written_again_is_equal(
        a in valid_cluster(0), b in valid_cluster(1)
    ) {
        let json = json!({"clusters": [&a, &b]}).to_string();
        let config = config::parse(json.as_bytes());
        prop_assert!(config.is_ok(), "{:?}\n{}", config, json);
        let config = config.unwrap();
        prop_assert_eq!(&config::parse(json.as_bytes()).unwrap(), &config);
        for (cluster, source) in config.clusters.iter().zip([&a, &b]) {
            if let Some(secret) = source["session"]["secret"].as_str() {
                let shown = format!("{cluster:?}");
                prop_assert!(!shown.contains(secret), "{}", shown);
            }
        }
        let again = config::parse(written(&config).to_string().as_bytes());
        prop_assert_eq!(again.as_ref(), Ok(&config));
    }
}

#[test]
fn the_largest_configuration_is_read() {
    let host = |i: usize| json!({"address": format!("10.{}.{}.1:80", i / 256, i % 256)});
    let hosts: Vec<Value> = (0..limits::ENDPOINTS_MAX).map(host).collect();
    let cluster =
        |i: usize| json!({"name": i.to_string(), "membership": {"static": {"endpoints": hosts}}});
    let json = json!({"clusters": (0..10).map(cluster).collect::<Vec<_>>()}).to_string();
    assert!(json.len() < limits::CONFIG_BYTES_MAX);
    assert_eq!(config::parse(json.as_bytes()).unwrap().clusters.len(), 10);
}

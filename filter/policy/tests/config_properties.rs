//! Properties of the configuration: no input traps, and what is accepted is stable.
#![cfg(not(target_arch = "wasm32"))]

use outrigger_policy::config::{self, Config, FIELDS, limits};
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

fn valid_cluster(index: usize) -> impl Strategy<Value = Value> {
    let policy = prop_oneof![
        Just(json!({"round_robin": {}})),
        (1_u64..=64, 64_u64..=8_388_608).prop_map(|(least, most)| json!({"ring_hash": {
            "minimum_ring_size": least, "maximum_ring_size": most, "hash_function": "xx_hash"
        }})),
        Just(json!({"maglev": {"table_size": 251}})),
    ];
    let hosts = vec(1_u32..=1000, 1..20).prop_map(|weights| {
        let host = |(i, weight): (usize, &u32)| {
            json!({"address": format!("[::{:x}]:{}", i + 1, 80 + i), "weight": weight})
        };
        json!({"static": {"endpoints": weights.iter().enumerate().map(host).collect::<Vec<_>>()}})
    });
    ("[ -~]{1,40}", policy, hosts, breaker(), retry()).prop_map(
        move |(name, lb_policy, membership, circuit_breaker, retry)| {
            json!({
                "name": format!("{index}{name}"), "lb_policy": lb_policy,
                "membership": membership, "circuit_breaker": circuit_breaker, "retry": retry,
            })
        },
    )
}

/// The configuration as JSON again, through the public types alone.
fn written(config: &Config) -> Value {
    let clusters: Vec<Value> = config
        .clusters
        .iter()
        .map(|cluster| {
            let breaker = &cluster.settings.circuit_breaker;
            let retry = &cluster.settings.retry;
            let ns = |d: std::time::Duration| format!("{}.{:09}s", d.as_secs(), d.subsec_nanos());
            let hosts = cluster.static_endpoints.iter().flatten();
            json!({
                "name": cluster.name,
                "membership": {"static": {"endpoints": hosts.map(|host| json!({
                    "address": host.address, "weight": host.weight, "priority": host.priority
                })).collect::<Vec<_>>()}},
                "lb_policy": match cluster.settings.lb_policy {
                    config::LbPolicy::RoundRobin { .. } => json!({"round_robin": {}}),
                    config::LbPolicy::RingHash { minimum_ring_size, maximum_ring_size, .. } =>
                        json!({"ring_hash": {
                            "minimum_ring_size": minimum_ring_size,
                            "maximum_ring_size": maximum_ring_size
                        }}),
                    config::LbPolicy::Maglev { table_size, .. } =>
                        json!({"maglev": {"table_size": table_size}}),
                    other => panic!("not generated here: {other:?}"),
                },
                "circuit_breaker": {
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
                },
                "retry": {
                    "num_retries": retry.num_retries,
                    "per_try_timeout": retry.per_try_timeout.map(ns),
                    "idempotent_methods": retry.idempotent_methods,
                    "budget": {
                        "percent": retry.budget.percent,
                        "min_retries_per_second": retry.budget.min_retries_per_second,
                        "interval": ns(retry.budget.interval),
                    },
                },
            })
        })
        .collect();
    json!({ "clusters": clusters })
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
        let json = json!({"clusters": [a, b]}).to_string();
        let config = config::parse(json.as_bytes());
        prop_assert!(config.is_ok(), "{:?}\n{}", config, json);
        let config = config.unwrap();
        prop_assert_eq!(&config::parse(json.as_bytes()).unwrap(), &config);
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

//! Golden vectors: estimates, factors, weights and priorities against numbers that linkerd2-proxy,
//! tower, Envoy and gRPC publish.
//!
//! `vectors/README.md` says where each file comes from and which rows are left out. Runs natively
//! and on wasm32-unknown-unknown, whose floating point functions are others.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

use core::time::Duration;

use outrigger_policy::config::{OrcaWeights, SlowStart};
use outrigger_policy::pick::priority::{Availability, Priority, PriorityLoads, Tally};
use outrigger_policy::state::ewma::Ewma;
use outrigger_policy::state::orca::{EndpointWeight, Report, Weights};
use outrigger_policy::state::slow_start;
use outrigger_policy::time::Instant;
use serde_json::{Value, json};

const EWMA: &str = include_str!("vectors/ewma.json");
const PRIORITY: &str = include_str!("vectors/envoy_priority.json");
const WRR: &str = include_str!("vectors/wrr.json");

fn parse(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().unwrap()
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap()
}

fn seconds(value: &Value) -> Duration {
    Duration::from_secs_f64(number(value))
}

fn millis(value: &Value) -> Duration {
    seconds(value) / 1000
}

fn after(time: Duration) -> Instant {
    Instant::from_millis(1000).after(time)
}

fn is_close(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-9 * b.abs().max(1e-9)
}

/// Values in the file have no unit; here they are milliseconds.
#[test]
fn estimates_are_linkerds() {
    let file = parse(EWMA);
    let decay = seconds(&file["linkerd_ewma"]["decay_s"]);
    let mut checked = 0;
    for case in list(&file["linkerd_ewma"]["cases"]) {
        // A larger sample that is dropped for its time: a peak is never dropped.
        if case["name"] == "stale dropped" {
            continue;
        }
        let mut ewma = Ewma::new(after(Duration::ZERO));
        if !case["init"].is_null() {
            ewma.observe(millis(&case["init"]), after(Duration::ZERO), decay);
        }
        let mut now = Instant::ZERO;
        for op in list(&case["ops"]) {
            now = after(seconds(&op[2]));
            ewma.observe(millis(&op[1]), now, decay);
        }
        let value = ewma.get(now, decay, Duration::ZERO) / 1000.0;
        if case["between"].is_null() {
            assert!(is_close(value, number(&case["value"])), "{case}: {value}");
        } else {
            let [low, high] = [0, 1].map(|bound| number(&case["between"][bound]));
            assert!(low < value && value < high, "{case}: {value}");
        }
        checked += 1;
    }
    assert_eq!(checked, 6);
}

#[test]
fn the_default_latency_fades_as_towers() {
    let file = parse(EWMA);
    let case = &file["tower_peak_ewma"]["default_decay"];
    let (decay, default) = (millis(&case["decay_ms"]), millis(&case["default_rtt_ms"]));
    let ewma = Ewma::new(after(Duration::ZERO));
    for row in list(&case["at_ms"]) {
        let value = ewma.get(after(millis(&row[0])), decay, default) / 1000.0;
        let [low, high] = [0, 1].map(|bound| number(&row[1][bound]));
        let is_inside = if low < high { low < value && value < high } else { is_close(value, low) };
        assert!(is_inside, "{row}: {value}");
    }
}

#[test]
fn the_cost_of_pending_requests_follows_towers_timeline() {
    let file = parse(EWMA);
    let case = &file["tower_peak_ewma"]["compound"];
    let (decay, default) = (millis(&case["decay_ms"]), millis(&case["default_rtt_ms"]));
    // tower takes its default for a measurement.
    let mut ewma = Ewma::new(after(Duration::ZERO));
    ewma.observe(default, after(Duration::ZERO), decay);
    let mut started = [None; 2];
    for step in list(&case["timeline"]) {
        let now = after(millis(&step["t"]));
        if let Some(request) = step["start"].as_u64() {
            started[usize::try_from(request).unwrap()] = Some(now);
        }
        if let Some(request) = step["finish"].as_u64() {
            let start: Instant = started[usize::try_from(request).unwrap()].take().unwrap();
            ewma.observe(now.since(start), now, decay);
        }
        let active = u32::try_from(started.iter().flatten().count()).unwrap();
        let load = ewma.cost(active, now, decay, default) / 1000.0;
        for (rule, bound) in step.as_object().unwrap() {
            let bound = number(bound);
            let holds = match rule.as_str() {
                "load_ms" => is_close(load, bound),
                "load_gt_ms" => load > bound,
                "load_lt_ms" => load < bound,
                _ => true,
            };
            assert!(holds, "{step}: {load}");
        }
    }
}

#[test]
fn costs_are_envoys() {
    let file = parse(EWMA);
    let mut checked = 0;
    for row in list(&file["envoy_peak_ewma_cost"]["rows"]) {
        // The penalty is a constant here, Envoy's default.
        if !row["penalty"].is_null() {
            continue;
        }
        let now = after(Duration::ZERO);
        let mut ewma = Ewma::new(now);
        if number(&row["rtt"]) > 0.0 {
            ewma.observe(millis(&row["rtt"]), now, Duration::from_secs(10));
        }
        let active = u32::try_from(row["active"].as_u64().unwrap()).unwrap();
        let cost = ewma.cost(active, now, Duration::from_secs(10), millis(&row["default"]));
        assert!(is_close(cost / 1000.0, number(&row["cost"])), "{row}: {cost}");
        checked += 1;
    }
    assert_eq!(checked, 6);
}

#[test]
fn slow_start_factors_are_envoys() {
    let rows = &parse(WRR)["slow_start"]["rows"];
    for row in list(rows) {
        let settings = SlowStart {
            window: seconds(&row["window"]),
            aggression_milli: (number(&row["aggression"]) * 1000.0).round() as u32,
            min_weight_percent: 10,
        };
        let factor = slow_start::factor(&settings, seconds(&row["t"]));
        // The file gives seven digits, not all of them rounded.
        assert!((factor - number(&row["factor"])).abs() < 2e-7, "{row}: {factor}");
    }
    assert_eq!(list(rows).len(), 6);
}

fn orca_settings(penalty: f64) -> OrcaWeights {
    OrcaWeights {
        blackout_period: Duration::ZERO,
        weight_expiration_period: Duration::from_secs(180),
        weight_update_period: Duration::from_secs(1),
        error_utilization_penalty_milli: (penalty * 1000.0) as u32,
    }
}

fn reported(report: &Report, settings: &OrcaWeights) -> EndpointWeight {
    let mut endpoint = EndpointWeight::default();
    endpoint.update(report, settings, after(Duration::ZERO));
    endpoint
}

#[test]
fn reported_weights_are_envoys() {
    let file = parse(WRR);
    for row in list(&file["client_side_wrr_weight"]["rows"]) {
        let report = Report {
            rps_fractional: number(&row["qps"]),
            eps: number(&row["eps"]),
            application_utilization: number(&row["util"]),
            cpu_utilization: 0.9,
        };
        let settings = orca_settings(number(&row["penalty"]));
        let weight = reported(&report, &settings).get(&settings, after(Duration::ZERO)).unwrap();
        // Envoy cuts its weights to whole numbers.
        assert!(is_close(weight.floor(), number(&row["weight"])), "{row}: {weight}");
    }
}

#[test]
fn endpoints_that_have_not_reported_get_envoys_median() {
    let file = parse(WRR);
    let settings = orca_settings(1.0);
    let mut checked = 0;
    for row in list(&file["client_side_wrr_weight"]["default_for_hosts_without_weight"]["rows"]) {
        let known: Vec<f64> = list(&row["known"]).iter().map(number).collect();
        // With one known weight the membership's weights stand (gRFC A58).
        if known.len() < 2 {
            continue;
        }
        let report =
            |qps: f64| Report { rps_fractional: qps, cpu_utilization: 1.0, ..Report::default() };
        let mut endpoints: Vec<_> =
            known.iter().map(|qps| reported(&report(*qps), &settings)).collect();
        endpoints.push(EndpointWeight::default());
        let mut weights = Weights::default();
        let now = after(Duration::ZERO);
        let scaled = weights.refresh(endpoints.iter(), &settings, now).unwrap();
        let largest = known.iter().copied().fold(0.0, f64::max);
        let default = f64::from(*scaled.last().unwrap()) / 65_535.0 * largest;
        // Envoy cuts the mean of the middle two to a whole number.
        let off = default - number(&row["default"]);
        assert!((-0.1..0.6).contains(&off), "{row}: {default}");
        checked += 1;
    }
    assert_eq!(checked, 2);
}

fn tally(numbers: &Value) -> Tally {
    let [total, healthy, degraded, excluded] = [0, 1, 2, 3].map(|at| numbers[at].as_u64().unwrap());
    Tally { total, healthy, degraded, excluded }
}

fn loads(priorities: &[Priority], factor: u32, panic_threshold: &Value) -> PriorityLoads {
    let panic_threshold = panic_threshold.as_u64().map_or(50, |percent| percent as u32);
    let mut loads = PriorityLoads::default();
    loads.refresh(priorities, factor, panic_threshold);
    loads
}

/// Compares with the lists that the case has, and checks that every hash finds its priority.
fn check(case: &Value, loads: &PriorityLoads) {
    let of = |name: &str| -> Value {
        let values = loads.loads().iter().map(|load| match name {
            "load" => load.healthy,
            "degraded" => load.degraded,
            _ => u32::from(load.panic),
        });
        json!(values.collect::<Vec<_>>())
    };
    for name in ["load", "degraded", "panic"] {
        assert!(case[name].is_null() || case[name] == of(name), "{case}: {name} {}", of(name));
    }
    let mut found = vec![(0, 0); loads.loads().len()];
    for hash in 0..100 {
        match loads.choose(hash) {
            (priority, Availability::Healthy) => found[priority as usize].0 += 1,
            (priority, Availability::Degraded) => found[priority as usize].1 += 1,
        }
    }
    let expected: Vec<_> = loads.loads().iter().map(|load| (load.healthy, load.degraded)).collect();
    assert_eq!(found, expected, "{case}");
}

#[test]
fn loads_and_panic_of_priorities_are_envoys() {
    let file = parse(PRIORITY);
    for case in list(&file["cases"]) {
        let priority = |numbers: &Value| Priority::of_endpoints(tally(numbers));
        let priorities: Vec<Priority> = list(&case["p"]).iter().map(priority).collect();
        check(case, &loads(&priorities, 140, &case["panic_threshold"]));
    }
    assert_eq!(list(&file["cases"]).len(), 19);
}

#[test]
fn loads_by_weight_are_envoys() {
    let file = parse(PRIORITY);
    for case in list(&file["weighted_health_cases"]) {
        let priority = |name: &str| {
            let weights = |state: &str| -> Vec<u64> {
                let list = case["weights"][name][state].as_array();
                list.into_iter().flatten().map(|weight| weight.as_u64().unwrap()).collect()
            };
            let tally = |sum: fn(Vec<u64>) -> u64| {
                let of = ["healthy", "degraded", "excluded", "unhealthy"].map(|s| sum(weights(s)));
                Tally { total: of.iter().sum(), healthy: of[0], degraded: of[1], excluded: of[2] }
            };
            Priority {
                endpoints: tally(|weights| weights.len() as u64),
                capacity: tally(|weights| weights.iter().sum()),
            }
        };
        let factor = case["opf"].as_u64().unwrap() as u32;
        check(case, &loads(&["P0", "P1"].map(priority), factor, &Value::Null));
    }
    assert_eq!(list(&file["weighted_health_cases"]).len(), 3);
}

/// The documentation's tables leave panic aside.
fn by_percent(row: &Value) -> PriorityLoads {
    let priority = |healthy: &Value| {
        let healthy = healthy.as_u64().unwrap();
        Priority::of_endpoints(Tally { total: 100, healthy, degraded: 0, excluded: 0 })
    };
    let priorities: Vec<Priority> = list(&row["h"]).iter().map(priority).collect();
    loads(&priorities, 140, &json!(0))
}

#[test]
fn the_tables_of_envoys_documentation_hold_and_where_they_do_not_the_code_does() {
    let file = parse(PRIORITY);
    for row in list(&file["docs_table_percent_healthy"]) {
        check(row, &by_percent(row));
    }
    let wrong = list(&file["docs_rows_that_do_not_follow_the_algorithm"]);
    for row in wrong {
        let loads = by_percent(row);
        let load = json!(loads.loads().iter().map(|load| load.healthy).collect::<Vec<_>>());
        assert_eq!(load, row["algorithm_load"], "{row}");
        assert_ne!(load, row["doc_load"], "{row}");
    }
    assert_eq!(wrong.len(), 4);
}

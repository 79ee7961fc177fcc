//! The report of an arm that is judged by all of its requests, where no time of them is special.

use std::collections::BTreeMap;

use super::Outcome;
use crate::load::Record;
use crate::measure::percentile_ms;
use crate::report::{ArmReport, ScenarioReport};
use crate::stalls::Stalls;

/// Of a scenario none of whose arms was asked for.
pub(super) fn nothing(name: &str) -> Outcome {
    (ScenarioReport::new(name, Vec::new(), Vec::new(), Stalls::default()), Vec::new())
}

/// `attempts` are those that its Envoy sent for these requests.
pub(super) fn arm_report(name: &str, records: &[Record], attempts: u64) -> ArmReport {
    let requests = records.len() as u64;
    let ok = records.iter().filter(|record| record.ok()).count() as u64;
    let mut latencies: Vec<u64> = records.iter().map(|record| record.latency_us).collect();
    let mut percentile = |percent: f64| percentile_ms(&mut latencies, percent);
    let mut per_endpoint = BTreeMap::new();
    for address in records.iter().filter_map(|record| record.address) {
        *per_endpoint.entry(address.to_string()).or_default() += 1;
    }
    ArmReport {
        name: name.to_owned(),
        requests,
        ok,
        success_rate: ok as f64 / requests.max(1) as f64,
        p50_ms: percentile(50.0),
        p99_ms: percentile(99.0),
        p999_ms: percentile(99.9),
        attempts,
        amplification: attempts as f64 / requests.max(1) as f64,
        detect_ms: None,
        recover_ms: None,
        per_endpoint,
    }
}

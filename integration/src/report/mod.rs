//! What a run of the rig leaves behind: `report.json`, `report.html` and the table on the terminal.

mod html;
mod table;

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context;
use serde::{Deserialize, Serialize};

use crate::stalls::Stalls;

pub use html::Timeline;

/// `target/rig/report.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Version of Envoy.
    pub envoy: String,
    /// `native` or `compose`.
    pub runner: String,
    /// In the order in which they ran.
    pub scenarios: Vec<ScenarioReport>,
}

/// One scenario, all its runs together.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ScenarioReport {
    /// Name on the command line.
    pub name: String,
    /// Whether every check passed that was judged.
    pub passed: bool,
    /// One per Envoy.
    pub arms: Vec<ArmReport>,
    /// What was demanded.
    pub checks: Vec<Check>,
    /// How still the machine stood meanwhile.
    pub machine: Stalls,
}

/// What the clients of one Envoy saw. Counts are sums over the runs, times are medians of the runs;
/// `null` is "never" or "does not apply". Percentiles are those from 1 s after the fault until it
/// is lifted (in `scale`, `slow-replica` and `sinkhole`: of all requests).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ArmReport {
    /// `outrigger`, `envoy-native` or `pass-through`; its policy too where several share a flavour.
    pub name: String,
    /// Requests after the warm-up.
    pub requests: u64,
    /// Those with a status of 200..399.
    pub ok: u64,
    /// `ok / requests`.
    pub success_rate: f64,
    /// Median latency, in milliseconds.
    pub p50_ms: Option<f64>,
    /// 99th percentile.
    pub p99_ms: Option<f64>,
    /// 99.9th percentile.
    pub p999_ms: Option<f64>,
    /// Requests that the upstreams received (in `outage` only while everything failed; where
    /// percentiles are of all requests: that Envoy sent).
    pub attempts: u64,
    /// `attempts` per request of the same time.
    pub amplification: f64,
    /// From the fault (`hang`: from the first time-out) until the endpoint was out.
    pub detect_ms: Option<f64>,
    /// From the end of the fault until the endpoint served again (`outage`: until nothing failed
    /// any more).
    pub recover_ms: Option<f64>,
    /// Answers by upstream.
    pub per_endpoint: BTreeMap<String, u64>,
}

/// One demand: it passes when `measured` is there and at most `limit`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Check {
    /// What is measured, with its unit.
    pub name: String,
    /// The most that is allowed.
    pub limit: f64,
    /// What was measured; `null` means "never", which fails.
    pub measured: Option<f64>,
    /// Whether it passed.
    pub passed: bool,
    /// Why it does not count that it did not pass: the machine disturbed every run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_judged: Option<String>,
}

impl Check {
    /// Compares.
    #[must_use]
    pub fn at_most(name: impl Into<String>, limit: f64, measured: Option<f64>) -> Self {
        let passed = measured.is_some_and(|value| value <= limit);
        Self { name: name.into(), limit, measured, passed, not_judged: None }
    }

    /// One word for people, or why it was not judged.
    fn verdict(&self) -> String {
        match &self.not_judged {
            Some(reason) => format!("not judged: {reason}"),
            None if self.passed => "ok".to_owned(),
            None => "FAILED".to_owned(),
        }
    }
}

impl ScenarioReport {
    /// A scenario that passes when all checks do.
    #[must_use]
    pub fn new(name: &str, arms: Vec<ArmReport>, checks: Vec<Check>, machine: Stalls) -> Self {
        let passed = checks.iter().all(|check| check.passed);
        Self { name: name.to_owned(), passed, arms, checks, machine }
    }

    /// Takes the checks that did not pass for not judged, because the machine stood still.
    pub fn excuse(&mut self) {
        for check in self.checks.iter_mut().filter(|check| !check.passed) {
            check.not_judged = Some(self.machine.reason());
        }
        self.passed = true;
    }
}

impl Report {
    /// Whether every scenario passed.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.scenarios.iter().all(|scenario| scenario.passed)
    }

    /// One line for people.
    fn verdict(&self) -> String {
        let checks = self.scenarios.iter().flat_map(|scenario| &scenario.checks);
        match checks.filter(|check| check.not_judged.is_some()).count() {
            _ if !self.passed() => "SOME CHECKS FAILED".to_owned(),
            0 => "every check passed".to_owned(),
            excused => format!("every check passed that was judged; {excused} were not"),
        }
    }

    /// The table for a terminal.
    #[must_use]
    pub fn table(&self) -> String {
        table::render(self)
    }

    /// Writes `report.json` and `report.html` into a folder.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, folder: &Path, timelines: &[Timeline]) -> anyhow::Result<()> {
        let describe = || format!("cannot write {}", folder.display());
        std::fs::create_dir_all(folder).with_context(describe)?;
        let json = serde_json::to_string_pretty(self)?;
        std::fs::write(folder.join("report.json"), json).with_context(describe)?;
        let page = html::render(self, timelines);
        std::fs::write(folder.join("report.html"), page).with_context(describe)
    }
}

/// A number for people: two decimals below 10, one below 1,000; "never" for none.
fn shown(value: Option<f64>) -> String {
    match value {
        None => "never".to_owned(),
        Some(v) if v.fract() == 0.0 && v.abs() < 1e9 => format!("{v:.0}"),
        Some(v) if v.abs() < 10.0 => format!("{v:.2}"),
        Some(v) => format!("{v:.1}"),
    }
}

/// A time for people, `-` where it does not apply.
fn shown_ms(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), |v| shown(Some(v)))
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn report() -> Report {
        let arm = ArmReport {
            name: "outrigger".into(),
            requests: 10,
            ok: 9,
            success_rate: 0.9,
            p50_ms: Some(1.5),
            p99_ms: Some(3.25),
            p999_ms: None,
            attempts: 12,
            amplification: 1.2,
            detect_ms: Some(80.0),
            recover_ms: None,
            per_endpoint: BTreeMap::from([("u1".into(), 9)]),
        };
        let checks = vec![
            Check::at_most("failed", 1.0, Some(1.0)),
            Check::at_most("recover <ms>", 3000.0, None),
        ];
        Report {
            envoy: "1.40.0".into(),
            runner: "native".into(),
            scenarios: vec![ScenarioReport::new("crash", vec![arm], checks, Stalls::default())],
        }
    }

    #[test]
    fn a_check_without_a_measurement_fails() {
        let report = report();
        assert!(report.scenarios[0].checks[0].passed);
        assert!(!report.scenarios[0].checks[1].passed);
        assert!(!report.passed());
    }

    #[test]
    fn report_json_has_the_designed_shape() {
        let value = serde_json::to_value(report()).unwrap();
        let keys = |v: &serde_json::Value| {
            v.as_object().unwrap().keys().cloned().collect::<Vec<_>>().join(",")
        };
        assert_eq!(keys(&value), "envoy,runner,scenarios");
        assert_eq!(keys(&value["scenarios"][0]), "arms,checks,machine,name,passed");
        assert_eq!(
            keys(&value["scenarios"][0]["arms"][0]),
            "amplification,attempts,detect_ms,name,ok,p50_ms,p999_ms,p99_ms,per_endpoint,\
             recover_ms,requests,success_rate"
        );
        assert_eq!(keys(&value["scenarios"][0]["checks"][0]), "limit,measured,name,passed");
    }

    #[test]
    fn table_and_page_name_every_arm_and_check() {
        let report = report();
        for text in [report.table(), html::render(&report, &[])] {
            for word in ["crash", "outrigger", "failed", "3000", "never"] {
                assert!(text.contains(word), "{word} is not in {text}");
            }
        }
        assert!(html::render(&report, &[]).contains("recover &lt;ms&gt;"));
    }
}

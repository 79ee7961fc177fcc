//! What a run of a fault scenario is judged by: the numbers of each arm, and the checks.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use super::Rig;
use super::fault::{Action, BEFORE, Bars, FaultScenario, Hit, UPSTREAMS, VICTIM, WARM_UP};
use crate::bootstrap::Flavour;
use crate::load::Record;
use crate::measure::{
    SLOW, SLOW_CONNECT, all_served_ms, median, out_after_first_timeout_ms, serving_again_ms,
    stopped_choosing_ms, window_percentile_ms, within,
};
use crate::report::{ArmReport, Check};

/// How long after the fault the client must not feel it any more.
const SETTLE: Duration = Duration::from_secs(1);
/// p99 may always be this large: below it, the machine's noise decides.
const P99_FLOOR_MS: f64 = 4.0;
const P99_FACTOR: f64 = 1.5;
/// How many times its limit a p99 may be where others use the machine as well.
const SHARED_P99_SLACK: f64 = 10.0;

/// (time since the load's origin, times chosen so far)
pub(super) type Samples = Vec<(Duration, u64)>;

/// What one arm gave in one run.
#[derive(Debug)]
pub(super) struct Run {
    /// After the warm-up only.
    pub(super) records: Vec<Record>,
    pub(super) fault: Range<Duration>,
    pub(super) end: Duration,
    /// Requests that the upstreams received, after the warm-up.
    pub(super) attempts: u64,
    /// The same while the fault lasted; known only where upstreams can be asked then.
    pub(super) attempts_in_fault: Option<u64>,
    /// How often Envoy had chosen the victim by when.
    pub(super) chosen: Samples,
}

impl Run {
    fn failed(&self) -> u64 {
        self.records.iter().filter(|record| !record.ok()).count() as u64
    }

    fn before(&self) -> Range<Duration> {
        WARM_UP..WARM_UP + BEFORE
    }

    fn settled(&self) -> Range<Duration> {
        self.fault.start + SETTLE..self.fault.end
    }

    pub(super) fn p99_before(&self) -> Option<f64> {
        window_percentile_ms(&self.records, self.before(), 99.0)
    }

    fn p99_settled(&self) -> Option<f64> {
        window_percentile_ms(&self.records, self.settled(), 99.0)
    }

    pub(super) fn summary(&self) -> String {
        let ms = |value: Option<f64>| value.map_or_else(|| "-".into(), |v| format!("{v:.2}"));
        let (before, after) = (ms(self.p99_before()), ms(self.p99_settled()));
        format!("{} of {} failed, p99 {before} -> {after} ms", self.failed(), self.records.len())
    }

    fn detect_ms(&self, scenario: &FaultScenario) -> Option<f64> {
        match (&scenario.action, scenario.hit) {
            (_, Hit::All) => None,
            (Action::Freeze, _) => {
                out_after_first_timeout_ms(&self.records, self.fault.clone(), SLOW)
            }
            (Action::Disconnect, _) => {
                out_after_first_timeout_ms(&self.records, self.fault.clone(), SLOW_CONNECT)
            }
            _ => stopped_choosing_ms(&self.chosen, self.fault.clone(), fair_share(scenario)),
        }
    }

    fn recover_ms(&self, scenario: &FaultScenario) -> Option<f64> {
        let lifted = self.fault.end;
        match scenario.hit {
            Hit::All => all_served_ms(&self.records, lifted, self.end),
            Hit::One => {
                let victim = u16::try_from(VICTIM + 1).unwrap_or(0);
                serving_again_ms(&self.records, victim, lifted, self.end, fair_share(scenario))
            }
        }
    }

    /// (attempts, requests) of the time over which amplification is judged.
    fn load(&self) -> (u64, u64) {
        match self.attempts_in_fault {
            Some(attempts) => (attempts, within(&self.records, self.fault.clone()).count() as u64),
            None => (self.attempts, self.records.len() as u64),
        }
    }
}

fn fair_share(scenario: &FaultScenario) -> f64 {
    f64::from(scenario.rate) / UPSTREAMS as f64
}

pub(super) fn arm_report(scenario: &FaultScenario, flavour: Flavour, runs: &[Run]) -> ArmReport {
    let requests: u64 = runs.iter().map(|run| run.records.len() as u64).sum();
    let ok = requests - runs.iter().map(Run::failed).sum::<u64>();
    let (attempts, base) =
        runs.iter().map(Run::load).fold((0, 0), |sum, (a, r)| (sum.0 + a, sum.1 + r));
    let percentile = |percent: f64| {
        let one = |run: &Run| window_percentile_ms(&run.records, run.settled(), percent);
        median(runs.iter().map(one).collect())
    };
    let mut per_endpoint = BTreeMap::new();
    for record in runs.iter().flat_map(|run| &run.records).filter(|r| r.upstream > 0) {
        *per_endpoint.entry(format!("u{}", record.upstream)).or_default() += 1;
    }
    ArmReport {
        name: flavour.name().to_owned(),
        requests,
        ok,
        success_rate: ok as f64 / requests.max(1) as f64,
        p50_ms: percentile(50.0),
        p99_ms: percentile(99.0),
        p999_ms: percentile(99.9),
        attempts,
        amplification: attempts as f64 / base.max(1) as f64,
        detect_ms: median(runs.iter().map(|run| run.detect_ms(scenario)).collect()),
        recover_ms: median(runs.iter().map(|run| run.recover_ms(scenario)).collect()),
        per_endpoint,
    }
}

pub(super) fn checks(
    scenario: &FaultScenario,
    rig: &Rig,
    arms: &[Vec<Run>],
    reports: &[ArmReport],
) -> Vec<Check> {
    let find = |wanted: Flavour| rig.flavours.iter().position(|flavour| *flavour == wanted);
    let ours = find(Flavour::Outrigger);
    let Some((runs, report)) = ours.and_then(|at| arms.get(at).zip(reports.get(at))) else {
        return Vec::new();
    };
    let native = find(Flavour::Native).and_then(|at| reports.get(at));
    match scenario.bars {
        Bars::Bounded { amplification, recover_ms } => {
            bounded(scenario, runs, report, amplification, recover_ms)
        }
        Bars::NoWorse => native.map(|native| against(native, report)).into_iter().collect(),
        Bars::Invisible { failed_per, out_within_ms } => {
            let allowed = (report.requests / failed_per) as f64;
            let name = format!("failed requests (1 in {failed_per})");
            let mut checks = vec![Check::at_most(name, allowed, Some(failed(report)))];
            if let (Some(native), None) = (native, out_within_ms) {
                checks.push(against(native, report));
            }
            checks.push(p99_check(runs, rig.shared_machine));
            if let Some(limit) = out_within_ms {
                let name = "ms from the first time-out until the endpoint is out, median run";
                checks.push(Check::at_most(name, limit, report.detect_ms));
            }
            checks
        }
    }
}

fn bounded(
    scenario: &FaultScenario,
    runs: &[Run],
    report: &ArmReport,
    amplification: f64,
    recover_ms: f64,
) -> Vec<Check> {
    let recovered = runs.iter().map(|run| run.recover_ms(scenario));
    let worst = recovered.reduce(|a, b| a.zip(b).map(|(a, b)| a.max(b))).flatten();
    let attempts = "attempts per request while everything fails";
    let again = "ms until every request succeeds again, worst run";
    vec![
        Check::at_most(attempts, amplification, Some(report.amplification)),
        Check::at_most(again, recover_ms, worst),
    ]
}

fn failed(report: &ArmReport) -> f64 {
    (report.requests - report.ok) as f64
}

fn against(native: &ArmReport, ours: &ArmReport) -> Check {
    let name = "failed requests, against envoy-native";
    Check::at_most(name, failed(native), Some(failed(ours)))
}

/// The median run's p99, against the limit that the median p99 before it gives.
fn p99_check(runs: &[Run], shared_machine: bool) -> Check {
    let before = median(runs.iter().map(Run::p99_before).collect()).unwrap_or(0.0);
    let after = median(runs.iter().map(Run::p99_settled).collect());
    let limit = (P99_FACTOR * before).max(P99_FLOOR_MS);
    let name = "p99 ms from 1 s after the fault (1.5 x before it, at least 4 ms), median run";
    if shared_machine {
        let name = format!("{name}, x {SHARED_P99_SLACK} for a shared machine");
        return Check::at_most(name, limit * SHARED_P99_SLACK, after);
    }
    Check::at_most(name, limit, after)
}

//! What is done to the upstreams while the load runs, and what must hold. One file per scenario.
//!
//! `fault` holds the timeline that all scenarios with a fault share, `judge` their measurements and
//! checks. A scenario of that kind is a value: who is hit, how, and how many failures its clients
//! may see.

mod crash;
mod errors;
mod fault;
mod hang;
mod judge;
mod outage;
mod partition;
mod reset;
mod scale;
mod sinkhole;
mod slow_replica;
mod whole;

use crate::bootstrap::Flavour;
use crate::report::{ScenarioReport, Timeline};
use crate::site::Site;

/// What every scenario is given.
#[derive(Debug)]
pub struct Rig {
    /// Where the arms run.
    pub site: Site,
    /// Which arms.
    pub flavours: Vec<Flavour>,
    /// How often a fault is repeated; times are medians of the runs.
    pub runs: usize,
    /// Whether the long scenarios are cut short.
    pub quick: bool,
    /// Whether others use the machine as well: then failing in a run that it disturbed proves
    /// nothing, and the scenario is repeated.
    pub shared_machine: bool,
}

impl Rig {
    /// Prints a progress line.
    pub fn say(&self, text: impl std::fmt::Display) {
        use std::io::Write as _;
        let mut out = std::io::stdout().lock();
        let _ = writeln!(out, "{text}");
        let _ = out.flush();
    }
}

/// Result of a scenario: its report and its first run's timelines.
pub type Outcome = (ScenarioReport, Vec<Timeline>);

/// All scenarios, in the order in which they run.
pub const NAMES: [&str; 9] = [
    "crash",
    "hang",
    "errors",
    "reset",
    "outage",
    "scale",
    "slow-replica",
    "sinkhole",
    "partition",
];

/// Why a site cannot do this scenario.
#[must_use]
pub fn why_skipped(name: &str) -> &'static str {
    match name {
        "partition" => "only containers can be taken off the network",
        _ => "containers have one Envoy of each kind",
    }
}

/// How often a scenario is run in all while it fails and the machine is what disturbs it.
const ATTEMPTS_MAX: usize = 3;

/// Runs the scenario of this name; `None` when the site cannot do it.
///
/// # Errors
/// When the name is unknown or something of the rig itself breaks; a missed bar is not an error.
pub async fn run(name: &str, rig: &Rig) -> anyhow::Result<Option<Outcome>> {
    let mut attempt = 1;
    loop {
        let Some((mut report, timelines)) = once(name, rig).await? else {
            return Ok(None);
        };
        match after(&report, rig.shared_machine, attempt) {
            Next::Done => return Ok(Some((report, timelines))),
            Next::Excuse => {
                report.excuse();
                return Ok(Some((report, timelines)));
            }
            Next::Again => {
                rig.say(format!("{name:9} failed, but {}: once more", report.machine));
                attempt += 1;
            }
        }
    }
}

/// What follows from a run of a scenario.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    /// It counts as it is.
    Done,
    /// It proves nothing and is repeated.
    Again,
    /// It proves nothing, nor did those before it.
    Excuse,
}

fn after(report: &ScenarioReport, shared_machine: bool, attempt: usize) -> Next {
    if report.passed || !shared_machine || !report.machine.disturbed() {
        Next::Done
    } else if attempt < ATTEMPTS_MAX {
        Next::Again
    } else {
        Next::Excuse
    }
}

async fn once(name: &str, rig: &Rig) -> anyhow::Result<Option<Outcome>> {
    let scenario = match name {
        "crash" => crash::scenario(),
        "hang" => hang::scenario(),
        "errors" => errors::scenario(),
        "reset" => reset::scenario(),
        "outage" => outage::scenario(),
        "scale" => return scale::run(rig).await.map(Some),
        "slow-replica" | "sinkhole" if !rig.site.can_repeat_flavours() => return Ok(None),
        "slow-replica" => return slow_replica::run(rig).await.map(Some),
        "sinkhole" => return sinkhole::run(rig).await.map(Some),
        "partition" if !rig.site.can_disconnect() => return Ok(None),
        "partition" => partition::scenario(),
        other => anyhow::bail!("no scenario {other}; there are {}", NAMES.join(", ")),
    };
    fault::run(&scenario, rig).await.map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Check;
    use crate::stalls::Stalls;

    fn report(measured: f64, longest_ms: f64) -> ScenarioReport {
        let machine = Stalls { watched_ms: 20_000.0, longest_ms, ..Stalls::default() };
        let checks = vec![Check::at_most("failed", 1.0, Some(measured))];
        ScenarioReport::new("crash", Vec::new(), checks, machine)
    }

    #[test]
    fn a_failure_on_a_still_machine_counts_at_once() {
        for attempt in 1..=ATTEMPTS_MAX {
            assert_eq!(after(&report(2.0, 3.0), true, attempt), Next::Done);
        }
    }

    #[test]
    fn a_failure_in_a_disturbed_run_is_repeated_and_at_last_excused() {
        let next = |attempt| after(&report(2.0, 300.0), true, attempt);
        assert_eq!([next(1), next(2), next(3)], [Next::Again, Next::Again, Next::Excuse]);
    }

    #[test]
    fn a_machine_of_ones_own_excuses_nothing() {
        assert_eq!(after(&report(2.0, 300.0), false, 1), Next::Done);
    }

    #[test]
    fn what_passes_counts_however_disturbed() {
        assert_eq!(after(&report(1.0, 300.0), true, 1), Next::Done);
    }

    #[test]
    fn an_excused_report_passes_and_says_which_checks_were_not_judged() {
        let mut report = report(2.0, 300.0);
        report.checks.push(Check::at_most("p99", 5.0, Some(1.0)));
        assert!(!report.passed);
        report.excuse();
        assert!(report.passed && !report.checks[0].passed);
        assert!(report.checks[0].not_judged.as_ref().unwrap().contains("300 ms"));
        assert_eq!(report.checks[1].not_judged, None);
    }
}

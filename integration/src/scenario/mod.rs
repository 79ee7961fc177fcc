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
    /// How many times its limit a p99 may be: 1 where the machine is the rig's own.
    pub p99_slack: f64,
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
pub const NAMES: [&str; 7] = ["crash", "hang", "errors", "reset", "outage", "scale", "partition"];

/// Runs the scenario of this name; `None` when the site cannot do it.
///
/// # Errors
/// When the name is unknown or something of the rig itself breaks; a missed bar is not an error.
pub async fn run(name: &str, rig: &Rig) -> anyhow::Result<Option<Outcome>> {
    let scenario = match name {
        "crash" => crash::scenario(),
        "hang" => hang::scenario(),
        "errors" => errors::scenario(),
        "reset" => reset::scenario(),
        "outage" => outage::scenario(),
        "scale" => return scale::run(rig).await.map(Some),
        "partition" if !rig.site.can_disconnect() => return Ok(None),
        "partition" => partition::scenario(),
        other => anyhow::bail!("no scenario {other}; there are {}", NAMES.join(", ")),
    };
    fault::run(&scenario, rig).await.map(Some)
}

//! One of five upstreams is killed with SIGKILL under load and comes back later.

use super::fault::{Action, Bars, FaultScenario, Hit};

pub(super) fn scenario() -> FaultScenario {
    FaultScenario {
        name: "crash",
        rate: 300,
        fault_seconds: 10,
        hit: Hit::One,
        action: Action::Kill,
        bars: Bars::Invisible { failed_per: 10_000, out_within_ms: None },
    }
}

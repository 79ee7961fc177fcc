//! All upstreams answer 503, then all recover: retries must not multiply the load, and nothing may
//! stay broken.

use super::fault::{Action, Bars, FaultScenario, Hit};
use crate::upstream::fault::FaultSpec;

pub(super) fn scenario() -> FaultScenario {
    FaultScenario {
        name: "outage",
        rate: 500,
        fault_seconds: 8,
        hit: Hit::All,
        action: Action::Fault(FaultSpec::status(503)),
        bars: Bars::Bounded { amplification: 1.25, recover_ms: 3_000.0 },
    }
}

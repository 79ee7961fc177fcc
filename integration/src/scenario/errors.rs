//! One of five upstreams answers 503 to everything, fast: the cheapest answer attracts load if
//! nobody looks at it.

use super::fault::{Action, Bars, FaultScenario, Hit};
use crate::upstream::fault::FaultSpec;

pub(super) fn scenario() -> FaultScenario {
    FaultScenario {
        name: "errors",
        rate: 300,
        fault_seconds: 10,
        hit: Hit::One,
        action: Action::Fault(FaultSpec::status(503)),
        bars: Bars::Invisible { failed_per: 10_000, out_within_ms: None },
    }
}

//! One of five upstreams resets the connection after reading the request.

use super::fault::{Action, Bars, FaultScenario, Hit};
use crate::upstream::fault::FaultSpec;

pub(super) fn scenario() -> FaultScenario {
    FaultScenario {
        name: "reset",
        rate: 300,
        fault_seconds: 10,
        hit: Hit::One,
        action: Action::Fault(FaultSpec::reset()),
        bars: Bars::Invisible { failed_per: 10_000, out_within_ms: None },
    }
}

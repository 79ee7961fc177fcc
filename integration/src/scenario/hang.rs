//! One of five upstreams freezes (SIGSTOP): it accepts connections, the kernel acknowledges,
//! nothing is ever answered.
//!
//! Only a time-out tells, so the first requests to it are slow whatever the proxy does; what counts
//! is how soon it is out.

use super::fault::{Action, Bars, FaultScenario, Hit};

pub(super) fn scenario() -> FaultScenario {
    FaultScenario {
        name: "hang",
        rate: 300,
        fault_seconds: 10,
        hit: Hit::One,
        action: Action::Freeze,
        bars: Bars::Invisible { failed_per: 1_000, out_within_ms: Some(1_000.0) },
    }
}

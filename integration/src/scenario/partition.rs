//! One of five upstreams is taken off the network (containers only): packets to it vanish, nobody
//! is told.
//!
//! Connections that exist run into the per-try time-out, new ones into the connect time-out. An
//! extra that only containers can show, so it is compared with plain Envoy and has no bar of its
//! own.

use super::fault::{Action, Bars, FaultScenario, Hit};

pub(super) fn scenario() -> FaultScenario {
    FaultScenario {
        name: "partition",
        rate: 300,
        fault_seconds: 10,
        hit: Hit::One,
        action: Action::Disconnect,
        bars: Bars::NoWorse,
    }
}

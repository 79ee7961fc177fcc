//! What a failing upstream does to a request: one file per fault.
//!
//! A fault only decides (`Verdict`); `upstream::server` carries the decision out. That keeps each
//! fault a few lines with a test of its own, and keeps sockets out of them.

mod delay;
mod none;
mod reset;
mod stall;
mod status;

use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use delay::Delay;
pub use none::NoFault;
pub use reset::Reset;
pub use stall::Stall;
pub use status::Status;

/// What to do with one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Answer with this HTTP status, after a wait.
    Answer {
        /// HTTP status to answer with.
        status: u16,
        /// How long to wait before it.
        after: Duration,
    },
    /// Close the TCP connection with a reset (RST) and no answer.
    Reset,
    /// Keep the connection open and never answer.
    Stall,
}

impl Verdict {
    /// The answer of a healthy upstream.
    pub const HEALTHY: Self = Self::Answer { status: 200, after: Duration::ZERO };
}

/// A way to fail.
pub trait Fault: Send + Sync + std::fmt::Debug {
    /// What happens to a request that this fault hits.
    fn verdict(&self) -> Verdict;
}

/// The names that `POST /fault` takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Healthy: 200 at once.
    #[default]
    None,
    /// Answer `status` at once.
    Status,
    /// Reset the TCP connection after reading the request.
    Reset,
    /// Never answer.
    Stall,
    /// Answer 200 after `delay_ms`, give or take `delay_sd_ms`.
    Delay,
}

/// Body of `POST /fault`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FaultSpec {
    /// Which fault.
    pub kind: Kind,
    /// HTTP status of `status`.
    pub status: u16,
    /// Mean wait of `delay`, in milliseconds.
    pub delay_ms: u64,
    /// Standard deviation of that wait, in milliseconds; waits are distributed normally.
    pub delay_sd_ms: u64,
    /// Share of the requests that are hit, `0.0..=1.0`; the others are healthy.
    pub probability: f64,
}

impl Default for FaultSpec {
    fn default() -> Self {
        Self { kind: Kind::None, status: 503, delay_ms: 100, delay_sd_ms: 0, probability: 1.0 }
    }
}

impl FaultSpec {
    /// Healthy.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// Every request is answered with `status`.
    #[must_use]
    pub fn status(status: u16) -> Self {
        Self { kind: Kind::Status, status, ..Self::default() }
    }

    /// Every request ends in a TCP reset.
    #[must_use]
    pub fn reset() -> Self {
        Self { kind: Kind::Reset, ..Self::default() }
    }

    /// No request is ever answered.
    #[must_use]
    pub fn stall() -> Self {
        Self { kind: Kind::Stall, ..Self::default() }
    }

    /// Every request is answered with 200 after `delay_ms`.
    #[must_use]
    pub fn delay(delay_ms: u64) -> Self {
        Self { kind: Kind::Delay, delay_ms, ..Self::default() }
    }

    /// Every request is answered with 200 after about `mean_ms`: normal, with this deviation.
    #[must_use]
    pub fn normal_delay(mean_ms: u64, sd_ms: u64) -> Self {
        Self { delay_sd_ms: sd_ms, ..Self::delay(mean_ms) }
    }

    /// Only this share of the requests is hit.
    #[must_use]
    pub fn with_probability(self, probability: f64) -> Self {
        Self { probability, ..self }
    }
}

/// A fault and how often it strikes.
#[derive(Debug)]
pub struct Plan {
    fault: Box<dyn Fault>,
    probability: f64,
}

impl Plan {
    /// The plan that a spec describes.
    #[must_use]
    pub fn new(spec: &FaultSpec) -> Self {
        let fault: Box<dyn Fault> = match spec.kind {
            Kind::None => Box::new(NoFault),
            Kind::Status => Box::new(Status(spec.status)),
            Kind::Reset => Box::new(Reset),
            Kind::Stall => Box::new(Stall),
            Kind::Delay => {
                let [mean, sd] = [spec.delay_ms, spec.delay_sd_ms].map(Duration::from_millis);
                Box::new(Delay { mean, sd })
            }
        };
        Self { fault, probability: spec.probability }
    }

    /// What happens to the next request; `dice` is uniform in `0.0..1.0`.
    #[must_use]
    pub fn verdict(&self, dice: f64) -> Verdict {
        if dice < self.probability { self.fault.verdict() } else { Verdict::HEALTHY }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spec_may_name_only_what_differs() {
        let spec: FaultSpec = serde_json::from_str(r#"{"kind":"status"}"#).unwrap();
        assert_eq!(spec, FaultSpec::status(503));
        assert!(serde_json::from_str::<FaultSpec>(r#"{"kind":"staus"}"#).is_err());
        assert!(serde_json::from_str::<FaultSpec>(r#"{"delay":3}"#).is_err());
    }

    #[test]
    fn probability_decides_which_requests_are_hit() {
        let plan = Plan::new(&FaultSpec::reset().with_probability(0.25));
        assert_eq!(plan.verdict(0.24), Verdict::Reset);
        assert_eq!(plan.verdict(0.25), Verdict::HEALTHY);
    }

    #[test]
    fn probability_one_hits_every_request_and_zero_none() {
        assert_eq!(Plan::new(&FaultSpec::stall()).verdict(0.999_999), Verdict::Stall);
        let never = Plan::new(&FaultSpec::stall().with_probability(0.0));
        assert_eq!(never.verdict(0.0), Verdict::HEALTHY);
    }
}

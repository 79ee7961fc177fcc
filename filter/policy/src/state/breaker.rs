//! The circuit breaker of one endpoint.
//!
//! Closed: attempts flow and are counted. Open: the endpoint is out until an instant that grows
//! with every ejection in a row and carries jitter, so that neither endpoints nor workers return
//! in step. Due: that instant has passed, and one attempt may try the endpoint (the permit that
//! makes it one in the whole process is not held here; see `engine`).
//!
//! Only a *trial* (an attempt that was planned while the breaker was open) may close it: a
//! straggler that started before the ejection and ends well says nothing about the endpoint
//! now. The shape is linkerd2-proxy's consecutive-failure breaker plus its success-rate rule; the
//! names are those of Envoy's outlier detection. It differs from Envoy, which returns an
//! endpoint to full traffic when its time is over and has no half-open state.

use core::time::Duration;

use serde::{Deserialize, Serialize};

use super::window::Window;
use crate::config::CircuitBreaker;
use crate::rng::Rng;
use crate::time::Instant;

/// Doublings of the open time after which it is surely at its maximum.
const DOUBLINGS_MAX: u32 = 32;

/// An endpoint that stayed closed this many times its last open time gets its count of ejections
/// lowered by one; Envoy lowers its multiplier once a healthy interval.
const FORGIVE_AFTER_OPEN_TIMES: u32 = 10;

/// Why a breaker opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Cause {
    /// `consecutive_failures` attempts in a row failed.
    ConsecutiveFailures,
    /// The success rate over the window fell below its threshold.
    SuccessRate,
    /// The attempt that tried whether it is well again failed.
    TrialFailed,
}

impl Cause {
    /// The words for logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ConsecutiveFailures => "consecutive failures",
            Self::SuccessRate => "success rate",
            Self::TrialFailed => "half-open trial failed",
        }
    }
}

/// Where a breaker stands, apart from the passing of time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// Attempts flow.
    #[default]
    Closed,
    /// Out until `until`; after that, one trial at a time.
    Open {
        /// When the present run of ejections began: who opened first is held out first.
        since: Instant,
        /// When a trial is due.
        until: Instant,
        /// What opened it last.
        cause: Cause,
        /// Whether no attempt has succeeded since: nothing speaks for a retry here.
        dead: bool,
    },
}

/// The part of a breaker that all workers share. `version` grows with every transition, so that
/// the newest of two records is the one with more transitions behind it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Transitions so far.
    pub version: u32,
    /// Ejections in a row, for the growth of the open time.
    pub ejections: u32,
    /// When the last transition happened.
    pub changed: Instant,
    /// The phase.
    pub phase: Phase,
}

impl Record {
    /// Whether `other` should replace this record: more transitions, or as many and open for
    /// longer (two workers that opened it at once agree on the longer time).
    #[must_use]
    pub fn yields_to(&self, other: &Self) -> bool {
        let key = |record: &Self| match record.phase {
            Phase::Closed => (record.version, Instant::ZERO),
            Phase::Open { until, .. } => (record.version, until),
        };
        key(other) > key(self)
    }
}

/// A change of phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transition {
    /// The endpoint is out for `open`.
    Opened {
        /// How long until a trial is due.
        open: Duration,
        /// Why.
        cause: Cause,
    },
    /// The endpoint is back.
    Closed,
}

/// One endpoint's breaker as one worker sees it.
#[derive(Clone, Debug, Default)]
pub struct Breaker {
    record: Record,
    consecutive: u32,
    window: Window,
}

impl Breaker {
    /// What the workers share of it.
    #[must_use]
    pub const fn record(&self) -> &Record {
        &self.record
    }

    /// Takes over a newer record of another worker. Returns whether the phase changed.
    pub fn adopt(&mut self, other: &Record) -> bool {
        if !self.record.yields_to(other) {
            return false;
        }
        let changed = self.record.phase != other.phase;
        if changed {
            self.start_clean();
        }
        self.record = *other;
        changed
    }

    /// Whether attempts flow without any condition.
    #[must_use]
    pub const fn is_closed(&self) -> bool {
        matches!(self.record.phase, Phase::Closed)
    }

    /// Failures in a row.
    #[must_use]
    pub const fn consecutive(&self) -> u32 {
        self.consecutive
    }

    /// Whether it is open and nothing has succeeded since it opened.
    #[must_use]
    pub const fn is_dead(&self) -> bool {
        matches!(self.record.phase, Phase::Open { dead: true, .. })
    }

    /// When the present run of ejections began, if it is open.
    #[must_use]
    pub const fn open_since(&self) -> Option<Instant> {
        match self.record.phase {
            Phase::Open { since, .. } => Some(since),
            Phase::Closed => None,
        }
    }

    /// Since when a trial has been due, if it is open and one is.
    #[must_use]
    pub fn due_since(&self, now: Instant) -> Option<Instant> {
        match self.record.phase {
            Phase::Open { until, .. } if until <= now => Some(until),
            _ => None,
        }
    }

    /// Books an attempt that succeeded. `trial`: it was planned while the breaker was open.
    pub fn on_success(
        &mut self,
        trial: bool,
        settings: &CircuitBreaker,
        now: Instant,
    ) -> Option<Transition> {
        match self.record.phase {
            Phase::Closed => {
                self.consecutive = 0;
                self.window.add(1, 0, settings.success_rate.window, now);
                None
            }
            Phase::Open { .. } if trial => {
                self.start_clean();
                self.set(Phase::Closed, now);
                Some(Transition::Closed)
            }
            Phase::Open { .. } => None,
        }
    }

    /// Books an attempt that failed. `trial`: it was planned while the breaker was open.
    /// `peers_well`: some other endpoint's breaker is closed; where none is, a failed trial says
    /// nothing of this endpoint in particular, and its time out does not grow.
    pub fn on_failure(
        &mut self,
        (trial, peers_well): (bool, bool),
        settings: &CircuitBreaker,
        rng: &mut impl Rng,
        now: Instant,
    ) -> Option<Transition> {
        match self.record.phase {
            Phase::Closed => {
                self.consecutive = self.consecutive.saturating_add(1);
                self.window.add(0, 1, settings.success_rate.window, now);
                let cause = self.verdict(settings, now)?;
                self.forgive(settings, now);
                let ejections = self.record.ejections;
                self.record.ejections = ejections.saturating_add(1);
                Some(self.open((now, ejections), cause, settings, rng, now))
            }
            Phase::Open { since, until, .. } if trial && until <= now => {
                let ejections = if peers_well { self.record.ejections } else { 0 };
                self.record.ejections = self.record.ejections.max(ejections.saturating_add(1));
                Some(self.open((since, ejections), Cause::TrialFailed, settings, rng, now))
            }
            Phase::Open { .. } => None,
        }
    }

    fn verdict(&self, settings: &CircuitBreaker, now: Instant) -> Option<Cause> {
        let limit = settings.consecutive_failures;
        if limit > 0 && self.consecutive >= limit {
            return Some(Cause::ConsecutiveFailures);
        }
        let rule = &settings.success_rate;
        let below = self
            .window
            .counts(rule.window, now)
            .is_below(rule.threshold_percent, rule.minimum_requests);
        below.then_some(Cause::SuccessRate)
    }

    fn open(
        &mut self,
        (since, ejections): (Instant, u32),
        cause: Cause,
        settings: &CircuitBreaker,
        rng: &mut impl Rng,
        now: Instant,
    ) -> Transition {
        let open = open_time(ejections, settings, rng);
        let limit = settings.consecutive_failures;
        let dead = cause == Cause::TrialFailed || (limit > 0 && self.consecutive >= limit);
        self.set(Phase::Open { since, until: now.after(open), cause, dead }, now);
        Transition::Opened { open, cause }
    }

    fn set(&mut self, phase: Phase, now: Instant) {
        self.record.phase = phase;
        self.record.changed = now;
        self.record.version = self.record.version.saturating_add(1);
    }

    fn start_clean(&mut self) {
        self.consecutive = 0;
        self.window.clear();
    }

    fn forgive(&mut self, settings: &CircuitBreaker, now: Instant) {
        for _ in 0..DOUBLINGS_MAX {
            let Some(previous) = self.record.ejections.checked_sub(1) else { return };
            let quiet = grown(previous, settings).saturating_mul(FORGIVE_AFTER_OPEN_TIMES);
            if now.since(self.record.changed) < quiet {
                return;
            }
            self.record.changed = self.record.changed.after(quiet);
            self.record.ejections = previous;
        }
    }
}

/// `base_ejection_time` doubled `ejections` times, at most `max_ejection_time`.
fn grown(ejections: u32, settings: &CircuitBreaker) -> Duration {
    let factor = 1_u32.checked_shl(ejections.min(DOUBLINGS_MAX)).unwrap_or(u32::MAX);
    settings.base_ejection_time.saturating_mul(factor).min(settings.max_ejection_time)
}

/// The open time of the ejection after `ejections` others: grown, plus a uniform jitter of up to
/// `ejection_time_jitter_percent` of it, so that it is never shorter than configured.
fn open_time(ejections: u32, settings: &CircuitBreaker, rng: &mut impl Rng) -> Duration {
    let base = grown(ejections, settings);
    let jitter_max = base.saturating_mul(settings.ejection_time_jitter_percent) / 100;
    let jitter_ns = rng.below(u64::try_from(jitter_max.as_nanos()).unwrap_or(u64::MAX));
    base.saturating_add(Duration::from_nanos(jitter_ns))
}

#[cfg(test)]
#[path = "breaker_tests.rs"]
mod tests;

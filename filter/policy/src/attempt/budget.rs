//! The retry budget of one cluster: how many retries the whole process may spend.
//!
//! A limit on concurrent retries (Envoy's `retry_budget`) is 1.5 attempts a request when all of
//! them fail, and a limit per request is three. A budget over time is what bounds the load that
//! retries add: `percent` of the requests of the last `interval`, plus `min_retries_per_second`
//! (the rule and the defaults are Finagle's `RetryBudget`, also Linkerd's and tower's).
//!
//! Two horizons, not one: the same ratio must hold over the current tenth of the interval as
//! well. With the long horizon alone a quiet ten seconds save up a burst that the first seconds
//! of an outage spend at once, when it hurts most.
//!
//! The totals are two counters that every worker adds to and every worker reads; each worker
//! remembers their values at the start of each step, so nothing is ever reset and no worker has
//! to do it for the others. A retry that a request was granted before the budget ran out may
//! still come: the bound is the budget plus the retries of the requests in flight at that moment.

use crate::config::Budget as Settings;
use crate::time::Instant;

/// Steps in an interval.
const STEPS: u64 = 10;

/// Samples remembered: one a step, and the one before the first.
const SAMPLES: usize = STEPS as usize + 1;

/// Requests and retries of a cluster since the process began, over all workers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Requests that were planned.
    pub requests: u64,
    /// Retries that were spent.
    pub retries: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Sample {
    step: u64,
    totals: Totals,
}

/// One worker's view of the budget.
#[derive(Clone, Debug, Default)]
pub struct Budget {
    samples: [Sample; SAMPLES],
    current: Option<Sample>,
    newest: Totals,
}

impl Budget {
    /// Notes the process's totals at `now`; call it at least once a tick.
    pub fn observe(&mut self, totals: Totals, settings: &Settings, now: Instant) {
        self.newest = totals;
        if !self.needs_sample(settings, now) {
            return;
        }
        let step = step_of(settings, now);
        let sample = Sample { step, totals };
        if let Some(slot) = self.samples.get_mut(index_of(step)) {
            *slot = sample;
        }
        self.current = Some(sample);
    }

    /// The totals noted last.
    #[must_use]
    pub const fn newest(&self) -> Totals {
        self.newest
    }

    /// Whether the totals at `now` would begin a new step, so that they must be noted.
    #[must_use]
    pub fn needs_sample(&self, settings: &Settings, now: Instant) -> bool {
        self.current.is_none_or(|sample| sample.step != step_of(settings, now))
    }

    /// Whether one more retry is within the budget at `now`.
    #[must_use]
    pub fn allows(&self, settings: &Settings, now: Instant) -> bool {
        let Some(current) = self.current else { return true };
        let step = step_of(settings, now);
        let interval_ms = u64::try_from(settings.interval.as_millis()).unwrap_or(u64::MAX);
        let long = self.oldest_since(step.saturating_sub(STEPS - 1));
        self.within(long, interval_ms, settings)
            && (current.step != step || self.within(current.totals, interval_ms / STEPS, settings))
    }

    /// Whether the retries since `base` leave room for one more over `horizon_ms`.
    fn within(&self, base: Totals, horizon_ms: u64, settings: &Settings) -> bool {
        let requests = self.newest.requests.saturating_sub(base.requests);
        let retries = self.newest.retries.saturating_sub(base.retries);
        // in thousandths of a retry, so that the floor of a short horizon is not rounded away
        let share = requests.saturating_mul(u64::from(settings.percent)).saturating_mul(10);
        let floor = horizon_ms.saturating_mul(u64::from(settings.min_retries_per_second));
        retries.saturating_add(1).saturating_mul(1000) <= share.saturating_add(floor)
    }

    fn oldest_since(&self, step: u64) -> Totals {
        let in_window = self.samples.iter().filter(|sample| sample.step >= step);
        in_window.min_by_key(|sample| sample.step).map_or(self.newest, |sample| sample.totals)
    }
}

fn step_of(settings: &Settings, now: Instant) -> u64 {
    let interval_ns = u64::try_from(settings.interval.as_nanos()).unwrap_or(u64::MAX);
    // 0 marks a sample that was never taken
    (now.0 / (interval_ns / STEPS).max(1)).saturating_add(1)
}

fn index_of(step: u64) -> usize {
    usize::try_from(step % SAMPLES as u64).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::time::Duration;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn settings(percent: u32, floor: u32) -> Settings {
        Settings { percent, min_retries_per_second: floor, interval: Duration::from_secs(10) }
    }

    /// Requests that all fail at `per_second` for `ms`, each wanting two retries. Returns
    /// requests and retries.
    fn outage(budget: &mut Budget, s: &Settings, start_ms: u64, ms: u64, rate: u64) -> Totals {
        let before = budget.newest();
        let mut totals = before;
        for i in 0..(ms * rate / 1000) {
            let now = Instant::from_millis(start_ms + i * 1000 / rate);
            totals.requests += 1;
            budget.observe(totals, s, now);
            for _ in 0..2 {
                if budget.allows(s, now) {
                    totals.retries += 1;
                    budget.observe(totals, s, now);
                }
            }
        }
        Totals {
            requests: totals.requests - before.requests,
            retries: totals.retries - before.retries,
        }
    }

    #[test]
    fn an_outage_gets_a_fifth_of_its_requests_and_ten_a_second() {
        let s = settings(20, 10);
        let mut budget = Budget::default();
        let seen = outage(&mut budget, &s, 1_000_000, 20_000, 500);
        let most = seen.requests / 5 + 10 * 20;
        assert!(seen.retries <= most, "{seen:?}");
        assert!(seen.retries >= most * 9 / 10, "{seen:?}");
    }

    #[test]
    fn ten_quiet_seconds_do_not_buy_a_burst() {
        let s = settings(20, 10);
        let mut budget = Budget::default();
        let mut totals = Totals::default();
        for i in 0..5000 {
            totals.requests += 1;
            budget.observe(totals, &s, Instant::from_millis(1_000_000 + i * 2));
        }
        let seen = outage(&mut budget, &s, 1_010_000, 2000, 500);
        assert!(seen.retries <= seen.requests / 5 + 10 * 3, "{seen:?}");
    }

    #[test]
    fn the_floor_alone_lets_a_quiet_cluster_retry() {
        let s = settings(0, 10);
        let mut budget = Budget::default();
        let seen = outage(&mut budget, &s, 1_000_000, 1000, 100);
        assert_eq!(seen.retries, 10);
    }

    #[test]
    fn percent_and_floor_of_zero_allow_nothing() {
        let s = settings(0, 0);
        let mut budget = Budget::default();
        assert_eq!(outage(&mut budget, &s, 1_000_000, 5000, 100).retries, 0);
    }

    #[test]
    fn finagles_frozen_clock_rows_hold_within_the_short_horizon() {
        // one instant: 20 % of n, and the floor of one step (a tenth of Finagle's ttl)
        for (percent, floor, n, expected) in [(10, 0, 10_000, 1000), (50, 10, 10_000, 5010)] {
            let s = settings(percent, floor);
            let mut budget = Budget::default();
            let now = Instant::from_millis(5_000_000);
            let (mut totals, mut granted) = (Totals::default(), 0);
            budget.observe(totals, &s, now);
            for _ in 0..n {
                totals.requests += 1;
                budget.observe(totals, &s, now);
                if budget.allows(&s, now) {
                    granted += 1;
                    totals.retries += 1;
                    budget.observe(totals, &s, now);
                }
            }
            assert_eq!(granted, expected);
        }
    }

    #[test]
    fn totals_that_wrap_or_go_back_do_not_trap() {
        let s = settings(100, 1000);
        let mut budget = Budget::default();
        let high = Totals { requests: u64::MAX, retries: u64::MAX };
        budget.observe(high, &s, Instant(u64::MAX));
        budget.observe(Totals::default(), &s, Instant(0));
        assert!(budget.allows(&s, Instant(u64::MAX)));
    }
}

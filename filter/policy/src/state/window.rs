//! Exact success and failure counts over a sliding window.
//!
//! Counts in a ring of buckets, not a time-decayed average: a decayed average moves little when
//! a fast, total failure follows a long good time, which is just the case a breaker is for
//! (the reasoning, and the vectors, are those of linkerd2-proxy's `breaker/success_rate.rs`).
//! Reading does not write: buckets that have aged out are left out of the sum.

use core::time::Duration;

use crate::time::Instant;

/// Buckets in a window; the window's edge is exact to a tenth of its length.
pub const BUCKETS: usize = 10;

#[derive(Clone, Copy, Debug, Default)]
struct Bucket {
    /// Which step of the clock the counts belong to.
    step: u64,
    successes: u32,
    failures: u32,
}

/// Counts of one endpoint's attempts.
#[derive(Clone, Debug, Default)]
pub struct Window {
    buckets: [Bucket; BUCKETS],
}

/// What a window holds at an instant, in attempts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Attempts that succeeded.
    pub successes: u32,
    /// Attempts that failed.
    pub failures: u32,
}

impl Counts {
    /// All attempts.
    #[must_use]
    pub const fn total(self) -> u32 {
        self.successes.saturating_add(self.failures)
    }

    /// Whether at least `minimum_requests` (and at least one) were seen and fewer than
    /// `threshold_percent` of them succeeded.
    #[must_use]
    pub fn is_below(self, threshold_percent: u32, minimum_requests: u32) -> bool {
        let total = self.total();
        total > 0
            && total >= minimum_requests
            && u64::from(self.successes) * 100 < u64::from(threshold_percent) * u64::from(total)
    }
}

impl Window {
    /// Adds `successes` and `failures` at `now`; `window` is the length of the whole window.
    pub fn add(&mut self, successes: u32, failures: u32, window: Duration, now: Instant) {
        let step = step_of(window, now);
        let index = usize::try_from(step % BUCKETS as u64).unwrap_or(0);
        if let Some(bucket) = self.buckets.get_mut(index) {
            if bucket.step != step {
                *bucket = Bucket { step, ..Bucket::default() };
            }
            bucket.successes = bucket.successes.saturating_add(successes);
            bucket.failures = bucket.failures.saturating_add(failures);
        }
    }

    /// The counts of the last `window` before `now`.
    #[must_use]
    pub fn counts(&self, window: Duration, now: Instant) -> Counts {
        let step = step_of(window, now);
        let oldest = step.saturating_sub(BUCKETS as u64 - 1);
        let mut sum = Counts::default();
        for bucket in self.buckets.iter().filter(|b| b.step >= oldest && b.step <= step) {
            sum.successes = sum.successes.saturating_add(bucket.successes);
            sum.failures = sum.failures.saturating_add(bucket.failures);
        }
        sum
    }

    /// Forgets everything: an endpoint that comes back starts with a clean record.
    pub fn clear(&mut self) {
        *self = Self::default();
    }
}

fn step_of(window: Duration, now: Instant) -> u64 {
    let step_ns = u64::try_from(window.as_nanos()).unwrap_or(u64::MAX) / BUCKETS as u64;
    now.0 / step_ns.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    const TEN_S: Duration = Duration::from_secs(10);

    fn at(s: u64) -> Instant {
        Instant::from_millis(s * 1000)
    }

    fn counts(successes: u32, failures: u32) -> Counts {
        Counts { successes, failures }
    }

    #[test]
    fn the_rule_matches_linkerds_rows() {
        assert!(!counts(0, 0).is_below(100, 0));
        assert!(counts(0, 1).is_below(50, 0));
        assert!(!counts(3, 0).is_below(100, 4));
        assert!(counts(3, 1).is_below(100, 4));
        assert!(!counts(0, 4).is_below(50, 5));
        assert!(counts(0, 5).is_below(50, 5));
    }

    #[test]
    fn old_failures_age_out() {
        let mut window = Window::default();
        window.add(0, 5, TEN_S, at(0));
        assert_eq!(window.counts(TEN_S, at(0)), counts(0, 5));
        window.add(1, 0, TEN_S, at(11));
        assert_eq!(window.counts(TEN_S, at(11)), counts(1, 0));
    }

    #[test]
    fn counts_within_the_window_are_exact() {
        let mut window = Window::default();
        window.add(0, 2, TEN_S, at(0));
        window.add(8, 0, TEN_S, at(6));
        assert_eq!(window.counts(TEN_S, at(6)), counts(8, 2));
    }

    #[test]
    fn a_long_idle_gap_and_a_clock_that_goes_back_do_not_wedge_it() {
        let mut window = Window::default();
        window.add(3, 0, TEN_S, at(1_000_000_000));
        window.add(0, 1, TEN_S, at(5));
        assert_eq!(window.counts(TEN_S, at(5)), counts(0, 1));
        window.add(u32::MAX, 0, TEN_S, at(5));
        window.add(u32::MAX, 0, TEN_S, at(5));
        assert_eq!(window.counts(TEN_S, at(5)).total(), u32::MAX);
        assert_eq!(window.counts(Duration::ZERO, at(5)).total(), 0);
    }
}

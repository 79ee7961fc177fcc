//! Latency of one endpoint, as a peak-sensitive average that fades while nothing is heard.
//!
//! A sample above the estimate replaces it, one below pulls it down with weight `1 - e^(-dt/tau)`,
//! and what is read has faded by `e^(-dt/tau)` since the last sample, so that an endpoint that was
//! slow once is tried again after a while. This is Finagle's peak EWMA
//! (`loadbalancer/PeakEwma.scala`) in the form of linkerd2-proxy's `ewma` crate: a read does not
//! write, and "above" means above the faded estimate. tower's agrees with it wherever its
//! estimate was read just before.
//!
//! Without history an endpoint is taken to have the default latency as of its creation, faded
//! likewise (tower), so that one that joins is tried after `tau * ln(default / peers)` at the
//! latest. While its first request is pending it costs more than anything measured (Finagle,
//! Envoy's `peak_ewma`): one request explores, and the rest wait for what it finds.
//!
//! None of them knows failures, so to them a 503 in 1 ms is a fast answer, and the endpoint that
//! fails draws all traffic (a sinkhole). Here a failure counts as [`FAILURE_FACTOR`] times what
//! was estimated, or the default if that is more, and each further failure of an attempt that
//! *began* after the last one as that many times more, up to [`FAILURE_COST_MAX`]. Attempts that
//! were already under way when the first one failed tell nothing new: one reset connection with a
//! hundred streams is one failure. The penalty is an estimate like any other. Against peers at
//! `h` the endpoint is tried again when `tau * ln(penalty / h)` is over (81 s for 10 s against 3 ms
//! at the default of 10 s), so at `r` requests a second its share is about the inverse of `r` times
//! that: 1.3 % at 1/s among five, 0.2 % at 10/s. Where several `tau` pass between requests the
//! estimates have all faded, and its share nears the others' from below; being out
//! altogether is the breaker's business.

use core::time::Duration;

use crate::time::Instant;

/// Shortest decay time; less would forget a sample before it can be read.
pub const DECAY_MIN: Duration = Duration::from_millis(1);

/// How many times the estimate so far a failure counts as.
pub const FAILURE_FACTOR: f64 = 5.0;

/// The most that a failure counts as, unless it really took longer.
pub const FAILURE_COST_MAX: Duration = Duration::from_secs(10);

/// How many times the time that it was waited for an attempt that was given up counts as: a
/// duration of which only a lower bound is known is expected to last as long again.
pub const GIVEN_UP_FACTOR: f64 = 2.0;

/// Cost, in microseconds, of an endpoint whose first request is pending: Envoy's and Finagle's
/// penalty of 10^6 ms, above any latency that a request can have.
const UNKNOWN_COST_US: f64 = 1e9;

/// What each pending request adds to [`UNKNOWN_COST_US`], in microseconds: Envoy adds one to a
/// cost in milliseconds.
const UNKNOWN_STEP_US: f64 = 1e3;

/// The latency estimate of one endpoint.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ewma {
    /// The estimate as of `at`, in microseconds; finite and not negative.
    value_us: f64,
    /// When the last sample came, or the endpoint was created.
    at: Instant,
    sampled: bool,
    /// Whether the last sample was a failure.
    failing: bool,
}

impl Ewma {
    /// An endpoint without history that was first heard of at `created`.
    #[must_use]
    pub const fn new(created: Instant) -> Self {
        Self { value_us: 0.0, at: created, sampled: false, failing: false }
    }

    /// Whether anything was observed yet.
    #[must_use]
    pub const fn has_history(&self) -> bool {
        self.sampled
    }

    /// The estimate at `now` in microseconds: finite, not negative.
    #[must_use]
    pub fn get(&self, now: Instant, decay: Duration, default_rtt: Duration) -> f64 {
        let value_us = if self.sampled { self.value_us } else { micros(default_rtt) };
        value_us * self.remaining(now, decay)
    }

    /// What one more request costs at `now` with `active` in flight, in microseconds: the
    /// estimate for each of them and the new one; never NaN.
    #[must_use]
    pub fn cost(&self, active: u32, now: Instant, decay: Duration, default_rtt: Duration) -> f64 {
        if !self.sampled && active > 0 {
            return UNKNOWN_COST_US + UNKNOWN_STEP_US * f64::from(active);
        }
        self.get(now, decay, default_rtt) * (f64::from(active) + 1.0)
    }

    /// Books an attempt that ended well at `now` and took `sample`.
    pub fn observe(&mut self, sample: Duration, now: Instant, decay: Duration) {
        self.book(micros(sample), now, decay);
        self.failing = false;
    }

    /// Books an attempt that failed at `now` after `elapsed`.
    pub fn observe_failure(
        &mut self,
        elapsed: Duration,
        now: Instant,
        decay: Duration,
        default_rtt: Duration,
    ) {
        self.fail(micros(elapsed), elapsed, now, decay, default_rtt);
    }

    /// Books an attempt that was given up unanswered at `now` after `elapsed`. One that took longer
    /// than usual failed, as far as its client is concerned, and would have taken longer still:
    /// it counts as a failure after [`GIVEN_UP_FACTOR`] times that. A client that leaves earlier
    /// says nothing.
    pub fn observe_given_up(
        &mut self,
        elapsed: Duration,
        now: Instant,
        decay: Duration,
        default_rtt: Duration,
    ) {
        if micros(elapsed) >= self.get(now, decay, default_rtt) {
            self.fail(GIVEN_UP_FACTOR * micros(elapsed), elapsed, now, decay, default_rtt);
        }
    }

    fn fail(
        &mut self,
        least_us: f64,
        elapsed: Duration,
        now: Instant,
        decay: Duration,
        default_rtt: Duration,
    ) {
        let is_news = !self.failing || now.before(elapsed) > self.at;
        let estimate = if self.failing { self.value_us } else { self.get(now, decay, default_rtt) };
        let factor = if is_news { FAILURE_FACTOR } else { 1.0 };
        let penalty = factor * estimate.max(micros(default_rtt));
        self.book(least_us.max(penalty.min(micros(FAILURE_COST_MAX))), now, decay);
        self.failing = true;
    }

    fn book(&mut self, sample_us: f64, now: Instant, decay: Duration) {
        let remaining = self.remaining(now, decay);
        let faded = self.value_us * remaining;
        self.value_us = if !self.sampled || faded < sample_us {
            sample_us
        } else {
            faded + sample_us * (1.0 - remaining)
        };
        self.at = now;
        self.sampled = true;
    }

    /// The part of a value that is left since the last sample: 1 at once, and where the clock
    /// went back.
    fn remaining(&self, now: Instant, decay: Duration) -> f64 {
        let decays = now.since(self.at).as_secs_f64() / decay.max(DECAY_MIN).as_secs_f64();
        (-decays).exp()
    }
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    const TAU: Duration = Duration::from_secs(10);
    const DEFAULT: Duration = Duration::from_millis(10);
    const FAST: Duration = Duration::from_millis(1);
    const USUAL: Duration = Duration::from_millis(3);

    fn at(ms: u64) -> Instant {
        Instant::from_millis(1_000_000 + ms)
    }

    fn estimate_ms(ewma: &Ewma, now: Instant) -> f64 {
        ewma.get(now, TAU, DEFAULT) / 1000.0
    }

    fn fail(ewma: &mut Ewma, now: Instant) {
        ewma.observe_failure(FAST, now, TAU, DEFAULT);
    }

    #[test]
    fn it_is_three_words() {
        assert_eq!(size_of::<Ewma>(), 24);
    }

    #[test]
    fn an_endpoint_that_joins_fades_to_its_peers_and_is_then_explored_by_one_request() {
        let mut joined = Ewma::new(at(0));
        let mut peer = Ewma::new(at(0));
        peer.observe(USUAL, at(12_500), TAU);
        let cost = |ewma: &Ewma, active| ewma.cost(active, at(12_500), TAU, DEFAULT);
        assert!(cost(&joined, 0) < cost(&peer, 0));
        assert!(cost(&joined, 1) > cost(&peer, 1000));
        assert!(cost(&joined, 2) > cost(&joined, 1));
        joined.observe(USUAL, at(12_500), TAU);
        assert!(cost(&joined, 1) < cost(&peer, 2));
    }

    #[test]
    fn failures_one_after_the_other_escalate_to_the_cap() {
        let mut ewma = Ewma::new(at(0));
        let mut seen = Vec::new();
        for n in 0..6 {
            fail(&mut ewma, at(n * 100));
            seen.push(estimate_ms(&ewma, at(n * 100)).round());
        }
        assert_eq!(seen, [50.0, 250.0, 1250.0, 6250.0, 10_000.0, 10_000.0]);
    }

    #[test]
    fn a_failure_after_the_penalty_has_faded_still_escalates() {
        let mut ewma = Ewma::new(at(0));
        fail(&mut ewma, at(0));
        assert!(estimate_ms(&ewma, at(60_000)) < 1.0);
        fail(&mut ewma, at(60_000));
        assert!((estimate_ms(&ewma, at(60_000)) - 250.0).abs() < 0.01);
    }

    #[test]
    fn a_hundred_streams_of_one_reset_connection_are_one_failure() {
        let mut ewma = Ewma::new(at(0));
        ewma.observe(USUAL, at(100), TAU);
        for n in 0..100 {
            ewma.observe_failure(USUAL, Instant(at(200).0 + n), TAU, DEFAULT);
        }
        assert!((estimate_ms(&ewma, at(200)) - 50.0).abs() < 0.1);
    }

    #[test]
    fn a_failure_that_took_long_counts_as_long_as_it_took() {
        let mut ewma = Ewma::new(at(0));
        ewma.observe_failure(Duration::from_secs(60), at(0), TAU, DEFAULT);
        assert!((estimate_ms(&ewma, at(0)) - 60_000.0).abs() < 0.01);
    }

    #[test]
    fn an_endpoint_that_answers_well_again_is_among_its_peers_after_ten_decay_times() {
        let mut ewma = Ewma::new(at(0));
        for n in 0..10 {
            fail(&mut ewma, at(n * 100));
        }
        let mut answered = ewma;
        answered.observe(USUAL, at(1000), TAU);
        assert!(estimate_ms(&answered, at(1000)) > 9000.0, "one answer is no pardon");
        assert!(estimate_ms(&ewma, at(101_000)) < 3.0);
        for s in 2..101 {
            answered.observe(USUAL, at(s * 1000), TAU);
        }
        assert!(estimate_ms(&answered, at(100_000)) < 4.0);
    }

    #[test]
    fn no_clock_and_no_duration_make_it_infinite_or_nan() {
        let times = [Duration::ZERO, Duration::from_nanos(1), Duration::MAX];
        let instants = [Instant::ZERO, Instant(u64::MAX), at(5)];
        for decay in times {
            let mut ewma = Ewma::new(at(0));
            for now in instants.into_iter().cycle().take(9) {
                for sample in times {
                    ewma.observe(sample, now, decay);
                    ewma.observe_failure(sample, now, decay, sample);
                    let cost = ewma.cost(u32::MAX, now, decay, sample);
                    assert!(cost.is_finite() && cost >= 0.0, "{cost}");
                }
            }
        }
    }

    #[test]
    fn a_clock_that_went_back_does_not_freeze_it() {
        let mut ewma = Ewma::new(at(3_600_000));
        ewma.observe(Duration::from_secs(5), at(3_600_000), TAU);
        ewma.observe(USUAL, at(0), TAU);
        ewma.observe(USUAL, at(100_000), TAU);
        assert!(estimate_ms(&ewma, at(100_000)) < 4.0);
    }
}

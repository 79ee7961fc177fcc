//! A new endpoint, or one that has come back, is brought up to its share.
//!
//! [`factor`] is Envoy's curve (`EdfLoadBalancerBase::applySlowStartFactor`): the share of its
//! full weight that an endpoint has a given time after its start. Envoy's text gives the time at
//! least one second; its code, which is followed here, one millisecond, and at most times the
//! least weight is larger than either.
//!
//! Envoy multiplies weights, so it slows round robin and least request only. Here an endpoint is
//! *thinned*: as a first choice it is accepted with a probability, and passed over otherwise. That
//! works under any policy, and a schedule or a table need not be built anew as time goes on. The
//! probability is relative to the largest factor among the admitted, so that nobody is passed
//! over where all have just started. Among `n` equal peers a factor of `f` gives `f / n` of the
//! requests, slightly below Envoy's `f / (n - 1 + f)`.
//!
//! For the hashing policies the draw is made from the request's hash and the endpoint, so that a
//! key that was accepted once stays: the keys of the endpoint only grow.

use core::time::Duration;

use crate::config::SlowStart;
use crate::rng::{Rng, SplitMix64};
use crate::time::Instant;

/// Time since the start that counts at least, as in Envoy's code.
const SINCE_MIN: Duration = Duration::from_millis(1);

/// The share of its full weight that an endpoint has `since` after it started: above 0, at most
/// 1, and 1 from the end of the window on.
#[must_use]
pub fn factor(settings: &SlowStart, since: Duration) -> f64 {
    if since >= settings.window {
        return 1.0;
    }
    let time = since.max(SINCE_MIN).as_secs_f64() / settings.window.as_secs_f64();
    let exponent = 1000.0 / f64::from(settings.aggression_milli.max(1));
    let least = f64::from(settings.min_weight_percent) / 100.0;
    time.powf(exponent).max(least).clamp(f64::MIN_POSITIVE, 1.0)
}

/// Whether a member that is accepted with probability `acceptance` is accepted at this uniform
/// `draw`. A draw that accepts at one probability accepts at every larger one.
#[must_use]
pub fn accepts(acceptance: f64, draw: u64) -> bool {
    // The 53 bits that an f64 holds exactly: always below 1.
    ((draw >> 11) as f64 / (1_u64 << 53) as f64) < acceptance
}

/// The draw for a request of a hashing policy: fixed for the request's hash and the hash of the
/// endpoint's address, independent between endpoints.
#[must_use]
pub fn draw_for(hash: u64, address_hash: u64) -> u64 {
    SplitMix64::new(hash ^ address_hash).next_u64()
}

/// How likely each member of a cluster is accepted as a first choice; worked out when something
/// changes and on ticks, so that a pick only reads.
#[derive(Clone, Debug, Default)]
pub struct Acceptances {
    of_member: Vec<f64>,
    thinned: bool,
}

impl Acceptances {
    /// Works them out again at `now`. `members`: for each, in their order, when it started
    /// (`None`: before anybody remembers) and whether it is admitted. Reuses its memory.
    pub fn refresh(
        &mut self,
        settings: &SlowStart,
        members: impl Iterator<Item = (Option<Instant>, bool)>,
        now: Instant,
    ) {
        self.of_member.clear();
        let mut largest = 0.0_f64;
        for (started, admitted) in members {
            let factor = started.map_or(1.0, |started| factor(settings, now.since(started)));
            largest = if admitted { largest.max(factor) } else { largest };
            self.of_member.push(factor);
        }
        self.thinned = false;
        for acceptance in &mut self.of_member {
            *acceptance = if *acceptance < largest { *acceptance / largest } else { 1.0 };
            self.thinned |= *acceptance < 1.0;
        }
    }

    /// Whether anybody is passed over at times; if not, nothing need be drawn.
    #[must_use]
    pub const fn is_thinning(&self) -> bool {
        self.thinned
    }

    /// How likely `member` is accepted as a first choice; 1 for one that is not known.
    #[must_use]
    pub fn of(&self, member: u32) -> f64 {
        self.of_member.get(member as usize).copied().unwrap_or(1.0)
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::hash::xxh64;

    fn settings(window_s: u64, aggression_milli: u32, min_weight_percent: u32) -> SlowStart {
        SlowStart { window: Duration::from_secs(window_s), aggression_milli, min_weight_percent }
    }

    fn started(ms: u64) -> Option<Instant> {
        Some(Instant::from_millis(100_000 - ms))
    }

    fn acceptances(members: &[(Option<Instant>, bool)]) -> Acceptances {
        let mut acceptances = Acceptances::default();
        let now = Instant::from_millis(100_000);
        acceptances.refresh(&settings(10, 1000, 10), members.iter().copied(), now);
        acceptances
    }

    #[test]
    fn the_factor_is_never_zero_and_one_after_the_window_whatever_is_configured() {
        for aggression in [0, 1, 500, 1000, 100_000, u32::MAX] {
            for percent in [0, 1, 100, 10_000] {
                for window in [0, 1, 3600] {
                    let s = settings(window, aggression, percent);
                    let mut last = 0.0;
                    for ms in [0, 1, 500, 999, 1000, 5000, 3_599_999, 3_600_000, u64::MAX] {
                        let f = factor(&s, Duration::from_millis(ms));
                        assert!(f > 0.0 && f <= 1.0 && f >= last, "{s:?} {ms}: {f}");
                        last = f;
                    }
                    assert!(last >= 1.0);
                }
            }
        }
    }

    #[test]
    fn a_draw_accepts_as_often_as_it_should_and_always_or_never_at_the_ends() {
        assert!(accepts(1.0, u64::MAX));
        assert!(!accepts(0.5, u64::MAX));
        let mut rng = SplitMix64::new(3);
        let accepted = (0..100_000).filter(|_| accepts(0.3, rng.next_u64())).count();
        assert!((29_500..30_500).contains(&accepted), "{accepted}");
    }

    #[test]
    fn the_keys_that_a_member_is_accepted_for_only_grow() {
        let address = xxh64(b"10.0.0.1:80", 0);
        let keys: Vec<u64> = (0..10_000_u64).map(|key| xxh64(&key.to_le_bytes(), 0)).collect();
        let mut before: Vec<bool> = vec![false; keys.len()];
        for percent in 1..=100 {
            let accepts_key =
                |key: &u64| accepts(f64::from(percent) / 100.0, draw_for(*key, address));
            let now: Vec<bool> = keys.iter().map(accepts_key).collect();
            assert!(before.iter().zip(&now).all(|(before, now)| !before || *now));
            let accepted = now.iter().filter(|accepted| **accepted).count();
            assert!(accepted.abs_diff(percent as usize * 100) < 200, "{percent} %: {accepted}");
            before = now;
        }
    }

    #[test]
    fn two_members_thin_different_keys() {
        let addresses = [xxh64(b"10.0.0.1:80", 0), xxh64(b"10.0.0.2:80", 0)];
        let both = (0..10_000_u64)
            .filter(|key| addresses.iter().all(|address| accepts(0.5, draw_for(*key, *address))));
        let both = both.count();
        assert!((2300..2700).contains(&both), "{both}");
    }

    #[test]
    fn one_that_just_started_is_thinned_among_old_ones() {
        let acceptances =
            acceptances(&[(None, true), (started(2000), true), (started(20_000), true)]);
        assert!(acceptances.is_thinning());
        assert_eq!([0, 1, 2, 7].map(|member| acceptances.of(member)), [1.0, 0.2, 1.0, 1.0]);
    }

    #[test]
    fn where_all_have_just_started_nobody_is_thinned() {
        let same = acceptances(&[(started(2000), true); 3]);
        assert!(!same.is_thinning());
        let staggered = acceptances(&[(started(2000), true), (started(4000), true)]);
        assert_eq!([0, 1].map(|member| staggered.of(member)), [0.5, 1.0]);
    }

    #[test]
    fn old_ones_that_are_held_out_do_not_count() {
        let acceptances =
            acceptances(&[(None, false), (started(2000), true), (started(2000), true)]);
        assert!(!acceptances.is_thinning());
    }
}

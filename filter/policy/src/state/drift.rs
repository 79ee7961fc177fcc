//! Whether a counter of requests in flight is off, and by how much.
//!
//! A worker that dies never takes off what it had added, so its counters stay too high. Envoy's own
//! `rq_active` tells what is right, but it is read at another instant than the counter: under load
//! the two differ by chance. So only what has the same sign in [`POLLS`] polls in a row counts, and
//! of that the least; and where requests are in flight, only what is more than they can make up.

/// Polls that must agree before a counter is put right.
pub const POLLS: u8 = 3;

/// Where requests are in flight, the least that is put right.
const BUSY_MIN: i64 = 2;

/// And this part of them.
const BUSY_PART: i64 = 8;

/// What polls in a row said about one counter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drift {
    least: i64,
    polls: u8,
}

impl Drift {
    /// Notes a poll at which the counter stood at `counted` and Envoy had `active` requests in
    /// flight. Returns by how much to lower the counter.
    pub fn note(&mut self, counted: i64, active: i64) -> i64 {
        let drift = counted.saturating_sub(active);
        let least = if active == 0 { 1 } else { BUSY_MIN.max(active / BUSY_PART) };
        if drift.saturating_abs() < least {
            *self = Self::default();
            return 0;
        }
        *self = if self.polls > 0 && drift.signum() == self.least.signum() {
            let nearer = if drift.saturating_abs() < self.least.saturating_abs() {
                drift
            } else {
                self.least
            };
            Self { least: nearer, polls: self.polls.saturating_add(1) }
        } else {
            Self { least: drift, polls: 1 }
        };
        if self.polls < POLLS { 0 } else { core::mem::take(self).least }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn only_what_polls_in_a_row_agree_on_is_put_right_and_of_that_the_least() {
        let mut drift = Drift::default();
        let counted = [3, 5, 2, 4, 4, 0, 4, -1, -2, -3];
        assert_eq!(counted.map(|counted| drift.note(counted, 0)), [0, 0, 2, 0, 0, 0, 0, 0, 0, -1]);
    }

    #[test]
    fn what_requests_in_flight_can_make_up_is_left_alone() {
        let mut drift = Drift::default();
        assert_eq!([41, 42, 43, 44, 41].map(|counted| drift.note(counted, 40)), [0; 5]);
        assert_eq!([45, 46, 47].map(|counted| drift.note(counted, 40)), [0, 0, 5]);
        assert_eq!([6, 6, 6].map(|counted| drift.note(counted, 5)), [0; 3], "one is chance");
        assert_eq!([7, 7, 7].map(|counted| drift.note(counted, 5)), [0, 0, 2]);
    }

    #[test]
    fn the_ends_of_the_numbers_do_no_harm() {
        let mut drift = Drift::default();
        for _ in 0..5 {
            drift.note(i64::MIN, i64::MAX);
            drift.note(i64::MAX, i64::MIN);
        }
    }
}

//! For how long nothing has been heard of an endpoint that owes answers.
//!
//! A latency estimate learns from answers, so that an endpoint which has become slow looks as fast
//! as ever until its first slow answer comes, and takes its share of requests until then. But while
//! it owes answers, the time since it gave the last one is a lower bound of what the next one will
//! have taken. One instant and one count an endpoint are enough, because it is the last sign of
//! life that matters, not whose answer it was: an endpoint under load that is well gives one long
//! before a usual latency has passed.

use core::time::Duration;

use crate::time::Instant;

/// Silence for longer than this says nothing any more: what is owed is a stream that is meant to
/// last, or its end was never told.
pub const SILENCE_MAX: Duration = Duration::from_secs(60);

/// What one endpoint owes to one worker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Silence {
    pending: u32,
    since: Instant,
}

impl Silence {
    /// An attempt begins.
    pub fn begin(&mut self, now: Instant) {
        if self.pending == 0 {
            self.since = now;
        }
        self.pending = self.pending.saturating_add(1);
    }

    /// An attempt ended, well or not.
    pub const fn end(&mut self, now: Instant) {
        self.pending = self.pending.saturating_sub(1);
        self.since = now;
    }

    /// For how long it has owed an answer without giving one.
    #[must_use]
    pub fn lasts(&self, now: Instant) -> Duration {
        let lasts = now.since(self.since);
        if self.pending == 0 || lasts > SILENCE_MAX { Duration::ZERO } else { lasts }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn silence_begins_with_the_first_debt_and_again_with_each_answer() {
        let at = Instant::from_millis;
        let mut silence = Silence::default();
        assert_eq!(silence.lasts(at(5)), Duration::ZERO, "nothing is owed");
        silence.begin(at(10));
        silence.begin(at(20));
        assert_eq!(silence.lasts(at(30)), Duration::from_millis(20));
        silence.end(at(40));
        assert_eq!(silence.lasts(at(45)), Duration::from_millis(5));
        silence.end(at(50));
        assert_eq!(silence.lasts(at(90)), Duration::ZERO);
    }

    #[test]
    fn silence_that_never_ends_is_forgotten() {
        let mut silence = Silence::default();
        silence.begin(Instant::ZERO);
        assert_eq!(silence.lasts(Instant::ZERO.after(SILENCE_MAX)), SILENCE_MAX);
        assert_eq!(silence.lasts(Instant::ZERO.after(SILENCE_MAX * 2)), Duration::ZERO);
    }
}

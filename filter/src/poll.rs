//! Asking Envoy's admin for the membership, once for the whole process.

use core::time::Duration;

use outrigger_policy::membership::lease::Lease;
use outrigger_policy::time::Instant;

/// A lease lasts this many intervals beyond the poll that renews it.
const LEASE_INTERVALS: u32 = 3;

/// Reading an answer takes at most one part in this many of a worker's time: with very many
/// endpoints the polls become rarer instead of slowing requests.
const DUTY: u32 = 50;

/// How often a VM looks whether the lease of another one has ended; looking is a host call that
/// returns bytes.
const LOOKS: Duration = Duration::from_secs(1);

/// A poll that something called for comes at the earliest so long after the last one.
const HURRIED: Duration = Duration::from_millis(500);

/// The polls of one worker.
#[derive(Debug, Default)]
pub struct Poll {
    in_flight: Option<(u32, Instant)>,
    sent: Instant,
    due: Instant,
    /// Before this no poll, whatever calls for one: the last answer was costly.
    rested: Instant,
}

impl Poll {
    /// Whether to ask now. A call whose answer never came is given up at its deadline.
    pub fn is_due(&self, now: Instant) -> bool {
        self.due <= now && self.in_flight.is_none_or(|(_, deadline)| deadline <= now)
    }

    /// A call was made.
    pub fn sent(&mut self, call: u32, timeout: Duration, interval: Duration, now: Instant) {
        self.in_flight = Some((call, now.after(timeout.saturating_mul(2))));
        self.sent = now;
        self.due = now.after(interval);
    }

    /// Something hints that the membership has changed: an endpoint cannot be reached.
    pub fn hurry(&mut self, now: Instant) {
        self.due = self.due.min(self.sent.after(HURRIED).max(now)).max(self.rested);
    }

    /// The call could not be made; try again after `interval`.
    pub fn failed(&mut self, interval: Duration, now: Instant) {
        self.due = now.after(interval);
    }

    /// Another VM holds the lease.
    pub fn held_by_another(&mut self, now: Instant) {
        self.due = now.after(LOOKS);
    }

    /// Whether `call` is the one that is waited for; it is then not waited for any longer.
    pub fn is_answered_by(&mut self, call: u32) -> bool {
        let ours = self.in_flight.is_some_and(|(waiting, _)| waiting == call);
        if ours {
            self.in_flight = None;
        }
        ours
    }

    /// Reading the answer took `cost`.
    pub fn took(&mut self, cost: Duration, now: Instant) {
        self.rested = now.after(cost.saturating_mul(DUTY));
        self.due = self.due.max(self.rested);
    }

    /// The lease that a poll at `now` needs.
    pub fn lease(owner: u64, fit: bool, interval: Duration, now: Instant) -> Lease {
        Lease { owner, until: now.after(interval.saturating_mul(LEASE_INTERVALS)), fit }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn at(ms: u64) -> Instant {
        Instant::from_millis(ms)
    }

    #[test]
    fn one_call_at_a_time_and_a_lost_one_does_not_end_the_polls() {
        let mut poll = Poll::default();
        assert!(poll.is_due(at(0)));
        poll.sent(7, SECOND, SECOND / 10, at(0));
        assert!(!poll.is_due(at(500)), "still waiting");
        assert!(poll.is_due(at(2000)), "given up");
        assert!(!poll.is_answered_by(8));
        assert!(poll.is_answered_by(7));
        assert!(!poll.is_answered_by(7));
    }

    #[test]
    fn a_costly_answer_makes_polls_rarer() {
        let mut poll = Poll::default();
        poll.sent(7, SECOND, SECOND, at(0));
        poll.is_answered_by(7);
        poll.took(SECOND / 10, at(100));
        assert!(!poll.is_due(at(5000)));
        poll.hurry(at(1000));
        assert!(!poll.is_due(at(5000)), "nothing hurries it");
        assert!(poll.is_due(at(5100)));
    }

    #[test]
    fn an_endpoint_that_cannot_be_reached_hurries_the_next_poll() {
        let mut poll = Poll::default();
        poll.sent(7, SECOND, SECOND * 5, at(0));
        poll.is_answered_by(7);
        poll.hurry(at(100));
        assert!(!poll.is_due(at(400)));
        assert!(poll.is_due(at(500)));
    }
}

//! Which stream tried which endpoint, until it is known how that ended.
//!
//! Envoy tells the plugin of every attempt that failed (the upstream access logger, filtered to
//! failures), but asking it how a good request went costs more than all the rest of the request.
//! So successes are inferred: a stream that ends and of which no failed attempt is reported has
//! succeeded on the endpoint that was planned. The report of a last, failed attempt comes *after*
//! the end of its stream, so a success stays pending until a tick, or until a failure is reported,
//! and the report of its own failure takes it back. An attempt that ended without any answer,
//! because the client went away, is reported too and takes its success back likewise.
//!
//! Stream and report are tied by a hash of `x-request-id`, which both can see. The table is
//! direct-mapped and of fixed size: a stream that is displaced by another loses its tie, and with
//! it at most one booked success; nothing grows with the number of clients.

use core::time::Duration;
use std::collections::VecDeque;

use crate::time::Instant;

/// Streams remembered by one worker at once; a power of two.
pub const STREAMS_MAX: usize = 4096;

/// Successes that may be pending in one worker.
pub const PENDING_MAX: usize = 1024;

/// A stream's name: a hash of its request id, never 0.
pub type StreamId = u64;

/// What was planned for a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stream {
    /// Its name; 0 for a free place.
    pub id: StreamId,
    /// The cluster's place in the engine.
    pub cluster: u32,
    /// The first endpoint's place in the cluster's table.
    pub first: u32,
    /// The generation of that table.
    pub generation: u32,
    /// When it was planned.
    pub planned: Instant,
    /// How many retries it may have.
    pub retries_max: u8,
    /// How many of its attempts were reported as failed.
    pub failures: u8,
    /// Whether resets and gateway errors of it may be retried.
    pub widened: bool,
    /// Whether its first endpoint's breaker was open when it was planned.
    pub trial: bool,
    /// The process's permit for a trial that it holds.
    pub permit: Option<u32>,
    /// Whether it is over.
    pub ended: bool,
}

/// A success that a late report of failure may still take back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Success {
    /// The stream.
    pub id: StreamId,
    /// The cluster's place in the engine.
    pub cluster: u32,
    /// The endpoint's place in the cluster's table.
    pub endpoint: u32,
    /// The generation of that table.
    pub generation: u32,
    /// Whether the endpoint's breaker was open when the attempt was planned.
    pub trial: bool,
    /// How long the attempt took, where that matters.
    pub took: Option<Duration>,
}

/// The streams in flight and the successes that are pending.
#[derive(Debug)]
pub struct Ledger {
    streams: Vec<Stream>,
    pending: VecDeque<Success>,
}

impl Default for Ledger {
    fn default() -> Self {
        Self {
            streams: vec![Stream::default(); STREAMS_MAX],
            pending: VecDeque::with_capacity(PENDING_MAX),
        }
    }
}

fn place(id: StreamId) -> usize {
    usize::try_from(id % STREAMS_MAX as u64).unwrap_or(0)
}

impl Ledger {
    /// Remembers `stream`. Returns the stream that had to be forgotten for it, if it was not over;
    /// a stream that is over stays for the report of its last attempt until its place is needed.
    /// A trial under way is not forgotten for an ordinary stream: its permit would have to be
    /// given back, and a second trial could begin beside it.
    pub fn open(&mut self, stream: Stream) -> Option<Stream> {
        let slot = self.streams.get_mut(place(stream.id))?;
        if slot.permit.is_some() && stream.permit.is_none() && slot.id != stream.id {
            return None;
        }
        let displaced = (slot.id != 0 && !slot.ended).then_some(*slot);
        *slot = stream;
        displaced
    }

    /// The stream named `id`, if it is still remembered.
    pub fn get_mut(&mut self, id: StreamId) -> Option<&mut Stream> {
        self.streams.get_mut(place(id)).filter(|stream| stream.id == id && id != 0)
    }

    /// Books a success as pending. Returns one that became final because the queue is full.
    pub fn push(&mut self, success: Success) -> Option<Success> {
        let settled =
            if self.pending.len() >= PENDING_MAX { self.pending.pop_front() } else { None };
        self.pending.push_back(success);
        settled
    }

    /// Takes back the pending success of stream `id`, and returns it if it is there, with how many
    /// pending successes are older than it; these are final, because their own reports would have
    /// come before. All are, when it is not pending.
    pub fn take_back(&mut self, id: StreamId) -> (Option<Success>, usize) {
        match self.pending.iter().position(|success| success.id == id) {
            Some(position) => (self.pending.remove(position), position),
            None => (None, self.pending.len()),
        }
    }

    /// The oldest pending success; it is final now.
    pub fn settle(&mut self) -> Option<Success> {
        self.pending.pop_front()
    }

    /// How many successes are pending.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.pending.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn stream(id: StreamId) -> Stream {
        Stream { id, ..Stream::default() }
    }

    fn success(id: StreamId) -> Success {
        Success { id, cluster: 0, endpoint: 0, generation: 0, trial: false, took: None }
    }

    #[test]
    fn a_stream_is_found_by_its_name_also_after_its_end() {
        let mut ledger = Ledger::default();
        assert_eq!(ledger.open(stream(5)), None);
        ledger.get_mut(5).unwrap().ended = true;
        assert!(ledger.get_mut(5).is_some());
        assert!(ledger.get_mut(5 + STREAMS_MAX as u64).is_none());
        assert_eq!(ledger.open(stream(5 + STREAMS_MAX as u64)), None, "it was over");
        assert!(ledger.get_mut(5).is_none());
    }

    #[test]
    fn a_displaced_stream_is_handed_back_so_that_its_permit_is_not_lost() {
        let mut ledger = Ledger::default();
        ledger.open(stream(5));
        assert_eq!(ledger.open(stream(5 + STREAMS_MAX as u64)), Some(stream(5)));
    }

    #[test]
    fn a_trial_under_way_is_not_forgotten_for_an_ordinary_stream() {
        let mut ledger = Ledger::default();
        ledger.open(Stream { permit: Some(1), ..stream(5) });
        assert_eq!(ledger.open(stream(5 + STREAMS_MAX as u64)), None);
        assert!(ledger.get_mut(5).is_some());
        ledger.get_mut(5).unwrap().permit = None;
        assert_eq!(ledger.open(stream(5 + STREAMS_MAX as u64)), Some(stream(5)));
        assert!(ledger.get_mut(5 + STREAMS_MAX as u64).is_some());
    }

    #[test]
    fn a_report_takes_back_its_own_success_and_settles_the_older_ones() {
        let mut ledger = Ledger::default();
        for id in 1..=5 {
            assert_eq!(ledger.push(success(id)), None);
        }
        assert_eq!(ledger.take_back(3), (Some(success(3)), 2));
        assert_eq!(ledger.settle().map(|s| s.id), Some(1));
        assert_eq!(ledger.settle().map(|s| s.id), Some(2));
        assert_eq!(ledger.settle().map(|s| s.id), Some(4));
        assert_eq!(ledger.take_back(77), (None, 1), "all of it when it was not pending");
    }

    #[test]
    fn no_id_is_never_a_stream_and_the_queue_never_grows() {
        let mut ledger = Ledger::default();
        assert!(ledger.get_mut(0).is_none());
        for id in 0..3 * PENDING_MAX as u64 {
            ledger.push(success(id));
        }
        assert_eq!(ledger.pending(), PENDING_MAX);
    }
}

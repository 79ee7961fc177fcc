//! Who asks the membership source, for the whole process.
//!
//! A lease in shared data, taken by compare-and-swap and renewed with every poll. A worker that
//! dies stops renewing, and another takes over. Envoy's main thread runs a copy of the VM that
//! never sees a request. With few endpoints it may hold the lease only until some worker has seen
//! one, because nobody revives that copy when it fails. With many it is the one to hold it: reading
//! an answer of Envoy takes 1.4 µs an endpoint in wasm, and the requests of a worker would wait.

use crate::time::Instant;

/// Bytes of an encoded lease.
const LENGTH: usize = 17;

/// Endpoints beyond which a VM without requests is the one to poll: reading about so many keeps
/// requests waiting for half a millisecond.
pub const FEW_ENDPOINTS: usize = 400;

/// Whether a VM is the one that should poll about `endpoints` endpoints.
#[must_use]
pub const fn is_fit(traffic: bool, endpoints: usize) -> bool {
    traffic == (endpoints <= FEW_ENDPOINTS)
}

/// A lease as it stands in shared data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// A number that names the VM that holds it.
    pub owner: u64,
    /// When it ends.
    pub until: Instant,
    /// Whether the owner is one that should poll; see [`is_fit`].
    pub fit: bool,
}

impl Lease {
    /// The lease nobody holds.
    pub const FREE: Self = Self { owner: 0, until: Instant::ZERO, fit: false };

    /// Whether `owner` may take the lease over, or renew it, at `now`.
    #[must_use]
    pub fn is_open_to(&self, owner: u64, fit: bool, now: Instant) -> bool {
        self.owner == owner || self.until <= now || (fit && !self.fit)
    }

    /// As bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; LENGTH] {
        let mut bytes = [0; LENGTH];
        let (owner, rest) = bytes.split_at_mut(8);
        let (until, fit) = rest.split_at_mut(8);
        owner.copy_from_slice(&self.owner.to_le_bytes());
        until.copy_from_slice(&self.until.0.to_le_bytes());
        fit.fill(u8::from(self.fit));
        bytes
    }

    /// From bytes; damaged ones count as a lease that nobody holds.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Self {
        let parts = bytes.first_chunk::<8>().zip(bytes.get(8..).and_then(<[u8]>::first_chunk::<8>));
        let (Some((owner, until)), true) = (parts, bytes.len() == LENGTH) else {
            return Self::FREE;
        };
        Self {
            owner: u64::from_le_bytes(*owner),
            until: Instant(u64::from_le_bytes(*until)),
            fit: bytes.last().is_some_and(|&b| b == 1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    const NOW: Instant = Instant(1000);

    #[test]
    fn only_the_owner_renews_a_lease_that_has_not_ended() {
        let lease = Lease { owner: 7, until: Instant(2000), fit: true };
        assert!(lease.is_open_to(7, true, NOW));
        assert!(!lease.is_open_to(8, true, NOW));
        assert!(lease.is_open_to(8, true, Instant(2000)));
        assert!(Lease::FREE.is_open_to(8, false, NOW));
    }

    #[test]
    fn a_worker_with_requests_takes_it_from_one_without_as_long_as_there_are_few_endpoints() {
        for (endpoints, worker_takes) in [(0, true), (FEW_ENDPOINTS, true), (10_000, false)] {
            let (main_thread, worker) = (is_fit(false, endpoints), is_fit(true, endpoints));
            let held = |fit| Lease { owner: 7, until: Instant(2000), fit };
            assert_eq!(held(main_thread).is_open_to(8, worker, NOW), worker_takes);
            assert_eq!(held(worker).is_open_to(8, main_thread, NOW), !worker_takes);
            assert!(!held(worker).is_open_to(8, worker, NOW));
            assert!(!held(main_thread).is_open_to(8, main_thread, NOW));
        }
    }

    #[test]
    fn bytes_round_trip_and_damaged_ones_are_free() {
        let lease = Lease { owner: 7, until: Instant(2000), fit: true };
        assert_eq!(Lease::decode(&lease.encode()), lease);
        assert_eq!(Lease::decode(b"short"), Lease::FREE);
        assert_eq!(Lease::decode(&[0xff; 40]), Lease::FREE);
    }
}

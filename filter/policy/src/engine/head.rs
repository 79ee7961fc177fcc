//! What the engine may look at, and ask for, while it decides on a request.
//!
//! What costs a host call is behind [`Environment`], so that the engine asks only when it must.

use crate::attempt::budget::Totals;
use crate::hash;
use crate::state::orca::Report;
use crate::time::Instant;

pub use crate::key::Head;

/// What costs a host call.
pub trait Environment {
    /// The name of the cluster that the route leads to, written into `name`. False: unknown.
    fn cluster_name(&mut self, name: &mut Vec<u8>) -> bool;
    /// The client's `ip:port`, written into `address`. False: unknown.
    fn source_address(&mut self, address: &mut Vec<u8>) -> bool;
    /// The process's totals of the cluster, as far as they have been flushed.
    fn totals(&mut self, cluster: u32) -> Option<Totals>;
    /// Takes one of [`PERMITS`] permits for the whole process until `until`. False: taken.
    fn take_permit(&mut self, permit: u32, until: Instant, now: Instant) -> bool;
    /// Gives a permit back; it can be taken again from `free_from` on.
    fn release_permit(&mut self, permit: u32, free_from: Instant);
    /// The time now, exactly; the `now` of the engine's calls may be as old as the last tick.
    fn clock(&mut self) -> Instant;
    /// Requests in flight that the counter at `slot` counts, over the whole process; below zero
    /// where it was corrected too far.
    fn active(&mut self, slot: u32) -> i64;
    /// Adds `by` to the counter at `slot`.
    fn add_active(&mut self, slot: u32, by: i64);
    /// The load report in the answer of the stream that is ending, or nothing.
    fn load_report(&mut self) -> Option<Report>;
    /// What the host calls the stream that is being planned.
    fn stream(&mut self) -> u32;
    /// Has the answer of `stream` set a cookie: `value` is that of a `set-cookie` header.
    fn set_cookie(&mut self, stream: u32, cookie: Cookie, value: &[u8]);
}

/// Which cookie of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cookie {
    /// One that a hash policy generated.
    Hash,
    /// The one that names a session's endpoint.
    Session,
}

/// Permits for half-open trials. An endpoint's permit is chosen by a hash of its name: two
/// endpoints that share one are tried one after the other.
pub const PERMITS: u32 = 256;

/// The permit of the endpoint at `address` in `cluster`.
#[must_use]
pub fn permit_of(cluster: &str, address: &str) -> u32 {
    let hashed = hash::xxh64(address.as_bytes(), hash::xxh64(cluster.as_bytes(), 0));
    u32::try_from(hashed % u64::from(PERMITS)).unwrap_or(0)
}

//! What the engine may look at, and ask for, while it decides on a request.
//!
//! What costs a host call is behind [`Environment`], so that the engine asks only when it must.

use crate::attempt::budget::Totals;
use crate::hash;
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

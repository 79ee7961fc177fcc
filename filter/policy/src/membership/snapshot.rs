//! A membership as bytes, for shared data: what one worker polled, the others read; and what was
//! known before a reload of the VM is known after it.
//!
//! Shared data outlives the module that wrote it, so that bytes of another version, or of
//! something else under the same key, are to be expected: a version and a checksum come first,
//! and every value is held to the same limits as in an answer.
//!
//! Layout: version (1 byte), xxHash 64 of the rest (8 bytes, little-endian), postcard.

use core::{fmt, net::SocketAddr};

use twox_hash::XxHash64;

use super::{CLUSTERS_HELD_MAX, ClusterUpdate, Endpoint, Membership, Update};
use crate::config::limits::ENDPOINTS_MAX;

/// The layout that this version writes and reads.
pub const VERSION: u8 = 2;

const CHECKSUM_SEED: u64 = 0;

/// Why bytes were refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum SnapshotError {
    /// No bytes, or of another version.
    Version,
    /// The bytes are not those that were written.
    Checksum,
    /// Not a membership.
    Malformed,
    /// More clusters or endpoints than the limits allow, or a value outside its range.
    OutOfRange,
}

impl fmt::Display for SnapshotError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Version => "membership snapshot of another version",
            Self::Checksum => "membership snapshot with a wrong checksum",
            Self::Malformed => "membership snapshot that is malformed",
            Self::OutOfRange => "membership snapshot with a value out of range",
        })
    }
}

impl core::error::Error for SnapshotError {}

/// The whole of `membership`, load included, generations not: they are the reader's own.
#[must_use]
pub fn encode(membership: &Membership) -> Vec<u8> {
    let clusters: Vec<(&str, &[Endpoint])> =
        membership.iter().map(|(name, set)| (name, set.endpoints.as_slice())).collect();
    // Writing to memory fails only for types that postcard cannot express; none is used here,
    // and an empty snapshot is one that `decode` refuses.
    let Ok(payload) = postcard::to_allocvec(&clusters) else {
        return Vec::new();
    };
    let mut bytes = Vec::with_capacity(payload.len().saturating_add(9));
    bytes.push(VERSION);
    bytes.extend_from_slice(&XxHash64::oneshot(CHECKSUM_SEED, &payload).to_le_bytes());
    bytes.extend_from_slice(&payload);
    bytes
}

/// What [`encode`] wrote, as one [`Update::Reset`] per cluster, by name.
///
/// # Errors
///
/// On any bytes that [`encode`] of this version did not write.
pub fn decode(bytes: &[u8]) -> Result<Vec<ClusterUpdate>, SnapshotError> {
    let (version, rest) = bytes.split_first().ok_or(SnapshotError::Version)?;
    if *version != VERSION {
        return Err(SnapshotError::Version);
    }
    let (checksum, payload) = rest.split_first_chunk::<8>().ok_or(SnapshotError::Malformed)?;
    if u64::from_le_bytes(*checksum) != XxHash64::oneshot(CHECKSUM_SEED, payload) {
        return Err(SnapshotError::Checksum);
    }
    let (clusters, rest): (Vec<(String, Vec<Endpoint>)>, _) =
        postcard::take_from_bytes(payload).map_err(|_| SnapshotError::Malformed)?;
    if !rest.is_empty() {
        return Err(SnapshotError::Malformed);
    }
    let in_range = clusters.len() <= CLUSTERS_HELD_MAX
        && clusters.iter().all(|(_, endpoints)| {
            endpoints.len() <= ENDPOINTS_MAX && endpoints.iter().all(is_in_range)
        });
    if !in_range {
        return Err(SnapshotError::OutOfRange);
    }
    let update = |(name, endpoints)| ClusterUpdate { name, update: Update::Reset(endpoints) };
    Ok(clusters.into_iter().map(update).collect())
}

fn is_in_range(endpoint: &Endpoint) -> bool {
    endpoint.weight >= 1 && endpoint.address.parse::<SocketAddr>().is_ok()
}

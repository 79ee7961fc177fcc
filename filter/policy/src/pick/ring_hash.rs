//! `ring_hash`: a key belongs to the owner of the first point at or after its hash.
//!
//! Each member owns points at `hash("<key>_<i>")`, i from 0, in proportion to its weight. The
//! scale is chosen so that the lightest member gets a whole number of points, then capped by
//! the largest ring allowed; the counts follow from a running sum over the members in their
//! order, so rounding (and with it the odd point) depends on that order, as in Envoy's
//! `ring_hash_lb.cc`. When members join or leave, only the keys next to their points move.
//!
//! The candidates after the first are the owners met clockwise, so holding a member out moves its
//! keys exactly where removing it would. Two members with a point of the same 64-bit hash
//! keep the members' order; Envoy leaves that order to its sort.

use core::fmt::Write as _;
use core::ops::ControlFlow;

use super::seen::Seen;
use super::weights::Shares;
use super::{HashFunction, Member, Step, count, reduce};

/// Largest number of points in a ring; also Envoy's limit for both sizes.
pub const RING_SIZE_MAX: u64 = 8_388_608;

/// Points that one walk looks at before it offers the members still missing in index order; a ring
/// of up to this size is covered whole.
const WALK_POINTS_MAX: usize = 131_072;

/// A ring, and the room to walk it.
#[derive(Debug)]
pub struct RingHash {
    /// Places of the points, ascending.
    hashes: Vec<u64>,
    /// Owner of the point at the same place in `hashes`.
    owners: Vec<u16>,
    seen: Seen,
}

impl RingHash {
    /// The ring of `members`; the maximum is clamped to 1..=[`RING_SIZE_MAX`],
    /// and the minimum to the maximum.
    pub(super) fn build(
        minimum_ring_size: u64,
        maximum_ring_size: u64,
        hash_function: HashFunction,
        members: &[Member<'_>],
    ) -> Self {
        let maximum_ring_size = maximum_ring_size.clamp(1, RING_SIZE_MAX);
        let minimum_ring_size = minimum_ring_size.clamp(1, maximum_ring_size);
        let mut points = points(minimum_ring_size, maximum_ring_size, hash_function, members);
        points.sort_unstable();
        Self {
            hashes: points.iter().map(|point| point.0).collect(),
            owners: points.iter().map(|point| point.1).collect(),
            seen: Seen::new(count(members)),
        }
    }

    /// The ring's points in ascending order: place, and index of the member that owns it.
    pub fn points(&self) -> impl Iterator<Item = (u64, u32)> {
        self.hashes.iter().copied().zip(self.owners.iter().copied().map(u32::from))
    }

    pub(super) fn len(&self) -> u32 {
        self.seen.members()
    }

    pub(super) fn walk(&mut self, hash: u64, visit: &mut impl FnMut(u32) -> Step) {
        self.seen.begin();
        let _ = self.offer_all(hash, visit);
    }

    fn offer_all(&mut self, hash: u64, visit: &mut impl FnMut(u32) -> Step) -> ControlFlow<()> {
        let at = self.hashes.partition_point(|point| *point < hash);
        let (before, after) = self.owners.split_at_checked(at).unwrap_or((&[], &self.owners));
        for owner in after.iter().chain(before).take(WALK_POINTS_MAX) {
            self.seen.offer(u32::from(*owner), visit)?;
        }
        self.seen.offer_rest(reduce(hash, self.seen.members()), visit)
    }
}

/// Points of all members, unsorted.
fn points(
    minimum_ring_size: u64,
    maximum_ring_size: u64,
    hash_function: HashFunction,
    members: &[Member<'_>],
) -> Vec<(u64, u16)> {
    if members.is_empty() {
        return Vec::new();
    }
    let shares = Shares::of(members);
    let whole = (shares.min * minimum_ring_size as f64).ceil() / shares.min;
    let scale = whole.min(maximum_ring_size as f64);
    // `scale` is at most RING_SIZE_MAX, so the cast and the loops below are bounded by it.
    let mut points = Vec::with_capacity(scale.ceil() as usize);
    let mut text = String::new();
    let mut current = 0.0;
    let mut target = 0.0;
    for (owner, (member, share)) in (0..=u16::MAX).zip(members.iter().zip(&shares.of_member)) {
        target += scale * share;
        text.clear();
        text.push_str(member.key);
        text.push('_');
        let prefix = text.len();
        let mut index = 0_u64;
        while current < target {
            text.truncate(prefix);
            let _ = write!(text, "{index}");
            points.push((hash_function.hash(text.as_bytes()), owner));
            index += 1;
            current += 1.0;
        }
    }
    points
}

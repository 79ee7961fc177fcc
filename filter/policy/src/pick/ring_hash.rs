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

use super::build::{Budget, Keys, MergeSort};
use super::hash_walk::HashWalk;
use super::weights::Shares;
use super::{HashFunction, Loads, Member, Step};

/// Largest number of points in a ring; also Envoy's limit for both sizes.
pub const RING_SIZE_MAX: u64 = 8_388_608;

/// Points that one walk looks at before it offers the members still missing in index order; a ring
/// of up to this size is covered whole.
const WALK_POINTS_MAX: usize = 131_072;

/// What one point costs in units: its key is written and hashed.
const POINT_UNITS: u32 = 6;

/// Points of an [`Index`]'s arc on average: they lie in two cache lines.
const ARC_POINTS: usize = 8;

/// A ring, and the room to walk it.
#[derive(Debug)]
pub struct RingHash {
    /// Places of the points, ascending.
    hashes: Vec<u64>,
    /// Owner of the point at the same place in `hashes`.
    owners: Vec<u16>,
    index: Index,
    walk: HashWalk,
}

/// Where in `hashes` each of equal arcs of the ring begins, up to the last that has a point:
/// points are spread evenly, so that a search has a few left to look at where halving all of them
/// would miss the cache at every step. Memory: half a byte a point.
#[derive(Debug)]
struct Index {
    begins: Vec<u32>,
    /// By how many bits a hash is shifted to give its arc.
    shift: u32,
}

impl Index {
    /// Two arcs at least and as many as a power of two allows; all of them still to be filled.
    fn new(points: usize) -> Self {
        let bits = (points / ARC_POINTS).checked_ilog2().unwrap_or(0).max(1);
        Self { begins: Vec::with_capacity((1 << bits) + 1), shift: u64::BITS - bits }
    }

    fn arc(&self, hash: u64) -> usize {
        usize::try_from(hash >> self.shift).unwrap_or(usize::MAX)
    }

    /// The point at `place` follows those before it: every arc up to its own has begun.
    fn push(&mut self, hash: u64, place: usize) {
        let begins = self.arc(hash).saturating_add(1);
        if self.begins.len() < begins {
            self.begins.resize(begins, u32::try_from(place).unwrap_or(u32::MAX));
        }
    }

    /// The place of the first point at or after `hash`.
    fn search(&self, hashes: &[u64], hash: u64) -> usize {
        let arc = self.arc(hash);
        let begin = |arc: usize| self.begins.get(arc).map_or(hashes.len(), |at| *at as usize);
        let (from, to) = (begin(arc), begin(arc.saturating_add(1)));
        let points = hashes.get(from..to).unwrap_or_default();
        from.saturating_add(points.partition_point(|point| *point < hash))
    }
}

impl RingHash {
    /// The ring's points in ascending order: place, and index of the member that owns it.
    pub fn points(&self) -> impl Iterator<Item = (u64, u32)> {
        self.hashes.iter().copied().zip(self.owners.iter().copied().map(u32::from))
    }

    pub(super) const fn len(&self) -> u32 {
        self.walk.members()
    }

    pub(super) fn walk(
        &mut self,
        hash: u64,
        loads: &mut impl Loads,
        visit: &mut impl FnMut(u32) -> Step,
    ) {
        let at = self.index.search(&self.hashes, hash);
        let (before, after) = self.owners.split_at_checked(at).unwrap_or((&[], &self.owners));
        let clockwise = after.iter().chain(before).take(WALK_POINTS_MAX);
        self.walk.walk(hash, clockwise.map(|owner| u32::from(*owner)), loads, visit);
    }
}

/// A ring that is being built: points of one member after the other, then sorted.
#[derive(Debug)]
pub(super) struct RingBuilding {
    keys: Keys,
    shares: Vec<f64>,
    scale: f64,
    hash_function: HashFunction,
    /// The member whose points are being made, and the number of its next point.
    owner: u16,
    index: u64,
    /// Points made, and how many there have to be after this member.
    current: f64,
    target: f64,
    text: String,
    points: MergeSort<(u64, u16)>,
    ring: RingHash,
}

impl RingBuilding {
    /// The ring of `members`; the maximum is clamped to 1..=[`RING_SIZE_MAX`],
    /// and the minimum to the maximum.
    pub(super) fn new(
        minimum_ring_size: u64,
        maximum_ring_size: u64,
        hash_function: HashFunction,
        hash_balance_factor: u32,
        members: &[Member<'_>],
    ) -> Self {
        let maximum_ring_size = maximum_ring_size.clamp(1, RING_SIZE_MAX);
        let minimum_ring_size = minimum_ring_size.clamp(1, maximum_ring_size);
        let shares = Shares::of(members);
        let whole = (shares.min * minimum_ring_size as f64).ceil() / shares.min;
        // At most RING_SIZE_MAX, so the casts and what follows are bounded by it.
        let scale = if members.is_empty() { 0.0 } else { whole.min(maximum_ring_size as f64) };
        let walk = HashWalk::new(hash_balance_factor, members);
        let index = Index::new(scale.ceil() as usize);
        Self {
            keys: Keys::of(members),
            target: shares.of_member.first().map_or(0.0, |share| scale * share),
            shares: shares.of_member,
            scale,
            hash_function,
            owner: 0,
            index: 0,
            current: 0.0,
            text: String::new(),
            points: MergeSort::new(Vec::with_capacity(scale.ceil() as usize)),
            ring: RingHash { hashes: Vec::new(), owners: Vec::new(), index, walk },
        }
    }

    pub(super) fn step(&mut self, budget: &mut Budget) -> bool {
        self.make_points(budget) && self.points.step(budget, Ord::cmp) && self.lay_out(budget)
    }

    pub(super) fn finish(self) -> RingHash {
        self.ring
    }

    /// Hashes the points of the members that are left.
    fn make_points(&mut self, budget: &mut Budget) -> bool {
        while usize::from(self.owner) < self.shares.len() {
            if !budget.spend(POINT_UNITS) {
                return false;
            }
            if self.current < self.target {
                self.text.clear();
                let _ = write!(self.text, "{}_{}", self.keys.get(self.owner), self.index);
                let point = self.hash_function.hash(self.text.as_bytes());
                self.points.items().push((point, self.owner));
                self.index += 1;
                self.current += 1.0;
                continue;
            }
            let Some(owner) = self.owner.checked_add(1) else {
                // The last member of as many as there can be: all points are made.
                self.shares.clear();
                return true;
            };
            self.owner = owner;
            self.index = 0;
            self.target += self.shares.get(usize::from(owner)).map_or(0.0, |s| self.scale * s);
        }
        true
    }

    /// Copies the sorted points to where walks search them.
    fn lay_out(&mut self, budget: &mut Budget) -> bool {
        let points = self.points.items();
        let RingHash { hashes, owners, index, .. } = &mut self.ring;
        hashes.reserve_exact(points.len() - hashes.len());
        owners.reserve_exact(points.len() - owners.len());
        while let Some((hash, owner)) = points.get(hashes.len()) {
            if !budget.spend(1) {
                return false;
            }
            index.push(*hash, hashes.len());
            hashes.push(*hash);
            owners.push(*owner);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::super::{NoLoads, Picker};
    use super::*;
    use crate::config::LbPolicy;
    use crate::rng::SplitMix64;

    #[test]
    fn the_index_finds_what_a_search_of_all_points_finds_however_they_lie() {
        let even: Vec<u64> = (0..1000).map(|i| u64::MAX / 1000 * i).collect();
        let rings = [
            vec![],
            vec![u64::MAX],
            vec![0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14],
            even.iter().map(|hash| u64::MAX - (hash >> 32)).rev().collect(),
            even,
        ];
        for hashes in rings {
            let mut index = Index::new(hashes.len());
            (0..).zip(&hashes).for_each(|(place, hash)| index.push(*hash, place));
            let near = hashes.iter().flat_map(|h| [h.saturating_sub(1), *h, h.saturating_add(1)]);
            for hash in near.chain([0, 1 << 63, u64::MAX]) {
                let at = hashes.partition_point(|point| *point < hash);
                assert_eq!(index.search(&hashes, hash), at, "{hash:#x} of {}", hashes.len());
            }
        }
    }

    #[test]
    fn a_hash_at_a_point_is_that_points_and_after_the_last_one_the_ring_starts_again() {
        let keys = ["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"];
        let members = keys.map(|key| Member { key, weight: 1 });
        let policy = LbPolicy::RingHash {
            minimum_ring_size: 30,
            maximum_ring_size: 30,
            hash_function: HashFunction::XxHash,
            hash_balance_factor: 0,
        };
        let mut picker = Picker::build(&policy, &members, 0);
        let points: Vec<_> = match &picker {
            Picker::RingHash(ring) => ring.points().collect(),
            _ => unreachable!("the policy is ring_hash"),
        };
        let mut first = |hash| {
            let mut first = None;
            picker.walk(Some(hash), &mut SplitMix64::new(0), &mut NoLoads, |member| {
                first = Some(member);
                Step::Stop
            });
            first.unwrap()
        };
        for (at, point) in points.iter().enumerate() {
            assert_eq!(first(point.0), point.1);
            assert_eq!(first(point.0 + 1), points[(at + 1) % points.len()].1);
        }
        assert_eq!(first(u64::MAX), points[0].1);
    }
}

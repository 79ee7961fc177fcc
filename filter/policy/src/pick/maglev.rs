//! `maglev`: a key belongs to the owner of slot `hash % table_size`.
//!
//! Members, in ascending order of their keys, take turns claiming the next free slot of their own
//! permutation of the table until it is full (Maglev paper, listing 1). A lighter member sits out
//! turns until its weight has caught up with the heaviest one's, by the sums of `f64` in Envoy's
//! `maglev_lb.cc`. When a member leaves, its slots are shared out and few others move.
//!
//! Envoy goes round all members in every turn, which costs table size times members when one weight
//! dwarfs the others. Here a queue holds the next turn of each member, found by the same
//! comparison of the same numbers, so the table is the same and a build costs at most one queue
//! operation per slot.
//!
//! Attempt `a` after the first looks up `hash ^ (2^64 - a)`, Envoy's rule for retries; what that
//! has not reached after [`ATTEMPTS_MAX`] tries is found by going on from the first slot.

use core::cmp::Reverse;
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;

use super::build::{Budget, Keys, MergeSort};
use super::hash_walk::HashWalk;
use super::slots::Slots;
use super::weights::{self, Shares};
use super::{Loads, Member, Step, count, reduce};
use crate::hash::xxh64;

/// Largest table; also Envoy's limit, and a prime.
pub const TABLE_SIZE_MAX: u64 = 5_000_011;

/// Slots made for one unit.
const SLOTS_PER_UNIT: usize = 16;

/// Smallest table that has a permutation.
const TABLE_SIZE_MIN: u64 = 2;

/// Rehashes after the first candidate before a walk goes on by neighbouring slots.
const ATTEMPTS_MAX: u64 = 16;

/// Slots that one walk looks at before it offers the members still missing in index order; a table
/// of the default size is covered whole.
const WALK_SLOTS_MAX: usize = 131_072;

/// Corrections to an estimated turn; one is enough for the rounding of one division.
const TURN_CORRECTIONS_MAX: u32 = 4;

/// What one member costs in units before its first turn: its key is hashed twice.
const CLAIM_UNITS: u32 = 6;

/// What finding a member's next turn costs in units when weights differ.
const TURN_UNITS: u32 = 8;

/// A table, and the room to walk it.
#[derive(Debug)]
pub struct Maglev {
    slots: Slots,
    table_size: u32,
    walk: HashWalk,
}

impl Maglev {
    /// The table, slot by slot: index of the member that owns it. Empty without members.
    pub fn slots(&self) -> impl Iterator<Item = u32> {
        (0..self.table_size).map_while(|slot| self.slots.get(slot))
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
        let Self { slots, table_size, walk } = self;
        let first = reduce(hash, *table_size);
        let rehash = |attempt: u64| reduce(hash ^ attempt.wrapping_neg(), *table_size);
        let next = (first..*table_size).chain(0..first).take(WALK_SLOTS_MAX);
        let candidates = (0..=ATTEMPTS_MAX).map(rehash).chain(next);
        walk.walk(hash, candidates.map_while(|slot| slots.get(slot)), loads, visit);
    }
}

/// One member while the table is being filled.
#[derive(Debug)]
struct Claim {
    owner: u16,
    /// Where the member's permutation stands.
    slot: u32,
    skip: u32,
    share: f64,
    /// Sum of shares that the member must have reached to get its next turn.
    target: f64,
}

impl Claim {
    /// The next turn, after `turn`, in which the member has caught up with its target: the first
    /// whole `n` where `n * share` is not below it. None when the table is full before that.
    fn next_turn(&self, turn: u32, table_size: u32) -> Option<u32> {
        let due = |turn: u32| f64::from(turn) * self.share >= self.target;
        // A table is full after `table_size` turns, since the heaviest member never sits one out.
        let estimate = (self.target / self.share).ceil();
        if estimate > f64::from(table_size) {
            return None;
        }
        let earliest = turn.saturating_add(1);
        let mut next = (estimate as u32).max(earliest);
        for _ in 0..TURN_CORRECTIONS_MAX {
            if !due(next) {
                next = next.saturating_add(1);
            } else if next > earliest && due(next - 1) {
                next -= 1;
            } else {
                break;
            }
        }
        Some(next)
    }
}

/// A table being filled.
#[derive(Debug)]
struct Filling {
    owners: Slots,
    taken: Vec<u64>,
    table_size: u32,
    free: u32,
}

impl Filling {
    fn new(table_size: u32, members: u32) -> Self {
        let size = if members == 0 { 0 } else { table_size };
        Self {
            owners: Slots::with_capacity(members, size as usize),
            taken: vec![0; (size as usize).div_ceil(64)],
            table_size,
            free: size,
        }
    }

    /// Makes the slots that are going to be claimed.
    fn make_slots(&mut self, budget: &mut Budget) -> bool {
        let size = if self.taken.is_empty() { 0 } else { self.table_size as usize };
        while self.owners.len() < size {
            if !budget.spend(1) {
                return false;
            }
            (0..SLOTS_PER_UNIT.min(size - self.owners.len())).for_each(|_| self.owners.push(0));
        }
        true
    }

    /// Gives the member the first free slot of its permutation; false when the budget ran out
    /// before that. A prime size makes the permutation reach every slot, so while one is free
    /// this ends within one round.
    fn claim(&mut self, claim: &mut Claim, budget: &mut Budget) -> bool {
        while budget.spend(1) {
            let slot = claim.slot;
            let next = slot + claim.skip;
            claim.slot = if next < self.table_size { next } else { next - self.table_size };
            let Some(word) = self.taken.get_mut(slot as usize / 64) else {
                return true;
            };
            let bit = 1 << (slot % 64);
            if *word & bit == 0 {
                *word |= bit;
                self.free -= 1;
                self.owners.set(slot, claim.owner);
                return true;
            }
        }
        false
    }
}

/// A table that is being built: the members sorted, their permutations, then turn by turn.
#[derive(Debug)]
pub(super) struct MaglevBuilding {
    keys: Keys,
    shares: Shares,
    /// The members in the order in which they take turns.
    order: MergeSort<u16>,
    /// The same members at the start of their permutations.
    claims: Vec<Claim>,
    filling: Filling,
    turns: Turns,
    walk: HashWalk,
}

/// Whose turn it is, as an index into the claims.
#[derive(Debug)]
enum Turns {
    /// All weights are the same.
    Round(usize),
    /// Weights differ: each member's next turn, the first one on top.
    Queue(BinaryHeap<Reverse<(u32, u32)>>),
}

impl MaglevBuilding {
    /// The table of `members`; a size that is no prime up to [`TABLE_SIZE_MAX`] becomes the
    /// next one, or the largest.
    pub(super) fn new(table_size: u64, hash_balance_factor: u32, members: &[Member<'_>]) -> Self {
        let shares = Shares::of(members);
        let turns = if weights::are_equal(members) {
            Turns::Round(0)
        } else {
            Turns::Queue((0..count(members)).map(|at| Reverse((1, at))).collect())
        };
        Self {
            keys: Keys::of(members),
            order: MergeSort::new((0..=u16::MAX).take(members.len()).collect()),
            claims: Vec::with_capacity(members.len()),
            filling: Filling::new(prime_from(table_size), count(members)),
            turns,
            walk: HashWalk::new(hash_balance_factor, members),
            shares,
        }
    }

    pub(super) fn step(&mut self, budget: &mut Budget) -> bool {
        let keys = &self.keys;
        self.order.step(budget, |a, b| keys.get(*a).cmp(keys.get(*b)))
            && self.make_claims(budget)
            && self.filling.make_slots(budget)
            && self.fill(budget)
    }

    pub(super) fn finish(self) -> Maglev {
        let Filling { owners, table_size, .. } = self.filling;
        Maglev { slots: owners, table_size, walk: self.walk }
    }

    fn make_claims(&mut self, budget: &mut Budget) -> bool {
        while let Some(owner) = self.order.items().get(self.claims.len()).copied() {
            if !budget.spend(CLAIM_UNITS) {
                return false;
            }
            let key = self.keys.get(owner).as_bytes();
            let slot = reduce(xxh64(key, 0), self.filling.table_size);
            let skip = reduce(xxh64(key, 1), self.filling.table_size - 1) + 1;
            let share = self.shares.of_member.get(usize::from(owner)).copied().unwrap_or(0.0);
            self.claims.push(Claim { owner, slot, skip, share, target: 0.0 });
        }
        true
    }

    fn fill(&mut self, budget: &mut Budget) -> bool {
        let Self { claims, filling, turns, shares, .. } = self;
        match turns {
            Turns::Round(at) => {
                while filling.free > 0
                    && let Some(claim) = claims.get_mut(*at)
                {
                    if !filling.claim(claim, budget) {
                        return false;
                    }
                    *at = if *at + 1 < claims.len() { *at + 1 } else { 0 };
                }
            }
            Turns::Queue(queue) => {
                while filling.free > 0
                    && let Some(mut due) = queue.peek_mut()
                {
                    let Reverse((turn, at)) = *due;
                    let Some(claim) = claims.get_mut(at as usize) else {
                        return true;
                    };
                    if !filling.claim(claim, budget) {
                        return false;
                    }
                    budget.spend(TURN_UNITS);
                    claim.target += shares.max;
                    match claim.next_turn(turn, filling.table_size) {
                        Some(next) => *due = Reverse((next, at)),
                        None => drop(PeekMut::pop(due)),
                    }
                }
            }
        }
        true
    }
}

/// The smallest prime that is not below `size`, within the limits for tables.
fn prime_from(size: u64) -> u32 {
    let size = size.clamp(TABLE_SIZE_MIN, TABLE_SIZE_MAX);
    let prime = (size..TABLE_SIZE_MAX).find(|n| is_prime(*n)).unwrap_or(TABLE_SIZE_MAX);
    u32::try_from(prime).unwrap_or(u32::MAX)
}

fn is_prime(n: u64) -> bool {
    n >= 2 && (2..n).take_while(|d| d * d <= n).all(|d| !n.is_multiple_of(d))
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    fn fill(table_size: u32, members: &[Member<'_>]) -> Vec<u32> {
        let mut building = MaglevBuilding::new(u64::from(table_size), 0, members);
        assert!(building.step(&mut Budget::new(u32::MAX)));
        building.finish().slots().collect()
    }

    /// The paper's loop with Envoy's rule for weights, written out: slow and plain.
    fn fill_by_going_round(table_size: u32, members: &[Member<'_>]) -> Vec<u32> {
        let mut building = MaglevBuilding::new(u64::from(table_size), 0, members);
        let budget = &mut Budget::new(u32::MAX);
        let keys = &building.keys;
        assert!(building.order.step(budget, |a, b| keys.get(*a).cmp(keys.get(*b))));
        assert!(building.make_claims(budget) && building.filling.make_slots(budget));
        let MaglevBuilding { claims, filling, shares, .. } = &mut building;
        for turn in 1_u32.. {
            for claim in &mut *claims {
                if filling.free == 0 {
                    return building.finish().slots().collect();
                }
                if f64::from(turn) * claim.share < claim.target {
                    continue;
                }
                claim.target += shares.max;
                assert!(filling.claim(claim, &mut Budget::new(u32::MAX)));
            }
        }
        unreachable!("the loop ends when the table is full")
    }

    #[test]
    fn the_queue_of_turns_fills_the_table_that_going_round_fills() {
        let keys: Vec<String> = (0..40).map(|n| format!("10.0.0.{n}:80")).collect();
        let tables: [(u32, &[u32]); 8] = [
            (1009, &[1, 2, 3, 4, 5]),
            (1009, &[7, 7, 7]),
            (65_537, &[3, 1, 7]),
            (65_537, &[1, 1_000_000, 3, 999_999]),
            (13, &[u32::MAX, 1]),
            (1009, &[10, 10, 10, 30, 33, 1, 128]),
            (2, &[5, 1, 9]),
            (257, &[49, 50, 51, 100, 149, 150, 151]),
        ];
        for (size, weights) in tables {
            let members: Vec<_> = (0..40)
                .map(|n| Member { key: &keys[n], weight: weights[n % weights.len()] })
                .collect();
            assert_eq!(fill(size, &members), fill_by_going_round(size, &members), "{weights:?}");
        }
    }

    #[test]
    fn a_size_that_is_no_prime_becomes_the_next_one_within_limits() {
        assert_eq!(prime_from(0), 2);
        assert_eq!(prime_from(8), 11);
        assert_eq!(prime_from(65_537), 65_537);
        assert_eq!(prime_from(u64::MAX), 5_000_011);
        assert!(is_prime(TABLE_SIZE_MAX));
    }

    #[test]
    fn more_than_256_members_need_wide_entries_and_get_them() {
        let keys: Vec<String> =
            (0..257).map(|n| format!("10.0.{}.{}:80", n / 256, n % 256)).collect();
        let members: Vec<_> = keys.iter().map(|key| Member { key, weight: 1 }).collect();
        let build = |members: &[Member<'_>]| {
            let mut building = MaglevBuilding::new(65_537, 0, members);
            assert!(building.step(&mut Budget::new(u32::MAX)));
            building.finish()
        };
        let wide = build(&members);
        let narrow = build(&members[..256]);
        assert!(matches!(wide.slots, Slots::Wide(_)));
        assert!(matches!(narrow.slots, Slots::Narrow(_)));
        assert!(wide.slots().any(|owner| owner == 256));
        assert!(narrow.slots().any(|owner| owner == 255));
    }
}

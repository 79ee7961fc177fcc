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
use core::ops::ControlFlow;
use std::collections::BinaryHeap;

use super::seen::Seen;
use super::weights::{self, Shares};
use super::{Member, Step, count, reduce};
use crate::hash::xxh64;

/// Largest table; also Envoy's limit, and a prime.
pub const TABLE_SIZE_MAX: u64 = 5_000_011;

/// Smallest table that has a permutation.
const TABLE_SIZE_MIN: u64 = 2;

/// Rehashes after the first candidate before a walk goes on by neighbouring slots.
const ATTEMPTS_MAX: u64 = 16;

/// Slots that one walk looks at before it offers the members still missing in index order; a table
/// of the default size is covered whole.
const WALK_SLOTS_MAX: usize = 131_072;

/// Corrections to an estimated turn; one is enough for the rounding of one division.
const TURN_CORRECTIONS_MAX: u32 = 4;

/// A table, and the room to walk it.
#[derive(Debug)]
pub struct Maglev {
    slots: Slots,
    table_size: u32,
    seen: Seen,
}

/// Owners by slot, as narrow as their number allows: a worker holds one table per cluster.
#[derive(Debug)]
enum Slots {
    Narrow(Vec<u8>),
    Wide(Vec<u16>),
}

impl Slots {
    fn get(&self, slot: u32) -> Option<u32> {
        match self {
            Self::Narrow(owners) => owners.get(slot as usize).map(|owner| u32::from(*owner)),
            Self::Wide(owners) => owners.get(slot as usize).map(|owner| u32::from(*owner)),
        }
    }
}

impl Maglev {
    /// The table of `members`; a size that is no prime up to
    /// [`TABLE_SIZE_MAX`] becomes the next one, or the largest.
    pub(super) fn build(table_size: u64, members: &[Member<'_>]) -> Self {
        let table_size = prime_from(table_size);
        let owners = if members.is_empty() { Vec::new() } else { fill(table_size, members) };
        let slots = if members.len() <= usize::from(u8::MAX) + 1 {
            Slots::Narrow(owners.iter().map(|owner| u8::try_from(*owner).unwrap_or(0)).collect())
        } else {
            Slots::Wide(owners)
        };
        Self { slots, table_size, seen: Seen::new(count(members)) }
    }

    /// The table, slot by slot: index of the member that owns it. Empty without members.
    pub fn slots(&self) -> impl Iterator<Item = u32> {
        (0..self.table_size).map_while(|slot| self.slots.get(slot))
    }

    pub(super) fn len(&self) -> u32 {
        self.seen.members()
    }

    pub(super) fn walk(&mut self, hash: u64, visit: &mut impl FnMut(u32) -> Step) {
        self.seen.begin();
        let _ = self.offer_all(hash, visit);
    }

    fn offer_all(&mut self, hash: u64, visit: &mut impl FnMut(u32) -> Step) -> ControlFlow<()> {
        let first = reduce(hash, self.table_size);
        self.offer_slot(first, visit)?;
        for attempt in 1..=ATTEMPTS_MAX {
            let slot = reduce(hash ^ attempt.wrapping_neg(), self.table_size);
            self.offer_slot(slot, visit)?;
        }
        for slot in (first..self.table_size).chain(0..first).take(WALK_SLOTS_MAX) {
            self.offer_slot(slot, visit)?;
        }
        self.seen.offer_rest(reduce(hash, self.seen.members()), visit)
    }

    fn offer_slot(&mut self, slot: u32, visit: &mut impl FnMut(u32) -> Step) -> ControlFlow<()> {
        match self.slots.get(slot) {
            Some(owner) => self.seen.offer(owner, visit),
            None => ControlFlow::Break(()),
        }
    }
}

/// One member while the table is being filled.
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
struct Filling {
    owners: Vec<u16>,
    taken: Vec<u64>,
    table_size: u32,
    free: u32,
}

impl Filling {
    fn new(table_size: u32) -> Self {
        Self {
            owners: vec![0; table_size as usize],
            taken: vec![0; (table_size as usize).div_ceil(64)],
            table_size,
            free: table_size,
        }
    }

    /// Gives the member the first free slot of its permutation. A prime size makes the
    /// permutation reach every slot, so this ends within one round.
    fn claim(&mut self, claim: &mut Claim) {
        for _ in 0..self.table_size {
            let slot = claim.slot;
            let next = slot + claim.skip;
            claim.slot = if next < self.table_size { next } else { next - self.table_size };
            let Some(word) = self.taken.get_mut(slot as usize / 64) else {
                return;
            };
            let bit = 1 << (slot % 64);
            if *word & bit == 0 {
                *word |= bit;
                self.free -= 1;
                if let Some(owner) = self.owners.get_mut(slot as usize) {
                    *owner = claim.owner;
                }
                return;
            }
        }
    }
}

/// The owner of every slot.
fn fill(table_size: u32, members: &[Member<'_>]) -> Vec<u16> {
    let shares = Shares::of(members);
    let mut claims = claims(table_size, members, &shares);
    let mut filling = Filling::new(table_size);
    if weights::are_equal(members) {
        while filling.free > 0 {
            for claim in claims.iter_mut().take(filling.free as usize) {
                filling.claim(claim);
            }
        }
        return filling.owners;
    }
    let mut turns: BinaryHeap<Reverse<(u32, u32)>> =
        (0..count(members)).map(|at| Reverse((1, at))).collect();
    while filling.free > 0 {
        let Some(mut due) = turns.peek_mut() else {
            break;
        };
        let Reverse((turn, at)) = *due;
        let Some(claim) = claims.get_mut(at as usize) else {
            break;
        };
        claim.target += shares.max;
        filling.claim(claim);
        match claim.next_turn(turn, table_size) {
            Some(next) => *due = Reverse((next, at)),
            None => drop(std::collections::binary_heap::PeekMut::pop(due)),
        }
    }
    filling.owners
}

/// The members in the order in which they take turns, at the start of their permutations.
fn claims(table_size: u32, members: &[Member<'_>], shares: &Shares) -> Vec<Claim> {
    let mut order: Vec<_> = (0..=u16::MAX).zip(members.iter().zip(&shares.of_member)).collect();
    order.sort_by_key(|(_, (member, _))| member.key);
    let claim = |(owner, (member, share)): (u16, (&Member<'_>, &f64))| {
        let key = member.key.as_bytes();
        let slot = reduce(xxh64(key, 0), table_size);
        let skip = reduce(xxh64(key, 1), table_size - 1) + 1;
        Claim { owner, slot, skip, share: *share, target: 0.0 }
    };
    order.into_iter().map(claim).collect()
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

    /// The paper's loop with Envoy's rule for weights, written out: slow and plain.
    fn fill_by_going_round(table_size: u32, members: &[Member<'_>]) -> Vec<u16> {
        let shares = Shares::of(members);
        let mut claims = claims(table_size, members, &shares);
        let mut filling = Filling::new(table_size);
        for turn in 1_u32.. {
            for claim in &mut claims {
                if filling.free == 0 {
                    return filling.owners;
                }
                if f64::from(turn) * claim.share < claim.target {
                    continue;
                }
                claim.target += shares.max;
                filling.claim(claim);
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
        let wide = Maglev::build(65_537, &members);
        let narrow = Maglev::build(65_537, &members[..256]);
        assert!(matches!(wide.slots, Slots::Wide(_)));
        assert!(matches!(narrow.slots, Slots::Narrow(_)));
        assert!(wide.slots().any(|owner| owner == 256));
        assert!(narrow.slots().any(|owner| owner == 255));
    }
}

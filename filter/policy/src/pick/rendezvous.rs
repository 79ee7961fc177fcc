//! `rendezvous`: a key belongs to the member that draws the best lot for the key's slot.
//!
//! Highest random weight hashing (Thaler and Ravishankar, IEEE/ACM ToN 6(1), 1998) asks every
//! member for every key. Here keys fall into slots, `hash % table_size`, and the best
//! [`RANKS_MAX`] members of each slot are found beforehand, so a pick is one look-up. Envoy has
//! no such policy.
//!
//! The lots are drawn as a race. Each member has a stream of events, all of it decided by its key:
//! gaps are exponential with a rate that is the member's weight, and each event happens at a
//! random slot. The members of a slot are ranked by their first event there. By the thinning of
//! Poisson processes these first events are independent and exponential, with the weights as rates:
//! weighted rendezvous hashing, exactly. What follows:
//!
//! - A member that leaves moves its own slots only, each to the member ranked second, and gets
//!   exactly them back; holding it out does the same.
//! - A weight only scales a member's own times. Raised, it pulls slots to that member, lowered
//!   it gives some away, and no slot moves between two others.
//! - The order of the members plays no part.
//!
//! Streams are played up to a horizon, which moves on until every slot has its ranks: events
//! before the horizon are known all, so what is ranked is final. That takes some 20 events per slot
//! however many members there are. A member that has nothing left to win, because it is
//! ranked wherever a rank is free, is not played any further: that bounds the build when weights
//! differ by orders of magnitude.
//!
//! Candidates after a slot's ranks are those of other slots, by Maglev's rehash per attempt.

use super::build::{Budget, Keys};
use super::hash_walk::HashWalk;
use super::slots::Slots;
use super::weights::effective;
use super::{Loads, Member, Step, count, reduce};
use crate::hash::xxh64;
use crate::rng::{Rng as _, SplitMix64};

/// Most slots of a table.
pub const RENDEZVOUS_SLOTS_MAX: u64 = 1_048_576;

/// Members that a slot ranks: a first candidate and two backups.
const RANKS_MAX: u32 = 3;

/// Rehashes after the first slot before a walk goes on in index order.
const ATTEMPTS_MAX: u64 = 16;

/// Events per slot that are played before slots are inspected, and between inspections.
const EVENTS_FIRST: f64 = 16.0;
const EVENTS_NEXT: f64 = 2.0;

/// Inspections before free ranks are left to whoever is first. Three tiers of weights
/// take about 10 each.
const ROUNDS_MAX: u32 = 128;

/// What an event and a key cost in units, and how many slots are made or inspected for one.
const EVENT_UNITS: u32 = 2;
const KEY_UNITS: u32 = 4;
const SLOTS_PER_UNIT: u32 = 4;

/// A table of ranks, and the room to walk it.
#[derive(Debug)]
pub struct Rendezvous {
    /// The ranks of the first slot, then those of the next.
    owners: Slots,
    table_size: u32,
    ranks: u32,
    walk: HashWalk,
}

impl Rendezvous {
    /// The table, slot by slot: index of the member that owns it. Empty without members.
    pub fn slots(&self) -> impl Iterator<Item = u32> {
        self.ranked(0)
    }

    /// The members of one rank, slot by slot; rank 0 owns the slot, and the last rank is 2, or the
    /// last member.
    pub fn ranked(&self, rank: u32) -> impl Iterator<Item = u32> {
        let slots = if rank < self.ranks { 0..self.table_size } else { 0..0 };
        slots.map_while(move |slot| self.owners.get(slot * self.ranks + rank))
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
        let Self { owners, table_size, ranks, walk } = self;
        let candidates = (0..=ATTEMPTS_MAX).flat_map(|attempt| {
            let slot = reduce(hash ^ attempt.wrapping_neg(), *table_size);
            let first = slot * *ranks;
            (first..first + *ranks).map_while(|at| owners.get(at))
        });
        walk.walk(hash, candidates, loads, visit);
    }
}

/// One member in the race.
#[derive(Debug)]
struct Stream {
    /// Decides ties, and where the stream starts.
    key: u64,
    draws: SplitMix64,
    /// Where and when the next event is, for a weight of 1. Infinity: out of the race.
    slot: u32,
    unscaled: f64,
    weight: u32,
    /// 1 / weight.
    scale: f64,
}

impl Stream {
    fn new(key: &str, weight: u32, table_size: u32) -> Self {
        let key = xxh64(key.as_bytes(), 0);
        let (draws, scale) = (SplitMix64::new(key), 1.0 / f64::from(weight));
        let mut stream = Self { key, draws, slot: 0, unscaled: 0.0, weight, scale };
        stream.advance(table_size);
        stream
    }

    /// When the next event is.
    fn time(&self) -> f64 {
        self.unscaled * self.scale
    }

    fn advance(&mut self, table_size: u32) {
        let draw = self.draws.next_u64();
        let low = draw & u64::from(u32::MAX);
        self.slot = u32::try_from((low * u64::from(table_size)) >> 32).unwrap_or(0);
        self.unscaled += exponential(draw >> 32);
    }
}

/// `-ln((draw + 1/2) / 2^32)`, to about 10 digits: exponential with mean 1 if `draw` is uniform in
/// `0..2^32`.
///
/// Only operations that IEEE 754 defines to the last bit, since placement must be the same
/// natively and in wasm, and a library's logarithm is not. With `x = m * 2^k` and m about 1,
/// `ln m = 2 atanh((m - 1) / (m + 1))`.
fn exponential(draw: u64) -> f64 {
    const EXPONENT_BIAS: u64 = 1023;
    let bits = ((2 * draw + 1) as f64).to_bits();
    let mantissa = f64::from_bits(bits << 12 >> 12 | EXPONENT_BIAS << 52);
    let is_high = mantissa > core::f64::consts::SQRT_2;
    let m = if is_high { 0.5 * mantissa } else { mantissa };
    // `draw` is below 2^32, so this is 0..=33.
    let halvings = (EXPONENT_BIAS + 33).saturating_sub((bits >> 52) + u64::from(is_high)) as u32;
    let s = (m - 1.0) / (m + 1.0);
    let z = s * s;
    let series = 1.0 / 9.0 + z * (1.0 / 11.0 + z * (1.0 / 13.0));
    let series = 1.0 + z * (1.0 / 3.0 + z * (1.0 / 5.0 + z * (1.0 / 7.0 + z * series)));
    f64::from(halvings) * core::f64::consts::LN_2 - 2.0 * s * series
}

/// The ranks of all slots, as far as the race has come.
#[derive(Debug)]
struct Ranking {
    ranks: u32,
    /// First event of each ranked member, ascending in each slot; infinite if the rank is free.
    times: Vec<f64>,
    owners: Vec<u16>,
}

impl Ranking {
    /// An event of `member` at `slot`; it counts if it is the member's first there and among the
    /// first `ranks`. `key_of` decides between equal times.
    fn add(&mut self, slot: u32, time: f64, member: u16, key_of: impl Fn(u16) -> u64) {
        let at = (slot * self.ranks) as usize;
        let slots = at..at + self.ranks as usize;
        let (Some(times), Some(owners)) =
            (self.times.get_mut(slots.clone()), self.owners.get_mut(slots))
        else {
            return;
        };
        if times.last().is_none_or(|last| *last < time) {
            return;
        }
        let mut event = (time, member);
        for (time, owner) in times.iter_mut().zip(owners) {
            if *owner == event.1 && time.is_finite() {
                return;
            }
            let tie = || (key_of(event.1), event.1) < (key_of(*owner), *owner);
            if event.0 < *time || event.0 <= *time && tie() {
                core::mem::swap(time, &mut event.0);
                core::mem::swap(owner, &mut event.1);
            }
        }
    }

    /// The members ranked at `slot`, and whether that are all that it can rank.
    fn of(&self, slot: u32) -> (&[u16], bool) {
        let at = (slot * self.ranks) as usize;
        let slots = at..at + self.ranks as usize;
        let times = self.times.get(slots.clone()).unwrap_or(&[]);
        let ranked = times.iter().take_while(|time| time.is_finite()).count();
        let owners = self.owners.get(slots).and_then(|owners| owners.get(..ranked));
        (owners.unwrap_or(&[]), ranked == times.len())
    }
}

/// A race in progress.
#[derive(Debug)]
pub(super) struct RendezvousBuilding {
    keys: Keys,
    weights: Vec<u32>,
    streams: Vec<Stream>,
    ranking: Ranking,
    table_size: u32,
    rounds: u32,
    stage: Stage,
    owners: Slots,
    walk: HashWalk,
}

#[derive(Debug)]
enum Stage {
    /// Playing the events before the horizon; the member whose turn it is.
    Race { horizon: f64, at: usize },
    /// Looking for slots with free ranks: the next slot, how many there are, and for how many
    /// of them each member is ranked.
    Inspection { horizon: f64, slot: u32, open: u32, ranked: Vec<u32> },
    /// Copying the ranks to where walks read them.
    LayOut,
}

impl RendezvousBuilding {
    /// The table of `members`; the size is clamped to 1..=[`RENDEZVOUS_SLOTS_MAX`].
    pub(super) fn new(table_size: u64, hash_balance_factor: u32, members: &[Member<'_>]) -> Self {
        let table_size = u32::try_from(table_size.clamp(1, RENDEZVOUS_SLOTS_MAX)).unwrap_or(1);
        let ranks = count(members).min(RANKS_MAX);
        let entries = table_size as usize * ranks as usize;
        let weights: Vec<u32> = members.iter().map(effective).collect();
        let horizon = horizon_after(0.0, EVENTS_FIRST, table_size, weights.iter().copied());
        Self {
            keys: Keys::of(members),
            weights,
            streams: Vec::with_capacity(members.len()),
            ranking: Ranking {
                ranks,
                times: Vec::with_capacity(entries),
                owners: Vec::with_capacity(entries),
            },
            table_size,
            rounds: 0,
            stage: Stage::Race { horizon, at: 0 },
            owners: Slots::with_capacity(count(members), entries),
            walk: HashWalk::new(hash_balance_factor, members),
        }
    }

    pub(super) fn step(&mut self, budget: &mut Budget) -> bool {
        if !self.make_streams(budget) || !self.make_slots(budget) {
            return false;
        }
        loop {
            let done = match &self.stage {
                Stage::Race { .. } => self.race(budget),
                Stage::Inspection { .. } => self.inspect(budget),
                Stage::LayOut => return self.lay_out(budget),
            };
            if !done {
                return false;
            }
        }
    }

    pub(super) fn finish(self) -> Rendezvous {
        let Self { owners, table_size, ranking, walk, .. } = self;
        Rendezvous { owners, table_size, ranks: ranking.ranks, walk }
    }

    fn make_streams(&mut self, budget: &mut Budget) -> bool {
        while let Some(weight) = self.weights.get(self.streams.len()) {
            if !budget.spend(KEY_UNITS) {
                return false;
            }
            let key = self.keys.get(u16::try_from(self.streams.len()).unwrap_or(u16::MAX));
            self.streams.push(Stream::new(key, *weight, self.table_size));
        }
        true
    }

    fn make_slots(&mut self, budget: &mut Budget) -> bool {
        let Ranking { ranks, times, owners } = &mut self.ranking;
        let entries = self.table_size as usize * *ranks as usize;
        while times.len() < entries {
            if !budget.spend(1) {
                return false;
            }
            let made = entries.min(times.len() + SLOTS_PER_UNIT as usize);
            times.resize(made, f64::INFINITY);
            owners.resize(made, 0);
        }
        true
    }

    /// Plays what is left before the horizon; true when all of it is played.
    fn race(&mut self, budget: &mut Budget) -> bool {
        let Stage::Race { horizon, at } = &mut self.stage else {
            return true;
        };
        while let Some(stream) = self.streams.get_mut(*at) {
            let time = stream.time();
            if !budget.spend(EVENT_UNITS) {
                return false;
            }
            if time >= *horizon {
                *at += 1;
                continue;
            }
            let slot = stream.slot;
            stream.advance(self.table_size);
            let streams = &self.streams;
            let key_of = |member: u16| streams.get(usize::from(member)).map_or(0, |s| s.key);
            let member = u16::try_from(*at).unwrap_or(u16::MAX);
            self.ranking.add(slot, time, member, key_of);
        }
        let ranked = vec![0; self.streams.len()];
        self.stage = Stage::Inspection { horizon: *horizon, slot: 0, open: 0, ranked };
        true
    }

    /// Looks for slots with free ranks; true when there is none, or the race goes on for them.
    fn inspect(&mut self, budget: &mut Budget) -> bool {
        let Stage::Inspection { horizon, slot, open, ranked } = &mut self.stage else {
            return true;
        };
        while *slot < self.table_size {
            if *slot % SLOTS_PER_UNIT == 0 && !budget.spend(1) {
                return false;
            }
            let (owners, is_full) = self.ranking.of(*slot);
            if !is_full {
                *open += 1;
                for owner in owners {
                    if let Some(ranked) = ranked.get_mut(usize::from(*owner)) {
                        *ranked += 1;
                    }
                }
            }
            *slot += 1;
        }
        self.rounds += 1;
        if *open == 0 || self.rounds == ROUNDS_MAX {
            self.stage = Stage::LayOut;
            return true;
        }
        for (stream, ranked) in self.streams.iter_mut().zip(ranked) {
            if *ranked == *open {
                stream.unscaled = f64::INFINITY;
            }
        }
        let racing = self.streams.iter().filter(|stream| stream.unscaled.is_finite());
        let weights = racing.map(|stream| stream.weight);
        let horizon = horizon_after(*horizon, EVENTS_NEXT, self.table_size, weights);
        self.stage = Stage::Race { horizon, at: 0 };
        true
    }

    fn lay_out(&mut self, budget: &mut Budget) -> bool {
        let ranking = &self.ranking;
        while let Some(owner) = ranking.owners.get(self.owners.len()) {
            if !budget.spend(1) {
                return false;
            }
            self.owners.push(*owner);
        }
        true
    }
}

/// The time by which streams of `weights` have another `events` per slot.
fn horizon_after(
    horizon: f64,
    events: f64,
    table_size: u32,
    weights: impl Iterator<Item = u32>,
) -> f64 {
    let rate: u64 = weights.map(u64::from).sum();
    horizon + events * f64::from(table_size) / rate.max(1) as f64
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    fn keys(n: usize) -> Vec<String> {
        (0..n).map(|at| format!("10.0.{}.{}:80", at / 256, at % 256)).collect()
    }

    fn members<'a>(keys: &'a [String], weights: &[u32]) -> Vec<Member<'a>> {
        let weights = weights.iter().cycle();
        keys.iter().zip(weights).map(|(key, weight)| Member { key, weight: *weight }).collect()
    }

    fn build(table_size: u64, members: &[Member<'_>], units: u32) -> RendezvousBuilding {
        let mut building = RendezvousBuilding::new(table_size, 0, members);
        while !building.step(&mut Budget::new(units)) {}
        building
    }

    /// The ranks of each slot by the definition: every member's first event there, sorted.
    fn by_definition(table_size: u32, members: &[Member<'_>]) -> Vec<Vec<u32>> {
        let mut firsts = vec![Vec::new(); table_size as usize];
        for (index, member) in (0..).zip(members) {
            let mut stream = Stream::new(member.key, member.weight, table_size);
            let mut is_open = vec![true; table_size as usize];
            while is_open.contains(&true) {
                let slot = stream.slot as usize;
                if core::mem::replace(&mut is_open[slot], false) {
                    firsts[slot].push((stream.time(), index));
                }
                stream.advance(table_size);
            }
        }
        for slot in &mut firsts {
            slot.sort_by(|a, b| a.0.total_cmp(&b.0));
        }
        firsts.into_iter().map(|slot| slot.into_iter().map(|first| first.1).collect()).collect()
    }

    #[test]
    fn ranks_are_the_members_in_the_order_of_their_first_events_at_the_slot() {
        for (n, weights) in
            [(1, &[3][..]), (2, &[1, 40]), (3, &[1]), (7, &[2, 1, 9, 1]), (40, &[1, 5])]
        {
            let keys = keys(n);
            let members = members(&keys, weights);
            let table = build(61, &members, u32::MAX).finish();
            let expected = by_definition(61, &members);
            for rank in 0..n.min(3) {
                let ranked = table.ranked(u32::try_from(rank).unwrap());
                assert!(ranked.eq(expected.iter().map(|slot| slot[rank])), "{n} {weights:?}");
            }
            assert_eq!(table.ranked(3).count(), 0);
        }
    }

    #[test]
    fn slices_of_any_size_give_the_same_table() {
        let keys = keys(30);
        let members = members(&keys, &[1, 2, 30]);
        let whole = build(251, &members, u32::MAX).finish();
        for units in [0, 1, 2, 100] {
            let sliced = build(251, &members, units).finish();
            assert!((0..3).all(|rank| sliced.ranked(rank).eq(whole.ranked(rank))));
        }
    }

    /// The same number natively and on wasm32: no operation of the build may depend on the machine.
    #[test]
    fn a_table_is_the_same_on_every_machine() {
        let keys = keys(100);
        let members = members(&keys, &[1, 2, 3, 100]);
        let table = build(65_536, &members, u32::MAX).finish();
        let bytes: Vec<u8> =
            (0..3).flat_map(|rank| table.ranked(rank)).flat_map(u32::to_le_bytes).collect();
        assert_eq!(xxh64(&bytes, 0), 8_390_304_633_074_280_241);
    }

    #[test]
    fn weights_of_very_different_size_end_a_build_with_all_ranks_taken() {
        let keys = keys(6);
        for weights in [[u32::MAX, 1, 1, 1, 1, 1], [1_000_000_000, 1, 100_000, 1, 1, 1]] {
            let building = build(1021, &members(&keys, &weights), u32::MAX);
            assert!(building.rounds < ROUNDS_MAX / 2, "{} rounds", building.rounds);
            assert!(building.ranking.times.iter().all(|time| time.is_finite()));
            let lost = building.finish().slots().filter(|owner| *owner != 0).count();
            assert!(lost <= 3, "{lost} of 1021 slots go to one in 10,000");
        }
    }

    #[test]
    fn gaps_are_the_negative_logarithm_of_a_uniform_number_and_never_negative() {
        let draws = (0..64).flat_map(|bit| [1_u64 << bit, (1 << bit) - 1, 3 << bit >> 1]);
        for draw in draws.map(|draw| draw & u64::from(u32::MAX)) {
            let expected = -((draw as f64 + 0.5) / 4_294_967_296.0).ln();
            let gap = exponential(draw);
            assert!(gap > 0.0 && (gap - expected).abs() <= 1e-9 * expected, "{draw} {gap}");
        }
        let mut draws = SplitMix64::new(3);
        let sum: f64 = (0..100_000).map(|_| exponential(draws.next_u64() >> 32)).sum();
        assert!((sum / 100_000.0 - 1.0).abs() < 0.02, "{sum}");
    }
}

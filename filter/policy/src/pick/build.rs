//! Building a picker in slices.
//!
//! A ring of 10,000 endpoints or a table of 65,537 slots takes milliseconds to build, which a
//! proxy's worker must not spend in one go: while it does, no request on that worker moves. So a
//! build is a value that is stepped: [`Picker::begin`] copies what it needs of the members,
//! [`Building::step`] does a bounded amount of work, and the old picker serves until
//! [`Building::finish`]. How the work is sliced changes nothing about the result.
//!
//! Sorting is sliced too: short runs by the library's sort, then merges that may stop after any
//! element ([`MergeSort`]).

use core::cmp::Ordering;

use super::maglev::MaglevBuilding;
use super::rendezvous::RendezvousBuilding;
use super::ring_hash::RingBuilding;
use super::{MEMBERS_MAX, Member, Picker};
use crate::config::LbPolicy;

/// Units per call of [`Building::step`] that keep it below about 0.3 ms in a proxy's wasm.
pub const SLICE_UNITS: u32 = 8192;

/// Elements that are sorted in one go, and what each of them costs in units.
const RUN: usize = 256;
const RUN_UNITS: u32 = 1024;

/// A picker that is being built.
#[derive(Debug)]
pub struct Building(Stage);

#[derive(Debug)]
enum Stage {
    /// Policies whose build is short.
    Built(Picker),
    RingHash(Box<RingBuilding>),
    Maglev(Box<MaglevBuilding>),
    Rendezvous(Box<RendezvousBuilding>),
}

impl Picker {
    /// Starts to build what [`Picker::build`] builds. Nothing of `members` is borrowed afterwards.
    ///
    /// Policies that are not built from tables are complete at once.
    #[must_use]
    pub fn begin(policy: &LbPolicy, members: &[Member<'_>], seed: u64) -> Building {
        let members = members.get(..MEMBERS_MAX).unwrap_or(members);
        Building(match *policy {
            LbPolicy::RingHash {
                minimum_ring_size,
                maximum_ring_size,
                hash_function,
                hash_balance_factor,
            } => Stage::RingHash(Box::new(RingBuilding::new(
                minimum_ring_size,
                maximum_ring_size,
                hash_function,
                hash_balance_factor,
                members,
            ))),
            LbPolicy::Maglev { table_size, hash_balance_factor } => {
                let building = MaglevBuilding::new(table_size, hash_balance_factor, members);
                Stage::Maglev(Box::new(building))
            }
            LbPolicy::Rendezvous { table_size, hash_balance_factor } => {
                let building = RendezvousBuilding::new(table_size, hash_balance_factor, members);
                Stage::Rendezvous(Box::new(building))
            }
            _ => Stage::Built(Self::build(policy, members, seed)),
        })
    }
}

impl Building {
    /// Works for about `units` units, of which one is the work of one entry of a table; true when
    /// the picker is complete. At least one unit is done, so that calls in a row come to an end.
    pub fn step(&mut self, units: u32) -> bool {
        let mut budget = Budget::new(units);
        match &mut self.0 {
            Stage::Built(_) => true,
            Stage::RingHash(building) => building.step(&mut budget),
            Stage::Maglev(building) => building.step(&mut budget),
            Stage::Rendezvous(building) => building.step(&mut budget),
        }
    }

    /// The picker, after whatever work was left.
    #[must_use]
    pub fn finish(mut self) -> Picker {
        // Every build is bounded by the limits of its policy, and every step moves it on.
        while !self.step(u32::MAX) {}
        match self.0 {
            Stage::Built(picker) => picker,
            Stage::RingHash(building) => Picker::RingHash(building.finish()),
            Stage::Maglev(building) => Picker::Maglev(building.finish()),
            Stage::Rendezvous(building) => Picker::Rendezvous(building.finish()),
        }
    }
}

/// Units that a step may still spend.
#[derive(Debug)]
pub(super) struct Budget(u32);

impl Budget {
    /// At least one unit, so that whoever spends it gets somewhere.
    pub(super) const fn new(units: u32) -> Self {
        Self(if units == 0 { 1 } else { units })
    }

    /// Pays for work of `units`; false when nothing was left to pay with. The last piece of
    /// work may cost more than was left.
    pub(super) const fn spend(&mut self, units: u32) -> bool {
        let pays = self.0 > 0;
        self.0 = self.0.saturating_sub(units);
        pays
    }
}

/// The members' keys, kept in one piece.
#[derive(Debug)]
pub(super) struct Keys {
    text: String,
    ends: Vec<usize>,
}

impl Keys {
    pub(super) fn of(members: &[Member<'_>]) -> Self {
        let length = members.iter().map(|member| member.key.len()).sum();
        let mut keys =
            Self { text: String::with_capacity(length), ends: Vec::with_capacity(members.len()) };
        for member in members {
            keys.text.push_str(member.key);
            keys.ends.push(keys.text.len());
        }
        keys
    }

    /// The key of the member; empty if there is no such member.
    pub(super) fn get(&self, member: u16) -> &str {
        let at = usize::from(member);
        let start = at.checked_sub(1).and_then(|at| self.ends.get(at)).copied().unwrap_or(0);
        let end = self.ends.get(at).copied().unwrap_or(start);
        self.text.get(start..end).unwrap_or("")
    }
}

/// A stable merge sort that may stop after any element.
#[derive(Debug)]
pub(super) struct MergeSort<T> {
    from: Vec<T>,
    to: Vec<T>,
    /// Elements that are part of a sorted run of [`RUN`].
    in_runs: usize,
    /// Length of the runs that are being merged.
    width: usize,
    /// Where the two runs that are being merged go on.
    left: usize,
    right: usize,
}

impl<T: Copy> MergeSort<T> {
    pub(super) const fn new(from: Vec<T>) -> Self {
        Self { from, to: Vec::new(), in_runs: 0, width: RUN, left: 0, right: 0 }
    }

    /// What is being sorted; sorted once [`MergeSort::step`] has said so.
    pub(super) const fn items(&mut self) -> &mut Vec<T> {
        &mut self.from
    }

    /// Goes on sorting by `compare`; true when done.
    pub(super) fn step(
        &mut self,
        budget: &mut Budget,
        compare: impl Fn(&T, &T) -> Ordering,
    ) -> bool {
        while self.in_runs < self.from.len() {
            if !budget.spend(RUN_UNITS) {
                return false;
            }
            let end = self.from.len().min(self.in_runs + RUN);
            if let Some(run) = self.from.get_mut(self.in_runs..end) {
                run.sort_by(&compare);
            }
            self.in_runs = end;
        }
        while self.width < self.from.len() {
            if !self.merge(budget, &compare) {
                return false;
            }
            core::mem::swap(&mut self.from, &mut self.to);
            self.to.clear();
            self.width = self.width.saturating_mul(2);
        }
        // A large ring needs the room for what it is laid out to.
        self.to = Vec::new();
        true
    }

    /// Merges runs of `width` from `from` into `to`; true when all are.
    fn merge(&mut self, budget: &mut Budget, compare: &impl Fn(&T, &T) -> Ordering) -> bool {
        let length = self.from.len();
        self.to.reserve(length - self.to.len());
        while self.to.len() < length {
            if !budget.spend(1) {
                return false;
            }
            // As much as is merged is consumed, so the pair of runs follows from that.
            let start = self.to.len() - self.to.len() % (2 * self.width);
            if self.to.len() == start {
                (self.left, self.right) = (start, length.min(start + self.width));
            }
            let middle = length.min(start + self.width);
            let end = length.min(start + 2 * self.width);
            let left = self.from.get(self.left).filter(|_| self.left < middle);
            let right = self.from.get(self.right).filter(|_| self.right < end);
            let (item, is_left) = match (left, right) {
                (Some(left), Some(right)) if compare(left, right).is_le() => (left, true),
                (_, Some(right)) => (right, false),
                (Some(left), None) => (left, true),
                (None, None) => return true,
            };
            self.to.push(*item);
            self.left += usize::from(is_left);
            self.right += usize::from(!is_left);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::rng::{Rng as _, SplitMix64};

    #[test]
    fn slices_of_any_size_sort_stably() {
        let mut rng = SplitMix64::new(1);
        for length in [0, 1, 2, RUN - 1, RUN, RUN + 1, 5 * RUN + 7, 8 * RUN] {
            let items: Vec<(u64, usize)> = (0..length).map(|at| (rng.below(50), at)).collect();
            let mut sorted = items.clone();
            sorted.sort_by_key(|item| item.0);
            for units in [1, 3, 1000, u32::MAX] {
                let mut sort = MergeSort::new(items.clone());
                let mut steps = 0_usize;
                while !sort.step(&mut Budget::new(units), |a, b| a.0.cmp(&b.0)) {
                    steps += 1;
                    assert!(steps < 100_000);
                }
                assert_eq!(*sort.items(), sorted, "{length} by {units}");
            }
        }
    }

    #[test]
    fn slices_build_what_one_go_builds_and_no_slice_is_without_progress() {
        let keys: Vec<String> = (0..300).map(|n| format!("10.0.{}.{}:80", n / 250, n)).collect();
        let policies = [
            LbPolicy::Maglev { table_size: 1009, hash_balance_factor: 0 },
            LbPolicy::Rendezvous { table_size: 101, hash_balance_factor: 0 },
            LbPolicy::RingHash {
                minimum_ring_size: 1024,
                maximum_ring_size: 4096,
                hash_function: crate::hash::HashFunction::XxHash,
                hash_balance_factor: 0,
            },
        ];
        let table = |picker: &Picker| -> Vec<(u64, u32)> {
            match picker {
                Picker::RingHash(ring) => ring.points().collect(),
                Picker::Maglev(table) => (0..).zip(table.slots()).collect(),
                Picker::Rendezvous(table) => (0..).zip(table.slots()).collect(),
                _ => unreachable!("the policies hash"),
            }
        };
        for (policy, weight) in policies.iter().flat_map(|policy| [(policy, 1), (policy, 7)]) {
            let members: Vec<_> =
                (0..).zip(&keys).map(|(at, key)| Member { key, weight: 1 + at % weight }).collect();
            let whole = table(&Picker::build(policy, &members, 0));
            for units in [0, 1, 100] {
                let mut building = Picker::begin(policy, &members, 0);
                let steps = (0..100_000).take_while(|_| !building.step(units)).count();
                assert!(steps < 100_000, "{policy:?} by {units}");
                assert_eq!(table(&building.finish()), whole);
            }
            let mut abandoned = Picker::begin(policy, &members, 0);
            abandoned.step(10);
            assert_eq!(table(&abandoned.finish()), whole);
        }
    }

    #[test]
    fn keys_are_kept_as_they_were_given() {
        let members = ["a", "", "long key", "b"].map(|key| Member { key, weight: 1 });
        let keys = Keys::of(&members);
        let kept: Vec<&str> = (0..5).map(|member| keys.get(member)).collect();
        assert_eq!(kept, ["a", "", "long key", "b", ""]);
    }
}

//! Bounded load: a key's endpoint takes it only while it has room, else another one does.
//!
//! Mirrokni, Thorup, Zadimoghaddam: "Consistent Hashing with Bounded Loads" (SODA 2018,
//! arXiv 1608.01350) for the bound; the jump to a random endpoint instead of the next one is Chen,
//! Coleman, Shrivastava, "Revisiting Consistent Hashing with Bounded Loads" (arXiv 1908.08762), as
//! in Envoy's `common/thread_aware_lb_impl.cc`, whose order of endpoints this is, number for
//! number: the request's hash seeds a shuffle of the members, and the first with room is taken.
//!
//! A member has `max(1, ceil(total * weight / weights))` slots, where the total is the requests in
//! flight with this one, times the factor, rounded up. (In integers: Envoy's `f64` gives one slot
//! more where it rounds just past a whole number.) The paper's bound includes the request being
//! placed: here a member has room if its slots suffice *with* that request, so nobody is ever
//! given more than its slots. Envoy compares the requests already there (`active / slots <= 1`),
//! and so may put one on top; this is the only other difference, seen when a member has exactly
//! as many requests as slots. As the slots of all members add up to more than the requests,
//! somebody has room, unless the caller holds them out. A cap moves down when requests end; no
//! request is taken back then, so a member may stay above it until its own end.
//!
//! The weights are those of all members. [`Loads::admitted_share`] corrects for those that are held
//! out, or else the others' slots would not add up to the requests.
//!
//! Asking for a load is a host call, so a member is asked once per walk at most, and a walk asks
//! so many: those held out in the policy's own order, the one that is full, [`OVERFLOW_MAX`] in the
//! shuffle, and [`BACKUP_ASKS_MAX`] backups. Up to [`OVERFLOW_MAX`] members the bound holds without
//! exception. Beyond that, if as many draws find nobody with room, the least overloaded of them is
//! taken; with equal weights and a factor of 120, at most five in six members are full at any time,
//! so that does not happen in practice.
//!
//! That is for the first candidate. Backups are those with room among the next few, then anybody.

use core::ops::ControlFlow;

use super::mt19937::Mt19937;
use super::seen::Seen;
use super::weights::effective;
use super::{Loads, Member, Step, count};

/// Members that one overflow looks at.
const OVERFLOW_MAX: u32 = 1024;

/// Members that one walk asks for their load on behalf of backups.
const BACKUP_ASKS_MAX: u32 = 4;

/// Places in the policy's order that are looked at for backups with room.
const BACKUP_PLACES_MAX: usize = 64;

/// The bound on the loads of a set of members.
#[derive(Debug)]
pub(super) struct Bounded {
    /// Percent of the mean load that a member may have.
    factor: u32,
    weights: Vec<u32>,
    weight_sum: u64,
    /// Members found full in this walk.
    full: Seen,
    random: Mt19937,
    /// Every member at its own index, but for the shuffle of an overflow.
    shuffled: Vec<u16>,
    /// Indices that the shuffle has moved something to.
    touched: Vec<u16>,
}

impl Bounded {
    pub(super) fn new(factor: u32, members: &[Member<'_>]) -> Self {
        let weights: Vec<u32> = members.iter().map(effective).collect();
        let members = count(members);
        Self {
            factor,
            full: Seen::new(members),
            random: Mt19937::new(),
            shuffled: (0..=u16::MAX).take(weights.len()).collect(),
            touched: Vec::with_capacity(members.min(OVERFLOW_MAX) as usize),
            weight_sum: weights.iter().copied().map(u64::from).sum(),
            weights,
        }
    }

    /// Starts the walk for `hash`.
    pub(super) fn begin<'a, L: Loads>(
        &'a mut self,
        hash: u64,
        seen: &'a mut Seen,
        loads: &'a mut L,
    ) -> BoundedWalk<'a, L> {
        self.full.begin();
        let total_slots = total_slots(loads.active_total(), self.factor);
        let share = loads.admitted_share();
        let share = if share > 0.0 && share < 1.0 { share } else { 1.0 };
        // Rounded down, so that the slots of those admitted still add up to the total.
        let weight_sum = (self.weight_sum as f64 * share) as u64;
        BoundedWalk { bounded: self, hash, total_slots, weight_sum, seen, loads }
    }
}

/// Requests that all members together may have, when one joins `active_total`.
fn total_slots(active_total: u64, factor: u32) -> u64 {
    active_total.saturating_add(1).saturating_mul(u64::from(factor)).saturating_add(99) / 100
}

/// A member's slots: its share of the total, rounded up.
fn slots(total_slots: u64, weight: u32, weight_sum: u64) -> u64 {
    total_slots.saturating_mul(u64::from(weight)).div_ceil(weight_sum.max(1)).max(1)
}

/// One walk that prefers members with room.
#[derive(Debug)]
pub(super) struct BoundedWalk<'a, L> {
    bounded: &'a mut Bounded,
    hash: u64,
    total_slots: u64,
    weight_sum: u64,
    seen: &'a mut Seen,
    loads: &'a mut L,
}

/// How full a member is.
struct Fill {
    has_room: bool,
    /// Requests per slot.
    overload: f64,
}

impl<L: Loads> BoundedWalk<'_, L> {
    /// Offers a member that the bound allows, then backups; breaks when the walk is over. Who is
    /// left is to be offered without asking.
    pub(super) fn offer(
        &mut self,
        candidates: impl Iterator<Item = u32> + Clone,
        visit: &mut impl FnMut(u32) -> Step,
    ) -> ControlFlow<()> {
        for member in candidates.clone() {
            if self.seen.contains(member) {
                continue;
            }
            let fill = self.fill(member);
            let took = if fill.has_room {
                self.visit(member, visit)?
            } else {
                self.bounded.full.mark(member);
                self.overflow(member, fill.overload, visit)?;
                true
            };
            if took {
                return self.offer_backups(candidates, visit);
            }
        }
        ControlFlow::Continue(())
    }

    /// Offers the members in the shuffled order of the hash until one with room is admitted, and
    /// if there is none, the one least overloaded.
    fn overflow(
        &mut self,
        hashed: u32,
        overload: f64,
        visit: &mut impl FnMut(u32) -> Step,
    ) -> ControlFlow<()> {
        // Envoy's seed: the generator takes the low 32 bits.
        self.bounded.random.seed(self.hash as u32);
        let mut least = (overload, hashed);
        let mut took = ControlFlow::Continue(false);
        for at in 0..self.seen.members().min(OVERFLOW_MAX) {
            let member = self.bounded.shuffle(at);
            if member == hashed || self.seen.contains(member) {
                continue;
            }
            let fill = self.fill(member);
            if fill.has_room {
                took = self.visit(member, visit);
                if !matches!(took, ControlFlow::Continue(false)) {
                    break;
                }
            } else {
                self.bounded.full.mark(member);
                if fill.overload < least.0 {
                    least = (fill.overload, member);
                }
            }
        }
        self.bounded.unshuffle();
        if !took? {
            self.visit(least.1, visit)?;
        }
        ControlFlow::Continue(())
    }

    /// Offers those with room among the next in the policy's order.
    fn offer_backups(
        &mut self,
        candidates: impl Iterator<Item = u32>,
        visit: &mut impl FnMut(u32) -> Step,
    ) -> ControlFlow<()> {
        let mut asks = BACKUP_ASKS_MAX;
        for member in candidates.take(BACKUP_PLACES_MAX) {
            if self.seen.contains(member) || self.bounded.full.contains(member) {
                continue;
            }
            if asks == 0 {
                break;
            }
            asks -= 1;
            if self.fill(member).has_room {
                self.visit(member, visit)?;
            } else {
                self.bounded.full.mark(member);
            }
        }
        ControlFlow::Continue(())
    }

    /// Offers `member`; breaks when the walk is over, else says whether it was taken.
    fn visit(&mut self, member: u32, visit: &mut impl FnMut(u32) -> Step) -> ControlFlow<(), bool> {
        let mut step = Step::Skip;
        self.seen.offer(member, &mut |member| {
            step = visit(member);
            step
        })?;
        ControlFlow::Continue(step == Step::Take)
    }

    fn fill(&mut self, member: u32) -> Fill {
        let weight = self.bounded.weights.get(member as usize).copied().unwrap_or(0);
        let slots = slots(self.total_slots, weight, self.weight_sum);
        let active = u64::from(self.loads.active(member));
        Fill { has_room: active < slots, overload: active as f64 / slots as f64 }
    }
}

impl Bounded {
    /// The next member of a Fisher-Yates shuffle, `at` having counted up from 0.
    fn shuffle(&mut self, at: u32) -> u32 {
        let members = u32::try_from(self.shuffled.len()).unwrap_or(0);
        let other = at.saturating_add(self.random.below(members.saturating_sub(at)));
        if at < members && other < members {
            self.shuffled.swap(at as usize, other as usize);
            self.touched.push(u16::try_from(other).unwrap_or(0));
        }
        self.shuffled.get(at as usize).copied().map_or(0, u32::from)
    }

    /// Puts back what the shuffle has moved.
    fn unshuffle(&mut self) {
        let swapped = (0..).zip(self.touched.drain(..));
        for at in swapped.flat_map(|(at, other)| [at, other]) {
            if let Some(member) = self.shuffled.get_mut(usize::from(at)) {
                *member = at;
            }
        }
    }
}

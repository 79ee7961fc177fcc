//! `round_robin`: turns in proportion to weights.
//!
//! Equal weights are a plain rotation. Different weights are scheduled earliest deadline first,
//! as in Envoy's `edf_scheduler.h`: a member's next deadline is the time of its turn plus
//! 1/weight, ties go to whoever was queued first, and a new schedule starts after as many turns
//! as its seed says, so that workers do not start in step. Initial deadlines use the weight plus
//! 1e-13, which decides their ties.
//!
//! The first candidate uses up a turn. One that is held out uses up its turn too, and the next one
//! in the schedule is offered, so the turns of those who are admitted stay in proportion. In a
//! schedule a member that was skipped then pauses for as many walks as there are members: a heavy
//! one that is held out would otherwise be asked again and again before anybody else. Backups use
//! up no turns: they are drawn evenly from the others.

use core::cmp::Ordering;
use core::ops::ControlFlow;
use std::collections::binary_heap::PeekMut;
use std::collections::{BinaryHeap, VecDeque};

use super::seen::Seen;
use super::weights::{are_equal, effective};
use super::{Member, Step, count, reduce};
use crate::rng::Rng;

/// What Envoy adds to a weight in the initial deadlines.
const INITIAL_WEIGHT_EPSILON: f64 = 1e-13;

/// Turns that a seed can skip are below this (Envoy: a tenth of the largest `u32`).
const SEED_TURNS_BOUND: u64 = 429_496_729;

/// Draws per walk that may hit a member already offered, before the rest follow in index order
/// from a random one.
const DRAWS_MAX: u32 = 16;

/// Whose turn it is, and the room to walk.
#[derive(Debug)]
pub struct RoundRobin {
    turns: Turns,
    seen: Seen,
}

#[derive(Debug)]
enum Turns {
    /// All weights are the same: index of the member whose turn is next.
    Rotation(u32),
    /// Weights differ.
    Schedule(Schedule),
}

/// How the part of a walk that uses up turns ended.
enum Turn {
    /// The caller has enough.
    Over,
    /// The caller wants backups, or nobody's turn was any good.
    Backups,
}

impl RoundRobin {
    /// The turns of `members`, after as many turns as `seed` says.
    pub(super) fn build(members: &[Member<'_>], seed: u64) -> Self {
        let turns = if are_equal(members) {
            Turns::Rotation(reduce(seed, count(members)))
        } else {
            Turns::Schedule(Schedule::build(members, seed))
        };
        Self { turns, seen: Seen::new(count(members)) }
    }

    pub(super) fn len(&self) -> u32 {
        self.seen.members()
    }

    pub(super) fn walk(&mut self, rng: &mut impl Rng, visit: &mut impl FnMut(u32) -> Step) {
        self.seen.begin();
        let turn = match &mut self.turns {
            Turns::Rotation(next) => rotate(next, &mut self.seen, visit),
            Turns::Schedule(schedule) => schedule.walk(&mut self.seen, visit),
        };
        if matches!(turn, Turn::Backups) && !self.seen.is_complete() {
            let _ = self.offer_backups(rng, visit);
        }
    }

    fn offer_backups(
        &mut self,
        rng: &mut impl Rng,
        visit: &mut impl FnMut(u32) -> Step,
    ) -> ControlFlow<()> {
        let members = self.seen.members();
        let mut draw = || reduce(rng.below(u64::from(members)), members);
        for _ in 0..DRAWS_MAX {
            self.seen.offer(draw(), visit)?;
        }
        self.seen.offer_rest(draw(), visit)
    }
}

/// Offers members in turn until one is admitted; all of them at most.
fn rotate(next: &mut u32, seen: &mut Seen, visit: &mut impl FnMut(u32) -> Step) -> Turn {
    let members = seen.members();
    for _ in 0..members {
        let member = *next;
        *next = if member + 1 < members { member + 1 } else { 0 };
        seen.mark(member);
        match visit(member) {
            Step::Skip | Step::Pass => {}
            Step::Take => return Turn::Backups,
            Step::Stop => return Turn::Over,
        }
    }
    Turn::Over
}

/// An earliest-deadline-first queue of turns.
#[derive(Debug)]
struct Schedule {
    queue: BinaryHeap<Entry>,
    /// Skipped members, in the order in which they return.
    paused: VecDeque<Paused>,
    /// Deadline of the last turn.
    now: f64,
    /// Entries queued so far; breaks ties, first in, first out.
    queued: u64,
    walks: u64,
}

#[derive(Debug)]
struct Entry {
    deadline: f64,
    order: u64,
    member: u32,
    weight: u32,
}

#[derive(Debug)]
struct Paused {
    member: u32,
    weight: u32,
    /// The number of the walk that queues the member again.
    until_walk: u64,
}

impl Ord for Entry {
    /// The greatest entry, which a binary heap yields first, is the earliest one.
    fn cmp(&self, other: &Self) -> Ordering {
        other.deadline.total_cmp(&self.deadline).then_with(|| other.order.cmp(&self.order))
    }
}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Entry {}

impl Schedule {
    /// The queue after `seed` turns. Whole rounds are computed, not played: each member is put
    /// where its share of the turns, rounded down, would have left it; the few turns that
    /// rounding left over are played.
    fn build(members: &[Member<'_>], seed: u64) -> Self {
        let turns = u32::try_from(seed % SEED_TURNS_BOUND).unwrap_or(0);
        let initial = |member| f64::from(effective(member)) + INITIAL_WEIGHT_EPSILON;
        let sum = members.iter().fold(0.0, |sum, member| sum + initial(member));
        let mut played = 0_u32;
        let mut now = 0.0_f64;
        let mut entries = Vec::with_capacity(members.len());
        for (index, member) in (0_u32..).zip(members) {
            let weight = initial(member);
            let mut had = (weight * f64::from(turns) / sum) as u32;
            // Rounding may have given the member a turn that it would not have had yet.
            if had > 0 && f64::from(had) / weight >= f64::from(turns) / sum {
                had -= 1;
            }
            now = now.max(f64::from(had) / weight);
            played = played.saturating_add(had);
            let deadline = (f64::from(had) + 1.0) / weight;
            let order = u64::from(index);
            entries.push(Entry { deadline, order, member: index, weight: effective(member) });
        }
        let mut schedule = Self {
            queue: entries.into(),
            paused: VecDeque::with_capacity(members.len()),
            now,
            queued: u64::from(count(members)),
            walks: 0,
        };
        // At most two per member: one by rounding down, one by the correction.
        for _ in played..turns {
            schedule.play();
        }
        schedule
    }

    /// Lets one turn pass.
    fn play(&mut self) {
        if let Some(mut first) = self.queue.peek_mut() {
            self.now = first.deadline;
            first.deadline = self.now + 1.0 / f64::from(first.weight);
            first.order = self.queued;
            self.queued += 1;
        }
    }

    /// Offers members in the order of their deadlines until one is admitted. A skipped one
    /// leaves the queue, so this offers each member once at most.
    fn walk(&mut self, seen: &mut Seen, visit: &mut impl FnMut(u32) -> Step) -> Turn {
        self.walks = self.walks.saturating_add(1);
        self.resume(seen.members());
        while let Some(mut first) = self.queue.peek_mut() {
            seen.mark(first.member);
            self.now = first.deadline;
            let step = visit(first.member);
            if step == Step::Skip || step == Step::Pass {
                let Entry { member, weight, .. } = PeekMut::pop(first);
                let until_walk = self.walks.saturating_add(u64::from(seen.members()));
                self.paused.push_back(Paused { member, weight, until_walk });
                continue;
            }
            first.deadline = self.now + 1.0 / f64::from(first.weight);
            first.order = self.queued;
            self.queued += 1;
            return if step == Step::Stop { Turn::Over } else { Turn::Backups };
        }
        Turn::Backups
    }

    /// Queues the members whose pause is over, or all of them when nobody else is left.
    fn resume(&mut self, members: u32) {
        let nobody_left = self.queue.is_empty();
        for _ in 0..members {
            let due = |paused: &mut Paused| nobody_left || paused.until_walk <= self.walks;
            let Some(paused) = self.paused.pop_front_if(due) else {
                break;
            };
            let Paused { member, weight, .. } = paused;
            let deadline = self.now + 1.0 / f64::from(weight);
            self.queue.push(Entry { deadline, order: self.queued, member, weight });
            self.queued += 1;
        }
    }
}

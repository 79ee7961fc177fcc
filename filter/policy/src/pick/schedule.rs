//! Turns by earliest deadline first, for `round_robin` and for `least_request` with weights.
//!
//! As in Envoy's `edf_scheduler.h`: a member's next deadline is the time of its turn plus 1/weight,
//! ties go to whoever was queued first, and a new schedule starts after as many turns as its seed
//! says, so that workers do not start in step. Initial deadlines use the weight plus 1e-13, which
//! decides their ties. What a weight is worth at a turn is the caller's to say.
//!
//! A member that is held out uses up its turn too, and the next one in the schedule is offered, so
//! the turns of those who are admitted stay in proportion. It then pauses for as many walks as
//! there are members: a heavy one that is held out would otherwise be asked again and again
//! before anybody else. One that is only passed over has its next turn as if it had been taken, in
//! a later walk; turns that fall into this one lapse, so that none are saved up.

use core::cmp::Ordering;
use core::ops::ControlFlow;
use std::collections::binary_heap::PeekMut;
use std::collections::{BinaryHeap, VecDeque};

use super::seen::Seen;
use super::weights::effective;
use super::{Member, Step, count};

/// What Envoy adds to a weight in the initial deadlines.
const INITIAL_WEIGHT_EPSILON: f64 = 1e-13;

/// Turns that a seed can skip are below this (Envoy: a tenth of the largest `u32`).
const SEED_TURNS_BOUND: u64 = 429_496_729;

/// The least that a weight is worth, so that time stays finite.
const WORTH_MIN: f64 = 1e-9;

/// A weight that load does not change.
pub(super) fn plain(_member: u32, weight: u32) -> f64 {
    f64::from(weight)
}

/// An earliest-deadline-first queue of turns.
#[derive(Debug)]
pub(super) struct Schedule {
    queue: BinaryHeap<Entry>,
    /// Members that were skipped or passed over, in the order in which they return.
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
    /// Its deadline then, or later if time has passed it; `None`: a whole turn from then.
    deadline: Option<f64>,
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
    pub(super) fn build(members: &[Member<'_>], seed: u64) -> Self {
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

    /// Offers members in the order of their deadlines until one is admitted; breaks when the
    /// caller has enough. `worth` says what a member's weight is worth as it has its turn.
    /// Whoever is not taken leaves the queue, so this offers each member once at most.
    pub(super) fn walk(
        &mut self,
        seen: &mut Seen,
        mut worth: impl FnMut(u32, u32) -> f64,
        visit: &mut impl FnMut(u32) -> Step,
    ) -> ControlFlow<()> {
        self.walks = self.walks.saturating_add(1);
        self.resume(seen.members());
        while let Some(mut first) = self.queue.peek_mut() {
            let Entry { deadline: now, member, weight, .. } = *first;
            self.now = now;
            seen.mark(member);
            let step = visit(member);
            if step == Step::Skip {
                PeekMut::pop(first);
                let until_walk = self.walks.saturating_add(u64::from(seen.members()));
                self.paused.push_back(Paused { member, weight, until_walk, deadline: None });
                continue;
            }
            let deadline = now + 1.0 / worth(member, weight).max(WORTH_MIN);
            if step == Step::Pass {
                PeekMut::pop(first);
                let until_walk = self.walks.saturating_add(1);
                let deadline = Some(deadline);
                self.paused.push_front(Paused { member, weight, until_walk, deadline });
                continue;
            }
            first.deadline = deadline;
            first.order = self.queued;
            self.queued += 1;
            if step == Step::Stop {
                return ControlFlow::Break(());
            }
            break;
        }
        ControlFlow::Continue(())
    }

    /// Queues the members whose pause is over, or all of them when nobody else is left. Those who
    /// come back from a long pause are worth their plain weight: nobody asks for their load.
    fn resume(&mut self, members: u32) {
        let nobody_left = self.queue.is_empty();
        for _ in 0..members {
            let due = |paused: &mut Paused| nobody_left || paused.until_walk <= self.walks;
            let Some(paused) = self.paused.pop_front_if(due) else {
                break;
            };
            let Paused { member, weight, deadline, .. } = paused;
            let deadline = match deadline {
                Some(deadline) => deadline.max(self.now),
                None => self.now + 1.0 / f64::from(weight),
            };
            self.queue.push(Entry { deadline, order: self.queued, member, weight });
            self.queued += 1;
        }
    }
}

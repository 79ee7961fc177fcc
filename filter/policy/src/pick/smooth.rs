//! Turns by nginx's smooth weighted round robin.
//!
//! At each turn every member's current weight grows by its weight, the largest is chosen (the first
//! of several), and the sum of all weights is taken from it (nginx, commit 52327e0627f4). That
//! is a loop over all members. Members of equal weight, however, stay in step: they differ only
//! in who has already been chosen in the present round among them, and are chosen in index order.
//! So one number per distinct weight says it all, the sequence is nginx's, and a turn costs
//! as many steps as there are distinct weights. Above [`WEIGHTS_MAX`] of them round robin uses a
//! schedule by deadlines instead, whose turns are in the same proportions but in another order.
//!
//! A current weight divided by the sum of weights is the number of turns that a member is owed.
//! nginx leaves the current weights as they are when a peer goes, so that after the loss of a
//! heavy one the light ones get their turns out of proportion for a long time. Here a member that
//! is held out pauses for as many walks as there are members, and the current weights are scaled
//! with the sum, so that what everybody is owed stays the same. A member that is passed over
//! pays for its turn, and for the rest of the walk the others share turns as if it were absent.

use core::ops::ControlFlow;
use std::collections::VecDeque;

use super::seen::Seen;
use super::weights::effective;
use super::{Member, Step, count};

/// Most distinct weights.
pub(super) const WEIGHTS_MAX: usize = 64;

/// Turns that a seed can skip are below this; they are played.
const SEED_TURNS_BOUND: u64 = 4096;

/// Most turns that a member is owed, or has had too many. Undisturbed it is below the logarithm of
/// the number of members, plus one.
const OWED_TURNS_MAX: i64 = 64;

/// A queue of turns by current weight.
#[derive(Debug)]
pub(super) struct Smooth {
    groups: Vec<Group>,
    /// Skipped members, in the order in which they return.
    paused: VecDeque<Paused>,
    /// Sum of the weights of those who do not pause.
    sum: i64,
    /// Sum of the weights of those who were passed over in this walk.
    passed: i64,
    /// The sum that current weights are scaled to: one turn.
    turn: i64,
    walks: u64,
}

/// The members of one weight that do not pause.
#[derive(Debug)]
struct Group {
    weight: i64,
    /// Current weight of those who have not been chosen in this round; the others have a turn less.
    current: i64,
    /// How many, from the front of the queue, have not been chosen in this round.
    unchosen: usize,
    /// How many, from the front of the queue, have not been offered in this walk.
    unoffered: usize,
    queue: VecDeque<u32>,
}

#[derive(Debug)]
struct Paused {
    member: u32,
    group: usize,
    /// The number of the walk that queues the member again.
    until_walk: u64,
}

impl Group {
    /// Ends the turn of the first member, which goes to the back of the queue.
    fn rotate(&mut self, turn: i64) {
        if let Some(member) = self.queue.pop_front() {
            self.queue.push_back(member);
        }
        self.choose(turn);
    }

    /// Counts a member as chosen. When all have been, a round is over and each pays for its turn.
    fn choose(&mut self, turn: i64) {
        self.unchosen = self.unchosen.saturating_sub(1);
        if self.unchosen == 0 && !self.queue.is_empty() {
            self.current -= turn;
            self.unchosen = self.queue.len();
        }
    }

    /// Counts a member as offered. When none is left to offer, those who were passed over still
    /// get what this turn gives everybody.
    fn offer(&mut self) {
        self.unoffered = self.unoffered.saturating_sub(1);
        if self.unoffered == 0 && !self.queue.is_empty() {
            self.current += self.weight;
        }
    }
}

impl Smooth {
    /// The queue after `seed` turns; `None` when there are too many distinct weights.
    pub(super) fn build(members: &[Member<'_>], seed: u64) -> Option<Self> {
        let mut weights: Vec<u32> = members.iter().map(effective).collect();
        weights.sort_unstable();
        weights.dedup();
        if weights.len() > WEIGHTS_MAX {
            return None;
        }
        let group = |weight: &u32| Group {
            weight: i64::from(*weight),
            current: 0,
            unchosen: 0,
            unoffered: 0,
            queue: VecDeque::new(),
        };
        let mut smooth = Self {
            groups: weights.iter().map(group).collect(),
            paused: VecDeque::with_capacity(members.len()),
            sum: 0,
            passed: 0,
            turn: 0,
            walks: 0,
        };
        for (index, member) in (0_u32..).zip(members) {
            let group = weights.binary_search(&effective(member)).unwrap_or(0);
            smooth.join(group, index);
        }
        for group in &mut smooth.groups {
            group.unchosen = group.queue.len();
        }
        smooth.turn = smooth.sum;
        let mut seen = Seen::new(count(members));
        for _ in 0..seed % SEED_TURNS_BOUND {
            let _ = smooth.walk(&mut seen, &mut |_| Step::Stop);
        }
        Some(smooth)
    }

    /// Offers members in turn until one is admitted, all of them at most; breaks when the caller
    /// has enough.
    pub(super) fn walk(
        &mut self,
        seen: &mut Seen,
        visit: &mut impl FnMut(u32) -> Step,
    ) -> ControlFlow<()> {
        self.walks = self.walks.saturating_add(1);
        self.resume(seen.members());
        let mut flow = ControlFlow::Continue(());
        while let Some((at, member)) = self.largest() {
            seen.mark(member);
            match visit(member) {
                Step::Skip => self.pause(at, seen.members()),
                Step::Pass => self.pass(at),
                step => {
                    self.take(at);
                    if step == Step::Stop {
                        flow = ControlFlow::Break(());
                    }
                    break;
                }
            }
        }
        if self.passed > 0 {
            self.readmit_passed();
        }
        flow
    }

    /// Who would have the largest current weight in the next turn, among those not yet offered:
    /// group and member.
    fn largest(&self) -> Option<(usize, u32)> {
        let mut largest: Option<(i64, usize, u32)> = None;
        for (at, group) in self.groups.iter().enumerate() {
            let current = group.current + group.weight;
            if group.unoffered == 0 || largest.is_some_and(|(other, ..)| other > current) {
                continue;
            }
            let Some(first) = group.queue.front() else {
                continue;
            };
            let is_larger =
                largest.is_none_or(|(other, _, member)| other < current || *first < member);
            if is_larger {
                largest = Some((current, at, *first));
            }
        }
        largest.map(|(_, at, member)| (at, member))
    }

    fn take(&mut self, at: usize) {
        for group in &mut self.groups {
            if group.unoffered > 0 {
                group.current += group.weight;
            }
        }
        if let Some(group) = self.groups.get_mut(at) {
            group.rotate(self.turn);
        }
    }

    fn pass(&mut self, at: usize) {
        let Some(group) = self.groups.get_mut(at) else {
            return;
        };
        self.passed += group.weight;
        group.offer();
        group.rotate(self.turn);
        self.scale(self.sum - self.passed);
    }

    fn pause(&mut self, at: usize, members: u32) {
        let Some(group) = self.groups.get_mut(at) else {
            return;
        };
        self.sum -= group.weight;
        if let Some(member) = group.queue.pop_front() {
            let until_walk = self.walks.saturating_add(u64::from(members));
            self.paused.push_back(Paused { member, group: at, until_walk });
        }
        group.offer();
        group.choose(self.turn);
        self.scale(self.sum - self.passed);
    }

    /// Queues the members whose pause is over, or all of them when nobody else is left.
    fn resume(&mut self, members: u32) {
        let nobody_left = self.sum == 0;
        for _ in 0..members {
            let due = |paused: &mut Paused| nobody_left || paused.until_walk <= self.walks;
            let Some(Paused { member, group, .. }) = self.paused.pop_front_if(due) else {
                break;
            };
            self.join(group, member);
        }
        self.scale(self.sum);
    }

    /// Queues `member` as one that has been chosen in this round, unless it is alone.
    fn join(&mut self, at: usize, member: u32) {
        if let Some(group) = self.groups.get_mut(at) {
            group.queue.push_back(member);
            group.unchosen = group.unchosen.max(1);
            group.unoffered += 1;
            self.sum += group.weight;
        }
    }

    /// Ends a walk in which members were passed over. They have paid and the others have not been
    /// paid, so the numbers are brought back around zero; only their differences matter.
    fn readmit_passed(&mut self) {
        self.passed = 0;
        let groups = i64::try_from(self.groups.len()).unwrap_or(i64::MAX);
        let sum: i64 = self.groups.iter().map(|group| group.current).sum();
        let mean = sum.checked_div(groups).unwrap_or(0);
        for group in &mut self.groups {
            group.unoffered = group.queue.len();
            group.current -= mean;
        }
        self.scale(self.sum);
    }

    /// Makes `turn` the length of a turn and keeps what everybody is owed.
    fn scale(&mut self, turn: i64) {
        if turn == self.turn || turn <= 0 {
            return;
        }
        let ratio = turn as f64 / self.turn as f64;
        let most = OWED_TURNS_MAX.saturating_mul(turn);
        for group in &mut self.groups {
            let current = (group.current as f64 * ratio).round() as i64;
            group.current = current.clamp(-most, most);
        }
        self.turn = turn;
    }
}

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
//! heavy one the light ones have their turns out of proportion for a long time. Here a member that
//! is held out pauses for as many walks as there are members, and whenever one goes or comes back
//! the current weights are scaled to the new sum and brought back around zero by each one's
//! weight: as if the turns so far had been shared by those who are here. A member that is passed
//! over pays for its turn, and has the next one in a later walk.

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
const OWED_TURNS_MAX: i64 = 16;

/// Weights are multiplied so that their sum has at least so many bits: what rounding loses when
/// members come and go is then too little to add up.
const TURN_BITS: u32 = 44;

/// A queue of turns by current weight.
#[derive(Debug)]
pub(super) struct Smooth {
    groups: Vec<Group>,
    /// Skipped members, in the order in which they return.
    paused: VecDeque<Paused>,
    /// Sum of the weights of those who do not pause.
    sum: i64,
    /// Whether somebody was passed over in this walk.
    has_passed: bool,
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

    /// Sum of the members' current weights.
    fn owed(&self, turn: i64) -> f64 {
        let chosen = self.queue.len().saturating_sub(self.unchosen);
        self.queue.len() as f64 * self.current as f64 - chosen as f64 * turn as f64
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
        let sum: u64 = members.iter().map(|member| u64::from(effective(member))).sum();
        let zeros = TURN_BITS.saturating_sub(u64::BITS - sum.leading_zeros());
        let group = |weight: &u32| Group {
            weight: i64::from(*weight) << zeros,
            current: 0,
            unchosen: 0,
            unoffered: 0,
            queue: VecDeque::new(),
        };
        let mut smooth = Self {
            groups: weights.iter().map(group).collect(),
            paused: VecDeque::with_capacity(members.len()),
            sum: 0,
            has_passed: false,
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
                Step::Pass => {
                    self.take(at);
                    self.pass(at);
                }
                step => {
                    self.take(at);
                    if step == Step::Stop {
                        flow = ControlFlow::Break(());
                    }
                    break;
                }
            }
        }
        if self.has_passed {
            self.readmit_passed();
        }
        flow
    }

    /// Who would have the largest current weight in the next turn, among those not yet offered:
    /// group and member.
    fn largest(&self) -> Option<(usize, u32)> {
        let mut largest: Option<(i64, usize, &Group)> = None;
        for (at, group) in self.groups.iter().enumerate().filter(|(_, group)| group.unoffered > 0) {
            let current = group.current + group.weight;
            let is_larger = match largest {
                Some((other, ..)) if current != other => current > other,
                Some((.., other)) => group.queue.front() < other.queue.front(),
                None => true,
            };
            if is_larger {
                largest = Some((current, at, group));
            }
        }
        let (_, at, group) = largest?;
        Some((at, *group.queue.front()?))
    }

    /// Gives a turn to the first member of the group.
    fn take(&mut self, at: usize) {
        for group in self.groups.iter_mut().filter(|group| !group.queue.is_empty()) {
            group.current += group.weight;
        }
        if let Some(group) = self.groups.get_mut(at) {
            group.rotate(self.turn);
        }
    }

    /// Notes that the member that has just had its turn is not to be offered again in this walk.
    fn pass(&mut self, at: usize) {
        self.has_passed = true;
        if let Some(group) = self.groups.get_mut(at) {
            group.unoffered = group.unoffered.saturating_sub(1);
        }
    }

    fn pause(&mut self, at: usize, members: u32) {
        let Some(group) = self.groups.get_mut(at) else {
            return;
        };
        if let Some(member) = group.queue.pop_front() {
            let until_walk = self.walks.saturating_add(u64::from(members));
            self.paused.push_back(Paused { member, group: at, until_walk });
        }
        self.sum -= group.weight;
        group.unoffered = group.unoffered.saturating_sub(1);
        group.choose(self.turn);
        self.settle();
    }

    /// Queues the members whose pause is over, or all of them when nobody else is left.
    fn resume(&mut self, members: u32) {
        let nobody_left = self.sum == 0;
        let before = self.sum;
        for _ in 0..members {
            let due = |paused: &mut Paused| nobody_left || paused.until_walk <= self.walks;
            let Some(Paused { member, group, .. }) = self.paused.pop_front_if(due) else {
                break;
            };
            self.join(group, member);
        }
        if self.sum != before {
            self.settle();
        }
    }

    /// Queues `member` as one that has been chosen in this round, unless it is alone.
    fn join(&mut self, at: usize, member: u32) {
        let Some(group) = self.groups.get_mut(at) else {
            return;
        };
        if group.queue.is_empty() {
            group.current = 0;
            group.unchosen = 1;
        }
        group.queue.push_back(member);
        group.unoffered += 1;
        self.sum += group.weight;
    }

    /// Ends a walk in which members were passed over. Those who are due again already get no more:
    /// passed over in every walk, they would be owed ever more turns.
    fn readmit_passed(&mut self) {
        self.has_passed = false;
        for group in self.groups.iter_mut().filter(|group| group.unoffered == 0) {
            group.current = group.current.min(0);
        }
        self.settle();
        for group in &mut self.groups {
            group.unoffered = group.queue.len();
        }
    }

    /// Makes turns those of the members who do not pause: what they are owed is scaled to the sum
    /// of their weights, and what it does not add up to is shared by those not yet offered. When
    /// there are none, everybody starts anew.
    fn settle(&mut self) {
        if self.sum == 0 {
            return;
        }
        let ratio = self.sum as f64 / self.turn as f64;
        self.turn = self.sum;
        let (mut owed, mut weights) = (0.0, 0.0);
        for group in &mut self.groups {
            group.current = (group.current as f64 * ratio).round() as i64;
            owed += group.owed(self.turn);
            if group.unoffered > 0 {
                weights += group.weight as f64 * group.queue.len() as f64;
            }
        }
        let most = OWED_TURNS_MAX.saturating_mul(self.turn);
        for group in &mut self.groups {
            if weights == 0.0 {
                group.current = 0;
                group.unchosen = group.queue.len();
            } else if group.unoffered > 0 {
                let share = owed / weights * group.weight as f64;
                group.current = (group.current as f64 - share).round() as i64;
            }
            group.current = group.current.clamp(-most, most);
        }
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    const WRR: &str = include_str!("../../tests/vectors/wrr.json");

    fn members(weights: &[u32]) -> Vec<Member<'static>> {
        weights.iter().map(|weight| Member { key: "", weight: *weight }).collect()
    }

    /// Every member's current weight, as nginx would have it while nobody is held out.
    fn current_weights(smooth: &Smooth, weights: &[u32]) -> Vec<i64> {
        let sum: u32 = weights.iter().sum();
        let unit = smooth.turn / i64::from(sum);
        let mut current = vec![0; weights.len()];
        for group in &smooth.groups {
            for (place, member) in group.queue.iter().enumerate() {
                let paid = if place < group.unchosen { 0 } else { smooth.turn };
                current[*member as usize] = (group.current - paid) / unit;
            }
        }
        current
    }

    #[test]
    fn current_weights_after_each_turn_are_nginxs() {
        let file: serde_json::Value = serde_json::from_str(WRR).unwrap();
        for case in file["nginx_smooth_wrr"]["cases"].as_array().unwrap() {
            let weights: Vec<u32> = serde_json::from_value(case["weights"].clone()).unwrap();
            let mut smooth = Smooth::build(&members(&weights), 0).unwrap();
            let mut seen = Seen::new(u32::try_from(weights.len()).unwrap());
            for expected in case["trace_after_pick"].as_array().unwrap() {
                let _ = smooth.walk(&mut seen, &mut |_| Step::Stop);
                let expected: Vec<i64> = serde_json::from_value(expected.clone()).unwrap();
                assert_eq!(current_weights(&smooth, &weights), expected);
            }
        }
    }

    #[test]
    fn what_is_owed_adds_up_to_nothing_and_stays_small_whoever_comes_and_goes() {
        let weights = [1, 1_000_000, 3, 3, 7, 1_000_000, 1, 40_000, u32::MAX];
        let members = members(&weights);
        let mut smooth = Smooth::build(&members, 5).unwrap();
        let mut seen = Seen::new(9);
        let mut answers = 0x9E37_79B9_u32;
        for _ in 0..20_000 {
            seen.begin();
            answers = answers.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let _ = smooth.walk(&mut seen, &mut |member| match answers >> (2 * member + 8) & 3 {
                0 => Step::Skip,
                1 => Step::Pass,
                _ => Step::Stop,
            });
            let turn = smooth.turn as f64;
            if smooth.sum > 0 {
                let owed: f64 = smooth.groups.iter().map(|group| group.owed(smooth.turn)).sum();
                // Rounding to whole numbers, for each member once.
                assert!(owed.abs() <= 9.0, "{owed} {turn}");
            }
            for current in smooth.groups.iter().map(|group| group.current as f64) {
                assert!(current.abs() / turn <= 16.0, "{current} {turn}");
            }
        }
    }

    #[test]
    fn more_weights_than_a_turn_may_look_at_are_refused() {
        let weights: Vec<u32> = (1..=65).collect();
        assert!(Smooth::build(&members(&weights), 0).is_none());
        assert!(Smooth::build(&members(&weights[1..]), 0).is_some());
    }
}

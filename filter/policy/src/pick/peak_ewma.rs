//! `peak_ewma`: the least cost by latency and requests in flight, among a few drawn at random.
//!
//! The cost is the caller's: Finagle's `latency * (active + 1)`, where the latency follows peaks at
//! once and forgets them slowly. A member of twice the weight is to have twice the load, so
//! its cost counts half. Members that are drawn differ, as in Finagle's P2C.

use super::choices::{Choices, FirstDraws};
use super::weights::{are_equal, effective};
use super::{Loads, Member, Step};
use crate::rng::Rng;

/// What weights make of costs, and the room to walk.
#[derive(Debug)]
pub struct PeakEwma {
    choices: Choices,
    /// Mean weight over each member's weight; empty if weights are equal.
    cost_factors: Vec<f64>,
}

impl PeakEwma {
    /// The policy for `members`.
    pub(super) fn build(choice_count: u32, members: &[Member<'_>]) -> Self {
        let weight = |member: &Member<'_>| f64::from(effective(member));
        let mean = members.iter().map(weight).sum::<f64>() / members.len() as f64;
        let cost_factors = if are_equal(members) {
            Vec::new()
        } else {
            members.iter().map(|member| mean / weight(member)).collect()
        };
        Self { choices: Choices::build(choice_count, FirstDraws::Differ, members), cost_factors }
    }

    pub(super) fn len(&self) -> u32 {
        self.choices.len()
    }

    pub(super) fn walk(
        &mut self,
        rng: &mut impl Rng,
        loads: &mut impl Loads,
        visit: &mut impl FnMut(u32) -> Step,
    ) {
        let Self { choices, cost_factors } = self;
        let cost = |member: u32| {
            let factor = cost_factors.get(member as usize).copied().unwrap_or(1.0);
            loads.cost(member) * factor
        };
        choices.walk(rng, cost, visit);
    }
}

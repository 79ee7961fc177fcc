//! The best of a few drawn at random, for `least_request` and `peak_ewma`.
//!
//! Two choices already make the largest load exponentially smaller than one (Mitzenmacher, "The
//! power of two choices in randomized load balancing", 1996). Whoever lost is kept and compared
//! with one more draw: a second candidate that was merely the loser would be the worse of two, and
//! a first choice that is held out would leave none. So each candidate is the best of as many.
//!
//! What a member costs is asked once per walk and only of those drawn: an answer is a host call.

use core::ops::ControlFlow;

use super::draw::{DRAWS_MAX, evenly};
use super::seen::Seen;
use super::{Member, Step, count};
use crate::rng::Rng;

/// Most members compared for one candidate.
pub(super) const CHOICES_MAX: u32 = 32;

/// Whether the first choices of a walk may be fewer because a member was drawn twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FirstDraws {
    /// Drawn with replacement, as Envoy does.
    Repeat,
    /// Drawn until they differ.
    Differ,
}

/// Room to draw and compare.
#[derive(Debug)]
pub(super) struct Choices {
    /// Costs of those who were drawn and not offered, in the order of the draws.
    drawn: Vec<(f64, u32)>,
    choice_count: u32,
    first_draws: FirstDraws,
    /// Who was drawn or offered.
    seen: Seen,
}

impl Choices {
    /// Compares `choice_count` of `members`, within 1..=[`CHOICES_MAX`].
    pub(super) fn build(
        choice_count: u32,
        first_draws: FirstDraws,
        members: &[Member<'_>],
    ) -> Self {
        let choice_count = choice_count.clamp(1, CHOICES_MAX);
        let drawn = Vec::with_capacity(choice_count as usize);
        Self { drawn, choice_count, first_draws, seen: Seen::new(count(members)) }
    }

    pub(super) fn len(&self) -> u32 {
        self.seen.members()
    }

    /// Offers the least costly of those drawn, the first of several, then the next with one more
    /// drawn; when the draws are used up, who is left in index order, without asking for costs.
    pub(super) fn walk(
        &mut self,
        rng: &mut impl Rng,
        mut cost: impl FnMut(u32) -> f64,
        visit: &mut impl FnMut(u32) -> Step,
    ) {
        self.seen.begin();
        self.drawn.clear();
        let _ = self.offer_all(rng, &mut cost, visit);
    }

    fn offer_all(
        &mut self,
        rng: &mut impl Rng,
        cost: &mut impl FnMut(u32) -> f64,
        visit: &mut impl FnMut(u32) -> Step,
    ) -> ControlFlow<()> {
        let mut draws_left = DRAWS_MAX;
        match self.first_draws {
            FirstDraws::Repeat => {
                for _ in 0..self.choice_count {
                    self.draw(rng, cost);
                }
            }
            FirstDraws::Differ => {
                draws_left += self.choice_count;
                self.fill(&mut draws_left, rng, cost);
            }
        }
        while let Some(member) = self.remove_least() {
            if visit(member) == Step::Stop {
                return ControlFlow::Break(());
            }
            self.fill(&mut draws_left, rng, cost);
        }
        self.seen.offer_rest(evenly(rng, self.seen.members()), visit)
    }

    /// Draws until there are enough to compare, if the draws last.
    fn fill(
        &mut self,
        draws_left: &mut u32,
        rng: &mut impl Rng,
        cost: &mut impl FnMut(u32) -> f64,
    ) {
        while *draws_left > 0
            && self.drawn.len() < self.choice_count as usize
            && !self.seen.is_complete()
        {
            *draws_left -= 1;
            self.draw(rng, cost);
        }
    }

    fn draw(&mut self, rng: &mut impl Rng, cost: &mut impl FnMut(u32) -> f64) {
        let member = evenly(rng, self.seen.members());
        if self.seen.mark(member) {
            self.drawn.push((cost(member), member));
        }
    }

    fn remove_least(&mut self) -> Option<u32> {
        let costs = self.drawn.iter().enumerate();
        let least = costs.min_by(|(_, (one, _)), (_, (other, _))| one.total_cmp(other));
        let (at, _) = least?;
        Some(self.drawn.remove(at).1)
    }
}

//! `round_robin`: turns in proportion to weights.
//!
//! Equal weights are a plain rotation. Different weights are scheduled earliest deadline first, as
//! in Envoy, or by the largest current weight, as in nginx.
//!
//! The first candidate uses up a turn; one that is held out or passed over uses up its turn too,
//! and the next one is offered. Backups use up no turns: they are drawn evenly from the others.

use core::ops::ControlFlow;

use super::schedule::{Schedule, plain};
use super::seen::Seen;
use super::smooth::Smooth;
use super::weights::are_equal;
use super::{Member, Step, count, draw, reduce};
use crate::config::TurnOrder;
use crate::rng::Rng;

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
    /// Earliest deadline first.
    Schedule(Schedule),
    /// Largest current weight first.
    Smooth(Smooth),
}

impl RoundRobin {
    /// The turns of `members`, after as many turns as `seed` says. An order that is too expensive
    /// for the weights at hand becomes [`TurnOrder::Edf`].
    pub(super) fn build(order: TurnOrder, members: &[Member<'_>], seed: u64) -> Self {
        let turns = if are_equal(members) {
            Turns::Rotation(reduce(seed, count(members)))
        } else {
            let smooth = match order {
                TurnOrder::Smooth => Smooth::build(members, seed),
                TurnOrder::Edf => None,
            };
            match smooth {
                Some(smooth) => Turns::Smooth(smooth),
                None => Turns::Schedule(Schedule::build(members, seed)),
            }
        };
        Self { turns, seen: Seen::new(count(members)) }
    }

    pub(super) fn len(&self) -> u32 {
        self.seen.members()
    }

    pub(super) fn walk(&mut self, rng: &mut impl Rng, visit: &mut impl FnMut(u32) -> Step) {
        self.seen.begin();
        let _ = self.offer_all(rng, visit);
    }

    fn offer_all(
        &mut self,
        rng: &mut impl Rng,
        visit: &mut impl FnMut(u32) -> Step,
    ) -> ControlFlow<()> {
        match &mut self.turns {
            Turns::Rotation(next) => rotate(next, &mut self.seen, visit),
            Turns::Schedule(schedule) => schedule.walk(&mut self.seen, plain, visit),
            Turns::Smooth(smooth) => smooth.walk(&mut self.seen, visit),
        }?;
        draw::offer_evenly(&mut self.seen, rng, visit)
    }
}

/// Offers members in turn until one is admitted, all of them at most; breaks when the caller has
/// enough.
fn rotate(next: &mut u32, seen: &mut Seen, visit: &mut impl FnMut(u32) -> Step) -> ControlFlow<()> {
    let members = seen.members();
    for _ in 0..members {
        let member = *next;
        *next = if member + 1 < members { member + 1 } else { 0 };
        seen.mark(member);
        match visit(member) {
            Step::Skip | Step::Pass => {}
            Step::Take => break,
            Step::Stop => return ControlFlow::Break(()),
        }
    }
    ControlFlow::Continue(())
}

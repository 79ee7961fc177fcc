//! The walk that the hashing policies share: their own order, with bounded load on top if asked.

use core::ops::ControlFlow;

use super::bounded::Bounded;
use super::seen::Seen;
use super::{Loads, Member, Step, count, reduce};

/// The room to walk, and the bound on loads.
#[derive(Debug)]
pub(super) struct HashWalk {
    members: u32,
    seen: Seen,
    bounded: Option<Box<Bounded>>,
}

impl HashWalk {
    /// A walk over `members`; a factor of 0 bounds nobody's load.
    pub(super) fn new(hash_balance_factor: u32, members: &[Member<'_>]) -> Self {
        let bounded =
            (hash_balance_factor > 0).then(|| Box::new(Bounded::new(hash_balance_factor, members)));
        Self { members: count(members), seen: Seen::new(count(members)), bounded }
    }

    pub(super) const fn members(&self) -> u32 {
        self.members
    }

    /// Offers every member once. `candidates` is the policy's order for `hash`; it may repeat
    /// members and leave some out, and they come last then.
    pub(super) fn walk(
        &mut self,
        hash: u64,
        candidates: impl Iterator<Item = u32> + Clone,
        loads: &mut impl Loads,
        visit: &mut impl FnMut(u32) -> Step,
    ) {
        self.seen.begin();
        if let Some(bounded) = &mut self.bounded {
            let mut bounded = bounded.begin(hash, &mut self.seen, loads);
            if bounded.offer(candidates.clone(), visit).is_break() {
                return;
            }
        }
        let _ = self.offer_in_order(hash, candidates, visit);
    }

    fn offer_in_order(
        &mut self,
        hash: u64,
        mut candidates: impl Iterator<Item = u32>,
        visit: &mut impl FnMut(u32) -> Step,
    ) -> ControlFlow<()> {
        candidates.try_for_each(|member| self.seen.offer(member, visit))?;
        self.seen.offer_rest(reduce(hash, self.members), visit)
    }
}

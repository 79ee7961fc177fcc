//! Which members a walk has already offered.
//!
//! A walk starts with a clean slate in constant time: each member carries the number of the last
//! walk that offered it, so nothing is cleared and nothing allocated between walks.

use core::ops::ControlFlow;

use super::Step;

/// The members that the current walk has offered.
#[derive(Debug)]
pub(super) struct Seen {
    walk_of_member: Vec<u32>,
    walk: u32,
    unseen: u32,
}

impl Seen {
    /// Room for `members` members, none of them seen.
    pub(super) fn new(members: u32) -> Self {
        Self { walk_of_member: vec![0; members as usize], walk: 0, unseen: members }
    }

    /// How many members there are, seen or not.
    pub(super) fn members(&self) -> u32 {
        u32::try_from(self.walk_of_member.len()).unwrap_or(u32::MAX)
    }

    /// Starts a walk: every member is unseen again.
    pub(super) fn begin(&mut self) {
        self.unseen = self.members();
        self.walk = self.walk.wrapping_add(1);
        if self.walk == 0 {
            self.walk_of_member.fill(0);
            self.walk = 1;
        }
    }

    /// Marks `member`; true when this walk had not seen it.
    pub(super) fn mark(&mut self, member: u32) -> bool {
        let Some(walk) = self.walk_of_member.get_mut(member as usize) else {
            return false;
        };
        if *walk == self.walk {
            return false;
        }
        *walk = self.walk;
        self.unseen = self.unseen.saturating_sub(1);
        true
    }

    /// Whether this walk has seen `member`.
    pub(super) fn contains(&self, member: u32) -> bool {
        self.walk_of_member.get(member as usize) == Some(&self.walk)
    }

    /// Whether every member has been offered.
    pub(super) const fn is_complete(&self) -> bool {
        self.unseen == 0
    }

    /// Offers `member` to `visit` unless it was offered before. Breaks when the walk is over:
    /// the caller has enough, or nobody is left.
    pub(super) fn offer(
        &mut self,
        member: u32,
        visit: &mut impl FnMut(u32) -> Step,
    ) -> ControlFlow<()> {
        if self.mark(member) && visit(member) == Step::Stop || self.is_complete() {
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    }

    /// Offers everybody who is left, in index order from `start`, wrapping around.
    pub(super) fn offer_rest(
        &mut self,
        start: u32,
        visit: &mut impl FnMut(u32) -> Step,
    ) -> ControlFlow<()> {
        let members = self.members();
        for member in (start..members).chain(0..start.min(members)) {
            self.offer(member, visit)?;
        }
        ControlFlow::Break(())
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    #[test]
    fn the_walk_counter_may_wrap_without_anybody_looking_seen() {
        let mut seen = Seen::new(2);
        seen.walk = u32::MAX - 1;
        for _ in 0..4 {
            seen.begin();
            assert!(seen.mark(0));
            assert!(!seen.mark(0));
            assert!(!seen.is_complete());
            assert!(seen.mark(1));
            assert!(seen.is_complete());
        }
    }

    #[test]
    fn an_index_that_does_not_exist_is_never_offered() {
        let mut seen = Seen::new(1);
        seen.begin();
        assert!(!seen.mark(1));
        assert!(!seen.is_complete());
    }
}

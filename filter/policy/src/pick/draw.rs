//! Drawing members at random, and what follows when draws find nobody new.

use core::ops::ControlFlow;

use super::seen::Seen;
use super::{Step, reduce};
use crate::rng::Rng;

/// Draws per walk, beyond the choices that a policy compares first. Where they have not found
/// enough, the members that are left follow in index order from a random one.
pub(super) const DRAWS_MAX: u32 = 16;

/// One of `members` members, each as likely as any other; 0 without members.
pub(super) fn evenly(rng: &mut impl Rng, members: u32) -> u32 {
    reduce(rng.below(u64::from(members)), members)
}

/// Offers [`DRAWS_MAX`] drawn members, without those that the walk has already offered, and then
/// everybody who is left.
pub(super) fn offer<R: Rng>(
    seen: &mut Seen,
    rng: &mut R,
    mut draw: impl FnMut(&mut R) -> u32,
    visit: &mut impl FnMut(u32) -> Step,
) -> ControlFlow<()> {
    if seen.is_complete() {
        return ControlFlow::Break(());
    }
    for _ in 0..DRAWS_MAX {
        seen.offer(draw(rng), visit)?;
    }
    seen.offer_rest(evenly(rng, seen.members()), visit)
}

/// [`offer`], where everybody is as likely as any other.
pub(super) fn offer_evenly(
    seen: &mut Seen,
    rng: &mut impl Rng,
    visit: &mut impl FnMut(u32) -> Step,
) -> ControlFlow<()> {
    let members = seen.members();
    offer(seen, rng, |rng| evenly(rng, members), visit)
}

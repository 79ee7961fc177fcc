//! `random`: members drawn in proportion to weights.
//!
//! Different weights are drawn from an alias table (Walker 1977, built as Vose 1991 does): one
//! random number names a slot and decides between the two members that share it, whatever the
//! number of members. One that is held out is drawn again, so those who are admitted keep their
//! proportions, and so do backups.

use super::seen::Seen;
use super::weights::{are_equal, effective};
use super::{Member, Step, count, draw};
use crate::rng::Rng;

/// The table, and the room to walk.
#[derive(Debug)]
pub struct Random {
    /// As many slots as members; none if all are equally likely.
    slots: Vec<Slot>,
    seen: Seen,
}

/// A slot belongs to the member of the same index and to one other.
#[derive(Debug, Clone, Copy)]
struct Slot {
    /// The member's own part, in 2^-32 of the slot.
    own: u32,
    alias: u16,
}

impl Random {
    /// The table of `members`.
    pub(super) fn build(members: &[Member<'_>]) -> Self {
        let slots = if are_equal(members) { Vec::new() } else { slots(members) };
        Self { slots, seen: Seen::new(count(members)) }
    }

    pub(super) fn len(&self) -> u32 {
        self.seen.members()
    }

    pub(super) fn walk<R: Rng>(&mut self, rng: &mut R, visit: &mut impl FnMut(u32) -> Step) {
        self.seen.begin();
        let Self { slots, seen } = self;
        if slots.is_empty() {
            let _ = draw::offer_evenly(seen, rng, visit);
        } else {
            let _ = draw::offer(seen, rng, |rng| draw_from(slots, rng.next_u64()), visit);
        }
    }
}

/// The member that a random number stands for: its upper half names the slot, its lower half the
/// place in the slot.
fn draw_from(slots: &[Slot], random: u64) -> u32 {
    let slot = ((random >> 32) * slots.len() as u64) >> 32;
    let place = random & u64::from(u32::MAX);
    let index = u32::try_from(slot).unwrap_or(0);
    match slots.get(index as usize) {
        Some(Slot { own, alias }) if place >= u64::from(*own) => u32::from(*alias),
        _ => index,
    }
}

/// Slots of one size each: those that a light member does not fill are topped up by a heavy one,
/// until that is light itself. Sizes are whole numbers, so nothing is lost before the last step.
fn slots(members: &[Member<'_>]) -> Vec<Slot> {
    let size: u64 = members.iter().map(|member| u64::from(effective(member))).sum();
    let share = |member: &Member<'_>| u64::from(effective(member)) * members.len() as u64;
    let mut parts: Vec<u64> = members.iter().map(share).collect();
    let (mut light, mut heavy): (Vec<u16>, Vec<u16>) = (0..=u16::MAX)
        .take(members.len())
        .partition(|index| parts.get(usize::from(*index)).is_some_and(|part| *part < size));
    // Whoever is not topped up fills its slot alone.
    let mut slots: Vec<Slot> =
        (0..=u16::MAX).take(members.len()).map(|alias| Slot { own: u32::MAX, alias }).collect();
    // Each step completes one slot.
    for _ in 0..members.len() {
        let (Some(lighter), Some(heavier)) = (light.pop(), heavy.last().copied()) else {
            break;
        };
        let own = parts.get(usize::from(lighter)).copied().unwrap_or(0);
        if let Some(slot) = slots.get_mut(usize::from(lighter)) {
            let own = (own as f64 / size as f64 * 4_294_967_296.0) as u32;
            *slot = Slot { own, alias: heavier };
        }
        if let Some(part) = parts.get_mut(usize::from(heavier)) {
            *part = part.saturating_sub(size - own);
            if *part < size {
                heavy.pop();
                light.push(heavier);
            }
        }
    }
    slots
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    #[test]
    fn parts_of_slots_add_up_to_each_members_weight() {
        let lopsided: Vec<u32> = (0..1000).map(|i| if i == 7 { u32::MAX } else { 1 }).collect();
        let tables: [&[u32]; 5] =
            [&[1, 2], &[5, 1, 1], &[3, 0, 7, 7, 100], &[u32::MAX, 1, 1], &lopsided];
        for weights in tables {
            let members: Vec<_> =
                weights.iter().map(|weight| Member { key: "", weight: *weight }).collect();
            let mut shares = vec![0.0; members.len()];
            for (index, slot) in slots(&members).iter().enumerate() {
                let own = f64::from(slot.own) / 4_294_967_296.0;
                shares[index] += own;
                shares[usize::from(slot.alias)] += 1.0 - own;
            }
            let sum: f64 = members.iter().map(|member| f64::from(effective(member))).sum();
            for (share, member) in shares.iter().zip(&members) {
                let expected = f64::from(effective(member)) / sum * members.len() as f64;
                // Each of the slots may be off by 2^-32.
                assert!((share - expected).abs() <= 1e-9 * members.len() as f64, "{weights:?}");
            }
        }
    }

    #[test]
    fn random_numbers_reach_both_ends_of_every_slot() {
        let slots = [Slot { own: 1 << 31, alias: 1 }, Slot { own: u32::MAX, alias: 1 }];
        assert_eq!(draw_from(&slots, 0), 0);
        assert_eq!(draw_from(&slots, (1 << 31) - 1), 0);
        assert_eq!(draw_from(&slots, 1 << 31), 1);
        assert_eq!(draw_from(&slots, 1 << 63), 1);
        assert_eq!(draw_from(&slots, u64::MAX), 1);
    }
}

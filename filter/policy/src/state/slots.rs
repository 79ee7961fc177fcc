//! Which process-wide counter belongs to which endpoint.
//!
//! Requests in flight are counted in gauges of Envoy, which all workers read and write at once.
//! A metric is never freed, so a gauge cannot carry an address: there is a fixed number of slots,
//! and this map, shared by all workers, says whose each one is. A slot is given out once and
//! stays its endpoint's, whatever the membership and the configuration do meanwhile, so that a
//! request that ends late is taken from where it was added. Only when all are given out is one
//! that nobody here knows any more, and that counts nothing, given to somebody else.

use hashbrown::HashMap;

use crate::hash;

/// Slots of a process. A gauge costs Envoy about 100 bytes.
pub const SLOTS_MAX: usize = 16_384;

/// Bytes of one slot in the shared form.
const SLOT_BYTES: usize = 8;

/// What a slot is called in the map: a hash of cluster and address.
#[must_use]
pub fn name_of(cluster: &str, address: &str) -> u64 {
    hash::xxh64(address.as_bytes(), hash::xxh64(cluster.as_bytes(), 0))
}

/// The map from names to slots.
#[derive(Clone, Debug, Default)]
pub struct Slots {
    names: Vec<u64>,
    places: HashMap<u64, u32>,
}

impl Slots {
    /// The slot called `name`.
    #[must_use]
    pub fn get(&self, name: u64) -> Option<u32> {
        self.places.get(&name).copied()
    }

    /// How many are given out.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.names.len()
    }

    /// Whether none is given out.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// Takes over the map that all workers share. What does not fit is left out.
    pub fn adopt(&mut self, bytes: &[u8]) {
        let (names, _) = bytes.as_chunks::<SLOT_BYTES>();
        self.names.clear();
        self.names.extend(names.iter().take(SLOTS_MAX).map(|name| u64::from_le_bytes(*name)));
        self.places = (0_u32..).zip(&self.names).map(|(slot, name)| (*name, slot)).collect();
    }

    /// The map as all workers share it.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        self.names.iter().flat_map(|name| name.to_le_bytes()).collect()
    }

    /// Gives a slot to `name`. When all are given out, `is_free` is asked which one may be taken
    /// from its owner. Nothing when none may.
    pub fn add(&mut self, name: u64, is_free: impl Fn(u32, u64) -> bool) -> Option<u32> {
        if let Some(slot) = self.get(name) {
            return Some(slot);
        }
        let next = u32::try_from(self.names.len()).ok()?;
        if self.names.len() < SLOTS_MAX {
            self.names.push(name);
            self.places.insert(name, next);
            return Some(next);
        }
        let owned = (0_u32..).zip(&mut self.names);
        let (slot, owner) = owned.into_iter().find(|(slot, owner)| is_free(*slot, **owner))?;
        self.places.remove(owner);
        *owner = name;
        self.places.insert(name, slot);
        Some(slot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn a_slot_is_given_out_once_and_is_the_same_for_all_who_read_the_map() {
        let mut one = Slots::default();
        assert_eq!(one.add(7, |_, _| false), Some(0));
        assert_eq!(one.add(9, |_, _| false), Some(1));
        assert_eq!(one.add(7, |_, _| false), Some(0));
        let mut other = Slots::default();
        other.adopt(&one.encode());
        assert_eq!((other.get(7), other.get(9), other.get(8)), (Some(0), Some(1), None));
    }

    #[test]
    fn when_all_are_given_out_only_a_free_one_changes_its_owner() {
        let mut slots = Slots::default();
        for name in 0..SLOTS_MAX as u64 {
            slots.add(name, |_, _| false);
        }
        assert_eq!(slots.add(1 << 40, |_, _| false), None);
        assert_eq!(slots.add(1 << 40, |_, owner| owner == 5), Some(5));
        assert_eq!((slots.get(5), slots.get(1 << 40)), (None, Some(5)));
    }

    #[test]
    fn a_map_that_is_damaged_or_too_long_is_cut_not_trusted() {
        let mut slots = Slots::default();
        slots.adopt(&[1; 17]);
        assert_eq!(slots.len(), 2);
        slots.adopt(&vec![3; SLOT_BYTES * (SLOTS_MAX + 5)]);
        assert_eq!(slots.len(), SLOTS_MAX);
    }

    #[test]
    fn the_same_address_in_two_clusters_has_two_names() {
        assert_ne!(name_of("a", "10.0.0.1:80"), name_of("b", "10.0.0.1:80"));
    }
}

//! Bytes of a membership source become endpoint sets.
//!
//! [`decode`] reads an answer whole or not at all, so that a caller can keep the last good set by
//! doing nothing; [`Membership`] holds the sets and says what an update changed, so that tables
//! are rebuilt only then; [`snapshot`] carries sets between workers and over a reload of the VM.
//!
//! What is known of an endpoint beyond its source's words (breaker, windows) lives in `state`.

use hashbrown::HashMap;

pub mod decode;
mod host;
pub mod lease;
pub mod snapshot;
#[cfg(test)]
mod tests;
mod update;

pub use update::{ClusterUpdate, Endpoint, Health, Locality, Update};

use crate::config::limits::CLUSTERS_MAX;

/// Clusters held at once: as many as one answer may name and as many static ones again.
pub const CLUSTERS_HELD_MAX: usize = 2 * CLUSTERS_MAX;

/// The endpoints of every cluster of this process.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Membership {
    /// Sorted by name, so that iteration and snapshots do not depend on the order of arrival.
    clusters: Vec<(String, EndpointSet)>,
    /// The last generation given out.
    generation: u64,
}

/// The endpoints of one cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EndpointSet {
    /// In the source's order, which Envoy's own tables depend on; addresses are unique.
    pub endpoints: Vec<Endpoint>,
    /// Differs from that of every earlier content of any cluster of the same [`Membership`];
    /// load alone does not change it.
    pub generation: u64,
}

/// What an update changed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Diff {
    /// Anything but load changed: endpoints, their order, weight, priority, locality or health,
    /// or whether the cluster is there at all.
    pub changed: bool,
    /// Endpoints that were not there before, by address.
    pub added: u32,
    /// Endpoints that are there no longer, by address.
    pub removed: u32,
    /// Endpoints that were there before and still are, by address.
    pub kept: u32,
}

impl Membership {
    /// No cluster at all.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes the cluster called `name` what `update` says. A new cluster beyond
    /// [`CLUSTERS_HELD_MAX`] is not taken, which shows as no change and as [`Self::get`] giving
    /// nothing.
    pub fn apply(&mut self, name: &str, update: Update) -> Diff {
        let at = self.clusters.binary_search_by(|(held, _)| held.as_str().cmp(name));
        match (at, update) {
            (Ok(at), Update::Reset(endpoints)) => self.replace(at, endpoints),
            (Ok(at), Update::Absent) => {
                let (_, set) = self.clusters.remove(at);
                Diff { changed: true, removed: count(set.endpoints.len()), ..Diff::default() }
            }
            (Err(at), Update::Reset(endpoints)) if self.clusters.len() < CLUSTERS_HELD_MAX => {
                let added = count(endpoints.len());
                let generation = self.next_generation();
                self.clusters.insert(at, (name.into(), EndpointSet { endpoints, generation }));
                Diff { changed: true, added, ..Diff::default() }
            }
            (Err(_), _) => Diff::default(),
        }
    }

    /// The endpoints of the cluster called `name`; `None` when no source knows it.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&EndpointSet> {
        let at = self.clusters.binary_search_by(|(held, _)| held.as_str().cmp(name)).ok()?;
        self.clusters.get(at).map(|(_, set)| set)
    }

    /// Every cluster with its name, by name.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &EndpointSet)> {
        self.clusters.iter().map(|(name, set)| (name.as_str(), set))
    }

    /// The name of every cluster, in order.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.clusters.iter().map(|(name, _)| name.as_str())
    }

    /// The clusters held here that `updates` does not name: after an answer about all clusters,
    /// those that are gone (a caller's static clusters have to be left out).
    #[must_use]
    pub fn missing_from(&self, updates: &[ClusterUpdate]) -> Vec<String> {
        let mut named: Vec<&str> = updates.iter().map(|update| update.name.as_str()).collect();
        named.sort_unstable();
        self.names().filter(|name| named.binary_search(name).is_err()).map(String::from).collect()
    }

    /// How many clusters are held.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.clusters.len()
    }

    /// True when no cluster is held.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.clusters.is_empty()
    }

    const fn next_generation(&mut self) -> u64 {
        self.generation = self.generation.wrapping_add(1);
        self.generation
    }

    fn replace(&mut self, at: usize, endpoints: Vec<Endpoint>) -> Diff {
        let generation = self.generation.wrapping_add(1);
        let Some((_, set)) = self.clusters.get_mut(at) else {
            return Diff::default();
        };
        let diff = diff(&set.endpoints, &endpoints);
        set.endpoints = endpoints;
        if diff.changed {
            set.generation = generation;
            self.generation = generation;
        }
        diff
    }
}

fn diff(old: &[Endpoint], new: &[Endpoint]) -> Diff {
    let same = old.len() == new.len() && old.iter().zip(new).all(|(a, b)| a.same_but_load(b));
    if same {
        return Diff { kept: count(new.len()), ..Diff::default() };
    }
    let held: HashMap<&str, ()> = old.iter().map(|e| (e.address.as_str(), ())).collect();
    let kept = count(new.iter().filter(|e| held.contains_key(e.address.as_str())).count());
    Diff {
        changed: true,
        added: count(new.len()).saturating_sub(kept),
        removed: count(old.len()).saturating_sub(kept),
        kept,
    }
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

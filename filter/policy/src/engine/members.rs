//! Membership comes in, and the tables follow.

use super::cluster::Surroundings;
use super::{Cluster, Engine, Environment};
use crate::config::limits::TABLES_BYTES_MAX;
use crate::config::{ClusterConfig, ClusterSettings};
use crate::membership::decode::{self, DecodeError, DecodeReason, Wanted};
use crate::membership::{Endpoint, Update};
use crate::metrics::Id;
use crate::time::Instant;

impl Engine {
    /// The path to ask of Envoy's admin; nothing when every cluster's membership is static.
    #[must_use]
    pub fn clusters_path(&self) -> Option<String> {
        let names = self.polled();
        (self.config.clusters.is_empty() || !names.is_empty())
            .then(|| decode::clusters_filter_path(&names))
    }

    /// How many endpoints an answer of Envoy's admin is about, as far as is known.
    #[must_use]
    pub fn endpoints(&self) -> usize {
        self.membership.iter().map(|(_, set)| set.endpoints.len()).sum()
    }

    /// Takes an answer of Envoy's admin. Returns whether anything changed.
    ///
    /// # Errors
    /// When the body cannot be trusted whole, or lacks a configured cluster and brings nothing new;
    /// nothing has changed then.
    pub fn on_clusters_answer(
        &mut self,
        body: &[u8],
        environment: &mut impl Environment,
        now: Instant,
    ) -> Result<bool, DecodeError> {
        let names = self.polled();
        let wanted = if self.config.clusters.is_empty() {
            Wanted::All { except: &self.config.admin.cluster }
        } else {
            Wanted::Named(&names)
        };
        let updates = decode::clusters_text(body, wanted)?;
        let mut changed = false;
        let nobody = DecodeError { line: 0, reason: DecodeReason::Empty };
        let mut absent = updates.is_empty().then_some(nobody);
        for update in updates {
            match update.update {
                // an answer that does not know a cluster is no word on its endpoints
                Update::Absent => absent = Some(self.missing(&update.name)),
                Update::Reset(endpoints) => {
                    changed |= self.apply(&update.name, endpoints, now);
                }
            }
        }
        self.reconcile(environment);
        if !changed {
            return absent.map_or(Ok(false), Err);
        }
        if absent.is_some() {
            self.sums.count(Id::MembershipFailures);
        }
        self.sums.count(Id::MembershipUpdates);
        self.adopt_shared();
        Ok(true)
    }

    /// Counts a poll that brought no usable answer.
    pub fn on_clusters_failure(&mut self) {
        self.sums.count(Id::MembershipFailures);
    }

    fn missing(&self, name: &str) -> DecodeError {
        let place = self.config.clusters.iter().position(|cluster| cluster.name == name);
        let index = place.and_then(|place| u32::try_from(place).ok()).unwrap_or(u32::MAX);
        DecodeError { line: 0, reason: DecodeReason::ClusterMissing { index } }
    }

    fn polled(&self) -> Vec<&str> {
        let polled = |c: &&ClusterConfig| c.static_endpoints.is_none();
        let mut names: Vec<&str> =
            self.config.clusters.iter().filter(polled).map(|c| c.name.as_str()).collect();
        if !self.config.clusters.is_empty() {
            let local = |name: &str| self.config.cluster(name).is_none();
            names.extend(self.local_clusters().filter(|name| local(name)));
            names.sort_unstable();
            names.dedup();
        }
        names
    }

    /// The clusters that tell where requests come from, for zones.
    fn local_clusters(&self) -> impl Iterator<Item = &str> {
        let all = self.config.clusters.iter().map(|cluster| &cluster.settings);
        let all = all.chain(core::iter::once(&self.config.defaults));
        all.filter_map(|settings| Some(settings.zone_aware.as_ref()?.local_cluster.as_str()))
    }

    /// Whether membership of the cluster called `name` is of any use here.
    pub(super) fn is_wanted(&self, name: &str) -> bool {
        self.config.clusters.is_empty()
            || self.config.cluster(name).is_some()
            || self.local_clusters().any(|local| local == name)
    }

    /// Gives a cluster its endpoints; returns whether that changed anything.
    pub(super) fn apply(&mut self, name: &str, endpoints: Vec<Endpoint>, now: Instant) -> bool {
        if !self.membership.apply(name, Update::Reset(endpoints)).changed {
            return false;
        }
        let steered = self.config.clusters.is_empty() || self.config.cluster(name).is_some();
        let known = self.names.get(name).copied();
        let added = |engine: &mut Self| engine.add(name, engine.config.defaults.clone());
        let index = known.or_else(|| steered.then(|| added(self)).flatten());
        if let Some(index) = index {
            self.with_surroundings(index as usize, now, |cluster, endpoints, around| {
                cluster.rebuild(endpoints, around);
            });
            let tracked = self.clusters.get(index as usize).is_some_and(|c| c.tracking.active);
            self.wants_slots |= tracked;
        }
        let follows = |settings: &ClusterSettings| {
            settings.zone_aware.as_ref().is_some_and(|zones| zones.local_cluster == name)
        };
        for other in 0..u32::try_from(self.clusters.len()).unwrap_or(u32::MAX) {
            if let Some(cluster) = self.clusters.get_mut(other as usize)
                && Some(other) != index
                && follows(&cluster.settings)
            {
                cluster.want_build();
            }
        }
        self.begin_builds(now);
        let all = self.config.clusters.is_empty();
        self.sole = (all && self.clusters.len() == 1).then_some(0);
        true
    }

    /// Starts to build what has to be built: one cluster after the other, because building takes
    /// more memory than what is built. Small tables are complete at once.
    pub(super) fn begin_builds(&mut self, now: Instant) {
        let wants = |cluster: &Cluster| cluster.wants_build();
        while !self.clusters.iter().any(Cluster::is_building)
            && let Some(index) = self.clusters.iter().position(wants)
        {
            if let Some(cluster) = self.clusters.get_mut(index) {
                cluster.build_is_begun();
            }
            self.with_surroundings(index, now, |cluster, endpoints, around| {
                cluster.begin_build(endpoints, around);
            });
        }
    }

    fn with_surroundings(
        &mut self,
        index: usize,
        now: Instant,
        call: impl FnOnce(&mut Cluster, &[Endpoint], &Surroundings<'_>),
    ) {
        let taken = |(at, cluster): (usize, &Cluster)| {
            // its own old tables go when the new ones are complete
            if at == index { 0 } else { cluster.table_bytes() }
        };
        let others = self.clusters.iter().enumerate().map(taken);
        let others = others.fold(0_u64, u64::saturating_add);
        let Some(cluster) = self.clusters.get_mut(index) else { return };
        let Some(set) = self.membership.get(&cluster.name) else { return };
        let zones = cluster.settings.zone_aware.clone();
        let local = zones.as_ref().and_then(|zones| self.membership.get(&zones.local_cluster));
        let zone = zones.as_ref().map_or("", |zones| zones.local_zone.as_str());
        let around = Surroundings {
            local: local.map_or(&[], |local| &local.endpoints),
            zone: if zone.is_empty() { &self.site.zone } else { zone },
            seed: self.site.seed,
            identity: self.site.identity,
            room: TABLES_BYTES_MAX.saturating_sub(others),
            now,
        };
        call(cluster, &set.endpoints, &around);
    }

    /// Whether tables are being built.
    #[must_use]
    pub fn is_building(&self) -> bool {
        self.clusters.iter().any(|cluster| cluster.is_building() || cluster.wants_build())
    }

    /// Builds on with about `units` of work. Returns whether there is more to do.
    pub fn build(&mut self, units: u32, now: Instant) -> bool {
        if let Some(cluster) = self.clusters.iter_mut().find(|cluster| cluster.is_building()) {
            cluster.build(units);
        }
        self.begin_builds(now);
        self.is_building()
    }
}

//! The whole product on one screen: every input, in order, through all the stages.
//!
//! ```text
//! config::parse -> Engine::new
//! membership    -> on_clusters_answer / on_snapshot   rebuilds tables when something changed
//! a request     -> on_request                         key, order, admission, budget, trial
//! a failure     -> on_attempt                         breaker, budget, permit
//! its end       -> on_end                             success, pending until a tick
//! the clock     -> on_tick                            settles, looks at the budget
//! ```
//!
//! The engine is one worker's. What holds for the process (totals, permits, breaker records,
//! membership) comes in and goes out through [`Environment`] and the `merge_state`,
//! `state_to_publish` and `snapshot` calls; the adapter carries the bytes and decides nothing.

mod cluster;
mod head;
mod report;
mod request;
mod routes;
mod sync;
#[cfg(test)]
mod tests;

use hashbrown::HashMap;

use crate::attempt::Candidates;
use crate::config::limits::CLUSTERS_MAX;
use crate::config::{ClusterConfig, ClusterSettings, Config};
use crate::membership::decode::{self, DecodeError, DecodeReason, Wanted};
use crate::membership::{Endpoint, Membership, Update};
use crate::metrics::{Id, Sums};
use crate::outcome::ledger::Ledger;
use crate::state::breaker::Transition;
use crate::state::share::Entry;
use crate::time::Instant;
use cluster::Cluster;
pub use head::{Environment, Head, PERMITS, permit_of};
pub use report::{AfterEnd, Attempt};
pub use request::{Decision, Plan};
use routes::{Learned, Routes};

/// Something an operator wants to read in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The cluster.
    pub cluster: String,
    /// The endpoint.
    pub address: String,
    /// What happened to its breaker.
    pub transition: Transition,
}

/// Events kept until the adapter takes them; more than that in a tick are only counted.
pub const EVENTS_MAX: usize = 64;

/// One worker's engine.
#[derive(Debug)]
pub struct Engine {
    config: Config,
    membership: Membership,
    clusters: Vec<Cluster>,
    names: HashMap<String, u32>,
    routes: Routes,
    learned: Learned,
    /// The only cluster that Envoy has, when the configuration names none.
    sole: Option<u32>,
    ledger: Ledger,
    /// Records of other workers, also of endpoints that are not known here yet.
    shared: Vec<Entry>,
    dirty: bool,
    sums: Sums,
    events: Vec<Event>,
    candidates: Candidates,
    list: Vec<u8>,
    name: Vec<u8>,
    seed: u64,
}

impl Engine {
    /// An engine for `config`; `seed` gives workers different starting points.
    #[must_use]
    pub fn new(config: Config, seed: u64) -> Self {
        let mut engine = Self {
            membership: Membership::new(),
            clusters: Vec::new(),
            names: HashMap::new(),
            routes: Routes::default(),
            learned: Learned::default(),
            sole: None,
            ledger: Ledger::default(),
            shared: Vec::new(),
            dirty: false,
            sums: Sums::default(),
            events: Vec::new(),
            candidates: Candidates::default(),
            list: Vec::new(),
            name: Vec::new(),
            seed,
            config: Config::default(),
        };
        for cluster in &config.clusters {
            engine.add_configured(cluster);
        }
        engine.config = config;
        engine
    }

    /// The configuration it was made of.
    #[must_use]
    pub const fn config(&self) -> &Config {
        &self.config
    }

    /// The path to ask of Envoy's admin; nothing when every cluster's membership is static.
    #[must_use]
    pub fn clusters_path(&self) -> Option<String> {
        let names = self.polled();
        (self.config.clusters.is_empty() || !names.is_empty())
            .then(|| decode::clusters_filter_path(&names))
    }

    /// Takes an answer of Envoy's admin. Returns whether anything changed.
    ///
    /// # Errors
    /// When the body cannot be trusted whole, or lacks a configured cluster and brings nothing new;
    /// nothing has changed then.
    pub fn on_clusters_answer(&mut self, body: &[u8]) -> Result<bool, DecodeError> {
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
                    changed |= self.apply(&update.name, endpoints);
                }
            }
        }
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

    /// What has been counted for the process since the last time.
    pub fn process_sums(&mut self) -> &mut Sums {
        &mut self.sums
    }

    /// The clusters' places, names and sums, for flushing.
    pub fn cluster_sums(&mut self) -> impl Iterator<Item = (u32, &str, &mut Sums)> {
        (0_u32..).zip(&mut self.clusters).map(|(i, c)| (i, c.name.as_str(), &mut c.sums))
    }

    /// What happened since the last time.
    pub fn take_events(&mut self) -> Vec<Event> {
        core::mem::take(&mut self.events)
    }

    fn missing(&self, name: &str) -> DecodeError {
        let place = self.config.clusters.iter().position(|cluster| cluster.name == name);
        let index = place.and_then(|place| u32::try_from(place).ok()).unwrap_or(u32::MAX);
        DecodeError { line: 0, reason: DecodeReason::ClusterMissing { index } }
    }

    fn polled(&self) -> Vec<&str> {
        let polled = |c: &&ClusterConfig| c.static_endpoints.is_none();
        self.config.clusters.iter().filter(polled).map(|c| c.name.as_str()).collect()
    }

    fn add_configured(&mut self, configured: &ClusterConfig) {
        let Some(index) = self.add(&configured.name, configured.settings.clone()) else { return };
        self.routes.add(index, &configured.matches);
        if let Some(endpoints) = &configured.static_endpoints {
            let endpoints = endpoints.iter().map(Endpoint::from);
            self.apply(&configured.name, endpoints.collect());
        }
    }

    fn add(&mut self, name: &str, settings: ClusterSettings) -> Option<u32> {
        if self.clusters.len() >= CLUSTERS_MAX {
            return None;
        }
        let index = u32::try_from(self.clusters.len()).ok()?;
        self.clusters.push(Cluster::new(name, settings));
        self.names.insert(name.into(), index);
        Some(index)
    }

    /// Gives a cluster its endpoints; returns whether that changed anything.
    fn apply(&mut self, name: &str, endpoints: Vec<Endpoint>) -> bool {
        if !self.membership.apply(name, Update::Reset(endpoints)).changed {
            return false;
        }
        let known = self.names.get(name).copied();
        let added = |engine: &mut Self| engine.add(name, engine.config.defaults.clone());
        let Some(index) = known.or_else(|| added(self)) else { return false };
        let seed = self.seed;
        if let (Some(cluster), Some(set)) =
            (self.clusters.get_mut(index as usize), self.membership.get(name))
        {
            cluster.rebuild(&set.endpoints, seed);
        }
        let all = self.config.clusters.is_empty();
        self.sole = (all && self.clusters.len() == 1).then_some(0);
        true
    }

    fn event(&mut self, cluster: u32, place: u32, transition: Transition) {
        self.dirty = true;
        let Some(cluster) = self.clusters.get_mut(cluster as usize) else { return };
        cluster.note_held_out();
        cluster.sums.count(match transition {
            Transition::Opened { .. } => Id::Ejections,
            Transition::Closed => Id::Recoveries,
        });
        if self.events.len() < EVENTS_MAX {
            let address = cluster.addresses.get(place as usize).cloned().unwrap_or_default();
            self.events.push(Event { cluster: cluster.name.clone(), address, transition });
        }
    }

    /// Settles what is pending and looks at the process's totals; once every tick.
    pub fn on_tick(&mut self, environment: &mut impl Environment, now: Instant) {
        let pending = self.ledger.pending();
        self.settle(pending, environment, now);
        for (index, cluster) in (0_u32..).zip(&mut self.clusters) {
            if cluster.is_curious(now)
                && let Some(totals) = environment.totals(index)
            {
                cluster.observe(totals, now);
            }
        }
    }
}

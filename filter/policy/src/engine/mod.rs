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

mod choose;
mod cluster;
mod head;
mod load;
mod members;
mod report;
mod request;
mod routes;
mod session;
mod sync;
mod tables;
#[cfg(test)]
mod tests;

use hashbrown::HashMap;

use crate::attempt::Candidates;
use crate::config::limits::CLUSTERS_MAX;
use crate::config::{ClusterConfig, ClusterSettings, Config};
use crate::key::Generated;
use crate::membership::{Endpoint, Membership};
use crate::metrics::{Id, Sums};
use crate::outcome::flights::Flights;
use crate::outcome::ledger::Ledger;
use crate::state::breaker::Transition;
use crate::state::share::Entry;
use crate::state::slots::Slots;
use crate::time::Instant;
use cluster::Cluster;
pub use head::{Cookie, Environment, Head, PERMITS, permit_of};
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

/// Where an engine runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Site {
    /// Gives workers different starting points.
    pub seed: u64,
    /// What the proxy is called, as a hash: the same for all its workers.
    pub identity: u64,
    /// The proxy's zone, or empty.
    pub zone: String,
    /// When the engine was made.
    pub now: Instant,
}

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
    flights: Flights,
    slots: Slots,
    wants_slots: bool,
    /// Records of other workers, also of endpoints that are not known here yet.
    shared: Vec<Entry>,
    dirty: bool,
    sums: Sums,
    events: Vec<Event>,
    candidates: Candidates,
    list: Vec<u8>,
    name: Vec<u8>,
    /// The exact time at which the request is planned, where its policy follows latency.
    exact: Instant,
    /// The endpoint that the request's session is bound to.
    bound: Option<u32>,
    /// The cookie that the request should have had, for its hash.
    generated: Option<Generated>,
    site: Site,
}

impl Engine {
    /// An engine for `config` at `site`.
    #[must_use]
    pub fn new(config: Config, site: Site) -> Self {
        let mut engine = Self {
            membership: Membership::new(),
            clusters: Vec::new(),
            names: HashMap::new(),
            routes: Routes::default(),
            learned: Learned::default(),
            sole: None,
            ledger: Ledger::default(),
            flights: Flights::default(),
            slots: Slots::default(),
            wants_slots: false,
            shared: Vec::new(),
            dirty: false,
            sums: Sums::default(),
            events: Vec::new(),
            candidates: Candidates::default(),
            list: Vec::new(),
            name: Vec::new(),
            exact: Instant::ZERO,
            bound: None,
            generated: None,
            site,
            config: config.clone(),
        };
        for cluster in &config.clusters {
            engine.add_configured(cluster);
        }
        engine
    }

    /// The configuration it was made of.
    #[must_use]
    pub const fn config(&self) -> &Config {
        &self.config
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

    fn add_configured(&mut self, configured: &ClusterConfig) {
        let Some(index) = self.add(&configured.name, configured.settings.clone()) else { return };
        self.routes.add(index, &configured.matches);
        if let Some(endpoints) = &configured.static_endpoints {
            let endpoints = endpoints.iter().map(Endpoint::from);
            self.apply(&configured.name, endpoints.collect(), self.site.now);
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
            cluster.refresh_acceptances(now);
        }
        for cluster in &mut self.clusters {
            if cluster.reweigh(now) {
                cluster.want_build();
            }
        }
        self.begin_builds(now);
    }
}

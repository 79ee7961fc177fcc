//! One cluster as the engine holds it: settings, endpoints, tables and budget.

use hashbrown::HashMap;

use crate::attempt::budget::{Budget, Totals};
use crate::config::ClusterSettings;
use crate::key::CompiledKey;
use crate::membership::Endpoint;
use crate::metrics::{Id, Sums};
use crate::pick::{Member, Picker};
use crate::state::breaker::Record;
use crate::state::{Row, Table};
use crate::time::Instant;

/// How long after a failure a worker asks for the process's totals at every request.
const HOT: core::time::Duration = core::time::Duration::from_secs(2);

/// The endpoints of one priority, and the order over them.
#[derive(Debug)]
pub(super) struct Level {
    pub(super) picker: Picker,
    /// The picker's places as places in the cluster's table.
    pub(super) members: Vec<u32>,
}

/// One cluster.
#[derive(Debug)]
pub(super) struct Cluster {
    pub(super) name: String,
    pub(super) settings: ClusterSettings,
    pub(super) key: CompiledKey,
    /// By place in the membership, as everything else of an endpoint.
    pub(super) addresses: Vec<String>,
    pub(super) table: Table,
    /// Most preferred first.
    pub(super) levels: Vec<Level>,
    /// Grows when places change their meaning.
    pub(super) generation: u32,
    pub(super) budget: Budget,
    pub(super) sums: Sums,
    places: HashMap<String, u32>,
    hot_until: Instant,
    /// Whether a phase changed since admission was worked out.
    stale: bool,
}

impl Cluster {
    pub(super) fn new(name: &str, settings: ClusterSettings) -> Self {
        Self {
            name: name.into(),
            key: CompiledKey::new(&settings.hash_policy),
            settings,
            addresses: Vec::new(),
            table: Table::default(),
            levels: Vec::new(),
            generation: 0,
            budget: Budget::default(),
            sums: Sums::default(),
            places: HashMap::new(),
            hot_until: Instant::ZERO,
            stale: false,
        }
    }

    /// The place of the endpoint at `address`.
    pub(super) fn place(&self, address: &str) -> Option<u32> {
        self.places.get(address).copied()
    }

    /// Replaces the endpoints; who stays keeps what is known of it.
    pub(super) fn rebuild(&mut self, endpoints: &[Endpoint], seed: u64) {
        let old = core::mem::take(&mut self.places);
        let mut rows: Vec<Option<Row>> =
            core::mem::take(&mut self.table).into_rows().into_iter().map(Some).collect();
        let mut kept = Vec::with_capacity(endpoints.len());
        for (place, endpoint) in (0_u32..).zip(endpoints) {
            let row = old.get(endpoint.address.as_str()).and_then(|&at| rows.get_mut(at as usize));
            kept.push(row.and_then(Option::take).unwrap_or_default());
            self.places.insert(endpoint.address.clone(), place);
        }
        self.addresses = endpoints.iter().map(|e| e.address.clone()).collect();
        self.table = Table::new(kept);
        self.table.readmit(&self.settings.circuit_breaker);
        self.levels = levels(endpoints, &self.settings, seed);
        self.generation = self.generation.wrapping_add(1);
        self.sums.set(Id::Endpoints, u64::try_from(endpoints.len()).unwrap_or(u64::MAX));
        self.note_held_out();
    }

    /// Takes over another worker's record of the endpoint at `place`; [`Cluster::readmit`] makes
    /// it count.
    pub(super) fn adopt(&mut self, place: u32, record: &Record) {
        self.stale |= self.table.adopt(place, record);
    }

    /// Works out who is held out, if an adopted record changed a phase.
    pub(super) fn readmit(&mut self) {
        if core::mem::take(&mut self.stale) {
            self.table.readmit(&self.settings.circuit_breaker);
        }
        self.note_held_out();
    }

    pub(super) fn note_held_out(&mut self) {
        self.sums.set(Id::EndpointsHeldOut, u64::from(self.table.held_out()));
    }

    /// Notes the process's totals; this worker's own requests that are not flushed yet count too.
    pub(super) fn observe(&mut self, flushed: Totals, now: Instant) {
        let requests = flushed.requests.saturating_add(self.sums.get(Id::Requests));
        let retries = flushed.retries.saturating_add(self.sums.get(Id::Retries));
        let totals = Totals { requests, retries };
        if totals.retries > self.budget.newest().retries {
            self.hot_until = now.after(HOT);
        }
        self.budget.observe(totals, &self.settings.retry.budget, now);
    }

    /// Whether the totals should be looked at on a tick: there were requests and a new step of the
    /// budget has begun, or something failed lately.
    pub(super) fn is_curious(&self, now: Instant) -> bool {
        let new_step = self.budget.needs_sample(&self.settings.retry.budget, now);
        self.is_hot(now) || (self.sums.get(Id::Requests) > 0 && new_step)
    }

    pub(super) fn note_failure(&mut self, now: Instant) {
        self.hot_until = now.after(HOT);
    }

    /// Whether the budget has to be asked about: something failed lately, somewhere, or there may
    /// be no retry at all.
    pub(super) fn is_hot(&self, now: Instant) -> bool {
        let budget = &self.settings.retry.budget;
        let nothing = budget.percent == 0 && budget.min_retries_per_second == 0;
        nothing || now < self.hot_until || self.table.held_out() > 0 || self.table.is_panic()
    }
}

/// One level a priority. As in Envoy, a level's table holds the endpoints that Envoy calls
/// healthy, or all of them when fewer than `healthy_panic_threshold` percent are.
fn levels(endpoints: &[Endpoint], settings: &ClusterSettings, seed: u64) -> Vec<Level> {
    let mut priorities: Vec<u32> = endpoints.iter().map(|e| e.priority).collect();
    priorities.sort_unstable();
    priorities.dedup();
    let threshold = u64::from(settings.circuit_breaker.healthy_panic_threshold);
    let mut levels = Vec::with_capacity(priorities.len());
    for priority in priorities {
        let all = || (0_u32..).zip(endpoints).filter(|(_, e)| e.priority == priority);
        let total = all().count() as u64;
        let healthy = all().filter(|(_, e)| e.health.is_healthy()).count() as u64;
        let panic = healthy.saturating_mul(100) < total.saturating_mul(threshold);
        let in_table: Vec<(u32, &Endpoint)> =
            all().filter(|(_, e)| panic || e.health.is_healthy()).collect();
        let member = |(_, e): &(u32, &'_ Endpoint)| (e.address.clone(), e.weight);
        let owned: Vec<(String, u32)> = in_table.iter().map(member).collect();
        let members: Vec<Member<'_>> =
            owned.iter().map(|(key, weight)| Member { key, weight: *weight }).collect();
        let picker = Picker::build(&settings.lb_policy, &members, seed ^ u64::from(priority));
        levels.push(Level { picker, members: in_table.iter().map(|(place, _)| *place).collect() });
    }
    levels
}

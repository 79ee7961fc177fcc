//! One cluster as the engine holds it: settings, endpoints, tables and budget.

use core::cell::Cell;

use hashbrown::HashMap;

use super::load::Tracking;
use super::tables::{Material, NOWHERE, Tables, is_fixed};
use crate::attempt::budget::{Budget, Totals};
use crate::config::ClusterSettings;
use crate::hash;
use crate::key::CompiledKey;
use crate::key::session::Tokens;
use crate::membership::{Endpoint, Health};
use crate::metrics::{Id, Sums};
use crate::outcome::flights::NO_SLOT;
use crate::pick::SLICE_UNITS;
use crate::state::breaker::Record;
use crate::state::drift::Drift;
use crate::state::orca::Weights;
use crate::state::silence::Silence;
use crate::state::slow_start::Acceptances;
use crate::state::{Row, Table};
use crate::time::Instant;

/// How long after a failure a worker asks for the process's totals at every request.
const HOT: core::time::Duration = core::time::Duration::from_secs(2);

/// Weights that differ by less than this are the same: building tables again costs more than it
/// evens out.
const WEIGHT_CHANGE_MIN_PERCENT: u64 = 2;

/// What a cluster's tables are built with beside its own endpoints.
#[derive(Clone, Copy)]
pub(super) struct Surroundings<'a> {
    /// Endpoints of the cluster that this proxy belongs to, for zones.
    pub(super) local: &'a [Endpoint],
    /// This proxy's zone.
    pub(super) zone: &'a str,
    pub(super) seed: u64,
    pub(super) identity: u64,
    /// Bytes that this cluster's tables may take beside those of all others.
    pub(super) room: u64,
    pub(super) now: Instant,
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
    /// What requests use.
    pub(super) tables: Tables,
    /// What is being built to replace it.
    draft: Option<Tables>,
    /// Whether the draft was overtaken by another change.
    again: bool,
    builds: u64,
    /// Grows when places change their meaning.
    pub(super) generation: u32,
    pub(super) budget: Budget,
    pub(super) sums: Sums,
    /// What its policy wants to know of loads.
    pub(super) tracking: Tracking,
    /// Counters of requests in flight, by place; empty until they are given out.
    pub(super) slots: Vec<u32>,
    /// The counter of all of them together.
    pub(super) total_slot: u32,
    pub(super) drifts: Vec<Drift>,
    /// How likely each endpoint is accepted as a first choice.
    pub(super) acceptances: Acceptances,
    /// Weights that follow load, by place; empty: the membership's.
    pub(super) weights: Vec<u32>,
    reported: Weights,
    /// When weights were worked out last.
    weighed: Instant,
    /// Who a session's cookie may name.
    pub(super) tokens: Option<Tokens>,
    healths: Vec<Health>,
    places: HashMap<String, u32>,
    hot_until: Instant,
    /// Whether a phase changed since admission was worked out.
    stale: bool,
}

impl Cluster {
    pub(super) fn new(name: &str, settings: ClusterSettings) -> Self {
        Self {
            name: name.into(),
            tracking: Tracking::of(&settings.lb_policy),
            key: CompiledKey::new(&settings.hash_policy),
            tokens: settings.session.as_ref().map(|s| Tokens::new(&s.secret, name)),
            settings,
            addresses: Vec::new(),
            table: Table::default(),
            tables: Tables::default(),
            draft: None,
            again: false,
            builds: 0,
            generation: 0,
            budget: Budget::default(),
            sums: Sums::default(),
            slots: Vec::new(),
            total_slot: NO_SLOT,
            drifts: Vec::new(),
            acceptances: Acceptances::default(),
            weights: Vec::new(),
            reported: Weights::default(),
            weighed: Instant::ZERO,
            healths: Vec::new(),
            places: HashMap::new(),
            hot_until: Instant::ZERO,
            stale: false,
        }
    }

    /// The place of the endpoint at `address`.
    pub(super) fn place(&self, address: &str) -> Option<u32> {
        self.places.get(address).copied()
    }

    /// Whether the endpoint at `place` may go on with sessions that it has.
    pub(super) fn keeps_sessions(&self, place: u32) -> bool {
        self.healths.get(place as usize).is_some_and(|health| health.keeps_sessions())
            && self.table.row(place).is_some_and(Row::is_admitted)
    }

    /// Replaces the endpoints; who stays keeps what is known of it. The tables follow, in slices.
    pub(super) fn rebuild(&mut self, endpoints: &[Endpoint], around: &Surroundings<'_>) {
        let old = core::mem::take(&mut self.places);
        let mut moved = vec![NOWHERE; old.len()];
        let mut rows: Vec<Option<Row>> =
            core::mem::take(&mut self.table).into_rows().into_iter().map(Some).collect();
        let first = rows.is_empty();
        let mut kept = Vec::with_capacity(endpoints.len());
        self.places.reserve(endpoints.len());
        for (place, endpoint) in (0_u32..).zip(endpoints) {
            let before = old.get(endpoint.address.as_str()).copied();
            let row = before.and_then(|at| rows.get_mut(at as usize)).and_then(Option::take);
            if let Some(to) = before.and_then(|at| moved.get_mut(at as usize)) {
                *to = place;
            }
            // who is there from the beginning has not come lately
            let mut row = row.unwrap_or_else(|| Row::new(around.now, !first));
            // the ends of what is under way will name places of this generation no more
            row.silence = Silence::default();
            kept.push(row);
            self.places.insert(endpoint.address.clone(), place);
        }
        self.addresses = endpoints.iter().map(|e| e.address.clone()).collect();
        if let Some(tokens) = &mut self.tokens {
            tokens.rebuild(endpoints.iter().map(|e| e.address.as_str()));
        }
        self.healths = endpoints.iter().map(|e| e.health).collect();
        self.table = Table::new(kept);
        self.table.readmit(&self.settings.circuit_breaker);
        self.slots.clear();
        self.drifts.clear();
        self.generation = self.generation.wrapping_add(1);
        self.tables.relocate(&moved);
        if let Some(draft) = &mut self.draft {
            draft.relocate(&moved);
        }
        let weights = self.follow_load(around.now);
        self.weights = weights;
        self.again = true;
        self.sums.set(Id::Endpoints, u64::try_from(endpoints.len()).unwrap_or(u64::MAX));
        self.note_held_out();
        self.refresh_acceptances(around.now);
    }

    /// Notes that the tables have to be built again.
    pub(super) const fn want_build(&mut self) {
        self.again = true;
    }

    /// Starts to build tables. Not while it does already: a change that comes more often than a
    /// build takes must not keep it from ending.
    pub(super) fn begin_build(&mut self, endpoints: &[Endpoint], around: &Surroundings<'_>) {
        if self.draft.is_some() {
            return;
        }
        self.builds = self.builds.wrapping_add(1);
        let own: Vec<u32> = endpoints.iter().map(|endpoint| endpoint.weight).collect();
        let follow_load = self.weights.len() == own.len();
        self.draft = Some(Tables::begin(&Material {
            endpoints,
            weights: if follow_load { &self.weights } else { &own },
            local: around.local,
            zone: around.zone,
            settings: &self.settings,
            // every schedule starts somewhere else, or its first turns would always be the same
            seed: hash::xxh64(&self.builds.to_le_bytes(), around.seed),
            identity: around.identity,
            room: &Cell::new(around.room),
        }));
        // a small one is complete at once
        self.build(SLICE_UNITS);
    }

    /// Builds on with about `units` of work.
    pub(super) fn build(&mut self, units: u32) {
        if self.draft.as_mut().is_some_and(|draft| draft.build(units))
            && let Some(ready) = self.draft.take()
        {
            self.tables = ready;
            self.tables.weigh(&self.table, &self.settings);
        }
    }

    /// The build that was wanted begins, as far as its endpoints are known.
    pub(super) const fn build_is_begun(&mut self) {
        self.again = false;
    }

    /// Whether tables have to be built from the present endpoints.
    pub(super) const fn wants_build(&self) -> bool {
        self.again
    }

    /// Whether tables are being built.
    pub(super) const fn is_building(&self) -> bool {
        self.draft.is_some()
    }

    /// Bytes that the tables take, those that are being built included.
    pub(super) fn table_bytes(&self) -> u64 {
        self.tables.bytes.saturating_add(self.draft.as_ref().map_or(0, |draft| draft.bytes))
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
        self.tables.weigh(&self.table, &self.settings);
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

    /// The weights that follow load at `now`; empty where none do.
    fn follow_load(&mut self, now: Instant) -> Vec<u32> {
        let Some(settings) = &self.settings.orca_weights else { return Vec::new() };
        if is_fixed(&self.settings.lb_policy) {
            return Vec::new();
        }
        self.weighed = now;
        let rows = self.table.rows().iter().map(|row| &row.orca);
        self.reported.refresh(rows, settings, now).map(<[u32]>::to_vec).unwrap_or_default()
    }

    /// Works out the weights that follow load, if that is due. Returns whether they changed so much
    /// that tables have to be built again.
    pub(super) fn reweigh(&mut self, now: Instant) -> bool {
        let period = self.settings.orca_weights.map(|settings| settings.weight_update_period);
        if period.is_none_or(|period| now.since(self.weighed) < period) {
            return false;
        }
        let weights = self.follow_load(now);
        let moved = |(old, new): (&u32, &u32)| {
            let (change, larger) = (u64::from(old.abs_diff(*new)), u64::from(*old.max(new)));
            change * 100 > larger * WEIGHT_CHANGE_MIN_PERCENT
        };
        let changed =
            weights.len() != self.weights.len() || self.weights.iter().zip(&weights).any(moved);
        if changed {
            self.weights = weights;
        }
        changed
    }

    /// Works out how likely each endpoint is accepted as a first choice.
    pub(super) fn refresh_acceptances(&mut self, now: Instant) {
        if let Some(settings) = &self.settings.slow_start {
            let members =
                self.table.rows().iter().map(|row| (row.rising_since(), row.is_admitted()));
            self.acceptances.refresh(settings, members, now);
        }
    }
}

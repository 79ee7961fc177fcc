//! Requests in flight and latencies, for the policies that follow load.
//!
//! Nothing of this is done for a cluster whose policy asks for none of it.

use super::cluster::Cluster;
use super::{Engine, Environment};
use crate::config::LbPolicy;
use crate::outcome::flights::{Flight, Flights, Leg, NO_SLOT};
use crate::outcome::ledger::{StreamId, Success};
use crate::pick::Loads;
use crate::state::Table;
use crate::state::slots::name_of;
use crate::time::Instant;
use core::time::Duration;

/// What a cluster's policy wants to know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tracking {
    /// Requests in flight of each endpoint.
    pub(super) active: bool,
    /// Their sum.
    pub(super) total: bool,
    /// Latency, with its decay time and the latency of an endpoint without history.
    pub(super) latency: Option<(Duration, Duration)>,
}

impl Tracking {
    pub(super) const fn of(policy: &LbPolicy) -> Self {
        match policy {
            LbPolicy::RoundRobin { .. } | LbPolicy::Random => {
                Self { active: false, total: false, latency: None }
            }
            LbPolicy::LeastRequest { .. } => Self { active: true, total: false, latency: None },
            LbPolicy::PeakEwma { decay_time, default_rtt, .. } => {
                let latency = Some((*decay_time, *default_rtt));
                Self { active: true, total: false, latency }
            }
            LbPolicy::RingHash { hash_balance_factor, .. }
            | LbPolicy::Maglev { hash_balance_factor, .. }
            | LbPolicy::Rendezvous { hash_balance_factor, .. } => {
                let bounded = *hash_balance_factor > 0;
                Self { active: bounded, total: bounded, latency: None }
            }
        }
    }
}

/// The load of one picker's members, asked for while it walks.
pub(super) struct Weighing<'a, E> {
    pub(super) environment: &'a mut E,
    pub(super) flights: &'a Flights,
    pub(super) table: &'a Table,
    pub(super) tracking: Tracking,
    /// Counters by place in the cluster.
    pub(super) slots: &'a [u32],
    pub(super) total: u32,
    /// The picker's places as places in the cluster.
    pub(super) members: &'a [u32],
    pub(super) admitted_share: f64,
    pub(super) now: Instant,
}

impl<E: Environment> Weighing<'_, E> {
    fn count(&mut self, slot: u32) -> u32 {
        if slot == NO_SLOT {
            return 0;
        }
        let active = self.environment.active(slot).max(0);
        u32::try_from(active).unwrap_or(u32::MAX).max(self.flights.own(slot))
    }
}

impl<E: Environment> Loads for Weighing<'_, E> {
    fn active(&mut self, member: u32) -> u32 {
        let place = self.members.get(member as usize).copied().unwrap_or(u32::MAX);
        let slot = self.slots.get(place as usize).copied().unwrap_or(NO_SLOT);
        self.count(slot)
    }

    fn active_total(&mut self) -> u64 {
        u64::from(self.count(self.total))
    }

    fn admitted_share(&mut self) -> f64 {
        self.admitted_share
    }

    fn cost(&mut self, member: u32) -> f64 {
        let active = self.active(member);
        let Some((decay, default_rtt)) = self.tracking.latency else { return f64::from(active) };
        let place = self.members.get(member as usize).copied().unwrap_or(u32::MAX);
        let row = self.table.row(place);
        row.map_or(f64::MAX, |row| {
            let silent_us = row.silence.lasts(self.now).as_secs_f64() * 1e6;
            let silent = silent_us * (f64::from(active) + 1.0);
            row.ewma.cost(active, self.now, decay, default_rtt).max(silent)
        })
    }
}

impl Engine {
    /// Whether some endpoint has no counter yet; [`Engine::claim_slots`] gives it one.
    #[must_use]
    pub const fn wants_slots(&self) -> bool {
        self.wants_slots
    }

    /// Takes over the map of counters that all workers share, and gives counters to endpoints that
    /// have none. Returns the new map when it had to grow.
    pub fn claim_slots(
        &mut self,
        shared: &[u8],
        environment: &mut impl Environment,
    ) -> Option<Vec<u8>> {
        self.slots.adopt(shared);
        self.wants_slots = false;
        let known = hashbrown::HashSet::<u64>::from_iter(
            self.clusters.iter().filter(|c| c.tracking.active).flat_map(Cluster::slot_names),
        );
        let free = core::cell::RefCell::new(environment);
        let is_free = |slot: u32, owner: u64| {
            !known.contains(&owner) && free.try_borrow_mut().is_ok_and(|mut e| e.active(slot) == 0)
        };
        let before = self.slots.clone();
        for cluster in self.clusters.iter_mut().filter(|c| c.tracking.active) {
            let slots = &mut self.slots;
            cluster.take_slots(|name| slots.add(name, is_free).unwrap_or(NO_SLOT));
        }
        (before.encode() != self.slots.encode()).then(|| self.slots.encode())
    }

    /// A planned request sets off for the first of its candidates.
    pub(super) fn depart(&mut self, index: u32, id: StreamId, environment: &mut impl Environment) {
        let Some(cluster) = self.clusters.get(index as usize) else { return };
        if !cluster.tracking.active && cluster.tokens.is_none() {
            return;
        }
        let began = self.exact;
        let leg = |place: &u32| Leg { place: *place, slot: cluster.slot(*place) };
        let legs = self.candidates.listed.iter().map(leg);
        let mut flight = Flight::new(legs, began);
        flight.cluster = index;
        flight.generation = cluster.generation;
        flight.total = cluster.total_slot;
        flight.stream = environment.stream();
        self.count(&flight, true, environment, began);
        if let Some(displaced) = self.flights.begin(id, flight) {
            self.count(&displaced, false, environment, began);
        }
    }

    /// The attempt of stream `id` on the endpoint at `place` failed. Returns how long it took.
    pub(super) fn turn_back(
        &mut self,
        id: StreamId,
        place: Option<u32>,
        retried: bool,
        environment: &mut impl Environment,
        now: Instant,
    ) -> Option<Duration> {
        let flight = self.flights.get_mut(id)?;
        let leg = flight.leg()?;
        if place != Some(leg.place) {
            return None;
        }
        let took = now.since(flight.began);
        let before = *flight;
        if retried {
            flight.go_on(now);
        } else {
            flight.stop();
        }
        let after = *flight;
        self.count(&before, false, environment, now);
        self.count(&after, true, environment, now);
        Some(took)
    }

    /// The stream `id` is over. Returns how long its last attempt took, to be booked when it is
    /// known that nothing failed.
    pub(super) fn land(
        &mut self,
        id: StreamId,
        environment: &mut impl Environment,
        now: Instant,
    ) -> Option<Duration> {
        let flight = self.flights.end(id)?;
        let timed = flight.began != Instant::ZERO;
        let exact = if timed { environment.clock() } else { now };
        self.count(&flight, false, environment, exact);
        let cluster = self.clusters.get_mut(flight.cluster as usize)?;
        let (decay, default_rtt) = cluster.tracking.latency?;
        let leg = flight.leg().filter(|_| cluster.generation == flight.generation)?;
        let took = exact.since(flight.began);
        if flight.given_up {
            let row = cluster.table.row_mut(leg.place)?;
            row.ewma.observe_given_up(took, now, decay, default_rtt);
            return None;
        }
        Some(took)
    }

    /// The client of stream `id` gave up before its attempt was answered. That is reported before
    /// the end of the stream, or after it, when it already counts as this success.
    pub(super) fn give_up(&mut self, id: StreamId, success: Option<&Success>, now: Instant) {
        let Some(success) = success else {
            if let Some(flight) = self.flights.get_mut(id) {
                flight.given_up = true;
            }
            return;
        };
        let Some(cluster) = self.clusters.get_mut(success.cluster as usize) else { return };
        if let Some(took) = success.took
            && let Some((decay, default_rtt)) = cluster.tracking.latency
            && cluster.generation == success.generation
            && let Some(row) = cluster.table.row_mut(success.endpoint)
        {
            row.ewma.observe_given_up(took, now, decay, default_rtt);
        }
    }

    /// Books what the endpoint at `place` reports of its load with the answer that is ending.
    pub(super) fn hear(
        &mut self,
        index: u32,
        place: u32,
        environment: &mut impl Environment,
        now: Instant,
    ) {
        let Some(cluster) = self.clusters.get_mut(index as usize) else { return };
        let Some(settings) = cluster.settings.orca_weights else { return };
        if let Some(report) = environment.load_report()
            && let Some(row) = cluster.table.row_mut(place)
        {
            row.orca.update(&report, &settings, now);
        }
    }

    /// Takes all flights off: nobody will hear of their ends.
    pub fn abandon(&mut self, environment: &mut impl Environment) {
        while let Some(flight) = self.flights.end_any() {
            self.count(&flight, false, environment, flight.began);
        }
    }

    /// The stream `id` is not waited for; its flight is taken off now.
    pub fn forget(&mut self, id: StreamId, environment: &mut impl Environment) {
        if let Some(flight) = self.flights.end(id) {
            self.count(&flight, false, environment, flight.began);
        }
    }

    /// Takes over the flights of the engine before this one: their counters are the same.
    pub fn inherit(&mut self, before: Self) {
        self.flights = before.flights;
        self.flights.forget_places();
    }

    /// Puts a flight on (or takes it off) the counters and the debts of its present endpoint.
    fn count(
        &mut self,
        flight: &Flight,
        added: bool,
        environment: &mut impl Environment,
        now: Instant,
    ) {
        let Some(leg) = flight.leg() else { return };
        for slot in [leg.slot, flight.total] {
            if slot != NO_SLOT {
                environment.add_active(slot, if added { 1 } else { -1 });
                self.flights.note(slot, added);
            }
        }
        if let Some(cluster) = self.clusters.get_mut(flight.cluster as usize)
            && cluster.generation == flight.generation
            && let Some(row) = cluster.table.row_mut(leg.place)
        {
            if added {
                row.silence.begin(now);
            } else {
                row.silence.end(now);
            }
        }
    }

    /// Puts counters right that a worker which died left too high (or Envoy's own traffic past
    /// the plugin makes too low), by what Envoy itself counted when it answered the last poll.
    /// Both are read at different instants and differ by chance, so only what has the same sign
    /// in [`DRIFTS`] polls in a row counts, and of that the least.
    pub(super) fn reconcile(&mut self, environment: &mut impl Environment) {
        for cluster in self.clusters.iter_mut().filter(|cluster| cluster.tracking.active) {
            let Some(set) = self.membership.get(&cluster.name) else { continue };
            let mut total = 0_i64;
            for (endpoint, place) in set.endpoints.iter().zip(0_u32..) {
                let slot = cluster.slot(place);
                if slot == NO_SLOT {
                    continue;
                }
                let drift = environment.active(slot).saturating_sub(i64::from(endpoint.rq_active));
                let by = cluster.drift(place, drift);
                if by != 0 {
                    environment.add_active(slot, by.saturating_neg());
                    total = total.saturating_add(by);
                }
            }
            if cluster.total_slot != NO_SLOT && total != 0 {
                environment.add_active(cluster.total_slot, total.saturating_neg());
            }
        }
    }
}

/// Polls that must agree before a counter is put right.
pub(super) const DRIFTS: u8 = 3;

/// What polls in a row said about one counter.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Drift {
    least: i64,
    polls: u8,
}

impl Drift {
    /// Notes that the counter was `drift` too high; returns by how much to lower it.
    pub(super) fn note(&mut self, drift: i64) -> i64 {
        if drift == 0 {
            *self = Self::default();
            return 0;
        }
        let agrees = self.polls > 0 && drift.signum() == self.least.signum();
        if agrees {
            let least = self.least.unsigned_abs().min(drift.unsigned_abs());
            let least = i64::try_from(least).unwrap_or(i64::MAX);
            *self = Self { least: least * drift.signum(), polls: self.polls.saturating_add(1) };
        } else {
            *self = Self { least: drift, polls: 1 };
        }
        if self.polls < DRIFTS {
            return 0;
        }
        core::mem::take(self).least
    }
}

impl Cluster {
    /// Names of its endpoints' counters, and of its own.
    pub(super) fn slot_names(&self) -> impl Iterator<Item = u64> {
        let total = self.tracking.total.then(|| name_of(&self.name, ""));
        self.addresses.iter().map(|address| name_of(&self.name, address)).chain(total)
    }

    fn take_slots(&mut self, mut slot_of: impl FnMut(u64) -> u32) {
        let names = self.addresses.iter().map(|address| name_of(&self.name, address));
        self.slots = names.map(&mut slot_of).collect();
        // what was noted of a place may be another endpoint's
        self.drifts.clear();
        if self.tracking.total {
            self.total_slot = slot_of(name_of(&self.name, ""));
        }
    }

    pub(super) fn slot(&self, place: u32) -> u32 {
        self.slots.get(place as usize).copied().unwrap_or(NO_SLOT)
    }

    fn drift(&mut self, place: u32, drift: i64) -> i64 {
        if self.drifts.len() != self.slots.len() {
            self.drifts = vec![Drift::default(); self.slots.len()];
        }
        self.drifts.get_mut(place as usize).map_or(0, |noted| noted.note(drift))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn only_what_polls_in_a_row_agree_on_is_put_right_and_of_that_the_least() {
        let mut drift = Drift::default();
        let notes: Vec<i64> = [3, 5, 2, 4, 4, 0, 4, -1, -2, -3].map(|d| drift.note(d)).into();
        assert_eq!(notes, [0, 0, 2, 0, 0, 0, 0, 0, 0, -1]);
    }
}

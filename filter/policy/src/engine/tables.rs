//! The orders over a cluster's endpoints: which groups they fall into, and their pickers.
//!
//! A cluster has one [`Level`] a priority, and in it one group of those that Envoy calls healthy,
//! one of the degraded ones, and one a zone where zones matter. A request of a subset uses the
//! levels of that subset. All of them are built together, in slices: while they are, requests use
//! the tables before, whose members are moved to their new places when the membership changes.

use core::cell::Cell;

use super::load::Tracking;
use crate::config::{ClusterSettings, LbPolicy, Subsets, table_bytes};
use crate::membership::Endpoint;
use crate::pick::priority::{Priority, PriorityLoads, Tally};
use crate::pick::zone::{Routing, Zone};
use crate::pick::{Building, Member, Picker, subsetting};
use crate::state::{Row, Table};

/// Subsets of one cluster; endpoints of further ones serve only requests that select none.
pub(super) const SUBSETS_MAX: usize = 256;

/// Zones that are told apart; with more of them zones do not matter.
const ZONES_MAX: usize = 64;

/// A place that is none: its endpoint has left.
pub(super) const NOWHERE: u32 = u32::MAX;

/// Endpoints that one order is over.
#[derive(Debug)]
pub(super) struct Group {
    order: Order,
    /// The picker's places as places in the cluster's table.
    pub(super) members: Vec<u32>,
    /// The members' weights, where load is bounded; else empty.
    weights: Vec<u32>,
    /// Share of those weights that is admitted.
    pub(super) admitted_share: f64,
}

#[derive(Debug)]
enum Order {
    Building(Box<Building>),
    Ready(Picker),
    /// Its build was finished and taken.
    Taken,
}

/// What tables are made of.
#[derive(Clone, Copy)]
pub(super) struct Material<'a> {
    pub(super) endpoints: &'a [Endpoint],
    /// By place: the membership's weights, or those that follow load.
    pub(super) weights: &'a [u32],
    /// Endpoints of the cluster that this proxy belongs to, for zones.
    pub(super) local: &'a [Endpoint],
    /// This proxy's zone.
    pub(super) zone: &'a str,
    pub(super) settings: &'a ClusterSettings,
    pub(super) seed: u64,
    /// What random subsetting ranks by: the same for all workers of a proxy.
    pub(super) identity: u64,
    /// Bytes that tables may take.
    pub(super) room: &'a Cell<u64>,
}

impl Group {
    fn begin(places: &[u32], from: &Material<'_>, salt: u64) -> Self {
        let member = |place: &u32| {
            let at = *place as usize;
            let key = from.endpoints.get(at).map_or("", |e| e.address.as_str());
            Member { key, weight: from.weights.get(at).copied().unwrap_or(1) }
        };
        let mut members: Vec<Member<'_>> = places.iter().map(member).collect();
        let weights = || members.iter().map(|member| member.weight.max(1));
        let sum = weights().fold(0, |sum: u64, weight| sum.saturating_add(weight.into()));
        let bytes = table_bytes(&from.settings.lb_policy, weights().min().unwrap_or(1), sum);
        match from.room.get().checked_sub(bytes) {
            Some(left) => from.room.set(left),
            // an order over nobody: Envoy's own policy serves
            None => members.clear(),
        }
        let building = Picker::begin(&from.settings.lb_policy, &members, from.seed ^ salt);
        let bounded = Tracking::of(&from.settings.lb_policy).total;
        let weights = members.iter().filter(|_| bounded).map(|member| member.weight.max(1));
        Self {
            order: Order::Building(Box::new(building)),
            weights: weights.collect(),
            members: places.to_vec(),
            admitted_share: 1.0,
        }
    }

    /// Builds on; true when it is complete.
    fn build(&mut self, units: u32) -> bool {
        let Order::Building(building) = &mut self.order else { return true };
        if !building.step(units) {
            return false;
        }
        if let Order::Building(built) = core::mem::replace(&mut self.order, Order::Taken) {
            self.order = Order::Ready(built.finish());
        }
        true
    }

    /// The picker, if it is complete, and what its places mean.
    pub(super) fn parts(&mut self) -> Option<(&mut Picker, &[u32])> {
        match &mut self.order {
            Order::Ready(picker) => Some((picker, &self.members)),
            Order::Building(_) | Order::Taken => None,
        }
    }

    /// Works out how much of the members' weight is admitted.
    fn weigh(&mut self, table: &Table) {
        let of = |(place, weight): (&u32, &u32)| {
            let admitted = table.row(*place).is_some_and(Row::is_admitted);
            (u64::from(*weight), if admitted { u64::from(*weight) } else { 0 })
        };
        let sums = self.members.iter().zip(&self.weights).map(of);
        let (all, admitted) = sums.fold((0_u64, 0_u64), |sum, one| (sum.0 + one.0, sum.1 + one.1));
        self.admitted_share = if all > 0 { admitted as f64 / all as f64 } else { 1.0 };
    }

    fn relocate(&mut self, moved: &[u32]) {
        for place in &mut self.members {
            *place = moved.get(*place as usize).copied().unwrap_or(NOWHERE);
        }
    }
}

/// The endpoints of one priority.
#[derive(Debug)]
pub(super) struct Level {
    pub(super) healthy: Group,
    pub(super) degraded: Option<Group>,
    pub(super) zones: Option<(Routing, Vec<Group>)>,
    tally: Tally,
}

impl Level {
    fn groups(&mut self) -> impl Iterator<Item = &mut Group> {
        let zones = self.zones.iter_mut().flat_map(|(_, groups)| groups);
        core::iter::once(&mut self.healthy).chain(&mut self.degraded).chain(zones)
    }
}

/// The levels of one subset, or of all endpoints.
#[derive(Debug)]
pub(super) struct Set {
    /// Values of the selectors, each after a NUL; empty: all endpoints.
    key: Vec<u8>,
    /// Most preferred first.
    pub(super) levels: Vec<Level>,
    pub(super) loads: PriorityLoads,
}

/// All orders of one cluster.
#[derive(Debug, Default)]
pub(super) struct Tables {
    /// All endpoints first, then the subsets, sorted by key.
    sets: Vec<Set>,
    /// Bytes that they take.
    pub(super) bytes: u64,
}

impl Tables {
    /// Starts to build.
    pub(super) fn begin(from: &Material<'_>) -> Self {
        let room = from.room.get();
        let all: Vec<u32> = (0_u32..).zip(from.endpoints).map(|(place, _)| place).collect();
        let mut sets = vec![Set::begin(Vec::new(), &all, from)];
        if let Some(subsets) = &from.settings.subsets {
            let mut keyed: Vec<(Vec<u8>, u32)> = Vec::new();
            for (place, endpoint) in (0_u32..).zip(from.endpoints) {
                keyed.extend(key_of_endpoint(subsets, endpoint).map(|key| (key, place)));
            }
            keyed.sort();
            for chunk in keyed.chunk_by(|a, b| a.0 == b.0).take(SUBSETS_MAX) {
                let places: Vec<u32> = chunk.iter().map(|(_, place)| *place).collect();
                let key = chunk.first().map(|(key, _)| key.clone()).unwrap_or_default();
                sets.push(Set::begin(key, &places, from));
            }
        }
        Self { sets, bytes: room.saturating_sub(from.room.get()) }
    }

    /// Builds on with about `units` of work; true when all is complete.
    pub(super) fn build(&mut self, units: u32) -> bool {
        let levels = self.sets.iter_mut().flat_map(|set| &mut set.levels);
        let mut groups = levels.flat_map(Level::groups);
        let unfinished = groups.find_map(|group| (!group.build(1)).then_some(group));
        match unfinished {
            Some(group) => {
                group.build(units);
                false
            }
            None => true,
        }
    }

    /// The set for all endpoints.
    pub(super) fn all(&mut self) -> Option<&mut Set> {
        self.sets.first_mut()
    }

    /// The set of the subset called `key`.
    pub(super) fn subset(&mut self, key: &[u8]) -> Option<&mut Set> {
        let subsets = self.sets.get_mut(1..)?;
        let at = subsets.binary_search_by(|set| set.key.as_slice().cmp(key)).ok()?;
        subsets.get_mut(at)
    }

    /// Endpoints have new places: `moved` has them by their old ones.
    pub(super) fn relocate(&mut self, moved: &[u32]) {
        let levels = self.sets.iter_mut().flat_map(|set| &mut set.levels);
        levels.flat_map(Level::groups).for_each(|group| group.relocate(moved));
    }

    /// Works out how load is split among priorities, with those counted out that are held out.
    pub(super) fn weigh(&mut self, table: &Table, settings: &ClusterSettings) {
        for set in &mut self.sets {
            set.weigh(table, settings);
        }
        if Tracking::of(&settings.lb_policy).total {
            let levels = self.sets.iter_mut().flat_map(|set| &mut set.levels);
            levels.flat_map(Level::groups).for_each(|group| group.weigh(table));
        }
    }
}

/// The values of the selectors, each after a NUL, if the endpoint has them all.
fn key_of_endpoint(subsets: &Subsets, endpoint: &Endpoint) -> Option<Vec<u8>> {
    let mut key = Vec::new();
    for (wanted, _) in &subsets.selectors {
        let (_, value) = endpoint.metadata.iter().find(|(name, _)| name == wanted)?;
        key.push(0);
        key.extend_from_slice(value.as_bytes());
    }
    Some(key)
}

impl Set {
    fn begin(key: Vec<u8>, places: &[u32], from: &Material<'_>) -> Self {
        let endpoint = |place: u32| from.endpoints.get(place as usize);
        let mut priorities: Vec<u32> =
            places.iter().filter_map(|place| Some(endpoint(*place)?.priority)).collect();
        priorities.sort_unstable();
        priorities.dedup();
        let level = |priority: &u32| {
            let of_level = |place: &u32| endpoint(*place).is_some_and(|e| e.priority == *priority);
            let members: Vec<u32> = places.iter().copied().filter(of_level).collect();
            Level::begin(*priority, &members, from)
        };
        let levels: Vec<Level> = priorities.iter().map(level).collect();
        Self { key, levels, loads: PriorityLoads::default() }
    }

    fn weigh(&mut self, table: &Table, settings: &ClusterSettings) {
        if self.levels.len() < 2 {
            return;
        }
        let admitted = |group: &Group| {
            let admitted = |place: &&u32| table.row(**place).is_some_and(|row| row.is_admitted());
            group.members.iter().filter(admitted).count() as u64
        };
        let priority = |level: &Level| {
            Priority::of_endpoints(Tally {
                healthy: level.tally.healthy.min(admitted(&level.healthy)),
                degraded: level.tally.degraded.min(level.degraded.as_ref().map_or(0, admitted)),
                ..level.tally
            })
        };
        let priorities: Vec<Priority> = self.levels.iter().map(priority).collect();
        let breaker = &settings.circuit_breaker;
        let threshold = breaker.healthy_panic_threshold;
        self.loads.refresh(&priorities, settings.overprovisioning_factor, threshold);
    }
}

impl Level {
    /// As in Envoy, the order is over the endpoints that Envoy calls healthy, or over all of them
    /// when fewer than `healthy_panic_threshold` percent are.
    fn begin(priority: u32, places: &[u32], from: &Material<'_>) -> Self {
        let threshold = u64::from(from.settings.circuit_breaker.healthy_panic_threshold);
        let is = |place: &u32, what: fn(&Endpoint) -> bool| {
            from.endpoints.get(*place as usize).is_some_and(what)
        };
        let some = |what: fn(&Endpoint) -> bool| -> Vec<u32> {
            places.iter().copied().filter(|place| is(place, what)).collect()
        };
        let mut healthy = some(|e| e.health.is_healthy() && !e.health.is_degraded());
        let mut degraded = some(|e| e.health.is_degraded());
        let tally = Tally {
            total: places.len() as u64,
            healthy: healthy.len() as u64,
            degraded: degraded.len() as u64,
            excluded: some(|e| e.health.is_excluded()).len() as u64,
        };
        let total = tally.total.saturating_sub(tally.excluded);
        let well = tally.healthy.saturating_add(tally.degraded);
        let panic = well.saturating_mul(100) < total.saturating_mul(threshold);
        if panic {
            healthy = places.to_vec();
            degraded.clear();
        }
        if let Some(subsetting) = from.settings.random_subsetting {
            let address = |place: &u32| {
                from.endpoints.get(*place as usize).map_or("", |e| e.address.as_str())
            };
            let addresses = healthy.iter().map(address);
            let kept = subsetting::subset(addresses, subsetting.subset_size, from.identity);
            healthy = kept.iter().filter_map(|at| healthy.get(*at as usize).copied()).collect();
        }
        let salt = u64::from(priority);
        let group = |places: &[u32], salt: u64| Group::begin(places, from, salt);
        Self {
            zones: (priority == 0 && !panic).then(|| zones(places, &healthy, from)).flatten(),
            degraded: (!degraded.is_empty()).then(|| group(&degraded, salt ^ (1 << 32))),
            healthy: group(&healthy, salt),
            tally,
        }
    }
}

/// One group a zone, where the policy and the configuration let zones matter (Envoy: not for
/// consistent hashing). `places`: all of the level; `healthy`: those that its order is over.
fn zones(places: &[u32], healthy: &[u32], from: &Material<'_>) -> Option<(Routing, Vec<Group>)> {
    let settings = from.settings.zone_aware.as_ref()?;
    if is_hash(&from.settings.lb_policy) {
        return None;
    }
    let endpoint = |place: &u32| from.endpoints.get(*place as usize);
    let zone_of = |place: &u32| endpoint(place).map_or("", |e| e.locality.zone.as_str());
    let all = places.iter().map(zone_of).chain(from.local.iter().map(|e| e.locality.zone.as_str()));
    let mut names: Vec<&str> = all.collect();
    names.sort_unstable();
    names.dedup();
    if names.len() > ZONES_MAX {
        return None;
    }
    let members = |name: &&str| -> Vec<u32> {
        healthy.iter().copied().filter(|place| zone_of(place) == *name).collect()
    };
    let members: Vec<Vec<u32>> = names.iter().map(members).collect();
    let zone = |(name, members): (&&str, &Vec<u32>)| {
        let local = |e: &&Endpoint| e.priority == 0 && e.locality.zone == *name;
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Zone {
            upstream: count(places.iter().filter(|place| zone_of(place) == *name).count()),
            upstream_healthy: count(members.len()),
            local: count(from.local.iter().filter(local).count()),
            local_healthy: count(
                from.local.iter().filter(local).filter(|e| e.health.is_healthy()).count(),
            ),
        }
    };
    let zones: Vec<Zone> = names.iter().zip(&members).map(zone).collect();
    let own = names.binary_search(&from.zone).ok().and_then(|at| u32::try_from(at).ok());
    let threshold = from.settings.circuit_breaker.healthy_panic_threshold;
    let routing = Routing::new(&zones, own, settings, threshold);
    if matches!(routing, Routing::Off(_)) {
        return None;
    }
    let group = |(n, places): (u64, &Vec<u32>)| Group::begin(places, from, (n + 1) << 40);
    Some((routing, (0_u64..).zip(&members).map(group).collect()))
}

/// Whether a request's hash says where it goes.
pub(super) const fn is_hash(policy: &LbPolicy) -> bool {
    matches!(
        policy,
        LbPolicy::RingHash { .. } | LbPolicy::Maglev { .. } | LbPolicy::Rendezvous { .. }
    )
}

/// Whether the policy's tables are Envoy's own, whose keys must not move with load.
pub(super) const fn is_fixed(policy: &LbPolicy) -> bool {
    matches!(policy, LbPolicy::RingHash { .. } | LbPolicy::Maglev { .. })
}

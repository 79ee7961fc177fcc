//! From a request to its candidates: which subset, which priority, which zone, which endpoints.

use super::cluster::Cluster;
use super::load::Weighing;
use super::tables::{Group, Level, Set, is_hash};
use super::{Engine, Environment, Head};
use crate::attempt::{Candidates, LISTED_DEFAULT, LISTED_MAX, Wish};
use crate::config::{SubsetFallback, Subsets};
use crate::hash;
use crate::outcome::flights::Flights;
use crate::pick::priority::Availability;
use crate::rng::Rng;
use crate::state::{Row, slow_start};
use crate::time::Instant;

/// Longest key of a subset that is looked up, in bytes; no endpoint has a longer one.
const SUBSET_KEY_BYTES_MAX: usize = 8 * 256;

/// Everything that one request's walks over groups share.
struct Search<'a, E, R> {
    candidates: &'a mut Candidates,
    environment: &'a mut E,
    rng: &'a mut R,
    flights: &'a Flights,
    wish: Wish,
    /// What thinning draws from; nothing where nobody is thinned.
    salt: Option<u64>,
}

impl<E: Environment, R: Rng> Search<'_, E, R> {
    /// Adds candidates of `group`. Returns whether there are enough.
    fn walk(&mut self, group: &mut Group, cluster: &Parts<'_>) -> bool {
        let admitted_share = group.admitted_share;
        let Some((picker, members)) = group.parts() else { return false };
        let mut loads = Weighing {
            environment: self.environment,
            flights: self.flights,
            table: &cluster.all.table,
            tracking: cluster.all.tracking,
            slots: &cluster.all.slots,
            total: cluster.all.total_slot,
            members,
            admitted_share,
            now: self.wish.now,
        };
        let salt = self.salt;
        let accepts = |place: u32, row: &Row| {
            let Some(salt) = salt else { return true };
            let share = cluster.all.acceptances.of(place) * row.trust();
            let address = cluster.all.addresses.get(place as usize).map_or("", String::as_str);
            let draw = || slow_start::draw_for(salt, hash::xxh64(address.as_bytes(), 0));
            share >= 1.0 || slow_start::accepts(share, draw())
        };
        self.candidates.collect(
            (picker, members),
            &cluster.all.table,
            &self.wish,
            &mut loads,
            self.rng,
            accepts,
        );
        self.candidates.listed.len() >= self.wish.want
    }

    /// Looks at one endpoint of each priority that the request passes over: a priority that is held
    /// out as a whole has no load, so nobody else would find out that it is well again.
    fn try_one_of(&mut self, levels: &[Level], cluster: &Parts<'_>) {
        let table = &cluster.all.table;
        if table.held_out() == 0 || !self.candidates.listed.is_empty() {
            return;
        }
        for members in levels.iter().map(|level| &level.healthy.members) {
            let place = self.rng.below(members.len() as u64);
            let found = usize::try_from(place).ok().and_then(|place| members.get(place));
            if let Some(&index) = found
                && let Some(row) = table.row(index).filter(|row| !row.is_admitted())
                && let Some(since) = row.breaker.due_since(self.wish.now)
            {
                self.candidates.due = Some((index, since));
                return;
            }
        }
    }

    /// Walks the groups of `set` in order: the priority that the load is split to first, and in it
    /// the zone; then all others, most preferred first.
    fn search(&mut self, set: &mut Set, cluster: &Parts<'_>) {
        let mut first = (0, false);
        if set.levels.len() > 1 {
            let hash = self.wish.key.filter(|_| cluster.by_hash);
            let hash = hash.unwrap_or_else(|| self.rng.next_u64());
            let (level, availability) = set.loads.choose(hash);
            first = (level as usize, availability == Availability::Degraded);
        }
        let passed_over = first.0.saturating_add(usize::from(first.1));
        self.try_one_of(set.levels.get(..passed_over).unwrap_or_default(), cluster);
        if let Some(level) = set.levels.get_mut(first.0) {
            let zone = level.zones.as_mut().filter(|_| !first.1);
            if let Some((routing, groups)) = zone
                && let Some(settings) = &cluster.all.settings.zone_aware
                && let Some(zone) = routing.choose(settings, self.rng)
                && let Some(group) = groups.get_mut(zone as usize)
                && self.walk(group, cluster)
            {
                return;
            }
            let group = if first.1 { level.degraded.as_mut() } else { Some(&mut level.healthy) };
            if group.is_some_and(|group| self.walk(group, cluster)) {
                return;
            }
        }
        for (index, level) in set.levels.iter_mut().enumerate() {
            if first != (index, false) && self.walk(&mut level.healthy, cluster) {
                return;
            }
            let degraded = level.degraded.as_mut().filter(|_| first != (index, true));
            if degraded.is_some_and(|group| self.walk(group, cluster)) {
                return;
            }
        }
    }
}

/// The parts of a cluster that a search reads.
struct Parts<'a> {
    all: &'a Cluster,
    by_hash: bool,
}

impl Engine {
    /// Fills `self.candidates`; nothing when no endpoint is admitted and none is due for a trial.
    pub(super) fn collect(
        &mut self,
        index: u32,
        head: &impl Head,
        environment: &mut impl Environment,
        rng: &mut impl Rng,
        now: Instant,
    ) -> Option<()> {
        let cluster = self.clusters.get_mut(index as usize)?;
        let found = cluster.key.of(head, |address| environment.source_address(address), rng);
        let key = found.hash;
        let retries = cluster.settings.retry.num_retries;
        let want = retries.map_or(LISTED_DEFAULT, |n| n.saturating_add(1).min(LISTED_MAX));
        let want = usize::try_from(want).unwrap_or(usize::MAX);
        let by_hash = is_hash(&cluster.settings.lb_policy);
        let thinned = cluster.acceptances.is_thinning() || cluster.table.has_doubts();
        let draw = || key.filter(|_| by_hash).unwrap_or_else(|| rng.next_u64());
        let salt = thinned.then(draw);
        let latency = cluster.tracking.latency.is_some();
        self.exact = if latency { environment.clock() } else { Instant::ZERO };
        let now = if latency { self.exact } else { now };
        self.candidates.clear();
        self.bound = cluster.bound_to(head);
        self.candidates.listed.extend(self.bound);
        self.generated = found.generated;
        // taken out while they are walked, because everything else of the cluster is read
        let mut tables = core::mem::take(&mut cluster.tables);
        let cluster = &self.clusters.get(index as usize)?;
        let subset = match &cluster.settings.subsets {
            Some(subsets) => {
                let known = subset_key(subsets, head, &mut self.name);
                let any = subsets.fallback == SubsetFallback::AnyEndpoint;
                match tables.subset(if known { &self.name } else { b"" }) {
                    Some(set) => Some(set),
                    None if any => tables.all(),
                    None => None,
                }
            }
            None => tables.all(),
        };
        if let Some(set) = subset {
            let mut search = Search {
                candidates: &mut self.candidates,
                environment,
                rng,
                flights: &self.flights,
                wish: Wish { key, want, now },
                salt,
            };
            search.search(set, &Parts { all: cluster, by_hash });
        }
        self.candidates.fill(want);
        self.clusters.get_mut(index as usize)?.tables = tables;
        let anything = !self.candidates.listed.is_empty() || self.candidates.due.is_some();
        anything.then_some(())
    }
}

/// Writes the values of the selectors' headers, each after a NUL. False: one is missing, or they
/// are too long for any endpoint.
fn subset_key(subsets: &Subsets, head: &impl Head, key: &mut Vec<u8>) -> bool {
    key.clear();
    for (_, header) in &subsets.selectors {
        let mut value = None;
        head.values(header.as_bytes(), &mut |found| value = value.or(Some(found)));
        let Some(value) = value else { return false };
        if key.len().saturating_add(value.len()) > SUBSET_KEY_BYTES_MAX {
            return false;
        }
        key.push(0);
        key.extend_from_slice(value);
    }
    true
}

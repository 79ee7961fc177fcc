//! What the engine may ask of the host while it decides, and have it do.

use outrigger_policy::attempt::budget::Totals;
use outrigger_policy::engine::{Cookie, Environment};
use outrigger_policy::state::orca::Report;
use outrigger_policy::time::Instant;

use crate::apply;
use crate::host::{Host, Map, Outcome};
use crate::metrics::{self, Actives, Metrics};
use crate::shared;

/// What the engine may ask of the host.
#[derive(Debug)]
pub struct Asked<'a, H> {
    /// Envoy.
    pub host: &'a H,
    /// The metrics of the configuration.
    pub metrics: &'a Metrics,
    /// The gauges of requests in flight.
    pub actives: &'a Actives,
    /// Names this VM among those of the process.
    pub owner: u64,
    /// Counts host calls that failed.
    pub failures: &'a mut u64,
    /// Whose callback this is.
    pub context: u32,
}

impl<H: Host> Asked<'_, H> {
    fn or_note<T>(&mut self, result: Outcome<T>) -> Option<T> {
        if result.is_err() {
            *self.failures = self.failures.saturating_add(1);
        }
        result.ok()
    }
}

impl<H: Host> Environment for Asked<'_, H> {
    fn cluster_name(&mut self, name: &mut Vec<u8>) -> bool {
        let found = self.host.property(b"xds\0cluster_name").unwrap_or_default();
        name.extend_from_slice(&found);
        !found.is_empty()
    }

    fn source_address(&mut self, address: &mut Vec<u8>) -> bool {
        let found = self.host.property(b"source\0address").unwrap_or_default();
        address.extend_from_slice(&found);
        !found.is_empty()
    }

    fn totals(&mut self, cluster: u32) -> Option<Totals> {
        self.metrics.totals(self.host, cluster)
    }

    fn take_permit(&mut self, permit: u32, until: Instant, now: Instant) -> bool {
        let taken = shared::take_permit(self.host, permit, self.owner, until, now);
        self.or_note(taken).unwrap_or(false)
    }

    fn load_report(&mut self) -> Option<Report> {
        // an absent header is cheap to ask for, and not a failure
        [Map::Response, Map::ResponseTrailers].into_iter().find_map(|map| {
            let header = |name| self.host.header(map, name).ok().filter(|v| !v.is_empty());
            let binary = || Report::parse_bin(&header(b"endpoint-load-metrics-bin")?);
            let tagged = || Report::parse(&header(b"endpoint-load-metrics")?);
            binary().or_else(tagged)
        })
    }

    fn stream(&mut self) -> u32 {
        self.context
    }

    fn set_cookie(&mut self, stream: u32, cookie: Cookie, value: &[u8]) {
        let set = apply::set_cookie(self.host, (stream, self.context), cookie, value);
        self.or_note(set);
    }

    fn clock(&mut self) -> Instant {
        self.host.now()
    }

    fn active(&mut self, slot: u32) -> i64 {
        let active = metrics::active(self.host, self.actives, slot);
        self.or_note(active).unwrap_or(0)
    }

    fn add_active(&mut self, slot: u32, by: i64) {
        let added = metrics::add_active(self.host, self.actives, slot, by);
        self.or_note(added);
    }

    fn release_permit(&mut self, permit: u32, free_from: Instant) {
        let released = shared::release_permit(self.host, permit, self.owner, free_from);
        self.or_note(released);
    }
}

//! The one table of metrics.
//!
//! Names are fixed: an address in a name would stay in Envoy's memory for good. A cluster's
//! metrics carry its name as `outrigger.cluster.<cluster>.<metric>`, which the `stats_tags` of the
//! shipped configurations turn into a tag; there are at most `config::CLUSTERS_MAX` of them.
//! The engine counts by [`Id`]; the adapter defines each metric once and flushes sums on ticks.

/// Whether a metric only grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// A state that goes up and down.
    Gauge,
}

/// What a metric is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The whole Envoy process.
    Process,
    /// One cluster.
    Cluster,
}

/// One row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// The last part of its name.
    pub name: &'static str,
    /// Counter or gauge.
    pub kind: Kind,
    /// What it is about.
    pub scope: Scope,
    /// What it says.
    pub help: &'static str,
}

macro_rules! metrics {
    ($($id:ident, $name:literal, $kind:ident, $scope:ident, $help:literal;)*) => {
        /// A metric by its place in [`METRICS`].
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Id { $(#[doc = $help] $id),* }

        /// Every metric there is.
        pub const METRICS: &[Metric] = &[$(Metric {
            name: $name, kind: Kind::$kind, scope: Scope::$scope, help: $help,
        }),*];

        /// Every id, in the order of [`METRICS`].
        pub const IDS: &[Id] = &[$(Id::$id),*];
    };
}

metrics! {
    Requests, "requests", Counter, Cluster,
        "requests that were planned";
    Retries, "retries", Counter, Cluster,
        "retries spent from the budget";
    RetriesDenied, "retries_denied", Counter, Cluster,
        "requests planned without any retry: budget gone, or nothing alive to retry on";
    ConnectFailures, "attempts_connect_failure", Counter, Cluster,
        "attempts that found no connection";
    Resets, "attempts_reset", Counter, Cluster,
        "attempts whose connection or stream broke";
    Timeouts, "attempts_timeout", Counter, Cluster,
        "attempts without an answer within the per-try time-out";
    GatewayErrors, "attempts_gateway_error", Counter, Cluster,
        "attempts answered with 502, 503 or 504";
    Ejections, "ejections", Counter, Cluster,
        "times that a circuit breaker opened, once for every worker that saw it first";
    Recoveries, "recoveries", Counter, Cluster,
        "times that a trial closed a circuit breaker";
    Trials, "trials", Counter, Cluster,
        "requests sent to an open endpoint whose trial was due";
    PanicRequests, "panic_requests", Counter, Cluster,
        "requests planned while too few endpoints were left to hold any out";
    Endpoints, "endpoints", Gauge, Cluster,
        "endpoints in the membership";
    EndpointsHeldOut, "endpoints_held_out", Gauge, Cluster,
        "endpoints that get no ordinary traffic because their breaker is open";
    Untouched, "requests_untouched", Counter, Process,
        "requests left to Envoy: cluster or membership not known, or nothing admitted";
    UnknownAttempts, "attempts_unknown", Counter, Process,
        "failed attempts on an endpoint that is not in the membership";
    MembershipUpdates, "membership_updates", Counter, Process,
        "answers of the membership source that changed something";
    MembershipFailures, "membership_failures", Counter, Process,
        "answers that were refused, late, malformed, truncated or empty; the last good set stays";
    ConfigRejected, "config_rejected", Counter, Process,
        "configurations that were refused";
    SharedWrites, "shared_writes", Counter, Process,
        "times that a worker wrote what the others should know";
    HostFailures, "host_failures", Counter, Process,
        "host calls that Envoy answered with a status that is not in order";
}

/// How many metrics there are.
pub const COUNT: usize = METRICS.len();

impl Id {
    /// Its place in [`METRICS`].
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }
}

/// Sums that wait to be flushed, by metric.
#[derive(Clone, Debug)]
pub struct Sums {
    values: [u64; COUNT],
    changed: bool,
}

impl Default for Sums {
    fn default() -> Self {
        Self { values: [0; COUNT], changed: true }
    }
}

impl Sums {
    /// Adds one.
    pub fn count(&mut self, id: Id) {
        if let Some(sum) = self.values.get_mut(id.index()) {
            *sum = sum.saturating_add(1);
            self.changed = true;
        }
    }

    /// Sets a gauge's value.
    pub fn set(&mut self, id: Id, value: u64) {
        if let Some(sum) = self.values.get_mut(id.index()) {
            *sum = value;
            self.changed = true;
        }
    }

    /// Whether anything was counted or set since the last time this was asked.
    pub const fn take_changed(&mut self) -> bool {
        core::mem::replace(&mut self.changed, false)
    }

    /// A gauge's value, or what has been counted since the last [`Sums::take`].
    #[must_use]
    pub fn get(&self, id: Id) -> u64 {
        self.values.get(id.index()).copied().unwrap_or(0)
    }

    /// Takes a counter's sum out.
    pub fn take(&mut self, id: Id) -> u64 {
        self.values.get_mut(id.index()).map_or(0, core::mem::take)
    }
}

/// The name of the gauge that counts requests in flight at a slot of `state::slots`. There are as
/// many as the endpoints of load-aware policies, `SLOTS_MAX` at most.
#[must_use]
pub fn active_name(slot: u32) -> String {
    format!("outrigger.slot.{slot}.active")
}

/// The full name of a metric as it is defined with Envoy, without Envoy's own `wasmcustom.`.
#[must_use]
pub fn full_name(metric: &Metric, cluster: &str) -> String {
    match metric.scope {
        Scope::Process => format!("outrigger.{}", metric.name),
        Scope::Cluster => format!("outrigger.cluster.{cluster}.{}", metric.name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn ids_and_rows_are_in_the_same_order_and_names_fit_the_tag_regex() {
        for (place, id) in IDS.iter().enumerate() {
            assert_eq!(id.index(), place);
        }
        for metric in METRICS {
            let fits = |c: char| c.is_ascii_lowercase() || c == '_';
            assert!(metric.name.chars().all(fits), "{}", metric.name);
        }
    }

    #[test]
    fn what_is_taken_is_gone_and_what_is_read_stays() {
        let mut sums = Sums::default();
        sums.count(Id::Requests);
        sums.set(Id::Endpoints, 5);
        assert_eq!((sums.take(Id::Requests), sums.take(Id::Requests)), (1, 0));
        assert_eq!((sums.get(Id::Endpoints), sums.get(Id::Endpoints)), (5, 5));
    }
}

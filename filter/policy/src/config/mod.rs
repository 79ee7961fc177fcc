//! The user's JSON becomes a validated [`Config`], or one error that names the field.
//!
//! The text is read into a tree that keeps duplicate keys, and a reader walks that tree with the
//! path in hand. A derive would be shorter, but its errors neither name the path nor say what was
//! expected in the user's words, and an operator has only the error to go by.
//!
//! [`parse`] does not look anything up and does not judge whether a cluster exists: names that
//! Envoy does not know simply never match.

use core::{fmt, time::Duration};

mod duration;
mod json;
pub mod limits;
pub mod raw;
mod read;
mod settings;
#[cfg(test)]
mod tests;
mod validate;

pub use crate::hash::HashFunction;
pub use raw::{FIELDS, Field};
pub use validate::parse;

/// Why a configuration was refused. Displays as `path: reason`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// Where, as in `clusters[0].retry.budget.percent`; `config` for the text as a whole.
    pub path: String,
    /// What was expected and what was got, then a remedy where there is one.
    pub reason: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.reason)
    }
}

impl core::error::Error for ConfigError {}

/// A whole configuration. Every value is in the range that [`FIELDS`] states.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Config {
    /// Where membership comes from, for each cluster without a source of its own.
    pub admin: AdminSource,
    /// What holds for each cluster that `clusters` does not name.
    pub defaults: ClusterSettings,
    /// The clusters that were named, in the user's order; names are unique.
    pub clusters: Vec<ClusterConfig>,
}

impl Config {
    /// The entry of the cluster called `name`, if the user wrote one. A scan of at most
    /// [`limits::CLUSTERS_MAX`] names: for start-up and membership updates, not for requests.
    #[must_use]
    pub fn cluster(&self, name: &str) -> Option<&ClusterConfig> {
        self.clusters.iter().find(|cluster| cluster.name == name)
    }

    /// The settings of the cluster called `name`: its own, already merged over the defaults, or
    /// the defaults.
    #[must_use]
    pub fn settings(&self, name: &str) -> &ClusterSettings {
        self.cluster(name).map_or(&self.defaults, |cluster| &cluster.settings)
    }
}

/// Envoy's admin interface as the source of membership (`GET /clusters`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdminSource {
    /// Name of the static cluster whose one host is Envoy's admin listener.
    pub cluster: String,
    /// Time from one poll to the next.
    pub interval: Duration,
    /// Time after which a poll without an answer has failed.
    pub timeout: Duration,
}

/// One entry of `clusters`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterConfig {
    /// The cluster's name in Envoy.
    pub name: String,
    /// Which requests go to this cluster, so that the route need not be asked for.
    pub matches: Match,
    /// The whole membership, when it is written here; `None`: ask the admin source.
    pub static_endpoints: Option<Vec<StaticEndpoint>>,
    /// What holds for this cluster, merged over the defaults.
    pub settings: ClusterSettings,
}

/// Which requests a cluster serves. Both lists empty: unknown, ask Envoy.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Match {
    /// Values of `:authority` in lower case; empty: any.
    pub authorities: Vec<String>,
    /// Prefixes of `:path`, case-sensitive; empty: any.
    pub path_prefixes: Vec<String>,
}

impl Match {
    /// True when nothing was written, so that this says nothing about any request.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.authorities.is_empty() && self.path_prefixes.is_empty()
    }
}

/// An endpoint written in the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StaticEndpoint {
    /// `ip:port` or `[v6]:port`, spelt as Envoy prints it.
    pub address: String,
    /// Share of the load among the endpoints of one priority; at least 1, and the weights of a
    /// cluster sum to at most `u32::MAX`.
    pub weight: u32,
    /// 0 is the most preferred; a cluster uses every number from 0 to its largest.
    pub priority: u32,
    /// Where it runs.
    pub locality: Locality,
}

/// Where an endpoint runs; an empty part is unknown.
#[derive(
    Debug,
    Clone,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    serde::Serialize,
    serde::Deserialize,
)]
pub struct Locality {
    /// The largest part, such as `eu-west-1`.
    pub region: String,
    /// The part of a region that fails as one, such as `eu-west-1a`.
    pub zone: String,
    /// Anything finer, such as a rack.
    pub sub_zone: String,
}

/// Everything that can be set per cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClusterSettings {
    /// How endpoints are ordered.
    pub lb_policy: LbPolicy,
    /// What is hashed, in order; used by the hashing policies only. Empty: nothing, so that a
    /// hashing policy spreads its requests at random, as Envoy's does.
    pub hash_policy: Vec<HashPolicy>,
    /// When an endpoint is taken out, and for how long.
    pub circuit_breaker: CircuitBreaker,
    /// How many attempts a request may have.
    pub retry: Retry,
}

/// How endpoints are ordered; Envoy's names, defaults and tables.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LbPolicy {
    /// Weighted round robin.
    #[default]
    RoundRobin,
    /// Ketama consistent hashing.
    RingHash {
        /// The ring has at least so many entries.
        minimum_ring_size: u64,
        /// The ring has at most so many entries; never below the minimum.
        maximum_ring_size: u64,
        /// The hash of the ring's entries.
        hash_function: HashFunction,
    },
    /// Maglev consistent hashing.
    Maglev {
        /// Entries in the table; a prime.
        table_size: u64,
    },
}

/// One part of what is hashed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HashPolicy {
    /// Where the bytes come from.
    pub source: HashSource,
    /// Stop here when this or an earlier part gave a hash.
    pub terminal: bool,
}

/// Where hashed bytes come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HashSource {
    /// A request header, its name in lower case; pseudo-headers such as `:authority` included.
    Header(String),
    /// A cookie, its name as written.
    Cookie(String),
    /// The IP address of the downstream, without its port.
    SourceIp,
    /// The path without its query.
    Path,
}

/// When an endpoint is taken out, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CircuitBreaker {
    /// Failures in a row that open the breaker; 0: never.
    pub consecutive_failures: u32,
    /// The other way to open it.
    pub success_rate: SuccessRate,
    /// Time out after the first opening; it grows with each further one.
    pub base_ejection_time: Duration,
    /// The longest time out, before jitter; never below the base.
    pub max_ejection_time: Duration,
    /// Up to this share of the time out is added at random, in percent.
    pub ejection_time_jitter_percent: u32,
    /// At most this share of a cluster's endpoints is out at once, in percent.
    pub max_ejection_percent: u32,
    /// Below this share of endpoints in service all of them are used, in percent; 0: never.
    pub healthy_panic_threshold: u32,
}

/// A breaker that opens on too low a share of successes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SuccessRate {
    /// Below this share of successes it opens, in percent; 0: never.
    pub threshold_percent: u32,
    /// How far back requests count.
    pub window: Duration,
    /// With fewer requests than this in the window there is no verdict.
    pub minimum_requests: u32,
}

/// How many attempts a request may have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retry {
    /// Retries beyond the first attempt; `None`: as the route says.
    pub num_retries: Option<u32>,
    /// Time for one attempt; `None`: as the route says.
    pub per_try_timeout: Option<Duration>,
    /// Methods that may be sent twice even when the first may have been acted on.
    pub idempotent_methods: Vec<String>,
    /// The cluster's share of retries, over the whole process.
    pub budget: Budget,
}

/// How many retries a cluster may have per request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// Retries as a share of requests, in percent.
    pub percent: u32,
    /// Retries per second that are allowed whatever the traffic.
    pub min_retries_per_second: u32,
    /// How far back requests and retries count.
    pub interval: Duration,
}

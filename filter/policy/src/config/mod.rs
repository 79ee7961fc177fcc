//! The user's JSON becomes a validated [`Config`], or one error that names the field.
//!
//! The text is read into a tree that keeps duplicate keys, and a reader walks that tree with the
//! path in hand. A derive would be shorter, but its errors neither name the path nor say what was
//! expected in the user's words, and an operator has only the error to go by.
//!
//! [`parse`] does not look anything up and does not judge whether a cluster exists: names that
//! Envoy does not know simply never match.

use core::{fmt, time::Duration};

mod circuit_breaker;
mod duration;
mod hash_policy;
mod json;
mod lb_policy;
pub mod limits;
pub mod raw;
mod read;
mod retry;
mod selection;
mod settings;
mod tables;
#[cfg(test)]
mod tests;
mod validate;

pub use crate::hash::HashFunction;
pub use raw::{FIELDS, Field};
pub use tables::table_bytes;
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
    /// What subsets are chosen by, as Envoy's `envoy.lb` metadata; keys are unique and sorted.
    pub metadata: Vec<(String, String)>,
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
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterSettings {
    /// How endpoints are ordered.
    pub lb_policy: LbPolicy,
    /// What is hashed, in order; used by the hashing policies only. Empty: nothing, so that a
    /// hashing policy spreads its requests at random, as Envoy's does.
    pub hash_policy: Vec<HashPolicy>,
    /// How an endpoint that is new or has come back is brought up to its share; `None`: at once.
    pub slow_start: Option<SlowStart>,
    /// Weights from the endpoints' own load reports; `None`: those of the membership.
    pub orca_weights: Option<OrcaWeights>,
    /// How much a priority may be overloaded before the next one helps, in percent of its load.
    pub overprovisioning_factor: u32,
    /// Prefer endpoints of this proxy's own zone; `None`: all zones alike.
    pub zone_aware: Option<ZoneAware>,
    /// Which endpoints serve which requests; `None`: all serve all.
    pub subsets: Option<Subsets>,
    /// Use a part of a large cluster only; `None`: all of it.
    pub random_subsetting: Option<RandomSubsetting>,
    /// Sticky sessions by a cookie; `None`: none.
    pub session: Option<Session>,
    /// When an endpoint is taken out, and for how long.
    pub circuit_breaker: CircuitBreaker,
    /// How many attempts a request may have.
    pub retry: Retry,
}

/// How endpoints are ordered; Envoy's names, defaults and tables where Envoy has the policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LbPolicy {
    /// Weighted round robin.
    RoundRobin {
        /// The order of turns.
        order: TurnOrder,
    },
    /// Weighted random.
    Random,
    /// The fewest requests in flight among a few drawn at random, or among all.
    LeastRequest {
        /// How many are drawn.
        choice_count: u32,
        /// How strongly requests in flight count where weights differ, in thousandths.
        active_request_bias_milli: u32,
        /// Look at all instead of drawing.
        full_scan: bool,
    },
    /// The least cost by peak-sensitive latency and requests in flight, among a few drawn.
    PeakEwma {
        /// How many are drawn.
        choice_count: u32,
        /// Time in which an old latency loses 63 % of its say.
        decay_time: Duration,
        /// Latency of an endpoint without history.
        default_rtt: Duration,
    },
    /// Ketama consistent hashing.
    RingHash {
        /// The ring has at least so many entries.
        minimum_ring_size: u64,
        /// The ring has at most so many entries; never below the minimum.
        maximum_ring_size: u64,
        /// The hash of the ring's entries.
        hash_function: HashFunction,
        /// An endpoint takes at most this share of the mean load, in percent; 0: any.
        hash_balance_factor: u32,
    },
    /// Maglev consistent hashing.
    Maglev {
        /// Entries in the table; a prime.
        table_size: u64,
        /// An endpoint takes at most this share of the mean load, in percent; 0: any.
        hash_balance_factor: u32,
    },
    /// Weighted rendezvous hashing over a table of slots.
    Rendezvous {
        /// Slots that keys fall into.
        table_size: u64,
        /// An endpoint takes at most this share of the mean load, in percent; 0: any.
        hash_balance_factor: u32,
    },
}

impl Default for LbPolicy {
    fn default() -> Self {
        Self::RoundRobin { order: TurnOrder::Edf }
    }
}

/// The order of turns in weighted round robin.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum TurnOrder {
    /// Earliest deadline first, as Envoy.
    #[default]
    Edf,
    /// The largest current weight first, as nginx.
    Smooth,
}

/// How an endpoint that is new or has come back is brought up to its share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlowStart {
    /// Time until it has its full share.
    pub window: Duration,
    /// Exponent of the curve in thousandths: 1000 is a straight line, more begins faster.
    pub aggression_milli: u32,
    /// The share that it has at once, in percent.
    pub min_weight_percent: u32,
}

/// Weights from load reports by gRFC A58.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OrcaWeights {
    /// Reports count only after an endpoint has sent them for this long.
    pub blackout_period: Duration,
    /// An endpoint without a report for this long has no weight of its own any more.
    pub weight_expiration_period: Duration,
    /// Time from one computation of the weights to the next.
    pub weight_update_period: Duration,
    /// How much errors count against an endpoint, in thousandths.
    pub error_utilization_penalty_milli: u32,
}

/// Prefer endpoints of this proxy's own zone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ZoneAware {
    /// The cluster that this proxy's own service is in: its endpoints per zone are where requests
    /// come from.
    pub local_cluster: String,
    /// This proxy's zone; empty: as Envoy's `node.locality.zone` says.
    pub local_zone: String,
    /// Share of requests that zones matter for, in percent.
    pub routing_enabled_percent: u32,
    /// Below so many endpoints zones do not matter.
    pub min_cluster_size: u32,
}

/// Which endpoints serve which requests, by endpoint metadata.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subsets {
    /// Metadata keys, each with the request header (lower case) whose value it must have.
    pub selectors: Vec<(String, String)>,
    /// What serves a request whose headers select no endpoint.
    pub fallback: SubsetFallback,
}

/// What serves a request whose headers select no endpoint.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum SubsetFallback {
    /// Any endpoint.
    #[default]
    AnyEndpoint,
    /// Nothing is steered: Envoy's own subset configuration decides.
    NoFallback,
}

/// Use a part of a large cluster only (gRFC A68).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RandomSubsetting {
    /// Endpoints used of each priority.
    pub subset_size: u32,
}

/// Sticky sessions by a cookie.
#[derive(Clone, PartialEq, Eq)]
pub struct Session {
    /// The cookie's name.
    pub cookie_name: String,
    /// The cookie's path.
    pub cookie_path: String,
    /// The cookie's life; zero: as long as the browser runs.
    pub ttl: Duration,
    /// What tokens are made with; the same in every proxy.
    pub secret: String,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("cookie_name", &self.cookie_name)
            .field("cookie_path", &self.cookie_path)
            .field("ttl", &self.ttl)
            .finish_non_exhaustive()
    }
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
    /// A request header.
    Header {
        /// Its name in lower case; pseudo-headers such as `:authority` included.
        name: String,
        /// What is done to each value before it is hashed.
        rewrite: Option<Rewrite>,
    },
    /// A cookie.
    Cookie {
        /// Its name as written.
        name: String,
        /// The life of a cookie that is generated where there is none; zero: as long as the
        /// browser runs. `None`: none is generated.
        ttl: Option<Duration>,
        /// The path of a generated cookie; empty: none is sent.
        path: String,
    },
    /// The IP address of the downstream, without its port.
    SourceIp,
    /// The path without its query.
    Path,
    /// The first value of a query parameter, its name as written.
    QueryParameter(String),
}

/// Every match of a pattern is replaced, as in Envoy's `RegexMatchAndSubstitute`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rewrite {
    /// An RE2 pattern.
    pub pattern: String,
    /// What replaces a match; `\\1` is the first group, `\\0` all of it.
    pub substitution: String,
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

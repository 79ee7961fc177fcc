//! The configuration as users write it: every field, its default, its range and its meaning.
//!
//! [`FIELDS`] is the only list of fields; tests hold the reader, its messages, the defaults below
//! and the README's table to it.

use core::time::Duration;

use super::{
    AdminSource, Budget, CircuitBreaker, ClusterSettings, LbPolicy, OrcaWeights, Retry, SuccessRate,
};

mod selection;

/// One field of the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field {
    /// Where it is written; `[]` stands for each item of a list.
    pub path: &'static str,
    /// Its default in JSON, or `required`, or `unset` with what then holds.
    pub default: &'static str,
    /// What it does.
    pub meaning: &'static str,
    /// What it may be: `LEAST..MOST`, both included, or the words that it may be.
    pub range: &'static str,
}

const fn field(
    path: &'static str,
    default: &'static str,
    range: &'static str,
    meaning: &'static str,
) -> Field {
    Field { path, default, meaning, range }
}

/// Every field of the configuration, in the order of the README's table.
pub const FIELDS: &[Field] = &joined::<COUNT>([SOURCES, selection::SELECTION, FAILURES]);

const COUNT: usize = SOURCES.len() + selection::SELECTION.len() + FAILURES.len();

/// The tables one after the other, of which there are `N` rows.
#[allow(clippy::indexing_slicing, reason = "evaluated by the compiler, which stops at a mistake")]
const fn joined<const N: usize>(tables: [&[Field]; 3]) -> [Field; N] {
    let mut all = [field("", "", "", ""); N];
    let (mut table, mut row, mut at) = (0, 0, 0);
    while at < N {
        if row == tables[table].len() {
            (table, row) = (table + 1, 0);
        } else {
            all[at] = tables[table][row];
            (row, at) = (row + 1, at + 1);
        }
    }
    all
}

/// Where clusters and endpoints come from.
const SOURCES: &[Field] = &[
    field(
        "membership.envoy_admin.cluster",
        r#""outrigger_admin""#,
        "1..255 bytes",
        "static cluster whose one host is Envoy's admin listener; asked with `GET /clusters`",
    ),
    field(
        "membership.envoy_admin.interval",
        r#""5s""#,
        "100ms..1h",
        "time between polls; one worker polls for the whole process",
    ),
    field(
        "membership.envoy_admin.timeout",
        r#""500ms""#,
        "10ms..1m",
        "time after which a poll has failed; the last good membership stays",
    ),
    field(
        "defaults",
        "{}",
        "`lb_policy`, `hash_policy`, `slow_start`, `orca_weights`, `overprovisioning_factor`, \
         `zone_aware`, `subsets`, `random_subsetting`, `session`, `circuit_breaker`, `retry`",
        "the same blocks as in a cluster, for what a cluster does not say itself",
    ),
    field(
        "clusters",
        "[]",
        "0..256 items",
        "the clusters that are steered; empty: every cluster that Envoy knows",
    ),
    field("clusters[].name", "required", "1..255 bytes", "the cluster's name in Envoy; unique"),
    field(
        "clusters[].match.authorities",
        "[]",
        "0..64 items",
        "`:authority` values of this cluster's requests; spares asking Envoy for the route's \
         cluster on each request",
    ),
    field(
        "clusters[].match.path_prefixes",
        "[]",
        "0..64 items",
        "path prefixes of this cluster's requests, each beginning with `/`",
    ),
    field(
        "clusters[].membership.static.endpoints",
        "unset: as Envoy's admin says",
        "1..10000 items",
        "the cluster's endpoints, written here instead of asked for",
    ),
    field(
        "clusters[].membership.static.endpoints[].address",
        "required",
        "ip:port or [ipv6]:port",
        "address of the endpoint; unique in its cluster, and a host of the cluster in Envoy too",
    ),
    field(
        "clusters[].membership.static.endpoints[].weight",
        "1",
        "1..4294967295",
        "share of the load; a cluster's weights sum to at most 4294967295",
    ),
    field(
        "clusters[].membership.static.endpoints[].priority",
        "0",
        "0..128",
        "0 is used first; no number may be left out",
    ),
    field(
        "clusters[].membership.static.endpoints[].locality.region",
        r#""""#,
        "0..255 bytes",
        "region of the endpoint",
    ),
    field(
        "clusters[].membership.static.endpoints[].locality.zone",
        r#""""#,
        "0..255 bytes",
        "zone of the endpoint",
    ),
    field(
        "clusters[].membership.static.endpoints[].locality.sub_zone",
        r#""""#,
        "0..255 bytes",
        "sub-zone of the endpoint",
    ),
    field(
        "clusters[].membership.static.endpoints[].metadata",
        "{}",
        "0..16 items",
        "strings by keys of up to 255 bytes each, which `subsets` choose by",
    ),
];

/// When an endpoint is taken out, and how often a request is tried.
const FAILURES: &[Field] = &[
    field(
        "clusters[].circuit_breaker.consecutive_failures",
        "5",
        "0..1000",
        "failures in a row that take an endpoint out; 0: never",
    ),
    field(
        "clusters[].circuit_breaker.success_rate.threshold_percent",
        "80",
        "0..100",
        "share of successes below which an endpoint is taken out; 0: never",
    ),
    field(
        "clusters[].circuit_breaker.success_rate.window",
        r#""10s""#,
        "100ms..10m",
        "how far back the share of successes looks",
    ),
    field(
        "clusters[].circuit_breaker.success_rate.minimum_requests",
        "20",
        "1..1000000",
        "requests to an endpoint in the window without which its share is not judged",
    ),
    field(
        "clusters[].circuit_breaker.base_ejection_time",
        r#""1s""#,
        "10ms..24h",
        "how long an endpoint is out the first time; longer each time after",
    ),
    field(
        "clusters[].circuit_breaker.max_ejection_time",
        r#""60s""#,
        "10ms..24h",
        "the longest it is out, before jitter; at least `base_ejection_time`",
    ),
    field(
        "clusters[].circuit_breaker.ejection_time_jitter_percent",
        "50",
        "0..100",
        "up to this share of the time out is added at random",
    ),
    field(
        "clusters[].circuit_breaker.max_ejection_percent",
        "50",
        "0..100",
        "at most this share of a cluster's endpoints is out at once",
    ),
    field(
        "clusters[].circuit_breaker.healthy_panic_threshold",
        "50",
        "0..100",
        "below this share of endpoints in service all are used; 0: never",
    ),
    field(
        "clusters[].retry.num_retries",
        "unset: as the route says",
        "0..10",
        "retries beyond the first attempt",
    ),
    field(
        "clusters[].retry.per_try_timeout",
        "unset: as the route says",
        "1ms..1h",
        "time for one attempt",
    ),
    field(
        "clusters[].retry.idempotent_methods",
        r#"["GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"]"#,
        "0..64 items",
        "methods that are safe to send again after the first may have been acted on",
    ),
    field(
        "clusters[].retry.budget.percent",
        "20",
        "0..100",
        "retries as a share of requests, over the whole process",
    ),
    field(
        "clusters[].retry.budget.min_retries_per_second",
        "10",
        "0..1000000",
        "retries per second allowed whatever the traffic",
    ),
    field(
        "clusters[].retry.budget.interval",
        r#""10s""#,
        "1s..1m",
        "how far back requests and retries count",
    ),
];

/// Least entries of a ring, as in Envoy.
pub(super) const MINIMUM_RING_SIZE: u64 = 1024;
/// Most entries of a ring, as in Envoy.
pub(super) const MAXIMUM_RING_SIZE: u64 = 8_388_608;
/// Entries of a Maglev table, as in Envoy.
pub(super) const MAGLEV_TABLE_SIZE: u64 = 65_537;
/// Slots of a rendezvous table: as many as Maglev's entries, of which a power of two may be had.
pub(super) const RENDEZVOUS_TABLE_SIZE: u64 = 65_536;
/// Endpoints drawn, as in Envoy.
pub(super) const CHOICE_COUNT: u32 = 2;
/// Exponent of the requests in flight, as in Envoy: 1.0.
pub(super) const ACTIVE_REQUEST_BIAS_MILLI: u32 = 1000;
/// Decay of latencies, as in Finagle and Linkerd.
pub(super) const DECAY_TIME: Duration = Duration::from_secs(10);
/// Latency of an endpoint without history, as in Linkerd.
pub(super) const DEFAULT_RTT: Duration = Duration::from_millis(30);
/// Exponent of a slow start, as in Envoy: 1.0.
pub(super) const AGGRESSION_MILLI: u32 = 1000;
/// Least share in a slow start, as in Envoy.
pub(super) const MIN_WEIGHT_PERCENT: u32 = 10;
/// Load reports, as in gRFC A58.
pub(super) const ORCA_WEIGHTS: OrcaWeights = OrcaWeights {
    blackout_period: Duration::from_secs(10),
    weight_expiration_period: Duration::from_secs(180),
    weight_update_period: Duration::from_secs(1),
    error_utilization_penalty_milli: 1000,
};
/// Share of requests that zones matter for, as in Envoy.
pub(super) const ROUTING_ENABLED: u32 = 100;
/// Endpoints below which zones do not matter, as in Envoy.
pub(super) const MIN_CLUSTER_SIZE: u32 = 6;
/// Path of a session's cookie: the whole site.
pub(super) const SESSION_COOKIE_PATH: &str = "/";
/// Life of a session's cookie: as long as the browser runs.
pub(super) const SESSION_TTL: Duration = Duration::ZERO;
/// Weight of an endpoint that does not say.
pub(super) const WEIGHT: u32 = 1;
/// Methods that RFC 9110, section 9.2.2, calls idempotent; `CONNECT` is not among them.
const IDEMPOTENT_METHODS: [&str; 6] = ["GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"];

impl Default for ClusterSettings {
    fn default() -> Self {
        Self {
            lb_policy: LbPolicy::default(),
            hash_policy: Vec::new(),
            slow_start: None,
            orca_weights: None,
            overprovisioning_factor: 140,
            zone_aware: None,
            subsets: None,
            random_subsetting: None,
            session: None,
            circuit_breaker: CircuitBreaker::default(),
            retry: Retry::default(),
        }
    }
}

impl Default for AdminSource {
    fn default() -> Self {
        Self {
            cluster: "outrigger_admin".into(),
            interval: Duration::from_secs(5),
            timeout: Duration::from_millis(500),
        }
    }
}

impl Default for CircuitBreaker {
    fn default() -> Self {
        Self {
            consecutive_failures: 5,
            success_rate: SuccessRate::default(),
            base_ejection_time: Duration::from_secs(1),
            max_ejection_time: Duration::from_secs(60),
            ejection_time_jitter_percent: 50,
            max_ejection_percent: 50,
            healthy_panic_threshold: 50,
        }
    }
}

impl Default for SuccessRate {
    fn default() -> Self {
        Self { threshold_percent: 80, window: Duration::from_secs(10), minimum_requests: 20 }
    }
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            num_retries: None,
            per_try_timeout: None,
            idempotent_methods: IDEMPOTENT_METHODS.map(String::from).into(),
            budget: Budget::default(),
        }
    }
}

impl Default for Budget {
    fn default() -> Self {
        Self { percent: 20, min_retries_per_second: 10, interval: Duration::from_secs(10) }
    }
}

//! The configuration as users write it: every field, its default, its range and its meaning.
//!
//! [`FIELDS`] is the only list of fields; tests hold the reader, its messages, the defaults below
//! and the README's table to it.

use core::time::Duration;

use super::{
    AdminSource, Budget, CircuitBreaker, ClusterSettings, HashFunction, LbPolicy, Retry,
    SuccessRate,
};

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
pub const FIELDS: &[Field] = &[
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
        "`lb_policy`, `hash_policy`, `circuit_breaker`, `retry`",
        "the same four blocks as in a cluster, for what a cluster does not say itself",
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
        "clusters[].lb_policy",
        r#"{"round_robin": {}}"#,
        "one of `round_robin`, `ring_hash`, `maglev`",
        "how endpoints are ordered, exactly as Envoy's policy of that name does",
    ),
    field(
        "clusters[].lb_policy.round_robin",
        "{}",
        "an object",
        "weighted round robin; has no fields",
    ),
    field(
        "clusters[].lb_policy.ring_hash.minimum_ring_size",
        "1024",
        "1..8388608",
        "least entries of the ring",
    ),
    field(
        "clusters[].lb_policy.ring_hash.maximum_ring_size",
        "8388608",
        "1..8388608",
        "most entries of the ring; at least `minimum_ring_size`",
    ),
    field(
        "clusters[].lb_policy.ring_hash.hash_function",
        r#""xx_hash""#,
        "`xx_hash`, `murmur_hash_2`",
        "hash of the ring's entries",
    ),
    field(
        "clusters[].lb_policy.maglev.table_size",
        "65537",
        "a prime in 2..5000011",
        "entries of the table",
    ),
    field(
        "clusters[].hash_policy",
        "[]",
        "0..16 items",
        "what `ring_hash` and `maglev` hash, combined as in Envoy; each item has one of `header`, \
         `cookie`, `connection_properties`, `path`",
    ),
    field(
        "clusters[].hash_policy[].header.header_name",
        "required",
        "1..255 bytes",
        "hash this request header, such as `x-user` or `:authority`",
    ),
    field("clusters[].hash_policy[].cookie.name", "required", "1..255 bytes", "hash this cookie"),
    field(
        "clusters[].hash_policy[].connection_properties.source_ip",
        "required",
        "true",
        "hash the downstream's IP address",
    ),
    field(
        "clusters[].hash_policy[].path",
        "unset",
        "an object",
        "hash the path without its query; has no fields",
    ),
    field(
        "clusters[].hash_policy[].terminal",
        "false",
        "true or false",
        "stop here once there is a hash",
    ),
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

/// Ring sizes and hash when `ring_hash` does not say.
pub(super) const RING_HASH: LbPolicy = LbPolicy::RingHash {
    minimum_ring_size: 1024,
    maximum_ring_size: 8_388_608,
    hash_function: HashFunction::XxHash,
    hash_balance_factor: 0,
};
/// Table size when `maglev` does not say.
pub(super) const TABLE_SIZE: u64 = 65_537;
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

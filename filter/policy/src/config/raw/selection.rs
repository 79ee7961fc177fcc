//! The fields that say which endpoint serves a request.

use super::{Field, field};

/// Fields of the blocks from `lb_policy` to `session`.
pub(super) const SELECTION: &[Field] = &[
    field(
        "clusters[].lb_policy",
        r#"{"round_robin": {}}"#,
        "one of `round_robin`, `random`, `least_request`, `peak_ewma`, `ring_hash`, `maglev`, \
         `rendezvous`",
        "how endpoints are ordered; as Envoy's policy of that name does, where there is one",
    ),
    field(
        "clusters[].lb_policy.round_robin.order",
        r#""edf""#,
        "`edf`, `smooth`",
        "order of weighted turns: earliest deadline first as Envoy, or smooth as nginx",
    ),
    field("clusters[].lb_policy.random", "unset", "an object", "weighted random; has no fields"),
    field(
        "clusters[].lb_policy.least_request.choice_count",
        "2",
        "2..10",
        "endpoints drawn at random, of which the one with the fewest requests in flight serves",
    ),
    field(
        "clusters[].lb_policy.least_request.active_request_bias",
        "1.0",
        "0..10",
        "where weights differ: weights are divided by requests in flight + 1 to this power; at \
         most 3 decimals",
    ),
    field(
        "clusters[].lb_policy.least_request.selection_method",
        r#""n_choices""#,
        "`n_choices`, `full_scan`",
        "draw `choice_count`, or look at all endpoints",
    ),
    field(
        "clusters[].lb_policy.peak_ewma.choice_count",
        "2",
        "2..10",
        "endpoints drawn at random, of which the one with the least latency x (requests in \
         flight + 1) serves",
    ),
    field(
        "clusters[].lb_policy.peak_ewma.decay_time",
        r#""10s""#,
        "100ms..10m",
        "time in which an old latency loses 63 % of its say",
    ),
    field(
        "clusters[].lb_policy.peak_ewma.default_rtt",
        r#""30ms""#,
        "1ms..1m",
        "latency of an endpoint that has not answered yet",
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
        "clusters[].lb_policy.ring_hash.hash_balance_factor",
        "0",
        "0 or 100..1000000",
        "an endpoint takes at most this share of the mean load, in percent; 0: any",
    ),
    field(
        "clusters[].lb_policy.maglev.table_size",
        "65537",
        "a prime in 2..5000011",
        "entries of the table",
    ),
    field(
        "clusters[].lb_policy.maglev.hash_balance_factor",
        "0",
        "0 or 100..1000000",
        "as with `ring_hash`",
    ),
    field(
        "clusters[].lb_policy.rendezvous.table_size",
        "65536",
        "1..1048576",
        "slots that keys fall into; each slot has its own order of endpoints",
    ),
    field(
        "clusters[].lb_policy.rendezvous.hash_balance_factor",
        "0",
        "0 or 100..1000000",
        "as with `ring_hash`",
    ),
    field(
        "clusters[].hash_policy",
        "[]",
        "0..16 items",
        "what `ring_hash`, `maglev` and `rendezvous` hash, combined as in Envoy; each item has \
         one of `header`, `cookie`, `connection_properties`, `path`, `query_parameter`",
    ),
    field(
        "clusters[].hash_policy[].header.header_name",
        "required",
        "1..255 bytes",
        "hash this request header, such as `x-user` or `:authority`",
    ),
    field(
        "clusters[].hash_policy[].header.regex_rewrite.pattern.regex",
        "required",
        "1..512 bytes",
        "first replace every match of this in the header; RE2's syntax, without `\\p`",
    ),
    field(
        "clusters[].hash_policy[].header.regex_rewrite.substitution",
        r#""""#,
        "0..512 bytes",
        "what replaces a match; `\\1` is the first group, `\\0` all of it",
    ),
    field("clusters[].hash_policy[].cookie.name", "required", "1..255 bytes", "hash this cookie"),
    field(
        "clusters[].hash_policy[].cookie.ttl",
        "unset: none is made",
        "0s..9600h",
        "where there is no such cookie, one is made that lives so long, in whole seconds; 0s: \
         as long as the browser runs",
    ),
    field(
        "clusters[].hash_policy[].cookie.path",
        r#""""#,
        "0..255 bytes",
        "path of a cookie that is made; empty: none is sent",
    ),
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
        "clusters[].hash_policy[].query_parameter.name",
        "required",
        "1..255 bytes",
        "hash the first value of this query parameter",
    ),
    field(
        "clusters[].hash_policy[].terminal",
        "false",
        "true or false",
        "stop here once there is a hash",
    ),
    field(
        "clusters[].slow_start",
        "null",
        "an object or null",
        "bring an endpoint that is new or has come back up to its share slowly",
    ),
    field(
        "clusters[].slow_start.slow_start_window",
        "required",
        "1s..24h",
        "time until it has its full share",
    ),
    field(
        "clusters[].slow_start.aggression",
        "1.0",
        "0.001..10",
        "1 is a straight line, more begins faster; at most 3 decimals",
    ),
    field(
        "clusters[].slow_start.min_weight_percent",
        "10",
        "0..100",
        "share of its weight that it has at once",
    ),
    field(
        "clusters[].orca_weights",
        "null",
        "an object or null",
        "weights from the endpoints' own load reports, by gRFC A58; `{}`: as below",
    ),
    field(
        "clusters[].orca_weights.blackout_period",
        r#""10s""#,
        "0s..1h",
        "an endpoint's reports count after it has sent them for this long",
    ),
    field(
        "clusters[].orca_weights.weight_expiration_period",
        r#""3m""#,
        "1s..24h",
        "without a report for this long it has the mean weight of the others",
    ),
    field(
        "clusters[].orca_weights.weight_update_period",
        r#""1s""#,
        "100ms..1h",
        "time from one computation of weights to the next",
    ),
    field(
        "clusters[].orca_weights.error_utilization_penalty",
        "1.0",
        "0..100",
        "what the share of errors is multiplied by before it is added to the load; at most 3 \
         decimals",
    ),
    field(
        "clusters[].overprovisioning_factor",
        "140",
        "100..10000",
        "percent; a priority spills over to the next one when its share of endpoints in service \
         times this is below 100 %",
    ),
    field(
        "clusters[].zone_aware",
        "null",
        "an object or null",
        "prefer endpoints of this proxy's own zone, as far as load stays even",
    ),
    field(
        "clusters[].zone_aware.local_cluster",
        "required",
        "1..255 bytes",
        "cluster of this proxy's own service: its endpoints per zone are where requests come from",
    ),
    field(
        "clusters[].zone_aware.local_zone",
        r#""""#,
        "0..255 bytes",
        "this proxy's zone; empty: as Envoy's `node.locality.zone` says",
    ),
    field(
        "clusters[].zone_aware.routing_enabled",
        "100",
        "0..100",
        "share of requests that zones matter for, in percent",
    ),
    field(
        "clusters[].zone_aware.min_cluster_size",
        "6",
        "0..10000",
        "with fewer endpoints zones do not matter",
    ),
    field(
        "clusters[].subsets",
        "null",
        "an object or null",
        "serve a request by the endpoints whose metadata its headers ask for",
    ),
    field(
        "clusters[].subsets.selectors",
        "required",
        "1..8 items",
        "an endpoint must match each of them whose header the request has",
    ),
    field(
        "clusters[].subsets.selectors[].key",
        "required",
        "1..255 bytes",
        "key in the endpoints' metadata; unique",
    ),
    field(
        "clusters[].subsets.selectors[].header",
        "required",
        "1..255 bytes",
        "request header that has the value",
    ),
    field(
        "clusters[].subsets.fallback",
        r#""any_endpoint""#,
        "`any_endpoint`, `no_fallback`",
        "what serves where no endpoint matches: any one, or what Envoy says",
    ),
    field(
        "clusters[].random_subsetting",
        "null",
        "an object or null",
        "use a random part of a large cluster, by gRFC A68",
    ),
    field(
        "clusters[].random_subsetting.subset_size",
        "required",
        "1..10000",
        "endpoints used of each priority",
    ),
    field(
        "clusters[].session",
        "null",
        "an object or null",
        "sticky sessions: a cookie says which endpoint serves",
    ),
    field("clusters[].session.cookie.name", "required", "1..255 bytes", "name of the cookie"),
    field("clusters[].session.cookie.path", r#""/""#, "1..255 bytes", "path of the cookie"),
    field(
        "clusters[].session.cookie.ttl",
        r#""0s""#,
        "0s..9600h",
        "life of the cookie in whole seconds; 0s: as long as the browser runs",
    ),
    field(
        "clusters[].session.secret",
        "required",
        "16..255 bytes",
        "what the cookie's token is made with; the same in every proxy, and in no log",
    ),
];

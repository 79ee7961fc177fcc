//! What an upstream counts, as `GET /stats` and `GET /last-request` show it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Counters of one upstream process since its start or the last `POST /reset-stats`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// Name given on the command line.
    pub name: String,
    /// Requests whose headers were read, whatever happened to them.
    pub requests: u64,
    /// Requests being served now.
    pub in_flight: u64,
    /// Most requests that were ever in flight at once.
    pub in_flight_max: u64,
    /// TCP connections accepted.
    pub connections: u64,
    /// What was done, by verdict: an HTTP status as text, `reset` or `stall`.
    pub outcomes: BTreeMap<String, u64>,
}

/// The last request that was read: what really left the proxy.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastRequest {
    /// HTTP method.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// Header names (lower case) and values, in order; bytes that are not UTF-8 are replaced.
    pub headers: Vec<(String, String)>,
}

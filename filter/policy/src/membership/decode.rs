//! The body of a membership source becomes [`ClusterUpdate`]s, whole or not at all.
//!
//! The source is Envoy's `GET /clusters` in text form. Measured against the JSON form it costs
//! Envoy's main thread a quarter, and it can be read line by line without a tree. For each
//! cluster Envoy prints lines about the cluster, then some twenty lines per host, host after host:
//!
//! ```text
//! backend::observability_name::backend
//! backend::default_priority::max_connections::1024
//! backend::added_via_api::false
//! backend::127.0.0.1:26001::rq_active::0
//! backend::127.0.0.1:26001::health_flags::healthy
//! backend::127.0.0.1:26001::weight::1
//! ```
//!
//! `::` also occurs inside names, IPv6 addresses and values, so that lines are not split at it:
//! each is held against the cluster and the host that are being read, which is faster too.
//!
//! What this cannot see is an answer cut exactly between two hosts, which is a whole answer with
//! fewer hosts; HTTP's own framing has to tell the caller that an answer did not end.

use core::{fmt, net::SocketAddr};

use hashbrown::HashSet;

use super::{ClusterUpdate, Endpoint, Update, host::Host};
use crate::config::limits::{CLUSTERS_MAX, ENDPOINTS_MAX};

/// Largest answer, in bytes: what Envoy's HTTP client buffers for a call-out.
pub const BODY_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Longest path of [`clusters_filter_path`], in bytes: an eighth of what Envoy takes as headers,
/// and well below the size at which RE2 refuses a pattern.
pub const FILTER_PATH_BYTES_MAX: usize = 8 * 1024;

/// What follows the cluster's name and `::` in a line that is about no host. In the order in which
/// they identify a cluster: the first is the first that Envoy prints, the next two are those of
/// versions before it was there.
const CLUSTER_LINES: [&str; 6] = [
    "observability_name::",
    "outlier::",
    "default_priority::",
    "high_priority::",
    "added_via_api::",
    "eds_service_name::",
];
/// The line that every cluster has, after all others of these but one and before its hosts.
const CLUSTER_COMPLETE: &str = "added_via_api::";

/// Which clusters of an answer are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted<'a> {
    /// Every one but the one that the answer came through.
    All {
        /// The admin cluster's name.
        except: &'a str,
    },
    /// These; each gets an update, in this order.
    Named(&'a [&'a str]),
}

/// Why an answer was refused. The membership that it would have replaced stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecodeError {
    /// The line, from 1; 0 when it is about the answer as a whole.
    pub line: u32,
    /// What is wrong with it.
    pub reason: DecodeReason,
}

/// What is wrong with an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum DecodeReason {
    /// More than [`BODY_BYTES_MAX`].
    TooLong,
    /// Not UTF-8, which everything that Envoy prints here is.
    NotUtf8,
    /// The last line does not end.
    Truncated,
    /// All clusters were wanted and none is there, not even the one asked.
    Empty,
    /// A line of no known form: not the answer of `/clusters`.
    NotClusters,
    /// A cluster ends before its own lines are complete.
    ClusterIncomplete,
    /// A host ends without one of the lines that every host has.
    HostIncomplete {
        /// The line's name.
        missing: &'static str,
    },
    /// A value that is not what its name says, such as a weight of 0.
    BadValue {
        /// The line's name.
        name: &'static str,
    },
    /// A cluster has its lines twice.
    ClusterTwice,
    /// A cluster of the configuration is not in the answer.
    ClusterMissing {
        /// Its place in `clusters`.
        index: u32,
    },
    /// More clusters than [`CLUSTERS_MAX`].
    TooManyClusters,
    /// A cluster with more endpoints than [`ENDPOINTS_MAX`].
    TooManyEndpoints,
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line > 0 {
            write!(f, "line {}: ", self.line)?;
        }
        match self.reason {
            DecodeReason::TooLong => write!(f, "longer than {BODY_BYTES_MAX} bytes"),
            DecodeReason::NotUtf8 => f.write_str("not UTF-8"),
            DecodeReason::Truncated => f.write_str("truncated: the last line does not end"),
            DecodeReason::Empty => f.write_str("names no cluster at all"),
            DecodeReason::NotClusters => f.write_str("not the answer of Envoy's /clusters"),
            DecodeReason::ClusterIncomplete => {
                write!(f, "truncated: the cluster has no line {CLUSTER_COMPLETE}")
            }
            DecodeReason::HostIncomplete { missing } => {
                write!(f, "truncated: the host before has no line {missing}")
            }
            DecodeReason::BadValue { name } => write!(f, "bad value of {name}"),
            DecodeReason::ClusterTwice => f.write_str("the cluster is there twice"),
            DecodeReason::ClusterMissing { index } => {
                write!(f, "Envoy does not name the cluster of clusters[{index}]")
            }
            DecodeReason::TooManyClusters => {
                write!(f, "more clusters than CLUSTERS_MAX = {CLUSTERS_MAX}")
            }
            DecodeReason::TooManyEndpoints => {
                write!(f, "more endpoints in a cluster than ENDPOINTS_MAX = {ENDPOINTS_MAX}")
            }
        }
    }
}

impl core::error::Error for DecodeError {}

/// The path that asks Envoy's admin for the clusters called `names`, or for all when `names` is
/// empty or would make the path longer than [`FILTER_PATH_BYTES_MAX`].
///
/// The filter is an RE2 pattern that Envoy searches for in each cluster's name, hence the
/// anchors; Envoy decodes the percent encoding first.
#[must_use]
pub fn clusters_filter_path(names: &[&str]) -> String {
    const ALL: &str = "/clusters";
    if names.is_empty() {
        return ALL.into();
    }
    let mut pattern = String::from("^(");
    for (i, name) in names.iter().enumerate() {
        if i > 0 {
            pattern.push('|');
        }
        for c in name.chars() {
            if r"\.+*?()|[]{}^$".contains(c) {
                pattern.push('\\');
            }
            pattern.push(c);
        }
        if pattern.len() > FILTER_PATH_BYTES_MAX {
            return ALL.into();
        }
    }
    pattern.push_str(")$");

    let mut path = format!("{ALL}?filter=");
    for byte in pattern.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            path.push(char::from(byte));
        } else {
            let hex = |digit: u8| char::from_digit(digit.into(), 16).unwrap_or('0');
            path.push('%');
            path.push(hex(byte >> 4).to_ascii_uppercase());
            path.push(hex(byte & 0xF).to_ascii_uppercase());
        }
    }
    if path.len() > FILTER_PATH_BYTES_MAX { ALL.into() } else { path }
}

/// Reads the text of Envoy's `/clusters`.
///
/// With [`Wanted::Named`] there is one update per name, [`Update::Absent`] for a cluster that the
/// body does not name; with [`Wanted::All`] one per cluster of the body, in its order. Hosts with
/// an address other than IP (pipes, internal listeners) are left out, as they cannot be selected
/// by address; of two hosts with one address the first counts, as one host cannot be told apart
/// from the other by address either.
///
/// # Errors
///
/// Anything that Envoy would not have written, and more than the limits named in
/// [`DecodeReason`].
pub fn clusters_text(body: &[u8], wanted: Wanted<'_>) -> Result<Vec<ClusterUpdate>, DecodeError> {
    let whole = |reason| DecodeError { line: 0, reason };
    if body.len() > BODY_BYTES_MAX {
        return Err(whole(DecodeReason::TooLong));
    }
    let body = core::str::from_utf8(body).map_err(|_| whole(DecodeReason::NotUtf8))?;
    if !body.is_empty() && !body.ends_with('\n') {
        return Err(whole(DecodeReason::Truncated));
    }
    let mut reader = Reader::new(wanted);
    let mut line = 0_u32;
    for text in body.lines() {
        line = line.saturating_add(1);
        reader.line(text).map_err(|reason| DecodeError { line, reason })?;
    }
    reader.end_of_cluster().map_err(|reason| DecodeError { line, reason })?;
    reader.updates().map_err(whole)
}

/// What has been read so far.
struct Reader<'a> {
    wanted: Wanted<'a>,
    /// The cluster whose lines are being read; none before the first line.
    cluster: Option<&'a str>,
    is_wanted: bool,
    is_complete: bool,
    host: Option<Host<'a>>,
    endpoints: Vec<Endpoint>,
    addresses: HashSet<&'a str>,
    done: Vec<ClusterUpdate>,
}

impl<'a> Reader<'a> {
    fn new(wanted: Wanted<'a>) -> Self {
        Self {
            wanted,
            cluster: None,
            is_wanted: false,
            is_complete: false,
            host: None,
            endpoints: Vec::new(),
            addresses: HashSet::new(),
            done: Vec::new(),
        }
    }

    fn line(&mut self, line: &'a str) -> Result<(), DecodeReason> {
        let in_cluster = self
            .cluster
            .and_then(|name| line.strip_prefix(name))
            .and_then(|rest| rest.strip_prefix("::"));
        let Some(rest) = in_cluster else {
            return self.first_line(line);
        };
        if let Some(host) = &mut self.host {
            let in_host =
                rest.strip_prefix(host.address).and_then(|value| value.strip_prefix("::"));
            if let Some(value) = in_host {
                if host.line(value)? {
                    return Ok(());
                }
                // The host's lines begin anew: Envoy holds it in two localities or priorities.
                let address = host.address;
                self.end_of_host()?;
                let mut host = Host::new(address);
                host.line(value)?;
                self.host = Some(host);
                return Ok(());
            }
        }
        self.other_line(line, rest)
    }

    /// A line that does not continue the host being read.
    fn other_line(&mut self, line: &'a str, rest: &'a str) -> Result<(), DecodeReason> {
        let (address, value) = split_host(rest).ok_or(DecodeReason::NotClusters)?;
        if is_ip(address) {
            self.end_of_host()?;
            let mut host = Host::new(address);
            host.line(value)?;
            self.host = Some(host);
            return Ok(());
        }
        if let Some(own) = CLUSTER_LINES.iter().find(|own| rest.starts_with(**own)) {
            self.is_complete |= *own == CLUSTER_COMPLETE;
            return self.end_of_host();
        }
        match cluster_name(line) {
            // A cluster whose name begins with this one's name and `::`.
            Some(_) => self.first_line(line),
            // A host that is not at an IP address, or a line that a later Envoy adds.
            None => self.end_of_host(),
        }
    }

    fn first_line(&mut self, line: &'a str) -> Result<(), DecodeReason> {
        let name = cluster_name(line).ok_or(DecodeReason::NotClusters)?;
        self.end_of_cluster()?;
        self.is_wanted = match self.wanted {
            Wanted::All { except } => name != except,
            Wanted::Named(names) => names.contains(&name),
        };
        if self.is_wanted && self.done.len() >= CLUSTERS_MAX {
            return Err(DecodeReason::TooManyClusters);
        }
        if self.is_wanted && self.done.iter().any(|update| update.name == name) {
            return Err(DecodeReason::ClusterTwice);
        }
        self.cluster = Some(name);
        self.is_complete = line
            .strip_prefix(name)
            .and_then(|rest| rest.strip_prefix("::"))
            .is_some_and(|rest| rest.starts_with(CLUSTER_COMPLETE));
        Ok(())
    }

    fn end_of_host(&mut self) -> Result<(), DecodeReason> {
        let host = self.host.take().filter(|_| self.is_wanted);
        let Some(host) = host else { return Ok(()) };
        host.is_complete()?;
        if !self.addresses.insert(host.address) {
            return Ok(());
        }
        if self.endpoints.len() >= ENDPOINTS_MAX {
            return Err(DecodeReason::TooManyEndpoints);
        }
        self.endpoints.push(host.endpoint());
        Ok(())
    }

    fn end_of_cluster(&mut self) -> Result<(), DecodeReason> {
        self.end_of_host()?;
        let Some(name) = self.cluster else {
            return Ok(());
        };
        if !self.is_complete {
            return Err(DecodeReason::ClusterIncomplete);
        }
        self.addresses.clear();
        let update = Update::Reset(core::mem::take(&mut self.endpoints));
        if self.is_wanted {
            self.done.push(ClusterUpdate { name: name.into(), update });
        }
        Ok(())
    }

    fn updates(mut self) -> Result<Vec<ClusterUpdate>, DecodeReason> {
        let Wanted::Named(names) = self.wanted else {
            return self.cluster.map(|_| self.done).ok_or(DecodeReason::Empty);
        };
        let take = |name: &&str| {
            let at = self.done.iter().position(|update| update.name == **name);
            at.map_or_else(
                || ClusterUpdate { name: (**name).into(), update: Update::Absent },
                |at| self.done.swap_remove(at),
            )
        };
        Ok(names.iter().map(take).collect())
    }
}

/// The cluster's name in one of its [`CLUSTER_LINES`].
fn cluster_name(line: &str) -> Option<&str> {
    CLUSTER_LINES.iter().find_map(|own| {
        line.match_indices(own).find_map(|(at, _)| line.get(..at)?.strip_suffix("::"))
    })
}

/// `address` and `name::value`; an IPv6 address has `::` of its own inside its brackets.
fn split_host(rest: &str) -> Option<(&str, &str)> {
    let bracket = rest.starts_with('[').then(|| rest.find(']')).flatten().unwrap_or(0);
    let after = rest.get(bracket..)?;
    let end = bracket.checked_add(after.find("::")?)?;
    Some((rest.get(..end)?, rest.get(end.checked_add(2)?..)?))
}

fn is_ip(address: &str) -> bool {
    let may_be = address.starts_with(|c: char| c == '[' || c.is_ascii_digit());
    may_be && address.parse::<SocketAddr>().is_ok()
}

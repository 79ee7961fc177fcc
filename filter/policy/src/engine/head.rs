//! What the engine may look at, and ask for, while it decides on a request.
//!
//! The head is bytes as the client sent them: nothing in it is valid text until proven. What
//! costs a host call is behind [`Environment`], so that the engine asks only when it must.

use crate::attempt::budget::Totals;
use crate::config::{HashPolicy, HashSource};
use crate::hash;
use crate::time::Instant;

/// Values of one header that are hashed: more than any Envoy lets through, which hashes them all.
const HASHED_VALUES_MAX: usize = 16_384;

/// The head of a request.
pub trait Head {
    /// `:method`, or empty.
    fn method(&self) -> &[u8];
    /// `:authority`, or empty.
    fn authority(&self) -> &[u8];
    /// `:path` with its query, or empty.
    fn path(&self) -> &[u8];
    /// `x-request-id`, or empty.
    fn request_id(&self) -> &[u8];
    /// Calls `each` with every value of the header called `name` (lower case), in order.
    fn values<'a>(&'a self, name: &[u8], each: &mut dyn FnMut(&'a [u8]));
}

/// What costs a host call.
pub trait Environment {
    /// The name of the cluster that the route leads to, written into `name`. False: unknown.
    fn cluster_name(&mut self, name: &mut Vec<u8>) -> bool;
    /// The client's `ip:port`, written into `address`. False: unknown.
    fn source_address(&mut self, address: &mut Vec<u8>) -> bool;
    /// The process's totals of the cluster, as far as they have been flushed.
    fn totals(&mut self, cluster: u32) -> Option<Totals>;
    /// Takes one of [`PERMITS`] permits for the whole process until `until`. False: taken.
    fn take_permit(&mut self, permit: u32, until: Instant, now: Instant) -> bool;
    /// Gives a permit back; it can be taken again from `free_from` on.
    fn release_permit(&mut self, permit: u32, free_from: Instant);
    /// The time now, exactly; the `now` of the engine's calls may be as old as the last tick.
    fn clock(&mut self) -> Instant;
    /// Requests in flight that the counter at `slot` counts, over the whole process.
    fn active(&mut self, slot: u32) -> u32;
    /// Adds `by` to the counter at `slot`.
    fn add_active(&mut self, slot: u32, by: i64);
}

/// Permits for half-open trials. An endpoint's permit is chosen by a hash of its name: two
/// endpoints that share one are tried one after the other.
pub const PERMITS: u32 = 256;

/// The permit of the endpoint at `address` in `cluster`.
#[must_use]
pub fn permit_of(cluster: &str, address: &str) -> u32 {
    let hashed = hash::xxh64(address.as_bytes(), hash::xxh64(cluster.as_bytes(), 0));
    u32::try_from(hashed % u64::from(PERMITS)).unwrap_or(0)
}

/// The key of a request by Envoy's combination rule, or nothing when no policy found anything.
pub(super) fn key_of(
    policies: &[HashPolicy],
    head: &impl Head,
    environment: &mut impl Environment,
) -> Option<u64> {
    let mut key = None;
    for policy in policies {
        if let Some(part) = part_of(&policy.source, head, environment) {
            key = Some(hash::combine(key, part));
        }
        if policy.terminal && key.is_some() {
            break;
        }
    }
    key
}

fn part_of(
    source: &HashSource,
    head: &impl Head,
    environment: &mut impl Environment,
) -> Option<u64> {
    match source {
        HashSource::Header { name, .. } => match name.as_bytes() {
            b":path" => some_hash(head.path()),
            b":authority" => some_hash(head.authority()),
            b":method" => some_hash(head.method()),
            name => header_hash(name, head),
        },
        HashSource::Cookie { name, .. } => cookie(name.as_bytes(), head).map(hash::bytes_hash),
        HashSource::SourceIp => {
            let mut address = Vec::new();
            environment
                .source_address(&mut address)
                .then(|| hash::bytes_hash(without_port(&address)))
        }
        HashSource::Path => {
            let path = head.path();
            some_hash(path.split(|&b| b == b'?').next().unwrap_or(path))
        }
        HashSource::QueryParameter(_) => None,
    }
}

fn some_hash(bytes: &[u8]) -> Option<u64> {
    (!bytes.is_empty()).then(|| hash::bytes_hash(bytes))
}

fn header_hash(name: &[u8], head: &impl Head) -> Option<u64> {
    // one value is the rule, and costs no allocation
    let mut first: Option<&[u8]> = None;
    let mut all: Vec<&[u8]> = Vec::new();
    head.values(name, &mut |value| match first {
        None => first = Some(value),
        Some(_) if all.len() < HASHED_VALUES_MAX => all.push(value),
        Some(_) => {}
    });
    let first = first?;
    if all.is_empty() {
        return Some(hash::bytes_hash(first));
    }
    all.push(first);
    Some(hash::header_values_hash(&mut all))
}

/// The value of the first cookie called `name`, read as Envoy does: spaces before the name and
/// quotes around the value are dropped, any other white space is part of either.
fn cookie<'a>(name: &[u8], head: &'a impl Head) -> Option<&'a [u8]> {
    let mut found: Option<&'a [u8]> = None;
    head.values(b"cookie", &mut |header| {
        for pair in header.split(|&b| b == b';') {
            let begin = pair.iter().position(|&b| b != b' ').unwrap_or(pair.len());
            let pair = pair.get(begin..).unwrap_or_default();
            let Some(at) = pair.iter().position(|&b| b == b'=') else { continue };
            let (key, value) = pair.split_at(at);
            if found.is_none() && key == name {
                found = Some(unquoted(value.get(1..).unwrap_or_default()));
            }
        }
    });
    found.filter(|value| !value.is_empty())
}

fn unquoted(value: &[u8]) -> &[u8] {
    match value {
        [b'"', inner @ .., b'"'] => inner,
        _ => value,
    }
}

fn without_port(address: &[u8]) -> &[u8] {
    let end = address.iter().rposition(|&b| b == b':').unwrap_or(address.len());
    match address.get(..end).unwrap_or(address) {
        [b'[', inner @ .., b']'] => inner,
        ip => ip,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    struct Fixed(Vec<(&'static str, &'static str)>);

    impl Fixed {
        fn first(&self, name: &str) -> &[u8] {
            self.0.iter().find(|(n, _)| *n == name).map_or(b"", |(_, v)| v.as_bytes())
        }
    }

    impl Head for Fixed {
        fn method(&self) -> &[u8] {
            self.first(":method")
        }
        fn authority(&self) -> &[u8] {
            self.first(":authority")
        }
        fn path(&self) -> &[u8] {
            self.first(":path")
        }
        fn request_id(&self) -> &[u8] {
            self.first("x-request-id")
        }
        fn values<'a>(&'a self, name: &[u8], each: &mut dyn FnMut(&'a [u8])) {
            for (_, value) in self.0.iter().filter(|(n, _)| n.as_bytes() == name) {
                each(value.as_bytes());
            }
        }
    }

    struct Nowhere(&'static str);

    impl Environment for Nowhere {
        fn cluster_name(&mut self, _: &mut Vec<u8>) -> bool {
            false
        }
        fn source_address(&mut self, address: &mut Vec<u8>) -> bool {
            address.extend_from_slice(self.0.as_bytes());
            !self.0.is_empty()
        }
        fn totals(&mut self, _: u32) -> Option<Totals> {
            None
        }
        fn take_permit(&mut self, _: u32, _: Instant, _: Instant) -> bool {
            false
        }
        fn release_permit(&mut self, _: u32, _: Instant) {}
        fn clock(&mut self) -> Instant {
            Instant::ZERO
        }
        fn active(&mut self, _: u32) -> u32 {
            0
        }
        fn add_active(&mut self, _: u32, _: i64) {}
    }

    fn key(policies: &str, head: Vec<(&'static str, &'static str)>) -> Option<u64> {
        let json = format!(r#"{{"defaults": {{"hash_policy": {policies}}}}}"#);
        let config = config::parse(json.as_bytes()).unwrap();
        key_of(&config.defaults.hash_policy, &Fixed(head), &mut Nowhere("[::1]:4242"))
    }

    const HEADER: &str = r#"{"header": {"header_name": "x-key"}}"#;

    #[test]
    fn a_header_gives_the_hash_of_its_value_and_its_absence_gives_none() {
        let found = key(&format!("[{HEADER}]"), vec![("x-key", "foo")]);
        assert_eq!(found, Some(3_728_699_739_546_630_719));
        assert_eq!(key(&format!("[{HEADER}]"), vec![("y", "foo")]), None);
    }

    #[test]
    fn parts_combine_in_order_and_a_terminal_one_ends_it() {
        let head = vec![("x-key", "foo"), ("cookie", "a=1; sid=\"bar\"")];
        let both = format!(r#"[{HEADER}, {{"cookie": {{"name": "sid"}}}}]"#);
        let expected = 3_728_699_739_546_630_719_u64.rotate_left(1) ^ 5_234_164_152_756_840_025;
        assert_eq!(key(&both, head.clone()), Some(expected));
        let terminal = r#"[{"header": {"header_name": "x-key"}, "terminal": true},
            {"cookie": {"name": "sid"}}]"#;
        assert_eq!(key(terminal, head), Some(3_728_699_739_546_630_719));
        let only_cookie = key(terminal, vec![("cookie", "sid=bar")]);
        assert_eq!(only_cookie, Some(5_234_164_152_756_840_025), "terminal needs a hash");
    }

    #[test]
    fn white_space_that_envoy_keeps_is_part_of_a_cookie() {
        let cookie = |text| key(r#"[{"cookie": {"name": "sid"}}]"#, vec![("cookie", text)]);
        assert_eq!(cookie("a=1;  sid=bar ; b"), Some(hash::bytes_hash(b"bar ")));
        assert_eq!(cookie("sid= bar"), Some(hash::bytes_hash(b" bar")));
        assert_eq!(cookie("sid =bar"), None);
        assert_eq!(cookie("a;\tsid=bar"), None);
    }

    #[test]
    fn every_value_of_a_header_counts_however_many_there_are() {
        let mut head = vec![("x-key", "a"); 40];
        let of_40 = key(&format!("[{HEADER}]"), head.clone());
        head.push(("x-key", "b"));
        assert_ne!(key(&format!("[{HEADER}]"), head.clone()), of_40);
        let mut values: Vec<&[u8]> = head.iter().map(|(_, value)| value.as_bytes()).collect();
        let expected = hash::header_values_hash(&mut values);
        assert_eq!(key(&format!("[{HEADER}]"), head), Some(expected));
    }

    #[test]
    fn source_ip_has_no_port_and_path_no_query() {
        let ip = r#"[{"connection_properties": {"source_ip": true}}]"#;
        assert_eq!(key(ip, vec![]), Some(hash::bytes_hash(b"::1")));
        let path = key(r#"[{"path": {}}]"#, vec![(":path", "/a?b=c")]);
        assert_eq!(path, Some(hash::bytes_hash(b"/a")));
    }
}

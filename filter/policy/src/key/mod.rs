//! What a request is hashed by ([`CompiledKey`]) and bound to ([`session`]).
//!
//! The head is bytes as the client sent them: nothing in it is valid text until proven. The key
//! follows Envoy's `source/common/http/hash_policy.cc`, so that a request lands where Envoy's own
//! `ring_hash` or `maglev` would put it. Of Envoy's sources only `filter_state` is missing: a
//! plugin cannot read other filters' objects.

mod cookie;
pub mod session;
#[cfg(test)]
mod tests;

pub use cookie::set_cookie;

use core::time::Duration;

use crate::config::{HashPolicy, HashSource};
use crate::hash;
use crate::rewrite::{Rewriter, WORK_BYTES_MAX};
use crate::rng::Rng;

/// Values of one header that are hashed: more than any Envoy lets through, which hashes them all.
const HASHED_VALUES_MAX: usize = 16_384;

/// Digits of a generated cookie's value.
const GENERATED_DIGITS: usize = 16;

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

/// What the policies made of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Key {
    /// The hash; nothing when no policy found anything.
    pub hash: Option<u64>,
    /// The cookies that the client has to get, for the hash to be the same next time.
    pub generated: Option<Generated>,
}

/// Cookies that were missing, and their value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Generated {
    value: u64,
    /// A bit for each policy, the first in the lowest.
    policies: u32,
}

/// A cluster's hash policies, compiled once: a request compiles nothing, and allocates only for
/// what is rewritten, generated, the client's address, or a header with several values.
#[derive(Clone, Debug, Default)]
pub struct CompiledKey {
    parts: Vec<Part>,
}

#[derive(Clone, Debug)]
struct Part {
    policy: HashPolicy,
    rewriter: Option<Rewriter>,
}

impl CompiledKey {
    /// Compiles `policies`. A rewrite that does not compile (the configuration refuses those) is
    /// left out.
    #[must_use]
    pub fn new(policies: &[HashPolicy]) -> Self {
        let part = |policy: &HashPolicy| {
            let rewriter = match &policy.source {
                HashSource::Header { rewrite: Some(rewrite), .. } => {
                    Rewriter::new(&rewrite.pattern, &rewrite.substitution).ok()
                }
                _ => None,
            };
            Part { policy: policy.clone(), rewriter }
        };
        Self { parts: policies.iter().map(part).collect() }
    }

    /// The key of a request by Envoy's combination rule. `source_address` writes the client's
    /// `ip:port` and is asked only when a policy needs it. `rng` makes the value of cookies that
    /// are missing, one for all of them, as in Envoy.
    pub fn of(
        &self,
        head: &impl Head,
        mut source_address: impl FnMut(&mut Vec<u8>) -> bool,
        rng: &mut impl Rng,
    ) -> Key {
        let mut key = Key::default();
        for (at, part) in (0_u32..).zip(&self.parts) {
            let found = match part.hash(head, &mut source_address) {
                None if part.generates() => Some(key.generate(at, rng)),
                found => found,
            };
            if let Some(found) = found {
                key.hash = Some(hash::combine(key.hash, found));
            }
            if part.policy.terminal && key.hash.is_some() {
                break;
            }
        }
        key
    }

    /// Calls `each` with the value of one `set-cookie` header for each generated cookie.
    pub fn set_cookies(&self, generated: Generated, mut each: impl FnMut(&[u8])) {
        let mut header = Vec::new();
        for (at, part) in (0_u32..).zip(&self.parts) {
            if generated.policies & bit(at) == 0 {
                continue;
            }
            if let HashSource::Cookie { name, ttl, path } = &part.policy.source {
                header.clear();
                let ttl = ttl.unwrap_or(Duration::ZERO);
                set_cookie(&mut header, name, &digits(generated.value), path, ttl);
                each(&header);
            }
        }
    }
}

impl Key {
    /// The hash of the generated value, noted for the policy in place `at`.
    fn generate(&mut self, at: u32, rng: &mut impl Rng) -> u64 {
        let empty = || Generated { value: rng.next_u64(), policies: 0 };
        let generated = self.generated.get_or_insert_with(empty);
        generated.policies |= bit(at);
        hash::bytes_hash(&digits(generated.value))
    }
}

impl Part {
    const fn generates(&self) -> bool {
        matches!(self.policy.source, HashSource::Cookie { ttl: Some(_), .. })
    }

    fn hash(
        &self,
        head: &impl Head,
        source_address: &mut impl FnMut(&mut Vec<u8>) -> bool,
    ) -> Option<u64> {
        match &self.policy.source {
            HashSource::Header { name, .. } => self.header_hash(name.as_bytes(), head),
            HashSource::Cookie { name, .. } => {
                let value = cookie::first(name.as_bytes(), head, Some)?;
                (!value.is_empty()).then(|| hash::bytes_hash(value))
            }
            HashSource::SourceIp => {
                let mut address = Vec::new();
                source_address(&mut address).then(|| hash::bytes_hash(without_port(&address)))
            }
            HashSource::Path => {
                let path = head.path();
                let path = path.split(|&b| b == b'?').next().unwrap_or(path);
                (!path.is_empty()).then(|| hash::bytes_hash(path))
            }
            HashSource::QueryParameter(name) => {
                query_parameter(head.path(), name.as_bytes()).map(hash::bytes_hash)
            }
        }
    }

    fn header_hash(&self, name: &[u8], head: &impl Head) -> Option<u64> {
        let some = |value| Some(value).filter(|value: &&[u8]| !value.is_empty());
        let (first, mut rest) = match name {
            b":path" => (some(head.path())?, Vec::new()),
            // Envoy keeps HTTP/1's `host` as `:authority`, and finds it by either name
            b":authority" | b"host" => (some(head.authority())?, Vec::new()),
            b":method" => (some(head.method())?, Vec::new()),
            name => values(name, head)?,
        };
        let rewritten = self.rewriter.as_ref().and_then(|by| rewritten_hash(by, first, &rest));
        if rewritten.is_some() {
            return rewritten;
        }
        if rest.is_empty() {
            return Some(hash::bytes_hash(first));
        }
        rest.push(first);
        Some(hash::header_values_hash(&mut rest))
    }
}

/// The first value of a header, and the others; one is the rule, and costs no allocation.
fn values<'a>(name: &[u8], head: &'a impl Head) -> Option<(&'a [u8], Vec<&'a [u8]>)> {
    let mut first = None;
    let mut rest = Vec::new();
    head.values(name, &mut |value| match first {
        None => first = Some(value),
        Some(_) if rest.len() < HASHED_VALUES_MAX => rest.push(value),
        Some(_) => {}
    });
    first.map(|first| (first, rest))
}

/// The hash of the rewritten values; nothing when that takes too much work, so that a
/// header is hashed either rewritten or as it came.
fn rewritten_hash(rewriter: &Rewriter, first: &[u8], rest: &[&[u8]]) -> Option<u64> {
    let mut budget = WORK_BYTES_MAX;
    let mut rewrite = |value: &[u8]| {
        let mut out = Vec::with_capacity(value.len());
        rewriter.rewrite(value, &mut budget, &mut out).map(|()| out)
    };
    let first = rewrite(first)?;
    if rest.is_empty() {
        return Some(hash::bytes_hash(&first));
    }
    let mut all = vec![first];
    for value in rest {
        all.push(rewrite(value)?);
    }
    let mut all: Vec<&[u8]> = all.iter().map(Vec::as_slice).collect();
    Some(hash::header_values_hash(&mut all))
}

/// The first value of the query parameter called `name`, both as written: Envoy decodes neither
/// (`QueryParamsMulti::parseQueryString`). A parameter without `=` has the empty value.
fn query_parameter<'a>(path: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let begin = path.iter().position(|&b| b == b'?')?;
    let query = path.get(begin.saturating_add(1)..)?;
    query.split(|&b| b == b'&').find_map(|pair| {
        let at = pair.iter().position(|&b| b == b'=').unwrap_or(pair.len());
        let (key, value) = pair.split_at_checked(at)?;
        (key == name).then(|| value.get(1..).unwrap_or_default())
    })
}

fn without_port(address: &[u8]) -> &[u8] {
    let end = address.iter().rposition(|&b| b == b':').unwrap_or(address.len());
    match address.get(..end).unwrap_or(address) {
        [b'[', inner @ .., b']'] => inner,
        ip => ip,
    }
}

/// The bit of the policy in place `at`; none beyond the word, which no configuration reaches.
const fn bit(at: u32) -> u32 {
    match 1_u32.checked_shl(at) {
        Some(bit) => bit,
        None => 0,
    }
}

/// A generated value as Envoy writes it: 16 digits of hexadecimal.
fn digits(value: u64) -> [u8; GENERATED_DIGITS] {
    let mut digits = [0; GENERATED_DIGITS];
    for (digit, at) in digits.iter_mut().rev().zip(0_u32..) {
        *digit = hex_digit(value >> (4 * at));
    }
    digits
}

/// The lowest four bits of `value`.
fn hex_digit(value: u64) -> u8 {
    let low = u8::try_from(value & 0xf).unwrap_or(0);
    if low < 10 { b'0' + low } else { b'a' + (low - 10) }
}

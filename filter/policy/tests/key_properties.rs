//! Properties of keys and sessions: whatever bytes a client sends, nothing traps, a key is what a
//! reference without any shortcut makes of it, and only a member's own token leads to it.
#![cfg(not(target_arch = "wasm32"))]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]

use std::time::Duration;

use outrigger_policy::config::{HashPolicy, HashSource, Rewrite};
use outrigger_policy::hash::xxh64;
use outrigger_policy::key::session::{Token, Tokens};
use outrigger_policy::key::{CompiledKey, Head};
use outrigger_policy::rewrite::{Rewriter, WORK_BYTES_MAX};
use outrigger_policy::rng::{Rng, SplitMix64};
use proptest::{collection::vec, prelude::*, sample::select};
use regex_lite::{Captures, Regex};

type Bytes = Vec<u8>;

/// Names that policies and heads choose from, so that they meet.
const NAMES: [&str; 3] = ["a", "b", "cookie"];

/// Patterns, and what replaces them: as groups of Envoy, and of the reference.
const REWRITES: [(&str, &str, &str); 8] = [
    ("a", "", ""),
    ("", "-", "-"),
    ("(a|b)*", r"<\0>", "<$0>"),
    (r"^.*=(\w+).*$", r"\1", "$1"),
    (r"(.)(=)?", r"\2\1", "$2$1"),
    (r"\b", r"\\", r"\"),
    ("[^a-z]+|a*?", "x", "x"),
    ("(?i)A|b{2}", r"\0\0", "$0$0"),
];

#[derive(Clone, Debug)]
struct Request {
    path: Bytes,
    address: Option<Bytes>,
    headers: Vec<(&'static str, Bytes)>,
}

impl Head for Request {
    fn method(&self) -> &[u8] {
        b"GET"
    }
    fn authority(&self) -> &[u8] {
        b""
    }
    fn path(&self) -> &[u8] {
        &self.path
    }
    fn request_id(&self) -> &[u8] {
        b""
    }
    fn values<'a>(&'a self, name: &[u8], each: &mut dyn FnMut(&'a [u8])) {
        for (_, value) in self.headers.iter().filter(|(key, _)| key.as_bytes() == name) {
            each(value);
        }
    }
}

fn key_of(policies: &[HashPolicy], request: &Request, seed: u64) -> outrigger_policy::key::Key {
    let from = |out: &mut Bytes| {
        out.extend(request.address.iter().flatten());
        request.address.is_some()
    };
    CompiledKey::new(policies).of(request, from, &mut SplitMix64::new(seed))
}

/// The key as Envoy's documentation and source say it, step by step. Nothing is generated but with
/// `seed`, and all that is generated has one value.
fn reference(policies: &[HashPolicy], request: &Request, seed: u64) -> Option<u64> {
    let mut key: Option<u64> = None;
    for policy in policies {
        let found = match &policy.source {
            HashSource::Header { name, rewrite } => header(name, rewrite.as_ref(), request),
            HashSource::Cookie { name, ttl, .. } => match (cookie(name, request), ttl) {
                (Some(value), _) => Some(xxh64(&value, 0)),
                (None, Some(_)) => {
                    let value = SplitMix64::new(seed).next_u64();
                    Some(xxh64(format!("{value:016x}").as_bytes(), 0))
                }
                (None, None) => None,
            },
            HashSource::SourceIp => request.address.as_ref().map(|address| {
                let mut ip = address.clone();
                if let Some(colon) = ip.iter().rposition(|&byte| byte == b':') {
                    ip.truncate(colon);
                }
                if ip.len() > 1 && ip[0] == b'[' && ip[ip.len() - 1] == b']' {
                    ip = ip[1..ip.len() - 1].to_vec();
                }
                xxh64(&ip, 0)
            }),
            HashSource::Path => {
                let path: Bytes = request.path.iter().copied().take_while(|&b| b != b'?').collect();
                (!path.is_empty()).then(|| xxh64(&path, 0))
            }
            HashSource::QueryParameter(name) => query(name, request).map(|v| xxh64(&v, 0)),
        };
        key = match (key, found) {
            (Some(key), Some(found)) => Some(key.rotate_left(1) ^ found),
            (key, found) => found.or(key),
        };
        if policy.terminal && key.is_some() {
            return key;
        }
    }
    key
}

fn header(name: &str, rewrite: Option<&Rewrite>, request: &Request) -> Option<u64> {
    let named = request.headers.iter().filter(|(key, _)| *key == name);
    let mut values: Vec<Bytes> = named.map(|(_, value)| value.clone()).collect();
    if name == ":path" && !request.path.is_empty() {
        values = vec![request.path.clone()];
    }
    if values.is_empty() {
        return None;
    }
    if let Some(rewrite) = rewrite {
        let (_, _, template) = REWRITES.iter().find(|(p, ..)| p == &rewrite.pattern).unwrap();
        let regex = Regex::new(&rewrite.pattern).unwrap();
        for value in &mut values {
            let text: String = value.iter().map(|&byte| char::from(byte)).collect();
            let expand = |groups: &Captures<'_>| {
                let mut out = String::new();
                groups.expand(template, &mut out);
                out
            };
            let replaced = regex.replace_all(&text, expand);
            *value = replaced.chars().map(|character| u8::try_from(character).unwrap()).collect();
        }
    }
    values.sort();
    Some(values.iter().fold(0, |seed, value| xxh64(value, seed)))
}

/// The first cookie of the name, if it has a value.
fn cookie(name: &str, request: &Request) -> Option<Bytes> {
    let headers = request.headers.iter().filter(|(key, _)| *key == "cookie");
    let pairs = headers.flat_map(|(_, value)| value.split(|&byte| byte == b';'));
    for pair in pairs {
        let Some(equals) = pair.iter().position(|&byte| byte == b'=') else { continue };
        let key: Bytes = pair[..equals].iter().copied().skip_while(|&b| b == b' ').collect();
        if key == name.as_bytes() {
            let mut value = pair[equals + 1..].to_vec();
            if value.len() >= 2 && value[0] == b'"' && value[value.len() - 1] == b'"' {
                value = value[1..value.len() - 1].to_vec();
            }
            return Some(value).filter(|value| !value.is_empty());
        }
    }
    None
}

fn query(name: &str, request: &Request) -> Option<Bytes> {
    let mut parts = request.path.splitn(2, |&byte| byte == b'?');
    let query = parts.nth(1)?;
    for pair in query.split(|&byte| byte == b'&') {
        let mut sides = pair.splitn(2, |&byte| byte == b'=');
        if sides.next() == Some(name.as_bytes()) {
            return Some(sides.next().unwrap_or_default().to_vec());
        }
    }
    None
}

/// Bytes of a few kinds that mean something, and any others.
fn hostile() -> impl Strategy<Value = Bytes> {
    let meaningful = select(b"ab=;&? \"\t:[]\\%\xff\xc3\xa9".to_vec());
    prop_oneof![4 => vec(meaningful, 0..24), 1 => vec(any::<u8>(), 0..40)]
}

/// Pairs of names that are looked for, so that a name occurs more than once.
fn pairs(separator: &'static [u8]) -> impl Strategy<Value = Bytes> {
    let pair = (select(NAMES.to_vec()), select(vec!["", "=", "=1", "=\"2\"", " =3", "==4"]));
    let pair = pair.prop_map(|(name, value)| [name.as_bytes(), value.as_bytes()].concat());
    vec(pair, 0..5).prop_map(move |pairs| pairs.join(separator))
}

fn request() -> impl Strategy<Value = Request> {
    let value = prop_oneof![3 => hostile(), 1 => pairs(b"; ")];
    let headers = vec((select(NAMES.to_vec()), value), 0..6);
    let query = prop_oneof![hostile(), pairs(b"&")];
    let path = prop_oneof![hostile(), query.prop_map(|query| [b"/a?", &*query].concat())];
    let head = (path, prop::option::of(hostile()), headers);
    head.prop_map(|(path, address, headers)| Request { path, address, headers })
}

fn policies() -> impl Strategy<Value = Vec<HashPolicy>> {
    let name = || select(vec!["a", "b", "cookie", ":path"]).prop_map(str::to_owned);
    let rewrite = prop::option::of(select(REWRITES.to_vec()).prop_map(|(pattern, with, _)| {
        Rewrite { pattern: pattern.to_owned(), substitution: with.to_owned() }
    }));
    let ttl = prop::option::of((0..9_u64).prop_map(Duration::from_secs));
    let source = prop_oneof![
        3 => (name(), rewrite).prop_map(|(name, rewrite)| HashSource::Header { name, rewrite }),
        2 => (name(), ttl, Just(String::new()))
            .prop_map(|(name, ttl, path)| HashSource::Cookie { name, ttl, path }),
        1 => Just(HashSource::SourceIp),
        1 => Just(HashSource::Path),
        2 => name().prop_map(HashSource::QueryParameter),
    ];
    let policy = (source, prop::bool::weighted(0.2));
    vec(policy.prop_map(|(source, terminal)| HashPolicy { source, terminal }), 0..5)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn a_key_is_what_the_reference_makes_of_the_request(
        policies in policies(), request in request(), seed in any::<u64>(),
    ) {
        let key = key_of(&policies, &request, seed);
        prop_assert_eq!(key.hash, reference(&policies, &request, seed));
    }

    #[test]
    fn a_client_that_takes_its_cookies_keeps_its_key(
        mut policies in policies(), request in request(), seeds in any::<[u64; 2]>(),
    ) {
        // whoever reads cookies generates them, or a new cookie would change what others read
        policies.retain_mut(|policy| match &mut policy.source {
            HashSource::Cookie { ttl, .. } => {
                *ttl = Some(Duration::ZERO);
                true
            }
            HashSource::Header { name, .. } => name != "cookie",
            _ => true,
        });
        let first = key_of(&policies, &request, seeds[0]);
        let mut next = request;
        if let Some(generated) = first.generated {
            let mut cookies = 0;
            let headers = &mut next.headers;
            CompiledKey::new(&policies).set_cookies(generated, |header| {
                cookies += 1;
                // in front: what a client holds of an empty cookie is replaced by the new one
                let pair = header.split(|&b| b == b';').next().unwrap().to_vec();
                headers.insert(0, ("cookie", pair));
            });
            prop_assert!(cookies > 0);
        }
        let second = key_of(&policies, &next, seeds[1]);
        prop_assert_eq!((second.hash, second.generated), (first.hash, None));
    }

    #[test]
    fn rewriting_is_bounded_and_never_traps(
        pattern in "[ab.*+?|()\\[\\]^$\\\\dwb{}0-9,-]{0,12}",
        substitution in "[ab\\\\0-3]{0,6}",
        value in vec(any::<u8>(), 0..600),
    ) {
        let Ok(rewriter) = Rewriter::new(&pattern, &substitution) else { return Ok(()) };
        let (mut budget, mut out) = (WORK_BYTES_MAX, Vec::new());
        let done = rewriter.rewrite(&value, &mut budget, &mut out);
        prop_assert!(out.len() + budget <= WORK_BYTES_MAX);
        prop_assert!(done.is_some() || value.len() > 50, "{} bytes are few", value.len());
    }

    #[test]
    fn only_the_token_of_a_member_leads_to_it(
        members in prop::collection::hash_set("[0-9.:]{0,20}", 1..20),
        cookie in prop_oneof![hostile(), "1[0-9a-f]{32}".prop_map(String::into_bytes)],
        other in "[0-9.:]{0,20}",
    ) {
        let members: Vec<&str> = members.iter().map(String::as_str).collect();
        let mut tokens = Tokens::new("secret", "backend");
        tokens.rebuild(members.iter().copied());
        for (place, address) in (0_u32..).zip(&members) {
            let mut text = b"a=b; sid=".to_vec();
            tokens.token(address).render(&mut text);
            let bound = Request { path: vec![], address: None, headers: vec![("cookie", text)] };
            prop_assert_eq!(tokens.bound_to("sid", &bound), Some(place));
        }
        let there = members.iter().position(|&member| member == other);
        let found = tokens.place(tokens.token(&other)).map(|place| place as usize);
        prop_assert_eq!(found, there);
        if let Some(token) = Token::parse(&cookie) {
            let mut text = Vec::new();
            token.render(&mut text);
            prop_assert_eq!(&text, &cookie, "one spelling for each token");
            prop_assert_eq!(tokens.place(token), None);
        }
        let text = [b"sid=", &*cookie].concat();
        let bound = Request { path: vec![], address: None, headers: vec![("cookie", text)] };
        prop_assert_eq!(tokens.bound_to("sid", &bound), None);
    }
}

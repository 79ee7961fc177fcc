//! Keys made of rewritten headers, query parameters and cookies are those that Envoy makes.
//!
//! `support/placement.rs` says how the two are compared.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a test")]

mod support;

use serde_json::{Value, json};
use support::placement::Case;
use support::wire;

const KEYS: usize = 500;

fn expect(name: &'static str, hash_policy: Value) -> Case {
    Case { hash_policy, ..Case::maglev(name, &[1; 5]) }
}

fn rewritten(name: &str, regex: &str, substitution: &str) -> Value {
    let rewrite = json!({"pattern": {"regex": regex}, "substitution": substitution});
    json!({"header": {"header_name": name, "regex_rewrite": rewrite}})
}

/// The path, last: without any key Envoy would choose at random.
fn path() -> Value {
    json!({"header": {"header_name": ":path"}})
}

fn header(name: &str, value: String) -> (String, String) {
    (name.to_owned(), value)
}

/// Each pattern gets a header of its own, so that one pair of Envoys compares them all.
#[tokio::test]
async fn rewritten_headers_are_keys_as_in_envoy() {
    let patterns = [
        (r"^.*user=(\d+).*$", r"\1"),
        (r"^/(\w+)/([^/?]*).*", r"\2-\1"),
        (r"[aeiou]", ""),
        (r"b*", "-"),
        (r"x*?", "."),
        (r"(\d)|([a-z])", r"<\2\1>"),
        (r"\b", r"\\"),
        (r"a|ab|abc", r"\0\0"),
        (r"(?i)USER=", ""),
        (r"[^[:alnum:]]+", "_"),
        (r"\d+?", "n"),
        (r"(?:user|key)=(\w{1,3})", r"\1"),
        (r"$", "end"),
        (r"é|[à-ü]", "e"),
        (r".", r"\0,"),
    ];
    let name = |at: usize| format!("x-{at}");
    let mut policies: Vec<Value> = (0..)
        .zip(patterns)
        .map(|(at, (regex, substitution))| rewritten(&name(at), regex, substitution))
        .collect();
    policies.push(rewritten(":path", r"^/([^?]*).*$", r"\1"));
    let mut requests = Vec::new();
    for n in 0..KEYS.div_ceil(patterns.len()) {
        for at in 0..patterns.len() {
            let value = match n % 5 {
                0 => format!("user={n};abba=2"),
                1 => format!("/orders{n}/abc?user=x"),
                2 => format!("Key=ab{n}c ééà bb"),
                3 => format!("{n}bbb, {n}aab"),
                _ => format!("User=é{n}"),
            };
            let mut headers = vec![header(&name(at), value)];
            if n % 3 == 0 {
                headers.push(header(&name(at), format!("user={};b", n / 2)));
            }
            requests.push(wire::get(&format!("/p{}?{n}", n / 2), &headers));
        }
    }
    for at in 0..patterns.len() {
        let text = wire::get("/", &[header(&name(at), format!("caf?{at}"))]);
        // no UTF-8
        requests.push(text.iter().map(|&byte| if byte == b'?' { 0xe9 } else { byte }).collect());
    }
    requests.push(wire::get("/", &[header(&name(3), String::new())]));
    expect("rewritten headers", json!(policies)).expect_equal(&requests).await;
}

#[tokio::test]
async fn query_parameters_are_keys_as_in_envoy() {
    let policy = json!([{"query_parameter": {"name": "k"}, "terminal": true}, path()]);
    let request = |n: usize| {
        let path = match n % 12 {
            0 => format!("/?k=v{n}"),
            1 => format!("/a/b?j=1&k=v{n}&l=2"),
            2 => format!("/?k=v{n}&k=v{}", n + 1),
            3 => format!("/?k=%66{n}%2B+"),
            4 => format!("/?k=a=b?{n}&"),
            5 => format!("/{n}?k"),
            6 => format!("/{n}?k=&k=v{n}"),
            7 => format!("/{n}?K=v{n}"),
            8 => format!("/{n}?%6b=v{n}"),
            9 => format!("/{n}?kk=1&&=&ak=2"),
            10 => format!("/k={n}"),
            _ => format!("/{n}?&;k=1?k=v{n}"),
        };
        wire::get(&path, &[])
    };
    let requests: Vec<_> = (0..KEYS).map(request).collect();
    expect("query parameter", policy).expect_equal(&requests).await;
}

/// What a cookie is when it is there does not depend on whether it would be generated.
#[tokio::test]
async fn cookies_that_would_be_generated_are_keys_as_in_envoy_when_they_are_there() {
    let policy = json!([{"cookie": {"name": "sid", "ttl": "3600s", "path": "/"}}]);
    let request = |n| wire::get("/", &[header("cookie", format!("a=1; sid=\"s{n}\""))]);
    let requests: Vec<_> = (0..KEYS).map(request).collect();
    expect("cookie with ttl", policy).expect_equal(&requests).await;
}

/// Envoy keeps HTTP/1's `host` as `:authority` and finds it by either name.
#[tokio::test]
async fn the_host_header_is_the_authority_as_in_envoy() {
    let policy = json!([rewritten("host", r"^([^.]+)\..*$", r"\1")]);
    let request = |n| {
        let text = String::from_utf8(wire::get("/", &[])).unwrap();
        text.replacen("host: rig", &format!("host: tenant{n}.rig"), 1).into_bytes()
    };
    let requests: Vec<_> = (0..KEYS).map(request).collect();
    expect("host", policy).expect_equal(&requests).await;
}

#[tokio::test]
async fn keys_of_several_sources_combine_as_in_envoy() {
    let mut random = fastrand::Rng::with_seed(11);
    for (name, policy) in [
        (
            "rewritten header + query parameter",
            json!([rewritten("x-key", r"^k(\d).*$", r"\1"), {"query_parameter": {"name": "k"}}]),
        ),
        (
            "query parameter, terminal; rewritten header + cookie + path",
            json!([
                {"query_parameter": {"name": "k"}, "terminal": true},
                rewritten("x-key", r"\d", ""), {"cookie": {"name": "sid"}}, path(),
            ]),
        ),
    ] {
        let requests: Vec<_> = (0..KEYS)
            .map(|n| {
                let mut headers = vec![header("x-key", format!("k{}-{}", n % 7, n % 11))];
                for _ in 0..random.usize(0..3) {
                    headers.push(header("cookie", format!("sid=c{}", random.u32(..50))));
                }
                let query = if random.bool() { "k" } else { "q" };
                wire::get(&format!("/{n}?{query}={}", random.u32(..50)), &headers)
            })
            .collect();
        expect(name, policy).expect_equal(&requests).await;
    }
}

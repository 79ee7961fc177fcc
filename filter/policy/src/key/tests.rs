//! What the policies make of a request.

use super::*;
use crate::config::Rewrite;
use crate::rng::SplitMix64;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

/// A head of these headers.
pub(super) struct Fixed<'a>(pub(super) Vec<(&'a str, &'a str)>);

impl Fixed<'_> {
    fn first(&self, name: &str) -> &[u8] {
        self.0.iter().find(|(n, _)| *n == name).map_or(b"", |(_, v)| v.as_bytes())
    }
}

impl Head for Fixed<'_> {
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

fn rng() -> SplitMix64 {
    SplitMix64::new(1)
}

fn of(policies: &[HashPolicy], head: &[(&str, &str)]) -> Key {
    let from = |address: &mut Vec<u8>| {
        address.extend_from_slice(b"[::1]:4242");
        true
    };
    CompiledKey::new(policies).of(&Fixed(head.to_vec()), from, &mut rng())
}

fn key(policies: &[HashPolicy], head: &[(&str, &str)]) -> Option<u64> {
    of(policies, head).hash
}

fn policy(source: HashSource) -> HashPolicy {
    HashPolicy { source, terminal: false }
}

fn terminal(policy: HashPolicy) -> HashPolicy {
    HashPolicy { terminal: true, ..policy }
}

fn header(name: &str) -> HashPolicy {
    policy(HashSource::Header { name: name.into(), rewrite: None })
}

fn rewritten(name: &str, pattern: &str, substitution: &str) -> HashPolicy {
    let rewrite = Rewrite { pattern: pattern.into(), substitution: substitution.into() };
    policy(HashSource::Header { name: name.into(), rewrite: Some(rewrite) })
}

fn cookie(name: &str) -> HashPolicy {
    policy(HashSource::Cookie { name: name.into(), ttl: None, path: String::new() })
}

fn generated(name: &str, ttl_s: u64) -> HashPolicy {
    let ttl = Some(Duration::from_secs(ttl_s));
    policy(HashSource::Cookie { name: name.into(), ttl, path: "/p".into() })
}

fn query(name: &str) -> HashPolicy {
    policy(HashSource::QueryParameter(name.into()))
}

fn hashed(value: &str) -> Option<u64> {
    Some(hash::bytes_hash(value.as_bytes()))
}

/// Published by Envoy's tests.
const FOO: u64 = 3_728_699_739_546_630_719;
const BAR: u64 = 5_234_164_152_756_840_025;

#[test]
fn a_header_gives_the_hash_of_its_value_and_its_absence_gives_none() {
    assert_eq!(key(&[header("x-key")], &[("x-key", "foo")]), Some(FOO));
    assert_eq!(key(&[header("x-key")], &[("x-key", "")]), hashed(""));
    assert_eq!(key(&[header("x-key")], &[("y", "foo")]), None);
}

#[test]
fn pseudo_headers_are_headers_and_host_is_the_authority() {
    let head = [(":path", "/a?b"), (":authority", "a.b"), (":method", "GET"), (":scheme", "http")];
    for (name, value) in [
        (":path", "/a?b"),
        (":authority", "a.b"),
        ("host", "a.b"),
        (":method", "GET"),
        (":scheme", "http"),
    ] {
        assert_eq!(key(&[header(name)], &head), hashed(value), "{name}");
        assert_eq!(key(&[header(name)], &[]), None, "{name}");
    }
    let tenant = rewritten(":path", r"^/(\w+).*$", r"\1");
    assert_eq!(key(&[tenant], &head), hashed("a"));
}

#[test]
fn parts_combine_in_order_and_a_terminal_one_ends_it() {
    let head = [("x-key", "foo"), ("cookie", "a=1; sid=\"bar\"")];
    let both = key(&[header("x-key"), cookie("sid")], &head);
    assert_eq!(both, Some(FOO.rotate_left(1) ^ BAR));
    let ended = [terminal(header("x-key")), cookie("sid")];
    assert_eq!(key(&ended, &head), Some(FOO));
    assert_eq!(key(&ended, &[("cookie", "sid=bar")]), Some(BAR), "terminal needs a hash");
    let absent = [header("x-key"), terminal(cookie("sid")), header(":path")];
    let head = [("x-key", "foo"), (":path", "/")];
    assert_eq!(key(&absent, &head), Some(FOO), "an earlier hash is enough");
}

#[test]
fn white_space_that_envoy_keeps_is_part_of_a_cookie() {
    let of = |text| key(&[cookie("sid")], &[("cookie", text)]);
    assert_eq!(of("a=1;  sid=bar ; b"), hashed("bar "));
    assert_eq!(of("sid= bar"), hashed(" bar"));
    assert_eq!(of("sid =bar"), None);
    assert_eq!(of("a;\tsid=bar"), None);
}

#[test]
fn only_the_first_cookie_of_a_name_counts_even_when_it_is_empty() {
    let of = |cookies: [&str; 2]| key(&[cookie("sid")], &cookies.map(|c| ("cookie", c)));
    assert_eq!(of(["sid=foo; sid=bar", "sid=baz"]), Some(FOO));
    assert_eq!(of(["a=1", "sid=bar"]), Some(BAR));
    assert_eq!(of(["sid=; sid=foo", "sid=bar"]), None);
    assert_eq!(of(["sid=\"\"", "sid=bar"]), None);
    assert_eq!(of(["sid=\"", "sid=bar"]), hashed("\""), "one quote is not around anything");
}

#[test]
fn every_value_of_a_header_counts_however_many_there_are() {
    let mut head = vec![("x-key", "a"); 40];
    let of_40 = key(&[header("x-key")], &head);
    head.push(("x-key", "b"));
    assert_ne!(key(&[header("x-key")], &head), of_40);
    let mut values: Vec<&[u8]> = head.iter().map(|(_, value)| value.as_bytes()).collect();
    let expected = hash::header_values_hash(&mut values);
    assert_eq!(key(&[header("x-key")], &head), Some(expected));
}

#[test]
fn source_ip_has_no_port_and_path_no_query() {
    assert_eq!(key(&[policy(HashSource::SourceIp)], &[]), hashed("::1"));
    let path = [policy(HashSource::Path)];
    assert_eq!(key(&path, &[(":path", "/a?b=c")]), hashed("/a"));
    assert_eq!(key(&path, &[(":path", "?b=c")]), None);
}

#[test]
fn an_unknown_source_address_gives_no_hash_and_is_asked_for_only_when_needed() {
    let with = |policies: &[HashPolicy], asked: &mut u32| {
        let from = |_: &mut Vec<u8>| {
            *asked += 1;
            false
        };
        CompiledKey::new(policies).of(&Fixed(vec![("x-key", "foo")]), from, &mut rng()).hash
    };
    let ip = || policy(HashSource::SourceIp);
    let mut asked = 0;
    assert_eq!(with(&[terminal(header("x-key")), ip()], &mut asked), Some(FOO));
    assert_eq!(asked, 0);
    assert_eq!(with(&[ip()], &mut asked), None);
    assert_eq!(asked, 1);
}

#[test]
fn each_value_of_a_header_is_rewritten_before_they_are_sorted() {
    let user = || rewritten("x-key", r"^.*user=(\d+).*$", r"\1");
    assert_eq!(key(&[user()], &[("x-key", "a;user=42;b")]), hashed("42"));
    assert_eq!(key(&[user()], &[("x-key", "nobody")]), hashed("nobody"));
    assert_eq!(key(&[user()], &[]), None);
    // sorted as they come they would be the other way round
    let head = [("x-key", "a;user=9"), ("x-key", "b;user=1")];
    let expected = hash::header_values_hash(&mut [b"1", b"9"]);
    assert_eq!(key(&[user()], &head), Some(expected));
    assert_eq!(key(&[rewritten("x-key", "foo", "")], &[("x-key", "foo")]), hashed(""));
}

#[test]
fn a_header_of_which_one_value_is_too_much_work_is_hashed_as_it_came() {
    let dear = "a".repeat(4096);
    let head = [("x-key", "ab"), ("x-key", dear.as_str())];
    let policies = [rewritten("x-key", "a[^z]*z|a", "-")];
    let expected = hash::header_values_hash(&mut [b"ab", dear.as_bytes()]);
    assert_eq!(key(&policies, &head), Some(expected));
    assert_eq!(key(&policies, &head[..1]), hashed("-b"));
    let broken = [rewritten("x-key", "(", "")];
    assert_eq!(key(&broken, &head[..1]), hashed("ab"));
}

#[test]
fn the_values_of_one_header_share_one_allowance() {
    let value = "a".repeat(400);
    let policies = [rewritten("x-key", ".", "-")];
    assert_eq!(key(&policies, &[("x-key", &value)]), hashed(&"-".repeat(400)));
    let two = [("x-key", value.as_str()); 2];
    let expected = hash::header_values_hash(&mut [value.as_bytes(); 2]);
    assert_eq!(key(&policies, &two), Some(expected));
}

#[test]
fn the_first_value_of_a_query_parameter_counts_as_written() {
    let of = |path| key(&[query("k")], &[(":path", path)]);
    assert_eq!(of("/?k=foo"), Some(FOO));
    assert_eq!(of("/a?j=1&k=foo&k=bar"), Some(FOO));
    assert_eq!(of("/?k=%66oo+"), hashed("%66oo+"));
    assert_eq!(of("/?k=a=b?c"), hashed("a=b?c"));
    for empty in ["/?k", "/?k=", "/?k&k=foo", "/?&k&"] {
        assert_eq!(of(empty), hashed(""), "{empty}");
    }
    for absent in ["/", "/?", "/k=foo", "/?K=foo", "/?kk=foo", "/?%6b=foo", "/? k=foo", ""] {
        assert_eq!(of(absent), None, "{absent}");
    }
}

#[test]
fn a_missing_cookie_is_generated_hashed_and_offered_for_the_response() {
    let policies = [header("x-key"), generated("sid", 90), generated("tid", 0)];
    let made = of(&policies, &[("cookie", "tid=")]);
    let compiled = CompiledKey::new(&policies);
    let mut headers = Vec::new();
    compiled.set_cookies(made.generated.unwrap(), |header| {
        headers.push(String::from_utf8(header.to_vec()).unwrap());
    });
    let value = format!("{:016x}", rng().next_u64());
    let expected = [
        format!("sid=\"{value}\"; Max-Age=90; Path=/p; HttpOnly"),
        format!("tid=\"{value}\"; Path=/p; HttpOnly"),
    ];
    assert_eq!(headers, expected);

    let cookies = format!("sid={value}; tid={value}");
    let next = of(&policies, &[("cookie", &cookies)]);
    assert_eq!(next, Key { hash: made.hash, generated: None }, "the next request goes there too");
}

#[test]
fn only_missing_cookies_are_generated_and_none_after_a_terminal_hash() {
    let names = |made: Key, policies: &[HashPolicy]| {
        let mut names = Vec::new();
        if let Some(generated) = made.generated {
            CompiledKey::new(policies).set_cookies(generated, |header| {
                names.push(header[..3].to_vec());
            });
        }
        names
    };
    let policies = [generated("sid", 1), generated("tid", 1), cookie("uid")];
    let made = of(&policies, &[("cookie", "sid=foo")]);
    assert_eq!(names(made, &policies), [b"tid"]);
    let policies = [terminal(generated("sid", 1)), generated("tid", 1)];
    assert_eq!(names(of(&policies, &[]), &policies), [b"sid"]);
    let policies = [terminal(header("x-key")), generated("tid", 1)];
    assert_eq!(of(&policies, &[("x-key", "foo")]).generated, None);
}

//! The same key lands on the same endpoint in plain Envoy and through the plugin.
//!
//! `support/placement.rs` says how the two are compared; `hash_policy.rs` has the keys that are
//! made of something.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a test")]

mod support;

use serde_json::json;
use support::placement::Case;
use support::wire;

/// How many keys the bar names.
const KEYS: usize = 10_000;

fn keys(count: usize) -> Vec<Vec<u8>> {
    let request = |n| wire::get("/", &[("x-key".to_owned(), format!("key-{n}"))]);
    (0..count).map(request).collect()
}

#[tokio::test]
async fn ten_thousand_keys_over_weights_1_to_5_land_as_in_envoys_maglev() {
    Case::maglev("maglev, weights 1..5", &[1, 2, 3, 4, 5]).expect_equal(&keys(KEYS)).await;
}

#[tokio::test]
async fn ten_thousand_keys_over_weights_1_to_5_land_as_in_envoys_ring_hash() {
    Case::ring_hash("ring_hash, weights 1..5", &[1, 2, 3, 4, 5]).expect_equal(&keys(KEYS)).await;
}

#[tokio::test]
async fn ten_thousand_keys_over_seven_equal_endpoints_land_as_in_envoys_maglev() {
    Case::maglev("maglev, 7 equal", &[1; 7]).expect_equal(&keys(KEYS)).await;
}

#[tokio::test]
async fn ten_thousand_keys_over_seven_equal_endpoints_land_as_in_envoys_ring_hash() {
    Case::ring_hash("ring_hash, 7 equal", &[1; 7]).expect_equal(&keys(KEYS)).await;
}

#[tokio::test]
async fn murmur_hash_2_and_other_ring_sizes_place_as_in_envoy() {
    let case = Case {
        lb_policy: json!({"ring_hash": {
            "hash_function": "murmur_hash_2", "minimum_ring_size": 333, "maximum_ring_size": 500,
        }}),
        native: concat!(
            r#""hash_function":"MURMUR_HASH_2","#,
            r#""minimum_ring_size":333,"maximum_ring_size":500"#,
        ),
        ..Case::ring_hash("ring_hash, murmur_hash_2, 333..500", &[5, 1, 4, 2, 3])
    };
    case.expect_equal(&keys(2000)).await;
}

#[tokio::test]
async fn another_maglev_table_size_places_as_in_envoy() {
    let case = Case {
        lb_policy: json!({"maglev": {"table_size": 1009}}),
        native: r#""table_size":1009"#,
        ..Case::maglev("maglev, table_size 1009", &[1, 2, 3, 4, 5])
    };
    case.expect_equal(&keys(2000)).await;
}

/// With nothing else in flight everybody has room.
#[tokio::test]
async fn without_load_a_bounded_maglev_places_as_envoys_does() {
    let case = Case::maglev("bounded maglev, weights 1..5", &[1, 2, 3, 4, 5]).bounded();
    case.expect_equal(&keys(2000)).await;
}

#[tokio::test]
async fn without_load_a_bounded_ring_hash_places_as_envoys_does() {
    let case = Case::ring_hash("bounded ring_hash, weights 1..5", &[1, 2, 3, 4, 5]).bounded();
    case.expect_equal(&keys(2000)).await;
}

#[tokio::test]
async fn a_retry_goes_where_envoys_maglev_would_send_it() {
    let case = Case::maglev("maglev, retries", &[1, 2, 3, 4, 5]);
    Case { alone: true, ..case }.expect_equal_second_choices(&keys(2000)).await;
}

#[tokio::test]
async fn a_retry_goes_where_envoys_ring_hash_would_send_it() {
    let case = Case::ring_hash("ring_hash, retries", &[1, 2, 3, 4, 5]);
    Case { alone: true, ..case }.expect_equal_second_choices(&keys(2000)).await;
}

#[tokio::test]
async fn a_retry_goes_where_envoys_bounded_maglev_would_send_it() {
    let case = Case::maglev("bounded maglev, retries", &[1, 2, 3, 4, 5]).bounded();
    case.expect_equal_second_choices(&keys(2000)).await;
}

#[tokio::test]
async fn cookies_in_every_spelling_are_keys_as_in_envoy() {
    let case = Case {
        // the path is always there: without any key Envoy would choose at random
        hash_policy: json!([
            {"cookie": {"name": "sid"}, "terminal": true}, {"header": {"header_name": ":path"}},
        ]),
        ..Case::maglev("cookies", &[1; 5])
    };
    let mut requests = Vec::new();
    for n in 0..150 {
        for cookies in [
            vec![format!("sid=s{n}")],
            vec![format!("a=1; sid=s{n}; b=2")],
            vec![format!("a=1;sid=\"s{n}\";b=2")],
            vec![format!("sid=s{n} ; b=2")],
            vec![format!("sid= s{n}")],
            vec![format!("sid =s{n}")],
            vec![format!("a;sid=s{n}=x=;")],
            vec![format!("sid=\"s{n}")],
            vec![format!("x=1;\tsid=s{n}")],
            vec![format!("sid=; sid=s{n}")],
            vec!["sid=\"\"".to_owned(), format!("sid=s{n}")],
            vec!["a=1".to_owned(), format!("b=2; sid=s{n}"), "sid=other".to_owned()],
            vec![format!("SID=s{n}; xsid=1"), ";;; =; \"".to_owned()],
        ] {
            let headers: Vec<_> = cookies.into_iter().map(|c| ("cookie".to_owned(), c)).collect();
            requests.push(wire::get(&format!("/{n}"), &headers));
        }
    }
    case.expect_equal(&requests).await;
}

#[tokio::test]
async fn source_addresses_are_keys_as_in_envoy() {
    let case = Case {
        hash_policy: json!([{"connection_properties": {"source_ip": true}}]),
        ..Case::maglev("source_ip", &[1; 5])
    };
    // Envoy takes the last of x-forwarded-for for the client's address unless told otherwise.
    let forwarded = |n: usize| match n % 4 {
        0 => format!("10.1.{}.{}", n / 256, n % 256),
        1 => format!("1.2.3.4, 192.0.2.{}", n % 256),
        2 => format!("2001:DB8:0:0:0::{n:x}"),
        _ => format!("::ffff:10.0.{}.{}", n / 256, n % 256),
    };
    let request = |n| wire::get("/", &[("x-forwarded-for".to_owned(), forwarded(n))]);
    case.expect_equal(&(0..1000).map(request).collect::<Vec<_>>()).await;
}

#[tokio::test]
async fn several_values_of_a_header_make_one_key_as_in_envoy() {
    let case = Case::maglev("header values", &[1; 5]);
    let mut requests = Vec::new();
    for n in 0..200 {
        for values in [
            vec![format!("a{n}"), format!("b{n}")],
            vec![format!("b{n}"), format!("a{n}")],
            vec![format!("a{n}"), format!("a{n}")],
            vec![format!("a{n}, b{n}")],
            vec![format!("a{n}"), String::new()],
            vec![format!("z{n}"), "m".to_owned(), format!("a{n}"), "~".to_owned()],
            (0..16).map(|i| format!("{}-{n}", i * 7 % 16)).collect(),
            (0..40).map(|i| format!("{}-{n}", i * 7 % 40)).collect(),
        ] {
            let headers: Vec<_> = values.into_iter().map(|v| ("X-Key".to_owned(), v)).collect();
            requests.push(wire::get("/", &headers));
        }
    }
    requests.push(wire::get("/", &[("x-key".to_owned(), String::new())]));
    case.expect_equal(&requests).await;
}

#[tokio::test]
async fn combined_hash_policies_and_terminal_ones_place_as_in_envoy() {
    let mut random = fastrand::Rng::with_seed(7);
    for (name, hash_policy) in [
        (
            "header + cookie + path",
            json!([
                {"header": {"header_name": "x-key"}}, {"cookie": {"name": "sid"}},
                {"header": {"header_name": ":path"}},
            ]),
        ),
        (
            "terminal header, terminal cookie, then the rest",
            json!([
                {"header": {"header_name": "x-key"}, "terminal": true},
                {"header": {"header_name": ":method"}},
                {"cookie": {"name": "sid"}, "terminal": true},
                {"connection_properties": {"source_ip": true}},
                {"header": {"header_name": ":authority"}}, {"header": {"header_name": ":path"}},
            ]),
        ),
    ] {
        let case = Case { hash_policy, ..Case::ring_hash(name, &[3, 1, 2, 2]) };
        let requests: Vec<_> = (0..1000)
            .map(|n| {
                let mut headers = Vec::new();
                for _ in 0..random.usize(0..3) {
                    headers.push(("x-key".to_owned(), format!("k{}", random.u32(..50))));
                }
                for _ in 0..random.usize(0..3) {
                    headers.push(("cookie".to_owned(), format!("sid=c{}", random.u32(..50))));
                }
                if random.bool() {
                    let address = format!("192.0.2.{}", random.u8(..));
                    headers.push(("x-forwarded-for".to_owned(), address));
                }
                wire::get(&format!("/{n}?q={}", random.u32(..9)), &headers)
            })
            .collect();
        case.expect_equal(&requests).await;
    }
}

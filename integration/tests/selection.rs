//! Which endpoints serve, and how often each: every policy, priorities, zones, subsets; where Envoy
//! has the same, beside plain Envoy.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a test")]

mod support;

use std::net::SocketAddr;

use integration::bootstrap::{Endpoint, Flavour};
use integration::harness::{Builder, Harness};
use integration::upstream::fault::FaultSpec;
use serde_json::{Value, json};
use support::shares::{Shares, addresses};
use support::{expect_no_wasm_failure, expect_steering, knows_endpoints};

async fn start(builder: Builder) -> Option<Harness> {
    let harness = builder.start().await.unwrap()?;
    knows_endpoints(&harness, harness.members().len() as u64).await;
    expect_steering(&harness, "/").await;
    Some(harness)
}

fn keyed(lb_policy: &Value) -> Value {
    json!({
        "membership": {"envoy_admin": {"interval": "100ms"}},
        "defaults": {
            "lb_policy": lb_policy, "hash_policy": [{"header": {"header_name": "x-key"}}],
        },
    })
}

/// Sends requests to endpoints of the weights 1 to 5 and expects shares that differ from those by
/// at most this part.
async fn expect_weighted(lb_policy: Value, tolerance: f64) {
    const REQUESTS: usize = 4000;
    const WEIGHTS: [u32; 5] = [1, 2, 3, 4, 5];
    let builder = Harness::builder().endpoints(1).ports(5).weights(&WEIGHTS);
    let Some(harness) = start(builder.config(keyed(&lb_policy))).await else { return };
    let error = Shares::of(&harness, REQUESTS).error(&addresses(&harness), &WEIGHTS.map(f64::from));
    println!("{lb_policy}: off by {:.1} % of a share", error * 100.0);
    assert!(error <= tolerance, "{lb_policy}: {error}");
    let planned = async |h: &Harness| Ok(h.metric("requests").await? >= REQUESTS as u64);
    harness.eventually("the plugin chose", planned).await.unwrap();
    expect_no_wasm_failure(&harness).await;
}

#[tokio::test]
async fn weighted_turns_keep_to_the_weights() {
    expect_weighted(json!({"round_robin": {}}), 0.05).await;
    expect_weighted(json!({"round_robin": {"order": "smooth"}}), 0.05).await;
}

#[tokio::test]
async fn weighted_draws_keep_to_the_weights() {
    expect_weighted(json!({"random": {}}), 0.3).await;
    expect_weighted(json!({"rendezvous": {}}), 0.3).await;
    expect_weighted(json!({"maglev": {}}), 0.3).await;
    expect_weighted(json!({"ring_hash": {"minimum_ring_size": 65536}}), 0.35).await;
}

#[tokio::test]
async fn least_request_without_bias_keeps_to_the_weights() {
    let bias = json!({"least_request": {"active_request_bias": 0.0}});
    expect_weighted(bias, 0.05).await;
}

#[tokio::test]
async fn least_request_weighs_requests_in_flight_as_in_envoy() {
    const WEIGHTS: [u32; 5] = [1, 2, 3, 4, 5];
    const TOLERANCE: f64 = 0.04;
    let native = Harness::builder().flavour(Flavour::Native).endpoints(1).ports(5);
    let native = native
        .weights(&WEIGHTS)
        .edit("round_robin.v3.RoundRobin\"", "least_request.v3.LeastRequest\"");
    let Some(native) = native.start().await.unwrap() else { return };
    let ours = Harness::builder().upstreams_of(&native).weights(&WEIGHTS);
    let Some(ours) = start(ours.config(keyed(&json!({"least_request": {}})))).await else {
        return;
    };
    // Each answer takes a while, so that requests of all connections are in flight at once.
    native.upstream(0).fault(&FaultSpec::delay(5)).await.unwrap();
    let [theirs, got] = [&native, &ours].map(|harness| Shares::of(harness, 2000));
    for address in addresses(&ours) {
        let (theirs, got) = (theirs.share(address), got.share(address));
        println!("least_request: Envoy {theirs:.3}, Outrigger {got:.3}");
        assert!((theirs - got).abs() <= TOLERANCE, "{theirs} and {got}");
    }
    expect_no_wasm_failure(&ours).await;
}

#[tokio::test]
async fn equal_endpoints_are_used_alike_by_the_policies_that_follow_load() {
    for lb_policy in [
        json!({"least_request": {}}),
        json!({"least_request": {"selection_method": "full_scan"}}),
        json!({"peak_ewma": {}}),
    ] {
        let builder = Harness::builder().endpoints(1).ports(5);
        let Some(harness) = start(builder.config(keyed(&lb_policy))).await else { return };
        let error = Shares::of(&harness, 4000).error(&addresses(&harness), &[1.0; 5]);
        println!("{lb_policy}: off by {:.1} % of a share", error * 100.0);
        assert!(error <= 0.35, "{lb_policy}: {error}");
        expect_no_wasm_failure(&harness).await;
    }
}

/// Five first choices on processes of their own, and five endpoints of one process behind them.
fn two_priorities(harness: &Harness) -> (Vec<Endpoint>, Vec<SocketAddr>) {
    let (last, first) = harness.upstreams().split_last().unwrap();
    let mut members: Vec<Endpoint> =
        first.iter().map(|upstream| Endpoint::new(upstream.address())).collect();
    let backups = last.addresses().to_vec();
    let backup = |address: &SocketAddr| Endpoint { priority: 1, ..Endpoint::new(*address) };
    members.extend(backups.iter().map(backup));
    (members, backups)
}

/// What 3 of 5 at 140 % leave to the next priority.
const SPILL: f64 = 0.16;
const SPILL_TOLERANCE: f64 = 0.025;

/// Waits until the backups serve about this share.
async fn expect_spill(harness: &Harness, backups: &[SocketAddr], share: f64) {
    let mut last = 0.0;
    let tolerance = if share == 0.0 || share == 1.0 { 0.0 } else { SPILL_TOLERANCE };
    let spilled = async |h: &Harness| {
        // The first requests after a crash may find three dead endpoints in a row.
        let shares = Shares::with_failures(h, 4000, &[]);
        last = shares.sum(backups);
        Ok(shares.failed() == 0 && (last - share).abs() <= tolerance)
    };
    let waited = harness.eventually(&format!("the backups serve {share}"), spilled).await;
    println!("the backups serve {last}");
    assert!(waited.is_ok(), "the backups serve {last} instead of {share}");
}

#[tokio::test]
async fn priorities_spill_over_as_in_envoy_when_the_membership_says_who_is_unhealthy() {
    let native = Harness::builder().flavour(Flavour::Native).endpoints(6).ports(5);
    let Some(native) = native.start().await.unwrap() else { return };
    let ours = Harness::builder().upstreams_of(&native);
    let ours = ours.config(keyed(&json!({"round_robin": {}})));
    let Some(ours) = start(ours).await else { return };
    let (mut members, backups) = two_priorities(&native);
    for (unhealthy, share) in [(0, 0.0), (2, SPILL), (5, 1.0)] {
        for member in &mut members[..unhealthy] {
            member.health_status = "UNHEALTHY";
        }
        for harness in [&native, &ours] {
            harness.set_members(&members).unwrap();
            expect_spill(harness, &backups, share).await;
        }
    }
    expect_no_wasm_failure(&ours).await;
}

#[tokio::test]
async fn priorities_spill_over_when_breakers_open_and_come_back() {
    let mut config = keyed(&json!({"round_robin": {}}));
    config["defaults"]["circuit_breaker"] = json!({
        "consecutive_failures": 3, "base_ejection_time": "1s", "max_ejection_time": "1s",
        "ejection_time_jitter_percent": 0,
    });
    config["defaults"]["retry"] = json!({"budget": {"percent": 100}});
    let builder = Harness::builder().endpoints(6).ports(5).config(config);
    let Some(harness) = start(builder).await else { return };
    let (members, backups) = two_priorities(&harness);
    harness.set_members(&members).unwrap();
    knows_endpoints(&harness, 10).await;
    expect_spill(&harness, &backups, 0.0).await;
    for (dead, share) in [(0..2, SPILL), (2..5, 1.0)] {
        for upstream in &harness.upstreams()[dead] {
            upstream.kill().await.unwrap();
        }
        expect_spill(&harness, &backups, share).await;
    }
    for upstream in &harness.upstreams()[..5] {
        upstream.start().await.unwrap();
    }
    expect_spill(&harness, &backups, 0.0).await;
    expect_no_wasm_failure(&harness).await;
}

/// A proxy in zone `a`, whose own cluster has so many endpoints in the zones `a`, `b` and `c`.
fn in_zone_a(builder: Builder, local: [usize; 3]) -> Builder {
    let mut port = 40_000;
    let mut endpoint = || {
        port += 1;
        json!({"endpoint": {"address": {"socket_address": {
            "address": "127.0.0.1", "port_value": port,
        }}}})
    };
    let localities: Vec<Value> = ["a", "b", "c"]
        .iter()
        .zip(local)
        .map(|(zone, count)| {
            let endpoints: Vec<Value> = (0..count).map(|_| endpoint()).collect();
            json!({"locality": {"zone": zone}, "lb_endpoints": endpoints})
        })
        .collect();
    let cluster = json!({
        "name": "local", "type": "STATIC",
        "load_assignment": {"cluster_name": "local", "endpoints": localities},
    });
    builder.edit("cluster: rig}", "cluster: rig, locality: {zone: a}}").edit(
        "static_resources:\n  clusters:\n",
        &format!(
            "cluster_manager: {{local_cluster_name: local}}\n\
                 static_resources:\n  clusters:\n  - {cluster}\n"
        ),
    )
}

/// Expects the same share in each zone from plain Envoy's zone aware routing and from the plugin,
/// with 2, 3 and 4 endpoints of the cluster in the zones `a`, `b` and `c`.
async fn expect_zones(local: [usize; 3], shares: [f64; 3]) {
    const ROUND_ROBIN: &str = "round_robin.v3.RoundRobin\"";
    const TOLERANCE: f64 = 0.025;
    let native = Harness::builder().flavour(Flavour::Native).endpoints(1).ports(9).edit(
        ROUND_ROBIN,
        &format!(
            "{ROUND_ROBIN},\"locality_lb_config\":\
             {{\"zone_aware_lb_config\":{{\"min_cluster_size\":6}}}}"
        ),
    );
    let Some(native) = in_zone_a(native, local).start().await.unwrap() else { return };
    let mut config = keyed(&json!({"round_robin": {}}));
    config["clusters"] = json!([{
        "name": "backend", "zone_aware": {"local_cluster": "local", "min_cluster_size": 6},
    }]);
    let ours = in_zone_a(Harness::builder().upstreams_of(&native), local).config(config);
    let Some(ours) = start(ours).await else { return };
    let zone_of = |n| ["a", "a", "b", "b", "b", "c", "c", "c", "c"][n];
    let members: Vec<Endpoint> = (0..9)
        .map(|n| Endpoint { zone: zone_of(n).to_owned(), ..ours.members()[n].clone() })
        .collect();
    for (name, harness) in [("Envoy", &native), ("Outrigger", &ours)] {
        harness.set_members(&members).unwrap();
        let mut got = [0.0; 3];
        let as_wanted = async |h: &Harness| {
            let all = Shares::of(h, 4000);
            got = ["a", "b", "c"].map(|zone| {
                let there = members.iter().filter(|member| member.zone == zone);
                all.sum(there.map(|member| &member.address))
            });
            Ok(got.iter().zip(shares).all(|(got, share)| (got - share).abs() <= TOLERANCE))
        };
        let waited = harness.eventually("zones have their shares", as_wanted).await;
        println!("{name}: proxies {local:?}, zones {got:?}");
        assert!(waited.is_ok(), "{name}: {got:?} instead of {shares:?}");
    }
    expect_no_wasm_failure(&ours).await;
}

#[tokio::test]
async fn a_zone_with_enough_endpoints_keeps_its_requests_as_in_envoy() {
    expect_zones([1, 2, 3], [1.0, 0.0, 0.0]).await;
}

#[tokio::test]
async fn a_zone_with_too_few_endpoints_keeps_what_they_can_take_as_in_envoy() {
    // a: 22 % of the endpoints and 50 % of the requests; only c has more endpoints than requests.
    expect_zones([3, 2, 1], [0.4444, 0.0, 0.5556]).await;
}

/// Waits until requests with these headers use exactly these endpoints.
async fn expect_used(harness: &Harness, headers: &[(&str, &str)], expected: &[SocketAddr]) {
    let mut used = Vec::new();
    let mut expected = expected.to_vec();
    expected.sort_unstable();
    let only = async |h: &Harness| {
        used = Shares::of_requests(h, 400, headers).used();
        Ok(used == expected)
    };
    let waited = harness.eventually("the right ones serve", only).await;
    assert!(waited.is_ok(), "{headers:?}: {used:?} instead of {expected:?}");
}

#[tokio::test]
async fn a_request_is_served_by_the_subset_that_its_headers_ask_for() {
    let builder = Harness::builder().endpoints(1).ports(6);
    let Some(harness) = start(builder).await else { return };
    let all = addresses(&harness);
    // Two of v1 on spot machines, one of v1 elsewhere, two of v2, one of which nothing is known.
    let metadata = [
        json!({"version": "v1", "pool": "spot"}),
        json!({"version": "v1", "pool": "spot"}),
        json!({"version": "v1", "pool": "main"}),
        json!({"version": "v2", "pool": "main"}),
        json!({"version": "v2", "pool": "main"}),
        json!({}),
    ];
    let endpoints: Vec<Value> = all
        .iter()
        .zip(&metadata)
        .map(|(address, metadata)| json!({"address": address, "metadata": metadata}))
        .collect();
    let config = |fallback: &str, selectors: Value| {
        json!({"clusters": [{
            "name": "backend",
            "membership": {"static": {"endpoints": endpoints}},
            "subsets": {"selectors": selectors, "fallback": fallback},
        }]})
        .to_string()
    };
    let version = json!({"key": "version", "header": "x-version"});
    let pool = json!({"key": "pool", "header": "x-pool"});

    assert!(harness.reconfigure(&config("any_endpoint", json!([version]))).await.unwrap());
    expect_used(&harness, &[("x-version", "v1")], &all[..3]).await;
    expect_used(&harness, &[("x-version", "v2")], &all[3..5]).await;
    expect_used(&harness, &[("x-version", "v3")], &all).await;
    expect_used(&harness, &[], &all).await;

    let both = json!([version, pool]);
    assert!(harness.reconfigure(&config("no_fallback", both)).await.unwrap());
    expect_used(&harness, &[("x-version", "v1"), ("x-pool", "spot")], &all[..2]).await;
    expect_used(&harness, &[("x-pool", "main"), ("x-version", "v1")], &all[2..3]).await;
    // Nobody is both: what Envoy says.
    let before = harness.metric("requests_untouched").await.unwrap();
    expect_used(&harness, &[("x-version", "v2"), ("x-pool", "spot")], &all).await;
    let left = async |h: &Harness| Ok(h.metric("requests_untouched").await? >= before + 400);
    harness.eventually("they were left to Envoy", left).await.unwrap();
    expect_no_wasm_failure(&harness).await;
}

#[tokio::test]
async fn a_random_subset_is_the_same_for_both_workers_and_another_in_another_proxy() {
    let mut config = keyed(&json!({"round_robin": {}}));
    config["defaults"]["random_subsetting"] = json!({"subset_size": 10});
    let first = Harness::builder().endpoints(1).ports(30).config(config.clone());
    let Some(first) = start(first).await else { return };
    let second = Harness::builder().upstreams_of(&first).config(config);
    let Some(second) = start(second.edit("{id: rig,", "{id: another,")).await else { return };
    let used = [&first, &second].map(|harness| Shares::of(harness, 2000).used());
    assert_eq!((used[0].len(), used[1].len()), (10, 10));
    assert_ne!(used[0], used[1]);
    // It stays when another endpoint leaves.
    let gone = addresses(&first).into_iter().find(|address| !used[0].contains(address)).unwrap();
    let left = first.members().iter().filter(|member| member.address != gone).cloned();
    first.set_members(&left.collect::<Vec<_>>()).unwrap();
    knows_endpoints(&first, 29).await;
    expect_used(&first, &[], &used[0]).await;
}

//! How an endpoint's share follows what it reports of its load, and the time since it came.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a test")]

mod support;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use integration::harness::{Builder, Harness};
use integration::upstream::fault::FaultSpec;
use serde_json::{Value, json};
use support::shares::{Shares, addresses, orca_report};
use support::{expect_no_wasm_failure, expect_steering, knows_endpoints};

const TEXT_AND_BIN: &str = "endpoint-load-metrics";
const BIN: &str = "endpoint-load-metrics-bin";

async fn start(builder: Builder) -> Option<Harness> {
    let harness = builder.start().await.unwrap()?;
    knows_endpoints(&harness, harness.members().len() as u64).await;
    expect_steering(&harness, "/").await;
    Some(harness)
}

fn reporting(lb_policy: Value) -> Builder {
    Harness::builder().config(json!({"defaults": {
        "lb_policy": lb_policy,
        "hash_policy": [{"header": {"header_name": "x-key"}}],
        "orca_weights": {
            "blackout_period": "500ms", "weight_update_period": "100ms",
            "weight_expiration_period": "2s",
        },
    }}))
}

/// Has the upstreams report, each by one header.
async fn report(harness: &Harness, name: &str, values: [String; 3]) {
    for (upstream, value) in harness.upstreams().iter().zip(values) {
        upstream.answer_with(&[(name.to_owned(), value)]).await.unwrap();
    }
}

/// Waits until the shares are about these.
async fn expect_shares(harness: &Harness, weights: [f64; 3]) {
    const TOLERANCE: f64 = 0.15;
    let addresses = addresses(harness);
    let mut shares = Shares::default();
    let as_wanted = async |h: &Harness| {
        shares = Shares::of(h, 2000);
        Ok(shares.error(&addresses, &weights) <= TOLERANCE)
    };
    let waited = harness.eventually("the shares follow", as_wanted).await;
    let shares: Vec<f64> = addresses.iter().map(|address| shares.share(*address)).collect();
    println!("weights {weights:?}: shares {shares:.3?}");
    assert!(waited.is_ok(), "{shares:?} instead of {weights:?}");
}

#[tokio::test]
async fn turns_follow_load_reports_of_every_form_and_are_equal_again_without() {
    let Some(harness) = start(reporting(json!({"round_robin": {}}))).await else { return };
    expect_shares(&harness, [1.0, 1.0, 1.0]).await;
    // weight = requests per second / utilization
    let text = |cpu| format!("TEXT cpu_utilization={cpu},rps_fractional=100");
    report(&harness, TEXT_AND_BIN, [text(0.2), text(0.4), text(0.8)]).await;
    expect_shares(&harness, [4.0, 2.0, 1.0]).await;

    let json = |cpu: f64| {
        let report = json!({
            "cpu_utilization": 0.99, "application_utilization": cpu, "rps_fractional": 50,
            "named_metrics": {"queue": 3.5},
        });
        format!("JSON {report}")
    };
    report(&harness, TEXT_AND_BIN, [json(0.8), json(0.4), json(0.2)]).await;
    expect_shares(&harness, [1.0, 2.0, 4.0]).await;

    let bin = |rps| format!("BIN {}", orca_report(0.5, rps));
    report(&harness, TEXT_AND_BIN, [bin(10.0), bin(40.0), bin(20.0)]).await;
    expect_shares(&harness, [1.0, 4.0, 2.0]).await;

    let bin = |rps| orca_report(0.5, rps);
    report(&harness, BIN, [bin(20.0), bin(10.0), bin(40.0)]).await;
    expect_shares(&harness, [2.0, 1.0, 4.0]).await;

    // An error share of a half halves the weight at full load: 100 / (0.5 + 50/100) and 100 / 0.5.
    let text = |eps| format!("TEXT cpu_utilization=0.5,rps_fractional=100,eps={eps}");
    report(&harness, TEXT_AND_BIN, [text(50), text(0), text(0)]).await;
    expect_shares(&harness, [1.0, 2.0, 2.0]).await;

    for upstream in harness.upstreams() {
        upstream.answer_with(&[]).await.unwrap();
    }
    expect_shares(&harness, [1.0, 1.0, 1.0]).await;
    expect_no_wasm_failure(&harness).await;
}

#[tokio::test]
async fn other_policies_follow_load_reports_too() {
    for lb_policy in [
        json!({"least_request": {"active_request_bias": 0.0}}),
        json!({"random": {}}),
        json!({"rendezvous": {}}),
    ] {
        let Some(harness) = start(reporting(lb_policy)).await else { return };
        let text = |cpu| format!("TEXT cpu_utilization={cpu},rps_fractional=100");
        report(&harness, TEXT_AND_BIN, [text(0.2), text(0.4), text(0.8)]).await;
        expect_shares(&harness, [4.0, 2.0, 1.0]).await;
        expect_no_wasm_failure(&harness).await;
    }
}

#[tokio::test]
async fn maglev_keeps_envoys_table_whatever_is_reported() {
    let Some(harness) = start(reporting(json!({"maglev": {}}))).await else { return };
    let text = |cpu| format!("TEXT cpu_utilization={cpu},rps_fractional=100");
    report(&harness, TEXT_AND_BIN, [text(0.1), text(0.4), text(0.9)]).await;
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_millis(1500) {
        let error = Shares::of(&harness, 2000).error(&addresses(&harness), &[1.0; 3]);
        assert!(error < 0.15, "{error}");
    }
}

/// Time of slow start in these tests.
const WINDOW: Duration = Duration::from_secs(5);

fn slow(lb_policy: &Value) -> Builder {
    Harness::builder().endpoints(4).config(json!({
        "membership": {"envoy_admin": {"interval": "100ms"}},
        "defaults": {
            "lb_policy": lb_policy,
            "hash_policy": [{"header": {"header_name": "x-key"}}],
            "slow_start": {"slow_start_window": "5s"},
            "circuit_breaker": {"consecutive_failures": 3, "base_ejection_time": "300ms"},
        },
    }))
}

/// The share of an endpoint in the first fifth of the window from now on, and after the window.
async fn shares_in_time(harness: &Harness, address: SocketAddr) -> (f64, f64) {
    let begin = Instant::now();
    let mut early = Shares::default();
    while begin.elapsed() < WINDOW / 5 {
        early.add(&Shares::of(harness, 400));
    }
    println!("{} requests in the first {:?}", early.total(), begin.elapsed());
    let mut late = 0.0;
    let fair = async |h: &Harness| {
        late = Shares::of(h, 2000).share(address);
        Ok(begin.elapsed() > WINDOW && (late - 0.25).abs() < 0.04)
    };
    let _ = harness.eventually("it has its share", fair).await;
    println!("early {:.3}, late {late:.3}", early.share(address));
    (early.share(address), late)
}

/// A half of a fair share of four.
const HALF: f64 = 0.125;

async fn expect_a_slow_start_of_who_joins(lb_policy: Value) {
    let Some(harness) = start(slow(&lb_policy)).await else { return };
    let all = harness.members().to_vec();
    let joins = all[3].address;
    harness.set_members(&all[..3]).unwrap();
    let left = async |h: &Harness| Ok(Shares::of(h, 400).share(joins) == 0.0);
    harness.eventually("it has left", left).await.unwrap();
    knows_endpoints(&harness, 3).await;
    harness.set_members(&all).unwrap();
    let there = async |h: &Harness| Ok(Shares::of(h, 100).share(joins) > 0.0);
    harness.eventually("it has joined", there).await.unwrap();
    let (early, late) = shares_in_time(&harness, joins).await;
    assert!(early > 0.0 && early < HALF, "{lb_policy}: {early}");
    assert!((late - 0.25).abs() < 0.04, "{lb_policy}: {late}");
    expect_no_wasm_failure(&harness).await;
}

async fn expect_a_slow_start_of_who_returns(lb_policy: Value) {
    let Some(harness) = start(slow(&lb_policy)).await else { return };
    let returns = harness.members()[0].address;
    let fair = Shares::of(&harness, 2000).share(returns);
    assert!((fair - 0.25).abs() < 0.04, "who was there from the beginning is not slow: {fair}");
    harness.upstream(0).fault(&FaultSpec::status(503)).await.unwrap();
    let out = async |h: &Harness| {
        h.get_many("/", 20).await?;
        Shares::with_failures(h, 100, &[]);
        Ok(h.metric("endpoints_held_out").await? == 1)
    };
    harness.eventually("it is out", out).await.unwrap();
    harness.upstream(0).fault(&FaultSpec::none()).await.unwrap();
    let back = async |h: &Harness| {
        Shares::with_failures(h, 100, &[]);
        Ok(h.metric("recoveries").await? >= 1)
    };
    harness.eventually("it is back", back).await.unwrap();
    let (early, late) = shares_in_time(&harness, returns).await;
    assert!(early > 0.0 && early < HALF, "{lb_policy}: {early}");
    assert!((late - 0.25).abs() < 0.04, "{lb_policy}: {late}");
    expect_no_wasm_failure(&harness).await;
}

#[tokio::test]
async fn in_round_robin_an_endpoint_that_joins_or_returns_gets_its_share_slowly() {
    expect_a_slow_start_of_who_joins(json!({"round_robin": {}})).await;
    expect_a_slow_start_of_who_returns(json!({"round_robin": {}})).await;
}

#[tokio::test]
async fn in_maglev_an_endpoint_that_joins_or_returns_gets_its_share_slowly() {
    expect_a_slow_start_of_who_joins(json!({"maglev": {}})).await;
    expect_a_slow_start_of_who_returns(json!({"maglev": {}})).await;
}

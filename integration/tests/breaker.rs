//! Circuit breakers on a real Envoy: what opens one, how long it stays open, how it closes.
//!
//! One worker and one request at a time, so that numbers are exact; `workers.rs` has the rest.

// Also in helpers, which the lints do not take for tests.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use integration::harness::{Builder, Harness};
use integration::http::Reply;
use integration::upstream::fault::FaultSpec;
use serde_json::{Value, json};

/// Requests after which a wait is given up.
const REQUESTS_MAX: usize = 3000;

fn builder(endpoints: usize, circuit_breaker: Value) -> Builder {
    let mut config = json!({"defaults": {
        "circuit_breaker": {
            "consecutive_failures": 3,
            "success_rate": {"threshold_percent": 0},
            "base_ejection_time": "60s",
            "ejection_time_jitter_percent": 0,
        },
        "retry": {
            "per_try_timeout": "200ms",
            "budget": {"percent": 100, "min_retries_per_second": 1000},
        },
    }});
    let fields = circuit_breaker.as_object().cloned().unwrap_or_default();
    for (name, value) in fields {
        config["defaults"]["circuit_breaker"][name] = value;
    }
    Harness::builder().endpoints(endpoints).concurrency(1).config(config)
}

/// Starts it and waits until the plugin knows its endpoints.
async fn start(builder: Builder) -> Option<Harness> {
    let harness = builder.start().await.unwrap()?;
    let all = harness.members().len() as u64;
    let known = async |h: &Harness| Ok(h.metric("endpoints").await? == all);
    harness.eventually("the endpoints are known", known).await.unwrap();
    Some(harness)
}

/// Sends GETs one after another, each of which must be answered with 200, until a metric is as
/// large as this.
async fn get_until(harness: &Harness, metric: &str, least: u64) {
    for _ in 0..REQUESTS_MAX {
        assert_eq!(harness.get("/").send().await.unwrap().status, 200);
        if harness.metric(metric).await.unwrap() >= least {
            return;
        }
    }
    let metrics = harness.metrics().await.unwrap();
    let log = harness.envoy().log_tail().await;
    panic!("{metric} never was {least}: {metrics:?}\n{log}");
}

fn all_ok(replies: &[Reply]) -> bool {
    replies.iter().all(|reply| reply.status == 200)
}

/// The open times in the log, in seconds, with their causes.
async fn open_times(harness: &Harness) -> Vec<(f64, String)> {
    let log = harness.envoy().log().await;
    let line = |line: &str| {
        let (_, after) = line.split_once(": out for ")?;
        let (seconds, cause) = after.split_once(" s (")?;
        Some((seconds.parse().ok()?, cause.split(')').next()?.to_owned()))
    };
    log.lines().filter_map(line).collect()
}

/// Opens the breaker of the first endpoint and returns how often each class of failure was counted:
/// connect failures, resets, time-outs, gateway errors.
async fn classes_until_open(harness: &Harness) -> [u64; 4] {
    get_until(harness, "ejections", 1).await;
    let mut classes = [0; 4];
    let names = ["connect_failure", "reset", "timeout", "gateway_error"];
    for (class, name) in classes.iter_mut().zip(names) {
        *class = harness.metric(&format!("attempts_{name}")).await.unwrap();
    }
    let bad = harness.members()[0].address;
    let admin = harness.envoy().admin;
    let before = integration::envoy::times_chosen(admin, bad).await.unwrap();
    assert!(all_ok(&harness.get_many("/", 30).await.unwrap()));
    let after = integration::envoy::times_chosen(admin, bad).await.unwrap();
    assert_eq!(after, before, "it is out");
    assert_eq!(harness.metric("endpoints_held_out").await.unwrap(), 1);
    classes
}

#[tokio::test]
async fn three_refused_connections_open_a_breaker_and_are_counted_as_such() {
    let Some(harness) = start(builder(3, json!({}))).await else {
        return;
    };
    harness.upstream(0).kill().await.unwrap();
    assert_eq!(classes_until_open(&harness).await, [3, 0, 0, 0]);
}

#[tokio::test]
async fn an_upstream_that_is_killed_under_traffic_costs_no_request() {
    let Some(harness) = start(builder(3, json!({}))).await else {
        return;
    };
    assert!(all_ok(&harness.get_many("/", 30).await.unwrap()));
    harness.upstream(0).kill().await.unwrap();
    let [refused, reset, timeout, gateway_error] = classes_until_open(&harness).await;
    assert_eq!((refused + reset, timeout, gateway_error), (3, 0, 0));
}

#[tokio::test]
async fn three_time_outs_of_a_frozen_upstream_open_a_breaker_and_are_counted_as_such() {
    let Some(harness) = start(builder(3, json!({}))).await else {
        return;
    };
    harness.upstream(0).freeze().await.unwrap();
    assert_eq!(classes_until_open(&harness).await, [0, 0, 3, 0]);
}

#[tokio::test]
async fn three_503s_open_a_breaker_and_are_counted_as_such() {
    let Some(harness) = start(builder(3, json!({}))).await else {
        return;
    };
    harness.upstream(0).fault(&FaultSpec::status(503)).await.unwrap();
    assert_eq!(classes_until_open(&harness).await, [0, 0, 0, 3]);
    assert_eq!(harness.upstream(0).stats().await.unwrap().requests, 3);
}

#[tokio::test]
async fn three_resets_open_a_breaker_and_are_counted_as_such() {
    let Some(harness) = start(builder(3, json!({}))).await else {
        return;
    };
    harness.upstream(0).fault(&FaultSpec::reset()).await.unwrap();
    assert_eq!(classes_until_open(&harness).await, [0, 3, 0, 0]);
}

#[tokio::test]
async fn an_applications_500s_reach_the_client_and_eject_nobody() {
    let config = json!({"success_rate": {"threshold_percent": 80, "minimum_requests": 5}});
    let Some(harness) = start(builder(3, config)).await else {
        return;
    };
    harness.upstream(0).fault(&FaultSpec::status(500)).await.unwrap();
    let replies = harness.get_many("/", 90).await.unwrap();
    let errors = replies.iter().filter(|reply| reply.status == 500).count();
    assert_eq!(errors, 30, "every third request, none retried");
    assert_eq!(harness.metric("ejections").await.unwrap(), 0);
    assert_eq!(harness.metric("retries").await.unwrap(), 0);
}

#[tokio::test]
async fn two_fifths_of_503s_open_a_breaker_by_its_success_rate() {
    let config = json!({
        "consecutive_failures": 0,
        "success_rate": {"threshold_percent": 80, "window": "10s", "minimum_requests": 20},
    });
    let Some(harness) = start(builder(3, config)).await else {
        return;
    };
    let fault = FaultSpec::status(503).with_probability(0.4);
    harness.upstream(0).fault(&fault).await.unwrap();
    get_until(&harness, "ejections", 1).await;
    let seen = harness.upstream(0).stats().await.unwrap().requests;
    println!("opened after {seen} attempts");
    assert!((20..=60).contains(&seen), "{seen} attempts");
    assert_eq!(open_times(&harness).await, [(60.0, "success rate".into())]);
}

#[tokio::test]
async fn open_time_doubles_with_every_failed_probe_and_no_client_sees_one() {
    let config = json!({"base_ejection_time": "200ms"});
    let Some(harness) = start(builder(3, config)).await else {
        return;
    };
    harness.upstream(0).fault(&FaultSpec::status(503)).await.unwrap();
    get_until(&harness, "ejections", 4).await;
    let doubling = [0.2, 0.4, 0.8, 1.6];
    let times = open_times(&harness).await;
    println!("open times: {times:?}");
    let seconds: Vec<f64> = times.iter().map(|(seconds, _)| *seconds).collect();
    assert_eq!(seconds, doubling);
    assert_eq!(times[0].1, "consecutive failures");
    assert!(times[1..].iter().all(|(_, cause)| cause == "half-open trial failed"));
    harness
        .eventually("the trials are counted", async |h| Ok(h.metric("trials").await? == 3))
        .await
        .unwrap();
    let seen = harness.upstream(0).stats().await.unwrap().requests;
    assert_eq!(seen, 3 + 3, "three failures, then one probe at a time");
}

#[tokio::test]
async fn an_endpoint_that_is_well_again_is_found_by_one_probe_and_gets_its_share_back() {
    let config = json!({"base_ejection_time": "300ms"});
    let Some(harness) = start(builder(3, config)).await else {
        return;
    };
    harness.upstream(0).fault(&FaultSpec::status(503)).await.unwrap();
    get_until(&harness, "ejections", 1).await;
    harness.upstream(0).fault(&FaultSpec::none()).await.unwrap();
    get_until(&harness, "recoveries", 1).await;
    assert_eq!(harness.metric("trials").await.unwrap(), 1);
    assert_eq!(harness.metric("endpoints_held_out").await.unwrap(), 0);
    let replies = harness.get_many("/", 30).await.unwrap();
    let share = replies.iter().filter(|reply| reply.upstream() == Some("u1"));
    assert_eq!(share.count(), 10);
}

#[tokio::test]
async fn posts_leave_the_probe_to_requests_that_may_be_sent_twice() {
    let config = json!({"base_ejection_time": "4s"});
    let Some(harness) = start(builder(3, config)).await else {
        return;
    };
    harness.upstream(0).fault(&FaultSpec::status(503)).await.unwrap();
    get_until(&harness, "ejections", 1).await;
    let opened = std::time::Instant::now();
    // The trial is due after 4 s, and a POST may only take it on after 4 s more.
    while opened.elapsed().as_millis() < 7000 {
        let reply = harness.call(hyper::Method::POST, "/").send().await.unwrap();
        assert_eq!(reply.status, 200);
    }
    assert_eq!(harness.upstream(0).stats().await.unwrap().requests, 3);
    for _ in 0..3 {
        assert_eq!(harness.get("/").send().await.unwrap().status, 200);
    }
    let seen = harness.upstream(0).stats().await.unwrap().requests;
    assert_eq!(seen, 4, "the first GETs tried it");
}

#[tokio::test]
async fn a_probe_waits_for_a_healthy_second_choice_unless_all_others_are_dead() {
    // Two endpoints: at most one is held out, so the other one serves, however ill.
    let config = json!({
        "base_ejection_time": "500ms",
        "healthy_panic_threshold": 0,
    });
    let Some(harness) = start(builder(2, config)).await else {
        return;
    };
    harness.upstream(0).fault(&FaultSpec::status(503)).await.unwrap();
    get_until(&harness, "ejections", 1).await;
    // The second dies while the first is out; then the first is well again.
    harness.upstream(1).kill().await.unwrap();
    harness.upstream(0).fault(&FaultSpec::none()).await.unwrap();
    harness
        .eventually("the first is found, although the second never comes back", async |h| {
            Ok(h.get("/").send().await?.status == 200)
        })
        .await
        .unwrap();
    let well = async |h: &Harness| {
        h.get("/").send().await?;
        Ok(h.metric("recoveries").await? >= 1)
    };
    harness.eventually("its breaker closes", well).await.unwrap();
}

#[tokio::test]
async fn the_ejection_cap_holds_when_more_endpoints_fail() {
    let config = json!({"max_ejection_percent": 40, "healthy_panic_threshold": 0});
    let Some(harness) = start(builder(5, config)).await else {
        return;
    };
    for upstream in &harness.upstreams()[..4] {
        upstream.fault(&FaultSpec::status(503)).await.unwrap();
    }
    harness
        .eventually("four breakers are open", async |h| {
            h.get_many("/", 5).await?;
            Ok(h.metric("ejections").await? == 4)
        })
        .await
        .unwrap();
    assert_eq!(harness.metric("endpoints_held_out").await.unwrap(), 2);
    let replies = harness.get_many("/", 30).await.unwrap();
    assert!(all_ok(&replies), "one of the three listed is well");
    assert_eq!(harness.metric("panic_requests").await.unwrap(), 0);
}

#[tokio::test]
async fn below_the_panic_threshold_nobody_is_held_out() {
    let config = json!({"max_ejection_percent": 100, "healthy_panic_threshold": 50});
    let Some(harness) = start(builder(5, config)).await else {
        return;
    };
    for upstream in &harness.upstreams()[..3] {
        upstream.fault(&FaultSpec::status(503)).await.unwrap();
    }
    harness
        .eventually("three breakers are open", async |h| {
            h.get_many("/", 5).await?;
            Ok(h.metric("ejections").await? == 3)
        })
        .await
        .unwrap();
    assert_eq!(harness.metric("endpoints_held_out").await.unwrap(), 0);
    let before = harness.upstream(0).stats().await.unwrap().requests;
    // A request whose three choices are the three that fail has no hope; most have.
    let replies = harness.get_many("/", 30).await.unwrap();
    let served = replies.iter().filter(|reply| reply.status == 200).count();
    println!("in panic, 3 of 5 failing: {served} of 30 served");
    assert!(served >= 20, "{served} of 30");
    let after = harness.upstream(0).stats().await.unwrap().requests;
    assert!(after >= before + 5, "the open ones get traffic: {before}, {after}");
    harness
        .eventually("requests in panic are counted", async |h| {
            Ok(h.metric("panic_requests").await? >= 30)
        })
        .await
        .unwrap();
}

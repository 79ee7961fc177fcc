//! Retries on a real Envoy: where they go, which requests have them, how many there are.

// Also in helpers, which the lints do not take for tests.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::time::Duration;

use hyper::Method;
use integration::harness::{Builder, Harness};
use integration::load::{Load, Plan};
use integration::upstream::fault::FaultSpec;
use serde_json::{Value, json};

/// Three endpoints whose breakers never open, with a budget that is never gone.
fn builder(retry: Value) -> Builder {
    let mut config = json!({"defaults": {
        "circuit_breaker": {
            "consecutive_failures": 0,
            "success_rate": {"threshold_percent": 0},
        },
        "retry": {"budget": {"percent": 100, "min_retries_per_second": 1000}},
    }});
    for (name, value) in retry.as_object().cloned().unwrap_or_default() {
        config["defaults"]["retry"][name] = value;
    }
    Harness::builder().concurrency(1).config(config)
}

async fn start(builder: Builder) -> Option<Harness> {
    let harness = builder.start().await.unwrap()?;
    let all = harness.members().len() as u64;
    let known = async |h: &Harness| Ok(h.metric("endpoints").await? == all);
    harness.eventually("the endpoints are known", known).await.unwrap();
    Some(harness)
}

/// What each upstream has seen since the last time.
async fn seen(harness: &Harness) -> Vec<u64> {
    let mut all = Vec::new();
    for upstream in harness.upstreams() {
        all.push(upstream.stats().await.unwrap().requests);
        upstream.reset_stats().await.unwrap();
    }
    all
}

async fn fault(harness: &Harness, count: usize, spec: &FaultSpec) {
    for upstream in &harness.upstreams()[..count] {
        upstream.fault(spec).await.unwrap();
    }
}

#[tokio::test]
async fn every_attempt_of_a_request_goes_to_another_endpoint() {
    let Some(harness) = start(builder(json!({}))).await else {
        return;
    };
    fault(&harness, 3, &FaultSpec::status(503)).await;
    for _ in 0..20 {
        assert_eq!(harness.get("/").send().await.unwrap().status, 503);
        assert_eq!(seen(&harness).await, [1, 1, 1]);
    }
    assert_eq!(harness.counter("cluster.backend.upstream_rq_retry").await.unwrap(), 40);
    let booked = async |h: &Harness| Ok(h.metric("retries").await? == 40);
    harness.eventually("the budget knows them", booked).await.unwrap();
}

#[tokio::test]
async fn a_get_is_sent_again_after_a_503_or_a_reset_and_a_post_is_not() {
    let Some(harness) = start(builder(json!({}))).await else {
        return;
    };
    for spec in [FaultSpec::status(503), FaultSpec::reset()] {
        fault(&harness, 2, &spec).await;
        for _ in 0..12 {
            let reply = harness.get("/").send().await.unwrap();
            assert_eq!((reply.status, reply.upstream()), (200, Some("u3")), "{spec:?}");
        }
        seen(&harness).await;
        // The two that fail are seldom a first choice by now.
        let mut failed = 0;
        for _ in 0..500 {
            let reply = harness.call(Method::POST, "/").send().await.unwrap();
            failed += u64::from(reply.status == 503);
            assert_eq!(seen(&harness).await.iter().sum::<u64>(), 1, "{spec:?}");
            if failed == 3 {
                break;
            }
        }
        assert_eq!(failed, 3, "two of three endpoints fail: {spec:?}");
    }
}

#[tokio::test]
async fn a_post_is_sent_again_when_no_connection_came_about() {
    let Some(harness) = start(builder(json!({}))).await else {
        return;
    };
    harness.upstream(0).kill().await.unwrap();
    for _ in 0..12 {
        let reply = harness.call(Method::POST, "/").send().await.unwrap();
        assert_eq!(reply.status, 200);
    }
    // Four turns in twelve, but from the second failure on it passes some of them.
    let failures = harness.metric("attempts_connect_failure").await.unwrap();
    assert!((2..=4).contains(&failures), "{failures}");
    let booked = async |h: &Harness| Ok(h.metric("retries").await? == failures);
    harness.eventually("the budget knows them", booked).await.unwrap();
}

#[tokio::test]
async fn number_and_time_of_attempts_can_be_set_over_the_routes() {
    let retry = json!({"num_retries": 1, "per_try_timeout": "100ms"});
    let Some(harness) = start(builder(retry)).await else {
        return;
    };
    fault(&harness, 3, &FaultSpec::stall()).await;
    let reply = harness.get("/").send().await.unwrap();
    println!("two attempts of 100 ms: {:?}", reply.elapsed);
    assert_eq!(reply.status, 504);
    assert_eq!(seen(&harness).await.iter().sum::<u64>(), 2, "the route says 3");
    // The route's own would be 1 s for two attempts.
    assert!(reply.elapsed >= Duration::from_millis(200));
    assert!(reply.elapsed < Duration::from_millis(800), "{:?}", reply.elapsed);
}

#[tokio::test]
async fn more_retries_than_the_routes_are_possible_too() {
    let Some(harness) = start(builder(json!({"num_retries": 4})).endpoints(6)).await else {
        return;
    };
    fault(&harness, 6, &FaultSpec::status(503)).await;
    for _ in 0..6 {
        assert_eq!(harness.get("/").send().await.unwrap().status, 503);
        let seen = seen(&harness).await;
        assert_eq!(seen.iter().sum::<u64>(), 5);
        assert!(seen.iter().all(|count| *count <= 1), "{seen:?}");
    }
}

#[tokio::test]
async fn zero_retries_are_none() {
    let Some(harness) = start(builder(json!({"num_retries": 0}))).await else {
        return;
    };
    fault(&harness, 3, &FaultSpec::status(503)).await;
    for _ in 0..6 {
        assert_eq!(harness.get("/").send().await.unwrap().status, 503);
        assert_eq!(seen(&harness).await.iter().sum::<u64>(), 1);
    }
}

#[tokio::test]
async fn with_no_budget_left_a_request_has_one_attempt() {
    let retry = json!({"budget": {"percent": 0, "min_retries_per_second": 0}});
    let Some(harness) = start(builder(retry)).await else {
        return;
    };
    fault(&harness, 3, &FaultSpec::status(503)).await;
    // The first failure is what makes the worker look at the budget.
    assert_eq!(harness.get("/").send().await.unwrap().status, 503);
    let first: u64 = seen(&harness).await.iter().sum();
    assert!(first <= 3);
    for _ in 0..30 {
        assert_eq!(harness.get("/").send().await.unwrap().status, 503);
    }
    assert_eq!(seen(&harness).await.iter().sum::<u64>(), 30);
    let post = harness.call(Method::POST, "/").send().await.unwrap();
    assert_eq!(post.status, 503);
    let denied = async |h: &Harness| Ok(h.metric("retries_denied").await? >= 31);
    harness.eventually("that is counted", denied).await.unwrap();
}

#[tokio::test]
async fn a_total_outage_is_not_made_worse_by_retries() {
    const RATE: u32 = 200;
    let Some(harness) = start(Harness::builder().concurrency(2)).await else {
        return;
    };
    fault(&harness, 3, &FaultSpec::status(503)).await;
    let load = Load::start(&Plan::get(RATE), &[harness.envoy().entry]);
    let sent = async |h: &Harness| Ok(h.metric("requests").await? >= u64::from(RATE) * 5);
    harness.eventually("five seconds have passed", sent).await.unwrap();
    let records = load.finish().await.remove(0);
    let attempts: u64 = seen(&harness).await.iter().sum();
    let requests = records.len() as u64;
    println!("outage: {requests} requests, {attempts} attempts");
    assert!(attempts * 100 <= requests * 125, "{attempts} attempts, {requests} requests");
}

#[tokio::test]
async fn an_upstream_sees_nothing_of_how_envoy_was_steered() {
    let retry = json!({"num_retries": 2, "per_try_timeout": "300ms"});
    let Some(harness) = start(builder(retry)).await else {
        return;
    };
    fault(&harness, 2, &FaultSpec::status(503)).await;
    let forged = harness.upstream(0).address().to_string();
    for method in [Method::GET, Method::POST] {
        for _ in 0..4 {
            let call = harness
                .call(method.clone(), "/")
                .header("x-outrigger-endpoints", &forged)
                .header("x-outrigger-more", "1")
                .header("x-other", "kept");
            call.send().await.unwrap();
        }
    }
    for upstream in harness.upstreams() {
        let last = upstream.last_request().await.unwrap();
        let names: Vec<&str> = last.headers.iter().map(|(name, _)| name.as_str()).collect();
        assert!(names.contains(&"x-other"), "{names:?}");
        let steering = [
            "x-outrigger-",
            "x-envoy-retry-on",
            "x-envoy-max-retries",
            "x-envoy-upstream-rq-per-try-timeout-ms",
        ];
        for name in names {
            assert!(!steering.iter().any(|s| name.starts_with(s)), "{name} left Envoy");
        }
    }
    // The forged list named one endpoint eight times; all three were tried all the same.
    assert!(seen(&harness).await.iter().all(|count| *count > 0));
}

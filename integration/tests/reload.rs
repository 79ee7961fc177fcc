//! What is left of the plugin's knowledge when a VM dies or the configuration changes.
//!
//! The module of these tests has a callback that traps on any request body.

// Also in helpers, which the lints do not take for tests.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::path::PathBuf;
use std::time::Duration;

use hyper::Method;
use integration::harness::{Builder, Harness};
use integration::upstream::fault::FaultSpec;
use serde_json::{Value, json};

const RELOADS: &str = "wasm.outrigger.vm_reload_success";

/// Requests that reach both workers: each has a connection of its own, dealt out by the kernel.
const BOTH: usize = 60;

fn config(base_ejection_time: &str) -> Value {
    json!({"defaults": {
        "circuit_breaker": {
            "consecutive_failures": 3,
            "success_rate": {"threshold_percent": 0},
            "base_ejection_time": base_ejection_time,
            "ejection_time_jitter_percent": 0,
        },
        "retry": {"budget": {"percent": 100, "min_retries_per_second": 1000}},
    }})
}

/// The module that can be killed; nothing, with a printed reason, where it was not built.
fn mortal(config: Value) -> Option<Builder> {
    let module = std::env::var_os("OUTRIGGER_TRAP_WASM").map(PathBuf::from);
    match module.filter(|path| path.is_file()) {
        Some(path) => Some(Harness::builder().wasm(path).config(config)),
        None if std::env::var_os("OUTRIGGER_REQUIRE").is_some() => {
            panic!("OUTRIGGER_TRAP_WASM names no module; run `make test`")
        }
        None => {
            eprintln!("SKIPPED: OUTRIGGER_TRAP_WASM names no module; `make test` builds one");
            None
        }
    }
}

async fn start(builder: Option<Builder>) -> Option<Harness> {
    let harness = builder?.start().await.unwrap()?;
    let all = harness.members().len() as u64;
    let known = async |h: &Harness| Ok(h.metric("endpoints").await? == all);
    harness.eventually("the endpoints are known", known).await.unwrap();
    Some(harness)
}

/// Opens the first endpoint's breaker for the whole process; every worker has had requests.
async fn eject_first(harness: &Harness) {
    harness.upstream(0).fault(&FaultSpec::status(503)).await.unwrap();
    let out = async |h: &Harness| {
        let replies = h.get_many("/", 6).await?;
        assert!(replies.iter().all(|reply| reply.status == 200));
        Ok(h.metric("ejections").await? >= 1)
    };
    harness.eventually("it is out", out).await.unwrap();
    let quiet = async |h: &Harness| {
        let before = seen(h, 0).await;
        h.get_many("/", BOTH).await?;
        Ok(seen(h, 0).await == before)
    };
    harness.eventually("every worker knows it", quiet).await.unwrap();
}

async fn seen(harness: &Harness, upstream: usize) -> u64 {
    harness.upstream(upstream).stats().await.unwrap().requests
}

/// Kills the VM of one worker. Envoy answers the request that did it.
async fn kill_a_vm(harness: &Harness) {
    let reply = harness.call(Method::POST, "/").body("die").send().await;
    assert_eq!(reply.unwrap().status, 503);
}

/// Sends GETs until Envoy has made the VM anew; until then it answers some with 503. It makes it
/// for the filter and for the logger, and holds the second back for up to a second where it comes
/// right after the first: so the count alone does not say that requests flow again.
async fn until_reloaded(harness: &Harness, reloads: u64) -> usize {
    let mut refused = 0;
    harness
        .eventually("the VM is made anew", async |h| {
            let replies = h.get_many("/", BOTH).await?;
            let now = replies.iter().filter(|reply| reply.status == 503).count();
            refused += now;
            Ok(now == 0 && h.counter(RELOADS).await? >= reloads)
        })
        .await
        .unwrap();
    refused
}

#[tokio::test]
async fn a_vm_that_died_comes_back_with_all_that_was_known() {
    let Some(harness) = start(mortal(config("60s"))).await else {
        return;
    };
    eject_first(&harness).await;
    let before = (seen(&harness, 0).await, harness.metric("requests_untouched").await.unwrap());
    let ejections = harness.metric("ejections").await.unwrap();
    kill_a_vm(&harness).await;
    let refused = until_reloaded(&harness, 1).await;
    println!("requests that Envoy refused until the VM was back: {refused}");
    let replies = harness.get_many("/", BOTH).await.unwrap();
    assert!(replies.iter().all(|reply| reply.status == 200));
    let after = (seen(&harness, 0).await, harness.metric("requests_untouched").await.unwrap());
    assert_eq!(after, before, "still out, and no request without a plan");
    assert_eq!(harness.metric("ejections").await.unwrap(), ejections);
    assert_eq!(harness.counter("wasm.outrigger.vm_reload_failure").await.unwrap(), 0);
}

#[tokio::test]
async fn failures_are_still_seen_after_a_reload() {
    let builder = mortal(config("300ms")).map(|builder| builder.concurrency(1));
    let Some(harness) = start(builder).await else {
        return;
    };
    harness.get_many("/", 6).await.unwrap();
    kill_a_vm(&harness).await;
    until_reloaded(&harness, 1).await;
    let before = seen(&harness, 0).await;
    eject_first(&harness).await;
    // Retries are only booked where logger and filter are one VM: the failed attempt is tied to its
    // request. Envoy counts the reload once for each of the two.
    let booked = async |h: &Harness| Ok(h.metric("retries").await? >= 3);
    harness.eventually("the attempts are tied to their requests", booked).await.unwrap();
    let attempts = seen(&harness, 0).await - before;
    let reloads = harness.counter(RELOADS).await.unwrap();
    println!("attempts until it was out: {attempts}; reloads counted: {reloads}");
    harness.upstream(0).fault(&FaultSpec::none()).await.unwrap();
    let well = async |h: &Harness| {
        h.get("/").send().await?;
        Ok(h.metric("recoveries").await? >= 1)
    };
    harness.eventually("and their end too", well).await.unwrap();
    assert_eq!(harness.metric("attempts_unknown").await.unwrap(), 0);
}

#[tokio::test]
async fn vms_may_die_again_and_again() {
    const DEATHS: u64 = 5;
    let builder = mortal(config("60s")).map(|builder| builder.concurrency(1));
    let Some(harness) = start(builder).await else {
        return;
    };
    eject_first(&harness).await;
    let before = seen(&harness, 0).await;
    for death in 1..=DEATHS {
        kill_a_vm(&harness).await;
        until_reloaded(&harness, death).await;
    }
    assert_eq!(seen(&harness, 0).await, before);
    assert_eq!(harness.metric("requests_untouched").await.unwrap(), 0);
}

#[tokio::test]
async fn a_new_configuration_keeps_what_was_known() {
    let Some(harness) = start(Some(Harness::builder().config(config("60s")))).await else {
        return;
    };
    eject_first(&harness).await;
    let before = (seen(&harness, 0).await, harness.metric("requests_untouched").await.unwrap());
    let taken = harness.reconfigure(&config("50s").to_string()).await;
    assert!(taken.unwrap());
    let replies = harness.get_many("/", BOTH).await.unwrap();
    assert!(replies.iter().all(|reply| reply.status == 200));
    let after = (seen(&harness, 0).await, harness.metric("requests_untouched").await.unwrap());
    assert_eq!(after, before, "still out, and no request without a plan");
}

#[tokio::test]
async fn a_probe_whose_vm_died_blocks_the_next_one_for_half_a_minute_at_most() {
    let builder = mortal(config("500ms")).map(|builder| builder.concurrency(1));
    let Some(harness) = start(builder).await else {
        return;
    };
    eject_first(&harness).await;
    harness.upstream(0).fault(&FaultSpec::stall()).await.unwrap();
    let probes = async {
        loop {
            let _ = harness.get("/").send().await;
        }
    };
    let killed = async {
        let probed = async |h: &Harness| Ok(h.upstream(0).stats().await?.in_flight == 1);
        harness.eventually("a probe is on its way", probed).await.unwrap();
        kill_a_vm(&harness).await;
    };
    tokio::select! {
        () = probes => {},
        () = killed => {},
    }
    let died = std::time::Instant::now();
    harness.upstream(0).fault(&FaultSpec::none()).await.unwrap();
    until_reloaded(&harness, 1).await;
    let well = async |h: &Harness| {
        let reply = h.get("/").send().await?;
        assert_eq!(reply.status, 200, "nobody waits for it");
        Ok(h.metric("recoveries").await? >= 1)
    };
    harness.eventually_within(Duration::from_secs(40), "the next probe", well).await.unwrap();
    println!("the endpoint is back {:?} after the VM died", died.elapsed());
}

#[tokio::test]
async fn with_fail_open_requests_go_on_but_for_good_without_the_plugin() {
    let builder = mortal(config("60s")).map(|builder| {
        builder.concurrency(1).edit("failure_policy: FAIL_RELOAD", "failure_policy: FAIL_OPEN")
    });
    let Some(harness) = start(builder).await else {
        return;
    };
    eject_first(&harness).await;
    let before = seen(&harness, 0).await;
    kill_a_vm(&harness).await;
    let planned = harness.metric("requests").await.unwrap();
    let replies = harness.get_many("/", 30).await.unwrap();
    let failed = replies.iter().filter(|reply| reply.status == 503).count();
    println!("without the plugin: {failed} of 30 requests failed");
    assert_eq!(failed, 10, "Envoy's fallback uses all three, and retries no 503");
    assert_eq!(seen(&harness, 0).await, before + 10);
    assert_eq!(harness.counter(RELOADS).await.unwrap(), 0);
    assert_eq!(harness.metric("requests").await.unwrap(), planned);
}

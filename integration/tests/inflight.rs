//! Requests in flight, as the gauges count them: right under everything that ends a request in an
//! odd way, and zero when nothing is under way.
//!
//! The load is a closed loop of raw connections. Its requests meet resets, 503s, stalls (with
//! hedging on the per-try time-out) and late answers; some of its clients leave before the answer.
//! On the way the listener is changed once, and the VM of one worker is killed once.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a test")]

mod support;

use std::collections::BTreeMap;
use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hyper::Method;
use integration::harness::Harness;
use integration::http;
use integration::upstream::fault::FaultSpec;
use serde_json::{Value, json};
use support::wire;

/// Clients at once, each with one request at a time.
const CLIENTS: u64 = 32;

/// Of a thousand requests, those whose client leaves before the answer.
const LEAVING: u64 = 10;

/// Of a thousand requests, those after which the client takes a new connection.
const RECONNECTING: u64 = 5;

/// How long a client waits for an answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long a gauge may be off after a VM died: the reload, which Envoy holds back for up to a
/// second or two, and then polls (200 ms) until three agree, on a machine that is busy.
const GRACE: Duration = Duration::from_secs(8);

/// What the gauges and Envoy's own count of requests may differ by at one instant, as a part of
/// the clients: the page is written while both workers go on, and a request that is refused, or
/// whose client has left, ends in one count before it ends in the other. Half the samples are off
/// by half of that at most, and one in twenty by more.
const SKEW_PARTS: i64 = 4;

fn config(lb_policy: &Value, base_ejection_time: &str) -> Value {
    json!({
        "membership": {"envoy_admin": {"interval": "200ms"}},
        "defaults": {
            "lb_policy": lb_policy,
            "circuit_breaker": {
                "consecutive_failures": 0,
                "success_rate": {"threshold_percent": 0},
                "base_ejection_time": base_ejection_time,
            },
            "retry": {"budget": {"percent": 100, "min_retries_per_second": 1000}},
        },
    })
}

/// The route's time-out with hedging after it.
const HEDGING: &str = "timeout: 5s
                hedge_policy: {hedge_on_per_try_timeout: true}
";

/// An Envoy with two workers, hedging, and the module that can be killed.
async fn start(lb_policy: &Value) -> Option<Harness> {
    let module = std::env::var_os("OUTRIGGER_TRAP_WASM").map(PathBuf::from);
    let Some(module) = module.filter(|path| path.is_file()) else {
        assert!(
            std::env::var_os("OUTRIGGER_REQUIRE").is_none(),
            "OUTRIGGER_TRAP_WASM names no module; run `make test`"
        );
        eprintln!("SKIPPED: OUTRIGGER_TRAP_WASM names no module; `make test` builds one");
        return None;
    };
    let builder = Harness::builder()
        .endpoints(4)
        .concurrency(2)
        .wasm(module)
        .config(config(lb_policy, "30s"))
        .edit("timeout: 5s\n", HEDGING)
        .edit("per_try_timeout: 0.5s", "per_try_timeout: 0.1s");
    let harness = builder.start().await.unwrap()?;
    support::knows_endpoints(&harness, 4).await;
    Some(harness)
}

/// What one load has seen.
#[derive(Debug, Default)]
struct Seen {
    begun: AtomicU64,
    ok: AtomicU64,
    failed: AtomicU64,
    left: AtomicU64,
}

/// Sends requests one after another until `requests` have been begun by all clients.
fn client(entry: SocketAddr, seed: u64, requests: u64, seen: &Seen) {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut buffer = Vec::new();
    let mut kept = None;
    while seen.begun.fetch_add(1, Ordering::Relaxed) < requests {
        let mut stream = kept.take().unwrap_or_else(|| wire::connect(entry, PATIENCE));
        buffer.clear();
        if stream.write_all(b"GET / HTTP/1.1\r\nhost: rig\r\n\r\n").is_err() {
            seen.failed.fetch_add(1, Ordering::Relaxed);
            continue;
        }
        if random.u64(..1000) < LEAVING {
            std::thread::sleep(Duration::from_micros(random.u64(..4000)));
            seen.left.fetch_add(1, Ordering::Relaxed);
            if random.bool() {
                wire::reset(stream);
            }
            continue;
        }
        // A connection that Envoy drains gives no further answer.
        let answer = wire::read_answer(&mut stream, &mut buffer);
        let ok = answer.as_ref().is_some_and(|answer| answer.status == 200);
        let counter = if ok { &seen.ok } else { &seen.failed };
        counter.fetch_add(1, Ordering::Relaxed);
        kept = answer.map(|_| stream).filter(|_| random.u64(..1000) >= RECONNECTING);
    }
}

/// The gauges at one instant, and Envoy's own count of requests.
#[derive(Clone, Debug)]
struct Sample {
    at: Instant,
    gauges: Vec<i64>,
    downstream: i64,
}

impl Sample {
    async fn take(admin: SocketAddr) -> Self {
        const PATH: &str =
            "/stats?filter=%5E(wasmcustom.outrigger.slot.|http.rig.downstream_rq_active)";
        let at = Instant::now();
        let page = http::get(admin, PATH).await.unwrap();
        let mut sample = Self { at, gauges: Vec::new(), downstream: 0 };
        for line in String::from_utf8_lossy(&page).lines() {
            let (name, value) = line.rsplit_once(": ").unwrap();
            // below zero is shown as a huge number
            let value = value.parse::<u64>().unwrap().cast_signed();
            if name.ends_with("downstream_rq_active") {
                sample.downstream = value;
            } else {
                sample.gauges.push(value);
            }
        }
        sample
    }

    /// By how many the gauges together are above Envoy's count.
    fn excess(&self) -> i64 {
        self.gauges.iter().sum::<i64>() - self.downstream
    }
}

/// Breaks the upstreams, each in its way.
async fn break_upstreams(harness: &Harness) {
    let faults = [
        FaultSpec::reset().with_probability(0.02),
        FaultSpec::status(503).with_probability(0.05),
        FaultSpec::stall().with_probability(0.002),
        FaultSpec::delay(3).with_probability(0.2),
    ];
    for (upstream, fault) in harness.upstreams().iter().zip(&faults) {
        upstream.fault(fault).await.unwrap();
    }
}

/// Changes the listener and kills a VM on the way. Returns when the latter happened.
async fn disturb(harness: &Harness, seen: &Seen, requests: u64, lb_policy: &Value) -> Instant {
    let until = async |part: u64| {
        while seen.begun.load(Ordering::Relaxed) < requests / 10 * part {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    until(3).await;
    let other = config(lb_policy, "29s").to_string();
    assert!(harness.reconfigure(&other).await.unwrap(), "the new configuration is taken");
    until(6).await;
    let killed = Instant::now();
    let reply = harness.call(Method::POST, "/").body("die").send().await.unwrap();
    assert_eq!(reply.status, 503, "that kills the VM");
    killed
}

/// What the samples of a load say.
fn judge(samples: &[Sample], killed: Instant) {
    let calm = |sample: &&Sample| sample.at < killed || sample.at > killed + GRACE;
    let mut off: Vec<i64> = samples.iter().filter(calm).map(Sample::excess).collect();
    off.sort_unstable();
    let in_flight: i64 = samples.iter().map(|sample| sample.downstream).sum();
    let lowest = samples.iter().flat_map(|sample| &sample.gauges).min().unwrap();
    let after = samples.iter().filter(|sample| !calm(sample)).map(Sample::excess);
    println!(
        "{} samples, {:.1} in flight on average; the gauges above Envoy's count by {} (least) {} \
         (median) {} (most), after the death of a VM by {:?} at most; lowest gauge {lowest}",
        samples.len(),
        in_flight as f64 / samples.len() as f64,
        off[0],
        off[off.len() / 2],
        off[off.len() - 1],
        after.clone().max(),
    );
    let bound = CLIENTS.cast_signed() / SKEW_PARTS;
    let (median, far) = (off[off.len() / 2], off.iter().filter(|off| off.abs() > bound).count());
    assert!(median.abs() <= bound / 2, "off by {median} half of the time");
    assert!(far * 20 <= off.len(), "{far} of {} samples off by more than {bound}", off.len());
    assert!(*lowest >= -bound, "a gauge stood at {lowest}");
    let high = after.filter(|excess| *excess > CLIENTS.cast_signed()).count();
    assert_eq!(high, 0, "more than a dead worker can have left");
}

/// Runs the load and expects that every gauge comes back to zero, and stays there.
async fn run(lb_policy: Value, requests: u64) {
    let Some(harness) = start(&lb_policy).await else { return };
    break_upstreams(&harness).await;
    let seen = Arc::new(Seen::default());
    let begin = Instant::now();
    let entry = harness.envoy().entry;
    let clients: Vec<_> = (0..CLIENTS)
        .map(|seed| {
            let seen = Arc::clone(&seen);
            tokio::task::spawn_blocking(move || client(entry, seed, requests, &seen))
        })
        .collect();
    let admin = harness.envoy().admin;
    let sampler = tokio::spawn({
        let seen = Arc::clone(&seen);
        async move {
            let mut samples = Vec::new();
            while seen.begun.load(Ordering::Relaxed) < requests {
                samples.push(Sample::take(admin).await);
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            samples
        }
    });
    let killed = disturb(&harness, &seen, requests, &lb_policy).await;
    for client in clients {
        client.await.unwrap();
    }
    let took = begin.elapsed();
    let samples = sampler.await.unwrap();
    println!("{lb_policy}: {requests} requests in {took:.1?}: {seen:?}");
    expect_all_kinds(&harness).await;
    judge(&samples, killed);
    assert!(harness.counter("wasm.outrigger.vm_reload_success").await.unwrap() > 0);
    expect_zero(&harness).await;
}

/// Every odd end has come about.
async fn expect_all_kinds(harness: &Harness) {
    let mut outcomes = BTreeMap::new();
    for upstream in harness.upstreams() {
        for (outcome, count) in upstream.stats().await.unwrap().outcomes {
            *outcomes.entry(outcome).or_insert(0) += count;
        }
    }
    println!("attempts by outcome: {outcomes:?}");
    for outcome in ["200", "503", "reset", "stall"] {
        assert!(outcomes.contains_key(outcome), "no upstream answered with {outcome}");
    }
    // Of an attempt that runs on beside its hedge Envoy does not count the time-out.
    for (what, some) in [
        ("upstream_rq_retry", true),
        ("upstream_rq_per_try_timeout", false),
        ("upstream_cx_destroy_local_with_active_rq", true),
    ] {
        let count = harness.counter(&format!("cluster.backend.{what}")).await.unwrap();
        assert_eq!(count > 0, some, "{what}: {count}");
    }
}

/// Waits until all gauges are zero, and expects that they stay it over some more polls.
async fn expect_zero(harness: &Harness) {
    const POLLS: Duration = Duration::from_millis(1500);
    let begin = Instant::now();
    let admin = harness.envoy().admin;
    let zero = async |h: &Harness| {
        let sample = Sample::take(admin).await;
        let idle = h.counter("cluster.backend.upstream_rq_active").await? == 0;
        anyhow::ensure!(idle && sample.gauges.iter().all(|g| *g == 0), "{sample:?}");
        Ok(true)
    };
    harness.eventually("every gauge is zero", zero).await.unwrap();
    println!("every gauge is zero after {:.1?}", begin.elapsed());
    let until = Instant::now() + POLLS;
    while Instant::now() < until {
        let sample = Sample::take(admin).await;
        assert_eq!(sample.gauges, [0; 4], "and stays it");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Requests of the tests that run every time.
const SHORT: u64 = 20_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_left_in_flight_under_least_request() {
    run(json!({"least_request": {}}), SHORT).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_left_in_flight_under_peak_ewma() {
    run(json!({"peak_ewma": {}}), SHORT).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "some minutes at full load: make test-inflight"]
async fn nothing_is_left_in_flight_after_a_million_requests() {
    run(json!({"least_request": {}}), 1_000_000).await;
}

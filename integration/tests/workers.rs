//! What holds for the whole process although every worker has a VM of its own.

// Also in helpers, which the lints do not take for tests.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::Request;
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use integration::harness::{Builder, Harness};
use integration::load::{Load, Plan, Record};
use integration::upstream::fault::FaultSpec;
use serde_json::json;

/// Time from one tick of a worker to the next.
const TICK: Duration = Duration::from_millis(100);

async fn start(builder: Builder) -> Option<Harness> {
    let harness = builder.concurrency(2).start().await.unwrap()?;
    let all = harness.members().len() as u64;
    let known = async |h: &Harness| Ok(h.metric("endpoints").await? == all);
    harness.eventually("the endpoints are known", known).await.unwrap();
    Some(harness)
}

/// Connections that each worker has accepted or has now (`total`, `active`).
async fn connections(harness: &Harness, what: &str) -> [u64; 2] {
    let port = harness.envoy().entry.port();
    let mut counts = [0; 2];
    for (name, value) in harness.envoy().stats().await.unwrap() {
        for (worker, count) in counts.iter_mut().enumerate() {
            let wanted = format!("_{port}.worker_{worker}.downstream_cx_{what}");
            if name.starts_with("listener.") && name.ends_with(&wanted) {
                *count = value;
            }
        }
    }
    counts
}

/// A connection that is kept, and so always served by the same worker.
struct Kept(SendRequest<Empty<Bytes>>);

impl Kept {
    async fn open(harness: &Harness) -> Self {
        let stream = tokio::net::TcpStream::connect(harness.envoy().entry).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        Self(sender)
    }

    async fn get(&mut self) -> u16 {
        self.0.ready().await.unwrap();
        let request = Request::get("/").header("host", "workers").body(Empty::new()).unwrap();
        let (parts, body) = self.0.send_request(request).await.unwrap().into_parts();
        body.collect().await.unwrap();
        parts.status.as_u16()
    }
}

/// One connection to each worker.
async fn one_each(harness: &Harness) -> [Kept; 2] {
    const CONNECTIONS_MAX: usize = 64;
    let mut kept = [None, None];
    let mut others = Vec::new();
    for _ in 0..CONNECTIONS_MAX {
        let before = connections(harness, "total").await;
        let connection = Kept::open(harness).await;
        let accepted = async |h: &Harness| Ok(connections(h, "total").await != before);
        harness.eventually("a worker has accepted it", accepted).await.unwrap();
        let after = connections(harness, "total").await;
        let worker = usize::from(after[1] > before[1]);
        match &mut kept[worker] {
            slot @ None => *slot = Some(connection),
            Some(_) => others.push(connection),
        }
        if let [Some(_), Some(_)] = kept {
            break;
        }
    }
    kept.map(|connection| connection.expect("every worker accepts some connection"))
}

/// The most requests that were in flight at once.
fn in_flight_max(records: &[Record]) -> u64 {
    let mut edges: Vec<(u64, i64)> = Vec::new();
    for record in records {
        edges.push((record.scheduled_us, 1));
        edges.push((record.scheduled_us + record.latency_us, -1));
    }
    edges.sort_unstable();
    let mut now = 0;
    let each = edges.iter().map(|(_, step)| {
        now += step;
        now
    });
    u64::try_from(each.max().unwrap_or(0)).unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retries_of_both_workers_together_stay_within_one_budget() {
    const RATE: u64 = 500;
    const SECONDS: u64 = 12;
    const NUM_RETRIES: u64 = 2;
    let config = json!({"defaults": {"circuit_breaker": {
        "consecutive_failures": 0,
        "success_rate": {"threshold_percent": 0},
    }}});
    let Some(harness) = start(Harness::builder().config(config)).await else {
        return;
    };
    let [_one, _two] = one_each(&harness).await;
    for upstream in harness.upstreams() {
        let fault = FaultSpec::status(503).with_probability(0.5);
        upstream.fault(&fault).await.unwrap();
    }
    // As many connections as the load needs, however the kernel deals them out.
    let loads: Vec<Load> =
        (0..2).map(|_| Load::start(&Plan::get(250), &[harness.envoy().entry])).collect();
    let begin = Instant::now();
    let sent = async |h: &Harness| Ok(h.metric("requests").await? >= RATE * SECONDS);
    harness.eventually_within(Duration::from_secs(60), "all is sent", sent).await.unwrap();
    let mut records: Vec<Record> = Vec::new();
    for load in loads {
        records.extend(load.finish().await.remove(0));
    }
    let seconds = begin.elapsed().as_secs_f64();
    let requests = records.len() as u64;
    let mut attempts = 0;
    for upstream in harness.upstreams() {
        attempts += upstream.stats().await.unwrap().requests;
    }
    let retries = attempts - requests;
    // 20 % and 10/s; a step of the window (1 s) that has begun counts as a whole one.
    let budget = requests / 5 + 10 * (seconds.ceil() as u64 + 1);
    // What was granted before the budget was seen to be gone may still come: all that was in
    // flight, in either worker, with all its retries.
    let in_flight = in_flight_max(&records);
    let bound = in_flight * NUM_RETRIES;
    let connections = connections(&harness, "total").await;
    println!(
        "{requests} requests in {seconds:.1} s over {connections:?} connections, {retries} \
         retries; budget {budget}, bound {in_flight} in flight x {NUM_RETRIES} = {bound}"
    );
    assert!(connections.iter().all(|count| *count > 0), "{connections:?}");
    assert!(retries <= budget + bound, "{retries} > {budget} + {bound}");
    assert!(retries * 100 >= budget * 60, "{retries} of {budget}");
    let denied = harness.metric("retries_denied").await.unwrap();
    assert!(denied > 0);
    // What the plugin spends it on is what really leaves.
    let counted = async |h: &Harness| Ok(h.metric("retries").await? > 0);
    harness.eventually("retries are counted", counted).await.unwrap();
    let counted = harness.metric("retries").await.unwrap();
    println!("counted by the plugin: {counted}, denied {denied}");
    assert!(counted.abs_diff(retries) * 20 <= retries, "{counted} counted");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_probe_is_in_flight_in_the_whole_process() {
    const TRIALS: u64 = 15;
    let config = json!({"defaults": {
        "circuit_breaker": {
            "consecutive_failures": 3,
            "success_rate": {"threshold_percent": 0},
            "base_ejection_time": "100ms",
            "max_ejection_time": "200ms",
            "ejection_time_jitter_percent": 0,
        },
    }});
    let Some(harness) = start(Harness::builder().endpoints(4).config(config)).await else {
        return;
    };
    let [_one, _two] = one_each(&harness).await;
    let loads: Vec<Load> =
        (0..2).map(|_| Load::start(&Plan::get(300), &[harness.envoy().entry])).collect();
    let bad = harness.upstream(0);
    bad.fault(&FaultSpec::status(503)).await.unwrap();
    let out = async |h: &Harness| Ok(h.metric("endpoints_held_out").await? == 1);
    harness.eventually("it is out", out).await.unwrap();
    // What may still come from before: the other worker's, for two ticks and some more.
    tokio::time::sleep(TICK * 5).await;
    // From here on a probe lasts as long as the per-try time-out, and fails.
    bad.fault(&FaultSpec::stall()).await.unwrap();
    let idle = async |h: &Harness| Ok(h.upstream(0).stats().await?.in_flight == 0);
    harness.eventually("nothing else is there", idle).await.unwrap();
    bad.reset_stats().await.unwrap();
    let trials = harness.metric("trials").await.unwrap();
    let tried = async |h: &Harness| Ok(h.upstream(0).stats().await?.requests >= TRIALS);
    harness.eventually_within(Duration::from_secs(40), "it was tried often", tried).await.unwrap();
    let stats = bad.stats().await.unwrap();
    let trials = harness.metric("trials").await.unwrap() - trials;
    bad.fault(&FaultSpec::none()).await.unwrap();
    let mut failed = 0;
    let mut requests = 0;
    for load in loads {
        let records = load.finish().await.remove(0);
        requests += records.len();
        failed += records.iter().filter(|record| !record.ok()).count();
    }
    println!(
        "{requests} requests, {failed} failed; {trials} trials, {} requests there, \
         at most {} at once",
        stats.requests, stats.in_flight_max
    );
    assert_eq!(stats.in_flight_max, 1);
    assert_eq!(failed, 0, "no client sees a probe");
}

#[tokio::test]
async fn what_one_worker_learns_the_other_knows_within_two_ticks() {
    let config = json!({"defaults": {"circuit_breaker": {
        "consecutive_failures": 3,
        "base_ejection_time": "60s",
    }}});
    let Some(harness) = start(Harness::builder().config(config)).await else {
        return;
    };
    let [mut one, mut two] = one_each(&harness).await;
    for _ in 0..9 {
        assert_eq!((one.get().await, two.get().await), (200, 200));
    }
    harness.upstream(0).fault(&FaultSpec::status(503)).await.unwrap();
    let seen = async || harness.upstream(0).stats().await.unwrap().requests;
    let before = seen().await;
    while harness.metric("ejections").await.unwrap() == 0 {
        assert_eq!(one.get().await, 200);
    }
    let learned = Instant::now();
    assert_eq!(seen().await, before + 3);
    // The other worker may still try it until it looks.
    let mut last = Duration::ZERO;
    let mut tried = 0;
    while learned.elapsed() < TICK * 10 {
        let already = seen().await;
        let at = learned.elapsed();
        assert_eq!(two.get().await, 200);
        if seen().await > already {
            last = at;
            tried += 1;
        }
    }
    println!("the other worker tried it {tried} times, for {last:?}");
    assert!(last <= TICK * 3, "still after {last:?}");
    assert_eq!(harness.metric("ejections").await.unwrap(), 1, "it learned it from the other");
}

#[tokio::test]
async fn a_worker_that_wakes_up_knows_at_once_who_is_out() {
    let config = json!({"defaults": {"circuit_breaker": {
        "consecutive_failures": 3,
        "base_ejection_time": "60s",
    }}});
    let Some(harness) = start(Harness::builder().config(config)).await else {
        return;
    };
    let [mut one, mut two] = one_each(&harness).await;
    harness.upstream(0).fault(&FaultSpec::status(503)).await.unwrap();
    while harness.metric("ejections").await.unwrap() == 0 {
        assert_eq!(one.get().await, 200);
    }
    let before = harness.upstream(0).stats().await.unwrap().requests;
    for _ in 0..12 {
        assert_eq!(two.get().await, 200);
    }
    let after = harness.upstream(0).stats().await.unwrap().requests;
    assert_eq!((before, after), (3, 3), "the second worker's first requests");
    assert_eq!(harness.metric("requests_untouched").await.unwrap(), 0);
}

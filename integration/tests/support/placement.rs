//! The same request lands on the same endpoint in plain Envoy and through the plugin.
//!
//! Two Envoys with the same upstreams: one with its own `MAGLEV` or `RING_HASH` and the route's
//! `hash_policy`, one with the plugin, whose fallback is round robin, so that equality cannot come
//! from the fallback.

use std::time::{Duration, Instant};

use integration::bootstrap::{Flavour, Lb};
use integration::harness::{Builder, Harness};
use integration::upstream::fault::FaultSpec;
use serde_json::{Value, json};

use super::wire;

/// A cluster, and a key policy for it.
pub struct Case {
    /// What a failure is called.
    pub name: &'static str,
    /// A weight for each upstream.
    pub weights: &'static [u32],
    /// Envoy's own policy.
    pub lb: Lb,
    /// The plugin's.
    pub lb_policy: Value,
    /// Of both: Envoy's form is the plugin's.
    pub hash_policy: Value,
    /// Options of Envoy's own policy, as `"name":value`.
    pub native: &'static str,
    /// One request after another instead of several at once: what is in flight matters.
    pub alone: bool,
}

/// Both Envoys of a case, with the same upstreams.
struct Pair {
    native: Harness,
    ours: Harness,
    /// What ours had counted before.
    before: [u64; 2],
}

/// Requests that the plugin has planned, and left to Envoy.
async fn counted(ours: &Harness) -> [u64; 2] {
    let metrics = ours.metrics().await.unwrap();
    ["cluster.backend.requests", "requests_untouched"]
        .map(|name| metrics.get(name).copied().unwrap_or(0))
}

impl Case {
    /// Maglev, keyed by `x-key`.
    pub fn maglev(name: &'static str, weights: &'static [u32]) -> Self {
        let lb_policy = json!({"maglev": {}});
        let hash_policy = by_key();
        Self { name, weights, lb: Lb::Maglev, lb_policy, hash_policy, native: "", alone: false }
    }

    /// A hash ring, keyed by `x-key`.
    pub fn ring_hash(name: &'static str, weights: &'static [u32]) -> Self {
        let lb_policy = json!({"ring_hash": {}});
        let hash_policy = by_key();
        Self { name, weights, lb: Lb::RingHash, lb_policy, hash_policy, native: "", alone: false }
    }

    /// The same with the load bounded at 125 % of the mean, one request after another.
    pub fn bounded(mut self) -> Self {
        for settings in self.lb_policy.as_object_mut().unwrap().values_mut() {
            settings["hash_balance_factor"] = json!(125);
        }
        self.native = r#""consistent_hashing_lb_config":{"hash_balance_factor":125}"#;
        self.alone = true;
        self
    }

    /// Starts both Envoys. Each endpoint is a process of its own or a port of one.
    async fn start(&self, processes: bool) -> Option<Pair> {
        let message = match self.lb {
            Lb::Maglev => "maglev.v3.Maglev\"",
            _ => "ring_hash.v3.RingHash\"",
        };
        let count = self.weights.len();
        let (endpoints, ports) = if processes { (count, 1) } else { (1, count) };
        let mut native = patient()
            .flavour(Flavour::Native)
            .lb(self.lb)
            .endpoints(endpoints)
            .ports(ports)
            .weights(self.weights)
            .edit(
                "hash_policy: [{header: {header_name: x-key}}]",
                &format!("hash_policy: {}", self.hash_policy),
            );
        if processes {
            native = native
                .edit("consecutive_5xx: 5", NOBODY_OUT)
                .edit("enforcing_consecutive_gateway_failure: 100", "");
        }
        if !self.native.is_empty() {
            native = native.edit(message, &format!("{message},{}", self.native));
        }
        let native = native.start().await.unwrap()?;
        let config = json!({"defaults": {
            "lb_policy": self.lb_policy, "hash_policy": self.hash_policy,
            "circuit_breaker": {
                "consecutive_failures": 0, "success_rate": {"threshold_percent": 0},
            },
            "retry": {"budget": {"percent": 100, "min_retries_per_second": 1000}},
        }});
        // Who has failed is trusted again by the worker that has seen its good answer.
        let workers = if processes { 1 } else { 2 };
        let ours = patient().lb(Lb::RoundRobin).concurrency(workers).upstreams_of(&native);
        let ours = ours.weights(self.weights).config(config).start().await.unwrap()?;
        super::knows_endpoints(&ours, count as u64).await;
        super::expect_steering(&ours, "/").await;
        let before = counted(&ours).await;
        Some(Pair { native, ours, before })
    }

    fn exchange(&self, harness: &Harness, requests: &[Vec<u8>]) -> Vec<wire::Answer> {
        let exchange = if self.alone { wire::exchange_over_one } else { wire::exchange };
        exchange(harness.envoy().entry, requests)
    }

    /// Sends the requests through both and expects the same endpoint for each.
    pub async fn expect_equal(self, requests: &[Vec<u8>]) {
        let ports = self.weights.len();
        let Some(Pair { native, ours, before }) = self.start(false).await else { return };
        let begin = Instant::now();
        let theirs = self.exchange(&native, requests);
        let between = begin.elapsed();
        let got = self.exchange(&ours, requests);
        let took = begin.elapsed();
        let equal = theirs.iter().zip(&got).filter(|(a, b)| a == b).count();
        // A retry goes elsewhere by design; none is expected of upstreams that do not fail.
        for harness in [&native, &ours] {
            let retries = harness.counter("cluster.backend.upstream_rq_retry").await.unwrap();
            assert_eq!(retries, 0, "{}: the machine is too busy to compare", self.name);
        }
        println!(
            "{}: {equal} of {} equal; Envoy {between:.1?}, Outrigger {:.1?}",
            self.name,
            requests.len(),
            took.saturating_sub(between),
        );
        for ((request, a), b) in requests.iter().zip(&theirs).zip(&got) {
            let text = String::from_utf8_lossy(request);
            assert_eq!((a.status, b.status), (200, 200), "{}: {text}", self.name);
            assert_eq!(a.upstream, b.upstream, "{}: Envoy's and ours for\n{text}", self.name);
        }
        let mut used: Vec<&str> = got.iter().map(|answer| answer.upstream.as_str()).collect();
        used.sort_unstable();
        used.dedup();
        assert_eq!(used.len(), ports, "{}: every endpoint has keys", self.name);
        let all = [before[0] + requests.len() as u64, before[1]];
        let planned = async |h: &Harness| Ok(counted(h).await == all);
        ours.eventually("every request was planned", planned).await.unwrap();
    }

    /// Has the first attempt of each request answered with 503 and expects the second one at the
    /// same endpoint in both. Where Envoy's rule gives no second endpoint it sends the request to
    /// the first one again; those, at most one in fifty, only have to be answered by ours.
    pub async fn expect_equal_second_choices(self, requests: &[Vec<u8>]) {
        let Some(Pair { native, ours, before }) = self.start(true).await else { return };
        let first = self.exchange(&native, requests);
        assert_eq!(first, self.exchange(&ours, requests), "{}: first choices", self.name);
        let (mut equal, mut again) = (0, 0);
        for upstream in native.upstreams() {
            let address = upstream.address().to_string();
            let own = requests.iter().zip(&first).filter(|(_, answer)| answer.upstream == address);
            let own: Vec<Vec<u8>> = own.map(|(request, _)| request.clone()).collect();
            upstream.fault(&FaultSpec::status(503)).await.unwrap();
            let theirs = self.exchange(&native, &own);
            let got = self.exchange(&ours, &own);
            upstream.fault(&FaultSpec::none()).await.unwrap();
            // Who has failed twice in a row is trusted less until an answer of its own is good.
            let trusted = async |h: &Harness| {
                tokio::time::sleep(Duration::from_millis(200)).await;
                Ok(self.exchange(h, &own).iter().all(|answer| answer.upstream == address))
            };
            ours.eventually("its keys come back to it", trusted).await.unwrap();
            for ((request, theirs), got) in own.iter().zip(&theirs).zip(&got) {
                let text = String::from_utf8_lossy(request);
                assert_eq!(got.status, 200, "{}: {text}", self.name);
                assert_ne!(got.upstream, address, "{}: {text}", self.name);
                if theirs.status == 503 {
                    again += 1;
                } else {
                    assert_eq!(theirs.upstream, got.upstream, "{}: {text}", self.name);
                    equal += 1;
                }
            }
        }
        println!("{}: {equal} second choices equal, {again} where Envoy has none", self.name);
        assert_eq!(equal + again, requests.len());
        assert!(again * 50 <= requests.len(), "{}: {again}", self.name);
        let retries = native.counter("cluster.backend.upstream_rq_retry").await.unwrap();
        assert!(retries >= requests.len() as u64, "{}: {retries} retries", self.name);
        assert_eq!(counted(&ours).await[1], before[1], "{}: every request was planned", self.name);
    }
}

/// Envoy's outlier detection, without taking anybody out.
const NOBODY_OUT: &str = "enforcing_consecutive_5xx: 0
      enforcing_consecutive_gateway_failure: 0
      enforcing_consecutive_local_origin_failure: 0
      enforcing_success_rate: 0
      enforcing_local_origin_success_rate: 0";

/// Time-outs that a busy machine does not reach.
fn patient() -> Builder {
    Harness::builder()
        .edit("per_try_timeout: 0.5s", "per_try_timeout: 4.5s")
        .edit("connect_timeout: 0.25s", "connect_timeout: 4.5s")
}

fn by_key() -> Value {
    json!([{"header": {"header_name": "x-key"}}])
}

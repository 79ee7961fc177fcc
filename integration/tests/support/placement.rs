//! The same request lands on the same endpoint in plain Envoy and through the plugin.
//!
//! Two Envoys with the same upstreams: one with its own `MAGLEV` or `RING_HASH` and the route's
//! `hash_policy`, one with the plugin, whose fallback is round robin, so that equality cannot come
//! from the fallback.

use std::time::Instant;

use integration::bootstrap::{Flavour, Lb};
use integration::harness::{Builder, Harness};
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
}

impl Case {
    /// Maglev, keyed by `x-key`.
    pub fn maglev(name: &'static str, weights: &'static [u32]) -> Self {
        let lb_policy = json!({"maglev": {}});
        Self { name, weights, lb: Lb::Maglev, lb_policy, hash_policy: by_key(), native: "" }
    }

    /// A hash ring, keyed by `x-key`.
    pub fn ring_hash(name: &'static str, weights: &'static [u32]) -> Self {
        let lb_policy = json!({"ring_hash": {}});
        Self { name, weights, lb: Lb::RingHash, lb_policy, hash_policy: by_key(), native: "" }
    }

    /// Sends the requests through both and expects the same endpoint for each.
    pub async fn expect_equal(self, requests: &[Vec<u8>]) {
        let ports = self.weights.len();
        let message = match self.lb {
            Lb::Maglev => "maglev.v3.Maglev\"",
            _ => "ring_hash.v3.RingHash\"",
        };
        let mut native = patient()
            .flavour(Flavour::Native)
            .lb(self.lb)
            .endpoints(1)
            .ports(ports)
            .weights(self.weights)
            .edit(
                "hash_policy: [{header: {header_name: x-key}}]",
                &format!("hash_policy: {}", self.hash_policy),
            );
        if !self.native.is_empty() {
            native = native.edit(message, &format!("{message},{}", self.native));
        }
        let Some(native) = native.start().await.unwrap() else { return };
        let config = json!({"defaults": {
            "lb_policy": self.lb_policy, "hash_policy": self.hash_policy,
        }});
        let ours =
            patient().lb(Lb::RoundRobin).upstreams_of(&native).weights(self.weights).config(config);
        let Some(ours) = ours.start().await.unwrap() else { return };
        super::knows_endpoints(&ours, ports as u64).await;

        let begin = Instant::now();
        let theirs = wire::exchange(native.envoy().entry, requests);
        let between = begin.elapsed();
        let got = wire::exchange(ours.envoy().entry, requests);
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
        let planned = async |h: &Harness| Ok(h.metric("requests").await? == requests.len() as u64);
        ours.eventually("every request was planned", planned).await.unwrap();
        assert_eq!(ours.metric("requests_untouched").await.unwrap(), 0);
    }
}

/// Time-outs that a busy machine does not reach.
fn patient() -> Builder {
    Harness::builder()
        .edit("per_try_timeout: 0.5s", "per_try_timeout: 4.5s")
        .edit("connect_timeout: 0.25s", "connect_timeout: 4.5s")
}

fn by_key() -> Value {
    json!([{"header": {"header_name": "x-key"}}])
}

//! The table of metrics is what Envoy shows, and nothing else.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a test")]

mod support;

use std::collections::BTreeSet;

use integration::harness::Harness;
use integration::http;
use outrigger_policy::metrics::{METRICS, Scope, full_name};
use serde_json::json;
use support::{knows_endpoints, wire};

/// A name as Istio writes it: dots in it must not confuse the tag.
const ISTIO: &str = "outbound|80||a.b.svc.cluster.local";

/// Started, with some requests and a configuration that was refused, so that all is defined.
async fn started() -> Option<Harness> {
    let endpoints = json!({"endpoints": [{"address": "10.0.0.1:80"}]});
    let config = json!({"clusters": [
        {"name": "backend"}, {"name": ISTIO, "membership": {"static": endpoints}},
    ]});
    let harness = Harness::builder().config(config).start().await.unwrap()?;
    knows_endpoints(&harness, 3).await;
    wire::exchange(harness.envoy().entry, &vec![wire::get("/", &[]); 50]);
    let counted = async |h: &Harness| Ok(h.metric("requests").await? == 50);
    harness.eventually("requests are counted", counted).await.unwrap();
    Some(harness)
}

#[tokio::test]
async fn every_metric_of_the_table_is_among_envoys_stats_and_no_other() {
    let Some(harness) = started().await else { return };
    let stats = harness.envoy().stats().await.unwrap();
    let prefix = "wasmcustom.";
    let shown: BTreeSet<_> =
        stats.keys().filter(|name| name.starts_with(prefix)).cloned().collect();
    let expected: BTreeSet<_> = METRICS
        .iter()
        .flat_map(|metric| match metric.scope {
            Scope::Process => vec![full_name(metric, "")],
            Scope::Cluster => vec![full_name(metric, "backend"), full_name(metric, ISTIO)],
        })
        .map(|name| format!("{prefix}{name}"))
        .collect();
    assert_eq!(shown, expected);
}

#[tokio::test]
async fn prometheus_shows_every_metric_with_its_kind_and_the_cluster_as_a_tag() {
    let Some(harness) = started().await else { return };
    let text = http::get(harness.envoy().admin, "/stats/prometheus").await.unwrap();
    let text = String::from_utf8(text.to_vec()).unwrap();
    let ours: Vec<&str> = text.lines().filter(|line| line.contains("outrigger")).collect();
    let mut expected = 0;
    for metric in METRICS {
        let name = format!("outrigger_{}", metric.name);
        let kind = format!("# TYPE {name} {}", format!("{:?}", metric.kind).to_lowercase());
        assert!(ours.contains(&kind.as_str()), "no {kind:?} in {ours:#?}");
        expected += 1;
        let lines = match metric.scope {
            Scope::Process => vec![format!("{name}{{}} ")],
            Scope::Cluster => ["backend", ISTIO]
                .map(|cluster| format!("{name}{{outrigger_cluster=\"{cluster}\"}} "))
                .to_vec(),
        };
        for begin in lines {
            assert!(ours.iter().any(|line| line.starts_with(&begin)), "no {begin:?} in {ours:#?}");
            expected += 1;
        }
    }
    let named: Vec<_> = ours
        .iter()
        .filter(|line| line.trim_start_matches("# TYPE ").starts_with("outrigger_"))
        .collect();
    assert_eq!(named.len(), expected, "{named:#?}");
    let requests = "outrigger_requests{outrigger_cluster=\"backend\"} 50";
    assert!(ours.contains(&requests), "{ours:#?}");
}

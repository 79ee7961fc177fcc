//! A configuration is taken whole or refused with the path of what is wrong, at the start and
//! while requests are served; what was learned outlives it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a test")]

mod support;

use integration::bootstrap::Flavour;
use integration::harness::Harness;
use integration::upstream::fault::FaultSpec;
use serde_json::{Value, json};
use support::{expect_alive_and_steering, knows_endpoints, wire};

/// Configurations that are wrong, and what is said of each.
const WRONG: [(&str, &str); 10] = [
    (
        r#"{"clusters":[{"name":"backend","retry":{"budget":{"percent":250}}}]}"#,
        "clusters[0].retry.budget.percent: must be 0..100, got 250",
    ),
    (r#"{"defaults":{"retri":{}}}"#, "defaults.retri"),
    (r#"{"clusters":[{}]}"#, "clusters[0].name"),
    (r#"{"clusters":{}}"#, "clusters: "),
    (r#"{"clusters":[{"name":"a"},{"name":"a"}]}"#, "clusters[1].name"),
    (
        r#"{"defaults":{"lb_policy":{"maglev":{"table_size":65536}}}}"#,
        "lb_policy.maglev.table_size",
    ),
    (r#"{"membership":{"envoy_admin":{"interval":"1"}}}"#, "membership.envoy_admin.interval"),
    (
        concat!(
            r#"{"clusters":[{"name":"a","membership":"#,
            r#"{"static":{"endpoints":[{"address":"::1:80"}]}}}]}"#,
        ),
        "clusters[0].membership.static.endpoints[0].address",
    ),
    ("{", "not valid JSON"),
    ("\u{1F4A5} no JSON", "not valid JSON"),
];

fn sticky_by(header: &str) -> Value {
    json!({"defaults": {
        "lb_policy": {"maglev": {}}, "hash_policy": [{"header": {"header_name": header}}],
    }})
}

/// Whether every request with the same value of `header` goes to one endpoint.
fn is_sticky_by(harness: &Harness, header: &str) -> bool {
    let request = wire::get("/", &[(header.to_owned(), "v".to_owned())]);
    let answers = wire::exchange(harness.envoy().entry, &vec![request; 40]);
    assert!(answers.iter().all(|answer| answer.status == 200));
    answers.windows(2).all(|pair| pair[0] == pair[1])
}

#[tokio::test]
async fn a_wrong_configuration_at_the_start_is_refused_with_its_path_in_envoys_log() {
    for (config, complaint) in [WRONG[0], WRONG[8]] {
        // The same start without the plugin tells whether there is an Envoy at all.
        let plain = Harness::builder().flavour(Flavour::PassThrough).endpoints(1);
        let Some(plain) = plain.start().await.unwrap() else { return };
        let builder = Harness::builder().upstreams_of(&plain).config_text(config);
        let error = builder.try_start().await.expect_err("Envoy took it");
        let text = format!("{error:#}");
        assert!(text.contains("refused"), "{text}");
        assert!(text.contains(complaint), "no {complaint:?} in {text}");
    }
}

#[tokio::test]
async fn a_wrong_update_is_refused_with_its_path_and_the_old_one_goes_on() {
    let builder = Harness::builder().config(sticky_by("x-old"));
    let Some(harness) = builder.start().await.unwrap() else { return };
    knows_endpoints(&harness, 3).await;
    let placed = async |h: &Harness| Ok(is_sticky_by(h, "x-old"));
    harness.eventually("tables are built", placed).await.unwrap();
    for (wrong, complaint) in WRONG {
        assert!(!harness.reconfigure(wrong).await.unwrap(), "Envoy took {wrong}");
        let told = async |h: &Harness| Ok(h.envoy().log().await.contains(complaint));
        harness.eventually(&format!("the log has {complaint:?}"), told).await.unwrap();
        assert!(is_sticky_by(&harness, "x-old"), "{wrong}");
    }
    let rejected = harness.metric("config_rejected").await.unwrap();
    assert_eq!(rejected, WRONG.len() as u64, "config_rejected");
    expect_alive_and_steering(&harness).await;
}

#[tokio::test]
async fn a_good_update_counts_at_once_and_without_a_restart() {
    let builder = Harness::builder().config(sticky_by("x-old"));
    let Some(harness) = builder.start().await.unwrap() else { return };
    knows_endpoints(&harness, 3).await;
    let placed = async |h: &Harness| Ok(is_sticky_by(h, "x-old") && !is_sticky_by(h, "x-new"));
    harness.eventually("tables are built", placed).await.unwrap();
    let pid = harness.envoy().pid();
    for (now, before) in [("x-new", "x-old"), ("x-old", "x-new"), ("x-new", "x-old")] {
        assert!(harness.reconfigure(&sticky_by(now).to_string()).await.unwrap());
        // Connections that are kept stay on the old listener until it has drained; these are new.
        let taken = async |h: &Harness| Ok(is_sticky_by(h, now) && !is_sticky_by(h, before));
        harness.eventually(&format!("{now} counts after {before}"), taken).await.unwrap();
    }
    assert_eq!(harness.envoy().pid(), pid);
    expect_alive_and_steering(&harness).await;
}

#[tokio::test]
async fn an_ejected_endpoint_stays_out_over_an_update_of_the_configuration() {
    let config = |percent: u32| {
        json!({"defaults": {
            "circuit_breaker": {"base_ejection_time": "60s", "max_ejection_time": "120s"},
            "retry": {"budget": {"percent": percent}},
        }})
    };
    let Some(harness) = Harness::builder().config(config(20)).start().await.unwrap() else {
        return;
    };
    knows_endpoints(&harness, 3).await;
    harness.upstream(0).fault(&FaultSpec::status(503)).await.unwrap();
    let out = async |h: &Harness| {
        wire::exchange(h.envoy().entry, &vec![wire::get("/", &[]); 40]);
        Ok(h.metric("endpoints_held_out").await? == 1)
    };
    harness.eventually("the failing one is out", out).await.unwrap();
    let ejections = harness.metric("ejections").await.unwrap();

    for percent in [30, 40] {
        assert!(harness.reconfigure(&config(percent).to_string()).await.unwrap());
        // Nothing is waited for: a worker knows what was learned from its first request on.
        harness.upstream(0).reset_stats().await.unwrap();
        let answers = wire::exchange(harness.envoy().entry, &vec![wire::get("/", &[]); 400]);
        assert!(answers.iter().all(|answer| answer.status == 200));
        let tried = harness.upstream(0).stats().await.unwrap().requests;
        assert_eq!(tried, 0, "requests to the ejected endpoint after update to {percent}");
        assert_eq!(harness.metric("endpoints_held_out").await.unwrap(), 1);
    }
    assert_eq!(harness.metric("ejections").await.unwrap(), ejections, "it was not ejected anew");
    expect_alive_and_steering(&harness).await;
}

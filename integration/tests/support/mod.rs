//! What end-to-end tests share: raw connections, a false admin interface, endpoints that hold their
//! requests, placement beside plain Envoy's, and whether the plugin is still alive.

// Each test file uses its part.
#![allow(dead_code, unreachable_pub)]

pub mod admin;
pub mod holders;
pub mod placement;
pub mod shares;
pub mod wire;

use std::time::Duration;

use integration::harness::{Builder, Harness};

/// What a route needs so that cookies of the plugin reach the client, as `envoy/README.md` has it.
const SET_COOKIES: &str = r#"
            response_headers_to_add:
            - header: {key: set-cookie, value: "%FILTER_STATE(wasm.outrigger_session:PLAIN)%"}
              append_action: APPEND_IF_EXISTS_OR_ADD
            - header: {key: set-cookie, value: "%FILTER_STATE(wasm.outrigger_cookie:PLAIN)%"}
              append_action: APPEND_IF_EXISTS_OR_ADD"#;

/// The virtual host adds cookies to the answer.
pub fn with_cookies(builder: Builder) -> Builder {
    const DOMAINS: &str = "domains: [\"*\"]";
    builder.edit(DOMAINS, &format!("{DOMAINS}{SET_COOKIES}"))
}

/// What a failed answer or VM makes Envoy count.
const FAILURES: [&str; 5] = ["fail", "crash", "reload", "error", "reject"];

/// Waits until the plugin knows so many endpoints of `backend`.
pub async fn knows_endpoints(harness: &Harness, count: u64) {
    let known = async |h: &Harness| Ok(h.metric("endpoints").await? == count);
    let what = format!("the plugin knows {count} endpoints");
    harness.eventually(&what, known).await.unwrap();
}

/// Waits until both workers have their tables: until then they leave requests to Envoy.
pub async fn expect_steering(harness: &Harness, path: &str) {
    const IN_A_ROW: u64 = 20;
    let steers = async |h: &Harness| {
        let before = h.metric("requests").await?;
        h.get_many(path, IN_A_ROW as usize).await?;
        let counted = async |h: &Harness| Ok(h.metric("requests").await? == before + IN_A_ROW);
        h.eventually_within(Duration::from_secs(1), "they are counted", counted).await?;
        Ok(true)
    };
    harness.eventually("every request is steered", steers).await.unwrap();
}

/// Sends GETs and waits until the plugin has counted each of them as planned: it steers, and no VM
/// has been lost on the way.
pub async fn expect_alive_and_steering(harness: &Harness) {
    const GETS: u64 = 20;
    expect_no_wasm_failure(harness).await;
    // What is still being flushed must not be counted in.
    let mut before = harness.metric("requests").await.unwrap();
    loop {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let now = harness.metric("requests").await.unwrap();
        if now == before {
            break;
        }
        before = now;
    }
    for reply in harness.get_many("/alive", 20).await.unwrap() {
        assert_eq!(reply.status, 200, "{reply:?}");
    }
    let counted = async |h: &Harness| Ok(h.metric("requests").await? == before + GETS);
    harness.eventually("every GET was planned", counted).await.unwrap();
    expect_no_wasm_failure(harness).await;
}

/// No VM was lost, reloaded or refused.
pub async fn expect_no_wasm_failure(harness: &Harness) {
    let stats = harness.envoy().stats().await.unwrap();
    let wasm: Vec<_> = stats.iter().filter(|(name, _)| name.starts_with("wasm.")).collect();
    assert!(!wasm.is_empty(), "Envoy has no wasm stats: {stats:?}");
    for (name, value) in wasm {
        let bad = FAILURES.iter().any(|word| name.contains(word));
        assert!(!bad || *value == 0, "{name} is {value}");
    }
    assert_eq!(harness.metric("host_failures").await.unwrap(), 0, "host_failures");
    let log = harness.envoy().log().await;
    assert!(!log.contains("Function: proxy_"), "a VM trapped:\n{log}");
}

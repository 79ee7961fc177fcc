//! What the plugin knows of endpoints comes from Envoy's admin, follows it, and survives whatever
//! the admin answers.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a test")]

mod support;

use std::net::SocketAddr;
use std::time::Duration;

use integration::bootstrap::Endpoint;
use integration::harness::Harness;
use integration::ports;
use integration::upstream::Upstream;
use serde_json::{Value, json};
use support::admin::{Answer, FakeAdmin, clusters_text};
use support::{expect_alive_and_steering, expect_steering, knows_endpoints, wire};

/// Keys whose endpoints show whether the plugin steers: the fallback is round robin.
const KEYS: usize = 60;

fn sticky() -> Value {
    json!({
        "membership": {"envoy_admin": {"interval": "500ms"}},
        "defaults": {
            "lb_policy": {"maglev": {}}, "hash_policy": [{"header": {"header_name": "x-key"}}],
        },
    })
}

/// Which endpoint each key leads to.
fn placement(harness: &Harness) -> Vec<String> {
    let request = |n| wire::get("/", &[("x-key".to_owned(), format!("key-{n}"))]);
    let requests: Vec<_> = (0..KEYS).map(request).collect();
    let answers = wire::exchange(harness.envoy().entry, &requests);
    answers
        .into_iter()
        .map(|answer| {
            assert_eq!(answer.status, 200);
            answer.upstream
        })
        .collect()
}

/// The answer that Envoy itself would give for these members.
fn truth(members: &[Endpoint]) -> Vec<u8> {
    clusters_text("backend", members.iter().map(|member| member.address.to_string()))
}

#[tokio::test]
async fn endpoints_that_join_get_their_keys_and_those_that_leave_lose_them() {
    let Some(harness) = Harness::builder().config(sticky()).start().await.unwrap() else { return };
    knows_endpoints(&harness, 3).await;
    let all = harness.members().to_vec();
    expect_steering(&harness, "/").await;
    let before = placement(&harness);
    assert_eq!(before, placement(&harness), "the plugin steers");

    harness.set_members(&all[..2]).unwrap();
    knows_endpoints(&harness, 2).await;
    let gone = all[2].address.to_string();
    // The other worker reads it on its next tick.
    let left = async |h: &Harness| {
        let (a, b) = (placement(h), placement(h));
        Ok(a == b && !a.contains(&gone))
    };
    harness.eventually("the one that left has no keys", left).await.unwrap();
    let kept = placement(&harness);
    let moved = before.iter().zip(&kept).filter(|(a, b)| **a != gone && a != b).count();
    assert!(moved <= KEYS / 10, "{moved} keys moved that need not");

    harness.set_members(&all).unwrap();
    knows_endpoints(&harness, 3).await;
    let back = async |h: &Harness| Ok(placement(h) == before);
    harness.eventually("every key is back where it was", back).await.unwrap();
    assert!(harness.metric("membership_updates").await.unwrap() >= 3);
    assert_eq!(harness.metric("membership_failures").await.unwrap(), 0);
    expect_alive_and_steering(&harness).await;
}

#[tokio::test]
async fn a_new_weight_is_followed() {
    let Some(harness) = Harness::builder().endpoints(2).start().await.unwrap() else { return };
    knows_endpoints(&harness, 2).await;
    let mut members = harness.members().to_vec();
    members[0].weight = 9;
    harness.set_members(&members).unwrap();
    let heavy = members[0].address.to_string();
    let share = async |h: &Harness| {
        let requests = vec![wire::get("/", &[]); 100];
        let answers = wire::exchange(h.envoy().entry, &requests);
        Ok(answers.iter().filter(|answer| answer.upstream == heavy).count() >= 85)
    };
    harness.eventually("the heavy one gets nine of ten", share).await.unwrap();
}

#[tokio::test]
async fn a_cluster_scaled_to_zero_and_back_is_served_again() {
    let Some(harness) = Harness::builder().config(sticky()).start().await.unwrap() else { return };
    knows_endpoints(&harness, 3).await;
    expect_steering(&harness, "/").await;
    let before = placement(&harness);
    harness.set_members(&[]).unwrap();
    knows_endpoints(&harness, 0).await;
    assert_eq!(harness.get("/").send().await.unwrap().status, 503, "nobody is there");
    harness.set_members(harness.members()).unwrap();
    let back =
        async |h: &Harness| Ok(h.get("/").send().await?.status == 200 && placement(h) == before);
    harness.eventually("all is as before", back).await.unwrap();
    expect_alive_and_steering(&harness).await;
}

/// Every wrong answer in turn: what was known stays, is counted and logged; then a good one counts.
async fn expect_the_last_good_set_to_survive(config: Value) {
    let mut admin = FakeAdmin::start(Answer::Whole(200, b"\n".to_vec()));
    let builder = Harness::builder().config(config).admin_cluster(admin.address());
    let Some(harness) = builder.start().await.unwrap() else { return };
    let good = truth(harness.members());
    admin.answer(Answer::Whole(200, good.clone()));
    knows_endpoints(&harness, 3).await;
    expect_steering(&harness, "/").await;
    let before = placement(&harness);
    assert_eq!(before, placement(&harness), "the plugin steers");

    let line = good.iter().rposition(|&b| b == b':').unwrap();
    let half = good.len() / 2;
    let after_newline = half + good[half..].iter().position(|&b| b == b'\n').unwrap() + 1;
    let text = String::from_utf8(good.clone()).unwrap();
    let wrong = [
        ("an error", Answer::Whole(500, good.clone())),
        ("not found", Answer::Whole(404, b"not found\n".to_vec())),
        ("nothing at all", Answer::Whole(200, Vec::new())),
        ("a page", Answer::Whole(200, b"<html>\n</html>\n".to_vec())),
        ("JSON", Answer::Whole(200, b"{\"cluster_statuses\": []}".to_vec())),
        ("no UTF-8", Answer::Whole(200, [good.as_slice(), b"backend::\xff\n"].concat())),
        ("cut within a line", Answer::Whole(200, good[..line].to_vec())),
        ("cut within a host", Answer::Whole(200, good[..after_newline].to_vec())),
        ("a weight of 0", Answer::Whole(200, text.replace("weight::1", "weight::0").into())),
        (
            "a huge weight",
            Answer::Whole(200, text.replace("weight::1", "weight::99999999999").into()),
        ),
        (
            "twice the cluster",
            Answer::Whole(200, [text.as_str(), "b::added_via_api::true\n", &text].concat().into()),
        ),
        ("33 MiB", Answer::Whole(200, vec![b'\n'; 33 << 20])),
        ("a body that breaks off", Answer::CutOff(good[..half].to_vec())),
        ("a hangup", Answer::Hangup),
        ("silence", Answer::Silence(Duration::from_secs(3))),
    ];
    for (what, answer) in wrong {
        // A good poll in between: the same complaint twice in a row is told once.
        expect_good_polls(&harness, &admin, &good).await;
        let failures = harness.metric("membership_failures").await.unwrap();
        let told = kept_lines(&harness).await;
        admin.answer(answer);
        expect_failures(&harness, what, failures, told).await;
        assert_eq!(harness.metric("endpoints").await.unwrap(), 3, "{what}");
        assert_eq!(placement(&harness), before, "{what}");
    }
    expect_good_polls(&harness, &admin, &good).await;
    let failures = harness.metric("membership_failures").await.unwrap();
    let told = kept_lines(&harness).await;
    admin.stop();
    expect_failures(&harness, "nothing listens", failures, told).await;
    assert_eq!(placement(&harness), before, "nothing listens");

    admin.answer(Answer::Whole(200, truth(&harness.members()[..2])));
    admin.listen();
    knows_endpoints(&harness, 2).await;
    expect_alive_and_steering(&harness).await;
}

async fn expect_good_polls(harness: &Harness, admin: &FakeAdmin, good: &[u8]) {
    admin.answer(Answer::Whole(200, good.to_vec()));
    let asked = admin.asked().len();
    // The third question comes when the answers to the first two have been read and flushed.
    let again = async |_: &Harness| Ok(admin.asked().len() > asked + 2);
    harness.eventually("a good answer was taken", again).await.unwrap();
}

async fn kept_lines(harness: &Harness) -> usize {
    harness.envoy().log().await.matches("membership kept as it was").count()
}

async fn expect_failures(harness: &Harness, what: &str, failures: u64, told: usize) {
    let more = async |h: &Harness| {
        let counted = h.metric("membership_failures").await? - failures;
        let told = kept_lines(h).await - told;
        if counted > 1 && told > 0 {
            return Ok(true);
        }
        anyhow::bail!("{counted} counted, {told} told in the log")
    };
    let what = format!("{what} is counted and told");
    harness.eventually(&what, more).await.unwrap();
}

#[tokio::test]
async fn no_wrong_answer_about_all_clusters_changes_what_is_known() {
    let mut config = sticky();
    config["membership"] = fast();
    expect_the_last_good_set_to_survive(config).await;
}

#[tokio::test]
async fn no_wrong_answer_about_a_named_cluster_changes_what_is_known() {
    let mut config = sticky();
    config["membership"] = fast();
    config["clusters"] = json!([{"name": "backend"}]);
    expect_the_last_good_set_to_survive(config).await;
}

fn fast() -> Value {
    json!({"envoy_admin": {"interval": "100ms", "timeout": "300ms"}})
}

#[tokio::test]
async fn with_no_admin_to_ask_requests_are_left_to_envoy_and_the_log_says_why() {
    let config = json!({"membership": {"envoy_admin": {"cluster": "no_such_cluster"}}});
    let Some(harness) = Harness::builder().config(config).start().await.unwrap() else { return };
    for reply in harness.get_many("/", 10).await.unwrap() {
        assert_eq!(reply.status, 200);
    }
    let told = async |h: &Harness| {
        let log = h.envoy().log().await;
        let untouched = h.metric("requests_untouched").await?;
        let failures = h.metric("membership_failures").await?;
        Ok(log.contains("no_such_cluster") && untouched == 10 && failures > 0)
    };
    harness.eventually("it is told and counted", told).await.unwrap();
}

#[tokio::test]
async fn ipv6_endpoints_are_steered_to() {
    if std::net::TcpListener::bind("[::1]:0").is_err() {
        eprintln!("SKIPPED: no IPv6 on this machine");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let builder = Harness::builder().without_members().config(sticky());
    let Some(harness) = builder.start().await.unwrap() else { return };
    let mut upstreams = Vec::new();
    for number in 0..3 {
        let address = SocketAddr::new("::1".parse().unwrap(), ports::free().unwrap().port());
        let name = format!("six{number}");
        upstreams
            .push(Upstream::start_process_on(&name, vec![address], folder.path()).await.unwrap());
    }
    let members: Vec<_> = upstreams.iter().map(|u| Endpoint::new(u.address())).collect();
    harness.set_members(&members).unwrap();
    knows_endpoints(&harness, 3).await;
    let steered = async |h: &Harness| Ok(placement(h) == placement(h));
    harness.eventually("keys stick to IPv6 endpoints", steered).await.unwrap();
    let mut used = placement(&harness);
    used.sort_unstable();
    used.dedup();
    assert_eq!(used.len(), 3, "{used:?}");
    assert!(used.iter().all(|address| address.starts_with("[::1]:")), "{used:?}");
    expect_alive_and_steering(&harness).await;
}

#[tokio::test]
async fn ten_thousand_endpoints_are_known_and_steered_to() {
    const COUNT: u32 = 10_000;
    let folder = tempfile::tempdir().unwrap();
    let mut config = sticky();
    config["membership"] = json!({"envoy_admin": {"interval": "1s", "timeout": "10s"}});
    let builder = Harness::builder().without_members().endpoints(1).config(config);
    let Some(harness) = builder.start().await.unwrap() else { return };
    // One process answers for all of 127/8.
    let any = SocketAddr::new([0, 0, 0, 0].into(), ports::free().unwrap().port());
    let _upstream = Upstream::start_process_on("many", vec![any], folder.path()).await.unwrap();
    let member = |n: u32| {
        let ip = std::net::Ipv4Addr::from(0x7F01_0000 + n);
        Endpoint::new(SocketAddr::new(ip.into(), any.port()))
    };
    let members: Vec<_> = (0..COUNT).map(member).collect();
    harness.set_members(&members).unwrap();
    knows_endpoints(&harness, COUNT.into()).await;
    let steered = async |h: &Harness| Ok(placement(h) == placement(h));
    harness.eventually("keys stick among 10,000", steered).await.unwrap();
    harness.set_members(&members[..members.len() - 1]).unwrap();
    knows_endpoints(&harness, u64::from(COUNT) - 1).await;
    assert_eq!(harness.metric("membership_failures").await.unwrap(), 0);
    expect_alive_and_steering(&harness).await;
}

#[tokio::test]
async fn one_worker_of_four_asks_for_the_whole_process() {
    const POLLS: usize = 8;
    let admin = FakeAdmin::start(Answer::Hangup);
    let config = json!({"membership": {"envoy_admin": {"interval": "1s"}}});
    let builder = Harness::builder().config(config).concurrency(4).admin_cluster(admin.address());
    let Some(harness) = builder.start().await.unwrap() else { return };
    admin.answer(Answer::Whole(200, truth(harness.members())));
    knows_endpoints(&harness, 3).await;
    // Every worker has requests, so that every one may take the poll over.
    let request = vec![wire::get("/", &[]); 400];
    wire::exchange(harness.envoy().entry, &request);
    let first = admin.asked().len();
    let enough = async |h: &Harness| {
        wire::exchange(h.envoy().entry, &request[..40]);
        Ok(admin.asked().len() > first + POLLS)
    };
    harness.eventually("it has been asked often", enough).await.unwrap();
    let asked = admin.asked();
    let gaps: Vec<_> =
        asked[first..].windows(2).map(|pair| pair[1].0.duration_since(pair[0].0)).collect();
    println!("time from poll to poll: {gaps:.2?}");
    // The first may still be another worker's: the lease moves once to one that has requests.
    let steady = &gaps[1..];
    let close = steady.iter().filter(|gap| **gap < Duration::from_millis(700)).count();
    assert!(close == 0, "several ask: {gaps:.2?}");
    let total: Duration = steady.iter().sum();
    let mean = total / u32::try_from(steady.len()).unwrap();
    assert!(mean < Duration::from_millis(1600), "too rarely: {gaps:.2?}");
    assert!(asked.iter().all(|(_, line)| line.starts_with("GET /clusters")), "{asked:?}");
}

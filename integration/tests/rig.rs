//! The rig itself: does a fault do what it says, does an Envoy start, does nothing outlive its
//! parent.

use integration::bootstrap::{Endpoint, Flavour, Lb};
use integration::harness::Harness;
use integration::load::{Load, Plan};
use integration::upstream::Upstream;
use integration::upstream::fault::FaultSpec;
use integration::{http, process};

async fn upstream() -> anyhow::Result<(Upstream, tempfile::TempDir)> {
    let folder = tempfile::tempdir()?;
    Ok((Upstream::start_process("u7", 2, folder.path()).await?, folder))
}

async fn ask(upstream: &Upstream) -> anyhow::Result<http::Reply> {
    let call = http::Call::new(upstream.address(), hyper::Method::GET, "/a?b=c");
    call.header("x-key", b"k\xff").timeout(std::time::Duration::from_millis(400)).send().await
}

#[tokio::test]
async fn an_upstream_names_itself_and_counts_only_what_is_served() {
    let (upstream, _folder) = upstream().await.unwrap();
    let reply = ask(&upstream).await.unwrap();
    assert_eq!((reply.status, reply.upstream()), (200, Some("u7")));
    assert_eq!(reply.upstream_address(), Some(upstream.address()));
    assert_eq!(reply.text(), "u7\n");
    let stats = upstream.stats().await.unwrap();
    assert_eq!((stats.requests, stats.in_flight, stats.in_flight_max), (1, 0, 1));
    let last = upstream.last_request().await.unwrap();
    assert_eq!((last.method.as_str(), last.path.as_str()), ("GET", "/a?b=c"));
    assert!(last.headers.iter().any(|(name, value)| name == "x-key" && value == "k\u{fffd}"));
    upstream.reset_stats().await.unwrap();
    assert_eq!(upstream.stats().await.unwrap().requests, 0);
}

#[tokio::test]
async fn every_fault_can_be_told_apart_by_a_client() {
    let (upstream, _folder) = upstream().await.unwrap();
    upstream.fault(&FaultSpec::status(429)).await.unwrap();
    assert_eq!(ask(&upstream).await.unwrap().status, 429);
    upstream.fault(&FaultSpec::delay(150)).await.unwrap();
    assert!(ask(&upstream).await.unwrap().elapsed.as_millis() >= 150);
    upstream.fault(&FaultSpec::reset()).await.unwrap();
    let error = format!("{:?}", ask(&upstream).await.unwrap_err());
    assert!(error.contains("reset"), "{error}");
    upstream.fault(&FaultSpec::stall()).await.unwrap();
    let error = format!("{:?}", ask(&upstream).await.unwrap_err());
    assert!(error.contains("no answer within"), "{error}");
    upstream.fault(&FaultSpec::none()).await.unwrap();
    assert_eq!(ask(&upstream).await.unwrap().status, 200);
    let stats = upstream.stats().await.unwrap();
    assert_eq!((stats.requests, stats.in_flight), (5, 0), "a client that left is counted out");
    assert_eq!(stats.outcomes["200"], 2);
}

#[tokio::test]
async fn a_client_that_gives_up_closes_its_connection() {
    let ms = std::time::Duration::from_millis;
    let (upstream, _folder) = upstream().await.unwrap();
    upstream.fault(&FaultSpec::delay(60_000)).await.unwrap();
    let plan = Plan { timeout: ms(200), ..Plan::get(50) };
    let load = Load::start(&plan, &[upstream.address()]);
    tokio::time::sleep(ms(150)).await;
    assert!(upstream.stats().await.unwrap().in_flight > 0);
    let records = load.finish().await.remove(0);
    assert!(!records.is_empty() && records.iter().all(|r| r.status == 0), "{records:?}");
    assert!(records.iter().all(|r| r.latency_us >= 200_000), "{records:?}");
    for _ in 0..400 {
        if upstream.stats().await.unwrap().in_flight == 0 {
            return;
        }
        tokio::time::sleep(ms(5)).await;
    }
    panic!("the upstream still waits for clients that are gone");
}

#[tokio::test]
async fn a_killed_upstream_comes_back_on_its_port_and_keeps_its_count() {
    let (upstream, _folder) = upstream().await.unwrap();
    ask(&upstream).await.unwrap();
    upstream.kill().await.unwrap();
    assert!(format!("{:?}", ask(&upstream).await.unwrap_err()).contains("refused"));
    upstream.start().await.unwrap();
    ask(&upstream).await.unwrap();
    assert_eq!(upstream.stats().await.unwrap().requests, 2);
}

#[tokio::test]
async fn a_frozen_upstream_accepts_and_says_nothing_until_it_is_thawed() {
    let (upstream, _folder) = upstream().await.unwrap();
    upstream.freeze().await.unwrap();
    let error = format!("{:?}", ask(&upstream).await.unwrap_err());
    assert!(error.contains("no answer within"), "{error}");
    upstream.thaw().await.unwrap();
    assert_eq!(ask(&upstream).await.unwrap().status, 200);
}

#[tokio::test]
async fn a_child_does_not_outlive_a_parent_that_is_killed() {
    use std::io::{BufRead, BufReader};
    let me = process::own_binary().unwrap();
    // sh is the parent; it starts a child of the kind that the rig starts, says its id, and is
    // killed with SIGKILL.
    let script = format!("{} child -- sleep 60 & echo $!; wait", me.display());
    let mut parent = std::process::Command::new("sh")
        .args(["-c", &script])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(parent.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let comm = format!("/proc/{}/comm", line.trim());
    let is_sleep = || std::fs::read_to_string(&comm).is_ok_and(|name| name.trim() == "sleep");
    while !is_sleep() {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    parent.kill().unwrap();
    parent.wait().unwrap();
    for _ in 0..400 {
        if !is_sleep() {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    panic!("sleep is still there");
}

#[tokio::test]
async fn an_envoy_without_the_plugin_serves_and_follows_its_membership_file() {
    for flavour in [Flavour::Native, Flavour::PassThrough] {
        let builder = Harness::builder().flavour(flavour).lb(Lb::RoundRobin).endpoints(2);
        let Some(harness) = builder.start().await.unwrap() else {
            return;
        };
        let names = |replies: Vec<http::Reply>| {
            let mut names: Vec<String> =
                replies.iter().filter_map(|r| r.upstream().map(str::to_owned)).collect();
            names.sort();
            names.dedup();
            names
        };
        assert_eq!(names(harness.get_many("/", 12).await.unwrap()), ["u1", "u2"]);
        harness.set_members(&[Endpoint::new(harness.upstream(1).address())]).unwrap();
        let gone =
            async |h: &Harness| Ok(h.counter("cluster.backend.membership_total").await? == 1);
        harness.eventually("one endpoint is gone", gone).await.unwrap();
        assert_eq!(names(harness.get_many("/", 6).await.unwrap()), ["u2"]);
    }
}

#[tokio::test]
async fn a_failed_wait_shows_what_was_awaited_and_envoys_log() {
    let builder = Harness::builder().flavour(Flavour::Native).endpoints(1);
    let Some(harness) = builder.start().await.unwrap() else {
        return;
    };
    let never = async |_: &Harness| anyhow::bail!("seen: nothing");
    let soon = std::time::Duration::from_millis(200);
    let error = harness.eventually_within(soon, "pigs fly", never).await.unwrap_err();
    let text = format!("{error:#}");
    for word in ["pigs fly", "seen: nothing", "Envoy's log ends"] {
        assert!(text.contains(word), "{text}");
    }
}

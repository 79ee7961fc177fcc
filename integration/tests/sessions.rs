//! Cookies that keep a client on its endpoint, on a real Envoy: sessions, and cookies that are made
//! for a hash. Each goes into the answer by the route's `response_headers_to_add`.

// Also in helpers, which the lints do not take for tests.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::collections::BTreeSet;

use integration::bootstrap::Endpoint;
use integration::harness::{Builder, Harness};
use integration::http::Reply;
use integration::upstream::fault::FaultSpec;
use serde_json::{Value, json};
use support::{expect_no_wasm_failure, expect_steering, knows_endpoints, with_cookies};

const SECRET: &str = "a secret of thirty-two characters";

fn session(secret: &str) -> Value {
    json!({
        "membership": {"envoy_admin": {"interval": "100ms"}},
        "defaults": {"session": {
            "cookie": {"name": "sid", "path": "/app", "ttl": "600s"}, "secret": secret,
        }},
    })
}

fn builder(endpoints: usize) -> Builder {
    with_cookies(Harness::builder().endpoints(endpoints).config(session(SECRET)))
}

async fn start(builder: Builder) -> Option<Harness> {
    let harness = builder.start().await.unwrap()?;
    knows_endpoints(&harness, harness.members().len() as u64).await;
    expect_steering(&harness, "/app").await;
    Some(harness)
}

/// Every `set-cookie` of an answer.
fn set_cookies(reply: &Reply) -> Vec<String> {
    let all = reply.headers.get_all("set-cookie").iter();
    all.map(|value| value.to_str().unwrap().to_owned()).collect()
}

/// What a browser would send back: `name=value` of the one cookie that the answer sets.
fn cookie_of(reply: &Reply) -> Option<String> {
    let all = set_cookies(reply);
    assert!(all.len() <= 1, "{all:?}");
    Some(all.first()?.split(';').next()?.to_owned())
}

async fn get_with(harness: &Harness, cookie: &str) -> Reply {
    let reply = harness.get("/app").header("cookie", cookie).send().await.unwrap();
    assert_eq!(reply.status, 200, "{reply:?}");
    reply
}

/// A new client: its cookie, and who answered.
async fn new_client(harness: &Harness) -> (String, String) {
    let reply = harness.get("/app").send().await.unwrap();
    assert_eq!(reply.status, 200, "{reply:?}");
    (cookie_of(&reply).expect("a cookie"), reply.upstream().unwrap().to_owned())
}

/// A new client that is served by this upstream.
async fn client_of(harness: &Harness, upstream: &str) -> String {
    const CLIENTS_MAX: usize = 200;
    for _ in 0..CLIENTS_MAX {
        let (cookie, by) = new_client(harness).await;
        if by == upstream {
            return cookie;
        }
    }
    panic!("{upstream} serves nobody");
}

/// Sends so many requests with this cookie, all of which this upstream must answer without setting
/// another.
async fn expect_stays(harness: &Harness, cookie: &str, upstream: &str, count: usize) {
    for number in 0..count {
        let reply = get_with(harness, cookie).await;
        assert_eq!(reply.upstream(), Some(upstream), "request {number}");
        assert_eq!(cookie_of(&reply), None, "request {number}");
    }
}

/// Replaces the members and waits until new clients are served by exactly these upstreams, and stay
/// there: a worker that does not know yet who has left gives out cookies for it.
async fn set_members(harness: &Harness, members: &[Endpoint], serving: &[&str]) {
    harness.set_members(members).unwrap();
    let expected: BTreeSet<String> = serving.iter().map(|&name| name.to_owned()).collect();
    let served = async |h: &Harness| {
        let mut seen = BTreeSet::new();
        for _ in 0..expected.len() * 10 {
            let (cookie, by) = new_client(h).await;
            let again = get_with(h, &cookie).await;
            if again.upstream() != Some(&by) || cookie_of(&again).is_some() {
                return Ok(false);
            }
            seen.insert(by);
        }
        Ok(seen == expected)
    };
    harness.eventually(&format!("{serving:?} serve"), served).await.unwrap();
}

#[tokio::test]
async fn a_client_that_returns_its_cookie_stays_while_the_cluster_grows() {
    let Some(harness) = start(builder(5)).await else { return };
    let all = harness.members().to_vec();
    set_members(&harness, &all[..3], &["u1", "u2", "u3"]).await;
    let (cookie, by) = new_client(&harness).await;
    expect_stays(&harness, &cookie, &by, 50).await;
    set_members(&harness, &all, &["u1", "u2", "u3", "u4", "u5"]).await;
    expect_stays(&harness, &cookie, &by, 50).await;
    // A cookie among others, twice, and after one of the same name that is nobody's.
    let among = format!("a=b; sid=other; {cookie}; {cookie}");
    expect_stays(&harness, &among, &by, 10).await;
    expect_no_wasm_failure(&harness).await;
}

#[tokio::test]
async fn a_session_cookie_has_its_attributes_and_names_no_address() {
    let Some(harness) = start(builder(3)).await else { return };
    let reply = harness.get("/app").send().await.unwrap();
    let [header] = <[String; 1]>::try_from(set_cookies(&reply)).unwrap();
    let (value, attributes) = header.split_once("; ").unwrap();
    assert_eq!(attributes, "Max-Age=600; Path=/app; HttpOnly");
    let token = value.strip_prefix("sid=\"1").unwrap().strip_suffix('"').unwrap();
    assert_eq!(token.len(), 32);
    assert!(token.bytes().all(|b| b.is_ascii_hexdigit()), "{token}");
    // Clients of one endpoint have the same cookie, those of two have two.
    let mut cookies = BTreeSet::new();
    for _ in 0..30 {
        cookies.insert(new_client(&harness).await.0);
    }
    assert_eq!(cookies.len(), 3);
}

#[tokio::test]
async fn what_is_no_cookie_of_ours_binds_nobody_and_leads_nowhere() {
    let Some(harness) = start(builder(4)).await else { return };
    let all = harness.members().to_vec();
    let left = client_of(&harness, "u4").await;
    set_members(&harness, &all[..3], &["u1", "u2", "u3"]).await;
    // The same endpoint's token by another secret, from another proxy of the same cluster.
    let foreign = with_cookies(Harness::builder().upstreams_of(&harness))
        .config(session("another secret of as many letters"));
    let Some(foreign) = start(foreign).await else { return };
    let foreign = client_of(&foreign, "u2").await;
    let address = all[3].address;
    let before = harness.upstream(3).stats().await.unwrap().requests;
    for cookie in [
        left,
        foreign,
        format!("sid={address}"),
        format!("sid=\"{address}\""),
        format!("sid=1{}", "0".repeat(32)),
        format!("sid=1{}", "f".repeat(31)),
        "sid=".to_owned(),
        "sid=\"".to_owned(),
        format!("sid={}", "1".repeat(4000)),
    ] {
        let mut seen = BTreeSet::new();
        for _ in 0..24 {
            let reply = get_with(&harness, &cookie).await;
            let by = reply.upstream().unwrap().to_owned();
            let own = cookie_of(&reply).expect("a cookie of its own");
            seen.insert((by, own));
        }
        assert_eq!(seen.len(), 3, "{cookie} binds: {seen:?}");
        for (by, own) in seen {
            expect_stays(&harness, &own, &by, 1).await;
        }
    }
    let after = harness.upstream(3).stats().await.unwrap().requests;
    assert_eq!(after, before, "who has left is not reached");
    expect_no_wasm_failure(&harness).await;
}

#[tokio::test]
async fn when_its_endpoint_dies_the_session_moves_and_the_cookie_names_who_answered() {
    let Some(harness) = start(builder(3)).await else { return };
    let old = client_of(&harness, "u1").await;
    let others = [client_of(&harness, "u2").await, client_of(&harness, "u3").await];
    harness.upstream(0).kill().await.unwrap();
    let mut cookie = old.clone();
    for _ in 0..5 {
        // Also once its breaker is open.
        let reply = get_with(&harness, &old).await;
        let by = reply.upstream().unwrap().to_owned();
        cookie = cookie_of(&reply).expect("a new cookie");
        let place = usize::from(by == "u3");
        assert_eq!(cookie, others[place], "it names {by}");
        expect_stays(&harness, &cookie, &by, 5).await;
    }
    // Clients without a cookie meet the dead one as well.
    for _ in 0..20 {
        let (cookie, by) = new_client(&harness).await;
        expect_stays(&harness, &cookie, &by, 1).await;
    }
    // The new session outlives the return of the old endpoint.
    let by = if cookie == others[0] { "u2" } else { "u3" };
    harness.upstream(0).start().await.unwrap();
    expect_stays(&harness, &cookie, by, 20).await;
    expect_no_wasm_failure(&harness).await;
}

#[tokio::test]
async fn a_failed_attempt_moves_the_session_to_the_endpoint_of_the_retry() {
    let Some(harness) = start(builder(3)).await else { return };
    let old = client_of(&harness, "u1").await;
    for fault in [FaultSpec::status(503), FaultSpec::reset()] {
        harness.upstream(0).fault(&fault).await.unwrap();
        let reply = get_with(&harness, &old).await;
        let by = reply.upstream().unwrap().to_owned();
        assert_ne!(by, "u1");
        let cookie = cookie_of(&reply).expect("a new cookie");
        expect_stays(&harness, &cookie, &by, 3).await;
        harness.upstream(0).fault(&FaultSpec::none()).await.unwrap();
        expect_stays(&harness, &old, "u1", 3).await;
    }
}

#[tokio::test]
async fn an_endpoint_that_drains_keeps_its_sessions_and_gets_no_new_ones() {
    let Some(harness) = start(builder(3)).await else { return };
    let cookie = client_of(&harness, "u1").await;
    let mut members = harness.members().to_vec();
    members[0].health_status = "DRAINING";
    set_members(&harness, &members, &["u2", "u3"]).await;
    expect_stays(&harness, &cookie, "u1", 30).await;
    for _ in 0..30 {
        assert_ne!(new_client(&harness).await.1, "u1");
    }
    // When it is gone, its clients get another one and a new cookie.
    set_members(&harness, &members[1..], &["u2", "u3"]).await;
    let moved = async |h: &Harness| {
        for _ in 0..20 {
            if cookie_of(&get_with(h, &cookie).await).is_none() {
                return Ok(false);
            }
        }
        Ok(true)
    };
    harness.eventually("the session is over in both workers", moved).await.unwrap();
    let reply = get_with(&harness, &cookie).await;
    let by = reply.upstream().unwrap().to_owned();
    assert_ne!(by, "u1");
    expect_stays(&harness, &cookie_of(&reply).unwrap(), &by, 10).await;
}

#[tokio::test]
async fn an_unhealthy_endpoint_loses_its_sessions() {
    let Some(harness) = start(builder(3)).await else { return };
    let cookie = client_of(&harness, "u1").await;
    let mut members = harness.members().to_vec();
    members[0].health_status = "UNHEALTHY";
    set_members(&harness, &members, &["u2", "u3"]).await;
    let reply = get_with(&harness, &cookie).await;
    let by = reply.upstream().unwrap().to_owned();
    assert_ne!(by, "u1");
    expect_stays(&harness, &cookie_of(&reply).unwrap(), &by, 10).await;
}

#[tokio::test]
async fn without_anything_to_set_no_set_cookie_is_sent() {
    let harness = with_cookies(Harness::builder().endpoints(2));
    let Some(harness) = start(harness).await else { return };
    for reply in harness.get_many("/", 10).await.unwrap() {
        assert_eq!(reply.status, 200);
        assert_eq!(set_cookies(&reply), Vec::<String>::new());
    }
    // An application's own cookies are left alone: they are not the plugin's.
    let cookies = ["app=1".to_owned(), "app2=2; Path=/".to_owned()];
    for upstream in harness.upstreams() {
        let headers = cookies.clone().map(|value| ("set-cookie".to_owned(), value));
        upstream.answer_with(&headers).await.unwrap();
    }
    let reply = harness.get("/").send().await.unwrap();
    assert_eq!(set_cookies(&reply), cookies);
}

#[tokio::test]
async fn an_applications_cookies_stay_beside_the_session() {
    let Some(harness) = start(builder(2)).await else { return };
    for upstream in harness.upstreams() {
        let header = ("set-cookie".to_owned(), "app=1".to_owned());
        upstream.answer_with(&[header]).await.unwrap();
    }
    let reply = harness.get("/app").send().await.unwrap();
    let all = set_cookies(&reply);
    assert_eq!(all.len(), 2, "{all:?}");
    assert_eq!(all[0], "app=1");
    assert!(all[1].starts_with("sid="), "{all:?}");
}

#[tokio::test]
async fn the_secret_is_in_no_log_no_metric_and_no_answer() {
    let Some(harness) = start(builder(3)).await else { return };
    let (cookie, _) = new_client(&harness).await;
    harness.upstream(0).kill().await.unwrap();
    for _ in 0..10 {
        get_with(&harness, &cookie).await;
    }
    // A configuration that is refused is quoted in the log, but not its secret.
    for field in [json!({"secret": SECRET, "cookie": {}}), json!({"secret": [SECRET]})] {
        let config = json!({"defaults": {"session": field}});
        assert!(!harness.reconfigure(&config.to_string()).await.unwrap());
    }
    let refused = async |h: &Harness| Ok(h.envoy().log().await.contains("refused"));
    harness.eventually("the refusal is in the log", refused).await.unwrap();
    let log = harness.envoy().log().await;
    assert!(!log.contains(SECRET), "{log}");
    let admin = harness.envoy().admin;
    for page in ["/stats", "/clusters", "/listeners", "/server_info"] {
        let text = integration::http::get(admin, page).await.unwrap();
        let text = String::from_utf8_lossy(&text).into_owned();
        assert!(!text.contains(SECRET), "{page}: {text}");
    }
    let dump = integration::http::get(admin, "/config_dump").await.unwrap();
    let dump = String::from_utf8_lossy(&dump).into_owned();
    assert!(dump.contains(SECRET), "the README says that config_dump shows it");
}

fn hashed(ttl: &str) -> Builder {
    let config = json!({"defaults": {
        "lb_policy": {"ring_hash": {}},
        "hash_policy": [{"cookie": {"name": "hash", "ttl": ttl, "path": "/"}}],
    }});
    with_cookies(Harness::builder().endpoints(4).config(config))
}

#[tokio::test]
async fn a_cookie_that_is_made_for_the_hash_keeps_its_client_where_the_first_answer_came_from() {
    let Some(harness) = start(hashed("90s")).await else { return };
    let mut seen = BTreeSet::new();
    for _ in 0..30 {
        let reply = harness.get("/").send().await.unwrap();
        let by = reply.upstream().unwrap().to_owned();
        let [header] = <[String; 1]>::try_from(set_cookies(&reply)).unwrap();
        let (cookie, attributes) = header.split_once("; ").unwrap();
        assert_eq!(attributes, "Max-Age=90; Path=/; HttpOnly");
        expect_stays(&harness, cookie, &by, 3).await;
        seen.insert(by);
    }
    assert_eq!(seen.len(), 4, "clients are spread");
    // A value that the client made up is as good as any.
    let by = get_with(&harness, "hash=mine").await.upstream().unwrap().to_owned();
    expect_stays(&harness, "hash=mine", &by, 10).await;
}

#[tokio::test]
async fn a_hash_cookie_without_a_life_lasts_as_long_as_the_browser() {
    let Some(harness) = start(hashed("0s")).await else { return };
    let reply = harness.get("/").send().await.unwrap();
    let [header] = <[String; 1]>::try_from(set_cookies(&reply)).unwrap();
    assert_eq!(header.split_once("; ").unwrap().1, "Path=/; HttpOnly");
}

#[tokio::test]
async fn a_hash_cookie_and_a_session_are_set_together() {
    let config = json!({"defaults": {
        "lb_policy": {"maglev": {}},
        "hash_policy": [{"cookie": {"name": "hash", "ttl": "90s"}}],
        "session": {"cookie": {"name": "sid"}, "secret": SECRET},
    }});
    let Some(harness) = start(with_cookies(Harness::builder().config(config))).await else {
        return;
    };
    let reply = harness.get("/").send().await.unwrap();
    let all = set_cookies(&reply);
    assert_eq!(all.len(), 2, "{all:?}");
    assert!(all.iter().any(|cookie| cookie.starts_with("hash=")), "{all:?}");
    let sid = all.iter().find(|cookie| cookie.starts_with("sid=")).unwrap();
    assert!(sid.ends_with("\"; Path=/; HttpOnly"), "{sid}");
    let both: Vec<&str> = all.iter().filter_map(|cookie| cookie.split(';').next()).collect();
    expect_stays(&harness, &both.join("; "), reply.upstream().unwrap(), 10).await;
}

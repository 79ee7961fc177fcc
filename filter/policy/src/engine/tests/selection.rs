//! Who is chosen: slow start, doubts, priorities, subsets, sessions, bounded load.

use std::collections::BTreeMap;

use super::*;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

impl World {
    /// First choices of `requests` GETs that end well at once.
    fn firsts(&mut self, requests: u32) -> BTreeMap<String, u32> {
        let mut firsts = BTreeMap::new();
        for _ in 0..requests {
            let (tried, _) = self.run("", &|_| false);
            *firsts.entry(tried[0].clone()).or_default() += 1;
        }
        firsts
    }
}

const ROUND_ROBIN: &str = r#", "circuit_breaker": {"consecutive_failures": 10,
    "success_rate": {"threshold_percent": 0}}"#;

#[test]
fn an_endpoint_that_failed_twice_in_a_row_is_trusted_less_before_it_is_out() {
    let mut world = World::new(ROUND_ROBIN);
    let bad = "10.0.0.3:80";
    for _ in 0..4 {
        let request = world.request("GET", "");
        world.fail(&request, bad, 503);
    }
    // successes settle on the next tick
    let firsts = world.firsts(900);
    let share = firsts.get(bad).copied().unwrap_or(0);
    assert!(share < 40, "{firsts:?}: one success makes it whole again, but that has to come first");
    world.advance(200);
    let trusted = world.firsts(1_000).get(bad).copied().unwrap_or(0);
    assert!(trusted > 150, "{trusted}");
}

#[test]
fn every_policy_gives_less_to_an_endpoint_that_fails_and_is_not_out() {
    for policy in
        ["round_robin", "random", "least_request", "peak_ewma", "ring_hash", "maglev", "rendezvous"]
    {
        let mut world = World::new(&format!(
            r#", "lb_policy": {{"{policy}": {{}}}}, "retry": {{"num_retries": 0}},
            "hash_policy": [{{"header": {{"header_name": "x-key"}}}}],
            "circuit_breaker": {{"consecutive_failures": 0,
                "success_rate": {{"threshold_percent": 0}}}}"#
        ));
        let bad = "10.0.0.3:80";
        let mut first = 0;
        for n in 0..2_000 {
            let (tried, _) = world.run(&format!("key-{n}"), &|address| address == bad);
            first += u32::from(tried[0] == bad);
            if n % 10 == 0 {
                world.advance(100);
            }
        }
        assert!(first < 200, "{policy}: {first} of 2000");
    }
}

#[test]
fn a_recovered_endpoint_comes_up_slowly_under_every_policy() {
    for policy in ["round_robin", "random", "least_request", "ring_hash", "maglev", "rendezvous"] {
        let mut world = World::new(&format!(
            r#", "lb_policy": {{"{policy}": {{}}}}, "slow_start": {{"slow_start_window": "100s"}},
            "hash_policy": [{{"header": {{"header_name": "x-key"}}}}]"#
        ));
        let back = "10.0.0.3:80";
        let mut n = 0;
        let mut share = |world: &mut World, fails: bool| {
            let mut firsts = 0;
            for _ in 0..1_000 {
                n += 1;
                let (tried, _) = world.run(&format!("key-{n}"), &|a| fails && a == back);
                firsts += u32::from(tried[0] == back);
            }
            world.advance(200);
            firsts
        };
        let before = share(&mut world, false);
        share(&mut world, true);
        world.advance(1_500);
        share(&mut world, false);
        world.advance(20_000);
        let rising = share(&mut world, false);
        world.advance(90_000);
        let after = share(&mut world, false);
        assert!(before > 120 && after > 120, "{policy}: {before}, {after}");
        assert!(rising > 10 && rising < 100, "{policy}: {rising} of 1000 at a fifth of the way");
    }
}

/// Five endpoints of priority 0 and five of priority 1.
fn two_priorities() -> World {
    let endpoints: Vec<String> = (0..10)
        .map(|n| format!(r#"{{"address": "10.0.{}.{n}:80", "priority": {}}}"#, n / 5, n / 5))
        .collect();
    let json = format!(
        r#"{{"clusters": [{{"name": "c", "match": {{"path_prefixes": ["/"]}},
        "circuit_breaker": {{"max_ejection_percent": 100}},
        "membership": {{"static": {{"endpoints": [{}]}}}}}}]}}"#,
        endpoints.join(",")
    );
    World::of(&json)
}

impl World {
    /// How many of 2,000 requests go to priority 1.
    fn spilt(&mut self) -> u32 {
        let firsts = self.firsts(2_000);
        firsts.iter().filter(|(address, _)| address.starts_with("10.0.1.")).map(|(_, n)| n).sum()
    }

    /// Opens the breakers of the first of priority 0.
    fn fail_first(&mut self, count: u32) {
        for n in 0..count {
            for _ in 0..5 {
                let request = self.request("GET", "");
                self.fail(&request, &format!("10.0.0.{n}:80"), 503);
            }
        }
    }
}

#[test]
fn load_spills_to_the_next_priority_by_envoys_rule() {
    let mut world = two_priorities();
    assert_eq!(world.spilt(), 0);
    world.fail_first(2);
    // three of five: 60 % x 1.4 = 84 % stay
    let spilt = world.spilt();
    assert!((260..=380).contains(&spilt), "{spilt} of 2000, 16 % expected");
}

#[test]
fn a_priority_that_is_out_as_a_whole_is_tried_again() {
    let mut world = two_priorities();
    world.fail_first(5);
    assert_eq!(world.spilt(), 2_000);
    world.advance(60_000);
    world.spilt();
    assert_eq!(world.spilt(), 0);
}

const SUBSETS: &str = r#"{"clusters": [{"name": "c", "match": {"path_prefixes": ["/"]},
    "subsets": {"selectors": [{"key": "version", "header": "x-version"}], "fallback": "FALLBACK"},
    "membership": {"static": {"endpoints": [
        {"address": "10.0.0.1:80", "metadata": {"version": "1"}},
        {"address": "10.0.0.2:80", "metadata": {"version": "2"}},
        {"address": "10.0.0.3:80", "metadata": {"version": "2"}},
        {"address": "10.0.0.4:80"}]}}}]}"#;

#[test]
fn a_request_that_selects_a_subset_stays_in_it() {
    let mut world = World::of(&SUBSETS.replace("FALLBACK", "any_endpoint"));
    for _ in 0..50 {
        let request = Request { version: "2".into(), ..world.request("GET", "") };
        let (mut list, _) = world.plan(&request).unwrap();
        list.sort();
        assert_eq!(list, ["10.0.0.2:80", "10.0.0.3:80"]);
    }
    let request = Request { version: "7".into(), ..world.request("GET", "") };
    assert_eq!(world.plan(&request).unwrap().0.len(), 3, "nobody has it: any endpoint");
    assert!(world.firsts(100).len() == 4, "no header: any endpoint");
    let mut world = World::of(&SUBSETS.replace("FALLBACK", "no_fallback"));
    let request = Request { version: "7".into(), ..world.request("GET", "") };
    assert!(world.plan(&request).is_none());
}

const SESSION: &str = r#", "session": {"cookie": {"name": "sid", "path": "/", "ttl": "60s"},
    "secret": "sixteen bytes at least"}"#;

impl World {
    /// The cookie that the last answer set, as the client sends it back.
    fn cookie(&mut self) -> Option<String> {
        let (cookie, header) = self.process.cookies.pop()?;
        assert_eq!(cookie, Cookie::Session);
        assert!(header.contains("Max-Age=60") && header.contains("HttpOnly"), "{header}");
        Some(header.split(';').next().unwrap().to_owned())
    }

    fn plan_with(&mut self, cookie: &str) -> Vec<String> {
        let request = Request { cookie: cookie.into(), ..self.request("GET", "") };
        self.plan(&request).unwrap().0
    }
}

#[test]
fn a_session_stays_where_it_began_and_its_cookie_is_set_once() {
    let mut world = World::new(SESSION);
    let began = world.plan_with("")[0].clone();
    let cookie = world.cookie().unwrap();
    assert!(!cookie.contains("10.0"), "{cookie} says nothing of the address");
    for _ in 0..20 {
        assert_eq!(world.plan_with(&format!("a=b; {cookie}"))[0], began);
        assert_eq!(world.cookie(), None);
    }
}

#[test]
fn a_cookie_that_nobody_made_binds_nothing_and_is_replaced() {
    let mut world = World::new(SESSION);
    world.plan_with("");
    let good = world.cookie().unwrap();
    let forged = format!("{}0", &good[..good.len() - 1]);
    for cookie in ["sid=", "sid=10.0.0.1:80", "sid=MTAuMC4wLjE6ODA", &forged, &good[..20]] {
        let firsts: std::collections::BTreeSet<String> =
            (0..30).map(|_| world.plan_with(cookie)[0].clone()).collect();
        let bound = firsts.len() == 1;
        assert!(!bound || cookie == good, "{cookie}");
        assert!(world.cookie().is_some());
    }
}

#[test]
fn a_session_moves_with_its_request_when_its_endpoint_fails() {
    let mut world = World::new(SESSION);
    let began = world.plan_with("")[0].clone();
    let cookie = world.cookie().unwrap();
    let request = Request { cookie: cookie.clone(), ..world.request("GET", "") };
    let (list, plan) = world.plan(&request).unwrap();
    assert_eq!(list[0], began);
    world.fail(&request, &list[0], 503);
    let moved = world.cookie().unwrap();
    world.answer(&plan, &list[1], 200);
    assert_eq!(world.plan_with(&moved)[0], list[1]);
    assert_eq!(world.plan_with(&cookie)[0], began, "the old one is not out yet");
    for _ in 0..5 {
        let request = world.request("GET", "");
        world.fail(&request, &began, 503);
    }
    assert_ne!(world.plan_with(&cookie)[0], began, "now it is");
    assert!(world.cookie().is_some());
}

#[test]
fn a_draining_endpoint_keeps_its_sessions_and_gets_no_new_ones() {
    let mut world = World::of(&format!(
        r#"{{"clusters": [{{"name": "c", "match": {{"path_prefixes": ["/"]}}{SESSION}}}]}}"#
    ));
    let host = |n: u32, health: &str| {
        let lines = ["weight::1", "region::", "zone::", "sub_zone::", "priority::0"];
        let health = format!("health_flags::{health}");
        let all = lines.iter().copied().chain([health.as_str()]);
        all.map(|line| format!("c::10.0.0.{n}:80::{line}\n")).collect::<String>()
    };
    let begin = "c::observability_name::c\nc::added_via_api::false\n".to_owned();
    let body = |first: &str| {
        [begin.clone(), host(1, first), host(2, "healthy"), host(3, "healthy")].concat()
    };
    let tell = |world: &mut World, text: &str| {
        world.engine.on_clusters_answer(text.as_bytes(), &mut world.process, world.now).unwrap()
    };
    assert!(tell(&mut world, &body("healthy")));
    let mut cookie = String::new();
    while world.plan_with("")[0] != "10.0.0.1:80" || cookie.is_empty() {
        cookie = world.cookie().unwrap();
    }
    let cookie = world.cookie().unwrap_or(cookie);
    assert_eq!(world.plan_with(&cookie)[0], "10.0.0.1:80");
    assert!(tell(&mut world, &body("/eds_status_draining")));
    for _ in 0..20 {
        assert_eq!(world.plan_with(&cookie)[0], "10.0.0.1:80");
        assert!(!world.plan_with("").contains(&"10.0.0.1:80".to_owned()));
    }
    assert!(tell(&mut world, &[begin.clone(), host(2, "healthy"), host(3, "healthy")].concat()));
    assert_ne!(world.plan_with(&cookie)[0], "10.0.0.1:80", "it is gone");
}

#[test]
fn no_endpoint_is_loaded_beyond_its_bound() {
    for policy in ["ring_hash", "maglev", "rendezvous"] {
        let mut world = World::new(&format!(
            r#", "lb_policy": {{"{policy}": {{"hash_balance_factor": 125}}}},
            "hash_policy": [{{"header": {{"header_name": "x-key"}}}}]"#
        ));
        let mut held = Vec::new();
        for n in 1..=400_u64 {
            let request = world.request("GET", if n % 4 == 0 { "other" } else { "hot" });
            let (list, plan) = world.plan(&request).unwrap();
            held.push((list, plan));
            let endpoints = world.process.active.iter().filter(|(slot, _)| **slot < 5);
            let most = *endpoints.map(|(_, count)| count).max().unwrap();
            let bound = i64::try_from((n * 125).div_ceil(100).div_ceil(5)).unwrap();
            assert!(most <= bound, "{policy}: {most} at {n} in flight, bound {bound}");
        }
        for (list, plan) in held {
            world.answer(&plan, &list[0], 200);
        }
        assert!(world.process.active.values().all(|count| *count == 0));
    }
}

#[test]
fn weights_follow_the_load_that_endpoints_report() {
    for policy in ["round_robin", "random", "rendezvous"] {
        let mut world = World::new(&format!(
            r#", "lb_policy": {{"{policy}": {{}}}}, "orca_weights": {{}},
            "hash_policy": [{{"header": {{"header_name": "x-key"}}}}]"#
        ));
        let busy = "10.0.0.3:80";
        let mut n = 0;
        let mut share = |world: &mut World| {
            let mut firsts = 0;
            for _ in 0..1_000 {
                n += 1;
                let request = world.request("GET", &format!("key-{n}"));
                let (list, plan) = world.plan(&request).unwrap();
                firsts += u32::from(list[0] == busy);
                let utilization = if list[0] == busy { 0.9 } else { 0.3 };
                let report = Report {
                    cpu_utilization: utilization,
                    rps_fractional: 100.0,
                    ..Report::default()
                };
                world.process.report = Some(report);
                world.answer(&plan, &list[0], 200);
                if n % 50 == 0 {
                    world.advance(1_000);
                    while world.engine.build(u32::MAX, world.now) {}
                }
            }
            firsts
        };
        share(&mut world);
        let after = share(&mut world);
        // a third of the weight of each of the other four
        assert!((40..=115).contains(&after), "{policy}: {after} of 1000, 77 expected");
    }
}

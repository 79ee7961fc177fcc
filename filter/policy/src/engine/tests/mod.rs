//! The engine as a whole, with time and randomness set by the test.

use std::collections::BTreeMap;

use super::*;
use crate::attempt::Retry;
use crate::attempt::budget::Totals;
use crate::config;
use crate::outcome::Class;
use crate::rng::{Rng, SplitMix64};
use crate::state::orca::Report;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

mod load;
mod selection;

/// A request of the tests.
#[derive(Clone, Default)]
struct Request {
    cookie: String,
    version: String,
    method: &'static str,
    id: String,
    key: String,
}

impl Head for Request {
    fn method(&self) -> &[u8] {
        self.method.as_bytes()
    }
    fn authority(&self) -> &[u8] {
        b"any"
    }
    fn path(&self) -> &[u8] {
        b"/"
    }
    fn request_id(&self) -> &[u8] {
        self.id.as_bytes()
    }
    fn values<'a>(&'a self, name: &[u8], each: &mut dyn FnMut(&'a [u8])) {
        let value = match name {
            b"x-key" => &self.key,
            b"cookie" => &self.cookie,
            b"x-version" => &self.version,
            _ => return,
        };
        if !value.is_empty() {
            each(value.as_bytes());
        }
    }
}

/// What the workers of one process share, in memory.
#[derive(Default)]
struct Process {
    cluster: &'static str,
    totals: Totals,
    permits: BTreeMap<u32, Instant>,
    clock: Instant,
    report: Option<Report>,
    cookies: Vec<(Cookie, String)>,
    active: BTreeMap<u32, i64>,
}

impl Environment for Process {
    fn cluster_name(&mut self, name: &mut Vec<u8>) -> bool {
        name.extend_from_slice(self.cluster.as_bytes());
        !self.cluster.is_empty()
    }
    fn source_address(&mut self, _: &mut Vec<u8>) -> bool {
        false
    }
    fn totals(&mut self, _: u32) -> Option<Totals> {
        Some(self.totals)
    }
    fn take_permit(&mut self, permit: u32, until: Instant, now: Instant) -> bool {
        let free = self.permits.get(&permit).is_none_or(|held| *held <= now);
        if free {
            self.permits.insert(permit, until);
        }
        free
    }
    fn release_permit(&mut self, permit: u32, free_from: Instant) {
        self.permits.insert(permit, free_from);
    }
    fn load_report(&mut self) -> Option<Report> {
        self.report
    }
    fn stream(&mut self) -> u32 {
        5
    }
    fn set_cookie(&mut self, stream: u32, cookie: Cookie, value: &[u8]) {
        assert_eq!(stream, 5);
        self.cookies.push((cookie, String::from_utf8(value.to_vec()).unwrap()));
    }
    fn clock(&mut self) -> Instant {
        self.clock
    }
    fn active(&mut self, slot: u32) -> i64 {
        self.active.get(&slot).copied().unwrap_or(0)
    }
    fn add_active(&mut self, slot: u32, by: i64) {
        *self.active.entry(slot).or_default() += by;
    }
}

/// One worker and the world around it.
struct World {
    engine: Engine,
    process: Process,
    rng: SplitMix64,
    now: Instant,
    requests: u64,
}

const ENDPOINTS: &str = r#"[{"address": "10.0.0.1:80"}, {"address": "10.0.0.2:80"},
    {"address": "10.0.0.3:80"}, {"address": "10.0.0.4:80"}, {"address": "10.0.0.5:80"}]"#;

impl World {
    /// Five endpoints and these further fields of the cluster.
    fn new(fields: &str) -> Self {
        let json = format!(
            r#"{{"clusters": [{{"name": "c", "match": {{"path_prefixes": ["/"]}},
                "membership": {{"static": {{"endpoints": {ENDPOINTS}}}}} {fields}}}]}}"#
        );
        Self::of(&json)
    }

    fn of(json: &str) -> Self {
        let config = config::parse(json.as_bytes()).unwrap();
        let mut engine = Engine::new(config, Site { seed: 7, ..Site::default() });
        while engine.build(u32::MAX, Instant::ZERO) {}
        let mut process = Process::default();
        if engine.wants_slots() {
            assert!(engine.claim_slots(&[], &mut process).is_some());
        }
        Self {
            engine,
            process,
            rng: SplitMix64::new(42),
            now: Instant::from_millis(1_000_000),
            requests: 0,
        }
    }

    fn advance(&mut self, ms: u64) {
        for _ in 0..ms.div_ceil(100) {
            self.now = Instant(self.now.0 + 100_000_000);
            self.engine.on_tick(&mut self.process, self.now);
        }
    }

    fn request(&mut self, method: &'static str, key: &str) -> Request {
        self.requests += 1;
        let id = format!("id-{}", self.requests);
        Request { method, id, key: key.into(), ..Request::default() }
    }

    /// Plans a request; its list and its plan.
    fn plan(&mut self, request: &Request) -> Option<(Vec<String>, Plan)> {
        let (process, rng) = (&mut self.process, &mut self.rng);
        match self.engine.on_request(request, process, rng, self.now) {
            Decision::Untouched => None,
            Decision::Plan(plan) => {
                let list = String::from_utf8(self.engine.list().to_vec()).unwrap();
                Some((list.split(',').map(String::from).collect(), plan))
            }
        }
    }

    fn fail(&mut self, request: &Request, address: &str, status: u64) -> Class {
        let attempt = Attempt {
            request_id: request.id.as_bytes(),
            cluster: b"c",
            address: address.as_bytes(),
            flags: 0,
            status,
            ..Attempt::default()
        };
        self.engine.on_attempt(&attempt, &mut self.process, &mut self.rng, self.now)
    }

    /// One GET as Envoy would run it: tries the list in order while `fails` says so.
    /// Returns the endpoints tried and whether the last one answered well.
    fn run(&mut self, key: &str, fails: &dyn Fn(&str) -> bool) -> (Vec<String>, bool) {
        let request = self.request("GET", key);
        let (list, plan) = self.plan(&request).unwrap();
        let most = if plan.retry == Retry::Deny { 1 } else { list.len() };
        let mut tried = Vec::new();
        for address in list.into_iter().take(most) {
            tried.push(address.clone());
            if !fails(&address) {
                self.answer(&plan, &address, 200);
                return (tried, true);
            }
            let last = tried.len() == most;
            if last {
                // the stream ends before its last attempt is reported
                self.answer(&plan, &address, 503);
            }
            self.fail(&request, &address, 503);
        }
        (tried, false)
    }

    fn answer(&mut self, plan: &Plan, address: &str, status: u64) {
        let (engine, process) = (&mut self.engine, &mut self.process);
        if engine.on_end(plan.id, process, self.now) == AfterEnd::Details {
            let address = address.as_bytes();
            engine.on_end_details(plan.id, address, (status, 0), process, self.now);
        }
    }

    fn sum(&mut self, id: Id) -> u64 {
        self.engine.cluster_sums().map(|(_, _, sums)| sums.get(id)).sum()
    }
}

#[test]
fn a_plan_lists_three_distinct_endpoints() {
    let mut world = World::new("");
    for _ in 0..100 {
        let request = world.request("GET", "");
        let (mut list, plan) = world.plan(&request).unwrap();
        assert_eq!(plan.retry, Retry::Widen);
        list.sort();
        list.dedup();
        assert_eq!(list.len(), 3);
    }
}

#[test]
fn five_failures_in_a_row_take_an_endpoint_out_and_the_others_carry_on() {
    let mut world = World::new("");
    let bad = "10.0.0.3:80";
    let mut on_bad = 0;
    for _ in 0..100 {
        let (tried, ok) = world.run("", &|address| address == bad);
        assert!(ok);
        on_bad += tried.iter().filter(|address| *address == bad).count();
    }
    assert_eq!(on_bad, 5);
    assert_eq!(world.sum(Id::Ejections), 1);
    let events = world.engine.take_events();
    assert!(matches!(&events[..], [Event { address, .. }] if address == bad));
}

#[test]
fn a_trial_goes_first_but_only_with_a_healthy_second_and_only_one_at_a_time() {
    let mut world = World::new(r#", "circuit_breaker": {"ejection_time_jitter_percent": 0}"#);
    let bad = "10.0.0.3:80";
    for _ in 0..100 {
        world.run("", &|address| address == bad);
    }
    world.advance(1100);
    let mut trials = Vec::new();
    for _ in 0..100 {
        let request = world.request("GET", "");
        let (list, _) = world.plan(&request).unwrap();
        if list.contains(&bad.to_string()) {
            assert_eq!(list[0], bad);
            assert_eq!(list.len(), 4, "it comes before a full list");
            trials.push(request);
        }
    }
    assert_eq!(trials.len(), 1);
    world.fail(&trials[0], bad, 503);
    assert_eq!(world.sum(Id::Ejections), 2, "out again, for longer");
    world.advance(1100);
    let (tried, _) = world.run("", &|address| address == bad);
    assert!(!tried.contains(&bad.to_string()), "two seconds have not passed");
}

#[test]
fn a_trial_that_succeeds_brings_the_endpoint_back_within_a_tick() {
    let mut world = World::new("");
    let bad = "10.0.0.3:80";
    for _ in 0..100 {
        world.run("", &|address| address == bad);
    }
    world.advance(2000);
    for _ in 0..20 {
        world.run("", &|_| false);
    }
    world.advance(100);
    assert_eq!(world.sum(Id::Recoveries), 1);
    let firsts: Vec<String> = (0..50).map(|_| world.run("", &|_| false).0[0].clone()).collect();
    assert_eq!(firsts.iter().filter(|address| *address == bad).count(), 10);
}

#[test]
fn a_post_leaves_trials_to_others_and_only_retries_what_was_not_sent() {
    let mut world = World::new(r#", "circuit_breaker": {"ejection_time_jitter_percent": 0}"#);
    let bad = "10.0.0.3:80";
    for _ in 0..100 {
        world.run("", &|address| address == bad);
    }
    world.advance(1500);
    for _ in 0..100 {
        let request = world.request("POST", "");
        let (list, plan) = world.plan(&request).unwrap();
        assert_eq!(plan.retry, Retry::NothingSent);
        assert!(!list.contains(&bad.to_string()));
    }
}

#[test]
fn where_only_posts_come_one_of_them_becomes_the_trial_in_the_end() {
    let mut world = World::new(r#", "circuit_breaker": {"ejection_time_jitter_percent": 0}"#);
    let bad = "10.0.0.3:80";
    for _ in 0..100 {
        world.run("", &|address| address == bad);
    }
    world.advance(2100);
    let firsts = (0..100).filter(|_| {
        let request = world.request("POST", "");
        world.plan(&request).unwrap().0[0] == bad
    });
    assert_eq!(firsts.count(), 1);
}

#[test]
fn endpoints_that_are_out_are_tried_when_those_that_are_in_die() {
    let fields = r#", "circuit_breaker": {"max_ejection_percent": 60,
        "healthy_panic_threshold": 0}"#;
    let mut world = World::new(fields);
    for _ in 0..100 {
        world.run("", &|address| address == "10.0.0.1:80" || address == "10.0.0.2:80");
    }
    assert_eq!(world.sum(Id::Ejections), 2);
    world.advance(2000);
    let mut served = 0;
    for i in 0..500 {
        // the two are well again, and the three others are gone
        let well = |a: &str| a == "10.0.0.1:80" || a == "10.0.0.2:80";
        served += u32::from(world.run("", &|address| !well(address)).1);
        if i % 50 == 0 {
            world.advance(100);
        }
    }
    assert!(served > 450, "{served} of 500");
}

#[test]
fn when_everybody_may_be_held_out_they_still_come_back() {
    let fields = r#", "circuit_breaker": {"max_ejection_percent": 100,
        "healthy_panic_threshold": 0}"#;
    let mut world = World::new(fields);
    while world.sum(Id::Ejections) < 5 {
        world.run("", &|_| true);
    }
    let request = world.request("GET", "");
    assert!(world.plan(&request).is_none(), "nobody is admitted: Envoy decides");
    world.advance(2000);
    for _ in 0..50 {
        let request = world.request("GET", "");
        if let Some((list, plan)) = world.plan(&request) {
            world.answer(&plan, &list[0], 200);
        }
        world.advance(100);
    }
    assert_eq!(world.sum(Id::Recoveries), 5);
}

#[test]
fn failed_posts_that_nobody_retries_open_the_breaker_too() {
    let mut world = World::new("");
    let bad = "10.0.0.3:80";
    for _ in 0..60 {
        let request = world.request("POST", "");
        let (list, plan) = world.plan(&request).unwrap();
        let address = list[0].clone();
        let status = if address == bad { 503 } else { 200 };
        world.answer(&plan, &address, status);
        if address == bad {
            world.fail(&request, bad, 503);
        }
    }
    assert_eq!(world.sum(Id::Ejections), 1, "the success booked at the response is taken back");
}

#[test]
fn an_endpoint_that_mostly_works_stays() {
    let mut world = World::new("");
    let mut dice = SplitMix64::new(5);
    let mut n = 0;
    for i in 0..3000 {
        let flaky = dice.below(10) == 0;
        let (tried, ok) = world.run("", &|address| flaky && address == "10.0.0.3:80");
        assert!(ok);
        n += tried.len();
        if i % 30 == 0 {
            world.advance(100);
        }
    }
    assert_eq!(world.sum(Id::Ejections), 0);
    assert!(n > 3000);
}

#[test]
fn in_a_total_outage_nothing_is_retried_and_all_comes_back_by_itself() {
    let mut world = World::new("");
    for i in 0..500 {
        world.run("", &|_| false);
        if i % 50 == 0 {
            world.advance(100);
        }
    }
    let mut attempts = 0;
    for i in 0..2500 {
        attempts += world.run("", &|_| true).0.len();
        if i % 50 == 0 {
            world.advance(100);
        }
    }
    assert!(attempts <= 2500 * 105 / 100, "{attempts} attempts for 2500 requests");
    let mut last_failure = 0;
    for i in 0..1500 {
        if !world.run("", &|_| false).1 {
            last_failure = i;
        }
        if i % 50 == 0 {
            world.advance(100);
        }
    }
    assert_eq!(last_failure, 0);
    world.advance(100);
    let firsts: Vec<String> = (0..500).map(|_| world.run("", &|_| false).0[0].clone()).collect();
    for address in ["10.0.0.1:80", "10.0.0.5:80"] {
        assert_eq!(firsts.iter().filter(|first| *first == address).count(), 100);
    }
}

#[test]
fn when_half_of_everything_fails_retries_stay_within_the_budget() {
    // no breaker, so that only the budget stands between failures and retries
    let off = r#", "circuit_breaker": {"consecutive_failures": 0,
        "success_rate": {"threshold_percent": 0}}"#;
    let mut world = World::new(off);
    let dice = std::cell::RefCell::new(SplitMix64::new(9));
    let mut attempts = 0;
    for i in 0..10_000 {
        let fails = |_: &str| dice.borrow_mut().below(2) == 0;
        attempts += world.run("", &fails).0.len();
        if i % 50 == 0 {
            world.advance(100);
        }
    }
    let retries = attempts - 10_000;
    assert!(retries <= 10_000 / 5 + 10 * 21, "{retries}");
    assert!(retries >= 10_000 / 6, "the budget is there to be used: {retries}");
    assert_eq!(world.sum(Id::Retries), retries as u64);
}

#[test]
fn with_a_hash_the_first_choice_is_sticky_and_only_the_lost_ones_move() {
    let fields = r#", "lb_policy": {"maglev": {}},
        "hash_policy": [{"header": {"header_name": "x-key"}}]"#;
    let mut world = World::new(fields);
    let bad = "10.0.0.3:80";
    let keys: Vec<String> = (0..500).map(|i| format!("key-{i}")).collect();
    let before: Vec<String> = keys.iter().map(|k| world.run(k, &|_| false).0[0].clone()).collect();
    for key in &keys {
        world.run(key, &|address| address == bad);
    }
    let after: Vec<String> = keys.iter().map(|k| world.run(k, &|_| false).0[0].clone()).collect();
    for (was, is) in before.iter().zip(&after) {
        assert_eq!(was == bad, was != is);
    }
}

#[test]
fn two_workers_share_what_they_know_and_a_new_one_starts_with_it() {
    let (mut a, mut b) = (World::new(""), World::new(""));
    let bad = "10.0.0.3:80";
    for _ in 0..100 {
        a.run("", &|address| address == bad);
    }
    assert!(a.engine.is_dirty());
    let state = a.engine.state(a.now);
    b.engine.merge_state(&state);
    assert!(!b.engine.is_dirty(), "what came from others needs no writing");
    for _ in 0..100 {
        assert!(!b.run("", &|_| false).0.contains(&bad.to_string()));
    }
    // a VM that reloads: the state comes before the membership
    let mut c = World::of(r#"{"clusters": [{"name": "c", "match": {"path_prefixes": ["/"]}}]}"#);
    c.engine.merge_state(&state);
    c.engine.on_snapshot(&a.engine.snapshot(), c.now).unwrap();
    for _ in 0..100 {
        assert!(!c.run("", &|_| false).0.contains(&bad.to_string()));
    }
}

#[test]
fn a_permit_of_a_client_that_went_away_is_given_back() {
    let mut world = World::new("");
    let bad = "10.0.0.3:80";
    for _ in 0..100 {
        world.run("", &|address| address == bad);
    }
    world.advance(2000);
    for round in 0..3 {
        let found = (0..20).find_map(|_| {
            let request = world.request("GET", "");
            let (list, plan) = world.plan(&request).unwrap();
            (list[0] == bad).then_some(plan)
        });
        let plan = found.unwrap_or_else(|| panic!("no trial in round {round}"));
        world.answer(&plan, bad, 0);
    }
}

#[test]
fn a_trials_permit_stays_taken_until_every_worker_can_know_how_it_ended() {
    let mut world = World::new(r#", "circuit_breaker": {"ejection_time_jitter_percent": 0}"#);
    let bad = "10.0.0.3:80";
    for _ in 0..100 {
        world.run("", &|address| address == bad);
    }
    world.advance(1100);
    // what another worker knows as long as it has not looked
    let stale = world.engine.state(world.now);
    let trial = (0..20).find_map(|_| {
        let request = world.request("GET", "");
        (world.plan(&request).unwrap().0[0] == bad).then_some(request)
    });
    world.fail(&trial.unwrap(), bad, 503);
    let config = world.engine.config().clone();
    world.engine = Engine::new(config, Site { seed: 8, ..Site::default() });
    world.engine.merge_state(&stale);
    let tried = |world: &mut World| {
        let request = world.request("GET", "");
        world.plan(&request).unwrap().0.contains(&bad.to_string())
    };
    world.advance(200);
    assert!((0..20).all(|_| !tried(&mut world)), "two ticks");
    world.advance(200);
    assert!((0..20).any(|_| tried(&mut world)));
}

#[test]
fn a_permit_is_given_back_once_although_its_stream_is_remembered_for_longer() {
    let mut world = World::new("");
    let bad = "10.0.0.3:80";
    for _ in 0..100 {
        world.run("", &|address| address == bad);
    }
    world.advance(2000);
    let trial = (0..20).find_map(|_| {
        let request = world.request("GET", "");
        let (list, plan) = world.plan(&request).unwrap();
        (list[0] == bad).then_some((request, plan, list[1].clone()))
    });
    let (request, plan, second) = trial.unwrap();
    world.fail(&request, bad, 503);
    world.answer(&plan, &second, 200);
    // the next trial holds the permit while thousands of requests push the first one out
    world.advance(10_000);
    let held = |world: &World| {
        let now = world.now;
        world.process.permits.values().filter(|until| **until > now).count()
    };
    assert_eq!(held(&world), 0);
    let tried = (0..5 * crate::outcome::ledger::STREAMS_MAX).filter(|_| {
        let request = world.request("GET", "");
        world.plan(&request).unwrap().0.contains(&bad.to_string())
    });
    assert_eq!(tried.count(), 1);
}

#[test]
fn another_filters_answer_is_no_proof_that_a_trial_went_well() {
    let mut world = World::new("");
    let bad = "10.0.0.3:80";
    for _ in 0..100 {
        world.run("", &|address| address == bad);
    }
    world.advance(2000);
    let plan = (0..20).find_map(|_| {
        let request = world.request("GET", "");
        let (list, plan) = world.plan(&request).unwrap();
        (list[0] == bad).then_some(plan)
    });
    // a rate limiter says 429: no endpoint was asked
    world.answer(&plan.unwrap(), "", 429);
    world.advance(200);
    assert_eq!(world.sum(Id::Recoveries), 0);
}

#[test]
fn where_nothing_is_said_the_route_is_asked_until_an_authority_is_known_to_lead_to_one() {
    let json = r#"{"clusters": [{"name": "c", "membership": {"static": {"endpoints":
        [{"address": "10.0.0.1:80"}]}}}, {"name": "d", "membership": {"static": {"endpoints":
        [{"address": "10.9.9.1:80"}]}}}]}"#;
    let mut world = World::of(json);
    world.process.cluster = "c";
    for _ in 0..30 {
        assert_eq!(world.run("", &|_| false).0, ["10.0.0.1:80"]);
    }
    // the route changes: found out when the next question comes, or a report
    world.process.cluster = "d";
    let request = world.request("GET", "");
    assert_eq!(world.plan(&request).unwrap().0, ["10.0.0.1:80"], "still trusted");
    let report = Attempt { cluster: b"d", address: b"10.9.9.1:80", ..Attempt::default() };
    let report = Attempt { request_id: request.id.as_bytes(), status: 503, ..report };
    world.engine.on_attempt(&report, &mut world.process, &mut world.rng, world.now);
    assert_eq!(world.run("", &|_| false).0, ["10.9.9.1:80"]);
    assert_eq!(world.engine.process_sums().get(Id::UnknownAttempts), 0);
}

#[test]
fn without_membership_or_cluster_everything_is_left_to_envoy() {
    let mut world = World::of("{}");
    let request = world.request("GET", "");
    assert!(world.plan(&request).is_none());
    let mut world = World::of(r#"{"clusters": [{"name": "c"}]}"#);
    world.process.cluster = "c";
    assert!(world.plan(&request).is_none(), "no endpoint is known yet");
    world.process.cluster = "other";
    assert!(world.plan(&request).is_none());
    assert_eq!(world.engine.process_sums().get(Id::Untouched), 2);
}

#[test]
fn an_answer_that_cannot_be_trusted_leaves_the_membership_as_it_was() {
    let mut world = World::of("{}");
    let good = include_bytes!("../../membership/testdata/all.txt");
    let changed = world.engine.on_clusters_answer(good, &mut world.process, world.now);
    assert_eq!(changed.map_err(|e| e.to_string()), Ok(true));
    let before = world.engine.snapshot();
    for bad in [b"".as_slice(), b"x", b"<html>", &good[..good.len() / 2], &[0xff; 100]] {
        let _ = world.engine.on_clusters_answer(bad, &mut world.process, world.now);
        assert_eq!(world.engine.snapshot(), before);
    }
}

#[test]
fn a_list_has_somebody_who_is_well_even_when_nobody_is_held_out() {
    let fields = r#", "circuit_breaker": {"max_ejection_percent": 100,
        "healthy_panic_threshold": 50}"#;
    let mut world = World::new(fields);
    let well = |address: &str| address == "10.0.0.4:80" || address == "10.0.0.5:80";
    for _ in 0..200 {
        world.run("", &|address| !well(address));
    }
    for _ in 0..100 {
        let request = world.request("GET", "");
        let (list, _) = world.plan(&request).unwrap();
        assert!(list.iter().any(|address| well(address)), "{list:?}");
    }
}

#[test]
fn a_budget_of_nothing_allows_not_even_the_first_retry() {
    let fields = r#", "retry": {"budget": {"percent": 0, "min_retries_per_second": 0}}"#;
    let mut world = World::new(fields);
    let request = world.request("GET", "");
    assert_eq!(world.plan(&request).unwrap().1.retry, Retry::Deny);
}

#[test]
fn a_lower_priority_serves_only_when_the_higher_has_nobody_left() {
    let json = r#"{"clusters": [{"name": "c", "match": {"path_prefixes": ["/"]},
        "circuit_breaker": {"max_ejection_percent": 100, "healthy_panic_threshold": 0},
        "membership": {"static": {"endpoints": [{"address": "10.0.0.1:80"},
            {"address": "10.0.0.2:80"}, {"address": "10.0.1.1:80", "priority": 1}]}}}]}"#;
    let mut world = World::of(json);
    for _ in 0..50 {
        let (tried, _) = world.run("", &|_| false);
        assert!(tried[0].starts_with("10.0.0."));
    }
    for _ in 0..50 {
        assert!(world.run("", &|address| address.starts_with("10.0.0.")).1);
    }
    assert_eq!(world.run("", &|_| false).0, ["10.0.1.1:80"]);
}

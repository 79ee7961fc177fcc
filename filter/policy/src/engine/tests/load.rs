//! Requests in flight and latencies: what is counted in is counted out.

use super::*;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

const LEAST: &str = r#", "lb_policy": {"least_request": {}}"#;
const PEAK: &str = r#", "lb_policy": {"peak_ewma": {}}, "retry": {"num_retries": 0}"#;

impl World {
    fn active(&self) -> Vec<i64> {
        self.process.active.values().copied().filter(|count| *count != 0).collect()
    }

    /// Plans a GET and leaves it in flight.
    fn hold(&mut self) -> (Request, Vec<String>, Plan) {
        let request = self.request("GET", "");
        let (list, plan) = self.plan(&request).unwrap();
        (request, list, plan)
    }

    fn wait(&mut self, ms: u64) {
        self.now = self.now.after(core::time::Duration::from_millis(ms));
        self.process.clock = self.now;
    }

    /// A request that takes `ms` on whichever endpoint is chosen.
    fn timed(&mut self, ms: impl Fn(&str) -> u64) -> String {
        self.process.clock = self.now;
        let (_, list, plan) = self.hold();
        self.wait(ms(&list[0]));
        self.answer(&plan, &list[0], 200);
        self.advance(100);
        list[0].clone()
    }
}

#[test]
fn what_is_in_flight_counts_and_what_has_ended_does_not() {
    let mut world = World::new(LEAST);
    let held: Vec<_> = (0..10).map(|_| world.hold()).collect();
    assert_eq!(world.active().iter().sum::<i64>(), 10);
    for (_, list, plan) in &held {
        world.answer(plan, &list[0], 200);
    }
    assert!(world.active().is_empty());
}

#[test]
fn the_least_loaded_of_all_is_chosen_by_a_full_scan() {
    let mut world =
        World::new(r#", "lb_policy": {"least_request": {"selection_method": "full_scan"}}"#);
    for round in 1..=4 {
        for _ in 0..5 {
            world.hold();
        }
        assert_eq!(world.active(), [round; 5], "every endpoint has as many");
    }
}

#[test]
fn a_retry_moves_its_count_to_the_next_endpoint() {
    let mut world = World::new(LEAST);
    let (request, list, plan) = world.hold();
    let slots = world.process.active.clone();
    world.fail(&request, &list[0], 503);
    assert_ne!(world.process.active, slots, "another endpoint has it now");
    assert_eq!(world.active(), [1]);
    world.answer(&plan, &list[1], 200);
    assert!(world.active().is_empty());
}

#[test]
fn a_report_of_an_attempt_that_is_not_the_present_one_moves_nothing() {
    let mut world = World::new(LEAST);
    let (request, list, plan) = world.hold();
    world.fail(&request, &list[2], 503);
    assert_eq!(world.active(), [1]);
    world.answer(&plan, &list[0], 200);
    assert!(world.active().is_empty());
}

#[test]
fn two_streams_of_one_name_leave_nothing_behind() {
    let mut world = World::new(LEAST);
    let request = world.request("GET", "");
    let (list, first) = world.plan(&request).unwrap();
    let (_, second) = world.plan(&request).unwrap();
    assert_eq!(first.id, second.id);
    assert_eq!(world.active(), [1], "the first one is forgotten for the second");
    world.answer(&first, &list[0], 200);
    world.answer(&second, &list[0], 200);
    assert!(world.active().is_empty());
}

#[test]
fn any_course_of_a_stream_leaves_every_counter_at_zero() {
    let mut world = World::new(LEAST);
    for round in 0..3_000_u64 {
        let (request, list, plan) = world.hold();
        let fate = world.rng.below(6);
        let failures = usize::try_from(fate.min(3)).unwrap();
        for address in list.iter().take(failures) {
            world.fail(&request, address, 503);
        }
        match fate {
            4 => world.engine.forget(plan.id, &mut world.process),
            5 => {
                world.answer(&plan, &list[0], 503);
                world.fail(&request, &list[0], 503);
            }
            _ => world.answer(&plan, list.get(failures).unwrap_or(&list[0]), 200),
        }
        assert!(world.active().is_empty(), "round {round}, fate {fate}: {:?}", world.active());
    }
}

#[test]
fn a_new_configuration_takes_off_what_the_one_before_put_on() {
    let mut world = World::new(LEAST);
    let (_, _, plan) = world.hold();
    let config = world.engine.config().clone();
    let before = core::mem::replace(&mut world.engine, Engine::new(config, Site::default()));
    world.engine.inherit(before);
    assert_eq!(world.active(), [1]);
    world.answer(&plan, "10.0.0.1:80", 200);
    assert!(world.active().is_empty());
}

#[test]
fn a_worker_that_is_given_up_takes_all_of_its_flights_off() {
    let mut world = World::new(LEAST);
    for _ in 0..50 {
        world.hold();
    }
    world.engine.abandon(&mut world.process);
    assert!(world.active().is_empty());
}

#[test]
fn two_workers_share_one_map_of_counters() {
    let mut one = World::new(LEAST);
    let map = one.engine.claim_slots(&[], &mut one.process).unwrap();
    let mut two = World::new(LEAST);
    assert_eq!(two.engine.claim_slots(&map, &mut two.process), None, "nothing is new");
}

#[test]
fn what_a_dead_worker_left_is_put_right_after_three_polls() {
    let config = r#"{"defaults": {"lb_policy": {"least_request": {}}}}"#;
    let mut world = World::of(config);
    let answer = include_bytes!("../../membership/testdata/all.txt");
    world.engine.on_clusters_answer(answer, &mut world.process, world.now).unwrap();
    world.engine.claim_slots(&[], &mut world.process).unwrap();
    world.process.active.insert(0, 7);
    for poll in 1..=3 {
        let left = world.process.active[&0];
        assert_eq!(left, 7, "before poll {poll}");
        let _ = world.engine.on_clusters_answer(answer, &mut world.process, world.now);
    }
    assert_eq!(world.active(), Vec::<i64>::new());
}

/// Under load a correction can take off what was in flight after all.
#[test]
fn a_counter_below_zero_is_put_right_and_is_no_load_meanwhile() {
    let config = r#"{"defaults": {"lb_policy": {"least_request": {}}}}"#;
    let mut world = World::of(config);
    let answer = include_bytes!("../../membership/testdata/all.txt");
    world.engine.on_clusters_answer(answer, &mut world.process, world.now).unwrap();
    world.engine.claim_slots(&[], &mut world.process).unwrap();
    world.process.active.insert(0, -2);
    for _ in 1..=3 {
        assert_eq!(world.process.active[&0], -2);
        let _ = world.engine.on_clusters_answer(answer, &mut world.process, world.now);
    }
    assert_eq!(world.active(), Vec::<i64>::new());
}

#[test]
fn an_endpoint_that_fails_fast_gains_nothing_by_it() {
    let mut world = World::new(
        r#", "lb_policy": {"peak_ewma": {}}, "retry": {"num_retries": 0},
        "circuit_breaker": {"consecutive_failures": 0,
            "success_rate": {"threshold_percent": 0}}"#,
    );
    let mut first = 0;
    for _ in 0..2_000 {
        world.process.clock = world.now;
        let (request, list, plan) = world.hold();
        let bad = list[0] == "10.0.0.3:80";
        first += u32::from(bad);
        world.wait(if bad { 1 } else { 5 });
        let status = if bad { 503 } else { 200 };
        world.answer(&plan, &list[0], status);
        if bad {
            world.fail(&request, &list[0], status);
        }
        world.advance(100);
    }
    assert!(first < 100, "{first} of 2000 first attempts went to the one that fails");
}

#[test]
fn an_endpoint_that_became_slow_is_left_alone_and_comes_back() {
    let mut world = World::new(PEAK);
    let slow = "10.0.0.2:80";
    let share = |world: &mut World, ms: u64| {
        (0..500).filter(|_| world.timed(|a| if a == slow { ms } else { 10 }) == slow).count()
    };
    let before = share(&mut world, 10);
    let during = share(&mut world, 1000);
    let _settles = share(&mut world, 10);
    let after = share(&mut world, 10);
    assert!(before > 40 && after > 40 && during < 25, "{before}, {during}, {after}");
}

#[test]
fn a_client_that_gives_up_late_shows_that_the_endpoint_is_slow_whoever_tells_first() {
    for report_first in [false, true] {
        let mut world = World::new(PEAK);
        for _ in 0..50 {
            world.timed(|_| 10);
        }
        let ms = core::time::Duration::from_millis;
        world.process.clock = world.now;
        let (request, list, plan) = world.hold();
        world.wait(1000);
        let attempt = Attempt {
            request_id: request.id.as_bytes(),
            cluster: b"c",
            address: list[0].as_bytes(),
            flags: 0x4000,
            status: 0,
            ..Attempt::default()
        };
        let now = world.now;
        if report_first {
            world.engine.on_attempt(&attempt, &mut world.process, &mut world.rng, now);
        }
        world.answer(&plan, &list[0], 0);
        if !report_first {
            world.engine.on_attempt(&attempt, &mut world.process, &mut world.rng, now);
        }
        let place = world.engine.clusters[0].place(&list[0]).unwrap();
        let row = world.engine.clusters[0].table.row(place).unwrap();
        let estimate = row.ewma.get(now, ms(10_000), ms(30));
        assert!((estimate - 2e6).abs() < 1.0, "{estimate} us, report first: {report_first}");
    }
}

#[test]
fn a_client_that_gives_up_makes_no_endpoint_look_fast() {
    let mut world = World::new(PEAK);
    for _ in 0..50 {
        world.timed(|_| 100);
    }
    world.process.clock = world.now;
    let (request, list, plan) = world.hold();
    world.wait(1);
    world.answer(&plan, &list[0], 0);
    let attempt = Attempt {
        request_id: request.id.as_bytes(),
        cluster: b"c",
        address: list[0].as_bytes(),
        flags: 0x4000,
        status: 0,
        ..Attempt::default()
    };
    let place = world.engine.clusters[0].place(&list[0]).unwrap();
    let estimate = |world: &World| {
        let ms = core::time::Duration::from_millis;
        let row = world.engine.clusters[0].table.row(place).unwrap();
        row.ewma.get(world.now, ms(10_000), ms(30))
    };
    let before = estimate(&world);
    world.engine.on_attempt(&attempt, &mut world.process, &mut world.rng, world.now);
    let now = world.now;
    world.engine.on_tick(&mut world.process, now);
    assert!((estimate(&world) - before).abs() < 1.0, "{before} -> {}", estimate(&world));
}

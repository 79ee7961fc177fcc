//! The breaker against Linkerd's timeline, and its own rules.

use super::*;
use crate::config;
use crate::rng::SplitMix64;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

fn settings(json: &str) -> CircuitBreaker {
    let json = format!(r#"{{"defaults": {{"circuit_breaker": {json}}}}}"#);
    config::parse(json.as_bytes()).unwrap().defaults.circuit_breaker
}

fn linkerd() -> CircuitBreaker {
    settings(
        r#"{"consecutive_failures": 2, "base_ejection_time": "1s", "max_ejection_time": "100s",
            "ejection_time_jitter_percent": 0}"#,
    )
}

fn at(ms: u64) -> Instant {
    Instant::from_millis(1_000_000 + ms)
}

#[test]
fn linkerds_transitions_come_out_second_by_second() {
    let (s, rng) = (linkerd(), &mut SplitMix64::new(1));
    let mut b = Breaker::default();
    assert_eq!(b.on_failure((false, true), &s, rng, at(0)), None);
    let opened = b.on_failure((false, true), &s, rng, at(0));
    let (open, cause) = (Duration::from_secs(1), Cause::ConsecutiveFailures);
    assert_eq!(opened, Some(Transition::Opened { open, cause }));
    assert_eq!(b.due_since(at(500)), None);
    assert!(b.due_since(at(1000)).is_some());
    let again = b.on_failure((true, true), &s, rng, at(1000));
    let (open, cause) = (Duration::from_secs(2), Cause::TrialFailed);
    assert_eq!(again, Some(Transition::Opened { open, cause }));
    assert_eq!(b.due_since(at(2000)), None);
    assert_eq!(b.on_success(false, &s, at(2000)), None, "a straggler says nothing");
    assert!(!b.is_closed());
    assert!(b.due_since(at(3000)).is_some());
    assert_eq!(b.on_success(true, &s, at(3000)), Some(Transition::Closed));
    assert!(b.is_closed());
}

#[test]
fn a_success_in_between_starts_the_count_again() {
    let (s, rng) = (linkerd(), &mut SplitMix64::new(1));
    let mut b = Breaker::default();
    for i in 0..50 {
        assert_eq!(b.on_failure((false, true), &s, rng, at(i * 3000)), None);
        assert_eq!(b.on_success(false, &s, at(i * 3000)), None);
        assert_eq!(b.on_success(false, &s, at(i * 3000)), None);
        assert_eq!(b.on_success(false, &s, at(i * 3000)), None);
        assert_eq!(b.on_success(false, &s, at(i * 3000)), None);
    }
}

#[test]
fn a_success_rate_below_the_threshold_opens_it_without_a_run_of_failures() {
    let s = settings(r#"{"success_rate": {"threshold_percent": 80, "minimum_requests": 20}}"#);
    let rng = &mut SplitMix64::new(1);
    let mut b = Breaker::default();
    let mut opened_after = None;
    for i in 0_u64..40 {
        b.on_success(false, &s, at(i));
        if let Some(Transition::Opened { cause, .. }) = b.on_failure((false, true), &s, rng, at(i))
        {
            assert_eq!(cause, Cause::SuccessRate);
            opened_after = Some(i);
            break;
        }
    }
    assert_eq!(opened_after, Some(9), "20 attempts were seen: 10 good, 10 bad");
    assert!(!b.is_dead(), "half of its answers were good");
}

#[test]
fn zero_switches_each_rule_off() {
    let s = settings(r#"{"consecutive_failures": 0, "success_rate": {"threshold_percent": 0}}"#);
    let rng = &mut SplitMix64::new(1);
    let mut b = Breaker::default();
    for i in 0..1000 {
        assert_eq!(b.on_failure((false, true), &s, rng, at(i)), None);
    }
}

#[test]
fn the_open_time_doubles_to_its_maximum_and_jitter_only_lengthens_it() {
    let s = settings(
        r#"{"base_ejection_time": "1s", "max_ejection_time": "60s",
            "ejection_time_jitter_percent": 50}"#,
    );
    let rng = &mut SplitMix64::new(3);
    for (ejections, base_s) in [(0, 1), (1, 2), (5, 32), (6, 60), (40, 60), (u32::MAX, 60)] {
        let base = Duration::from_secs(base_s);
        let open = open_time(ejections, &s, rng);
        assert!(open >= base && open <= base * 3 / 2, "{ejections}: {open:?}");
    }
}

#[test]
fn failures_on_unheld_traffic_lengthen_the_time_only_once_a_trial_was_due() {
    let (s, rng) = (linkerd(), &mut SplitMix64::new(1));
    let mut b = Breaker::default();
    b.on_failure((false, true), &s, rng, at(0));
    b.on_failure((false, true), &s, rng, at(0));
    let version = b.record().version;
    for i in 1..900 {
        assert_eq!(b.on_failure((true, true), &s, rng, at(i)), None);
    }
    assert_eq!(b.record().version, version);
}

#[test]
fn where_nobody_is_well_a_failed_trial_does_not_lengthen_the_time() {
    let (s, rng) = (linkerd(), &mut SplitMix64::new(1));
    let mut b = Breaker::default();
    b.on_failure((false, false), &s, rng, at(0));
    b.on_failure((false, false), &s, rng, at(0));
    for i in 1..10 {
        let again = b.on_failure((true, false), &s, rng, at(i * 1000));
        let (open, cause) = (Duration::from_secs(1), Cause::TrialFailed);
        assert_eq!(again, Some(Transition::Opened { open, cause }));
    }
}

#[test]
fn a_quiet_time_forgives_ejections_one_by_one() {
    let (s, rng) = (linkerd(), &mut SplitMix64::new(1));
    let mut b = Breaker::default();
    b.on_failure((false, true), &s, rng, at(0));
    b.on_failure((false, true), &s, rng, at(0));
    b.on_failure((true, true), &s, rng, at(1000));
    b.on_failure((true, true), &s, rng, at(3000));
    b.on_success(true, &s, at(7000));
    assert_eq!(b.record().ejections, 3);
    b.on_failure((false, true), &s, rng, at(8000));
    b.on_failure((false, true), &s, rng, at(8000));
    assert_eq!(b.record().ejections, 4, "soon after: it goes on growing");
    b.on_success(true, &s, at(20_000));
    b.on_failure((false, true), &s, rng, at(2_000_000));
    b.on_failure((false, true), &s, rng, at(2_000_000));
    assert_eq!(b.record().ejections, 1, "long after: it starts again");
}

#[test]
fn workers_agree_on_the_record_with_more_transitions() {
    let (s, rng) = (linkerd(), &mut SplitMix64::new(1));
    let (mut a, mut b) = (Breaker::default(), Breaker::default());
    a.on_failure((false, true), &s, rng, at(0));
    a.on_failure((false, true), &s, rng, at(0));
    assert!(b.adopt(a.record()));
    assert!(!b.is_closed());
    assert!(!b.adopt(a.record()), "nothing new the second time");
    b.on_success(true, &s, at(1500));
    assert!(a.adopt(b.record()));
    assert!(a.is_closed());
    assert!(!a.adopt(&Record::default()), "an older record changes nothing");
}

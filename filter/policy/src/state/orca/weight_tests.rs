//! Tests of the weights that load reports give.

#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

use core::time::Duration;

use super::*;

const SETTINGS: OrcaWeights = OrcaWeights {
    blackout_period: Duration::from_secs(10),
    weight_expiration_period: Duration::from_secs(180),
    weight_update_period: Duration::from_secs(1),
    error_utilization_penalty_milli: 1000,
};

const NO_BLACKOUT: OrcaWeights = OrcaWeights { blackout_period: Duration::ZERO, ..SETTINGS };

fn at(s: u64) -> Instant {
    Instant::from_millis((1000 + s) * 1000)
}

fn report(rps_fractional: f64, cpu_utilization: f64) -> Report {
    Report { rps_fractional, cpu_utilization, ..Report::default() }
}

/// Endpoints with these weights, known since long; 0 for none.
fn endpoints(weights: &[f64]) -> Vec<EndpointWeight> {
    let endpoint = |weight: &f64| {
        let mut endpoint = EndpointWeight::default();
        endpoint.update(&report(*weight, 1.0), &NO_BLACKOUT, at(0));
        endpoint
    };
    weights.iter().map(endpoint).collect()
}

fn scaled(weights: &[f64]) -> Option<Vec<u32>> {
    let endpoints = endpoints(weights);
    let mut weights = Weights::default();
    weights.refresh(endpoints.iter(), &NO_BLACKOUT, at(1)).map(<[u32]>::to_vec)
}

#[test]
fn reports_count_after_the_blackout_and_until_they_expire() {
    let mut endpoint = EndpointWeight::default();
    assert_eq!(endpoint.get(&NO_BLACKOUT, at(0)), None);
    endpoint.update(&report(100.0, 0.5), &SETTINGS, at(0));
    assert_eq!(endpoint.get(&SETTINGS, at(9)), None);
    assert_eq!(endpoint.get(&SETTINGS, at(10)), Some(200.0));
    assert_eq!(endpoint.get(&SETTINGS, at(179)), Some(200.0));
    assert_eq!(endpoint.get(&SETTINGS, at(180)), None);
}

#[test]
fn after_expiration_the_blackout_begins_again_and_before_it_does_not() {
    let mut endpoint = EndpointWeight::default();
    endpoint.update(&report(100.0, 0.5), &SETTINGS, at(0));
    endpoint.update(&report(100.0, 1.0), &SETTINGS, at(179));
    assert_eq!(endpoint.get(&SETTINGS, at(179)), Some(100.0));
    endpoint.update(&report(100.0, 1.0), &SETTINGS, at(359));
    assert_eq!(endpoint.get(&SETTINGS, at(368)), None);
    assert_eq!(endpoint.get(&SETTINGS, at(369)), Some(100.0));
}

#[test]
fn an_endpoint_that_comes_back_starts_over() {
    let mut endpoint = EndpointWeight::default();
    endpoint.update(&report(100.0, 0.5), &SETTINGS, at(0));
    endpoint.restart();
    assert_eq!(endpoint.get(&SETTINGS, at(20)), None);
    endpoint.update(&report(100.0, 0.5), &SETTINGS, at(21));
    assert_eq!(endpoint.get(&SETTINGS, at(30)), None);
    assert_eq!(endpoint.get(&SETTINGS, at(31)), Some(200.0));
}

#[test]
fn a_report_without_requests_or_utilization_changes_nothing() {
    let mut endpoint = EndpointWeight::default();
    endpoint.update(&report(100.0, 0.5), &SETTINGS, at(0));
    let before = endpoint;
    let errors_only = Report { eps: 5.0, ..report(100.0, 0.0) };
    for empty in [report(0.0, 0.5), report(100.0, 0.0), Report::default(), errors_only] {
        endpoint.update(&empty, &SETTINGS, at(20));
        assert_eq!(endpoint, before);
    }
}

#[test]
fn fewer_than_two_known_weights_say_nothing() {
    assert_eq!(scaled(&[]), None);
    assert_eq!(scaled(&[0.0, 0.0]), None);
    assert_eq!(scaled(&[42.0, 0.0]), None);
    assert_eq!(scaled(&[42.0, 42.0]), Some(vec![65_535; 2]));
}

#[test]
fn an_endpoint_without_a_weight_gets_the_median() {
    assert_eq!(scaled(&[10.0, 0.0, 20.0, 40.0]), Some(vec![16_384, 32_768, 32_768, 65_535]));
    assert_eq!(scaled(&[10.0, 0.0, 30.0]), Some(vec![21_845, 43_690, 65_535]));
}

#[test]
fn no_endpoint_is_far_above_or_below_the_mean() {
    let mut idle = vec![1.0; 19];
    idle.push(1e9);
    let weights = scaled(&idle).unwrap();
    assert_eq!(weights[19], 65_535);
    assert!(weights[0] >= 65, "a thousandth: {}", weights[0]);
    assert_eq!(scaled(&[1e-300, 1.0]), Some(vec![328, 65_535]), "1 % of the mean, half of 1.0");
}

#[test]
fn no_values_make_weights_zero_or_nan() {
    for weight in [f64::MIN_POSITIVE, 1.0, f64::MAX] {
        for other in [f64::MIN_POSITIVE, 1.0, f64::MAX] {
            let weights = scaled(&[weight, other, 0.0]);
            assert!(weights.iter().flatten().all(|w| (1..=SCALED_MAX).contains(w)));
        }
    }
}

#[test]
fn a_refresh_reuses_its_memory_and_forgets_who_left() {
    let mut weights = Weights::default();
    let four = endpoints(&[1.0, 2.0, 3.0, 4.0]);
    assert_eq!(weights.refresh(four.iter(), &NO_BLACKOUT, at(1)).map(<[u32]>::len), Some(4));
    let two = endpoints(&[1.0, 2.0]);
    assert_eq!(weights.refresh(two.iter(), &NO_BLACKOUT, at(1)), Some(&[32_768, 65_535][..]));
}

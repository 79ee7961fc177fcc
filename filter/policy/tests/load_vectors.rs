//! Golden vectors of the policies that look at load or take turns in nginx's order.
//!
//! `vectors/README.md` says where each file comes from and which rows are left out. Runs natively
//! and on wasm32-unknown-unknown.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::expect_used)]

#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

use outrigger_policy::config::{LbPolicy, TurnOrder};
use outrigger_policy::pick::{Loads, Member, NoLoads, Picker, Step};
use outrigger_policy::rng::{Rng, SplitMix64};
use serde_json::Value;

const WRR: &str = include_str!("vectors/wrr.json");

fn vectors(name: &str) -> Value {
    serde_json::from_str::<Value>(WRR).unwrap()[name].clone()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().unwrap()
}

fn u32s(value: &Value) -> Vec<u32> {
    list(value).iter().map(|n| u32::try_from(n.as_u64().unwrap()).unwrap()).collect()
}

fn build(policy: &LbPolicy, weights: &[u32]) -> Picker {
    let members: Vec<_> =
        weights.iter().map(|weight| Member { key: "", weight: *weight }).collect();
    Picker::build(policy, &members, 0)
}

/// Requests in flight, by member.
struct Active(Vec<u32>);

impl Loads for Active {
    fn active(&mut self, member: u32) -> u32 {
        self.0[member as usize]
    }
    fn active_total(&mut self) -> u64 {
        self.0.iter().copied().map(u64::from).sum()
    }
    fn cost(&mut self, _: u32) -> f64 {
        unreachable!("no policy here asks for a cost")
    }
}

/// The numbers that Envoy's test has its generator return, as shares of `0..bound`.
struct Script {
    numbers: Vec<u32>,
    bound: u64,
}

impl Rng for Script {
    fn next_u64(&mut self) -> u64 {
        let number = u64::from(self.numbers.remove(0));
        // The middle of the number's part of all numbers.
        (2 * number + 1) * (u64::MAX / (2 * self.bound))
    }
}

fn first(picker: &mut Picker, rng: &mut impl Rng, loads: &mut impl Loads) -> u32 {
    let mut first = None;
    picker.walk(None, rng, loads, |member| {
        first = Some(member);
        Step::Stop
    });
    first.unwrap()
}

fn least_request(choice_count: u32, bias_milli: u32, full_scan: bool) -> LbPolicy {
    LbPolicy::LeastRequest { choice_count, active_request_bias_milli: bias_milli, full_scan }
}

#[test]
fn smooth_round_robin_takes_nginxs_turns() {
    for case in list(&vectors("nginx_smooth_wrr")["cases"]) {
        let weights = u32s(&case["weights"]);
        let mut picker = build(&LbPolicy::RoundRobin { order: TurnOrder::Smooth }, &weights);
        let sequence = u32s(&case["sequence"]);
        for turn in sequence.iter().cycle().take(5 * sequence.len()) {
            assert_eq!(first(&mut picker, &mut SplitMix64::new(0), &mut NoLoads), *turn);
        }
    }
}

/// Steps of a run whose weights are whole numbers after multiplication with `scale`.
fn replay(run: &Value, steps: usize, scale: f64, full_scan: bool) -> usize {
    let bias_milli = (run["bias"].as_f64().unwrap() * 1000.0).round() as u32;
    let policy = least_request(2, bias_milli, full_scan);
    let (mut picker, mut loads) = (build(&policy, &[]), Active(Vec::new()));
    let mut picks = 0;
    for step in &list(&run["steps"])[..steps] {
        if let Some(weights) = step["build"].as_array() {
            let whole = |weight: &Value| (weight.as_f64().unwrap() * scale).round() as u32;
            picker = build(&policy, &weights.iter().map(whole).collect::<Vec<_>>());
        }
        if step["rq"].is_array() {
            loads = Active(u32s(&step["rq"]));
        }
        for expected in u32s(&step["picks"]) {
            let pick = first(&mut picker, &mut SplitMix64::new(0), &mut loads);
            assert_eq!(pick, expected, "{step}");
            picks += 1;
        }
    }
    picks
}

#[test]
fn weighted_least_request_takes_envoys_turns() {
    let runs = vectors("envoy_least_request_weighted")["runs"].clone();
    for full_scan in [false, true] {
        assert_eq!(replay(&runs[0], 3, 1.0, full_scan), 21);
        assert_eq!(replay(&runs[1], 1, 1.0, full_scan), 6);
        assert_eq!(replay(&runs[2], 2, 6.0, full_scan), 4);
        assert_eq!(replay(&runs[4], 1, 2.0, full_scan), 6);
    }
}

#[test]
fn a_few_choices_end_where_envoys_do() {
    let case = vectors("envoy_least_request_weighted")["p2c"].clone();
    let mut loads = Active(u32s(&case["active"]));
    let bound = loads.0.len() as u64;
    let weights = [1; 4];
    let mut picker = build(&least_request(2, 1000, false), &weights);
    let mut rng = Script { numbers: vec![0; 2], bound };
    let expected = case["choice_count_2_all_random_0"].as_u64().unwrap();
    assert_eq!(u64::from(first(&mut picker, &mut rng, &mut loads)), expected);
    let mut picker = build(&least_request(5, 1000, false), &weights);
    let mut rng = Script { numbers: u32s(&case["choice_count_5_randoms_after_first"]), bound };
    assert_eq!(u64::from(first(&mut picker, &mut rng, &mut loads)), case["pick"].as_u64().unwrap());
    assert!(rng.numbers.is_empty());
}

#[test]
fn a_full_scan_ends_where_envoys_does_and_ties_are_spread_as_evenly() {
    let case = vectors("envoy_least_request_weighted")["full_scan"].clone();
    let mut picker = build(&least_request(2, 1000, true), &[1; 5]);
    let mut rng = SplitMix64::new(1);
    let pick = first(&mut picker, &mut rng, &mut Active(u32s(&case["active"])));
    assert_eq!(u64::from(pick), case["pick"].as_u64().unwrap());
    let ties = &case["ties"];
    let mut loads = Active(u32s(&ties["active"]));
    let mut counts = [0_u64; 5];
    // A tenth of the picks of Envoy's test, so a tenth of its tolerance is stricter than its own.
    for _ in 0..ties["n"].as_u64().unwrap() / 10 {
        counts[first(&mut picker, &mut rng, &mut loads) as usize] += 1;
    }
    let tied = u32s(&ties["each_of_hosts"]);
    for (member, count) in (0..).zip(counts) {
        let expected =
            if tied.contains(&member) { ties["expect"].as_u64().unwrap() / 10 } else { 0 };
        let off = count.abs_diff(expected);
        assert!(off <= ties["tolerance"].as_u64().unwrap() / 10, "{counts:?}");
    }
}

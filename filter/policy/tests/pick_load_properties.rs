//! What must hold of the policies that look at load, draw by weight or take turns.
//!
//! Native only: proptest's source of randomness does not build for wasm32-unknown-unknown.
#![cfg(not(target_arch = "wasm32"))]
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::time::Duration;

use outrigger_policy::config::{LbPolicy, TurnOrder};
use outrigger_policy::pick::{Loads, Member, Picker, Step};
use outrigger_policy::rng::SplitMix64;
use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;

const SMOOTH: LbPolicy = LbPolicy::RoundRobin { order: TurnOrder::Smooth };
const EDF: LbPolicy = LbPolicy::RoundRobin { order: TurnOrder::Edf };

const fn least_request(choice_count: u32, bias_milli: u32, full_scan: bool) -> LbPolicy {
    LbPolicy::LeastRequest { choice_count, active_request_bias_milli: bias_milli, full_scan }
}

const fn peak_ewma(choice_count: u32) -> LbPolicy {
    LbPolicy::PeakEwma { choice_count, decay_time: Duration::ZERO, default_rtt: Duration::ZERO }
}

fn any_policy() -> impl Strategy<Value = LbPolicy> {
    prop_oneof![
        Just(EDF),
        Just(SMOOTH),
        Just(LbPolicy::Random),
        (0_u32..70, 0_u32..5000, any::<bool>())
            .prop_map(|(count, bias, full_scan)| least_request(count, bias, full_scan)),
        (any::<u32>(), any::<u32>(), any::<bool>())
            .prop_map(|(count, bias, full_scan)| least_request(count, bias, full_scan)),
        (0_u32..70).prop_map(peak_ewma),
    ]
}

/// Loads by member, repeated as needed, and who was asked about.
struct Fixed {
    active: Vec<u32>,
    asked: Vec<u32>,
}

impl Fixed {
    fn new(active: &[u32]) -> Self {
        Self { active: active.to_vec(), asked: Vec::new() }
    }
    fn of(&self, member: u32) -> u32 {
        self.active[member as usize % self.active.len()]
    }
}

impl Loads for Fixed {
    fn active(&mut self, member: u32) -> u32 {
        self.asked.push(member);
        self.of(member)
    }
    fn active_total(&mut self) -> u64 {
        unreachable!("no policy here asks for the total")
    }
    fn cost(&mut self, member: u32) -> f64 {
        self.asked.push(member);
        f64::from(self.of(member))
    }
}

fn members(weights: &[u32]) -> Vec<Member<'static>> {
    weights.iter().map(|weight| Member { key: "", weight: *weight }).collect()
}

fn first(picker: &mut Picker, rng: &mut SplitMix64, answer: impl Fn(u32) -> Step) -> Option<u32> {
    let mut first = None;
    picker.walk(None, rng, &mut Fixed::new(&[0]), |member| {
        let step = answer(member);
        if matches!(step, Step::Take | Step::Stop) {
            first = Some(member);
            return Step::Stop;
        }
        step
    });
    first
}

const STEPS: [Step; 4] = [Step::Skip, Step::Pass, Step::Take, Step::Take];

fn config() -> ProptestConfig {
    let failure_persistence = Some(Box::new(FileFailurePersistence::Off) as Box<_>);
    ProptestConfig { cases: 64, failure_persistence, ..ProptestConfig::default() }
}

/// nginx's loop over all members.
struct Nginx {
    weights: Vec<i64>,
    current: Vec<i64>,
}

impl Nginx {
    fn new(weights: &[u32]) -> Self {
        let current = vec![0; weights.len()];
        Self { weights: weights.iter().copied().map(i64::from).collect(), current }
    }
    fn turn(&mut self) -> u32 {
        let mut best = 0;
        for (at, weight) in self.weights.iter().enumerate() {
            self.current[at] += weight;
            if self.current[at] > self.current[best] {
                best = at;
            }
        }
        self.current[best] -= self.weights.iter().sum::<i64>();
        best as u32
    }
}

/// Pearson's statistic against shares in proportion to `weights`.
fn chi_square(counts: &[u32], weights: &[u32]) -> f64 {
    let (n, sum) = (counts.iter().sum::<u32>(), weights.iter().sum::<u32>());
    let terms =
        counts.iter().zip(weights).filter(|(_, weight)| **weight > 0).map(|(count, weight)| {
            let expected = f64::from(n) * f64::from(*weight) / f64::from(sum);
            (f64::from(*count) - expected).powi(2) / expected
        });
    terms.sum()
}

/// A bound that the statistic passes by chance less than once in a million times: six standard
/// deviations above the mean, more for the skew of few degrees of freedom.
fn chi_square_max(degrees: usize) -> f64 {
    let degrees = degrees as f64;
    degrees + 6.0 * (2.0 * degrees).sqrt() + 20.0
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn every_walk_offers_each_member_once_and_asks_about_each_once_at_most(
        policy in any_policy(),
        weights in prop::collection::vec(prop_oneof![Just(3), 0_u32..9, any::<u32>()], 0..150),
        active in prop::collection::vec(any::<u32>(), 1..20),
        seed: u64,
        walks in prop::collection::vec(any::<u64>(), 1..20),
    ) {
        let mut picker = Picker::build(&policy, &members(&weights), seed);
        let mut rng = SplitMix64::new(seed);
        for answers in walks {
            let mut offered = Vec::new();
            let mut loads = Fixed::new(&active);
            picker.walk(None, &mut rng, &mut loads, |member| {
                offered.push(member);
                STEPS[(answers >> (member % 62) & 3) as usize]
            });
            offered.sort_unstable();
            prop_assert!(offered.into_iter().eq(0..picker.len()));
            let asked = loads.asked.len();
            loads.asked.sort_unstable();
            loads.asked.dedup();
            prop_assert_eq!(loads.asked.len(), asked);
        }
    }

    #[test]
    fn equal_inputs_give_equal_walks(
        policy in any_policy(),
        weights in prop::collection::vec(1_u32..9, 1..60),
        seed: u64,
    ) {
        let walks = || {
            let mut picker = Picker::build(&policy, &members(&weights), seed);
            let mut rng = SplitMix64::new(seed);
            let mut offered = Vec::new();
            for _ in 0..10 {
                picker.walk(None, &mut rng, &mut Fixed::new(&[3, 1, 2]), |member| {
                    offered.push(member);
                    Step::Take
                });
            }
            offered
        };
        prop_assert_eq!(walks(), walks());
    }

    #[test]
    fn smooth_turns_are_those_of_nginxs_loop(
        weights in prop::collection::vec(
            prop_oneof![1_u32..6, 1_u32..200, (1_u32 << 31)..=u32::MAX], 1..60),
    ) {
        let mut picker = Picker::build(&SMOOTH, &members(&weights), 0);
        let mut nginx = Nginx::new(&weights);
        let mut rng = SplitMix64::new(0);
        for turn in 0..2000 {
            let chosen = first(&mut picker, &mut rng, |_| Step::Stop);
            prop_assert_eq!(chosen, Some(nginx.turn()), "turn {}", turn);
        }
    }

    #[test]
    fn smooth_turns_are_in_proportion_also_while_a_member_is_held_out(
        weights in prop::collection::vec(prop_oneof![1_u32..40, 1_u32..4], 2..12),
        held_out: prop::sample::Index,
        seed: u64,
    ) {
        let held_out = held_out.index(weights.len());
        let mut picker = Picker::build(&SMOOTH, &members(&weights), seed);
        let mut rng = SplitMix64::new(seed);
        for out in [None, Some(held_out), None] {
            let weight = |member: usize| if out == Some(member) { 0 } else { weights[member] };
            let round: u32 = (0..weights.len()).map(weight).sum();
            let mut counts = vec![0_u32; weights.len()];
            for _ in 0..20 * round {
                let is_out = |member| out == Some(member as usize);
                let answer = |member| if is_out(member) { Step::Skip } else { Step::Stop };
                counts[first(&mut picker, &mut rng, answer).unwrap() as usize] += 1;
            }
            let slack = 3 + weights.len() as u32;
            for (member, count) in counts.iter().enumerate() {
                let off = count.abs_diff(20 * weight(member));
                prop_assert!(off <= slack, "{counts:?} {weights:?}");
            }
        }
    }

    #[test]
    fn turns_of_the_others_stay_in_proportion_while_one_is_always_passed_over_and_none_are_saved_up(
        weights in prop::collection::vec(1_u32..20, 3..8),
        heavy in prop_oneof![1_u32..20, Just(5000)],
        smooth: bool,
        seed: u64,
    ) {
        let mut weights = weights;
        weights[0] = heavy;
        let policy = if smooth { SMOOTH } else { EDF };
        let mut picker = Picker::build(&policy, &members(&weights), seed);
        let mut rng = SplitMix64::new(seed);
        let round: u32 = weights[1..].iter().sum();
        let mut counts = vec![0_u32; weights.len()];
        for _ in 0..40 * round {
            let answer = |member| if member == 0 { Step::Pass } else { Step::Stop };
            counts[first(&mut picker, &mut rng, answer).unwrap() as usize] += 1;
        }
        for (count, weight) in counts.iter().zip(&weights).skip(1) {
            // Rotation lets the successor of the one that is passed over have its turns too.
            let is_rotation = weights.iter().all(|other| other == weight);
            prop_assert!(is_rotation || count.abs_diff(40 * weight) <= 4, "{counts:?} {weights:?}");
        }
        let round: u32 = weights.iter().sum();
        let mut counts = vec![0_u32; weights.len()];
        for _ in 0..10 * round {
            counts[first(&mut picker, &mut rng, |_| Step::Stop).unwrap() as usize] += 1;
        }
        for (count, weight) in counts.iter().zip(&weights).skip(1) {
            prop_assert!(count.abs_diff(10 * weight) <= 4, "{counts:?} {weights:?}");
        }
    }

    #[test]
    fn random_is_in_proportion_to_weights_also_among_those_who_are_not_held_out(
        weights in prop::collection::vec(prop_oneof![1_u32..5, 1_u32..200], 2..40),
        held_out: prop::sample::Index,
        seed: u64,
    ) {
        let held_out = held_out.index(weights.len());
        let mut picker = Picker::build(&LbPolicy::Random, &members(&weights), seed);
        let mut rng = SplitMix64::new(seed);
        for out in [None, Some(held_out)] {
            let mut shares = weights.clone();
            if let Some(out) = out {
                // Sixteen draws that all hit a member with most of the weight end the drawing.
                prop_assume!(2 * weights[out] <= weights.iter().sum());
                shares[out] = 0;
            }
            let mut counts = vec![0_u32; weights.len()];
            for _ in 0..20_000 {
                let is_out = |member| out == Some(member as usize);
                let answer = |member| if is_out(member) { Step::Skip } else { Step::Stop };
                counts[first(&mut picker, &mut rng, answer).unwrap() as usize] += 1;
            }
            let statistic = chi_square(&counts, &shares);
            prop_assert!(statistic < chi_square_max(weights.len() - 1), "{statistic} {counts:?}");
        }
    }

    #[test]
    fn nobody_is_chosen_while_one_that_was_drawn_and_costs_less_is_admitted(
        choice_count in 1_u32..6,
        by_cost: bool,
        n in 1_usize..40,
        active in prop::collection::vec(0_u32..10, 1..40),
        held_out: u64,
        seed: u64,
    ) {
        let policy = if by_cost {
            peak_ewma(choice_count)
        } else {
            least_request(choice_count, 1000, false)
        };
        let mut picker = Picker::build(&policy, &members(&vec![1; n]), seed);
        let mut rng = SplitMix64::new(seed);
        for _ in 0..50 {
            let mut loads = Fixed::new(&active);
            let is_out = |member: u32| held_out >> member & 1 == 1;
            let mut chosen = None;
            picker.walk(None, &mut rng, &mut loads, |member| {
                if is_out(member) {
                    return Step::Skip;
                }
                chosen = Some(member);
                Step::Stop
            });
            let best = loads.asked.iter().filter(|member| !is_out(**member)).map(|m| loads.of(*m));
            if let (Some(chosen), Some(best)) = (chosen, best.min()) {
                prop_assert!(loads.of(chosen) == best, "{:?} {chosen}", loads.asked);
            }
            if by_cost && !is_out(loads.asked[0]) && held_out == 0 {
                prop_assert!(loads.asked.len() >= (choice_count as usize).min(n).min(2));
            }
        }
    }

    #[test]
    fn a_full_scan_offers_in_the_order_of_load(
        active in prop::collection::vec(0_u32..10, 1..60),
        seed: u64,
    ) {
        let policy = least_request(2, 1000, true);
        let mut picker = Picker::build(&policy, &members(&vec![7; active.len()]), seed);
        let mut offered = Vec::new();
        picker.walk(None, &mut SplitMix64::new(seed), &mut Fixed::new(&active), |member| {
            offered.push(active[member as usize]);
            if member % 2 == 0 { Step::Skip } else { Step::Take }
        });
        prop_assert!(offered.is_sorted());
        prop_assert_eq!(offered.len(), active.len());
    }

    #[test]
    fn weighted_least_request_is_a_schedule_with_weights_over_a_power_of_the_load(
        weights in prop::collection::vec(1_u32..50, 2..20),
        active in prop::collection::vec(0_u32..20, 20),
        bias_milli in prop_oneof![Just(0_u32), Just(1000), 0_u32..3000],
    ) {
        prop_assume!(weights.iter().any(|weight| *weight != weights[0]));
        let policy = least_request(2, bias_milli, false);
        let mut picker = Picker::build(&policy, &members(&weights), 0);
        let worth = |member: usize| {
            let load = f64::from(active[member] + 1);
            f64::from(weights[member]) / load.powf(f64::from(bias_milli) / 1000.0)
        };
        let first_deadline = |weight: &u32| 1.0 / (f64::from(*weight) + 1e-13);
        let mut due: Vec<_> = weights.iter().map(first_deadline).zip(0_usize..).collect();
        for turn in 0..200 {
            let earliest = (0..due.len()).min_by(|a, b| due[*a].0.total_cmp(&due[*b].0));
            let (deadline, member) = due.remove(earliest.unwrap());
            due.push((deadline + 1.0 / worth(member), member));
            let mut chosen = None;
            picker.walk(None, &mut SplitMix64::new(0), &mut Fixed::new(&active), |member| {
                chosen = Some(member as usize);
                Step::Stop
            });
            prop_assert_eq!(chosen, Some(member), "turn {}", turn);
        }
    }
}

#[test]
fn one_that_is_passed_over_every_other_time_has_half_its_weight() {
    for policy in [EDF, SMOOTH] {
        let mut picker = Picker::build(&policy, &members(&[3, 2, 2, 2]), 0);
        let mut rng = SplitMix64::new(0);
        let offered = std::cell::Cell::new(0_u32);
        let mut counts = [0_u32; 4];
        for _ in 0..7500 {
            let answer = |member| {
                offered.set(offered.get() + u32::from(member == 0));
                if member == 0 && offered.get().is_multiple_of(2) { Step::Pass } else { Step::Stop }
            };
            counts[first(&mut picker, &mut rng, answer).unwrap() as usize] += 1;
        }
        // Its share is 1.5 of 7.5, less the turns that fall due while it has just been passed over.
        assert!((1300..=1500).contains(&counts[0]), "{policy:?} {counts:?}");
        assert!(counts[1..].iter().all(|count| count.abs_diff(counts[1]) <= 2), "{counts:?}");
    }
}

#[test]
fn any_number_of_members_and_any_weights_are_walked() {
    let policies = [
        EDF,
        SMOOTH,
        LbPolicy::Random,
        least_request(2, 1000, false),
        least_request(u32::MAX, u32::MAX, true),
        peak_ewma(2),
    ];
    let weight: [fn(u32) -> u32; 5] =
        [|_| 0, |_| u32::MAX, |i| i, |i| u32::MAX - i % 3, |i| if i == 0 { u32::MAX } else { 1 }];
    for n in [0, 1, 2, 65_536] {
        for (policy, weight) in policies.iter().flat_map(|policy| weight.map(|w| (policy, w))) {
            let weights: Vec<u32> = (0..n).map(weight).collect();
            let mut picker = Picker::build(policy, &members(&weights), u64::MAX);
            let mut rng = SplitMix64::new(u64::from(n));
            for step in [Step::Take, Step::Skip, Step::Pass, Step::Take] {
                let mut offered = 0;
                picker.walk(None, &mut rng, &mut Fixed::new(&[u32::MAX, 0, 7]), |_| {
                    offered += 1;
                    step
                });
                assert_eq!(offered, n, "{policy:?} {step:?}");
            }
        }
    }
}

/// Answers take a while: each member serves its oldest request after as many ticks as it is slow.
fn simulate(policy: &LbPolicy, slowness: &[f64], weights: &[u32]) -> Vec<u32> {
    struct Latency<'a> {
        active: &'a [u32],
        slowness: &'a [f64],
    }
    impl Loads for Latency<'_> {
        fn active(&mut self, member: u32) -> u32 {
            self.active[member as usize]
        }
        fn active_total(&mut self) -> u64 {
            0
        }
        fn cost(&mut self, member: u32) -> f64 {
            self.slowness[member as usize] * f64::from(self.active[member as usize] + 1)
        }
    }
    let mut picker = Picker::build(policy, &members(weights), 0);
    let mut rng = SplitMix64::new(1);
    let mut active = vec![0_u32; weights.len()];
    let mut served = vec![0_u32; weights.len()];
    let mut ends: std::collections::BinaryHeap<std::cmp::Reverse<(u64, u32)>> = Default::default();
    for now in 0..50_000_u64 {
        while let Some(std::cmp::Reverse((end, member))) = ends.peek().copied() {
            if end > now {
                break;
            }
            ends.pop();
            active[member as usize] -= 1;
        }
        let mut loads = Latency { active: &active, slowness };
        let mut chosen = 0;
        picker.walk(None, &mut rng, &mut loads, |member| {
            chosen = member;
            Step::Stop
        });
        active[chosen as usize] += 1;
        served[chosen as usize] += 1;
        let took = (200.0 * slowness[chosen as usize]) as u64;
        ends.push(std::cmp::Reverse((now + took, chosen)));
    }
    served
}

#[test]
fn peak_ewma_gives_equal_members_equal_load_slow_ones_less_and_heavy_ones_more() {
    let even = simulate(&peak_ewma(2), &[1.0; 10], &[1; 10]);
    assert!(even.iter().all(|served| served.abs_diff(5000) < 250), "{even:?}");

    let mut slowness = [1.0; 10];
    slowness[3] = 2.0;
    let slow = simulate(&peak_ewma(2), &slowness, &[1; 10]);
    let others = (50_000 - slow[3]) / 9;
    // At the same cost it has half as many in flight, each for twice the time.
    assert!(slow[3] * 10 < others * 5, "{slow:?}");
    assert!(slow[3] * 10 > others, "{slow:?}");

    let heavy = simulate(&peak_ewma(4), &[1.0; 4], &[1, 1, 1, 3]);
    assert!(heavy[3].abs_diff(25_000) < 1500, "{heavy:?}");
}

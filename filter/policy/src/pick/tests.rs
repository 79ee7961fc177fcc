//! What all policies have in common, and what the vectors do not say.

#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

use super::*;
use crate::config::TurnOrder;
use crate::rng::SplitMix64;

const SPECS: [LbPolicy; 6] = [
    LbPolicy::RoundRobin { order: TurnOrder::Edf },
    LbPolicy::RingHash {
        minimum_ring_size: 1024,
        maximum_ring_size: RING_SIZE_MAX,
        hash_function: HashFunction::XxHash,
        hash_balance_factor: 0,
    },
    LbPolicy::RingHash {
        minimum_ring_size: 1024,
        maximum_ring_size: RING_SIZE_MAX,
        hash_function: HashFunction::MurmurHash2,
        hash_balance_factor: 0,
    },
    LbPolicy::Maglev { table_size: 65_537, hash_balance_factor: 0 },
    LbPolicy::Rendezvous { table_size: 65_536, hash_balance_factor: 0 },
    LbPolicy::Maglev { table_size: 65_537, hash_balance_factor: 125 },
];

fn keys(n: u32) -> Vec<String> {
    (0..n).map(|i| format!("10.{}.{}.{}:80", i / 65_536, i / 256 % 256, i % 256)).collect()
}

fn members<'a>(keys: &'a [String], weight: impl Fn(u32) -> u32) -> Vec<Member<'a>> {
    (0..).zip(keys).map(|(i, key)| Member { key, weight: weight(i) }).collect()
}

/// Every member that a walk offers when the caller answers `step` to all of them.
fn offered(picker: &mut Picker, hash: Option<u64>, rng: &mut SplitMix64, step: Step) -> Vec<u32> {
    let mut offered = Vec::new();
    picker.walk(hash, rng, &mut NoLoads, |member| {
        offered.push(member);
        step
    });
    offered
}

/// The first member that is not held out.
fn first(picker: &mut Picker, rng: &mut SplitMix64, held_out: &[u32]) -> u32 {
    let mut first = None;
    picker.walk(None, rng, &mut NoLoads, |member| {
        if held_out.contains(&member) {
            return Step::Skip;
        }
        first = Some(member);
        Step::Stop
    });
    first.unwrap()
}

#[test]
fn a_picker_of_nobody_offers_nobody() {
    let mut rng = SplitMix64::new(1);
    for spec in SPECS {
        let mut picker = Picker::build(&spec, &[], 7);
        assert!(picker.is_empty());
        assert!(offered(&mut picker, Some(1), &mut rng, Step::Take).is_empty());
        assert!(offered(&mut picker, None, &mut rng, Step::Skip).is_empty());
    }
}

#[test]
fn ten_thousand_members_are_all_offered_once_and_the_walk_stops_when_told() {
    let keys = keys(10_000);
    let mut rng = SplitMix64::new(2);
    for spec in SPECS {
        for weight in [|_| 1, |i| 1 + i % 5] {
            let mut picker = Picker::build(&spec, &members(&keys, weight), 3);
            assert_eq!(picker.len(), 10_000);
            for step in [Step::Take, Step::Skip] {
                let mut all = offered(&mut picker, Some(4), &mut rng, step);
                all.sort_unstable();
                assert!(all.iter().copied().eq(0..10_000), "{spec:?}");
            }
            assert_eq!(offered(&mut picker, Some(4), &mut rng, Step::Stop).len(), 1);
        }
    }
}

#[test]
fn limits_clamp_and_members_without_a_point_or_slot_come_last() {
    let keys = keys(20);
    let members = members(&keys, |_| 1);
    let mut rng = SplitMix64::new(5);
    let tiny = [
        LbPolicy::Maglev { table_size: 0, hash_balance_factor: 0 },
        LbPolicy::Maglev { table_size: 7, hash_balance_factor: 0 },
        LbPolicy::Rendezvous { table_size: 0, hash_balance_factor: 0 },
        LbPolicy::Rendezvous { table_size: 3, hash_balance_factor: 100 },
        LbPolicy::RingHash {
            minimum_ring_size: u64::MAX,
            maximum_ring_size: 0,
            hash_function: HashFunction::XxHash,
            hash_balance_factor: 0,
        },
        LbPolicy::RingHash {
            minimum_ring_size: 3,
            maximum_ring_size: 3,
            hash_function: HashFunction::XxHash,
            hash_balance_factor: 0,
        },
    ];
    for spec in tiny {
        let mut picker = Picker::build(&spec, &members, 0);
        for hash in [0, 1, u64::MAX] {
            let mut all = offered(&mut picker, Some(hash), &mut rng, Step::Take);
            all.sort_unstable();
            assert!(all.iter().copied().eq(0..20), "{spec:?}");
        }
    }
}

#[test]
fn a_weight_of_zero_counts_as_one() {
    let keys = keys(3);
    for spec in SPECS {
        let mut zero = Picker::build(&spec, &members(&keys, |i| 2 * i), 0);
        let mut one = Picker::build(&spec, &members(&keys, |i| (2 * i).max(1)), 0);
        let mut rng = SplitMix64::new(6);
        let mut other = SplitMix64::new(6);
        for _ in 0..100 {
            assert_eq!(first(&mut zero, &mut rng, &[]), first(&mut one, &mut other, &[]));
        }
    }
}

#[test]
fn without_a_hash_the_hashing_policies_spread_by_weight() {
    let keys = keys(4);
    let mut rng = SplitMix64::new(8);
    for spec in &SPECS[1..] {
        let mut picker = Picker::build(spec, &members(&keys, |i| 1 + i), 0);
        let mut counts = [0_u32; 4];
        for _ in 0..10_000 {
            counts[first(&mut picker, &mut rng, &[]) as usize] += 1;
        }
        for (n, expected) in counts.iter().zip([1000, 2000, 3000, 4000]) {
            assert!(n.abs_diff(expected) < 500, "{spec:?} {counts:?}");
        }
    }
}

#[test]
fn backups_use_up_no_turns_and_are_spread_evenly() {
    let keys = keys(5);
    for weight in [|_| 1, |i| 1 + i % 2] {
        let mut with = Picker::build(
            &LbPolicy::RoundRobin { order: TurnOrder::Edf },
            &members(&keys, weight),
            0,
        );
        let mut without = Picker::build(
            &LbPolicy::RoundRobin { order: TurnOrder::Edf },
            &members(&keys, weight),
            0,
        );
        let mut rng = SplitMix64::new(9);
        let mut second = [[0_u32; 5]; 5];
        for _ in 0..35_000 {
            let all = offered(&mut with, None, &mut rng, Step::Take);
            assert_eq!(all[0], first(&mut without, &mut rng, &[]));
            second[all[0] as usize][all[1] as usize] += 1;
        }
        for (first, row) in second.iter().enumerate() {
            let even = row.iter().sum::<u32>() / 4;
            for (backup, n) in row.iter().enumerate() {
                let expected = if backup == first { 0 } else { even };
                assert!(n.abs_diff(expected) <= even / 8, "{second:?}");
            }
        }
    }
}

#[test]
fn turns_stay_in_proportion_while_members_are_held_out_and_after() {
    let keys = keys(6);
    let weights = [1, 1000, 2, 3, 500, 4];
    let mut rng = SplitMix64::new(10);
    let members = members(&keys, |i| weights[i as usize]);
    let mut picker = Picker::build(&LbPolicy::RoundRobin { order: TurnOrder::Edf }, &members, 11);
    let mut shares = |held_out: &[u32], turns: u32| {
        let mut counts = [0_u32; 6];
        for _ in 0..turns {
            counts[first(&mut picker, &mut rng, held_out) as usize] += 1;
        }
        counts
    };
    let light = shares(&[1, 4], 10_000);
    for (n, expected) in light.iter().zip([1000, 0, 2000, 3000, 0, 4000]) {
        assert!(n.abs_diff(expected) <= 2, "{light:?}");
    }
    let all = shares(&[], 15_100);
    for (n, expected) in all.iter().zip([10, 10_000, 20, 30, 5000, 40]) {
        assert!(n.abs_diff(expected) <= 8, "{all:?}");
    }
}

#[test]
fn a_heavy_member_that_is_held_out_is_not_asked_in_every_walk() {
    let keys = keys(5);
    let members = members(&keys, |i| if i == 0 { 1_000_000 } else { 1 });
    let mut picker = Picker::build(&LbPolicy::RoundRobin { order: TurnOrder::Edf }, &members, 0);
    let mut rng = SplitMix64::new(12);
    let mut asked = 0;
    for _ in 0..1000 {
        picker.walk(None, &mut rng, &mut NoLoads, |member| {
            asked += 1;
            if member == 0 { Step::Skip } else { Step::Stop }
        });
    }
    assert!(asked <= 1000 + 1000 / 5 + 1, "{asked}");
}

#[test]
fn when_everybody_is_held_out_turns_go_on_as_before_afterwards() {
    let keys = keys(3);
    let members = members(&keys, |i| 1 + i);
    let mut picker = Picker::build(&LbPolicy::RoundRobin { order: TurnOrder::Edf }, &members, 0);
    let mut rng = SplitMix64::new(13);
    for _ in 0..10 {
        assert_eq!(offered(&mut picker, None, &mut rng, Step::Skip).len(), 3);
    }
    let mut counts = [0_u32; 3];
    for _ in 0..600 {
        counts[first(&mut picker, &mut rng, &[]) as usize] += 1;
    }
    assert_eq!(counts, [100, 200, 300]);
}

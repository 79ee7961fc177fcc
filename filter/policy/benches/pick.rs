//! What one pick costs: a walk that takes a first candidate and two backups, as the engine does.
//!
//! Ids are `<policy>/<endpoints>`; one iteration is one walk, so criterion's time is ns per pick.
//! The groups `build_<policy>` measure what a change of membership costs instead.
#![allow(missing_docs)]

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use outrigger_policy::config::{LbPolicy, TurnOrder};
use outrigger_policy::pick::{HashFunction, Loads, Member, Picker, RING_SIZE_MAX, Step};
use outrigger_policy::rng::SplitMix64;

const ENDPOINTS: [u32; 4] = [10, 100, 1_000, 10_000];
const CANDIDATES: u32 = 3;

const RING_HASH: LbPolicy = LbPolicy::RingHash {
    minimum_ring_size: 1024,
    maximum_ring_size: RING_SIZE_MAX,
    hash_function: HashFunction::XxHash,
    hash_balance_factor: 0,
};

const RING_HASH_BOUNDED: LbPolicy = LbPolicy::RingHash {
    minimum_ring_size: 1024,
    maximum_ring_size: RING_SIZE_MAX,
    hash_function: HashFunction::XxHash,
    hash_balance_factor: 200,
};

const RENDEZVOUS: LbPolicy = LbPolicy::Rendezvous { table_size: 65_536, hash_balance_factor: 0 };

const fn maglev(hash_balance_factor: u32) -> LbPolicy {
    LbPolicy::Maglev { table_size: 65_537, hash_balance_factor }
}

const EDF: LbPolicy = LbPolicy::RoundRobin { order: TurnOrder::Edf };
const SMOOTH: LbPolicy = LbPolicy::RoundRobin { order: TurnOrder::Smooth };

const LEAST_REQUEST: LbPolicy =
    LbPolicy::LeastRequest { choice_count: 2, active_request_bias_milli: 1000, full_scan: false };

const PEAK_EWMA: LbPolicy = LbPolicy::PeakEwma {
    choice_count: 2,
    decay_time: Duration::from_secs(10),
    default_rtt: Duration::from_millis(30),
};

/// Name in reports, policy, and the number of different weights among the endpoints.
const POLICIES: [(&str, LbPolicy, u32); 16] = [
    ("round_robin", EDF, 1),
    ("round_robin_weighted", EDF, 5),
    ("round_robin_smooth", SMOOTH, 5),
    ("round_robin_smooth_64_weights", SMOOTH, 64),
    ("random", LbPolicy::Random, 1),
    ("random_weighted", LbPolicy::Random, 5),
    ("least_request", LEAST_REQUEST, 1),
    ("least_request_weighted", LEAST_REQUEST, 5),
    ("peak_ewma", PEAK_EWMA, 1),
    ("peak_ewma_weighted", PEAK_EWMA, 5),
    ("ring_hash", RING_HASH, 1),
    ("maglev", maglev(0), 1),
    ("rendezvous", RENDEZVOUS, 1),
    // With 200 % of the mean load nobody is full, with 150 % two in seven are.
    ("ring_hash_bounded", RING_HASH_BOUNDED, 1),
    ("maglev_bounded", maglev(200), 1),
    ("maglev_overflow", maglev(150), 1),
];

/// Loads that differ, three on average, and cost next to nothing to ask for; the engine's are host
/// calls.
struct CheapLoads(u32);

impl Loads for CheapLoads {
    fn active(&mut self, member: u32) -> u32 {
        member % 7
    }
    fn active_total(&mut self) -> u64 {
        3 * u64::from(self.0)
    }
    fn cost(&mut self, member: u32) -> f64 {
        f64::from(member % 7)
    }
}

fn keys(endpoints: u32) -> Vec<String> {
    (0..endpoints)
        .map(|i| format!("10.{}.{}.{}:8080", i / 65_536, i / 256 % 256, i % 256))
        .collect()
}

fn members(keys: &[String], weights: u32) -> Vec<Member<'_>> {
    (0..).zip(keys).map(|(i, key)| Member { key, weight: 1 + i % weights }).collect()
}

/// The sum of three candidates' indices.
fn pick(picker: &mut Picker, hash: u64, rng: &mut SplitMix64) -> u32 {
    let (mut sum, mut taken) = (0, 0);
    let mut loads = CheapLoads(picker.len());
    picker.walk(Some(hash), rng, &mut loads, |member| {
        sum += member;
        taken += 1;
        if taken == CANDIDATES { Step::Stop } else { Step::Take }
    });
    sum
}

fn picks(criterion: &mut Criterion) {
    for (name, spec, weights) in POLICIES {
        let mut group = criterion.benchmark_group(name);
        for endpoints in ENDPOINTS {
            let keys = keys(endpoints);
            let mut picker = Picker::build(&spec, &members(&keys, weights), 1);
            let mut rng = SplitMix64::new(1);
            let mut hash = 0_u64;
            group.bench_function(BenchmarkId::from_parameter(endpoints), |bencher| {
                bencher.iter(|| {
                    hash = hash.wrapping_add(0x9E37_79B9_7F4A_7C15);
                    black_box(pick(&mut picker, black_box(hash), &mut rng))
                });
            });
        }
        group.finish();
    }
}

fn builds(criterion: &mut Criterion) {
    for (name, spec, weights) in POLICIES {
        let mut group = criterion.benchmark_group(format!("build_{name}"));
        group.sample_size(10);
        for endpoints in ENDPOINTS {
            let keys = keys(endpoints);
            let members = members(&keys, weights);
            group.bench_function(BenchmarkId::from_parameter(endpoints), |bencher| {
                bencher.iter(|| Picker::build(black_box(&spec), &members, 1));
            });
        }
        group.finish();
    }
}

criterion_group!(benches, picks, builds);
criterion_main!(benches);

//! Golden vectors: placement and turns against numbers that Envoy's own tests publish.
//!
//! `vectors/README.md` says where each file comes from and which rows are left out. Runs natively
//! and, because 32-bit `usize` is where such code goes wrong, on wasm32-unknown-unknown.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::expect_used)]

#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

use outrigger_policy::config::{LbPolicy, TurnOrder};
use outrigger_policy::hash::{MURMUR2_SEED, header_values_hash, murmur2_64a, xxh64};
use outrigger_policy::pick::{HashFunction, Loads, Member, NoLoads, Picker, RING_SIZE_MAX, Step};
use outrigger_policy::rng::SplitMix64;
use serde_json::Value;

const HASH: &str = include_str!("vectors/envoy_hash.json");
const MAGLEV: &str = include_str!("vectors/envoy_maglev.json");
const RING_HASH: &str = include_str!("vectors/envoy_ring_hash.json");
const BOUNDED: &str = include_str!("vectors/envoy_bounded.json");
const WRR: &str = include_str!("vectors/wrr.json");

fn parse(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().unwrap()
}

fn u32_of(value: &Value) -> u32 {
    u32::try_from(value.as_u64().unwrap()).unwrap()
}

fn u32s(value: &Value) -> Vec<u32> {
    list(value).iter().map(u32_of).collect()
}

/// A `u64` that the file writes as a string, because JSON numbers lose digits in some readers.
fn u64_text(value: &Value) -> u64 {
    value.as_str().unwrap().parse().unwrap()
}

fn texts(value: &Value) -> Vec<&str> {
    list(value).iter().map(|text| text.as_str().unwrap()).collect()
}

fn members<'a>(keys: &[&'a str], weights: &[u32]) -> Vec<Member<'a>> {
    keys.iter().zip(weights).map(|(key, weight)| Member { key, weight: *weight }).collect()
}

/// All candidates for `hash`, in order.
fn candidates(picker: &mut Picker, hash: Option<u64>) -> Vec<u32> {
    let mut candidates = Vec::new();
    picker.walk(hash, &mut SplitMix64::new(0), &mut NoLoads, |member| {
        candidates.push(member);
        Step::Take
    });
    candidates
}

/// The next turn, with the first candidate admitted.
fn turn(picker: &mut Picker) -> u32 {
    let mut turn = None;
    picker.walk(None, &mut SplitMix64::new(0), &mut NoLoads, |member| {
        turn = Some(member);
        Step::Stop
    });
    turn.unwrap()
}

fn counts(owners: impl Iterator<Item = u32>, members: usize) -> Vec<u32> {
    let mut counts = vec![0; members];
    owners.for_each(|owner| counts[owner as usize] += 1);
    counts
}

#[test]
fn hashes_are_envoys() {
    let file = parse(HASH);
    for (text, hash) in file["xxhash64_seed0"].as_object().unwrap() {
        assert_eq!(xxh64(text.as_bytes(), 0), hash.as_u64().unwrap(), "{text}");
        assert_eq!(HashFunction::XxHash.hash(text.as_bytes()), hash.as_u64().unwrap());
    }
    for (text, hash) in file["murmur2_64a_seed_0xc70f6907"].as_object().unwrap() {
        assert_eq!(murmur2_64a(text.as_bytes(), MURMUR2_SEED), hash.as_u64().unwrap(), "{text}");
        assert_eq!(HashFunction::MurmurHash2.hash(text.as_bytes()), hash.as_u64().unwrap());
    }
    let chained = file["xxhash64_vector_foo_bar"]["value"].as_u64().unwrap();
    assert_eq!(xxh64(b"bar", xxh64(b"foo", 0)), chained);
}

#[test]
fn xxhash_of_every_byte_is_haproxys() {
    let file = parse(HASH);
    let bytes: Vec<u8> = (0..=255).collect();
    for seed in [0, 1] {
        let expected = &file["haproxy_bytes_00_to_ff"][format!("xxh64_seed{seed}")];
        let signed = expected.as_i64().unwrap();
        assert_eq!(xxh64(&bytes, seed).cast_signed(), signed);
    }
}

#[test]
fn header_values_are_chained_in_sorted_order() {
    let chain = xxh64(b"foo", xxh64(b"bar", 0));
    assert_eq!(header_values_hash(&mut [b"foo", b"bar"]), chain);
}

#[test]
fn maglev_tables_are_envoys() {
    let file = parse(MAGLEV);
    for case in list(&file["cases"]) {
        let keys = texts(&case["keys"]);
        let mut weights = u32s(&case["weights"]);
        if !case["locality"].is_null() {
            // One host per locality and equal locality weights: each host has the same share.
            weights.fill(1);
        }
        let spec =
            LbPolicy::Maglev { table_size: case["M"].as_u64().unwrap(), hash_balance_factor: 0 };
        let Picker::Maglev(table) = Picker::build(&spec, &members(&keys, &weights), 0) else {
            unreachable!("the spec is maglev");
        };
        let slots: Vec<u32> = table.slots().collect();
        assert_eq!(slots, u32s(&case["table"]), "{}", case["name"]);
        let counts = counts(slots.into_iter(), keys.len());
        assert_eq!(counts.iter().min(), Some(&u32_of(&case["min"])));
        assert_eq!(counts.iter().max(), Some(&u32_of(&case["max"])));
    }
    for size in list(&file["single"]["M"]) {
        let spec = LbPolicy::Maglev { table_size: size.as_u64().unwrap(), hash_balance_factor: 0 };
        let keys = texts(&file["single"]["keys"]);
        for weight in [1, 7] {
            let Picker::Maglev(table) = Picker::build(&spec, &members(&keys, &[weight]), 0) else {
                unreachable!("the spec is maglev");
            };
            assert!(table.slots().eq((0..size.as_u64().unwrap()).map(|_| 0)));
        }
    }
}

#[test]
fn maglev_candidates_follow_envoys_rule_for_retries() {
    let file = parse(MAGLEV);
    let (case, retry) = (&file["cases"][0], &file["retry"]);
    assert_eq!(case["name"], retry["on"]);
    let members = members(&texts(&case["keys"]), &u32s(&case["weights"]));
    let spec = LbPolicy::Maglev { table_size: case["M"].as_u64().unwrap(), hash_balance_factor: 0 };
    let mut picker = Picker::build(&spec, &members, 0);
    let order = candidates(&mut picker, retry["hash"].as_u64());
    let expect = &retry["expect"];
    assert_eq!(order[0], u32_of(&expect["attempt0"]));
    assert_eq!(order[1], u32_of(&expect["attempt1_when_host1_rejected"]));
    assert_eq!(order[2], u32_of(&expect["retries_exhausted(2)_all_rejected"]));
}

/// Weights of a ring case: as given, the numerators of given shares, or equal.
fn ring_weights(case: &Value, members: usize) -> Vec<u32> {
    if !case["weights"].is_null() {
        return u32s(&case["weights"]);
    }
    if case["normalized"].is_null() {
        return vec![1; members];
    }
    let numerator = |share: &str| share.split('/').next().unwrap().parse().unwrap();
    texts(&case["normalized"]).into_iter().map(numerator).collect()
}

fn ring(case: &Value) -> Picker {
    let keys = texts(&case["keys"]);
    let hash_function = match case["hash"].as_str() {
        Some("murmur2") => HashFunction::MurmurHash2,
        _ => HashFunction::XxHash,
    };
    let spec = LbPolicy::RingHash {
        minimum_ring_size: case["min"].as_u64().unwrap(),
        maximum_ring_size: case["max"].as_u64().unwrap_or(RING_SIZE_MAX),
        hash_function,
        hash_balance_factor: 0,
    };
    Picker::build(&spec, &members(&keys, &ring_weights(case, keys.len())), 0)
}

fn points(picker: &Picker) -> Vec<(u64, u32)> {
    match picker {
        Picker::RingHash(ring) => ring.points().collect(),
        _ => unreachable!("the spec is ring_hash"),
    }
}

#[test]
fn rings_are_envoys() {
    for case in list(&parse(RING_HASH)["rings"]) {
        let mut picker = ring(case);
        let point = |point: &Value| (u64_text(&point[0]), u32_of(&point[1]));
        let expected: Vec<_> = list(&case["ring"]).iter().map(point).collect();
        assert_eq!(points(&picker), expected, "{}", case["name"]);
        for pick in case["picks"].as_array().into_iter().flatten() {
            let order = candidates(&mut picker, Some(u64_text(&pick[0])));
            assert_eq!(order[0], u32_of(&pick[1]), "{} {pick}", case["name"]);
        }
        if !case["min_per_host"].is_null() {
            let owners = expected.iter().map(|point| point.1);
            let counts = counts(owners, list(&case["keys"]).len());
            assert_eq!(counts.iter().min(), Some(&u32_of(&case["min_per_host"])));
            assert_eq!(counts.iter().max(), Some(&u32_of(&case["max_per_host"])));
        }
    }
}

#[test]
fn ring_candidates_are_the_distinct_owners_of_envoys_retry_attempts() {
    let file = parse(RING_HASH);
    let case = &file["rings"][0];
    let retry = &case["retry"];
    let mut picker = ring(case);
    let ring = points(&picker);
    let hash = u64_text(&retry["hash"]);
    let start = ring.partition_point(|point| point.0 < hash);
    let attempt = |a: usize| ring[(start + a) % ring.len()].1;
    for (name, owner) in retry.as_object().unwrap() {
        let Some(a) = name.strip_prefix("attempt") else {
            continue;
        };
        assert_eq!(attempt(a.parse().unwrap()), u32_of(owner), "{name}");
    }
    let mut distinct = Vec::new();
    for owner in (0..ring.len()).map(attempt) {
        if !distinct.contains(&owner) {
            distinct.push(owner);
        }
    }
    assert_eq!(candidates(&mut picker, Some(hash)), distinct);
}

#[test]
fn large_rings_give_envoys_histograms() {
    for case in list(&parse(RING_HASH)["histograms"]) {
        let mut picker = ring(case);
        let ring = points(&picker);
        let members = list(&case["keys"]).len();
        assert_eq!(ring.len() as u64, case["size"].as_u64().unwrap());
        let owned = counts(ring.iter().map(|point| point.1), members);
        assert_eq!(owned.iter().min(), Some(&u32_of(&case["min_per_host"])));
        assert_eq!(owned.iter().max(), Some(&u32_of(&case["max_per_host"])));
        let probes = case["probes"].as_u64().unwrap();
        let picks = (0..probes).map(|i| {
            let order = candidates(&mut picker, Some(i * (u64::MAX / probes)));
            order[0]
        });
        assert_eq!(counts(picks, members), u32s(&case["counts"]), "{}", case["name"]);
    }
}

/// Requests in flight as a vector sets them; the total is given on its own there.
struct Flights {
    active: Vec<u32>,
    total: u64,
}

impl Loads for Flights {
    fn active(&mut self, member: u32) -> u32 {
        self.active[member as usize]
    }
    fn active_total(&mut self) -> u64 {
        self.total
    }
    fn cost(&mut self, _: u32) -> f64 {
        0.0
    }
}

/// Candidates for `hash` under bounded load, when `hashed` of `n` equal members is the policy's own
/// choice and the caller answers `step`. A maglev table: whose slot is whose follows from the
/// keys, so they are dealt out until it is `hashed`.
fn bounded(n: u32, factor: u32, hash: u64, hashed: u32, flights: &Flights, step: Step) -> Vec<u32> {
    let policy = |hash_balance_factor| LbPolicy::Maglev { table_size: 251, hash_balance_factor };
    let mut keys = any_keys(n as usize);
    let owner = |keys: &[String], policy: &LbPolicy| {
        let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        let members = members(&keys, &vec![1; n as usize]);
        Picker::build(policy, &members, 0)
    };
    let own = candidates(&mut owner(&keys, &policy(0)), Some(hash))[0];
    keys.swap(own as usize, hashed as usize);
    assert_eq!(candidates(&mut owner(&keys, &policy(0)), Some(hash))[0], hashed);
    let mut flights = Flights { active: flights.active.clone(), total: flights.total };
    let mut offered = Vec::new();
    let mut picker = owner(&keys, &policy(factor));
    picker.walk(Some(hash), &mut SplitMix64::new(0), &mut flights, |member| {
        offered.push(member);
        step
    });
    offered
}

#[test]
fn an_overflowing_key_goes_where_envoys_shuffle_sends_it() {
    let file = parse(BOUNDED);
    let envoy = &file["envoy_bounded_load"];
    for shuffle in list(&envoy["shuffles"]) {
        let (n, hash) = (u32_of(&shuffle["n"]), shuffle["seed"].as_u64().unwrap());
        // The hashed member is left out of the shuffle and comes last, as everybody is refused.
        for hashed in 0..n {
            let mut flights = Flights { active: vec![0; n as usize], total: 2 };
            flights.active[hashed as usize] = 2;
            let mut order = u32s(&shuffle["order"]);
            order.retain(|member| *member != hashed);
            order.push(hashed);
            let offered = bounded(n, 100, hash, hashed, &flights, Step::Skip);
            assert_eq!(offered, order, "{shuffle}, hashed {hashed}");
        }
    }
    for pick in list(&envoy["picks"]) {
        let (n, hash) = (u32_of(&pick["n"]), pick["hash"].as_u64().unwrap());
        let mut flights = Flights { active: vec![0; n as usize], total: 0 };
        for member in u32s(&pick["overloaded"]) {
            flights.active[member as usize] = 2;
        }
        let hashed = u32_of(&pick["hashed_host"]);
        let offered = bounded(n, 100, hash, hashed, &flights, Step::Stop);
        assert_eq!(offered, [u32_of(&pick["pick"])], "{pick}");
    }
}

#[test]
fn when_all_are_overloaded_the_least_overloaded_is_taken_as_in_envoy() {
    let file = parse(BOUNDED);
    let case = &file["envoy_bounded_load"]["all_overloaded"];
    let (n, hash) = (u32_of(&case["n"]), case["hash"].as_u64().unwrap());
    // 100 slots each, so that the overload is in percent.
    let percent = |member| case["overload"][u32::to_string(&member)].as_f64().unwrap() * 100.0;
    let active = (0..n).map(|member| percent(member).round() as u32).collect();
    let flights = Flights { active, total: u64::from(100 * n - 1) };
    let offered = bounded(n, 100, hash, u32_of(&case["hashed_host"]), &flights, Step::Stop);
    assert_eq!(offered, [u32_of(&case["pick"])]);

    let case = &file["envoy_bounded_load"]["actual_overload"];
    let (n, hash) = (u32_of(&case["n"]), case["hash"].as_u64().unwrap());
    let mut flights = Flights { active: vec![0; n as usize], total: 2 };
    flights.active[2] = u32_of(&case["host2_active"]);
    let factor = u32_of(&case["factor_percent"]);
    let offered = bounded(n, factor, hash, u32_of(&case["hashed_host"]), &flights, Step::Stop);
    assert_eq!(offered, [u32_of(&case["pick"])]);
}

/// Envoy would still put one on a member whose slots are all taken.
#[test]
fn a_member_is_given_as_many_requests_as_it_has_slots_and_no_more() {
    for row in list(&parse(BOUNDED)["slot_examples"]["rows"]) {
        let (n, factor) = (u32_of(&row["n_equal"]), u32_of(&row["factor"]));
        let mut flights =
            Flights { active: vec![0; n as usize], total: row["active_total"].as_u64().unwrap() };
        for (active, is_full) in [(u32_of(&row["slots"]) - 1, false), (u32_of(&row["slots"]), true)]
        {
            flights.active[0] = active;
            let offered = bounded(n, factor, 7, 0, &flights, Step::Stop);
            assert_eq!(offered[0] != 0, is_full, "{row} {active}");
        }
    }
}

/// Keys that round robin does not look at.
fn any_keys(n: usize) -> Vec<String> {
    (0..n).map(|i| format!("127.0.0.1:{i}")).collect()
}

fn round_robin(weights: &[u32], seed: u64) -> Picker {
    let keys = any_keys(weights.len());
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    Picker::build(&LbPolicy::RoundRobin { order: TurnOrder::Edf }, &members(&keys, weights), seed)
}

#[test]
fn weighted_round_robin_takes_envoys_turns() {
    let file = parse(WRR);
    let edf = &file["envoy_edf_round_robin"];
    let mut built = 0;
    for step in list(&edf["steps"]) {
        // A step with `set` changes weights under a running schedule; here that is a new picker.
        if step["set"].is_array() {
            continue;
        }
        let mut picker = round_robin(&u32s(&step["build"]), step["seed"].as_u64().unwrap());
        let turns: Vec<u32> = list(&step["picks"]).iter().map(|_| turn(&mut picker)).collect();
        assert_eq!(turns, u32s(&step["picks"]), "{step}");
        built += 1;
    }
    assert_eq!(built, 4);
}

#[test]
fn seeds_start_schedules_in_proportion_to_weights() {
    let file = parse(WRR);
    let case = &file["envoy_edf_round_robin"]["first_pick_over_seeds_0_9"];
    let weights = u32s(&case["weights"]);
    let firsts = (0..10).map(|seed| turn(&mut round_robin(&weights, seed)));
    assert_eq!(counts(firsts, weights.len()), u32s(&case["counts"]));
}

#[test]
fn a_whole_round_gives_every_member_as_many_turns_as_its_weight() {
    let file = parse(WRR);
    let case = &file["envoy_edf_round_robin"]["totals"][0];
    let weights: Vec<u32> = (1..=128).collect();
    let mut picker = round_robin(&weights, 0);
    let turns = (0..case["picks"].as_u64().unwrap()).map(|_| turn(&mut picker));
    assert_eq!(counts(turns, weights.len()), weights);
}

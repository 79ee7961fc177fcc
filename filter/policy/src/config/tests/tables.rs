//! The limit on what the tables of all clusters take.

#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

use super::*;
use crate::pick::{Member, Picker};

const RING: LbPolicy = LbPolicy::RingHash {
    minimum_ring_size: 1000,
    maximum_ring_size: 20_000,
    hash_function: HashFunction::XxHash,
    hash_balance_factor: 0,
};

fn clusters(n: usize, lb_policy: &str) -> String {
    let items: Vec<String> =
        (0..n).map(|i| format!(r#"{{"name": "c{i}", "lb_policy": {lb_policy}}}"#)).collect();
    format!(r#"{{"clusters": [{}]}}"#, items.join(", "))
}

fn ring(minimum: u64) -> String {
    format!(r#"{{"ring_hash": {{"minimum_ring_size": {minimum}}}}}"#)
}

#[test]
fn the_largest_tables_are_accepted_as_long_as_their_sum_is() {
    for (policy, most, field, got, bytes) in [
        (ring(8_388_608), 3, "ring_hash.minimum_ring_size", 8_388_608, 335_544_320_u64),
        (
            r#"{"maglev": {"table_size": 5000011}}"#.into(),
            26,
            "maglev.table_size",
            5_000_011,
            270_000_594,
        ),
        (
            r#"{"rendezvous": {"table_size": 1048576}}"#.into(),
            42,
            "rendezvous.table_size",
            1_048_576,
            270_532_608,
        ),
    ] {
        ok(&clusters(most, &policy));
        assert_eq!(
            err(&clusters(most + 1, &policy)),
            format!(
                "clusters[{most}].lb_policy.{field}: must keep the tables of all clusters within \
                 268435456 bytes, got {got}, which makes them {bytes}: choose smaller ones here \
                 or there"
            )
        );
    }
    for kind in ["ring_hash", "maglev", "rendezvous"] {
        ok(&clusters(256, &format!("{{\"{kind}\": {{}}}}")));
        ok(&at("defaults.lb_policy", &format!("{{\"{kind}\": {{}}}}")));
    }
}

#[test]
fn a_table_of_the_defaults_fits_as_often_as_there_can_be_clusters() {
    ok(&at("defaults.lb_policy", &ring(104_857)));
    assert_eq!(
        err(&at("defaults.lb_policy", &ring(104_858))),
        "defaults.lb_policy.ring_hash.minimum_ring_size: must keep the tables of up to 256 unnamed \
         clusters within 268435456 bytes, got 104858, which makes them 268436480: choose a smaller \
         one, or name the clusters"
    );
    let large = ring(8_388_608);
    let named = |n: usize| {
        let items: Vec<String> = (0..n).map(|i| format!(r#"{{"name": "c{i}"}}"#)).collect();
        let items = items.join(", ");
        format!(r#"{{"defaults": {{"lb_policy": {large}}}, "clusters": [{items}]}}"#)
    };
    ok(&named(3));
    let error = err(&named(4));
    assert!(error.starts_with("defaults.lb_policy.ring_hash.minimum_ring_size: "), "{error}");
}

#[test]
fn a_cluster_with_endpoints_of_its_own_has_a_table_for_each_priority() {
    let cluster = |name: &str, priorities: u32| {
        let endpoints: Vec<String> = (0..priorities)
            .map(|i| format!(r#"{{"address": "10.0.0.{i}:80", "priority": {i}}}"#))
            .collect();
        format!(
            r#"{{"name": "{name}", "lb_policy": {},
                "membership": {{"static": {{"endpoints": [{}]}}}}}}"#,
            ring(8_388_608),
            endpoints.join(", ")
        )
    };
    ok(&format!(r#"{{"clusters": [{}]}}"#, cluster("a", 3)));
    let error = err(&format!(r#"{{"clusters": [{}]}}"#, cluster("a", 4)));
    assert!(error.contains("minimum_ring_size: must keep the tables"), "{error}");
}

#[test]
fn of_a_ring_that_weights_make_large_the_maximum_is_blamed() {
    let cluster = |i: usize| {
        format!(
            r#"{{"name": "c{i}", "lb_policy": {{"ring_hash": {{}}}},
                "membership": {{"static": {{"endpoints": [
                  {{"address": "10.0.0.1:80", "weight": 4294967}}, {{"address": "10.0.0.2:80"}}
                ]}}}}}}"#
        )
    };
    let clusters = |n: usize| {
        format!(r#"{{"clusters": [{}]}}"#, (0..n).map(cluster).collect::<Vec<_>>().join(", "))
    };
    ok(&clusters(6));
    assert_eq!(
        err(&clusters(7)),
        "clusters[6].lb_policy.ring_hash.maximum_ring_size: must keep the tables of all clusters \
         within 268435456 bytes, got 8388608, which makes them 300647760: choose smaller ones here \
         or there"
    );
}

#[test]
fn of_a_ring_that_is_a_little_larger_than_its_minimum_the_minimum_is_blamed() {
    let endpoints = [1, 2, 3].map(|i| format!(r#"{{"address": "10.0.0.{i}:80"}}"#)).join(", ");
    let cluster = |i: usize| {
        format!(
            r#"{{"name": "c{i}", "lb_policy": {},
                "membership": {{"static": {{"endpoints": [{endpoints}]}}}}}}"#,
            ring(4_194_304)
        )
    };
    let clusters = (0..7).map(cluster).collect::<Vec<_>>().join(", ");
    let error = err(&format!(r#"{{"clusters": [{clusters}]}}"#));
    assert!(error.contains("minimum_ring_size: must keep the tables"), "{error}");
    assert!(error.contains("got 4194304, which makes them 293601420"), "{error}");
}

#[test]
fn a_ring_has_the_entries_that_it_is_counted_with() {
    let keys = ["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"];
    for weights in
        [[1, 1, 1], [1, 2, 3], [1, 1, 300], [7, 100, 999], [5, 1000, 1000], [1, 1, 99_999]]
    {
        let members: Vec<_> =
            keys.iter().zip(weights).map(|(key, weight)| Member { key, weight }).collect();
        let Picker::RingHash(built) = Picker::build(&RING, &members, 0) else { panic!() };
        let sum = weights.iter().map(|weight| u64::from(*weight)).sum();
        let counted = table_bytes(&RING, weights[0], sum) / limits::RING_ENTRY_BYTES;
        let entries = built.points().count() as u64;
        assert!(counted.abs_diff(entries) <= 1, "{weights:?}: {counted} counted, {entries} built");
    }
}

#[test]
fn weights_of_any_size_are_counted_without_overflow() {
    for (lightest, sum) in [(0, 0), (1, u64::MAX), (u32::MAX, 1), (u32::MAX, u64::MAX)] {
        assert!(table_bytes(&RING, lightest, sum) <= 20_000 * limits::RING_ENTRY_BYTES);
    }
    for policy in [LbPolicy::default(), LbPolicy::Random] {
        assert_eq!(table_bytes(&policy, 1, 10), 0);
    }
}

//! What must hold of load estimates, load reports, priorities, zones and subsets, for any input.
//!
//! Native only: proptest's source of randomness does not build for wasm32-unknown-unknown.
#![cfg(not(target_arch = "wasm32"))]
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};

use outrigger_policy::config::ZoneAware;
use outrigger_policy::pick::priority::{Priority, PriorityLoads, Tally};
use outrigger_policy::pick::subsetting::subset;
use outrigger_policy::pick::zone::{Routing, Zone};
use outrigger_policy::rng::{Rng, SplitMix64};
use outrigger_policy::state::ewma::Ewma;
use outrigger_policy::state::orca::Report;
use outrigger_policy::time::Instant;
use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;

const ENDPOINTS: usize = 5;
const TAU: Duration = Duration::from_secs(10);
const DEFAULT: Duration = Duration::from_millis(10);

/// Five endpoints, of which each request goes to the better of two drawn at random.
struct Cluster {
    endpoints: [Ewma; ENDPOINTS],
    active: [u32; ENDPOINTS],
    picks: [u32; ENDPOINTS],
    /// Attempts under way by their end: endpoint, how long, whether it ends well.
    ends: BTreeMap<(Instant, u64), (usize, Duration, bool)>,
    /// How often each endpoint fails, in percent; it then takes 1 ms.
    ill_percent: [u64; ENDPOINTS],
    /// How long each takes on average when it does not fail.
    well_us: [u64; ENDPOINTS],
    rng: SplitMix64,
}

impl Cluster {
    fn new(seed: u64) -> Self {
        Self {
            endpoints: [Ewma::new(Instant::ZERO); ENDPOINTS],
            active: [0; ENDPOINTS],
            picks: [0; ENDPOINTS],
            ends: BTreeMap::new(),
            ill_percent: [0; ENDPOINTS],
            well_us: [3000; ENDPOINTS],
            rng: SplitMix64::new(seed),
        }
    }

    fn cost(&self, endpoint: usize, now: Instant) -> f64 {
        self.endpoints[endpoint].cost(self.active[endpoint], now, TAU, DEFAULT)
    }

    fn request(&mut self, id: u64, now: Instant) {
        self.finish(now);
        let a = self.rng.below(ENDPOINTS as u64) as usize;
        let b = (a + 1 + self.rng.below(ENDPOINTS as u64 - 1) as usize) % ENDPOINTS;
        let picked = if self.cost(a, now) <= self.cost(b, now) { a } else { b };
        self.picks[picked] += 1;
        self.active[picked] += 1;
        let well = self.rng.below(100) >= self.ill_percent[picked];
        let mean_us = self.well_us[picked];
        let well_us = mean_us * 4 / 5 + self.rng.below(mean_us * 2 / 5);
        let took_us = if well { well_us } else { 1000 };
        let took = Duration::from_micros(took_us);
        self.ends.insert((now.after(took), id), (picked, took, well));
    }

    fn finish(&mut self, now: Instant) {
        while let Some(end) = self.ends.first_entry().filter(|end| end.key().0 <= now) {
            let ((at, _), (endpoint, took, well)) = end.remove_entry();
            self.active[endpoint] -= 1;
            if well {
                self.endpoints[endpoint].observe(took, at, TAU);
            } else {
                self.endpoints[endpoint].observe_failure(took, at, TAU, DEFAULT);
            }
        }
    }

    /// Requests at random times, `rate_milli` per thousand seconds on average, from `from` on for
    /// `time`.
    fn run(&mut self, rate_milli: u64, from: Duration, time: Duration) {
        self.picks = [0; ENDPOINTS];
        let mut now = Instant::ZERO.after(from);
        let end = now.after(time);
        let gap_max_ns = 2_000_000_000_000 / rate_milli;
        for id in 0.. {
            now = now.after(Duration::from_nanos(self.rng.below(gap_max_ns)));
            if now > end {
                break;
            }
            self.request(id, now);
        }
    }

    fn share(&self, endpoint: usize) -> f64 {
        f64::from(self.picks[endpoint]) / f64::from(self.picks.iter().sum::<u32>())
    }
}

/// The share of an endpoint that is ill so often, and otherwise faster than the others.
fn share_of_the_ill(ill_percent: u64, rate_milli: u64, time_s: u64) -> f64 {
    let mut cluster = Cluster::new(rate_milli);
    cluster.ill_percent[0] = ill_percent;
    cluster.well_us[0] = 1000;
    cluster.run(rate_milli, Duration::ZERO, Duration::from_secs(time_s));
    cluster.share(0)
}

#[test]
fn an_endpoint_that_fails_fast_draws_no_traffic_even_if_nothing_is_known_at_the_start() {
    // Requests per thousand seconds, how long, and the share that is too much.
    for (rate_milli, time_s, limit) in [
        (1_000_000, 30, 0.002),
        (100_000, 100, 0.002),
        (10_000, 1000, 0.004),
        (1000, 10_000, 0.02),
        (300, 30_000, 0.05),
    ] {
        let always = share_of_the_ill(100, rate_milli, time_s);
        assert!(always < limit, "{rate_milli}: {always}");
        let often = share_of_the_ill(50, rate_milli, time_s);
        assert!(often < 3.0 * limit, "{rate_milli}, every other time: {often}");
    }
}

#[test]
fn where_requests_are_so_rare_that_all_is_forgotten_it_still_gets_less_than_any_other() {
    for rate_milli in [100, 20, 5] {
        let mut cluster = Cluster::new(rate_milli);
        cluster.ill_percent[0] = 100;
        let time = Duration::from_secs(20_000_000 / rate_milli);
        cluster.run(rate_milli, Duration::ZERO, time);
        let least = cluster.picks[1..].iter().min().unwrap();
        assert!(cluster.picks[0] < *least, "{rate_milli}: {:?}", cluster.picks);
    }
}

#[test]
fn an_endpoint_that_answers_well_again_has_its_share_back_in_ten_decay_times() {
    let mut cluster = Cluster::new(7);
    cluster.ill_percent[0] = 100;
    cluster.run(100_000, Duration::ZERO, Duration::from_secs(1000));
    assert!(cluster.share(0) < 0.001, "{:?}", cluster.picks);
    cluster.ill_percent[0] = 0;
    cluster.run(100_000, Duration::from_secs(1001), TAU * 10);
    cluster.run(100_000, Duration::from_secs(1101), Duration::from_secs(100));
    assert!(cluster.share(0) > 0.15, "{:?}", cluster.picks);
}

#[test]
fn endpoints_that_fail_now_and_then_and_alike_share_alike() {
    let mut cluster = Cluster::new(9);
    cluster.ill_percent = [1; ENDPOINTS];
    cluster.run(100_000, Duration::ZERO, Duration::from_secs(1000));
    for endpoint in 0..ENDPOINTS {
        assert!((cluster.share(endpoint) - 0.2).abs() < 0.04, "{:?}", cluster.picks);
    }
}

fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

fn base64(bytes: &[u8], padded: bool) -> String {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let bits = group.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte));
        let bits = bits << (8 * (3 - group.len()));
        for place in 0..=group.len() {
            text.push(char::from(DIGITS[(bits >> (18 - 6 * place)) as usize & 63]));
        }
        text.extend(core::iter::repeat_n('=', if padded { 3 - group.len() } else { 0 }));
    }
    text
}

/// A field that no weight needs, of any wire type.
fn any_other_field() -> impl Strategy<Value = Vec<u8>> {
    let number = prop_oneof![Just(2_u64), Just(3), Just(4), Just(5), Just(8), 10..536_870_911_u64];
    let length = |bytes: &Vec<u8>| varint(bytes.len() as u64);
    let body = prop_oneof![
        any::<u64>().prop_map(|value| (0, varint(value))),
        any::<[u8; 8]>().prop_map(|bytes| (1, bytes.to_vec())),
        prop::collection::vec(any::<u8>(), 0..40)
            .prop_map(move |bytes| (2, [length(&bytes), bytes].concat())),
        any::<[u8; 4]>().prop_map(|bytes| (5, bytes.to_vec())),
    ];
    (number, body).prop_map(|(number, (kind, body))| [varint(number << 3 | kind), body].concat())
}

fn any_report() -> impl Strategy<Value = Report> {
    (0.0..2.0, 0.0..2.0, 0.0..1e6, 0.0..1e6).prop_map(|(cpu, application, rps, eps)| Report {
        cpu_utilization: cpu,
        application_utilization: application,
        rps_fractional: rps,
        eps,
    })
}

fn message(report: &Report, others: &[Vec<u8>]) -> Vec<u8> {
    let fields = [
        (1, report.cpu_utilization),
        (9, report.application_utilization),
        (6, report.rps_fractional),
        (7, report.eps),
    ];
    let mut bytes = Vec::new();
    for (at, (number, value)) in fields.into_iter().enumerate() {
        bytes.extend(others.get(at).into_iter().flatten());
        bytes.extend(varint(number << 3 | 1));
        bytes.extend(value.to_le_bytes());
    }
    bytes
}

/// Integers rounded down: a hundredth of a percent for each zone and each of the two shares.
const ZONE_ROUNDING: f64 = 0.001;

/// The share of all traffic that each zone gets when the proxies of every zone route like this.
fn traffic_by_zone(zones: &[Zone], settings: &ZoneAware) -> Vec<f64> {
    let proxies: u32 = zones.iter().map(|zone| zone.local).sum();
    let mut traffic = vec![0.0; zones.len()];
    for (from, zone) in (0..).zip(zones).filter(|(_, zone)| zone.local > 0) {
        let sent = f64::from(zone.local) / f64::from(proxies);
        match Routing::new(zones, Some(from), settings, 50) {
            Routing::Off(reason) => unreachable!("both have two zones: {reason:?}"),
            Routing::Direct { local } => traffic[local as usize] += sent,
            Routing::Residual { local, local_percent_to_route, residual_capacity } => {
                let kept = local_percent_to_route as f64 / 10_000.0;
                traffic[local as usize] += sent * kept;
                let all = *residual_capacity.last().unwrap() as f64;
                let mut before = 0;
                for (zone, capacity) in residual_capacity.into_iter().enumerate() {
                    let part = (capacity - before) as f64 / all.max(1.0);
                    traffic[zone] += sent * (1.0 - kept) * part;
                    before = capacity;
                }
            }
        }
    }
    traffic
}

fn names(ids: &[u16]) -> Vec<String> {
    ids.iter().map(|id| format!("10.1.{}.{}:80", id / 256, id % 256)).collect()
}

fn chosen(names: &[String], size: u32, seed: u64) -> BTreeSet<String> {
    let indices = subset(names.iter().map(String::as_str), size, seed);
    assert!(indices.is_sorted_by(|a, b| a < b));
    indices.iter().map(|at| names[*at as usize].clone()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 200,
        failure_persistence: Some(Box::new(FileFailurePersistence::Off)),
        ..ProptestConfig::default()
    })]

    #[test]
    fn any_history_leaves_an_estimate_that_is_a_number(
        samples in prop::collection::vec((any::<u64>(), any::<u64>(), any::<bool>()), 0..50),
        decay_ms in any::<u64>(),
        default_ms in any::<u64>(),
    ) {
        let (decay, default) = (Duration::from_millis(decay_ms), Duration::from_millis(default_ms));
        let mut ewma = Ewma::new(Instant(7));
        for (sample_ns, now_ns, well) in samples {
            let (sample, now) = (Duration::from_nanos(sample_ns), Instant(now_ns));
            if well {
                ewma.observe(sample, now, decay);
            } else {
                ewma.observe_failure(sample, now, decay, default);
            }
            let cost = ewma.cost(3, now, decay, default);
            prop_assert!(cost.is_finite() && cost >= 0.0);
        }
    }

    #[test]
    fn a_sample_moves_the_estimate_towards_itself_and_a_higher_one_all_the_way(
        samples in prop::collection::vec((1_u64..10_000, 1_u64..5000), 1..50),
    ) {
        let mut now = Instant::from_millis(1);
        let mut ewma = Ewma::new(now);
        for (sample_ms, gap_ms) in samples {
            now = now.after(Duration::from_millis(gap_ms));
            let before = ewma.get(now, TAU, Duration::ZERO);
            ewma.observe(Duration::from_millis(sample_ms), now, TAU);
            let (value, sample) = (ewma.get(now, TAU, DEFAULT), sample_ms as f64 * 1000.0);
            prop_assert!(value >= sample * 0.999_999);
            prop_assert!(value <= before.max(sample) * 1.000_001 + sample);
            if sample > before {
                prop_assert!((value - sample).abs() < 1e-6 * sample);
            }
        }
    }

    #[test]
    fn no_bytes_in_a_report_do_any_harm(
        bytes in prop::collection::vec(any::<u8>(), 0..5000),
        prefix in prop_oneof![Just(""), Just("BIN "), Just("JSON "), Just("TEXT ")],
        padded in any::<bool>(),
    ) {
        let mut value = prefix.as_bytes().to_vec();
        value.extend_from_slice(&bytes);
        let encoded = base64(&bytes, padded);
        let reports = [
            Report::parse(&value),
            Report::parse_bin(&bytes),
            Report::parse_bin(encoded.as_bytes()),
            Report::parse(format!("BIN {encoded}").as_bytes()),
        ];
        for report in reports.into_iter().flatten() {
            for value in [report.utilization(), report.eps, report.rps_fractional] {
                prop_assert!(value.is_finite() && value >= 0.0);
            }
        }
    }

    #[test]
    fn a_report_is_read_as_it_was_written_in_every_format(
        report in any_report(),
        others in prop::collection::vec(any_other_field(), 0..4),
        padded in any::<bool>(),
    ) {
        let binary = base64(&message(&report, &others), padded);
        let Report { cpu_utilization, application_utilization, rps_fractional, eps } = report;
        let json = format!(
            r#"JSON {{"cpu_utilization": {cpu_utilization}, "rpsFractional": {rps_fractional},
                "application_utilization": {application_utilization}, "eps": {eps}}}"#
        );
        let text = format!(
            "TEXT cpu_utilization={cpu_utilization},rps_fractional={rps_fractional},\
             application_utilization={application_utilization},eps={eps}"
        );
        prop_assert_eq!(Report::parse_bin(binary.as_bytes()), Some(report));
        prop_assert_eq!(Report::parse(format!("BIN {binary}").as_bytes()), Some(report));
        prop_assert_eq!(Report::parse(text.as_bytes()), Some(report));
        let from_json = Report::parse(json.as_bytes()).unwrap();
        // Without its feature `float_roundtrip` serde_json may miss the last bit.
        prop_assert!((from_json.rps_fractional - rps_fractional).abs() <= rps_fractional * 1e-15);
        prop_assert!((from_json.utilization() - report.utilization()).abs() < 1e-15);
    }

    #[test]
    fn the_loads_of_priorities_add_up_to_a_hundred(
        tallies in prop::collection::vec((0_u64..20, 0_u64..20, 0_u64..20, 0_u64..20), 1..140),
        factor in 0_u32..500,
        threshold in 0_u32..120,
    ) {
        let priority = |(unhealthy, healthy, degraded, excluded): &(u64, u64, u64, u64)| {
            let (healthy, degraded, excluded) = (*healthy, *degraded, *excluded);
            let total = unhealthy + healthy + degraded + excluded;
            Priority::of_endpoints(Tally { total, healthy, degraded, excluded })
        };
        let priorities: Vec<Priority> = tallies.iter().map(priority).collect();
        let mut loads = PriorityLoads::default();
        loads.refresh(&priorities, factor, threshold);
        let sum: u32 = loads.loads().iter().map(|load| load.healthy + load.degraded).sum();
        prop_assert_eq!(sum, 100);
    }

    #[test]
    fn no_numbers_of_endpoints_make_priorities_trap(
        numbers in prop::collection::vec(any::<[u64; 4]>(), 0..5),
        factor in any::<u32>(),
        threshold in any::<u32>(),
        hash in any::<u64>(),
    ) {
        let priority = |[total, healthy, degraded, excluded]: &[u64; 4]| {
            let (total, healthy, degraded, excluded) = (*total, *healthy, *degraded, *excluded);
            Priority::of_endpoints(Tally { total, healthy, degraded, excluded })
        };
        let priorities: Vec<Priority> = numbers.iter().map(priority).collect();
        let mut loads = PriorityLoads::default();
        loads.refresh(&priorities, factor, threshold);
        prop_assert!(loads.choose(hash).0 as usize <= numbers.len());
    }

    #[test]
    fn when_all_proxies_do_likewise_every_zone_gets_its_endpoints_share(
        counts in prop::collection::vec((0_u32..50, 0_u32..50), 2..12),
    ) {
        prop_assume!(counts.iter().filter(|(upstream, _)| *upstream > 0).count() > 1);
        prop_assume!(counts.iter().filter(|(_, local)| *local > 0).count() > 1);
        let zone = |(upstream, local): &(u32, u32)| Zone {
            upstream: *upstream,
            upstream_healthy: *upstream,
            local: *local,
            local_healthy: *local,
        };
        let zones: Vec<Zone> = counts.iter().map(zone).collect();
        let settings = ZoneAware {
            local_cluster: String::new(),
            local_zone: String::new(),
            routing_enabled_percent: 100,
            min_cluster_size: 1,
        };
        let endpoints: u32 = zones.iter().map(|zone| zone.upstream).sum();
        let traffic = traffic_by_zone(&zones, &settings);
        for (zone, traffic) in zones.iter().zip(traffic) {
            let share = f64::from(zone.upstream) / f64::from(endpoints);
            let off = (traffic - share).abs();
            prop_assert!(off < ZONE_ROUNDING * zones.len() as f64, "{:?}: {}", zone, traffic);
        }
    }

    #[test]
    fn any_zones_give_a_zone_with_endpoints_or_none(
        counts in prop::collection::vec(any::<[u32; 4]>(), 0..8),
        local in prop::option::of(0_u32..10),
        seed in any::<u64>(),
    ) {
        let zone = |[upstream, upstream_healthy, local, local_healthy]: &[u32; 4]| Zone {
            upstream: *upstream,
            upstream_healthy: *upstream_healthy % 4,
            local: *local,
            local_healthy: *local_healthy,
        };
        let zones: Vec<Zone> = counts.iter().map(zone).collect();
        let settings = ZoneAware {
            local_cluster: String::new(),
            local_zone: String::new(),
            routing_enabled_percent: 100,
            min_cluster_size: 0,
        };
        let routing = Routing::new(&zones, local, &settings, 0);
        let mut rng = SplitMix64::new(seed);
        for _ in 0..20 {
            if let Some(zone) = routing.choose(&settings, &mut rng) {
                prop_assert!(zones[zone as usize].upstream_healthy > 0);
            }
        }
    }

    #[test]
    fn one_endpoint_that_comes_changes_at_most_one_place_of_a_subset(
        ids in prop::collection::btree_set(any::<u16>(), 1..60),
        size in 0_u32..70,
        seed in any::<u64>(),
        place in any::<prop::sample::Index>(),
    ) {
        let all: Vec<u16> = ids.into_iter().collect();
        let mut fewer = all.clone();
        let gone = names(&[fewer.remove(place.index(all.len()))]);
        let before = chosen(&names(&fewer), size, seed);
        let after = chosen(&names(&all), size, seed);
        prop_assert_eq!(after.len(), all.len().min(size as usize));
        let came: Vec<_> = after.difference(&before).collect();
        let left = before.difference(&after).count();
        prop_assert!(came.len() <= 1 && left <= 1);
        prop_assert!(came.into_iter().all(|name| *name == gone[0]));
    }
}

//! Real answers of Envoy (testdata/README.md), then answers that Envoy would not give.

use core::fmt::Write;

#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

use super::{
    decode::{
        DecodeError, DecodeReason, FILTER_PATH_BYTES_MAX, Wanted, clusters_filter_path,
        clusters_text,
    },
    *,
};
use crate::config::limits::ENDPOINTS_MAX;

const ALL: &str = include_str!("testdata/all.txt");
const BACKEND: &str = include_str!("testdata/backend.txt");
const FILTERED: &str = include_str!("testdata/filtered.txt");
const ISTIO: &str = "outbound|80||svc.ns.svc.cluster.local";
const EVERY: Wanted<'_> = Wanted::All { except: "outrigger_admin" };

fn read(body: &str, wanted: Wanted<'_>) -> Vec<ClusterUpdate> {
    clusters_text(body.as_bytes(), wanted).unwrap()
}

fn refusal(body: &str, wanted: Wanted<'_>) -> (u32, DecodeReason) {
    let DecodeError { line, reason } = clusters_text(body.as_bytes(), wanted).unwrap_err();
    (line, reason)
}

fn endpoints(update: &ClusterUpdate) -> &[Endpoint] {
    match &update.update {
        Update::Reset(endpoints) => endpoints,
        Update::Absent => panic!("{} is absent", update.name),
    }
}

fn addresses(update: &ClusterUpdate) -> Vec<&str> {
    endpoints(update).iter().map(|endpoint| endpoint.address.as_str()).collect()
}

fn endpoint(address: &str) -> Endpoint {
    Endpoint {
        address: address.into(),
        weight: 1,
        priority: 0,
        locality: Locality::default(),
        health: Health::HEALTHY,
        rq_active: 0,
        metadata: Vec::new(),
    }
}

/// `/clusters` of one cluster, as Envoy writes it.
fn body(name: &str, hosts: &[Endpoint]) -> String {
    let mut text = format!(
        "{name}::observability_name::{name}\n{name}::default_priority::max_connections::1024\n\
         {name}::added_via_api::false\n"
    );
    for host in hosts {
        let start = format!("{name}::{}::", host.address);
        let Locality { region, zone, sub_zone } = &host.locality;
        for line in ["cx_active::0", "cx_connect_fail::0", "cx_total::0"] {
            let _ = writeln!(text, "{start}{line}");
        }
        let _ = writeln!(text, "{start}rq_active::{}", host.rq_active);
        for line in ["rq_error::0", "rq_pending_active::0", "rq_total::0", "hostname::"] {
            let _ = writeln!(text, "{start}{line}");
        }
        let mut flags: String = Health::WORDS
            .iter()
            .filter(|(_, flag)| host.health.contains(*flag))
            .map(|(word, _)| format!("/{word}"))
            .collect();
        if flags.is_empty() {
            flags = "healthy".into();
        }
        let _ = writeln!(text, "{start}health_flags::{flags}\n{start}weight::{}", host.weight);
        let _ = writeln!(text, "{start}region::{region}\n{start}zone::{zone}");
        let _ = writeln!(text, "{start}sub_zone::{sub_zone}\n{start}canary::false");
        let _ = writeln!(text, "{start}priority::{}\n{start}success_rate::-1", host.priority);
        let _ = writeln!(text, "{start}local_origin_success_rate::-1");
    }
    text
}

#[test]
fn every_cluster_of_a_real_answer_is_read_but_the_one_it_came_through() {
    let updates = read(ALL, EVERY);
    let mut names: Vec<&str> = updates.iter().map(|update| update.name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["a", "a::b", "backend", "checked", "empty", ISTIO, "pipes", "six"]);
    let of = |name: &str| updates.iter().find(|update| update.name == name).unwrap();
    assert_eq!(addresses(of("a")), ["10.0.2.2:80"]);
    assert_eq!(addresses(of("a::b")), ["10.0.2.1:80"]);
    assert_eq!(addresses(of("empty")), [""; 0]);
    assert_eq!(addresses(of("pipes")), [""; 0], "hosts without an IP address are left out");
    assert_eq!(addresses(of("six")), ["[::1]:8080", "[2001:db8::12]:443", "[::ffff:10.0.0.9]:443"]);
    let health: Vec<bool> =
        endpoints(of("checked")).iter().map(|e| e.health.is_healthy()).collect();
    assert_eq!(health, [false, true]);
}

#[test]
fn weights_priorities_localities_and_health_are_those_of_envoy() {
    let updates = read(FILTERED, Wanted::Named(&[ISTIO]));
    let hosts = endpoints(&updates[0]);
    let first = &hosts[0];
    assert_eq!((first.address.as_str(), first.weight, first.priority), ("10.0.0.1:80", 3, 0));
    assert_eq!(
        first.locality,
        Locality {
            region: "eu-west-1".into(),
            zone: "eu-west-1a".into(),
            sub_zone: "rack 7".into()
        }
    );
    let health: Vec<Health> = hosts.iter().map(|host| host.health).collect();
    assert_eq!(
        health,
        [
            Health::HEALTHY,
            Health::FAILED_EDS_HEALTH,
            Health::DEGRADED_EDS_HEALTH,
            Health::EDS_STATUS_DRAINING,
            Health::FAILED_EDS_HEALTH,
            Health::HEALTHY,
        ]
    );
    assert_eq!(hosts[4].priority, 1);
    assert_eq!(hosts[4].locality.zone, "eu::1b", "a value may have the separator in it");
    assert_eq!(hosts[4].locality.sub_zone, "");
    let weights: Vec<u32> =
        endpoints(&read(BACKEND, EVERY)[0]).iter().map(|host| host.weight).collect();
    assert_eq!(weights, [1, 5, 1]);
}

#[test]
fn a_cluster_that_the_answer_does_not_name_is_absent_not_empty() {
    let updates = read(ALL, Wanted::Named(&["nope", "empty", "a::b", "six::[", "a"]));
    let names: Vec<&str> = updates.iter().map(|update| update.name.as_str()).collect();
    assert_eq!(names, ["nope", "empty", "a::b", "six::[", "a"]);
    assert_eq!(updates[0].update, Update::Absent);
    assert_eq!(updates[1].update, Update::Reset(Vec::new()));
    assert_eq!(addresses(&updates[2]), ["10.0.2.1:80"]);
    assert_eq!(updates[3].update, Update::Absent);
    assert_eq!(addresses(&updates[4]), ["10.0.2.2:80"]);
    assert_eq!(read("", Wanted::Named(&["backend"]))[0].update, Update::Absent);
    assert_eq!(read("", Wanted::Named(&[])), []);
    assert_eq!(
        refusal("", EVERY),
        (0, DecodeReason::Empty),
        "the admin's own cluster is always there"
    );
    assert_eq!(read(&body("outrigger_admin", &[]), EVERY), []);
}

#[test]
fn the_order_of_clusters_does_not_matter_to_names_that_begin_alike() {
    let (short, long) =
        (body("a", &[endpoint("1.1.1.1:1")]), body("a::b", &[endpoint("1.1.1.2:1")]));
    for text in [format!("{short}{long}"), format!("{long}{short}")] {
        let updates = read(&text, Wanted::Named(&["a", "a::b"]));
        assert_eq!(addresses(&updates[0]), ["1.1.1.1:1"]);
        assert_eq!(addresses(&updates[1]), ["1.1.1.2:1"]);
    }
}

#[test]
fn envoys_words_are_its_flags_and_an_unknown_word_is_out_but_no_error() {
    assert_eq!(Health::from_words("healthy"), Health::HEALTHY);
    assert_eq!(Health::from_words(""), Health::HEALTHY);
    for (word, flag) in Health::WORDS {
        assert_eq!(Health::from_words(&format!("/{word}")), flag);
        assert!(flag.contains(flag) && flag.bits().count_ones() == 1);
    }
    let both = Health::from_words("/failed_active_hc/active_hc_timeout");
    assert_eq!(both, Health::FAILED_ACTIVE_HC.with(Health::ACTIVE_HC_TIMEOUT));
    assert_eq!(
        Health::from_words("/degraded_active_hc/new"),
        Health::DEGRADED_ACTIVE_HC.with(Health::UNKNOWN)
    );
    for (flag, healthy, degraded) in [
        (Health::HEALTHY, true, false),
        (Health::FAILED_ACTIVE_HC, false, false),
        (Health::FAILED_OUTLIER_CHECK, false, false),
        (Health::FAILED_EDS_HEALTH, false, false),
        (Health::DEGRADED_ACTIVE_HC, true, true),
        (Health::DEGRADED_EDS_HEALTH, true, true),
        (Health::DEGRADED_OUTLIER_DETECTION, true, true),
        (Health::PENDING_DYNAMIC_REMOVAL, true, false),
        (Health::PENDING_ACTIVE_HC, false, false),
        (Health::EXCLUDED_VIA_IMMEDIATE_HC_FAIL, false, false),
        (Health::ACTIVE_HC_TIMEOUT, true, false),
        (Health::EDS_STATUS_DRAINING, false, false),
        (Health::UNKNOWN, false, false),
        (Health::DEGRADED_EDS_HEALTH.with(Health::FAILED_ACTIVE_HC), false, false),
    ] {
        assert_eq!((flag.is_healthy(), flag.is_degraded()), (healthy, degraded), "{flag:?}");
    }
}

#[test]
fn a_truncated_answer_is_refused_wherever_it_shows() {
    let whole = body("b", &[endpoint("1.1.1.1:1"), endpoint("1.1.1.2:1")]);
    let cut = |upto: &str| {
        let end = whole.rfind(upto).unwrap();
        refusal(&whole[..end], EVERY).1
    };
    let missing = |missing| DecodeReason::HostIncomplete { missing };
    assert_eq!(refusal(whole.trim_end(), EVERY), (0, DecodeReason::Truncated));
    assert_eq!(cut("b::1.1.1.2:1::health_flags"), missing("health_flags"));
    assert_eq!(cut("b::1.1.1.2:1::weight"), missing("weight"));
    assert_eq!(cut("b::1.1.1.2:1::region"), missing("region"));
    assert_eq!(cut("b::1.1.1.2:1::zone"), missing("zone"));
    assert_eq!(cut("b::1.1.1.2:1::sub_zone"), missing("sub_zone"));
    assert_eq!(cut("b::1.1.1.2:1::priority"), missing("priority"));
    assert_eq!(cut("b::added_via_api"), DecodeReason::ClusterIncomplete);
    for line in ["health_flags", "weight", "region", "zone", "sub_zone", "priority"] {
        let without: String = whole
            .split_inclusive('\n')
            .filter(|text| !text.contains(&format!("1.1.1.1:1::{line}::")))
            .collect();
        assert_eq!(refusal(&without, EVERY).1, missing(line), "also with a host behind it");
    }
    let without = whole.replace("b::1.1.1.1:1::rq_active::0\n", "");
    assert_eq!(read(&without, EVERY), read(&whole, EVERY), "not every build counts requests");
}

#[test]
fn what_is_not_the_answer_of_clusters_is_refused() {
    let not = DecodeReason::NotClusters;
    assert_eq!(refusal("no healthy upstream\n", EVERY), (1, not));
    assert_eq!(refusal("{\n \"cluster_statuses\": []\n}\n", EVERY), (1, not));
    assert_eq!(refusal("<html>\n", Wanted::Named(&["a"])), (1, not));
    assert_eq!(refusal("\n", EVERY), (1, not));
    assert_eq!(refusal(&format!("{}nonsense\n", body("b", &[])), EVERY), (4, not));
    assert_eq!(refusal(&format!("{}b::x\n", body("b", &[])), EVERY), (4, not));
    assert_eq!(refusal("b::1.1.1.1:1::weight::1\n", EVERY), (1, not));
    let error = clusters_text(b"b::observability_name::\xff\n", EVERY).unwrap_err();
    assert_eq!((error.line, error.reason), (0, DecodeReason::NotUtf8));
    assert_eq!(error.to_string(), "not UTF-8");
    let twice = format!("{}{}{}", body("b", &[]), body("c", &[]), body("b", &[]));
    assert_eq!(refusal(&twice, EVERY), (7, DecodeReason::ClusterTwice));
}

#[test]
fn a_value_that_is_no_value_is_refused_with_its_line() {
    let whole = body("b", &[endpoint("1.1.1.1:1")]);
    for (name, good, bads) in [
        ("weight", "weight::1", ["weight::0", "weight::4294967296", "weight::-1", "weight::"]),
        ("priority", "priority::0", ["priority::x", "priority::-1", "priority::0.5", "priority::"]),
        (
            "rq_active",
            "rq_active::0",
            ["rq_active::", "rq_active::-1", "rq_active::z", "rq_active::1e3"],
        ),
    ] {
        for bad in bads {
            let text = whole.replace(good, bad);
            let (line, reason) = refusal(&text, EVERY);
            assert_eq!(reason, DecodeReason::BadValue { name });
            assert!(text.lines().nth(line as usize - 1).unwrap().ends_with(bad));
        }
    }
    for (given, taken) in [("7", 7), ("4294967296", u32::MAX), ("18446744073709551615", 0)] {
        let text = whole.replace("rq_active::0", &format!("rq_active::{given}"));
        assert_eq!(endpoints(&read(&text, EVERY)[0])[0].rq_active, taken, "{given}");
    }
}

#[test]
fn lines_that_a_later_envoy_adds_do_not_matter() {
    let text = body("b", &[endpoint("1.1.1.1:1")])
        .replace(
            "b::added_via_api::false\n",
            "b::new_thing::1\nb::added_via_api::false\nb::x::y::z\n",
        )
        .replace("b::1.1.1.1:1::canary", "b::1.1.1.1:1::weight_class::9\nb::1.1.1.1:1::canary");
    assert_eq!(addresses(&read(&text, EVERY)[0]), ["1.1.1.1:1"]);
}

#[test]
fn an_older_envoys_answer_is_read_too() {
    let text = body("b", &[endpoint("1.1.1.1:1")]).replace("b::observability_name::b\n", "");
    assert_eq!(read(&text, EVERY), read(&body("b", &[endpoint("1.1.1.1:1")]), EVERY));
}

#[test]
fn the_first_of_two_hosts_with_one_address_counts() {
    let second = Endpoint { weight: 9, ..endpoint("1.1.1.1:1") };
    let text = body("b", &[endpoint("1.1.1.1:1"), second.clone(), endpoint("1.1.1.2:1"), second]);
    let updates = read(&text, EVERY);
    assert_eq!(endpoints(&updates[0]), [endpoint("1.1.1.1:1"), endpoint("1.1.1.2:1")]);
}

#[test]
fn more_than_the_limits_is_an_error_that_names_the_limit() {
    let clusters: String = (0..257).map(|i| body(&format!("c{i}"), &[])).collect();
    let error = clusters_text(clusters.as_bytes(), EVERY).unwrap_err();
    assert_eq!(error.to_string(), "line 769: more clusters than CLUSTERS_MAX = 256");
    assert_eq!(read(&clusters, Wanted::Named(&["c256"]))[0].update, Update::Reset(Vec::new()));
    let ip = |i: usize| endpoint(&format!("10.{}.{}.1:80", i / 256, i % 256));
    let hosts: Vec<Endpoint> = (0..=ENDPOINTS_MAX).map(ip).collect();
    assert_eq!(
        endpoints(&read(&body("b", &hosts[..ENDPOINTS_MAX]), EVERY)[0]),
        &hosts[..ENDPOINTS_MAX]
    );
    let error = clusters_text(body("b", &hosts).as_bytes(), EVERY).unwrap_err();
    assert!(error.to_string().ends_with("than ENDPOINTS_MAX = 10000"), "{error}");
}

#[test]
fn the_filter_is_the_one_that_envoy_answered() {
    assert_eq!(clusters_filter_path(&[]), "/clusters");
    assert_eq!(clusters_filter_path(&["backend"]), "/clusters?filter=%5E%28backend%29%24");
    assert_eq!(
        clusters_filter_path(&[ISTIO, "a::b"]),
        "/clusters?filter=%5E%28outbound%5C%7C80%5C%7C%5C%7Csvc%5C.ns%5C.svc%5C.cluster%5C.local\
         %7Ca%3A%3Ab%29%24",
        "testdata/filtered.txt is what Envoy 1.40.0 answered to this"
    );
    assert_eq!(read(FILTERED, EVERY).len(), 2);
    assert_eq!(
        clusters_filter_path(&["a+b &=#%/?é"]),
        "/clusters?filter=%5E%28a%5C%2Bb%20%26%3D%23%25%2F%5C%3F%C3%A9%29%24"
    );
    let long = vec!["name"; FILTER_PATH_BYTES_MAX / 5];
    assert_eq!(clusters_filter_path(&long), "/clusters");
    let nearly = vec!["n|n"; 900];
    assert_eq!(clusters_filter_path(&nearly), "/clusters", "the encoded length counts");
}

#[test]
fn an_update_says_what_it_changed() {
    let mut held = Membership::new();
    let reset = |hosts: &[&str]| Update::Reset(hosts.iter().map(|a| endpoint(a)).collect());
    let diff = |changed, added, removed, kept| Diff { changed, added, removed, kept };
    assert_eq!(held.apply("b", Update::Absent), diff(false, 0, 0, 0));
    assert!(held.get("b").is_none() && held.is_empty());
    assert_eq!(held.apply("b", reset(&["a:1", "b:1"])), diff(true, 2, 0, 0));
    let first = held.get("b").unwrap().generation;
    assert_eq!(held.apply("b", reset(&["a:1", "b:1"])), diff(false, 0, 0, 2));
    assert_eq!(held.get("b").unwrap().generation, first);
    assert_eq!(held.apply("b", reset(&["b:1", "a:1"])), diff(true, 0, 0, 2), "order counts");
    assert_eq!(held.apply("b", reset(&["b:1", "c:1", "d:1"])), diff(true, 2, 1, 1));
    assert_eq!(held.apply("b", reset(&[])), diff(true, 0, 3, 0));
    assert_eq!(held.get("b").unwrap().endpoints, [], "empty is not gone");
    assert_eq!(held.apply("b", Update::Absent), diff(true, 0, 0, 0));
    assert!(held.get("b").is_none());
    assert_eq!(held.apply("b", reset(&[])), diff(true, 0, 0, 0), "empty is not absent either");
    assert!(held.get("b").unwrap().generation > first, "a generation is not used twice");
}

#[test]
fn all_but_load_is_a_change() {
    let base = endpoint("a:1");
    let mut held = Membership::new();
    for (changed, other) in [
        (true, Endpoint { weight: 2, ..base.clone() }),
        (true, Endpoint { priority: 1, ..base.clone() }),
        (true, Endpoint { health: Health::FAILED_ACTIVE_HC, ..base.clone() }),
        (
            true,
            Endpoint {
                locality: Locality { zone: "z".into(), ..Locality::default() },
                ..base.clone()
            },
        ),
        (false, Endpoint { rq_active: 5, ..base.clone() }),
    ] {
        held.apply("b", Update::Reset(vec![base.clone()]));
        let before = held.get("b").unwrap().generation;
        assert_eq!(held.apply("b", Update::Reset(vec![other.clone()])).changed, changed);
        let set = held.get("b").unwrap();
        assert_eq!(set.endpoints, [other], "load arrives although it is no change");
        assert_eq!(set.generation != before, changed);
    }
}

#[test]
fn clusters_are_held_by_name_and_no_more_than_the_limit() {
    let mut held = Membership::new();
    for name in ["b", "a", "c"] {
        held.apply(name, Update::Reset(vec![endpoint(name)]));
    }
    assert_eq!(held.names().collect::<Vec<_>>(), ["a", "b", "c"]);
    assert_eq!(held.iter().len(), 3);
    let updates = read(&body("b", &[]), EVERY);
    assert_eq!(held.missing_from(&updates), ["a", "c"]);
    for i in 0..CLUSTERS_HELD_MAX {
        held.apply(&format!("n{i}"), Update::Reset(Vec::new()));
    }
    assert_eq!(held.len(), CLUSTERS_HELD_MAX);
    assert_eq!(held.apply("beyond", Update::Reset(Vec::new())), Diff::default());
    assert!(held.get("beyond").is_none());
    assert!(held.apply("a", Update::Reset(Vec::new())).changed, "those held still change");
}

#[test]
fn a_snapshot_is_read_back_and_nothing_else_is() {
    let mut held = Membership::new();
    let updates = read(ALL, EVERY);
    for update in &updates {
        held.apply(&update.name, update.update.clone());
    }
    let bytes = snapshot::encode(&held);
    let mut copy = Membership::new();
    for ClusterUpdate { name, update } in snapshot::decode(&bytes).unwrap() {
        copy.apply(&name, update);
    }
    let content = |m: &Membership| -> Vec<(String, Vec<Endpoint>)> {
        m.iter().map(|(name, set)| (name.into(), set.endpoints.clone())).collect()
    };
    assert_eq!(content(&copy), content(&held));

    assert_eq!(snapshot::decode(&[]), Err(snapshot::SnapshotError::Version));
    assert_eq!(snapshot::decode(&[9, 0, 0]), Err(snapshot::SnapshotError::Version));
    assert_eq!(snapshot::decode(&[snapshot::VERSION, 0]), Err(snapshot::SnapshotError::Malformed));
    for at in 0..bytes.len() {
        let mut corrupt = bytes.clone();
        corrupt[at] ^= 0x40;
        assert!(snapshot::decode(&corrupt).is_err(), "byte {at}");
        assert!(snapshot::decode(&bytes[..at]).is_err(), "cut at {at}");
    }
    assert_eq!(snapshot::decode(&snapshot::encode(&Membership::new())), Ok(Vec::new()));
    let mut bad = Membership::new();
    bad.apply("b", Update::Reset(vec![endpoint("host:80")]));
    let refused = snapshot::decode(&snapshot::encode(&bad));
    assert_eq!(refused, Err(snapshot::SnapshotError::OutOfRange));
}

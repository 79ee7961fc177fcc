//! Properties of membership: no answer traps, and a cut answer never invents or alters anything.
#![cfg(not(target_arch = "wasm32"))]
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a test may take the time that the policy may not"
)]

use std::{fmt::Write, time::Instant};

use outrigger_policy::membership::{
    ClusterUpdate, Endpoint, Health, Locality, Membership, Update,
    decode::{Wanted, clusters_filter_path, clusters_text},
    snapshot,
};
use proptest::{collection::vec, prelude::*};

const EVERY: Wanted<'_> = Wanted::All { except: "outrigger_admin" };
const ALL: &str = include_str!("../src/membership/testdata/all.txt");

fn print(updates: &[ClusterUpdate]) -> String {
    let mut text = String::new();
    for ClusterUpdate { name, update } in updates {
        let Update::Reset(hosts) = update else {
            continue;
        };
        for line in
            ["observability_name::x", "default_priority::max_retries::3", "added_via_api::true"]
        {
            let _ = writeln!(text, "{name}::{line}");
        }
        for host in hosts {
            let start = format!("{name}::{}", host.address);
            let flags: String = Health::WORDS
                .iter()
                .filter(|(_, flag)| host.health.contains(*flag))
                .map(|(word, _)| format!("/{word}"))
                .collect();
            let flags = if flags.is_empty() { "healthy".to_owned() } else { flags };
            let zeros = ["rq_error", "rq_pending_active", "rq_success", "rq_timeout", "rq_total"];
            for line in ["cx_active", "cx_connect_fail", "cx_total"] {
                let _ = writeln!(text, "{start}::{line}::0");
            }
            let _ = writeln!(text, "{start}::rq_active::{}", host.rq_active);
            for line in zeros {
                let _ = writeln!(text, "{start}::{line}::0");
            }
            let _ = writeln!(text, "{start}::hostname::a::b");
            let _ = writeln!(text, "{start}::health_flags::{flags}");
            let _ = writeln!(text, "{start}::weight::{}", host.weight);
            let _ = writeln!(text, "{start}::region::{}", host.locality.region);
            let _ = writeln!(text, "{start}::zone::{}", host.locality.zone);
            let _ = writeln!(text, "{start}::sub_zone::{}", host.locality.sub_zone);
            let _ = writeln!(text, "{start}::canary::false");
            let _ = writeln!(text, "{start}::priority::{}", host.priority);
            let _ = writeln!(text, "{start}::success_rate::-1");
            let _ = writeln!(text, "{start}::local_origin_success_rate::-1");
        }
    }
    text
}

fn endpoint() -> impl Strategy<Value = Endpoint> {
    let address = prop_oneof![
        any::<std::net::SocketAddrV4>().prop_map(|address| address.to_string()),
        (any::<std::net::Ipv6Addr>(), any::<u16>()).prop_map(|(ip, port)| format!("[{ip}]:{port}")),
    ];
    let part = || "[a-z:0-9 ]{0,12}";
    let locality = (part(), part(), part()).prop_map(|(region, zone, sub_zone)| Locality {
        region,
        zone,
        sub_zone,
    });
    let health = vec(prop::sample::select(Health::WORDS.to_vec()), 0..3)
        .prop_map(|words| words.iter().fold(Health::HEALTHY, |all, (_, flag)| all.with(*flag)));
    (address, 1_u32.., 0_u32..=128, locality, health, any::<u32>()).prop_map(
        |(address, weight, priority, locality, health, rq_active)| Endpoint {
            address,
            weight,
            priority,
            locality,
            health,
            rq_active,
            metadata: Vec::new(),
        },
    )
}

/// Updates with different names and, within each, different addresses.
fn updates() -> impl Strategy<Value = Vec<ClusterUpdate>> {
    let hosts = vec(endpoint(), 0..4).prop_map(|mut hosts| {
        hosts.sort_by(|a, b| a.address.cmp(&b.address));
        hosts.dedup_by(|a, b| a.address == b.address);
        hosts
    });
    vec(("[a-z|.:_-]{0,12}[a-z]", hosts), 1..4).prop_map(|clusters| {
        let update = |(i, (name, hosts)): (usize, (String, Vec<Endpoint>))| ClusterUpdate {
            name: format!("{i}{name}"),
            update: Update::Reset(hosts),
        };
        clusters.into_iter().enumerate().map(update).collect()
    })
}

/// True when `part` says nothing that `whole` does not: its clusters are the first ones of
/// `whole`, and its last cluster's endpoints the first ones there.
fn is_beginning_of(part: &[ClusterUpdate], whole: &[ClusterUpdate]) -> bool {
    let begins =
        |(i, (a, b)): (usize, (&ClusterUpdate, &ClusterUpdate))| match (&a.update, &b.update) {
            (Update::Reset(x), Update::Reset(y)) if i + 1 == part.len() => {
                a.name == b.name && y.starts_with(x)
            }
            _ => a == b,
        };
    part.len() <= whole.len() && part.iter().zip(whole).enumerate().all(begins)
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in vec(any::<u8>(), 0..300)) {
        let _ = clusters_text(&bytes, EVERY);
        let _ = snapshot::decode(&bytes);
    }

    #[test]
    fn arbitrary_lines_never_panic(
        lines in vec(
            "(a|b|a::b)::(\\[::1\\]:80|1.1.1.1:1|/p|outlier|added_via_api|x)?(::)?\
             (weight|zone|y)?(::)?.{0,4}\n",
            0..20
        )
    ) {
        let text = lines.concat();
        let _ = clusters_text(text.as_bytes(), EVERY);
        let _ = clusters_text(text.as_bytes(), Wanted::Named(&["a", "a::b", ""]));
    }

    #[test]
    fn a_real_answer_with_bytes_changed_never_panics(
        changes in vec((0..ALL.len(), any::<u8>()), 1..8)
    ) {
        let mut bytes = ALL.as_bytes().to_vec();
        for (at, byte) in changes {
            bytes[at] = byte;
        }
        let _ = clusters_text(&bytes, EVERY);
    }

    #[test]
    fn what_envoy_prints_is_what_is_read(updates in updates()) {
        let text = print(&updates);
        let read = clusters_text(text.as_bytes(), EVERY);
        prop_assert_eq!(read.as_ref(), Ok(&updates));
        let names: Vec<&str> = updates.iter().map(|update| update.name.as_str()).collect();
        prop_assert_eq!(clusters_text(text.as_bytes(), Wanted::Named(&names)), Ok(updates));
    }

    #[test]
    fn a_cut_answer_is_an_error_or_a_beginning(
        updates in updates(), at in any::<prop::sample::Index>()
    ) {
        let text = print(&updates);
        let cut = &text.as_bytes()[..at.index(text.len())];
        if let Ok(part) = clusters_text(cut, EVERY) {
            prop_assert!(cut.ends_with(b"\n"));
            prop_assert!(is_beginning_of(&part, &updates), "{:?}", part);
        }
    }

    #[test]
    fn a_snapshot_is_read_back(updates in updates()) {
        let mut held = Membership::new();
        for ClusterUpdate { name, update } in updates.clone() {
            held.apply(&name, update);
        }
        let mut sorted = updates;
        sorted.sort_by(|a, b| a.name.cmp(&b.name));
        prop_assert_eq!(snapshot::decode(&snapshot::encode(&held)), Ok(sorted));
    }

    #[test]
    fn a_diff_adds_up_and_applying_twice_changes_nothing(a in updates(), b in updates()) {
        let (Update::Reset(old), Update::Reset(new)) = (&a[0].update, &b[0].update) else {
            unreachable!()
        };
        let mut held = Membership::new();
        held.apply("c", a[0].update.clone());
        let diff = held.apply("c", b[0].update.clone());
        prop_assert_eq!((diff.kept + diff.removed) as usize, old.len());
        prop_assert_eq!((diff.kept + diff.added) as usize, new.len());
        prop_assert!(!held.apply("c", b[0].update.clone()).changed);
        prop_assert_eq!(&held.get("c").unwrap().endpoints, new);
    }

    #[test]
    fn a_filter_path_is_safe_in_a_request_line(names in vec(".{0,40}", 0..300)) {
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let path = clusters_filter_path(&names);
        prop_assert!(path.starts_with("/clusters") && path.len() <= 8192);
        let rest = path.trim_start_matches("/clusters").trim_start_matches("?filter=");
        prop_assert!(rest.bytes().all(|b| b.is_ascii_alphanumeric() || b"%-._~".contains(&b)));
    }
}

#[test]
fn every_prefix_of_a_real_answer_is_an_error_or_a_beginning() {
    let whole = clusters_text(ALL.as_bytes(), EVERY).unwrap();
    let mut accepted = 0;
    for end in 1..ALL.len() {
        if let Ok(part) = clusters_text(&ALL.as_bytes()[..end], EVERY) {
            assert!(is_beginning_of(&part, &whole), "cut at {end}");
            accepted += 1;
        }
    }
    assert!(accepted < ALL.lines().count() / 2, "{accepted} cuts went unnoticed");
}

/// The time is printed, not judged: `cargo test --release -- --nocapture ten_thousand`.
#[test]
fn ten_thousand_endpoints_are_decoded() {
    let hosts: Vec<Endpoint> = (0..10_000_u32)
        .map(|i| Endpoint {
            address: format!("10.{}.{}.{}:8080", i >> 16, i >> 8 & 255, i & 255),
            weight: i % 5 + 1,
            priority: 0,
            locality: Locality {
                region: "eu-west-1".into(),
                zone: format!("eu-west-1{}", i % 3),
                sub_zone: String::new(),
            },
            health: Health::HEALTHY,
            rq_active: i,
            metadata: Vec::new(),
        })
        .collect();
    let name = "outbound|8080||backend.production.svc.cluster.local".to_owned();
    let updates = vec![ClusterUpdate { name, update: Update::Reset(hosts) }];
    let text = print(&updates);
    let times: Vec<_> = (0..9)
        .map(|_| {
            let start = Instant::now();
            let read = clusters_text(text.as_bytes(), EVERY);
            let took = start.elapsed();
            assert_eq!(read.as_ref(), Ok(&updates));
            took
        })
        .collect();
    let mut held = Membership::new();
    held.apply(&updates[0].name, updates[0].update.clone());
    let start = Instant::now();
    let bytes = snapshot::encode(&held);
    let encoded = start.elapsed();
    assert_eq!(snapshot::decode(&bytes).as_ref(), Ok(&updates));
    let took = start.elapsed() - encoded;
    println!(
        "{} bytes of text: {:?}; snapshot of {} bytes: encode {encoded:?}, decode {took:?}",
        text.len(),
        times.iter().min(),
        bytes.len(),
    );
}

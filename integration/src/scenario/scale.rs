//! Endpoints leave and join under hashing: only the keys that must move may move.
//!
//! Both arms have the *same* upstreams, because a hash table depends on addresses: so their
//! placements can be compared key by key. There are 33 endpoints, 3 processes with 11 ports each.
//! Not for the crowd: Envoy gives each endpoint `ceil(1024 / n)` points of the default ring, so
//! going from 5 endpoints to 4 it also *adds* 51 points to each of those that stay, and an eighth
//! of their keys moves although nothing made it necessary. Between 33 and 32 the number stays 32,
//! and what is measured is the promise of a ring, not the rounding of its size.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde_json::json;

use super::{Outcome, Rig, whole};
use crate::bootstrap::{Endpoint, Flavour, Lb};
use crate::load::{self, Load, Plan, Record};
use crate::measure::{Moved, Placement, moved};
use crate::report::{ArmReport, Check, ScenarioReport, Timeline};
use crate::site::{Arm, ArmOrder, Order};
use crate::stalls::{Stalls, Watch};

const UPSTREAMS: usize = 3;
const PORTS: usize = 11;
/// Position of the endpoint that leaves and joins again.
const LEAVER: usize = 16;
const KEYS: u32 = 2_000;
/// Background load, for what clients see of the change.
const RATE: u32 = 100;
/// From a change of membership until placements are compared: the plugin reads the membership every
/// 5 s unless it is told otherwise, and this is what a user with the defaults gets.
const CONVERGED: Duration = Duration::from_secs(7);
/// With maglev a change shifts some turns of the others.
const MAGLEV_SHARE: f64 = 0.01;

/// What one arm gave under one policy.
struct Run {
    records: Vec<Record>,
    events: Vec<(Duration, String)>,
    placements: [Placement; 3],
    left: Moved,
    joined: Moved,
    attempts: u64,
}

pub(super) async fn run(rig: &Rig) -> anyhow::Result<Outcome> {
    let mut all: Vec<Vec<Run>> = rig.flavours.iter().map(|_| Vec::new()).collect();
    let (mut checks, mut stalls) = (Vec::new(), Stalls::default());
    for lb in [Lb::RingHash, Lb::Maglev] {
        let (runs, seen) = cycle(rig, lb).await.with_context(|| format!("scale, {}", lb.name()))?;
        stalls = stalls.and(seen);
        for (flavour, run) in rig.flavours.iter().zip(&runs) {
            rig.say(format!(
                "scale     {}: {} moved without need: {} of {} when one left, {} when it joined",
                lb.name(),
                flavour.name(),
                run.left.without_need,
                run.left.keys,
                run.joined.without_need,
            ));
        }
        checks.extend(policy_checks(rig, lb, &runs));
        for (list, run) in all.iter_mut().zip(runs) {
            list.push(run);
        }
    }
    let mut reports = Vec::new();
    let mut timelines = Vec::new();
    for (flavour, runs) in rig.flavours.iter().zip(all) {
        let report = arm_report(*flavour, &runs);
        if *flavour == Flavour::Outrigger {
            let failed = (report.requests - report.ok) as f64;
            checks.push(Check::at_most(
                "failed requests of the background load",
                0.0,
                Some(failed),
            ));
        }
        reports.push(report);
        if let Some(first) = runs.into_iter().next() {
            let (scenario, arm) = ("scale".to_owned(), format!("{} (ring_hash)", flavour.name()));
            timelines.push(Timeline {
                scenario,
                arm,
                records: first.records,
                events: first.events,
            });
        }
    }
    Ok((ScenarioReport::new("scale", reports, checks, stalls), timelines))
}

async fn cycle(rig: &Rig, lb: Lb) -> anyhow::Result<(Vec<Run>, Stalls)> {
    let policy = match lb {
        Lb::Maglev => json!({"maglev": {}}),
        _ => json!({"ring_hash": {}}),
    };
    let hash_policy = json!([{"header": {"header_name": "x-key"}}]);
    let config = json!({"defaults": {"lb_policy": policy, "hash_policy": hash_policy}});
    let order = Order {
        arms: rig.flavours.iter().map(|f| ArmOrder::plain(*f, lb, &config)).collect(),
        upstreams: UPSTREAMS,
        ports: PORTS,
        shared: true,
    };
    let arms = rig.site.open(&order).await?;
    let first = arms.first().context("no arm")?;
    let everyone = first.endpoints();
    let mut fewer = everyone.clone();
    ensure!(fewer.len() > LEAVER, "too few endpoints");
    let leaver = fewer.remove(LEAVER).address;

    let entries: Vec<SocketAddr> = arms.iter().map(|arm| arm.envoy.entry).collect();
    let watch = Watch::start();
    let load = Load::start(&Plan { keys: KEYS, ..Plan::get(RATE) }, &entries);
    let origin = load.origin();
    tokio::time::sleep(CONVERGED).await;
    let before = place_all(&arms).await?;
    let left_at = change(&arms, &fewer, origin)?;
    tokio::time::sleep(CONVERGED).await;
    let without = place_all(&arms).await?;
    let joined_at = change(&arms, &everyone, origin)?;
    tokio::time::sleep(CONVERGED).await;
    let again = place_all(&arms).await?;
    let stalls = watch.finish(load.late());
    let records = load.finish().await;

    let mut runs = Vec::new();
    let placed = before.into_iter().zip(without).zip(again);
    for ((arm, records), ((before, without), again)) in arms.iter().zip(records).zip(placed) {
        let sent = arm.envoy.counter("cluster.backend.upstream_rq_total").await?;
        runs.push(Run {
            left: moved(&before, &without, leaver),
            joined: moved(&without, &again, leaver),
            placements: [before, without, again],
            attempts: sent,
            records,
            events: vec![(left_at, "one leaves".into()), (joined_at, "it joins".into())],
        });
    }
    Ok((runs, stalls))
}

fn change(arms: &[Arm], members: &[Endpoint], origin: Instant) -> anyhow::Result<Duration> {
    for arm in arms {
        arm.envoy.set_members(members)?;
    }
    Ok(origin.elapsed())
}

async fn place_all(arms: &[Arm]) -> anyhow::Result<Vec<Placement>> {
    let mut placements = Vec::new();
    for arm in arms {
        let placement = load::place(arm.envoy.entry, KEYS).await;
        ensure!(!placement.is_empty(), "no key was served; Envoy: {}", arm.envoy.log_tail().await);
        placements.push(placement);
    }
    Ok(placements)
}

fn policy_checks(rig: &Rig, lb: Lb, runs: &[Run]) -> Vec<Check> {
    let at = |wanted: Flavour| {
        rig.flavours.iter().position(|flavour| *flavour == wanted).and_then(|at| runs.get(at))
    };
    let Some(ours) = at(Flavour::Outrigger) else {
        return Vec::new();
    };
    let allowed = if lb == Lb::Maglev { (f64::from(KEYS) * MAGLEV_SHARE).floor() } else { 0.0 };
    let name = lb.name();
    let keys_lost = ours.placements.iter().map(|p| KEYS as usize - p.len()).sum::<usize>();
    let without_need = |moved: Moved| Some(moved.without_need as f64);
    let mut checks = vec![
        Check::at_most(format!("{name}: keys not served"), 0.0, Some(keys_lost as f64)),
        Check::at_most(
            format!("{name}: keys of others that moved when one left"),
            allowed,
            without_need(ours.left),
        ),
        Check::at_most(
            format!("{name}: keys that moved, but not to it, when it joined"),
            allowed,
            without_need(ours.joined),
        ),
    ];
    if let Some(native) = at(Flavour::Native) {
        let differ: usize = ours
            .placements
            .iter()
            .zip(&native.placements)
            .map(|(a, b)| a.iter().filter(|(key, to)| b.get(key) != Some(to)).count())
            .sum();
        let name = format!("{name}: keys placed elsewhere than by Envoy's own policy");
        checks.push(Check::at_most(name, 0.0, Some(differ as f64)));
    }
    checks
}

fn arm_report(flavour: Flavour, runs: &[Run]) -> ArmReport {
    let records: Vec<Record> = runs.iter().flat_map(|run| &run.records).copied().collect();
    let placed = runs.iter().flat_map(|run| &run.placements).map(|p| p.len() as u64).sum::<u64>();
    let attempts: u64 = runs.iter().map(|run| run.attempts).sum();
    let report = whole::arm_report(flavour.name(), &records, attempts);
    let amplification = attempts as f64 / (report.requests + placed).max(1) as f64;
    ArmReport { amplification, ..report }
}

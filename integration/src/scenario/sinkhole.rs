//! One of five endpoints fails faster than the others work: it looks idle and quick, and must not
//! get more of the load for that, under any policy.
//!
//! Breakers are off, so that the endpoint stays in, and nothing is retried, so that every answer
//! tells where a first attempt went. The healthy ones take 8 ms (deviation 1 ms), the failing one
//! answers 503 at once. There is one Envoy for each policy; all have the same upstreams.

use std::time::Duration;

use anyhow::Context;
use serde_json::{Value, json};

use super::{Outcome, Rig, whole};
use crate::bootstrap::{Flavour, Lb};
use crate::load::{Load, Plan, Record};
use crate::measure::within;
use crate::report::{Check, ScenarioReport, Timeline};
use crate::site::{ArmOrder, Order};
use crate::stalls::Watch;
use crate::upstream::fault::FaultSpec;

const NAME: &str = "sinkhole";
const UPSTREAMS: usize = 5;
/// Position of the upstream that fails.
const VICTIM: usize = 2;
/// Requests per second and arm: seven arms.
const RATE: u32 = 100;
/// More than are sent, so that each request has its own.
const KEYS: u32 = 1_000_000;
const WARM_UP: Duration = Duration::from_secs(3);
/// From the first failures until the share is judged.
const SETTLE: Duration = Duration::from_secs(1);
const LENGTH: Duration = Duration::from_secs(30);
const QUICK_LENGTH: Duration = Duration::from_secs(10);
/// Less than one in five by more than what chance gives.
const SHARE_MAX: f64 = 0.19;
const POLICIES: [&str; 7] =
    ["round_robin", "random", "least_request", "peak_ewma", "ring_hash", "maglev", "rendezvous"];

pub(super) async fn run(rig: &Rig) -> anyhow::Result<Outcome> {
    let length = if rig.quick { QUICK_LENGTH } else { LENGTH };
    let order = Order { arms: arms(rig), upstreams: UPSTREAMS, ports: 1, shared: true };
    let arms = rig.site.open(&order).await.context(NAME)?;
    let Some(first) = arms.first() else {
        // Of Envoy's own policies nothing is claimed.
        return Ok(whole::nothing(NAME));
    };
    for upstream in first.upstreams.iter() {
        upstream.fault(&FaultSpec::normal_delay(8, 1)).await?;
    }
    let victim = first.upstreams.get(VICTIM).context("too few upstreams")?;

    let entries: Vec<_> = arms.iter().map(|arm| arm.envoy.entry).collect();
    let watch = Watch::start();
    let load = Load::start(&Plan { keys: KEYS, ..Plan::get(RATE) }, &entries);
    tokio::time::sleep(WARM_UP).await;
    victim.fault(&FaultSpec::status(503)).await?;
    let begun = load.origin().elapsed();
    tokio::time::sleep(SETTLE + length).await;
    let end = load.origin().elapsed();
    let stalls = watch.finish(load.late());
    let records = load.finish().await;

    let (mut reports, mut checks, mut timelines) = (Vec::new(), Vec::new(), Vec::new());
    for (arm, records) in arms.iter().zip(records) {
        let judged: Vec<Record> = within(&records, begun + SETTLE..end).copied().collect();
        let share = share_of_victim(&judged);
        let healthy = share_of_victim(within(&records, Duration::ZERO..begun));
        let percent = |share: Option<f64>| share.unwrap_or(f64::NAN) * 100.0;
        let (is, was) = (percent(share), percent(healthy));
        rig.say(format!("{NAME}  {}: share {is:.1} % while it fails, {was:.1} % before", arm.name));
        let name = format!("{}: share of the failing endpoint, % of first attempts", arm.name);
        checks.push(Check::at_most(name, SHARE_MAX * 100.0, share.map(|share| share * 100.0)));
        reports.push(whole::arm_report(&arm.name, &judged, judged.len() as u64));
        let (scenario, arm) = (NAME.to_owned(), arm.name.clone());
        timelines.push(Timeline {
            scenario,
            arm,
            records,
            events: vec![(begun, "503".to_owned())],
        });
    }
    Ok((ScenarioReport::new(NAME, reports, checks, stalls), timelines))
}

fn arms(rig: &Rig) -> Vec<ArmOrder> {
    if !rig.flavours.contains(&Flavour::Outrigger) {
        return Vec::new();
    }
    let arm = |policy: &&str| ArmOrder {
        name: policy.replace('_', "-"),
        flavour: Flavour::Outrigger,
        lb: Lb::RoundRobin,
        plugin_config: plugin_config(policy),
        edits: vec![("num_retries: 2".to_owned(), "num_retries: 0".to_owned())],
    };
    POLICIES.iter().map(arm).collect()
}

fn plugin_config(policy: &str) -> Value {
    json!({"defaults": {
        "lb_policy": {policy: {}},
        "hash_policy": [{"header": {"header_name": "x-key"}}],
        "circuit_breaker": {"consecutive_failures": 0, "success_rate": {"threshold_percent": 0}},
        "retry": {"num_retries": 0},
    }})
}

fn share_of_victim<'a>(records: impl IntoIterator<Item = &'a Record>) -> Option<f64> {
    let (mut all, mut victims) = (0u32, 0u32);
    for record in records {
        all += 1;
        victims += u32::from(usize::from(record.upstream) == VICTIM + 1);
    }
    (all > 0).then(|| f64::from(victims) / f64::from(all))
}

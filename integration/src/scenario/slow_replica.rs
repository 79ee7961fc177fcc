//! One of eleven replicas becomes slow, and only the choice of endpoints can help: nothing fails,
//! clients leave after a second, nothing is retried.
//!
//! The scenario is Linkerd's, published in 2016 ("Beyond Round Robin: Load Balancing for
//! Latency"): eleven backends of 167 ms (deviation 5 ms), 1,000 requests a second for a minute, one
//! backend at 2 s in the middle half of it; within a second about 95 % of the requests succeed with
//! round robin, 99 % with least loaded, 99.9 % with peak EWMA. Here it is 250 requests a second for
//! each arm, because four arms, their upstreams and the load share the machine. All arms have the
//! same upstreams, which sleep, so that the arms do not slow each other.
//!
//! Outlier detection and breakers are on in every arm and must see nothing: a client that leaves
//! is no endpoint's failure.

use std::time::Duration;

use anyhow::Context;
use serde_json::{Value, json};

use super::{Outcome, Rig, whole};
use crate::bootstrap::{Flavour, Lb};
use crate::load::{Load, Plan, Record};
use crate::measure::within;
use crate::report::{ArmReport, Check, ScenarioReport, Timeline};
use crate::site::{Arm, ArmOrder, Order};
use crate::stalls::Watch;
use crate::upstream::fault::FaultSpec;

const NAME: &str = "slow-replica";
const UPSTREAMS: usize = 11;
/// Position of the replica that becomes slow.
const VICTIM: usize = 5;
/// Requests per second and arm.
const RATE: u32 = 250;
const WARM_UP: Duration = Duration::from_secs(3);
/// A quarter before, a half slow, a quarter after.
const LENGTH: Duration = Duration::from_secs(60);
const QUICK_LENGTH: Duration = Duration::from_secs(20);
const CLIENT_TIMEOUT: Duration = Duration::from_secs(1);
const PEAK_EWMA_FAILED_MAX: f64 = 0.001;
/// Linkerd's 1 % was at four times the rate. Counting requests in flight, the slow replica always
/// has as many of them as the others and a few more, and each second that many clients leave it:
/// the fewer requests there are, the more these few weigh. Envoy's own policy loses 1.24 % here; in
/// a simulation the better of two loses 1.0 % at 1,000 a second and 1.2 % at 250.
const LEAST_REQUEST_FAILED_MAX: f64 = 0.015;
/// Envoy's policy and ours are the same there; so much is chance.
const CHANCE: f64 = 1.1;

const PEAK_EWMA: &str = "outrigger-peak-ewma";
const LEAST_REQUEST: &str = "outrigger-least-request";
const ROUND_ROBIN: &str = "outrigger-round-robin";
const NATIVE: &str = "envoy-least-request";

/// What one arm gave.
struct Run {
    report: ArmReport,
    records: Vec<Record>,
    ejections: u64,
}

pub(super) async fn run(rig: &Rig) -> anyhow::Result<Outcome> {
    let length = if rig.quick { QUICK_LENGTH } else { LENGTH };
    let order = Order { arms: arms(rig), upstreams: UPSTREAMS, ports: 1, shared: true };
    let arms = rig.site.open(&order).await.context(NAME)?;
    let Some(first) = arms.first() else {
        return Ok(whole::nothing(NAME));
    };
    for upstream in first.upstreams.iter() {
        upstream.fault(&FaultSpec::normal_delay(167, 5)).await?;
    }
    let victim = first.upstreams.get(VICTIM).context("too few upstreams")?;

    let entries: Vec<_> = arms.iter().map(|arm| arm.envoy.entry).collect();
    let watch = Watch::start();
    let load = Load::start(&Plan { timeout: CLIENT_TIMEOUT, ..Plan::get(RATE) }, &entries);
    tokio::time::sleep(WARM_UP).await;
    let before = sent(&arms).await?;
    tokio::time::sleep(length / 4).await;
    let slow_at = load.origin().elapsed();
    victim.fault(&FaultSpec::normal_delay(2_000, 5)).await?;
    tokio::time::sleep(length / 2).await;
    let well_at = load.origin().elapsed();
    victim.fault(&FaultSpec::normal_delay(167, 5)).await?;
    tokio::time::sleep(length / 4).await;
    let end = load.origin().elapsed();
    let stalls = watch.finish(load.late());
    let records = load.finish().await;
    let after = sent(&arms).await?;

    let mut runs = Vec::new();
    for ((arm, records), (before, after)) in arms.iter().zip(records).zip(before.iter().zip(after))
    {
        let records: Vec<Record> = within(&records, WARM_UP..end).copied().collect();
        let report = whole::arm_report(&arm.name, &records, after.saturating_sub(*before));
        let ejections = ejections(arm).await?;
        let percent = report.success_rate * 100.0;
        rig.say(format!("{NAME} {}: {percent:.2} % within 1 s", arm.name));
        runs.push(Run { report, records, ejections });
    }
    let checks = checks(&runs, length);
    let events = vec![(slow_at, "2 s".to_owned()), (well_at, "167 ms".to_owned())];
    let (mut reports, mut timelines) = (Vec::new(), Vec::new());
    for Run { report, records, .. } in runs {
        let (scenario, arm, events) = (NAME.to_owned(), report.name.clone(), events.clone());
        timelines.push(Timeline { scenario, arm, records, events });
        reports.push(report);
    }
    Ok((ScenarioReport::new(NAME, reports, checks, stalls), timelines))
}

fn arms(rig: &Rig) -> Vec<ArmOrder> {
    let policy =
        |policy: Value| json!({"defaults": {"lb_policy": policy, "retry": {"num_retries": 0}}});
    let ours = Flavour::Outrigger;
    [
        (PEAK_EWMA, ours, Lb::LeastRequest, policy(json!({"peak_ewma": {}}))),
        (LEAST_REQUEST, ours, Lb::LeastRequest, policy(json!({"least_request": {}}))),
        (ROUND_ROBIN, ours, Lb::RoundRobin, policy(json!({"round_robin": {}}))),
        (NATIVE, Flavour::Native, Lb::LeastRequest, Value::Null),
    ]
    .into_iter()
    .filter(|(_, flavour, ..)| rig.flavours.contains(flavour))
    .map(|(name, flavour, lb, plugin_config)| ArmOrder {
        name: name.to_owned(),
        flavour,
        lb,
        plugin_config,
        edits: patient_route(),
    })
    .collect()
}

/// No retries, and no time-out before the client's: one that the proxy sees is a failure to it.
fn patient_route() -> Vec<(String, String)> {
    let edit = |from: &str, to: &str| (from.to_owned(), to.to_owned());
    vec![
        edit("num_retries: 2", "num_retries: 0"),
        edit("per_try_timeout: 0.5s", "per_try_timeout: 5s"),
    ]
}

/// Attempts that each Envoy has sent.
async fn sent(arms: &[Arm]) -> anyhow::Result<Vec<u64>> {
    let mut counts = Vec::new();
    for arm in arms {
        counts.push(arm.envoy.counter("cluster.backend.upstream_rq_total").await?);
    }
    Ok(counts)
}

/// How often an endpoint was taken out.
async fn ejections(arm: &Arm) -> anyhow::Result<u64> {
    let name = match arm.flavour {
        Flavour::Native => "cluster.backend.outlier_detection.ejections_enforced_total",
        _ => "wasmcustom.outrigger.cluster.backend.ejections",
    };
    arm.envoy.counter(name).await
}

fn checks(runs: &[Run], length: Duration) -> Vec<Check> {
    let find = |name: &str| runs.iter().find(|run| run.report.name == name);
    let failed = |run: &Run| (run.report.requests - run.report.ok) as f64;
    let mut checks = Vec::new();
    let bars = [(PEAK_EWMA, PEAK_EWMA_FAILED_MAX), (LEAST_REQUEST, LEAST_REQUEST_FAILED_MAX)];
    for (name, share) in bars {
        let Some(ours) = find(name) else { continue };
        // Noticing costs the same in a short run as in a long one.
        let of = f64::from(RATE) * LENGTH.as_secs_f64();
        let note = if length < LENGTH { ", of those of a full run" } else { "" };
        checks.push(Check::at_most(
            format!("{name}: requests not served within 1 s ({} %{note})", share * 100.0),
            (share * of).floor(),
            Some(failed(ours)),
        ));
        for other in [ROUND_ROBIN, NATIVE] {
            let Some(limit) = find(other).map(failed) else { continue };
            let limit = match (name, other) {
                (_, ROUND_ROBIN) => (limit - 1.0).max(0.0),
                (LEAST_REQUEST, _) => (limit * CHANCE).floor(),
                _ => limit,
            };
            let check = format!("{name}: requests not served within 1 s, against {other}");
            checks.push(Check::at_most(check, limit, Some(failed(ours))));
        }
        let check = format!("{name}: endpoints taken out, which is not what is tried here");
        checks.push(Check::at_most(check, 0.0, Some(ours.ejections as f64)));
    }
    checks
}

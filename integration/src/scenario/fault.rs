//! The timeline that all scenarios with a fault share, and what is measured in it.
//!
//! Warm-up, before, fault, after; fresh Envoys and upstreams for every run, all arms under the same
//! load at the same time, so that the noise of the machine hits them alike.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;

use super::judge::{Run, Samples, arm_report, checks};
use super::{Outcome, Rig};
use crate::bootstrap::{Flavour, Lb};
use crate::load::{Load, Plan};
use crate::measure::within;
use crate::report::{ArmReport, ScenarioReport, Timeline};
use crate::site::{Arm, ArmOrder, Order};
use crate::stalls::{Stalls, Watch};
use crate::upstream::Upstream;
use crate::upstream::fault::FaultSpec;

pub(super) const UPSTREAMS: usize = 5;
/// Position of the upstream that is hit when only one is.
pub(super) const VICTIM: usize = 2;
pub(super) const WARM_UP: Duration = Duration::from_secs(2);
pub(super) const BEFORE: Duration = Duration::from_secs(5);
const AFTER: Duration = Duration::from_secs(5);
const SAMPLE_EVERY: Duration = Duration::from_millis(100);

/// What is done to an upstream.
#[derive(Debug, Clone)]
pub(super) enum Action {
    Kill,
    Freeze,
    Disconnect,
    Fault(FaultSpec),
}

/// Who is hit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hit {
    One,
    All,
}

/// What the arm `outrigger` must achieve.
#[derive(Debug, Clone, Copy)]
pub(super) enum Bars {
    /// Clients must not notice: at most one failure in `failed_per` (rounded down), p99 as before.
    /// Where only a time-out can tell, the endpoint must be out soon after the first; elsewhere
    /// there must be no more failures than with plain Envoy.
    Invisible { failed_per: u64, out_within_ms: Option<f64> },
    /// No more failures than plain Envoy: where the plugin promises nothing of its own.
    NoWorse,
    /// Clients do notice, but the load stays bounded and all is well soon after.
    Bounded { amplification: f64, recover_ms: f64 },
}

/// A scenario with a fault.
#[derive(Debug, Clone)]
pub(super) struct FaultScenario {
    pub(super) name: &'static str,
    /// Requests per second and arm.
    pub(super) rate: u32,
    pub(super) fault_seconds: u64,
    pub(super) hit: Hit,
    pub(super) action: Action,
    pub(super) bars: Bars,
}

/// Runs a scenario `rig.runs` times.
pub(super) async fn run(scenario: &FaultScenario, rig: &Rig) -> anyhow::Result<Outcome> {
    let mut arms: Vec<Vec<Run>> = rig.flavours.iter().map(|_| Vec::new()).collect();
    let mut stalls = Stalls::default();
    for number in 1..=rig.runs {
        let (runs, seen) = cycle(scenario, rig).await.with_context(|| scenario.name)?;
        let native = rig.flavours.iter().position(|flavour| *flavour == Flavour::Native);
        let native_p99_ms = native.and_then(|at| runs.get(at)).and_then(Run::p99_before);
        stalls = stalls.and(Stalls { native_p99_ms, ..seen });
        let summary: Vec<String> = rig
            .flavours
            .iter()
            .zip(&runs)
            .map(|(flavour, run)| format!("{} {}", flavour.name(), run.summary()))
            .collect();
        rig.say(format!("{:9} run {number}/{}: {}", scenario.name, rig.runs, summary.join(" | ")));
        for (all, run) in arms.iter_mut().zip(runs) {
            all.push(run);
        }
    }
    let reports = rig.flavours.iter().zip(&arms);
    let reports: Vec<ArmReport> = reports.map(|(f, runs)| arm_report(scenario, *f, runs)).collect();
    let checks = checks(scenario, rig, &arms, &reports);
    let timelines = rig.flavours.iter().zip(arms).filter_map(|(flavour, runs)| {
        let first = runs.into_iter().next()?;
        let events = vec![(first.fault.start, "fault".into()), (first.fault.end, "lifted".into())];
        let (scenario, arm) = (scenario.name.to_owned(), flavour.name().to_owned());
        Some(Timeline { scenario, arm, records: first.records, events })
    });
    let timelines = timelines.collect();
    Ok((ScenarioReport::new(scenario.name, reports, checks, stalls), timelines))
}

async fn cycle(scenario: &FaultScenario, rig: &Rig) -> anyhow::Result<(Vec<Run>, Stalls)> {
    let order = Order {
        arms: rig
            .flavours
            .iter()
            .map(|flavour| ArmOrder::plain(*flavour, Lb::RoundRobin, &serde_json::json!({})))
            .collect(),
        upstreams: UPSTREAMS,
        ports: 1,
        shared: false,
    };
    let arms = rig.site.open(&order).await?;
    let entries: Vec<_> = arms.iter().map(|arm| arm.envoy.entry).collect();
    let watch = Watch::start();
    let load = Load::start(&Plan::get(scenario.rate), &entries);
    let origin = load.origin();
    sleep_until(origin + WARM_UP).await;
    let warm = attempts_of(&arms).await;
    let sampler = Sampler::start(&arms, origin);
    sleep_until(origin + WARM_UP + BEFORE).await;

    let at_fault = attempts_of(&arms).await;
    let begun = all(&arms, scenario, true, origin).await?;
    tokio::time::sleep(Duration::from_secs(scenario.fault_seconds)).await;
    let lifting = origin.elapsed();
    let at_lift = match scenario.hit {
        Hit::All => attempts_of(&arms).await,
        // A dead or frozen upstream cannot be asked.
        Hit::One => vec![None; arms.len()],
    };
    let lifted = all(&arms, scenario, false, origin).await?;
    tokio::time::sleep(AFTER).await;
    let end = origin.elapsed();
    let stalls = watch.finish(load.late());
    let records = load.finish().await;
    let chosen = sampler.finish().await;
    let total = attempts_of(&arms).await;

    let mut runs = Vec::new();
    for (number, (records, chosen)) in records.into_iter().zip(chosen).enumerate() {
        let at = |list: &[Option<u64>]| list.get(number).copied().flatten();
        let begun = begun.get(number).copied().unwrap_or(lifting);
        // Scheduled until the lifting began: the fault's; what came later may already have been
        // served.
        let fault = begun..lifting.max(begun);
        let since = |now: Option<u64>, then: Option<u64>| Some(now?.saturating_sub(then?));
        let settled = lifted.get(number).copied().unwrap_or(lifting);
        let records = within(&records, WARM_UP..end).copied().collect();
        let attempts = since(at(&total), at(&warm)).unwrap_or(0);
        let attempts_in_fault = since(at(&at_lift), at(&at_fault));
        runs.push(Run {
            records,
            fault,
            end: end.max(settled),
            attempts,
            attempts_in_fault,
            chosen,
        });
    }
    Ok((runs, stalls))
}

/// Hits (or heals) every arm at the same time; returns when each was done, since `origin`.
async fn all(
    arms: &[Arm],
    scenario: &FaultScenario,
    begin: bool,
    origin: Instant,
) -> anyhow::Result<Vec<Duration>> {
    let mut tasks = Vec::new();
    for arm in arms {
        let (upstreams, action) = (Arc::clone(&arm.upstreams), scenario.action.clone());
        let one = scenario.hit == Hit::One;
        tasks.push(tokio::spawn(async move {
            for (number, upstream) in upstreams.iter().enumerate() {
                if !one || number == VICTIM {
                    apply(&action, upstream, begin).await?;
                }
            }
            anyhow::Ok(origin.elapsed())
        }));
    }
    let mut done = Vec::new();
    for task in tasks {
        done.push(task.await??);
    }
    Ok(done)
}

async fn apply(action: &Action, upstream: &Upstream, begin: bool) -> anyhow::Result<()> {
    match (action, begin) {
        (Action::Kill, true) => upstream.kill().await,
        (Action::Kill, false) => upstream.start().await,
        (Action::Freeze, true) => upstream.freeze().await,
        (Action::Freeze, false) => upstream.thaw().await,
        (Action::Disconnect, true) => upstream.disconnect().await,
        (Action::Disconnect, false) => upstream.reconnect().await,
        (Action::Fault(spec), true) => upstream.fault(spec).await,
        (Action::Fault(_), false) => upstream.fault(&FaultSpec::none()).await,
    }
}

/// Requests that the upstreams of each arm have received; `None` where one does not answer.
async fn attempts_of(arms: &[Arm]) -> Vec<Option<u64>> {
    let mut counts = Vec::new();
    for arm in arms {
        let mut sum = Some(0u64);
        for upstream in arm.upstreams.iter() {
            let requests = upstream.stats().await.ok().map(|stats| stats.requests);
            sum = sum.zip(requests).map(|(a, b)| a + b);
        }
        counts.push(sum);
    }
    counts
}

/// Asks each Envoy ten times a second how often it has chosen the victim.
struct Sampler {
    stop: Arc<AtomicBool>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
    samples: Vec<Arc<Mutex<Samples>>>,
}

impl Sampler {
    fn start(arms: &[Arm], origin: Instant) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (mut tasks, mut samples) = (Vec::new(), Vec::new());
        for arm in arms {
            let Some(victim) = arm.upstreams.get(VICTIM).map(Upstream::address) else {
                continue;
            };
            let list = Arc::new(Mutex::new(Vec::new()));
            samples.push(Arc::clone(&list));
            let (stop, admin) = (Arc::clone(&stop), arm.envoy.admin);
            tasks.push(tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    if let Ok(chosen) = crate::envoy::times_chosen(admin, victim).await {
                        let mut list = list.lock().unwrap_or_else(PoisonError::into_inner);
                        list.push((origin.elapsed(), chosen));
                    }
                    tokio::time::sleep(SAMPLE_EVERY).await;
                }
            }));
        }
        Self { stop, tasks, samples }
    }

    async fn finish(self) -> Vec<Samples> {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            let _ = task.await;
        }
        let take = |list: &Arc<Mutex<Samples>>| {
            std::mem::take(&mut *list.lock().unwrap_or_else(PoisonError::into_inner))
        };
        self.samples.iter().map(take).collect()
    }
}

async fn sleep_until(instant: Instant) {
    tokio::time::sleep_until(instant.into()).await;
}

//! Envoy's metrics behind the policy's table.
//!
//! Each name is defined once a VM and its number kept: defining it again would cost memory for
//! good. Sums are flushed on ticks, so that a request pays for none of it.

use std::cell::RefCell;
use std::rc::Rc;

use hashbrown::HashMap;
use outrigger_policy::attempt::budget::Totals;
use outrigger_policy::metrics::{IDS, Id, Kind, METRICS, Scope, Sums, active_name, full_name};
use outrigger_policy::state::slots::SLOTS_MAX;

use crate::host::{Failure, Host, MetricKind, Outcome};

/// A metric that has been defined.
#[derive(Clone, Copy, Debug)]
struct Slot {
    number: u32,
    /// What a gauge was last set to by this worker.
    set_to: Option<u64>,
}

/// One cluster's metrics, or the process's.
#[derive(Clone, Debug)]
struct Numbers([Option<Slot>; METRICS.len()]);

impl Numbers {
    fn get(&self, id: Id) -> Option<u32> {
        self.0.get(id.index()).copied().flatten().map(|slot| slot.number)
    }
}

/// The numbers of all metrics that this VM has defined, by name.
pub type Defined = Rc<RefCell<HashMap<String, u32>>>;

/// The gauges of requests in flight that this VM has defined, by slot.
pub type Actives = Rc<RefCell<Vec<Option<u32>>>>;

/// The number of the gauge at `slot`, defined when it is asked for the first time.
fn gauge_of(host: &impl Host, actives: &Actives, slot: u32) -> Outcome<u32> {
    let at = slot as usize;
    let busy = Failure::Other(0);
    let known = actives.try_borrow().map_err(|_| busy)?.get(at).copied().flatten();
    if let Some(number) = known {
        return Ok(number);
    }
    if at >= SLOTS_MAX {
        return Err(Failure::BadArgument);
    }
    let number = host.define_metric(MetricKind::Gauge, &active_name(slot))?;
    let mut actives = actives.try_borrow_mut().map_err(|_| busy)?;
    if actives.len() <= at {
        actives.resize(at.saturating_add(1), None);
    }
    if let Some(gauge) = actives.get_mut(at) {
        *gauge = Some(number);
    }
    Ok(number)
}

/// What the gauge at `slot` stands at. A correction that went too far leaves it below zero, which
/// Envoy shows as a huge number: whoever corrects next must see that.
pub fn active(host: &impl Host, actives: &Actives, slot: u32) -> Outcome<i64> {
    Ok(host.metric(gauge_of(host, actives, slot)?)?.cast_signed())
}

/// Adds to the gauge at `slot`.
pub fn add_active(host: &impl Host, actives: &Actives, slot: u32, by: i64) -> Outcome<()> {
    host.add_to_metric(gauge_of(host, actives, slot)?, by)
}

/// The metrics of one configuration.
#[derive(Debug, Default)]
pub struct Metrics {
    defined: Defined,
    process: Option<Numbers>,
    clusters: Vec<(String, Numbers, Totals)>,
}

impl Metrics {
    /// No metric yet; what the VM has `defined` is not defined again.
    pub fn new(defined: Defined) -> Self {
        Self { defined, ..Self::default() }
    }

    /// Forgets which clusters there are, but not what has been defined.
    pub fn forget_clusters(&mut self) {
        self.clusters.clear();
    }

    /// Flushes what was counted for the process.
    pub fn flush_process(&mut self, host: &impl Host, sums: &mut Sums) -> Outcome<()> {
        let mut numbers = match self.process.take() {
            Some(numbers) => numbers,
            None => self.define(host, Scope::Process, "")?,
        };
        let flushed = flush(host, &mut numbers, sums);
        self.process = Some(numbers);
        flushed
    }

    /// Flushes what was counted for the cluster at `index`, and keeps this worker's own totals.
    pub fn flush_cluster(
        &mut self,
        host: &impl Host,
        index: u32,
        name: &str,
        sums: &mut Sums,
    ) -> Outcome<()> {
        let at = usize::try_from(index).unwrap_or(usize::MAX);
        if self.clusters.get(at).is_none_or(|(known, ..)| known != name) {
            let numbers = self.define(host, Scope::Cluster, name)?;
            self.clusters.truncate(at);
            self.clusters.push((name.to_owned(), numbers, Totals::default()));
        }
        let Some((_, numbers, totals)) = self.clusters.get_mut(at) else { return Ok(()) };
        totals.requests = totals.requests.saturating_add(sums.get(Id::Requests));
        totals.retries = totals.retries.saturating_add(sums.get(Id::Retries));
        flush(host, numbers, sums)
    }

    /// The process's totals of the cluster at `index`. Where Envoy's `stats_matcher` throws the
    /// plugin's metrics away they read as 0; this worker's own totals are the floor.
    pub fn totals(&self, host: &impl Host, index: u32) -> Option<Totals> {
        let (_, numbers, own) = self.clusters.get(usize::try_from(index).ok()?)?;
        let requests = host.metric(numbers.get(Id::Requests)?).ok()?;
        let retries = host.metric(numbers.get(Id::Retries)?).ok()?;
        Some(Totals { requests: requests.max(own.requests), retries: retries.max(own.retries) })
    }

    /// How often workers wrote shared data, over the whole process; nothing when not known.
    pub fn shared_writes(&self, host: &impl Host) -> Option<u64> {
        host.metric(self.process.as_ref()?.get(Id::SharedWrites)?).ok()
    }

    fn define(&mut self, host: &impl Host, scope: Scope, cluster: &str) -> Outcome<Numbers> {
        let mut numbers = Numbers([None; METRICS.len()]);
        for (metric, slot) in METRICS.iter().zip(&mut numbers.0) {
            if metric.scope != scope {
                continue;
            }
            let name = full_name(metric, cluster);
            let known = self.defined.borrow().get(&name).copied();
            let number = match known {
                Some(number) => number,
                None => {
                    let kind = match metric.kind {
                        Kind::Counter => MetricKind::Counter,
                        Kind::Gauge => MetricKind::Gauge,
                    };
                    let number = host.define_metric(kind, &name)?;
                    self.defined.borrow_mut().insert(name, number);
                    number
                }
            };
            *slot = Some(Slot { number, set_to: None });
        }
        Ok(numbers)
    }
}

fn flush(host: &impl Host, numbers: &mut Numbers, sums: &mut Sums) -> Outcome<()> {
    if !sums.take_changed() {
        return Ok(());
    }
    for ((id, metric), slot) in IDS.iter().zip(METRICS).zip(&mut numbers.0) {
        let Some(slot) = slot else { continue };
        match metric.kind {
            Kind::Gauge => {
                let value = sums.get(*id);
                if slot.set_to != Some(value) {
                    host.set_metric(slot.number, value)?;
                    slot.set_to = Some(value);
                }
            }
            Kind::Counter => {
                let value = sums.take(*id);
                // a counter does not take 0
                if value > 0 {
                    let by = i64::try_from(value).unwrap_or(i64::MAX);
                    host.add_to_metric(slot.number, by)?;
                }
            }
        }
    }
    Ok(())
}

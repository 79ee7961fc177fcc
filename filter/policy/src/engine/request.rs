//! A request comes in: which endpoints, in which order, and how often.

use super::{Engine, Environment, Head, permit_of};
use crate::attempt::{LISTED_DEFAULT, Retry};
use crate::hash;
use crate::metrics::Id;
use crate::outcome::ledger::{Stream, StreamId};
use crate::rng::Rng;
use crate::time::Instant;
use core::time::Duration;

/// How long a trial may hold its permit. A trial that takes longer lets another one begin.
const PERMIT_MAX: Duration = Duration::from_secs(30);

/// After the result of a trial its permit stays taken for this long: a worker that has not heard of
/// the result yet must not begin another trial. Twice the time from one tick to the next, and some.
pub(super) const PERMIT_LINGERS: Duration = Duration::from_millis(300);

/// What to do with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Write nothing: Envoy's own choice stands.
    Untouched,
    /// Steer it; the list of endpoints is [`Engine::list`].
    Plan(Plan),
}

/// How a request is steered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The stream's name in the ledger.
    pub id: StreamId,
    /// What it may do beyond its first attempt.
    pub retry: Retry,
    /// How many retries, when the configuration says so.
    pub num_retries: Option<u32>,
    /// The time of one attempt in milliseconds, when the configuration says so.
    pub per_try_timeout_ms: Option<u64>,
}

impl Engine {
    /// The endpoints of the last plan, as `ip:port,ip:port`.
    #[must_use]
    pub fn list(&self) -> &[u8] {
        &self.list
    }

    /// Decides on a request.
    pub fn on_request(
        &mut self,
        head: &impl Head,
        environment: &mut impl Environment,
        rng: &mut impl Rng,
        now: Instant,
    ) -> Decision {
        let planned = self.cluster_of(head, environment).and_then(|index| {
            self.collect(index, head, environment, rng, now)?;
            self.plan(index, head, environment, rng, now)
        });
        if let Some(plan) = planned {
            return Decision::Plan(plan);
        }
        self.sums.count(Id::Untouched);
        Decision::Untouched
    }

    fn cluster_of(&mut self, head: &impl Head, environment: &mut impl Environment) -> Option<u32> {
        if let Some(sole) = self.sole {
            return Some(sole);
        }
        if let Some(found) = self.routes.find(head.authority(), head.path()) {
            return Some(found);
        }
        if self.clusters.is_empty() {
            return None;
        }
        if let Some(recalled) = self.learned.recall(head.authority()) {
            return Some(recalled);
        }
        self.name.clear();
        if !environment.cluster_name(&mut self.name) {
            return None;
        }
        let index = self.names.get(core::str::from_utf8(&self.name).ok()?).copied()?;
        self.learned.learn(head.authority(), index);
        Some(index)
    }

    fn plan(
        &mut self,
        index: u32,
        head: &impl Head,
        environment: &mut impl Environment,
        rng: &mut impl Rng,
        now: Instant,
    ) -> Option<Plan> {
        let cluster = self.clusters.get_mut(index as usize)?;
        let methods = &cluster.settings.retry.idempotent_methods;
        let idempotent = methods.iter().any(|method| method.as_bytes() == head.method());
        let mut retry = if idempotent { Retry::Widen } else { Retry::NothingSent };
        if cluster.is_hot(now) {
            if let Some(totals) = environment.totals(index) {
                cluster.observe(totals, now);
            }
            let within = cluster.budget.allows(&cluster.settings.retry.budget, now);
            if !within || !self.candidates.has_hope(&cluster.table) {
                retry = Retry::Deny;
            }
        }
        let permit = self.try_due(index, retry, environment, now);
        let &first = self.candidates.listed.first()?;
        let cluster = self.clusters.get_mut(index as usize)?;
        cluster.sums.count(Id::Requests);
        if retry == Retry::Deny {
            cluster.sums.count(Id::RetriesDenied);
        }
        if cluster.table.is_panic() {
            cluster.sums.count(Id::PanicRequests);
        }
        let settings = &cluster.settings.retry;
        let per_try_timeout = settings.per_try_timeout;
        let plan = Plan {
            id: stream_id(head.request_id(), rng),
            retry,
            num_retries: settings.num_retries,
            per_try_timeout_ms: per_try_timeout
                .map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX)),
        };
        self.render(index);
        self.remember((index, first), &plan, permit, environment, now);
        self.depart(index, plan.id, environment);
        self.set_cookies(index, first, environment);
        Some(plan)
    }

    /// Puts an endpoint whose trial is due before the others, if this request is the one to try
    /// it: it has a healthy second choice and may be sent twice, so that its user notices nothing.
    /// Where such requests do not come (gRPC is all POST), any request with a second choice does
    /// after another `base_ejection_time`; where nothing else is alive, any request does at once.
    /// Returns the permit that it took.
    fn try_due(
        &mut self,
        index: u32,
        retry: Retry,
        environment: &mut impl Environment,
        now: Instant,
    ) -> Option<u32> {
        let (due, since) = self.candidates.due?;
        let cluster = self.clusters.get_mut(index as usize)?;
        let patience = cluster.settings.circuit_breaker.base_ejection_time;
        let unnoticed = match retry {
            Retry::Widen => true,
            Retry::NothingSent => now.since(since) >= patience,
            Retry::Deny => false,
        };
        let harmless = unnoticed && self.candidates.has_healthy(&cluster.table);
        if !harmless && self.candidates.has_hope(&cluster.table) {
            return None;
        }
        let permit = permit_of(&cluster.name, cluster.addresses.get(due as usize)?);
        if !environment.take_permit(permit, now.after(PERMIT_MAX), now) {
            return None;
        }
        cluster.sums.count(Id::Trials);
        self.candidates.listed.insert(0, due);
        Some(permit)
    }

    fn render(&mut self, index: u32) {
        self.list.clear();
        let Some(cluster) = self.clusters.get(index as usize) else { return };
        for place in &self.candidates.listed {
            let Some(address) = cluster.addresses.get(*place as usize) else { continue };
            if !self.list.is_empty() {
                self.list.push(b',');
            }
            self.list.extend_from_slice(address.as_bytes());
        }
    }

    fn remember(
        &mut self,
        (index, first): (u32, u32),
        plan: &Plan,
        permit: Option<u32>,
        environment: &mut impl Environment,
        now: Instant,
    ) {
        let Some(cluster) = self.clusters.get(index as usize) else { return };
        let closed = cluster.table.row(first).is_none_or(|row| row.breaker.is_closed());
        let retries = plan.num_retries.unwrap_or(LISTED_DEFAULT - 1);
        let stream = Stream {
            id: plan.id,
            cluster: index,
            first,
            generation: cluster.generation,
            planned: now,
            retries_max: match plan.retry {
                Retry::Deny => 0,
                Retry::Widen | Retry::NothingSent => u8::try_from(retries).unwrap_or(u8::MAX),
            },
            failures: 0,
            widened: plan.retry == Retry::Widen,
            trial: !closed,
            permit,
            ended: false,
        };
        if let Some(displaced) = self.ledger.open(stream) {
            self.release(&displaced, Instant::ZERO, environment);
        }
    }

    /// Gives back the permit of a stream that holds one, once: a newer trial of the same endpoint
    /// may hold it by the time that the stream is forgotten.
    pub(super) fn release(
        &mut self,
        stream: &Stream,
        free_from: Instant,
        environment: &mut impl Environment,
    ) {
        let Some(permit) = stream.permit else { return };
        if let Some(kept) = self.ledger.get_mut(stream.id) {
            kept.permit = None;
        }
        environment.release_permit(permit, free_from);
    }
}

/// The stream's name: a hash of its request id, which the access logger sees as well, or a random
/// number where there is none. Never 0.
fn stream_id(request_id: &[u8], rng: &mut impl Rng) -> StreamId {
    let id = if request_id.is_empty() { rng.next_u64() } else { hash::xxh64(request_id, 0) };
    id.max(1)
}

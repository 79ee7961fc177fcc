//! An attempt ends: what its endpoint, the budget and the permits learn from it.

use super::cluster::Cluster;
use super::request::PERMIT_LINGERS;
use super::{Engine, Environment};
use crate::hash;
use crate::metrics::Id;
use crate::outcome::ledger::{Stream, StreamId, Success};
use crate::outcome::{Class, classify};
use crate::rng::Rng;
use crate::state::breaker::Phase;
use crate::time::Instant;

/// One attempt as Envoy's upstream access logger reports it; only failed ones are reported.
#[derive(Clone, Copy, Debug, Default)]
pub struct Attempt<'a> {
    /// `x-request-id`, or empty.
    pub request_id: &'a [u8],
    /// The cluster's name, or empty.
    pub cluster: &'a [u8],
    /// The endpoint's `ip:port`, or empty.
    pub address: &'a [u8],
    /// `response.flags`.
    pub flags: u64,
    /// `response.code`, 0 for none.
    pub status: u64,
    /// `response.grpc_status`, 0 for none.
    pub grpc_status: u64,
}

/// Whether the end of a stream has to be looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterEnd {
    /// All is known.
    Booked,
    /// Attempts failed before it, or it was a trial: say its status and last endpoint by
    /// [`Engine::on_end_details`].
    Details,
}

impl Engine {
    /// The stream `id` is over.
    pub fn on_end(
        &mut self,
        id: StreamId,
        environment: &mut impl Environment,
        now: Instant,
    ) -> AfterEnd {
        let took = self.land(id, environment, now);
        let Some(stream) = self.ledger.get_mut(id) else { return AfterEnd::Booked };
        stream.ended = true;
        if stream.failures > 0 || stream.trial {
            return AfterEnd::Details;
        }
        let success = Success {
            id,
            cluster: stream.cluster,
            endpoint: stream.first,
            generation: stream.generation,
            trial: false,
            took,
        };
        if self
            .clusters
            .get(success.cluster as usize)
            .is_some_and(|c| c.generation == success.generation)
        {
            self.hear(success.cluster, success.endpoint, environment, now);
        }
        if let Some(settled) = self.ledger.push(success) {
            self.book(&settled, environment, now);
        }
        AfterEnd::Booked
    }

    /// The last endpoint of the stream `id`, and its status and gRPC status; 0 where there was
    /// none.
    pub fn on_end_details(
        &mut self,
        id: StreamId,
        address: &[u8],
        (status, grpc_status): (u64, u64),
        environment: &mut impl Environment,
        now: Instant,
    ) {
        let Some(stream) = self.ledger.get_mut(id).copied() else { return };
        let Some(cluster) = self.clusters.get(stream.cluster as usize) else { return };
        let succeeded = classify(0, status, grpc_status) == Class::Success;
        let Some(endpoint) = place(cluster, address).filter(|_| succeeded) else {
            // a failure is reported by itself; an answer of no endpoint says nothing
            self.release(&stream, Instant::ZERO, environment);
            return;
        };
        let success = Success {
            id,
            cluster: stream.cluster,
            endpoint,
            generation: cluster.generation,
            trial: is_trial(cluster, endpoint, &stream),
            took: None,
        };
        self.hear(success.cluster, success.endpoint, environment, now);
        // its status is known, so no report can take it back
        self.book(&success, environment, now);
    }

    /// An attempt was reported. Returns its class.
    pub fn on_attempt(
        &mut self,
        attempt: &Attempt<'_>,
        environment: &mut impl Environment,
        rng: &mut impl Rng,
        now: Instant,
    ) -> Class {
        let class = classify(attempt.flags, attempt.status, attempt.grpc_status);
        if class == Class::Success {
            return class;
        }
        let reported = self.report_to_ledger(attempt.request_id, environment, now);
        let stream = reported.map(|(stream, _)| stream);
        if !class.is_failure() {
            if let Some((stream, success)) = reported.filter(|_| attempt.status == 0) {
                self.give_up(stream.id, success.as_ref(), now);
            }
            return class;
        }
        let index = self.index_of(attempt, stream.as_ref());
        let cluster = index.and_then(|index| self.clusters.get_mut(index as usize));
        let (Some(index), Some(cluster)) = (index, cluster) else {
            self.sums.count(Id::UnknownAttempts);
            return class;
        };
        cluster.sums.count(metric(class));
        let retried = stream.as_ref().is_some_and(|stream| {
            stream.failures <= stream.retries_max
                && !stream.ended
                && (stream.widened || class.nothing_was_sent())
        });
        if retried {
            cluster.sums.count(Id::Retries);
        }
        cluster.note_failure(now);
        let endpoint = place(cluster, attempt.address);
        let mut took = reported.and_then(|(_, success)| success?.took);
        if let Some(stream) = &stream {
            let turned = self.turn_back(stream.id, endpoint, retried, environment, now);
            took = turned.or(took);
            if retried {
                self.move_session(stream.id, environment);
            }
        }
        let Some(cluster) = self.clusters.get_mut(index as usize) else { return class };
        let Some(endpoint) = endpoint else {
            self.sums.count(Id::UnknownAttempts);
            return class;
        };
        if let Some((decay, default_rtt)) = cluster.tracking.latency
            && let Some(row) = cluster.table.row_mut(endpoint)
        {
            row.ewma.observe_failure(took.unwrap_or_default(), now, decay, default_rtt);
        }
        let trial = stream.as_ref().is_some_and(|stream| is_trial(cluster, endpoint, stream));
        let settings = &cluster.settings.circuit_breaker;
        let transition = cluster.table.on_failure(endpoint, trial, settings, rng, now);
        if let Some(transition) = transition {
            self.event(index, endpoint, transition);
        }
        if let Some(stream) = stream
            && stream.failures == 1
        {
            self.release(&stream, now.after(PERMIT_LINGERS), environment);
        }
        class
    }

    /// The cluster of an attempt: its stream's, unless Envoy says that the route led elsewhere.
    fn index_of(&mut self, attempt: &Attempt<'_>, stream: Option<&Stream>) -> Option<u32> {
        let name = core::str::from_utf8(attempt.cluster).ok();
        let named = name.and_then(|name| self.names.get(name).copied());
        let planned = stream.map(|stream| stream.cluster);
        if planned.is_some() && named.is_some() && planned != named {
            self.learned.clear();
        }
        named.or(planned)
    }

    /// Notes the report in the stream's entry, takes back the success that it may have booked and
    /// settles those before it. Returns the entry as it stands then, and the success.
    fn report_to_ledger(
        &mut self,
        request_id: &[u8],
        environment: &mut impl Environment,
        now: Instant,
    ) -> Option<(Stream, Option<Success>)> {
        if request_id.is_empty() {
            return None;
        }
        let id = hash::xxh64(request_id, 0).max(1);
        let stream = self.ledger.get_mut(id)?;
        stream.failures = stream.failures.saturating_add(1);
        let stream = *stream;
        let (success, older) = self.ledger.take_back(id);
        self.settle(older, environment, now);
        Some((stream, success))
    }

    /// Books the oldest `count` pending successes for good.
    pub(super) fn settle(
        &mut self,
        count: usize,
        environment: &mut impl Environment,
        now: Instant,
    ) {
        for _ in 0..count {
            let Some(success) = self.ledger.settle() else { return };
            self.book(&success, environment, now);
        }
    }

    fn book(&mut self, success: &Success, environment: &mut impl Environment, now: Instant) {
        let Some(cluster) = self.clusters.get_mut(success.cluster as usize) else { return };
        if cluster.generation != success.generation {
            return;
        }
        if let Some(took) = success.took
            && let Some((decay, _)) = cluster.tracking.latency
            && let Some(row) = cluster.table.row_mut(success.endpoint)
        {
            row.ewma.observe(took, now, decay);
        }
        let settings = &cluster.settings.circuit_breaker;
        let transition = cluster.table.on_success(success.endpoint, success.trial, settings, now);
        if let Some(transition) = transition {
            self.event(success.cluster, success.endpoint, transition);
        }
        if success.trial
            && let Some(stream) = self.ledger.get_mut(success.id).copied()
        {
            self.release(&stream, now.after(PERMIT_LINGERS), environment);
        }
    }
}

fn place(cluster: &Cluster, address: &[u8]) -> Option<u32> {
    cluster.place(core::str::from_utf8(address).ok()?)
}

/// Whether the attempt of `stream` on `endpoint` began while its breaker was open.
fn is_trial(cluster: &Cluster, endpoint: u32, stream: &Stream) -> bool {
    if endpoint == stream.first && stream.generation == cluster.generation {
        return stream.trial;
    }
    cluster.table.row(endpoint).is_some_and(|row| {
        let record = row.breaker.record();
        matches!(record.phase, Phase::Open { .. }) && stream.planned >= record.changed
    })
}

const fn metric(class: Class) -> Id {
    match class {
        Class::ConnectFailure => Id::ConnectFailures,
        Class::Reset => Id::Resets,
        Class::Timeout => Id::Timeouts,
        Class::GatewayError | Class::Success | Class::NotTheEndpoint => Id::GatewayErrors,
    }
}

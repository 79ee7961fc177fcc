//! Weights from the endpoints' own load reports (ORCA), by gRFC A58.
//!
//! An endpoint that reports how busy it is and how much it serves gets the weight
//! `qps / (utilization + eps / qps * penalty)`: what it would serve when fully busy. A weight is
//! used once reports have come for the blackout period, and until none has come for the
//! expiration period; after that the blackout begins again.
//!
//! An endpoint without a weight gets the median of those known. gRFC A58 says the mean, Envoy's
//! `client_side_weighted_round_robin` takes the median, and so does this: one idle endpoint that
//! reports next to no utilization has an enormous weight, and a mean would hand that to everybody
//! who has not reported yet. For the same reason each weight is held to a hundredth and to ten
//! times the mean, as in gRPC's static stride scheduler. With fewer than two known weights there
//! is nothing to compare, and the membership's own weights stand.

mod report;
mod wire;

use crate::config::OrcaWeights;
use crate::time::Instant;
pub use report::{REPORT_BYTES_MAX, Report};

/// Largest weight before scaling, as in Envoy.
const WEIGHT_MAX: f64 = u32::MAX as f64;

/// What the largest weight of a cluster is scaled to, as in gRPC's static stride scheduler.
pub const SCALED_MAX: u32 = 65_535;

/// A weight is at most this many times the mean.
const ABOVE_MEAN_MAX: f64 = 10.0;

/// A weight is at least this part of the mean.
const OF_MEAN_MIN: f64 = 0.01;

/// Fewest known weights that say anything.
const KNOWN_MIN: usize = 2;

/// What one endpoint's reports have said.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct EndpointWeight {
    known: Option<Known>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Known {
    weight: f64,
    non_empty_since: Instant,
    last_updated: Instant,
}

impl EndpointWeight {
    /// Books a report that came at `now`. One without utilization or without requests says
    /// nothing and changes nothing.
    pub fn update(&mut self, report: &Report, settings: &OrcaWeights, now: Instant) {
        let Some(weight) = weight_of(report, settings) else { return };
        let current = self.known.filter(|known| !known.is_expired(settings, now));
        let non_empty_since = current.map_or(now, |known| known.non_empty_since);
        self.known = Some(Known { weight, non_empty_since, last_updated: now });
    }

    /// The endpoint has come back, and what it reported before says nothing any more: the
    /// blackout period begins again with the next report.
    pub const fn restart(&mut self) {
        self.known = None;
    }

    /// The weight at `now`, above 0; `None` before the first report, in the blackout period and
    /// after expiration.
    #[must_use]
    pub fn get(&self, settings: &OrcaWeights, now: Instant) -> Option<f64> {
        let known = self.known.filter(|known| !known.is_expired(settings, now))?;
        let reported_for = now.since(known.non_empty_since);
        (reported_for >= settings.blackout_period).then_some(known.weight)
    }
}

impl Known {
    fn is_expired(&self, settings: &OrcaWeights, now: Instant) -> bool {
        now.since(self.last_updated) >= settings.weight_expiration_period
    }
}

/// The weight that a report amounts to, if any: above 0, at most [`WEIGHT_MAX`].
fn weight_of(report: &Report, settings: &OrcaWeights) -> Option<f64> {
    let (qps, utilization) = (report.rps_fractional, report.utilization());
    if qps <= 0.0 || utilization <= 0.0 {
        return None;
    }
    let penalty = f64::from(settings.error_utilization_penalty_milli) / 1000.0;
    let weight = qps / (utilization + report.eps / qps * penalty);
    (weight > 0.0).then_some(weight.min(WEIGHT_MAX))
}

/// The weights of a cluster's endpoints, worked out once a `weight_update_period`.
#[derive(Clone, Debug, Default)]
pub struct Weights {
    known: Vec<f64>,
    scaled: Vec<u32>,
}

impl Weights {
    /// Works them out again at `now` from all `endpoints`, in their order; `None` when fewer than
    /// two of them have a weight. They are relative: the largest is [`SCALED_MAX`], none is 0.
    /// Reuses its memory.
    pub fn refresh<'a>(
        &mut self,
        endpoints: impl Iterator<Item = &'a EndpointWeight> + Clone,
        settings: &OrcaWeights,
        now: Instant,
    ) -> Option<&[u32]> {
        let weights = endpoints.map(|endpoint| endpoint.get(settings, now));
        self.known.clear();
        self.known.extend(weights.clone().flatten());
        if self.known.len() < KNOWN_MIN {
            return None;
        }
        let median = median(&mut self.known);
        let filled = weights.map(|weight| weight.unwrap_or(median));
        let (count, sum) = filled.clone().fold((0.0, 0.0), |(n, sum), w| (n + 1.0, sum + w));
        let mean = sum / count;
        let held = filled.map(|w| w.clamp(mean * OF_MEAN_MIN, mean * ABOVE_MEAN_MAX));
        let largest = held.clone().fold(f64::MIN_POSITIVE, f64::max);
        self.scaled.clear();
        // A float becomes an integer by saturating, so no weight can be out of range.
        let scale = |w: f64| ((w / largest * f64::from(SCALED_MAX)).round() as u32).max(1);
        self.scaled.extend(held.map(scale));
        Some(&self.scaled)
    }
}

/// The middle of `values`, or the mean of the middle two; sorts them. 0 when there are none.
fn median(values: &mut [f64]) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    let upper = values.len() / 2;
    let lower = values.len().saturating_sub(1) / 2;
    let at = |index: usize| values.get(index).copied().unwrap_or(0.0);
    f64::midpoint(at(lower), at(upper))
}

#[cfg(test)]
#[path = "weight_tests.rs"]
mod tests;

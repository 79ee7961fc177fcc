//! What the scenarios compute from what the clients saw. Pure functions, so that the definitions
//! can be read and tested.
//!
//! Requests are placed in time by when they were *scheduled*, never by when they ended: a slow
//! answer belongs to the moment at which it was asked for.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::Range;
use std::time::Duration;

use crate::load::Record;

/// A request slower than this ran into the per-try time-out of 500 ms.
pub const SLOW: Duration = Duration::from_millis(450);
/// A request slower than this at least ran into the connect time-out of 250 ms.
pub const SLOW_CONNECT: Duration = Duration::from_millis(200);
/// Requests that may be slow in any second after the endpoint is out: half-open probes.
pub const PROBES_PER_SECOND: usize = 2;
/// Time over which a share of the traffic is judged.
pub const SHARE_WINDOW: Duration = Duration::from_millis(500);

/// Records scheduled inside a window of time since the load's origin.
pub fn within(records: &[Record], window: Range<Duration>) -> impl Iterator<Item = &Record> {
    records.iter().filter(move |r| window.contains(&Duration::from_micros(r.scheduled_us)))
}

/// Nearest-rank percentile (the smallest value such that `percent` of all are not larger), in
/// milliseconds. `None` when there are no values.
#[must_use]
pub fn percentile_ms(latencies_us: &mut [u64], percent: f64) -> Option<f64> {
    latencies_us.sort_unstable();
    let rank = (percent / 100.0 * latencies_us.len() as f64).ceil() as usize;
    let value = latencies_us.get(rank.max(1) - 1)?;
    Some(*value as f64 / 1000.0)
}

/// Percentile of the latencies of all requests, failed ones too, scheduled in a window.
#[must_use]
pub fn window_percentile_ms(
    records: &[Record],
    window: Range<Duration>,
    percent: f64,
) -> Option<f64> {
    let mut latencies: Vec<u64> = within(records, window).map(|r| r.latency_us).collect();
    percentile_ms(&mut latencies, percent)
}

/// The middle value; of an even number the lower one. `None` sorts last: it means "never".
#[must_use]
pub fn median(mut values: Vec<Option<f64>>) -> Option<f64> {
    values.sort_by(|a, b| a.unwrap_or(f64::INFINITY).total_cmp(&b.unwrap_or(f64::INFINITY)));
    let middle = values.len().checked_sub(1)? / 2;
    values.get(middle).copied().flatten()
}

/// How long after the first time-out the frozen endpoint was out, in milliseconds.
///
/// First time-out: when the first slow answer (more than `limit`) to a request scheduled in `fault`
/// arrived.
/// Out: the moment T from which, until the fault ends, no second holds more than
/// `PROBES_PER_SECOND` slow requests (by scheduled time). Zero when T is before the first time-out
/// or nothing was slow; `None` when there is no such T that leaves one second to judge by.
#[must_use]
pub fn out_after_first_timeout_ms(
    records: &[Record],
    fault: Range<Duration>,
    limit: Duration,
) -> Option<f64> {
    let second = Duration::from_secs(1);
    let slow: Vec<&Record> = within(records, fault.clone())
        .filter(|r| Duration::from_micros(r.latency_us) > limit)
        .collect();
    let Some(first_timeout) =
        slow.iter().map(|r| Duration::from_micros(r.scheduled_us + r.latency_us)).min()
    else {
        return Some(0.0);
    };
    let at = |r: &&Record| Duration::from_micros(r.scheduled_us);
    // The last slow request that starts a second holding too many; everything up to that second's
    // own excess is not out.
    let mut out = Duration::ZERO;
    for (number, first) in slow.iter().enumerate() {
        let crowd = slow.iter().skip(number).take_while(|r| at(r) < at(first) + second).count();
        if crowd > PROBES_PER_SECOND {
            // The probes allowed are the last of the crowd; the one before them was an ordinary
            // request.
            let ordinary = slow.get(number + crowd - 1 - PROBES_PER_SECOND);
            out = out.max(ordinary.map_or(Duration::ZERO, at));
        }
    }
    if out + second > fault.end {
        return None;
    }
    Some(out.saturating_sub(first_timeout).as_secs_f64() * 1000.0)
}

/// When Envoy stopped choosing an endpoint, in milliseconds after `fault.start`: the first moment
/// from which it was chosen less than a twentieth of its fair share for half a second. `samples`
/// are (time, times chosen so far). `None` when that never happened before the fault ended.
#[must_use]
pub fn stopped_choosing_ms(
    samples: &[(Duration, u64)],
    fault: Range<Duration>,
    fair_per_second: f64,
) -> Option<f64> {
    let limit = fair_per_second * SHARE_WINDOW.as_secs_f64() / 20.0;
    let inside: Vec<&(Duration, u64)> =
        samples.iter().filter(|(at, _)| fault.contains(at)).collect();
    for (number, (from, chosen)) in inside.iter().enumerate() {
        let later = inside.iter().skip(number).find(|(at, _)| *at >= *from + SHARE_WINDOW);
        let (_, then) = later?;
        if then.saturating_sub(*chosen) as f64 <= limit {
            return Some((*from - fault.start).as_secs_f64() * 1000.0);
        }
    }
    None
}

/// When an upstream served at least half of its fair share again, in milliseconds after `lifted`:
/// the first half second (in steps of 100 ms) in which it did. `None` when not before `end`.
#[must_use]
pub fn serving_again_ms(
    records: &[Record],
    upstream: u16,
    lifted: Duration,
    end: Duration,
    fair_per_second: f64,
) -> Option<f64> {
    let step = Duration::from_millis(100);
    let wanted = fair_per_second * SHARE_WINDOW.as_secs_f64() / 2.0;
    let mut from = lifted;
    while from + SHARE_WINDOW <= end {
        let served = within(records, from..from + SHARE_WINDOW)
            .filter(|r| r.ok() && r.upstream == upstream)
            .count();
        if served as f64 >= wanted {
            return Some((from - lifted).as_secs_f64() * 1000.0);
        }
        from += step;
    }
    None
}

/// When the last failure after `lifted` was scheduled, in milliseconds after it; 0 when none
/// failed. `None` when requests still failed in the last half second.
#[must_use]
pub fn all_served_ms(records: &[Record], lifted: Duration, end: Duration) -> Option<f64> {
    let failures = within(records, lifted..end).filter(|r| !r.ok());
    let Some(last) = failures.map(|r| Duration::from_micros(r.scheduled_us)).max() else {
        return Some(0.0);
    };
    (last + SHARE_WINDOW < end).then(|| (last - lifted).as_secs_f64() * 1000.0)
}

/// Where every key was served.
pub type Placement = BTreeMap<u32, SocketAddr>;

/// Keys that a membership change moved although nothing made it necessary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Moved {
    /// Keys placed both before and after.
    pub keys: usize,
    /// Moved although their endpoint stayed and they did not go to the new one.
    pub without_need: usize,
    /// Moved because their endpoint left, or because a new one took them.
    pub needed: usize,
}

/// Compares two placements around a change; `changed` is the endpoint that left or joined.
#[must_use]
pub fn moved(before: &Placement, after: &Placement, changed: SocketAddr) -> Moved {
    let mut result = Moved::default();
    for (key, was) in before {
        let Some(is) = after.get(key) else { continue };
        result.keys += 1;
        if is != was {
            let needed = *was == changed || *is == changed;
            *if needed { &mut result.needed } else { &mut result.without_need } += 1;
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(value: u64) -> Duration {
        Duration::from_millis(value)
    }

    fn record(scheduled_ms: u64, latency_ms: u64, status: u16, upstream: u16) -> Record {
        Record {
            scheduled_us: scheduled_ms * 1000,
            latency_us: latency_ms * 1000,
            status,
            upstream,
            address: None,
            key: 0,
        }
    }

    #[test]
    fn percentiles_are_nearest_rank() {
        let mut values: Vec<u64> = (1..=100).map(|v| v * 1000).collect();
        assert_eq!(percentile_ms(&mut values, 99.0), Some(99.0));
        assert_eq!(percentile_ms(&mut values, 50.0), Some(50.0));
        assert_eq!(percentile_ms(&mut values, 100.0), Some(100.0));
        assert_eq!(percentile_ms(&mut [7000], 1.0), Some(7.0));
        assert_eq!(percentile_ms(&mut [], 50.0), None);
    }

    #[test]
    fn the_median_counts_never_as_worst() {
        assert_eq!(median(vec![Some(3.0), None, Some(1.0)]), Some(3.0));
        assert_eq!(median(vec![None, None, Some(1.0)]), None);
        assert_eq!(median(vec![Some(2.0)]), Some(2.0));
        assert_eq!(median(vec![]), None);
    }

    #[test]
    fn an_endpoint_is_out_when_only_probes_are_slow() {
        // Frozen at 1000; slow ones start until 1600; the first time-out is at 1500; one probe a
        // second afterwards.
        let mut records: Vec<Record> =
            (0..=60).map(|i| record(1000 + i * 10, 500, 200, 1)).collect();
        records.extend([2700, 3800, 5100].map(|at| record(at, 505, 200, 1)));
        records.extend((0..8000).map(|at| record(at, 1, 200, 2)));
        records.sort_by_key(|r| r.scheduled_us);
        // The last two of the crowd may be probes, so 1580 is the last that certainly is not.
        assert_eq!(out_after_first_timeout_ms(&records, ms(1000)..ms(9000), SLOW), Some(80.0));
    }

    #[test]
    fn an_endpoint_that_keeps_being_tried_is_never_out() {
        let records: Vec<Record> = (0..400).map(|i| record(1000 + i * 20, 500, 200, 1)).collect();
        assert_eq!(out_after_first_timeout_ms(&records, ms(1000)..ms(9000), SLOW), None);
    }

    #[test]
    fn nothing_slow_means_out_at_once() {
        let records = [record(1500, 3, 200, 1)];
        assert_eq!(out_after_first_timeout_ms(&records, ms(1000)..ms(9000), SLOW), Some(0.0));
    }

    #[test]
    fn choosing_stops_where_the_counter_stops() {
        // 60 a second, that is 6 each 100 ms, until 2300.
        let samples: Vec<(Duration, u64)> =
            (0..60).map(|i| (ms(1000 + i * 100), (i * 6).min(13 * 6))).collect();
        assert_eq!(stopped_choosing_ms(&samples, ms(2000)..ms(6000), 60.0), Some(300.0));
        let always: Vec<(Duration, u64)> = (0..60).map(|i| (ms(1000 + i * 100), i * 6)).collect();
        assert_eq!(stopped_choosing_ms(&always, ms(2000)..ms(6000), 60.0), None);
    }

    #[test]
    fn serving_again_needs_half_of_the_fair_share() {
        let records: Vec<Record> = (0..200).map(|i| record(3000 + i * 20, 1, 200, 3)).collect();
        let again = |upstream| serving_again_ms(&records, upstream, ms(2000), ms(6000), 60.0);
        assert_eq!(again(3), Some(800.0));
        assert_eq!(again(2), None);
    }

    #[test]
    fn recovery_is_the_last_failure() {
        let records = [record(2100, 1, 503, 0), record(2400, 1, 0, 0), record(5900, 1, 200, 1)];
        assert_eq!(all_served_ms(&records, ms(2000), ms(6000)), Some(400.0));
        assert_eq!(all_served_ms(&records, ms(2500), ms(6000)), Some(0.0));
        assert_eq!(all_served_ms(&records, ms(2000), ms(2500)), None);
    }

    #[test]
    fn only_keys_of_the_changed_endpoint_may_move() {
        let at = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
        let before = Placement::from([(1, at(1)), (2, at(2)), (3, at(3)), (4, at(1))]);
        let after = Placement::from([(1, at(1)), (2, at(3)), (3, at(1))]);
        let left = moved(&before, &after, at(2));
        assert_eq!(left, Moved { keys: 3, without_need: 1, needed: 1 });
        let joined = moved(&after, &before, at(2));
        assert_eq!(joined, Moved { keys: 3, without_need: 1, needed: 1 });
    }
}

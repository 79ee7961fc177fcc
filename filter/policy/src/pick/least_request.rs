//! `least_request`: the fewest requests in flight.
//!
//! Equal weights: the best of a few drawn at random, or of all with a full scan, where members
//! with equally few are equally likely. Different weights: a schedule by deadlines in which a
//! weight is worth `weight / (active + 1)^bias` at each turn, whatever was said about choices
//! and scans. All of it as in Envoy's `least_request_lb.cc`, except that a new schedule, and a
//! member that comes back to it, is queued as if nothing were in flight: to ask for the load of
//! every member at once would stall the worker for its first request.

use core::cmp::Reverse;
use core::mem;
use core::ops::ControlFlow;
use std::collections::BinaryHeap;

use super::choices::{Choices, FirstDraws};
use super::schedule::Schedule;
use super::seen::Seen;
use super::weights::are_equal;
use super::{Loads, Member, Step, count, draw};
use crate::rng::Rng;

/// A bias of one, in thousandths.
const BIAS_ONE_MILLI: u32 = 1000;

/// How the least loaded is found, and the room to walk.
#[derive(Debug)]
pub struct LeastRequest(Method);

#[derive(Debug)]
enum Method {
    Choices(Choices),
    Scan(Scan),
    Schedule { schedule: Schedule, seen: Seen, bias_milli: u32 },
}

impl LeastRequest {
    /// The policy for `members`; `choice_count` and `full_scan` count where weights are equal,
    /// `bias_milli` (in thousandths) and `seed` where they are not.
    pub(super) fn build(
        choice_count: u32,
        bias_milli: u32,
        full_scan: bool,
        members: &[Member<'_>],
        seed: u64,
    ) -> Self {
        Self(if !are_equal(members) {
            let schedule = Schedule::build(members, seed);
            Method::Schedule { schedule, seen: Seen::new(count(members)), bias_milli }
        } else if full_scan {
            Method::Scan(Scan::new(count(members)))
        } else {
            Method::Choices(Choices::build(choice_count, FirstDraws::Repeat, members))
        })
    }

    pub(super) fn len(&self) -> u32 {
        match &self.0 {
            Method::Choices(choices) => choices.len(),
            Method::Scan(scan) => scan.members,
            Method::Schedule { seen, .. } => seen.members(),
        }
    }

    pub(super) fn walk(
        &mut self,
        rng: &mut impl Rng,
        loads: &mut impl Loads,
        visit: &mut impl FnMut(u32) -> Step,
    ) {
        match &mut self.0 {
            Method::Choices(choices) => {
                choices.walk(rng, |member| f64::from(loads.active(member)), visit);
            }
            Method::Scan(scan) => scan.walk(rng, loads, visit),
            Method::Schedule { schedule, seen, bias_milli } => {
                seen.begin();
                let worth = |member, weight| worth(weight, *bias_milli, || loads.active(member));
                if let ControlFlow::Continue(()) = schedule.walk(seen, worth, visit) {
                    let _ = draw::offer_evenly(seen, rng, visit);
                }
            }
        }
    }
}

/// What `weight` is worth under load, which is asked for only if it matters.
fn worth(weight: u32, bias_milli: u32, active: impl FnOnce() -> u32) -> f64 {
    let weight = f64::from(weight);
    match bias_milli {
        0 => weight,
        BIAS_ONE_MILLI => weight / (f64::from(active()) + 1.0),
        _ => {
            let bias = f64::from(bias_milli) / f64::from(BIAS_ONE_MILLI);
            weight / (f64::from(active()) + 1.0).powf(bias)
        }
    }
}

/// All members by their load.
#[derive(Debug)]
struct Scan {
    /// Requests in flight, a random number that decides ties, and the member.
    loads: Vec<Reverse<(u32, u32, u32)>>,
    members: u32,
}

impl Scan {
    fn new(members: u32) -> Self {
        Self { loads: Vec::with_capacity(members as usize), members }
    }

    /// Asks for the load of every member, then offers the least loaded first.
    fn walk(
        &mut self,
        rng: &mut impl Rng,
        loads: &mut impl Loads,
        visit: &mut impl FnMut(u32) -> Step,
    ) {
        self.loads.clear();
        for member in 0..self.members {
            let tie = u32::try_from(rng.next_u64() >> 32).unwrap_or(0);
            self.loads.push(Reverse((loads.active(member), tie, member)));
        }
        let mut heap = BinaryHeap::from(mem::take(&mut self.loads));
        while let Some(Reverse((_, _, member))) = heap.pop() {
            if visit(member) == Step::Stop {
                break;
            }
        }
        self.loads = heap.into_vec();
    }
}

//! Stage 5: which endpoints a request may try, and whether it may try again.
//!
//! A plan is an ordered list of distinct endpoints, one for each attempt, and a word on retries.
//! What never reached an endpoint may always be sent again; the plan *widens* that to resets,
//! time-outs and gateway errors for idempotent requests, and *denies* all retries when the budget
//! is gone or when nothing that is listed has answered well since it failed.

pub mod budget;

use crate::pick::{Loads, Picker, Step};
use crate::rng::Rng;
use crate::state::{Row, Table};
use crate::time::Instant;

/// Attempts that a plan lists when the retry policy does not say: the first and two more.
pub const LISTED_DEFAULT: u32 = 3;

/// Attempts that a plan lists at most; the list travels in a header.
pub const LISTED_MAX: u32 = 8;

/// What the request may do beyond its first attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// Only after failures before anything was sent.
    NothingSent,
    /// The request is idempotent: after resets, time-outs and gateway errors as well.
    Widen,
    /// No retry at all.
    Deny,
}

/// The order of endpoints for one request, as places in the cluster's membership.
#[derive(Clone, Debug, Default)]
pub struct Candidates {
    /// Admitted endpoints, distinct, in order of preference.
    pub listed: Vec<u32>,
    /// An open endpoint that came before the first of `listed`, and since when its trial is due.
    pub due: Option<(u32, Instant)>,
    /// Admitted endpoints that were not accepted as a first choice.
    passed: Vec<u32>,
}

/// What is wanted of an order.
#[derive(Clone, Copy, Debug)]
pub struct Wish {
    /// The request's hash.
    pub key: Option<u64>,
    /// How many endpoints.
    pub want: usize,
    /// The time.
    pub now: Instant,
}

impl Candidates {
    /// Empties all, keeping the memory.
    pub fn clear(&mut self) {
        self.listed.clear();
        self.passed.clear();
        self.due = None;
    }

    /// Walks `picker`'s order for the key and adds admitted endpoints until enough are listed.
    /// `members` translates the picker's places into the table's. `accepts` is asked about a first
    /// choice; one that is not accepted may still be a later one.
    pub fn collect(
        &mut self,
        (picker, members): (&mut Picker, &[u32]),
        table: &Table,
        wish: &Wish,
        loads: &mut impl Loads,
        rng: &mut impl Rng,
        accepts: impl Fn(u32, &Row) -> bool,
    ) {
        let want = wish.want;
        let mut closed = self.has_healthy(table);
        let mut spare = None;
        picker.walk(wish.key, rng, loads, |place| {
            let Some(&index) = members.get(place as usize) else { return Step::Skip };
            let Some(row) = table.row(index) else { return Step::Skip };
            if !row.is_admitted() {
                if self.due.is_none() && self.listed.is_empty() {
                    self.due = row.breaker.due_since(wish.now).map(|since| (index, since));
                }
                return Step::Skip;
            }
            if self.listed.contains(&index) {
                return Step::Pass;
            }
            if self.listed.is_empty() && !accepts(index, row) {
                if self.passed.len() < want {
                    self.passed.push(index);
                }
                return Step::Pass;
            }
            closed |= row.breaker.is_closed();
            if !closed && self.listed.len() + 1 >= want {
                // the last place is for somebody who is well, as long as anybody is
                spare = spare.or(Some(index));
                return Step::Skip;
            }
            self.listed.push(index);
            if self.listed.len() < want { Step::Take } else { Step::Stop }
        });
        if self.listed.len() < want {
            self.listed.extend(spare);
        }
    }

    /// Adds those that were not accepted as a first choice where places are left.
    pub fn fill(&mut self, want: usize) {
        let left = want.saturating_sub(self.listed.len());
        let passed = core::mem::take(&mut self.passed);
        for index in passed.iter().take(left) {
            if !self.listed.contains(index) {
                self.listed.push(*index);
            }
        }
        self.passed = passed;
    }

    /// Whether a retry could go anywhere that is not known to be dead.
    #[must_use]
    pub fn has_hope(&self, table: &Table) -> bool {
        let alive = |index: &u32| table.row(*index).is_some_and(|row| !row.breaker.is_dead());
        self.listed.iter().any(alive)
    }

    /// Whether a listed endpoint's breaker is closed: the second choice that a trial needs.
    #[must_use]
    pub fn has_healthy(&self, table: &Table) -> bool {
        let closed = |index: &u32| table.row(*index).is_some_and(|row| row.breaker.is_closed());
        self.listed.iter().any(closed)
    }
}

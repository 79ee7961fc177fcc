//! Stage 3: what is known of each endpoint.
//!
//! A [`Table`] has one row an endpoint of a cluster: its breaker and whether it is *held out*.
//! Open and held out are not the same: `max_ejection_percent` limits how many open endpoints are
//! held out (who opened first goes first), and below `healthy_panic_threshold` nobody is. An open
//! endpoint that is not held out gets ordinary traffic, and every such attempt is a trial. The
//! admission of every row is worked out when something changes, so that a pick only reads it.

pub mod breaker;
pub mod drift;
pub mod ewma;
pub mod orca;
pub mod share;
pub mod silence;
pub mod slots;
pub mod slow_start;
pub mod window;

use crate::config::CircuitBreaker;
use crate::rng::Rng;
use crate::time::Instant;
use breaker::{Breaker, Transition};
use ewma::Ewma;
use orca::EndpointWeight;
use silence::Silence;

/// Halvings of an endpoint's share for failures in a row.
const DOUBTS_MAX: u32 = 5;

/// What is known of one endpoint.
#[derive(Clone, Debug)]
pub struct Row {
    /// Its circuit breaker.
    pub breaker: Breaker,
    /// Its latency.
    pub ewma: Ewma,
    /// For how long it has owed answers.
    pub silence: Silence,
    /// The weight that it reports by its own load.
    pub orca: EndpointWeight,
    /// When it came or came back, while anybody remembers.
    rising_since: Option<Instant>,
    held_out: bool,
}

impl Default for Row {
    fn default() -> Self {
        Self::new(Instant::ZERO, false)
    }
}

impl Row {
    /// An endpoint that is first heard of at `now`; `rising`: it came while others were there.
    #[must_use]
    pub fn new(now: Instant, rising: bool) -> Self {
        let rising_since = rising.then_some(now);
        // an old one without history: its first request goes there soon, and alone
        let ewma = Ewma::new(Instant::ZERO);
        let (breaker, orca) = (Breaker::default(), EndpointWeight::default());
        let silence = Silence::default();
        Self { breaker, ewma, silence, orca, rising_since, held_out: false }
    }

    /// When it came or came back; nothing when it was always there.
    #[must_use]
    pub const fn rising_since(&self) -> Option<Instant> {
        self.rising_since
    }

    const fn is_doubted(&self) -> bool {
        self.breaker.is_closed() && self.breaker.consecutive() > 1
    }

    /// How likely it should be a first choice for its latest failures: 1 up to one in a row, half
    /// with every further one, 1/32 at the least. An endpoint that fails loses its share before
    /// it is judged, and still gets the attempts that judge it.
    #[must_use]
    pub fn trust(&self) -> f64 {
        if !self.is_doubted() {
            return 1.0;
        }
        let doubts = self.breaker.consecutive().saturating_sub(1).min(DOUBTS_MAX);
        1.0 / f64::from(1_u32 << doubts)
    }

    /// Whether ordinary attempts may go there.
    #[must_use]
    pub const fn is_admitted(&self) -> bool {
        !self.held_out
    }
}

/// All endpoints of one cluster, by their place in the membership.
#[derive(Clone, Debug, Default)]
pub struct Table {
    rows: Vec<Row>,
    held_out: u32,
    /// Endpoints with more than one failure in a row.
    doubted: u32,
    panic: bool,
}

impl Table {
    /// A table of `rows`; their admission still has to be worked out by [`Table::readmit`].
    #[must_use]
    pub fn new(rows: Vec<Row>) -> Self {
        let doubted = rows.iter().filter(|row| row.is_doubted()).count();
        let doubted = u32::try_from(doubted).unwrap_or(u32::MAX);
        Self { rows, held_out: 0, doubted, panic: false }
    }

    /// The row at `index`.
    #[must_use]
    pub fn row(&self, index: u32) -> Option<&Row> {
        self.rows.get(index as usize)
    }

    /// The row at `index`, to be changed.
    pub fn row_mut(&mut self, index: u32) -> Option<&mut Row> {
        self.rows.get_mut(index as usize)
    }

    /// Whether some endpoint failed more than once in a row of late.
    #[must_use]
    pub const fn has_doubts(&self) -> bool {
        self.doubted > 0
    }

    /// All rows, in the membership's order.
    #[must_use]
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// The rows themselves, to build another table from.
    #[must_use]
    pub fn into_rows(self) -> Vec<Row> {
        self.rows
    }

    /// How many endpoints are held out.
    #[must_use]
    pub const fn held_out(&self) -> u32 {
        self.held_out
    }

    /// Whether so few endpoints would be left that none is held out.
    #[must_use]
    pub const fn is_panic(&self) -> bool {
        self.panic
    }

    /// Books a success of row `index`; returns the breaker's transition, if any.
    pub fn on_success(
        &mut self,
        index: u32,
        trial: bool,
        settings: &CircuitBreaker,
        now: Instant,
    ) -> Option<Transition> {
        let row = self.rows.get_mut(index as usize)?;
        let doubted = row.is_doubted();
        let transition = row.breaker.on_success(trial, settings, now);
        let doubted = u32::from(doubted).saturating_sub(u32::from(row.is_doubted()));
        self.doubted = self.doubted.saturating_sub(doubted);
        if transition.is_some() {
            row.rising_since = Some(now);
            row.orca.restart();
            self.readmit(settings);
        }
        transition
    }

    /// Books a failure of row `index`; returns the breaker's transition, if any.
    pub fn on_failure(
        &mut self,
        index: u32,
        trial: bool,
        settings: &CircuitBreaker,
        rng: &mut impl Rng,
        now: Instant,
    ) -> Option<Transition> {
        let peers_well = trial && self.rows.iter().any(|row| row.breaker.is_closed());
        let row = self.rows.get_mut(index as usize)?;
        let before = u32::from(row.is_doubted());
        let transition = row.breaker.on_failure((trial, peers_well), settings, rng, now);
        let after = u32::from(row.is_doubted());
        self.doubted = self.doubted.saturating_add(after).saturating_sub(before);
        if transition.is_some() {
            self.readmit(settings);
        }
        transition
    }

    /// Takes over what another worker knows of row `index`. Returns whether the phase changed;
    /// the caller calls [`Table::readmit`] after the last row.
    pub fn adopt(&mut self, index: u32, record: &breaker::Record) -> bool {
        let Some(row) = self.rows.get_mut(index as usize) else { return false };
        let before = u32::from(row.is_doubted());
        let changed = row.breaker.adopt(record);
        let after = u32::from(row.is_doubted());
        self.doubted = self.doubted.saturating_add(after).saturating_sub(before);
        if changed && row.breaker.is_closed() {
            row.rising_since = Some(record.changed);
            row.orca.restart();
        }
        changed
    }

    /// Works out again who is held out: the open ones, first opened first, up to
    /// `max_ejection_percent` of the endpoints (at least one of two or more, as Envoy's
    /// `max_ejection_percent` does; 0 switches it off), and nobody when that would leave fewer than
    /// `healthy_panic_threshold` percent.
    pub fn readmit(&mut self, settings: &CircuitBreaker) {
        let total = u64::try_from(self.rows.len()).unwrap_or(u64::MAX);
        let mut open: Vec<(Instant, usize)> = Vec::new();
        for (index, row) in self.rows.iter_mut().enumerate() {
            row.held_out = false;
            if let Some(since) = row.breaker.open_since() {
                open.push((since, index));
            }
        }
        open.sort_unstable();
        open.truncate(ejections_max(total, settings.max_ejection_percent));
        let left = total.saturating_sub(u64::try_from(open.len()).unwrap_or(u64::MAX));
        self.panic = left.saturating_mul(100)
            < total.saturating_mul(u64::from(settings.healthy_panic_threshold));
        self.held_out = 0;
        if self.panic {
            return;
        }
        for (_, index) in open {
            if let Some(row) = self.rows.get_mut(index) {
                row.held_out = true;
                self.held_out = self.held_out.saturating_add(1);
            }
        }
    }
}

/// How many of `total` endpoints may be held out at once.
fn ejections_max(total: u64, percent: u32) -> usize {
    if total < 2 || percent == 0 {
        return 0;
    }
    let most = total.saturating_mul(u64::from(percent)) / 100;
    usize::try_from(most.clamp(1, total)).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;
    use crate::rng::SplitMix64;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn settings(percent: u32, panic: u32) -> CircuitBreaker {
        let json = format!(
            r#"{{"defaults": {{"circuit_breaker": {{"max_ejection_percent": {percent},
                "healthy_panic_threshold": {panic}, "consecutive_failures": 1}}}}}}"#
        );
        config::parse(json.as_bytes()).unwrap().defaults.circuit_breaker
    }

    fn fail(table: &mut Table, indices: &[u32], settings: &CircuitBreaker) {
        for (i, index) in indices.iter().enumerate() {
            let now = Instant::from_millis(1000 + i as u64);
            table.on_failure(*index, false, settings, &mut SplitMix64::new(1), now);
        }
    }

    fn out(table: &Table) -> Vec<usize> {
        (0..table.rows().len()).filter(|&i| !table.rows()[i].is_admitted()).collect()
    }

    #[test]
    fn the_cap_holds_out_who_opened_first() {
        let s = settings(50, 0);
        let mut table = Table::new(vec![Row::default(); 5]);
        fail(&mut table, &[3, 1, 4, 0], &s);
        assert_eq!(out(&table), [1, 3]);
        assert_eq!(table.held_out(), 2);
        table.on_success(3, true, &s, Instant::from_millis(2000));
        assert_eq!(out(&table), [1, 4], "a place became free for the next");
    }

    #[test]
    fn one_of_a_small_cluster_may_always_go_but_never_the_only_one() {
        let s = settings(10, 0);
        for (total, expected) in [(1, 0), (2, 1), (3, 1), (5, 1), (20, 2)] {
            let mut table = Table::new(vec![Row::default(); total]);
            let all: Vec<u32> = (0..u32::try_from(total).unwrap()).collect();
            fail(&mut table, &all, &s);
            assert_eq!(out(&table).len(), expected, "{total} endpoints");
        }
    }

    #[test]
    fn zero_percent_holds_nobody_out() {
        let s = settings(0, 50);
        let mut table = Table::new(vec![Row::default(); 5]);
        fail(&mut table, &[0, 1], &s);
        assert_eq!(out(&table).len(), 0);
    }

    #[test]
    fn below_the_panic_threshold_everybody_is_admitted() {
        let s = settings(100, 50);
        let mut table = Table::new(vec![Row::default(); 4]);
        fail(&mut table, &[0, 1], &s);
        assert_eq!((out(&table).len(), table.is_panic()), (2, false), "exactly 50 % are left");
        fail(&mut table, &[2], &s);
        assert_eq!((out(&table).len(), table.is_panic()), (0, true));
    }
}

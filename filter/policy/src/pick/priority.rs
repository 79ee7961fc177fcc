//! Which priority serves a request, and whether by its healthy or its degraded endpoints.
//!
//! The rules and their integer arithmetic are those of Envoy's `load_balancer_impl.cc`
//! (`recalculatePerPriorityState`, `recalculatePerPriorityPanic`, `recalculateLoadInTotalPanic`,
//! `choosePriority`), so that traffic spills over just as it would without Outrigger:
//!
//! - A priority's availability is the share of its endpoints that are healthy, and likewise
//!   degraded, times the overprovisioning factor, at most 100.
//! - Healthy endpoints are loaded first, in order of priority, then degraded ones, each with its
//!   availability relative to the sum of all (at most 100).
//! - What integer division leaves over goes to the first priority with healthy endpoints, or else
//!   with degraded ones.
//! - When the availabilities do not add up to 100, a priority with fewer available endpoints than
//!   the panic threshold is in panic: all of its endpoints are used. When every priority is, the
//!   load is shared by numbers of endpoints, whatever their health.
//!
//! Four rows of Envoy's documentation do not follow these rules; the code does (see the README of
//! the test vectors). Panic compares integers where Envoy compares sums of `f64` percentages.

/// Most priorities, as in Envoy (0 to 128); those after it get nothing.
pub const PRIORITIES_MAX: usize = 129;

/// Endpoints of one priority, counted or weighed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// All of them.
    pub total: u64,
    /// Those that are well; not in `degraded`.
    pub healthy: u64,
    /// Those that serve when the healthy ones do not suffice.
    pub degraded: u64,
    /// Those that do not count as existing, such as endpoints still being warmed.
    pub excluded: u64,
}

impl Tally {
    const fn counted(&self) -> u64 {
        self.total.saturating_sub(self.excluded)
    }

    /// `part` of those that count times `percent`, rounded down, at most 100; 0 of nothing.
    fn availability(&self, part: u64, percent: u32) -> u64 {
        let scaled = part.saturating_mul(u64::from(percent));
        scaled.checked_div(self.counted()).unwrap_or(0).min(100)
    }
}

/// What is known of one priority.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Priority {
    /// How many endpoints: what panic is judged by.
    pub endpoints: Tally,
    /// What load is shared by: the same, or weights (Envoy's `weighted_priority_health`).
    pub capacity: Tally,
}

impl Priority {
    /// A priority in which every endpoint counts the same.
    #[must_use]
    pub const fn of_endpoints(endpoints: Tally) -> Self {
        Self { endpoints, capacity: endpoints }
    }
}

/// What one priority gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Share of all requests that its healthy endpoints serve, in percent.
    pub healthy: u32,
    /// Share of all requests that its degraded endpoints serve, in percent.
    pub degraded: u32,
    /// Whether all of its endpoints are used, whatever their health.
    pub panic: bool,
}

/// Which endpoints of a priority serve a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Availability {
    /// The healthy ones.
    Healthy,
    /// The degraded ones.
    Degraded,
}

/// The loads of a cluster's priorities; they add up to 100.
#[derive(Clone, Debug, Default)]
pub struct PriorityLoads {
    loads: Vec<Load>,
}

impl PriorityLoads {
    /// Works the loads out again for `priorities` (the first [`PRIORITIES_MAX`] count). Both
    /// numbers are percentages, Envoy's `overprovisioning_factor` (140) and
    /// `healthy_panic_threshold` (50; 0 switches panic off). Reuses its memory.
    pub fn refresh(
        &mut self,
        priorities: &[Priority],
        overprovisioning_factor: u32,
        healthy_panic_threshold: u32,
    ) {
        let priorities = priorities.get(..PRIORITIES_MAX).unwrap_or(priorities);
        self.loads.clear();
        self.loads.resize(priorities.len(), Load::default());
        let healthy =
            |p: &Priority| p.capacity.availability(p.capacity.healthy, overprovisioning_factor);
        let degraded =
            |p: &Priority| p.capacity.availability(p.capacity.degraded, overprovisioning_factor);
        let sum: u64 = priorities.iter().map(|p| healthy(p) + degraded(p)).sum();
        let available = sum.min(100);
        if available > 0 {
            self.share(priorities, available, (healthy, degraded));
        } else if let Some(first) = self.loads.first_mut() {
            // Nobody is there to serve it, but the shares have to add up.
            first.healthy = 100;
        }
        if available < 100 {
            self.panic(priorities, healthy_panic_threshold);
        }
    }

    /// Shares 100 percent out by availability: healthy first, then degraded.
    fn share(
        &mut self,
        priorities: &[Priority],
        available: u64,
        (healthy, degraded): (impl Fn(&Priority) -> u64, impl Fn(&Priority) -> u64),
    ) {
        let mut left = 100;
        for (load, priority) in self.loads.iter_mut().zip(priorities) {
            load.healthy = take(&mut left, part_of(healthy(priority), available));
        }
        for (load, priority) in self.loads.iter_mut().zip(priorities) {
            load.degraded = take(&mut left, part_of(degraded(priority), available));
        }
        let mut loads = self.loads.iter_mut().zip(priorities);
        if let Some((load, _)) = loads.find(|(_, priority)| healthy(priority) > 0) {
            load.healthy += left;
            return;
        }
        let mut loads = self.loads.iter_mut().zip(priorities);
        if let Some((load, _)) = loads.find(|(_, priority)| degraded(priority) > 0) {
            load.degraded += left;
        }
    }

    /// Judges which priorities are in panic, and shares by numbers if all are.
    fn panic(&mut self, priorities: &[Priority], threshold: u32) {
        let mut all = threshold > 0;
        for (load, priority) in self.loads.iter_mut().zip(priorities) {
            let tally = &priority.endpoints;
            let available = tally.healthy.saturating_add(tally.degraded);
            let needed = tally.counted().saturating_mul(u64::from(threshold.min(100)));
            load.panic =
                threshold > 0 && (tally.counted() == 0 || available.saturating_mul(100) < needed);
            all &= load.panic;
        }
        let endpoints = |priority: &Priority| priority.endpoints.total;
        let total = priorities.iter().map(endpoints).fold(0, u64::saturating_add);
        if !all || total == 0 {
            return;
        }
        let mut left = 100;
        for (load, priority) in self.loads.iter_mut().zip(priorities) {
            let healthy = take(&mut left, part_of(endpoints(priority), total));
            *load = Load { healthy, degraded: 0, panic: true };
        }
        let mut loads = self.loads.iter_mut().zip(priorities);
        if let Some((load, _)) = loads.find(|(_, priority)| endpoints(priority) > 0) {
            load.healthy += left;
        }
    }

    /// What each priority gets, in order.
    #[must_use]
    pub fn loads(&self) -> &[Load] {
        &self.loads
    }

    /// The priority that serves the request with `hash` (or, without one, a random number), by
    /// Envoy's rule: `hash % 100 + 1` among the loads summed up, the healthy ones first.
    #[must_use]
    pub fn choose(&self, hash: u64) -> (u32, Availability) {
        let place = u32::try_from(hash % 100).unwrap_or(0) + 1;
        let mut sum = 0;
        for (index, load) in (0..).zip(&self.loads) {
            sum += load.healthy;
            if place <= sum {
                return (index, Availability::Healthy);
            }
        }
        for (index, load) in (0..).zip(&self.loads) {
            sum += load.degraded;
            if place <= sum {
                return (index, Availability::Degraded);
            }
        }
        (0, Availability::Healthy)
    }
}

/// `part` of `whole` in percent, rounded down.
fn part_of(part: u64, whole: u64) -> u32 {
    let percent = part.saturating_mul(100).checked_div(whole).unwrap_or(0);
    u32::try_from(percent).unwrap_or(u32::MAX)
}

/// Takes up to `wanted` from what is `left`.
fn take(left: &mut u32, wanted: u32) -> u32 {
    let taken = wanted.min(*left);
    *left -= taken;
    taken
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    fn loads(tallies: &[[u64; 4]], threshold: u32) -> PriorityLoads {
        let priority = |[total, healthy, degraded, excluded]: &[u64; 4]| {
            let tally = Tally {
                total: *total,
                healthy: *healthy,
                degraded: *degraded,
                excluded: *excluded,
            };
            Priority::of_endpoints(tally)
        };
        let priorities: Vec<Priority> = tallies.iter().map(priority).collect();
        let mut loads = PriorityLoads::default();
        loads.refresh(&priorities, 140, threshold);
        loads
    }

    #[test]
    fn a_hundred_hashes_fall_on_the_priorities_as_their_loads_say_healthy_ones_first() {
        let loads = loads(&[[5, 0, 1, 0], [5, 0, 5, 0], [5, 1, 0, 0]], 50);
        let choices: Vec<_> = (700..800).map(|hash| loads.choose(hash)).collect();
        let runs: Vec<_> = choices.chunk_by(|a, b| a == b).map(|run| (run[0], run.len())).collect();
        let healthy = ((2, Availability::Healthy), 28);
        let degraded = [((0, Availability::Degraded), 28), ((1, Availability::Degraded), 44)];
        assert_eq!(runs, [healthy, degraded[0], degraded[1]]);
    }

    #[test]
    fn with_nobody_there_and_no_panic_the_first_priority_has_it_all() {
        for (tallies, threshold) in
            [(vec![[3, 0, 0, 0], [3, 0, 0, 0]], 0), (vec![[0, 0, 0, 0], [0, 0, 0, 0]], 50)]
        {
            let loads = loads(&tallies, threshold);
            assert_eq!(loads.loads().iter().map(|l| l.healthy).collect::<Vec<_>>(), [100, 0]);
            assert_eq!(loads.choose(99), (0, Availability::Healthy));
        }
        assert_eq!(loads(&[], 50).choose(99), (0, Availability::Healthy));
    }

    #[test]
    fn priorities_after_the_last_that_envoy_knows_get_nothing() {
        let loads = loads(&[[1, 1, 0, 0]; PRIORITIES_MAX + 5], 50);
        assert_eq!(loads.loads().len(), PRIORITIES_MAX);
    }

    #[test]
    fn exactly_the_threshold_is_no_panic() {
        let of = |healthy| loads(&[[10, healthy, 0, 0]], 50).loads()[0];
        assert!(!of(5).panic);
        assert!(of(4).panic);
    }
}

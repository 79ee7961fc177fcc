//! How still the machine stood while a scenario ran.
//!
//! A virtual machine that is not run for half a second fails requests and times out healthy
//! upstreams, and no proxy can help it. That is measured beside the run by what no proxy can
//! change: a thread that sleeps 5 ms over and over and notes how much longer it was away, how late
//! the load left, and what plain Envoy's p99 was before anything was broken. A stall is not a
//! verdict: `scenario` decides what follows from one.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// What the watching thread asks for.
const SLEEP: Duration = Duration::from_millis(5);
/// Oversleeping by less is the kernel's ordinary granularity under load.
const STALL_MIN: Duration = Duration::from_millis(10);
/// One stall that is longer disturbs a run.
pub const STALL_MS_MAX: f64 = 100.0;
/// So do stalls that together take a larger share of the run: half of what moves a p99.
pub const STALLED_SHARE_MAX: f64 = 0.005;
/// So does a machine on which plain Envoy's p99 before the fault is more than this: some 15 times
/// what it is where nothing else runs.
pub const NATIVE_P99_MS_MAX: f64 = 20.0;

/// How still the machine stood, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Stalls {
    /// How long it was watched.
    pub watched_ms: f64,
    /// The longest time for which it stood still, or by which the load was late.
    pub longest_ms: f64,
    /// All stalls of more than 10 ms together.
    pub total_ms: f64,
    /// Time of its CPUs that the hypervisor gave to others (`steal` in `/proc/stat`).
    pub stolen_ms: Option<f64>,
    /// Time in which some task waited for a CPU (`/proc/pressure/cpu`), the rig's own included.
    pub cpu_waited_ms: Option<f64>,
    /// 99th percentile of plain Envoy before the fault.
    pub native_p99_ms: Option<f64>,
}

impl Stalls {
    /// Whether times and failures of this run are the machine's rather than the proxy's.
    #[must_use]
    pub fn disturbed(&self) -> bool {
        self.longest_ms > STALL_MS_MAX
            || self.total_ms > STALLED_SHARE_MAX * self.watched_ms
            || self.native_p99_ms.is_some_and(|p99| p99 > NATIVE_P99_MS_MAX)
    }

    /// What disturbed, in a few words.
    #[must_use]
    pub fn reason(&self) -> String {
        match self.native_p99_ms {
            Some(p99) if !(Self { native_p99_ms: None, ..*self }).disturbed() => {
                format!("plain Envoy's p99 was {p99:.0} ms before the fault")
            }
            _ => {
                format!("the machine stood still for {:.0} ms", self.total_ms.max(self.longest_ms))
            }
        }
    }

    /// Two runs together.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        let sum = |a: Option<f64>, b: Option<f64>| a.zip(b).map(|(a, b)| a + b).or(a).or(b);
        let largest = |a: Option<f64>, b: Option<f64>| a.zip(b).map(|(a, b)| a.max(b)).or(a).or(b);
        Self {
            watched_ms: self.watched_ms + other.watched_ms,
            longest_ms: self.longest_ms.max(other.longest_ms),
            total_ms: self.total_ms + other.total_ms,
            stolen_ms: sum(self.stolen_ms, other.stolen_ms),
            cpu_waited_ms: sum(self.cpu_waited_ms, other.cpu_waited_ms),
            native_p99_ms: largest(self.native_p99_ms, other.native_p99_ms),
        }
    }

    fn note(&mut self, overslept: Duration) {
        self.longest_ms = self.longest_ms.max(ms(overslept));
        if overslept > STALL_MIN {
            self.total_ms += ms(overslept);
        }
    }
}

impl std::fmt::Display for Stalls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let seconds = self.watched_ms / 1000.0;
        write!(
            f,
            "the machine stood still for {:.0} ms of {seconds:.0} s, {:.0} ms at once",
            self.total_ms, self.longest_ms
        )?;
        if let Some(p99) = self.native_p99_ms {
            write!(f, ", plain Envoy's p99 was {p99:.1} ms before the fault")?;
        }
        match self.stolen_ms {
            Some(stolen) if stolen > 0.0 => write!(f, ", {stolen:.0} ms of CPU stolen"),
            _ => Ok(()),
        }
    }
}

/// A thread that watches the machine.
#[derive(Debug)]
pub struct Watch {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Stalls>,
}

impl Watch {
    /// Starts watching.
    #[must_use]
    pub fn start() -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        Self { stop, thread: std::thread::spawn(move || watch(&stopped)) }
    }

    /// What was seen; `late` is the most by which the load left late.
    #[must_use]
    pub fn finish(self, late: Duration) -> Stalls {
        self.stop.store(true, Ordering::Relaxed);
        let mut stalls = self.thread.join().unwrap_or_default();
        stalls.longest_ms = stalls.longest_ms.max(ms(late));
        stalls
    }
}

fn watch(stop: &AtomicBool) -> Stalls {
    let (begin, stolen, waited) = (Instant::now(), stolen_ms(), cpu_waited_ms());
    let mut stalls = Stalls::default();
    while !stop.load(Ordering::Relaxed) {
        let before = Instant::now();
        std::thread::sleep(SLEEP);
        stalls.note(before.elapsed().saturating_sub(SLEEP));
    }
    let since = |now: Option<f64>, then: Option<f64>| now.zip(then).map(|(a, b)| a - b);
    stalls.watched_ms = ms(begin.elapsed());
    stalls.stolen_ms = since(stolen_ms(), stolen);
    stalls.cpu_waited_ms = since(cpu_waited_ms(), waited);
    stalls
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

fn stolen_ms() -> Option<f64> {
    stolen(&std::fs::read_to_string("/proc/stat").ok()?)
}

fn cpu_waited_ms() -> Option<f64> {
    waited(&std::fs::read_to_string("/proc/pressure/cpu").ok()?)
}

/// The eighth number of the line `cpu`, in ticks of 10 ms.
fn stolen(stat: &str) -> Option<f64> {
    let ticks: f64 = stat.strip_prefix("cpu ")?.split_whitespace().nth(7)?.parse().ok()?;
    Some(ticks * 10.0)
}

/// `total` of the line `some`, in microseconds.
fn waited(pressure: &str) -> Option<f64> {
    let some = pressure.lines().find(|line| line.starts_with("some "))?;
    let total: f64 = some.rsplit_once("total=")?.1.parse().ok()?;
    Some(total / 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watched() -> Stalls {
        Stalls { watched_ms: 20_000.0, native_p99_ms: Some(1.5), ..Stalls::default() }
    }

    fn stalled(each_ms: u64, times: usize) -> Stalls {
        let mut stalls = watched();
        (0..times).for_each(|_| stalls.note(Duration::from_millis(each_ms)));
        stalls
    }

    #[test]
    fn a_quiet_machine_does_not_disturb() {
        assert!(!watched().disturbed());
        let granular = stalled(9, 1_000);
        assert!(!granular.disturbed() && granular.total_ms == 0.0, "{granular}");
    }

    #[test]
    fn one_long_stall_or_many_short_ones_disturb() {
        assert!(!stalled(90, 1).disturbed());
        assert!(stalled(101, 1).disturbed());
        assert!(stalled(30, 4).disturbed());
    }

    #[test]
    fn a_slow_plain_envoy_disturbs() {
        let slow = Stalls { native_p99_ms: Some(21.0), ..watched() };
        assert!(slow.disturbed());
        assert_eq!(slow.reason(), "plain Envoy's p99 was 21 ms before the fault");
        assert_eq!(slow.and(stalled(60, 9)).reason(), "the machine stood still for 540 ms");
        assert!(!Stalls { native_p99_ms: None, ..watched() }.disturbed());
    }

    #[test]
    fn runs_add_up_and_the_longest_stall_stays() {
        let both = stalled(60, 1).and(stalled(20, 2));
        assert_eq!((both.watched_ms, both.longest_ms, both.total_ms), (40_000.0, 60.0, 100.0));
        assert_eq!((both.native_p99_ms, both.stolen_ms), (Some(1.5), None));
    }

    #[test]
    fn the_kernels_files_are_read() {
        assert_eq!(stolen("cpu  1 2 3 4 5 6 7 44 0 0\ncpu0 1\n"), Some(440.0));
        assert_eq!(
            waited("some avg10=0.36 total=125756\nfull avg10=0.00 total=0\n"),
            Some(125.756)
        );
    }

    #[test]
    fn a_watch_tells_how_long_it_watched_and_how_late_the_load_was() {
        let watch = Watch::start();
        std::thread::sleep(Duration::from_millis(30));
        let stalls = watch.finish(Duration::from_secs(1));
        assert!(stalls.watched_ms >= 25.0, "{stalls:?}");
        assert!(stalls.longest_ms >= 1_000.0 && stalls.disturbed(), "{stalls:?}");
    }
}

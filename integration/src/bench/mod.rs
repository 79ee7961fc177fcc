//! What the plugin costs: `integration bench`, called by `make bench`.
//!
//! Instructions per request decide, because they repeat to 0.3 % where times on a shared machine
//! swing by a factor of two; times are reported beside them. An arm is compared with plain Envoy
//! of the same policy, routes and number of clusters, and with an empty plugin of the SDK. Only
//! the success path is measured: what failures cost is the rig's question.

mod arm;
mod calls;
mod load;
mod machine;
mod picks;
mod report;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use arm::{Arm, Kind, Lb};
use machine::{Files, Machine, Run};
use report::{Calls, Instructions, Memory, Report, Times};

/// Members of every cluster, except where memory is measured.
const ENDPOINTS: usize = 5;
/// The VM compiles its hot functions again after some hundred calls.
const WARM_UP: u32 = 1500;
const COUNTED: u32 = 1000;
/// Windows that are counted one after the other. Polls of the membership come by the clock, and
/// valgrind stretches the time of a request fifty-fold, so that a window may hold one or none: the
/// least window is what requests cost, and what the clock costs is counted by itself. A window
/// still holds ticks, the more the busier the machine is; how long it took is in the report.
const WINDOWS: u32 = 4;
/// One poll of the plugin, and whole ticks, fall into it.
const IDLE: Duration = Duration::from_secs(5);
const ROUNDS: u32 = 10;
const REQUESTS_PER_ROUND: u32 = 2000;
const MEMORY_ENDPOINTS: [u32; 3] = [10, 1000, 10_000];
/// More workers than one, to see what one more VM adds.
const MEMORY_WORKERS: u32 = 5;

/// What to measure, and where the pieces are.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Only one cluster, and only the arms that the limits compare
    #[arg(long)]
    quick: bool,
    /// Parts to run
    #[arg(long, value_delimiter = ',', default_value = "instructions,calls,times,memory")]
    only: Vec<Part>,
    /// The Envoy binary
    #[arg(long, env = "OUTRIGGER_ENVOY")]
    envoy: PathBuf,
    /// Envoy's version, for the report
    #[arg(long, env = "OUTRIGGER_ENVOY_VERSION", default_value = "unknown")]
    envoy_version: String,
    /// The plugin; its arms are left out where the file is missing
    #[arg(long, env = "OUTRIGGER_WASM", default_value = "dist/outrigger.wasm")]
    wasm: PathBuf,
    /// An empty plugin of the SDK; its arms are left out where the file is missing
    #[arg(long, env = "OUTRIGGER_EMPTY_WASM", default_value = ".cache/bench/empty_sdk.wasm")]
    empty_sdk: PathBuf,
    /// Criterion's results of the picks
    #[arg(long, default_value = "target/criterion")]
    criterion: PathBuf,
    /// Criterion's results of the picks beside other implementations
    #[arg(long, default_value = "target/criterion-peers")]
    criterion_peers: PathBuf,
    /// What was measured of changes of the membership
    #[arg(long, default_value = "target/bench/rebuilds.json")]
    rebuilds: PathBuf,
    /// Where the report goes
    #[arg(long, default_value = "target/bench/report.json")]
    report: PathBuf,
}

/// A part of the bench.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    Instructions,
    Calls,
    Times,
    Memory,
}

/// Runs the bench; whether every limit held.
///
/// # Errors
/// When an Envoy does not start or answers anything but 200, or the report cannot be written.
pub fn run(arguments: &Arguments) -> Result<bool> {
    let bench = Bench::new(arguments)?;
    let mut report = Report { envoy: arguments.envoy_version.clone(), ..Report::default() };
    if arguments.only.contains(&Part::Instructions) {
        report.instructions = bench.instructions()?;
    }
    if arguments.only.contains(&Part::Calls) {
        report.calls = bench.calls()?;
    }
    if arguments.only.contains(&Part::Times) {
        report.times = bench.times()?;
    }
    if arguments.only.contains(&Part::Memory) {
        report.memory = bench.memory()?;
    }
    report.picks = picks::read(&arguments.criterion);
    report.picks.extend(picks::read_peers(&arguments.criterion_peers));
    report.rebuilds = rows(&arguments.rebuilds);
    report.judge();
    report.print();
    report.write(&arguments.report)?;
    println!("\nreport: {}", arguments.report.display());
    Ok(report.passed())
}

/// Rows of a JSON file; none where it is missing.
fn rows(path: &Path) -> Vec<Value> {
    std::fs::read(path).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default()
}

struct Bench {
    files: Files,
    quick: bool,
    upstreams: Vec<SocketAddr>,
}

impl Bench {
    fn new(arguments: &Arguments) -> Result<Self> {
        let absolute =
            |path: &PathBuf| std::path::absolute(path).with_context(|| path.display().to_string());
        let files = Files {
            envoy: absolute(&arguments.envoy)?,
            outrigger: absolute(&arguments.wasm)?,
            empty_sdk: absolute(&arguments.empty_sdk)?,
        };
        for module in [&files.outrigger, &files.empty_sdk].iter().filter(|path| !path.is_file()) {
            eprintln!("bench: no module at {}: its arms are left out", module.display());
        }
        Ok(Self { files, quick: arguments.quick, upstreams: load::upstreams(ENDPOINTS)? })
    }

    /// Every arm of the policies with limits that can run, bases first.
    fn arms(&self, kinds: &[Kind]) -> Vec<Arm> {
        let clusters: &[u32] = if self.quick { &[1] } else { &[1, 20] };
        let limited = [Lb::RoundRobin, Lb::Maglev];
        limited
            .into_iter()
            .flat_map(|lb| clusters.iter().flat_map(move |n| self.arms_of(kinds, lb, *n)))
            .collect()
    }

    fn arms_of(&self, kinds: &[Kind], lb: Lb, clusters: u32) -> Vec<Arm> {
        let has_module = |kind: &Kind| match kind {
            Kind::Outrigger => self.files.outrigger.is_file(),
            Kind::EmptySdk => self.files.empty_sdk.is_file(),
            _ => true,
        };
        let kinds = kinds.iter().copied().filter(has_module);
        kinds.map(|kind| Arm { kind, lb, clusters }).collect()
    }

    fn instructions(&self) -> Result<Vec<Instructions>> {
        for program in ["valgrind", "callgrind_control"] {
            if !answers(program) {
                eprintln!("bench: {program} is missing: instructions are not counted");
                return Ok(Vec::new());
            }
        }
        let steps = [Kind::Plain, Kind::OverrideHost, Kind::EmptySdk, Kind::Outrigger];
        let compared = [Kind::Plain, Kind::EmptySdk, Kind::Outrigger];
        let mut rows = Vec::new();
        let mut arms = self.arms(if self.quick { &compared } else { &steps });
        if !self.quick {
            let others = [Lb::MaglevBounded, Lb::Rendezvous, Lb::LeastRequest, Lb::PeakEwma];
            arms.extend(others.into_iter().flat_map(|lb| self.arms_of(&compared, lb, 1)));
        }
        for arm in arms {
            let row = self.count(&arm)?;
            let (title, per_request) = (arm.title(), row.per_request);
            eprintln!("bench: {title:<40} {per_request:>9} instructions per request");
            rows.push(row);
        }
        Ok(rows)
    }

    fn count(&self, arm: &Arm) -> Result<Instructions> {
        let machine = Machine::start(&self.files, arm, &self.upstreams, 1, Run::Counted)?;
        let work = |requests| load::run(machine.entry, &arm.authority(), requests);
        work(WARM_UP)?;
        let (mut windows, mut took) = (Vec::new(), Vec::new());
        for window in 1..=WINDOWS {
            windows.push(machine.count_instructions(window, || {
                took.push(work(COUNTED)?.elapsed);
                Ok(())
            })?);
        }
        let idle = machine.count_instructions(WINDOWS + 1, || {
            thread::sleep(IDLE);
            Ok(())
        })?;
        machine.expect_healthy_vm()?;
        let least = windows.iter().zip(&took).min().map(|(all, took)| (*all, *took));
        let (least, took) = least.unwrap_or_default();
        let counted = u64::from(COUNTED);
        Ok(Instructions {
            arm: arm.kind.name(),
            lb: arm.lb.name(),
            clusters: arm.clusters,
            per_request: least / counted,
            per_request_mean: windows.iter().sum::<u64>() / (counted * u64::from(WINDOWS)),
            window_s: took.as_secs_f64(),
            idle_per_s: idle / IDLE.as_secs(),
            ratio_to_plain: None,
            ratio_to_empty_sdk: None,
        })
    }

    fn calls(&self) -> Result<Vec<Calls>> {
        let mut rows = Vec::new();
        let arms = self.arms(&[Kind::EmptySdk, Kind::Outrigger]);
        for arm in &arms {
            let machine = Machine::start(&self.files, arm, &self.upstreams, 1, Run::Traced)?;
            let calls = calls::per_request(&machine, &arm.authority())?;
            machine.expect_healthy_vm()?;
            rows.extend(calls.into_iter().map(|(call, per_request)| Calls {
                arm: arm.kind.name(),
                lb: arm.lb.name(),
                clusters: arm.clusters,
                call,
                per_request,
            }));
        }
        Ok(rows)
    }

    /// All arms are up at once and take turns, so that a slow minute of the machine hits all.
    fn times(&self) -> Result<Vec<Times>> {
        let mut arms = self.arms(&[Kind::Plain, Kind::EmptySdk, Kind::Outrigger]);
        arms.retain(|arm| arm.clusters == 1);
        let mut runs = Vec::new();
        for arm in arms {
            let machine = Machine::start(&self.files, &arm, &self.upstreams, 1, Run::Alone)?;
            load::run(machine.entry, &arm.authority(), WARM_UP)?;
            runs.push((arm, machine, Vec::new(), 0.0));
        }
        for _ in 0..ROUNDS {
            for (arm, machine, latencies_ns, elapsed_s) in &mut runs {
                let seen = load::run(machine.entry, &arm.authority(), REQUESTS_PER_ROUND)?;
                latencies_ns.extend(seen.latencies_ns);
                *elapsed_s += seen.elapsed.as_secs_f64();
            }
        }
        Ok(runs.into_iter().map(|(arm, _, seen, elapsed)| times(&arm, seen, elapsed)).collect())
    }

    /// What one more worker adds with the plugin, less what it adds without.
    fn memory(&self) -> Result<Vec<Memory>> {
        if !self.files.outrigger.is_file() {
            return Ok(Vec::new());
        }
        let mut rows = Vec::new();
        for endpoints in MEMORY_ENDPOINTS {
            let members = members(endpoints);
            let grown = |kind| -> Result<f64> {
                let arm = Arm { kind, lb: Lb::RoundRobin, clusters: 1 };
                let resident = |workers| {
                    let started = Machine::start(&self.files, &arm, &members, workers, Run::Alone)?;
                    started.resident_kib()
                };
                let (many, one) = (resident(MEMORY_WORKERS)?, resident(1)?);
                Ok(mib(many) - mib(one))
            };
            let vms = f64::from(MEMORY_WORKERS - 1);
            let vm_mib = (grown(Kind::Outrigger)? - grown(Kind::Plain)?) / vms;
            rows.push(Memory { endpoints, vm_mib });
        }
        Ok(rows)
    }
}

/// Addresses that nobody asks: memory is measured without requests.
fn members(count: u32) -> Vec<SocketAddr> {
    let first = u32::from(std::net::Ipv4Addr::new(127, 1, 0, 1));
    (0..count).map(|n| SocketAddr::from((std::net::Ipv4Addr::from(first + n), 9))).collect()
}

#[allow(clippy::cast_precision_loss, reason = "far below 2^53")]
fn mib(kib: u64) -> f64 {
    kib as f64 / 1024.0
}

#[allow(clippy::cast_precision_loss, reason = "far below 2^53")]
fn times(arm: &Arm, mut latencies_ns: Vec<u64>, elapsed_s: f64) -> Times {
    latencies_ns.sort_unstable();
    let us = |percent: usize| {
        let at = latencies_ns.len() * percent / 100;
        latencies_ns.get(at).copied().unwrap_or_default() as f64 / 1000.0
    };
    Times {
        arm: arm.kind.name(),
        lb: arm.lb.name(),
        p50_us: us(50),
        p99_us: us(99),
        requests_per_s: latencies_ns.len() as f64 / elapsed_s,
    }
}

fn answers(program: &str) -> bool {
    let status =
        Command::new(program).arg("--help").stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.is_ok()
}

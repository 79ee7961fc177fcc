//! One Envoy of the bench, alone or under callgrind.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::arm::{Arm, Kind, Site, bootstrap};
use crate::ports;
use crate::process::{Child, tail};

/// Under valgrind Envoy starts some fifty times slower than alone.
const READY_TIMEOUT: Duration = Duration::from_secs(240);
/// The plugin polls the membership every second, and its workers read it on their tick.
const SETTLE: Duration = Duration::from_millis(2500);
const LOG_LINES: usize = 30;

/// How Envoy is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Run {
    /// As users run it.
    Alone,
    /// With a log line for every call between Envoy and the plugin.
    Traced,
    /// Under callgrind, not counting yet.
    Counted,
}

/// Files that every Envoy of the bench is started from.
#[derive(Debug)]
pub(super) struct Files {
    pub(super) envoy: PathBuf,
    pub(super) outrigger: PathBuf,
    pub(super) empty_sdk: PathBuf,
}

impl Files {
    fn module_of(&self, kind: Kind) -> &Path {
        if kind == Kind::EmptySdk { &self.empty_sdk } else { &self.outrigger }
    }
}

/// A serving Envoy; ends when dropped.
#[derive(Debug)]
pub(super) struct Machine {
    pub(super) entry: SocketAddr,
    admin: SocketAddr,
    folder: tempfile::TempDir,
    child: Child,
}

impl Machine {
    /// Starts an arm and waits until it serves and the plugin knows the membership.
    pub(super) fn start(
        files: &Files,
        arm: &Arm,
        endpoints: &[SocketAddr],
        concurrency: u32,
        run: Run,
    ) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let (entry, admin) = (ports::free()?, ports::free()?);
        let wasm = files.module_of(arm.kind);
        let site = Site { listen: entry, admin, endpoints, wasm };
        let config = folder.path().join("envoy.json");
        std::fs::write(&config, bootstrap(arm, &site).to_string())?;
        let (program, arguments) = command(files, &config, folder.path(), concurrency, run);
        let child = Child::start(&program, &arguments, &folder.path().join("envoy.log"))?;
        let mut machine = Self { entry, admin, folder, child };
        machine.wait_until_ready().with_context(|| arm.title())?;
        if arm.kind == Kind::Outrigger {
            machine.wait_for_membership().with_context(|| arm.title())?;
        }
        thread::sleep(SETTLE);
        Ok(machine)
    }

    /// Waits until the plugin has read the membership of every cluster.
    fn wait_for_membership(&self) -> Result<()> {
        let deadline = Instant::now() + READY_TIMEOUT;
        loop {
            let stats = self.get("/stats?filter=wasmcustom.outrigger")?;
            let known = stats.lines().filter_map(|line| line.split_once(".endpoints: "));
            if known.filter(|(_, count)| *count != "0").count() > 0 {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("the plugin never read the membership");
            }
            thread::sleep(Duration::from_millis(100));
        }
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + READY_TIMEOUT;
        loop {
            if self.get("/ready").is_ok_and(|answer| answer.starts_with("HTTP/1.1 200")) {
                return Ok(());
            }
            if let Some(status) = self.child.ended() {
                bail!("Envoy ended ({status}):\n{}", tail(&self.log_path(), LOG_LINES));
            }
            if Instant::now() > deadline {
                bail!("Envoy is not ready:\n{}", tail(&self.log_path(), LOG_LINES));
            }
            thread::sleep(Duration::from_millis(100));
        }
    }

    fn get(&self, path: &str) -> Result<String> {
        let mut stream = TcpStream::connect(self.admin)?;
        stream.set_read_timeout(Some(READY_TIMEOUT))?;
        write!(stream, "GET {path} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }

    /// Fails unless every VM that was started is alive and none was ever replaced.
    pub(super) fn expect_healthy_vm(&self) -> Result<()> {
        let stats = self.get("/stats?filter=vm_reload|vm_failed|fail_closed")?;
        let moved = |line: &&str| line.rsplit_once(": ").is_some_and(|(_, count)| count != "0");
        let moved: Vec<&str> =
            stats.lines().filter(|line| line.contains("wasm")).filter(moved).collect();
        if !moved.is_empty() {
            bail!("the plugin's VM failed: {}", moved.join(", "));
        }
        Ok(())
    }

    /// The log so far.
    pub(super) fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.log_path()).unwrap_or_default()).into_owned()
    }

    fn log_path(&self) -> PathBuf {
        self.folder.path().join("envoy.log")
    }

    /// Resident memory, in KiB, as the kernel counts it.
    pub(super) fn resident_kib(&self) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.pid()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let number = line.and_then(|line| line.split_whitespace().next());
        Ok(number.context("no VmRSS")?.parse()?)
    }

    /// Instructions that Envoy executes while `work` runs; needs [`Run::Counted`]. `dump` counts
    /// the calls of this, from 1: callgrind numbers its files.
    pub(super) fn count_instructions(
        &self,
        dump: u32,
        work: impl FnOnce() -> Result<()>,
    ) -> Result<u64> {
        self.control(&["-i", "on"])?;
        self.control(&["-z"])?;
        work()?;
        self.control(&["-i", "off"])?;
        self.control(&["-d"])?;
        let dump = std::fs::read_to_string(self.folder.path().join(format!("callgrind.{dump}")))
            .context("callgrind wrote no dump")?;
        // Not `summary`: counters that were zeroed while on make it wrap.
        let totals = dump.lines().find_map(|line| line.strip_prefix("totals:"));
        Ok(totals.context("callgrind's dump has no totals")?.trim().parse()?)
    }

    fn control(&self, arguments: &[&str]) -> Result<()> {
        let output = Command::new("callgrind_control")
            .args(arguments)
            .arg(self.child.pid().to_string())
            .output()
            .context("cannot run callgrind_control")?;
        if !output.status.success() {
            bail!("callgrind_control: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(())
    }
}

fn command(
    files: &Files,
    config: &Path,
    folder: &Path,
    concurrency: u32,
    run: Run,
) -> (PathBuf, Vec<String>) {
    let envoy = files.envoy.display().to_string();
    let wasm_level = if run == Run::Traced { "wasm:trace" } else { "wasm:warning" };
    let mut arguments = vec![
        "-c".to_owned(),
        config.display().to_string(),
        "--concurrency".to_owned(),
        concurrency.to_string(),
        "--disable-hot-restart".to_owned(),
        "--log-level".to_owned(),
        "warning".to_owned(),
        "--component-log-level".to_owned(),
        wasm_level.to_owned(),
    ];
    if run != Run::Counted {
        return (files.envoy.clone(), arguments);
    }
    let counted = [
        "--tool=callgrind".to_owned(),
        "--instr-atstart=no".to_owned(),
        "--smc-check=all-non-file".to_owned(),
        format!("--callgrind-out-file={}", folder.join("callgrind").display()),
        envoy,
    ];
    arguments.splice(0..0, counted);
    (PathBuf::from("valgrind"), arguments)
}

//! The rig's hold on one upstream: order faults, kill, freeze, restart, read counters.
//!
//! The upstream is a process of this machine or a container; the scenarios cannot tell.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use nix::sys::signal::Signal;

use super::fault::FaultSpec;
use super::{LastRequest, Stats};
use crate::process::{self, Child};
use crate::site::docker::Container;
use crate::{http, ports};

/// How long a started upstream may take until it answers.
const START_TIMEOUT: Duration = Duration::from_secs(15);

#[derive(Debug)]
enum Machine {
    Process { arguments: Vec<String>, log: PathBuf, child: Mutex<Option<Child>> },
    Container(Container),
}

/// One upstream.
#[derive(Debug)]
pub struct Upstream {
    name: String,
    addresses: Vec<SocketAddr>,
    control: SocketAddr,
    machine: Machine,
    /// Requests counted by earlier lives of the process.
    lost: AtomicU64,
}

impl Upstream {
    /// Starts a process on `ports` free ports and waits until it answers. Its log goes to `folder`.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn start_process(name: &str, ports: usize, folder: &Path) -> anyhow::Result<Self> {
        let addresses =
            (0..ports).map(|_| ports::free()).collect::<anyhow::Result<Vec<SocketAddr>>>()?;
        Self::start_process_on(name, addresses, folder).await
    }

    /// As `start_process`, on addresses of the caller's choice.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn start_process_on(
        name: &str,
        addresses: Vec<SocketAddr>,
        folder: &Path,
    ) -> anyhow::Result<Self> {
        let control = ports::free()?;
        let mut arguments: Vec<String> = vec!["upstream".into(), "--name".into(), name.into()];
        arguments.extend(["--control".into(), control.to_string()]);
        for address in &addresses {
            arguments.extend(["--listen".into(), address.to_string()]);
        }
        let log = folder.join(format!("{name}.log"));
        let machine = Machine::Process { arguments, log, child: Mutex::new(None) };
        let lost = AtomicU64::new(0);
        let upstream = Self { name: name.to_owned(), addresses, control, machine, lost };
        upstream.start().await?;
        Ok(upstream)
    }

    /// An upstream that runs in a container already.
    #[must_use]
    pub fn in_container(
        name: &str,
        addresses: Vec<SocketAddr>,
        control: SocketAddr,
        container: Container,
    ) -> Self {
        let (machine, lost) = (Machine::Container(container), AtomicU64::new(0));
        Self { name: name.to_owned(), addresses, control, machine, lost }
    }

    /// Name, as in the answer's `x-upstream`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Addresses that it serves on, as Envoy sees them.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Its first address; an upstream has at least one.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        let none = SocketAddr::from(([0, 0, 0, 0], 0));
        self.addresses.first().copied().unwrap_or(none)
    }

    /// Starts it again on the same ports and waits until it answers.
    ///
    /// # Errors
    /// When it does not.
    pub async fn start(&self) -> anyhow::Result<()> {
        match &self.machine {
            Machine::Process { arguments, log, child } => {
                let started = Child::start(&process::own_binary()?, arguments, log)?;
                *child.lock().unwrap_or_else(PoisonError::into_inner) = Some(started);
            }
            Machine::Container(container) => container.start().await?,
        }
        let deadline = Instant::now() + START_TIMEOUT;
        while http::get(self.control, "/stats").await.is_err() {
            if Instant::now() > deadline {
                bail!("upstream {} does not answer on {}: {}", self.name, self.control, self.log());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    /// Kills it with SIGKILL: sockets closed by the kernel, nothing said to anyone.
    ///
    /// # Errors
    /// When the container engine refuses.
    pub async fn kill(&self) -> anyhow::Result<()> {
        // What it counted dies with it, so it is read as late as possible.
        if let Ok(stats) = self.own_stats().await {
            self.lost.fetch_add(stats.requests, Ordering::Relaxed);
        }
        match &self.machine {
            Machine::Process { child, .. } => {
                drop(child.lock().unwrap_or_else(PoisonError::into_inner).take());
                Ok(())
            }
            Machine::Container(container) => container.kill().await,
        }
    }

    /// Freezes it (SIGSTOP, `docker pause`): the kernel still accepts connections, nothing is ever
    /// answered.
    ///
    /// # Errors
    /// When it is not running.
    pub async fn freeze(&self) -> anyhow::Result<()> {
        match &self.machine {
            Machine::Process { .. } => self.signal(Signal::SIGSTOP),
            Machine::Container(container) => container.pause().await,
        }
    }

    /// Ends `freeze`.
    ///
    /// # Errors
    /// When it is not running.
    pub async fn thaw(&self) -> anyhow::Result<()> {
        match &self.machine {
            Machine::Process { .. } => self.signal(Signal::SIGCONT),
            Machine::Container(container) => container.unpause().await,
        }
    }

    /// Takes it off the network (containers only): packets to it go nowhere.
    ///
    /// # Errors
    /// When it is a process, or the container engine refuses.
    pub async fn disconnect(&self) -> anyhow::Result<()> {
        match &self.machine {
            Machine::Process { .. } => bail!("a process cannot be taken off the network"),
            Machine::Container(container) => container.disconnect().await,
        }
    }

    /// Ends `disconnect`.
    ///
    /// # Errors
    /// As `disconnect`.
    pub async fn reconnect(&self) -> anyhow::Result<()> {
        match &self.machine {
            Machine::Process { .. } => bail!("a process cannot be taken off the network"),
            Machine::Container(container) => container.connect().await,
        }
    }

    /// Orders a fault; `FaultSpec::none()` ends it.
    ///
    /// # Errors
    /// When the upstream does not answer.
    pub async fn fault(&self, spec: &FaultSpec) -> anyhow::Result<()> {
        http::post(self.control, "/fault", spec).await?;
        Ok(())
    }

    /// Adds these headers to every answer from now on, in place of those that were added before.
    ///
    /// # Errors
    /// When the upstream does not answer, or one is no header.
    pub async fn answer_with(&self, headers: &[(String, String)]) -> anyhow::Result<()> {
        http::post(self.control, "/headers", &headers).await?;
        Ok(())
    }

    /// Its counters; `requests` includes earlier lives of a killed process.
    ///
    /// # Errors
    /// When it is dead or frozen.
    pub async fn stats(&self) -> anyhow::Result<Stats> {
        let mut stats = self.own_stats().await?;
        stats.requests += self.lost.load(Ordering::Relaxed);
        Ok(stats)
    }

    /// Zeroes its counters.
    ///
    /// # Errors
    /// When the upstream does not answer.
    pub async fn reset_stats(&self) -> anyhow::Result<()> {
        self.lost.store(0, Ordering::Relaxed);
        http::Call::new(self.control, hyper::Method::POST, "/reset-stats").send().await?;
        Ok(())
    }

    /// The last request that reached it, with its headers: what really left Envoy.
    ///
    /// # Errors
    /// When the upstream does not answer.
    pub async fn last_request(&self) -> anyhow::Result<LastRequest> {
        Ok(serde_json::from_slice(&http::get(self.control, "/last-request").await?)?)
    }

    async fn own_stats(&self) -> anyhow::Result<Stats> {
        Ok(serde_json::from_slice(&http::get(self.control, "/stats").await?)?)
    }

    fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let Machine::Process { child, .. } = &self.machine else {
            bail!("{} is not a process", self.name);
        };
        let child = child.lock().unwrap_or_else(PoisonError::into_inner);
        child.as_ref().with_context(|| format!("{} is not running", self.name))?.signal(signal)
    }

    fn log(&self) -> String {
        match &self.machine {
            Machine::Process { log, .. } => process::tail(log, 10),
            Machine::Container(container) => format!("docker logs {}", container.name()),
        }
    }
}

//! A running Envoy: started, waited for, asked, given new files; its log is shown when something
//! goes wrong.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::bootstrap::{
    BOOTSTRAP_FILE, Bootstrap, Endpoint, LISTENER_FILE, MEMBERSHIP_FILE, membership,
    write_atomically,
};
use crate::http;
use crate::process::{self, Child};
use crate::site::docker::Container;

/// How long Envoy may take to serve; a loaded machine compiles the module in seconds.
const READY_TIMEOUT: Duration = Duration::from_secs(30);
/// Name of the log inside the folder.
pub const LOG_FILE: &str = "envoy.log";
/// Lines of Envoy's log shown with an error.
pub const LOG_LINES: usize = 60;

/// Only the cluster that requests go to: the whole page costs Envoy's main thread more.
const BACKEND_HOSTS: &str = "/clusters?filter=%5Ebackend%24";

/// What an Envoy with the plugin is made of.
#[derive(Debug, Clone)]
pub struct Binaries {
    /// The Envoy binary.
    pub envoy: PathBuf,
    /// The module; need not exist for arms without it.
    pub wasm: PathBuf,
}

impl Binaries {
    /// `OUTRIGGER_ENVOY` or `.cache/envoy-<version>/envoy`;
    /// `OUTRIGGER_WASM` or `dist/outrigger.wasm`.
    ///
    /// # Errors
    /// When there is no Envoy.
    pub fn find(version: &str) -> anyhow::Result<Self> {
        let root = repository();
        let named = |variable: &str, otherwise: PathBuf| {
            std::env::var_os(variable).map_or(otherwise, PathBuf::from)
        };
        let envoy = root.join(format!(".cache/envoy-{version}/envoy"));
        let envoy = named("OUTRIGGER_ENVOY", envoy);
        let wasm = named("OUTRIGGER_WASM", root.join("dist/outrigger.wasm"));
        if !envoy.is_file() {
            bail!("no Envoy at {}; `make rig` fetches it, or set OUTRIGGER_ENVOY", envoy.display());
        }
        Ok(Self { envoy, wasm })
    }
}

/// The repository's root: where `Cargo.toml` of the workspace is, seen from the working directory,
/// else from the build.
#[must_use]
pub fn repository() -> PathBuf {
    let here = std::env::current_dir().unwrap_or_default();
    let marked = |folder: &&Path| folder.join("envoy/rig-outrigger.yaml.tmpl").is_file();
    if let Some(root) = here.ancestors().find(marked) {
        return root.to_path_buf();
    }
    let built = Path::new(env!("CARGO_MANIFEST_DIR"));
    built.parent().unwrap_or(built).to_path_buf()
}

#[derive(Debug)]
enum Machine {
    Process { child: Mutex<Child>, log: PathBuf },
    Container(Container),
}

/// A running Envoy.
#[derive(Debug)]
pub struct Envoy {
    /// Where requests go.
    pub entry: SocketAddr,
    /// Where its admin interface answers.
    pub admin: SocketAddr,
    bootstrap: Bootstrap,
    /// The folder of `bootstrap`, as this process sees it.
    folder: PathBuf,
    machine: Machine,
}

impl Envoy {
    /// Starts a process with this configuration and waits until it serves.
    ///
    /// # Errors
    /// When it refuses the configuration or does not serve in time; with the end of its log.
    pub async fn start(
        binary: &Path,
        bootstrap: Bootstrap,
        members: &[Endpoint],
        concurrency: u32,
    ) -> anyhow::Result<Self> {
        if bootstrap.flavour == crate::bootstrap::Flavour::Outrigger && !bootstrap.wasm.is_file() {
            bail!(
                "no module at {}; run `make build` or set OUTRIGGER_WASM",
                bootstrap.wasm.display()
            );
        }
        let folder = bootstrap.folder.clone();
        write_files(&bootstrap, &folder, members)?;
        let log = folder.join(LOG_FILE);
        let path = folder.join(BOOTSTRAP_FILE).display().to_string();
        let concurrency = concurrency.to_string();
        let arguments = [
            ["-c", &path],
            ["--concurrency", &concurrency],
            ["--log-level", "warn"],
            ["--component-log-level", "wasm:info"],
        ];
        let mut arguments: Vec<String> =
            arguments.iter().flatten().map(|&a| a.to_owned()).collect();
        arguments.push("--disable-hot-restart".to_owned());
        let child = Mutex::new(Child::start(binary, &arguments, &log)?);
        let machine = Machine::Process { child, log };
        let (entry, admin) = (bootstrap.listen, bootstrap.admin);
        let envoy = Self { entry, admin, bootstrap, folder, machine };
        envoy.wait_until_ready(!members.is_empty()).await?;
        Ok(envoy)
    }

    /// An Envoy that a container engine started from `folder` (as this process sees it).
    #[must_use]
    pub fn in_container(
        container: Container,
        bootstrap: Bootstrap,
        folder: PathBuf,
        entry: SocketAddr,
        admin: SocketAddr,
    ) -> Self {
        Self { entry, admin, bootstrap, folder, machine: Machine::Container(container) }
    }

    /// Waits until it is live, listens and, if asked, knows a member.
    ///
    /// # Errors
    /// When that takes too long or the process ends; with the end of its log.
    pub async fn wait_until_ready(&self, with_members: bool) -> anyhow::Result<()> {
        let deadline = Instant::now() + READY_TIMEOUT;
        loop {
            let failure = match self.is_ready(with_members).await {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            if let Machine::Process { child, .. } = &self.machine {
                let ended = child.lock().unwrap_or_else(PoisonError::into_inner).ended();
                if let Some(status) = ended {
                    bail!("Envoy ended ({status}); its log ends:\n{}", self.log_tail().await);
                }
            }
            let refused = self.counter("listener_manager.lds.update_rejected").await;
            if refused.is_ok_and(|count| count > 0) {
                let log = self.log_tail().await;
                bail!("Envoy refused the listener; its log ends:\n{log}");
            }
            if Instant::now() > deadline {
                let log = self.log_tail().await;
                bail!(
                    "Envoy is not ready after {READY_TIMEOUT:?}: {failure:#}; its log ends:\n{log}"
                );
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn is_ready(&self, with_members: bool) -> anyhow::Result<()> {
        http::get(self.admin, "/ready").await?;
        // A listener that Envoy refused leaves it "live" with none.
        if self.counter("listener_manager.total_listeners_active").await? == 0 {
            bail!("no listener is active");
        }
        if with_members && self.counter("cluster.backend.membership_total").await? == 0 {
            bail!("the cluster has no members");
        }
        tokio::net::TcpStream::connect(self.entry).await.context("the listener's port")?;
        Ok(())
    }

    /// Every counter and gauge, by name.
    ///
    /// # Errors
    /// When the admin interface does not answer.
    pub async fn stats(&self) -> anyhow::Result<BTreeMap<String, u64>> {
        Ok(parse_stats(&String::from_utf8_lossy(&http::get(self.admin, "/stats").await?)))
    }

    /// One counter or gauge; 0 when it does not exist (yet).
    ///
    /// # Errors
    /// When the admin interface does not answer.
    pub async fn counter(&self, name: &str) -> anyhow::Result<u64> {
        let path = format!("/stats?filter=^{}$", name.replace('.', "\\."));
        let text = http::get(self.admin, &path).await?;
        Ok(parse_stats(&String::from_utf8_lossy(&text)).get(name).copied().unwrap_or(0))
    }

    /// `/clusters` of the cluster `backend` by address and item, for example `rq_total`.
    ///
    /// # Errors
    /// When the admin interface does not answer.
    pub async fn hosts(&self) -> anyhow::Result<BTreeMap<SocketAddr, BTreeMap<String, String>>> {
        let text = http::get(self.admin, BACKEND_HOSTS).await?;
        Ok(parse_hosts(&String::from_utf8_lossy(&text)))
    }

    /// Replaces the members; Envoy notices within milliseconds, the plugin at its next poll.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn set_members(&self, members: &[Endpoint]) -> anyhow::Result<()> {
        write_atomically(&self.folder.join(MEMBERSHIP_FILE), &membership(members))
    }

    /// Offers Envoy a new configuration of the plugin. It may refuse:
    /// `listener_manager.lds.update_rejected` counts that.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn set_plugin_config(&self, text: &str) -> anyhow::Result<()> {
        let bootstrap = Bootstrap { plugin_config: text.to_owned(), ..self.bootstrap.clone() };
        write_atomically(&self.folder.join(LISTENER_FILE), &bootstrap.render_listener()?)
    }

    /// The whole log so far.
    pub async fn log(&self) -> String {
        match &self.machine {
            Machine::Process { log, .. } => {
                String::from_utf8_lossy(&std::fs::read(log).unwrap_or_default()).into_owned()
            }
            Machine::Container(container) => container.log().await,
        }
    }

    /// The end of the log, for error messages.
    pub async fn log_tail(&self) -> String {
        match &self.machine {
            Machine::Process { log, .. } => process::tail(log, LOG_LINES),
            Machine::Container(container) => container.log().await,
        }
    }

    /// Process id, where it is a process of this machine.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        match &self.machine {
            Machine::Process { child, .. } => {
                Some(child.lock().unwrap_or_else(PoisonError::into_inner).pid())
            }
            Machine::Container(_) => None,
        }
    }
}

/// How often an Envoy has chosen an endpoint of the cluster `backend` so far: requests sent to it
/// and connections to it that failed.
///
/// # Errors
/// When the admin interface does not answer or does not know the endpoint.
pub async fn times_chosen(admin: SocketAddr, endpoint: SocketAddr) -> anyhow::Result<u64> {
    let text = http::get(admin, BACKEND_HOSTS).await?;
    let hosts = parse_hosts(&String::from_utf8_lossy(&text));
    let host = hosts.get(&endpoint).context("not a member")?;
    let item = |name: &str| host.get(name).and_then(|v| v.parse::<u64>().ok()).unwrap_or(0);
    Ok(item("rq_total") + item("cx_connect_fail"))
}

/// Writes bootstrap, listener and membership into a folder.
///
/// # Errors
/// When a template or the folder does not allow it.
pub fn write_files(
    bootstrap: &Bootstrap,
    folder: &Path,
    members: &[Endpoint],
) -> anyhow::Result<()> {
    write_atomically(&folder.join(BOOTSTRAP_FILE), &bootstrap.render()?)?;
    write_atomically(&folder.join(LISTENER_FILE), &bootstrap.render_listener()?)?;
    write_atomically(&folder.join(MEMBERSHIP_FILE), &membership(members))
}

fn parse_stats(text: &str) -> BTreeMap<String, u64> {
    let pair = |line: &str| {
        let (name, value) = line.rsplit_once(": ")?;
        Some((name.to_owned(), value.trim().parse().ok()?))
    };
    text.lines().filter_map(pair).collect()
}

fn parse_hosts(text: &str) -> BTreeMap<SocketAddr, BTreeMap<String, String>> {
    let mut hosts: BTreeMap<SocketAddr, BTreeMap<String, String>> = BTreeMap::new();
    for line in text.lines() {
        // name::address::item::value, where an IPv6 address has colons of its own.
        let Some((_, rest)) = line.split_once("::") else {
            continue;
        };
        let skip = rest.find(']').unwrap_or(0);
        let Some(end) = rest.get(skip..).and_then(|r| r.find("::")).map(|at| at + skip) else {
            continue;
        };
        let (address, item) = (rest.get(..end), rest.get(end + 2..));
        let (Some(Ok(address)), Some((item, value))) =
            (address.map(str::parse), item.and_then(|i| i.split_once("::")))
        else {
            continue;
        };
        hosts.entry(address).or_default().insert(item.to_owned(), value.to_owned());
    }
    hosts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stats_lines_that_are_no_numbers_are_left_out() {
        let text = "a.b: 3\nh: P0(nan,1) P25(2,3)\nc::d: 18446744073709551615\n";
        let stats = parse_stats(text);
        assert_eq!(stats.len(), 2);
        assert_eq!(stats["a.b"], 3);
        assert_eq!(stats["c::d"], u64::MAX);
    }

    #[test]
    fn hosts_are_read_and_cluster_lines_skipped() {
        let text = "backend::default_priority::max_connections::10\n\
                    backend::127.0.0.1:80::rq_total::7\nbackend::127.0.0.1:80::zone::\n\
                    backend::[::1]:80::rq_total::8\n";
        let hosts = parse_hosts(text);
        assert_eq!(hosts.len(), 2);
        assert_eq!(hosts[&"[::1]:80".parse().unwrap()]["rq_total"], "8");
        assert_eq!(hosts[&"127.0.0.1:80".parse().unwrap()]["rq_total"], "7");
    }
}

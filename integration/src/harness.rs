//! One Envoy with the plugin and its upstreams, for end-to-end tests.
//!
//! ```no_run
//! # async fn example() -> anyhow::Result<()> {
//! use integration::harness::Harness;
//! use integration::upstream::fault::FaultSpec;
//! use serde_json::json;
//!
//! let Some(harness) = Harness::builder().endpoints(3).config(json!({})).start().await? else {
//!     return Ok(()); // no Envoy or no module here; the reason was printed
//! };
//! let reply = harness.get("/path").header("x-key", "a").send().await?; // http::Reply
//! assert_eq!(reply.status, 200);
//!
//! // an upstream can also be killed, started, frozen and thawed, and tells what it has seen
//! harness.upstream(0).fault(&FaultSpec::status(503)).await?;
//! let ejected = async |h: &Harness| Ok(h.metric("ejections").await? > 0);
//! harness.eventually("it is ejected", ejected).await?;
//! // any stat of Envoy, 0 if absent
//! assert_eq!(harness.counter("wasm.outrigger.vm_reload_success").await?, 0);
//! # Ok(()) }
//! ```
//!
//! `start` returns `Ok(None)` only where Envoy or the module is missing *and* `OUTRIGGER_REQUIRE`
//! is not set: where nothing may be skipped, set it. `try_start` never skips; it is also for
//! configurations that Envoy shall refuse. The cluster is called `backend`; the plugin's
//! configuration may name it. Everything ends when the harness is dropped. Tests can run in
//! parallel: ports are free ones, folders temporary.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use hyper::Method;
use tempfile::TempDir;

use crate::bootstrap::{Bootstrap, Endpoint, Flavour, Lb};
use crate::envoy::{Binaries, Envoy, LOG_FILE, LOG_LINES};
use crate::http::{Call, Reply};
use crate::ports;
use crate::process;
use crate::site::endpoints;
use crate::upstream::Upstream;

/// How long `eventually` waits.
pub const DEADLINE: Duration = Duration::from_secs(15);

/// Version of Envoy that tests run unless `ENVOY` names another.
pub const ENVOY_VERSION: &str = "1.40.0";

/// Stands for the port of Envoy's admin interface in an edit: it is chosen at the start.
const OWN_ADMIN_PORT: &str = "(own admin port)";

/// What is to be started.
#[derive(Debug, Clone)]
pub struct Builder {
    flavour: Flavour,
    lb: Lb,
    config: String,
    endpoints: usize,
    ports: usize,
    weights: Vec<u32>,
    concurrency: u32,
    members: bool,
    upstreams: Option<Arc<Vec<Upstream>>>,
    wasm: Option<std::path::PathBuf>,
    edits: Vec<(String, String)>,
}

impl Builder {
    /// Number of upstream processes (3).
    #[must_use]
    pub fn endpoints(self, endpoints: usize) -> Self {
        Self { endpoints, ..self }
    }

    /// Endpoints (ports) of each upstream process (1): large clusters from few processes.
    #[must_use]
    pub fn ports(self, ports: usize) -> Self {
        Self { ports, ..self }
    }

    /// Weights of the endpoints, in order; the rest have 1.
    #[must_use]
    pub fn weights(self, weights: &[u32]) -> Self {
        Self { weights: weights.to_vec(), ..self }
    }

    /// The plugin's configuration (`{}`).
    #[must_use]
    pub fn config(self, config: serde_json::Value) -> Self {
        self.config_text(&config.to_string())
    }

    /// The plugin's configuration as text, which need not be JSON.
    #[must_use]
    pub fn config_text(self, config: &str) -> Self {
        Self { config: config.to_owned(), ..self }
    }

    /// Worker threads of Envoy (2).
    #[must_use]
    pub fn concurrency(self, concurrency: u32) -> Self {
        Self { concurrency, ..self }
    }

    /// Envoy's own policy: the fallback's with the plugin, the cluster's without (round robin).
    #[must_use]
    pub fn lb(self, lb: Lb) -> Self {
        Self { lb, ..self }
    }

    /// Plain Envoy, or override_host without the plugin, instead of Envoy with the plugin.
    #[must_use]
    pub fn flavour(self, flavour: Flavour) -> Self {
        Self { flavour, ..self }
    }

    /// Starts with an empty membership although the upstreams run; `Harness::set_members` fills it.
    #[must_use]
    pub fn without_members(self) -> Self {
        Self { members: false, ..self }
    }

    /// Uses the upstreams of another harness: placements of two Envoys can be compared.
    #[must_use]
    pub fn upstreams_of(self, other: &Harness) -> Self {
        Self { upstreams: Some(Arc::clone(&other.upstreams)), ..self }
    }

    /// Another module than `dist/outrigger.wasm`.
    #[must_use]
    pub fn wasm(self, path: impl Into<std::path::PathBuf>) -> Self {
        Self { wasm: Some(path.into()), ..self }
    }

    /// Replaces text in Envoy's configuration as it is rendered: for what only one test needs. Text
    /// that is not there is an error at the start.
    #[must_use]
    pub fn edit(mut self, from: &str, to: &str) -> Self {
        self.edits.push((from.to_owned(), to.to_owned()));
        self
    }

    /// The plugin asks for the membership here instead of at Envoy's own admin interface.
    #[must_use]
    pub fn admin_cluster(self, address: SocketAddr) -> Self {
        let at = |port: &str| format!("{{address: 127.0.0.1, port_value: {port}}}");
        let other = format!("{{address: \"{}\", port_value: {}}}", address.ip(), address.port());
        self.edit(&at(OWN_ADMIN_PORT), &other)
    }

    /// Starts it and waits until it serves; `None`, with a printed reason, where that is impossible
    /// here (see above).
    ///
    /// # Errors
    /// When it does not start although all is there; with the end of Envoy's log.
    pub async fn start(self) -> anyhow::Result<Option<Harness>> {
        let binaries = match self.binaries() {
            Ok(binaries) => binaries,
            Err(reason) if std::env::var_os("OUTRIGGER_REQUIRE").is_none() => {
                eprintln!("SKIPPED: {reason:#}");
                return Ok(None);
            }
            Err(reason) => return Err(reason),
        };
        self.start_with(binaries).await.map(Some)
    }

    /// As `start`, but a missing Envoy or module is an error too.
    ///
    /// # Errors
    /// As `start`.
    pub async fn try_start(self) -> anyhow::Result<Harness> {
        let binaries = self.binaries()?;
        self.start_with(binaries).await
    }

    fn binaries(&self) -> anyhow::Result<Binaries> {
        let version = std::env::var("ENVOY").unwrap_or_else(|_| ENVOY_VERSION.to_owned());
        let mut binaries = Binaries::find(&version)?;
        if let Some(wasm) = &self.wasm {
            binaries.wasm.clone_from(wasm);
        }
        if self.flavour == Flavour::Outrigger && !binaries.wasm.is_file() {
            bail!("no module at {}; run `make build`", binaries.wasm.display());
        }
        Ok(binaries)
    }

    async fn start_with(self, binaries: Binaries) -> anyhow::Result<Harness> {
        let folder = tempfile::Builder::new().prefix("outrigger-test-").tempdir()?;
        let upstreams = match self.upstreams {
            Some(upstreams) => upstreams,
            None => {
                let mut all = Vec::with_capacity(self.endpoints);
                for number in 1..=self.endpoints {
                    let name = format!("u{number}");
                    all.push(Upstream::start_process(&name, self.ports, folder.path()).await?);
                }
                Arc::new(all)
            }
        };
        let mut members = if self.members { endpoints(&upstreams) } else { Vec::new() };
        for (member, weight) in members.iter_mut().zip(&self.weights) {
            member.weight = *weight;
        }
        let admin = ports::free()?;
        let own_admin = |(from, to): (String, String)| {
            (from.replace(OWN_ADMIN_PORT, &admin.port().to_string()), to)
        };
        let bootstrap = Bootstrap {
            flavour: self.flavour,
            lb: self.lb,
            listen: ports::free()?,
            admin,
            plugin_config: self.config,
            wasm: binaries.wasm,
            folder: folder.path().to_path_buf(),
            edits: self.edits.into_iter().map(own_admin).collect(),
        };
        let idle = bootstrap.idle_edits()?;
        if !idle.is_empty() {
            bail!("nothing to replace: {idle:?}");
        }
        let envoy = Envoy::start(&binaries.envoy, bootstrap, &members, self.concurrency).await?;
        Ok(Harness { envoy, upstreams, members, folder })
    }
}

/// A running Envoy with its upstreams.
#[derive(Debug)]
pub struct Harness {
    envoy: Envoy,
    upstreams: Arc<Vec<Upstream>>,
    members: Vec<Endpoint>,
    // Last: it must outlive what writes into it.
    folder: TempDir,
}

impl Drop for Harness {
    /// A test that fails shows what Envoy said.
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = process::tail(&self.folder.path().join(LOG_FILE), LOG_LINES);
            eprintln!("Envoy's log ends:\n{log}");
        }
    }
}

impl Harness {
    /// Three upstreams, `{}`, two workers, round robin.
    #[must_use]
    pub fn builder() -> Builder {
        Builder {
            flavour: Flavour::Outrigger,
            lb: Lb::RoundRobin,
            config: "{}".to_owned(),
            endpoints: 3,
            ports: 1,
            weights: Vec::new(),
            concurrency: 2,
            members: true,
            upstreams: None,
            wasm: None,
            edits: Vec::new(),
        }
    }

    /// A GET through Envoy, to be sent with `.send()`.
    #[must_use]
    pub fn get(&self, path: &str) -> Call {
        self.call(Method::GET, path)
    }

    /// Any request through Envoy.
    #[must_use]
    pub fn call(&self, method: Method, path: &str) -> Call {
        Call::new(self.envoy.entry, method, path)
    }

    /// Sends so many GETs one after another.
    ///
    /// # Errors
    /// When one gets no answer at all; an error status is an answer.
    pub async fn get_many(&self, path: &str, count: usize) -> anyhow::Result<Vec<Reply>> {
        let mut replies = Vec::with_capacity(count);
        for _ in 0..count {
            replies.push(self.get(path).send().await?);
        }
        Ok(replies)
    }

    /// The upstream at this position, from 0.
    ///
    /// # Panics
    /// When there is none: a test that asks for it is wrong.
    #[must_use]
    #[allow(clippy::indexing_slicing)]
    pub fn upstream(&self, position: usize) -> &Upstream {
        &self.upstreams[position]
    }

    /// All upstreams.
    #[must_use]
    pub fn upstreams(&self) -> &[Upstream] {
        &self.upstreams
    }

    /// The members that Envoy started with.
    #[must_use]
    pub fn members(&self) -> &[Endpoint] {
        &self.members
    }

    /// Replaces the members that Envoy knows.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn set_members(&self, members: &[Endpoint]) -> anyhow::Result<()> {
        self.envoy.set_members(members)
    }

    /// Offers a new configuration of the plugin to the running Envoy and waits until Envoy has
    /// taken or refused it. True when it was taken.
    ///
    /// # Errors
    /// When Envoy does neither in time.
    pub async fn reconfigure(&self, config: &str) -> anyhow::Result<bool> {
        const TAKEN: &str = "listener_manager.lds.update_success";
        const REFUSED: &str = "listener_manager.lds.update_rejected";
        let before = (self.counter(TAKEN).await?, self.counter(REFUSED).await?);
        self.envoy.set_plugin_config(config)?;
        let changed =
            async |h: &Self| Ok((h.counter(TAKEN).await?, h.counter(REFUSED).await?) != before);
        self.eventually("the new configuration is taken or refused", changed).await?;
        Ok(self.counter(REFUSED).await? == before.1)
    }

    /// Every metric of the plugin, by name without `wasmcustom.outrigger.`.
    ///
    /// # Errors
    /// When the admin interface does not answer.
    pub async fn metrics(&self) -> anyhow::Result<BTreeMap<String, u64>> {
        let strip = |(name, value): (String, u64)| {
            Some((name.strip_prefix("wasmcustom.outrigger.")?.to_owned(), value))
        };
        Ok(self.envoy.stats().await?.into_iter().filter_map(strip).collect())
    }

    /// One metric of the plugin: of the cluster `backend`, or of the process when there is none of
    /// the cluster; 0 if absent.
    ///
    /// # Errors
    /// When the admin interface does not answer.
    pub async fn metric(&self, name: &str) -> anyhow::Result<u64> {
        let metrics = self.metrics().await?;
        let of_cluster = metrics.get(&format!("cluster.backend.{name}"));
        Ok(of_cluster.or_else(|| metrics.get(name)).copied().unwrap_or(0))
    }

    /// One counter or gauge of Envoy; 0 if absent.
    ///
    /// # Errors
    /// When the admin interface does not answer.
    pub async fn counter(&self, name: &str) -> anyhow::Result<u64> {
        self.envoy.counter(name).await
    }

    /// The running Envoy: `hosts`, `stats`, `log`, `pid`, `admin`, `entry`.
    #[must_use]
    pub fn envoy(&self) -> &Envoy {
        &self.envoy
    }

    /// Waits until a condition holds (`DEADLINE`); an error counts as "not yet".
    ///
    /// # Errors
    /// When it does not hold in time; with the last error and the end of Envoy's log.
    pub async fn eventually(
        &self,
        what: &str,
        condition: impl AsyncFnMut(&Self) -> anyhow::Result<bool>,
    ) -> anyhow::Result<()> {
        self.eventually_within(DEADLINE, what, condition).await
    }

    /// As `eventually`, with another deadline.
    ///
    /// # Errors
    /// As `eventually`.
    pub async fn eventually_within(
        &self,
        limit: Duration,
        what: &str,
        mut condition: impl AsyncFnMut(&Self) -> anyhow::Result<bool>,
    ) -> anyhow::Result<()> {
        let deadline = Instant::now() + limit;
        loop {
            let last = match condition(self).await {
                Ok(true) => return Ok(()),
                Ok(false) => "the condition was false".to_owned(),
                Err(error) => format!("{error:#}"),
            };
            if Instant::now() > deadline {
                return Err(anyhow::anyhow!("after {limit:?}: {last}"))
                    .context(format!("waiting until {what}"))
                    .context(format!("Envoy's log ends:\n{}", self.envoy.log_tail().await));
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
    }
}

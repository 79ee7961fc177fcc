//! One worker's plugin: callbacks in, engine, host calls out.
//!
//! Generic over the host, so that all of it runs under a host that misbehaves. A host call that
//! fails never changes what happens to the request beyond leaving it to Envoy; it is counted.

use core::time::Duration;

use outrigger_policy::config::{self, Config};
use outrigger_policy::engine::{AfterEnd, Attempt, Decision, Engine, Event, Site};
use outrigger_policy::hash;
use outrigger_policy::membership::lease;
use outrigger_policy::metrics::Id;
use outrigger_policy::outcome::ledger::StreamId;
use outrigger_policy::pick::SLICE_UNITS;
use outrigger_policy::rng::{Rng, SplitMix64};
use outrigger_policy::state::breaker::Transition;
use outrigger_policy::time::Instant;

use crate::apply;
use crate::asked::Asked;
use crate::head::HeadView;
use crate::host::{Host, Level, Map, Outcome};
use crate::metrics::{Actives, Defined, Metrics};
use crate::poll::Poll;
use crate::shared::{self, Seen};

/// Time from one tick to the next: the age of what one worker knows of the others.
pub const TICK_MS: u32 = 100;

/// The same for a VM that has not seen a request yet; Envoy's main thread runs one that never will.
pub const IDLE_TICK_MS: u32 = 1000;

/// The same while tables are built.
pub const BUILD_TICK_MS: u32 = 10;

/// How long tables are built at a time; requests of this worker wait meanwhile.
const BUILD_TIME: Duration = Duration::from_micros(400);

/// Slices of a build at a time, whatever the clock says.
const SLICES_MAX: u32 = 64;

/// The longest body of a membership answer; Envoy's own limit for such a body.
const BODY_MAX: usize = 32 << 20;

/// One worker's plugin.
#[derive(Debug)]
pub struct Worker<H> {
    host: H,
    engine: Engine,
    metrics: Metrics,
    actives: Actives,
    rng: SplitMix64,
    seen: Seen,
    poll: Poll,
    /// Whose callback this is.
    context: u32,
    /// Names this VM among those of the process.
    owner: u64,
    traffic: bool,
    /// The tick period that Envoy was asked for.
    period_ms: u32,
    ticked: Instant,
    host_failures: u64,
    /// Why the last poll failed, if it did.
    complaint: String,
    /// The header value of the last request, for its memory.
    value: Vec<u8>,
}

impl<H: Host> Worker<H> {
    /// A worker that leaves everything to Envoy until it is configured. `defined`: the metrics
    /// that this VM knows already.
    pub fn new(host: H, (defined, actives): (Defined, Actives), seed: u64) -> Self {
        let mut rng = SplitMix64::new(seed);
        Self {
            host,
            engine: Engine::new(Config::default(), Site::default()),
            metrics: Metrics::new(defined),
            actives,
            context: 0,
            owner: rng.next_u64() | 1,
            rng,
            seen: Seen::default(),
            poll: Poll::default(),
            traffic: false,
            period_ms: 0,
            ticked: Instant::ZERO,
            host_failures: 0,
            complaint: String::new(),
            value: Vec::new(),
        }
    }

    /// Reads the plugin's configuration. False: it was refused and nothing has changed.
    pub fn on_configure(&mut self) -> bool {
        let json = match self.host.configuration() {
            Ok(json) => json,
            Err(failure) => {
                let message = format!("outrigger: configuration not readable: {failure:?}");
                self.host.log(Level::Error, &message);
                return false;
            }
        };
        let config = match config::parse(&json) {
            Ok(config) => config,
            Err(error) => {
                self.host.log(Level::Error, &format!("outrigger: configuration refused: {error}"));
                self.engine.process_sums().count(Id::ConfigRejected);
                self.flush();
                return false;
            }
        };
        self.ticked = self.host.now();
        let id = self.host.property(b"xds\0node\0id").unwrap_or_default();
        let zone = self.host.property(b"xds\0node\0locality\0zone").unwrap_or_default();
        let site = Site {
            seed: self.rng.next_u64(),
            identity: hash::xxh64(&id, 0),
            zone: String::from_utf8_lossy(&zone).into_owned(),
            now: self.ticked,
        };
        let engine = Engine::new(config, site);
        let before = core::mem::replace(&mut self.engine, engine);
        self.engine.inherit(before);
        self.metrics.forget_clusters();
        self.seen = Seen::default();
        let prepared = shared::prepare(&self.host);
        self.note(prepared);
        self.sync();
        self.build();
        true
    }

    fn set_tick_period(&mut self) {
        let period_ms = match (self.engine.is_building(), self.traffic) {
            (true, _) => BUILD_TICK_MS,
            (false, true) => TICK_MS,
            (false, false) => IDLE_TICK_MS,
        };
        if period_ms != self.period_ms {
            let ticking = self.host.set_tick_period(period_ms);
            self.period_ms = if ticking.is_ok() { period_ms } else { 0 };
            self.note(ticking);
        }
    }

    /// Builds tables for a short while, and comes back soon if there is more to do.
    fn build(&mut self) {
        if self.engine.is_building() {
            let began = self.host.now();
            for _ in 0..SLICES_MAX {
                let more = self.engine.build(SLICE_UNITS, began);
                if !more || self.host.now().since(began) >= BUILD_TIME {
                    break;
                }
            }
        }
        self.set_tick_period();
    }

    /// The first request: from now on what the others know must not be old.
    fn wake(&mut self) {
        self.traffic = true;
        self.ticked = self.host.now();
        self.sync();
        self.ask();
        self.build();
    }

    /// When the last tick was; the clock of everything that need not be exact.
    pub const fn ticked(&self) -> Instant {
        self.ticked
    }

    /// A request's headers have arrived. Returns the stream's name, if it was steered.
    pub fn on_request(&mut self, context: u32) -> Option<StreamId> {
        self.context = context;
        if !self.traffic {
            self.wake();
        }
        let bytes = match self.host.header_map(Map::Request) {
            Ok(bytes) => bytes,
            failed => {
                self.note(failed);
                let cleaned = apply::clean_unread(&self.host);
                self.note(cleaned);
                return None;
            }
        };
        let head = HeadView::new(&bytes);
        let cleaned = apply::clean(&self.host, &head);
        let now = self.ticked;
        let (engine, mut environment, rng) = self.split();
        let decision = engine.on_request(&head, &mut environment, rng, now);
        self.note(cleaned);
        match decision {
            Decision::Untouched => None,
            Decision::Plan(plan) => {
                let list = self.engine.list();
                let steered = apply::steer(&self.host, &head, &plan, list, &mut self.value);
                self.note(steered);
                Some(plan.id)
            }
        }
    }

    /// A steered stream is over.
    pub fn on_end(&mut self, id: StreamId) {
        let now = self.ticked;
        let (engine, mut environment, _) = self.split();
        if engine.on_end(id, &mut environment, now) == AfterEnd::Booked {
            return;
        }
        let status = self.number(b"response\0code");
        let grpc_status = self.number(b"response\0grpc_status");
        let address = self.host.property(b"upstream\0address").unwrap_or_default();
        let now = self.host.now();
        let (engine, mut environment, _) = self.split();
        engine.on_end_details(id, &address, (status, grpc_status), &mut environment, now);
    }

    /// The access logger has an attempt to tell of.
    pub fn on_attempt(&mut self, context: u32) {
        self.context = context;
        let flags = self.number(b"response\0flags");
        let status = self.number(b"response\0code");
        let grpc_status = self.number(b"response\0grpc_status");
        let request_id = self.host.header(Map::Request, b"x-request-id").unwrap_or_default();
        let address = self.host.property(b"upstream\0address").unwrap_or_default();
        let cluster = self.host.property(b"xds\0cluster_name").unwrap_or_default();
        let now = self.host.now();
        let attempt = Attempt {
            request_id: &request_id,
            cluster: &cluster,
            address: &address,
            flags,
            status,
            grpc_status,
        };
        let (engine, mut environment, rng) = self.split();
        let class = engine.on_attempt(&attempt, &mut environment, rng, now);
        if class.nothing_was_sent() {
            self.poll.hurry(now);
        }
        if class.is_failure() {
            self.sync_state(now);
            self.flush();
            self.tell();
        }
    }

    /// The time has come to look around.
    pub fn on_tick(&mut self) {
        self.ticked = self.host.now();
        let now = self.ticked;
        let (engine, mut environment, _) = self.split();
        engine.on_tick(&mut environment, now);
        let writes = self.metrics.shared_writes(&self.host);
        if self.engine.is_dirty() || self.seen.must_look(writes) {
            self.sync();
        }
        self.flush();
        self.tell();
        self.ask();
        self.build();
    }

    /// Our own call was answered, or failed when there is no header.
    pub fn on_call_answered(&mut self, call: u32, headers: usize, body_size: usize) {
        if !self.poll.is_answered_by(call) {
            return;
        }
        let began = self.host.now();
        let read = self.read_answer(headers, body_size);
        self.build();
        let now = self.host.now();
        self.poll.took(now.since(began), now);
        match read {
            Ok(true) => {
                self.complaint.clear();
                let published = self.seen.publish_membership(&self.host, &mut self.engine, now);
                self.note(published);
                self.host.log(Level::Info, "outrigger: membership changed");
            }
            Ok(false) => self.complaint.clear(),
            Err(reason) => self.complain(reason),
        }
    }

    /// Counts a poll that failed, and says why when that is news.
    fn complain(&mut self, reason: String) {
        self.engine.on_clusters_failure();
        if reason != self.complaint {
            let message = format!("outrigger: membership kept as it was: {reason}");
            self.host.log(Level::Warn, &message);
            self.complaint = reason;
        }
    }

    fn read_answer(&mut self, headers: usize, body_size: usize) -> Result<bool, String> {
        if headers == 0 {
            return Err("the answer broke off".into());
        }
        let status = self.host.header(Map::CallResponse, b":status").unwrap_or_default();
        if status != b"200" {
            return Err(format!("status {}", String::from_utf8_lossy(&status)));
        }
        let body = self.host.call_body(body_size.min(BODY_MAX)).unwrap_or_default();
        let now = self.host.now();
        let (engine, mut environment, _) = self.split();
        let read = engine.on_clusters_answer(&body, &mut environment, now);
        self.claim_slots();
        read.map_err(|error| error.to_string())
    }

    /// Asks for the membership if it is due and this VM is the one to ask.
    fn ask(&mut self) {
        let now = self.ticked;
        if !self.poll.is_due(now) {
            return;
        }
        let Some(path) = self.engine.clusters_path() else { return };
        let admin = self.engine.config().admin.clone();
        let fit = lease::is_fit(self.traffic, self.engine.endpoints());
        let lease = Poll::lease(self.owner, fit, admin.interval, now);
        match shared::take_lease(&self.host, lease, now) {
            Ok(true) => {}
            Ok(false) => {
                self.poll.held_by_another(now);
                return;
            }
            failed => {
                self.note(failed);
                return;
            }
        }
        let timeout_ms = u32::try_from(admin.timeout.as_millis()).unwrap_or(u32::MAX).max(1);
        match self.host.call(&admin.cluster, &path, timeout_ms) {
            Ok(call) => self.poll.sent(call, admin.timeout, admin.interval, now),
            Err(failure) => {
                self.poll.failed(admin.interval, now);
                self.complain(format!(
                    "no call to cluster {:?}: {failure:?}; is it in Envoy's static clusters?",
                    admin.cluster
                ));
            }
        }
    }

    fn sync(&mut self) {
        let membership = self.seen.sync_membership(&self.host, &mut self.engine, self.ticked);
        self.note(membership);
        self.claim_slots();
        self.sync_state(self.ticked);
    }

    /// Gives counters to the endpoints that came with the last change of the membership.
    fn claim_slots(&mut self) {
        if !self.engine.wants_slots() {
            return;
        }
        let (engine, mut asked, _) = self.split();
        let host = asked.host;
        let claimed = shared::claim_slots(host, engine, &mut asked);
        self.note(claimed);
    }

    /// The stream is not waited for: its end will not be told.
    pub fn forget(&mut self, id: StreamId) {
        let (engine, mut environment, _) = self.split();
        engine.forget(id, &mut environment);
    }

    /// This worker is given up: no stream's end will be told.
    pub fn abandon(&mut self) {
        let (engine, mut environment, _) = self.split();
        engine.abandon(&mut environment);
    }

    fn sync_state(&mut self, now: Instant) {
        let synced = self.seen.sync_state(&self.host, &mut self.engine, now);
        self.note(synced);
    }

    fn flush(&mut self) {
        let failures = core::mem::take(&mut self.host_failures);
        for _ in 0..failures.min(u64::from(TICK_MS)) {
            self.engine.process_sums().count(Id::HostFailures);
        }
        let mut flushed = self.metrics.flush_process(&self.host, self.engine.process_sums());
        for (index, name, sums) in self.engine.cluster_sums() {
            flushed = flushed.and(self.metrics.flush_cluster(&self.host, index, name, sums));
        }
        self.note(flushed);
    }

    /// Tells the log what happened to breakers.
    fn tell(&mut self) {
        for Event { cluster, address, transition } in self.engine.take_events() {
            let what = match transition {
                Transition::Opened { open, cause } => {
                    format!("out for {} ({})", rounded(open), cause.as_str())
                }
                Transition::Closed => "back".into(),
            };
            self.host.log(Level::Info, &format!("outrigger: {cluster} {address}: {what}"));
        }
    }

    /// A property that is a number; 0 where there is none.
    fn number(&self, path: &[u8]) -> u64 {
        let bytes = self.host.property(path).unwrap_or_default();
        bytes.first_chunk::<8>().map_or(0, |b| u64::from_le_bytes(*b))
    }

    fn note<T>(&mut self, result: Outcome<T>) {
        if result.is_err() {
            self.host_failures = self.host_failures.saturating_add(1);
        }
    }

    /// The engine, and what its calls take beside their input.
    fn split(&mut self) -> (&mut Engine, Asked<'_, H>, &mut SplitMix64) {
        let asked = Asked {
            host: &self.host,
            metrics: &self.metrics,
            actives: &self.actives,
            owner: self.owner,
            failures: &mut self.host_failures,
            context: self.context,
        };
        (&mut self.engine, asked, &mut self.rng)
    }
}

fn rounded(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

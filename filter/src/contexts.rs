//! Which callback belongs to which worker.
//!
//! Envoy numbers contexts: a root for each configuration of the plugin in this VM, a stream for
//! each request. The plugin does not ask to be told when contexts go: every callback that a module
//! exports costs each request about 1,400 instructions. A root is known from its configuration on,
//! a stream from its request headers to its log; a root that no longer ticks is gone.
//!
//! That a stream is created is told, because nothing else says whose it is: when a configuration
//! returns that is still draining, Envoy takes its old root again and says nothing, so that the
//! newest root is not always the one in force.
//! Any number in any order is possible here: what is not known is left alone.
//!
//! The same module is the HTTP filter and the upstream access logger. With the same plugin
//! configuration in both places Envoy gives both one root, and the logger's calls arrive at that
//! root. A logger with `root_id: observe` has a root of its own, which hands them on.

use core::time::Duration;
use std::rc::Rc;

use hashbrown::HashMap;
use outrigger_policy::outcome::ledger::StreamId;
use outrigger_policy::time::Instant;

use crate::apply;
use crate::host::{Host, Outcome};
use crate::metrics::{Actives, Defined};
use crate::worker::Worker;

/// Roots of one VM at once; the one that ticked longest ago goes first.
pub const ROOTS_MAX: usize = 16;

/// Streams of one VM at once whose end is waited for; further ones are steered all the same.
pub const STREAMS_MAX: usize = 65_536;

/// A root that has not ticked for this long is gone.
const GONE_AFTER: Duration = Duration::from_secs(30);

/// And for so many ticks of others: after a pause of the whole process all are late alike.
const GONE_AFTER_TICKS: u32 = 100;

/// The root id of a logger that has a configuration of its own.
const OBSERVER: &[u8] = b"observe";

#[derive(Debug)]
struct Root<H> {
    context: u32,
    /// Only hands on what it is told of attempts.
    observer: bool,
    ticked: Instant,
    /// Ticks of other roots since.
    missed: u32,
    worker: Worker<H>,
}

#[derive(Clone, Copy, Debug)]
struct Stream {
    root: u32,
    id: StreamId,
}

/// All contexts of one VM.
#[derive(Debug)]
pub struct Contexts<H> {
    host: H,
    seed: u64,
    defined: Defined,
    actives: Actives,
    /// Newest last.
    roots: Vec<Root<H>>,
    streams: HashMap<u32, Stream>,
    /// While there are several filters: whose the streams are that have no request headers yet.
    parents: HashMap<u32, u32>,
    /// How many roots are filters'.
    filters: usize,
}

impl<H: Host + Clone> Contexts<H> {
    /// No context yet; `seed` gives this VM its own random numbers.
    pub fn new(host: H, seed: u64) -> Self {
        Self {
            host,
            seed,
            defined: Defined::default(),
            actives: Actives::default(),
            roots: Vec::new(),
            streams: HashMap::new(),
            parents: HashMap::new(),
            filters: 0,
        }
    }

    /// A stream begins that belongs to the root `parent`, or a root, which has none.
    pub fn on_create(&mut self, context: u32, parent: u32) {
        if parent == 0 || self.filters < 2 {
            return;
        }
        if self.parents.len() >= STREAMS_MAX {
            self.parents.clear();
        }
        self.parents.insert(context, parent);
    }

    /// A root is configured, for the first time or again. False: the configuration was refused.
    pub fn on_configure(&mut self, context: u32) -> bool {
        let now = self.host.now();
        let observer = self.host.property(b"plugin_root_id").is_ok_and(|id| id == OBSERVER);
        if let Some(root) = self.root(context) {
            return observer || root.worker.on_configure();
        }
        self.seed = self.seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut worker = Worker::new(
            self.host.clone(),
            (Rc::clone(&self.defined), Rc::clone(&self.actives)),
            self.seed,
        );
        if !observer && !worker.on_configure() {
            return false;
        }
        if self.roots.len() >= ROOTS_MAX {
            let oldest = self.roots.iter().enumerate().min_by_key(|(_, root)| root.ticked);
            if let Some((oldest, _)) = oldest {
                self.roots.remove(oldest).worker.abandon();
            }
        }
        self.roots.push(Root { context, observer, ticked: now, missed: 0, worker });
        self.count_filters();
        true
    }

    /// A root's timer fired.
    pub fn on_tick(&mut self, context: u32) {
        let Some(root) = self.root(context) else { return };
        root.worker.on_tick();
        root.ticked = root.worker.ticked();
        let now = root.ticked;
        let before = self.roots.len();
        for root in &mut self.roots {
            root.missed = if root.context == context { 0 } else { root.missed.saturating_add(1) };
        }
        let gone = |root: &Root<H>| {
            now.since(root.ticked) >= GONE_AFTER && root.missed >= GONE_AFTER_TICKS
        };
        self.roots.retain_mut(|root| {
            let kept = root.observer || !gone(root);
            if !kept {
                root.worker.abandon();
            }
            kept
        });
        if self.roots.len() != before {
            self.count_filters();
        }
    }

    /// The headers of a request have arrived.
    pub fn on_request_headers(&mut self, context: u32) {
        let parent = self.parents.remove(&context);
        let parent = parent.filter(|parent| self.roots.iter().any(|root| root.context == *parent));
        let serves = |root: &&mut Root<H>| {
            !root.observer && parent.is_none_or(|parent| root.context == parent)
        };
        let Some(root) = self.roots.iter_mut().rev().find(serves) else {
            // nobody is there to count a failure of this
            let _: Outcome<()> = apply::clean_unread(&self.host);
            return;
        };
        let stream = root.worker.on_request(context).map(|id| Stream { root: root.context, id });
        let Some(stream) = stream else { return };
        if self.streams.len() < STREAMS_MAX {
            self.streams.insert(context, stream);
        } else {
            root.worker.forget(stream.id);
        }
    }

    /// A stream is over, or the access logger has an attempt to tell of.
    pub fn on_log(&mut self, context: u32) {
        self.parents.remove(&context);
        if let Some(stream) = self.streams.remove(&context) {
            if let Some(root) = self.root(stream.root) {
                root.worker.on_end(stream.id);
            }
            return;
        }
        let Some(root) = self.root(context) else { return };
        if !root.observer {
            root.worker.on_attempt(context);
            return;
        }
        if let Some(filter) = self.roots.iter_mut().rev().find(|root| !root.observer) {
            filter.worker.on_attempt(context);
        }
    }

    /// A call of our own was answered.
    pub fn on_call_answered(&mut self, context: u32, call: u32, headers: usize, body: usize) {
        if let Some(root) = self.root(context) {
            root.worker.on_call_answered(call, headers, body);
        }
    }

    /// How many streams are waited for.
    #[must_use]
    pub fn streams(&self) -> usize {
        self.streams.len()
    }

    fn root(&mut self, context: u32) -> Option<&mut Root<H>> {
        self.roots.iter_mut().find(|root| root.context == context)
    }

    fn count_filters(&mut self) {
        self.filters = self.roots.iter().filter(|root| !root.observer).count();
        if self.filters < 2 {
            self.parents.clear();
        }
    }
}

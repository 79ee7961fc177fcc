//! What requests of a worker wait for when the membership changes, as calls that `run.mjs` times.
//!
//! The stages are those of the plugin: a VM reads the text of Envoy's admin and writes the
//! snapshot, every other one takes it over, and each builds its tables in slices: the plugin's own
//! code without its host calls.

use std::cell::RefCell;

use outrigger_policy::attempt::budget::Totals;
use outrigger_policy::config::{self, LbPolicy};
use outrigger_policy::engine::{Cookie, Engine, Environment, Site};
use outrigger_policy::membership::{ClusterUpdate, Membership, snapshot};
use outrigger_policy::pick::{Building, Member, Picker, SLICE_UNITS};
use outrigger_policy::state::orca::Report;
use outrigger_policy::time::Instant;

const CLUSTER: &str = "c1";

#[derive(Default)]
struct State {
    /// Who polls, and who follows.
    engines: Vec<Engine>,
    config: String,
    text: String,
    snapshot: Vec<u8>,
    membership: Membership,
    keys: Vec<String>,
    building: Option<Building>,
    clock: u64,
}

thread_local! {
    static STATE: RefCell<State> = RefCell::default();
}

/// A process of which nothing is known.
struct Nothing;

impl Environment for Nothing {
    fn cluster_name(&mut self, _: &mut Vec<u8>) -> bool {
        false
    }
    fn source_address(&mut self, _: &mut Vec<u8>) -> bool {
        false
    }
    fn totals(&mut self, _: u32) -> Option<Totals> {
        None
    }
    fn take_permit(&mut self, _: u32, _: Instant, _: Instant) -> bool {
        false
    }
    fn release_permit(&mut self, _: u32, _: Instant) {}
    fn load_report(&mut self) -> Option<Report> {
        None
    }
    fn stream(&mut self) -> u32 {
        0
    }
    fn set_cookie(&mut self, _: u32, _: Cookie, _: &[u8]) {}
    fn clock(&mut self) -> Instant {
        Instant::ZERO
    }
    fn active(&mut self, _: u32) -> i64 {
        0
    }
    fn add_active(&mut self, _: u32, _: i64) {}
}

fn with<T>(call: impl FnOnce(&mut State) -> T) -> T {
    STATE.with(|state| call(&mut state.borrow_mut()))
}

fn address(number: u32) -> String {
    let [_, a, b, c] = number.to_be_bytes();
    format!("10.{a}.{b}.{c}:8080")
}

/// Room for `size` bytes of configuration, to be written there.
#[unsafe(no_mangle)]
pub extern "C" fn config_buffer(size: usize) -> *mut u8 {
    with(|state| {
        state.config = " ".repeat(size);
        state.config.as_mut_ptr()
    })
}

fn configured(state: &State) -> Option<config::Config> {
    config::parse(state.config.as_bytes()).ok()
}

/// Two engines of the configuration. False: it was refused.
#[unsafe(no_mangle)]
pub extern "C" fn engines() -> bool {
    with(|state| {
        let Some(config) = configured(state) else { return false };
        let engine = || Engine::new(config.clone(), Site::default());
        state.engines = vec![engine(), engine()];
        true
    })
}

/// Envoy's answer about `endpoints` endpoints, the first of which are `gone` others.
#[unsafe(no_mangle)]
pub extern "C" fn answer(endpoints: u32, gone: u32) -> usize {
    const LINES: [&str; 18] = [
        "cx_active::1",
        "cx_connect_fail::0",
        "cx_total::1",
        "rq_active::0",
        "rq_error::0",
        "rq_success::12345",
        "rq_timeout::0",
        "rq_total::12345",
        "hostname::",
        "health_flags::healthy",
        "weight::1",
        "region::",
        "zone::",
        "sub_zone::",
        "canary::false",
        "priority::0",
        "success_rate::-1",
        "local_origin_success_rate::-1",
    ];
    with(|state| {
        state.clock += 1;
        state.text =
            format!("{CLUSTER}::observability_name::{CLUSTER}\n{CLUSTER}::added_via_api::true\n");
        state.keys = (gone..endpoints.saturating_add(gone)).map(address).collect();
        for address in &state.keys {
            for line in LINES {
                for part in [CLUSTER, "::", address, "::", line, "\n"] {
                    state.text.push_str(part);
                }
            }
        }
        state.text.len()
    })
}

/// The poller reads the answer. True: it changed something.
#[unsafe(no_mangle)]
pub extern "C" fn decode() -> bool {
    with(|state| {
        let now = Instant::from_millis(state.clock);
        let Some(engine) = state.engines.first_mut() else { return false };
        engine.on_clusters_answer(state.text.as_bytes(), &mut Nothing, now).unwrap_or(false)
    })
}

/// The poller writes the snapshot; its size.
#[unsafe(no_mangle)]
pub extern "C" fn publish() -> usize {
    with(|state| {
        state.snapshot = state.engines.first().map_or_else(Vec::new, Engine::snapshot);
        state.snapshot.len()
    })
}

/// A follower takes the snapshot over. True: it changed something.
#[unsafe(no_mangle)]
pub extern "C" fn take_over() -> bool {
    with(|state| {
        let now = Instant::from_millis(state.clock);
        let Some(engine) = state.engines.get_mut(1) else { return false };
        engine.on_snapshot(&state.snapshot, now).unwrap_or(false)
    })
}

/// An engine builds one slice. True: there is more to do.
#[unsafe(no_mangle)]
pub extern "C" fn slice(engine: usize) -> bool {
    with(|state| {
        let now = Instant::from_millis(state.clock);
        state.engines.get_mut(engine).is_some_and(|engine| engine.build(SLICE_UNITS, now))
    })
}

/// The snapshot is read and compared with the membership before it, and no more.
#[unsafe(no_mangle)]
pub extern "C" fn compare() -> bool {
    with(|state| {
        let updates = snapshot::decode(&state.snapshot).unwrap_or_default();
        let apply = |update: ClusterUpdate| state.membership.apply(&update.name, update.update);
        updates.into_iter().map(apply).any(|diff| diff.changed)
    })
}

/// Begins the table of the configured cluster by itself, over the answer's endpoints.
#[unsafe(no_mangle)]
pub extern "C" fn begin() -> bool {
    with(|state| {
        let Some(config) = configured(state) else { return false };
        let policy: &LbPolicy = &config.defaults.lb_policy;
        let policy = config.clusters.first().map_or(policy, |c| &c.settings.lb_policy);
        let members: Vec<_> = state.keys.iter().map(|key| Member { key, weight: 1 }).collect();
        state.building = Some(Picker::begin(policy, &members, 1));
        true
    })
}

/// One slice of it. True: it is complete.
#[unsafe(no_mangle)]
pub extern "C" fn step() -> bool {
    with(|state| state.building.as_mut().is_none_or(|building| building.step(SLICE_UNITS)))
}

/// Makes the picker of it; how many endpoints it has.
#[unsafe(no_mangle)]
pub extern "C" fn finish() -> u32 {
    with(|state| state.building.take().map_or(0, |building| building.finish().len()))
}

//! The process's shared data: which keys there are, and how they are written.
//!
//! Everything that workers share goes through here: the state of breakers, the membership, the
//! lease of who polls, and the permits of half-open trials. A compare-and-swap on a key that does
//! not exist always succeeds, for two workers at once, so all keys that are swapped are made
//! before the workers start: Envoy configures the plugin on its main thread first.

use outrigger_policy::engine::{Engine, Environment, PERMITS};
use outrigger_policy::membership::lease::Lease;
use outrigger_policy::metrics::Id;
use outrigger_policy::time::Instant;

use crate::host::{Failure, Host, Outcome};

const STATE: &str = "outrigger.state";
const MEMBERSHIP: &str = "outrigger.membership";
const MEMBERSHIP_VERSION: &str = "outrigger.membership.version";
const SLOTS: &str = "outrigger.slots";
const LEASE: &str = "outrigger.lease";

/// Rounds of reading, merging and writing when others write at the same time.
const SWAPS_MAX: u32 = 8;

fn permit_key(permit: u32) -> String {
    format!("outrigger.permit.{permit}")
}

/// Makes the keys that are swapped later, if they do not exist yet.
pub fn prepare(host: &impl Host) -> Outcome<()> {
    make(host, STATE, &[])?;
    make(host, SLOTS, &[])?;
    make(host, LEASE, &Lease::FREE.encode())?;
    for permit in 0..PERMITS {
        make(host, &permit_key(permit), &permit_value(Instant::ZERO, 0))?;
    }
    Ok(())
}

fn make(host: &impl Host, key: &str, value: &[u8]) -> Outcome<()> {
    match host.shared(key) {
        Err(Failure::NotFound) => host.set_shared(key, value, 0),
        Err(failure) => Err(failure),
        Ok(_) => Ok(()),
    }
}

/// Gives counters to the endpoints that need one and have none.
pub fn claim_slots(
    host: &impl Host,
    engine: &mut Engine,
    environment: &mut impl Environment,
) -> Outcome<()> {
    for _ in 0..SWAPS_MAX {
        let (bytes, version) = host.shared(SLOTS)?;
        let Some(grown) = engine.claim_slots(&bytes, environment) else { return Ok(()) };
        match host.set_shared(SLOTS, &grown, version) {
            Err(Failure::CasMismatch) => {}
            other => return other,
        }
    }
    Err(Failure::CasMismatch)
}

/// Ticks after which a worker looks even if it was not told that anybody wrote.
const LOOK_EVERY_TICKS: u32 = 50;

/// What a worker has seen of the shared data.
#[derive(Debug, Default)]
pub struct Seen {
    state: u32,
    membership: Vec<u8>,
    writes: Option<u64>,
    ticks: u32,
}

impl Seen {
    /// Whether to look, when the process's count of writes stands at `writes`. Reading a counter
    /// costs a tenth of reading a value; where metrics are thrown away the count stands still.
    pub fn must_look(&mut self, writes: Option<u64>) -> bool {
        self.ticks = self.ticks.wrapping_add(1);
        let told = writes.is_none() || writes != self.writes;
        self.writes = writes;
        told || self.ticks.is_multiple_of(LOOK_EVERY_TICKS)
    }

    /// Takes over the others' state if it changed, and writes this worker's if it has news.
    pub fn sync_state(
        &mut self,
        host: &impl Host,
        engine: &mut Engine,
        now: Instant,
    ) -> Outcome<()> {
        for _ in 0..SWAPS_MAX {
            let (bytes, version) = host.shared(STATE)?;
            if version != self.state {
                engine.merge_state(&bytes);
                self.state = version;
            }
            if !engine.is_dirty() {
                return Ok(());
            }
            match host.set_shared(STATE, &engine.state(now), version) {
                Ok(()) => {
                    engine.state_written();
                    engine.process_sums().count(Id::SharedWrites);
                }
                Err(Failure::CasMismatch) => {}
                Err(failure) => return Err(failure),
            }
        }
        // whatever is still unwritten is written on the next tick
        Ok(())
    }

    /// Takes over the membership if another worker wrote a newer one. Returns whether it changed.
    pub fn sync_membership(
        &mut self,
        host: &impl Host,
        engine: &mut Engine,
        now: Instant,
    ) -> Outcome<bool> {
        let version = match host.shared(MEMBERSHIP_VERSION) {
            Err(Failure::NotFound) => return Ok(false),
            Err(failure) => return Err(failure),
            Ok((version, _)) => version,
        };
        if version == self.membership {
            return Ok(false);
        }
        let (bytes, _) = host.shared(MEMBERSHIP)?;
        self.membership = version;
        Ok(engine.on_snapshot(&bytes, now).unwrap_or(false))
    }

    /// Writes the membership for the others.
    pub fn publish_membership(
        &mut self,
        host: &impl Host,
        engine: &mut Engine,
        now: Instant,
    ) -> Outcome<()> {
        host.set_shared(MEMBERSHIP, &engine.snapshot(), 0)?;
        self.membership = now.0.to_le_bytes().to_vec();
        host.set_shared(MEMBERSHIP_VERSION, &self.membership, 0)?;
        engine.process_sums().count(Id::SharedWrites);
        Ok(())
    }
}

/// Takes or renews the lease to poll, until `until`. False: another VM holds it.
pub fn take_lease(host: &impl Host, wanted: Lease, now: Instant) -> Outcome<bool> {
    let (bytes, version) = host.shared(LEASE)?;
    if !Lease::decode(&bytes).is_open_to(wanted.owner, wanted.fit, now) {
        return Ok(false);
    }
    swapped(host.set_shared(LEASE, &wanted.encode(), version))
}

/// Takes `permit` until `until` for `owner`. False: somebody holds it.
pub fn take_permit(
    host: &impl Host,
    permit: u32,
    owner: u64,
    until: Instant,
    now: Instant,
) -> Outcome<bool> {
    let key = permit_key(permit);
    let (bytes, version) = host.shared(&key)?;
    if permit_until(&bytes) > now {
        return Ok(false);
    }
    swapped(host.set_shared(&key, &permit_value(until, owner), version))
}

/// Gives back `permit` from `free_from` on, if `owner` still holds it.
pub fn release_permit(
    host: &impl Host,
    permit: u32,
    owner: u64,
    free_from: Instant,
) -> Outcome<()> {
    let key = permit_key(permit);
    let (bytes, version) = host.shared(&key)?;
    if bytes.get(8..) != Some(owner.to_le_bytes().as_slice()) {
        return Ok(());
    }
    swapped(host.set_shared(&key, &permit_value(free_from, 0), version)).map(|_| ())
}

fn swapped(result: Outcome<()>) -> Outcome<bool> {
    match result {
        Ok(()) => Ok(true),
        Err(Failure::CasMismatch) => Ok(false),
        Err(failure) => Err(failure),
    }
}

fn permit_value(until: Instant, owner: u64) -> Vec<u8> {
    [until.0.to_le_bytes(), owner.to_le_bytes()].concat()
}

fn permit_until(bytes: &[u8]) -> Instant {
    Instant(bytes.first_chunk::<8>().map_or(0, |b| u64::from_le_bytes(*b)))
}

//! What the workers of a process tell each other, as bytes.

use core::time::Duration;

use super::Engine;
use crate::membership::snapshot::{self, SnapshotError};
use crate::membership::{ClusterUpdate, Update};
use crate::state::breaker::Record;
use crate::state::share::{self, Entry};
use crate::time::Instant;

/// A record of an endpoint that this worker does not know is handed on for this long: another
/// worker may know it already.
const UNKNOWN_KEPT: Duration = Duration::from_secs(600);

impl Engine {
    /// Whether this worker knows something that the others should.
    #[must_use]
    pub const fn is_dirty(&self) -> bool {
        self.dirty
    }

    /// Takes over what other workers wrote.
    pub fn merge_state(&mut self, bytes: &[u8]) {
        self.shared = share::decode(bytes);
        self.adopt_shared();
    }

    /// The state of all endpoints that ever moved, to be written for the others.
    #[must_use]
    pub fn state(&self, now: Instant) -> Vec<u8> {
        let mut entries = Vec::new();
        for cluster in &self.clusters {
            for (address, row) in cluster.addresses.iter().zip(cluster.table.rows()) {
                let record = *row.breaker.record();
                if record.version > 0 {
                    let (cluster, address) = (cluster.name.clone(), address.clone());
                    entries.push(Entry { cluster, address, record });
                }
            }
        }
        for entry in &self.shared {
            let known = self.find(&entry.cluster, &entry.address).is_some();
            if !known && now.since(entry.record.changed) < UNKNOWN_KEPT {
                entries.push(entry.clone());
            }
        }
        share::encode(&entries)
    }

    /// The state has been written.
    pub const fn state_written(&mut self) {
        self.dirty = false;
    }

    /// The membership, to be written for the others.
    #[must_use]
    pub fn snapshot(&self) -> Vec<u8> {
        snapshot::encode(&self.membership)
    }

    /// Takes over the membership that another worker wrote. Clusters with static membership keep
    /// their own. Returns whether anything changed.
    ///
    /// # Errors
    /// When the bytes are of another format or damaged; nothing has changed then.
    pub fn on_snapshot(&mut self, bytes: &[u8], now: Instant) -> Result<bool, SnapshotError> {
        let updates = snapshot::decode(bytes)?;
        let mut changed = false;
        for ClusterUpdate { name, update } in updates {
            let configured = self.config.cluster(&name);
            let own = configured.is_some_and(|cluster| cluster.static_endpoints.is_some());
            if self.is_wanted(&name)
                && !own
                && name != self.config.admin.cluster
                && let Update::Reset(endpoints) = update
            {
                changed |= self.apply(&name, endpoints, now);
            }
        }
        if changed {
            self.adopt_shared();
        }
        Ok(changed)
    }

    pub(super) fn adopt_shared(&mut self) {
        for entry in &self.shared {
            let index = self.names.get(&entry.cluster).copied();
            let cluster = index.and_then(|index| self.clusters.get_mut(index as usize));
            if let Some(cluster) = cluster
                && let Some(place) = cluster.place(&entry.address)
            {
                cluster.adopt(place, &entry.record);
            }
        }
        for cluster in &mut self.clusters {
            cluster.readmit();
        }
    }

    fn find(&self, cluster: &str, address: &str) -> Option<&Record> {
        let cluster = self.clusters.get(*self.names.get(cluster)? as usize)?;
        let row = cluster.table.row(cluster.place(address)?)?;
        Some(row.breaker.record())
    }
}

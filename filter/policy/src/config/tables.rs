//! What the tables of a configuration take, and the refusal of more than a VM can hold.
//!
//! Envoy gives a VM 1 GiB, memory that a VM once had stays its own, and a VM that finds no more
//! traps. So the tables are added up before any is built, one for each cluster and priority. For
//! endpoints that are written in the configuration the sum is exact. For those that are asked for
//! it assumes one priority and equal weights, since nobody knows better yet; what differs from
//! that has to fit into the room that [`limits::TABLES_BYTES_MAX`] leaves.

use super::{ClusterConfig, ConfigError, LbPolicy, StaticEndpoint, limits, read::Object};

/// Bytes that a table of `policy` keeps for endpoints of these weights: the smallest, and the
/// sum of all.
///
/// The ring's entries are those of Envoy's `ring_hash_lb.cc`: a whole number for the lightest
/// endpoint and in proportion for the others, so that a light one among heavy ones makes a large
/// ring, up to `maximum_ring_size`.
#[must_use]
pub fn table_bytes(policy: &LbPolicy, lightest: u32, sum: u64) -> u64 {
    match *policy {
        LbPolicy::RoundRobin { .. }
        | LbPolicy::Random
        | LbPolicy::LeastRequest { .. }
        | LbPolicy::PeakEwma { .. } => 0,
        LbPolicy::RingHash { minimum_ring_size, maximum_ring_size, .. } => {
            let (lightest, sum) = (u64::from(lightest).max(1), sum.max(1));
            let of_lightest = minimum_ring_size.saturating_mul(lightest).div_ceil(sum);
            let entries = of_lightest.saturating_mul(sum).div_ceil(lightest);
            entries.min(maximum_ring_size).saturating_mul(limits::RING_ENTRY_BYTES)
        }
        LbPolicy::Maglev { table_size, .. } => {
            table_size.saturating_mul(limits::MAGLEV_ENTRY_BYTES)
        }
        LbPolicy::Rendezvous { table_size, .. } => {
            table_size.saturating_mul(limits::RENDEZVOUS_SLOT_BYTES)
        }
    }
}

/// The tables of the clusters so far.
#[derive(Debug, Default)]
pub(super) struct Tables {
    bytes: u64,
}

impl Tables {
    /// Adds those of `cluster`, which was read from `block`.
    pub(super) fn add(
        &mut self,
        block: &Object<'_>,
        cluster: &ClusterConfig,
    ) -> Result<(), ConfigError> {
        let policy = &cluster.settings.lb_policy;
        let tables = match &cluster.static_endpoints {
            Some(endpoints) => of_static(policy, endpoints),
            None => vec![table_bytes(policy, 1, 1)],
        };
        self.bytes = tables.iter().fold(self.bytes, |sum, bytes| sum.saturating_add(*bytes));
        if self.bytes <= limits::TABLES_BYTES_MAX {
            return Ok(());
        }
        let path = match block.get("lb_policy") {
            Some(_) => block.path("lb_policy"),
            None => "defaults.lb_policy".into(),
        };
        let largest = tables.into_iter().max().unwrap_or_default();
        let (whole, remedy) = ("all clusters", "choose smaller ones here or there");
        Err(too_large(path, policy, largest, whole, self.bytes, remedy))
    }
}

/// Whether as many clusters as there can be may have a table of this policy each.
pub(super) fn fit_every_cluster(policy: &LbPolicy) -> Result<(), ConfigError> {
    let own = table_bytes(policy, 1, 1);
    let most = u64::try_from(limits::CLUSTERS_MAX).unwrap_or(u64::MAX);
    let bytes = own.saturating_mul(most);
    if bytes <= limits::TABLES_BYTES_MAX {
        return Ok(());
    }
    let whole = format!("up to {most} unnamed clusters");
    let remedy = "choose a smaller one, or name the clusters";
    Err(too_large("defaults.lb_policy".into(), policy, own, &whole, bytes, remedy))
}

/// A table for each priority; they are used without a gap.
fn of_static(policy: &LbPolicy, endpoints: &[StaticEndpoint]) -> Vec<u64> {
    let mut priorities: Vec<Option<(u32, u64)>> = Vec::new();
    for endpoint in endpoints {
        let place = usize::try_from(endpoint.priority).unwrap_or(usize::MAX);
        if place >= priorities.len() {
            priorities.resize(place.saturating_add(1), None);
        }
        if let Some(priority) = priorities.get_mut(place) {
            let (lightest, sum) = priority.unwrap_or((endpoint.weight, 0));
            let sum = sum.saturating_add(endpoint.weight.into());
            *priority = Some((lightest.min(endpoint.weight), sum));
        }
    }
    let weights = priorities.into_iter().flatten();
    weights.map(|(lightest, sum)| table_bytes(policy, lightest, sum)).collect()
}

/// Blames the field that makes the table as large as it is: of a ring that weights make large,
/// the maximum.
fn too_large(
    mut path: String,
    policy: &LbPolicy,
    largest: u64,
    whole: &str,
    bytes: u64,
    remedy: &str,
) -> ConfigError {
    let (field, got) = match *policy {
        LbPolicy::RingHash { minimum_ring_size, maximum_ring_size, .. } => {
            let at_least = minimum_ring_size.saturating_mul(limits::RING_ENTRY_BYTES);
            match largest / 2 > at_least {
                true => (".ring_hash.maximum_ring_size", maximum_ring_size),
                false => (".ring_hash.minimum_ring_size", minimum_ring_size),
            }
        }
        LbPolicy::Maglev { table_size, .. } => (".maglev.table_size", table_size),
        LbPolicy::Rendezvous { table_size, .. } => (".rendezvous.table_size", table_size),
        _ => ("", 0),
    };
    path.push_str(field);
    let most = limits::TABLES_BYTES_MAX;
    let reason = format!(
        "must keep the tables of {whole} within {most} bytes, got {got}, which makes them {bytes}: \
         {remedy}"
    );
    ConfigError { path, reason }
}

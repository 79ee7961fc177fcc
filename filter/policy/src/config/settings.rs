//! The blocks that a cluster and `defaults` have in common, put over a base.
//!
//! `circuit_breaker` and `retry` merge field by field, because each field means something alone;
//! every other block replaces its base whole, because half of one policy and half of another is
//! neither. `null` switches off a block that the base switched on.

use super::{
    ClusterSettings, ConfigError,
    circuit_breaker::circuit_breaker,
    hash_policy::hash_policies,
    lb_policy::lb_policy,
    limits,
    read::{Cursor, Object},
    retry::retry,
    selection,
};

/// The keys of a cluster.
pub(super) const CLUSTER: [&str; 14] = [
    "name",
    "match",
    "membership",
    "lb_policy",
    "hash_policy",
    "slow_start",
    "orca_weights",
    "overprovisioning_factor",
    "zone_aware",
    "subsets",
    "random_subsetting",
    "session",
    "circuit_breaker",
    "retry",
];

/// Those of them that `defaults` has too.
pub(super) const BLOCKS: [&str; 11] = {
    let [_, _, _, blocks @ ..] = CLUSTER;
    blocks
};

/// What `block` says, over `base`.
pub(super) fn settings(
    block: &Object<'_>,
    base: &ClusterSettings,
) -> Result<ClusterSettings, ConfigError> {
    let mut settings = base.clone();
    if let Some(at) = block.get("lb_policy") {
        settings.lb_policy = lb_policy(&at)?;
    }
    if let Some(at) = block.get("hash_policy") {
        settings.hash_policy = hash_policies(&at)?;
    }
    if let Some(at) = block.get("slow_start") {
        settings.slow_start = unless_null(&at, selection::slow_start)?;
    }
    if let Some(at) = block.get("orca_weights") {
        settings.orca_weights = unless_null(&at, selection::orca_weights)?;
    }
    if let Some(at) = block.get("overprovisioning_factor") {
        settings.overprovisioning_factor = at.whole_u32(&limits::OVERPROVISIONING_FACTOR)?;
    }
    if let Some(at) = block.get("zone_aware") {
        settings.zone_aware = unless_null(&at, selection::zone_aware)?;
    }
    if let Some(at) = block.get("subsets") {
        settings.subsets = unless_null(&at, selection::subsets)?;
    }
    if let Some(at) = block.get("random_subsetting") {
        settings.random_subsetting = unless_null(&at, selection::random_subsetting)?;
    }
    if let Some(at) = block.get("session") {
        settings.session = unless_null(&at, selection::session)?;
    }
    if let Some(at) = block.get("circuit_breaker") {
        circuit_breaker(&at, &mut settings.circuit_breaker)?;
    }
    if let Some(at) = block.get("retry") {
        retry(&at, &mut settings.retry)?;
    }
    Ok(settings)
}

/// `null` takes back what the base set: only so can a cluster do without it.
pub(super) fn unless_null<T>(
    at: &Cursor<'_>,
    read: impl FnOnce(&Cursor<'_>) -> Result<T, ConfigError>,
) -> Result<Option<T>, ConfigError> {
    if at.is_null() { Ok(None) } else { read(at).map(Some) }
}

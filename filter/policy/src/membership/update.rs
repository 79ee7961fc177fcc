//! What a source says about clusters, whatever the source.
//!
//! Empty is not the same as gone: a cluster that is scaled to zero is still there, and one that
//! an answer does not name may have been deleted or not have arrived yet. So the two are apart.

use serde::{Deserialize, Serialize};

pub use crate::config::Locality;
use crate::config::StaticEndpoint;

/// One host of a cluster, as its source describes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// `ip:port` or `[v6]:port`, spelt as Envoy prints it; unique within a cluster.
    pub address: String,
    /// Share of the load among the endpoints of one priority, at least 1.
    pub weight: u32,
    /// 0 is the most preferred.
    pub priority: u32,
    /// Where it runs.
    pub locality: Locality,
    /// What Envoy itself thinks of it.
    pub health: Health,
    /// Requests in flight to it from the whole process when the source answered; 0 when the
    /// source does not count them.
    pub rq_active: u32,
    /// What subsets are chosen by, sorted by key; empty where the source does not say.
    pub metadata: Vec<(String, String)>,
}

impl Endpoint {
    /// True when the two differ in nothing but load, which changes with every request.
    #[must_use]
    pub fn same_but_load(&self, other: &Self) -> bool {
        self.address == other.address
            && self.weight == other.weight
            && self.priority == other.priority
            && self.health == other.health
            && self.locality == other.locality
            && self.metadata == other.metadata
    }
}

impl From<&StaticEndpoint> for Endpoint {
    fn from(from: &StaticEndpoint) -> Self {
        Self {
            address: from.address.clone(),
            weight: from.weight,
            priority: from.priority,
            locality: from.locality.clone(),
            health: Health::HEALTHY,
            rq_active: 0,
            metadata: from.metadata.clone(),
        }
    }
}

/// Envoy's health flags of a host, as a set. No flag: healthy.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Health(u16);

impl Health {
    /// No flag at all.
    pub const HEALTHY: Self = Self(0);
    /// Active health checks failed.
    pub const FAILED_ACTIVE_HC: Self = Self(1);
    /// Envoy's own outlier detection ejected it.
    pub const FAILED_OUTLIER_CHECK: Self = Self(1 << 1);
    /// EDS says unhealthy (or timed out).
    pub const FAILED_EDS_HEALTH: Self = Self(1 << 2);
    /// An active health check answered "degraded".
    pub const DEGRADED_ACTIVE_HC: Self = Self(1 << 3);
    /// EDS says degraded.
    pub const DEGRADED_EDS_HEALTH: Self = Self(1 << 4);
    /// EDS removed it, and its health checks still pass; Envoy keeps using it.
    pub const PENDING_DYNAMIC_REMOVAL: Self = Self(1 << 5);
    /// Not checked yet; Envoy leaves it out of every count.
    pub const PENDING_ACTIVE_HC: Self = Self(1 << 6);
    /// It asked to be left out (`x-envoy-immediate-health-check-fail`).
    pub const EXCLUDED_VIA_IMMEDIATE_HC_FAIL: Self = Self(1 << 7);
    /// The last failed check was a time-out; says why, not whether.
    pub const ACTIVE_HC_TIMEOUT: Self = Self(1 << 8);
    /// EDS says draining.
    pub const EDS_STATUS_DRAINING: Self = Self(1 << 9);
    /// Envoy's outlier detection marked it degraded.
    pub const DEGRADED_OUTLIER_DETECTION: Self = Self(1 << 10);
    /// A word that this version does not know.
    pub const UNKNOWN: Self = Self(1 << 15);

    /// Envoy's word for each flag, as `/clusters` prints it.
    pub const WORDS: [(&'static str, Self); 11] = [
        ("failed_active_hc", Self::FAILED_ACTIVE_HC),
        ("failed_outlier_check", Self::FAILED_OUTLIER_CHECK),
        ("failed_eds_health", Self::FAILED_EDS_HEALTH),
        ("degraded_active_hc", Self::DEGRADED_ACTIVE_HC),
        ("degraded_eds_health", Self::DEGRADED_EDS_HEALTH),
        ("pending_dynamic_removal", Self::PENDING_DYNAMIC_REMOVAL),
        ("pending_active_hc", Self::PENDING_ACTIVE_HC),
        ("excluded_via_immediate_hc_fail", Self::EXCLUDED_VIA_IMMEDIATE_HC_FAIL),
        ("active_hc_timeout", Self::ACTIVE_HC_TIMEOUT),
        ("eds_status_draining", Self::EDS_STATUS_DRAINING),
        ("degraded_outlier_detection", Self::DEGRADED_OUTLIER_DETECTION),
    ];

    /// The flags that take a host out of Envoy's healthy and degraded sets: those of its coarse
    /// health and those that exclude a host from every set. An unknown word joins them, because
    /// leaving one endpoint alone costs less than sending users to one that Envoy took out.
    const OUT: Self = Self::FAILED_ACTIVE_HC
        .with(Self::FAILED_OUTLIER_CHECK)
        .with(Self::FAILED_EDS_HEALTH)
        .with(Self::EDS_STATUS_DRAINING)
        .with(Self::PENDING_ACTIVE_HC)
        .with(Self::EXCLUDED_VIA_IMMEDIATE_HC_FAIL)
        .with(Self::UNKNOWN);

    /// The flags of Envoy's degraded set.
    const DEGRADED: Self = Self::DEGRADED_ACTIVE_HC
        .with(Self::DEGRADED_EDS_HEALTH)
        .with(Self::DEGRADED_OUTLIER_DETECTION);

    /// Both sets of flags together.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// True when every flag of `flags` is set.
    #[must_use]
    pub const fn contains(self, flags: Self) -> bool {
        self.0 & flags.0 == flags.0
    }

    /// The bits, for logs and dumps.
    #[must_use]
    pub const fn bits(self) -> u16 {
        self.0
    }

    /// True when Envoy would send it requests, degraded hosts included.
    #[must_use]
    pub const fn is_healthy(self) -> bool {
        self.0 & Self::OUT.0 == 0
    }

    /// True when Envoy would use it only once healthy ones are too few.
    #[must_use]
    pub const fn is_degraded(self) -> bool {
        self.is_healthy() && self.0 & Self::DEGRADED.0 != 0
    }

    /// True when Envoy leaves it out of every count.
    #[must_use]
    pub const fn is_excluded(self) -> bool {
        self.0 & Self::PENDING_ACTIVE_HC.with(Self::EXCLUDED_VIA_IMMEDIATE_HC_FAIL).0 != 0
    }

    /// True when it may go on serving what it has begun: Envoy would send it requests, or would
    /// but for its draining.
    #[must_use]
    pub const fn keeps_sessions(self) -> bool {
        Self(self.0 & !Self::EDS_STATUS_DRAINING.0).is_healthy()
    }

    /// The flags of a `health_flags` value: `healthy`, or words each after a `/`. Unknown words
    /// become [`Self::UNKNOWN`]; nothing is an error.
    #[must_use]
    pub fn from_words(text: &str) -> Self {
        if text == "healthy" {
            return Self::HEALTHY;
        }
        text.split('/').filter(|word| !word.is_empty()).fold(Self::HEALTHY, |flags, word| {
            let flag = Self::WORDS.iter().find(|(known, _)| *known == word);
            flags.with(flag.map_or(Self::UNKNOWN, |(_, flag)| *flag))
        })
    }
}

/// What a source says about one cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Update {
    /// These are all its endpoints, possibly none.
    Reset(Vec<Endpoint>),
    /// The answer does not know the cluster.
    Absent,
}

/// What a source says about the cluster called `name`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterUpdate {
    /// The cluster's name in Envoy.
    pub name: String,
    /// What is said about it.
    pub update: Update,
}

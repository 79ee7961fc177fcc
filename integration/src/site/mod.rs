//! Where the arms of a scenario run: processes of this machine (`native`) or containers
//! (`compose`).

pub mod compose;
pub mod docker;
pub mod native;

use crate::bootstrap::{Endpoint, Flavour, Lb};
use crate::envoy::Envoy;
use crate::upstream::Upstream;

/// One Envoy that a scenario asks for.
#[derive(Debug, Clone)]
pub struct ArmOrder {
    /// Name in the report.
    pub name: String,
    /// Which Envoy.
    pub flavour: Flavour,
    /// Policy of the cluster, or of the fallback.
    pub lb: Lb,
    /// The plugin's configuration.
    pub plugin_config: serde_json::Value,
    /// Text to replace in Envoy's configuration.
    pub edits: Vec<(String, String)>,
}

impl ArmOrder {
    /// The templates as they are, named as the flavour is.
    #[must_use]
    pub fn plain(flavour: Flavour, lb: Lb, plugin_config: &serde_json::Value) -> Self {
        let (name, plugin_config) = (flavour.name().to_owned(), plugin_config.clone());
        Self { name, flavour, lb, plugin_config, edits: Vec::new() }
    }
}

/// What a scenario asks a site for.
#[derive(Debug, Clone)]
pub struct Order {
    /// One Envoy each.
    pub arms: Vec<ArmOrder>,
    /// Upstream processes.
    pub upstreams: usize,
    /// Endpoints (ports) of each upstream process.
    pub ports: usize,
    /// Whether all Envoys have the same upstreams; otherwise each has its own.
    pub shared: bool,
}

/// One Envoy with its upstreams.
#[derive(Debug)]
pub struct Arm {
    /// Name in the report.
    pub name: String,
    /// Which Envoy.
    pub flavour: Flavour,
    /// Its Envoy.
    pub envoy: Envoy,
    /// Its upstreams; shared ones appear in every arm.
    pub upstreams: std::sync::Arc<Vec<Upstream>>,
}

impl Arm {
    /// All endpoints, in the order of the upstreams.
    #[must_use]
    pub fn endpoints(&self) -> Vec<Endpoint> {
        endpoints(&self.upstreams)
    }
}

/// All addresses of these upstreams as plain members.
#[must_use]
pub fn endpoints(upstreams: &[Upstream]) -> Vec<Endpoint> {
    upstreams.iter().flat_map(|u| u.addresses().iter().copied().map(Endpoint::new)).collect()
}

/// A place to run arms.
#[derive(Debug)]
pub enum Site {
    /// Processes.
    Native(native::Native),
    /// Containers.
    Compose(compose::Compose),
}

impl Site {
    /// Starts fresh arms, so that nothing that one run learned helps or hurts the next.
    ///
    /// # Errors
    /// When something does not start.
    pub async fn open(&self, order: &Order) -> anyhow::Result<Vec<Arm>> {
        match self {
            Self::Native(native) => native.open(order).await,
            Self::Compose(compose) => compose.open(order).await,
        }
    }

    /// `native` or `compose`, as in the report.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Native(_) => "native",
            Self::Compose(_) => "compose",
        }
    }

    /// Whether there can be several Envoys of one flavour here.
    #[must_use]
    pub fn can_repeat_flavours(&self) -> bool {
        matches!(self, Self::Native(_))
    }

    /// Whether an upstream can be taken off the network here.
    #[must_use]
    pub fn can_disconnect(&self) -> bool {
        matches!(self, Self::Compose(_))
    }
}

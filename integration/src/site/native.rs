//! Arms as processes of this machine, everything on 127.0.0.1.

use std::path::Path;
use std::sync::Arc;

use anyhow::ensure;
use tempfile::TempDir;

use super::{Arm, Order, endpoints};
use crate::bootstrap::Bootstrap;
use crate::envoy::{Binaries, Envoy};
use crate::ports;
use crate::upstream::Upstream;

/// Settings of the native site.
#[derive(Debug)]
pub struct Native {
    /// Envoy and the module.
    pub binaries: Binaries,
    /// Worker threads of each Envoy.
    pub concurrency: u32,
    /// Where configurations and logs are kept while the rig runs.
    pub folder: TempDir,
}

impl Native {
    /// Starts fresh arms.
    ///
    /// # Errors
    /// When something does not start.
    pub async fn open(&self, order: &Order) -> anyhow::Result<Vec<Arm>> {
        let mut shared: Option<Arc<Vec<Upstream>>> = None;
        let mut arms = Vec::new();
        for arm in &order.arms {
            let folder = self.folder.path().join(format!("{:x}-{}", fastrand::u32(..), arm.name));
            std::fs::create_dir_all(&folder)?;
            let upstreams = match &shared {
                Some(upstreams) if order.shared => Arc::clone(upstreams),
                _ => Arc::new(self.upstreams(order, &folder).await?),
            };
            shared = Some(Arc::clone(&upstreams));
            let bootstrap = Bootstrap {
                flavour: arm.flavour,
                lb: arm.lb,
                listen: ports::free()?,
                admin: ports::free()?,
                plugin_config: arm.plugin_config.to_string(),
                wasm: self.binaries.wasm.clone(),
                folder,
                edits: arm.edits.clone(),
            };
            let idle = bootstrap.idle_edits()?;
            ensure!(idle.is_empty(), "nothing to replace: {idle:?}");
            let members = endpoints(&upstreams);
            let envoy =
                Envoy::start(&self.binaries.envoy, bootstrap, &members, self.concurrency).await?;
            let (name, flavour) = (arm.name.clone(), arm.flavour);
            arms.push(Arm { name, flavour, envoy, upstreams });
        }
        Ok(arms)
    }

    async fn upstreams(&self, order: &Order, folder: &Path) -> anyhow::Result<Vec<Upstream>> {
        let mut upstreams = Vec::with_capacity(order.upstreams);
        for number in 1..=order.upstreams {
            let name = format!("u{number}");
            upstreams.push(Upstream::start_process(&name, order.ports, folder).await?);
        }
        Ok(upstreams)
    }
}

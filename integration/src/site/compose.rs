//! Arms as containers: `docker-compose.yml` at the repository's root, run by docker-compose 1.29 or
//! Compose v2.
//!
//! Nothing is pulled. The images are made of what is here: Envoy with the files that `ldd` names,
//! and a static `integration`. Load and control go through ports that are published on 127.0.0.1
//! only. Containers are started once; between runs the Envoys are restarted, which is as fresh as a
//! new one.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, bail};

use super::docker::{self, Container};
use super::{Arm, Order, endpoints};
use crate::bootstrap::{Bootstrap, Flavour};
use crate::envoy::{Binaries, Envoy, write_files};
use crate::upstream::Upstream;
use crate::upstream::fault::FaultSpec;

const PROJECT: &str = "outrigger-rig";
const NETWORK: &str = "outrigger-rig";
/// Inside the containers, as docker-compose.yml mounts and publishes it.
const FOLDER: &str = "/etc/outrigger";
const LISTEN: u16 = 10_000;
const ADMIN: u16 = 9_901;
const FIRST_PORT: u16 = 8_000;
/// What docker-compose.yml has.
const UPSTREAMS_MAX: usize = 5;
const PORTS_MAX: usize = 11;

/// Settings of the compose site.
#[derive(Debug)]
pub struct Compose {
    root: PathBuf,
    /// `docker compose` or `docker-compose`.
    program: Vec<String>,
    wasm: PathBuf,
    up: AtomicBool,
}

/// One set of containers: an Envoy and its five upstreams.
struct Set {
    envoy: &'static str,
    config: &'static str,
    letter: char,
    /// Last byte of Envoy's address; the upstreams follow.
    host: u8,
    /// Published port of Envoy's listener; its admin is the next one.
    entry: u16,
    /// Published control port of upstream 1 less one.
    control: u16,
}

const OUTRIGGER: Set = Set {
    envoy: "envoy-outrigger",
    config: "outrigger",
    letter: 'o',
    host: 10,
    entry: 14_000,
    control: 14_100,
};
const NATIVE: Set = Set {
    envoy: "envoy-native",
    config: "native",
    letter: 'n',
    host: 20,
    entry: 14_010,
    control: 14_200,
};

impl Set {
    fn of(flavour: Flavour) -> &'static Self {
        if flavour == Flavour::Native { &NATIVE } else { &OUTRIGGER }
    }

    fn container(&self, service: &str, offset: u8) -> Container {
        Container::new(&format!("{PROJECT}-{service}"), NETWORK, self.address(offset))
    }

    fn address(&self, offset: u8) -> IpAddr {
        Ipv4Addr::new(172, 30, 77, self.host + offset).into()
    }

    fn upstreams(&self, count: usize, ports: usize) -> Vec<Upstream> {
        (1u8..).take(count).map(|number| self.upstream(number, ports)).collect()
    }

    fn upstream(&self, number: u8, ports: usize) -> Upstream {
        let ip = self.address(number);
        let addresses = (FIRST_PORT..).take(ports).map(|port| SocketAddr::new(ip, port)).collect();
        let control = published(self.control + u16::from(number));
        let container = self.container(&format!("{}{number}", self.letter), number);
        Upstream::in_container(&format!("u{number}"), addresses, control, container)
    }
}

fn published(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

impl Compose {
    /// Assembles the build contexts in `target/compose`, builds the images.
    ///
    /// # Errors
    /// When no engine answers, the static binary cannot be built, or an image.
    pub async fn prepare(root: PathBuf, binaries: &Binaries) -> anyhow::Result<Self> {
        if let Some(reason) = docker::unavailable().await {
            bail!("{reason}");
        }
        let program = program().await?;
        let own_image = std::env::var_os("ENVOY_IMAGE").is_none_or(|name| name.is_empty());
        assemble(&root, binaries, own_image).await?;
        let wasm = binaries.wasm.clone();
        let compose = Self { root, program, wasm, up: AtomicBool::new(false) };
        let mut build = vec!["build", "o1"];
        if own_image {
            build.push(OUTRIGGER.envoy);
        }
        compose.compose(&build).await?;
        Ok(compose)
    }

    /// Fresh Envoys, healthy upstreams.
    ///
    /// # Errors
    /// When something does not start.
    pub async fn open(&self, order: &Order) -> anyhow::Result<Vec<Arm>> {
        if order.upstreams > UPSTREAMS_MAX || order.ports > PORTS_MAX {
            bail!("docker-compose.yml has {UPSTREAMS_MAX} upstreams of {PORTS_MAX} ports");
        }
        let mut arms = Vec::new();
        let shared = Arc::new(OUTRIGGER.upstreams(order.upstreams, order.ports));
        for arm in &order.arms {
            let set = Set::of(arm.flavour);
            let upstreams = if order.shared {
                Arc::clone(&shared)
            } else {
                Arc::new(set.upstreams(order.upstreams, order.ports))
            };
            let members = endpoints(&upstreams);
            let folder = self.root.join("target/compose/config").join(set.config);
            let any = IpAddr::from(Ipv4Addr::UNSPECIFIED);
            let bootstrap = Bootstrap {
                flavour: arm.flavour,
                lb: arm.lb,
                listen: SocketAddr::new(any, LISTEN),
                admin: SocketAddr::new(any, ADMIN),
                plugin_config: arm.plugin_config.to_string(),
                wasm: Path::new(FOLDER).join("outrigger.wasm"),
                folder: FOLDER.into(),
                edits: arm.edits.clone(),
            };
            write_files(&bootstrap, &folder, &members)?;
            if arm.flavour == Flavour::Outrigger {
                let copy = std::fs::copy(&self.wasm, folder.join("outrigger.wasm"));
                copy.with_context(|| {
                    format!("no module at {}; run `make build`", self.wasm.display())
                })?;
            }
            let (entry, admin) = (published(set.entry), published(set.entry + 1));
            let container = set.container(set.envoy, 0);
            let envoy = Envoy::in_container(container, bootstrap, folder, entry, admin);
            let (name, flavour) = (arm.name.clone(), arm.flavour);
            arms.push(Arm { name, flavour, envoy, upstreams });
        }
        self.start(&arms).await?;
        for arm in &arms {
            for upstream in arm.upstreams.iter() {
                // Started already, but perhaps not answering yet.
                upstream.start().await?;
                upstream.fault(&FaultSpec::none()).await?;
                upstream.reset_stats().await?;
            }
            arm.envoy.wait_until_ready(true).await?;
        }
        Ok(arms)
    }

    async fn start(&self, arms: &[Arm]) -> anyhow::Result<()> {
        if !self.up.swap(true, Ordering::Relaxed) {
            // An arm that is not part of this run needs no containers.
            let mut services = vec!["up", "-d", "--no-build", "--force-recreate"];
            let names: Vec<String> = (1..=UPSTREAMS_MAX)
                .flat_map(|n| [&OUTRIGGER, &NATIVE].map(|set| format!("{}{n}", set.letter)))
                .collect();
            services.extend(names.iter().map(String::as_str));
            services.extend(arms.iter().map(|arm| Set::of(arm.flavour).envoy));
            return self.compose(&services).await.map(|_| ());
        }
        let restarts: Vec<_> = arms
            .iter()
            .map(|arm| {
                let set = Set::of(arm.flavour);
                let container = set.container(set.envoy, 0);
                tokio::spawn(async move { container.restart().await })
            })
            .collect();
        for restart in restarts {
            restart.await??;
        }
        Ok(())
    }

    async fn compose(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let (program, all) = self.command(arguments)?;
        docker::run(&program, &all).await
    }

    fn command(&self, arguments: &[&str]) -> anyhow::Result<(String, Vec<String>)> {
        let (first, rest) = self.program.split_first().context("no compose program")?;
        let mut all = rest.to_vec();
        let file = self.root.join("docker-compose.yml").display().to_string();
        all.extend(["-f", &file, "-p", PROJECT].map(str::to_owned));
        all.extend(arguments.iter().map(|&a| a.to_owned()));
        Ok((first.clone(), all))
    }
}

impl Drop for Compose {
    fn drop(&mut self) {
        if let Ok((program, arguments)) = self.command(&["down", "-t", "0"]) {
            let _ = std::process::Command::new(program).args(arguments).output();
        }
    }
}

async fn program() -> anyhow::Result<Vec<String>> {
    let version = ["compose", "version"].map(str::to_owned);
    if docker::run("docker", &version).await.is_ok() {
        return Ok(vec!["docker".into(), "compose".into()]);
    }
    docker::run("docker-compose", &["version".to_owned()]).await.context("no Compose here")?;
    Ok(vec!["docker-compose".into()])
}

/// Lays out `target/compose`: two build contexts, and the folders that the Envoys mount.
async fn assemble(root: &Path, binaries: &Binaries, own_image: bool) -> anyhow::Result<()> {
    let base = root.join("target/compose");
    for set in [&OUTRIGGER, &NATIVE] {
        std::fs::create_dir_all(base.join("config").join(set.config))?;
    }
    let docker = root.join("integration/docker");
    let context = base.join("integration");
    std::fs::create_dir_all(&context)?;
    copy(&docker.join("integration.Dockerfile"), &context.join("Dockerfile"))?;
    copy(&static_binary(root).await?, &context.join("integration"))?;
    let context = base.join("envoy");
    std::fs::create_dir_all(context.join("root"))?;
    copy(&docker.join("envoy.Dockerfile"), &context.join("Dockerfile"))?;
    if own_image {
        copy(&binaries.envoy, &context.join("root/usr/local/bin/envoy"))?;
        let listed = docker::run("ldd", &[binaries.envoy.display().to_string()]).await?;
        for library in libraries(&listed) {
            let inside = library.strip_prefix("/").unwrap_or(&library);
            copy(&library, &context.join("root").join(inside))?;
        }
    }
    Ok(())
}

/// The files that `ldd` names: `libm.so.6 => /lib/libm.so.6 (0x...)` and the loader,
/// `/lib64/ld-linux.so.2 (0x...)`.
fn libraries(listed: &str) -> Vec<PathBuf> {
    listed
        .lines()
        .filter_map(|line| {
            let named = line.rsplit_once("=>").map_or(line, |(_, path)| path);
            let path = named.split_whitespace().next()?;
            path.starts_with('/').then(|| PathBuf::from(path))
        })
        .collect()
}

fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    let describe = || format!("cannot copy {} to {}", from.display(), to.display());
    if let Some(folder) = to.parent() {
        std::fs::create_dir_all(folder).with_context(describe)?;
    }
    std::fs::copy(from, to).with_context(describe)?;
    Ok(())
}

/// This program without shared libraries: itself if it was built so, `OUTRIGGER_STATIC`, or built
/// now.
async fn static_binary(root: &Path) -> anyhow::Result<PathBuf> {
    if cfg!(target_feature = "crt-static") {
        return crate::process::own_binary();
    }
    if let Some(path) = std::env::var_os("OUTRIGGER_STATIC") {
        return Ok(path.into());
    }
    const TARGET: &str = "x86_64-unknown-linux-gnu";
    let folder = root.join("target/static");
    let mut command = std::process::Command::new("cargo");
    command.current_dir(root).env("RUSTFLAGS", "-C target-feature=+crt-static -C strip=symbols");
    command.args(["build", "--locked", "-p", "integration", "--target", TARGET, "--target-dir"]);
    command.arg(&folder);
    let output = tokio::task::spawn_blocking(move || command.output()).await??;
    if !output.status.success() {
        bail!("static build failed: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(folder.join(TARGET).join("debug/integration"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ldd_names_libraries_and_the_loader_but_not_the_vdso() {
        let text = "\tlinux-vdso.so.1 (0x00007ffc)\n\
                    \tlibm.so.6 => /lib/x86_64-linux-gnu/libm.so.6 (0x00007f1e)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x00007f1f)\n";
        let want = ["/lib/x86_64-linux-gnu/libm.so.6", "/lib64/ld-linux-x86-64.so.2"];
        assert_eq!(libraries(text), want.map(PathBuf::from));
    }

    #[test]
    fn docker_compose_yml_has_what_the_rig_expects() {
        let text = include_str!("../../../docker-compose.yml");
        for set in [&OUTRIGGER, &NATIVE] {
            assert!(text.contains(&format!("container_name: {PROJECT}-{}", set.envoy)));
            assert!(text.contains(&format!("127.0.0.1:{}:{LISTEN}", set.entry)));
            assert!(text.contains(&format!("127.0.0.1:{}:{ADMIN}", set.entry + 1)));
            assert!(text.contains(&format!("./target/compose/config/{}:{FOLDER}:ro", set.config)));
            for upstream in set.upstreams(UPSTREAMS_MAX, PORTS_MAX) {
                assert!(text.contains(&format!("ipv4_address: {}", upstream.address().ip())));
            }
            for number in 1..=5 {
                assert!(
                    text.contains(&format!("container_name: {PROJECT}-{}{number}", set.letter))
                );
                assert!(text.contains(&format!("127.0.0.1:{}:", set.control + number)));
            }
        }
        let published = text.lines().filter(|l| l.contains("ports:")).count();
        assert_eq!(published, text.matches("[\"127.0.0.1:").count());
    }
}

//! The Docker command line: the few commands that the rig gives.

use std::process::Stdio;

use anyhow::{Context, bail};

/// Runs `docker ...` (or `docker-compose ...`) and returns what it printed.
///
/// # Errors
/// When it cannot be run or fails; the text is its own error output.
pub async fn run(program: &str, arguments: &[String]) -> anyhow::Result<String> {
    let mut command = std::process::Command::new(program);
    command.args(arguments).stdin(Stdio::null());
    let shown = format!("{program} {}", arguments.join(" "));
    let output = tokio::task::spawn_blocking(move || command.output()).await?;
    let output = output.with_context(|| shown.clone())?;
    if !output.status.success() {
        bail!("{shown}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Why no container can be run here, or `None` when an engine answers.
pub async fn unavailable() -> Option<String> {
    let version = ["version", "--format", "{{.Server.Version}}"].map(str::to_owned);
    match run("docker", &version).await {
        Ok(_) => None,
        Err(error) => Some(format!("no Docker engine answers ({error:#})")),
    }
}

/// A container that exists.
#[derive(Debug, Clone)]
pub struct Container {
    name: String,
    network: String,
    address: std::net::IpAddr,
}

impl Container {
    /// The container of this name, with its fixed address in this network.
    #[must_use]
    pub fn new(name: &str, network: &str, address: std::net::IpAddr) -> Self {
        Self { name: name.to_owned(), network: network.to_owned(), address }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    async fn order(&self, arguments: &[&str]) -> anyhow::Result<()> {
        let arguments: Vec<String> = arguments.iter().map(|&a| a.to_owned()).collect();
        run("docker", &arguments).await.map(|_| ())
    }

    /// SIGKILL.
    ///
    /// # Errors
    /// When the engine refuses.
    pub async fn kill(&self) -> anyhow::Result<()> {
        self.order(&["kill", "-s", "KILL", &self.name]).await
    }

    /// Starts it; nothing happens if it runs.
    ///
    /// # Errors
    /// When the engine refuses.
    pub async fn start(&self) -> anyhow::Result<()> {
        self.order(&["start", &self.name]).await
    }

    /// Kills and starts it.
    ///
    /// # Errors
    /// When the engine refuses.
    pub async fn restart(&self) -> anyhow::Result<()> {
        self.order(&["restart", "-t", "0", &self.name]).await
    }

    /// Freezes every process of it.
    ///
    /// # Errors
    /// When the engine refuses.
    pub async fn pause(&self) -> anyhow::Result<()> {
        self.order(&["pause", &self.name]).await
    }

    /// Ends `pause`.
    ///
    /// # Errors
    /// When the engine refuses.
    pub async fn unpause(&self) -> anyhow::Result<()> {
        self.order(&["unpause", &self.name]).await
    }

    /// Takes it off its network.
    ///
    /// # Errors
    /// When the engine refuses.
    pub async fn disconnect(&self) -> anyhow::Result<()> {
        self.order(&["network", "disconnect", &self.network, &self.name]).await
    }

    /// Puts it back with the address it had.
    ///
    /// # Errors
    /// When the engine refuses.
    pub async fn connect(&self) -> anyhow::Result<()> {
        let address = self.address.to_string();
        self.order(&["network", "connect", "--ip", &address, &self.network, &self.name]).await
    }

    /// The end of what it printed.
    pub async fn log(&self) -> String {
        let arguments = ["logs", "--tail", "60", &self.name].map(str::to_owned);
        // Envoy logs to its error output.
        let mut command = std::process::Command::new("docker");
        command.args(&arguments).stdin(Stdio::null());
        match tokio::task::spawn_blocking(move || command.output()).await {
            Ok(Ok(output)) => {
                let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
                text.push_str(&String::from_utf8_lossy(&output.stderr));
                text
            }
            _ => format!("(no log of {})", self.name),
        }
    }
}

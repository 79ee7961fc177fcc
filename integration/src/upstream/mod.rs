//! One failing upstream: an HTTP/1.1 server that names itself, counts, and fails on command.
//!
//! It runs as a process of its own (`integration upstream`), because the faults that matter most
//! happen to processes: SIGKILL, SIGSTOP, a container that is paused. Softer faults are ordered
//! over a second, control port, which is never counted. It can listen on many ports, so that a few
//! processes make a large cluster.

pub mod control;
pub mod fault;
mod handle;
mod server;
mod stats;

use std::net::SocketAddr;

use anyhow::Context;

pub use handle::Upstream;
pub use stats::{LastRequest, Stats};

/// Command line of `integration upstream`.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Address to serve on; may be repeated
    #[arg(long, required = true)]
    pub listen: Vec<SocketAddr>,
    /// How many consecutive ports to serve on, from each of these addresses
    #[arg(long, default_value_t = 1)]
    pub ports: u16,
    /// Address of the control port
    #[arg(long)]
    pub control: SocketAddr,
    /// Name that the answers carry
    #[arg(long)]
    pub name: String,
}

/// Serves until the process ends.
///
/// # Errors
/// When an address cannot be listened on.
pub async fn serve(options: Options) -> anyhow::Result<()> {
    let shared = std::rc::Rc::new(server::Shared::new(options.name));
    let tasks = tokio::task::LocalSet::new();
    tasks
        .run_until(async move {
            for address in options.listen {
                for offset in 0..options.ports {
                    let port = address.port().saturating_add(offset);
                    let listener = listen(SocketAddr::new(address.ip(), port))?;
                    tokio::task::spawn_local(server::accept(listener, std::rc::Rc::clone(&shared)));
                }
            }
            control::accept(listen(options.control)?, shared).await;
            Ok(())
        })
        .await
}

/// Listens with SO_REUSEADDR, so that a killed upstream can come back on its port at once.
fn listen(address: SocketAddr) -> anyhow::Result<tokio::net::TcpListener> {
    const BACKLOG: u32 = 1024;
    let bind = || -> std::io::Result<tokio::net::TcpListener> {
        let socket = match address {
            SocketAddr::V4(_) => tokio::net::TcpSocket::new_v4()?,
            SocketAddr::V6(_) => tokio::net::TcpSocket::new_v6()?,
        };
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    bind().with_context(|| format!("cannot listen on {address}"))
}

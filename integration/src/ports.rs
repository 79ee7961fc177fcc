//! Free TCP ports on 127.0.0.1.
//!
//! Taken below the kernel's ephemeral range: an upstream that is killed and restarted must find its
//! port free, and a connection to a dead port inside that range can end up connected to itself.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU16, Ordering};

use anyhow::bail;

const FIRST: u16 = 12_000;
const COUNT: u16 = 20_000;

/// An address on 127.0.0.1 that nothing listens on, different from all that this process was given
/// before.
///
/// # Errors
/// When no port is free.
pub fn free() -> anyhow::Result<SocketAddr> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    static START: std::sync::OnceLock<u16> = std::sync::OnceLock::new();
    // Test processes run at the same time: each starts somewhere else.
    let start = *START.get_or_init(|| fastrand::u16(0..COUNT));
    for _ in 0..COUNT {
        let offset = NEXT.fetch_add(1, Ordering::Relaxed) % COUNT;
        let position = (u32::from(start) + u32::from(offset)) % u32::from(COUNT);
        let port = FIRST + u16::try_from(position).unwrap_or(0);
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        if TcpListener::bind(address).is_ok() {
            return Ok(address);
        }
    }
    bail!("no free port between {FIRST} and {}", FIRST + COUNT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_calls_give_two_ports_outside_the_ephemeral_range() {
        let (a, b) = (free().unwrap(), free().unwrap());
        assert_ne!(a, b);
        assert!(a.port() < 32_768 && b.port() < 32_768);
    }
}

//! A keep-alive load and the upstream behind it, as small as both can be.
//!
//! Neither is measured: they only must not differ between the arms. Threads and blocking sockets,
//! because four connections need no more.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::ports;

const CONNECTIONS: u32 = 4;
/// Distinct values of `x-key`.
const KEYS: u32 = 64;
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// Longer than anything under valgrind takes.
const SOCKET_TIMEOUT: Duration = Duration::from_secs(60);
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nok\n";

/// Starts an upstream that gives the same three bytes on each of `count` ports, for as long as
/// this process lives.
pub(super) fn upstreams(count: usize) -> Result<Vec<SocketAddr>> {
    (0..count)
        .map(|_| {
            let listener = TcpListener::bind(ports::free()?)?;
            let at = listener.local_addr()?;
            thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    thread::spawn(move || serve(stream));
                }
            });
            Ok(at)
        })
        .collect()
}

fn serve(mut stream: TcpStream) {
    let _ = stream.set_nodelay(true);
    let mut pending = Vec::new();
    while let Ok(Some(end)) = head_end(&mut stream, &mut pending) {
        pending.drain(..end);
        if stream.write_all(ANSWER).is_err() {
            return;
        }
    }
}

/// What a load saw; every answer was a 200.
#[derive(Debug)]
pub(super) struct Seen {
    /// Round trips, in nanoseconds, in no order.
    pub(super) latencies_ns: Vec<u64>,
    /// From the first request to the last answer.
    pub(super) elapsed: Duration,
}

/// Sends `requests` GETs over four kept connections and waits for each answer.
pub(super) fn run(to: SocketAddr, authority: &str, requests: u32) -> Result<Seen> {
    let begin = Instant::now();
    let workers: Vec<_> = (0..CONNECTIONS)
        .map(|worker| {
            let authority = authority.to_owned();
            thread::spawn(move || drive(to, &authority, worker, requests / CONNECTIONS))
        })
        .collect();
    let mut latencies_ns = Vec::new();
    for worker in workers {
        let seen = worker.join().map_err(|_| anyhow::anyhow!("a load thread died"))?;
        latencies_ns.extend(seen?);
    }
    Ok(Seen { latencies_ns, elapsed: begin.elapsed() })
}

fn drive(to: SocketAddr, authority: &str, worker: u32, requests: u32) -> Result<Vec<u64>> {
    let mut stream = TcpStream::connect(to).context("cannot connect to Envoy")?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(SOCKET_TIMEOUT))?;
    let mut latencies_ns = Vec::new();
    let mut pending = Vec::new();
    for number in 0..requests {
        let key = (number * CONNECTIONS + worker) % KEYS;
        let request = format!(
            "GET /item HTTP/1.1\r\nhost: {authority}\r\nuser-agent: bench\r\nx-key: k{key}\r\n\r\n"
        );
        let begin = Instant::now();
        stream.write_all(request.as_bytes())?;
        read_answer(&mut stream, &mut pending)?;
        latencies_ns.push(u64::try_from(begin.elapsed().as_nanos())?);
    }
    Ok(latencies_ns)
}

fn read_answer(stream: &mut TcpStream, pending: &mut Vec<u8>) -> Result<()> {
    let Some(end) = head_end(stream, pending)? else { bail!("Envoy closed the connection") };
    let head = String::from_utf8_lossy(pending.get(..end).unwrap_or_default()).to_lowercase();
    if !head.starts_with("http/1.1 200 ") {
        bail!("Envoy answered {}", head.lines().next().unwrap_or_default());
    }
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
    let length: usize = length.context("an answer without content-length")?.trim().parse()?;
    while pending.len() < end + length {
        if fill(stream, pending)? == 0 {
            bail!("Envoy closed the connection inside an answer");
        }
    }
    pending.drain(..end + length);
    Ok(())
}

/// Reads until `pending` holds a whole head; its length, or `None` at the connection's end.
fn head_end(stream: &mut TcpStream, pending: &mut Vec<u8>) -> Result<Option<usize>> {
    loop {
        if let Some(at) = pending.windows(4).position(|window| window == b"\r\n\r\n") {
            return Ok(Some(at + 4));
        }
        if pending.len() > HEAD_BYTES_MAX {
            bail!("a head longer than {HEAD_BYTES_MAX} bytes");
        }
        if fill(stream, pending)? == 0 {
            return Ok(None);
        }
    }
}

fn fill(stream: &mut TcpStream, pending: &mut Vec<u8>) -> Result<usize> {
    let mut chunk = [0_u8; 4096];
    let count = stream.read(&mut chunk)?;
    pending.extend_from_slice(chunk.get(..count).unwrap_or_default());
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_load_counts_every_answer_of_the_upstream() {
        let to = upstreams(1).unwrap()[0];
        let seen = run(to, "c1.example", 40).unwrap();
        assert_eq!(seen.latencies_ns.len(), 40);
    }

    #[test]
    fn an_answer_that_is_no_200_ends_the_load() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = listener.local_addr().unwrap();
        thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let _ = stream.write_all(b"HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n");
                thread::sleep(Duration::from_millis(200));
            }
        });
        let error = run(to, "c1.example", 4).unwrap_err().to_string();
        assert!(error.contains("503"), "{error}");
    }
}

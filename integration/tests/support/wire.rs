//! Requests as bytes over plain sockets: what no HTTP library would send, or not fast enough.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Connections that `exchange` sends over at once.
const CONNECTIONS: usize = 8;

/// Requests written before the first of them is answered: fewer switches between processes.
const PIPELINED: usize = 16;

/// What came back.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answer {
    /// HTTP status, 0 when there is none.
    pub status: u16,
    /// `x-upstream-address`, or empty.
    pub upstream: String,
}

/// A GET with these headers, kept alive.
pub fn get(path: &str, headers: &[(String, String)]) -> Vec<u8> {
    let mut text = format!("GET {path} HTTP/1.1\r\nhost: rig\r\n");
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text.push_str("\r\n");
    text.into_bytes()
}

/// Sends all requests over a few connections and gives the answers in the requests' order.
pub fn exchange(to: SocketAddr, requests: &[Vec<u8>]) -> Vec<Answer> {
    let share = requests.len().div_ceil(CONNECTIONS).max(1);
    std::thread::scope(|scope| {
        let parts =
            requests.chunks(share).map(|part| scope.spawn(move || exchange_over_one(to, part)));
        let parts: Vec<_> = parts.collect();
        parts.into_iter().flat_map(|part| part.join().unwrap()).collect()
    })
}

/// The same over one connection, each sent on when the one before it is answered: Envoy reads no
/// further request until then.
pub fn exchange_over_one(to: SocketAddr, requests: &[Vec<u8>]) -> Vec<Answer> {
    let mut stream = connect(to, Duration::from_secs(20));
    let mut buffer = Vec::new();
    let mut answers = Vec::with_capacity(requests.len());
    for batch in requests.chunks(PIPELINED) {
        stream.write_all(&batch.concat()).unwrap();
        for _ in batch {
            answers.push(read_answer(&mut stream, &mut buffer).expect("a whole answer"));
        }
    }
    answers
}

/// A connection whose reads end after `timeout`.
pub fn connect(to: SocketAddr, timeout: Duration) -> TcpStream {
    let stream = TcpStream::connect(to).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(timeout)).unwrap();
    stream.set_write_timeout(Some(timeout)).unwrap();
    stream
}

/// Sends bytes on a connection of their own and gives the first answer, if there is one in time.
pub fn send(to: SocketAddr, bytes: &[u8], timeout: Duration) -> Option<Answer> {
    let mut stream = connect(to, timeout);
    // Envoy may answer and close before it has read all.
    let _ = stream.write_all(bytes);
    read_answer(&mut stream, &mut Vec::new())
}

/// Closes so that the peer sees a reset instead of an end.
pub fn reset(stream: TcpStream) {
    let socket = socket2::Socket::from(stream);
    let _ = socket.set_linger(Some(Duration::ZERO));
}

/// Reads one answer; `buffer` holds what came after the one before.
pub fn read_answer(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<Answer> {
    let mut end = None;
    while end.is_none() {
        fill(stream, buffer)?;
        end = buffer.windows(4).position(|window| window == b"\r\n\r\n");
    }
    let head_end = end? + 4;
    let head = String::from_utf8_lossy(&buffer[..head_end]).into_owned();
    let value = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let length: usize = value("content-length:").map_or(0, |text| text.parse().unwrap());
    while buffer.len() < head_end + length {
        read_more(stream, buffer)?;
    }
    buffer.drain(..head_end + length);
    let status = head.split(' ').nth(1).and_then(|text| text.parse().ok()).unwrap_or(0);
    Some(Answer { status, upstream: value("x-upstream-address:").unwrap_or_default().to_owned() })
}

fn fill(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<()> {
    let whole = buffer.windows(4).any(|window| window == b"\r\n\r\n");
    if whole { Some(()) } else { read_more(stream, buffer) }
}

fn read_more(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<()> {
    let mut part = [0; 16 * 1024];
    let count = stream.read(&mut part).ok().filter(|count| *count > 0)?;
    buffer.extend_from_slice(&part[..count]);
    Some(())
}

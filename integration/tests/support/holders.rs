//! Endpoints that hold every request until they are told to answer it, so that a test knows at
//! each moment which requests are in flight, and where.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use integration::bootstrap::Endpoint;

use super::wire;

/// How long a request may take from the client to an endpoint, or an answer back.
const PATIENCE: Duration = Duration::from_secs(20);

/// A request that has arrived at an endpoint.
struct Arrival {
    endpoint: usize,
    path: String,
    release: Sender<()>,
}

/// A request in flight.
pub struct Held {
    /// Where it is.
    pub endpoint: usize,
    client: TcpStream,
    release: Sender<()>,
}

/// Endpoints that hold requests, and the clients of those.
pub struct Holders {
    members: Vec<Endpoint>,
    arrivals: Receiver<Arrival>,
    idle: Vec<TcpStream>,
    sent: usize,
}

impl Holders {
    /// Listens once for each weight.
    pub fn start(weights: &[u32]) -> Self {
        let (sender, arrivals) = channel();
        let mut members = Vec::new();
        for (endpoint, weight) in weights.iter().enumerate() {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            members.push(Endpoint::new(listener.local_addr().unwrap()).with_weight(*weight));
            let sender = sender.clone();
            std::thread::spawn(move || {
                for stream in listener.incoming().map_while(Result::ok) {
                    let sender = sender.clone();
                    std::thread::spawn(move || serve(stream, endpoint, &sender));
                }
            });
        }
        Self { members, arrivals, idle: Vec::new(), sent: 0 }
    }

    /// The endpoints, for `Harness::set_members`.
    pub fn members(&self) -> &[Endpoint] {
        &self.members
    }

    /// Opens so many connections, so that each of Envoy's workers has some.
    pub fn connect(&mut self, to: SocketAddr, connections: usize) {
        self.idle.extend((0..connections).map(|_| wire::connect(to, PATIENCE)));
    }

    /// Sends a request for each key at once, over connections that `random` picks from those that
    /// are idle, and gives them back when all have arrived.
    pub fn send(&mut self, to: SocketAddr, keys: &[&str], random: &mut fastrand::Rng) -> Vec<Held> {
        let begun = self.sent;
        self.sent += keys.len();
        let mut client = || match self.idle.len() {
            0 => wire::connect(to, PATIENCE),
            idle => self.idle.swap_remove(random.usize(..idle)),
        };
        let mut clients: Vec<_> = keys.iter().map(|_| Some(client())).collect();
        for ((number, key), client) in (begun..).zip(keys).zip(&mut clients) {
            let request =
                wire::get(&format!("/{number}"), &[("x-key".to_owned(), (*key).to_owned())]);
            client.as_mut().unwrap().write_all(&request).unwrap();
        }
        let arrived = |_| {
            let arrival = self.arrivals.recv_timeout(PATIENCE).expect("it arrives");
            let number: usize = arrival.path.trim_start_matches('/').parse().unwrap();
            let client = clients[number - begun].take().expect("it arrives once");
            Held { endpoint: arrival.endpoint, client, release: arrival.release }
        };
        (0..keys.len()).map(arrived).collect()
    }

    /// Has a request answered, and waits until its client has the answer.
    pub fn release(&mut self, mut held: Held) {
        held.release.send(()).unwrap();
        let answer = wire::read_answer(&mut held.client, &mut Vec::new()).expect("an answer");
        assert_eq!(answer.status, 200);
        self.idle.push(held.client);
    }
}

/// Serves one connection of Envoy's.
fn serve(mut stream: TcpStream, endpoint: usize, arrivals: &Sender<Arrival>) {
    stream.set_nodelay(true).unwrap();
    let mut head = Vec::new();
    loop {
        let mut part = [0; 4096];
        match stream.read(&mut part) {
            Ok(count) if count > 0 => head.extend_from_slice(&part[..count]),
            _ => return,
        }
        if !head.ends_with(b"\r\n\r\n") {
            continue;
        }
        let text = String::from_utf8_lossy(&head);
        let path = text.split(' ').nth(1).unwrap_or_default().to_owned();
        head.clear();
        let (release, released) = channel();
        let told = arrivals.send(Arrival { endpoint, path, release }).is_ok();
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
        if !told || released.recv().is_err() || stream.write_all(answer).is_err() {
            return;
        }
    }
}

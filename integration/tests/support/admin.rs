//! An admin interface that answers `/clusters` as a test says: wrong, late, or not at all.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use integration::ports;

/// What it does with a question.
#[derive(Debug, Clone)]
pub enum Answer {
    /// This status and body, complete.
    Whole(u16, Vec<u8>),
    /// 200 and this body, with a `content-length` that promises more; then the connection ends.
    CutOff(Vec<u8>),
    /// Nothing for this long, then the connection ends.
    Silence(Duration),
    /// The connection ends at once.
    Hangup,
}

#[derive(Debug)]
struct State {
    answer: Mutex<Answer>,
    asked: Mutex<Vec<(Instant, String)>>,
    stopped: AtomicBool,
}

/// The interface; it ends with this.
#[derive(Debug)]
pub struct FakeAdmin {
    address: SocketAddr,
    state: Arc<State>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl FakeAdmin {
    /// Listens on a free port.
    pub fn start(answer: Answer) -> Self {
        let (answer, asked) = (Mutex::new(answer), Mutex::new(Vec::new()));
        let state = Arc::new(State { answer, asked, stopped: AtomicBool::new(false) });
        let mut admin = Self { address: ports::free().unwrap(), state, thread: None };
        admin.listen();
        admin
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it does from now on.
    pub fn answer(&self, answer: Answer) {
        *self.state.answer.lock().unwrap() = answer;
    }

    /// Nothing listens any longer.
    pub fn stop(&mut self) {
        self.state.stopped.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }

    /// Listens again, on the same port.
    pub fn listen(&mut self) {
        // std sets SO_REUSEADDR
        let listener = TcpListener::bind(self.address).unwrap();
        self.state.stopped.store(false, Ordering::SeqCst);
        let state = Arc::clone(&self.state);
        self.thread = Some(std::thread::spawn(move || accept(&listener, &state)));
    }

    /// When it was asked so far, and for what.
    pub fn asked(&self) -> Vec<(Instant, String)> {
        self.state.asked.lock().unwrap().clone()
    }
}

impl Drop for FakeAdmin {
    fn drop(&mut self) {
        self.stop();
    }
}

fn accept(listener: &TcpListener, state: &Arc<State>) {
    for stream in listener.incoming().flatten() {
        if state.stopped.load(Ordering::SeqCst) {
            return;
        }
        let state = Arc::clone(state);
        std::thread::spawn(move || serve(stream, &state));
    }
}

fn serve(mut stream: TcpStream, state: &State) {
    let mut head = Vec::new();
    let mut byte = [0; 1024];
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte) {
            Ok(count) if count > 0 => head.extend_from_slice(&byte[..count]),
            _ => return,
        }
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let line = head.lines().next().unwrap_or_default().to_owned();
    state.asked.lock().unwrap().push((Instant::now(), line));
    let answer = state.answer.lock().unwrap().clone();
    let _ = match answer {
        Answer::Whole(status, body) => write(&mut stream, status, body.len(), &body),
        Answer::CutOff(body) => write(&mut stream, 200, body.len() + 1000, &body),
        Answer::Silence(time) => {
            std::thread::sleep(time);
            Ok(())
        }
        Answer::Hangup => Ok(()),
    };
}

fn write(stream: &mut TcpStream, status: u16, length: usize, body: &[u8]) -> std::io::Result<()> {
    let head = format!(
        "HTTP/1.1 {status} x\r\ncontent-type: text/plain\r\ncontent-length: {length}\r\n\
         connection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(body)
}

/// What Envoy's `/clusters` would print for a cluster with these hosts.
pub fn clusters_text(cluster: &str, hosts: impl IntoIterator<Item = String>) -> Vec<u8> {
    const HOST: [&str; 17] = [
        "cx_active::0",
        "cx_connect_fail::0",
        "cx_total::1",
        "rq_active::0",
        "rq_error::0",
        "rq_success::1",
        "rq_timeout::0",
        "rq_total::1",
        "hostname::",
        "health_flags::healthy",
        "weight::1",
        "region::",
        "zone::",
        "sub_zone::",
        "canary::false",
        "priority::0",
        "success_rate::-1",
    ];
    let mut text = String::new();
    for line in [
        "observability_name::x",
        "default_priority::max_connections::1024",
        "high_priority::max_connections::1024",
        "added_via_api::false",
    ] {
        text.push_str(&format!("{cluster}::{line}\n"));
    }
    for host in hosts {
        for line in HOST {
            text.push_str(&format!("{cluster}::{host}::{line}\n"));
        }
    }
    text.into_bytes()
}

//! The serving side of an upstream: reads a request, asks the fault plan, does it.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{HeaderName, HeaderValue};
use hyper::{HeaderMap, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

use super::fault::{FaultSpec, Plan, Verdict};
use super::stats::{LastRequest, Stats};

/// State of the process; one thread, so no locks.
#[derive(Debug)]
pub(super) struct Shared {
    name: String,
    header: HeaderValue,
    stats: RefCell<Stats>,
    plan: RefCell<Plan>,
    in_flight: Cell<u64>,
    last: RefCell<LastRequest>,
    extra: RefCell<HeaderMap>,
}

/// Headers as `POST /headers` takes them.
pub(super) type Headers = Vec<(String, String)>;

impl Shared {
    pub(super) fn new(name: String) -> Self {
        let header =
            HeaderValue::from_str(&name).unwrap_or_else(|_| HeaderValue::from_static("unnamed"));
        Self {
            header,
            stats: RefCell::new(Stats { name: name.clone(), ..Stats::default() }),
            name,
            plan: RefCell::new(Plan::new(&FaultSpec::none())),
            in_flight: Cell::new(0),
            last: RefCell::new(LastRequest::default()),
            extra: RefCell::new(HeaderMap::new()),
        }
    }

    pub(super) fn stats(&self) -> Stats {
        Stats { in_flight: self.in_flight.get(), ..self.stats.borrow().clone() }
    }

    pub(super) fn reset_stats(&self) {
        let in_flight = self.in_flight.get();
        *self.stats.borrow_mut() =
            Stats { name: self.name.clone(), in_flight_max: in_flight, ..Stats::default() };
    }

    pub(super) fn last_request(&self) -> LastRequest {
        self.last.borrow().clone()
    }

    pub(super) fn set_fault(&self, spec: &FaultSpec) {
        *self.plan.borrow_mut() = Plan::new(spec);
    }

    /// Adds these headers to every answer from now on; false when one of them is none.
    pub(super) fn set_headers(&self, headers: &Headers) -> bool {
        let mut extra = HeaderMap::new();
        for (name, value) in headers {
            let name = HeaderName::from_bytes(name.as_bytes());
            let (Ok(name), Ok(value)) = (name, HeaderValue::from_str(value)) else {
                return false;
            };
            extra.append(name, value);
        }
        *self.extra.borrow_mut() = extra;
        true
    }

    fn begin(self: &Rc<Self>, request: &Request<Incoming>) -> (Verdict, InFlight) {
        let verdict = self.plan.borrow().verdict(fastrand::f64());
        let now = self.in_flight.get() + 1;
        self.in_flight.set(now);
        let mut stats = self.stats.borrow_mut();
        stats.requests += 1;
        stats.in_flight_max = stats.in_flight_max.max(now);
        let outcome = match verdict {
            Verdict::Answer { status, .. } => status.to_string(),
            Verdict::Reset => "reset".to_owned(),
            Verdict::Stall => "stall".to_owned(),
        };
        *stats.outcomes.entry(outcome).or_default() += 1;
        let headers = request.headers().iter().map(|(name, value)| {
            (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned())
        });
        *self.last.borrow_mut() = LastRequest {
            method: request.method().to_string(),
            path: request.uri().to_string(),
            headers: headers.collect(),
        };
        (verdict, InFlight(Rc::clone(self)))
    }
}

/// Counts a request out when it ends, also when the client went away.
struct InFlight(Rc<Shared>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.set(self.0.in_flight.get().saturating_sub(1));
    }
}

/// Asks hyper to drop the connection without an answer.
#[derive(Debug)]
struct Hangup;

impl std::fmt::Display for Hangup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("fault: connection reset on purpose")
    }
}

impl std::error::Error for Hangup {}

/// Headers of a request: more than any Envoy here lets through.
const HEADERS_MAX: usize = 4096;

/// Accepts connections for ever.
pub(super) async fn accept(listener: TcpListener, shared: Rc<Shared>) {
    const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(10);
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(PAUSE_AFTER_ERROR).await;
            continue;
        };
        shared.stats.borrow_mut().connections += 1;
        let _ = stream.set_nodelay(true);
        tokio::task::spawn_local(connection(stream, Rc::clone(&shared)));
    }
}

async fn connection(stream: tokio::net::TcpStream, shared: Rc<Shared>) {
    // A second handle on the same socket: the service sets SO_LINGER through it once hyper owns the
    // first.
    let Ok((stream, twin)) = split(stream) else {
        return;
    };
    let local = stream.local_addr().ok();
    let twin = Rc::new(RefCell::new(Some(twin)));
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        answer(request, Rc::clone(&shared), Rc::clone(&twin), local)
    });
    let _ = hyper::server::conn::http1::Builder::new()
        .max_headers(HEADERS_MAX)
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

fn split(
    stream: tokio::net::TcpStream,
) -> std::io::Result<(tokio::net::TcpStream, socket2::Socket)> {
    let stream = stream.into_std()?;
    let twin = stream.try_clone()?.into();
    Ok((tokio::net::TcpStream::from_std(stream)?, twin))
}

async fn answer(
    request: Request<Incoming>,
    shared: Rc<Shared>,
    twin: Rc<RefCell<Option<socket2::Socket>>>,
    local: Option<SocketAddr>,
) -> Result<Response<Full<Bytes>>, Hangup> {
    let (verdict, _in_flight) = shared.begin(&request);
    let _ = request.into_body().collect().await;
    let (status, after) = match verdict {
        Verdict::Answer { status, after } => (status, after),
        Verdict::Reset => {
            // RST leaves when the last handle closes: ours here, hyper's on the error below.
            if let Some(socket) = twin.borrow_mut().take() {
                let _ = socket.set_linger(Some(Duration::ZERO));
            }
            return Err(Hangup);
        }
        Verdict::Stall => std::future::pending::<(u16, Duration)>().await,
    };
    if !after.is_zero() {
        tokio::time::sleep(after).await;
    }
    let mut response = Response::new(Full::new(Bytes::from(format!("{}\n", shared.name))));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::OK);
    *response.headers_mut() = shared.extra.borrow().clone();
    response.headers_mut().insert("x-upstream", shared.header.clone());
    if let Some(address) = local.and_then(|a| HeaderValue::from_str(&a.to_string()).ok()) {
        response.headers_mut().insert("x-upstream-address", address);
    }
    Ok(response)
}

/// What a control handler answers.
pub(super) type Reply = Result<Response<Full<Bytes>>, Infallible>;

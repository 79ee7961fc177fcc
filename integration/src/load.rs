//! Open-loop load: requests leave on a fixed schedule, whether or not earlier ones have been
//! answered.
//!
//! Latency counts from the scheduled time, so a client that falls behind reports it instead of
//! hiding it (no coordinated omission). A thread of its own keeps the schedule, because tokio's
//! timer rounds up to a millisecond, which is as much as the latencies here. Connections are kept
//! and never queued for: no idle one means a new one.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::SendRequest;
use hyper::header::{HOST, HeaderValue};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;

/// When the client itself gives up unless told otherwise; longer than the route's 5 s.
pub const CLIENT_TIMEOUT: Duration = Duration::from_secs(7);

/// What a load looks like.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Requests per second and target.
    pub rate: u32,
    /// HTTP method.
    pub method: Method,
    /// Number of different `x-key` values (`key-0`, `key-1`, ...), in turn; 0 sends no key.
    pub keys: u32,
    /// When the client gives up and closes the connection.
    pub timeout: Duration,
}

impl Plan {
    /// GET without keys.
    #[must_use]
    pub fn get(rate: u32) -> Self {
        Self { rate, method: Method::GET, keys: 0, timeout: CLIENT_TIMEOUT }
    }
}

/// What became of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// When it was to leave, from the load's origin, in microseconds.
    pub scheduled_us: u64,
    /// From then to the last byte of the answer, in microseconds.
    pub latency_us: u64,
    /// HTTP status; 0 when there was no complete answer.
    pub status: u16,
    /// Number in the name (`u3`: 3) of the upstream that answered; 0 when none did.
    pub upstream: u16,
    /// Which endpoint answered, as it sees itself.
    pub address: Option<SocketAddr>,
    /// Which key was sent.
    pub key: u32,
}

impl Record {
    /// Whether the client got what it asked for.
    #[must_use]
    pub fn ok(&self) -> bool {
        (200..400).contains(&self.status)
    }
}

/// A load that is running.
#[derive(Debug)]
pub struct Load {
    origin: Instant,
    timeout: Duration,
    stop: Arc<AtomicBool>,
    late_us: Arc<AtomicU64>,
    pacer: std::thread::JoinHandle<()>,
    targets: Vec<Arc<Target>>,
}

#[derive(Debug)]
struct Target {
    entry: SocketAddr,
    host: HeaderValue,
    idle: Mutex<Vec<SendRequest<Empty<Bytes>>>>,
    records: Mutex<Vec<Record>>,
    pending: AtomicUsize,
}

impl Load {
    /// Starts the same load on every target, interleaved. Must be called inside a tokio runtime.
    #[must_use]
    pub fn start(plan: &Plan, entries: &[SocketAddr]) -> Self {
        let origin = Instant::now();
        let targets: Vec<Arc<Target>> = entries.iter().map(|e| Arc::new(Target::new(*e))).collect();
        let (stop, late_us) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let pacer = {
            let (plan, targets) = (plan.clone(), targets.clone());
            let (stop, late_us) = (Arc::clone(&stop), Arc::clone(&late_us));
            let runtime = tokio::runtime::Handle::current();
            std::thread::spawn(move || pace(&plan, origin, &stop, &late_us, &targets, &runtime))
        };
        Self { origin, timeout: plan.timeout, stop, late_us, pacer, targets }
    }

    /// The instant that `scheduled_us` counts from.
    #[must_use]
    pub fn origin(&self) -> Instant {
        self.origin
    }

    /// The most by which a request has left late so far.
    #[must_use]
    pub fn late(&self) -> Duration {
        Duration::from_micros(self.late_us.load(Ordering::Relaxed))
    }

    /// Stops sending, waits for what is in flight, returns the records of each target by scheduled
    /// time.
    pub async fn finish(self) -> Vec<Vec<Record>> {
        self.stop.store(true, Ordering::Relaxed);
        while !self.pacer.is_finished() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let deadline = Instant::now() + self.timeout + Duration::from_secs(1);
        let busy = |t: &Arc<Target>| t.pending.load(Ordering::Acquire) > 0;
        while self.targets.iter().any(busy) && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let take = |target: &Arc<Target>| {
            let mut records =
                std::mem::take(&mut *target.records.lock().unwrap_or_else(PoisonError::into_inner));
            records.sort_by_key(|record| record.scheduled_us);
            records
        };
        self.targets.iter().map(take).collect()
    }
}

fn pace(
    plan: &Plan,
    origin: Instant,
    stop: &AtomicBool,
    late_us: &AtomicU64,
    targets: &[Arc<Target>],
    runtime: &tokio::runtime::Handle,
) {
    let interval = Duration::from_secs(1) / plan.rate.max(1);
    let share = interval / u32::try_from(targets.len().max(1)).unwrap_or(1);
    for number in 0u32.. {
        for (position, target) in (0u32..).zip(targets) {
            let scheduled = interval * number + share * position;
            let now = origin.elapsed();
            if scheduled > now {
                std::thread::sleep(scheduled - now);
            }
            let late = origin.elapsed().saturating_sub(scheduled);
            late_us.fetch_max(micros(late), Ordering::Relaxed);
            if stop.load(Ordering::Relaxed) {
                return;
            }
            let key = if plan.keys == 0 { 0 } else { number % plan.keys };
            let request = target.request(plan, key);
            let (target, timeout) = (Arc::clone(target), plan.timeout);
            target.pending.fetch_add(1, Ordering::Relaxed);
            runtime.spawn(async move {
                let mut record = target.one(request, origin + scheduled, timeout).await;
                record.scheduled_us = micros(scheduled);
                record.key = key;
                target.records.lock().unwrap_or_else(PoisonError::into_inner).push(record);
                target.pending.fetch_sub(1, Ordering::Release);
            });
        }
    }
}

impl Target {
    fn new(entry: SocketAddr) -> Self {
        let host = HeaderValue::from_str(&entry.to_string())
            .unwrap_or_else(|_| HeaderValue::from_static("rig"));
        let (idle, records) = (Mutex::new(Vec::new()), Mutex::new(Vec::new()));
        Self { entry, host, idle, records, pending: AtomicUsize::new(0) }
    }

    fn request(&self, plan: &Plan, key: u32) -> Request<Empty<Bytes>> {
        let mut request = Request::new(Empty::new());
        *request.method_mut() = plan.method.clone();
        let headers = request.headers_mut();
        headers.insert(HOST, self.host.clone());
        if plan.keys > 0
            && let Ok(value) = HeaderValue::from_str(&key_text(key))
        {
            headers.insert("x-key", value);
        }
        request
    }

    /// Dropping the exchange at the time-out closes its connection: the proxy sees a client leave.
    async fn one(
        &self,
        request: Request<Empty<Bytes>>,
        scheduled: Instant,
        timeout: Duration,
    ) -> Record {
        let answer = tokio::time::timeout(timeout, self.exchange(request)).await;
        let latency_us = micros(scheduled.elapsed());
        let (status, upstream, address) = match answer {
            Ok(Some(answer)) => answer,
            Ok(None) | Err(_) => (0, 0, None),
        };
        Record { scheduled_us: 0, latency_us, status, upstream, address, key: 0 }
    }

    async fn exchange(
        &self,
        request: Request<Empty<Bytes>>,
    ) -> Option<(u16, u16, Option<SocketAddr>)> {
        let mut sender = self.connection().await?;
        let (parts, body) = sender.send_request(request).await.ok()?.into_parts();
        body.collect().await.ok()?;
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(sender);
        let text = |name: &str| parts.headers.get(name).and_then(|v| v.to_str().ok());
        let upstream = text("x-upstream").and_then(number).unwrap_or(0);
        let address = text("x-upstream-address").and_then(|a| a.parse().ok());
        Some((parts.status.as_u16(), upstream, address))
    }

    async fn connection(&self) -> Option<SendRequest<Empty<Bytes>>> {
        loop {
            let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            match idle {
                Some(mut sender) if !sender.is_closed() => {
                    // The last answer was read to its end, so this is immediate.
                    if sender.ready().await.is_ok() {
                        return Some(sender);
                    }
                }
                Some(_) => {}
                None => break,
            }
        }
        let stream = tokio::net::TcpStream::connect(self.entry).await.ok()?;
        let _ = stream.set_nodelay(true);
        let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream));
        let (sender, connection) = handshake.await.ok()?;
        tokio::spawn(connection);
        Some(sender)
    }
}

/// Sends every key `0..keys` once through one target, eight at a time, and tells which endpoint
/// answered each. Keys without an answer from an upstream are absent.
pub async fn place(entry: SocketAddr, keys: u32) -> std::collections::BTreeMap<u32, SocketAddr> {
    const AT_ONCE: u32 = 8;
    let plan = Plan { keys, ..Plan::get(1) };
    let target = Arc::new(Target::new(entry));
    let workers: Vec<_> = (0..AT_ONCE)
        .map(|worker| {
            let (plan, target) = (plan.clone(), Arc::clone(&target));
            tokio::spawn(async move {
                let mut placed = Vec::new();
                for key in (worker..keys).step_by(AT_ONCE as usize) {
                    let record =
                        target.one(target.request(&plan, key), Instant::now(), plan.timeout).await;
                    if let (true, Some(address)) = (record.ok(), record.address) {
                        placed.push((key, address));
                    }
                }
                placed
            })
        })
        .collect();
    let mut all = std::collections::BTreeMap::new();
    for worker in workers {
        all.extend(worker.await.unwrap_or_default());
    }
    all
}

/// The `x-key` value of a key.
#[must_use]
pub fn key_text(key: u32) -> String {
    format!("key-{key}")
}

fn number(name: &str) -> Option<u16> {
    name.trim_start_matches(|c: char| !c.is_ascii_digit()).parse().ok()
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_an_upstream_is_in_its_name() {
        assert_eq!(number("u12"), Some(12));
        assert_eq!(number("other-u3"), Some(3));
        assert_eq!(number("nobody"), None);
    }

    #[tokio::test]
    async fn nothing_listening_counts_as_failed_and_the_schedule_is_kept() {
        let nobody = crate::ports::free().unwrap();
        let load = Load::start(&Plan::get(200), &[nobody, nobody]);
        tokio::time::sleep(Duration::from_millis(200)).await;
        let records = load.finish().await;
        assert_eq!(records.len(), 2);
        for one in &records {
            assert!(one.len() >= 30, "{}", one.len());
            assert!(one.iter().all(|record| !record.ok()));
            assert!(one.windows(2).all(|w| w[1].scheduled_us - w[0].scheduled_us == 5_000));
        }
        assert_eq!(records[1][0].scheduled_us - records[0][0].scheduled_us, 2_500);
    }
}

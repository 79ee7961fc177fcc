//! The same job by Outrigger's pickers and by other implementations, one beside the other.
//!
//! Ids are `<policy>/<implementation>/<endpoints>`. The job of a pick is what the peer's own public
//! call does for one request: from the bytes of a key (where the policy hashes) to the address of
//! one endpoint; where the policy follows load, the request sets off, ends at once, and is booked.
//! Bytes are hashed by whatever function the implementation uses. A ring has as many points an
//! endpoint on both sides.

use std::cell::RefCell;
use std::convert::Infallible;
use std::future::{Future, Ready, ready};
use std::hint::black_box;
use std::net::SocketAddr;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use maglev::ConsistentHasher;
use outrigger_policy::config::{LbPolicy, TurnOrder};
use outrigger_policy::hash;
use outrigger_policy::pick::{HashFunction, Loads, Member, NoLoads, Picker, RING_SIZE_MAX, Step};
use outrigger_policy::rng::SplitMix64;
use outrigger_policy::state::ewma::Ewma;
use outrigger_policy::time::Instant;
use pingora_load_balancing::LoadBalancer;
use pingora_load_balancing::selection::RoundRobin;
use pingora_load_balancing::selection::{BackendIter, BackendSelection, Consistent, Random};
use tower::Service;
use tower::balance::p2c::Balance;
use tower::discover::ServiceList;
use tower::load::{CompleteOnResponse, Load, PendingRequests};

const ENDPOINTS: [u32; 3] = [10, 1_000, 10_000];

/// Points of a ring that ketama gives an endpoint of weight 1.
const KETAMA_POINTS: u64 = 160;

const MAGLEV_SIZE: u64 = 65_537;

/// The `maglev` crate keeps a permutation of the table for each endpoint while it builds: 0.5 GB
/// for 1,000 endpoints, 5 GB for ten times as many.
const MAGLEV_CRATE_ENDPOINTS_MAX: u32 = 1_000;

const DECAY: Duration = Duration::from_secs(10);
const DEFAULT_RTT: Duration = Duration::from_millis(30);

const OURS: &str = "outrigger";

fn addresses(endpoints: u32) -> Vec<SocketAddr> {
    let address = |i: u32| SocketAddr::from(([10, (i >> 16) as u8, (i >> 8) as u8, i as u8], 8080));
    (0..endpoints).map(address).collect()
}

fn picker(policy: &LbPolicy, addresses: &[SocketAddr]) -> Picker {
    let keys: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    let members: Vec<Member<'_>> = keys.iter().map(|key| Member { key, weight: 1 }).collect();
    Picker::build(policy, &members, 1)
}

/// A request's key: different for each, and as long as a session's.
fn next_key(state: &mut u64) -> [u8; 16] {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut key = *b"user-00000000000";
    key[5..13].copy_from_slice(&state.to_le_bytes());
    key
}

fn run(criterion: &mut Criterion, policy: &str, of: &str, endpoints: u32, mut pick: impl FnMut()) {
    criterion
        .benchmark_group(policy)
        .bench_function(BenchmarkId::new(of, endpoints), |bencher| bencher.iter(&mut pick));
}

/// Outrigger's pick without loads: the key's hash, the walk to the first candidate, its address.
fn ours(criterion: &mut Criterion, name: &str, policy: &LbPolicy, endpoints: u32) {
    let addresses = addresses(endpoints);
    let mut picker = picker(policy, &addresses);
    let (mut rng, mut state) = (SplitMix64::new(1), 0);
    let hashes = matches!(policy, LbPolicy::RingHash { .. } | LbPolicy::Maglev { .. });
    run(criterion, name, OURS, endpoints, || {
        let hash = hashes.then(|| hash::xxh64(black_box(&next_key(&mut state)), 0));
        let mut first = None;
        picker.walk(hash, &mut rng, &mut NoLoads, |member| {
            first = addresses.get(member as usize);
            Step::Stop
        });
        black_box(first.copied());
    });
}

fn pingora<S>(criterion: &mut Criterion, name: &str, endpoints: u32)
where
    S: BackendSelection + 'static,
    S::Iter: BackendIter,
{
    let balancer = LoadBalancer::<S>::try_from_iter(addresses(endpoints)).expect("addresses");
    let mut state = 0;
    run(criterion, name, "pingora-load-balancing", endpoints, || {
        let key = next_key(&mut state);
        black_box(balancer.select(black_box(&key), 16).map(|backend| backend.addr));
    });
}

fn rings(criterion: &mut Criterion) {
    for endpoints in ENDPOINTS {
        let policy = LbPolicy::RingHash {
            minimum_ring_size: KETAMA_POINTS * u64::from(endpoints),
            maximum_ring_size: RING_SIZE_MAX,
            hash_function: HashFunction::XxHash,
            hash_balance_factor: 0,
        };
        ours(criterion, "ring_hash", &policy, endpoints);
        let buckets: Vec<_> = addresses(endpoints)
            .into_iter()
            .map(|address| pingora_ketama::Bucket::new(address, 1))
            .collect();
        let ring = pingora_ketama::Continuum::new(&buckets);
        let mut state = 0;
        run(criterion, "ring_hash", "pingora-ketama", endpoints, || {
            black_box(ring.node(black_box(&next_key(&mut state))));
        });
        pingora::<Consistent>(criterion, "ring_hash", endpoints);
    }
}

fn tables(criterion: &mut Criterion) {
    for endpoints in ENDPOINTS {
        let policy = LbPolicy::Maglev { table_size: MAGLEV_SIZE, hash_balance_factor: 0 };
        ours(criterion, "maglev", &policy, endpoints);
        if endpoints > MAGLEV_CRATE_ENDPOINTS_MAX {
            continue;
        }
        let table = maglev::Maglev::with_capacity(addresses(endpoints), MAGLEV_SIZE as usize);
        let mut state = 0;
        run(criterion, "maglev", "maglev", endpoints, || {
            black_box(table.get(black_box(&next_key(&mut state))).copied());
        });
    }
}

fn turns(criterion: &mut Criterion) {
    for endpoints in ENDPOINTS {
        let policy = LbPolicy::RoundRobin { order: TurnOrder::Edf };
        ours(criterion, "round_robin", &policy, endpoints);
        pingora::<RoundRobin>(criterion, "round_robin", endpoints);
        ours(criterion, "random", &LbPolicy::Random, endpoints);
        pingora::<Random>(criterion, "random", endpoints);
    }
}

/// Requests in flight and latencies, as the engine keeps them but without host calls.
struct Book {
    active: Vec<u32>,
    latencies: Vec<Ewma>,
    now: Instant,
    by_latency: bool,
}

impl Loads for Book {
    fn active(&mut self, member: u32) -> u32 {
        self.active.get(member as usize).copied().unwrap_or(0)
    }
    fn active_total(&mut self) -> u64 {
        0
    }
    fn cost(&mut self, member: u32) -> f64 {
        let active = self.active(member);
        let latency = self.latencies.get(member as usize);
        latency.map_or(f64::MAX, |latency| latency.cost(active, self.now, DECAY, DEFAULT_RTT))
    }
}

impl Book {
    fn set_off(&mut self, member: u32) {
        if let Some(active) = self.active.get_mut(member as usize) {
            *active += 1;
        }
    }

    fn land(&mut self, member: u32, took: Duration) {
        if let Some(active) = self.active.get_mut(member as usize) {
            *active -= 1;
        }
        if let Some(latency) = self.latencies.get_mut(member as usize).filter(|_| self.by_latency) {
            latency.observe(took, self.now, DECAY);
        }
    }
}

/// Outrigger's pick by load, with the clock that latencies need.
fn ours_by_load(criterion: &mut Criterion, name: &str, policy: &LbPolicy, endpoints: u32) {
    let addresses = addresses(endpoints);
    let mut picker = picker(policy, &addresses);
    let by_latency = matches!(policy, LbPolicy::PeakEwma { .. });
    let mut book = Book {
        active: vec![0; addresses.len()],
        latencies: vec![Ewma::new(Instant::ZERO); addresses.len()],
        now: Instant::ZERO,
        by_latency,
    };
    let mut rng = SplitMix64::new(1);
    let start = std::time::Instant::now();
    let clock = || Instant::ZERO.after(start.elapsed());
    run(criterion, name, OURS, endpoints, || {
        if by_latency {
            book.now = clock();
        }
        let mut first = 0;
        picker.walk(None, &mut rng, &mut book, |member| {
            first = member;
            Step::Stop
        });
        book.set_off(first);
        black_box(addresses.get(first as usize).copied());
        let took = if by_latency { clock().since(book.now) } else { Duration::ZERO };
        book.land(first, took);
    });
}

/// An endpoint that answers with its own address at once.
struct Endpoint(SocketAddr);

impl Service<()> for Endpoint {
    type Response = SocketAddr;
    type Error = Infallible;
    type Future = Ready<Result<SocketAddr, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, (): ()) -> Self::Future {
        ready(Ok(self.0))
    }
}

fn tower_p2c<S>(
    criterion: &mut Criterion,
    name: &str,
    endpoints: u32,
    measured: impl Fn(Endpoint) -> S,
) where
    S: Service<(), Response = SocketAddr, Error = Infallible> + Load,
    S::Metric: std::fmt::Debug,
{
    let services = addresses(endpoints).into_iter().map(|at| measured(Endpoint(at)));
    let balance = RefCell::new(Balance::new(ServiceList::new::<()>(services)));
    let mut context = Context::from_waker(Waker::noop());
    run(criterion, name, "tower", endpoints, || {
        let mut balance = balance.borrow_mut();
        let Poll::Ready(Ok(())) = balance.poll_ready(&mut context) else { return };
        let mut answer = pin!(balance.call(()));
        black_box(matches!(answer.as_mut().poll(&mut context), Poll::Ready(Ok(_))));
    });
}

fn loads(criterion: &mut Criterion) {
    let least_request = LbPolicy::LeastRequest {
        choice_count: 2,
        active_request_bias_milli: 1000,
        full_scan: false,
    };
    let peak_ewma =
        LbPolicy::PeakEwma { choice_count: 2, decay_time: DECAY, default_rtt: DEFAULT_RTT };
    let (decay_ns, done) = (DECAY.as_nanos() as f64, CompleteOnResponse::default());
    for endpoints in ENDPOINTS {
        ours_by_load(criterion, "least_request", &least_request, endpoints);
        tower_p2c(criterion, "least_request", endpoints, |e| PendingRequests::new(e, done));
        ours_by_load(criterion, "peak_ewma", &peak_ewma, endpoints);
        tower_p2c(criterion, "peak_ewma", endpoints, |e| {
            tower::load::PeakEwma::new(e, DEFAULT_RTT, decay_ns, done)
        });
    }
}

criterion_group!(benches, rings, tables, turns, loads);
criterion_main!(benches);

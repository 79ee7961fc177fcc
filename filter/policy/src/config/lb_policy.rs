//! How endpoints are ordered: one policy, chosen by its key.
//!
//! Fields and defaults are those of Envoy's `LeastRequest`, `RingHash`, `Maglev` and
//! `ConsistentHashingLbConfig` (`api/envoy/extensions/load_balancing_policies/`); enumerated values
//! are in lower case, as everywhere in this file format.

use super::{
    ConfigError, HashFunction, LbPolicy, TurnOrder, limits, raw,
    read::{Cursor, Object},
};

/// The keys, of which there is one.
const KINDS: [&str; 7] =
    ["round_robin", "random", "least_request", "peak_ewma", "ring_hash", "maglev", "rendezvous"];

pub(super) fn lb_policy(at: &Cursor<'_>) -> Result<LbPolicy, ConfigError> {
    let (kind, policy) = at.object(&KINDS)?.one_of(&KINDS)?;
    match kind {
        "random" => policy.object(&[]).map(|_| LbPolicy::Random),
        "least_request" => least_request(&policy),
        "peak_ewma" => peak_ewma(&policy),
        "ring_hash" => ring_hash(&policy),
        "maglev" => maglev(&policy),
        "rendezvous" => rendezvous(&policy),
        _ => round_robin(&policy),
    }
}

fn round_robin(at: &Cursor<'_>) -> Result<LbPolicy, ConfigError> {
    const ORDERS: [(&str, TurnOrder); 2] = [("edf", TurnOrder::Edf), ("smooth", TurnOrder::Smooth)];
    let block = at.object(&["order"])?;
    let order = block.or("order", TurnOrder::default(), |at| at.word(&ORDERS))?;
    Ok(LbPolicy::RoundRobin { order })
}

fn least_request(at: &Cursor<'_>) -> Result<LbPolicy, ConfigError> {
    const METHODS: [(&str, bool); 2] = [("n_choices", false), ("full_scan", true)];
    let block = at.object(&["choice_count", "active_request_bias", "selection_method"])?;
    Ok(LbPolicy::LeastRequest {
        choice_count: choice_count(&block)?,
        active_request_bias_milli: block.or(
            "active_request_bias",
            raw::ACTIVE_REQUEST_BIAS_MILLI,
            |at| at.milli(&limits::ACTIVE_REQUEST_BIAS_MILLI),
        )?,
        full_scan: block.or("selection_method", false, |at| at.word(&METHODS))?,
    })
}

fn peak_ewma(at: &Cursor<'_>) -> Result<LbPolicy, ConfigError> {
    let block = at.object(&["choice_count", "decay_time", "default_rtt"])?;
    Ok(LbPolicy::PeakEwma {
        choice_count: choice_count(&block)?,
        decay_time: block
            .or("decay_time", raw::DECAY_TIME, |at| at.duration(&limits::DECAY_TIME))?,
        default_rtt: block
            .or("default_rtt", raw::DEFAULT_RTT, |at| at.duration(&limits::DEFAULT_RTT))?,
    })
}

fn choice_count(block: &Object<'_>) -> Result<u32, ConfigError> {
    block.or("choice_count", raw::CHOICE_COUNT, |at| at.whole_u32(&limits::CHOICE_COUNT))
}

fn ring_hash(at: &Cursor<'_>) -> Result<LbPolicy, ConfigError> {
    const FUNCTIONS: [(&str, HashFunction); 2] =
        [("xx_hash", HashFunction::XxHash), ("murmur_hash_2", HashFunction::MurmurHash2)];
    let block = at.object(&[
        "minimum_ring_size",
        "maximum_ring_size",
        "hash_function",
        "hash_balance_factor",
    ])?;
    let size = |at: &Cursor<'_>| at.whole(&limits::RING_SIZE);
    let minimum_ring_size = block.or("minimum_ring_size", raw::MINIMUM_RING_SIZE, size)?;
    let maximum_ring_size = block.or("maximum_ring_size", raw::MAXIMUM_RING_SIZE, |at| {
        size(at).and_then(|maximum| match maximum < minimum_ring_size {
            true => Err(at.must(&format!("at least minimum_ring_size ({minimum_ring_size})"))),
            false => Ok(maximum),
        })
    })?;
    Ok(LbPolicy::RingHash {
        minimum_ring_size,
        maximum_ring_size,
        hash_function: block.or("hash_function", HashFunction::XxHash, |at| at.word(&FUNCTIONS))?,
        hash_balance_factor: hash_balance_factor(&block)?,
    })
}

fn maglev(at: &Cursor<'_>) -> Result<LbPolicy, ConfigError> {
    let block = at.object(&["table_size", "hash_balance_factor"])?;
    let table_size = block.or("table_size", raw::MAGLEV_TABLE_SIZE, prime)?;
    Ok(LbPolicy::Maglev { table_size, hash_balance_factor: hash_balance_factor(&block)? })
}

fn rendezvous(at: &Cursor<'_>) -> Result<LbPolicy, ConfigError> {
    let block = at.object(&["table_size", "hash_balance_factor"])?;
    let table_size = block.or("table_size", raw::RENDEZVOUS_TABLE_SIZE, |at| {
        at.whole(&limits::RENDEZVOUS_TABLE_SIZE)
    })?;
    Ok(LbPolicy::Rendezvous { table_size, hash_balance_factor: hash_balance_factor(&block)? })
}

fn hash_balance_factor(block: &Object<'_>) -> Result<u32, ConfigError> {
    block.or("hash_balance_factor", 0, |at| {
        let range = &limits::HASH_BALANCE_FACTOR;
        at.whole_u32(&(0..=0))
            .or_else(|_| at.whole_u32(range))
            .map_err(|_| at.must(&format!("0 or {}..{}", range.start(), range.end())))
    })
}

fn prime(at: &Cursor<'_>) -> Result<u64, ConfigError> {
    let size = at.whole(&limits::MAGLEV_TABLE_SIZE)?;
    if is_prime(size) {
        return Ok(size);
    }
    let next = (size..=*limits::MAGLEV_TABLE_SIZE.end()).find(|n| is_prime(*n)).unwrap_or_default();
    Err(at.error(&format!("must be a prime, got {size}: the next prime is {next}")))
}

/// By trial division: at most 1,118 steps below [`limits::MAGLEV_TABLE_SIZE`]'s end.
fn is_prime(n: u64) -> bool {
    let mut divisors = (3..).step_by(2).take_while(|d: &u64| d.saturating_mul(*d) <= n);
    n == 2 || (n > 2 && !n.is_multiple_of(2) && divisors.all(|d| !n.is_multiple_of(d)))
}

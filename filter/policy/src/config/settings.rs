//! The four blocks that a cluster and `defaults` have in common, merged over a base.
//!
//! `circuit_breaker` and `retry` merge field by field, because each field means something alone;
//! `lb_policy` and `hash_policy` replace their base whole, because half of one policy and half of
//! another is neither.

use core::ops::RangeInclusive;

use super::{
    Budget, CircuitBreaker, ClusterSettings, ConfigError, HashFunction, HashPolicy, HashSource,
    LbPolicy, Retry, SuccessRate, duration, limits, raw,
    read::{Cursor, Object},
};

/// The keys of the blocks below.
pub(super) const BLOCKS: [&str; 4] = ["lb_policy", "hash_policy", "circuit_breaker", "retry"];

/// What `block` says, over `base`.
pub(super) fn settings(
    block: &Object<'_>,
    base: &ClusterSettings,
) -> Result<ClusterSettings, ConfigError> {
    let mut settings = base.clone();
    if let Some(at) = block.get("lb_policy") {
        settings.lb_policy = lb_policy(&at)?;
    }
    if let Some(at) = block.get("hash_policy") {
        settings.hash_policy = hash_policies(&at)?;
    }
    if let Some(at) = block.get("circuit_breaker") {
        circuit_breaker(&at, &mut settings.circuit_breaker)?;
    }
    if let Some(at) = block.get("retry") {
        retry(&at, &mut settings.retry)?;
    }
    Ok(settings)
}

fn lb_policy(at: &Cursor<'_>) -> Result<LbPolicy, ConfigError> {
    const KINDS: [&str; 3] = ["round_robin", "ring_hash", "maglev"];
    let (kind, policy) = at.object(&KINDS)?.one_of(&KINDS)?;
    match kind {
        "ring_hash" => ring_hash(&policy),
        "maglev" => maglev(&policy),
        _ => policy.object(&[]).map(|_| LbPolicy::default()),
    }
}

fn ring_hash(at: &Cursor<'_>) -> Result<LbPolicy, ConfigError> {
    let mut policy = raw::RING_HASH;
    let LbPolicy::RingHash { minimum_ring_size, maximum_ring_size, hash_function, .. } =
        &mut policy
    else {
        return Ok(policy);
    };
    let ring = at.object(&["minimum_ring_size", "maximum_ring_size", "hash_function"])?;
    if let Some(at) = ring.get("minimum_ring_size") {
        *minimum_ring_size = at.whole(&limits::RING_SIZE)?;
    }
    if let Some(at) = ring.get("maximum_ring_size") {
        *maximum_ring_size = at.whole(&limits::RING_SIZE)?;
        if maximum_ring_size < minimum_ring_size {
            let least = format!("at least minimum_ring_size ({minimum_ring_size})");
            return Err(at.must(&least));
        }
    }
    if let Some(at) = ring.get("hash_function") {
        *hash_function = match at.text(&(0..=usize::MAX))? {
            "xx_hash" => HashFunction::XxHash,
            "murmur_hash_2" => HashFunction::MurmurHash2,
            _ => return Err(at.must("\"xx_hash\" or \"murmur_hash_2\"")),
        };
    }
    Ok(policy)
}

fn maglev(at: &Cursor<'_>) -> Result<LbPolicy, ConfigError> {
    let table = at.object(&["table_size"])?;
    let Some(at) = table.get("table_size") else {
        return Ok(LbPolicy::Maglev { table_size: raw::TABLE_SIZE, hash_balance_factor: 0 });
    };
    let table_size = at.whole(&limits::TABLE_SIZE)?;
    if is_prime(table_size) {
        return Ok(LbPolicy::Maglev { table_size, hash_balance_factor: 0 });
    }
    let next = (table_size..=*limits::TABLE_SIZE.end()).find(|n| is_prime(*n)).unwrap_or_default();
    Err(at.error(&format!("must be a prime, got {table_size}: the next prime is {next}")))
}

/// By trial division: at most 1,118 steps below [`limits::TABLE_SIZE`]'s end.
fn is_prime(n: u64) -> bool {
    let mut divisors = (3..).step_by(2).take_while(|d: &u64| d.saturating_mul(*d) <= n);
    n == 2 || (n > 2 && !n.is_multiple_of(2) && divisors.all(|d| !n.is_multiple_of(d)))
}

fn hash_policies(at: &Cursor<'_>) -> Result<Vec<HashPolicy>, ConfigError> {
    at.list(&(0..=limits::HASH_POLICIES_MAX))?.map(|item| hash_policy(&item)).collect()
}

fn hash_policy(at: &Cursor<'_>) -> Result<HashPolicy, ConfigError> {
    const KINDS: [&str; 4] = ["header", "cookie", "connection_properties", "path"];
    let item = at.object(&["header", "cookie", "connection_properties", "path", "terminal"])?;
    let (kind, source) = item.one_of(&KINDS)?;
    let source = match kind {
        "header" => HashSource::Header { name: header_name(&source)?, rewrite: None },
        "cookie" => {
            let cookie = source.object(&["name"])?;
            HashSource::Cookie {
                name: token(&cookie.required("name")?, &limits::NAME_BYTES)?.into(),
                ttl: None,
                path: String::new(),
            }
        }
        "connection_properties" => {
            let properties = source.object(&["source_ip"])?;
            let source_ip = properties.required("source_ip")?;
            if !source_ip.flag()? {
                return Err(source_ip.error("must be true, got false: leave the item out instead"));
            }
            HashSource::SourceIp
        }
        _ => source.object(&[]).map(|_| HashSource::Path)?,
    };
    let terminal = item.get("terminal").map_or(Ok(false), |at| at.flag())?;
    Ok(HashPolicy { source, terminal })
}

fn header_name(at: &Cursor<'_>) -> Result<String, ConfigError> {
    const PSEUDO: [&str; 4] = [":authority", ":method", ":path", ":scheme"];
    let header = at.object(&["header_name"])?;
    let at = header.required("header_name")?;
    let name = at.text(&limits::NAME_BYTES)?.to_ascii_lowercase();
    if PSEUDO.contains(&name.as_str()) {
        return Ok(name);
    }
    token(&at, &limits::NAME_BYTES).map(|_| name)
}

fn circuit_breaker(at: &Cursor<'_>, breaker: &mut CircuitBreaker) -> Result<(), ConfigError> {
    let block = at.object(&[
        "consecutive_failures",
        "success_rate",
        "base_ejection_time",
        "max_ejection_time",
        "ejection_time_jitter_percent",
        "max_ejection_percent",
        "healthy_panic_threshold",
    ])?;
    if let Some(at) = block.get("consecutive_failures") {
        breaker.consecutive_failures = at.whole_u32(&limits::CONSECUTIVE_FAILURES)?;
    }
    if let Some(at) = block.get("success_rate") {
        success_rate(&at, &mut breaker.success_rate)?;
    }
    if let Some(at) = block.get("base_ejection_time") {
        breaker.base_ejection_time = at.duration(&limits::EJECTION_TIME)?;
    }
    if let Some(at) = block.get("max_ejection_time") {
        breaker.max_ejection_time = at.duration(&limits::EJECTION_TIME)?;
    }
    for (key, value) in [
        ("ejection_time_jitter_percent", &mut breaker.ejection_time_jitter_percent),
        ("max_ejection_percent", &mut breaker.max_ejection_percent),
        ("healthy_panic_threshold", &mut breaker.healthy_panic_threshold),
    ] {
        if let Some(at) = block.get(key) {
            *value = at.whole_u32(&limits::PERCENT)?;
        }
    }
    ejection_times_in_order(&block, breaker)
}

/// Blames the field that the user wrote here, not the one that came from the base.
fn ejection_times_in_order(
    block: &Object<'_>,
    breaker: &CircuitBreaker,
) -> Result<(), ConfigError> {
    if breaker.max_ejection_time >= breaker.base_ejection_time {
        return Ok(());
    }
    let (base, max) =
        (duration::show(breaker.base_ejection_time), duration::show(breaker.max_ejection_time));
    match (block.get("max_ejection_time"), block.get("base_ejection_time")) {
        (Some(at), _) => Err(at.must(&format!("at least base_ejection_time ({base})"))),
        (None, Some(at)) => Err(at.must(&format!("at most max_ejection_time ({max})"))),
        (None, None) => Ok(()),
    }
}

fn success_rate(at: &Cursor<'_>, rate: &mut SuccessRate) -> Result<(), ConfigError> {
    let block = at.object(&["threshold_percent", "window", "minimum_requests"])?;
    if let Some(at) = block.get("threshold_percent") {
        rate.threshold_percent = at.whole_u32(&limits::PERCENT)?;
    }
    if let Some(at) = block.get("window") {
        rate.window = at.duration(&limits::SUCCESS_RATE_WINDOW)?;
    }
    if let Some(at) = block.get("minimum_requests") {
        rate.minimum_requests = at.whole_u32(&limits::MINIMUM_REQUESTS)?;
    }
    Ok(())
}

fn retry(at: &Cursor<'_>, retry: &mut Retry) -> Result<(), ConfigError> {
    let block = at.object(&["num_retries", "per_try_timeout", "idempotent_methods", "budget"])?;
    if let Some(at) = block.get("num_retries") {
        retry.num_retries = unless_null(&at, |at| at.whole_u32(&limits::NUM_RETRIES))?;
    }
    if let Some(at) = block.get("per_try_timeout") {
        retry.per_try_timeout = unless_null(&at, |at| at.duration(&limits::PER_TRY_TIMEOUT))?;
    }
    if let Some(at) = block.get("idempotent_methods") {
        retry.idempotent_methods =
            at.list(&(0..=limits::METHODS_MAX))?.map(|at| method(&at)).collect::<Result<_, _>>()?;
    }
    if let Some(at) = block.get("budget") {
        budget(&at, &mut retry.budget)?;
    }
    Ok(())
}

fn budget(at: &Cursor<'_>, budget: &mut Budget) -> Result<(), ConfigError> {
    let block = at.object(&["percent", "min_retries_per_second", "interval"])?;
    if let Some(at) = block.get("percent") {
        budget.percent = at.whole_u32(&limits::PERCENT)?;
    }
    if let Some(at) = block.get("min_retries_per_second") {
        budget.min_retries_per_second = at.whole_u32(&limits::MIN_RETRIES_PER_SECOND)?;
    }
    if let Some(at) = block.get("interval") {
        budget.interval = at.duration(&limits::BUDGET_INTERVAL)?;
    }
    Ok(())
}

/// `null` takes back what the base set: only so can a cluster return to the route's own value.
fn unless_null<T>(
    at: &Cursor<'_>,
    read: impl FnOnce(&Cursor<'_>) -> Result<T, ConfigError>,
) -> Result<Option<T>, ConfigError> {
    if at.is_null() { Ok(None) } else { read(at).map(Some) }
}

fn method(at: &Cursor<'_>) -> Result<String, ConfigError> {
    let method = token(at, &limits::METHOD_BYTES)?;
    if method.bytes().any(|byte| byte.is_ascii_lowercase()) {
        let upper = method.to_ascii_uppercase();
        return Err(at.error(&format!(
            "must be upper case, got {}: methods are case-sensitive, write {upper:?}",
            at.got()
        )));
    }
    Ok(method.into())
}

/// The string here, if it is a token of RFC 9110, section 5.6.2.
fn token<'a>(at: &Cursor<'a>, bytes: &RangeInclusive<usize>) -> Result<&'a str, ConfigError> {
    let text = at.text(bytes)?;
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if text.bytes().all(is_token) {
        return Ok(text);
    }
    Err(at.must("an HTTP token: letters, digits and !#$%&'*+-.^_`|~"))
}

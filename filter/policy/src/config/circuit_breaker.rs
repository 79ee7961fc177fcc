//! When an endpoint is taken out, merged field by field.

use super::{
    CircuitBreaker, ConfigError, SuccessRate, duration, limits,
    read::{Cursor, Object},
};

/// What is written here, over `breaker`.
pub(super) fn circuit_breaker(
    at: &Cursor<'_>,
    breaker: &mut CircuitBreaker,
) -> Result<(), ConfigError> {
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

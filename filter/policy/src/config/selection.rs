//! What narrows, weights or overrides the choice among endpoints; each block is on once written.

use super::{
    ConfigError, OrcaWeights, RandomSubsetting, Session, SlowStart, SubsetFallback, Subsets,
    ZoneAware,
    hash_policy::{cookie_path, cookie_ttl, header_name},
    limits, raw,
    read::Cursor,
};

pub(super) fn slow_start(at: &Cursor<'_>) -> Result<SlowStart, ConfigError> {
    let block = at.object(&["slow_start_window", "aggression", "min_weight_percent"])?;
    Ok(SlowStart {
        window: block.required("slow_start_window")?.duration(&limits::SLOW_START_WINDOW)?,
        aggression_milli: block
            .or("aggression", raw::AGGRESSION_MILLI, |at| at.milli(&limits::AGGRESSION_MILLI))?,
        min_weight_percent: block.or("min_weight_percent", raw::MIN_WEIGHT_PERCENT, |at| {
            at.whole_u32(&limits::PERCENT)
        })?,
    })
}

pub(super) fn orca_weights(at: &Cursor<'_>) -> Result<OrcaWeights, ConfigError> {
    let block = at.object(&[
        "blackout_period",
        "weight_expiration_period",
        "weight_update_period",
        "error_utilization_penalty",
    ])?;
    let OrcaWeights {
        mut blackout_period,
        mut weight_expiration_period,
        mut weight_update_period,
        mut error_utilization_penalty_milli,
    } = raw::ORCA_WEIGHTS;
    for (key, value, range) in [
        ("blackout_period", &mut blackout_period, &limits::BLACKOUT_PERIOD),
        (
            "weight_expiration_period",
            &mut weight_expiration_period,
            &limits::WEIGHT_EXPIRATION_PERIOD,
        ),
        ("weight_update_period", &mut weight_update_period, &limits::WEIGHT_UPDATE_PERIOD),
    ] {
        *value = block.or(key, *value, |at| at.duration(range))?;
    }
    if let Some(at) = block.get("error_utilization_penalty") {
        error_utilization_penalty_milli = at.milli(&limits::ERROR_UTILIZATION_PENALTY_MILLI)?;
    }
    Ok(OrcaWeights {
        blackout_period,
        weight_expiration_period,
        weight_update_period,
        error_utilization_penalty_milli,
    })
}

pub(super) fn zone_aware(at: &Cursor<'_>) -> Result<ZoneAware, ConfigError> {
    let block =
        at.object(&["local_cluster", "local_zone", "routing_enabled", "min_cluster_size"])?;
    let zone = 0..=*limits::NAME_BYTES.end();
    Ok(ZoneAware {
        local_cluster: block.required("local_cluster")?.name(&limits::NAME_BYTES)?.into(),
        local_zone: block.or("local_zone", "", |at| at.text(&zone))?.into(),
        routing_enabled_percent: block
            .or("routing_enabled", raw::ROUTING_ENABLED, |at| at.whole_u32(&limits::PERCENT))?,
        min_cluster_size: block.or("min_cluster_size", raw::MIN_CLUSTER_SIZE, |at| {
            at.whole_u32(&limits::MIN_CLUSTER_SIZE)
        })?,
    })
}

pub(super) fn subsets(at: &Cursor<'_>) -> Result<Subsets, ConfigError> {
    const FALLBACKS: [(&str, SubsetFallback); 2] = [
        ("any_endpoint", SubsetFallback::AnyEndpoint),
        ("no_fallback", SubsetFallback::NoFallback),
    ];
    let block = at.object(&["selectors", "fallback"])?;
    let mut selectors: Vec<(String, String)> = Vec::new();
    for item in block.required("selectors")?.list(&limits::SELECTORS)? {
        let selector = item.object(&["key", "header"])?;
        let at = selector.required("key")?;
        let key = at.text(&limits::NAME_BYTES)?;
        if let Some(first) = selectors.iter().position(|(earlier, _)| earlier == key) {
            return Err(at.error(&format!(
                "must be unique, got {} again (first in selectors[{first}])",
                at.got()
            )));
        }
        selectors.push((key.into(), header_name(&selector.required("header")?)?));
    }
    let fallback = block.or("fallback", SubsetFallback::default(), |at| at.word(&FALLBACKS))?;
    Ok(Subsets { selectors, fallback })
}

pub(super) fn random_subsetting(at: &Cursor<'_>) -> Result<RandomSubsetting, ConfigError> {
    let block = at.object(&["subset_size"])?;
    let subset_size = block.required("subset_size")?.whole_u32(&limits::SUBSET_SIZE)?;
    Ok(RandomSubsetting { subset_size })
}

pub(super) fn session(at: &Cursor<'_>) -> Result<Session, ConfigError> {
    let block = at.object(&["cookie", "secret"])?;
    let at = block.required("cookie")?;
    let cookie = at.object(&["name", "path", "ttl"])?;
    Ok(Session {
        cookie_name: cookie.required("name")?.token(&limits::NAME_BYTES)?.into(),
        cookie_path: cookie.or("path", raw::SESSION_COOKIE_PATH.into(), cookie_path)?,
        ttl: cookie.or("ttl", raw::SESSION_TTL, cookie_ttl)?,
        secret: block.required("secret")?.secret(&limits::SECRET_BYTES)?.into(),
    })
}

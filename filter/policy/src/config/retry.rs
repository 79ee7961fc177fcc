//! How often a request may be tried, merged field by field.

use super::{Budget, ConfigError, Retry, limits, read::Cursor, settings::unless_null};

/// What is written here, over `retry`.
pub(super) fn retry(at: &Cursor<'_>, retry: &mut Retry) -> Result<(), ConfigError> {
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

fn method(at: &Cursor<'_>) -> Result<String, ConfigError> {
    let method = at.token(&limits::METHOD_BYTES)?;
    if method.bytes().any(|byte| byte.is_ascii_lowercase()) {
        let upper = method.to_ascii_uppercase();
        return Err(at.error(&format!(
            "must be upper case, got {}: methods are case-sensitive, write {upper:?}",
            at.got()
        )));
    }
    Ok(method.into())
}

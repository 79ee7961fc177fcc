//! What is hashed, in Envoy's shape (`RouteAction.HashPolicy`).
//!
//! A pattern is compiled here only to refuse it with its path. Whoever evaluates it compiles it
//! again by the same code, so that what was accepted cannot fail later.

use core::time::Duration;

use super::{ConfigError, HashPolicy, HashSource, Rewrite, limits, read::Cursor};
use crate::rewrite::Rewriter;

/// Request pseudo-headers, which are no tokens.
const PSEUDO_HEADERS: [&str; 4] = [":authority", ":method", ":path", ":scheme"];

pub(super) fn hash_policies(at: &Cursor<'_>) -> Result<Vec<HashPolicy>, ConfigError> {
    let mut policies: Vec<HashPolicy> = Vec::new();
    for item in at.list(&(0..=limits::HASH_POLICIES_MAX))? {
        let policy = hash_policy(&item)?;
        let generates =
            |p: &HashPolicy| matches!(p.source, HashSource::Cookie { ttl: Some(_), .. });
        if generates(&policy) && policies.iter().any(generates) {
            return Err(item.error(
                "must be the only cookie with a `ttl`, got a second one: an answer has one place \
                 for a generated cookie",
            ));
        }
        policies.push(policy);
    }
    Ok(policies)
}

fn hash_policy(at: &Cursor<'_>) -> Result<HashPolicy, ConfigError> {
    const KEYS: [&str; 6] =
        ["header", "cookie", "connection_properties", "path", "query_parameter", "terminal"];
    let [kinds @ .., _] = KEYS;
    let item = at.object(&KEYS)?;
    let (kind, source) = item.one_of(&kinds)?;
    let source = match kind {
        "header" => header(&source)?,
        "cookie" => cookie(&source)?,
        "connection_properties" => {
            let properties = source.object(&["source_ip"])?;
            let source_ip = properties.required("source_ip")?;
            if !source_ip.flag()? {
                return Err(source_ip.error("must be true, got false: leave the item out instead"));
            }
            HashSource::SourceIp
        }
        "query_parameter" => {
            let parameter = source.object(&["name"])?;
            let name = parameter.required("name")?.name(&limits::NAME_BYTES)?;
            HashSource::QueryParameter(name.into())
        }
        _ => source.object(&[]).map(|_| HashSource::Path)?,
    };
    let terminal = item.or("terminal", false, Cursor::flag)?;
    Ok(HashPolicy { source, terminal })
}

fn header(at: &Cursor<'_>) -> Result<HashSource, ConfigError> {
    let block = at.object(&["header_name", "regex_rewrite"])?;
    Ok(HashSource::Header {
        name: header_name(&block.required("header_name")?)?,
        rewrite: block.or("regex_rewrite", None, |at| rewrite(at).map(Some))?,
    })
}

/// The name of a request header in lower case.
pub(super) fn header_name(at: &Cursor<'_>) -> Result<String, ConfigError> {
    let name = at.text(&limits::NAME_BYTES)?.to_ascii_lowercase();
    if PSEUDO_HEADERS.contains(&name.as_str()) {
        return Ok(name);
    }
    at.token(&limits::NAME_BYTES).map(|_| name)
}

fn rewrite(at: &Cursor<'_>) -> Result<Rewrite, ConfigError> {
    let block = at.object(&["pattern", "substitution"])?;
    let at = block.required("pattern")?;
    let matcher = at.object(&["regex"])?;
    let at = matcher.required("regex")?;
    let pattern = at.text(&limits::PATTERN_BYTES)?;
    Rewriter::new(pattern, "").map_err(|error| {
        at.error(&format!("must be a pattern of RE2, got {}: {error}", at.got()))
    })?;
    let substitution = block.or("substitution", "", |at| {
        let text = at.text(&limits::SUBSTITUTION_BYTES)?;
        Rewriter::new(pattern, text).map(|_| text).map_err(|error| {
            at.error(&format!("must be a substitution of RE2, got {}: {error}", at.got()))
        })
    })?;
    Ok(Rewrite { pattern: pattern.into(), substitution: substitution.into() })
}

fn cookie(at: &Cursor<'_>) -> Result<HashSource, ConfigError> {
    let block = at.object(&["name", "ttl", "path"])?;
    Ok(HashSource::Cookie {
        name: block.required("name")?.token(&limits::NAME_BYTES)?.into(),
        ttl: block.or("ttl", None, |at| cookie_ttl(at).map(Some))?,
        path: block.or("path", String::new(), |at| {
            match at.text(&limits::COOKIE_PATH_BYTES)? {
                "" => Ok(String::new()),
                _ => cookie_path(at),
            }
        })?,
    })
}

/// The life of a cookie, which its `Max-Age` counts in seconds.
pub(super) fn cookie_ttl(at: &Cursor<'_>) -> Result<Duration, ConfigError> {
    let ttl = at.duration(&limits::COOKIE_TTL)?;
    if ttl.subsec_nanos() > 0 {
        return Err(at.must("whole seconds"));
    }
    Ok(ttl)
}

/// The path of a cookie, which ends at a semicolon (RFC 6265, section 4.1.1).
pub(super) fn cookie_path(at: &Cursor<'_>) -> Result<String, ConfigError> {
    let text = at.text(&limits::COOKIE_PATH_BYTES)?;
    if text.starts_with('/') && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b';') {
        return Ok(text.into());
    }
    Err(at.must("visible ASCII without \";\" beginning with \"/\""))
}

//! How Envoy is steered: the only file that knows the headers.
//!
//! One header does it all. `x-envoy-retry-on` is where a filter tells the router its retry
//! conditions, and it is the header that the cluster's `override_host` policy is told to read its
//! endpoints from: the policy passes over entries that are no endpoint of the cluster, the router
//! over entries that are no condition. So `10.0.0.1:80,10.0.0.2:80,reset,gateway-error` says where
//! each attempt goes and what to retry, for the price of one write. Envoy's connection manager
//! removes the header from external requests before any filter runs, and the router removes it
//! before the request leaves: nothing has to strip it, and nobody outside can forge it.
//!
//! Conditions of the route itself cannot be taken away, except all at once by
//! `x-envoy-max-retries: 0`.

use outrigger_policy::attempt::Retry;
use outrigger_policy::engine::{Cookie, Plan};

use crate::head::HeadView;
use crate::host::{Host, Outcome};

const RETRY_ON: &[u8] = b"x-envoy-retry-on";
const MAX_RETRIES: &[u8] = b"x-envoy-max-retries";
const PER_TRY_TIMEOUT_MS: &[u8] = b"x-envoy-upstream-rq-per-try-timeout-ms";

/// Nothing has reached an endpoint: every request may be sent again.
const NOTHING_SENT: &[u8] = b",connect-failure,refused-stream,reset-before-request";

/// For requests that may be processed twice; `reset` covers connect failures and time-outs.
const IDEMPOTENT: &[u8] = b",reset,gateway-error";

/// Removes what a client must not set: headers in the plugin's name, and endpoints among the retry
/// conditions of a request that Envoy takes for an internal one.
pub fn clean(host: &impl Host, head: &HeadView<'_>) -> Outcome<()> {
    head.private().try_for_each(|name| host.remove_request_header(name))?;
    if !head.has_router_headers() {
        return Ok(());
    }
    let conditions = head.all(RETRY_ON);
    if !conditions.contains(&b':') {
        return Ok(());
    }
    let plain = |token: &&[u8]| !token.contains(&b':');
    let kept: Vec<&[u8]> = conditions.split(|&b| b == b',').filter(plain).collect();
    host.set_request_header(RETRY_ON, &kept.join(&b','))
}

/// Where Envoy's route finds the cookies for the answer, as filter state `wasm.<name>`.
const COOKIE: &[u8] = b"outrigger_cookie";
const SESSION: &[u8] = b"outrigger_session";

/// Has the answer of the stream `stream` set a cookie; `context` is whose callback this is.
pub fn set_cookie(
    host: &impl Host,
    (stream, context): (u32, u32),
    cookie: Cookie,
    value: &[u8],
) -> Outcome<()> {
    let name = match cookie {
        Cookie::Hash => COOKIE,
        Cookie::Session => SESSION,
    };
    if stream == context {
        return host.set_stream_property(name, value);
    }
    host.set_effective_context(stream)?;
    let set = host.set_stream_property(name, value);
    host.set_effective_context(context)?;
    set
}

/// Removes a list that a client may have sent, where its headers could not be read.
pub fn clean_unread(host: &impl Host) -> Outcome<()> {
    host.remove_request_header(RETRY_ON)
}

/// Steers a request; `value` is memory to write in.
pub fn steer(
    host: &impl Host,
    head: &HeadView<'_>,
    plan: &Plan,
    list: &[u8],
    value: &mut Vec<u8>,
) -> Outcome<()> {
    let set = |name, value: &[u8]| {
        if head.has_router_headers() {
            host.set_request_header(name, value)
        } else {
            host.add_request_header(name, value)
        }
    };
    value.clear();
    value.extend_from_slice(list);
    value.extend_from_slice(match plan.retry {
        Retry::Deny => b"",
        Retry::Widen => IDEMPOTENT,
        Retry::NothingSent => NOTHING_SENT,
    });
    set(RETRY_ON, value)?;
    if plan.retry == Retry::Deny {
        set(MAX_RETRIES, b"0")?;
    } else if let Some(retries) = plan.num_retries {
        set(MAX_RETRIES, retries.to_string().as_bytes())?;
    }
    if let Some(ms) = plan.per_try_timeout_ms {
        set(PER_TRY_TIMEOUT_MS, ms.to_string().as_bytes())?;
    }
    Ok(())
}

//! Cookies: read from requests, and rendered for responses, as Envoy does both
//! (`Utility::parseCookieValue` and `makeSetCookieValue` in `source/common/http/utility.cc`).

use core::time::Duration;

use super::Head;

/// The first answer that `accept` gives to the value of a cookie called `name`. Spaces before the
/// name and quotes around the value are dropped, any other white space is part of either.
pub(super) fn first<'a, T>(
    name: &[u8],
    head: &'a impl Head,
    accept: impl Fn(&'a [u8]) -> Option<T>,
) -> Option<T> {
    let mut found = None;
    head.values(b"cookie", &mut |header| {
        for pair in header.split(|&b| b == b';') {
            if found.is_some() {
                return;
            }
            let begin = pair.iter().position(|&b| b != b' ').unwrap_or(pair.len());
            let pair = pair.get(begin..).unwrap_or_default();
            let Some(at) = pair.iter().position(|&b| b == b'=') else { continue };
            let (key, value) = pair.split_at(at);
            if key == name {
                found = accept(unquoted(value.get(1..).unwrap_or_default()));
            }
        }
    });
    found
}

fn unquoted(value: &[u8]) -> &[u8] {
    match value {
        [b'"', inner @ .., b'"'] => inner,
        _ => value,
    }
}

/// Appends the value of a `set-cookie` header to `out`. Whole seconds of `ttl` count; without any
/// the cookie lives as long as the browser runs. An empty `path` is not sent.
pub fn set_cookie(out: &mut Vec<u8>, name: &str, value: &[u8], path: &str, ttl: Duration) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"=\"");
    out.extend_from_slice(value);
    out.push(b'"');
    if ttl.as_secs() > 0 {
        out.extend_from_slice(b"; Max-Age=");
        out.extend_from_slice(ttl.as_secs().to_string().as_bytes());
    }
    if !path.is_empty() {
        out.extend_from_slice(b"; Path=");
        out.extend_from_slice(path.as_bytes());
    }
    out.extend_from_slice(b"; HttpOnly");
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn rendered(path: &str, ttl: Duration) -> String {
        let mut out = Vec::new();
        set_cookie(&mut out, "sid", b"00ff", path, ttl);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_cookie_is_set_in_envoys_form() {
        let full = r#"sid="00ff"; Max-Age=90; Path=/a; HttpOnly"#;
        assert_eq!(rendered("/a", Duration::from_millis(90_999)), full);
        assert_eq!(rendered("", Duration::ZERO), r#"sid="00ff"; HttpOnly"#);
        assert_eq!(rendered("", Duration::from_millis(999)), r#"sid="00ff"; HttpOnly"#);
    }
}

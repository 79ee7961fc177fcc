//! Durations as people write them: one number and one unit, such as `250ms` or `1.5s`.
//!
//! The arithmetic is exact in nanoseconds; floating point would make `0.1s` something else.

use core::time::Duration;

/// Nanoseconds of each unit, in the order in which [`parse`] tries their spelling: `ms` before
/// the units that it ends or begins with.
const UNITS: [(&str, u128); 4] =
    [("ms", 1_000_000), ("s", 1_000_000_000), ("m", 60_000_000_000), ("h", 3_600_000_000_000)];

/// Digits after the point: what a `u64` of nanoseconds can resolve.
const FRACTION_DIGITS_MAX: usize = 9;

/// Reads a duration; `None` when `text` is not one. What does not fit becomes the longest
/// duration, which every range then refuses.
pub(super) fn parse(text: &str) -> Option<Duration> {
    let (number, unit_ns) =
        UNITS.iter().find_map(|(unit, ns)| text.strip_suffix(unit).map(|number| (number, *ns)))?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    if !is_digits(whole) || !is_digits(fraction) || fraction.len() > FRACTION_DIGITS_MAX {
        return None;
    }
    let whole_ns = whole.parse().unwrap_or(u128::from(u64::MAX)).saturating_mul(unit_ns);
    let scale = 10_u128.pow(u32::try_from(fraction.len()).unwrap_or(0));
    let fraction_ns = fraction.parse().unwrap_or(0_u128).saturating_mul(unit_ns) / scale;
    let ns = u64::try_from(whole_ns.saturating_add(fraction_ns)).unwrap_or(u64::MAX);
    Some(Duration::from_nanos(ns))
}

/// Writes a duration in the largest unit that keeps it whole, so that [`parse`] gives it back.
pub(super) fn show(duration: Duration) -> String {
    let ns = duration.as_nanos();
    let whole = UNITS.iter().rev().find(|(_, unit_ns)| ns > 0 && ns.is_multiple_of(*unit_ns));
    match whole {
        Some((unit, unit_ns)) => format!("{}{unit}", ns / unit_ns),
        None if ns == 0 => "0s".into(),
        None => format!("{}.{:09}s", duration.as_secs(), duration.subsec_nanos()),
    }
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    #[test]
    fn a_duration_is_one_number_and_one_unit() {
        for (text, ns) in [
            ("250ms", 250_000_000),
            ("2s", 2_000_000_000),
            ("1m", 60_000_000_000),
            ("1.5s", 1_500_000_000),
            ("0.1s", 100_000_000),
            ("0.000000001s", 1),
            ("24h", 86_400_000_000_000),
            ("0ms", 0),
            ("99999999999999999999999999999999999999999999s", u64::MAX),
        ] {
            assert_eq!(parse(text), Some(Duration::from_nanos(ns)), "{text}");
        }
        for text in [
            "",
            "5",
            "s",
            "ms",
            "-1s",
            "+1s",
            "1 s",
            " 1s",
            "1s ",
            "1e3s",
            ".5s",
            "1.s",
            "1.5.5s",
            "1m30s",
            "1S",
            "1us",
            "0.0000000001s",
            "١s",
            "infs",
            "0x5s",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn what_is_shown_is_read_back() {
        for (ns, text) in [
            (0, "0s"),
            (1, "0.000000001s"),
            (1_500_000_000, "1500ms"),
            (60_000_000_000, "1m"),
            (90_000_000_000, "90s"),
            (86_400_000_000_000, "24h"),
        ] {
            assert_eq!(show(Duration::from_nanos(ns)), text);
            assert_eq!(parse(text), Some(Duration::from_nanos(ns)));
        }
    }
}

//! Replaces every match of a pattern, as Envoy's `RegexMatchAndSubstitute` does it with RE2.
//!
//! The engine is `regex-lite`: like RE2 it finds the leftmost match, prefers the first alternative,
//! knows ASCII classes only and never backtracks. The loop over matches is that of
//! `RE2::GlobalReplace`, so that empty matches are replaced where RE2 replaces them.
//!
//! A character is a byte, in values, patterns and substitutions alike: so Envoy 1.40 does it
//! (measured; `.` takes an `é` for two characters). `regex-lite` searches text, so bytes from 128
//! on are given to it as the characters of Latin-1.
//!
//! What the two read differently is refused, never guessed: `\<`, `\>` and `\b{` (words here, plain
//! characters in RE2), and RE2's `\pN`, `\Q`, `\C` and octal escapes. One difference remains:
//! `(?i)` folds ASCII letters only.
//!
//! One search is linear in the value; all the searches of a value are quadratic when each of them
//! looks far ahead (`a[^z]*z|a`), and the value is the client's. So the bytes looked at are counted
//! against a budget; a value that would need more is left alone.

use alloc::borrow::Cow;

use regex_lite::{CaptureLocations, Regex, RegexBuilder};

/// Bytes that may be searched and written for one header of one request: the largest that Envoy
/// lets through by default (60 KiB) is searched once and written once, and a value in which every
/// character is replaced may be 500 bytes long. `a[^z]*z|a` takes 4 ms at most with it, the worst
/// pattern that the next limit lets through 100 ms; Envoy has no such limit.
pub const WORK_BYTES_MAX: usize = 128 * 1024;

/// Size of a compiled pattern in bytes, some 500 states: each byte searched may visit them all.
/// Envoy refuses programs of more than 100 instructions unless told otherwise.
const PROGRAM_BYTES_MAX: usize = 16 * 1024;

/// A compiled pattern with what replaces its matches.
#[derive(Clone, Debug)]
pub struct Rewriter {
    regex: Regex,
    substitution: Vec<Piece>,
}

#[derive(Clone, Debug)]
enum Piece {
    Text(String),
    Group(usize),
}

impl Rewriter {
    /// Compiles `pattern`. In `substitution`, `\1` is the first group, `\0` the whole match and
    /// `\\` a backslash.
    ///
    /// # Errors
    /// What is wrong with either, in words for the user.
    pub fn new(pattern: &str, substitution: &str) -> Result<Self, String> {
        for (escape, _) in pattern.match_indices('\\').filter(|(at, _)| is_escape(pattern, *at)) {
            let rest = pattern.get(escape.saturating_add(1)..).unwrap_or_default();
            if rest.starts_with(['<', '>']) || rest.starts_with("b{") {
                let shown = if rest.starts_with('b') { "b{" } else { rest.get(..1).unwrap_or("") };
                return Err(format!("`\\{shown}` at byte {escape} is not RE2"));
            }
        }
        let mut builder = RegexBuilder::new(&latin_1(pattern.as_bytes()));
        let regex = builder.size_limit(PROGRAM_BYTES_MAX).build().map_err(|e| e.to_string())?;
        let substitution = pieces(&latin_1(substitution.as_bytes()), regex.captures_len())?;
        Ok(Self { regex, substitution })
    }

    /// Appends `value` with every match replaced to `out`. Nothing when that takes more than
    /// `budget`; what `out` has then is of no use.
    pub fn rewrite(&self, value: &[u8], budget: &mut usize, out: &mut Vec<u8>) -> Option<()> {
        let text = &*latin_1(value);
        let mut groups = self.regex.capture_locations();
        let (mut begin, mut last_end) = (0, None);
        while let Some(rest) = text.get(begin..) {
            *budget = budget.checked_sub(rest.len().saturating_add(1))?;
            let Some(hit) = self.regex.captures_read_at(&mut groups, text, begin) else { break };
            append(out, text.get(begin..hit.start())?, budget)?;
            if hit.is_empty() && last_end == Some(hit.start()) {
                // an empty match right behind the last one does not count: go on a character later
                let Some(skipped) = rest.chars().next() else { return Some(()) };
                append(out, skipped.encode_utf8(&mut [0; 4]), budget)?;
                begin = begin.saturating_add(skipped.len_utf8());
                continue;
            }
            self.substitute(text, &groups, budget, out)?;
            begin = hit.end();
            last_end = Some(begin);
        }
        append(out, text.get(begin..).unwrap_or_default(), budget)
    }

    fn substitute(
        &self,
        text: &str,
        groups: &CaptureLocations,
        budget: &mut usize,
        out: &mut Vec<u8>,
    ) -> Option<()> {
        for piece in &self.substitution {
            let piece = match piece {
                Piece::Text(piece) => piece,
                Piece::Group(number) => match groups.get(*number) {
                    Some((begin, end)) => text.get(begin..end)?,
                    None => "",
                },
            };
            append(out, piece, budget)?;
        }
        Some(())
    }
}

/// The text whose characters are `bytes`.
fn latin_1(bytes: &[u8]) -> Cow<'_, str> {
    match core::str::from_utf8(bytes) {
        Ok(text) if text.is_ascii() => Cow::Borrowed(text),
        _ => bytes.iter().copied().map(char::from).collect(),
    }
}

/// Appends the bytes that are the characters of `text`.
fn append(out: &mut Vec<u8>, text: &str, budget: &mut usize) -> Option<()> {
    *budget = budget.checked_sub(text.len())?;
    if text.is_ascii() {
        out.extend_from_slice(text.as_bytes());
    } else {
        out.extend(text.chars().filter_map(|character| u8::try_from(character).ok()));
    }
    Some(())
}

/// Whether the backslash at `at` begins an escape, and is not itself escaped.
fn is_escape(pattern: &str, at: usize) -> bool {
    let before = pattern.as_bytes().get(..at).unwrap_or_default();
    before.iter().rev().take_while(|&&byte| byte == b'\\').count().is_multiple_of(2)
}

fn pieces(substitution: &str, groups: usize) -> Result<Vec<Piece>, String> {
    let mut pieces = Vec::new();
    let mut text = String::new();
    let mut rest = substitution.chars();
    while let Some(character) = rest.next() {
        if character != '\\' {
            text.push(character);
            continue;
        }
        match rest.next() {
            Some('\\') => text.push('\\'),
            Some(digit @ '0'..='9') => {
                let number = digit.to_digit(10).and_then(|n| usize::try_from(n).ok()).unwrap_or(0);
                if number >= groups {
                    let last = groups.saturating_sub(1);
                    return Err(format!("`\\{number}` in the substitution: groups end at {last}"));
                }
                pieces.push(Piece::Text(core::mem::take(&mut text)));
                pieces.push(Piece::Group(number));
            }
            _ => return Err("a `\\` in the substitution must precede 0..9 or `\\`".into()),
        }
    }
    pieces.push(Piece::Text(text));
    Ok(pieces)
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn rewritten(pattern: &str, substitution: &str, value: &[u8]) -> Option<Vec<u8>> {
        let (mut budget, mut out) = (WORK_BYTES_MAX, Vec::new());
        let rewriter = Rewriter::new(pattern, substitution).unwrap();
        rewriter.rewrite(value, &mut budget, &mut out).map(|()| out)
    }

    fn text(pattern: &str, substitution: &str, value: &str) -> String {
        String::from_utf8(rewritten(pattern, substitution, value.as_bytes()).unwrap()).unwrap()
    }

    #[test]
    fn every_match_is_replaced_with_its_groups() {
        for (pattern, substitution, value, expected) in [
            (r"^/users/(\d+)/.*$", r"\1", "/users/42/orders?x=1", "42"),
            (r"^/users/(\d+)/.*$", r"\1", "/orders/42", "/orders/42"),
            (r"(\w+)@(\w+)", r"\2 at \1, \0\\", "a@b c@d", r"b at a, a@b\ d at c, c@d\"),
            (r"(a)|(b)", r"<\1\2>", "abc", "<a><b>c"),
            ("x", "", "axbxc", "abc"),
            ("", "-", "", "-"),
        ] {
            assert_eq!(text(pattern, substitution, value), expected);
        }
    }

    #[test]
    fn empty_matches_are_replaced_where_re2_replaces_them() {
        for (pattern, value, expected) in [
            ("b*", "aabbaa", "-a-a-a-a-"),
            ("b*", "bb", "-"),
            ("", "ab", "-a-b-"),
            ("a*?", "aa", "-a-a-"),
            ("$", "ab", "ab-"),
            (r"\b", "ab cd", "-ab- -cd-"),
        ] {
            assert_eq!(text(pattern, "-", value), expected, "{pattern}");
        }
    }

    #[test]
    fn a_character_is_a_byte_whatever_it_encodes() {
        assert_eq!(text(".", r"\0,", "a,").as_bytes(), b"a,,,");
        assert_eq!(rewritten(".", r"\0,", "é".as_bytes()).unwrap(), b"\xc3,\xa9,");
        assert_eq!(rewritten("a", "-", b"a\xff\0a").unwrap(), b"-\xff\0-");
        assert_eq!(text("é+", "É", "aééb"), "aÉÉb", "only the last byte repeats");
        assert_eq!(rewritten("[é]", "", "àé".as_bytes()).unwrap(), b"\xa0", "one byte of each");
        assert_eq!(rewritten(r"\x{e9}", "e", b"\xe9").unwrap(), b"e");
        assert_eq!(text(r"\x{2603}", "", "☃"), "☃");
    }

    #[test]
    fn what_re2_reads_differently_is_refused() {
        let refused = |pattern: &str| Rewriter::new(pattern, "").unwrap_err();
        assert_eq!(refused(r"a\<b"), r"`\<` at byte 1 is not RE2");
        assert_eq!(refused(r"\\\b{start}"), r"`\b{` at byte 2 is not RE2");
        for pattern in
            [r"\>", r"\pL", r"\Q.\E", r"\C", r"\07", "a{", "[[a]", "[a&&b]", "(", "(?=a)"]
        {
            refused(pattern);
        }
        assert!(Rewriter::new(r"\\<\bx\b\\b{2}", "").is_ok(), "an escaped backslash is no escape");
        assert!(Rewriter::new("[a-z]{2000}", "").is_err(), "too large a program");
    }

    #[test]
    fn a_substitution_that_re2_cannot_follow_is_refused() {
        for substitution in [r"\2", r"\9", r"\", r"\x", r"a\ "] {
            assert!(Rewriter::new("(a)", substitution).is_err(), "{substitution}");
        }
        assert_eq!(
            Rewriter::new("a", r"\1").unwrap_err(),
            r"`\1` in the substitution: groups end at 0"
        );
    }

    #[test]
    fn the_work_that_a_value_can_cause_is_bounded() {
        let longest = "b".repeat(60 * 1024);
        assert_eq!(rewritten("a", "-", longest.as_bytes()), Some(longest.clone().into_bytes()));
        assert!(rewritten(".", "-", "b".repeat(500).as_bytes()).is_some());
        assert_eq!(rewritten("a[^z]*z|a", "-", "a".repeat(4096).as_bytes()), None);
        assert_eq!(rewritten(".+", &"x".repeat(WORK_BYTES_MAX), b"a"), None);
        assert_eq!(rewritten(".", &r"\0".repeat(4096), "a".repeat(100).as_bytes()), None);
    }
}

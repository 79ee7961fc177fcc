//! Reads a JSON tree with the path in hand, so that each error names its field.
//!
//! The path is a chain of borrowed steps and becomes text only in an error: a configuration with
//! 10,000 endpoints builds no path at all.

use core::{fmt::Write, ops::RangeInclusive, time::Duration};

use super::{ConfigError, duration, json::Node};

/// Longest part of a user's text that an error repeats, in characters.
const SHOWN_CHARS_MAX: usize = 64;
/// Unknown fields at most this many edits from a known one are taken for typing errors.
const TYPO_EDITS_MAX: usize = 2;

/// A place in the tree.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cursor<'a> {
    node: &'a Node,
    parent: Option<&'a Self>,
    step: Step<'a>,
}

#[derive(Debug, Clone, Copy)]
enum Step<'a> {
    Root,
    Key(&'a str),
    Index(usize),
}

/// An object whose keys are all known and different.
#[derive(Debug)]
pub(super) struct Object<'a> {
    at: &'a Cursor<'a>,
    entries: &'a [(String, Node)],
}

impl<'a> Object<'a> {
    /// The value of `key`, if it is there.
    pub(super) fn get(&self, key: &'static str) -> Option<Cursor<'a>> {
        let (_, node) = self.entries.iter().find(|(name, _)| name == key)?;
        Some(Cursor { node, parent: Some(self.at), step: Step::Key(key) })
    }

    /// The value of `key`, or an error that misses it.
    pub(super) fn required(&self, key: &'static str) -> Result<Cursor<'a>, ConfigError> {
        self.get(key).ok_or_else(|| {
            let missing = Cursor { node: &Node::Null, parent: Some(self.at), step: Step::Key(key) };
            missing.error("is required, got nothing")
        })
    }

    /// What `read` makes of the value of `key`, or `default` without one.
    pub(super) fn or<T>(
        &self,
        key: &'static str,
        default: T,
        read: impl FnOnce(&Cursor<'a>) -> Result<T, ConfigError>,
    ) -> Result<T, ConfigError> {
        self.get(key).map_or(Ok(default), |at| read(&at))
    }

    /// The path of `key`, whether it is there or not.
    pub(super) fn path(&self, key: &'static str) -> String {
        Cursor { node: &Node::Null, parent: Some(self.at), step: Step::Key(key) }.path()
    }

    /// The one of `keys` that is there; none and several are errors.
    pub(super) fn one_of(
        &self,
        keys: &[&'static str],
    ) -> Result<(&'static str, Cursor<'a>), ConfigError> {
        let mut there = keys.iter().filter_map(|key| self.get(key).map(|at| (*key, at)));
        match (there.next(), there.next()) {
            (Some(found), None) => Ok(found),
            (Some((first, _)), Some((second, _))) => Err(self.at.error(&format!(
                "must have one of {}, got both `{first}` and `{second}`",
                listed(keys)
            ))),
            (None, _) => {
                Err(self.at.error(&format!("must have one of {}, got none", listed(keys))))
            }
        }
    }
}

impl<'a> Cursor<'a> {
    /// The whole tree.
    pub(super) const fn root(node: &'a Node) -> Self {
        Self { node, parent: None, step: Step::Root }
    }

    /// An error here.
    pub(super) fn error(&self, reason: &str) -> ConfigError {
        ConfigError { path: self.path(), reason: reason.into() }
    }

    /// An error here, of the usual form.
    pub(super) fn must(&self, be: &str) -> ConfigError {
        self.error(&format!("must be {be}, got {}", self.got()))
    }

    /// What is here, short enough for an error.
    pub(super) fn got(&self) -> String {
        match self.node {
            Node::Null => "null".into(),
            Node::Bool(value) => value.to_string(),
            Node::Whole(value) => value.to_string(),
            Node::Number(value) => value.to_string(),
            Node::Text(value) => shown(value),
            Node::List(_) => "a list".into(),
            Node::Object(_) => "an object".into(),
        }
    }

    pub(super) const fn is_null(&self) -> bool {
        matches!(self.node, Node::Null)
    }

    /// The object here, with no key beyond `known` and none twice.
    pub(super) fn object(&'a self, known: &[&'static str]) -> Result<Object<'a>, ConfigError> {
        let Node::Object(entries) = self.node else {
            return Err(self.must("an object"));
        };
        for (i, (key, node)) in entries.iter().enumerate() {
            let at = Cursor { node, parent: Some(self), step: Step::Key(key) };
            if !known.contains(&key.as_str()) {
                return Err(at.error(&unknown(key, known)));
            }
            if entries.iter().take(i).any(|(earlier, _)| earlier == key) {
                return Err(at.error("must be written once, got it twice"));
            }
        }
        Ok(Object { at: self, entries })
    }

    /// The items of the list here, of which there are `count`.
    pub(super) fn list(
        &'a self,
        count: &RangeInclusive<usize>,
    ) -> Result<impl ExactSizeIterator<Item = Cursor<'a>>, ConfigError> {
        let Node::List(items) = self.node else {
            return Err(self.must("a list"));
        };
        if !count.contains(&items.len()) {
            return Err(self.count_error(count, items.len()));
        }
        Ok(items.iter().enumerate().map(|(i, node)| Cursor {
            node,
            parent: Some(self),
            step: Step::Index(i),
        }))
    }

    /// The values of the object here, of which there are `count`, by keys of the user's own.
    pub(super) fn entries(
        &'a self,
        count: &RangeInclusive<usize>,
    ) -> Result<impl Iterator<Item = Result<(&'a str, Cursor<'a>), ConfigError>>, ConfigError> {
        let Node::Object(entries) = self.node else {
            return Err(self.must("an object"));
        };
        if !count.contains(&entries.len()) {
            return Err(self.count_error(count, entries.len()));
        }
        Ok(entries.iter().enumerate().map(|(i, (key, node))| {
            let at = Cursor { node, parent: Some(self), step: Step::Key(key) };
            if entries.iter().take(i).any(|(earlier, _)| earlier == key) {
                return Err(at.error("must be written once, got it twice"));
            }
            Ok((key.as_str(), at))
        }))
    }

    fn count_error(&self, count: &RangeInclusive<usize>, got: usize) -> ConfigError {
        let (least, most) = (count.start(), count.end());
        self.error(&format!("must be {least}..{most} items, got {got}"))
    }

    /// The string here, of so many `bytes`.
    pub(super) fn text(&self, bytes: &RangeInclusive<usize>) -> Result<&'a str, ConfigError> {
        let Node::Text(text) = self.node else {
            return Err(self.must("a string"));
        };
        if bytes.contains(&text.len()) {
            return Ok(text);
        }
        let (least, most) = (bytes.start(), bytes.end());
        Err(self.error(&format!("must be {least}..{most} bytes, got {} bytes", text.len())))
    }

    /// The string here, if it is a token of RFC 9110, section 5.6.2.
    pub(super) fn token(&self, bytes: &RangeInclusive<usize>) -> Result<&'a str, ConfigError> {
        let text = self.text(bytes)?;
        let is_token =
            |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        if text.bytes().all(is_token) {
            return Ok(text);
        }
        Err(self.must("an HTTP token: letters, digits and !#$%&'*+-.^_`|~"))
    }

    /// The string here, which something or somebody is called by.
    pub(super) fn name(&self, bytes: &RangeInclusive<usize>) -> Result<&'a str, ConfigError> {
        let name = self.text(bytes)?;
        if name.chars().any(char::is_control) {
            return Err(self.must("free of control characters"));
        }
        Ok(name)
    }

    /// The string here, which no error repeats.
    pub(super) fn secret(&self, bytes: &RangeInclusive<usize>) -> Result<&'a str, ConfigError> {
        match self.node {
            Node::Text(_) => self.text(bytes),
            _ => Err(self.error("must be a string, got something else")),
        }
    }

    /// What the word here stands for, of those that may stand here.
    pub(super) fn word<T: Copy>(&self, words: &[(&str, T)]) -> Result<T, ConfigError> {
        let text = self.text(&(0..=usize::MAX))?;
        words.iter().find(|(word, _)| *word == text).map(|(_, meaning)| *meaning).ok_or_else(|| {
            let words: Vec<String> = words.iter().map(|(word, _)| format!("{word:?}")).collect();
            self.must(&words.join(" or "))
        })
    }

    /// The whole number here, in `range`.
    pub(super) fn whole(&self, range: &RangeInclusive<u64>) -> Result<u64, ConfigError> {
        match self.node {
            Node::Whole(value) if range.contains(value) => Ok(*value),
            Node::Whole(_) => Err(self.must(&format!("{}..{}", range.start(), range.end()))),
            Node::Number(value) if *value < 0.0 || value.fract() == 0.0 => {
                Err(self.must(&format!("{}..{}", range.start(), range.end())))
            }
            _ => Err(self.must("a whole number")),
        }
    }

    /// The whole number here, in `range`, which is one of `u32`.
    pub(super) fn whole_u32(&self, range: &RangeInclusive<u64>) -> Result<u32, ConfigError> {
        self.whole(range).map(|value| u32::try_from(value).unwrap_or(u32::MAX))
    }

    /// The number here in thousandths, in a `range` of thousandths.
    ///
    /// What has more decimals is refused, not rounded: whoever wrote it wanted to say something.
    /// The comparison is exact, because a quotient is rounded as the same decimal is when read.
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        clippy::cast_sign_loss,
        clippy::float_cmp,
        reason = "in a range that is far below 2^53, checked before the comparison counts"
    )]
    pub(super) fn milli(&self, range: &RangeInclusive<u64>) -> Result<u32, ConfigError> {
        let (milli, is_exact) = match self.node {
            Node::Whole(value) => (value.saturating_mul(1000), true),
            Node::Number(value) if *value > 0.0 => {
                let milli = (value * 1000.0).round() as u64;
                (milli, milli as f64 / 1000.0 == *value)
            }
            Node::Number(_) => (u64::MAX, true),
            _ => return Err(self.must("a number")),
        };
        if !range.contains(&milli) {
            let (least, most) = (shown_milli(*range.start()), shown_milli(*range.end()));
            return Err(self.must(&format!("{least}..{most}")));
        }
        if !is_exact {
            return Err(self.must("a number of at most 3 decimals"));
        }
        Ok(u32::try_from(milli).unwrap_or(u32::MAX))
    }

    /// The truth value here.
    pub(super) fn flag(&self) -> Result<bool, ConfigError> {
        match self.node {
            Node::Bool(value) => Ok(*value),
            _ => Err(self.must("true or false")),
        }
    }

    /// The duration here, in `range`.
    pub(super) fn duration(
        &self,
        range: &RangeInclusive<Duration>,
    ) -> Result<Duration, ConfigError> {
        let text = match self.node {
            Node::Text(text) => text,
            Node::Whole(value) => {
                return Err(self.error(&format!(
                    "must be a duration, got {value}: write the unit, as in \"{value}s\""
                )));
            }
            _ => return Err(self.must("a duration such as \"250ms\" or \"1.5s\"")),
        };
        let Some(value) = duration::parse(text) else {
            return Err(self.error(&format!(
                "must be a duration, got {}: write one number and one of ms, s, m, h, \
                 as in \"250ms\" or \"1.5s\"",
                self.got()
            )));
        };
        if range.contains(&value) {
            return Ok(value);
        }
        let (least, most) = (duration::show(*range.start()), duration::show(*range.end()));
        Err(self.must(&format!("{least}..{most}")))
    }

    fn path(&self) -> String {
        let mut text = String::new();
        self.write_path(&mut text);
        if text.is_empty() { "config".into() } else { text }
    }

    /// Recursion is bounded by the nesting that the readers know, which is below ten.
    fn write_path(&self, out: &mut String) {
        if let Some(parent) = self.parent {
            parent.write_path(out);
        }
        match self.step {
            Step::Root => {}
            Step::Key(key) if is_plain(key) => {
                if !out.is_empty() {
                    out.push('.');
                }
                out.push_str(key);
            }
            Step::Key(key) => {
                let _ = write!(out, "[{}]", shown(key));
            }
            Step::Index(index) => {
                let _ = write!(out, "[{index}]");
            }
        }
    }
}

fn is_plain(key: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    (1..=SHOWN_CHARS_MAX).contains(&key.len()) && key.bytes().all(plain)
}

/// `text` quoted, escaped and cut.
pub(super) fn shown(text: &str) -> String {
    match text.char_indices().nth(SHOWN_CHARS_MAX) {
        None => format!("{text:?}"),
        Some((end, _)) => format!("{:?}...", text.get(..end).unwrap_or_default()),
    }
}

/// Thousandths as people write them: `2`, `0.001`.
fn shown_milli(milli: u64) -> String {
    let (whole, rest) = (milli / 1000, milli % 1000);
    match rest {
        0 => whole.to_string(),
        _ => format!("{whole}.{rest:03}").trim_end_matches('0').into(),
    }
}

fn listed(names: &[&str]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

fn unknown(key: &str, known: &[&'static str]) -> String {
    let nearest = known
        .iter()
        .map(|name| (edits(key, name), *name))
        .min()
        .filter(|(edits, name)| *edits <= TYPO_EDITS_MAX && *edits < name.len());
    let hint = nearest.map_or_else(String::new, |(_, name)| format!(", did you mean `{name}`?"));
    match known {
        [] => format!("unknown field{hint} (known here: none)"),
        _ => format!("unknown field{hint} (known here: {})", listed(known)),
    }
}

/// Levenshtein's distance in bytes; keys too long to be a typing error count as far.
fn edits(a: &str, b: &str) -> usize {
    if a.len() > SHOWN_CHARS_MAX {
        return usize::MAX;
    }
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let (mut diagonal, mut left) = (i, i.saturating_add(1));
        for (above, y) in row.iter_mut().skip(1).zip(b.bytes()) {
            let here = if x == y { diagonal } else { 1 + diagonal.min(left).min(*above) };
            diagonal = *above;
            *above = here;
            left = here;
        }
        if let Some(first) = row.first_mut() {
            *first = i.saturating_add(1);
        }
    }
    row.last().copied().unwrap_or(usize::MAX)
}

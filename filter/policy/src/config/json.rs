//! JSON as a tree that forgets nothing.
//!
//! `serde_json::Value` keeps the last of two equal keys and sorts them; a configuration in which
//! a key appears twice is a mistake that the reader has to be able to name.

use core::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, SeqAccess, Visitor},
};

/// Room made for a list before its items are seen; what a list claims is not believed.
const LIST_HINT_MAX: usize = 64;

/// One JSON value.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Node {
    Null,
    Bool(bool),
    /// A whole number that fits.
    Whole(u64),
    /// Any other number.
    Number(f64),
    Text(String),
    List(Vec<Self>),
    /// Keys as written, in the order written, duplicates included.
    Object(Vec<(String, Self)>),
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
        Ok(Node::Bool(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Node, E> {
        Ok(Node::Whole(value))
    }

    #[allow(clippy::cast_precision_loss, reason = "negative: refused by every range, then shown")]
    fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
        Ok(u64::try_from(value).map_or(Node::Number(value as f64), Node::Whole))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Node, E> {
        Ok(whole(value).map_or(Node::Number(value), Node::Whole))
    }

    fn visit_str<E>(self, value: &str) -> Result<Node, E> {
        Ok(Node::Text(value.into()))
    }

    fn visit_string<E>(self, value: String) -> Result<Node, E> {
        Ok(Node::Text(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Node, A::Error> {
        let mut list = Vec::with_capacity(items.size_hint().unwrap_or(0).min(LIST_HINT_MAX));
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Node::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Node, A::Error> {
        let mut object = Vec::new();
        while let Some(entry) = entries.next_entry()? {
            object.push(entry);
        }
        Ok(Node::Object(object))
    }
}

/// `5.0` and `5e0` as 5: a control plane that keeps the configuration in a protobuf `Struct`
/// (Istio does) has only doubles, and may print them so. Exact up to 2^53.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::float_cmp,
    reason = "the comparison before the cast bounds it, and wholeness is an exact question"
)]
fn whole(value: f64) -> Option<u64> {
    const EXACT_MAX: f64 = 9_007_199_254_740_992.0;
    let fits = (0.0..=EXACT_MAX).contains(&value) && value.trunc() == value;
    fits.then_some(value as u64)
}

//! The state that all workers share, as bytes for Envoy's shared data.
//!
//! Only endpoints whose breaker ever moved are in it: in a healthy mesh it is a few bytes. One
//! value holds all clusters, so that a worker asks for it once a tick. Each worker merges what it
//! reads record by record (`Record::yields_to`), so a lost race loses nothing that matters.

use serde::{Deserialize, Serialize};

use super::breaker::Record;

/// The first byte of the encoding; a VM of another version ignores what it does not know.
const FORMAT: u8 = 1;

/// Endpoints in one shared value; more than the whole process may have open at once in practice.
pub const RECORDS_MAX: usize = 10_000;

/// One endpoint's record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The cluster's name.
    pub cluster: String,
    /// `ip:port` as Envoy prints it.
    pub address: String,
    /// What is known.
    pub record: Record,
}

/// The entries as bytes; past [`RECORDS_MAX`] the rest is left out.
#[must_use]
pub fn encode(entries: &[Entry]) -> Vec<u8> {
    let entries = entries.get(..RECORDS_MAX).unwrap_or(entries);
    let mut bytes = vec![FORMAT];
    if let Ok(body) = postcard::to_allocvec(entries) {
        bytes.extend_from_slice(&body);
    }
    bytes
}

/// The entries in `bytes`; none when they are of another format or damaged.
#[must_use]
pub fn decode(bytes: &[u8]) -> Vec<Entry> {
    match bytes.split_first() {
        Some((&FORMAT, body)) => {
            let mut entries: Vec<Entry> = postcard::from_bytes(body).unwrap_or_default();
            entries.truncate(RECORDS_MAX);
            entries
        }
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::breaker::{Cause, Phase};
    use crate::time::Instant;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn entry() -> Entry {
        let phase = Phase::Open {
            since: Instant(5),
            until: Instant(u64::MAX),
            cause: Cause::SuccessRate,
            dead: false,
        };
        let record = Record { version: 7, ejections: 2, changed: Instant(6), phase };
        Entry { cluster: "c".into(), address: "[::1]:80".into(), record }
    }

    #[test]
    fn what_one_worker_writes_another_reads() {
        let entries = vec![entry(), entry()];
        assert_eq!(decode(&encode(&entries)), entries);
    }

    #[test]
    fn foreign_and_damaged_bytes_give_nothing() {
        let bytes = encode(&[entry()]);
        for end in 0..bytes.len() {
            assert!(decode(&bytes[..end]).len() <= 1);
        }
        assert_eq!(decode(b""), []);
        assert_eq!(decode(b"\x02hello"), []);
        assert_eq!(decode(&[FORMAT, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]), []);
    }
}

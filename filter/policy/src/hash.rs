//! The hashes that decide placement, bit for bit as Envoy computes them.
//!
//! A key must land on the endpoint where Envoy's own `ring_hash` or `maglev` would put it, so
//! these follow Envoy's `source/common/common/hash.h` and `source/common/http/hash_policy.cc`:
//! xxHash64 for request keys and for most tables, `MurmurHash` 2 (64A, seed `0xc70f6907`, which
//! is libstdc++'s `std::hash<std::string>`) as the ring's other choice.
//!
//! Everything is `u64` from end to end. A caller reduces (`hash % size`) in `u64` and narrows
//! afterwards, because `usize` is 32 bits wide in wasm. None of these resists an attacker who
//! chooses keys; neither do Envoy's.

use twox_hash::XxHash64;

/// Seed that Envoy (and libstdc++) gives to `MurmurHash` 2.
pub const MURMUR2_SEED: u64 = 0xc70f_6907;

const MURMUR2_MUL: u64 = 0xc6a4_a793_5bd1_e995;

/// Which hash places the points of a ring (Envoy: `RingHash.hash_function`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HashFunction {
    /// `XX_HASH`: xxHash64 with seed 0. Envoy's default.
    #[default]
    XxHash,
    /// `MURMUR_HASH_2`: `MurmurHash` 2 64A with [`MURMUR2_SEED`].
    MurmurHash2,
}

impl HashFunction {
    /// The hash of `bytes` by this function, with the seed that Envoy gives it.
    #[must_use]
    pub fn hash(self, bytes: &[u8]) -> u64 {
        match self {
            Self::XxHash => xxh64(bytes, 0),
            Self::MurmurHash2 => murmur2_64a(bytes, MURMUR2_SEED),
        }
    }
}

/// xxHash64 of `bytes` (<https://github.com/Cyan4973/xxHash>).
#[must_use]
pub fn xxh64(bytes: &[u8], seed: u64) -> u64 {
    XxHash64::oneshot(seed, bytes)
}

/// `MurmurHash` 2, variant 64A, reading little-endian words on every machine
/// (Austin Appleby, <https://github.com/aappleby/smhasher>).
#[must_use]
pub fn murmur2_64a(bytes: &[u8], seed: u64) -> u64 {
    let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    let mut hash = seed ^ length.wrapping_mul(MURMUR2_MUL);
    let (words, tail) = bytes.as_chunks::<8>();
    for word in words {
        let mixed = shift_mix(u64::from_le_bytes(*word).wrapping_mul(MURMUR2_MUL));
        hash = (hash ^ mixed.wrapping_mul(MURMUR2_MUL)).wrapping_mul(MURMUR2_MUL);
    }
    if !tail.is_empty() {
        let word = tail.iter().rev().fold(0, |word, byte| (word << 8) | u64::from(*byte));
        hash = (hash ^ word).wrapping_mul(MURMUR2_MUL);
    }
    shift_mix(shift_mix(hash).wrapping_mul(MURMUR2_MUL))
}

const fn shift_mix(word: u64) -> u64 {
    word ^ (word >> 47)
}

/// The hash that Envoy gives to one value of a `hash_policy`: a cookie's value, a path, or the
/// client's address as text without its port. It is xxHash64 with seed 0.
///
/// Envoy computes nothing for an absent or empty cookie and for an absent address; the caller
/// has to skip those, not hash them.
#[must_use]
pub fn bytes_hash(bytes: &[u8]) -> u64 {
    xxh64(bytes, 0)
}

/// The hash of all values of one request header, whatever order they came in.
///
/// Envoy sorts the values by their bytes and chains them: each value is hashed with the hash so
/// far as its seed, the first with 0. So one value gives [`bytes_hash`] of it. `values` is left
/// sorted. A header that is absent has no hash: the caller must not ask (it would get that of
/// the empty string).
#[must_use]
pub fn header_values_hash(values: &mut [&[u8]]) -> u64 {
    values.sort_unstable();
    match values.split_first() {
        None => xxh64(b"", 0),
        Some((first, rest)) => rest.iter().fold(xxh64(first, 0), |hash, value| xxh64(value, hash)),
    }
}

/// The request's hash after one more entry of its `hash_policy` gave `new`.
///
/// The hash so far is rotated left by one bit before it is combined, so that two equal entries
/// do not cancel each other out (`HashPolicyImpl::generateHash`). After a `terminal` entry that
/// gave a hash the caller stops.
#[must_use]
pub const fn combine(previous: Option<u64>, new: u64) -> u64 {
    match previous {
        Some(hash) => hash.rotate_left(1) ^ new,
        None => new,
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    #[test]
    fn header_values_hash_the_same_in_any_order_and_by_the_chained_rule() {
        let forward = header_values_hash(&mut [b"foo", b"bar", b""]);
        let backward = header_values_hash(&mut [b"", b"bar", b"foo"]);
        assert_eq!(forward, backward);
        let chained = xxh64(b"foo", xxh64(b"bar", xxh64(b"", 0)));
        assert_eq!(forward, chained);
    }

    #[test]
    fn one_header_value_hashes_as_the_plain_value() {
        assert_eq!(header_values_hash(&mut [b"foo"]), bytes_hash(b"foo"));
        assert_eq!(header_values_hash(&mut []), bytes_hash(b""));
    }

    #[test]
    fn equal_entries_of_a_hash_policy_do_not_cancel_each_other_out() {
        let once = combine(None, bytes_hash(b"foo"));
        assert_eq!(once, bytes_hash(b"foo"));
        let twice = combine(Some(once), bytes_hash(b"foo"));
        assert_ne!(twice, 0);
        assert_eq!(twice, once.rotate_left(1) ^ once);
    }

    #[test]
    fn murmur_reads_every_length_of_tail() {
        let text = b"0123456789abcdef";
        let hashes: Vec<u64> = (0..=text.len()).map(|n| murmur2_64a(&text[..n], 1)).collect();
        for (n, hash) in hashes.iter().enumerate() {
            assert!(!hashes[..n].contains(hash), "length {n} repeats a hash");
        }
    }
}

//! A stable random part of a large cluster for one proxy (gRFC A68).
//!
//! With thousands of endpoints every proxy would hold a connection to each, and what one proxy
//! learns of one endpoint would be next to nothing. By rendezvous hashing each proxy takes those
//! whose addresses hash lowest under its own seed: parts of different proxies are independent, so
//! that all endpoints serve about as many of them, and an endpoint that comes or goes changes at
//! most one place.

use crate::hash::xxh64;

/// The endpoints to use, as indices into `addresses` in ascending order: the `subset_size` with
/// the lowest `xxh64(address, seed)`, or all if there are no more. The seed has to be the same in
/// all workers of a process and should differ between processes.
#[must_use]
pub fn subset<'a>(
    addresses: impl Iterator<Item = &'a str>,
    subset_size: u32,
    seed: u64,
) -> Vec<u32> {
    let hashed = (0..).zip(addresses).map(|(index, key)| (xxh64(key.as_bytes(), seed), index));
    let mut ranked: Vec<(u64, u32)> = hashed.collect();
    let size = subset_size as usize;
    if size < ranked.len() {
        ranked.select_nth_unstable(size);
        ranked.truncate(size);
    }
    let mut indices: Vec<u32> = ranked.into_iter().map(|(_, index)| index).collect();
    indices.sort_unstable();
    indices
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    fn addresses(n: usize) -> Vec<String> {
        (0..n).map(|n| format!("10.0.{}.{}:80", n / 256, n % 256)).collect()
    }

    fn subset_of(addresses: &[String], size: u32, seed: u64) -> Vec<u32> {
        subset(addresses.iter().map(String::as_str), size, seed)
    }

    #[test]
    fn it_is_what_sorting_by_hash_and_cutting_gives() {
        let addresses = addresses(50);
        for seed in 0..20 {
            let mut sorted: Vec<u32> = (0..50).collect();
            sorted.sort_by_key(|at| xxh64(addresses[*at as usize].as_bytes(), seed));
            sorted.truncate(7);
            sorted.sort_unstable();
            assert_eq!(subset_of(&addresses, 7, seed), sorted);
        }
    }

    #[test]
    fn no_more_endpoints_than_the_subset_are_all_used() {
        let all: Vec<u32> = (0..5).collect();
        assert_eq!(subset_of(&addresses(5), 5, 1), all);
        assert_eq!(subset_of(&addresses(5), u32::MAX, 1), all);
        assert_eq!(subset_of(&addresses(5), 4, 1).len(), 4);
        assert!(subset_of(&[], 3, 1).is_empty());
        assert!(subset_of(&addresses(5), 0, 1).is_empty());
    }

    #[test]
    fn over_many_proxies_all_endpoints_serve_about_as_many() {
        let addresses = addresses(100);
        let mut proxies = vec![0_u32; 100];
        for seed in 0..2000 {
            subset_of(&addresses, 10, seed).iter().for_each(|at| proxies[*at as usize] += 1);
        }
        // Binomial: 200 on average, 13.4 of deviation; 5 of them.
        assert!(proxies.iter().all(|n| n.abs_diff(200) < 67), "{proxies:?}");
    }
}

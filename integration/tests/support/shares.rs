//! Which share of requests each endpoint gets.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use integration::harness::Harness;

use super::wire;

/// Counts of requests by endpoint.
#[derive(Debug, Clone, Default)]
pub struct Shares {
    counts: BTreeMap<SocketAddr, usize>,
    total: usize,
    failed: usize,
}

impl Shares {
    /// Sends so many GETs with a key each (`key-0`, `key-1`, ...), which must all be answered with
    /// 200, over connections to both workers.
    pub fn of(harness: &Harness, count: usize) -> Self {
        Self::of_requests(harness, count, &[])
    }

    /// The same with further headers.
    pub fn of_requests(harness: &Harness, count: usize, headers: &[(&str, &str)]) -> Self {
        let shares = Self::with_failures(harness, count, headers);
        assert_eq!(shares.failed, 0, "not answered with 200");
        shares
    }

    /// The same, where requests may fail; those that do count only as that.
    pub fn with_failures(harness: &Harness, count: usize, headers: &[(&str, &str)]) -> Self {
        let request = |n| {
            let mut all = vec![("x-key".to_owned(), format!("key-{n}"))];
            all.extend(headers.iter().map(|(name, value)| ((*name).into(), (*value).into())));
            wire::get("/", &all)
        };
        let requests: Vec<_> = (0..count).map(request).collect();
        let mut shares = Self::default();
        for answer in wire::exchange(harness.envoy().entry, &requests) {
            if answer.status != 200 {
                shares.failed += 1;
                continue;
            }
            *shares.counts.entry(answer.upstream.parse().unwrap()).or_default() += 1;
            shares.total += 1;
        }
        shares
    }

    /// Adds what was counted later.
    pub fn add(&mut self, other: &Self) {
        for (address, count) in &other.counts {
            *self.counts.entry(*address).or_default() += count;
        }
        self.total += other.total;
    }

    /// Who got any.
    pub fn used(&self) -> Vec<SocketAddr> {
        self.counts.keys().copied().collect()
    }

    /// The share of one endpoint.
    pub fn share(&self, address: SocketAddr) -> f64 {
        let count = self.counts.get(&address).copied().unwrap_or(0);
        count as f64 / self.total.max(1) as f64
    }

    /// The share of several together.
    pub fn sum<'a>(&self, addresses: impl IntoIterator<Item = &'a SocketAddr>) -> f64 {
        addresses.into_iter().map(|address| self.share(*address)).sum()
    }

    /// The largest part by which a share differs from what the weights say, as a part of that.
    pub fn error(&self, addresses: &[SocketAddr], weights: &[f64]) -> f64 {
        let sum: f64 = weights.iter().sum();
        let parts = addresses.iter().zip(weights).map(|(address, weight)| {
            let fair = weight / sum;
            (self.share(*address) - fair).abs() / fair
        });
        parts.fold(0.0, f64::max)
    }

    /// So many were answered with something else than 200.
    pub fn failed(&self) -> usize {
        self.failed
    }

    /// So many requests were counted.
    pub fn total(&self) -> usize {
        self.total
    }
}

/// The addresses of an Envoy's members, in order.
pub fn addresses(harness: &Harness) -> Vec<SocketAddr> {
    harness.members().iter().map(|member| member.address).collect()
}

/// `xds.data.orca.v3.OrcaLoadReport` in base64: `cpu_utilization` and `rps_fractional`.
pub fn orca_report(cpu: f64, rps: f64) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut bytes = vec![1 << 3 | 1];
    bytes.extend(cpu.to_le_bytes());
    bytes.push(6 << 3 | 1);
    bytes.extend(rps.to_le_bytes());
    // 18 bytes: no padding
    let digits = bytes.chunks_exact(3).flat_map(|three| {
        let all = u32::from_be_bytes([0, three[0], three[1], three[2]]);
        [18, 12, 6, 0].map(|shift| char::from(DIGITS[(all >> shift & 63) as usize]))
    });
    digits.collect()
}

//! From a key to an ordered list of distinct endpoints.
//!
//! A [`Picker`] is built once for a set of members and then walked once per request. The walk
//! offers members in order of preference and the caller says which it admits; what is held out
//! and why is the caller's business. The first candidate is the one that Envoy's own policy of
//! the same name would choose, so that taking Outrigger out of the path moves no key:
//!
//! | policy | first candidate | the others |
//! | --- | --- | --- |
//! | [`RoundRobin`] | next turn (Envoy's or nginx's order if weights differ) | random, evenly |
//! | [`Random`] | random by weight | random by weight |
//! | [`LeastRequest`] | least in flight of a few; next turn if weights differ | so on; evenly |
//! | [`PeakEwma`] | least cost of a few, by weight | so on, with one more drawn for each |
//! | [`RingHash`] | owner of the first point at or after the hash | owners clockwise |
//! | [`Maglev`] | `table[hash % size]` | Envoy's rehash per attempt, then the next slots |
//! | [`Rendezvous`] (Envoy has none) | best lot for slot `hash % size` | next best lots |
//!
//! With a `hash_balance_factor` the hashing policies offer members that have room first, as
//! Envoy's bounded load does.
//!
//! Sources: Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer",
//! NSDI 2016, section 3.4; Karger et al., "Consistent Hashing and Random Trees", STOC 1997, in the
//! form of libketama; Envoy's `source/extensions/load_balancing_policies/{maglev,ring_hash,
//! round_robin,random,least_request}/` and `source/common/upstream/edf_scheduler.h`, and what the
//! policies' own files name; all of it described here, not copied.
//!
//! A walk allocates nothing and never fails. It ends when the caller has enough or when every
//! member has been offered once. What happens per request is bounded by named limits; where one
//! is reached, the members that are left follow in index order.
//!
//! Not done here: health, priorities, localities, measuring load. Priorities are one picker each.

mod bounded;
mod build;
mod choices;
mod draw;
mod hash_walk;
mod least_request;
mod maglev;
mod mt19937;
mod peak_ewma;
pub mod priority;
mod random;
mod rendezvous;
mod ring_hash;
mod round_robin;
mod schedule;
mod seen;
mod slots;
mod smooth;
pub mod subsetting;
mod weights;
pub mod zone;

use crate::config::LbPolicy;
pub use crate::hash::HashFunction;
use crate::rng::Rng;
pub use build::{Building, SLICE_UNITS};
pub use least_request::LeastRequest;
pub use maglev::{Maglev, TABLE_SIZE_MAX};
pub use peak_ewma::PeakEwma;
pub use random::Random;
pub use rendezvous::{RENDEZVOUS_SLOTS_MAX, Rendezvous};
pub use ring_hash::{RING_SIZE_MAX, RingHash};
pub use round_robin::RoundRobin;

/// Most members that one picker tells apart; those after it are never offered. It keeps a table's
/// entries at 16 bits.
pub const MEMBERS_MAX: usize = 65_536;

/// One endpoint, as far as picking is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member<'a> {
    /// What Envoy hashes: `ip:port` exactly as Envoy prints the address (`[::1]:80` for IPv6).
    pub key: &'a str,
    /// Load-balancing weight, at least 1 (0 counts as 1).
    pub weight: u32,
}

/// What a policy asks about the members while it walks; the answers hold for the whole process.
pub trait Loads {
    /// Requests in flight at the member.
    fn active(&mut self, member: u32) -> u32;
    /// Requests in flight at all members.
    fn active_total(&mut self) -> u64;
    /// Share of the members' weight that the caller admits, 0..=1. Bounded load divides by it, as
    /// Envoy counts available hosts only; any other number counts as 1.
    fn admitted_share(&mut self) -> f64 {
        1.0
    }
    /// What one more request costs at the member, in any unit that is the same for all of them;
    /// never NaN.
    fn cost(&mut self, member: u32) -> f64;
}

/// Nothing is in flight and nothing costs anything.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoLoads;

impl Loads for NoLoads {
    fn active(&mut self, _: u32) -> u32 {
        0
    }
    fn active_total(&mut self) -> u64 {
        0
    }
    fn cost(&mut self, _: u32) -> f64 {
        0.0
    }
}

/// What the caller of a walk does with the member it was offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Not admitted; offer the next one.
    Skip,
    /// Admitted, but not this time; offer the next one. It has had its turn, and keeps the next.
    Pass,
    /// Admitted; offer another one.
    Take,
    /// Admitted or not, the caller has enough.
    Stop,
}

/// A policy built for one set of members.
#[derive(Debug)]
pub enum Picker {
    /// Turns in proportion to weights; ignores the hash.
    RoundRobin(RoundRobin),
    /// Random by weight; ignores the hash.
    Random(Random),
    /// The fewest requests in flight; ignores the hash.
    LeastRequest(LeastRequest),
    /// The least cost; ignores the hash.
    PeakEwma(PeakEwma),
    /// Consistent hashing on a ring.
    RingHash(RingHash),
    /// Consistent hashing by a table.
    Maglev(Maglev),
    /// Weighted rendezvous hashing by a table.
    Rendezvous(Rendezvous),
}

impl Picker {
    /// Builds the policy for `members`, of which the first [`MEMBERS_MAX`] count.
    ///
    /// Never fails: parameters are clamped as [`LbPolicy`] says, and without members the walks are
    /// empty. The order of `members` is Envoy's order of hosts where results are to be Envoy's: it
    /// decides ties in round robin and who gets the odd point of a ring. `seed` says where
    /// round robin starts; give each worker another one, or all of them start at the same member.
    #[must_use]
    pub fn build(policy: &LbPolicy, members: &[Member<'_>], seed: u64) -> Self {
        let members = members.get(..MEMBERS_MAX).unwrap_or(members);
        match *policy {
            LbPolicy::RoundRobin { order } => {
                Self::RoundRobin(RoundRobin::build(order, members, seed))
            }
            LbPolicy::Random => Self::Random(Random::build(members)),
            LbPolicy::LeastRequest { choice_count, active_request_bias_milli, full_scan } => {
                let bias = active_request_bias_milli;
                Self::LeastRequest(LeastRequest::build(
                    choice_count,
                    bias,
                    full_scan,
                    members,
                    seed,
                ))
            }
            LbPolicy::PeakEwma { choice_count, .. } => {
                Self::PeakEwma(PeakEwma::build(choice_count, members))
            }
            LbPolicy::RingHash { .. } | LbPolicy::Maglev { .. } | LbPolicy::Rendezvous { .. } => {
                Self::begin(policy, members, seed).finish()
            }
        }
    }

    /// Offers distinct members to `visit`, best first, as indices into the `members` that the
    /// picker was built from, until `visit` answers [`Step::Stop`] or all were offered once.
    ///
    /// `hash` is the request's hash; without one the hashing policies draw one, as Envoy does,
    /// and so pick at random. Round robin draws only for candidates after the first [`Step::Take`];
    /// the policies by load ask `loads` about few members, each once at most.
    pub fn walk(
        &mut self,
        hash: Option<u64>,
        rng: &mut impl Rng,
        loads: &mut impl Loads,
        mut visit: impl FnMut(u32) -> Step,
    ) {
        let hash = |rng: &mut _| hash.unwrap_or_else(|| Rng::next_u64(rng));
        match self {
            Self::RoundRobin(policy) => policy.walk(rng, &mut visit),
            Self::Random(policy) => policy.walk(rng, &mut visit),
            Self::LeastRequest(policy) => policy.walk(rng, loads, &mut visit),
            Self::PeakEwma(policy) => policy.walk(rng, loads, &mut visit),
            Self::RingHash(policy) => policy.walk(hash(rng), loads, &mut visit),
            Self::Maglev(policy) => policy.walk(hash(rng), loads, &mut visit),
            Self::Rendezvous(policy) => policy.walk(hash(rng), loads, &mut visit),
        }
    }

    /// How many members a walk offers when the caller never has enough.
    #[must_use]
    pub fn len(&self) -> u32 {
        match self {
            Self::RoundRobin(policy) => policy.len(),
            Self::Random(policy) => policy.len(),
            Self::LeastRequest(policy) => policy.len(),
            Self::PeakEwma(policy) => policy.len(),
            Self::RingHash(policy) => policy.len(),
            Self::Maglev(policy) => policy.len(),
            Self::Rendezvous(policy) => policy.len(),
        }
    }

    /// Whether there is nobody to pick.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The number of `members`, which [`Picker::build`] has cut to [`MEMBERS_MAX`].
fn count(members: &[Member<'_>]) -> u32 {
    u32::try_from(members.len()).unwrap_or(u32::MAX)
}

/// `value % bound` for an index bound, 0 when the bound is 0.
fn reduce(value: u64, bound: u32) -> u32 {
    let reduced = value.checked_rem(u64::from(bound)).unwrap_or(0);
    u32::try_from(reduced).unwrap_or(0)
}

#[cfg(test)]
mod tests;

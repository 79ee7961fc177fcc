//! Weights as the hashing policies see them: shares of 1 in `f64`.
//!
//! Placement is decided by rounding at places, so the operations and their order are those of
//! `normalizeHostWeights` in Envoy's `common/thread_aware_lb_impl.cc`. Locality weights are not
//! considered: Envoy rejects them together with the policy that steers it.

use super::Member;

/// Every member's share of the whole, with the smallest and the largest share.
#[derive(Debug)]
pub(super) struct Shares {
    /// Share of each member, in the members' order; they add up to 1.
    pub(super) of_member: Vec<f64>,
    /// The smallest share; 1 without members.
    pub(super) min: f64,
    /// The largest share; 0 without members.
    pub(super) max: f64,
}

impl Shares {
    /// The shares of `members`.
    pub(super) fn of(members: &[Member<'_>]) -> Self {
        let sum: u64 = members.iter().map(|member| u64::from(effective(member))).sum();
        let mut shares = Self { of_member: Vec::with_capacity(members.len()), min: 1.0, max: 0.0 };
        for member in members {
            let share = f64::from(effective(member)) / sum as f64;
            shares.of_member.push(share);
            shares.min = shares.min.min(share);
            shares.max = shares.max.max(share);
        }
        shares
    }
}

/// A member's weight, at least 1: Envoy rejects 0, and nothing here may divide by it.
pub(super) fn effective(member: &Member<'_>) -> u32 {
    member.weight.max(1)
}

/// Whether all weights are the same, which lets a policy take a cheaper way to the same result.
pub(super) fn are_equal(members: &[Member<'_>]) -> bool {
    members.iter().map(effective).is_sorted_by(|a, b| a == b)
}

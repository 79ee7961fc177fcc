//! The policy's own clock reading.
//!
//! Envoy's host clock counts nanoseconds since 1970 and is the same for every worker, so one
//! integer serves for deadlines that workers share. A clock that goes backwards must not hurt:
//! differences saturate at zero.

use core::time::Duration;

use serde::{Deserialize, Serialize};

/// A point in time, in nanoseconds since an epoch that the host chooses (1970 in Envoy, 0 in
/// tests).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Instant(pub u64);

impl Instant {
    /// The epoch itself.
    pub const ZERO: Self = Self(0);

    /// The instant `ms` milliseconds after the epoch.
    #[must_use]
    pub const fn from_millis(ms: u64) -> Self {
        Self(ms.saturating_mul(1_000_000))
    }

    /// Time since `earlier`, or zero when the clock went backwards.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// The instant `by` later; the end of time when that does not fit.
    #[must_use]
    pub fn after(self, by: Duration) -> Self {
        let ns = u64::try_from(by.as_nanos()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(ns))
    }

    /// The instant `by` earlier; the epoch when that does not fit.
    #[must_use]
    pub fn before(self, by: Duration) -> Self {
        let ns = u64::try_from(by.as_nanos()).unwrap_or(u64::MAX);
        Self(self.0.saturating_sub(ns))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn a_clock_that_goes_backwards_gives_zero_not_a_trap() {
        assert_eq!(Instant(5).since(Instant(9)), Duration::ZERO);
        assert_eq!(Instant(u64::MAX).after(Duration::from_secs(1)), Instant(u64::MAX));
        assert_eq!(Instant(1).before(Duration::from_secs(1)), Instant::ZERO);
    }
}

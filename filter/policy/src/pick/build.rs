//! stub
use super::{Member, Picker};
use crate::config::LbPolicy;

/// stub
pub const SLICE_UNITS: u32 = 8192;

/// stub
#[derive(Debug)]
pub struct Building(Picker);

impl Picker {
    /// stub
    #[must_use]
    pub fn begin(policy: &LbPolicy, members: &[Member<'_>], seed: u64) -> Building {
        Building(Self::build(policy, members, seed))
    }
}

impl Building {
    /// stub
    pub const fn step(&mut self, _: u32) -> bool {
        true
    }
    /// stub
    #[must_use]
    pub fn finish(self) -> Picker {
        self.0
    }
}

//! stub
/// stub
#[derive(Clone, Copy, Debug, Default)]
pub struct Hosts {
    /// stub
    pub total: u32,
    /// stub
    pub healthy: u32,
    /// stub
    pub degraded: u32,
    /// stub
    pub excluded: u32,
}
/// stub
#[derive(Clone, Debug, Default)]
pub struct PriorityLoad;
impl PriorityLoad {
    /// stub
    #[must_use]
    pub const fn choose(&self, _: u64) -> (usize, bool) {
        (0, false)
    }
}
/// stub
pub fn load(_: impl Iterator<Item = Hosts>, _: u32, _: u32) -> PriorityLoad {
    PriorityLoad
}

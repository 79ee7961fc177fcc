//! stub
use crate::config::ZoneAware;
use crate::rng::Rng;
/// stub
#[derive(Debug)]
pub struct ZoneRouting;
impl ZoneRouting {
    /// stub
    pub fn new<'a>(
        _: &ZoneAware,
        _: &str,
        _: impl Iterator<Item = (&'a str, usize)>,
        _: impl Iterator<Item = &'a str>,
    ) -> Option<Self> {
        None
    }
    /// stub
    pub fn choose(&self, _: &mut impl Rng) -> usize {
        0
    }
}

//! stub
/// stub
pub fn retain<'a>(_: &mut Vec<u32>, _: usize, _: u64, _: impl Fn(u32) -> &'a str) {}

//! The upstream resets the connection after it has read the request, like a process that crashes on
//! it.

use super::{Fault, Verdict};

/// Closes the connection with RST.
#[derive(Debug)]
pub struct Reset;

impl Fault for Reset {
    fn verdict(&self) -> Verdict {
        Verdict::Reset
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_resets() {
        assert_eq!(Reset.verdict(), Verdict::Reset);
    }
}

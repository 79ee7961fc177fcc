//! The upstream reads the request and never answers: a deadlock, seen from outside.

use super::{Fault, Verdict};

/// Never answers, keeps the connection.
#[derive(Debug)]
pub struct Stall;

impl Fault for Stall {
    fn verdict(&self) -> Verdict {
        Verdict::Stall
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_stalls() {
        assert_eq!(Stall.verdict(), Verdict::Stall);
    }
}

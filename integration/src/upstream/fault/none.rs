//! No fault: the healthy upstream.

use super::{Fault, Verdict};

/// Answers 200 at once.
#[derive(Debug)]
pub struct NoFault;

impl Fault for NoFault {
    fn verdict(&self) -> Verdict {
        Verdict::HEALTHY
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_healthy_upstream_answers_200_at_once() {
        let want = Verdict::Answer { status: 200, after: std::time::Duration::ZERO };
        assert_eq!(NoFault.verdict(), want);
    }
}

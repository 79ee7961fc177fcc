//! The upstream answers, but late.

use std::time::Duration;

use super::{Fault, Verdict};

/// Answers 200 after this wait.
#[derive(Debug)]
pub struct Delay(pub Duration);

impl Fault for Delay {
    fn verdict(&self) -> Verdict {
        Verdict::Answer { status: 200, after: self.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_answers_200_after_the_wait() {
        let wait = Duration::from_millis(40);
        assert_eq!(Delay(wait).verdict(), Verdict::Answer { status: 200, after: wait });
    }
}

//! The upstream is up but answers with an error, like an application whose database is gone.

use std::time::Duration;

use super::{Fault, Verdict};

/// Answers with this HTTP status at once.
#[derive(Debug)]
pub struct Status(pub u16);

impl Fault for Status {
    fn verdict(&self) -> Verdict {
        Verdict::Answer { status: self.0, after: Duration::ZERO }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_answers_the_status_that_it_was_told() {
        assert_eq!(Status(503).verdict(), Verdict::Answer { status: 503, after: Duration::ZERO });
    }
}

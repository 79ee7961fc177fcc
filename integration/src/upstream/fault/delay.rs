//! The upstream answers, but late.

use std::time::Duration;

use super::{Fault, Verdict};

/// Answers 200 after a wait that is drawn from a normal distribution for each request.
#[derive(Debug)]
pub struct Delay {
    /// Mean of the wait.
    pub mean: Duration,
    /// Standard deviation of the wait; zero: always the mean.
    pub sd: Duration,
}

impl Fault for Delay {
    fn verdict(&self) -> Verdict {
        let drawn = self.mean.as_secs_f64() + self.sd.as_secs_f64() * standard_normal();
        let after = Duration::try_from_secs_f64(drawn).unwrap_or_default();
        Verdict::Answer { status: 200, after }
    }
}

/// Box and Muller, A Note on the Generation of Random Normal Deviates, 1958.
fn standard_normal() -> f64 {
    // 0 has no logarithm; `f64` is below 1.
    let (u, v) = (1.0 - fastrand::f64(), fastrand::f64());
    (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_answers_200_after_the_wait() {
        let wait = Duration::from_millis(40);
        let delay = Delay { mean: wait, sd: Duration::ZERO };
        assert_eq!(delay.verdict(), Verdict::Answer { status: 200, after: wait });
    }

    #[test]
    fn the_wait_has_the_mean_and_the_deviation_that_were_ordered_and_is_never_below_zero() {
        let waits = |mean_ms: u64, sd_ms: u64| -> Vec<f64> {
            let (mean, sd) = (Duration::from_millis(mean_ms), Duration::from_millis(sd_ms));
            let one = |_| match (Delay { mean, sd }).verdict() {
                Verdict::Answer { after, .. } => after.as_secs_f64() * 1000.0,
                other => panic!("{other:?}"),
            };
            (0..20_000).map(one).collect()
        };
        let all = waits(167, 5);
        let mean = all.iter().sum::<f64>() / all.len() as f64;
        let sd = (all.iter().map(|w| (w - mean).powi(2)).sum::<f64>() / all.len() as f64).sqrt();
        // Six standard errors of each.
        assert!((mean - 167.0).abs() < 0.22, "{mean}");
        assert!((sd - 5.0).abs() < 0.16, "{sd}");
        let (near_zero, below) = (waits(1, 5), |w: &&f64| **w == 0.0);
        assert!(near_zero.iter().filter(below).count() > 1_000);
    }
}

//! Exponential backoff with full jitter, so that many nodes that lost the same peer do not return as one herd.

use std::time::Duration;

/// Doubles from `first` to `max`; each delay is drawn between half and the whole of the current step.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    max: Duration,
    tries: u32,
}

impl Backoff {
    /// A fresh backoff.
    #[must_use]
    pub fn new(first: Duration, max: Duration) -> Self {
        Self { first, max, tries: 0 }
    }

    /// The next delay; `random` is uniform in `0.0..1.0`.
    pub fn next(&mut self, random: f64) -> Duration {
        // 2^20 times any first delay is beyond every maximum in use, and cannot overflow.
        let step = self.first.saturating_mul(1 << self.tries.min(20)).min(self.max);
        self.tries = self.tries.saturating_add(1);
        step.mul_f64(0.5 + random.clamp(0.0, 1.0) / 2.0)
    }

    /// How many delays were handed out since the last [`Backoff::reset`].
    #[must_use]
    pub fn tries(&self) -> u32 {
        self.tries
    }

    /// Starts again at the first delay, after a success.
    pub fn reset(&mut self) {
        self.tries = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_maximum_and_start_again() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(5));
        let delays: Vec<_> = (0..4).map(|_| backoff.next(1.0).as_secs()).collect();
        assert_eq!(delays, [1, 2, 4, 5]);
        assert_eq!(backoff.next(0.0), Duration::from_millis(2500), "jitter takes at most half");
        backoff.reset();
        assert_eq!(backoff.next(1.0), Duration::from_secs(1));
        (0..100).for_each(|_| assert!(backoff.next(1.0) <= Duration::from_secs(5)));
    }
}

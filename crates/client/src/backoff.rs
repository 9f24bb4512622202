//! How long to wait before the next attempt to connect.

use std::time::Duration;

/// The first delay.
const FIRST: Duration = Duration::from_millis(50);
/// The longest one. The bus holds messages for a name that has lost its session for 3 s; a client
/// that comes back within that time misses none.
const LONGEST: Duration = Duration::from_secs(2);

/// Delays that double, each drawn from its upper half, so that a thousand clients of one bus do not
/// come back in step.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    attempts: u32,
}

impl Backoff {
    /// Attempts since the last [`Backoff::reset`].
    pub(crate) fn attempts(&self) -> u32 {
        self.attempts
    }

    /// The delay before the next attempt.
    pub(crate) fn next(&mut self) -> Duration {
        let full = FIRST.saturating_mul(1 << self.attempts.min(16)).min(LONGEST);
        self.attempts = self.attempts.saturating_add(1);
        full.mul_f64(0.5 + fastrand::f64() / 2.0)
    }

    /// Another process is the bus now: it was restarted, which is no reason to stay away for long. After
    /// one that crashes all the time there is still some pause.
    pub(crate) fn bus_was_restarted(&mut self) {
        self.attempts = self.attempts.min(1);
    }

    pub(crate) fn reset(&mut self) {
        self.attempts = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_a_limit_and_differ_from_client_to_client() {
        let delays = |seed| {
            fastrand::seed(seed);
            let mut backoff = Backoff::default();
            (0..40).map(|_| backoff.next()).collect::<Vec<_>>()
        };
        for (attempt, delay) in delays(1).into_iter().enumerate() {
            let full = FIRST.saturating_mul(1 << attempt.min(16)).min(LONGEST);
            assert!(delay >= full / 2 && delay <= full, "attempt {attempt}: {delay:?}");
        }
        assert_ne!(delays(1), delays(2));
    }

    #[test]
    fn however_often_the_bus_is_restarted_it_is_soon_asked_again() {
        let mut backoff = Backoff::default();
        for _ in 0..10 {
            assert!(backoff.next() <= 2 * FIRST);
            backoff.bus_was_restarted();
        }
        assert!(backoff.attempts() > 0, "not as if nothing had been");
    }

    #[test]
    fn after_a_session_that_lasted_it_begins_anew() {
        let mut backoff = Backoff::default();
        (0..10).for_each(|_| _ = backoff.next());
        backoff.reset();
        assert!(backoff.next() <= FIRST);
    }
}

//! How many messages a rule acts on: a bucket of tokens that fills evenly.

use std::time::Duration;

use super::rulebook::RateLimit;

/// Where a rule stands against its limit.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// What is left, and when that was so; `None`: all.
    left: Option<(f64, Duration)>,
}

impl Pace {
    /// Whether one more message passes; it is counted then.
    pub(super) fn passes(&mut self, limit: RateLimit, now: Duration) -> bool {
        let full = f64::from(limit.messages);
        let (left, at) = self.left.unwrap_or((full, now));
        let gained = now.saturating_sub(at).as_secs_f64() / limit.per.as_secs_f64() * full;
        let left = (left + gained).min(full);
        // A little under 1 is 1 that was added up from parts.
        let passes = left >= 1.0 - 1e-9;
        self.left = Some((if passes { left - 1.0 } else { left }, now));
        passes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_pass_at_once_and_then_as_many_as_the_time_gives() {
        let limit = RateLimit { messages: 3, per: Duration::from_secs(30) };
        let mut pace = Pace::default();
        let mut passes = |second| pace.passes(limit, Duration::from_secs(second));
        assert_eq!([0, 0, 0, 0].map(&mut passes), [true, true, true, false]);
        assert_eq!([9, 10, 10, 20].map(&mut passes), [false, true, false, true]);
        assert_eq!([1000, 1000, 1000, 1000].map(&mut passes), [true, true, true, false]);
        assert!(!passes(990), "a clock that goes back gives nothing");
    }
}

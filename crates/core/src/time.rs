//! Time as the router sees it: handed in, never read.

use core::time::Duration;

/// A point on the monotonic clock, in microseconds since the router's own beginning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(u64);

impl Moment {
    /// `us` microseconds after the beginning.
    pub const fn from_micros(us: u64) -> Self {
        Moment(us)
    }

    /// Microseconds since the beginning.
    pub const fn as_micros(self) -> u64 {
        self.0
    }

    /// The moment `duration` later.
    #[must_use]
    pub fn after(self, duration: Duration) -> Self {
        Moment(self.0.saturating_add(duration.as_micros() as u64))
    }

    /// How long ago `earlier` was; zero if it is yet to come.
    pub fn since(self, earlier: Moment) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

/// Both clocks, read once a turn.
#[derive(Clone, Copy, Debug, Default)]
pub struct Now {
    /// The monotonic clock: every deadline is on it.
    pub moment: Moment,
    /// The wall clock, microseconds of Unix time: only for `ts` and listings.
    pub unix_us: u64,
}

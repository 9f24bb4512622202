//! Whether a session is alive: the bus says something, and reads what is written to it.

use std::time::Duration;

use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

/// How long a bus may read nothing of what is written to it. It holds a sender for 2 s at most for
/// each receiver that does not keep up.
pub(crate) const WRITE_PATIENCE: Duration = Duration::from_secs(15);

/// Signs of life, both ways.
pub(crate) struct Health {
    ticker: Interval,
    interval: Duration,
    /// Something came, or nothing could be read, since the last tick.
    is_well: bool,
    /// Since when something has waited to be written and nothing was.
    writing_since: Option<Instant>,
}

impl Health {
    pub(crate) fn new(interval: Duration) -> Self {
        let mut ticker = interval_at(Instant::now() + interval, interval);
        ticker.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Health { ticker, interval, is_well: true, writing_since: None }
    }

    pub(crate) async fn tick(&mut self) {
        self.ticker.tick().await;
    }

    pub(crate) fn heard(&mut self) {
        self.is_well = true;
    }

    /// The inbox is full: what the bus says now is not heard.
    pub(crate) fn is_not_reading(&mut self) {
        self.is_well = true;
    }

    /// Whether something waits to be written.
    pub(crate) fn is_writing(&mut self, is_writing: bool) {
        self.writing_since = is_writing.then(|| self.writing_since.unwrap_or_else(Instant::now));
    }

    pub(crate) fn wrote(&mut self) {
        self.writing_since = None;
    }

    pub(crate) fn write_deadline(&self) -> Option<Instant> {
        Some(self.writing_since? + WRITE_PATIENCE)
    }

    /// At a tick: fails if nothing came since the last one, where a ping was sent.
    pub(crate) fn examine(&mut self) -> Result<(), Duration> {
        if std::mem::replace(&mut self.is_well, false) { Ok(()) } else { Err(self.interval) }
    }
}

//! The end of a run: everybody reads and finishes, then everybody leaves.

use std::time::Duration;

use hermes_bus_core::Config;

use super::World;
use crate::call::Violation;
use crate::world::watched::DRIVER;

/// Turns after the last event, at most.
const TURNS_MAX: u32 = 200_000;

/// The longest time that anybody can be kept waiting under these limits, while nothing moves.
pub(super) fn longest_wait(config: &Config) -> Duration {
    // As long as the largest frame takes at the rate.
    let pace_s = config.bytes_per_s.map_or(0, |per_s| 11_000_000 / per_s.max(1));
    let waits = [
        config.stall,
        config.answer,
        config.linger,
        config.drain,
        // While unfinished frames have used up their budget, others wait for the end of the nearest.
        config.frame_deadline,
        config.fight_pause_max,
        Duration::from_secs(pace_s + 3),
    ];
    waits.iter().fold(Duration::ZERO, |sum, wait| sum.saturating_add(*wait))
}

impl World<'_> {
    /// Everybody reads everything and sends what they wanted to send, until nothing moves any more.
    pub(super) fn heal(&mut self) -> Result<(), Violation> {
        self.is_healing = true;
        self.turn()?;
        for id in &self.open {
            self.links[id.0].heal();
        }
        self.pass_until_still(self.longest_wait)?;
        self.watched.settled()
    }

    /// Everybody hangs up, and all time passes.
    pub(super) fn leave(&mut self) -> Result<(), Violation> {
        for id in &self.open {
            self.links[id.0].close();
        }
        for _ in 0..TURNS_MAX {
            self.turn_until_quiet()?;
            let Some(wake) = self.watched.router().next_wake() else { return Ok(()) };
            self.set_clock(wake.as_micros());
        }
        Err(Violation::new(DRIVER, "everybody has left, and there is always another timer"))
    }

    /// Time passes, timer by timer, until nothing has moved for so long.
    fn pass_until_still(&mut self, wait: Duration) -> Result<(), Violation> {
        let wait_us = wait.as_micros() as u64;
        let mut still_since = self.now_us;
        let mut read_before = self.sent_to_the_bus();
        for _ in 0..TURNS_MAX {
            self.turn_until_quiet()?;
            let read = self.sent_to_the_bus();
            if read != read_before {
                (still_since, read_before) = (self.now_us, read);
            }
            let wake = self.watched.router().next_wake().map(|wake| wake.as_micros());
            let until = still_since.saturating_add(wait_us);
            match wake {
                Some(wake) if wake <= until => self.set_clock(wake),
                _ if self.now_us >= until => return Ok(()),
                _ => self.set_clock(until),
            }
        }
        Err(Violation::new(DRIVER, "everybody reads, and it does not come to rest"))
    }

    /// What is a measure of how far the clients have come with what they wanted to send.
    fn sent_to_the_bus(&self) -> (usize, usize, usize) {
        let open = || self.open.iter().map(|id| &self.links[id.0]);
        let wished = open().map(|link| link.wished_bytes()).sum();
        let waiting = open().map(|link| link.to_bus.len() + link.kept.len()).sum();
        (wished, waiting, self.watched.router().connections())
    }
}

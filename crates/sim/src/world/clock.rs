//! Time, and when the driver turns.

use super::World;
use crate::call::Violation;
use crate::script::Near;
use crate::world::link::Moment;
use crate::world::watched::DRIVER;

/// Timers that are met in one passing of time; what is left of it is slept through.
const TIMERS_MAX: u32 = 200;
/// Turns at one moment, as long as something moves.
const TURNS_MAX: u32 = 400;
/// Turns at one moment in which sessions were to go on and nothing moved.
const IDLE_TURNS_MAX: u32 = 64;

impl World<'_> {
    /// Time passes; the driver wakes up when a timer is due, or a little later.
    pub(super) fn pass(&mut self, us: u64) -> Result<(), Violation> {
        let until = self.now_us.saturating_add(us);
        let late_us_max = self.script.character.driver.late_us_max;
        for _ in 0..TIMERS_MAX {
            let Some(wake) = self.watched.router().next_wake().filter(|w| w.as_micros() <= until)
            else {
                break;
            };
            let late = if late_us_max > 0 { self.dice.below(late_us_max) } else { 0 };
            let wake = wake.as_micros().max(self.now_us) + u64::from(late);
            self.set_clock(wake.min(until));
            self.turn_until_quiet()?;
        }
        self.set_clock(until);
        self.turn_until_quiet()
    }

    /// Time passes without the driver.
    pub(super) fn sleep(&mut self, us: u64) -> Result<(), Violation> {
        self.set_clock(self.now_us.saturating_add(us));
        self.turn_until_quiet()
    }

    /// Time passes until a timer is due, or almost.
    pub(super) fn pass_to_timer(&mut self, near: Near) -> Result<(), Violation> {
        let Some(wake) = self.watched.router().next_wake() else { return Ok(()) };
        let wake = wake.as_micros();
        let at = match near {
            Near::Before => wake.saturating_sub(1),
            Near::At => wake,
            Near::Behind => wake + 1,
        };
        self.set_clock(at.max(self.now_us));
        self.turn_until_quiet()
    }

    pub(super) fn set_clock(&mut self, now_us: u64) {
        if now_us > self.now_us {
            self.wall_clock_us = self.wall_clock_us.saturating_add(now_us - self.now_us);
            self.now_us = now_us;
            self.idle_turns = 0;
            self.moment = Moment::Next;
        }
    }

    /// The driver turns until there is nothing to do, or for a while.
    pub(super) fn turn_until_quiet(&mut self) -> Result<(), Violation> {
        for _ in 0..TURNS_MAX {
            let moves = self.moves;
            self.turn()?;
            if self.moves == moves && !self.has_work() {
                break;
            }
        }
        Ok(())
    }

    /// Whether the driver would not go to sleep.
    fn has_work(&self) -> bool {
        let router = self.watched.router();
        let has_ready = !self.ready.is_empty() || !self.unwritten.is_empty();
        has_ready || router.is_dirty() || !self.watched.pending.is_empty() || !self.door.is_empty()
    }

    /// After a turn: one that lets somebody go on has to lead somewhere.
    pub(super) fn see_that_turns_end(&mut self, moves_before: u64) -> Result<(), Violation> {
        let has_resumed = std::mem::take(&mut self.has_resumed);
        if self.moves != moves_before {
            self.idle_turns = 0;
        } else if has_resumed {
            self.idle_turns += 1;
        }
        if self.idle_turns > IDLE_TURNS_MAX {
            let what = "turn after turn sessions are to go on at one moment, and nothing moves";
            return Err(Violation::new(DRIVER, what));
        }
        Ok(())
    }
}

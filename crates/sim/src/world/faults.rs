//! What befalls the process of the bus: new limits, and its end.

use bytes::Bytes;
use hermes_bus_core::{CloseReason, Config, Lingering, Moment, Now};

use super::World;
use super::ends::longest_wait;
use super::link::LinkId;
use crate::call::Violation;
use crate::character::limits;
use crate::script::End;
use crate::world::watched::DRIVER;

/// Turns in which a bus that is about to end reads what has arrived, at most.
const LAST_TURNS_MAX: u32 = 2_000;
/// Timers that are met until its last connection has ended, at most.
const LAST_TIMERS_MAX: u32 = 20_000;

/// A connection that goes on in the next process.
struct Newcomer {
    id: LinkId,
    /// What it has sent, and nobody has answered.
    sent: Bytes,
}

impl World<'_> {
    /// New limits, as after a reload.
    pub(super) fn configure(&mut self, seed: u64) -> Result<(), Violation> {
        self.config = limits(seed, &self.script.character.names);
        self.longest_wait = self.longest_wait.max(longest_wait(&self.config));
        self.watched.configure(&self.config)
    }

    /// The process of the bus ends, and another one begins.
    pub(super) fn end_process(&mut self, how: End) -> Result<(), Violation> {
        match how {
            End::Crash => self.begin_anew(None),
            End::Stop => {
                self.is_stopping = true;
                self.shut_down(self.config.at_the_end())?;
                self.turn_until_idle()?;
                self.begin_anew(None)
            }
            End::Restart => self.restart(),
        }?;
        self.is_stopping = false;
        self.turn_until_quiet()
    }

    /// The router is gone, with all connections that it has; another one begins with what it left.
    fn begin_anew(&mut self, left: Option<Vec<Lingering>>) -> Result<(), Violation> {
        for at in 0..self.open.len() {
            let id = self.open[at];
            if self.links[id.0].key.is_some() {
                self.link(id).close_at_the_bus();
            }
        }
        self.sessions.clear();
        self.ready.clear();
        self.unwritten.clear();
        self.requests.clear();
        let seed = self.dice.seed();
        let tap_bytes_max = self.tap_bytes_max();
        self.watched.replace(&self.config, seed, left, tap_bytes_max)
    }

    // ---- in good order ----------------------------------------------------------------------------

    /// Ends every connection in good order, under the limits that are for that.
    fn shut_down(&mut self, limits: Config) -> Result<(), Violation> {
        self.watched.configure(&limits)?;
        for at in 0..self.open.len() {
            let id = self.open[at];
            let link = self.link(id);
            // Later writes fail; what was written before is read to its end.
            link.bus_read_shut = link.key.is_some();
        }
        self.read_what_has_arrived()?;
        self.watched.shut_down()
    }

    fn read_what_has_arrived(&mut self) -> Result<(), Violation> {
        for at in 0..self.open.len() {
            let id = self.open[at];
            if self.links[id.0].key.is_some() {
                self.make_ready(id);
            }
        }
        for _ in 0..LAST_TURNS_MAX {
            if self.ready.is_empty() {
                break;
            }
            let moment = Moment::from_micros(self.now_us);
            self.watched.begin_turn(Now { moment, unix_us: self.wall_clock_us })?;
            self.read_and_write()?;
        }
        Ok(())
    }

    /// Turns until the last connection has ended.
    fn turn_until_idle(&mut self) -> Result<(), Violation> {
        for _ in 0..LAST_TIMERS_MAX {
            self.turn_until_quiet()?;
            if self.watched.router().is_idle() {
                return Ok(());
            }
            let Some(wake) = self.watched.router().next_wake() else { break };
            self.set_clock(wake.as_micros());
        }
        Err(Violation::new(DRIVER, "the bus is to end, and connections stay"))
    }

    // ---- hand-over --------------------------------------------------------------------------------

    /// Another process follows this one, or fails, and this one goes on.
    fn restart(&mut self) -> Result<(), Violation> {
        self.carry_out_effects()?;
        self.read_what_has_arrived()?;
        self.is_stopping = true;
        let newcomers = self.take_newcomers()?;
        let usual = self.config.clone();
        self.shut_down(usual.before_a_successor())?;
        // A receiver that does not read must not have all others wait for the next process.
        self.write_dirty()?;
        self.watched.end_named_sessions()?;
        self.carry_out_effects()?;
        self.turn_until_idle()?;
        if self.dice.one_in(8) {
            self.watched.configure(&usual)?;
        } else {
            let left = self.watched.router().lingering();
            self.begin_anew(Some(left))?;
        }
        for newcomer in newcomers {
            self.take_in(newcomer)?;
        }
        Ok(())
    }

    /// Connections that can go on in another process as if they had just come to it.
    fn take_newcomers(&mut self) -> Result<Vec<Newcomer>, Violation> {
        let quiet = self.watched.router().untouched().into_iter().map(|key| (key, Bytes::new()));
        let quiet: Vec<_> = quiet.collect();
        let waiting = self.watched.take_waiting_senders()?;
        let mut newcomers = Vec::new();
        for (key, sent) in quiet.into_iter().chain(waiting) {
            if let Some(id) = self.link_of(key) {
                self.sessions[key.index()] = None;
                let link = self.link(id);
                if !link.kept.is_empty() {
                    let what =
                        format!("{} bytes are kept of a connection that moves", link.kept.len());
                    return Err(Violation::new(DRIVER, what));
                }
                link.move_out();
                newcomers.push(Newcomer { id, sent });
            }
            self.watched.closed(key, CloseReason::ShuttingDown)?;
        }
        Ok(newcomers)
    }

    fn take_in(&mut self, newcomer: Newcomer) -> Result<(), Violation> {
        let Newcomer { id, sent } = newcomer;
        self.admit(id)?;
        let Some(key) = self.links[id.0].key.filter(|_| !self.links[id.0].bus_closed) else {
            return Ok(());
        };
        self.link(id).kept = sent.into();
        self.report_kept(id, key)?;
        self.make_ready(id);
        Ok(())
    }
}

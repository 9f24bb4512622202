//! What befalls the process of the bus: new limits, and its end.

use super::World;
use super::ends::longest_wait;
use crate::call::Violation;
use crate::character::limits;
use crate::script::End;

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
            End::Crash | End::Stop | End::Restart => self.crash(),
        }
    }

    /// The router is gone with everything that it had.
    fn crash(&mut self) -> Result<(), Violation> {
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
        self.watched.replace(&self.config, seed, Vec::new(), tap_bytes_max)
    }
}

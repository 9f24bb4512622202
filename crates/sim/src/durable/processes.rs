//! Processes of the bus: how they begin, and how they end.

use std::time::Duration;

use bytes::Bytes;
use hermes_bus_core::{CloseReason, Lingering, Router, SessionKey};
use hermes_bus_proto::frame::{self, Decoded};

use super::model::{Checked, LinkId, UNIX_US, ensure, number_in};
use super::script::End;
use super::world::World;
use crate::call::Violation;

impl World<'_> {
    /// A process begins with what is on disk, and with what the one before it has handed over.
    pub(super) fn begin_process(&mut self, left: Vec<Lingering>) -> Checked {
        let config = self.script.character.config.clone();
        let window_us = config.repetition_window.as_micros() as u64;
        self.router = Router::new(config, self.dice.seed());
        self.sessions.clear();
        self.keeps.clear();
        self.retries.clear();
        self.unwritten.clear();
        let recovered = self.store.recovered(UNIX_US + self.now_us, window_us);
        self.model.now_us = self.now_us;
        self.model.found(&recovered.recent);
        self.looked_at = None;
        self.tell(|| format!("a process begins with {recovered:?}"));
        let now = self.now();
        self.router.begin_turn(now);
        self.router.recover(recovered);
        self.model.handed_on(&left);
        if !left.is_empty() {
            self.seen.add("handed on".to_owned(), left.len() as u64);
            self.tell(|| format!("it goes on with {left:?}"));
            self.router.restore(left);
        }
        self.carry_out_effects()
    }

    pub(super) fn end_process(&mut self, how: End) -> Checked {
        self.seen.counters(self.router.counters());
        let mut left = Vec::new();
        match how {
            End::Stop => self.stop()?,
            End::HandOver => left = self.hand_over()?,
            End::Kill | End::PowerLoss => self.crashes += 1,
        }
        for id in self.open.clone() {
            let link = &mut self.links[id];
            // Those that were not accepted are accepted by the next process.
            link.bus_closed |= link.key.take().is_some() || how == End::PowerLoss;
            if how == End::PowerLoss {
                link.close();
            }
        }
        let links = &self.links;
        self.door.retain(|id| !links[*id].bus_closed);
        match how {
            End::Stop | End::HandOver => self.store.close(),
            End::Kill | End::PowerLoss => self.store.crash(),
        }
        self.tell(|| format!("the process has ended: {how:?}"));
        self.model.restarted(self.store.is_clean(), &self.store);
        self.now_us += u64::from(self.dice.magnitude(22));
        self.begin_process(left)?;
        if how == End::PowerLoss {
            for client in 0..self.current.len() {
                if let Some(id) = self.current[client] {
                    self.come_back(id);
                }
            }
        }
        self.turns()
    }

    /// The bus ends in good order: everything that is queued is written, as far as anybody reads it.
    fn stop(&mut self) -> Checked {
        self.is_stopping = true;
        self.router.shut_down();
        let drain = self.script.character.config.drain;
        self.wait_for_the_end(drain)
    }

    fn wait_for_the_end(&mut self, drain: Duration) -> Checked {
        let until = self.now_us + drain.as_micros() as u64;
        self.turns()?;
        while !self.router.is_idle() && self.now_us <= until {
            let next = self.next_at().unwrap_or(until + 1).min(until + 1);
            self.now_us = self.now_us.max(next);
            self.turns()?;
        }
        self.is_stopping = false;
        ensure!(self.router.is_idle(), "end", "connections are left when the bus has drained");
        Ok(())
    }

    /// The bus ends as it does when another process follows. Connections that have heard nothing yet, and
    /// anonymous senders that wait with one message, go on with that one, and what is held for names.
    fn hand_over(&mut self) -> Result<Vec<Lingering>, Violation> {
        self.turn()?;
        self.is_stopping = true;
        let untouched = self.router.untouched().into_iter().map(|key| (key, Bytes::new()));
        let waiting = self.router.take_waiting_senders();
        for (key, sent) in untouched.chain(waiting).collect::<Vec<_>>() {
            if let Some(id) = self.link_of(key) {
                self.goes_on(id, key, &sent);
            }
            self.router.closed(key, CloseReason::ShuttingDown);
        }
        let config = self.script.character.config.before_a_successor();
        let drain = config.drain;
        self.router.configure(config);
        self.router.shut_down();
        self.write_dirty()?;
        self.router.end_named_sessions();
        self.carry_out_effects()?;
        self.wait_for_the_end(drain)?;
        Ok(self.router.lingering())
    }

    /// A connection goes on with the next process, as if that had accepted it.
    fn goes_on(&mut self, id: LinkId, key: SessionKey, sent: &[u8]) {
        self.seen.note(if sent.is_empty() {
            "untouched goes on"
        } else {
            "waiting sender goes on"
        });
        self.tell(|| format!("#{id} goes on with the next process, {} bytes", sent.len()));
        if let Decoded::Frame { payload, .. } = frame::decode(sent)
            && let Some(n) = number_in(payload)
        {
            self.model.not_taken(n);
        }
        let link = &mut self.links[id];
        (link.key, link.hung_up) = (None, false);
        let kept = std::mem::take(&mut link.kept);
        link.kept = [sent, &kept].concat();
        self.sessions[key.index()] = None;
        self.door.push_back(id);
    }
}

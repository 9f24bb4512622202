//! A turn of the driver: the daemon's, with every liberty that the router's contract leaves.

use std::collections::VecDeque;

use bytes::Bytes;
use hermes_bus_core::{
    CloseReason, Effect, Moment, Next, Now, Payload, Probed, Reading, SessionKey,
};
use hermes_bus_proto::control;
use hermes_bus_proto::frame::{self, Decoded};

use super::World;
use super::link::{self, LinkId, Read};
use crate::call::Violation;

/// What is read at a time of a session whose peer has hung up.
const PROBE_BYTES: usize = 128 * 1024;

impl World<'_> {
    /// One turn.
    pub(super) fn turn(&mut self) -> Result<(), Violation> {
        let driver = &self.script.character.driver;
        let moves_before = self.moves;
        self.pump();
        let moment = Moment::from_micros(self.now_us);
        self.watched.begin_turn(Now { moment, unix_us: self.wall_clock_us })?;
        self.carry_out_effects()?;
        self.answer_requests(driver.answers)?;
        if self.dice.chance(driver.accepts_first) {
            self.accept()?;
        }
        self.notice_ends()?;
        self.write_blocked()?;
        self.read_and_write()?;
        self.accept()?;
        if self.watched.router().has_tapped() && self.dice.chance(driver.takes_tapped) {
            let is_refused = self.dice.chance(driver.refuses_tapped);
            self.watched.offer_tapped(is_refused)?;
        }
        self.see_that_turns_end(moves_before)
    }

    /// The middle of a turn: what has arrived is routed, and answered.
    pub(super) fn read_and_write(&mut self) -> Result<(), Violation> {
        self.read_ready()?;
        self.write_dirty()?;
        self.carry_out_effects()?;
        if self.dice.chance(self.script.character.driver.peers_in_between) {
            self.pump();
        }
        for key in self.watched.router().receipts_due() {
            let id = self.link_of(key);
            if id.is_some_and(|id| !self.links[id.0].to_bus.is_empty()) {
                self.watched.more_input(key)?;
            }
        }
        self.watched.end_turn()?;
        self.write_dirty()?;
        self.carry_out_effects()
    }

    /// The clients read and send.
    fn pump(&mut self) {
        let mut moved = false;
        let moment = std::mem::replace(&mut self.moment, link::Moment::Same);
        let (links, ready) = (&mut self.links, &mut self.ready);
        self.open.retain(|id| {
            let link = &mut links[id.0];
            let was_ready = link.is_ready;
            moved |= link.pump(moment);
            if link.is_ready && !was_ready {
                ready.push_back(*id);
            }
            // Who has left is still accepted, and read to its end.
            !link.bus_closed
        });
        self.moves += u64::from(moved);
    }

    // ---- newcomers and ends -----------------------------------------------------------------------

    fn accept(&mut self) -> Result<(), Violation> {
        if self.is_stopping {
            return Ok(());
        }
        while let Some(id) = self.door.pop_front() {
            self.admit(id)?;
        }
        Ok(())
    }

    pub(super) fn admit(&mut self, id: LinkId) -> Result<(), Violation> {
        // A key's place is free when its close is carried out.
        self.carry_out_effects()?;
        let key = self.watched.connected(self.links[id.0].credentials)?;
        self.moves += 1;
        if self.sessions.len() <= key.index() {
            self.sessions.resize(key.index() + 1, None);
        }
        self.sessions[key.index()] = Some((key, id));
        self.keys.push((key, id));
        let link = self.link(id);
        link.key = Some(key);
        if !link.to_bus.is_empty() {
            self.make_ready(id);
        }
        // A peer that may not connect has an answer waiting already.
        self.write_dirty()?;
        self.carry_out_effects()
    }

    fn notice_ends(&mut self) -> Result<(), Violation> {
        let later = if self.is_healing { 0 } else { self.script.character.driver.notices_later };
        for at in 0..self.open.len() {
            let id = self.open[at];
            let link = &mut self.links[id.0];
            let (has_ended, has_closed) = (link.peer_has_ended(), link.far.closed);
            let is_news = has_ended && !link.read_closed || has_closed && !link.hung_up;
            let Some(key) = link.key.filter(|_| is_news && !link.bus_closed) else { continue };
            if self.dice.chance(later) {
                continue;
            }
            let link = &mut self.links[id.0];
            link.read_closed |= has_ended;
            link.hung_up |= has_closed;
            let (at_end, hung_up) = (link.at_end, link.hung_up);
            if hung_up && self.watched.reading(key)? == Reading::Held {
                self.watched.deaf(key)?;
            }
            if at_end && hung_up {
                // It had only ended its own side, and now reads no more either.
                self.watched.closed(key, CloseReason::PeerClosed)?;
            } else {
                self.make_ready(id);
            }
            self.after_call()?;
        }
        Ok(())
    }

    pub(super) fn make_ready(&mut self, id: LinkId) {
        let link = self.link(id);
        if !link.bus_closed && !std::mem::replace(&mut link.is_ready, true) {
            self.ready.push_back(id);
        }
    }

    // ---- reading ----------------------------------------------------------------------------------

    fn read_ready(&mut self) -> Result<(), Violation> {
        let driver = &self.script.character.driver;
        let mut ready = std::mem::take(&mut self.ready);
        if self.dice.chance(driver.shuffles) {
            self.dice.shuffle(ready.make_contiguous());
        }
        for id in &ready {
            while std::mem::take(&mut self.link(*id).is_ready) {
                let bytes_max = self.read_size();
                self.read(*id, bytes_max)?;
                self.after_call()?;
                if self.dice.chance(driver.writes_early) {
                    self.write_dirty()?;
                }
                if !self.dice.chance(driver.reads_again) {
                    break;
                }
            }
        }
        self.ready.retain(|id| self.links[id.0].is_ready);
        Ok(())
    }

    fn read_size(&mut self) -> usize {
        let driver = &self.script.character.driver;
        if self.is_healing {
            return usize::MAX;
        }
        let less = self.dice.chance(driver.reads_less);
        let bytes = driver.read_bytes_max;
        (if less { 1 + self.dice.below(bytes) } else { bytes }) as usize
    }

    /// Reads once from a connection and offers the frames that are whole. Returns the bytes read.
    fn read(&mut self, id: LinkId, bytes_max: usize) -> Result<usize, Violation> {
        let Some(key) = self.links[id.0].key.filter(|_| !self.links[id.0].bus_closed) else {
            return Ok(0);
        };
        match self.watched.reading(key)? {
            Reading::UpTo(_) => {}
            Reading::Held => return Ok(0),
            Reading::Over => {
                self.link(id).kept = Vec::new();
                return Ok(0);
            }
        }
        if self.links[id.0].has_whole_frame() {
            self.offer_kept(id, key)?;
            self.report_kept(id, key)?;
            if self.links[id.0].has_whole_frame() {
                return Ok(0);
            }
        }
        let Reading::UpTo(allowance) = self.watched.reading(key)? else { return Ok(0) };
        let link = self.link(id);
        if link.at_end || link.bus_closed {
            return Ok(0);
        }
        let read = link.receive(allowance.min(bytes_max));
        let bytes = match read {
            Read::Full(bytes) | Read::Short(bytes) => bytes,
            Read::Nothing | Read::End | Read::Lost => 0,
        };
        self.moves += u64::from(bytes > 0);
        self.offer_kept(id, key)?;
        self.after_read(id, key, read)?;
        Ok(bytes)
    }

    /// Tells the router what is kept, and sees whether there may be more to read.
    fn after_read(&mut self, id: LinkId, key: SessionKey, read: Read) -> Result<(), Violation> {
        if self.links[id.0].bus_closed {
            return Ok(());
        }
        self.report_kept(id, key)?;
        let link = self.link(id);
        link.at_end |= matches!(read, Read::End | Read::Lost);
        let (read_closed, hung_up, write_is_lost) =
            (link.read_closed, link.hung_up, link.write_is_lost);
        match read {
            Read::End if hung_up => self.watched.closed(key, CloseReason::PeerClosed)?,
            // The bus itself has ended it, and what comes for the session is still to be written.
            Read::End if self.is_stopping => {}
            Read::End => self.watched.eof(key)?,
            Read::Lost => self.watched.closed(key, CloseReason::ConnectionLost)?,
            Read::Full(_) => self.make_ready(id),
            Read::Short(_) if read_closed => self.make_ready(id),
            Read::Nothing if write_is_lost => {
                self.watched.closed(key, CloseReason::ConnectionLost)?;
            }
            Read::Short(_) | Read::Nothing => {}
        }
        Ok(())
    }

    pub(super) fn report_kept(&mut self, id: LinkId, key: SessionKey) -> Result<(), Violation> {
        let link = &self.links[id.0];
        let (mut bytes, missing) = (link.kept.len(), link.missing());
        if self.script.character.driver.counts_capacity && bytes > 0 {
            bytes = bytes.next_power_of_two();
        }
        self.watched.buffered(key, bytes, missing)
    }

    /// Offers the whole frames at the beginning of what is kept, and keeps the rest.
    fn offer_kept(&mut self, id: LinkId, key: SessionKey) -> Result<(), Violation> {
        let mut kept = std::mem::take(&mut self.link(id).kept);
        let mut taken = 0;
        loop {
            match frame::decode(&kept[taken..]) {
                Decoded::Incomplete { .. } => break,
                Decoded::Refused(error) => {
                    self.watched.refuse_frame(key, error)?;
                    taken = kept.len();
                    break;
                }
                Decoded::Frame { payload, frame_bytes } => {
                    let next = self.offer(key, payload)?;
                    match next {
                        Next::Taken => taken += frame_bytes,
                        Next::TakenThenHold => taken += frame_bytes,
                        Next::Finished => taken = kept.len(),
                        Next::Hold | Next::Probe(_) => {}
                    }
                    self.moves += u64::from(!matches!(next, Next::Hold | Next::Probe(_)));
                    if next != Next::Taken {
                        break;
                    }
                }
            }
        }
        kept.drain(..taken);
        let link = self.link(id);
        if !link.bus_closed {
            link.kept = kept;
        }
        Ok(())
    }

    fn offer(&mut self, key: SessionKey, payload: &[u8]) -> Result<Next, Violation> {
        let is_large = payload.len() > 64 * 1024;
        let shared = is_large || self.dice.chance(self.script.character.driver.shares);
        let shared = shared.then(|| Bytes::copy_from_slice(payload));
        let payload = match &shared {
            Some(bytes) => Payload::Shared(bytes),
            None => Payload::Borrowed(payload),
        };
        let next = match self.watched.frame(key, payload, Probed::No)? {
            Next::Probe(holder) => {
                self.probe(holder)?;
                self.watched.frame(key, payload, Probed::Yes)?
            }
            next => next,
        };
        self.after_call()?;
        Ok(next)
    }

    /// Lets the router have the last words of a session whose peer has hung up, and frees its name.
    fn probe(&mut self, key: SessionKey) -> Result<(), Violation> {
        let Some(id) = self.link_of(key) else { return Ok(()) };
        let link = self.link(id);
        if !link.peer_has_ended() {
            return Ok(());
        }
        link.read_closed = true;
        link.hung_up |= link.far.closed;
        while self.read(id, PROBE_BYTES)? > 0 {}
        // Its end is noticed where reading ends, now or when the session is not held any more.
        self.watched.leaving(key)
    }

    // ---- writing ----------------------------------------------------------------------------------

    /// Sockets that had taken no more take some again, or fail.
    fn write_blocked(&mut self) -> Result<(), Violation> {
        let mut keys = std::mem::take(&mut self.unwritten);
        for id in &self.open {
            let link = &self.links[id.0];
            let may_write = link.room() > 0 || link.write_fails();
            if let Some(key) = link.key.filter(|_| link.is_blocked && may_write) {
                keys.push(key);
            }
        }
        self.write_each(&mut keys)
    }

    pub(super) fn write_dirty(&mut self) -> Result<(), Violation> {
        let mut dirty = self.watched.take_dirty();
        self.write_each(&mut dirty)?;
        self.watched.recycle_dirty(dirty);
        Ok(())
    }

    fn write_each(&mut self, keys: &mut [SessionKey]) -> Result<(), Violation> {
        if keys.len() > 1 && self.dice.chance(self.script.character.driver.shuffles) {
            self.dice.shuffle(keys);
        }
        for key in keys {
            self.write(*key)?;
        }
        Ok(())
    }

    /// Writes what is queued for a session, as long as its socket takes it and the turn allows.
    fn write(&mut self, key: SessionKey) -> Result<(), Violation> {
        let driver = &self.script.character.driver;
        let Some(id) = self.link_of(key) else { return Ok(()) };
        for _ in 0..driver.writes_max {
            let link = self.link(id);
            if link.write_is_lost || link.bus_closed {
                return Ok(());
            }
            if link.write_fails() {
                let has_more = self.watched.router().next_write(key).next().is_some();
                return if has_more { self.on_write_error(id, key) } else { Ok(()) };
            }
            let room = link.room();
            let less = self.dice.chance(driver.writes_less) && !self.is_healing;
            let at_most = if less { self.dice.magnitude(12) as usize } else { usize::MAX };
            let wrote = self.watched.write(key, room.min(at_most))?;
            let link = self.link(id);
            link.deliver(wrote.taken);
            link.is_blocked = wrote.taken < wrote.offered;
            self.moves += u64::from(wrote.taken > 0);
            self.after_call()?;
            if wrote.taken < wrote.offered || wrote.offered == 0 {
                return Ok(());
            }
            if self.links[id.0].reads_everything() && self.dice.one_in(2) {
                self.link(id).read_at_far_end(usize::MAX);
            }
        }
        self.unwritten.push(key);
        Ok(())
    }

    /// The peer reads no more. What it sent before it closed may still wait to be read, or be held; its
    /// end is noticed there. If it only keeps its sending side open, it has nothing more to say.
    fn on_write_error(&mut self, id: LinkId, key: SessionKey) -> Result<(), Violation> {
        let link = self.link(id);
        link.is_blocked = false;
        link.write_is_lost = true;
        link.hung_up = true;
        link.read_closed = true;
        let at_end = link.at_end;
        self.watched.deaf(key)?;
        if at_end || self.watched.reading(key)? == Reading::Over {
            self.watched.closed(key, CloseReason::ConnectionLost)?;
        } else {
            self.make_ready(id);
        }
        self.after_call()
    }

    // ---- effects ----------------------------------------------------------------------------------

    /// Effects may be carried out at any point between calls.
    fn after_call(&mut self) -> Result<(), Violation> {
        if !self.watched.pending.is_empty()
            && self.dice.chance(self.script.character.driver.effects_at_once)
        {
            self.carry_out_effects()?;
        }
        Ok(())
    }

    pub(super) fn carry_out_effects(&mut self) -> Result<(), Violation> {
        while let Some(effect) = self.watched.pending.pop_front() {
            match effect {
                Effect::Resume(key) => {
                    self.has_resumed = true;
                    if let Some(id) = self.link_of(key) {
                        self.make_ready(id);
                    }
                }
                Effect::Close(key, _) => {
                    if let Some(id) = self.link_of(key) {
                        self.close_link(id, key);
                    }
                }
                Effect::Admin(key, _) => self.requests.push(key),
                Effect::Store(..)
                | Effect::LookWhetherRead(_)
                | Effect::Trace(..)
                | Effect::Log(_) => {}
            }
        }
        Ok(())
    }

    pub(super) fn close_link(&mut self, id: LinkId, key: SessionKey) {
        self.link(id).close_at_the_bus();
        self.sessions[key.index()] = None;
        self.moves += 1;
    }

    /// Answers requests of the owner: each with this chance of 256.
    pub(super) fn answer_requests(&mut self, chance: u16) -> Result<(), Violation> {
        let mut left = VecDeque::new();
        for key in std::mem::take(&mut self.requests) {
            if !self.dice.chance(chance) {
                left.push_back(key);
                continue;
            }
            let mut answer = Vec::new();
            control::admin_result(&mut answer, "reload", None, serde_json::Map::new());
            self.watched.answer_admin(key, &answer)?;
        }
        self.requests = left.into();
        Ok(())
    }
}

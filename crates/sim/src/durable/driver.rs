//! A turn of the driver, and the store beside it.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use hermes_bus_core::storage::{Answer, Order, Ticket};
use hermes_bus_core::{CloseReason, Effect, Next, Payload, Probed, Reading, SessionKey};
use hermes_bus_proto::frame::{self, Decoded};
use hermes_bus_proto::register::Conflict;
use serde_json::Value;

use super::model::{Checked, LinkId, Model, ensure, number_in};
use super::world::World;
use crate::call::Violation;

/// What is read at a time of a session whose peer has hung up.
const PROBE_BYTES: usize = 128 * 1024;
/// Writes to one session in a turn.
const WRITES_MAX: usize = 8;

impl World<'_> {
    /// One turn. It takes a microsecond: no two turns of a process have the same moment.
    pub(super) fn turn(&mut self) -> Checked {
        if self.last_turn_us == Some(self.now_us) {
            self.now_us += 1;
        }
        self.last_turn_us = Some(self.now_us);
        self.pump();
        self.model.now_us = self.now_us;
        let now = self.now();
        self.router.begin_turn(now);
        self.calls += 1;
        self.carry_out_effects()?;
        self.hear_the_store()?;
        self.accept()?;
        self.notice_ends()?;
        for id in self.open.clone() {
            self.read_link(id, usize::MAX)?;
            self.carry_out_effects()?;
        }
        self.write_dirty()?;
        self.carry_out_effects()?;
        for key in self.router.receipts_due() {
            let id = self.link_of(key);
            if id.is_some_and(|id| !self.links[id].to_bus.is_empty()) {
                self.router.more_input(key);
            }
        }
        self.router.end_turn();
        self.write_dirty()?;
        self.carry_out_effects()?;
        self.store.work(self.now_us);
        Ok(())
    }

    pub(super) fn link_of(&self, key: SessionKey) -> Option<LinkId> {
        let (owner, id) = self.sessions.get(key.index()).copied()??;
        (owner == key && !self.links[id].bus_closed).then_some(id)
    }

    fn accept(&mut self) -> Checked {
        while !self.is_stopping
            && let Some(id) = self.door.pop_front()
        {
            let key = self.router.connected(self.links[id].credentials);
            self.calls += 1;
            self.moves += 1;
            if self.sessions.len() <= key.index() {
                self.sessions.resize(key.index() + 1, None);
            }
            self.sessions[key.index()] = Some((key, id));
            self.links[id].key = Some(key);
            let client = self.links[id].client;
            self.tell(|| format!("connected #{id} of client {client}"));
            self.carry_out_effects()?;
        }
        Ok(())
    }

    pub(super) fn session_ended(&mut self, id: LinkId) {
        let begun = &self.links[id].writing.bytes;
        if !begun.is_empty() {
            self.model.cut_off(begun.get(4..).and_then(number_in));
        }
        self.model.session_ended(id);
    }

    // ---- the store ----------------------------------------------------------------------------------

    fn hear_the_store(&mut self) -> Checked {
        self.store.work(self.now_us);
        loop {
            if self.dice.chance(self.script.character.answers_later) && !self.is_healing {
                return Ok(());
            }
            let Some(answer) = self.store.answer() else { return Ok(()) };
            self.moves += 1;
            self.calls += 1;
            self.note_answer(&answer);
            self.tell(|| format!("storage: {}", shown(&answer)));
            self.router.storage(answer);
            self.carry_out_effects()?;
        }
    }

    fn note_answer(&mut self, answer: &Answer) {
        self.seen.answer(answer);
        match answer {
            Answer::Stored(ticket) => {
                self.keeps.retain(|(kept, _)| kept > ticket);
                let is_kept = |(kept, _): &mut (Ticket, u64)| *kept <= *ticket;
                let kept: Vec<u64> = self.retries.extract_if(.., is_kept).map(|it| it.1).collect();
                if !kept.is_empty() {
                    self.store.remove_dead(kept);
                }
            }
            Answer::Refused { tickets, .. } => {
                self.retries.retain(|(kept, _)| !tickets.contains(kept));
                let keeps = std::mem::take(&mut self.keeps);
                let (refused, left) =
                    keeps.into_iter().partition(|(kept, _)| tickets.contains(kept));
                self.keeps = left;
                let refused: Vec<(_, u64)> = refused;
                self.model.refused(refused.into_iter().map(|(_, seq)| seq));
            }
            Answer::Trouble(why) => {
                self.model.is_in_trouble = why.is_some();
                self.model.has_failed = true;
            }
            Answer::Loaded { .. } | Answer::Overdue(_) | Answer::Buried(_) => {}
        }
    }

    pub(super) fn carry_out_effects(&mut self) -> Checked {
        let mut effects = VecDeque::from(self.router.take_effects());
        while let Some(effect) = effects.pop_front() {
            match effect {
                Effect::Store(ticket, order) => {
                    self.seen.order(&order);
                    self.tell(|| format!("  => {ticket:?} {}", shown_order(&order)));
                    if let Order::Keep(record) = &order {
                        self.keeps.push((ticket, record.seq));
                    }
                    self.model.ordered(&order)?;
                    self.store.order(ticket, order);
                    self.moves += 1;
                }
                Effect::LookWhetherRead(key) => {
                    self.look_whether_read(key);
                    effects.extend(self.router.take_effects());
                }
                Effect::Close(key, reason) => {
                    if let Some(id) = self.link_of(key) {
                        self.tell(|| format!("  => close #{id}: {}", reason.as_str()));
                        self.links[id].bus_closed = true;
                        self.links[id].key = None;
                        self.sessions[key.index()] = None;
                        self.moves += 1;
                        self.session_ended(id);
                    }
                }
                Effect::Resume(_) => self.moves += 1,
                Effect::Log(event) => {
                    self.seen.log(&event);
                    self.tell(|| format!("  => log: {event}"));
                }
                Effect::Admin(..) | Effect::Trace(..) => {}
            }
        }
        Ok(())
    }

    fn look_whether_read(&mut self, key: SessionKey) {
        let Some(id) = self.link_of(key) else { return };
        let link = &self.links[id];
        if !link.from_bus.is_empty() || link.far_closed {
            return;
        }
        self.model.known_to_be_read(id);
        self.seen.note("has_read_all");
        self.tell(|| format!("has_read_all #{id}"));
        self.router.has_read_all(key);
    }

    // ---- reading ----------------------------------------------------------------------------------

    fn notice_ends(&mut self) -> Checked {
        for id in self.open.clone() {
            let link = &mut self.links[id];
            let Some(key) = link.key.filter(|_| link.far_closed && !link.hung_up) else { continue };
            link.hung_up = true;
            self.moves += 1;
            if self.router.reading(key) == Reading::Held {
                self.tell(|| format!("deaf #{id}"));
                self.session_ended(id);
                self.router.deaf(key);
            }
            self.carry_out_effects()?;
        }
        Ok(())
    }

    /// Reads from a connection and offers the frames that are whole. Returns the bytes read.
    fn read_link(&mut self, id: LinkId, bytes_max: usize) -> Result<usize, Violation> {
        let Some(key) = self.links[id].key.filter(|_| !self.links[id].bus_closed) else {
            return Ok(0);
        };
        match self.router.reading(key) {
            Reading::UpTo(_) => {}
            Reading::Held => return Ok(0),
            Reading::Over => {
                self.links[id].kept.clear();
                return Ok(0);
            }
        }
        self.offer_kept(id, key)?;
        let Reading::UpTo(allowance) = self.router.reading(key) else { return Ok(0) };
        let link = &mut self.links[id];
        if link.at_end || link.bus_closed || frame::decode(&link.kept).is_whole() {
            return Ok(0);
        }
        let mut kept = std::mem::take(&mut link.kept);
        let bytes = link.to_bus.read(&mut kept, allowance.min(bytes_max));
        link.kept = kept;
        self.moves += u64::from(bytes > 0);
        self.offer_kept(id, key)?;
        let link = &mut self.links[id];
        let is_over = link.far_closed && link.hung_up && link.to_bus.is_empty();
        if is_over && !link.bus_closed && !frame::decode(&link.kept).is_whole() {
            link.at_end = true;
            self.moves += 1;
            self.tell(|| format!("closed #{id}"));
            self.session_ended(id);
            self.router.closed(key, CloseReason::PeerClosed);
            self.carry_out_effects()?;
        }
        Ok(bytes)
    }

    /// Offers the whole frames at the beginning of what is kept, and keeps the rest.
    fn offer_kept(&mut self, id: LinkId, key: SessionKey) -> Checked {
        let mut kept = std::mem::take(&mut self.links[id].kept);
        let mut taken = 0;
        while let Decoded::Frame { payload, frame_bytes } = frame::decode(&kept[taken..]) {
            let next = self.offer(id, key, payload)?;
            match next {
                Next::Taken | Next::TakenThenHold => taken += frame_bytes,
                Next::Finished => taken = kept.len(),
                Next::Hold | Next::Probe(_) => {}
            }
            self.moves += u64::from(!matches!(next, Next::Hold | Next::Probe(_)));
            if next != Next::Taken {
                break;
            }
        }
        kept.drain(..taken);
        let link = &mut self.links[id];
        if !link.bus_closed {
            link.kept = kept;
            let (bytes, missing) = (link.kept.len(), link.missing());
            self.router.buffered(key, bytes, missing);
        }
        Ok(())
    }

    fn offer(&mut self, id: LinkId, key: SessionKey, payload: &[u8]) -> Result<Next, Violation> {
        self.calls += 1;
        let shared = self.dice.one_in(4).then(|| Bytes::copy_from_slice(payload));
        let payload_of = || match &shared {
            Some(bytes) => Payload::Shared(bytes),
            None => Payload::Borrowed(payload),
        };
        let n = number_in(payload);
        if let Some(n) = n {
            self.model.taken(n);
        }
        let books = n.is_none().then(|| self.model.books.clone());
        let next = match self.router.frame(key, payload_of(), Probed::No) {
            Next::Probe(holder) => {
                self.probe(holder)?;
                self.router.frame(key, payload_of(), Probed::Yes)
            }
            next => next,
        };
        let text = || String::from_utf8_lossy(&payload[..payload.len().min(200)]).into_owned();
        self.tell(|| format!("frame #{id} -> {next:?}: {}", text()));
        let is_taken = matches!(next, Next::Taken | Next::TakenThenHold);
        match n {
            Some(n) if !is_taken => self.model.not_taken(n),
            Some(n) => {
                self.seen.note("message_taken");
                self.model.routed(n);
            }
            None if is_taken => self.request_taken(id, payload),
            None => {}
        }
        self.carry_out_effects()?;
        if let Some(books) = books.filter(|_| is_taken && self.links[id].depths.is_none())
            && let Some(session) = self.model.sessions.get(&id)
        {
            let depth = |books: &BTreeMap<u8, (u64, u64)>| {
                books.get(&session.endpoint).map_or(0, |book| book.0)
            };
            self.links[id].depths = Some((depth(&books), depth(&self.model.books)));
        }
        Ok(next)
    }

    /// The router has taken a frame that is no message.
    fn request_taken(&mut self, id: LinkId, payload: &[u8]) {
        let Ok(frame) = serde_json::from_slice::<Value>(payload) else { return };
        let bits = |key: &str, all: &[&str]| {
            let named = frame[key].as_array().into_iter().flatten().filter_map(Value::as_str);
            named.fold(0, |bits, name| {
                bits | all.iter().position(|known| *known == name).map_or(0, |place| 1 << place)
            })
        };
        match frame["type"].as_str() {
            Some("ack") => self.model.acknowledged(id, &frame),
            Some("nack") => self.model.gave_back(id, &frame),
            Some("subscribe") => {
                let topics = bits("topics", super::script::PATTERNS);
                self.model.subscribed_by(id, topics, bits("groups", super::script::GROUPS));
            }
            Some("unsubscribe") => {
                self.model.unsubscribed_by(id, bits("topics", super::script::PATTERNS));
            }
            Some("watch") => self.model.looks(id, frame["tap"] == "messages"),
            Some("register") => {
                let Some(mut join) = self.links[id].join else { return };
                if let Some(name) = self.newest_name(&join) {
                    join.name = name;
                    self.seen.note("suffix");
                }
                let replaced = self.model.asked_to_join(id, &join);
                replaced.into_iter().for_each(|replaced| self.session_ended(replaced));
            }
            _ => {}
        }
    }

    /// The name that the bus has made for the newest session, where it was to make one.
    fn newest_name(&mut self, join: &super::script::Join) -> Option<u8> {
        if join.conflict != Conflict::Suffix || !join.level_2 {
            return None;
        }
        let (details, _) = self.router.endpoints().last()?;
        Model::endpoint(&details.endpoint)
    }

    /// Lets the router have the last words of a session whose peer has hung up, and frees its name.
    fn probe(&mut self, key: SessionKey) -> Checked {
        let Some(id) = self.link_of(key) else { return Ok(()) };
        let link = &mut self.links[id];
        if !link.far_closed {
            return Ok(());
        }
        link.hung_up = true;
        while self.read_link(id, PROBE_BYTES)? > 0 {}
        self.tell(|| format!("leaving #{id}"));
        self.session_ended(id);
        self.router.leaving(key);
        Ok(())
    }

    // ---- writing ----------------------------------------------------------------------------------

    pub(super) fn write_dirty(&mut self) -> Checked {
        let mut keys = std::mem::take(&mut self.unwritten);
        keys.extend(self.router.take_dirty());
        keys.sort();
        keys.dedup();
        for key in keys {
            self.write(key)?;
        }
        Ok(())
    }

    fn write(&mut self, key: SessionKey) -> Checked {
        for _ in 0..WRITES_MAX {
            let Some(id) = self.link_of(key) else { return Ok(()) };
            let link = &self.links[id];
            if link.write_is_lost {
                return Ok(());
            }
            let offered: Vec<u8> = self.router.next_write(key).flatten().copied().collect();
            if offered.is_empty() {
                return Ok(());
            }
            if link.far_closed {
                return self.on_write_error(id, key);
            }
            let bits = self.script.character.writes_bits;
            let at_most = match self.is_healing || bits >= 20 {
                true => usize::MAX,
                false => 1 + self.dice.magnitude(bits) as usize,
            };
            let at_most = at_most.min(offered.len());
            let taken = self.links[id].from_bus.write(&offered[..at_most]);
            if taken > 0 {
                self.moves += 1;
                self.mix(&offered[..taken]);
                self.was_written(id, &offered[..taken])?;
                let moment = self.now().moment;
                self.calls += 1;
                self.router.written(key, taken, moment);
                self.carry_out_effects()?;
            }
            if taken < offered.len() {
                self.router.write_blocked(key);
                self.unwritten.push(key);
                return Ok(());
            }
        }
        self.unwritten.push(key);
        Ok(())
    }

    fn on_write_error(&mut self, id: LinkId, key: SessionKey) -> Checked {
        let link = &mut self.links[id];
        link.write_is_lost = true;
        link.hung_up = true;
        self.moves += 1;
        self.tell(|| format!("deaf #{id}: a write has failed"));
        self.session_ended(id);
        self.router.deaf(key);
        self.carry_out_effects()
    }

    /// The model sees every frame when all of it is in the socket.
    fn was_written(&mut self, id: LinkId, bytes: &[u8]) -> Checked {
        let writing = &mut self.links[id].writing;
        if writing.bytes.is_empty() {
            writing.began_us = self.now_us;
        }
        writing.bytes.extend_from_slice(bytes);
        let mut bytes = std::mem::take(&mut writing.bytes);
        let mut began_us = writing.began_us;
        let mut done = 0;
        while let Decoded::Frame { payload, frame_bytes } = frame::decode(&bytes[done..]) {
            self.frame_written(id, payload, began_us)?;
            done += frame_bytes;
            began_us = self.now_us;
        }
        bytes.drain(..done);
        let writing = &mut self.links[id].writing;
        writing.bytes = bytes;
        writing.began_us = began_us;
        Ok(())
    }

    fn frame_written(&mut self, id: LinkId, payload: &[u8], began_us: u64) -> Checked {
        let Ok(frame) = serde_json::from_slice::<Value>(payload) else {
            ensure!(false, "frames", "#{id} gets what is no JSON");
            return Ok(());
        };
        let text = || String::from_utf8_lossy(&payload[..payload.len().min(240)]).into_owned();
        self.tell(|| format!("written #{id}: {}", text()));
        let kind = frame["type"].as_str().unwrap_or_default();
        self.seen.frame(kind);
        let level_2 = self.links[id].join.is_some_and(|join| join.level_2);
        let known: &[&str] = if level_2 {
            &["registered", "message", "pong", "error", "receipt", "bye", "subscribed", "gap"]
        } else {
            &["registered", "message", "pong", "error", "receipt"]
        };
        let looks = &["watching", "presence", "tap"];
        let may_be = known.contains(&kind) || self.links[id].looks && looks.contains(&kind);
        ensure!(may_be, "level 1", "#{id} gets {frame}");
        match kind {
            "registered" => self.registered(id, &frame),
            "message" => self.model.handed_over(id, &frame, began_us),
            "receipt" | "error" => self.model.told(id, &frame, &self.store),
            "gap" => self.model.told_of_gap(id, &frame),
            "tap" => self.model.shown(id, &frame),
            "presence" => self.model.told_presence(id, &frame),
            _ => Ok(()),
        }
    }

    fn registered(&mut self, id: LinkId, frame: &Value) -> Checked {
        let Some(join) = self.links[id].join else {
            ensure!(false, "answer", "#{id} did not ask for {frame}");
            return Ok(());
        };
        let name = self.model.sessions.get(&id).map_or(join.name, |session| session.endpoint);
        let name = super::script::NAMES[name as usize];
        ensure!(frame["endpoint"] == name, "answer", "{frame} is not {name}");
        if let (Some(depth), Some((a, b))) =
            (frame["mailbox_depth"].as_u64(), self.links[id].depths)
        {
            let is_true = (a.min(b)..=a.max(b)).contains(&depth);
            ensure!(is_true, "books", "{frame}: {a} waited before it, {b} behind it");
        }
        Ok(())
    }
}

trait Whole {
    fn is_whole(&self) -> bool;
}

impl Whole for Decoded<'_> {
    fn is_whole(&self) -> bool {
        !matches!(self, Decoded::Incomplete { .. })
    }
}

fn shown(answer: &Answer) -> String {
    match answer {
        Answer::Loaded { endpoint, records, is_all } => {
            let seqs: Vec<u64> = records.iter().map(|record| record.seq).collect();
            format!("Loaded {} {seqs:?}, all: {is_all}", endpoint.as_str())
        }
        Answer::Overdue(records) => {
            let seqs: Vec<u64> = records.iter().map(|record| record.seq).collect();
            format!("Overdue {seqs:?}")
        }
        other => format!("{other:?}"),
    }
}

fn shown_order(order: &Order) -> String {
    match order {
        Order::Keep(record) => {
            let n = number_in(&record.payload).unwrap_or(u64::MAX);
            let (seq, endpoint, keep) = (record.seq, record.endpoint.as_str(), record.keep);
            format!("Keep {seq}: message {n} for {endpoint}, {keep:?}")
        }
        Order::Bury(letter) => {
            let n = number_in(&letter.record.payload).unwrap_or(u64::MAX);
            format!("Bury message {n}: {}", letter.reason)
        }
        other => format!("{other:?}"),
    }
}

//! What a frame does: names, targets, answers and refusals.

use std::collections::VecDeque;
use std::rc::Rc;

use hermes_bus_core::{CloseReason, Effect, Event, Next, Outcome, Probed, SessionKey};
use hermes_bus_proto::listing::{Level, level_asked};
use hermes_bus_proto::{
    Destination, EndpointName, Envelope, ErrorCode, FrameError, Kind, NameError, limits,
};

use crate::call::{View, Violation};

use super::endings::{Begun, begun};
use super::impatience::Verdict;
use super::message::{Copied, Message};
use super::session::{self, First, Owed, OwedId};
use super::{Checked, Expected, Fight, Model, Name, NameState, Told, ensure};

/// The shortest answer, without the bookkeeping.
const PONG_BYTES: usize = limits::HEADER_BYTES + br#"{"type": "pong"}"#.len();

/// A frame that was offered.
pub(super) struct Offered<'a> {
    pub(super) key: SessionKey,
    pub(super) payload: &'a [u8],
    pub(super) probed: Probed,
    pub(super) next: Next,
}

impl Offered<'_> {
    fn is_taken(&self) -> bool {
        matches!(self.next, Next::Taken | Next::TakenThenHold)
    }

    fn must_be(&self, holds: bool) -> Checked {
        let text = String::from_utf8_lossy(&self.payload[..self.payload.len().min(120)]);
        ensure!(holds, "answer", "{:?} to {text} of {:?}", self.next, self.key);
        Ok(())
    }
}

impl Model {
    pub(super) fn frame(
        &mut self,
        offered: &Offered<'_>,
        view: &mut View<'_>,
        expected: &mut Expected,
    ) -> Checked {
        let key = offered.key;
        if self.open(key).is_none() {
            offered.must_be(offered.next == Next::Finished)?;
            ensure!(view.effects.is_empty(), "end", "{key:?} has ended: {:?}", view.effects);
            return Ok(());
        }
        let envelope = match Envelope::scan(offered.payload) {
            Ok(envelope) => envelope,
            Err(error) => {
                offered.must_be(offered.next == Next::Finished)?;
                expected.refused_frames = 1;
                self.refuse(key, error.code(), OwedId::None);
                return self.take_effects(view, &mut Told::default(), expected);
            }
        };
        match envelope.kind {
            Kind::Message => self.message(offered, &envelope, view, expected)?,
            Kind::Register => self.register(offered, &envelope, view, expected)?,
            Kind::Ping | Kind::ListEndpoints if offered.next == Next::Hold => {
                let too_many = view.router.usage().answers >= self.config.answer_bytes_total_max;
                let session = self.session(key)?;
                ensure!(
                    session.may_be_owed() && too_many,
                    "hold",
                    "{key:?} is to read its answers first: {:?}",
                    session.answers
                );
                session.holds.answers = true;
                self.take_effects(view, &mut Told::default(), expected)?;
            }
            Kind::Ping => {
                offered.must_be(offered.is_taken())?;
                self.taken(key)?.owe(Owed::Pong);
                self.check_answers_have_a_limit(offered)?;
                self.take_effects(view, &mut Told::default(), expected)?;
            }
            Kind::ListEndpoints => {
                offered.must_be(offered.is_taken())?;
                let level = level_asked(envelope.protocol);
                let entries = self.registered.iter().map(|key| {
                    let session = &self.sessions[key];
                    (session.name.clone().unwrap_or_default(), session.session_id.clone())
                });
                let entries = entries.collect();
                self.taken(key)?.owe(Owed::Listing { level, entries });
                self.check_answers_have_a_limit(offered)?;
                self.take_effects(view, &mut Told::default(), expected)?;
            }
            Kind::Admin if level_asked(envelope.protocol) == Level::Two => {
                offered.must_be(offered.is_taken())?;
                let owner = self.config.owner_uid;
                let session = self.taken(key)?;
                let may_ask = [0, owner].contains(&session.credentials.uid);
                if !may_ask {
                    expected.refused_admin = 1;
                    session.owe_error(ErrorCode::Forbidden, OwedId::None);
                }
                let is_asked = view.effects.iter().any(|effect| match effect {
                    Effect::Admin(asker, payload) => *asker == key && *payload == offered.payload,
                    _ => false,
                });
                ensure!(is_asked == may_ask, "admin", "passed on: {is_asked}, may ask: {may_ask}");
                self.take_effects(view, &mut Told::default(), expected)?;
            }
            Kind::Admin | Kind::Unknown => {
                offered.must_be(offered.next == Next::Taken)?;
                self.taken(key)?;
                expected.ignored_unknown_type = 1;
                self.take_effects(view, &mut Told::default(), expected)?;
            }
        }
        if offered.next == Next::TakenThenHold {
            self.held_after_frame(key, offered.payload.len())?;
        }
        Ok(())
    }

    /// Who has too many answers to read may not ask further.
    fn check_answers_have_a_limit(&mut self, offered: &Offered<'_>) -> Checked {
        let max = self.config.answer_bytes_max;
        let session = self.session(offered.key)?;
        let answers = session.answers.len() + session.late.len();
        ensure!(
            offered.next == Next::TakenThenHold || session.is_deaf || answers * PONG_BYTES <= max,
            "budget",
            "{:?} has {answers} answers to read, which are more than {max} bytes, and may ask on",
            offered.key
        );
        Ok(())
    }

    /// The bytes that arrived can never become a frame.
    pub(super) fn frame_refused(
        &mut self,
        key: SessionKey,
        error: FrameError,
        expected: &mut Expected,
    ) {
        expected.refused_frames = 1;
        if self.open(key).is_some() {
            self.refuse(key, error.code(), OwedId::None);
        }
    }

    /// Tells a peer what it did wrong, and reads nothing more of it.
    fn refuse(&mut self, key: SessionKey, code: ErrorCode, id: OwedId) {
        if let Some(session) = self.sessions.get_mut(&key) {
            session.owe_error(code, id);
        }
        self.finish_session(key, CloseReason::Refused);
    }

    pub(super) fn session(&mut self, key: SessionKey) -> Result<&mut session::Session, Violation> {
        let unknown = || Violation::new("end", format!("{key:?} has ended"));
        self.sessions.get_mut(&key).ok_or_else(unknown)
    }

    /// A frame of this session was taken.
    fn taken(&mut self, key: SessionKey) -> Result<&mut session::Session, Violation> {
        let (turn, now) = (self.turn, self.now.moment);
        let session = self.session(key)?;
        session.frame_taken(turn, now);
        Ok(session)
    }

    // ---- names ----------------------------------------------------------------------------------------

    fn register(
        &mut self,
        offered: &Offered<'_>,
        envelope: &Envelope<'_>,
        view: &mut View<'_>,
        expected: &mut Expected,
    ) -> Checked {
        let key = offered.key;
        if !self.session(key)?.is_anonymous() {
            offered.must_be(offered.next == Next::Taken)?;
            self.taken(key)?;
            expected.ignored_register = 1;
            return self.take_effects(view, &mut Told::default(), expected);
        }
        let name = match self.may_register(key, envelope) {
            Ok(name) => name,
            Err(code) => {
                offered.must_be(offered.next == Next::Finished)?;
                match code {
                    ErrorCode::Unauthorized => expected.refused_unauthorized = 1,
                    _ => expected.refused_fields = 1,
                }
                self.refuse(key, code, OwedId::None);
                return self.take_effects(view, &mut Told::default(), expected);
            }
        };
        let holder = self.holder_of(&name);
        if let Next::Probe(probed) = offered.next {
            let is_due = holder == Some(probed) && offered.probed == Probed::No;
            ensure!(is_due, "answer", "{probed:?} is to be looked at for {name:?}, not {holder:?}");
            return self.take_effects(view, &mut Told::default(), expected);
        }
        offered.must_be(offered.next == Next::Taken)?;
        ensure!(
            holder.is_none() || offered.probed == Probed::Yes,
            "answer",
            "{holder:?} lost {name:?} without a look whether it has hung up"
        );
        self.taken(key)?;
        let registered = view.effects.iter().find_map(|effect| match effect {
            Effect::Log(Event::Registered { name: told, session_id }) if told.as_str() == name => {
                Some(session_id.clone())
            }
            _ => None,
        });
        let Some(session_id) = registered else {
            return Err(Violation::new("answer", format!("{name:?} was not registered")));
        };
        self.check_made_id(session_id.as_bytes(), &format!("session {key:?}"))?;
        let mut told = Told::default();
        self.note_losses(view, &mut told);
        self.names.entry(name.clone()).or_insert_with(|| Name {
            state: NameState::Held(key),
            held: Default::default(),
            inherited_bytes: 0,
            draining: None,
            fight: Fight::default(),
        });
        let inherited = self.inherit(key, &name, holder, &mut told, expected)?;
        self.take_name(key, &name, session_id, inherited, expected)?;
        if let Some(old) = holder {
            expected.replaced = 1;
            self.may_end(old, CloseReason::Replaced);
            self.registered.retain(|held| *held != old);
        }
        self.take_closings(view, &mut told, expected)?;
        let is_left = holder.is_some_and(|old| self.sessions.contains_key(&old));
        ensure!(!is_left, "replaced", "{holder:?} lost {name:?}, and lives on");
        Ok(())
    }

    /// Which name this asks for, or why it is refused.
    fn may_register(&self, key: SessionKey, envelope: &Envelope<'_>) -> Result<String, ErrorCode> {
        use hermes_bus_proto::envelope::NotText;
        let text = match envelope.endpoint.map(|endpoint| endpoint.text()) {
            Some(Ok(text)) => text.into_owned(),
            Some(Err(NotText::LoneSurrogate)) => return Err(ErrorCode::NameInvalid),
            Some(Err(NotText::OtherType)) | None => return Err(ErrorCode::InvalidField),
        };
        EndpointName::level_1(&text).map_err(|error| match error {
            NameError::TooLong(_) => ErrorCode::NameInvalid,
            NameError::Reserved => ErrorCode::Forbidden,
        })?;
        let uid = self.sessions.get(&key).map(|session| session.credentials.uid);
        let shown = envelope.member("token");
        let shown = shown.and_then(|token| token.text().ok()).map(|token| token.into_owned());
        let mut protections = self.config.protected.iter().filter(|p| p.name == text).peekable();
        let is_free = protections.peek().is_none();
        let is_open = protections.any(|protection| {
            let by_token = protection.token.is_some() && protection.token == shown;
            by_token || protection.uid.is_some() && protection.uid == uid
        });
        if is_free || is_open { Ok(text) } else { Err(ErrorCode::Unauthorized) }
    }

    /// What a call has dropped, by name; told before anybody is closed.
    fn note_losses(&mut self, view: &View<'_>, told: &mut Told) {
        for effect in view.effects {
            match effect {
                Effect::Log(Event::NotFound { peer, wanted }) => {
                    told.not_found.push((peer.pid, wanted.clone()));
                }
                Effect::Log(Event::HeldDropped { name, messages }) => {
                    *told.gone.entry(name.as_str().to_owned()).or_default() += messages;
                }
                _ => {}
            }
        }
    }

    /// The effects of a call whose [`Model::note_losses`] are known already.
    fn take_closings(
        &mut self,
        view: &View<'_>,
        told: &mut Told,
        expected: &mut Expected,
    ) -> Checked {
        let is_known =
            |event: &Event| matches!(event, Event::NotFound { .. } | Event::HeldDropped { .. });
        for effect in view.effects {
            match effect {
                Effect::Close(key, reason) => self.session_ended(*key, *reason, told, expected)?,
                Effect::Resume(key) => self.resumed(*key)?,
                Effect::Log(event) if !is_known(event) => self.logged(event, told)?,
                Effect::Log(_) | Effect::Admin(..) => {}
            }
        }
        ensure!(told.is_spent(), "drops", "told of more than was there to be dropped: {told:?}");
        Ok(())
    }

    /// What waits for a name's next session: what the last ones have not read, then what was held.
    fn inherit(
        &mut self,
        key: SessionKey,
        name: &str,
        holder: Option<SessionKey>,
        told: &mut Told,
        expected: &mut Expected,
    ) -> Result<Vec<Copied>, Violation> {
        let uid = self.session(key)?.credentials.uid;
        let now = self.now.moment;
        let Some(record) = self.names.get_mut(name) else { return Ok(Vec::new()) };
        let draining = record.draining.take();
        let held_uid = match record.state {
            NameState::Lingering { uid, .. } => uid,
            NameState::Held(_) => uid,
        };
        let held = std::mem::take(&mut record.held);
        record.inherited_bytes = 0;
        record.state = NameState::Held(key);
        let (mut ours, mut lost) = (Vec::new(), VecDeque::new());
        // Which of them still writes a message, only the sums tell, where too little of it was seen.
        let mut sources = Vec::new();
        for previous in draining.into_iter().chain(holder) {
            let session = self.session(previous)?;
            session.heir = None;
            let begun = begun(session);
            let mut queue = std::mem::take(&mut session.queue);
            for copy in &mut queue {
                copy.waiter = copy.waiter.filter(|_| copy.arrived == now);
            }
            let is_ours = session.credentials.uid == uid;
            sources.push((previous, is_ours, begun, queue));
        }
        let reached = self.counted.held_delivered + self.counted.dropped_receiver_gone;
        let reached = reached as usize + told.not_found.len();
        let there: usize = sources.iter().map(|(_, _, _, queue)| queue.len()).sum();
        let there = there + held.len();
        ensure!(there >= reached, "drops", "{reached} messages for {name:?} of {there}");
        let mut kept_back = there - reached;
        for (previous, is_ours, begun, mut queue) in sources {
            let cuts = match begun {
                Begun::Yes => true,
                Begun::Maybe => kept_back > 0,
                Begun::No => false,
            };
            if cuts && !queue.is_empty() {
                ensure!(kept_back > 0, "duplicate", "a begun message of {name:?} goes on");
                kept_back -= 1;
                let front = queue.pop_front();
                self.session(previous)?.queue.extend(front);
            }
            if is_ours { ours.extend(queue) } else { lost.extend(queue) }
        }
        ensure!(
            kept_back == 0,
            "drops",
            "{kept_back} messages for {name:?} were neither inherited nor told to be lost"
        );
        if held_uid == uid {
            ours.extend(held);
        } else {
            lost.extend(held);
        }
        self.held_are_lost(name, lost, told, expected)?;
        expected.held_delivered += ours.len() as u64;
        Ok(ours)
    }

    fn take_name(
        &mut self,
        key: SessionKey,
        name: &str,
        session_id: String,
        inherited: Vec<Copied>,
        expected: &mut Expected,
    ) -> Checked {
        let now = self.now.moment;
        expected.registrations = 1;
        let config = self.config.clone();
        let is_fought_over = self.counted.replaced == 1;
        let record = self.names.get_mut(name);
        let pause = record.filter(|_| is_fought_over);
        let pause = pause.and_then(|record| record.fight.replacement(&config, now));
        let verdict = self.impatience.began(name, now);
        self.registered.push(key);
        for copy in &inherited {
            if let Some(waiter) = copy.waiter.and_then(|waiter| self.sessions.get_mut(&waiter))
                && let First::Due { copies, .. } = &mut waiter.first
            {
                *copies = vec![(key, false)];
            }
        }
        let session = self.session(key)?;
        session.name = Some(name.to_owned());
        session.session_id.clone_from(&session_id);
        session.first = First::Over;
        session.is_impatient = verdict != Verdict::No && config.impatient_pongs;
        session.needs_pongs = verdict == Verdict::Yes && config.impatient_pongs;
        session.corked_until = pause.map(|pause| now.after(pause));
        session.owe(Owed::Registered { name: name.to_owned(), session_id });
        session.queue.extend(inherited);
        Ok(())
    }

    // ---- messages -------------------------------------------------------------------------------------

    fn message(
        &mut self,
        offered: &Offered<'_>,
        envelope: &Envelope<'_>,
        view: &mut View<'_>,
        expected: &mut Expected,
    ) -> Checked {
        let key = offered.key;
        let unix_us = self.now.unix_us;
        let strict_from = self.config.strict_from;
        let session = self.session(key)?;
        let name = session.name.clone();
        let message = Rc::new(Message::read(offered.payload, envelope, unix_us, name.as_deref()));
        let id = OwedId::of(&message);
        let pretends = name.is_some_and(|name| {
            envelope.from.is_some_and(|from| !from.text().is_ok_and(|from| from == name))
        });
        if strict_from && pretends {
            offered.must_be(offered.is_taken())?;
            expected.refused_from = 1;
            self.taken(key)?.owe_error(ErrorCode::Forbidden, id);
            return self.take_effects(view, &mut Told::default(), expected);
        }
        if message.payload_bytes() > limits::PAYLOAD_BYTES_MAX {
            offered.must_be(offered.is_taken())?;
            expected.refused_frame_too_large = 1;
            let session = self.taken(key)?;
            session.first = First::Over;
            session.owe_error(ErrorCode::FrameTooLarge, id);
            return self.take_effects(view, &mut Told::default(), expected);
        }
        match Destination::of(envelope.to) {
            Destination::Endpoint(name) => match self.names.get(&*name).map(|name| name.state) {
                Some(NameState::Held(receiver)) => {
                    self.sent_to_session(offered, message, receiver, view, expected)
                }
                Some(NameState::Lingering { .. }) => {
                    self.sent_to_lingering(offered, message, &name, view, expected)
                }
                None => self.sent_to_nobody(offered, &message, view, expected),
            },
            Destination::Nobody => self.sent_to_nobody(offered, &message, view, expected),
            Destination::Everyone => self.sent_to_everyone(offered, message, view, expected),
            Destination::Invalid => {
                offered.must_be(offered.next == Next::Finished)?;
                expected.refused_fields = 1;
                self.taken(key)?;
                self.refuse(key, ErrorCode::InvalidField, id);
                self.take_effects(view, &mut Told::default(), expected)
            }
        }
    }

    /// The router has taken a message, whatever becomes of it.
    fn accepted(&mut self, key: SessionKey, message: &Message, expected: &mut Expected) -> Checked {
        expected.messages = 1;
        expected.message_bytes = message.sent_bytes() as u64;
        self.check_rates(key)?;
        let session = self.taken(key)?;
        session.sent_messages += 1;
        session.sent_bytes += message.sent_bytes() as u64;
        Ok(())
    }

    fn sent_to_nobody(
        &mut self,
        offered: &Offered<'_>,
        message: &Rc<Message>,
        view: &mut View<'_>,
        expected: &mut Expected,
    ) -> Checked {
        offered.must_be(offered.is_taken())?;
        expected.refused_endpoint_not_found = 1;
        let session = self.taken(offered.key)?;
        let pid = session.credentials.pid;
        if session.is_anonymous() {
            session.first = First::Over;
            let id = OwedId::of(message);
            session.owe_error(ErrorCode::EndpointNotFound, id);
        }
        self.show_tap(view, message, Outcome::NotFound);
        let mut told = Told::default();
        self.note_losses(view, &mut told);
        let it = (pid, message.wanted.clone());
        ensure!(told.not_found == [it], "silence", "told {:?} of a name unknown", told.not_found);
        told.not_found.clear();
        self.take_closings(view, &mut told, expected)
    }

    fn sent_to_session(
        &mut self,
        offered: &Offered<'_>,
        message: Rc<Message>,
        receiver: SessionKey,
        view: &mut View<'_>,
        expected: &mut Expected,
    ) -> Checked {
        let key = offered.key;
        if offered.next == Next::Hold {
            expected.sender_waits = 1;
            return self.waits_for_receiver(key, receiver, &message, view);
        }
        offered.must_be(offered.is_taken())?;
        let id = OwedId::of(&message);
        if self.counted.dropped_receiver_stalled == 1 {
            expected.dropped_receiver_stalled = 1;
            self.check_drop(key, receiver)?;
            self.accepted(key, &message, expected)?;
            self.show_tap(view, &message, Outcome::Dropped);
            let session = self.session(key)?;
            if session.is_anonymous() {
                session.first = First::Over;
                session.owe_error(ErrorCode::OverLimit, id);
            }
            return self.take_effects(view, &mut Told::default(), expected);
        }
        self.check_admission(key, receiver, &message, view)?;
        self.accepted(key, &message, expected)?;
        self.show_tap(view, &message, Outcome::Accepted);
        self.enqueue(key, receiver, Rc::clone(&message))?;
        self.first_is_due(key, &message, vec![(receiver, false)], None)?;
        self.take_effects(view, &mut Told::default(), expected)
    }

    fn enqueue(&mut self, key: SessionKey, receiver: SessionKey, message: Rc<Message>) -> Checked {
        let is_anonymous = self.session(key)?.is_anonymous();
        let waiter = is_anonymous.then_some(key);
        let arrived = self.now.moment;
        let copy = Copied { message, waiter, arrived };
        self.session(receiver)?.queue.push_back(copy);
        Ok(())
    }

    fn sent_to_lingering(
        &mut self,
        offered: &Offered<'_>,
        message: Rc<Message>,
        name: &str,
        view: &mut View<'_>,
        expected: &mut Expected,
    ) -> Checked {
        offered.must_be(offered.is_taken())?;
        let key = offered.key;
        let session = self.session(key)?;
        let arrived = session.waiting_since;
        let waiter = session.listens().then_some(key);
        let arrived = arrived.unwrap_or(self.now.moment);
        self.accepted(key, &message, expected)?;
        self.first_is_due(key, &message, Vec::new(), None)?;
        let copy = Copied { message: Rc::clone(&message), waiter, arrived };
        let mut told = Told::default();
        for effect in view.effects {
            if let Effect::Log(event) = effect {
                self.logged(event, &mut told)?;
            }
        }
        let overflow = told.overflow.remove(name).unwrap_or(0) as usize;
        let dropped = overflow + told.not_found.len();
        let is_held = self.counted.held == 1;
        self.show_tap(view, &message, if is_held { Outcome::Held } else { Outcome::NotFound });
        let Some(record) = self.names.get_mut(name) else { return Ok(()) };
        ensure!(
            if is_held { dropped <= record.held.len() } else { dropped == 1 },
            "drops",
            "message {} was held: {is_held}; {dropped} of {} made room for it",
            message.number(),
            record.held.len()
        );
        let lost: Vec<Copied> = match is_held {
            true => record.held.drain(..dropped).collect(),
            false => vec![copy.clone()],
        };
        if is_held {
            expected.held = 1;
            self.check_overflow(name, std::iter::once(&copy), &lost)?;
            self.waits_for_fate(&copy);
            if let Some(record) = self.names.get_mut(name) {
                record.held.push_back(copy);
            }
            self.newly_held.push(name.to_owned());
        } else {
            self.check_overflow(name, std::iter::empty(), &lost)?;
        }
        self.overflow_is_told(&lost, &mut told, expected)?;
        ensure!(told.is_spent(), "drops", "told of more than held: {told:?}");
        for effect in view.effects {
            match effect {
                Effect::Close(key, reason) => {
                    self.session_ended(*key, *reason, &mut told, expected)?;
                }
                Effect::Resume(key) => self.resumed(*key)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn sent_to_everyone(
        &mut self,
        offered: &Offered<'_>,
        message: Rc<Message>,
        view: &mut View<'_>,
        expected: &mut Expected,
    ) -> Checked {
        offered.must_be(offered.next == Next::Taken || self.counted.pace_waits == 1)?;
        let key = offered.key;
        self.accepted(key, &message, expected)?;
        expected.broadcasts = 1;
        self.show_tap(view, &message, Outcome::Accepted);
        let effects = view.effects;
        let told_dropped = |name: &str| {
            effects.iter().any(|effect| match effect {
                Effect::Log(Event::BroadcastDropped { name: told }) => told.as_str() == name,
                _ => false,
            })
        };
        let receivers = self.registered.clone();
        let mut copies = Vec::new();
        for receiver in &receivers {
            self.session(*receiver)?;
            let session = &self.sessions[receiver];
            if session.is_stalled {
                expected.dropped_broadcast += 1;
                continue;
            }
            if told_dropped(session.name.as_deref().unwrap_or_default()) {
                self.check_there_is_no_room(session, &message, view)?;
                expected.dropped_broadcast += 1;
                continue;
            }
            self.check_queue_limit(session, &message)?;
            let arrived = self.now.moment;
            let message = Rc::clone(&message);
            let copy = Copied { message, waiter: None, arrived };
            self.session(*receiver)?.queue.push_back(copy);
            copies.push((*receiver, false));
        }
        self.first_is_due(key, &message, copies, Some(receivers.len()))?;
        self.take_effects(view, &mut Told::default(), expected)
    }

    /// An anonymous connection's first message is routed, or held.
    fn first_is_due(
        &mut self,
        key: SessionKey,
        message: &Rc<Message>,
        copies: Vec<(SessionKey, bool)>,
        broadcast_to: Option<usize>,
    ) -> Checked {
        let session = self.session(key)?;
        if session.is_anonymous() && matches!(session.first, First::NotYet) {
            let (message, frames_taken) = (Rc::clone(message), session.frames_taken);
            session.first = First::Due { message, frames_taken, copies, broadcast_to };
        }
        Ok(())
    }

    /// What those who look on are to see.
    fn show_tap(&mut self, view: &View<'_>, message: &Rc<Message>, outcome: Outcome) {
        if view.router.has_tapped() {
            self.tapped.push_back((Rc::clone(message), outcome));
        }
    }
}

//! What becomes of a message: queued, held, dropped, refused, or to be offered again.

use std::rc::Rc;

use hermes_bus_core::{Effect, Event, Next, Outcome, SessionKey};
use hermes_bus_proto::{Destination, Envelope, ErrorCode, limits};

use crate::call::View;

use super::frames::Offered;
use super::message::{Copied, Message};
use super::session::{First, OwedId};
use super::{Checked, Expected, Model, NameState, Told, ensure, is_loss};

impl Model {
    pub(super) fn message(
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
        self.note(is_loss, view, &mut told)?;
        let it = (pid, message.wanted.clone());
        ensure!(told.not_found == [it], "silence", "told {:?} of a name unknown", told.not_found);
        told.not_found.clear();
        self.take_effects_but(is_loss, view, &mut told, expected)
    }

    pub(super) fn sent_to_session(
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
        self.note(|_| true, view, &mut told)?;
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
        self.take_effects_but(|_| true, view, &mut told, expected)
    }

    fn sent_to_everyone(
        &mut self,
        offered: &Offered<'_>,
        message: Rc<Message>,
        view: &mut View<'_>,
        expected: &mut Expected,
    ) -> Checked {
        offered.must_be(offered.is_taken())?;
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

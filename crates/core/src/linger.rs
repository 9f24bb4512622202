//! What is held for a name whose session ended a moment ago, and what its senders hear.
//!
//! An anonymous sender that waits for an answer hears after 0.7 s that the endpoint is gone, unless
//! it has come back by then; no receipt is given before that is decided. All others' messages wait
//! for the whole linger.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec;
use alloc::vec::Vec;

use hermes_bus_proto::control::Detail;
use hermes_bus_proto::limits::HEADER_BYTES;
use hermes_bus_proto::{Envelope, ErrorCode};

use crate::Event;
use crate::acks::Handing;
use crate::effects::beginning;
use crate::endpoint::{EndpointKey, EndpointState, Linger};
use crate::fate::Failure;
use crate::ledger::Ledger;
use crate::outbox::{FrameKind, LooseMessage, Provenance, Tracking};
use crate::parcel::Parcel;
use crate::router::Router;
use crate::session::{Courtesy, Session, SessionKey};
use crate::storage::Ending;
use crate::timers::Timer;
use crate::trace::TraceState;

/// Where a message is put among those that are held already.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// Older than all of them.
    Front,
    /// Newer than all of them.
    Back,
}

/// What came of holding a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Holding {
    pub(crate) is_held: bool,
    /// It, or those that made room for it, as far as nobody hears that they are lost.
    pub(crate) dropped: u64,
}

impl Router {
    /// Holds a message, if it can be. Older ones make room for a newer one, but none of them in vain.
    pub(crate) fn hold(
        &mut self,
        endpoint: EndpointKey,
        mut message: LooseMessage,
        place: Place,
    ) -> Holding {
        // Who cannot hear what becomes of it does not wait for it.
        let waiter = message.provenance.waiter;
        let waiter = waiter.filter(|key| self.session(*key).is_some_and(Session::listens));
        message.provenance.waiter = waiter;
        let (bytes, provenance) = (message.load_bytes(), message.provenance);
        let (max, held) = (self.config.held_bytes_max, &mut self.held);
        let EndpointState::Lingering(linger) = &mut self.endpoints[endpoint.0].state else {
            self.fail_all(endpoint, vec![message]);
            return Holding { is_held: false, dropped: 0 };
        };
        let has_room = |linger: &Linger, held: &Ledger| {
            linger.bytes + bytes <= max.saturating_add(linger.inherited_bytes)
                && held.has_room_for(bytes)
        };
        let is_held = bytes <= max
            && match place {
                Place::Front => has_room(linger, held),
                Place::Back => held.has_room_in_place_of(linger.bytes, bytes),
            };
        let mut overflow = Vec::new();
        if is_held {
            while !has_room(linger, held) {
                let Some(oldest) = linger.messages.pop_front() else { break };
                linger.bytes -= oldest.load_bytes();
                held.refund(oldest.load_bytes());
                overflow.push(oldest);
            }
            linger.bytes += bytes;
            held.charge(bytes);
            self.counters.held += 1;
            match place {
                Place::Front => linger.messages.push_front(message),
                Place::Back => linger.messages.push_back(message),
            }
            self.sender_waits(endpoint, provenance);
        } else {
            overflow.push(message);
        }
        let mut dropped = 0;
        for message in overflow {
            if is_held {
                self.is_decided(&message);
            }
            dropped += u64::from(!self.tell_lost(endpoint, &message));
        }
        Holding { is_held, dropped }
    }

    /// Holds what a session has left, in front of what is held already: the newest of it, and none that
    /// is older than one for which there was no room.
    pub(crate) fn hold_left(&mut self, endpoint: EndpointKey, left: Vec<LooseMessage>) {
        let (mut dropped, mut is_full) = (0, false);
        for message in left.into_iter().rev() {
            if is_full {
                dropped += u64::from(!self.tell_lost(endpoint, &message));
                continue;
            }
            // One that can never be held says nothing about the others.
            let is_too_large = message.load_bytes() > self.config.held_bytes_max;
            let holding = self.hold(endpoint, message, Place::Front);
            dropped += holding.dropped;
            is_full = !holding.is_held && !is_too_large;
        }
        self.held_overflow(endpoint, dropped);
    }

    /// Counts and logs what could not be held.
    pub(crate) fn held_overflow(&mut self, endpoint: EndpointKey, dropped: u64) {
        if dropped > 0 {
            self.counters.dropped_held_overflow += dropped;
            let name = self.endpoints[endpoint.0].name.clone();
            self.log(Event::HeldOverflow { name, messages: dropped });
        }
    }

    /// The message's fate is open, and its sender is to hear of it in time.
    fn sender_waits(&mut self, endpoint: EndpointKey, provenance: Provenance) {
        let answer_at = provenance.arrived.after(self.config.answer);
        let Some(waiter) = provenance.waiter.and_then(|waiter| self.session_mut(waiter)) else {
            return;
        };
        waiter.undecided += 1;
        self.first_message_is_with(provenance.waiter, None, false);
        self.timers.set(answer_at, Timer::LingerAnswer(endpoint));
    }

    /// The fate of a held message is not open any more. What its sender waited for, the end of the turn
    /// decides: the receipt, or the end of its connection.
    fn is_decided(&mut self, message: &LooseMessage) {
        let Some(waiter) = message.provenance.waiter else { return };
        let Some(session) = self.session_mut(waiter) else { return };
        session.undecided = session.undecided.saturating_sub(1);
        if session.undecided == 0 {
            self.courtesies.push(waiter);
        }
    }

    /// Takes all that is held for a name. Its senders do not wait for the linger any more.
    pub(crate) fn take_linger(&mut self, endpoint: EndpointKey) -> Option<Linger> {
        let EndpointState::Lingering(linger) = &mut self.endpoints[endpoint.0].state else {
            return None;
        };
        let empty = Linger { until: linger.until, uid: linger.uid, ..Linger::default() };
        let linger = core::mem::replace(linger, empty);
        self.held.refund(linger.bytes);
        for message in &linger.messages {
            self.is_decided(message);
        }
        Some(linger)
    }

    /// Queues a held or inherited message for the session that has come for it.
    pub(crate) fn redeliver(&mut self, receiver: SessionKey, message: LooseMessage) {
        let LooseMessage { seq, frame, provenance, tracking, .. } = message;
        let Some((session, account)) = self.session_and_account(receiver) else { return };
        let kind = FrameKind::Message { provenance, seq, is_tracked: tracking.is_some() };
        session.outbox.push_copy(&[&frame], kind, account);
        let mark = session.outbox.mark();
        if let Some(tracking) = tracking {
            session.handing.push_back(Handing { mark, seq, tracking: *tracking });
        }
        self.mark_dirty(receiver);
        self.first_message_is_with(provenance.waiter, Some((receiver, mark)), false);
    }

    /// Drops messages that nobody came back for, and tells the senders that wait.
    pub(crate) fn fail_all(&mut self, endpoint: EndpointKey, messages: Vec<LooseMessage>) {
        let mut dropped = 0;
        for message in messages {
            dropped += u64::from(!self.tell_lost(endpoint, &message));
        }
        if dropped > 0 {
            self.counters.dropped_receiver_gone += dropped;
            let name = self.endpoints[endpoint.0].name.clone();
            self.log(Event::HeldDropped { name, messages: dropped });
        }
    }

    /// Tells whoever waits that a message is lost. Says whether there was anybody to tell.
    pub(crate) fn tell_lost(&mut self, endpoint: EndpointKey, message: &LooseMessage) -> bool {
        let what = "the endpoint went away and did not come back in time";
        let failure = Failure::new(ErrorCode::ReceiverGone, what);
        match &message.tracking {
            Some(tracking) => {
                self.counters.given_up += 1;
                self.bury_loose(endpoint, message, tracking, &failure);
                self.failed(&tracking.fate, &failure, Some(endpoint))
            }
            None => {
                let (trace, unix_us) = (message.provenance.trace, self.now.unix_us);
                let state = TraceState::Dropped(ErrorCode::ReceiverGone);
                self.trace.note(trace, state, Some(endpoint), unix_us);
                self.tell_not_found(message)
            }
        }
    }

    /// Tells an anonymous sender that is still there that the endpoint is gone. Says whether there
    /// was anybody to tell.
    fn tell_not_found(&mut self, message: &LooseMessage) -> bool {
        let Some(waiter) = message.provenance.waiter else { return false };
        if !self.session(waiter).is_some_and(Session::listens) {
            return false;
        }
        let Ok(envelope) = Envelope::scan(&message.frame[HEADER_BYTES..]) else { return false };
        let Some(to) = envelope.to else { return false };
        self.counters.refused_endpoint_not_found += 1;
        self.log_of(waiter, |peer| Event::NotFound { peer, wanted: beginning(Some(to)) });
        let detail = Detail::NotConnected(to);
        self.tell_error(waiter, ErrorCode::EndpointNotFound, detail, envelope.id);
        if let Some(session) = self.session_mut(waiter) {
            session.courtesy = Courtesy::Over;
        }
        true
    }

    /// Senders that have waited long enough for a lingering endpoint hear that it is gone.
    pub(crate) fn answer_lingering_senders(&mut self, endpoint: EndpointKey) {
        let (now, wait) = (self.now.moment, self.config.answer);
        let lingering = self.endpoints.get_mut(endpoint.0).map(|record| &mut record.state);
        let Some(EndpointState::Lingering(linger)) = lingering else { return };
        let held = core::mem::take(&mut linger.messages);
        let mut kept = VecDeque::with_capacity(held.len());
        for mut message in held {
            let provenance = message.provenance;
            if provenance.waiter.is_none() || provenance.arrived.after(wait) > now {
                kept.push_back(message);
                continue;
            }
            self.is_decided(&message);
            if self.tell_not_found(&message) {
                self.held.refund(message.load_bytes());
            } else {
                // The sender has gone: nobody waits for an answer, so the message itself may wait.
                message.provenance.waiter = None;
                kept.push_back(message);
            }
        }
        let bytes = kept.iter().map(LooseMessage::load_bytes).sum();
        let waiting = kept.iter().filter(|message| message.provenance.waiter.is_some());
        if let Some(first) = waiting.map(|message| message.provenance.arrived).min() {
            self.timers.set(first.after(wait), Timer::LingerAnswer(endpoint));
        }
        if let EndpointState::Lingering(linger) = &mut self.endpoints[endpoint.0].state {
            (linger.messages, linger.bytes) = (kept, bytes);
        }
    }

    /// Forgets a name that nobody came back for.
    pub(crate) fn check_linger(&mut self, endpoint: EndpointKey) {
        let now = self.now.moment;
        let Some(record) = self.endpoints.get(endpoint.0) else { return };
        let EndpointState::Lingering(linger) = &record.state else { return };
        if linger.until > now {
            // An earlier linger of the same name had set it.
            return self.timers.set(linger.until, Timer::LingerEnd(endpoint));
        }
        if let Some(linger) = self.take_linger(endpoint) {
            self.fail_all(endpoint, linger.messages.into());
        }
        let what = "the endpoint went away without acknowledging it, and has no mailbox";
        self.endpoints[endpoint.0].state = EndpointState::Away;
        self.has_gone(endpoint);
        self.unload(endpoint, &Failure::new(ErrorCode::ReceiverGone, what));
        self.forget_if_idle(endpoint);
    }

    /// A dead letter of what was held only in memory, if it is missed.
    fn bury_loose(
        &mut self,
        endpoint: EndpointKey,
        message: &LooseMessage,
        tracking: &Tracking,
        failure: &Failure,
    ) {
        if !tracking.is_mourned {
            return;
        }
        let LooseMessage { seq, ref frame, provenance, ref sender, level, .. } = *message;
        let sender = sender.clone();
        let tracking = Some(Box::new(tracking.clone()));
        let copy = LooseMessage {
            sender,
            level,
            tracking,
            ..LooseMessage::new(seq, frame.clone(), provenance)
        };
        let parcel = Parcel::from_loose(copy, self.bus_time(provenance.arrived));
        self.bury(endpoint, &parcel, failure);
    }

    /// Forgets an endpoint that is away and has nothing to be remembered for.
    pub(crate) fn forget_if_idle(&mut self, endpoint: EndpointKey) {
        let Some(record) = self.endpoints.get(endpoint.0) else { return };
        let is_away = matches!(record.state, EndpointState::Away);
        if is_away && !record.mailbox && record.backlog.is_none() {
            self.forget_endpoint(endpoint);
        }
    }

    /// A name is nobody's any more.
    pub(crate) fn forget_endpoint(&mut self, endpoint: EndpointKey) {
        let record = self.endpoints.remove(endpoint.0);
        self.timers.forget_endpoint(endpoint);
        self.topics.remove(endpoint);
        self.groups.remove(endpoint);
        self.trace.forget_endpoint(endpoint, &record.name);
        self.names.remove(record.name.as_str());
        if let Some(session) = record.draining.and_then(|draining| self.session_mut(draining)) {
            session.heir = None;
        }
    }

    /// Takes expired messages out of what is held for a name.
    pub(crate) fn withdraw_held(&mut self, endpoint: EndpointKey) {
        let now = self.now.moment;
        let Some(record) = self.endpoints.get_mut(endpoint.0) else { return };
        let EndpointState::Lingering(linger) = &mut record.state else { return };
        let deadline_of = |message: &LooseMessage| message.tracking.as_ref()?.deadline;
        let is_due = |message: &LooseMessage| deadline_of(message).is_some_and(|at| at <= now);
        let mut due = Vec::new();
        for message in core::mem::take(&mut linger.messages) {
            if is_due(&message) {
                due.push(message);
            } else {
                linger.messages.push_back(message);
            }
        }
        let next = linger.messages.iter().filter_map(deadline_of).min();
        for message in due {
            let load_bytes = message.load_bytes();
            if let EndpointState::Lingering(linger) = &mut self.endpoints[endpoint.0].state {
                linger.bytes -= load_bytes;
            }
            self.held.refund(load_bytes);
            self.is_decided(&message);
            self.expire_loose(endpoint, &message);
        }
        if let Some(next) = next {
            self.timers.set(next, Timer::Expiry(endpoint));
        }
    }

    /// The time to live of a message has run out that was taken out of a queue.
    pub(crate) fn expire_loose(&mut self, endpoint: EndpointKey, message: &LooseMessage) {
        self.counters.expired += 1;
        self.counters.given_up += 1;
        let Some(tracking) = &message.tracking else { return };
        let failure = Failure::new(ErrorCode::Expired, "its time to live ran out");
        self.bury_loose(endpoint, message, tracking, &failure);
        if let Some(kept) = tracking.kept {
            let bytes = tracking.payload_bytes;
            self.let_go(endpoint, message.seq, kept, bytes, Ending::Expired);
        }
        if !self.failed(&tracking.fate, &failure, Some(endpoint)) {
            let name = self.endpoints[endpoint.0].name.clone();
            self.log(Event::GivenUp { name, code: failure.code });
        }
    }
}

//! Where a message goes, and what happens when it does not fit there.

use alloc::borrow::ToOwned;
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::format;
use alloc::rc::Rc;
use alloc::string::ToString;
use alloc::vec;
use alloc::vec::Vec;

use bytes::Bytes;
use hermes_bus_proto::control::{self, Detail, Further, Status};
use hermes_bus_proto::envelope::Insertion;
use hermes_bus_proto::frame;
use hermes_bus_proto::limits::{HEADER_BYTES, PAYLOAD_BYTES_MAX};
use hermes_bus_proto::listing::Level;
use hermes_bus_proto::topic::Address;
use hermes_bus_proto::{Ask, Destination, EndpointName, Envelope, ErrorCode, Raw};

use crate::Event;
use crate::acks::Handing;
use crate::effects::beginning;
use crate::endpoint::{EndpointKey, EndpointState};
use crate::fate::Tally;
use crate::gaps::GapSource;
use crate::linger::{Holding, Place};
use crate::outbox::{
    Body, FRAME_OVERHEAD_BYTES, FrameKind, LooseMessage, Origin, Provenance, SHARE_BYTES_MIN,
    Tracking,
};
use crate::parcel::added_fields;
use crate::router::{Next, Payload, Router};
use crate::session::{
    Courtesy, Credentials, Patience, Session, SessionKey, Stalled, Waited, WaitingSender,
};
use crate::storage::Sender;
use crate::tap::Outcome;
use crate::timers::Timer;
use crate::trace::TraceState;

/// A UUID as a JSON string.
type QuotedId = [u8; 38];

/// A message on its way: what came, and what the bus adds to it.
#[derive(Clone, Copy)]
pub(crate) struct Outgoing<'a> {
    pub(crate) sender: SessionKey,
    pub(crate) envelope: &'a Envelope<'a>,
    payload: Payload<'a>,
    inserted: &'a [u8],
    /// Its `id` as JSON, whoever made it.
    pub(crate) id: Raw<'a>,
    pub(crate) provenance: Provenance,
    pub(crate) ask: Ask,
    /// The level that its sender speaks.
    pub(crate) level: Level,
    /// The group or topic that it goes through.
    pub(crate) via: Option<&'a str>,
    /// Where it has several targets: their one receipt.
    pub(crate) tally: Option<&'a Rc<Tally>>,
}

impl Outgoing<'_> {
    pub(crate) fn payload_bytes(&self) -> usize {
        self.envelope.payload().len() + self.inserted.len()
    }

    /// What it takes in a receiver's queue.
    pub(crate) fn needs_bytes(&self) -> usize {
        HEADER_BYTES + self.payload_bytes() + FRAME_OVERHEAD_BYTES
    }

    /// Before and from the place of the inserted fields.
    fn parts(&self) -> (&[u8], &[u8]) {
        self.envelope.payload().split_at(self.envelope.closing_brace_at())
    }

    /// Whether an anonymous sender may wait for an answer.
    pub(crate) fn has_waiter(&self) -> bool {
        self.provenance.waiter.is_some()
    }

    /// Whether its sender hears of it if it is refused. A registered session of level 1 does not.
    pub(crate) fn is_answered(&self) -> bool {
        self.has_waiter() || self.level == Level::Two || self.ask.receipt.is_some()
    }

    /// Whether it asks for nothing but to be routed.
    #[inline]
    pub(crate) fn is_plain(&self) -> bool {
        self.ask == Ask::default() && self.tally.is_none()
    }

    /// The JSON object as a level 1 receiver gets it.
    pub(crate) fn payload(&self) -> Bytes {
        match self.payload {
            Payload::Shared(bytes) if self.inserted.is_empty() => bytes.clone(),
            _ => {
                let (before, after) = self.parts();
                Bytes::from([before, self.inserted, after].concat())
            }
        }
    }

    /// The same message, through a group or topic.
    pub(crate) fn through<'b>(
        &'b self,
        via: Option<&'b str>,
        tally: Option<&'b Rc<Tally>>,
    ) -> Outgoing<'b> {
        Outgoing { via, tally, ..*self }
    }
}

/// Whether a receiver's queue can take a message.
pub(crate) enum Admission {
    Yes,
    /// Not now: the sender is kept waiting.
    Wait,
    /// The receiver has not read for too long.
    Drop,
}

impl Router {
    #[inline]
    pub(crate) fn message(
        &mut self,
        key: SessionKey,
        envelope: &Envelope<'_>,
        payload: Payload<'_>,
    ) -> Next {
        let Some(session) = self.session(key) else { return Next::Finished };
        let (is_anonymous, level) = (session.is_anonymous(), session.level);
        let uid = session.credentials.uid;
        let ask = match level {
            _ if envelope.asking.is_empty() => Ask::default(),
            Level::One => Self::what_level_1_asks(envelope),
            Level::Two => match Ask::strict(&envelope.asking) {
                Ok(ask) => ask,
                Err(error) => return self.refuse_field(key, &error.to_string(), envelope.id),
            },
        };
        let mut inserted = core::mem::take(&mut self.inserted);
        let mut generated: QuotedId = [b'"'; 38];
        self.insert_fields(key, envelope, &mut inserted, &mut generated);
        let id = envelope.id.unwrap_or(Raw::new(&generated));
        let now = self.now.moment;
        let trace = self.trace.begin(id.as_bytes(), key, uid);
        // Who has asked for a receipt waits for that.
        let waiter = (is_anonymous && ask.receipt.is_none()).then_some(key);
        let provenance = Provenance { waiter, arrived: now, trace };
        let (inserted_bytes, via, tally) = (inserted.as_slice(), None, None);
        let outgoing = Outgoing {
            sender: key,
            envelope,
            payload,
            inserted: inserted_bytes,
            id,
            provenance,
            ask,
            level,
            via,
            tally,
        };
        let next = if self.config.strict_from && self.pretends(&outgoing) {
            self.refuse_pretender(&outgoing)
        } else if let Some(endpoint) = self.same_target_as_before(&outgoing) {
            self.route_to_endpoint(&outgoing, endpoint)
        } else {
            let destination = Destination::of(envelope.to);
            if !outgoing.is_plain()
                && let Some(next) = self.look_at_what_is_asked(&outgoing, &destination)
            {
                next
            } else {
                self.route(&outgoing, destination)
            }
        };
        self.inserted = inserted;
        self.keep_pace(key, payload.bytes().len(), next)
    }

    /// A field of a level 2 session's message is wrong: the message is refused, the session goes on.
    fn refuse_field(&mut self, key: SessionKey, what: &str, id: Option<Raw<'_>>) -> Next {
        self.take_note_of_frame(key);
        self.counters.refused_fields += 1;
        self.end_courtesy(key);
        self.tell_error(key, ErrorCode::InvalidField, Detail::Text(what), id);
        self.hold_if_answers_pile_up(key)
    }

    /// Prepares what the bus adds: `id`, `ts` and `from`, where the keys are missing.
    #[inline]
    fn insert_fields(
        &mut self,
        key: SessionKey,
        envelope: &Envelope<'_>,
        inserted: &mut Vec<u8>,
        generated: &mut QuotedId,
    ) {
        let mut insertion = Insertion::start(inserted);
        if envelope.id.is_none() {
            let mut text = uuid::Uuid::encode_buffer();
            let text = self.new_id().hyphenated().encode_lower(&mut text);
            generated[1..37].copy_from_slice(text.as_bytes());
            insertion.id(text);
        }
        if envelope.ts.is_none() {
            insertion.ts(self.now.unix_us);
        }
        let room = PAYLOAD_BYTES_MAX.saturating_sub(envelope.payload().len());
        if envelope.from.is_none()
            && let Some(registration) = self.session(key).and_then(Session::registration)
        {
            // A message that just fits is worth more than its sender's name.
            insertion.from_within(room, &registration.name_json);
        }
    }

    /// The endpoint that the last message was for, if a plain one is for it as well: it need not be looked
    /// up again.
    #[inline]
    fn same_target_as_before(&self, message: &Outgoing<'_>) -> Option<EndpointKey> {
        let target = self.last_target;
        // Whoever is in the table is found by this name, and nobody else.
        let record = self.endpoints.get(target.0)?;
        let is_for_it = message.envelope.to.is_some_and(|to| to.is_text(record.name.as_str()));
        let fits = message.payload_bytes() <= PAYLOAD_BYTES_MAX;
        (message.is_plain() && fits && is_for_it && !record.name.as_str().is_empty())
            .then_some(target)
    }

    #[inline]
    fn route(&mut self, message: &Outgoing<'_>, destination: Destination<'_>) -> Next {
        if message.payload_bytes() > PAYLOAD_BYTES_MAX {
            return self.refuse_oversize(message);
        }
        match destination {
            Destination::Endpoint(name) => match self.names.get(&*name).copied() {
                Some(endpoint) => {
                    self.last_target = endpoint;
                    self.route_to_endpoint(message, endpoint)
                }
                None => match Address::of(name) {
                    Address::Group(group) => self.route_to_group(message, &group),
                    Address::Topic(topic) => self.publish(message, &topic),
                    Address::Endpoint(name) => self.route_to_absent(message, &name),
                },
            },
            Destination::Everyone => self.broadcast(message),
            Destination::Nobody => self.not_found(message),
            Destination::Invalid => {
                self.take_note_of_frame(message.sender);
                self.counters.refused_fields += 1;
                let what = "field 'to' must be an endpoint's name, not an array or object";
                self.refuse(message.sender, ErrorCode::InvalidField, what, Some(message.id));
                Next::Finished
            }
        }
    }

    // ---- one receiver ---------------------------------------------------------------------------

    #[inline]
    pub(crate) fn route_to_endpoint(
        &mut self,
        message: &Outgoing<'_>,
        endpoint: EndpointKey,
    ) -> Next {
        let record = &self.endpoints[endpoint.0];
        if !record.is_plain() || message.ask.queue {
            return self.route_tracked(message, endpoint);
        }
        match &record.state {
            EndpointState::Held(receiver) => self.deliver(message, endpoint, *receiver),
            EndpointState::Lingering(_) => self.deliver_later(message, endpoint),
            EndpointState::Away => self.not_found(message),
        }
    }

    #[inline]
    fn deliver(
        &mut self,
        message: &Outgoing<'_>,
        endpoint: EndpointKey,
        receiver: SessionKey,
    ) -> Next {
        match self.admission(message.sender, receiver, message.needs_bytes()) {
            Admission::Yes => {}
            // What does not fit goes to the disk, if there is one, and nobody waits.
            Admission::Wait | Admission::Drop if self.may_spill(endpoint, message) => {
                return self.route_tracked(message, endpoint);
            }
            Admission::Wait => return self.wait_for(message, receiver),
            Admission::Drop => return self.drop_for_stalled(message, receiver),
        }
        self.accept(message);
        self.tap(message, Outcome::Accepted);
        let mark = self.enqueue(message, receiver, None, message.provenance);
        if message.is_plain() {
            let (trace, unix_us) = (message.provenance.trace, self.now.unix_us);
            self.trace.note(trace, TraceState::Accepted, Some(endpoint), unix_us);
        }
        if !message.is_plain() {
            self.watch_in_queue(message, endpoint, receiver, mark);
        }
        if message.has_waiter() {
            self.first_message_is_due(message, || vec![(receiver, mark)], None);
        }
        Next::Taken
    }

    /// The session's books keep an eye on a message in its queue that asks for something.
    fn watch_in_queue(
        &mut self,
        message: &Outgoing<'_>,
        endpoint: EndpointKey,
        receiver: SessionKey,
        mark: u64,
    ) {
        let tracking = self.tracking_of(message, endpoint);
        let seq = self.seq;
        if let Some(session) = self.session_mut(receiver) {
            session.handing.push_back(Handing { mark, seq, tracking });
        }
    }

    #[inline]
    pub(crate) fn admission(
        &self,
        sender: SessionKey,
        receiver: SessionKey,
        bytes: usize,
    ) -> Admission {
        let Some(session) = self.session(receiver) else { return Admission::Yes };
        if session.stalled.is_some() {
            return Admission::Drop;
        }
        let waited = self.session(sender).map_or(Waited::No, |sender| sender.waited);
        if waited == Waited::InVain(receiver) {
            return Admission::Drop;
        }
        let is_next = session.waiting_senders.is_empty() || waited == Waited::RoomAt(receiver);
        if is_next && self.has_room(session, bytes) { Admission::Yes } else { Admission::Wait }
    }

    /// Whether a receiver's queue takes so many bytes more. An empty queue takes any one message,
    /// and a short one grows a little even when others have used up the budget: a receiver that
    /// reads is not slowed down by those that do not.
    #[inline]
    pub(crate) fn has_room(&self, receiver: &Session, bytes: usize) -> bool {
        self.has_room_beside(receiver, bytes, 0)
    }

    /// The same where so much of it is charged already: the payload that all receivers of one user share.
    #[inline]
    fn has_room_beside(&self, receiver: &Session, bytes: usize, charged_bytes: usize) -> bool {
        let load = receiver.outbox.load_bytes() + receiver.backlog_bytes + bytes;
        receiver.outbox.is_empty() && receiver.backlog_bytes == 0
            || load <= self.config.queue_bytes_max
                && (load <= self.config.queue_bytes_reserved
                    || self.queues.has_room_for(receiver.user, bytes - charged_bytes))
    }

    pub(crate) fn wait_for(&mut self, message: &Outgoing<'_>, receiver: SessionKey) -> Next {
        let (key, needs_bytes, now) = (message.sender, message.needs_bytes(), self.now.moment);
        let (of_the_bus, of_the_sender) = (self.config.stall, self.config.answer);
        self.counters.sender_waits += 1;
        let Some(session) = self.session_mut(key) else { return Next::Finished };
        debug_assert!(!session.holds.any(), "a frame was offered while its session is held");
        session.holds.receiver = Some(receiver);
        session.waited = Waited::No;
        let since = *session.waiting_since.get_or_insert(now);
        let is_first_of_a_script =
            message.has_waiter() && matches!(session.courtesy, Courtesy::NotYet);
        // A sender's patience runs from the arrival; a receiver's time from the first wait for it.
        let (patience, until) = if is_first_of_a_script && !session.is_deaf {
            (Patience::OfTheSender, since.after(of_the_sender.min(of_the_bus)))
        } else {
            (Patience::OfTheBus, now.after(of_the_bus))
        };
        self.stop_frame_clock(key);
        if let Some(session) = self.session_mut(receiver) {
            let waiting = WaitingSender { key, needs_bytes, patience, began: now, until };
            session.waiting_senders.push_back(waiting);
            self.timers.set(until, Timer::WaitingSenders(receiver));
        }
        Next::Hold
    }

    /// A queue has become shorter: the senders that wait for it go on, in their order, as many as
    /// now fit.
    #[inline]
    pub(crate) fn queue_has_drained(&mut self, key: SessionKey) {
        let Some(session) = self.session_mut(key) else { return };
        if let Some(Stalled { dropped, until_bytes }) = session.stalled
            && session.outbox.load_bytes() <= until_bytes
        {
            session.stalled = None;
            if let Some(name) = self.name_of(key) {
                self.log(Event::StallEnded { name, dropped });
            }
        }
        let mut promised = 0;
        while let Some(session) = self.session(key)
            && let Some(first) = session.waiting_senders.front()
            && self.has_room(session, promised + first.needs_bytes)
        {
            promised += first.needs_bytes;
            self.release_first_waiting(key, Waited::RoomAt(key));
        }
    }

    /// Nobody needs to wait for this receiver any more: it has ended or stalled.
    pub(crate) fn release_waiting_senders(&mut self, key: SessionKey) {
        while self.session(key).is_some_and(|session| !session.waiting_senders.is_empty()) {
            self.release_first_waiting(key, Waited::RoomAt(key));
        }
    }

    fn release_first_waiting(&mut self, receiver: SessionKey, waited: Waited) {
        let Some(session) = self.session_mut(receiver) else { return };
        if let Some(waiting) = session.waiting_senders.pop_front() {
            self.release_sender(waiting.key, waited);
        }
    }

    fn release_sender(&mut self, key: SessionKey, waited: Waited) {
        if let Some(sender) = self.session_mut(key) {
            sender.holds.receiver = None;
            sender.waited = waited;
            self.resume(key);
        }
    }

    /// Somebody has waited long enough for this receiver: a sender that cannot wait longer is told
    /// so; otherwise the receiver has had its time.
    pub(crate) fn check_waiting_senders(&mut self, key: SessionKey) {
        let now = self.now.moment;
        let stall = self.config.stall;
        let Some(session) = self.session_mut(key) else { return };
        let mut patient = VecDeque::with_capacity(session.waiting_senders.len());
        for mut waiting in core::mem::take(&mut session.waiting_senders) {
            if waiting.until > now || waiting.patience == Patience::OfTheBus {
                patient.push_back(waiting);
            } else if self.session(waiting.key).is_some_and(|sender| sender.is_deaf) {
                // It does not wait for an answer any more: the receiver has the time that it has for
                // all others.
                waiting.patience = Patience::OfTheBus;
                waiting.until = waiting.began.after(stall);
                patient.push_back(waiting);
            } else {
                self.release_sender(waiting.key, Waited::InVain(key));
            }
        }
        if let Some(session) = self.session_mut(key) {
            session.waiting_senders = patient;
        }
        // Those who stood behind may fit now.
        self.queue_has_drained(key);
        let Some(session) = self.session(key) else { return };
        let Some(next) = session.waiting_senders.iter().map(|waiting| waiting.until).min() else {
            return;
        };
        if next <= now {
            self.receiver_has_stalled(key);
        } else {
            self.timers.set(next, Timer::WaitingSenders(key));
        }
    }

    fn receiver_has_stalled(&mut self, key: SessionKey) {
        let half_of_queue = self.config.queue_bytes_max / 2;
        let Some(session) = self.session_mut(key) else { return };
        // Its queue may be short of its own limit where others have used up the budget.
        let until_bytes = half_of_queue.min(session.outbox.load_bytes() / 2);
        session.stalled = Some(Stalled { dropped: 0, until_bytes });
        let queued_bytes = session.outbox.bytes();
        if let Some(name) = self.name_of(key) {
            self.log(Event::StallBegan { name, queued_bytes });
        }
        self.release_waiting_senders(key);
    }

    pub(crate) fn drop_for_stalled(
        &mut self,
        message: &Outgoing<'_>,
        receiver: SessionKey,
    ) -> Next {
        self.accept(message);
        self.tap(message, Outcome::Dropped);
        let (trace, unix_us) = (message.provenance.trace, self.now.unix_us);
        self.trace.note(trace, TraceState::Dropped(ErrorCode::OverLimit), None, unix_us);
        self.counters.dropped_receiver_stalled += 1;
        let mut queued_bytes = 0;
        if let Some(session) = self.session_mut(receiver) {
            session.count_drop();
            queued_bytes = session.outbox.bytes();
        }
        if !message.is_answered() {
            return Next::Taken;
        }
        let what = format!(
            "the endpoint does not read: {queued_bytes} bytes are queued for it, and the message \
             was dropped"
        );
        self.end_courtesy(message.sender);
        let detail = Detail::Text(&what);
        self.tell_error(message.sender, ErrorCode::OverLimit, detail, Some(message.id));
        self.hold_if_answers_pile_up(message.sender)
    }

    pub(crate) fn tracking_of(
        &mut self,
        message: &Outgoing<'_>,
        endpoint: EndpointKey,
    ) -> Tracking {
        let fate = self.fate_of(message);
        self.reached(&fate, Status::Accepted, endpoint);
        let deadline = message.ask.ttl.map(|ttl| self.now.moment.after(ttl));
        if let Some(deadline) = deadline {
            self.timers.set(deadline, Timer::Expiry(endpoint));
        }
        let payload_bytes = message.payload_bytes();
        let (sender, via) = (self.sender_of(message.sender), message.via.map(Box::from));
        let origin = Some(Box::new(Origin { sender, via }));
        let is_mourned = message.ask.receipt.is_some();
        Tracking { fate, deadline, kept: None, payload_bytes, deliveries: 1, is_mourned, origin }
    }

    /// Holds a message for an endpoint whose session ended a moment ago.
    pub(crate) fn deliver_later(&mut self, message: &Outgoing<'_>, endpoint: EndpointKey) -> Next {
        // The frame may have waited for the session that has ended.
        let sender = self.session(message.sender);
        let arrived = sender.and_then(|sender| sender.waiting_since);
        let arrived = arrived.unwrap_or(message.provenance.arrived);
        self.accept(message);
        if message.has_waiter() {
            self.first_message_is_due(message, Vec::new, None);
        }
        let tracking = (!message.is_plain()).then(|| self.tracking_of(message, endpoint));
        let header = frame::header(message.payload_bytes());
        let (before, after) = message.parts();
        let frame = Bytes::from([&header, before, message.inserted, after].concat());
        let provenance = Provenance { arrived, ..message.provenance };
        let sender = self.sender_of(message.sender).map(Box::new);
        let tracking = tracking.map(Box::new);
        let loose = LooseMessage {
            sender,
            tracking,
            ..LooseMessage::new(self.next_seq(), frame, provenance)
        };
        let (trace, unix_us) = (message.provenance.trace, self.now.unix_us);
        self.trace.note(trace, TraceState::Held, Some(endpoint), unix_us);
        let Holding { is_held, dropped } = self.hold(endpoint, loose, Place::Back);
        self.tap(message, if is_held { Outcome::Held } else { Outcome::NotFound });
        self.held_overflow(endpoint, dropped);
        self.hold_if_answers_pile_up(message.sender)
    }

    // ---- everyone -----------------------------------------------------------------------------------

    fn broadcast(&mut self, message: &Outgoing<'_>) -> Next {
        if message.ask.queue {
            return self.refuse_queue_for_many(message);
        }
        let tally = message.ask.receipt.map(|wanted| {
            let endpoints = self.registered.len();
            self.tally(message.sender, message.id, wanted, endpoints)
        });
        let message = &message.through(None, tally.as_ref());
        self.accept(message);
        self.tap(message, Outcome::Accepted);
        self.counters.broadcasts += 1;
        let (trace, unix_us) = (message.provenance.trace, self.now.unix_us);
        self.trace.note(trace, TraceState::Accepted, None, unix_us);
        let mut receivers = core::mem::take(&mut self.everyone);
        receivers.clear();
        receivers.extend(self.registered.values().copied());
        let payload = self.payload_for_all(message, &receivers);
        self.copies.clear();
        // One for each user: nobody pays for what another user does not read.
        let mut bodies: Vec<Rc<Body>> = Vec::new();
        let mut copies = Vec::new();
        for receiver in &receivers {
            let Some(session) = self.session(*receiver) else { continue };
            let endpoint = session.registration().map(|registration| registration.endpoint);
            if let Some(endpoint) = endpoint
                && (!message.is_plain() || !self.endpoints[endpoint.0].is_plain())
            {
                self.one_of_many(message, endpoint, GapSource::Broadcast);
                continue;
            }
            let user = session.user;
            let known = bodies.iter().position(|body| body.user == user);
            let charged_bytes = known.map_or(0, |known| bodies[known].bytes.len());
            let takes = session.stalled.is_none()
                && self.has_room_beside(session, message.needs_bytes(), charged_bytes);
            if !takes {
                self.drop_broadcast(*receiver, message.payload_bytes());
                continue;
            }
            if let Some(payload) = payload.as_ref().filter(|_| known.is_none()) {
                bodies.push(Body::new(payload.clone(), user, &mut self.queues));
            }
            let body = bodies.iter().find(|body| body.user == user);
            // What is lost on the way to one of many is counted; the sender is not told "not found".
            let provenance = Provenance { waiter: None, ..message.provenance };
            let mark = self.enqueue(message, *receiver, body, provenance);
            if message.has_waiter() {
                copies.push((*receiver, mark));
            }
        }
        for body in bodies {
            body.release(&mut self.queues);
        }
        copies.append(&mut self.copies);
        if message.has_waiter() {
            self.first_message_is_due(message, || copies, Some(receivers.len()));
        }
        self.everyone = receivers;
        self.hold_if_answers_pile_up(message.sender)
    }

    /// A large payload gets memory of its own, once for all receivers.
    fn payload_for_all(&self, message: &Outgoing<'_>, receivers: &[SessionKey]) -> Option<Bytes> {
        if receivers.is_empty() || message.envelope.payload().len() < SHARE_BYTES_MIN {
            return None;
        }
        Some(match message.payload {
            Payload::Shared(bytes) => bytes.clone(),
            Payload::Borrowed(bytes) => Bytes::copy_from_slice(bytes),
        })
    }

    pub(crate) fn drop_broadcast(&mut self, receiver: SessionKey, payload_bytes: usize) {
        self.counters.dropped_broadcast += 1;
        self.note_gap(receiver, GapSource::Broadcast, payload_bytes);
        let Some(session) = self.session_mut(receiver) else { return };
        let is_known_to_stall = session.stalled.is_some();
        session.count_drop();
        if !is_known_to_stall && let Some(name) = self.name_of(receiver) {
            self.log(Event::BroadcastDropped { name });
        }
    }

    // ---- queueing ------------------------------------------------------------------------------------

    /// Takes note that the router has the message.
    #[inline]
    pub(crate) fn accept(&mut self, message: &Outgoing<'_>) {
        self.take_note_of_frame(message.sender);
        let now = self.now.moment;
        let bytes = message.envelope.payload().len() as u64;
        self.counters.messages += 1;
        self.counters.message_bytes += bytes;
        if let Some(session) = self.session_mut(message.sender) {
            session.sent.add(1, bytes + HEADER_BYTES as u64, now);
        }
    }

    /// Queues a message for one receiver; returns the mark behind it.
    #[inline]
    pub(crate) fn enqueue(
        &mut self,
        message: &Outgoing<'_>,
        receiver: SessionKey,
        shared: Option<&Rc<Body>>,
        provenance: Provenance,
    ) -> u64 {
        let seq = self.next_seq();
        let Some((user, level)) = self.session(receiver).map(|s| (s.user, s.level)) else {
            return 0;
        };
        if level == Level::Two {
            return self.enqueue_level_2(message, receiver, provenance, seq);
        }
        let header = frame::header(message.payload_bytes());
        let kind = FrameKind::Message { provenance, seq, is_tracked: false };
        let own = match (shared, message.payload) {
            (None, Payload::Shared(bytes)) if bytes.len() >= SHARE_BYTES_MIN => {
                Some(Body::new(bytes.clone(), user, &mut self.queues))
            }
            _ => None,
        };
        let Some((session, account)) = self.session_and_account(receiver) else { return 0 };
        if let Some(body) = shared.or(own.as_ref()) {
            let split = message.envelope.closing_brace_at();
            session.outbox.push_shared(header, body, split, message.inserted, kind, account);
        } else {
            let (before, after) = message.parts();
            let parts = [&header, before, message.inserted, after];
            session.outbox.push_copy(&parts, kind, account);
        }
        let mark = session.outbox.mark();
        if let Some(body) = own {
            body.release(&mut self.queues);
        }
        self.mark_dirty(receiver);
        mark
    }

    /// The same for a level 2 session, which also learns who sent it, and through what.
    fn enqueue_level_2(
        &mut self,
        message: &Outgoing<'_>,
        receiver: SessionKey,
        provenance: Provenance,
        seq: u64,
    ) -> u64 {
        let sender = self.sender_of(message.sender);
        let added = added_fields(sender.as_ref(), message.via, None, None);
        let kind = FrameKind::Message { provenance, seq, is_tracked: false };
        let Some(user) = self.session(receiver).map(|session| session.user) else { return 0 };
        let envelope = message.envelope;
        let (before, _) = message.parts();
        let cut;
        let before = if envelope.has_keys_of_the_bus {
            cut = envelope.without_keys_of_the_bus();
            &cut
        } else {
            before
        };
        let own = match message.payload {
            Payload::Shared(bytes)
                if bytes.len() >= SHARE_BYTES_MIN && !envelope.has_keys_of_the_bus =>
            {
                Some(Body::new(bytes.clone(), user, &mut self.queues))
            }
            _ => None,
        };
        let Some((session, account)) = self.session_and_account(receiver) else { return 0 };
        if let Some(body) = &own {
            let inserted = [message.inserted, added.as_bytes()].concat();
            let header = frame::header(body.bytes.len() + inserted.len());
            let split = envelope.closing_brace_at();
            session.outbox.push_shared(header, body, split, &inserted, kind, account);
        } else {
            let bytes = before.len() + message.inserted.len() + added.len() + 1;
            let header = frame::header(bytes);
            let parts = [&header, before, message.inserted, added.as_bytes(), b"}"];
            session.outbox.push_copy(&parts, kind, account);
        }
        let mark = session.outbox.mark();
        if let Some(body) = own {
            body.release(&mut self.queues);
        }
        self.mark_dirty(receiver);
        mark
    }

    /// Who the sender of a message is, as the kernel and the router know it.
    pub(crate) fn sender_of(&self, key: SessionKey) -> Option<Sender> {
        let session = self.session(key)?;
        let Credentials { uid, pid } = session.credentials;
        let endpoint = session.registration().map(|registration| registration.name.clone());
        Some(Sender { uid, pid, endpoint })
    }

    /// Shows a message to those who look on.
    #[inline]
    pub(crate) fn tap(&mut self, message: &Outgoing<'_>, outcome: Outcome) {
        if self.watchers.has_taps() {
            self.show_to_watchers(&message.payload(), outcome);
        }
        let Some(tap) = &mut self.tap else { return };
        match message.payload {
            Payload::Shared(bytes) => {
                let insert_at = message.envelope.closing_brace_at();
                tap.push_shared(bytes.clone(), insert_at, message.inserted, outcome);
            }
            Payload::Borrowed(_) => {
                let (before, after) = message.parts();
                tap.push_copy(&[before, message.inserted, after], outcome);
            }
        }
    }

    // ---- refusals ------------------------------------------------------------------------------------

    /// Whether a registered session's message says that it is from somebody else.
    fn pretends(&self, message: &Outgoing<'_>) -> bool {
        let registration = self.session(message.sender).and_then(Session::registration);
        let (Some(registration), Some(from)) = (registration, message.envelope.from) else {
            return false;
        };
        !matches!(from.text(), Ok(from) if from == registration.name.as_str())
    }

    fn refuse_pretender(&mut self, message: &Outgoing<'_>) -> Next {
        let key = message.sender;
        self.take_note_of_frame(key);
        self.counters.refused_from += 1;
        let what = "field 'from' must be the sender's own name, or missing";
        self.log_of(key, |peer| Event::Misbehaved { peer, what: what.to_owned() });
        self.tell_error(key, ErrorCode::Forbidden, Detail::Text(what), Some(message.id));
        self.hold_if_answers_pile_up(key)
    }

    fn refuse_oversize(&mut self, message: &Outgoing<'_>) -> Next {
        let key = message.sender;
        self.take_note_of_frame(key);
        self.counters.refused_frame_too_large += 1;
        self.end_courtesy(key);
        let what = format!(
            "the message would be {} bytes with the fields that the bus adds, over the limit of \
             {PAYLOAD_BYTES_MAX} bytes",
            message.payload_bytes()
        );
        self.tell_error(key, ErrorCode::FrameTooLarge, Detail::Text(&what), Some(message.id));
        self.log_of(key, |peer| Event::TooLarge { peer, bytes: message.payload_bytes() });
        self.hold_if_answers_pile_up(key)
    }

    pub(crate) fn not_found(&mut self, message: &Outgoing<'_>) -> Next {
        let key = message.sender;
        self.take_note_of_frame(key);
        self.tap(message, Outcome::NotFound);
        let (trace, unix_us) = (message.provenance.trace, self.now.unix_us);
        let state = TraceState::Refused(ErrorCode::EndpointNotFound);
        self.trace.note(trace, state, None, unix_us);
        self.counters.refused_endpoint_not_found += 1;
        let wanted = beginning(message.envelope.to);
        self.log_of(key, |peer| Event::NotFound { peer, wanted });
        let Some(to) = message.envelope.to.filter(|_| message.is_answered()) else {
            return Next::Taken;
        };
        self.end_courtesy(key);
        let suggestions = self.suggestions(message, to);
        let further = Further { suggestions: &suggestions, ..Further::default() };
        let (code, detail) = (ErrorCode::EndpointNotFound, Detail::NotConnected(to));
        self.tell(key, |out| control::error_2(out, code, detail, Some(message.id), &further));
        self.hold_if_answers_pile_up(key)
    }

    /// Names that a level 2 sender may have meant.
    fn suggestions(&self, message: &Outgoing<'_>, to: Raw<'_>) -> Vec<EndpointName> {
        match to.text() {
            Ok(wanted) if message.level == Level::Two => {
                self.known.suggestions(&wanted, self.bus_time(self.now.moment))
            }
            _ => Vec::new(),
        }
    }
}

impl Session {
    pub(crate) fn count_drop(&mut self) {
        self.dropped += 1;
        if let Some(stalled) = &mut self.stalled {
            stalled.dropped += 1;
        }
    }
}

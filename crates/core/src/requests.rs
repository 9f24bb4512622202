//! What a level 2 session asks for once it has its name, and what it is told unasked: presence, gaps,
//! taps.

use alloc::boxed::Box;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use bytes::Bytes;
use hermes_bus_proto::control::{self, Detail, Further};
use hermes_bus_proto::limits::{HEADER_BYTES, SUBSCRIPTIONS_MAX};
use hermes_bus_proto::listing::Level;
use hermes_bus_proto::requests::{self, Ack, Nack, Subscriptions, TapMode, Watch};
use hermes_bus_proto::{Envelope, ErrorCode, Kind};

use crate::acks::Which;
use crate::effects::Event;
use crate::endpoint::EndpointKey;
use crate::gaps::GapSource;
use crate::presence::{self, Change};
use crate::router::{Next, Payload, Router};
use crate::session::SessionKey;
use crate::tap::Outcome;
use crate::{CloseReason, Effect};

/// How often names and ids are looked through for those that are over.
const FORGET_EVERY: core::time::Duration = core::time::Duration::from_secs(60);
/// Bytes queued for a session from which on it is shown nothing more of others' messages.
const TAP_BYTES_MAX: usize = 1024 * 1024;

impl Router {
    /// A frame that only level 2 knows. From a session of level 1 it is passed over, as an unknown one.
    #[cold]
    pub(crate) fn request(
        &mut self,
        key: SessionKey,
        envelope: &Envelope<'_>,
        payload: Payload<'_>,
    ) -> Next {
        let Some(session) = self.session(key) else { return Next::Finished };
        if session.level == Level::One {
            let is_of_level_2 = envelope.kind != Kind::Unknown
                && hermes_bus_proto::listing::level_asked(envelope.protocol) == Level::Two;
            self.take_note_of_frame(key);
            if is_of_level_2 {
                let what = "the request needs a registered session of level 2";
                return self.refuse_request(key, envelope, ErrorCode::NotRegistered, what);
            }
            self.counters.ignored_unknown_type += 1;
            self.log_of(key, |peer| Event::Ignored { peer, what: "its type is unknown" });
            return Next::Taken;
        }
        if envelope.kind != Kind::Ack && self.answers_wait_for_answers(key) {
            return Next::Hold;
        }
        let has_mailbox =
            || self.endpoint_of(key).is_some_and(|endpoint| self.endpoints[endpoint.0].mailbox);
        if matches!(envelope.kind, Kind::Subscribe | Kind::Unsubscribe)
            && self.remembers_too_much()
            && has_mailbox()
        {
            if let Some(why) = self.store_trouble().map(ToString::to_string) {
                self.take_note_of_frame(key);
                return self.refuse_request(key, envelope, ErrorCode::StoreUnavailable, &why);
            }
            self.wait_for_disk(key);
            return Next::Hold;
        }
        self.take_note_of_frame(key);
        match envelope.kind {
            Kind::Ack => self.ack(key, envelope),
            Kind::Nack => self.nack(key, envelope),
            Kind::Subscribe => self.subscribe(key, envelope, true),
            Kind::Unsubscribe => self.subscribe(key, envelope, false),
            Kind::Watch => self.watch(key, envelope),
            Kind::Trace => self.trace_request(key, envelope, payload),
            _ => {
                self.counters.ignored_unknown_type += 1;
                let what = "the bus does not know this type of frame";
                self.refuse_request(key, envelope, ErrorCode::UnknownType, what)
            }
        }
    }

    /// Tells a session why its request is refused. It may go on.
    pub(crate) fn refuse_request(
        &mut self,
        key: SessionKey,
        envelope: &Envelope<'_>,
        code: ErrorCode,
        what: &str,
    ) -> Next {
        self.counters.refused_requests += 1;
        let req = requests::req(envelope).ok().flatten();
        let further = Further { req, ..Further::default() };
        self.tell(key, |out| {
            control::error_2(out, code, Detail::Text(what), envelope.id, &further);
        });
        self.hold_if_answers_pile_up(key)
    }

    fn invalid(&mut self, key: SessionKey, envelope: &Envelope<'_>, what: &str) -> Next {
        self.refuse_request(key, envelope, ErrorCode::InvalidField, what)
    }

    // ---- acknowledgements ---------------------------------------------------------------------------

    fn ack(&mut self, key: SessionKey, envelope: &Envelope<'_>) -> Next {
        if !self.session(key).is_some_and(|session| session.acks()) {
            let what = "the session did not say that it acknowledges ('ack' of its register)";
            return self.refuse_request(key, envelope, ErrorCode::Forbidden, what);
        }
        match Ack::read(envelope) {
            Err(what) => return self.invalid(key, envelope, &what),
            Ok(Ack::Seqs(seqs)) => self.acked(key, Which::Seqs(&seqs)),
            Ok(Ack::UpTo(seq)) => self.acked(key, Which::UpTo(seq)),
            Ok(Ack::Ids(ids)) => self.acked(key, Which::Ids(&ids)),
        }
        Next::Taken
    }

    fn nack(&mut self, key: SessionKey, envelope: &Envelope<'_>) -> Next {
        match Nack::read(envelope) {
            Err(what) => self.invalid(key, envelope, &what),
            Ok(Nack { seq, reason, requeue }) => {
                if self.nacked(key, seq, reason.as_deref(), requeue) {
                    return Next::Taken;
                }
                let what = alloc::format!("field 'seq': the session does not hold message {seq}");
                self.invalid(key, envelope, &what)
            }
        }
    }

    // ---- groups and topics ----------------------------------------------------------------------------

    fn subscribe(&mut self, key: SessionKey, envelope: &Envelope<'_>, joins: bool) -> Next {
        let Some(endpoint) = self.endpoint_of(key) else { return Next::Taken };
        let (req, wanted) = match (requests::req(envelope), Subscriptions::read(envelope)) {
            (Ok(req), Ok(wanted)) => (req, wanted),
            (Err(error), _) => return self.invalid(key, envelope, &error.to_string()),
            (_, Err(what)) => return self.invalid(key, envelope, &what),
        };
        let Subscriptions { topics, groups } = wanted;
        if joins && let Err(what) = self.may_subscribe(Some(endpoint), &topics, &groups) {
            return self.refuse_request(key, envelope, ErrorCode::OverLimit, &what);
        }
        let mut has_changed = false;
        for topic in &topics {
            has_changed |= match joins {
                true => self.topics.subscribe(endpoint, topic),
                false => self.topics.unsubscribe(endpoint, topic),
            };
        }
        for group in &groups {
            has_changed |= match joins {
                true => self.groups.join(group, endpoint),
                false => self.groups.leave(group, endpoint),
            };
        }
        let topics: Vec<_> = self.topics.of(endpoint).map(Into::into).collect();
        let groups: Vec<_> = self.groups.of(endpoint).map(Into::into).collect();
        self.tell(key, |out| control::subscribed(out, &topics, &groups, req));
        if has_changed && self.endpoints[endpoint.0].mailbox {
            self.remember(endpoint);
        }
        self.hold_if_answers_pile_up(key)
    }

    /// Whether an endpoint may hold these too, beside what it holds already; else why not.
    pub(crate) fn may_subscribe(
        &self,
        endpoint: Option<EndpointKey>,
        topics: &[Box<str>],
        groups: &[Box<str>],
    ) -> Result<(), String> {
        let holds_topic = |topic: &str| endpoint.is_some_and(|key| self.topics.holds(key, topic));
        let is_member = |group: &str| endpoint.is_some_and(|key| self.groups.is_member(key, group));
        let new_topics = topics.iter().filter(|topic| !holds_topic(topic)).count();
        let new_groups = groups.iter().filter(|group| !is_member(group)).count();
        let (topics, groups) =
            endpoint.map_or((0, 0), |key| (self.topics.count_of(key), self.groups.count_of(key)));
        let has_room = |new: usize, held: usize| new == 0 || held + new <= SUBSCRIPTIONS_MAX;
        if !has_room(new_topics, topics) || !has_room(new_groups, groups) {
            return Err(alloc::format!("an endpoint holds {SUBSCRIPTIONS_MAX} of each at most"));
        }
        if new_topics > 0 && !self.topics.has_room() {
            return Err("the bus holds as many topics as it can".to_string());
        }
        Ok(())
    }

    // ---- watching -------------------------------------------------------------------------------------

    fn watch(&mut self, key: SessionKey, envelope: &Envelope<'_>) -> Next {
        let (req, watch) = match (requests::req(envelope), Watch::read(envelope)) {
            (Ok(req), Ok(watch)) => (req, watch),
            (Err(error), _) | (_, Err(error)) => {
                return self.invalid(key, envelope, &error.to_string());
            }
        };
        if watch.tap != TapMode::Off && !self.owns_bus(key) {
            self.counters.refused_admin += 1;
            let what = "others' messages are shown to the bus's own user only";
            return self.refuse_request(key, envelope, ErrorCode::Forbidden, what);
        }
        self.watchers.set(key, watch);
        self.tell(key, |out| control::watching(out, watch.presence, watch.tap.as_str(), req));
        self.hold_if_answers_pile_up(key)
    }

    /// Whether a session is the daemon's own user's, or root's.
    pub(crate) fn owns_bus(&self, key: SessionKey) -> bool {
        let uid = self.session(key).map(|session| session.credentials.uid);
        uid == Some(0) || uid == Some(self.config.owner_uid)
    }

    /// A session has taken a name: those who watch hear of it.
    pub(crate) fn has_come(&mut self, endpoint: EndpointKey, session_id: &str, change: Change) {
        if self.watchers.has_presence() {
            self.tell_presence(endpoint, change, session_id);
        }
        self.endpoints[endpoint.0].last_session = session_id.into();
    }

    /// Nobody has come back for a name.
    pub(crate) fn has_gone(&mut self, endpoint: EndpointKey) {
        if self.watchers.has_presence() {
            let record = &self.endpoints[endpoint.0];
            let reason = record.ended.unwrap_or(CloseReason::PeerClosed);
            let session_id = record.last_session.clone();
            self.tell_presence(endpoint, Change::Gone(reason), &session_id);
        }
    }

    fn tell_presence(&mut self, endpoint: EndpointKey, change: Change, session_id: &str) {
        let name = self.endpoints[endpoint.0].name.clone();
        let unix_us = self.now.unix_us;
        let mut frame = Vec::new();
        presence::append(&mut frame, &name, change, session_id, unix_us);
        let watching: Vec<SessionKey> = self.watchers.presence().collect();
        for key in watching {
            let Some(session) = self.session(key) else { continue };
            // Who leaves it unread would hold it for ever.
            if session.outbox.control_bytes() <= self.config.answer_bytes_max {
                self.tell(key, |out| out.extend_from_slice(&frame));
            } else {
                self.counters.presence_left_out += 1;
                self.note_gap(key, GapSource::Presence, frame.len() - HEADER_BYTES);
            }
        }
    }

    /// Shows a routed message to the sessions that look on.
    #[cold]
    pub(crate) fn show_to_watchers(&mut self, payload: &[u8], outcome: Outcome) {
        for mode in [TapMode::Envelopes, TapMode::Messages] {
            let watching: Vec<SessionKey> = self.watchers.taps(mode).collect();
            if watching.is_empty() {
                continue;
            }
            let mut frame = Vec::new();
            match mode {
                TapMode::Messages => control::tap(&mut frame, outcome.as_str(), payload),
                _ => match Envelope::scan(payload) {
                    Ok(envelope) => control::tap_envelope(&mut frame, outcome.as_str(), &envelope),
                    Err(_) => return,
                },
            }
            for key in watching {
                let takes = self.session(key).is_some_and(|session| {
                    session.outbox.is_empty()
                        || session.outbox.bytes() + frame.len() <= TAP_BYTES_MAX
                });
                if takes {
                    self.tell(key, |out| out.extend_from_slice(&frame));
                } else {
                    self.counters.dropped_tap += 1;
                    self.note_gap(key, GapSource::Tap, payload.len());
                }
            }
        }
    }

    // ---- gaps -----------------------------------------------------------------------------------------

    /// A session could not take what it was subscribed to: it hears so when it can.
    pub(crate) fn note_gap(&mut self, key: SessionKey, source: GapSource, bytes: usize) {
        if let Some(session) = self.session_mut(key).filter(|s| s.level == Level::Two) {
            session.gaps.get_or_insert_default().note(source, bytes);
        }
    }

    /// Tells a session of its gaps as soon as it reads on.
    pub(crate) fn tell_gaps(&mut self, key: SessionKey) {
        let half = self.config.queue_bytes_max / 2;
        let Some(session) = self.session_mut(key) else { return };
        if session.outbox.bytes() > half.min(TAP_BYTES_MAX / 2) {
            return;
        }
        let Some(mut gaps) = session.gaps.take() else { return };
        while let Some((source, gap)) = gaps.take_one() {
            self.tell(key, |out| control::gap(out, source.as_str(), gap.count, gap.bytes));
        }
    }

    // ---- trace ----------------------------------------------------------------------------------------

    fn trace_request(
        &mut self,
        key: SessionKey,
        envelope: &Envelope<'_>,
        payload: Payload<'_>,
    ) -> Next {
        let id = match (requests::req(envelope), requests::traced_id(envelope)) {
            (Ok(_), Ok(id)) => id,
            (Err(error), _) | (_, Err(error)) => {
                return self.invalid(key, envelope, &error.to_string());
            }
        };
        let _ = id;
        self.effects.push(Effect::Trace(key, Bytes::copy_from_slice(payload.bytes())));
        self.hold_if_answers_pile_up(key)
    }

    // ---- what is forgotten ----------------------------------------------------------------------------

    /// Names that are not known any more, and messages that are not known by their ids, are let go.
    pub(crate) fn forget_what_is_over(&mut self) {
        let now = self.now.moment;
        self.forget_at = now.after(FORGET_EVERY);
        self.repetitions.expire(now);
        let unix_us = self.bus_time(now);
        while let Some(name) = self.known.forget_one(unix_us) {
            self.forget_known(name);
        }
    }

    /// A name is not known any more. What waits for it is another matter.
    pub(crate) fn forget_known(&mut self, name: hermes_bus_proto::EndpointName) {
        let waits = self.names.get(name.as_str()).is_some_and(|endpoint| {
            let record = &self.endpoints[endpoint.0];
            record.mailbox || record.backlog.is_some() || record.holder().is_some()
        });
        if self.config.store && !waits {
            self.order(crate::storage::Order::Forget(name));
        }
    }

    // ---- time to live in queues -----------------------------------------------------------------------

    /// Takes expired messages out of a session's queue, as long as they have not begun to be written.
    pub(crate) fn withdraw_expired(&mut self, endpoint: EndpointKey) {
        let now = self.now.moment;
        let Some(key) = self.endpoints.get(endpoint.0).and_then(|record| record.holder()) else {
            return self.withdraw_held(endpoint);
        };
        self.withdraw_queued(key, endpoint, now);
        self.withdraw_unacknowledged(key, endpoint, now);
    }
}

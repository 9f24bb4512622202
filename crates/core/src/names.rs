//! Names and the sessions that hold them: registration, replacement, and the end of a session.
//!
//! A session's end has two steps. It loses its name at once ([`Router::release_name`]), and the name
//! lingers; then what is queued is written as long as the peer reads, and what the peer will not get
//! any more goes to the name's heir ([`Router::settle`]).

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::time::Duration;

use hermes_bus_proto::control;
use hermes_bus_proto::envelope::NotText;
use hermes_bus_proto::{EndpointName, Envelope, ErrorCode, NameError};

use crate::endpoint::{Endpoint, EndpointKey, EndpointState, Fight, Linger, Replacement};
use crate::outbox::{LooseMessage, Provenance};
use crate::router::{Next, Probed, Router};
use crate::session::{Courtesy, Phase, Registration, Role, Session, SessionKey, Stalled};
use crate::timers::Timer;
use crate::{CloseReason, Effect, Event};

impl Router {
    // ---- registration -------------------------------------------------------------------------

    pub(crate) fn register(
        &mut self,
        key: SessionKey,
        envelope: &Envelope<'_>,
        probed: Probed,
    ) -> Next {
        if !self.session(key).is_some_and(Session::is_anonymous) {
            self.take_note_of_frame(key);
            self.counters.ignored_register += 1;
            self.log_of(key, |peer| Event::Ignored { peer, what: "a second 'register'" });
            return Next::Taken;
        }
        let name = match read_name(envelope) {
            Ok(name) => name,
            Err((code, what)) => {
                self.counters.refused_fields += 1;
                self.refuse(key, code, &what, None);
                return Next::Finished;
            }
        };
        if !self.may_register(key, &name, envelope) {
            self.counters.refused_unauthorized += 1;
            let what = format!("the name {:?} is protected", name.as_str());
            self.refuse(key, ErrorCode::Unauthorized, &what, None);
            return Next::Finished;
        }
        let known = self.names.get(name.as_str()).copied();
        let holder = known.and_then(|endpoint| self.endpoints[endpoint.0].holder());
        if let Some(holder) = holder
            && probed == Probed::No
        {
            return Next::Probe(holder);
        }
        self.take_note_of_frame(key);
        let endpoint = known.unwrap_or_else(|| self.new_endpoint(&name, key));
        let inherited = self.take_inheritance(endpoint, key);
        self.endpoints[endpoint.0].state = EndpointState::Held(key);
        let pause = holder.and_then(|old| self.replace(endpoint, old));
        self.take_name(key, endpoint, name);
        for message in inherited {
            self.counters.held_delivered += 1;
            self.redeliver(key, message);
        }
        if let Some(pause) = pause {
            self.cork(key, pause);
        }
        Next::Taken
    }

    /// Whether the configuration lets this session have the name.
    fn may_register(&self, key: SessionKey, name: &EndpointName, envelope: &Envelope<'_>) -> bool {
        let mut protections =
            self.config.protected.iter().filter(|protected| protected.name == name.as_str());
        let Some(first) = protections.next() else { return true };
        let uid = self.session(key).map(|session| session.credentials.uid);
        let shown = envelope.member("token");
        let shown = shown.as_ref().and_then(|token| token.text().ok());
        core::iter::once(first).chain(protections).any(|protection| {
            let is_users = protection.uid.is_some() && protection.uid == uid;
            is_users || shown.as_ref().is_some_and(|shown| protection.is_opened_by(shown))
        })
    }

    fn new_endpoint(&mut self, name: &EndpointName, holder: SessionKey) -> EndpointKey {
        let endpoint = EndpointKey(self.endpoints.insert(Endpoint {
            name: name.clone(),
            state: EndpointState::Held(holder),
            draining: None,
            fight: Fight::default(),
        }));
        self.names.insert(name.clone(), endpoint);
        endpoint
    }

    /// What waits for the name's next session, oldest first: what its last session did not read, and
    /// what was held since. Only the same user gets it.
    fn take_inheritance(&mut self, endpoint: EndpointKey, heir: SessionKey) -> Vec<LooseMessage> {
        let Some(uid) = self.session(heir).map(|session| session.credentials.uid) else {
            return Vec::new();
        };
        let (mut inherited, mut lost) = (Vec::new(), Vec::new());
        let last = self.endpoints[endpoint.0].draining.take();
        let holder = self.endpoints[endpoint.0].holder().filter(|holder| *holder != heir);
        for previous in last.into_iter().chain(holder) {
            let left = self.take_unbegun(previous);
            let Some(session) = self.session_mut(previous) else { continue };
            session.heir = None;
            let is_same_user = session.credentials.uid == uid;
            if is_same_user { inherited.extend(left) } else { lost.extend(left) }
        }
        if let Some(linger) = self.take_linger(endpoint) {
            let is_same_user = linger.uid == uid;
            let held = linger.messages;
            if is_same_user { inherited.extend(held) } else { lost.extend(held) }
        }
        self.fail_all(endpoint, lost);
        // Nothing may be left for its old session to wait for.
        if let Some(last) = last {
            self.end_if_drained(last);
        }
        inherited
    }

    /// Ends the session that held a name which another one has taken. Says how long the newcomer is
    /// to wait, if sessions keep doing this to each other.
    fn replace(&mut self, endpoint: EndpointKey, old: SessionKey) -> Option<Duration> {
        self.counters.replaced += 1;
        let now = self.now.moment;
        let record = &mut self.endpoints[endpoint.0];
        let fight = record.fight.replacement(&self.config, now);
        if let Some(Replacement { pause, has_just_begun: true }) = fight {
            let name = record.name.clone();
            self.log(Event::Fight { name, pause_ms: pause.as_millis() as u64 });
        }
        if let Some(registration) = self.session(old).and_then(Session::registration) {
            let serial = registration.serial;
            self.registered.remove(&serial);
        }
        self.end_session(old, CloseReason::Replaced);
        fight.map(|fight| fight.pause)
    }

    fn take_name(&mut self, key: SessionKey, endpoint: EndpointKey, name: EndpointName) {
        self.counters.registrations += 1;
        self.registrations += 1;
        let (now, serial) = (self.now, self.registrations);
        let session_id = self.new_id().to_string();
        let is_impatient = self.impatience.session_began(&name, now.moment);
        let impatient = is_impatient && self.config.impatient_pongs;
        self.registered.insert(serial, key);
        self.tell(key, |out| control::registered(out, &name, &session_id));
        self.log(Event::Registered { name: name.clone(), session_id: session_id.clone() });
        self.timers.set(now.moment.after(self.config.heartbeat), Timer::Heartbeat(key));
        if impatient {
            self.timers.set(now.moment, Timer::Pong(key));
        }
        if let Some(session) = self.session_mut(key) {
            session.undecided = 0;
            session.courtesy = Courtesy::Over;
            session.role = Role::Registered(Registration {
                endpoint,
                serial,
                session_id: session_id.into(),
                name_json: name.to_json().into(),
                name,
                since_unix_us: now.unix_us,
                impatient,
            });
        }
    }

    /// Nothing leaves for this session during the pause.
    fn cork(&mut self, key: SessionKey, pause: Duration) {
        let until = self.now.moment.after(pause);
        if let Some(session) = self.session_mut(key) {
            session.corked_until = Some(until);
            self.timers.set(until, Timer::Uncork(key));
        }
    }

    // ---- the end of a session ---------------------------------------------------------------------

    /// Nothing more is read from this session: its name goes, what is queued is still written.
    pub(crate) fn finish(&mut self, key: SessionKey, reason: CloseReason) {
        self.release_name(key);
        self.forget_intake(key);
        self.begin_drain(key, reason);
    }

    pub(crate) fn begin_drain(&mut self, key: SessionKey, reason: CloseReason) {
        let until = self.now.moment.after(self.config.drain);
        let Some(session) = self.session_mut(key).filter(|session| session.is_open()) else {
            return;
        };
        session.phase = Phase::Draining { reason, until };
        self.timers.set(until, Timer::Drain(key));
        self.end_if_drained(key);
    }

    pub(crate) fn end_if_drained(&mut self, key: SessionKey) {
        if let Some(session) = self.session(key)
            && let Phase::Draining { reason, .. } = session.phase
            && session.is_drained()
        {
            self.end_session(key, reason);
        }
    }

    /// Ends a session for good: its name, its queue, its budgets, and those who wait for it.
    pub(crate) fn end_session(&mut self, key: SessionKey, reason: CloseReason) {
        self.release_name(key);
        self.settle(key);
        // Without an heir nobody will come for the rest.
        let lost = self.take_unbegun(key).len() as u64;
        self.counters.dropped_receiver_gone += lost;
        self.release_waiting_senders(key);
        self.forget_intake(key);
        let Some(session) = self.session(key) else { return };
        if let Some(awaited) = session.holds.receiver
            && let Some(receiver) = self.session_mut(awaited)
        {
            receiver.waiting_senders.retain(|waiting| waiting.key != key);
            // Those who stood behind it may fit now.
            self.queue_has_drained(awaited);
        }
        let mut session = self.sessions.remove(key.index());
        self.answers.refund(session.outbox.control_bytes());
        let cut_off =
            core::mem::take(&mut session.outbox).discard(self.account(session.user)) as u64;
        self.counters.dropped_cut_off += cut_off;
        if let Some(registration) = session.registration() {
            let name = registration.name.clone();
            if let Some(Stalled { dropped, .. }) = session.stalled {
                self.log(Event::StalledToTheEnd { name: name.clone(), dropped });
            }
            if cut_off + lost > 0 {
                self.log(Event::CutOff { name: name.clone(), messages: cut_off + lost });
            }
            self.log(Event::Ended { name, reason });
        }
        self.timers.forget_session(key);
        self.effects.push(Effect::Close(key, reason));
    }

    /// Takes its name from a session. The name lingers.
    pub(crate) fn release_name(&mut self, key: SessionKey) {
        let now = self.now.moment;
        let Some(session) = self.session(key) else { return };
        let Some(registration) = session.registration() else { return };
        let (endpoint, serial) = (registration.endpoint, registration.serial);
        if self.endpoints.get(endpoint.0).and_then(Endpoint::holder) != Some(key) {
            return;
        }
        let uid = session.credentials.uid;
        let silence = match session.corked_until {
            Some(_) => Duration::ZERO,
            None => now.since(session.last_told),
        };
        let until = now.after(self.config.linger);
        self.registered.remove(&serial);
        let record = &mut self.endpoints[endpoint.0];
        let linger = Linger { until, uid, ..Linger::default() };
        record.state = EndpointState::Lingering(linger);
        record.draining = Some(key);
        self.impatience.session_ended(&record.name, silence, now);
        self.timers.set(until, Timer::LingerEnd(endpoint));
        if let Some(session) = self.session_mut(key) {
            session.heir = Some(endpoint);
        }
        self.release_waiting_senders(key);
    }

    /// Moves what a session will not read any more to its name, in front of what came since.
    fn settle(&mut self, key: SessionKey) {
        let Some(endpoint) = self.session_mut(key).and_then(|session| session.heir.take()) else {
            return;
        };
        self.endpoints[endpoint.0].draining = None;
        let left = self.take_unbegun(key);
        self.hold_left(endpoint, left);
    }

    /// What a session has not begun to read. A sender that waits for this turn's end still waits;
    /// everybody else has been answered.
    fn take_unbegun(&mut self, key: SessionKey) -> Vec<LooseMessage> {
        let now = self.now.moment;
        let Some(session) = self.session_mut(key) else { return Vec::new() };
        let (user, mut outbox) = (session.user, core::mem::take(&mut session.outbox));
        let mut left = outbox.take_unbegun(self.account(user));
        if let Some(session) = self.session_mut(key) {
            session.outbox = outbox;
        }
        for message in &mut left {
            let Provenance { waiter, arrived } = message.provenance;
            let waits = |sender: &SessionKey| {
                arrived == now
                    || self.session(*sender).is_some_and(|sender| sender.courtesy.is_due_for(key))
            };
            message.provenance.waiter = waiter.filter(waits);
        }
        left
    }
}

/// The `endpoint` of a `register`.
fn read_name(envelope: &Envelope<'_>) -> Result<EndpointName, (ErrorCode, String)> {
    let text = match envelope.endpoint.map(|endpoint| endpoint.text()) {
        Some(Ok(text)) => text,
        Some(Err(NotText::LoneSurrogate)) => {
            let what = "field 'endpoint' holds half of a surrogate pair: no name";
            return Err((ErrorCode::NameInvalid, what.to_owned()));
        }
        Some(Err(NotText::OtherType)) | None => {
            let what = "field 'endpoint' must be a string: the name to register";
            return Err((ErrorCode::InvalidField, what.to_owned()));
        }
    };
    EndpointName::level_1(&text).map_err(|error| {
        let code = match error {
            NameError::TooLong(_) | NameError::Length2(_) | NameError::Character => {
                ErrorCode::NameInvalid
            }
            NameError::Reserved => ErrorCode::Forbidden,
        };
        (code, error.to_string())
    })
}

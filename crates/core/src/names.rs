//! Names and the sessions that hold them: registration, replacement, and the end of a session.
//!
//! A session's end has two steps. It loses its name at once ([`Router::release_name`]), and the name
//! lingers; then what is queued is written as long as the peer reads, and what the peer will not get
//! any more goes to the name's heir ([`Router::settle`]).

use alloc::borrow::ToOwned;
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::time::Duration;

use hermes_bus_proto::control::{self, Welcome};
use hermes_bus_proto::envelope::NotText;
use hermes_bus_proto::listing::{self, Level};
use hermes_bus_proto::register::{Conflict, Options};
use hermes_bus_proto::{EndpointName, Envelope, ErrorCode, NameError, Raw};

use crate::acks::{Acking, Handing, take_watched};
use crate::endpoint::{Endpoint, EndpointKey, EndpointState, Linger, Replacement};
use crate::fate::Failure;
use crate::outbox::{LooseMessage, Provenance, Tracking};
use crate::parcel::Parcel;
use crate::presence::Change;
use crate::router::{Next, Probed, Router};
use crate::session::{Courtesy, Phase, Registration, Role, Session, SessionKey, Stalled};
use crate::storage::{Ending, Keep, Order};
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
        let Some(session) = self.session(key) else { return Next::Finished };
        if !session.is_anonymous() {
            return self.register_again(key, envelope);
        }
        let level = listing::level_asked(envelope.protocol);
        let wish = match self.read_wish(key, envelope, level) {
            Ok(wish) => wish,
            Err((code, what)) => {
                match code {
                    ErrorCode::Unauthorized => self.counters.refused_unauthorized += 1,
                    _ => self.counters.refused_fields += 1,
                }
                self.refuse(key, code, &what, None);
                return Next::Finished;
            }
        };
        let known = self.names.get(wish.name.as_str()).copied();
        let holder = known.and_then(|endpoint| self.endpoints[endpoint.0].holder());
        if let Some(holder) = holder
            && probed == Probed::No
        {
            return Next::Probe(holder);
        }
        self.take_note_of_frame(key);
        let wish = match (wish.options.conflict, holder) {
            (Conflict::Refuse, Some(_)) => return self.name_is_taken(key, &wish, envelope),
            (Conflict::Suffix, Some(_)) => match self.free_name(key, &wish, envelope) {
                Some(name) => Wish { name, ..wish },
                None => return self.name_is_taken(key, &wish, envelope),
            },
            _ => wish,
        };
        let known = self.names.get(wish.name.as_str()).copied();
        let Options { topics, groups, .. } = &wish.options;
        if let Err(what) = self.may_subscribe(known, topics, groups) {
            return self.refuse_request(key, envelope, ErrorCode::OverLimit, &what);
        }
        self.give_name(key, wish, envelope);
        Next::Taken
    }

    /// A session has a name already.
    fn register_again(&mut self, key: SessionKey, envelope: &Envelope<'_>) -> Next {
        self.take_note_of_frame(key);
        self.counters.ignored_register += 1;
        self.log_of(key, |peer| Event::Ignored { peer, what: "a second 'register'" });
        if self.session(key).is_some_and(|session| session.level == Level::Two) {
            let what = "the session has a name already";
            return self.refuse_request(key, envelope, ErrorCode::Forbidden, what);
        }
        Next::Taken
    }

    fn read_wish(
        &self,
        key: SessionKey,
        envelope: &Envelope<'_>,
        level: Level,
    ) -> Result<Wish, (ErrorCode, String)> {
        let name = read_name(envelope, level)?;
        if !self.may_register(key, &name, envelope) {
            let what = format!("the name {:?} is protected", name.as_str());
            return Err((ErrorCode::Unauthorized, what));
        }
        if !self.may_open(key, &name) {
            let what = format!("messages wait for {:?} that are another user's", name.as_str());
            return Err((ErrorCode::Unauthorized, what));
        }
        let options = match level {
            Level::One => Options::default(),
            Level::Two => {
                Options::read(envelope).map_err(|what| (ErrorCode::InvalidField, what))?
            }
        };
        Ok(Wish { name, level, options })
    }

    fn name_is_taken(&mut self, key: SessionKey, wish: &Wish, envelope: &Envelope<'_>) -> Next {
        self.counters.refused_name_taken += 1;
        let what = format!("the name {:?} is in use", wish.name.as_str());
        self.refuse_request(key, envelope, ErrorCode::NameTaken, &what)
    }

    /// The first of `name-2`, `name-3`, … that nobody has, and for which nothing waits.
    fn free_name(
        &self,
        key: SessionKey,
        wish: &Wish,
        envelope: &Envelope<'_>,
    ) -> Option<EndpointName> {
        let names = (2..=SUFFIX_MAX).map(|n| format!("{}-{n}", wish.name.as_str()));
        names.filter_map(|name| EndpointName::level_2(&name).ok()).find(|name| {
            let is_free = !self.names.contains_key(name.as_str());
            is_free && self.may_register(key, name, envelope)
        })
    }

    /// Gives a session the name that it wishes, whoever had it before.
    fn give_name(&mut self, key: SessionKey, wish: Wish, envelope: &Envelope<'_>) {
        let Some(uid) = self.session(key).map(|session| session.credentials.uid) else { return };
        let known = self.names.get(wish.name.as_str()).copied();
        let holder = known.and_then(|endpoint| self.endpoints[endpoint.0].holder());
        let endpoint = known
            .unwrap_or_else(|| self.insert_endpoint(&wish.name, uid, EndpointState::Held(key)));
        let change = match (&self.endpoints[endpoint.0].state, holder) {
            (_, Some(_)) => Change::TakenOver,
            (EndpointState::Lingering(_), _) => Change::Returned,
            _ => Change::Registered,
        };
        let inherited = self.take_inheritance(endpoint, key);
        self.endpoints[endpoint.0].state = EndpointState::Held(key);
        let pause = holder.and_then(|old| self.replace(endpoint, old));
        self.prepare_endpoint(key, endpoint, &wish);
        self.take_name(key, endpoint, wish, change, envelope.member("req"));
        self.deliver_inherited(key, endpoint, inherited);
        if let Some(pause) = pause {
            self.cork(key, pause);
        }
        self.pump(endpoint);
        self.remember_if_new(endpoint);
    }

    /// What the endpoint is from now on.
    fn prepare_endpoint(&mut self, key: SessionKey, endpoint: EndpointKey, wish: &Wish) {
        let is_configured = self.has_configured_mailbox(wish.name.as_str());
        let Some(session) = self.session_mut(key) else { return };
        session.level = wish.level;
        session.meta = wish.options.meta.clone();
        let (uid, in_flight) = (session.credentials.uid, wish.options.in_flight as usize);
        session.acking = wish.options.ack.then(|| Box::new(Acking::new(in_flight)));
        let record = &mut self.endpoints[endpoint.0];
        record.uid = uid;
        record.is_unclaimed = false;
        record.acks = wish.options.ack;
        // A session of level 1 cannot say anything about it.
        if wish.level == Level::Two {
            record.mailbox = wish.options.mailbox;
        }
        record.mailbox |= is_configured;
        let waiting_bytes = record.backlog.as_ref().map_or(0, |backlog| backlog.waiting_bytes);
        if let Some(session) = self.session_mut(key) {
            session.backlog_bytes = waiting_bytes;
        }
        for group in &wish.options.groups {
            self.groups.join(group, endpoint);
        }
        for topic in &wish.options.topics {
            self.topics.subscribe(endpoint, topic);
        }
    }

    /// What waited for the name while nobody had it, and what its last session did not read.
    fn deliver_inherited(
        &mut self,
        key: SessionKey,
        endpoint: EndpointKey,
        inherited: Vec<LooseMessage>,
    ) {
        self.counters.held_delivered += inherited.len() as u64;
        let level = self.session(key).map_or(Level::One, |session| session.level);
        // One that takes the long way would be overtaken by the others.
        let is_plain = self.endpoints[endpoint.0].is_plain()
            && level == Level::One
            && inherited.iter().all(|message| message.level == Level::One);
        for message in inherited {
            if is_plain {
                self.redeliver(key, message);
            } else {
                self.first_message_is_with(message.provenance.waiter, None, false);
                let unix_us = self.bus_time(message.provenance.arrived);
                let parcel = Parcel::from_loose(message, unix_us);
                self.wait_in_memory(endpoint, parcel);
            }
        }
    }

    /// Whether what waits for a name is this session's user's. Root may open everything.
    fn may_open(&self, key: SessionKey, name: &EndpointName) -> bool {
        let Some(endpoint) = self.names.get(name.as_str()) else { return true };
        let record = &self.endpoints[endpoint.0];
        let waits = record.backlog.as_ref().is_some_and(|backlog| backlog.kept.messages > 0);
        let uid = self.session(key).map(|session| session.credentials.uid);
        let is_somebody_s = (waits || record.mailbox) && !record.is_unclaimed;
        !is_somebody_s || uid == Some(record.uid) || uid == Some(0)
    }

    /// Remembers a name over restarts, if that is not done already.
    fn remember_if_new(&mut self, endpoint: EndpointKey) {
        let unix_us = self.bus_time(self.now.moment);
        let record = &self.endpoints[endpoint.0];
        let known = self.known.of(record.name.as_str(), unix_us);
        let is_known = known.is_some_and(|known| {
            known.uid == record.uid && unix_us < known.seen_unix_us + REMEMBERED_ANEW_US
        });
        let holds = self.groups.count_of(endpoint) + self.topics.count_of(endpoint) > 0;
        let has_changed = record.mailbox != record.remembered_mailbox;
        if !is_known || record.mailbox || has_changed || holds {
            self.remember(endpoint);
        }
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

    pub(crate) fn insert_endpoint(
        &mut self,
        name: &EndpointName,
        uid: u32,
        state: EndpointState,
    ) -> EndpointKey {
        let endpoint = Endpoint::new(name.clone(), uid, state);
        let endpoint = EndpointKey(self.endpoints.insert(endpoint));
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
        if self.endpoints[endpoint.0].uid != uid {
            self.leave_to_another_user(endpoint);
        }
        // Nothing may be left for its old session to wait for.
        if let Some(last) = last {
            self.end_if_drained(last);
        }
        inherited
    }

    /// A name goes to another user, who gets nothing of what was the last one's. What is kept on disk has
    /// been looked at before: only root gets that.
    fn leave_to_another_user(&mut self, endpoint: EndpointKey) {
        self.topics.remove(endpoint);
        self.groups.remove(endpoint);
        let what = "another user has taken the endpoint's name";
        let failure = Failure::new(ErrorCode::ReceiverGone, what);
        for parcel in self.take_unkept(endpoint) {
            self.counters.dropped_receiver_gone += 1;
            self.give_up(endpoint, parcel, &failure, Ending::Dropped);
        }
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
        self.end_with_a_word(old, CloseReason::Replaced);
        fight.map(|fight| fight.pause)
    }

    fn take_name(
        &mut self,
        key: SessionKey,
        endpoint: EndpointKey,
        wish: Wish,
        change: Change,
        req: Option<Raw<'_>>,
    ) {
        let Wish { name, level, .. } = wish;
        self.counters.registrations += 1;
        self.registrations += 1;
        let (now, serial) = (self.now, self.registrations);
        let session_id = self.new_id().to_string();
        let is_impatient = self.impatience.session_began(&name, now.moment);
        let impatient = is_impatient && self.config.impatient_pongs;
        self.registered.insert(serial, key);
        match level {
            Level::One => self.tell(key, |out| control::registered(out, &name, &session_id)),
            Level::Two => self.welcome(key, endpoint, &name, &session_id, req),
        }
        self.log(Event::Registered { name: name.clone(), session_id: session_id.clone() });
        self.timers.set(now.moment.after(self.config.heartbeat), Timer::Heartbeat(key));
        if impatient {
            self.timers.set(now.moment, Timer::Pong(key));
        }
        self.has_come(endpoint, &session_id, change);
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

    fn welcome(
        &mut self,
        key: SessionKey,
        endpoint: EndpointKey,
        name: &EndpointName,
        session_id: &str,
        req: Option<Raw<'_>>,
    ) {
        let backlog = self.endpoints[endpoint.0].backlog.as_ref();
        let mailbox_depth = backlog.map_or(0, |backlog| backlog.kept.messages);
        let server = core::mem::take(&mut self.config.server);
        let heartbeat_s = self.config.heartbeat.as_secs_f64();
        let welcome =
            Welcome { name, session_id, server: &server, heartbeat_s, mailbox_depth, req };
        self.tell(key, |out| control::welcome(out, &welcome));
        self.config.server = server;
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
        self.note_why_ended(key, reason);
        self.forget_intake(key);
        self.begin_drain(key, reason);
    }

    /// Those who watch hear why a name was left, once nobody has come back for it.
    fn note_why_ended(&mut self, key: SessionKey, reason: CloseReason) {
        let is_its_last =
            |record: &Endpoint| record.draining == Some(key) || record.holder().is_none();
        if let Some(endpoint) = self.endpoint_of(key)
            && let Some(record) =
                self.endpoints.get_mut(endpoint.0).filter(|record| is_its_last(record))
        {
            record.ended = Some(reason);
        }
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

    /// Ends a session whose peer learns why, if it speaks level 2.
    pub(crate) fn end_with_a_word(&mut self, key: SessionKey, reason: CloseReason) {
        let Some(session) = self.session(key) else { return };
        if session.level == Level::One || session.is_deaf || !session.is_open() {
            return self.end_session(key, reason);
        }
        self.release_name(key);
        let left = self.take_unbegun(key);
        self.fail_left(key, left);
        self.tell(key, |out| control::bye(out, reason.as_str()));
        self.finish(key, reason);
    }

    /// What a session did not read, and nobody else will get.
    fn fail_left(&mut self, key: SessionKey, left: Vec<LooseMessage>) -> u64 {
        let lost = left.len() as u64;
        self.counters.dropped_receiver_gone += lost;
        if let Some(endpoint) = self.endpoint_of(key) {
            for message in left.iter().filter(|message| message.tracking.is_some()) {
                self.tell_lost(endpoint, message);
            }
        }
        lost
    }

    /// Ends a session for good: its name, its queue, its budgets, and those who wait for it.
    pub(crate) fn end_session(&mut self, key: SessionKey, reason: CloseReason) {
        self.release_name(key);
        self.note_why_ended(key, reason);
        self.settle(key);
        // Without an heir nobody will come for the rest.
        let left = self.take_unbegun(key);
        let lost = self.fail_left(key, left);
        self.fail_begun(key);
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
        self.forget_receipts(session.user, core::mem::take(&mut session.receipts));
        self.watchers.remove(key);
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
        let Some(session) = self.session_mut(key) else { return };
        session.heir = Some(endpoint);
        session.backlog_bytes = 0;
        if session.acks() {
            // It can acknowledge nothing any more: what it holds, and what is still queued for it, is
            // for the next session.
            self.settle(key);
        }
        self.endpoints[endpoint.0].acks = false;
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

    /// What a session has not begun to read, but for what it would have to acknowledge, or what is kept
    /// on disk. A sender that waits for this turn's end still waits; everybody else has been answered.
    fn take_unbegun(&mut self, key: SessionKey) -> Vec<LooseMessage> {
        let now = self.now.moment;
        self.take_back(key);
        let endpoint = self.endpoint_of(key);
        let Some(session) = self.session_mut(key) else { return Vec::new() };
        let (user, level) = (session.user, session.level);
        let mut outbox = core::mem::take(&mut session.outbox);
        let mut watched = core::mem::take(&mut session.handing);
        let mut left = outbox.take_unbegun(self.account(user));
        if let Some(session) = self.session_mut(key) {
            session.outbox = outbox;
        }
        let mut found = take_watched(&mut watched, &left);
        let mut watch = |message: &mut LooseMessage| {
            message.level = level;
            if let Some(tracking) = found.remove(&message.seq) {
                message.tracking = Some(Box::new(tracking));
            }
            // Those that are tracked and not watched have been taken back.
            message.tracking.is_some() || !core::mem::take(&mut message.is_tracked)
        };
        left.retain_mut(&mut watch);
        for message in &mut left {
            let Provenance { waiter, arrived, .. } = message.provenance;
            let waits = |sender: &SessionKey| {
                arrived == now
                    || self.session(*sender).is_some_and(|sender| sender.courtesy.is_due_for(key))
            };
            message.provenance.waiter = waiter.filter(waits);
        }
        if let Some(endpoint) = endpoint {
            let begun = self.leave_kept_on_disk(endpoint, &mut left, watched);
            // The rest of it may still reach the peer.
            if let Some(session) = self.session_mut(key) {
                let mark = session.outbox.mark_of_first();
                session.handing.extend(begun.map(|begun| Handing { mark, ..begun }));
            }
        }
        left
    }

    /// What had begun to be written when a session ended for good: nobody gets it whole.
    fn fail_begun(&mut self, key: SessionKey) {
        let Some(endpoint) = self.endpoint_of(key) else { return };
        let Some(session) = self.session_mut(key) else { return };
        for Handing { tracking, .. } in core::mem::take(&mut session.handing) {
            let what = "the endpoint's connection ended while the message was handed over";
            let failure = Failure::new(ErrorCode::ReceiverGone, what);
            self.failed(&tracking.fate, &failure, Some(endpoint));
        }
    }

    /// What is kept on disk stays there for the next session, also a message that has begun to be
    /// written: its receiver may never get all of it. Returns one that has begun and was not to survive.
    fn leave_kept_on_disk(
        &mut self,
        endpoint: EndpointKey,
        left: &mut Vec<LooseMessage>,
        watched: VecDeque<Handing>,
    ) -> Option<Handing> {
        let mut begun = None;
        let mut kept = Vec::new();
        left.retain_mut(|message| {
            let is_kept = |tracking: &mut Box<Tracking>| tracking.kept.is_some();
            let tracking = message.tracking.take_if(is_kept);
            kept.extend(tracking.map(|tracking| (message.seq, *tracking)));
            kept.last().is_none_or(|(seq, _)| *seq != message.seq)
        });
        for Handing { mark, seq, mut tracking } in watched {
            if let Some(spilled) = tracking.kept.take_if(|kept| kept.why == Keep::Spill) {
                // It was never to survive: whoever has begun to get it is the only one.
                let bytes = tracking.payload_bytes;
                self.let_go(endpoint, seq, spilled, bytes, Ending::Dropped);
            }
            if tracking.kept.is_some() {
                // The rest may still reach the peer.
                let (name, deliveries) =
                    (self.endpoints[endpoint.0].name.clone(), tracking.deliveries);
                self.order(Order::Delivered { endpoint: name, seq, deliveries });
                kept.push((seq, tracking));
            } else {
                begun = Some(Handing { mark, seq, tracking });
            }
        }
        for (seq, Tracking { fate, deadline, kept, .. }) in kept {
            if let Some(deadline) = deadline {
                self.sweep_at(deadline);
            }
            let backlog = self.backlog_or_new(endpoint);
            backlog.leave_on_disk(seq);
            if let Some(kept) = kept {
                backlog.promise(seq, fate, kept.why);
            }
        }
        begun
    }
}

/// What a session asks for when it registers.
struct Wish {
    name: EndpointName,
    level: Level,
    options: Options,
}

/// Names that are tried when one is taken: `name-2` up to this.
const SUFFIX_MAX: u32 = 10_000;
/// A name that is there all the time is remembered anew after so long, in microseconds: an hour.
const REMEMBERED_ANEW_US: u64 = 3_600_000_000;

/// The `endpoint` of a `register`.
fn read_name(envelope: &Envelope<'_>, level: Level) -> Result<EndpointName, (ErrorCode, String)> {
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
    let name = match level {
        Level::One => EndpointName::level_1(&text),
        Level::Two => EndpointName::level_2(&text),
    };
    name.map_err(|error| {
        let code = match error {
            NameError::TooLong(_) | NameError::Length2(_) | NameError::Character => {
                ErrorCode::NameInvalid
            }
            NameError::Reserved => ErrorCode::Forbidden,
        };
        (code, error.to_string())
    })
}

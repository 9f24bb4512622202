//! How sessions, names and routers end, and what becomes of what was on its way.

use std::collections::VecDeque;
use std::time::Duration;

use hermes_bus_core::{CloseReason, Config, Effect, Event, Lingering, SessionKey};
use hermes_bus_proto::ErrorCode;
use hermes_bus_proto::limits::HEADER_BYTES;

use crate::call::{Call, View, Violation};

use super::message::Copied;
use super::session::{First, Owed, OwedId, Phase, Session};
use super::standing::held_bytes;
use super::{Checked, Delays, Expected, Model, NameState, Told, ensure};

impl Model {
    // ---- what the driver tells ----------------------------------------------------------------------

    pub(super) fn end(
        &mut self,
        call: &Call<'_>,
        view: &View<'_>,
        expected: &mut Expected,
    ) -> Checked {
        let mut must_end = None;
        match call {
            Call::Eof { key } if self.open(*key).is_some() => {
                self.finish_session(*key, CloseReason::PeerClosed);
            }
            Call::Leaving { key } => self.release_name(*key),
            Call::Deaf { key } => {
                self.release_name(*key);
                if let Some(session) = self.sessions.get_mut(key) {
                    session.is_deaf = true;
                }
            }
            Call::Closed { key, reason } if self.sessions.contains_key(key) => {
                must_end = Some(*key);
                self.may_end(*key, *reason);
            }
            Call::ShutDown => {
                let open: Vec<SessionKey> = self.sessions.keys().copied().collect();
                for key in open {
                    self.shut_down_session(key);
                }
            }
            Call::NamedSessionsEnded => {
                let named = self.sessions.iter().filter(|(_, session)| !session.is_anonymous());
                let named: Vec<SessionKey> = named.map(|(key, _)| *key).collect();
                for key in &named {
                    self.may_end(*key, CloseReason::ShuttingDown);
                }
                self.take_effects(view, &mut Told::default(), expected)?;
                let left = named.iter().find(|key| self.sessions.contains_key(key));
                ensure!(left.is_none(), "end", "{left:?} has a name and was not ended");
                return Ok(());
            }
            _ => {}
        }
        self.take_effects(view, &mut Told::default(), expected)?;
        if let Call::Deaf { key } = call
            && let Some(session) = self.sessions.get_mut(key)
        {
            session.holds.answers = false;
        }
        let is_left = must_end.is_some_and(|key| self.sessions.contains_key(&key));
        ensure!(!is_left, "end", "{must_end:?} was closed, and lives on");
        Ok(())
    }

    fn shut_down_session(&mut self, key: SessionKey) {
        let since = self.now.moment;
        let Some(session) = self.sessions.get_mut(&key).filter(|session| session.is_open()) else {
            return;
        };
        session.phase = Phase::Finishing { reason: CloseReason::ShuttingDown, since };
        session.corked_until = None;
    }

    /// The call allows this session to end for this reason.
    pub(super) fn may_end(&mut self, key: SessionKey, reason: CloseReason) {
        if let Some(session) = self.sessions.get_mut(&key) {
            session.may_end = Some(reason);
        }
    }

    /// Nothing more is read from a session: its name goes, what is queued is still written.
    pub(super) fn finish_session(&mut self, key: SessionKey, reason: CloseReason) {
        self.release_name(key);
        let since = self.now.moment;
        if let Some(session) = self.sessions.get_mut(&key) {
            (session.buffered, session.missing) = (0, None);
            session.phase = Phase::Finishing { reason, since };
        }
    }

    /// Takes its name from a session. The name lingers.
    pub(super) fn release_name(&mut self, key: SessionKey) {
        let now = self.now.moment;
        let until = now.after(self.config.linger);
        let Some(session) = self.sessions.get_mut(&key) else { return };
        let Some(name) = session.name.clone() else { return };
        let Some(record) = self.names.get_mut(&name) else { return };
        if record.state != NameState::Held(key) {
            return;
        }
        record.state = NameState::Lingering { until, uid: session.credentials.uid };
        record.draining = Some(key);
        let silence = match session.corked_until {
            Some(until) if until > now => Some(Duration::ZERO),
            // Timers fire at the moment, and nobody knows which has fired first.
            Some(_) => None,
            None => Some(now.since(session.last_told)),
        };
        self.impatience.ended(&name, silence, now);
        session.heir = Some(name);
        self.registered.retain(|holder| *holder != key);
    }

    // ---- a session's end ----------------------------------------------------------------------------

    /// The router has closed a session.
    pub(super) fn session_ended(
        &mut self,
        key: SessionKey,
        reason: CloseReason,
        told: &mut Told,
        expected: &mut Expected,
    ) -> Checked {
        self.check_reason(key, reason, expected)?;
        self.release_name(key);
        let Some(mut session) = self.sessions.remove(&key) else { return Ok(()) };
        let name = session.name.clone().unwrap_or_default();
        let cut_off = told.cut_off.remove(&name).unwrap_or(0) as usize;
        let queued = session.queue.len();
        let heir = session.heir.take();
        let heir = heir.filter(|heir| !self.is_without_heir(heir, &session, cut_off));
        let begun = begun(&session);
        let Some(heir) = heir else {
            ensure!(
                cut_off == queued,
                "drops",
                "{queued} messages for {name:?} were lost with their session, {cut_off} were told"
            );
            // What had begun to leave is counted apart.
            let left = self.counted.dropped_cut_off - expected.dropped_cut_off;
            let begun = match begun {
                Begun::Maybe => left.min(1),
                Begun::Yes if queued > 0 => 1,
                Begun::Yes | Begun::No => 0,
            };
            expected.dropped_cut_off += begun;
            expected.dropped_receiver_gone += queued as u64 - begun;
            return Ok(());
        };
        ensure!(
            cut_off <= 1 && !(cut_off == 1 && begun == Begun::No),
            "drops",
            "{cut_off} messages for {name:?} were cut off, though {begun:?} had begun to leave"
        );
        ensure!(
            !(cut_off == 0 && begun == Begun::Yes),
            "duplicate",
            "a message for {name:?} that had begun to leave goes on to the next session"
        );
        expected.dropped_cut_off += cut_off as u64;
        if cut_off == 1 {
            session.queue.pop_front();
        }
        self.settle(&heir, session, told, expected)
    }

    /// Whether nobody comes for what this session leaves, because its name was forgotten earlier in
    /// this turn.
    fn is_without_heir(&self, heir: &str, session: &Session, cut_off: usize) -> bool {
        let Some(record) = self.names.get(heir) else { return true };
        let NameState::Lingering { until, .. } = record.state else { return false };
        let is_over = self.is_beginning_turn && until <= self.now.moment;
        let all = session.queue.len();
        is_over && cut_off == all && (cut_off > 1 || cut_off == 1 && session.partial.is_empty())
    }

    /// Moves what a session has not got to its name, in front of what came since.
    fn settle(
        &mut self,
        heir: &str,
        session: Session,
        told: &mut Told,
        expected: &mut Expected,
    ) -> Checked {
        let now = self.now.moment;
        let mut left = session.queue;
        for copy in &mut left {
            let listens = |key: &SessionKey| {
                self.sessions.get(key).is_some_and(Session::listens) && copy.arrived == now
            };
            copy.waiter = copy.waiter.filter(listens);
        }
        let overflow = told.overflow.remove(heir).unwrap_or(0);
        let lost = self.oldest_are_lost(&mut left, overflow, told)?;
        self.check_overflow(heir, left.iter(), &lost)?;
        self.overflow_is_told(&lost, told, expected)?;
        expected.held += left.len() as u64;
        for copy in &left {
            self.waits_for_fate(copy);
        }
        if let Some(record) = self.names.get_mut(heir) {
            record.draining = None;
            self.newly_held.extend((!left.is_empty()).then(|| heir.to_owned()));
            left.append(&mut record.held);
            record.held = left;
        }
        Ok(())
    }

    /// The fate of this message is open again: its sender gets no receipt before it is decided.
    pub(super) fn waits_for_fate(&mut self, copy: &Copied) {
        if let Some(waiter) = copy.waiter.and_then(|waiter| self.sessions.get_mut(&waiter))
            && let First::Due { copies, .. } = &mut waiter.first
        {
            copies.clear();
        }
    }

    /// Whether what a sender was told may be about this message.
    fn is_about(&self, (pid, wanted): &(u32, String), copy: &Copied) -> bool {
        let is_sender = copy.waiter.is_some() && self.by_pid.get(pid).copied() == copy.waiter;
        is_sender && *wanted == copy.message.wanted
    }

    /// Whether the sender of this message was just told that the endpoint is gone. Then that is spent,
    /// and the sender is owed the error.
    pub(super) fn is_told(&mut self, copy: &Copied, told: &mut Told) -> bool {
        let Some(waiter) = copy.waiter else { return false };
        let about = told.not_found.iter().position(|entry| self.is_about(entry, copy));
        let Some(at) = about else { return false };
        told.not_found.remove(at);
        if let Some(session) = self.sessions.get_mut(&waiter) {
            let id = OwedId::of(&copy.message);
            session.owe_late(Owed::Error { code: ErrorCode::EndpointNotFound, id });
            session.first = First::Over;
        }
        true
    }

    /// Takes those out of what a session has left that were not held: such as never can be, and as many
    /// of the oldest as the router has told of.
    fn oldest_are_lost(
        &self,
        left: &mut VecDeque<Copied>,
        overflow: u64,
        told: &Told,
    ) -> Result<Vec<Copied>, Violation> {
        let is_too_large = |copy: &Copied| held_bytes(copy) > self.config.held_bytes_max;
        let is_lost =
            |oldest: usize, (at, copy): (usize, &Copied)| at < oldest || is_too_large(copy);
        let agrees = |oldest: &usize| {
            let lost = left.iter().enumerate().filter(|copy| is_lost(*oldest, *copy));
            let (mut untold, mut entries) = (0, told.not_found.clone());
            for (_, copy) in lost {
                let entry = entries.iter().position(|entry| self.is_about(entry, copy));
                match entry {
                    Some(entry) => drop(entries.remove(entry)),
                    None => untold += 1,
                }
            }
            untold == overflow
        };
        let is_nothing_lost = overflow == 0 && told.not_found.is_empty();
        let oldest = match is_nothing_lost && !left.iter().any(is_too_large) {
            true => Some(0),
            false => (0..=left.len()).rev().find(agrees),
        };
        let Some(oldest) = oldest else {
            let what = format!(
                "of {} messages that a session has left, {overflow} were told to be too much",
                left.len()
            );
            return Err(Violation::new("drops", what));
        };
        let (mut lost, mut kept) = (Vec::new(), VecDeque::new());
        for (at, copy) in std::mem::take(left).into_iter().enumerate() {
            if is_lost(oldest, (at, &copy)) { lost.push(copy) } else { kept.push_back(copy) }
        }
        *left = kept;
        Ok(lost)
    }

    /// Messages that could not be held: each is counted, or its sender told.
    pub(super) fn overflow_is_told(
        &mut self,
        lost: &[Copied],
        told: &mut Told,
        expected: &mut Expected,
    ) -> Checked {
        for copy in lost {
            if self.is_told(copy, told) {
                expected.refused_endpoint_not_found += 1;
                continue;
            }
            let waiter = copy.waiter.and_then(|waiter| self.sessions.get(&waiter));
            ensure!(
                !waiter.is_some_and(Session::listens),
                "silence",
                "the sender of message {} was not told that it could not be held",
                copy.message.number()
            );
            expected.dropped_held_overflow += 1;
        }
        Ok(())
    }

    fn check_reason(
        &mut self,
        key: SessionKey,
        reason: CloseReason,
        expected: &mut Expected,
    ) -> Checked {
        let undecided = self.undecided(key);
        let undecided_for_sure = self.undecided_for_sure(key);
        let now = self.now.moment;
        let Some(session) = self.sessions.get(&key) else {
            return Err(Violation::new("end", format!("{key:?} was closed, but it had ended")));
        };
        if session.may_end == Some(reason) {
            return Ok(());
        }
        match (session.phase, reason) {
            (Phase::Finishing { since, .. }, CloseReason::DrainTimeout) => {
                expected.timeout_drain += 1;
                ensure!(
                    now >= since.after(self.delays.drain.min),
                    "end",
                    "{key:?} had more time to read what was left for it"
                );
                ensure!(
                    !session.has_everything() || undecided > 0 || session.is_deaf,
                    "end",
                    "{key:?} was ended for not reading, but nothing was left for it"
                );
            }
            (Phase::Finishing { reason: known, .. }, reason) => {
                ensure!(known == reason, "end", "{key:?} ended as {reason:?}, not as {known:?}");
                ensure!(
                    session.queue.is_empty() && undecided_for_sure == 0,
                    "end",
                    "{key:?} was closed with {} messages unwritten, and {undecided_for_sure} \
                     whose fate it waits for",
                    session.queue.len()
                );
                ensure!(
                    !session.is_owed() && session.partial.is_empty(),
                    "end",
                    "{key:?} was closed before it had its answers: {:?} {:?}",
                    session.answers,
                    session.late
                );
            }
            (Phase::Open, reason) => {
                return Err(Violation::new(
                    "end",
                    format!("{key:?} was closed without a cause: {reason:?}"),
                ));
            }
        }
        Ok(())
    }

    // ---- time -----------------------------------------------------------------------------------------

    pub(super) fn turn_began(&mut self, view: &View<'_>, expected: &mut Expected) -> Checked {
        self.turn += 1;
        let now = self.now.moment;
        let mut told = Told::default();
        self.is_beginning_turn = true;
        for effect in view.effects {
            match effect {
                Effect::Close(key, reason) => {
                    self.session_ended(*key, *reason, &mut told, expected)?;
                }
                Effect::Resume(key) => self.resumed(*key)?,
                // Nothing else is a misdeed at this point.
                Effect::Log(Event::Misbehaved { peer, .. }) => {
                    let key = self.by_pid.get(&peer.pid).copied();
                    self.frame_timed_out(key, expected)?;
                }
                Effect::Log(Event::Silent { peer }) => {
                    let key = self.by_pid.get(&peer.pid).copied();
                    self.heartbeat_missed(key, expected)?;
                }
                Effect::Log(event) => self.logged(event, &mut told)?,
                Effect::Admin(key, _) => {
                    return Err(Violation::new("admin", format!("{key:?} has not asked")));
                }
            }
        }
        self.is_beginning_turn = false;
        for session in self.sessions.values_mut() {
            session.corked_until = session.corked_until.filter(|until| *until > now);
        }
        self.names_expire(&mut told, expected)?;
        self.lingering_senders_hear(&mut told, expected)?;
        ensure!(told.is_spent(), "drops", "told of more than was there to be dropped: {told:?}");
        self.check_delays(view)
    }

    fn heartbeat_missed(&mut self, key: Option<SessionKey>, expected: &mut Expected) -> Checked {
        expected.timeout_heartbeat += 1;
        let now = self.now.moment;
        let Some((key, session)) = key.and_then(|key| Some((key, self.open(key)?))) else {
            return Err(Violation::new("heartbeat", "somebody unknown was silent"));
        };
        let silence = now.since(session.last_heard);
        ensure!(
            session.name.is_some() && silence >= self.delays.heartbeat.min,
            "heartbeat",
            "{key:?} was ended for a silence of {silence:?}"
        );
        self.may_end(key, CloseReason::Heartbeat);
        Ok(())
    }

    fn frame_timed_out(&mut self, key: Option<SessionKey>, expected: &mut Expected) -> Checked {
        expected.timeout_frame += 1;
        let now = self.now.moment;
        let session = key.and_then(|key| self.sessions.get_mut(&key));
        let Some((key, session)) = key.zip(session) else {
            return Err(Violation::new("frame deadline", "somebody unknown was too slow"));
        };
        let (since, held) = (session.unfinished_since, session.unfinished_held);
        let allowed = self.delays.frame_deadline.min + held;
        ensure!(
            session.missing.is_some() && !session.holds.any() && now >= since.after(allowed),
            "frame deadline",
            "{key:?} was ended for an unfinished frame: lacking {:?} since {since:?}, held for {held:?}, \
             {:?}",
            session.missing,
            session.holds
        );
        session.owe_error(ErrorCode::InvalidFrame, OwedId::None);
        self.finish_session(key, CloseReason::FrameTimeout);
        Ok(())
    }

    /// Names that nobody came back for are forgotten, with what was held for them.
    fn names_expire(&mut self, told: &mut Told, expected: &mut Expected) -> Checked {
        let now = self.now.moment;
        let is_over = |state: NameState| match state {
            NameState::Held(_) => false,
            NameState::Lingering { until, .. } => until <= now,
        };
        let over = self.names.iter().filter(|(_, record)| is_over(record.state));
        let over: Vec<String> = over.map(|(name, _)| name.clone()).collect();
        for name in over {
            let Some(record) = self.names.remove(&name) else { continue };
            self.held_are_lost(&name, record.held, told, expected)?;
            let draining = record.draining.and_then(|key| self.sessions.get_mut(&key));
            if let Some(session) = draining {
                session.heir = None;
            }
        }
        Ok(())
    }

    /// Nobody gets these any more: senders that wait are told, and the rest is counted.
    pub(super) fn held_are_lost(
        &mut self,
        name: &str,
        held: VecDeque<Copied>,
        told: &mut Told,
        expected: &mut Expected,
    ) -> Checked {
        let mut untold = 0;
        for copy in &held {
            if self.is_told(copy, told) {
                expected.refused_endpoint_not_found += 1;
                continue;
            }
            let listens = copy.waiter.and_then(|waiter| self.sessions.get(&waiter));
            ensure!(
                !listens.is_some_and(Session::listens),
                "silence",
                "the sender of message {} was not told that nobody got it",
                copy.message.number()
            );
            untold += 1;
        }
        let dropped = told.gone.remove(name).unwrap_or(0);
        ensure!(
            dropped == untold,
            "drops",
            "{untold} messages were held for {name:?}, which nobody came back for; {dropped} were told"
        );
        expected.dropped_receiver_gone += dropped;
        Ok(())
    }

    /// Senders that have waited long enough for a lingering endpoint hear that it is gone.
    fn lingering_senders_hear(&mut self, told: &mut Told, expected: &mut Expected) -> Checked {
        let now = self.now.moment;
        let (soonest, latest) = (self.delays.answer.min, self.delays.answer.max);
        let waited_for = self.names.iter().filter(|(_, record)| !record.held.is_empty());
        let waited_for: Vec<String> = waited_for.map(|(name, _)| name.clone()).collect();
        for name in waited_for {
            let Some(record) = self.names.get_mut(&name) else { continue };
            let mut kept = VecDeque::new();
            for mut copy in std::mem::take(&mut record.held) {
                let may_hear = copy.arrived.after(soonest) <= now;
                if may_hear && self.is_told(&copy, told) {
                    expected.refused_endpoint_not_found += 1;
                    continue;
                }
                if copy.arrived.after(latest) <= now {
                    let waiter = copy.waiter.take().and_then(|waiter| self.sessions.get(&waiter));
                    ensure!(
                        !waiter.is_some_and(Session::listens),
                        "silence",
                        "the sender of message {} waits for longer than {latest:?} to hear of it",
                        copy.message.number()
                    );
                }
                kept.push_back(copy);
            }
            if let Some(record) = self.names.get_mut(&name) {
                record.held = kept;
            }
        }
        Ok(())
    }

    // ---- routers --------------------------------------------------------------------------------------

    /// A router has begun.
    pub(super) fn begin(
        &mut self,
        config: &Config,
        restored: &[Lingering],
        view: &View<'_>,
    ) -> Checked {
        let until = self.now.moment.after(config.linger);
        let mut names = std::mem::take(&mut self.names);
        names.retain(|name, _| restored.iter().any(|left| left.name.as_str() == name));
        for (name, record) in &mut names {
            let NameState::Lingering { uid, .. } = record.state else {
                return Err(Violation::new("restart", format!("{name:?} was handed over held")));
            };
            record.state = NameState::Lingering { until, uid };
            record.draining = None;
            record.inherited_bytes = record.held.iter().map(held_bytes).sum();
            record.fight = Default::default();
            for copy in &mut record.held {
                copy.waiter = None;
            }
        }
        *self = Model { names, now: self.now, turn: 1, ..Model::default() };
        (self.config, self.delays) = (config.clone(), Delays::of(config));
        self.counters = view.router.counters().clone();
        self.held_bytes = view.router.usage().held;
        self.inherited_bytes = self.held_bytes;
        Ok(())
    }

    /// A router has ended, and leaves these names to the next one; or nothing, if there is none yet.
    pub(super) fn router_ended(&mut self, left: Option<&[Lingering]>) -> Checked {
        let Some(left) = left else {
            // Nobody follows it: everything is lost.
            self.names.clear();
            return Ok(());
        };
        for record in left {
            let name = record.name.as_str();
            let Some(known) = self.names.get_mut(name) else {
                return Err(Violation::new("restart", format!("{name:?} was not in use")));
            };
            ensure!(
                known.held.len() == record.frames.len(),
                "restart",
                "{} messages are handed over for {name:?}, not {}",
                record.frames.len(),
                known.held.len()
            );
            for (copy, frame) in known.held.iter().zip(&record.frames) {
                ensure!(
                    copy.message.is(&frame[HEADER_BYTES..]),
                    "restart",
                    "message {} for {name:?} is not handed over in its place",
                    copy.message.number()
                );
            }
        }
        let lost = self.names.keys().find(|name| left.iter().all(|l| l.name.as_str() != **name));
        ensure!(lost.is_none(), "restart", "{lost:?} is not handed over");
        Ok(())
    }

    /// Senders that wait go on in the next process, each with its message.
    pub(super) fn waiting_senders_taken(
        &mut self,
        taken: &[(SessionKey, bytes::Bytes)],
    ) -> Checked {
        for (key, frame) in taken {
            let payload = &frame[HEADER_BYTES..];
            let is_it = |copy: &Copied| copy.waiter == Some(*key) && copy.message.is(payload);
            let found = self.names.values_mut().find_map(|record| {
                let at = record.held.iter().position(is_it)?;
                record.held.remove(at)
            });
            ensure!(found.is_some(), "restart", "{key:?} does not wait with this message");
            if let Some(session) = self.sessions.get_mut(key) {
                session.first = First::Over;
            }
        }
        Ok(())
    }
}

/// Whether the message at the head of a queue has begun to leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Begun {
    Yes,
    No,
    /// Too little has left to tell it from an answer.
    Maybe,
}

pub(super) fn begun(session: &Session) -> Begun {
    let Some(front) = session.queue.front().filter(|_| !session.partial.is_empty()) else {
        return Begun::No;
    };
    let seen = session.partial.get(HEADER_BYTES..).unwrap_or_default();
    let is_an_answer = b"{\"type\": \"".iter().zip(seen).all(|(a, b)| a == b);
    match (front.message.begins_with(seen), session.may_be_owed() && is_an_answer) {
        (true, false) => Begun::Yes,
        (false, _) => Begun::No,
        (true, true) => Begun::Maybe,
    }
}

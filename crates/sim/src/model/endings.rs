//! How sessions end: with which reason, what becomes of what was on its way, and what time does.

use std::time::Duration;

use hermes_bus_core::{CloseReason, Effect, Event, SessionKey};
use hermes_bus_proto::ErrorCode;
use hermes_bus_proto::limits::HEADER_BYTES;

use crate::call::{Call, View, Violation};

use super::session::{OwedId, Phase, Session};
use super::{Checked, Expected, Model, NameState, Told, ensure};

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
            let begun = match begun {
                Begun::Yes => 1,
                Begun::No => 0,
                Begun::Maybe => {
                    self.maybe_begun += 1;
                    0
                }
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
        self.settle(&heir, key, session, told, expected)
    }

    /// Whether nobody comes for what this session leaves, because its name was forgotten earlier in
    /// this turn.
    fn is_without_heir(&self, heir: &str, session: &Session, cut_off: usize) -> bool {
        let Some(record) = self.names.get(heir) else { return true };
        let NameState::Lingering { until, .. } = record.state else { return false };
        let is_over = self.is_beginning_turn && until <= self.now.moment;
        let all = session.queue.len();
        // With one that had begun to leave, and nothing else, it makes no difference.
        is_over && cut_off == all && cut_off > 0
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
                Effect::Store(..) | Effect::LookWhetherRead(_) | Effect::Trace(..) => {
                    return Err(super::nothing_is_kept());
                }
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

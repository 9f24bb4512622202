//! Names: who may have them, what a new session inherits, and what it hears first.

use std::collections::VecDeque;

use hermes_bus_core::{CloseReason, Effect, Event, Next, Probed, SessionKey};
use hermes_bus_proto::{EndpointName, Envelope, ErrorCode, NameError};

use crate::call::{View, Violation};

use super::endings::{Begun, begun};
use super::frames::Offered;
use super::impatience::Verdict;
use super::message::Copied;
use super::session::{First, Owed, OwedId};
use super::{Checked, Expected, Fight, Model, Name, NameState, Told, ensure, is_loss};

impl Model {
    pub(super) fn register(
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
        self.note(is_loss, view, &mut told)?;
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
        self.take_effects_but(is_loss, view, &mut told, expected)?;
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
            NameError::Reserved => ErrorCode::Forbidden,
            _ => ErrorCode::NameInvalid,
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
            let is_ours = session.credentials.uid == uid;
            for copy in &mut queue {
                copy.waiter = copy.waiter.filter(|_| self.still_waits(copy, previous));
            }
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
}

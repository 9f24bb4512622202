//! What must hold all the time: waits have a reason and an end, budgets are kept and refunded, and
//! nobody is slowed down by others.

use std::time::Duration;

use hermes_bus_core::{HELD_OVERHEAD_BYTES, Reading, SessionKey};
use hermes_bus_proto::limits::HEADER_BYTES;

use crate::call::{Call, View, Violation};

use super::message::{Copied, Message};
use super::session::{First, Phase, Session, Wait};
use super::{Checked, Model, NameState, ensure};

/// More than the bookkeeping of one queued frame takes.
const OVERHEAD_BYTES_MAX: usize = 128;
/// Messages of so many bytes may be in several queues and charged once.
const SHARE_BYTES_MIN: usize = 16 * 1024;
/// What is read at a time of who has no unfinished frame, while the budget for those is used up.
const SMALL_READ_BYTES: usize = 4 * 1024;
/// How often an impatient client needs to hear something.
const PONG_INTERVAL: Duration = Duration::from_millis(500);

/// Bytes of a message's frame.
fn frame_bytes(copy: &Copied) -> usize {
    HEADER_BYTES + copy.message.payload_bytes()
}

/// What a message takes where it is held for a name.
pub(super) fn held_bytes(copy: &Copied) -> usize {
    frame_bytes(copy) + HELD_OVERHEAD_BYTES
}

/// At least so much is queued.
fn load_min(session: &Session) -> usize {
    let queued: usize = session.queue.iter().map(frame_bytes).sum();
    queued.saturating_sub(session.partial.len())
}

impl Model {
    // ---- senders that wait for a receiver -----------------------------------------------------------

    /// Whoever goes on has waited the longest, of those who are still there.
    pub(super) fn check_turns(&mut self) -> Checked {
        for wait in std::mem::take(&mut self.went_on) {
            let earlier = self.waiting_for(wait.receiver).find(|other| other.place < wait.place);
            ensure!(
                earlier.is_none(),
                "order",
                "one goes on that waits since {wait:?}, and another one waits since {earlier:?}"
            );
        }
        Ok(())
    }

    /// Those that are kept waiting for this receiver.
    fn waiting_for(&self, receiver: SessionKey) -> impl Iterator<Item = Wait> {
        let open = self.sessions.values().filter(|session| session.is_open());
        open.filter_map(|session| session.holds.receiver)
            .filter(move |wait| wait.receiver == receiver)
    }

    pub(super) fn waits_for_receiver(
        &mut self,
        key: SessionKey,
        receiver: SessionKey,
        message: &Message,
        view: &mut View<'_>,
    ) -> Checked {
        let now = self.now.moment;
        let is_behind_others = self.waiting_for(receiver).next().is_some();
        if let Some(session) = self.sessions.get(&receiver)
            && !is_behind_others
        {
            let name = &session.name;
            ensure!(!session.is_stalled, "hold", "{name:?} has stalled, and is waited for");
            self.check_there_is_no_room(session, message, view)?;
        }
        self.waits += 1;
        let wait = Wait { receiver, since: now, place: self.waits };
        let session = self.session(key)?;
        session.holds.receiver = Some(wait);
        session.awaited = None;
        session.waiting_since.get_or_insert(now);
        Ok(())
    }

    /// A message did not go into a receiver's queue: then there is none, or not enough, room for it there.
    /// What the model does not know of the bookkeeping, it takes for more than it can be.
    pub(super) fn check_there_is_no_room(
        &self,
        session: &Session,
        message: &Message,
        view: &mut View<'_>,
    ) -> Checked {
        let (config, usage) = (&self.config, view.router.usage());
        let name = session.name.as_deref().unwrap_or_default();
        let pending = view.router.endpoints().find(|(details, _)| details.endpoint == name);
        let pending = pending.map_or(0, |(details, _)| details.pending.bytes as usize);
        let frames = session.queue.len() + session.answers.len() + session.late.len() + 2;
        let needs = HEADER_BYTES + message.payload_bytes() + OVERHEAD_BYTES_MAX;
        let load = pending + frames * OVERHEAD_BYTES_MAX + needs;
        // A large broadcast is charged to its first receiver's user, whoever reads it last, and before it
        // is known who takes it.
        let used_by_user: usize = self
            .sessions
            .values()
            .map(|other| match other.charged_uid == session.charged_uid {
                true => load_max(other),
                false => shared_max(other),
            })
            .sum();
        let has_room_in_budgets = usage.queued + needs <= config.queue_bytes_total_max
            && used_by_user + needs <= config.queue_bytes_user_max;
        let has_room = load <= config.queue_bytes_max
            && (load <= config.queue_bytes_reserved || has_room_in_budgets);
        ensure!(
            !session.has_everything() && pending > 0,
            "slowed down",
            "{name:?} has read everything, and message {} is not queued for it",
            message.number()
        );
        ensure!(
            !has_room,
            "slowed down",
            "{name:?} has room: {pending} bytes are queued for it, of {} and {} in all",
            config.queue_bytes_max,
            usage.queued
        );
        Ok(())
    }

    /// A receiver's own queue is long enough for a message: an empty one takes any.
    pub(super) fn check_queue_limit(&self, session: &Session, message: &Message) -> Checked {
        let load = load_min(session) + HEADER_BYTES + message.payload_bytes();
        let max = self.config.queue_bytes_max;
        ensure!(
            session.queue.is_empty() || load <= max,
            "budget",
            "{load} bytes are queued for {:?}, of {max}",
            session.name
        );
        Ok(())
    }

    /// Whether a message may go into a receiver's queue.
    pub(super) fn check_admission(
        &mut self,
        key: SessionKey,
        receiver: SessionKey,
        message: &Message,
        view: &View<'_>,
    ) -> Checked {
        let config = &self.config;
        let (Some(sender), Some(session)) = (self.sessions.get(&key), self.sessions.get(&receiver))
        else {
            return Err(Violation::new("replaced", "a message goes to one who has ended"));
        };
        ensure!(!session.is_stalled, "stall", "a message is queued for one who has stalled");
        let has_waited = sender.awaited == Some(receiver);
        ensure!(
            has_waited || self.waiting_for(receiver).next().is_none(),
            "order",
            "message {} goes before those of senders that wait",
            message.number()
        );
        if session.queue.is_empty() {
            return Ok(());
        }
        self.check_queue_limit(session, message)?;
        let needs = HEADER_BYTES + message.payload_bytes();
        let load = load_min(session) + needs;
        let total = view.router.usage().queued;
        ensure!(
            load <= config.queue_bytes_reserved || total <= config.queue_bytes_total_max,
            "budget",
            "{total} bytes are queued, of {}; {load} for {:?}",
            config.queue_bytes_total_max,
            session.name
        );
        let users = self.sessions.values().filter(|other| other.charged_uid == session.charged_uid);
        let of_user = users.map(|user| load_min(user).saturating_sub(shared_max(user)));
        let of_user = of_user.sum::<usize>() + needs;
        ensure!(
            load <= config.queue_bytes_reserved || of_user <= config.queue_bytes_user_max,
            "budget",
            "{of_user} bytes are queued for user {}, of {}",
            session.charged_uid,
            config.queue_bytes_user_max
        );
        Ok(())
    }

    /// Whether a message may be dropped because its receiver does not read.
    pub(super) fn check_drop(&self, key: SessionKey, receiver: SessionKey) -> Checked {
        let (Some(sender), Some(session)) = (self.sessions.get(&key), self.sessions.get(&receiver))
        else {
            return Err(Violation::new("drops", "a message for one who has ended"));
        };
        let waited = sender.awaited == Some(receiver);
        let patience = self.delays.answer.min.min(self.delays.stall.min);
        let in_vain = waited
            && sender.is_anonymous()
            && sender.waiting_since.is_some_and(|since| since.after(patience) <= self.now.moment);
        ensure!(
            session.is_stalled || in_vain,
            "drops",
            "a message for {:?} was dropped, but it has not stalled",
            session.name
        );
        Ok(())
    }

    pub(super) fn stall_began(&mut self, name: &str) -> Checked {
        let Some(receiver) = self.holder_of(name) else {
            return Err(Violation::new("stall", format!("{name:?} is nobody's, and stalls")));
        };
        let now = self.now.moment;
        let patience = self.delays.stall.min;
        let has_waited = self.waiting_for(receiver).any(|wait| wait.since.after(patience) <= now);
        ensure!(has_waited, "stall", "nobody has waited {patience:?} for {name:?}");
        let session = self.session(receiver)?;
        ensure!(!session.is_stalled, "stall", "{name:?} stalls twice");
        session.is_stalled = true;
        Ok(())
    }

    pub(super) fn stall_ended(&mut self, name: &str) -> Checked {
        let draining = self.names.get(name).and_then(|record| record.draining);
        let candidates = self.holder_of(name).into_iter().chain(draining);
        let stalled = candidates
            .into_iter()
            .find(|key| self.sessions.get(key).is_some_and(|session| session.is_stalled));
        // One that has lost its name to another one may still read.
        let stalled = stalled.or_else(|| {
            let mut others = self.sessions.iter();
            let is_it =
                |session: &Session| session.is_stalled && session.name.as_deref() == Some(name);
            others.find(|(_, session)| is_it(session)).map(|(key, _)| *key)
        });
        let Some(key) = stalled else {
            return Err(Violation::new("stall", format!("{name:?} had not stalled")));
        };
        self.session(key)?.is_stalled = false;
        Ok(())
    }

    // ---- other holds -------------------------------------------------------------------------------

    /// A frame was taken, and its session held.
    pub(super) fn held_after_frame(&mut self, key: SessionKey, bytes: usize) -> Checked {
        let now = self.now.moment;
        let is_pace = self.counted.pace_waits == 1;
        let cost = |amount: u64, per_s: Option<u64>| {
            per_s.map_or(0, |per_s| amount.saturating_mul(1_000_000) / per_s.max(1))
        };
        let messages = cost(1, self.config.messages_per_s);
        let longest = messages.max(cost(bytes as u64, self.config.bytes_per_s)) + 1_000;
        let session = self.session(key)?;
        // The call may have closed it, or let it go on already.
        if !session.is_open() {
            return Ok(());
        }
        session.holds.answers |= session.may_be_owed();
        ensure!(is_pace || session.may_be_owed(), "hold", "{key:?} is held without a reason");
        if is_pace {
            session.holds.pace = Some(now.after(Duration::from_micros(longest)));
        }
        Ok(())
    }

    /// Who sends on has kept to its rate so far: a second that was not used may be used up at once, and
    /// one message more, however large.
    pub(super) fn check_rates(&self, key: SessionKey) -> Checked {
        let Some(session) = self.sessions.get(&key) else { return Ok(()) };
        let elapsed = self.now.moment.since(session.rates_since).as_micros() as u64 + 1_000_000;
        // The time that each message costs is rounded down.
        let elapsed = elapsed + session.sent_messages;
        let allowed = |per_s: u64| per_s.max(1).saturating_mul(elapsed) / 1_000_000 + 1;
        let (messages, bytes) = (session.sent_messages, session.sent_bytes);
        let within =
            |sent: u64, per_s: Option<u64>| per_s.is_none_or(|per_s| sent <= allowed(per_s));
        ensure!(
            within(messages, self.config.messages_per_s) && within(bytes, self.config.bytes_per_s),
            "rate",
            "{key:?} sends on after {messages} messages and {bytes} bytes in {elapsed} µs"
        );
        Ok(())
    }

    pub(super) fn resumed(&mut self, key: SessionKey) -> Checked {
        let now = self.now.moment;
        let session = self.session(key)?;
        ensure!(
            session.is_open() && session.holds.any(),
            "hold",
            "{key:?} is to go on, but it was not held"
        );
        let wait = std::mem::take(&mut session.holds).receiver;
        session.awaited = wait.map(|wait| wait.receiver);
        if let Some(since) = session.held_since.take() {
            session.unfinished_held += now.since(since.max(session.unfinished_since));
        }
        (session.resumed, session.last_heard) = (now, now);
        // When somebody's time is up, it goes on before others.
        self.went_on.extend(wait.filter(|_| !self.is_beginning_turn));
        Ok(())
    }

    pub(super) fn reading(&mut self, key: SessionKey, reading: Reading) -> Checked {
        let Some(session) = self.open(key) else {
            ensure!(reading == Reading::Over, "end", "{key:?} has ended, and is read: {reading:?}");
            return Ok(());
        };
        let (holds, charged_uid) = (session.holds, session.charged_uid);
        match reading {
            Reading::Over => Err(Violation::new("end", format!("{key:?} is not read any more"))),
            Reading::UpTo(bytes) => {
                ensure!(!holds.any(), "hold", "{key:?} is read, but it is held: {holds:?}");
                ensure!(bytes > 0, "hold", "{key:?} may read nothing");
                let (total, of_user) = self.intake(charged_uid);
                let is_full = total >= self.config.intake_bytes_total_max
                    || of_user >= self.config.intake_bytes_user_max;
                let most = session.missing.map_or(SMALL_READ_BYTES, |missing| missing.max(1));
                ensure!(
                    !is_full || bytes <= most,
                    "budget",
                    "{key:?} may read {bytes} bytes, though {total} are kept, {of_user} for its user"
                );
                Ok(())
            }
            Reading::Held if holds.any() => Ok(()),
            Reading::Held => {
                let (total, of_user) = self.intake(charged_uid);
                let is_full = total >= self.config.intake_bytes_total_max
                    || of_user >= self.config.intake_bytes_user_max;
                let missing = session.missing;
                // Somebody who is nearer to the end of its frame goes on.
                let goes_on = self.sessions.iter().any(|(other, rival)| {
                    let Session { holds, missing: theirs, .. } = rival;
                    let is_other_held =
                        holds.receiver.is_some() || holds.answers || holds.pace.is_some();
                    *other != key
                        && rival.is_open()
                        && !is_other_held
                        && *theirs <= missing
                        && theirs.is_some()
                });
                ensure!(
                    is_full && missing.is_some() && goes_on,
                    "hold",
                    "{key:?} is not read: {total} bytes are kept, {of_user} for its user; it lacks \
                     {missing:?}"
                );
                let now = self.now.moment;
                let session = self.session(key)?;
                session.holds.intake = true;
                session.held_since = Some(now);
                Ok(())
            }
        }
    }

    /// What is kept of unfinished frames: in all, and of one user.
    fn intake(&self, uid: u32) -> (usize, usize) {
        self.sessions.values().fold((0, 0), |(total, of_user), session| {
            let own = if session.charged_uid == uid { session.buffered } else { 0 };
            (total + session.buffered, of_user + own)
        })
    }

    pub(super) fn buffered(&mut self, key: SessionKey, bytes: usize, missing: Option<usize>) {
        let now = self.now.moment;
        let Some(session) = self.sessions.get_mut(&key).filter(|session| session.is_open()) else {
            return;
        };
        let is_same_frame = session.unfinished_of == session.frames_taken;
        if missing.is_some() && !(session.missing.is_some() && is_same_frame) {
            session.unfinished_since = now;
            session.unfinished_of = session.frames_taken;
            session.unfinished_held = Duration::ZERO;
        }
        (session.buffered, session.missing) = (bytes, missing);
    }

    /// Who is held for unfinished frames is so with a reason.
    pub(super) fn check_intake_holds(&self, view: &View<'_>) -> Checked {
        let total = view.router.usage().intake;
        let held = self.sessions.iter().filter(|(_, session)| session.holds.intake);
        for (key, session) in held.filter(|(_, session)| session.is_open()) {
            let (_, of_user) = self.intake(session.charged_uid);
            ensure!(
                total >= self.config.intake_bytes_total_max
                    || of_user >= self.config.intake_bytes_user_max,
                "hold",
                "{key:?} is held for unfinished frames, of which there are {total} bytes"
            );
        }
        Ok(())
    }

    // ---- held messages ---------------------------------------------------------------------------------

    /// Whether messages for a name were too much to be held, beside others that are held from now on.
    pub(super) fn check_overflow<'a>(
        &self,
        name: &str,
        kept: impl Iterator<Item = &'a Copied>,
        lost: &[Copied],
    ) -> Checked {
        let Some(newest) = lost.last() else { return Ok(()) };
        let config = &self.config;
        let of_name = self.names.get(name).into_iter().flat_map(|record| &record.held);
        let all = self.names.values().flat_map(|record| &record.held);
        let kept: usize = kept.map(held_bytes).sum();
        let own = of_name.map(held_bytes).sum::<usize>() + kept + held_bytes(newest);
        let all = all.map(held_bytes).sum::<usize>() + kept + held_bytes(newest);
        ensure!(
            own > config.held_bytes_max || all > config.held_bytes_total_max,
            "drops",
            "messages for {name:?} were dropped, though there was room: {own} of {}, {all} of {}",
            config.held_bytes_max,
            config.held_bytes_total_max
        );
        Ok(())
    }

    /// Where something is newly held, there was room for it, beside all that is held.
    pub(super) fn check_newly_held(&mut self) -> Checked {
        for name in std::mem::take(&mut self.newly_held) {
            let Some(record) = self.names.get(&name) else { continue };
            let own: usize = record.held.iter().map(held_bytes).sum();
            let own_max = self.config.held_bytes_max.saturating_add(record.inherited_bytes);
            let all = self.names.values().flat_map(|record| &record.held);
            let all: usize = all.map(held_bytes).sum();
            let all_max = self.config.held_bytes_total_max.saturating_add(self.inherited_bytes);
            ensure!(
                own <= own_max && all <= all_max,
                "budget",
                "{own} bytes are held for {name:?}, of {own_max}, and {all} in all, of {all_max}"
            );
        }
        Ok(())
    }

    // ---- time --------------------------------------------------------------------------------------------

    /// Nothing takes longer than it may.
    pub(super) fn check_delays(&self, view: &View<'_>) -> Checked {
        let now = self.now.moment;
        let delays = &self.delays;
        let wait_max = delays.stall.max.max(delays.answer.max);
        for (key, session) in &self.sessions {
            if let Phase::Finishing { since, .. } = session.phase {
                let until = since.after(delays.drain.max);
                ensure!(until > now, "end", "{key:?} had to be closed at {until:?}");
                continue;
            }
            if let Some(Wait { receiver, since, .. }) = session.holds.receiver {
                ensure!(
                    since.after(wait_max) > now,
                    "hold",
                    "{key:?} has been waiting for {receiver:?} since {since:?}"
                );
            }
            // The only message of a script waits from its arrival, however often it is offered.
            if let (Some(_), Some(since)) = (session.holds.receiver, session.waiting_since) {
                let patience = delays.answer.max.min(delays.stall.max);
                let is_script = session.listens() && matches!(session.first, First::NotYet);
                ensure!(
                    !is_script || since.after(patience) > now,
                    "silence",
                    "{key:?} has waited since {since:?} to hear of its first message"
                );
            }
            if let Some(until) = session.holds.pace {
                let is_held_besides = session.holds.answers && session.may_be_owed();
                ensure!(
                    until > now || is_held_besides,
                    "hold",
                    "{key:?} was to go on at {until:?}"
                );
            }
            if session.missing.is_some() && !session.holds.any() {
                let since = session.unfinished_since.max(session.resumed);
                ensure!(
                    since.after(delays.frame_deadline.max) > now,
                    "frame deadline",
                    "{key:?} has had an unfinished frame since {since:?}"
                );
            }
            let is_excused = session.holds.intake || session.holds.pace.is_some();
            if session.name.is_some() && !is_excused {
                let silence = now.since(session.last_heard);
                ensure!(
                    silence < delays.heartbeat.max,
                    "heartbeat",
                    "{key:?} has been silent for {silence:?}"
                );
            }
            let silence = now.since(session.last_told);
            ensure!(
                !(session.needs_pongs && !session.is_deaf && silence >= PONG_INTERVAL * 2)
                    || view.router.next_write(*key).next().is_some()
                    || session.corked_until.is_some(),
                "impatience",
                "{key:?} has been told nothing for {silence:?}"
            );
        }
        Ok(())
    }

    // ---- always ------------------------------------------------------------------------------------------

    pub(super) fn check_standing(&mut self, call: &Call<'_>, view: &mut View<'_>) -> Checked {
        // Nothing has changed by looking.
        if matches!(call, Call::Reading { .. } | Call::Tapped { .. }) {
            return Ok(());
        }
        let usage = view.router.usage();
        let (mut queues, mut answers, mut may_be_answers, mut intake) = (false, false, false, 0);
        for (key, session) in &self.sessions {
            queues |= !session.queue.is_empty();
            answers |= session.is_owed();
            may_be_answers |= session.may_be_owed();
            intake += session.buffered;
            ensure!(
                !session.is_stalled || !session.has_everything(),
                "stall",
                "{key:?} has read everything, and still counts as stalled"
            );
            let only_answers = session.holds.answers && session.holds.pace.is_none();
            ensure!(
                !(session.is_open() && only_answers && session.has_everything()),
                "hold",
                "{key:?} has read all answers, and is still held for them"
            );
        }
        ensure!(
            queues == (usage.queued > 0),
            "budget",
            "{} bytes are charged for queues; messages are queued: {queues}",
            usage.queued
        );
        ensure!(
            answers <= (usage.answers > 0) && may_be_answers >= (usage.answers > 0),
            "budget",
            "{} bytes are charged for answers; there are some: {answers}",
            usage.answers
        );
        ensure!(
            intake == usage.intake,
            "budget",
            "{} bytes are charged for unfinished frames, of which there are {intake}",
            usage.intake
        );
        let held = self.names.values().flat_map(|record| &record.held).map(held_bytes).sum();
        ensure!(
            usage.held == held,
            "budget",
            "{} bytes are charged for held messages, of which there are {held}",
            usage.held
        );
        let held_max = self.config.held_bytes_total_max.saturating_add(self.inherited_bytes);
        ensure!(
            held <= self.held_bytes.max(held_max),
            "budget",
            "{held} bytes are held, of {held_max}"
        );
        self.held_bytes = held;
        let timers_max = 7 * self.sessions.len() + 2 * self.names.len();
        ensure!(usage.timers <= timers_max, "timers", "{} timers, of {timers_max}", usage.timers);
        let (connections, known) = (view.router.connections(), self.sessions.len());
        ensure!(connections == known, "end", "{connections} connections, not {known}");
        let is_idle = matches!(call, Call::TurnBegan | Call::Buffered { .. });
        self.has_changed |= !is_idle || !view.effects.is_empty();
        if matches!(call, Call::TurnEnded) && std::mem::take(&mut self.has_changed) {
            self.check_names(view)?;
        }
        Ok(())
    }

    /// The router lists who the model says it should, with what is queued for each.
    fn check_names(&self, view: &mut View<'_>) -> Checked {
        let mut listed = Vec::new();
        for ((details, _), key) in view.router.endpoints().zip(&self.registered) {
            let (session, bytes) = (&self.sessions[key], details.pending.bytes as usize);
            let queued = load_min(session);
            let is_so = if session.may_be_owed() { bytes >= queued } else { bytes == queued };
            ensure!(is_so, "names", "{bytes} bytes are listed for {key:?}, of messages {queued}");
            listed.push((details.endpoint, details.session_id, details.pending.messages));
        }
        let count = view.router.endpoints().count();
        ensure!(count == self.registered.len(), "names", "{count} names are listed");
        let known = self.registered.iter().map(|key| {
            let session = &self.sessions[key];
            let pending = session.queue.len() as u64;
            (session.name.clone().unwrap_or_default(), session.session_id.clone(), pending)
        });
        let known: Vec<(String, String, u64)> = known.collect();
        ensure!(listed == known, "names", "listed are {listed:?}, not {known:?}");
        for (key, session) in &self.sessions {
            let is_waiting = !session.queue.is_empty();
            let is_paused = session.corked_until.is_some();
            ensure!(
                !is_waiting || is_paused || view.router.next_write(*key).next().is_some(),
                "slowed down",
                "messages are queued for {key:?}, but none is to be written"
            );
        }
        Ok(())
    }

    /// Everybody has been reading everything for long enough.
    pub(super) fn settled(&mut self, view: &mut View<'_>) -> Checked {
        for (key, session) in &self.sessions {
            ensure!(
                session.queue.is_empty() && !session.is_owed(),
                "progress",
                "{key:?} reads, and has not got {} messages, {:?} and {:?}",
                session.queue.len(),
                session.answers,
                session.late
            );
            ensure!(
                !session.holds.any() || !session.is_open(),
                "progress",
                "{key:?} is still held: {:?}",
                session.holds
            );
        }
        let held = self.names.iter().find(|(_, record)| {
            matches!(record.state, NameState::Held(_)) && !record.held.is_empty()
        });
        ensure!(held.is_none(), "progress", "messages are held for {held:?}, which is there");
        let queued = view.router.usage().queued;
        ensure!(queued == 0, "progress", "{queued} bytes are still queued");
        Ok(())
    }
}

/// At most so much is queued that others may be charged for.
fn shared_max(session: &Session) -> usize {
    session.queue.iter().map(frame_bytes).filter(|bytes| *bytes >= SHARE_BYTES_MIN).sum()
}

/// At most so much is queued, with its bookkeeping.
fn load_max(session: &Session) -> usize {
    session.queue.iter().map(|copy| frame_bytes(copy) + OVERHEAD_BYTES_MAX).sum()
}

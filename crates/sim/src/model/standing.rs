//! What must hold all the time: everything has its time, budgets are what is there, and what is queued
//! can be written.

use std::time::Duration;

use crate::call::{Call, View};

use super::lingering::held_bytes;
use super::session::{First, Phase, Wait};
use super::waits::load_min;
use super::{Checked, Model, NameState, ensure};

/// How often an impatient client needs to hear something.
const PONG_INTERVAL: Duration = Duration::from_millis(500);

impl Model {
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

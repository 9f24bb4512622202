//! Who is not read from, and why: unread answers, unfinished frames, a rate.

use std::time::Duration;

use hermes_bus_core::{Reading, SessionKey};

use crate::call::{View, Violation};

use super::session::Session;
use super::{Checked, Model, ensure};

/// What is read at a time of who has no unfinished frame, while the budget for those is used up.
const SMALL_READ_BYTES: usize = 4 * 1024;

impl Model {
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
    pub(super) fn intake(&self, uid: u32) -> (usize, usize) {
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
}

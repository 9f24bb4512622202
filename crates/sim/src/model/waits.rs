//! Receivers' queues: what may go into them, who is kept waiting for room, and for how long.

use hermes_bus_core::SessionKey;
use hermes_bus_proto::limits::HEADER_BYTES;

use crate::call::{View, Violation};

use super::message::{Copied, Message};
use super::session::{Session, Wait};
use super::{Checked, Model, ensure};

/// More than the bookkeeping of one queued frame takes.
const OVERHEAD_BYTES_MAX: usize = 128;

/// Messages of so many bytes may be in several queues and charged once.
const SHARE_BYTES_MIN: usize = 16 * 1024;

/// Bytes of a message's frame.
pub(super) fn frame_bytes(copy: &Copied) -> usize {
    HEADER_BYTES + copy.message.payload_bytes()
}

/// At least so much is queued.
pub(super) fn load_min(session: &Session) -> usize {
    let queued: usize = session.queue.iter().map(frame_bytes).sum();
    queued.saturating_sub(session.partial.len())
}

impl Model {
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
        let of_user =
            self.sessions.values().filter(|other| other.charged_uid == session.charged_uid);
        let used_by_user: usize = of_user.map(load_max).sum();
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
        // Several sessions of one name may have stalled: it is the one that has just read, if there is one.
        let is_it = |key: &SessionKey| {
            let session = self.sessions.get(key);
            session
                .is_some_and(|session| session.is_stalled && session.name.as_deref() == Some(name))
        };
        let reader = self.reader.filter(is_it);
        let stalled = reader.or_else(|| self.sessions.keys().copied().find(is_it));
        let Some(key) = stalled else {
            return Err(Violation::new("stall", format!("{name:?} had not stalled")));
        };
        self.session(key)?.is_stalled = false;
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

//! What is held for names that linger: what goes there, what is too much, and what its senders hear.

use std::collections::VecDeque;

use hermes_bus_core::{HELD_OVERHEAD_BYTES, SessionKey};
use hermes_bus_proto::ErrorCode;

use crate::call::Violation;

use super::message::Copied;
use super::session::{First, Owed, OwedId, Session};
use super::waits::frame_bytes;
use super::{Checked, Expected, Model, NameState, Told, ensure};

/// What a message takes where it is held for a name.
pub(super) fn held_bytes(copy: &Copied) -> usize {
    frame_bytes(copy) + HELD_OVERHEAD_BYTES
}

impl Model {
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

    /// Moves what a session has not got to its name, in front of what came since.
    pub(super) fn settle(
        &mut self,
        heir: &str,
        key: SessionKey,
        session: Session,
        told: &mut Told,
        expected: &mut Expected,
    ) -> Checked {
        let mut left = session.queue;
        for copy in &mut left {
            let listens = |sender: &SessionKey| {
                self.sessions.get(sender).is_some_and(Session::listens)
                    && self.still_waits(copy, key)
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

    /// Whether the sender of a message that this receiver has not got is still to hear of it: in the turn
    /// in which it came, or was queued after it had been held.
    pub(super) fn still_waits(&self, copy: &Copied, receiver: SessionKey) -> bool {
        let sender = copy.waiter.and_then(|waiter| self.sessions.get(&waiter));
        let is_due = sender.is_some_and(|sender| match &sender.first {
            First::Due { copies, .. } => copies.iter().any(|(holder, _)| *holder == receiver),
            _ => false,
        });
        copy.arrived == self.now.moment || is_due
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
    pub(super) fn is_about(&self, (pid, wanted): &(u32, String), copy: &Copied) -> bool {
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
        expected.dropped_held_overflow += self.lost_untold(lost, told, expected)?;
        Ok(())
    }

    /// Goes through messages that are lost: senders that can hear of it were told. Says how many nobody
    /// hears of.
    fn lost_untold<'a>(
        &mut self,
        lost: impl IntoIterator<Item = &'a Copied>,
        told: &mut Told,
        expected: &mut Expected,
    ) -> Result<u64, Violation> {
        let mut untold = 0;
        for copy in lost {
            if self.is_told(copy, told) {
                expected.refused_endpoint_not_found += 1;
                continue;
            }
            let waiter = copy.waiter.and_then(|waiter| self.sessions.get(&waiter));
            ensure!(
                !waiter.is_some_and(Session::listens),
                "silence",
                "the sender of message {} was not told that it is lost",
                copy.message.number()
            );
            untold += 1;
        }
        Ok(untold)
    }

    /// Names that nobody came back for are forgotten, with what was held for them.
    pub(super) fn names_expire(&mut self, told: &mut Told, expected: &mut Expected) -> Checked {
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
        let untold = self.lost_untold(&held, told, expected)?;
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
    pub(super) fn lingering_senders_hear(
        &mut self,
        told: &mut Told,
        expected: &mut Expected,
    ) -> Checked {
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
}

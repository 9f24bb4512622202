//! What senders are told: no state that is not proven, and no silence that means success.

use hermes_bus_core::SessionKey;
use hermes_bus_proto::ErrorCode;
use hermes_bus_proto::control::Status;

use crate::call::View;

use super::session::{First, Owed, OwedId, Phase};
use super::{Checked, Expected, Model, Told, ensure};

impl Model {
    /// More has come from this connection than its first message.
    pub(super) fn more_input(&mut self, key: SessionKey) {
        if let Some(session) = self.sessions.get_mut(&key) {
            session.first = First::Over;
        }
    }

    /// The turn has ended: receipts are decided, and whoever has everything is gone.
    pub(super) fn turn_ended(&mut self, view: &mut View<'_>, expected: &mut Expected) -> Checked {
        let due = self.sessions.iter();
        let due = due.filter(|(_, session)| matches!(session.first, First::Due { .. }));
        let due: Vec<SessionKey> = due.map(|(key, _)| *key).collect();
        for key in due {
            self.decide_first(key, expected);
        }
        self.take_effects(view, &mut Told::default(), expected)?;
        for (key, session) in &self.sessions {
            let is_finishing = matches!(session.phase, Phase::Finishing { .. });
            if is_finishing && session.has_everything() {
                ensure!(
                    matches!(session.first, First::Due { .. }) || self.undecided(*key) > 0,
                    "end",
                    "{key:?} has everything, and its connection is still open"
                );
            }
        }
        self.check_intake_holds(view)
    }

    fn decide_first(&mut self, key: SessionKey, expected: &mut Expected) {
        if self.undecided(key) > 0 {
            return;
        }
        let Some(session) = self.sessions.get_mut(&key) else { return };
        let First::Due { message, frames_taken, copies, broadcast_to } =
            std::mem::replace(&mut session.first, First::Over)
        else {
            return;
        };
        let came_alone = session.frames_taken == frames_taken
            && session.newest_turn.1 + 1 == frames_taken
            && session.buffered == 0;
        if !came_alone || session.is_deaf {
            return;
        }
        let is_there = |(receiver, _): &(SessionKey, bool)| self.sessions.contains_key(receiver);
        let written =
            copies.iter().filter(|copy| is_there(copy)).filter(|(_, is_written)| *is_written);
        let written = written.count();
        let is_lost = !copies.iter().all(is_there);
        let id = OwedId::of(&message);
        let Some(session) = self.sessions.get_mut(&key) else { return };
        if is_lost && broadcast_to.is_none() {
            session.owe_late(Owed::Error { code: ErrorCode::ReceiverGone, id });
            return;
        }
        let targets = broadcast_to.unwrap_or(1);
        let is_delivered = targets > 0 && written == targets;
        let status = if is_delivered { Status::Delivered } else { Status::Accepted };
        expected.receipts += 1;
        session.owe_late(Owed::Receipt { id, status, endpoints: broadcast_to });
    }
}

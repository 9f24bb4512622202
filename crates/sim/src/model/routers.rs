//! One router after another: what it takes over, and what it leaves.

use hermes_bus_core::{Config, Lingering, SessionKey};
use hermes_bus_proto::limits::HEADER_BYTES;

use crate::call::{View, Violation};

use super::lingering::held_bytes;
use super::message::Copied;
use super::session::First;
use super::{Checked, Delays, Model, NameState, ensure};

impl Model {
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
                known.held.len() == record.messages.len(),
                "restart",
                "{} messages are handed over for {name:?}, not {}",
                record.messages.len(),
                known.held.len()
            );
            for (copy, left) in known.held.iter().zip(&record.messages) {
                ensure!(
                    copy.message.is(&left.frame[HEADER_BYTES..]),
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

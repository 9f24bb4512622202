//! Sessions that want to see what others do: who comes and goes, and what goes through.
//!
//! Whether anybody looks is known without looking for them, so that a message costs nothing more where
//! nobody does. Who may look is for the router to decide.

use alloc::collections::BTreeMap;

use hermes_bus_proto::requests::{TapMode, Watch};

use crate::session::SessionKey;

/// The sessions that watch, and what.
#[derive(Default)]
pub(crate) struct Watchers {
    sessions: BTreeMap<SessionKey, Watch>,
    /// How many hear of endpoints.
    presence: usize,
    /// How many see envelopes.
    envelopes: usize,
    /// How many see messages.
    messages: usize,
}

impl Watchers {
    /// From now on a session watches this, instead of what it has watched before.
    pub(crate) fn set(&mut self, session: SessionKey, watch: Watch) {
        let before = self.of(session);
        self.count(before, |number| *number -= 1);
        self.count(watch, |number| *number += 1);
        if watch == Watch::default() {
            self.sessions.remove(&session);
        } else {
            self.sessions.insert(session, watch);
        }
    }

    /// A session is over.
    pub(crate) fn remove(&mut self, session: SessionKey) {
        self.set(session, Watch::default());
    }

    /// What a session watches.
    pub(crate) fn of(&self, session: SessionKey) -> Watch {
        self.sessions.get(&session).copied().unwrap_or_default()
    }

    /// Whether anybody hears of endpoints.
    pub(crate) fn has_presence(&self) -> bool {
        self.presence > 0
    }

    /// Whether anybody sees anything of messages.
    #[inline]
    pub(crate) fn has_taps(&self) -> bool {
        self.envelopes + self.messages > 0
    }

    #[cfg(test)]
    /// Whether anybody has this mode.
    pub(crate) fn has_tap(&self, mode: TapMode) -> bool {
        match mode {
            TapMode::Off => false,
            TapMode::Envelopes => self.envelopes > 0,
            TapMode::Messages => self.messages > 0,
        }
    }

    /// Those who hear of endpoints, always in the same order.
    pub(crate) fn presence(&self) -> impl Iterator<Item = SessionKey> {
        let wanting = self.sessions.iter().filter(|(_, watch)| watch.presence);
        wanting.map(|(session, _)| *session)
    }

    /// Those who see messages in this mode, always in the same order.
    pub(crate) fn taps(&self, mode: TapMode) -> impl Iterator<Item = SessionKey> {
        let wanting = self.sessions.iter().filter(move |(_, watch)| watch.tap == mode);
        wanting.map(|(session, _)| *session).filter(move |_| mode != TapMode::Off)
    }

    fn count(&mut self, watch: Watch, change: impl Fn(&mut usize)) {
        if watch.presence {
            change(&mut self.presence);
        }
        match watch.tap {
            TapMode::Off => {}
            TapMode::Envelopes => change(&mut self.envelopes),
            TapMode::Messages => change(&mut self.messages),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(index: u32) -> SessionKey {
        SessionKey { index, generation: 1 }
    }

    fn watch(presence: bool, tap: TapMode) -> Watch {
        Watch { presence, tap }
    }

    fn presence(watchers: &Watchers) -> Vec<usize> {
        watchers.presence().map(SessionKey::index).collect()
    }

    fn taps(watchers: &Watchers) -> [Vec<usize>; 3] {
        TapMode::ALL.map(|mode| watchers.taps(mode).map(SessionKey::index).collect())
    }

    #[test]
    fn each_session_sees_what_it_asked_for_last() {
        let mut watchers = Watchers::default();
        assert!(!watchers.has_presence() && !watchers.has_taps());
        watchers.set(session(3), watch(true, TapMode::Messages));
        watchers.set(session(1), watch(false, TapMode::Envelopes));
        watchers.set(session(2), watch(true, TapMode::Off));
        assert_eq!(presence(&watchers), [2, 3]);
        assert_eq!(taps(&watchers), [vec![], vec![1], vec![3]]);
        watchers.set(session(3), watch(false, TapMode::Envelopes));
        assert_eq!(presence(&watchers), [2]);
        assert_eq!(taps(&watchers), [vec![], vec![1, 3], vec![]]);
        assert_eq!(TapMode::ALL.map(|mode| watchers.has_tap(mode)), [false, true, false]);
        assert_eq!(watchers.of(session(3)), watch(false, TapMode::Envelopes));
    }

    #[test]
    fn who_is_gone_or_wants_nothing_is_forgotten() {
        let mut watchers = Watchers::default();
        for index in 0..3 {
            watchers.set(session(index), watch(true, TapMode::Messages));
        }
        watchers.set(session(0), Watch::default());
        watchers.remove(session(1));
        watchers.remove(session(1));
        watchers.remove(session(7));
        assert!(watchers.has_presence() && watchers.has_taps());
        assert_eq!((presence(&watchers), watchers.sessions.len()), (vec![2], 1));
        watchers.remove(session(2));
        assert!(!watchers.has_presence() && !watchers.has_taps() && watchers.sessions.is_empty());
    }
}

//! One name: who holds it, what is held for it while its session is away for a moment, and how
//! often sessions have taken it from each other.

use core::time::Duration;
use std::collections::VecDeque;

use hermes_bus_proto::EndpointName;

use crate::outbox::LooseMessage;
use crate::session::SessionKey;
use crate::time::Moment;

/// A place in the router's table of endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct EndpointKey(pub(crate) usize);

/// A name that is in use or lingers.
pub(crate) struct Endpoint {
    pub(crate) name: EndpointName,
    pub(crate) state: EndpointState,
    /// A session that lost the name but still reads what was queued for it.
    pub(crate) draining: Option<SessionKey>,
    pub(crate) fight: Fight,
}

pub(crate) enum EndpointState {
    /// A session holds the name.
    Held(SessionKey),
    /// Its session ended a moment ago.
    Lingering(Linger),
}

/// What waits for a name whose session ended.
#[derive(Default)]
pub(crate) struct Linger {
    pub(crate) until: Moment,
    /// The user of the session that ended: only the same user gets what is held.
    pub(crate) uid: u32,
    /// Oldest first.
    pub(crate) messages: VecDeque<LooseMessage>,
    pub(crate) bytes: usize,
}

/// Replacements of live sessions of one name, and the pause that they lead to.
#[derive(Default)]
pub(crate) struct Fight {
    /// The last few replacements.
    recent: VecDeque<Moment>,
    pause: Option<Duration>,
}

/// So many replacements within [`FIGHT_WINDOW`] are no fight yet.
const REPLACEMENTS_FREE: usize = 3;
const FIGHT_WINDOW: Duration = Duration::from_secs(10);
const PAUSE_FIRST: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(1);

impl Fight {
    /// Takes note of a replacement and says how long the newcomer is to wait.
    pub(crate) fn replacement(&mut self, now: Moment) -> Option<Duration> {
        while self.recent.front().is_some_and(|first| now.since(*first) > FIGHT_WINDOW) {
            self.recent.pop_front();
        }
        self.pause = if self.recent.len() < REPLACEMENTS_FREE {
            None
        } else {
            self.recent.pop_front();
            Some(self.pause.map_or(PAUSE_FIRST, |pause| (pause * 2).min(PAUSE_MAX)))
        };
        self.recent.push_back(now);
        self.pause
    }

    /// Whether the newest pause was the first one of this fight.
    pub(crate) fn has_just_begun(&self) -> bool {
        self.pause == Some(PAUSE_FIRST)
    }
}

impl Endpoint {
    pub(crate) fn holder(&self) -> Option<SessionKey> {
        match self.state {
            EndpointState::Held(key) => Some(key),
            EndpointState::Lingering(_) => None,
        }
    }
}

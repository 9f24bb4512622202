//! One name: who holds it, what is held for it while its session is away for a moment, and how
//! often sessions have taken it from each other.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use core::time::Duration;

use hermes_bus_proto::EndpointName;

use crate::backlog::Backlog;
use crate::outbox::LooseMessage;
use crate::session::SessionKey;
use crate::time::Moment;
use crate::{CloseReason, Config};

/// A place in the router's table of endpoints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct EndpointKey(pub(crate) usize);

/// A name that is in use or lingers.
pub(crate) struct Endpoint {
    pub(crate) name: EndpointName,
    pub(crate) state: EndpointState,
    /// A session that lost the name but still reads what was queued for it.
    pub(crate) draining: Option<SessionKey>,
    pub(crate) fight: Fight,
    /// The user who registered it last, or whose it was before: what waits for it is theirs.
    pub(crate) uid: u32,
    /// Nobody has registered it yet; messages wait for it because the configuration names it. They are
    /// for the first who may have the name.
    pub(crate) is_unclaimed: bool,
    /// Whether messages wait for it while it is away.
    pub(crate) mailbox: bool,
    /// The same as it was last remembered on disk.
    pub(crate) remembered_mailbox: bool,
    /// What waits for it besides its session's queue.
    pub(crate) backlog: Option<Box<Backlog>>,
    /// Whether its session acknowledges.
    pub(crate) acks: bool,
    /// UUID of its newest session.
    pub(crate) last_session: Box<str>,
    /// Why that one ended.
    pub(crate) ended: Option<CloseReason>,
}

pub(crate) enum EndpointState {
    /// A session holds the name.
    Held(SessionKey),
    /// Its session ended a moment ago.
    Lingering(Linger),
    /// It has no session, but a mailbox, or messages that were queued for it.
    Away,
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
    /// What an earlier process of the bus had held already: so much more may be held.
    pub(crate) inherited_bytes: usize,
}

/// Replacements of live sessions of one name, and the pause that they lead to.
#[derive(Default)]
pub(crate) struct Fight {
    /// The last few replacements.
    recent: VecDeque<Moment>,
    pause: Option<Duration>,
}

impl Fight {
    /// Takes note of a replacement and says how long the newcomer is to wait.
    pub(crate) fn replacement(&mut self, config: &Config, now: Moment) -> Option<Replacement> {
        while self.recent.front().is_some_and(|first| now.since(*first) > config.fight_window) {
            self.recent.pop_front();
        }
        let is_fight = self.recent.len() >= config.fight_replacements;
        self.recent.push_back(now);
        if !is_fight {
            self.pause = None;
            return None;
        }
        while self.recent.len() > config.fight_replacements.max(1) {
            self.recent.pop_front();
        }
        let has_just_begun = self.pause.is_none();
        let pause = self.pause.map_or(config.fight_pause, |pause| pause * 2);
        let pause = pause.min(config.fight_pause_max);
        self.pause = Some(pause);
        Some(Replacement { pause, has_just_begun })
    }
}

/// A replacement that is part of a fight.
pub(crate) struct Replacement {
    /// How long the newcomer is to wait.
    pub(crate) pause: Duration,
    /// Whether it is the first one of this fight.
    pub(crate) has_just_begun: bool,
}

impl Endpoint {
    pub(crate) fn new(name: EndpointName, uid: u32, state: EndpointState) -> Self {
        Endpoint {
            name,
            state,
            draining: None,
            fight: Fight::default(),
            uid,
            is_unclaimed: false,
            mailbox: false,
            remembered_mailbox: false,
            backlog: None,
            acks: false,
            last_session: Box::default(),
            ended: None,
        }
    }

    /// Whether a message for it needs nothing but a place in its session's queue.
    #[inline]
    pub(crate) fn is_plain(&self) -> bool {
        !self.mailbox && !self.acks && self.backlog.is_none()
    }

    pub(crate) fn holder(&self) -> Option<SessionKey> {
        match self.state {
            EndpointState::Held(key) => Some(key),
            EndpointState::Lingering(_) | EndpointState::Away => None,
        }
    }
}

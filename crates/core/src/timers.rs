//! Deadlines, soonest first. A timer only says "look again": what is due is decided by the state
//! that it finds, and who looks too early sets it anew. So there is never more than one timer of a
//! kind for a session or endpoint, and none for one that has ended: their number is bounded by what
//! exists, however busy it is.

use alloc::collections::BTreeSet;

use hashbrown::HashMap;

use crate::endpoint::EndpointKey;
use crate::session::SessionKey;
use crate::time::Moment;

/// What to look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Timer {
    Heartbeat(SessionKey),
    FrameDeadline(SessionKey),
    Drain(SessionKey),
    Uncork(SessionKey),
    Pong(SessionKey),
    WaitingSenders(SessionKey),
    Pace(SessionKey),
    LingerAnswer(EndpointKey),
    LingerEnd(EndpointKey),
    /// A message in memory expires.
    Expiry(EndpointKey),
    /// A message that was given back comes again.
    Paused(EndpointKey),
    /// Whether a session has read what is kept until it has.
    LookWhetherRead(SessionKey),
    /// A broadcast's receipt does not wait any longer.
    ReceiptWait,
    /// Senders have waited long enough for the disk.
    DiskStall,
    /// Whether the disk has caught up.
    DiskRecovery,
    /// Messages on disk expire.
    Sweep,
}

#[derive(Default)]
pub(crate) struct Timers {
    queue: BTreeSet<(Moment, Timer)>,
    set: HashMap<Timer, Moment, foldhash::fast::FixedState>,
}

impl Timers {
    /// Has `timer` looked at at `at`, or before that, if it is set for an earlier moment already.
    pub(crate) fn set(&mut self, at: Moment, timer: Timer) {
        let earlier = self.set.get(&timer).copied();
        if earlier.is_some_and(|earlier| earlier <= at) {
            return;
        }
        self.forget(timer);
        self.set.insert(timer, at);
        self.queue.insert((at, timer));
    }

    pub(crate) fn forget(&mut self, timer: Timer) {
        if let Some(at) = self.set.remove(&timer) {
            self.queue.remove(&(at, timer));
        }
    }

    /// Forgets the timers of a session that has ended.
    pub(crate) fn forget_session(&mut self, key: SessionKey) {
        let kinds = [
            Timer::Heartbeat,
            Timer::FrameDeadline,
            Timer::Drain,
            Timer::Uncork,
            Timer::Pong,
            Timer::WaitingSenders,
            Timer::Pace,
            Timer::LookWhetherRead,
        ];
        for kind in kinds {
            self.forget(kind(key));
        }
    }

    /// Forgets the timers of an endpoint that is no more.
    pub(crate) fn forget_endpoint(&mut self, key: EndpointKey) {
        self.forget(Timer::LingerAnswer(key));
        self.forget(Timer::LingerEnd(key));
        self.forget(Timer::Expiry(key));
        self.forget(Timer::Paused(key));
    }

    /// How many are set.
    pub(crate) fn len(&self) -> usize {
        self.queue.len()
    }

    pub(crate) fn next_at(&self) -> Option<Moment> {
        self.queue.first().map(|(at, _)| *at)
    }

    /// The next timer that is due.
    pub(crate) fn pop_due(&mut self, now: Moment) -> Option<Timer> {
        if self.next_at()? > now {
            return None;
        }
        let (_, timer) = self.queue.pop_first()?;
        self.set.remove(&timer);
        Some(timer)
    }
}

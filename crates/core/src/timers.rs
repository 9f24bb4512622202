//! Deadlines, soonest first. A timer only says "look again": what is due is decided by the state
//! that it finds, so that a timer which has become pointless does no harm.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::endpoint::EndpointKey;
use crate::session::SessionKey;
use crate::time::Moment;

/// What to look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Timer {
    Heartbeat(SessionKey),
    FrameDeadline(SessionKey),
    Drain(SessionKey),
    Uncork(SessionKey),
    Pong(SessionKey),
    WaitingSenders(SessionKey),
    LingerAnswer(EndpointKey),
    LingerEnd(EndpointKey),
}

struct Entry {
    at: Moment,
    /// Timers of one moment fire in the order in which they were set.
    serial: u64,
    timer: Timer,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}
impl Eq for Entry {}
impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Entry {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.serial).cmp(&(other.at, other.serial))
    }
}

#[derive(Default)]
pub(crate) struct Timers {
    heap: BinaryHeap<Reverse<Entry>>,
    serial: u64,
}

impl Timers {
    pub(crate) fn set(&mut self, at: Moment, timer: Timer) {
        self.serial += 1;
        self.heap.push(Reverse(Entry { at, serial: self.serial, timer }));
    }

    pub(crate) fn next_at(&self) -> Option<Moment> {
        self.heap.peek().map(|Reverse(entry)| entry.at)
    }

    /// The next timer that is due.
    pub(crate) fn pop_due(&mut self, now: Moment) -> Option<Timer> {
        if self.next_at()? > now {
            return None;
        }
        self.heap.pop().map(|Reverse(entry)| entry.timer)
    }
}

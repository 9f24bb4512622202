//! What lies between the handle and the thread that writes. Neither holds the lock for longer than it
//! takes to put something in or to take it all out.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hermes_bus_core::storage::{Answer, Order, Ticket};
use hermes_bus_proto::control::Status;

use crate::history::HistoryEntry;
use crate::notice::Notice;
use crate::store::Unavailable;

/// Called when dead letters are gone, or cannot be removed.
pub(crate) type Done = Box<dyn FnOnce(Result<u64, Unavailable>) + Send>;

/// Something for the thread to do, in its turn.
pub(crate) enum Work {
    Order(Ticket, Order),
    RemoveDead(Vec<u64>, Done),
}

impl Work {
    /// Whether somebody waits for it, so that it is carried out at once.
    fn is_urgent(&self) -> bool {
        match self {
            Work::Order(_, Order::Keep(record)) => record.wanted == Some(Status::Stored),
            Work::Order(_, Order::Load { .. } | Order::LoadOverdue { .. }) => true,
            Work::Order(..) => false,
            Work::RemoveDead(..) => true,
        }
    }

    /// What it weighs in memory, roughly.
    fn bytes(&self) -> usize {
        const EACH: usize = 64;
        EACH + match self {
            Work::Order(_, Order::Keep(record)) => record.payload.len(),
            Work::Order(_, Order::Bury(letter)) => letter.record.payload.len(),
            Work::Order(_, Order::Release { seqs, .. }) => seqs.len() * 8,
            Work::Order(..) | Work::RemoveDead(..) => 0,
        }
    }
}

/// How the thread is to end.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Ending {
    /// In good order, with the next `seq` if it is known.
    Clean(Option<u64>),
    /// With all that was given written, and nothing said about how it ended.
    Dropped,
}

#[derive(Default)]
struct Queue {
    work: Vec<Work>,
    /// Room for work, to be used again: growing anew for each commit leaves holes in the memory.
    spare: Vec<Work>,
    /// Work that was carried out, for its memory to be given back by the thread that has asked for it:
    /// the system's allocator has threads wait for each other that free what others allocate.
    done: Vec<Vec<Work>>,
    /// When the oldest work came.
    since: Option<Instant>,
    is_urgent: bool,
    /// The thread waits, and has to be woken: to wake nobody is a call of the system, too.
    is_waiting: bool,
    bytes: usize,
    history: Vec<HistoryEntry>,
    history_bytes: usize,
    history_dropped: u64,
    ending: Option<Ending>,
}

/// What the thread has to do next.
pub(crate) enum Next {
    /// Carry this out in one commit.
    Work(Vec<Work>),
    /// Nothing was given until the time asked for, or history waits.
    Idle,
    /// End. Nothing is left to be done.
    End(Ending),
}

/// Whether the thread can write history now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HistoryIs {
    Welcome,
    Unwelcome,
}

/// What the handle and the thread have in common.
#[derive(Default)]
pub(crate) struct Shared {
    queue: Mutex<Queue>,
    something: Condvar,
    answers: Mutex<Vec<Answer>>,
    notices: Mutex<Vec<Notice>>,
    /// What somebody else than the thread has found to be wrong with the database.
    damage: Mutex<Option<String>>,
}

/// Orders of one commit at most.
const BATCH_ORDERS_MAX: usize = 64 * 1024;
/// Room for so many orders at most is kept to be used again.
const SPARE_ORDERS_MAX: usize = 8 * 1024;
/// Bytes of one commit at most.
const BATCH_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Notices that wait to be taken; further ones are dropped.
const NOTICES_MAX: usize = 1_000;
/// What an entry of history weighs besides its payload.
const HISTORY_ENTRY_BYTES: usize = 64;

/// A thread that panicked while it held one of these locks was only moving things.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// Gives the thread something to do.
    pub(crate) fn give(&self, work: impl Iterator<Item = Work>) {
        let mut queue = locked(&self.queue);
        let was_empty = queue.since.is_none();
        for work in work {
            queue.is_urgent |= work.is_urgent();
            queue.bytes += work.bytes();
            queue.work.push(work);
        }
        if queue.work.is_empty() {
            return;
        }
        queue.since.get_or_insert_with(Instant::now);
        // Else it knows until when it gathers.
        if was_empty || queue.is_urgent || queue.is_full() {
            self.wake(queue);
        }
    }

    /// Wakes the thread if it waits. It needs the lock, so that is let go of first.
    fn wake(&self, mut queue: MutexGuard<'_, Queue>) {
        let was_waiting = std::mem::take(&mut queue.is_waiting);
        drop(queue);
        if was_waiting {
            self.something.notify_one();
        }
    }

    /// Gives back work that was carried out.
    pub(crate) fn give_back(&self, work: Vec<Work>) {
        if !work.is_empty() {
            locked(&self.queue).done.push(work);
        }
    }

    /// Drops work that was carried out. To be called by the thread that gives it.
    fn drop_what_is_done(&self) {
        let done = std::mem::take(&mut locked(&self.queue).done);
        for mut work in done {
            work.clear();
            if work.capacity() <= SPARE_ORDERS_MAX {
                locked(&self.queue).spare = work;
            }
        }
    }

    /// Gives the thread history to write, as much as there is room for.
    pub(crate) fn give_history(&self, entries: Vec<HistoryEntry>, bytes_max: usize) {
        let mut queue = locked(&self.queue);
        for entry in entries {
            let bytes = entry.payload.len() + HISTORY_ENTRY_BYTES;
            if queue.history_bytes + bytes > bytes_max {
                queue.history_dropped += 1;
            } else {
                queue.history_bytes += bytes;
                queue.history.push(entry);
            }
        }
        self.wake(queue);
    }

    /// History that waits, of not much more than `bytes_max` bytes, and how many entries were dropped
    /// since this was asked last.
    pub(crate) fn take_history(&self, bytes_max: usize) -> (Vec<HistoryEntry>, u64) {
        let mut queue = locked(&self.queue);
        let mut bytes = 0;
        let mut entries = 0;
        while bytes < bytes_max && entries < queue.history.len() {
            bytes += queue.history[entries].payload.len() + HISTORY_ENTRY_BYTES;
            entries += 1;
        }
        queue.history_bytes -= bytes;
        let taken = queue.history.drain(..entries).collect();
        (taken, std::mem::take(&mut queue.history_dropped))
    }

    /// Bytes of history that wait.
    pub(crate) fn history_bytes(&self) -> usize {
        locked(&self.queue).history_bytes
    }

    /// Whether there is work.
    pub(crate) fn has_work(&self) -> bool {
        let queue = locked(&self.queue);
        !queue.work.is_empty() || queue.ending.is_some()
    }

    /// Has the thread end when it has done all.
    pub(crate) fn end(&self, ending: Ending) {
        let mut queue = locked(&self.queue);
        queue.ending.get_or_insert(ending);
        self.wake(queue);
    }

    /// Waits for something to do, but not longer than until `idle_at`. What nobody waits for is
    /// gathered for as long as `gather`.
    pub(crate) fn next(&self, idle_at: Instant, gather: Duration, history: HistoryIs) -> Next {
        let mut queue = locked(&self.queue);
        loop {
            let now = Instant::now();
            let mut until = idle_at;
            if let Some(since) = queue.since {
                let due = since + gather;
                if queue.is_urgent || queue.is_full() || now >= due || queue.ending.is_some() {
                    return Next::Work(queue.take());
                }
                until = until.min(due);
            } else if let Some(ending) = queue.ending {
                return Next::End(ending);
            }
            let has_history = history == HistoryIs::Welcome && !queue.history.is_empty();
            if now >= idle_at || has_history && queue.since.is_none() {
                return Next::Idle;
            }
            queue.is_waiting = true;
            let waited = self.something.wait_timeout(queue, until - now);
            queue = waited.unwrap_or_else(PoisonError::into_inner).0;
            queue.is_waiting = false;
        }
    }

    pub(crate) fn answer(&self, answers: Vec<Answer>) {
        locked(&self.answers).extend(answers);
    }

    pub(crate) fn take_answers(&self) -> Vec<Answer> {
        self.drop_what_is_done();
        std::mem::take(&mut locked(&self.answers))
    }

    pub(crate) fn notice(&self, notice: Notice) {
        let mut notices = locked(&self.notices);
        if notices.len() < NOTICES_MAX {
            notices.push(notice);
        }
    }

    /// Tells the thread that the database is damaged. It looks about once a second.
    pub(crate) fn found_damage(&self, why: String) {
        *locked(&self.damage) = Some(why);
    }

    pub(crate) fn take_damage(&self) -> Option<String> {
        locked(&self.damage).take()
    }

    pub(crate) fn take_notices(&self) -> Vec<Notice> {
        std::mem::take(&mut locked(&self.notices))
    }
}

impl Queue {
    /// Whether there is as much as one commit may hold.
    fn is_full(&self) -> bool {
        self.work.len() >= BATCH_ORDERS_MAX || self.bytes >= BATCH_BYTES_MAX
    }

    /// Takes what one commit may hold.
    fn take(&mut self) -> Vec<Work> {
        let is_all = self.work.len() <= BATCH_ORDERS_MAX && self.bytes <= BATCH_BYTES_MAX;
        if is_all {
            self.bytes = 0;
            self.since = None;
            self.is_urgent = false;
            let spare = std::mem::take(&mut self.spare);
            return std::mem::replace(&mut self.work, spare);
        }
        let mut bytes = 0;
        let mut count = 0;
        while count < self.work.len().min(BATCH_ORDERS_MAX)
            && (count == 0 || bytes < BATCH_BYTES_MAX)
        {
            bytes += self.work[count].bytes();
            count += 1;
        }
        self.bytes -= bytes;
        let rest = self.work.split_off(count);
        let taken = std::mem::replace(&mut self.work, rest);
        if self.work.is_empty() {
            self.since = None;
        }
        // Whether what is left is urgent is not known any more; it has waited long enough.
        self.is_urgent = !self.work.is_empty();
        taken
    }
}

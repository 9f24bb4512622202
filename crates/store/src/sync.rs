//! The thread that syncs the log, while the next commit is made, and says then what is stored.
//!
//! A commit waits here until a sync that began after it has ended. Syncs are those of the log alone, one
//! at a time, each for all that has come meanwhile. After one that failed nothing is synced any more until
//! the writer has taken back every commit from the failed one on: what a failed sync has left in the
//! system's cache would otherwise be taken for durable by the next one that succeeds.

use std::sync::{Arc, PoisonError};
use std::thread::{self, JoinHandle};

use hermes_bus_core::storage::Answer;

use crate::database::{End, Log};
use crate::queue::{Shared, Work};

/// Commits that may wait, the one that is synced included. With more of them orders would reach the log
/// that could still come together with what takes them back.
const COMMITS_MAX: usize = 2;

/// What was committed and is not durable yet.
#[derive(Default)]
pub(crate) struct Committed {
    /// The log as the commit has left it.
    pub(crate) log: Log,
    /// What was done.
    pub(crate) work: Vec<Work>,
    /// What there is to say about it.
    pub(crate) answers: Vec<Answer>,
    /// How many dead letters each [`Work::RemoveDead`] has removed.
    pub(crate) removed_dead: Vec<u64>,
}

impl Committed {
    /// Says that it is durable.
    pub(crate) fn tell(self, shared: &Shared, wake: &dyn Fn()) {
        let Committed { log: _, mut work, answers, removed_dead } = self;
        if !answers.is_empty() {
            shared.answer(answers);
            wake();
        }
        if !removed_dead.is_empty() {
            let mut removed = removed_dead.into_iter();
            for one in work.extract_if(.., |one| matches!(one, Work::RemoveDead(..))) {
                let Work::RemoveDead(_, done) = one else { continue };
                done(Ok(removed.next().unwrap_or(0)));
            }
        }
        if !work.is_empty() {
            shared.recycle(work);
        }
    }
}

/// Where syncing stands.
#[derive(Default)]
pub(crate) struct Syncing {
    waiting: Vec<Committed>,
    /// Commits that are being synced.
    under_way: usize,
    /// The log is durable up to here.
    synced: End,
    failed: Option<Failed>,
    is_over: bool,
}

/// A sync that failed.
pub(crate) struct Failed {
    pub(crate) error: rusqlite::Error,
    /// All that is not durable because of it, oldest first.
    pub(crate) commits: Vec<Committed>,
}

impl Syncing {
    pub(crate) fn has_failed(&self) -> bool {
        self.failed.is_some()
    }

    /// Whether a commit may be made.
    pub(crate) fn has_room(&self) -> bool {
        self.waiting.len() + self.under_way < COMMITS_MAX
    }

    /// Whether everything that was committed is durable.
    pub(crate) fn is_done(&self) -> bool {
        self.waiting.is_empty() && self.under_way == 0 && self.failed.is_none()
    }
}

/// The thread.
pub(crate) struct Syncer {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Syncer {
    /// Starts it. `synced` is where the log ends now.
    pub(crate) fn start(
        shared: &Arc<Shared>,
        wake: &Arc<dyn Fn() + Send + Sync>,
        synced: End,
    ) -> std::io::Result<Self> {
        shared.queue().syncing.synced = synced;
        let (own, wake) = (Arc::clone(shared), Arc::clone(wake));
        let thread = thread::Builder::new().name("store sync".to_owned());
        let thread = thread.spawn(move || run(&own, &*wake))?;
        Ok(Syncer { shared: Arc::clone(shared), thread: Some(thread) })
    }
}

impl Drop for Syncer {
    fn drop(&mut self) {
        self.shared.queue().syncing.is_over = true;
        self.shared.to_sync.notify_one();
        if let Some(thread) = self.thread.take() {
            // One that panicked has nothing to say any more.
            let _ = thread.join();
        }
    }
}

fn run(shared: &Shared, wake: &dyn Fn()) {
    while let Some((commits, synced)) = shared.commits_to_sync() {
        let Some(log) = commits.last().map(|last| last.log.clone()) else { continue };
        // What has only read needs none.
        let result = if log.end == synced { Ok(()) } else { log.sync() };
        match result {
            Ok(()) => {
                for commit in commits {
                    commit.tell(shared, wake);
                }
                let mut queue = shared.queue();
                queue.syncing.synced = log.end;
                queue.syncing.under_way = 0;
            }
            Err(error) => {
                let mut queue = shared.queue();
                let mut failed = Failed { error, commits };
                failed.commits.append(&mut queue.syncing.waiting);
                queue.syncing.under_way = 0;
                queue.syncing.failed = Some(failed);
            }
        }
        shared.nudge();
    }
}

impl Shared {
    /// Takes a commit that is to be synced, and has what there is to say about it said then.
    pub(crate) fn committed(&self, commit: Committed) {
        let mut queue = self.queue();
        match &mut queue.syncing.failed {
            Some(failed) => failed.commits.push(commit),
            None => {
                queue.syncing.waiting.push(commit);
                self.to_sync.notify_one();
            }
        }
    }

    /// Says where the log ends that was synced by other means. Nothing may be waiting.
    pub(crate) fn note_synced(&self, end: End) {
        self.queue().syncing.synced = end;
    }

    /// Waits for everything that was committed, and returns where the log is durable and what is not.
    pub(crate) fn wait_for_syncs(&self) -> (End, Option<Failed>) {
        let mut queue = self.queue();
        loop {
            if let Some(failed) = queue.syncing.failed.take() {
                return (queue.syncing.synced, Some(failed));
            }
            if queue.syncing.is_done() {
                return (queue.syncing.synced, None);
            }
            queue = self.wait(queue);
        }
    }

    /// Waits for something to sync, and says up to where that is done; none when there will be nothing
    /// any more.
    fn commits_to_sync(&self) -> Option<(Vec<Committed>, End)> {
        let mut queue = self.queue();
        loop {
            if !queue.syncing.waiting.is_empty() {
                let commits = std::mem::take(&mut queue.syncing.waiting);
                queue.syncing.under_way = commits.len();
                return Some((commits, queue.syncing.synced));
            }
            if queue.syncing.is_over {
                return None;
            }
            queue = self.to_sync.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

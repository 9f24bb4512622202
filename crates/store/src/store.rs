//! The handle of who drives the router.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use hermes_bus_core::storage::{Answer, Order, Recovered, Ticket};

use crate::history::HistoryEntry;
use crate::lock::Lock;
use crate::notice::{Notice, SetAside};
use crate::open;
use crate::options::{Options, Retention};
use crate::queue::{Ending, Shared, Work};
use crate::reader::{ReadError, Reader};

/// Why a store could not be opened. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process, or this one, has it open.
    #[error("the store {} is in use{}", path.display(), holder(*.pid))]
    InUse {
        /// The database.
        path: PathBuf,
        /// Who, if it said so.
        pid: Option<u32>,
    },
    /// A newer program wrote it.
    #[error(
        "the store {} has schema {found}, this program knows {known} and older; start the newer program",
        path.display()
    )]
    TooNew {
        /// The database.
        path: PathBuf,
        /// Its schema's version.
        found: u32,
        /// The newest known one.
        known: u32,
    },
    /// It cannot be read or written.
    #[error("the store {} cannot be opened: {why}", path.display())]
    Failed {
        /// The database.
        path: PathBuf,
        /// Why.
        why: String,
    },
}

fn holder(pid: Option<u32>) -> String {
    pid.map(|pid| format!(" by process {pid}")).unwrap_or_default()
}

/// The store cannot write now.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the store cannot write now: {0}")]
pub struct Unavailable(pub String);

/// Why a store could not be closed in good order. What it had said to be stored is stored.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CloseError {
    /// It was not done in time, and goes on in the background until the process ends.
    #[error("the store was not done in time")]
    Late,
    /// The last orders could not be written.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

/// A store that was opened.
#[derive(Debug)]
pub struct Opened {
    /// Its handle.
    pub store: Store,
    /// What the last process left, for [`Router::recover`](hermes_bus_core::Router::recover).
    pub recovered: Recovered,
    /// The damaged database in whose place a new one was made just now.
    pub set_aside: Option<SetAside>,
}

/// The handle of a store. Its thread lives until [`Store::close`]; dropped, it writes what it has
/// been given and ends, but the next one to open it takes its end for an unclean one.
pub struct Store {
    shared: Arc<Shared>,
    options: Options,
    /// Tells when the thread has ended.
    ended: Receiver<Result<(), CloseError>>,
    /// The check that may still go on after an unclean stop.
    check: Option<rusqlite::InterruptHandle>,
    lock: Lock,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("path", &self.options.path).finish_non_exhaustive()
    }
}

impl Store {
    /// Opens the database, makes it if there is none, and starts the thread that writes. `wake` is
    /// called from that thread when there is something to take.
    ///
    /// A damaged database is set aside, and what can be read of it goes into a new one.
    pub fn open(
        options: Options,
        wake: impl Fn() + Send + Sync + 'static,
    ) -> Result<Opened, OpenError> {
        let lock = open::lock(&options.path)?;
        let open::Prepared { database, recovered, set_aside } = open::prepare(&options)?;
        let shared = Arc::new(Shared::default());
        let wake: Arc<dyn Fn() + Send + Sync> = Arc::new(wake);
        let check = recovered
            .unclean
            .then(|| open::check_in_background(&options.path, &shared, &wake))
            .flatten();
        let (tell_ended, ended) = mpsc::channel();
        let writer = open::writer(options.clone(), &shared, wake, database, &recovered, tell_ended);
        let failed = |error: std::io::Error| OpenError::Failed {
            path: options.path.clone(),
            why: error.to_string(),
        };
        std::thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || writer.run())
            .map_err(failed)?;
        let store = Store { shared, options, ended, check, lock };
        Ok(Opened { store, recovered, set_aside })
    }

    /// Hands over orders, with ascending tickets. Never waits; the thread may, until the last one is
    /// here.
    pub fn submit(&self, orders: impl IntoIterator<Item = (Ticket, Order)>) {
        self.shared.give(orders.into_iter().map(|(ticket, order)| Work::Order(ticket, order)));
    }

    /// What there is to say to the router, oldest first.
    pub fn take_answers(&self) -> Vec<Answer> {
        self.shared.take_answers()
    }

    /// What there is to say to people.
    pub fn take_notices(&self) -> Vec<Notice> {
        self.shared.take_notices()
    }

    /// Records live traffic. Never waits: what is too much is dropped and counted.
    pub fn record_history(&self, entries: Vec<HistoryEntry>) {
        self.shared.give_history(entries, self.options.history_waiting_bytes_max);
    }

    /// How much is kept of dead letters and history from now on. What is too much then is removed, and
    /// counted, like what has become too much.
    pub fn retain(&self, dead_letters: Retention, history: Retention) {
        self.shared.retain(dead_letters, history);
    }

    /// Removes dead letters, and says how many of these there were, on the store's thread and when
    /// they are gone for good.
    ///
    /// It takes its turn behind all orders that were submitted before, and does nothing while the store
    /// cannot write. So a letter that is tried again is never lost: submit the [`Order::Keep`] of its
    /// message first, then remove the letter, both in one turn.
    pub fn remove_dead_letters(
        &self,
        numbers: Vec<u64>,
        done: impl FnOnce(Result<u64, Unavailable>) + Send + 'static,
    ) {
        self.shared.give(std::iter::once(Work::RemoveDead(numbers, Box::new(done))));
    }

    /// A read-only connection of its own.
    pub fn reader(&self) -> Result<Reader, ReadError> {
        Reader::open(&self.options.path)
    }

    /// Carries out all orders and ends. The next one to open the store gets `seq_next` as
    /// [`Recovered::seq_from`], or what follows the highest `seq` of any order, if that is more.
    pub fn close(self, seq_next: Option<u64>, deadline: Duration) -> Result<(), CloseError> {
        self.shared.end(Ending::Clean(seq_next));
        self.stop_check();
        match self.ended.recv_timeout(deadline) {
            Ok(result) => result,
            Err(mpsc::RecvTimeoutError::Timeout) => {
                // It still writes: nobody else may have the database before the process ends.
                self.lock.keep_for_ever();
                Err(CloseError::Late)
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                Err(Unavailable("its thread has ended before".to_owned()).into())
            }
        }
    }

    fn stop_check(&self) {
        if let Some(check) = &self.check {
            check.interrupt();
        }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.shared.end(Ending::Dropped);
        self.stop_check();
        // The lock is let go only when nothing is written any more. After a close in good order that
        // is long so, and after one that was late it is not let go at all.
        if !self.lock.is_kept_for_ever() {
            let _ = self.ended.recv();
        }
    }
}

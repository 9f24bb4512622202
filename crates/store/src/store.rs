//! The handle of who drives the router.

use std::path::PathBuf;
use std::time::Duration;

use hermes_bus_core::storage::{Answer, Order, Recovered, Ticket};

use crate::history::HistoryEntry;
use crate::notice::{Notice, SetAside};
use crate::options::Options;
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
#[derive(Debug)]
pub struct Store {}

impl Store {
    /// Opens the database, makes it if there is none, and starts the thread that writes. `wake` is
    /// called from that thread when there is something to take.
    ///
    /// A damaged database is set aside, and what can be read of it goes into a new one.
    pub fn open(options: Options, wake: impl Fn() + Send + 'static) -> Result<Opened, OpenError> {
        let _ = (options, wake);
        todo!()
    }

    /// Hands over orders, with ascending tickets. Never waits.
    pub fn submit(&self, orders: Vec<(Ticket, Order)>) {
        let _ = orders;
        todo!()
    }

    /// What there is to say to the router, oldest first.
    pub fn take_answers(&self) -> Vec<Answer> {
        todo!()
    }

    /// What there is to say to people.
    pub fn take_notices(&self) -> Vec<Notice> {
        todo!()
    }

    /// Records live traffic. Never waits: what is too much is dropped and counted.
    pub fn record_history(&self, entries: Vec<HistoryEntry>) {
        let _ = entries;
        todo!()
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
        let _ = (numbers, done);
        todo!()
    }

    /// A read-only connection of its own.
    pub fn reader(&self) -> Result<Reader, ReadError> {
        todo!()
    }

    /// Carries out all orders and ends. The next one to open the store gets `seq_next` as
    /// [`Recovered::seq_from`]; without it, what follows the highest `seq` of any order.
    pub fn close(self, seq_next: Option<u64>, deadline: Duration) -> Result<(), CloseError> {
        let _ = (seq_next, deadline);
        todo!()
    }
}

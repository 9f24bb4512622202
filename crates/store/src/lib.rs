//! Mailboxes, dead letters and history on disk.
//!
//! One SQLite database, one thread that writes. [`Store`] is the handle of who drives the router: it
//! hands over orders and takes answers, and never waits. The rules between the two are those of
//! [`hermes_bus_core::storage`]. [`Reader`] looks at the same database from any other thread.
//! [`check()`] examines a database that no daemon needs to be running for.
//!
//! Nothing in here decides where a message goes.

#![forbid(unsafe_code)]

mod check;
mod codes;
mod damage;
mod database;
mod execution;
mod find;
mod history;
mod load;
mod lock;
mod notice;
mod open;
mod options;
mod queue;
mod reader;
mod recover;
mod retention;
mod rows;
mod schema;
mod search;
mod spilled;
mod store;
#[cfg(test)]
mod tests;
mod text;
mod trace;
mod trail;
mod writer;

pub use check::{Report, check};
pub use history::{Depth, HistoryEntry};
pub use notice::{Notice, SetAside};
pub use options::{Options, Retention};
pub use reader::{
    Cursor, Figures, Found, Mailbox, NumberedDeadLetter, Page, Place, Query, ReadError, Reader,
    Seen, Sorting, Step,
};
pub use store::{CloseError, OpenError, Opened, Store, Unavailable};

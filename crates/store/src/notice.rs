//! What the store has to tell people, besides its answers to the router.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// A damaged database that was moved out of the way. Nothing of it is ever deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetAside {
    /// Where it is now. Its write-ahead log, if it had one, lies beside it.
    pub path: PathBuf,
    /// What was wrong with it.
    pub why: String,
    /// Rows that could be read and are in the new database.
    pub saved_rows: u64,
    /// Places where reading failed.
    pub unreadable: u64,
}

impl fmt::Display for SetAside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the store was damaged ({}): it was set aside as {}, and what could be read is in a new \
             one; rows saved: {}, places that could not be read: {}",
            self.why,
            self.path.display(),
            self.saved_rows,
            self.unreadable
        )
    }
}

/// Something for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// The integrity check after an unclean stop found nothing.
    Sound {
        /// How long it took.
        took: Duration,
    },
    /// The integrity check after an unclean stop found damage: the first findings.
    Damaged(Vec<String>),
    /// The database was found to be damaged while it was in use, and another one was put in its place.
    Replaced(SetAside),
    /// A message of a mailbox cannot be read and is passed over.
    Unreadable {
        /// Its `seq`.
        seq: u64,
        /// Why.
        why: String,
    },
    /// Entries of the history that were dropped, because the disk did not keep up with them.
    HistoryDropped(u64),
    /// Dead letters that were removed: so many had been kept for their time, and so many were too much
    /// for what may be kept of them.
    DeadLettersRemoved {
        /// For their age.
        aged: u64,
        /// For want of room.
        displaced: u64,
    },
    /// Search does not know the newest messages, because its index cannot be written.
    SearchFails(String),
}

impl Notice {
    /// Whether somebody should look.
    pub fn is_bad(&self) -> bool {
        !matches!(self, Notice::Sound { .. } | Notice::DeadLettersRemoved { displaced: 0, .. })
    }
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Notice::Sound { took } => {
                write!(f, "the store was checked after an unclean stop, in {took:.1?}: it is sound")
            }
            Notice::Damaged(findings) => write!(
                f,
                "the store is damaged: {}; what can be read goes into a new one",
                findings.join("; ")
            ),
            Notice::Replaced(set_aside) => write!(f, "{set_aside}"),
            Notice::Unreadable { seq, why } => {
                write!(f, "message {seq} of the store cannot be read and is passed over: {why}")
            }
            Notice::HistoryDropped(entries) => {
                write!(f, "entries of the history dropped: {entries}; the disk does not keep up")
            }
            Notice::DeadLettersRemoved { aged, displaced } => write!(
                f,
                "dead letters removed: {aged} had been kept for their time, {displaced} were too many"
            ),
            Notice::SearchFails(why) => write!(f, "search does not know new messages: {why}"),
        }
    }
}

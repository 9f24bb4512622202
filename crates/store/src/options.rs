//! What a store is opened with.

use std::path::PathBuf;
use std::time::Duration;

/// How long, and how much of it, something is kept. Whatever is reached first ends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Older ones are removed.
    pub age: Duration,
    /// The oldest are removed while all together have more bytes.
    pub bytes: u64,
}

/// What a store is opened with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The database file. Its directory exists.
    pub path: PathBuf,
    /// Dead letters. 7 days and 64 MiB by default.
    pub dead_letters: Retention,
    /// History of live traffic. 7 days and 256 MiB by default.
    pub history: Retention,
    /// The states of stored messages that have come to their end. 7 days and 64 MiB by default.
    pub trail: Retention,
    /// For how long messages are known by their ids: [`Recovered`](hermes_bus_core::storage::Recovered)
    /// names those of so long before. 10 minutes by default.
    pub recent: Duration,
    /// How many of those at most, the newest. 200,000 by default.
    pub recent_max: usize,
    /// How long a commit waits for more orders while nobody waits for it. 2 ms by default.
    pub gather: Duration,
    /// Bytes of history that may wait to be written; more is dropped and counted. 16 MiB by default.
    pub history_waiting_bytes_max: usize,
    /// How long after a failure to write it is tried again. 1 s by default.
    pub retry: Duration,
    /// The most that the database may grow to, in bytes; none is no limit but the disk's.
    pub database_bytes_max: Option<u64>,
}

impl Options {
    /// The defaults, for this database file.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        const MIB: u64 = 1024 * 1024;
        let week = |bytes| Retention { age: Duration::from_secs(7 * 24 * 3600), bytes };
        Options {
            path: path.into(),
            dead_letters: week(64 * MIB),
            history: week(256 * MIB),
            trail: week(64 * MIB),
            recent: Duration::from_secs(600),
            recent_max: 200_000,
            gather: Duration::from_millis(2),
            history_waiting_bytes_max: 16 * 1024 * 1024,
            retry: Duration::from_secs(1),
            database_bytes_max: None,
        }
    }
}

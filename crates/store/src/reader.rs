//! Looks at the database while somebody else writes it.

use std::path::Path;

use bytes::Bytes;
use hermes_bus_core::storage::{DeadLetter, Record};
use hermes_bus_proto::EndpointName;

/// Why the database could not be read.
#[derive(Debug, thiserror::Error)]
#[error("the store cannot be read: {0}")]
pub struct ReadError(pub(crate) String);

/// How much of a list is wanted at a time. At least one row is given if there is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page {
    /// Rows at most.
    pub rows_max: usize,
    /// Bytes of payload at most, but for the first row.
    pub bytes_max: usize,
}

/// A mailbox, or what waits for an endpoint that has none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mailbox {
    /// Whose.
    pub endpoint: EndpointName,
    /// Messages.
    pub messages: u64,
    /// The sum of their [`Record::load_bytes`].
    pub load_bytes: u64,
    /// When the oldest arrived, in microseconds of Unix time.
    pub oldest_unix_us: u64,
}

/// A dead letter and its number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NumberedDeadLetter {
    /// Names it. Grows, and is never used again.
    pub number: u64,
    /// The letter.
    pub letter: DeadLetter,
}

/// Where a message that was found lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    /// The history of live traffic.
    History,
    /// A mailbox, or what is queued for an endpoint.
    Mailbox,
    /// The dead letters.
    DeadLetters,
}

/// Which of two messages comes first in a list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sorting {
    /// The newest.
    #[default]
    NewestFirst,
    /// The oldest.
    OldestFirst,
}

/// Where a list goes on. Its text form is for who asks for the next page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    pub(crate) history: u64,
    pub(crate) mailbox: u64,
    pub(crate) dead_letters: u64,
}

/// Which messages are looked for. All conditions must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query {
    /// Words of the body, as a person types them: all of them must occur. `"some words"` must stand
    /// together, `begin*` stands for words that begin so, and Chinese, Japanese and Korean text is
    /// found wherever it stands. Nothing that can be typed is an error.
    pub text: Option<String>,
    /// The sender's endpoint, or what it said in `from`.
    pub from: Option<String>,
    /// The endpoint, `@group` or `#topic` that it was for.
    pub to: Option<String>,
    /// Arrived at this time or later, in microseconds of Unix time.
    pub since_unix_us: Option<u64>,
    /// Arrived before this time, in microseconds of Unix time.
    pub until_unix_us: Option<u64>,
    /// Where to look; empty means everywhere.
    pub places: Vec<Place>,
    /// What comes first.
    pub order: Sorting,
    /// Go on behind what an earlier query with the same conditions ended with.
    pub after: Option<Cursor>,
}

/// A message that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Where it lies.
    pub place: Place,
    /// Its `seq` in a mailbox, its number elsewhere.
    pub number: u64,
    /// When it arrived, in microseconds of Unix time.
    pub unix_us: u64,
    /// Who sent it: the sender's endpoint, or what it said in `from`.
    pub from: Option<String>,
    /// Whom it was for: the endpoint, or what it said in `to`.
    pub to: Option<String>,
    /// The `@group` or `#topic` that it came through.
    pub via: Option<String>,
    /// What became of it, in one word: `stored` in a mailbox, an error code for a dead letter.
    pub outcome: String,
    /// The JSON object, without its body where only envelopes are recorded.
    pub payload: Bytes,
}

/// How far a stored message came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// It arrived at the bus.
    Accepted,
    /// It was on disk.
    Stored,
    /// It was handed over to a session.
    Delivered,
    /// It came to its end.
    Ended,
}

/// One step of a stored message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// How far it came.
    pub step: Step,
    /// Whom it was for.
    pub endpoint: EndpointName,
    /// When, in microseconds of Unix time; none where that is not recorded.
    pub unix_us: Option<u64>,
    /// Its `seq`.
    pub seq: u64,
    /// How it ended, or how often it was handed over, in words; empty where there is nothing to say.
    pub detail: String,
}

/// Sizes and counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Bytes of the database file.
    pub database_bytes: u64,
    /// Bytes of it that are free to be used again.
    pub free_bytes: u64,
    /// Bytes of the write-ahead log's file.
    pub wal_bytes: u64,
    /// The schema's version.
    pub schema: u32,
    /// Messages that wait, spilled ones too.
    pub messages: u64,
    /// Dead letters.
    pub dead_letters: u64,
    /// Bytes of them.
    pub dead_letter_bytes: u64,
    /// Entries of the history.
    pub history_entries: u64,
    /// Bytes of them.
    pub history_bytes: u64,
    /// Ended messages whose states are known.
    pub trail_messages: u64,
    /// Bytes of those.
    pub trail_bytes: u64,
    /// Messages that search knows.
    pub indexed_messages: u64,
}

/// A look at the database: a read-only connection of its own. To be used by one thread at a time.
#[derive(Debug)]
pub struct Reader {}

impl Reader {
    /// Opens the database at `path`, which a [`Store`](crate::Store) has made.
    pub fn open(path: &Path) -> Result<Self, ReadError> {
        let _ = path;
        todo!()
    }

    /// For whom messages wait, by name. Spilled messages count.
    pub fn mailboxes(&self) -> Result<Vec<Mailbox>, ReadError> {
        todo!()
    }

    /// The messages that wait for an endpoint, ascending, from behind `after_seq` on.
    pub fn messages(
        &self,
        endpoint: &EndpointName,
        after_seq: Option<u64>,
        page: Page,
    ) -> Result<Vec<Record>, ReadError> {
        let _ = (endpoint, after_seq, page);
        todo!()
    }

    /// Dead letters, the newest first, from behind number `after` on.
    pub fn dead_letters(
        &self,
        after: Option<u64>,
        page: Page,
    ) -> Result<Vec<NumberedDeadLetter>, ReadError> {
        let _ = (after, page);
        todo!()
    }

    /// One dead letter.
    pub fn dead_letter(&self, number: u64) -> Result<Option<NumberedDeadLetter>, ReadError> {
        let _ = number;
        todo!()
    }

    /// Looks for messages. The cursor goes on behind the last one; none when there are no more. Words
    /// are found about a second after a message was written, later while the store is busy.
    pub fn find(
        &self,
        query: &Query,
        page: Page,
    ) -> Result<(Vec<Found>, Option<Cursor>), ReadError> {
        let _ = (query, page);
        todo!()
    }

    /// What is known of every stored message with this string `id`, oldest first. Reads all that
    /// waits: half a second for a million messages.
    pub fn trail(&self, id: &str) -> Result<Vec<Seen>, ReadError> {
        let _ = id;
        todo!()
    }

    /// Sizes and counts.
    pub fn figures(&self) -> Result<Figures, ReadError> {
        todo!()
    }

    /// Checks everything, and says what is wrong. Takes about a second for each gigabyte; the store
    /// goes on meanwhile, but its write-ahead log grows.
    pub fn integrity(&self) -> Result<Vec<String>, ReadError> {
        todo!()
    }

    /// Copies the database, as it is at one moment, to a file that is not there yet. The store goes on
    /// meanwhile. The copy is complete and synced when this returns; its bytes are returned.
    pub fn back_up(&self, to: &Path) -> Result<u64, ReadError> {
        let _ = to;
        todo!()
    }
}

//! Looks at the database while somebody else writes it.

use std::cell::RefCell;
use std::fmt;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use bytes::Bytes;
use hermes_bus_core::storage::{DeadLetter, Record};
use hermes_bus_proto::EndpointName;
use rusqlite::{Connection, InterruptHandle, OptionalExtension};

use crate::damage;
use crate::database::wal_file;
use crate::find;
use crate::rows::{self, DEAD_COLUMNS, MESSAGE_COLUMNS, MESSAGE_SOURCE, Names};
use crate::schema;
use crate::trace;

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
pub struct Reader {
    path: PathBuf,
    connection: Connection,
    names: RefCell<Names>,
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").field("path", &self.path).finish_non_exhaustive()
    }
}

impl From<rusqlite::Error> for ReadError {
    fn from(error: rusqlite::Error) -> Self {
        ReadError(error.to_string())
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.history, self.mailbox, self.dead_letters)
    }
}

impl FromStr for Cursor {
    type Err = ReadError;

    fn from_str(text: &str) -> Result<Self, ReadError> {
        let parts: Result<Vec<u64>, _> = text.split('.').map(str::parse).collect();
        match parts.as_deref() {
            Ok(&[history, mailbox, dead_letters]) => Ok(Cursor { history, mailbox, dead_letters }),
            _ => Err(ReadError(format!("{text:?} is no place in a list"))),
        }
    }
}

impl Reader {
    /// Opens the database at `path`, which a [`Store`](crate::Store) has made.
    pub fn open(path: &Path) -> Result<Self, ReadError> {
        let connection = schema::open_for_reading(path)?;
        let version = schema::version(&connection)?;
        if version != schema::VERSION {
            let known = schema::VERSION;
            return Err(ReadError(format!("it has schema {version}, this program reads {known}")));
        }
        Ok(Reader { path: path.to_owned(), connection, names: RefCell::default() })
    }

    /// Ends from another thread what this one is doing.
    pub(crate) fn interrupt_handle(&self) -> InterruptHandle {
        self.connection.get_interrupt_handle()
    }

    /// For whom messages wait, by name. Spilled messages count.
    pub fn mailboxes(&self) -> Result<Vec<Mailbox>, ReadError> {
        let mut statement = self.connection.prepare_cached(
            "SELECT name, messages, bytes, oldest FROM (\
                 SELECT endpoint, count(*) AS messages, sum(bytes) AS bytes, min(arrived) AS oldest \
                 FROM message INDEXED BY message_by_endpoint GROUP BY endpoint\
             ) AS sums JOIN endpoint ON endpoint.id = sums.endpoint ORDER BY name",
        )?;
        let mut found = statement.query([])?;
        let mut mailboxes = Vec::new();
        while let Some(row) = found.next()? {
            let Ok(endpoint) = EndpointName::level_1(&row.get::<_, String>(0)?) else { continue };
            mailboxes.push(Mailbox {
                endpoint,
                messages: row.get(1)?,
                load_bytes: row.get(2)?,
                oldest_unix_us: row.get(3)?,
            });
        }
        Ok(mailboxes)
    }

    /// The messages that wait for an endpoint, ascending, from behind `after_seq` on.
    pub fn messages(
        &self,
        endpoint: &EndpointName,
        after_seq: Option<u64>,
        page: Page,
    ) -> Result<Vec<Record>, ReadError> {
        let Some(id) = self.names.borrow_mut().id(&self.connection, endpoint)? else {
            return Ok(Vec::new());
        };
        let mut statement = self.connection.prepare_cached(&format!(
            "SELECT {MESSAGE_COLUMNS} FROM {MESSAGE_SOURCE} \
             WHERE m.endpoint = ?1 AND m.seq > ?2 ORDER BY m.seq"
        ))?;
        let after = after_seq.map_or(-1, |seq| i64::try_from(seq).unwrap_or(i64::MAX));
        let mut found = statement.query((id, after))?;
        let (mut filling, mut last_sender) = (Filling::new(page), None);
        while let Some(row) = found.next()? {
            let record = rows::message(row, endpoint.clone(), &mut last_sender)?;
            if !filling.push(record.payload.len(), record) {
                break;
            }
        }
        Ok(filling.rows)
    }

    /// Dead letters, the newest first, from behind number `after` on.
    pub fn dead_letters(
        &self,
        after: Option<u64>,
        page: Page,
    ) -> Result<Vec<NumberedDeadLetter>, ReadError> {
        let mut statement = self.connection.prepare_cached(&format!(
            "SELECT {DEAD_COLUMNS} FROM dead WHERE number < ?1 ORDER BY number DESC"
        ))?;
        let before = after.map_or(i64::MAX, |number| i64::try_from(number).unwrap_or(i64::MAX));
        let mut found = statement.query([before])?;
        let mut filling = Filling::new(page);
        while let Some(row) = found.next()? {
            let dead = rows::dead_letter(row)?;
            if !filling.push(dead.letter.record.payload.len(), dead) {
                break;
            }
        }
        Ok(filling.rows)
    }

    /// One dead letter.
    pub fn dead_letter(&self, number: u64) -> Result<Option<NumberedDeadLetter>, ReadError> {
        let Ok(number) = i64::try_from(number) else { return Ok(None) };
        let mut statement = self
            .connection
            .prepare_cached(&format!("SELECT {DEAD_COLUMNS} FROM dead WHERE number = ?1"))?;
        Ok(statement.query_row([number], rows::dead_letter).optional()?)
    }

    /// Looks for messages. The cursor goes on behind the last one; none when there are no more. Words
    /// are found about a second after a message was written, later while the store is busy.
    pub fn find(
        &self,
        query: &Query,
        page: Page,
    ) -> Result<(Vec<Found>, Option<Cursor>), ReadError> {
        Ok(find::find(&self.connection, &mut self.names.borrow_mut(), query, page)?)
    }

    /// What is known of every stored message with this string `id`, oldest first. Reads all that
    /// waits: half a second for a million messages.
    pub fn trail(&self, id: &str) -> Result<Vec<Seen>, ReadError> {
        Ok(trace::trail(&self.connection, &mut self.names.borrow_mut(), id)?)
    }

    /// Sizes and counts.
    pub fn figures(&self) -> Result<Figures, ReadError> {
        let connection = &self.connection;
        let pragma = |name| connection.pragma_query_value(None, name, |row| row.get::<_, u64>(0));
        let number = |query| connection.query_row(query, [], |row| row.get::<_, u64>(0));
        let length = |path: &Path| fs::metadata(path).map_or(0, |file| file.len());
        let (dead_letters, dead_letter_bytes) = schema::total(connection, "dead")?;
        let (history_entries, history_bytes) = schema::total(connection, "history")?;
        let (_, trail_bytes) = schema::total(connection, "trail")?;
        Ok(Figures {
            database_bytes: length(&self.path),
            free_bytes: pragma("freelist_count")? * u64::from(schema::PAGE_BYTES),
            wal_bytes: length(&wal_file(&self.path)),
            schema: schema::version(connection)?,
            messages: number("SELECT count(*) FROM message INDEXED BY message_by_endpoint")?,
            dead_letters,
            dead_letter_bytes,
            history_entries,
            history_bytes,
            trail_messages: number("SELECT coalesce(sum(messages), 0) FROM trail")?,
            trail_bytes,
            indexed_messages: number("SELECT count(*) FROM text_docsize")?,
        })
    }

    /// Checks everything, and says what is wrong. Takes about a second for each gigabyte; the store
    /// goes on meanwhile, but its write-ahead log grows.
    pub fn integrity(&self) -> Result<Vec<String>, ReadError> {
        Ok(schema::integrity(&self.connection)?)
    }

    /// Copies the database, as it is at one moment, to a file that is not there yet. The store goes on
    /// meanwhile. The copy is complete and synced when this returns; its bytes are returned.
    pub fn back_up(&self, to: &Path) -> Result<u64, ReadError> {
        let failed = |error: std::io::Error| ReadError(format!("{}: {error}", to.display()));
        // It is made beside its place, so that what stands there is never half a copy.
        let mut unfinished = to.as_os_str().to_owned();
        unfinished.push(".unfinished");
        let unfinished = PathBuf::from(unfinished);
        let made = self.copy_to(to, &unfinished);
        if made.is_err() {
            let _ = fs::remove_file(&unfinished);
        }
        made?;
        damage::sync_directory(to).map_err(failed)?;
        Ok(fs::metadata(to).map_err(failed)?.len())
    }

    fn copy_to(&self, to: &Path, unfinished: &Path) -> Result<(), ReadError> {
        use std::os::unix::fs::OpenOptionsExt;
        let failed = |error: std::io::Error| ReadError(format!("{}: {error}", to.display()));
        if to.exists() {
            return Err(failed(std::io::ErrorKind::AlreadyExists.into()));
        }
        // What an earlier attempt has left goes; nothing that is put in its place meanwhile is written to.
        let _ = fs::remove_file(unfinished);
        File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(unfinished)
            .map_err(failed)?;
        let mut copy = Connection::open(unfinished)?;
        let backup = rusqlite::backup::Backup::new(&self.connection, &mut copy)?;
        // All in one go: what is written meanwhile would otherwise make it begin again.
        match backup.step(-1)? {
            rusqlite::backup::StepResult::Done => {}
            other => return Err(ReadError(format!("the copy did not end: {other:?}"))),
        }
        drop(backup);
        copy.close().map_err(|(_, error)| error)?;
        File::open(unfinished).and_then(|file| file.sync_all()).map_err(failed)?;
        // Unlike a rename, this never takes another file's place.
        fs::hard_link(unfinished, to).and_then(|()| fs::remove_file(unfinished)).map_err(failed)
    }
}

/// Rows up to the limits of a page, but at least one.
pub(crate) struct Filling<T> {
    pub(crate) rows: Vec<T>,
    rows_max: usize,
    bytes_left: usize,
}

impl<T> Filling<T> {
    pub(crate) fn new(page: Page) -> Self {
        Filling { rows: Vec::new(), rows_max: page.rows_max.max(1), bytes_left: page.bytes_max }
    }

    /// Adds a row if it fits.
    pub(crate) fn push(&mut self, bytes: usize, row: T) -> bool {
        let fits =
            self.rows.is_empty() || self.rows.len() < self.rows_max && bytes <= self.bytes_left;
        if fits {
            self.bytes_left = self.bytes_left.saturating_sub(bytes);
            self.rows.push(row);
        }
        fits
    }
}

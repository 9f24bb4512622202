//! The one connection that writes, and what is known of the write-ahead log behind it.
//!
//! A commit is visible at once, and durable when the log was synced up to its end, which others do
//! meanwhile: see [`Log`]. One whose sync failed still stands in the log, whole, and in the index of the
//! log that this process keeps. Before anybody is told that something was refused, the log is cut where
//! it was last synced, and the index is made anew, which takes closing every connection.
//!
//! Under load, what is in the log is moved into the database on a thread of its own, while commits go
//! on. Only what has come meanwhile is moved between two commits: then the log can begin anew.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};

use rusqlite::Connection;
use rusqlite::config::DbConfig;

use crate::{readers, schema};

/// Bytes before the first frame of a write-ahead log, and of each frame before its page.
/// <https://www.sqlite.org/fileformat2.html#the_write_ahead_log>
pub(crate) const WAL_HEADER_BYTES: u64 = 32;
/// See [`WAL_HEADER_BYTES`].
pub(crate) const FRAME_HEADER_BYTES: u64 = 24;
/// Where the two salts stand in the log's header. They change when the log begins anew.
pub(crate) const SALTS: std::ops::Range<usize> = 16..24;

/// Frames in the log from which on a pause is used to move them into the database: 4 MiB.
const CHECKPOINT_IN_PAUSE_FRAMES: u64 = 1_000;
/// Frames in the log from which on that is done in any case: 32 MiB.
const CHECKPOINT_FRAMES: u64 = 8 * 1024;

/// Where the log ends with a commit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct End {
    salts: [u8; 8],
    frames: u64,
}

/// The log up to the end of a commit.
#[derive(Clone, Debug, Default)]
pub(crate) struct Log {
    pub(crate) end: End,
    file: Option<Arc<File>>,
    /// The next syncs that fail, for tests.
    #[cfg(test)]
    faults: crate::tests::Faults,
}

/// What came of a checkpoint: frames in the log, and those of them that are in the database.
struct Checkpoint {
    frames: u64,
    moved: u64,
}

/// The thread that moves what is in the log, for as long as nobody has asked what came of it.
struct Moving(Option<JoinHandle<rusqlite::Result<Checkpoint>>>);

/// The connection that writes.
pub(crate) struct Database {
    /// Ends before the connection is closed.
    moving: Moving,
    pub(crate) connection: Connection,
    path: PathBuf,
    wal: PathBuf,
    /// Pages in the log after the last commit, as SQLite says.
    frames: Arc<AtomicU64>,
    /// The end of the last commit.
    end: End,
    /// How many of the frames were in the log at the last checkpoint.
    checkpointed_frames: u64,
    /// The log, opened before anything was written to it: it is told of every failure since.
    log: Option<Arc<File>>,
    /// The log has to be cut here before the database can be opened again.
    to_cut: Option<End>,
    /// The next commits that fail, for tests.
    #[cfg(test)]
    pub(crate) faults: crate::tests::Faults,
}

/// The file beside a database that its write-ahead log is in.
pub(crate) fn wal_file(database: &Path) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push("-wal");
    name.into()
}

impl Database {
    /// Opens the database to read it. It is made if it is not there. Until [`Database::settle`], nothing
    /// changes in files that are there: they may be damaged.
    pub(crate) fn open(path: &Path, bytes_max: Option<u64>) -> rusqlite::Result<Self> {
        let mut connection = schema::open_for_writing(path)?;
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        if let Some(bytes_max) = bytes_max {
            let pages = bytes_max / u64::from(schema::PAGE_BYTES);
            connection.pragma_update_and_check(None, "max_page_count", pages, |_| Ok(()))?;
        }
        let frames = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&frames);
        connection.wal_hook(Some(move |_: &mut rusqlite::hooks::Wal, pages| {
            counted.store(u64::try_from(pages).unwrap_or(0), Ordering::Relaxed);
            Ok(())
        }))?;
        Ok(Database {
            moving: Moving(None),
            connection,
            path: path.to_owned(),
            wal: wal_file(path),
            frames,
            end: End::default(),
            checkpointed_frames: 0,
            log: None,
            to_cut: None,
            #[cfg(test)]
            faults: crate::tests::Faults::of(path),
        })
    }

    /// Begins to use a database that could be read: all that stands in the log now is good.
    pub(crate) fn settle(&mut self) -> rusqlite::Result<()> {
        self.connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false)?;
        self.checkpoint()?;
        self.open_log()
    }

    fn open_log(&mut self) -> rusqlite::Result<()> {
        // The first look at the database makes the log.
        self.connection.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
        self.log = Some(Arc::new(File::open(&self.wal).map_err(io_error)?));
        self.note_end();
        Ok(())
    }

    /// From now on, closing changes no file.
    pub(crate) fn leave_files(&mut self) -> rusqlite::Result<()> {
        // They may be about to be put aside. What it was about is known.
        let _ = self.wait_for_checkpoint();
        self.connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        Ok(())
    }

    /// Opens the database anew, and lets go of the old connection if that succeeds.
    pub(crate) fn reopen(&mut self, bytes_max: Option<u64>) -> rusqlite::Result<()> {
        // Why it failed is why this is done.
        let _ = self.wait_for_checkpoint();
        if let Some(end) = self.to_cut {
            self.begin_again_at(end, bytes_max)?;
        }
        let mut database = Database::open(&self.path, bytes_max)?;
        database.settle()?;
        *self = database;
        Ok(())
    }

    fn note_end(&mut self) {
        // A log that was not begun has none.
        let salts = self.log.as_deref().and_then(|log| salts(log).ok()).unwrap_or_default();
        self.end = End { salts, frames: self.frames.load(Ordering::Relaxed) };
    }

    /// The log as the last commit has left it.
    pub(crate) fn log(&self) -> Log {
        Log {
            end: self.end,
            file: self.log.clone(),
            #[cfg(test)]
            faults: self.faults.clone(),
        }
    }

    /// Begins a change that will be visible when [`Database::commit`] returns.
    pub(crate) fn begin(&self) -> rusqlite::Result<()> {
        self.connection.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
        Ok(())
    }

    /// Makes everything since [`Database::begin`] visible. It is durable when [`Database::log`], asked
    /// then or later, was synced.
    pub(crate) fn commit(&mut self) -> rusqlite::Result<()> {
        #[cfg(test)]
        self.faults.strike_commit()?;
        self.connection.prepare_cached("COMMIT")?.execute([])?;
        self.note_end();
        Ok(())
    }

    /// The same, and returns when it is durable.
    pub(crate) fn commit_and_sync(&mut self) -> rusqlite::Result<()> {
        self.commit()?;
        self.log().sync()
    }

    /// Takes everything since [`Database::begin`] back, also from the log.
    pub(crate) fn roll_back(&mut self) {
        if !self.connection.is_autocommit() {
            // It fails where SQLite has done so itself.
            let _ = self.connection.execute_batch("ROLLBACK");
        }
        // Where even this is impossible, nothing of the failed commit has reached the log.
        let _ = self.cut_log(self.end);
    }

    /// Takes back everything that was committed after the log was synced last, up to `synced`. It is
    /// nowhere any more when this returns; where that was impossible, the database is closed, and
    /// [`Database::reopen`] tries it again.
    pub(crate) fn take_back(&mut self, synced: End, bytes_max: Option<u64>) {
        // What it moves into the database must have been synced.
        let _ = self.wait_for_checkpoint();
        self.to_cut = Some(synced);
        self.end = synced;
        // Why this fails is said by the next one to open it.
        let _ = self.begin_again_at(synced, bytes_max);
    }

    /// Cuts the log, and opens the database with what is left of it.
    fn begin_again_at(&mut self, synced: End, bytes_max: Option<u64>) -> rusqlite::Result<()> {
        self.leave_files()?;
        let _kept_out = readers::keep_out(&self.path);
        // The last connection that is closed takes the index with it; the next one makes it anew.
        self.log = None;
        self.connection = Connection::open_in_memory()?;
        self.cut_log(synced).map_err(io_error)?;
        let mut database = Database::open(&self.path, bytes_max)?;
        database.open_log()?;
        let frames = noted_frames(&database.connection)?;
        if frames > synced.frames {
            // Another program looks at it: with its index, what was cut off is still asked for.
            return Err(io_error("the log's index is in use by another program"));
        }
        database.frames.store(frames, Ordering::Relaxed);
        database.note_end();
        *self = database;
        Ok(())
    }

    fn cut_log(&self, end: End) -> io::Result<()> {
        let wal = match File::options().write(true).read(true).open(&self.wal) {
            Ok(wal) => wal,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        let frame_bytes = FRAME_HEADER_BYTES + u64::from(schema::PAGE_BYTES);
        let is_same_log = salts(&wal).unwrap_or_default() == end.salts;
        let end = if is_same_log && end.frames > 0 {
            WAL_HEADER_BYTES + end.frames * frame_bytes
        } else {
            // It had begun anew, or not at all: all that was good is in the database.
            0
        };
        if wal.metadata()?.len() > end {
            wal.set_len(end)?;
            // On a disk that cannot sync this fails as well: nothing is written before it can.
            let _ = wal.sync_data();
        }
        Ok(())
    }

    /// Moves what is in the log into the database, if it is time for that.
    pub(crate) fn checkpoint_if_due(&mut self, is_pause: bool) -> rusqlite::Result<()> {
        let frames = self.frames.load(Ordering::Relaxed);
        if frames < self.checkpointed_frames {
            self.checkpointed_frames = 0;
        }
        if self.moving.0.as_ref().is_some_and(|moving| !moving.is_finished()) {
            return Ok(());
        }
        if self.moving.0.is_some() {
            self.wait_for_checkpoint()?;
            return self.checkpoint();
        }
        let new = frames - self.checkpointed_frames;
        if is_pause && new >= CHECKPOINT_IN_PAUSE_FRAMES {
            return self.checkpoint();
        }
        if new < CHECKPOINT_FRAMES {
            return Ok(());
        }
        let path = self.path.clone();
        let thread = thread::Builder::new().name("store checkpoint".to_owned());
        match thread.spawn(move || checkpoint_beside(&path)) {
            Ok(moving) => self.moving.0 = Some(moving),
            Err(_) => self.checkpoint()?,
        }
        Ok(())
    }

    /// Never waits for readers: what they still look at is moved the next time.
    fn checkpoint(&mut self) -> rusqlite::Result<()> {
        let Checkpoint { frames, moved } = checkpoint(&self.connection)?;
        self.frames.store(frames, Ordering::Relaxed);
        self.checkpointed_frames = moved;
        Ok(())
    }

    /// Waits for the thread that moves what is in the log, if there is one.
    fn wait_for_checkpoint(&mut self) -> rusqlite::Result<()> {
        if let Some(result) = self.moving.wait() {
            self.checkpointed_frames = result?.moved;
        }
        Ok(())
    }

    /// Moves all of the log into the database, if nobody looks at it.
    pub(crate) fn finish(&mut self) -> rusqlite::Result<()> {
        self.wait_for_checkpoint()?;
        self.connection.busy_timeout(std::time::Duration::ZERO)?;
        self.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
    }
}

impl Log {
    /// Returns when everything up to the end of the commit is durable.
    pub(crate) fn sync(&self) -> rusqlite::Result<()> {
        #[cfg(test)]
        self.faults.strike_sync()?;
        let Some(file) = &self.file else {
            return Err(io_error("the log is not open"));
        };
        file.sync_data().map_err(|error| {
            let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_IOERR_FSYNC);
            rusqlite::Error::SqliteFailure(code, Some(format!("sync failed: {error}")))
        })
    }
}

impl End {
    /// Whether the log has begun anew between the two.
    pub(crate) fn is_of_another_log(&self, other: &End) -> bool {
        self.salts != other.salts
    }
}

/// How many frames of the log its index knows.
fn noted_frames(connection: &Connection) -> rusqlite::Result<u64> {
    let count: i64 = connection.query_row("PRAGMA wal_checkpoint(NOOP)", [], |row| row.get(1))?;
    Ok(u64::try_from(count).unwrap_or(0))
}

/// A failure that is the system's and not SQLite's.
pub(crate) fn io_error(error: impl std::fmt::Display) -> rusqlite::Error {
    let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_IOERR);
    rusqlite::Error::SqliteFailure(code, Some(error.to_string()))
}

/// The salts of a log, which is as long as its header at least.
fn salts(log: &File) -> io::Result<[u8; 8]> {
    let mut salts = [0; 8];
    log.read_exact_at(&mut salts, SALTS.start as u64)?;
    Ok(salts)
}

impl Moving {
    /// Waits for its end. Says nothing if there is none, or nobody knows what came of it.
    fn wait(&mut self) -> Option<rusqlite::Result<Checkpoint>> {
        // A thread that panicked has moved something or nothing: either is right.
        self.0.take()?.join().ok()
    }
}

impl Drop for Moving {
    fn drop(&mut self) {
        self.wait();
    }
}

fn checkpoint(connection: &Connection) -> rusqlite::Result<Checkpoint> {
    let count = |frames: i64| u64::try_from(frames).unwrap_or(0);
    connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| {
        Ok(Checkpoint { frames: count(row.get(1)?), moved: count(row.get(2)?) })
    })
}

/// A checkpoint on a connection of its own. Whoever writes goes on meanwhile.
fn checkpoint_beside(path: &Path) -> rusqlite::Result<Checkpoint> {
    let connection = schema::open_for_writing(path)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    checkpoint(&connection)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(path: &Path) -> Database {
        let mut database = Database::open(path, None).unwrap();
        schema::migrate(&mut database.connection).unwrap();
        database.settle().unwrap();
        database
    }

    fn write(database: &mut Database, key: &str) {
        database.begin().unwrap();
        schema::set_meta(&database.connection, key, 1).unwrap();
        database.commit().unwrap();
    }

    /// What the next process finds after a crash at this moment.
    fn keys_after_crash(path: &Path) -> Vec<String> {
        let copy = tempfile::tempdir().unwrap();
        let copied = copy.path().join("copy.db");
        std::fs::copy(path, &copied).unwrap();
        std::fs::copy(wal_file(path), wal_file(&copied)).unwrap();
        keys(&schema::open_for_writing(&copied).unwrap())
    }

    fn keys(connection: &Connection) -> Vec<String> {
        let mut statement = connection.prepare("SELECT key FROM meta ORDER BY key").unwrap();
        statement.query_map([], |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap()
    }

    #[test]
    fn a_commit_that_was_taken_back_is_not_there_after_a_crash() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store.db");
        let mut database = open(&path);
        write(&mut database, "a");
        let synced = database.end;
        write(&mut database, "b");
        write(&mut database, "c");
        assert_eq!(keys_after_crash(&path), ["a", "b", "c"]);
        // As if their sync had failed when all of it was in the log.
        database.take_back(synced, None);
        assert_eq!(keys_after_crash(&path), ["a"]);
        assert_eq!(keys(&database.connection), ["a"]);
        // It is no obstacle for what comes next.
        write(&mut database, "d");
        assert_eq!(keys(&database.connection), ["a", "d"]);
        assert_eq!(keys_after_crash(&path), ["a", "d"]);
    }

    #[test]
    fn nor_is_the_first_commit_of_a_log_that_had_begun_anew() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store.db");
        let mut database = open(&path);
        write(&mut database, "a");
        let synced = database.end;
        database.checkpoint().unwrap();
        write(&mut database, "b");
        assert!(database.end.is_of_another_log(&synced));
        database.take_back(synced, None);
        assert_eq!(keys_after_crash(&path), ["a"]);
        assert_eq!(keys(&database.connection), ["a"]);
    }

    fn fill(database: &mut Database) {
        while database.frames.load(Ordering::Relaxed) < CHECKPOINT_FRAMES {
            database.begin().unwrap();
            database
                .connection
                .execute("INSERT INTO probe VALUES (zeroblob(4000000))", [])
                .unwrap();
            database.commit().unwrap();
        }
    }

    fn wait_for_thread(database: &Database) {
        while !database.moving.0.as_ref().unwrap().is_finished() {
            thread::yield_now();
        }
    }

    #[test]
    fn commits_go_on_while_the_log_is_moved() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store.db");
        let mut database = open(&path);
        write(&mut database, "a");
        fill(&mut database);
        database.checkpoint_if_due(false).unwrap();
        assert!(database.moving.0.is_some());
        write(&mut database, "b");
        // A commit that fails meanwhile is taken back.
        let synced = database.end;
        write(&mut database, "never");
        database.take_back(synced, None);
        assert_eq!(keys_after_crash(&path), ["a", "b"]);
    }

    #[test]
    fn what_came_while_the_log_was_moved_is_moved_then_and_the_log_begins_anew() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store.db");
        let mut database = open(&path);
        fill(&mut database);
        let before = database.end;
        // Who still looks at what was before leaves something to be moved.
        let reader = schema::open_for_reading(&path).unwrap();
        reader.execute_batch("BEGIN; SELECT * FROM meta").unwrap();
        write(&mut database, "c");
        database.checkpoint_if_due(false).unwrap();
        wait_for_thread(&database);
        drop(reader);
        database.checkpoint_if_due(false).unwrap();
        write(&mut database, "d");
        assert!(database.end.is_of_another_log(&before));
        assert!(database.end.frames < 100, "{:?}", database.end);
        assert_eq!(keys_after_crash(&path), ["c", "d"]);
    }

    #[test]
    fn what_goes_wrong_beside_the_commits_is_said() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store.db");
        let mut database = open(&path);
        let missing = directory.path().join("no such directory").join("store.db");
        database.moving.0 = Some(thread::spawn(move || checkpoint_beside(&missing)));
        wait_for_thread(&database);
        database.checkpoint_if_due(false).unwrap_err();
        // It is tried again when it is time.
        database.checkpoint_if_due(false).unwrap();
    }

    #[test]
    fn taking_back_leaves_good_commits_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store.db");
        let mut database = open(&path);
        write(&mut database, "a");
        database.reopen(None).unwrap();
        database.roll_back();
        write(&mut database, "b");
        database.begin().unwrap();
        schema::set_meta(&database.connection, "c", 1).unwrap();
        database.roll_back();
        write(&mut database, "d");
        database.roll_back();
        assert_eq!(keys_after_crash(&path), ["a", "b", "d"]);
    }
}

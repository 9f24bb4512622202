//! The one connection that writes, and what is known of the write-ahead log behind it.
//!
//! A commit whose sync failed may still stand in the log, whole: the next process would take it for
//! committed. So the end of the last good commit is known at any time, and the log is cut there before
//! anybody is told that something was refused.
//!
//! Under load, what is in the log is moved into the database on a thread of its own, while commits go
//! on; then what has come meanwhile, and so on. Only when little is left, that is moved between two
//! commits: then the log can begin anew.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};

use rusqlite::Connection;
use rusqlite::config::DbConfig;

use crate::schema;

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
/// Frames that may be left to be moved between two commits: 2 MiB.
const CHECKPOINT_REST_FRAMES: u64 = 512;
/// Frames in the log from which on as many as there are may be left: 128 MiB.
const CHECKPOINT_NOW_FRAMES: u64 = 32 * 1024;

/// So many bytes at least, and at most, the log's file is made longer at a time before a commit needs that.
const AHEAD_BYTES: std::ops::RangeInclusive<u64> = 256 * 1024..=2 * 1024 * 1024;
/// The file is not made longer than that: the log begins anew then, if it can.
const AHEAD_UP_TO_BYTES: u64 =
    WAL_HEADER_BYTES + CHECKPOINT_FRAMES * (FRAME_HEADER_BYTES + schema::PAGE_BYTES as u64);

/// The end of the last good commit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Good {
    salts: [u8; 8],
    frames: u64,
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
    /// The database's file, to be synced on another thread. The system takes all locks on a file away from
    /// a process that closes it once, SQLite's included: this is closed behind the connection.
    file: Arc<File>,
    path: PathBuf,
    wal: PathBuf,
    /// Pages in the log after the last commit, as SQLite says.
    frames: Arc<AtomicU64>,
    good: Good,
    /// How many of the frames were in the log at the last checkpoint.
    checkpointed_frames: u64,
    /// The log, once it has been looked at.
    log: Option<File>,
    /// Bytes that the log's file has at least, as far as known.
    log_bytes: u64,
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
        Database::open_beside(path, bytes_max, None)
    }

    /// The same, while another connection of this process may have it open, with that one's `file`.
    fn open_beside(
        path: &Path,
        bytes_max: Option<u64>,
        file: Option<&Arc<File>>,
    ) -> rusqlite::Result<Self> {
        let mut connection = schema::open_for_writing(path)?;
        let file = match file.filter(|file| is_at(file, path)) {
            Some(file) => Arc::clone(file),
            None => Arc::new(File::open(path).map_err(schema::io_error)?),
        };
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
            file,
            path: path.to_owned(),
            wal: wal_file(path),
            frames,
            good: Good::default(),
            checkpointed_frames: 0,
            log: None,
            log_bytes: 0,
            #[cfg(test)]
            faults: crate::tests::Faults::of(path),
        })
    }

    /// Begins to use a database that could be read: all that stands in the log now is good.
    pub(crate) fn settle(&mut self) -> rusqlite::Result<()> {
        self.connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false)?;
        self.checkpoint()?;
        self.note_good();
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
        let mut database = Database::open_beside(&self.path, bytes_max, Some(&self.file))?;
        database.settle()?;
        *self = database;
        Ok(())
    }

    fn note_good(&mut self) {
        if self.log.is_none() {
            self.log = File::options().read(true).write(true).open(&self.wal).ok();
        }
        // A log that was not begun has none.
        let salts = self.log.as_ref().and_then(|log| salts(log).ok()).unwrap_or_default();
        self.good = Good { salts, frames: self.frames.load(Ordering::Relaxed) };
    }

    /// Begins a change that will be durable when [`Database::commit`] returns.
    pub(crate) fn begin(&self) -> rusqlite::Result<()> {
        self.connection.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
        Ok(())
    }

    /// Makes everything since [`Database::begin`] durable: it returns when the log is synced.
    pub(crate) fn commit(&mut self) -> rusqlite::Result<()> {
        #[cfg(test)]
        self.faults.strike()?;
        self.connection.prepare_cached("COMMIT")?.execute([])?;
        self.note_good();
        Ok(())
    }

    /// Makes the log's file longer before commits need that. A sync of bytes that were there before takes
    /// half as long as one that has to make the file's new length durable, too. What stands behind the
    /// last commit is no frame to whoever reads the log: zeros, as here, or what was there before it began anew.
    pub(crate) fn write_log_ahead(&mut self) {
        let frames = self.frames.load(Ordering::Relaxed);
        let Some(log) = self.log.as_ref().filter(|_| frames > 0) else { return };
        let end = WAL_HEADER_BYTES + frames * (FRAME_HEADER_BYTES + u64::from(schema::PAGE_BYTES));
        if end + AHEAD_BYTES.start() / 2 < self.log_bytes {
            return;
        }
        let Ok(bytes) = log.metadata().map(|file| file.len()) else { return };
        self.log_bytes = bytes;
        if end + AHEAD_BYTES.start() / 2 < bytes || bytes >= AHEAD_UP_TO_BYTES || bytes < end {
            return;
        }
        let more = bytes.clamp(*AHEAD_BYTES.start(), *AHEAD_BYTES.end());
        let zeros = [0; 64 * 1024];
        let mut places = (bytes..bytes + more).step_by(zeros.len());
        // Where there is no room, commits find out.
        if places.all(|place| log.write_all_at(&zeros, place).is_ok()) {
            self.log_bytes = bytes + more;
        }
    }

    /// Takes everything since [`Database::begin`] back, also from the log.
    pub(crate) fn roll_back(&mut self) {
        self.log_bytes = 0;
        if !self.connection.is_autocommit() {
            // It fails where SQLite has done so itself.
            let _ = self.connection.execute_batch("ROLLBACK");
        }
        // Where even this is impossible, nothing of the failed commit has reached the log.
        let _ = self.cut_log();
    }

    fn cut_log(&self) -> io::Result<()> {
        let wal = match File::options().write(true).read(true).open(&self.wal) {
            Ok(wal) => wal,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        let frame_bytes = FRAME_HEADER_BYTES + u64::from(schema::PAGE_BYTES);
        let is_same_log = salts(&wal).unwrap_or_default() == self.good.salts;
        let end = if is_same_log && self.good.frames > 0 {
            WAL_HEADER_BYTES + self.good.frames * frame_bytes
        } else {
            // It had begun anew, or not at all: all that was good is in the database.
            0
        };
        if wal.metadata()?.len() > end {
            wal.set_len(end)?;
            wal.sync_data()?;
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
        let has_moved = self.moving.0.is_some();
        if has_moved {
            self.wait_for_checkpoint()?;
        }
        let new = frames - self.checkpointed_frames;
        let is_rest = new <= CHECKPOINT_REST_FRAMES || frames >= CHECKPOINT_NOW_FRAMES;
        if has_moved && is_rest || is_pause && new >= CHECKPOINT_IN_PAUSE_FRAMES {
            return self.checkpoint();
        }
        if !has_moved && new < CHECKPOINT_FRAMES {
            return Ok(());
        }
        let (path, file) = (self.path.clone(), Arc::clone(&self.file));
        let thread = thread::Builder::new().name("store checkpoint".to_owned());
        match thread.spawn(move || checkpoint_beside(&path, &file)) {
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
fn checkpoint_beside(path: &Path, file: &File) -> rusqlite::Result<Checkpoint> {
    let connection = schema::open_for_writing(path)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    let checkpoint = checkpoint(&connection)?;
    // SQLite syncs only when all of the log was moved, which is between two commits: little is left to
    // be synced then.
    file.sync_data().map_err(schema::io_error)?;
    Ok(checkpoint)
}

/// Whether a file is the one that stands at `path`.
fn is_at(file: &File, path: &Path) -> bool {
    let here = |file: std::fs::Metadata| (file.dev(), file.ino());
    match (file.metadata(), std::fs::metadata(path)) {
        (Ok(one), Ok(other)) => here(one) == here(other),
        _ => false,
    }
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
        let connection = schema::open_for_writing(&copied).unwrap();
        let mut statement = connection.prepare("SELECT key FROM meta ORDER BY key").unwrap();
        statement.query_map([], |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap()
    }

    #[test]
    fn a_commit_that_was_taken_back_is_not_there_after_a_crash() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store.db");
        let mut database = open(&path);
        write(&mut database, "a");
        let good = database.good;
        write(&mut database, "b");
        assert_eq!(keys_after_crash(&path), ["a", "b"]);
        // As if its sync had failed when all of it was in the log.
        database.good = good;
        database.roll_back();
        assert_eq!(keys_after_crash(&path), ["a"]);
    }

    #[test]
    fn nor_is_the_first_commit_of_a_log_that_had_begun_anew() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store.db");
        let mut database = open(&path);
        write(&mut database, "a");
        let good = database.good;
        database.checkpoint().unwrap();
        write(&mut database, "b");
        assert_ne!(database.good.salts, good.salts);
        database.good = good;
        database.roll_back();
        assert_eq!(keys_after_crash(&path), ["a"]);
    }

    fn log_bytes(path: &Path) -> u64 {
        std::fs::metadata(wal_file(path)).unwrap().len()
    }

    #[test]
    fn commits_go_where_the_log_was_made_longer_before() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store.db");
        let mut database = open(&path);
        write(&mut database, "a");
        let short = log_bytes(&path);
        database.write_log_ahead();
        let long = log_bytes(&path);
        assert!(long >= short + AHEAD_BYTES.start(), "{long} after {short}");
        assert_eq!(keys_after_crash(&path), ["a"]);
        write(&mut database, "b");
        database.write_log_ahead();
        assert_eq!(log_bytes(&path), long, "there is enough");
        assert_eq!(keys_after_crash(&path), ["a", "b"]);
        assert_eq!(crate::damage::damage_of_log(&wal_file(&path)).unwrap(), None);
        // What is taken back is cut off, with the zeros behind it.
        let good = database.good;
        write(&mut database, "never");
        database.good = good;
        database.roll_back();
        assert!(log_bytes(&path) < long);
        assert_eq!(keys_after_crash(&path), ["a", "b"]);
    }

    #[test]
    fn a_log_is_not_made_longer_than_it_gets_before_it_begins_anew() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store.db");
        let mut database = open(&path);
        fill(&mut database);
        let full = log_bytes(&path);
        assert!(full >= AHEAD_UP_TO_BYTES, "{full}");
        database.write_log_ahead();
        assert_eq!(log_bytes(&path), full);
        database.checkpoint().unwrap();
        write(&mut database, "a");
        database.write_log_ahead();
        assert_eq!(log_bytes(&path), full);
        assert_eq!(keys_after_crash(&path), ["a"]);
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
        let good = database.good;
        write(&mut database, "never");
        database.good = good;
        database.roll_back();
        assert_eq!(keys_after_crash(&path), ["a", "b"]);
    }

    #[test]
    fn what_came_while_the_log_was_moved_is_moved_then_and_the_log_begins_anew() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store.db");
        let mut database = open(&path);
        fill(&mut database);
        let before = database.good;
        // Who still looks at what was before leaves something to be moved.
        let reader = schema::open_for_reading(&path).unwrap();
        reader.execute_batch("BEGIN; SELECT * FROM meta").unwrap();
        write(&mut database, "c");
        database.checkpoint_if_due(false).unwrap();
        wait_for_thread(&database);
        drop(reader);
        database.checkpoint_if_due(false).unwrap();
        write(&mut database, "d");
        assert_ne!(database.good.salts, before.salts);
        assert!(database.good.frames < 100, "{:?}", database.good);
        assert_eq!(keys_after_crash(&path), ["c", "d"]);
    }

    #[test]
    fn what_goes_wrong_beside_the_commits_is_said() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store.db");
        let mut database = open(&path);
        let missing = directory.path().join("no such directory").join("store.db");
        let file = Arc::clone(&database.file);
        database.moving.0 = Some(thread::spawn(move || checkpoint_beside(&missing, &file)));
        wait_for_thread(&database);
        database.checkpoint_if_due(false).unwrap_err();
        // It is tried again when it is time.
        database.checkpoint_if_due(false).unwrap();
    }

    /// The locks that the system knows on a file.
    fn locks(path: &Path) -> usize {
        let inode = format!(":{}", std::fs::metadata(path).unwrap().ino());
        let all = std::fs::read_to_string("/proc/locks").unwrap();
        all.lines().filter(|line| line.split(' ').any(|word| word.ends_with(&inode))).count()
    }

    #[test]
    fn a_database_that_was_opened_anew_is_still_locked() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store.db");
        let mut database = open(&path);
        write(&mut database, "a");
        assert!(locks(&path) > 0);
        database.reopen(None).unwrap();
        write(&mut database, "b");
        assert!(locks(&path) > 0);
        drop(database);
        assert_eq!(locks(&path), 0);
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

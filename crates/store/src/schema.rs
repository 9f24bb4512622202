//! The tables, how they came about, and how a connection to them is opened.

use std::path::Path;

use rusqlite::{Connection, OpenFlags, OptionalExtension, ToSql, types::FromSql};

/// Marks a database as a store of the bus: "hrms".
pub(crate) const APPLICATION_ID: i32 = 0x6872_6d73;

/// The newest schema that this program knows.
pub(crate) const VERSION: u32 = MIGRATIONS.len() as u32;

/// Bytes of a page.
pub(crate) const PAGE_BYTES: u32 = 4096;

/// How SQLite calls it that free pages are given back when that is asked for.
const INCREMENTAL: u32 = 2;

/// Bytes of the write-ahead log that stay when it begins anew.
const LOG_BYTES_KEPT: u32 = 64 * 1024 * 1024;

/// KiB of the database that the connection that writes keeps in memory. More was not faster.
const CACHE_KIB: i64 = 16 * 1024;

/// From each schema to the next; the first one makes it. A released step is never changed.
const MIGRATIONS: [&str; 2] = [include_str!("schema/1.sql"), include_str!("schema/2.sql")];

/// Where a message lies among all that search knows: the number of its text begins here.
pub(crate) const TEXT_OF_HISTORY: i64 = 0;
/// See [`TEXT_OF_HISTORY`].
pub(crate) const TEXT_OF_MESSAGES: i64 = 1 << 61;
/// See [`TEXT_OF_HISTORY`].
pub(crate) const TEXT_OF_DEAD: i64 = 1 << 62;
/// So many numbers there are in each.
pub(crate) const TEXTS_EACH: i64 = 1 << 61;

/// Opens the database for its one writer. It is made if it is not there.
pub(crate) fn open_for_writing(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(std::time::Duration::from_secs(5))?;
    connection.set_prepared_statement_cache_capacity(64);
    connection.pragma_update(None, "page_size", PAGE_BYTES)?;
    let auto_vacuum: u32 = connection.pragma_query_value(None, "auto_vacuum", |row| row.get(0))?;
    if auto_vacuum != INCREMENTAL {
        // This writes, even where it changes nothing.
        connection.pragma_update(None, "auto_vacuum", INCREMENTAL)?;
    }
    let mode: String =
        connection.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0))?;
    if mode != "wal" {
        // It says "delete" where it cannot make the log's index: a file system without shared memory.
        return Err(rusqlite::Error::SqliteFailure(
            rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CANTOPEN),
            Some("this file system cannot hold a write-ahead log".to_owned()),
        ));
    }
    connection.pragma_update(None, "synchronous", "FULL")?;
    // The writer says itself when.
    connection.pragma_update(None, "wal_autocheckpoint", 0)?;
    // A log that had to grow is made smaller when it begins anew. What is left makes room for orders that
    // make room, on a disk that is full.
    connection.pragma_update_and_check(None, "journal_size_limit", LOG_BYTES_KEPT, |_| Ok(()))?;
    connection.pragma_update(None, "cache_size", -CACHE_KIB)?;
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    connection.pragma_update(None, "cell_size_check", true)?;
    Ok(connection)
}

/// Opens the database to look at it.
pub(crate) fn open_for_reading(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(std::time::Duration::from_secs(5))?;
    connection.pragma_update(None, "cell_size_check", true)?;
    connection.pragma_update(None, "query_only", true)?;
    Ok(connection)
}

/// The schema's version; 0 for an empty database.
pub(crate) fn version(connection: &Connection) -> rusqlite::Result<u32> {
    connection.pragma_query_value(None, "user_version", |row| row.get(0))
}

/// The schema's version of a database that may not be ours; none if it is not.
pub(crate) fn found_version(connection: &Connection) -> rusqlite::Result<Option<u32>> {
    let version = version(connection)?;
    let is_empty = |connection: &Connection| {
        connection
            .query_row("SELECT NOT EXISTS (SELECT 1 FROM sqlite_schema)", [], |row| row.get(0))
    };
    let application: i32 =
        connection.pragma_query_value(None, "application_id", |row| row.get(0))?;
    let is_ours = application == APPLICATION_ID || version == 0 && is_empty(connection)?;
    Ok(is_ours.then_some(version))
}

/// Brings the tables to the newest version, all or nothing.
pub(crate) fn migrate(connection: &mut Connection) -> rusqlite::Result<()> {
    let from = version(connection)? as usize;
    if from >= MIGRATIONS.len() {
        return Ok(());
    }
    let transaction = connection.transaction()?;
    for step in &MIGRATIONS[from..] {
        transaction.execute_batch(step)?;
    }
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    transaction.pragma_update(None, "user_version", VERSION)?;
    transaction.commit()
}

/// A value that belongs to the whole store.
pub(crate) fn meta<T: FromSql>(connection: &Connection, key: &str) -> rusqlite::Result<Option<T>> {
    let mut statement = connection.prepare_cached("SELECT value FROM meta WHERE key = ?1")?;
    statement.query_row([key], |row| row.get(0)).optional()
}

/// Changes a value that belongs to the whole store.
pub(crate) fn set_meta(
    connection: &Connection,
    key: &str,
    value: impl ToSql,
) -> rusqlite::Result<()> {
    let mut statement =
        connection.prepare_cached("INSERT OR REPLACE INTO meta (key, value) VALUES (?1, ?2)")?;
    statement.execute((key, value))?;
    Ok(())
}

/// The last process ended without saying so.
pub(crate) const META_UNCLEAN: &str = "unclean";
/// Messages whose `seq` is lower were there when a process ended without saying so: they may have been
/// handed over, however many processes have ended in good order since.
pub(crate) const META_UNCLEAN_BELOW: &str = "unclean_below";
/// Every `seq` from here on is new.
pub(crate) const META_SEQ_FROM: &str = "seq_from";

/// Whether a failure means that the file is damaged, and not that the disk or the system is in trouble.
pub(crate) fn is_damage(error: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};
    match error {
        rusqlite::Error::SqliteFailure(error, _) => {
            matches!(error.code, DatabaseCorrupt | NotADatabase)
        }
        // A column holds what was never written into it, or a table is gone.
        rusqlite::Error::FromSqlConversionFailure(..)
        | rusqlite::Error::IntegralValueOutOfRange(..)
        | rusqlite::Error::InvalidColumnType(..) => true,
        rusqlite::Error::SqlInputError { msg, .. } => {
            msg.starts_with("no such table") || msg.starts_with("no such column")
        }
        _ => false,
    }
}

/// A failure of the system that SQLite has not met itself.
pub(crate) fn io_error(error: impl std::fmt::Display) -> rusqlite::Error {
    let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_IOERR);
    rusqlite::Error::SqliteFailure(code, Some(error.to_string()))
}

/// Counts rows and bytes of a bounded table.
pub(crate) fn add_to_total(
    connection: &Connection,
    kind: &str,
    rows: i64,
    bytes: i64,
) -> rusqlite::Result<()> {
    if (rows, bytes) == (0, 0) {
        return Ok(());
    }
    connection
        .prepare_cached("UPDATE total SET rows = rows + ?2, bytes = bytes + ?3 WHERE kind = ?1")?
        .execute((kind, rows, bytes))?;
    Ok(())
}

/// Rows and bytes of a bounded table.
pub(crate) fn total(connection: &Connection, kind: &str) -> rusqlite::Result<(u64, u64)> {
    let mut statement = connection
        .prepare_cached("SELECT max(rows, 0), max(bytes, 0) FROM total WHERE kind = ?1")?;
    statement.query_row([kind], |row| Ok((row.get(0)?, row.get(1)?)))
}

/// Findings of an integrity check that are named.
const FINDINGS_MAX: usize = 20;

/// Checks everything, and says what is wrong. Each table by itself, so that the write-ahead log can
/// begin anew in between.
pub(crate) fn integrity(connection: &Connection) -> rusqlite::Result<Vec<String>> {
    let mut tables = connection.prepare(
        "SELECT name FROM sqlite_schema WHERE type = 'table' AND rootpage > 0 ORDER BY name",
    )?;
    let tables: Vec<String> = tables.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
    let mut findings = Vec::new();
    for table in tables {
        let check = format!("PRAGMA integrity_check(\"{table}\")");
        let mut check = connection.prepare(&check)?;
        let said: Vec<String> = check.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
        findings.extend(said.into_iter().filter(|finding| finding != "ok"));
        findings.truncate(FINDINGS_MAX);
    }
    Ok(findings)
}

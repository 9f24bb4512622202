//! Removes what is too old or too much, in small steps.

use rusqlite::Connection;

use crate::execution::Changes;
use crate::options::{Options, Retention};
use crate::schema::{self, TEXT_OF_DEAD, TEXT_OF_HISTORY};

/// A table that does not grow for ever.
struct Bounded {
    name: &'static str,
    /// The oldest rows: number, time, bytes.
    oldest: &'static str,
    delete: &'static str,
    /// Where its numbers begin in the index of words, if they are in it.
    texts: Option<i64>,
}

/// What an entry of history takes beside its payload, in bytes.
pub(crate) const HISTORY_OVERHEAD_BYTES: u64 = 64;

const DEAD: Bounded = Bounded {
    name: "dead",
    oldest: "SELECT number, died, length(payload) + 128 FROM dead ORDER BY number LIMIT ?1",
    delete: "DELETE FROM dead WHERE number <= ?1",
    texts: Some(TEXT_OF_DEAD),
};
const HISTORY: Bounded = Bounded {
    name: "history",
    oldest: "SELECT number, at, length(payload) + 64 FROM history ORDER BY number LIMIT ?1",
    delete: "DELETE FROM history WHERE number <= ?1",
    texts: Some(TEXT_OF_HISTORY),
};
const TRAIL: Bounded = Bounded {
    name: "trail",
    oldest: "SELECT number, until, length(ended) FROM trail ORDER BY number LIMIT ?1",
    delete: "DELETE FROM trail WHERE number <= ?1",
    texts: None,
};

/// Rows that one step removes from a table at most.
const STEP_ROWS_MAX: i64 = 256;

/// Whether something is too old or too much: the steps are needed.
pub(crate) fn is_due(
    connection: &Connection,
    options: &Options,
    now_unix_us: u64,
) -> rusqlite::Result<bool> {
    for (table, retention) in tables(options) {
        let (_, bytes) = schema::total(connection, table.name)?;
        let oldest: Option<(i64, u64, u64)> = first(connection, table)?;
        if oldest
            .is_some_and(|(_, at, _)| at < cut(retention, now_unix_us) || bytes > retention.bytes)
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Removes a little of each table, within the transaction that is under way.
pub(crate) fn step(
    connection: &Connection,
    options: &Options,
    now_unix_us: u64,
) -> rusqlite::Result<Changes> {
    let mut changes = Changes::default();
    for (table, retention) in tables(options) {
        let (_, mut bytes) = schema::total(connection, table.name)?;
        let cut = cut(retention, now_unix_us);
        let mut removed = (0, 0);
        let mut up_to = None;
        let mut statement = connection.prepare_cached(table.oldest)?;
        let mut oldest = statement.query([STEP_ROWS_MAX])?;
        while let Some(row) = oldest.next()? {
            let (number, at, row_bytes): (i64, u64, u64) = (row.get(0)?, row.get(1)?, row.get(2)?);
            if at >= cut && bytes <= retention.bytes {
                break;
            }
            bytes = bytes.saturating_sub(row_bytes);
            removed = (removed.0 + 1, removed.1 + row_bytes as i64);
            up_to = Some(number);
        }
        drop(oldest);
        let Some(up_to) = up_to else { continue };
        connection.prepare_cached(table.delete)?.execute([up_to])?;
        schema::add_to_total(connection, table.name, -removed.0, -removed.1)?;
        changes.removed.extend(table.texts.map(|begin| (begin, begin + up_to)));
    }
    Ok(changes)
}

fn tables(options: &Options) -> [(&'static Bounded, Retention); 3] {
    [(&DEAD, options.dead_letters), (&HISTORY, options.history), (&TRAIL, options.trail)]
}

fn first(connection: &Connection, table: &Bounded) -> rusqlite::Result<Option<(i64, u64, u64)>> {
    use rusqlite::OptionalExtension;
    let mut statement = connection.prepare_cached(table.oldest)?;
    statement.query_row([1], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).optional()
}

fn cut(retention: Retention, now_unix_us: u64) -> u64 {
    now_unix_us.saturating_sub(u64::try_from(retention.age.as_micros()).unwrap_or(u64::MAX))
}

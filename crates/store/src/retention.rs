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

/// What a step has done.
#[derive(Debug, Default)]
pub(crate) struct Step {
    pub(crate) changes: Changes,
    pub(crate) dead: RemovedDead,
    /// Whether as much was removed of a table as one step may: there may be more.
    pub(crate) has_more: bool,
}

/// Dead letters that were removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RemovedDead {
    /// They had been kept for their time.
    pub(crate) aged: u64,
    /// There were too many.
    pub(crate) displaced: u64,
}

impl RemovedDead {
    pub(crate) fn add(&mut self, more: RemovedDead) {
        self.aged += more.aged;
        self.displaced += more.displaced;
    }
}

/// Removes a little of each table, within the transaction that is under way.
pub(crate) fn step(
    connection: &Connection,
    options: &Options,
    now_unix_us: u64,
) -> rusqlite::Result<Step> {
    let mut step = Step::default();
    for (table, retention) in tables(options) {
        let is_dead = table.name == DEAD.name;
        // What is too much of dead letters is removed user by user.
        let bytes_max = if is_dead { u64::MAX } else { retention.bytes };
        let removed =
            remove_oldest(connection, table, bytes_max, cut(retention, now_unix_us), &mut step)?;
        if is_dead {
            step.dead.aged += removed;
            displace_dead(connection, retention.bytes, &mut step)?;
        }
    }
    Ok(step)
}

/// Removes the oldest rows of a table, as far as they are too old or too much. Returns how many.
fn remove_oldest(
    connection: &Connection,
    table: &Bounded,
    bytes_max: u64,
    cut: u64,
    step: &mut Step,
) -> rusqlite::Result<u64> {
    let (_, mut bytes) = schema::total(connection, table.name)?;
    let mut removed = (0, 0);
    let mut up_to = None;
    let mut statement = connection.prepare_cached(table.oldest)?;
    let mut oldest = statement.query([STEP_ROWS_MAX])?;
    while let Some(row) = oldest.next()? {
        let (number, at, row_bytes): (i64, u64, u64) = (row.get(0)?, row.get(1)?, row.get(2)?);
        if at >= cut && bytes <= bytes_max {
            break;
        }
        bytes = bytes.saturating_sub(row_bytes);
        removed = (removed.0 + 1, removed.1 + row_bytes as i64);
        up_to = Some(number);
    }
    drop(oldest);
    let Some(up_to) = up_to else { return Ok(0) };
    connection.prepare_cached(table.delete)?.execute([up_to])?;
    schema::add_to_total(connection, table.name, -removed.0, -removed.1)?;
    step.changes.removed.extend(table.texts.map(|begin| (begin, begin + up_to)));
    step.has_more |= removed.0 >= STEP_ROWS_MAX;
    Ok(removed.0 as u64)
}

/// The users whose dead letters take the most, with what that is.
const LARGEST: &str = "SELECT uid, bytes FROM dead_by_user ORDER BY bytes DESC, uid LIMIT 2";

/// Removes dead letters that are too many: the oldest of the user who has sent the most of them, as long
/// as that is so. One user's do not displace those of others who have fewer.
fn displace_dead(connection: &Connection, bytes_max: u64, step: &mut Step) -> rusqlite::Result<()> {
    let (_, mut bytes) = schema::total(connection, DEAD.name)?;
    let mut rows_left = STEP_ROWS_MAX;
    while bytes > bytes_max && rows_left > 0 {
        let mut largest = connection.prepare_cached(LARGEST)?;
        let users: Vec<(i64, u64)> = largest
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
            .collect::<rusqlite::Result<_>>()?;
        let Some((uid, mut of_user)) = users.first().copied() else { return Ok(()) };
        let second = users.get(1).map_or(0, |(_, bytes)| *bytes);
        let mut statement = connection.prepare_cached(
            "SELECT number, length(payload) + 128 FROM dead WHERE uid = ?1 ORDER BY number LIMIT ?2",
        )?;
        let mut oldest = statement.query((uid, rows_left))?;
        let mut removed = (0, 0);
        let mut up_to = None;
        while bytes > bytes_max
            && of_user >= second
            && let Some(row) = oldest.next()?
        {
            let (number, row_bytes): (i64, u64) = (row.get(0)?, row.get(1)?);
            bytes = bytes.saturating_sub(row_bytes);
            of_user = of_user.saturating_sub(row_bytes);
            removed = (removed.0 + 1, removed.1 + row_bytes as i64);
            step.changes.removed.push((TEXT_OF_DEAD + number, TEXT_OF_DEAD + number));
            up_to = Some(number);
        }
        drop(oldest);
        let Some(up_to) = up_to else { return Ok(()) };
        connection
            .prepare_cached("DELETE FROM dead WHERE uid = ?1 AND number <= ?2")?
            .execute((uid, up_to))?;
        schema::add_to_total(connection, DEAD.name, -removed.0, -removed.1)?;
        step.dead.displaced += removed.0 as u64;
        rows_left -= removed.0;
    }
    step.has_more |= bytes > bytes_max;
    Ok(())
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

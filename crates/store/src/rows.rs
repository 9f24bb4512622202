//! Messages as rows, and rows as messages.

use std::borrow::Cow;
use std::collections::HashMap;

use bytes::Bytes;
use hermes_bus_core::storage::{self, DeadLetter, RECORD_OVERHEAD_BYTES, Record, Sender};
use hermes_bus_proto::control::Status;
use hermes_bus_proto::{EndpointName, Envelope};
use rusqlite::{Connection, OptionalExtension, Row, Statement, ToSql, params};

use crate::codes;
use crate::reader::NumberedDeadLetter;

/// From so many bytes of payload on, a row repeats the id, so that the payload need not be read for it.
const TAG_FROM_BYTES: usize = 2048;

/// An id that is longer is not looked for.
const ID_BYTES_MAX: usize = 255;

/// The numbers by which the database knows endpoints. A look-up table that is filled as it is used.
#[derive(Debug, Default)]
pub(crate) struct Names {
    ids: HashMap<EndpointName, i64>,
    names: HashMap<i64, EndpointName>,
}

impl Names {
    /// The number of an endpoint, if it has one.
    pub(crate) fn id(
        &mut self,
        connection: &Connection,
        name: &EndpointName,
    ) -> rusqlite::Result<Option<i64>> {
        if let Some(id) = self.ids.get(name) {
            return Ok(Some(*id));
        }
        let mut statement = connection.prepare_cached("SELECT id FROM endpoint WHERE name = ?1")?;
        let id = statement.query_row([name.as_str()], |row| row.get(0)).optional()?;
        if let Some(id) = id {
            self.remember(id, name.clone());
        }
        Ok(id)
    }

    /// The number of an endpoint. It gets one if it has none.
    pub(crate) fn id_or_new(
        &mut self,
        connection: &Connection,
        name: &EndpointName,
    ) -> rusqlite::Result<i64> {
        if let Some(id) = self.id(connection, name)? {
            return Ok(id);
        }
        connection
            .prepare_cached("INSERT INTO endpoint (name) VALUES (?1)")?
            .execute([name.as_str()])?;
        let id = connection.last_insert_rowid();
        self.remember(id, name.clone());
        Ok(id)
    }

    /// The endpoint with this number.
    pub(crate) fn name(
        &mut self,
        connection: &Connection,
        id: i64,
    ) -> rusqlite::Result<Option<EndpointName>> {
        if let Some(name) = self.names.get(&id) {
            return Ok(Some(name.clone()));
        }
        let mut statement = connection.prepare_cached("SELECT name FROM endpoint WHERE id = ?1")?;
        let text: Option<String> = statement.query_row([id], |row| row.get(0)).optional()?;
        let name = text.and_then(|text| EndpointName::level_1(&text).ok());
        if let Some(name) = &name {
            self.remember(id, name.clone());
        }
        Ok(name)
    }

    fn remember(&mut self, id: i64, name: EndpointName) {
        self.ids.insert(name.clone(), id);
        self.names.insert(id, name);
    }

    /// Forgets all, because what was written may not hold.
    pub(crate) fn clear(&mut self) {
        self.ids.clear();
        self.names.clear();
    }
}

/// Bookkeeping of one message, as quotas count it.
pub(crate) const OVERHEAD_BYTES: i64 = RECORD_OVERHEAD_BYTES as i64;

/// Writes one message, by [`insert`]. It fails if there is one with the same `seq`.
const INSERT_ONE: &str = "INSERT INTO message VALUES ";

/// Writes several messages, by [`insert`]. It fails at the first one of which there is one with the same
/// `seq`, and those before it are written then: to be able to take them back, SQLite would have to copy
/// every page before it changes.
const INSERT_MANY: &str = "INSERT OR FAIL INTO message VALUES ";

/// The columns of a message.
const COLUMNS: usize = 15;

/// So many messages are written by one statement, if that many are left: what it takes to begin and end
/// a statement, and to find the end of the table and of its index, is shared by them.
const AT_ONCE: [usize; 2] = [32, 8];

/// Messages that are written by one statement have no more bytes of payload: all of them are copied first.
const AT_ONCE_BYTES_MAX: usize = 256 * 1024;

/// How many messages are written by one statement, of so many that are left: 0 only if none is.
/// `payload_bytes` tells the sum of so many of the first ones.
pub(crate) fn how_many_at_once(left: usize, payload_bytes: impl Fn(usize) -> usize) -> usize {
    let fits = |count: &usize| *count <= left && payload_bytes(*count) <= AT_ONCE_BYTES_MAX;
    AT_ONCE.into_iter().find(fits).unwrap_or(left.min(1))
}

/// The statement by which [`insert`] writes so many messages.
pub(crate) fn insert_statement(messages: usize) -> String {
    let mut text = String::from(if messages == 1 { INSERT_ONE } else { INSERT_MANY });
    for message in 0..messages {
        text.push_str(if message == 0 { "(?" } else { ",(?" });
        text.push_str(&",?".repeat(COLUMNS - 1));
        text.push(')');
    }
    text
}

/// Whether [`insert`] has found a message with the same `seq`. `INSERT OR REPLACE` would have
/// SQLite copy every page of a row before it is written, to be able to take half a replacement back.
pub(crate) fn is_there_already(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(rusqlite::ErrorCode::ConstraintViolation)
}

/// Writes messages by [`insert_statement`] of so many: each with the number of its endpoint, and how
/// often it was handed over.
pub(crate) fn insert<'a>(
    statement: &mut Statement<'_>,
    messages: impl Iterator<Item = (i64, &'a Record, u32)>,
    stored_unix_us: u64,
) -> rusqlite::Result<()> {
    for (place, (endpoint, record, deliveries)) in messages.enumerate() {
        let tag = tag_of(record);
        let values: [&dyn ToSql; COLUMNS] = [
            &record.seq,
            &endpoint,
            &codes::of_keep(record.keep),
            &record.load_bytes(),
            &record.arrived_unix_us,
            &stored_unix_us,
            &record.expires_unix_us,
            &record.wanted.map(codes::of_status),
            &sender_uid(record),
            &record.sender.as_ref().map_or(0, |sender| sender.pid),
            &sender_name(record),
            &record.via.as_deref(),
            &deliveries,
            &tag.as_deref().map(str::as_bytes),
            &&record.payload[..],
        ];
        for (column, value) in values.into_iter().enumerate() {
            statement.raw_bind_parameter(place * COLUMNS + column + 1, value)?;
        }
    }
    statement.raw_execute()?;
    Ok(())
}

/// The id of a large message, so that nobody has to read all of it to know that: unless it is judged by
/// what stands in it.
fn tag_of(record: &Record) -> Option<Cow<'_, str>> {
    if record.payload.len() < TAG_FROM_BYTES {
        return None;
    }
    let envelope = Envelope::scan(&record.payload).ok()?;
    let says_more = storage::is_judged(record.keep, record.wanted, &envelope)
        && !storage::is_plainly_judged(record.keep, record.wanted);
    text_id(&envelope).filter(|_| !says_more)
}

/// The columns that [`message`] reads. What may have been handed over by a process that did not live to
/// say so counts as handed over: see [`META_UNCLEAN_BELOW`](crate::schema::META_UNCLEAN_BELOW).
macro_rules! message_columns {
    ($deliveries:literal) => {
        concat!(
            "m.seq, m.keep, m.arrived, m.expires, m.wanted, m.uid, m.pid, m.sender, m.via, max(",
            $deliveries,
            ", m.seq < coalesce((SELECT value FROM meta WHERE key = 'unclean_below'), 0)), m.payload"
        )
    };
}

/// The columns that [`message`] reads, of [`MESSAGE_SOURCE`].
pub(crate) const MESSAGE_COLUMNS: &str = message_columns!("coalesce(d.deliveries, m.deliveries)");

/// Where [`message`] reads from.
pub(crate) const MESSAGE_SOURCE: &str = "message AS m LEFT JOIN delivery AS d ON d.seq = m.seq";

/// The same as [`MESSAGE_COLUMNS`] and [`MESSAGE_SOURCE`], where nothing is in `delivery`.
const AS_WRITTEN: (&str, &str) = (message_columns!("m.deliveries"), "message AS m");

/// What [`message`] reads, and from where: the most messages were never handed over.
pub(crate) fn columns_and_source(
    connection: &Connection,
) -> rusqlite::Result<(&'static str, &'static str)> {
    Ok(if has_deliveries(connection)? { (MESSAGE_COLUMNS, MESSAGE_SOURCE) } else { AS_WRITTEN })
}

/// Whether there is a message that was handed over more often than its row says.
pub(crate) fn has_deliveries(connection: &Connection) -> rusqlite::Result<bool> {
    connection
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM delivery)")?
        .query_row([], |row| row.get(0))
}

/// Reads a message. One that is no JSON any more is damaged. `last` is the name of the last sender:
/// messages of one sender that are read one behind the other share it.
pub(crate) fn message(
    row: &Row<'_>,
    endpoint: EndpointName,
    last: &mut Option<EndpointName>,
) -> rusqlite::Result<Record> {
    let payload = row.get_ref(10)?.as_blob().map_err(|_| damaged(10))?;
    Envelope::scan(payload).map_err(|_| damaged(10))?;
    Ok(Record {
        seq: row.get(0)?,
        endpoint,
        keep: codes::keep(row.get(1)?).ok_or_else(|| damaged(1))?,
        payload: Bytes::copy_from_slice(payload),
        sender: sender(row, 5, last)?,
        via: row.get::<_, Option<Box<str>>>(8)?,
        wanted: wanted(row, 4)?,
        arrived_unix_us: row.get(2)?,
        expires_unix_us: row.get(3)?,
        deliveries: row.get(9)?,
    })
}

pub(crate) fn wanted(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<Status>> {
    Ok(row.get::<_, Option<u8>>(column)?.and_then(codes::status))
}

/// Stands in `uid` where nobody knows who sent a message: POSIX has no user of this number.
const NO_UID: i64 = -1;

fn sender_uid(record: &Record) -> i64 {
    record.sender.as_ref().map_or(NO_UID, |sender| sender.uid.into())
}

fn sender_name(record: &Record) -> Option<&str> {
    Some(record.sender.as_ref()?.endpoint.as_ref()?.as_str())
}

/// Who sent a message: three columns from this one on.
fn sender(
    row: &Row<'_>,
    column: usize,
    last: &mut Option<EndpointName>,
) -> rusqlite::Result<Option<Sender>> {
    let Some(uid) = uid(row, column)? else { return Ok(None) };
    let text = row.get_ref(column + 2)?.as_str_or_null().map_err(|_| damaged(column + 2))?;
    let is_last = |name: &&EndpointName| text == Some(name.as_str());
    let endpoint = match last.as_ref().filter(is_last) {
        Some(last) => Some(last.clone()),
        None => text.and_then(|text| EndpointName::level_1(text).ok()),
    };
    last.clone_from(&endpoint);
    Ok(Some(Sender { uid, pid: row.get(column + 1)?, endpoint }))
}

/// The user who sent a message, where that is known.
pub(crate) fn uid(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<u32>> {
    match row.get(column)? {
        NO_UID => Ok(None),
        _ => row.get(column).map(Some),
    }
}

fn name(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<EndpointName>> {
    let text: Option<String> = row.get(column)?;
    Ok(text.and_then(|text| EndpointName::level_1(&text).ok()))
}

/// A column that holds what was never written into it.
pub(crate) fn damaged(column: usize) -> rusqlite::Error {
    rusqlite::Error::InvalidColumnType(column, "value".to_owned(), rusqlite::types::Type::Blob)
}

/// Writes a dead letter. Returns what it counts, in bytes.
pub(crate) fn insert_dead(connection: &Connection, letter: &DeadLetter) -> rusqlite::Result<u64> {
    let DeadLetter { record, reason, detail, died_unix_us } = letter;
    connection
        .prepare_cached(
            "INSERT INTO dead (seq, endpoint, keep, arrived, expires, wanted, uid, pid, sender, via, \
             deliveries, reason, detail, died, payload) VALUES \
             (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15)",
        )?
        .execute(params![
            record.seq,
            record.endpoint.as_str(),
            codes::of_keep(record.keep),
            record.arrived_unix_us,
            record.expires_unix_us,
            record.wanted.map(codes::of_status),
            sender_uid(record),
            record.sender.as_ref().map_or(0, |sender| sender.pid),
            sender_name(record),
            record.via.as_deref(),
            record.deliveries,
            reason.as_str(),
            detail,
            died_unix_us,
            &record.payload[..],
        ])?;
    Ok(record.load_bytes())
}

/// The columns that [`dead_letter`] reads.
pub(crate) const DEAD_COLUMNS: &str = "number, seq, endpoint, keep, arrived, expires, wanted, uid, pid, \
     sender, via, deliveries, reason, detail, died, payload";

/// Reads a dead letter.
pub(crate) fn dead_letter(row: &Row<'_>) -> rusqlite::Result<NumberedDeadLetter> {
    let record = Record {
        seq: row.get(1)?,
        endpoint: name(row, 2)?.ok_or_else(|| damaged(2))?,
        keep: codes::keep(row.get(3)?).ok_or_else(|| damaged(3))?,
        payload: Bytes::copy_from_slice(row.get_ref(15)?.as_blob().map_err(|_| damaged(15))?),
        sender: sender(row, 7, &mut None)?,
        via: row.get::<_, Option<Box<str>>>(10)?,
        wanted: wanted(row, 6)?,
        arrived_unix_us: row.get(4)?,
        expires_unix_us: row.get(5)?,
        deliveries: row.get(11)?,
    };
    let letter = DeadLetter {
        record,
        reason: codes::reason(&row.get::<_, String>(12)?),
        detail: row.get(13)?,
        died_unix_us: row.get(14)?,
    };
    Ok(NumberedDeadLetter { number: row.get(0)?, letter })
}

/// The string id of a message, if it has one of 1 to 255 bytes.
pub(crate) fn id_of(payload: &[u8]) -> Option<Cow<'_, str>> {
    text_id(&Envelope::scan(payload).ok()?)
}

/// The same, of an envelope that was read already.
pub(crate) fn text_id<'a>(envelope: &Envelope<'a>) -> Option<Cow<'a, str>> {
    let id = envelope.id?.text().ok()?;
    (1..=ID_BYTES_MAX).contains(&id.len()).then_some(id)
}

//! The end of messages that were only spilled: those that asked for a receipt become dead letters.

use hermes_bus_core::storage::{BUS_HAS_ENDED, SpillEnd};
use hermes_bus_proto::ErrorCode;
use rusqlite::{Connection, params};

use crate::schema::TEXT_OF_DEAD;

/// Messages that have become dead letters.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Buried {
    pub(crate) letters: u64,
    /// What they count of what may be kept.
    pub(crate) bytes: u64,
    /// The number of the last one; the others are just before it.
    last: i64,
    /// How many were not made dead letters, because all are too much.
    pub(crate) left_out: u64,
}

impl Buried {
    /// Their numbers in the index of words.
    pub(crate) fn texts(&self) -> impl Iterator<Item = i64> + use<> {
        let first = self.last - self.letters as i64 + 1;
        (first..=self.last).map(|number| TEXT_OF_DEAD + number)
    }
}

/// Copies rows of `message` into `dead`, oldest first. What may have been handed over by a process that
/// did not live to say so counts as handed over.
macro_rules! bury {
    ($which:literal) => {
        concat!(
            "INSERT INTO dead (seq, endpoint, keep, arrived, expires, wanted, uid, pid, sender, via, \
             deliveries, reason, detail, died, payload) \
             SELECT m.seq, e.name, m.keep, m.arrived, m.expires, m.wanted, m.uid, m.pid, m.sender, \
             m.via, max(coalesce(d.deliveries, m.deliveries), \
             m.seq < coalesce((SELECT value FROM meta WHERE key = 'unclean_below'), 0)), \
             ?1, ?2, ?3, m.payload \
             FROM message AS m JOIN endpoint AS e ON e.id = m.endpoint \
             LEFT JOIN delivery AS d ON d.seq = m.seq \
             WHERE m.keep = 2 AND m.wanted IS NOT NULL AND ",
            $which,
            " ORDER BY m.seq"
        )
    };
}

/// Makes dead letters of an endpoint's spilled messages that asked for a receipt: of the newest, as many
/// as `bytes_max` has room for. Their rows stay.
pub(crate) fn bury_of_endpoint(
    connection: &Connection,
    endpoint: i64,
    end: &SpillEnd,
    bytes_max: u64,
) -> rusqlite::Result<Buried> {
    let mut buried = Buried::default();
    let mut from = None;
    let mut newest_first = connection.prepare_cached(
        "SELECT seq, bytes FROM message \
         WHERE keep = 2 AND endpoint = ?1 AND wanted IS NOT NULL ORDER BY seq DESC",
    )?;
    let mut found = newest_first.query([endpoint])?;
    while let Some(row) = found.next()? {
        let bytes: u64 = row.get(1)?;
        if buried.left_out > 0 || buried.bytes.saturating_add(bytes) > bytes_max {
            buried.left_out += 1;
            continue;
        }
        buried.bytes += bytes;
        from = Some(row.get::<_, u64>(0)?);
    }
    drop(found);
    let Some(from) = from else { return Ok(buried) };
    let letters = connection
        .prepare_cached(bury!("m.endpoint = ?4 AND m.seq >= ?5"))?
        .execute(params![end.reason.as_str(), end.detail, end.died_unix_us, endpoint, from])?;
    (buried.letters, buried.last) = (letters as u64, connection.last_insert_rowid());
    Ok(buried)
}

/// Removes some of the spilled messages below a `seq`, which an earlier process has left without a word:
/// up to `rows_max`, and about `bytes_max`, but at least one. Those that asked for a receipt become dead
/// letters. Says how many rows were removed.
pub(crate) fn end_old(
    connection: &Connection,
    below: u64,
    now_unix_us: u64,
    (rows_max, bytes_max): (u32, u64),
) -> rusqlite::Result<(usize, Buried)> {
    let mut oldest = connection.prepare_cached(
        "SELECT seq, bytes, endpoint, wanted IS NOT NULL FROM message \
         WHERE keep = 2 AND seq < ?1 ORDER BY endpoint, seq LIMIT ?2",
    )?;
    let mut buried = Buried::default();
    let (mut bytes, mut last, mut of) = (0, None, None);
    let mut found = oldest.query((below, rows_max))?;
    while let Some(row) = found.next()? {
        let (seq, row_bytes): (u64, u64) = (row.get(0)?, row.get(1)?);
        let (endpoint, is_missed): (i64, bool) = (row.get(2)?, row.get(3)?);
        bytes += if is_missed { row_bytes } else { 0 };
        // One endpoint at a time: its rows lie behind each other.
        if last.is_some() && (bytes > bytes_max || of != Some(endpoint)) {
            break;
        }
        (last, of) = (Some(seq), Some(endpoint));
        buried.bytes += if is_missed { row_bytes } else { 0 };
    }
    drop(found);
    let (Some(last), Some(endpoint)) = (last, of) else { return Ok((0, buried)) };
    let reason = ErrorCode::ReceiverGone.as_str();
    let letters = connection
        .prepare_cached(bury!("m.endpoint = ?4 AND m.seq <= ?5"))?
        .execute(params![reason, BUS_HAS_ENDED, now_unix_us, endpoint, last])?;
    (buried.letters, buried.last) = (letters as u64, connection.last_insert_rowid());
    let removed = connection
        .prepare_cached("DELETE FROM message WHERE keep = 2 AND endpoint = ?1 AND seq <= ?2")?
        .execute((endpoint, last))?;
    Ok((removed, buried))
}

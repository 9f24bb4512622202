//! Reads what an earlier process has left.

use hermes_bus_core::storage::{self, Ending, Recent, Recovered, Remembered, Waiting};
use hermes_bus_proto::control::Status;
use hermes_bus_proto::{EndpointName, Envelope};
use rusqlite::Connection;

use crate::codes;
use crate::options::Options;
use crate::rows::{self, Names};
use crate::schema::{self, META_SEQ_FROM, META_UNCLEAN};
use crate::trail::Unpacker;

/// Reads everything but what follows from how the last process ended.
pub(crate) fn recovered(
    connection: &Connection,
    options: &Options,
    now_unix_us: u64,
) -> rusqlite::Result<Recovered> {
    // A bus that had to begin without its store has numbered its messages by itself.
    let highest: Option<u64> =
        connection.query_row("SELECT max(seq) FROM message", [], |row| row.get(0))?;
    let reserved = schema::meta(connection, META_SEQ_FROM)?.unwrap_or(1);
    let seq_from = reserved.max(highest.map_or(0, |highest| highest + 1));
    let unclean = schema::meta(connection, META_UNCLEAN)?.unwrap_or(false);
    Ok(Recovered {
        seq_from,
        unclean,
        remembered: remembered(connection)?,
        waiting: waiting(connection)?,
        recent: recent(connection, options, now_unix_us)?,
    })
}

fn remembered(connection: &Connection) -> rusqlite::Result<Vec<Remembered>> {
    let mut statement = connection
        .prepare("SELECT endpoint, uid, seen, mailbox, groups, topics FROM known ORDER BY seen")?;
    let mut found = statement.query([])?;
    let mut all = Vec::new();
    while let Some(row) = found.next()? {
        let Ok(endpoint) = EndpointName::level_1(&row.get::<_, String>(0)?) else { continue };
        let list = |column| -> rusqlite::Result<Vec<Box<str>>> {
            Ok(serde_json::from_str(&row.get::<_, String>(column)?).unwrap_or_default())
        };
        all.push(Remembered {
            endpoint,
            uid: row.get(1)?,
            seen_unix_us: row.get(2)?,
            mailbox: row.get(3)?,
            groups: list(4)?,
            topics: list(5)?,
        });
    }
    Ok(all)
}

fn waiting(connection: &Connection) -> rusqlite::Result<Vec<Waiting>> {
    let mut statement = connection.prepare(
        "SELECT name, messages, bytes, first, oldest FROM (\
             SELECT endpoint, count(*) AS messages, sum(bytes) AS bytes, min(seq) AS first, \
                    min(arrived) AS oldest \
             FROM message INDEXED BY message_by_endpoint WHERE keep <> 2 GROUP BY endpoint\
         ) AS sums JOIN endpoint ON endpoint.id = sums.endpoint ORDER BY name",
    )?;
    let mut found = statement.query([])?;
    let mut all = Vec::new();
    while let Some(row) = found.next()? {
        let Ok(endpoint) = EndpointName::level_1(&row.get::<_, String>(0)?) else { continue };
        all.push(Waiting {
            endpoint,
            messages: row.get(1)?,
            load_bytes: row.get(2)?,
            first_seq: row.get(3)?,
            oldest_unix_us: row.get(4)?,
        });
    }
    Ok(all)
}

/// Messages are written nearly in the order in which they arrived: one may come so much later.
const OUT_OF_ORDER_US: u64 = 60_000_000;

fn recent(
    connection: &Connection,
    options: &Options,
    now_unix_us: u64,
) -> rusqlite::Result<Vec<Recent>> {
    let window_us = u64::try_from(options.recent.as_micros()).unwrap_or(u64::MAX);
    let since = now_unix_us.saturating_sub(window_us);
    let mut recent = ended(connection, since, options.recent_max)?;
    waiting_recent(connection, since, options.recent_max, &mut recent)?;
    recent.sort_by_key(|recent| recent.arrived_unix_us);
    let too_many = recent.len().saturating_sub(options.recent_max);
    recent.drain(..too_many);
    Ok(recent)
}

fn ended(connection: &Connection, since: u64, max: usize) -> rusqlite::Result<Vec<Recent>> {
    let mut statement =
        connection.prepare("SELECT ended FROM trail WHERE until >= ?1 ORDER BY number DESC")?;
    let mut blobs = statement.query([since])?;
    let mut recent = Vec::new();
    while let Some(row) = blobs.next()? {
        for ended in Unpacker::of(row.get_ref(0)?.as_blob().unwrap_or_default()) {
            // What failed may be sent anew.
            let status = match ended.ending {
                Ending::Acked => Status::Acked,
                Ending::Read => Status::Delivered,
                Ending::Expired | Ending::Dead | Ending::Dropped | Ending::Purged => continue,
            };
            let Some(judged) = ended.judged.filter(|_| ended.arrived_unix_us >= since) else {
                continue;
            };
            recent.push(Recent {
                uid: judged.uid,
                from: judged.from.map(Into::into),
                to: judged.to.into(),
                id: ended.id.into(),
                status,
                waits_for: None,
                arrived_unix_us: ended.arrived_unix_us,
            });
        }
        if recent.len() >= max {
            break;
        }
    }
    Ok(recent)
}

fn waiting_recent(
    connection: &Connection,
    since: u64,
    max: usize,
    recent: &mut Vec<Recent>,
) -> rusqlite::Result<()> {
    let mut statement = connection.prepare(
        "SELECT arrived, keep, wanted, uid, sender, tag IS NOT NULL, payload, endpoint FROM message \
         WHERE keep <> 2 ORDER BY seq DESC",
    )?;
    let mut found = statement.query([])?;
    let mut names = Names::default();
    let mut count = 0;
    while let Some(row) = found.next()? {
        let arrived_unix_us: u64 = row.get(0)?;
        if arrived_unix_us.saturating_add(OUT_OF_ORDER_US) < since || count >= max {
            break;
        }
        let (Some(keep), wanted) = (codes::keep(row.get(1)?), rows::wanted(row, 2)?) else {
            continue;
        };
        let is_plainly_judged = storage::is_plainly_judged(keep, wanted);
        // One with a tag says nothing more of it.
        if arrived_unix_us < since || !is_plainly_judged && row.get(5)? {
            continue;
        }
        let payload = row.get_ref(6)?.as_blob().map_err(|_| rows::damaged(6))?;
        if !is_plainly_judged && !may_ask_to_be_queued(payload) {
            continue;
        }
        let envelope = Envelope::scan(payload).map_err(|_| rows::damaged(6))?;
        if !storage::is_judged(keep, wanted, &envelope) {
            continue;
        }
        let Some(id) = rows::text_id(&envelope) else { continue };
        let Some(to) = envelope.to.and_then(|to| to.text().ok()) else { continue };
        let Some(uid) = rows::uid(row, 3)? else { continue };
        let sender: Option<Box<str>> = row.get(4)?;
        let from = || Some(envelope.from?.text().ok()?.into());
        recent.push(Recent {
            uid,
            from: sender.or_else(from),
            to: to.into(),
            id: id.into(),
            status: Status::Stored,
            waits_for: names.name(connection, row.get(7)?)?,
            arrived_unix_us,
        });
        count += 1;
    }
    Ok(())
}

/// Says at little cost whether a message may have the key `queue`, however it is spelled.
fn may_ask_to_be_queued(payload: &[u8]) -> bool {
    std::str::from_utf8(payload).is_ok_and(|text| text.contains("queue") || text.contains("\\u"))
}

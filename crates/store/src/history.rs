//! Live traffic, as it is recorded.

use std::borrow::Cow;

use bytes::Bytes;
use hermes_bus_proto::Envelope;
use rusqlite::Connection;

use crate::execution::Changes;
use crate::retention::HISTORY_OVERHEAD_BYTES;
use crate::schema;

/// How much of a message is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// All but its body.
    Envelope,
    /// The whole message.
    Message,
}

/// A message that was routed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryEntry {
    /// When it was routed, in microseconds of Unix time.
    pub unix_us: u64,
    /// The JSON object.
    pub payload: Bytes,
    /// What became of it, in one word.
    pub outcome: &'static str,
    /// How much of it is recorded. The store cuts out the rest.
    pub depth: Depth,
}

/// Writes entries, within the transaction that is under way.
pub(crate) fn write(
    connection: &Connection,
    entries: &[HistoryEntry],
) -> rusqlite::Result<Changes> {
    let mut changes = Changes::default();
    let mut bytes = 0;
    let mut insert = connection.prepare_cached(
        "INSERT INTO history (at, outcome, depth, payload) VALUES (?1, ?2, ?3, ?4)",
    )?;
    for HistoryEntry { unix_us, payload, outcome, depth } in entries {
        let (depth, payload) = match depth {
            Depth::Message => (1, Cow::Borrowed(&payload[..])),
            Depth::Envelope => (0, without_body(payload)),
        };
        bytes += payload.len() as u64 + HISTORY_OVERHEAD_BYTES;
        insert.execute((unix_us, outcome, depth, &payload[..]))?;
        if depth == 1 {
            changes.added.push(schema::TEXT_OF_HISTORY + connection.last_insert_rowid());
        }
    }
    schema::add_to_total(connection, "history", entries.len() as i64, bytes as i64)?;
    Ok(changes)
}

/// The object without its body. What is not an object has nothing that could be kept.
fn without_body(payload: &[u8]) -> Cow<'_, [u8]> {
    let mut kept = Cow::Borrowed(payload);
    // A key may stand there more than once.
    while let Some(shorter) = without_one_body(&kept) {
        kept = Cow::Owned(shorter);
    }
    kept
}

fn without_one_body(payload: &[u8]) -> Option<Vec<u8>> {
    let Ok(envelope) = Envelope::scan(payload) else {
        return (payload != b"{}").then(|| b"{}".to_vec());
    };
    let value = envelope.member("body")?.as_bytes();
    let value_from = value.as_ptr() as usize - payload.as_ptr() as usize;
    let value_to = value_from + value.len();
    // The key stands before the value, with a colon and white space between. However it is escaped,
    // there is no quote within it.
    let quote = |before: usize| payload[..before].iter().rposition(|byte| *byte == b'"');
    let key_from = quote(quote(value_from)?)?;
    let before = payload[..key_from].trim_ascii_end();
    let behind = payload[value_to..].trim_ascii_start();
    let (before, behind) = match (before.strip_suffix(b","), behind.strip_prefix(b",")) {
        (Some(before), _) => (before, behind),
        (None, Some(behind)) => (before, behind.trim_ascii_start()),
        (None, None) => (before, behind),
    };
    Some([before, behind].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_envelope_is_all_but_the_body() {
        for (whole, envelope) in [
            (
                r#"{"type": "message", "body": {"a": "\""}, "id": 1}"#,
                r#"{"type": "message", "id": 1}"#,
            ),
            (r#"{"type": "message", "body": "x"}"#, r#"{"type": "message"}"#),
            (r#"{ "body" : [1, 2] , "id": 1 }"#, r#"{"id": 1 }"#),
            (r#"{"b\u006fdy": 1, "id": 2, "body": 3}"#, r#"{"id": 2}"#),
            (r#"{"body": 1}"#, "{}"),
            (r#"{"id": 1}"#, r#"{"id": 1}"#),
            ("no JSON", "{}"),
        ] {
            let kept = without_body(whole.as_bytes());
            assert_eq!(String::from_utf8_lossy(&kept), envelope, "{whole}");
        }
    }
}

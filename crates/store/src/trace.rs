//! What is known of the stored messages with one id.

use hermes_bus_core::storage::Keep;
use hermes_bus_proto::EndpointName;
use rusqlite::Connection;

use crate::codes;
use crate::reader::{Seen, Step};
use crate::rows::{self, Names};
use crate::trail::{Ended, Unpacker};

/// All of their steps, those of one message together, the message that arrived first first.
pub(crate) fn trail(
    connection: &Connection,
    names: &mut Names,
    id: &str,
) -> rusqlite::Result<Vec<Seen>> {
    let mut messages: Vec<(u64, Vec<Seen>)> = Vec::new();
    ended(connection, id, &mut messages)?;
    waiting(connection, names, id, &mut messages)?;
    dead(connection, id, &mut messages)?;
    messages.sort_by_key(|(arrived_unix_us, _)| *arrived_unix_us);
    Ok(messages.into_iter().flat_map(|(_, seen)| seen).collect())
}

fn ended(
    connection: &Connection,
    id: &str,
    messages: &mut Vec<(u64, Vec<Seen>)>,
) -> rusqlite::Result<()> {
    let mut statement = connection.prepare_cached("SELECT ended FROM trail ORDER BY number")?;
    let mut blobs = statement.query([])?;
    while let Some(row) = blobs.next()? {
        let blob = row.get_ref(0)?.as_blob().unwrap_or_default();
        for ended in Unpacker::of(blob).filter(|ended| ended.id == id) {
            messages.extend(steps_of_ended(&ended));
        }
    }
    Ok(())
}

fn steps_of_ended(ended: &Ended<'_>) -> Option<(u64, Vec<Seen>)> {
    let endpoint = EndpointName::level_1(&ended.endpoint).ok()?;
    let mut steps = Steps::begin(endpoint, ended.seq, ended.arrived_unix_us);
    steps.stored(ended.stored_unix_us);
    steps.delivered(None, ended.deliveries);
    steps.add(Step::Ended, Some(ended.ended_unix_us), ended.ending.as_str().to_owned());
    Some((ended.arrived_unix_us, steps.all))
}

fn waiting(
    connection: &Connection,
    names: &mut Names,
    id: &str,
    messages: &mut Vec<(u64, Vec<Seen>)>,
) -> rusqlite::Result<()> {
    let mut statement = connection.prepare_cached(
        "SELECT m.seq, m.keep, m.endpoint, m.arrived, m.stored, \
         coalesce(d.deliveries, m.deliveries), d.at, m.tag, m.payload \
         FROM message AS m LEFT JOIN delivery AS d ON d.seq = m.seq ORDER BY m.seq",
    )?;
    let mut found = statement.query([])?;
    while let Some(row) = found.next()? {
        let tag = row.get_ref(7)?.as_blob_or_null().ok().flatten();
        let is_it = match tag {
            Some(tag) => tag == id.as_bytes(),
            None => row
                .get_ref(8)?
                .as_blob()
                .is_ok_and(|payload| rows::id_of(payload).is_some_and(|found| found == id)),
        };
        if !is_it {
            continue;
        }
        let Some(endpoint) = names.name(connection, row.get(2)?)? else { continue };
        let arrived_unix_us = row.get(3)?;
        let mut steps = Steps::begin(endpoint, row.get(0)?, arrived_unix_us);
        match codes::keep(row.get(1)?) {
            // It is on disk, but nobody has promised that it stays there.
            Some(Keep::Spill) | None => {}
            Some(Keep::Mailbox | Keep::Queued) => steps.stored(row.get(4)?),
        }
        steps.delivered(row.get(6)?, row.get(5)?);
        messages.push((arrived_unix_us, steps.all));
    }
    Ok(())
}

/// Adds why messages died, and those that died without ever being stored.
fn dead(
    connection: &Connection,
    id: &str,
    messages: &mut Vec<(u64, Vec<Seen>)>,
) -> rusqlite::Result<()> {
    let mut statement = connection.prepare_cached(
        "SELECT seq, endpoint, arrived, deliveries, reason, detail, died, payload FROM dead \
         ORDER BY number",
    )?;
    let mut found = statement.query([])?;
    while let Some(row) = found.next()? {
        let is_it = row
            .get_ref(7)?
            .as_blob()
            .is_ok_and(|payload| rows::id_of(payload).is_some_and(|found| found == id));
        let Ok(endpoint) = EndpointName::level_1(&row.get::<_, String>(1)?) else { continue };
        if !is_it {
            continue;
        }
        let (seq, reason, detail): (u64, String, String) = (row.get(0)?, row.get(4)?, row.get(5)?);
        let why = if detail.is_empty() {
            format!("dead letter: {reason}")
        } else {
            format!("dead letter: {reason} ({detail})")
        };
        let known = messages.iter_mut().flat_map(|(_, seen)| seen);
        let mut ends = known.filter(|seen| {
            seen.step == Step::Ended && seen.seq == seq && seen.endpoint == endpoint
        });
        if let Some(end) = ends.next() {
            end.detail = why;
            continue;
        }
        let arrived_unix_us = row.get(2)?;
        let mut steps = Steps::begin(endpoint, seq, arrived_unix_us);
        steps.delivered(None, row.get(3)?);
        steps.add(Step::Ended, row.get(6)?, why);
        messages.push((arrived_unix_us, steps.all));
    }
    Ok(())
}

/// The steps of one message.
struct Steps {
    endpoint: EndpointName,
    seq: u64,
    all: Vec<Seen>,
}

impl Steps {
    fn begin(endpoint: EndpointName, seq: u64, arrived_unix_us: u64) -> Self {
        let mut steps = Steps { endpoint, seq, all: Vec::new() };
        steps.add(Step::Accepted, Some(arrived_unix_us), String::new());
        steps
    }

    fn stored(&mut self, unix_us: u64) {
        self.add(Step::Stored, Some(unix_us), String::new());
    }

    fn delivered(&mut self, unix_us: Option<u64>, deliveries: u32) {
        let times = match deliveries {
            0 => return,
            1 => String::new(),
            _ => format!("handed over {deliveries} times"),
        };
        self.add(Step::Delivered, unix_us, times);
    }

    fn add(&mut self, step: Step, unix_us: Option<u64>, detail: String) {
        let (endpoint, seq) = (self.endpoint.clone(), self.seq);
        self.all.push(Seen { step, endpoint, unix_us, seq, detail });
    }
}

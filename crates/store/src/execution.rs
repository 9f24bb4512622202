//! Carries out work within one transaction.
//!
//! A message that is kept and released within it never reaches the database.

use std::borrow::Cow;
use std::collections::BTreeMap;

use hermes_bus_core::storage::{
    self, Answer, DeadLetter, Ending, Keep, Order, Record, Remembered, Ticket,
};
use hermes_bus_proto::{EndpointName, Envelope};
use rusqlite::{Connection, OptionalExtension, Row};

use crate::codes;
use crate::load::{self, Overlay};
use crate::notice::Notice;
use crate::queue::Work;
use crate::rows::{self, Names};
use crate::schema;
use crate::trail::{Ended, Judged, Packer};

/// Numbers that were written or removed, for search.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    pub(crate) added: Vec<i64>,
    pub(crate) removed: Vec<(i64, i64)>,
}

/// What came of some work.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// To be given when it is committed.
    pub(crate) answers: Vec<Answer>,
    pub(crate) notices: Vec<Notice>,
    /// How many dead letters each [`Work::RemoveDead`] has removed.
    pub(crate) removed_dead: Vec<u64>,
    pub(crate) changes: Changes,
}

struct Unwritten<'w> {
    record: &'w Record,
    deliveries: u32,
}

/// The transaction that is under way.
pub(crate) struct Execution<'c, 'w> {
    connection: &'c Connection,
    names: &'c mut Names,
    /// Spilled messages below this `seq` are those of an earlier process: they are gone.
    spills_from: u64,
    now_unix_us: u64,
    unwritten: BTreeMap<u64, Unwritten<'w>>,
    ended: Packer,
    dead: (i64, i64),
    has_deliveries: bool,
    outcome: Outcome,
}

/// Messages whose numbers are nearer to each other than this are looked at in one go.
const GAP_MAX: u64 = 64;

impl<'c, 'w> Execution<'c, 'w> {
    pub(crate) fn begin(
        connection: &'c Connection,
        names: &'c mut Names,
        spills_from: u64,
        now_unix_us: u64,
    ) -> rusqlite::Result<Self> {
        let has_deliveries = rows::has_deliveries(connection)?;
        Ok(Execution {
            connection,
            names,
            spills_from,
            now_unix_us,
            unwritten: BTreeMap::new(),
            ended: Packer::default(),
            dead: (0, 0),
            has_deliveries,
            outcome: Outcome::default(),
        })
    }

    pub(crate) fn carry_out(&mut self, work: &'w Work) -> rusqlite::Result<()> {
        match work {
            Work::Order(_, order) => self.order(order),
            Work::RemoveDead(numbers, _) => self.remove_dead(numbers),
        }
    }

    fn order(&mut self, order: &'w Order) -> rusqlite::Result<()> {
        match order {
            Order::Keep(record) => {
                let deliveries = record.deliveries;
                self.unwritten.insert(record.seq, Unwritten { record, deliveries });
                Ok(())
            }
            Order::Release { endpoint, seqs, ending } => self.release(endpoint, seqs, *ending),
            Order::ReleaseSpilled(endpoint) => self.release_spilled(endpoint),
            Order::Purge { endpoint, from, to } => self.purge(endpoint, *from, *to),
            Order::Move { endpoint: _, seq, to, new_seq } => self.move_to(*seq, to, *new_seq),
            Order::Delivered { endpoint: _, seq, deliveries } => self.delivered(*seq, *deliveries),
            Order::Bury(letter) => self.bury(letter),
            Order::Load { .. } | Order::LoadOverdue { .. } => self.load(order),
            Order::Remember(remembered) => self.remember(remembered),
            Order::Forget(endpoint) => self.forget(endpoint),
        }
    }

    /// Writes what is left to be written. The transaction can be committed then.
    pub(crate) fn finish(mut self) -> rusqlite::Result<Outcome> {
        self.write()?;
        let ended = std::mem::take(&mut self.ended);
        let messages = ended.messages();
        if let Some(blob) = ended.finish() {
            self.connection
                .prepare_cached("INSERT INTO trail (until, messages, ended) VALUES (?1, ?2, ?3)")?
                .execute((self.now_unix_us, messages, &blob))?;
            schema::add_to_total(self.connection, "trail", 1, blob.len() as i64)?;
        }
        schema::add_to_total(self.connection, "dead", self.dead.0, self.dead.1)?;
        Ok(self.outcome)
    }

    fn write(&mut self) -> rusqlite::Result<()> {
        if self.unwritten.is_empty() {
            return Ok(());
        }
        let unwritten: Vec<_> = std::mem::take(&mut self.unwritten).into_values().collect();
        let mut rest = &unwritten[..];
        while !rest.is_empty() {
            let payload_bytes =
                |count| rest[..count].iter().map(|message| message.record.payload.len()).sum();
            let (next, later) = rest.split_at(rows::how_many_at_once(rest.len(), payload_bytes));
            match self.insert(next) {
                Err(error) if rows::is_there_already(&error) => {
                    next.iter().try_for_each(|unwritten| self.replace(unwritten))?;
                }
                inserted => inserted?,
            }
            rest = later;
        }
        for Unwritten { record, .. } in unwritten {
            if record.keep != Keep::Spill {
                self.outcome.changes.added.push(schema::TEXT_OF_MESSAGES + record.seq as i64);
            }
        }
        Ok(())
    }

    fn insert(&mut self, messages: &[Unwritten<'_>]) -> rusqlite::Result<()> {
        let mut rows = Vec::with_capacity(messages.len());
        for Unwritten { record, deliveries } in messages {
            let endpoint = self.names.id_or_new(self.connection, &record.endpoint)?;
            rows.push((endpoint, *record, *deliveries));
        }
        let mut statement =
            self.connection.prepare_cached(&rows::insert_statement(messages.len()))?;
        rows::insert(&mut statement, rows.into_iter(), self.now_unix_us)
    }

    fn replace(&mut self, message: &Unwritten<'_>) -> rusqlite::Result<()> {
        self.connection
            .prepare_cached("DELETE FROM message WHERE seq = ?1")?
            .execute([message.record.seq])?;
        self.insert(std::slice::from_ref(message))
    }

    fn release(
        &mut self,
        endpoint: &EndpointName,
        seqs: &[u64],
        ending: Ending,
    ) -> rusqlite::Result<()> {
        let written: Cow<'_, [u64]> = if self.unwritten.is_empty() {
            Cow::Borrowed(seqs)
        } else {
            seqs.iter().copied().filter(|seq| self.unwritten.remove(seq).is_none()).collect()
        };
        if written.is_empty() {
            return Ok(());
        }
        let Some(endpoint_id) = self.names.id(self.connection, endpoint)? else { return Ok(()) };
        for near in written.chunk_by(|a, b| b.saturating_sub(*a) <= GAP_MAX) {
            let runs = self.look_at_ended(endpoint, endpoint_id, near, ending)?;
            let mut delete = self
                .connection
                .prepare_cached("DELETE FROM message WHERE seq BETWEEN ?1 AND ?2")?;
            for run in runs {
                delete.execute(run)?;
                self.forget_deliveries(run)?;
                self.outcome.changes.removed.push((
                    schema::TEXT_OF_MESSAGES + run.0 as i64,
                    schema::TEXT_OF_MESSAGES + run.1 as i64,
                ));
            }
        }
        Ok(())
    }

    /// Notes the ends of messages. Returns them as runs with nothing else in between.
    fn look_at_ended(
        &mut self,
        endpoint: &EndpointName,
        endpoint_id: i64,
        seqs: &[u64],
        ending: Ending,
    ) -> rusqlite::Result<Vec<(u64, u64)>> {
        let (Some(first), Some(last)) = (seqs.first(), seqs.last()) else { return Ok(Vec::new()) };
        let sql = if self.has_deliveries { ENDED_BETWEEN } else { ENDED_BETWEEN_AS_WRITTEN };
        let mut statement = self.connection.prepare_cached(sql)?;
        let mut found = statement.query((first, last))?;
        let mut wanted = seqs.iter().copied().peekable();
        let mut runs: Vec<(u64, u64)> = Vec::new();
        let mut is_run_open = false;
        while let Some(row) = found.next()? {
            let seq: u64 = row.get(0)?;
            while wanted.next_if(|wanted| *wanted < seq).is_some() {}
            if wanted.peek() != Some(&seq) || row.get::<_, i64>(1)? != endpoint_id {
                is_run_open = false;
                continue;
            }
            match runs.last_mut().filter(|_| is_run_open) {
                Some(run) => run.1 = seq,
                None => runs.push((seq, seq)),
            }
            is_run_open = true;
            note_end(&mut self.ended, row, endpoint, self.now_unix_us, ending)?;
        }
        Ok(runs)
    }

    fn forget_deliveries(&self, (from, to): (u64, u64)) -> rusqlite::Result<()> {
        if self.has_deliveries {
            self.connection
                .prepare_cached("DELETE FROM delivery WHERE seq BETWEEN ?1 AND ?2")?
                .execute((from, to))?;
        }
        Ok(())
    }

    fn release_spilled(&mut self, endpoint: &EndpointName) -> rusqlite::Result<()> {
        self.unwritten.retain(|_, unwritten| {
            unwritten.record.keep != Keep::Spill || unwritten.record.endpoint != *endpoint
        });
        let Some(id) = self.names.id(self.connection, endpoint)? else { return Ok(()) };
        if self.has_deliveries {
            self.connection
                .prepare_cached(
                    "DELETE FROM delivery WHERE seq IN \
                     (SELECT seq FROM message WHERE keep = 2 AND endpoint = ?1)",
                )?
                .execute([id])?;
        }
        self.connection
            .prepare_cached("DELETE FROM message WHERE keep = 2 AND endpoint = ?1")?
            .execute([id])?;
        Ok(())
    }

    fn purge(&mut self, endpoint: &EndpointName, from: u64, to: u64) -> rusqlite::Result<()> {
        let is_it = |seq: &u64| (from..=to).contains(seq);
        self.unwritten
            .retain(|seq, unwritten| unwritten.record.endpoint != *endpoint || !is_it(seq));
        let Some(id) = self.names.id(self.connection, endpoint)? else { return Ok(()) };
        let range = (id, from as i64, i64::try_from(to).unwrap_or(i64::MAX));
        let mut statement = self.connection.prepare_cached(ENDED_OF_ENDPOINT)?;
        let mut found = statement.query(range)?;
        while let Some(row) = found.next()? {
            let text = schema::TEXT_OF_MESSAGES + row.get::<_, i64>(0)?;
            self.outcome.changes.removed.push((text, text));
            note_end(&mut self.ended, row, endpoint, self.now_unix_us, Ending::Purged)?;
        }
        self.connection
            .prepare_cached(
                "DELETE FROM delivery WHERE seq IN \
                 (SELECT seq FROM message WHERE endpoint = ?1 AND seq BETWEEN ?2 AND ?3)",
            )?
            .execute(range)?;
        self.connection
            .prepare_cached("DELETE FROM message WHERE endpoint = ?1 AND seq BETWEEN ?2 AND ?3")?
            .execute(range)?;
        Ok(())
    }

    /// Nothing happens if the message is not there: it was refused, or let go of.
    fn move_to(&mut self, seq: u64, to: &EndpointName, new_seq: u64) -> rusqlite::Result<()> {
        if self.unwritten.contains_key(&seq) {
            self.write()?;
        }
        let endpoint = self.names.id_or_new(self.connection, to)?;
        let moved = self
            .connection
            .prepare_cached("UPDATE message SET seq = ?1, endpoint = ?2 WHERE seq = ?3")?
            .execute((new_seq, endpoint, seq))?;
        if moved > 0 {
            self.connection
                .prepare_cached("UPDATE delivery SET seq = ?1 WHERE seq = ?2")?
                .execute((new_seq, seq))?;
            let (old, new) =
                (schema::TEXT_OF_MESSAGES + seq as i64, schema::TEXT_OF_MESSAGES + new_seq as i64);
            self.outcome.changes.removed.push((old, old));
            self.outcome.changes.added.push(new);
        }
        Ok(())
    }

    fn delivered(&mut self, seq: u64, deliveries: u32) -> rusqlite::Result<()> {
        if let Some(unwritten) = self.unwritten.get_mut(&seq) {
            unwritten.deliveries = deliveries;
            return Ok(());
        }
        let changed = self
            .connection
            .prepare_cached(
                "INSERT OR REPLACE INTO delivery (seq, deliveries, at) \
                 SELECT ?1, ?2, ?3 WHERE EXISTS (SELECT 1 FROM message WHERE seq = ?1)",
            )?
            .execute((seq, deliveries, self.now_unix_us))?;
        self.has_deliveries |= changed > 0;
        Ok(())
    }

    fn bury(&mut self, letter: &DeadLetter) -> rusqlite::Result<()> {
        let bytes = rows::insert_dead(self.connection, letter)?;
        self.dead.0 += 1;
        self.dead.1 += bytes as i64;
        let number = self.connection.last_insert_rowid();
        self.outcome.changes.added.push(schema::TEXT_OF_DEAD + number);
        Ok(())
    }

    fn remove_dead(&mut self, numbers: &[u64]) -> rusqlite::Result<()> {
        let mut removed = 0;
        for number in numbers {
            let mut look = self
                .connection
                .prepare_cached("SELECT length(payload) FROM dead WHERE number = ?1")?;
            let payload_bytes: Option<i64> =
                look.query_row([number], |row| row.get(0)).optional()?;
            let Some(payload_bytes) = payload_bytes else { continue };
            self.connection
                .prepare_cached("DELETE FROM dead WHERE number = ?1")?
                .execute([number])?;
            removed += 1;
            self.dead.0 -= 1;
            self.dead.1 -= payload_bytes + rows::OVERHEAD_BYTES;
            let text = schema::TEXT_OF_DEAD + *number as i64;
            self.outcome.changes.removed.push((text, text));
        }
        self.outcome.removed_dead.push(removed);
        Ok(())
    }

    fn load(&mut self, order: &Order) -> rusqlite::Result<()> {
        self.write()?;
        let nothing = Overlay::default();
        let loaded = load::load(self.connection, self.names, order, self.spills_from, &nothing)?;
        self.outcome.answers.extend(loaded.answer);
        self.outcome.notices.extend(loaded.notices);
        Ok(())
    }

    fn remember(&mut self, remembered: &Remembered) -> rusqlite::Result<()> {
        let list = |names: &[Box<str>]| serde_json::to_string(names).expect("text has a JSON form");
        self.connection
            .prepare_cached(
                "INSERT OR REPLACE INTO known (endpoint, uid, seen, mailbox, groups, topics) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            )?
            .execute((
                remembered.endpoint.as_str(),
                remembered.uid,
                remembered.seen_unix_us,
                remembered.mailbox,
                list(&remembered.groups),
                list(&remembered.topics),
            ))?;
        Ok(())
    }

    fn forget(&mut self, endpoint: &EndpointName) -> rusqlite::Result<()> {
        self.connection
            .prepare_cached("DELETE FROM known WHERE endpoint = ?1")?
            .execute([endpoint.as_str()])?;
        Ok(())
    }
}

/// The columns that [`note_end`] reads.
macro_rules! ended_columns {
    ($deliveries:literal, $source:literal, $condition:literal) => {
        concat!(
            "SELECT m.seq, m.endpoint, m.keep, m.arrived, m.stored, m.wanted, m.uid, m.sender, ",
            $deliveries,
            ", m.tag, m.payload FROM ",
            $source,
            " WHERE ",
            $condition
        )
    };
    ($condition:literal) => {
        ended_columns!(
            "coalesce(d.deliveries, m.deliveries)",
            "message AS m LEFT JOIN delivery AS d ON d.seq = m.seq",
            $condition
        )
    };
}

const ENDED_BETWEEN: &str = ended_columns!("m.seq BETWEEN ?1 AND ?2 ORDER BY m.seq");
/// The same where nothing is in `delivery`.
const ENDED_BETWEEN_AS_WRITTEN: &str =
    ended_columns!("m.deliveries", "message AS m", "m.seq BETWEEN ?1 AND ?2 ORDER BY m.seq");
const ENDED_OF_ENDPOINT: &str = ended_columns!("m.endpoint = ?1 AND m.seq BETWEEN ?2 AND ?3");

/// Notes in the trail that a message came to its end, if it was stored and has an id.
fn note_end(
    ended: &mut Packer,
    row: &Row<'_>,
    endpoint: &EndpointName,
    now_unix_us: u64,
    ending: Ending,
) -> rusqlite::Result<()> {
    let Some(keep) = codes::keep(row.get(2)?).filter(|keep| *keep != Keep::Spill) else {
        return Ok(());
    };
    let wanted = rows::wanted(row, 5)?;
    let is_plainly_judged = storage::is_plainly_judged(keep, wanted);
    let tag = row.get_ref(9)?.as_blob_or_null().ok().flatten();
    let tag = tag.and_then(|tag| std::str::from_utf8(tag).ok());
    let envelope = match (tag, is_plainly_judged) {
        (Some(_), false) => None,
        _ => row.get_ref(10)?.as_blob().ok().and_then(|payload| Envelope::scan(payload).ok()),
    };
    let Some(id) = tag.map(Cow::Borrowed).or_else(|| rows::text_id(envelope.as_ref()?)) else {
        return Ok(());
    };
    let sender = row.get_ref(7)?.as_str_or_null().ok().flatten();
    let is_judged = |envelope: &Envelope<'_>| storage::is_judged(keep, wanted, envelope);
    let judged = envelope.filter(is_judged).and_then(|envelope| {
        let from = || envelope.from?.text().ok();
        Some(Judged {
            uid: rows::uid(row, 6).ok()??,
            from: sender.map(Cow::Borrowed).or_else(from),
            to: envelope.to?.text().ok()?,
        })
    });
    ended.pack(&Ended {
        seq: row.get(0)?,
        id,
        endpoint: Cow::Borrowed(endpoint.as_str()),
        arrived_unix_us: row.get(3)?,
        stored_unix_us: row.get(4)?,
        ended_unix_us: now_unix_us,
        deliveries: row.get(8)?,
        ending,
        judged,
    });
    Ok(())
}

/// The tickets of messages that are kept by this work and not released by it again.
pub(crate) fn kept_tickets(work: &[Work]) -> Vec<Ticket> {
    let mut kept: BTreeMap<u64, (Ticket, &Record)> = BTreeMap::new();
    for work in work {
        let Work::Order(ticket, order) = work else { continue };
        match order {
            Order::Keep(record) => {
                kept.insert(record.seq, (*ticket, record));
            }
            Order::Release { seqs, .. } => seqs.iter().for_each(|seq| {
                kept.remove(seq);
            }),
            Order::ReleaseSpilled(endpoint) => kept.retain(|_, (_, record)| {
                record.keep != Keep::Spill || record.endpoint != *endpoint
            }),
            Order::Purge { endpoint, from, to } => kept.retain(|seq, (_, record)| {
                record.endpoint != *endpoint || !(*from..=*to).contains(seq)
            }),
            _ => {}
        }
    }
    let mut tickets: Vec<Ticket> = kept.into_values().map(|(ticket, _)| ticket).collect();
    tickets.sort_unstable();
    tickets
}

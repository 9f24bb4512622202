//! Reads messages for the router.

use std::collections::{HashMap, HashSet};
use std::ops::RangeInclusive;

use hermes_bus_core::storage::{Answer, Order, Record};
use hermes_bus_proto::EndpointName;
use rusqlite::Connection;

use crate::notice::Notice;
use crate::rows::{self, MESSAGE_COLUMNS, MESSAGE_SOURCE, Names};
use crate::schema;

/// What was ordered and cannot be written for now: it holds nevertheless.
#[derive(Debug, Default)]
pub(crate) struct Overlay {
    released: HashSet<u64>,
    unspilled: HashSet<EndpointName>,
    purged: Vec<(EndpointName, RangeInclusive<u64>)>,
    deliveries: HashMap<u64, u32>,
}

impl Overlay {
    /// Takes an order into account.
    pub(crate) fn add(&mut self, order: &Order) {
        match order {
            Order::Release { seqs, .. } => self.released.extend(seqs),
            Order::ReleaseSpilled(endpoint) => {
                self.unspilled.insert(endpoint.clone());
            }
            Order::Purge { endpoint, from, to } => {
                self.purged.push((endpoint.clone(), *from..=*to));
            }
            // Where it goes it is seen once it is there.
            Order::Move { seq, .. } => {
                self.released.insert(*seq);
            }
            Order::Delivered { seq, deliveries, .. } => {
                self.deliveries.insert(*seq, *deliveries);
            }
            Order::Keep(_)
            | Order::Bury(_)
            | Order::Load { .. }
            | Order::LoadOverdue { .. }
            | Order::Remember(_)
            | Order::Forget(_) => {}
        }
    }

    /// The message as it would be read if all that holds were written.
    fn apply(&self, mut record: Record) -> Option<Record> {
        use hermes_bus_core::storage::Keep::Spill;
        let is_gone = self.released.contains(&record.seq)
            || self
                .purged
                .iter()
                .any(|(name, seqs)| *name == record.endpoint && seqs.contains(&record.seq))
            || record.keep == Spill && self.unspilled.contains(&record.endpoint);
        if let Some(deliveries) = self.deliveries.get(&record.seq) {
            record.deliveries = *deliveries;
        }
        (!is_gone).then_some(record)
    }
}

/// What was read.
#[derive(Debug, Default)]
pub(crate) struct Loaded {
    pub(crate) answer: Option<Answer>,
    pub(crate) notices: Vec<Notice>,
}

/// Bytes of payload that are read for one [`Order::LoadOverdue`], but for the first message.
const OVERDUE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Answers an [`Order::Load`] or [`Order::LoadOverdue`]; nothing for any other order.
pub(crate) fn load(
    connection: &Connection,
    names: &mut Names,
    order: &Order,
    spills_from: u64,
    overlay: &Overlay,
) -> rusqlite::Result<Loaded> {
    let (notices, last_sender) = (Vec::new(), None);
    let mut reading = Reading { connection, names, spills_from, overlay, notices, last_sender };
    let answer = match order {
        Order::Load { endpoint, from, messages_max, bytes_max } => {
            let limits = (*messages_max, *bytes_max);
            let (records, is_all) = match reading.of_endpoint(endpoint, *from, limits) {
                Err(error) if schema::is_damage(&error) => {
                    reading.one_by_one(endpoint, *from, limits)?
                }
                read => read?,
            };
            Some(Answer::Loaded { endpoint: endpoint.clone(), records, is_all })
        }
        Order::LoadOverdue { unix_us, messages_max } => {
            Some(Answer::Overdue(reading.overdue(*unix_us, *messages_max)?))
        }
        _ => None,
    };
    Ok(Loaded { answer, notices: reading.notices })
}

struct Reading<'a> {
    connection: &'a Connection,
    names: &'a mut Names,
    spills_from: u64,
    overlay: &'a Overlay,
    notices: Vec<Notice>,
    /// Who sent the message that was read last.
    last_sender: Option<EndpointName>,
}

impl Reading<'_> {
    fn of_endpoint(
        &mut self,
        endpoint: &EndpointName,
        from: u64,
        limits: (usize, usize),
    ) -> rusqlite::Result<(Vec<Record>, bool)> {
        let Some(id) = self.names.id(self.connection, endpoint)? else {
            return Ok((Vec::new(), true));
        };
        let (columns, source) = rows::columns_and_source(self.connection)?;
        let mut statement = self.connection.prepare_cached(&format!(
            "SELECT {columns}, m.bytes FROM {source} \
             WHERE m.endpoint = ?1 AND m.seq >= ?2 AND NOT (m.keep = 2 AND m.seq < ?3) \
             ORDER BY m.seq"
        ))?;
        let mut found = statement.query((id, from, self.spills_from))?;
        let mut page = Filling::new(limits);
        while let Some(row) = found.next()? {
            if page.is_full_for(row.get(11)?) {
                return Ok((page.records, false));
            }
            let record = rows::message(row, endpoint.clone(), &mut self.last_sender)?;
            if let Some(record) = self.overlay.apply(record) {
                page.push(record);
            }
        }
        Ok((page.records, true))
    }

    /// The same where something cannot be read: it is passed over, and said.
    fn one_by_one(
        &mut self,
        endpoint: &EndpointName,
        from: u64,
        limits: (usize, usize),
    ) -> rusqlite::Result<(Vec<Record>, bool)> {
        let Some(id) = self.names.id(self.connection, endpoint)? else {
            return Ok((Vec::new(), true));
        };
        let mut statement = self.connection.prepare_cached(
            "SELECT seq FROM message INDEXED BY message_by_endpoint \
             WHERE endpoint = ?1 AND seq >= ?2 AND NOT (keep = 2 AND seq < ?3) ORDER BY seq",
        )?;
        let mut seqs = statement.query((id, from, self.spills_from))?;
        let mut page = Filling::new(limits);
        while let Some(row) = seqs.next()? {
            let seq: u64 = row.get(0)?;
            let read = self
                .connection
                .prepare_cached(&format!(
                    "SELECT {MESSAGE_COLUMNS} FROM {MESSAGE_SOURCE} WHERE m.seq = ?1"
                ))?
                .query_row([seq], |row| {
                    rows::message(row, endpoint.clone(), &mut self.last_sender)
                });
            match read {
                Ok(record) => {
                    if page.is_full_for(record.load_bytes()) {
                        return Ok((page.records, false));
                    }
                    if let Some(record) = self.overlay.apply(record) {
                        page.push(record);
                    }
                }
                Err(error) => {
                    self.notices.push(Notice::Unreadable { seq, why: error.to_string() });
                }
            }
        }
        Ok((page.records, true))
    }

    fn overdue(&mut self, unix_us: u64, messages_max: usize) -> rusqlite::Result<Vec<Record>> {
        let mut statement = self.connection.prepare_cached(&format!(
            "SELECT {MESSAGE_COLUMNS}, m.bytes, m.endpoint FROM {MESSAGE_SOURCE} \
             WHERE m.expires <= ?1 AND NOT (m.keep = 2 AND m.seq < ?2) ORDER BY m.expires"
        ))?;
        let mut found = statement.query((unix_us, self.spills_from))?;
        let mut page = Filling::new((messages_max, OVERDUE_BYTES_MAX));
        while let Some(row) = found.next()? {
            if page.is_full_for(row.get(11)?) {
                break;
            }
            let Some(endpoint) = self.names.name(self.connection, row.get(12)?)? else { continue };
            let record = rows::message(row, endpoint, &mut self.last_sender)?;
            if let Some(record) = self.overlay.apply(record) {
                page.push(record);
            }
        }
        Ok(page.records)
    }
}

/// Messages up to two limits, but at least one.
struct Filling {
    records: Vec<Record>,
    messages_max: usize,
    bytes_left: usize,
}

impl Filling {
    fn new((messages_max, bytes_max): (usize, usize)) -> Self {
        Filling { records: Vec::new(), messages_max, bytes_left: bytes_max }
    }

    /// Whether a message that takes so many bytes of a quota is one too many.
    fn is_full_for(&self, load_bytes: u64) -> bool {
        let payload_bytes = load_bytes.saturating_sub(rows::OVERHEAD_BYTES as u64) as usize;
        !self.records.is_empty()
            && (self.records.len() >= self.messages_max || payload_bytes > self.bytes_left)
    }

    fn push(&mut self, record: Record) {
        self.bytes_left = self.bytes_left.saturating_sub(record.payload.len());
        self.records.push(record);
    }
}

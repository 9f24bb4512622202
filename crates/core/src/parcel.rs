//! A message that is tracked: for an endpoint that acknowledges or has a mailbox, or from disk.

use alloc::borrow::Cow;
use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use core::cell::Cell;
use core::fmt::Write as _;
use core::num::NonZeroU64;

use bytes::Bytes;
use hermes_bus_proto::limits::HEADER_BYTES;
use hermes_bus_proto::listing::Level;
use hermes_bus_proto::name::json_string;
use hermes_bus_proto::{EndpointName, Envelope, Raw, frame};

use crate::fate::Fate;
use crate::outbox::LooseMessage;
use crate::session::SessionKey;
use crate::storage::{Keep, Record, Sender, Ticket};
use crate::time::Moment;
use crate::trace::IdHasher;

/// A tracked message for one endpoint.
pub(crate) struct Parcel {
    /// Names it among all of its endpoint; the order of first deliveries.
    pub(crate) seq: u64,
    /// The JSON object as a level 1 receiver gets it.
    pub(crate) payload: Bytes,
    /// Who sent it, where that is known.
    pub(crate) sender: Option<Sender>,
    /// The `@group` or `#topic` that it came through.
    pub(crate) via: Option<Box<str>>,
    pub(crate) arrived: Moment,
    pub(crate) arrived_unix_us: u64,
    /// When it is not wanted any more.
    pub(crate) deadline: Option<Moment>,
    /// How often it was handed over.
    pub(crate) deliveries: u32,
    /// Whether it is on disk or on its way there, and why.
    pub(crate) kept: Option<Kept>,
    pub(crate) fate: Fate,
    /// The anonymous connection that waits for a courtesy receipt.
    pub(crate) waiter: Option<SessionKey>,
    /// Whether it becomes a dead letter if it fails: asked for a receipt or `queue`, or was for a
    /// mailbox.
    pub(crate) is_mourned: bool,
    /// The hash of its id, once somebody has looked for one.
    pub(crate) id_hash: Cell<Option<NonZeroU64>>,
}

/// A message's row on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kept {
    pub(crate) why: Keep,
    /// The order that wrote it; zero if an earlier process did, or it came from there.
    pub(crate) ticket: Ticket,
}

/// Bookkeeping of one parcel in memory.
pub(crate) const PARCEL_OVERHEAD_BYTES: usize = size_of::<Parcel>() + 64;

impl Parcel {
    /// What it takes in memory.
    pub(crate) fn load_bytes(&self) -> usize {
        self.payload.len() + PARCEL_OVERHEAD_BYTES
    }

    /// Whether its time to live has run out. Without any, it is now or never.
    pub(crate) fn is_over(&self, now: Moment) -> bool {
        let has_just_come = self.kept.is_none_or(|kept| kept.ticket != Ticket::default());
        let is_now_or_never = self.deadline == Some(self.arrived) && has_just_come;
        self.deadline.is_some_and(|at| at < now || at == now && !is_now_or_never)
    }

    /// As it is kept.
    pub(crate) fn record(
        &self,
        endpoint: &EndpointName,
        keep: Keep,
        bus_time: impl Fn(Moment) -> u64,
    ) -> Record {
        Record {
            seq: self.seq,
            endpoint: endpoint.clone(),
            keep,
            payload: self.payload.clone(),
            sender: self.sender.clone(),
            via: self.via.clone(),
            wanted: self.fate.wanted(),
            arrived_unix_us: self.arrived_unix_us,
            expires_unix_us: self.deadline.map(bus_time),
            deliveries: self.deliveries,
        }
    }

    /// One that was read from disk.
    pub(crate) fn from_record(record: Record, deadline: Option<Moment>, now: Moment) -> Self {
        Parcel {
            seq: record.seq,
            payload: record.payload,
            sender: record.sender,
            via: record.via,
            arrived: now,
            arrived_unix_us: record.arrived_unix_us,
            deadline,
            deliveries: record.deliveries,
            kept: Some(Kept { why: record.keep, ticket: Ticket(0) }),
            fate: Fate::default(),
            waiter: None,
            is_mourned: record.keep != Keep::Spill || record.wanted.is_some(),
            id_hash: Cell::default(),
        }
    }

    /// One that was held for a name whose session ended.
    pub(crate) fn from_loose(message: LooseMessage, unix_us: u64) -> Self {
        let LooseMessage { seq, frame, provenance, sender, tracking, level, .. } = message;
        let (mut fate, mut deadline, mut deliveries, mut origin) = Default::default();
        let mut is_mourned = false;
        if let Some(tracking) = tracking {
            is_mourned = tracking.is_mourned;
            (fate, deadline, origin) = (tracking.fate, tracking.deadline, tracking.origin);
            // It has not begun to be handed over this time.
            deliveries = tracking.deliveries.saturating_sub(1);
        }
        let payload = frame.slice(HEADER_BYTES..);
        let (payload, sender, via) = match (level, origin) {
            (Level::Two, _) => as_it_came(payload),
            (Level::One, None) => (payload, sender.map(|sender| *sender), None),
            (Level::One, Some(origin)) => (payload, origin.sender, origin.via),
        };
        Parcel {
            seq,
            payload,
            sender,
            via,
            arrived: provenance.arrived,
            arrived_unix_us: unix_us,
            deadline,
            deliveries,
            kept: None,
            is_mourned,
            fate,
            waiter: provenance.waiter,
            id_hash: Cell::default(),
        }
    }

    /// The group that it came through, without `@`.
    pub(crate) fn group(&self) -> Option<&str> {
        self.via.as_deref()?.strip_prefix('@')
    }

    /// Its id as JSON.
    pub(crate) fn id_json(&self) -> Option<&[u8]> {
        Some(Envelope::scan(&self.payload).ok()?.id?.as_bytes())
    }

    /// Whether its id, as JSON, may have this hash: the payload is looked at once, however often that is
    /// asked.
    pub(crate) fn may_have_id(&self, id_hash: u64, hasher: &IdHasher) -> bool {
        // One without an id has the hash of nothing.
        let known = self.id_hash.get().unwrap_or_else(|| {
            let found = as_id_hash(hasher.of(self.id_json().unwrap_or_default()));
            self.id_hash.set(Some(found));
            found
        });
        known == as_id_hash(id_hash)
    }

    /// Its id, if that is text.
    pub(crate) fn id_text(&self) -> Option<Cow<'_, str>> {
        Raw::new(self.id_json()?).text().ok()
    }

    /// What is told to the `delivery`-th receiver on level 2 besides what the sender wrote.
    fn added(&self, seq: Option<u64>) -> String {
        let delivery = (self.deliveries > 1).then_some(self.deliveries);
        added_fields(self.sender.as_ref(), self.via.as_deref(), seq, delivery)
    }

    /// The frame for a level 2 session. `seq` is told to those who acknowledge.
    pub(crate) fn append_level_2(&self, out: &mut Vec<u8>, seq: Option<u64>) {
        let added = self.added(seq);
        let cut;
        let kept: &[u8] = match Envelope::scan(&self.payload) {
            Ok(envelope) if envelope.has_keys_of_the_bus => {
                cut = envelope.without_keys_of_the_bus();
                &cut
            }
            Ok(envelope) => &self.payload[..envelope.closing_brace_at()],
            Err(_) => return,
        };
        out.extend_from_slice(&frame::header(kept.len() + added.len() + 1));
        out.extend_from_slice(kept);
        out.extend_from_slice(added.as_bytes());
        out.push(b'}');
    }
}

/// A hash that is never zero.
fn as_id_hash(hash: u64) -> NonZeroU64 {
    NonZeroU64::new(hash).unwrap_or(NonZeroU64::MIN)
}

/// A message from its level 2 form: without what the bus has added, who sent it, and through what.
fn as_it_came(payload: Bytes) -> (Bytes, Option<Sender>, Option<Box<str>>) {
    let Ok(envelope) = Envelope::scan(&payload) else { return (payload, None, None) };
    let sender = envelope.member("sender").and_then(|sender| read_sender(sender.as_bytes()));
    let via = envelope.member("via").and_then(|via| Some(via.text().ok()?.into()));
    let mut without = envelope.without_keys_of_the_bus();
    without.push(b'}');
    (Bytes::from(without), sender, via)
}

fn read_sender(json: &[u8]) -> Option<Sender> {
    let envelope = Envelope::scan(json).ok()?;
    let number = |key| u32::try_from(envelope.member(key)?.integer()?).ok();
    let endpoint =
        envelope.endpoint.and_then(|name| EndpointName::level_1(&name.text().ok()?).ok());
    Some(Sender { uid: number("uid")?, pid: number("pid")?, endpoint })
}

/// The members that the bus adds to a message for a level 2 session, to stand before its closing
/// brace.
pub(crate) fn added_fields(
    sender: Option<&Sender>,
    via: Option<&str>,
    seq: Option<u64>,
    delivery: Option<u32>,
) -> String {
    let mut text = String::with_capacity(96);
    // A `String` takes every write.
    if let Some(Sender { uid, pid, endpoint }) = sender {
        let endpoint = endpoint.as_ref().map(EndpointName::to_json);
        let endpoint = endpoint.as_deref().unwrap_or("null");
        let _ = write!(
            text,
            ", \"sender\": {{\"uid\": {uid}, \"pid\": {pid}, \"endpoint\": {endpoint}}}"
        );
    }
    if let Some(via) = via {
        let _ = write!(text, ", \"via\": {}", json_string(via));
    }
    if let Some(seq) = seq {
        let _ = write!(text, ", \"seq\": {seq}");
    }
    if let Some(delivery) = delivery {
        let _ = write!(text, ", \"delivery\": {delivery}");
    }
    text
}

//! What waits for an endpoint besides the queue of its session: messages for which its session has no
//! place yet, messages that came back unacknowledged, and messages on disk.
//!
//! Everything for one endpoint has a `seq`, given in the order of arrival, and first deliveries follow
//! it: what is in memory is handed over only if nothing older is left on disk. A message is in one
//! place at a time: in `waiting` or `paused`, in the hands of a session, or on disk only (from
//! `disk_from` on). Its row on disk, if it has one, stays until it is acknowledged, read or given up.

use alloc::boxed::Box;
use alloc::collections::btree_map::Entry;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use hermes_bus_proto::control::Status;
use hermes_bus_proto::listing::{Amount, Level};
use hermes_bus_proto::{ErrorCode, frame};

use crate::Event;
use crate::acks::Handing;
use crate::endpoint::{EndpointKey, EndpointState};
use crate::fate::{Failure, Fate};
use crate::ledger::UserKey;
use crate::outbox::{Body, FrameKind, Origin, Provenance, SHARE_BYTES_MIN, Tracking};
use crate::parcel::{Kept, PARCEL_OVERHEAD_BYTES, Parcel, added_fields};
use crate::router::Router;
use crate::session::SessionKey;
use crate::storage::{Ending, Keep, Order, RECORD_OVERHEAD_BYTES, Record, SpillEnd, Ticket};
use crate::time::Moment;
use crate::timers::Timer;
use crate::trace::TraceState;

/// What a session's queue holds at most of tracked messages: the rest waits where it can expire.
const AHEAD_BYTES: usize = 256 * 1024;
/// The same while messages with a time to live wait: what is queued leaves with the next write.
const AHEAD_BYTES_MORTAL: usize = 32 * 1024;
/// What is read from disk at a time.
const LOAD_MESSAGES: usize = 4_096;
const LOAD_BYTES: usize = 2 * 1024 * 1024;
/// After so many promises, twice as many are looked at.
const LOOK_EVERY: usize = 64;
/// Messages in memory below which more are read from disk.
const LOAD_BELOW: usize = 2_048;
const LOAD_BELOW_BYTES: usize = 1024 * 1024;

/// See the module's description.
pub(crate) struct Backlog {
    pub(crate) waiting: BTreeMap<u64, Parcel>,
    /// Memory of what waits or is paused, charged to `user`.
    pub(crate) waiting_bytes: usize,
    /// Given back by a receiver, until it is their time again.
    pub(crate) paused: BTreeMap<(Moment, u64), Parcel>,
    pub(crate) user: UserKey,
    /// Messages from this `seq` on may be on disk only.
    pub(crate) disk_from: Option<u64>,
    /// The highest `seq` of a message that is on disk only.
    pub(crate) disk_to: u64,
    /// Messages are being read: `disk_from` and `disk_to` when that was ordered.
    pub(crate) loading: Option<(u64, u64)>,
    /// All rows on disk, those on their way included.
    pub(crate) kept: Amount,
    /// Those of them that are only spilled.
    pub(crate) spilled: Amount,
    /// What becomes of those that are on disk only, where somebody waits to hear of it.
    pub(crate) promised: BTreeMap<u64, Promised>,
    /// Those that are looked at next, whether anybody still waits, begin here.
    look_from: u64,
    /// Promises since some were looked at.
    not_looked: usize,
    /// Answers that are still to come from disk, and are not true any more.
    pub(crate) stale_loads: u32,
    /// The newest order that let go of one of them.
    pub(crate) released: Ticket,
    /// Those from `disk_from` on that were let go of: whoever reads them may have ordered that before.
    gone: BTreeSet<u64>,
    /// What was let go of up to this order may be missing there.
    blurred: Ticket,
    /// What was spilled before this `seq` has been dropped.
    spilled_from: u64,
    /// When the oldest row arrived, as far as known, in microseconds of Unix time.
    pub(crate) oldest_unix_us: Option<u64>,
}

/// What becomes of a message that is on disk only, and why it is there.
pub(crate) struct Promised {
    pub(crate) fate: Fate,
    pub(crate) why: Keep,
}

impl Backlog {
    pub(crate) fn new(user: UserKey) -> Self {
        Backlog {
            waiting: BTreeMap::new(),
            waiting_bytes: 0,
            paused: BTreeMap::new(),
            user,
            disk_from: None,
            disk_to: 0,
            loading: None,
            kept: Amount::default(),
            spilled: Amount::default(),
            promised: BTreeMap::new(),
            look_from: 0,
            not_looked: 0,
            stale_loads: 0,
            released: Ticket::default(),
            gone: BTreeSet::new(),
            blurred: Ticket::default(),
            spilled_from: 0,
            oldest_unix_us: None,
        }
    }

    /// Whether nothing is in it that a newer message would have to stay behind.
    pub(crate) fn is_clear(&self) -> bool {
        self.waiting.is_empty() && self.disk_from.is_none()
    }

    /// Whether there is nothing to remember.
    pub(crate) fn is_empty(&self) -> bool {
        self.is_clear()
            && self.paused.is_empty()
            && self.loading.is_none()
            && self.stale_loads == 0
            && self.kept.messages == 0
    }

    /// The row of a message is not this endpoint's any more, by this order.
    pub(crate) fn has_left(&mut self, seq: u64, ticket: Ticket) {
        self.released = ticket;
        if self.disk_from.is_some_and(|from| from <= seq) {
            self.gone.insert(seq);
        }
        if self.kept.messages == 0 {
            self.forget_load();
            self.read_to(self.disk_to);
        }
    }

    /// Nothing is on disk only up to this `seq`.
    fn read_to(&mut self, seq: u64) {
        self.disk_from = (self.disk_to > seq).then_some(seq + 1);
        match self.disk_from {
            Some(from) => self.gone = self.gone.split_off(&from),
            None => self.gone.clear(),
        }
    }

    /// Whether a message that was seen on disk, when everything up to `as_of` had been carried out, is
    /// only there, and still is.
    pub(crate) fn has_on_disk(&self, seq: u64, why: Keep, as_of: Ticket) -> bool {
        self.disk_from.is_some_and(|from| from <= seq)
            && self.blurred <= as_of
            && !self.gone.contains(&seq)
            && (why != Keep::Spill || seq >= self.spilled_from)
    }

    /// What is being read from disk is not true any more.
    pub(crate) fn forget_load(&mut self) {
        self.stale_loads += u32::from(self.loading.take().is_some());
    }

    /// Somebody waits to hear of a message that is on disk only.
    pub(crate) fn promise(&mut self, seq: u64, fate: Fate, why: Keep) {
        if fate.is_awaited() || fate.repetition.is_some() {
            self.promised.insert(seq, Promised { fate, why });
        }
    }

    /// The sender of a message has heard what it waited for. Its place in the window of repetitions may
    /// still have to hear more.
    pub(crate) fn was_told(&mut self, seq: u64) {
        if let Entry::Occupied(mut promised) = self.promised.entry(seq) {
            match promised.get().fate.repetition {
                Some(_) => promised.get_mut().fate.promise = None,
                None => drop(promised.remove()),
            }
        }
    }

    /// Lets go of fates that are not wanted any more: a mailbox can be much larger than the window of
    /// repetitions. To be called with every promise; looks at a few of them now and then, at each in
    /// its turn, so that those that are kept for nothing are hardly more than the others.
    pub(crate) fn forget_unwanted(&mut self, is_wanted: impl Fn(&Fate) -> bool) {
        self.not_looked += 1;
        if self.not_looked < LOOK_EVERY {
            return;
        }
        self.not_looked = 0;
        let mut unwanted = Vec::new();
        let mut looked = self.promised.range(self.look_from..).enumerate();
        // At the end it begins anew: it is faster than the end grows.
        self.look_from = loop {
            let Some((count, (seq, promised))) = looked.next() else { break 0 };
            if count == 2 * LOOK_EVERY {
                break *seq;
            }
            if !is_wanted(&promised.fate) {
                unwanted.push(*seq);
            }
        };
        for seq in unwanted {
            self.promised.remove(&seq);
        }
    }

    /// Who waits to hear of this message.
    pub(crate) fn take_promised(&mut self, seq: u64) -> Option<Fate> {
        Some(self.promised.remove(&seq)?.fate)
    }

    /// A message of this `seq` is on disk only.
    pub(crate) fn leave_on_disk(&mut self, seq: u64) {
        if self.disk_from.is_none_or(|from| seq < from) {
            self.disk_from = Some(seq);
            self.blurred = self.released;
        }
        self.disk_to = self.disk_to.max(seq);
    }
}

/// Where a message for an endpoint may go.
pub(crate) enum Place {
    /// To the session that is there, or into memory for it; on disk, too, if `keep` says why.
    Memory { keep: Option<Keep> },
    /// On disk only.
    Disk(Keep),
}

/// Why there is no place for a message.
pub(crate) enum NoPlace {
    /// Its receiver has no room, and nothing can be spilled.
    NoRoom,
    /// Too much is on its way to the disk.
    DiskIsBehind,
    Refused(Failure),
}

impl NoPlace {
    /// The error code that says so, and words for people.
    pub(crate) fn explain(self) -> (ErrorCode, String) {
        match self {
            NoPlace::NoRoom => (ErrorCode::OverLimit, "the endpoint has no room for it".into()),
            NoPlace::DiskIsBehind => {
                (ErrorCode::StoreUnavailable, "too much is on its way to the disk".into())
            }
            NoPlace::Refused(Failure { code, detail }) => (code, detail),
        }
    }
}

impl Router {
    /// The next place in the order of all messages.
    #[inline]
    pub(crate) fn next_seq(&mut self) -> u64 {
        self.seq += 1;
        self.seq
    }

    pub(crate) fn backlog(&mut self, endpoint: EndpointKey) -> Option<&mut Backlog> {
        self.endpoints.get_mut(endpoint.0)?.backlog.as_deref_mut()
    }

    /// The backlog of an endpoint, from now on tracked.
    pub(crate) fn backlog_or_new(&mut self, endpoint: EndpointKey) -> &mut Backlog {
        let uid = self.endpoints[endpoint.0].uid;
        let user = self.user(uid);
        self.endpoints[endpoint.0].backlog.get_or_insert_with(|| Box::new(Backlog::new(user)))
    }

    /// Where a message of this size may go for an endpoint. `keep` is given for those that are to survive.
    pub(crate) fn place_for(
        &self,
        endpoint: EndpointKey,
        payload_bytes: usize,
        keep: Option<Keep>,
    ) -> Result<Place, NoPlace> {
        let has_place = self.has_place_in_memory(endpoint, payload_bytes);
        let Some(keep) = keep.or((!has_place).then_some(Keep::Spill)) else {
            return Ok(Place::Memory { keep: None });
        };
        match self.may_keep(endpoint, payload_bytes) {
            Ok(()) if has_place => Ok(Place::Memory { keep: Some(keep) }),
            Ok(()) => Ok(Place::Disk(keep)),
            // It can still be handed over, and may be acknowledged before it is missed.
            Err(_) if has_place => Ok(Place::Memory { keep: None }),
            Err(NoPlace::Refused(_)) if keep == Keep::Spill => Err(NoPlace::NoRoom),
            Err(no_place) => Err(no_place),
        }
    }

    /// Takes a message in for an endpoint, where [`Router::place_for`] has found a place: it is handed
    /// over if it can be, and waits else.
    pub(crate) fn take_in(&mut self, endpoint: EndpointKey, mut parcel: Parcel, place: Place) {
        match place {
            Place::Memory { keep } => {
                if let Some(keep) = keep {
                    self.keep(endpoint, &mut parcel, keep);
                }
                self.wait_in_memory(endpoint, parcel);
                self.pump(endpoint);
            }
            Place::Disk(keep) => {
                self.keep(endpoint, &mut parcel, keep);
                self.wait_on_disk(endpoint, parcel);
                self.load_ahead(endpoint);
            }
        }
    }

    /// Whether a message may wait in memory for the session that is there.
    fn has_place_in_memory(&self, endpoint: EndpointKey, payload_bytes: usize) -> bool {
        let record = &self.endpoints[endpoint.0];
        let Some(session) = record.holder().and_then(|holder| self.session(holder)) else {
            return false;
        };
        let backlog = record.backlog.as_deref();
        let has_nothing_on_disk = backlog.is_none_or(|backlog| backlog.disk_from.is_none());
        let bytes = payload_bytes + PARCEL_OVERHEAD_BYTES;
        has_nothing_on_disk && session.stalled.is_none() && self.has_room(session, bytes)
    }

    pub(crate) fn wait_in_memory(&mut self, endpoint: EndpointKey, parcel: Parcel) {
        if let Some(deadline) = parcel.deadline {
            self.timers.set(deadline, Timer::Expiry(endpoint));
        }
        self.charge_waiting(endpoint, parcel.load_bytes() as isize);
        self.backlog_or_new(endpoint).waiting.insert(parcel.seq, parcel);
    }

    /// Forgets the message itself, which is on disk, but not who waits to hear of it.
    pub(crate) fn wait_on_disk(&mut self, endpoint: EndpointKey, parcel: Parcel) {
        debug_assert!(parcel.kept.is_some(), "only what is kept can wait on disk");
        let is_spilled = parcel.kept.is_some_and(|kept| kept.why == Keep::Spill);
        let state = if is_spilled { TraceState::Spilled } else { TraceState::Waiting };
        let (trace, unix_us) = (parcel.fate.trace, self.now.unix_us);
        self.trace.note(trace, state, Some(endpoint), unix_us);
        if let Some(deadline) = parcel.deadline {
            self.sweep_at(deadline);
        }
        let backlog = self.backlog_or_new(endpoint);
        backlog.leave_on_disk(parcel.seq);
        if let Some(kept) = parcel.kept {
            backlog.promise(parcel.seq, parcel.fate, kept.why);
            self.forget_unwanted_fates(endpoint);
        }
    }

    fn forget_unwanted_fates(&mut self, endpoint: EndpointKey) {
        let Router { endpoints, repetitions, .. } = self;
        let record = endpoints.get_mut(endpoint.0);
        let Some(backlog) = record.and_then(|record| record.backlog.as_deref_mut()) else { return };
        backlog.forget_unwanted(|fate| fate.is_wanted(repetitions));
    }

    /// Charges what waits in memory to the endpoint's user, or refunds it, and lets the receiver's room
    /// be reckoned with it.
    pub(crate) fn charge_waiting(&mut self, endpoint: EndpointKey, bytes: isize) {
        let holder = self.endpoints[endpoint.0].holder();
        let backlog = self.backlog_or_new(endpoint);
        backlog.waiting_bytes = backlog.waiting_bytes.saturating_add_signed(bytes);
        let (user, waiting_bytes) = (backlog.user, backlog.waiting_bytes);
        if bytes >= 0 {
            self.queues.charge(user, bytes.unsigned_abs());
        } else {
            self.queues.refund(user, bytes.unsigned_abs());
        }
        if let Some(session) = holder.and_then(|holder| self.session_mut(holder)) {
            session.backlog_bytes = waiting_bytes;
        }
    }

    // ---- the disk -----------------------------------------------------------------------------------

    /// Whether a message may be kept.
    fn may_keep(&self, endpoint: EndpointKey, payload_bytes: usize) -> Result<(), NoPlace> {
        if let Some(why) = self.store_trouble() {
            return Err(NoPlace::Refused(Failure::new(ErrorCode::StoreUnavailable, why)));
        }
        let record = &self.endpoints[endpoint.0];
        let backlog = record.backlog.as_deref();
        let kept_bytes = backlog.map_or(0, |backlog| backlog.kept.bytes);
        let bytes = payload_bytes as u64 + RECORD_OVERHEAD_BYTES;
        let (max, total_max) = (self.config.mailbox_bytes_max, self.config.mailbox_bytes_total_max);
        let is_full =
            |what: String| Err(NoPlace::Refused(Failure::new(ErrorCode::MailboxFull, what)));
        if kept_bytes.saturating_add(bytes) > max {
            return is_full(format!("{kept_bytes} bytes wait for it on disk, of at most {max}"));
        }
        let uid = backlog.map_or(record.uid, |backlog| self.queues.uid(backlog.user));
        let of_user = self.kept_bytes.of_user(uid);
        if of_user.saturating_add(bytes) > self.config.mailbox_bytes_user_max {
            let max = self.config.mailbox_bytes_user_max;
            return is_full(format!(
                "{of_user} bytes wait on disk for the endpoints of its user, of at most {max}"
            ));
        }
        let total = self.kept_bytes.total();
        if total.saturating_add(bytes) > total_max {
            return is_full(format!("{total} bytes wait on disk for all, of at most {total_max}"));
        }
        if self.disk_is_behind(payload_bytes) { Err(NoPlace::DiskIsBehind) } else { Ok(()) }
    }

    /// Has a message kept on disk.
    fn keep(&mut self, endpoint: EndpointKey, parcel: &mut Parcel, why: Keep) {
        let name = self.endpoints[endpoint.0].name.clone();
        let mut record = parcel.record(&name, why, |moment| self.bus_time(moment));
        if why == Keep::Queued {
            let until = record.arrived_unix_us + self.config.queued_for.as_micros() as u64;
            record.expires_unix_us = Some(record.expires_unix_us.map_or(until, |at| at.min(until)));
        }
        if record.expires_unix_us.is_some() {
            self.sweep_later();
        }
        let (load, arrived) = (record.load_bytes(), record.arrived_unix_us);
        let ticket = self.order_kept(endpoint, record, parcel.fate.clone());
        parcel.kept = Some(Kept { why, ticket });
        self.count_kept(endpoint, why, load, arrived);
        match why {
            Keep::Spill => self.counters.spilled += 1,
            Keep::Mailbox | Keep::Queued => self.counters.kept += 1,
        }
    }

    /// One row more in the books.
    pub(crate) fn count_kept(
        &mut self,
        endpoint: EndpointKey,
        why: Keep,
        load: u64,
        arrived_unix_us: u64,
    ) {
        let backlog = self.backlog_or_new(endpoint);
        backlog.kept.messages += 1;
        backlog.kept.bytes += load;
        if why == Keep::Spill {
            backlog.spilled.messages += 1;
            backlog.spilled.bytes += load;
        }
        backlog.oldest_unix_us.get_or_insert(arrived_unix_us);
        self.charge_disk(endpoint, load);
    }

    /// A message need not be kept any more.
    pub(crate) fn let_go(
        &mut self,
        endpoint: EndpointKey,
        seq: u64,
        kept: Kept,
        payload_bytes: usize,
        ending: Ending,
    ) {
        let load = payload_bytes as u64 + RECORD_OVERHEAD_BYTES;
        self.forget_kept(endpoint, kept.why, load);
        self.forget_keeping(kept.ticket);
        let name = self.endpoints[endpoint.0].name.clone();
        self.order_release(name, seq, ending);
        let newest = Ticket(self.tickets);
        self.backlog_or_new(endpoint).has_left(seq, newest);
    }

    /// What is on disk for an endpoint is its user's.
    pub(crate) fn charge_disk(&mut self, endpoint: EndpointKey, bytes: u64) {
        let user = self.backlog_or_new(endpoint).user;
        self.kept_bytes.charge(self.queues.uid(user), bytes);
    }

    pub(crate) fn refund_disk(&mut self, endpoint: EndpointKey, bytes: u64) {
        let user = self.backlog_or_new(endpoint).user;
        self.kept_bytes.refund(self.queues.uid(user), bytes);
    }

    /// One row less in the books.
    pub(crate) fn forget_kept(&mut self, endpoint: EndpointKey, why: Keep, load: u64) {
        self.refund_disk(endpoint, load);
        let backlog = self.backlog_or_new(endpoint);
        backlog.kept.messages = backlog.kept.messages.saturating_sub(1);
        backlog.kept.bytes = backlog.kept.bytes.saturating_sub(load);
        if why == Keep::Spill {
            backlog.spilled.messages = backlog.spilled.messages.saturating_sub(1);
            backlog.spilled.bytes = backlog.spilled.bytes.saturating_sub(load);
        }
        // Which one is the oldest now is known again when it is read.
        backlog.oldest_unix_us = None;
    }

    /// Reads on from disk, if the session that is there will soon need more.
    pub(crate) fn load_ahead(&mut self, endpoint: EndpointKey) {
        let Some(record) = self.endpoints.get_mut(endpoint.0) else { return };
        let is_wanted = record.holder().is_some();
        let name = record.name.clone();
        let Some(backlog) = record.backlog.as_deref_mut() else { return };
        let Some(from) = backlog.disk_from.filter(|_| is_wanted) else { return };
        let is_short = backlog.waiting.len() < LOAD_BELOW
            && backlog.waiting_bytes < LOAD_BELOW_BYTES
            || backlog.waiting.first_key_value().is_some_and(|(seq, _)| *seq >= from);
        if backlog.loading.is_some() || !is_short {
            return;
        }
        backlog.loading = Some((from, backlog.disk_to));
        let (messages_max, bytes_max) = (LOAD_MESSAGES, LOAD_BYTES);
        self.order(Order::Load { endpoint: name, from, messages_max, bytes_max });
    }

    /// Messages have been read from disk.
    pub(crate) fn loaded(&mut self, endpoint: EndpointKey, records: Vec<Record>, is_all: bool) {
        let is_wanted = self.endpoints[endpoint.0].holder().is_some();
        let Some(backlog) = self.backlog(endpoint) else { return };
        if let Some(left) = backlog.stale_loads.checked_sub(1) {
            backlog.stale_loads = left;
            return self.forget_backlog_if_empty(endpoint);
        }
        let Some((from, disk_to)) = backlog.loading.take() else { return };
        if !is_wanted || backlog.disk_from != Some(from) {
            // Older ones were left on disk meanwhile, or there is nobody to read for any more.
            // What was to expire as soon as it was read has to be looked for again.
            self.sweep_at(self.now.moment);
            self.load_ahead(endpoint);
            return self.forget_backlog_if_empty(endpoint);
        }
        let last = records.last().map(|record| record.seq);
        let read_to = if is_all { last.unwrap_or(0).max(disk_to) } else { last.unwrap_or(0) };
        let gone = core::mem::take(&mut backlog.gone);
        let records: Vec<Record> =
            records.into_iter().filter(|record| !gone.contains(&record.seq)).collect();
        backlog.gone = gone;
        backlog.read_to(read_to);
        for record in records {
            self.loaded_one(endpoint, record);
        }
        self.pump(endpoint);
    }

    fn loaded_one(&mut self, endpoint: EndpointKey, record: Record) {
        let deadline = record.expires_unix_us.map(|unix_us| self.moment_of(unix_us));
        let repetition = self.repetition_of(&record);
        let mut parcel = Parcel::from_record(record, deadline, self.now.moment);
        parcel.fate.repetition = repetition;
        let Some(backlog) = self.backlog(endpoint) else { return };
        backlog.oldest_unix_us.get_or_insert(parcel.arrived_unix_us);
        let is_here = backlog.waiting.contains_key(&parcel.seq)
            || backlog.paused.values().any(|paused| paused.seq == parcel.seq);
        if is_here {
            return;
        }
        if let Some(fate) = backlog.take_promised(parcel.seq) {
            parcel.fate = fate;
        }
        self.wait_in_memory(endpoint, parcel);
    }

    // ---- handing over -------------------------------------------------------------------------------

    /// Hands over what waits, as much as the session that is there takes.
    pub(crate) fn pump(&mut self, endpoint: EndpointKey) {
        while let Some((holder, seq)) = self.next_to_hand_over(endpoint) {
            let Some(backlog) = self.backlog(endpoint) else { return };
            let Some(parcel) = backlog.waiting.remove(&seq) else { return };
            self.charge_waiting(endpoint, -(parcel.load_bytes() as isize));
            if parcel.is_over(self.now.moment) {
                self.expire(endpoint, parcel);
            } else {
                self.hand_over(holder, parcel);
            }
        }
        self.load_ahead(endpoint);
        self.forget_backlog_if_empty(endpoint);
    }

    /// The oldest message, if it is its turn and the session takes it.
    fn next_to_hand_over(&self, endpoint: EndpointKey) -> Option<(SessionKey, u64)> {
        let record = self.endpoints.get(endpoint.0)?;
        let (holder, backlog) = (record.holder()?, record.backlog.as_deref()?);
        let (seq, parcel) = backlog.waiting.first_key_value()?;
        // What is about to be read may be this very message, left in memory by an earlier session.
        if backlog.disk_from.is_some_and(|from| from <= *seq) {
            return None;
        }
        let session = self.session(holder).filter(|session| session.takes(parcel, &self.config))?;
        let is_mortal = parcel.deadline.is_some();
        let ahead = if is_mortal { AHEAD_BYTES_MORTAL } else { AHEAD_BYTES };
        let is_short = session.outbox.is_empty() || session.outbox.load_bytes() < ahead;
        is_short.then_some((holder, *seq))
    }

    fn hand_over(&mut self, holder: SessionKey, mut parcel: Parcel) {
        let Some(session) = self.session(holder) else { return };
        let (level, acks) = (session.level, session.acks());
        parcel.deliveries += 1;
        let provenance =
            Provenance { waiter: parcel.waiter, arrived: parcel.arrived, trace: parcel.fate.trace };
        let kind = FrameKind::Message { provenance, seq: parcel.seq, is_tracked: true };
        self.push_parcel(holder, &parcel, level, acks.then_some(parcel.seq), kind);
        self.mark_dirty(holder);
        let (now, seq) = (self.now.moment, parcel.seq);
        let load_bytes = parcel.load_bytes();
        let Some((session, account)) = self.session_and_account(holder) else { return };
        let mark = session.outbox.mark();
        let waiter = parcel.waiter.take();
        let outlives_session = acks || parcel.kept.is_some_and(|kept| kept.why != Keep::Spill);
        if let Some(acking) = &mut session.acking {
            account.budget.charge(account.user, load_bytes);
            acking.insert(parcel, now, mark);
        } else {
            let tracking = Tracking {
                fate: parcel.fate,
                deadline: parcel.deadline,
                kept: parcel.kept,
                payload_bytes: parcel.payload.len(),
                deliveries: parcel.deliveries,
                is_mourned: parcel.is_mourned,
                origin: (level == Level::One)
                    .then(|| Box::new(Origin { sender: parcel.sender, via: parcel.via })),
            };
            session.handing.push_back(Handing { mark, seq, tracking });
        }
        self.first_message_is_with(waiter, Some((holder, mark)), outlives_session);
    }

    /// Queues a parcel's frame as the receiver's level wants it.
    fn push_parcel(
        &mut self,
        holder: SessionKey,
        parcel: &Parcel,
        level: Level,
        seq: Option<u64>,
        kind: FrameKind,
    ) {
        let payload = &parcel.payload;
        let delivery = (parcel.deliveries > 1).then_some(parcel.deliveries);
        let mut scratch = core::mem::take(&mut self.inserted);
        scratch.clear();
        let is_shared = payload.len() >= SHARE_BYTES_MIN;
        let place = match level {
            Level::One => Some(payload.len()),
            Level::Two if is_shared => closing_brace_of_honest(payload),
            Level::Two => None,
        };
        let Some(user) = self.session(holder).map(|session| session.user) else { return };
        match place {
            Some(split) if is_shared => {
                if level == Level::Two {
                    let sender = parcel.sender.as_ref();
                    let added = added_fields(sender, parcel.via.as_deref(), seq, delivery);
                    scratch.extend_from_slice(added.as_bytes());
                }
                let body = Body::new(payload.clone(), user, &mut self.queues);
                let header = frame::header(payload.len() + scratch.len());
                if let Some((session, account)) = self.session_and_account(holder) {
                    session.outbox.push_shared(header, &body, split, &scratch, kind, account);
                }
                body.release(&mut self.queues);
            }
            Some(_) => {
                let header = frame::header(payload.len());
                if let Some((session, account)) = self.session_and_account(holder) {
                    session.outbox.push_copy(&[&header, payload], kind, account);
                }
            }
            None => {
                parcel.append_level_2(&mut scratch, seq);
                if let Some((session, account)) = self.session_and_account(holder) {
                    session.outbox.push_copy(&[&scratch], kind, account);
                }
            }
        }
        self.inserted = scratch;
    }

    // ---- endings --------------------------------------------------------------------------------------

    /// A message's time to live has run out.
    pub(crate) fn expire(&mut self, endpoint: EndpointKey, parcel: Parcel) {
        self.counters.expired += 1;
        let failure = Failure::new(ErrorCode::Expired, "its time to live ran out");
        self.give_up(endpoint, parcel, &failure, Ending::Expired);
    }

    /// A message will not be delivered: it becomes a dead letter if it is missed, its row goes, and who
    /// waits for it hears why.
    pub(crate) fn give_up(
        &mut self,
        endpoint: EndpointKey,
        parcel: Parcel,
        failure: &Failure,
        ending: Ending,
    ) {
        self.counters.given_up += 1;
        if parcel.is_mourned {
            self.bury(endpoint, &parcel, failure);
        }
        if let Some(kept) = parcel.kept {
            self.let_go(endpoint, parcel.seq, kept, parcel.payload.len(), ending);
        }
        let is_told = self.failed(&parcel.fate, failure, Some(endpoint));
        if !is_told {
            let name = self.endpoints[endpoint.0].name.clone();
            self.log(Event::GivenUp { name, code: failure.code });
        }
    }

    /// Messages in memory whose time has come: those given back wait again, those that expired end.
    pub(crate) fn check_expiry(&mut self, endpoint: EndpointKey) {
        let now = self.now.moment;
        let Some(backlog) = self.backlog(endpoint) else {
            return self.withdraw_expired(endpoint);
        };
        let is_due = |parcel: &Parcel| parcel.deadline.is_some_and(|deadline| deadline <= now);
        let due: Vec<u64> =
            backlog.waiting.values().filter(|parcel| is_due(parcel)).map(|p| p.seq).collect();
        let paused: Vec<(Moment, u64)> = backlog
            .paused
            .iter()
            .filter(|(_, parcel)| is_due(parcel))
            .map(|(place, _)| *place)
            .collect();
        for seq in due {
            let parcel = self.backlog(endpoint).and_then(|backlog| backlog.waiting.remove(&seq));
            let Some(parcel) = parcel else { continue };
            self.charge_waiting(endpoint, -(parcel.load_bytes() as isize));
            self.expire(endpoint, parcel);
        }
        for place in paused {
            let parcel = self.backlog(endpoint).and_then(|backlog| backlog.paused.remove(&place));
            let Some(parcel) = parcel else { continue };
            self.charge_waiting(endpoint, -(parcel.load_bytes() as isize));
            self.expire(endpoint, parcel);
        }
        self.withdraw_expired(endpoint);
        let next = self.backlog(endpoint).and_then(|backlog| {
            let parcels = backlog.waiting.values().chain(backlog.paused.values());
            parcels.filter_map(|parcel| parcel.deadline).min()
        });
        if let Some(next) = next {
            self.timers.set(next, Timer::Expiry(endpoint));
        }
        self.pump(endpoint);
    }

    /// Messages that were given back come again.
    pub(crate) fn check_paused(&mut self, endpoint: EndpointKey) {
        let now = self.now.moment;
        let Some(backlog) = self.backlog(endpoint) else { return };
        while let Some(entry) = backlog.paused.first_entry()
            && entry.key().0 <= now
        {
            let parcel = entry.remove();
            backlog.waiting.insert(parcel.seq, parcel);
        }
        if let Some(((next, _), _)) = backlog.paused.first_key_value() {
            let next = *next;
            self.timers.set(next, Timer::Paused(endpoint));
        }
        self.pump(endpoint);
    }

    /// A backlog that is not needed goes, so that messages take the short way again; an endpoint that was
    /// only there for it is forgotten.
    pub(crate) fn forget_backlog_if_empty(&mut self, endpoint: EndpointKey) {
        let Some(record) = self.endpoints.get_mut(endpoint.0) else { return };
        let Some(backlog) = &record.backlog else { return };
        if !backlog.is_empty() {
            return;
        }
        debug_assert_eq!(backlog.waiting_bytes, 0, "an empty backlog is charged");
        record.backlog = None;
        if matches!(record.state, EndpointState::Away) && !record.mailbox {
            self.forget_endpoint(endpoint);
        }
    }

    /// Takes what waits in memory only.
    pub(crate) fn take_unkept(&mut self, endpoint: EndpointKey) -> Vec<Parcel> {
        let Some(backlog) = self.backlog(endpoint) else { return Vec::new() };
        let mut taken = Vec::new();
        for (seq, parcel) in core::mem::take(&mut backlog.waiting) {
            match parcel.kept {
                Some(_) => drop(backlog.waiting.insert(seq, parcel)),
                None => taken.push(parcel),
            }
        }
        for (place, parcel) in core::mem::take(&mut backlog.paused) {
            match parcel.kept {
                Some(_) => drop(backlog.paused.insert(place, parcel)),
                None => taken.push(parcel),
            }
        }
        let bytes: usize = taken.iter().map(Parcel::load_bytes).sum();
        self.charge_waiting(endpoint, -(bytes as isize));
        taken
    }

    /// Leaves to the disk what an endpoint without a session has in memory. What is not kept is given
    /// up.
    pub(crate) fn unload(&mut self, endpoint: EndpointKey, failure: &Failure) {
        let has_mailbox = self.endpoints[endpoint.0].mailbox;
        let Some(backlog) = self.backlog(endpoint) else { return };
        let paused = core::mem::take(&mut backlog.paused);
        let mut parcels: Vec<Parcel> = core::mem::take(&mut backlog.waiting)
            .into_values()
            .chain(paused.into_values())
            .collect();
        parcels.sort_by_key(|parcel| parcel.seq);
        for parcel in parcels {
            self.charge_waiting(endpoint, -(parcel.load_bytes() as isize));
            let survives = parcel.kept.is_some_and(|kept| kept.why != Keep::Spill || has_mailbox);
            if survives {
                self.wait_on_disk(endpoint, parcel);
            } else {
                self.give_up(endpoint, parcel, failure, Ending::Dropped);
            }
        }
        if !has_mailbox {
            self.drop_spilled(endpoint, failure);
        }
        self.forget_backlog_if_empty(endpoint);
    }

    /// The receiver of what was only spilled has gone. What asked for a receipt becomes a dead letter, by
    /// whoever keeps things: it is not in memory.
    pub(crate) fn drop_spilled(&mut self, endpoint: EndpointKey, failure: &Failure) {
        let name = self.endpoints[endpoint.0].name.clone();
        let newest = self.seq;
        let Some(backlog) = self.backlog(endpoint).filter(|backlog| backlog.spilled.messages > 0)
        else {
            return;
        };
        backlog.spilled_from = newest + 1;
        let Amount { messages, bytes } = core::mem::take(&mut backlog.spilled);
        backlog.kept.messages -= messages;
        backlog.kept.bytes -= bytes;
        backlog.forget_load();
        if backlog.kept.messages == 0 {
            backlog.disk_from = None;
            backlog.oldest_unix_us = None;
        }
        let (spilled, promised): (BTreeMap<_, _>, BTreeMap<_, _>) =
            core::mem::take(&mut backlog.promised)
                .into_iter()
                .partition(|(_, promised)| promised.why == Keep::Spill);
        backlog.promised = promised;
        self.refund_disk(endpoint, bytes);
        self.counters.dropped_receiver_gone += messages;
        self.forget_keepings(endpoint, |_, why| why == Keep::Spill);
        let died_unix_us = self.bus_time(self.now.moment);
        let Failure { code, detail } = failure.clone();
        let end = SpillEnd { endpoint: name.clone(), reason: code, detail, died_unix_us };
        let ticket = self.order(Order::EndSpilled(Box::new(end)));
        self.backlog_or_new(endpoint).released = ticket;
        let unix_us = self.now.unix_us;
        for Promised { fate, .. } in spilled.into_values() {
            if fate.wanted().is_some() {
                self.trace.note(fate.trace, TraceState::Dead(code), Some(endpoint), unix_us);
            }
            self.failed(&fate, failure, Some(endpoint));
        }
        self.log(Event::HeldDropped { name, messages });
    }

    /// What senders hear of a state that this receiver can never confirm.
    pub(crate) fn cannot_be_acked(&mut self, fate: &Fate, to: EndpointKey) {
        let own = fate.promise.iter().filter(|_| fate.wanted() == Some(Status::Acked)).cloned();
        let repeated = fate.repetition.map(|key| self.repetitions.cannot_be_acked(key));
        for promise in own.chain(repeated.into_iter().flatten()) {
            let failure = Failure::unackable();
            self.break_promise(&promise, &failure, Some(to), Some(Status::Delivered));
        }
    }
}

/// Where the closing brace of a payload stands, if it has none of the bus's own keys.
fn closing_brace_of_honest(payload: &[u8]) -> Option<usize> {
    let envelope = hermes_bus_proto::Envelope::scan(payload).ok()?;
    (!envelope.has_keys_of_the_bus).then(|| envelope.closing_brace_at())
}

#[cfg(test)]
mod tests {
    use core::time::Duration;

    use super::*;
    use crate::ledger::Budget;
    use crate::repetitions::{Identity, Repetitions};

    const WINDOW: usize = 1_000;

    #[test]
    fn a_mailbox_remembers_no_more_fates_than_the_window_has_repetitions() {
        let user = Budget::new(0, 0).user(1_000);
        let mut backlog = Backlog::new(user);
        let mut window = Repetitions::<()>::new(Duration::from_secs(600), WINDOW, 1);
        let moment = Moment::from_micros(0);
        for seq in 1..=10_000 {
            let id = format!("{seq}");
            let identity = Identity { uid: 1_000, from: Some("a"), to: "b", id: &id };
            let repetition = Some(window.begin(&identity, moment));
            backlog.promise(seq, Fate { repetition, ..Fate::default() }, Keep::Mailbox);
            backlog.forget_unwanted(|fate| fate.repetition.is_some_and(|key| window.has(key)));
            let promised = backlog.promised.len();
            assert!(promised <= 3 * WINDOW, "{seq}: {promised}");
            // None of those that can still be repeated is missing.
            let oldest = seq.saturating_sub(WINDOW as u64) + 1;
            assert!((oldest..=seq).all(|seq| backlog.promised.contains_key(&seq)), "{seq}");
        }
    }

    #[test]
    fn a_sender_that_was_told_leaves_only_the_repetition() {
        let mut backlog = Backlog::new(Budget::new(0, 0).user(1_000));
        let mut window = Repetitions::<()>::new(Duration::from_secs(600), WINDOW, 1);
        let identity = Identity { uid: 1_000, from: None, to: "b", id: "1" };
        let repetition = Some(window.begin(&identity, Moment::from_micros(0)));
        let of = |repetition| Promised {
            fate: Fate { repetition, ..Fate::default() },
            why: Keep::Queued,
        };
        backlog.promised.insert(1, of(repetition));
        backlog.promised.insert(2, of(None));
        (1..=3).for_each(|seq| backlog.was_told(seq));
        assert_eq!(backlog.take_promised(1).and_then(|fate| fate.repetition), repetition);
        assert!(backlog.promised.is_empty());
    }
}

//! Messages in the hands of a session: handed over but not acknowledged, or not known to be read.
//!
//! An acknowledging session holds its messages (`in_flight`) until it acknowledges them or ends. A
//! session that cannot acknowledge has read a message that is kept on disk when the kernel shows that
//! its socket is empty (`unread`). What is only queued for it, and watched, stands in `handing`.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

use hermes_bus_proto::ErrorCode;
use hermes_bus_proto::control::Status;

use crate::endpoint::EndpointKey;
use crate::fanout::Dealings;
use crate::fate::Failure;
use crate::outbox::{LooseMessage, Tracking};
use crate::parcel::{Kept, Parcel};
use crate::router::Router;
use crate::session::{Session, SessionKey};
use crate::storage::{Ending, Keep, Order};
use crate::time::Moment;
use crate::timers::Timer;
use crate::trace::{IdHasher, TraceRef, TraceState};
use crate::{Config, Effect};

/// How soon after writing the bus looks whether the peer has read everything, and how long it may
/// pause between two looks.
const LOOK_AFTER: Duration = Duration::from_millis(1);
const LOOK_PAUSE_MAX: Duration = Duration::from_millis(100);

/// What an acknowledging session holds.
pub(crate) struct Acking {
    /// Messages that it takes at a time.
    pub(crate) in_flight_max: usize,
    pub(crate) in_flight: BTreeMap<u64, InFlight>,
    /// Those of them that are not in the session's socket yet: the marks behind them.
    pub(crate) unwritten: VecDeque<(u64, u64)>,
    /// Memory of them, charged to the session's user.
    pub(crate) in_flight_bytes: usize,
    /// Where they are by their ids, from when the session first acknowledges by ids.
    by_id: Option<ById>,
}

/// Places of messages by the hashes of their ids, so that nobody looks for an id in every message.
struct ById {
    hasher: IdHasher,
    /// Hash and `seq`.
    places: BTreeSet<(u64, u64)>,
}

impl Acking {
    pub(crate) fn new(in_flight_max: usize) -> Self {
        let (in_flight, unwritten) = (BTreeMap::new(), VecDeque::new());
        Acking { in_flight_max, in_flight, unwritten, in_flight_bytes: 0, by_id: None }
    }

    /// The session holds one more, which is in its socket when what is before this mark is.
    pub(crate) fn insert(&mut self, parcel: Parcel, since: Moment, mark: u64) {
        let seq = parcel.seq;
        if let Some(by_id) = &mut self.by_id {
            by_id.note(&parcel);
        }
        self.in_flight_bytes += parcel.load_bytes();
        self.in_flight.insert(seq, InFlight { parcel, since, is_written: false });
        self.unwritten.push_back((mark, seq));
    }

    fn take(&mut self, seq: u64) -> Option<InFlight> {
        let held = self.in_flight.remove(&seq)?;
        if let Some(by_id) = &mut self.by_id {
            by_id.forget(&held.parcel);
            debug_assert!(by_id.places.len() <= self.in_flight.len(), "one is known and not held");
        }
        self.in_flight_bytes -= held.parcel.load_bytes();
        Some(held)
    }

    /// One that the session has been handed: nobody can confirm what has not been said yet.
    fn take_written(&mut self, seq: u64) -> Option<InFlight> {
        let is_written = self.in_flight.get(&seq).is_some_and(|held| held.is_written);
        if is_written { self.take(seq) } else { None }
    }

    fn take_up_to(&mut self, seq: u64) -> Vec<InFlight> {
        let earlier = self.in_flight.range(..=seq).filter(|(_, held)| held.is_written);
        let seqs: Vec<u64> = earlier.map(|(seq, _)| *seq).collect();
        seqs.into_iter().filter_map(|seq| self.take(seq)).collect()
    }

    fn take_named(&mut self, ids: &[Box<str>], hasher: &IdHasher) -> Vec<InFlight> {
        let by_id = self.by_id.get_or_insert_with(|| {
            let mut by_id = ById { hasher: hasher.clone(), places: BTreeSet::new() };
            self.in_flight.values().for_each(|held| by_id.note(&held.parcel));
            by_id
        });
        let mut named = Vec::new();
        for id in ids {
            let found = by_id.of(id).filter(|seq| {
                let parcel = self.in_flight.get(seq).map(|held| &held.parcel);
                parcel.and_then(Parcel::id_text).is_some_and(|text| *text == **id)
            });
            named.extend(found);
        }
        // In their order, each once.
        let named = BTreeSet::from_iter(named);
        named.into_iter().filter_map(|seq| self.take_written(seq)).collect()
    }

    /// All of them, and what they take.
    fn take_all(&mut self) -> (BTreeMap<u64, InFlight>, usize) {
        self.unwritten.clear();
        self.by_id = None;
        (core::mem::take(&mut self.in_flight), core::mem::take(&mut self.in_flight_bytes))
    }
}

impl ById {
    fn note(&mut self, parcel: &Parcel) {
        self.places.extend(self.place_of(parcel));
    }

    fn forget(&mut self, parcel: &Parcel) {
        if let Some(place) = self.place_of(parcel) {
            self.places.remove(&place);
        }
    }

    fn place_of(&self, parcel: &Parcel) -> Option<(u64, u64)> {
        Some((self.hasher.of(parcel.id_text()?.as_bytes()), parcel.seq))
    }

    /// Messages that may have this id.
    fn of(&self, id: &str) -> impl Iterator<Item = u64> {
        let hash = self.hasher.of(id.as_bytes());
        self.places.range((hash, 0)..=(hash, u64::MAX)).map(|(_, seq)| *seq)
    }
}

/// A message that an acknowledging session holds.
pub(crate) struct InFlight {
    pub(crate) parcel: Parcel,
    /// Since when.
    pub(crate) since: Moment,
    /// Whether it is in the session's socket.
    pub(crate) is_written: bool,
}

/// A watched message in the queue of a session that does not acknowledge.
pub(crate) struct Handing {
    /// The mark behind it.
    pub(crate) mark: u64,
    pub(crate) seq: u64,
    pub(crate) tracking: Tracking,
}

/// A message that stays on disk until the session has read it.
#[derive(Clone, Copy)]
pub(crate) struct Unread {
    pub(crate) seq: u64,
    pub(crate) kept: Kept,
    pub(crate) payload_bytes: usize,
    pub(crate) deliveries: u32,
    pub(crate) trace: TraceRef,
}

impl Session {
    pub(crate) fn acks(&self) -> bool {
        self.acking.is_some()
    }

    /// Whether an acknowledging session has a place for one more message; all others always have.
    pub(crate) fn takes(&self, parcel: &Parcel, config: &Config) -> bool {
        if !self.is_open() || self.is_deaf {
            return false;
        }
        let Some(acking) = &self.acking else { return true };
        acking.in_flight.is_empty()
            || acking.in_flight.len() < acking.in_flight_max
                && acking.in_flight_bytes + parcel.load_bytes() <= config.in_flight_bytes_max
    }
}

impl Router {
    // ---- written and read -------------------------------------------------------------------------

    /// Some of what is watched has left for the socket.
    pub(crate) fn watched_were_written(&mut self, key: SessionKey) {
        let Some(endpoint) = self.endpoint_of(key) else { return };
        let mut handed = Vec::new();
        let Some(session) = self.session_mut(key) else { return };
        while let Some(first) = session.handing.front()
            && session.outbox.is_written_to(first.mark)
        {
            handed.extend(session.handing.pop_front());
        }
        let mut fates = Vec::new();
        if let Some(acking) = &mut session.acking {
            while let Some((mark, seq)) = acking.unwritten.front()
                && session.outbox.is_written_to(*mark)
            {
                if let Some(held) = acking.in_flight.get_mut(seq) {
                    held.is_written = true;
                    fates.push(held.parcel.fate.clone());
                }
                acking.unwritten.pop_front();
            }
        }
        for fate in fates {
            self.reached(&fate, Status::Delivered, endpoint);
        }
        for Handing { seq, tracking, .. } in handed {
            self.was_handed_over(key, endpoint, seq, tracking);
        }
    }

    fn was_handed_over(
        &mut self,
        key: SessionKey,
        endpoint: EndpointKey,
        seq: u64,
        tracking: Tracking,
    ) {
        let Tracking { fate, kept, payload_bytes, deliveries, .. } = tracking;
        self.reached(&fate, Status::Delivered, endpoint);
        self.cannot_be_acked(&fate, endpoint);
        match kept {
            None => {}
            // It was never to survive: once is enough.
            Some(kept) if kept.why == Keep::Spill => {
                self.let_go(endpoint, seq, kept, payload_bytes, Ending::Dropped);
            }
            Some(kept) => {
                let at = self.now.moment.after(LOOK_AFTER);
                let Some(session) = self.session_mut(key) else { return };
                let trace = fate.trace;
                session.unread.push_back(Unread { seq, kept, payload_bytes, deliveries, trace });
                session.look_pause = LOOK_AFTER;
                self.timers.set(at, Timer::LookWhetherRead(key));
            }
        }
    }

    pub(crate) fn look_whether_read(&mut self, key: SessionKey) {
        let now = self.now.moment;
        let Some(session) = self.session_mut(key) else { return };
        if session.unread.is_empty() {
            return;
        }
        session.look_pause = (session.look_pause * 2).min(LOOK_PAUSE_MAX);
        let at = now.after(session.look_pause);
        self.effects.push(Effect::LookWhetherRead(key));
        self.timers.set(at, Timer::LookWhetherRead(key));
    }

    /// Whether this session has messages in its socket that stay on disk until they are read.
    pub fn has_unread(&self, key: SessionKey) -> bool {
        self.session(key).is_some_and(|session| !session.unread.is_empty())
    }

    /// The peer of this session has read everything that its socket was given: the answer to
    /// [`Effect::LookWhetherRead`].
    pub fn has_read_all(&mut self, key: SessionKey) {
        let Some(endpoint) = self.endpoint_of(key) else { return };
        let Some(session) = self.session_mut(key) else { return };
        for unread in core::mem::take(&mut session.unread) {
            let Unread { seq, kept, payload_bytes, trace, .. } = unread;
            let unix_us = self.now.unix_us;
            self.trace.note(trace, TraceState::Read, Some(endpoint), unix_us);
            self.let_go(endpoint, seq, kept, payload_bytes, Ending::Read);
        }
        self.pump(endpoint);
    }

    // ---- acknowledgements -------------------------------------------------------------------------

    /// Takes the messages that a session acknowledges. Those that it does not hold are passed over.
    pub(crate) fn acked(&mut self, key: SessionKey, which: Which<'_>) {
        let Some(endpoint) = self.endpoint_of(key) else { return };
        let hasher = self.trace.hasher().clone();
        let Some(session) = self.session_mut(key) else { return };
        let user = session.user;
        let Some(acking) = session.acking.as_mut() else { return };
        let taken: Vec<InFlight> = match which {
            Which::Seqs(seqs) => seqs.iter().filter_map(|seq| acking.take_written(*seq)).collect(),
            Which::UpTo(seq) => acking.take_up_to(seq),
            Which::Ids(ids) => acking.take_named(ids, &hasher),
        };
        let bytes: usize = taken.iter().map(|held| held.parcel.load_bytes()).sum();
        self.queues.refund(user, bytes);
        self.counters.acked += taken.len() as u64;
        for InFlight { parcel, .. } in taken {
            self.reached(&parcel.fate, Status::Acked, endpoint);
            if let Some(kept) = parcel.kept {
                self.let_go(endpoint, parcel.seq, kept, parcel.payload.len(), Ending::Acked);
            }
        }
        self.pump(endpoint);
    }

    /// A session gives a message back. Says whether it held it.
    pub(crate) fn nacked(
        &mut self,
        key: SessionKey,
        seq: u64,
        reason: Option<&str>,
        requeue: bool,
    ) -> bool {
        let Some(endpoint) = self.endpoint_of(key) else { return false };
        let Some(InFlight { parcel, .. }) = self.take_in_flight(key, seq) else { return false };
        self.counters.nacked += 1;
        if requeue {
            self.try_again(endpoint, parcel, reason);
        } else {
            let detail = reason.map_or_else(|| "the receiver refused it".into(), String::from);
            let failure = Failure::new(ErrorCode::Rejected, detail);
            self.give_up(endpoint, parcel, &failure, Ending::Dead);
        }
        self.pump(endpoint);
        true
    }

    fn take_in_flight(&mut self, key: SessionKey, seq: u64) -> Option<InFlight> {
        let session = self.session_mut(key)?;
        let user = session.user;
        let acking = session.acking.as_mut()?;
        let held = acking.take(seq)?;
        self.queues.refund(user, held.parcel.load_bytes());
        Some(held)
    }

    /// A message that was given back comes again after a pause, to another member of its group at once,
    /// or never, if it has come too often.
    fn try_again(&mut self, endpoint: EndpointKey, parcel: Parcel, reason: Option<&str>) {
        let now = self.now.moment;
        if parcel.deliveries >= self.config.deliveries_max {
            return self.came_too_often(endpoint, parcel, reason);
        }
        let unix_us = self.now.unix_us;
        self.trace.note(parcel.fate.trace, TraceState::Requeued, Some(endpoint), unix_us);
        let Some(parcel) = self.reroute(endpoint, parcel) else { return };
        self.note_deliveries(endpoint, &parcel);
        let doublings = parcel.deliveries.saturating_sub(1).min(16);
        let pause = self.config.nack_pause * (1 << doublings);
        let until = now.after(pause.min(self.config.nack_pause_max));
        if let Some(deadline) = parcel.deadline {
            self.timers.set(deadline, Timer::Expiry(endpoint));
        }
        self.charge_waiting(endpoint, parcel.load_bytes() as isize);
        self.backlog_or_new(endpoint).paused.insert((until, parcel.seq), parcel);
        self.timers.set(until, Timer::Paused(endpoint));
    }

    fn came_too_often(&mut self, endpoint: EndpointKey, parcel: Parcel, reason: Option<&str>) {
        let times = parcel.deliveries;
        let detail = match reason {
            Some(reason) => alloc::format!("delivered {times} times, the last time: {reason}"),
            None => alloc::format!("delivered {times} times and not acknowledged"),
        };
        let failure = Failure::new(ErrorCode::DeliveriesExceeded, detail);
        self.give_up(endpoint, parcel, &failure, Ending::Dead);
    }

    /// The disk learns how often a kept message was handed over.
    pub(crate) fn note_deliveries(&mut self, endpoint: EndpointKey, parcel: &Parcel) {
        if parcel.kept.is_some() {
            let (seq, deliveries) = (parcel.seq, parcel.deliveries);
            let name = self.endpoints[endpoint.0].name.clone();
            self.order(Order::Delivered { endpoint: name, seq, deliveries });
        }
    }

    // ---- the end of a session -----------------------------------------------------------------------

    /// Takes from a session what it has not acknowledged, or is not known to have read: it waits for
    /// the endpoint's next session, before everything newer.
    pub(crate) fn take_back(&mut self, key: SessionKey) {
        let Some(endpoint) = self.endpoint_of(key) else { return };
        let Some(session) = self.session_mut(key) else { return };
        let user = session.user;
        let outbox = &session.outbox;
        let held = session.acking.as_mut().map(|acking| {
            // The rest of what is begun may still reach the peer.
            let begun = acking.unwritten.front().filter(|(mark, _)| outbox.has_begun(*mark));
            if let Some(held) = begun.and_then(|(_, seq)| acking.in_flight.get_mut(seq)) {
                held.is_written = true;
            }
            acking.take_all()
        });
        let unread: VecDeque<Unread> = core::mem::take(&mut session.unread);
        self.read_again(endpoint, unread);
        let Some((held, bytes)) = held else { return };
        self.queues.refund(user, bytes);
        let mut dealings = Dealings::default();
        for InFlight { mut parcel, is_written, .. } in held.into_values() {
            if !is_written {
                parcel.deliveries -= 1;
            } else if parcel.deliveries >= self.config.deliveries_max {
                self.came_too_often(endpoint, parcel, None);
                continue;
            }
            let Some(parcel) = self.deal(endpoint, parcel, &mut dealings) else { continue };
            if is_written {
                self.note_deliveries(endpoint, &parcel);
            }
            if let Some(deadline) = parcel.deadline {
                self.timers.set(deadline, Timer::Expiry(endpoint));
            }
            self.charge_waiting(endpoint, parcel.load_bytes() as isize);
            self.backlog_or_new(endpoint).waiting.insert(parcel.seq, parcel);
        }
    }

    /// What a session was not seen to read stays on disk for the next one.
    fn read_again(&mut self, endpoint: EndpointKey, unread: VecDeque<Unread>) {
        let name = self.endpoints[endpoint.0].name.clone();
        for Unread { seq, deliveries, .. } in unread {
            self.backlog_or_new(endpoint).leave_on_disk(seq);
            self.order(Order::Delivered { endpoint: name.clone(), seq, deliveries });
        }
    }

    // ---- time to live -------------------------------------------------------------------------------

    /// Takes expired messages out of the queue of a session that does not acknowledge, as long as they
    /// have not begun to be written.
    pub(crate) fn withdraw_queued(&mut self, key: SessionKey, endpoint: EndpointKey, now: Moment) {
        let Some(session) = self.session(key) else { return };
        let level = session.level;
        let is_due = |handing: &&Handing| handing.tracking.deadline.is_some_and(|at| at <= now);
        let due: BTreeSet<u64> = session.handing.iter().filter(is_due).map(|h| h.seq).collect();
        let withdrawn = self.withdraw(key, &due);
        let Some(session) = self.session_mut(key) else { return };
        let mut watched = take_watched(&mut session.handing, &withdrawn);
        for mut message in withdrawn {
            message.level = level;
            message.tracking = watched.remove(&message.seq).map(Box::new);
            self.expire_loose(endpoint, &message);
        }
        let Some(session) = self.session(key) else { return };
        let deadlines = session.handing.iter().filter_map(|handing| handing.tracking.deadline);
        if let Some(next) = deadlines.filter(|at| *at > now).min() {
            self.timers.set(next, Timer::Expiry(endpoint));
        }
    }

    fn withdraw(&mut self, key: SessionKey, due: &BTreeSet<u64>) -> Vec<LooseMessage> {
        if due.is_empty() {
            return Vec::new();
        }
        let Some((session, account)) = self.session_and_account(key) else { return Vec::new() };
        session.outbox.withdraw(|seq| due.contains(&seq), account)
    }

    /// The same for one that acknowledges.
    pub(crate) fn withdraw_unacknowledged(
        &mut self,
        key: SessionKey,
        endpoint: EndpointKey,
        now: Moment,
    ) {
        let Some(acking) = self.session(key).and_then(|session| session.acking.as_ref()) else {
            return;
        };
        let mortal = acking
            .unwritten
            .iter()
            .filter_map(|(_, seq)| Some((*seq, acking.in_flight.get(seq)?.parcel.deadline?)));
        let (due, later): (Vec<_>, Vec<_>) = mortal.partition(|(_, deadline)| *deadline <= now);
        if let Some(next) = later.into_iter().map(|(_, deadline)| deadline).min() {
            self.timers.set(next, Timer::Expiry(endpoint));
        }
        let due = due.into_iter().map(|(seq, _)| seq).collect();
        let withdrawn: BTreeSet<u64> =
            self.withdraw(key, &due).into_iter().map(|message| message.seq).collect();
        if let Some(acking) = self.session_mut(key).and_then(|session| session.acking.as_mut()) {
            acking.unwritten.retain(|(_, unwritten)| !withdrawn.contains(unwritten));
        }
        for seq in withdrawn {
            if let Some(InFlight { mut parcel, .. }) = self.take_in_flight(key, seq) {
                parcel.deliveries -= 1;
                self.expire(endpoint, parcel);
            }
        }
    }
}

/// Takes out what is known of these messages, by `seq`. The others keep their order.
pub(crate) fn take_watched(
    handing: &mut VecDeque<Handing>,
    messages: &[LooseMessage],
) -> BTreeMap<u64, Tracking> {
    let mut taken = BTreeMap::new();
    if handing.is_empty() || messages.is_empty() {
        return taken;
    }
    let mut wanted: BTreeSet<u64> = messages.iter().map(|message| message.seq).collect();
    for one in core::mem::take(handing) {
        if wanted.remove(&one.seq) {
            taken.insert(one.seq, one.tracking);
        } else {
            handing.push_back(one);
        }
    }
    taken
}

/// The messages that an `ack` names.
pub(crate) enum Which<'a> {
    Seqs(&'a [u64]),
    UpTo(u64),
    Ids(&'a [Box<str>]),
}

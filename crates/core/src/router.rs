//! The router as its driver sees it: events in, effects out, turn by turn.
//!
//! Routing itself is in `routing`, names and their sessions in `names`, budgets of unfinished frames
//! in `intake`.

use alloc::borrow::ToOwned;
use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::format;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use bytes::Bytes;
use hashbrown::HashMap;
use hermes_bus_proto::control::{self, Detail, Further};
use hermes_bus_proto::listing::{self, EndpointDetails, Level, ListingWriter, ServerDetails};
use hermes_bus_proto::{EndpointName, Envelope, ErrorCode, FrameError, Kind, Raw, requests};
use slab::Slab;

use crate::endpoint::{Endpoint, EndpointKey, EndpointState};
use crate::fate::{Promise, RECEIPT_BYTES_TOTAL_MAX, RECEIPT_BYTES_USER_MAX, Tallies};
use crate::groups::Groups;
use crate::impatience::{Impatience, PONG_INTERVAL};
use crate::keeping::Keepings;
use crate::known::KnownNames;
use crate::ledger::{Budget, DiskUse, Ledger, UserKey};
use crate::outbox::{Account, ChunkPool, FrameKind, Provenance};
use crate::repetitions::Repetitions;
use crate::session::{Credentials, Phase, Role, Session, SessionKey, Waited};
use crate::storage::Ticket;
use crate::tap::Tap;
use crate::timers::{Timer, Timers};
use crate::topics::Topics;
use crate::trace::{Trace, TraceState};
use crate::watchers::Watchers;
use crate::{CloseReason, Config, Counters, Effect, Event, Histogram, Moment, Now, Peer, TapBatch};

/// A frame's payload, as the driver has it.
#[derive(Clone, Copy)]
pub enum Payload<'a> {
    /// In a buffer that will be used again: copied where it goes.
    Borrowed(&'a [u8]),
    /// In memory of its own: shared where it goes, if it is large.
    Shared(&'a Bytes),
}

impl Payload<'_> {
    /// The bytes.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        match self {
            Payload::Borrowed(bytes) => bytes,
            Payload::Shared(bytes) => bytes,
        }
    }
}

/// What the driver is to do after it has offered a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Next {
    /// The frame is taken; offer the next one.
    Taken,
    /// The frame is taken; offer the next one after [`Effect::Resume`].
    TakenThenHold,
    /// The frame is not taken: keep it and what is behind it, offer it again after
    /// [`Effect::Resume`].
    Hold,
    /// The frame is not taken: see whether this session's peer has hung up, let the router have what
    /// it sent before and its end if so, then offer the frame again with [`Probed::Yes`].
    Probe(SessionKey),
    /// The frame is taken, and nothing further is wanted from this session.
    Finished,
}

/// Whether the driver has looked at the session that [`Next::Probe`] named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probed {
    /// Not asked yet.
    No,
    /// Looked at: if its peer had hung up, the router knows.
    Yes,
}

/// What is in use, in bytes but for the timers. Everything is 0 when nobody is connected and nothing lingers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Messages queued for receivers.
    pub queued: usize,
    /// The bus's own frames, queued for whoever asked.
    pub answers: usize,
    /// Unfinished and waiting frames, kept by the driver.
    pub intake: usize,
    /// Held for lingering names.
    pub held: usize,
    /// Receipts that senders wait for.
    pub receipts: usize,
    /// Number of timers that are set.
    pub timers: usize,
}

/// The state machine. See the crate's documentation for how a driver uses it.
pub struct Router {
    pub(crate) config: Config,
    pub(crate) now: Now,
    pub(crate) began: Option<Now>,
    pub(crate) turn: u64,
    random: fastrand::Rng,
    pub(crate) sessions: Slab<Session>,
    generation: u32,
    pub(crate) endpoints: Slab<Endpoint>,
    pub(crate) names: HashMap<EndpointName, EndpointKey, foldhash::fast::FixedState>,
    /// Whom the last message was for: the next one often is, too.
    pub(crate) last_target: EndpointKey,
    /// Holders of names, in the order of their registrations.
    pub(crate) registered: BTreeMap<u64, SessionKey>,
    pub(crate) registrations: u64,
    pub(crate) impatience: Impatience,
    pub(crate) queues: Budget,
    pub(crate) answers: Ledger,
    pub(crate) intake: Budget,
    /// Sessions with an unfinished frame, the one nearest to its end first.
    pub(crate) unfinished: BTreeSet<(usize, SessionKey)>,
    /// Sessions that are not read from until there is room for unfinished frames.
    pub(crate) intake_held: BTreeSet<SessionKey>,
    pub(crate) intake_was_freed: bool,
    pub(crate) held: Ledger,
    pub(crate) pool: ChunkPool,
    pub(crate) timers: Timers,
    pub(crate) effects: Vec<Effect>,
    dirty: Vec<SessionKey>,
    /// Anonymous connections whose first message was routed in this turn, or the fate of one decided.
    pub(crate) courtesies: Vec<SessionKey>,
    pub(crate) counters: Counters,
    /// For the fields that are inserted into a message.
    pub(crate) inserted: Vec<u8>,
    /// For the bus's own frames.
    scratch: Vec<u8>,
    /// For the receivers of a broadcast.
    pub(crate) everyone: Vec<SessionKey>,
    /// Where those look on who are to see every message.
    pub(crate) tap: Option<Tap>,
    /// From a message's arrival until its bytes are in the receiver's socket.
    delivery: Histogram,
    /// The newest place in the order of all messages.
    pub(crate) seq: u64,
    /// Messages before this place were left by an earlier process.
    pub(crate) seq_recovered: u64,
    pub(crate) tickets: u64,
    /// Messages on their way to the disk, and their bytes.
    pub(crate) keeping: Keepings,
    pub(crate) keeping_bytes: usize,
    /// Bytes of all messages that are kept, those on their way included.
    pub(crate) kept_bytes: DiskUse,
    /// Why nothing can be kept now.
    pub(crate) trouble: Option<String>,
    /// The disk has done nothing for too long.
    pub(crate) disk_is_stalled: bool,
    /// Dead letters on their way to the disk, and their bytes.
    pub(crate) burying: VecDeque<(Ticket, usize)>,
    pub(crate) burying_bytes: usize,
    /// The same of the groups and topics of endpoints.
    pub(crate) remembering: VecDeque<(Ticket, usize)>,
    pub(crate) remembering_bytes: usize,
    pub(crate) waiting_for_disk: Vec<SessionKey>,
    /// Expired messages are being read from disk; and it is time to do so once more.
    pub(crate) sweeping: Option<Ticket>,
    pub(crate) sweep_again: bool,
    pub(crate) tallies: Tallies,
    /// Receipts that are waited for.
    pub(crate) receipts: Budget,
    /// Those whose senders have gone, since they were last looked for.
    pub(crate) orphaned_receipt_bytes: usize,
    /// When names and ids are next looked through for those that are over.
    pub(crate) forget_at: Moment,
    pub(crate) repetitions: Repetitions<Rc<Promise>>,
    pub(crate) trace: Trace,
    pub(crate) known: KnownNames,
    pub(crate) topics: Topics,
    pub(crate) groups: Groups,
    pub(crate) watchers: Watchers,
    /// For the subscribers of a topic, and where its copies are.
    pub(crate) subscribers: Vec<EndpointKey>,
    pub(crate) copies: Vec<(SessionKey, u64)>,
}

impl Router {
    /// A router without connections. `seed` makes ids and the order of hash tables; the same seed
    /// and events make the same effects.
    pub fn new(config: Config, seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let Config { repetition_window, repetitions_max, known_for, known_max, .. } = config;
        let trace_messages_max = config.trace_messages_max;
        let names = HashMap::with_hasher(foldhash::fast::FixedState::with_seed(random.u64(..)));
        Router {
            now: Now::default(),
            began: None,
            turn: 0,
            sessions: Slab::new(),
            generation: 0,
            endpoints: Slab::new(),
            names,
            last_target: EndpointKey::default(),
            registered: BTreeMap::new(),
            registrations: 0,
            impatience: Impatience::new(random.u64(..)),
            queues: Budget::new(config.queue_bytes_user_max, config.queue_bytes_total_max),
            answers: Ledger::new(config.answer_bytes_total_max),
            intake: Budget::new(config.intake_bytes_user_max, config.intake_bytes_total_max),
            unfinished: BTreeSet::new(),
            intake_held: BTreeSet::new(),
            intake_was_freed: false,
            held: Ledger::new(config.held_bytes_total_max),
            pool: ChunkPool::default(),
            timers: Timers::default(),
            effects: Vec::new(),
            dirty: Vec::new(),
            courtesies: Vec::new(),
            counters: Counters::default(),
            inserted: Vec::new(),
            scratch: Vec::new(),
            everyone: Vec::new(),
            tap: None,
            delivery: Histogram::default(),
            seq: 0,
            seq_recovered: 0,
            tickets: 0,
            keeping: Keepings::default(),
            keeping_bytes: 0,
            kept_bytes: DiskUse::default(),
            trouble: None,
            disk_is_stalled: false,
            burying: VecDeque::new(),
            burying_bytes: 0,
            remembering: VecDeque::new(),
            remembering_bytes: 0,
            waiting_for_disk: Vec::new(),
            sweeping: None,
            sweep_again: false,
            tallies: Tallies::default(),
            receipts: Budget::new(RECEIPT_BYTES_USER_MAX, RECEIPT_BYTES_TOTAL_MAX),
            orphaned_receipt_bytes: 0,
            forget_at: Moment::default(),
            repetitions: Repetitions::new(repetition_window, repetitions_max, random.u64(..)),
            trace: Trace::new(trace_messages_max, random.u64(..)),
            known: KnownNames::new(known_for, known_max, random.u64(..)),
            topics: Topics::new(random.u64(..)),
            groups: Groups::new(random.u64(..)),
            watchers: Watchers::default(),
            subscribers: Vec::new(),
            copies: Vec::new(),
            random,
            config,
        }
    }

    /// Replaces limits and policies. What is connected, queued or held already stays as it is; timers
    /// that run already keep their time. Who was held for a limit that is not reached any more goes on.
    /// What the server is called, can do, and whose it is stays, too.
    pub fn configure(&mut self, config: Config) {
        let Config { server, admin_ops, owner_uid, messages_per_s, bytes_per_s, .. } =
            core::mem::take(&mut self.config);
        let rates_change =
            (messages_per_s, bytes_per_s) != (config.messages_per_s, config.bytes_per_s);
        self.config = Config { server, admin_ops, owner_uid, ..config };
        if rates_change {
            self.forget_paces();
        }
        let config = &self.config;
        self.queues.set_max(config.queue_bytes_user_max, config.queue_bytes_total_max);
        self.answers.set_max(config.answer_bytes_total_max);
        self.intake.set_max(config.intake_bytes_user_max, config.intake_bytes_total_max);
        self.held.set_max(config.held_bytes_total_max);
        self.repetitions.set_limits(config.repetition_window, config.repetitions_max);
        self.trace.set_max(config.trace_messages_max);
        self.known.set_limits(config.known_for, config.known_max);
        self.intake_was_freed = !self.intake_held.is_empty();
        let keys: Vec<SessionKey> = self.registered.values().copied().collect();
        for key in keys {
            self.queue_has_drained(key);
        }
        self.let_those_go_on_who_read_answers();
        self.give_configured_mailboxes();
    }

    /// Who was held for unread answers goes on if they are few enough now.
    fn let_those_go_on_who_read_answers(&mut self) {
        let max = self.config.answer_bytes_max;
        let mut freed = Vec::new();
        for (index, session) in &mut self.sessions {
            if session.holds.unread_answers && session.outbox.control_bytes() <= max {
                session.holds.unread_answers = false;
                freed.push(SessionKey { index: index as u32, generation: session.generation });
            }
        }
        freed.into_iter().for_each(|key| self.resume(key));
    }

    /// The limits and policies in use.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Has every message that is routed kept for [`Router::take_tapped`], or not any more.
    /// `bytes_max` is what is kept of those that nobody takes; the oldest are dropped, and counted in
    /// [`TapBatch::left_out`].
    pub fn set_tap(&mut self, bytes_max: Option<usize>) {
        match (&mut self.tap, bytes_max) {
            (Some(tap), Some(bytes_max)) => tap.bytes_max = bytes_max,
            (tap, bytes_max) => *tap = bytes_max.map(Tap::new),
        }
    }

    /// Whether [`Router::take_tapped`] has something to give.
    pub fn has_tapped(&self) -> bool {
        self.tap.as_ref().is_some_and(|tap| !tap.batch.is_empty())
    }

    /// What was routed since the last call, once for each message, in order.
    pub fn take_tapped(&mut self) -> TapBatch {
        self.tap.as_mut().map(Tap::take).unwrap_or_default()
    }

    /// Gives back a batch that is done with, so that its memory is used again.
    pub fn recycle_tapped(&mut self, spent: TapBatch) {
        if let Some(tap) = &mut self.tap {
            tap.recycle(spent);
        }
    }

    /// Offers what was routed to somebody who takes it, or gives it back because it is too much for
    /// now; then it is kept, and offered again with what comes after it.
    pub fn offer_tapped(&mut self, take: impl FnOnce(TapBatch) -> Result<(), TapBatch>) {
        if let Some(tap) = self.tap.as_mut().filter(|tap| !tap.batch.is_empty())
            && let Err(refused) = take(tap.take())
        {
            tap.batch = refused;
        }
    }

    // ---- turns --------------------------------------------------------------------------------

    /// Begins a turn: sets the time, and does what was due until then. The clock never runs back.
    pub fn begin_turn(&mut self, now: Now) {
        debug_assert!(now.moment >= self.now.moment, "the monotonic clock ran back");
        self.now = now;
        self.began.get_or_insert(now);
        self.turn += 1;
        while let Some(timer) = self.timers.pop_due(now.moment) {
            self.fire(timer);
        }
        if now.moment >= self.forget_at {
            self.forget_what_is_over();
        }
    }

    /// Anonymous connections that are about to get a courtesy receipt. The driver looks whether
    /// more of their input has arrived, and says so with [`Router::more_input`].
    pub fn receipts_due(&self) -> Vec<SessionKey> {
        let is_due = |key: &&SessionKey| self.session(**key).is_some_and(Session::is_receipt_due);
        self.courtesies.iter().filter(is_due).copied().collect()
    }

    /// More input of this connection has arrived, though it is not read yet.
    pub fn more_input(&mut self, key: SessionKey) {
        self.end_courtesy(key);
    }

    /// Ends a turn, after everything was written that could be: decides courtesy receipts.
    pub fn end_turn(&mut self) {
        for key in core::mem::take(&mut self.courtesies) {
            self.decide_courtesy(key);
            self.end_if_drained(key);
        }
        if core::mem::take(&mut self.intake_was_freed) {
            self.resume_intake();
        }
    }

    /// When the next timer is due.
    pub fn next_wake(&self) -> Option<Moment> {
        self.timers.next_at()
    }

    /// What is to be done, in order.
    pub fn take_effects(&mut self) -> Vec<Effect> {
        core::mem::take(&mut self.effects)
    }

    /// The same in the middle of a turn, if there are `at_least` so many and all of them are orders for
    /// the disk, which can be carried out at any time. Else nothing, and they stay.
    pub fn take_orders(&mut self, at_least: usize) -> Option<impl Iterator<Item = Effect>> {
        let is_order = |effect: &Effect| matches!(effect, Effect::Store(..));
        let is_time = self.effects.len() >= at_least && self.effects.iter().all(is_order);
        is_time.then(|| self.effects.drain(..))
    }

    fn fire(&mut self, timer: Timer) {
        match timer {
            Timer::Heartbeat(key) => self.check_heartbeat(key),
            Timer::FrameDeadline(key) => self.check_frame_deadline(key),
            Timer::Drain(key) => self.check_drain(key),
            Timer::Uncork(key) => self.uncork(key),
            Timer::Pong(key) => self.check_impatient(key),
            Timer::WaitingSenders(key) => self.check_waiting_senders(key),
            Timer::Pace(key) => self.check_pace(key),
            Timer::LingerAnswer(endpoint) => self.answer_lingering_senders(endpoint),
            Timer::LingerEnd(endpoint) => self.check_linger(endpoint),
            Timer::Expiry(endpoint) => self.check_expiry(endpoint),
            Timer::Paused(endpoint) => self.check_paused(endpoint),
            Timer::LookWhetherRead(key) => self.look_whether_read(key),
            Timer::ReceiptWait => self.check_receipt_wait(),
            Timer::DiskStall => self.check_disk_stall(),
            Timer::DiskRecovery => self.check_disk_recovery(),
            Timer::Sweep => self.sweep(),
        }
    }

    // ---- connections ----------------------------------------------------------------------------

    /// A peer has connected. One that may not is told so, and closed.
    pub fn connected(&mut self, credentials: Credentials) -> SessionKey {
        self.counters.connections += 1;
        self.generation = self.generation.wrapping_add(1);
        let Credentials { uid, pid } = credentials;
        let owner_uid = self.config.owner_uid;
        let may_connect = uid == 0 || uid == owner_uid || self.config.allow_uids.contains(&uid);
        // Strangers have no budget of their own.
        let charged_uid = if may_connect { uid } else { owner_uid };
        let user = self.user(charged_uid);
        let session = Session::new(self.generation, credentials, user, self.now.moment);
        let index = self.sessions.insert(session) as u32;
        let key = SessionKey { index, generation: self.generation };
        if !may_connect {
            self.counters.refused_users += 1;
            let what = format!("user {uid} may not use this bus");
            self.tell_error(key, ErrorCode::Forbidden, Detail::Text(&what), None);
            self.log(Event::Misbehaved { peer: Peer { endpoint: None, uid, pid }, what });
            self.finish(key, CloseReason::Refused);
        }
        key
    }

    /// Offers a frame that arrived. Frames of one session are offered in order.
    pub fn frame(&mut self, key: SessionKey, payload: Payload<'_>, probed: Probed) -> Next {
        if !self.session(key).is_some_and(Session::is_open) {
            return Next::Finished;
        }
        let envelope = match Envelope::scan(payload.bytes()) {
            Ok(envelope) => envelope,
            Err(error) => {
                self.refuse_frame(key, error);
                return Next::Finished;
            }
        };
        match envelope.kind {
            Kind::Message => self.message(key, &envelope, payload),
            Kind::Register => self.register(key, &envelope, probed),
            Kind::Ping | Kind::ListEndpoints if self.answers_wait_for_answers(key) => Next::Hold,
            Kind::Ping => {
                self.take_note_of_frame(key);
                if let Some(next) = self.refuse_odd_req(key, &envelope) {
                    return next;
                }
                self.answer_ping(key, &envelope);
                self.hold_if_answers_pile_up(key)
            }
            Kind::ListEndpoints => {
                self.take_note_of_frame(key);
                if let Some(next) = self.refuse_odd_req(key, &envelope) {
                    return next;
                }
                self.list(key, &envelope);
                self.hold_if_answers_pile_up(key)
            }
            Kind::Admin if self.speaks_level_2(key, &envelope) => {
                self.admin(key, &envelope, payload)
            }
            _ => self.request(key, &envelope, payload),
        }
    }

    /// Whether a session is of level 2, or says so in this frame.
    fn speaks_level_2(&self, key: SessionKey, envelope: &Envelope<'_>) -> bool {
        self.session(key).is_some_and(|session| session.level == Level::Two)
            || listing::level_asked(envelope.protocol) == Level::Two
    }

    /// Tells a session of level 2 that its request has a `req` that cannot be repeated, if that is so.
    fn refuse_odd_req(&mut self, key: SessionKey, envelope: &Envelope<'_>) -> Option<Next> {
        let error = requests::req(envelope).err()?;
        let is_level_2 = self.session(key).is_some_and(|session| session.level == Level::Two);
        let code = ErrorCode::InvalidField;
        is_level_2.then(|| self.refuse_request(key, envelope, code, &error.to_string()))
    }

    fn answer_ping(&mut self, key: SessionKey, envelope: &Envelope<'_>) {
        let speaks = self.session(key).map_or(Level::One, |session| session.level);
        match envelope.member("req").filter(|_| speaks == Level::Two) {
            Some(req) => self.tell(key, |out| control::pong_to(out, req)),
            None => self.tell(key, control::pong),
        }
    }

    /// The bytes that arrived can never become a frame, or the frame is no JSON object: tells the
    /// peer, and closes.
    pub fn refuse_frame(&mut self, key: SessionKey, error: FrameError) {
        self.counters.refused_frames += 1;
        self.refuse(key, error.code(), &error.to_string(), None);
    }

    /// The peer has ended its side, and everything that it sent has been offered. It may still read.
    pub fn eof(&mut self, key: SessionKey) {
        if self.session(key).is_some_and(Session::is_open) {
            self.finish(key, CloseReason::PeerClosed);
        }
    }

    /// The peer has ended its side, or hung up, while some of what it sent cannot be offered yet: its
    /// name is free at once.
    pub fn leaving(&mut self, key: SessionKey) {
        self.release_name(key);
    }

    /// The peer reads no more. Its name is free, and nothing more is said to it; what it has sent is
    /// still to be offered, until [`Router::closed`].
    pub fn deaf(&mut self, key: SessionKey) {
        self.release_name(key);
        let Some(session) = self.session_mut(key) else { return };
        session.is_deaf = true;
        if core::mem::take(&mut session.holds.unread_answers) {
            self.resume(key);
        }
    }

    /// The connection is gone in both directions, and everything that came has been offered.
    pub fn closed(&mut self, key: SessionKey, reason: CloseReason) {
        if self.session(key).is_some() {
            self.end_session(key, reason);
        }
    }

    /// The bus goes down: nothing is read any more, what is queued is written, each connection is
    /// closed when it has everything, and after [`Config::drain`] in any case.
    pub fn shut_down(&mut self) {
        let open = |(index, session): (usize, &Session)| {
            let key = SessionKey { index: index as u32, generation: session.generation };
            session.is_open().then_some(key)
        };
        let keys: Vec<SessionKey> = self.sessions.iter().filter_map(open).collect();
        for key in keys {
            self.uncork(key);
            if self.session(key).is_some_and(|session| session.level == Level::Two) {
                self.tell(key, |out| control::bye(out, CloseReason::ShuttingDown.as_str()));
            }
            self.begin_drain(key, CloseReason::ShuttingDown);
        }
    }

    /// Whether no connection is left.
    pub fn is_idle(&self) -> bool {
        self.sessions.is_empty()
    }

    // ---- writing ----------------------------------------------------------------------------------

    /// Sessions for which something was queued since the last call.
    pub fn take_dirty(&mut self) -> Vec<SessionKey> {
        let dirty = core::mem::take(&mut self.dirty);
        for key in &dirty {
            if let Some(session) = self.session_mut(*key) {
                session.is_dirty = false;
            }
        }
        dirty
    }

    /// Whether [`Router::take_dirty`] has something to give.
    pub fn is_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// Gives a list of [`Router::take_dirty`] back, so that its memory is used again.
    pub fn recycle_dirty(&mut self, mut list: Vec<SessionKey>) {
        if self.dirty.is_empty() && list.capacity() > self.dirty.capacity() {
            list.clear();
            self.dirty = list;
        }
    }

    /// The bytes of the next write to this session's socket: nothing if nothing is queued or all of
    /// it is to wait.
    pub fn next_write(&self, key: SessionKey) -> impl Iterator<Item = &[u8]> {
        let session = self.session(key).filter(|session| session.corked_until.is_none());
        session.into_iter().flat_map(|session| session.outbox.next_write())
    }

    /// The socket took so many bytes of [`Router::next_write`], at this moment or just before.
    pub fn written(&mut self, key: SessionKey, bytes: usize, at: Moment) {
        let (now, half_of_answers) = (self.now.moment, self.config.answer_bytes_max / 2);
        let Some(session) = self.sessions.get_mut(key.index()) else { return };
        if session.generation != key.generation {
            return;
        }
        let account =
            Account { pool: &mut self.pool, budget: &mut self.queues, user: session.user };
        let answers_before = session.outbox.control_bytes();
        let delivery = &mut self.delivery;
        let (trace, unix_us) = (&mut self.trace, self.now.unix_us);
        let endpoint = match &session.role {
            Role::Registered(registration) => Some(registration.endpoint),
            Role::Anonymous => None,
        };
        let on_message = |provenance: Provenance, is_tracked: bool| {
            delivery.record(at.since(provenance.arrived));
            if !is_tracked {
                trace.note(provenance.trace, TraceState::Delivered, endpoint, unix_us);
            }
        };
        let handed_over = session.outbox.written(bytes, account, on_message);
        let (is_watched, has_gaps) = (session.is_watched(), session.gaps.is_some());
        let has_more = session.backlog_bytes > 0;
        let answers_read = answers_before - session.outbox.control_bytes();
        session.last_told = now;
        if handed_over.messages > 0 {
            session.received.add(handed_over.messages, handed_over.bytes, now);
        }
        let answers_are_read =
            session.holds.unread_answers && session.outbox.control_bytes() <= half_of_answers;
        if answers_are_read {
            session.holds.unread_answers = false;
        }
        self.answers.refund(answers_read);
        if answers_are_read {
            self.resume(key);
        }
        if has_gaps {
            self.tell_gaps(key);
        }
        if handed_over.messages > 0 {
            self.counters.handed_over += handed_over.messages;
            self.counters.handed_over_bytes += handed_over.bytes;
        }
        if is_watched {
            self.watched_were_written(key);
        }
        if has_more && let Some(endpoint) = self.endpoint_of(key) {
            self.pump(endpoint);
        }
        self.queue_has_drained(key);
        self.end_if_drained(key);
    }

    /// The socket takes no more for now.
    pub fn write_blocked(&mut self, key: SessionKey) {
        if let Some(session) = self.session_mut(key) {
            session.outbox.trim();
        }
    }

    // ---- for people ---------------------------------------------------------------------------------

    /// What has happened so far.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// From a message's arrival until its bytes were in the receiver's socket, for each one that was
    /// handed over.
    pub fn delivery(&self) -> &Histogram {
        &self.delivery
    }

    /// Open connections, registered or not.
    pub fn connections(&self) -> usize {
        self.sessions.len()
    }

    /// Every registered endpoint, and the most bytes that ever waited in its session's queue.
    pub fn endpoints(&mut self) -> impl Iterator<Item = (EndpointDetails, usize)> {
        let Router { now, registered, sessions, .. } = self;
        let now = now.moment;
        registered.values().map(move |holder| {
            let session = &mut sessions[holder.index as usize];
            (session.details(now), session.outbox.peak_bytes())
        })
    }

    /// Memory in use.
    pub fn usage(&self) -> Usage {
        Usage {
            queued: self.queues.total().used(),
            answers: self.answers.used(),
            intake: self.intake.total().used(),
            held: self.held.used(),
            receipts: self.receipts.total().used(),
            timers: self.timers.len(),
        }
    }

    fn list(&mut self, key: SessionKey, envelope: &Envelope<'_>) {
        let speaks = self.session(key).map_or(Level::One, |session| session.level);
        let level = match speaks {
            Level::One => listing::level_asked(envelope.protocol),
            Level::Two => Level::Two,
        };
        let mut writer = ListingWriter::new(level);
        let holders: Vec<SessionKey> = self.registered.values().copied().collect();
        for holder in holders {
            let Some(registration) = self.session(holder).and_then(Session::registration) else {
                continue;
            };
            let (name, endpoint) = (registration.name.clone(), registration.endpoint);
            let session_id = registration.session_id.clone();
            writer.push(&name, &session_id, || self.details_of(holder, endpoint));
        }
        let is_away = |record: &Endpoint| matches!(record.state, EndpointState::Away);
        let away = self.endpoints.iter().filter(|(_, record)| is_away(record));
        let away: Vec<EndpointKey> = away.map(|(index, _)| EndpointKey(index)).collect();
        for endpoint in away.into_iter().filter(|_| level == Level::Two) {
            writer.push_offline(|| self.offline_details(endpoint));
        }
        let req = envelope.member("req").filter(|_| speaks == Level::Two);
        let server = || self.server_details();
        let mut frame = Vec::new();
        writer.finish(&mut frame, server, req);
        self.push_control(key, &frame);
    }

    /// A request that only the daemon's own user, and root, may make. The driver answers it.
    fn admin(&mut self, key: SessionKey, envelope: &Envelope<'_>, payload: Payload<'_>) -> Next {
        self.take_note_of_frame(key);
        let Some(session) = self.session(key) else { return Next::Finished };
        let uid = session.credentials.uid;
        if !self.owns_bus(key) {
            self.counters.refused_admin += 1;
            let what = format!("user {uid} does not own this bus");
            let req = requests::req(envelope).ok().flatten();
            let further = Further { req, ..Further::default() };
            let (code, detail) = (ErrorCode::Forbidden, Detail::Text(&what));
            self.tell(key, |out| control::error_2(out, code, detail, None, &further));
            self.log_of(key, |peer| Event::Misbehaved { peer, what });
        } else {
            self.effects.push(Effect::Admin(key, Bytes::copy_from_slice(payload.bytes())));
        }
        self.hold_if_answers_pile_up(key)
    }

    /// Queues the answer to an [`Effect::Admin`]: one whole frame. If the asker has gone, nothing
    /// happens.
    pub fn answer_admin(&mut self, key: SessionKey, frame: &[u8]) {
        self.push_control(key, frame);
    }

    fn server_details(&self) -> ServerDetails {
        let uptime =
            self.began.map_or_else(Default::default, |began| self.now.moment.since(began.moment));
        let usage = self.usage();
        let gauges = [
            ("queued_bytes", usage.queued),
            ("answer_bytes", usage.answers),
            ("intake_bytes", usage.intake),
            ("held_bytes", usage.held),
            ("open_connections", self.connections()),
        ];
        let counters = self.counters.iter().chain(gauges.map(|(name, value)| (name, value as u64)));
        ServerDetails {
            server: self.config.server.clone(),
            admin_ops: self.config.admin_ops.iter().map(|op| (*op).to_owned()).collect(),
            uptime_s: uptime.as_millis() as f64 / 1e3,
            counters: counters.map(|(name, value)| (name.to_owned(), value.into())).collect(),
        }
    }

    // ---- what the other rooms of the router use -------------------------------------------------------

    #[inline]
    pub(crate) fn session(&self, key: SessionKey) -> Option<&Session> {
        let session = self.sessions.get(key.index as usize)?;
        (session.generation == key.generation).then_some(session)
    }

    #[inline]
    pub(crate) fn session_mut(&mut self, key: SessionKey) -> Option<&mut Session> {
        let session = self.sessions.get_mut(key.index as usize)?;
        (session.generation == key.generation).then_some(session)
    }

    /// A session together with what its queue is charged to.
    #[inline]
    pub(crate) fn session_and_account(
        &mut self,
        key: SessionKey,
    ) -> Option<(&mut Session, Account<'_>)> {
        let session = self.sessions.get_mut(key.index())?;
        if session.generation != key.generation {
            return None;
        }
        let user = session.user;
        Some((session, Account { pool: &mut self.pool, budget: &mut self.queues, user }))
    }

    /// A user's place in all budgets: it is the same in each.
    pub(crate) fn user(&mut self, uid: u32) -> UserKey {
        self.intake.user(uid);
        self.receipts.user(uid);
        self.queues.user(uid)
    }

    pub(crate) fn account(&mut self, user: UserKey) -> Account<'_> {
        Account { pool: &mut self.pool, budget: &mut self.queues, user }
    }

    /// The endpoint whose name a session has, or had, as long as it is the same.
    pub(crate) fn endpoint_of(&self, key: SessionKey) -> Option<EndpointKey> {
        let registration = self.session(key)?.registration()?;
        let record = self.endpoints.get(registration.endpoint.0)?;
        (record.name == registration.name).then_some(registration.endpoint)
    }

    pub(crate) fn name_of(&self, key: SessionKey) -> Option<EndpointName> {
        Some(self.session(key)?.registration()?.name.clone())
    }

    /// A new version 4 UUID.
    pub(crate) fn new_id(&mut self) -> uuid::Uuid {
        uuid::Builder::from_random_bytes(self.random.u128(..).to_le_bytes()).into_uuid()
    }

    #[inline]
    pub(crate) fn take_note_of_frame(&mut self, key: SessionKey) {
        let (now, turn) = (self.now.moment, self.turn);
        if let Some(session) = self.session_mut(key) {
            session.last_heard = now;
            session.waited = Waited::No;
            session.waiting_since = None;
            if session.newest_turn.0 != turn {
                session.newest_turn = (turn, session.frames_taken);
            }
            session.frames_taken += 1;
        }
    }

    #[inline]
    pub(crate) fn mark_dirty(&mut self, key: SessionKey) {
        if let Some(session) = self.sessions.get_mut(key.index as usize)
            && !core::mem::replace(&mut session.is_dirty, true)
        {
            self.dirty.push(key);
        }
    }

    /// Queues one of the bus's own frames.
    pub(crate) fn tell(&mut self, key: SessionKey, write: impl FnOnce(&mut Vec<u8>)) {
        let mut frame = core::mem::take(&mut self.scratch);
        frame.clear();
        write(&mut frame);
        self.push_control(key, &frame);
        self.scratch = frame;
    }

    fn push_control(&mut self, key: SessionKey, frame: &[u8]) {
        let Some((session, account)) = self.session_and_account(key) else { return };
        if session.is_deaf {
            return;
        }
        let answers_before = session.outbox.control_bytes();
        session.outbox.push_copy(&[frame], FrameKind::Control, account);
        let answer_bytes = session.outbox.control_bytes() - answers_before;
        self.answers.charge(answer_bytes);
        self.mark_dirty(key);
    }

    pub(crate) fn tell_error(
        &mut self,
        key: SessionKey,
        code: ErrorCode,
        detail: Detail<'_>,
        id: Option<Raw<'_>>,
    ) {
        self.tell(key, |out| control::error(out, code, detail, id));
    }

    /// Tells the peer what it did wrong, and closes.
    pub(crate) fn refuse(
        &mut self,
        key: SessionKey,
        code: ErrorCode,
        what: &str,
        id: Option<Raw<'_>>,
    ) {
        self.refuse_for(CloseReason::Refused, key, code, what, id);
    }

    pub(crate) fn refuse_for(
        &mut self,
        reason: CloseReason,
        key: SessionKey,
        code: ErrorCode,
        what: &str,
        id: Option<Raw<'_>>,
    ) {
        if self.session(key).is_none() {
            return;
        }
        self.tell_error(key, code, Detail::Text(what), id);
        self.log_of(key, |peer| Event::Misbehaved { peer, what: format!("{code}: {what}") });
        self.forget_intake(key);
        self.finish(key, reason);
    }

    /// Whether a question is to wait until the peer has read the answers that it has: so it is when
    /// all peers together have left too many unread.
    pub(crate) fn answers_wait_for_answers(&mut self, key: SessionKey) -> bool {
        let too_many = self.answers.is_full();
        let Some(session) = self.session_mut(key) else { return false };
        let waits = too_many && session.outbox.control_bytes() > 0 && !session.is_deaf;
        session.holds.unread_answers |= waits;
        if waits {
            self.stop_frame_clock(key);
        }
        waits
    }

    pub(crate) fn hold_if_answers_pile_up(&mut self, key: SessionKey) -> Next {
        let max = self.config.answer_bytes_max;
        match self.session_mut(key) {
            // Nobody will ever read what a deaf peer is not told.
            Some(session) if session.outbox.control_bytes() > max && !session.is_deaf => {
                session.holds.unread_answers = true;
                self.stop_frame_clock(key);
                Next::TakenThenHold
            }
            _ => Next::Taken,
        }
    }

    /// Lets the driver go on with a session, if nothing else holds it.
    pub(crate) fn resume(&mut self, key: SessionKey) {
        let now = self.now.moment;
        let Some(session) = self.session_mut(key) else { return };
        if session.holds.any() || !session.is_open() {
            return;
        }
        session.last_heard = now;
        self.restart_frame_clock(key);
        self.effects.push(Effect::Resume(key));
    }

    pub(crate) fn log(&mut self, event: Event) {
        self.effects.push(Effect::Log(event));
    }

    /// Logs what the peer of a session has done.
    pub(crate) fn log_of(&mut self, key: SessionKey, event: impl FnOnce(Peer) -> Event) {
        if let Some(peer) = self.session(key).map(Peer::of) {
            self.log(event(peer));
        }
    }

    // ---- timers of one session ------------------------------------------------------------------------

    fn check_heartbeat(&mut self, key: SessionKey) {
        let now = self.now.moment;
        let heartbeat = self.config.heartbeat;
        let Some(session) = self.session(key).filter(|session| session.is_open()) else { return };
        let silent_until = session.last_heard.after(heartbeat);
        if session.holds.intake || session.holds.pace {
            // The bus itself does not listen, through no fault of the peer: that is no silence.
            self.timers.set(now.after(heartbeat), Timer::Heartbeat(key));
        } else if silent_until > now {
            self.timers.set(silent_until, Timer::Heartbeat(key));
        } else {
            self.counters.timeout_heartbeat += 1;
            self.log_of(key, |peer| Event::Silent { peer });
            self.end_with_a_word(key, CloseReason::Heartbeat);
        }
    }

    fn check_impatient(&mut self, key: SessionKey) {
        let now = self.now.moment;
        let Some(session) = self.session(key).filter(|session| session.is_open()) else { return };
        let quiet_until = session.last_told.after(PONG_INTERVAL);
        let has_more_to_read = !session.outbox.is_empty();
        if quiet_until > now {
            self.timers.set(quiet_until, Timer::Pong(key));
            return;
        }
        if !has_more_to_read {
            self.counters.impatient_pongs += 1;
            self.tell(key, control::pong);
        }
        self.timers.set(now.after(PONG_INTERVAL), Timer::Pong(key));
    }

    fn check_drain(&mut self, key: SessionKey) {
        let now = self.now.moment;
        if let Some(session) = self.session(key)
            && let Phase::Draining { until, .. } = session.phase
            && until <= now
        {
            self.counters.timeout_drain += 1;
            self.log_of(key, |peer| Event::LeftUnread { peer });
            self.end_session(key, CloseReason::DrainTimeout);
        }
    }

    fn uncork(&mut self, key: SessionKey) {
        if let Some(session) = self.session_mut(key)
            && session.corked_until.take().is_some()
        {
            self.mark_dirty(key);
        }
    }
}

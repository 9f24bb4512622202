//! What becomes of a message, and who is to hear of it.
//!
//! A [`Fate`] goes with a message for one target. Whoever moves the message on says how far it has
//! come ([`Router::reached`]) or that it has failed ([`Router::failed`]); what that means for the
//! sender's receipt, for repetitions of the message and for its trace is decided here, and told once.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::rc::Rc;
use alloc::string::String;
use core::cell::Cell;

use hermes_bus_proto::control::{self, Detail, Further, Receipt, Status, Targets};
use hermes_bus_proto::listing::Level;
use hermes_bus_proto::{EndpointName, ErrorCode, Raw};

use crate::endpoint::EndpointKey;
use crate::ledger::UserKey;
use crate::repetitions::{RepetitionKey, Repetitions};
use crate::router::Router;
use crate::session::SessionKey;
use crate::time::Moment;
use crate::timers::Timer;
use crate::trace::{TraceRef, TraceState};

/// What the receipts may take that one connection waits for, in bytes.
pub(crate) const RECEIPT_BYTES_MAX: usize = 16 * 1024 * 1024;
/// The same for all connections of one user, and for all.
pub(crate) const RECEIPT_BYTES_USER_MAX: usize = 96 * 1024 * 1024;
/// See [`RECEIPT_BYTES_USER_MAX`].
pub(crate) const RECEIPT_BYTES_TOTAL_MAX: usize = 128 * 1024 * 1024;
/// Bookkeeping of one receipt that is waited for, in bytes: it counts beside the message's id.
const RECEIPT_OVERHEAD_BYTES: usize = 128;

/// The receipts that a session waits for.
#[derive(Default)]
pub(crate) struct Receipts {
    pub(crate) waiting: usize,
    /// What they take, charged to the session's user.
    pub(crate) bytes: usize,
    /// Whether the session has ended, for those who hold them.
    is_over: Option<Rc<Cell<bool>>>,
}

impl Receipts {
    fn begin(&mut self, bytes: usize) -> Rc<Cell<bool>> {
        self.waiting += 1;
        self.bytes += bytes;
        Rc::clone(self.is_over.get_or_insert_default())
    }
}

/// What a receipt takes for a message with this id, in bytes.
fn receipt_bytes(id: &[u8]) -> usize {
    id.len() + RECEIPT_OVERHEAD_BYTES
}

/// A receipt that a sender waits for.
pub(crate) struct Promise {
    sender: SessionKey,
    /// Whether that session has ended: nobody waits any more.
    is_over: Rc<Cell<bool>>,
    /// The message's id as JSON.
    id: Box<[u8]>,
    wanted: Status,
    /// Whether it has been told, or never will be.
    is_settled: Cell<bool>,
    /// Where the message has several targets and one receipt.
    tally: Option<Rc<Tally>>,
}

/// The receipt of a broadcast or topic: one for all targets.
pub(crate) struct Tally {
    sender: SessionKey,
    /// Whether that session has ended.
    is_over: Rc<Cell<bool>>,
    /// Where it waits.
    place: TallyPlace,
    id: Box<[u8]>,
    wanted: Status,
    endpoints: usize,
    reached: Cell<usize>,
    failed: Cell<usize>,
    is_told: Cell<bool>,
}

/// What goes with a message for one target.
#[derive(Clone, Default)]
pub(crate) struct Fate {
    pub(crate) promise: Option<Rc<Promise>>,
    /// Where it is known by its id, for the case that it is sent again.
    pub(crate) repetition: Option<RepetitionKey>,
    pub(crate) trace: TraceRef,
}

impl Fate {
    /// Whether anybody waits to hear of it.
    pub(crate) fn is_awaited(&self) -> bool {
        self.promise.as_ref().is_some_and(|promise| promise.is_awaited())
    }

    /// Whether anybody waits to hear of it, or may still send the message again.
    pub(crate) fn is_wanted(&self, repetitions: &Repetitions<Rc<Promise>>) -> bool {
        self.is_awaited() || self.repetition.is_some_and(|key| repetitions.has(key))
    }

    /// The receipt that its sender has asked for.
    pub(crate) fn wanted(&self) -> Option<Status> {
        self.promise.as_ref().map(|promise| promise.wanted)
    }
}

/// Why a message will not come further.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    pub(crate) code: ErrorCode,
    pub(crate) detail: String,
}

impl Failure {
    pub(crate) fn new(code: ErrorCode, detail: impl Into<String>) -> Self {
        Failure { code, detail: detail.into() }
    }

    /// The receiver had it, and that is all that there will be to hear.
    pub(crate) fn unackable() -> Self {
        Failure::new(ErrorCode::ReceiptImpossible, "the receiver does not acknowledge")
    }
}

impl Promise {
    /// Whether somebody is still to be told.
    pub(crate) fn is_awaited(&self) -> bool {
        let is_told = self.tally.as_ref().is_some_and(|tally| tally.is_told.get());
        !self.is_settled.get() && !is_told && !self.is_over.get()
    }
}

/// Until when the receipt of a broadcast waits for its last target, and a number of its own.
type TallyPlace = (Moment, u64);

/// Receipts of broadcasts that still wait.
#[derive(Default)]
pub(crate) struct Tallies {
    waiting: BTreeMap<TallyPlace, Rc<Tally>>,
    last_number: u64,
}

impl Router {
    /// Says why a sender may not wait for one more receipt, if that is so.
    pub(crate) fn too_many_receipts(&self, sender: SessionKey, id: Raw<'_>) -> Option<Failure> {
        let session = self.session(sender)?;
        let (bytes, max) = (receipt_bytes(id.as_bytes()), self.config.receipts_waiting_max);
        let what = if session.receipts.waiting >= max {
            alloc::format!("{max} receipts are waited for already")
        } else if session.receipts.bytes + bytes > RECEIPT_BYTES_MAX {
            let used = session.receipts.bytes;
            alloc::format!("the receipts that are waited for take {used} bytes already")
        } else if !self.receipts.has_room_for(session.user, bytes) {
            let used = self.receipts.of_user(session.user).used();
            alloc::format!("the receipts that this user waits for take {used} bytes already")
        } else {
            return None;
        };
        Some(Failure::new(ErrorCode::OverLimit, what))
    }

    /// A sender waits for one more receipt.
    fn wait_for_receipt(&mut self, sender: SessionKey, id: &[u8]) -> Rc<Cell<bool>> {
        let bytes = receipt_bytes(id);
        let Some(session) = self.session_mut(sender) else { return Rc::new(Cell::new(true)) };
        let (user, is_over) = (session.user, session.receipts.begin(bytes));
        self.receipts.charge(user, bytes);
        is_over
    }

    fn stop_waiting_for_receipt(&mut self, sender: SessionKey, id: &[u8]) {
        let bytes = receipt_bytes(id);
        let Some(session) = self.session_mut(sender) else { return };
        session.receipts.waiting -= 1;
        session.receipts.bytes -= bytes;
        let user = session.user;
        self.receipts.refund(user, bytes);
    }

    /// A session has ended: nobody waits for its receipts any more. Who still holds them is looked
    /// through when they have added up, so that those who come and go pile up nothing.
    pub(crate) fn forget_receipts(&mut self, user: UserKey, receipts: Receipts) {
        let Receipts { bytes, is_over, .. } = receipts;
        self.receipts.refund(user, bytes);
        if let Some(is_over) = is_over {
            is_over.set(true);
        }
        self.orphaned_receipt_bytes += bytes;
        if self.orphaned_receipt_bytes < RECEIPT_BYTES_MAX {
            return;
        }
        self.orphaned_receipt_bytes = 0;
        self.tallies.waiting.retain(|_, tally| !tally.is_over.get());
        self.repetitions.retain_followers(|follower| follower.is_awaited());
        let Router { endpoints, repetitions, .. } = self;
        for (_, record) in endpoints {
            if let Some(backlog) = record.backlog.as_deref_mut() {
                backlog.promised.retain(|_, promised| promised.fate.is_wanted(repetitions));
            }
        }
    }

    /// A receipt that a sender has asked for, for one target. None if it waits for too many already.
    pub(crate) fn promise(
        &mut self,
        sender: SessionKey,
        id: Raw<'_>,
        wanted: Status,
    ) -> Result<Rc<Promise>, Failure> {
        if let Some(failure) = self.too_many_receipts(sender, id) {
            return Err(failure);
        }
        let (id, is_settled) = (id.as_bytes(), Cell::new(false));
        let is_over = self.wait_for_receipt(sender, id);
        let id = id.into();
        Ok(Rc::new(Promise { sender, is_over, id, wanted, is_settled, tally: None }))
    }

    /// The receipt of a message with several targets.
    pub(crate) fn tally(
        &mut self,
        sender: SessionKey,
        id: Raw<'_>,
        wanted: Status,
        endpoints: usize,
    ) -> Rc<Tally> {
        let until = self.now.moment.after(self.config.receipt_wait);
        self.tallies.last_number += 1;
        let place = (until, self.tallies.last_number);
        let tally = Rc::new(Tally {
            sender,
            is_over: self.wait_for_receipt(sender, id.as_bytes()),
            place,
            id: id.as_bytes().into(),
            wanted,
            endpoints,
            reached: Cell::new(0),
            failed: Cell::new(0),
            is_told: Cell::new(false),
        });
        if wanted == Status::Accepted || endpoints == 0 {
            tally.reached.set(endpoints);
            self.tell_tally(&tally);
        } else {
            self.tallies.waiting.insert(place, Rc::clone(&tally));
            self.timers.set(until, Timer::ReceiptWait);
        }
        tally
    }

    /// A message for one target has come so far.
    pub(crate) fn reached(&mut self, fate: &Fate, status: Status, to: EndpointKey) {
        let unix_us = self.now.unix_us;
        self.trace.note(fate.trace, trace_state(status), Some(to), unix_us);
        if let Some(repetition) = fate.repetition {
            for follower in self.repetitions.reached(repetition, status) {
                self.keep_promise(&follower, status, to);
            }
        }
        if let Some(promise) = &fate.promise {
            self.keep_promise(promise, status, to);
        }
    }

    /// Tells a sender, if this is what it waits for.
    pub(crate) fn keep_promise(&mut self, promise: &Rc<Promise>, status: Status, to: EndpointKey) {
        if status < promise.wanted || promise.is_settled.replace(true) {
            return;
        }
        if let Some(tally) = &promise.tally {
            tally.reached.set(tally.reached.get() + 1);
            return self.look_at_tally(tally);
        }
        let to = self.endpoints.get(to.0).map(|endpoint| endpoint.name.clone());
        self.tell_receipt(promise, status, to.as_ref());
    }

    /// A receipt without waiting: the message has come so far already.
    pub(crate) fn tell_receipt(
        &mut self,
        promise: &Promise,
        status: Status,
        to: Option<&EndpointName>,
    ) {
        promise.is_settled.set(true);
        self.counters.receipts += 1;
        self.stop_waiting_for_receipt(promise.sender, &promise.id);
        let receipt = Receipt { id: Raw::new(&promise.id), status, to, targets: None };
        self.tell(promise.sender, |out| control::receipt(out, &receipt));
    }

    /// A message for one target will not come further. Says whether anybody has heard of it.
    pub(crate) fn failed(
        &mut self,
        fate: &Fate,
        failure: &Failure,
        to: Option<EndpointKey>,
    ) -> bool {
        let unix_us = self.now.unix_us;
        let state = match failure.code {
            ErrorCode::Expired => TraceState::Expired,
            code => TraceState::Dropped(code),
        };
        if !self.trace.is_over(fate.trace) {
            self.trace.note(fate.trace, state, to, unix_us);
        }
        let mut is_told = false;
        if let Some(repetition) = fate.repetition {
            for follower in self.repetitions.failed(repetition) {
                is_told |= self.break_promise(&follower, failure, to, None);
            }
        }
        if let Some(promise) = &fate.promise {
            is_told |= self.break_promise(promise, failure, to, None);
        }
        is_told
    }

    /// Tells a sender that what it waits for will not be. `status` is how far the message has come.
    pub(crate) fn break_promise(
        &mut self,
        promise: &Rc<Promise>,
        failure: &Failure,
        to: Option<EndpointKey>,
        status: Option<Status>,
    ) -> bool {
        if promise.is_settled.replace(true) {
            return false;
        }
        if let Some(tally) = &promise.tally {
            tally.failed.set(tally.failed.get() + 1);
            self.look_at_tally(tally);
            return true;
        }
        self.stop_waiting_for_receipt(promise.sender, &promise.id);
        let sender = self.session(promise.sender);
        let is_there = sender.is_some_and(|session| !session.is_deaf);
        let is_level_2 = sender.is_some_and(|session| session.level == Level::Two);
        let name = to.and_then(|to| self.endpoints.get(to.0)).map(|to| to.name.clone());
        let further = match is_level_2 {
            true => Further { status, to: name.as_ref(), ..Further::default() },
            // Level 1 knows of no more.
            false => Further::default(),
        };
        let (code, detail) = (failure.code, Detail::Text(&failure.detail));
        let id = Some(Raw::new(&promise.id));
        self.tell(promise.sender, |out| control::error_2(out, code, detail, id, &further));
        is_there
    }

    fn look_at_tally(&mut self, tally: &Tally) {
        if tally.reached.get() + tally.failed.get() >= tally.endpoints {
            self.tell_tally(tally);
        }
    }

    fn tell_tally(&mut self, tally: &Tally) {
        if tally.is_told.replace(true) {
            return;
        }
        self.tallies.waiting.remove(&tally.place);
        self.stop_waiting_for_receipt(tally.sender, &tally.id);
        self.counters.receipts += 1;
        let failed = tally.endpoints - tally.reached.get();
        let has_reached = tally.reached.get() > 0;
        let status = if has_reached { tally.wanted } else { Status::Accepted };
        let targets = Some(Targets { endpoints: tally.endpoints, failed: Some(failed) });
        let receipt = Receipt { id: Raw::new(&tally.id), status, to: None, targets };
        self.tell(tally.sender, |out| control::receipt(out, &receipt));
    }

    /// Receipts of broadcasts whose last targets take too long: what is true is told.
    pub(crate) fn check_receipt_wait(&mut self) {
        let now = self.now.moment;
        while let Some(((until, _), tally)) = self.tallies.waiting.first_key_value() {
            if *until > now {
                return self.timers.set(*until, Timer::ReceiptWait);
            }
            let tally = Rc::clone(tally);
            self.tell_tally(&tally);
        }
    }
}

fn trace_state(status: Status) -> TraceState {
    match status {
        Status::Accepted => TraceState::Accepted,
        Status::Stored => TraceState::Stored,
        Status::Delivered => TraceState::Delivered,
        Status::Acked => TraceState::Acked,
    }
}

impl Tally {
    /// What one of its targets promises.
    pub(crate) fn promise(self: &Rc<Self>) -> Rc<Promise> {
        Rc::new(Promise {
            sender: self.sender,
            is_over: Rc::clone(&self.is_over),
            id: Box::default(),
            wanted: self.wanted,
            is_settled: Cell::new(false),
            tally: Some(Rc::clone(self)),
        })
    }
}

#[cfg(test)]
mod tests {
    use alloc::format;
    use alloc::string::ToString;

    use super::*;
    use crate::storage::{Answer, Ticket};
    use crate::{CloseReason, Config, Credentials, Effect, Now, Payload, Probed};

    const OWNER: u32 = 1_000;

    fn router(change: impl FnOnce(&mut Config)) -> Router {
        let mut config = Config { owner_uid: OWNER, ..Config::default() };
        change(&mut config);
        let mut router = Router::new(config, 7);
        router.begin_turn(Now { moment: Moment::from_micros(1), unix_us: 1 });
        router
    }

    fn connect(router: &mut Router) -> SessionKey {
        router.connected(Credentials { uid: OWNER, pid: 1 })
    }

    #[test]
    fn a_receipt_that_was_told_takes_no_memory() {
        let mut router = router(|_| {});
        let sender = connect(&mut router);
        let slow = router.tally(sender, Raw::new(b"\"slow\""), Status::Delivered, 1);
        for number in 0..1_000 {
            let id = number.to_string();
            let tally = router.tally(sender, Raw::new(id.as_bytes()), Status::Delivered, 1);
            assert_eq!(router.tallies.waiting.len(), 2);
            router.keep_promise(&tally.promise(), Status::Delivered, EndpointKey(0));
        }
        assert_eq!(router.tallies.waiting.len(), 1, "the slow one has its place");
        router.keep_promise(&slow.promise(), Status::Delivered, EndpointKey(0));
        assert_eq!((router.tallies.waiting.len(), router.usage().receipts), (0, 0));
    }

    #[test]
    fn the_receipts_of_senders_who_have_left_do_not_pile_up() {
        let mut router = router(|config| {
            config.store = true;
            config.mailboxes = (0..8).map(|number| format!("box-{number}")).collect();
        });
        let padding = "x".repeat(400);
        let mut most = 0;
        for round in 0..8 {
            let sender = connect(&mut router);
            for number in 0..10_000 {
                // Too long to be judged by: nothing but the receipt keeps it in memory.
                let message = format!(
                    r#"{{"type":"message","to":"box-{round}","id":"{round} {number}{padding}","receipt":"acked"}}"#
                );
                let _ = router.frame(sender, Payload::Borrowed(message.as_bytes()), Probed::No);
                let last = router.take_effects().iter().fold(None, |last, effect| match effect {
                    Effect::Store(ticket, _) => Some(*ticket),
                    _ => last,
                });
                router.storage(Answer::Stored(last.unwrap_or(Ticket(0))));
            }
            assert!(router.usage().receipts > 10_000 * padding.len());
            router.closed(sender, CloseReason::PeerClosed);
            assert_eq!(router.usage().receipts, 0, "nobody waits any more");
            let backlogs =
                router.endpoints.iter().filter_map(|(_, record)| record.backlog.as_ref());
            let held: usize = backlogs.map(|backlog| backlog.promised.len()).sum();
            most = most.max(held);
        }
        assert_eq!(router.counters().kept, 80_000);
        assert!(most < 45_000, "{most} are held for nobody");
    }
}

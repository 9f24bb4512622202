//! What becomes of a message, and who is to hear of it.
//!
//! A [`Fate`] goes with a message for one target. Whoever moves the message on says how far it has
//! come ([`Router::reached`]) or that it has failed ([`Router::failed`]); what that means for the
//! sender's receipt, for repetitions of the message and for its trace is decided here, and told once.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::rc::Rc;
use alloc::string::String;
use core::cell::Cell;

use hermes_bus_proto::control::{self, Detail, Further, Receipt, Status, Targets};
use hermes_bus_proto::listing::Level;
use hermes_bus_proto::{EndpointName, ErrorCode, Raw};

use crate::endpoint::EndpointKey;
use crate::repetitions::RepetitionKey;
use crate::router::Router;
use crate::session::SessionKey;
use crate::time::Moment;
use crate::timers::Timer;
use crate::trace::{TraceRef, TraceState};

/// A receipt that a sender waits for.
pub(crate) struct Promise {
    sender: SessionKey,
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
        self.promise.as_ref().is_some_and(|promise| !promise.is_settled.get())
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

/// Receipts of broadcasts that still wait, the one that began to wait first at the front.
pub(crate) type Tallies = VecDeque<(Moment, Rc<Tally>)>;

impl Router {
    /// A receipt that a sender has asked for, for one target. None if it waits for too many already.
    pub(crate) fn promise(
        &mut self,
        sender: SessionKey,
        id: Raw<'_>,
        wanted: Status,
    ) -> Result<Rc<Promise>, Failure> {
        let max = self.config.receipts_waiting_max;
        if let Some(session) = self.session_mut(sender) {
            if session.receipts_waiting >= max {
                let detail = alloc::format!("{max} receipts are waited for already");
                return Err(Failure::new(ErrorCode::OverLimit, detail));
            }
            session.receipts_waiting += 1;
        }
        let is_settled = Cell::new(false);
        Ok(Rc::new(Promise { sender, id: id.as_bytes().into(), wanted, is_settled, tally: None }))
    }

    /// The receipt of a message with several targets.
    pub(crate) fn tally(
        &mut self,
        sender: SessionKey,
        id: Raw<'_>,
        wanted: Status,
        endpoints: usize,
    ) -> Rc<Tally> {
        let tally = Rc::new(Tally {
            sender,
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
            let until = self.now.moment.after(self.config.receipt_wait);
            self.tallies.push_back((until, Rc::clone(&tally)));
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
        self.stop_waiting_for_receipt(promise.sender);
        let receipt = Receipt { id: Raw::new(&promise.id), status, to, targets: None };
        self.tell(promise.sender, |out| control::receipt(out, &receipt));
    }

    fn stop_waiting_for_receipt(&mut self, sender: SessionKey) {
        if let Some(session) = self.session_mut(sender) {
            session.receipts_waiting = session.receipts_waiting.saturating_sub(1);
        }
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
        self.stop_waiting_for_receipt(promise.sender);
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
        while let Some((until, tally)) = self.tallies.front() {
            if !tally.is_told.get() {
                if *until > now {
                    return self.timers.set(*until, Timer::ReceiptWait);
                }
                let tally = Rc::clone(tally);
                self.tell_tally(&tally);
            }
            self.tallies.pop_front();
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
            id: Box::default(),
            wanted: self.wanted,
            is_settled: Cell::new(false),
            tally: Some(Rc::clone(self)),
        })
    }
}

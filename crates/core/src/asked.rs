//! Messages that ask for more than to be routed, or go to an endpoint that acknowledges, has a mailbox
//! or a backlog.

use alloc::borrow::{Cow, ToOwned};
use alloc::boxed::Box;
use alloc::format;
use alloc::vec::Vec;
use core::cell::Cell;

use hermes_bus_proto::control::{self, Detail, Further, Receipt, Status};
use hermes_bus_proto::limits::{DEDUP_ID_BYTES_MAX, HOPS_MAX};
use hermes_bus_proto::{Ask, Destination, EndpointName, Envelope, ErrorCode};

use crate::backlog::{NoPlace, Place};
use crate::endpoint::{EndpointKey, EndpointState};
use crate::fate::{Failure, Fate};
use crate::parcel::Parcel;
use crate::repetitions::{Identity, RepetitionKey};
use crate::router::{Next, Router};
use crate::routing::{Admission, Outgoing};
use crate::storage::{self, Keep, Record};
use crate::tap::Outcome;
use crate::trace::TraceState;

/// Longest `id` of a message that a receipt is given for, in bytes of JSON: a copy of it is kept for as
/// long as the receipt is waited for, and no queue is charged for that.
pub(crate) const RECEIPT_ID_BYTES_MAX: usize = 1_024;

impl Router {
    /// What must be known before a message that asks for something is routed. Says what comes of it if
    /// it is not to be routed at all.
    #[cold]
    pub(crate) fn look_at_what_is_asked(
        &mut self,
        message: &Outgoing<'_>,
        destination: &Destination<'_>,
    ) -> Option<Next> {
        if message.ask.is_looping() {
            let hops = message.ask.hops;
            let what = format!("the message was passed on {hops} times, over {HOPS_MAX}: a loop");
            return Some(self.refuse_message(message, ErrorCode::HopsExceeded, &what));
        }
        if message.ask.receipt.is_some() && message.id.as_bytes().len() > RECEIPT_ID_BYTES_MAX {
            self.counters.refused_fields += 1;
            let what = format!(
                "field 'id': a receipt is given for ids of at most {RECEIPT_ID_BYTES_MAX} bytes"
            );
            return Some(self.refuse_message(message, ErrorCode::InvalidField, &what));
        }
        if message.ask.receipt.is_some()
            && let Some(failure) = self.too_many_receipts(message.sender, message.id)
        {
            return Some(self.refuse_message(message, failure.code, &failure.detail));
        }
        self.recognise_repetition(message, destination)
    }

    /// What a message of level 1 asks for. A receipt that cannot be given for its `id` is not asked for.
    #[cold]
    pub(crate) fn what_level_1_asks(envelope: &Envelope<'_>) -> Ask {
        let mut asking = envelope.asking;
        if envelope.id.is_some_and(|id| id.as_bytes().len() > RECEIPT_ID_BYTES_MAX) {
            asking.receipt = None;
        }
        Ask::lenient(&asking)
    }

    /// A message that was sent before is not delivered again: its sender hears what has become of the
    /// first one.
    fn recognise_repetition(
        &mut self,
        message: &Outgoing<'_>,
        destination: &Destination<'_>,
    ) -> Option<Next> {
        let names = self.identity_of(message, destination)?;
        let first = self.repetitions.seen(&names.identity())?;
        let (status, is_unackable) = (first.status(), first.is_unackable());
        self.accept(message);
        self.counters.repeated += 1;
        let unix_us = self.now.unix_us;
        self.trace.note(message.provenance.trace, TraceState::Repeated, None, unix_us);
        if let Some(wanted) = message.ask.receipt {
            if status >= wanted {
                self.tell_state(message, destination, status);
            } else if let Ok(promise) = self.promise(message.sender, message.id, wanted) {
                if is_unackable && wanted == Status::Acked {
                    let status = Some(Status::Delivered);
                    self.break_promise(&promise, &Failure::unackable(), None, status);
                } else if let Some(entry) = self.repetitions.seen(&names.identity()) {
                    entry.follow(wanted, promise);
                }
            }
        }
        Some(self.hold_if_answers_pile_up(message.sender))
    }

    /// Tells the sender at once how far its message has come. Which member of a group it was that took
    /// it is not remembered.
    fn tell_state(
        &mut self,
        message: &Outgoing<'_>,
        destination: &Destination<'_>,
        status: Status,
    ) {
        self.counters.receipts += 1;
        let to = match destination {
            Destination::Endpoint(name) if !name.starts_with('@') => {
                EndpointName::level_1(name).ok()
            }
            _ => None,
        };
        let receipt = Receipt { id: message.id, status, to: to.as_ref(), targets: None };
        self.tell(message.sender, |out| control::receipt(out, &receipt));
    }

    /// What a message is recognised by, if it is to be.
    fn identity_of<'a>(
        &self,
        message: &Outgoing<'a>,
        destination: &'a Destination<'_>,
    ) -> Option<Names<'a>> {
        let id = message.envelope.id?.text().ok().filter(|_| is_judged(&message.ask))?;
        if id.is_empty() || id.len() > DEDUP_ID_BYTES_MAX {
            return None;
        }
        // What is for many is never judged: its targets are others every time.
        let Destination::Endpoint(to) = destination else { return None };
        if to.starts_with('#') {
            return None;
        }
        let session = self.session(message.sender)?;
        let registered = session.registration().map(|registration| registration.name.clone());
        let from = Names::from(registered.as_ref(), message.envelope);
        Some(Names { uid: session.credentials.uid, registered, from, to, id })
    }

    /// A message that an earlier process has kept, if it is known by its id: whoever has sent it again
    /// since waits to hear of this one.
    pub(crate) fn repetition_of(&mut self, record: &Record) -> Option<RepetitionKey> {
        if record.seq >= self.seq_recovered {
            return None;
        }
        let sender = record.sender.as_ref()?;
        let envelope = Envelope::scan(&record.payload).ok()?;
        if !storage::is_judged(record.keep, record.wanted, &envelope) {
            return None;
        }
        let (to, id) = (envelope.to?.text().ok()?, envelope.id?.text().ok()?);
        let registered = sender.endpoint.clone();
        let from = Names::from(registered.as_ref(), &envelope);
        let names = Names { uid: sender.uid, registered, from, to: &to, id };
        Some(self.repetitions.seen(&names.identity())?.key())
    }

    /// The fate of a message for one target, from now on in the router's hands.
    pub(crate) fn fate_of(&mut self, message: &Outgoing<'_>) -> Fate {
        let trace = message.provenance.trace;
        if let Some(tally) = message.tally {
            return Fate { promise: Some(tally.promise()), repetition: None, trace };
        }
        let destination = Destination::of(message.envelope.to);
        let repetition = self.remember_identity(message, &destination);
        let promise = message.ask.receipt.and_then(|wanted| {
            // Whether it waits for too many was looked at before.
            self.promise(message.sender, message.id, wanted).ok()
        });
        Fate { promise, repetition, trace }
    }

    fn remember_identity(
        &mut self,
        message: &Outgoing<'_>,
        destination: &Destination<'_>,
    ) -> Option<RepetitionKey> {
        let names = self.identity_of(message, destination)?;
        let now = self.now.moment;
        Some(self.repetitions.begin(&names.identity(), now))
    }

    // ---- one endpoint -------------------------------------------------------------------------------

    /// A message for an endpoint whose messages are tracked, or that is to be queued for it.
    pub(crate) fn route_tracked(&mut self, message: &Outgoing<'_>, endpoint: EndpointKey) -> Next {
        let record = &self.endpoints[endpoint.0];
        let keep = self.why_keep(message, endpoint);
        let has_disk_only = record.backlog.as_ref().is_some_and(|b| b.disk_from.is_some());
        match &record.state {
            EndpointState::Held(_) => {}
            EndpointState::Lingering(_) if keep.is_none() && !has_disk_only => {
                return self.deliver_later(message, endpoint);
            }
            EndpointState::Lingering(_) => {}
            EndpointState::Away if keep.is_none() => return self.not_found(message),
            EndpointState::Away => {}
        }
        let place = match self.place_for(endpoint, message.payload_bytes(), keep) {
            Ok(place) => place,
            Err(NoPlace::NoRoom) => return self.no_room(message, endpoint),
            Err(NoPlace::DiskIsBehind) => {
                self.wait_for_disk(message.sender);
                return Next::Hold;
            }
            Err(NoPlace::Refused(failure)) => {
                return self.no_place_on_disk(message, endpoint, &failure);
            }
        };
        self.accept(message);
        let outcome = match place {
            Place::Memory { .. } => Outcome::Accepted,
            Place::Disk(_) => Outcome::Held,
        };
        self.tap(message, outcome);
        let fate = self.fate_of(message);
        if message.has_waiter() {
            self.first_message_is_due(message, Vec::new, None);
        }
        self.reached(&fate, Status::Accepted, endpoint);
        let parcel = self.parcel_of(message, endpoint, fate);
        self.take_in(endpoint, parcel, place);
        self.hold_if_answers_pile_up(message.sender)
    }

    /// Why a message for this endpoint is to survive.
    fn why_keep(&self, message: &Outgoing<'_>, endpoint: EndpointKey) -> Option<Keep> {
        if self.endpoints[endpoint.0].mailbox {
            // Without a disk a mailbox is of no use to those who are there.
            let is_off = !self.config.store && !message.ask.queue;
            return (!is_off).then_some(Keep::Mailbox);
        }
        message.ask.queue.then_some(Keep::Queued)
    }

    pub(crate) fn parcel_of(
        &mut self,
        message: &Outgoing<'_>,
        endpoint: EndpointKey,
        fate: Fate,
    ) -> Parcel {
        let now = self.now;
        let has_mailbox = self.endpoints[endpoint.0].mailbox;
        let asks = message.ask.queue || message.ask.receipt.is_some();
        Parcel {
            seq: self.next_seq(),
            payload: message.payload(),
            sender: self.sender_of(message.sender),
            via: message.via.map(Box::from),
            arrived: now.moment,
            arrived_unix_us: self.bus_time(now.moment),
            deadline: message.ask.ttl.map(|ttl| now.moment.after(ttl)),
            deliveries: 0,
            kept: None,
            fate,
            waiter: message.provenance.waiter,
            is_mourned: asks || has_mailbox,
            id_hash: Cell::default(),
        }
    }

    /// Whether a message that does not fit into its receiver's queue may go to the disk instead.
    pub(crate) fn may_spill(&self, endpoint: EndpointKey, message: &Outgoing<'_>) -> bool {
        self.config.store
            && matches!(
                self.place_for(endpoint, message.payload_bytes(), None),
                Ok(Place::Disk(_) | Place::Memory { .. }) | Err(NoPlace::DiskIsBehind)
            )
    }

    /// The receiver has no room: its sender waits, or the receiver has stalled. One that has room for it
    /// in memory only, behind what is on disk and may not become more, is not waited for: what it reads
    /// now makes no room for this message.
    fn no_room(&mut self, message: &Outgoing<'_>, endpoint: EndpointKey) -> Next {
        let Some(holder) = self.endpoints[endpoint.0].holder() else {
            let what = "more waits for the endpoint than can be held until it is back";
            self.count_lost(message, endpoint);
            return self.refuse_message(message, ErrorCode::OverLimit, what);
        };
        match self.admission(message.sender, holder, message.needs_bytes()) {
            Admission::Drop | Admission::Yes => self.drop_for_stalled(message, holder),
            Admission::Wait => self.wait_for(message, holder),
        }
    }

    fn count_lost(&mut self, message: &Outgoing<'_>, endpoint: EndpointKey) {
        if !message.is_answered() {
            self.counters.dropped_held_overflow += 1;
            let name = self.endpoints[endpoint.0].name.clone();
            self.log(crate::Event::HeldOverflow { name, messages: 1 });
        }
    }

    /// The disk does not take a message that must be kept.
    fn no_place_on_disk(
        &mut self,
        message: &Outgoing<'_>,
        endpoint: EndpointKey,
        failure: &Failure,
    ) -> Next {
        match failure.code {
            ErrorCode::MailboxFull => self.counters.refused_mailbox_full += 1,
            _ => self.counters.refused_store_unavailable += 1,
        }
        let name = self.endpoints[endpoint.0].name.clone();
        self.log(crate::Event::NotKept { name, code: failure.code });
        if failure.code == ErrorCode::MailboxFull {
            self.bury_refused(message, endpoint, failure);
        }
        let next = self.refuse_message(message, failure.code, &failure.detail);
        self.forget_backlog_if_empty(endpoint);
        next
    }

    /// A message that its endpoint's mailbox has no room for is a dead letter.
    pub(crate) fn bury_refused(
        &mut self,
        message: &Outgoing<'_>,
        endpoint: EndpointKey,
        failure: &Failure,
    ) {
        let trace = message.provenance.trace;
        let fate = Fate { trace, ..Fate::default() };
        let parcel = self.parcel_of(message, endpoint, fate);
        self.bury(endpoint, &parcel, failure);
    }

    /// A message for a name that is not there: it is queued if that is asked for and the name is known.
    pub(crate) fn route_to_absent(&mut self, message: &Outgoing<'_>, name: &str) -> Next {
        let unix_us = self.bus_time(self.now.moment);
        let is_configured = self.has_configured_mailbox(name);
        let known = self.known.of(name, unix_us);
        let may_wait = is_configured || message.ask.queue && known.is_some();
        let Some(name) = EndpointName::level_1(name).ok().filter(|_| may_wait) else {
            return self.not_known(message);
        };
        let endpoint = self.away_endpoint(&name, known.map(|known| known.uid));
        self.endpoints[endpoint.0].mailbox = is_configured;
        let next = self.route_tracked(message, endpoint);
        self.forget_if_idle(endpoint);
        next
    }

    /// Whether the configuration gives an endpoint a mailbox.
    pub(crate) fn has_configured_mailbox(&self, name: &str) -> bool {
        self.config.mailboxes.iter().any(|configured| configured == name)
    }

    /// Nobody here has the name, or is in the group. Who is known stands on disk: without one, a message
    /// that is to be queued is not refused for a name that may well be known.
    pub(crate) fn not_known(&mut self, message: &Outgoing<'_>) -> Next {
        let why = self.store_trouble().filter(|_| message.ask.queue && !self.config.store);
        let Some(why) = why.map(ToOwned::to_owned) else { return self.not_found(message) };
        self.counters.refused_store_unavailable += 1;
        self.refuse_message(message, ErrorCode::StoreUnavailable, &why)
    }

    /// Tells a sender that its message is refused, if it hears of such things.
    pub(crate) fn refuse_message(
        &mut self,
        message: &Outgoing<'_>,
        code: ErrorCode,
        what: &str,
    ) -> Next {
        let key = message.sender;
        self.take_note_of_frame(key);
        let (trace, unix_us) = (message.provenance.trace, self.now.unix_us);
        self.trace.note(trace, TraceState::Refused(code), None, unix_us);
        self.end_courtesy(key);
        self.counters.refused_messages += 1;
        if message.is_answered() {
            let detail = Detail::Text(what);
            let further = Further::default();
            self.tell(key, |out| control::error_2(out, code, detail, Some(message.id), &further));
        }
        self.hold_if_answers_pile_up(key)
    }

    pub(crate) fn refuse_queue_for_many(&mut self, message: &Outgoing<'_>) -> Next {
        self.counters.refused_fields += 1;
        let what = "field 'queue': only a message for one endpoint or a group can be queued";
        self.refuse_message(message, ErrorCode::InvalidField, what)
    }
}

/// Whether a message is judged by its id if it is sent again. Who wants it stored wants it queued, too.
pub(crate) fn is_judged(ask: &Ask) -> bool {
    ask.queue || ask.receipt == Some(Status::Acked)
}

/// What a message is recognised by, mostly where it stands: every message that asks for something is
/// looked for.
struct Names<'a> {
    uid: u32,
    registered: Option<EndpointName>,
    /// What it says itself, if its sender is not registered.
    from: Option<Cow<'a, str>>,
    to: &'a str,
    id: Cow<'a, str>,
}

impl<'a> Names<'a> {
    /// What counts of the `from` of a message: nothing, if its sender has registered a name.
    fn from(registered: Option<&EndpointName>, envelope: &Envelope<'a>) -> Option<Cow<'a, str>> {
        match registered {
            Some(_) => None,
            None => envelope.from?.text().ok(),
        }
    }

    fn identity(&self) -> Identity<'_> {
        let registered = self.registered.as_ref().map(EndpointName::as_str);
        let from = registered.or(self.from.as_deref());
        Identity { uid: self.uid, from, to: self.to, id: &self.id }
    }
}

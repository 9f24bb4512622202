//! The router's side of the disk: what was ordered, what has been answered, and what is in the way.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;
use core::time::Duration;

use hermes_bus_proto::control::Status;
use hermes_bus_proto::{EndpointName, ErrorCode};

use crate::endpoint::{EndpointKey, EndpointState};
use crate::fate::{Failure, Fate};
use crate::parcel::Parcel;
use crate::router::Router;
use crate::session::SessionKey;
use crate::storage::{
    Answer, DeadLetter, Ending, Keep, Order, RECORD_OVERHEAD_BYTES, Record, Recovered, Remembered,
    Ticket, Waiting,
};
use crate::time::Moment;
use crate::timers::Timer;
use crate::trace::TraceState;
use crate::{Effect, Event};

/// Expired messages that are read from disk at a time.
const OVERDUE_MESSAGES: usize = 1_024;
/// How often messages on disk are looked through for expired ones, if nobody waits to hear of one.
const SWEEP_EVERY: Duration = Duration::from_secs(60);
/// Dead letters on their way to the disk, in bytes: further ones are lost, counted and logged.
const BURYING_BYTES_MAX: usize = 16 * 1024 * 1024;
/// What is said of a disk that does nothing for too long.
const DISK_STALLED: &str = "the disk takes nothing more for now";
/// Messages released with one order.
const RELEASED_AT_A_TIME: usize = 4_096;

/// A message on its way to the disk.
pub(crate) struct Keeping {
    ticket: Ticket,
    endpoint: EndpointKey,
    seq: u64,
    load_bytes: u64,
    why: Keep,
    fate: Fate,
    /// It is not wanted any more.
    is_released: bool,
}

/// What is on its way, oldest first.
pub(crate) type Keepings = VecDeque<Keeping>;

impl Router {
    // ---- orders -------------------------------------------------------------------------------------

    pub(crate) fn order(&mut self, order: Order) -> Ticket {
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        self.effects.push(Effect::Store(ticket, order));
        ticket
    }

    /// Has a message kept; what becomes of it on the way is told to its fate.
    pub(crate) fn order_kept(
        &mut self,
        endpoint: EndpointKey,
        record: Record,
        fate: Fate,
    ) -> Ticket {
        let (seq, load_bytes, why) = (record.seq, record.load_bytes(), record.keep);
        let ticket = self.order(Order::Keep(Box::new(record)));
        self.keeping_bytes += load_bytes as usize;
        let is_released = false;
        self.keeping.push_back(Keeping {
            ticket,
            endpoint,
            seq,
            load_bytes,
            why,
            fate,
            is_released,
        });
        ticket
    }

    /// Has a message released, together with those before it that end the same way in this turn.
    pub(crate) fn order_release(&mut self, endpoint: EndpointName, seq: u64, ending: Ending) {
        if let Some(Effect::Store(_, Order::Release { endpoint: last, seqs, ending: same })) =
            self.effects.last_mut()
            && (&*last, *same) == (&endpoint, ending)
            && seqs.len() < RELEASED_AT_A_TIME
            && seqs.last().is_some_and(|last| *last < seq)
        {
            return seqs.push(seq);
        }
        self.order(Order::Release { endpoint, seqs: alloc::vec![seq], ending });
    }

    /// A message that is kept, or on its way, is another endpoint's from now on.
    pub(crate) fn move_kept(
        &mut self,
        from: EndpointKey,
        to: EndpointKey,
        old_seq: u64,
        parcel: &Parcel,
    ) {
        let Some(kept) = parcel.kept else { return };
        let load = parcel.payload.len() as u64 + RECORD_OVERHEAD_BYTES;
        self.forget_kept(from, kept.why, load);
        self.count_kept(to, kept.why, load, parcel.arrived_unix_us);
        let place = self.keeping.binary_search_by_key(&kept.ticket, |keeping| keeping.ticket);
        if let Ok(place) = place {
            let keeping = &mut self.keeping[place];
            (keeping.endpoint, keeping.seq) = (to, parcel.seq);
        }
        let ticket = self.order(Order::Move {
            endpoint: self.endpoints[from.0].name.clone(),
            seq: old_seq,
            to: self.endpoints[to.0].name.clone(),
            new_seq: parcel.seq,
        });
        self.backlog_or_new(from).has_left(old_seq, ticket);
        if let Some(repetition) = parcel.fate.repetition {
            self.repetitions.moved(repetition, &self.endpoints[to.0].name);
        }
    }

    /// Nobody waits any more for what was on its way with this ticket.
    pub(crate) fn forget_keeping(&mut self, ticket: Ticket) {
        if let Ok(place) = self.keeping.binary_search_by_key(&ticket, |keeping| keeping.ticket) {
            let keeping = &mut self.keeping[place];
            keeping.is_released = true;
            keeping.fate = Fate::default();
        }
    }

    /// Nobody waits any more for those of an endpoint that are on their way, as far as they are meant.
    pub(crate) fn forget_keepings(
        &mut self,
        endpoint: EndpointKey,
        is_meant: impl Fn(u64, Keep) -> bool,
    ) {
        for keeping in &mut self.keeping {
            if keeping.endpoint == endpoint && is_meant(keeping.seq, keeping.why) {
                keeping.is_released = true;
                keeping.fate = Fate::default();
            }
        }
    }

    pub(crate) fn bury(&mut self, endpoint: EndpointKey, parcel: &Parcel, failure: &Failure) {
        if !self.config.store {
            return;
        }
        // In trouble it is written as soon as that is over, but not more than there is room for.
        let bytes = parcel.load_bytes();
        let on_their_way = self.burying_bytes;
        if on_their_way > 0 && on_their_way + bytes > BURYING_BYTES_MAX {
            self.counters.dropped_store_failed += 1;
            return self.log(Event::StoreLost { messages: 1 });
        }
        self.counters.dead_letters += 1;
        let (trace, unix_us) = (parcel.fate.trace, self.now.unix_us);
        self.trace.note(trace, TraceState::Dead(failure.code), Some(endpoint), unix_us);
        let name = self.endpoints[endpoint.0].name.clone();
        let keep = parcel.kept.map_or(Keep::Queued, |kept| kept.why);
        let record = parcel.record(&name, keep, |moment| self.bus_time(moment));
        let letter = DeadLetter {
            record,
            reason: failure.code,
            detail: failure.detail.clone(),
            died_unix_us: self.bus_time(self.now.moment),
        };
        let ticket = self.order(Order::Bury(Box::new(letter)));
        self.burying.push_back((ticket, bytes));
        self.burying_bytes += bytes;
    }

    /// Why nothing can be kept on disk now.
    pub(crate) fn store_trouble(&self) -> Option<&str> {
        if !self.config.store {
            return Some("the bus keeps nothing on disk");
        }
        self.trouble.as_deref().or(self.disk_is_stalled.then_some(DISK_STALLED))
    }

    /// Whether so much is on its way to the disk that a message has to wait.
    pub(crate) fn disk_is_behind(&self, payload_bytes: usize) -> bool {
        let on_its_way = self.keeping_bytes;
        on_its_way > 0 && on_its_way + payload_bytes > self.config.store_pending_bytes_max
    }

    /// Whether so much of what endpoints hold is on its way to the disk that who changes more has to wait.
    pub(crate) fn remembers_too_much(&self) -> bool {
        self.remembering_bytes > self.config.store_pending_bytes_max
    }

    // ---- answers --------------------------------------------------------------------------------------

    /// Whoever keeps things on disk has something to say.
    pub fn storage(&mut self, answer: Answer) {
        match answer {
            Answer::Stored(ticket) => self.were_stored(ticket),
            Answer::Refused { tickets, why } => self.were_refused(&tickets, &why),
            Answer::Loaded { endpoint, records, is_all } => {
                if let Some(endpoint) = self.names.get(endpoint.as_str()).copied() {
                    self.loaded(endpoint, records, is_all);
                }
            }
            Answer::Overdue(records) => self.overdue(records),
            Answer::Buried(messages) => self.counters.dead_letters += messages,
            Answer::Trouble(why) => {
                let event = match &why {
                    Some(why) => Event::StoreTrouble { why: why.clone() },
                    None => Event::StoreWorksAgain,
                };
                self.log(event);
                self.trouble = why;
                self.let_those_go_on_who_wait_for_disk();
            }
        }
    }

    fn were_stored(&mut self, ticket: Ticket) {
        while let Some((_, bytes)) = self.burying.front().filter(|(buried, _)| *buried <= ticket) {
            self.burying_bytes -= bytes;
            self.burying.pop_front();
        }
        while let Some((_, bytes)) = self.remembering.front().filter(|(at, _)| *at <= ticket) {
            self.remembering_bytes -= bytes;
            self.remembering.pop_front();
        }
        while let Some(first) = self.keeping.front()
            && first.ticket <= ticket
            && let Some(keeping) = self.keeping.pop_front()
        {
            self.keeping_bytes -= keeping.load_bytes as usize;
            if !keeping.is_released {
                self.counters.stored += 1;
                // What is only spilled does not survive: nobody may take it for stored.
                if keeping.why != Keep::Spill {
                    self.reached(&keeping.fate, Status::Stored, keeping.endpoint);
                }
                let is_told = keeping.fate.promise.is_some() && !keeping.fate.is_awaited();
                if let Some(backlog) = self.backlog(keeping.endpoint).filter(|_| is_told) {
                    backlog.was_told(keeping.seq);
                }
            }
        }
        if self.keeping_bytes <= self.config.store_pending_bytes_max / 2 {
            self.let_those_go_on_who_wait_for_disk();
        }
    }

    fn were_refused(&mut self, tickets: &[Ticket], why: &str) {
        let mut lost = 0;
        for ticket in tickets {
            let Ok(place) = self.keeping.binary_search_by_key(ticket, |keeping| keeping.ticket)
            else {
                continue;
            };
            let Some(keeping) = self.keeping.remove(place) else { continue };
            self.keeping_bytes -= keeping.load_bytes as usize;
            if !keeping.is_released {
                lost += u64::from(self.was_refused(keeping, why));
            }
        }
        self.counters.dropped_store_failed += lost;
        if lost > 0 {
            self.log(Event::StoreLost { messages: lost });
        }
    }

    /// A message could not be written. As long as it is in memory it can still be delivered; else it is
    /// lost. Says whether that is so and nobody was told.
    fn was_refused(&mut self, keeping: Keeping, why: &str) -> bool {
        let Keeping { endpoint, seq, load_bytes, why: keep, fate, .. } = keeping;
        let Some(record) = self.endpoints.get(endpoint.0) else { return false };
        let holder = record.holder();
        let was_in_memory = self.is_not_kept_any_more(endpoint, holder, seq);
        self.forget_kept(endpoint, keep, load_bytes);
        if was_in_memory.is_some() {
            return false;
        }
        if let Some(backlog) = self.backlog(endpoint) {
            backlog.promised.remove(&seq);
        }
        let failure = Failure::new(ErrorCode::StoreUnavailable, why);
        let is_told = self.failed(&fate, &failure, Some(endpoint));
        self.counters.refused_store_unavailable += u64::from(is_told);
        self.forget_backlog_if_empty(endpoint);
        !is_told
    }

    /// Finds a message in memory and takes note that it is not on disk. Says why it was to be.
    fn is_not_kept_any_more(
        &mut self,
        endpoint: EndpointKey,
        holder: Option<SessionKey>,
        seq: u64,
    ) -> Option<Keep> {
        if let Some(backlog) = self.backlog(endpoint) {
            let paused = backlog.paused.values_mut().find(|parcel| parcel.seq == seq);
            if let Some(parcel) = backlog.waiting.get_mut(&seq).or(paused) {
                return parcel.kept.take().map(|kept| kept.why);
            }
        }
        let session = self.session_mut(holder?)?;
        if let Some(held) = session.acking.as_mut().and_then(|a| a.in_flight.get_mut(&seq)) {
            return held.parcel.kept.take().map(|kept| kept.why);
        }
        if let Some(handing) = session.handing.iter_mut().find(|handing| handing.seq == seq) {
            return handing.tracking.kept.take().map(|kept| kept.why);
        }
        let place = session.unread.iter().position(|unread| unread.seq == seq)?;
        session.unread.remove(place).map(|unread| unread.kept.why)
    }

    // ---- those who wait for the disk ------------------------------------------------------------------

    /// A sender's message waits until less is on its way to the disk.
    pub(crate) fn wait_for_disk(&mut self, key: SessionKey) {
        let until = self.now.moment.after(self.config.stall);
        self.counters.sender_waits += 1;
        self.stop_frame_clock(key);
        let Some(session) = self.session_mut(key) else { return };
        session.holds.disk = true;
        self.waiting_for_disk.push(key);
        self.timers.set(until, Timer::DiskStall);
    }

    pub(crate) fn let_those_go_on_who_wait_for_disk(&mut self) {
        self.timers.forget(Timer::DiskStall);
        for key in core::mem::take(&mut self.waiting_for_disk) {
            if let Some(session) = self.session_mut(key) {
                session.holds.disk = false;
                self.resume(key);
            }
        }
    }

    /// The disk has done nothing for too long: senders hear so instead of waiting on.
    pub(crate) fn check_disk_stall(&mut self) {
        if self.waiting_for_disk.is_empty() {
            return;
        }
        self.log(Event::StoreTrouble { why: DISK_STALLED.into() });
        self.disk_is_stalled = true;
        self.let_those_go_on_who_wait_for_disk();
        self.timers.set(self.now.moment.after(self.config.stall), Timer::DiskRecovery);
    }

    /// Whether the disk has caught up after it was too slow.
    pub(crate) fn check_disk_recovery(&mut self) {
        if self.keeping_bytes <= self.config.store_pending_bytes_max / 2 {
            self.disk_is_stalled = false;
            if self.trouble.is_none() {
                self.log(Event::StoreWorksAgain);
            }
        } else {
            self.timers.set(self.now.moment.after(self.config.stall), Timer::DiskRecovery);
        }
    }

    // ---- time to live on disk -------------------------------------------------------------------------

    /// The wall clock as it runs on from the router's beginning, whatever is done to it meanwhile.
    pub(crate) fn bus_time(&self, moment: Moment) -> u64 {
        let began = self.began.unwrap_or(self.now);
        began.unix_us + (moment.as_micros().saturating_sub(began.moment.as_micros()))
    }

    /// The moment of a time on the wall clock.
    pub(crate) fn moment_of(&self, unix_us: u64) -> Moment {
        let began = self.began.unwrap_or(self.now);
        let after_began = unix_us.saturating_sub(began.unix_us);
        Moment::from_micros(began.moment.as_micros().saturating_add(after_began))
    }

    /// Looks through the disk for expired messages at this moment.
    pub(crate) fn sweep_at(&mut self, moment: Moment) {
        self.timers.set(moment, Timer::Sweep);
    }

    pub(crate) fn sweep_later(&mut self) {
        self.timers.set(self.now.moment.after(SWEEP_EVERY), Timer::Sweep);
    }

    pub(crate) fn sweep(&mut self) {
        if !self.config.store || self.kept_bytes.total() == 0 {
            return;
        }
        // One at a time: what a second one finds may have been dealt with after the first.
        if self.sweeping.is_some() {
            self.sweep_again = true;
            return;
        }
        let unix_us = self.bus_time(self.now.moment);
        let order = Order::LoadOverdue { unix_us, messages_max: OVERDUE_MESSAGES };
        self.sweeping = Some(self.order(order));
        self.sweep_later();
    }

    fn overdue(&mut self, records: Vec<Record>) {
        let Some(ordered) = self.sweeping.take() else { return };
        let now = self.now.moment;
        let is_more = records.len() >= OVERDUE_MESSAGES;
        let mut is_again = core::mem::take(&mut self.sweep_again) || is_more;
        let mut found: Vec<(EndpointKey, Record)> = Vec::with_capacity(records.len());
        for record in records {
            let Some(endpoint) = self.names.get(record.endpoint.as_str()).copied() else {
                continue;
            };
            let Some(backlog) = self.backlog(endpoint) else { continue };
            // What is in memory, or in somebody's hands, has its own clock. What is just being read
            // will have it, too.
            let is_being_read = backlog.loading.is_some_and(|(from, _)| from <= record.seq);
            let is_on_disk_only = backlog.disk_from.is_some_and(|from| from <= record.seq)
                && !is_being_read
                && !backlog.waiting.contains_key(&record.seq)
                && !backlog.paused.values().any(|parcel| parcel.seq == record.seq);
            // It may have been let go of since this was read.
            let may_be_gone = backlog.released > ordered;
            is_again |= is_on_disk_only && may_be_gone;
            if is_on_disk_only && !may_be_gone {
                found.push((endpoint, record));
            }
        }
        for (endpoint, record) in found {
            let fate = self.backlog(endpoint).and_then(|backlog| backlog.take_promised(record.seq));
            let repetition = self.repetition_of(&record);
            let mut parcel = Parcel::from_record(record, Some(now), now);
            parcel.fate = fate.unwrap_or_else(|| Fate { repetition, ..Fate::default() });
            self.expire(endpoint, parcel);
            self.forget_backlog_if_empty(endpoint);
        }
        if is_again {
            self.sweep();
        }
    }

    // ---- over restarts --------------------------------------------------------------------------------

    /// The disk is not there yet, but may come later: messages are numbered from here on, behind all
    /// that it may hold. To be said before anybody connects.
    pub fn number_from(&mut self, seq: u64) {
        self.seq = self.seq.max(seq);
    }

    /// The next number that no message has had, for the process that follows this one.
    pub fn seq_next(&self) -> u64 {
        self.seq + 1
    }

    /// What an earlier process of the bus has left on disk. To be said before anybody connects, after
    /// the first [`Router::begin_turn`].
    pub fn recover(&mut self, recovered: Recovered) {
        let Recovered { seq_from, remembered, waiting, recent, .. } = recovered;
        self.seq = self.seq.max(seq_from.saturating_sub(1));
        self.seq_recovered = seq_from;
        let mut users = BTreeMap::new();
        for facts in remembered {
            users.insert(facts.endpoint.clone(), facts.uid);
            self.note_known(&facts.endpoint, facts.uid, facts.seen_unix_us);
            if facts.mailbox {
                let endpoint = self.away_endpoint(&facts.endpoint, Some(facts.uid));
                self.endpoints[endpoint.0].mailbox = true;
                self.endpoints[endpoint.0].remembered_mailbox = true;
                for group in &facts.groups {
                    self.groups.join(group, endpoint);
                }
                for topic in &facts.topics {
                    self.topics.subscribe(endpoint, topic);
                }
            }
        }
        for Waiting { endpoint: name, messages, load_bytes, first_seq, oldest_unix_us } in waiting {
            let endpoint = self.away_endpoint(&name, users.get(&name).copied());
            self.charge_disk(endpoint, load_bytes);
            let newest = self.seq;
            let backlog = self.backlog_or_new(endpoint);
            backlog.kept.messages = messages;
            backlog.kept.bytes = load_bytes;
            backlog.oldest_unix_us = Some(oldest_unix_us);
            backlog.leave_on_disk(first_seq);
            backlog.leave_on_disk(newest);
            self.load_ahead(endpoint);
        }
        self.give_configured_mailboxes();
        let recent = recent.into_iter().filter(|recent| !recent.to.starts_with('#'));
        self.repetitions.recover(recent, self.began.unwrap_or(self.now));
        self.sweep_later();
    }

    /// An endpoint without a session, which is there for what waits for it. `uid` is the user who
    /// registered it last, if anybody has.
    pub(crate) fn away_endpoint(&mut self, name: &EndpointName, uid: Option<u32>) -> EndpointKey {
        if let Some(known) = self.names.get(name.as_str()) {
            return *known;
        }
        let payer = uid.unwrap_or(self.config.owner_uid);
        let endpoint = self.insert_endpoint(name, payer, EndpointState::Away);
        self.endpoints[endpoint.0].is_unclaimed = uid.is_none();
        endpoint
    }

    /// Every endpoint that the configuration names has a mailbox from now on.
    pub(crate) fn give_configured_mailboxes(&mut self) {
        for name in &self.config.mailboxes {
            if let Some(endpoint) = self.names.get(name.as_str()) {
                self.endpoints[endpoint.0].mailbox = true;
            }
        }
    }

    fn note_known(&mut self, name: &EndpointName, uid: u32, unix_us: u64) {
        self.known.note(name, uid, unix_us);
        while let Some(forgotten) = self.known.forget_one_too_many() {
            self.forget_known(forgotten);
        }
    }

    /// Has an endpoint's name, and what it holds, remembered over restarts.
    pub(crate) fn remember(&mut self, endpoint: EndpointKey) {
        let seen_unix_us = self.bus_time(self.now.moment);
        let Some(record) = self.endpoints.get_mut(endpoint.0) else { return };
        record.remembered_mailbox = record.mailbox;
        let (name, uid, mailbox) = (record.name.clone(), record.uid, record.mailbox);
        self.note_known(&name, uid, seen_unix_us);
        if !self.config.store {
            return;
        }
        let list = |names: Vec<Box<str>>| if mailbox { names } else { Vec::new() };
        let groups = list(self.groups.of(endpoint).map(Box::from).collect());
        let topics = list(self.topics.of(endpoint).map(Box::from).collect());
        let bytes: usize = groups.iter().chain(&topics).map(|name| name.len() + 16).sum();
        let facts = Remembered { endpoint: name, uid, seen_unix_us, mailbox, groups, topics };
        let ticket = self.order(Order::Remember(Box::new(facts)));
        if bytes > 0 {
            self.remembering.push_back((ticket, bytes));
            self.remembering_bytes += bytes;
        }
    }
}

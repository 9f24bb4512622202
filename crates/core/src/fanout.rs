//! Messages to groups and topics, and the tracked ones among the receivers of a broadcast.

use alloc::borrow::ToOwned;
use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::ToString;
use alloc::vec::Vec;

use hermes_bus_proto::control::Status;
use hermes_bus_proto::{ErrorCode, topic};

use crate::Event;
use crate::acks::Handing;
use crate::backlog::{NoPlace, Place};
use crate::endpoint::{EndpointKey, EndpointState};
use crate::fate::Failure;
use crate::gaps::GapSource;
use crate::parcel::{Kept, Parcel};
use crate::router::{Next, Router};
use crate::routing::Outgoing;
use crate::session::SessionKey;
use crate::storage::{Ending, Keep};
use crate::tap::Outcome;
use crate::trace::TraceState;

/// Messages of groups that are dealt to other members, one after the other.
#[derive(Default)]
pub(crate) struct Dealings(BTreeMap<Box<str>, Dealing>);

/// The members of one group that are there.
struct Dealing {
    /// What each has to do, when it was its turn, and its place: the next one comes first.
    by_load: BTreeSet<(u64, usize, (usize, EndpointKey))>,
    /// So many turns there were.
    turns: usize,
}

impl Router {
    // ---- groups ---------------------------------------------------------------------------------

    /// A message for one member of a group.
    pub(crate) fn route_to_group(&mut self, message: &Outgoing<'_>, group: &str) -> Next {
        let via = format!("@{group}");
        let message = &message.through(Some(&via), None);
        let member = self
            .present_member(group, None)
            .or_else(|| self.absent_member(group, message.ask.queue));
        match member {
            Some(member) => self.route_to_endpoint(message, member),
            None => self.not_known(message),
        }
    }

    /// The member that is there and has the least to do.
    fn present_member(&mut self, group: &str, but: Option<EndpointKey>) -> Option<EndpointKey> {
        let loads: Vec<Option<u64>> = self
            .groups
            .members(group)
            .iter()
            .map(|member| self.load_of(*member).filter(|_| Some(*member) != but))
            .collect();
        self.groups.pick(group, &loads)
    }

    /// Messages that a present endpoint has not dealt with; none if it is away.
    pub(crate) fn load_of(&self, endpoint: EndpointKey) -> Option<u64> {
        let record = self.endpoints.get(endpoint.0)?;
        let session = self.session(record.holder()?).filter(|session| session.is_open())?;
        // What an acknowledging session holds, or has queued; or what is queued for any other one.
        let held = match &session.acking {
            Some(acking) => acking.in_flight.len(),
            None => session.outbox.messages() + session.unread.len(),
        };
        let backlog = record.backlog.as_deref();
        let waiting = backlog.map_or(0, |backlog| backlog.waiting.len() + backlog.paused.len());
        let on_disk = backlog.filter(|backlog| backlog.disk_from.is_some());
        Some((held + waiting) as u64 + on_disk.map_or(0, |backlog| backlog.kept.messages))
    }

    /// The member that is away and has the least waiting for it: one with a mailbox, or, if the message
    /// is to be queued, any.
    fn absent_member(&mut self, group: &str, is_queued: bool) -> Option<EndpointKey> {
        let loads: Vec<Option<u64>> = self
            .groups
            .members(group)
            .iter()
            .map(|member| {
                let record = &self.endpoints[member.0];
                let takes = record.mailbox || is_queued;
                let kept = record.backlog.as_ref().map_or(0, |backlog| backlog.kept.messages);
                takes.then_some(kept)
            })
            .collect();
        self.groups.pick(group, &loads)
    }

    /// A group's message that a member has not dealt with goes to another member that is there. Gives it
    /// back if there is none, or it is no group's.
    pub(crate) fn reroute(&mut self, endpoint: EndpointKey, parcel: Parcel) -> Option<Parcel> {
        let Some(group) = parcel.group().map(ToOwned::to_owned) else { return Some(parcel) };
        match self.present_member(&group, Some(endpoint)) {
            Some(other) => self.pass_on(endpoint, parcel, other),
            None => Some(parcel),
        }
    }

    /// The same for one of many messages that a member has not dealt with: who has how much to do is
    /// looked at once for all of them.
    pub(crate) fn deal(
        &mut self,
        endpoint: EndpointKey,
        parcel: Parcel,
        dealings: &mut Dealings,
    ) -> Option<Parcel> {
        let Some(group) = parcel.group() else { return Some(parcel) };
        if !dealings.0.contains_key(group) {
            let others = self.groups.in_turn(group).filter(|(_, member)| *member != endpoint);
            let turns = others.enumerate().filter_map(|(turn, (place, member))| {
                Some((self.load_of(member)?, turn, (place, member)))
            });
            let by_load = BTreeSet::from_iter(turns);
            let turns = self.groups.members(group).len();
            dealings.0.insert(group.into(), Dealing { by_load, turns });
        }
        let Some(dealing) = dealings.0.get_mut(group) else { return Some(parcel) };
        let Some((_, _, (place, other))) = dealing.by_load.pop_first() else {
            return Some(parcel);
        };
        let turn = dealing.turns;
        dealing.turns += 1;
        let group: Box<str> = group.into();
        self.groups.had_turn(&group, place);
        let left = self.pass_on(endpoint, parcel, other);
        if let (Some(load), Some(dealing)) = (self.load_of(other), dealings.0.get_mut(&group)) {
            dealing.by_load.insert((load, turn, (place, other)));
        }
        left
    }

    /// A message goes to another endpoint. Gives it back if there is no place for it there.
    fn pass_on(
        &mut self,
        endpoint: EndpointKey,
        mut parcel: Parcel,
        other: EndpointKey,
    ) -> Option<Parcel> {
        let keep = if self.endpoints[other.0].mailbox {
            Some(Keep::Mailbox)
        } else {
            parcel.kept.map(|kept| kept.why)
        };
        let Ok(place) = self.place_for(other, parcel.payload.len(), keep) else {
            return Some(parcel);
        };
        let unix_us = self.now.unix_us;
        self.trace.note(parcel.fate.trace, TraceState::Rerouted, Some(other), unix_us);
        self.counters.rerouted += 1;
        parcel.is_mourned |= self.endpoints[other.0].mailbox;
        let new_seq = self.next_seq();
        let old_seq = core::mem::replace(&mut parcel.seq, new_seq);
        // What was only spilled is kept anew where it is to survive.
        let is_spilled = |kept: &mut Kept| kept.why == Keep::Spill && keep == Some(Keep::Mailbox);
        if let Some(spilled) = parcel.kept.take_if(is_spilled) {
            self.let_go(endpoint, old_seq, spilled, parcel.payload.len(), Ending::Dropped);
        }
        if parcel.kept.is_none() {
            self.take_in(other, parcel, place);
            return None;
        }
        self.move_kept(endpoint, other, old_seq, &parcel);
        if parcel.deliveries > 0 {
            self.note_deliveries(other, &parcel);
        }
        match place {
            Place::Memory { .. } => {
                self.wait_in_memory(other, parcel);
                self.pump(other);
            }
            Place::Disk(_) => {
                self.wait_on_disk(other, parcel);
                self.load_ahead(other);
            }
        }
        None
    }

    // ---- topics ---------------------------------------------------------------------------------

    /// A message for every subscriber of a topic.
    pub(crate) fn publish(&mut self, message: &Outgoing<'_>, name: &str) -> Next {
        if let Err(error) = topic::topic(name) {
            self.counters.refused_fields += 1;
            let what = format!("field 'to': the topic {name:?} {error}");
            return self.refuse_message(message, ErrorCode::InvalidField, &what);
        }
        if message.ask.queue {
            return self.refuse_queue_for_many(message);
        }
        let mut subscribers = core::mem::take(&mut self.subscribers);
        subscribers.clear();
        self.topics.matching(name, &mut subscribers);
        let has_mailbox = |subscriber: &EndpointKey| self.endpoints[subscriber.0].mailbox;
        if self.config.store
            && self.store_trouble().is_none()
            && self.disk_is_behind(message.payload_bytes())
            && subscribers.iter().any(has_mailbox)
        {
            self.subscribers = subscribers;
            self.wait_for_disk(message.sender);
            return Next::Hold;
        }
        let tally = message
            .ask
            .receipt
            .map(|wanted| self.tally(message.sender, message.id, wanted, subscribers.len()));
        let via = format!("#{name}");
        let message = &message.through(Some(&via), tally.as_ref());
        self.accept(message);
        self.tap(message, Outcome::Accepted);
        self.counters.published += 1;
        self.copies.clear();
        for subscriber in &subscribers {
            self.one_of_many(message, *subscriber, GapSource::Topic);
        }
        if message.has_waiter() {
            let copies = core::mem::take(&mut self.copies);
            self.first_message_is_due(message, || copies, Some(subscribers.len()));
        }
        self.copies.clear();
        self.subscribers = subscribers;
        self.hold_if_answers_pile_up(message.sender)
    }

    /// One of the targets of a broadcast or topic. Nobody waits for it: what it cannot take is a gap.
    pub(crate) fn one_of_many(
        &mut self,
        message: &Outgoing<'_>,
        endpoint: EndpointKey,
        source: GapSource,
    ) {
        let record = &self.endpoints[endpoint.0];
        let keep = (record.mailbox && self.config.store).then_some(Keep::Mailbox);
        let holder = record.holder();
        let is_lingering = matches!(record.state, EndpointState::Lingering(_));
        if keep.is_none() && (holder.is_none() || is_lingering) {
            return self.not_taken(message, endpoint, ErrorCode::EndpointNotFound);
        }
        if record.is_plain()
            && let Some(receiver) = holder
        {
            return self.one_plain(message, endpoint, receiver, source);
        }
        let place = match self.place_for(endpoint, message.payload_bytes(), keep) {
            Ok(Place::Disk(Keep::Spill)) => {
                // What was only subscribed to is not spilled.
                return self.missed(message, endpoint, source, None);
            }
            Ok(place) => place,
            // The publisher waits when it is to send the next one.
            Err(NoPlace::DiskIsBehind) if keep.is_some() => Place::Disk(Keep::Mailbox),
            Err(NoPlace::Refused(failure)) if keep.is_some() => {
                return self.missed(message, endpoint, source, Some(&failure));
            }
            Err(_) => return self.missed(message, endpoint, source, None),
        };
        let fate = self.fate_of(message);
        self.reached(&fate, Status::Accepted, endpoint);
        let mut parcel = self.parcel_of(message, endpoint, fate);
        parcel.waiter = None;
        self.take_in(endpoint, parcel, place);
    }

    fn one_plain(
        &mut self,
        message: &Outgoing<'_>,
        endpoint: EndpointKey,
        receiver: SessionKey,
        source: GapSource,
    ) {
        let takes = self.session(receiver).is_some_and(|session| {
            session.stalled.is_none() && self.has_room(session, message.needs_bytes())
        });
        if !takes {
            return self.missed(message, endpoint, source, None);
        }
        let provenance = crate::outbox::Provenance { waiter: None, ..message.provenance };
        let mark = self.enqueue(message, receiver, None, provenance);
        if message.tally.is_some() || message.ask.ttl.is_some() {
            let tracking = self.tracking_of(message, endpoint);
            let seq = self.seq;
            if let Some(session) = self.session_mut(receiver) {
                session.handing.push_back(Handing { mark, seq, tracking });
            }
        }
        if message.has_waiter() {
            self.copies.push((receiver, mark));
        }
    }

    /// A subscriber has no room. `failure` says why its mailbox has none.
    fn missed(
        &mut self,
        message: &Outgoing<'_>,
        endpoint: EndpointKey,
        source: GapSource,
        failure: Option<&Failure>,
    ) {
        if let Some(failure) = failure {
            match failure.code {
                ErrorCode::MailboxFull => self.counters.refused_mailbox_full += 1,
                _ => self.counters.refused_store_unavailable += 1,
            }
            let name = self.endpoints[endpoint.0].name.clone();
            self.log(Event::NotKept { name, code: failure.code });
            self.bury_refused(message, endpoint, failure);
        }
        if let Some(receiver) = self.endpoints[endpoint.0].holder() {
            match source {
                GapSource::Broadcast => self.drop_broadcast(receiver, message.payload_bytes()),
                GapSource::Topic | GapSource::Tap | GapSource::Presence => {
                    self.counters.dropped_topic += 1;
                    self.note_gap(receiver, source, message.payload_bytes());
                    if let Some(session) = self.session_mut(receiver) {
                        session.count_drop();
                    }
                }
            }
        }
        self.not_taken(message, endpoint, ErrorCode::OverLimit);
    }

    fn not_taken(&mut self, message: &Outgoing<'_>, endpoint: EndpointKey, code: ErrorCode) {
        if message.tally.is_some() {
            let fate = self.fate_of(message);
            self.failed(&fate, &Failure::new(code, code.to_string()), Some(endpoint));
        }
    }
}

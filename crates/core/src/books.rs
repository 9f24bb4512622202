//! The router's books, for the bus's owner: what waits where, who belongs to what, where a message is;
//! and the changes that only the owner may make to them.

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

use hermes_bus_proto::control::Status;
use hermes_bus_proto::listing::{self, Amount, EndpointDetails, MailboxDetails};
use hermes_bus_proto::{EndpointName, ErrorCode, Raw};

use crate::acks::{Handing, InFlight, Unread};
use crate::backlog::{Backlog, Place, Promised};
use crate::endpoint::{Endpoint, EndpointKey, EndpointState};
use crate::fate::{Failure, Fate};
use crate::parcel::{Kept, Parcel};
use crate::router::Router;
use crate::session::{Session, SessionKey};
use crate::storage::{Ending, Keep, Order, RECORD_OVERHEAD_BYTES, Record, Ticket};
use crate::time::Moment;
use crate::trace::{self, TraceRef, TraceState};

/// What waits for one endpoint on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mailbox {
    /// Whose.
    pub endpoint: EndpointName,
    /// Whether it has a session.
    pub is_online: bool,
    /// Whether it asked for a mailbox, or the configuration gives it one.
    pub is_wanted: bool,
    /// Messages on disk, with what they take of the quota.
    pub kept: Amount,
    /// When the oldest arrived, as far as known, in microseconds of Unix time.
    pub oldest_unix_us: Option<u64>,
}

/// What sessions hold of what is kept.
#[derive(Default)]
struct Held {
    all: Amount,
    /// Of that what is only spilled.
    spilled: Amount,
    newest: u64,
}

/// A member of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its name.
    pub endpoint: EndpointName,
    /// What it has not dealt with, if it is there: messages.
    pub load: Option<u64>,
}

/// Where a message is, and where it has been.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Traced {
    /// What has happened to messages of this id, oldest first.
    pub states: Vec<TracedState>,
    /// States between the first of a message and its last ones that are not known any more.
    pub left_out: u64,
    /// Where such messages are now.
    pub standings: Vec<Standing>,
}

/// Something that has happened to a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TracedState {
    /// The state in a word.
    pub state: &'static str,
    /// When, in microseconds of Unix time.
    pub unix_us: u64,
    /// The endpoint that it is about.
    pub endpoint: Option<EndpointName>,
    /// Why.
    pub reason: Option<ErrorCode>,
}

/// Where a message is now, and what it waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The endpoint that it is for.
    pub endpoint: EndpointName,
    /// Where, in a word: `in_flight`, `queued`, `waiting`, `paused`, `held` or `stored`.
    pub place: &'static str,
    /// Since when, in microseconds of Unix time, as far as known.
    pub since_unix_us: Option<u64>,
    /// Who or what keeps it there, for people.
    pub blocked_by: String,
    /// What happens next, for people.
    pub next: String,
}

/// A trace costs a walk over everything in memory: so many messages are looked at.
const STANDINGS_MAX: usize = 64;

impl Router {
    // ---- mailboxes and groups -------------------------------------------------------------------------

    /// Every endpoint with a mailbox or messages on disk, by name.
    pub fn mailboxes(&self) -> Vec<Mailbox> {
        let has_one = |record: &&Endpoint| {
            record.mailbox || record.backlog.as_ref().is_some_and(|b| b.kept.messages > 0)
        };
        let records = self.endpoints.iter().map(|(_, record)| record).filter(has_one);
        let mut mailboxes: Vec<Mailbox> = records
            .map(|record| Mailbox {
                endpoint: record.name.clone(),
                is_online: record.holder().is_some(),
                is_wanted: record.mailbox,
                kept: record.backlog.as_ref().map_or_else(Amount::default, |b| b.kept),
                oldest_unix_us: record.backlog.as_ref().and_then(|b| b.oldest_unix_us),
            })
            .collect();
        mailboxes.sort_by(|a, b| a.endpoint.cmp(&b.endpoint));
        mailboxes
    }

    /// Every group with its members, by name; or only this one.
    pub fn groups(&self, only: Option<&str>) -> Vec<(String, Vec<Member>)> {
        let names = self.groups.names().into_iter().map(|(name, _)| name);
        let wanted = names.filter(|name| only.is_none_or(|only| only == *name));
        let member = |endpoint: &EndpointKey| Member {
            endpoint: self.endpoints[endpoint.0].name.clone(),
            load: self.load_of(*endpoint),
        };
        wanted
            .map(|name| {
                let members = self.groups.members(name).iter().map(member).collect();
                (name.to_owned(), members)
            })
            .collect()
    }

    /// Removes all that waits for an endpoint, on disk and in memory, but for what its session holds
    /// already. Returns what was removed; none if there is no such endpoint.
    pub fn purge(&mut self, name: &str) -> Option<Amount> {
        let endpoint = self.names.get(name).copied()?;
        let what = "the bus's owner removed it";
        let failure = Failure::new(ErrorCode::Rejected, what);
        let mut removed = Amount::default();
        for seq in self.waiting_seqs(endpoint) {
            if let Some(parcel) = self.take_waiting(endpoint, seq) {
                removed.messages += 1;
                removed.bytes += parcel.payload.len() as u64;
                self.remove_parcel(endpoint, parcel, &failure);
            }
        }
        let Held { all: held, spilled: held_spilled, newest } = self.held_by_session(endpoint);
        let name = self.endpoints[endpoint.0].name.clone();
        let Some(backlog) = self.backlog(endpoint) else { return Some(removed) };
        let promised = core::mem::take(&mut backlog.promised);
        let from = backlog.disk_from.take();
        backlog.forget_load();
        let on_disk = Amount {
            messages: backlog.kept.messages.saturating_sub(held.messages),
            bytes: backlog.kept.bytes.saturating_sub(held.bytes),
        };
        backlog.kept = held;
        backlog.spilled = held_spilled;
        self.refund_disk(endpoint, on_disk.bytes);
        removed.messages += on_disk.messages;
        removed.bytes += on_disk.bytes;
        // One that could not be kept, which is not said yet, is in nobody's hands.
        let from = from.or((on_disk.messages > 0).then_some(newest + 1));
        if let Some(from) = from {
            // What the session holds is older.
            let to = self.seq;
            self.forget_keepings(endpoint, |seq, _| (from..=to).contains(&seq));
            let ticket = self.order(Order::Purge { endpoint: name, from, to });
            self.backlog_or_new(endpoint).released = ticket;
        }
        for Promised { fate, .. } in promised.into_values() {
            self.was_purged(endpoint, &fate, &failure);
        }
        // Nobody has looked at those that an earlier process had left: they are known by their ids only.
        let name = self.endpoints[endpoint.0].name.clone();
        for promise in self.repetitions.failed_on_disk(&name) {
            self.break_promise(&promise, &failure, Some(endpoint), None);
        }
        self.counters.purged += removed.messages;
        self.forget_backlog_if_empty(endpoint);
        Some(removed)
    }

    /// Removes some of the messages that wait for an endpoint, and that somebody has seen on disk when
    /// everything up to `as_of` had been carried out. Those that its session holds stay, and those that
    /// have gone since. Returns how many were removed.
    pub fn remove(&mut self, name: &str, messages: &[Record], as_of: Ticket) -> u64 {
        let Some(endpoint) = self.names.get(name).copied() else { return 0 };
        let failure = Failure::new(ErrorCode::Rejected, "the bus's owner removed it");
        let mut removed = 0;
        for record in messages {
            let (seq, keep) = (record.seq, record.keep);
            if let Some(parcel) = self.take_waiting(endpoint, seq) {
                self.remove_parcel(endpoint, parcel, &failure);
                removed += 1;
                continue;
            }
            let is_there = |backlog: &&mut Backlog| backlog.has_on_disk(seq, keep, as_of);
            let Some(backlog) = self.backlog(endpoint).filter(is_there) else { continue };
            let fate = backlog.take_promised(seq);
            self.forget_keepings(endpoint, |kept, _| kept == seq);
            let kept = Kept { why: keep, ticket: Ticket::default() };
            self.let_go(endpoint, seq, kept, record.payload.len(), Ending::Purged);
            // One that an earlier process had left, and nobody has looked at since, is known by its id.
            let repetition = self.repetition_of(record);
            let fate = fate.unwrap_or_else(|| Fate { repetition, ..Fate::default() });
            self.was_purged(endpoint, &fate, &failure);
            removed += 1;
        }
        self.counters.purged += removed;
        self.forget_backlog_if_empty(endpoint);
        removed
    }

    /// Takes a dead letter in once more, for its endpoint, as if it had just come, without asking
    /// whether it was sent before. The letter may go when its message is stored: with this ticket. If it
    /// found no place, nothing has changed.
    pub fn retry(&mut self, record: Record) -> Result<Ticket, (ErrorCode, String)> {
        let name = record.endpoint.clone();
        let uid = self.known.of(name.as_str(), self.now.unix_us).map(|known| known.uid);
        let endpoint = self.away_endpoint(&name, uid);
        let why = if self.endpoints[endpoint.0].mailbox { Keep::Mailbox } else { Keep::Queued };
        let place = match self.place_for(endpoint, record.payload.len(), Some(why)) {
            Ok(Place::Memory { keep: None }) => {
                let why = self.store_trouble().unwrap_or("it could be in memory only").to_owned();
                self.forget_if_idle(endpoint);
                return Err((ErrorCode::StoreUnavailable, why));
            }
            Ok(place) => place,
            Err(no_place) => {
                self.forget_if_idle(endpoint);
                return Err(no_place.explain());
            }
        };
        let now = self.now;
        let mut parcel = Parcel::from_record(record, None, now.moment);
        parcel.seq = self.next_seq();
        parcel.arrived_unix_us = self.bus_time(now.moment);
        parcel.kept = None;
        parcel.is_mourned = true;
        parcel.fate.trace = self.trace_anew(&parcel);
        self.reached(&parcel.fate.clone(), Status::Accepted, endpoint);
        // It may have come before.
        parcel.deliveries = parcel.deliveries.clamp(0, 1);
        self.counters.retried += 1;
        // The order to keep it is the first thing that comes of it.
        let ticket = Ticket(self.tickets + 1);
        self.take_in(endpoint, parcel, place);
        Ok(ticket)
    }

    /// A message that is taken in once more is traced as one that has just come.
    fn trace_anew(&mut self, parcel: &Parcel) -> TraceRef {
        let Some(id) = parcel.id_json() else { return TraceRef::default() };
        let uid = parcel.sender.as_ref().map_or(self.config.owner_uid, |sender| sender.uid);
        // Its sender is long gone, or hears nothing more of it.
        let nobody = SessionKey { index: 0, generation: 0 };
        self.trace.begin(id, nobody, uid)
    }

    fn waiting_seqs(&mut self, endpoint: EndpointKey) -> Vec<u64> {
        let Some(backlog) = self.backlog(endpoint) else { return Vec::new() };
        let paused = backlog.paused.values().map(|parcel| parcel.seq);
        backlog.waiting.keys().copied().chain(paused).collect()
    }

    fn take_waiting(&mut self, endpoint: EndpointKey, seq: u64) -> Option<Parcel> {
        let backlog = self.backlog(endpoint)?;
        let parcel = backlog.waiting.remove(&seq).or_else(|| {
            let place = *backlog.paused.iter().find(|(_, parcel)| parcel.seq == seq)?.0;
            backlog.paused.remove(&place)
        })?;
        self.charge_waiting(endpoint, -(parcel.load_bytes() as isize));
        Some(parcel)
    }

    fn remove_parcel(&mut self, endpoint: EndpointKey, parcel: Parcel, failure: &Failure) {
        if let Some(kept) = parcel.kept {
            let payload_bytes = parcel.payload.len();
            self.let_go(endpoint, parcel.seq, kept, payload_bytes, Ending::Purged);
        }
        self.was_purged(endpoint, &parcel.fate, failure);
    }

    fn was_purged(&mut self, endpoint: EndpointKey, fate: &Fate, failure: &Failure) {
        let unix_us = self.now.unix_us;
        self.trace.note(fate.trace, TraceState::Purged, Some(endpoint), unix_us);
        self.failed(fate, failure, Some(endpoint));
    }

    /// Messages on disk that the endpoint's session holds, or has in its queue.
    /// What the sessions of an endpoint hold of what is kept.
    fn held_by_session(&self, endpoint: EndpointKey) -> Held {
        let mut held = Held::default();
        let mut add = |seq: u64, kept: Kept, payload_bytes: usize| {
            held.newest = held.newest.max(seq);
            let is_spilled = kept.why == Keep::Spill;
            for sum in [Some(&mut held.all), is_spilled.then_some(&mut held.spilled)] {
                let Some(sum) = sum else { continue };
                sum.messages += 1;
                sum.bytes += payload_bytes as u64 + RECORD_OVERHEAD_BYTES;
            }
        };
        let draining = self.endpoints.get(endpoint.0).and_then(|record| record.draining);
        let draining = draining.and_then(|draining| self.session(draining));
        for session in self.holder_of(endpoint).into_iter().chain(draining) {
            for InFlight { parcel, .. } in
                session.acking.iter().flat_map(|acking| acking.in_flight.values())
            {
                let bytes = parcel.payload.len();
                parcel.kept.into_iter().for_each(|kept| add(parcel.seq, kept, bytes));
            }
            for Handing { seq, tracking, .. } in &session.handing {
                let bytes = tracking.payload_bytes;
                tracking.kept.into_iter().for_each(|kept| add(*seq, kept, bytes));
            }
            for Unread { seq, kept, payload_bytes, .. } in &session.unread {
                add(*seq, *kept, *payload_bytes);
            }
        }
        held
    }

    fn holder_of(&self, endpoint: EndpointKey) -> Option<&Session> {
        self.session(self.endpoints.get(endpoint.0)?.holder()?)
    }

    // ---- listings -------------------------------------------------------------------------------------

    /// An endpoint with its session, as a listing shows it.
    pub(crate) fn details_of(
        &mut self,
        holder: SessionKey,
        endpoint: EndpointKey,
    ) -> EndpointDetails {
        let now = self.now.moment;
        let session = &mut self.sessions[holder.index()];
        let meta = session.meta.as_deref().and_then(listing::meta);
        let mut details = session.details(now);
        details.meta = meta;
        self.add_details(endpoint, &mut details);
        details
    }

    /// An endpoint that is away.
    pub(crate) fn offline_details(&self, endpoint: EndpointKey) -> EndpointDetails {
        let record = &self.endpoints[endpoint.0];
        let mut details = EndpointDetails {
            endpoint: record.name.as_str().to_owned(),
            state: listing::EndpointState::Offline,
            uid: record.uid,
            ..EndpointDetails::default()
        };
        self.add_details(endpoint, &mut details);
        details
    }

    fn add_details(&self, endpoint: EndpointKey, details: &mut EndpointDetails) {
        let record = &self.endpoints[endpoint.0];
        let backlog = record.backlog.as_deref();
        details.groups = self.groups.of(endpoint).map(ToOwned::to_owned).collect();
        details.topics = self.topics.of(endpoint).map(ToOwned::to_owned).collect();
        if let Some(backlog) = backlog {
            details.pending.messages += (backlog.waiting.len() + backlog.paused.len()) as u64;
            details.pending.bytes += backlog.waiting_bytes as u64;
        }
        let kept = backlog.map_or_else(Amount::default, |backlog| backlog.kept);
        let oldest = backlog.and_then(|backlog| backlog.oldest_unix_us);
        details.mailbox = (record.mailbox || kept.messages > 0).then_some(MailboxDetails {
            messages: kept.messages,
            bytes: kept.bytes,
            oldest_ts: oldest.map(|unix_us| unix_us as f64 / 1e6),
        });
    }

    // ---- trace ----------------------------------------------------------------------------------------

    /// Where the messages are that have this id (as JSON), as far as the router knows, and this session
    /// may see: its user's own, or all for the bus's owner.
    pub fn trace_of(&self, key: SessionKey, id: Raw<'_>) -> Traced {
        let Some(session) = self.session(key) else { return Traced::default() };
        let (uid, sees_all) = (session.credentials.uid, self.owns_bus(key));
        let name_of = |endpoint: EndpointKey| Some(self.endpoints.get(endpoint.0)?.name.clone());
        let mut traced = Traced::default();
        for found in self.trace.find(id.as_bytes(), name_of) {
            if !sees_all && found.uid != uid {
                continue;
            }
            traced.left_out += u64::from(found.left_out);
            traced.standings.extend(self.queued_standing(&found.states));
            traced.standings.extend(self.held_standing(&found.states));
            traced.states.extend(found.states.into_iter().map(|state| TracedState {
                state: state.state.as_str(),
                unix_us: state.unix_us,
                endpoint: state.endpoint,
                reason: state.state.reason(),
            }));
        }
        traced.standings.extend(self.standings(id, |sender| sees_all || sender == Some(uid)));
        traced
    }

    /// Where a message is that is not tracked: in the queue of the session that it went to.
    fn queued_standing(&self, states: &[trace::TracedState]) -> Option<Standing> {
        let last = states.last().filter(|last| last.state == TraceState::Accepted)?;
        let name = last.endpoint.as_ref()?;
        let endpoint = *self.names.get(name.as_str())?;
        let session = self.holder_of(endpoint).filter(|_| self.endpoints[endpoint.0].is_plain())?;
        let silent = shown(self.now.moment.since(session.last_told));
        let (bytes, pid) = (session.outbox.bytes(), session.credentials.pid);
        Some(Standing {
            endpoint: name.clone(),
            place: "queued",
            since_unix_us: Some(last.unix_us),
            blocked_by: format!(
                "{name} (pid={pid}) has read nothing for {silent}; {bytes} bytes are queued for it"
            ),
            next: format!("it is handed over as soon as {name} reads on"),
        })
    }

    /// Where a message is that is held for a name whose session ended a moment ago.
    fn held_standing(&self, states: &[trace::TracedState]) -> Option<Standing> {
        let last = states.last().filter(|last| last.state == TraceState::Held)?;
        let name = last.endpoint.as_ref()?;
        let EndpointState::Lingering(linger) =
            &self.endpoints[self.names.get(name.as_str())?.0].state
        else {
            return None;
        };
        let left = shown(linger.until.since(self.now.moment));
        Some(Standing {
            endpoint: name.clone(),
            place: "held",
            since_unix_us: Some(last.unix_us),
            blocked_by: format!("{name} was there a moment ago, and is away"),
            next: format!("it is handed over if {name} is back within {left}, and dropped else"),
        })
    }

    /// Where a message is that was found on disk, under this `seq` of an endpoint, since then, and is not
    /// in [`Router::trace_of`]: what was read from disk may be older than what the router knows. `None`:
    /// nobody waits for it any more, or it is in memory.
    pub fn standing_on_disk(
        &self,
        endpoint: &EndpointName,
        seq: u64,
        since_unix_us: Option<u64>,
    ) -> Option<Standing> {
        let key = *self.names.get(endpoint.as_str())?;
        let (record, name) = (&self.endpoints[key.0], endpoint.as_str());
        let session = self.holder_of(key);
        let is_unread = |session: &&Session| session.unread.iter().any(|unread| unread.seq == seq);
        let is_queued = |session: &&Session| {
            let mut kept = session.handing.iter().filter(|one| one.tracking.kept.is_some());
            kept.any(|handing| handing.seq == seq)
        };
        let has_more = |backlog: &Backlog| backlog.disk_from.is_some_and(|from| from <= seq);
        let (place, blocked_by, next) = if let Some(session) = session.filter(is_unread) {
            let pid = session.credentials.pid;
            (
                "in_flight",
                format!("{name} (pid={pid}) has not read all that was handed over to it"),
                format!("it is done when {name} has; if its session ends first, it comes again"),
            )
        } else if let Some(session) = session.filter(is_queued) {
            let pid = session.credentials.pid;
            (
                "queued",
                format!("{name} (pid={pid}) has not read what is before it"),
                format!("it is handed over as soon as {name} reads on"),
            )
        } else if !record.backlog.as_deref().is_some_and(has_more) {
            return None;
        } else if session.is_some() {
            (
                "stored",
                format!("{name} has not dealt with what came before"),
                format!("it is read from disk as soon as {name} has room"),
            )
        } else {
            ("stored", format!("{name} is away"), format!("it is handed over when {name} is back"))
        };
        Some(Standing { endpoint: endpoint.clone(), place, since_unix_us, blocked_by, next })
    }

    fn standings(&self, id: Raw<'_>, may_see: impl Fn(Option<u32>) -> bool) -> Vec<Standing> {
        let mut found = Vec::new();
        let hasher = self.trace.hasher();
        let hash = hasher.of(id.as_bytes());
        let is_it = |parcel: &Parcel| {
            parcel.may_have_id(hash, hasher)
                && may_see(parcel.sender.as_ref().map(|sender| sender.uid))
                && parcel.id_json() == Some(id.as_bytes())
        };
        for (_, record) in &self.endpoints {
            if found.len() >= STANDINGS_MAX {
                break;
            }
            if let Some(session) = record.holder().and_then(|holder| self.session(holder)) {
                self.in_flight_standings(record, session, &is_it, &mut found);
            }
            if let Some(backlog) = &record.backlog {
                let waiting = backlog.waiting.values().filter(|parcel| is_it(parcel));
                found.extend(waiting.map(|parcel| self.waiting_standing(record, parcel)));
                let paused = backlog.paused.iter().filter(|(_, parcel)| is_it(parcel));
                found.extend(paused.map(|((until, _), _)| self.paused_standing(record, *until)));
            }
        }
        found.truncate(STANDINGS_MAX);
        found
    }

    fn in_flight_standings(
        &self,
        record: &Endpoint,
        session: &Session,
        is_it: &impl Fn(&Parcel) -> bool,
        found: &mut Vec<Standing>,
    ) {
        let in_flight = session.acking.iter().flat_map(|acking| acking.in_flight.values());
        for held in in_flight.filter(|held| is_it(&held.parcel)) {
            let (pid, name) = (session.credentials.pid, record.name.as_str());
            let age = shown(self.now.moment.since(held.since));
            let (place, blocked_by) = if held.is_written {
                ("in_flight", format!("{name} (pid={pid}) holds it for {age}, not acknowledged"))
            } else {
                ("queued", format!("{name} (pid={pid}) has not read what is before it for {age}"))
            };
            let times = held.parcel.deliveries;
            found.push(Standing {
                endpoint: record.name.clone(),
                place,
                since_unix_us: Some(self.bus_time(held.since)),
                blocked_by,
                next: format!(
                    "delivery {times}: it is done when {name} acknowledges; if its session ends \
                     first, it comes again"
                ),
            });
        }
    }

    fn waiting_standing(&self, record: &Endpoint, parcel: &Parcel) -> Standing {
        let name = record.name.as_str();
        let (blocked_by, next) = match record.holder().and_then(|holder| self.session(holder)) {
            None => (format!("{name} is away"), format!("it is handed over when {name} is back")),
            Some(session) => {
                let held = session.acking.as_ref().map_or(0, |acking| acking.in_flight.len());
                let blocked = match &session.acking {
                    Some(acking) if held >= acking.in_flight_max => {
                        let messages = if held == 1 { "message" } else { "messages" };
                        format!("{name} holds {held} {messages}, as many as it takes at a time")
                    }
                    _ => format!("{} bytes are queued for {name}", session.outbox.bytes()),
                };
                (blocked, format!("it is handed over as soon as {name} has room"))
            }
        };
        Standing {
            endpoint: record.name.clone(),
            place: "waiting",
            since_unix_us: Some(parcel.arrived_unix_us),
            blocked_by,
            next,
        }
    }

    fn paused_standing(&self, record: &Endpoint, until: Moment) -> Standing {
        let name = record.name.as_str();
        let left = shown(until.since(self.now.moment));
        Standing {
            endpoint: record.name.clone(),
            place: "paused",
            since_unix_us: None,
            blocked_by: format!("{name} gave it back"),
            next: format!("it comes again in {left}"),
        }
    }
}

/// A time for people.
fn shown(time: Duration) -> String {
    if time.as_secs() > 0 {
        format!("{} s", time.as_secs())
    } else {
        format!("{} ms", time.as_millis())
    }
}

//! What one process of the bus leaves to the next one: the names that were in use, and what is held for
//! them. In the next process they linger, so that what is sent to them meanwhile is held.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::time::Duration;

use bytes::Bytes;
use hermes_bus_proto::limits::HEADER_BYTES;
use hermes_bus_proto::listing::Level;
use hermes_bus_proto::{EndpointName, ErrorCode, frame};

use crate::endpoint::{Endpoint, EndpointKey, EndpointState, Linger};
use crate::fate::{Failure, Fate};
use crate::outbox::{LooseMessage, Origin, Provenance, Tracking};
use crate::parcel::Parcel;
use crate::router::Router;
use crate::session::{Courtesy, Session, SessionKey};
use crate::storage::{BUS_HAS_ENDED, Sender};
use crate::time::Moment;
use crate::timers::Timer;
use crate::trace::TraceRef;
use crate::{CloseReason, Config};

/// How long anonymous connections may take to read their answers when another process follows, at most.
/// All others wait for the end of this.
const DRAIN_MAX: Duration = Duration::from_secs(1);

impl Config {
    /// These limits, for a bus that is about to end: nobody is held any more, and there is room for
    /// everything that has been sent already.
    #[must_use]
    pub fn at_the_end(&self) -> Config {
        Config {
            messages_per_s: None,
            bytes_per_s: None,
            queue_bytes_max: usize::MAX,
            queue_bytes_user_max: usize::MAX,
            queue_bytes_total_max: usize::MAX,
            answer_bytes_max: usize::MAX,
            answer_bytes_total_max: usize::MAX,
            intake_bytes_user_max: usize::MAX,
            intake_bytes_total_max: usize::MAX,
            held_bytes_max: usize::MAX,
            held_bytes_total_max: usize::MAX,
            ..self.clone()
        }
    }

    /// The same where another process follows: it does not wait long, and no name is forgotten
    /// meanwhile.
    #[must_use]
    pub fn before_a_successor(&self) -> Config {
        let drain = self.drain.min(DRAIN_MAX);
        Config { drain, linger: self.linger.max(10 * DRAIN_MAX), ..self.at_the_end() }
    }
}

/// A name that waits for its session to come back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lingering {
    /// The name.
    pub name: EndpointName,
    /// The user of its last session: only the same user gets what is held.
    pub uid: u32,
    /// What is held for it, oldest first.
    pub messages: Vec<LeftMessage>,
}

/// A message that one process of the bus leaves in memory to the next one, with what is known of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeftMessage {
    /// Its frame with the header, as level 1 gets it.
    pub frame: Bytes,
    /// Its place in the order of all messages, those on disk included. None: behind all others.
    pub seq: Option<u64>,
    /// Who sent it, where that is known.
    pub sender: Option<Sender>,
    /// The `@group` or `#topic` that it came through.
    pub via: Option<Box<str>>,
    /// When it is not wanted any more, in microseconds of Unix time.
    pub expires_unix_us: Option<u64>,
    /// How often it was handed over to a session.
    pub deliveries: u32,
    /// Whether it becomes a dead letter if it fails.
    pub is_mourned: bool,
}

impl LeftMessage {
    /// Of which nothing but the frame is known.
    pub fn unknown(frame: Bytes) -> Self {
        LeftMessage { frame, ..LeftMessage::default() }
    }

    /// One that waits in memory. `bus_time` gives the wall clock's time of a moment.
    fn of_parcel(parcel: &Parcel, bus_time: impl Fn(Moment) -> u64) -> Self {
        let header = frame::header(parcel.payload.len());
        let frame = Bytes::from([&header, &*parcel.payload].concat());
        LeftMessage::of_framed_parcel(parcel, frame, bus_time)
    }

    /// One that is held for a name.
    fn of_loose(message: &LooseMessage, bus_time: impl Fn(Moment) -> u64) -> Self {
        let parcel = Parcel::from_loose(message.clone(), bus_time(message.provenance.arrived));
        match message.level {
            Level::One => LeftMessage::of_framed_parcel(&parcel, message.frame.clone(), bus_time),
            Level::Two => LeftMessage::of_parcel(&parcel, bus_time),
        }
    }

    fn of_framed_parcel(parcel: &Parcel, frame: Bytes, bus_time: impl Fn(Moment) -> u64) -> Self {
        LeftMessage {
            frame,
            seq: Some(parcel.seq),
            sender: parcel.sender.clone(),
            via: parcel.via.clone(),
            expires_unix_us: parcel.deadline.map(bus_time),
            deliveries: parcel.deliveries,
            is_mourned: parcel.is_mourned,
        }
    }

    /// As it is held. `deadline` is its time on this process's clock.
    fn into_loose(
        self,
        seq: u64,
        deadline: Option<Moment>,
        provenance: Provenance,
    ) -> LooseMessage {
        let LeftMessage { frame, sender, via, deliveries, is_mourned, .. } = self;
        let is_plain = via.is_none() && deadline.is_none() && deliveries == 0 && !is_mourned;
        let tracking = (!is_plain).then(|| Tracking {
            fate: Fate::default(),
            deadline,
            kept: None,
            payload_bytes: frame.len() - HEADER_BYTES,
            deliveries: deliveries.saturating_add(1),
            is_mourned,
            origin: Some(Box::new(Origin { sender: sender.clone(), via })),
        });
        LooseMessage {
            sender: sender.map(Box::new),
            tracking: tracking.map(Box::new),
            ..LooseMessage::new(seq, frame, provenance)
        }
    }
}

impl Router {
    /// Connections that have not said or been told anything yet: another process can go on with them
    /// as if it had accepted them itself.
    pub fn untouched(&self) -> Vec<SessionKey> {
        let untouched = |(index, session): (usize, &Session)| {
            let key = SessionKey { index: index as u32, generation: session.generation };
            session.is_untouched().then_some(key)
        };
        self.sessions.iter().filter_map(untouched).collect()
    }

    /// Anonymous senders whose only message is held for an endpoint that is away, and who wait to hear
    /// what becomes of it. The message is taken back: another process can have both, as if they had
    /// just come to it. To be closed here.
    pub fn take_waiting_senders(&mut self) -> Vec<(SessionKey, Bytes)> {
        let mut taken = Vec::new();
        for (_, endpoint) in &mut self.endpoints {
            let EndpointState::Lingering(linger) = &mut endpoint.state else { continue };
            let held = core::mem::take(&mut linger.messages);
            for message in held {
                let waiter = message.provenance.waiter.filter(|waiter| {
                    let session = self.sessions.get(waiter.index());
                    session.is_some_and(|session| {
                        session.generation == waiter.generation && session.waits_with_one_message()
                    })
                });
                match waiter {
                    Some(waiter) => {
                        linger.bytes -= message.load_bytes();
                        self.held.refund(message.load_bytes());
                        taken.push((waiter, message.frame));
                    }
                    None => linger.messages.push_back(message),
                }
            }
        }
        for (waiter, _) in &taken {
            if let Some(session) = self.session_mut(*waiter) {
                session.undecided = 0;
                session.courtesy = Courtesy::Over;
            }
        }
        taken
    }

    /// Ends every session that has or had a name, without waiting for its peer to read: what is queued
    /// for it and has not begun to leave is held for its name.
    pub fn end_named_sessions(&mut self) {
        let named = |(index, session): (usize, &Session)| {
            let key = SessionKey { index: index as u32, generation: session.generation };
            (!session.is_anonymous()).then_some(key)
        };
        let keys: Vec<SessionKey> = self.sessions.iter().filter_map(named).collect();
        for key in keys {
            self.end_session(key, CloseReason::ShuttingDown);
        }
    }

    /// The names that linger now, with what is held for them. After [`Router::shut_down`], when no
    /// connection is left, these are all names.
    pub fn lingering(&self) -> Vec<Lingering> {
        let lingering = self.endpoints.iter().filter_map(|(_, endpoint)| match &endpoint.state {
            EndpointState::Held(_) | EndpointState::Away => None,
            EndpointState::Lingering(linger) => Some(Lingering {
                name: endpoint.name.clone(),
                uid: linger.uid,
                messages: self.messages_left(endpoint, linger),
            }),
        });
        lingering.collect()
    }

    /// What waits for a name in memory only, oldest first.
    fn messages_left(&self, endpoint: &Endpoint, linger: &Linger) -> Vec<LeftMessage> {
        let bus_time = |moment| self.bus_time(moment);
        let held = linger.messages.iter().map(|message| LeftMessage::of_loose(message, bus_time));
        let waiting = endpoint.backlog.iter().flat_map(|backlog| {
            backlog.waiting.values().chain(backlog.paused.values()).filter(|p| p.kept.is_none())
        });
        let waiting = waiting.map(|parcel| LeftMessage::of_parcel(parcel, bus_time));
        let mut messages: Vec<LeftMessage> = held.chain(waiting).collect();
        messages.sort_by_key(|message| message.seq);
        messages
    }

    /// The last word of a process, when no connection is left: what was only spilled ends with it, is
    /// counted and logged, and becomes a dead letter if it asked for a receipt. What is kept for another
    /// reason is for the next process.
    pub fn end(&mut self) {
        let all: Vec<EndpointKey> =
            self.endpoints.iter().map(|(index, _)| EndpointKey(index)).collect();
        let failure = Failure::new(ErrorCode::ReceiverGone, BUS_HAS_ENDED);
        for endpoint in all {
            self.drop_spilled(endpoint, &failure);
        }
    }

    /// Has names linger that an earlier process of the bus has left: from now on, for as long as a name
    /// lingers whose session ends now. All that was held for them is held on, however much it is, but
    /// for what has expired meanwhile. A name that is in use already is left alone, and what was held
    /// for it is dropped and counted. To be said after [`Router::recover`]: what is missed when it is
    /// lost becomes a dead letter.
    pub fn restore(&mut self, left: Vec<Lingering>) {
        let now = self.now.moment;
        let until = now.after(self.config.linger);
        let newest = left.iter().flat_map(|left| &left.messages).filter_map(|message| message.seq);
        self.seq = self.seq.max(newest.max().unwrap_or(0));
        for Lingering { name, uid, messages } in left {
            let messages = messages.into_iter().filter(|left| left.frame.len() > HEADER_BYTES);
            let messages: VecDeque<LooseMessage> =
                messages.map(|message| self.loose_again(message)).collect();
            let known = self.names.get(name.as_str()).copied();
            let is_away = |endpoint: &EndpointKey| {
                matches!(self.endpoints[endpoint.0].state, EndpointState::Away)
            };
            if let Some(endpoint) = known.filter(|endpoint| !is_away(endpoint)) {
                self.fail_all(endpoint, messages.into());
                continue;
            }
            let bytes = messages.iter().map(LooseMessage::load_bytes).sum();
            self.held.charge(bytes);
            self.held.allow_more(bytes);
            self.counters.held += messages.len() as u64;
            let linger = Linger { until, uid, messages, bytes, inherited_bytes: bytes };
            let state = EndpointState::Lingering(linger);
            let endpoint = match known {
                Some(endpoint) => {
                    self.endpoints[endpoint.0].state = state;
                    endpoint
                }
                None => self.insert_endpoint(&name, uid, state),
            };
            self.timers.set(until, Timer::LingerEnd(endpoint));
            self.withdraw_held(endpoint);
        }
    }

    fn loose_again(&mut self, message: LeftMessage) -> LooseMessage {
        let provenance =
            Provenance { waiter: None, arrived: self.now.moment, trace: TraceRef::default() };
        let deadline = message.expires_unix_us.map(|unix_us| self.moment_of(unix_us));
        let seq = message.seq.unwrap_or_else(|| self.next_seq());
        message.into_loose(seq, deadline, provenance)
    }
}

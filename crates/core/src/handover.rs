//! What one process of the bus leaves to the next one: the names that were in use, and what is held for
//! them. In the next process they linger, so that what is sent to them meanwhile is held.

use bytes::Bytes;
use hermes_bus_proto::EndpointName;
use hermes_bus_proto::limits::HEADER_BYTES;

use crate::endpoint::{Endpoint, EndpointKey, EndpointState, Fight, Linger};
use crate::linger::Place;
use crate::outbox::{LooseMessage, Provenance};
use crate::router::Router;
use crate::session::{Session, SessionKey};
use crate::timers::Timer;

/// A name that waits for its session to come back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lingering {
    /// The name.
    pub name: EndpointName,
    /// The user of its last session: only the same user gets what is held.
    pub uid: u32,
    /// What is held for it, oldest first: whole frames with their headers.
    pub frames: Vec<Bytes>,
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

    /// The names that linger now, with what is held for them. After [`Router::shut_down`], when no
    /// connection is left, these are all names.
    pub fn lingering(&self) -> Vec<Lingering> {
        let lingering = self.endpoints.iter().filter_map(|(_, endpoint)| match &endpoint.state {
            EndpointState::Held(_) => None,
            EndpointState::Lingering(linger) => Some(Lingering {
                name: endpoint.name.clone(),
                uid: linger.uid,
                frames: linger.messages.iter().map(|message| message.frame.clone()).collect(),
            }),
        });
        lingering.collect()
    }

    /// Has names linger that an earlier process of the bus has left: from now on, for as long as a name
    /// lingers whose session ends now. A name that is in use already is left alone, and what was held
    /// for it is dropped and counted.
    pub fn restore(&mut self, left: Vec<Lingering>) {
        let now = self.now.moment;
        let until = now.after(self.config.linger);
        for Lingering { name, uid, frames } in left {
            if self.names.contains_key(name.as_str()) {
                self.counters.dropped_receiver_gone += frames.len() as u64;
                continue;
            }
            let linger = Linger { until, uid, ..Linger::default() };
            let endpoint = EndpointKey(self.endpoints.insert(Endpoint {
                name: name.clone(),
                state: EndpointState::Lingering(linger),
                draining: None,
                fight: Fight::default(),
            }));
            self.names.insert(name, endpoint);
            self.timers.set(until, Timer::LingerEnd(endpoint));
            let provenance = Provenance { waiter: None, arrived: now };
            let mut dropped = 0;
            for frame in frames.into_iter().filter(|frame| frame.len() > HEADER_BYTES) {
                dropped += self.hold(endpoint, LooseMessage { frame, provenance }, Place::Back);
            }
            self.held_overflow(endpoint, dropped);
        }
    }
}

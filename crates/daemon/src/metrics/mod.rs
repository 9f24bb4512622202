//! Metrics: what the daemon has counted, for scrapers and people.
//!
//! The driver fills a [`Snapshot`] when it is asked for one. Turning it into text, and talking to
//! whoever reads it, happens on a thread of its own ([`Server`]): routing never waits for that.

mod client;
mod families;
mod label;
mod server;
mod text;

use hermes_bus_core::{Counters, Histogram, Usage};
use hermes_bus_proto::listing::EndpointDetails;

use crate::hooks;

pub use client::{FetchError, fetch};
pub use server::{Reply, Requests, Server};
pub use text::{Form, render};

/// Everything that is measured, at one moment.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// `NAME/VERSION` of the server.
    pub server: String,
    /// Seconds since the daemon began.
    pub uptime_s: f64,
    /// Open connections, registered or not.
    pub connections: usize,
    /// Every counter of the router.
    pub router: Counters,
    /// Memory in use.
    pub usage: Usage,
    /// Every registered endpoint.
    pub endpoints: Vec<Endpoint>,
    /// From a message's arrival until its bytes are in the receiver's socket.
    pub delivery: Histogram,
    /// Turns of the loop: from the wake-up until the thread sleeps again.
    pub turns: Histogram,
    /// What the hooks have done; none where there are none.
    pub hooks: Option<hooks::Counters>,
}

/// One registered endpoint.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// As listings show it.
    pub details: EndpointDetails,
    /// The most bytes that ever waited in this session's queue.
    pub pending_bytes_peak: u64,
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use hermes_bus_proto::listing::{Amount, EndpointState};

    use super::*;

    pub(super) fn endpoint(name: &str, connected_at: f64) -> Endpoint {
        let details = EndpointDetails {
            endpoint: name.to_owned(),
            state: EndpointState::Online,
            session_id: "session-1".to_owned(),
            protocol: 1,
            connected_at,
            uid: 1000,
            pid: 4242,
            pending: Amount { messages: 1, bytes: 5 },
            ..EndpointDetails::default()
        };
        Endpoint { details, pending_bytes_peak: 9 }
    }

    pub(super) fn snapshot() -> Snapshot {
        let mut delivery = Histogram::default();
        delivery.record(Duration::from_micros(3));
        Snapshot {
            server: "hermes-bus/9.9".to_owned(),
            uptime_s: 12.5,
            connections: 4,
            router: Counters { messages: 10, dropped_cut_off: 1, ..Counters::default() },
            usage: Usage { queued: 77, ..Usage::default() },
            endpoints: vec![endpoint("one", 1.0), endpoint("two", 2.0)],
            delivery,
            turns: Histogram::default(),
            hooks: Some(hooks::Counters {
                failed: 3,
                exits: vec![(hooks::Exit::Code(7), 2), (hooks::Exit::Signal(9), 1)],
                ..hooks::Counters::default()
            }),
        }
    }
}

//! Metrics: what the daemon has counted, for scrapers and people.
//!
//! The driver fills a [`Snapshot`] when it is asked for one. Turning it into text, and talking to
//! whoever reads it, happens on a thread of its own ([`Server`]): routing never waits for that.

mod client;
mod families;
mod label;
mod server;
mod text;

use std::path::PathBuf;

use hermes_bus_core::{Counters, Histogram, Usage};
use hermes_bus_proto::listing::EndpointDetails;
use hermes_bus_store::{Figures, Notice, Reader};

use crate::hooks;
use crate::logging::target;

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
    /// What is kept on disk; none where there is to be no store.
    pub store: Option<Store>,
}

/// The store.
#[derive(Clone, Debug, Default)]
pub struct Store {
    /// Whether it takes messages now.
    pub can_write: bool,
    /// Orders that were handed to it.
    pub orders: u64,
    /// Orders of which it is not known yet that they are carried out.
    pub pending: u64,
    /// Messages that could not be kept.
    pub refused: u64,
    /// Times that orders were said to be on disk.
    pub commits: u64,
    /// What was let go of on disk, so far.
    pub removed: Removed,
    /// From the handing over of orders until it was known that they are on disk.
    pub latency: Histogram,
    /// The database, where it can be looked at.
    pub file: Option<PathBuf>,
    /// What was found there; see [`Snapshot::look_at_disk`].
    pub figures: Option<Figures>,
}

/// What the store let go of, so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Dead letters that had been kept for their time.
    pub dead_letters_aged: u64,
    /// Dead letters that were more than may be kept.
    pub dead_letters_displaced: u64,
    /// Entries of the history that were dropped, because the disk did not keep up with them.
    pub history_dropped: u64,
}

impl Removed {
    /// Counts what the store says.
    pub fn note(&mut self, notice: &Notice) {
        match notice {
            Notice::DeadLettersRemoved { aged, displaced } => {
                self.dead_letters_aged += aged;
                self.dead_letters_displaced += displaced;
            }
            Notice::HistoryDropped(entries) => self.history_dropped += entries,
            _ => {}
        }
    }
}

impl Snapshot {
    /// Looks up what only the disk knows. This is not for the routing thread.
    pub fn look_at_disk(&mut self) {
        if let Some(Store { file: Some(file), figures, .. }) = &mut self.store {
            match Reader::open(file).and_then(|reader| reader.figures()) {
                Ok(found) => *figures = Some(found),
                Err(error) => tracing::warn!(target: target::METRICS, "{error}"),
            }
        }
    }
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
            store: Some(Store {
                orders: 9,
                pending: 2,
                figures: Some(Figures { messages: 7, ..Figures::default() }),
                ..Store::default()
            }),
        }
    }
}

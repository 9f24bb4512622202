//! Metrics: what the daemon has counted, as OpenMetrics text.

use hermes_bus_core::{Counters, Histogram, Usage};
use hermes_bus_proto::listing::EndpointDetails;

use crate::hooks;

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

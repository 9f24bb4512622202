//! The measuring engine of `hermes-bus bench`.
//!
//! [`run`] plays [`Case`]s on a bus, over its socket and with real frames, and gives a [`Report`]: latencies,
//! rates, and what the daemon spent. [`plot::svg`] draws its latencies. The load comes from plain threads and
//! blocking sockets: on a machine with two processors, a runtime would cost more than it saves.
//!
//! What the figures stand on:
//!
//! - Whatever was sent is accounted for: receivers check the number and the order of what comes, and a
//!   measurement in which something is missing, doubled or late gives an error and no figure.
//! - Every loop ends: after a time, a number of messages, or when nothing has come for too long.
//! - Nobody else gets anything: names are random, and messages to everybody are only sent where nobody else is,
//!   unless that is asked for.
//!
//! It knows nothing of command lines and prints nothing.

#![forbid(unsafe_code)]

mod durable;
mod error;
mod latency;
mod link;
mod load;
mod pace;
mod plan;
pub mod plot;
mod private;
mod report;
mod run;
mod sessions;
mod site;
mod sys;
mod tally;
mod wire;

pub use error::BenchError;
pub use link::Stop;
pub use plan::{
    Case, PEERS_MAX, Settings, TEXT_BYTES, Workload, cases, parse_bytes, parse_size, parse_sizes,
    show_bytes, suite,
};
pub use report::{
    About, BusInfo, Curve, Failure, IdleRow, Latency, Report, Row, Spread, SteadyRow, with_commas,
};
pub use run::{Target, run};
pub use sys::Machine;

//! The daemon of the hermes bus: sockets, clocks, files and processes around the router.
//!
//! - [`server`] runs a bus in this process: `driver` is its loop, `door` its listening socket.
//! - [`config`] is what users may set.
//! - [`manager`] starts, stops and examines one from outside.
//!
//! No rule about routing or limits is in here: those are the router's.

pub mod config;
pub mod hooks;
pub mod logging;
pub mod manager;
pub mod metrics;
pub mod root;
pub mod server;

mod connection;
mod door;
mod driver;
mod lock;
mod report;
mod signals;
mod sys;

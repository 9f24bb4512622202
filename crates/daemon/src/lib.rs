//! The daemon of the hermes bus: sockets, clocks, files and processes around the router.
//!
//! - [`server`] runs a bus in this process: `driver` is its loop, `door` its listening socket.
//! - [`config`] reads the configuration, [`hooks`] runs programs for messages, [`logging`] writes lines,
//!   [`metrics`] tells what was counted, `storage` hands over what is to be kept on disk.
//! - [`service`] speaks to a service manager, and installs the bus as a service.
//! - [`manager`] starts, stops and examines one from outside; [`doctor`] looks for what is wrong.
//!
//! No rule about routing or limits is in here: those are the router's.

pub mod config;
pub mod doctor;
pub mod hooks;
pub mod logging;
pub mod manager;
pub mod metrics;
pub mod root;
pub mod server;
pub mod service;

mod connection;
mod control;
mod door;
mod driver;
mod history;
mod lock;
mod private_socket;
mod report;
mod signals;
mod storage;
mod succession;
mod surroundings;
mod sys;

pub use sys::is_ignored;

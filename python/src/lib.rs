//! The native half of the Python package: what the Rust client does, for Python to call.
//!
//! Nothing here knows the protocol, and nothing decides anything: that is the client's business. What
//! is decided here is where Python's lock is held, how Ctrl-C gets through, and what a fork means.

#![forbid(unsafe_code)]

mod bus;
mod client;
mod failure;
mod message;
mod operation;
mod process;

use pyo3::prelude::*;

#[pymodule]
mod _native {
    #[pymodule_export]
    use crate::bus::Bus;
    #[pymodule_export]
    use crate::bus::{default_root, default_socket};
    #[pymodule_export]
    use crate::client::Client;
    #[pymodule_export]
    use crate::message::Outgoing;
    #[pymodule_export]
    use crate::operation::Operation;
    #[pymodule_export]
    use crate::process::forked;
}

//! A client of the hermes bus.
//!
//! For now the blocking calls that the daemon manager and the demo need: connect, register, send,
//! receive, list. Every call has a deadline; none waits for ever on a daemon that hangs.
//!
//! ```no_run
//! use std::{path::Path, time::Duration};
//! use hermes_bus_client::blocking::Connection;
//!
//! let patience = Duration::from_secs(2);
//! let mut bus = Connection::open(Path::new("/home/me/.hermes/hermes-bus.sock"), patience)?;
//! bus.register("my-service", patience)?;
//! bus.send("lead-agent", &serde_json::json!({"text": "hello", "type": "ack"}))?;
//! # Ok::<(), hermes_bus_client::ClientError>(())
//! ```

#![forbid(unsafe_code)]

pub mod blocking;
mod error;

pub use error::ClientError;

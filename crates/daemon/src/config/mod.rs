//! The configuration: every limit and policy that a user may set, from `config.yaml`, the environment
//! and the command line.
//!
//! [`keys`](mod@keys) is the one table of what can be set. Reading, checking, showing, comparing and the
//! reference all walk it, so a key is described once. `yaml` reads text under limits and knows where
//! everything stands; `value` knows the kinds of values, `scalars`, `lists` and `access` read and write them; `sources` puts the layers on top of each
//! other. Secrets never appear in anything that is shown.

mod access;
mod changes;
mod environment;
mod error;
mod files;
pub mod keys;
mod lists;
mod reference;
mod scalars;
mod show;
mod sources;
mod value;
mod yaml;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use crate::{hooks, logging};

pub use changes::{Change, Changes};
pub use error::{ConfigError, Place, Position, Problem};
pub use reference::reference;
pub use scalars::parse_time;
pub use sources::{Loaded, Origin, Sources, parse};

/// Most bytes of a configuration file (256 KiB). People write these by hand; a larger one is a mistake.
pub const FILE_BYTES_MAX: u64 = 256 * 1024;

/// Everything that can be set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Limits and delays of the router. Its `server` and `owner_uid` are not a user's to set: whoever
    /// starts the router sets them.
    pub router: hermes_bus_core::Config,
    /// Files that tokens of [`Config::protected`](hermes_bus_core::Config::protected) were read from, by
    /// the protected name; for showing them.
    pub token_files: BTreeMap<String, PathBuf>,
    /// What is kept on disk, besides what the router is told of it.
    pub store: Store,
    /// The bus's socket.
    pub socket: Socket,
    /// Limits of all hooks together.
    pub hooks: hooks::Limits,
    /// How to log.
    pub log: logging::Settings,
    /// Where metrics are read.
    pub metrics: Metrics,
}

/// What is kept on disk, and for how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Store {
    /// Whether anything is.
    pub is_enabled: bool,
    /// How long dead letters are kept.
    pub dead_letters_for: Duration,
    /// How many bytes of them.
    pub dead_letters_bytes_max: u64,
    /// What is kept of every message that is routed.
    pub history: HistoryOf,
    /// How long it is kept.
    pub history_for: Duration,
    /// How many bytes of it.
    pub history_bytes_max: u64,
}

impl Default for Store {
    fn default() -> Self {
        const WEEK: Duration = Duration::from_secs(7 * 24 * 3_600);
        const MIB: u64 = 1024 * 1024;
        Store {
            is_enabled: true,
            dead_letters_for: WEEK,
            dead_letters_bytes_max: 64 * MIB,
            history: HistoryOf::Nothing,
            history_for: WEEK,
            history_bytes_max: 256 * MIB,
        }
    }
}

/// What is kept of every message that is routed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HistoryOf {
    /// Nothing.
    Nothing,
    /// Who wrote to whom and when, without content.
    Envelopes,
    /// All of it.
    Messages,
}

/// The bus's socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Socket {
    /// Connections that wait to be accepted; the kernel may allow fewer (`net.core.somaxconn`).
    pub backlog: u32,
}

impl Default for Socket {
    fn default() -> Self {
        Socket { backlog: 4_096 }
    }
}

/// Where metrics are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metrics {
    /// Whether there is a socket for them, `ROOT/run/metrics.sock`.
    pub socket: bool,
}

impl Default for Metrics {
    fn default() -> Self {
        Metrics { socket: true }
    }
}

#[cfg(test)]
mod tests;

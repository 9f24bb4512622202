//! Hooks: programs that are run for every message that was routed.
//!
//! They have a thread of their own. Routing never waits for it: it hands over what went through, and
//! goes on; what the thread cannot take in time is dropped, the oldest first, and counted.
//!
//! - [`resolve`] finds out which hooks there are; `entries` reads their file.
//! - [`runner`] has the thread. `queue` keeps the calls that wait; `call` sees one child process from
//!   its start to its end, `pipes` what goes into it and comes out; `program` knows how a file is run.

use std::fmt;
use std::time::Duration;

mod call;
mod complaints;
mod entries;
mod facts;
mod hook;
mod pipes;
pub(crate) mod program;
mod queue;
pub mod resolve;
pub mod runner;
mod tally;

pub use entries::TIMEOUT_S_MAX;
pub use hermes_bus_proto::Pattern;
pub use hook::{Filter, Hook};
pub use program::{PYTHON_VARIABLE, keep_files_from_children};
pub use resolve::{Environment, Found, Source};
pub use runner::Runner;

/// Limits of all hooks together, as the configuration has them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Hooks that run at the same time.
    pub concurrency: usize,
    /// Calls that wait for their turn; when one more comes, the oldest is dropped.
    pub waiting_max: usize,
    /// Bytes of the messages of waiting calls; over it, the oldest calls are dropped.
    pub waiting_bytes_max: usize,
    /// How long a hook may run.
    pub timeout: Duration,
    /// How long it may take to end when it is asked to, before it is killed.
    pub kill_after: Duration,
    /// Bytes of a hook's output that are kept for the log.
    pub output_bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            concurrency: 4,
            waiting_max: 1_000,
            waiting_bytes_max: 64 * 1024 * 1024,
            timeout: Duration::from_secs(600),
            kill_after: Duration::from_secs(5),
            output_bytes_max: 4 * 1024,
        }
    }
}

/// How a process has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// With this exit code.
    Code(u8),
    /// By this signal.
    Signal(u8),
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Exit::Code(code) => write!(f, "exit code {code}"),
            Exit::Signal(signal) => write!(f, "signal {signal}"),
        }
    }
}

/// What hooks have done so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Calls that ended with exit code 0.
    pub succeeded: u64,
    /// Calls that ended with another exit code or by a signal of their own.
    pub failed: u64,
    /// Calls that were ended because their time was up.
    pub timed_out: u64,
    /// Calls whose program could not be started.
    pub not_started: u64,
    /// Calls whose file was missing or a directory.
    pub skipped: u64,
    /// Waiting calls that were dropped to make room for newer ones.
    pub dropped: u64,
    /// How calls ended that ended by themselves, with exit code 0 too: each way that has occurred, and
    /// how often.
    pub exits: Vec<(Exit, u64)>,
    /// Calls that run now.
    pub running: u64,
    /// Calls that wait now.
    pub waiting: u64,
}

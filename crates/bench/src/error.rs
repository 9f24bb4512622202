//! Why a measurement came to nothing.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// Why a measurement came to nothing, in words for people.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// Somebody asked for the end.
    #[error("interrupted")]
    Interrupted,
    /// Another thread of the same measurement failed, and says why.
    #[error("another part of the measurement failed")]
    Elsewhere,
    /// No connection.
    #[error("cannot connect to {}: {source}", socket.display())]
    Connect {
        /// The bus's socket.
        socket: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A socket failed.
    #[error("cannot {doing}: {source}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The bus ended a connection.
    #[error("the bus closed the connection of {whose}")]
    Closed {
        /// Whose it was.
        whose: String,
    },
    /// The bus refused something.
    #[error("the bus refused {what}: {detail}")]
    Refused {
        /// What was refused.
        what: String,
        /// The bus's error code.
        code: String,
        /// The bus's words.
        detail: String,
    },
    /// Something did not come.
    #[error("{what} within {patience:?}")]
    Silent {
        /// What did not come.
        what: String,
        /// How long it was waited for.
        patience: Duration,
    },
    /// Something was lost, came twice, or in another order.
    #[error("{0}")]
    Wrong(String),
    /// What answers does not speak the protocol.
    #[error("what listens there is no hermes bus: {0}")]
    NotABus(String),
    /// The bus is too old for a workload.
    #[error("the bus only speaks level 1 of the protocol, and '{workload}' needs level 2")]
    NeedsLevel2 {
        /// The workload.
        workload: &'static str,
    },
    /// Messages would reach endpoints that have nothing to do with the measurement.
    #[error(
        "{who} would get every message of '{workload}': measure a private bus, or ask for it with --broadcast"
    )]
    OthersConnected {
        /// The workload.
        workload: &'static str,
        /// Who is there.
        who: String,
    },
    /// No private bus.
    #[error("{0}")]
    NoPrivateBus(String),
    /// The limit of open files.
    #[error("{0}")]
    OpenFiles(String),
}

impl BenchError {
    /// A word for scripts: one of the bus's error codes, or one of these.
    pub fn code(&self) -> &str {
        match self {
            BenchError::Interrupted | BenchError::Elsewhere => "interrupted",
            BenchError::Connect { .. } => "cannot_connect",
            BenchError::Io { .. } => "io",
            BenchError::Closed { .. } => "closed",
            BenchError::Refused { code, .. } => code,
            BenchError::Silent { .. } => "no_answer",
            BenchError::Wrong(_) => "wrong_messages",
            BenchError::NotABus(_) => "not_a_bus",
            BenchError::NeedsLevel2 { .. } => "needs_level_2",
            BenchError::OthersConnected { .. } => "others_connected",
            BenchError::NoPrivateBus(_) => "start_failed",
            BenchError::OpenFiles(_) => "open_files",
        }
    }

    /// Of two threads that failed over the same thing, the one that knows more about it is to be heard.
    pub(crate) fn says_more_than(&self, other: &BenchError) -> bool {
        let rank = |error: &BenchError| match error {
            BenchError::Elsewhere => 0,
            BenchError::Io { .. } => 1,
            BenchError::Silent { .. } => 2,
            BenchError::Closed { .. } => 3,
            BenchError::Wrong(_) => 4,
            _ => 5,
        };
        rank(self) > rank(other)
    }
}

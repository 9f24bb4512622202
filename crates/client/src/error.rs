//! What can go wrong between a client and the bus.

use std::io;
use std::path::PathBuf;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nothing listens on the socket, or it may not be used.
    #[error("cannot connect to {path}: {source}")]
    Connect {
        /// The socket's path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The bus did not answer in time.
    #[error("the bus did not answer within {0:?}")]
    Timeout(std::time::Duration),
    /// The bus closed the connection.
    #[error("the bus closed the connection")]
    Closed,
    /// The bus refused something.
    #[error("the bus refused: {code}: {detail}")]
    Refused {
        /// The error code, as it came.
        code: String,
        /// What the bus said about it.
        detail: String,
    },
    /// The bus sent something that cannot be understood.
    #[error("the bus sent something unexpected: {0}")]
    Unexpected(String),
    /// Reading or writing failed.
    #[error("the connection broke: {0}")]
    Io(io::Error),
}

impl ClientError {
    /// Whether the other side accepted the connection but did not answer in time.
    pub fn is_timeout(&self) -> bool {
        matches!(self, ClientError::Timeout(_))
    }
}

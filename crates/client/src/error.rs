//! What can go wrong, one enum for each thing a client does.

use std::io;
use std::time::Duration;

use hermes_bus_proto::FrameError;
use hermes_bus_proto::control::Status;

use crate::event::WhyLost;
use crate::start::StartError;

/// Why there is no connection to the bus, or no session on it.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Nothing listens.
    #[error("no bus listens on {address}")]
    NoBus {
        /// Where it was looked for.
        address: String,
    },
    /// There was no bus, and starting one failed.
    #[error("no bus listens on {address}, and it could not be started: {source}")]
    Start {
        /// Where it was looked for.
        address: String,
        /// What went wrong.
        source: StartError,
    },
    /// The socket cannot be used.
    #[error("cannot connect to {address}: {source}")]
    Io {
        /// Where to.
        address: String,
        /// What the system said.
        source: io::Error,
    },
    /// The bus did not take the connection, or did not answer, in time.
    #[error("the bus on {address} did not answer within {patience:?}")]
    NoAnswer {
        /// Where it is.
        address: String,
        /// How long was waited.
        patience: Duration,
    },
    /// The bus refused the name.
    #[error("the bus refused the name: {detail} ({code})")]
    Refused {
        /// The error code, as it came.
        code: String,
        /// What the bus said about it.
        detail: String,
    },
    /// Another session holds the name, and [`crate::Conflict::Refuse`] was asked for.
    #[error("the name '{name}' is taken by another session on {address}")]
    NameTaken {
        /// The name.
        name: String,
        /// Where the bus is.
        address: String,
    },
    /// The connection ended before the bus had answered.
    #[error("the bus on {address} closed the connection")]
    Closed {
        /// Where it is.
        address: String,
    },
    /// The bus speaks level 1 of the protocol only, which cannot do what was asked for.
    #[error("the bus on {address} is too old for {what}: it speaks level 1 of the protocol only")]
    NeedsLevel2 {
        /// Where it is.
        address: String,
        /// What it cannot do.
        what: &'static str,
    },
    /// What answers there does not speak this protocol.
    #[error("what listens on {address} is no hermes bus: {reason}")]
    NotABus {
        /// Where it is.
        address: String,
        /// What it sent.
        reason: String,
    },
}

/// Why a call on a connection has no result.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// There is no connection.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The bus refused what was asked.
    #[error("{detail} ({code})")]
    Refused {
        /// The error code, as it came.
        code: String,
        /// What the bus said about it.
        detail: String,
        /// Names that may have been meant, where the bus knows some.
        suggestions: Vec<String>,
    },
    /// The bus speaks level 1 of the protocol only. A message that was sent all the same has been
    /// taken.
    #[error("the bus is too old for {what}: it speaks level 1 of the protocol only")]
    NeedsLevel2 {
        /// What it cannot do.
        what: &'static str,
    },
    /// The client is closed.
    #[error("the client is closed")]
    ClientClosed,
    /// The message is no frame that the bus would take: it is over the limit, or nested too deep.
    #[error(transparent)]
    Message(#[from] FrameError),
    /// The bus took the connection but did not answer in time. A message may have arrived or not.
    #[error("the bus did not answer within {0:?}")]
    NoAnswer(Duration),
    /// The bus closed the connection before it answered. A message may have arrived or not.
    #[error("the bus closed the connection before it answered")]
    Closed,
    /// The bus sent something that is not in the protocol.
    #[error("the bus sent something unexpected: {0}")]
    Unexpected(String),
    /// Reading or writing failed.
    #[error("the connection broke: {0}")]
    Io(io::Error),
}

/// Why [`crate::Client::send`] did not hand over a message. It has not been sent, and will not be.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// The message is no frame that the bus would take: it is over the limit, or nested too deep.
    #[error(transparent)]
    Message(#[from] FrameError),
    /// There was no connection to the bus for this long, or the bus did not read from it.
    #[error("the bus did not take the message within {0:?}")]
    NotTaken(Duration),
    /// The client is closed: by its owner, because another client took its name, or because the bus
    /// refused it.
    #[error("the client is closed")]
    Closed,
}

/// Why there is no receipt for a message of [`crate::Client::submit`].
#[derive(Debug, thiserror::Error)]
pub enum ReceiptError {
    /// It was not sent, and will not be.
    #[error(transparent)]
    Send(#[from] SendError),
    /// It cannot come as far as was asked for.
    #[error("{detail} ({code})")]
    Refused {
        /// The error code, as it came.
        code: String,
        /// What the bus said about it.
        detail: String,
        /// How far it has come all the same, where the bus says so.
        reached: Option<Status>,
        /// Names that may have been meant, where the bus knows some.
        suggestions: Vec<String>,
    },
    /// The session ended before the bus had answered. The message may have arrived or not.
    #[error("{0} before the bus had answered; the message may have arrived or not")]
    Unknown(WhyLost),
    /// The bus had not answered by the time up to which the message was to be sent again. It may have
    /// arrived or not.
    #[error("the bus did not answer in time; the message may have arrived or not")]
    OutOfTime,
    /// Another message of this client with the same id still waits for its receipt.
    #[error("a message with this id is already waiting for its receipt")]
    Duplicate,
    /// The bus speaks level 1 of the protocol only, and gives no receipts to clients with a name.
    #[error("the bus is too old for receipts: it speaks level 1 of the protocol only")]
    NeedsLevel2,
    /// The bus gave a receipt with a status that is not in the protocol.
    #[error("the bus gave a receipt with the status '{0}'")]
    Unexpected(String),
}

/// Why a request has no reply.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// The request itself did not get through.
    #[error(transparent)]
    Send(#[from] CallError),
    /// The request got through; a reply did not come in time.
    #[error("no reply came within {0:?}")]
    NoReply(Duration),
    /// The client was closed meanwhile.
    #[error("the client is closed")]
    Closed,
    /// Another request of this client with the same id still waits.
    #[error("a request with this id is already waiting for its reply")]
    Duplicate,
}

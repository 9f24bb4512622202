//! What happens to a client's session, as its owner hears of it.

use std::time::Duration;

use tokio::sync::broadcast;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};

use crate::sighting::Gap;

/// Something that happened to a client's session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The name is registered again. What was sent to it while the client was away is held by the
    /// bus for 3 s, and lost after that.
    Reconnected {
        /// UUID of the new session.
        session_id: String,
    },
    /// The session ended. The client tries to come back.
    Disconnected {
        /// What ended it.
        why: WhyLost,
    },
    /// An attempt to come back failed.
    RetryFailed {
        /// How many have failed since a session last stood.
        attempts: u32,
        /// Why this one failed.
        error: String,
    },
    /// Messages were dropped because the receive queue was full (see [`crate::WhenFull`]), or
    /// because the [`crate::Inbox`] has been dropped.
    Dropped {
        /// How many, since the last such event.
        messages: u64,
    },
    /// What this client was subscribed to and could not take.
    Gap(Gap),
    /// The bus refused something that this client sent.
    Refused {
        /// The error code, as it came.
        code: String,
        /// What the bus said about it.
        detail: String,
        /// The `id` of the message that it is about, where there was one.
        id: Option<String>,
    },
    /// The client is closed and does not come back.
    Closed {
        /// Why.
        why: WhyLost,
    },
    /// The reader of the events was too slow; this many are missing here.
    Missed(u64),
}

/// Why a session ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WhyLost {
    /// The bus closed the connection, or the connection broke.
    ConnectionClosed,
    /// The bus said that it would close the connection, and why.
    Bye(String),
    /// The bus did not answer for this long.
    Silent(Duration),
    /// The bus sent something that is not in the protocol.
    Unexpected(String),
    /// Another session has taken the name. To come back would take it away again, so the client is
    /// closed.
    Replaced,
    /// The bus refused the name, for good.
    Refused {
        /// The error code, as it came.
        code: String,
        /// What the bus said about it.
        detail: String,
    },
    /// The bus that came back speaks level 1 of the protocol only, which cannot do this.
    NeedsLevel2(&'static str),
    /// Its owner closed the client.
    ByOwner,
    /// The runtime that the client lived on was shut down.
    RuntimeEnded,
}

impl std::fmt::Display for WhyLost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            WhyLost::ConnectionClosed => write!(f, "the connection ended"),
            WhyLost::Bye(reason) => write!(f, "the bus closed the connection ({reason})"),
            WhyLost::Silent(patience) => write!(f, "the bus did not answer for {patience:?}"),
            WhyLost::Unexpected(what) => write!(f, "the bus sent something unexpected: {what}"),
            WhyLost::Replaced => write!(f, "another session has taken the name"),
            WhyLost::Refused { code, detail } => {
                write!(f, "the bus refused the name: {detail} ({code})")
            }
            WhyLost::NeedsLevel2(what) => {
                write!(f, "the bus that came back is too old for {what}")
            }
            WhyLost::ByOwner => write!(f, "closed"),
            WhyLost::RuntimeEnded => write!(f, "the runtime was shut down"),
        }
    }
}

/// The [`Event`]s of a client, one after the other. Holds the last 64; a reader that falls
/// further behind sees [`Event::Missed`].
#[derive(Debug)]
pub struct Events {
    receiver: broadcast::Receiver<Event>,
    is_over: bool,
}

pub(crate) const EVENTS_HELD: usize = 64;

impl Events {
    /// `is_over`: the client is closed already.
    pub(crate) fn new(receiver: broadcast::Receiver<Event>, is_over: bool) -> Self {
        Events { receiver, is_over }
    }

    /// The next event. `None` after the last one, [`Event::Closed`].
    pub async fn next(&mut self) -> Option<Event> {
        if self.is_over {
            return self.try_next();
        }
        let event = match self.receiver.recv().await {
            Ok(event) => event,
            Err(RecvError::Lagged(missed)) => Event::Missed(missed),
            Err(RecvError::Closed) => return None,
        };
        Some(self.note(event))
    }

    /// An event that is there already.
    pub fn try_next(&mut self) -> Option<Event> {
        match self.receiver.try_recv() {
            Ok(event) => Some(self.note(event)),
            Err(TryRecvError::Lagged(missed)) => Some(Event::Missed(missed)),
            Err(TryRecvError::Empty | TryRecvError::Closed) => None,
        }
    }

    fn note(&mut self, event: Event) -> Event {
        self.is_over |= matches!(event, Event::Closed { .. });
        event
    }
}

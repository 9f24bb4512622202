//! What the router wants done, and what it tells about.

use core::fmt;

use bytes::Bytes;
use hermes_bus_proto::EndpointName;

use crate::session::SessionKey;

/// Something for the driver to carry out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// The session is over: close its connection now. Its key means nothing any more.
    Close(SessionKey, CloseReason),
    /// Go on with this session: first with the frames that were kept, then with reading.
    Resume(SessionKey),
    /// The daemon's own user asks for something that is not the router's to do: the payload of its
    /// `admin` frame. To be answered with [`Router::answer_admin`](crate::Router::answer_admin).
    Admin(SessionKey, Bytes),
    /// For the log.
    Log(Event),
}

/// Why a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// The peer closed, and everything it asked for was answered.
    PeerClosed,
    /// The connection broke.
    ConnectionLost,
    /// A newer session took the name.
    Replaced,
    /// The peer broke the protocol and was told so.
    Refused,
    /// A registered session was silent for too long.
    Heartbeat,
    /// A frame was not completed in time.
    FrameTimeout,
    /// The peer did not read what was left for it.
    DrainTimeout,
    /// The bus is going down.
    ShuttingDown,
}

impl CloseReason {
    /// One word for logs.
    pub fn as_str(self) -> &'static str {
        match self {
            CloseReason::PeerClosed => "peer_closed",
            CloseReason::ConnectionLost => "connection_lost",
            CloseReason::Replaced => "replaced",
            CloseReason::Refused => "refused",
            CloseReason::Heartbeat => "heartbeat",
            CloseReason::FrameTimeout => "frame_timeout",
            CloseReason::DrainTimeout => "drain_timeout",
            CloseReason::ShuttingDown => "shutting_down",
        }
    }
}

/// Something worth a line in the log. Never holds anything of a message's content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A session took a name.
    Registered {
        /// The name.
        name: EndpointName,
        /// Its session id.
        session_id: String,
    },
    /// A registered session ended.
    Ended {
        /// Its name.
        name: EndpointName,
        /// Why.
        reason: CloseReason,
    },
    /// Sessions keep taking one name from each other.
    Fight {
        /// The name.
        name: EndpointName,
        /// Pause before the next `registered`.
        pause_ms: u64,
    },
    /// A receiver's queue stayed full; messages for it are dropped from now on.
    StallBegan {
        /// The receiver.
        name: EndpointName,
        /// Bytes queued.
        queued_bytes: usize,
    },
    /// The receiver reads again.
    StallEnded {
        /// The receiver.
        name: EndpointName,
        /// Messages dropped meanwhile.
        dropped: u64,
    },
    /// A broadcast did not fit into a receiver's queue.
    BroadcastDropped {
        /// The receiver.
        name: EndpointName,
    },
    /// Messages waited for an endpoint that did not come back.
    HeldDropped {
        /// The endpoint.
        name: EndpointName,
        /// How many.
        messages: u64,
    },
    /// More messages came for an endpoint that was away for a moment than can be held.
    HeldOverflow {
        /// The endpoint.
        name: EndpointName,
        /// How many.
        messages: u64,
    },
    /// A receiver ended without having read on.
    StalledToTheEnd {
        /// The receiver.
        name: EndpointName,
        /// Messages dropped meanwhile.
        dropped: u64,
    },
    /// A registered sender, who hears nothing of it, wrote to somebody who is not there.
    NotFound {
        /// The sender.
        sender: EndpointName,
    },
    /// A receiver's connection ended in the middle of a message, or with messages that nobody else
    /// can get.
    CutOff {
        /// The receiver.
        name: EndpointName,
        /// How many.
        messages: u64,
    },
    /// A peer broke the protocol.
    Misbehaved {
        /// Its user.
        uid: u32,
        /// Its process.
        pid: u32,
        /// What it did.
        what: String,
    },
    /// Unfinished frames have used up their budget.
    IntakeFull {
        /// Bytes held.
        bytes: usize,
    },
}

/// How much a log line matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// Somebody should look.
    Warning,
    /// Ordinary life.
    Debug,
}

impl Event {
    /// How much this matters.
    pub fn severity(&self) -> Severity {
        match self {
            Event::Registered { .. } | Event::Ended { .. } | Event::NotFound { .. } => {
                Severity::Debug
            }
            _ => Severity::Warning,
        }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Event::Registered { name, session_id } => {
                write!(f, "register: {:?} (session={})", name.as_str(), &session_id[..8])
            }
            Event::Ended { name, reason } => {
                write!(f, "disconnect: {:?} ({})", name.as_str(), reason.as_str())
            }
            Event::Fight { name, pause_ms } => write!(
                f,
                "several clients keep taking the name {:?} from each other; registering it is \
                 slowed down by {pause_ms} ms and more",
                name.as_str()
            ),
            Event::StallBegan { name, queued_bytes } => write!(
                f,
                "{:?} does not read: {queued_bytes} bytes are queued for it; messages for it are \
                 dropped until it has read half of them",
                name.as_str()
            ),
            Event::StallEnded { name, dropped } => {
                write!(f, "{:?} reads again; messages for it dropped: {dropped}", name.as_str())
            }
            Event::BroadcastDropped { name } => {
                write!(f, "a broadcast was dropped for {:?}: its queue is full", name.as_str())
            }
            Event::HeldDropped { name, messages } => write!(
                f,
                "messages for {:?} dropped: {messages}; its session ended and it did not come back \
                 for them in time",
                name.as_str()
            ),
            Event::HeldOverflow { name, messages } => write!(
                f,
                "messages for {:?} dropped: {messages}; its session ended, and more came for it \
                 than can be held",
                name.as_str()
            ),
            Event::StalledToTheEnd { name, dropped } => {
                write!(
                    f,
                    "{:?} ended without reading on; messages dropped: {dropped}",
                    name.as_str()
                )
            }
            Event::NotFound { sender } => {
                write!(f, "{:?} wrote to an endpoint that is not there", sender.as_str())
            }
            Event::CutOff { name, messages } => write!(
                f,
                "the connection of {:?} ended; messages it had not got whole: {messages}",
                name.as_str()
            ),
            Event::Misbehaved { uid, pid, what } => write!(f, "peer pid={pid} uid={uid}: {what}"),
            Event::IntakeFull { bytes } => write!(
                f,
                "{bytes} bytes of unfinished frames: reading pauses for all but the one that is \
                 nearest to its end"
            ),
        }
    }
}

//! What the router wants done, and what it tells about.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use bytes::Bytes;
use hermes_bus_proto::{EndpointName, ErrorCode, Raw};

use crate::session::{Session, SessionKey};
use crate::storage::{Order, Ticket};

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
    /// Somebody asks where a message is: the payload of a `trace` frame. To be answered with
    /// [`Router::answer_admin`](crate::Router::answer_admin), from [`Router::trace_of`](crate::Router::trace_of) and what
    /// is known on disk.
    Trace(SessionKey, Bytes),
    /// Look whether the peer of this session has read everything that its socket was given, and say
    /// [`Router::has_read_all`](crate::Router::has_read_all) if so.
    LookWhetherRead(SessionKey),
    /// For whoever keeps things on disk. Answered with [`Router::storage`](crate::Router::storage).
    Store(Ticket, Order),
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

/// Who did it, as far as the bus knows.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Peer {
    /// The name, if one is registered.
    pub endpoint: Option<EndpointName>,
    /// User id.
    pub uid: u32,
    /// Process id; 0 where it cannot be seen from here.
    pub pid: u32,
}

impl Peer {
    pub(crate) fn of(session: &Session) -> Self {
        let endpoint = session.registration().map(|registration| registration.name.clone());
        Peer { endpoint, uid: session.credentials.uid, pid: session.credentials.pid }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Peer { endpoint, uid, pid } = self;
        match endpoint {
            Some(name) => write!(f, "{:?} (pid={pid} uid={uid})", name.as_str()),
            None => write!(f, "peer pid={pid} uid={uid}"),
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
    /// A message was refused: nobody of that name is there. A registered sender hears nothing of it.
    NotFound {
        /// The sender.
        peer: Peer,
        /// The name, or its beginning, as released buses show it.
        wanted: String,
    },
    /// A message was refused: it is over the limit with the fields that the bus adds.
    TooLarge {
        /// The sender.
        peer: Peer,
        /// What it would have been.
        bytes: usize,
    },
    /// A frame was passed over.
    Ignored {
        /// The sender.
        peer: Peer,
        /// Why.
        what: &'static str,
    },
    /// A registered session was ended for its silence.
    Silent {
        /// Whose.
        peer: Peer,
    },
    /// A connection was ended because its peer did not read what was left for it.
    LeftUnread {
        /// Whose.
        peer: Peer,
    },
    /// A receiver's connection ended in the middle of a message, or with messages that nobody else
    /// can get.
    CutOff {
        /// The receiver.
        name: EndpointName,
        /// How many.
        messages: u64,
    },
    /// A message will not be delivered, and nobody was told.
    GivenUp {
        /// The endpoint that it was for.
        name: EndpointName,
        /// Why.
        code: ErrorCode,
    },
    /// A message that must be kept could not be.
    NotKept {
        /// The endpoint that it was for.
        name: EndpointName,
        /// Why.
        code: ErrorCode,
    },
    /// Messages were lost on their way to the disk, and nobody was told.
    StoreLost {
        /// How many.
        messages: u64,
    },
    /// Nothing can be kept on disk.
    StoreTrouble {
        /// Why.
        why: String,
    },
    /// The disk can be written to again.
    StoreWorksAgain,
    /// A peer broke the protocol.
    Misbehaved {
        /// Who.
        peer: Peer,
        /// What it did.
        what: String,
    },
    /// Unfinished frames have used up their budget.
    IntakeFull {
        /// Bytes held.
        bytes: usize,
        /// Who holds the most of them, and how many.
        most: Option<(Peer, usize)>,
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

/// What is known of an event, each by itself: the fields of a structured log line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fields<'a> {
    /// The kind of event, in snake case.
    pub event: &'static str,
    /// The name of the endpoint that it is about.
    pub endpoint: Option<&'a str>,
    /// The user of who is to blame.
    pub uid: Option<u32>,
    /// The process of who is to blame.
    pub pid: Option<u32>,
    /// Messages concerned.
    pub messages: Option<u64>,
    /// Bytes concerned.
    pub bytes: Option<u64>,
    /// Why, in one word.
    pub reason: Option<&'static str>,
}

impl<'a> Fields<'a> {
    fn of_endpoint(event: &'static str, name: &'a EndpointName) -> Self {
        Fields { event, endpoint: Some(name.as_str()), ..Fields::default() }
    }

    fn of_peer(event: &'static str, peer: &'a Peer) -> Self {
        let endpoint = peer.endpoint.as_ref().map(EndpointName::as_str);
        Fields { event, endpoint, uid: Some(peer.uid), pid: Some(peer.pid), ..Fields::default() }
    }

    fn messages(self, messages: u64) -> Self {
        Fields { messages: Some(messages), ..self }
    }

    fn bytes(self, bytes: usize) -> Self {
        Fields { bytes: Some(bytes as u64), ..self }
    }
}

/// The beginning of a value that a peer has sent, for the log.
pub(crate) fn beginning(value: Option<Raw<'_>>) -> String {
    const BYTES_MAX: usize = 80;
    let mut shown = Vec::new();
    if let Some(value) = value.filter(|value| value.as_bytes().len() <= NAME_BYTES_MAX) {
        value.append_shown_by_python(&mut shown);
    }
    let is_cut = shown.len() > BYTES_MAX;
    shown.truncate(BYTES_MAX);
    let mut text = String::from_utf8_lossy(&shown).into_owned();
    if is_cut {
        text.push('…');
    }
    text
}

/// No longer value can be a name.
const NAME_BYTES_MAX: usize = 64 * 1024;

impl Event {
    /// How much this matters.
    pub fn severity(&self) -> Severity {
        match self {
            Event::Registered { .. } | Event::Ended { .. } => Severity::Debug,
            _ => Severity::Warning,
        }
    }

    /// What is known of it, each by itself.
    pub fn fields(&self) -> Fields<'_> {
        use Fields as F;
        match self {
            Event::Registered { name, .. } => F::of_endpoint("registered", name),
            Event::Ended { name, reason } => {
                F { reason: Some(reason.as_str()), ..F::of_endpoint("ended", name) }
            }
            Event::Fight { name, .. } => F::of_endpoint("fight", name),
            Event::StallBegan { name, queued_bytes } => {
                F::of_endpoint("stall_began", name).bytes(*queued_bytes)
            }
            Event::StallEnded { name, dropped } => {
                F::of_endpoint("stall_ended", name).messages(*dropped)
            }
            Event::BroadcastDropped { name } => {
                F::of_endpoint("broadcast_dropped", name).messages(1)
            }
            Event::HeldDropped { name, messages } => {
                F::of_endpoint("held_dropped", name).messages(*messages)
            }
            Event::HeldOverflow { name, messages } => {
                F::of_endpoint("held_overflow", name).messages(*messages)
            }
            Event::StalledToTheEnd { name, dropped } => {
                F::of_endpoint("stalled_to_the_end", name).messages(*dropped)
            }
            Event::CutOff { name, messages } => F::of_endpoint("cut_off", name).messages(*messages),
            Event::NotFound { peer, .. } => F::of_peer("not_found", peer).messages(1),
            Event::TooLarge { peer, bytes } => {
                F::of_peer("too_large", peer).messages(1).bytes(*bytes)
            }
            Event::Ignored { peer, .. } => F::of_peer("ignored", peer),
            Event::Silent { peer } => F::of_peer("silent", peer),
            Event::LeftUnread { peer } => F::of_peer("left_unread", peer),
            Event::GivenUp { name, code } => {
                let fields = F::of_endpoint("given_up", name).messages(1);
                F { reason: Some(code.as_str()), ..fields }
            }
            Event::NotKept { name, code } => {
                let fields = F::of_endpoint("not_kept", name).messages(1);
                F { reason: Some(code.as_str()), ..fields }
            }
            Event::StoreLost { messages } => {
                F { event: "store_lost", ..F::default() }.messages(*messages)
            }
            Event::StoreTrouble { .. } => F { event: "store_trouble", ..F::default() },
            Event::StoreWorksAgain => F { event: "store_works_again", ..F::default() },
            Event::Misbehaved { peer, .. } => F::of_peer("misbehaved", peer),
            Event::IntakeFull { bytes, most } => match most {
                Some((peer, _)) => F::of_peer("intake_full", peer).bytes(*bytes),
                None => F { event: "intake_full", ..F::default() }.bytes(*bytes),
            },
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
            Event::NotFound { peer, wanted } => {
                write!(f, "{peer} wrote to an endpoint that is not there: {wanted:?}")
            }
            Event::TooLarge { peer, bytes } => write!(
                f,
                "{peer}: a message was refused; with the fields that the bus adds it would be \
                 {bytes} bytes"
            ),
            Event::Ignored { peer, what } => write!(f, "{peer}: a frame was passed over: {what}"),
            Event::Silent { peer } => {
                write!(f, "{peer} was silent for too long: its session was ended")
            }
            Event::LeftUnread { peer } => {
                write!(f, "{peer} did not read what was left for it: its connection was ended")
            }
            Event::CutOff { name, messages } => write!(
                f,
                "the connection of {:?} ended; messages it had not got whole: {messages}",
                name.as_str()
            ),
            Event::GivenUp { name, code } => {
                write!(f, "a message for {:?} was given up: {code}", name.as_str())
            }
            Event::NotKept { name, code } => {
                write!(f, "a message for {:?} could not be kept: {code}", name.as_str())
            }
            Event::StoreLost { messages } => {
                write!(f, "messages lost because the disk did not take them: {messages}")
            }
            Event::StoreTrouble { why } => {
                write!(f, "nothing can be kept on disk: {why}; what must be kept is refused")
            }
            Event::StoreWorksAgain => write!(f, "the disk takes messages again"),
            Event::Misbehaved { peer, what } => write!(f, "{peer}: {what}"),
            Event::IntakeFull { bytes, most } => {
                write!(
                    f,
                    "{bytes} bytes of unfinished frames: reading pauses for all but the one that \
                     is nearest to its end"
                )?;
                match most {
                    Some((peer, held)) => write!(f, "; {peer} holds the most ({held} bytes)"),
                    None => Ok(()),
                }
            }
        }
    }
}

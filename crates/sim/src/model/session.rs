//! A connection as the model sees it.

use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use hermes_bus_core::{CloseReason, Credentials, Moment, SessionKey};
use hermes_bus_proto::ErrorCode;
use hermes_bus_proto::control::Status;
use hermes_bus_proto::listing::Level;

use super::message::{Copied, MadeId, Message};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Open,
    /// Nothing is read any more; what is queued is written.
    Finishing {
        reason: CloseReason,
        since: Moment,
    },
}

/// One of the bus's own frames that this peer is to get.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Owed {
    Pong,
    Registered { name: String, session_id: String },
    Listing { level: Level, entries: Vec<(String, String)> },
    Error { code: ErrorCode, id: OwedId },
    Receipt { id: OwedId, status: Status, endpoints: Option<usize> },
    Admin { frame: Vec<u8> },
}

/// The `id` that an answer is to carry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum OwedId {
    None,
    /// The message's own.
    Given(Vec<u8>),
    /// One that the bus has made for the message.
    Made(MadeId),
}

impl OwedId {
    pub(super) fn of(message: &Message) -> Self {
        match &message.id {
            Some(id) => OwedId::Given(id.clone()),
            None => OwedId::Made(message.made_id.clone()),
        }
    }
}

/// A sender is kept waiting for a receiver.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wait {
    pub(super) receiver: SessionKey,
    pub(super) since: Moment,
    /// Its place among all waits that ever began.
    pub(super) place: u64,
}

/// Why the bus does not read from a connection.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Holds {
    pub(super) receiver: Option<Wait>,
    /// It may have too many answers to read.
    pub(super) answers: bool,
    pub(super) intake: bool,
    /// For its rate, at most until then.
    pub(super) pace: Option<Moment>,
}

impl Holds {
    pub(super) fn any(&self) -> bool {
        self.receiver.is_some() || self.answers || self.intake || self.pace.is_some()
    }
}

/// An anonymous connection's first message.
#[derive(Clone, Debug)]
pub(super) enum First {
    NotYet,
    Due {
        message: Rc<Message>,
        frames_taken: u64,
        /// Receivers, and whether they have it whole.
        copies: Vec<(SessionKey, bool)>,
        /// Number of endpoints, for a broadcast.
        broadcast_to: Option<usize>,
    },
    Over,
}

#[derive(Debug)]
pub(super) struct Session {
    pub(super) credentials: Credentials,
    pub(super) charged_uid: u32,
    /// The name that it has registered, also after it has lost it.
    pub(super) name: Option<String>,
    pub(super) session_id: String,
    pub(super) phase: Phase,
    /// The call that is looked at allows it to end so.
    pub(super) may_end: Option<CloseReason>,
    pub(super) is_deaf: bool,
    pub(super) holds: Holds,
    /// Where what it does not read goes, after it has lost its name.
    pub(super) heir: Option<String>,
    pub(super) queue: VecDeque<Copied>,
    /// Answers to what it has sent, in order.
    pub(super) answers: VecDeque<Owed>,
    /// What it is to hear besides, in any order.
    pub(super) late: Vec<Owed>,
    /// Bytes of the frame that is being written to it.
    pub(super) partial: Vec<u8>,
    pub(super) last_heard: Moment,
    pub(super) last_told: Moment,
    /// When its hold last ended.
    pub(super) resumed: Moment,
    pub(super) buffered: usize,
    pub(super) missing: Option<usize>,
    /// When the frame that is unfinished began.
    pub(super) unfinished_since: Moment,
    pub(super) unfinished_of: u64,
    /// For how long of that time it was not read from.
    pub(super) unfinished_held: Duration,
    /// Since when it is held, if it is.
    pub(super) held_since: Option<Moment>,
    pub(super) frames_taken: u64,
    /// A turn, and how many had been taken before it.
    pub(super) newest_turn: (u64, u64),
    pub(super) first: First,
    pub(super) waiting_since: Option<Moment>,
    pub(super) corked_until: Option<Moment>,
    /// It may be told pongs that nobody asked for.
    pub(super) is_impatient: bool,
    /// It must be told them.
    pub(super) needs_pongs: bool,
    pub(super) is_stalled: bool,
    /// The receiver that its next message has waited for.
    pub(super) awaited: Option<SessionKey>,
    pub(super) sent_messages: u64,
    pub(super) sent_bytes: u64,
    pub(super) rates_since: Moment,
}

impl Session {
    pub(super) fn new(credentials: Credentials, charged_uid: u32, now: Moment) -> Self {
        Session {
            credentials,
            charged_uid,
            name: None,
            session_id: String::new(),
            phase: Phase::Open,
            may_end: None,
            is_deaf: false,
            holds: Holds::default(),
            heir: None,
            queue: VecDeque::new(),
            answers: VecDeque::new(),
            late: Vec::new(),
            partial: Vec::new(),
            last_heard: now,
            last_told: now,
            resumed: now,
            buffered: 0,
            missing: None,
            unfinished_since: now,
            unfinished_of: 0,
            unfinished_held: Duration::ZERO,
            held_since: None,
            frames_taken: 0,
            newest_turn: (0, 0),
            first: First::NotYet,
            waiting_since: None,
            corked_until: None,
            is_impatient: false,
            needs_pongs: false,
            is_stalled: false,
            awaited: None,
            sent_messages: 0,
            sent_bytes: 0,
            rates_since: now,
        }
    }

    pub(super) fn is_open(&self) -> bool {
        self.phase == Phase::Open
    }

    pub(super) fn is_anonymous(&self) -> bool {
        self.name.is_none()
    }

    /// Whether it can hear what becomes of a message.
    pub(super) fn listens(&self) -> bool {
        self.is_anonymous() && !self.is_deaf
    }

    /// An answer to what it has just sent.
    pub(super) fn owe(&mut self, owed: Owed) {
        if !self.is_deaf {
            self.answers.push_back(owed);
        }
    }

    pub(super) fn owe_error(&mut self, code: ErrorCode, id: OwedId) {
        self.owe(Owed::Error { code, id });
    }

    /// Something that it hears unasked, or later.
    pub(super) fn owe_late(&mut self, owed: Owed) {
        if !self.is_deaf {
            self.late.push(owed);
        }
    }

    /// Whether something of the bus's own is still to be written.
    pub(super) fn is_owed(&self) -> bool {
        !self.answers.is_empty() || !self.late.is_empty()
    }

    /// Whether something of the bus's own may still be to be written: what an impatient client is told
    /// unasked, nobody owes it.
    pub(super) fn may_be_owed(&self) -> bool {
        self.is_owed() || self.is_impatient
    }

    /// Whether everything that it is to get is known to be written.
    pub(super) fn has_everything(&self) -> bool {
        self.queue.is_empty() && !self.may_be_owed() && self.partial.is_empty()
    }

    /// A frame of it was taken.
    pub(super) fn frame_taken(&mut self, turn: u64, now: Moment) {
        if self.newest_turn.0 != turn {
            self.newest_turn = (turn, self.frames_taken);
        }
        self.frames_taken += 1;
        self.last_heard = now;
        self.waiting_since = None;
        self.awaited = None;
    }

    pub(super) fn forget_rates(&mut self, now: Moment) {
        (self.sent_messages, self.sent_bytes, self.rates_since) = (0, 0, now);
    }
}

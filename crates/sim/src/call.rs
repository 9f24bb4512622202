//! What the world tells the model: every call into the router, once it has returned.

use std::fmt;

use hermes_bus_core::{
    CloseReason, Config, Credentials, Effect, Lingering, Next, Now, Probed, Reading, Router,
    SessionKey, TapBatch,
};

use hermes_bus_proto::FrameError;

/// A call into the router with what it returned.
#[derive(Debug)]
pub enum Call<'a> {
    /// A router has begun: the first one, or one that follows another (with what that one left).
    Began {
        /// What it was made with.
        config: &'a Config,
        /// What was restored.
        restored: &'a [Lingering],
    },
    /// `begin_turn`.
    TurnBegan,
    /// `connected`.
    Connected {
        /// What it returned.
        key: SessionKey,
        /// Whose connection.
        credentials: Credentials,
    },
    /// `reading`.
    Reading {
        /// Whose.
        key: SessionKey,
        /// What it returned.
        reading: Reading,
    },
    /// `frame`.
    Frame {
        /// Whose.
        key: SessionKey,
        /// The payload offered.
        payload: &'a [u8],
        /// Whether the holder of the name was looked at.
        probed: Probed,
        /// What it returned.
        next: Next,
    },
    /// `refuse_frame`: the bytes that arrived can never become a frame.
    FrameRefused {
        /// Whose.
        key: SessionKey,
        /// What they are.
        error: FrameError,
    },
    /// `buffered`.
    Buffered {
        /// Whose.
        key: SessionKey,
        /// Bytes kept.
        bytes: usize,
        /// What the unfinished frame in front lacks.
        missing: Option<usize>,
    },
    /// `eof`.
    Eof {
        /// Whose.
        key: SessionKey,
    },
    /// `leaving`.
    Leaving {
        /// Whose.
        key: SessionKey,
    },
    /// `deaf`.
    Deaf {
        /// Whose.
        key: SessionKey,
    },
    /// `closed`.
    Closed {
        /// Whose.
        key: SessionKey,
        /// Why.
        reason: CloseReason,
    },
    /// `written`: these bytes are in the peer's socket now.
    Written {
        /// Whose.
        key: SessionKey,
        /// The very bytes.
        bytes: &'a [u8],
    },
    /// `more_input`.
    MoreInput {
        /// Whose.
        key: SessionKey,
    },
    /// `end_turn`.
    TurnEnded,
    /// `configure`.
    Configured {
        /// The new limits.
        config: &'a Config,
    },
    /// `answer_admin`.
    AdminAnswered {
        /// Whose request.
        key: SessionKey,
        /// The whole frame.
        frame: &'a [u8],
    },
    /// `shut_down`.
    ShutDown,
    /// `end_named_sessions`.
    NamedSessionsEnded,
    /// `take_waiting_senders`: the next router gets these, each with its message.
    WaitingSendersTaken {
        /// What it returned.
        taken: &'a [(SessionKey, bytes::Bytes)],
    },
    /// `take_tapped`, or an accepted `offer_tapped`.
    Tapped {
        /// What it gave.
        batch: &'a TapBatch,
    },
    /// The router has ended.
    Ended {
        /// What `lingering` returned, if another one follows it; none if it was killed, or stopped.
        left: Option<&'a [Lingering]>,
    },
    /// Everybody has been reading everything for so long that nothing can still be on its way but
    /// unfinished frames, and no wait can still last: all that was sent is taken, nobody is held.
    Settled,
}

/// What can be seen right after a call.
pub struct View<'a> {
    /// The router. To look at, not to change: what takes `&mut` there only rolls meters.
    pub router: &'a mut Router,
    /// What the call wanted done, in order.
    pub effects: &'a [Effect],
    /// The time of the turn.
    pub now: Now,
}

/// Something that must not happen has happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which rule, in a word or two that stay the same however it is broken.
    pub rule: &'static str,
    /// What was seen and what should have been.
    pub what: String,
}

impl Violation {
    /// A rule and how it was broken.
    pub fn new(rule: &'static str, what: impl Into<String>) -> Self {
        Violation { rule, what: what.into() }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.rule, self.what)
    }
}

//! One connection: who is at the other end, what it may still do, and what is queued for it.

use alloc::borrow::ToOwned;
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::time::Duration;

use hermes_bus_proto::EndpointName;
use hermes_bus_proto::listing::{Amount, EndpointDetails, EndpointState, Level, Traffic};

use crate::acks::{Acking, Handing, Unread};
use crate::endpoint::EndpointKey;
use crate::fate::Receipts;
use crate::gaps::Gaps;
use crate::ledger::UserKey;
use crate::outbox::Outbox;
use crate::pace::Pace;
use crate::time::Moment;

/// Names a connection for as long as it lives; never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionKey {
    pub(crate) index: u32,
    /// Tells apart the sessions that used one index one after the other.
    pub(crate) generation: u32,
}

impl SessionKey {
    /// A small number that no other living session has: an index for the driver's own table.
    pub fn index(self) -> usize {
        self.index as usize
    }
}

/// Who is at the other end, as the kernel says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// User id.
    pub uid: u32,
    /// Process id.
    pub pid: u32,
}

/// A connection. All of it belongs to the router; the driver only knows its key.
pub(crate) struct Session {
    pub(crate) generation: u32,
    pub(crate) credentials: Credentials,
    /// The user that its memory is charged to.
    pub(crate) user: UserKey,
    pub(crate) role: Role,
    pub(crate) phase: Phase,
    pub(crate) outbox: Outbox,
    /// Nothing leaves before this moment: the pause of a fight over a name.
    pub(crate) corked_until: Option<Moment>,
    /// Whether the session stands in the list of those with something to write.
    pub(crate) is_dirty: bool,
    /// When the last frame arrived.
    pub(crate) last_heard: Moment,
    /// When something was last written to it.
    pub(crate) last_told: Moment,
    pub(crate) holds: Holds,
    /// The peer reads no more; what it has sent still counts.
    pub(crate) is_deaf: bool,
    /// As a sender: since when its next message waits, however often it was offered.
    pub(crate) waiting_since: Option<Moment>,
    /// As a sender: what it waited for has come to an end.
    pub(crate) waited: Waited,
    /// After it has lost its name: where the messages go that it does not read any more.
    pub(crate) heir: Option<EndpointKey>,
    /// Frames that the router has taken from it.
    pub(crate) frames_taken: u64,
    /// The turn of the newest of them, and how many had been taken before that turn.
    pub(crate) newest_turn: (u64, u64),
    pub(crate) courtesy: Courtesy,
    /// Held messages whose fate this anonymous sender is still to hear.
    pub(crate) undecided: u32,
    pub(crate) intake: Intake,
    /// As a receiver: senders that are kept waiting, the longest first, with the bytes they need
    /// and since when they wait.
    pub(crate) waiting_senders: VecDeque<WaitingSender>,
    /// As a receiver: messages are dropped until half of the queue is read.
    pub(crate) stalled: Option<Stalled>,
    pub(crate) pace: Pace,
    pub(crate) level: Level,
    /// What the peer has said about itself.
    pub(crate) meta: Option<Box<str>>,
    /// As a receiver that acknowledges: what it holds.
    pub(crate) acking: Option<Box<Acking>>,
    /// As one that does not: watched messages in its queue, in order.
    pub(crate) handing: VecDeque<Handing>,
    /// Messages in its socket that stay on disk until they are read.
    pub(crate) unread: VecDeque<Unread>,
    /// How long the bus pauses between two looks whether they are.
    pub(crate) look_pause: Duration,
    /// Memory of what waits in its endpoint's backlog.
    pub(crate) backlog_bytes: usize,
    /// What it was to get besides its own messages, and could not take.
    pub(crate) gaps: Option<Box<Gaps>>,
    /// As a sender: receipts that it waits for.
    pub(crate) receipts: Receipts,
    pub(crate) sent: Meter,
    pub(crate) received: Meter,
    pub(crate) dropped: u64,
}

/// What a connection is to the bus.
pub(crate) enum Role {
    Anonymous,
    Registered(Registration),
}

/// A name and the session id that came with it.
pub(crate) struct Registration {
    pub(crate) endpoint: EndpointKey,
    /// Place in the order of all registrations.
    pub(crate) serial: u64,
    pub(crate) session_id: Box<str>,
    pub(crate) name: EndpointName,
    /// The name as a JSON string: the `from` of what it sends.
    pub(crate) name_json: Box<str>,
    pub(crate) since_unix_us: u64,
    /// Kept connected with unsolicited pongs.
    pub(crate) impatient: bool,
}

/// How far a connection's life is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Open,
    /// Nothing is read any more; what is queued is written, then the connection is closed.
    Draining {
        reason: crate::CloseReason,
        until: Moment,
    },
}

/// Why the bus does not read from a connection at the moment.
#[derive(Clone, Copy, Default)]
pub(crate) struct Holds {
    /// Its next message does not fit into this receiver's queue.
    pub(crate) receiver: Option<SessionKey>,
    /// It leaves answers unread.
    pub(crate) unread_answers: bool,
    /// Unfinished frames have used up their budget.
    pub(crate) intake: bool,
    /// It has sent more than it may in a second.
    pub(crate) pace: bool,
    /// Too much is on its way to the disk.
    pub(crate) disk: bool,
}

impl Holds {
    pub(crate) fn any(self) -> bool {
        self.receiver.is_some() || self.unread_answers || self.intake || self.pace || self.disk
    }
}

/// How a sender's wait for a receiver has ended; holds for the message that it waited with.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Waited {
    /// It did not wait.
    No,
    /// This receiver has kept room for the message.
    RoomAt(SessionKey),
    /// In vain: the sender would not wait for this receiver any longer.
    InVain(SessionKey),
}

/// A sender that is kept waiting for a receiver's queue.
pub(crate) struct WaitingSender {
    pub(crate) key: SessionKey,
    pub(crate) needs_bytes: usize,
    pub(crate) patience: Patience,
    /// When it began to wait for this receiver.
    pub(crate) began: Moment,
    pub(crate) until: Moment,
}

/// What it means when a sender has waited long enough.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Patience {
    /// The receiver has stalled.
    OfTheBus,
    /// The sender would take further silence for success, and has to be told before that.
    OfTheSender,
}

/// A receiver that did not read in time.
pub(crate) struct Stalled {
    pub(crate) dropped: u64,
    /// It is taken to read again when no more than this is queued.
    pub(crate) until_bytes: usize,
}

/// Whether the courtesy receipt for an anonymous connection's first message is due.
#[derive(Default)]
pub(crate) enum Courtesy {
    /// No message yet.
    #[default]
    NotYet,
    /// The first message is routed or held; the turn's end decides.
    Due(FirstMessage),
    /// Given, or not to be given.
    Over,
}

impl Courtesy {
    /// Whether what becomes of a copy in this receiver's queue is still to be told.
    pub(crate) fn is_due_for(&self, receiver: SessionKey) -> bool {
        let Courtesy::Due(first) = self else { return false };
        first.copies.iter().any(|(holder, _)| *holder == receiver)
    }
}

/// The first message of an anonymous connection.
pub(crate) struct FirstMessage {
    /// Its id as JSON.
    pub(crate) id_json: Box<[u8]>,
    /// Frames taken when it was the newest.
    pub(crate) frames_taken: u64,
    /// Where its copies are: receivers and the marks behind them in their queues.
    pub(crate) copies: Vec<(SessionKey, u64)>,
    /// Whether the message goes on to its receiver's next session if this one ends.
    pub(crate) outlives_session: bool,
    /// Number of endpoints, for a broadcast.
    pub(crate) broadcast_to: Option<usize>,
}

/// The bytes of a connection that the driver keeps: unfinished frames, and frames that wait.
#[derive(Default)]
pub(crate) struct Intake {
    pub(crate) bytes: usize,
    /// Bytes that the unfinished frame still lacks.
    pub(crate) missing: Option<usize>,
    /// When the unfinished frame must be complete; while the bus does not read, what was left then.
    pub(crate) deadline: Option<Deadline>,
    /// The value of `frames_taken` when the clock was started: a frame since then restarts it.
    pub(crate) clock_of_frame: u64,
}

/// A clock that may stand still.
#[derive(Clone, Copy)]
pub(crate) enum Deadline {
    At(Moment),
    StandsStill { left: Duration },
}

/// Counts what goes through, and how fast, in windows of ten seconds.
#[derive(Default)]
pub(crate) struct Meter {
    total: Amount,
    window: u64,
    in_window: u64,
    in_last_window: u64,
}

const WINDOW_US: u64 = 10_000_000;

impl Meter {
    #[inline]
    pub(crate) fn add(&mut self, messages: u64, bytes: u64, now: Moment) {
        self.roll(now);
        self.total.messages += messages;
        self.total.bytes += bytes;
        self.in_window += messages;
    }

    #[inline]
    fn roll(&mut self, now: Moment) {
        let window = now.as_micros() / WINDOW_US;
        if window != self.window {
            self.in_last_window = if window == self.window + 1 { self.in_window } else { 0 };
            self.in_window = 0;
            self.window = window;
        }
    }

    /// Totals, and the rate over the last ten seconds: the current window and as much of the one
    /// before as fills it up.
    pub(crate) fn traffic(&mut self, now: Moment) -> Traffic {
        self.roll(now);
        let into_window = (now.as_micros() % WINDOW_US) as f64 / WINDOW_US as f64;
        let messages = self.in_window as f64 + self.in_last_window as f64 * (1.0 - into_window);
        let per_second = messages / (WINDOW_US as f64 / 1e6);
        Traffic { total: self.total, per_second: (per_second * 10.0).round() / 10.0 }
    }
}

impl Session {
    pub(crate) fn new(
        generation: u32,
        credentials: Credentials,
        user: UserKey,
        now: Moment,
    ) -> Self {
        Session {
            generation,
            credentials,
            user,
            role: Role::Anonymous,
            phase: Phase::Open,
            outbox: Outbox::default(),
            corked_until: None,
            is_dirty: false,
            last_heard: now,
            last_told: now,
            holds: Holds::default(),
            is_deaf: false,
            waiting_since: None,
            waited: Waited::No,
            heir: None,
            frames_taken: 0,
            newest_turn: (0, 0),
            courtesy: Courtesy::NotYet,
            undecided: 0,
            intake: Intake::default(),
            waiting_senders: Default::default(),
            stalled: None,
            pace: Pace::default(),
            level: Level::One,
            meta: None,
            acking: None,
            handing: VecDeque::new(),
            unread: VecDeque::new(),
            look_pause: Duration::ZERO,
            backlog_bytes: 0,
            gaps: None,
            receipts: Receipts::default(),
            sent: Meter::default(),
            received: Meter::default(),
            dropped: 0,
        }
    }

    pub(crate) fn registration(&self) -> Option<&Registration> {
        match &self.role {
            Role::Anonymous => None,
            Role::Registered(registration) => Some(registration),
        }
    }

    pub(crate) fn is_anonymous(&self) -> bool {
        matches!(self.role, Role::Anonymous)
    }

    /// Whether it can hear what becomes of a message.
    pub(crate) fn listens(&self) -> bool {
        self.is_anonymous() && !self.is_deaf
    }

    pub(crate) fn is_open(&self) -> bool {
        self.phase == Phase::Open
    }

    /// Whether nothing has come from the peer and nothing was said to it.
    pub(crate) fn is_untouched(&self) -> bool {
        let has_said_nothing = self.frames_taken == 0 && self.intake.bytes == 0;
        self.is_open() && self.is_anonymous() && has_said_nothing && self.outbox.mark() == 0
    }

    /// Whether it has sent one message and waits to hear what becomes of it.
    pub(crate) fn waits_with_one_message(&self) -> bool {
        let has_sent_no_more = self.frames_taken == 1 && self.intake.bytes == 0;
        let waits = self.undecided == 1 && self.outbox.mark() == 0 && !self.is_deaf;
        self.is_open() && self.is_anonymous() && has_sent_no_more && waits
    }

    /// Whether somebody keeps an eye on what is in its queue.
    #[inline]
    pub(crate) fn is_watched(&self) -> bool {
        !self.handing.is_empty() || self.acking.is_some()
    }

    /// Whether nothing is left that the peer is still to get.
    pub(crate) fn is_drained(&self) -> bool {
        self.outbox.is_empty() && self.undecided == 0 && !matches!(self.courtesy, Courtesy::Due(_))
    }

    /// Whether the turn's end decides about a courtesy receipt.
    pub(crate) fn is_receipt_due(&self) -> bool {
        self.undecided == 0 && matches!(self.courtesy, Courtesy::Due(_))
    }

    /// This session as a listing shows it.
    pub(crate) fn details(&mut self, now: Moment) -> EndpointDetails {
        let (sent, received) = (self.sent.traffic(now), self.received.traffic(now));
        let registration = self.registration();
        let text = |text: Option<&str>| text.unwrap_or_default().to_owned();
        EndpointDetails {
            endpoint: text(registration.map(|registration| registration.name.as_str())),
            state: EndpointState::Online,
            session_id: text(registration.map(|registration| &*registration.session_id)),
            protocol: match self.level {
                Level::One => 1,
                Level::Two => 2,
            },
            connected_at: registration.map_or(0.0, |r| r.since_unix_us as f64 / 1e6),
            uid: self.credentials.uid,
            pid: self.credentials.pid,
            pending: Amount {
                messages: self.outbox.messages() as u64,
                bytes: self.outbox.bytes() as u64,
            },
            sent,
            received,
            dropped: self.dropped,
            impatient: registration.is_some_and(|registration| registration.impatient),
            unacknowledged: self.acking.as_ref().map_or(0, |acking| acking.in_flight.len() as u64),
            mailbox: None,
            groups: Vec::new(),
            topics: Vec::new(),
            meta: None,
        }
    }
}

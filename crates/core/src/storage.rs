//! What the router asks of the disk, and what the disk answers.
//!
//! The router decides; whoever keeps things carries out its [`Order`]s, in their order, and answers.
//! A driver gets them as [`Effect::Store`](crate::Effect::Store) and gives every [`Answer`] to
//! [`Router::storage`](crate::Router::storage). The router never waits: until an answer comes, what
//! it is about counts as not kept.
//!
//! The rules for whoever keeps things:
//!
//! 1. Orders take effect in the order of their [`Ticket`]s. [`Answer::Stored`] is given when
//!    everything up to a ticket survives kill -9 and power loss, and never before.
//! 2. A [`Order::Keep`] that cannot be kept is answered with [`Answer::Refused`], before any later
//!    ticket is said to be stored, and is never seen again, not even after a crash. Every other order
//!    is repeated until it can be carried out: those are the ones that make room or keep promises.
//! 3. A message that is released before it was written need never be written.
//! 4. A [`Order::Load`] sees all orders before it.
//! 5. What is only spilled ends with its process. Those messages that asked for a receipt become dead
//!    letters, as by [`Order::EndSpilled`], also where a process ends without saying so.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;

use bytes::Bytes;
use hermes_bus_proto::control::Status;
use hermes_bus_proto::{Ask, EndpointName, Envelope};

/// The place of an order among all orders of this process, counted from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// Who sent a message, as the kernel and the router know it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Sender {
    /// User id.
    pub uid: u32,
    /// Process id; 0 where it cannot be seen from here.
    pub pid: u32,
    /// The endpoint that it had registered, whatever the message says in `from`.
    pub endpoint: Option<EndpointName>,
}

/// Why a message is on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Keep {
    /// Its endpoint has a mailbox.
    Mailbox,
    /// Its sender asked for it (`queue`, `receipt: stored`).
    Queued,
    /// Only because the receiver is slow: it was never promised to survive, and does not outlive the
    /// process, or the linger of an endpoint without a mailbox. See [`Order::EndSpilled`].
    Spill,
}

/// A message for one endpoint, as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Names the message among all of its endpoint, and gives their order. Unique in the whole store.
    pub seq: u64,
    /// Whom it is for.
    pub endpoint: EndpointName,
    /// Why it is kept.
    pub keep: Keep,
    /// The JSON object as a level 1 receiver gets it: with `id`, `ts` and `from`, no header.
    pub payload: Bytes,
    /// Who sent it, where that is known.
    pub sender: Option<Sender>,
    /// The `@group` or `#topic` that it came through.
    pub via: Option<Box<str>>,
    /// The receipt that the sender asked for.
    pub wanted: Option<Status>,
    /// When it arrived at the bus, in microseconds of Unix time.
    pub arrived_unix_us: u64,
    /// When it is not wanted any more, in microseconds of Unix time.
    pub expires_unix_us: Option<u64>,
    /// How often it was handed over to a session. At least once, as far as anybody knows, if a process
    /// that ended without saying so left it behind: whoever keeps it sees to that.
    pub deliveries: u32,
}

/// Bookkeeping of one kept message, in bytes: quotas count it beside the payload.
pub const RECORD_OVERHEAD_BYTES: u64 = 128;

impl Record {
    /// What it takes of a quota, in bytes.
    pub fn load_bytes(&self) -> u64 {
        self.payload.len() as u64 + RECORD_OVERHEAD_BYTES
    }
}

/// How a kept message came to its end. The trail of the message says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ending {
    /// The receiver acknowledged it.
    Acked,
    /// A receiver that cannot acknowledge has read everything up to it.
    Read,
    /// Its time to live ran out.
    Expired,
    /// It became a dead letter for another reason.
    Dead,
    /// It was dropped: a spilled message whose receiver has gone, or that has been handed over.
    Dropped,
    /// The bus's owner removed it.
    Purged,
}

impl Ending {
    /// One word, for trails and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Ending::Acked => "acked",
            Ending::Read => "read",
            Ending::Expired => "expired",
            Ending::Dead => "dead",
            Ending::Dropped => "dropped",
            Ending::Purged => "purged",
        }
    }
}

/// Why a message became a dead letter: an error code's word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// The message.
    pub record: Record,
    /// Why.
    pub reason: hermes_bus_proto::ErrorCode,
    /// What the receiver said, where it said something.
    pub detail: String,
    /// When, in microseconds of Unix time.
    pub died_unix_us: u64,
}

/// The end of what is only spilled for an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpillEnd {
    /// Whose.
    pub endpoint: EndpointName,
    /// Why.
    pub reason: hermes_bus_proto::ErrorCode,
    /// The same for people.
    pub detail: String,
    /// When, in microseconds of Unix time.
    pub died_unix_us: u64,
}

/// What is said of spilled messages that were left by a process that ended without saying so.
pub const BUS_HAS_ENDED: &str = "the bus has ended";

/// What is remembered of an endpoint over restarts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remembered {
    /// Its name.
    pub endpoint: EndpointName,
    /// The user who registered it last.
    pub uid: u32,
    /// When it was last registered or its session ended, in microseconds of Unix time.
    pub seen_unix_us: u64,
    /// Whether it asked for a mailbox.
    pub mailbox: bool,
    /// The groups that it is a member of, without `@`. Empty without a mailbox.
    pub groups: Vec<Box<str>>,
    /// The patterns that it subscribes to, without `#`. Empty without a mailbox.
    pub topics: Vec<Box<str>>,
}

/// Whether a repetition of a kept message is judged by its id: see [`Recent`]. What its sender asked for
/// stands in the message itself, too, where its mailbox would have kept it anyway.
pub fn is_judged(keep: Keep, wanted: Option<Status>, envelope: &Envelope<'_>) -> bool {
    is_plainly_judged(keep, wanted) || crate::asked::is_judged(&Ask::lenient(&envelope.asking))
}

/// Whether that can be said without a look into the message. If not, it may still be so.
pub fn is_plainly_judged(keep: Keep, wanted: Option<Status>) -> bool {
    keep == Keep::Queued || matches!(wanted, Some(Status::Stored | Status::Acked))
}

/// Something to be done by whoever keeps things.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// Keep a message.
    Keep(Box<Record>),
    /// These messages of an endpoint need not be kept any more. Ascending.
    Release {
        /// Whose.
        endpoint: EndpointName,
        /// Which.
        seqs: Vec<u64>,
        /// How they ended.
        ending: Ending,
    },
    /// All messages of an endpoint that are only spilled end here. Those that asked for a receipt
    /// ([`Record::wanted`]) become dead letters, with the count of their deliveries as it is by now; the
    /// oldest may be left out, and counted, if all are more than may be kept of dead letters. How many
    /// there were is answered with [`Answer::Buried`]. The others need not be kept any more.
    EndSpilled(Box<SpillEnd>),
    /// The messages of an endpoint from one `seq` to another need not be kept any more.
    Purge {
        /// Whose.
        endpoint: EndpointName,
        /// The lowest `seq`.
        from: u64,
        /// The highest.
        to: u64,
    },
    /// A kept message is for another endpoint from now on, under another `seq`.
    Move {
        /// Whose it was.
        endpoint: EndpointName,
        /// Which.
        seq: u64,
        /// Whose it is.
        to: EndpointName,
        /// Its new `seq`.
        new_seq: u64,
    },
    /// A kept message was handed over so often by now.
    Delivered {
        /// Whose.
        endpoint: EndpointName,
        /// Which.
        seq: u64,
        /// How often.
        deliveries: u32,
    },
    /// Keep a dead letter. If the message itself is kept, an [`Order::Release`] follows.
    Bury(Box<DeadLetter>),
    /// Read the oldest messages of an endpoint from `from` on, ascending: at least one if there is
    /// one, then as many as fit.
    Load {
        /// Whose.
        endpoint: EndpointName,
        /// The lowest `seq`.
        from: u64,
        /// How many at most.
        messages_max: usize,
        /// How many bytes of payload at most, but for the first message.
        bytes_max: usize,
    },
    /// Read messages that expire at this time or before, soonest first.
    LoadOverdue {
        /// The time, in microseconds of Unix time.
        unix_us: u64,
        /// How many at most.
        messages_max: usize,
    },
    /// Remember this of an endpoint, instead of what was remembered before.
    Remember(Box<Remembered>),
    /// Remember nothing of an endpoint any more. It has no kept messages.
    Forget(EndpointName),
}

/// What whoever keeps things has to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Every order up to this one is carried out, but for those that were refused, and survives.
    Stored(Ticket),
    /// These messages could not be kept.
    Refused {
        /// The tickets of the [`Order::Keep`]s, ascending.
        tickets: Vec<Ticket>,
        /// Why, for people.
        why: String,
    },
    /// The answer to an [`Order::Load`].
    Loaded {
        /// Whose.
        endpoint: EndpointName,
        /// The messages, ascending.
        records: Vec<Record>,
        /// Whether there was nothing behind them when they were read.
        is_all: bool,
    },
    /// The answer to an [`Order::LoadOverdue`].
    Overdue(Vec<Record>),
    /// So many messages that were only spilled have become dead letters.
    Buried(u64),
    /// Nothing can be written for now; `None` when it can be again.
    Trouble(Option<String>),
}

/// What waits for an endpoint on disk when a process begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Whose.
    pub endpoint: EndpointName,
    /// Messages.
    pub messages: u64,
    /// The sum of their [`Record::load_bytes`].
    pub load_bytes: u64,
    /// The lowest `seq`.
    pub first_seq: u64,
    /// When the oldest arrived, in microseconds of Unix time.
    pub oldest_unix_us: u64,
}

/// A message that was sent not long ago and asked to be judged by its id: a repetition of it is not
/// delivered again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recent {
    /// The user who sent it.
    pub uid: u32,
    /// The sender's endpoint, or what it said in `from`.
    pub from: Option<Box<str>>,
    /// What it said in `to`.
    pub to: Box<str>,
    /// Its id.
    pub id: Box<str>,
    /// How far it has come: [`Status::Stored`] if it waits, [`Status::Delivered`] if a receiver that
    /// does not acknowledge has read it, or [`Status::Acked`].
    pub status: Status,
    /// The endpoint that it waits for, if it waits: `to` may have named a group.
    pub waits_for: Option<EndpointName>,
    /// When it arrived, in microseconds of Unix time.
    pub arrived_unix_us: u64,
}

/// What an earlier process of the bus has left on disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Every `seq` from here on is new.
    pub seq_from: u64,
    /// Whether the last process ended without saying so. For the log and the checks of whoever keeps
    /// things: the router goes by [`Record::deliveries`].
    pub unclean: bool,
    /// Endpoints that are remembered, the one seen longest ago first.
    pub remembered: Vec<Remembered>,
    /// Endpoints for which messages wait. Spilled ones have ended.
    pub waiting: Vec<Waiting>,
    /// Messages of the last minutes, oldest first.
    pub recent: Vec<Recent>,
}

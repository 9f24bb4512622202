//! What must hold, end to end: what was said to senders, and what came to receivers.
//!
//! The model knows what clients sent, what they were told, what came into whose socket, what was
//! acknowledged, and what the store has durably. It knows nothing of queues, timers or books.

mod checks;
mod facts;
mod looks;
mod owner;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use hermes_bus_core::storage::{Ending, Keep};
use hermes_bus_proto::ErrorCode;

use super::script::{Asks, GROUPS, Join, NAMES, To};
use crate::call::Violation;

/// Stops with a violation unless something holds.
macro_rules! ensure {
    ($holds:expr, $rule:literal, $($what:tt)+) => {
        if !$holds {
            return Err(crate::Violation::new($rule, format!($($what)+)));
        }
    };
}
pub(super) use ensure;

pub(super) use facts::number_in;
use looks::{Gaps, Looking};

pub(super) type Checked = Result<(), Violation>;

/// Number of a connection, in the order in which they were made.
pub(super) type LinkId = usize;

/// A message as its sender sent it, once.
#[derive(Clone, Debug)]
pub(super) struct Sent {
    pub(super) n: u64,
    pub(super) client: usize,
    pub(super) link: LinkId,
    pub(super) uid: u32,
    /// The name that its sender had.
    pub(super) from: Option<u8>,
    pub(super) to: To,
    pub(super) asks: Asks,
    pub(super) body_bytes: usize,
    /// It has no id of its own.
    pub(super) is_anonymous: bool,
    /// The number of the message that it repeats, or its own.
    pub(super) first: u64,
    /// When the router took it, in which process, and its place in the order of all.
    pub(super) taken: Option<Taken>,
    /// Its sender has been told that it failed.
    pub(super) failed: Option<ErrorCode>,
    /// Its copy was made a dead letter.
    pub(super) buried: bool,
    /// For these reasons.
    pub(super) buried_for: Vec<ErrorCode>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Taken {
    pub(super) at_us: u64,
    pub(super) process: u32,
    pub(super) order: u64,
}

/// A message for one target: an endpoint, or one member of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Copy {
    To(u64, u8),
    Member(u64),
}

impl Copy {
    /// The message.
    pub(super) fn message(self) -> u64 {
        match self {
            Copy::To(n, _) | Copy::Member(n) => n,
        }
    }
}

/// A copy in a receiver's socket, whole.
#[derive(Clone, Debug)]
pub(super) struct Handed {
    pub(super) link: LinkId,
    pub(super) endpoint: u8,
    pub(super) process: u32,
    pub(super) acks: bool,
    /// Given back, or its session has ended, or the process.
    pub(super) is_over: bool,
    pub(super) is_nacked: bool,
    /// Its receiver has taken all its bytes.
    pub(super) is_read: bool,
    /// The bus knows that it was read.
    pub(super) is_known_to_be_read: bool,
}

/// A row of the store, as it was ordered.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) n: u64,
    pub(super) endpoint: u8,
    pub(super) keep: Keep,
    pub(super) load_bytes: u64,
    pub(super) expires_unix_us: Option<u64>,
    pub(super) ended: Option<Ending>,
}

/// A session that has, or had, a name.
#[derive(Clone, Debug)]
pub(super) struct Session {
    pub(super) endpoint: u8,
    pub(super) level_2: bool,
    pub(super) acks: bool,
    pub(super) in_flight: usize,
    /// What it holds, by `seq`.
    pub(super) held: BTreeMap<u64, u64>,
    pub(super) seq_max: u64,
    pub(super) is_over: bool,
    /// What it has subscribed to itself, one bit for each pattern.
    pub(super) topics: u8,
}

/// Promises of a sender's connection about one id.
#[derive(Clone, Debug, Default)]
struct Promises {
    sent: u64,
    wanted: u64,
    answers: u64,
}

/// See the module's description.
pub(super) struct Model {
    pub(super) sent: BTreeMap<u64, Sent>,
    pub(super) handed: BTreeMap<Copy, Vec<Handed>>,
    /// Acknowledged, and in which process.
    pub(super) acked: BTreeMap<Copy, u32>,
    /// Given back for good.
    pub(super) rejected: BTreeSet<Copy>,
    pub(super) rows: BTreeMap<u64, Row>,
    /// The numbers that rows had before they went to another endpoint, and those they have since.
    moves: BTreeMap<u64, u64>,
    pub(super) sessions: BTreeMap<LinkId, Session>,
    /// Every session that asked for it: the members that a group may ever have had, and subscribers.
    members: BTreeSet<(u8, u8)>,
    subscribers: BTreeSet<(u8, u8)>,
    promises: BTreeMap<(LinkId, String), Promises>,
    /// Rows of each endpoint in the books, and their bytes.
    pub(super) books: BTreeMap<u8, (u64, u64)>,
    /// The newest message of each sender that came to each endpoint for the first time.
    newest: BTreeMap<(usize, u8), (u64, u64)>,
    orders: u64,
    /// The ids of messages, whoever made them.
    ids: BTreeMap<u64, String>,
    /// Dead letters that the owner has had tried once more, and how often they had come before.
    retried: BTreeMap<Copy, usize>,
    /// What this process has got from the one before it in memory.
    handed_on: BTreeSet<Copy>,
    /// What the router found of earlier processes, by who sent it, to whom, and its id.
    recent: BTreeMap<(u32, Option<String>, String, String), u64>,
    /// The owner removes something just now, and how many rows have gone so.
    pub(super) is_purging: bool,
    pub(super) purged: u64,
    /// Endpoints of which the owner has removed something.
    pub(super) removed_from: BTreeSet<u8>,
    looking: BTreeMap<LinkId, Looking>,
    gaps: BTreeMap<LinkId, Gaps>,
    /// Who is there, as those who look on were told last.
    present: BTreeMap<(LinkId, String), bool>,
    /// Messages that were cut off, and how often.
    cuts: BTreeMap<Option<u64>, u64>,
    pub(super) process: u32,
    /// Processes that ended without saying so.
    unclean: BTreeSet<u32>,
    pub(super) now_us: u64,
    pub(super) window: Duration,
    pub(super) in_flight_bytes_max: usize,
    pub(super) mailbox_bytes_max: u64,
    pub(super) mailbox_bytes_total_max: u64,
    /// The window for repetitions is so small that messages leave it before their time.
    pub(super) may_be_forgotten: bool,
    /// The disk has failed in this run: what it could not be told is not judged.
    pub(super) has_failed: bool,
    /// The disk is in trouble now.
    pub(super) is_in_trouble: bool,
    pub(super) receipts: BTreeMap<&'static str, u64>,
    pub(super) errors: BTreeMap<&'static str, u64>,
    pub(super) endings: BTreeMap<&'static str, u64>,
    /// Whatever else is to be seen in a long run.
    pub(super) kinds: BTreeMap<String, u64>,
    pub(super) redelivered: u64,
    pub(super) delivered: u64,
}

/// The time of the protocol's example, 2024-05-21, in microseconds of Unix time.
pub(super) const UNIX_US: u64 = 1_716_307_200_123_456;

impl Model {
    pub(super) fn new(config: &hermes_bus_core::Config) -> Self {
        Model {
            sent: BTreeMap::new(),
            handed: BTreeMap::new(),
            acked: BTreeMap::new(),
            rejected: BTreeSet::new(),
            rows: BTreeMap::new(),
            moves: BTreeMap::new(),
            sessions: BTreeMap::new(),
            members: BTreeSet::new(),
            subscribers: BTreeSet::new(),
            promises: BTreeMap::new(),
            books: BTreeMap::new(),
            newest: BTreeMap::new(),
            orders: 0,
            ids: BTreeMap::new(),
            retried: BTreeMap::new(),
            handed_on: BTreeSet::new(),
            recent: BTreeMap::new(),
            is_purging: false,
            purged: 0,
            removed_from: BTreeSet::new(),
            looking: BTreeMap::new(),
            gaps: BTreeMap::new(),
            present: BTreeMap::new(),
            cuts: BTreeMap::new(),
            process: 0,
            unclean: BTreeSet::new(),
            now_us: 0,
            window: config.repetition_window,
            in_flight_bytes_max: config.in_flight_bytes_max,
            mailbox_bytes_max: config.mailbox_bytes_max,
            mailbox_bytes_total_max: config.mailbox_bytes_total_max,
            may_be_forgotten: config.repetitions_max < 1_000,
            has_failed: false,
            is_in_trouble: false,
            receipts: BTreeMap::new(),
            errors: BTreeMap::new(),
            endings: BTreeMap::new(),
            kinds: BTreeMap::new(),
            redelivered: 0,
            delivered: 0,
        }
    }

    /// The copy of a message that is for this endpoint.
    pub(super) fn copy_for(&self, n: u64, endpoint: u8) -> Copy {
        match self.sent.get(&n).map(|sent| sent.to) {
            Some(To::Group(_)) => Copy::Member(n),
            _ => Copy::To(n, endpoint),
        }
    }

    /// Whether a process that began with or after `from`, and is not this one, was killed.
    fn was_killed_since(&self, from: u32) -> bool {
        self.unclean.range(from..self.process).next().is_some()
    }

    pub(super) fn id_of(sent: &Sent) -> String {
        format!("m{}", sent.first)
    }

    /// A session has been given its name.
    pub(super) fn joined(&mut self, link: LinkId, join: &Join) {
        for (place, _) in GROUPS.iter().enumerate() {
            if join.level_2 && join.groups & 1 << place != 0 {
                self.members.insert((join.name, place as u8));
            }
        }
        self.subscribed(join.name, if join.level_2 { join.topics } else { 0 });
        let session = Session {
            endpoint: join.name,
            level_2: join.level_2,
            acks: join.level_2 && join.ack,
            in_flight: usize::from(join.in_flight),
            held: BTreeMap::new(),
            seq_max: 0,
            is_over: false,
            topics: if join.level_2 { join.topics } else { 0 },
        };
        self.sessions.insert(link, session);
    }

    fn subscribed(&mut self, endpoint: u8, topics: u8) {
        for place in 0..super::script::PATTERNS.len() as u8 {
            if topics & 1 << place != 0 {
                self.subscribers.insert((endpoint, place));
            }
        }
    }

    fn joined_groups(&mut self, endpoint: u8, groups: u8) {
        for place in 0..GROUPS.len() as u8 {
            if groups & 1 << place != 0 {
                self.members.insert((endpoint, place));
            }
        }
    }

    /// A session has subscribed to topics, and joined groups.
    pub(super) fn subscribed_by(&mut self, link: LinkId, topics: u8, groups: u8) {
        let Some(session) = self.sessions.get_mut(&link) else { return };
        session.topics |= topics;
        let endpoint = session.endpoint;
        self.subscribed(endpoint, topics);
        self.joined_groups(endpoint, groups);
    }

    /// A session has ended subscriptions.
    pub(super) fn unsubscribed_by(&mut self, link: LinkId, topics: u8) {
        if let Some(session) = self.sessions.get_mut(&link) {
            session.topics &= !topics;
        }
    }

    /// The endpoint of a name on the wire.
    pub(super) fn endpoint(name: &str) -> Option<u8> {
        NAMES.iter().position(|known| *known == name).map(|place| place as u8)
    }
}

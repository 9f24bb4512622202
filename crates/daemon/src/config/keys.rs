//! The table of everything that can be set. A new key is one entry here.

use std::time::Duration;

use crate::logging::{Format, Sink};

use super::scalars::LEVELS;
use super::value::{Field, Kind};
use super::{HistoryOf, Settings, access};

/// One thing that can be set.
#[derive(Debug)]
pub struct Key {
    /// Its name, `group.name`.
    pub name: &'static str,
    /// Whether a reload applies it.
    pub on_reload: OnReload,
    /// What it is for, in whole sentences.
    pub about: &'static str,
    pub(super) kind: Kind,
}

/// What happens when a key has another value on a reload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnReload {
    /// It holds from then on.
    Applies,
    /// It holds after a restart.
    NeedsRestart,
}

/// A group of keys.
#[derive(Debug)]
pub struct Group {
    /// Its name.
    pub name: &'static str,
    /// What its keys are about.
    pub about: &'static str,
}

impl Key {
    /// The group.
    pub fn group(&self) -> &'static str {
        self.name.split_once('.').map_or("", |(group, _)| group)
    }

    /// The name within the group.
    pub fn leaf(&self) -> &'static str {
        self.name.split_once('.').map_or(self.name, |(_, leaf)| leaf)
    }

    /// The environment variable that sets it.
    pub fn variable(&self) -> String {
        if self.name == "log.level" {
            return "HERMES_BUS_LOG".to_owned();
        }
        format!("HERMES_BUS_{}", self.name.replace('.', "_").to_ascii_uppercase())
    }

    /// What may be written for it, in a few words.
    pub fn form(&self) -> String {
        self.kind.written_form()
    }

    /// The least and the largest value; empty where there is no such thing.
    pub fn range(&self) -> String {
        self.kind.range()
    }

    /// The value as it may be written in a file, on one line. Secrets are left out.
    pub fn written(&self, settings: &Settings) -> String {
        self.kind.written(settings)
    }
}

/// The key of that name.
pub fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

/// A time of so many milliseconds.
const fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(24 * 3_600);
const YEAR: Duration = Duration::from_secs(365 * 24 * 3_600);
const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
/// Most bytes of any budget (1 TiB; 1 GiB where that is more than can be addressed).
const BUDGET_MAX: u64 = if usize::BITS >= 64 { 1 << 40 } else { 1 << 30 };
/// One message of the largest size, with its header and what the bus adds to it.
const LARGEST_MESSAGE: u64 = 11 * MIB;

const SINKS: &[(&str, Sink)] = &[
    ("auto", Sink::Auto),
    ("file", Sink::File),
    ("stderr", Sink::StandardError),
    ("journal", Sink::Journal),
];
const HISTORIES: &[(&str, HistoryOf)] = &[
    ("none", HistoryOf::Nothing),
    ("envelopes", HistoryOf::Envelopes),
    ("messages", HistoryOf::Messages),
];
const FORMATS: &[(&str, Format)] = &[("human", Format::Human), ("json", Format::Json)];

/// A value as it is.
macro_rules! plain {
    ($($path:ident).+) => {
        Field { get: |settings| settings.$($path).+.clone(), set: |settings, value| settings.$($path).+ = value }
    };
}

/// A number of another width. Every range above fits into it.
macro_rules! number {
    ($($path:ident).+ : $width:ty) => {
        Field {
            get: |settings| settings.$($path).+ as u64,
            set: |settings, value| settings.$($path).+ = value as $width,
        }
    };
}

/// One of the words of a table.
macro_rules! word {
    ($table:ident, $($path:ident).+) => {
        Kind::Word {
            words: {
                const WORDS: [&str; $table.len()] = words($table);
                &WORDS
            },
            field: Field {
                get: |settings| {
                    let is_it = |(_, value): &(&str, _)| *value == settings.$($path).+;
                    $table.iter().position(is_it).unwrap_or_default()
                },
                set: |settings, index| settings.$($path).+ = $table[index].1,
            },
        }
    };
}

const fn words<T, const N: usize>(table: &[(&'static str, T)]) -> [&'static str; N] {
    let mut words = [""; N];
    let mut index = 0;
    while index < N {
        words[index] = table[index].0;
        index += 1;
    }
    words
}

const fn time(min: Duration, max: Duration, field: Field<Duration>) -> Kind {
    Kind::Time { min, max, field }
}

const fn bytes(min: u64, max: u64, field: Field<u64>) -> Kind {
    Kind::Bytes { min, max, field }
}

const fn count(min: u64, max: u64, field: Field<u64>) -> Kind {
    Kind::Count { min, max, field }
}

const fn live(name: &'static str, kind: Kind, about: &'static str) -> Key {
    Key { name, on_reload: OnReload::Applies, about, kind }
}

const fn at_start(name: &'static str, kind: Kind, about: &'static str) -> Key {
    Key { name, on_reload: OnReload::NeedsRestart, about, kind }
}

/// Values that go together: the first must not be larger than the second.
pub(super) const NOT_OVER: &[(&str, &str)] = &[
    ("sessions.fight_pause", "sessions.fight_pause_max"),
    // A sender that waits for a full receiver is silent, and must not be taken for dead.
    ("queues.stall", "sessions.heartbeat"),
    ("frames.bytes_user_max", "frames.bytes_total_max"),
    ("queues.bytes_reserved", "queues.bytes_max"),
    ("queues.bytes_max", "queues.bytes_user_max"),
    ("queues.bytes_user_max", "queues.bytes_total_max"),
    ("held.bytes_max", "held.bytes_total_max"),
    ("answers.bytes_max", "answers.bytes_total_max"),
    ("store.mailbox_bytes_max", "store.mailbox_bytes_user_max"),
    ("store.mailbox_bytes_user_max", "store.mailbox_bytes_total_max"),
    ("delivery.nack_pause", "delivery.nack_pause_max"),
];

/// The groups, in the order of the file.
pub static GROUPS: &[Group] = &[
    Group { name: "access", about: "Who may connect, and as whom." },
    Group { name: "sessions", about: "How long connections live, and how much they may send." },
    Group { name: "frames", about: "What has arrived and is no whole message yet." },
    Group { name: "queues", about: "Messages that wait for a receiver to read them." },
    Group { name: "held", about: "Messages for a name whose session ended a moment ago." },
    Group { name: "answers", about: "The bus's own answers that a peer has not read." },
    Group { name: "store", about: "What is kept on disk: mailboxes, dead letters, history." },
    Group { name: "delivery", about: "Acknowledgements, receipts and repetitions." },
    Group { name: "socket", about: "The bus's socket." },
    Group {
        name: "hooks",
        about: "Programs that are run for every message. Which ones is said in hooks.yaml or \
                HERMES_BUS_HOOKS.",
    },
    Group { name: "log", about: "Log lines." },
    Group { name: "metrics", about: "What the bus counts." },
];

/// Every key, in the order of the file.
pub static KEYS: &[Key] = &[
    live(
        "access.allow_uids",
        Kind::Users(plain!(router.allow_uids)),
        "Further users who may connect; the bus's own user and root always may. With users here the \
         socket's file is open to all, and the kernel's word on who connects decides. The directories \
         above it are the user's: they have to let others pass (`chmod o+x`).",
    ),
    live(
        "access.protected",
        Kind::Protected(access::FIELD),
        "Names that not everybody may register. Each entry has a `name` and may have a `uid` (that \
         user may register it) and a `token` or a `token_file` (so may a session that shows the \
         token); with none of them nobody may. The file that holds a token must be closed to other \
         users. Tokens are never shown. A session that holds a name already keeps it.",
    ),
    live(
        "access.strict_from",
        Kind::Switch(plain!(router.strict_from)),
        "Refuses a registered session's message whose `from` is not the session's own name. Released \
         clients send such messages.",
    ),
    live(
        "sessions.heartbeat",
        time(SECOND, DAY, plain!(router.heartbeat)),
        "A registered session that is silent for so long is closed. Released clients ping every 60 \
         seconds: with less they are closed while they are alive.",
    ),
    live(
        "sessions.linger",
        time(ms(0), HOUR, plain!(router.linger)),
        "How long the name of a session that ended is held for it, with the messages that arrive \
         meanwhile.",
    ),
    live(
        "sessions.drain",
        time(ms(0), MINUTE, plain!(router.drain)),
        "How long a connection that is to be closed may take to read what is queued for it.",
    ),
    live(
        "sessions.answer",
        time(ms(10), ms(900), plain!(router.answer)),
        "How long a sender without a name waits for the fate of its message where the receiver is \
         away or its queue is full. Released senders take a second of silence as success.",
    ),
    live(
        "sessions.messages_per_s",
        Kind::CountOrOff { min: 1, max: 10_000_000, field: plain!(router.messages_per_s) },
        "Messages that one connection may send in a second, on average. Over it, reading from the \
         connection pauses; nothing is lost.",
    ),
    live(
        "sessions.bytes_per_s",
        Kind::BytesOrOff { min: 128 * KIB, max: BUDGET_MAX, field: plain!(router.bytes_per_s) },
        "The same in bytes.",
    ),
    live(
        "sessions.fight_replacements",
        count(1, 1_000, number!(router.fight_replacements: usize)),
        "So many sessions may take one name from each other within `fight_window`; from then on it is \
         a fight, and newcomers wait.",
    ),
    live("sessions.fight_window", time(SECOND, HOUR, plain!(router.fight_window)), "See there."),
    live(
        "sessions.fight_pause",
        time(ms(1), MINUTE, plain!(router.fight_pause)),
        "How long the first newcomer of a fight waits for its `registered`; each further one twice as \
         long.",
    ),
    live(
        "sessions.fight_pause_max",
        time(ms(1), MINUTE, plain!(router.fight_pause_max)),
        "The longest such wait.",
    ),
    live(
        "sessions.impatient_pongs",
        Kind::Switch(plain!(router.impatient_pongs)),
        "Keeps released clients connected that give up after a second of silence, with pongs that \
         they did not ask for.",
    ),
    live(
        "frames.deadline",
        time(SECOND, HOUR, plain!(router.frame_deadline)),
        "A message must have arrived whole so long after its first byte.",
    ),
    live(
        "frames.bytes_user_max",
        bytes(MIB, BUDGET_MAX, number!(router.intake_bytes_user_max: usize)),
        "Memory for unfinished messages, and for those whose sender is kept waiting, of one user. \
         When it is used up, reading pauses.",
    ),
    live(
        "frames.bytes_total_max",
        bytes(MIB, BUDGET_MAX, number!(router.intake_bytes_total_max: usize)),
        "The same, of all users.",
    ),
    live(
        "queues.bytes_max",
        bytes(64 * KIB, BUDGET_MAX, number!(router.queue_bytes_max: usize)),
        "The queue of one receiver. An empty queue takes any one message.",
    ),
    live(
        "queues.bytes_user_max",
        bytes(64 * KIB, BUDGET_MAX, number!(router.queue_bytes_user_max: usize)),
        "The queues of all receivers of one user.",
    ),
    live(
        "queues.bytes_total_max",
        bytes(64 * KIB, BUDGET_MAX, number!(router.queue_bytes_total_max: usize)),
        "All queues.",
    ),
    live(
        "queues.bytes_reserved",
        bytes(4 * KIB, 16 * MIB, number!(router.queue_bytes_reserved: usize)),
        "What a receiver may always queue, however full the queues of others are.",
    ),
    live(
        "queues.stall",
        time(ms(10), MINUTE, plain!(router.stall)),
        "How long a sender is kept waiting for a receiver whose queue is full. After that, messages \
         for this receiver are dropped and counted until it reads again.",
    ),
    live(
        "held.bytes_max",
        bytes(0, BUDGET_MAX, number!(router.held_bytes_max: usize)),
        "What is held for one name while its session is away. The oldest is dropped first.",
    ),
    live(
        "held.bytes_total_max",
        bytes(0, BUDGET_MAX, number!(router.held_bytes_total_max: usize)),
        "What is held for all names.",
    ),
    live(
        "answers.bytes_max",
        bytes(4 * KIB, BUDGET_MAX, number!(router.answer_bytes_max: usize)),
        "Answers that a peer may leave unread before the bus stops reading from it.",
    ),
    live(
        "answers.bytes_total_max",
        bytes(64 * KIB, BUDGET_MAX, number!(router.answer_bytes_total_max: usize)),
        "Answers that all peers together may leave unread before nobody gets a further one while it \
         has some to read.",
    ),
    at_start(
        "store.enabled",
        Kind::Switch(plain!(store.is_enabled)),
        "Whether anything is kept on disk (`hermes-bus/store.db` in the root directory). Without it, messages \
         that ask to be kept are refused with `store_unavailable`.",
    ),
    live(
        "store.mailboxes",
        Kind::Names(plain!(router.mailboxes)),
        "Endpoints whose messages wait for them while they are away, whether they ask for it or not: \
         for released clients, which cannot ask.",
    ),
    live(
        "store.mailbox_bytes_max",
        bytes(LARGEST_MESSAGE, BUDGET_MAX, plain!(router.mailbox_bytes_max)),
        "What may wait on disk for one endpoint. Over it, senders hear `mailbox_full`.",
    ),
    live(
        "store.mailbox_bytes_user_max",
        bytes(LARGEST_MESSAGE, BUDGET_MAX, plain!(router.mailbox_bytes_user_max)),
        "What may wait on disk for all endpoints of one user, the one who registered them last. The \
         rest is for the others.",
    ),
    live(
        "store.mailbox_bytes_total_max",
        bytes(LARGEST_MESSAGE, BUDGET_MAX, plain!(router.mailbox_bytes_total_max)),
        "What may wait on disk for all endpoints.",
    ),
    live(
        "store.pending_bytes_max",
        bytes(LARGEST_MESSAGE, BUDGET_MAX, number!(router.store_pending_bytes_max: usize)),
        "What may be on its way to the disk. Over it, reading from those who add to it pauses.",
    ),
    live(
        "store.queued_for",
        time(MINUTE, YEAR, plain!(router.queued_for)),
        "How long a message waits that its sender has queued for an endpoint without a mailbox.",
    ),
    live(
        "store.dead_letters_for",
        time(MINUTE, YEAR, plain!(store.dead_letters_for)),
        "How long dead letters are kept.",
    ),
    live(
        "store.dead_letters_bytes_max",
        bytes(LARGEST_MESSAGE, BUDGET_MAX, plain!(store.dead_letters_bytes_max)),
        "How much of them is kept. Over it, the oldest goes first of those that the user has sent who \
         has sent the most of them.",
    ),
    live(
        "store.history",
        word!(HISTORIES, store.history),
        "What is kept of every message that is routed: `none`, `envelopes` (who wrote to whom and \
         when, without content), or whole `messages`. Messages go into the history after they were \
         routed; when the disk is slow, some are left out, and counted.",
    ),
    live(
        "store.history_for",
        time(MINUTE, YEAR, plain!(store.history_for)),
        "How long the history is kept.",
    ),
    live(
        "store.history_bytes_max",
        bytes(LARGEST_MESSAGE, BUDGET_MAX, plain!(store.history_bytes_max)),
        "How much of it is kept; the oldest goes first.",
    ),
    live(
        "store.known_for",
        time(MINUTE, YEAR, plain!(router.known_for)),
        "How long the name of an endpoint is known after it was there: so long, messages may be \
         queued for it.",
    ),
    live(
        "store.known_max",
        count(1, 10_000_000, number!(router.known_max: usize)),
        "How many names are known; the one seen longest ago goes first. Together they may take 64 MiB.",
    ),
    live(
        "delivery.in_flight_bytes_max",
        bytes(64 * KIB, BUDGET_MAX, number!(router.in_flight_bytes_max: usize)),
        "Unacknowledged bytes that an acknowledging session gets at a time. One message of any size \
         is always possible.",
    ),
    live(
        "delivery.nack_pause",
        time(ms(1), HOUR, plain!(router.nack_pause)),
        "When a message comes again that its receiver has given back for the first time; twice as \
         long each further time.",
    ),
    live(
        "delivery.nack_pause_max",
        time(ms(1), DAY, plain!(router.nack_pause_max)),
        "The longest such pause.",
    ),
    live(
        "delivery.deliveries_max",
        count(1, 1_000_000, number!(router.deliveries_max: u32)),
        "So many deliveries that ended without an acknowledgement make a dead letter.",
    ),
    live(
        "delivery.repetition_window",
        time(ms(0), DAY, plain!(router.repetition_window)),
        "How long a message that asks for `stored`, `acked` or `queue` is known by its id: a \
         repetition is answered, and not delivered again.",
    ),
    live(
        "delivery.repetitions_max",
        count(0, 10_000_000, number!(router.repetitions_max: usize)),
        "How many messages are known by their ids; the oldest goes first.",
    ),
    live(
        "delivery.receipt_wait",
        time(ms(100), HOUR, plain!(router.receipt_wait)),
        "How long the receipt of a broadcast or topic waits for its last target.",
    ),
    live(
        "delivery.receipts_waiting_max",
        count(1, 10_000_000, number!(router.receipts_waiting_max: usize)),
        "Receipts that one connection may wait for at a time. With their ids they may take 16 MiB, 96 MiB \
         for all connections of one user.",
    ),
    at_start(
        "delivery.trace_messages_max",
        count(0, 10_000_000, number!(router.trace_messages_max: usize)),
        "Messages whose states are remembered for `trace`.",
    ),
    at_start(
        "socket.backlog",
        count(1, 65_535, number!(socket.backlog: u32)),
        "Connections that may wait to be accepted. The kernel allows at most `net.core.somaxconn`.",
    ),
    live(
        "hooks.concurrency",
        count(1, 1_000, number!(hooks.concurrency: usize)),
        "Hooks that run at the same time.",
    ),
    live(
        "hooks.waiting_max",
        count(1, 1_000_000, number!(hooks.waiting_max: usize)),
        "Calls that wait for their turn. When one more comes, the oldest is dropped.",
    ),
    live(
        "hooks.waiting_bytes_max",
        bytes(LARGEST_MESSAGE, BUDGET_MAX, number!(hooks.waiting_bytes_max: usize)),
        "Memory for the messages of waiting calls. Over it, the oldest calls are dropped.",
    ),
    live("hooks.timeout", time(ms(100), DAY, plain!(hooks.timeout)), "How long a hook may run."),
    live(
        "hooks.kill_after",
        time(ms(0), HOUR, plain!(hooks.kill_after)),
        "How long a hook may take to end when it is asked to (SIGTERM), before it is killed.",
    ),
    live(
        "hooks.output_bytes_max",
        bytes(0, 16 * MIB, number!(hooks.output_bytes_max: usize)),
        "How much of a hook's output is kept for the log.",
    ),
    live(
        "log.to",
        word!(SINKS, log.sink),
        "Where log lines go: a `file` (`run/busd.log` in the root directory), `stderr`, or the \
         system's `journal`. `auto`: standard error in the foreground, the file in the background, \
         the journal where standard error is connected to it.",
    ),
    live("log.format", word!(FORMATS, log.format), "How a line looks."),
    live("log.level", word!(LEVELS, log.level), "The least important level that is logged."),
    live(
        "log.levels",
        Kind::Levels(plain!(log.levels)),
        "Levels of single targets, in place of `log.level`: `{hooks: debug}`. The targets are `bus`, \
         `config`, `door`, `hooks`, `metrics`, `router`, `service` and `store`.",
    ),
    live(
        "log.file_bytes_max",
        bytes(4 * KIB, BUDGET_MAX, number!(log.file_bytes_max: u64)),
        "A log file over this size makes room.",
    ),
    live(
        "log.files_kept",
        count(0, 100, number!(log.files_kept: u32)),
        "Older log files that are kept (`busd.log.1`, …). With 0 a large file is cut to its end.",
    ),
    at_start(
        "metrics.socket",
        Kind::Switch(plain!(metrics.socket)),
        "Whether metrics can be read from `run/metrics.sock` in the root directory.",
    ),
];

//! Every limit and delay of the router, with the defaults that the protocol names.

use alloc::borrow::ToOwned;
use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

/// Limits and delays. Bytes count frames with their headers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// `NAME/VERSION` of the server, as listings show it.
    pub server: String,
    /// What the driver does when its owner asks for it with `admin`, as listings show it.
    pub admin_ops: &'static [&'static str],
    /// The daemon's own user. It and root may always connect.
    pub owner_uid: u32,
    /// Further users who may connect.
    pub allow_uids: Vec<u32>,
    /// Names that not everybody may register.
    pub protected: Vec<Protection>,
    /// A registered session's message whose `from` is not its own name is refused.
    pub strict_from: bool,
    /// Messages that one connection may send in a second, on average; over it, reading from it pauses.
    pub messages_per_s: Option<u64>,
    /// The same in bytes.
    pub bytes_per_s: Option<u64>,
    /// A registered session that is silent for so long is closed.
    pub heartbeat: Duration,
    /// A frame must be complete so long after its first byte.
    pub frame_deadline: Duration,
    /// How long the name of a session that ended is held for it.
    pub linger: Duration,
    /// So many replacements of live sessions of one name within [`Config::fight_window`] are no fight.
    pub fight_replacements: usize,
    /// See [`Config::fight_replacements`].
    pub fight_window: Duration,
    /// How long the first newcomer of a fight waits for its `registered`; each further one twice as long.
    pub fight_pause: Duration,
    /// The longest such wait.
    pub fight_pause_max: Duration,
    /// Whether impatient clients are kept connected with unsolicited pongs.
    pub impatient_pongs: bool,
    /// How long an anonymous sender waits for the fate of its message, where the endpoint lingers or
    /// its queue is full. Released senders take a second of silence as success.
    pub answer: Duration,
    /// What is held for one lingering name.
    pub held_bytes_max: usize,
    /// What is held for all lingering names.
    pub held_bytes_total_max: usize,
    /// The live queue of one receiver.
    pub queue_bytes_max: usize,
    /// The live queues of all receivers of one user.
    pub queue_bytes_user_max: usize,
    /// All live queues.
    pub queue_bytes_total_max: usize,
    /// What a receiver may always queue, however full the queues of others are.
    pub queue_bytes_reserved: usize,
    /// How long a sender is kept waiting for a receiver whose queue is full.
    pub stall: Duration,
    /// Answers that a peer leaves unread before the bus stops reading from it.
    pub answer_bytes_max: usize,
    /// Answers that all peers together leave unread before nobody gets a further one while it has
    /// some to read.
    pub answer_bytes_total_max: usize,
    /// Bytes of unfinished frames, and of frames whose sender is kept waiting, of one user.
    pub intake_bytes_user_max: usize,
    /// The same, of all.
    pub intake_bytes_total_max: usize,
    /// How long a connection that is to be closed may take to read what is queued for it.
    pub drain: Duration,
    /// Whether somebody carries out [`Effect::Store`](crate::Effect::Store). Without it nothing is kept
    /// on disk, and what must be is refused.
    pub store: bool,
    /// Endpoints that have a mailbox, whether they ask for one or not.
    pub mailboxes: Vec<String>,
    /// What may wait on disk for one endpoint.
    pub mailbox_bytes_max: u64,
    /// What may wait on disk for all endpoints of one user.
    pub mailbox_bytes_user_max: u64,
    /// What may wait on disk for all endpoints.
    pub mailbox_bytes_total_max: u64,
    /// What may be on its way to the disk; over it, reading from those who add to it pauses.
    pub store_pending_bytes_max: usize,
    /// How long a message waits that its sender has queued for an endpoint without a mailbox.
    pub queued_for: Duration,
    /// Unacknowledged bytes that an acknowledging session takes at a time.
    pub in_flight_bytes_max: usize,
    /// When a message comes again that was given back for the first time; twice as long each time.
    pub nack_pause: Duration,
    /// The longest such pause.
    pub nack_pause_max: Duration,
    /// So many deliveries that ended without an acknowledgement make a dead letter.
    pub deliveries_max: u32,
    /// How long a message is known by its id.
    pub repetition_window: Duration,
    /// How many messages are known by their ids.
    pub repetitions_max: usize,
    /// How long the receipt of a broadcast or topic waits for its last target.
    pub receipt_wait: Duration,
    /// Receipts that one connection may wait for at a time.
    pub receipts_waiting_max: usize,
    /// Messages whose states are remembered for `trace`.
    pub trace_messages_max: usize,
    /// How long the name of an endpoint is known after it was there.
    pub known_for: Duration,
    /// How many names are known.
    pub known_max: usize,
}

/// A name that not everybody may register. A session that shows the token, or whose user is the
/// right one, may; with neither in the configuration nobody may.
#[derive(Clone, PartialEq, Eq)]
pub struct Protection {
    /// The endpoint's name.
    pub name: String,
    /// The user who may register it.
    pub uid: Option<u32>,
    /// The secret that `register` may show as `token`.
    pub token: Option<String>,
}

impl Protection {
    /// Whether this is the token. How long that takes does not tell how much of it is right.
    pub(crate) fn is_opened_by(&self, shown: &str) -> bool {
        let Some(token) = &self.token else { return false };
        let differences = token.bytes().zip(shown.bytes()).fold(0, |found, (a, b)| found | (a ^ b));
        token.len() == shown.len() && differences == 0
    }
}

impl core::fmt::Debug for Protection {
    /// Shows everything but the secret.
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let Protection { name, uid, token } = self;
        let token = token.as_ref().map(|_| "…");
        f.debug_struct("Protection")
            .field("name", name)
            .field("uid", uid)
            .field("token", &token)
            .finish()
    }
}

/// One mebibyte.
const MIB: usize = 1024 * 1024;

impl Default for Config {
    fn default() -> Self {
        Config {
            server: concat!("hermes-bus/", env!("CARGO_PKG_VERSION")).to_owned(),
            admin_ops: &[],
            owner_uid: 0,
            allow_uids: Vec::new(),
            protected: Vec::new(),
            strict_from: false,
            messages_per_s: None,
            bytes_per_s: None,
            heartbeat: Duration::from_secs(90),
            frame_deadline: Duration::from_secs(30),
            linger: Duration::from_secs(3),
            fight_replacements: 3,
            fight_window: Duration::from_secs(10),
            fight_pause: Duration::from_millis(100),
            fight_pause_max: Duration::from_secs(1),
            impatient_pongs: true,
            answer: Duration::from_millis(700),
            held_bytes_max: MIB,
            held_bytes_total_max: 64 * MIB,
            queue_bytes_max: 16 * MIB,
            queue_bytes_user_max: 384 * MIB,
            queue_bytes_total_max: 512 * MIB,
            queue_bytes_reserved: 256 * 1024,
            stall: Duration::from_secs(2),
            answer_bytes_max: MIB,
            answer_bytes_total_max: 64 * MIB,
            intake_bytes_user_max: 192 * MIB,
            intake_bytes_total_max: 256 * MIB,
            drain: Duration::from_secs(2),
            store: false,
            mailboxes: Vec::new(),
            mailbox_bytes_max: 1024 * MIB as u64,
            mailbox_bytes_user_max: 6 * 1024 * MIB as u64,
            mailbox_bytes_total_max: 8 * 1024 * MIB as u64,
            store_pending_bytes_max: 12 * MIB,
            queued_for: Duration::from_secs(7 * 24 * 3600),
            in_flight_bytes_max: 16 * MIB,
            nack_pause: Duration::from_secs(1),
            nack_pause_max: Duration::from_secs(60),
            deliveries_max: 16,
            repetition_window: Duration::from_secs(600),
            repetitions_max: 200_000,
            receipt_wait: Duration::from_secs(30),
            receipts_waiting_max: 100_000,
            trace_messages_max: 16_384,
            known_for: Duration::from_secs(30 * 24 * 3600),
            known_max: 100_000,
        }
    }
}

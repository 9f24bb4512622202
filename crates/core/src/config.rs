//! Every limit and delay of the router, with the defaults that the protocol names.

use core::time::Duration;

/// Limits and delays. Bytes count frames with their headers.
#[derive(Clone, Debug)]
pub struct Config {
    /// `NAME/VERSION` of the server, as listings show it.
    pub server: String,
    /// The daemon's own user. It and root may always connect.
    pub owner_uid: u32,
    /// Further users who may connect.
    pub allow_uids: Vec<u32>,
    /// A registered session that is silent for so long is closed.
    pub heartbeat: Duration,
    /// A frame must be complete so long after its first byte.
    pub frame_deadline: Duration,
    /// How long the name of a session that ended is held for it.
    pub linger: Duration,
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
}

/// One mebibyte.
const MIB: usize = 1024 * 1024;

impl Default for Config {
    fn default() -> Self {
        Config {
            server: concat!("hermes-bus/", env!("CARGO_PKG_VERSION")).to_owned(),
            owner_uid: 0,
            allow_uids: Vec::new(),
            heartbeat: Duration::from_secs(90),
            frame_deadline: Duration::from_secs(30),
            linger: Duration::from_secs(3),
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
        }
    }
}

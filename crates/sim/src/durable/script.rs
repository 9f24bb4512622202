//! What is to happen in a run of the durable world: drawn from a seed, and a script in every part.

use std::time::Duration;

use hermes_bus_core::Config;
use hermes_bus_proto::control::Status;
use hermes_bus_proto::register::Conflict;

use crate::draw::Dice;

/// Names of endpoints in a run: those that are asked for, then those that the bus makes of the first one.
pub const NAMES: &[&str] = &[
    "a", "b", "c", "d", "e", "a-2", "a-3", "a-4", "a-5", "a-6", "a-7", "a-8", "a-9", "a-10",
    "a-11", "a-12", "a-13", "a-14", "a-15", "a-16",
];
/// How many of them are asked for.
pub const NAMES_ASKED: usize = 5;
/// Groups in a run, without `@`.
pub const GROUPS: &[&str] = &["g", "h"];
/// Patterns that are subscribed to, without `#`.
pub const PATTERNS: &[&str] = &["t.*", "t.>", "t.x", "u.>", ">"];
/// Topics that are published to, without `#`.
pub const TOPICS: &[&str] = &["t.x", "t.y", "u.z.w"];
/// Clients in a run.
pub const CLIENTS: usize = 7;

/// One event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Which client.
    pub client: u8,
    /// What happens.
    pub action: Action,
    /// Seed of what the world decides while the event is played.
    pub draw: u64,
}

/// Whom a message is for, by numbers of the lists above.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum To {
    /// An endpoint.
    Name(u8),
    /// A group.
    Group(u8),
    /// A topic.
    Topic(u8),
    /// All registered endpoints.
    Everyone,
}

/// What a message asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asks {
    /// `receipt`
    pub receipt: Option<Status>,
    /// `queue`
    pub queue: bool,
    /// `ttl_s`, in milliseconds.
    pub ttl_ms: Option<u32>,
}

impl Asks {
    /// Whether it is to survive, if its target takes such.
    pub fn is_queued(self) -> bool {
        self.queue || self.receipt == Some(Status::Stored)
    }

    /// Whether a repetition of it is recognised by its id.
    pub fn is_judged(self) -> bool {
        self.queue
            || self
                .receipt
                .is_some_and(|wanted| wanted != Status::Accepted && wanted != Status::Delivered)
    }
}

/// What a session asks for when it takes its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Join {
    /// Which name.
    pub name: u8,
    /// It speaks level 2; only then the rest is said.
    pub level_2: bool,
    /// `ack`
    pub ack: bool,
    /// `in_flight`
    pub in_flight: u8,
    /// `mailbox`
    pub mailbox: bool,
    /// Patterns, one bit for each.
    pub topics: u8,
    /// Groups, one bit for each.
    pub groups: u8,
    /// `conflict`
    pub conflict: Conflict,
}

/// What a client acknowledges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acks {
    /// The oldest message that it holds.
    One,
    /// The newest one.
    Newest,
    /// Everything, by its numbers.
    All,
    /// Everything, with `up_to`.
    UpTo,
    /// One, by its id.
    Id,
}

/// How the disk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// It works.
    Well,
    /// It is full: what makes room can still be written.
    Full,
    /// No sync succeeds.
    Broken,
    /// Every sync takes long.
    Slow,
    /// Some messages are refused, others are not.
    Picky,
}

/// How a process of the bus ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It is killed; what is in the sockets can still be read.
    Kill,
    /// The machine stops, and everybody with it.
    PowerLoss,
    /// In good order.
    Stop,
    /// In good order, and what is only in memory goes to the next process.
    HandOver,
}

/// What a session looks on at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// Nothing.
    Nothing,
    /// Who comes and goes.
    Presence,
    /// Every message.
    Messages,
}

/// What the owner of the bus does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deed {
    /// Removes all that waits for an endpoint.
    Purge(u8),
    /// Looks at what waits for an endpoint on disk, and takes so much of it at the next such deed.
    Drain(u8, u8),
    /// Has a dead letter tried once more: the oldest one, or the newest.
    Retry {
        /// The newest one.
        newest: bool,
    },
}

/// What happens. A client whose connection does not allow it does nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Time passes, and the driver is there when something is due.
    Pass {
        /// Microseconds.
        us: u64,
    },
    /// Time passes while the driver sleeps.
    Sleep {
        /// Microseconds.
        us: u64,
    },
    /// Time passes until the next timer.
    PassToTimer,
    /// The driver turns until nothing moves.
    Turn,
    /// A new connection without a name.
    Connect,
    /// A new connection that takes a name.
    Join(Join),
    /// Sends messages.
    Send {
        /// For whom.
        to: To,
        /// How many.
        count: u8,
        /// Bytes of each body.
        bytes: u32,
        /// What each asks for.
        asks: Asks,
    },
    /// Sends one of its earlier messages again.
    Again {
        /// How many messages ago it was sent.
        back: u8,
    },
    /// Acknowledges.
    Ack(Acks),
    /// Gives a message back.
    Nack {
        /// It may come again.
        requeue: bool,
        /// The newest one, not the oldest.
        newest: bool,
    },
    /// Acknowledges everything at once from now on, or nothing by itself.
    AckOn {
        /// At once.
        at_once: bool,
    },
    /// Subscribes, or ends subscriptions.
    Subscribe {
        /// Patterns, one bit for each.
        topics: u8,
        /// Groups, one bit for each.
        groups: u8,
        /// It begins.
        joins: bool,
    },
    /// Looks on from now on.
    Watch(Look),
    /// The owner does something.
    Owner(Deed),
    /// Reads so much, once.
    Read {
        /// Bytes.
        bytes: u32,
    },
    /// Reads everything from now on.
    ReadOn,
    /// Reads nothing from now on.
    ReadNot,
    /// Closes.
    Close {
        /// What it has not sent yet is not sent any more.
        at_once: bool,
    },
    /// The disk changes.
    Disk(Health),
    /// The process of the bus ends, and another one begins.
    End(End),
}

impl Action {
    /// Every kind there is.
    pub const KINDS: &[&str] = &[
        "pass",
        "sleep",
        "pass_to_timer",
        "turn",
        "connect",
        "join",
        "send",
        "again",
        "ack",
        "nack",
        "ack_on",
        "subscribe",
        "unsubscribe",
        "watch",
        "purge",
        "drain",
        "retry",
        "read",
        "read_on",
        "read_not",
        "close",
        "disk",
        "kill",
        "power_loss",
        "stop",
        "hand_over",
    ];

    /// The kind in one word.
    pub fn kind(&self) -> &'static str {
        match self {
            Action::Pass { .. } => "pass",
            Action::Sleep { .. } => "sleep",
            Action::PassToTimer => "pass_to_timer",
            Action::Turn => "turn",
            Action::Connect => "connect",
            Action::Join(_) => "join",
            Action::Send { .. } => "send",
            Action::Again { .. } => "again",
            Action::Ack(_) => "ack",
            Action::Nack { .. } => "nack",
            Action::AckOn { .. } => "ack_on",
            Action::Subscribe { joins: true, .. } => "subscribe",
            Action::Subscribe { joins: false, .. } => "unsubscribe",
            Action::Watch(_) => "watch",
            Action::Owner(Deed::Purge(_)) => "purge",
            Action::Owner(Deed::Drain(..)) => "drain",
            Action::Owner(Deed::Retry { .. }) => "retry",
            Action::Read { .. } => "read",
            Action::ReadOn => "read_on",
            Action::ReadNot => "read_not",
            Action::Close { .. } => "close",
            Action::Disk(_) => "disk",
            Action::End(End::Kill) => "kill",
            Action::End(End::PowerLoss) => "power_loss",
            Action::End(End::Stop) => "stop",
            Action::End(End::HandOver) => "hand_over",
        }
    }
}

/// What a client is like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Client {
    /// Bytes that its socket holds from the bus.
    pub from_bus_bytes_max: u32,
    /// Bytes that its socket holds to the bus.
    pub to_bus_bytes_max: u32,
    /// It reads everything from the beginning on.
    pub reads_on: bool,
    /// It acknowledges everything at once from the beginning on.
    pub acks_at_once: bool,
    /// It comes back by itself when its connection has ended.
    pub comes_back: bool,
}

/// What a run is like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Character {
    /// The limits.
    pub config: Config,
    /// The clients.
    pub clients: Vec<Client>,
    /// How often the driver turns after an event, of 256.
    pub turns: u16,
    /// The most bytes that one write takes; what is less is drawn each time.
    pub writes_bits: u32,
    /// The longest that a commit takes, in microseconds: two to the power of this.
    pub commit_bits: u32,
    /// Of 256: answers of the store come later than they could.
    pub answers_later: u16,
    /// Of 256: crashes among the events.
    pub crashes: u16,
    /// Names that are wanted.
    pub names: u32,
}

/// A whole run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Script {
    /// What it was drawn from.
    pub seed: u64,
    /// What the run is like.
    pub character: Character,
    /// What happens, in order.
    pub events: Vec<Event>,
}

/// The user whose bus it is, and another one who may use it.
pub const OWNER: u32 = 1000;
/// See [`OWNER`].
pub const OTHER_USER: u32 = 1001;

impl Script {
    /// The script of a seed: the same on every machine. A longer one begins with the shorter ones.
    pub fn draw(seed: u64, events: usize) -> Self {
        let mut dice = Dice::new(seed ^ 0x6475_7261_626c_6521);
        let character = Character::draw(&mut dice);
        let mut dice = Dice::new(dice.seed());
        let events = (0..events).map(|_| {
            let client = dice.below(CLIENTS as u32) as u8;
            let action = Action::draw(&mut dice, &character);
            Event { client, action, draw: dice.seed() }
        });
        let events = events.collect();
        Script { seed, character, events }
    }
}

impl Character {
    fn draw(dice: &mut Dice) -> Self {
        let small = dice.one_in(2);
        let ms = |dice: &mut Dice, choices: &[u64]| Duration::from_millis(dice.pick(choices));
        let mut config = Config {
            owner_uid: OWNER,
            allow_uids: vec![OTHER_USER],
            heartbeat: Duration::from_secs(100_000),
            store: true,
            linger: ms(dice, &[0, 200, 3_000]),
            stall: ms(dice, &[50, 2_000]),
            drain: ms(dice, &[100, 2_000]),
            nack_pause: ms(dice, &[10, 1_000]),
            nack_pause_max: ms(dice, &[100, 4_000]),
            deliveries_max: dice.pick(&[2, 4, 16]),
            repetition_window: ms(dice, &[3_000, 60_000, 600_000]),
            receipt_wait: ms(dice, &[500, 30_000]),
            ..Config::default()
        };
        if small {
            config.queue_bytes_max = dice.pick(&[1_500, 8_000, 40_000]);
            config.queue_bytes_reserved = dice.pick(&[0, 1_000]);
            config.in_flight_bytes_max = dice.pick(&[2_000, 20_000]);
        }
        if dice.one_in(3) {
            config.mailbox_bytes_max = dice.pick(&[900, 5_000, 50_000]);
        }
        if dice.one_in(4) {
            config.mailbox_bytes_total_max = dice.pick(&[3_000, 20_000]);
        }
        if dice.one_in(4) {
            config.store_pending_bytes_max = dice.pick(&[300, 3_000]);
        }
        if dice.one_in(6) {
            config.receipts_waiting_max = dice.pick(&[1, 4]);
        }
        if dice.one_in(4) {
            config.mailboxes = vec![NAMES[0].to_owned()];
        }
        if dice.one_in(6) {
            config.queued_for = ms(dice, &[2_000, 20_000]);
        }
        if dice.one_in(6) {
            config.repetitions_max = dice.pick(&[1, 8]);
        }
        let clients = (0..CLIENTS).map(|_| Client {
            from_bus_bytes_max: dice.pick(&[212_992, 212_992, 3_000, 300, 40]),
            to_bus_bytes_max: dice.pick(&[212_992, 212_992, 600]),
            reads_on: !dice.one_in(4),
            acks_at_once: dice.one_in(2),
            comes_back: !dice.one_in(3),
        });
        Character {
            clients: clients.collect(),
            config,
            turns: dice.pick(&[256, 256, 128, 40]),
            writes_bits: dice.pick(&[20, 20, 12, 7]),
            commit_bits: dice.pick(&[0, 9, 12, 16, 20]),
            answers_later: dice.pick(&[0, 0, 64, 200]),
            crashes: dice.pick(&[2, 4, 8]),
            names: dice.pick(&[1, 2, 3, 5]),
        }
    }
}

impl Action {
    fn draw(dice: &mut Dice, character: &Character) -> Self {
        if dice.chance(character.crashes) {
            return Action::End(dice.pick(&[
                End::Kill,
                End::Kill,
                End::PowerLoss,
                End::PowerLoss,
                End::Stop,
                End::HandOver,
            ]));
        }
        match dice.below(104) {
            0..=8 => Action::Pass { us: u64::from(dice.magnitude(22)) },
            9 => Action::Sleep { us: u64::from(dice.magnitude(24)) },
            10..=13 => Action::PassToTimer,
            14..=16 => Action::Turn,
            17..=18 => Action::Connect,
            19..=29 => Action::Join(Join::draw(dice, character)),
            30..=62 => {
                let to = match dice.below(12) {
                    0..=7 => To::Name(dice.below(character.names) as u8),
                    8..=9 => To::Group(dice.below(GROUPS.len() as u32) as u8),
                    10 => To::Topic(dice.below(TOPICS.len() as u32) as u8),
                    _ => dice.pick(&[To::Topic(0), To::Everyone]),
                };
                let bytes = if dice.one_in(24) { dice.magnitude(16) } else { dice.magnitude(8) };
                let count = if dice.one_in(6) { dice.between(2, 12) } else { 1 } as u8;
                Action::Send { to, count, bytes, asks: Asks::draw(dice) }
            }
            63..=67 => Action::Again { back: dice.magnitude(4) as u8 },
            68..=77 => {
                Action::Ack(dice.pick(&[Acks::One, Acks::Newest, Acks::All, Acks::UpTo, Acks::Id]))
            }
            78..=80 => Action::Nack { requeue: !dice.one_in(3), newest: dice.one_in(3) },
            81..=82 => Action::AckOn { at_once: dice.one_in(2) },
            83..=84 => Action::Subscribe {
                topics: dice.below(1 << PATTERNS.len()) as u8,
                groups: dice.below(1 << GROUPS.len()) as u8,
                joins: !dice.one_in(3),
            },
            85..=88 => Action::Read { bytes: dice.magnitude(12) },
            89..=90 => Action::ReadOn,
            91 => Action::ReadNot,
            92..=95 => Action::Close { at_once: dice.one_in(2) },
            96 => Action::Disk(dice.pick(&[
                Health::Full,
                Health::Broken,
                Health::Slow,
                Health::Picky,
            ])),
            97..=99 => Action::Disk(Health::Well),
            100 => Action::Watch(dice.pick(&[
                Look::Presence,
                Look::Messages,
                Look::Messages,
                Look::Nothing,
            ])),
            101 => {
                let name = dice.below(character.names) as u8;
                Action::Owner(match dice.one_in(2) {
                    true => Deed::Purge(name),
                    false => Deed::Drain(name, dice.between(1, 6) as u8),
                })
            }
            _ => Action::Owner(Deed::Retry { newest: dice.one_in(2) }),
        }
    }
}

impl Join {
    fn draw(dice: &mut Dice, character: &Character) -> Self {
        Join {
            name: dice.below(character.names) as u8,
            level_2: !dice.one_in(4),
            ack: !dice.one_in(4),
            in_flight: dice.pick(&[1, 2, 3, 64]),
            mailbox: dice.one_in(2),
            topics: if dice.one_in(3) { dice.below(1 << PATTERNS.len()) as u8 } else { 0 },
            groups: if dice.one_in(3) { dice.below(1 << GROUPS.len()) as u8 } else { 0 },
            conflict: match dice.below(12) {
                0 => Conflict::Refuse,
                1 => Conflict::Suffix,
                _ => Conflict::Replace,
            },
        }
    }
}

impl Asks {
    fn draw(dice: &mut Dice) -> Self {
        let receipt = match dice.below(8) {
            0..=1 => None,
            2 => Some(Status::Accepted),
            3 => Some(Status::Delivered),
            4..=5 => Some(Status::Stored),
            _ => Some(Status::Acked),
        };
        let ttl_ms = dice.one_in(6).then(|| dice.pick(&[0, 1, 50, 1_000, 5_000]));
        Asks { receipt, queue: dice.one_in(3), ttl_ms }
    }
}

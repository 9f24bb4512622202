//! What is to happen in a run: drawn from a seed, or read from any bytes.
//!
//! A script does not depend on what the router does. Operands are read against what exists when an
//! event is played (the third name, a fifth of what waits), so any subset of a script is a script:
//! that is what makes shrinking work.

use hermes_bus_proto::limits::PAYLOAD_BYTES_MAX;

use crate::character::{Character, SECTIONS};
use crate::draw::Dice;

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

/// Whom a message is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum To {
    /// A name of the run, by its number.
    Name(u8),
    /// A name that nobody ever has.
    Nobody,
    /// Every endpoint.
    Everyone,
}

/// What a client does after its last word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// It stays.
    Wait,
    /// It ends its sending side, and goes on reading.
    HalfClose,
    /// It closes.
    Close,
}

/// How near to the next timer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Near {
    /// One microsecond before it.
    Before,
    /// At the very moment.
    At,
    /// One microsecond behind it.
    Behind,
}

/// How a process of the bus ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It is killed.
    Crash,
    /// In good order; another one is started later.
    Stop,
    /// In good order, and what it has goes to another one.
    Restart,
}

/// What happens. A client whose connection does not allow it does what comes nearest to it, or nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Time passes, and the driver is there when a timer is due.
    Pass {
        /// Microseconds.
        us: u64,
    },
    /// Time passes, and the driver has slept through all of it.
    Sleep {
        /// Microseconds.
        us: u64,
    },
    /// Time passes until the next timer.
    PassToTimer {
        /// How near.
        near: Near,
    },
    /// The wall clock is set.
    SetWallClock {
        /// Microseconds of Unix time.
        unix_us: u64,
    },
    /// The driver turns until there is nothing to do.
    Turn,
    /// A new connection.
    Connect {
        /// The one before it stays open.
        beside: bool,
    },
    /// Asks for a name.
    Register {
        /// Which one.
        name: u8,
    },
    /// Sends messages.
    Send {
        /// For whom.
        to: To,
        /// How many.
        count: u16,
        /// Bytes of each one's payload, or what it takes at least.
        bytes: u32,
    },
    /// A new connection sends messages and has nothing more to say.
    Visit {
        /// For whom.
        to: To,
        /// How many.
        count: u16,
        /// Bytes of each one's payload, or what it takes at least.
        bytes: u32,
        /// What it does then.
        then: Then,
    },
    /// Asks for pongs.
    Ping {
        /// How many.
        count: u16,
    },
    /// Asks who is there.
    List {
        /// How often.
        count: u16,
    },
    /// Asks for what only the owner may ask for.
    Admin {
        /// How often.
        count: u16,
    },
    /// Sends something odd that is a valid frame.
    Odd,
    /// Sends what is no valid frame.
    Garbage,
    /// Reads so much, once.
    Read {
        /// Bytes.
        bytes: u32,
    },
    /// Reads everything from now on.
    ReadOn,
    /// Reads nothing from now on.
    ReadNot,
    /// Sends only so much at a time from now on.
    Drip {
        /// Bytes.
        bytes: u32,
    },
    /// Stops in the middle of what it wants to send.
    Pause {
        /// Bytes that it still sends before that.
        bytes: u32,
    },
    /// Sends everything from now on.
    Flow,
    /// Ends its sending side.
    HalfClose {
        /// What it has not sent yet is not sent any more.
        at_once: bool,
    },
    /// Ends its reading side.
    StopReading,
    /// Closes.
    Close {
        /// What it has not sent yet is not sent any more.
        at_once: bool,
    },
    /// Closes in the middle of what it gets.
    Die {
        /// Bytes that it still takes.
        bytes: u32,
    },
    /// Registers, hears nothing for a while, leaves, and comes back.
    Tire {
        /// Under which name.
        name: u8,
        /// How long it hears nothing.
        silence_us: u32,
        /// How long it is away.
        away_us: u32,
    },
    /// Somebody takes what the tap has.
    TakeTapped,
    /// The owner's requests are answered.
    AnswerAdmin,
    /// New limits.
    Configure {
        /// Seed of the limits.
        limits: u64,
    },
    /// The process of the bus ends, and another one begins.
    End {
        /// How.
        how: End,
    },
}

/// The kinds of actions, in the order of [`Action::KINDS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Pass,
    Sleep,
    PassToTimer,
    SetWallClock,
    Turn,
    Connect,
    Register,
    Send,
    Visit,
    Ping,
    List,
    Admin,
    Odd,
    Garbage,
    Read,
    ReadOn,
    ReadNot,
    Drip,
    Pause,
    Flow,
    HalfClose,
    StopReading,
    Close,
    Die,
    Tire,
    TakeTapped,
    AnswerAdmin,
    Configure,
    Crash,
    Stop,
    Restart,
}

impl Kind {
    pub(crate) const ALL: &[Kind] = &[
        Kind::Pass,
        Kind::Sleep,
        Kind::PassToTimer,
        Kind::SetWallClock,
        Kind::Turn,
        Kind::Connect,
        Kind::Register,
        Kind::Send,
        Kind::Visit,
        Kind::Ping,
        Kind::List,
        Kind::Admin,
        Kind::Odd,
        Kind::Garbage,
        Kind::Read,
        Kind::ReadOn,
        Kind::ReadNot,
        Kind::Drip,
        Kind::Pause,
        Kind::Flow,
        Kind::HalfClose,
        Kind::StopReading,
        Kind::Close,
        Kind::Die,
        Kind::Tire,
        Kind::TakeTapped,
        Kind::AnswerAdmin,
        Kind::Configure,
        Kind::Crash,
        Kind::Stop,
        Kind::Restart,
    ];
}

impl Action {
    /// Every kind there is.
    pub const KINDS: &[&str] = &[
        "pass",
        "sleep",
        "pass_to_timer",
        "set_wall_clock",
        "turn",
        "connect",
        "register",
        "send",
        "visit",
        "ping",
        "list",
        "admin",
        "odd",
        "garbage",
        "read",
        "read_on",
        "read_not",
        "drip",
        "pause",
        "flow",
        "half_close",
        "stop_reading",
        "close",
        "die",
        "tire",
        "take_tapped",
        "answer_admin",
        "configure",
        "crash",
        "stop",
        "restart",
    ];

    /// The kind in one word.
    pub fn kind(&self) -> &'static str {
        Self::KINDS[self.of_kind() as usize]
    }

    fn of_kind(&self) -> Kind {
        match self {
            Action::Pass { .. } => Kind::Pass,
            Action::Sleep { .. } => Kind::Sleep,
            Action::PassToTimer { .. } => Kind::PassToTimer,
            Action::SetWallClock { .. } => Kind::SetWallClock,
            Action::Turn => Kind::Turn,
            Action::Connect { .. } => Kind::Connect,
            Action::Register { .. } => Kind::Register,
            Action::Send { .. } => Kind::Send,
            Action::Visit { .. } => Kind::Visit,
            Action::Ping { .. } => Kind::Ping,
            Action::List { .. } => Kind::List,
            Action::Admin { .. } => Kind::Admin,
            Action::Odd => Kind::Odd,
            Action::Garbage => Kind::Garbage,
            Action::Read { .. } => Kind::Read,
            Action::ReadOn => Kind::ReadOn,
            Action::ReadNot => Kind::ReadNot,
            Action::Drip { .. } => Kind::Drip,
            Action::Pause { .. } => Kind::Pause,
            Action::Flow => Kind::Flow,
            Action::HalfClose { .. } => Kind::HalfClose,
            Action::StopReading => Kind::StopReading,
            Action::Close { .. } => Kind::Close,
            Action::Die { .. } => Kind::Die,
            Action::Tire { .. } => Kind::Tire,
            Action::TakeTapped => Kind::TakeTapped,
            Action::AnswerAdmin => Kind::AnswerAdmin,
            Action::Configure { .. } => Kind::Configure,
            Action::End { how: End::Crash } => Kind::Crash,
            Action::End { how: End::Stop } => Kind::Stop,
            Action::End { how: End::Restart } => Kind::Restart,
        }
    }

    /// An action of this kind.
    fn draw(kind: Kind, dice: &mut Dice, character: &Character) -> Self {
        match kind {
            Kind::Pass => Action::Pass { us: duration_us(dice, character) },
            Kind::Sleep => Action::Sleep { us: duration_us(dice, character) },
            Kind::PassToTimer => {
                Action::PassToTimer { near: dice.pick(&[Near::Before, Near::At, Near::Behind]) }
            }
            Kind::SetWallClock => {
                Action::SetWallClock { unix_us: 1_000_000_000_000_000 + (dice.seed() >> 12) }
            }
            Kind::Turn => Action::Turn,
            Kind::Connect => Action::Connect { beside: dice.one_in(4) },
            Kind::Register => Action::Register { name: name(dice) },
            Kind::Send => {
                let (count, bytes) = load(dice, character);
                Action::Send { to: to(dice, character), count, bytes }
            }
            Kind::Visit => {
                let (count, bytes) = load(dice, character);
                let count = if dice.one_in(3) { count.min(9) } else { 1 };
                let then = dice.pick(&[Then::Wait, Then::Wait, Then::HalfClose, Then::Close]);
                Action::Visit { to: to(dice, character), count, bytes, then }
            }
            Kind::Ping => Action::Ping { count: some(dice, 400) },
            Kind::List => Action::List { count: some(dice, 60) },
            Kind::Admin => Action::Admin { count: some(dice, 12) },
            Kind::Odd => Action::Odd,
            Kind::Garbage => Action::Garbage,
            Kind::Read => Action::Read { bytes: dice.magnitude(18) },
            Kind::ReadOn => Action::ReadOn,
            Kind::ReadNot => Action::ReadNot,
            Kind::Drip => Action::Drip { bytes: 1 + dice.magnitude(9) },
            Kind::Pause => Action::Pause { bytes: dice.magnitude(14) },
            Kind::Flow => Action::Flow,
            Kind::HalfClose => Action::HalfClose { at_once: dice.one_in(4) },
            Kind::StopReading => Action::StopReading,
            Kind::Close => Action::Close { at_once: dice.one_in(3) },
            Kind::Die => Action::Die { bytes: 1 + dice.magnitude(14) },
            Kind::Tire => Action::Tire {
                name: name(dice),
                silence_us: dice.between(850_000, 1_600_000),
                away_us: dice.between(500_000, 3_200_000),
            },
            Kind::TakeTapped => Action::TakeTapped,
            Kind::AnswerAdmin => Action::AnswerAdmin,
            Kind::Configure => Action::Configure { limits: dice.seed() },
            Kind::Crash => Action::End { how: End::Crash },
            Kind::Stop => Action::End { how: End::Stop },
            Kind::Restart => Action::End { how: End::Restart },
        }
    }
}

/// How long: of any order of magnitude, up to minutes.
fn duration_us(dice: &mut Dice, character: &Character) -> u64 {
    let bits = if dice.one_in(64) { 28 } else { u32::from(character.patience_bits) };
    u64::from(dice.magnitude(bits))
}

/// Mostly one, now and then several, seldom many.
fn some(dice: &mut Dice, max: u32) -> u16 {
    match dice.below(16) {
        0 => dice.between(1, max) as u16,
        1..=3 => dice.between(1, 8.min(max)) as u16,
        _ => 1,
    }
}

fn to(dice: &mut Dice, character: &Character) -> To {
    if dice.chance(character.broadcasts_per_256) {
        To::Everyone
    } else if dice.one_in(40) {
        To::Nobody
    } else {
        To::Name(name(dice))
    }
}

/// One of the names: the first ones are wanted most.
fn name(dice: &mut Dice) -> u8 {
    dice.below(6).min(dice.below(6)) as u8
}

/// How many messages, and the bytes of each.
fn load(dice: &mut Dice, character: &Character) -> (u16, u32) {
    if character.is_huge && dice.one_in(8) {
        // With `id` and `ts` the bus adds 71 bytes, with one of them 46 or 25; `from` only where it fits.
        let below_the_limit = dice.pick(&[0, 1, 24, 25, 45, 46, 70, 71, 90, 120, 4_000_000]);
        return (1, PAYLOAD_BYTES_MAX as u32 - below_the_limit);
    }
    let bytes = match dice.below(64) {
        0 => dice.between(60_000, 90_000),
        1..=3 => dice.between(14_000, 20_000),
        4..=12 => dice.magnitude(13),
        _ => dice.magnitude(8),
    };
    let count = match dice.below(32) {
        0..=2 => dice.between(20, 300),
        3..=10 => dice.between(2, 12),
        _ => 1,
    };
    // At most a mebibyte or so.
    (count.min(1 + (1 << 20) / (bytes + 100)) as u16, bytes)
}

/// Bytes of the beginning that decide what a run is like.
const CHARACTER_BYTES: usize = SECTIONS * 2;
/// Bytes of each event behind them.
const EVENT_BYTES: usize = 6;

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

impl Script {
    /// The script of a seed: the same on every machine. A longer one begins with the shorter ones.
    pub fn draw(seed: u64, events: usize) -> Self {
        let mut dice = Dice::new(seed);
        let sections = std::array::from_fn(|_| dice.seed());
        let character = Character::draw(sections);
        let events = (0..events).map(|_| {
            let client = dice.below(character.clients.len() as u32) as u8;
            let choice = dice.below(1 << 16);
            let kind = character.kind(client, choice);
            let action = Action::draw(kind, &mut dice, &character);
            Event { client, action, draw: dice.seed() }
        });
        let events = events.collect();
        Script { seed, character, events }
    }

    /// A script out of any bytes: for fuzzers, which change bytes and see what comes of it. The first
    /// ones decide what the run is like, the others are events of a fixed size: changing or removing
    /// one changes or removes that event and leaves the others.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        let (head, tail) = bytes.split_at(bytes.len().min(CHARACTER_BYTES));
        let byte = |at: usize| u64::from(head.get(at).copied().unwrap_or(0));
        let sections = std::array::from_fn(|at| byte(2 * at) << 8 | byte(2 * at + 1));
        let character = Character::draw(sections);
        let events = tail.chunks_exact(EVENT_BYTES).map(|event| {
            let client = event[0] % character.clients.len() as u8;
            let choice = u32::from(event[1]) << 8 | u32::from(event[2]);
            let kind = character.kind(client, choice);
            let mut dice = Dice::new(u64::from(event[3]) << 8 | u64::from(event[4]));
            let action = Action::draw(kind, &mut dice, &character);
            Event { client, action, draw: u64::from(event[5]) }
        });
        let events = events.collect();
        Script { seed: 0, character, events }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_longer_script_begins_with_the_shorter_one() {
        for seed in 0..50 {
            let (short, long) = (Script::draw(seed, 40), Script::draw(seed, 90));
            assert_eq!(short.character, long.character);
            assert_eq!(short.events[..], long.events[..40]);
        }
    }

    #[test]
    fn other_seeds_make_other_scripts() {
        assert_ne!(Script::draw(1, 20).events, Script::draw(2, 20).events);
        assert_ne!(Script::draw(1, 0).character, Script::draw(2, 0).character);
    }

    #[test]
    fn every_kind_is_drawn_and_called_by_its_name() {
        let mut seen = vec![false; Action::KINDS.len()];
        for seed in 0..200 {
            let script = Script::draw(seed, 200);
            for event in &script.events {
                let at = Action::KINDS.iter().position(|kind| *kind == event.action.kind());
                seen[at.expect("a known kind")] = true;
            }
        }
        let missing: Vec<_> =
            seen.iter().zip(Action::KINDS).filter(|(seen, _)| !**seen).map(|(_, k)| k).collect();
        assert!(missing.is_empty(), "{missing:?}");
        for (at, kind) in Kind::ALL.iter().enumerate() {
            assert_eq!(*kind as usize, at);
            let action = Action::draw(*kind, &mut Dice::new(1), &Script::draw(1, 0).character);
            assert_eq!(action.kind(), Action::KINDS[at]);
        }
        assert_eq!(Kind::ALL.len(), Action::KINDS.len());
    }

    #[test]
    fn any_bytes_are_a_script_and_an_event_is_a_piece_of_them() {
        assert!(Script::from_bytes(&[]).events.is_empty());
        let mut bytes: Vec<u8> = (0..=255).collect();
        let script = Script::from_bytes(&bytes);
        assert_eq!(script.events.len(), (256 - CHARACTER_BYTES) / EVENT_BYTES);
        let changed_at = CHARACTER_BYTES + 3 * EVENT_BYTES + 4;
        bytes[changed_at] ^= 1;
        let changed = Script::from_bytes(&bytes);
        assert_eq!(changed.character, script.character);
        assert_eq!(changed.events[..3], script.events[..3]);
        assert_eq!(changed.events[4..], script.events[4..]);
        bytes.drain(CHARACTER_BYTES..CHARACTER_BYTES + EVENT_BYTES);
        let shorter = Script::from_bytes(&bytes);
        assert_eq!(shorter.events[..], changed.events[1..]);
    }
}

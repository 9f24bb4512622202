//! What a run is like: limits, clients and faults are drawn once for a run, so that runs differ in
//! character and not only in order.

mod limits;
mod temper;

use hermes_bus_core::Config;

pub(crate) use limits::{TOKEN, limits};
pub use temper::Temper;

use crate::draw::Dice;
use crate::script::Kind;

/// The daemon's own user.
pub const OWNER: u32 = 1_000;
/// A user who is allowed in most runs.
pub const GUEST: u32 = 1_001;
/// A user who is not, in most runs.
pub const STRANGER: u32 = 2_000;

/// How many seeds decide a character.
pub(crate) const SECTIONS: usize = 4;
/// A script names clients by a byte; more of them only do the same.
const CLIENTS_MAX: u32 = 12;
/// What a Unix socket holds by default.
const USUAL_SOCKET_BYTES: u32 = 212_992;

/// What a run is like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Character {
    /// The router's limits.
    pub config: Config,
    /// The names that clients take and write to.
    pub names: Vec<String>,
    /// The clients.
    pub clients: Vec<Client>,
    /// What the driver makes of its liberties.
    pub driver: Driver,
    /// Messages near the largest size occur.
    pub is_huge: bool,
    /// Time mostly passes in steps below two to the power of this, in microseconds.
    pub patience_bits: u8,
    /// Of 256 messages, how many are for everyone.
    pub broadcasts_per_256: u16,
    /// For each client, how likely each kind of action is, as shares that add up.
    shares: Vec<Vec<u32>>,
}

/// Who reads what has arrived, and how fast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reads {
    /// Everything, at once.
    Everything,
    /// So many bytes each time that the world goes round.
    Some(u32),
    /// Nothing.
    Nothing,
}

/// One client, and the sockets it makes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Client {
    /// What it mostly does.
    pub temper: Temper,
    /// Its user.
    pub uid: u32,
    /// What the kernel holds on the way to the bus, in bytes.
    pub to_bus_bytes_max: u32,
    /// What the kernel holds on the way to the client, in bytes.
    pub from_bus_bytes_max: u32,
    /// How it reads.
    pub reads: Reads,
    /// What it sends at a time, in bytes, if it does not send everything.
    pub drip_bytes: Option<u32>,
}

/// The driver's liberties. Chances are of 256.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Driver {
    /// That it turns after an event that does not say so.
    pub turns: u16,
    /// That it turns only once then, and not until there is nothing to do.
    pub turns_once: u16,
    /// That effects are carried out right after the call they come from.
    pub effects_at_once: u16,
    /// That a turn serves connections in another order.
    pub shuffles: u16,
    /// What one read takes at most, in bytes.
    pub read_bytes_max: u32,
    /// That a read takes less.
    pub reads_less: u16,
    /// That it reads from a connection again in the same turn.
    pub reads_again: u16,
    /// That it writes right after a read, and not only after all of them.
    pub writes_early: u16,
    /// That a socket takes only a part of a write that it has room for.
    pub writes_less: u16,
    /// Writes to one connection in one turn.
    pub writes_max: u32,
    /// That the end of a peer is not noticed yet.
    pub notices_later: u16,
    /// That a payload is offered in memory of its own.
    pub shares: u16,
    /// That newcomers are accepted before anything is read.
    pub accepts_first: u16,
    /// That the clients are at it in the middle of a turn.
    pub peers_in_between: u16,
    /// How late it is at most when a timer is due, in microseconds.
    pub late_us_max: u32,
    /// That what it keeps of a connection is counted with the memory that is not used.
    pub counts_capacity: bool,
    /// What the tap keeps at most, if there is one, in bytes.
    pub tap_bytes_max: Option<u32>,
    /// That somebody takes what the tap has, at the end of a turn.
    pub takes_tapped: u16,
    /// That who takes it gives it back.
    pub refuses_tapped: u16,
    /// That a request of the owner is answered, in each turn.
    pub answers: u16,
}

impl Driver {
    /// Works as the daemon does, with a tap that nobody has asked for.
    pub(crate) const USUAL: Driver = Driver {
        turns: 256,
        turns_once: 0,
        effects_at_once: 0,
        shuffles: 0,
        read_bytes_max: 262_144,
        reads_less: 0,
        reads_again: 0,
        writes_early: 0,
        writes_less: 0,
        writes_max: 64,
        notices_later: 0,
        shares: 0,
        accepts_first: 0,
        peers_in_between: 16,
        late_us_max: 0,
        counts_capacity: false,
        tap_bytes_max: None,
        takes_tapped: 256,
        refuses_tapped: 0,
        answers: 256,
    };
}

impl Character {
    /// A character out of four seeds: of limits, people, driver, and what is likely.
    pub(crate) fn draw(sections: [u64; SECTIONS]) -> Self {
        let [of_limits, of_people, of_driver, of_shares] = sections;
        let mut dice = Dice::new(of_people);
        let mut names = names(&mut dice);
        let is_huge = dice.one_in(40);
        let mut clients: Vec<Client> =
            (0..dice.between(1, CLIENTS_MAX)).map(|_| client(&mut dice, is_huge)).collect();
        let mut config = limits(of_limits, &names);
        let mut dice = Dice::new(of_people.rotate_left(19));
        if !is_huge && dice.one_in(4) {
            jam(&mut dice, &mut names, &mut clients, &mut config);
        }
        let driver = driver(&mut Dice::new(of_driver), is_huge);
        let mut dice = Dice::new(of_shares);
        let patience_bits = dice.between(8, 21) as u8;
        let broadcasts_per_256 = dice.pick(&[0, 4, 16, 16, 128]);
        let factors: Vec<u32> = Kind::ALL.iter().map(|kind| factor(&mut dice, *kind)).collect();
        let shares = clients.iter().map(|client| shares(client.temper, &factors)).collect();
        Character {
            config,
            names,
            clients,
            driver,
            is_huge,
            patience_bits,
            broadcasts_per_256,
            shares,
        }
    }

    /// What this client does if the choice is this one of 65,536.
    pub(crate) fn kind(&self, client: u8, choice: u32) -> Kind {
        let Some(shares) = self.shares.get(usize::from(client)) else { return Kind::Turn };
        let total = shares.last().copied().unwrap_or(0);
        let place = ((u64::from(choice) * u64::from(total)) >> 16) as u32;
        let at = shares.partition_point(|until| *until <= place);
        Kind::ALL.get(at).copied().unwrap_or(Kind::Turn)
    }
}

/// How much more or less likely than usual an action is in this run.
fn factor(dice: &mut Dice, kind: Kind) -> u32 {
    match kind {
        // Without them nothing happens at all.
        Kind::Pass | Kind::Turn => dice.pick(&[2, 4, 8]),
        // Each of them puts an end to much else.
        Kind::Crash | Kind::Stop | Kind::Restart => dice.pick(&[0, 0, 0, 1, 4, 16]),
        _ => dice.pick(&[0, 1, 4, 4, 4, 16]),
    }
}

fn shares(temper: Temper, factors: &[u32]) -> Vec<u32> {
    let mut until = 0;
    let shares = Kind::ALL.iter().zip(factors).map(|(kind, factor)| {
        until += temper.weight(*kind) * factor;
        until
    });
    shares.collect()
}

fn names(dice: &mut Dice) -> Vec<String> {
    let mut names = vec!["a".to_owned()];
    for number in 1..dice.between(2, 6) {
        names.push(match dice.below(12) {
            0 => String::new(),
            1 => format!("{number}{}", "long".repeat(dice.between(1, 2_000) as usize)),
            2 => format!("\"{number}\"\\ \n\t"),
            3 => format!("é漢字😀{number}"),
            4 => format!("bus{number}"),
            _ => format!("name{number}"),
        });
    }
    names
}

fn client(dice: &mut Dice, is_huge: bool) -> Client {
    let temper = dice.pick(Temper::ALL);
    let uid = match temper {
        Temper::Stranger => STRANGER,
        _ => dice.pick(&[OWNER, OWNER, OWNER, OWNER, OWNER, OWNER, GUEST, GUEST, 0]),
    };
    let mut socket_bytes_max = |usual_in_8: u32, bits_max: u32| {
        let is_usual = is_huge || dice.below(8) < usual_in_8;
        if is_usual { USUAL_SOCKET_BYTES } else { 1 + dice.magnitude(bits_max) }
    };
    let to_bus_bytes_max = socket_bytes_max(4, 18);
    // So that who does not read is soon seen not to.
    let from_bus_bytes_max = match temper {
        Temper::Slow | Temper::Mute => socket_bytes_max(1, 12),
        _ => socket_bytes_max(4, 18),
    };
    let reads = match temper {
        Temper::Slow => Reads::Some(1 + dice.magnitude(13)),
        Temper::Mute | Temper::Asker => Reads::Nothing,
        _ if dice.one_in(8) => dice.pick(&[Reads::Nothing, Reads::Some(100), Reads::Some(5_000)]),
        _ => Reads::Everything,
    };
    let drip_bytes = match temper {
        Temper::Dripper if !is_huge => Some(1 + dice.magnitude(7)),
        _ => None,
    };
    Client { temper, uid, to_bus_bytes_max, from_bus_bytes_max, reads, drip_bytes }
}

/// Makes it a run in which queues are full and senders wait: somebody does not read, others flood, names
/// are few, and so is room.
fn jam(dice: &mut Dice, names: &mut Vec<String>, clients: &mut Vec<Client>, config: &mut Config) {
    names.truncate(2);
    for temper in [Temper::Thief, Temper::Mute, Temper::Flooder, Temper::Flooder] {
        let reads = if temper == Temper::Mute { Reads::Nothing } else { Reads::Everything };
        clients.push(Client {
            temper,
            uid: OWNER,
            to_bus_bytes_max: USUAL_SOCKET_BYTES,
            from_bus_bytes_max: 1 + dice.magnitude(12),
            reads,
            drip_bytes: None,
        });
    }
    let excess = clients.len().saturating_sub(dice.between(3, 6) as usize);
    clients.drain(..excess);
    config.queue_bytes_max = dice.pick(&[1_024, 4_096, 16_384]);
    config.queue_bytes_reserved = dice.pick(&[0, 512, 4_096, 256 * 1024]);
    config.protected.clear();
}

fn driver(dice: &mut Dice, is_huge: bool) -> Driver {
    // One that works as the daemon does, or one that takes some liberties.
    let is_free = !dice.one_in(4);
    let mut liberty = |likely: u16| match dice.below(3) {
        _ if !is_free => 0,
        0 => 0,
        1 => likely,
        _ => dice.pick(&[8, 128, 256]),
    };
    Driver {
        turns: 256 - liberty(64).min(240),
        turns_once: liberty(64),
        effects_at_once: liberty(128),
        shuffles: liberty(256),
        reads_less: if is_huge { 0 } else { liberty(64) },
        reads_again: liberty(64),
        writes_early: liberty(32),
        writes_less: if is_huge { 0 } else { liberty(64) },
        notices_later: liberty(128).min(200),
        shares: liberty(32),
        accepts_first: liberty(128),
        peers_in_between: 16 + liberty(64).min(240),
        refuses_tapped: liberty(64),
        takes_tapped: 256 - liberty(128).min(240),
        read_bytes_max: match is_free && !is_huge {
            true => dice.pick(&[1, 16, 1_024, 4_096, 65_536, 262_144, 262_144]),
            false => 262_144,
        },
        writes_max: if is_free { dice.pick(&[1, 2, 64]) } else { 64 },
        late_us_max: if is_free { dice.pick(&[0, 0, 300, 20_000, 2_000_000]) } else { 0 },
        counts_capacity: dice.one_in(2),
        tap_bytes_max: dice.pick(&[None, Some(1 << 24), Some(1 << 24), Some(2_000)]),
        answers: dice.pick(&[0, 8, 64, 256]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_section_decides_its_own_part() {
        let base = Character::draw([1, 2, 3, 4]);
        let other_limits = Character::draw([9, 2, 3, 4]);
        assert_eq!(base.clients, other_limits.clients);
        assert_eq!(base.driver, other_limits.driver);
        assert_ne!(base.config, other_limits.config);
        let other_driver = Character::draw([1, 2, 9, 4]);
        assert_eq!((&base.config, &base.clients), (&other_driver.config, &other_driver.clients));
        assert_ne!(base.driver, other_driver.driver);
    }

    #[test]
    fn runs_differ_and_usual_ones_occur() {
        let drawn = || (0..400).map(|n| Character::draw([n, n + 1_000, n + 2_000, n + 3_000]));
        let usual = Config { owner_uid: OWNER, ..Config::default() };
        assert!(drawn().any(|c| c.config.queue_bytes_max == usual.queue_bytes_max));
        assert!(drawn().any(|c| c.config.queue_bytes_max < 4_096));
        assert!(drawn().any(|c| c.is_huge) && drawn().any(|c| c.clients.len() == 1));
        assert!(drawn().any(|c| c.driver.tap_bytes_max.is_none()));
    }
}

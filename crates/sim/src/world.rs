//! Plays a script: clock, sockets, clients, and a driver for the router.

mod clients;
mod clock;
mod digest;
mod driver;
mod ends;
mod faults;
mod link;
pub(crate) mod panics;
mod trail;
mod watched;
mod words;

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::time::Duration;

use hermes_bus_core::{Config, SessionKey};

use crate::call::Violation;
use crate::draw::Dice;
use crate::script::{Action, Event};
use crate::{Coverage, Script};
use link::{Link, LinkId, Moment};
pub use trail::{Happened, Step};
use watched::Watched;
use words::Words;

/// A run that went well.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Played {
    /// Events played.
    pub events: u64,
    /// Calls into the router.
    pub calls: u64,
    /// Messages that the routers took.
    pub messages: u64,
    /// Virtual time, in microseconds.
    pub virtual_us: u64,
    /// Of everything that the routers did and wrote: the same script gives the same digest.
    pub digest: u64,
    /// What was seen.
    pub coverage: Coverage,
    /// Processes of the bus that were killed.
    pub crashes: u64,
    /// What was seen in the durable world.
    pub seen: BTreeMap<String, u64>,
}

/// A run that broke a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Index of the event that was played; none if it was in the healing phase behind the last one.
    pub event: Option<usize>,
    /// What was broken.
    pub violation: Violation,
    /// All events that were played and the last calls into the router, oldest first, for people.
    pub trail: Vec<Step>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.event {
            Some(event) => write!(f, "at event {event}: {}", self.violation),
            None => write!(f, "after the last event: {}", self.violation),
        }
    }
}

/// Plays a script to its end: all events, then everybody reads, finishes and leaves, and all time
/// passes. A panic in the router is a failure like any other.
pub fn play(script: &Script) -> Result<Played, Box<Failure>> {
    let mut world = World::new(script);
    let result = panics::catch(|| world.play());
    let violation = match result {
        Ok(Ok(())) => return Ok(world.played()),
        Ok(Err(violation)) => violation,
        Err(words) => Violation::new("panic", words),
    };
    let trail = world.watched.trail.steps(|key| world.who(key));
    let violation = Violation { what: world.with_connections(violation.what), ..violation };
    Err(Box::new(Failure { event: world.event, violation, trail }))
}

/// Everything there is in a run.
struct World<'a> {
    script: &'a Script,
    watched: Watched,
    words: Words,
    /// What a client says just now.
    said: Vec<u8>,
    /// What the world decides now.
    dice: Dice,
    /// The event that is played.
    event: Option<usize>,
    now_us: u64,
    /// Whether something has happened since the clients were last at it.
    moment: Moment,
    /// Unix time at the beginning of `now_us`, in microseconds.
    wall_clock_us: u64,
    /// All connections that there ever were.
    links: Vec<Link>,
    /// Those of which one end is still open, in the order in which they came.
    open: Vec<LinkId>,
    /// Those that wait to be accepted.
    door: VecDeque<LinkId>,
    /// All keys that there ever were, in order.
    keys: Vec<(SessionKey, LinkId)>,
    /// By [`SessionKey::index`].
    sessions: Vec<Option<(SessionKey, LinkId)>>,
    /// Each client's connection.
    current: Vec<Option<LinkId>>,
    /// Connections that may have something to be read.
    ready: VecDeque<LinkId>,
    /// Connections with more to write than a turn allows.
    unwritten: Vec<SessionKey>,
    /// Requests of the owner that are not answered yet.
    requests: Vec<SessionKey>,
    /// The bus ends.
    is_stopping: bool,
    /// The run is over, and everybody does what they can.
    is_healing: bool,
    /// Grows when anything moves: bytes, frames, connections.
    moves: u64,
    /// Turns at this moment in which somebody was to go on and nothing moved.
    idle_turns: u32,
    /// Someone was to go on in this turn.
    has_resumed: bool,
    /// The limits in use.
    config: Config,
    /// The longest that anything can last under the limits that there were.
    longest_wait: Duration,
}

/// The time of the protocol's example, 2024-05-21, in microseconds of Unix time.
const UNIX_US: u64 = 1_716_307_200_123_456;

impl<'a> World<'a> {
    fn new(script: &'a Script) -> Self {
        let character = &script.character;
        let config = character.config.clone();
        World {
            script,
            watched: Watched::new(&config, script.seed),
            words: Words::new(&character.names),
            said: Vec::new(),
            dice: Dice::new(script.seed),
            event: None,
            now_us: 0,
            moment: Moment::Next,
            wall_clock_us: UNIX_US,
            links: Vec::new(),
            open: Vec::new(),
            door: VecDeque::new(),
            keys: Vec::new(),
            sessions: Vec::new(),
            current: vec![None; character.clients.len()],
            ready: VecDeque::new(),
            unwritten: Vec::new(),
            requests: Vec::new(),
            is_stopping: false,
            is_healing: false,
            moves: 0,
            idle_turns: 0,
            has_resumed: false,
            longest_wait: ends::longest_wait(&config),
            config,
        }
    }

    fn play(&mut self) -> Result<(), Violation> {
        let script = self.script;
        self.watched.began(&script.character.config, &[], self.tap_bytes_max())?;
        self.turn()?;
        for (index, event) in script.events.iter().enumerate() {
            self.event = Some(index);
            self.dice = Dice::new(event.draw);
            self.watched.trail.event(self.now_us, index);
            self.watched.coverage.event(event);
            self.play_event(event)?;
        }
        self.event = None;
        self.dice = Dice::new(script.seed);
        self.heal()?;
        self.leave()?;
        self.watched.finish()
    }

    fn play_event(&mut self, event: &Event) -> Result<(), Violation> {
        self.moment = Moment::Next;
        match event.action {
            Action::Pass { us } => return self.pass(us),
            Action::Sleep { us } => return self.sleep(us),
            Action::PassToTimer { near } => return self.pass_to_timer(near),
            Action::SetWallClock { unix_us } => self.wall_clock_us = unix_us,
            Action::Turn => return self.turn_until_quiet(),
            Action::TakeTapped => self.watched.offer_tapped(false)?,
            Action::AnswerAdmin => self.answer_requests(256)?,
            Action::Configure { limits } => self.configure(limits)?,
            Action::End { how } => return self.end_process(how),
            action => self.play_client(event.client, action)?,
        }
        let driver = &self.script.character.driver;
        if self.dice.chance(driver.turns) {
            if self.dice.chance(driver.turns_once) {
                self.turn()?;
            } else {
                self.turn_until_quiet()?;
            }
        }
        Ok(())
    }

    fn tap_bytes_max(&self) -> Option<usize> {
        self.script.character.driver.tap_bytes_max.map(|bytes| bytes as usize)
    }

    fn played(self) -> Played {
        Played {
            events: self.script.events.len() as u64,
            calls: self.watched.calls,
            messages: self.watched.messages(),
            virtual_us: self.now_us,
            digest: self.watched.digest(),
            coverage: self.watched.coverage,
            ..Played::default()
        }
    }

    /// Whose session this is, for people.
    fn who(&self, key: SessionKey) -> String {
        match self.keys.iter().rfind(|(of_link, _)| *of_link == key) {
            Some((_, id)) => format!("#{} of client {}", id.0, self.links[id.0].client),
            None => format!("{key:?}"),
        }
    }

    /// A text in which the keys of sessions are told as the connections are elsewhere.
    fn with_connections(&self, text: String) -> String {
        let mut text = text;
        // From the back: after a restart, a key can be that of another connection.
        for (key, _) in self.keys.iter().rev() {
            let shown = format!("{key:?}");
            if text.contains(&shown) {
                text = text.replace(&shown, &self.who(*key));
            }
        }
        text
    }

    fn link(&mut self, id: LinkId) -> &mut Link {
        &mut self.links[id.0]
    }

    /// The connection of a session that is not closed yet.
    fn link_of(&self, key: SessionKey) -> Option<LinkId> {
        let (owner, id) = self.sessions.get(key.index()).copied()??;
        (owner == key && !self.links[id.0].bus_closed).then_some(id)
    }
}

#[cfg(test)]
mod tests;

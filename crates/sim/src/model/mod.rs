//! What must hold, checked after every call into the router.
//!
//! The model knows names, who holds them, the order of what is queued for each session and held for
//! each name, what every peer is still owed, and how long anything may take. It knows nothing of
//! buffers, timers and budgets: whether a message fits, the router decides, and the model asks whether
//! it had reason to. What the router tells only in sums (so many of these were dropped) is enough for
//! the model to know which: always the oldest.

mod arrivals;
mod endings;
mod frames;
mod holds;
mod impatience;
mod lingering;
mod message;
mod messages;
mod names;
mod promises;
mod routers;
mod session;
mod standing;
mod waits;

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use hermes_bus_core::{Config, Counters, Credentials, Effect, Event, Moment, Now, SessionKey};

use crate::call::{Call, View, Violation};
use impatience::Impatience;
use message::{Copied, Message};
use session::{Phase, Session, Wait};

/// Stops with a violation unless something holds.
macro_rules! ensure {
    ($holds:expr, $rule:literal, $($what:tt)+) => {
        if !$holds {
            return Err(crate::Violation::new($rule, format!($($what)+)));
        }
    };
}
pub(crate) use ensure;

type Checked = Result<(), Violation>;

/// A name in use.
#[derive(Debug)]
struct Name {
    state: NameState,
    /// What waits for its next session, oldest first.
    held: VecDeque<Copied>,
    /// So many bytes more may be held: an earlier router had held them.
    inherited_bytes: usize,
    /// The session that held it last, while it still writes what was queued for it.
    draining: Option<SessionKey>,
    fight: Fight,
}

/// Sessions that keep taking a name from each other.
#[derive(Debug, Default)]
struct Fight {
    /// The last replacements.
    recent: VecDeque<Moment>,
    pause: Option<Duration>,
}

impl Fight {
    /// A live session was replaced. Says how long the newcomer is to wait.
    fn replacement(&mut self, config: &Config, now: Moment) -> Option<Duration> {
        self.recent.retain(|earlier| now.since(*earlier) <= config.fight_window);
        let is_fight = self.recent.len() >= config.fight_replacements;
        self.recent.push_back(now);
        while is_fight && self.recent.len() > config.fight_replacements.max(1) {
            self.recent.pop_front();
        }
        let pause = self.pause.map_or(config.fight_pause, |pause| pause * 2);
        self.pause = is_fight.then(|| pause.min(config.fight_pause_max));
        self.pause
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NameState {
    Held(SessionKey),
    Lingering { until: Moment, uid: u32 },
}

/// The shortest and longest that a delay has been since the router began: what began under an
/// earlier configuration may keep to it.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    min: Duration,
    max: Duration,
}

impl Bounds {
    fn of(duration: Duration) -> Self {
        Bounds { min: duration, max: duration }
    }

    fn widen(&mut self, duration: Duration) {
        (self.min, self.max) = (self.min.min(duration), self.max.max(duration));
    }
}

#[derive(Debug)]
struct Delays {
    answer: Bounds,
    stall: Bounds,
    heartbeat: Bounds,
    frame_deadline: Bounds,
    drain: Bounds,
}

impl Delays {
    fn of(config: &Config) -> Self {
        Delays {
            answer: Bounds::of(config.answer),
            stall: Bounds::of(config.stall),
            heartbeat: Bounds::of(config.heartbeat),
            frame_deadline: Bounds::of(config.frame_deadline),
            drain: Bounds::of(config.drain),
        }
    }

    fn widen(&mut self, config: &Config) {
        self.answer.widen(config.answer);
        self.stall.widen(config.stall);
        self.heartbeat.widen(config.heartbeat);
        self.frame_deadline.widen(config.frame_deadline);
        self.drain.widen(config.drain);
    }
}

/// What a call told in sums, and what of it is not accounted for yet.
#[derive(Debug, Default)]
struct Told {
    /// Senders that heard `endpoint_not_found`, by their process, with the name as it is shown.
    not_found: Vec<(u32, String)>,
    /// Dropped because nobody came back, by name.
    gone: BTreeMap<String, u64>,
    /// Dropped because no more could be held, by name.
    overflow: BTreeMap<String, u64>,
    /// Not handed over when a connection ended, by name.
    cut_off: BTreeMap<String, u64>,
}

impl Told {
    fn is_spent(&self) -> bool {
        let rest = self.gone.values().chain(self.overflow.values()).chain(self.cut_off.values());
        self.not_found.is_empty() && rest.sum::<u64>() == 0
    }
}

/// A log line that tells of messages that nobody gets any more.
fn is_loss(event: &Event) -> bool {
    matches!(event, Event::NotFound { .. } | Event::HeldDropped { .. })
}

/// What a call should have counted.
type Expected = Counters;

/// The model.
#[derive(Debug)]
pub struct Model {
    config: Config,
    delays: Delays,
    now: Now,
    turn: u64,
    /// As they were after the last call.
    counters: Counters,
    /// What the call has counted.
    counted: Counters,
    sessions: BTreeMap<SessionKey, Session>,
    /// Holders of names, in the order of their registrations.
    registered: Vec<SessionKey>,
    by_pid: BTreeMap<u32, SessionKey>,
    names: BTreeMap<String, Name>,
    impatience: Impatience,
    /// Every id that the bus was seen to make, with the message or session that has it.
    made_ids: BTreeMap<Vec<u8>, String>,
    /// Waits for a receiver that ever began.
    waits: u64,
    /// Waits that the call has ended, but for those whose time was up.
    went_on: Vec<Wait>,
    /// Names for which the call has held something.
    newly_held: Vec<String>,
    /// Messages that the call has lost, of which nobody knows whether they had begun to leave.
    maybe_begun: u64,
    /// What those who look on are still to see.
    tapped: VecDeque<(Rc<Message>, hermes_bus_core::Outcome)>,
    /// What was held before, in a router that inherited it: so much more may be held.
    inherited_bytes: usize,
    /// Memory held after the last call, as the router says.
    held_bytes: usize,
    /// Something may have happened in this turn.
    has_changed: bool,
    /// Whose socket has taken something in this call.
    reader: Option<SessionKey>,
    /// Timers fire at the moment.
    is_beginning_turn: bool,
}

impl Default for Model {
    fn default() -> Self {
        let config = Config::default();
        Model {
            delays: Delays::of(&config),
            config,
            now: Now::default(),
            turn: 0,
            counters: Counters::default(),
            counted: Counters::default(),
            sessions: BTreeMap::new(),
            registered: Vec::new(),
            by_pid: BTreeMap::new(),
            names: BTreeMap::new(),
            impatience: Impatience::default(),
            made_ids: BTreeMap::new(),
            waits: 0,
            went_on: Vec::new(),
            newly_held: Vec::new(),
            maybe_begun: 0,
            tapped: VecDeque::new(),
            inherited_bytes: 0,
            held_bytes: 0,
            has_changed: false,
            reader: None,
            is_beginning_turn: false,
        }
    }
}

impl Model {
    /// Hears of a call, and checks what must hold after it.
    pub fn after(&mut self, call: &Call<'_>, mut view: View<'_>) -> Checked {
        self.now = view.now;
        if let Call::Began { config, restored } = call {
            return self.begin(config, restored, &view);
        }
        if let Call::Ended { left } = call {
            return self.router_ended(*left);
        }
        let before = std::mem::replace(&mut self.counters, view.router.counters().clone());
        self.counted = self.counters.since(&before);
        let mut expected = Expected::default();
        self.reader = match call {
            Call::Written { key, .. } => Some(*key),
            _ => None,
        };
        match call {
            Call::Began { .. } | Call::Ended { .. } => {}
            Call::TurnBegan => self.turn_began(&view, &mut expected)?,
            Call::Connected { key, credentials } => {
                self.connected(*key, *credentials, &mut expected);
                self.take_effects(&view, &mut Told::default(), &mut expected)?;
            }
            Call::Frame { key, payload, probed, next } => {
                let offered = frames::Offered { key: *key, payload, probed: *probed, next: *next };
                self.frame(&offered, &mut view, &mut expected)?;
            }
            Call::FrameRefused { key, error } => {
                self.frame_refused(*key, *error, &mut expected);
                self.take_effects(&view, &mut Told::default(), &mut expected)?;
            }
            Call::Reading { key, reading } => self.reading(*key, *reading)?,
            Call::Buffered { key, bytes, missing } => self.buffered(*key, *bytes, *missing),
            Call::Written { key, bytes } => {
                self.written(*key, bytes, &mut expected)?;
                self.take_effects(&view, &mut Told::default(), &mut expected)?;
            }
            Call::Eof { .. }
            | Call::Leaving { .. }
            | Call::Deaf { .. }
            | Call::Closed { .. }
            | Call::ShutDown
            | Call::NamedSessionsEnded => self.end(call, &view, &mut expected)?,
            Call::MoreInput { key } => self.more_input(*key),
            Call::TurnEnded => self.turn_ended(&mut view, &mut expected)?,
            Call::Configured { config } => {
                self.configured(config);
                self.take_effects(&view, &mut Told::default(), &mut expected)?;
            }
            Call::AdminAnswered { key, frame } => self.admin_answered(*key, frame),
            Call::WaitingSendersTaken { taken } => self.waiting_senders_taken(taken)?,
            Call::Tapped { batch } => self.tapped(batch)?,
            Call::Settled => self.settled(&mut view)?,
        }
        // Who is told unasked, and for how long a rate makes somebody wait, is judged elsewhere.
        expected.impatient_pongs = self.counted.impatient_pongs;
        expected.pace_waits = self.counted.pace_waits;
        // What was counted as gone may have been cut off.
        let cut_off = self.counted.dropped_cut_off.saturating_sub(expected.dropped_cut_off);
        let cut_off = cut_off.min(std::mem::take(&mut self.maybe_begun));
        expected.dropped_cut_off += cut_off;
        expected.dropped_receiver_gone -= cut_off;
        if expected != self.counted {
            let both = expected.iter().zip(self.counted.iter());
            let wrong = both.filter(|(expected, counted)| expected != counted);
            let wrong = wrong.map(|((name, expected), (_, counted))| {
                format!("{name} went up by {counted}, not by {expected}")
            });
            let wrong: Vec<String> = wrong.collect();
            return Err(Violation::new("counters", wrong.join("; ")));
        }
        self.check_turns()?;
        self.check_newly_held()?;
        self.check_standing(call, &mut view)
    }

    /// Everybody has left and all time has passed: nothing may be left.
    pub fn finish(&mut self, view: View<'_>) -> Checked {
        let usage = view.router.usage();
        ensure!(view.router.is_idle(), "end", "connections are left in the router");
        ensure!(
            usage == Default::default(),
            "end",
            "nobody is there any more, but memory is charged: {usage:?}"
        );
        ensure!(self.sessions.is_empty(), "end", "sessions are left: {:?}", self.sessions.keys());
        ensure!(self.names.is_empty(), "end", "names are left: {:?}", self.names.keys());
        Ok(())
    }

    // ---- what every call may bring ----------------------------------------------------------------

    /// Goes through what a call wanted done, in order.
    fn take_effects(
        &mut self,
        view: &View<'_>,
        told: &mut Told,
        expected: &mut Expected,
    ) -> Checked {
        self.take_effects_but(|_| false, view, told, expected)
    }

    /// The same for a call of which some log lines are noted already.
    fn take_effects_but(
        &mut self,
        is_noted: fn(&Event) -> bool,
        view: &View<'_>,
        told: &mut Told,
        expected: &mut Expected,
    ) -> Checked {
        for effect in view.effects {
            match effect {
                Effect::Close(key, reason) => self.session_ended(*key, *reason, told, expected)?,
                Effect::Resume(key) => self.resumed(*key)?,
                Effect::Log(event) if !is_noted(event) => self.logged(event, told)?,
                Effect::Store(..) | Effect::LookWhetherRead(_) | Effect::Trace(..) => {
                    return Err(nothing_is_kept());
                }
                Effect::Log(_) | Effect::Admin(..) => {}
            }
        }
        ensure!(told.is_spent(), "drops", "told of more than was there to be dropped: {told:?}");
        Ok(())
    }

    /// Takes note of some of a call's log lines, before anybody is closed.
    fn note(&mut self, which: fn(&Event) -> bool, view: &View<'_>, told: &mut Told) -> Checked {
        for effect in view.effects {
            match effect {
                Effect::Log(event) if which(event) => self.logged(event, told)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn logged(&mut self, event: &Event, told: &mut Told) -> Checked {
        let add = |sums: &mut BTreeMap<String, u64>, name: &str, messages: u64| {
            *sums.entry(name.to_owned()).or_default() += messages;
        };
        match event {
            Event::NotFound { peer, wanted } => told.not_found.push((peer.pid, wanted.clone())),
            Event::HeldDropped { name, messages } => add(&mut told.gone, name.as_str(), *messages),
            Event::HeldOverflow { name, messages } => {
                add(&mut told.overflow, name.as_str(), *messages);
            }
            Event::CutOff { name, messages } => add(&mut told.cut_off, name.as_str(), *messages),
            Event::StallBegan { name, .. } => self.stall_began(name.as_str())?,
            Event::StallEnded { name, .. } => self.stall_ended(name.as_str())?,
            _ => {}
        }
        Ok(())
    }

    // ---- sessions and names -----------------------------------------------------------------------

    fn connected(&mut self, key: SessionKey, credentials: Credentials, expected: &mut Expected) {
        expected.connections = 1;
        let Credentials { uid, pid } = credentials;
        let owner = self.config.owner_uid;
        let may_connect = uid == 0 || uid == owner || self.config.allow_uids.contains(&uid);
        let charged_uid = if may_connect { uid } else { owner };
        let mut session = Session::new(credentials, charged_uid, self.now.moment);
        if !may_connect {
            expected.refused_users = 1;
            session.owe_error(hermes_bus_proto::ErrorCode::Forbidden, session::OwedId::None);
            session.phase = Phase::Finishing {
                reason: hermes_bus_core::CloseReason::Refused,
                since: self.now.moment,
            };
        }
        self.by_pid.insert(pid, key);
        self.sessions.insert(key, session);
    }

    /// An id that the bus has made is nobody else's.
    fn check_made_id(&mut self, id: &[u8], owner: &str) -> Checked {
        let known = self.made_ids.entry(id.to_vec()).or_insert_with(|| owner.to_owned());
        ensure!(known == owner, "ids", "{owner} and {known} have the same id");
        Ok(())
    }

    /// An open session, one that the router still takes frames from.
    fn open(&self, key: SessionKey) -> Option<&Session> {
        self.sessions.get(&key).filter(|session| session.is_open())
    }

    fn holder_of(&self, name: &str) -> Option<SessionKey> {
        match self.names.get(name)?.state {
            NameState::Held(key) => Some(key),
            NameState::Lingering { .. } => None,
        }
    }

    /// Messages whose fate this sender may still wait for. One that has registered since does not.
    fn undecided(&self, key: SessionKey) -> usize {
        if !self.sessions.get(&key).is_some_and(Session::is_anonymous) {
            return 0;
        }
        let held = self.names.values().flat_map(|name| &name.held);
        held.filter(|copy| copy.waiter == Some(key)).count()
    }

    /// Messages whose fate this sender certainly waits for. When one that reads no more has waited long
    /// enough, nobody tells.
    fn undecided_for_sure(&self, key: SessionKey) -> usize {
        let Some(session) = self.sessions.get(&key).filter(|session| session.is_anonymous()) else {
            return 0;
        };
        let listens = session.listens();
        let (now, soonest) = (self.now.moment, self.delays.answer.min);
        let held = self.names.values().flat_map(|name| &name.held);
        let of_it = held.filter(|copy| copy.waiter == Some(key));
        of_it.filter(|copy| listens || copy.arrived.after(soonest) > now).count()
    }

    fn configured(&mut self, config: &Config) {
        let Config { server, admin_ops, owner_uid, .. } = self.config.clone();
        let rates = |config: &Config| (config.messages_per_s, config.bytes_per_s);
        if rates(config) != rates(&self.config) {
            for session in self.sessions.values_mut() {
                session.forget_rates(self.now.moment);
            }
        }
        self.config = Config { server, admin_ops, owner_uid, ..config.clone() };
        self.delays.widen(config);
        // What an earlier router has left has no limit of its own any more.
        self.inherited_bytes = 0;
    }
}

/// Without a store nothing may be ordered of one.
fn nothing_is_kept() -> Violation {
    Violation::new("store", "something is to be kept, and there is no store".to_owned())
}

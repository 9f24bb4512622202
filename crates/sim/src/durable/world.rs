//! Plays a script: clock, clients, processes of the bus and the end of everything.

use std::collections::VecDeque;
use std::time::Duration;

use hermes_bus_core::storage::{Record, Ticket};
use hermes_bus_core::{Credentials, Moment, Now, Router, SessionKey};
use hermes_bus_proto::frame::{self, Decoded};
use hermes_bus_proto::register::Conflict;
use serde_json::Value;

use super::link::{Link, Writing};
use super::model::{Checked, LinkId, Model, Sent, UNIX_US, ensure};
use super::script::{
    Acks, Action, Asks, CLIENTS, Event, Health, Join, NAMES, NAMES_ASKED, OTHER_USER, OWNER,
    Script, To,
};
use super::seen::Seen;
use super::store::Store;
use super::words::{lists, words_of_join, words_of_message, words_of_watch};
use crate::call::Violation;
use crate::draw::Dice;
use crate::pipe::Pipe;
use crate::world::{Failure, Happened, Played, Step, panics};

/// Lines of the trail that are kept.
const TRAIL_LINES: usize = 400;
/// The client of the other user.
const OTHERS_CLIENT: usize = CLIENTS - 1;

/// Everything there is in a run.
pub(super) struct World<'a> {
    pub(super) script: &'a Script,
    pub(super) model: Model,
    pub(super) store: Store,
    pub(super) router: Router,
    pub(super) dice: Dice,
    pub(super) now_us: u64,
    /// When the last turn was.
    pub(super) last_turn_us: Option<u64>,
    event: Option<usize>,
    pub(super) links: Vec<Link>,
    /// Those of which one end is still open.
    pub(super) open: Vec<LinkId>,
    /// Those that wait to be accepted.
    pub(super) door: VecDeque<LinkId>,
    /// By [`SessionKey::index`].
    pub(super) sessions: Vec<Option<(SessionKey, LinkId)>>,
    pub(super) unwritten: Vec<SessionKey>,
    /// Orders to keep that are not answered yet.
    pub(super) keeps: Vec<(Ticket, u64)>,
    /// Dead letters that are tried once more, and the orders to keep them.
    pub(super) retries: Vec<(Ticket, u64)>,
    /// Each client's connection, and how it last joined.
    pub(super) current: Vec<Option<LinkId>>,
    joins: Vec<Option<Join>>,
    /// The messages of each client.
    sent: Vec<Vec<u64>>,
    next_n: u64,
    pub(super) moves: u64,
    pub(super) is_healing: bool,
    /// The bus ends in good order: nobody is accepted any more.
    pub(super) is_stopping: bool,
    pub(super) calls: u64,
    digest: u64,
    pub(super) seen: Seen,
    /// Whether the trail is kept.
    tells: bool,
    trail: VecDeque<Step>,
    pub(super) crashes: u64,
    /// What the owner has seen on disk and takes next: whose, with numbers and lengths.
    pub(super) looked_at: Option<(u8, Vec<Record>, Ticket)>,
}

/// Plays a script to its end: all events, then the disk works, everybody comes, reads and acknowledges,
/// and everybody leaves. A panic in the router is a failure like any other.
pub fn play(script: &Script) -> Result<Played, Box<Failure>> {
    match play_once(script, false) {
        Err(_) => play_once(script, true),
        played => played,
    }
}

fn play_once(script: &Script, tells: bool) -> Result<Played, Box<Failure>> {
    let mut world = World::new(script, tells);
    let violation = match panics::catch(|| world.play()) {
        Ok(Ok(())) => return Ok(world.played()),
        Ok(Err(violation)) => violation,
        Err(words) => Violation::new("panic", words),
    };
    let trail = world.trail.into_iter().collect();
    Err(Box::new(Failure { event: world.event, violation, trail }))
}

impl<'a> World<'a> {
    fn new(script: &'a Script, tells: bool) -> Self {
        let character = &script.character;
        World {
            script,
            model: Model::new(&character.config),
            store: Store::new(script.seed, character.commit_bits),
            router: Router::new(character.config.clone(), script.seed),
            dice: Dice::new(script.seed),
            now_us: 0,
            last_turn_us: None,
            event: None,
            links: Vec::new(),
            open: Vec::new(),
            door: VecDeque::new(),
            sessions: Vec::new(),
            unwritten: Vec::new(),
            keeps: Vec::new(),
            retries: Vec::new(),
            current: vec![None; character.clients.len()],
            joins: vec![None; character.clients.len()],
            sent: vec![Vec::new(); character.clients.len()],
            next_n: 0,
            moves: 0,
            is_healing: false,
            is_stopping: false,
            calls: 0,
            digest: 0,
            seen: Seen::default(),
            tells,
            trail: VecDeque::new(),
            crashes: 0,
            looked_at: None,
        }
    }

    fn play(&mut self) -> Checked {
        let script = self.script;
        self.begin_process(Vec::new())?;
        for (index, event) in script.events.iter().enumerate() {
            self.event = Some(index);
            self.dice = Dice::new(event.draw);
            self.seen.action(event.action.kind());
            if self.tells {
                self.step(Happened::Event(index));
            }
            self.play_event(event)?;
        }
        self.event = None;
        self.dice = Dice::new(script.seed);
        self.heal()?;
        self.leave()
    }

    fn played(mut self) -> Played {
        self.seen.add_model(&self.model);
        self.seen.counters(self.router.counters());
        Played {
            events: self.script.events.len() as u64,
            calls: self.calls,
            messages: self.model.delivered,
            virtual_us: self.now_us,
            digest: self.digest,
            crashes: self.crashes,
            seen: self.seen.into_counts(),
            ..Played::default()
        }
    }

    fn step(&mut self, what: Happened) {
        if self.trail.len() >= TRAIL_LINES {
            self.trail.pop_front();
        }
        self.trail.push_back(Step { at_us: self.now_us, what });
    }

    pub(super) fn tell(&mut self, what: impl FnOnce() -> String) {
        if self.tells {
            let what = what();
            self.step(Happened::Call(what));
        }
    }

    pub(super) fn mix(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.digest = (self.digest ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    fn play_event(&mut self, event: &Event) -> Checked {
        match event.action {
            Action::Pass { us } => return self.pass(us),
            Action::Sleep { us } => {
                self.now_us += us;
                return self.turns();
            }
            Action::PassToTimer => {
                let at = self.next_at().unwrap_or(self.now_us).min(self.now_us + 100_000_000);
                return self.pass(at.saturating_sub(self.now_us));
            }
            Action::Turn => return self.turns(),
            Action::Disk(health) => self.store.set_health(health),
            Action::End(how) => return self.end_process(how),
            Action::Owner(deed) => self.owner_does(deed)?,
            action => self.play_client(usize::from(event.client), action),
        }
        if self.dice.chance(self.script.character.turns) {
            if self.dice.one_in(2) { self.turn()? } else { self.turns()? }
        }
        Ok(())
    }

    // ---- time -------------------------------------------------------------------------------------

    pub(super) fn now(&self) -> Now {
        Now { moment: Moment::from_micros(self.now_us), unix_us: UNIX_US + self.now_us }
    }

    pub(super) fn next_at(&self) -> Option<u64> {
        let timer = self.router.next_wake().map(Moment::as_micros);
        [timer, self.store.next_at()].into_iter().flatten().min()
    }

    /// Time passes, and the driver is there for everything that is due.
    fn pass(&mut self, us: u64) -> Checked {
        let until = self.now_us + us;
        self.turns()?;
        while let Some(at) = self.next_at().filter(|at| *at <= until) {
            self.now_us = self.now_us.max(at);
            self.turns()?;
        }
        self.now_us = self.now_us.max(until);
        self.turns()
    }

    /// Turns until nothing moves any more at this moment.
    pub(super) fn turns(&mut self) -> Checked {
        for turns in 0.. {
            let before = self.moves;
            self.turn()?;
            if self.moves == before {
                return self.check_books();
            }
            ensure!(turns < 200_000, "a turn ends", "turns without an end at {} µs", self.now_us);
        }
        Ok(())
    }

    /// What the router counts for each endpoint is what it has ordered kept.
    fn check_books(&self) -> Checked {
        let mailboxes = self.router.mailboxes();
        for (place, name) in NAMES.iter().enumerate() {
            let counted = mailboxes.iter().find(|mailbox| mailbox.endpoint.as_str() == *name);
            let counted = counted.map_or((0, 0), |one| (one.kept.messages, one.kept.bytes));
            let ordered = self.model.books.get(&(place as u8)).copied().unwrap_or_default();
            ensure!(
                counted == ordered,
                "books",
                "{name} has {counted:?} (messages, bytes), but {ordered:?} are ordered kept"
            );
        }
        Ok(())
    }

    // ---- clients ------------------------------------------------------------------------------------

    /// The connection of a client, if it is open at its end.
    fn link_of_client(&self, client: usize) -> Option<LinkId> {
        self.current[client]
            .filter(|id| !self.links[*id].far_closed && !self.links[*id].closes_then)
    }

    fn connect(&mut self, client: usize) -> LinkId {
        if let Some(id) = self.link_of_client(client) {
            self.links[id].close();
        }
        let like = &self.script.character.clients[client % self.script.character.clients.len()];
        let id = self.links.len();
        let uid =
            if client + 1 == self.script.character.clients.len() { OTHER_USER } else { OWNER };
        self.links.push(Link {
            client,
            credentials: Credentials { uid, pid: 100 + client as u32 },
            key: None,
            outgoing: VecDeque::new(),
            to_bus: Pipe::new(like.to_bus_bytes_max as usize),
            from_bus: Pipe::new(like.from_bus_bytes_max as usize),
            kept: Vec::new(),
            writing: Writing::default(),
            incoming: Vec::new(),
            reads_on: like.reads_on || self.is_healing,
            acks_at_once: like.acks_at_once || self.is_healing,
            join: None,
            depths: None,
            looks: false,
            is_registered: false,
            closes_then: false,
            far_closed: false,
            bus_closed: false,
            hung_up: false,
            at_end: false,
            write_is_lost: false,
            holds: Vec::new(),
        });
        self.open.push(id);
        self.door.push_back(id);
        self.current[client] = Some(id);
        id
    }

    fn join(&mut self, client: usize, join: Join) {
        let is_other = client + 1 == self.script.character.clients.len();
        // The other user's messages would be out of everybody's reach.
        let name = if is_other { 4 } else { join.name % 4 };
        let conflict = if name == 0 { join.conflict } else { without_suffix(join.conflict) };
        self.join_as(client, Join { name, conflict, ..join });
    }

    fn join_as(&mut self, client: usize, join: Join) {
        let id = self.connect(client);
        self.joins[client] = Some(join);
        let text = words_of_join(&join);
        let link = &mut self.links[id];
        link.join = Some(join);
        link.says(&text);
    }

    fn play_client(&mut self, client: usize, action: Action) {
        match action {
            Action::Connect => {
                self.connect(client);
                return;
            }
            Action::Join(join) => return self.join(client, join),
            _ => {}
        }
        let Some(id) = self.link_of_client(client) else { return };
        match action {
            Action::Send { to, count, bytes, asks } => {
                for _ in 0..count {
                    let n = self.next_n;
                    self.say_message(client, id, n, to, asks, bytes as usize);
                }
            }
            Action::Again { back } => {
                let sent = &self.sent[client];
                let Some(place) = sent.len().checked_sub(1 + usize::from(back)) else { return };
                let Some(earlier) = self.model.sent.get(&sent[place]).cloned() else { return };
                self.say_message(
                    client,
                    id,
                    earlier.first,
                    earlier.to,
                    earlier.asks,
                    earlier.body_bytes,
                );
            }
            Action::Ack(acks) => self.say_ack(id, acks),
            Action::Nack { requeue, newest } => {
                let holds = &mut self.links[id].holds;
                if holds.is_empty() {
                    return;
                }
                let place = if newest { holds.len() - 1 } else { 0 };
                let (seq, _) = holds.remove(place);
                let text = format!(
                    "{{\"type\":\"nack\",\"seq\":{seq},\"reason\":\"no\",\"requeue\":{requeue}}}"
                );
                self.links[id].says(&text);
            }
            Action::AckOn { at_once } => self.links[id].acks_at_once = at_once,
            Action::Subscribe { topics, groups, joins } => {
                let is_level_2 = self.links[id].join.is_some_and(|join| join.level_2);
                if is_level_2 {
                    let verb = if joins { "subscribe" } else { "unsubscribe" };
                    let text = format!("{{\"type\":\"{verb}\"{}}}", lists(topics, groups));
                    self.links[id].says(&text);
                }
            }
            Action::Watch(look) if self.links[id].join.is_some_and(|join| join.level_2) => {
                self.links[id].looks = true;
                self.links[id].says(&words_of_watch(look));
            }
            Action::Read { bytes } => self.read(id, bytes as usize),
            Action::ReadOn => self.links[id].reads_on = true,
            Action::ReadNot => self.links[id].reads_on = false,
            Action::Close { at_once: true } => self.links[id].close(),
            Action::Close { at_once: false } => self.links[id].closes_then = true,
            _ => {}
        }
    }

    fn say_message(
        &mut self,
        client: usize,
        id: LinkId,
        first: u64,
        to: To,
        asks: Asks,
        body_bytes: usize,
    ) {
        let n = self.next_n;
        self.next_n += 1;
        let is_anonymous = first == n && self.dice.one_in(16);
        let link = &self.links[id];
        let sent = Sent {
            n,
            client,
            link: id,
            uid: link.credentials.uid,
            from: None,
            to,
            asks,
            body_bytes,
            is_anonymous,
            first,
            taken: None,
            failed: None,
            buried: false,
            buried_for: Vec::new(),
        };
        let text = words_of_message(&sent);
        self.sent[client].push(n);
        self.model.sent.insert(n, sent);
        self.links[id].says(&text);
    }

    fn say_ack(&mut self, id: LinkId, acks: Acks) {
        let link = &mut self.links[id];
        if link.holds.is_empty() {
            return;
        }
        let text = match acks {
            Acks::One => {
                let (seq, _) = link.holds.remove(0);
                format!("{{\"type\":\"ack\",\"seqs\":[{seq}]}}")
            }
            Acks::Newest => {
                let seq = link.holds.pop().map_or(0, |(seq, _)| seq);
                format!("{{\"type\":\"ack\",\"seqs\":[{seq}]}}")
            }
            Acks::All => {
                let seqs: Vec<String> =
                    link.holds.drain(..).map(|(seq, _)| seq.to_string()).collect();
                format!("{{\"type\":\"ack\",\"seqs\":[{}]}}", seqs.join(","))
            }
            Acks::UpTo => {
                let up_to = link.holds.drain(..).map(|(seq, _)| seq).max().unwrap_or(0);
                format!("{{\"type\":\"ack\",\"up_to\":{up_to}}}")
            }
            Acks::Id => {
                let Some(wanted) = link.holds.iter().find_map(|(_, id)| id.clone()) else { return };
                link.holds.retain(|(_, id)| id.as_ref() != Some(&wanted));
                format!("{{\"type\":\"ack\",\"ids\":[\"{wanted}\"]}}")
            }
        };
        link.says(&text);
    }

    /// A client reads so much.
    fn read(&mut self, id: LinkId, bytes_max: usize) {
        let link = &mut self.links[id];
        if link.far_closed || link.from_bus.is_empty() {
            return;
        }
        let read = link.from_bus.read(&mut link.incoming, bytes_max);
        self.moves += u64::from(read > 0);
        let mut incoming = std::mem::take(&mut link.incoming);
        let mut done = 0;
        while let Decoded::Frame { payload, frame_bytes } = frame::decode(&incoming[done..]) {
            self.understand(id, payload);
            done += frame_bytes;
        }
        incoming.drain(..done);
        self.links[id].incoming = incoming;
    }

    fn understand(&mut self, id: LinkId, payload: &[u8]) {
        let Ok(frame) = serde_json::from_slice::<Value>(payload) else { return };
        if frame["type"] == "registered" {
            self.links[id].is_registered = true;
        }
        if frame["code"] == "name_taken" {
            self.links[id].join = None;
        }
        if frame["type"] != "message" {
            return;
        }
        if let Some(n) = frame["n"].as_u64() {
            self.model.read(id, n);
        }
        let link = &mut self.links[id];
        let Some(seq) = frame["seq"].as_u64() else { return };
        if link.acks_at_once {
            link.says(&format!("{{\"type\":\"ack\",\"seqs\":[{seq}]}}"));
        } else {
            link.holds.push((seq, frame["id"].as_str().map(str::to_owned)));
        }
    }

    /// The clients read, send, and come back.
    pub(super) fn pump(&mut self) {
        for place in 0..self.open.len() {
            let id = self.open[place];
            if self.links[id].reads_on {
                self.read(id, usize::MAX);
            }
            if self.is_healing && !self.links[id].holds.is_empty() {
                self.say_ack(id, Acks::All);
            }
            let moved = self.links[id].send();
            self.moves += u64::from(moved);
            let link = &mut self.links[id];
            if link.bus_closed && link.from_bus.is_empty() && !link.far_closed {
                link.close();
                self.moves += 1;
                self.come_back(id);
            }
        }
        let links = &self.links;
        self.open.retain(|id| !links[*id].bus_closed || !links[*id].far_closed);
    }

    pub(super) fn come_back(&mut self, id: LinkId) {
        let client = self.links[id].client;
        let clients = &self.script.character.clients;
        let comes_back = clients[client % clients.len()].comes_back || self.is_healing;
        let Some(join) = self.joins[client].filter(|_| comes_back) else { return };
        // Who was replaced stays away, or two would take one name from each other for ever.
        if self.current[client] == Some(id) && !self.is_taken(join.name) {
            self.join_as(client, join);
        }
    }

    fn is_taken(&self, name: u8) -> bool {
        self.open.iter().any(|id| {
            let link = &self.links[*id];
            let is_there = !link.far_closed && !link.bus_closed && !link.closes_then;
            let has = self.model.sessions.get(id).map(|session| session.endpoint);
            is_there && has.or(link.join.map(|join| join.name)) == Some(name)
        })
    }

    // ---- the end of a run -----------------------------------------------------------------------------

    /// The disk works, everybody is there, reads and acknowledges: everything arrives.
    fn heal(&mut self) -> Checked {
        self.tell(|| "everybody comes, reads and acknowledges".to_owned());
        self.is_healing = true;
        self.store.set_health(Health::Well);
        for id in self.open.clone() {
            let link = &mut self.links[id];
            link.reads_on = true;
            link.acks_at_once = true;
        }
        self.pass(1_000_000)?;
        for name in 0..NAMES.len() as u8 {
            let has_some = self.model.books.get(&name).is_some_and(|book| book.0 > 0);
            if !self.is_taken(name) && (has_some || usize::from(name) < NAMES_ASKED) {
                let client = if name == 4 { OTHERS_CLIENT } else { self.current.len() };
                if client == self.current.len() {
                    self.current.push(None);
                    self.joins.push(None);
                    self.sent.push(Vec::new());
                }
                let join = Join {
                    name,
                    level_2: true,
                    ack: true,
                    in_flight: 64,
                    mailbox: true,
                    topics: 0,
                    groups: 0,
                    conflict: Conflict::Replace,
                };
                self.join_as(client, join);
            }
        }
        // Longer than anything may last: pauses, receipts of broadcasts, lingers.
        for _ in 0..40 {
            self.pass(5_000_000)?;
        }
        let links = &self.links;
        let is_there = |id: LinkId| !links[id].far_closed && !links[id].bus_closed;
        let unanswered = self.model.unanswered(is_there);
        ensure!(unanswered.is_empty(), "answered", "nobody was told of {unanswered:?}");
        self.check_nothing_waits()?;
        self.model.check_gaps(is_there)?;
        self.check_nothing_is_left()?;
        self.model.check_retried(&self.store)?;
        self.check_nothing_is_lost()
    }

    /// Everybody's words have been taken.
    fn check_nothing_waits(&self) -> Checked {
        for id in &self.open {
            let link = &self.links[*id];
            let is_there = !link.far_closed && !link.bus_closed;
            let left = link.outgoing.len() + link.to_bus.len() + link.kept.len();
            ensure!(!is_there || left == 0, "progress", "{left} bytes of #{id} are not taken");
        }
        Ok(())
    }

    fn check_nothing_is_left(&self) -> Checked {
        let left: Vec<String> = self
            .model
            .rows
            .iter()
            .filter(|(_, row)| row.ended.is_none())
            .map(|(seq, row)| {
                format!("{seq}: message {} for {}", row.n, NAMES[row.endpoint as usize])
            })
            .collect();
        ensure!(left.is_empty(), "progress", "still kept: {left:?}");
        ensure!(self.store.is_idle(), "progress", "the store is not idle");
        let rows: Vec<&u64> = self.store.disk.rows.keys().collect();
        ensure!(rows.is_empty(), "books", "on disk, but not in the books: {rows:?}");
        Ok(())
    }

    /// Whatever was durable has come to somebody, or is a dead letter.
    fn check_nothing_is_lost(&self) -> Checked {
        for seq in &self.store.synced {
            let Some(row) = self.model.rows.get(seq) else { continue };
            let copy = self.model.copy_for(row.n, row.endpoint);
            let handed = self.model.handed.get(&copy);
            let has_come = handed.is_some_and(|handed| handed.iter().any(|one| one.is_read));
            let is_dead = self.model.sent.get(&row.n).is_some_and(|sent| sent.buried)
                || self.store.has_letter_of(row.n);
            let is_over = row.expires_unix_us.is_some_and(|at| at <= self.model.unix_us());
            let is_removed = self.model.rejected.contains(&copy);
            let is_spill = row.keep == hermes_bus_core::storage::Keep::Spill;
            ensure!(
                has_come || is_dead || is_over || is_removed || is_spill,
                "lost",
                "{seq} (message {}) was durable and came to nobody",
                row.n
            );
        }
        Ok(())
    }

    /// Everybody leaves, and all time passes: nothing is left.
    fn leave(&mut self) -> Checked {
        self.tell(|| "everybody leaves".to_owned());
        for id in self.open.clone() {
            self.links[id].close();
        }
        self.joins.fill(None);
        let longest = Duration::from_secs(200);
        self.pass(longest.as_micros() as u64)?;
        let usage = self.router.usage();
        let used = [usage.queued, usage.answers, usage.intake, usage.held];
        ensure!(used == [0; 4], "budget", "nobody is there: {usage:?}");
        // An endpoint with a mailbox may still have one for a message that has been taken.
        ensure!(usage.timers <= NAMES.len(), "budget", "nobody is there: {usage:?}");
        ensure!(self.router.is_idle(), "end", "connections are left");
        self.check_every_loss_is_counted()
    }

    /// Whatever this process has taken and handed to nobody has a counter that says why.
    fn check_every_loss_is_counted(&self) -> Checked {
        let counters = self.router.counters();
        let counted = counters.dropped()
            + counters.given_up
            + counters.purged
            + counters.repeated
            + counters.refused_endpoint_not_found
            + counters.refused_messages
            + counters.refused_store_unavailable
            + counters.refused_fields
            + counters.refused_frame_too_large;
        let lost = self.model.never_handed_over();
        ensure!(
            lost.len() as u64 <= counted,
            "counters",
            "{} messages came to nobody, {lost:?}, and {counted} are counted",
            lost.len()
        );
        Ok(())
    }
}

/// Only the first name has others made of it.
fn without_suffix(conflict: Conflict) -> Conflict {
    if conflict == Conflict::Suffix { Conflict::Refuse } else { conflict }
}

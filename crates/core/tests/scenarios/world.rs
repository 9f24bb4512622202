//! A driver for tests: it carries out what the router wants, as the daemon does, on connections that
//! exist in memory only.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use hermes_bus_core::storage::{Order, Record, Ticket};
use hermes_bus_core::{
    CloseReason, Config, Counters, Credentials, Effect, Event, Moment, Next, Now, Payload, Probed,
    Reading, Router, SessionKey,
};
use hermes_bus_proto::frame::{self, Decoded};
use serde_json::{Value, json};

use crate::shelf::Shelf;

/// So many orders are handed over before a turn ends.
const EARLY_ORDERS: usize = 2;

pub(crate) const OWNER: u32 = 1000;
/// 2024-05-21, the time of the protocol's example.
pub(crate) const UNIX_US: u64 = 1_716_307_200_123_456;

/// The far end of a connection.
#[derive(Default)]
struct Peer {
    /// Whole frames that the router has not taken yet.
    unread: VecDeque<Vec<u8>>,
    has_ended: bool,
    has_hung_up: bool,
    /// What the socket still takes; none: everything.
    room: Option<usize>,
    /// What has arrived.
    arrived: Vec<u8>,
    closed: Option<CloseReason>,
}

pub(crate) struct World {
    pub(crate) router: Router,
    now_us: u64,
    peers: BTreeMap<SessionKey, Peer>,
    pub(crate) log: Vec<Event>,
    more_input: Vec<SessionKey>,
    /// Requests that only the daemon can answer.
    pub(crate) admin: Vec<(SessionKey, Value)>,
    /// What is to be kept on disk.
    pub(crate) orders: Vec<(Ticket, Order)>,
    /// What is on disk.
    pub(crate) shelf: Shelf,
    /// Whose socket is to be looked at.
    pub(crate) looks: Vec<SessionKey>,
    /// Who asks where a message is.
    pub(crate) traces: Vec<SessionKey>,
}

impl World {
    pub(crate) fn new() -> Self {
        World::with(|_| {})
    }

    pub(crate) fn with(change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config { owner_uid: OWNER, ..Config::default() };
        change(&mut config);
        let router = Router::new(config, 42);
        let mut world = World {
            router,
            now_us: 0,
            peers: BTreeMap::new(),
            log: Vec::new(),
            more_input: Vec::new(),
            admin: Vec::new(),
            orders: Vec::new(),
            shelf: Shelf::default(),
            looks: Vec::new(),
            traces: Vec::new(),
        };
        world.turn();
        world
    }

    // ---- what peers do --------------------------------------------------------------------------

    pub(crate) fn connect(&mut self) -> SessionKey {
        self.connect_as(OWNER)
    }

    pub(crate) fn connect_as(&mut self, uid: u32) -> SessionKey {
        self.turn();
        let key = self.router.connected(Credentials { uid, pid: 7 });
        self.peers.insert(key, Peer::default());
        self.turn();
        key
    }

    /// A connection that has registered, and read the answer.
    pub(crate) fn register(&mut self, name: &str) -> SessionKey {
        self.register_as(OWNER, name)
    }

    pub(crate) fn register_as(&mut self, uid: u32, name: &str) -> SessionKey {
        let key = self.connect_as(uid);
        self.send(key, &json!({"type": "register", "endpoint": name}));
        let answer = self.take(key);
        assert_eq!(answer.len(), 1, "{answer:?}");
        assert_eq!(answer[0]["type"], "registered", "{answer:?}");
        key
    }

    /// Registers, and returns the messages that came right behind the answer.
    pub(crate) fn register_and_take(&mut self, name: &str) -> (SessionKey, Vec<Value>) {
        let key = self.connect();
        self.send(key, &json!({"type": "register", "endpoint": name}));
        let frames = self.take(key);
        assert!(frames.is_empty() || frames[0]["type"] == "registered", "{frames:?}");
        let bodies = frames.iter().filter(|frame| frame["type"] == "message");
        (key, bodies.map(|frame| frame["body"].clone()).collect())
    }

    /// Sends one frame, in a turn of its own.
    pub(crate) fn send(&mut self, from: SessionKey, frame: &Value) {
        self.send_text(from, &frame.to_string());
    }

    pub(crate) fn send_text(&mut self, from: SessionKey, payload: &str) {
        self.write(from, &[payload]);
    }

    /// Sends several frames that arrive in one turn.
    pub(crate) fn write(&mut self, from: SessionKey, payloads: &[&str]) {
        self.put(from, payloads);
        self.turn();
    }

    /// Sends frames without a turn: they arrive in the next one.
    pub(crate) fn put(&mut self, from: SessionKey, payloads: &[&str]) {
        let peer = self.peer(from);
        peer.unread.extend(payloads.iter().map(|payload| payload.as_bytes().to_vec()));
    }

    pub(crate) fn message(&mut self, from: SessionKey, to: &str, body: impl Into<Value>) {
        self.send(from, &json!({"type": "message", "to": to, "body": body.into()}));
    }

    /// The peer ends its sending side, and goes on reading.
    pub(crate) fn half_close(&mut self, key: SessionKey) {
        self.peer(key).has_ended = true;
        self.turn();
    }

    /// The bus notices that the peer reads no more. What it has sent still counts.
    pub(crate) fn go_deaf(&mut self, key: SessionKey) {
        self.router.deaf(key);
        self.turn();
    }

    /// The peer closes its connection.
    pub(crate) fn hang_up(&mut self, key: SessionKey) {
        self.put_hang_up(key);
        self.turn();
    }

    /// The same, to be noticed in the next turn.
    pub(crate) fn put_hang_up(&mut self, key: SessionKey) {
        let peer = self.peer(key);
        (peer.has_ended, peer.has_hung_up, peer.room) = (true, true, Some(0));
    }

    /// The peer stops reading; its socket takes `bytes` more.
    pub(crate) fn stop_reading(&mut self, key: SessionKey, bytes: usize) {
        self.peer(key).room = Some(bytes);
    }

    /// The peer reads everything from now on.
    pub(crate) fn read_on(&mut self, key: SessionKey) {
        self.peer(key).room = None;
        self.turn();
    }

    /// The peer reads so much.
    pub(crate) fn read_some(&mut self, key: SessionKey, bytes: usize) {
        if let Some(room) = &mut self.peer(key).room {
            *room += bytes;
        }
        self.turn();
    }

    /// More bytes of this peer are in its socket, but not read yet.
    pub(crate) fn has_more_input(&mut self, key: SessionKey) {
        self.more_input.push(key);
    }

    // ---- what a test sees -----------------------------------------------------------------------

    /// Everything that has arrived since the last call.
    pub(crate) fn take(&mut self, key: SessionKey) -> Vec<Value> {
        self.take_texts(key)
            .iter()
            .map(|text| serde_json::from_str(text).expect("the bus sends JSON"))
            .collect()
    }

    pub(crate) fn take_texts(&mut self, key: SessionKey) -> Vec<String> {
        let arrived = std::mem::take(&mut self.peer(key).arrived);
        let mut texts = Vec::new();
        let mut at = 0;
        while let Decoded::Frame { payload, frame_bytes } = frame::decode(&arrived[at..]) {
            texts.push(String::from_utf8(payload.to_vec()).expect("the bus sends UTF-8"));
            at += frame_bytes;
        }
        self.peer(key).arrived = arrived[at..].to_vec();
        texts
    }

    /// The bodies of the messages that have arrived since the last call.
    pub(crate) fn bodies(&mut self, key: SessionKey) -> Vec<Value> {
        let frames = self.take(key);
        frames
            .iter()
            .filter(|frame| frame["type"] == "message")
            .map(|frame| frame["body"].clone())
            .collect()
    }

    pub(crate) fn closed(&self, key: SessionKey) -> Option<CloseReason> {
        self.peers[&key].closed
    }

    /// The connection was closed because its peer had ended it, and nobody is blamed for that.
    pub(crate) fn assert_let_go(&self, key: SessionKey) {
        assert_eq!(self.closed(key), Some(CloseReason::PeerClosed));
        assert_eq!(self.counters().timeout_drain, 0);
        let blamed = self.log.iter().any(|event| matches!(event, Event::LeftUnread { .. }));
        assert!(!blamed, "{:?}", self.log);
    }

    pub(crate) fn endpoints(&mut self) -> Vec<String> {
        let looker = self.connect();
        self.send(looker, &json!({"type": "list_endpoints"}));
        let listing = self.take(looker).pop().expect("an answer");
        self.hang_up(looker);
        listing["endpoints"].as_object().expect("an object").keys().cloned().collect()
    }

    pub(crate) fn counters(&self) -> &Counters {
        self.router.counters()
    }

    /// Everybody leaves, and all is forgotten: nothing may stay charged.
    pub(crate) fn end(mut self) {
        let keys: Vec<SessionKey> = self.peers.keys().copied().collect();
        for key in keys {
            if self.closed(key).is_none() {
                self.put_hang_up(key);
            }
        }
        self.turn();
        self.pass(Duration::from_secs(60));
        assert!(self.router.is_idle(), "connections are left");
        assert_eq!(self.router.usage(), Default::default(), "memory is still charged");
    }

    /// The same where endpoints stay for their mailboxes.
    pub(crate) fn end_with_mailboxes(mut self) {
        let keys: Vec<SessionKey> = self.peers.keys().copied().collect();
        for key in keys {
            if self.closed(key).is_none() {
                self.put_hang_up(key);
            }
        }
        self.turn();
        self.pass(Duration::from_secs(5));
        self.sync();
        let usage = self.router.usage();
        let used = usage.queued + usage.answers + usage.intake + usage.held;
        assert_eq!(used, 0, "memory is still charged: {usage:?}");
        for mailbox in self.router.mailboxes() {
            let name = mailbox.endpoint.as_str();
            let of_it = |record: &&Record| record.endpoint.as_str() == name;
            let on_disk = self.shelf.records.values().filter(of_it).count() as u64;
            assert_eq!(mailbox.kept.messages, on_disk, "the books of {name}");
        }
    }

    // ---- time and turns -------------------------------------------------------------------------

    /// Lets time pass, timer by timer.
    pub(crate) fn pass(&mut self, duration: Duration) {
        let until = self.now_us + duration.as_micros() as u64;
        while let Some(wake) = self.router.next_wake().map(Moment::as_micros)
            && wake <= until
        {
            self.now_us = self.now_us.max(wake);
            self.turn();
        }
        self.now_us = until;
        self.turn();
    }

    pub(crate) fn pass_ms(&mut self, ms: u64) {
        self.pass(Duration::from_millis(ms));
    }

    /// One turn, in the order in which the daemon works.
    pub(crate) fn turn(&mut self) {
        let now = Now { moment: Moment::from_micros(self.now_us), unix_us: UNIX_US + self.now_us };
        self.router.begin_turn(now);
        self.carry_out_effects();
        loop {
            let keys: Vec<SessionKey> = self.peers.keys().copied().collect();
            for key in keys {
                self.read(key);
            }
            self.write_all();
            let mut again = self.carry_out_effects();
            for key in self.router.receipts_due() {
                if self.more_input.contains(&key) {
                    self.router.more_input(key);
                }
            }
            self.router.end_turn();
            self.write_all();
            again |= self.carry_out_effects();
            if !again {
                return;
            }
            self.router.begin_turn(now);
            self.carry_out_effects();
        }
    }

    fn peer(&mut self, key: SessionKey) -> &mut Peer {
        self.peers.get_mut(&key).expect("a connection of this world")
    }

    fn read(&mut self, key: SessionKey) {
        while matches!(self.router.reading(key), Reading::UpTo(_)) {
            let Some(payload) = self.peer(key).unread.pop_front() else { break };
            let next = match self.router.frame(key, Payload::Borrowed(&payload), Probed::No) {
                Next::Probe(holder) => {
                    if self.peer(holder).has_ended {
                        self.read(holder);
                        self.router.leaving(holder);
                    }
                    self.router.frame(key, Payload::Borrowed(&payload), Probed::Yes)
                }
                next => next,
            };
            match next {
                Next::Taken => self.take_orders(),
                Next::TakenThenHold => break,
                Next::Hold => {
                    self.peer(key).unread.push_front(payload);
                    break;
                }
                Next::Finished => self.peer(key).unread.clear(),
                Next::Probe(_) => panic!("asked to probe twice"),
            }
        }
        let peer = self.peer(key);
        if peer.has_ended && peer.unread.is_empty() && peer.closed.is_none() {
            if peer.has_hung_up {
                self.router.closed(key, CloseReason::PeerClosed);
            } else {
                self.router.eof(key);
            }
        }
    }

    /// The disk may begin before a turn ends.
    fn take_orders(&mut self) {
        for effect in self.router.take_orders(EARLY_ORDERS).into_iter().flatten() {
            let Effect::Store(ticket, order) = effect else { panic!("no order: {effect:?}") };
            self.orders.push((ticket, order));
        }
    }

    fn write_all(&mut self) {
        self.router.take_dirty();
        let keys: Vec<SessionKey> = self.peers.keys().copied().collect();
        for key in keys {
            loop {
                let bytes: Vec<u8> = self.router.next_write(key).flatten().copied().collect();
                let room = self.peers[&key].room.unwrap_or(usize::MAX);
                let taken = bytes.len().min(room);
                if taken == 0 {
                    break;
                }
                let peer = self.peer(key);
                peer.arrived.extend_from_slice(&bytes[..taken]);
                peer.room = peer.room.map(|room| room - taken);
                self.router.written(key, taken, Moment::from_micros(self.now_us));
            }
        }
    }

    /// Says whether there was anything that makes another turn necessary.
    fn carry_out_effects(&mut self) -> bool {
        let mut again = false;
        for effect in self.router.take_effects() {
            match effect {
                Effect::Resume(_) => again = true,
                Effect::Close(key, reason) => {
                    let peer = self.peer(key);
                    assert_eq!(peer.closed, None, "closed twice");
                    peer.closed = Some(reason);
                }
                Effect::Admin(key, payload) => {
                    let request = serde_json::from_slice(&payload).expect("JSON");
                    self.admin.push((key, request));
                }
                Effect::Trace(key, _) => self.traces.push(key),
                Effect::LookWhetherRead(key) => self.looks.push(key),
                Effect::Store(ticket, order) => self.orders.push((ticket, order)),
                Effect::Log(event) => {
                    assert!(!event.to_string().is_empty());
                    self.log.push(event);
                }
            }
        }
        again
    }
}

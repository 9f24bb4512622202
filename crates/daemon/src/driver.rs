//! The driver: one thread that reads sockets, feeds the router, and carries out its effects.
//!
//! It works in turns: wait for readiness, read a bounded amount from each ready connection, write
//! what the router has queued, accept, sleep. It decides nothing about routing or limits: how much
//! may be read and what is written comes from the router.
//!
//! Readiness is edge-triggered, so a connection that may have more to read stays in `ready` until a
//! read comes back short. A short read spends the edge, except when the peer has closed: no further
//! edge follows then, so reading goes on to the end.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use hermes_bus_core::storage::Recovered;
use hermes_bus_core::{
    CloseReason, Config, Effect, Histogram, Lingering, Moment, Next, Now, Payload, Probed, Reading,
    Router, SessionKey,
};
use hermes_bus_proto::frame::{self, Decoded};
use hermes_bus_proto::limits::HEADER_BYTES;
use mio::event::Event as Readiness;
use mio::net::UnixStream;
use mio::{Events, Interest, Poll, Token, Waker};
use rustix::io::Errno;

use crate::connection::{Connection, LARGE_FRAME_BYTES, Read};
use crate::control::Asker;
use crate::control::clerk::{Clerk, Errand};
use crate::door::Door;
use crate::lock::Lock;
use crate::logging::{EventLog, target};
use crate::root::Root;
use crate::server::Mode;
use crate::signals::{Signals, Wish};
use crate::storage::Storage;
use crate::succession::{Newcomer, Succession};
use crate::surroundings::Surroundings;
use crate::sys::{self, HangUp};

mod kept;
mod requests;

/// What one read takes at most: more than a socket usually holds.
const READ_BYTES: usize = 256 * 1024;
const _: () = assert!(READ_BYTES > LARGE_FRAME_BYTES, "what is kept must leave room to read");
/// What is read in one turn, from all: so that what is read is still in the cache when it is
/// written, and nobody waits long.
const TURN_READ_BYTES: usize = 1024 * 1024;
/// Writes to one connection in one turn.
const TURN_WRITES: usize = 64;
/// Orders for the disk that are handed over before the turn ends. Measured with one sender that has 256
/// messages outstanding: with 64 the disk works beside the routing, and its commits are not too small.
const ORDERS_AT_ONCE: usize = 64;
/// What is read at a time of a session whose peer has hung up.
const PROBE_BYTES: usize = 2 * LARGE_FRAME_BYTES;
/// Slices of one write; the system takes 1,024 at most.
const WRITE_SLICES: usize = 64;
/// How often the path of the socket is looked at.
const DOOR_CHECK: Duration = Duration::from_secs(1);

const DOOR: Token = Token(usize::MAX - 1);
const SUCCESSOR: Token = Token(usize::MAX - 2);
const WAKER: Token = Token(usize::MAX - 3);
/// Signals have the tokens from here on.
pub(crate) const SIGNALS: usize = usize::MAX - 16;
/// How many they are at most.
const SIGNALS_MAX: usize = 8;
/// A bus that is about to end reads what has arrived already, for so long at most.
const LAST_READING: Duration = Duration::from_secs(1);

/// How a server's run has ended.
#[derive(Debug)]
pub(crate) enum End {
    /// The bus is gone. The lock is to be let go last.
    Stopped(Lock),
    /// Another process goes on with it.
    HandedOver,
}

/// What has become of the bus when its last connection has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    Stopped,
    HandedOver,
}

/// What only one process of a root can have.
pub(crate) struct Belongings {
    pub(crate) lock: Lock,
    pub(crate) door: Door,
    pub(crate) storage: Storage,
}

/// The loop's state.
pub(crate) struct Driver {
    router: Router,
    poll: Poll,
    /// Where peers come in; none while the daemon goes down.
    door: Option<Door>,
    /// Held until the process ends or another one follows.
    lock: Lock,
    root: Root,
    mode: Mode,
    /// Connections for the process that follows: they have heard nothing yet.
    newcomers: Vec<Newcomer>,
    /// A process that is to follow this one, and who wants to hear of it.
    succession: Option<(Succession, Asker)>,
    signals: Signals,
    /// By [`SessionKey::index`].
    connections: Vec<Option<Connection>>,
    open_connections: usize,
    /// Connections that may have something to read.
    ready: VecDeque<SessionKey>,
    /// Connections with more to write than one turn allows.
    unwritten: Vec<SessionKey>,
    door_is_ready: bool,
    began: Instant,
    next_door_check: Instant,
    stopping: bool,
    /// The limits to go back to if the process that is to follow fails.
    usual: Option<Config>,
    read_buffer: Vec<u8>,
    /// How long turns took, from waking up to going to sleep.
    turns: Histogram,
    surroundings: Surroundings,
    /// Has to be closed before the process ends or another one follows.
    storage: Storage,
    clerk: Clerk,
    /// Dead letters that are tried once more: their messages are on their way to the disk.
    errands: Vec<Errand>,
    /// Another thread has something for this one.
    was_woken: bool,
    event_log: EventLog,
}

impl Driver {
    pub(crate) fn new(
        router: Router,
        root: &Root,
        mode: Mode,
        belongings: Belongings,
        mut signals: Signals,
        mut surroundings: Surroundings,
    ) -> std::io::Result<Self> {
        let Belongings { lock, mut door, storage } = belongings;
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKER)?);
        surroundings.serve_metrics(waker.clone());
        storage.wake_with(waker.clone());
        let clerk = Clerk::start(move || drop(waker.wake()))?;
        door.register(poll.registry(), DOOR)?;
        signals.register(poll.registry(), SIGNALS)?;
        let now = Instant::now();
        Ok(Driver {
            router,
            poll,
            door: Some(door),
            lock,
            root: root.clone(),
            mode,
            newcomers: Vec::new(),
            succession: None,
            signals,
            connections: Vec::new(),
            open_connections: 0,
            ready: VecDeque::new(),
            unwritten: Vec::new(),
            door_is_ready: true,
            began: now,
            next_door_check: now + DOOR_CHECK,
            stopping: false,
            usual: None,
            read_buffer: vec![0; READ_BYTES],
            turns: Histogram::default(),
            surroundings,
            storage,
            clerk,
            errands: Vec::new(),
            was_woken: true,
            event_log: EventLog::new(),
        })
    }

    /// Goes on with what the last process has left: on disk, and with the names that it has handed over.
    pub(crate) fn begin(&mut self, recovered: Option<Recovered>, left: Vec<Lingering>) {
        self.router.begin_turn(self.now());
        if recovered.is_none() {
            let now = self.now();
            self.router.number_from(now.unix_us);
        }
        if let Some(recovered) = recovered {
            self.recover(recovered);
        }
        self.router.restore(left);
        self.carry_out_effects();
    }

    /// Runs until a signal ends it, or another process follows, and everything queued is written, or
    /// its time is up.
    pub(crate) fn run(mut self) -> std::io::Result<End> {
        let mut events = Events::with_capacity(1024);
        loop {
            while !(self.stopping && self.router.is_idle()) {
                match self.poll.poll(&mut events, self.timeout()) {
                    Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                    result => result?,
                }
                self.turn(&events);
            }
            if let Some(end) = self.hand_over()? {
                self.router.end();
                self.event_log.sum_up_all();
                // The clerk's last look at the store must not be in the way of its end.
                let Driver { mut router, mut signals, surroundings, lock, .. } = self;
                let Driver { connections, mut storage, clerk, .. } = self;
                drop((connections, clerk));
                storage.close(router.seq_next());
                return Ok(match end {
                    Ended::Stopped => {
                        surroundings.end(&mut router);
                        End::Stopped(lock)
                    }
                    Ended::HandedOver => {
                        drop(lock);
                        surroundings.finish_hooks(&mut router, &mut signals);
                        End::HandedOver
                    }
                });
            }
        }
    }

    /// Until when the thread may sleep.
    fn timeout(&self) -> Option<Duration> {
        if !self.ready.is_empty() || !self.unwritten.is_empty() || self.router.is_dirty() {
            return Some(Duration::ZERO);
        }
        let now = Instant::now();
        let next_look = match &self.succession {
            Some((succession, _)) => self.next_door_check.min(succession.until()),
            None => self.next_door_check,
        };
        let until_check = next_look.saturating_duration_since(now);
        let elapsed = now.duration_since(self.began);
        let until_timer = self.router.next_wake().map_or(until_check, |moment| {
            Duration::from_micros(moment.as_micros()).saturating_sub(elapsed)
        });
        let until_due = self.surroundings.due(&self.router, now).unwrap_or(until_check);
        let until_stored = self.storage.due(now).unwrap_or(until_check);
        Some(until_check.min(until_timer).min(until_due).min(until_stored))
    }

    fn turn(&mut self, events: &Events) {
        let began = self.now();
        self.router.begin_turn(began);
        self.carry_out_effects();
        let mut writable = Vec::new();
        for event in events {
            match event.token() {
                DOOR => self.door_is_ready = true,
                // What it is about is looked at in every turn.
                SUCCESSOR => {}
                WAKER => self.was_woken = true,
                Token(token) if (SIGNALS..SIGNALS + SIGNALS_MAX).contains(&token) => {
                    self.on_signal();
                }
                Token(index) => self.on_readiness(index, event, &mut writable),
            }
        }
        self.look_at_store();
        writable.append(&mut self.unwritten);
        for key in writable {
            self.write(key, began.moment);
        }
        self.read_and_write();
        self.look_at_door();
        self.look_at_successor();
        self.surroundings.pass_by(&mut self.router, &self.storage, &self.turns, Instant::now());
        self.storage.submit();
        self.turns.record(self.moment().since(began.moment));
    }

    /// The middle of a turn: what has arrived is routed, and answered.
    fn read_and_write(&mut self) {
        self.read_ready();
        self.write_dirty();
        self.carry_out_effects();
        for key in self.router.receipts_due() {
            if self.connection(key).is_some_and(|connection| sys::has_input(&connection.stream)) {
                self.router.more_input(key);
            }
        }
        self.router.end_turn();
        self.write_dirty();
        self.carry_out_effects();
        // The disk works while this thread goes on.
        self.storage.submit();
    }

    fn now(&self) -> Now {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Now { moment: self.moment(), unix_us: unix.as_micros() as u64 }
    }

    fn moment(&self) -> Moment {
        Moment::from_micros(self.began.elapsed().as_micros() as u64)
    }

    // ---- the door and signals -------------------------------------------------------------------

    fn look_at_door(&mut self) {
        let now = Instant::now();
        if now >= self.next_door_check {
            self.next_door_check = now + DOOR_CHECK;
            self.event_log.sum_up();
            if !self.stopping {
                // After an accept that failed there may be no further edge.
                self.door_is_ready = true;
                self.check_door();
            }
        }
        if !self.stopping && std::mem::take(&mut self.door_is_ready) {
            self.let_in();
        }
    }

    /// Accepts everybody who waits.
    fn let_in(&mut self) {
        while let Some((stream, credentials)) =
            self.door.as_mut().and_then(|door| door.accept(self.open_connections))
        {
            let key = self.router.connected(credentials);
            self.admit(key, stream);
        }
    }

    /// Released clients delete the socket of a bus that did not answer them; then it is bound anew.
    fn check_door(&mut self) {
        // Whoever waits at a socket that is about to be given up comes in first.
        self.let_in();
        if let Some(door) = &mut self.door
            && let Err(error) = door.check(self.poll.registry(), DOOR)
        {
            tracing::error!(target: target::DOOR, "the socket cannot be bound anew: {error:#}");
        }
    }

    fn admit(&mut self, key: SessionKey, stream: UnixStream) {
        let mut connection = Connection::new(key, stream);
        let token = Token(key.index());
        let registered =
            self.poll.registry().register(&mut connection.stream, token, Interest::READABLE);
        if self.connections.len() <= key.index() {
            self.connections.resize_with(key.index() + 1, || None);
        }
        self.open_connections += 1;
        self.connections[key.index()] = Some(connection);
        if let Err(error) = registered {
            tracing::error!(target: target::DOOR, "a connection cannot be watched: {error}");
            self.router.closed(key, CloseReason::ConnectionLost);
        }
        // A peer that may not connect has an answer waiting already.
        self.write_dirty();
        self.carry_out_effects();
    }

    fn on_signal(&mut self) {
        for wish in self.signals.take() {
            match wish {
                // At the turn's end, when no event of this turn can be mistaken for one of a newcomer.
                Wish::CheckSocket => self.next_door_check = Instant::now(),
                Wish::Stop if self.door.is_none() => {}
                Wish::Stop => {
                    tracing::info!(target: target::BUS, "stopping");
                    self.surroundings.supervisor().stopping();
                    // Nobody comes in any more; the path is free for the next daemon. A process that is
                    // to follow gets nothing then, and ends.
                    drop(self.door.take());
                    if !self.stopping {
                        self.shut_down(self.router.config().at_the_end());
                    } else {
                        // Who was to go on there hears from this one what becomes of its message.
                        let newcomers = std::mem::take(&mut self.newcomers);
                        self.take_in(newcomers);
                        self.read_what_has_arrived();
                        self.router.shut_down();
                    }
                }
                // The next process has read the configuration already.
                Wish::Reload if self.stopping => {}
                // What came of it is in the log.
                Wish::Reload => drop(self.reload()),
            }
        }
    }

    /// Ends every connection in good order, under the limits that are for that.
    fn shut_down(&mut self, limits: Config) {
        self.stopping = true;
        self.router.configure(limits);
        // Whoever writes from now on is told that nobody reads; what was written before is read to its
        // end.
        for connection in self.connections.iter().flatten() {
            let _ = connection.stream.shutdown(Shutdown::Read);
        }
        self.read_what_has_arrived();
        self.router.shut_down();
    }

    /// What has reached the bus is routed and answered before it ends: its senders take it for sent.
    fn read_what_has_arrived(&mut self) {
        let until = Instant::now() + LAST_READING;
        let open: Vec<SessionKey> = self.connections.iter().flatten().map(|c| c.key).collect();
        for key in open {
            self.make_ready(key);
        }
        while !self.ready.is_empty() && Instant::now() < until {
            self.router.begin_turn(self.now());
            self.read_and_write();
        }
        if !self.ready.is_empty() {
            let left = self.ready.len();
            tracing::warn!(
                target: target::BUS,
                "the time to read what had arrived is up; connections that may have sent more: {left}"
            );
        }
    }

    // ---- readiness ------------------------------------------------------------------------------

    fn connection(&self, key: SessionKey) -> Option<&Connection> {
        self.connections.get(key.index())?.as_ref().filter(|connection| connection.key == key)
    }

    fn connection_mut(&mut self, key: SessionKey) -> Option<&mut Connection> {
        self.connections.get_mut(key.index())?.as_mut().filter(|connection| connection.key == key)
    }

    fn on_readiness(&mut self, index: usize, event: &Readiness, writable: &mut Vec<SessionKey>) {
        let Some(Some(connection)) = self.connections.get_mut(index) else { return };
        let key = connection.key;
        connection.read_closed |= event.is_read_closed() || event.is_error();
        connection.hung_up |= event.is_write_closed() || event.is_error();
        if event.is_writable() {
            writable.push(key);
        }
        let (at_end, hung_up, read_closed) =
            (connection.at_end, connection.hung_up, connection.read_closed);
        if hung_up && self.router.reading(key) == Reading::Held {
            self.router.deaf(key);
        }
        if at_end && hung_up {
            // It had only ended its own side, and now reads no more either.
            self.router.closed(key, CloseReason::PeerClosed);
        } else if event.is_readable() || read_closed {
            self.make_ready(key);
        }
    }

    fn make_ready(&mut self, key: SessionKey) {
        if let Some(connection) = self.connection_mut(key)
            && !std::mem::replace(&mut connection.is_ready, true)
        {
            self.ready.push_back(key);
        }
    }

    // ---- reading --------------------------------------------------------------------------------

    fn read_ready(&mut self) {
        let mut buffer = std::mem::take(&mut self.read_buffer);
        let mut left = TURN_READ_BYTES;
        for _ in 0..self.ready.len() {
            if left == 0 {
                break;
            }
            let Some(key) = self.ready.pop_front() else { break };
            let Some(connection) = self.connection_mut(key) else { continue };
            connection.is_ready = false;
            left = left.saturating_sub(self.read(key, &mut buffer));
        }
        self.read_buffer = buffer;
    }

    /// Reads once from a connection and offers the frames that are whole. Returns the bytes read.
    fn read(&mut self, key: SessionKey, buffer: &mut [u8]) -> usize {
        match self.router.reading(key) {
            Reading::UpTo(_) => {}
            Reading::Held => return 0,
            Reading::Over => {
                if let Some(connection) = self.connection_mut(key) {
                    connection.keep(&[]);
                }
                return 0;
            }
        }
        if !self.offer_kept(key) {
            return 0;
        }
        let Reading::UpTo(allowance) = self.router.reading(key) else { return 0 };
        let Some(connection) = self.connection_mut(key) else { return 0 };
        if connection.at_end {
            return 0;
        }
        if connection.large_frame_bytes().is_some() {
            return self.read_large(key, allowance);
        }
        let kept = connection.take_kept_into(buffer);
        let room = (buffer.len() - kept).min(allowance);
        let read = connection.read_into(&mut buffer[kept..kept + room]);
        let (bytes, outcome) = (read.bytes(), read);
        let filled = kept + bytes;
        let taken = self.offer_frames(key, &buffer[..filled]);
        if let Some(connection) = self.connection_mut(key) {
            connection.keep(&buffer[taken..filled]);
        }
        self.after_read(key, outcome);
        bytes
    }

    /// Reads on in a frame that is large enough for memory of its own.
    fn read_large(&mut self, key: SessionKey, allowance: usize) -> usize {
        let Some(connection) = self.connection_mut(key) else { return 0 };
        let read = connection.read_large(allowance.min(READ_BYTES));
        let bytes = read.bytes();
        self.offer_kept(key);
        self.after_read(key, read);
        bytes
    }

    /// Tells the router what is kept, and sees whether there may be more to read.
    fn after_read(&mut self, key: SessionKey, read: Read) {
        let Some(connection) = self.connection_mut(key) else { return };
        let (bytes, missing) = connection.kept();
        let Connection { read_closed, hung_up, write_is_lost, .. } = *connection;
        let is_at_end = matches!(read, Read::End | Read::Lost);
        connection.at_end |= is_at_end;
        connection.is_lost |= read == Read::Lost;
        self.router.buffered(key, bytes, missing);
        if is_at_end && self.router.has_unread(key) {
            // What the peer had read before it left need not come again.
            self.look_whether_read(key);
        }
        match read {
            Read::End if hung_up => self.router.closed(key, CloseReason::PeerClosed),
            // The bus itself has ended it, and what comes for the session is still to be written.
            Read::End if self.stopping => {}
            Read::End => self.router.eof(key),
            Read::Lost => self.router.closed(key, CloseReason::ConnectionLost),
            Read::Full(_) => self.make_ready(key),
            Read::Short(_) if read_closed => self.make_ready(key),
            Read::Nothing if write_is_lost => {
                self.router.closed(key, CloseReason::ConnectionLost);
            }
            Read::Short(_) | Read::Nothing => {}
        }
    }

    /// Offers the whole frames that a connection had kept. Says whether reading may go on.
    fn offer_kept(&mut self, key: SessionKey) -> bool {
        let Some(connection) = self.connection_mut(key) else { return false };
        if !connection.has_whole_frame() {
            return true;
        }
        let kept = connection.take_kept();
        if let Decoded::Frame { frame_bytes, .. } = frame::decode(&kept)
            && frame_bytes > LARGE_FRAME_BYTES
            && frame_bytes == kept.len()
        {
            return self.offer_large(key, kept);
        }
        let offered = self.offer_frames(key, &kept);
        self.keep_again(key, kept, offered)
    }

    /// Offers one large frame in its own memory, which its receivers will share.
    fn offer_large(&mut self, key: SessionKey, frame: Vec<u8>) -> bool {
        let frame = Bytes::from(frame);
        let payload = frame.slice(HEADER_BYTES..);
        let next = self.offer(key, Payload::Shared(&payload));
        drop(payload);
        match next {
            Next::Hold | Next::Probe(_) => self.keep_again(key, frame.into(), 0),
            Next::Taken | Next::TakenThenHold | Next::Finished => {
                self.keep_again(key, Vec::new(), 0)
            }
        }
    }

    /// Keeps what is left behind the first `taken` bytes. Says whether no whole frame is among it.
    fn keep_again(&mut self, key: SessionKey, mut bytes: Vec<u8>, taken: usize) -> bool {
        bytes.drain(..taken);
        let Some(connection) = self.connection_mut(key) else { return false };
        connection.keep_vec(bytes);
        let may_go_on = !connection.has_whole_frame();
        let (bytes, missing) = connection.kept();
        self.router.buffered(key, bytes, missing);
        may_go_on
    }

    /// Offers every whole frame at the beginning of `bytes`; returns how many bytes were taken.
    fn offer_frames(&mut self, key: SessionKey, bytes: &[u8]) -> usize {
        let mut taken = 0;
        loop {
            match frame::decode(&bytes[taken..]) {
                Decoded::Incomplete { .. } => return taken,
                Decoded::Refused(error) => {
                    self.router.refuse_frame(key, error);
                    return bytes.len();
                }
                Decoded::Frame { payload, frame_bytes } => {
                    match self.offer(key, Payload::Borrowed(payload)) {
                        Next::Taken => {
                            taken += frame_bytes;
                            self.submit_early();
                        }
                        Next::TakenThenHold => return taken + frame_bytes,
                        Next::Hold | Next::Probe(_) => return taken,
                        Next::Finished => return bytes.len(),
                    }
                }
            }
        }
    }

    /// Lets the disk begin with what has been ordered, if that is worth a commit: this thread may be
    /// busy with the rest of a long turn for longer than that takes.
    fn submit_early(&mut self) {
        if let Some(orders) = self.router.take_orders(ORDERS_AT_ONCE) {
            for effect in orders {
                if let Effect::Store(ticket, order) = effect {
                    self.storage.order(ticket, order);
                }
            }
            self.storage.submit();
        }
    }

    fn offer(&mut self, key: SessionKey, payload: Payload<'_>) -> Next {
        match self.router.frame(key, payload, Probed::No) {
            Next::Probe(holder) => {
                self.probe(holder);
                self.router.frame(key, payload, Probed::Yes)
            }
            next => next,
        }
    }

    /// Lets the router have the last words of a session whose peer has hung up, and frees its name.
    fn probe(&mut self, key: SessionKey) {
        let Some(connection) = self.connection_mut(key) else { return };
        let hang_up = sys::hang_up(&connection.stream);
        if hang_up == HangUp::No {
            return;
        }
        connection.read_closed = true;
        connection.hung_up |= hang_up == HangUp::BothSides;
        let mut buffer = vec![0; PROBE_BYTES];
        while self.read(key, &mut buffer) > 0 {}
        // Its end is noticed where reading ends, now or when the session is not held any more.
        self.router.leaving(key);
    }

    // ---- writing --------------------------------------------------------------------------------

    fn write_dirty(&mut self) {
        let dirty = self.router.take_dirty();
        if !dirty.is_empty() {
            let at = self.moment();
            for key in &dirty {
                self.write(*key, at);
            }
        }
        self.router.recycle_dirty(dirty);
    }

    /// Writes what is queued for a session, as long as its socket takes it and the turn allows.
    fn write(&mut self, key: SessionKey, at: Moment) {
        for _ in 0..TURN_WRITES {
            let Some(Some(connection)) = self.connections.get_mut(key.index()) else { return };
            if connection.key != key || connection.write_is_lost {
                return;
            }
            let mut slices = [IoSlice::new(&[]); WRITE_SLICES];
            let (mut count, mut bytes) = (0, 0);
            for (slot, slice) in slices.iter_mut().zip(self.router.next_write(key)) {
                *slot = IoSlice::new(slice);
                bytes += slice.len();
                count += 1;
            }
            if count == 0 {
                return self.watch_for_writable(key, false);
            }
            match rustix::io::writev(connection.stream.as_fd(), &slices[..count]) {
                Ok(written) => {
                    self.router.written(key, written, at);
                    if written < bytes {
                        return self.on_write_blocked(key);
                    }
                }
                Err(Errno::AGAIN) => return self.on_write_blocked(key),
                Err(Errno::INTR) => {}
                Err(error) => return self.on_write_error(key, error),
            }
        }
        self.unwritten.push(key);
    }

    fn on_write_blocked(&mut self, key: SessionKey) {
        self.router.write_blocked(key);
        self.watch_for_writable(key, true);
    }

    /// The peer reads no more. What it sent before it closed may still wait to be read, or be held;
    /// its end is noticed there. If it only keeps its sending side open, it has nothing more to say.
    fn on_write_error(&mut self, key: SessionKey, error: Errno) {
        tracing::debug!(target: target::ROUTER, "write: {error}");
        let Some(connection) = self.connection_mut(key) else { return };
        connection.write_is_lost = true;
        connection.hung_up = true;
        connection.read_closed = true;
        let at_end = connection.at_end;
        self.router.deaf(key);
        if at_end || self.router.reading(key) == Reading::Over {
            self.router.closed(key, CloseReason::ConnectionLost);
        } else {
            self.make_ready(key);
        }
    }

    fn watch_for_writable(&mut self, key: SessionKey, wanted: bool) {
        let Some(Some(connection)) = self.connections.get_mut(key.index()) else { return };
        if connection.key != key || connection.watches_writable == wanted {
            return;
        }
        connection.watches_writable = wanted;
        let interest =
            if wanted { Interest::READABLE | Interest::WRITABLE } else { Interest::READABLE };
        let token = Token(key.index());
        let registry = self.poll.registry();
        if let Err(error) = registry.reregister(&mut connection.stream, token, interest) {
            tracing::error!(target: target::DOOR, "a connection cannot be watched: {error}");
            self.router.closed(key, CloseReason::ConnectionLost);
        }
    }

    // ---- effects --------------------------------------------------------------------------------

    fn carry_out_effects(&mut self) {
        for effect in self.router.take_effects() {
            match effect {
                Effect::Resume(key) => self.make_ready(key),
                Effect::Close(key, _) => drop(self.close(key)),
                Effect::Admin(key, payload) => self.on_admin(key, &payload),
                Effect::LookWhetherRead(key) => self.look_whether_read(key),
                Effect::Store(ticket, order) => self.storage.order(ticket, order),
                Effect::Trace(key, payload) => self.on_trace(key, &payload),
                Effect::Log(event) => self.event_log.log(event),
            }
        }
    }

    fn look_whether_read(&mut self, key: SessionKey) {
        // The error of a broken connection is told once, and may have been.
        let is_whole = |connection: &&Connection| !connection.write_is_lost && !connection.is_lost;
        let connection = self.connection(key).filter(is_whole);
        if connection.is_some_and(|connection| sys::has_read_everything(&connection.stream)) {
            self.router.has_read_all(key);
        }
    }

    /// Takes a connection out of the loop. It is closed when it is dropped.
    fn close(&mut self, key: SessionKey) -> Option<Connection> {
        let slot = self.connections.get_mut(key.index())?;
        slot.as_ref().filter(|connection| connection.key == key)?;
        let mut connection = slot.take()?;
        self.open_connections -= 1;
        // Closing removes it from the poll as well; an error here changes nothing.
        let _ = self.poll.registry().deregister(&mut connection.stream);
        Some(connection)
    }
}

//! A connection with both its ends: the client's, two bounded pipes, and what the driver keeps of it.

use std::collections::VecDeque;

use hermes_bus_core::{Credentials, SessionKey};
use hermes_bus_proto::frame::{self, Decoded};

use crate::character::{Client, Reads};
use crate::pipe::{Gauge, Pipe};
use crate::script::Then;

/// A place in the world's list of all connections that there ever were.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LinkId(pub(super) usize);

/// Sockets hold this much once the run is over and everybody does what they can.
const HEALED_BYTES_MAX: usize = 4 * 1024 * 1024;

/// A client's end of a connection.
#[derive(Debug)]
pub(super) struct FarEnd {
    /// Bytes that it still wants to send.
    wish: VecDeque<u8>,
    /// What it does when all of them are sent.
    then: Then,
    reads: Reads,
    /// What it sends at a time, if it does not send everything.
    drip_bytes: Option<usize>,
    /// What it still sends before it stops in the middle.
    quota_bytes: Option<usize>,
    /// It has ended its sending side.
    pub(super) write_shut: bool,
    /// It has ended its reading side.
    pub(super) read_shut: bool,
    /// It has closed.
    pub(super) closed: bool,
    /// It closes when it has got so many further bytes.
    dies_after: Option<usize>,
    /// It closed with bytes that it had not read: the bus hears of that once, behind what was sent.
    is_reset: bool,
}

/// A connection.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) client: u8,
    pub(super) credentials: Credentials,
    pub(super) far: FarEnd,
    pub(super) to_bus: Pipe,
    pub(super) from_bus: Gauge,
    /// Given when it was accepted.
    pub(super) key: Option<SessionKey>,
    /// The driver has carried out the close.
    pub(super) bus_closed: bool,
    /// An unfinished frame, or frames that the router does not take yet.
    pub(super) kept: Vec<u8>,
    pub(super) is_ready: bool,
    /// The driver has noticed that the peer ended its side.
    pub(super) read_closed: bool,
    /// The driver has noticed that the peer closed.
    pub(super) hung_up: bool,
    /// Everything has been read.
    pub(super) at_end: bool,
    pub(super) write_is_lost: bool,
    /// The socket took no more.
    pub(super) is_blocked: bool,
    /// The bus has ended its own receiving side.
    pub(super) bus_read_shut: bool,
}

/// Whether anything has happened since the clients were last at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Moment {
    Same,
    Next,
}

/// What came of a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Read {
    /// There may be more.
    Full(usize),
    /// Everything there was.
    Short(usize),
    /// Nothing for now.
    Nothing,
    /// The peer's end.
    End,
    /// The connection is broken.
    Lost,
}

impl Link {
    /// A client has connected, and waits to be accepted.
    pub(super) fn new(client: u8, traits: &Client, pid: u32) -> Self {
        Link {
            client,
            credentials: Credentials { uid: traits.uid, pid },
            far: FarEnd {
                wish: VecDeque::new(),
                then: Then::Wait,
                reads: traits.reads,
                drip_bytes: traits.drip_bytes.map(|bytes| bytes as usize),
                quota_bytes: None,
                write_shut: false,
                read_shut: false,
                closed: false,
                dies_after: None,
                is_reset: false,
            },
            to_bus: Pipe::new(traits.to_bus_bytes_max as usize),
            from_bus: Gauge::new(traits.from_bus_bytes_max as usize),
            key: None,
            bus_closed: false,
            kept: Vec::new(),
            is_ready: false,
            read_closed: false,
            hung_up: false,
            at_end: false,
            write_is_lost: false,
            is_blocked: false,
            bus_read_shut: false,
        }
    }

    // ---- the client's end -------------------------------------------------------------------------

    /// Whether the client can still say something.
    pub(super) fn can_send(&self) -> bool {
        let has_ended = self.far.write_shut || self.far.closed || self.far.then != Then::Wait;
        !has_ended && !self.bus_closed
    }

    /// Whether nobody has left.
    pub(super) fn is_open(&self) -> bool {
        !self.far.closed && !self.bus_closed
    }

    /// Bytes that the client still wants to send.
    pub(super) fn wished_bytes(&self) -> usize {
        self.far.wish.len()
    }

    /// The client wants to send these bytes.
    pub(super) fn wish(&mut self, bytes: &[u8]) {
        self.far.wish.extend(bytes);
    }

    /// What the client does when everything is sent.
    pub(super) fn then(&mut self, then: Then) {
        self.far.then = then;
        self.end_when_done();
    }

    /// What the client has not sent yet is not sent any more.
    pub(super) fn give_up(&mut self) {
        self.far.wish = VecDeque::new();
    }

    /// How the client reads from now on.
    pub(super) fn reads(&mut self, reads: Reads) {
        self.far.reads = reads;
    }

    /// Whether the client takes whatever comes.
    pub(super) fn reads_everything(&self) -> bool {
        self.far.reads == Reads::Everything && !self.far.read_shut
    }

    /// How much the client sends at a time from now on; none: everything.
    pub(super) fn drip(&mut self, bytes: Option<usize>) {
        self.far.drip_bytes = bytes;
    }

    /// After how many bytes the client stops in the middle.
    pub(super) fn pause_after(&mut self, bytes: Option<usize>) {
        self.far.quota_bytes = bytes;
    }

    /// The client closes when it has got so many further bytes.
    pub(super) fn die_after(&mut self, bytes: usize) {
        self.far.dies_after = Some(bytes);
    }

    /// How much the socket takes now.
    pub(super) fn room(&self) -> usize {
        self.from_bus.room().min(self.far.dies_after.unwrap_or(usize::MAX))
    }

    /// So many bytes were written to the client.
    pub(super) fn deliver(&mut self, bytes: usize) {
        self.from_bus.write(bytes);
        if let Some(left) = &mut self.far.dies_after {
            *left -= bytes;
            if *left == 0 {
                self.close();
            }
        }
    }

    /// The client does from now on all that it can.
    pub(super) fn heal(&mut self) {
        self.far.reads = Reads::Everything;
        self.far.drip_bytes = None;
        self.far.quota_bytes = None;
        self.far.dies_after = None;
        self.to_bus.set_bytes_max(HEALED_BYTES_MAX);
        self.from_bus.set_bytes_max(HEALED_BYTES_MAX);
    }

    /// The client reads once.
    pub(super) fn read_at_far_end(&mut self, bytes_max: usize) -> usize {
        if self.far.closed || self.far.read_shut { 0 } else { self.from_bus.read(bytes_max) }
    }

    /// The client reads and sends as it does by itself; what it does little by little, it does only
    /// if a `moment` has gone by. Says whether anything moved.
    pub(super) fn pump(&mut self, moment: Moment) -> bool {
        if self.far.closed {
            return false;
        }
        let read = match self.far.reads {
            Reads::Everything => self.read_at_far_end(usize::MAX),
            Reads::Some(bytes) if moment == Moment::Next => self.read_at_far_end(bytes as usize),
            Reads::Some(_) | Reads::Nothing => 0,
        };
        let sent = match self.far.drip_bytes {
            Some(_) if moment == Moment::Same => 0,
            _ => self.send(),
        };
        read > 0 || sent > 0
    }

    /// Puts into the pipe what the client wants to send, and there is room for.
    fn send(&mut self) -> usize {
        if self.far.write_shut {
            return 0;
        }
        if self.bus_closed || self.bus_read_shut {
            // The write fails.
            self.far.wish = VecDeque::new();
        }
        if self.far.wish.is_empty() {
            self.end_when_done();
            return 0;
        }
        let drip = self.far.drip_bytes.unwrap_or(usize::MAX);
        let at_most = self.far.quota_bytes.unwrap_or(usize::MAX).min(drip);
        let front = self.far.wish.as_slices().0;
        let mut sent = self.to_bus.write(&front[..front.len().min(at_most)]);
        self.far.wish.drain(..sent);
        // The ring's other half.
        let rest = self.far.wish.as_slices().0;
        let more = self.to_bus.write(&rest[..rest.len().min(at_most - sent)]);
        self.far.wish.drain(..more);
        sent += more;
        if let Some(quota) = &mut self.far.quota_bytes {
            *quota -= sent;
        }
        if sent > 0 && !self.bus_closed && self.key.is_some() {
            self.is_ready = true;
        }
        self.end_when_done();
        sent
    }

    fn end_when_done(&mut self) {
        if !self.far.wish.is_empty() || self.far.closed {
            return;
        }
        match self.far.then {
            Then::Wait => {}
            Then::HalfClose => self.far.write_shut = true,
            Then::Close => self.close(),
        }
    }

    /// The client closes.
    pub(super) fn close(&mut self) {
        self.far.is_reset = !self.from_bus.is_empty() && !self.far.read_shut;
        self.far.closed = true;
        self.far.write_shut = true;
        self.far.wish = VecDeque::new();
    }

    // ---- the bus's end ----------------------------------------------------------------------------

    /// Whether the client has ended its side.
    pub(super) fn peer_has_ended(&self) -> bool {
        self.far.write_shut || self.far.closed
    }

    /// Whether a write fails.
    pub(super) fn write_fails(&self) -> bool {
        self.far.closed || self.far.read_shut
    }

    /// Reads once, behind what is kept.
    pub(super) fn receive(&mut self, bytes_max: usize) -> Read {
        let bytes = self.to_bus.read(&mut self.kept, bytes_max);
        if bytes == bytes_max {
            Read::Full(bytes)
        } else if bytes > 0 {
            Read::Short(bytes)
        } else if std::mem::take(&mut self.far.is_reset) {
            Read::Lost
        } else if self.peer_has_ended() || self.bus_read_shut {
            Read::End
        } else {
            Read::Nothing
        }
    }

    /// Whether what is kept begins with a whole frame, or with what can never be one.
    pub(super) fn has_whole_frame(&self) -> bool {
        !matches!(frame::decode(&self.kept), Decoded::Incomplete { .. })
    }

    /// What the unfinished frame in front lacks.
    pub(super) fn missing(&self) -> Option<usize> {
        frame::missing(&self.kept)
    }

    /// It leaves this process of the bus, to be accepted by the next one.
    pub(super) fn move_out(&mut self) {
        self.key = None;
        self.is_ready = false;
        self.is_blocked = false;
        self.read_closed = false;
        self.hung_up = false;
        self.at_end = false;
        self.write_is_lost = false;
    }

    /// The driver lets go of it.
    pub(super) fn close_at_the_bus(&mut self) {
        self.bus_closed = true;
        self.is_ready = false;
        self.is_blocked = false;
        self.kept = Vec::new();
        self.to_bus.clear();
        self.far.wish = VecDeque::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::character::{OWNER, Temper};

    fn link(reads: Reads) -> Link {
        let traits = Client {
            temper: Temper::Receiver,
            uid: OWNER,
            to_bus_bytes_max: 4,
            from_bus_bytes_max: 4,
            reads,
            drip_bytes: None,
        };
        Link::new(0, &traits, 1)
    }

    #[test]
    fn what_there_is_no_room_for_is_sent_later_and_then_the_side_ends() {
        let mut link = link(Reads::Nothing);
        link.wish(b"abcdef");
        link.then(Then::HalfClose);
        assert!(link.pump(Moment::Next));
        assert!(!link.peer_has_ended());
        assert_eq!(link.receive(3), Read::Full(3));
        assert!(link.pump(Moment::Next));
        assert!(link.peer_has_ended() && !link.far.closed);
        assert_eq!((link.receive(9), link.receive(9)), (Read::Short(3), Read::End));
        assert_eq!(link.kept, b"abcdef");
    }

    #[test]
    fn a_pause_stops_in_the_middle_until_it_flows_again() {
        let mut link = link(Reads::Nothing);
        link.wish(b"abcdef");
        link.pause_after(Some(2));
        assert!(link.pump(Moment::Next));
        assert!(!link.pump(Moment::Next));
        assert_eq!((link.receive(9), link.receive(9)), (Read::Short(2), Read::Nothing));
        link.pause_after(None);
        assert!(link.pump(Moment::Next));
        assert_eq!(link.receive(9), Read::Short(4));
    }

    #[test]
    fn what_drips_comes_byte_by_byte() {
        let mut link = link(Reads::Nothing);
        link.wish(b"abc");
        link.drip(Some(1));
        for byte in [1, 2, 3] {
            assert!(link.pump(Moment::Next) && !link.pump(Moment::Same));
            assert_eq!(link.to_bus.len(), byte);
        }
    }

    #[test]
    fn who_closes_with_unread_bytes_resets_behind_what_was_sent() {
        let mut link = link(Reads::Nothing);
        link.from_bus.write(1);
        link.wish(b"ab");
        link.pump(Moment::Next);
        link.close();
        assert!(link.write_fails());
        assert_eq!(link.receive(9), Read::Short(2));
        assert_eq!((link.receive(9), link.receive(9)), (Read::Lost, Read::End));
    }

    #[test]
    fn who_closes_with_everything_read_just_ends() {
        let mut link = link(Reads::Everything);
        link.from_bus.write(1);
        link.pump(Moment::Next);
        link.then(Then::Close);
        assert!(link.far.closed);
        assert_eq!(link.receive(9), Read::End);
    }
}

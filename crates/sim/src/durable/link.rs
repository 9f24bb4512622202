//! A connection: both ends of its socket, what its client does with it, and what the driver keeps.

use std::collections::VecDeque;

use hermes_bus_core::{Credentials, SessionKey};
use hermes_bus_proto::frame;

use super::script::Join;
use crate::pipe::Pipe;

/// A frame that is being written to a client.
#[derive(Debug, Default)]
pub(super) struct Writing {
    pub(super) bytes: Vec<u8>,
    pub(super) began_us: u64,
}

/// See the module's description.
pub(super) struct Link {
    pub(super) client: usize,
    pub(super) credentials: Credentials,
    pub(super) key: Option<SessionKey>,
    /// What the client has said and its socket has not taken.
    pub(super) outgoing: VecDeque<u8>,
    pub(super) to_bus: Pipe,
    pub(super) from_bus: Pipe,
    /// What the driver keeps of the client's bytes.
    pub(super) kept: Vec<u8>,
    /// The end of what was written to the client.
    pub(super) writing: Writing,
    /// What the client has read of an unfinished frame.
    pub(super) incoming: Vec<u8>,
    pub(super) reads_on: bool,
    pub(super) acks_at_once: bool,
    /// What it asked for, as far as it did, and whether it got it.
    pub(super) join: Option<Join>,
    /// What waited on disk for its name just before it asked, and behind it.
    pub(super) depths: Option<(u64, u64)>,
    /// It has asked to look on.
    pub(super) looks: bool,
    pub(super) is_registered: bool,
    /// It has been told to close when it has said everything.
    pub(super) closes_then: bool,
    /// The client has closed, the bus has.
    pub(super) far_closed: bool,
    pub(super) bus_closed: bool,
    /// The driver knows that the client has closed, and has read everything.
    pub(super) hung_up: bool,
    pub(super) at_end: bool,
    pub(super) write_is_lost: bool,
    /// Messages that it holds, by `seq`, with their ids.
    pub(super) holds: Vec<(u64, Option<String>)>,
}

impl Link {
    /// What the unfinished frame in front lacks.
    pub(super) fn missing(&self) -> Option<usize> {
        frame::missing(&self.kept)
    }

    /// Bytes that its socket takes from the bus.
    pub(super) fn says(&mut self, json: &str) {
        let mut bytes = Vec::new();
        frame::append(&mut bytes, |out| out.extend_from_slice(json.as_bytes()));
        self.outgoing.extend(bytes);
    }

    /// Moves what was said into the socket. Says whether anything moved.
    pub(super) fn send(&mut self) -> bool {
        if self.far_closed {
            return false;
        }
        let waiting = self.outgoing.make_contiguous();
        let taken = self.to_bus.write(waiting);
        self.outgoing.drain(..taken);
        if self.closes_then && self.outgoing.is_empty() {
            self.close();
        }
        taken > 0
    }

    /// The client closes. What it has not read is lost.
    pub(super) fn close(&mut self) {
        self.far_closed = true;
        self.outgoing.clear();
        self.from_bus.clear();
        self.incoming.clear();
    }
}

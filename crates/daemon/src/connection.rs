//! One accepted connection: its socket, and the bytes that have arrived and are no message yet.

use std::os::fd::AsFd;

use hermes_bus_core::SessionKey;
use hermes_bus_proto::frame::{self, Decoded};
use mio::net::UnixStream;
use rustix::io::Errno;

/// Frames over this size get memory of their own, which goes to the receivers without a copy.
pub(crate) const LARGE_FRAME_BYTES: usize = 64 * 1024;
/// Memory for a large frame grows at least in such steps, and never beyond the frame's end.
const GROWTH_BYTES: usize = 256 * 1024;

/// A connection. Idle, it holds no buffer.
pub(crate) struct Connection {
    pub(crate) key: SessionKey,
    pub(crate) stream: UnixStream,
    /// An unfinished frame, or frames that the router does not take yet.
    kept: Vec<u8>,
    /// Stands in the driver's list of those that may have something to read.
    pub(crate) is_ready: bool,
    /// The peer has ended its side; what it sent before may still be unread.
    pub(crate) read_closed: bool,
    /// The peer has closed both directions.
    pub(crate) hung_up: bool,
    /// Everything has been read.
    pub(crate) at_end: bool,
    /// Reading failed: what the peer has not read is gone.
    pub(crate) is_lost: bool,
    /// Writing failed: the peer reads no more.
    pub(crate) write_is_lost: bool,
    /// Registered for writable readiness, because the socket took no more.
    pub(crate) watches_writable: bool,
}

/// What came of a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Read {
    /// All there was room for: there may be more.
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

impl Read {
    pub(crate) fn bytes(self) -> usize {
        match self {
            Read::Full(bytes) | Read::Short(bytes) => bytes,
            Read::Nothing | Read::End | Read::Lost => 0,
        }
    }

    fn from(result: Result<usize, Errno>, room: usize) -> Self {
        match result {
            Ok(0) => Read::End,
            Ok(bytes) if bytes == room => Read::Full(bytes),
            Ok(bytes) => Read::Short(bytes),
            Err(Errno::AGAIN) => Read::Nothing,
            Err(Errno::INTR) => Read::Full(0),
            Err(_) => Read::Lost,
        }
    }
}

impl Connection {
    pub(crate) fn new(key: SessionKey, stream: UnixStream) -> Self {
        Connection {
            key,
            stream,
            kept: Vec::new(),
            is_ready: false,
            read_closed: false,
            hung_up: false,
            at_end: false,
            is_lost: false,
            write_is_lost: false,
            watches_writable: false,
        }
    }

    /// Reads once into `buffer`, which is not empty.
    pub(crate) fn read_into(&mut self, buffer: &mut [u8]) -> Read {
        let room = buffer.len();
        Read::from(rustix::io::read(self.stream.as_fd(), buffer), room)
    }

    /// The size of the unfinished frame that is kept, if it is a large one.
    pub(crate) fn large_frame_bytes(&self) -> Option<usize> {
        match frame::decode(&self.kept) {
            Decoded::Incomplete { frame_bytes } => {
                Some(frame_bytes).filter(|bytes| *bytes > LARGE_FRAME_BYTES)
            }
            _ => None,
        }
    }

    /// Reads on in a large frame, at most to its end. Memory grows as bytes arrive: at most to
    /// double of what has arrived.
    pub(crate) fn read_large(&mut self, bytes_max: usize) -> Read {
        let Some(frame_bytes) = self.large_frame_bytes() else { return Read::Nothing };
        let arrived = self.kept.len();
        let step = GROWTH_BYTES.min(bytes_max).min(frame_bytes - arrived);
        if self.kept.capacity() - arrived < step {
            let grown = (2 * arrived).max(arrived + step).min(frame_bytes);
            self.kept.reserve_exact(grown - arrived);
        }
        let room = self.kept.capacity() - arrived;
        let spare = rustix::buffer::spare_capacity(&mut self.kept);
        Read::from(rustix::io::read(self.stream.as_fd(), spare), room)
    }

    /// Moves what is kept to the beginning of `buffer`; returns how much that is. Only an unfinished
    /// frame that is not large is moved.
    pub(crate) fn take_kept_into(&mut self, buffer: &mut [u8]) -> usize {
        let kept = self.kept.len();
        buffer[..kept].copy_from_slice(&self.kept);
        self.kept.clear();
        kept
    }

    /// Takes all that is kept.
    pub(crate) fn take_kept(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.kept)
    }

    /// Keeps a copy of `bytes`, and nothing else.
    pub(crate) fn keep(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            self.kept = Vec::new();
        } else {
            self.kept.clear();
            self.kept.extend_from_slice(bytes);
        }
    }

    /// Keeps these bytes, and nothing else.
    pub(crate) fn keep_vec(&mut self, bytes: Vec<u8>) {
        self.kept = bytes;
    }

    /// Whether the bytes that are kept begin with a whole frame.
    pub(crate) fn has_whole_frame(&self) -> bool {
        !matches!(frame::decode(&self.kept), Decoded::Incomplete { .. })
    }

    /// Memory that is kept, and what the unfinished frame in front still lacks.
    pub(crate) fn kept(&self) -> (usize, Option<usize>) {
        (self.kept.capacity(), frame::missing(&self.kept))
    }
}

#[cfg(test)]
mod tests {
    use hermes_bus_proto::limits::HEADER_BYTES;

    use super::*;
    use std::io::Write;

    fn pair() -> (Connection, std::os::unix::net::UnixStream) {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().expect("a socket pair");
        ours.set_nonblocking(true).expect("a socket");
        let router_key = {
            let mut router = hermes_bus_core::Router::new(Default::default(), 0);
            router.connected(hermes_bus_core::Credentials { uid: 0, pid: 1 })
        };
        (Connection::new(router_key, UnixStream::from_std(ours)), theirs)
    }

    #[test]
    fn memory_for_a_large_frame_grows_with_what_arrives_and_not_with_what_is_announced() {
        let (mut connection, mut peer) = pair();
        let announced = 10 * 1024 * 1024;
        connection.keep(&frame::header(announced));
        peer.write_all(&[b' '; 1000]).expect("room in the socket");
        assert_eq!(connection.read_large(READ_ALL), Read::Short(1000));
        let (memory, missing) = connection.kept();
        assert!(memory <= 4 + GROWTH_BYTES, "{memory} bytes for 1,004");
        assert_eq!(missing, Some(announced - 1000));
        let frame = announced + HEADER_BYTES;
        for _ in 0..1000 {
            if connection.kept().1.is_none() {
                break;
            }
            let room = connection.kept().1.unwrap_or(0).min(100_000);
            peer.write_all(&vec![b' '; room]).expect("room in the socket");
            let (Read::Full(_) | Read::Short(_)) = connection.read_large(READ_ALL) else {
                panic!("bytes were there to be read")
            };
            let (memory, _) = connection.kept();
            assert!(memory <= frame, "never beyond the frame's end");
            assert!(memory <= 2 * connection.kept.len().max(GROWTH_BYTES));
        }
        assert!(connection.has_whole_frame());
        assert_eq!(connection.take_kept().len(), frame);
    }

    const READ_ALL: usize = 256 * 1024;
}

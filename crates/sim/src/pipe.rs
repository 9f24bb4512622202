//! One direction of a socket: a bounded buffer.

use std::collections::VecDeque;

/// Bytes on their way to the bus.
#[derive(Debug, Default)]
pub struct Pipe {
    bytes: VecDeque<u8>,
    bytes_max: usize,
}

impl Pipe {
    /// A pipe that holds so many bytes, at least one.
    pub fn new(bytes_max: usize) -> Self {
        Pipe { bytes: VecDeque::new(), bytes_max: bytes_max.max(1) }
    }

    /// What it holds from now on. What is in it already stays.
    pub fn set_bytes_max(&mut self, bytes_max: usize) {
        self.bytes_max = bytes_max.max(1);
    }

    /// Bytes that wait to be read.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether nothing waits to be read.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Takes as many bytes as there is room for; says how many.
    pub fn write(&mut self, bytes: &[u8]) -> usize {
        let room = self.bytes_max.saturating_sub(self.bytes.len());
        let taken = bytes.len().min(room);
        self.bytes.extend(&bytes[..taken]);
        taken
    }

    /// Appends at most `bytes_max` bytes to `out`; says how many.
    pub fn read(&mut self, out: &mut Vec<u8>, bytes_max: usize) -> usize {
        let taken = self.bytes.len().min(bytes_max);
        let (front, back) = self.bytes.as_slices();
        let of_front = taken.min(front.len());
        out.extend_from_slice(&front[..of_front]);
        out.extend_from_slice(&back[..taken - of_front]);
        self.bytes.drain(..taken);
        taken
    }

    /// Drops what is in it.
    pub fn clear(&mut self) {
        self.bytes = VecDeque::new();
    }
}

/// Bytes on their way to a client. The model has seen them when they were written: how many they are is
/// all that counts here.
#[derive(Clone, Copy, Debug, Default)]
pub struct Gauge {
    bytes: usize,
    bytes_max: usize,
}

impl Gauge {
    /// A gauge of a pipe that holds so many bytes, at least one.
    pub fn new(bytes_max: usize) -> Self {
        Gauge { bytes: 0, bytes_max: bytes_max.max(1) }
    }

    /// What the pipe holds from now on. What is in it already stays.
    pub fn set_bytes_max(&mut self, bytes_max: usize) {
        self.bytes_max = bytes_max.max(1);
    }

    /// Bytes that may still be written.
    pub fn room(&self) -> usize {
        self.bytes_max.saturating_sub(self.bytes)
    }

    /// Whether nothing waits to be read.
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// So many bytes were written: no more than there was room for.
    pub fn write(&mut self, bytes: usize) {
        self.bytes += bytes;
    }

    /// At most so many bytes are read; says how many there were.
    pub fn read(&mut self, bytes_max: usize) -> usize {
        let taken = self.bytes.min(bytes_max);
        self.bytes -= taken;
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pipe_takes_what_there_is_room_for_and_gives_it_in_order() {
        let mut pipe = Pipe::new(5);
        let mut out = Vec::new();
        assert_eq!(pipe.write(b"abcdefg"), 5);
        assert_eq!(pipe.write(b"h"), 0);
        assert_eq!(pipe.read(&mut out, 2), 2);
        assert_eq!(pipe.write(b"fgh"), 2);
        assert_eq!(pipe.read(&mut out, usize::MAX), 5);
        assert_eq!((out.as_slice(), pipe.len()), (&b"abcdefg"[..], 0));
    }

    #[test]
    fn a_pipe_that_becomes_smaller_keeps_what_is_in_it() {
        let mut pipe = Pipe::new(8);
        assert_eq!(pipe.write(b"12345678"), 8);
        pipe.set_bytes_max(3);
        assert_eq!(pipe.write(b"9"), 0);
        let mut out = Vec::new();
        assert_eq!(pipe.read(&mut out, 6), 6);
        assert_eq!(pipe.write(b"9ab"), 1);
    }

    #[test]
    fn a_pipe_without_room_takes_one_byte_at_a_time() {
        let mut pipe = Pipe::new(0);
        assert_eq!(pipe.write(b"ab"), 1);
    }

    #[test]
    fn a_gauge_counts_as_the_pipe_would() {
        let mut gauge = Gauge::new(4);
        gauge.write(3);
        assert_eq!((gauge.room(), gauge.is_empty()), (1, false));
        assert_eq!(gauge.read(2), 2);
        assert_eq!(gauge.room(), 3);
        assert_eq!(gauge.read(9), 1);
        assert!(gauge.is_empty());
    }
}

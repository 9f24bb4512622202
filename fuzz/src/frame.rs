//! Any bytes as what arrives on a connection, in pieces whose sizes are part of the input: the frames
//! that are found, and the first mistake, do not depend on the pieces.
//!
//! The first byte says how many sizes follow (its lower four bits), then the sizes, one byte each, of
//! the pieces in turn; the rest is the stream. Every stream is also read in one piece and byte by byte.

use std::cell::RefCell;
use std::ops::Range;

use hermes_bus_proto::FrameError;
use hermes_bus_proto::frame::{self, Decoded};

const HEADER_BYTES: usize = 4;
/// PROTOCOL.md: 10 × 1024 × 1024 bytes of JSON.
const PAYLOAD_BYTES_MAX: usize = 10_485_760;

/// Reads the stream in `input` in several ways.
pub fn check(input: &[u8]) {
    let Some((count, rest)) = input.split_first() else { return };
    let (sizes, stream) = rest.split_at(usize::from(count & 0x0f).min(rest.len()));
    let whole = read(stream, std::iter::once(stream.len()));
    if !sizes.is_empty() {
        let pieces = sizes.iter().cycle().map(|size| usize::from(*size).max(1));
        assert_eq!(read(stream, pieces), whole, "pieces of {sizes:?}");
    }
    assert_eq!(read(stream, std::iter::repeat(1)), whole, "byte by byte");
    write_again(stream, &whole);
    if let End::Incomplete { frame_bytes } = whole.end {
        complete(&stream[whole.begins_last()..], frame_bytes);
    }
}

/// What was found in a stream.
#[derive(Debug, PartialEq, Eq)]
struct Found {
    /// Where the payloads stand.
    payloads: Vec<Range<usize>>,
    end: End,
}

/// What stands behind the last whole frame.
#[derive(Debug, PartialEq, Eq)]
enum End {
    Incomplete { frame_bytes: usize },
    Refused(FrameError),
}

impl Found {
    /// Where the last whole frame has ended, and the next one begins.
    fn begins_last(&self) -> usize {
        self.payloads.last().map_or(0, |payload| payload.end)
    }
}

/// Reads a stream as a connection does, with a buffer that grows by pieces of `sizes`. Nothing follows
/// the last size.
fn read(stream: &[u8], sizes: impl Iterator<Item = usize>) -> Found {
    let mut found =
        Found { payloads: Vec::new(), end: End::Incomplete { frame_bytes: HEADER_BYTES } };
    let mut arrived = 0;
    for size in sizes {
        arrived = (arrived + size).min(stream.len());
        found.end = loop {
            let begin = found.begins_last();
            let buffer = &stream[begin..arrived];
            let decoded = frame::decode(buffer);
            assert_eq!(
                decoded,
                expected(buffer),
                "at byte {begin} of which {} are there",
                buffer.len()
            );
            match decoded {
                Decoded::Frame { frame_bytes, .. } => {
                    found.payloads.push(begin + HEADER_BYTES..begin + frame_bytes);
                }
                Decoded::Incomplete { frame_bytes } => break End::Incomplete { frame_bytes },
                Decoded::Refused(error) => break End::Refused(error),
            }
        };
        if arrived == stream.len() || matches!(found.end, End::Refused(_)) {
            break;
        }
    }
    found
}

/// PROTOCOL.md once more, in other words.
fn expected(buffer: &[u8]) -> Decoded<'_> {
    if buffer.len() < HEADER_BYTES {
        return Decoded::Incomplete { frame_bytes: HEADER_BYTES };
    }
    let (header, rest) = buffer.split_at(HEADER_BYTES);
    match header.iter().fold(0, |length, byte| length * 256 + usize::from(*byte)) {
        0 => Decoded::Refused(FrameError::Empty),
        length @ 1..=PAYLOAD_BYTES_MAX if rest.len() >= length => {
            Decoded::Frame { payload: &rest[..length], frame_bytes: HEADER_BYTES + length }
        }
        length @ 1..=PAYLOAD_BYTES_MAX => {
            Decoded::Incomplete { frame_bytes: HEADER_BYTES + length }
        }
        length => Decoded::Refused(FrameError::TooLarge { payload_bytes: length }),
    }
}

/// The payloads, written as frames, are the stream up to where the last whole frame ends.
fn write_again(stream: &[u8], found: &Found) {
    let mut written = Vec::with_capacity(stream.len());
    for payload in &found.payloads {
        frame::append(&mut written, |out| out.extend_from_slice(&stream[payload.clone()]));
    }
    assert_eq!(written, stream[..found.begins_last()]);
}

/// What was said to be missing is missing to the last byte, and makes a whole frame.
fn complete(unfinished: &[u8], frame_bytes: usize) {
    thread_local! {
        /// Room for the largest frame, and a byte that is too much.
        static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![b' '; HEADER_BYTES + PAYLOAD_BYTES_MAX + 1]);
    }
    assert!(frame_bytes > unfinished.len() && frame_bytes <= HEADER_BYTES + PAYLOAD_BYTES_MAX);
    if unfinished.len() < HEADER_BYTES {
        return;
    }
    assert_eq!(frame::header(frame_bytes - HEADER_BYTES), unfinished[..HEADER_BYTES]);
    BUFFER.with_borrow_mut(|buffer| {
        buffer[..unfinished.len()].copy_from_slice(unfinished);
        assert_eq!(frame::decode(&buffer[..frame_bytes - 1]), Decoded::Incomplete { frame_bytes });
        for bytes in [frame_bytes, frame_bytes + 1] {
            let payload = &buffer[HEADER_BYTES..frame_bytes];
            // Compared by place: the bytes are up to 10 MiB.
            match frame::decode(&buffer[..bytes]) {
                Decoded::Frame { payload: found, frame_bytes: taken } => {
                    assert!(std::ptr::eq(found, payload) && taken == frame_bytes);
                }
                other => panic!("{bytes} of {frame_bytes} bytes are there: {other:?}"),
            }
        }
        buffer[..unfinished.len()].fill(b' ');
    });
}

//! Finding whole frames in a byte buffer: a 4-byte big-endian length, then that many bytes of JSON.
//!
//! Pure and incremental: the caller keeps the bytes, [`decode`] looks at their beginning. "Not
//! enough bytes yet" is an ordinary, cheap outcome. Nothing is ever allocated by an announced size.

use alloc::vec::Vec;

use crate::limits::{ADDED_BYTES_MAX, HEADER_BYTES, PAYLOAD_BYTES_MAX};
use crate::{ErrorCode, envelope::Malformed};

/// What stands at the beginning of a buffer.
#[derive(Debug, PartialEq, Eq)]
pub enum Decoded<'a> {
    /// A whole frame. `payload` is its JSON; the frame takes the first `frame_bytes` of the buffer.
    Frame {
        /// The bytes after the header.
        payload: &'a [u8],
        /// Header and payload together.
        frame_bytes: usize,
    },
    /// The frame is not complete. It is known to need `frame_bytes` from the buffer's beginning:
    /// the header alone as long as that is incomplete.
    Incomplete {
        /// Bytes needed, counted from the beginning of the buffer.
        frame_bytes: usize,
    },
    /// These bytes can never become a frame; the connection is beyond repair.
    Refused(FrameError),
}

/// Why a frame, or what it holds, is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The header announced no bytes.
    #[error("a frame of 0 bytes holds no JSON object")]
    Empty,
    /// The header announced more than [`PAYLOAD_BYTES_MAX`].
    #[error("a frame of {payload_bytes} bytes is over the limit of {PAYLOAD_BYTES_MAX} bytes")]
    TooLarge {
        /// What the header announced.
        payload_bytes: usize,
    },
    /// The payload is not JSON.
    #[error("invalid JSON at byte {}: {}", .0.at, .0.reason)]
    NotJson(Malformed),
    /// The payload is JSON, but not an object.
    #[error("a frame must hold a JSON object, not {0}")]
    NotAnObject(&'static str),
}

impl FrameError {
    /// The code that the peer is told.
    pub fn code(&self) -> ErrorCode {
        match self {
            FrameError::Empty | FrameError::NotAnObject(_) => ErrorCode::InvalidFrame,
            FrameError::TooLarge { .. } => ErrorCode::FrameTooLarge,
            FrameError::NotJson(_) => ErrorCode::InvalidJson,
        }
    }
}

/// Looks at the beginning of `buffer`. Does not look inside the payload.
#[inline]
pub fn decode(buffer: &[u8]) -> Decoded<'_> {
    decode_within(buffer, PAYLOAD_BYTES_MAX)
}

/// The same with another limit for the payload, in bytes: what a level 2 session receives may be
/// larger than what anybody may send.
#[inline]
pub fn decode_within(buffer: &[u8], payload_bytes_max: usize) -> Decoded<'_> {
    let Some((header, rest)) = buffer.split_first_chunk::<HEADER_BYTES>() else {
        return Decoded::Incomplete { frame_bytes: HEADER_BYTES };
    };
    let payload_bytes = u32::from_be_bytes(*header) as usize;
    if payload_bytes == 0 {
        return Decoded::Refused(FrameError::Empty);
    }
    if payload_bytes > payload_bytes_max {
        return Decoded::Refused(FrameError::TooLarge { payload_bytes });
    }
    let frame_bytes = HEADER_BYTES + payload_bytes;
    match rest.get(..payload_bytes) {
        Some(payload) => Decoded::Frame { payload, frame_bytes },
        None => Decoded::Incomplete { frame_bytes },
    }
}

/// Bytes that the unfinished frame at the beginning of `buffer` lacks: those of its header alone as long
/// as that is incomplete. None if nothing is there, or no unfinished frame.
pub fn missing(buffer: &[u8]) -> Option<usize> {
    match decode(buffer) {
        Decoded::Incomplete { frame_bytes } if !buffer.is_empty() => {
            Some(frame_bytes - buffer.len())
        }
        _ => None,
    }
}

/// The header of a frame with `payload_bytes` of JSON. The caller keeps within
/// [`PAYLOAD_BYTES_MAX`], and for a level 2 session within [`ADDED_BYTES_MAX`] more.
#[inline]
pub fn header(payload_bytes: usize) -> [u8; HEADER_BYTES] {
    let max = PAYLOAD_BYTES_MAX + ADDED_BYTES_MAX;
    debug_assert!(payload_bytes <= max, "a frame over the limit leaves the bus");
    (payload_bytes as u32).to_be_bytes()
}

/// Appends a frame to `out` whose payload `write` appends, and fills in its header.
pub fn append(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[0; HEADER_BYTES]);
    write(out);
    let payload_bytes = out.len() - start - HEADER_BYTES;
    out[start..start + HEADER_BYTES].copy_from_slice(&header(payload_bytes));
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_header_that_is_not_there_yet_asks_for_itself_only() {
        for have in 0..HEADER_BYTES {
            assert_eq!(decode(&[0xff; 4][..have]), Decoded::Incomplete { frame_bytes: 4 });
        }
    }

    #[test]
    fn what_is_missing_is_known_for_unfinished_frames_only() {
        assert_eq!(missing(&[]), None);
        assert_eq!(missing(&[0, 0]), Some(2), "the rest of the header");
        assert_eq!(missing(&[0, 0, 0, 3, b'{']), Some(2));
        assert_eq!(missing(&[0, 0, 0, 2, b'{', b'}', 0]), None, "a whole one is in front");
        assert_eq!(missing(&[0, 0, 0, 0]), None, "it can never be a frame");
    }

    #[test]
    fn zero_and_over_long_lengths_are_refused_by_the_header_alone() {
        assert_eq!(decode(&[0, 0, 0, 0]), Decoded::Refused(FrameError::Empty));
        let over = (PAYLOAD_BYTES_MAX as u32 + 1).to_be_bytes();
        let error = FrameError::TooLarge { payload_bytes: PAYLOAD_BYTES_MAX + 1 };
        assert_eq!(decode(&over), Decoded::Refused(error));
        assert_eq!(error.code(), ErrorCode::FrameTooLarge);
        let limit = (PAYLOAD_BYTES_MAX as u32).to_be_bytes();
        assert_eq!(decode(&limit), Decoded::Incomplete { frame_bytes: PAYLOAD_BYTES_MAX + 4 });
    }

    proptest! {
        #[test]
        fn frames_come_out_as_they_went_in_wherever_the_stream_is_cut(
            payloads in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..300), 1..20),
            cuts in proptest::collection::vec(1usize..97, 1..40),
        ) {
            let mut stream = Vec::new();
            for payload in &payloads {
                append(&mut stream, |out| out.extend_from_slice(payload));
            }
            let (mut buffer, mut seen, mut fed) = (Vec::new(), Vec::new(), 0);
            for cut in cuts.iter().cycle() {
                let until = (fed + cut).min(stream.len());
                buffer.extend_from_slice(&stream[fed..until]);
                fed = until;
                loop {
                    match decode(&buffer) {
                        Decoded::Frame { payload, frame_bytes } => {
                            seen.push(payload.to_vec());
                            buffer.drain(..frame_bytes);
                        }
                        Decoded::Incomplete { frame_bytes } => {
                            prop_assert!(frame_bytes > buffer.len());
                            break;
                        }
                        Decoded::Refused(error) => prop_assert!(false, "{error}"),
                    }
                }
                if fed == stream.len() { break; }
            }
            prop_assert_eq!(seen, payloads);
            prop_assert!(buffer.is_empty());
        }
    }
}

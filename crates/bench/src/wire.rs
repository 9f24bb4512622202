//! Messages as the generator writes and recognises them, without work that would slow it down.
//!
//! What a frame looks like in bytes is the protocol crate's business: it makes one message, the template,
//! and the generator only changes the digits of the id in copies of it. The id is a [`Stamp`]: who
//! sent the message, its number, and when it was due. A receiver knows a message by the bytes in front of
//! the id, reads the digits, and passes over the rest; nothing is allocated for a message.

use bytes_of_hex::{DIGITS, VALUES};
use hermes_bus_proto::control::{self, MessageFields, Status};
use hermes_bus_proto::frame::{Decoded, decode_within};
use hermes_bus_proto::limits::{ADDED_BYTES_MAX, HEADER_BYTES, PAYLOAD_BYTES_MAX};
use hermes_bus_proto::{FrameError, Object};

use crate::error::BenchError;

/// Digits of an id.
const STAMP_DIGITS: usize = 32;
/// Stands for the id in a template.
const PLACEHOLDER: &str = "5ta3b5ta3b5ta3b5ta3b5ta3b5ta3b5t";
/// Bytes of a batch of small messages: one write.
const BATCH_BYTES: usize = 64 * 1024;
/// Bytes of a receiver's buffer, where there are few: one read.
const READ_BYTES: usize = 256 * 1024;

/// What the id of a message says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// Which run of the generator it belongs to.
    pub(crate) run: u16,
    /// Which of its senders sent it.
    pub(crate) sender: u16,
    /// How many that sender had sent before.
    pub(crate) number: u32,
    /// When it was due, in nanoseconds since the run began. Where nothing has a due time, when it was sent.
    pub(crate) due_ns: u64,
}

impl Stamp {
    fn write(self, out: &mut [u8; STAMP_DIGITS]) {
        let head =
            u64::from(self.run) << 48 | u64::from(self.sender) << 32 | u64::from(self.number);
        let bytes = head.to_be_bytes().into_iter().chain(self.due_ns.to_be_bytes());
        for (digits, byte) in out.chunks_exact_mut(2).zip(bytes) {
            digits.copy_from_slice(&DIGITS[usize::from(byte)]);
        }
    }

    /// Reads an id.
    pub(crate) fn of_id(id: &str) -> Option<Self> {
        Stamp::read(id.as_bytes().try_into().ok()?)
    }

    fn read(digits: &[u8; STAMP_DIGITS]) -> Option<Self> {
        let (head, due) = digits.split_at(STAMP_DIGITS / 2);
        let head = hex(head)?;
        let (run, sender, number) = ((head >> 48) as u16, (head >> 32) as u16, head as u32);
        Some(Stamp { run, sender, number, due_ns: hex(due)? })
    }
}

fn hex(digits: &[u8]) -> Option<u64> {
    let mut value = 0;
    let mut wrong = 0;
    for digit in digits {
        let digit = VALUES[usize::from(*digit)];
        wrong |= digit;
        value = value << 4 | u64::from(digit & 0x0f);
    }
    (wrong & 0xf0 == 0).then_some(value)
}

/// Tables for hexadecimal digits.
mod bytes_of_hex {
    /// The two digits of every byte.
    pub(super) const DIGITS: [[u8; 2]; 256] = {
        let mut table = [[0; 2]; 256];
        let digits = b"0123456789abcdef";
        let mut byte = 0;
        while byte < 256 {
            table[byte] = [digits[byte >> 4], digits[byte & 15]];
            byte += 1;
        }
        table
    };
    /// The value of every digit; 255 for what is none.
    pub(super) const VALUES: [u8; 256] = {
        let mut table = [255; 256];
        let mut value = 0;
        while value < 16 {
            table[DIGITS[value][1] as usize] = value as u8;
            value += 1;
        }
        table
    };
}

/// One message, to be copied.
#[derive(Clone, Debug)]
pub(crate) struct Template {
    frame: Vec<u8>,
    /// Where in the frame the id's digits begin.
    stamp_at: usize,
    /// Bytes of text in its body.
    pub(crate) text_bytes: usize,
}

impl Template {
    /// A message with `text_bytes` of text, or as much as fits into a frame. `id`, `ts` and `from` are there,
    /// so that the bus has nothing to add on level 1.
    pub(crate) fn new(
        to: &str,
        from: &str,
        text_bytes: usize,
        receipt: Option<Status>,
    ) -> Result<Self, FrameError> {
        let whole = |text_bytes: usize| {
            let text: String =
                "abcdefghijklmnopqrstuvwxyz0123456789 ".chars().cycle().take(text_bytes).collect();
            let body = format!("{{\"text\": \"{text}\", \"type\": \"progress\"}}");
            let mut frame = Vec::new();
            let (from, id, body) = (Some(from), Some(PLACEHOLDER), body.as_str());
            control::message(
                &mut frame,
                &MessageFields { to, from, id, receipt, body, ..MessageFields::default() },
            )?;
            frame.drain(..HEADER_BYTES);
            Ok(Object::scan(frame.into())?.with("ts", "1716307200.123"))
        };
        let room = PAYLOAD_BYTES_MAX - whole(0)?.len();
        let text_bytes = text_bytes.min(room);
        let payload = whole(text_bytes)?;
        let mut frame = Vec::with_capacity(HEADER_BYTES + payload.len());
        control::append_text(&mut frame, &payload);
        let stamp_at = payload.find(PLACEHOLDER).expect("the id was put there") + HEADER_BYTES;
        Ok(Template { frame, stamp_at, text_bytes })
    }

    /// Bytes of the whole frame, header included.
    pub(crate) fn frame_bytes(&self) -> usize {
        self.frame.len()
    }

    /// By which a receiver knows such messages.
    pub(crate) fn pattern(&self, level: Level) -> Pattern {
        Pattern {
            before: self.frame[HEADER_BYTES..self.stamp_at].to_vec(),
            payload_bytes: self.frame.len() - HEADER_BYTES,
            level,
        }
    }

    /// Copies of it, as many as make a good write.
    pub(crate) fn batch(&self) -> Batch {
        let count = (BATCH_BYTES / self.frame.len()).max(1);
        Batch {
            bytes: self.frame.repeat(count),
            frame_bytes: self.frame.len(),
            stamp_at: self.stamp_at,
        }
    }
}

/// Which level of the protocol a receiver speaks: on the second one the bus adds members to messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    One,
    Two,
}

/// Whole frames, one behind the other, of which only the ids change.
#[derive(Debug)]
pub(crate) struct Batch {
    bytes: Vec<u8>,
    frame_bytes: usize,
    stamp_at: usize,
}

impl Batch {
    /// How many messages fit.
    pub(crate) fn capacity(&self) -> usize {
        self.bytes.len() / self.frame_bytes
    }

    /// Writes the stamps of the first messages, and gives their bytes.
    pub(crate) fn stamped(&mut self, stamps: impl Iterator<Item = Stamp>) -> &[u8] {
        let mut count = 0;
        for (frame, stamp) in self.bytes.chunks_exact_mut(self.frame_bytes).zip(stamps) {
            let digits = frame[self.stamp_at..].first_chunk_mut().expect("a frame holds its id");
            stamp.write(digits);
            count += 1;
        }
        &self.bytes[..count * self.frame_bytes]
    }
}

/// By which a receiver knows the messages of one sender, or of several whose targets have names of the
/// same length.
#[derive(Clone, Debug)]
pub(crate) struct Pattern {
    before: Vec<u8>,
    payload_bytes: usize,
    level: Level,
}

impl Pattern {
    /// The stamp of a message of which at least the beginning is there.
    fn stamp(&self, payload_head: &[u8], payload_bytes: usize) -> Option<Stamp> {
        let fits = match self.level {
            Level::One => payload_bytes == self.payload_bytes,
            Level::Two => payload_bytes >= self.payload_bytes,
        };
        let rest = payload_head.strip_prefix(self.before.as_slice()).filter(|_| fits)?;
        Stamp::read(rest.first_chunk()?)
    }

    fn head_bytes(&self) -> usize {
        self.before.len() + STAMP_DIGITS
    }
}

/// What came next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Incoming<'a> {
    /// A message of the generator, to its last byte.
    Message(Stamp),
    /// The payload of any other frame.
    Other(&'a [u8]),
}

/// Takes frames out of what was read. The texts of messages are passed over as they come, so that
/// large ones need no large buffer.
#[derive(Debug)]
pub(crate) struct Reader {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    pattern: Option<Pattern>,
    /// The message that is being passed over, and how many of its bytes have not come yet.
    passing: Option<(Stamp, usize)>,
}

impl Reader {
    pub(crate) fn new() -> Self {
        // Grows with the first read: idle connections have none.
        Reader { buffer: Vec::new(), start: 0, end: 0, pattern: None, passing: None }
    }

    /// From now on, messages of this pattern are recognised.
    pub(crate) fn expect(&mut self, pattern: Pattern) {
        self.pattern = Some(pattern);
    }

    /// Where the next bytes are to be read to.
    pub(crate) fn room(&mut self) -> &mut [u8] {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
        if self.end == self.buffer.len() {
            if self.start > 0 {
                self.buffer.copy_within(self.start..self.end, 0);
                (self.start, self.end) = (0, self.end - self.start);
            } else if self.buffer.is_empty() {
                self.buffer = vec![0; READ_BYTES];
            } else {
                self.buffer.resize(self.buffer.len() * 2, 0);
            }
        }
        &mut self.buffer[self.end..]
    }

    /// So many bytes were read.
    pub(crate) fn filled(&mut self, count: usize) {
        self.end += count;
    }

    /// Takes the next frame; `None` if it is not complete.
    pub(crate) fn next(&mut self) -> Result<Option<Incoming<'_>>, BenchError> {
        if let Some((stamp, left)) = self.passing {
            let here = left.min(self.end - self.start);
            self.start += here;
            self.passing = (here < left).then_some((stamp, left - here));
            return Ok(self.passing.is_none().then_some(Incoming::Message(stamp)));
        }
        let unread = &self.buffer[self.start..self.end];
        let (frame_bytes, is_whole) =
            match decode_within(unread, PAYLOAD_BYTES_MAX + ADDED_BYTES_MAX) {
                Decoded::Frame { frame_bytes, .. } => (frame_bytes, true),
                Decoded::Incomplete { .. } if unread.len() < HEADER_BYTES => return Ok(None),
                Decoded::Incomplete { frame_bytes } => (frame_bytes, false),
                Decoded::Refused(error) => return Err(BenchError::NotABus(error.to_string())),
            };
        if let Some(pattern) = &self.pattern {
            let payload = &unread[HEADER_BYTES..];
            let head = &payload[..payload.len().min(pattern.head_bytes())];
            match pattern.stamp(head, frame_bytes - HEADER_BYTES) {
                Some(stamp) if is_whole => {
                    self.start += frame_bytes;
                    return Ok(Some(Incoming::Message(stamp)));
                }
                Some(stamp) => {
                    self.passing = Some((stamp, frame_bytes - unread.len()));
                    self.start = self.end;
                    return Ok(None);
                }
                None => {}
            }
        }
        if !is_whole {
            return Ok(None);
        }
        let payload = self.start + HEADER_BYTES..self.start + frame_bytes;
        self.start += frame_bytes;
        Ok(Some(Incoming::Other(&self.buffer[payload])))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAMP: Stamp =
        Stamp { run: 0xfedc, sender: 7, number: 0x1234_5678, due_ns: 0x0123_4567_89ab_cdef };

    /// Feeds bytes in pieces, and gives what came out.
    fn read(pattern: Pattern, bytes: &[u8], piece: usize) -> Vec<Result<Stamp, Vec<u8>>> {
        let mut reader = Reader::new();
        reader.expect(pattern);
        let mut seen = Vec::new();
        for piece in bytes.chunks(piece) {
            reader.room()[..piece.len()].copy_from_slice(piece);
            reader.filled(piece.len());
            while let Some(incoming) = reader.next().unwrap() {
                seen.push(match incoming {
                    Incoming::Message(stamp) => Ok(stamp),
                    Incoming::Other(payload) => Err(payload.to_vec()),
                });
            }
        }
        seen
    }

    #[test]
    fn a_stamp_is_read_as_it_was_written_and_other_ids_are_none() {
        let mut digits = [0; STAMP_DIGITS];
        STAMP.write(&mut digits);
        assert_eq!(&digits, b"fedc0007123456780123456789abcdef");
        assert_eq!(Stamp::read(&digits), Some(STAMP));
        digits[20] = b'g';
        assert_eq!(Stamp::read(&digits), None);
    }

    #[test]
    fn a_message_is_a_frame_that_the_bus_reads() {
        let template = Template::new("r", "s", 16, Some(Status::Stored)).unwrap();
        let mut batch = template.batch();
        assert!(batch.capacity() > 100);
        let bytes = batch.stamped([STAMP].into_iter()).to_vec();
        assert_eq!(bytes.len(), template.frame_bytes());
        let Decoded::Frame { payload, .. } = decode_within(&bytes, PAYLOAD_BYTES_MAX) else {
            panic!("no frame");
        };
        let value: serde_json::Value = serde_json::from_slice(payload).unwrap();
        assert_eq!(value["id"], "fedc0007123456780123456789abcdef");
        assert_eq!((&value["to"], &value["from"]), (&"r".into(), &"s".into()));
        assert_eq!(value["body"]["text"], "abcdefghijklmnop");
        assert_eq!(value["receipt"], "stored");
        assert!(value["ts"].is_number());
    }

    #[test]
    fn the_largest_text_fills_a_frame_to_its_limit() {
        let template = Template::new("r", "s", 10 << 20, None).unwrap();
        assert_eq!(template.frame_bytes(), HEADER_BYTES + PAYLOAD_BYTES_MAX);
        assert!(template.text_bytes > PAYLOAD_BYTES_MAX - 300);
    }

    #[test]
    fn messages_and_other_frames_come_out_however_the_stream_is_cut() {
        let template = Template::new("r", "s", 300, None).unwrap();
        let numbered = |number| Stamp { number, ..STAMP };
        let mut batch = template.batch();
        let mut bytes = batch.stamped((0..3).map(numbered)).to_vec();
        control::append_text(&mut bytes, r#"{"type": "pong"}"#);
        bytes.extend_from_slice(batch.stamped((3..5).map(numbered)));
        let pong = Err(br#"{"type": "pong"}"#.to_vec());
        let wanted = [
            Ok(numbered(0)),
            Ok(numbered(1)),
            Ok(numbered(2)),
            pong,
            Ok(numbered(3)),
            Ok(numbered(4)),
        ];
        for piece in [1, 3, 97, 511, bytes.len()] {
            assert_eq!(
                read(template.pattern(Level::One), &bytes, piece),
                wanted,
                "pieces of {piece}"
            );
        }
    }

    #[test]
    fn a_message_of_another_length_is_one_on_level_2_only() {
        let long = Template::new("r", "s", 40, None).unwrap();
        let short = Template::new("r", "s", 30, None).unwrap();
        let bytes = long.batch().stamped([STAMP].into_iter()).to_vec();
        assert!(read(short.pattern(Level::One), &bytes, 1000)[0].is_err());
        assert_eq!(read(short.pattern(Level::Two), &bytes, 1000), [Ok(STAMP)]);
        let other = Template::new("q", "s", 40, None).unwrap();
        assert!(read(other.pattern(Level::Two), &bytes, 1000)[0].is_err());
    }
}

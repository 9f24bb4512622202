//! What went through, for those who look on: each message that was routed, once, with what became of
//! it. Nobody who routes waits for them: the driver takes the batch at the end of a turn, and what it
//! leaves is bounded, the oldest dropped first.

use alloc::borrow::Cow;
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;

use bytes::Bytes;

/// What the router did with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Queued for everybody it is for.
    Accepted,
    /// Held for an endpoint that is away for a moment.
    Held,
    /// No such endpoint.
    NotFound,
    /// Dropped: the receiver does not read.
    Dropped,
}

impl Outcome {
    /// One word: the state of the message, or the error code that stands for its end.
    pub fn as_str(self) -> &'static str {
        match self {
            Outcome::Accepted => "accepted",
            Outcome::Held => "held",
            Outcome::NotFound => "endpoint_not_found",
            Outcome::Dropped => "over_limit",
        }
    }
}

/// Routed messages, oldest first.
#[derive(Debug, Default)]
pub struct TapBatch {
    /// The payloads that were copied, one behind the other.
    copied: Vec<u8>,
    /// Those before this place are dropped already.
    copied_from: usize,
    messages: VecDeque<Record>,
    bytes: usize,
    left_out: u64,
}

#[derive(Debug)]
struct Record {
    outcome: Outcome,
    payload: Place,
}

#[derive(Debug)]
enum Place {
    /// So many bytes of the copied ones.
    Copied(usize),
    /// In memory of its own. Few are: a record stays small.
    Shared(Box<Shared>),
}

/// A payload, and what is to be inserted into it.
#[derive(Debug)]
struct Shared {
    payload: Bytes,
    insert_at: usize,
    inserted: Vec<u8>,
}

impl Record {
    fn bytes(&self) -> usize {
        match &self.payload {
            Place::Copied(bytes) => *bytes,
            Place::Shared(shared) => shared.payload.len() + shared.inserted.len(),
        }
    }

    fn load_bytes(&self) -> usize {
        self.bytes() + size_of::<Record>()
    }
}

/// One routed message.
#[derive(Clone, Copy, Debug)]
pub struct Tapped<'a> {
    /// What the router did with it.
    pub outcome: Outcome,
    payload: TappedPayload<'a>,
}

#[derive(Clone, Copy, Debug)]
enum TappedPayload<'a> {
    Copied(&'a [u8]),
    Shared { payload: &'a Bytes, insert_at: usize, inserted: &'a [u8] },
}

impl<'a> Tapped<'a> {
    /// The message's JSON as a level 1 receiver gets it, borrowed where it lies in one piece.
    pub fn text(&self) -> Cow<'a, [u8]> {
        match self.payload {
            TappedPayload::Copied(bytes) => Cow::Borrowed(bytes),
            TappedPayload::Shared { payload, inserted: [], .. } => Cow::Borrowed(payload),
            TappedPayload::Shared { .. } => Cow::Owned(self.payload().into()),
        }
    }

    /// The message's JSON as a level 1 receiver gets it, in memory of its own.
    pub fn payload(&self) -> Bytes {
        match self.payload {
            TappedPayload::Copied(bytes) => Bytes::copy_from_slice(bytes),
            TappedPayload::Shared { payload, inserted: [], .. } => payload.clone(),
            TappedPayload::Shared { payload, insert_at, inserted } => {
                Bytes::from([&payload[..insert_at], inserted, &payload[insert_at..]].concat())
            }
        }
    }
}

impl TapBatch {
    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty() && self.left_out == 0
    }

    /// Number of messages.
    pub fn len(&self) -> usize {
        self.messages.len()
    }

    /// Bytes of memory that the messages take.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Older messages that were dropped because nobody took them in time.
    pub fn left_out(&self) -> u64 {
        self.left_out
    }

    /// The messages, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = Tapped<'_>> {
        let mut at = self.copied_from;
        self.messages.iter().map(move |record| {
            let payload = match &record.payload {
                Place::Copied(bytes) => {
                    at += bytes;
                    TappedPayload::Copied(&self.copied[at - bytes..at])
                }
                Place::Shared(shared) => {
                    let Shared { payload, insert_at, inserted } = &**shared;
                    TappedPayload::Shared { payload, insert_at: *insert_at, inserted }
                }
            };
            Tapped { outcome: record.outcome, payload }
        })
    }

    /// Adds a message by copying its parts.
    #[inline]
    pub fn push_copy(&mut self, parts: &[&[u8]], outcome: Outcome) {
        let before = self.copied.len();
        for part in parts {
            self.copied.extend_from_slice(part);
        }
        let payload = Place::Copied(self.copied.len() - before);
        self.push(Record { outcome, payload });
    }

    /// Adds a message whose payload has memory of its own.
    pub(crate) fn push_shared(
        &mut self,
        payload: Bytes,
        insert_at: usize,
        inserted: &[u8],
        outcome: Outcome,
    ) {
        let shared = Shared { payload, insert_at, inserted: inserted.to_vec() };
        self.push(Record { outcome, payload: Place::Shared(Box::new(shared)) });
    }

    #[inline]
    fn push(&mut self, record: Record) {
        self.bytes += record.load_bytes();
        self.messages.push_back(record);
    }

    /// Empties it, but keeps its memory.
    fn clear(&mut self) {
        self.copied.clear();
        self.messages.clear();
        (self.copied_from, self.bytes, self.left_out) = (0, 0, 0);
    }

    /// Drops the oldest messages until no more than `bytes_max` are taken, or one message is left.
    #[inline]
    pub fn shrink_to(&mut self, bytes_max: usize) {
        while self.bytes > bytes_max && self.messages.len() > 1 {
            let Some(oldest) = self.messages.pop_front() else { break };
            self.bytes -= oldest.load_bytes();
            self.left_out += 1;
            if let Place::Copied(bytes) = oldest.payload {
                self.copied_from += bytes;
            }
        }
        if self.copied_from > self.copied.len() / 2 {
            self.copied.drain(..core::mem::take(&mut self.copied_from));
        }
    }
}

/// A tap: what is routed is kept here until it is taken.
#[derive(Debug)]
pub(crate) struct Tap {
    pub(crate) batch: TapBatch,
    pub(crate) bytes_max: usize,
    spare: Vec<TapBatch>,
}

/// Batches whose memory is kept for the next ones. New memory for each would cost more than what is
/// done with it.
const SPARE_MAX: usize = 4;
/// Larger ones are not kept.
const SPARE_BYTES_MAX: usize = 4 * 1024 * 1024;

impl Tap {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Tap { batch: TapBatch::default(), bytes_max, spare: Vec::new() }
    }

    #[inline]
    pub(crate) fn push_copy(&mut self, parts: &[&[u8]], outcome: Outcome) {
        self.batch.push_copy(parts, outcome);
        self.batch.shrink_to(self.bytes_max);
    }

    pub(crate) fn push_shared(
        &mut self,
        payload: Bytes,
        insert_at: usize,
        inserted: &[u8],
        outcome: Outcome,
    ) {
        self.batch.push_shared(payload, insert_at, inserted, outcome);
        self.batch.shrink_to(self.bytes_max);
    }

    /// What has come since the last time.
    pub(crate) fn take(&mut self) -> TapBatch {
        core::mem::replace(&mut self.batch, self.spare.pop().unwrap_or_default())
    }

    /// Uses the memory of a batch again that somebody is done with.
    pub(crate) fn recycle(&mut self, mut spent: TapBatch) {
        if self.spare.len() < SPARE_MAX && spent.copied.capacity() <= SPARE_BYTES_MAX {
            spent.clear();
            self.spare.push(spent);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(batch: &TapBatch) -> Vec<String> {
        batch.iter().map(|m| String::from_utf8_lossy(&m.payload()).into_owned()).collect()
    }

    #[test]
    fn messages_come_out_as_a_receiver_gets_them() {
        let mut batch = TapBatch::default();
        batch.push_copy(&[b"{\"a\": 1", b", \"id\": 2", b"}"], Outcome::Accepted);
        batch.push_shared(Bytes::from_static(b"{\"b\": 1}"), 7, b", \"id\": 3", Outcome::Held);
        batch.push_shared(Bytes::from_static(b"{\"c\": 1}"), 7, b"", Outcome::NotFound);
        batch.push_copy(&[b"{\"d\": 1}"], Outcome::Dropped);
        let expected =
            ["{\"a\": 1, \"id\": 2}", "{\"b\": 1, \"id\": 3}", "{\"c\": 1}", "{\"d\": 1}"];
        assert_eq!(texts(&batch), expected);
        let borrowed = batch.iter().map(|m| String::from_utf8_lossy(&m.text()).into_owned());
        assert_eq!(borrowed.collect::<Vec<_>>(), expected);
        let outcomes: Vec<&str> = batch.iter().map(|m| m.outcome.as_str()).collect();
        assert_eq!(outcomes, ["accepted", "held", "endpoint_not_found", "over_limit"]);
    }

    #[test]
    fn the_oldest_go_first_and_are_counted() {
        let mut batch = TapBatch::default();
        for number in 0..1_000 {
            if number % 3 == 0 {
                let payload = Bytes::from(format!("{{\"n\": {number}}}"));
                batch.push_shared(payload, 1, b"", Outcome::Accepted);
            } else {
                batch.push_copy(&[format!("{{\"n\": {number}}}").as_bytes()], Outcome::Accepted);
            }
            batch.shrink_to(1_000);
        }
        assert!(batch.bytes() <= 1_000 && batch.copied.len() <= 2_000);
        let kept = texts(&batch);
        assert_eq!(kept.last().map(String::as_str), Some("{\"n\": 999}"));
        assert_eq!(kept.len() as u64 + batch.left_out(), 1_000);
        assert_eq!(kept[0], format!("{{\"n\": {}}}", batch.left_out()));
    }

    #[test]
    fn a_batch_that_is_used_again_is_empty() {
        let mut tap = Tap::new(100);
        for round in 0..3 {
            for _ in 0..5 {
                tap.push_copy(&[&[b'x'; 60]], Outcome::Accepted);
            }
            tap.push_copy(&[format!("{round}").as_bytes()], Outcome::Held);
            let batch = tap.take();
            assert_eq!(texts(&batch).last(), Some(&round.to_string()));
            assert_eq!(batch.len() as u64 + batch.left_out(), 6);
            tap.recycle(batch);
        }
        assert!(tap.batch.is_empty() && tap.batch.bytes() == 0);
    }

    #[test]
    fn one_message_is_kept_however_large_it_is() {
        let mut batch = TapBatch::default();
        batch.push_copy(&[&[b'x'; 100]], Outcome::Accepted);
        batch.push_copy(&[&[b'y'; 100]], Outcome::Accepted);
        batch.shrink_to(10);
        assert_eq!((batch.len(), batch.left_out()), (1, 1));
        assert_eq!(texts(&batch), ["y".repeat(100)]);
    }
}

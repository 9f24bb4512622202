//! What a client sees that watches: who comes and goes, and what is routed.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use hermes_bus_proto::Object;

use crate::inbox::{Pushed, Queue, QueueLimits, Weigh, WhenFull};
use crate::message::{Message, one_line};

/// Something that was seen.
#[derive(Clone, Debug)]
pub enum Sighting {
    /// An endpoint has come or gone.
    Presence(Presence),
    /// A message was routed.
    Tap(Tapped),
    /// The bus could not keep up with telling what it routed.
    Gap(Gap),
    /// The reader was too slow: so many sightings are missing from here on.
    Missed(u64),
}

/// An endpoint has come or gone.
#[derive(Clone, Debug, PartialEq)]
pub struct Presence {
    /// Its name.
    pub endpoint: String,
    /// Whether it is there.
    pub is_online: bool,
    /// UUID of the session that came or went.
    pub session_id: String,
    /// When: Unix time in seconds.
    pub ts: Option<f64>,
    /// Why.
    pub reason: String,
    frame: Frame,
}

/// A message that was routed.
#[derive(Clone, Debug)]
pub struct Tapped {
    frame: Frame,
}

/// What somebody was subscribed to and could not take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gap {
    /// `topic`, `broadcast`, `tap` or `presence`.
    pub source: String,
    /// Messages.
    pub count: u64,
    /// Bytes of them.
    pub bytes: u64,
}

/// A frame as it came.
#[derive(Clone, Debug)]
struct Frame(Object);

impl PartialEq for Frame {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_bytes() == other.0.as_bytes()
    }
}

impl Presence {
    pub(crate) fn read(frame: Object) -> Self {
        let text = |key| frame.text(key).unwrap_or_default().into_owned();
        Presence {
            endpoint: text("endpoint"),
            is_online: text("state") == "online",
            session_id: text("session_id"),
            ts: frame.get("ts").and_then(|ts| ts.finite_number()),
            reason: text("reason"),
            frame: Frame(frame),
        }
    }

    /// The frame as JSON on one line.
    pub fn json_line(&self) -> String {
        one_line(&String::from_utf8_lossy(self.frame.0.as_bytes()))
    }
}

impl Tapped {
    pub(crate) fn new(frame: Object) -> Self {
        Tapped { frame: Frame(frame) }
    }

    /// What became of it: `accepted`, `stored`, `delivered`, or why it went nowhere.
    pub fn outcome(&self) -> String {
        self.frame.0.text("outcome").unwrap_or_default().into_owned()
    }

    /// The message, or its envelope: then it has no body.
    pub fn message(&self) -> Option<Message> {
        let part = self.frame.0.get("message").or_else(|| self.frame.0.get("envelope"))?;
        Object::scan(Bytes::copy_from_slice(part.as_bytes())).ok().map(Message::new)
    }

    /// Its size in bytes: of the whole message.
    pub fn bytes(&self) -> Option<u64> {
        let told = self.frame.0.get("bytes").and_then(|bytes| bytes.integer());
        let counted = || self.frame.0.get("message").map(|message| message.as_bytes().len() as u64);
        told.and_then(|bytes| u64::try_from(bytes).ok()).or_else(counted)
    }

    /// The frame as JSON on one line.
    pub fn json_line(&self) -> String {
        one_line(&String::from_utf8_lossy(self.frame.0.as_bytes()))
    }
}

impl Gap {
    pub(crate) fn read(frame: &Object) -> Self {
        let count = |key| {
            let count = frame.get(key).and_then(|count| count.integer());
            count.and_then(|count| u64::try_from(count).ok()).unwrap_or(0)
        };
        let source = frame.text("source").unwrap_or_default().into_owned();
        Gap { source, count: count("count"), bytes: count("bytes") }
    }
}

impl Weigh for Sighting {
    fn bytes(&self) -> usize {
        match self {
            Sighting::Presence(Presence { frame, .. }) | Sighting::Tap(Tapped { frame }) => {
                frame.0.as_bytes().len()
            }
            Sighting::Gap(_) | Sighting::Missed(_) => 0,
        }
    }
}

/// What was seen, in order. A stream; ends when the client is closed or watches anew. The bus is told
/// to stop when it is dropped and the next thing is seen.
#[derive(Debug)]
pub struct Sightings {
    seen: Arc<Seen>,
}

/// The queue between the session and the reader of [`Sightings`].
#[derive(Debug)]
pub(crate) struct Seen {
    queue: Queue<Sighting>,
    missed: AtomicU64,
}

impl Seen {
    pub(crate) fn new() -> Arc<Self> {
        let limits = QueueLimits { when_full: WhenFull::DropNewest, ..QueueLimits::default() };
        Arc::new(Seen { queue: Queue::new(limits), missed: AtomicU64::new(0) })
    }

    /// Says whether there is still a reader.
    pub(crate) fn push(&self, sighting: Sighting) -> bool {
        match self.queue.push(sighting) {
            Pushed::Queued => true,
            Pushed::Dropped => {
                self.missed.fetch_add(1, Ordering::Relaxed);
                true
            }
            Pushed::Unread => false,
        }
    }

    pub(crate) fn end(&self) {
        self.queue.end();
    }
}

impl Sightings {
    pub(crate) fn new(seen: Arc<Seen>) -> Self {
        Sightings { seen }
    }

    /// The next one. `None` when nothing will be seen any more. May be dropped and called again.
    pub async fn next(&mut self) -> Option<Sighting> {
        poll_fn(|cx| self.poll(cx)).await
    }

    /// One that is there already.
    pub fn try_next(&mut self) -> Option<Sighting> {
        self.missed().or_else(|| self.seen.queue.pop())
    }

    /// What is missing is told as soon as it is known.
    fn missed(&self) -> Option<Sighting> {
        let missed = self.seen.missed.swap(0, Ordering::Relaxed);
        (missed > 0).then_some(Sighting::Missed(missed))
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Sighting>> {
        match self.missed() {
            Some(missed) => Poll::Ready(Some(missed)),
            None => self.seen.queue.poll_next(cx),
        }
    }
}

impl futures_core::Stream for Sightings {
    type Item = Sighting;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Sighting>> {
        self.poll(cx)
    }
}

impl Drop for Sightings {
    fn drop(&mut self) {
        self.seen.queue.abandon();
    }
}

//! The bounded queue of what has arrived, between the session and whoever reads it.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use tokio::sync::Notify;

use crate::message::Message;

/// What happens when the queue is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhenFull {
    /// The client stops reading from the bus until there is room. Nothing is lost here; the bus
    /// queues on (16 MiB), and drops, counted, only what goes beyond that. What the socket still
    /// holds when a session ends goes into the queue all the same.
    #[default]
    Wait,
    /// The oldest message makes room. Told by [`crate::Event::Dropped`].
    DropOldest,
    /// The new message is dropped. Told by [`crate::Event::Dropped`].
    DropNewest,
}

/// How much the queue holds. It is full when it reaches either limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueLimits {
    /// Messages, at least 1. Does not count while a request waits for its reply, which may stand
    /// behind them: then only the bytes do.
    pub messages: usize,
    /// Bytes of their frames, at least 1. The message that reaches it still goes in.
    pub bytes: usize,
    /// What happens then.
    pub when_full: WhenFull,
}

impl Default for QueueLimits {
    fn default() -> Self {
        QueueLimits { messages: 1024, bytes: 16 * 1024 * 1024, when_full: WhenFull::default() }
    }
}

/// Messages for a client, in the order they came. A stream; ends when the client is closed and
/// everything has been read.
#[derive(Debug)]
pub struct Inbox {
    queue: Arc<Queue>,
}

impl Inbox {
    pub(crate) fn new(queue: Arc<Queue>) -> Self {
        Inbox { queue }
    }

    /// The next message. `None` when the client is closed and everything has been read. May be
    /// dropped and called again; nothing gets lost.
    pub async fn next(&mut self) -> Option<Message> {
        poll_fn(|cx| self.queue.poll_next(cx)).await
    }

    /// A message that is there already.
    pub fn try_next(&mut self) -> Option<Message> {
        self.queue.pop()
    }

    /// Messages that are there already.
    pub fn len(&self) -> usize {
        self.queue.state().messages.len()
    }

    /// Whether no message is there.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl futures_core::Stream for Inbox {
    type Item = Message;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Message>> {
        self.queue.poll_next(cx)
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        let mut state = self.queue.state();
        state.has_reader = false;
        state.messages.clear();
        state.bytes = 0;
        drop(state);
        self.queue.changed.notify_one();
    }
}

/// The queue, as the session and the [`Inbox`] share it.
#[derive(Debug)]
pub(crate) struct Queue {
    limits: QueueLimits,
    state: Mutex<State>,
    /// Told to the session when there is more room, or no reader any more.
    changed: Notify,
}

#[derive(Debug)]
struct State {
    messages: VecDeque<Message>,
    bytes: usize,
    /// Cleared when the [`Inbox`] is dropped.
    has_reader: bool,
    /// Set when nothing will come any more.
    is_over: bool,
    reader: Option<Waker>,
}

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pushed {
    Queued,
    /// It, or an older one, was dropped for want of room.
    Dropped,
    /// Nobody reads.
    Unread,
}

/// Which limits count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Strictness {
    All,
    /// A reply may stand behind what is full.
    BytesOnly,
}

impl Queue {
    pub(crate) fn new(limits: QueueLimits) -> Self {
        let limits = QueueLimits {
            messages: limits.messages.max(1),
            bytes: limits.bytes.max(1),
            when_full: limits.when_full,
        };
        let state = State {
            messages: VecDeque::new(),
            bytes: 0,
            has_reader: true,
            is_over: false,
            reader: None,
        };
        Queue { limits, state: Mutex::new(state), changed: Notify::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing in here panics half-way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the session may read on.
    pub(crate) fn takes_more(&self, strictness: Strictness) -> bool {
        self.limits.when_full != WhenFull::Wait || !self.is_full(&self.state(), strictness)
    }

    fn is_full(&self, state: &State, strictness: Strictness) -> bool {
        let by_count =
            strictness == Strictness::All && state.messages.len() >= self.limits.messages;
        by_count || state.bytes >= self.limits.bytes
    }

    pub(crate) fn push(&self, message: Message) -> Pushed {
        let mut state = self.state();
        if !state.has_reader {
            return Pushed::Unread;
        }
        let mut outcome = Pushed::Queued;
        if self.is_full(&state, Strictness::All) {
            match self.limits.when_full {
                WhenFull::Wait => {}
                WhenFull::DropNewest => return Pushed::Dropped,
                WhenFull::DropOldest => {
                    state.take_oldest();
                    outcome = Pushed::Dropped;
                }
            }
        }
        state.bytes += message.frame().as_bytes().len();
        state.messages.push_back(message);
        let reader = state.reader.take();
        drop(state);
        if let Some(reader) = reader {
            reader.wake();
        }
        outcome
    }

    fn pop(&self) -> Option<Message> {
        let mut state = self.state();
        // The session may be waiting for either.
        let full = |state: &State| {
            [Strictness::All, Strictness::BytesOnly].map(|limit| self.is_full(state, limit))
        };
        let before = full(&state);
        let message = state.take_oldest();
        if full(&state) != before {
            self.changed.notify_one();
        }
        message
    }

    fn poll_next(&self, cx: &mut Context<'_>) -> Poll<Option<Message>> {
        if let Some(message) = self.pop() {
            return Poll::Ready(Some(message));
        }
        let mut state = self.state();
        // The session may have come between.
        if !state.messages.is_empty() {
            cx.waker().wake_by_ref();
        } else if state.is_over {
            return Poll::Ready(None);
        }
        state.reader = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Waits until room was made, the reader went away, or [`Queue::look_again`] was called.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Makes the session look at the queue again.
    pub(crate) fn look_again(&self) {
        self.changed.notify_one();
    }

    pub(crate) fn has_reader(&self) -> bool {
        self.state().has_reader
    }

    /// Nothing will come any more.
    pub(crate) fn end(&self) {
        let mut state = self.state();
        state.is_over = true;
        if let Some(reader) = state.reader.take() {
            reader.wake();
        }
    }
}

impl State {
    fn take_oldest(&mut self) -> Option<Message> {
        let message = self.messages.pop_front()?;
        self.bytes -= message.frame().as_bytes().len();
        Some(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use hermes_bus_proto::Object;

    fn message(number: usize) -> Message {
        let json = format!("{{\"id\": \"{number}\"}}");
        Message::new(Object::scan(Bytes::from(json)).unwrap())
    }

    fn queue(messages: usize, bytes: usize, when_full: WhenFull) -> (Arc<Queue>, Inbox) {
        let queue = Arc::new(Queue::new(QueueLimits { messages, bytes, when_full }));
        (Arc::clone(&queue), Inbox::new(queue))
    }

    fn ids(inbox: &mut Inbox) -> Vec<String> {
        std::iter::from_fn(|| inbox.try_next()).map(|m| m.id().unwrap().into_owned()).collect()
    }

    #[test]
    fn the_oldest_or_the_newest_is_dropped_as_declared() {
        let (queue_, mut inbox) = queue(2, 1000, WhenFull::DropOldest);
        let outcomes: Vec<_> = (0..4).map(|number| queue_.push(message(number))).collect();
        assert_eq!(outcomes, [Pushed::Queued, Pushed::Queued, Pushed::Dropped, Pushed::Dropped]);
        assert_eq!(ids(&mut inbox), ["2", "3"]);
        let (queue_, mut inbox) = queue(2, 1000, WhenFull::DropNewest);
        (0..4).for_each(|number| _ = queue_.push(message(number)));
        assert_eq!(ids(&mut inbox), ["0", "1"]);
    }

    #[test]
    fn a_full_queue_asks_for_a_pause_by_count_and_by_bytes() {
        let (queue_, mut inbox) = queue(2, 1000, WhenFull::Wait);
        queue_.push(message(1));
        assert!(queue_.takes_more(Strictness::All));
        queue_.push(message(2));
        assert!(!queue_.takes_more(Strictness::All));
        assert!(queue_.takes_more(Strictness::BytesOnly));
        inbox.try_next();
        assert!(queue_.takes_more(Strictness::All));
        let (queue_, _inbox) = queue(100, 20, WhenFull::Wait);
        queue_.push(message(1));
        queue_.push(message(2));
        assert!(!queue_.takes_more(Strictness::BytesOnly));
    }

    #[tokio::test]
    async fn the_end_comes_after_what_was_queued_and_wakes_a_waiting_reader() {
        let (queue_, mut inbox) = queue(2, 1000, WhenFull::Wait);
        queue_.push(message(1));
        let reading = tokio::spawn(async move {
            let first = inbox.next().await.is_some();
            (first, inbox.next().await.is_none())
        });
        tokio::task::yield_now().await;
        queue_.end();
        assert_eq!(reading.await.unwrap(), (true, true));
    }

    #[test]
    fn without_a_reader_nothing_is_kept() {
        let (queue_, inbox) = queue(2, 1000, WhenFull::Wait);
        drop(inbox);
        assert_eq!(queue_.push(message(1)), Pushed::Unread);
        assert!(!queue_.has_reader() && queue_.state().messages.is_empty());
    }
}

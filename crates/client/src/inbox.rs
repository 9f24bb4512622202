//! The bounded queue of what has arrived, between the session and whoever reads it.

use std::collections::VecDeque;
use std::fmt::Display;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use tokio::sync::Notify;

use crate::acks::{Acks, Repeat};
use crate::message::Message;
use crate::options::Acknowledge;

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

/// How much the queue holds. It is full when it reaches either limit. A client that acknowledges
/// always waits when it is full: what it dropped, the bus would deliver again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueLimits {
    /// Messages, at least 1. Does not count while a reply, a receipt or another answer of the
    /// bus is waited for, which may stand behind them: then only the bytes do.
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
    queue: Arc<Queue<Message>>,
    acks: Arc<Acks>,
    acknowledge: Acknowledge,
    /// The message that was handed out last, where the next one confirms it.
    current: Option<Message>,
}

impl Inbox {
    pub(crate) fn new(
        queue: Arc<Queue<Message>>,
        acks: Arc<Acks>,
        acknowledge: Acknowledge,
    ) -> Self {
        Inbox { queue, acks, acknowledge, current: None }
    }

    /// The next message. `None` when the client is closed and everything has been read. May be
    /// dropped and called again; nothing gets lost.
    ///
    /// With [`Acknowledge::Automatic`] this acknowledges the message before.
    pub async fn next(&mut self) -> Option<Message> {
        poll_fn(|cx| self.poll(cx)).await
    }

    /// A message that is there already.
    pub fn try_next(&mut self) -> Option<Message> {
        self.finish();
        while let Some(message) = self.queue.pop() {
            if let Some(message) = self.hand_out(message) {
                return Some(message);
            }
        }
        None
    }

    /// Calls `handler` for each message until the client is closed, one after the other. Where
    /// messages are acknowledged, one is when its handler returns `Ok`; with an `Err` it is given
    /// back, and the bus delivers it again later.
    ///
    /// ```
    /// # use hermes_bus_client::{memory, Acknowledge, Bus};
    /// # let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    /// # runtime.block_on(async {
    /// # let (transport, mut bus_side) = memory::bus();
    /// # tokio::spawn(async move {
    /// #     let mut session = bus_side.accept().await;
    /// #     session.welcome_2("session-1").await;
    /// #     session.send(r#"{"type": "message", "seq": 1, "body": {"text": "hi"}}"#).await;
    /// #     assert!(session.receive().await.unwrap().contains(r#""seqs":[1]"#));
    /// #     session.send(r#"{"type": "bye", "reason": "replaced"}"#).await;
    /// # });
    /// # let bus = Bus::on(transport);
    /// let builder = bus.client("worker").mailbox(true).acknowledge(Acknowledge::Automatic);
    /// let (client, mut inbox) = builder.connect().await?;
    /// inbox
    ///     .serve(async |message| {
    ///         println!("{}", message.body_json());
    ///         Ok::<(), std::io::Error>(())
    ///     })
    ///     .await;
    /// println!("{:?}", client.closed());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub async fn serve<E: Display>(
        &mut self,
        mut handler: impl AsyncFnMut(Message) -> Result<(), E>,
    ) {
        while let Some(message) = self.next().await {
            match handler(message.clone()).await {
                Ok(()) => _ = message.ack(),
                Err(error) => _ = message.nack(&error.to_string()),
            }
        }
    }

    /// Messages that are there already.
    pub fn len(&self) -> usize {
        self.queue.state().held.len()
    }

    /// Whether no message is there.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Message>> {
        self.finish();
        loop {
            match ready!(self.queue.poll_next(cx)) {
                None => return Poll::Ready(None),
                Some(message) => {
                    if let Some(message) = self.hand_out(message) {
                        return Poll::Ready(Some(message));
                    }
                }
            }
        }
    }

    /// Whoever asks for the next message is done with the one before.
    fn finish(&mut self) {
        if let Some(message) = self.current.take() {
            message.ack();
        }
    }

    /// `None`: it was acknowledged once, and is not wanted again.
    fn hand_out(&mut self, mut message: Message) -> Option<Message> {
        match self.acks.hand_out(&message, message.is_to_be_acknowledged()) {
            Repeat::New => {}
            Repeat::Seen => message.mark_as_repeated(),
            Repeat::Hidden => {
                message.ack();
                return None;
            }
        }
        if self.acknowledge == Acknowledge::Automatic && message.is_to_be_acknowledged() {
            self.current = Some(message.clone());
        }
        Some(message)
    }
}

impl futures_core::Stream for Inbox {
    type Item = Message;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Message>> {
        self.poll(cx)
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        self.queue.abandon();
    }
}

/// What a queue holds.
pub(crate) trait Weigh {
    /// What counts against the queue's limit, in bytes.
    fn bytes(&self) -> usize;
}

impl Weigh for Message {
    fn bytes(&self) -> usize {
        self.frame().as_bytes().len()
    }
}

/// The queue, as the session and its reader share it.
#[derive(Debug)]
pub(crate) struct Queue<T> {
    limits: QueueLimits,
    state: Mutex<State<T>>,
    /// Told to the session when there is more room, or no reader any more.
    changed: Notify,
}

#[derive(Debug)]
struct State<T> {
    held: VecDeque<T>,
    bytes: usize,
    /// Cleared when the reader is dropped.
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

impl<T: Weigh> Queue<T> {
    pub(crate) fn new(limits: QueueLimits) -> Self {
        let limits = QueueLimits {
            messages: limits.messages.max(1),
            bytes: limits.bytes.max(1),
            when_full: limits.when_full,
        };
        let state = State {
            held: VecDeque::new(),
            bytes: 0,
            has_reader: true,
            is_over: false,
            reader: None,
        };
        Queue { limits, state: Mutex::new(state), changed: Notify::new() }
    }

    fn state(&self) -> MutexGuard<'_, State<T>> {
        // Nothing in here panics half-way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the session may read on.
    pub(crate) fn takes_more(&self, strictness: Strictness) -> bool {
        self.limits.when_full != WhenFull::Wait || !self.is_full(&self.state(), strictness)
    }

    fn is_full(&self, state: &State<T>, strictness: Strictness) -> bool {
        let by_count = strictness == Strictness::All && state.held.len() >= self.limits.messages;
        by_count || state.bytes >= self.limits.bytes
    }

    pub(crate) fn push(&self, item: T) -> Pushed {
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
        state.bytes += item.bytes();
        state.held.push_back(item);
        let reader = state.reader.take();
        drop(state);
        if let Some(reader) = reader {
            reader.wake();
        }
        outcome
    }

    pub(crate) fn pop(&self) -> Option<T> {
        let mut state = self.state();
        // The session may be waiting for either.
        let full = |state: &State<T>| {
            [Strictness::All, Strictness::BytesOnly].map(|limit| self.is_full(state, limit))
        };
        let before = full(&state);
        let item = state.take_oldest();
        if full(&state) != before {
            self.changed.notify_one();
        }
        item
    }

    pub(crate) fn poll_next(&self, cx: &mut Context<'_>) -> Poll<Option<T>> {
        if let Some(item) = self.pop() {
            return Poll::Ready(Some(item));
        }
        let mut state = self.state();
        // The session may have come between.
        if !state.held.is_empty() {
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

    /// The reader is gone: what it has not read is dropped.
    pub(crate) fn abandon(&self) {
        let mut state = self.state();
        state.has_reader = false;
        state.held.clear();
        state.bytes = 0;
        drop(state);
        self.changed.notify_one();
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

impl<T: Weigh> State<T> {
    fn take_oldest(&mut self) -> Option<T> {
        let item = self.held.pop_front()?;
        self.bytes -= item.bytes();
        Some(item)
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

    fn queue(messages: usize, bytes: usize, when_full: WhenFull) -> (Arc<Queue<Message>>, Inbox) {
        let queue = Arc::new(Queue::new(QueueLimits { messages, bytes, when_full }));
        let acks = Arc::new(Acks::new(None));
        (Arc::clone(&queue), Inbox::new(queue, acks, Acknowledge::Never))
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
        assert!(!queue_.has_reader() && queue_.state().held.is_empty());
    }
}

//! Messages on their way out: a queue with a byte limit, and an honest answer for each sender.
//!
//! A sender learns that its message was taken when all of it is in the socket. Until its first byte
//! is, it can be withdrawn: by giving up, or by dropping the call. What was not wholly in the socket
//! when a connection ended, the bus has not seen; it goes to the next connection.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::AsyncWrite;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::timeout_at;

use crate::deadline;
use crate::error::SendError;

/// What all waiting messages of one client may take, in bytes. A frame of the largest size fits.
const BUDGET_BYTES: usize = 16 * 1024 * 1024;
/// What a message costs besides its frame.
const OVERHEAD_BYTES: usize = 256;
/// Messages that go into one write.
const BATCH: usize = 64;

/// Waits in the queue.
const QUEUED: u8 = 0;
/// Is being written.
const TAKEN: u8 = 1;
/// Is being written, and its sender has given up: it is not to be tried again.
const TAKEN_ONCE: u8 = 2;
/// Its sender has given up before it was taken.
const WITHDRAWN: u8 = 3;

/// The senders' end. The session ends when all are gone.
#[derive(Clone, Debug)]
pub(crate) struct Outbox {
    queue: mpsc::UnboundedSender<Item>,
    budget: Arc<Semaphore>,
}

/// The session's end: what comes from the senders.
#[derive(Debug)]
pub(crate) struct Arrivals {
    queue: mpsc::UnboundedReceiver<Item>,
    budget: Arc<Semaphore>,
}

/// What the session writes next, in order. The first item may be written in part.
#[derive(Debug, Default)]
pub(crate) struct Writing {
    items: VecDeque<Item>,
    /// Bytes of the first item that are in the socket.
    first_written: usize,
}

/// One frame on its way.
#[derive(Debug)]
pub(crate) struct Item {
    frame: Vec<u8>,
    /// `None` for frames that nobody waits for.
    ticket: Option<Ticket>,
    _permit: Option<OwnedSemaphorePermit>,
}

#[derive(Debug)]
struct Ticket {
    state: Arc<AtomicU8>,
    done: oneshot::Sender<Outcome>,
}

#[derive(Debug)]
enum Outcome {
    Written,
    /// The sender had given up, and the connection ended before it was written.
    GivenUp,
}

pub(crate) fn outbox() -> (Outbox, Arrivals) {
    let (sender, queue) = mpsc::unbounded_channel();
    let budget = Arc::new(Semaphore::new(BUDGET_BYTES));
    (Outbox { queue: sender, budget: Arc::clone(&budget) }, Arrivals { queue, budget })
}

impl Outbox {
    /// Queues a frame and waits until it is in the socket.
    pub(crate) async fn send(&self, frame: Vec<u8>, patience: Duration) -> Result<(), SendError> {
        let deadline = deadline(patience);
        let cost = u32::try_from((frame.len() + OVERHEAD_BYTES).min(BUDGET_BYTES))
            .expect("the budget fits");
        let acquiring = Arc::clone(&self.budget).acquire_many_owned(cost);
        let permit = match timeout_at(deadline, acquiring).await {
            Ok(permit) => permit.map_err(|_| SendError::Closed)?,
            Err(_) => return Err(SendError::NotTaken(patience)),
        };
        let (done, mut outcome) = oneshot::channel();
        let state = Arc::new(AtomicU8::new(QUEUED));
        let ticket = Ticket { state: Arc::clone(&state), done };
        let item = Item { frame, ticket: Some(ticket), _permit: Some(permit) };
        self.queue.send(item).map_err(|_| SendError::Closed)?;
        let mut withdrawal = Withdrawal { state };
        let outcome = match timeout_at(deadline, &mut outcome).await {
            Ok(outcome) => outcome,
            Err(_) if withdrawal.give_up() => return Err(SendError::NotTaken(patience)),
            // Part of it is in the socket: what becomes of it is known soon, because a session in
            // which nothing can be written any more ends.
            Err(_) => outcome.await,
        };
        match outcome {
            Ok(Outcome::Written) => Ok(()),
            Ok(Outcome::GivenUp) => Err(SendError::NotTaken(patience)),
            Err(_) => Err(SendError::Closed),
        }
    }
}

/// Takes the message back when the call is dropped.
struct Withdrawal {
    state: Arc<AtomicU8>,
}

impl Withdrawal {
    /// Whether the message was still in the queue: then it will not be sent.
    fn give_up(&mut self) -> bool {
        let swap =
            |from, to| self.state.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire);
        loop {
            if swap(QUEUED, WITHDRAWN).is_ok() {
                return true;
            }
            // The session may put it back between the two.
            match swap(TAKEN, TAKEN_ONCE) {
                Err(QUEUED) => {}
                _ => return false,
            }
        }
    }
}

impl Drop for Withdrawal {
    fn drop(&mut self) {
        self.give_up();
    }
}

impl Item {
    /// Marks it as being written. `false`: its sender has given up.
    fn take(&self) -> bool {
        let Some(ticket) = &self.ticket else { return true };
        let swapped =
            ticket.state.compare_exchange(QUEUED, TAKEN, Ordering::AcqRel, Ordering::Acquire);
        swapped != Err(WITHDRAWN)
    }

    /// Marks it as waiting again. `false`: its sender has given up.
    fn put_back(&self) -> bool {
        let Some(ticket) = &self.ticket else { return true };
        let swapped =
            ticket.state.compare_exchange(TAKEN, QUEUED, Ordering::AcqRel, Ordering::Acquire);
        swapped != Err(TAKEN_ONCE)
    }
}

impl Arrivals {
    /// Waits for the next item. `None`: all senders are gone.
    pub(crate) async fn next(&mut self) -> Option<Item> {
        self.queue.recv().await
    }

    /// Nothing will be sent any more: all senders hear of it, once the queue is dropped.
    pub(crate) fn close(&mut self) {
        self.budget.close();
        self.queue.close();
    }
}

impl Writing {
    pub(crate) fn push(&mut self, item: Item) {
        self.items.push_back(item);
    }

    /// A frame of the session's own, behind all others.
    pub(crate) fn push_frame(&mut self, frame: Vec<u8>) {
        self.items.push_back(Item { frame, ticket: None, _permit: None });
    }

    /// Whether as much is there as one write takes.
    pub(crate) fn is_full(&self) -> bool {
        self.items.len() >= BATCH
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Moves what has arrived here, as much as one write takes.
    pub(crate) fn gather(&mut self, arrivals: &mut Arrivals) {
        while !self.is_full() {
            let Ok(item) = arrivals.queue.try_recv() else { return };
            self.items.push_back(item);
        }
    }

    /// Writes as much as the socket takes now. Ready when something was written, or when nothing is
    /// left to be written. Only for the time of a call, and for the one message that the socket has
    /// a part of, is a message marked as being written.
    pub(crate) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        writer: &mut (impl AsyncWrite + Unpin),
    ) -> Poll<io::Result<()>> {
        self.begin();
        if self.items.is_empty() {
            return Poll::Ready(Ok(()));
        }
        let polled = Pin::new(writer).poll_write_vectored(cx, &self.slices());
        if let Poll::Ready(Ok(bytes)) = &polled {
            self.written(*bytes);
        }
        self.leave_off();
        match ready!(polled)? {
            0 => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            _ => Poll::Ready(Ok(())),
        }
    }

    /// Marks what the next write takes; what is withdrawn is dropped.
    fn begin(&mut self) {
        let mut index = 0;
        while index < self.items.len().min(BATCH) {
            if self.items[index].take() {
                index += 1;
            } else {
                self.items.remove(index);
            }
        }
    }

    fn slices(&self) -> Vec<IoSlice<'_>> {
        let begun = self.items.iter().take(BATCH).enumerate();
        let skipped = |index| if index == 0 { self.first_written } else { 0 };
        begun.map(|(index, item)| IoSlice::new(&item.frame[skipped(index)..])).collect()
    }

    /// The socket took this many bytes.
    fn written(&mut self, bytes: usize) {
        self.first_written += bytes;
        while let Some(first) = self.items.front() {
            if self.first_written < first.frame.len() {
                break;
            }
            self.first_written -= first.frame.len();
            if let Some(Item { ticket: Some(ticket), .. }) = self.items.pop_front() {
                let _ = ticket.done.send(Outcome::Written);
            }
        }
    }

    /// Takes the marks back from all of which nothing is in the socket.
    fn leave_off(&mut self) {
        let begun = usize::from(self.first_written > 0);
        for index in (begun..self.items.len().min(BATCH)).rev() {
            if !self.items[index].put_back() {
                self.give_back(index);
            }
        }
    }

    /// Drops an item whose sender gave up while it was marked.
    fn give_back(&mut self, index: usize) {
        if let Some(Item { ticket: Some(ticket), .. }) = self.items.remove(index) {
            let _ = ticket.done.send(Outcome::GivenUp);
        }
    }

    /// The connection ended: what is not wholly in its socket goes to the next one.
    pub(crate) fn connection_ended(&mut self) {
        self.first_written = 0;
        if self.items.front().is_some_and(|first| !first.put_back()) {
            self.give_back(0);
        }
    }
}

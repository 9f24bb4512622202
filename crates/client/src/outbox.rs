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

use bytes::Bytes;
use tokio::io::AsyncWrite;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

use crate::deadline;
use crate::error::SendError;
use crate::lane::{Lane, Place, Written};
use crate::transport::WriteNow;

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
/// All of it is in a socket.
const WRITTEN: u8 = 4;

/// The senders' end. The session ends when all are gone.
#[derive(Clone, Debug)]
pub(crate) struct Outbox {
    queue: mpsc::UnboundedSender<Item>,
    budget: Arc<Semaphore>,
    lane: Lane,
}

/// The session's end: what comes from the senders.
#[derive(Debug)]
pub(crate) struct Arrivals {
    queue: mpsc::UnboundedReceiver<Item>,
    budget: Arc<Semaphore>,
    lane: Lane,
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
    frame: Bytes,
    /// So many bytes of it are in the socket already, put there by its sender.
    begun_bytes: usize,
    _place: Place,
    /// `None` for frames of the session's own, which end with it.
    ticket: Option<Ticket>,
    _permit: Option<Permit>,
}

/// What a frame takes of the budget.
pub(crate) type Permit = Arc<OwnedSemaphorePermit>;

#[derive(Debug)]
struct Ticket {
    progress: Progress,
    /// `None` where it was written once, and is sent again.
    done: Option<oneshot::Sender<Outcome>>,
}

/// How far a frame has come.
#[derive(Clone, Debug, Default)]
pub(crate) struct Progress(Arc<AtomicU8>);

impl Progress {
    fn swap(&self, from: u8, to: u8) -> Result<u8, u8> {
        self.0.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire)
    }

    /// Whether all of it is in a socket.
    pub(crate) fn is_written(&self) -> bool {
        self.0.load(Ordering::Acquire) == WRITTEN
    }

    /// It is to be written once more.
    pub(crate) fn begin_again(&self) {
        let _ = self.swap(WRITTEN, QUEUED);
    }

    /// Takes it back, if nothing of it is in a socket yet. Whether it was still in the queue: then it
    /// will not be sent.
    pub(crate) fn give_up(&self) -> bool {
        loop {
            if self.swap(QUEUED, WITHDRAWN).is_ok() {
                return true;
            }
            // The session may put it back between the two.
            match self.swap(TAKEN, TAKEN_ONCE) {
                Err(QUEUED) => {}
                _ => return false,
            }
        }
    }
}

#[derive(Debug)]
enum Outcome {
    Written,
    /// The sender had given up, and the connection ended before it was written.
    GivenUp,
}

pub(crate) fn outbox() -> (Outbox, Arrivals) {
    let (sender, queue) = mpsc::unbounded_channel();
    let (budget, lane) = (Arc::new(Semaphore::new(BUDGET_BYTES)), Lane::default());
    let outbox = Outbox { queue: sender, budget: Arc::clone(&budget), lane: lane.clone() };
    (outbox, Arrivals { queue, budget, lane })
}

impl Outbox {
    /// Queues a frame and waits until it is in the socket.
    pub(crate) async fn send(&self, frame: Vec<u8>, patience: Duration) -> Result<(), SendError> {
        let deadline = deadline(patience);
        let permit = self.admit(frame.len(), patience).await?;
        self.queue(frame.into(), permit, Progress::default(), deadline, patience).await
    }

    /// Writes a frame at once, if nothing waits before it and the socket has room; else it is to be
    /// sent when the answer is awaited.
    pub(crate) fn begin(&self, frame: Vec<u8>, patience: Duration) -> Sending {
        let held = self.lane.hold();
        let begun_bytes = match held.write(&frame) {
            Written::All => return Sending(Stage::Done),
            Written::Nothing => {
                let (outbox, frame) = (self.clone(), frame.into());
                return Sending(Stage::Queue { outbox, frame, patience });
            }
            Written::Begun(bytes) => bytes,
        };
        let (done, outcome) = oneshot::channel();
        let progress = Progress(Arc::new(AtomicU8::new(TAKEN)));
        let ticket = Some(Ticket { progress: progress.clone(), done: Some(done) });
        let (frame, _place) = (frame.into(), held.queue_up());
        // Whoever waits to be admitted has the budget; one message more does no harm.
        let _ = self.queue.send(Item { frame, begun_bytes, _place, ticket, _permit: None });
        Sending(Stage::Begun { outcome, progress, patience })
    }

    /// Waits until a frame of this size may be queued.
    pub(crate) async fn admit(
        &self,
        frame_bytes: usize,
        patience: Duration,
    ) -> Result<Permit, SendError> {
        let cost = u32::try_from((frame_bytes + OVERHEAD_BYTES).min(BUDGET_BYTES))
            .expect("the budget fits");
        let acquiring = Arc::clone(&self.budget).acquire_many_owned(cost);
        match timeout_at(deadline(patience), acquiring).await {
            Ok(permit) => permit.map(Arc::new).map_err(|_| SendError::Closed),
            Err(_) => Err(SendError::NotTaken(patience)),
        }
    }

    /// Queues a frame that was admitted, and waits until it is in the socket. `patience` is what the
    /// deadline was made from.
    pub(crate) async fn queue(
        &self,
        frame: Bytes,
        permit: Permit,
        progress: Progress,
        deadline: Instant,
        patience: Duration,
    ) -> Result<(), SendError> {
        let (done, outcome) = oneshot::channel();
        let withdrawal = Withdrawal { progress: Some(progress.clone()) };
        let ticket = Ticket { progress, done: Some(done) };
        let (begun_bytes, _place) = (0, self.lane.queue_up());
        let item = Item { frame, begun_bytes, _place, ticket: Some(ticket), _permit: Some(permit) };
        self.queue.send(item).map_err(|_| SendError::Closed)?;
        arrived(outcome, deadline, patience, withdrawal).await
    }
}

/// A message that [`crate::Client::begin_send`] has taken. Most are sent by then
/// ([`Sending::is_done`]); of the others, [`Sending::finish`] is the rest of the way.
///
/// Dropping it takes a message back, if nothing of it is in the socket yet.
#[derive(Debug)]
pub struct Sending(Stage);

#[derive(Debug)]
enum Stage {
    Done,
    /// A part of it is in the socket. The rest is with the session.
    Begun {
        outcome: oneshot::Receiver<Outcome>,
        progress: Progress,
        patience: Duration,
    },
    /// Nothing has happened yet.
    Queue {
        outbox: Outbox,
        frame: Bytes,
        patience: Duration,
    },
}

impl Sending {
    /// Whether all of it is in the socket.
    pub fn is_done(&self) -> bool {
        matches!(self.0, Stage::Done)
    }

    /// Returns when all of it is in the socket; as [`crate::Client::send`].
    pub async fn finish(self) -> Result<(), SendError> {
        match self.0 {
            Stage::Done => Ok(()),
            Stage::Begun { outcome, progress, patience } => {
                let withdrawal = Withdrawal { progress: Some(progress) };
                arrived(outcome, deadline(patience), patience, withdrawal).await
            }
            Stage::Queue { outbox, frame, patience } => {
                let deadline = deadline(patience);
                let permit = outbox.admit(frame.len(), patience).await?;
                outbox.queue(frame, permit, Progress::default(), deadline, patience).await
            }
        }
    }
}

/// Waits until a queued frame is in the socket.
async fn arrived(
    mut outcome: oneshot::Receiver<Outcome>,
    deadline: Instant,
    patience: Duration,
    mut withdrawal: Withdrawal,
) -> Result<(), SendError> {
    let outcome = match timeout_at(deadline, &mut outcome).await {
        Ok(outcome) => outcome,
        Err(_) if withdrawal.take_back() => return Err(SendError::NotTaken(patience)),
        // Part of it is in the socket: what becomes of it is known soon, because a session in
        // which nothing can be written any more ends.
        Err(_) => outcome.await,
    };
    match outcome {
        Ok(Outcome::Written) => {
            // By now it may be waiting to be sent once more.
            withdrawal.progress = None;
            Ok(())
        }
        Ok(Outcome::GivenUp) => Err(SendError::NotTaken(patience)),
        Err(_) => Err(SendError::Closed),
    }
}

/// Takes the message back when the call is dropped.
#[derive(Debug)]
struct Withdrawal {
    /// `None`: it was written, and what becomes of it is for others to say.
    progress: Option<Progress>,
}

impl Withdrawal {
    /// Whether it was still in the queue.
    fn take_back(&self) -> bool {
        self.progress.as_ref().is_some_and(Progress::give_up)
    }
}

impl Drop for Withdrawal {
    fn drop(&mut self) {
        self.take_back();
    }
}

impl Item {
    /// Marks it as being written. `false`: its sender has given up.
    fn take(&self) -> bool {
        let Some(ticket) = &self.ticket else { return true };
        ticket.progress.swap(QUEUED, TAKEN) != Err(WITHDRAWN)
    }

    /// Marks it as waiting again. `false`: its sender has given up.
    fn put_back(&self) -> bool {
        let Some(ticket) = &self.ticket else { return true };
        ticket.progress.swap(TAKEN, QUEUED) != Err(TAKEN_ONCE)
    }
}

impl Ticket {
    fn tell(self, outcome: Outcome) {
        if let Some(done) = self.done {
            let _ = done.send(outcome);
        }
    }
}

impl Arrivals {
    /// Waits for the next item. `None`: all senders are gone.
    pub(crate) async fn next(&mut self) -> Option<Item> {
        self.queue.recv().await
    }

    /// A session began: senders may write by themselves where they can.
    pub(crate) fn session_began(&self, write_now: Option<Box<dyn WriteNow>>) {
        self.lane.open(write_now);
    }

    /// It ended: from here on nobody writes to its socket.
    pub(crate) fn session_ended(&self) {
        self.lane.close();
    }

    /// Nothing will be sent any more: all senders hear of it, once the queue is dropped.
    pub(crate) fn close(&mut self) {
        self.lane.close();
        self.budget.close();
        self.queue.close();
    }
}

impl Writing {
    pub(crate) fn push(&mut self, item: Item) {
        if item.begun_bytes > 0 {
            // Its sender wrote because nothing was here, and since then nobody else could.
            debug_assert!(self.items.is_empty());
            self.first_written = item.begun_bytes;
        }
        self.items.push_back(item);
    }

    /// Frames of the session's own, before all others of which nothing is in the socket yet.
    pub(crate) fn push_own(&mut self, arrivals: &mut Arrivals, frames: Vec<u8>) {
        let lane = arrivals.lane.clone();
        let held = lane.hold();
        // One that a sender has begun comes first.
        self.gather(arrivals);
        let index = usize::from(self.first_written > 0);
        let (frame, _place) = (frames.into(), held.queue_up());
        let own = Item { frame, begun_bytes: 0, _place, ticket: None, _permit: None };
        self.items.insert(index, own);
    }

    /// Whether frames of the session's own are not wholly written yet.
    pub(crate) fn has_own(&self) -> bool {
        self.items.iter().take(2).any(|item| item.ticket.is_none())
    }

    /// Puts a frame that is to be written once more before all others. Whoever gives up on it
    /// meanwhile is seen where it is taken.
    pub(crate) fn push_again(
        &mut self,
        arrivals: &Arrivals,
        frame: Bytes,
        permit: Permit,
        progress: Progress,
    ) {
        let ticket = Some(Ticket { progress, done: None });
        let (begun_bytes, _place) = (0, arrivals.lane.queue_up());
        self.items.push_front(Item { frame, begun_bytes, _place, ticket, _permit: Some(permit) });
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
            self.push(item);
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
                ticket.progress.0.store(WRITTEN, Ordering::Release);
                ticket.tell(Outcome::Written);
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
            ticket.tell(Outcome::GivenUp);
        }
    }

    /// The connection ended: what is not wholly in its socket goes to the next one, but for what was
    /// the session's own.
    pub(crate) fn connection_ended(&mut self, arrivals: &mut Arrivals) {
        arrivals.session_ended();
        // One that its sender has begun to write is to be written anew, too.
        self.gather(arrivals);
        self.first_written = 0;
        if self.items.front().is_some_and(|first| !first.put_back()) {
            self.give_back(0);
        }
        self.items.retain(|item| item.ticket.is_some());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use std::task::Waker;

    /// A sender may hear that its message was written only when the session has ended and the message
    /// waits to be sent again.
    #[tokio::test]
    async fn a_sender_that_is_slow_to_hear_does_not_take_back_what_is_to_be_sent_again() {
        let (outbox, mut arrivals) = outbox();
        let (mut writing, progress) = (Writing::default(), Progress::default());
        let frame = Bytes::from_static(b"frame");
        let patience = Duration::from_secs(5);
        let permit = outbox.admit(frame.len(), patience).await.unwrap();
        let mut sending = Box::pin(outbox.queue(
            frame.clone(),
            Arc::clone(&permit),
            progress.clone(),
            deadline(patience),
            patience,
        ));
        assert!(sending.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        writing.push(arrivals.next().await.unwrap());
        let mut socket = Vec::new();
        poll_fn(|cx| writing.poll_write(cx, &mut socket)).await.unwrap();
        assert!(progress.is_written());
        writing.connection_ended(&mut arrivals);
        progress.begin_again();
        writing.push_again(&arrivals, frame, permit, progress);
        sending.await.unwrap();
        poll_fn(|cx| writing.poll_write(cx, &mut socket)).await.unwrap();
        assert_eq!(socket, b"frameframe");
    }

    /// An acknowledgement names messages of its own session.
    #[tokio::test]
    async fn what_a_session_says_for_itself_ends_with_it() {
        let mut writing = Writing::default();
        let (outbox, mut arrivals) = outbox();
        let sending =
            tokio::spawn(
                async move { outbox.send(b"message".to_vec(), Duration::from_secs(5)).await },
            );
        writing.push(arrivals.next().await.unwrap());
        writing.push_own(&mut arrivals, b"ack".to_vec());
        assert!(writing.has_own());
        writing.connection_ended(&mut arrivals);
        assert!(!writing.has_own());
        let mut socket = Vec::new();
        poll_fn(|cx| writing.poll_write(cx, &mut socket)).await.unwrap();
        assert_eq!(socket, b"message");
        sending.await.unwrap().unwrap();
    }
}

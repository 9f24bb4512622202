//! Messages whose senders wait for a receipt, by their ids.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use hermes_bus_proto::Object;
use hermes_bus_proto::control::Status;
use tokio::sync::oneshot;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::connection::code_and_detail;
use crate::error::ReceiptError;
use crate::event::WhyLost;
use crate::outbox::{Permit, Progress};

/// The bus's answer to a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The message's id.
    pub id: String,
    /// How far it had come.
    pub status: Status,
    /// The endpoint that took it, where the bus says so.
    pub to: Option<String>,
    /// For a message to all or to a topic: how many endpoints that were.
    pub endpoints: Option<u64>,
    /// And how many of them could not be brought to that state.
    pub failed: Option<u64>,
}

impl Receipt {
    /// Reads `receipt`; `id` is the message's. The error is a status that is not known.
    pub(crate) fn read(frame: &Object, id: String) -> Result<Self, String> {
        let word = frame.text("status").unwrap_or_default();
        let status = Status::of(&word).ok_or_else(|| word.into_owned())?;
        let count = |key| {
            let count = frame.get(key).and_then(|count| count.integer());
            count.and_then(|count| u64::try_from(count).ok())
        };
        let to = frame.text("to").map(|to| to.into_owned());
        Ok(Receipt { id, status, to, endpoints: count("endpoints"), failed: count("failed") })
    }
}

/// Who waits.
#[derive(Debug, Default)]
pub(crate) struct Receipts {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    waiting: HashMap<String, Waiting>,
    /// How many have waited so far.
    counted: u64,
}

#[derive(Debug)]
struct Waiting {
    /// Gives the order in which they were sent.
    number: u64,
    answer: oneshot::Sender<Result<Receipt, ReceiptError>>,
    progress: Progress,
    /// What is sent again if the session ends before the bus has answered.
    again: Option<(Bytes, Permit)>,
}

/// A frame that is to be written once more.
pub(crate) struct Again {
    pub(crate) frame: Bytes,
    pub(crate) permit: Permit,
    pub(crate) progress: Progress,
}

impl Receipts {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing in here panics half-way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn are_waited_for(&self) -> bool {
        !self.state().waiting.is_empty()
    }

    /// Begins to wait for the receipt of a message. `None`: somebody waits for one with that id.
    pub(crate) fn begin(
        self: &Arc<Self>,
        id: String,
        progress: Progress,
        again: Option<(Bytes, Permit)>,
        deadline: Option<Instant>,
    ) -> Option<Outstanding> {
        let (sender, answer) = oneshot::channel();
        let mut state = self.state();
        if state.waiting.contains_key(&id) {
            return None;
        }
        let number = state.counted;
        state.counted += 1;
        let waiting = Waiting { number, answer: sender, progress: progress.clone(), again };
        state.waiting.insert(id.clone(), waiting);
        drop(state);
        let deadline = deadline.map(|deadline| Box::pin(sleep_until(deadline)));
        Some(Outstanding { receipts: Arc::clone(self), id, number, progress, answer, deadline })
    }

    /// A `receipt` came.
    pub(crate) fn receipt(&self, frame: &Object) {
        let Some(id) = frame.text("id") else { return };
        let Some((id, waiting)) = self.state().waiting.remove_entry(id.as_ref()) else { return };
        let receipt = Receipt::read(frame, id);
        let _ = waiting.answer.send(receipt.map_err(ReceiptError::Unexpected));
    }

    /// An `error` came. Says whether it was for somebody who waits.
    pub(crate) fn error(&self, frame: &Object) -> bool {
        let Some(id) = frame.text("id") else { return false };
        let Some(waiting) = self.state().waiting.remove(id.as_ref()) else { return false };
        let (code, detail) = code_and_detail(frame);
        let reached = frame.text("status").and_then(|word| Status::of(&word));
        let suggestions = suggestions(frame);
        let refused = ReceiptError::Refused { code, detail, reached, suggestions };
        let _ = waiting.answer.send(Err(refused));
        true
    }

    /// The session ended. What it had written is to be sent again, in order, or its senders hear that
    /// nobody knows; what it had not, goes to the next session anyway.
    pub(crate) fn session_ended(&self, why: &WhyLost) -> Vec<Again> {
        let mut state = self.state();
        let mut again = Vec::new();
        let is_lost = |waiting: &Waiting| waiting.progress.is_written() && waiting.again.is_none();
        for (_, waiting) in state.waiting.extract_if(|_, waiting| is_lost(waiting)) {
            let _ = waiting.answer.send(Err(ReceiptError::Unknown(why.clone())));
        }
        for waiting in state.waiting.values().filter(|waiting| waiting.progress.is_written()) {
            let Some((frame, permit)) = waiting.again.clone() else { continue };
            let progress = waiting.progress.clone();
            progress.begin_again();
            again.push((waiting.number, Again { frame, permit, progress }));
        }
        again.sort_by_key(|(number, _)| *number);
        again.into_iter().map(|(_, again)| again).collect()
    }

    /// Nothing will be answered any more.
    pub(crate) fn end(&self, error: impl Fn() -> ReceiptError) {
        for (_, waiting) in self.state().waiting.drain() {
            let _ = waiting.answer.send(Err(error()));
        }
    }

    fn forget(&self, id: &str, number: u64) {
        let mut state = self.state();
        if state.waiting.get(id).is_some_and(|waiting| waiting.number == number) {
            state.waiting.remove(id);
        }
    }
}

/// Names that may have been meant, as an `error` frame says them.
pub(crate) fn suggestions(frame: &Object) -> Vec<String> {
    let names = frame.get("suggestions");
    names.and_then(|names| serde_json::from_slice(names.as_bytes()).ok()).unwrap_or_default()
}

/// A message that the bus has, and has not answered yet. Awaiting it gives the receipt; dropping it
/// means that nobody wants to know.
#[derive(Debug)]
pub struct Outstanding {
    receipts: Arc<Receipts>,
    id: String,
    number: u64,
    progress: Progress,
    answer: oneshot::Receiver<Result<Receipt, ReceiptError>>,
    deadline: Option<Pin<Box<Sleep>>>,
}

impl Outstanding {
    /// The message's id.
    pub fn id(&self) -> &str {
        &self.id
    }
}

impl Future for Outstanding {
    type Output = Result<Receipt, ReceiptError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let Poll::Ready(answer) = Pin::new(&mut self.answer).poll(cx) {
            let ended = |_| Err(ReceiptError::Unknown(WhyLost::RuntimeEnded));
            return Poll::Ready(answer.unwrap_or_else(ended));
        }
        if let Some(deadline) = &mut self.deadline
            && deadline.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Err(ReceiptError::OutOfTime));
        }
        Poll::Pending
    }
}

impl Drop for Outstanding {
    fn drop(&mut self) {
        self.receipts.forget(&self.id, self.number);
        // It may wait to be sent again.
        self.progress.give_up();
    }
}

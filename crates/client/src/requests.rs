//! Requests of a session that the bus answers by their `req`.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use hermes_bus_proto::Object;
use tokio::sync::oneshot;

use crate::connection::refusal;
use crate::error::CallError;
use crate::outbox::Progress;

/// Who waits, by number.
#[derive(Debug, Default)]
pub(crate) struct Requests {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    waiting: HashMap<u64, Waiting>,
    counted: u64,
}

#[derive(Debug)]
struct Waiting {
    answer: oneshot::Sender<Result<Object, CallError>>,
    progress: Progress,
}

/// A request that waits; forgotten when it is dropped.
pub(crate) struct Asked<'r> {
    requests: &'r Requests,
    pub(crate) number: u64,
    pub(crate) progress: Progress,
    pub(crate) answer: oneshot::Receiver<Result<Object, CallError>>,
}

impl Requests {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing in here panics half-way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn are_waited_for(&self) -> bool {
        !self.state().waiting.is_empty()
    }

    pub(crate) fn begin(&self) -> Asked<'_> {
        let (sender, answer) = oneshot::channel();
        let progress = Progress::default();
        let mut state = self.state();
        state.counted += 1;
        let number = state.counted;
        let waiting = Waiting { answer: sender, progress: progress.clone() };
        state.waiting.insert(number, waiting);
        Asked { requests: self, number, progress, answer }
    }

    /// A frame came. Gives it back if nobody waits for it.
    pub(crate) fn answer(&self, frame: Object) -> Option<Object> {
        let number = frame.get("req").and_then(|req| req.integer());
        let Some(number) = number.and_then(|number| u64::try_from(number).ok()) else {
            return Some(frame);
        };
        let Some(waiting) = self.state().waiting.remove(&number) else { return Some(frame) };
        let is_error = frame.text("type").as_deref() == Some("error");
        let _ = waiting.answer.send(if is_error { Err(refusal(&frame)) } else { Ok(frame) });
        None
    }

    /// The session ended: what it had written will not be answered.
    pub(crate) fn session_ended(&self) {
        let mut state = self.state();
        for (_, waiting) in state.waiting.extract_if(|_, waiting| waiting.progress.is_written()) {
            let _ = waiting.answer.send(Err(CallError::Closed));
        }
    }

    /// Nothing will be answered any more.
    pub(crate) fn end(&self) {
        self.state().waiting.clear();
    }
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        self.requests.state().waiting.remove(&self.number);
    }
}

//! Something that takes its time: waited for by a thread, or by an event loop that is called when it is
//! done. One and the same future for both.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use hermes_bus_client::{Message, Outstanding, Receipt, Subscriptions};
use pyo3::prelude::*;
use tokio::task::AbortHandle;

use crate::client::{Client, Inner};
use crate::failure::Failure;
use crate::message::to_python;
use crate::process::{Own, OwnRuntime};

/// What comes of it.
pub(crate) enum Value {
    Nothing,
    Flag(bool),
    Json(String),
    Message(Message),
    Receipt(Receipt),
    Outstanding(Outstanding),
    Subscriptions(Subscriptions),
    Client(Box<Inner>),
}

pub(crate) type Outcome = Result<Value, Failure>;
type Work = Pin<Box<dyn Future<Output = Outcome> + Send>>;

/// How often a thread that waits looks whether Python has a signal for it.
const SIGNALS_EVERY: Duration = Duration::from_millis(100);

/// An operation. Dropping it takes it back, as far as that is possible.
#[pyclass(frozen, module = "hermes_bus._native")]
pub(crate) struct Operation {
    own: Own<Running>,
}

struct Running {
    runtime: Arc<OwnRuntime>,
    state: Arc<Mutex<State>>,
    at_the_end: AtTheEnd,
}

/// What there is to be had when the client has ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum AtTheEnd {
    /// It was decided then at the latest, and needs no runtime.
    Decided,
    Impossible,
}

impl AtTheEnd {
    fn outcome(self, mut work: Work) -> Outcome {
        if self == AtTheEnd::Impossible {
            return Err(Failure::closed());
        }
        match work.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(outcome) => outcome,
            Poll::Pending => Err(Failure::closed()),
        }
    }
}

enum State {
    /// Nobody waits.
    Idle(Work),
    /// A thread waits.
    Waited,
    /// It goes on by itself.
    Spawned(AbortHandle),
    Done(Outcome),
    Taken,
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    // Nothing under this lock panics half-way.
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Operation {
    pub(crate) fn new(
        runtime: &Arc<OwnRuntime>,
        work: impl Future<Output = Outcome> + Send + 'static,
    ) -> Self {
        Self::with(runtime, work, AtTheEnd::Impossible)
    }

    fn with(
        runtime: &Arc<OwnRuntime>,
        work: impl Future<Output = Outcome> + Send + 'static,
        at_the_end: AtTheEnd,
    ) -> Self {
        let state = Arc::new(Mutex::new(State::Idle(Box::pin(work))));
        Operation { own: Own::new(Running { runtime: Arc::clone(runtime), state, at_the_end }) }
    }
}

#[pymethods]
impl Operation {
    /// Waits on this thread, without Python's lock, and returns what comes of it. Raises
    /// `NoAnswerError` after `timeout` seconds, and may then be called again; so it may after Ctrl-C.
    #[pyo3(signature = (timeout=None))]
    fn wait(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<Py<PyAny>> {
        let Running { runtime, state, at_the_end } = self.own.get()?;
        let deadline = timeout.map(seconds).and_then(|timeout| Instant::now().checked_add(timeout));
        let mut work = match std::mem::replace(&mut *lock(state), State::Waited) {
            State::Idle(work) => work,
            before => {
                *lock(state) = before;
                return Err(Failure::busy().into());
            }
        };
        let Some(alive) = runtime.get() else {
            *lock(state) = State::Taken;
            return finish(py, runtime, at_the_end.outcome(work));
        };
        // Who lets go of it last waits for its thread.
        let release = |alive| py.detach(|| drop(alive));
        loop {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            let slice = left.map_or(SIGNALS_EVERY, |left| left.min(SIGNALS_EVERY));
            let polled = py.detach(|| {
                let work = async { tokio::time::timeout(slice, &mut work).await };
                alive.block_on(work)
            });
            if let Ok(outcome) = polled {
                *lock(state) = State::Taken;
                release(alive);
                return finish(py, runtime, outcome);
            }
            let interrupted = py.check_signals();
            let is_late = left.is_some_and(|left| left <= slice);
            if interrupted.is_err() || is_late {
                *lock(state) = State::Idle(work);
                release(alive);
                return Err(interrupted.err().unwrap_or_else(|| Failure::timeout().into()));
            }
        }
    }

    /// Has it go on by itself; `done` is called without arguments, on a thread of the client.
    fn start(&self, py: Python<'_>, done: Py<PyAny>) -> PyResult<()> {
        let Running { runtime, state, at_the_end } = self.own.get()?;
        let mut held = lock(state);
        let work = match std::mem::replace(&mut *held, State::Taken) {
            State::Idle(work) => work,
            before => {
                *held = before;
                return Err(Failure::busy().into());
            }
        };
        let Some(alive) = runtime.get() else {
            *held = State::Done(at_the_end.outcome(work));
            drop(held);
            return done.call0(py).map(drop);
        };
        let place = Arc::clone(state);
        let task = alive.spawn(async move {
            let outcome = work.await;
            *lock(&place) = State::Done(outcome);
            // Nothing to be told any more to an interpreter that ends, or to a loop that is closed.
            Python::try_attach(|py| {
                let _ = done.call0(py);
                drop(done);
            });
        });
        *held = State::Spawned(task.abort_handle());
        drop(held);
        py.detach(|| drop(alive));
        Ok(())
    }

    /// What came of it. Only after `done` was called.
    fn result(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let Running { runtime, state, .. } = self.own.get()?;
        let before = std::mem::replace(&mut *lock(state), State::Taken);
        match before {
            State::Done(outcome) => finish(py, runtime, outcome),
            before => {
                *lock(state) = before;
                Err(Failure::busy().into())
            }
        }
    }

    /// Takes it back, as far as that is possible.
    fn cancel(&self) {
        let Ok(Running { state, .. }) = self.own.get() else { return };
        let before = std::mem::replace(&mut *lock(state), State::Taken);
        match before {
            State::Spawned(task) => task.abort(),
            // A thread that waits puts it back by itself.
            State::Waited => *lock(state) = State::Waited,
            State::Idle(_) | State::Done(_) | State::Taken => {}
        }
    }
}

/// Seconds as Python gives them: negative ones, and what is no number, are none.
pub(crate) fn seconds(seconds: f64) -> Duration {
    const FOR_EVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
    if seconds > 0.0 {
        Duration::try_from_secs_f64(seconds).unwrap_or(FOR_EVER)
    } else {
        Duration::ZERO
    }
}

fn finish(py: Python<'_>, runtime: &Arc<OwnRuntime>, outcome: Outcome) -> PyResult<Py<PyAny>> {
    let object = match outcome? {
        Value::Nothing => py.None(),
        Value::Flag(flag) => flag.into_pyobject(py)?.to_owned().into_any().unbind(),
        Value::Json(text) => text.into_pyobject(py)?.into_any().unbind(),
        Value::Message(message) => to_python(py, &message)?.unbind(),
        Value::Receipt(receipt) => {
            let Receipt { id, status, to, endpoints, failed } = receipt;
            (id, status.as_str(), to, endpoints, failed).into_pyobject(py)?.into_any().unbind()
        }
        Value::Outstanding(outstanding) => {
            let id = outstanding.id().to_owned();
            let receipt = async { Ok(Value::Receipt(outstanding.await?)) };
            let receipt = Operation::with(runtime, receipt, AtTheEnd::Decided);
            (id, receipt).into_pyobject(py)?.into_any().unbind()
        }
        Value::Subscriptions(Subscriptions { topics, groups }) => {
            let lists = (Vec::from_iter(topics), Vec::from_iter(groups));
            lists.into_pyobject(py)?.into_any().unbind()
        }
        Value::Client(inner) => Client::new(*inner).into_pyobject(py)?.into_any().unbind(),
    };
    Ok(object)
}

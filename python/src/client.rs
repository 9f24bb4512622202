//! A client with a name.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hermes_bus_client::{
    Client as Client_, Event, Events, Inbox, Message, Outgoing as Message_, SendError, Sending,
};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyList};

use crate::failure::{Failure, why_closed};
use crate::message::{Outgoing, to_python};
use crate::operation::{Operation, Value, seconds};
use crate::process::{Own, OwnRuntime};

/// Frames from this size on are written without Python's lock: what takes longer than handing it over.
const LARGE_BYTES: usize = 64 * 1024;
/// How many messages that were not acknowledged are remembered, at the most.
const UNSETTLED_MAX: usize = 2 * 65_536;

/// Who acknowledges.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Acknowledging {
    Never,
    /// The program does, message by message.
    Explicit,
    /// Whoever asks for more messages is done with those before.
    Automatic,
}

impl Acknowledging {
    pub(crate) fn of(word: &str) -> PyResult<Self> {
        match word {
            "never" => Ok(Acknowledging::Never),
            "explicit" => Ok(Acknowledging::Explicit),
            "automatic" => Ok(Acknowledging::Automatic),
            _ => Err(PyValueError::new_err(format!(
                "acknowledge must be 'never', 'explicit' or 'automatic', not '{word}'"
            ))),
        }
    }
}

/// A client with a name.
#[pyclass(frozen, module = "hermes_bus._native")]
pub(crate) struct Client {
    own: Own<Inner>,
}

pub(crate) struct Inner {
    client: Client_,
    reception: Arc<tokio::sync::Mutex<Reception>>,
    unsettled: Mutex<Unsettled>,
    events: Mutex<Events>,
    runtime: Arc<OwnRuntime>,
}

/// What has come. Held by whoever waits for it; then there is nothing to be had.
struct Reception {
    inbox: Inbox,
    /// What was found by waiting.
    found: VecDeque<Message>,
}

/// What was handed out and is to be acknowledged. By number and id: after a restart of a bus that kept
/// nothing the same number may be another message's.
#[derive(Default)]
struct Unsettled {
    messages: HashMap<Key, Message>,
    order: VecDeque<Key>,
    /// What is acknowledged when more is asked for.
    last: Vec<Key>,
    is_automatic: bool,
}

type Key = (u64, Option<String>);

impl Inner {
    pub(crate) fn new(
        client: Client_,
        inbox: Inbox,
        acknowledging: Acknowledging,
        runtime: Arc<OwnRuntime>,
    ) -> Self {
        let events = Mutex::new(client.events());
        let reception = Reception { inbox, found: VecDeque::new() };
        let is_automatic = acknowledging == Acknowledging::Automatic;
        Inner {
            client,
            reception: Arc::new(tokio::sync::Mutex::new(reception)),
            unsettled: Mutex::new(Unsettled { is_automatic, ..Unsettled::default() }),
            events,
            runtime,
        }
    }

    fn unsettled(&self) -> MutexGuard<'_, Unsettled> {
        self.unsettled.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn operation(
        &self,
        work: impl Future<Output = Result<Value, Failure>> + Send + 'static,
    ) -> PyResult<Operation> {
        Ok(Operation::new(&self.runtime, work))
    }

    /// `None`: it is sent.
    fn sending(&self, sending: Result<Sending, SendError>) -> PyResult<Option<Operation>> {
        let sending = sending.map_err(Failure::from)?;
        if sending.is_done() {
            return Ok(None);
        }
        let work = async {
            sending.finish().await?;
            Ok(Value::Nothing)
        };
        self.operation(work).map(Some)
    }
}

impl Unsettled {
    fn add(&mut self, message: &Message) {
        let Some(seq) = message.seq().filter(|_| message.is_to_be_acknowledged()) else { return };
        let key = (seq, message.id().map(|id| id.into_owned()));
        if self.is_automatic {
            self.last.push(key.clone());
        }
        if self.messages.insert(key.clone(), message.clone()).is_none() {
            self.order.push_back(key);
        }
        while self.order.len() > UNSETTLED_MAX {
            if let Some(oldest) = self.order.pop_front() {
                self.messages.remove(&oldest);
            }
        }
    }

    fn take(&mut self, key: &Key) -> Option<Message> {
        let message = self.messages.remove(key)?;
        while self.order.front().is_some_and(|oldest| !self.messages.contains_key(oldest)) {
            self.order.pop_front();
        }
        Some(message)
    }

    /// Whoever asks for more is done with what it has.
    fn finish(&mut self) {
        for key in std::mem::take(&mut self.last) {
            if let Some(message) = self.take(&key) {
                message.ack();
            }
        }
    }
}

impl Client {
    pub(crate) fn new(inner: Inner) -> Self {
        Client { own: Own::new(inner) }
    }
}

#[pymethods]
impl Client {
    /// The name that it has.
    fn name(&self) -> PyResult<String> {
        Ok(self.own.get()?.client.name().to_owned())
    }

    /// Whether it belongs to this process.
    fn is_ours(&self) -> bool {
        self.own.is_ours()
    }

    /// UUID of the session, while there is one.
    fn session_id(&self) -> PyResult<Option<String>> {
        Ok(self.own.get()?.client.session_id())
    }

    fn is_connected(&self) -> bool {
        self.own.get().is_ok_and(|inner| inner.client.welcome().is_some())
    }

    /// The level of the protocol that the session speaks, what bus it is, and how much waited in the
    /// mailbox.
    fn welcome(&self) -> PyResult<Option<(u8, Option<String>, u64)>> {
        let welcome = self.own.get()?.client.welcome();
        Ok(welcome.map(|it| (it.protocol, it.server.clone(), it.mailbox_depth)))
    }

    /// Code and words for why it is closed; `None` while it is not.
    fn closed(&self) -> PyResult<Option<(String, String)>> {
        Ok(self.own.get()?.client.closed().as_ref().map(why_closed))
    }

    /// Sends; `None` if that is done already.
    fn send(
        &self,
        py: Python<'_>,
        to: &str,
        sender: &str,
        body: &str,
    ) -> PyResult<Option<Operation>> {
        let inner = self.own.get()?;
        let begin = || inner.client.begin_send_json(to, Some(sender), body);
        let sending = if body.len() < LARGE_BYTES { begin() } else { py.detach(begin) };
        inner.sending(sending)
    }

    /// The same for a message that says more.
    fn send_message(&self, py: Python<'_>, message: &Outgoing) -> PyResult<Option<Operation>> {
        let inner = self.own.get()?;
        let message: &Message_ = &message.message;
        inner.sending(py.detach(|| inner.client.begin_send(message)))
    }

    /// Sends, and gives what the receipt can be waited for on.
    fn submit(&self, message: &Outgoing) -> PyResult<Operation> {
        let inner = self.own.get()?;
        let (client, message) = (inner.client.clone(), message.message.clone());
        inner.operation(async move { Ok(Value::Outstanding(client.submit(&message).await?)) })
    }

    /// Sends, and waits for the reply.
    fn request(&self, message: &Outgoing, timeout: f64) -> PyResult<Operation> {
        let inner = self.own.get()?;
        let (client, message) = (inner.client.clone(), message.message.clone());
        let timeout = seconds(timeout);
        inner.operation(async move { Ok(Value::Message(client.request(&message, timeout).await?)) })
    }

    /// `subscribe`, `unsubscribe`, `join` or `leave`.
    fn change(&self, what: &str, names: Vec<String>) -> PyResult<Operation> {
        let inner = self.own.get()?;
        let (client, what) = (inner.client.clone(), what.to_owned());
        inner.operation(async move {
            Ok(Value::Subscriptions(match what.as_str() {
                "subscribe" => client.subscribe(names).await?,
                "unsubscribe" => client.unsubscribe(names).await?,
                "join" => client.join(names).await?,
                _ => client.leave(names).await?,
            }))
        })
    }

    /// Where a message is, as JSON.
    fn trace(&self, id: String) -> PyResult<Operation> {
        let inner = self.own.get()?;
        let client = inner.client.clone();
        inner.operation(async move {
            let trace = serde_json::to_string(&client.trace(id).await?);
            let trace = trace.map_err(|error| Failure::new("BusError", "unexpected", error))?;
            Ok(Value::Json(trace))
        })
    }

    /// What has come, up to `limit` messages. Never waits.
    #[pyo3(signature = (limit=None))]
    fn poll<'py>(&self, py: Python<'py>, limit: Option<usize>) -> PyResult<Bound<'py, PyList>> {
        let inner = self.own.get()?;
        let list = PyList::empty(py);
        // Whoever waits would have what is there.
        let Ok(mut reception) = inner.reception.try_lock() else { return Ok(list) };
        let mut unsettled = inner.unsettled();
        unsettled.finish();
        // What comes meanwhile is for the next call.
        let there = reception.found.len() + reception.inbox.len();
        for _ in 0..there.min(limit.unwrap_or(usize::MAX)) {
            let message = reception.found.pop_front().or_else(|| reception.inbox.try_next());
            let Some(message) = message else { break };
            match to_python(py, &message) {
                Ok(object) => {
                    unsettled.add(&message);
                    list.append(object)?;
                }
                Err(error) => unreadable(py, &message, &error)?,
            }
        }
        Ok(list)
    }

    /// Waits until a message is there (`True`), or the client is closed (`False`).
    fn ready(&self) -> PyResult<Operation> {
        let inner = self.own.get()?;
        let reception = Arc::clone(&inner.reception);
        inner.operation(async move {
            let mut reception = reception.lock().await;
            if reception.found.is_empty() {
                let Some(message) = reception.inbox.next().await else {
                    return Ok(Value::Flag(false));
                };
                reception.found.push_back(message);
            }
            Ok(Value::Flag(true))
        })
    }

    /// Confirms a message. Whether there was anything to confirm.
    fn ack(&self, seq: u64, id: Option<String>) -> PyResult<bool> {
        let message = self.own.get()?.unsettled().take(&(seq, id));
        Ok(message.is_some_and(|message| message.ack()))
    }

    /// Gives a message back, or refuses it for good.
    fn nack(&self, seq: u64, id: Option<String>, reason: &str, requeue: bool) -> PyResult<bool> {
        let message = self.own.get()?.unsettled().take(&(seq, id));
        Ok(message.is_some_and(|it| if requeue { it.nack(reason) } else { it.reject(reason) }))
    }

    /// What has happened to the session since the last call.
    fn events<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let inner = self.own.get()?;
        let mut events = inner.events.lock().unwrap_or_else(PoisonError::into_inner);
        let list = PyList::empty(py);
        while let Some(event) = events.try_next() {
            list.append(event_to_python(py, event)?)?;
        }
        Ok(list)
    }

    /// Ends the session, after what was sent before is in the socket.
    fn close(&self) -> PyResult<Operation> {
        let inner = self.own.get()?;
        let client = inner.client.clone();
        inner.operation(async move {
            client.close().await;
            Ok(Value::Nothing)
        })
    }

    /// Ends the thread that it lives on. What has come can still be had.
    fn end(&self, py: Python<'_>) -> PyResult<()> {
        let inner = self.own.get()?;
        py.detach(|| inner.runtime.end());
        Ok(())
    }
}

/// A message that Python cannot read, for want of stack perhaps. It must not keep others from coming.
fn unreadable(py: Python<'_>, message: &Message, error: &PyErr) -> PyResult<()> {
    static TELL: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let tell = TELL.get_or_try_init(py, || {
        py.import("hermes_bus._json")?.getattr("unreadable").map(Bound::unbind)
    })?;
    message.reject(&format!("the receiver cannot read it: {error}"));
    tell.call1(py, (message.id(), error.value(py)))?;
    Ok(())
}

fn event_to_python<'py>(py: Python<'py>, event: Event) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    let kind = match event {
        Event::Reconnected { session_id } => {
            dict.set_item("session_id", session_id)?;
            "connected"
        }
        Event::Disconnected { why } => {
            let (code, detail) = why_closed(&why);
            dict.set_item("code", code)?;
            dict.set_item("detail", detail)?;
            "disconnected"
        }
        Event::RetryFailed { attempts, error } => {
            dict.set_item("attempts", attempts)?;
            dict.set_item("detail", error)?;
            "retry_failed"
        }
        Event::Dropped { messages } => {
            dict.set_item("count", messages)?;
            "dropped"
        }
        Event::Gap(gap) => {
            dict.set_item("source", gap.source)?;
            dict.set_item("count", gap.count)?;
            dict.set_item("bytes", gap.bytes)?;
            "gap"
        }
        Event::Refused { code, detail, id } => {
            dict.set_item("code", code)?;
            dict.set_item("detail", detail)?;
            dict.set_item("id", id)?;
            "refused"
        }
        Event::Closed { why } => {
            let (code, detail) = why_closed(&why);
            dict.set_item("code", code)?;
            dict.set_item("detail", detail)?;
            "closed"
        }
        Event::Missed(count) => {
            dict.set_item("count", count)?;
            "missed"
        }
    };
    dict.set_item("event", kind)?;
    Ok(dict)
}

//! A bus: where it is, and the calls that need no name.

use std::path::PathBuf;
use std::sync::Arc;

use hermes_bus_client::{
    Acknowledge, Bus as Bus_, ClientBuilder, Conflict, QueueLimits, Repeats, bus_directory,
    socket_in,
};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use serde_json::Value as Json;

use crate::client::{Acknowledging, Inner};
use crate::failure::Failure;
use crate::message::Outgoing;
use crate::operation::{Operation, Value, seconds};
use crate::process::OwnRuntime;

/// `HERMES_BUS_ROOT`, else `~/.hermes`.
#[pyfunction]
pub(crate) fn default_root() -> PyResult<String> {
    Ok(bus_directory(None)?.to_string_lossy().into_owned())
}

/// The socket in it.
#[pyfunction]
pub(crate) fn default_socket() -> PyResult<String> {
    Ok(socket_in(&bus_directory(None)?).to_string_lossy().into_owned())
}

/// A bus. It belongs to no process, and holds nothing open.
#[pyclass(frozen, module = "hermes_bus._native")]
pub(crate) struct Bus {
    bus: Bus_,
}

fn no_thread(error: std::io::Error) -> Failure {
    Failure::new("ConnectError", "io", format!("cannot set up a connection: {error}"))
}

/// On whose thread a call is carried out.
fn runtime(threaded: bool) -> Result<Arc<OwnRuntime>, Failure> {
    let made = if threaded { OwnRuntime::with_thread() } else { OwnRuntime::of_caller() };
    made.map(Arc::new).map_err(no_thread)
}

#[pymethods]
impl Bus {
    /// Without a socket the default one. `start`: whether a daemon is started where none runs, which is
    /// only done for the default one; `manager` starts it.
    #[new]
    #[pyo3(signature = (socket=None, *, start=true, manager=None, patience=5.0))]
    fn new(
        socket: Option<PathBuf>,
        start: bool,
        manager: Option<PathBuf>,
        patience: f64,
    ) -> PyResult<Self> {
        let directory = bus_directory(None);
        let default = directory.as_ref().ok().map(|directory| socket_in(directory));
        let is_default = socket.is_none() || socket == default;
        let mut bus = match (socket, directory) {
            (_, Ok(directory)) if is_default && start => Bus_::in_directory(directory),
            (Some(socket), _) => Bus_::at(socket),
            (None, directory) => Bus_::at(socket_in(&directory?)),
        };
        if let Some(manager) = manager {
            bus = bus.manager(manager);
        }
        Ok(Bus { bus: bus.patience(seconds(patience)) })
    }

    /// Sends one message on a connection of its own: a receipt, or a refusal.
    fn send(&self, message: &Outgoing, threaded: bool) -> PyResult<Operation> {
        let (bus, message) = (self.bus.clone(), message.message.clone());
        let work = async move { Ok(Value::Receipt(bus.send(&message).await?)) };
        Ok(Operation::new(&runtime(threaded)?, work))
    }

    /// Who is connected, as JSON.
    fn list(&self, threaded: bool) -> PyResult<Operation> {
        let bus = self.bus.clone();
        let work = async move {
            let listing = serde_json::to_string(&bus.list().await?);
            let listing = listing.map_err(|error| Failure::new("BusError", "unexpected", error))?;
            Ok(Value::Json(listing))
        };
        Ok(Operation::new(&runtime(threaded)?, work))
    }

    /// Connects, and where there is no bus and it is allowed, starts one.
    fn open(&self, threaded: bool) -> PyResult<Operation> {
        let bus = self.bus.clone();
        let work = async move {
            bus.open().await?;
            Ok(Value::Nothing)
        };
        Ok(Operation::new(&runtime(threaded)?, work))
    }

    /// A client with a name, on a thread of its own. `later`: it is there at once, and connects when it
    /// can.
    #[pyo3(signature = (name, *, later=false, mailbox=None, acknowledge="never", in_flight=None, groups=vec![], topics=vec![], conflict="replace", token=None, meta=None, hide_repeats=false, queue_messages=16384, queue_bytes=16777216))]
    #[expect(clippy::too_many_arguments, reason = "they are what a client may ask for")]
    fn connect(
        &self,
        name: &str,
        later: bool,
        mailbox: Option<bool>,
        acknowledge: &str,
        in_flight: Option<u32>,
        groups: Vec<String>,
        topics: Vec<String>,
        conflict: &str,
        token: Option<String>,
        meta: Option<&str>,
        hide_repeats: bool,
        queue_messages: usize,
        queue_bytes: usize,
    ) -> PyResult<Operation> {
        let acknowledging = Acknowledging::of(acknowledge)?;
        let queue =
            QueueLimits { messages: queue_messages, bytes: queue_bytes, ..QueueLimits::default() };
        let mut builder = self.bus.client(name).groups(groups).topics(topics).queue(queue);
        builder = builder.conflict(conflict_of(conflict)?);
        if acknowledging != Acknowledging::Never {
            builder = builder.acknowledge(Acknowledge::Explicit);
        }
        if let Some(mailbox) = mailbox {
            builder = builder.mailbox(mailbox);
        }
        if let Some(messages) = in_flight {
            builder = builder.in_flight(messages);
        }
        if let Some(token) = token {
            builder = builder.token(token);
        }
        if let Some(meta) = meta {
            builder = builder.meta(object(meta)?);
        }
        if hide_repeats {
            builder = builder.repeats(Repeats::Hide);
        }
        let runtime = runtime(true)?;
        let work = begin(builder, later, acknowledging, Arc::clone(&runtime));
        Ok(Operation::new(&runtime, work))
    }
}

async fn begin(
    builder: ClientBuilder,
    later: bool,
    acknowledging: Acknowledging,
    runtime: Arc<OwnRuntime>,
) -> Result<Value, Failure> {
    // The session lives on the runtime's thread, whoever waits for its beginning.
    let (client, inbox) = if later { builder.connect_later() } else { builder.connect().await? };
    Ok(Value::Client(Box::new(Inner::new(client, inbox, acknowledging, runtime))))
}

fn conflict_of(word: &str) -> PyResult<Conflict> {
    match word {
        "replace" => Ok(Conflict::Replace),
        "refuse" => Ok(Conflict::Refuse),
        "suffix" => Ok(Conflict::Suffix),
        _ => Err(PyValueError::new_err(format!(
            "conflict must be 'replace', 'refuse' or 'suffix', not '{word}'"
        ))),
    }
}

fn object(text: &str) -> PyResult<serde_json::Map<String, Json>> {
    serde_json::from_str(text)
        .map_err(|error| PyValueError::new_err(format!("meta must be a JSON object: {error}")))
}

//! Messages: as Python objects, and as Python composes them.

use std::time::{Duration, Instant};

use hermes_bus_client::{Message, Outgoing as Message_, Status};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyString, PyTuple};

use crate::failure::Failure;
use crate::operation::seconds;

/// The whole message, as Python's `json` reads it. It is copied once, into the text that is read.
pub(crate) fn to_python<'py>(py: Python<'py>, message: &Message) -> PyResult<Bound<'py, PyAny>> {
    static SCAN: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let scan = SCAN.get_or_try_init(py, || {
        py.import("hermes_bus._json")?.getattr("scan").map(Bound::unbind)
    })?;
    let bytes = message.frame().as_bytes();
    let start = bytes.iter().position(|byte| *byte == b'{').unwrap_or(0);
    let text = PyString::from_bytes(py, bytes)?;
    let read = scan.bind(py).call1((text, start))?;
    read.cast::<PyTuple>()?.get_item(0)
}

/// A message to be sent.
#[pyclass(frozen, module = "hermes_bus._native")]
pub(crate) struct Outgoing {
    pub(crate) message: Message_,
}

#[pymethods]
impl Outgoing {
    #[new]
    #[pyo3(signature = (to, body, *, sender=None, id=None, reply_to=None, receipt=None, queue=false, ttl=None, hops=None, traceparent=None, retry_for=None))]
    #[expect(clippy::too_many_arguments, reason = "they are the fields of a message")]
    fn new(
        to: &str,
        body: &str,
        sender: Option<&str>,
        id: Option<String>,
        reply_to: Option<String>,
        receipt: Option<&str>,
        queue: bool,
        ttl: Option<f64>,
        hops: Option<u32>,
        traceparent: Option<String>,
        retry_for: Option<f64>,
    ) -> PyResult<Self> {
        let mut message = Message_::json(to, body).map_err(Failure::from)?;
        if let Some(sender) = sender {
            message = message.from(sender);
        }
        if let Some(id) = id {
            message = message.id(id);
        }
        message.ensure_id();
        if let Some(id) = reply_to {
            message = message.reply_to(id);
        }
        if let Some(word) = receipt {
            let status = Status::of(word).ok_or_else(|| {
                let text =
                    format!("there is no receipt '{word}': accepted, stored, delivered or acked");
                Failure::new("InvalidMessageError", "invalid_field", text)
            })?;
            message = message.receipt(status);
        }
        if queue {
            message = message.queue();
        }
        if let Some(ttl) = ttl {
            message = message.ttl(seconds(ttl));
        }
        if let Some(hops) = hops {
            message = message.hops(hops);
        }
        if let Some(context) = traceparent {
            message = message.traceparent(context);
        }
        if let Some(time) = retry_for {
            const A_YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
            message = message.retry_until(Instant::now() + seconds(time).min(A_YEAR));
        }
        Ok(Outgoing { message })
    }
}

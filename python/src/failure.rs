//! What went wrong, as an exception of the package: its class, a code for programs, words for people.

use hermes_bus_client::{
    BodyError, CallError, ConnectError, ReceiptError, RequestError, SendError, Status, WhyLost,
};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

/// An exception of `hermes_bus.errors` in the making.
#[derive(Debug)]
pub(crate) struct Failure {
    class: &'static str,
    code: String,
    text: String,
    suggestions: Vec<String>,
    reached: Option<Status>,
}

impl Failure {
    pub(crate) fn new(class: &'static str, code: &str, text: impl ToString) -> Self {
        let (code, text) = (code.to_owned(), text.to_string());
        Failure { class, code, text, suggestions: Vec::new(), reached: None }
    }

    pub(crate) fn forked() -> Self {
        let text = "this client belongs to the process that made it: make a new one after a fork";
        Failure::new("ForkedError", "forked", text)
    }

    pub(crate) fn busy() -> Self {
        Failure::new("BusError", "busy", "another thread is waiting for this already")
    }

    pub(crate) fn closed() -> Self {
        Failure::new("ClosedError", "client_closed", "the client is closed")
    }

    /// One that Python's `except TimeoutError` catches.
    pub(crate) fn timeout() -> Self {
        Failure::new("NoAnswerError", "timeout", "it did not happen in time")
    }

    fn refused(text: String, code: String, suggestions: Vec<String>) -> Self {
        Failure { class: "RefusedError", code, text, suggestions, reached: None }
    }
}

impl From<ConnectError> for Failure {
    fn from(error: ConnectError) -> Self {
        let text = error.to_string();
        let code = match error {
            ConnectError::NoBus { .. } => "no_bus",
            ConnectError::Start { .. } => "start_failed",
            ConnectError::Io { .. } => "io",
            ConnectError::NoAnswer { .. } => "no_answer",
            ConnectError::Refused { code, .. } => {
                return Failure::new("ConnectError", &code, text);
            }
            ConnectError::NameTaken { .. } => "name_taken",
            ConnectError::Closed { .. } => "closed",
            ConnectError::NeedsLevel2 { .. } => "needs_level_2",
            ConnectError::NotABus { .. } => "not_a_bus",
        };
        Failure::new("ConnectError", code, text)
    }
}

impl From<CallError> for Failure {
    fn from(error: CallError) -> Self {
        let text = error.to_string();
        match error {
            CallError::Connect(error) => error.into(),
            CallError::Refused { code, suggestions, .. } => {
                Failure::refused(text, code, suggestions)
            }
            CallError::NeedsLevel2 { .. } => Failure::new("BusError", "needs_level_2", text),
            CallError::ClientClosed => Failure::closed(),
            CallError::Message(error) => {
                Failure::new("InvalidMessageError", error.code().as_str(), text)
            }
            CallError::NoAnswer(_) => Failure::new("NoAnswerError", "no_answer", text),
            CallError::Closed => Failure::new("ConnectError", "closed", text),
            CallError::Unexpected(_) => Failure::new("BusError", "unexpected", text),
            CallError::Io(_) => Failure::new("ConnectError", "io", text),
        }
    }
}

impl From<SendError> for Failure {
    fn from(error: SendError) -> Self {
        let text = error.to_string();
        match error {
            SendError::Message(error) => {
                Failure::new("InvalidMessageError", error.code().as_str(), text)
            }
            SendError::NotTaken(_) => Failure::new("NoAnswerError", "not_taken", text),
            SendError::Closed => Failure::closed(),
        }
    }
}

impl From<ReceiptError> for Failure {
    fn from(error: ReceiptError) -> Self {
        let text = error.to_string();
        match error {
            ReceiptError::Send(error) => error.into(),
            ReceiptError::Refused { code, reached, suggestions, .. } => {
                Failure { reached, ..Failure::refused(text, code, suggestions) }
            }
            ReceiptError::Unknown(_) => Failure::new("ClosedError", "fate_unknown", text),
            ReceiptError::OutOfTime => Failure::new("NoAnswerError", "no_answer", text),
            ReceiptError::Duplicate => Failure::new("BusError", "duplicate", text),
            ReceiptError::NeedsLevel2 => Failure::new("BusError", "needs_level_2", text),
            ReceiptError::Unexpected(_) => Failure::new("BusError", "unexpected", text),
        }
    }
}

impl From<RequestError> for Failure {
    fn from(error: RequestError) -> Self {
        let text = error.to_string();
        match error {
            RequestError::Send(error) => error.into(),
            RequestError::NoReply(_) => Failure::new("NoAnswerError", "no_reply", text),
            RequestError::Closed => Failure::closed(),
            RequestError::Duplicate => Failure::new("BusError", "duplicate", text),
        }
    }
}

impl From<BodyError> for Failure {
    fn from(error: BodyError) -> Self {
        Failure::new("InvalidMessageError", "invalid_json", error)
    }
}

/// Code and words for the end of a client.
pub(crate) fn why_closed(why: &WhyLost) -> (String, String) {
    let code = match why {
        WhyLost::Refused { code, .. } => code,
        WhyLost::Replaced => "replaced",
        WhyLost::ByOwner => "client_closed",
        WhyLost::NeedsLevel2(_) => "needs_level_2",
        WhyLost::Bye(reason) => reason,
        WhyLost::Silent(_) => "silent",
        WhyLost::Unexpected(_) => "unexpected",
        WhyLost::ConnectionClosed => "closed",
        WhyLost::RuntimeEnded => "runtime_ended",
    };
    (code.to_owned(), why.to_string())
}

impl From<Failure> for PyErr {
    fn from(failure: Failure) -> Self {
        static MAKE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        Python::attach(|py| {
            let make = MAKE.get_or_try_init(py, || {
                py.import("hermes_bus.errors")?.getattr("_make").map(Bound::unbind)
            });
            let made = make.and_then(|make| {
                let Failure { class, code, text, suggestions, reached } = failure;
                make.call1(py, (class, code, text, suggestions, reached.map(Status::as_str)))
            });
            match made {
                Ok(exception) => PyErr::from_value(exception.into_bound(py)),
                Err(error) => error,
            }
        })
    }
}

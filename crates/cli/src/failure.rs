//! What came of it: why a program did not do what it was asked, in words, as a code for scripts, and
//! as an exit code.

use std::path::Path;

use hermes_bus_client::{
    BodyError, Bus, CallError, ConnectError, Listing, Receipt, RequestError, Start, Status,
    bus_directory, nearest, quoted_list, socket_in,
};
use serde_json::{Value, json};

use crate::screen::harmless_line;

/// Exit codes; [`crate::arguments::EXIT_CODES`] is their table.
pub mod exit {
    /// Not done.
    pub const FAILED: u8 = 1;
    /// Wrong usage.
    pub const USAGE: u8 = 2;
    /// Time ran out.
    pub const TIMED_OUT: u8 = 3;
    /// Standard input cannot be read.
    pub const NO_INPUT: u8 = 4;
    /// Another session took the name.
    pub const REPLACED: u8 = 5;
    /// A command that was given with `--exec` failed.
    pub const COMMAND_FAILED: u8 = 6;
}

/// A message that was taken, for `--json`.
pub fn receipt_json(to: &str, receipt: &Receipt) -> Value {
    let status = receipt.status.as_str();
    let mut object = json!({"ok": true, "to": to, "id": receipt.id, "status": status});
    if let Some(taken_by) = receipt.to.as_ref().filter(|taken_by| *taken_by != to) {
        object["taken_by"] = json!(taken_by);
    }
    for (key, count) in [("endpoints", receipt.endpoints), ("failed", receipt.failed)] {
        if let Some(count) = count {
            object[key] = json!(count);
        }
    }
    object
}

/// A message that was taken, in words: how far it came, with whom.
pub fn receipt_words(to: &str, receipt: &Receipt) -> String {
    let taken_by = receipt.to.as_deref().filter(|taken_by| *taken_by != to);
    let whom = match (receipt.endpoints, taken_by) {
        (Some(1), _) => "1 endpoint".to_owned(),
        (Some(endpoints), _) => format!("{endpoints} endpoints"),
        (None, Some(taken_by)) => {
            format!("{} (of {})", harmless_line(taken_by), harmless_line(to))
        }
        (None, None) if to.is_empty() => "all endpoints".to_owned(),
        (None, None) => harmless_line(to),
    };
    let how_far = match receipt.status {
        Status::Accepted => "accepted for",
        Status::Stored => "stored for",
        Status::Delivered => "handed over to",
        Status::Acked => "acknowledged by",
    };
    let failed = receipt.failed.filter(|failed| *failed > 0);
    let failed = failed.map(|failed| format!(", but not with {failed} of them"));
    format!("{how_far} {whom}{}", failed.unwrap_or_default())
}

/// Whether a message came as far as it was to: with everybody.
pub fn is_success(receipt: &Receipt) -> bool {
    receipt.failed.unwrap_or(0) == 0
}

/// The state that was waited for, in words.
fn state_words(status: Status) -> &'static str {
    match status {
        Status::Accepted => "accepted",
        Status::Stored => "stored",
        Status::Delivered => "handed over",
        Status::Acked => "acknowledged",
    }
}

/// What went wrong.
#[derive(Debug)]
pub struct Failure {
    /// The exit code.
    pub exit_code: u8,
    /// A word for scripts: one of the bus's error codes, or one of this program's own.
    pub code: String,
    /// What failed, on what, and what to do next.
    pub text: String,
    /// Names that may have been meant.
    pub suggestions: Vec<String>,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Failure {}

impl Failure {
    /// A failure of this program's own.
    pub fn new(code: &str, text: impl Into<String>) -> Self {
        let (code, text) = (code.to_owned(), text.into());
        Failure { exit_code: exit::FAILED, code, text, suggestions: Vec::new() }
    }

    /// With more to be said.
    pub fn adding(mut self, more: &str) -> Self {
        self.text.push_str(more);
        self
    }

    /// With another exit code.
    pub fn exits_with(mut self, exit_code: u8) -> Self {
        self.exit_code = exit_code;
        self
    }

    /// For `--json`.
    pub fn to_json(&self) -> Value {
        let mut object = json!({"ok": false, "error": self.code, "detail": self.text});
        if !self.suggestions.is_empty() {
            object["suggestions"] = json!(self.suggestions);
        }
        object
    }

    /// A body that cannot be sent.
    pub fn body(error: &BodyError) -> Self {
        match error {
            BodyError::NotAnObject(_) => Failure::new(
                "invalid_body",
                format!("{error}: --type and --channel can only be set in an object"),
            ),
            BodyError::NotJson(_) | BodyError::Serialize(_) => {
                Failure::new("invalid_body", format!("Invalid JSON body: {error}"))
            }
        }
    }

    /// No connection, or no session.
    pub fn connecting(error: &ConnectError, start: &Start) -> Self {
        let (code, advice) = match error {
            ConnectError::NoBus { address } if *start == Start::Never => {
                ("no_bus", how_to_start(Path::new(address)))
            }
            ConnectError::NoBus { .. } => ("no_bus", String::new()),
            ConnectError::Start { .. } => ("start_failed", String::new()),
            ConnectError::Io { .. } => ("cannot_connect", String::new()),
            ConnectError::NoAnswer { .. } => ("no_answer", HUNG.to_owned()),
            ConnectError::Refused { code, .. } => (code.as_str(), String::new()),
            ConnectError::NameTaken { .. } => ("name_taken", String::new()),
            ConnectError::Closed { .. } => ("closed", String::new()),
            ConnectError::NotABus { .. } => ("not_a_bus", String::new()),
            ConnectError::NeedsLevel2 { .. } => ("needs_level_2", TOO_OLD.to_owned()),
        };
        Failure::new(code, format!("{}{advice}", harmless_line(&error.to_string())))
    }

    /// A bus that does not know an operation.
    pub fn too_old(bus: &Bus, op: &str) -> Self {
        let text = format!("the bus on {} does not know '{op}'{TOO_OLD}", bus.address());
        Failure::new("needs_level_2", text)
    }

    /// A question that has no answer.
    pub fn asking(error: &CallError, bus: &Bus) -> Self {
        let code = match error {
            CallError::Connect(error) => return Failure::connecting(error, bus.start_policy()),
            CallError::Refused { code, .. } => code,
            CallError::Message(refused) => refused.code().as_str(),
            CallError::NeedsLevel2 { .. } => {
                let what = format!("{error} (on {}){TOO_OLD}", bus.address());
                return Failure::new("needs_level_2", what);
            }
            CallError::NoAnswer(_) => {
                let what = format!("{error} (on {}){HUNG}", bus.address());
                return Failure::new("no_answer", what);
            }
            CallError::Closed | CallError::ClientClosed => "closed",
            CallError::Unexpected(_) => "unexpected",
            CallError::Io(_) => "io",
        };
        let what = harmless_line(&error.to_string());
        Failure::new(code, format!("{what} (on {})", bus.address()))
    }

    /// A message that was not taken, or may not have been. Looks who is there where the endpoint is
    /// not.
    pub async fn sending(error: &CallError, bus: &Bus, to: &str) -> Self {
        match error {
            CallError::Refused { code, detail, suggestions } => {
                Failure::refused(code, detail, suggestions, bus, to).await
            }
            CallError::Message(refused) => Failure::new(refused.code().as_str(), error.to_string()),
            CallError::Connect(_) | CallError::ClientClosed => Failure::asking(error, bus),
            CallError::NeedsLevel2 { .. } => {
                Failure::asking(error, bus).adding(". It has taken the message")
            }
            CallError::NoAnswer(_)
            | CallError::Closed
            | CallError::Unexpected(_)
            | CallError::Io(_) => {
                Failure::asking(error, bus).adding("; the message may have arrived or not")
            }
        }
    }

    /// The same for a message with a receipt: the bus has it, perhaps, but did not say in time that
    /// it has come as far as it was to.
    pub async fn receipting(
        error: &CallError,
        bus: &Bus,
        to: &str,
        wanted: Status,
        id: &str,
    ) -> Self {
        let CallError::NoAnswer(patience) = error else {
            return Failure::sending(error, bus, to).await;
        };
        let (whom, id) = (harmless_line(to), harmless_line(id));
        let text = format!(
            "the message for '{whom}' was not {} within {patience:?}; it may still be. \
             'hermes-bus trace {id}' says where it is",
            state_words(wanted)
        );
        Failure::new("no_receipt", text).exits_with(exit::TIMED_OUT)
    }

    /// A request without a reply.
    pub async fn requesting(error: &RequestError, bus: &Bus, to: &str) -> Self {
        match error {
            RequestError::Send(error) => Failure::sending(error, bus, to).await,
            RequestError::NoReply(_) => Failure::new(
                "no_reply",
                format!("the bus has the request for '{}', but {error}", harmless_line(to)),
            )
            .exits_with(exit::TIMED_OUT),
            RequestError::Closed => Failure::new("closed", error.to_string()),
            RequestError::Duplicate => Failure::new("duplicate", error.to_string()),
        }
    }

    /// A message that the bus refused. Looks who is there where the endpoint is not, unless the bus
    /// says whom it knows.
    async fn refused(
        code: &str,
        detail: &str,
        suggestions: &[String],
        bus: &Bus,
        to: &str,
    ) -> Self {
        if code != "endpoint_not_found" {
            // These say what became of it; the others that it was not taken.
            let has_come_to_an_end = matches!(
                code,
                "expired"
                    | "rejected"
                    | "deliveries_exceeded"
                    | "receiver_gone"
                    | "receipt_impossible"
            );
            let what = if has_come_to_an_end { "" } else { "the bus refused the message: " };
            return Failure::new(code, format!("{what}{}", harmless_line(detail)));
        }
        if suggestions.is_empty() {
            let listing = bus.clone().start(Start::Never).list().await.ok();
            return Failure::unknown_endpoint(detail, to, listing.as_ref());
        }
        let names = quoted_list(suggestions.iter().map(|name| harmless_line(name)));
        let text = format!("{}{}", harmless_line(detail), did_you_mean(&names));
        Failure { suggestions: suggestions.to_vec(), ..Failure::new(code, text) }
    }

    fn unknown_endpoint(detail: &str, to: &str, listing: Option<&Listing>) -> Self {
        let names: Vec<&str> = listing
            .iter()
            .flat_map(|listing| listing.endpoints.keys())
            .map(String::as_str)
            .collect();
        // Those who are away, but for whom the bus keeps messages, stand in the details.
        let known = listing.iter().flat_map(|listing| &listing.details);
        let known = known.map(|details| details.endpoint.as_str());
        let known = known.filter(|name| !names.contains(name));
        let candidates = names.iter().copied().chain(known);
        // It may have come meanwhile: its own name is no advice.
        let near = nearest(to, candidates.filter(|name| *name != to));
        let listed = |names: &[&str]| quoted_list(names.iter().map(|name| harmless_line(name)));
        let advice = if listing.is_none() {
            String::new()
        } else if !near.is_empty() {
            did_you_mean(&listed(&near))
        } else if names.is_empty() {
            ". No endpoint is connected".to_owned()
        } else {
            format!(". Connected: {}", listed(&names))
        };
        let suggestions = near.into_iter().map(str::to_owned).collect();
        let text = format!("{}{advice}", harmless_line(detail));
        Failure { suggestions, ..Failure::new("endpoint_not_found", text) }
    }
}

fn did_you_mean(names: &str) -> String {
    format!(". Did you mean {}?", names.replace(", ", " or "))
}

/// What to do about a bus that is too old.
const TOO_OLD: &str = ". 'hermes-busd restart' starts the installed one";

/// What to do about a bus that does not answer.
pub const HUNG: &str = ". 'hermes-busd status' says more; 'hermes-busd restart' ends a hung bus";

/// The command that starts a bus which listens there; nothing where none would.
fn how_to_start(socket: &Path) -> String {
    let Some(directory) = socket.parent().filter(|directory| socket_in(directory) == socket) else {
        return String::new();
    };
    if bus_directory(None).is_ok_and(|usual| usual == directory) {
        return ". Start it with 'hermes-busd start'".to_owned();
    }
    let directory = harmless_line(&directory.display().to_string());
    format!(". Start it with 'hermes-busd start --root {directory}'")
}

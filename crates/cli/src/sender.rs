//! What everything that sends does the same way: finding the bus, the sender's name, the message.

use std::io::{self, Read};
use std::path::Path;

use hermes_bus_client::{Bus, Outgoing, bus_directory, socket_in};
use hermes_bus_daemon::root::Root;
use hermes_bus_plugin::rules::{Part, Rules, RulesError};
use hermes_bus_plugin::tmux;

use crate::failure::{Failure, exit};
use crate::screen::{harmless_line, note};

/// The bus on a socket, in a root directory, or where the environment says. A bus whose directory is
/// known may be started.
pub fn find_bus(socket: Option<&Path>, root: Option<&Path>) -> Result<Bus, Failure> {
    let directory = bus_directory(root);
    match (socket, directory) {
        (Some(socket), Ok(directory)) if socket == socket_in(&directory) => {
            Ok(Bus::in_directory(directory))
        }
        (Some(socket), _) => Ok(Bus::at(socket)),
        (None, Ok(directory)) => Ok(Bus::in_directory(directory)),
        (None, Err(error)) => Err(Failure::new("no_home", error.to_string())),
    }
}

/// The root directory of the bus that [`find_bus`] finds, for what is not said through its socket.
pub fn find_root(socket: Option<&Path>, root: Option<&Path>) -> Result<Root, Failure> {
    let directory = match socket.map(|socket| (socket, socket.parent())) {
        None => root,
        Some((socket, Some(directory))) if socket == socket_in(directory) => Some(directory),
        Some((socket, _)) => {
            let text = format!(
                "{} does not stand in a bus's root directory: give that with --root",
                harmless_line(&socket.display().to_string())
            );
            return Err(Failure::new("no_root", text));
        }
    };
    Root::find(directory).map_err(|error| Failure::new("no_home", error.to_string()))
}

/// The sender's name as receivers see it: the name given or the tmux session this runs in, looked up
/// in the roles of `bus-rules.yaml`, else `fallback`.
pub fn sender_name(
    given: Option<&str>,
    config: Option<&Path>,
    fallback: &str,
) -> Result<String, Failure> {
    let session = || {
        // Outside of tmux, tmux would name a session that has nothing to do with this process.
        let pane = std::env::var("TMUX_PANE").ok().filter(|pane| !pane.is_empty());
        pane.and_then(|pane| tmux::session_name(&pane))
    };
    let given = given.filter(|given| !given.is_empty()).map(str::to_owned);
    let name = given.or_else(session);
    let rules = load_rules(config, |error| {
        // Roles of a wrong shape do no harm where none is looked for, as with released senders.
        let is_needed = name.is_some() || error.odd_part() != Some(Part::RoleMap);
        is_needed && !error.is_ignored_by_original()
    })?;
    Ok(name.map_or_else(|| fallback.to_owned(), |name| rules.display_name(&name).to_owned()))
}

/// The rules of the file given, else of the usual one. Trouble with them is a warning, unless it is
/// fatal to the program that asks.
pub fn load_rules(
    config: Option<&Path>,
    is_fatal: impl Fn(&RulesError) -> bool,
) -> Result<Rules, Failure> {
    let config = config.filter(|path| !path.as_os_str().is_empty());
    let Some(path) = config.map(Path::to_owned).or_else(Rules::default_path) else {
        return Ok(Rules::default());
    };
    let rules = match Rules::load(&path) {
        Ok(rules) => rules,
        Err(RulesError::Missing { .. }) if config.is_none() => Rules::default(),
        Err(error) if is_fatal(&error) => {
            return Err(Failure::new("invalid_rules", error.to_string()));
        }
        Err(error) => {
            note(&format!("WARNING: {error}: going on without rules"));
            Rules::default()
        }
    };
    if !rules.odd_entries().is_empty() {
        let odd = rules.odd_entries().join(", ");
        let shown = path.display();
        note(&format!(
            "WARNING: {shown}: these entries of 'role_map' are left out: {odd} (wanted: 'key: {{name: Name}}')"
        ));
    }
    Ok(rules)
}

/// What a message's body is made of.
#[derive(Clone, Debug, Default)]
pub struct Content {
    /// Text; `-` reads standard input.
    pub text: Option<String>,
    /// JSON, which wins over the text.
    pub body: Option<String>,
    /// Whether a body of `-` reads standard input as well.
    pub body_may_be_input: bool,
    /// `type` of the body.
    pub kind: Option<String>,
    /// `channel` of the body.
    pub channel: Option<String>,
}

impl Content {
    /// The message, without a sender. Options that are set to nothing count as not set.
    pub fn compose(&self, to: &str) -> Result<Outgoing, Failure> {
        let given = |option: &Option<String>| option.clone().filter(|value| !value.is_empty());
        let mut message = match (given(&self.body), given(&self.text)) {
            (Some(body), _) if self.body_may_be_input && body == "-" => {
                Outgoing::json(to, read_input()?).map_err(|error| Failure::body(&error))?
            }
            (Some(body), _) => Outgoing::json(to, body).map_err(|error| Failure::body(&error))?,
            (None, Some(text)) if text == "-" => Outgoing::text(to, &read_input()?),
            (None, Some(text)) => Outgoing::text(to, &text),
            (None, None) => {
                return Err(Failure::new("no_message", NO_MESSAGE));
            }
        };
        for (key, value) in [("type", &self.kind), ("channel", &self.channel)] {
            if let Some(value) = given(value) {
                message = message.set(key, &value).map_err(|error| Failure::body(&error))?;
            }
        }
        Ok(message)
    }
}

const NO_MESSAGE: &str = "Either message text or --body is required";

/// Standard input as text, without one line end at its end.
pub fn read_input() -> Result<String, Failure> {
    let mut bytes = Vec::new();
    let unreadable = |why: String| {
        Failure::new("unreadable_input", format!("standard input cannot be read: {why}"))
            .exits_with(exit::NO_INPUT)
    };
    // A message over the limit is refused anyway.
    let limit = hermes_bus_proto::limits::PAYLOAD_BYTES_MAX as u64 + 2;
    io::stdin()
        .lock()
        .take(limit)
        .read_to_end(&mut bytes)
        .map_err(|e| unreadable(e.to_string()))?;
    let mut text = String::from_utf8(bytes)
        .map_err(|error| unreadable(format!("it is not text ({error})")))?;
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    if text.is_empty() {
        return Err(Failure::new("no_message", format!("{NO_MESSAGE}: standard input was empty")));
    }
    Ok(text)
}

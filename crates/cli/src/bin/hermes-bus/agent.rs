//! `hermes-bus agent`: the receive side for any program, and what belongs to it.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use hermes_bus::arguments::bus::Place;
use hermes_bus::arguments::receiving::{AgentWhat, Drain, DrainFormat, Receive};
use hermes_bus::failure::{Failure, exit};
use hermes_bus::screen::{Palette, harmless_line, note, say};
use hermes_bus::sender::find_root;
use hermes_bus_client::{Acknowledge, Bus, Client, Conflict, Event, WhyLost};
use hermes_bus_plugin::agent::{Agent, Ended, Screen};
use hermes_bus_plugin::engine::AgentState;
use hermes_bus_plugin::engine::template::without_colours;
use hermes_bus_plugin::name::Surroundings;
use hermes_bus_plugin::rules::Rules;
use hermes_bus_plugin::rules_file::{Change, RulesFile};
use hermes_bus_plugin::sinks::inbox::{Entry, Inbox, InboxError, Origin};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

use crate::listen::{reader_is_gone, tell};

// ---- receiving --------------------------------------------------------------------------------------

pub(crate) async fn receive(
    arguments: &Receive,
    place: &Place,
    bus: &Bus,
) -> anyhow::Result<ExitCode> {
    let mut file = RulesFile::new(rules_path(arguments.rules.as_deref()));
    read_rules(&mut file, arguments.rules.is_some())?;
    let root = find_root(place.socket.as_deref(), place.root.as_deref())?;
    let name = arguments.name.clone().filter(|name| !name.is_empty());
    let name =
        name.unwrap_or_else(|| Surroundings::of_process().name(file.rules().endpoint.as_deref()));
    let mut builder = bus.client(&name).conflict(Conflict::Suffix).mailbox(true);
    builder = builder.acknowledge(Acknowledge::Explicit).in_flight(arguments.in_flight);
    builder = builder.groups(&arguments.group).topics(&arguments.topic);
    if let Some(token) = &arguments.token_file {
        let secret = std::fs::read_to_string(token).map_err(|error| {
            Failure::new(
                "no_token",
                format!("cannot read the token in {}: {error}", token.display()),
            )
        })?;
        builder = builder.token(secret.trim_end_matches(['\n', '\r']));
    }
    let mut stop = std::pin::pin!(stopped()?);
    let connected = tokio::select! {
        connected = builder.connect() => connected,
        () = &mut stop => return Ok(ExitCode::SUCCESS),
    };
    let (client, messages) =
        connected.map_err(|error| Failure::connecting(&error, bus.start_policy()))?;
    let inbox = Inbox::of(root.directory(), client.name());
    inbox.create()?;
    greet(&client, &file, bus);
    let screen = Terminal { palette: Palette::new(place.color), json: place.json };
    let ended = Agent::new(client.clone(), file, inbox, screen).run(messages, stop).await;
    client.close().await;
    match ended {
        Ended::Stopped => Ok(ExitCode::SUCCESS),
        Ended::Screen(error) => Err(error.into()),
        Ended::Closed(why) => Err(closed(&why, client.name()).into()),
    }
}

fn rules_path(given: Option<&Path>) -> Option<PathBuf> {
    given.map(Path::to_owned).or_else(Rules::default_path)
}

/// At the start there are no good rules that could hold instead: without them messages would be printed, and gone,
/// that are meant for something else.
fn read_rules(file: &mut RulesFile, must_be_there: bool) -> anyhow::Result<()> {
    if let Change::Bad(bad) = file.refresh() {
        let text = bad.lines().join("\n");
        return Err(Failure::new("invalid_rules", text).into());
    }
    let shown = file.path().map(|path| path.display().to_string()).unwrap_or_default();
    if must_be_there && !file.path().is_some_and(Path::exists) {
        return Err(Failure::new("invalid_rules", format!("{shown}: no such file")).into());
    }
    for warning in file.warnings() {
        note(&format!("hermes-bus: warning: {}", harmless_line(&warning)));
    }
    Ok(())
}

fn greet(client: &Client, file: &RulesFile, bus: &Bus) {
    let waiting = match client.welcome().map_or(0, |welcome| welcome.mailbox_depth) {
        0 => String::new(),
        1 => ", 1 message waits".to_owned(),
        waiting => format!(", {waiting} messages wait"),
    };
    let count = file.rules().rules.len();
    let rules = match file.path() {
        Some(path) if count > 0 => {
            format!("rules of {}", harmless_line(&path.display().to_string()))
        }
        Some(path) => {
            let path = harmless_line(&path.display().to_string());
            format!("no rules in {path}: everything is printed")
        }
        None => "no rules: everything is printed".to_owned(),
    };
    note(&format!("agent {} on {}, {rules}{waiting}", harmless_line(client.name()), bus.address()));
}

/// Done when the process is asked to end, or nobody reads what is printed.
fn stopped() -> io::Result<impl Future<Output = ()>> {
    let mut interrupted = signal(SignalKind::interrupt())?;
    let mut terminated = signal(SignalKind::terminate())?;
    Ok(async move {
        tokio::select! {
            _ = interrupted.recv() => {}
            _ = terminated.recv() => {}
            () = reader_is_gone() => {}
        }
    })
}

fn closed(why: &WhyLost, name: &str) -> Failure {
    let text = format!("{} ('{}')", harmless_line(&why.to_string()), harmless_line(name));
    match why {
        WhyLost::Replaced => Failure::new("replaced", text).exits_with(exit::REPLACED),
        WhyLost::Refused { code, .. } => Failure::new(code, text),
        _ => Failure::new("closed", text),
    }
}

/// Standard output for messages, standard error for all else.
struct Terminal {
    palette: Palette,
    json: bool,
}

impl Screen for Terminal {
    fn print(&mut self, text: &str, message: &Origin) -> io::Result<()> {
        if self.json {
            let object = json!({
                "text": without_colours(text), "id": message.id, "from": message.from,
                "sender": message.sender, "type": message.body_type, "ts": message.ts,
            });
            return say(&object.to_string());
        }
        if self.palette.is_on() { say(text) } else { say(&without_colours(text)) }
    }

    fn note(&mut self, line: &str) {
        note(&format!("hermes-bus: {}", harmless_line(line)));
    }

    fn event(&mut self, event: &Event) {
        tell(event);
    }
}

// ---- beside it --------------------------------------------------------------------------------------

/// What needs no bus.
pub(crate) fn aside(what: &AgentWhat, place: &Place) -> anyhow::Result<ExitCode> {
    match what {
        AgentWhat::Drain(drain) => self::drain(drain, place),
        AgentWhat::State { state, name } => {
            let inbox = inbox(name.as_deref(), place)?;
            match state.as_deref().and_then(AgentState::of) {
                Some(state) => inbox.set_state(state)?,
                None => say(inbox.state().as_str())?,
            }
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// The inbox of the agent that is meant. Programs that an agent has started know its name.
fn inbox(name: Option<&str>, place: &Place) -> anyhow::Result<Inbox> {
    let root = find_root(place.socket.as_deref(), place.root.as_deref())?;
    let set = |name: Option<String>| name.filter(|name| !name.is_empty());
    let told = set(std::env::var("HERMES_BUS_PLUGIN_ENDPOINT").ok());
    let name = set(name.map(str::to_owned)).or(told).unwrap_or_else(|| {
        let mut file = RulesFile::new(rules_path(None));
        file.refresh();
        Surroundings::of_process().name(file.rules().endpoint.as_deref())
    });
    Ok(Inbox::of(root.directory(), &name))
}

fn drain(drain: &Drain, place: &Place) -> anyhow::Result<ExitCode> {
    let inbox = inbox(drain.name.as_deref(), place)?;
    let limit = drain.limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX);
    let as_json = place.json || drain.format == DrainFormat::Json;
    if drain.keep {
        print(&inbox.look(limit).map_err(refusal)?, as_json)?;
        return Ok(ExitCode::SUCCESS);
    }
    // A reader who has gone has not taken anything.
    match inbox.drain(limit, |entries| print(entries, as_json)).map_err(refusal)? {
        Ok(_) => Ok(ExitCode::SUCCESS),
        Err(error) => {
            let text =
                format!("nobody takes what waits in {}: {error}", inbox.directory().display());
            Err(Failure::new("not_taken", text).into())
        }
    }
}

fn refusal(error: InboxError) -> Failure {
    let code = match error {
        InboxError::Full { .. } => "inbox_full",
        InboxError::Busy { .. } => "inbox_busy",
        InboxError::Io { .. } => "io",
    };
    Failure::new(code, harmless_line(&error.to_string()))
}

fn print(entries: &[Entry], as_json: bool) -> io::Result<()> {
    let mut out = io::stdout().lock();
    for (number, entry) in entries.iter().enumerate() {
        if as_json {
            let line = serde_json::to_string(entry).map_err(io::Error::other)?;
            writeln!(out, "{line}")?;
            continue;
        }
        if number > 0 {
            writeln!(out)?;
        }
        if entry.again {
            writeln!(out, "(What follows may have been handed out before.)")?;
        }
        writeln!(out, "{}", entry.text)?;
    }
    out.flush()
}

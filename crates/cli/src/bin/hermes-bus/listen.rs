//! `hermes-bus listen`: prints messages as they come, or runs a command for each.

use std::io::{self, Write};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::Context;
use hermes_bus::arguments::bus::{Listen, Place};
use hermes_bus::failure::{Failure, exit};
use hermes_bus::screen::{Palette, harmless, harmless_line, note, say, time_of_day};
use hermes_bus_client::{
    Bus, Client, Conflict, ConnectError, Event, Events, Inbox, Message, WhyLost,
};
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use tokio::sync::oneshot;
use tokio::time::sleep;

/// The longest value that goes into a command's environment, in bytes. Linux takes 128 KiB.
const VARIABLE_BYTES_MAX: usize = 100 * 1024;

pub(crate) async fn listen(
    arguments: &Listen,
    place: &Place,
    bus: &Bus,
) -> anyhow::Result<ExitCode> {
    let own = || format!("listen-{}", std::process::id());
    let name = arguments.name.clone().filter(|name| !name.is_empty()).unwrap_or_else(own);
    let conflict = if arguments.replace { Conflict::Replace } else { Conflict::Refuse };
    let (client, inbox) =
        bus.client(&name).conflict(conflict).connect().await.map_err(|error| {
            let failure = Failure::connecting(&error, bus.start_policy());
            match error {
                ConnectError::NameTaken { .. } => {
                    failure.adding(". Choose another one, or take it with --replace")
                }
                _ => failure,
            }
        })?;
    note(&format!("listening as {} on {}", harmless_line(&name), bus.address()));
    let palette = Palette::new(place.color);
    let mut ear = Ear { arguments, place, palette, heard: 0, failed: 0 };
    let outcome = ear.listen(&client, inbox).await;
    client.close().await;
    outcome
}

struct Ear<'a> {
    arguments: &'a Listen,
    place: &'a Place,
    palette: Palette,
    /// Messages so far.
    heard: u64,
    /// Commands that failed.
    failed: u64,
}

impl Ear<'_> {
    async fn listen(&mut self, client: &Client, mut inbox: Inbox) -> anyhow::Result<ExitCode> {
        let mut events = client.events();
        let mut gone = std::pin::pin!(reader_is_gone());
        let mut over = std::pin::pin!(sleep(self.arguments.timeout.unwrap_or(Duration::MAX)));
        loop {
            tokio::select! {
                message = inbox.next() => match message {
                    Some(message) => self.take(message).await?,
                    None => return Err(ended(client).into()),
                },
                event = next_event(&mut events) => tell(&event),
                () = &mut gone => return Ok(self.verdict()),
                () = &mut over => return Ok(self.time_is_over()),
            }
            if self.arguments.count == Some(self.heard) {
                return Ok(self.verdict());
            }
        }
    }

    async fn take(&mut self, message: Message) -> anyhow::Result<()> {
        self.heard += 1;
        match &self.arguments.exec {
            Some(command) => {
                let command = command.clone();
                let run = tokio::task::spawn_blocking(move || execute(&command, &message));
                if !run.await.context("the command's thread ended")?? {
                    self.failed += 1;
                }
            }
            None if self.place.json => say(&message.json_line())?,
            None => say(&self.line(&message))?,
        }
        Ok(())
    }

    /// `12:34:56  sender  type: text`
    fn line(&self, message: &Message) -> String {
        let time = message.ts().and_then(time_of_day).unwrap_or_else(|| "--:--:--".to_owned());
        let from = message.from();
        let from = from.as_deref().filter(|from| !from.is_empty()).unwrap_or("?");
        let kind = message.body_text("type").filter(|kind| !kind.is_empty());
        let kind = kind.map(|kind| format!("{}: ", self.palette.kind(&harmless_line(&kind))));
        let text = message.text().unwrap_or_else(|| message.body_line());
        // What follows on further lines is indented, so that it cannot pass for another message.
        let text = harmless(&text).replace('\n', "\n          ");
        let from = self.palette.name(&harmless_line(from));
        format!("{}  {from}  {}{text}", self.palette.dim(&time), kind.unwrap_or_default())
    }

    fn time_is_over(&self) -> ExitCode {
        match self.arguments.count {
            Some(count) => {
                note(&format!("hermes-bus: time ran out after {} of {count} messages", self.heard));
                ExitCode::from(exit::TIMED_OUT)
            }
            None => self.verdict(),
        }
    }

    fn verdict(&self) -> ExitCode {
        if self.failed == 0 { ExitCode::SUCCESS } else { ExitCode::from(exit::COMMAND_FAILED) }
    }
}

/// The next event; never the end of them, which the inbox tells as well.
async fn next_event(events: &mut Events) -> Event {
    match events.next().await {
        Some(event) => event,
        None => std::future::pending().await,
    }
}

/// Waits until nobody reads standard output any more. Only pipes, sockets and terminals tell.
async fn reader_is_gone() {
    let (gone, told) = oneshot::channel();
    // Its end is that of the process.
    std::thread::spawn(move || {
        let stdout = io::stdout();
        // No events are asked for: what is told anyway is that the other end is gone.
        let mut watched = [PollFd::new(&stdout, PollFlags::empty())];
        while let Err(Errno::INTR) = rustix::event::poll(&mut watched, None) {}
        let _ = gone.send(());
    });
    if told.await.is_err() {
        std::future::pending::<()>().await;
    }
}

fn tell(event: &Event) {
    match event {
        Event::Disconnected { why } => {
            note(&format!("hermes-bus: {}; coming back", harmless_line(&why.to_string())));
        }
        Event::Reconnected { .. } => note("hermes-bus: listening again"),
        Event::Refused { code, detail, .. } => {
            note(&format!("hermes-bus: the bus says: {} ({code})", harmless_line(detail)));
        }
        Event::Gap(gap) => {
            let source = harmless_line(&gap.source);
            note(&format!("hermes-bus: {} of the {source} messages were missed", gap.count));
        }
        // Not at once: a bus that is restarted is away for a moment.
        Event::RetryFailed { attempts: 4, error } => {
            note(&format!("hermes-bus: {}; waiting for it", harmless_line(error)));
        }
        Event::Dropped { .. }
        | Event::RetryFailed { .. }
        | Event::Closed { .. }
        | Event::Missed(_) => {}
    }
}

/// Why there is no session any more.
fn ended(client: &Client) -> Failure {
    let why = client.closed().unwrap_or(WhyLost::ConnectionClosed);
    let text = format!("{} ('{}')", harmless_line(&why.to_string()), harmless_line(client.name()));
    match why {
        WhyLost::Replaced => Failure::new("replaced", text).exits_with(exit::REPLACED),
        WhyLost::Refused { code, .. } => Failure::new(&code, text),
        _ => Failure::new("closed", text),
    }
}

/// Runs a command for a message. Says whether it succeeded.
fn execute(command: &str, message: &Message) -> anyhow::Result<bool> {
    let line = message.json_line();
    let mut shell = Command::new("sh");
    shell.arg("-c").arg(command).stdin(Stdio::piped());
    let text = |value: Option<std::borrow::Cow<'_, str>>| value.map(|value| value.into_owned());
    let variables = [
        ("MESSAGE", Some(line.clone())),
        ("FROM", text(message.from())),
        ("TYPE", message.body_text("type")),
        ("TEXT", message.text()),
        ("CHANNEL", message.body_text("channel")),
        ("ID", text(message.id())),
        ("TS", message.ts().map(|ts| ts.to_string())),
    ];
    for (name, value) in variables {
        let fits = |value: &String| value.len() <= VARIABLE_BYTES_MAX && !value.contains('\0');
        match value.filter(fits) {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    let mut child = shell.spawn().context("cannot run sh")?;
    if let Some(mut stdin) = child.stdin.take() {
        // The command need not read it.
        match stdin.write_all(line.as_bytes()).and_then(|()| stdin.write_all(b"\n")) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(error.into()),
            _ => {}
        }
    }
    let status = child.wait()?;
    if !status.success() {
        note(&format!("hermes-bus: the command failed ({status})"));
    }
    Ok(status.success())
}

//! `hermes-bus listen` and `subscribe`: print messages as they come, or run a command for each.

use std::io::{self, Write};
use std::process::{Command, ExitCode, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::Context;
use hermes_bus::arguments::bus::{Hearing, Listen, Place, Subscribe};
use hermes_bus::failure::{Failure, exit};
use hermes_bus::screen::{Palette, harmless, harmless_line, note, say, time_of_day};
use hermes_bus_client::{
    Acknowledge, Bus, Client, ClientBuilder, ConnectError, Event, Events, Inbox, Message, Repeats,
    WhyLost,
};
use hermes_bus_proto::limits::IN_FLIGHT_DEFAULT;
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use tokio::sync::oneshot;
use tokio::time::sleep;

/// The longest value that goes into a command's environment, in bytes. Linux takes 128 KiB.
const VARIABLE_BYTES_MAX: usize = 100 * 1024;

/// What to listen to.
struct Ears<'a> {
    name: Option<&'a String>,
    /// Its name where nobody gives one, before the process id.
    fallback: &'static str,
    groups: &'a [String],
    topics: &'a [String],
    hearing: &'a Hearing,
}

pub(crate) async fn listen(
    arguments: &Listen,
    place: &Place,
    bus: &Bus,
) -> anyhow::Result<ExitCode> {
    let Listen { name, named, group, topic, hearing } = arguments;
    let name = name.as_ref().or(named.as_ref());
    let ears = Ears { name, fallback: "listen", groups: group, topics: topic, hearing };
    ears.listen(place, bus).await
}

pub(crate) async fn subscribe(
    arguments: &Subscribe,
    place: &Place,
    bus: &Bus,
) -> anyhow::Result<ExitCode> {
    let Subscribe { patterns, name, hearing } = arguments;
    let name = name.as_ref();
    let ears = Ears { name, fallback: "subscribe", groups: &[], topics: patterns, hearing };
    ears.listen(place, bus).await
}

impl Ears<'_> {
    async fn listen(&self, place: &Place, bus: &Bus) -> anyhow::Result<ExitCode> {
        let hearing = self.hearing;
        let own = || format!("{}-{}", self.fallback, std::process::id());
        let given = self.name.filter(|name| !name.is_empty());
        if hearing.mailbox && given.is_none() {
            let text = "a mailbox belongs to a name: give one";
            return Err(Failure::new("no_name", text).exits_with(exit::USAGE).into());
        }
        let name = given.cloned().unwrap_or_else(own);
        let (client, inbox) = self.builder(bus, &name)?.connect().await.map_err(|error| {
            let failure = Failure::connecting(&error, bus.start_policy());
            match error {
                ConnectError::NameTaken { .. } => {
                    failure.adding(". Choose another one, or take it with --replace")
                }
                _ => failure,
            }
        })?;
        let waiting = match client.welcome().map_or(0, |welcome| welcome.mailbox_depth) {
            0 => String::new(),
            1 => ", 1 message waits".to_owned(),
            waiting => format!(", {waiting} messages wait"),
        };
        let name = harmless_line(client.name());
        note(&format!("listening as {name} on {}{waiting}", bus.address()));
        let palette = Palette::new(place.color);
        let mut ear = Ear { hearing, place, palette, heard: 0, failed: 0 };
        let outcome = ear.listen(&client, inbox).await;
        client.close().await;
        outcome
    }

    fn builder(&self, bus: &Bus, name: &str) -> Result<ClientBuilder, Failure> {
        let hearing = self.hearing;
        let mut builder = bus.client(name).conflict(hearing.on_conflict());
        builder = builder.groups(self.groups).topics(self.topics);
        if hearing.mailbox {
            builder = builder.mailbox(true);
        }
        if hearing.ack {
            // What is taken beyond the last one would come again, to be recognised as such.
            let limit = hearing.in_flight.unwrap_or(IN_FLIGHT_DEFAULT);
            let count = hearing.count.and_then(|count| u32::try_from(count).ok());
            builder = builder.acknowledge(Acknowledge::Explicit);
            builder = builder.in_flight(count.map_or(limit, |count| limit.min(count)));
        }
        if hearing.hide_repeats {
            builder = builder.repeats(Repeats::Hide);
        }
        if let Some(file) = &hearing.token_file {
            let secret = std::fs::read_to_string(file).map_err(|error| {
                let text = format!("cannot read the token in {}: {error}", file.display());
                Failure::new("no_token", text)
            })?;
            builder = builder.token(secret.trim_end_matches(['\n', '\r']));
        }
        Ok(builder)
    }
}

struct Ear<'a> {
    hearing: &'a Hearing,
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
        let mut over = std::pin::pin!(sleep(self.hearing.timeout.unwrap_or(Duration::MAX)));
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
            if self.hearing.count == Some(self.heard) {
                return Ok(self.verdict());
            }
        }
    }

    async fn take(&mut self, message: Message) -> anyhow::Result<()> {
        self.heard += 1;
        match &self.hearing.exec {
            Some(command) => {
                let (command, given) = (command.clone(), message.clone());
                let run = tokio::task::spawn_blocking(move || execute(&command, &given));
                let status = run.await.context("the command's thread ended")??;
                if !status.success() {
                    self.failed += 1;
                    message.nack(&format!("the command of the listener failed ({status})"));
                    return Ok(());
                }
            }
            None if self.place.json => say(&message.json_line())?,
            None => say(&self.line(&message))?,
        }
        message.ack();
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
        let via = message.via().map(|via| format!(" {}", harmless_line(&via))).unwrap_or_default();
        let again = match message.delivery() {
            1 => String::new(),
            delivery => format!("  (delivery {delivery})"),
        };
        let (time, via) = (self.palette.dim(&time), self.palette.dim(&via));
        format!(
            "{time}  {from}{via}  {}{text}{}",
            kind.unwrap_or_default(),
            self.palette.dim(&again)
        )
    }

    fn time_is_over(&self) -> ExitCode {
        match self.hearing.count {
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
pub(crate) async fn next_event(events: &mut Events) -> Event {
    match events.next().await {
        Some(event) => event,
        None => std::future::pending().await,
    }
}

/// Waits until nobody reads standard output any more. Only pipes, sockets and terminals tell.
pub(crate) async fn reader_is_gone() {
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

pub(crate) fn tell(event: &Event) {
    match event {
        Event::Disconnected { why } => {
            note(&format!("hermes-bus: {}; coming back", harmless_line(&why.to_string())));
        }
        Event::Reconnected { .. } => note("hermes-bus: listening again"),
        Event::Refused { code, detail, .. } => {
            note(&format!("hermes-bus: the bus says: {} ({code})", harmless_line(detail)));
        }
        // These are printed where they stand among what is watched.
        Event::Gap(gap) if ["tap", "presence"].contains(&gap.source.as_str()) => {}
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
pub(crate) fn ended(client: &Client) -> Failure {
    let why = client.closed().unwrap_or(WhyLost::ConnectionClosed);
    let text = format!("{} ('{}')", harmless_line(&why.to_string()), harmless_line(client.name()));
    match why {
        WhyLost::Replaced => Failure::new("replaced", text).exits_with(exit::REPLACED),
        WhyLost::Refused { code, .. } => Failure::new(&code, text),
        _ => Failure::new("closed", text),
    }
}

/// Runs a command for a message.
fn execute(command: &str, message: &Message) -> anyhow::Result<ExitStatus> {
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
        ("VIA", text(message.via())),
        ("DELIVERY", Some(message.delivery().to_string())),
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
    Ok(status)
}

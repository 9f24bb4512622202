//! A connection to the bus: blocking, with a patience for everything, and an ear for the order to stop.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use hermes_bus_proto::control;
use hermes_bus_proto::listing::{self, Listing};
use serde_json::{Map, Value, json};

use crate::error::BenchError;
use crate::wire::{Incoming, Level, Reader, Stamp};

/// How often a wait looks whether it is to end.
const TICK: Duration = Duration::from_millis(20);
/// How often a session gives a sign of life: well within the 90 s of the protocol.
const PING_EVERY: Duration = Duration::from_secs(30);

/// Says that the measurements are to end; may be called from a signal's handler.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// One that is raised by setting `flag`.
    pub fn on(flag: Arc<AtomicBool>) -> Self {
        Stop(flag)
    }

    /// Whether it was asked for.
    pub fn is_asked_for(&self) -> bool {
        self.0.load(Relaxed)
    }
}

/// How long to wait, and what ends a wait early. Shared by the threads of one measurement.
#[derive(Clone, Debug)]
pub(crate) struct Watch {
    stop: Stop,
    /// Set by the first thread that fails, so that the others do not wait for what will not come.
    failed: Arc<AtomicBool>,
    /// How long nothing may come.
    pub(crate) patience: Duration,
}

impl Watch {
    pub(crate) fn new(stop: &Stop, patience: Duration) -> Self {
        Watch { stop: stop.clone(), failed: Arc::default(), patience }
    }

    /// The same without an ear for the order to stop: for what must be tidied up.
    pub(crate) fn for_cleaning(&self, patience: Duration) -> Self {
        Watch::new(&Stop::default(), patience)
    }

    /// An error, if this measurement is over.
    pub(crate) fn check(&self) -> Result<(), BenchError> {
        if self.stop.is_asked_for() {
            return Err(BenchError::Interrupted);
        }
        if self.failed.load(Relaxed) {
            return Err(BenchError::Elsewhere);
        }
        Ok(())
    }

    /// Has the other threads end if this one has failed.
    pub(crate) fn tell<T>(&self, outcome: Result<T, BenchError>) -> Result<T, BenchError> {
        if outcome.is_err() {
            self.failed.store(true, Relaxed);
        }
        outcome
    }
}

/// A wait that has an end.
pub(crate) struct Wait<'w> {
    watch: &'w Watch,
    since: Instant,
}

impl<'w> Wait<'w> {
    pub(crate) fn begin(watch: &'w Watch) -> Self {
        Wait { watch, since: Instant::now() }
    }

    /// An error, if it has lasted too long or is to end.
    pub(crate) fn check(&self, what: impl FnOnce() -> String) -> Result<(), BenchError> {
        self.watch.check()?;
        let patience = self.watch.patience;
        if self.since.elapsed() < patience {
            return Ok(());
        }
        Err(BenchError::Silent { what: what(), patience })
    }
}

/// What a session asks for when it takes its name. Names, groups and topics are without `@` and `#`.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Registration<'a> {
    /// As released clients do it.
    Level1,
    /// On level 2, with further members.
    Level2(&'a [(&'a str, &'a str)]),
    /// With a mailbox, or without: that ends one.
    Mailbox(bool),
}

/// A connection.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) stream: UnixStream,
    pub(crate) reader: Reader,
    /// Who this is, for errors.
    name: String,
    is_registered: bool,
    pinged: Instant,
}

impl Link {
    /// A connection without a name of its own, called `name` in errors.
    pub(crate) fn open(socket: &Path, name: &str) -> Result<Self, BenchError> {
        let stream = UnixStream::connect(socket)
            .map_err(|source| BenchError::Connect { socket: socket.to_owned(), source })?;
        let set = stream.set_read_timeout(Some(TICK)).and(stream.set_write_timeout(Some(TICK)));
        set.map_err(|source| BenchError::Io { doing: "set up a socket", source })?;
        let (reader, name) = (Reader::new(), name.to_owned());
        Ok(Link { stream, reader, name, is_registered: false, pinged: Instant::now() })
    }

    /// A session.
    pub(crate) fn register(
        socket: &Path,
        name: &str,
        how: Registration<'_>,
        watch: &Watch,
    ) -> Result<Self, BenchError> {
        let mut link = Link::open(socket, name)?;
        let mut frame = Vec::new();
        match how {
            Registration::Level1 => control::register(&mut frame, name),
            Registration::Level2(lists) => {
                let lists = lists.iter().map(|(key, name)| ((*key).to_owned(), json!([name])));
                register_2(&mut frame, name, lists.collect());
            }
            Registration::Mailbox(mailbox) => {
                let members =
                    [("mailbox".to_owned(), json!(mailbox)), ("ack".to_owned(), json!(true))];
                register_2(&mut frame, name, members.into_iter().collect());
            }
        }
        let answer = link.ask(&frame, "registered", watch)?;
        if !matches!(how, Registration::Level1) && answer["protocol"] != 2 {
            return Err(BenchError::NeedsLevel2 { workload: "" });
        }
        link.is_registered = true;
        Ok(link)
    }

    /// Writes a request, and gives the frame of a type that answers it.
    pub(crate) fn ask(
        &mut self,
        frame: &[u8],
        wanted: &str,
        watch: &Watch,
    ) -> Result<Value, BenchError> {
        self.write(frame, watch)?;
        loop {
            let Some(incoming) = self.reader.next()? else {
                self.fill(watch, || format!("the bus did not answer ('{wanted}' is missing)"))?;
                continue;
            };
            if let Incoming::Other(payload) = incoming {
                let value = read_json(payload)?;
                if value["type"] == wanted {
                    return Ok(value);
                }
                refusal(&value, "a request").map_or(Ok(()), Err)?;
            }
        }
    }

    /// Writes all of it. While the bus does not read, it waits.
    pub(crate) fn write(&mut self, bytes: &[u8], watch: &Watch) -> Result<(), BenchError> {
        let mut rest = bytes;
        let mut wait: Option<Wait<'_>> = None;
        while !rest.is_empty() {
            match self.stream.write(rest) {
                Ok(count) => {
                    rest = &rest[count..];
                    wait = None;
                }
                Err(error) if is_timeout(error.kind()) => {
                    let wait = wait.get_or_insert_with(|| Wait::begin(watch));
                    wait.check(|| "the bus took nothing more".to_owned())?;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(source) => {
                    return Err(self.ended(BenchError::Io { doing: "write to the bus", source }));
                }
            }
        }
        Ok(())
    }

    /// Reads once; waits until something comes.
    pub(crate) fn fill(
        &mut self,
        watch: &Watch,
        what: impl Fn() -> String,
    ) -> Result<(), BenchError> {
        let mut wait: Option<Wait<'_>> = None;
        while !self.read_once()? {
            self.keep_alive(watch)?;
            wait.get_or_insert_with(|| Wait::begin(watch)).check(&what)?;
        }
        Ok(())
    }

    /// Reads once; `false` if nothing came for a moment.
    pub(crate) fn read_once(&mut self) -> Result<bool, BenchError> {
        match self.stream.read(self.reader.room()) {
            Ok(0) => Err(BenchError::Closed { whose: self.name.clone() }),
            Ok(count) => {
                self.reader.filled(count);
                Ok(true)
            }
            Err(error) if is_timeout(error.kind()) || error.kind() == ErrorKind::Interrupted => {
                Ok(false)
            }
            Err(source) if source.kind() == ErrorKind::ConnectionReset => {
                Err(BenchError::Closed { whose: self.name.clone() })
            }
            Err(source) => Err(BenchError::Io { doing: "read from the bus", source }),
        }
    }

    /// A session that only listens says now and then that it lives.
    pub(crate) fn keep_alive(&mut self, watch: &Watch) -> Result<(), BenchError> {
        if self.is_registered && self.pinged.elapsed() >= PING_EVERY {
            self.pinged = Instant::now();
            let mut ping = Vec::new();
            control::ping(&mut ping);
            self.write(&ping, watch)?;
        }
        Ok(())
    }

    /// Waits for the next message of the generator.
    pub(crate) fn next_message(&mut self, watch: &Watch) -> Result<Stamp, BenchError> {
        loop {
            match self.reader.next()? {
                Some(Incoming::Message(stamp)) => return Ok(stamp),
                Some(Incoming::Other(payload)) => unless_expected(payload)?,
                None => self.fill(watch, || "a message did not arrive".to_owned())?,
            }
        }
    }

    /// The reason that the bus has given on this connection, if it has, in place of `error`.
    pub(crate) fn ended(&mut self, error: BenchError) -> BenchError {
        loop {
            if let Ok(Some(incoming)) = self.reader.next() {
                if let Incoming::Other(payload) = incoming {
                    let value = read_json(payload).unwrap_or_default();
                    if let Some(refusal) = refusal(&value, "a message") {
                        return refusal;
                    }
                }
            } else if !matches!(self.read_once(), Ok(true)) {
                return error;
            }
        }
    }
}

fn register_2(frame: &mut Vec<u8>, name: &str, mut members: Map<String, Value>) {
    let fixed = json!({"type": "register", "endpoint": name, "protocol": 2, "conflict": "refuse"});
    members.extend(fixed.as_object().cloned().unwrap_or_default());
    control::append_text(frame, &Value::Object(members).to_string());
}

/// What a receiver may find between the messages: nothing that speaks of a loss.
pub(crate) fn unless_expected(payload: &[u8]) -> Result<(), BenchError> {
    let value = read_json(payload)?;
    match value["type"].as_str() {
        Some("pong" | "receipt" | "subscribed") => Ok(()),
        Some("gap") => {
            let (count, source) = (&value["count"], &value["source"]);
            Err(BenchError::Wrong(format!("the bus left out {count} messages ({source})")))
        }
        Some("bye") => {
            Err(BenchError::Closed { whose: format!("a receiver ({})", value["reason"]) })
        }
        Some("message") => {
            let from = value["from"].as_str().unwrap_or_default().chars().take(80);
            let from = from.collect::<String>().escape_debug().to_string();
            Err(BenchError::Wrong(format!(
                "a message arrived that was not sent like that (from '{from}')"
            )))
        }
        _ => refusal(&value, "a message").map_or(Ok(()), Err),
    }
}

pub(crate) fn read_json(payload: &[u8]) -> Result<Value, BenchError> {
    serde_json::from_slice(payload).map_err(|error| BenchError::NotABus(error.to_string()))
}

/// What an `error` frame says.
pub(crate) fn refusal(value: &Value, what: &str) -> Option<BenchError> {
    if value["type"] != "error" {
        return None;
    }
    let text = |key: &str| value[key].as_str().unwrap_or_default().to_owned();
    let detail = text("detail").escape_debug().to_string();
    Some(BenchError::Refused { what: what.to_owned(), code: text("code"), detail })
}

fn is_timeout(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

/// Who is connected, and what the bus says of itself. A released bus answers with the older type.
pub(crate) fn list(socket: &Path, watch: &Watch) -> Result<Listing, BenchError> {
    let mut link = Link::open(socket, "a listing")?;
    let mut request = Vec::new();
    listing::request(&mut request, listing::Level::Two);
    link.write(&request, watch)?;
    loop {
        match link.reader.next()? {
            None => link.fill(watch, || "the bus did not say who is connected".to_owned())?,
            Some(Incoming::Message(_)) => {}
            Some(Incoming::Other(payload)) => {
                let value = read_json(payload)?;
                if value["type"] == listing::LEVEL_2_TYPE || value["type"] == listing::LEVEL_1_TYPE
                {
                    let listing = serde_json::from_value(value);
                    return listing.map_err(|error| BenchError::NotABus(error.to_string()));
                }
                refusal(&value, "a listing").map_or(Ok(()), Err)?;
            }
        }
    }
}

/// The level of the protocol by which a pattern is known.
impl From<Registration<'_>> for Level {
    fn from(how: Registration<'_>) -> Self {
        match how {
            Registration::Level1 => Level::One,
            Registration::Level2(_) | Registration::Mailbox(_) => Level::Two,
        }
    }
}

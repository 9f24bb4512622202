//! The life of a client: registers, carries messages both ways, comes back when the session ends.
//!
//! One task does all of it. It never waits for only one direction: while the bus does not read, it
//! reads on, and while the inbox has no room, it writes on.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use hermes_bus_proto::{FrameError, Object, control};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, sleep_until, timeout};

use crate::backoff::Backoff;
use crate::bus::Need;
use crate::client::{Conflict, Phase, Shared};
use crate::connection::{Connection, READ_BYTES, broken, code_and_detail, refusal, take_frame};
use crate::error::{CallError, ConnectError};
use crate::event::{Event, WhyLost};
use crate::inbox::{Pushed, Strictness};
use crate::message::Message;
use crate::outbox::{Arrivals, Writing};

/// A session that lasted this long was a good one: the next attempt to connect comes soon.
const LASTED: Duration = Duration::from_millis(20);
/// How long is waited for more of what a bus said before it closed.
const DRAIN: Duration = Duration::from_millis(100);

// ---- registering --------------------------------------------------------------------------------------

/// A session that has just begun.
pub(crate) struct Registered {
    connection: Connection,
    pub(crate) session_id: String,
}

/// The session before.
pub(crate) struct Previous {
    session_id: String,
    peer_pid: Option<u32>,
}

/// Why a name could not be registered.
pub(crate) enum RegisterError {
    Connect(ConnectError),
    /// Somebody else has the name.
    Taken(ConnectError),
}

impl RegisterError {
    pub(crate) fn into_connect_error(self) -> ConnectError {
        match self {
            RegisterError::Connect(error) | RegisterError::Taken(error) => error,
        }
    }
}

/// Connects and registers once.
pub(crate) async fn register(
    shared: &Shared,
    previous: Option<&Previous>,
    need: Need,
) -> Result<Registered, RegisterError> {
    let bus = &shared.bus;
    let mut connection = bus.open_for(need).await.map_err(RegisterError::Connect)?;
    // A bus that has not been restarted still knows who took the name from this client.
    let is_same_bus = previous.is_some_and(|previous| {
        previous.peer_pid.is_none() || previous.peer_pid == connection.peer_pid()
    });
    if is_same_bus || shared.conflict == Conflict::Refuse {
        let listing = connection.list(bus.patience_limit()).await;
        let listing = listing.map_err(|error| not_registered(shared, error))?;
        let own = previous.map(|previous| &previous.session_id);
        if listing.endpoints.get(&shared.name).is_some_and(|holder| Some(holder) != own) {
            let (name, address) = (shared.name.clone(), bus.address());
            return Err(RegisterError::Taken(ConnectError::NameTaken { name, address }));
        }
    }
    let registering = timeout(bus.patience_limit(), welcome(shared, &mut connection)).await;
    let session_id = registering
        .unwrap_or(Err(CallError::NoAnswer(bus.patience_limit())))
        .map_err(|error| not_registered(shared, error))?;
    Ok(Registered { connection, session_id })
}

/// Says the name and waits for the session id.
async fn welcome(shared: &Shared, connection: &mut Connection) -> Result<String, CallError> {
    let mut frame = Vec::new();
    control::register(&mut frame, &shared.name);
    connection.write(&frame).await?;
    loop {
        let frame = connection.receive().await?;
        match frame.text("type").as_deref() {
            Some("registered") => {
                return match frame.text("session_id") {
                    Some(session_id) => Ok(session_id.into_owned()),
                    None => Err(CallError::Unexpected("a registration without an id".to_owned())),
                };
            }
            Some("error") => return Err(refusal(&frame)),
            // A released Python bus may route a message before it has answered.
            Some("message") => _ = shared.inbox.push(Message::new(frame)),
            _ => {}
        }
    }
}

fn not_registered(shared: &Shared, error: CallError) -> RegisterError {
    let address = shared.bus.address();
    RegisterError::Connect(match error {
        CallError::Connect(error) => error,
        CallError::Refused { code, detail } => ConnectError::Refused { code, detail },
        CallError::NoAnswer(patience) => ConnectError::NoAnswer { address, patience },
        CallError::Closed => ConnectError::Closed { address },
        CallError::Io(source) => ConnectError::Io { address, source },
        CallError::Unexpected(reason) => ConnectError::NotABus { address, reason },
        CallError::TooLarge(error) => ConnectError::NotABus { address, reason: error.to_string() },
    })
}

// ---- the driver ---------------------------------------------------------------------------------------

/// Drives one client from its first session to its end.
pub(crate) struct Driver {
    shared: Arc<Shared>,
    arrivals: Arrivals,
    writing: Writing,
    /// All handles that could send are gone.
    senders_are_gone: bool,
    /// The owner has asked for the end, or nobody is left who could use the client.
    is_closing: bool,
}

impl Driver {
    pub(crate) fn new(shared: Arc<Shared>, arrivals: Arrivals) -> Self {
        let writing = Writing::default();
        Driver { shared, arrivals, writing, senders_are_gone: false, is_closing: false }
    }

    pub(crate) async fn run(mut self, first: Registered) {
        let mut registered = first;
        let mut backoff = Backoff::default();
        let why = loop {
            let began = Instant::now();
            let Registered { connection, session_id } = registered;
            let peer_pid = connection.peer_pid();
            let why = self.serve(connection).await;
            if matches!(why, WhyLost::ByOwner | WhyLost::Replaced) {
                break why;
            }
            self.shared.phase.send_replace(Phase::Away);
            self.shared.tell(Event::Disconnected { why });
            self.writing.connection_ended();
            if began.elapsed() >= LASTED {
                backoff.reset();
            }
            match self.come_back(&Previous { session_id, peer_pid }, &mut backoff).await {
                Ok(again) => registered = again,
                Err(why) => break why,
            }
            let session_id = registered.session_id.clone();
            self.shared.phase.send_replace(Phase::Connected(session_id.clone()));
            self.shared.tell(Event::Reconnected { session_id });
        };
        self.end(why);
    }

    fn end(self, why: WhyLost) {
        let Driver { shared, arrivals, writing, .. } = self;
        shared.phase.send_replace(Phase::Closed(why.clone()));
        arrivals.end();
        drop(writing);
        shared.end_requests();
        shared.inbox.end();
        shared.tell(Event::Closed { why });
    }

    /// Tries to register again until it succeeds or there is a reason not to.
    async fn come_back(
        &mut self,
        previous: &Previous,
        backoff: &mut Backoff,
    ) -> Result<Registered, WhyLost> {
        loop {
            let delay = backoff.next();
            self.pause(delay).await;
            if self.is_closing {
                return Err(WhyLost::ByOwner);
            }
            let attempt = tokio::select! {
                attempt = register(&self.shared, Some(previous), Need::Again) => attempt,
                () = self.shared.close.notified() => return Err(WhyLost::ByOwner),
            };
            let error = match attempt {
                Ok(registered) => return Ok(registered),
                Err(RegisterError::Taken(_)) => return Err(WhyLost::Replaced),
                Err(RegisterError::Connect(ConnectError::Refused { code, detail }))
                    if is_for_good(&code) =>
                {
                    return Err(WhyLost::Refused { code, detail });
                }
                Err(RegisterError::Connect(error)) => error.to_string(),
            };
            let attempts = backoff.attempts();
            self.shared.tell(Event::RetryFailed { attempts, error });
        }
    }

    /// Waits, but not for a client that is to end.
    async fn pause(&mut self, delay: Duration) {
        let until = Instant::now() + delay;
        while !self.is_closing {
            tokio::select! {
                () = sleep_until(until) => return,
                () = self.shared.close.notified() => self.is_closing = true,
                () = self.shared.inbox.changed() => {}
                item = self.arrivals.next(), if !self.senders_are_gone => match item {
                    Some(item) => self.writing.push(item),
                    None => self.senders_are_gone = true,
                },
            }
            self.look_for_owners();
        }
    }

    fn look_for_owners(&mut self) {
        if self.senders_are_gone && !self.shared.inbox.has_reader() {
            self.is_closing = true;
        }
    }

    // ---- one session --------------------------------------------------------------------------------

    /// Carries messages until the session ends.
    async fn serve(&mut self, connection: Connection) -> WhyLost {
        let (stream, mut input) = connection.into_parts();
        let (mut reader, mut writer) = tokio::io::split(stream);
        let patience = self.shared.bus.patience_limit();
        let mut incoming = Incoming { shared: Arc::clone(&self.shared), bye: None };
        let mut health = Health::new(self.shared.ping_every);
        // What is queued when the end is asked for is still written, for a while.
        let mut give_up_at = None;
        loop {
            let takes_more = match incoming.hand_over(&mut input) {
                Ok(takes_more) => takes_more,
                Err(error) => return WhyLost::Unexpected(error.to_string()),
            };
            self.look_for_owners();
            self.writing.gather(&mut self.arrivals);
            self.writing.begin();
            if self.is_closing {
                let give_up_at = *give_up_at.get_or_insert_with(|| Instant::now() + patience);
                if self.writing.is_empty() || Instant::now() >= give_up_at {
                    let _ = writer.shutdown().await;
                    return WhyLost::ByOwner;
                }
            }
            if takes_more {
                input.reserve(READ_BYTES);
            } else {
                health.is_not_reading();
            }
            let slices = self.writing.slices();
            tokio::select! {
                written = writer.write_vectored(&slices), if !slices.is_empty() => match written {
                    Ok(0) => return incoming.end(None),
                    Ok(bytes) => self.writing.written(bytes),
                    // What the bus said before it closed is still there to be read.
                    Err(error) => return incoming.drain(&mut reader, &mut input, error).await,
                },
                read = reader.read_buf(&mut input), if takes_more => match read {
                    Ok(0) => return incoming.end(None),
                    Ok(_) => health.heard(),
                    Err(error) => return incoming.end(Some(error)),
                },
                item = self.arrivals.next(), if !self.senders_are_gone && !self.writing.is_full() => {
                    match item {
                        Some(item) => self.writing.push(item),
                        None => self.senders_are_gone = true,
                    }
                }
                () = self.shared.inbox.changed() => {}
                () = self.shared.close.notified(), if !self.is_closing => self.is_closing = true,
                () = until(give_up_at) => {}
                () = health.tick() => match health.examine() {
                    Ok(()) => {
                        let mut frame = Vec::new();
                        control::ping(&mut frame);
                        self.writing.push_frame(frame);
                    }
                    Err(silence) => return WhyLost::Silent(silence),
                },
            }
        }
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// Whether a name that was refused with this code will be refused again.
fn is_for_good(code: &str) -> bool {
    ["name_invalid", "forbidden", "invalid_field", "unauthorized", "name_taken"].contains(&code)
}

// ---- what comes in ------------------------------------------------------------------------------------

/// Sorts what arrives.
struct Incoming {
    shared: Arc<Shared>,
    /// What the bus said before it closed.
    bye: Option<WhyLost>,
}

impl Incoming {
    /// Hands over whole frames for as long as the inbox has room. Says whether it has room for more.
    fn hand_over(&mut self, input: &mut BytesMut) -> Result<bool, FrameError> {
        let mut dropped = 0;
        let takes_more = loop {
            let strictness =
                if self.shared.has_requests() { Strictness::BytesOnly } else { Strictness::All };
            if !self.shared.inbox.takes_more(strictness) {
                break false;
            }
            match take_frame(input) {
                Ok(Some(frame)) => dropped += self.sort(frame),
                Ok(None) => break true,
                Err(error) => return Err(error),
            }
        };
        if dropped > 0 {
            self.shared.tell(Event::Dropped { messages: dropped });
        }
        Ok(takes_more)
    }

    /// Returns how many messages were dropped for want of room.
    fn sort(&mut self, frame: Object) -> u64 {
        match frame.text("type").as_deref() {
            Some("message") => {
                let Some(message) = self.shared.answer_request(Message::new(frame)) else {
                    return 0;
                };
                return u64::from(self.shared.inbox.push(message) == Pushed::Dropped);
            }
            Some("error") => {
                let (code, detail) = code_and_detail(&frame);
                let id = frame.text("id").map(|id| id.into_owned());
                self.shared.tell(Event::Refused { code, detail, id });
            }
            Some("bye") => {
                let reason = frame.text("reason").unwrap_or_default().into_owned();
                let is_replaced = reason == "replaced";
                self.bye = Some(if is_replaced { WhyLost::Replaced } else { WhyLost::Bye(reason) });
            }
            // `pong`, receipts that were not asked for, and what later versions may say.
            _ => {}
        }
        0
    }

    /// The connection is at its end.
    fn end(&mut self, error: Option<io::Error>) -> WhyLost {
        let why = self.bye.take();
        why.unwrap_or_else(|| match error.map(broken) {
            None | Some(CallError::Closed) => WhyLost::ConnectionClosed,
            Some(error) => WhyLost::Unexpected(error.to_string()),
        })
    }

    /// Reads what is left on a connection that cannot be written to any more.
    async fn drain(
        &mut self,
        reader: &mut (impl AsyncRead + Unpin),
        input: &mut BytesMut,
        error: io::Error,
    ) -> WhyLost {
        while let Ok(true) = self.hand_over(input) {
            match timeout(DRAIN, reader.read_buf(input)).await {
                Ok(Ok(1..)) => {}
                _ => break,
            }
        }
        self.end(Some(error))
    }
}

// ---- health -------------------------------------------------------------------------------------------

/// Signs of life, both ways.
struct Health {
    ticker: Interval,
    interval: Duration,
    /// Something came, or nothing could be read, since the last tick.
    is_well: bool,
}

impl Health {
    fn new(interval: Duration) -> Self {
        let mut ticker = interval_at(Instant::now() + interval, interval);
        ticker.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Health { ticker, interval, is_well: true }
    }

    async fn tick(&mut self) {
        self.ticker.tick().await;
    }

    fn heard(&mut self) {
        self.is_well = true;
    }

    /// The inbox is full: what the bus says now is not heard.
    fn is_not_reading(&mut self) {
        self.is_well = true;
    }

    /// At a tick: fails if nothing came since the last one, where a ping was sent.
    fn examine(&mut self) -> Result<(), Duration> {
        if std::mem::replace(&mut self.is_well, false) { Ok(()) } else { Err(self.interval) }
    }
}

//! The life of a client: registers, carries messages both ways, comes back when the session ends.
//!
//! One task does all of it. It never waits for only one direction: while the bus does not read, it
//! reads on, and while the inbox has no room, it writes on.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use hermes_bus_proto::requests::Watch;
use hermes_bus_proto::{FrameError, Object, control};
use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::time::{Instant, sleep_until, timeout};

use crate::backoff::Backoff;
use crate::bus::Need;
use crate::client::{Phase, Shared};
use crate::connection::{Connection, READ_BYTES, broken, code_and_detail, refusal, take_frame};
use crate::deadline;
use crate::error::{CallError, ConnectError, ReceiptError};
use crate::event::{Event, WhyLost};
use crate::health::{Health, WRITE_PATIENCE};
use crate::inbox::{Pushed, Strictness};
use crate::message::Message;
use crate::options::{Conflict, Welcome};
use crate::outbox::{Arrivals, Writing};
use crate::receipts::Again;
use crate::sighting::{Gap, Presence, Sighting, Tapped};
use crate::transport::Stream;

/// A session that lasted this long was a good one: the next attempt to connect comes soon.
const LASTED: Duration = Duration::from_millis(100);
/// How long is waited for more of what a bus said before it closed.
const DRAIN: Duration = Duration::from_millis(100);
/// And how long in all, of a bus that does not stop.
const DRAIN_MAX: Duration = Duration::from_secs(1);
/// How many times a name that is taken may be taken by a registration of this client's own, to which
/// the answer came too late.
const DOUBTFUL: u32 = 3;

// ---- registering --------------------------------------------------------------------------------------

/// A session that has just begun.
pub(crate) struct Registered {
    connection: Connection,
    pub(crate) welcome: Arc<Welcome>,
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
    let subscriptions = shared.subscriptions();
    let needed = shared.options.needs_level_2(&subscriptions);
    // A name that was chosen once is kept.
    let mut conflict = match (shared.options.conflict, previous) {
        (Conflict::Suffix, Some(_)) => Conflict::Refuse,
        (conflict, _) => conflict,
    };
    // A bus that has not been restarted still knows who took the name from this client.
    let is_same_bus = previous.is_some_and(|previous| {
        previous.peer_pid.is_none() || previous.peer_pid == connection.peer_pid()
    });
    if is_same_bus || conflict != Conflict::Replace {
        let listing = connection.list(bus.patience_limit()).await;
        let listing = listing.map_err(|error| not_registered(shared, error))?;
        let holder = listing.endpoints.get(shared.name());
        let is_own = holder == previous.map(|previous| &previous.session_id);
        match (conflict, holder) {
            // A released bus would give the name itself away.
            (Conflict::Suffix, _) if listing.server.is_none() => {
                return Err(RegisterError::Connect(too_old(shared, "a name with a suffix")));
            }
            (Conflict::Suffix, _) | (_, None) => {}
            (_, Some(_)) if is_own => conflict = Conflict::Replace,
            (_, Some(_)) => return Err(taken(shared)),
        }
    }
    let frame = shared.options.register(shared.name(), conflict, &subscriptions);
    let registering = welcome(shared, &mut connection, &frame);
    let welcome = timeout(bus.patience_limit(), registering)
        .await
        .unwrap_or(Err(CallError::NoAnswer(bus.patience_limit())))
        .map_err(|error| not_registered(shared, error))?;
    match needed {
        Some(what) if welcome.protocol < 2 => Err(RegisterError::Connect(too_old(shared, what))),
        _ => Ok(Registered { connection, welcome: Arc::new(welcome) }),
    }
}

fn taken(shared: &Shared) -> RegisterError {
    let (name, address) = (shared.name().to_owned(), shared.bus.address());
    RegisterError::Taken(ConnectError::NameTaken { name, address })
}

fn too_old(shared: &Shared, what: &'static str) -> ConnectError {
    ConnectError::NeedsLevel2 { address: shared.bus.address(), what }
}

/// Says the name and waits for the answer.
async fn welcome(
    shared: &Shared,
    connection: &mut Connection,
    register: &[u8],
) -> Result<Welcome, CallError> {
    connection.write(register).await?;
    loop {
        let frame = connection.receive().await?;
        match frame.text("type").as_deref() {
            Some("registered") => {
                return Welcome::read(&frame, shared.name()).ok_or_else(|| {
                    CallError::Unexpected("a registration without an id".to_owned())
                });
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
        CallError::Refused { code, .. } if code == "name_taken" => return taken(shared),
        CallError::Refused { code, detail, .. } => ConnectError::Refused { code, detail },
        CallError::NeedsLevel2 { what } => ConnectError::NeedsLevel2 { address, what },
        CallError::NoAnswer(patience) => ConnectError::NoAnswer { address, patience },
        CallError::Closed | CallError::ClientClosed => ConnectError::Closed { address },
        CallError::Io(source) => ConnectError::Io { address, source },
        CallError::Unexpected(reason) => ConnectError::NotABus { address, reason },
        CallError::Message(error) => ConnectError::NotABus { address, reason: error.to_string() },
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
        let why = self.live(first).await;
        self.end(why);
    }

    /// The same for a client that has had no session yet.
    pub(crate) async fn run_from_nothing(mut self) {
        let why = match self.come_back(None, &mut Backoff::default()).await {
            Ok(registered) => {
                let _ = self.shared.name.set(registered.welcome.name.clone());
                self.begin(&registered.welcome);
                self.live(registered).await
            }
            Err(why) => why,
        };
        self.end(why);
    }

    /// There is a session again.
    fn begin(&self, welcome: &Arc<Welcome>) {
        let session_id = welcome.session_id.clone();
        self.shared.phase.send_replace(Phase::Connected(Arc::clone(welcome)));
        if welcome.protocol < 2 {
            self.shared.receipts.end(|| ReceiptError::NeedsLevel2);
            self.shared.end_watching();
        }
        self.shared.tell(Event::Reconnected { session_id });
    }

    /// From session to session, until there is a reason to end.
    async fn live(&mut self, first: Registered) -> WhyLost {
        let mut registered = first;
        let mut backoff = Backoff::default();
        loop {
            let began = Instant::now();
            let Registered { connection, welcome } = registered;
            let peer_pid = connection.peer_pid();
            let why = self.serve(connection, &welcome).await;
            self.shared.acks.session_ended();
            if matches!(why, WhyLost::ByOwner | WhyLost::Replaced) {
                return why;
            }
            self.shared.phase.send_replace(Phase::Away);
            self.connection_ended(&why);
            self.shared.tell(Event::Disconnected { why });
            if began.elapsed() >= LASTED {
                backoff.reset();
            }
            let session_id = welcome.session_id.clone();
            match self.come_back(Some(&Previous { session_id, peer_pid }), &mut backoff).await {
                Ok(again) => {
                    if again.connection.peer_pid() != peer_pid {
                        backoff.bus_was_restarted();
                    }
                    registered = again;
                }
                Err(why) => return why,
            }
            self.begin(&registered.welcome);
        }
    }

    /// What was not written goes to the next session, and so does what is to be tried until the bus
    /// has answered.
    fn connection_ended(&mut self, why: &WhyLost) {
        self.writing.connection_ended(&mut self.arrivals);
        self.shared.asked.session_ended();
        let again = self.shared.receipts.session_ended(why);
        for Again { frame, permit, progress } in again.into_iter().rev() {
            self.writing.push_again(&self.arrivals, frame, permit, progress);
        }
    }

    fn end(&mut self, why: WhyLost) {
        self.shared.phase.send_replace(Phase::Closed(why.clone()));
        self.arrivals.close();
        self.shared.acks.session_ended();
        self.shared.end_requests();
        self.shared.receipts.end(|| ReceiptError::Unknown(why.clone()));
        self.shared.asked.end();
        self.shared.end_watching();
        self.shared.inbox.end();
        self.shared.tell(Event::Closed { why });
    }

    /// Tries to register again until it succeeds or there is a reason not to.
    async fn come_back(
        &mut self,
        previous: Option<&Previous>,
        backoff: &mut Backoff,
    ) -> Result<Registered, WhyLost> {
        let mut doubtful = 0;
        loop {
            let delay = backoff.next();
            self.pause(delay).await;
            if self.is_closing {
                return Err(WhyLost::ByOwner);
            }
            let attempt = tokio::select! {
                attempt = register(&self.shared, previous, Need::Again) => attempt,
                () = self.shared.close.notified() => return Err(WhyLost::ByOwner),
            };
            let error = match attempt {
                Ok(registered) => return Ok(registered),
                Err(RegisterError::Taken(error)) if doubtful > 0 => {
                    doubtful -= 1;
                    error
                }
                Err(RegisterError::Taken(_)) if previous.is_some() => {
                    return Err(WhyLost::Replaced);
                }
                Err(RegisterError::Taken(error)) => {
                    let (code, detail) = ("name_taken".to_owned(), error.to_string());
                    return Err(WhyLost::Refused { code, detail });
                }
                Err(RegisterError::Connect(ConnectError::Refused { code, detail }))
                    if is_for_good(&code) =>
                {
                    return Err(WhyLost::Refused { code, detail });
                }
                Err(RegisterError::Connect(ConnectError::NeedsLevel2 { what, .. })) => {
                    return Err(WhyLost::NeedsLevel2(what));
                }
                Err(RegisterError::Connect(error)) => {
                    if matches!(error, ConnectError::NoAnswer { .. }) {
                        doubtful = DOUBTFUL;
                    }
                    error
                }
            };
            let (attempts, error) = (backoff.attempts(), error.to_string());
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

    /// Carries messages until the session ends. All that has arrived by then is handed over.
    async fn serve(&mut self, connection: Connection, welcome: &Welcome) -> WhyLost {
        let (stream, mut input, write_now) = connection.into_parts();
        let (mut reader, mut writer) = tokio::io::split(stream);
        let shared = Arc::clone(&self.shared);
        let is_level_2 = welcome.protocol >= 2;
        let acknowledges = is_level_2 && shared.options.acknowledges();
        let mut incoming = Incoming { shared, acknowledges, bye: None, is_unseen: false };
        self.shared.acks.session_began();
        if let Some((watch, _)) = self.shared.watching().as_ref().filter(|_| is_level_2) {
            self.writing.push_own(&mut self.arrivals, watch_frame(*watch));
        }
        self.arrivals.session_began(write_now);
        let why = self.carry(&mut reader, &mut writer, &mut input, &mut incoming).await;
        self.arrivals.session_ended();
        incoming.drain(&mut reader, &mut input).await;
        incoming.bye.take().unwrap_or(why)
    }

    async fn carry(
        &mut self,
        reader: &mut ReadHalf<Box<dyn Stream>>,
        writer: &mut WriteHalf<Box<dyn Stream>>,
        input: &mut BytesMut,
        incoming: &mut Incoming,
    ) -> WhyLost {
        let patience = self.shared.bus.patience_limit();
        let mut health = Health::new(self.shared.ping_every);
        // What is queued when the end is asked for is still written, for a while.
        let mut give_up_at = None;
        loop {
            let takes_more = match incoming.hand_over(input, Room::Limited) {
                Ok(takes_more) => takes_more,
                Err(error) => return WhyLost::Unexpected(error.to_string()),
            };
            self.look_for_owners();
            self.say_own(incoming);
            self.writing.gather(&mut self.arrivals);
            if self.is_closing {
                let give_up_at = *give_up_at.get_or_insert_with(|| deadline(patience));
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
            let Driver { shared, arrivals, writing, senders_are_gone, is_closing } = self;
            let is_writing = !writing.is_empty();
            health.is_writing(is_writing);
            let wants_more = !*senders_are_gone && !writing.is_full();
            tokio::select! {
                written = poll_fn(|cx| writing.poll_write(cx, writer)), if is_writing => {
                    match written {
                        Ok(()) => health.wrote(),
                        Err(error) => return ended(error),
                    }
                }
                read = reader.read_buf(input), if takes_more => match read {
                    Ok(0) => return WhyLost::ConnectionClosed,
                    Ok(_) => health.heard(),
                    Err(error) => return ended(error),
                },
                item = arrivals.next(), if wants_more => match item {
                    Some(item) => writing.push(item),
                    None => *senders_are_gone = true,
                },
                () = shared.inbox.changed() => {}
                () = shared.acks.changed() => {}
                () = shared.close.notified(), if !*is_closing => *is_closing = true,
                () = until(give_up_at) => {}
                () = until(health.write_deadline()) => return WhyLost::Silent(WRITE_PATIENCE),
                () = health.tick() => {
                    // After a long pause of the whole process, the answer may stand in the socket.
                    if takes_more
                        && let Ok(Ok(1..)) = timeout(Duration::ZERO, reader.read_buf(input)).await
                    {
                        health.heard();
                    }
                    match health.examine() {
                        Ok(()) => writing.push_own(arrivals, ping()),
                        Err(silence) => return WhyLost::Silent(silence),
                    }
                }
            }
        }
    }
}

impl Driver {
    /// Says what was settled since the last turn. One such frame waits at a time: while the bus does
    /// not read, the next one grows.
    fn say_own(&mut self, incoming: &mut Incoming) {
        if self.writing.has_own() {
            return;
        }
        let mut frames = self.shared.acks.take_frames();
        // Who watches by now has asked for it anew, and may have been heard already.
        if std::mem::take(&mut incoming.is_unseen) && self.shared.watching().is_none() {
            frames.extend(watch_frame(Watch::default()));
        }
        if !frames.is_empty() {
            self.writing.push_own(&mut self.arrivals, frames);
        }
    }
}

/// A client whose runtime ends under it says so to everybody who waits.
impl Drop for Driver {
    fn drop(&mut self) {
        if !matches!(*self.shared.phase.borrow(), Phase::Closed(_)) {
            self.end(WhyLost::RuntimeEnded);
        }
    }
}

fn ping() -> Vec<u8> {
    let mut frame = Vec::new();
    control::ping(&mut frame);
    frame
}

fn watch_frame(watch: Watch) -> Vec<u8> {
    let Watch { presence, tap } = watch;
    let request = json!({"type": "watch", "presence": presence, "tap": tap.as_str()});
    let mut frame = Vec::new();
    control::append_text(&mut frame, &request.to_string());
    frame
}

/// The connection broke.
fn ended(error: io::Error) -> WhyLost {
    match broken(error) {
        CallError::Closed => WhyLost::ConnectionClosed,
        error => WhyLost::Unexpected(error.to_string()),
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
    /// Whether messages are to be acknowledged.
    acknowledges: bool,
    /// What the bus said before it closed.
    bye: Option<WhyLost>,
    /// Nobody reads what is seen any more, and the bus has not been told.
    is_unseen: bool,
}

impl Incoming {
    /// Hands over whole frames for as long as the inbox has room. Says whether it has room for more.
    fn hand_over(&mut self, input: &mut BytesMut, room: Room) -> Result<bool, FrameError> {
        let mut dropped = 0;
        let takes_more = loop {
            if room == Room::Limited && !self.has_room() {
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

    /// Whether the inbox takes a message now; while an answer is waited for, the count does not matter.
    fn has_room(&self) -> bool {
        let inbox = &self.shared.inbox;
        inbox.takes_more(Strictness::All)
            || (self.shared.waits_for_answers() && inbox.takes_more(Strictness::BytesOnly))
    }

    /// Returns how many messages were dropped for want of room.
    fn sort(&mut self, frame: Object) -> u64 {
        match frame.text("type").as_deref() {
            Some("message") => {
                let mut message = Message::new(frame);
                if self.acknowledges {
                    message = message.expecting_acknowledgement(&self.shared.acks);
                }
                let Some(message) = self.shared.answer_request(message) else { return 0 };
                return u64::from(self.shared.inbox.push(message) != Pushed::Queued);
            }
            Some("receipt") => self.shared.receipts.receipt(&frame),
            Some("error") => self.refused(frame),
            Some("presence") => self.see(Sighting::Presence(Presence::read(frame))),
            Some("tap") => self.see(Sighting::Tap(Tapped::new(frame))),
            Some("gap") => {
                let gap = Gap::read(&frame);
                if ["tap", "presence"].contains(&gap.source.as_str()) {
                    self.see(Sighting::Gap(gap.clone()));
                }
                self.shared.tell(Event::Gap(gap));
            }
            Some("bye") => {
                let reason = frame.text("reason").unwrap_or_default().into_owned();
                let is_replaced = reason == "replaced";
                self.bye = Some(if is_replaced { WhyLost::Replaced } else { WhyLost::Bye(reason) });
            }
            Some("subscribed") => {
                self.shared.subscribed(&frame);
                let _ = self.shared.asked.answer(frame);
            }
            // `pong`, answers that nobody waits for any more, and what later versions may say.
            _ => _ = self.shared.asked.answer(frame),
        }
        0
    }

    /// The bus refused something: to whoever waits for an answer, else to all.
    fn refused(&self, frame: Object) {
        let Some(frame) = self.shared.asked.answer(frame) else { return };
        if self.shared.receipts.error(&frame) {
            return;
        }
        let (code, detail) = code_and_detail(&frame);
        let id = frame.text("id").map(|id| id.into_owned());
        self.shared.tell(Event::Refused { code, detail, id });
    }

    fn see(&mut self, sighting: Sighting) {
        let mut watching = self.shared.watching();
        // Where nothing is watched, the bus may have heard a request that nobody waited for.
        if watching.as_ref().is_none_or(|(_, seen)| !seen.push(sighting)) {
            *watching = None;
            self.is_unseen = true;
        }
    }

    /// Hands over what has arrived by the end of a session, however full the inbox is: the socket
    /// holds little, and nobody will send it again.
    async fn drain(&mut self, reader: &mut (impl AsyncRead + Unpin), input: &mut BytesMut) {
        let until = deadline(DRAIN_MAX);
        while self.hand_over(input, Room::Unlimited).is_ok() && Instant::now() < until {
            input.reserve(READ_BYTES);
            match timeout(DRAIN, reader.read_buf(input)).await {
                Ok(Ok(1..)) => {}
                _ => return,
            }
        }
    }
}

/// Whether the inbox's limits count.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Room {
    Limited,
    Unlimited,
}

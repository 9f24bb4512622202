//! A client with a name: the handle that sends and asks.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use hermes_bus_proto::Object;
use hermes_bus_proto::control::{self, Status};
use hermes_bus_proto::requests::Watch;
use serde_json::{Map, Value};
use tokio::sync::{Notify, broadcast, oneshot, watch};
use tokio::time::{Instant, timeout_at};

use crate::acks::Acks;
use crate::bus::{Bus, Need};
use crate::deadline;
use crate::error::{CallError, ConnectError, ReceiptError, RequestError, SendError};
use crate::event::{EVENTS_HELD, Event, Events, WhyLost};
use crate::inbox::{Inbox, Queue, QueueLimits, WhenFull};
use crate::message::{Message, Outgoing, encode_json, new_id};
use crate::options::{
    Acknowledge, Conflict, Options, REPEATS_WINDOW, Repeats, Subscriptions, Welcome,
};
use crate::outbox::{self, Outbox, Progress, Sending};
use crate::receipts::{Outstanding, Receipts};
use crate::requests::Requests;
use crate::session::{self, Driver};
use crate::sighting::{Seen, Sightings};
use crate::trace::Trace;

/// How often a session gives a sign of life. The bus closes sessions after 90 s of silence.
const PING_EVERY: Duration = Duration::from_secs(30);
const PING_EVERY_MIN: Duration = Duration::from_millis(1);
const PING_EVERY_MAX: Duration = Duration::from_secs(80);

/// A client that is not connected yet.
#[derive(Clone, Debug)]
pub struct ClientBuilder {
    bus: Bus,
    name: String,
    options: Options,
    subscriptions: Subscriptions,
    repeats: Option<(Repeats, usize)>,
    queue: QueueLimits,
    ping_every: Duration,
}

impl ClientBuilder {
    pub(crate) fn new(bus: Bus, name: String) -> Self {
        ClientBuilder {
            bus,
            name,
            options: Options::default(),
            subscriptions: Subscriptions::default(),
            repeats: None,
            queue: QueueLimits::default(),
            ping_every: PING_EVERY,
        }
    }

    /// What happens if the name is taken. [`Conflict::Replace`] if not set.
    pub fn conflict(mut self, conflict: Conflict) -> Self {
        self.options.conflict = conflict;
        self
    }

    /// Whether what is sent to the name waits on disk while the client is away. The bus remembers the
    /// last word of a name; left out, nothing is said, which is a no. Level 2.
    pub fn mailbox(mut self, wanted: bool) -> Self {
        self.options.mailbox = Some(wanted);
        self
    }

    /// Who confirms messages, and when. [`Acknowledge::Never`] if not set; the others need level 2.
    pub fn acknowledge(mut self, acknowledge: Acknowledge) -> Self {
        self.options.acknowledge = acknowledge;
        self
    }

    /// How many messages the bus hands over before one is acknowledged: 64 if not set, 1 to 65,536.
    pub fn in_flight(mut self, messages: u32) -> Self {
        self.options.in_flight = Options::limit_in_flight(messages);
        self
    }

    /// Groups to be a member of from the beginning, with or without their `@`. Level 2.
    pub fn groups(mut self, groups: impl IntoIterator<Item = impl AsRef<str>>) -> Self {
        self.subscriptions.groups = names(groups, '@');
        self
    }

    /// Patterns of topics to be subscribed to from the beginning, with or without their `#`. Level 2.
    pub fn topics(mut self, topics: impl IntoIterator<Item = impl AsRef<str>>) -> Self {
        self.subscriptions.topics = names(topics, '#');
        self
    }

    /// The secret of a protected name.
    pub fn token(mut self, secret: impl Into<String>) -> Self {
        self.options.token = Some(secret.into());
        self
    }

    /// What listings are to say about the session: its program, its directory. At most 4 KiB as JSON.
    pub fn meta(mut self, meta: Map<String, Value>) -> Self {
        self.options.meta = Some(meta);
        self
    }

    /// What is done about messages that come more than once. A client that acknowledges marks them if
    /// nothing is set, others do not look.
    pub fn repeats(mut self, repeats: Repeats) -> Self {
        let window = self.repeats.map_or(REPEATS_WINDOW, |(_, window)| window);
        self.repeats = Some((repeats, window));
        self
    }

    /// How many messages are remembered to recognise those that come again: 4,096 if not set.
    pub fn repeats_window(mut self, messages: usize) -> Self {
        let repeats = self.repeats.map_or_else(Repeats::default, |(repeats, _)| repeats);
        self.repeats = Some((repeats, messages));
        self
    }

    /// How much is queued for the [`Inbox`], and what happens when that is full.
    pub fn queue(mut self, limits: QueueLimits) -> Self {
        self.queue = limits;
        self
    }

    /// How often the session gives a sign of life, and after how much silence of the bus it is given
    /// up. 30 s if not set, 1 ms at least, 80 s at most; the bus closes sessions after 90 s of
    /// silence.
    pub fn ping_every(mut self, interval: Duration) -> Self {
        self.ping_every = interval.clamp(PING_EVERY_MIN, PING_EVERY_MAX);
        self
    }

    /// Connects and registers. Later the client reconnects by itself; it never gives up, except after
    /// another session has taken its name, or the bus has refused it.
    pub async fn connect(self) -> Result<(Client, Inbox), ConnectError> {
        let (shared, inbox) = self.make();
        let registered = session::register(&shared, None, Need::Now).await;
        let registered = registered.map_err(session::RegisterError::into_connect_error)?;
        let _ = shared.name.set(registered.welcome.name.clone());
        shared.phase.send_replace(Phase::Connected(Arc::clone(&registered.welcome)));
        let (outbox, arrivals) = outbox::outbox();
        tokio::spawn(Driver::new(Arc::clone(&shared), arrivals).run(registered));
        Ok((Client { shared, outbox }, inbox))
    }

    /// A client that has no session yet and gets one as soon as that is possible, as if it had lost
    /// one: a bus that was stopped is not started. [`Event::Reconnected`] says when, and
    /// [`Event::Closed`] if the bus refuses the name. To be called within a runtime.
    pub fn connect_later(self) -> (Client, Inbox) {
        let (shared, inbox) = self.make();
        let (outbox, arrivals) = outbox::outbox();
        tokio::spawn(Driver::new(Arc::clone(&shared), arrivals).run_from_nothing());
        (Client { shared, outbox }, inbox)
    }

    fn make(self) -> (Arc<Shared>, Inbox) {
        let acknowledge = self.options.acknowledge;
        let mut limits = self.queue;
        let mut repeats = self.repeats;
        if self.options.acknowledges() {
            limits.when_full = WhenFull::Wait;
            repeats = repeats.or(Some((Repeats::default(), REPEATS_WINDOW)));
        }
        let queue = Arc::new(Queue::new(limits));
        let acks = Arc::new(Acks::new(repeats));
        let shared = Arc::new(Shared {
            bus: self.bus,
            wanted_name: self.name,
            name: OnceLock::new(),
            options: self.options,
            subscriptions: Mutex::new(self.subscriptions),
            ping_every: self.ping_every,
            inbox: Arc::clone(&queue),
            acks: Arc::clone(&acks),
            receipts: Arc::default(),
            asked: Requests::default(),
            watching: Mutex::default(),
            requests: Mutex::default(),
            events: broadcast::Sender::new(EVENTS_HELD),
            phase: watch::Sender::new(Phase::Away),
            close: Notify::new(),
        });
        (shared, Inbox::new(queue, acks, acknowledge))
    }
}

/// What the handles and the session share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) bus: Bus,
    wanted_name: String,
    /// The name that the client got.
    pub(crate) name: OnceLock<String>,
    pub(crate) options: Options,
    subscriptions: Mutex<Subscriptions>,
    pub(crate) ping_every: Duration,
    pub(crate) inbox: Arc<Queue<Message>>,
    pub(crate) acks: Arc<Acks>,
    pub(crate) receipts: Arc<Receipts>,
    pub(crate) asked: Requests,
    watching: Mutex<Option<(Watch, Arc<Seen>)>>,
    /// Requests that wait for a reply, by their message's id.
    requests: Mutex<HashMap<String, oneshot::Sender<Message>>>,
    pub(crate) events: broadcast::Sender<Event>,
    pub(crate) phase: watch::Sender<Phase>,
    /// The owner asks the session to end.
    pub(crate) close: Notify,
}

/// Where a client is in its life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Registered.
    Connected(Arc<Welcome>),
    /// Without a session, trying to come back.
    Away,
    /// For good.
    Closed(WhyLost),
}

impl Shared {
    pub(crate) fn tell(&self, event: Event) {
        // Nobody may be listening.
        let _ = self.events.send(event);
    }

    fn requests(&self) -> MutexGuard<'_, HashMap<String, oneshot::Sender<Message>>> {
        // Nothing in here panics half-way.
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether something is waited for that may stand behind messages for which the inbox has no
    /// room.
    pub(crate) fn waits_for_answers(&self) -> bool {
        !self.requests().is_empty() || self.receipts.are_waited_for() || self.asked.are_waited_for()
    }

    /// The name that the client has, or wants as long as it has none.
    pub(crate) fn name(&self) -> &str {
        self.name.get().unwrap_or(&self.wanted_name)
    }

    /// What the client is subscribed to, as far as the bus has said so.
    pub(crate) fn subscriptions(&self) -> Subscriptions {
        self.subscriptions.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The bus has said what the client holds now. Noted where its words arrive, in their order:
    /// whoever asked may have given up, or be slower than the next one.
    pub(crate) fn subscribed(&self, frame: &Object) {
        if let Some(held) = Subscriptions::read(frame) {
            *self.subscriptions.lock().unwrap_or_else(PoisonError::into_inner) = held;
        }
    }

    /// What is watched, and where the sightings go.
    pub(crate) fn watching(&self) -> MutexGuard<'_, Option<(Watch, Arc<Seen>)>> {
        self.watching.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands a reply to the request that waits for it, or the message back. Who gets it need not
    /// acknowledge it.
    pub(crate) fn answer_request(&self, message: Message) -> Option<Message> {
        let Some(id) = message.reply_to() else { return Some(message) };
        let Some(waiting) = self.requests().remove(id.as_ref()) else { return Some(message) };
        let reply = message.clone();
        match waiting.send(message) {
            Ok(()) => {
                reply.ack();
                None
            }
            Err(message) => Some(message),
        }
    }

    /// Nothing will be seen any more.
    pub(crate) fn end_watching(&self) {
        if let Some((_, seen)) = self.watching().take() {
            seen.end();
        }
    }

    /// Nothing will be answered any more.
    pub(crate) fn end_requests(&self) {
        self.requests().clear();
    }
}

/// A client with a name. Cloning is cheap; all clones are the same client.
///
/// It lives until [`Client::close`], or until all clones and the [`Inbox`] are dropped.
#[derive(Clone, Debug)]
pub struct Client {
    shared: Arc<Shared>,
    outbox: Outbox,
}

impl Client {
    /// The client's name. With [`Conflict::Suffix`] the one that the bus has chosen.
    pub fn name(&self) -> &str {
        self.shared.name()
    }

    /// What the bus said when the session began; `None` while there is none.
    pub fn welcome(&self) -> Option<Arc<Welcome>> {
        match &*self.shared.phase.borrow() {
            Phase::Connected(welcome) => Some(Arc::clone(welcome)),
            Phase::Away | Phase::Closed(_) => None,
        }
    }

    /// The bus it is a client of.
    pub fn bus(&self) -> &Bus {
        &self.shared.bus
    }

    /// UUID of the session; `None` while there is none.
    pub fn session_id(&self) -> Option<String> {
        self.welcome().map(|welcome| welcome.session_id.clone())
    }

    /// Why the client is closed; `None` while it is not.
    pub fn closed(&self) -> Option<WhyLost> {
        match &*self.shared.phase.borrow() {
            Phase::Closed(why) => Some(why.clone()),
            Phase::Connected(_) | Phase::Away => None,
        }
    }

    /// What happens to the session from now on.
    pub fn events(&self) -> Events {
        let receiver = self.shared.events.subscribe();
        // The phase changes before the last event is told.
        Events::new(receiver, self.closed().is_some())
    }

    /// Sends a message, and returns when all of it is in the socket of a registered session: from
    /// there on it is the bus's, in the order of the calls. Waits for the session to come back
    /// where there is none, for as long as the bus's patience. An error means that the message was
    /// not sent and will not be.
    ///
    /// What became of a message (of an unknown endpoint, for example) is not waited for, and what
    /// the bus had not read when it crashed is lost; [`Client::submit`] gives a receipt, and
    /// [`Bus::send`] waits for the bus's answer. What the bus does refuse is told by
    /// [`Event::Refused`], with the message's id, if it was given one. (On level 1 a registered
    /// sender does not hear of unknown endpoints.)
    pub async fn send(&self, message: &Outgoing) -> Result<(), SendError> {
        self.outbox.send(message.encode(None)?, self.shared.bus.patience_limit()).await
    }

    /// Sends a message, in most cases by a write of the calling thread: if nothing waits before it and the
    /// socket has room, it is the bus's when this returns, without a word to the session's task. If not,
    /// [`Sending::finish`] is to be awaited; nothing blocks here. For threads that send one message
    /// after the other; many tasks at once are better served by [`Client::send`], which has
    /// them share writes.
    pub fn begin_send(&self, message: &Outgoing) -> Result<Sending, SendError> {
        self.begin(message.encode(None)?)
    }

    /// The same for a body that is JSON text already, which is copied once. An empty `to` means every
    /// endpoint.
    pub fn begin_send_json(
        &self,
        to: &str,
        from: Option<&str>,
        body_json: &str,
    ) -> Result<Sending, SendError> {
        self.begin(encode_json(to, from, body_json)?)
    }

    fn begin(&self, frame: Vec<u8>) -> Result<Sending, SendError> {
        if self.closed().is_some() {
            return Err(SendError::Closed);
        }
        Ok(self.outbox.begin(frame, self.shared.bus.patience_limit()))
    }

    /// Sends a message, and gives what its receipt can be awaited on: that it has come as far as
    /// [`Outgoing::receipt`] says ([`Status::Accepted`] if it says nothing), or why it cannot. Returns
    /// when all of it is in the socket, in the order of the calls, as [`Client::send`] does, so that
    /// many receipts can be outstanding at once. There is no limit to how long one may take: to be
    /// acknowledged, a message may have to wait in a mailbox.
    ///
    /// If the session ends before the bus has answered, nobody knows what became of the message
    /// ([`ReceiptError::Unknown`]), unless [`Outgoing::retry_until`] has it sent again. Level 2.
    ///
    /// ```
    /// # use hermes_bus_client::{memory, Bus, Outgoing, ReceiptError, Status};
    /// # let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    /// # runtime.block_on(async {
    /// # let (transport, mut bus_side) = memory::bus();
    /// # tokio::spawn(async move {
    /// #     let mut session = bus_side.accept().await;
    /// #     session.welcome_2("session-1").await;
    /// #     for id in ["a", "b"] {
    /// #         session.receive().await;
    /// #         session.send(&format!(r#"{{"type": "receipt", "id": "{id}", "status": "stored"}}"#)).await;
    /// #     }
    /// #     session.receive().await;
    /// # });
    /// # let bus = Bus::on(transport);
    /// let (client, _inbox) = bus.connect("worker").await?;
    /// let mut outstanding = Vec::new();
    /// for id in ["a", "b"] {
    ///     let message = Outgoing::text("lead", "done").id(id).receipt(Status::Stored);
    ///     outstanding.push(client.submit(&message).await?);
    /// }
    /// for receipt in outstanding {
    ///     match receipt.await {
    ///         Ok(receipt) => println!("{} is {}", receipt.id, receipt.status.as_str()),
    ///         Err(ReceiptError::Refused { code, detail, .. }) => println!("{code}: {detail}"),
    ///         Err(error) => return Err(error.into()),
    ///     }
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub async fn submit(&self, message: &Outgoing) -> Result<Outstanding, ReceiptError> {
        if self.is_level_1() {
            return Err(ReceiptError::NeedsLevel2);
        }
        let id = message.id.clone().unwrap_or_else(new_id);
        let wanted = message.receipt.unwrap_or(Status::Accepted);
        let frame = message.encode_for(Some(&id), Some(wanted)).map_err(SendError::from)?;
        let frame = Bytes::from(frame);
        let until = message.retry_until.map(Instant::from_std);
        let limit = self.shared.bus.patience_limit();
        let patience = until.map_or(limit, |until| until.saturating_duration_since(Instant::now()));
        let deadline = deadline(patience);
        let permit = self.outbox.admit(frame.len(), patience).await?;
        let progress = Progress::default();
        let again = until.map(|_| (frame.clone(), Arc::clone(&permit)));
        let outstanding = self.shared.receipts.begin(id, progress.clone(), again, until);
        let outstanding = outstanding.ok_or(ReceiptError::Duplicate)?;
        self.shared.inbox.look_again();
        self.outbox.queue(frame, permit, progress, deadline, patience).await?;
        Ok(outstanding)
    }

    /// Subscribes to patterns of topics, with or without their `#`: `*` stands for one part between
    /// dots, `>` at the end for one or more. Returns all that the client holds now; it holds them in
    /// later sessions too. Level 2.
    pub async fn subscribe(
        &self,
        topics: impl IntoIterator<Item = impl AsRef<str>>,
    ) -> Result<Subscriptions, CallError> {
        self.change("subscribe", "topics", names(topics, '#')).await
    }

    /// Ends subscriptions.
    pub async fn unsubscribe(
        &self,
        topics: impl IntoIterator<Item = impl AsRef<str>>,
    ) -> Result<Subscriptions, CallError> {
        self.change("unsubscribe", "topics", names(topics, '#')).await
    }

    /// Becomes a member of groups, with or without their `@`. Returns all that the client holds now.
    /// Level 2.
    pub async fn join(
        &self,
        groups: impl IntoIterator<Item = impl AsRef<str>>,
    ) -> Result<Subscriptions, CallError> {
        self.change("subscribe", "groups", names(groups, '@')).await
    }

    /// Leaves groups.
    pub async fn leave(
        &self,
        groups: impl IntoIterator<Item = impl AsRef<str>>,
    ) -> Result<Subscriptions, CallError> {
        self.change("unsubscribe", "groups", names(groups, '@')).await
    }

    async fn change(
        &self,
        kind: &str,
        key: &str,
        names: BTreeSet<String>,
    ) -> Result<Subscriptions, CallError> {
        let mut request = Map::new();
        request.insert(key.to_owned(), names.into_iter().collect());
        let answer = self.ask(kind, request, "topics and groups").await?;
        Subscriptions::read(&answer)
            .ok_or_else(|| CallError::Unexpected("an answer without topics and groups".to_owned()))
    }

    /// Watches who comes and goes, or what is routed, in this session and later ones. A client
    /// watches one thing at a time: what was watched before ends. It also ends when a bus comes back
    /// that speaks level 1 only. Level 2.
    pub async fn watch(&self, watch: Watch) -> Result<Sightings, CallError> {
        let seen = Seen::new();
        let sightings = Sightings::new(Arc::clone(&seen));
        let before = self.shared.watching().replace((watch, Arc::clone(&seen)));
        if let Some((_, before)) = before {
            before.end();
        }
        let mut request = Map::new();
        request.insert("presence".to_owned(), watch.presence.into());
        request.insert("tap".to_owned(), watch.tap.as_str().into());
        match self.ask("watch", request, "watching").await {
            Ok(_) => Ok(sightings),
            Err(error) => {
                let mut watching = self.shared.watching();
                if watching.as_ref().is_some_and(|(_, current)| Arc::ptr_eq(current, &seen)) {
                    *watching = None;
                }
                Err(error)
            }
        }
    }

    /// Where a message is, by its id, a string or a number: what happened to it, oldest first. Of
    /// messages of others only the bus's own user and root hear. Level 2.
    pub async fn trace(&self, id: impl Into<Value>) -> Result<Trace, CallError> {
        let mut request = Map::new();
        request.insert("id".to_owned(), id.into());
        let answer = self.ask("trace", request, "traces").await?;
        serde_json::from_slice(answer.as_bytes())
            .map_err(|error| CallError::Unexpected(error.to_string()))
    }

    /// Has the daemon do something. See [`crate::Connection::admin_raw`].
    pub async fn admin(
        &self,
        op: &str,
        arguments: &Map<String, Value>,
    ) -> Result<Object, CallError> {
        let mut request = arguments.clone();
        request.insert("op".to_owned(), op.into());
        request.insert("protocol".to_owned(), 2.into());
        self.ask("admin", request, "administration").await
    }

    /// Asks the bus something, and waits for its answer for as long as the bus's patience.
    async fn ask(
        &self,
        kind: &str,
        mut request: Map<String, Value>,
        what: &'static str,
    ) -> Result<Object, CallError> {
        if self.is_level_1() {
            return Err(CallError::NeedsLevel2 { what });
        }
        let patience = self.shared.bus.patience_limit();
        let deadline = deadline(patience);
        let mut asked = self.shared.asked.begin();
        request.insert("type".to_owned(), kind.into());
        request.insert("req".to_owned(), asked.number.into());
        let mut frame = Vec::new();
        control::append_text(&mut frame, &Value::Object(request).to_string());
        self.shared.inbox.look_again();
        let progress = asked.progress.clone();
        let sending = async {
            let permit = self.outbox.admit(frame.len(), patience).await?;
            self.outbox.queue(frame.into(), permit, progress, deadline, patience).await
        };
        sending.await.map_err(|error| match error {
            SendError::Message(error) => CallError::Message(error),
            SendError::NotTaken(patience) => CallError::NoAnswer(patience),
            SendError::Closed => CallError::ClientClosed,
        })?;
        match timeout_at(deadline, &mut asked.answer).await {
            Ok(answer) => answer.unwrap_or(Err(CallError::ClientClosed)),
            Err(_) => Err(CallError::NoAnswer(patience)),
        }
    }

    /// Whether there is a session, and with a bus that does not speak level 2.
    fn is_level_1(&self) -> bool {
        self.welcome().is_some_and(|welcome| welcome.protocol < 2)
    }

    /// Sends a message and waits for its reply: a message whose `reply_to` is the id of this one.
    /// The reply does not go into the [`Inbox`].
    ///
    /// The request travels on a connection of its own, so that the bus says at once if it cannot be
    /// delivered; it may overtake what [`Client::send`] has sent.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use hermes_bus_client::{memory, Bus, Outgoing, RequestError};
    /// # let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    /// # runtime.block_on(async {
    /// # let (transport, mut bus_side) = memory::bus();
    /// # tokio::spawn(async move {
    /// #     let mut session = bus_side.accept().await;
    /// #     session.welcome("session-1").await;
    /// #     let mut connection = bus_side.accept().await;
    /// #     connection.receive().await;
    /// #     connection.send(r#"{"type": "receipt", "id": "q-1", "status": "delivered"}"#).await;
    /// #     session.send(r#"{"type": "message", "reply_to": "q-1", "body": {"text": "42"}}"#).await;
    /// #     session.receive().await;
    /// # });
    /// # let bus = Bus::on(transport);
    /// let (client, _inbox) = bus.connect("curious").await?;
    /// let question = Outgoing::text("oracle", "what is the answer?").id("q-1");
    /// match client.request(&question, Duration::from_secs(30)).await {
    ///     Ok(reply) => assert_eq!(reply.text().as_deref(), Some("42")),
    ///     Err(RequestError::NoReply(patience)) => println!("nothing came within {patience:?}"),
    ///     Err(error) => return Err(error.into()),
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub async fn request(
        &self,
        message: &Outgoing,
        patience: Duration,
    ) -> Result<Message, RequestError> {
        let mut message = message.clone();
        message.from.get_or_insert_with(|| self.shared.name().to_owned());
        let id = message.ensure_id().to_owned();
        let (reply, waiting) = oneshot::channel();
        {
            let mut requests = self.shared.requests();
            if self.closed().is_some() {
                return Err(RequestError::Closed);
            }
            if requests.contains_key(&id) {
                return Err(RequestError::Duplicate);
            }
            requests.insert(id.clone(), reply);
        }
        let _pending = Pending { shared: &self.shared, id };
        // A reply may stand behind messages for which the inbox has no room.
        self.shared.inbox.look_again();
        let deadline = deadline(patience);
        let mut waiting = std::pin::pin!(waiting);
        // Who replies has the message, whatever the bus says of it.
        tokio::select! {
            biased;
            reply = &mut waiting => return reply.map_err(|_| RequestError::Closed),
            sent = timeout_at(deadline, self.shared.bus.send(&message)) => match sent {
                Ok(receipt) => _ = receipt?,
                Err(_) => return Err(CallError::NoAnswer(patience).into()),
            },
        }
        match timeout_at(deadline, waiting).await {
            Ok(reply) => reply.map_err(|_| RequestError::Closed),
            Err(_) => Err(RequestError::NoReply(patience)),
        }
    }

    /// Ends the session, after what was sent before is in the socket, and returns when it has ended.
    /// What has arrived stays in the [`Inbox`].
    pub async fn close(&self) {
        self.shared.close.notify_one();
        let mut phase = self.shared.phase.subscribe();
        let _ = phase.wait_for(|phase| matches!(phase, Phase::Closed(_))).await;
    }
}

/// A request that waits; forgotten when the call ends, however it ends.
struct Pending<'c> {
    shared: &'c Shared,
    id: String,
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        self.shared.requests().remove(&self.id);
    }
}

/// Names of groups or topics, without the letter that such addresses begin with.
fn names(names: impl IntoIterator<Item = impl AsRef<str>>, prefix: char) -> BTreeSet<String> {
    let bare = |name: &str| name.strip_prefix(prefix).unwrap_or(name).to_owned();
    names.into_iter().map(|name| bare(name.as_ref())).collect()
}

//! A client with a name: the handle that sends and asks.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, broadcast, oneshot, watch};
use tokio::time::timeout_at;

use crate::bus::{Bus, Need};
use crate::deadline;
use crate::error::{CallError, ConnectError, RequestError, SendError};
use crate::event::{EVENTS_HELD, Event, Events, WhyLost};
use crate::inbox::{Inbox, Queue, QueueLimits};
use crate::message::{Message, Outgoing, new_id};
use crate::outbox::{self, Outbox};
use crate::session::{self, Driver};

/// What happens if another session has the name when a client first connects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Conflict {
    /// It loses the name, and its connection.
    #[default]
    Replace,
    /// Connecting fails with [`ConnectError::NameTaken`]. The client looks before it registers: of two
    /// that look at the same moment, the later one wins.
    Refuse,
}

/// How often a session gives a sign of life. The bus closes sessions after 90 s of silence.
const PING_EVERY: Duration = Duration::from_secs(30);
const PING_EVERY_MIN: Duration = Duration::from_millis(1);
const PING_EVERY_MAX: Duration = Duration::from_secs(80);

/// A client that is not connected yet.
#[derive(Clone, Debug)]
pub struct ClientBuilder {
    bus: Bus,
    name: String,
    conflict: Conflict,
    queue: QueueLimits,
    ping_every: Duration,
}

impl ClientBuilder {
    pub(crate) fn new(bus: Bus, name: String) -> Self {
        ClientBuilder {
            bus,
            name,
            conflict: Conflict::default(),
            queue: QueueLimits::default(),
            ping_every: PING_EVERY,
        }
    }

    /// What happens if the name is taken. [`Conflict::Replace`] if not set.
    pub fn conflict(mut self, conflict: Conflict) -> Self {
        self.conflict = conflict;
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
        let queue = Arc::new(Queue::new(self.queue));
        let shared = Arc::new(Shared {
            bus: self.bus,
            name: self.name,
            conflict: self.conflict,
            ping_every: self.ping_every,
            inbox: Arc::clone(&queue),
            requests: Mutex::default(),
            events: broadcast::Sender::new(EVENTS_HELD),
            phase: watch::Sender::new(Phase::Away),
            close: Notify::new(),
        });
        let inbox = Inbox::new(queue);
        let registered = session::register(&shared, None, Need::Now).await;
        let registered = registered.map_err(session::RegisterError::into_connect_error)?;
        shared.phase.send_replace(Phase::Connected(registered.session_id.clone()));
        let (outbox, arrivals) = outbox::outbox();
        tokio::spawn(Driver::new(Arc::clone(&shared), arrivals).run(registered));
        Ok((Client { shared, outbox }, inbox))
    }
}

/// What the handles and the session share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) bus: Bus,
    pub(crate) name: String,
    pub(crate) conflict: Conflict,
    pub(crate) ping_every: Duration,
    pub(crate) inbox: Arc<Queue>,
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
    /// Registered, with this session id.
    Connected(String),
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

    pub(crate) fn has_requests(&self) -> bool {
        !self.requests().is_empty()
    }

    /// Hands a reply to the request that waits for it, or the message back.
    pub(crate) fn answer_request(&self, message: Message) -> Option<Message> {
        let Some(id) = message.reply_to() else { return Some(message) };
        let Some(waiting) = self.requests().remove(id.as_ref()) else { return Some(message) };
        waiting.send(message).err()
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
    /// The client's name.
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// The bus it is a client of.
    pub fn bus(&self) -> &Bus {
        &self.shared.bus
    }

    /// UUID of the session; `None` while there is none.
    pub fn session_id(&self) -> Option<String> {
        match &*self.shared.phase.borrow() {
            Phase::Connected(session_id) => Some(session_id.clone()),
            Phase::Away | Phase::Closed(_) => None,
        }
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
    /// A registered sender is not told what became of a message (of an unknown endpoint, for
    /// example), and loses what the bus had not read when it crashed; [`Bus::send`] waits for the
    /// bus's answer. What the bus does refuse is told by [`Event::Refused`], with the message's id,
    /// if it was given one.
    pub async fn send(&self, message: &Outgoing) -> Result<(), SendError> {
        self.outbox.send(message.encode(None)?, self.shared.bus.patience_limit()).await
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
        message.from.get_or_insert_with(|| self.shared.name.clone());
        let id = message.id.get_or_insert_with(new_id).clone();
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

//! The same for programs without a runtime: every call blocks until it is done, for as long as the
//! bus's patience at most.
//!
//! ```no_run
//! use std::time::Duration;
//! use hermes_bus_client::{Outgoing, blocking::Bus};
//!
//! let bus = Bus::new(hermes_bus_client::Bus::find()?)?;
//! println!("{:?}", bus.send(&Outgoing::text("lead-agent", "hello"))?.status);
//!
//! let mut client = bus.connect("my-service")?;
//! while let Some(message) = client.next_within(Duration::from_secs(60)) {
//!     println!("{}", message.body_json());
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::io;
use std::time::Duration;

use hermes_bus_proto::Object;
use tokio::runtime::{Builder, Runtime};

use crate::client::ClientBuilder;
use crate::error::{CallError, ConnectError, ReceiptError, RequestError, SendError};
use crate::event::Event;
use crate::message::{Message, Outgoing};
use crate::{
    Events, Inbox, Listing, Outstanding, Receipt, Sighting, Sightings, Subscriptions, Trace, Watch,
};

/// A bus, for calls that block. Not to be used within an async runtime.
#[derive(Debug)]
pub struct Bus {
    bus: crate::Bus,
    runtime: OwnRuntime,
}

impl Bus {
    /// Fails only if the system has no descriptors left.
    pub fn new(bus: crate::Bus) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        Ok(Bus { bus, runtime: OwnRuntime(Some(runtime)) })
    }

    /// See [`crate::Bus::open`].
    pub fn open(&self) -> Result<Connection<'_>, ConnectError> {
        let connection = self.runtime.block_on(self.bus.open())?;
        Ok(Connection { connection, runtime: &self.runtime })
    }

    /// See [`crate::Bus::send`].
    pub fn send(&self, message: &Outgoing) -> Result<Receipt, CallError> {
        self.runtime.block_on(self.bus.send(message))
    }

    /// See [`crate::Bus::list`].
    pub fn list(&self) -> Result<Listing, CallError> {
        self.runtime.block_on(self.bus.list())
    }

    /// See [`crate::Bus::ping`].
    pub fn ping(&self) -> Result<Duration, CallError> {
        self.runtime.block_on(self.bus.ping())
    }

    /// See [`crate::Bus::connect`].
    pub fn connect(&self, name: &str) -> Result<Client, ConnectError> {
        Client::connect(self.bus.client(name))
    }
}

/// A connection without a name.
#[derive(Debug)]
pub struct Connection<'b> {
    connection: crate::Connection,
    runtime: &'b OwnRuntime,
}

impl Connection<'_> {
    /// See [`crate::Connection::peer_pid`].
    pub fn peer_pid(&self) -> Option<u32> {
        self.connection.peer_pid()
    }

    /// See [`crate::Connection::list`].
    pub fn list(&mut self, patience: Duration) -> Result<Listing, CallError> {
        self.runtime.block_on(self.connection.list(patience))
    }

    /// See [`crate::Connection::admin`].
    pub fn admin(
        &mut self,
        op: &str,
        arguments: &serde_json::Map<String, serde_json::Value>,
        patience: Duration,
    ) -> Result<serde_json::Map<String, serde_json::Value>, CallError> {
        self.runtime.block_on(self.connection.admin(op, arguments, patience))
    }
}

/// A client with a name and its inbox. Its session lives on a thread of its own.
#[derive(Debug)]
pub struct Client {
    client: crate::Client,
    inbox: Inbox,
    events: Events,
    /// Last, so that the session is asked to end before its thread is.
    runtime: OwnRuntime,
}

impl Client {
    /// See [`ClientBuilder::connect`].
    pub fn connect(builder: ClientBuilder) -> Result<Self, ConnectError> {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.map_err(|source| ConnectError::Io {
            address: "a thread for the session".to_owned(),
            source,
        })?;
        let (client, inbox) = runtime.block_on(builder.connect())?;
        let events = client.events();
        Ok(Client { client, inbox, events, runtime: OwnRuntime(Some(runtime)) })
    }

    /// The client for async code, with its name and state.
    pub fn handle(&self) -> &crate::Client {
        &self.client
    }

    /// See [`crate::Client::send`].
    pub fn send(&self, message: &Outgoing) -> Result<(), SendError> {
        let sending = self.client.begin_send(message)?;
        if sending.is_done() { Ok(()) } else { self.runtime.block_on(sending.finish()) }
    }

    /// See [`crate::Client::submit`]; [`Client::wait`] waits for the receipt.
    pub fn submit(&self, message: &Outgoing) -> Result<Outstanding, ReceiptError> {
        self.runtime.block_on(self.client.submit(message))
    }

    /// Waits for a receipt. `None`: it did not come in time, and nobody waits for it any more.
    pub fn wait(
        &self,
        outstanding: Outstanding,
        patience: Duration,
    ) -> Option<Result<Receipt, ReceiptError>> {
        self.runtime.block_on(async { tokio::time::timeout(patience, outstanding).await.ok() })
    }

    /// See [`crate::Client::subscribe`].
    pub fn subscribe(
        &self,
        topics: impl IntoIterator<Item = impl AsRef<str>>,
    ) -> Result<Subscriptions, CallError> {
        self.runtime.block_on(self.client.subscribe(topics))
    }

    /// See [`crate::Client::unsubscribe`].
    pub fn unsubscribe(
        &self,
        topics: impl IntoIterator<Item = impl AsRef<str>>,
    ) -> Result<Subscriptions, CallError> {
        self.runtime.block_on(self.client.unsubscribe(topics))
    }

    /// See [`crate::Client::join`].
    pub fn join(
        &self,
        groups: impl IntoIterator<Item = impl AsRef<str>>,
    ) -> Result<Subscriptions, CallError> {
        self.runtime.block_on(self.client.join(groups))
    }

    /// See [`crate::Client::leave`].
    pub fn leave(
        &self,
        groups: impl IntoIterator<Item = impl AsRef<str>>,
    ) -> Result<Subscriptions, CallError> {
        self.runtime.block_on(self.client.leave(groups))
    }

    /// See [`crate::Client::watch`]; [`Client::next_sighting`] gives what is seen.
    pub fn watch(&self, watch: Watch) -> Result<Sightings, CallError> {
        self.runtime.block_on(self.client.watch(watch))
    }

    /// The next thing that is seen, if it comes in time.
    pub fn next_sighting(&self, sightings: &mut Sightings, patience: Duration) -> Option<Sighting> {
        let next = async { tokio::time::timeout(patience, sightings.next()).await.ok()? };
        self.runtime.block_on(next)
    }

    /// See [`crate::Client::trace`].
    pub fn trace(&self, id: impl Into<serde_json::Value>) -> Result<Trace, CallError> {
        self.runtime.block_on(self.client.trace(id))
    }

    /// See [`crate::Client::admin`].
    pub fn admin(
        &self,
        op: &str,
        arguments: &serde_json::Map<String, serde_json::Value>,
    ) -> Result<Object, CallError> {
        self.runtime.block_on(self.client.admin(op, arguments))
    }

    /// See [`crate::Client::request`].
    pub fn request(&self, message: &Outgoing, patience: Duration) -> Result<Message, RequestError> {
        self.runtime.block_on(self.client.request(message, patience))
    }

    /// The next message, if it comes in time.
    pub fn next_within(&mut self, patience: Duration) -> Option<Message> {
        let Client { inbox, runtime, .. } = self;
        runtime.block_on(async { tokio::time::timeout(patience, inbox.next()).await.ok()? })
    }

    /// A message that is there already.
    pub fn try_next(&mut self) -> Option<Message> {
        self.inbox.try_next()
    }

    /// Something that has happened to the session since it began.
    pub fn try_next_event(&mut self) -> Option<Event> {
        self.events.try_next()
    }

    /// See [`crate::Client::close`].
    pub fn close(self) {
        self.runtime.block_on(self.client.close());
    }
}

/// The messages as they come, however long that takes. Ends when the client is closed and everything
/// has been read.
impl Iterator for Client {
    type Item = Message;

    fn next(&mut self) -> Option<Message> {
        self.runtime.block_on(self.inbox.next())
    }
}

/// A runtime that may be dropped anywhere, also within another one.
#[derive(Debug)]
struct OwnRuntime(Option<Runtime>);

impl OwnRuntime {
    fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.0.as_ref().expect("only taken when dropped").block_on(future)
    }
}

impl Drop for OwnRuntime {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

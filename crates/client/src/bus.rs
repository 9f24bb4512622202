//! Where a bus is and how it is reached, and the calls that need no name.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hermes_bus_proto::control::{self, Status};
use hermes_bus_proto::listing::Listing;
use tokio::time::{Instant, timeout, timeout_at};

use crate::address::{bus_directory, socket_in};
use crate::client::{Client, ClientBuilder};
use crate::connection::{Connection, refusal};
use crate::deadline;
use crate::error::{CallError, ConnectError};
use crate::inbox::Inbox;
use crate::message::{Outgoing, new_id};
use crate::receipts::Receipt;
use crate::start::{self, Start};
use crate::transport::{Transport, UnixSocket};

/// How long a bus may take to answer, unless said otherwise.
const PATIENCE: Duration = Duration::from_secs(5);
/// A bus that gives receipts does so at once, unless it has a reason to wait (up to 0.7 s). After
/// this, it is found out which kind of bus this is.
const PROMPT: Duration = Duration::from_millis(150);
/// How often a bus that is being started is looked for.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// A bus: where it is, whether it may be started, how long it may take. Cloning is cheap.
#[derive(Clone)]
pub struct Bus {
    transport: Arc<dyn Transport>,
    start: Start,
    manager: Option<PathBuf>,
    patience: Duration,
}

/// When a daemon may be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// Somebody wants the bus now.
    Now,
    /// A client comes back: a bus that was stopped stays stopped, one that crashed does not.
    Again,
}

impl fmt::Debug for Bus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = self.transport.describe();
        f.debug_struct("Bus").field("address", &address).field("start", &self.start).finish()
    }
}

impl Bus {
    /// The bus of `HERMES_BUS_ROOT`, else of `~/.hermes`. It is started where it does not run.
    pub fn find() -> io::Result<Self> {
        Ok(Self::in_directory(bus_directory(None)?))
    }

    /// The bus of a root directory. It is started where it does not run.
    pub fn in_directory(directory: impl Into<PathBuf>) -> Self {
        let directory = directory.into();
        let socket = socket_in(&directory);
        Self::at(socket).start(Start::Directory(directory))
    }

    /// The bus that listens on a socket. It is never started.
    pub fn at(socket: impl AsRef<Path>) -> Self {
        Self::on(UnixSocket::new(socket.as_ref()))
    }

    /// The bus that a transport leads to. It is never started.
    pub fn on(transport: impl Transport) -> Self {
        let (start, manager, patience) = (Start::Never, None, PATIENCE);
        Bus { transport: Arc::new(transport), start, manager, patience }
    }

    /// Whether the bus is to be started where it does not run.
    pub fn start(mut self, start: Start) -> Self {
        self.start = start;
        self
    }

    /// The `hermes-busd` that starts it. If not set, it is looked for beside the running program, then
    /// on `PATH`; that is not the right place where the running program is an interpreter.
    pub fn manager(mut self, program: impl Into<PathBuf>) -> Self {
        self.manager = Some(program.into());
        self
    }

    /// How long connecting may take, and how long an answer. 5 s if not set.
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Whether the bus is started where it does not run.
    pub fn start_policy(&self) -> &Start {
        &self.start
    }

    /// What it is called in errors: the socket's path.
    pub fn address(&self) -> String {
        self.transport.describe()
    }

    /// Registers a name, with everything else as it is by default. See [`Bus::client`].
    pub async fn connect(&self, name: &str) -> Result<(Client, Inbox), ConnectError> {
        self.client(name).connect().await
    }

    /// A client with a name, to be connected when all is set.
    pub fn client(&self, name: impl Into<String>) -> ClientBuilder {
        ClientBuilder::new(self.clone(), name.into())
    }

    /// Makes a connection without a name.
    pub async fn open(&self) -> Result<Connection, ConnectError> {
        self.open_for(Need::Now).await
    }

    /// Who is connected.
    pub async fn list(&self) -> Result<Listing, CallError> {
        self.open().await?.list(self.patience).await
    }

    /// How long the bus takes to answer, on a connection that stands already.
    pub async fn ping(&self) -> Result<Duration, CallError> {
        self.open().await?.ping(self.patience).await
    }

    /// Sends one message on a connection of its own, and returns the bus's answer to it. Nothing is
    /// registered; without [`Outgoing::from`] the message has no sender.
    ///
    /// With [`Outgoing::receipt`] the answer is waited for until the message has come that far, for as
    /// long as the bus's patience: a [`CallError::NoAnswer`] says only that it has not yet.
    ///
    /// A released Python bus gives no receipts. There the answer to a `ping` that follows the
    /// message proves that it was routed, and the status is [`Status::Accepted`]; where more was asked
    /// for, the message is sent and the error is [`CallError::NeedsLevel2`].
    ///
    /// ```
    /// # use hermes_bus_client::{memory, Bus, CallError, Outgoing, Status};
    /// # let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    /// # runtime.block_on(async {
    /// # let (transport, mut bus_side) = memory::bus();
    /// # tokio::spawn(async move {
    /// #     let mut connection = bus_side.accept().await;
    /// #     connection.receive().await;
    /// #     connection.send(r#"{"type": "receipt", "id": "1", "status": "delivered"}"#).await;
    /// # });
    /// # let bus = Bus::on(transport);
    /// let done = Outgoing::text("lead-agent", "parser ported").set("type", &"task_done")?;
    /// match bus.send(&done.from("worker-alpha")).await {
    ///     Ok(receipt) if receipt.status == Status::Delivered => println!("handed over"),
    ///     Ok(_) => println!("the bus has it"),
    ///     Err(CallError::Refused { code, detail, .. }) => println!("{code}: {detail}"),
    ///     Err(error) => return Err(error.into()),
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub async fn send(&self, message: &Outgoing) -> Result<Receipt, CallError> {
        let id = message.id.clone().unwrap_or_else(new_id);
        let frame = message.encode(Some(&id))?;
        let mut connection = self.open().await?;
        let deadline = deadline(self.patience);
        let wanted = message.receipt.unwrap_or(Status::Accepted);
        let sending = self.send_on(&mut connection, &frame, &id, wanted);
        timeout_at(deadline, sending).await.unwrap_or(Err(CallError::NoAnswer(self.patience)))
    }

    async fn send_on(
        &self,
        connection: &mut Connection,
        frame: &[u8],
        id: &str,
        wanted: Status,
    ) -> Result<Receipt, CallError> {
        match connection.write(frame).await {
            // It may have said why before it closed.
            Ok(()) | Err(CallError::Closed) => {}
            Err(error) => return Err(error),
        }
        match timeout(PROMPT, answer(connection, id, wanted)).await {
            Ok(answer) => answer,
            Err(_) if self.gives_receipts().await => answer(connection, id, wanted).await,
            Err(_) => {
                let mut ping = Vec::new();
                control::ping(&mut ping);
                connection.ask(&ping, &["pong"], self.patience).await?;
                if wanted > Status::Accepted {
                    return Err(CallError::NeedsLevel2 { what: "receipts" });
                }
                let (id, status) = (id.to_owned(), Status::Accepted);
                Ok(Receipt { id, status, to: None, endpoints: None, failed: None })
            }
        }
    }

    /// Whether the bus is one that answers a message to a sender without a name. Asked on another
    /// connection: on the sender's own, a second frame would make the bus believe that it reads its
    /// answers by their order, and keep the receipt. A bus that does not say is waited for.
    async fn gives_receipts(&self) -> bool {
        let Ok(mut connection) = self.link().await else { return true };
        let listing = connection.list(self.patience).await;
        listing.map_or(true, |listing| listing.server.is_some())
    }

    /// Makes a connection, and where there is no bus and it is allowed, a bus.
    pub(crate) async fn open_for(&self, need: Need) -> Result<Connection, ConnectError> {
        let error = match self.link().await {
            Ok(connection) => return Ok(connection),
            Err(error) => error,
        };
        let may_start = match need {
            Need::Now => is_absent(&error),
            Need::Again => error.kind() == io::ErrorKind::ConnectionRefused,
        };
        let (Start::Directory(directory), true) = (&self.start, may_start) else {
            return Err(self.no_link(error));
        };
        start::start(directory, self.manager.as_deref())
            .await
            .map_err(|source| ConnectError::Start { address: self.address(), source })?;
        let deadline = deadline(self.patience);
        loop {
            match self.link().await {
                Err(error) if is_absent(&error) && Instant::now() < deadline => {
                    tokio::time::sleep(LOOK_EVERY).await;
                }
                linked => return linked.map_err(|error| self.no_link(error)),
            }
        }
    }

    async fn link(&self) -> io::Result<Connection> {
        let link = timeout(self.patience, self.transport.connect()).await;
        let link = link.unwrap_or(Err(io::ErrorKind::TimedOut.into()))?;
        Ok(Connection::over(link))
    }

    fn no_link(&self, source: io::Error) -> ConnectError {
        let address = self.address();
        match source.kind() {
            io::ErrorKind::TimedOut => ConnectError::NoAnswer { address, patience: self.patience },
            _ if is_absent(&source) => ConnectError::NoBus { address },
            _ => ConnectError::Io { address, source },
        }
    }

    /// How long anything may take.
    pub(crate) fn patience_limit(&self) -> Duration {
        self.patience
    }
}

/// Whether nothing listens there.
fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}

/// The bus's answer to the one message of a connection: that it has come as far as was wanted, or why
/// not.
async fn answer(
    connection: &mut Connection,
    id: &str,
    wanted: Status,
) -> Result<Receipt, CallError> {
    loop {
        let frame = connection.receive().await?;
        match frame.text("type").as_deref() {
            Some("receipt") => {
                let receipt = Receipt::read(&frame, id.to_owned()).map_err(|status| {
                    CallError::Unexpected(format!("a receipt with the status '{status}'"))
                })?;
                // Of a message to several there is one receipt: it says how many got how far.
                if receipt.status >= wanted || receipt.endpoints.is_some() {
                    return Ok(receipt);
                }
            }
            Some("error") => return Err(refusal(&frame)),
            _ => {}
        }
    }
}

//! A bus that a test plays itself: connections that never leave the process.
//!
//! [`bus`] gives a transport for the code under test and the other side of it, where the test
//! accepts connections, reads what clients say and answers, frame by frame.
//!
//! ```
//! use hermes_bus_client::{Bus, memory};
//!
//! # let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
//! # runtime.block_on(async {
//! let (transport, mut bus_side) = memory::bus();
//! let connecting = tokio::spawn(async move { Bus::on(transport).connect("me").await });
//!
//! let mut session = bus_side.accept().await;
//! assert_eq!(session.welcome("session-1").await, "me");
//! let (client, mut inbox) = connecting.await??;
//!
//! session.send(r#"{"type": "message", "body": {"text": "hello"}}"#).await;
//! assert_eq!(inbox.next().await.unwrap().text().as_deref(), Some("hello"));
//! # drop(client);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use hermes_bus_proto::{Object, control};
use tokio::io::{AsyncWriteExt, DuplexStream};
use tokio::sync::mpsc;

use crate::connection::Connection;
use crate::transport::{Connecting, Link, Transport};

/// What fits between the two sides of a connection before a write waits, in bytes.
const PIPE_BYTES: usize = 64 * 1024;

/// A transport, and the bus's side of it.
pub fn bus() -> (InMemory, BusSide) {
    let (offers, connections) = mpsc::unbounded_channel();
    let incarnation = Arc::new(AtomicU32::new(1));
    let transport = InMemory { offers, incarnation: Arc::clone(&incarnation) };
    (transport, BusSide { connections, incarnation })
}

/// Connects clients to a [`BusSide`]. Connections are refused once that is dropped.
#[derive(Clone, Debug)]
pub struct InMemory {
    offers: mpsc::UnboundedSender<DuplexStream>,
    incarnation: Arc<AtomicU32>,
}

impl Transport for InMemory {
    fn connect(&self) -> Connecting<'_> {
        let (ours, theirs) = tokio::io::duplex(PIPE_BYTES);
        let offered = self.offers.send(theirs);
        let peer_pid = Some(self.incarnation.load(Ordering::Relaxed));
        Box::pin(async move {
            offered.map_err(|_| io::Error::from(io::ErrorKind::ConnectionRefused))?;
            Ok(Link { stream: Box::new(ours), write_now: None, peer_pid })
        })
    }

    fn describe(&self) -> String {
        "memory".to_owned()
    }
}

/// The bus's side, in the hands of a test.
#[derive(Debug)]
pub struct BusSide {
    connections: mpsc::UnboundedReceiver<DuplexStream>,
    incarnation: Arc<AtomicU32>,
}

impl BusSide {
    /// The next connection that a client makes.
    ///
    /// # Panics
    /// If every clone of the transport has been dropped.
    pub async fn accept(&mut self) -> ServerSession {
        let stream = self.connections.recv().await.expect("the transport is still there");
        let link = Link { stream: Box::new(stream), write_now: None, peer_pid: None };
        ServerSession { connection: Connection::over(link) }
    }

    /// From now on clients see another process at the other end, as after a restart.
    pub fn restart(&self) {
        self.incarnation.fetch_add(1, Ordering::Relaxed);
    }
}

/// The bus's side of one connection. Dropping it closes the connection.
#[derive(Debug)]
pub struct ServerSession {
    connection: Connection,
}

impl ServerSession {
    /// The next frame's JSON; `None` when the client has closed the connection.
    pub async fn receive(&mut self) -> Option<String> {
        let frame = self.connection.receive().await.ok()?;
        Some(String::from_utf8_lossy(frame.as_bytes()).into_owned())
    }

    /// Sends one frame. A client that has gone does not matter.
    pub async fn send(&mut self, json: &str) {
        let mut frame = Vec::new();
        control::append_text(&mut frame, json);
        self.send_bytes(&frame).await;
    }

    /// Sends bytes as they are, for what no bus would say.
    pub async fn send_bytes(&mut self, bytes: &[u8]) {
        let _ = self.connection.stream().write_all(bytes).await;
    }

    /// Takes a registration, answers it as a bus of level 1, and returns the name.
    ///
    /// # Panics
    /// If the next frame is no registration.
    pub async fn welcome(&mut self, session_id: &str) -> String {
        let (name, _) = self.registration().await;
        let quoted = serde_json::Value::from(name.as_str());
        self.send(&format!(
            r#"{{"type": "registered", "endpoint": {quoted}, "session_id": "{session_id}"}}"#
        ))
        .await;
        name
    }

    /// Takes a registration, answers it as a bus of level 2, and returns the frame.
    ///
    /// # Panics
    /// If the next frame is no registration, or not one for level 2.
    pub async fn welcome_2(&mut self, session_id: &str) -> String {
        let (name, frame) = self.registration().await;
        assert!(frame.get("protocol").is_some_and(|level| level.as_bytes() == b"2"));
        let quoted = serde_json::Value::from(name.as_str());
        self.send(&format!(
            r#"{{"type": "registered", "endpoint": {quoted}, "session_id": "{session_id}", "protocol": 2, "server": "memory/0", "heartbeat_s": 90, "payload_bytes_max": 10485760, "mailbox_depth": 0}}"#
        ))
        .await;
        String::from_utf8_lossy(frame.as_bytes()).into_owned()
    }

    async fn registration(&mut self) -> (String, Object) {
        let frame = self.connection.receive().await.expect("a client that registers");
        assert_eq!(frame.text("type").as_deref(), Some("register"));
        (frame.text("endpoint").expect("a name").into_owned(), frame)
    }
}

//! A client of the hermes bus.
//!
//! A [`Bus`] says where the bus is. Through it go one-shot calls ([`Bus::send`], [`Bus::list`],
//! [`Bus::ping`]) and clients with a name: [`Bus::connect`] gives a [`Client`], which sends, asks
//! and answers, and an [`Inbox`], the bounded stream of what arrives. A client reconnects by itself
//! and tells of it through [`Events`]. [`blocking`] has the same for programs without a runtime,
//! [`memory`] a bus that a test plays itself.
//!
//! What a call reports has happened: [`Bus::send`] returns the bus's own answer; [`Client::send`]
//! returns when the whole message is in the socket of a registered session, and
//! [`Client::submit`] gives the receipt that the message asks for, as a future.
//!
//! ```
//! # use hermes_bus_client::{memory, Bus, Message, Outgoing};
//! # let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
//! # runtime.block_on(async {
//! # let (transport, mut bus_side) = memory::bus();
//! # tokio::spawn(async move {
//! #     let mut session = bus_side.accept().await;
//! #     session.welcome("session-1").await;
//! #     session.send(r#"{"type": "message", "from": "lead", "id": "7", "body": {"text": "hi"}}"#).await;
//! #     assert!(session.receive().await.unwrap().contains(r#""reply_to": "7""#));
//! # });
//! # let bus = Bus::on(transport);
//! # /*
//! let bus = Bus::find()?;
//! # */
//! let (client, mut inbox) = bus.connect("my-service").await?;
//! while let Some(message) = inbox.next().await {
//!     println!("{}: {}", message.from().unwrap_or_default(), message.body_json());
//!     if let Some(answer) = message.reply("got it") {
//!         client.send(&answer).await?;
//!     }
//!     # break;
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![forbid(unsafe_code)]

mod acks;
mod address;
mod backoff;
pub mod blocking;
mod bus;
mod client;
mod connection;
mod error;
mod event;
mod health;
mod inbox;
mod lane;
pub mod memory;
mod message;
mod names;
mod options;
mod outbox;
mod receipts;
mod requests;
mod session;
mod sighting;
mod start;
mod trace;
pub mod transport;

/// The end of a wait. A patience that no clock can hold is for ever.
pub(crate) fn deadline(patience: std::time::Duration) -> tokio::time::Instant {
    const FOR_EVER: std::time::Duration = std::time::Duration::from_secs(100 * 365 * 24 * 3600);
    tokio::time::Instant::now() + patience.min(FOR_EVER)
}

pub use address::{bus_directory, socket_in};
pub use bus::Bus;
pub use client::{Client, ClientBuilder};
pub use connection::Connection;
pub use error::{CallError, ConnectError, ReceiptError, RequestError, SendError};
pub use event::{Event, Events, WhyLost};
pub use hermes_bus_proto::control::Status;
pub use hermes_bus_proto::listing::Listing;
pub use hermes_bus_proto::nearest;
pub use hermes_bus_proto::requests::{TapMode, Watch};
pub use hermes_bus_proto::topic::AddressError;
pub use inbox::{Inbox, QueueLimits, WhenFull};
pub use message::{BodyError, Message, Outgoing, Sender};
pub use names::quoted_list;
pub use options::{
    Acknowledge, Conflict, Repeats, Subscriptions, Welcome, group_address, topic_address,
};
pub use outbox::Sending;
pub use receipts::{Outstanding, Receipt};
pub use sighting::{Gap, Presence, Sighting, Sightings, Tapped};
pub use start::{Start, StartError, executables_on_path};
pub use trace::{Standing, Trace, TraceState};

//! The router of the hermes bus: a deterministic state machine.
//!
//! Events and the time go in, effects come out; nothing here reads a clock, opens a socket, draws a
//! random number that was not handed in, or waits. The same events always lead to the same effects.
//!
//! A driver works in turns:
//!
//! 1. [`Router::begin_turn`] with the time; timers that are due fire.
//! 2. What happened on the connections: [`Router::connected`], [`Router::frame`],
//!    [`Router::buffered`], [`Router::eof`], [`Router::closed`]. [`Router::reading`] says from whom
//!    to read.
//! 3. Writing: for each of [`Router::take_dirty`], what [`Router::next_write`] yields, as long as the
//!    socket takes it, and [`Router::written`].
//! 4. [`Router::receipts_due`] and [`Router::end_turn`], then writing again.
//! 5. [`Router::take_effects`] at any point; then sleep until [`Router::next_wake`].
//!
//! Memory is bounded: everything queued is charged to somebody and refunded (`ledger`). Nothing is
//! dropped without a counter ([`Counters`]).

#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod acks;
mod asked;
mod backlog;
mod books;
mod config;
mod counters;
mod courtesy;
mod effects;
mod endpoint;
mod fanout;
mod fate;
mod gaps;
mod groups;
mod handover;
mod histogram;
mod impatience;
mod intake;
mod keeping;
mod known;
mod ledger;
mod linger;
mod names;
mod outbox;
mod pace;
mod parcel;
mod presence;
mod repetitions;
mod requests;
mod router;
mod routing;
mod session;
pub mod storage;
mod tap;
mod time;
mod timers;
mod topics;
mod trace;
mod watchers;

pub use books::{Mailbox, Member, Standing, Traced, TracedState};
pub use config::{Config, Protection};
pub use counters::Counters;
pub use effects::{CloseReason, Effect, Event, Fields, Peer, Severity};
pub use handover::{LeftMessage, Lingering};
pub use histogram::Histogram;
pub use intake::Reading;
pub use outbox::HELD_OVERHEAD_BYTES;
pub use router::{Next, Payload, Probed, Router, Usage};
pub use session::{Credentials, SessionKey};
pub use tap::{Outcome, TapBatch, Tapped};
pub use time::{Moment, Now};

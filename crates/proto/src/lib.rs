//! What travels on the socket of a hermes bus, as bytes and as types.
//!
//! The only crate that knows how a frame or an envelope looks. It is pure: it never blocks, reads
//! no clock, opens nothing, and looks at a message's body only to check that it is well-formed.
//!
//! - [`frame`]: finding whole frames in a byte buffer.
//! - [`envelope`]: the top-level keys of a frame's JSON object, and the insertion of fields into it.
//! - [`object`]: all members of an object, as clients read and build them.
//! - [`name`]: endpoint names, and where a message is addressed to.
//! - [`ask`]: what a message asks for besides being routed.
//! - [`register`]: what a level 2 session asks for when it takes its name.
//! - [`requests`]: what it asks for from then on.
//! - [`similar`]: names that somebody may have meant.
//! - [`pattern`]: which names a hook or a rule is for.
//! - [`topic`]: groups, topics and patterns.
//! - [`control`]: the frames that the bus and its clients say to each other.
//! - [`listing`]: what `list_endpoints` answers.
//! - [`error_code`]: the one table of error codes.
//! - [`limits`]: every limit of the wire.

#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod ask;
pub mod control;
pub mod envelope;
pub mod error_code;
pub mod frame;
mod json;
pub mod limits;
pub mod listing;
pub mod name;
pub mod object;
pub mod pattern;
pub mod register;
pub mod requests;
pub mod similar;
pub mod topic;

pub use ask::{Ask, InvalidField};
pub use envelope::{Envelope, Kind, Raw};
pub use error_code::ErrorCode;
pub use frame::FrameError;
pub use name::{Destination, EndpointName, NameError};
pub use object::Object;
pub use pattern::Pattern;
pub use similar::nearest;

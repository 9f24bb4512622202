//! The receive side of the hermes bus.
//!
//! - [`engine`]: what is to be done for a message, by the rules of `bus-rules.yaml`. Pure.
//! - [`rules_file`]: those rules, read again when the file changes.
//! - [`sinks`]: doing it: commands, format scripts, and the inbox from which contexts are taken.
//! - [`name`]: under which name an agent registers.
//! - [`agent`]: all of it together, for any program.
//! - [`rules`]: what the same file says to senders.
//! - [`tmux`]: typing into a terminal that somebody else may be using.

#![forbid(unsafe_code)]

pub mod agent;
pub mod engine;
pub mod name;
pub mod rules;
pub mod rules_file;
pub mod sinks;
pub mod tmux;

//! The receive side of the hermes bus.
//!
//! - [`rules`]: what `bus-rules.yaml` says.
//! - [`tmux`]: typing into a terminal that somebody else may be using.

#![forbid(unsafe_code)]

pub mod rules;
pub mod tmux;

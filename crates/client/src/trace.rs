//! Where a message is, as the bus tells it.

use serde::Deserialize;
use serde_json::{Map, Value};

/// The answer to [`crate::Client::trace`].
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct Trace {
    /// The message's id.
    #[serde(default)]
    pub id: Value,
    /// What happened to it, oldest first.
    #[serde(default)]
    pub states: Vec<TraceState>,
    /// Whatever else the bus says.
    #[serde(flatten)]
    pub further: Map<String, Value>,
}

/// One thing that happened to a message.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct TraceState {
    /// One word: `accepted`, `stored`, `delivered`, `acked`, `expired`, `dead`, `refused`, …
    #[serde(default)]
    pub state: String,
    /// When: Unix time in seconds.
    #[serde(default)]
    pub ts: Option<f64>,
    /// At which endpoint.
    #[serde(default)]
    pub endpoint: Option<String>,
    /// What there is to say about it.
    #[serde(default)]
    pub detail: Option<String>,
    /// Whatever else the bus says.
    #[serde(flatten)]
    pub further: Map<String, Value>,
}

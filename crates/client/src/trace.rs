//! Where a message is, as the bus tells it.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The answer to [`crate::Client::trace`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Trace {
    /// The message's id.
    #[serde(default)]
    pub id: Value,
    /// What happened to it, oldest first.
    #[serde(default)]
    pub states: Vec<TraceState>,
    /// Where it is now, for each endpoint that it is still on its way to.
    #[serde(default)]
    pub standings: Vec<Standing>,
    /// Whatever else the bus says.
    #[serde(flatten)]
    pub further: Map<String, Value>,
}

/// One thing that happened to a message.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
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

/// Where a message is on its way to one endpoint, and what it waits for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Standing {
    /// The endpoint.
    #[serde(default)]
    pub endpoint: String,
    /// One word: `in_flight`, `queued`, `waiting`, `paused`, `held` or `stored`.
    #[serde(default)]
    pub place: String,
    /// Since when: Unix time in seconds.
    #[serde(default)]
    pub since_ts: Option<f64>,
    /// Who or what keeps it there, for people.
    #[serde(default)]
    pub blocked_by: String,
    /// What happens next, for people.
    #[serde(default)]
    pub next: String,
    /// Whatever else the bus says.
    #[serde(flatten)]
    pub further: Map<String, Value>,
}

//! What `list_endpoints` answers.
//!
//! Level 1 gets [`LEVEL_1_TYPE`]: an object of name → session id. A request that carries
//! `"protocol": 2` gets [`LEVEL_2_TYPE`] with the same object, one [`EndpointDetails`] an endpoint,
//! and [`ServerDetails`].

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use crate::limits::PAYLOAD_BYTES_MAX;
use crate::name::{EndpointName, json_string};
use crate::{control, frame};

/// The answer's `type` on level 1: what every released version sends and demands.
pub const LEVEL_1_TYPE: &str = "endpoints_list";
/// The answer's `type` where level 2 is asked for: the documented name.
pub const LEVEL_2_TYPE: &str = "endpoint_list";

/// Messages and bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Amount {
    /// Number of messages.
    pub messages: u64,
    /// Bytes of their frames.
    pub bytes: u64,
}

/// What went through in one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Traffic {
    /// Since the session registered.
    #[serde(flatten)]
    pub total: Amount,
    /// Messages a second, over the last ten seconds or so.
    pub per_second: f64,
}

/// Whether an endpoint is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EndpointState {
    /// A session holds the name.
    #[default]
    Online,
    /// It has no session, but a mailbox, or messages that wait for it.
    Offline,
}

/// What waits for an endpoint on disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MailboxDetails {
    /// Number of messages.
    pub messages: u64,
    /// What they take of its quota, in bytes.
    pub bytes: u64,
    /// When the oldest of them arrived, as Unix time in seconds.
    #[serde(default)]
    pub oldest_ts: Option<f64>,
}

/// One endpoint, as `details` shows it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct EndpointDetails {
    /// The endpoint's name.
    pub endpoint: String,
    /// Whether it is there.
    pub state: EndpointState,
    /// UUID of the session.
    pub session_id: String,
    /// The level that the session speaks.
    pub protocol: u8,
    /// Unix time of the registration, in seconds.
    pub connected_at: f64,
    /// User id of the peer, from the kernel.
    pub uid: u32,
    /// Process id of the peer, from the kernel.
    pub pid: u32,
    /// What waits in the live queue for the peer to read.
    pub pending: Amount,
    /// Messages that the endpoint sent to the bus.
    pub sent: Traffic,
    /// Messages handed over to the endpoint.
    pub received: Traffic,
    /// Messages for the endpoint that were dropped.
    pub dropped: u64,
    /// Whether the bus keeps an impatient client connected with unsolicited pongs.
    pub impatient: bool,
    /// Messages that it holds and has not acknowledged.
    #[serde(default)]
    pub unacknowledged: u64,
    /// What waits for it on disk, if it has a mailbox or something waits.
    #[serde(default)]
    pub mailbox: Option<MailboxDetails>,
    /// The groups that it is a member of, without `@`.
    #[serde(default)]
    pub groups: Vec<String>,
    /// The patterns that it subscribes to, without `#`.
    #[serde(default)]
    pub topics: Vec<String>,
    /// What its session has said about itself.
    #[serde(default)]
    pub meta: Option<serde_json::Value>,
}

/// What a session has said about itself, as a value; none for JSON that only Python takes for such.
pub fn meta(text: &str) -> Option<serde_json::Value> {
    serde_json::from_str(text).ok()
}

/// The bus itself, in a level 2 listing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServerDetails {
    /// `hermes-bus/VERSION`.
    pub server: String,
    /// Seconds since the daemon started.
    pub uptime_s: f64,
    /// What it does when its owner asks for it with an `admin` request.
    #[serde(default)]
    pub admin_ops: Vec<String>,
    /// Every counter of the router by its name.
    pub counters: serde_json::Map<String, serde_json::Value>,
}

/// Builds the answer, never larger than a frame may be.
pub struct ListingWriter {
    level: Level,
    names: String,
    details: String,
    payload_bytes: usize,
    truncated: bool,
}

/// Which form of the answer is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Released clients.
    One,
    /// `"protocol": 2`.
    Two,
}

/// Room kept for the frame's fixed parts and the server's details.
const FIXED_BYTES: usize = 8 * 1024;

impl ListingWriter {
    /// An empty listing.
    pub fn new(level: Level) -> Self {
        let (names, details) = (String::new(), String::new());
        ListingWriter { level, names, details, payload_bytes: FIXED_BYTES, truncated: false }
    }

    /// Adds an endpoint, or marks the listing as cut when it does not fit. `details` is only asked
    /// for on level 2.
    pub fn push(
        &mut self,
        name: &EndpointName,
        session_id: &str,
        details: impl FnOnce() -> EndpointDetails,
    ) {
        if self.truncated {
            return;
        }
        let entry = format!("{}: \"{session_id}\"", name.to_json());
        let detail = match self.level {
            Level::One => String::new(),
            Level::Two => {
                serde_json::to_string(&details()).expect("details always have a JSON form")
            }
        };
        let grown = self.payload_bytes + entry.len() + detail.len() + 4;
        if grown > PAYLOAD_BYTES_MAX {
            self.truncated = true;
            return;
        }
        self.payload_bytes = grown;
        append_item(&mut self.names, &entry);
        append_item(&mut self.details, &detail);
    }

    /// Adds an endpoint that has no session: it is shown in the details only.
    pub fn push_offline(&mut self, details: impl FnOnce() -> EndpointDetails) {
        if self.truncated || self.level == Level::One {
            return;
        }
        let detail = serde_json::to_string(&details()).expect("details always have a JSON form");
        let grown = self.payload_bytes + detail.len() + 2;
        if grown > PAYLOAD_BYTES_MAX {
            self.truncated = true;
            return;
        }
        self.payload_bytes = grown;
        append_item(&mut self.details, &detail);
    }

    /// The whole frame, appended to `out`. `server` is only asked for on level 2; `req` is echoed.
    pub fn finish(
        self,
        out: &mut Vec<u8>,
        server: impl FnOnce() -> ServerDetails,
        req: Option<crate::Raw<'_>>,
    ) {
        let truncated = if self.truncated { ", \"truncated\": true" } else { "" };
        let (names, details) = (self.names, self.details);
        let payload = match self.level {
            Level::One => {
                format!("{{\"type\": \"{LEVEL_1_TYPE}\", \"endpoints\": {{{names}}}{truncated}}}")
            }
            Level::Two => {
                let server = serde_json::to_string(&server()).expect("plain data has a JSON form");
                format!(
                    "{{\"type\": \"{LEVEL_2_TYPE}\", \"endpoints\": {{{names}}}, \
                     \"details\": [{details}], \"server\": {server}{truncated}}}"
                )
            }
        };
        let Some(req) = req else {
            return frame::append(out, |out| out.extend_from_slice(payload.as_bytes()));
        };
        control::answer(out, &payload.as_bytes()[..payload.len() - 1], Some(req));
    }
}

fn append_item(list: &mut String, item: &str) {
    if !list.is_empty() {
        list.push_str(", ");
    }
    list.push_str(item);
}

/// Either answer, as a client reads it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Listing {
    /// Name → session id.
    pub endpoints: alloc::collections::BTreeMap<String, String>,
    /// One entry an endpoint; empty from a bus that only speaks level 1.
    #[serde(default)]
    pub details: Vec<EndpointDetails>,
    /// The bus itself; absent from a bus that only speaks level 1.
    pub server: Option<ServerDetails>,
    /// Whether the bus left endpoints out because the answer would not fit into a frame.
    #[serde(default)]
    pub truncated: bool,
}

/// A `list_endpoints` request, appended to `out`.
pub fn request(out: &mut Vec<u8>, level: Level) {
    control::append_text(
        out,
        match level {
            Level::One => r#"{"type": "list_endpoints"}"#,
            Level::Two => r#"{"type": "list_endpoints", "protocol": 2}"#,
        },
    );
}

/// The level that a `list_endpoints` request asks for, by its `protocol`.
pub fn level_asked(protocol: Option<crate::Raw<'_>>) -> Level {
    match protocol.and_then(crate::Raw::integer) {
        Some(2) => Level::Two,
        _ => Level::One,
    }
}

/// A name as it may be printed on a terminal: control characters as JSON escapes.
pub fn printable(name: &str) -> String {
    let quoted = json_string(name);
    let has_control = name.chars().any(char::is_control);
    if has_control { quoted[1..quoted.len() - 1].to_owned() } else { name.to_owned() }
}

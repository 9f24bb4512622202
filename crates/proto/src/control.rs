//! The frames that the bus and its clients say to each other, besides messages and listings.
//!
//! Every function appends one whole frame, header included. The spelling (a space after `:` and
//! `,`, key order) is that of the released Python bus, whose clients sometimes look at the text.

use alloc::borrow::ToOwned;
use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::time::Duration;

use serde_json::Value;

use crate::envelope::{Envelope, Raw};
use crate::limits::{ECHOED_BYTES_MAX, HEADER_BYTES, PAYLOAD_BYTES_MAX};
use crate::name::{EndpointName, json_string};
use crate::{ErrorCode, FrameError, frame};

/// Appends a frame whose payload is `json`.
pub fn append_text(out: &mut Vec<u8>, json: &str) {
    frame::append(out, |out| out.extend_from_slice(json.as_bytes()));
}

/// bus → client: the answer to `register`.
pub fn registered(out: &mut Vec<u8>, name: &EndpointName, session_id: &str) {
    let endpoint = name.to_json();
    append_text(
        out,
        &format!(
            "{{\"type\": \"registered\", \"endpoint\": {endpoint}, \"session_id\": \"{session_id}\"}}"
        ),
    );
}

/// What a level 2 session learns when it gets its name.
#[derive(Clone, Copy, Debug)]
pub struct Welcome<'a> {
    /// The name that it got.
    pub name: &'a EndpointName,
    /// UUID of the session.
    pub session_id: &'a str,
    /// `NAME/VERSION` of the server.
    pub server: &'a str,
    /// Seconds of silence after which a session is closed.
    pub heartbeat_s: f64,
    /// Messages that wait in its mailbox.
    pub mailbox_depth: u64,
    /// `req` of the request.
    pub req: Option<Raw<'a>>,
}

/// bus → client: the answer to a level 2 `register`.
pub fn welcome(out: &mut Vec<u8>, welcome: &Welcome<'_>) {
    let Welcome { name, session_id, server, heartbeat_s, mailbox_depth, req } = welcome;
    let (endpoint, server) = (name.to_json(), json_string(server));
    let text = format!(
        "{{\"type\": \"registered\", \"endpoint\": {endpoint}, \"session_id\": \"{session_id}\", \
         \"protocol\": 2, \"server\": {server}, \"heartbeat_s\": {heartbeat_s}, \
         \"payload_bytes_max\": {PAYLOAD_BYTES_MAX}, \"mailbox_depth\": {mailbox_depth}"
    );
    answer(out, text.as_bytes(), *req);
}

/// Appends a frame: an object without its closing brace, and `req` if the request had one.
pub(crate) fn answer(out: &mut Vec<u8>, members: &[u8], req: Option<Raw<'_>>) {
    frame::append(out, |out| {
        out.extend_from_slice(members);
        append_req(out, req);
        out.push(b'}');
    });
}

/// A question may be called what it likes, as long as the answer is a frame.
fn append_req(out: &mut Vec<u8>, req: Option<Raw<'_>>) {
    if let Some(req) = req.filter(|req| req.as_bytes().len() <= ECHOED_BYTES_MAX) {
        out.extend_from_slice(b", \"req\": ");
        out.extend_from_slice(req.as_bytes());
    }
}

/// bus → client: why the bus is about to close a level 2 session.
pub fn bye(out: &mut Vec<u8>, reason: &str) {
    append_text(out, &format!("{{\"type\": \"bye\", \"reason\": \"{reason}\"}}"));
}

/// bus → client: what a session holds now, the answer to `subscribe` and `unsubscribe`.
pub fn subscribed(
    out: &mut Vec<u8>,
    topics: &[Box<str>],
    groups: &[Box<str>],
    req: Option<Raw<'_>>,
) {
    let list = |names: &[Box<str>]| serde_json::to_string(names).expect("text has a JSON form");
    let (topics, groups) = (list(topics), list(groups));
    let text = format!("{{\"type\": \"subscribed\", \"topics\": {topics}, \"groups\": {groups}");
    answer(out, text.as_bytes(), req);
}

/// bus → client: a `watch` is in force.
pub fn watching(out: &mut Vec<u8>, presence: bool, tap: &str, req: Option<Raw<'_>>) {
    let text = format!("{{\"type\": \"watching\", \"presence\": {presence}, \"tap\": \"{tap}\"");
    answer(out, text.as_bytes(), req);
}

/// What a watcher hears of an endpoint.
#[derive(Clone, Copy, Debug)]
pub struct Presence<'a> {
    /// Its name.
    pub endpoint: &'a EndpointName,
    /// Whether it is there.
    pub is_online: bool,
    /// UUID of the session that came or went.
    pub session_id: &'a str,
    /// When, in microseconds of Unix time.
    pub unix_us: u64,
    /// Why.
    pub reason: &'a str,
}

/// bus → watcher: an endpoint has come or gone.
pub fn presence(out: &mut Vec<u8>, presence: &Presence<'_>) {
    let Presence { endpoint, is_online, session_id, unix_us, reason } = presence;
    let state = if *is_online { "online" } else { "offline" };
    let (endpoint, ts) = (endpoint.to_json(), unix_seconds(*unix_us));
    append_text(
        out,
        &format!(
            "{{\"type\": \"presence\", \"endpoint\": {endpoint}, \"state\": \"{state}\", \
             \"session_id\": \"{session_id}\", \"ts\": {ts}, \"reason\": \"{reason}\"}}"
        ),
    );
}

/// bus → receiver: what it was subscribed to and could not take. `source` is `topic`, `broadcast` or
/// `tap`.
pub fn gap(out: &mut Vec<u8>, source: &str, count: u64, bytes: u64) {
    append_text(
        out,
        &format!(
            "{{\"type\": \"gap\", \"source\": \"{source}\", \"count\": {count}, \"bytes\": {bytes}}}"
        ),
    );
}

/// bus → watcher: a message that was routed, whole, as a level 1 receiver gets it. `outcome` is the
/// word for what became of it.
pub fn tap(out: &mut Vec<u8>, outcome: &str, message: &[u8]) {
    frame::append(out, |out| {
        append_tap_head(out, outcome);
        out.extend_from_slice(b", \"message\": ");
        out.extend_from_slice(message);
        out.push(b'}');
    });
}

/// bus → watcher: who wrote to whom, and how much. Of the message there are the values of its `id`,
/// `to`, `from`, `ts` and `reply_to`, as they came, but never its body.
pub fn tap_envelope(out: &mut Vec<u8>, outcome: &str, message: &Envelope<'_>) {
    const KEYS: [&str; 5] = ["id", "to", "from", "ts", "reply_to"];
    frame::append(out, |out| {
        append_tap_head(out, outcome);
        let bytes = message.payload().len();
        out.extend_from_slice(format!(", \"bytes\": {bytes}, \"envelope\": {{").as_bytes());
        let values = KEYS.into_iter().zip(message.members(KEYS));
        let mut separator = "";
        for (key, value) in values.filter_map(|(key, value)| Some((key, value?))) {
            out.extend_from_slice(format!("{separator}\"{key}\": ").as_bytes());
            out.extend_from_slice(value.as_bytes());
            separator = ", ";
        }
        out.extend_from_slice(b"}}");
    });
}

fn append_tap_head(out: &mut Vec<u8>, outcome: &str) {
    out.extend_from_slice(b"{\"type\": \"tap\", \"outcome\": \"");
    out.extend_from_slice(outcome.as_bytes());
    out.push(b'"');
}

/// A state of a message, as `traced` lists it.
#[derive(Clone, Copy, Debug)]
pub struct TracedState<'a> {
    /// The word for it.
    pub state: &'a str,
    /// When, in microseconds of Unix time.
    pub unix_us: u64,
    /// The endpoint that it happened at.
    pub endpoint: Option<&'a EndpointName>,
    /// What is to be said about it, for people; or an error code.
    pub detail: Option<&'a str>,
}

/// bus → client: where a message is, the answer to `trace`. `id` is that of the message, as it was
/// asked for; `further` are members beside the states.
pub fn traced<'s>(
    out: &mut Vec<u8>,
    id: Raw<'_>,
    states: impl IntoIterator<Item = TracedState<'s>>,
    further: &serde_json::Map<String, Value>,
    req: Option<Raw<'_>>,
) {
    let states: Vec<String> = states.into_iter().map(|state| state.to_json()).collect();
    let mut members = b"{\"type\": \"traced\", \"id\": ".to_vec();
    members.extend_from_slice(id.as_bytes());
    members.extend_from_slice(format!(", \"states\": [{}]", states.join(", ")).as_bytes());
    for (key, value) in further {
        members.extend_from_slice(format!(", {}: {value}", json_string(key)).as_bytes());
    }
    answer(out, &members, req);
}

impl TracedState<'_> {
    fn to_json(self) -> String {
        let TracedState { state, unix_us, endpoint, detail } = self;
        let ts = unix_seconds(unix_us);
        let endpoint = endpoint.map_or_else(|| "null".to_owned(), EndpointName::to_json);
        let detail = detail.map_or_else(|| "null".to_owned(), json_string);
        format!(
            "{{\"state\": \"{state}\", \"ts\": {ts}, \"endpoint\": {endpoint}, \
             \"detail\": {detail}}}"
        )
    }
}

/// Unix time in seconds, as the bus writes it.
pub fn unix_seconds(unix_us: u64) -> String {
    format!("{}.{:06}", unix_us / 1_000_000, unix_us % 1_000_000)
}

/// bus → client: the answer to a `ping` that has a `req`.
pub fn pong_to(out: &mut Vec<u8>, req: Raw<'_>) {
    answer(out, br#"{"type": "pong""#, Some(req));
}

/// Both ways: the answer to `ping`.
pub fn pong(out: &mut Vec<u8>) {
    append_text(out, r#"{"type": "pong"}"#);
}

/// The type of the answer to an [`admin`] request.
pub const ADMIN_RESULT_TYPE: &str = "admin_result";

/// client → bus: has the daemon do something that only its own user, and root, may ask for.
pub fn admin(out: &mut Vec<u8>, op: &str, arguments: &serde_json::Map<String, Value>) {
    let mut request = arguments.clone();
    request.insert("type".to_owned(), "admin".into());
    request.insert("op".to_owned(), op.into());
    request.insert("protocol".to_owned(), 2.into());
    append_text(out, &Value::Object(request).to_string());
}

/// bus → client: an [`admin`] request was done. `req` is echoed from the request.
pub fn admin_result(
    out: &mut Vec<u8>,
    op: &str,
    req: Option<&Value>,
    mut result: serde_json::Map<String, Value>,
) {
    result.insert("type".to_owned(), ADMIN_RESULT_TYPE.into());
    result.insert("op".to_owned(), op.into());
    if let Some(req) = req {
        result.insert("req".to_owned(), req.clone());
    }
    append_text(out, &Value::Object(result).to_string());
}

/// What an error frame says besides its code.
#[derive(Clone, Copy)]
pub enum Detail<'a> {
    /// Any text.
    Text(&'a str),
    /// The words of released versions for an unknown endpoint, with `to` as it came.
    NotConnected(Raw<'a>),
}

/// What an `error` frame says on level 2 besides its code, detail and `id`.
#[derive(Clone, Copy, Default)]
pub struct Further<'a> {
    /// `req` of the request that it answers.
    pub req: Option<Raw<'a>>,
    /// The state that the message has reached all the same.
    pub status: Option<Status>,
    /// The endpoint that it is about.
    pub to: Option<&'a EndpointName>,
    /// Names that look like the unknown one, the most similar first.
    pub suggestions: &'a [EndpointName],
}

/// bus → client: a refusal. `id` is that of the message it is about, as it came; it is left out
/// where the frame would be over the limit with it.
pub fn error(out: &mut Vec<u8>, code: ErrorCode, detail: Detail<'_>, id: Option<Raw<'_>>) {
    error_2(out, code, detail, id, &Further::default());
}

/// The same to a level 2 session.
pub fn error_2(
    out: &mut Vec<u8>,
    code: ErrorCode,
    detail: Detail<'_>,
    id: Option<Raw<'_>>,
    further: &Further<'_>,
) {
    let echoed = id.map_or(0, |id| id.as_bytes().len()) + detail.echoed_bytes();
    let (detail, id) = if echoed <= PAYLOAD_BYTES_MAX - ERROR_FIXED_BYTES {
        (detail, id)
    } else if detail.echoed_bytes() <= PAYLOAD_BYTES_MAX - ERROR_FIXED_BYTES {
        (detail, None)
    } else {
        (Detail::Text("the endpoint is not connected; its name is too long to be repeated"), None)
    };
    frame::append(out, |out| {
        out.extend_from_slice(br#"{"type": "error", "code": ""#);
        out.extend_from_slice(code.as_str().as_bytes());
        out.extend_from_slice(br#"", "detail": "#);
        match detail {
            Detail::Text(text) => out.extend_from_slice(json_string(text).as_bytes()),
            Detail::NotConnected(to) => {
                out.extend_from_slice(b"\"Endpoint '");
                to.append_shown_by_python(out);
                out.extend_from_slice(b"' is not connected\"");
            }
        }
        if let Some(id) = id {
            out.extend_from_slice(b", \"id\": ");
            out.extend_from_slice(id.as_bytes());
        }
        further.append(out);
        out.push(b'}');
    });
}

impl Further<'_> {
    fn append(&self, out: &mut Vec<u8>) {
        let Further { req, status, to, suggestions } = self;
        if let Some(status) = status {
            out.extend_from_slice(format!(", \"status\": \"{}\"", status.as_str()).as_bytes());
        }
        if let Some(to) = to {
            out.extend_from_slice(format!(", \"to\": {}", to.to_json()).as_bytes());
        }
        if !suggestions.is_empty() {
            let names: Vec<String> = suggestions.iter().map(EndpointName::to_json).collect();
            out.extend_from_slice(format!(", \"suggestions\": [{}]", names.join(", ")).as_bytes());
        }
        append_req(out, *req);
    }
}

/// More than the fixed parts of an error frame and every text that the bus itself writes into one.
const ERROR_FIXED_BYTES: usize = 64 * 1024;

impl Detail<'_> {
    /// Bytes that a peer chose.
    fn echoed_bytes(&self) -> usize {
        match self {
            Detail::Text(_) => 0,
            Detail::NotConnected(to) => to.as_bytes().len(),
        }
    }
}

/// How far a message has come, as a receipt says it. A later state answers for an earlier one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Status {
    /// The router has it.
    Accepted,
    /// It is on disk, synced.
    Stored,
    /// Handed over: its bytes are in the receiver's socket.
    Delivered,
    /// The receiver has confirmed it.
    Acked,
}

impl Status {
    /// Every state, the earliest first.
    pub const ALL: [Status; 4] =
        [Status::Accepted, Status::Stored, Status::Delivered, Status::Acked];

    /// The status that a word on the wire stands for.
    pub fn of(word: &str) -> Option<Self> {
        Status::ALL.into_iter().find(|status| status.as_str() == word)
    }

    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Status::Accepted => "accepted",
            Status::Stored => "stored",
            Status::Delivered => "delivered",
            Status::Acked => "acked",
        }
    }
}

/// What a receipt says.
#[derive(Clone, Copy, Debug)]
pub struct Receipt<'a> {
    /// `id` of the message, as it came.
    pub id: Raw<'a>,
    /// How far it has come.
    pub status: Status,
    /// The endpoint that took it.
    pub to: Option<&'a EndpointName>,
    /// For broadcasts and topics: how many targets there were, and how many of them could not be
    /// brought to that state.
    pub targets: Option<Targets>,
}

/// The targets of a broadcast or topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Targets {
    /// All of them.
    pub endpoints: usize,
    /// Those that did not get that far; the courtesy receipt does not say.
    pub failed: Option<usize>,
}

/// bus → sender: how far a message has come.
pub fn receipt(out: &mut Vec<u8>, receipt: &Receipt<'_>) {
    let Receipt { id, status, to, targets } = receipt;
    frame::append(out, |out| {
        out.extend_from_slice(br#"{"type": "receipt", "id": "#);
        out.extend_from_slice(id.as_bytes());
        out.extend_from_slice(br#", "status": ""#);
        out.extend_from_slice(status.as_str().as_bytes());
        out.push(b'"');
        if let Some(to) = to {
            out.extend_from_slice(b", \"to\": ");
            out.extend_from_slice(to.to_json().as_bytes());
        }
        if let Some(Targets { endpoints, failed }) = targets {
            out.extend_from_slice(format!(", \"endpoints\": {endpoints}").as_bytes());
            if let Some(failed) = failed {
                out.extend_from_slice(format!(", \"failed\": {failed}").as_bytes());
            }
        }
        out.push(b'}');
    });
}

/// client → bus: takes a name.
pub fn register(out: &mut Vec<u8>, endpoint: &str) {
    let endpoint = json_string(endpoint);
    append_text(out, &format!("{{\"type\": \"register\", \"endpoint\": {endpoint}}}"));
}

/// client → bus: a sign of life.
pub fn ping(out: &mut Vec<u8>) {
    append_text(out, r#"{"type": "ping"}"#);
}

/// A message as a client composes it. What is `None` is left out: the bus adds `id`, `ts`, and, on a
/// registered session, `from`.
#[derive(Clone, Copy, Debug, Default)]
pub struct MessageFields<'a> {
    /// `to`; empty means every endpoint.
    pub to: &'a str,
    /// `from`
    pub from: Option<&'a str>,
    /// `id`
    pub id: Option<&'a str>,
    /// `reply_to`: the id of the message that this answers.
    pub reply_to: Option<&'a str>,
    /// `receipt`: the state that the sender wants to hear of.
    pub receipt: Option<Status>,
    /// `queue`
    pub queue: bool,
    /// `ttl_s`
    pub ttl: Option<Duration>,
    /// `hops`
    pub hops: Option<u32>,
    /// `traceparent`: W3C trace context.
    pub traceparent: Option<&'a str>,
    /// JSON text of `body`, known to be one well-formed value.
    pub body: &'a str,
}

/// client → bus: a message. One over [`PAYLOAD_BYTES_MAX`] is refused, and `out` is as it was.
pub fn message(out: &mut Vec<u8>, fields: &MessageFields<'_>) -> Result<(), FrameError> {
    let start = out.len();
    out.extend_from_slice(&[0; HEADER_BYTES]);
    out.extend_from_slice(br#"{"type": "message", "to": "#);
    out.extend_from_slice(json_string(fields.to).as_bytes());
    let optional = [
        ("from", fields.from),
        ("id", fields.id),
        ("reply_to", fields.reply_to),
        ("receipt", fields.receipt.map(Status::as_str)),
        ("traceparent", fields.traceparent),
    ];
    for (key, value) in optional.into_iter().filter_map(|(key, value)| Some((key, value?))) {
        out.extend_from_slice(format!(", \"{key}\": {}", json_string(value)).as_bytes());
    }
    if fields.queue {
        out.extend_from_slice(b", \"queue\": true");
    }
    if let Some(ttl) = fields.ttl {
        out.extend_from_slice(format!(", \"ttl_s\": {}", ttl.as_secs_f64()).as_bytes());
    }
    if let Some(hops) = fields.hops {
        out.extend_from_slice(format!(", \"hops\": {hops}").as_bytes());
    }
    out.extend_from_slice(b", \"body\": ");
    out.extend_from_slice(fields.body.as_bytes());
    out.push(b'}');
    let payload_bytes = out.len() - start - HEADER_BYTES;
    if payload_bytes > PAYLOAD_BYTES_MAX {
        out.truncate(start);
        return Err(FrameError::TooLarge { payload_bytes });
    }
    out[start..start + HEADER_BYTES].copy_from_slice(&frame::header(payload_bytes));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// The one frame that was appended, as JSON.
    fn frame(append: impl FnOnce(&mut Vec<u8>)) -> Value {
        let mut out = Vec::new();
        append(&mut out);
        let (header, payload) = out.split_at(HEADER_BYTES);
        assert_eq!(header, frame::header(payload.len()));
        serde_json::from_slice(payload).expect("it is JSON")
    }

    #[test]
    fn a_tap_shows_the_whole_message_or_its_envelope() {
        let message = br#"{"type": "message", "body": {"id": "inner"}, "to": "b", "id": 7, "reply_to": null, "extra": 1}"#;
        let whole: Value = serde_json::from_slice(message).expect("it is JSON");
        assert_eq!(
            frame(|out| tap(out, "accepted", message)),
            json!({"type": "tap", "outcome": "accepted", "message": whole})
        );
        let envelope = Envelope::scan(message).expect("it is a message");
        assert_eq!(
            frame(|out| tap_envelope(out, "held", &envelope)),
            json!({"type": "tap", "outcome": "held", "bytes": message.len(),
                   "envelope": {"id": 7, "to": "b", "reply_to": null}})
        );
        let bare = Envelope::scan(b"{\"type\": \"message\"}").expect("it is a message");
        assert_eq!(frame(|out| tap_envelope(out, "held", &bare))["envelope"], json!({}));
    }

    #[test]
    fn a_trace_lists_states_and_what_else_is_known_and_repeats_short_names_only() {
        let worker = EndpointName::level_1("a \"worker\"").expect("a name");
        let states = [
            TracedState { state: "accepted", unix_us: 1_000_001, endpoint: None, detail: None },
            TracedState {
                state: "dead",
                unix_us: 2_500_000,
                endpoint: Some(&worker),
                detail: Some("receiver_gone"),
            },
        ];
        let mut further = serde_json::Map::new();
        further.insert("left_out".to_owned(), json!(3));
        let (id, req) = (Raw::new(b"\"x\""), Some(Raw::new(b"5")));
        assert_eq!(
            frame(|out| traced(out, id, states, &further, req)),
            json!({"type": "traced", "id": "x", "left_out": 3, "req": 5, "states": [
                {"state": "accepted", "ts": 1.000001, "endpoint": null, "detail": null},
                {"state": "dead", "ts": 2.5, "endpoint": "a \"worker\"", "detail": "receiver_gone"},
            ]})
        );
        let long = format!("\"{}\"", "r".repeat(ECHOED_BYTES_MAX));
        let req = Some(Raw::new(long.as_bytes()));
        let answer = frame(|out| subscribed(out, &[], &[], req));
        assert_eq!(answer, json!({"type": "subscribed", "topics": [], "groups": []}), "too long");
        let nothing = frame(|out| traced(out, id, [], &serde_json::Map::new(), None));
        assert_eq!(nothing, json!({"type": "traced", "id": "x", "states": []}));
    }
}

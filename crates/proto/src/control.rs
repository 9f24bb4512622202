//! The frames that the bus and its clients say to each other, besides messages and listings.
//!
//! Every function appends one whole frame, header included. The spelling (a space after `:` and
//! `,`, key order) is that of the released Python bus, whose clients sometimes look at the text.

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use serde_json::Value;

use crate::envelope::Raw;
use crate::limits::{HEADER_BYTES, PAYLOAD_BYTES_MAX};
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

/// bus → client: a refusal. `id` is that of the message it is about, as it came; it is left out
/// where the frame would be over the limit with it.
pub fn error(out: &mut Vec<u8>, code: ErrorCode, detail: Detail<'_>, id: Option<Raw<'_>>) {
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
        out.push(b'}');
    });
}

/// More than the fixed parts of an error frame and every text that the bus itself writes into one.
const ERROR_FIXED_BYTES: usize = 4 * 1024;

impl Detail<'_> {
    /// Bytes that a peer chose.
    fn echoed_bytes(&self) -> usize {
        match self {
            Detail::Text(_) => 0,
            Detail::NotConnected(to) => to.as_bytes().len(),
        }
    }
}

/// How far a message has come, as a receipt says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// The router has it.
    Accepted,
    /// Handed over: its bytes are in the receiver's socket.
    Delivered,
}

impl Status {
    /// The status that a word on the wire stands for.
    pub fn of(word: &str) -> Option<Self> {
        [Status::Accepted, Status::Delivered].into_iter().find(|status| status.as_str() == word)
    }

    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Status::Accepted => "accepted",
            Status::Delivered => "delivered",
        }
    }
}

/// bus → sender: how far a message has come. `endpoints` is given for broadcasts.
pub fn receipt(out: &mut Vec<u8>, id: Raw<'_>, status: Status, endpoints: Option<usize>) {
    frame::append(out, |out| {
        out.extend_from_slice(br#"{"type": "receipt", "id": "#);
        out.extend_from_slice(id.as_bytes());
        out.extend_from_slice(br#", "status": ""#);
        out.extend_from_slice(status.as_str().as_bytes());
        out.push(b'"');
        if let Some(endpoints) = endpoints {
            out.extend_from_slice(format!(", \"endpoints\": {endpoints}").as_bytes());
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
#[derive(Clone, Copy, Debug)]
pub struct MessageFields<'a> {
    /// `to`; empty means every endpoint.
    pub to: &'a str,
    /// `from`
    pub from: Option<&'a str>,
    /// `id`
    pub id: Option<&'a str>,
    /// `reply_to`: the id of the message that this answers.
    pub reply_to: Option<&'a str>,
    /// JSON text of `body`, known to be one well-formed value.
    pub body: &'a str,
}

/// client → bus: a message. One over [`PAYLOAD_BYTES_MAX`] is refused, and `out` is as it was.
pub fn message(out: &mut Vec<u8>, fields: &MessageFields<'_>) -> Result<(), FrameError> {
    let start = out.len();
    out.extend_from_slice(&[0; HEADER_BYTES]);
    out.extend_from_slice(br#"{"type": "message", "to": "#);
    out.extend_from_slice(json_string(fields.to).as_bytes());
    let optional =
        [("from", fields.from), ("id", fields.id), ("reply_to", fields.reply_to)].into_iter();
    for (key, value) in optional.filter_map(|(key, value)| Some((key, value?))) {
        out.extend_from_slice(format!(", \"{key}\": {}", json_string(value)).as_bytes());
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

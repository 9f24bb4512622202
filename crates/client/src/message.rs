//! Messages: as they arrive, and as they are composed.

use std::borrow::Cow;

use bytes::Bytes;
use hermes_bus_proto::control::{self, MessageFields};
use hermes_bus_proto::limits::HEADER_BYTES;
use hermes_bus_proto::object::check_value;
use hermes_bus_proto::{Envelope, FrameError, Object};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// A message that has arrived. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Message {
    frame: Object,
}

impl Message {
    pub(crate) fn new(frame: Object) -> Self {
        Message { frame }
    }

    /// Who sent it, as the sender or the bus put it there. Not attested: senders may write what they
    /// like.
    pub fn from(&self) -> Option<Cow<'_, str>> {
        self.frame.text("from")
    }

    /// The endpoint it was sent to. Empty or missing where it was sent to all.
    pub fn to(&self) -> Option<Cow<'_, str>> {
        self.frame.text("to")
    }

    /// Its id, if that is a string.
    pub fn id(&self) -> Option<Cow<'_, str>> {
        self.frame.text("id")
    }

    /// The id of the message that this one answers.
    pub fn reply_to(&self) -> Option<Cow<'_, str>> {
        self.frame.text("reply_to")
    }

    /// When it was sent: Unix time in seconds.
    pub fn ts(&self) -> Option<f64> {
        std::str::from_utf8(self.frame.get("ts")?.as_bytes()).ok()?.parse().ok()
    }

    /// The JSON text of the body, byte for byte as it was sent; `null` where there is none. Python's
    /// `NaN`, `Infinity` and lone surrogates may stand in it.
    pub fn body_json(&self) -> Cow<'_, str> {
        let body = self.frame.get("body").map_or(b"null".as_slice(), |body| body.as_bytes());
        String::from_utf8_lossy(body)
    }

    /// The body on one line: line ends between values become spaces.
    pub fn body_line(&self) -> String {
        one_line(&self.body_json())
    }

    /// The whole message as JSON on one line.
    pub fn json_line(&self) -> String {
        one_line(&String::from_utf8_lossy(self.frame.as_bytes()))
    }

    /// The body as a type of yours.
    pub fn body<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_str(&self.body_json())
    }

    /// A member of the body that is a string: `text`, `type`, `channel`.
    pub fn body_text(&self, key: &str) -> Option<String> {
        let body = self.frame.get("body")?;
        let body = Object::scan(Bytes::copy_from_slice(body.as_bytes())).ok()?;
        body.text(key).map(Cow::into_owned)
    }

    /// `text` of the body.
    pub fn text(&self) -> Option<String> {
        self.body_text("text")
    }

    /// The whole message as it came.
    pub fn frame(&self) -> &Object {
        &self.frame
    }

    /// An answer to this message, `{"text": …}`. `None` if the message does not say who sent it.
    pub fn reply(&self, text: &str) -> Option<Outgoing> {
        Some(self.address_reply(Outgoing::text(self.from()?, text)))
    }

    /// An answer to this message with a body of its own. `None` if the message does not say who
    /// sent it.
    pub fn reply_with(&self, body: &impl Serialize) -> Option<Result<Outgoing, BodyError>> {
        let answer = Outgoing::with(self.from()?, body);
        Some(answer.map(|answer| self.address_reply(answer)))
    }

    fn address_reply(&self, mut answer: Outgoing) -> Outgoing {
        answer.reply_to = self.id().map(Cow::into_owned);
        answer
    }
}

/// A message to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    to: String,
    body_json: String,
    pub(crate) from: Option<String>,
    pub(crate) id: Option<String>,
    reply_to: Option<String>,
}

/// Why something cannot be a message's body.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// It has no JSON form.
    #[error(transparent)]
    Serialize(#[from] serde_json::Error),
    /// It is not JSON.
    #[error("{0}")]
    NotJson(FrameError),
    /// It is no object, and so has no members that could be set.
    #[error("the body is {0}, not an object")]
    NotAnObject(&'static str),
}

impl Outgoing {
    /// A message with the body `{"text": …}`. An empty `to` means every endpoint.
    pub fn text(to: impl Into<String>, text: &str) -> Self {
        let text = serde_json::Value::from(text);
        Self::unchecked(to.into(), format!("{{\"text\": {text}}}"))
    }

    /// A message with any body. An empty `to` means every endpoint.
    pub fn with(to: impl Into<String>, body: &impl Serialize) -> Result<Self, BodyError> {
        Ok(Self::unchecked(to.into(), serde_json::to_string(body)?))
    }

    /// A message whose body is JSON text already; it travels byte for byte. An empty `to` means
    /// every endpoint.
    pub fn json(to: impl Into<String>, body_json: impl Into<String>) -> Result<Self, BodyError> {
        let body_json = body_json.into();
        check_value(&body_json).map_err(BodyError::NotJson)?;
        Ok(Self::unchecked(to.into(), body_json))
    }

    fn unchecked(to: String, body_json: String) -> Self {
        Outgoing { to, body_json, from: None, id: None, reply_to: None }
    }

    /// Sets `from`. Left out, a registered client's messages carry its name.
    pub fn from(mut self, name: impl Into<String>) -> Self {
        self.from = Some(name.into());
        self
    }

    /// Sets `id`. Left out, it is a new UUID.
    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.id = Some(id.into());
        self
    }

    /// Says which message this one answers.
    pub fn reply_to(mut self, id: impl Into<String>) -> Self {
        self.reply_to = Some(id.into());
        self
    }

    /// Sets a member of the body, in place of one that is there. All other values keep their
    /// bytes.
    pub fn set(mut self, key: &str, value: &impl Serialize) -> Result<Self, BodyError> {
        let body = Object::scan(Bytes::copy_from_slice(self.body_json.as_bytes()));
        self.body_json = match body {
            Ok(body) => body.with(key, &serde_json::to_string(value)?),
            Err(FrameError::NotAnObject(kind)) => return Err(BodyError::NotAnObject(kind)),
            Err(error) => return Err(BodyError::NotJson(error)),
        };
        Ok(self)
    }

    /// Whom it is for.
    pub fn to(&self) -> &str {
        &self.to
    }

    /// The whole frame. `id` stands in for one that was not set.
    pub(crate) fn encode(&self, id: Option<&str>) -> Result<Vec<u8>, FrameError> {
        let mut frame = Vec::with_capacity(self.body_json.len() + 256);
        let fields = MessageFields {
            to: &self.to,
            from: self.from.as_deref(),
            id: self.id.as_deref().or(id),
            reply_to: self.reply_to.as_deref(),
            body: &self.body_json,
        };
        control::message(&mut frame, &fields)?;
        // What the bus would refuse would cost the whole connection.
        Envelope::scan(&frame[HEADER_BYTES..])?;
        Ok(frame)
    }
}

/// JSON text on one line. Within strings there are no line ends.
fn one_line(json: &str) -> String {
    json.trim().replace(['\n', '\r'], " ")
}

/// A new message id: a random UUID.
pub(crate) fn new_id() -> String {
    let mut bytes = [0; 16];
    let filled = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    if filled != Ok(bytes.len()) {
        // Only before the system's generator is ready, early at boot.
        fastrand::fill(&mut bytes);
    }
    uuid::Builder::from_random_bytes(bytes).into_uuid().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(json: &str) -> Message {
        Message::new(Object::scan(Bytes::copy_from_slice(json.as_bytes())).unwrap())
    }

    #[test]
    fn what_python_wrote_is_read() {
        let frame = r#"{"type":"message","from":"caf\u00e9","id":"i","ts":1.5,
                        "body":{"text":"a","n":NaN,"s":"\ud800"}}"#;
        let message = message(frame);
        assert_eq!(message.from().as_deref(), Some("café"));
        assert_eq!((message.ts(), message.text().as_deref()), (Some(1.5), Some("a")));
        assert_eq!(message.body_json(), r#"{"text":"a","n":NaN,"s":"\ud800"}"#);
        assert!(message.body::<serde_json::Value>().is_err());
    }

    #[test]
    fn a_reply_goes_to_the_sender_and_names_the_message() {
        let asked = message(r#"{"from": "lead", "id": "7", "body": null}"#);
        let answer = asked.reply("yes").unwrap();
        let frame = String::from_utf8(answer.encode(None).unwrap()[4..].to_vec()).unwrap();
        assert_eq!(
            frame,
            r#"{"type": "message", "to": "lead", "reply_to": "7", "body": {"text": "yes"}}"#
        );
        assert!(message(r#"{"id": "7"}"#).reply("yes").is_none());
    }

    #[test]
    fn a_body_must_be_json_and_fit_into_a_frame() {
        assert!(Outgoing::json("x", "{nope").is_err());
        let list = Outgoing::json("x", "[NaN]").unwrap();
        assert!(matches!(list.set("type", &"ack"), Err(BodyError::NotAnObject("an array"))));
        let large = Outgoing::text("x", &"y".repeat(10 * 1024 * 1024));
        assert!(matches!(large.encode(None), Err(FrameError::TooLarge { .. })));
        // A level of nesting is the frame's own.
        let nested = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        assert!(Outgoing::json("x", nested(949)).unwrap().encode(None).is_ok());
        assert!(Outgoing::json("x", nested(950)).unwrap().encode(None).is_err());
    }

    #[test]
    fn ids_are_uuids_of_their_own() {
        let (one, other) = (new_id(), new_id());
        assert_eq!(uuid::Uuid::parse_str(&one).unwrap().get_version_num(), 4);
        assert_ne!(one, other);
    }
}

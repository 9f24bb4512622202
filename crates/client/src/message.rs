//! Messages: as they arrive, and as they are composed.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hermes_bus_proto::control::{self, MessageFields, Status};
use hermes_bus_proto::limits::HEADER_BYTES;
use hermes_bus_proto::object::check_value;
use hermes_bus_proto::{Envelope, FrameError, Object};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::acks::{Acks, Delivery, Settle};

/// A message that has arrived. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Message {
    frame: Object,
    /// Where it came in a session that acknowledges.
    to_acknowledge: Option<Arc<Unsettled>>,
    is_repeated: bool,
}

/// What all clones of a message know of its acknowledgement.
#[derive(Debug)]
struct Unsettled {
    acks: Arc<Acks>,
    delivery: Delivery,
    /// The first word counts, also where the session is over: whoever gives a message back is not
    /// done with it, whatever is said of it later, and its number comes again with the next delivery.
    is_settled: AtomicBool,
}

/// Who sent a message, as the bus knows it from the kernel.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Sender {
    /// User id.
    pub uid: u32,
    /// Process id; 0 where the bus cannot see it.
    #[serde(default)]
    pub pid: u32,
    /// The endpoint that the sender had registered, whatever [`Message::from`] says.
    #[serde(default)]
    pub endpoint: Option<String>,
}

impl Message {
    pub(crate) fn new(frame: Object) -> Self {
        Message { frame, to_acknowledge: None, is_repeated: false }
    }

    /// One that came in a session that acknowledges.
    pub(crate) fn expecting_acknowledgement(mut self, acks: &Arc<Acks>) -> Self {
        if let Some(seq) = self.seq() {
            let (acks, delivery) = (Arc::clone(acks), acks.arrived(seq));
            let is_settled = AtomicBool::new(false);
            self.to_acknowledge = Some(Arc::new(Unsettled { acks, delivery, is_settled }));
        }
        self
    }

    pub(crate) fn mark_as_repeated(&mut self) {
        self.is_repeated = true;
    }

    /// Whether the bus waits for an acknowledgement of it.
    pub fn is_to_be_acknowledged(&self) -> bool {
        self.to_acknowledge.is_some()
    }

    /// Confirms it: the bus does not deliver it again, and its sender hears `acked`, if it wanted to.
    /// The word goes out with the session's next write. `false`: nothing was to be said, because
    /// the session does not acknowledge, the message was confirmed or given back before, or the
    /// session it came in is over; then the bus delivers it again.
    pub fn ack(&self) -> bool {
        self.settle(Settle::Ack)
    }

    /// Gives it back: the bus delivers it again after a pause of 1 s, which doubles each time, and
    /// after too many times makes it a dead letter. `reason` is for people, 4 KiB at most. `false` as
    /// with [`Message::ack`].
    pub fn nack(&self, reason: &str) -> bool {
        self.settle(Settle::Nack { reason, requeue: true })
    }

    /// Refuses it for good: it becomes a dead letter, and its sender hears `rejected`. `reason` is for
    /// people, 4 KiB at most. `false` as with [`Message::ack`].
    pub fn reject(&self, reason: &str) -> bool {
        self.settle(Settle::Nack { reason, requeue: false })
    }

    fn settle(&self, how: Settle<'_>) -> bool {
        let Some(unsettled) = &self.to_acknowledge else { return false };
        let is_first = !unsettled.is_settled.swap(true, Ordering::Relaxed);
        is_first && unsettled.acks.settle(unsettled.delivery, self, how)
    }

    /// Who sent it, attested by the bus. Absent on level 1.
    pub fn sender(&self) -> Option<Sender> {
        serde_json::from_slice(self.frame.get("sender")?.as_bytes()).ok()
    }

    /// The `@group` or `#topic` that it came through.
    pub fn via(&self) -> Option<Cow<'_, str>> {
        self.frame.text("via")
    }

    /// Its place among the messages of this endpoint, in a session that acknowledges.
    pub fn seq(&self) -> Option<u64> {
        std::str::from_utf8(self.frame.get("seq")?.as_bytes()).ok()?.parse().ok()
    }

    /// The how-manieth try of the bus this is: from 2 on, it may have come before.
    pub fn delivery(&self) -> u64 {
        let told = self.frame.get("delivery").and_then(|delivery| delivery.integer());
        told.and_then(|delivery| u64::try_from(delivery).ok()).unwrap_or(1).max(1)
    }

    /// Whether this client has handed out a message with this sender and id before. Always `false`
    /// where repeats are not recognised (see [`crate::ClientBuilder::repeats`]).
    pub fn is_repeated(&self) -> bool {
        self.is_repeated
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
    pub(crate) receipt: Option<Status>,
    queue: bool,
    ttl: Option<Duration>,
    hops: Option<u32>,
    traceparent: Option<String>,
    pub(crate) retry_until: Option<Instant>,
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
        Outgoing {
            to,
            body_json,
            from: None,
            id: None,
            reply_to: None,
            receipt: None,
            queue: false,
            ttl: None,
            hops: None,
            traceparent: None,
            retry_until: None,
        }
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

    /// Its `id`; a new one, if none was set.
    pub fn ensure_id(&mut self) -> &str {
        self.id.get_or_insert_with(new_id)
    }

    /// Says which message this one answers.
    pub fn reply_to(mut self, id: impl Into<String>) -> Self {
        self.reply_to = Some(id.into());
        self
    }

    /// Asks to be told when it has come so far, or why it cannot. [`Status::Stored`] has it stored
    /// even if its endpoint is there.
    pub fn receipt(mut self, status: Status) -> Self {
        self.receipt = Some(status);
        self
    }

    /// Has the bus store it if its endpoint is known but not there.
    pub fn queue(mut self) -> Self {
        self.queue = true;
        self
    }

    /// It is not wanted any more after this time. Counts from its arrival at the bus; zero: now or
    /// never.
    pub fn ttl(mut self, time: Duration) -> Self {
        self.ttl = Some(time);
        self
    }

    /// Says how often it was passed on automatically. The bus refuses more than 16, which is a loop.
    pub fn hops(mut self, hops: u32) -> Self {
        self.hops = Some(hops);
        self
    }

    /// Sets the W3C trace context that goes along with it.
    pub fn traceparent(mut self, context: impl Into<String>) -> Self {
        self.traceparent = Some(context.into());
        self
    }

    /// Has [`crate::Client::submit`] send it again, with the same id, each time that a session ends
    /// before the bus has answered, up to this time. The bus recognises the repetition of a
    /// message that asks for [`Status::Stored`] or [`Status::Acked`], or is to be queued, and
    /// does not deliver it twice; others it might.
    pub fn retry_until(mut self, deadline: Instant) -> Self {
        self.retry_until = Some(deadline);
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
        self.encode_for(id, self.receipt)
    }

    /// The same, asking for this receipt.
    pub(crate) fn encode_for(
        &self,
        id: Option<&str>,
        receipt: Option<Status>,
    ) -> Result<Vec<u8>, FrameError> {
        let fields = MessageFields {
            to: &self.to,
            from: self.from.as_deref(),
            id: self.id.as_deref().or(id),
            reply_to: self.reply_to.as_deref(),
            receipt,
            queue: self.queue,
            ttl: self.ttl,
            hops: self.hops,
            traceparent: self.traceparent.as_deref(),
            body: &self.body_json,
        };
        frame_of(&fields)
    }
}

/// The whole frame of a message that asks for nothing.
pub(crate) fn encode_json(
    to: &str,
    from: Option<&str>,
    body_json: &str,
) -> Result<Vec<u8>, FrameError> {
    check_value(body_json)?;
    frame_of(&MessageFields {
        to,
        from,
        id: None,
        reply_to: None,
        receipt: None,
        queue: false,
        ttl: None,
        hops: None,
        traceparent: None,
        body: body_json,
    })
}

fn frame_of(fields: &MessageFields<'_>) -> Result<Vec<u8>, FrameError> {
    let mut frame = Vec::with_capacity(fields.body.len() + 256);
    control::message(&mut frame, fields)?;
    // What the bus would refuse would cost the whole connection.
    Envelope::scan(&frame[HEADER_BYTES..])?;
    Ok(frame)
}

/// JSON text on one line. Within strings there are no line ends.
pub(crate) fn one_line(json: &str) -> String {
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
    fn what_a_message_asks_for_stands_in_its_frame() {
        let message = Outgoing::text("x", "y").receipt(Status::Acked).queue();
        let message = message.ttl(Duration::from_millis(1_500)).hops(2).traceparent("00-ab");
        let frame = message.encode(Some("7")).unwrap();
        assert_eq!(
            String::from_utf8_lossy(&frame[4..]),
            r#"{"type": "message", "to": "x", "id": "7", "receipt": "acked", "traceparent": "00-ab", "queue": true, "ttl_s": 1.5, "hops": 2, "body": {"text": "y"}}"#
        );
        let envelope = Envelope::scan(&frame[4..]).unwrap();
        assert!(hermes_bus_proto::Ask::strict(&envelope.asking).is_ok());
    }

    #[test]
    fn what_the_bus_says_of_a_message_is_read() {
        let told = message(
            r##"{"body": 1, "sender": {"uid": 7, "pid": 8, "endpoint": null}, "via": "#a.b",
                "seq": 18446744073709551615, "delivery": 3}"##,
        );
        assert_eq!(told.sender(), Some(Sender { uid: 7, pid: 8, endpoint: None }));
        assert_eq!(told.via().as_deref(), Some("#a.b"));
        assert_eq!((told.seq(), told.delivery()), (Some(u64::MAX), 3));
        let untold = message(r#"{"body": 1}"#);
        assert_eq!((untold.sender(), untold.seq(), untold.delivery()), (None, None, 1));
        assert!(!untold.ack(), "there is nothing to acknowledge");
    }

    #[test]
    fn ids_are_uuids_of_their_own() {
        let (one, other) = (new_id(), new_id());
        assert_eq!(uuid::Uuid::parse_str(&one).unwrap().get_version_num(), 4);
        assert_ne!(one, other);
    }
}

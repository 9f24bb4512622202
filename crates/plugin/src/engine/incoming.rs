//! A message as the engine sees it: the few members that rules, templates and commands speak of.
//!
//! Nothing in it is trusted but [`Incoming::sender`], and that only from a session in which the bus attests senders. A
//! member of a kind that nobody expects is shown as its JSON text, never an error: who sends it must not be able to
//! stop the receiver.

use std::borrow::Cow;

use bytes::Bytes;
use hermes_bus_client::{Message, Sender};
use hermes_bus_proto::{FrameError, Object, Raw};

/// Whether the bus says who sent a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attested {
    /// The session speaks level 2: `sender` comes from the bus.
    Yes,
    /// It does not: whatever stands there, a client wrote it.
    No,
}

/// The `type` of a body.
#[derive(Clone, Debug, PartialEq)]
pub enum BodyType {
    /// There is none, or it counts as nothing.
    Absent,
    /// A text, as it should be.
    Text(String),
    /// A number.
    Number(f64),
    /// `true`.
    True,
    /// Anything else, as its JSON text.
    Other(String),
}

/// A message that has arrived.
#[derive(Clone, Debug)]
pub struct Incoming {
    /// The whole message on one line of JSON.
    pub json: String,
    /// The frame's own type: `message`.
    pub kind: String,
    /// Who it says it is from; `None` where it says nothing.
    pub from: Option<String>,
    /// The address that it was sent to; empty for a broadcast.
    pub to: String,
    /// Its id, as text; empty without one.
    pub id: String,
    /// `ts` as a number of seconds since 1970, where it can be read as one.
    pub ts: Option<f64>,
    /// `ts` as it was written, where it was.
    pub ts_text: Option<String>,
    /// `type` of the body.
    pub body_type: BodyType,
    /// `type` of the body as it is shown; empty without one.
    pub body_type_text: String,
    /// `text` of the body; of a body that is no object, all of it.
    pub text: String,
    /// `channel` of the body; empty without one.
    pub channel: String,
    /// The body's JSON text.
    pub body_json: String,
    /// Who sent it, as the bus knows it.
    pub sender: Option<Sender>,
    /// The group or topic that it came through; empty without one.
    pub via: String,
    /// The how-manieth try of the bus this is, from 1 on.
    pub delivery: u64,
}

impl Incoming {
    /// Reads the JSON text of a message. Fails only where that is no JSON object.
    pub fn read(frame: &[u8], attested: Attested) -> Result<Incoming, FrameError> {
        Ok(Incoming::of_object(&Object::scan(Bytes::copy_from_slice(frame))?, attested))
    }

    /// The same of a message that the client has received.
    pub fn of(message: &Message, attested: Attested) -> Incoming {
        Incoming::of_object(message.frame(), attested)
    }

    fn of_object(frame: &Object, attested: Attested) -> Incoming {
        let body = frame.get("body");
        let members = body.and_then(|body| Object::scan(bytes(body)).ok());
        let member = |key| members.as_ref().and_then(|members| members.get(key));
        let text = if members.is_some() { shown(member("text")) } else { shown(body) };
        let ts = frame.get("ts").filter(|ts| ts.as_bytes() != b"null");
        // What a sender wrote under these names stands in front of what the bus says.
        let told = |key| frame.get_behind("sender", key).filter(|_| attested == Attested::Yes);
        Incoming {
            json: String::from_utf8_lossy(frame.as_bytes()).replace(['\n', '\r'], " "),
            kind: shown(frame.get("type")),
            from: frame.get("from").filter(|from| from.as_bytes() != b"null").map(text_of),
            to: address(frame.get("to")),
            id: shown(frame.get("id")),
            ts: ts.and_then(seconds),
            ts_text: ts.map(text_of),
            body_type: body_type(member("type")),
            body_type_text: shown(member("type")),
            text,
            channel: shown(member("channel")),
            body_json: body.map_or_else(|| "null".to_owned(), json_of),
            sender: told("sender")
                .and_then(|sender| serde_json::from_slice(sender.as_bytes()).ok()),
            via: shown(told("via")),
            delivery: told("delivery").and_then(whole_number).unwrap_or(1).max(1),
        }
    }

    /// The endpoint that the bus says it is from; empty where it knows none.
    pub fn attested_endpoint(&self) -> &str {
        self.sender.as_ref().and_then(|sender| sender.endpoint.as_deref()).unwrap_or_default()
    }

    /// What tells this message from every other one, also when it comes again: everything but what the bus says of
    /// the delivery.
    pub fn fingerprint(&self) -> u64 {
        use std::hash::{DefaultHasher, Hash, Hasher};
        let mut hasher = DefaultHasher::new();
        let sender = self.sender.as_ref();
        (&self.id, &self.from, &self.to, &self.ts_text, &self.body_json).hash(&mut hasher);
        sender.map(|sender| (sender.uid, sender.pid, &sender.endpoint)).hash(&mut hasher);
        hasher.finish()
    }
}

fn bytes(value: Raw<'_>) -> Bytes {
    Bytes::copy_from_slice(value.as_bytes())
}

fn json_of(value: Raw<'_>) -> String {
    String::from_utf8_lossy(value.as_bytes()).into_owned()
}

/// The characters of a text; of anything else its JSON.
fn text_of(value: Raw<'_>) -> String {
    value.text().map_or_else(|_| json_of(value), Cow::into_owned)
}

/// The same; nothing of what is absent or null.
fn shown(value: Option<Raw<'_>>) -> String {
    value.filter(|value| value.as_bytes() != b"null").map(text_of).unwrap_or_default()
}

/// Nothing for everything that means everybody.
fn address(to: Option<Raw<'_>>) -> String {
    shown(to.filter(|to| !to.is_false_in_python()))
}

fn body_type(value: Option<Raw<'_>>) -> BodyType {
    let Some(value) = value.filter(|value| !value.is_false_in_python()) else {
        return BodyType::Absent;
    };
    match (value.text(), value.as_bytes()) {
        (Ok(text), _) => BodyType::Text(text.into_owned()),
        (_, b"true") => BodyType::True,
        (_, number) => match str::from_utf8(number).ok().and_then(|number| number.parse().ok()) {
            Some(number) => BodyType::Number(number),
            None => BodyType::Other(json_of(value)),
        },
    }
}

/// A number, or a text that is one.
fn seconds(value: Raw<'_>) -> Option<f64> {
    let text = text_of(value);
    text.trim().parse::<f64>().ok().filter(|seconds| seconds.is_finite())
}

fn whole_number(value: Raw<'_>) -> Option<u64> {
    str::from_utf8(value.as_bytes()).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Incoming {
        Incoming::read(text.as_bytes(), Attested::Yes).unwrap()
    }

    #[test]
    fn a_message_is_read_whatever_it_holds() {
        let message = read(
            r##"{"type": "message", "to": "#a", "from": "w", "id": 7, "ts": 1.5, "body": {"text": "hi",
                "type": "ack", "channel": "feishu:oc"}, "sender": {"uid": 1, "pid": 2, "endpoint": "w-1"},
                "via": "#a", "delivery": 3}"##,
        );
        let members = [&message.to, &message.id, &message.text, &message.channel, &message.via];
        assert_eq!(members, ["#a", "7", "hi", "feishu:oc", "#a"]);
        assert_eq!((message.ts, message.delivery), (Some(1.5), 3));
        assert_eq!(message.body_type, BodyType::Text("ack".to_owned()));
        assert_eq!(message.attested_endpoint(), "w-1");

        let odd = read(
            r#"{"to": [], "from": null, "ts": "2.5", "body": {"text": ["x", 1], "type": 5.0}}"#,
        );
        assert_eq!((odd.from.as_deref(), odd.to.as_str(), odd.ts), (None, "", Some(2.5)));
        assert_eq!((odd.text.as_str(), odd.body_type), (r#"["x", 1]"#, BodyType::Number(5.0)));

        for (body, text) in [
            (r#""a string""#, "a string"),
            ("[1, 2]", "[1, 2]"),
            ("null", ""),
            ("true", "true"),
            (r#"{"text": null}"#, ""),
            (r#"{"text": "\ud800"}"#, r#""\ud800""#),
        ] {
            let message = read(&format!("{{\"body\": {body}}}"));
            assert_eq!(message.text, text, "{body}");
            assert_eq!(message.body_type, BodyType::Absent);
        }
        assert!(Incoming::read(b"[1]", Attested::Yes).is_err());
    }

    #[test]
    fn what_a_client_wrote_about_its_sender_is_not_believed() {
        let frame =
            br#"{"sender": {"uid": 0, "pid": 1, "endpoint": "lead"}, "via": "x", "delivery": 9}"#;
        let message = Incoming::read(frame, Attested::No).unwrap();
        assert_eq!((message.sender.clone(), message.attested_endpoint()), (None, ""));
        assert_eq!((message.via.as_str(), message.delivery), ("", 1));
        // What the bus says stands behind it, and counts.
        let frame = r#"{"sender": {"uid": 0, "pid": 1, "endpoint": "lead"}, "via": "x", "delivery": 9,
            "sender": {"uid": 7, "pid": 1, "endpoint": "w"}, "seq": 1}"#;
        let message = read(frame);
        assert_eq!(
            (message.attested_endpoint(), message.via.as_str(), message.delivery),
            ("w", "", 1)
        );
    }

    #[test]
    fn a_message_that_comes_again_is_recognised_and_no_other() {
        let frame = |id: &str, more: &str| {
            read(&format!(r#"{{"id": "{id}", "body": {{"text": "x"}}{more}}}"#)).fingerprint()
        };
        assert_eq!(frame("1", ""), frame("1", r#", "seq": 7, "delivery": 2"#));
        assert_ne!(frame("1", ""), frame("2", ""));
        assert_ne!(frame("1", ""), frame("1", r#", "sender": {"uid": 1, "pid": 2}"#));
    }
}

//! What a hook is told of a message beside its JSON, and what filters look at. Nothing is read before
//! somebody asks: most messages are for hooks that take everything, or for none.

use std::borrow::Cow;
use std::cell::OnceCell;

use bytes::Bytes;
use hermes_bus_proto::{Envelope, Object, Raw};

/// What filters look at. Read once for all hooks.
pub(super) struct Facts<'a> {
    message: &'a [u8],
    /// `to` and `from`.
    ends: OnceCell<(Cow<'a, str>, Cow<'a, str>)>,
    body_type: OnceCell<String>,
}

impl<'a> Facts<'a> {
    pub(super) fn of(message: &'a [u8]) -> Self {
        Facts { message, ends: OnceCell::new(), body_type: OnceCell::new() }
    }

    pub(super) fn to(&self) -> &str {
        &self.ends().0
    }

    pub(super) fn from(&self) -> &str {
        &self.ends().1
    }

    fn ends(&self) -> &(Cow<'a, str>, Cow<'a, str>) {
        self.ends.get_or_init(|| match Envelope::scan(self.message) {
            Ok(envelope) => (shown(envelope.to), shown(envelope.from)),
            Err(_) => (Cow::Borrowed(""), Cow::Borrowed("")),
        })
    }

    pub(super) fn body_type(&self) -> &str {
        self.body_type.get_or_init(|| {
            let message = Object::scan(Bytes::copy_from_slice(self.message));
            message.map_or_else(|_| String::new(), |message| body_type(&message))
        })
    }
}

/// Most bytes of one variable's value (8 KiB, what a name may have). Systems refuse to start a program
/// with a much longer one. A longer value is cut; the message itself has all of it.
pub(super) const VALUE_BYTES_MAX: usize = 8 * 1024;

/// The variables that tell a hook of its message. All are always set, so that none of another message
/// is ever inherited.
pub(super) fn variables(message: &Bytes, outcome: &'static str) -> [(&'static str, String); 6] {
    let object = Object::scan(message.clone()).ok();
    let value = |key| {
        let value = object.as_ref().map_or(Cow::Borrowed(""), |object| shown(object.get(key)));
        for_environment(&value)
    };
    let body_type = object.as_ref().map_or_else(String::new, body_type);
    [
        ("HERMES_BUS_MESSAGE_ID", value("id")),
        ("HERMES_BUS_MESSAGE_TYPE", for_environment(&body_type)),
        ("HERMES_BUS_MESSAGE_FROM", value("from")),
        ("HERMES_BUS_MESSAGE_TO", value("to")),
        ("HERMES_BUS_MESSAGE_TS", value("ts")),
        ("HERMES_BUS_MESSAGE_OUTCOME", outcome.to_owned()),
    ]
}

fn body_type(message: &Object) -> String {
    let Some(body) = message.get("body") else { return String::new() };
    let Ok(body) = Object::scan(Bytes::copy_from_slice(body.as_bytes())) else {
        return String::new();
    };
    shown(body.get("type")).into_owned()
}

/// The characters of a text; nothing for what is absent or null; of any other value its JSON.
fn shown(value: Option<Raw<'_>>) -> Cow<'_, str> {
    match value {
        None => Cow::Borrowed(""),
        Some(value) if value.as_bytes() == b"null" => Cow::Borrowed(""),
        Some(value) => value.text().unwrap_or_else(|_| String::from_utf8_lossy(value.as_bytes())),
    }
}

/// A value as a variable can hold it. One with a zero character in it cannot be told.
fn for_environment(value: &str) -> String {
    if value.contains('\0') {
        return String::new();
    }
    let mut end = value.len().min(VALUE_BYTES_MAX);
    while !value.is_char_boundary(end) {
        end -= 1;
    }
    value[..end].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(message: &str) -> Vec<String> {
        let message = Bytes::copy_from_slice(message.as_bytes());
        variables(&message, "held").into_iter().map(|(_, value)| value).collect()
    }

    #[test]
    fn a_hook_is_told_what_the_message_says() {
        let message = r#"{"type": "message", "to": "b\u00e9", "body": {"type": "ack"}, "id": "7",
            "ts": 1.50, "from": "a"}"#;
        assert_eq!(told(message), ["7", "ack", "a", "bé", "1.50", "held"]);
        let odd = r#"{"to": 5, "body": {"type": ["x", 1]}, "id": null, "from": "\ud800"}"#;
        assert_eq!(told(odd), ["", "[\"x\", 1]", "\"\\ud800\"", "5", "", "held"]);
        for body in ["", r#", "body": "ack""#, r#", "body": {}"#, r#", "body": {"type": null}"#] {
            let message = format!("{{\"to\": \"\"{body}}}");
            assert_eq!(told(&message), ["", "", "", "", "", "held"]);
        }
    }

    #[test]
    fn what_no_variable_can_hold_is_left_out_or_cut_between_characters() {
        assert_eq!(told(r#"{"id": "a\u0000b"}"#)[0], "");
        let long = told(&format!("{{\"id\": \"x{}\"}}", "é".repeat(VALUE_BYTES_MAX)));
        assert_eq!(long[0].len(), VALUE_BYTES_MAX - 1);
    }

    #[test]
    fn filters_see_the_same_values() {
        let message = br#"{"to": 5, "body": {"type": "d\u006fne"}, "from": "\u0061"}"#;
        let facts = Facts::of(message);
        assert_eq!((facts.to(), facts.from(), facts.body_type()), ("5", "a", "done"));
        let facts = Facts::of(b"{\"body\": [1]}");
        assert_eq!((facts.to(), facts.from(), facts.body_type()), ("", "", ""));
    }
}

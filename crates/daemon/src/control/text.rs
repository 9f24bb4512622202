//! Answers as JSON text. Messages go into it as they came: what Python writes as JSON is not always
//! what other programs would write, and nothing of it is to change.

use hermes_bus_core::storage::{DeadLetter, Record, Sender};
use hermes_bus_proto::control::unix_seconds;
use hermes_bus_proto::{EndpointName, Envelope, Raw};
use hermes_bus_store::{Found, Place};
use serde::Serialize;

/// Most bytes of the items of one answer, but for the first of them.
pub(crate) const PAGE_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Items of an answer where nobody says how many.
pub(crate) const PAGE_ITEMS: usize = 100;
/// Most items of an answer.
pub(crate) const PAGE_ITEMS_MAX: usize = 1_000;

/// The members of a JSON object, one behind the other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Members {
    text: Vec<u8>,
}

impl Members {
    /// Adds a member whose value is JSON text already.
    pub(crate) fn raw(&mut self, key: &str, json: &[u8]) {
        if !self.text.is_empty() {
            self.text.extend_from_slice(b", ");
        }
        self.text.push(b'"');
        self.text.extend_from_slice(key.as_bytes());
        self.text.extend_from_slice(b"\": ");
        self.text.extend_from_slice(json);
    }

    /// Adds a member.
    pub(crate) fn value(&mut self, key: &str, value: impl Serialize) {
        // Numbers, texts and lists of them always have a JSON form.
        let json = serde_json::to_vec(&value).unwrap_or_else(|_| b"null".to_vec());
        self.raw(key, &json);
    }

    /// Adds a time, in seconds of Unix time.
    pub(crate) fn time(&mut self, key: &str, unix_us: u64) {
        self.raw(key, unix_seconds(unix_us).as_bytes());
    }

    /// Adds a list.
    pub(crate) fn page(&mut self, key: &str, page: Page) {
        let mut list = page.items;
        list.insert(0, b'[');
        list.push(b']');
        self.raw(key, &list);
    }

    /// Adds these keys of a message with their values as they came; `null` where it has none.
    fn envelope<const N: usize>(&mut self, payload: &[u8], keys: [&str; N]) {
        let envelope = Envelope::scan(payload).ok();
        for key in keys {
            let value = envelope.as_ref().and_then(|envelope| match key {
                "id" => envelope.id,
                "from" => envelope.from,
                "to" => envelope.to,
                "ts" => envelope.ts,
                _ => envelope.member(key),
            });
            self.raw(key, value.map_or(b"null".as_slice(), Raw::as_bytes));
        }
    }

    /// The members, without braces.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.text
    }

    /// The whole object.
    pub(crate) fn into_object(self) -> Vec<u8> {
        let mut object = self.text;
        object.insert(0, b'{');
        object.push(b'}');
        object
    }
}

/// Items of a list, as many as fit into an answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Page {
    items: Vec<u8>,
    count: usize,
}

impl Page {
    /// Adds an item, if there is room for it. The first one always has room.
    #[must_use]
    pub(crate) fn push(&mut self, item: &Members) -> bool {
        let bytes = item.text.len() + 4;
        let has_room = self.count == 0 || self.items.len() + bytes <= PAGE_BYTES_MAX;
        if has_room {
            self.push_all(item);
        }
        has_room
    }

    /// Adds an item of a list whose size others have seen to.
    pub(crate) fn push_all(&mut self, item: &Members) {
        if self.count > 0 {
            self.items.extend_from_slice(b", ");
        }
        self.items.push(b'{');
        self.items.extend_from_slice(&item.text);
        self.items.push(b'}');
        self.count += 1;
    }

    /// How many items it has.
    pub(crate) fn len(&self) -> usize {
        self.count
    }
}

/// A message that waits, with what the bus knows of it.
pub(crate) fn waiting(record: &Record) -> Members {
    let mut members = Members::default();
    members.value("seq", record.seq);
    members.envelope(&record.payload, ["id", "from", "to", "ts"]);
    members.time("arrived_ts", record.arrived_unix_us);
    if let Some(expires) = record.expires_unix_us {
        members.time("expires_ts", expires);
    }
    members.value("deliveries", record.deliveries);
    if let Some(via) = &record.via {
        members.value("via", via);
    }
    members.raw("sender", &sender(record.sender.as_ref()));
    members.value("bytes", record.payload.len());
    members.raw("message", &record.payload);
    members
}

/// A dead letter, without its message.
pub(crate) fn dead(key: u64, letter: &DeadLetter) -> Members {
    let DeadLetter { record, reason, detail, died_unix_us } = letter;
    let mut members = Members::default();
    members.value("key", key);
    members.value("endpoint", record.endpoint.as_str());
    members.value("reason", reason.as_str());
    members.value("detail", detail);
    members.time("died_ts", *died_unix_us);
    members.envelope(&record.payload, ["id", "from", "ts"]);
    members.value("bytes", record.payload.len());
    members
}

/// A dead letter, whole.
pub(crate) fn dead_whole(key: u64, letter: &DeadLetter) -> Members {
    let record = &letter.record;
    let mut members = dead(key, letter);
    members.time("arrived_ts", record.arrived_unix_us);
    members.value("deliveries", record.deliveries);
    if let Some(via) = &record.via {
        members.value("via", via);
    }
    members.raw("sender", &sender(record.sender.as_ref()));
    members.raw("message", &record.payload);
    members
}

/// A message that was found in the history, in a mailbox or among the dead letters.
pub(crate) fn found(found: &Found) -> Members {
    let Found { place, unix_us, from, to, via, outcome, payload, number: _ } = found;
    let mut members = Members::default();
    members.time("ts", *unix_us);
    members.envelope(payload, ["id"]);
    members.value("from", from);
    members.value("to", to);
    if let Some(via) = via {
        members.value("via", via);
    }
    members.value("outcome", outcome);
    let place = match place {
        Place::History => "history",
        Place::Mailbox => "mailbox",
        Place::DeadLetters => "dead",
    };
    members.value("place", place);
    members.value("bytes", payload.len());
    members.raw("message", payload);
    members
}

/// `null` where it is not known.
fn sender(sender: Option<&Sender>) -> Vec<u8> {
    let Some(sender) = sender else { return b"null".to_vec() };
    let mut members = Members::default();
    members.value("uid", sender.uid);
    members.value("pid", sender.pid);
    members.value("endpoint", sender.endpoint.as_ref().map(EndpointName::as_str));
    members.into_object()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use hermes_bus_core::storage::Keep;
    use hermes_bus_proto::ErrorCode;
    use serde_json::{Value, json};

    use super::*;

    fn record(payload: &'static [u8]) -> Record {
        Record {
            seq: 7,
            endpoint: EndpointName::level_1("a \"quoted\" name").unwrap(),
            keep: Keep::Mailbox,
            payload: Bytes::from_static(payload),
            sender: Some(Sender { uid: 1, pid: 2, endpoint: None }),
            via: None,
            wanted: None,
            arrived_unix_us: 1_000_002,
            expires_unix_us: None,
            deliveries: 3,
        }
    }

    fn read(members: Members) -> Value {
        serde_json::from_slice(&members.into_object()).unwrap()
    }

    #[test]
    fn a_waiting_message_says_all_that_is_known_of_it() {
        let mut record =
            record(br#"{"id": "m1", "to": "x", "from": "y", "ts": 5.5, "body": {"text": "hi"}}"#);
        record.via = Some("@crew".into());
        record.expires_unix_us = Some(2_500_000);
        let endpoint = Some(EndpointName::level_1("y").unwrap());
        record.sender = Some(Sender { uid: 1, pid: 2, endpoint });
        assert_eq!(
            read(waiting(&record)),
            json!({
                "seq": 7, "id": "m1", "from": "y", "to": "x", "ts": 5.5, "arrived_ts": 1.000002,
                "expires_ts": 2.5, "deliveries": 3, "via": "@crew",
                "sender": {"uid": 1, "pid": 2, "endpoint": "y"},
                "bytes": record.payload.len(),
                "message": {"id": "m1", "to": "x", "from": "y", "ts": 5.5, "body": {"text": "hi"}},
            })
        );
    }

    #[test]
    fn a_sender_that_nobody_knows_is_not_said_to_be_root() {
        let mut record = record(br#"{"id": 1}"#);
        record.sender = None;
        assert_eq!(read(waiting(&record))["sender"], Value::Null);
        let detail = String::new();
        let letter = DeadLetter { record, reason: ErrorCode::Expired, detail, died_unix_us: 1 };
        assert_eq!(read(dead_whole(4, &letter))["sender"], Value::Null);
    }

    #[test]
    fn what_only_python_writes_stands_in_the_answer_as_it_came() {
        let payload = br#"{"id": 12345678901234567890123, "body": [NaN, -Infinity, "\ud800"]}"#;
        let text = waiting(&record(payload)).into_object();
        let text = String::from_utf8(text).unwrap();
        assert!(text.contains(r#""id": 12345678901234567890123, "from": null"#), "{text}");
        assert!(text.ends_with(&format!("\"message\": {}}}", String::from_utf8_lossy(payload))));
        Envelope::scan(text.as_bytes()).expect("it is JSON as Python reads it");
    }

    #[test]
    fn a_dead_letter_shows_its_message_only_when_it_is_asked_for() {
        let letter = DeadLetter {
            record: record(br#"{"id": 1, "body": "b"}"#),
            reason: ErrorCode::Rejected,
            detail: "the \"reason\"\n".to_owned(),
            died_unix_us: 9_000_000,
        };
        let short = read(dead(4, &letter));
        assert_eq!(
            short,
            json!({
                "key": 4, "endpoint": "a \"quoted\" name", "reason": "rejected",
                "detail": "the \"reason\"\n", "died_ts": 9.0, "id": 1, "from": null, "ts": null,
                "bytes": 22,
            })
        );
        let whole = read(dead_whole(4, &letter));
        assert_eq!(whole["message"], json!({"id": 1, "body": "b"}));
        for (key, value) in short.as_object().unwrap() {
            assert_eq!(whole[key], *value, "{key}");
        }
    }

    #[test]
    fn a_page_takes_one_item_of_any_size_and_then_what_fits() {
        let item = |bytes: usize| {
            let mut item = Members::default();
            item.value("text", "x".repeat(bytes));
            item
        };
        let mut page = Page::default();
        assert!(page.push(&item(3 * PAGE_BYTES_MAX)), "the first one");
        assert!(!page.push(&item(0)), "the page is full");
        let mut page = Page::default();
        let taken = (0..100).take_while(|_| page.push(&item(PAGE_BYTES_MAX / 10))).count();
        assert_eq!(taken, 9);
        let mut members = Members::default();
        members.page("items", page);
        assert!(members.as_bytes().len() <= PAGE_BYTES_MAX + 20);
        assert_eq!(read(members)["items"].as_array().unwrap().len(), 9);
    }
}

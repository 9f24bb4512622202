//! What the bus inserts into messages: the grown message reads as the old one with the missing fields
//! behind it, and nothing else has changed. The same for a member that a client sets.
//!
//! The input is three texts and a document, with a zero byte behind each of the first three: the
//! sender's name, the time in microseconds, the room for the insertion in bytes. Numbers that are none
//! are 0. How inputs stand for names and documents is said in [`crate::notation`].

use bytes::Bytes;
use hermes_bus_proto::envelope::Insertion;
use hermes_bus_proto::object::Object;
use hermes_bus_proto::{EndpointName, Envelope, NameError};

use crate::notation::{self, expand};
use crate::reference::{self, Member, Opinion};

const ID: &str = "6b1f0d2e-0000-4000-8000-000000000000";
/// PROTOCOL.md: any JSON string up to 8 KiB of UTF-8.
const NAME_BYTES_MAX: usize = 8_192;

/// Inserts into the document in `input`.
pub fn check(input: &[u8]) {
    let mut parts = input.splitn(4, |byte| *byte == 0);
    let mut part = || parts.next().unwrap_or_default();
    let (name, unix_us, room, document) =
        (expand(part()), number(part()), number(part()), notation::document(part()));
    let name = String::from_utf8_lossy(&name);
    let Some(name_json) = name_as_json(&name) else { return };
    let Opinion::Object(members) = reference::read(&document) else { return };
    set(&document, &members, &name, &name_json);
    // Every message has a member.
    if !members.is_empty() {
        insert(
            &document,
            &members,
            unix_us,
            usize::try_from(room).unwrap_or(usize::MAX),
            &name_json,
        );
    }
}

fn number(text: &[u8]) -> u64 {
    str::from_utf8(text).ok().and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// A name that level 1 takes, as JSON; it reads as the name.
fn name_as_json(name: &str) -> Option<String> {
    let expected = if name.len() > NAME_BYTES_MAX {
        Err(NameError::TooLong(name.len()))
    } else if name.starts_with("bus.") {
        Err(NameError::Reserved)
    } else {
        Ok(name)
    };
    let taken = EndpointName::level_1(name);
    assert_eq!(taken.as_ref().map(EndpointName::as_str), expected.as_deref());
    let json = taken.ok()?.to_json();
    let object = format!("{{\"\":{json}}}");
    let members = reference::members(object.as_bytes());
    assert!(members.len() == 1 && members[0].value == json.as_bytes(), "{json}");
    assert_eq!(reference::characters(json.as_bytes()).as_deref(), Some(name.as_bytes()), "{json}");
    Some(json)
}

/// What the router does with a message of a registered session.
fn insert(document: &[u8], members: &[Member<'_>], unix_us: u64, room: usize, name_json: &str) {
    let envelope = Envelope::scan(document).expect("serde_json has accepted it");
    let mut inserted = b"left over".to_vec();
    let mut insertion = Insertion::start(&mut inserted);
    let mut fields = Vec::new();
    if envelope.id.is_none() {
        insertion.id(ID);
        fields.push(("id", format!("\"{ID}\"")));
    }
    if envelope.ts.is_none() {
        insertion.ts(unix_us);
        fields.push(("ts", format!("{}.{:06}", unix_us / 1_000_000, unix_us % 1_000_000)));
    }
    if envelope.from.is_none() {
        insertion.from_within(room, name_json);
        fields.push(("from", name_json.to_owned()));
    }
    let is_missing = |(key, _): &(&str, _)| reference::last(members, key).is_none();
    assert!(fields.iter().all(is_missing), "a field that is there was inserted");
    if envelope.from.is_none() {
        let whole: usize =
            fields.iter().map(|(key, value)| ", \"\": ".len() + key.len() + value.len()).sum();
        if whole > room {
            fields.pop();
        }
    }

    let (before, after) = document.split_at(envelope.closing_brace_at());
    let grown = [before, &inserted, after].concat();
    let grown_members = reference::members(&grown);
    let expected = members.iter().map(|member| (member.key.clone(), member.value));
    let fields = fields.iter().map(|(key, value)| (key.as_bytes().to_vec(), value.as_bytes()));
    let expected: Vec<_> = expected.chain(fields).collect();
    let found: Vec<_> =
        grown_members.into_iter().map(|member| (member.key, member.value)).collect();
    assert_eq!(found, expected, "{}", String::from_utf8_lossy(&grown));

    let again = Envelope::scan(&grown).expect("serde_json has accepted it");
    assert_eq!(again.closing_brace_at(), envelope.closing_brace_at() + inserted.len());
    assert!(again.id.is_some() && again.ts.is_some());
}

/// What clients do to a frame that they build.
fn set(document: &[u8], members: &[Member<'_>], key: &str, value_json: &str) {
    let object =
        Object::scan(Bytes::copy_from_slice(document)).expect("serde_json has accepted it");
    let grown = object.with(key, value_json);
    let mut expected: Vec<(&[u8], &[u8])> = Vec::new();
    let mut is_set = false;
    for member in members {
        if member.key != key.as_bytes() {
            expected.push((&member.key, member.value));
        } else if !is_set {
            expected.push((key.as_bytes(), value_json.as_bytes()));
            is_set = true;
        }
    }
    if !is_set {
        expected.push((key.as_bytes(), value_json.as_bytes()));
    }
    let found = reference::members(grown.as_bytes());
    let found: Vec<_> = found.iter().map(|member| (member.key.as_slice(), member.value)).collect();
    assert_eq!(found, expected, "{grown}");
}

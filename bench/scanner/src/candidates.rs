//! The scanner and the libraries, each doing the bus's job: the values of seven keys, nothing built.

use std::hint::black_box;

use hermes_bus_proto::Envelope;
use hermes_bus_proto::limits::NESTING_MAX;
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;
use simd_json::prelude::{TypedScalarValue, ValueAsScalar};
use simd_json::{INPUT_PADDING, Tape};
use sonic_rs::{LazyValue, PointerTree};

const KEYS: [&str; 7] = ["type", "to", "from", "id", "ts", "endpoint", "protocol"];

/// What a candidate saw of the key `to`; proves that it looked.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum To {
    Missing,
    Null,
    /// The last byte of its text.
    Text(u8),
    /// It did not look: it only checks.
    Unread,
}

impl To {
    fn raw(json: Option<&[u8]>) -> To {
        match json {
            None => To::Missing,
            Some(b"null") => To::Null,
            Some(json) => To::Text(json.iter().rev().nth(1).copied().unwrap_or(0)),
        }
    }
}

/// What a program keeps from one scan to the next.
pub struct Scratch {
    copy: Vec<u8>,
    buffers: simd_json::Buffers,
    tape: Tape<'static>,
    paths: PointerTree,
}

impl Scratch {
    pub fn new() -> Self {
        let mut paths = PointerTree::new();
        KEYS.iter().for_each(|key| paths.add_path(&[*key]));
        let buffers = simd_json::Buffers::with_max_depth(0, NESTING_MAX);
        Scratch { copy: Vec::new(), buffers, tape: Tape::null(), paths }
    }
}

pub type Scan = fn(&mut Scratch, &[u8]) -> Option<To>;

pub const CANDIDATES: [(&str, Scan); 9] = [
    ("ours", ours),
    ("serde_json derive", serde_json_derive),
    ("serde_json visitor", serde_json_visitor),
    ("serde_json IgnoredAny", serde_json_ignored),
    ("sonic-rs visitor", sonic_visitor),
    ("sonic-rs object_iter", sonic_object_iter),
    ("sonic-rs get_many", sonic_get_many),
    ("simd-json tape", simd_tape),
    ("simd-json borrowed", simd_borrowed),
];

fn ours(_: &mut Scratch, json: &[u8]) -> Option<To> {
    let envelope = black_box(Envelope::scan(json).ok()?);
    Some(To::raw(envelope.to.map(|to| to.as_bytes())))
}

/// What `#[derive(Deserialize)]` gives: a duplicate key is an error, `null` is a missing key.
#[derive(serde::Deserialize)]
struct Derived<'a> {
    #[serde(borrow, rename = "type")]
    _kind: Option<&'a RawValue>,
    #[serde(borrow)]
    to: Option<&'a RawValue>,
    #[serde(borrow, rename = "from")]
    _from: Option<&'a RawValue>,
    #[serde(borrow, rename = "id")]
    _id: Option<&'a RawValue>,
    #[serde(borrow, rename = "ts")]
    _ts: Option<&'a RawValue>,
    #[serde(borrow, rename = "endpoint")]
    _endpoint: Option<&'a RawValue>,
    #[serde(borrow, rename = "protocol")]
    _protocol: Option<&'a RawValue>,
}

/// serde_json looks at the UTF-8 only of strings that it hands out: the frame is checked before.
fn serde_json_derive(_: &mut Scratch, json: &[u8]) -> Option<To> {
    let text = std::str::from_utf8(json).ok()?;
    let found: Derived<'_> = black_box(serde_json::from_str(text).ok()?);
    Some(To::raw(found.to.map(|to| to.get().as_bytes())))
}

/// Raw values by [`KEYS`]; of a repeated key the last.
struct LastOfEach<V>([Option<V>; KEYS.len()]);

#[derive(serde::Deserialize)]
#[serde(field_identifier, rename_all = "lowercase")]
enum Key {
    Type,
    To,
    From,
    Id,
    Ts,
    Endpoint,
    Protocol,
    #[serde(other)]
    Other,
}

impl<'de, V: Deserialize<'de>> Deserialize<'de> for LastOfEach<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(LastOfEach([const { None }; KEYS.len()]))
    }
}

impl<'de, V: Deserialize<'de>> Visitor<'de> for LastOfEach<V> {
    type Value = Self;

    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<Self, A::Error> {
        while let Some(key) = map.next_key::<Key>()? {
            match key {
                Key::Other => drop(map.next_value::<IgnoredAny>()?),
                key => self.0[key as usize] = Some(map.next_value()?),
            }
        }
        Ok(self)
    }
}

fn serde_json_visitor(_: &mut Scratch, json: &[u8]) -> Option<To> {
    let text = std::str::from_utf8(json).ok()?;
    let found: LastOfEach<&RawValue> = black_box(serde_json::from_str(text).ok()?);
    Some(To::raw(found.0[1].map(|to| to.get().as_bytes())))
}

/// A floor: finds nothing, only checks.
fn serde_json_ignored(_: &mut Scratch, json: &[u8]) -> Option<To> {
    serde_json::from_slice::<IgnoredAny>(json).ok().map(|_| To::Unread)
}

fn sonic_visitor(_: &mut Scratch, json: &[u8]) -> Option<To> {
    let found: LastOfEach<LazyValue<'_>> = black_box(sonic_rs::from_slice(json).ok()?);
    Some(To::raw(found.0[1].as_ref().map(|to| to.as_raw_str().as_bytes())))
}

fn sonic_object_iter(_: &mut Scratch, json: &[u8]) -> Option<To> {
    let mut found: [Option<LazyValue<'_>>; KEYS.len()] = [const { None }; KEYS.len()];
    for member in sonic_rs::to_object_iter(json) {
        let (key, value) = member.ok()?;
        if let Some(index) = KEYS.iter().position(|wanted| *wanted == key) {
            found[index] = Some(value);
        }
    }
    Some(To::raw(black_box(found)[1].as_ref().map(|to| to.as_raw_str().as_bytes())))
}

fn sonic_get_many(scratch: &mut Scratch, json: &[u8]) -> Option<To> {
    let found = black_box(sonic_rs::get_many(json, &scratch.paths).ok()?);
    Some(To::raw(found[1].as_ref().map(|to| to.as_raw_str().as_bytes())))
}

fn simd_tape(scratch: &mut Scratch, json: &[u8]) -> Option<To> {
    scratch.copy.clear();
    scratch.copy.extend_from_slice(json);
    scratch.copy.resize(json.len() + INPUT_PADDING, 0);
    let mut tape = std::mem::replace(&mut scratch.tape, Tape::null()).reset();
    let (copy, buffers) = (&mut scratch.copy, &mut scratch.buffers);
    simd_json::fill_tape_padded(copy, json.len(), buffers, &mut tape).ok()?;
    let mut found = [None; KEYS.len()];
    for (key, value) in &tape.as_value().as_object()? {
        if let Some(index) = KEYS.iter().position(|wanted| *wanted == key) {
            found[index] = Some(value);
        }
    }
    let to = match black_box(found)[1] {
        None => To::Missing,
        Some(to) if to.is_null() => To::Null,
        Some(to) => To::Text(to.as_str()?.bytes().next_back().unwrap_or(0)),
    };
    scratch.tape = tape.reset();
    Some(to)
}

fn simd_borrowed(scratch: &mut Scratch, json: &[u8]) -> Option<To> {
    scratch.copy.clear();
    scratch.copy.extend_from_slice(json);
    let (copy, buffers) = (&mut scratch.copy, &mut scratch.buffers);
    let value = simd_json::to_borrowed_value_with_buffers(copy, buffers).ok()?;
    let simd_json::BorrowedValue::Object(object) = &value else { return None };
    let found = black_box(KEYS.map(|key| object.get(key)));
    Some(match found[1] {
        None => To::Missing,
        Some(to) if to.is_null() => To::Null,
        Some(to) => To::Text(to.as_str()?.bytes().next_back().unwrap_or(0)),
    })
}

//! Any bytes as a frame's payload: the scanner against [`crate::reference`]. Both accept the same
//! documents, and find the same values for the same keys.
//!
//! How inputs stand for documents is said in [`crate::notation`].

use bytes::Bytes;
use hermes_bus_proto::envelope::NotText;
use hermes_bus_proto::object::{self, Object, Shape};
use hermes_bus_proto::{Destination, Envelope, FrameError, Kind, Raw};

use crate::notation;
use crate::reference::{self, Member, Opinion};

/// Reads the document in `input`.
pub fn check(input: &[u8]) {
    let document = notation::document(input);
    let scanned = Envelope::scan(&document);
    let object = Object::scan(Bytes::copy_from_slice(&document));
    assert_eq!(scanned.as_ref().err(), object.as_ref().err());
    let opinion = reference::read(&document);
    if let Ok(text) = str::from_utf8(&document) {
        match (object::check_value(text), &opinion) {
            (Ok(Shape::Object), Opinion::Object(_))
            | (Ok(Shape::Other(_)), Opinion::NotAnObject)
            | (Err(FrameError::NotJson(_)), Opinion::NotJson) => {}
            (shape, opinion) => panic!("{opinion:?}, but {shape:?}: {text}"),
        }
    }
    match (opinion, scanned) {
        (Opinion::Object(members), Ok(envelope)) => {
            let object = object.expect("it was accepted as an envelope");
            compare(&document, &members, &envelope, &object);
        }
        (Opinion::NotText(at), Err(FrameError::NotJson(malformed))) if malformed.at == at => {}
        (Opinion::NotJson, Err(FrameError::NotJson(malformed))) => {
            assert!(malformed.at <= document.len(), "{malformed:?}");
        }
        (Opinion::NotAnObject, Err(FrameError::NotAnObject(_))) => {}
        (opinion, scanned) => panic!("{opinion:?}, but {scanned:?}: {:?}", show(&document)),
    }
}

fn compare(document: &[u8], members: &[Member<'_>], envelope: &Envelope<'_>, object: &Object) {
    let last = |key| reference::last(members, key);
    assert_eq!(Some(envelope.closing_brace_at()), document.iter().rposition(|byte| *byte == b'}'));
    assert_eq!(envelope.payload(), document);
    for (key, found) in [
        ("to", envelope.to),
        ("from", envelope.from),
        ("id", envelope.id),
        ("ts", envelope.ts),
        ("endpoint", envelope.endpoint),
        ("protocol", envelope.protocol),
    ] {
        assert_eq!(found.map(Raw::as_bytes), last(key), "{key:?} in {}", show(document));
    }
    assert_eq!(envelope.kind, kind(last("type")), "{}", show(document));
    let keys = members.iter().filter_map(|member| str::from_utf8(&member.key).ok());
    // Reading all members for each of many keys would make the target slow and find nothing more.
    for key in keys.take(8).chain(["", "no such key"]) {
        assert_eq!(
            envelope.member(key).map(Raw::as_bytes),
            last(key),
            "{key:?} in {}",
            show(document)
        );
        assert_eq!(object.get(key).map(Raw::as_bytes), last(key), "{key:?} in {}", show(document));
    }
    let destination = Destination::of(envelope.to);
    assert_eq!(destination, addressed_to(last("to")), "{}", show(document));
    for member in members.iter().take(8) {
        value(member.value);
    }
}

fn kind(value: Option<&[u8]>) -> Kind {
    match value.and_then(reference::characters).as_deref() {
        Some(b"message") => Kind::Message,
        Some(b"register") => Kind::Register,
        Some(b"ping") => Kind::Ping,
        Some(b"list_endpoints") => Kind::ListEndpoints,
        Some(b"admin") => Kind::Admin,
        _ => Kind::Unknown,
    }
}

/// What is asked of any value.
fn value(json: &[u8]) {
    let raw = Raw::new(json);
    let text = match reference::characters(json).map(String::from_utf8) {
        None => Err(NotText::OtherType),
        Some(Err(_)) => Err(NotText::LoneSurrogate),
        Some(Ok(text)) => Ok(text),
    };
    assert_eq!(raw.text().map(|text| text.into_owned()), text, "{}", show(json));
    assert_eq!(raw.is_false_in_python(), is_false_in_python(json), "{}", show(json));
    let is_container = matches!(json[0], b'[' | b'{');
    assert_eq!(raw.is_container(), is_container);
    // serde_json takes -0 for a float.
    let integer = if json == b"-0" { Some(0) } else { serde_json::from_slice(json).ok() };
    assert_eq!(raw.integer(), integer, "{}", show(json));
    if !is_container {
        // It is shown inside of an error's `detail`.
        let mut shown = b"\"".to_vec();
        raw.append_shown_by_python(&mut shown);
        shown.push(b'"');
        assert!(reference::characters(&shown).is_some(), "{}", show(&shown));
    }
}

/// PROTOCOL.md on `to`.
fn addressed_to(to: Option<&[u8]>) -> Destination<'static> {
    let Some(to) = to else { return Destination::Everyone };
    if is_false_in_python(to) {
        return Destination::Everyone;
    }
    match reference::characters(to).map(String::from_utf8) {
        Some(Ok(name)) => Destination::Endpoint(name.into()),
        Some(Err(_)) => Destination::Nobody,
        None if matches!(to[0], b'[' | b'{') => Destination::Invalid,
        None => Destination::Nobody,
    }
}

/// Python's truth table.
fn is_false_in_python(json: &[u8]) -> bool {
    match json[0] {
        b'n' | b'f' => true,
        b't' | b'N' | b'I' => false,
        b'"' => json.len() == 2,
        b'[' | b'{' => json[1..json.len() - 1].iter().all(|byte| b" \t\r\n".contains(byte)),
        _ => is_zero_in_python(str::from_utf8(json).expect("a number is ASCII")),
    }
}

/// Whether a number's text means 0: all its digits are, or it is a float too small for one. Reckoned
/// in decimal, so that no reader of floats is trusted.
fn is_zero_in_python(number: &str) -> bool {
    /// Half of the smallest float is 2.4703…e-324. What is not above it is read as 0.
    const HALF_OF_SMALLEST: &[u8] = b"24703282292062327208284396434110686182529901307162";
    const HALF_OF_SMALLEST_EXPONENT: i64 = -324;

    let number = number.strip_prefix('-').unwrap_or(number);
    if number == "Infinity" {
        return false;
    }
    let (mantissa, exponent) = number.split_once(['e', 'E']).unwrap_or((number, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = [whole, fraction].concat();
    let Some(first) = digits.bytes().position(|digit| digit != b'0') else { return true };
    // An exponent that does not fit is far away from every float.
    let is_negative = exponent.starts_with('-');
    let exponent =
        exponent.parse().unwrap_or(if is_negative { i64::MIN / 2 } else { i64::MAX / 2 });
    let exponent = exponent.saturating_add(whole.len() as i64 - 1 - first as i64);
    if exponent != HALF_OF_SMALLEST_EXPONENT {
        return exponent < HALF_OF_SMALLEST_EXPONENT;
    }
    // A number that agrees in all 50 places is above by its further ones, or not by chance.
    &digits.as_bytes()[first..] < HALF_OF_SMALLEST
}

fn show(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_float_that_is_too_small_is_zero() {
        for zero in
            ["0", "-0", "0.000e9", "0E999999999999999999999", "1e-999999999999999999999", "1e-325"]
        {
            assert!(is_zero_in_python(zero), "{zero}");
        }
        for zero in ["2.4703282292062327e-324", "0.00024703e-320", "24.7e-325", "-1e-9999"] {
            assert!(is_zero_in_python(zero), "{zero}");
        }
        for other in
            ["1", "-1e-323", "2.4703282292062328e-324", "5e-324", "1e400", "-Infinity", "0.1"]
        {
            assert!(!is_zero_in_python(other), "{other}");
        }
    }
}

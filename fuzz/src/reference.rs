//! What serde_json thinks of a document, corrected by the few rules that PROTOCOL.md takes from
//! Python's `json` module. Every other difference between it and the scanner is a finding.
//!
//! - `NaN`, `Infinity` and `-Infinity` are values.
//! - More than 950 levels of nesting are no JSON, nor are integers of more than 4,300 digits.
//! - Half of a surrogate pair is allowed in strings. (serde_json walks over it too, and gives such
//!   strings as bytes that are no UTF-8.)
//! - A number may be too large or too small for a float. (serde_json walks over it too.)
//!
//! The limits are written down once more here, because a check that shares a constant with what it
//! checks cannot see that it is wrong.

use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

const NESTING_MAX: usize = 950;
const INTEGER_DIGITS_MAX: usize = 4_300;

/// A member of an object.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Member<'a> {
    /// The key's characters. Half of a surrogate pair is three bytes that are no UTF-8.
    pub(crate) key: Vec<u8>,
    /// The value as it stands in the document.
    pub(crate) value: &'a [u8],
}

/// What a document is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Opinion<'a> {
    /// No text: the offset of the first byte that is not UTF-8.
    NotText(usize),
    /// No JSON that Python reads.
    NotJson,
    /// JSON, but not an object.
    NotAnObject,
    /// An object with these members, in their order, repetitions included.
    Object(Vec<Member<'a>>),
}

/// Reads a document.
pub(crate) fn read(document: &[u8]) -> Opinion<'_> {
    let text = match str::from_utf8(document) {
        Ok(text) => text,
        Err(error) => return Opinion::NotText(error.valid_up_to()),
    };
    let standard = without_python_numbers(text);
    // Keys are read without a look at control characters, so all is checked first.
    if serde_json::from_str::<IgnoredAny>(&standard).is_err() || is_beyond_python(text) {
        return Opinion::NotJson;
    }
    if !text.trim_start().starts_with('{') {
        return Opinion::NotAnObject;
    }
    let members: Members<'_> = serde_json::from_str(&standard).expect("it was read before");
    let place = |value: &str| {
        let start = value.as_ptr() as usize - standard.as_ptr() as usize;
        &document[start..start + value.len()]
    };
    let members = members.0.into_iter();
    Opinion::Object(
        members.map(|(key, value)| Member { key: key.0, value: place(value.get()) }).collect(),
    )
}

/// The members of an object that is known to be one.
pub(crate) fn members(document: &[u8]) -> Vec<Member<'_>> {
    match read(document) {
        Opinion::Object(members) => members,
        other => panic!("{other:?}: {:?}", String::from_utf8_lossy(document)),
    }
}

/// The last value of a key, which is the one that counts.
pub(crate) fn last<'a>(members: &[Member<'a>], key: &str) -> Option<&'a [u8]> {
    members.iter().rfind(|member| member.key == key.as_bytes()).map(|member| member.value)
}

/// The characters of a string, as those of a [`Member::key`]; nothing if the value is not a string.
pub(crate) fn characters(value: &[u8]) -> Option<Vec<u8>> {
    value.starts_with(b"\"").then(|| {
        let characters: Characters = serde_json::from_slice(value).expect("a string of a document");
        characters.0
    })
}

/// The same text with blanks for its strings, quotes included.
fn without_strings(text: &[u8]) -> Vec<u8> {
    let (mut is_inside, mut is_escaped) = (false, false);
    let blank = |byte: &u8| {
        let was_inside = is_inside;
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' if is_inside => is_escaped = true,
            b'"' => is_inside = !is_inside,
            _ => {}
        }
        if was_inside || is_inside { b' ' } else { *byte }
    };
    text.iter().map(blank).collect()
}

/// The same text with an empty array of the same length for every number that only Python knows:
/// an array may stand wherever a number may, and grows together with nothing before or behind it.
fn without_python_numbers(text: &str) -> String {
    let outside = without_strings(text.as_bytes());
    let mut standard = text.as_bytes().to_vec();
    let mut at = 0;
    while at < outside.len() {
        let words = [&b"-Infinity"[..], b"Infinity", b"NaN"];
        match words.iter().find(|word| outside[at..].starts_with(word)) {
            Some(word) => {
                let end = at + word.len();
                standard[at..end].fill(b' ');
                standard[at] = b'[';
                standard[end - 1] = b']';
                at = end;
            }
            None => at += 1,
        }
    }
    String::from_utf8(standard).expect("only ASCII was replaced, by ASCII")
}

/// Whether a well-formed text is nested too deeply for Python, or has an integer that is too long.
fn is_beyond_python(text: &str) -> bool {
    let outside = without_strings(text.as_bytes());
    let (mut depth, mut deepest) = (0_usize, 0);
    for byte in &outside {
        match byte {
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth -= 1,
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    let is_number = |byte: &u8| matches!(byte, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E');
    let is_long_integer = |number: &[u8]| {
        let digits = number.strip_prefix(b"-").unwrap_or(number);
        digits.len() > INTEGER_DIGITS_MAX && digits.iter().all(u8::is_ascii_digit)
    };
    deepest > NESTING_MAX || outside.split(|byte| !is_number(byte)).any(is_long_integer)
}

/// An object's members. serde_json's own maps forget their order and their repetitions.
struct Members<'a>(Vec<(Characters, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}

/// A string's characters, asked for as bytes: that is how serde_json gives halves of surrogate pairs.
struct Characters(Vec<u8>);

impl<'de> Deserialize<'de> for Characters {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AsBytes;
        impl Visitor<'_> for AsBytes {
            type Value = Characters;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Self::Value, E> {
                Ok(Characters(bytes.to_vec()))
            }
        }
        deserializer.deserialize_bytes(AsBytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn python_numbers_stand_wherever_values_do_and_nowhere_else() {
        for text in
            ["{\"a\":NaN}", "{\"a\": [-Infinity,Infinity , NaN]}", "{\"NaN\":\"-Infinity\"}"]
        {
            assert_eq!(members(text.as_bytes()).len(), 1, "{text}");
        }
        for text in
            ["{NaN:1}", "{\"a\":-NaN}", "{\"a\":1NaN}", "{\"a\":NaN1}", "{\"a\":--Infinity}"]
        {
            assert_eq!(read(text.as_bytes()), Opinion::NotJson, "{text}");
        }
    }

    #[test]
    fn members_come_in_their_order_with_their_own_text() {
        let text = br#" {"a": NaN , "\u0061":"\\\"","x\ud800":[ {} ]} "#;
        let members = members(text);
        let values: Vec<_> = members.iter().map(|member| member.value).collect();
        assert_eq!(values, [&b"NaN"[..], br#""\\\"""#, b"[ {} ]"]);
        assert_eq!((&members[0].key, &members[1].key), (&b"a".to_vec(), &b"a".to_vec()));
        assert_eq!(members[2].key, b"x\xed\xa0\x80");
        assert_eq!(last(&members, "a"), Some(&br#""\\\"""#[..]));
        assert_eq!(characters(members[1].value), Some(b"\\\"".to_vec()));
        assert_eq!(characters(b"[]"), None);
    }

    #[test]
    fn limits_are_those_of_python() {
        let nested = |levels| format!("{}1{}", "[".repeat(levels), "]".repeat(levels));
        assert_eq!(read(nested(950).as_bytes()), Opinion::NotAnObject);
        assert_eq!(read(nested(951).as_bytes()), Opinion::NotJson);
        let number = |digits, rest| format!("[-{}{rest}]", "7".repeat(digits));
        assert_eq!(read(number(4_300, "").as_bytes()), Opinion::NotAnObject);
        assert_eq!(read(number(4_301, "").as_bytes()), Opinion::NotJson);
        assert_eq!(read(number(4_301, "e1").as_bytes()), Opinion::NotAnObject);
        assert_eq!(read(number(4_301, ".0").as_bytes()), Opinion::NotAnObject);
    }
}

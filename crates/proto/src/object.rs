//! One JSON object, and all its top-level members: how clients read frames and put bodies together.
//!
//! What is accepted is what the bus accepts (see [`crate::envelope`]). Values are kept as the bytes
//! that came; nothing is parsed before somebody asks.

use alloc::borrow::Cow;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::ops::Range;

use bytes::Bytes;

use crate::envelope::Raw;
use crate::frame::FrameError;
use crate::json::Walker;
use crate::name::json_string;

/// An object's text with the places of its members. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Object {
    text: Bytes,
    members: Vec<Member>,
}

#[derive(Clone, Debug)]
struct Member {
    /// With its quotes.
    key: Range<usize>,
    value: Range<usize>,
}

impl Object {
    /// Reads an object. Refuses what is not one JSON object that Python's `json` module can read.
    pub fn scan(text: Bytes) -> Result<Self, FrameError> {
        let mut members = Vec::with_capacity(8);
        let place = |part: &[u8]| {
            let start = part.as_ptr() as usize - text.as_ptr() as usize;
            start..start + part.len()
        };
        let mut walker = Walker::at_object(&text)?;
        walker
            .members(|key, value| members.push(Member { key: place(key), value: place(value) }))
            .map_err(FrameError::NotJson)?;
        Ok(Object { text, members })
    }

    /// The object's text as it came.
    pub fn as_bytes(&self) -> &[u8] {
        &self.text
    }

    /// The value of a member. Of a repeated key the last one counts.
    pub fn get(&self, key: &str) -> Option<Raw<'_>> {
        let found = self.members.iter().rev().find(|member| self.is_named(member, key));
        found.map(|member| Raw::new(&self.text[member.value.clone()]))
    }

    /// The values of members that stand behind the last one with this key. The bus puts what it knows behind what a
    /// sender wrote, so that of what follows its `sender` nothing is the sender's.
    pub fn get_behind(&self, first: &str, key: &str) -> Option<Raw<'_>> {
        let at = self.members.iter().rposition(|member| self.is_named(member, first))?;
        let found = self.members[at..].iter().rev().find(|member| self.is_named(member, key));
        found.map(|member| Raw::new(&self.text[member.value.clone()]))
    }

    /// The value of a member that is a string of whole characters.
    pub fn text(&self, key: &str) -> Option<Cow<'_, str>> {
        self.get(key)?.text().ok()
    }

    /// The object's text with one member set: a new value in the old one's place, or a new last
    /// member. All other values keep their bytes.
    pub fn with(&self, key: &str, value_json: &str) -> String {
        let mut members = Vec::with_capacity(self.members.len() + 1);
        let mut is_set = false;
        for member in &self.members {
            let (name, value) = (&self.text[member.key.clone()], &self.text[member.value.clone()]);
            if !self.is_named(member, key) {
                members.push((utf8(name), utf8(value)));
            } else if !core::mem::replace(&mut is_set, true) {
                members.push((utf8(name), Cow::Borrowed(value_json)));
            }
        }
        if !is_set {
            members.push((Cow::Owned(json_string(key)), Cow::Borrowed(value_json)));
        }
        let members: Vec<_> =
            members.iter().map(|(key, value)| format!("{key}: {value}")).collect();
        format!("{{{}}}", members.join(", "))
    }

    fn is_named(&self, member: &Member, key: &str) -> bool {
        matches!(Raw::new(&self.text[member.key.clone()]).text(), Ok(name) if name == key)
    }
}

/// The elements of an array, as they stand in its text; `None` if the value is something else.
pub fn elements(value: Raw<'_>) -> Option<Vec<Raw<'_>>> {
    let mut walker = Walker::new(value.as_bytes());
    let mut elements = Vec::new();
    let is_array = walker.peek() == b'[';
    let walked = is_array.then(|| walker.elements(|element| elements.push(Raw::new(element))));
    walked?.ok().map(|()| elements)
}

/// Text that the scan has found to be UTF-8.
fn utf8(bytes: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}

/// Whether a text is one JSON value that Python's `json` module reads, and whether it is an object.
pub fn check_value(text: &str) -> Result<Shape, FrameError> {
    match Walker::at_object(text.as_bytes()) {
        Ok(mut walker) => {
            walker.members(|_, _| {}).map_err(FrameError::NotJson)?;
            Ok(Shape::Object)
        }
        Err(FrameError::NotAnObject(kind)) => Ok(Shape::Other(kind)),
        Err(error) => Err(error),
    }
}

/// What kind of JSON value a text holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// An object.
    Object,
    /// Anything else, with its article: "an array", "a number".
    Other(&'static str),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(text: &str) -> Object {
        Object::scan(Bytes::copy_from_slice(text.as_bytes())).unwrap()
    }

    fn value<'a>(object: &'a Object, key: &str) -> &'a str {
        std::str::from_utf8(object.get(key).unwrap().as_bytes()).unwrap()
    }

    #[test]
    fn members_are_found_as_they_came_and_the_last_of_a_name_counts() {
        let frame = object(r#" {"a" : 1.50, "b\u0063": [NaN, {"a": 2}] , "a":"\u00e9"} "#);
        assert_eq!(value(&frame, "bc"), "[NaN, {\"a\": 2}]");
        assert_eq!(value(&frame, "a"), r#""\u00e9""#);
        assert_eq!(frame.text("a").as_deref(), Some("é"));
        assert!(frame.get("c").is_none() && frame.text("bc").is_none());
        assert!(object("{}").get("a").is_none());
    }

    #[test]
    fn what_the_bus_puts_behind_is_told_from_what_was_there() {
        let frame = object(r#"{"via": "x", "sender": 1, "delivery": 9, "sender": {}, "seq": 3}"#);
        let behind = |key| frame.get_behind("sender", key).map(Raw::as_bytes);
        assert_eq!(behind("seq"), Some(&b"3"[..]));
        assert_eq!(behind("sender"), Some(&b"{}"[..]));
        assert_eq!((behind("delivery"), behind("via")), (None, None));
        assert!(object(r#"{"seq": 1}"#).get_behind("sender", "seq").is_none());
    }

    #[test]
    fn a_member_is_set_in_its_place_once_and_nothing_else_changes() {
        let body = object(r#"{"text":"x", "type" :"ack","n":1.0e0,"type":2, "\u0074ype":3}"#);
        assert_eq!(body.with("type", "\"done\""), r#"{"text": "x", "type": "done", "n": 1.0e0}"#);
        assert_eq!(object("{}").with("a b", "1"), r#"{"a b": 1}"#);
        assert_eq!(object(r#"{"x":{}}"#).with("y", "[]"), r#"{"x": {}, "y": []}"#);
    }

    #[test]
    fn an_array_is_taken_apart_and_its_elements_keep_their_bytes() {
        let frame = object(r#"{"a": [ {"b":1.0e0} ,NaN,"x,]" , [] ], "e": [ ], "o": {}}"#);
        let found = |key| {
            let elements = elements(frame.get(key).unwrap())?;
            let text = |raw: Raw<'_>| std::str::from_utf8(raw.as_bytes()).unwrap().to_owned();
            Some(elements.into_iter().map(text).collect::<Vec<_>>())
        };
        assert_eq!(found("a").unwrap(), [r#"{"b":1.0e0}"#, "NaN", r#""x,]""#, "[]"]);
        assert_eq!(found("e"), Some(Vec::new()));
        assert_eq!(found("o"), None);
    }

    #[test]
    fn a_value_is_told_by_its_shape() {
        assert_eq!(check_value(" {\"a\":1}\n"), Ok(Shape::Object));
        assert_eq!(check_value("[1]"), Ok(Shape::Other("an array")));
        assert_eq!(check_value("NaN"), Ok(Shape::Other("a number")));
        for wrong in ["", "{nope", "{\"a\":1} x", "[1", "\u{feff}{}", "{\"a\":}"] {
            assert!(matches!(check_value(wrong), Err(FrameError::NotJson(_))), "{wrong}");
        }
    }
}

//! What a level 2 session asks for when it takes its name.

use alloc::borrow::ToOwned;
use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use crate::ask::read_bool;
use crate::envelope::{Envelope, Raw};
use crate::limits::{IN_FLIGHT_DEFAULT, IN_FLIGHT_MAX, META_BYTES_MAX, SUBSCRIPTIONS_MAX};
use crate::{requests, topic};

/// What is to happen if the name is in use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Conflict {
    /// The new session gets the name, the old one is ended.
    #[default]
    Replace,
    /// The new session is refused (`name_taken`).
    Refuse,
    /// The new session gets the first free one of `name-2`, `name-3`, …
    Suffix,
}

impl Conflict {
    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Conflict::Replace => "replace",
            Conflict::Refuse => "refuse",
            Conflict::Suffix => "suffix",
        }
    }

    /// The mode that a word on the wire stands for.
    pub fn of(word: &str) -> Option<Self> {
        [Conflict::Replace, Conflict::Refuse, Conflict::Suffix]
            .into_iter()
            .find(|mode| mode.as_str() == word)
    }
}

/// The further keys of a level 2 `register`, with their defaults.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// `conflict`
    pub conflict: Conflict,
    /// `mailbox`
    pub mailbox: bool,
    /// `ack`
    pub ack: bool,
    /// `in_flight`: 1 to [`IN_FLIGHT_MAX`].
    pub in_flight: u32,
    /// `groups`, without `@`.
    pub groups: Vec<Box<str>>,
    /// `topics`, without `#`.
    pub topics: Vec<Box<str>>,
    /// `meta`: the JSON text of an object.
    pub meta: Option<Box<str>>,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            conflict: Conflict::Replace,
            mailbox: false,
            ack: false,
            in_flight: IN_FLIGHT_DEFAULT,
            groups: Vec::new(),
            topics: Vec::new(),
            meta: None,
        }
    }
}

impl Options {
    /// Reads them. The error says which field is wrong, and how it must be.
    pub fn read(envelope: &Envelope<'_>) -> Result<Options, String> {
        let mut options = Options::default();
        if let Some(value) = envelope.member("conflict") {
            let word = value.text().ok();
            options.conflict = word.and_then(|word| Conflict::of(&word)).ok_or_else(|| {
                "field 'conflict' must be 'replace', 'refuse' or 'suffix'".to_owned()
            })?;
        }
        for (field, option) in
            [("mailbox", &mut options.mailbox), ("ack", &mut options.ack)].into_iter()
        {
            if let Some(value) = envelope.member(field) {
                *option = read_bool(field, value).map_err(|error| error.to_string())?;
            }
        }
        if let Some(value) = envelope.member("in_flight") {
            let number = value.integer().and_then(|number| u32::try_from(number).ok());
            options.in_flight =
                number.filter(|number| (1..=IN_FLIGHT_MAX).contains(number)).ok_or_else(|| {
                    format!("field 'in_flight' must be a whole number from 1 to {IN_FLIGHT_MAX}")
                })?;
        }
        options.groups = read_groups(envelope.member("groups"))?;
        options.topics = read_topics(envelope.member("topics"))?;
        options.meta = envelope.member("meta").map(read_meta).transpose()?;
        if envelope.member("token").is_some_and(|token| token.text().is_err()) {
            return Err("field 'token' must be a string".to_owned());
        }
        requests::req(envelope).map_err(|error| error.to_string())?;
        Ok(options)
    }
}

/// Reads the `groups` of a request: none, if the key is missing.
pub fn read_groups(value: Option<Raw<'_>>) -> Result<Vec<Box<str>>, String> {
    read_list("groups", value, topic::group)
}

/// Reads the `topics` of a request: none, if the key is missing.
pub fn read_topics(value: Option<Raw<'_>>) -> Result<Vec<Box<str>>, String> {
    read_list("topics", value, topic::pattern)
}

fn read_list(
    field: &str,
    value: Option<Raw<'_>>,
    check: impl Fn(&str) -> Result<&str, topic::AddressError>,
) -> Result<Vec<Box<str>>, String> {
    let Some(value) = value else { return Ok(Vec::new()) };
    let texts: Vec<String> = serde_json::from_slice(value.as_bytes())
        .map_err(|_| format!("field '{field}' must be a list of strings"))?;
    if texts.len() > SUBSCRIPTIONS_MAX {
        return Err(format!("field '{field}' has more than {SUBSCRIPTIONS_MAX} entries"));
    }
    let mut read: Vec<Box<str>> = Vec::with_capacity(texts.len());
    for text in &texts {
        let name = check(text).map_err(|error| format!("field '{field}': {text:?} {error}"))?;
        if !read.iter().any(|known| **known == *name) {
            read.push(name.into());
        }
    }
    Ok(read)
}

fn read_meta(value: Raw<'_>) -> Result<Box<str>, String> {
    let json = value.as_bytes();
    let text = core::str::from_utf8(json).ok().filter(|_| json.first() == Some(&b'{'));
    let text = text.ok_or_else(|| "field 'meta' must be an object".to_owned())?;
    if text.len() > META_BYTES_MAX {
        return Err(format!("field 'meta' is over the limit of {META_BYTES_MAX} bytes"));
    }
    Ok(text.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(members: &str) -> Result<Options, String> {
        let json = format!("{{\"type\": \"register\"{members}}}");
        Options::read(&Envelope::scan(json.as_bytes()).expect("the members are JSON"))
    }

    #[test]
    fn the_defaults_are_those_of_the_protocol() {
        assert_eq!(read(""), Ok(Options::default()));
        assert_eq!(Options::default().in_flight, 64);
    }

    #[test]
    fn everything_can_be_said() {
        let options = read(
            r##", "conflict": "suffix", "mailbox": true, "ack": true, "in_flight": 8,
                "groups": ["@a", "b", "a"], "topics": ["#x.>", "y.*"], "meta": {"pid": 1}"##,
        );
        let list = |names: [&str; 2]| names.map(Box::from).to_vec();
        let expected = Options {
            conflict: Conflict::Suffix,
            mailbox: true,
            ack: true,
            in_flight: 8,
            groups: list(["a", "b"]),
            topics: list(["x.>", "y.*"]),
            meta: Some("{\"pid\": 1}".into()),
        };
        assert_eq!(options, Ok(expected));
    }

    #[test]
    fn a_wrong_value_is_named() {
        for (field, value) in [
            ("conflict", "\"fight\""),
            ("mailbox", "1"),
            ("ack", "\"true\""),
            ("in_flight", "0"),
            ("in_flight", "65537"),
            ("in_flight", "1.5"),
            ("groups", "\"a\""),
            ("groups", "[1]"),
            ("groups", "[\"\"]"),
            ("topics", "[\"a..b\"]"),
            ("meta", "[]"),
            ("token", "1"),
            ("token", "null"),
            ("req", "[1]"),
            ("req", "null"),
        ] {
            let error = read(&format!(", \"{field}\": {value}")).expect_err(value);
            assert!(error.contains(&format!("'{field}'")), "{error}");
        }
        let meta = format!(", \"meta\": {{\"a\": \"{}\"}}", "x".repeat(META_BYTES_MAX));
        assert!(read(&meta).expect_err("too long").contains("'meta'"));
    }
}

//! What a level 2 session asks for once it has its name: `ack`, `nack`, `subscribe`, `unsubscribe`,
//! `watch` and `trace`. Read strictly: an error says which field is wrong, and how it must be.

use alloc::borrow::ToOwned;
use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;
use core::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, IgnoredAny, SeqAccess, Visitor};

use crate::ask::{InvalidField, read_bool};
use crate::envelope::{Envelope, Raw};
use crate::limits::{ACK_ENTRIES_MAX, ECHOED_BYTES_MAX, REASON_BYTES_MAX};
use crate::register::{read_groups, read_topics};

/// Reads `req`, by which a peer tells the answers to its requests apart: a string or a number. One
/// over [`ECHOED_BYTES_MAX`] is not repeated in the answer.
pub fn req<'a>(envelope: &Envelope<'a>) -> Result<Option<Raw<'a>>, InvalidField> {
    match envelope.member("req") {
        Some(value) if !is_text_or_number(value) => {
            Err(InvalidField { field: "req", expected: "a string or a number" })
        }
        value => Ok(value),
    }
}

fn is_text_or_number(value: Raw<'_>) -> bool {
    value.finite_number().is_some() || matches!(value.as_bytes().first(), Some(b'"'))
}

/// Messages that a receiver confirms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ack {
    /// Those with these `seq`, in any order; [`ACK_ENTRIES_MAX`] at most.
    Seqs(Vec<u64>),
    /// All up to this `seq`.
    UpTo(u64),
    /// Those with these ids, which are strings; [`ACK_ENTRIES_MAX`] at most.
    Ids(Vec<Box<str>>),
}

impl Ack {
    /// Reads an `ack`: one of `seqs`, `up_to` and `ids`.
    pub fn read(envelope: &Envelope<'_>) -> Result<Ack, String> {
        match envelope.members(["seqs", "up_to", "ids"]) {
            [Some(seqs), None, None] => read_entries("seqs", "whole numbers", seqs).map(Ack::Seqs),
            [None, Some(up_to), None] => read_seq("up_to", Some(up_to)).map(Ack::UpTo),
            [None, None, Some(ids)] => read_entries("ids", "strings", ids).map(Ack::Ids),
            [None, None, None] => {
                Err("one of the fields 'seqs', 'up_to' and 'ids' must say what is confirmed"
                    .to_owned())
            }
            _ => Err("only one of the fields 'seqs', 'up_to' and 'ids' may be there".to_owned()),
        }
    }
}

/// A message that a receiver gives back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nack {
    /// Its `seq`.
    pub seq: u64,
    /// Why, in the receiver's words; [`REASON_BYTES_MAX`] at most.
    pub reason: Option<String>,
    /// Whether it is to come again. If not, it becomes a dead letter.
    pub requeue: bool,
}

impl Nack {
    /// Reads a `nack`. `requeue` is true where it is missing.
    pub fn read(envelope: &Envelope<'_>) -> Result<Nack, String> {
        let [seq, reason, requeue] = envelope.members(["seq", "reason", "requeue"]);
        let requeue = requeue.map(|value| read_bool("requeue", value)).transpose();
        Ok(Nack {
            seq: read_seq("seq", seq)?,
            reason: reason.map(read_reason).transpose()?,
            requeue: requeue.map_err(|error| error.to_string())?.unwrap_or(true),
        })
    }
}

fn read_seq(field: &'static str, value: Option<Raw<'_>>) -> Result<u64, String> {
    let number = value.and_then(Raw::whole_number);
    number.ok_or_else(|| InvalidField { field, expected: "a whole number from 0 on" }.to_string())
}

fn read_reason(value: Raw<'_>) -> Result<String, String> {
    let text = value.text().map_err(|_| "field 'reason' must be a string".to_owned())?;
    if text.len() > REASON_BYTES_MAX {
        return Err(format!("field 'reason' is over the limit of {REASON_BYTES_MAX} bytes"));
    }
    Ok(text.into_owned())
}

/// What a `subscribe` adds, or an `unsubscribe` takes away.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subscriptions {
    /// `topics`, without `#`.
    pub topics: Vec<Box<str>>,
    /// `groups`, without `@`.
    pub groups: Vec<Box<str>>,
}

impl Subscriptions {
    /// Reads them. With neither `topics` nor `groups`, it is only a question for what is held.
    pub fn read(envelope: &Envelope<'_>) -> Result<Subscriptions, String> {
        let [topics, groups] = envelope.members(["topics", "groups"]);
        Ok(Subscriptions { topics: read_topics(topics)?, groups: read_groups(groups)? })
    }
}

/// How much a watcher wants to see of what goes through the bus.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TapMode {
    /// Nothing.
    #[default]
    Off,
    /// Who writes to whom, and how much.
    Envelopes,
    /// The messages.
    Messages,
}

impl TapMode {
    /// Every mode.
    pub const ALL: [TapMode; 3] = [TapMode::Off, TapMode::Envelopes, TapMode::Messages];

    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            TapMode::Off => "none",
            TapMode::Envelopes => "envelopes",
            TapMode::Messages => "messages",
        }
    }

    /// The mode that a word on the wire stands for.
    pub fn of(word: &str) -> Option<Self> {
        TapMode::ALL.into_iter().find(|mode| mode.as_str() == word)
    }
}

/// What a session wants to see of others, from now on. It takes the place of what it has asked for
/// before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Watch {
    /// Whether it hears of endpoints that come and go.
    pub presence: bool,
    /// What it sees of messages.
    pub tap: TapMode,
}

impl Watch {
    /// Reads a `watch`. What is missing is not wanted.
    pub fn read(envelope: &Envelope<'_>) -> Result<Watch, InvalidField> {
        let [presence, tap] = envelope.members(["presence", "tap"]);
        let mut watch = Watch::default();
        if let Some(value) = presence {
            watch.presence = read_bool("presence", value)?;
        }
        if let Some(value) = tap {
            let mode = value.text().ok().and_then(|word| TapMode::of(&word));
            let expected = "'none', 'envelopes' or 'messages'";
            watch.tap = mode.ok_or(InvalidField { field: "tap", expected })?;
        }
        Ok(watch)
    }
}

/// Reads the `id` of a `trace`: that of the message, as it stood there; [`ECHOED_BYTES_MAX`] at most.
pub fn traced_id<'a>(envelope: &Envelope<'a>) -> Result<Raw<'a>, InvalidField> {
    let expected = "the id of a message: a string or a number, of at most 64 KiB";
    let is_one = |id: &Raw<'_>| is_text_or_number(*id) && id.as_bytes().len() <= ECHOED_BYTES_MAX;
    envelope.id.filter(is_one).ok_or(InvalidField { field: "id", expected })
}

/// Reads a list of at most [`ACK_ENTRIES_MAX`] entries. A longer one takes no more memory than that.
fn read_entries<'a, T: Deserialize<'a>>(
    field: &str,
    of_what: &str,
    value: Raw<'a>,
) -> Result<Vec<T>, String> {
    match serde_json::from_slice(value.as_bytes()) {
        Ok(Entries(Some(entries))) => Ok(entries),
        Ok(Entries(None)) => {
            Err(format!("field '{field}' has more than {ACK_ENTRIES_MAX} entries"))
        }
        Err(_) => Err(format!("field '{field}' must be a list of {of_what}")),
    }
}

/// A list, or `None` for one that is too long.
struct Entries<T>(Option<Vec<T>>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Entries<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(EntriesVisitor(PhantomData))
    }
}

struct EntriesVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for EntriesVisitor<T> {
    type Value = Entries<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let mut entries = Vec::new();
        while entries.len() < ACK_ENTRIES_MAX {
            let Some(entry) = list.next_element()? else { return Ok(Entries(Some(entries))) };
            entries.push(entry);
        }
        let mut is_all = true;
        while list.next_element::<IgnoredAny>()?.is_some() {
            is_all = false;
        }
        Ok(Entries(is_all.then_some(entries)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with<T>(members: &str, read: impl Fn(&Envelope<'_>) -> T) -> T {
        let json = format!("{{\"type\": \"x\"{members}}}");
        read(&Envelope::scan(json.as_bytes()).expect("the members are JSON"))
    }

    fn ack(members: &str) -> Result<Ack, String> {
        with(members, Ack::read)
    }

    #[test]
    fn an_ack_says_one_thing() {
        assert_eq!(
            ack(r#", "seqs": [3, 1, 18446744073709551615]"#),
            Ok(Ack::Seqs(vec![3, 1, u64::MAX]))
        );
        assert_eq!(ack(r#", "seqs": []"#), Ok(Ack::Seqs(vec![])));
        assert_eq!(ack(r#", "up_to": 18446744073709551615"#), Ok(Ack::UpTo(u64::MAX)));
        let ids = vec!["a".into(), "b\"c".into()];
        assert_eq!(ack(r#", "ids": ["a", "b\"c"]"#), Ok(Ack::Ids(ids)));
        for both in [r#", "seqs": [1], "up_to": 1"#, r#", "ids": ["a"], "seqs": null"#] {
            assert!(ack(both).expect_err(both).contains("only one of"), "{both}");
        }
        assert!(
            ack("").expect_err("nothing").contains("one of the fields 'seqs', 'up_to' and 'ids'")
        );
    }

    #[test]
    fn what_an_ack_says_is_of_the_right_type() {
        for (field, value) in [
            ("seqs", "1"),
            ("seqs", "[-1]"),
            ("seqs", "[1.0]"),
            ("seqs", "[\"1\"]"),
            ("seqs", "[18446744073709551616]"),
            ("up_to", "-1"),
            ("up_to", "\"1\""),
            ("up_to", "true"),
            ("up_to", "null"),
            ("ids", "\"a\""),
            ("ids", "[1]"),
            ("ids", "[null]"),
        ] {
            let error = ack(&format!(", \"{field}\": {value}")).expect_err(value);
            assert!(error.starts_with(&format!("field '{field}' must be")), "{error}");
        }
    }

    #[test]
    fn an_ack_has_a_length() {
        let list = |entry: &str, count: usize| vec![entry; count].join(", ");
        for (field, entry) in [("seqs", "1"), ("ids", "\"a\"")] {
            let of = |count| ack(&format!(", \"{field}\": [{}]", list(entry, count)));
            assert!(of(ACK_ENTRIES_MAX).is_ok(), "{field}");
            let error = of(ACK_ENTRIES_MAX + 1).expect_err("too long");
            assert_eq!(error, format!("field '{field}' has more than 65536 entries"));
        }
    }

    fn nack(members: &str) -> Result<Nack, String> {
        with(members, Nack::read)
    }

    #[test]
    fn a_nack_asks_for_the_message_again_unless_it_says_otherwise() {
        assert_eq!(nack(r#", "seq": 7"#), Ok(Nack { seq: 7, reason: None, requeue: true }));
        let reason = Some("no disk".to_owned());
        assert_eq!(
            nack(r#", "requeue": false, "reason": "no disk", "seq": 0"#),
            Ok(Nack { seq: 0, reason, requeue: false })
        );
        let long = format!(", \"seq\": 1, \"reason\": \"{}\"", "x".repeat(REASON_BYTES_MAX));
        assert!(nack(&long).is_ok());
        for (field, members) in [
            ("seq", ""),
            ("seq", r#", "seq": "7""#),
            ("requeue", r#", "seq": 7, "requeue": 0"#),
            ("reason", r#", "seq": 7, "reason": ["x"]"#),
            ("reason", r#", "seq": 7, "reason": "\ud800""#),
            ("reason", &long.replace("xxx\"", "xxxx\"")),
        ] {
            let error = nack(members).expect_err(field);
            assert!(error.starts_with(&format!("field '{field}' ")), "{error}");
        }
    }

    #[test]
    fn subscriptions_are_patterns_and_groups() {
        let read = |members: &str| with(members, Subscriptions::read);
        assert_eq!(read(""), Ok(Subscriptions::default()));
        assert_eq!(
            read(r##", "groups": ["@a"], "topics": ["#b.>", "b.*"]"##),
            Ok(Subscriptions {
                topics: vec!["b.>".into(), "b.*".into()],
                groups: vec!["a".into()]
            })
        );
        assert!(read(r#", "topics": ["a.>.b"]"#).expect_err("no pattern").contains("'topics'"));
        assert!(read(r#", "groups": {}"#).expect_err("no list").contains("'groups'"));
    }

    #[test]
    fn a_watch_says_what_it_wants() {
        let read = |members: &str| with(members, Watch::read);
        assert_eq!(read(""), Ok(Watch::default()));
        for mode in TapMode::ALL {
            let members = format!(", \"presence\": true, \"tap\": \"{}\"", mode.as_str());
            assert_eq!(read(&members), Ok(Watch { presence: true, tap: mode }));
        }
        for (field, value) in
            [("presence", "1"), ("presence", "null"), ("tap", "true"), ("tap", "\"all\"")]
        {
            let error = read(&format!(", \"{field}\": {value}")).expect_err(value);
            assert_eq!(error.field, field);
        }
    }

    #[test]
    fn a_trace_names_a_message_and_a_question_may_have_a_name() {
        let id = |members: &str| {
            with(members, |envelope| traced_id(envelope).map(|id| id.as_bytes().to_vec()))
        };
        assert_eq!(id(r#", "id": "a\u0062""#), Ok(br#""a\u0062""#.to_vec()));
        assert_eq!(id(r#", "id": -1.5e3"#), Ok(b"-1.5e3".to_vec()));
        for members in
            ["", r#", "id": null"#, r#", "id": ["a"]"#, r#", "id": NaN"#, r#", "id": true"#]
        {
            assert_eq!(id(members).map_err(|error| error.field), Err("id"), "{members}");
        }
        let long = format!(", \"id\": \"{}\"", "x".repeat(ECHOED_BYTES_MAX));
        assert_eq!(id(&long).map_err(|error| error.field), Err("id"));
        let name = |members: &str| {
            with(members, |envelope| {
                req(envelope).map(|req| req.map(|req| req.as_bytes().to_vec()))
            })
        };
        assert_eq!(name(""), Ok(None));
        assert_eq!(name(r#", "req": 5"#), Ok(Some(b"5".to_vec())));
        assert_eq!(name(r#", "req": "5""#), Ok(Some(b"\"5\"".to_vec())));
        assert_eq!(name(r#", "req": {}"#).map_err(|error| error.field), Err("req"));
    }
}

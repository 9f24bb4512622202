//! What may be written for a key, where its value is kept, and how it is shown again.

use std::path::Path;
use std::time::Duration;

use super::Settings;
use super::access::{self, Protected};
use super::error::Fault;
use super::lists::{LIST_MAX, read_levels, read_names, read_users};
use super::scalars::{
    level_words, parse_bytes, parse_count, parse_switch, parse_time, parse_word, quoted,
    written_bytes, written_level, written_time,
};
use super::yaml::{Content, Node};
use crate::logging::Level;

/// Where a value is kept in the settings.
#[derive(Debug)]
pub(super) struct Field<T> {
    pub(super) get: fn(&Settings) -> T,
    pub(super) set: fn(&mut Settings, T),
}

/// What may be written for a key, within which range, and where it is kept.
#[derive(Debug)]
pub(super) enum Kind {
    Time {
        min: Duration,
        max: Duration,
        field: Field<Duration>,
    },
    Bytes {
        min: u64,
        max: u64,
        field: Field<u64>,
    },
    Count {
        min: u64,
        max: u64,
        field: Field<u64>,
    },
    BytesOrOff {
        min: u64,
        max: u64,
        field: Field<Option<u64>>,
    },
    CountOrOff {
        min: u64,
        max: u64,
        field: Field<Option<u64>>,
    },
    Switch(Field<bool>),
    /// One of some words; kept as its index.
    Word {
        words: &'static [&'static str],
        field: Field<usize>,
    },
    Users(Field<Vec<u32>>),
    /// Names of endpoints.
    Names(Field<Vec<String>>),
    Levels(Field<Vec<(String, Level)>>),
    Protected(Field<Vec<Protected>>),
}

/// Where values come from matters for what may be in them.
pub(super) struct Context<'a> {
    /// Whether secrets may be written down there; else why not.
    pub(super) secrets: Result<(), &'static str>,
    /// Reads a token file.
    pub(super) read_token: &'a dyn Fn(&Path) -> Result<String, String>,
}

impl Kind {
    /// Puts the value of `node` into the settings. With faults nothing is changed.
    pub(super) fn read(
        &self,
        node: &Node,
        context: &Context<'_>,
        settings: &mut Settings,
    ) -> Result<(), Vec<Fault>> {
        let one = |what: String| vec![Fault::new(node.at, what)];
        match self {
            Kind::Time { min, max, field } => {
                let time = parse_time(self.text(node).map_err(one)?).map_err(one)?;
                within(time, *min, *max, written_time).map_err(one)?;
                (field.set)(settings, time);
            }
            Kind::Bytes { min, max, field } => {
                let bytes = parse_bytes(self.text(node).map_err(one)?).map_err(one)?;
                within(bytes, *min, *max, written_bytes).map_err(one)?;
                (field.set)(settings, bytes);
            }
            Kind::Count { min, max, field } => {
                let count = parse_count(self.text(node).map_err(one)?).map_err(one)?;
                within(count, *min, *max, |count| count.to_string()).map_err(one)?;
                (field.set)(settings, count);
            }
            Kind::BytesOrOff { min, max, field } => {
                let bytes = or_off(node, || {
                    let bytes = parse_bytes(self.text(node)?)?;
                    within(bytes, *min, *max, written_bytes)
                });
                (field.set)(settings, bytes.map_err(one)?);
            }
            Kind::CountOrOff { min, max, field } => {
                let count = or_off(node, || {
                    let count = parse_count(self.text(node)?)?;
                    within(count, *min, *max, |count| count.to_string())
                });
                (field.set)(settings, count.map_err(one)?);
            }
            Kind::Switch(field) => {
                (field.set)(settings, parse_switch(self.text(node).map_err(one)?).map_err(one)?);
            }
            Kind::Word { words, field } => {
                let word = parse_word(self.text(node).map_err(one)?, words).map_err(one)?;
                (field.set)(settings, word);
            }
            Kind::Users(field) => (field.set)(settings, read_users(node)?),
            Kind::Names(field) => (field.set)(settings, read_names(node)?),
            Kind::Levels(field) => (field.set)(settings, read_levels(node)?),
            Kind::Protected(field) => {
                (field.set)(settings, access::read_protected(node, context)?);
            }
        }
        Ok(())
    }

    fn text<'n>(&self, node: &'n Node) -> Result<&'n str, String> {
        match &node.content {
            Content::Text(text) => Ok(text),
            _ => Err(format!("must be {}, not {}", self.written_form(), node.kind())),
        }
    }

    /// What is to be written, in a few words.
    pub(super) fn written_form(&self) -> String {
        match self {
            Kind::Time { .. } => "a time (90s, 700ms, 2m, or a number of seconds)".to_owned(),
            Kind::Bytes { .. } => "a size (16MiB, 64kB, or a number of bytes)".to_owned(),
            Kind::Count { .. } => "a whole number".to_owned(),
            Kind::BytesOrOff { .. } => {
                "a size (16MiB, 64kB, or a number of bytes) or off".to_owned()
            }
            Kind::CountOrOff { .. } => "a whole number or off".to_owned(),
            Kind::Switch(_) => "on or off".to_owned(),
            Kind::Word { words, .. } => format!("one of {}", words.join(", ")),
            Kind::Users(_) => "a list of user ids ([1000, 1001])".to_owned(),
            Kind::Names(_) => "a list of names ([worker, lead])".to_owned(),
            Kind::Levels(_) => {
                format!("a mapping of log targets to one of {}", level_words().join(", "))
            }
            Kind::Protected(_) => {
                "a list of mappings with name, uid, and token or token_file".to_owned()
            }
        }
    }

    /// The least and the largest value; empty where there is no such thing.
    pub(super) fn range(&self) -> String {
        match self {
            Kind::Time { min, max, .. } => {
                format!("{} to {}", written_time(*min), written_time(*max))
            }
            Kind::Bytes { min, max, .. } | Kind::BytesOrOff { min, max, .. } => {
                format!("{} to {}", written_bytes(*min), written_bytes(*max))
            }
            Kind::Count { min, max, .. } | Kind::CountOrOff { min, max, .. } => {
                format!("{min} to {max}")
            }
            Kind::Switch(_) | Kind::Word { .. } => String::new(),
            Kind::Users(_) | Kind::Names(_) | Kind::Levels(_) | Kind::Protected(_) => {
                format!("at most {LIST_MAX}")
            }
        }
    }

    /// The value as it may be written in a file, on one line. Secrets are left out.
    pub(super) fn written(&self, settings: &Settings) -> String {
        let or_off = |value: Option<String>| value.unwrap_or_else(|| "off".to_owned());
        match self {
            Kind::Time { field, .. } => written_time((field.get)(settings)),
            Kind::Bytes { field, .. } => written_bytes((field.get)(settings)),
            Kind::Count { field, .. } => (field.get)(settings).to_string(),
            Kind::BytesOrOff { field, .. } => or_off((field.get)(settings).map(written_bytes)),
            Kind::CountOrOff { field, .. } => {
                or_off((field.get)(settings).map(|count| count.to_string()))
            }
            Kind::Switch(field) => if (field.get)(settings) { "on" } else { "off" }.to_owned(),
            Kind::Word { words, field } => words[(field.get)(settings)].to_owned(),
            Kind::Users(field) => {
                let users: Vec<String> =
                    (field.get)(settings).iter().map(ToString::to_string).collect();
                format!("[{}]", users.join(", "))
            }
            Kind::Names(field) => {
                let names: Vec<String> =
                    (field.get)(settings).iter().map(|name| quoted(name)).collect();
                format!("[{}]", names.join(", "))
            }
            Kind::Levels(field) => {
                let written = |(target, level): &(String, Level)| {
                    format!("{}: {}", quoted(target), written_level(*level))
                };
                let levels: Vec<String> = (field.get)(settings).iter().map(written).collect();
                format!("{{{}}}", levels.join(", "))
            }
            Kind::Protected(field) => {
                let names: Vec<String> =
                    (field.get)(settings).iter().map(Protected::written).collect();
                format!("[{}]", names.join(", "))
            }
        }
    }

    /// The value for programs: times in seconds, sizes in bytes. Secrets are left out.
    pub(super) fn json(&self, settings: &Settings) -> serde_json::Value {
        use serde_json::json;
        match self {
            Kind::Time { field, .. } => json!((field.get)(settings).as_secs_f64()),
            Kind::Bytes { field, .. } | Kind::Count { field, .. } => json!((field.get)(settings)),
            Kind::BytesOrOff { field, .. } | Kind::CountOrOff { field, .. } => {
                json!((field.get)(settings))
            }
            Kind::Switch(field) => json!((field.get)(settings)),
            Kind::Word { .. } => json!(self.written(settings)),
            Kind::Users(field) => json!((field.get)(settings)),
            Kind::Names(field) => json!((field.get)(settings)),
            Kind::Levels(field) => (field.get)(settings)
                .into_iter()
                .map(|(target, level)| (target, json!(written_level(level))))
                .collect::<serde_json::Map<_, _>>()
                .into(),
            Kind::Protected(field) => {
                (field.get)(settings).iter().map(Protected::json).collect::<Vec<_>>().into()
            }
        }
    }

    /// The value as a number that can be compared with others of its kind: nanoseconds or bytes.
    pub(super) fn magnitude(&self, settings: &Settings) -> Option<u128> {
        match self {
            Kind::Time { field, .. } => Some((field.get)(settings).as_nanos()),
            Kind::Bytes { field, .. } | Kind::Count { field, .. } => {
                Some((field.get)(settings).into())
            }
            _ => None,
        }
    }

    /// Whether two configurations have the same value.
    pub(super) fn is_same(&self, one: &Settings, other: &Settings) -> bool {
        match self {
            Kind::Time { field, .. } => (field.get)(one) == (field.get)(other),
            Kind::Bytes { field, .. } | Kind::Count { field, .. } => {
                (field.get)(one) == (field.get)(other)
            }
            Kind::BytesOrOff { field, .. } | Kind::CountOrOff { field, .. } => {
                (field.get)(one) == (field.get)(other)
            }
            Kind::Switch(field) => (field.get)(one) == (field.get)(other),
            Kind::Word { field, .. } => (field.get)(one) == (field.get)(other),
            Kind::Users(field) => (field.get)(one) == (field.get)(other),
            Kind::Names(field) => (field.get)(one) == (field.get)(other),
            Kind::Levels(field) => (field.get)(one) == (field.get)(other),
            Kind::Protected(field) => (field.get)(one) == (field.get)(other),
        }
    }

    /// Gives `to` the value that `from` has.
    pub(super) fn copy(&self, from: &Settings, to: &mut Settings) {
        match self {
            Kind::Time { field, .. } => (field.set)(to, (field.get)(from)),
            Kind::Bytes { field, .. } | Kind::Count { field, .. } => {
                (field.set)(to, (field.get)(from));
            }
            Kind::BytesOrOff { field, .. } | Kind::CountOrOff { field, .. } => {
                (field.set)(to, (field.get)(from));
            }
            Kind::Switch(field) => (field.set)(to, (field.get)(from)),
            Kind::Word { field, .. } => (field.set)(to, (field.get)(from)),
            Kind::Users(field) => (field.set)(to, (field.get)(from)),
            Kind::Names(field) => (field.set)(to, (field.get)(from)),
            Kind::Levels(field) => (field.set)(to, (field.get)(from)),
            Kind::Protected(field) => (field.set)(to, (field.get)(from)),
        }
    }
}

/// `off` or no value at all means none.
fn or_off<T>(node: &Node, read: impl FnOnce() -> Result<T, String>) -> Result<Option<T>, String> {
    match &node.content {
        Content::Null => Ok(None),
        Content::Text(text) if text.eq_ignore_ascii_case("off") => Ok(None),
        _ => read().map(Some),
    }
}

fn within<T: PartialOrd + Copy>(
    value: T,
    min: T,
    max: T,
    written: impl Fn(T) -> String,
) -> Result<T, String> {
    if value < min {
        Err(format!("{} is under the least value, {}", written(value), written(min)))
    } else if value > max {
        Err(format!("{} is over the largest value, {}", written(value), written(max)))
    } else {
        Ok(value)
    }
}

//! The text of `hooks.yaml`. Released versions read it line by line: every line `- PATH` names a hook,
//! all others say nothing. That is how it is read here too, unless an entry is a mapping: then it is
//! YAML, and read as such.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fmt;
use std::time::Duration;

use hermes_bus_client::nearest;
use hermes_bus_proto::Pattern;
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

use super::hook::{Filter, Hook};
use super::resolve::{Environment, trim_text};

/// The longest that an entry may let its hook run: a week, in seconds.
pub const TIMEOUT_S_MAX: f64 = 604_800.0;

/// The keys of an entry, and those of its `match`.
const ENTRY_KEYS: [&str; 6] = ["path", "args", "match", "timeout_s", "concurrency", "env"];
const MATCH_KEYS: [&str; 3] = ["to", "from", "type"];

/// What a file names.
#[derive(Debug, Default)]
pub(super) struct Entries {
    pub(super) hooks: Vec<Hook>,
    pub(super) errors: Vec<Remark>,
    pub(super) warnings: Vec<Remark>,
}

/// Something to say about a file. Shown behind its path: `:3:5: text`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Remark {
    /// Line and column, both from 1.
    place: Option<(u64, u64)>,
    text: String,
}

impl Remark {
    fn at(location: serde_saphyr::Location, text: String) -> Self {
        let (line, column) = (location.line(), location.column());
        Remark { place: (line > 0).then_some((line, column)), text }
    }
}

impl fmt::Display for Remark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.place {
            Some((line, column)) => write!(f, ":{line}:{column}: {}", self.text),
            None => write!(f, ": {}", self.text),
        }
    }
}

/// Reads the text of a file.
pub(super) fn read(text: &str, environment: &Environment) -> Entries {
    let lines = line_by_line(text);
    match parse(text) {
        Ok(document) if document.has_mappings() => document.entries(environment),
        Err(fault) if lines.iter().any(|line| begins_mapping(line)) => {
            Entries { errors: vec![fault], ..Entries::default() }
        }
        parsed => {
            let mut entries = Entries::default();
            if lines.is_empty() && parsed.is_ok_and(|document| !document.list.is_empty()) {
                let text = "no hook is run: each must stand on a line of its own, '- PATH'";
                entries.warnings.push(Remark { place: None, text: text.to_owned() });
            }
            let paths = lines.into_iter().map(|line| environment.expand(OsStr::new(line)));
            entries.hooks.extend(paths.map(Hook::at));
            entries
        }
    }
}

/// The paths of lines that are `- PATH`, without the quotes around them.
fn line_by_line(text: &str) -> Vec<&str> {
    // A carriage return ends a line too, by itself or before a line feed.
    let lines = text.split(['\n', '\r']).map(trim_text);
    let paths = lines.filter_map(|line| line.strip_prefix("- ")).map(trim_text);
    paths.map(|path| path.trim_matches(['"', '\''])).collect()
}

/// Whether a line's text can only be meant as the first line of a mapping.
fn begins_mapping(line: &str) -> bool {
    let key = line.split_once(':').filter(|(_, value)| value.is_empty() || value.starts_with(' '));
    key.is_some_and(|(key, _)| ENTRY_KEYS.contains(&key.trim_end()))
}

// ---- YAML -------------------------------------------------------------------------------------------

/// Any YAML value, with the places of what is in it.
enum Node {
    Nothing,
    Text(String),
    Number(f64),
    Truth,
    List(Vec<Spanned<Node>>),
    Mapping(Vec<(Spanned<Node>, Spanned<Node>)>),
}

impl Node {
    /// What it is, with its article.
    fn kind(&self) -> &'static str {
        match self {
            Node::Nothing => "nothing",
            Node::Text(_) => "a text",
            Node::Number(_) => "a number",
            Node::Truth => "a truth value",
            Node::List(_) => "a list",
            Node::Mapping(_) => "a mapping",
        }
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Nothing)
    }

    fn visit_none<E>(self) -> Result<Node, E> {
        Ok(Node::Nothing)
    }

    fn visit_some<D: Deserializer<'de>>(self, value: D) -> Result<Node, D::Error> {
        value.deserialize_any(self)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Node, E> {
        Ok(Node::Truth)
    }

    fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
        Ok(Node::Number(value as f64))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Node, E> {
        Ok(Node::Number(value as f64))
    }

    fn visit_i128<E>(self, value: i128) -> Result<Node, E> {
        Ok(Node::Number(value as f64))
    }

    fn visit_u128<E>(self, value: u128) -> Result<Node, E> {
        Ok(Node::Number(value as f64))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Node, E> {
        Ok(Node::Number(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Node, E> {
        Ok(Node::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Node, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = list.next_element()? {
            items.push(item);
        }
        Ok(Node::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut mapping: A) -> Result<Node, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = mapping.next_entry()? {
            entries.push(entry);
        }
        Ok(Node::Mapping(entries))
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

/// A file as YAML: its list of hooks, which is all of it or stands under `hooks`.
#[derive(Default)]
struct Document {
    list: Vec<Spanned<Node>>,
    /// The other keys of the file.
    other_keys: Vec<Remark>,
}

fn parse(text: &str) -> Result<Document, Remark> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let options = serde_saphyr::options! { with_snippet: false };
    let node = serde_saphyr::from_str_with_options::<Option<Node>>(text, options)
        .map_err(|error| syntax_error(&error))?;
    let mut document = Document::default();
    match node {
        Some(Node::List(list)) => document.list = list,
        Some(Node::Mapping(members)) => {
            for (key, value) in members {
                match (key.value, value.value) {
                    (Node::Text(name), Node::List(list)) if name == "hooks" => document.list = list,
                    (Node::Text(name), _) if name == "hooks" => {}
                    (Node::Text(name), _) => {
                        let text = format!("'{name}' says nothing here; hooks stand under 'hooks'");
                        document.other_keys.push(Remark::at(key.referenced, text));
                    }
                    _ => {}
                }
            }
        }
        _ => {}
    }
    Ok(document)
}

fn syntax_error(error: &serde_saphyr::Error) -> Remark {
    let text = error.without_snippet().to_string();
    // The position is told in our own words; the library appends its own to some messages.
    let reason = text.lines().next().and_then(|line| line.split(" at line ").next());
    let text = format!("no valid YAML, no hook is run: {}", reason.unwrap_or_default().trim_end());
    match error.location() {
        Some(location) => Remark::at(location, text),
        None => Remark { place: None, text },
    }
}

impl Document {
    fn has_mappings(&self) -> bool {
        self.list.iter().any(|item| matches!(item.value, Node::Mapping(_)))
    }

    fn entries(self, environment: &Environment) -> Entries {
        let mut entries = Entries { warnings: self.other_keys, ..Entries::default() };
        for item in self.list {
            match entry(item, environment) {
                Ok(hook) => entries.hooks.push(hook),
                Err(error) => entries.errors.push(error),
            }
        }
        entries
    }
}

fn entry(item: Spanned<Node>, environment: &Environment) -> Result<Hook, Remark> {
    let place = item.referenced;
    let members = match item.value {
        Node::Text(path) => return Ok(Hook::at(environment.expand(path.as_ref()))),
        Node::Mapping(members) => members,
        other => {
            let text = format!("an entry must be a path or a mapping, but is {}", other.kind());
            return Err(not_run(place, text));
        }
    };
    let mut hook = Hook::at("");
    let mut has_path = false;
    for (key, value) in known(members, &ENTRY_KEYS)? {
        match key {
            "path" => {
                hook.path = environment.expand(text(key, value)?.as_ref());
                has_path = true;
            }
            "args" => hook.args = arguments(key, value)?,
            "match" => hook.filter = filter(value)?,
            "timeout_s" => hook.timeout = Some(timeout(key, value)?),
            "concurrency" => hook.concurrency = Some(concurrency(key, value)?),
            _ => hook.env = variables(key, value)?,
        }
    }
    if has_path { Ok(hook) } else { Err(not_run(place, "the entry has no 'path'".to_owned())) }
}

fn not_run(location: serde_saphyr::Location, text: String) -> Remark {
    Remark::at(location, format!("{text}; this hook is not run"))
}

fn wrong(key: &str, must: &str, value: &Spanned<Node>) -> Remark {
    let quotes = match value.value {
        Node::Number(_) | Node::Truth if must.contains("text") => " (put it in quotes)",
        _ => "",
    };
    let text = format!("'{key}' must be {must}, but is {}{quotes}", value.value.kind());
    not_run(value.referenced, text)
}

/// The members of a mapping, whose keys must be among `keys`, each at most once.
fn known(
    members: Vec<(Spanned<Node>, Spanned<Node>)>,
    keys: &'static [&'static str],
) -> Result<Vec<(&'static str, Spanned<Node>)>, Remark> {
    let known_member = |(key, value): (Spanned<Node>, Spanned<Node>)| {
        let Node::Text(name) = &key.value else {
            let text = format!("a key must be a text, but is {}", key.value.kind());
            return Err(not_run(key.referenced, text));
        };
        match keys.iter().find(|known| *known == name) {
            Some(known) => Ok((*known, value)),
            None => Err(not_run(key.referenced, unknown_key(name, keys))),
        }
    };
    members.into_iter().map(known_member).collect()
}

fn unknown_key(name: &str, keys: &[&str]) -> String {
    match nearest(name, keys.iter().copied()).first() {
        Some(key) => format!("unknown key '{name}': did you mean '{key}'?"),
        None => format!("unknown key '{name}': there are {}", keys.join(", ")),
    }
}

fn text(key: &str, value: Spanned<Node>) -> Result<String, Remark> {
    match value.value {
        Node::Text(text) if !text.contains('\0') => Ok(text),
        Node::Text(_) => {
            Err(not_run(value.referenced, format!("'{key}' has a zero character in it")))
        }
        _ => Err(wrong(key, "a text", &value)),
    }
}

fn arguments(key: &str, value: Spanned<Node>) -> Result<Vec<String>, Remark> {
    match value.value {
        Node::List(items) => items.into_iter().map(|item| text(key, item)).collect(),
        _ => Err(wrong(key, "a list of texts", &value)),
    }
}

fn filter(value: Spanned<Node>) -> Result<Filter, Remark> {
    let Node::Mapping(members) = value.value else {
        return Err(wrong("match", "a mapping with 'to', 'from' or 'type'", &value));
    };
    let mut filter = Filter::default();
    for (key, value) in known(members, &MATCH_KEYS)? {
        let patterns = Some(patterns(key, value)?);
        match key {
            "to" => filter.to = patterns,
            "from" => filter.from = patterns,
            _ => filter.body_type = patterns,
        }
    }
    Ok(filter)
}

fn patterns(key: &str, value: Spanned<Node>) -> Result<Vec<Pattern>, Remark> {
    match value.value {
        Node::Text(text) => Ok(vec![Pattern::new(text)]),
        Node::List(items) => {
            items.into_iter().map(|item| text(key, item).map(Pattern::new)).collect()
        }
        _ => Err(wrong(key, "a text or a list of texts", &value)),
    }
}

fn timeout(key: &str, value: Spanned<Node>) -> Result<Duration, Remark> {
    match value.value {
        Node::Number(seconds) if seconds > 0.0 && seconds <= TIMEOUT_S_MAX => {
            // Less than this is rounded to nothing, and would end every call at once.
            Ok(Duration::from_secs_f64(seconds).max(Duration::from_millis(1)))
        }
        Node::Number(_) => {
            let text = format!("'{key}' must be over 0 and at most {TIMEOUT_S_MAX} seconds");
            Err(not_run(value.referenced, text))
        }
        _ => Err(wrong(key, "a number of seconds", &value)),
    }
}

/// Most calls of a hook at the same time.
const CONCURRENCY_MAX: f64 = 1_000.0;

fn concurrency(key: &str, value: Spanned<Node>) -> Result<usize, Remark> {
    match value.value {
        Node::Number(calls) if calls.fract() == 0.0 && (1.0..=CONCURRENCY_MAX).contains(&calls) => {
            Ok(calls as usize)
        }
        Node::Number(_) => {
            let text = format!("'{key}' must be a whole number from 1 to {CONCURRENCY_MAX}");
            Err(not_run(value.referenced, text))
        }
        _ => Err(wrong(key, "a whole number", &value)),
    }
}

fn variables(key: &str, value: Spanned<Node>) -> Result<Vec<(String, String)>, Remark> {
    let Node::Mapping(members) = value.value else {
        return Err(wrong(key, "a mapping of names to texts", &value));
    };
    let mut names = HashSet::new();
    let mut variables = Vec::new();
    for (name, value) in members {
        let place = name.referenced;
        let name = text("the name of a variable", name)?;
        if name.is_empty() || name.contains('=') {
            return Err(not_run(place, format!("'{name}' cannot be the name of a variable")));
        }
        let value = text(&name, value)?;
        if names.insert(name.clone()) {
            variables.push((name, value));
        }
    }
    Ok(variables)
}

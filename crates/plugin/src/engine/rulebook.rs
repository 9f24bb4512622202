//! The rules of a `bus-rules.yaml`, read strictly: whatever cannot be meant is an error with its line.
//!
//! What released plugins understand means here what it meant to them. Keys that nobody knows are passed over with a
//! warning, as they did; only one that looks like a slip in a key of this program is an error, because a condition that
//! is not seen makes a rule wider than it was meant.

use std::fmt;
use std::time::Duration;

use hermes_bus_client::nearest;
use hermes_bus_proto::Pattern;
use regex::RegexBuilder;
use serde_json::Value;
use serde_json_path::JsonPath;

use super::conditions::{AgentState, Conditions, Finding};
use super::incoming::BodyType;
use super::yaml::{self, Node, Placed, place};
use crate::rules::{Fault, Position, Rules};

/// Most rules of a file. Each is looked at for each message; more are a mistake.
pub const RULES_MAX: usize = 1_000;

/// Most bytes of one message's text in a context, unless a rule says something else (8 KiB: some programs take no
/// more than 10,000 characters).
pub const CONTEXT_BYTES_MAX_DEFAULT: usize = 8 * 1024;

/// How long a command may run, unless a rule says something else.
pub const COMMAND_TIMEOUT_DEFAULT: Duration = Duration::from_secs(600);

/// The keys of a rule that released plugins know.
const KEYS_AS_EVER: [&str; 6] =
    ["match_type", "print", "print_format", "context", "context_format", "command"];

/// Those that only this program knows.
const KEYS_OF_OURS: [&str; 13] = [
    "name",
    "from",
    "sender",
    "to",
    "channel",
    "text",
    "json",
    "when",
    "continue",
    "rate_limit",
    "merge_s",
    "timeout_s",
    "context_bytes_max",
];

/// What a file says about messages. The default has no rules.
#[derive(Clone, Debug, Default)]
pub struct Rulebook {
    /// `bus.endpoint`: the name to register, without white space around; `None` where there is none.
    pub endpoint: Option<String>,
    /// In the order in which they are looked at.
    pub rules: Vec<Rule>,
    /// What looks like a mistake but hinders nothing.
    pub warnings: Vec<Remark>,
}

/// One rule.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Its name, for people.
    pub name: Option<String>,
    /// Its line in the file, from 1.
    pub line: u64,
    pub(super) conditions: Conditions,
    /// Whether messages are printed. Does not count where they go into the context.
    pub print: bool,
    /// How they are printed.
    pub print_format: String,
    /// Whether they go into the context.
    pub context: bool,
    /// What they look like there.
    pub context_format: String,
    /// What is run for each.
    pub command: Option<String>,
    /// How long that may take.
    pub timeout: Duration,
    /// Whether the rules behind this one are looked at as well.
    pub goes_on: bool,
    /// How many messages it acts on.
    pub rate_limit: Option<RateLimit>,
    /// How long messages for the context are collected.
    pub merge: Option<Duration>,
    /// Most bytes of one message's text in the context.
    pub context_bytes_max: usize,
}

/// So many messages in so much time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimit {
    /// Messages.
    pub messages: u32,
    /// The time.
    pub per: Duration,
}

/// Something to say about a file. Shown behind its path: `:3:5: text`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remark {
    /// Where, if that is known.
    pub place: Option<Position>,
    /// What, and what to do about it.
    pub text: String,
}

impl fmt::Display for Remark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.place {
            Some(Position { line, column }) => write!(f, ":{line}:{column}: {}", self.text),
            None => write!(f, ": {}", self.text),
        }
    }
}

impl Remark {
    fn at(value: &Placed, text: impl Into<String>) -> Remark {
        Remark { place: place(value), text: text.into() }
    }

    fn of(fault: &Fault) -> Remark {
        Remark { place: fault.position(), text: fault.to_string() }
    }
}

impl Rulebook {
    /// Understands the text of a file. All mistakes are told, not only the first.
    pub fn parse(text: &str) -> Result<Rulebook, Vec<Remark>> {
        let members = match yaml::parse(text).map_err(|fault| vec![Remark::of(&fault)])? {
            Node::Mapping(members) => members,
            other if !other.is_true() => return Ok(Rulebook::default()),
            other => {
                let text = format!(
                    "the file must be a mapping (lines of 'key: value'), but is {}",
                    other.kind()
                );
                return Err(vec![Remark { place: None, text }]);
            }
        };
        let mut book = Rulebook::default();
        let mut errors = Vec::new();
        for (key, value) in members {
            match &key.value {
                Node::Text(key) if key == "callbacks" => book.read_callbacks(value, &mut errors),
                Node::Text(key) if key == "bus" => {
                    if let Err(error) = book.read_bus(value) {
                        errors.push(error);
                    }
                }
                Node::Text(name) if nearest(name, ["callbacks"]).contains(&"callbacks") => {
                    let text = format!("unknown key '{name}': did you mean 'callbacks'?");
                    errors.push(Remark::at(&key, text));
                }
                // One file serves several programs and versions.
                _ => {}
            }
        }
        // Senders read the same file for names; what they would stumble over is told here, too.
        match Rules::parse(text) {
            Ok(names) if names.odd_entries().is_empty() => {}
            Ok(names) => {
                let odd = names.odd_entries().join(", ");
                let text = format!(
                    "these entries of 'role_map' are no mappings, and give no name: {odd} (wanted: 'key: {{name: Name}}')"
                );
                book.warnings.push(Remark { place: None, text });
            }
            Err(fault) => errors.push(Remark::of(&fault)),
        }
        if errors.is_empty() { Ok(book) } else { Err(errors) }
    }

    fn read_bus(&mut self, value: Placed) -> Result<(), Remark> {
        let Node::Mapping(members) = value.value else { return Ok(()) };
        for (key, value) in members {
            if !matches!(&key.value, Node::Text(key) if key == "endpoint") {
                continue;
            }
            let name = match &value.value {
                Node::Nothing => String::new(),
                Node::Text(text) => text.trim().to_owned(),
                Node::Number(number) => number.to_string(),
                _ => return Err(wrong("endpoint", "a text", &value)),
            };
            self.endpoint = Some(name).filter(|name| !name.is_empty());
        }
        Ok(())
    }

    fn read_callbacks(&mut self, value: Placed, errors: &mut Vec<Remark>) {
        self.rules.clear();
        let items = match value.value {
            Node::List(items) => items,
            Node::Nothing => return,
            _ => {
                return errors.push(wrong(
                    "callbacks",
                    "a list of rules ('- match_type: …')",
                    &value,
                ));
            }
        };
        if items.len() > RULES_MAX {
            let text = format!("{} rules are over the limit of {RULES_MAX}", items.len());
            return errors.push(Remark { place: items.first().and_then(place), text });
        }
        for item in items {
            match read_rule(item, &mut self.warnings) {
                Ok(rule) => self.rules.push(rule),
                Err(mistakes) => errors.extend(mistakes),
            }
        }
    }
}

fn read_rule(item: Placed, warnings: &mut Vec<Remark>) -> Result<Rule, Vec<Remark>> {
    let at = place(&item);
    let line = at.map_or(0, |at| at.line);
    let members = match item.value {
        Node::Mapping(members) => members,
        ref other => {
            let text =
                format!("a rule must be a mapping ('match_type: …'), but is {}", other.kind());
            return Err(vec![Remark::at(&item, text)]);
        }
    };
    let mut rule = Rule::at(line);
    let mut errors = Vec::new();
    for (key, value) in members {
        match &key.value {
            Node::Text(name) => {
                let known = KEYS_AS_EVER.iter().chain(&KEYS_OF_OURS).any(|known| known == name);
                let read = if known {
                    rule.read(name, value, warnings)
                } else {
                    unknown(&key, name, warnings)
                };
                errors.extend(read.err());
            }
            other => {
                let text = format!("the key of a rule must be a text, but is {}", other.kind());
                errors.push(Remark::at(&key, text));
            }
        }
    }
    if rule.merge.is_some() && !rule.context {
        let text = "'merge_s' says how long messages for the context are collected, but this rule has no 'context: true'";
        errors.push(Remark { place: at, text: text.to_owned() });
    }
    if rule.conditions.are_none() {
        let text = "the rule has no condition and is for no message; for every message write \"from: '*'\"";
        warnings.push(Remark { place: at, text: text.to_owned() });
    }
    if errors.is_empty() { Ok(rule) } else { Err(errors) }
}

fn unknown(key: &Placed, name: &str, warnings: &mut Vec<Remark>) -> Result<(), Remark> {
    let all = KEYS_AS_EVER.into_iter().chain(KEYS_OF_OURS);
    let meant = nearest(name, all).first().copied();
    let text = match meant {
        Some(meant) => format!("unknown key '{name}': did you mean '{meant}'?"),
        None => format!("unknown key '{name}' is passed over"),
    };
    let remark = Remark::at(key, text);
    if meant.is_some_and(|meant| KEYS_OF_OURS.contains(&meant)) {
        return Err(remark);
    }
    warnings.push(remark);
    Ok(())
}

impl Rule {
    fn at(line: u64) -> Rule {
        Rule {
            name: None,
            line,
            conditions: Conditions::default(),
            print: true,
            print_format: "{text}".to_owned(),
            context: false,
            context_format: "{text}".to_owned(),
            command: None,
            timeout: COMMAND_TIMEOUT_DEFAULT,
            goes_on: false,
            rate_limit: None,
            merge: None,
            context_bytes_max: CONTEXT_BYTES_MAX_DEFAULT,
        }
    }

    fn read(&mut self, key: &str, value: Placed, warnings: &mut Vec<Remark>) -> Result<(), Remark> {
        let conditions = &mut self.conditions;
        match key {
            "match_type" => conditions.body_types = Some(body_types(value, warnings)?),
            "from" => conditions.from = Some(patterns("from", value)?),
            "sender" => conditions.sender = Some(patterns("sender", value)?),
            "to" => conditions.to = Some(patterns("to", value)?),
            "channel" => conditions.channel = Some(patterns("channel", value)?),
            "text" => conditions.text = Some(regex(value)?),
            "json" => conditions.json = findings(value)?,
            "when" => conditions.when = Some(state(value)?),
            "name" => self.name = Some(text("name", value)?),
            "print" => self.print = value.value.is_true(),
            "print_format" => self.print_format = text("print_format", value)?,
            "context" => self.context = value.value.is_true(),
            "context_format" => self.context_format = text("context_format", value)?,
            "command" => self.command = command(value)?,
            "continue" => self.goes_on = value.value.is_true(),
            "rate_limit" => self.rate_limit = Some(rate_limit(value)?),
            "merge_s" => self.merge = Some(seconds("merge_s", &value, 3_600.0)?),
            "timeout_s" => self.timeout = seconds("timeout_s", &value, 604_800.0)?,
            _ => {
                let bytes = whole_number("context_bytes_max", &value, 100, 1024 * 1024)?;
                self.context_bytes_max = bytes as usize;
            }
        }
        Ok(())
    }
}

// ---- values -----------------------------------------------------------------------------------------

fn wrong(key: &str, must: &str, value: &Placed) -> Remark {
    let quotes = match value.value {
        Node::Number(_) | Node::Truth(_) if must.contains("text") => " (put it in quotes)",
        _ => "",
    };
    Remark::at(value, format!("'{key}' must be {must}, but is {}{quotes}", value.value.kind()))
}

fn text(key: &str, value: Placed) -> Result<String, Remark> {
    match value.value {
        Node::Text(text) if !text.contains('\0') => Ok(text),
        Node::Text(_) => {
            Err(Remark::at(&value, format!("'{key}' has a zero character in it: take it out")))
        }
        _ => Err(wrong(key, "a text", &value)),
    }
}

/// Nothing and nothing but white space is no command.
fn command(value: Placed) -> Result<Option<String>, Remark> {
    if matches!(value.value, Node::Nothing) {
        return Ok(None);
    }
    Ok(Some(text("command", value)?).filter(|command| !command.trim().is_empty()))
}

fn items(value: Placed) -> Vec<Placed> {
    match value.value {
        Node::List(items) => items,
        _ => vec![value],
    }
}

fn body_types(value: Placed, warnings: &mut Vec<Remark>) -> Result<Vec<BodyType>, Remark> {
    let mut types = Vec::new();
    for item in items(value) {
        match &item.value {
            Node::Text(text) if !text.is_empty() => types.push(BodyType::Text(text.clone())),
            Node::Number(number) if *number != 0.0 => types.push(BodyType::Number(*number)),
            Node::Truth(true) => types.push(BodyType::True),
            Node::List(_) | Node::Mapping(_) => {
                return Err(wrong("match_type", "a text or a list of texts", &item));
            }
            _ => {
                let text = "a 'match_type' that is empty is for no message; for every message write \"from: '*'\"";
                warnings.push(Remark::at(&item, text));
            }
        }
    }
    Ok(types)
}

fn patterns(key: &'static str, value: Placed) -> Result<Vec<Pattern>, Remark> {
    let pattern = |item: Placed| match item.value {
        Node::Text(text) => Ok(Pattern::new(text)),
        _ => Err(wrong(key, "a text or a list of texts", &item)),
    };
    items(value).into_iter().map(pattern).collect()
}

/// Most bytes that a compiled pattern may take (1 MiB): `.{1000}{1000}` is a mistake.
const REGEX_BYTES_MAX: usize = 1024 * 1024;

fn regex(value: Placed) -> Result<regex::Regex, Remark> {
    let Node::Text(pattern) = &value.value else { return Err(wrong("text", "a text", &value)) };
    RegexBuilder::new(pattern).size_limit(REGEX_BYTES_MAX).build().map_err(|error| {
        // Of the library's drawing of the place only the words are of use in one line.
        let error = error.to_string();
        let reason = error.lines().last().unwrap_or_default().trim_start_matches("error: ");
        Remark::at(&value, format!("'text' is no regular expression: {reason}"))
    })
}

fn findings(value: Placed) -> Result<Vec<Finding>, Remark> {
    let members = match value.value {
        Node::Mapping(members) => members,
        Node::Text(_) => return Ok(vec![finding(&value, Vec::new())?]),
        _ => {
            let must =
                "a JSON path, or a mapping of JSON paths to what is to be found there (text)";
            return Err(wrong("json", must, &value));
        }
    };
    let mut findings = Vec::new();
    for (key, value) in members {
        let wanted = items(value).into_iter().map(json_value).collect::<Result<_, _>>()?;
        findings.push(finding(&key, wanted)?);
    }
    Ok(findings)
}

fn finding(path: &Placed, wanted: Vec<Value>) -> Result<Finding, Remark> {
    let Node::Text(text) = &path.value else { return Err(wrong("json", "a text", path)) };
    match JsonPath::parse(text) {
        Ok(path) => Ok(Finding { path, text: text.clone(), wanted }),
        Err(error) => {
            let hint = if text.starts_with('$') { "" } else { " (it begins with '$')" };
            Err(Remark::at(path, format!("'{text}' is no JSON path{hint}: {error}")))
        }
    }
}

fn json_value(value: Placed) -> Result<Value, Remark> {
    Ok(match &value.value {
        Node::Nothing => Value::Null,
        Node::Text(text) => Value::from(text.as_str()),
        Node::Number(number) => Value::from(*number),
        Node::Truth(truth) => Value::from(*truth),
        Node::List(_) | Node::Mapping(_) => {
            return Err(wrong(
                "json",
                "compared with a text, a number, a truth value or nothing",
                &value,
            ));
        }
    })
}

fn state(value: Placed) -> Result<AgentState, Remark> {
    let state = match &value.value {
        Node::Text(text) => AgentState::of(text),
        _ => None,
    };
    state.ok_or_else(|| Remark::at(&value, "'when' must be 'idle' or 'busy'"))
}

fn rate_limit(value: Placed) -> Result<RateLimit, Remark> {
    let wanted = "a mapping: {messages: 10, per_s: 60}";
    let Node::Mapping(members) = &value.value else {
        return Err(wrong("rate_limit", wanted, &value));
    };
    let (mut messages, mut per) = (None, None);
    for (key, value) in members {
        match &key.value {
            Node::Text(key) if key == "messages" => {
                messages = Some(whole_number("messages", value, 1, 1_000_000)? as u32);
            }
            Node::Text(key) if key == "per_s" => per = Some(seconds("per_s", value, 86_400.0)?),
            _ => {
                let text = format!("'rate_limit' must be {wanted}; there is no such key in it");
                return Err(Remark::at(key, text));
            }
        }
    }
    match (messages, per) {
        (Some(messages), Some(per)) => Ok(RateLimit { messages, per }),
        _ => Err(Remark::at(
            &value,
            format!("'rate_limit' must be {wanted}; one of the two is missing"),
        )),
    }
}

fn seconds(key: &str, value: &Placed, max: f64) -> Result<Duration, Remark> {
    match value.value {
        Node::Number(seconds) if seconds > 0.0 && seconds <= max => {
            Ok(Duration::from_secs_f64(seconds).max(Duration::from_millis(1)))
        }
        Node::Number(_) => {
            Err(Remark::at(value, format!("'{key}' must be over 0 and at most {max} seconds")))
        }
        _ => Err(wrong(key, "a number of seconds", value)),
    }
}

fn whole_number(key: &str, value: &Placed, min: u64, max: u64) -> Result<u64, Remark> {
    match value.value {
        Node::Number(number)
            if number.fract() == 0.0 && number >= min as f64 && number <= max as f64 =>
        {
            Ok(number as u64)
        }
        Node::Number(_) => {
            Err(Remark::at(value, format!("'{key}' must be a whole number from {min} to {max}")))
        }
        _ => Err(wrong(key, "a whole number", value)),
    }
}

#[cfg(test)]
#[path = "rulebook_tests.rs"]
mod tests;

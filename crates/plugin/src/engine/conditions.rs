//! For which messages a rule is.

use std::fmt;

use hermes_bus_proto::Pattern;
use regex::Regex;
use serde_json::Value;
use serde_json_path::JsonPath;

use super::incoming::{BodyType, Incoming};

/// What the agent is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AgentState {
    /// It waits for input. Also where nobody says anything else.
    #[default]
    Idle,
    /// It works on something.
    Busy,
}

impl AgentState {
    /// The state with this name.
    pub fn of(name: &str) -> Option<Self> {
        match name {
            "idle" => Some(AgentState::Idle),
            "busy" => Some(AgentState::Busy),
            _ => None,
        }
    }

    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            AgentState::Idle => "idle",
            AgentState::Busy => "busy",
        }
    }
}

/// A condition on a body: a JSON path that must find something, or one of these values.
#[derive(Clone, Debug)]
pub(super) struct Finding {
    pub(super) path: JsonPath,
    /// The path as it was written.
    pub(super) text: String,
    /// Empty: any value will do.
    pub(super) wanted: Vec<Value>,
}

/// All conditions of a rule. Those that are set must all hold; a rule without any is for no message.
#[derive(Clone, Debug, Default)]
pub(super) struct Conditions {
    /// Equal to `type` of the body, in kind as well.
    pub(super) body_types: Option<Vec<BodyType>>,
    pub(super) from: Option<Vec<Pattern>>,
    pub(super) sender: Option<Vec<Pattern>>,
    pub(super) to: Option<Vec<Pattern>>,
    pub(super) channel: Option<Vec<Pattern>>,
    /// Found somewhere in the text.
    pub(super) text: Option<Regex>,
    pub(super) json: Vec<Finding>,
    pub(super) when: Option<AgentState>,
}

/// Why a rule is not for a message: the condition that does not hold, and what the message says instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mismatch {
    /// The key of the condition.
    pub key: &'static str,
    /// What the message, or the agent, has there. Not cleaned.
    pub found: String,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let found = super::clean::one_line(&self.found, 60);
        match self.key {
            "" => f.write_str("it has no condition"),
            "text" => f.write_str("'text' is not found in the message's text"),
            "json" => write!(f, "'json': {found}"),
            "when" => write!(f, "'when': the agent is {found}"),
            "match_type" if found.is_empty() => {
                f.write_str("'match_type': the message has no type")
            }
            "match_type" => write!(f, "'match_type': the message's type is '{found}'"),
            "sender" if found.is_empty() => {
                f.write_str("'sender': the bus knows no endpoint that sent the message")
            }
            key if found.is_empty() => write!(f, "'{key}': the message has none"),
            key => write!(f, "'{key}': the message has '{found}'"),
        }
    }
}

impl Conditions {
    /// Whether there is none.
    pub(super) fn are_none(&self) -> bool {
        let Conditions { body_types, from, sender, to, channel, text, json, when } = self;
        let patterns = [from, sender, to, channel];
        body_types.is_none()
            && patterns.iter().all(|patterns| patterns.is_none())
            && text.is_none()
            && json.is_empty()
            && when.is_none()
    }

    /// The first condition that does not hold; `None` if the rule is for this message. The cheap ones are looked at
    /// first.
    pub(super) fn mismatch(&self, message: &Incoming, state: AgentState) -> Option<Mismatch> {
        let mismatch = |key, found: &str| Some(Mismatch { key, found: found.to_owned() });
        if self.are_none() {
            return mismatch("", "");
        }
        if self.when.is_some_and(|when| when != state) {
            return mismatch("when", state.as_str());
        }
        if self.body_types.as_ref().is_some_and(|types| !types.contains(&message.body_type)) {
            return mismatch("match_type", &message.body_type_text);
        }
        let names = [
            ("from", &self.from, message.from.as_deref().unwrap_or_default()),
            ("sender", &self.sender, message.attested_endpoint()),
            ("to", &self.to, &message.to),
            ("channel", &self.channel, &message.channel),
        ];
        for (key, patterns, name) in names {
            let Some(patterns) = patterns else { continue };
            if !patterns.iter().any(|pattern| pattern.fits(name)) {
                return mismatch(key, name);
            }
        }
        if self.text.as_ref().is_some_and(|text| !text.is_match(&message.text)) {
            return mismatch("text", "");
        }
        self.json_mismatch(message)
    }

    fn json_mismatch(&self, message: &Incoming) -> Option<Mismatch> {
        if self.json.is_empty() {
            return None;
        }
        let body: Value = match serde_json::from_str(&message.body_json) {
            Ok(body) => body,
            // Python's NaN, halves of surrogate pairs, more than 128 levels.
            Err(error) => {
                let found = format!("the body cannot be looked into ({error})");
                return Some(Mismatch { key: "json", found });
            }
        };
        for finding in &self.json {
            let found = finding.path.query(&body).all();
            let fits = |value: &Value| {
                finding.wanted.is_empty() || finding.wanted.iter().any(|it| is_same(it, value))
            };
            if !found.iter().any(|value| fits(value)) {
                let what = match found.first() {
                    None => "finds nothing".to_owned(),
                    Some(value) => format!("finds {value}"),
                };
                return Some(Mismatch { key: "json", found: format!("{} {what}", finding.text) });
            }
        }
        None
    }
}

/// 1 and 1.0 are the same number.
fn is_same(wanted: &Value, found: &Value) -> bool {
    match (wanted.as_f64(), found.as_f64()) {
        (Some(wanted), Some(found)) => wanted == found,
        _ => wanted == found,
    }
}

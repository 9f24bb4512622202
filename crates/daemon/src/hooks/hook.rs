//! One hook: which program, for which messages, under which limits of its own.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use hermes_bus_proto::Pattern;

use super::facts::Facts;

/// A program that is run for messages.
#[derive(Clone, PartialEq, Eq)]
pub struct Hook {
    /// Its file. A relative path is one of the daemon's working directory.
    pub path: PathBuf,
    /// Its arguments.
    pub args: Vec<String>,
    /// The messages it is run for.
    pub filter: Filter,
    /// How long it may run; none is the limit of all hooks.
    pub timeout: Option<Duration>,
    /// How many calls of it run at the same time, 1 or more; none is the limit of all hooks.
    pub concurrency: Option<usize>,
    /// Variables it gets beside those of the daemon, by name.
    pub env: Vec<(String, String)>,
}

impl Hook {
    /// A hook of which nothing but the file is known: it is run for every message.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Hook {
            path: path.into(),
            args: Vec::new(),
            filter: Filter::default(),
            timeout: None,
            concurrency: None,
            env: Vec::new(),
        }
    }

    /// Whether this is the same program as the other one, perhaps with other settings.
    pub(super) fn is_same_program(&self, other: &Hook) -> bool {
        self.path == other.path && self.args == other.args
    }
}

/// Arguments and variables may hold secrets, and are not shown.
impl fmt::Debug for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hook")
            .field("path", &self.path)
            .field("args", &self.args.len())
            .field("filter", &self.filter)
            .field("timeout", &self.timeout)
            .field("concurrency", &self.concurrency)
            .field("env", &self.env.len())
            .finish()
    }
}

/// Which messages a hook is run for: all conditions that are set must hold, and of each one pattern
/// must fit. The default takes every message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// `to`; empty for a broadcast.
    pub to: Option<Vec<Pattern>>,
    /// `from`; empty where a message has none.
    pub from: Option<Vec<Pattern>>,
    /// The `type` in the body; empty where it has none.
    pub body_type: Option<Vec<Pattern>>,
}

impl Filter {
    pub(super) fn takes(&self, facts: &Facts<'_>) -> bool {
        let fits = |patterns: &Option<Vec<Pattern>>, value: &dyn Fn() -> bool| {
            patterns.is_none() || value()
        };
        let any = |patterns: &Option<Vec<Pattern>>, text: &str| {
            patterns.iter().flatten().any(|pattern| pattern.fits(text))
        };
        fits(&self.to, &|| any(&self.to, facts.to()))
            && fits(&self.from, &|| any(&self.from, facts.from()))
            && fits(&self.body_type, &|| any(&self.body_type, facts.body_type()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_condition_must_hold_and_one_pattern_of_each() {
        let patterns =
            |texts: &[&str]| Some(texts.iter().map(|text| Pattern::new(*text)).collect());
        let message = br#"{"type":"message","to":"lead","body":{"type":"ack"},"from":"w-1"}"#;
        let facts = Facts::of(message);
        let filter = |to: &[&str], from: &[&str], body_type: &[&str]| {
            let (to, from, body_type) = (patterns(to), patterns(from), patterns(body_type));
            Filter { to, from, body_type }.takes(&facts)
        };
        assert!(Filter::default().takes(&facts));
        assert!(filter(&["x", "lead"], &["w-*"], &["ack", "done"]));
        assert!(!filter(&["x"], &["w-*"], &["ack"]));
        assert!(!filter(&["lead"], &["w-2"], &["ack"]));
        assert!(!filter(&["lead"], &["w-1"], &["done"]));
        assert!(!filter(&[], &["w-1"], &["ack"]), "an empty list takes nothing");
    }

    #[test]
    fn secrets_are_not_shown() {
        let mut hook = Hook::at("/a.py");
        hook.args.push("secret-1".to_owned());
        hook.env.push(("TOKEN".to_owned(), "secret-2".to_owned()));
        assert!(!format!("{hook:?}").contains("secret"));
    }
}

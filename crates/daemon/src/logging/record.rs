//! One log event, and how it looks as a line.
//!
//! The text says everything; the fields say parts of it again, for programs. A line never holds a
//! control character: nobody's name can forge a second line.

use std::fmt::Write as _;
use std::time::SystemTime;

use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Level};

use super::Format;

/// What one event says.
pub(super) struct Record {
    pub(super) time: SystemTime,
    pub(super) level: Level,
    pub(super) target: &'static str,
    pub(super) message: String,
    pub(super) fields: Vec<(&'static str, Value)>,
}

impl Record {
    pub(super) fn of(event: &Event<'_>) -> Self {
        let metadata = event.metadata();
        let mut record = Record::new(*metadata.level(), metadata.target(), String::new());
        event.record(&mut record);
        record
    }

    pub(super) fn new(level: Level, target: &'static str, message: String) -> Self {
        Record { time: SystemTime::now(), level, target, message, fields: Vec::new() }
    }

    /// The line, with its end.
    pub(super) fn line(&self, format: Format) -> String {
        match format {
            Format::Human => {
                let mut line = format!("[{}] {}: ", stamp(self.time), level_name(self.level));
                push_printable(&mut line, &self.text());
                line.push('\n');
                line
            }
            Format::Json => self.json(),
        }
    }

    /// The message; where there is none, the fields.
    pub(super) fn text(&self) -> String {
        if !self.message.is_empty() {
            return self.message.clone();
        }
        let fields: Vec<String> =
            self.fields.iter().map(|(name, value)| format!("{name}={value}")).collect();
        fields.join(" ")
    }

    fn json(&self) -> String {
        let mut line = Map::new();
        for (name, value) in &self.fields {
            line.insert((*name).to_owned(), value.clone());
        }
        // Last: no field can take their place.
        line.insert("ts".to_owned(), stamp(self.time).into());
        line.insert("level".to_owned(), level_name(self.level).into());
        line.insert("target".to_owned(), self.target.into());
        line.insert("message".to_owned(), self.text().into());
        let mut line = Value::Object(line).to_string();
        line.push('\n');
        line
    }

    fn add(&mut self, field: &Field, value: impl Into<Value>) {
        self.fields.push((field.name(), value.into()));
    }
}

impl Visit for Record {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        if field.name() == "message" {
            let _ = write!(self.message, "{value:?}");
        } else {
            self.add(field, format!("{value:?}"));
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            self.message.push_str(value);
        } else {
            self.add(field, value);
        }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.add(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, value);
    }
}

/// RFC 3339, UTC, with microseconds.
pub(super) fn stamp(time: SystemTime) -> String {
    humantime::format_rfc3339_micros(time).to_string()
}

fn level_name(level: Level) -> &'static str {
    match level {
        Level::ERROR => "error",
        Level::WARN => "warn",
        Level::INFO => "info",
        Level::DEBUG => "debug",
        Level::TRACE => "trace",
    }
}

/// Adds text with its control characters escaped.
pub(super) fn push_printable(line: &mut String, text: &str) {
    for letter in text.chars() {
        if letter.is_control() {
            line.extend(letter.escape_default());
        } else {
            line.push(letter);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(message: &str) -> Record {
        Record::new(Level::WARN, "router", message.to_owned())
    }

    #[test]
    fn a_human_line_is_one_line_whatever_it_says() {
        let line = record("a\n[2026-01-01T00:00:00Z] error: forged\x1b[2J").line(Format::Human);
        let (stamp, text) = line.split_once(' ').unwrap();
        assert!(stamp.starts_with('[') && stamp.ends_with("Z]"), "{stamp}");
        assert_eq!(text, "warn: a\\n[2026-01-01T00:00:00Z] error: forged\\u{1b}[2J\n");
    }

    #[test]
    fn a_json_line_has_the_fields_beside_the_text() {
        let mut record = record("a \"name\"\nand more");
        record.fields.push(("endpoint", "a \"name\"".into()));
        record.fields.push(("pid", 7.into()));
        record.fields.push(("level", "forged".into()));
        let line = record.line(Format::Json);
        assert_eq!(line.matches('\n').count(), 1, "{line}");
        let value: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["message"], "a \"name\"\nand more");
        assert_eq!(value["endpoint"], "a \"name\"");
        assert_eq!(value["pid"], 7);
        assert_eq!(value["level"], "warn");
        assert_eq!(value["target"], "router");
        let ts = value["ts"].as_str().unwrap();
        let parsed = humantime::parse_rfc3339(ts).unwrap();
        assert!(ts.ends_with('Z'));
        assert_eq!(stamp(parsed), ts);
    }

    #[test]
    fn fields_are_shown_where_there_is_no_text() {
        let mut record = record("");
        record.fields.push(("pid", 7.into()));
        assert!(record.line(Format::Human).ends_with("] warn: pid=7\n"));
    }
}

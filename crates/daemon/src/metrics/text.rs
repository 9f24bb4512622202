//! Families as text: OpenMetrics 1.0, and JSON for scripts.

use std::fmt::{self, Write};

use serde_json::{Value as Json, json};

use super::Snapshot;
use super::families::{Family, Sample, Value, families};

/// What every family's name begins with.
const PREFIX: &str = "hermes_bus_";

/// How metrics are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// OpenMetrics text, for scrapers.
    OpenMetrics,
    /// One JSON object: `families`, each with `name`, `type`, `unit` (or null), `help` and
    /// `samples`; a sample has `name`, `labels` and `value`.
    Json,
}

impl Form {
    /// The path at which a server offers this form.
    pub fn path(self) -> &'static str {
        match self {
            Form::OpenMetrics => "/metrics",
            Form::Json => "/metrics.json",
        }
    }

    /// The form that is offered at a path.
    pub(super) fn at(path: &str) -> Option<Form> {
        [Form::OpenMetrics, Form::Json].into_iter().find(|form| form.path() == path)
    }

    pub(super) fn content_type(self) -> &'static str {
        match self {
            Form::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Form::Json => "application/json",
        }
    }
}

/// A snapshot, written down.
pub fn render(snapshot: &Snapshot, form: Form) -> String {
    let families = families(snapshot);
    match form {
        Form::OpenMetrics => {
            let mut out = String::new();
            let written = families.iter().try_for_each(|family| open_metrics(family, &mut out));
            written.expect("a string takes everything");
            out.push_str("# EOF\n");
            out
        }
        Form::Json => {
            let families: Vec<Json> = families.iter().map(json_family).collect();
            format!("{}\n", json!({"families": families}))
        }
    }
}

fn open_metrics(family: &Family<'_>, out: &mut String) -> fmt::Result {
    let Family { name, kind, unit, help, samples } = family;
    writeln!(out, "# TYPE {PREFIX}{name} {}", kind.as_str())?;
    if let Some(unit) = unit {
        writeln!(out, "# UNIT {PREFIX}{name} {unit}")?;
    }
    write!(out, "# HELP {PREFIX}{name} ")?;
    escaped(help, out);
    out.push('\n');
    for Sample { suffix, label, value } in samples {
        write!(out, "{PREFIX}{name}{suffix}")?;
        if let Some((key, text)) = label {
            write!(out, "{{{key}=\"")?;
            escaped(text, out);
            out.push_str("\"}");
        }
        match value {
            Value::Whole(value) => writeln!(out, " {value}")?,
            Value::Real(value) => writeln!(out, " {value:?}")?,
        }
    }
    Ok(())
}

/// Text of a label or of help.
fn escaped(text: &str, out: &mut String) {
    for character in text.chars() {
        match character {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            other => out.push(other),
        }
    }
}

fn json_family(family: &Family<'_>) -> Json {
    let Family { name, kind, unit, help, samples } = family;
    let samples = samples.iter().map(|Sample { suffix, label, value }| {
        let labels: serde_json::Map<String, Json> =
            label.iter().map(|(key, text)| ((*key).to_owned(), json!(text))).collect();
        let value = match value {
            Value::Whole(value) => json!(value),
            Value::Real(value) => json!(value),
        };
        json!({"name": format!("{PREFIX}{name}{suffix}"), "labels": labels, "value": value})
    });
    json!({
        "name": format!("{PREFIX}{name}"),
        "type": kind.as_str(),
        "unit": unit,
        "help": help,
        "samples": samples.collect::<Vec<Json>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::tests::snapshot;

    #[test]
    fn the_text_is_whole_lines_and_ends_as_it_must() {
        let text = render(&snapshot(), Form::OpenMetrics);
        assert!(text.ends_with("\n# EOF\n"));
        assert!(!text.contains("\n\n") && !text.contains('\r'));
        let lines = [
            "# TYPE hermes_bus_build info",
            "hermes_bus_build_info{server=\"hermes-bus/9.9\"} 1",
            "# UNIT hermes_bus_uptime_seconds seconds",
            "hermes_bus_uptime_seconds 12.5",
            "hermes_bus_open_connections 4",
            "hermes_bus_messages_total{outcome=\"accepted\"} 10",
            "hermes_bus_dropped_messages_total{reason=\"cut_off\"} 1",
            "hermes_bus_memory_bytes{of=\"queues\"} 77",
            "hermes_bus_hook_runs_total{result=\"failed\"} 3",
            "hermes_bus_hook_exits_total{exit=\"code 7\"} 2",
            "hermes_bus_hook_exits_total{exit=\"signal 9\"} 1",
            "# TYPE hermes_bus_delivery_seconds histogram",
            "hermes_bus_delivery_seconds_bucket{le=\"+Inf\"} 1",
            "hermes_bus_delivery_seconds_count 1",
            "hermes_bus_delivery_seconds_sum 3e-6",
            "hermes_bus_endpoint_queue_bytes{endpoint=\"one\"} 5",
        ];
        for line in lines {
            assert!(text.lines().any(|found| found == line), "{line} is missing in\n{text}");
        }
    }

    #[test]
    fn every_line_of_a_family_stands_together_and_no_series_comes_twice() {
        let text = render(&snapshot(), Form::OpenMetrics);
        let mut series = std::collections::HashSet::new();
        let mut families = std::collections::HashSet::new();
        let mut current = "";
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                current = rest.split(' ').next().unwrap();
                assert!(families.insert(current), "{current} comes twice");
            } else if !line.starts_with('#') {
                assert!(line.starts_with(current), "{line} in {current}");
                let (name, _) = line.rsplit_once(' ').unwrap();
                assert!(series.insert(name), "{name} comes twice");
            }
        }
    }

    #[test]
    fn the_document_has_every_family() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/METRICS.md");
        let document = std::fs::read_to_string(path).expect("docs stand beside the crates");
        let snapshot = snapshot();
        let families = families(&snapshot);
        for Family { name, kind, help, .. } in &families {
            let is_row = |line: &str| {
                line.starts_with(&format!("| `{PREFIX}{name}` | {} | ", kind.as_str()))
                    && line.ends_with(&format!(" | {help} |"))
            };
            assert!(document.lines().any(is_row), "docs/METRICS.md lacks {name}: {help}");
        }
        let rows = document.lines().filter(|line| line.starts_with("| `hermes_bus_")).count();
        assert_eq!(rows, families.len(), "docs/METRICS.md has rows that nothing gives");
    }

    #[test]
    fn a_label_holds_any_text() {
        let mut snapshot = snapshot();
        snapshot.endpoints[0].details.endpoint = "a\"b\\c\nd".to_owned();
        let text = render(&snapshot, Form::OpenMetrics);
        assert!(text.contains(r#"endpoint_queue_bytes{endpoint="a\"b\\c\nd"} 5"#), "{text}");
    }

    #[test]
    fn json_has_the_same_figures() {
        let json: Json = serde_json::from_str(&render(&snapshot(), Form::Json)).unwrap();
        let families = json["families"].as_array().unwrap();
        let family = |name: &str| families.iter().find(|family| family["name"] == name).unwrap();
        let messages = family("hermes_bus_messages");
        assert_eq!(messages["type"], "counter");
        let accepted = json!({
            "name": "hermes_bus_messages_total", "labels": {"outcome": "accepted"}, "value": 10,
        });
        assert_eq!(messages["samples"][0], accepted);
        assert_eq!(family("hermes_bus_uptime_seconds")["unit"], "seconds");
    }
}

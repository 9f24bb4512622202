//! `hermes-bus config`: what the bus would be told by its file, the environment and the command line.
//! Needs no bus.

use std::process::ExitCode;

use hermes_bus::arguments::Adjustments;
use hermes_bus::arguments::bus::{Config, Place};
use hermes_bus::failure::exit;
use hermes_bus::screen::{harmless_line, note, say};
use hermes_bus_daemon::config::{self, ConfigError, Loaded, Problem, Sources};
use hermes_bus_daemon::root::Root;
use serde_json::{Value, json};

pub(crate) fn run(asked: &Config, place: &Place) -> anyhow::Result<ExitCode> {
    let done = || Ok(ExitCode::SUCCESS);
    match asked {
        Config::Reference => say(config::reference().trim_end()).map_err(Into::into).and(done()),
        Config::Path { adjustments } => path(&sources(adjustments, place)?, place).and(done()),
        Config::Check { file: Some(file), .. } => load(&Sources::of_file(file), place, check),
        Config::Check { file: None, adjustments } => {
            load(&sources(adjustments, place)?, place, check)
        }
        Config::Show { default: true, .. } => show(&Loaded::defaults(), place).and(done()),
        Config::Show { default: false, adjustments } => {
            load(&sources(adjustments, place)?, place, show)
        }
    }
}

fn sources(adjustments: &Adjustments, place: &Place) -> anyhow::Result<Sources> {
    Ok(adjustments.sources(&Root::find(place.root.as_deref())?))
}

fn path(sources: &Sources, place: &Place) -> anyhow::Result<()> {
    let shown = sources.file().display().to_string();
    let exists = sources.file().exists();
    if place.json {
        say(&json!({"path": shown, "exists": exists}).to_string())?;
    } else {
        say(&shown)?;
    }
    if !exists {
        note("hermes-bus: there is no such file");
    }
    Ok(())
}

/// Does something with a configuration, or tells what is wrong with it.
fn load(
    sources: &Sources,
    place: &Place,
    then: impl FnOnce(&Loaded, &Place) -> anyhow::Result<()>,
) -> anyhow::Result<ExitCode> {
    let loaded = match sources.load() {
        Ok(loaded) => loaded,
        Err(error) => return refuse(&error, place),
    };
    for warning in &loaded.warnings {
        note(&format!("hermes-bus: warning: {}", harmless_line(warning)));
    }
    then(&loaded, place).and(Ok(ExitCode::SUCCESS))
}

/// Each problem is a line that begins with its place, so that editors can go there.
fn refuse(error: &ConfigError, place: &Place) -> anyhow::Result<ExitCode> {
    for line in error.lines() {
        note(&harmless_line(&line));
    }
    if place.json {
        let lines = error.lines();
        let problems: Vec<Value> = error
            .problems
            .iter()
            .zip(&lines)
            .map(|(problem, line)| problem_json(problem, line))
            .collect();
        let total = problems.len() + error.more;
        let object = json!({
            "ok": false, "error": "invalid_config", "problems": problems, "problems_total": total,
        });
        say(&object.to_string())?;
    }
    Ok(ExitCode::from(exit::FAILED))
}

fn problem_json(problem: &Problem, line: &str) -> Value {
    let mut object = json!({"key": problem.key, "text": line});
    if let config::Place::At(position) = problem.place {
        object["line"] = json!(position.line);
        object["column"] = json!(position.column);
    }
    object
}

fn check(loaded: &Loaded, place: &Place) -> anyhow::Result<()> {
    let object = json!({"ok": true, "file": loaded.file, "warnings": loaded.warnings});
    Ok(say(&if place.json { object.to_string() } else { "ok".to_owned() })?)
}

fn show(loaded: &Loaded, place: &Place) -> anyhow::Result<()> {
    if !place.json {
        return Ok(say(loaded.to_yaml().trim_end())?);
    }
    for key in loaded.to_json() {
        say(&key.to_string())?;
    }
    Ok(())
}

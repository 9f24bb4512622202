//! `hermes-bus config`: what the bus would be told by its file, the environment and the command line.
//! Needs no bus.

use std::process::ExitCode;

use hermes_bus::arguments::Adjustments;
use hermes_bus::arguments::bus::{Config, Place};
use hermes_bus::failure::Failure;
use hermes_bus::screen::{harmless, harmless_line, note, say};
use hermes_bus_daemon::config::{self, ConfigError, Loaded, Sources};
use hermes_bus_daemon::root::Root;

pub(crate) fn run(asked: &Config, place: &Place) -> anyhow::Result<ExitCode> {
    match asked {
        Config::Reference => say(config::reference().trim_end())?,
        Config::Path { adjustments } => path(&sources(adjustments, place)?, place)?,
        Config::Check { file: Some(file), .. } => check(&Sources::of_file(file), place)?,
        Config::Check { file: None, adjustments } => check(&sources(adjustments, place)?, place)?,
        Config::Show { default: true, .. } => show(&Loaded::defaults(), place)?,
        Config::Show { default: false, adjustments } => {
            show(&load(&sources(adjustments, place)?)?, place)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn sources(adjustments: &Adjustments, place: &Place) -> anyhow::Result<Sources> {
    Ok(adjustments.sources(&Root::find(place.root.as_deref())?))
}

fn path(sources: &Sources, place: &Place) -> anyhow::Result<()> {
    let shown = sources.file().display().to_string();
    let exists = sources.file().exists();
    if place.json {
        say(&serde_json::json!({"path": shown, "exists": exists}).to_string())?;
    } else {
        say(&shown)?;
    }
    if !exists {
        note("hermes-bus: there is no such file; without it, the defaults hold");
    }
    Ok(())
}

fn check(sources: &Sources, place: &Place) -> anyhow::Result<()> {
    load(sources)?;
    let line = if place.json { r#"{"ok": true}"# } else { "ok" };
    Ok(say(line)?)
}

fn show(loaded: &Loaded, place: &Place) -> anyhow::Result<()> {
    if place.json {
        for key in loaded.to_json() {
            say(&key.to_string())?;
        }
        return Ok(());
    }
    Ok(say(harmless(loaded.to_yaml().trim_end()).as_ref())?)
}

fn load(sources: &Sources) -> Result<Loaded, Failure> {
    let loaded = sources.load().map_err(|error| failure(&error))?;
    for warning in &loaded.warnings {
        note(&format!("hermes-bus: warning: {}", harmless_line(warning)));
    }
    Ok(loaded)
}

fn failure(error: &ConfigError) -> Failure {
    let lines: Vec<String> = error.lines().iter().map(|line| harmless_line(line)).collect();
    Failure::new("invalid_config", lines.join("\n"))
}

//! `hermes-bus doctor`: what could keep the bus from working. Starts no bus.

use std::process::ExitCode;

use hermes_bus::arguments::bus::Place;
use hermes_bus::failure::exit;
use hermes_bus::screen::{Palette, harmless_line, say};
use hermes_bus::sender::find_root;
use hermes_bus_daemon::doctor::{
    Configured, Environment, Finding, Repair, Severity, examine, repair,
};
use hermes_bus_daemon::root::Root;
use serde_json::{Value, json};

pub(crate) fn doctor(fix: bool, place: &Place) -> anyhow::Result<ExitCode> {
    let root = find_root(place.socket.as_deref(), place.root.as_deref())?;
    let environment = Environment::of_this_process();
    let look = || examine(&root, &environment, &Configured::read(&root));
    let mut findings = look();
    let mut repairs = Vec::new();
    if fix && findings.iter().any(Finding::is_fixable) {
        repairs = repair(&root, &findings);
        findings = look();
    }
    let is_well = !findings.iter().any(Finding::needs_action);
    if place.json {
        say(&json(&root, is_well, &findings, &repairs).to_string())?;
    } else {
        tell(&findings, &repairs, &Palette::new(place.color))?;
    }
    Ok(if is_well { ExitCode::SUCCESS } else { ExitCode::from(exit::FAILED) })
}

fn json(root: &Root, is_well: bool, findings: &[Finding], repairs: &[Repair]) -> Value {
    json!({
        "ok": is_well,
        "root": root.directory().display().to_string(),
        "findings": findings.iter().map(Finding::to_json).collect::<Vec<_>>(),
        "repairs": repairs.iter().map(Repair::to_json).collect::<Vec<_>>(),
    })
}

/// One line a check; below it what to do.
fn tell(findings: &[Finding], repairs: &[Repair], palette: &Palette) -> anyhow::Result<()> {
    for Repair { what, failure } in repairs {
        let what = harmless_line(what);
        say(&match failure {
            None => format!("fixed: {what}"),
            Some(failure) => format!("not fixed: {what}: {}", harmless_line(failure)),
        })?;
    }
    let width = findings.iter().map(|finding| finding.check.chars().count()).max().unwrap_or(0);
    for finding in findings {
        let severity = format!("{:<7}", finding.severity.as_str());
        let severity = match finding.severity {
            Severity::Ok | Severity::Note => palette.dim(&severity),
            Severity::Warning | Severity::Problem => palette.kind(&severity),
        };
        say(&format!("{severity}  {:<width$}  {}", finding.check, harmless_line(&finding.what)))?;
        if let Some(advice) = &finding.advice {
            say(&format!("{:7}  {:width$}  → {}", "", "", harmless_line(advice)))?;
        }
    }
    say(&summary(findings))?;
    Ok(())
}

fn summary(findings: &[Finding]) -> String {
    let to_do = findings.iter().filter(|finding| finding.needs_action()).count();
    let fixable = findings.iter().filter(|finding| finding.is_fixable()).count();
    let things =
        |count: usize| if count == 1 { "1 thing".into() } else { format!("{count} things") };
    match (to_do, fixable) {
        (0, _) => "nothing to do".to_owned(),
        (_, 0) => format!("{} to do", things(to_do)),
        _ => format!("{} to do, {fixable} of them with 'hermes-bus doctor --fix'", things(to_do)),
    }
}

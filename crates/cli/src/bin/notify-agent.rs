//! `notify-agent`: types a message into a tmux session and submits it.
//!
//! Scripts know its success line and its exit status; everything else it says is for people, on the
//! standard error.

use std::io::{self, Write};
use std::process::ExitCode;

use hermes_bus::arguments::notify_agent::{self, Asked, Order, UsageError};
use hermes_bus_plugin::rules::{Part, Rules, RulesError};
use hermes_bus_plugin::tmux::{self, Interrupt, Plan, Report, Seen, Text, TypingError};

fn main() -> ExitCode {
    let asked = match notify_agent::read(std::env::args_os().skip(1).collect()) {
        Ok(asked) => asked,
        Err(error) => return fail(&usage(&error)),
    };
    let outcome = match asked {
        Asked::Print(text) => Ok(text),
        Asked::Notify(order) => notify(&order),
    };
    match outcome {
        Ok(text) => say(&text),
        Err(error) => fail(&format!("ERROR: {error:#}")),
    }
}

fn usage(error: &UsageError) -> String {
    error.to_string().trim_end().to_owned()
}

fn say(text: &str) -> ExitCode {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => ExitCode::SUCCESS,
        // A reader that has seen enough is no failure.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => fail(&format!("ERROR: cannot write to the standard output: {error}")),
    }
}

fn fail(text: &str) -> ExitCode {
    tell(text);
    ExitCode::FAILURE
}

/// Says something on the standard error. Where nobody can be told, nothing can be done.
fn tell(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// Returns what to print.
fn notify(order: &Order) -> anyhow::Result<String> {
    let rules = rules(order)?;
    let message = match &order.sender {
        Some(sender) => format!("⚕ [{}]: {}", rules.display_name(sender), order.message),
        None => order.message.clone(),
    };
    let text = Text::new(&message)?;
    let interrupt = if order.interrupt { Interrupt::First } else { Interrupt::No };
    if order.dry_run {
        let plan =
            tmux::plan(&order.session, interrupt).map_err(|error| advised(error, interrupt))?;
        return Ok(shown(&plan, &text, interrupt));
    }
    let report = tmux::type_into(&order.session, &text, interrupt)
        .map_err(|error| advised(error, interrupt))?;
    warn_of(&report);
    Ok(format!("OK: notified {}\n", order.session))
}

fn advised(error: TypingError, interrupt: Interrupt) -> anyhow::Error {
    let helps = error.ends_by_interrupt() && interrupt == Interrupt::No;
    let advice = if helps { ", or use --interrupt" } else { "" };
    anyhow::anyhow!("{error}{advice}")
}

/// Says what is less than certain.
fn warn_of(report: &Report) {
    let Report { pane, session, command, .. } = report;
    if report.seen == Seen::Nothing {
        tell(&format!(
            "WARNING: the text was typed into pane {pane} (session '{session}') and Enter was pressed, \
             but '{command}' did not show the text"
        ));
    } else if !report.changed {
        tell(&format!(
            "WARNING: Enter was pressed {} times in pane {pane} (session '{session}'), but nothing \
             changed there: see whether '{command}' has taken the text",
            report.enters
        ));
    }
}

// ---- rules ------------------------------------------------------------------------------------------

/// The rules, as far as there are any. Trouble with them keeps no message from being delivered,
/// unless it is about the very names that are needed.
fn rules(order: &Order) -> anyhow::Result<Rules> {
    let Some(path) = order.config.clone().or_else(Rules::default_path) else {
        return Ok(Rules::default());
    };
    let rules = match Rules::load(&path) {
        Ok(rules) => rules,
        Err(error) => {
            let is_needed = order.sender.is_some();
            if is_needed && error.odd_part() == Some(Part::RoleMap) {
                return Err(error.into());
            }
            let is_expected = order.config.is_none() && matches!(error, RulesError::Missing { .. });
            if !is_expected {
                tell(&format!("WARNING: {error}: going on without rules"));
            }
            Rules::default()
        }
    };
    if order.sender.is_some() && !rules.odd_entries().is_empty() {
        let odd = rules.odd_entries().join(", ");
        tell(&format!(
            "WARNING: {}: these entries of 'role_map' are no mappings and are left out: {odd}",
            path.display()
        ));
    }
    Ok(rules)
}

// ---- dry run ----------------------------------------------------------------------------------------

fn shown(plan: &Plan, text: &Text, interrupt: Interrupt) -> String {
    let Plan { pane, session, command } = plan;
    let text = text.as_str();
    let keys = match interrupt {
        Interrupt::No => "the text, then Enter",
        Interrupt::First => "Ctrl-C, then the text, then Enter",
    };
    format!(
        "would type into pane {pane} (session '{session}', running '{command}'): {keys}\n\
         text of {} bytes: {}\n",
        text.len(),
        visible(text)
    )
}

/// A text on one line, with its control characters shown.
fn visible(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() { shown.extend(c.escape_default()) } else { shown.push(c) }
    }
    shown
}

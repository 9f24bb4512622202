//! `notify-agent`: types a message into a tmux session and submits it.
//!
//! Scripts know its success line and its exit status; everything else it says is for people, on the
//! standard error.

use std::io::{self, Write};
use std::process::ExitCode;

use hermes_bus::arguments::notify_agent::{self, Asked, Order, UsageError};
use hermes_bus::screen::{harmless_line, note};
use hermes_bus::sender::load_rules;
use hermes_bus_plugin::rules::{Part, RulesError};
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
    note(text);
    ExitCode::FAILURE
}

/// Returns what to print.
fn notify(order: &Order) -> anyhow::Result<String> {
    let message = match &order.sender {
        Some(sender) => {
            // Released programs went on without rules in all cases but this.
            let is_fatal = |error: &RulesError| error.odd_part() == Some(Part::RoleMap);
            let rules = load_rules(order.config.as_deref(), is_fatal)?;
            format!("⚕ [{}]: {}", rules.display_name(sender), order.message)
        }
        None => order.message.clone(),
    };
    hint_at_order(order);
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

/// Words that look like options, but stand where none is recognised.
fn hint_at_order(order: &Order) {
    const MEANT: [&str; 2] = ["--dry-run", "--interrupt"];
    if order.session.starts_with("--") {
        note(
            "WARNING: options are words of their own before the session, as in '--to NAME': see --help",
        );
    } else if let Some(word) = order.message.split(' ').find(|word| MEANT.contains(word)) {
        note(&format!("WARNING: '{word}' is part of the message: options come before the session"));
    }
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
        note(&format!(
            "WARNING: the text was typed into pane {pane} (session '{session}') and Enter was pressed, \
             but '{command}' did not show the text"
        ));
    } else if !report.changed {
        note(&format!(
            "WARNING: Enter was pressed {} times in pane {pane} (session '{session}'), but nothing \
             changed there: see whether '{command}' has taken the text",
            report.enters
        ));
    } else if report.stands {
        // No more than a warning: it may be the answer that repeats the text, and whoever takes this
        // for a failure sends it twice.
        note(&format!(
            "WARNING: Enter was pressed in pane {pane} (session '{session}'), but the message may not have \
             been submitted: the text still stands in the input line of '{command}'"
        ));
    }
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
        harmless_line(text)
    )
}

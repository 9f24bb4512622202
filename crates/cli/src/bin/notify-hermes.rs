//! `notify-hermes`: sends one message, and says whether the bus has taken it.

use std::process::ExitCode;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};
use hermes_bus::arguments::notify_hermes::{Arguments, normalize};
use hermes_bus::failure::{Failure, exit, is_success, receipt_json, receipt_words};
use hermes_bus::screen::{note, say};
use hermes_bus::sender::{Content, find_bus, sender_name};
use hermes_bus_client::{Outgoing, Receipt};

/// Who sends where nobody says otherwise.
const FALLBACK: &str = "notify-hermes";
/// How long a message may take to come as far as it is to.
const RECEIPT_PATIENCE: Duration = Duration::from_secs(30);

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse_from(normalize(std::env::args_os())) {
        Ok(arguments) => arguments,
        // No wrong usage, as far as released scripts know.
        Err(error) if error.kind() == ErrorKind::InvalidUtf8 => {
            note(
                "ERROR: an argument is not UTF-8; only --socket and --config may be anything else",
            );
            return ExitCode::from(exit::FAILED);
        }
        // Some say how it is used already.
        Err(error) if error.use_stderr() && !error.to_string().contains("Usage:") => {
            note(&format!("{}\n{error}", Arguments::command().render_usage()));
            return ExitCode::from(exit::USAGE);
        }
        Err(error) => error.exit(),
    };
    let outcome = match send(&arguments) {
        Ok(receipt) => report(&arguments, &receipt),
        Err(failure) => {
            note(&format!("ERROR: {failure}"));
            let told = match arguments.json {
                true => say(&failure.to_json().to_string()),
                false => Ok(()),
            };
            told.map(|()| ExitCode::from(failure.exit_code))
        }
    };
    // A message that was sent stays sent, whether somebody reads about it or not.
    outcome.unwrap_or(ExitCode::SUCCESS)
}

fn send(arguments: &Arguments) -> Result<Receipt, Failure> {
    let Arguments { message, body, kind, channel, .. } = arguments;
    let content = Content {
        text: message.clone(),
        body: body.clone(),
        body_may_be_input: false,
        kind: kind.clone(),
        channel: channel.clone(),
    };
    let message = content.compose(&arguments.to)?;
    let sender = sender_name(arguments.from.as_deref(), arguments.config.as_deref(), FALLBACK)?;
    let socket = arguments.socket.as_deref().filter(|path| !path.as_os_str().is_empty());
    let bus = find_bus(socket, None)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::new("no_runtime", error.to_string()))?;
    runtime.block_on(async {
        let mut message: Outgoing = message.from(sender);
        if arguments.queue {
            message = message.queue();
        }
        let Some(wanted) = arguments.receipt else {
            let sent = bus.send(&message).await;
            return match sent {
                Ok(receipt) => Ok(receipt),
                Err(error) => Err(Failure::sending(&error, &bus, &arguments.to).await),
            };
        };
        let mut message = message.receipt(wanted);
        let id = message.ensure_id().to_owned();
        let bus = bus.patience(RECEIPT_PATIENCE);
        match bus.send(&message).await {
            Ok(receipt) => Ok(receipt),
            Err(error) => Err(Failure::receipting(&error, &bus, &arguments.to, wanted, &id).await),
        }
    })
}

fn report(arguments: &Arguments, receipt: &Receipt) -> std::io::Result<ExitCode> {
    if arguments.json {
        say(&receipt_json(&arguments.to, receipt).to_string())?;
    } else {
        let how_far = match arguments.receipt {
            Some(_) => format!(" ({})", receipt_words(&arguments.to, receipt)),
            None => String::new(),
        };
        say(&format!("OK: notified {}{how_far}", arguments.to))?;
    }
    Ok(if is_success(receipt) { ExitCode::SUCCESS } else { ExitCode::from(exit::FAILED) })
}

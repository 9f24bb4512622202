//! `hermes-bus`: what people do with a bus. For now: see one at work.

mod demo;

use std::io::Write;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// A message bus for the agents, scripts and people of one machine.
#[derive(Parser)]
#[command(name = "hermes-bus", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Watch three agents work over a private bus; leaves nothing behind
    Demo,
}

fn main() -> ExitCode {
    let Arguments { command: Command::Demo } = Arguments::parse();
    match demo::run() {
        Ok(()) => ExitCode::SUCCESS,
        // A reader that has seen enough is no failure.
        Err(error)
            if error
                .downcast_ref::<std::io::Error>()
                .is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe) =>
        {
            ExitCode::SUCCESS
        }
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "hermes-bus: {error:#}");
            ExitCode::FAILURE
        }
    }
}

//! `hermes-busd`: starts, stops and examines the bus in the background.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use hermes_bus_daemon::manager::{self, Form};
use hermes_bus_daemon::root::Root;

/// Manage the hermes bus that runs in the background.
#[derive(Parser)]
#[command(name = "hermes-busd", version)]
struct Arguments {
    /// The root directory [default: $HERMES_BUS_ROOT, else ~/.hermes]
    #[arg(long, value_name = "DIR", global = true)]
    root: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Start the bus, unless it runs
    Start,
    /// Stop the bus, however it was started
    Stop,
    /// Say what runs, and who is connected
    Status {
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Stop the bus and start it anew
    Restart,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let mut out = std::io::stdout().lock();
    let outcome =
        Root::find(arguments.root.as_deref()).map_err(anyhow::Error::from).and_then(|root| {
            match arguments.command {
                Command::Start => manager::start(&root, &mut out),
                Command::Stop => manager::stop(&root, &mut out),
                Command::Restart => manager::restart(&root, &mut out),
                Command::Status { json } => {
                    manager::status(&root, if json { Form::Json } else { Form::Text }, &mut out)
                }
            }
        });
    match outcome {
        Ok(code) => code,
        // A reader that has seen enough is no failure.
        Err(error) if is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = out.flush();
            let _ = writeln!(std::io::stderr(), "hermes-busd: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn is_closed_pipe(error: &anyhow::Error) -> bool {
    let cause = error.downcast_ref::<std::io::Error>();
    cause.is_some_and(|cause| cause.kind() == std::io::ErrorKind::BrokenPipe)
}

//! `hermes-busd`: starts, stops and examines the bus in the background.

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use hermes_bus::arguments::busd::{Arguments, Command};
use hermes_bus::screen::is_closed_pipe;
use hermes_bus_daemon::manager::{self, Form};
use hermes_bus_daemon::root::Root;
use hermes_bus_daemon::service::{self, Change};

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let mut out = std::io::stdout().lock();
    let outcome =
        Root::find(arguments.root.as_deref()).map_err(anyhow::Error::from).and_then(|root| {
            match arguments.command {
                Command::Start { adjustments } => {
                    manager::start(&root, &adjustments.sources(&root), &mut out)
                }
                Command::Stop => manager::stop(&root, &mut out),
                Command::Restart { adjustments } => {
                    manager::restart(&root, &adjustments.sources(&root), &mut out)
                }
                Command::Reload => manager::reload(&root, &mut out),
                Command::InstallService { dry_run } => {
                    service::install(&root, change(dry_run), &mut out)
                }
                Command::UninstallService { dry_run } => {
                    service::uninstall(&root, change(dry_run), &mut out)
                }
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

fn change(dry_run: bool) -> Change {
    if dry_run { Change::DryRun } else { Change::Real }
}

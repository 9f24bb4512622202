//! `hermes-bus-server`: the bus in the foreground.

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use hermes_bus::arguments::server::Arguments;
use hermes_bus_daemon::root::Root;
use hermes_bus_daemon::server::{self, Mode, Origin};

/// For a process that lives for months and whose queues grow and empty; see docs/ARCHITECTURE.md.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let mode = if arguments.detached { Mode::Detached } else { Mode::Foreground };
    let origin = if arguments.successor { Origin::Successor } else { Origin::New };
    let served =
        Root::find(arguments.root.as_deref()).map_err(anyhow::Error::from).and_then(|root| {
            let sources = arguments.adjustments.sources(&root);
            server::run(&root, mode, origin, sources)
        });
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "hermes-bus-server: {error:#}");
            ExitCode::FAILURE
        }
    }
}

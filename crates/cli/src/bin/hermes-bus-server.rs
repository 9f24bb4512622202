//! `hermes-bus-server`: the bus in the foreground.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use hermes_bus_daemon::root::Root;
use hermes_bus_daemon::server::{self, Mode};

/// Serve a hermes bus in the foreground, until Ctrl-C or SIGTERM.
///
/// The socket is ROOT/hermes-bus.sock. Log lines go to standard error; HERMES_BUS_LOG sets their
/// level (error, warn, info, debug, trace).
#[derive(Parser)]
#[command(name = "hermes-bus-server", version)]
struct Arguments {
    /// The root directory [default: $HERMES_BUS_ROOT, else ~/.hermes]
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// Leave the terminal, write a PID file, log to ROOT/run/busd.log
    #[arg(long, hide = true)]
    detached: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let mode = if arguments.detached { Mode::Detached } else { Mode::Foreground };
    let served = Root::find(arguments.root.as_deref())
        .map_err(anyhow::Error::from)
        .and_then(|root| server::run(&root, mode));
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "hermes-bus-server: {error:#}");
            ExitCode::FAILURE
        }
    }
}

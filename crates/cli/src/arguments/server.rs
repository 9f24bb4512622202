//! `hermes-bus-server`.

use std::path::PathBuf;

use clap::Parser;

use super::Adjustments;

/// Serve a hermes bus in the foreground, until Ctrl-C or SIGTERM.
///
/// The socket is ROOT/hermes-bus.sock. Log lines go to standard error; HERMES_BUS_LOG sets their
/// level (error, warn, info, debug). SIGHUP has the configuration read again.
#[derive(Debug, Parser)]
#[command(name = "hermes-bus-server", version)]
pub struct Arguments {
    /// The root directory [default: $HERMES_BUS_ROOT, else ~/.hermes]
    #[arg(long, value_name = "DIR")]
    pub root: Option<PathBuf>,
    /// What is set here.
    #[command(flatten)]
    pub adjustments: Adjustments,
    /// Leave the terminal, write a PID file, log to ROOT/run/busd.log
    #[arg(long, hide = true)]
    pub detached: bool,
    /// Make the root directory, which must not be there yet; end when standard input does, and remove it
    #[arg(long, hide = true, requires = "root", conflicts_with_all = ["detached", "successor"])]
    pub ephemeral: bool,
    /// Follow the server that starts this one, and talks to it through standard input
    #[arg(long, hide = true)]
    pub successor: bool,
}

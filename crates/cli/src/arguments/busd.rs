//! `hermes-busd`.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use super::Adjustments;

/// Manage the hermes bus that runs in the background.
#[derive(Debug, Parser)]
#[command(name = "hermes-busd", version)]
pub struct Arguments {
    /// The root directory [default: $HERMES_BUS_ROOT, else ~/.hermes]
    #[arg(long, value_name = "DIR", global = true)]
    pub root: Option<PathBuf>,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do with the daemon.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start the bus, unless it runs
    Start {
        /// What is set here.
        #[command(flatten)]
        adjustments: Adjustments,
    },
    /// Stop the bus, however it was started
    Stop,
    /// Say what runs, and who is connected
    Status {
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Have a new process follow the one that runs, without a moment in which nobody can connect
    ///
    /// Names that were connected are held for their clients. A bus that cannot hand over is stopped
    /// and started anew.
    Restart {
        /// What is set here.
        #[command(flatten)]
        adjustments: Adjustments,
    },
    /// Have the bus read its configuration and hooks again
    ///
    /// Says what holds from now on, and what only after a restart. With a mistake in it, the old
    /// configuration stays. SIGHUP does the same.
    Reload,
    /// Have the service manager of this user (systemd, launchd) run the bus
    ///
    /// Writes the service's files, and enables and starts it where a service manager answers. A bus
    /// that was started by hand has to be stopped before. Files of somebody else are never overwritten.
    InstallService {
        /// Only show the files and commands
        #[arg(long)]
        dry_run: bool,
    },
    /// Stop that service and remove its files
    UninstallService {
        /// Only show what would be removed
        #[arg(long)]
        dry_run: bool,
    },
}

//! `hermes-busd`.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

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

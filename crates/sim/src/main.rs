//! Simulates the router from seeds. `--help` tells the rest.

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use hermes_bus_sim::program::{Arguments, Simulator, run};

fn main() -> ExitCode {
    // Not locked: the watchdog writes to it, too.
    match run(&Arguments::parse(), &Simulator::real(), &mut std::io::stdout()) {
        Ok(outcome) => outcome.exit_code(),
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "hermes-bus-sim: {error:#}");
            ExitCode::FAILURE
        }
    }
}

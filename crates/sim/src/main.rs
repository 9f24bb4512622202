//! Simulates the router from seeds. `--help` tells the rest.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;
use hermes_bus_sim::program::{Arguments, Simulator, run};

fn main() -> ExitCode {
    let arguments = Arguments::parse().checked().unwrap_or_else(|error| error.exit());
    // Not locked: the watchdog writes to it, too.
    let out = &mut io::stdout();
    let outcome = match arguments.durable {
        true => run(&arguments, &Simulator::durable(), out),
        false => run(&arguments, &Simulator::real(), out),
    };
    match outcome {
        Ok(outcome) => outcome.exit_code(),
        Err(error) if is_broken_pipe(&error) => ExitCode::from(BROKEN_PIPE),
        Err(error) => {
            let _ = writeln!(io::stderr(), "hermes-bus-sim: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whoever read the output has gone: what a shell says of a program that SIGPIPE has ended, 128 + 13.
/// Neither 0 nor 1 would be true of runs that nobody heard of.
const BROKEN_PIPE: u8 = 141;

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let cause = error.downcast_ref::<io::Error>();
    cause.is_some_and(|cause| cause.kind() == io::ErrorKind::BrokenPipe)
}

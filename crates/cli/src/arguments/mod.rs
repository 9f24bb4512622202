//! The command lines of all programs.

pub mod bus;
pub mod busd;
pub mod notify_agent;
pub mod notify_hermes;
pub mod receiving;
pub mod server;

use std::path::PathBuf;

use clap::{Args, CommandFactory};
use hermes_bus_daemon::config::Sources;
use hermes_bus_daemon::root::Root;

/// The table of exit codes, for `--help` and the manual pages.
pub const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  not done: no bus, an unknown endpoint, a refusal, a body that is no JSON, findings of doctor
  2  wrong usage
  3  time ran out: no reply, no receipt, or fewer messages than asked for
  4  standard input cannot be read
  5  another session took the name
  6  a command that was given with --exec failed";

/// What the command line says about the configuration.
#[derive(Args, Debug, Default)]
pub struct Adjustments {
    /// Configuration file [default: $HERMES_BUS_CONFIG, else hermes-bus/config.yaml in the root
    /// directory]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Set a key of the configuration, as in sessions.linger=5s; can be given several times
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
}

impl Adjustments {
    /// Where the configuration of the bus in `root` is read from.
    pub fn sources(&self, root: &Root) -> Sources {
        Sources::new(root, self.config.clone(), self.set.clone())
    }
}

/// Every program's definition.
pub fn programs() -> Vec<clap::Command> {
    vec![
        bus::Arguments::command(),
        busd::Arguments::command(),
        server::Arguments::command(),
        notify_hermes::Arguments::command(),
        notify_agent::command(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_has_the_same_table_of_exit_codes() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/COMMANDS.md");
        let document = std::fs::read_to_string(path).expect("docs stand beside the crates");
        for line in EXIT_CODES.lines().skip(1) {
            let (code, meaning) = line.trim().split_once("  ").expect("a code and its meaning");
            let row = format!(
                "| {code} | {} |",
                meaning.replace("--exec", "`--exec`").replace("doctor", "`doctor`")
            );
            assert!(document.contains(&row), "docs/COMMANDS.md lacks the row:\n{row}");
        }
    }
}

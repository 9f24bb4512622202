//! `hermes-bus`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use hermes_bus_daemon::config::parse_time;

use super::{Adjustments, EXIT_CODES};
use crate::screen::Color;
use crate::sender::Content;

/// A message bus for the agents, scripts and people of one machine.
#[derive(Debug, Parser)]
#[command(name = "hermes-bus", version, after_help = EXIT_CODES)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// Which bus.
    #[command(flatten)]
    pub place: Place,
}

/// Which bus is meant.
#[derive(Args, Debug)]
pub struct Place {
    /// Socket of the bus [default: hermes-bus.sock in the root directory]
    #[arg(long, value_name = "PATH", global = true, conflicts_with = "root")]
    pub socket: Option<PathBuf>,
    /// Root directory of the bus [default: $HERMES_BUS_ROOT, else ~/.hermes]
    #[arg(long, value_name = "DIR", global = true)]
    pub root: Option<PathBuf>,
    /// Do not start the bus where it does not run
    #[arg(long, global = true)]
    pub no_start: bool,
    /// Print JSON, one object a line
    #[arg(long, global = true)]
    pub json: bool,
    /// When to use colours
    #[arg(long, value_name = "WHEN", global = true, value_enum, default_value_t)]
    pub color: Color,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Send a message, and say whether the bus took it
    Send(Send),
    /// Print what is sent to a name, as it comes
    Listen(Listen),
    /// Send a message and wait for its reply
    ///
    /// The reply is the message whose `reply_to` is the id of the request. Without --from, the
    /// request comes from a name of its own, `request-PID`, so that it can be answered.
    Request(Request),
    /// Say who is connected
    List,
    /// Measure how long the bus takes to answer
    Ping {
        /// How often
        #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
        count: u32,
    },
    /// Print what the bus has counted, as OpenMetrics text
    ///
    /// A scraper reads the same at /metrics on run/metrics.sock in the root directory.
    Metrics,
    /// Look for everything that could keep the bus from working, and say what to do about it
    ///
    /// It changes nothing without --fix, and never starts a bus. The exit code is 0 if there is
    /// nothing to do, else 1.
    Doctor {
        /// Do what is safe: remove what a dead bus left behind, and close files of the bus to others
        #[arg(long)]
        fix: bool,
    },
    /// Print the versions of this program and of the bus that runs
    Version,
    /// Look at the configuration of the bus
    #[command(subcommand)]
    Config(Config),
    /// Watch three agents work over a private bus; leaves nothing behind
    Demo,
    /// Print a completion script for a shell
    ///
    /// For bash, for example, with the directory in place:
    /// hermes-bus completions bash > ~/.local/share/bash-completion/completions/hermes-bus
    Completions {
        /// The shell
        shell: clap_complete::Shell,
        /// The program to be completed
        #[arg(default_value = "hermes-bus")]
        program: String,
    },
    /// Print a manual page, or write all of them into a directory
    ///
    /// It is roff: man reads it from a file that is given with its path.
    Man {
        /// The program
        #[arg(default_value = "hermes-bus", conflicts_with = "dir")]
        program: String,
        /// Write every page of every program there
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
    },
}

/// `hermes-bus config`
#[derive(Debug, Subcommand)]
pub enum Config {
    /// Find mistakes in the configuration before the bus does
    ///
    /// With a FILE, in that file alone; else in all that the bus would read.
    Check {
        /// A configuration file
        #[arg(conflicts_with_all = ["config", "set"])]
        file: Option<PathBuf>,
        /// What is set here.
        #[command(flatten)]
        adjustments: Adjustments,
    },
    /// Print every key with its value, and where that comes from
    ///
    /// What is printed can be used as a configuration file. Tokens are left out. A bus that runs may
    /// have been started with other variables and options, or before the file was changed.
    Show {
        /// Print the defaults instead
        #[arg(long, conflicts_with_all = ["config", "set"])]
        default: bool,
        /// What is set here.
        #[command(flatten)]
        adjustments: Adjustments,
    },
    /// Print where the configuration file is
    Path {
        /// What is set here.
        #[command(flatten)]
        adjustments: Adjustments,
    },
    /// Print the reference of all keys
    #[command(hide = true)]
    Reference,
}

/// A message on the command line.
#[derive(Args, Debug)]
pub struct Compose {
    /// The endpoint; empty means all of them
    #[arg(value_name = "TO")]
    pub to: String,
    /// The message's text; '-' reads it from standard input
    #[arg(value_name = "TEXT", required_unless_present = "body", conflicts_with = "body")]
    text: Option<String>,
    /// The message's whole body as JSON; '-' reads it from standard input
    #[arg(long, value_name = "JSON", allow_hyphen_values = true)]
    body: Option<String>,
    /// The body's type, for the rules of the receiver
    #[arg(long = "type", value_name = "TYPE")]
    kind: Option<String>,
    /// The body's channel: the chat that a reply belongs to, as platform:chat_id
    #[arg(long, value_name = "CHANNEL")]
    channel: Option<String>,
    /// The message's id [default: a new UUID]
    #[arg(long, value_name = "ID")]
    pub id: Option<String>,
}

impl Compose {
    /// What the body is made of.
    pub fn content(&self) -> Content {
        let Compose { text, body, kind, channel, .. } = self;
        Content {
            text: text.clone(),
            body: body.clone(),
            body_may_be_input: true,
            kind: kind.clone(),
            channel: channel.clone(),
        }
    }
}

/// `hermes-bus send`
#[derive(Args, Debug)]
pub struct Send {
    /// The message.
    #[command(flatten)]
    pub compose: Compose,
    /// The sender's name, or its key in role_map of bus-rules.yaml [default: the tmux session this
    /// runs in, else 'hermes-bus']
    #[arg(long, value_name = "NAME")]
    pub from: Option<String>,
    /// The id of the message that this one answers
    #[arg(long, value_name = "ID")]
    pub reply_to: Option<String>,
}

/// `hermes-bus request`
#[derive(Args, Debug)]
pub struct Request {
    /// The message.
    #[command(flatten)]
    pub compose: Compose,
    /// The name to ask from; nobody else may have it [default: request-PID]
    #[arg(long, value_name = "NAME")]
    pub from: Option<String>,
    /// How long to wait for the reply: seconds, or a number with a unit (500ms, 2m)
    #[arg(long, value_name = "TIME", default_value = "30", value_parser = parse_time)]
    pub timeout: Duration,
}

/// `hermes-bus listen`
#[derive(Args, Debug)]
pub struct Listen {
    /// The name to listen as [default: listen-PID]
    pub name: Option<String>,
    /// Take the name, even if another session has it
    #[arg(long)]
    pub replace: bool,
    /// Run a command in a shell for each message instead of printing it, one after the other
    ///
    /// It gets the message as JSON on standard input, and in MESSAGE, FROM, TYPE, TEXT, CHANNEL, ID
    /// and TS (values of up to 100 KiB).
    #[arg(long, value_name = "CMD")]
    pub exec: Option<String>,
    /// End after this many messages
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
    /// End after this time: seconds, or a number with a unit (500ms, 2m)
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    pub timeout: Option<Duration>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_sound() {
        use clap::CommandFactory;
        Arguments::command().debug_assert();
    }
}

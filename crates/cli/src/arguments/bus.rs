//! `hermes-bus`.

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Parser, Subcommand, ValueHint};
use hermes_bus_client::{Conflict, Status, topic_address};
use hermes_bus_daemon::config::parse_time;

use super::receiving::{Agent, BodyTypes, Rules};
use super::{Adjustments, EXIT_CODES};
use crate::screen::{Color, parse_moment};
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
    /// Send a message to everybody who is subscribed to a topic
    Publish(Publish),
    /// Print what is published to topics, as it comes
    Subscribe(Subscribe),
    /// Print who comes and goes, and what is routed
    ///
    /// What is routed only the bus's own user and root may see.
    Watch(Watch),
    /// Say where a message is, and why it is not further
    Trace {
        /// The message's id
        id: String,
    },
    /// Look at what waits for endpoints that are away
    #[command(subcommand)]
    Mailbox(Mailbox),
    /// Look at messages that could not be delivered
    #[command(subcommand)]
    Dead(Dead),
    /// Print messages of the past that the bus has kept
    History(History),
    /// Look at groups, of which one member gets each message
    #[command(subcommand)]
    Group(Group),
    /// Receive for a program: print, keep texts for its model, run commands, by the rules of bus-rules.yaml
    ///
    /// A message is acknowledged when all that its rules say has succeeded. One of which something
    /// fails comes again later.
    #[command(args_conflicts_with_subcommands = true)]
    Agent(Agent),
    /// Look at the rules of bus-rules.yaml
    #[command(subcommand)]
    Rules(Rules),
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
    /// The endpoint; empty means all of them. @GROUP means one of its members, #TOPIC its subscribers
    #[arg(value_name = "TO")]
    pub to: String,
    /// What is sent.
    #[command(flatten)]
    pub body: Body,
}

/// What is sent.
#[derive(Args, Debug)]
pub struct Body {
    /// The message's text; '-' reads it from standard input
    #[arg(value_name = "TEXT", required_unless_present = "body", conflicts_with = "body")]
    text: Option<String>,
    /// The message's whole body as JSON; '-' reads it from standard input
    #[arg(long, value_name = "JSON", allow_hyphen_values = true)]
    body: Option<String>,
    /// The body's type, for the rules of the receiver
    #[arg(long = "type", value_name = "TYPE", value_parser = BodyTypes, hide_possible_values = true)]
    kind: Option<String>,
    /// The body's channel: the chat that a reply belongs to, as platform:chat_id
    #[arg(long, value_name = "CHANNEL")]
    channel: Option<String>,
    /// The message's id [default: a new UUID]
    #[arg(long, value_name = "ID")]
    pub id: Option<String>,
}

impl Body {
    /// What the body is made of.
    pub fn content(&self) -> Content {
        let Body { text, body, kind, channel, .. } = self;
        Content {
            text: text.clone(),
            body: body.clone(),
            body_may_be_input: true,
            kind: kind.clone(),
            channel: channel.clone(),
        }
    }
}

/// How far a message is to come, and for how long it is wanted.
#[derive(Args, Debug)]
pub struct Wanted {
    /// Wait until it has come this far: with the bus (accepted), on disk (stored), handed over to the
    /// receiver (delivered), confirmed by it (acked)
    #[arg(long, value_name = "STATE", value_parser = parse_state())]
    pub receipt: Option<Status>,
    /// Give it up after this time: seconds, or a number with a unit (500ms, 2m)
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    pub ttl: Option<Duration>,
    /// How long to wait for the bus [default: 5s; with --receipt 30s]
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    pub timeout: Option<Duration>,
}

/// The states that a sender can wait for.
pub fn parse_state() -> impl TypedValueParser<Value = Status> {
    let words = Status::ALL.map(Status::as_str);
    PossibleValuesParser::new(words).map(|word| Status::of(&word).expect("it is one of the words"))
}

/// `hermes-bus send`
#[derive(Args, Debug)]
pub struct Send {
    /// The message.
    #[command(flatten)]
    pub compose: Compose,
    /// How far it is to come.
    #[command(flatten)]
    pub wanted: Wanted,
    /// Store it if the endpoint is known, but not there
    #[arg(long)]
    pub queue: bool,
    /// The sender's name, or its key in role_map of bus-rules.yaml [default: the tmux session this
    /// runs in, else 'hermes-bus']
    #[arg(long, value_name = "NAME")]
    pub from: Option<String>,
    /// The id of the message that this one answers
    #[arg(long, value_name = "ID")]
    pub reply_to: Option<String>,
}

/// `hermes-bus publish`
#[derive(Args, Debug)]
pub struct Publish {
    /// The topic: words with dots between them
    #[arg(value_parser = |topic: &str| topic_address(topic).map_err(|error| error.to_string()))]
    pub topic: String,
    /// What is sent.
    #[command(flatten)]
    pub body: Body,
    /// How far it is to come.
    #[command(flatten)]
    pub wanted: Wanted,
    /// The sender's name, as with `send`
    #[arg(long, value_name = "NAME")]
    pub from: Option<String>,
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
    /// The same as NAME
    #[arg(long = "name", value_name = "NAME", conflicts_with = "name")]
    pub named: Option<String>,
    /// Be a member of this group; can be given several times
    #[arg(long, value_name = "NAME")]
    pub group: Vec<String>,
    /// Subscribe to topics that match this; can be given several times
    #[arg(long, value_name = "PATTERN")]
    pub topic: Vec<String>,
    /// How to listen.
    #[command(flatten)]
    pub hearing: Hearing,
}

/// `hermes-bus subscribe`
#[derive(Args, Debug)]
pub struct Subscribe {
    /// Topics: '*' stands for one word between dots, '>' at the end for the rest
    #[arg(value_name = "PATTERN", required = true)]
    pub patterns: Vec<String>,
    /// The name to listen as [default: subscribe-PID]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// How to listen.
    #[command(flatten)]
    pub hearing: Hearing,
}

/// What `listen` and `subscribe` have in common.
#[derive(Args, Debug)]
pub struct Hearing {
    /// What to do if the name is taken [default: refuse]
    #[arg(long, value_name = "MODE", value_enum)]
    pub conflict: Option<OnConflict>,
    /// Take the name, even if another session has it: --conflict replace
    #[arg(long, conflicts_with = "conflict")]
    pub replace: bool,
    /// Have the bus keep what is sent to the name while nobody listens; needs a name
    #[arg(long)]
    pub mailbox: bool,
    /// Acknowledge each message when it has been printed, or when its command has succeeded
    ///
    /// A message whose command fails is given back, and comes again later. What was not acknowledged
    /// comes again to the next who listens.
    #[arg(long)]
    pub ack: bool,
    /// How many messages to take before one is acknowledged
    #[arg(long, value_name = "N", requires = "ack", value_parser = clap::value_parser!(u32).range(1..=65536))]
    pub in_flight: Option<u32>,
    /// Leave out what was acknowledged before and comes again, recognised by sender and id
    #[arg(long, requires = "ack")]
    pub hide_repeats: bool,
    /// Read the secret of a protected name from this file
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub token_file: Option<PathBuf>,
    /// Run a command in a shell for each message instead of printing it, one after the other
    ///
    /// It gets the message as JSON on standard input, and in MESSAGE, FROM, TYPE, TEXT, CHANNEL, ID,
    /// TS, VIA and DELIVERY (values of up to 100 KiB).
    #[arg(long, value_name = "CMD")]
    pub exec: Option<String>,
    /// End after this many messages
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
    /// End after this time: seconds, or a number with a unit (500ms, 2m)
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    pub timeout: Option<Duration>,
}

/// What to do if a name is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum OnConflict {
    /// Take it
    Replace,
    /// Give up
    Refuse,
    /// Listen as NAME-2, NAME-3, …
    Suffix,
}

impl Hearing {
    /// What to do if the name is taken.
    pub fn on_conflict(&self) -> Conflict {
        match self.conflict {
            Some(OnConflict::Replace) => Conflict::Replace,
            Some(OnConflict::Suffix) => Conflict::Suffix,
            None if self.replace => Conflict::Replace,
            None | Some(OnConflict::Refuse) => Conflict::Refuse,
        }
    }
}

/// `hermes-bus watch`
#[derive(Args, Debug)]
pub struct Watch {
    /// Print what is routed as well: envelopes, or whole messages
    #[arg(long, value_name = "WHAT", value_enum)]
    pub tap: Option<Tap>,
    /// Leave out who comes and goes
    #[arg(long, requires = "tap")]
    pub no_presence: bool,
    /// End after this many lines
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
    /// End after this time: seconds, or a number with a unit (500ms, 2m)
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    pub timeout: Option<Duration>,
}

/// How much to see of what is routed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Tap {
    /// Who writes to whom, and how much
    Envelopes,
    /// The messages
    Messages,
}

/// `hermes-bus mailbox`
#[derive(Debug, Subcommand)]
pub enum Mailbox {
    /// Say for whom messages wait
    List,
    /// Print what waits for an endpoint
    Show {
        /// The endpoint
        name: String,
        /// At most so many messages
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
        limit: Option<u64>,
    },
    /// Print what waits for an endpoint, and remove it
    Drain {
        /// The endpoint
        name: String,
        /// At most so many messages
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
        limit: Option<u64>,
    },
    /// Remove what waits for an endpoint
    Purge {
        /// The endpoint
        name: String,
    },
}

/// `hermes-bus dead`
#[derive(Debug, Subcommand)]
pub enum Dead {
    /// Say which messages could not be delivered, and why
    List {
        /// Only those for this endpoint
        name: Option<String>,
        /// At most so many
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
        limit: Option<u64>,
    },
    /// Print one of them
    Show {
        /// Its key, as `dead list` prints it
        key: u64,
    },
    /// Send some of them once more
    Retry(Which),
    /// Forget some of them
    Drop(Which),
}

/// Which dead letters.
#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
pub struct Which {
    /// The one with this key
    pub key: Option<u64>,
    /// All for this endpoint
    #[arg(long, value_name = "NAME")]
    pub endpoint: Option<String>,
    /// All
    #[arg(long)]
    pub all: bool,
}

/// `hermes-bus history`
#[derive(Args, Debug)]
pub struct History {
    /// Only messages with these words
    #[arg(long, value_name = "WORDS")]
    pub search: Option<String>,
    /// Only messages of this sender
    #[arg(long, value_name = "NAME")]
    pub from: Option<String>,
    /// Only messages to this endpoint
    #[arg(long, value_name = "NAME")]
    pub to: Option<String>,
    /// Only messages from then on: a time ago (1h), a day (2026-11-01), or a moment
    /// (2026-11-01T12:30)
    #[arg(long, value_name = "WHEN", value_parser = parse_moment)]
    pub since: Option<f64>,
    /// Only messages until then
    #[arg(long, value_name = "WHEN", value_parser = parse_moment)]
    pub until: Option<f64>,
    /// At most so many, the newest [default: 50; with --since all]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub limit: Option<u64>,
    /// Go on with what comes
    #[arg(long, conflicts_with = "until")]
    pub follow: bool,
}

/// `hermes-bus group`
#[derive(Debug, Subcommand)]
pub enum Group {
    /// Say which groups there are, with their members
    List,
    /// Say who is a member of a group
    Members {
        /// The group, with or without its @
        name: String,
    },
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

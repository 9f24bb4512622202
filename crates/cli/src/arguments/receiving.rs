//! `hermes-bus agent` and `hermes-bus rules`, and the types of bodies that they are about.

use std::path::PathBuf;

use clap::builder::{PossibleValue, TypedValueParser};
use clap::{Args, Subcommand, ValueHint};

/// `hermes-bus agent`
#[derive(Args, Debug)]
pub struct Agent {
    /// Something else than to receive.
    #[command(subcommand)]
    pub what: Option<AgentWhat>,
    /// How to receive.
    #[command(flatten)]
    pub receive: Receive,
}

/// `hermes-bus agent`, by itself
#[derive(Args, Debug)]
pub struct Receive {
    /// The name to register; where it is taken, NAME-2, NAME-3, … [default: $HERMES_BUS_ENDPOINT, else
    /// bus.endpoint of the rules, else the profile of $HERMES_HOME, else 'hermes-bus']
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// The rules [default: bus-rules.yaml in $HERMES_HOME, else in ~/.hermes]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub rules: Option<PathBuf>,
    /// Be a member of this group; can be given several times
    #[arg(long, value_name = "NAME")]
    pub group: Vec<String>,
    /// Subscribe to topics that match this; can be given several times
    #[arg(long, value_name = "PATTERN")]
    pub topic: Vec<String>,
    /// How many messages to take before one is acknowledged
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=65536))]
    pub in_flight: u32,
    /// Read the secret of a protected name from this file
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub token_file: Option<PathBuf>,
}

/// `hermes-bus agent …`
#[derive(Debug, Subcommand)]
pub enum AgentWhat {
    /// Print the texts that wait for the model, and remove them
    ///
    /// Whoever is ended in between prints them once more the next time, and says so.
    Drain(Drain),
    /// Say what the agent is doing, for rules with 'when', or print what was said last
    State {
        /// What it is doing
        #[arg(value_parser = ["idle", "busy"])]
        state: Option<String>,
        /// The agent's name, as with drain
        #[arg(long, value_name = "NAME")]
        name: Option<String>,
    },
}

/// `hermes-bus agent drain`
#[derive(Args, Debug)]
pub struct Drain {
    /// The agent's name [default: $HERMES_BUS_PLUGIN_ENDPOINT, else as the agent finds it]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// How to print them; --json is the same as json
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t)]
    pub format: DrainFormat,
    /// At most so many
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub limit: Option<u64>,
    /// Leave them where they are
    #[arg(long)]
    pub keep: bool,
}

/// How to print what waits for a model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum DrainFormat {
    /// For the model, with blank lines between
    #[default]
    Text,
    /// One object a line
    Json,
}

/// `hermes-bus rules`
#[derive(Debug, Subcommand)]
pub enum Rules {
    /// Find mistakes in a rules file before an agent does
    Check {
        /// The file [default: bus-rules.yaml in $HERMES_HOME, else in ~/.hermes]
        file: Option<PathBuf>,
    },
    /// Show which rules a message would hit, and what they would do; nothing is done
    Test(RulesTest),
}

/// `hermes-bus rules test`
#[derive(Args, Debug)]
pub struct RulesTest {
    /// The message's text
    #[arg(value_name = "TEXT", default_value = "")]
    pub text: String,
    /// The message's whole body as JSON, instead of a text
    #[arg(long, value_name = "JSON", conflicts_with = "text")]
    pub body: Option<String>,
    /// The whole message as JSON, as 'listen --json' prints it; '-' reads it from standard input
    #[arg(long, value_name = "JSON", conflicts_with_all = ["text", "body", "kind", "channel", "from", "sender", "to"])]
    pub message: Option<String>,
    /// The body's type
    #[arg(long = "type", value_name = "TYPE", value_parser = BodyTypes, hide_possible_values = true)]
    pub kind: Option<String>,
    /// The body's channel
    #[arg(long, value_name = "CHANNEL")]
    pub channel: Option<String>,
    /// Who it says it is from
    #[arg(long, value_name = "NAME")]
    pub from: Option<String>,
    /// The endpoint that the bus says it is from [default: the same; empty: none]
    #[arg(long, value_name = "NAME")]
    pub sender: Option<String>,
    /// The address that it was sent to
    #[arg(long, value_name = "TO", default_value = "")]
    pub to: String,
    /// What the agent is doing
    #[arg(long, value_name = "STATE", default_value = "idle", value_parser = ["idle", "busy"])]
    pub state: String,
    /// The rules [default: bus-rules.yaml in $HERMES_HOME, else in ~/.hermes]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub rules: Option<PathBuf>,
}

/// The conventional types of bodies, offered by shell completion. Any other text is a type as well.
pub const BODY_TYPES: [(&str, &str); 8] = [
    ("directive", "what the receiver is to do"),
    ("ack", "it was received, and is being seen to"),
    ("task_start", "work on a task has begun"),
    ("progress", "how far it is"),
    ("plan_ready", "a plan is there, and waits for approval"),
    ("need_decision", "work cannot go on before somebody decides"),
    ("task_done", "a task is done"),
    ("task_error", "a task has failed"),
];

/// Takes any text, and offers [`BODY_TYPES`].
#[derive(Clone, Copy, Debug)]
pub struct BodyTypes;

impl TypedValueParser for BodyTypes {
    type Value = String;

    fn parse_ref(
        &self,
        command: &clap::Command,
        argument: Option<&clap::Arg>,
        value: &std::ffi::OsStr,
    ) -> Result<String, clap::Error> {
        clap::builder::StringValueParser::new().parse_ref(command, argument, value)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        let known = BODY_TYPES.iter().map(|(name, help)| PossibleValue::new(*name).help(*help));
        Some(Box::new(known))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_has_the_same_types_of_bodies() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/BODY_TYPES.md");
        let document = std::fs::read_to_string(path).expect("docs stand beside the crates");
        for (name, meaning) in BODY_TYPES {
            let row = document.lines().find(|line| line.starts_with(&format!("| `{name}` |")));
            assert!(row.is_some_and(|row| row.contains(meaning)), "{name}: {meaning}");
        }
    }
}

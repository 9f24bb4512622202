//! `notify-hermes`: the command line of the Python program of that name, whose arguments are read as
//! Python's `argparse` reads them: options may be shortened and stand anywhere, the last of a
//! repeated one counts, and a message with a space in it may begin with a dash.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{Parser, ValueHint};
use hermes_bus_client::Status;

use super::bus::parse_state;
use super::receiving::BodyTypes;

/// Send a message to an endpoint of the hermes bus
#[derive(Debug, Parser)]
#[command(
    name = "notify-hermes",
    disable_version_flag = true,
    args_override_self = true,
    after_help = "Prints 'OK: notified TO' when the bus has taken the message for the endpoint. The sender's name \
                  is --from, else the tmux session it runs in, both looked up in role_map of \
                  bus-rules.yaml, else 'notify-hermes'.\n\n\
                  Exit codes: 0 taken, and with --receipt come that far; 1 not so, with the reason on \
                  standard error; 2 wrong usage; 3 not come that far in time (30 s), but it may still; \
                  4 standard input cannot be read."
)]
pub struct Arguments {
    /// The endpoint; empty means all of them
    #[arg(long, value_name = "TO")]
    pub to: String,
    /// The message's text; '-' reads it from standard input
    #[arg(value_name = "MESSAGE")]
    pub message: Option<String>,
    /// The message's whole body as JSON; the text is then ignored
    #[arg(long, value_name = "JSON")]
    pub body: Option<String>,
    /// Socket of the bus [default: $HERMES_BUS_ROOT/hermes-bus.sock, else ~/.hermes/hermes-bus.sock]
    #[arg(long, value_name = "PATH", value_parser = path(), value_hint = ValueHint::FilePath)]
    pub socket: Option<PathBuf>,
    /// The sender's name, or its key in role_map
    #[arg(long, value_name = "NAME")]
    pub from: Option<String>,
    /// The body's type, for the rules of the receiver
    #[arg(long = "type", value_name = "TYPE", value_parser = BodyTypes, hide_possible_values = true)]
    pub kind: Option<String>,
    /// The body's channel: the chat that a reply belongs to, as platform:chat_id
    #[arg(long, value_name = "CHANNEL")]
    pub channel: Option<String>,
    /// Wait until the message has come this far: with the bus (accepted), on disk (stored), handed
    /// over to the receiver (delivered), confirmed by it (acked)
    #[arg(long, value_name = "STATE", value_parser = parse_state())]
    pub receipt: Option<Status>,
    /// Store the message if the endpoint is known, but not there
    #[arg(long)]
    pub queue: bool,
    /// The rules file [default: $HERMES_HOME/bus-rules.yaml, else ~/.hermes/bus-rules.yaml]
    #[arg(long, value_name = "PATH", value_parser = path(), value_hint = ValueHint::FilePath)]
    pub config: Option<PathBuf>,
    /// Print the outcome as one JSON object
    #[arg(long)]
    pub json: bool,
}

/// A path that may be empty.
fn path() -> impl TypedValueParser<Value = PathBuf> {
    OsStringValueParser::new().map(PathBuf::from)
}

/// Options that take a value.
const VALUED: [&str; 8] =
    ["--to", "--body", "--socket", "--from", "--type", "--channel", "--receipt", "--config"];
/// Options that stand alone.
const FLAGS: [&str; 3] = ["--queue", "--json", "--help"];

/// Puts arguments into an order that leaves nothing to guess: `--option=value`, what is not known,
/// then `--`, then the message. What is wrong stays wrong, and is refused by the definition, which
/// therefore must not take anything with a dash for a value.
pub fn normalize(typed: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut typed = typed.into_iter().peekable();
    let (mut options, mut unknown, mut positionals) = (Vec::new(), Vec::new(), Vec::new());
    options.extend(typed.next());
    while let Some(argument) = typed.next() {
        if argument == "--" {
            positionals.extend(typed);
            break;
        }
        match Typed::of(&argument) {
            Typed::Value => positionals.push(argument),
            Typed::Option(name) => match typed.next_if(|next| takes_as_value(next)) {
                Some(value) => options.push(with_value(name, &value)),
                None => options.push(argument),
            },
            Typed::OptionWithValue(name, value) => options.push(with_value(name, value)),
            Typed::Flag(name) => options.push(name.into()),
            Typed::Unknown => unknown.push(argument),
        }
    }
    options.append(&mut unknown);
    options.push("--".into());
    options.extend(positionals);
    options
}

fn with_value(name: &str, value: &OsStr) -> OsString {
    [OsStr::new(name), value].join(OsStr::new("="))
}

/// What an argument looks like.
#[derive(Debug, PartialEq, Eq)]
enum Typed<'a> {
    /// An option whose value follows.
    Option(&'static str),
    /// `--option=value`
    OptionWithValue(&'static str, &'a OsStr),
    /// An option without a value.
    Flag(&'static str),
    /// Begins with a dash, but is nothing known.
    Unknown,
    /// Anything else.
    Value,
}

impl<'a> Typed<'a> {
    fn of(argument: &'a OsStr) -> Self {
        let bytes = argument.as_bytes();
        let (name, value) = match bytes.iter().position(|&byte| byte == b'=') {
            Some(at) => (&bytes[..at], Some(OsStr::from_bytes(&bytes[at + 1..]))),
            None => (bytes, None),
        };
        // No option has a name that is not UTF-8.
        let name = str::from_utf8(name).unwrap_or_default();
        if name == "-h" && value.is_none() {
            return Typed::Flag("--help");
        }
        // `-hx` and `-h=x` are refused as `--help=x` is.
        if let Some(value) = bytes.strip_prefix(b"-h") {
            return Typed::OptionWithValue("--help", OsStr::from_bytes(value));
        }
        if let Some(flag) = shortened(name, &FLAGS).filter(|_| value.is_none()) {
            return Typed::Flag(flag);
        }
        if let Some(option) = shortened(name, &VALUED) {
            return match value {
                Some(value) => Typed::OptionWithValue(option, value),
                None => Typed::Option(option),
            };
        }
        let digits = name.strip_prefix('-').filter(|_| value.is_none());
        let is_text = !bytes.starts_with(b"-")
            || bytes == b"-"
            || bytes.contains(&b' ')
            || digits.is_some_and(is_negative_number);
        if is_text { Typed::Value } else { Typed::Unknown }
    }
}

/// The option that is meant by its whole name or by a beginning of it that fits no other.
fn shortened(name: &str, options: &[&'static str]) -> Option<&'static str> {
    let exact = options.iter().find(|option| **option == name);
    let mut fitting = VALUED.iter().chain(&FLAGS).filter(|option| option.starts_with(name));
    let only = fitting.next().filter(|_| name.len() > 2 && fitting.next().is_none());
    exact.or(only.filter(|only| options.contains(only))).copied()
}

fn takes_as_value(argument: &OsStr) -> bool {
    argument != "--" && matches!(Typed::of(argument), Typed::Value)
}

fn is_negative_number(digits: &str) -> bool {
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
    let is_number = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    is_number(whole) && is_number(fraction) && !fraction.is_empty() && !digits.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &str) -> Result<Arguments, clap::Error> {
        let words = arguments.split('|').filter(|word| !word.is_empty()).map(OsString::from);
        let words: Vec<_> = std::iter::once("notify-hermes".into()).chain(words).collect();
        Arguments::try_parse_from(normalize(words))
    }

    #[test]
    fn options_stand_anywhere_in_any_form() {
        for words in [
            "--to|a|text|--type|ack",
            "--to=a|--ty=ack|text",
            "text|--typ|ack|--t=x|--to|a",
            "--type|x|--type|ack|--to|a|--|text",
        ] {
            let Ok(parsed) = parse(words) else {
                assert!(words.contains("--t=x"), "{words}");
                continue;
            };
            assert_eq!((parsed.to.as_str(), parsed.message.as_deref()), ("a", Some("text")));
            assert_eq!(parsed.kind.as_deref(), Some("ack"));
        }
    }

    #[test]
    fn a_message_may_begin_with_a_dash_where_python_lets_it() {
        for (words, message) in [
            ("--to|a|- one", "- one"),
            ("--to|a|--- cut here ---", "--- cut here ---"),
            ("--to|a|-5", "-5"),
            ("--to|a|-0.5", "-0.5"),
            ("--to|a|-", "-"),
            ("--to|a|--|-x", "-x"),
            ("--to|a|--|--to", "--to"),
        ] {
            assert_eq!(parse(words).unwrap().message.as_deref(), Some(message), "{words}");
        }
        assert_eq!(parse("--to|-x y|m").unwrap().to, "-x y");
        assert_eq!(parse("--to|a|--body|-1").unwrap().body.as_deref(), Some("-1"));
        assert_eq!(parse("--to=|m").unwrap().to, "");
        assert_eq!(parse("--to=a=b|m").unwrap().to, "a=b");
    }

    #[test]
    fn every_option_may_be_empty() {
        let empty = "--to=|--body=|--socket=|--from=|--type=|--channel=|--config=|m";
        let parsed = parse(empty).unwrap();
        assert_eq!((parsed.socket, parsed.kind), (Some(PathBuf::new()), Some(String::new())));
    }

    #[test]
    fn a_receipt_is_a_state() {
        let parsed = parse("--to|a|--que|--rec|stored|m").unwrap();
        assert_eq!((parsed.receipt, parsed.queue), (Some(Status::Stored), true));
        for words in ["--to|a|--receipt|read|m", "--to|a|--receipt=|m", "--to|a|--queue=1|m"] {
            assert!(parse(words).is_err(), "{words}");
        }
    }

    #[test]
    fn what_argparse_refuses_is_refused() {
        for words in [
            "",
            "text",
            "--to",
            "--to|a|b|c",
            "--to|a|--bogus|x",
            "--to|a|-x",
            "--to|--type|x",
            "--t|a|m",
            "--to|a|--c|x|m",
            "--to|a|--json=1|m",
            "--to|a|--bogus",
            "--to|a|--=x",
            "--to|a|-5.",
            "--to|a|-5=x",
            "--to|a|-hx",
            "--to|a|-h=x",
            "--to|a|--type|--channel|c",
            "text|--to",
        ] {
            assert!(parse(words).is_err(), "{words}");
        }
    }

    #[test]
    fn help_is_given_in_spite_of_what_is_unknown() {
        for words in ["-h", "--he", "--bogus|-h", "--to|a|--json|--help"] {
            assert_eq!(parse(words).unwrap_err().kind(), clap::error::ErrorKind::DisplayHelp);
        }
    }

    #[test]
    fn paths_need_not_be_utf_8() {
        let words = [&b"notify-hermes"[..], b"--to=a", b"--sock=\xff", b"--config", b"\xff", b"m"];
        let words = words.map(|word| OsStr::from_bytes(word).to_owned());
        let parsed = Arguments::try_parse_from(normalize(words)).unwrap();
        assert_eq!(parsed.socket.unwrap().as_os_str().as_bytes(), b"\xff");
        assert_eq!(parsed.config.unwrap().as_os_str().as_bytes(), b"\xff");
    }

    #[test]
    fn the_definition_is_sound() {
        use clap::CommandFactory;
        Arguments::command().debug_assert();
    }
}

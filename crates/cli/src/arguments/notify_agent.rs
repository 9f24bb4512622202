//! `notify-agent`. Released scripts rely on how its words were read: flags only before the first
//! other word, a flag's value whatever it looks like, all else is text. So the words are brought into
//! a form that cannot be misread before clap sees them.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use clap::{CommandFactory, Parser};

/// Type a message into a tmux session and submit it.
///
/// Options are recognised only before the first other word; all words after it are the message, joined
/// by single spaces. Nothing is typed while the pane is in copy mode, shows a menu or asks a question,
/// or takes no input.
#[derive(Debug, Parser)]
#[command(
    name = "notify-agent",
    version,
    args_override_self = true,
    override_usage = "notify-agent [--config <path>] [--from <sender>] [--to <session>] [--simple] \
                      [--interrupt] [--dry-run] <session> <message>",
    after_help = "A session is named by its whole name; 'name:window.pane' and the ids of tmux (%3, @2, \
                  $1) work too.\nHelp and version are recognised only as the only word.\n\n\
                  Exit status: 0 if the message was typed and submitted (or, with --dry-run, would be), \
                  else 1."
)]
pub struct NotifyAgent {
    /// Where display names of senders are [default: $HERMES_HOME/bus-rules.yaml, else
    /// ~/.hermes/bus-rules.yaml]
    #[arg(long, value_name = "path")]
    pub config: Option<PathBuf>,
    /// The sender whose display name is put before the message.
    #[arg(
        long,
        value_name = "sender",
        help = "Put \"⚕ [NAME]: \" before the message, where NAME is the sender's display name"
    )]
    pub from: Option<String>,
    /// The session; all words are the message then
    #[arg(long, value_name = "session")]
    pub to: Option<String>,
    /// Has no effect; there for old scripts
    #[arg(long)]
    pub simple: bool,
    /// Press Ctrl-C first: it stops what runs in the pane, and leaves copy mode
    #[arg(long)]
    pub interrupt: bool,
    /// Find and check the pane, say what would be typed, and type nothing
    #[arg(long)]
    pub dry_run: bool,
    /// The session (unless --to is given), then the message
    #[arg(value_name = "words", trailing_var_arg = true)]
    words: Vec<String>,
}

/// The definition, for manual pages and shell completions.
pub fn command() -> clap::Command {
    NotifyAgent::command()
}

/// The usage line.
pub const USAGE: &str = "Usage: notify-agent [--config <path>] [--from <sender>] [--to <session>] \
                         [--simple] [--interrupt] [--dry-run] <session> <message>";

/// Why the words make no sense. Scripts know the first words of these.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum UsageError {
    /// `--config` is the last word.
    #[error("Usage: --config <path>")]
    Config,
    /// `--from` is the last word.
    #[error("Usage: --from <sender_name>")]
    From,
    /// `--to` is the last word.
    #[error("Usage: --to <session>")]
    To,
    /// No session.
    #[error("{USAGE}")]
    Session,
    /// No message.
    #[error("Usage: a message text is required")]
    Message,
    /// A word that is no text.
    #[error("ERROR: an argument is not valid UTF-8: \"{0}\"")]
    NotUtf8(String),
    /// Help or version, or whatever else clap has to say.
    #[error("{0}")]
    Clap(String),
}

/// What is asked for.
#[derive(Debug, PartialEq, Eq)]
pub enum Asked {
    /// A text for the standard output: help or version.
    Print(String),
    /// A notification.
    Notify(Order),
}

/// A notification.
#[derive(Debug, PartialEq, Eq)]
pub struct Order {
    /// The session, as it was given.
    pub session: String,
    /// The message without its sender; empty only if there is a sender.
    pub message: String,
    /// The sender's token, not empty.
    pub sender: Option<String>,
    /// A file of rules.
    pub config: Option<PathBuf>,
    /// Whether Ctrl-C is pressed first.
    pub interrupt: bool,
    /// Whether nothing is to be typed.
    pub dry_run: bool,
}

/// Reads the words after the program's name.
pub fn read(words: Vec<OsString>) -> Result<Asked, UsageError> {
    let normal = normalise(words)?;
    let arguments = match NotifyAgent::try_parse_from(normal) {
        Ok(arguments) => arguments,
        Err(error) if !error.use_stderr() => return Ok(Asked::Print(error.to_string())),
        Err(error) => return Err(UsageError::Clap(error.to_string())),
    };
    let mut words = arguments.words;
    let session = match arguments.to.filter(|session| !session.is_empty()) {
        Some(session) => session,
        None if words.is_empty() => return Err(UsageError::Session),
        None => words.remove(0),
    };
    let message = words.join(" ");
    let sender = arguments.from.filter(|sender| !sender.is_empty());
    if message.is_empty() && sender.is_none() {
        return Err(UsageError::Message);
    }
    Ok(Asked::Notify(Order {
        session,
        message,
        sender,
        config: arguments.config.filter(|path| !path.as_os_str().is_empty()),
        interrupt: arguments.interrupt,
        dry_run: arguments.dry_run,
    }))
}

/// Leading flags become `--flag=value`, then comes `--`, then all the rest.
fn normalise(words: Vec<OsString>) -> Result<Vec<OsString>, UsageError> {
    let mut normal = vec![OsString::from("notify-agent")];
    if let [only] = &words[..]
        && matches!(only.to_str(), Some("-h" | "--help" | "-V" | "--version"))
    {
        normal.push(only.clone());
        return Ok(normal);
    }
    let mut words = words.into_iter().peekable();
    while let Some(flag) = words.peek().and_then(|word| word.to_str()) {
        let missing = match flag {
            "--config" => UsageError::Config,
            "--from" => UsageError::From,
            "--to" => UsageError::To,
            "--simple" | "--interrupt" | "--dry-run" => {
                normal.extend(words.next());
                continue;
            }
            _ => break,
        };
        let mut joined = words.next().unwrap_or_default();
        let value = words.next().ok_or(missing)?;
        // Only a path may be anything.
        if joined != OsStr::new("--config") {
            must_be_text(&value)?;
        }
        joined.push("=");
        joined.push(value);
        normal.push(joined);
    }
    normal.push("--".into());
    for word in words {
        must_be_text(&word)?;
        normal.push(word);
    }
    Ok(normal)
}

fn must_be_text(word: &OsStr) -> Result<(), UsageError> {
    match word.to_str() {
        Some(_) => Ok(()),
        None => Err(UsageError::NotUtf8(word.to_string_lossy().into_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStringExt;

    fn words(list: &[&str]) -> Result<Asked, UsageError> {
        read(list.iter().map(OsString::from).collect())
    }

    fn order(list: &[&str]) -> Order {
        match words(list) {
            Ok(Asked::Notify(order)) => order,
            other => panic!("{list:?}: {other:?}"),
        }
    }

    #[test]
    fn the_definition_is_sound() {
        command().debug_assert();
        let usage = command().render_usage().to_string();
        assert_eq!(usage, USAGE, "the two places agree");
    }

    #[test]
    fn flags_come_before_the_first_other_word() {
        let got = order(&[
            "--from",
            "w",
            "--simple",
            "--to",
            "s",
            "several",
            "words here",
            "--from",
            "x",
        ]);
        assert_eq!((got.session.as_str(), got.sender.as_deref()), ("s", Some("w")));
        assert_eq!(got.message, "several words here --from x");
        let got = order(&["s", "--interrupt", "--dry-run", "-h", "--", "x"]);
        assert_eq!(got.message, "--interrupt --dry-run -h -- x");
        assert!(!got.interrupt && !got.dry_run);
        let got = order(&["--dry-run", "--interrupt", "--", "x"]);
        assert!(got.interrupt && got.dry_run);
        assert_eq!((got.session.as_str(), got.message.as_str()), ("--", "x"));
        let got = order(&["--to=s", "-x"]);
        assert_eq!((got.session.as_str(), got.message.as_str()), ("--to=s", "-x"));
    }

    #[test]
    fn a_value_is_a_value_whatever_it_looks_like() {
        let got = order(&["--from", "--to", "--config", "-h", "s", "-"]);
        assert_eq!((got.sender.as_deref(), got.config), (Some("--to"), Some("-h".into())));
        assert_eq!((got.session.as_str(), got.message.as_str()), ("s", "-"));
    }

    #[test]
    fn the_last_one_holds_and_an_empty_one_is_none() {
        assert_eq!(order(&["--to", "a", "--to", "b", "x"]).session, "b");
        assert_eq!(order(&["--to", "a", "--to", "", "x", "y"]).session, "x");
        assert_eq!(order(&["--from", "a", "--from", "", "s", "x"]).sender, None);
        assert_eq!(order(&["--simple", "--simple", "s", "x"]).message, "x");
    }

    #[test]
    fn a_sender_alone_is_a_message() {
        assert_eq!(order(&["--from", "w", "s"]).message, "");
        assert_eq!(words(&["s"]), Err(UsageError::Message));
        assert_eq!(words(&["s", ""]), Err(UsageError::Message));
        assert_eq!(words(&["--to", "s"]), Err(UsageError::Message));
        assert_eq!(order(&["s", "", ""]).message, " ");
    }

    #[test]
    fn what_is_missing_is_named() {
        for (list, expected) in [
            (&[][..], UsageError::Session),
            (&["--simple"], UsageError::Session),
            (&["--to", ""], UsageError::Session),
            (&["--from"], UsageError::From),
            (&["--to", "s", "--config"], UsageError::Config),
            (&["--simple", "--to"], UsageError::To),
        ] {
            assert!(expected.to_string().starts_with("Usage: "));
            assert_eq!(words(list), Err(expected), "{list:?}");
        }
    }

    #[test]
    fn help_and_version_only_alone() {
        for word in ["-h", "--help", "-V", "--version"] {
            let Ok(Asked::Print(text)) = words(&[word]) else { panic!("{word}") };
            assert!(text.contains("notify-agent"), "{text}");
            assert_eq!(order(&[word, "x"]).session, word);
        }
        let Ok(Asked::Print(help)) = words(&["--help"]) else { panic!() };
        assert!(help.contains(USAGE), "{help}");
    }

    #[test]
    fn words_that_are_no_text_are_refused_but_paths_may_be_anything() {
        let odd = || OsString::from_vec(b"caf\xe9".to_vec());
        let refused = |list: Vec<OsString>| matches!(read(list), Err(UsageError::NotUtf8(_)));
        assert!(refused(vec![odd(), "x".into()]));
        assert!(refused(vec!["s".into(), odd()]));
        assert!(refused(vec!["--from".into(), odd(), "s".into(), "x".into()]));
        let Ok(Asked::Notify(order)) = read(vec!["--config".into(), odd(), "s".into(), "x".into()])
        else {
            panic!()
        };
        assert_eq!(order.config, Some(PathBuf::from(odd())));
    }
}

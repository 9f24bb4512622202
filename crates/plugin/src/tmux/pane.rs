//! Panes: found by what people call them, and looked at.
//!
//! A name is a session's whole name, never a beginning or a pattern: a text for `lead` must not end
//! up in `lead-agent`. What was found is compared with what was asked for, because tmux falls back
//! to other panes in places. This module does not type.

use std::path::PathBuf;

use hermes_bus_client::{nearest, quoted_list};

use super::program::{self, TmuxError};

/// Why there is no pane.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// A target without a session: tmux would take some session of its own choice.
    #[error("'{target}' names no session: give a session's name, or a pane's id such as %3")]
    Unnamed {
        /// What was asked for.
        target: String,
    },
    /// No such session.
    #[error("no tmux session is called '{name}'{}", listed(others))]
    NoSession {
        /// The name.
        name: String,
        /// The sessions that there are, the most similar ones first.
        others: Vec<String>,
    },
    /// The session exists, but not what of it is asked for; or no such id.
    #[error("there is no pane '{target}' ({said}): see 'tmux list-panes -a'")]
    NoPane {
        /// What was asked for.
        target: String,
        /// What tmux says.
        said: String,
    },
    /// tmux could not be asked.
    #[error(transparent)]
    Tmux(#[from] TmuxError),
}

fn listed(names: &[String]) -> String {
    if names.is_empty() {
        return "; there is no session at all".to_owned();
    }
    format!("; there are {}", quoted_list(names.iter()))
}

/// A pane and all that is of interest about it, at one moment.
#[derive(Clone, Debug)]
pub(super) struct Pane {
    /// `%3`.
    pub(super) id: String,
    pub(super) session: String,
    /// The program in it that has the terminal.
    pub(super) command: String,
    pub(super) is_dead: bool,
    /// `copy-mode` and the like: keys go to tmux, not to the program.
    pub(super) mode: Option<String>,
    pub(super) input_is_off: bool,
    /// Keys go to other panes of the window as well.
    pub(super) is_synchronized: bool,
    /// It is on the alternate screen or hides the cursor: not a program that reads lines.
    pub(super) draws_itself: bool,
    /// The server's socket; none if tmux is too old to tell.
    pub(super) socket: Option<PathBuf>,
    pub(super) view: View,
}

/// What can be seen of a pane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct View {
    pub(super) screen: String,
    /// From 0, from the top.
    pub(super) cursor_row: usize,
    cursor_column: usize,
    /// Lines that have left the screen.
    history_lines: usize,
}

impl View {
    #[cfg(test)]
    pub(super) fn of(screen: &str, cursor_row: usize) -> View {
        View { screen: screen.to_owned(), cursor_row, cursor_column: 0, history_lines: 0 }
    }

    /// Whether anything but the characters has moved.
    pub(super) fn moved_from(&self, other: &View) -> bool {
        (self.cursor_row, self.cursor_column, self.history_lines)
            != (other.cursor_row, other.cursor_column, other.history_lines)
    }
}

/// One line each; what may hold anything comes last.
const FORMAT: &str = "#{pane_id}\n#{session_id}\n#{window_id}\n#{pane_dead}\n#{pane_input_off}\n\
    #{&&:#{pane_synchronized},#{!=:#{window_panes},1}}\n\
    #{||:#{alternate_on},#{==:#{cursor_flag},0}}\n#{cursor_y}\n#{cursor_x}\n#{history_size}\n\
    #{?pane_in_mode,#{pane_mode} ,}\n#{socket_path}\n#{session_name}\n#{pane_current_command}";
const FORMAT_LINES: usize = 14;

impl Pane {
    /// Finds a pane by what people call it: a session's name, `name:window.pane`, `name.pane`, or an
    /// id (`%3`, `@2`, `$1`). Of a session it is the current pane.
    pub(super) fn find(target: &str) -> Result<Pane, TargetError> {
        let target = Target::parse(target)?;
        match look(&target.for_tmux) {
            Ok(pane) if target.is_met_by(&pane) => Ok(pane.pane),
            Ok(_) => Err(target.missing("tmux offers another one instead")),
            Err(TmuxError::Failed { said, .. }) if program::is_missing(&said) => {
                Err(target.missing(&said))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Looks at the same pane again. None if it is gone.
    pub(super) fn again(&self) -> Result<Option<Pane>, TmuxError> {
        match look(&self.id) {
            Ok(found) if found.pane.id == self.id => Ok(Some(found.pane)),
            // The last pane takes its server with it.
            Ok(_) | Err(TmuxError::NoServer { .. }) => Ok(None),
            Err(TmuxError::Failed { said, .. }) if program::is_missing(&said) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

struct Looked {
    pane: Pane,
    session_id: String,
    window_id: String,
}

fn look(target: &str) -> Result<Looked, TmuxError> {
    // `display-message` does not fail for what is missing, `capture-pane` does.
    let format = FORMAT;
    let target = &unseparated(target);
    let arguments =
        ["display-message", "-p", "-t", target, format, ";", "capture-pane", "-p", "-t", target];
    let said = program::must(&arguments, None)?;
    parse(&said).ok_or_else(|| TmuxError::Failed {
        command: "display-message".to_owned(),
        said: format!("can't find pane: {target}"),
    })
}

/// None if there is no pane in it.
fn parse(said: &str) -> Option<Looked> {
    let mut parts = said.splitn(FORMAT_LINES + 1, '\n');
    let mut next = || parts.next().map(str::to_owned);
    let (id, session_id, window_id) = (next()?, next()?, next()?);
    let [is_dead, input_is_off, is_synchronized, draws_itself] =
        [next()?, next()?, next()?, next()?].map(|flag| flag == "1");
    let number = |text: String| text.parse().unwrap_or(0);
    let (cursor_row, cursor_column, history_lines) =
        (number(next()?), number(next()?), number(next()?));
    // A mode without a name still ends in the space that was put there.
    let mode = Some(next()?).filter(|mode| !mode.is_empty()).map(|mode| mode.trim().to_owned());
    let socket = Some(next()?).filter(|path| !path.is_empty()).map(PathBuf::from);
    let (session, command, screen) = (next()?, next()?, next().unwrap_or_default());
    let view = View { screen, cursor_row, cursor_column, history_lines };
    let is_id = id.strip_prefix('%').is_some_and(|number| number.parse::<u32>().is_ok());
    let pane = Pane {
        id,
        session,
        command,
        is_dead,
        mode,
        input_is_off,
        is_synchronized,
        draws_itself,
        socket,
        view,
    };
    is_id.then_some(Looked { pane, session_id, window_id })
}

/// A semicolon at the end of an argument would end tmux's command.
fn unseparated(target: &str) -> String {
    target.strip_suffix(';').map_or_else(|| target.to_owned(), |rest| format!("{rest}\\;"))
}

// ---- targets ----------------------------------------------------------------------------------------

#[derive(Debug, PartialEq, Eq)]
enum Expected {
    Session(String),
    SessionId(String),
    WindowId(String),
    PaneId(String),
}

#[derive(Debug)]
struct Target {
    asked: String,
    for_tmux: String,
    expected: Expected,
}

impl Target {
    fn parse(asked: &str) -> Result<Target, TargetError> {
        let unnamed = || TargetError::Unnamed { target: asked.to_owned() };
        // A session's name has neither a colon nor a dot: tmux replaces both by underscores.
        let (session, rest) = match (asked.split_once(':'), asked.split_once('.')) {
            (Some((session, rest)), _) => (session, rest.to_owned()),
            (None, Some((session, pane))) => (session, format!(".{pane}")),
            (None, None) => (asked, String::new()),
        };
        let is_id = |prefix: char| {
            let digits = session.strip_prefix(prefix);
            digits.is_some_and(|id| !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_digit()))
        };
        let id = session.to_owned();
        let (for_tmux, expected) = if is_id('%') && rest.is_empty() {
            (id.clone(), Expected::PaneId(id))
        } else if is_id('@') && !asked.contains(':') {
            (asked.to_owned(), Expected::WindowId(id))
        } else if is_id('$') {
            (format!("{id}:{rest}"), Expected::SessionId(id))
        } else {
            let name = session.strip_prefix('=').unwrap_or(session);
            if name.is_empty() {
                return Err(unnamed());
            }
            (format!("={name}:{rest}"), Expected::Session(name.to_owned()))
        };
        Ok(Target { asked: asked.to_owned(), for_tmux, expected })
    }

    fn is_met_by(&self, found: &Looked) -> bool {
        match &self.expected {
            Expected::Session(name) => found.pane.session == *name,
            Expected::SessionId(id) => found.session_id == *id,
            Expected::WindowId(id) => found.window_id == *id,
            Expected::PaneId(id) => found.pane.id == *id,
        }
    }

    fn missing(&self, said: &str) -> TargetError {
        if let Expected::Session(name) = &self.expected {
            let arguments = ["list-sessions", "-F", "#{session_name}"];
            let others: Vec<String> = match program::must(&arguments, None) {
                Ok(said) => said.lines().map(str::to_owned).collect(),
                // A server without sessions is about to end.
                Err(TmuxError::Failed { .. }) => Vec::new(),
                Err(error) => return error.into(),
            };
            if !others.contains(name) {
                return TargetError::NoSession {
                    others: nearest_first(name, &others),
                    name: name.clone(),
                };
            }
        }
        TargetError::NoPane { target: self.asked.clone(), said: said.to_owned() }
    }
}

/// Names that may have been meant come before the others.
fn nearest_first(meant: &str, names: &[String]) -> Vec<String> {
    let mut sorted: Vec<&str> = nearest(meant, names.iter().map(String::as_str));
    for name in names {
        if !sorted.contains(&name.as_str()) {
            sorted.push(name);
        }
    }
    sorted.into_iter().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn for_tmux(asked: &str) -> String {
        Target::parse(asked).unwrap().for_tmux
    }

    #[test]
    fn a_name_is_a_whole_session_name() {
        for (asked, expected) in [
            ("lead", "=lead:"),
            ("=lead", "=lead:"),
            ("lead:", "=lead:"),
            ("lead:2", "=lead:2"),
            ("lead:2.1", "=lead:2.1"),
            ("lead:win.1", "=lead:win.1"),
            ("lead.1", "=lead:.1"),
            ("=lead.1", "=lead:.1"),
            ("测试", "=测试:"),
            ("x y*", "=x y*:"),
            ("-t", "=-t:"),
            ("$HOME", "=$HOME:"),
            ("%x", "=%x:"),
            ("{last}", "={last}:"),
            ("%3", "%3"),
            ("@2", "@2"),
            ("@2.1", "@2.1"),
            ("$1", "$1:"),
            ("$1:2.0", "$1:2.0"),
        ] {
            assert_eq!(for_tmux(asked), expected, "{asked}");
        }
        for asked in ["", "=", ":1", ".1", ":", "=:0"] {
            assert!(matches!(Target::parse(asked), Err(TargetError::Unnamed { .. })), "{asked:?}");
        }
    }

    #[test]
    fn the_nearest_names_come_first() {
        let names = |list: &str| list.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let sorted = nearest_first("lead", &names("worker zebra lead-agent Lead laed"));
        assert_eq!(sorted, names("Lead laed lead-agent worker zebra"));
        assert_eq!(nearest_first("my.agent", &names("other my_agent")), names("my_agent other"));
        let many: Vec<String> = (0..12).map(|number| format!("s{number}")).collect();
        assert!(listed(&many).ends_with("'s9' and 2 more"));
    }

    #[test]
    fn what_tmux_says_is_taken_apart() {
        let said = "%3\n$1\n@2\n0\n0\n1\n1\n7\n12\n340\ncopy-mode \n/tmp/tmux-0/default\nlead\nvim\n\n  x\n";
        let Looked { pane, session_id, window_id } = parse(said).unwrap();
        assert_eq!((pane.id.as_str(), session_id.as_str(), window_id.as_str()), ("%3", "$1", "@2"));
        assert_eq!((pane.is_dead, pane.input_is_off, pane.is_synchronized), (false, false, true));
        assert!(pane.draws_itself);
        assert_eq!(pane.mode.as_deref(), Some("copy-mode"));
        assert_eq!((pane.session.as_str(), pane.command.as_str()), ("lead", "vim"));
        let view =
            View { screen: "\n  x\n".into(), cursor_row: 7, cursor_column: 12, history_lines: 340 };
        assert_eq!(pane.view, view);
    }

    #[test]
    fn empty_answers_are_no_pane() {
        assert!(parse(&"\n".repeat(FORMAT_LINES)).is_none());
        assert!(parse("").is_none());
    }
}

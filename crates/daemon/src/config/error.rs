//! What is wrong with a configuration, and where: all of it at once, each in one line.

use std::fmt;
use std::path::PathBuf;

/// Problems that are told; of more only the number is.
pub(super) const PROBLEMS_MAX: usize = 50;

/// Where in a text, both from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// The line.
    pub line: usize,
    /// The column, in characters.
    pub column: usize,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

/// Where a value or a problem comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// The file as a whole.
    File,
    /// A place in the file.
    At(Position),
    /// An environment variable.
    Variable(String),
    /// `--set` on the command line.
    Flag,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where.
    pub place: Place,
    /// The key as it was written, group included; empty where the problem is not one of a key.
    pub key: String,
    /// What is wrong, and what to write instead.
    pub what: String,
}

/// Why there is no configuration. Shown one problem a line; holds no secrets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The file, if one was read.
    pub file: Option<PathBuf>,
    /// What is wrong, in the order of the file, the environment, the command line. At most 50.
    pub problems: Vec<Problem>,
    /// How many more there are.
    pub more: usize,
}

impl ConfigError {
    /// Each problem as a line, as compilers write it and editors read it.
    pub fn lines(&self) -> Vec<String> {
        let mut lines: Vec<String> =
            self.problems.iter().map(|problem| self.line_of(problem)).collect();
        if self.more > 0 {
            lines.push(format!("and {} more", self.more));
        }
        lines
    }

    fn line_of(&self, problem: &Problem) -> String {
        let file = || match &self.file {
            Some(path) => path.display().to_string(),
            None => "config.yaml".to_owned(),
        };
        let Problem { place, key, what } = problem;
        let place = match place {
            Place::File => file(),
            Place::At(position) => format!("{}:{position}", file()),
            Place::Variable(name) => return format!("{name}: {what}"),
            Place::Flag => return format!("--set {key}: {what}"),
        };
        if key.is_empty() { format!("{place}: {what}") } else { format!("{place}: {key}: {what}") }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.lines().join("\n"))
    }
}

impl std::error::Error for ConfigError {}

/// Something wrong at a place in a text, before it is known whose text that is.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) at: Position,
    pub(super) what: String,
}

impl Fault {
    pub(super) fn new(at: Position, what: impl Into<String>) -> Self {
        Fault { at, what: what.into() }
    }
}

/// Text from a file or a variable as it is shown in an error: short, and without control characters.
pub(super) fn shown(text: &str) -> String {
    const SHOWN_CHARACTERS_MAX: usize = 60;
    let start: String = text.chars().take(SHOWN_CHARACTERS_MAX).collect();
    let rest = if start.len() < text.len() { "…" } else { "" };
    format!("{}{rest}", start.escape_debug().to_string().replace("\\'", "'").replace("\\\"", "\""))
}

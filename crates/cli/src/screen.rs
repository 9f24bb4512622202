//! What people see: colours, time of day, text that came from others, and pipes that close.

use std::borrow::Cow;
use std::io::{self, IsTerminal, Write};
use std::time::{Duration, UNIX_EPOCH};

/// When to use colours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Color {
    /// On a terminal that knows colours, unless NO_COLOR is set
    #[default]
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

/// The colours in use.
#[derive(Clone, Copy, Debug)]
pub struct Palette {
    is_on: bool,
}

impl Palette {
    /// The colours for standard output.
    pub fn new(color: Color) -> Self {
        let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let is_dumb = std::env::var_os("TERM").is_some_and(|terminal| terminal == "dumb");
        let is_on = match color {
            Color::Always => true,
            Color::Never => false,
            Color::Auto => !no_color && !is_dumb && io::stdout().is_terminal(),
        };
        Palette { is_on }
    }

    /// Text of less weight.
    pub fn dim(&self, text: &str) -> String {
        self.paint("2", text)
    }

    /// A name.
    pub fn name(&self, text: &str) -> String {
        self.paint("1;36", text)
    }

    /// A message's type.
    pub fn kind(&self, text: &str) -> String {
        self.paint("33", text)
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.is_on && !text.is_empty() {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }
}

/// Text of others as it may be shown on a terminal: control characters besides line ends and tabs
/// are shown as `\u{…}`, so that no message can steer the terminal.
pub fn harmless(text: &str) -> Cow<'_, str> {
    let is_harmful = |character: char| {
        (character.is_control() && !matches!(character, '\n' | '\t'))
            || matches!(character, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    if !text.contains(is_harmful) {
        return Cow::Borrowed(text);
    }
    let shown = text.chars().map(|character| {
        if is_harmful(character) {
            character.escape_unicode().to_string()
        } else {
            character.to_string()
        }
    });
    Cow::Owned(shown.collect())
}

/// The same on one line: line ends and tabs are shown as well.
pub fn harmless_line(text: &str) -> String {
    harmless(text).replace('\n', "\\n").replace('\t', "\\t")
}

/// Local time of day of a Unix time in seconds.
pub fn time_of_day(unix_s: f64) -> Option<String> {
    let since_epoch = Duration::try_from_secs_f64(unix_s).ok()?;
    let moment = jiff::Timestamp::try_from(UNIX_EPOCH.checked_add(since_epoch)?).ok()?;
    Some(moment.to_zoned(jiff::tz::TimeZone::system()).strftime("%H:%M:%S").to_string())
}

/// Prints a line to standard output, at once.
pub fn say(line: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(line.as_bytes())?;
    out.write_all(b"\n")?;
    out.flush()
}

/// Prints a line to standard error. Nobody has to read it.
pub fn note(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// Whether a reader has seen enough, which is no failure.
pub fn is_closed_pipe(error: &anyhow::Error) -> bool {
    let cause = error.downcast_ref::<io::Error>();
    cause.is_some_and(|cause| cause.kind() == io::ErrorKind::BrokenPipe)
}

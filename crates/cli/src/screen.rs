//! What people see: colours, time of day, text that came from others, and pipes that close.

use std::borrow::Cow;
use std::io::{self, IsTerminal, Write};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

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

    /// Whether there are any.
    pub fn is_on(&self) -> bool {
        self.is_on
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

/// Local date and time of a Unix time in seconds.
pub fn date_and_time(unix_s: f64) -> Option<String> {
    let since_epoch = Duration::try_from_secs_f64(unix_s).ok()?;
    let moment = jiff::Timestamp::try_from(UNIX_EPOCH.checked_add(since_epoch)?).ok()?;
    Some(moment.to_zoned(jiff::tz::TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S").to_string())
}

/// Reads a moment: a time ago (`1h`, or seconds), a local day, or a local date and time. Gives Unix
/// time in seconds.
pub fn parse_moment(text: &str) -> Result<f64, String> {
    if let Ok(ago) = hermes_bus_daemon::config::parse_time(text) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        return Ok(now.saturating_sub(ago).as_secs_f64());
    }
    let zone = jiff::tz::TimeZone::system();
    let local = text.parse::<jiff::civil::DateTime>();
    let moment = match text.parse::<jiff::Timestamp>() {
        Ok(moment) => Some(moment),
        Err(_) => local.ok().and_then(|local| Some(local.to_zoned(zone).ok()?.timestamp())),
    };
    let seconds = moment.map(|moment| moment.as_microsecond() as f64 / 1e6);
    seconds.ok_or_else(|| {
        format!("'{}' is no time: write 1h, 2026-11-01 or 2026-11-01T12:30", harmless_line(text))
    })
}

/// Rows as columns, each as wide as its widest cell, but for the last. Cells are not painted, so that
/// their widths are what is seen.
pub fn columns(rows: &[Vec<String>]) -> Vec<String> {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..count).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_a_time_ago_a_day_or_a_point_in_time() {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
        let hour_ago = parse_moment("1h").unwrap();
        assert!((now - 3_660.0..=now - 3_599.0).contains(&hour_ago), "{hour_ago}");
        assert_eq!(parse_moment("2026-11-01T12:30:00Z"), Ok(1_793_536_200.0));
        let day = parse_moment("2026-11-01").unwrap();
        assert_eq!(parse_moment("2026-11-01T01:30").unwrap() - day, 5_400.0);
        for wrong in ["", "yesterday", "2026-13-01", "-1"] {
            assert!(parse_moment(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn columns_are_as_wide_as_they_must_be() {
        let row = |cells: [&str; 3]| cells.map(str::to_owned).to_vec();
        let lines = columns(&[row(["a", "long", "x"]), row(["änn", "b", ""])]);
        assert_eq!(lines, ["a    long  x", "änn  b"]);
    }
}

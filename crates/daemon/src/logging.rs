//! Log lines: `[UTC time] level: text`, to a file that is kept small or to standard error.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Mutex;
use std::time::SystemTime;

use tracing::{Event, Subscriber};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// How a line looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// `[time] level: text`
    #[default]
    Human,
    /// One JSON object a line.
    Json,
}

/// Where lines go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sink {
    /// Standard error in the foreground, the log file of a detached server, the journal where standard
    /// error is connected to it.
    #[default]
    Auto,
    /// `ROOT/run/busd.log`
    File,
    /// Standard error.
    StandardError,
    /// The system's journal.
    Journal,
}

/// The least that matters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Something does not work.
    Error,
    /// Something was dropped or refused, or somebody misbehaves.
    Warn,
    /// The bus's own life: starts, stops, reloads.
    #[default]
    Info,
    /// Ordinary life of sessions.
    Debug,
}

/// How to log, as the configuration has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Where to.
    pub sink: Sink,
    /// How a line looks.
    pub format: Format,
    /// What is logged where `levels` says nothing else.
    pub level: Level,
    /// Levels of single targets (`router`, `hooks`, …).
    pub levels: Vec<(String, Level)>,
    /// A log file over this size makes room.
    pub file_bytes_max: u64,
    /// Older log files that are kept (`busd.log.1`, …). With 0 a large file is cut in place to its end,
    /// as released versions do.
    pub files_kept: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            sink: Sink::default(),
            format: Format::default(),
            level: Level::default(),
            levels: Vec::new(),
            file_bytes_max: 500_000,
            files_kept: 0,
        }
    }
}

/// A log that has grown over this size is cut. Both figures are those of released versions.
const LOG_BYTES_MAX: u64 = 500_000;
/// What is left of it: its end.
const LOG_BYTES_KEPT: u64 = 250_000;

/// The variable that sets the level: `error`, `warn`, `info` (the default) or `debug`.
const LEVEL_VARIABLE: &str = "HERMES_BUS_LOG";

/// Where log lines go.
pub(crate) enum Target<'a> {
    StandardError,
    File(&'a Path),
}

/// Sends this process's log lines to `target` from now on.
pub(crate) fn start(target: &Target<'_>) -> io::Result<()> {
    let wanted = std::env::var(LEVEL_VARIABLE).unwrap_or_default();
    let known = match wanted.as_str() {
        "error" => Some(LevelFilter::ERROR),
        "warn" => Some(LevelFilter::WARN),
        "" | "info" => Some(LevelFilter::INFO),
        "debug" => Some(LevelFilter::DEBUG),
        _ => None,
    };
    let level = known.unwrap_or(LevelFilter::INFO);
    let builder = tracing_subscriber::fmt().with_max_level(level).event_format(Line);
    let result = match target {
        Target::StandardError => builder.with_writer(io::stderr).try_init(),
        Target::File(path) => builder.with_writer(Mutex::new(LogFile::open(path)?)).try_init(),
    };
    result.map_err(io::Error::other)?;
    if known.is_none() {
        tracing::warn!("{LEVEL_VARIABLE} is {wanted:?}, not one of error, warn, info, debug");
    }
    Ok(())
}

/// Time and level in front of a line.
struct Line;

impl<S, N> FormatEvent<S, N> for Line
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> std::fmt::Result {
        let level = event.metadata().level().as_str().to_ascii_lowercase();
        write!(writer, "[{}] {level}: ", now())?;
        context.field_format().format_fields(writer.by_ref(), event)?;
        writeln!(writer)
    }
}

fn now() -> humantime::Rfc3339Timestamp {
    humantime::format_rfc3339_micros(SystemTime::now())
}

/// A log file that other programs append to as well. It is cut in place, because they have it open.
#[derive(Debug)]
pub(crate) struct LogFile {
    file: File,
}

impl LogFile {
    /// Opens or creates the file, and cuts it if it is too large.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        let file = options.read(true).append(true).create(true).mode(0o600).open(path)?;
        let mut log = LogFile { file };
        log.cut()?;
        Ok(log)
    }

    /// Adds a line with the time in front.
    pub(crate) fn line(&mut self, text: &str) -> io::Result<()> {
        self.write_all(format!("[{}] {text}\n", now()).as_bytes())
    }

    /// The file, for another program's output.
    pub(crate) fn into_file(self) -> File {
        self.file
    }

    /// Leaves the last whole lines of a log that is too large.
    fn cut(&mut self) -> io::Result<()> {
        let bytes = self.file.metadata()?.len();
        if bytes <= LOG_BYTES_MAX {
            return Ok(());
        }
        let mut kept = Vec::new();
        self.file.seek(SeekFrom::Start(bytes - LOG_BYTES_KEPT))?;
        self.file.read_to_end(&mut kept)?;
        let whole_lines = kept.iter().position(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        self.file.set_len(0)?;
        self.file.write_all(&kept[whole_lines..])
    }
}

impl Write for LogFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.cut()?;
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// The last `count` lines of a log.
pub(crate) fn tail(path: &Path, count: usize) -> io::Result<Vec<String>> {
    let file = File::open(path)?;
    let bytes = file.metadata()?.len();
    let start = bytes.saturating_sub(LOG_BYTES_KEPT);
    let mut text = vec![0; (bytes - start) as usize];
    let read = file.read_at(&mut text, start)?;
    let text = String::from_utf8_lossy(&text[..read]);
    let lines: Vec<&str> = text.lines().collect();
    Ok(lines[lines.len().saturating_sub(count)..].iter().map(|line| (*line).to_owned()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_log_is_cut_in_place_to_its_last_whole_lines() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("busd.log");
        let mut text = String::new();
        for number in 0..20_000 {
            text += &format!("line {number:06} of an old log\n");
        }
        std::fs::write(&path, &text).unwrap();
        let other = OpenOptions::new().append(true).open(&path).unwrap();
        let mut log = LogFile::open(&path).unwrap();
        log.line("new").unwrap();
        (&other).write_all(b"from another program\n").unwrap();
        let cut = std::fs::read_to_string(&path).unwrap();
        assert!(cut.len() < LOG_BYTES_KEPT as usize + 200, "{}", cut.len());
        assert!(cut.starts_with("line 0"), "it begins with a whole line");
        assert!(cut.contains("line 019999") && cut.contains("] new\n"));
        assert!(cut.ends_with("from another program\n"));
        assert_eq!(tail(&path, 2).unwrap().len(), 2);
    }
}

//! Logs: a line of text, one JSON object a line, or the journal's fields; to a file that is kept small,
//! to standard error, or to the journal.
//!
//! A healthy bus writes a few lines when it starts and stops. Every drop, refusal and misbehaving
//! client is one line that names who is to blame, rate-limited (`throttle`).

mod events;
mod file;
mod journal;
mod output;
mod record;
mod throttle;

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use tracing::{Event, Subscriber};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, reload};

pub(crate) use self::events::EventLog;
use self::file::{LogFile, Room};
pub(crate) use self::file::{append_to, note, tail};
use self::journal::Journal;
use self::output::{Output, Place};
use self::record::Record;
use crate::server::Mode;

/// What lines are about: the names that levels can be set for.
pub const TARGETS: [&str; 8] = [
    target::BUS,
    target::CONFIG,
    target::DOOR,
    target::HOOKS,
    target::METRICS,
    target::ROUTER,
    target::SERVICE,
    target::STORE,
];

/// The names of [`TARGETS`], for the places that write lines.
pub(crate) mod target {
    /// The bus's own life.
    pub(crate) const BUS: &str = "bus";
    /// The configuration file.
    pub(crate) const CONFIG: &str = "config";
    /// The listening socket and its path.
    pub(crate) const DOOR: &str = "door";
    /// Programs that are run for messages.
    pub(crate) const HOOKS: &str = "hooks";
    /// The metrics socket.
    pub(crate) const METRICS: &str = "metrics";
    /// Sessions and messages.
    pub(crate) const ROUTER: &str = "router";
    /// What the service manager is told, and what it hands over.
    pub(crate) const SERVICE: &str = "service";
    /// What is kept on disk.
    pub(crate) const STORE: &str = "store";
}

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

impl From<Level> for LevelFilter {
    fn from(level: Level) -> Self {
        match level {
            Level::Error => LevelFilter::ERROR,
            Level::Warn => LevelFilter::WARN,
            Level::Info => LevelFilter::INFO,
            Level::Debug => LevelFilter::DEBUG,
        }
    }
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
    /// A log file over this size, in bytes, makes room.
    pub file_bytes_max: u64,
    /// Older log files that are kept (`busd.log.1`, …). With 0 a large file is cut in place to its last
    /// half (8 MiB at most), as released versions do.
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

/// Says where standard error goes to, where the journal reads it: device and inode.
const JOURNAL_VARIABLE: &str = "JOURNAL_STREAM";

impl Settings {
    fn filter(&self) -> Targets {
        let levels = self.levels.iter().map(|(target, level)| (target.as_str(), *level));
        Targets::new().with_default(self.level).with_targets(levels)
    }

    fn room(&self) -> Room {
        Room { bytes_max: self.file_bytes_max, files_kept: self.files_kept }
    }
}

/// Why lines cannot go where they should.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The file cannot be written.
    #[error("cannot log to {}: {source}", path.display())]
    File {
        /// Its path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// There is no journal.
    #[error(
        "cannot log to the journal: {}: {source}; is systemd-journald running? 'file' and 'stderr' \
         work without it",
        journal::SOCKET
    )]
    Journal {
        /// What the system said.
        source: io::Error,
    },
    /// This process logs already.
    #[error("this process has a log already")]
    AlreadyStarted,
}

/// The log of this process, for changing it while it runs.
#[derive(Debug)]
pub struct Logging {
    filter: reload::Handle<Targets, Registry>,
    output: Arc<Mutex<Output>>,
    mode: Mode,
    log_file: PathBuf,
    settings: Settings,
}

impl Logging {
    /// Logs with other settings from now on. On an error everything stays as it was.
    pub fn apply(&mut self, settings: &Settings) -> Result<(), LogError> {
        let is_same_place = settings.sink == self.settings.sink;
        let place = match is_same_place {
            true => None,
            false => Some(open(settings, self.mode, &self.log_file)?),
        };
        let mut output = self.output.lock().unwrap_or_else(PoisonError::into_inner);
        output.format = settings.format;
        if let Some(place) = place {
            output.place = place;
        } else if let Place::File(file) = &mut output.place {
            file.set_room(settings.room());
        }
        drop(output);
        // It only fails where the log's other half is gone, and then nobody logs any more.
        let _ = self.filter.reload(settings.filter());
        self.settings = settings.clone();
        Ok(())
    }
}

/// Sends this process's log lines where `settings` say. `log_file` is created if it is missing.
pub fn start(settings: &Settings, mode: Mode, log_file: &Path) -> Result<Logging, LogError> {
    let (subscriber, logging) = build(settings, mode, log_file)?;
    subscriber.try_init().map_err(|_| LogError::AlreadyStarted)?;
    Ok(logging)
}

fn build(
    settings: &Settings,
    mode: Mode,
    log_file: &Path,
) -> Result<(impl Subscriber + Send + Sync, Logging), LogError> {
    let place = open(settings, mode, log_file)?;
    let output = Arc::new(Mutex::new(Output::new(place, settings.format)));
    let (filter, handle) = reload::Layer::new(settings.filter());
    let lines = Lines { output: Arc::clone(&output) };
    let subscriber = tracing_subscriber::registry().with(filter).with(lines);
    let (log_file, settings) = (log_file.to_owned(), settings.clone());
    Ok((subscriber, Logging { filter: handle, output, mode, log_file, settings }))
}

fn open(settings: &Settings, mode: Mode, log_file: &Path) -> Result<Place, LogError> {
    let journal = || Journal::open(Path::new(journal::SOCKET));
    let file = || {
        let opened = LogFile::open(log_file, settings.room());
        let path = log_file.to_owned();
        opened.map(Place::File).map_err(|source| LogError::File { path, source })
    };
    match settings.sink {
        Sink::File => file(),
        Sink::StandardError => Ok(Place::StandardError),
        Sink::Journal => {
            journal().map(Place::Journal).map_err(|source| LogError::Journal { source })
        }
        // A journal that reads standard error is the same journal; where its socket cannot be
        // reached, lines take that way.
        Sink::Auto if journal_reads_standard_error() => {
            Ok(journal().map_or(Place::StandardError, Place::Journal))
        }
        Sink::Auto => match mode {
            Mode::Foreground => Ok(Place::StandardError),
            Mode::Detached => file(),
        },
    }
}

/// The variable alone says nothing: it is inherited by programs whose standard error goes elsewhere.
fn journal_reads_standard_error() -> bool {
    let Ok(stream) = std::env::var(JOURNAL_VARIABLE) else { return false };
    let standard_error = std::fs::metadata("/proc/self/fd/2");
    standard_error.is_ok_and(|found| stream == format!("{}:{}", found.dev(), found.ino()))
}

/// Turns events into lines.
struct Lines {
    output: Arc<Mutex<Output>>,
}

impl<S: Subscriber> Layer<S> for Lines {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let record = Record::of(event);
        self.output.lock().unwrap_or_else(PoisonError::into_inner).write(&record);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(path: &Path) -> String {
        std::fs::read_to_string(path).unwrap()
    }

    #[test]
    fn levels_and_format_can_be_changed_while_it_runs() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("busd.log");
        let mut settings = Settings { sink: Sink::File, ..Settings::default() };
        let (subscriber, mut logging) = build(&settings, Mode::Foreground, &path).unwrap();
        let take = || {
            let text = read(&path);
            std::fs::remove_file(&path).unwrap();
            text
        };
        let say_all = || {
            tracing::debug!(target: "router", "quiet");
            tracing::info!(target: "bus", pid = 7, "loud");
            tracing::warn!(target: "hooks", "hook");
        };
        tracing::subscriber::with_default(subscriber, || {
            say_all();
            let text = take();
            assert!(text.contains("] info: loud\n") && text.contains("] warn: hook\n"), "{text}");
            assert!(!text.contains("quiet"), "{text}");
            settings.level = Level::Error;
            settings.levels = vec![("router".to_owned(), Level::Debug)];
            settings.format = Format::Json;
            logging.apply(&settings).unwrap();
            say_all();
            let text = take();
            let line: serde_json::Value = serde_json::from_str(&text).unwrap();
            assert_eq!((&line["target"], &line["level"]), (&"router".into(), &"debug".into()));
            settings.level = Level::Info;
            settings.levels = vec![("hooks".to_owned(), Level::Error)];
            logging.apply(&settings).unwrap();
            say_all();
            let text = take();
            let line: serde_json::Value = serde_json::from_str(&text).unwrap();
            assert_eq!((&line["message"], &line["pid"]), (&"loud".into(), &7.into()));
        });
    }

    #[test]
    fn settings_that_cannot_be_applied_change_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("missing/busd.log");
        let settings = Settings { sink: Sink::StandardError, ..Settings::default() };
        let (_subscriber, mut logging) = build(&settings, Mode::Foreground, &path).unwrap();
        let wanted = Settings { sink: Sink::File, level: Level::Debug, ..Settings::default() };
        let error = logging.apply(&wanted).unwrap_err().to_string();
        assert!(error.starts_with(&format!("cannot log to {}: ", path.display())), "{error}");
        assert_eq!(logging.settings, settings);
        assert!(matches!(logging.output.lock().unwrap().place, Place::StandardError));
        assert_eq!(logging.filter.clone_current().unwrap(), settings.filter());
    }

    #[test]
    fn automatic_means_the_file_for_a_detached_server_and_standard_error_for_others() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("busd.log");
        let settings = Settings::default();
        let place = |mode| open(&settings, mode, &path).unwrap();
        assert!(matches!(place(Mode::Foreground), Place::StandardError));
        assert!(!path.exists());
        assert!(matches!(place(Mode::Detached), Place::File(_)));
        assert!(path.exists());
    }
}

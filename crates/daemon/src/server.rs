//! The server process: what is set up before the loop runs, and taken down after it.

use std::fs;
use std::io::Write;
use std::time::{Duration, Instant};

use anyhow::Context;
use hermes_bus_core::{Config, Router};

use crate::door::{Door, Link};
use crate::driver::Driver;
use crate::lock::Lock;
use crate::logging::{self, Settings, target};
use crate::manager::{self, Daemon};
use crate::root::{Root, hermes_home};
use crate::service;
use crate::signals::{HangUp, Signals};
use crate::sys;

/// How a server runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// In a terminal, logging there. Writes no PID file.
    Foreground,
    /// Away from any terminal, with a PID file, logging to the log file.
    Detached,
}

/// Has this process's server stop when its standard input ends: for a server that must not outlive
/// who started it, however that one ends.
pub fn stop_at_end_of_input() {
    std::thread::spawn(|| {
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        let _ = signal_hook::low_level::raise(signal_hook::consts::SIGTERM);
    });
}

/// Another server runs on this root already.
#[derive(Debug, thiserror::Error)]
#[error("a bus runs on {socket} already (pid={pid})", pid = .pid.map_or("?".to_owned(), |pid| pid.to_string()))]
pub struct AlreadyRunning {
    socket: String,
    pid: Option<u32>,
}

/// How long a server that is about to end, or to answer, is waited for.
const LOCK_PATIENCE: Duration = Duration::from_secs(4);
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Runs a server until a signal ends it.
pub fn run(root: &Root, mode: Mode) -> anyhow::Result<()> {
    if mode == Mode::Detached {
        // The starter has made this process a group of its own or not; either way it may leave.
        let _ = rustix::process::setsid();
    }
    let directory = root.directory().display().to_string();
    root.create().with_context(|| format!("cannot create {directory}"))?;
    let (settings, complaint) = Settings::from_environment();
    logging::start(&settings, mode, &root.log_file())?;
    if let Some(complaint) = complaint {
        tracing::warn!(target: target::CONFIG, "{complaint}");
    }
    let lock = take_lock(root)?;
    if root.is_writable_for_others() {
        tracing::warn!(target: target::BUS, "{directory} is writable for other users: they could put a socket there");
    }
    let hang_up = match mode {
        Mode::Foreground => HangUp::Stops,
        Mode::Detached => HangUp::IsIgnored,
    };
    let signals = Signals::catch(hang_up).context("cannot catch signals")?;
    let open_files = sys::raise_open_files();
    let door = match service::listening_socket(&root.socket())? {
        Some(listener) => Door::inherit(listener, &root.socket())?,
        None => Door::open(&root.socket())?,
    };
    let link = hermes_home().and_then(|home| Link::place(&home, &root.socket()));
    let pid_file = match mode {
        Mode::Foreground => None,
        Mode::Detached => Some(PidFile::write(root)?),
    };
    let router = Router::new(config(), fastrand::u64(..));
    let mut driver = Driver::new(router, door, signals).context("cannot watch the socket")?;
    announce(root, mode, open_files);
    driver.ready(&format!("listening on {}", root.socket().display()));
    driver.run().context("waiting for events failed")?;
    drop((link, pid_file));
    tracing::info!(target: target::BUS, "stopped");
    drop(lock);
    Ok(())
}

fn config() -> Config {
    Config { owner_uid: rustix::process::geteuid().as_raw(), ..Config::default() }
}

/// Takes the root's lock. A server that is just going down lets go of it in a moment; one that
/// answers keeps it.
fn take_lock(root: &Root) -> anyhow::Result<Lock> {
    let shown = || root.lock_file().display().to_string();
    let deadline = Instant::now() + LOCK_PATIENCE;
    loop {
        if let Some(lock) = Lock::take(root).with_context(|| format!("cannot lock {}", shown()))? {
            return Ok(lock);
        }
        let daemon = manager::look(root);
        if matches!(daemon, Daemon::Running { .. }) || Instant::now() > deadline {
            let socket = root.socket().display().to_string();
            return Err(AlreadyRunning { socket, pid: daemon.pid() }.into());
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// The lines that released servers begin with.
fn announce(root: &Root, mode: Mode, open_files: Option<u64>) {
    let socket = root.socket();
    let pid = std::process::id();
    if mode == Mode::Foreground {
        let mut out = std::io::stdout().lock();
        let _ = writeln!(out, "[HermesBus] listening on {}", socket.display());
        let _ = writeln!(out, "[HermesBus] hooks: (none)");
        let _ = out.flush();
    }
    let open_files = open_files.map_or("unlimited".to_owned(), |files| files.to_string());
    let (socket, version) = (socket.display(), env!("CARGO_PKG_VERSION"));
    let line =
        format!("listening on {socket} (pid={pid}, version {version}, open files: {open_files})");
    match mode {
        // The terminal has the announcement already.
        Mode::Foreground => tracing::debug!(target: target::BUS, "{line}"),
        Mode::Detached => tracing::info!(target: target::BUS, "{line}"),
    }
    warn_of_hooks(root);
}

/// Released servers run hooks; this one does not yet, and must not keep quiet about it.
fn warn_of_hooks(root: &Root) {
    let is_set = |value: &str| !matches!(value.trim().to_lowercase().as_str(), "" | "none" | "[]");
    if std::env::var("HERMES_BUS_HOOKS").is_ok_and(|hooks| is_set(&hooks)) {
        tracing::warn!(target: target::HOOKS, "HERMES_BUS_HOOKS is set, but this version runs no hooks");
    }
    for directory in [hermes_home(), Some(root.directory().to_owned())].into_iter().flatten() {
        let file = directory.join("hermes-bus/hooks.yaml");
        if file.is_file() {
            tracing::warn!(target: target::HOOKS, "{} is there, but this version runs no hooks", file.display());
            return;
        }
    }
}

/// The PID file of a detached server. Removed with this value, if it still names this process.
struct PidFile<'a> {
    root: &'a Root,
}

impl<'a> PidFile<'a> {
    fn write(root: &'a Root) -> anyhow::Result<Self> {
        let path = root.pid_file();
        fs::write(&path, std::process::id().to_string())
            .with_context(|| format!("cannot write {}", path.display()))?;
        Ok(PidFile { root })
    }
}

impl Drop for PidFile<'_> {
    fn drop(&mut self) {
        let path = self.root.pid_file();
        let own = std::process::id().to_string();
        if fs::read_to_string(&path).is_ok_and(|pid| pid == own) {
            let _ = fs::remove_file(path);
        }
    }
}

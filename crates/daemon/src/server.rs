//! The server process: what is set up before the loop runs, and taken down after it.

use std::fs;
use std::io::Write;
use std::time::{Duration, Instant};

use anyhow::Context;
use hermes_bus_core::{Lingering, Router};

use crate::config::{Loaded, Sources};
use crate::door::{Access, Door, Link};
use crate::driver::{Belongings, Driver, End};
use crate::hooks;
use crate::lock::Lock;
use crate::logging::{self, target};
use crate::manager::{self, Daemon};
use crate::root::{Root, hermes_home};
use crate::service;
use crate::signals::Signals;
use crate::storage::Storage;
use crate::succession::{Inheritance, Newcomer, Predecessor};
use crate::surroundings::{Surroundings, router_config};
use crate::sys;

/// How a server runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// In a terminal, logging there. Writes no PID file.
    Foreground,
    /// Away from any terminal, with a PID file, logging to the log file.
    Detached,
}

impl Mode {
    /// What tells a server to run so.
    pub(crate) fn arguments(self) -> &'static [&'static str] {
        match self {
            Mode::Foreground => &[],
            Mode::Detached => &["--detached"],
        }
    }
}

/// Where a server gets its socket and lock from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// It makes them.
    New,
    /// The server that has started this one hands them over.
    Successor,
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

/// Runs a server until a signal ends it, or another one follows it.
///
/// # Errors
/// A configuration that cannot be used, a root where another bus runs, or a system that lacks something.
pub fn run(root: &Root, mode: Mode, origin: Origin, sources: Sources) -> anyhow::Result<()> {
    if mode == Mode::Detached {
        // The starter has made this process a group of its own or not; either way it may leave.
        let _ = rustix::process::setsid();
    }
    let directory = root.directory().display().to_string();
    root.create().with_context(|| format!("cannot create {directory}"))?;
    let Loaded { settings, warnings, .. } = sources.load()?;
    // Before anything is written: a file at its limit is a signal too.
    let signals = Signals::catch().context("cannot catch signals")?;
    let logging = logging::start(&settings.log, mode, &root.log_file())?;
    for warning in warnings {
        tracing::warn!(target: target::CONFIG, "{warning}");
    }
    if root.is_writable_for_others() {
        tracing::warn!(
            target: target::BUS,
            "{directory} is writable for other users: they could put a socket there"
        );
    }
    hooks::keep_files_from_children();
    let open_files = sys::raise_open_files();
    let access = Access {
        backlog: i32::try_from(settings.socket.backlog).unwrap_or(i32::MAX),
        is_open_to_others: !settings.router.allow_uids.is_empty(),
    };
    let mut router = Router::new(router_config(&settings), fastrand::u64(..));
    let mut surroundings = Surroundings::new(root, sources, settings, logging);
    let found = surroundings.find_hooks();
    surroundings.run_hooks(found, &mut router);
    let path = root.socket();
    let Holdings { lock, mut door, newcomers, left, predecessor } = match origin {
        Origin::New => Holdings::of_its_own(root, access)?,
        Origin::Successor => Holdings::of_predecessor(root, access)?,
    };
    if let Some((predecessor, socket_is_ours)) = predecessor {
        surroundings.follow(predecessor.process());
        if let Err(error) = predecessor.relieve() {
            tracing::warn!(target: target::BUS, "{error:#}");
        }
        door.take_over(socket_is_ours);
        if let Err(error) = lock.put_in_own_name() {
            tracing::error!(target: target::BUS, "the lock was lost: {error}");
        }
    }
    // The lock is this process's own now, and nobody else has the store open.
    let (storage, recovered) = Storage::open(root, surroundings.settings(), Instant::now());
    let link = hermes_home().and_then(|home| Link::place(&home, &path));
    let pid_file = match mode {
        Mode::Foreground => None,
        Mode::Detached => match PidFile::write(root) {
            Ok(pid_file) => Some(pid_file),
            // It is only a hint, for people.
            Err(error) => {
                tracing::error!(target: target::BUS, "{error:#}");
                None
            }
        },
    };
    announce(root, mode, &surroundings.hooks_listing(), open_files);
    surroundings.supervisor().ready(&format!("listening on {}", path.display()));
    let belongings = Belongings { lock, door, storage };
    let mut driver = Driver::new(router, root, mode, belongings, signals, surroundings)
        .context("cannot watch the socket")?;
    driver.begin(recovered, left);
    driver.take_in(newcomers);
    match driver.run().context("waiting for events failed")? {
        End::Stopped(lock) => {
            drop((link, pid_file));
            tracing::info!(target: target::BUS, "stopped");
            drop(lock);
        }
        // The link is the next process's now; the PID file names that one already.
        End::HandedOver => link.into_iter().for_each(Link::leave),
    }
    Ok(())
}

/// What makes a process the bus of its root.
struct Holdings {
    lock: Lock,
    door: Door,
    newcomers: Vec<Newcomer>,
    /// Names that were in use, and what is held for them.
    left: Vec<Lingering>,
    /// The process that hands over, and whether the socket is then this one's to remove.
    predecessor: Option<(Predecessor, bool)>,
}

impl Holdings {
    fn of_its_own(root: &Root, access: Access) -> anyhow::Result<Self> {
        let lock = take_lock(root)?;
        let path = root.socket();
        let door = match service::listening_socket(&path)? {
            Some(listener) => {
                let mut door = Door::inherit(&path, access, listener.into(), None)?;
                door.take_over(false);
                door
            }
            None => Door::open(&path, access)?,
        };
        Ok(Holdings { lock, door, newcomers: Vec::new(), left: Vec::new(), predecessor: None })
    }

    /// Waits for what the old process hands over. If that one ends before, this process begins anew.
    fn of_predecessor(root: &Root, access: Access) -> anyhow::Result<Self> {
        let mut predecessor = Predecessor::find()?;
        let inheritance = match predecessor.inherit() {
            Ok(inheritance) => inheritance,
            Err(error) => {
                tracing::warn!(target: target::BUS, "{error:#}; beginning anew");
                return Holdings::of_its_own(root, access);
            }
        };
        let Inheritance { listener, identity, socket_is_ours, lock, newcomers, left } = inheritance;
        // Until the old process is relieved, the path is its own: it may have to go on with it.
        let door = Door::inherit(&root.socket(), access, listener, Some(identity))?;
        let predecessor = Some((predecessor, socket_is_ours));
        Ok(Holdings { lock: Lock::inherit(lock), door, newcomers, left, predecessor })
    }
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
fn announce(root: &Root, mode: Mode, hooks: &str, open_files: Option<u64>) {
    let socket = root.socket();
    let pid = std::process::id();
    if mode == Mode::Foreground {
        let mut out = std::io::stdout().lock();
        let _ = writeln!(out, "[HermesBus] listening on {}", socket.display());
        let _ = writeln!(out, "[HermesBus] hooks: {hooks}");
        let _ = out.flush();
    }
    let open_files = open_files.map_or("unlimited".to_owned(), |files| files.to_string());
    let (socket, version) = (socket.display(), env!("CARGO_PKG_VERSION"));
    let line = format!(
        "listening on {socket} (pid={pid}, version {version}, open files: {open_files}, hooks: {hooks})"
    );
    match mode {
        // The terminal has the announcement already.
        Mode::Foreground => tracing::debug!(target: target::BUS, "{line}"),
        Mode::Detached => tracing::info!(target: target::BUS, "{line}"),
    }
}

/// The PID file of a detached server. Removed with this value, if it still names this process.
struct PidFile<'a> {
    root: &'a Root,
}

impl<'a> PidFile<'a> {
    fn write(root: &'a Root) -> anyhow::Result<Self> {
        let path = root.pid_file();
        let written = fs::write(&path, std::process::id().to_string());
        if written.is_err() && fs::read(&path).is_ok_and(|content| content.is_empty()) {
            // A full disk leaves an empty file, which names nobody.
            let _ = fs::remove_file(&path);
        }
        written.with_context(|| format!("cannot write {}", path.display()))?;
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

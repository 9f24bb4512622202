//! The daemon manager: start, stop, status and restart of a detached server.
//!
//! Who owns a socket is asked of the kernel: the credentials of whoever listens on it, or the holder
//! of the root's lock. A process that a PID file merely names is never signalled.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};
use std::{env, fs};

use anyhow::Context;
use hermes_bus_client::{Bus, CallError, blocking, executables_on_path};
use hermes_bus_proto::listing::Listing;
use rustix::process::Signal;
use serde_json::{Map, Value};

use crate::config::Sources;
use crate::control::{RELOAD, RESTART, STORE};
use crate::lock::Lock;
use crate::logging;
use crate::report;
use crate::root::Root;
use crate::succession::Order;
use crate::sys::{self, Process};

/// How long a connect may take, and how long the answer: as released managers have it.
const CONNECT_PATIENCE: Duration = Duration::from_secs(2);
const ANSWER_PATIENCE: Duration = Duration::from_millis(1_500);
/// How long a server may take until it answers for the first time.
const START_PATIENCE: Duration = Duration::from_secs(8);
/// How long a server may take to end in good order. It allows itself two seconds for its connections and
/// one for its hooks; released plugins
/// give a whole `restart` ten.
const STOP_PATIENCE: Duration = Duration::from_secs(5);
/// How long the system may take to end a process by force.
const KILL_PATIENCE: Duration = Duration::from_secs(5);
/// How long a server may take to read its configuration.
const RELOAD_PATIENCE: Duration = Duration::from_secs(5);
/// How long a new server may take to be ready, as the old one waits for it, and some more.
const SUCCESSION_PATIENCE: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// The program that serves.
const SERVER: &str = "hermes-bus-server";
/// Lines of the log that are shown when a start fails.
const LOG_LINES: usize = 10;

/// What is found on a root.
#[derive(Debug)]
pub enum Daemon {
    /// It answers.
    Running {
        /// Its process.
        pid: u32,
        /// Its endpoints.
        listing: Listing,
    },
    /// A process holds the socket or the lock, but nothing answers.
    Unresponsive {
        /// That process.
        pid: u32,
    },
    /// No process.
    Absent,
}

impl Daemon {
    /// The process that owns the root.
    pub fn pid(&self) -> Option<u32> {
        match self {
            Daemon::Running { pid, .. } | Daemon::Unresponsive { pid } => Some(*pid),
            Daemon::Absent => None,
        }
    }
}

/// Looks who runs on a root.
pub fn look(root: &Root) -> Daemon {
    let by_lock = || match Lock::holder(root) {
        Some(pid) => Daemon::Unresponsive { pid },
        None => Daemon::Absent,
    };
    let Ok(bus) = blocking::Bus::new(Bus::at(root.socket()).patience(CONNECT_PATIENCE)) else {
        return by_lock();
    };
    let Ok(mut connection) = bus.open() else { return by_lock() };
    let listener = connection.peer_pid().filter(|pid| *pid > 0);
    let answer = connection.list(ANSWER_PATIENCE);
    // The connection may have started the server, so its lock is looked at behind it. Where a service
    // manager opened the socket, the listener is that manager, or a server that has ended long ago.
    // A listener in another container has no id here, and a released server has no lock.
    let serves =
        |pid: &u32| !sys::is_service_manager(*pid) && sys::may_listen_at(*pid, &root.socket());
    let pid = listener.filter(serves).or_else(|| Lock::holder(root)).unwrap_or(0);
    match answer {
        Ok(listing) => Daemon::Running { pid, listing },
        Err(_) => Daemon::Unresponsive { pid },
    }
}

/// What the PID file holds.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum PidFile {
    Missing,
    Garbage,
    Names(u32),
}

pub(crate) fn pid_file(root: &Root) -> PidFile {
    match fs::read_to_string(root.pid_file()) {
        Err(_) => PidFile::Missing,
        Ok(text) => match text.trim().parse::<i32>() {
            Ok(pid @ 1..) => PidFile::Names(pid.unsigned_abs()),
            _ => PidFile::Garbage,
        },
    }
}

/// What a manager's command prints, and its exit code.
pub type Outcome = anyhow::Result<ExitCode>;

// ---- start ------------------------------------------------------------------------------------------

/// Starts a detached server, unless one runs. Returns when its socket answers.
pub fn start(root: &Root, sources: &Sources, out: &mut dyn Write) -> Outcome {
    match look(root) {
        Daemon::Running { pid, .. } => return already_running(pid, sources, out),
        Daemon::Unresponsive { pid } => return wait_for_unresponsive(root, sources, pid, out),
        Daemon::Absent => {}
    }
    let shown = root.directory().display().to_string();
    root.create().with_context(|| format!("cannot create {shown}"))?;
    let log_file = root.log_file();
    let log = logging::append_to(&log_file)
        .with_context(|| format!("cannot write {}", log_file.display()))?;
    let mut server = spawn_server(root, sources, log)?;
    let deadline = Instant::now() + START_PATIENCE;
    loop {
        if let Daemon::Running { pid, .. } = look(root) {
            // The server that lost a race against another one ends by itself.
            if pid != server.id() {
                let _ = server.wait();
                return already_running(pid, sources, out);
            }
            return started(root, pid, out);
        }
        if let Some(status) = server.try_wait()? {
            // It may have given way to another one that is about to answer.
            if let Daemon::Running { pid, .. } = look(root) {
                return already_running(pid, sources, out);
            }
            writeln!(out, "busd failed to start ({status})")?;
            return start_failed(root, out);
        }
        if Instant::now() > deadline {
            let _ = server.kill();
            let _ = server.wait();
            writeln!(out, "busd start timed out — server not ready")?;
            return start_failed(root, out);
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

fn started(root: &Root, pid: u32, out: &mut dyn Write) -> Outcome {
    let version = env!("CARGO_PKG_VERSION");
    logging::note(&root.log_file(), &format!("start: server pid={pid}, version={version}"))?;
    writeln!(out, "busd started (pid={pid})")?;
    writeln!(out, "  socket: {}", root.socket().display())?;
    writeln!(out, "  log:    {}", root.log_file().display())?;
    Ok(ExitCode::SUCCESS)
}

fn already_running(pid: u32, sources: &Sources, out: &mut dyn Write) -> Outcome {
    writeln!(out, "busd already running (pid={pid})")?;
    if !sources.arguments().is_empty() {
        writeln!(out, "  --config and --set were not used: 'hermes-busd restart' takes them")?;
    }
    Ok(ExitCode::SUCCESS)
}

fn start_failed(root: &Root, out: &mut dyn Write) -> Outcome {
    writeln!(out, "  Recent logs:")?;
    for line in logging::tail(&root.log_file(), LOG_LINES).unwrap_or_default() {
        writeln!(out, "    {line}")?;
    }
    Ok(ExitCode::FAILURE)
}

/// A process owns the root but does not answer. It may be starting or ending, or its socket was
/// deleted: it is asked to look, and waited for.
fn wait_for_unresponsive(root: &Root, sources: &Sources, pid: u32, out: &mut dyn Write) -> Outcome {
    let deadline = Instant::now() + ANSWER_PATIENCE;
    if fs::symlink_metadata(root.socket()).is_err()
        && let Some(process) = Process::find(pid)
    {
        let _ = process.signal(Signal::USR1);
    }
    loop {
        match look(root) {
            Daemon::Running { pid, .. } => return already_running(pid, sources, out),
            Daemon::Absent => return start(root, sources, out),
            Daemon::Unresponsive { .. } if Instant::now() < deadline => {
                std::thread::sleep(LOOK_EVERY);
            }
            Daemon::Unresponsive { pid } => {
                writeln!(out, "{}", report::unresponsive(pid))?;
                writeln!(out, "  socket: {}", root.socket().display())?;
                writeln!(out, "  'hermes-busd restart' ends that process and starts anew")?;
                return Ok(ExitCode::FAILURE);
            }
        }
    }
}

fn spawn_server(root: &Root, sources: &Sources, log: File) -> anyhow::Result<Child> {
    let program = server_program();
    Command::new(&program)
        .arg("--detached")
        .arg("--root")
        .arg(root.directory())
        .args(sources.arguments())
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .with_context(|| format!("cannot start {}", program.display()))
}

/// The absolute path of [`server_program`].
fn find_server_program() -> anyhow::Result<PathBuf> {
    let program = server_program();
    let on_path = || {
        let path = env::var_os("PATH").unwrap_or_default();
        executables_on_path(&path, &program).next()
    };
    let found = if program.is_absolute() { Some(program.clone()) } else { on_path() };
    found.with_context(|| format!("{SERVER} is neither beside this program nor on PATH"))
}

/// The server that was installed together with this program, else the one on PATH.
pub(crate) fn server_program() -> PathBuf {
    let beside = env::current_exe().ok().map(|program| program.with_file_name(SERVER));
    beside.filter(|program| program.is_file()).unwrap_or_else(|| PathBuf::from(SERVER))
}

// ---- stop -------------------------------------------------------------------------------------------

/// Stops the server that runs on a root, however it was started, and cleans up what is left over.
pub fn stop(root: &Root, out: &mut dyn Write) -> Outcome {
    let Some(pid) = look(root).pid() else { return nothing_to_stop(root, out) };
    if pid == 0 {
        anyhow::bail!("the bus's process cannot be seen from here: stop it in its own container");
    }
    writeln!(out, "Stopping busd (pid={pid})...")?;
    out.flush()?;
    let log_file = root.log_file();
    // A log that cannot be written keeps nobody from stopping the bus.
    let note = |text: &str| drop(logging::note(&log_file, text));
    if let Some(process) = Process::find(pid) {
        note(&format!("stop: sending SIGTERM to pid={pid}"));
        let not_ours = || format!("cannot signal the bus's process (pid={pid})");
        process.signal(Signal::TERM).with_context(not_ours)?;
        if !process.wait(STOP_PATIENCE) {
            writeln!(out, "  process not responding to SIGTERM, sending SIGKILL...")?;
            note(&format!("stop: sending SIGKILL to pid={pid}"));
            process.signal(Signal::KILL).with_context(not_ours)?;
            if !process.wait(KILL_PATIENCE) {
                anyhow::bail!("process {pid} does not end, not even by force");
            }
        }
    }
    clean_up(root)?;
    note("stop: complete");
    writeln!(out, "busd stopped")?;
    Ok(ExitCode::SUCCESS)
}

fn nothing_to_stop(root: &Root, out: &mut dyn Write) -> Outcome {
    match pid_file(root) {
        PidFile::Missing => writeln!(out, "busd not running (no PID file)")?,
        PidFile::Garbage => writeln!(out, "busd not running (the PID file holds no number)")?,
        PidFile::Names(pid) => {
            writeln!(out, "busd not running (pid={pid} in the PID file is no bus of this root)")?;
            clean_up(root)?;
            writeln!(out, "busd stopped")?;
            return Ok(ExitCode::SUCCESS);
        }
    }
    clean_up(root)?;
    Ok(ExitCode::SUCCESS)
}

/// Removes the socket and the PID file that a server left behind, under the root's lock.
pub(crate) fn clean_up(root: &Root) -> anyhow::Result<()> {
    if !root.run_directory().is_dir() {
        remove_left_over(root)?;
        return Ok(());
    }
    let Some(_lock) = Lock::take(root).context("cannot take the root's lock")? else {
        // Somebody has started a new one meanwhile.
        return Ok(());
    };
    remove_left_over(root)
}

fn remove_left_over(root: &Root) -> anyhow::Result<()> {
    use std::os::unix::fs::FileTypeExt;
    let socket = root.socket();
    let is_socket = fs::symlink_metadata(&socket).is_ok_and(|found| found.file_type().is_socket());
    // A service manager listens on for the next client.
    let may_go = is_socket && !sys::is_listened_at(&socket);
    for path in [may_go.then_some(socket), Some(root.pid_file())].into_iter().flatten() {
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot remove {}", path.display()));
            }
            _ => {}
        }
    }
    Ok(())
}

// ---- restart and status -----------------------------------------------------------------------------

/// Has a new server follow the one that runs, or, where that one cannot hand over, stops it and starts
/// anew.
pub fn restart(root: &Root, sources: &Sources, out: &mut dyn Write) -> Outcome {
    // Nothing is stopped where nothing could be started then.
    let program = find_server_program()?;
    if let Daemon::Running { pid, listing } = look(root)
        && pid > 0
        && listing.server.is_some_and(|server| server.admin_ops.iter().any(|op| op == RESTART))
    {
        return succeed(root, sources, pid, &program, out);
    }
    stop(root, out)?;
    start(root, sources, out)
}

/// Has a new server follow that of process `old`.
fn succeed(
    root: &Root,
    sources: &Sources,
    old: u32,
    program: &Path,
    out: &mut dyn Write,
) -> Outcome {
    writeln!(out, "Stopping busd (pid={old})...")?;
    out.flush()?;
    let text = |text: OsString| text.into_string().ok();
    let environment = env::vars_os().filter_map(|(name, value)| Some((text(name)?, text(value)?)));
    let arguments = sources.arguments().into_iter().filter_map(text).collect();
    let program = program.to_owned();
    Order { program, arguments, environment: Some(environment.collect()) }.leave(root)?;
    let asked = ask(root, RESTART, &Map::new(), SUCCESSION_PATIENCE);
    let new = match asked {
        Ok(answer) => answer.get("pid").and_then(Value::as_u64),
        Err(error) => {
            let _ = fs::remove_file(root.order_file());
            writeln!(out, "busd restart failed: {error:#}")?;
            return who_goes_on(root, out);
        }
    };
    let deadline = Instant::now() + START_PATIENCE;
    let mut old_answers_since = None;
    loop {
        match look(root) {
            Daemon::Running { pid, .. } if Some(u64::from(pid)) == new => {
                logging::note(&root.log_file(), "stop: complete")?;
                writeln!(out, "busd stopped")?;
                return started(root, pid, out);
            }
            // The kernel may name it for a moment as the owner of a socket that the new one serves.
            Daemon::Running { pid, .. } if pid == old => {
                let since = *old_answers_since.get_or_insert_with(Instant::now);
                if since.elapsed() > ANSWER_PATIENCE {
                    writeln!(out, "busd restart failed: the new server has ended")?;
                    return who_goes_on(root, out);
                }
            }
            _ if Instant::now() > deadline => {
                writeln!(out, "busd restart timed out — the new server does not answer")?;
                return who_goes_on(root, out);
            }
            _ => old_answers_since = None,
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// After a restart that failed.
fn who_goes_on(root: &Root, out: &mut dyn Write) -> Outcome {
    if let Daemon::Running { pid, .. } = look(root) {
        writeln!(out, "  a bus goes on (pid={pid})")?;
    }
    start_failed(root, out)
}

/// Has the server that runs read its configuration and hooks again.
pub fn reload(root: &Root, out: &mut dyn Write) -> Outcome {
    let pid = match look(root) {
        Daemon::Running { pid, .. } => pid,
        Daemon::Unresponsive { pid } => {
            writeln!(out, "{}", report::unresponsive(pid))?;
            return Ok(ExitCode::FAILURE);
        }
        Daemon::Absent => {
            writeln!(out, "busd not running: nothing to reload")?;
            return Ok(ExitCode::FAILURE);
        }
    };
    let answer = match ask(root, RELOAD, &Map::new(), RELOAD_PATIENCE) {
        Ok(answer) => answer,
        Err(error) => {
            writeln!(out, "busd (pid={pid}) keeps its old configuration:")?;
            for line in format!("{error:#}").lines() {
                writeln!(out, "  {line}")?;
            }
            return Ok(ExitCode::FAILURE);
        }
    };
    writeln!(out, "busd reloaded (pid={pid})")?;
    let is_empty = |kind: &str| {
        answer.get(kind).and_then(Value::as_array).is_none_or(|lines| lines.is_empty())
    };
    if is_empty("applied") && is_empty("need_restart") {
        writeln!(out, "  nothing has changed")?;
    }
    let told = [("applied", ""), ("need_restart", " (after a restart)"), ("warnings", "")];
    for (kind, addition) in told {
        let lines = answer.get(kind).and_then(Value::as_array).into_iter().flatten();
        for line in lines.filter_map(Value::as_str) {
            let warning = if kind == "warnings" { "warning: " } else { "" };
            writeln!(out, "  {warning}{line}{addition}")?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Has the daemon do something that only its owner may ask for.
fn ask(
    root: &Root,
    op: &str,
    arguments: &Map<String, Value>,
    patience: Duration,
) -> anyhow::Result<Map<String, Value>> {
    let bus = blocking::Bus::new(Bus::at(root.socket()).patience(CONNECT_PATIENCE))?;
    let mut connection = bus.open()?;
    connection.admin(op, arguments, patience).map_err(|error| match error {
        CallError::Refused { detail, .. } => anyhow::anyhow!(detail),
        error => error.into(),
    })
}

/// What the bus that runs says of its store; none if it is one that cannot say. `listing` is its own.
pub(crate) fn store_of(
    root: &Root,
    listing: &Listing,
) -> Option<anyhow::Result<Map<String, Value>>> {
    let server = listing.server.as_ref()?;
    let can_say = server.admin_ops.iter().any(|op| op == STORE);
    can_say.then(|| ask(root, STORE, &Map::new(), ANSWER_PATIENCE))
}

/// How `status` is to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// For people, and for the scripts that look for its words.
    Text,
    /// For scripts.
    Json,
}

/// Says what runs on a root. Its exit code is always 0, as in released versions.
pub fn status(root: &Root, form: Form, out: &mut dyn Write) -> Outcome {
    let daemon = look(root);
    let store = match &daemon {
        Daemon::Running { listing, .. } => store_of(root, listing).and_then(Result::ok),
        Daemon::Unresponsive { .. } | Daemon::Absent => None,
    };
    match form {
        Form::Text => report::text(root, &daemon, store.as_ref(), out)?,
        Form::Json => report::json(root, &daemon, store.as_ref(), out)?,
    }
    if matches!(daemon, Daemon::Absent) && matches!(pid_file(root), PidFile::Names(_)) {
        clean_up(root)?;
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pid_file_only_names_what_can_be_a_process() {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::find(Some(directory.path())).unwrap();
        assert_eq!(pid_file(&root), PidFile::Missing);
        root.create().unwrap();
        let read = |text: &str| {
            fs::write(root.pid_file(), text).unwrap();
            pid_file(&root)
        };
        assert_eq!(read("4242\n"), PidFile::Names(4242));
        // 0 and -1 mean "all processes" to kill(2), and so does 4294967295 once it is an i32.
        for garbage in ["", "abc", "0", "-1", "4294967295", "99999999999", "12 34"] {
            assert_eq!(read(garbage), PidFile::Garbage, "{garbage:?}");
        }
    }

    #[test]
    fn nobody_is_found_on_a_root_that_nobody_uses() {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::find(Some(directory.path())).unwrap();
        assert!(matches!(look(&root), Daemon::Absent));
        root.create().unwrap();
        let lock = Lock::take(&root).unwrap();
        assert!(lock.is_some());
        let own = std::process::id();
        assert!(matches!(look(&root), Daemon::Unresponsive { pid } if pid == own));
        assert!(Lock::take(&root).unwrap().is_none(), "nobody else gets it");
        drop(lock);
        assert!(matches!(look(&root), Daemon::Absent));
    }
}

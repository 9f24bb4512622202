//! The root directory and what the bus has in it.

use std::fs::{self, Metadata};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use super::setup::lets_others_connect;
use super::{Finding, Remedy, Subject, is_own};
use crate::door::directory_closed_to_others;
use crate::lock::Lock;
use crate::manager::{Daemon, PidFile, pid_file as read_pid_file};
use crate::private_socket::PATH_BYTES_MAX;
use crate::sys::Process;

/// May be entered or written by others.
const WRITABLE_FOR_OTHERS: u32 = 0o022;

fn mode(found: &Metadata) -> u32 {
    found.mode() & 0o777
}

// ---- directories and the log ------------------------------------------------------------------------

pub(super) fn root(subject: &Subject<'_>) -> Vec<Finding> {
    const CHECK: &str = "root";
    let path = subject.root.directory();
    let shown = path.display();
    let finding = match fs::metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Finding::note(CHECK, format!("{shown} does not exist yet"))
                .advice("'hermes-busd start' makes it")
        }
        Err(error) => Finding::problem(CHECK, format!("{shown} cannot be examined: {error}"))
            .advice("give this user access to it, or choose another one with HERMES_BUS_ROOT"),
        Ok(found) if !found.is_dir() => {
            Finding::problem(CHECK, format!("{shown} is not a directory"))
                .advice("move it away, or choose another root with HERMES_BUS_ROOT")
        }
        Ok(found) if !is_own(&found) => {
            Finding::warning(CHECK, format!("{shown} belongs to another user ({})", found.uid()))
                .advice("each user has a bus of their own: choose a root with HERMES_BUS_ROOT")
        }
        Ok(found) if found.mode() & WRITABLE_FOR_OTHERS != 0 => Finding::warning(
            CHECK,
            format!(
                "{shown} is writable for others (mode {:o}): they could put a socket there",
                mode(&found)
            ),
        )
        .advice(format!("chmod go-w {shown}")),
        Ok(_) => Finding::ok(CHECK, format!("{shown} is this user's")),
    };
    vec![finding]
}

pub(super) fn run_directory(subject: &Subject<'_>) -> Vec<Finding> {
    const CHECK: &str = "run directory";
    let path = subject.root.run_directory();
    let shown = path.display();
    let finding = match fs::metadata(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Finding::ok(CHECK, "is made with the first start")
        }
        Err(error) => Finding::problem(CHECK, format!("{shown} cannot be examined: {error}"))
            .advice("give this user access to it"),
        Ok(found) if !found.is_dir() => {
            Finding::problem(CHECK, format!("{shown} is not a directory")).advice("move it away")
        }
        Ok(found) if !is_own(&found) => {
            Finding::problem(CHECK, format!("{shown} belongs to another user ({})", found.uid()))
                .advice("the bus cannot lock it: give it to this user, or move it away")
        }
        Ok(found) if found.mode() & WRITABLE_FOR_OTHERS != 0 => {
            let what = format!("{shown} is writable for others (mode {:o})", mode(&found));
            Finding::warning(CHECK, what)
                .advice(format!("chmod 700 {shown}"))
                .remedy(Remedy::SetMode { path, mode: 0o700 })
        }
        Ok(_) => Finding::ok(CHECK, format!("{shown} is this user's")),
    };
    vec![finding]
}

pub(super) fn log(subject: &Subject<'_>) -> Vec<Finding> {
    const CHECK: &str = "log";
    let path = subject.root.log_file();
    let shown = path.display();
    let finding = match fs::symlink_metadata(&path) {
        Err(_) => Finding::ok(CHECK, "nothing was logged yet"),
        Ok(found) if found.is_file() && is_own(&found) && mode(&found) & 0o077 != 0 => {
            let what = format!("{shown} is open to others (mode {:o})", mode(&found));
            Finding::warning(CHECK, what)
                .advice(format!("chmod 600 {shown}"))
                .remedy(Remedy::SetMode { path, mode: 0o600 })
        }
        Ok(found) if found.is_file() && !is_own(&found) => {
            Finding::warning(CHECK, format!("{shown} belongs to another user ({})", found.uid()))
                .advice(format!("the bus may be unable to log: remove it (rm -f {shown})"))
        }
        Ok(_) => Finding::ok(CHECK, format!("{shown}")),
    };
    vec![finding]
}

// ---- lock, socket, PID file -------------------------------------------------------------------------

pub(super) fn lock(subject: &Subject<'_>) -> Vec<Finding> {
    const CHECK: &str = "lock";
    let holder = Lock::holder(subject.root);
    let finding = match (holder, &subject.daemon) {
        (None, Daemon::Absent) => Finding::ok(CHECK, "is free"),
        (Some(holder), daemon) if daemon.pid() == Some(holder) => {
            Finding::ok(CHECK, format!("is held by the bus (pid {holder})"))
        }
        (Some(holder), Daemon::Running { pid, .. } | Daemon::Unresponsive { pid }) => {
            Finding::problem(
                CHECK,
                format!("is held by process {holder}, but the socket leads to process {pid}"),
            )
            .advice("two buses fight over this root: end both, then 'hermes-busd start'")
        }
        // What the manager found has begun, or ended, meanwhile.
        (Some(holder), Daemon::Absent) => Finding::note(CHECK, format!("process {holder} has it"))
            .advice("a bus is starting or ending: look again"),
        (None, _) => Finding::note(CHECK, "nobody who can be seen from here holds it"),
    };
    vec![finding]
}

pub(super) fn socket(subject: &Subject<'_>) -> Vec<Finding> {
    const CHECK: &str = "socket";
    let path = subject.root.socket();
    let shown = path.display();
    let longest = [path.clone(), subject.root.metrics_socket()];
    if let Some(long) = longest.iter().find(|path| path.as_os_str().len() > PATH_BYTES_MAX) {
        let bytes = long.as_os_str().len();
        let what = format!(
            "{} is too long for a socket ({bytes} bytes, at most {PATH_BYTES_MAX})",
            long.display()
        );
        return vec![
            Finding::problem(CHECK, what).advice("choose a shorter root with HERMES_BUS_ROOT"),
        ];
    }
    let found = match fs::symlink_metadata(&path) {
        Ok(found) => found,
        Err(_) => return vec![without_socket(CHECK, &path, &subject.daemon)],
    };
    if found.is_symlink() {
        let target = fs::read_link(&path).unwrap_or_default();
        let what = format!("{shown} is a link to {}, not a socket", target.display());
        let advice = "'hermes-busd start' puts a socket in its place if nobody listens there";
        return vec![Finding::warning(CHECK, what).advice(advice)];
    }
    if !found.file_type().is_socket() {
        let what = format!("{shown} exists and is not a socket");
        return vec![Finding::problem(CHECK, what).advice("move it away: no bus can start")];
    }
    let mut findings = vec![match &subject.daemon {
        Daemon::Running { .. } => Finding::ok(CHECK, format!("{shown} answers")),
        Daemon::Unresponsive { pid } => {
            Finding::problem(CHECK, format!("{shown} does not answer (process {pid})"))
                .advice("see what is said about the bus")
        }
        Daemon::Absent => Finding::warning(CHECK, format!("{shown} was left behind by a dead bus"))
            .advice("'hermes-busd start' replaces it")
            .remedy(Remedy::CleanUp),
    }];
    // A dead one goes away as a whole.
    if !matches!(subject.daemon, Daemon::Absent) {
        let pid = subject.daemon.pid().unwrap_or(0);
        let told = lets_others_connect(subject.root, pid);
        findings.extend(match told.unwrap_or(subject.configured.others_may_connect) {
            true => out_of_reach(CHECK, &path),
            false => open_to_others(CHECK, &path, &found),
        });
    }
    findings
}

fn without_socket(check: &'static str, path: &Path, daemon: &Daemon) -> Finding {
    let shown = path.display();
    match daemon {
        Daemon::Absent => Finding::ok(check, "there is none, as no bus runs"),
        Daemon::Running { pid, .. } | Daemon::Unresponsive { pid } => {
            let what = format!("{shown} is gone, but process {pid} runs: somebody deleted it");
            Finding::problem(check, what).advice(
                "the bus binds it anew within a second; if it does not, 'hermes-busd restart'",
            )
        }
    }
}

fn out_of_reach(check: &'static str, path: &Path) -> Option<Finding> {
    let closed = directory_closed_to_others(path)?;
    let shown = closed.display();
    let what = format!("other users may connect, but {shown} is closed to them");
    Some(Finding::warning(check, what).advice(format!("chmod o+x {shown}")))
}

fn open_to_others(check: &'static str, path: &Path, found: &Metadata) -> Option<Finding> {
    let mode = mode(found);
    (is_own(found) && mode & 0o077 != 0).then(|| {
        let shown = path.display();
        Finding::warning(check, format!("{shown} is open to others (mode {mode:o})"))
            .advice(format!("chmod 600 {shown}"))
            .remedy(Remedy::SetMode { path: path.to_owned(), mode: 0o600 })
    })
}

pub(super) fn pid_file(subject: &Subject<'_>) -> Vec<Finding> {
    const CHECK: &str = "PID file";
    let owner = subject.daemon.pid();
    let finding = match (read_pid_file(subject.root), owner) {
        (PidFile::Missing, Some(pid)) => {
            Finding::ok(CHECK, format!("there is none: the bus (pid {pid}) runs in the foreground"))
        }
        (PidFile::Missing, None) => Finding::ok(CHECK, "there is none, as no bus runs"),
        (PidFile::Names(named), Some(pid)) if named == pid => {
            Finding::ok(CHECK, format!("names the bus (pid {pid})"))
        }
        (PidFile::Names(named), Some(pid)) => {
            Finding::warning(CHECK, format!("names process {named}, but the bus is process {pid}"))
                .advice("scripts may signal a stranger: 'hermes-busd restart' writes it anew")
        }
        (PidFile::Garbage, Some(_)) => Finding::warning(CHECK, "holds no process id")
            .advice("'hermes-busd restart' writes it anew"),
        (PidFile::Garbage, None) => Finding::warning(CHECK, "holds no process id")
            .advice("'hermes-busd start' writes it anew")
            .remedy(Remedy::CleanUp),
        (PidFile::Names(named), None) => {
            let exists = Process::find(named).is_some();
            let what = if exists { "is no bus of this root" } else { "is gone" };
            Finding::warning(CHECK, format!("names process {named}, which {what}"))
                .advice("scripts may signal a stranger: 'hermes-busd start' writes it anew")
                .remedy(Remedy::CleanUp)
        }
    };
    vec![finding]
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::doctor::Severity;
    use crate::doctor::tests::{World, only};

    fn set(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    fn running(pid: u32) -> Daemon {
        let listing = r#"{"type": "endpoint_list", "endpoints": {}}"#;
        Daemon::Running { pid, listing: serde_json::from_str(listing).unwrap() }
    }

    #[test]
    fn a_root_is_missing_odd_or_open() {
        let world = World::new();
        let look = || only(root(&world.subject_with(Daemon::Absent)));
        assert_eq!(look().severity, Severity::Note);
        world.root.create().unwrap();
        assert_eq!(look().severity, Severity::Ok);
        set(world.root.directory(), 0o777);
        let finding = look();
        assert_eq!(finding.severity, Severity::Warning);
        let advice = format!("chmod go-w {}", world.root.directory().display());
        assert_eq!(finding.advice, Some(advice));
        assert!(!finding.is_fixable(), "a directory of the user's is never changed");
        fs::remove_dir_all(world.root.directory()).unwrap();
        fs::write(world.root.directory(), "").unwrap();
        assert_eq!(look().severity, Severity::Problem);
    }

    #[test]
    fn an_open_run_directory_can_be_closed() {
        let world = World::created();
        let look = || only(run_directory(&world.subject_with(Daemon::Absent)));
        assert_eq!(look().severity, Severity::Ok);
        set(&world.root.run_directory(), 0o775);
        assert!(look().needs_action() && look().is_fixable());
        // As released versions made it.
        set(&world.root.run_directory(), 0o755);
        assert_eq!(look().severity, Severity::Ok);
    }

    #[test]
    fn the_lock_and_the_socket_must_lead_to_one_process() {
        let world = World::created();
        assert_eq!(only(lock(&world.subject())).severity, Severity::Ok);
        let held = Lock::take(&world.root).unwrap();
        let own = std::process::id();
        let at = |pid| only(lock(&world.subject_with(running(pid))));
        assert_eq!(at(own).severity, Severity::Ok);
        let finding = at(own + 1);
        assert_eq!(finding.severity, Severity::Problem);
        assert!(finding.what.contains(&format!("process {own}")), "{}", finding.what);
        drop(held);
    }

    #[test]
    fn a_socket_is_dead_missing_too_open_or_none_at_all() {
        let world = World::created();
        let path = world.root.socket();
        let look = |daemon| socket(&world.subject_with(daemon));
        assert_eq!(only(look(Daemon::Absent)).severity, Severity::Ok);
        assert_eq!(only(look(running(7))).severity, Severity::Problem, "its path is gone");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        set(&path, 0o777);
        assert_eq!(only(look(Daemon::Absent)).remedy, Some(Remedy::CleanUp));
        let [answers, open] = look(running(7)).try_into().unwrap();
        assert_eq!(answers.severity, Severity::Ok);
        assert_eq!(open.remedy, Some(Remedy::SetMode { path: path.clone(), mode: 0o600 }));
        set(&path, 0o600);
        assert_eq!(only(look(running(7))).severity, Severity::Ok);
        fs::remove_file(&path).unwrap();
        fs::write(&path, "precious").unwrap();
        let finding = only(look(Daemon::Absent));
        assert_eq!((finding.severity, finding.is_fixable()), (Severity::Problem, false));
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/nowhere", &path).unwrap();
        let finding = only(look(Daemon::Absent));
        assert_eq!((finding.severity, finding.is_fixable()), (Severity::Warning, false));
    }

    #[test]
    fn a_path_can_be_too_long_for_the_second_socket_alone() {
        let mut world = World::new();
        let bytes = |root: &crate::root::Root| root.metrics_socket().as_os_str().len();
        let base = world.root.directory().to_owned();
        let missing = PATH_BYTES_MAX + 1 - bytes(&world.root);
        let longer = base.with_file_name("r".repeat(4 + missing));
        world.root = crate::root::Root::find(Some(&longer)).unwrap();
        assert_eq!(bytes(&world.root), PATH_BYTES_MAX + 1);
        assert!(world.root.socket().as_os_str().len() <= PATH_BYTES_MAX);
        let finding = only(socket(&world.subject_with(Daemon::Absent)));
        assert_eq!(finding.severity, Severity::Problem);
        assert!(finding.what.contains("too long"), "{}", finding.what);
    }

    #[test]
    fn a_pid_file_agrees_with_the_bus_or_not() {
        let world = World::created();
        let look = |daemon| only(pid_file(&world.subject_with(daemon)));
        assert_eq!(look(Daemon::Absent).severity, Severity::Ok);
        assert_eq!(look(running(7)).severity, Severity::Ok, "it runs in the foreground");
        fs::write(world.root.pid_file(), "7").unwrap();
        assert_eq!(look(running(7)).severity, Severity::Ok);
        for (text, daemon, is_fixable) in [
            ("8", running(7), false),
            ("what", running(7), false),
            ("what", Daemon::Absent, true),
            ("1", Daemon::Absent, true),
            ("999999999", Daemon::Absent, true),
        ] {
            fs::write(world.root.pid_file(), text).unwrap();
            let finding = look(daemon);
            assert_eq!(
                (finding.severity, finding.is_fixable()),
                (Severity::Warning, is_fixable),
                "{text}: {finding:?}"
            );
            assert!(finding.advice.is_some());
        }
    }
}

//! The bus that runs: whether it answers, which one it is, what it may open.

use std::fs;
use std::time::Duration;

use hermes_bus_proto::listing::printable;

use super::{Finding, Subject};
use crate::manager::Daemon;

/// Fewer open files are soon used up by ordinary clients.
const OPEN_FILES_FEW: u64 = 1_024;
/// Of the open files allowed, so many percent may be in use.
const OPEN_FILES_PERCENT_MAX: u64 = 80;

pub(super) fn daemon(subject: &Subject<'_>) -> Vec<Finding> {
    const CHECK: &str = "bus";
    let finding = match &subject.daemon {
        Daemon::Absent => {
            Finding::note(CHECK, "no bus runs").advice("'hermes-busd start' starts it")
        }
        Daemon::Running { pid, listing } => {
            let endpoints = listing.endpoints.len();
            let since = listing.server.as_ref().map_or(String::new(), |server| {
                let uptime = Duration::from_secs(server.uptime_s as u64);
                format!(", up {}", humantime::format_duration(uptime))
            });
            Finding::ok(CHECK, format!("answers (pid {pid}{since}, {endpoints} endpoints)"))
        }
        Daemon::Unresponsive { pid: 0 } => {
            Finding::problem(CHECK, "does not answer; its process cannot be seen from here")
                .advice("look at it in its own container")
        }
        Daemon::Unresponsive { pid } => match state(*pid) {
            Some('T' | 't') => {
                Finding::problem(CHECK, format!("process {pid} is stopped and cannot answer"))
                    .advice(format!("kill -CONT {pid} lets it go on"))
            }
            Some('D') => Finding::problem(
                CHECK,
                format!("process {pid} waits for a disk or another device and cannot answer"),
            )
            .advice("see to the device; the bus goes on by itself then"),
            _ => Finding::problem(CHECK, format!("process {pid} does not answer"))
                .advice("'hermes-busd restart' ends it and starts anew; its log may say why"),
        },
    };
    vec![finding]
}

/// The state of a process, as one letter.
fn state(pid: u32) -> Option<char> {
    let status = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    status.rsplit_once(')')?.1.trim_start().chars().next()
}

pub(super) fn version(subject: &Subject<'_>) -> Vec<Finding> {
    const CHECK: &str = "version";
    let own = concat!("hermes-bus/", env!("CARGO_PKG_VERSION"));
    let Daemon::Running { pid, listing } = &subject.daemon else {
        return vec![Finding::ok(CHECK, format!("this program is {own}"))];
    };
    let finding = match listing.server.as_ref().map(|server| server.server.as_str()) {
        Some(server) if server == own => Finding::ok(CHECK, format!("bus and program are {own}")),
        Some(server) => {
            let server = printable(server);
            Finding::warning(CHECK, format!("the bus is {server}, this program is {own}"))
                .advice("'hermes-busd restart' starts the one that was installed with this program")
        }
        None => {
            let program = command(*pid).map_or(String::new(), |command| format!(": {command}"));
            Finding::problem(CHECK, format!("a released Python bus runs (pid {pid}{program})"))
                .advice("'hermes-busd restart' of this installation takes its place")
        }
    };
    vec![finding]
}

/// The command line of a process.
fn command(pid: u32) -> Option<String> {
    let command = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let words: Vec<_> = command.split(|byte| *byte == 0).map(String::from_utf8_lossy).collect();
    let command = words.join(" ");
    (!command.trim().is_empty()).then(|| printable(command.trim()))
}

pub(super) fn open_files(subject: &Subject<'_>) -> Vec<Finding> {
    const CHECK: &str = "open files";
    let Some(pid) = subject.daemon.pid().filter(|pid| *pid > 0) else {
        let hard = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
        return vec![allowed(CHECK, hard, None)];
    };
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).ok();
    let Some(soft) = limits.as_deref().and_then(soft_limit) else {
        return vec![Finding::note(CHECK, format!("the limits of process {pid} cannot be read"))];
    };
    let open = fs::read_dir(format!("/proc/{pid}/fd")).ok().map(|files| files.count() as u64);
    vec![allowed(CHECK, soft, open)]
}

/// `limit` is none where there is none.
fn allowed(check: &'static str, limit: Option<u64>, open: Option<u64>) -> Finding {
    const ADVICE: &str = "raise it (ulimit -n, or LimitNOFILE= of the service) and 'hermes-busd \
                          restart'; without it connections are turned away";
    let Some(limit) = limit else { return Finding::ok(check, "are not limited") };
    if let Some(open) = open
        && open.saturating_mul(100) >= limit.saturating_mul(OPEN_FILES_PERCENT_MAX)
    {
        return Finding::warning(check, format!("{open} of {limit} are in use")).advice(ADVICE);
    }
    if limit < OPEN_FILES_FEW {
        return Finding::warning(check, format!("the bus may only open {limit}")).advice(ADVICE);
    }
    match open {
        Some(open) => Finding::ok(check, format!("{open} of {limit} are in use")),
        None => Finding::ok(check, format!("the bus may open {limit}")),
    }
}

/// The soft limit of open files in `/proc/PID/limits`, and none within if there is no limit.
fn soft_limit(limits: &str) -> Option<Option<u64>> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    match line.split_whitespace().next()? {
        "unlimited" => Some(None),
        number => number.parse().ok().map(Some),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Severity;
    use crate::doctor::tests::{World, only};

    fn running(server: &str) -> Daemon {
        let listing = format!(r#"{{"endpoints": {{"a": "b"}}, "server": {server}}}"#);
        Daemon::Running {
            pid: std::process::id(),
            listing: serde_json::from_str(&listing).unwrap(),
        }
    }

    #[test]
    fn the_versions_of_bus_and_program_are_compared() {
        let world = World::new();
        let look = |daemon| only(version(&world.subject_with(daemon)));
        let of = |version: &str| {
            running(&format!(r#"{{"server": "{version}", "uptime_s": 1, "counters": {{}}}}"#))
        };
        assert_eq!(look(Daemon::Absent).severity, Severity::Ok);
        let own = concat!("hermes-bus/", env!("CARGO_PKG_VERSION"));
        assert_eq!(look(of(own)).severity, Severity::Ok);
        let other = look(of("hermes-bus/0.0.1"));
        assert_eq!(other.severity, Severity::Warning);
        assert!(other.advice.unwrap().contains("hermes-busd restart"));
        assert_eq!(look(running("null")).severity, Severity::Problem);
    }

    #[test]
    fn a_bus_answers_hangs_or_is_stopped() {
        let world = World::new();
        let look = |daemon| only(super::daemon(&world.subject_with(daemon)));
        assert_eq!(look(Daemon::Absent).severity, Severity::Note);
        assert_eq!(look(running("null")).severity, Severity::Ok);
        let hung = look(Daemon::Unresponsive { pid: std::process::id() });
        assert_eq!(hung.severity, Severity::Problem);
        assert!(hung.advice.unwrap().contains("hermes-busd restart"));
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
        let is_seen = rustix::process::WaitOptions::UNTRACED;
        rustix::process::waitpid(Some(pid), is_seen).unwrap();
        let stopped = look(Daemon::Unresponsive { pid: child.id() });
        assert_eq!(stopped.advice, Some(format!("kill -CONT {} lets it go on", child.id())));
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn few_open_files_are_worth_a_warning() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units\n\
                      Max open files            1024                 524288               files\n";
        assert_eq!(soft_limit(limits), Some(Some(1024)));
        assert_eq!(soft_limit("Max open files  unlimited unlimited files\n"), Some(None));
        assert_eq!(soft_limit("nonsense"), None);
        let severity = |limit, open| allowed("open files", limit, open).severity;
        assert_eq!(severity(None, Some(1_000_000)), Severity::Ok);
        assert_eq!(severity(Some(1_024), Some(100)), Severity::Ok);
        assert_eq!(severity(Some(1_023), None), Severity::Warning);
        assert_eq!(severity(Some(10_000), Some(7_999)), Severity::Ok);
        assert_eq!(severity(Some(10_000), Some(8_000)), Severity::Warning);
    }
}

//! What the machine gives: room for waiting connections, a disk, a clock.

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{StatVfs, StatVfsMountFlags, statvfs};

use super::{Finding, Subject};

/// Connections that may wait at the bus's socket, if the kernel lets them.
const BACKLOG: u64 = 4_096;

pub(super) fn backlog(_: &Subject<'_>) -> Vec<Finding> {
    let text = fs::read_to_string("/proc/sys/net/core/somaxconn").unwrap_or_default();
    vec![backlog_of(text.trim().parse().ok())]
}

/// `kernel` is what it allows at most, if that is known.
fn backlog_of(kernel: Option<u64>) -> Finding {
    const CHECK: &str = "waiting connections";
    match kernel {
        Some(kernel) if kernel < BACKLOG => {
            let what = format!(
                "the kernel lets only {kernel} connections wait: released clients that are turned \
                 away in a crowd take the bus for dead"
            );
            let advice =
                format!("sysctl -w net.core.somaxconn={BACKLOG}, then 'hermes-busd restart'");
            Finding::warning(CHECK, what).advice(advice)
        }
        Some(_) => Finding::ok(CHECK, format!("up to {BACKLOG} can wait")),
        None => Finding::note(CHECK, "how many the kernel lets wait cannot be read"),
    }
}

// ---- the disk ---------------------------------------------------------------------------------------

const MIB: u64 = 1024 * 1024;
/// With less, nothing can be logged soon.
const FREE_BYTES_FEW: u64 = 100 * MIB;
/// With less, nothing can be written.
const FREE_BYTES_NONE: u64 = MIB;
const FREE_INODES_FEW: u64 = 1_000;

pub(super) fn disk(subject: &Subject<'_>) -> Vec<Finding> {
    const CHECK: &str = "disk";
    // Of a root that does not exist yet, where it will be made.
    let absolute = std::path::absolute(subject.root.directory()).unwrap_or_default();
    let existing = absolute.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    match statvfs(existing) {
        Ok(found) => vec![disk_of(existing, &found)],
        Err(error) => {
            vec![Finding::note(CHECK, format!("of {} cannot be read: {error}", existing.display()))]
        }
    }
}

fn disk_of(path: &Path, found: &StatVfs) -> Finding {
    const CHECK: &str = "disk";
    let shown = path.display();
    let free = found.f_bavail.saturating_mul(found.f_frsize);
    let free_mib = free / MIB;
    if found.f_flag.contains(StatVfsMountFlags::RDONLY) {
        return Finding::problem(CHECK, format!("{shown} is on a read-only file system"))
            .advice("the bus needs to write there: choose another root with HERMES_BUS_ROOT");
    }
    let room = "make room, or choose another root with HERMES_BUS_ROOT";
    if free < FREE_BYTES_NONE {
        return Finding::problem(CHECK, format!("{shown} is full")).advice(room);
    }
    if free < FREE_BYTES_FEW {
        return Finding::warning(CHECK, format!("{shown} has only {free_mib} MiB left"))
            .advice(room);
    }
    // Some file systems count no inodes.
    if found.f_files > 0 && found.f_favail < FREE_INODES_FEW {
        let what = format!("{shown} has room for only {} more files", found.f_favail);
        return Finding::warning(CHECK, what).advice(room);
    }
    Finding::ok(CHECK, format!("{shown} has {free_mib} MiB left"))
}

// ---- the clock --------------------------------------------------------------------------------------

/// 1 January 2026: no version of this program is older, so no right clock shows less.
const CLOCK_MIN: Duration = Duration::from_secs(1_767_225_600);
/// Clocks may differ by so much, as those of network file systems do.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(120);

pub(super) fn clock(subject: &Subject<'_>) -> Vec<Finding> {
    let root = subject.root;
    let files = [root.socket(), root.lock_file(), root.pid_file(), root.log_file()];
    let newest = files
        .iter()
        .filter_map(|path| {
            Some((path.as_path(), fs::symlink_metadata(path).ok()?.modified().ok()?))
        })
        .max_by_key(|(_, modified)| *modified);
    vec![clock_of(SystemTime::now(), newest)]
}

fn clock_of(now: SystemTime, newest: Option<(&Path, SystemTime)>) -> Finding {
    const CHECK: &str = "clock";
    let shown = humantime::format_rfc3339_seconds(now);
    if now < UNIX_EPOCH + CLOCK_MIN {
        return Finding::warning(CHECK, format!("it is {shown}, which cannot be"))
            .advice("set the clock: messages and log lines carry its time");
    }
    if let Some((path, modified)) = newest
        && let Ok(ahead) = modified.duration_since(now)
        && ahead > CLOCK_TOLERANCE
    {
        let ahead = humantime::format_duration(Duration::from_secs(ahead.as_secs()));
        let what = format!("it is {shown}, but {} is from {ahead} later", path.display());
        return Finding::note(CHECK, what)
            .advice("the clock was set back: times of messages may not be in order");
    }
    Finding::ok(CHECK, format!("it is {shown}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Severity;

    #[test]
    fn a_short_queue_of_the_kernel_is_worth_a_warning() {
        assert_eq!(backlog_of(Some(4_096)).severity, Severity::Ok);
        assert_eq!(backlog_of(Some(128)).severity, Severity::Warning);
        assert_eq!(backlog_of(None).severity, Severity::Note);
    }

    #[test]
    fn a_disk_is_read_only_full_or_nearly() {
        let here = Path::new("/");
        let mut found = statvfs("/").unwrap();
        (found.f_flag, found.f_frsize) = (StatVfsMountFlags::empty(), 1024);
        (found.f_files, found.f_favail) = (0, 0);
        let mut with = |kib: u64, files: u64, free_files: u64| {
            (found.f_bavail, found.f_files, found.f_favail) = (kib, files, free_files);
            disk_of(here, &found).severity
        };
        assert_eq!(with(1024 * 1024, 0, 0), Severity::Ok);
        assert_eq!(with(1024 * 1024, 100_000, 1_000), Severity::Ok);
        assert_eq!(with(1024 * 1024, 100_000, 999), Severity::Warning);
        assert_eq!(with(100 * 1024 - 1, 0, 0), Severity::Warning);
        assert_eq!(with(1023, 0, 0), Severity::Problem);
        found.f_flag = StatVfsMountFlags::RDONLY;
        found.f_bavail = 1024 * 1024;
        assert_eq!(disk_of(here, &found).severity, Severity::Problem);
    }

    #[test]
    fn a_clock_is_long_ago_or_behind_the_files() {
        let now = UNIX_EPOCH + CLOCK_MIN;
        let at = |ahead: u64| Some((Path::new("log"), now + Duration::from_secs(ahead)));
        assert_eq!(clock_of(now, None).severity, Severity::Ok);
        assert_eq!(clock_of(now, at(120)).severity, Severity::Ok);
        assert_eq!(clock_of(now, at(121)).severity, Severity::Note);
        assert_eq!(clock_of(now - Duration::from_secs(1), None).severity, Severity::Warning);
    }
}

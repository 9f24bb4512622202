//! What the system tells about the daemon, this process and the machine. What it does not tell is missing,
//! never guessed. Most of it only Linux has.

use std::collections::BTreeMap;
use std::fs;
use std::num::NonZeroU64;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use rustix::process::{Resource, Rlimit};
use serde::Serialize;

/// The process at the other end of a Unix socket: the one that listens. None for one that this process cannot
/// see, and for a service manager that has opened the socket in its place.
pub(crate) fn peer_pid(socket: impl AsFd) -> Option<u32> {
    let peer = getsockopt(&socket, PeerCredentials).ok()?;
    u32::try_from(peer.pid()).ok().filter(|pid| *pid > 1)
}

/// The processor time of a process at one moment.
#[derive(Clone, Debug)]
pub(crate) struct CpuTime {
    pid: u32,
    /// Nanoseconds of each thread, where the scheduler counts them.
    threads: Option<BTreeMap<u32, u64>>,
    /// Clock ticks of the whole process: coarse, but also of threads that have ended.
    ticks: Option<u64>,
}

impl CpuTime {
    /// What it has used so far.
    pub(crate) fn of(pid: u32) -> Self {
        CpuTime { pid, threads: thread_times(pid), ticks: ticks(pid) }
    }

    /// What it has used since. A thread that has ended meanwhile took its count along: then the whole
    /// process's ticks must do, and where they are too coarse for that, there is no answer.
    pub(crate) fn elapsed(&self) -> Option<Duration> {
        let now = CpuTime::of(self.pid);
        if let (Some(before), Some(after)) = (&self.threads, &now.threads)
            && before.keys().all(|thread| after.contains_key(thread))
        {
            let used = |(thread, ns): (&u32, &u64)| {
                ns.saturating_sub(before.get(thread).copied().unwrap_or(0))
            };
            return Some(Duration::from_nanos(after.iter().map(used).sum()));
        }
        const TICKS_MIN: u64 = 20;
        let ticks = now.ticks?.checked_sub(self.ticks?).filter(|ticks| *ticks >= TICKS_MIN)?;
        let a_second = rustix::param::clock_ticks_per_second();
        Some(Duration::from_secs_f64(ticks as f64 / a_second as f64))
    }
}

fn thread_times(pid: u32) -> Option<BTreeMap<u32, u64>> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).ok()?;
    let mut times = BTreeMap::new();
    for thread in threads {
        let thread: u32 = thread.ok()?.file_name().to_str()?.parse().ok()?;
        // One that ends between the two looks counts as gone.
        let Ok(text) = fs::read_to_string(format!("/proc/{pid}/task/{thread}/schedstat")) else {
            continue;
        };
        times.insert(thread, text.split_whitespace().next()?.parse().ok()?);
    }
    // A kernel that does not count says 0 of every thread.
    times.values().any(|ns| *ns > 0).then_some(times)
}

fn ticks(pid: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = text.rsplit_once(')')?;
    let mut times = fields.split_whitespace().skip(11).take(2).map(str::parse::<u64>);
    Some(times.next()?.ok()? + times.next()?.ok()?)
}

/// Memory of a process, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Memory {
    /// Resident now.
    pub(crate) resident: u64,
    /// The most that was resident since it began.
    pub(crate) peak: u64,
}

impl Memory {
    pub(crate) fn of(pid: u32) -> Option<Self> {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let value = |key: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(key))?;
            let kib: u64 = line.trim_start_matches(':').split_whitespace().next()?.parse().ok()?;
            Some(kib * 1024)
        };
        Some(Memory { resident: value("VmRSS")?, peak: value("VmHWM")? })
    }
}

/// Raises this process's soft limit of open files to the hard one, and gives what it is then. None: there is no limit.
pub(crate) fn raise_open_files() -> Option<u64> {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    match rustix::process::setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(_) => limit.current,
    }
}

/// The files that this process has open.
pub(crate) fn open_files() -> u64 {
    fs::read_dir("/proc/self/fd").map_or(64, |files| files.count() as u64)
}

/// Has this thread's short sleeps end when they are due, instead of up to 50 µs later.
pub(crate) fn sleep_exactly() {
    let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
}

/// The machine, as far as a figure depends on it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Machine {
    /// Processors that this process may use.
    pub cores: usize,
    /// What they are called.
    pub cpu: Option<String>,
    /// The kernel, with its version.
    pub kernel: String,
    /// The architecture.
    pub architecture: &'static str,
}

impl Machine {
    /// This one.
    pub fn this() -> Self {
        let cpu = fs::read_to_string("/proc/cpuinfo").ok().and_then(|text| {
            let line = text.lines().find(|line| line.starts_with("model name"))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        });
        let uname = rustix::system::uname();
        let word = |text: &std::ffi::CStr| text.to_string_lossy().into_owned();
        let kernel = format!("{} {}", word(uname.sysname()), word(uname.release()));
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Machine { cores, cpu, kernel, architecture: std::env::consts::ARCH }
    }
}

/// The kind of file system that a path is on: its usual name, or its magic number.
pub(crate) fn file_system(path: &Path) -> Option<String> {
    // From statfs(2).
    const KINDS: [(u64, &str); 9] = [
        (0xef53, "ext4"),
        (0x0102_1994, "tmpfs"),
        (0x9123_683e, "btrfs"),
        (0x5846_5342, "xfs"),
        (0x794c_7630, "overlayfs"),
        (0x2fc1_2fc1, "zfs"),
        (0xf2f5_2010, "f2fs"),
        (0x6969, "nfs"),
        (0x0102_1997, "9p"),
    ];
    let kind = rustix::fs::statfs(path).ok()?.f_type as u64 & 0xffff_ffff;
    let name = KINDS.iter().find(|(magic, _)| *magic == kind);
    Some(name.map_or_else(|| format!("{kind:#x}"), |(_, name)| (*name).to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;
    use std::process::Command;

    #[test]
    fn the_peer_of_a_pair_is_this_process() {
        let (one, _other) = UnixStream::pair().unwrap();
        assert_eq!(peer_pid(&one), Some(std::process::id()));
    }

    #[test]
    fn the_time_and_memory_of_another_process_are_known() {
        let mut busy = Command::new("sh").args(["-c", "while :; do :; done"]).spawn().unwrap();
        let before = CpuTime::of(busy.id());
        while before.elapsed().is_none_or(|used| used < Duration::from_millis(5)) {
            std::thread::yield_now();
        }
        let memory = Memory::of(busy.id());
        busy.kill().unwrap();
        busy.wait().unwrap();
        let memory = memory.unwrap();
        assert!(memory.resident > 100_000 && memory.peak >= memory.resident, "{memory:?}");
    }

    #[test]
    fn the_end_of_a_thread_makes_a_short_time_unknown_instead_of_wrong() {
        let mut before = CpuTime::of(std::process::id());
        before.threads.get_or_insert_default().insert(u32::MAX, 5);
        assert_eq!(before.elapsed(), None);
        before.ticks = before.ticks.map(|_| 0);
        let used = before.elapsed();
        assert!(used.is_none_or(|used| used >= Duration::from_millis(100)), "{used:?}");
    }

    #[test]
    fn what_is_not_there_is_missing() {
        assert!(Memory::of(u32::MAX).is_none());
        assert_eq!(CpuTime::of(u32::MAX).elapsed(), None);
        assert_eq!(file_system(Path::new("/no/such/path")), None);
    }

    #[test]
    fn the_machine_has_cores_and_a_kernel() {
        let machine = Machine::this();
        assert!(machine.cores > 0 && machine.kernel.len() > 5, "{machine:?}");
    }
}

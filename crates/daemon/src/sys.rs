//! What only Linux offers, in one place: peer credentials, hang-up without reading, who holds a
//! lock, waiting for a process that is not our child.
//!
//! Elsewhere nothing of this is tested, and what `/proc` tells is simply unknown.

use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use hermes_bus_core::Credentials;
#[cfg(target_os = "linux")]
use nix::libc;
use nix::sys::socket::getsockopt;
#[cfg(target_os = "linux")]
use nix::sys::socket::sockopt::GetStruct;
use nix::sys::socket::sockopt::PeerCredentials;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Resource, Rlimit, Signal};

/// Who is at the other end of a socket. For a socket that a client has connected: who listens. A
/// process that this one cannot see, as in another container, has the id 0.
pub(crate) fn peer_credentials(socket: impl AsFd) -> io::Result<Credentials> {
    let peer = getsockopt(&socket, PeerCredentials)?;
    Ok(Credentials { uid: peer.uid(), pid: u32::try_from(peer.pid()).unwrap_or(0) })
}

/// What a peer has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HangUp {
    No,
    /// It sends no more, but may still read.
    SendingSide,
    BothSides,
}

/// Looks whether the peer has hung up, without reading what it sent before.
pub(crate) fn hang_up(socket: impl AsFd) -> HangUp {
    let mut fds = [PollFd::new(&socket, PollFlags::RDHUP)];
    match poll(&mut fds, Some(&Timespec::default())) {
        Ok(1..) if fds[0].revents().intersects(PollFlags::HUP | PollFlags::ERR) => {
            HangUp::BothSides
        }
        Ok(1..) => HangUp::SendingSide,
        _ => HangUp::No,
    }
}

/// Whether bytes wait to be read.
pub(crate) fn has_input(socket: impl AsFd) -> bool {
    rustix::io::ioctl_fionread(socket).is_ok_and(|bytes| bytes > 0)
}

/// Whether the peer has taken everything out of the socket that was written to it. False where that
/// cannot be seen.
///
/// The kernel counts buffers with their bookkeeping, so only 0 means something. A peer that closes
/// has its unread bytes thrown away, which looks the same; but then the socket has an error, and had
/// it before the bytes went.
#[cfg(target_os = "linux")]
pub(crate) fn has_read_everything(socket: impl AsFd) -> bool {
    if !getsockopt(&socket, SocketMemory).is_ok_and(|memory| memory[UNREAD_BYTES] == 0) {
        return false;
    }
    let mut fds = [PollFd::new(&socket, PollFlags::empty())];
    match poll(&mut fds, Some(&Timespec::default())) {
        Ok(_) => !fds[0].revents().contains(PollFlags::ERR),
        Err(_) => false,
    }
}

/// Elsewhere it is not known whether a peer's unread bytes are seen in every case.
#[cfg(not(target_os = "linux"))]
pub(crate) fn has_read_everything(_socket: impl AsFd) -> bool {
    false
}

/// `SO_MEMINFO`, as far as it is needed. Of a Unix socket it tells the same as `SIOCOUTQ`, for which
/// there is no safe wrapper.
#[cfg(target_os = "linux")]
#[derive(Clone, Copy)]
struct SocketMemory;

/// The place of `SK_MEMINFO_WMEM_ALLOC`: what this side has written and the peer has not read.
#[cfg(target_os = "linux")]
const UNREAD_BYTES: usize = 2;

#[cfg(target_os = "linux")]
nix::getsockopt_impl!(
    SocketMemory,
    libc::SOL_SOCKET,
    libc::SO_MEMINFO,
    [u32; UNREAD_BYTES + 1],
    GetStruct<[u32; UNREAD_BYTES + 1]>
);

/// Raises the number of files this process may open to the most it may ask for. Returns it.
pub(crate) fn raise_open_files() -> Option<u64> {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    match rustix::process::setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(_) => limit.current,
    }
}

/// Whether this process was started with a signal ignored, as `nohup` does.
pub fn is_ignored(signal: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    ignored.is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}

/// The process that holds the `flock` on a file: it stands in the kernel's own list, and has the
/// file open.
pub(crate) fn lock_holder(file: &File) -> Option<u32> {
    // Of a list that is longer than a page, a line can be missed while others come and go.
    const LOOKS: usize = 3;
    let locked = file.metadata().ok()?;
    (0..LOOKS).find_map(|_| {
        let locks = read_in_large_pieces(Path::new("/proc/locks")).ok()?;
        locks.lines().filter_map(|line| lock_on(&locked, line)).find(|pid| has_open(*pid, &locked))
    })
}

/// The process that a line of the kernel's list names, if it may be about this file.
fn lock_on(locked: &Metadata, line: &str) -> Option<u32> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let ["FLOCK", _, "WRITE", pid, place, ..] = fields.get(1..)? else { return None };
    // The device is left out: some file systems tell another one here.
    let inode: u64 = place.rsplit(':').next()?.parse().ok()?;
    (inode == locked.ino()).then(|| pid.parse().ok()).flatten()
}

/// Whether a process has this file open.
fn has_open(pid: u32, file: &Metadata) -> bool {
    let files = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    files.into_iter().any(|entry| {
        std::fs::metadata(entry.path())
            .is_ok_and(|open| (open.dev(), open.ino()) == (file.dev(), file.ino()))
    })
}

/// Reads a table of the kernel's. Only what one call returns, a page at most, belongs to one moment:
/// of small pieces lines get lost while others' entries come and go.
fn read_in_large_pieces(path: &Path) -> io::Result<String> {
    const PIECE: usize = 64 * 1024;
    let mut table = File::open(path)?;
    let mut text = Vec::new();
    loop {
        let known = text.len();
        text.resize(known + PIECE, 0);
        let read = table.read(&mut text[known..])?;
        text.truncate(known + read);
        if read == 0 {
            return Ok(String::from_utf8_lossy(&text).into_owned());
        }
    }
}

/// Whether a socket is listened on at this path, without connecting: where a service manager listens,
/// that would start the service.
pub(crate) fn is_listened_at(path: &Path) -> bool {
    !listeners_at(path).is_empty()
}

/// The inodes of the sockets that are listened on at this path.
fn listeners_at(path: &Path) -> Vec<u64> {
    // Num RefCount Protocol Flags Type St Inode Path; the flag is that of a socket that listens.
    let listener = |line: &str| {
        let (fields, found) =
            line.split_once('/').map(|(fields, rest)| (fields, format!("/{rest}")))?;
        let fields: Vec<&str> = fields.split_whitespace().collect();
        let [_, _, _, flags, _, _, inode] = fields[..] else { return None };
        let listens = u32::from_str_radix(flags, 16).is_ok_and(|flags| flags & 0x10000 != 0);
        inode.parse().ok().filter(|_| listens && path.as_os_str() == found.as_str())
    };
    let sockets = read_in_large_pieces(Path::new("/proc/net/unix")).unwrap_or_default();
    sockets.lines().filter_map(listener).collect()
}

/// Whether a process may be the one that listens at this path: false if others are known to, and it
/// does not. Where the kernel tells nothing, it may be.
pub(crate) fn may_listen_at(pid: u32, path: &Path) -> bool {
    let listeners = listeners_at(path);
    let Ok(files) = std::fs::read_dir(format!("/proc/{pid}/fd")) else {
        return std::fs::metadata(format!("/proc/{pid}")).is_ok() || listeners.is_empty();
    };
    let names: Vec<String> = listeners.iter().map(|inode| format!("socket:[{inode}]")).collect();
    names.is_empty()
        || files.flatten().any(|file| {
            std::fs::read_link(file.path())
                .is_ok_and(|open| names.iter().any(|name| open.as_os_str() == name.as_str()))
        })
}

/// Whether a process is a service manager: the listener of a socket that no server has taken over yet.
pub(crate) fn is_service_manager(pid: u32) -> bool {
    pid == 1
        || std::fs::read_to_string(format!("/proc/{pid}/comm"))
            .is_ok_and(|name| name.trim_end() == "systemd")
}

/// A process that can be signalled and waited for, and is still the same one then.
pub(crate) struct Process {
    pid: Pid,
    /// None where the kernel has no such thing.
    handle: Option<OwnedFd>,
}

/// How often a process without a handle is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(10);

impl Process {
    /// The process with this id, if there is one.
    pub(crate) fn find(pid: u32) -> Option<Self> {
        let pid = Pid::from_raw(i32::try_from(pid).ok()?)?;
        rustix::process::test_kill_process(pid).ok().or_else(|| is_others(pid))?;
        let handle = rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok();
        Some(Process { pid, handle })
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: Signal) -> io::Result<()> {
        match &self.handle {
            Some(handle) => rustix::process::pidfd_send_signal(handle, signal)?,
            None => rustix::process::kill_process(self.pid, signal)?,
        }
        Ok(())
    }

    /// Waits until the process has ended; false if it has not within `patience`.
    pub(crate) fn wait(&self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let has_ended = match &self.handle {
                Some(handle) => {
                    let timeout = Timespec::try_from(left).unwrap_or_default();
                    let mut fds = [PollFd::new(handle, PollFlags::IN)];
                    matches!(poll(&mut fds, Some(&timeout)), Ok(1..))
                }
                None => {
                    std::thread::sleep(LOOK_EVERY.min(left));
                    rustix::process::test_kill_process(self.pid).is_err()
                }
            };
            if has_ended || left.is_zero() {
                return has_ended;
            }
        }
    }
}

/// A process of another user exists, though it cannot be signalled.
fn is_others(pid: Pid) -> Option<()> {
    (rustix::process::test_kill_process(pid) == Err(rustix::io::Errno::PERM)).then_some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_names_the_holder_of_a_lock() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lock");
        let holder = File::create(&path).unwrap();
        let looker = File::open(&path).unwrap();
        assert_eq!(lock_holder(&looker), None);
        rustix::fs::flock(&holder, rustix::fs::FlockOperation::LockExclusive).unwrap();
        assert_eq!(lock_holder(&looker), Some(std::process::id()));
    }

    #[test]
    fn a_holder_is_found_while_other_locks_come_and_go() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lock");
        let holder = File::create(&path).unwrap();
        rustix::fs::flock(&holder, rustix::fs::FlockOperation::LockExclusive).unwrap();
        let looker = File::open(&path).unwrap();
        let other = File::create(directory.path().join("other")).unwrap();
        let is_over = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !is_over.load(std::sync::atomic::Ordering::Relaxed) {
                    rustix::fs::flock(&other, rustix::fs::FlockOperation::LockExclusive).unwrap();
                    rustix::fs::flock(&other, rustix::fs::FlockOperation::Unlock).unwrap();
                }
            });
            let seen = (0..2_000).filter(|_| lock_holder(&looker).is_some()).count();
            is_over.store(true, std::sync::atomic::Ordering::Relaxed);
            assert_eq!(seen, 2_000);
        });
    }

    #[test]
    fn who_listens_is_seen_without_connecting() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a socket");
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        assert!(is_listened_at(&path));
        assert!(!is_listened_at(&directory.path().join("a")));
        let mut other = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        assert!(may_listen_at(std::process::id(), &path));
        assert!(!may_listen_at(other.id(), &path), "it has not got the socket");
        other.kill().unwrap();
        other.wait().unwrap();
        assert!(!may_listen_at(other.id(), &path), "it has ended");
        drop(listener);
        assert!(!is_listened_at(&path), "only the file is left");
        let bound = rustix::net::socket(
            rustix::net::AddressFamily::UNIX,
            rustix::net::SocketType::STREAM,
            None,
        )
        .unwrap();
        let other = directory.path().join("silent");
        let address = rustix::net::SocketAddrUnix::new(&other).unwrap();
        rustix::net::bind(&bound, &address).unwrap();
        assert!(!is_listened_at(&other), "bound, but not listened on");
    }

    #[test]
    fn a_hang_up_is_seen_behind_unread_bytes() {
        use std::io::Write;
        let (ours, mut theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        theirs.write_all(b"last words").unwrap();
        assert_eq!(hang_up(&ours), HangUp::No);
        assert!(has_input(&ours));
        theirs.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(hang_up(&ours), HangUp::SendingSide);
        drop(theirs);
        assert_eq!(hang_up(&ours), HangUp::BothSides);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_peer_has_read_everything_or_not() {
        use std::io::Write;
        let (mut ours, mut theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        assert!(has_read_everything(&ours), "nothing was written");
        ours.write_all(b"twelve bytes").unwrap();
        assert!(!has_read_everything(&ours));
        let mut buffer = [0; 12];
        theirs.read_exact(&mut buffer[..11]).unwrap();
        assert!(!has_read_everything(&ours), "one byte is unread");
        theirs.read_exact(&mut buffer[..1]).unwrap();
        assert!(has_read_everything(&ours));
        theirs.shutdown(std::net::Shutdown::Write).unwrap();
        assert!(has_read_everything(&ours));
        drop(theirs);
        assert!(has_read_everything(&ours), "it had read everything before it closed");
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_peer_that_closes_with_bytes_unread_has_not_read_everything() {
        use std::io::Write;
        let (mut ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        ours.write_all(b"unread").unwrap();
        drop(theirs);
        assert!(!has_read_everything(&ours));
    }

    #[test]
    fn a_process_is_waited_for() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let process = Process::find(child.id()).unwrap();
        assert!(!process.wait(Duration::from_millis(20)));
        process.signal(Signal::KILL).unwrap();
        assert!(process.wait(Duration::from_secs(10)));
        child.wait().unwrap();
        assert!(Process::find(child.id()).is_none());
    }
}

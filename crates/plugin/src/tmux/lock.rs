//! Turns: one writer per pane, among all processes that reach the same tmux server.
//!
//! The lock is a file beside the server's socket, so that whoever reaches the server sees it; the
//! kernel lets go of it when its holder ends. Who is done removes the file; who gets a lock on a file
//! that is not there any more takes another one. This module does not know what is done in a turn.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{env, thread};

use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::io::Errno;

/// How long to wait for one's turn. Others take a few seconds at most.
const PATIENCE: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Why there is no turn.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Others did not finish.
    #[error("other programs have been typing into it for {waited_s} s: try again later")]
    Busy {
        /// How long it was waited for.
        waited_s: u64,
    },
    /// No place for the lock's file.
    #[error("cannot keep others from typing at the same time: {}: {error}", path.display())]
    File {
        /// The file, or the directory it should be in.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
}

/// Held for as long as this value lives.
#[derive(Debug)]
pub(super) struct Turn {
    file: File,
    path: PathBuf,
}

impl Turn {
    /// Waits for the turn to type into a pane (`%3`) of the server with this socket.
    pub(super) fn wait(socket: &Path, pane: &str) -> Result<Turn, LockError> {
        Turn::wait_for(socket, pane, PATIENCE)
    }

    fn wait_for(socket: &Path, pane: &str, patience: Duration) -> Result<Turn, LockError> {
        let server = socket.file_name().unwrap_or_default().to_string_lossy();
        let name = format!("hermes-bus-{server}-{}.lock", pane.trim_start_matches('%'));
        let deadline = Instant::now() + patience;
        let beside = socket.parent().unwrap_or(Path::new("/"));
        match take(&beside.join(&name), deadline) {
            Err(LockError::File { .. }) => {
                take(&own_directory(&env::temp_dir())?.join(&name), deadline)
            }
            outcome => outcome,
        }
        .map_err(|error| match error {
            LockError::Busy { .. } => LockError::Busy { waited_s: patience.as_secs() },
            LockError::File { .. } => error,
        })
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        // Still locked, so it is nobody else's. If it cannot be removed, it is used again.
        if is_at(&self.file, &self.path) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn take(path: &Path, deadline: Instant) -> Result<Turn, LockError> {
    let failed = |error: io::Error| LockError::File { path: path.to_owned(), error };
    loop {
        let file = open(path).map_err(failed)?;
        loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                // Its former holder may have removed it between the opening and the locking.
                Ok(()) if is_at(&file, path) => return Ok(Turn { file, path: path.to_owned() }),
                Ok(()) => break,
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(error) => return Err(failed(error.into())),
            }
            if Instant::now() >= deadline {
                return Err(LockError::Busy { waited_s: 0 });
            }
            thread::sleep(LOOK_EVERY);
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    let no_link = OFlags::NOFOLLOW.bits().cast_signed();
    let made = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o644)
        .custom_flags(no_link)
        .open(path);
    match made {
        // Another user's who shares the server: reading is enough to lock it.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            OpenOptions::new().read(true).custom_flags(no_link).open(path)
        }
        outcome => outcome,
    }
}

fn is_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::symlink_metadata(path)) {
        (Ok(held), Ok(found)) => held.dev() == found.dev() && held.ino() == found.ino(),
        _ => false,
    }
}

/// A directory of this user alone, for when the one beside the socket cannot be written.
fn own_directory(temporary: &Path) -> Result<PathBuf, LockError> {
    let user = rustix::process::geteuid().as_raw();
    let path = temporary.join(format!("hermes-bus-{user}"));
    let failed = |error: io::Error| LockError::File { path: path.clone(), error };
    match DirBuilder::new().mode(0o700).create(&path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed(error)),
        _ => {}
    }
    let found = fs::symlink_metadata(&path).map_err(failed)?;
    if !found.is_dir() || found.uid() != user || found.mode() & 0o077 != 0 {
        let reason = "must be a directory that only you can use: remove it, or set TMPDIR";
        return Err(failed(io::Error::new(io::ErrorKind::PermissionDenied, reason)));
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use std::sync::atomic::{AtomicUsize, Ordering};

    const SHORT: Duration = Duration::from_millis(50);

    #[test]
    fn a_turn_is_one_panes_and_leaves_nothing_behind() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("default");
        let turn = Turn::wait(&socket, "%3").unwrap();
        let busy = Turn::wait_for(&socket, "%3", SHORT).unwrap_err();
        assert!(matches!(busy, LockError::Busy { .. }), "{busy}");
        let other = Turn::wait_for(&socket, "%33", SHORT).unwrap();
        drop(turn);
        let again = Turn::wait_for(&socket, "%3", SHORT).unwrap();
        drop((other, again));
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    /// The file comes and goes all the time; whoever has it must be alone nevertheless.
    #[test]
    fn many_who_want_the_same_pane_are_never_two_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("default");
        let inside = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..20 {
                        let turn = Turn::wait(&socket, "%1").unwrap();
                        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                        thread::yield_now();
                        inside.fetch_sub(1, Ordering::SeqCst);
                        drop(turn);
                    }
                });
            }
        });
    }

    #[test]
    fn a_link_in_the_files_place_is_not_followed() {
        let directory = tempfile::tempdir().unwrap();
        let victim = directory.path().join("victim");
        let link = directory.path().join("hermes-bus-default-1.lock");
        std::os::unix::fs::symlink(&victim, &link).unwrap();
        let _ = Turn::wait_for(&directory.path().join("default"), "%1", SHORT);
        assert!(!victim.exists());
    }

    #[test]
    fn a_directory_that_others_can_use_is_no_place() {
        let temporary = tempfile::tempdir().unwrap();
        let path = own_directory(temporary.path()).unwrap();
        assert_eq!(own_directory(temporary.path()).unwrap(), path);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o750)).unwrap();
        assert!(matches!(own_directory(temporary.path()), Err(LockError::File { .. })));
        fs::remove_dir(&path).unwrap();
        std::os::unix::fs::symlink(temporary.path(), &path).unwrap();
        assert!(matches!(own_directory(temporary.path()), Err(LockError::File { .. })));
    }
}

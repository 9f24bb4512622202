//! The lock that makes a second store on the same database impossible. The kernel lets go of it when
//! its holder ends, however it ends.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

/// Held for as long as this value lives.
#[derive(Debug)]
pub(crate) struct Lock {
    file: Option<File>,
    is_kept_for_ever: AtomicBool,
}

/// What came of trying to take the lock.
#[derive(Debug)]
pub(crate) enum Taken {
    /// It is ours.
    Ours(Lock),
    /// Somebody else has it: the process that it said to be.
    Theirs(Option<u32>),
}

/// The file beside a database that is locked.
pub(crate) fn lock_file(database: &Path) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push(".lock");
    name.into()
}

impl Lock {
    /// Takes the lock if nobody has it.
    pub(crate) fn take(database: &Path) -> io::Result<Taken> {
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(lock_file(database))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::AGAIN) => return Ok(Taken::Theirs(holder(&mut file))),
            Err(error) => return Err(error.into()),
        }
        // Who it is only helps people; a full disk is no reason not to start.
        let _ = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
        Ok(Taken::Ours(Lock { file: Some(file), is_kept_for_ever: AtomicBool::new(false) }))
    }

    /// Keeps the lock until the process ends.
    pub(crate) fn keep_for_ever(&self) {
        self.is_kept_for_ever.store(true, Ordering::Relaxed);
    }

    /// Whether it was said to be kept.
    pub(crate) fn is_kept_for_ever(&self) -> bool {
        self.is_kept_for_ever.load(Ordering::Relaxed)
    }

    /// The process that has the lock of a database; none if nobody has, or it did not say.
    pub(crate) fn look(database: &Path) -> Option<Option<u32>> {
        let mut file = File::open(lock_file(database)).ok()?;
        match flock(&file, FlockOperation::NonBlockingLockShared) {
            Err(Errno::AGAIN) => Some(holder(&mut file)),
            _ => None,
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        if self.is_kept_for_ever() {
            std::mem::forget(self.file.take());
        }
    }
}

fn holder(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.rewind().ok()?;
    file.take(32).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

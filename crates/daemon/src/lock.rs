//! The lock that makes a second server on the same root impossible. The kernel lets go of it when
//! its holder ends, however it ends.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::root::Root;
use crate::sys;

/// Held for as long as this value lives.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock; none if somebody else has it. The run directory exists.
    pub(crate) fn take(root: &Root) -> io::Result<Option<Self>> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(root.lock_file())?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Lock { _file: file })),
            Err(Errno::AGAIN) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The process that holds the lock of a root.
    pub(crate) fn holder(root: &Root) -> Option<u32> {
        sys::lock_holder(&File::open(root.lock_file()).ok()?)
    }
}

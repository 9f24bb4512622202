//! The lock that makes a second server on the same root impossible. The kernel lets go of it when
//! its holder ends, however it ends.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::root::Root;
use crate::sys;

/// Held for as long as this value lives.
#[derive(Debug)]
pub(crate) struct Lock {
    file: File,
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
            Ok(()) => Ok(Some(Lock { file })),
            Err(Errno::AGAIN) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// A lock that another process has taken and handed over.
    pub(crate) fn inherit(file: File) -> Self {
        Lock { file }
    }

    /// Has the kernel name this process as the lock's holder. To be called when the process that had
    /// taken it is gone.
    pub(crate) fn put_in_own_name(&self) -> io::Result<()> {
        // Only a change of its kind makes the lock anew. In between nobody can take it but another
        // server that is starting, and gives it back when it finds that this one answers.
        flock(&self.file, FlockOperation::LockShared)?;
        Ok(flock(&self.file, FlockOperation::LockExclusive)?)
    }

    /// The process that holds the lock of a root.
    pub(crate) fn holder(root: &Root) -> Option<u32> {
        sys::lock_holder(&File::open(root.lock_file()).ok()?)
    }
}

impl AsFd for Lock {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

//! Reading a configuration file or a token file: never more than its limit, and never something that
//! would keep the reader waiting, as a pipe would.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

/// The content of a small regular file.
pub(super) struct Content {
    pub(super) bytes: Vec<u8>,
    mode: u32,
}

impl Content {
    /// Whether others than the owner may change it.
    pub(super) fn is_writable_for_others(&self) -> bool {
        self.mode & 0o022 != 0
    }

    /// Whether others than the owner may read or change it.
    pub(super) fn is_open_to_others(&self) -> bool {
        self.mode & 0o066 != 0
    }
}

pub(super) fn read(path: &Path, bytes_max: u64) -> io::Result<Content> {
    // Without the flag, opening a pipe that nobody writes to would wait for good.
    let nonblocking = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(nonblocking).open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("is no regular file"));
    }
    let bytes = read_up_to(&file, &metadata, bytes_max)?;
    Ok(Content { bytes, mode: metadata.mode() })
}

fn read_up_to(file: &File, metadata: &Metadata, bytes_max: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if metadata.len() <= bytes_max {
        file.take(bytes_max + 1).read_to_end(&mut bytes)?;
    }
    if metadata.len() > bytes_max || bytes.len() as u64 > bytes_max {
        return Err(io::Error::other(format!("is over the limit of {bytes_max} bytes")));
    }
    Ok(bytes)
}

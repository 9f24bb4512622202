//! A listening socket at a path, closed to other users from its first moment, and how to know it again.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixListener;
use std::path::Path;

use anyhow::Context;
use rustix::fs::Mode;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

/// Longest path that fits into a socket's address.
pub(crate) const PATH_BYTES_MAX: usize = 107;

/// Device and inode of what stands at a path.
pub(crate) type Identity = (u64, u64);

/// What stands at the path now.
pub(crate) fn identity(path: &Path) -> Option<Identity> {
    let found = fs::symlink_metadata(path).ok()?;
    Some((found.dev(), found.ino()))
}

/// Listens at a path where nothing stands. The listener does not block.
pub(crate) fn listen(path: &Path, backlog: i32) -> anyhow::Result<(UnixListener, Identity)> {
    let shown = path.display();
    let address = SocketAddrUnix::new(path)
        .with_context(|| format!("{shown} cannot be a socket's path: it is too long"))?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    // Linux gives the path the mode of the socket: it is never open for others, and the umask, which
    // all threads and the hooks that they start share, stays as it is.
    rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    rustix::net::bind(&socket, &address).with_context(|| format!("cannot bind {shown}"))?;
    rustix::net::listen(&socket, backlog).with_context(|| format!("cannot listen on {shown}"))?;
    let identity = identity(path).with_context(|| format!("{shown} vanished"))?;
    Ok((UnixListener::from(socket), identity))
}

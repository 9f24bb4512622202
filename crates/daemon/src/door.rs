//! Where peers come in: the listening socket, its path, and the link to it for older clients.
//!
//! The path belongs to whoever holds the root's lock. A socket that is left over is removed only
//! under it; a living socket of somebody else never is.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener as StdUnixListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use hermes_bus_client::{Bus, ConnectError, blocking};
use hermes_bus_core::Credentials;
use mio::net::{UnixListener, UnixStream};
use mio::{Interest, Registry, Token};

use crate::logging::target;
use crate::private_socket::{self, Identity, PATH_BYTES_MAX, identity};
use crate::sys;

/// A full queue of somebody else's socket is not waited for: it is alive.
const PATIENCE: Duration = Duration::ZERO;
/// After so long it is worth another line that there is no room for connections.
const FULL_AGAIN: Duration = Duration::from_secs(300);

/// Who may connect, as far as the socket itself decides it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Access {
    /// Connections that may wait to be accepted. Released clients take a refused connect for a dead
    /// bus: the queue must never be full.
    pub(crate) backlog: i32,
    /// Whether other users may try. Then their credentials decide.
    pub(crate) is_open_to_others: bool,
}

impl Access {
    /// Gives the socket at the path its mode. It is bound closed to others.
    fn open_for(self, path: &Path) -> anyhow::Result<()> {
        let mode = if self.is_open_to_others { 0o666 } else { 0o600 };
        if self.is_open_to_others
            && let Some(closed) = directory_closed_to_others(path)
        {
            tracing::warn!(
                target: target::DOOR,
                "other users may connect, but cannot: {0} is closed to them (chmod o+x {0})",
                closed.display()
            );
        }
        fs::set_permissions(path, Permissions::from_mode(mode))
            .with_context(|| format!("cannot change the mode of {}", path.display()))
    }
}

/// The listening socket.
pub(crate) struct Door {
    path: PathBuf,
    listener: UnixListener,
    /// Of the socket when it was bound.
    identity: Identity,
    /// Whether the bus has bound it itself, and so removes it. A service manager's socket stays.
    is_ours: bool,
    access: Access,
    /// Given up to tell a peer that there is no room for it.
    spare: Option<File>,
    /// When it was last logged that there is no room for connections.
    full_since: Option<Instant>,
    /// The last trouble with the path that was logged.
    trouble: Option<String>,
}

impl Door {
    /// Binds the socket. The caller holds the root's lock.
    pub(crate) fn open(path: &Path, access: Access) -> anyhow::Result<Self> {
        let (listener, identity) = bind(path, access)?;
        Ok(Door::new(path, listener, identity, access, true))
    }

    /// Listens on a socket that somebody else has put at the path. It stays theirs; see
    /// [`Door::take_over`]. `identity` is that of the socket, where it is known: something else may
    /// stand at the path by now.
    pub(crate) fn inherit(
        path: &Path,
        access: Access,
        listener: OwnedFd,
        identity: Option<Identity>,
    ) -> anyhow::Result<Self> {
        let shown = path.display();
        // From now on the kernel names this process as the one that listens.
        rustix::net::listen(&listener, access.backlog)
            .with_context(|| format!("what was handed over is no socket for {shown}"))?;
        let listener = StdUnixListener::from(listener);
        listener.set_nonblocking(true)?;
        let identity = match identity {
            Some(identity) => identity,
            None => private_socket::identity(path).with_context(|| format!("{shown} is gone"))?,
        };
        Ok(Door::new(path, UnixListener::from_std(listener), identity, access, false))
    }

    fn new(
        path: &Path,
        listener: UnixListener,
        identity: Identity,
        access: Access,
        is_ours: bool,
    ) -> Self {
        let spare = File::open("/dev/null").ok();
        let path = path.to_owned();
        Door { path, listener, identity, access, is_ours, spare, full_since: None, trouble: None }
    }

    /// The process that had the socket before is gone. If the bus has bound it, this process removes it
    /// at its end, and decides who may connect.
    pub(crate) fn take_over(&mut self, is_ours: bool) {
        self.is_ours = is_ours;
        // What a service manager opens has the mode that it was told, which knows nothing of other users.
        if is_ours || self.access.is_open_to_others {
            self.open_to_whom_it_may_be();
        }
    }

    fn open_to_whom_it_may_be(&self) {
        if identity(&self.path) == Some(self.identity)
            && let Err(error) = self.access.open_for(&self.path)
        {
            tracing::error!(target: target::DOOR, "{error:#}");
        }
    }

    /// Device and inode of the socket.
    pub(crate) fn identity(&self) -> Identity {
        self.identity
    }

    /// Whether the bus has bound the socket itself.
    pub(crate) fn is_ours(&self) -> bool {
        self.is_ours
    }

    /// Has the socket stay at its path: it is somebody else's from now on.
    pub(crate) fn leave(mut self) {
        self.is_ours = false;
    }

    /// Has the poll not wake up any more for those who come in. They wait.
    pub(crate) fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        registry.deregister(&mut self.listener)
    }

    pub(crate) fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        registry.register(&mut self.listener, token, Interest::READABLE)
    }

    /// The next peer that waits to come in. `open` connections are open already.
    pub(crate) fn accept(&mut self, open: usize) -> Option<(UnixStream, Credentials)> {
        loop {
            match self.listener.accept() {
                Ok((stream, _)) => match sys::peer_credentials(&stream) {
                    Ok(credentials) => return Some((stream, credentials)),
                    Err(error) => {
                        tracing::warn!(target: target::DOOR, "a peer without credentials: {error}");
                    }
                },
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    let logged = self.full_since.is_some_and(|then| then.elapsed() < FULL_AGAIN);
                    if !logged {
                        self.full_since = Some(Instant::now());
                        tracing::error!(
                            target: target::DOOR,
                            "no room for another connection ({open} are open): {error}; \
                             connections are closed until there is"
                        );
                    }
                    if !self.turn_away() {
                        return None;
                    }
                }
            }
        }
    }

    /// Closes the connection of the next peer, who would otherwise wait for ever. Says whether there
    /// was one.
    fn turn_away(&mut self) -> bool {
        if self.spare.take().is_none() {
            self.spare = File::open("/dev/null").ok();
            return false;
        }
        let turned_away = self.listener.accept().is_ok();
        self.spare = File::open("/dev/null").ok();
        turned_away
    }

    /// Lets other users try, or not any more.
    pub(crate) fn set_open_to_others(&mut self, is_open_to_others: bool) {
        if self.access.is_open_to_others == is_open_to_others {
            return;
        }
        self.access.is_open_to_others = is_open_to_others;
        self.open_to_whom_it_may_be();
    }

    /// Sees whether the path still leads to this socket, and binds it anew if it does not.
    pub(crate) fn check(&mut self, registry: &Registry, token: Token) -> anyhow::Result<()> {
        let found = identity(&self.path);
        if found == Some(self.identity) {
            self.trouble = None;
            return Ok(());
        }
        let rebound = match found {
            Some(_) if is_alive(&self.path) => {
                Err(anyhow::anyhow!("the path leads to the living socket of another process"))
            }
            _ => bind(&self.path, self.access),
        };
        match rebound {
            Ok((listener, identity)) => {
                tracing::warn!(target: target::DOOR, "the socket's path was gone; it is bound anew");
                registry.deregister(&mut self.listener)?;
                (self.listener, self.identity) = (listener, identity);
                self.is_ours = true;
                self.trouble = None;
                self.register(registry, token)?;
            }
            Err(error) => {
                let trouble = format!("{}: {error:#}", self.path.display());
                if self.trouble.as_ref() != Some(&trouble) {
                    tracing::error!(target: target::DOOR, "nobody new can reach the bus: {trouble}");
                    self.trouble = Some(trouble);
                }
            }
        }
        Ok(())
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        if self.is_ours && identity(&self.path) == Some(self.identity) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl AsFd for Door {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

/// The first directory on the way to `path` that other users cannot pass, whatever group they are in.
pub(crate) fn directory_closed_to_others(path: &Path) -> Option<PathBuf> {
    let directory = fs::canonicalize(path.parent()?).ok()?;
    let is_closed =
        |directory: &&Path| fs::metadata(directory).is_ok_and(|found| found.mode() & 0o011 == 0);
    let mut on_the_way: Vec<&Path> = directory.ancestors().collect();
    on_the_way.reverse();
    on_the_way.into_iter().find(is_closed).map(Path::to_owned)
}

/// Whether something listens at the path, be it as slow as it may.
fn is_alive(path: &Path) -> bool {
    let bus = blocking::Bus::new(Bus::at(path).patience(PATIENCE));
    bus.is_ok_and(|bus| matches!(bus.open(), Ok(_) | Err(ConnectError::NoAnswer { .. })))
}

fn bind(path: &Path, access: Access) -> anyhow::Result<(UnixListener, Identity)> {
    let shown = path.display();
    let bytes = path.as_os_str().len();
    if bytes > PATH_BYTES_MAX {
        bail!("the socket path is too long ({bytes} bytes, at most {PATH_BYTES_MAX}): {shown}");
    }
    if let Ok(found) = fs::symlink_metadata(path) {
        if !found.file_type().is_socket() && !found.file_type().is_symlink() {
            bail!("{shown} exists and is not a socket: move it away");
        }
        if is_alive(path) {
            bail!("another process listens on {shown}");
        }
        fs::remove_file(path).with_context(|| format!("cannot remove the left over {shown}"))?;
    }
    let (listener, identity) = private_socket::listen(path, access.backlog)?;
    access.open_for(path)?;
    Ok((UnixListener::from_std(listener), identity))
}

/// A symbolic link to the socket where clients of version 0.5.0 look for it. Removed with this
/// value, if it is still ours.
#[derive(Debug)]
pub(crate) struct Link {
    path: PathBuf,
    target: PathBuf,
}

impl Link {
    /// Places the link in `home`, if that is another directory and has no living socket.
    pub(crate) fn place(home: &Path, socket: &Path) -> Option<Self> {
        let target = std::path::absolute(socket).ok()?;
        let path = home.join(socket.file_name()?);
        let is_same = fs::canonicalize(home).ok()? == fs::canonicalize(socket.parent()?).ok()?;
        if is_same {
            return None;
        }
        if let Ok(found) = fs::symlink_metadata(&path) {
            let is_ours = fs::read_link(&path).is_ok_and(|link| link == target);
            let may_go = found.file_type().is_symlink() || found.file_type().is_socket();
            if !is_ours && (!may_go || is_alive(&path)) {
                tracing::warn!(
                    target: target::DOOR,
                    "{} is taken: clients that look there are not served",
                    path.display()
                );
                return None;
            }
            fs::remove_file(&path).ok()?;
        }
        match std::os::unix::fs::symlink(&target, &path) {
            Ok(()) => Some(Link { path, target }),
            Err(error) => {
                tracing::warn!(target: target::DOOR, "{} cannot be linked to the socket: {error}", path.display());
                None
            }
        }
    }
}

impl Link {
    /// Has the link stay: the next process of the bus has it now.
    pub(crate) fn leave(self) {
        std::mem::forget(self);
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        if fs::read_link(&self.path).is_ok_and(|link| link == self.target) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

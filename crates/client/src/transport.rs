//! How a connection to a bus is made: a Unix socket, or anything else that carries bytes both ways.

use std::fmt;
use std::future::Future;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::time::Duration;

use rustix::net::{SendFlags, send};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;

/// Bytes both ways.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// The writing side of a stream once more, for any thread: it never waits.
pub trait WriteNow: fmt::Debug + Send + Sync {
    /// Writes as much as the connection takes at this moment.
    /// [`WouldBlock`](io::ErrorKind::WouldBlock): nothing.
    fn write_now(&self, bytes: &[u8]) -> io::Result<usize>;
}

/// A connection that has been made.
pub struct Link {
    /// Its bytes.
    pub stream: Box<dyn Stream>,
    /// Where the transport has it: what lets a sender write without the help of the runtime
    /// ([`Client::begin_send`](crate::Client::begin_send)).
    pub write_now: Option<Box<dyn WriteNow>>,
    /// Process id of who listens at the other end, where that is known. The same process is taken
    /// for the same bus, which still knows who held which name.
    pub peer_pid: Option<u32>,
}

/// A connection in the making.
pub type Connecting<'a> = Pin<Box<dyn Future<Output = io::Result<Link>> + Send + 'a>>;

/// Makes connections to one bus.
pub trait Transport: Send + Sync + 'static {
    /// Makes a connection. May be dropped before it is done.
    fn connect(&self) -> Connecting<'_>;

    /// What it leads to, for error messages: a socket's path.
    fn describe(&self) -> String;
}

/// A Unix socket.
#[derive(Clone, Debug)]
pub struct UnixSocket {
    path: PathBuf,
}

/// How often a socket whose backlog is full is tried again.
const RETRY: Duration = Duration::from_millis(5);

impl UnixSocket {
    /// The socket at a path.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        UnixSocket { path: path.into() }
    }

    /// The socket's path, as it was given.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// A descriptor of its own for the same socket. Without a free one, everything goes through the runtime.
fn second_hand(stream: &UnixStream) -> Option<Box<dyn WriteNow>> {
    let socket = stream.as_fd().try_clone_to_owned().ok()?;
    Some(Box::new(SocketWriter(socket)))
}

#[derive(Debug)]
struct SocketWriter(OwnedFd);

impl WriteNow for SocketWriter {
    fn write_now(&self, bytes: &[u8]) -> io::Result<usize> {
        Ok(send(&self.0, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)?)
    }
}

impl Transport for UnixSocket {
    /// Fails at once where nothing listens; a backlog that is full is waited for.
    fn connect(&self) -> Connecting<'_> {
        Box::pin(async {
            loop {
                match UnixStream::connect(&self.path).await {
                    Ok(stream) => {
                        let peer = stream.peer_cred().ok().and_then(|peer| peer.pid());
                        let peer_pid = peer.and_then(|pid| u32::try_from(pid).ok());
                        let write_now = second_hand(&stream);
                        return Ok(Link { stream: Box::new(stream), write_now, peer_pid });
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        tokio::time::sleep(RETRY).await;
                    }
                    Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                        return Err(io::Error::new(
                            error.kind(),
                            "the path cannot be a Unix socket's (107 bytes at most)",
                        ));
                    }
                    Err(error) => return Err(error),
                }
            }
        })
    }

    fn describe(&self) -> String {
        self.path.display().to_string()
    }
}

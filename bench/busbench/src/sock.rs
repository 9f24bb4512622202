//! A connection's socket: Unix or TCP.
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

pub enum Sock {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Sock {
    /// `unix:/path` or `tcp:host:port`; small writes to TCP leave at once.
    pub fn open(address: &str) -> io::Result<Sock> {
        if let Some(path) = address.strip_prefix("unix:") {
            return Ok(Sock::Unix(UnixStream::connect(path)?));
        }
        let stream = TcpStream::connect(address.trim_start_matches("tcp:"))?;
        stream.set_nodelay(true)?;
        Ok(Sock::Tcp(stream))
    }

    pub fn read_timeout(&self, after: Option<Duration>) {
        match self {
            Sock::Unix(stream) => stream.set_read_timeout(after).unwrap(),
            Sock::Tcp(stream) => stream.set_read_timeout(after).unwrap(),
        }
    }

    pub fn fd(&self) -> RawFd {
        match self {
            Sock::Unix(stream) => stream.as_raw_fd(),
            Sock::Tcp(stream) => stream.as_raw_fd(),
        }
    }

    pub fn readable(&self) -> libc::pollfd {
        libc::pollfd { fd: self.fd(), events: libc::POLLIN, revents: 0 }
    }
}

impl Read for Sock {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Sock::Unix(stream) => stream.read(buffer),
            Sock::Tcp(stream) => stream.read(buffer),
        }
    }
}

impl Write for Sock {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Sock::Unix(stream) => stream.write(bytes),
            Sock::Tcp(stream) => stream.write(bytes),
        }
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Waits until one of these can be read; how many can.
pub fn poll(polled: &mut [libc::pollfd], timeout_ms: i32) -> usize {
    // SAFETY: the array lives, and its length is given.
    let ready = unsafe { libc::poll(polled.as_mut_ptr(), polled.len() as u64, timeout_ms) };
    usize::try_from(ready).unwrap_or(0)
}

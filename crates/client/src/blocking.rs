//! Blocking calls over one connection.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use hermes_bus_proto::control;
use hermes_bus_proto::frame::{self, Decoded};
use hermes_bus_proto::listing::{self, Level, Listing};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use serde_json::Value;

use crate::ClientError;

/// How often a full backlog is tried again.
const RETRY: Duration = Duration::from_millis(5);
/// What is read at a time.
const READ_BYTES: usize = 64 * 1024;

/// One connection to the bus.
#[derive(Debug)]
pub struct Connection {
    stream: UnixStream,
    /// Bytes that have arrived and are not taken yet.
    input: Vec<u8>,
}

impl Connection {
    /// Connects. Fails at once where nothing listens; a backlog that is full is waited for.
    pub fn open(path: &Path, patience: Duration) -> Result<Self, ClientError> {
        let failed = |source| ClientError::Connect { path: path.to_owned(), source };
        let address = SocketAddrUnix::new(path).map_err(|error| match error {
            rustix::io::Errno::NAMETOOLONG => failed(io::Error::other(
                "the path is too long for a Unix socket (107 bytes at most)",
            )),
            other => failed(other.into()),
        })?;
        let deadline = Instant::now() + patience;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
            .map_err(|error| failed(error.into()))?;
        loop {
            match rustix::net::connect(&socket, &address) {
                Ok(()) => break,
                Err(rustix::io::Errno::AGAIN) if Instant::now() < deadline => {
                    std::thread::sleep(RETRY);
                }
                Err(rustix::io::Errno::AGAIN) => return Err(ClientError::Timeout(patience)),
                Err(error) => return Err(failed(error.into())),
            }
        }
        let stream = UnixStream::from(socket);
        stream.set_nonblocking(false).map_err(ClientError::Io)?;
        stream.set_write_timeout(Some(patience.max(RETRY))).map_err(ClientError::Io)?;
        Ok(Connection { stream, input: Vec::new() })
    }

    /// The socket, for the kernel's word on who is at the other end.
    pub fn stream(&self) -> &UnixStream {
        &self.stream
    }

    /// A second handle on the same connection, so that one thread may send while another receives.
    /// Only one of the two may receive, and the other must not have received before.
    pub fn try_clone(&self) -> Result<Self, ClientError> {
        let stream = self.stream.try_clone().map_err(ClientError::Io)?;
        Ok(Connection { stream, input: self.input.clone() })
    }

    /// Registers a name; returns the session id.
    pub fn register(&mut self, name: &str, patience: Duration) -> Result<String, ClientError> {
        self.write(|out| control::register(out, name))?;
        let answer = self.answer(&["registered"], patience)?;
        let session_id = answer.get("session_id").and_then(Value::as_str);
        session_id.map(str::to_owned).ok_or_else(|| ClientError::Unexpected(answer.to_string()))
    }

    /// Sends a message. The bus adds `id`, `ts` and `from`.
    pub fn send(&mut self, to: &str, body: &Value) -> Result<(), ClientError> {
        self.write(|out| control::message(out, to, body))
    }

    /// All endpoints. A bus that only speaks level 1 gives their names and session ids only.
    pub fn list(&mut self, patience: Duration) -> Result<Listing, ClientError> {
        self.write(|out| listing::request(out, Level::Two))?;
        let answer = self.answer(&[listing::LEVEL_1_TYPE, listing::LEVEL_2_TYPE], patience)?;
        serde_json::from_value(answer).map_err(|error| ClientError::Unexpected(error.to_string()))
    }

    /// The next frame, whatever it is.
    pub fn receive(&mut self, patience: Duration) -> Result<Value, ClientError> {
        let deadline = Instant::now() + patience;
        loop {
            match frame::decode(&self.input) {
                Decoded::Frame { payload, frame_bytes } => {
                    let value = serde_json::from_slice(payload)
                        .map_err(|error| ClientError::Unexpected(error.to_string()));
                    self.input.drain(..frame_bytes);
                    return value;
                }
                Decoded::Refused(error) => return Err(ClientError::Unexpected(error.to_string())),
                Decoded::Incomplete { .. } => self.read(deadline, patience)?,
            }
        }
    }

    /// The next frame of one of these types. Messages that come before it are dropped, so it is for
    /// what a connection asks before it receives any.
    fn answer(&mut self, kinds: &[&str], patience: Duration) -> Result<Value, ClientError> {
        let deadline = Instant::now() + patience;
        loop {
            let answer = self.receive(deadline.saturating_duration_since(Instant::now()))?;
            match answer.get("type").and_then(Value::as_str) {
                Some(kind) if kinds.contains(&kind) => return Ok(answer),
                Some("error") => return Err(refusal(&answer)),
                _ => {}
            }
        }
    }

    fn read(&mut self, deadline: Instant, patience: Duration) -> Result<(), ClientError> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ClientError::Timeout(patience));
        }
        self.stream.set_read_timeout(Some(left)).map_err(ClientError::Io)?;
        let start = self.input.len();
        self.input.resize(start + READ_BYTES, 0);
        let read = self.stream.read(&mut self.input[start..]);
        self.input.truncate(start + *read.as_ref().unwrap_or(&0));
        match read {
            Ok(0) => Err(ClientError::Closed),
            Ok(_) => Ok(()),
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                    Err(ClientError::Timeout(patience))
                }
                io::ErrorKind::Interrupted => Ok(()),
                io::ErrorKind::ConnectionReset => Err(ClientError::Closed),
                _ => Err(ClientError::Io(error)),
            },
        }
    }

    fn write(&mut self, build: impl FnOnce(&mut Vec<u8>)) -> Result<(), ClientError> {
        let mut out = Vec::new();
        build(&mut out);
        self.stream.write_all(&out).map_err(|error| match error.kind() {
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => ClientError::Closed,
            _ => ClientError::Io(error),
        })
    }
}

fn refusal(answer: &Value) -> ClientError {
    let text = |key| answer.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    ClientError::Refused { code: text("code"), detail: text("detail") }
}

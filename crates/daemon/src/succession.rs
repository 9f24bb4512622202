//! One server process follows another without a moment in which the bus cannot be reached.
//!
//! The old process starts the new one with one end of a socket as standard input. The new one sets itself
//! up and says that it is ready; only then does the old one stop. It ends its connections in good order,
//! hands over the listening socket and the root's lock, and the names that were in use with what is held
//! for them. Whoever connects meanwhile waits in the socket's queue. If the new process fails at any
//! point, the old one goes on.
//!
//! ```text
//! new → old   ready\n
//! old → new   the length of an Estate and the number of newcomers (8 bytes each), with the listening
//!             socket and the lock; the newcomers' sockets, up to 200 with a byte; the Estate as JSON;
//!             held frames
//! new → old   taken\n
//! old → new   end of file: the old process has let go of everything, the store above all
//! ```

mod estate;

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, BufWriter, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use bytes::Bytes;
use hermes_bus_core::Lingering;
use hermes_bus_proto::limits::{HEADER_BYTES, PAYLOAD_BYTES_MAX};
use mio::{Interest, Registry, Token};
use rustix::fs::OFlags;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use serde::{Deserialize, Serialize};

use self::estate::{Estate, LeftName};
use crate::config::Sources;
use crate::door::Door;
use crate::lock::Lock;
use crate::logging;
use crate::private_socket::Identity;
use crate::root::Root;
use crate::server::Mode;
use crate::service;
use crate::sys::{self, Process};

/// How long a new process may take until it is ready.
const READY_PATIENCE: Duration = Duration::from_secs(8);
/// How long the new process may take to take over what it is given.
const TAKEN_PATIENCE: Duration = Duration::from_secs(5);
/// How long the new process waits for the old one to end its connections; that one allows itself two
/// seconds.
const ESTATE_PATIENCE: Duration = Duration::from_secs(10);
/// Descriptors that go with one message. The kernel takes 253.
const DESCRIPTORS: usize = 200;
/// More than any number of names takes.
const ESTATE_BYTES_MAX: u64 = 1024 * 1024 * 1024;

const READY: &[u8] = b"ready\n";
const TAKEN: &[u8] = b"taken\n";

/// Tells a server that it is to follow another one.
pub(crate) const FLAG: &str = "--successor";

/// How the new process is to be started. It stands in a file of the root: whoever can write there can
/// have the daemon run anything as it is, while not everybody who can reach the socket may.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Order {
    /// The program: an absolute path.
    pub(crate) program: PathBuf,
    /// Further arguments.
    #[serde(default)]
    pub(crate) arguments: Vec<String>,
    /// Its environment, in place of this process's own.
    pub(crate) environment: Option<BTreeMap<String, String>>,
}

/// Most bytes of an order: an environment has at most 2 MiB or so.
const ORDER_BYTES_MAX: u64 = 16 * 1024 * 1024;

impl Order {
    /// Writes the order to its file, for this user alone.
    pub(crate) fn leave(&self, root: &Root) -> anyhow::Result<()> {
        let path = root.order_file();
        let write = || {
            // A file that is there already may be open to others, or be none.
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let mut file =
                OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
            file.write_all(&serde_json::to_vec(self)?)
        };
        write().with_context(|| format!("cannot write {}", path.display()))
    }

    /// Reads the order, and removes its file.
    pub(crate) fn take(root: &Root) -> anyhow::Result<Self> {
        let path = root.order_file();
        let shown = path.display();
        // A pipe that somebody has put there is not waited for.
        let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits() as i32;
        let file = OpenOptions::new().read(true).custom_flags(flags).open(&path);
        let file = file.with_context(|| format!("there is no order in {shown}"))?;
        fs::remove_file(&path).with_context(|| format!("cannot remove {shown}"))?;
        let found = file.metadata()?;
        let is_ours = found.uid() == rustix::process::geteuid().as_raw() || found.uid() == 0;
        if !found.is_file() || !is_ours || found.mode() & 0o077 != 0 {
            bail!("{shown} is not a file of this user alone");
        }
        let mut order = Vec::new();
        file.take(ORDER_BYTES_MAX).read_to_end(&mut order)?;
        serde_json::from_slice(&order).with_context(|| format!("{shown} is no order"))
    }
}

// ---- the old process --------------------------------------------------------------------------------

/// A new process that is being started.
pub(crate) struct Succession {
    child: Child,
    stream: mio::net::UnixStream,
    heard: Vec<u8>,
    until: Instant,
    /// The new process has everything, and goes on by itself.
    is_handed_over: bool,
}

/// A connection that has heard nothing yet. It can go on in another process.
pub(crate) struct Newcomer {
    pub(crate) stream: mio::net::UnixStream,
    /// What it has sent, and nobody has answered: whole frames.
    pub(crate) sent: Bytes,
}

/// How far the new process is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    NotReady,
    Ready,
    /// It will never be ready, for this reason.
    Failed(String),
}

impl Succession {
    /// Starts the new process. Under a service manager it runs as this one does, and is told the same;
    /// else it runs in the background, and as whoever has asked for it would have started it.
    pub(crate) fn begin(
        order: &Order,
        root: &Root,
        mode: Mode,
        sources: &Sources,
    ) -> anyhow::Result<Self> {
        let shown = order.program.display().to_string();
        if !order.program.is_absolute() {
            bail!("the program's path is not absolute: {shown}");
        }
        let (ours, theirs) = UnixStream::pair().context("no pair of sockets")?;
        let mut command = Command::new(&order.program);
        command.arg("--root").arg(root.directory()).arg(FLAG);
        command.stdin(Stdio::from(OwnedFd::from(theirs)));
        if service::is_supervised() {
            command.args(mode.arguments()).args(sources.arguments());
            command.env_remove(service::WATCHDOG_PID);
        } else {
            // Without word of another configuration, it has that of this process.
            match order.arguments.is_empty() {
                true => command.args(sources.arguments()),
                false => command.args(&order.arguments),
            };
            let log = logging::append_to(&root.log_file()).context("cannot write the log")?;
            command.args(Mode::Detached.arguments()).stdout(log.try_clone()?).stderr(log);
            if let Some(environment) = &order.environment {
                command.env_clear().envs(environment);
            }
        }
        let child = command.spawn().with_context(|| format!("cannot start {shown}"))?;
        ours.set_nonblocking(true)?;
        let stream = mio::net::UnixStream::from_std(ours);
        let until = Instant::now() + READY_PATIENCE;
        Ok(Succession { child, stream, heard: Vec::new(), until, is_handed_over: false })
    }

    pub(crate) fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        registry.register(&mut self.stream, token, Interest::READABLE)
    }

    pub(crate) fn deregister(&mut self, registry: &Registry) {
        let _ = registry.deregister(&mut self.stream);
    }

    /// The new process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Until when it may take to be ready.
    pub(crate) fn until(&self) -> Instant {
        self.until
    }

    /// Looks what has been heard of the new process.
    pub(crate) fn look(&mut self) -> Progress {
        let mut buffer = [0; 64];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => return Progress::Failed(self.end()),
                Ok(bytes) => self.heard.extend_from_slice(&buffer[..bytes]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Progress::Failed(format!("{error}; {}", self.end())),
            }
        }
        if self.heard == READY {
            Progress::Ready
        } else if Instant::now() >= self.until {
            let waited = READY_PATIENCE.as_secs();
            Progress::Failed(format!("it was not ready within {waited} s; {}", self.end()))
        } else {
            Progress::NotReady
        }
    }

    /// Sees to it that the new process is gone, and says how it ended.
    fn end(&mut self) -> String {
        let _ = self.child.kill();
        match self.child.wait() {
            Ok(status) => format!("the new process has ended ({status})"),
            Err(error) => format!("the new process has ended ({error})"),
        }
    }

    /// Hands everything over. When this fails, the new process is gone and has nothing. When the new
    /// process has all of it, and before it goes on, `let_go` gives up what only one of the two can
    /// have.
    pub(crate) fn hand_over(
        mut self,
        door: &Door,
        lock: &Lock,
        newcomers: &[Newcomer],
        left: &[Lingering],
        let_go: impl FnOnce(),
    ) -> anyhow::Result<()> {
        self.try_to_hand_over(door, lock, newcomers, left)
            .map_err(|error| error.context(self.end()).context("the bus was not handed over"))?;
        let_go();
        Ok(())
    }

    fn try_to_hand_over(
        &mut self,
        door: &Door,
        lock: &Lock,
        newcomers: &[Newcomer],
        left: &[Lingering],
    ) -> anyhow::Result<()> {
        let stream = UnixStream::from(self.stream.as_fd().try_clone_to_owned()?);
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(TAKEN_PATIENCE))?;
        stream.set_write_timeout(Some(TAKEN_PATIENCE))?;
        let estate = Estate {
            identity: door.identity(),
            socket_is_ours: door.is_ours(),
            names: left.iter().map(LeftName::of).collect(),
            newcomers_sent: newcomers.iter().map(|newcomer| newcomer.sent.len()).collect(),
        };
        let estate = serde_json::to_vec(&estate)?;
        let lengths = [estate.len() as u64, newcomers.len() as u64].map(u64::to_be_bytes).concat();
        send_descriptors(&stream, &lengths, &[door.as_fd(), lock.as_fd()])?;
        for newcomers in newcomers.chunks(DESCRIPTORS) {
            let descriptors: Vec<BorrowedFd<'_>> =
                newcomers.iter().map(|newcomer| newcomer.stream.as_fd()).collect();
            send_descriptors(&stream, &[0], &descriptors)?;
        }
        let mut out = BufWriter::new(&stream);
        out.write_all(&estate)?;
        let messages = left.iter().flat_map(|lingering| &lingering.messages);
        let held = messages.map(|message| &message.frame);
        for bytes in held.chain(newcomers.iter().map(|newcomer| &newcomer.sent)) {
            out.write_all(bytes)?;
        }
        out.flush()?;
        drop(out);
        let mut answer = [0; TAKEN.len()];
        (&stream).read_exact(&mut answer).context("no answer")?;
        if answer != TAKEN {
            bail!("a strange answer");
        }
        self.is_handed_over = true;
        Ok(())
    }
}

impl Drop for Succession {
    fn drop(&mut self) {
        if !self.is_handed_over {
            self.end();
        }
    }
}

// ---- the new process --------------------------------------------------------------------------------

/// The process that is to be followed, at the other end of standard input.
pub(crate) struct Predecessor {
    stream: UnixStream,
}

/// What it leaves.
pub(crate) struct Inheritance {
    pub(crate) listener: OwnedFd,
    pub(crate) identity: Identity,
    pub(crate) socket_is_ours: bool,
    pub(crate) lock: File,
    pub(crate) newcomers: Vec<Newcomer>,
    pub(crate) left: Vec<Lingering>,
}

impl Predecessor {
    /// Finds the old process at standard input.
    pub(crate) fn find() -> anyhow::Result<Self> {
        let input = io::stdin().as_fd().try_clone_to_owned()?;
        let stream = UnixStream::from(input);
        let no_predecessor = || format!("{FLAG} is for a server that another one starts");
        stream.peer_addr().with_context(no_predecessor)?;
        stream.set_read_timeout(Some(ESTATE_PATIENCE))?;
        Ok(Predecessor { stream })
    }

    /// The old process.
    pub(crate) fn process(&self) -> Option<Process> {
        Process::find(sys::peer_credentials(&self.stream).ok()?.pid)
    }

    /// Says that this process is ready, and waits for what the old one leaves.
    pub(crate) fn inherit(&mut self) -> anyhow::Result<Inheritance> {
        self.stream.write_all(READY).context("the old server is gone")?;
        let (mut estate_bytes, mut newcomers_count) = ([0; 8], [0; 8]);
        let mut lengths = [&mut estate_bytes[..], &mut newcomers_count].map(IoSliceMut::new);
        let descriptors = receive_descriptors(&self.stream, &mut lengths)?;
        let Ok([listener, lock]) = <[OwnedFd; 2]>::try_from(descriptors) else {
            bail!("the old server has not handed its socket and lock over");
        };
        let (length, count) =
            (u64::from_be_bytes(estate_bytes), u64::from_be_bytes(newcomers_count));
        if length > ESTATE_BYTES_MAX {
            bail!("the old server announces {length} bytes");
        }
        let mut newcomers = Vec::new();
        while (newcomers.len() as u64) < count {
            let came = receive_descriptors(&self.stream, &mut [IoSliceMut::new(&mut [0])])?;
            if came.is_empty() {
                bail!("the old server has not handed over all connections");
            }
            newcomers.extend(came);
        }
        let mut input = BufReader::new(&self.stream);
        let mut estate = Vec::new();
        input.by_ref().take(length).read_to_end(&mut estate)?;
        let mut estate: Estate = serde_json::from_slice(&estate).context("a strange estate")?;
        let mut left = Vec::with_capacity(estate.names.len());
        for name in std::mem::take(&mut estate.names) {
            left.extend(name.read(|| read_frame(&mut input))?);
        }
        let Estate { identity, socket_is_ours, newcomers_sent, .. } = estate;
        if newcomers_sent.len() != newcomers.len() {
            bail!("the old server has handed over other connections than it says");
        }
        let newcomers = newcomers.into_iter().zip(newcomers_sent).map(|(stream, bytes)| {
            let mut sent = Vec::new();
            input.by_ref().take(bytes as u64).read_to_end(&mut sent)?;
            let stream = UnixStream::from(stream);
            stream.set_nonblocking(true)?;
            let stream = mio::net::UnixStream::from_std(stream);
            Ok(Newcomer { stream, sent: Bytes::from(sent) })
        });
        let newcomers = newcomers.collect::<anyhow::Result<_>>()?;
        let lock = File::from(lock);
        Ok(Inheritance { listener, identity, socket_is_ours, lock, newcomers, left })
    }

    /// Says that everything is taken over, and waits until the old process is gone.
    pub(crate) fn relieve(mut self) -> anyhow::Result<()> {
        self.stream.write_all(TAKEN).context("the old server is gone")?;
        match self.stream.read(&mut [0; 1]) {
            Ok(0) => Ok(()),
            Ok(_) => bail!("the old server says more than it should"),
            // It has nothing any more that would be in the way.
            Err(error) => Err(error).context("the old server does not end"),
        }
    }
}

/// Sends bytes together with descriptors.
fn send_descriptors(
    stream: &UnixStream,
    bytes: &[u8],
    descriptors: &[BorrowedFd<'_>],
) -> anyhow::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut rights = SendAncillaryBuffer::new(&mut space);
    rights.push(SendAncillaryMessage::ScmRights(descriptors));
    let slices = [IoSlice::new(bytes)];
    let sent = rustix::net::sendmsg(stream, &slices, &mut rights, SendFlags::NOSIGNAL)?;
    if sent != bytes.len() {
        bail!("the socket took {sent} of {} bytes", bytes.len());
    }
    Ok(())
}

/// Receives exactly so many bytes, and the descriptors that come with them.
fn receive_descriptors(
    stream: &UnixStream,
    bytes: &mut [IoSliceMut<'_>],
) -> anyhow::Result<Vec<OwnedFd>> {
    let wanted: usize = bytes.iter().map(|slice| slice.len()).sum();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut rights = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::WAITALL;
    let received = rustix::net::recvmsg(stream, bytes, &mut rights, flags)
        .context("the old server hands nothing over")?;
    if received.bytes != wanted {
        bail!("the old server has gone on by itself, or ended");
    }
    let descriptors = rights.drain().flat_map(|message| match message {
        RecvAncillaryMessage::ScmRights(descriptors) => descriptors.collect(),
        _ => Vec::new(),
    });
    Ok(descriptors.collect())
}

fn read_frame(input: &mut impl Read) -> anyhow::Result<Bytes> {
    let mut frame = vec![0; HEADER_BYTES];
    input.read_exact(&mut frame)?;
    let payload_bytes = u32::from_be_bytes([frame[0], frame[1], frame[2], frame[3]]) as usize;
    if payload_bytes > PAYLOAD_BYTES_MAX {
        bail!("a frame of {payload_bytes} bytes");
    }
    frame.resize(HEADER_BYTES + payload_bytes, 0);
    input.read_exact(&mut frame[HEADER_BYTES..])?;
    Ok(Bytes::from(frame))
}

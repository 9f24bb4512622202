//! A bus of one's own: the server program in a process of its own, in a directory that goes away.
//!
//! The server makes the directory itself, and removes it when it ends; it ends when its standard input does. So
//! nothing is left behind however this process ends, kill -9 included.

use std::env;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::error::BenchError;
use crate::link::Stop;

/// How long a server may take to answer, or to end.
const PATIENCE: Duration = Duration::from_secs(10);
/// Most bytes of a socket's path, on every system.
const SOCKET_PATH_BYTES_MAX: usize = 103;
/// The socket in a bus's directory.
const SOCKET: &str = "hermes-bus.sock";

/// A server that ends with this value.
#[derive(Debug)]
pub(crate) struct PrivateBus {
    server: Child,
    directory: PathBuf,
}

impl PrivateBus {
    /// Starts `program` on a new directory in `parent`.
    pub(crate) fn start(program: &Path, parent: &Path, stop: &Stop) -> Result<Self, BenchError> {
        let failed =
            |why: String| BenchError::NoPrivateBus(format!("cannot start a private bus: {why}"));
        let directory = parent.join(format!("hermes-bus-bench-{:08x}", fastrand::u32(..)));
        let socket = directory.join(SOCKET);
        if socket.as_os_str().as_bytes().len() > SOCKET_PATH_BYTES_MAX {
            let why = format!(
                "the path {} is too long for a socket: choose another --dir",
                socket.display()
            );
            return Err(failed(why));
        }
        let mut command = Command::new(program);
        command.arg("--root").arg(&directory).arg("--ephemeral");
        // Nothing of what is set for the user's own bus, and nothing for the service manager of this process.
        for (name, _) in env::vars_os() {
            let is_of_a_bus = name.as_bytes().starts_with(b"HERMES_");
            if is_of_a_bus
                || name == "NOTIFY_SOCKET"
                || name == "LISTEN_FDS"
                || name == "LISTEN_PID"
            {
                command.env_remove(name);
            }
        }
        command.env("HERMES_BUS_HOOKS", "none").env("HERMES_BUS_LOG", "warn");
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::inherit());
        // Ctrl-C in the terminal is for this process, which ends the server when it has done with it.
        command.process_group(0);
        let server =
            command.spawn().map_err(|error| failed(format!("{}: {error}", program.display())))?;
        let mut bus = PrivateBus { server, directory };
        let deadline = Instant::now() + PATIENCE;
        while UnixStream::connect(&socket).is_err() {
            if let Ok(Some(status)) = bus.server.try_wait() {
                return Err(failed(format!("it ended at once ({status})")));
            }
            if stop.is_asked_for() {
                return Err(BenchError::Interrupted);
            }
            if Instant::now() > deadline {
                return Err(failed(format!("it did not answer within {PATIENCE:?}")));
            }
            sleep(Duration::from_millis(1));
        }
        Ok(bus)
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.join(SOCKET)
    }

    /// Waits for the end of the server; `false` if it takes too long.
    fn ends_in_time(&mut self) -> bool {
        drop(self.server.stdin.take());
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if !matches!(self.server.try_wait(), Ok(None)) {
                return true;
            }
            sleep(Duration::from_millis(1));
        }
        false
    }
}

impl Drop for PrivateBus {
    fn drop(&mut self) {
        if !self.ends_in_time() {
            let _ = self.server.kill();
            let _ = self.server.wait();
        }
        // Only a server that was killed has left it.
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

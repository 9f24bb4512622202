//! The root directory of a bus, and the paths in it. Paths are kept as they are given: scripts
//! compare them.

use std::env;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Where a bus lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root {
    directory: PathBuf,
}

impl Root {
    /// `--root`, else `HERMES_BUS_ROOT`, else `~/.hermes`. An empty variable counts as unset.
    pub fn find(given: Option<&Path>) -> io::Result<Self> {
        let directory = hermes_bus_client::bus_directory(given)?;
        Ok(Root { directory })
    }

    /// The directory itself.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The bus's socket.
    pub fn socket(&self) -> PathBuf {
        hermes_bus_client::socket_in(&self.directory)
    }

    /// Where the daemon's PID file, lock and log are.
    pub fn run_directory(&self) -> PathBuf {
        self.directory.join("run")
    }

    /// Holds the process id of a daemon that was started with `hermes-busd start`.
    pub fn pid_file(&self) -> PathBuf {
        self.run_directory().join("busd.pid")
    }

    /// The daemon's log.
    pub fn log_file(&self) -> PathBuf {
        self.run_directory().join("busd.log")
    }

    /// The configuration file. It need not exist.
    pub fn config_file(&self) -> PathBuf {
        self.directory.join("hermes-bus/config.yaml")
    }

    /// The database of what is kept on disk. Not in the run directory: it outlives every run.
    pub(crate) fn store_file(&self) -> PathBuf {
        self.directory.join("hermes-bus/store.db")
    }

    /// Where metrics are read.
    pub fn metrics_socket(&self) -> PathBuf {
        self.run_directory().join("metrics.sock")
    }

    /// What the process is to be that follows this daemon, for the moment in which it is started.
    pub(crate) fn order_file(&self) -> PathBuf {
        self.run_directory().join("successor.json")
    }

    /// Locked for as long as a server runs on this root.
    pub(crate) fn lock_file(&self) -> PathBuf {
        self.run_directory().join("busd.lock")
    }

    /// Creates what is missing, for this user alone. What exists is never changed.
    pub(crate) fn create(&self) -> io::Result<()> {
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o700);
        builder.create(self.run_directory())
    }

    /// Whether other users could put a socket of their own here.
    pub(crate) fn is_writable_for_others(&self) -> bool {
        fs::metadata(&self.directory).is_ok_and(|directory| directory.mode() & 0o022 != 0)
    }
}

/// `HERMES_HOME`, where clients of version 0.5.0 look for the socket. Empty counts as unset.
pub(crate) fn hermes_home() -> Option<PathBuf> {
    env::var_os("HERMES_HOME").filter(|value| !value.is_empty()).map(PathBuf::from)
}

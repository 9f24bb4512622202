//! Where a bus is on this machine. Paths are kept as they are given: scripts compare them.

use std::path::{Path, PathBuf};
use std::{env, io};

/// The directory of a bus: the one given, else `HERMES_BUS_ROOT`, else `~/.hermes`. An empty
/// variable counts as unset. Fails where there is no home directory either.
pub fn bus_directory(given: Option<&Path>) -> io::Result<PathBuf> {
    if let Some(given) = given {
        return Ok(given.to_owned());
    }
    if let Some(root) = env::var_os("HERMES_BUS_ROOT").filter(|root| !root.is_empty()) {
        return Ok(PathBuf::from(root));
    }
    let home = env::home_dir().filter(|home| !home.as_os_str().is_empty());
    home.map(|home| home.join(".hermes"))
        .ok_or_else(|| io::Error::other("there is no home directory: set HERMES_BUS_ROOT or HOME"))
}

/// The socket of the bus in a directory.
pub fn socket_in(directory: &Path) -> PathBuf {
    directory.join("hermes-bus.sock")
}

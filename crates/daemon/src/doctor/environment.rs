//! What is around a bus: the environment of the process that looks, gathered in one place, so that
//! checks can be tried with any other.

use std::env;
use std::ffi::OsString;
use std::path::PathBuf;

use crate::hooks::program::interpreters;
use crate::root::hermes_home;

/// Where released versions of the plugin write every message, for all to read.
const PLUGIN_LOG: &str = "/tmp/hermes_bus_debug.log";

/// What is around a bus.
#[derive(Clone, Debug)]
pub struct Environment {
    /// `PATH`.
    pub(super) path: OsString,
    /// The directory of the program that looks.
    pub(super) programs: Option<PathBuf>,
    /// `HERMES_HOME`, where clients of version 0.5.0 look for the socket.
    pub(super) hermes_home: Option<PathBuf>,
    /// `HERMES_BUS_ROOT` is there, and empty.
    pub(super) root_is_set_to_nothing: bool,
    /// `~/.hermes`
    pub(super) default_root: Option<PathBuf>,
    pub(super) plugin_log: PathBuf,
    /// What runs hooks that do not run by themselves: names on `PATH`, or paths.
    pub(super) interpreters: Vec<OsString>,
}

impl Environment {
    /// Those of this process.
    pub fn of_this_process() -> Self {
        let program = env::current_exe().and_then(std::fs::canonicalize).ok();
        let home = env::home_dir().filter(|home| !home.as_os_str().is_empty());
        Environment {
            path: env::var_os("PATH").unwrap_or_default(),
            programs: program.and_then(|program| Some(program.parent()?.to_owned())),
            hermes_home: hermes_home(),
            root_is_set_to_nothing: env::var_os("HERMES_BUS_ROOT").is_some_and(|v| v.is_empty()),
            default_root: home.map(|home| home.join(".hermes")),
            plugin_log: PathBuf::from(PLUGIN_LOG),
            interpreters: interpreters(),
        }
    }

    /// Nothing, in a directory.
    #[cfg(test)]
    pub(super) fn none(directory: &std::path::Path) -> Self {
        Environment {
            path: OsString::new(),
            programs: None,
            hermes_home: None,
            root_is_set_to_nothing: false,
            default_root: None,
            plugin_log: directory.join("hermes_bus_debug.log"),
            interpreters: vec!["python3".into()],
        }
    }
}

//! Under which name an agent registers, as the released plugin finds it: `HERMES_BUS_ENDPOINT`, else `bus.endpoint` of
//! `bus-rules.yaml`, else the name of the profile, else `hermes-bus`; behind it `-gateway` in a gateway. A name that is
//! taken gets a number, which is the bus's own business.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// The name where nothing says another one.
pub const DEFAULT: &str = "hermes-bus";

/// What of a process says how it is called.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// `HERMES_BUS_ENDPOINT`, if it is set to something.
    pub endpoint: Option<String>,
    /// `HERMES_HOME`, if it is set to something.
    pub hermes_home: Option<PathBuf>,
    /// The user's home directories: `HOME`, which a sandbox may have changed, and that of the system's list.
    pub homes: Vec<PathBuf>,
    /// Whether this is a gateway: `_HERMES_GATEWAY` is `1`.
    pub is_gateway: bool,
}

impl Surroundings {
    /// Those of this process.
    pub fn of_process() -> Self {
        let set = |name| env::var_os(name).filter(|value: &OsString| !value.is_empty());
        let user = nix::unistd::User::from_uid(nix::unistd::Uid::effective()).ok().flatten();
        let homes = set("HOME").map(PathBuf::from).into_iter().chain(user.map(|user| user.dir));
        Surroundings {
            endpoint: set("HERMES_BUS_ENDPOINT").and_then(|name| name.into_string().ok()),
            hermes_home: set("HERMES_HOME").map(PathBuf::from),
            homes: homes.collect(),
            is_gateway: set("_HERMES_GATEWAY").is_some_and(|value| value == "1"),
        }
    }

    /// The name. `configured` is what the rules say.
    pub fn name(&self, configured: Option<&str>) -> String {
        let endpoint = self.endpoint.as_deref().filter(|name| !name.is_empty());
        let name = endpoint.or(configured.filter(|name| !name.is_empty()));
        let name = name.map_or_else(|| self.profile().unwrap_or(DEFAULT).to_owned(), str::to_owned);
        if self.is_gateway { format!("{name}-gateway") } else { name }
    }

    fn profile(&self) -> Option<&str> {
        let home: &Path = self.hermes_home.as_deref()?;
        let is_profile = |user: &PathBuf| home.starts_with(user.join(".hermes/profiles"));
        let name = home.file_name().filter(|_| self.homes.iter().any(is_profile));
        name?.to_str().filter(|name| !name.is_empty())
    }
}

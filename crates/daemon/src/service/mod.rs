//! Running under a service manager: what it is told, the socket that it hands over, and the files that
//! make it run the bus.

mod activation;
mod files;
mod install;
mod supervisor;

pub use self::activation::{ActivationError, listening_socket};
pub use self::install::{Change, install, uninstall};
pub use self::supervisor::Supervisor;

/// Names the process that the watchdog waits for.
pub(crate) const WATCHDOG_PID: &str = "WATCHDOG_PID";

/// Whether a service manager runs this process, and wants to hear from it.
pub(crate) fn is_supervised() -> bool {
    std::env::var_os("NOTIFY_SOCKET").is_some_and(|socket| !socket.is_empty())
}

/// Variables that a service manager means for this process alone. No other program that is started may
/// inherit them: it would speak in the daemon's name.
pub const PRIVATE_VARIABLES: [&str; 6] =
    ["NOTIFY_SOCKET", "WATCHDOG_USEC", WATCHDOG_PID, "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"];

//! The listening socket that a service manager hands over.

use std::io;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::{env, fs};

use listenfd::ListenFd;

/// A socket was handed over, but not the one that this bus serves.
#[derive(Debug, thiserror::Error)]
pub enum ActivationError {
    /// More than one.
    #[error("the service manager hands over {0} sockets; the bus takes one, its own")]
    Count(usize),
    /// It is no Unix stream socket, or cannot be used.
    #[error("the socket that the service manager hands over cannot be used: {0}")]
    Unusable(#[from] io::Error),
    /// Nobody listens on it.
    #[error("the service manager hands over a socket that does not listen (Accept=no is needed)")]
    NotListening,
    /// It is bound elsewhere.
    #[error(
        "the service manager hands over the socket {}, but this bus serves {}: set ListenStream= or \
         the root to the same place",
        found.as_ref().map_or("without a path".to_owned(), |path| path.display().to_string()),
        wanted.display()
    )]
    Elsewhere {
        /// Where.
        found: Option<PathBuf>,
        /// The path of this bus.
        wanted: PathBuf,
    },
}

/// The socket at `path` that the service manager has opened for this process, if there is one. It
/// does not block, and no other program inherits it. It belongs to the service manager: whoever serves
/// it never removes its path.
pub fn listening_socket(path: &Path) -> Result<Option<UnixListener>, ActivationError> {
    // Without a process id it may be meant for anybody; the library would take it all the same.
    let is_meant = env::var("LISTEN_PID").is_ok_and(|pid| pid == std::process::id().to_string());
    if !is_meant {
        return Ok(None);
    }
    let mut handed_over = ListenFd::from_env();
    if handed_over.len() > 1 {
        return Err(ActivationError::Count(handed_over.len()));
    }
    let Some(listener) = handed_over.take_unix_listener(0)? else { return Ok(None) };
    check(&listener, path)?;
    listener.set_nonblocking(true)?;
    Ok(Some(listener))
}

fn check(listener: &UnixListener, path: &Path) -> Result<(), ActivationError> {
    if !rustix::net::sockopt::socket_acceptconn(listener).map_err(io::Error::from)? {
        return Err(ActivationError::NotListening);
    }
    let found = listener.local_addr()?.as_pathname().map(Path::to_owned);
    if found.as_deref().is_some_and(|found| is_same_place(found, path)) {
        return Ok(());
    }
    Err(ActivationError::Elsewhere { found, wanted: path.to_owned() })
}

/// Whether both paths lead to the same name in the same directory.
fn is_same_place(a: &Path, b: &Path) -> bool {
    let directory = |path: &Path| path.parent().and_then(|parent| fs::canonicalize(parent).ok());
    a == b || (a.file_name() == b.file_name() && directory(a) == directory(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_socket_of_this_bus_is_taken() {
        let directory = tempfile::tempdir().unwrap();
        let (path, other) =
            (directory.path().join("bus.sock"), directory.path().join("other.sock"));
        let link = directory.path().join("link");
        std::os::unix::fs::symlink(directory.path(), &link).unwrap();
        let listener = UnixListener::bind(&path).unwrap();
        assert!(check(&listener, &path).is_ok());
        assert!(check(&listener, &link.join("bus.sock")).is_ok(), "the same place by another way");
        let error = check(&listener, &other).unwrap_err().to_string();
        assert!(error.contains("/bus.sock, but") && error.contains("/other.sock"), "{error}");
    }

    #[test]
    fn a_socket_that_does_not_listen_is_refused() {
        use rustix::net::{AddressFamily, SocketType, socket};
        let silent = socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
        let error = check(&UnixListener::from(silent), Path::new("/x")).unwrap_err();
        assert!(matches!(error, ActivationError::NotListening));
    }
}

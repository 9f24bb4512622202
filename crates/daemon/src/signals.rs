//! Signals, as something that the driver's poll wakes up for.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::sync::Arc;

use mio::net::UnixStream;
use mio::{Interest, Registry, Token};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGXFSZ};

use crate::sys;

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wish {
    /// End in good order.
    Stop,
    /// See whether the socket's path still leads here: `start` asks, when it finds none.
    CheckSocket,
    /// Read the configuration again.
    Reload,
}

/// The signals that are caught.
pub(crate) struct Signals {
    pipes: Vec<(UnixStream, Wish)>,
    ends_with_terminal: bool,
}

impl Signals {
    /// Catches SIGTERM, SIGINT, SIGUSR1 and SIGHUP from now on, and survives SIGXFSZ.
    ///
    /// SIGHUP means: read the configuration again; but where the terminal that the server was started
    /// in is gone, it means what it always has, unless it was to be ignored (`nohup`).
    pub(crate) fn catch() -> io::Result<Self> {
        let ends_with_terminal = has_terminal() && !sys::is_ignored(SIGHUP);
        let wanted = [
            (SIGTERM, Wish::Stop),
            (SIGINT, Wish::Stop),
            (SIGUSR1, Wish::CheckSocket),
            (SIGHUP, Wish::Reload),
        ];
        // A log or PID file at the limit of `ulimit -f` is an error of the write, not the bus's end. With a
        // handler, unlike with a signal that is ignored, programs that are started have the signal back.
        signal_hook::flag::register(SIGXFSZ, Arc::default())?;
        let mut pipes = Vec::new();
        for (signal, wish) in wanted {
            let (ours, handlers) = StdUnixStream::pair()?;
            signal_hook::low_level::pipe::register(signal, handlers)?;
            ours.set_nonblocking(true)?;
            pipes.push((UnixStream::from_std(ours), wish));
        }
        Ok(Signals { pipes, ends_with_terminal })
    }

    /// Has the poll wake up for them, with tokens from `first` on.
    pub(crate) fn register(&mut self, registry: &Registry, first: usize) -> io::Result<()> {
        for (offset, (pipe, _)) in self.pipes.iter_mut().enumerate() {
            registry.register(pipe, Token(first + offset), Interest::READABLE)?;
        }
        Ok(())
    }

    /// What has been asked for since the last call.
    pub(crate) fn take(&mut self) -> Vec<Wish> {
        let mut wishes = Vec::new();
        for (pipe, wish) in &mut self.pipes {
            let mut came = false;
            while matches!(pipe.read(&mut [0; 64]), Ok(1..)) {
                came = true;
            }
            wishes.extend(came.then_some(*wish));
        }
        if self.ends_with_terminal && wishes.contains(&Wish::Reload) && !has_terminal() {
            wishes.push(Wish::Stop);
        }
        wishes
    }
}

/// Whether there is a terminal that this process belongs to.
fn has_terminal() -> bool {
    File::open("/dev/tty").is_ok()
}

//! Signals, as something that the driver's poll wakes up for.

use std::io::{self, Read};
use std::os::unix::net::UnixStream as StdUnixStream;

use mio::net::UnixStream;
use mio::{Interest, Registry, Token};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wish {
    /// End in good order.
    Stop,
    /// See whether the socket's path still leads here: `start` asks, when it finds none.
    CheckSocket,
}

/// The signals that are caught.
pub(crate) struct Signals {
    pipes: Vec<(UnixStream, Option<Wish>)>,
}

/// What the end of a terminal means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HangUp {
    /// The server runs in it and ends with it.
    Stops,
    /// The server has left it long ago.
    IsIgnored,
}

impl Signals {
    /// Catches SIGTERM, SIGINT, SIGUSR1 and SIGHUP from now on.
    pub(crate) fn catch(hang_up: HangUp) -> io::Result<Self> {
        let at_hang_up = match hang_up {
            HangUp::Stops => Some(Wish::Stop),
            HangUp::IsIgnored => None,
        };
        let wanted = [
            (SIGTERM, Some(Wish::Stop)),
            (SIGINT, Some(Wish::Stop)),
            (SIGUSR1, Some(Wish::CheckSocket)),
            (SIGHUP, at_hang_up),
        ];
        let mut pipes = Vec::new();
        for (signal, wish) in wanted {
            let (ours, handlers) = StdUnixStream::pair()?;
            signal_hook::low_level::pipe::register(signal, handlers)?;
            ours.set_nonblocking(true)?;
            pipes.push((UnixStream::from_std(ours), wish));
        }
        Ok(Signals { pipes })
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
            wishes.extend(wish.filter(|_| came));
        }
        wishes
    }
}

//! Spike: the bus on mio 1 (edge-triggered epoll), one thread, one shared 256 KiB read buffer.
//! A turn: poll, one bounded read per ready connection, one flush per dirty connection (at the turn's end, or after
//! `each` read). Usage: mio_bus PATH [turn|each]
use mio::net::{UnixListener, UnixStream};
use mio::{Events, Interest, Poll, Token};
use spike::{Bus, Flushed, READ, Sink};
use std::io::{self, ErrorKind, Read, Write};
use std::time::Duration;

struct Stream(UnixStream);
impl Sink for Stream {
    fn try_send(&self, b: &[u8]) -> io::Result<usize> {
        (&self.0).write(b)
    }
}

const LISTENER: Token = Token(usize::MAX);

struct Loop {
    poll: Poll,
    bus: Bus<Stream>,
    buf: Vec<u8>,
    /// Flush after each read rather than at the end of the turn: smaller output batches that stay in cache.
    each: bool,
}

/// What a read left behind.
enum After {
    Drained,
    More,
    Closed,
}

impl Loop {
    fn accept(&mut self, listener: &UnixListener) {
        loop {
            match listener.accept() {
                Ok((mut s, _)) => {
                    let token = Token(self.bus.next_id());
                    self.poll.registry().register(&mut s, token, Interest::READABLE).unwrap();
                    self.bus.add(Stream(s));
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => return,
                Err(e) => { eprintln!("accept: {e}"); return } // EMFILE would need a retry: the edge is spent
            }
        }
    }

    /// One bounded read. `hup`: the peer has closed, so a short read is NOT the end of the story.
    fn read(&mut self, id: usize, hup: bool) -> After {
        let Some(c) = self.bus.conns.get(id).and_then(Option::as_ref) else { return After::Drained };
        match (&c.stream.0).read(&mut self.buf) {
            Ok(0) => After::Closed,
            Ok(n) => {
                self.bus.ingest(id, &self.buf[..n]);
                if n == READ || hup { After::More } else { After::Drained }
            }
            Err(e) if e.kind() == ErrorKind::WouldBlock => After::Drained,
            Err(e) if e.kind() == ErrorKind::Interrupted => After::More,
            Err(_) => After::Closed,
        }
    }

    fn close(&mut self, id: usize) {
        if let Some(mut s) = self.bus.remove(id) { let _ = self.poll.registry().deregister(&mut s.0); }
    }

    fn flush(&mut self, id: usize) {
        let was = self.bus.conns.get(id).and_then(Option::as_ref).is_some_and(|c| c.blocked);
        let interest = match (self.bus.flush(id), was) {
            (Flushed::Blocked, false) => Interest::READABLE | Interest::WRITABLE,
            (Flushed::Done, true) => Interest::READABLE,
            (Flushed::Dead, _) => return self.close(id),
            _ => return,
        };
        // A reregister re-arms the edge: if space came free in between, the event is delivered at once.
        if let Some(c) = self.bus.conns.get_mut(id).and_then(Option::as_mut) {
            self.poll.registry().reregister(&mut c.stream.0, Token(id), interest).unwrap();
        }
    }

    fn run(&mut self, listener: &UnixListener) -> io::Result<()> {
        let mut events = Events::with_capacity(1024);
        let mut ready: Vec<(usize, bool)> = vec![]; // left over from the turn before: the edge is spent
        loop {
            let wait = if ready.is_empty() { None } else { Some(Duration::ZERO) };
            match self.poll.poll(&mut events, wait) {
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                r => r?,
            }
            let mut accept = false;
            let mut writable = vec![];
            for e in &events {
                if e.token() == LISTENER { accept = true; continue }
                let id = e.token().0;
                if e.is_readable() || e.is_read_closed() || e.is_error() {
                    match ready.iter_mut().find(|r| r.0 == id) {
                        Some(r) => r.1 |= e.is_read_closed() || e.is_error(),
                        None => ready.push((id, e.is_read_closed() || e.is_error())),
                    }
                }
                if e.is_writable() { writable.push(id); }
            }
            let mut closed = vec![];
            let mut turn = std::mem::take(&mut ready);
            for (id, hup) in turn.drain(..) {
                match self.read(id, hup) {
                    After::Drained => {}
                    After::More => ready.push((id, hup)),
                    After::Closed => closed.push(id),
                }
                if self.each { while let Some(id) = self.bus.dirty.pop() { self.flush(id); } }
            }
            for id in writable { if self.bus.conns.get(id).and_then(Option::as_ref).is_some_and(|c| c.blocked) { self.flush(id); } }
            while let Some(id) = self.bus.dirty.pop() { self.flush(id); }
            // Ids are freed (and new ones handed out) only here, when no event of this turn can name them.
            for id in closed { self.close(id); }
            if accept { self.accept(listener); }
            ready.retain(|r| self.bus.conns.get(r.0).is_some_and(Option::is_some));
        }
    }
}

fn main() -> io::Result<()> {
    let mut args = std::env::args().skip(1);
    let path = args.next().expect("PATH");
    let each = args.next().as_deref() == Some("each");
    let _ = std::fs::remove_file(&path);
    let mut listener = UnixListener::bind(&path)?;
    let poll = Poll::new()?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    Loop { poll, bus: Bus::default(), buf: vec![0; READ], each }.run(&listener)
}

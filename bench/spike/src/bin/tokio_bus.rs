//! Spike: the bus on a tokio current-thread runtime: one Rc<RefCell> state, one reader task per connection.
//! Readers route synchronously; dirty receivers are flushed by the reader (`self`) or by one flusher task (`task`),
//! and a temporary task waits for writability only after WouldBlock. Usage: tokio_bus PATH [self|task]
use spike::{Bus, Flushed, READ, Sink};
use std::cell::RefCell;
use std::io::{self, ErrorKind};
use std::rc::Rc;
use tokio::io::Interest;
use tokio::net::{UnixListener, UnixStream};
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::Notify;
use tokio::task::{spawn_local, yield_now};

#[derive(Clone)]
struct Stream(Rc<UnixStream>);
impl Sink for Stream {
    fn try_send(&self, b: &[u8]) -> io::Result<usize> {
        self.0.try_write(b)
    }
}

struct Shared {
    bus: RefCell<Bus<Stream>>,
    buf: RefCell<Vec<u8>>,
    /// With a flusher task: wakes it. It then runs after the readers already queued, so their output coalesces.
    flusher: Option<Notify>,
}

enum After {
    Drained,
    More,
    Closed,
}

impl Shared {
    /// One bounded read. A short read is reported to tokio as WouldBlock, which clears the readiness and saves
    /// the extra read(2) that would only return EAGAIN. Tokio never clears READ_CLOSED, so EOF is still seen.
    fn read(&self, id: usize, s: &UnixStream) -> After {
        let mut buf = self.buf.borrow_mut();
        let mut got = None;
        let r = s.try_io(Interest::READABLE, || {
            let n = s.try_read(&mut buf)?;
            got = Some(n);
            if 0 < n && n < READ { Err(ErrorKind::WouldBlock.into()) } else { Ok(()) }
        });
        match (got, r) {
            (Some(0), _) => After::Closed,
            (Some(n), _) => {
                self.bus.borrow_mut().ingest(id, &buf[..n]);
                if n == READ { After::More } else { After::Drained }
            }
            (None, Err(e)) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => After::Drained,
            (None, _) => After::Closed,
        }
    }

    fn flush_dirty(self: &Rc<Self>) {
        let mut bus = self.bus.borrow_mut();
        while let Some(id) = bus.dirty.pop() {
            if bus.flush(id) == Flushed::Blocked
                && let Some(c) = &bus.conns[id]
            {
                spawn_local(unblock(self.clone(), id, c.stream.clone()));
            }
        }
    }
}

/// Lives as long as one connection is blocked: flushes it whenever it is writable.
async fn unblock(sh: Rc<Shared>, id: usize, s: Stream) {
    while s.0.writable().await.is_ok() {
        let mut bus = sh.bus.borrow_mut();
        let same = bus.conns.get(id).and_then(Option::as_ref).is_some_and(|c| Rc::ptr_eq(&c.stream.0, &s.0));
        if !same || bus.flush(id) != Flushed::Blocked { return }
    }
}

async fn reader(sh: Rc<Shared>, id: usize, s: Rc<UnixStream>) {
    while s.readable().await.is_ok() {
        let after = sh.read(id, &s);
        if !sh.bus.borrow().dirty.is_empty() {
            match &sh.flusher {
                Some(n) => n.notify_one(),
                None => sh.flush_dirty(),
            }
        }
        match after {
            After::Drained => {}
            After::More => yield_now().await, // the others' turn; the readiness is still set
            After::Closed => break,
        }
    }
    // A connection that died while being written to is also ended here: its reader sees the reset.
    sh.bus.borrow_mut().remove(id);
}

async fn serve(path: String, task: bool) -> io::Result<()> {
    let listener = UnixListener::bind(&path)?;
    let flusher = task.then(Notify::new);
    let sh = Rc::new(Shared { bus: RefCell::default(), buf: RefCell::new(vec![0; READ]), flusher });
    if task {
        let sh = sh.clone();
        spawn_local(async move {
            loop {
                sh.flusher.as_ref().unwrap().notified().await;
                sh.flush_dirty();
            }
        });
    }
    loop {
        match listener.accept().await {
            Ok((s, _)) => {
                let s = Rc::new(s);
                let id = sh.bus.borrow_mut().add(Stream(s.clone()));
                spawn_local(reader(sh.clone(), id, s));
            }
            Err(e) => { eprintln!("accept: {e}"); yield_now().await }
        }
    }
}

fn main() -> io::Result<()> {
    let mut args = std::env::args().skip(1);
    let path = args.next().expect("PATH");
    let task = args.next().as_deref() == Some("task");
    let _ = std::fs::remove_file(&path);
    let rt = Builder::new_current_thread().enable_io().build_local(LocalOptions::default())?;
    rt.block_on(serve(path, task))
}

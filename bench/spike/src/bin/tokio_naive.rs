//! Spike: the bus as one would write it at first on tokio: a reader and a writer task per connection, an mpsc between.
//! Still one thread (current-thread runtime) and one Rc<RefCell> name table; the writer batches what is queued.
//! Usage: tokio_naive PATH
use spike::{Ask, Fields, REPLY};
use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::rc::Rc;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::spawn_local;

type Frame = Rc<[u8]>;

#[derive(Default)]
struct Shared {
    names: RefCell<HashMap<Vec<u8>, UnboundedSender<Frame>>>,
    fields: Fields,
}

async fn read_frames(sh: &Shared, r: OwnedReadHalf, tx: UnboundedSender<Frame>, mine: &mut Option<Vec<u8>>) -> io::Result<()> {
    let mut r = BufReader::with_capacity(64 << 10, r);
    let mut f = vec![];
    loop {
        let n = r.read_u32().await?;
        f.clear();
        f.extend(n.to_be_bytes());
        f.resize(4 + n as usize, 0);
        r.read_exact(&mut f[4..]).await?;
        match sh.fields.ask(&f[4..]) {
            Ask::Register(name) => {
                sh.names.borrow_mut().insert(name.to_vec(), tx.clone());
                *mine = Some(name.to_vec());
                let _ = tx.send(REPLY.into());
            }
            Ask::Message(b"") => {
                let f: Frame = f.as_slice().into();
                for t in sh.names.borrow().values() { let _ = t.send(f.clone()); }
            }
            Ask::Message(to) => if let Some(t) = sh.names.borrow().get(to) { let _ = t.send(f.as_slice().into()); },
            Ask::Other => {}
        }
    }
}

async fn reader(sh: Rc<Shared>, r: OwnedReadHalf, tx: UnboundedSender<Frame>) {
    let mut mine = None;
    let _ = read_frames(&sh, r, tx, &mut mine).await;
    if let Some(n) = mine { sh.names.borrow_mut().remove(&n); }
}

async fn writer(mut w: OwnedWriteHalf, mut rx: UnboundedReceiver<Frame>) {
    let mut out = vec![];
    while let Some(f) = rx.recv().await {
        out.extend_from_slice(&f);
        while out.len() < 64 << 10 && let Ok(f) = rx.try_recv() { out.extend_from_slice(&f); }
        if w.write_all(&out).await.is_err() { return }
        out.clear();
    }
}

async fn serve(path: String) -> io::Result<()> {
    let listener = UnixListener::bind(&path)?;
    let sh = Rc::new(Shared::default());
    loop {
        let (s, _): (UnixStream, _) = listener.accept().await?;
        let (r, w) = s.into_split();
        let (tx, rx) = unbounded_channel();
        spawn_local(reader(sh.clone(), r, tx));
        spawn_local(writer(w, rx));
    }
}

fn main() -> io::Result<()> {
    let path = std::env::args().nth(1).expect("PATH");
    let _ = std::fs::remove_file(&path);
    let rt = Builder::new_current_thread().enable_io().build_local(LocalOptions::default())?;
    rt.block_on(serve(path))
}

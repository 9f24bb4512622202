//! Routing shared by the mio and tokio spikes: decoder, crude field extraction, names, output buffers.
//! Knows nothing of event loops: a driver hands it bytes (`ingest`) and flushes what became dirty (`flush`).
//! No validation and no bound on what a slow receiver may pile up: this is a measurement, not a daemon.
use memchr::memmem::Finder;
use std::collections::HashMap;
use std::io;

/// How much one turn may read from one connection.
pub const READ: usize = 256 << 10;
/// Buffers above this capacity are freed rather than reused.
const KEEP: usize = 32 << 20;
/// The answer to a registration, with its length in front.
pub const REPLY: &[u8] = b"\0\0\0\x15{\"type\":\"registered\"}";

/// The non-blocking write of a driver's stream.
pub trait Sink {
    fn try_send(&self, b: &[u8]) -> io::Result<usize>;
}

#[derive(PartialEq, Debug)]
pub enum Flushed {
    Done,
    Blocked,
    Dead,
}

pub struct Conn<S> {
    pub stream: S,
    name: Option<Vec<u8>>,
    partial: Vec<u8>,
    out: Vec<u8>,
    sent: usize,
    dirty: bool,
    /// The driver waits for writability: a new frame does not make the connection dirty again.
    pub blocked: bool,
}

pub struct Bus<S> {
    pub conns: Vec<Option<Conn<S>>>,
    free: Vec<usize>,
    names: HashMap<Vec<u8>, usize>,
    pub dirty: Vec<usize>,
    spare: Vec<Vec<u8>>,
    fields: Fields,
}

impl<S: Sink> Default for Bus<S> {
    fn default() -> Self {
        Bus { conns: vec![], free: vec![], names: HashMap::new(), dirty: vec![], spare: vec![], fields: Fields::default() }
    }
}

/// What a frame asks for.
pub enum Ask<'a> {
    Register(&'a [u8]),
    /// Empty: to everyone.
    Message(&'a [u8]),
    Other,
}

/// Crude extraction of the few fields that routing needs: the first match wins, nothing is unescaped.
pub struct Fields([Finder<'static>; 3]);
impl Default for Fields {
    fn default() -> Self {
        Fields(["\"type\":\"", "\"to\":\"", "\"endpoint\":\""].map(Finder::new))
    }
}
impl Fields {
    fn text<'a>(&self, i: usize, b: &'a [u8]) -> &'a [u8] {
        let Some(at) = self.0[i].find(b) else { return b"" };
        let rest = &b[at + self.0[i].needle().len()..];
        memchr::memchr(b'"', rest).map_or(b"", |n| &rest[..n])
    }
    pub fn ask<'a>(&self, body: &'a [u8]) -> Ask<'a> {
        match self.text(0, body) {
            b"register" => Ask::Register(self.text(2, body)),
            b"message" => Ask::Message(self.text(1, body)),
            _ => Ask::Other,
        }
    }
}

/// Length of the first whole frame (with its prefix), or how many bytes it will need.
pub fn frame(b: &[u8]) -> Result<usize, usize> {
    let Some(h) = b.first_chunk::<4>() else { return Err(4) };
    let need = 4 + u32::from_be_bytes(*h) as usize;
    if b.len() < need { Err(need) } else { Ok(need) }
}

impl<S: Sink> Bus<S> {
    pub fn next_id(&self) -> usize {
        self.free.last().copied().unwrap_or(self.conns.len())
    }

    pub fn add(&mut self, stream: S) -> usize {
        let conn = Conn { stream, name: None, partial: vec![], out: vec![], sent: 0, dirty: false, blocked: false };
        match self.free.pop() {
            Some(id) => { self.conns[id] = Some(conn); id }
            None => { self.conns.push(Some(conn)); self.conns.len() - 1 }
        }
    }

    /// Forgets a connection and hands back its stream, to be deregistered by the driver.
    pub fn remove(&mut self, id: usize) -> Option<S> {
        let c = self.conns.get_mut(id)?.take()?;
        self.free.push(id);
        if let Some(n) = c.name && self.names.get(&n) == Some(&id) { self.names.remove(&n); }
        Some(c.stream)
    }

    /// Routes every whole frame of what was read from `id`; keeps the rest for the next read.
    pub fn ingest(&mut self, id: usize, mut b: &[u8]) {
        let Some(c) = self.conns[id].as_mut() else { return };
        let mut part = std::mem::take(&mut c.partial);
        while !part.is_empty() {
            match frame(&part) {
                Ok(_) => { self.route(id, &part); part.clear(); }
                Err(need) => {
                    let k = (need - part.len()).min(b.len());
                    part.extend_from_slice(&b[..k]);
                    b = &b[k..];
                    if k == 0 { break; }
                }
            }
        }
        while let Ok(n) = frame(b) {
            self.route(id, &b[..n]);
            b = &b[n..];
        }
        part.extend_from_slice(b);
        if part.is_empty() { part = vec![]; }
        if let Some(c) = self.conns[id].as_mut() { c.partial = part; }
    }

    fn route(&mut self, from: usize, frame: &[u8]) {
        match self.fields.ask(&frame[4..]) {
            Ask::Register(name) => {
                self.names.insert(name.to_vec(), from);
                if let Some(c) = self.conns[from].as_mut() { c.name = Some(name.to_vec()); }
                self.push(from, REPLY);
            }
            Ask::Message(b"") => for to in self.names.values().copied().collect::<Vec<_>>() { self.push(to, frame) },
            Ask::Message(to) => if let Some(&to) = self.names.get(to) { self.push(to, frame) },
            Ask::Other => {}
        }
    }

    fn push(&mut self, to: usize, b: &[u8]) {
        let Some(c) = self.conns[to].as_mut() else { return };
        if c.out.capacity() == 0 { c.out = self.spare.pop().unwrap_or_default(); }
        c.out.extend_from_slice(b);
        if !c.dirty && !c.blocked { c.dirty = true; self.dirty.push(to); }
    }

    /// One write (two if the first was short, to learn whether the socket is full).
    pub fn flush(&mut self, id: usize) -> Flushed {
        let Some(c) = self.conns.get_mut(id).and_then(Option::as_mut) else { return Flushed::Done };
        c.dirty = false;
        while c.sent < c.out.len() {
            match c.stream.try_send(&c.out[c.sent..]) {
                Ok(n) => c.sent += n,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    // Under a steady flood the buffer never empties: without this it keeps every byte ever sent.
                    if c.sent > c.out.len() / 2 { c.out.drain(..c.sent); c.sent = 0; }
                    c.blocked = true;
                    return Flushed::Blocked;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Flushed::Dead,
            }
        }
        c.blocked = false;
        c.sent = 0;
        c.out.clear();
        let out = std::mem::take(&mut c.out);
        if out.capacity() <= KEEP && self.spare.len() < 16 { self.spare.push(out); }
        Flushed::Done
    }
}

//! What is queued for one connection, in order, as bytes ready for its socket.
//!
//! Small frames are copied one behind the other into chunks, so that a batch leaves in one slice.
//! Large bodies are shared between all their receivers. Frame boundaries are kept beside the bytes:
//! they tell what a write has handed over, what had not begun when a connection ended, and where a
//! write may stop.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::rc::Rc;
use alloc::vec::Vec;

use bytes::Bytes;
use hermes_bus_proto::listing::Level;

use crate::fate::Fate;
use crate::ledger::{Budget, UserKey};
use crate::parcel::Kept;
use crate::session::SessionKey;
use crate::storage::Sender;
use crate::time::Moment;
use crate::trace::TraceRef;

/// Chunks are filled up to this size.
const CHUNK_BYTES: usize = 64 * 1024;
/// Emptied chunks kept for the next batch.
const POOLED_CHUNKS_MAX: usize = 16;
/// What the bookkeeping of one queued frame costs.
pub(crate) const FRAME_OVERHEAD_BYTES: usize = size_of::<QueuedFrame>();
/// What the bookkeeping of one held message costs: [`Config::held_bytes_max`](crate::Config) counts it
/// for each, beside its frame. Public for those who check the router's sums.
pub const HELD_OVERHEAD_BYTES: usize = size_of::<LooseMessage>();
/// The bookkeeping of so many frames stays allocated when a queue is empty.
const KEPT_FRAMES_MAX: usize = 1024;
/// Bodies from this size on are shared instead of copied, where they can be.
pub(crate) const SHARE_BYTES_MIN: usize = 16 * 1024;
/// Whole frames up to this size leave in one write. Linux takes so much as one buffer, wholly or
/// not at all; so no write is cut inside a later frame's header, which some released clients read
/// with a single `recv(4)`.
const WRITE_BYTES: usize = 32 * 1024;

/// A large payload in the queues of one or more connections of one user, charged once.
pub(crate) struct Body {
    pub(crate) bytes: Bytes,
    pub(crate) user: UserKey,
}

impl Body {
    /// Charges the payload to its receivers' user.
    pub(crate) fn new(bytes: Bytes, user: UserKey, budget: &mut Budget) -> Rc<Self> {
        budget.charge(user, bytes.len());
        Rc::new(Body { bytes, user })
    }

    /// Gives up one reference; the last one refunds.
    pub(crate) fn release(self: Rc<Self>, budget: &mut Budget) {
        if let Some(body) = Rc::into_inner(self) {
            budget.refund(body.user, body.bytes.len());
        }
    }
}

enum Chunk {
    Copied(Vec<u8>),
    Shared { body: Rc<Body>, start: usize, end: usize },
}

impl Chunk {
    fn bytes(&self) -> &[u8] {
        match self {
            Chunk::Copied(bytes) => bytes,
            Chunk::Shared { body, start, end } => &body.bytes[*start..*end],
        }
    }
}

/// What a queued frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FrameKind {
    /// An answer or notice of the bus itself.
    Control,
    /// The place of a message that was withdrawn.
    Hole,
    /// A message for the endpoint.
    Message {
        provenance: Provenance,
        /// Its place in the order of all messages.
        seq: u64,
        /// Whether the session's books know more of it.
        is_tracked: bool,
    },
}

/// Where a message came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Provenance {
    /// The anonymous connection that sent it, while it may still wait for an answer.
    pub(crate) waiter: Option<SessionKey>,
    /// When its frame arrived.
    pub(crate) arrived: Moment,
    pub(crate) trace: TraceRef,
}

/// What is known of a message in a queue besides its bytes.
#[derive(Clone)]
pub(crate) struct Tracking {
    pub(crate) fate: Fate,
    /// When it is not wanted any more.
    pub(crate) deadline: Option<Moment>,
    /// Its row on disk.
    pub(crate) kept: Option<Kept>,
    pub(crate) payload_bytes: usize,
    /// How often it was handed over, this time included.
    pub(crate) deliveries: u32,
    /// Whether it becomes a dead letter if it fails.
    pub(crate) is_mourned: bool,
    /// Who sent it, and the `@group` or `#topic` that it came through, if the frame does not say so.
    pub(crate) origin: Option<Box<Origin>>,
}

/// What level 2 is told of where a message comes from.
#[derive(Clone, Debug)]
pub(crate) struct Origin {
    pub(crate) sender: Option<Sender>,
    pub(crate) via: Option<Box<str>>,
}

struct QueuedFrame {
    /// Header and payload.
    bytes: u32,
    /// What was charged for it, apart from a shared body.
    charged: u32,
    kind: FrameKind,
}

/// A message that was taken out of a queue again, header included.
#[derive(Clone)]
pub(crate) struct LooseMessage {
    pub(crate) seq: u64,
    pub(crate) frame: Bytes,
    pub(crate) provenance: Provenance,
    /// Who sent it, where that is known; not if it stands in the frame, which is one for level 2.
    pub(crate) sender: Option<Box<Sender>>,
    pub(crate) tracking: Option<Box<Tracking>>,
    /// The level that the frame is written for.
    pub(crate) level: Level,
    /// Whether the books of the session that it was queued for know of it.
    pub(crate) is_tracked: bool,
}

impl LooseMessage {
    /// Of an unknown sender, for level 1.
    pub(crate) fn new(seq: u64, frame: Bytes, provenance: Provenance) -> Self {
        let (sender, tracking) = (None, None);
        LooseMessage {
            seq,
            frame,
            provenance,
            sender,
            tracking,
            level: Level::One,
            is_tracked: false,
        }
    }

    /// Its bytes with their bookkeeping: what limits compare.
    pub(crate) fn load_bytes(&self) -> usize {
        self.frame.len() + HELD_OVERHEAD_BYTES
    }
}

/// Chunks waiting to be filled.
#[derive(Default)]
pub(crate) struct ChunkPool {
    free: Vec<Vec<u8>>,
}

impl ChunkPool {
    fn take(&mut self) -> Vec<u8> {
        self.free.pop().unwrap_or_default()
    }

    fn put(&mut self, mut chunk: Vec<u8>) {
        if self.free.len() < POOLED_CHUNKS_MAX && chunk.capacity() <= 2 * CHUNK_BYTES {
            chunk.clear();
            self.free.push(chunk);
        }
    }
}

/// Where memory comes from and who pays for it.
pub(crate) struct Account<'a> {
    pub(crate) pool: &'a mut ChunkPool,
    pub(crate) budget: &'a mut Budget,
    pub(crate) user: UserKey,
}

/// What a write has handed over.
#[derive(Default, Debug, PartialEq, Eq)]
pub(crate) struct HandedOver {
    pub(crate) messages: u64,
    pub(crate) bytes: u64,
}

/// One connection's queue.
#[derive(Default)]
pub(crate) struct Outbox {
    chunks: VecDeque<Chunk>,
    /// Bytes of the first chunk that are written already.
    chunk_written: usize,
    frames: VecDeque<QueuedFrame>,
    /// Bytes of the first frame that are written already.
    frame_written: usize,
    /// Frames ever queued, and those that are in the socket.
    frames_queued: u64,
    frames_done: u64,
    /// Marks behind the first up to the second are never reached: what they stood behind was taken out.
    taken: (u64, u64),
    /// Bytes ever queued.
    queued_until: u64,
    /// Bytes ever written.
    written_until: u64,
    control_bytes: usize,
    messages: usize,
    /// The most bytes that ever waited.
    peak_bytes: usize,
}

impl Outbox {
    pub(crate) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Bytes that wait to be written.
    pub(crate) fn bytes(&self) -> usize {
        (self.queued_until - self.written_until) as usize
    }

    /// Bytes that wait with their bookkeeping: what limits compare.
    pub(crate) fn load_bytes(&self) -> usize {
        self.bytes() + self.frames.len() * FRAME_OVERHEAD_BYTES
    }

    /// Bytes of the bus's own frames that wait, with their bookkeeping. They are not charged to the
    /// budget of messages.
    pub(crate) fn control_bytes(&self) -> usize {
        self.control_bytes
    }

    /// Messages that wait.
    pub(crate) fn messages(&self) -> usize {
        self.messages
    }

    /// The most bytes that ever waited.
    pub(crate) fn peak_bytes(&self) -> usize {
        self.peak_bytes
    }

    /// A mark behind everything that is queued now; see [`Outbox::is_written_to`].
    pub(crate) fn mark(&self) -> u64 {
        self.frames_queued
    }

    /// The mark behind the first frame that waits.
    pub(crate) fn mark_of_first(&self) -> u64 {
        self.frames_done + 1
    }

    /// Whether everything before the mark is in the socket.
    pub(crate) fn is_written_to(&self, mark: u64) -> bool {
        self.frames_done >= mark && !(self.taken.0 < mark && mark <= self.taken.1)
    }

    /// Whether the frame before the mark has begun to leave for the socket, or is there.
    pub(crate) fn has_begun(&self, mark: u64) -> bool {
        self.is_written_to(mark) || self.frames_done + 1 == mark && self.frame_written > 0
    }

    /// Queues a frame by copying its parts.
    #[inline]
    pub(crate) fn push_copy(&mut self, parts: &[&[u8]], kind: FrameKind, account: Account<'_>) {
        let bytes: usize = parts.iter().map(|part| part.len()).sum();
        let tail = self.tail(bytes, account.pool);
        for part in parts {
            tail.extend_from_slice(part);
        }
        self.end_frame(bytes, bytes, kind, account);
    }

    /// Queues a message whose payload is shared: header, payload up to `split`, `inserted`, the rest.
    pub(crate) fn push_shared(
        &mut self,
        header: [u8; 4],
        body: &Rc<Body>,
        split: usize,
        inserted: &[u8],
        kind: FrameKind,
        account: Account<'_>,
    ) {
        let (body_bytes, copied_bytes) = (body.bytes.len(), header.len() + inserted.len());
        self.tail(header.len(), account.pool).extend_from_slice(&header);
        if inserted.is_empty() {
            self.push_body(body, 0, body_bytes);
        } else {
            self.push_body(body, 0, split);
            self.tail(inserted.len(), account.pool).extend_from_slice(inserted);
            self.push_body(body, split, body_bytes);
        }
        self.end_frame(copied_bytes + body_bytes, copied_bytes, kind, account);
    }

    fn push_body(&mut self, body: &Rc<Body>, start: usize, end: usize) {
        self.chunks.push_back(Chunk::Shared { body: Rc::clone(body), start, end });
    }

    #[inline]
    fn end_frame(&mut self, bytes: usize, copied: usize, kind: FrameKind, account: Account<'_>) {
        let charged = match kind {
            FrameKind::Control | FrameKind::Hole => 0,
            FrameKind::Message { .. } => copied + FRAME_OVERHEAD_BYTES,
        };
        account.budget.charge(account.user, charged);
        self.frames_queued += 1;
        self.queued_until += bytes as u64;
        self.peak_bytes = self.peak_bytes.max(self.bytes());
        match kind {
            FrameKind::Control => self.control_bytes += bytes + FRAME_OVERHEAD_BYTES,
            FrameKind::Message { .. } => self.messages += 1,
            FrameKind::Hole => {}
        }
        let frame = QueuedFrame { bytes: bytes as u32, charged: charged as u32, kind };
        self.frames.push_back(frame);
    }

    /// A chunk with room for `bytes` more.
    #[inline]
    fn tail(&mut self, bytes: usize, pool: &mut ChunkPool) -> &mut Vec<u8> {
        let has_room = match self.chunks.back() {
            Some(Chunk::Copied(tail)) => tail.len() + bytes <= CHUNK_BYTES,
            _ => false,
        };
        if !has_room {
            self.chunks.push_back(Chunk::Copied(pool.take()));
        }
        match self.chunks.back_mut() {
            Some(Chunk::Copied(tail)) => tail,
            _ => unreachable!("the last chunk was just found or made to be a copied one"),
        }
    }

    /// The bytes of the next write: whole frames up to a size that the kernel takes as one, or one
    /// larger frame (the rest of it, if it is begun).
    pub(crate) fn next_write(&self) -> impl Iterator<Item = &[u8]> {
        let mut left = self.next_write_bytes();
        let mut skip = self.chunk_written;
        self.chunks.iter().map_while(move |chunk| {
            let bytes = &chunk.bytes()[core::mem::take(&mut skip)..];
            let bytes = &bytes[..bytes.len().min(left)];
            left -= bytes.len();
            (!bytes.is_empty()).then_some(bytes)
        })
    }

    fn next_write_bytes(&self) -> usize {
        // All of it in one write is the rule.
        if self.bytes() <= WRITE_BYTES {
            return self.bytes();
        }
        let mut bytes = 0;
        let mut until = 0;
        for frame in &self.frames {
            until += frame.bytes as usize;
            if bytes > 0 && until - self.frame_written > WRITE_BYTES {
                break;
            }
            bytes = until - self.frame_written;
        }
        bytes
    }

    /// Takes note that the socket took `bytes` of [`Outbox::next_write`]. `on_message` hears of each
    /// message that was handed over.
    pub(crate) fn written(
        &mut self,
        bytes: usize,
        account: Account<'_>,
        mut on_message: impl FnMut(Provenance, bool),
    ) -> HandedOver {
        self.written_until += bytes as u64;
        self.chunk_written += bytes;
        while let Some(first) = self.chunks.front()
            && first.bytes().len() <= self.chunk_written
        {
            self.chunk_written -= first.bytes().len();
            match self.chunks.pop_front() {
                Some(Chunk::Copied(chunk)) => account.pool.put(chunk),
                Some(Chunk::Shared { body, .. }) => body.release(account.budget),
                None => {}
            }
        }
        self.frame_written += bytes;
        let mut handed_over = HandedOver::default();
        let mut refund = 0;
        while let Some(first) = self.frames.front()
            && first.bytes as usize <= self.frame_written
        {
            self.frame_written -= first.bytes as usize;
            refund += first.charged as usize;
            self.frames_done += 1;
            match first.kind {
                FrameKind::Hole => {}
                FrameKind::Control => {
                    self.control_bytes -= first.bytes as usize + FRAME_OVERHEAD_BYTES;
                }
                FrameKind::Message { provenance, is_tracked, .. } => {
                    on_message(provenance, is_tracked);
                    self.messages -= 1;
                    handed_over.messages += 1;
                    handed_over.bytes += u64::from(first.bytes);
                }
            }
            self.frames.pop_front();
        }
        account.budget.refund(account.user, refund);
        self.give_back_memory();
        handed_over
    }

    /// A queue that was long once does not keep the memory for it.
    fn give_back_memory(&mut self) {
        if self.frames.is_empty() && self.frames.capacity() > KEPT_FRAMES_MAX {
            (self.frames, self.chunks) = (VecDeque::new(), VecDeque::new());
        }
    }

    /// Gives back memory that the last chunk has no use for, once the socket takes no more. Many
    /// receivers that do not read must not hold a large chunk each.
    pub(crate) fn trim(&mut self) {
        if let Some(Chunk::Copied(tail)) = self.chunks.back_mut()
            && tail.capacity() > 4 * tail.len()
        {
            tail.shrink_to_fit();
        }
    }

    /// Takes out every message that has not begun to be written. What is begun, and the bus's own
    /// frames, stay.
    pub(crate) fn take_unbegun(&mut self, account: Account<'_>) -> Vec<LooseMessage> {
        let Account { pool, budget, user } = account;
        let old = core::mem::take(self);
        let mut reader = ChunkReader { chunks: &old.chunks, chunk: 0, at: old.chunk_written };
        let mut loose = Vec::new();
        for (index, frame) in old.frames.iter().enumerate() {
            let written = if index == 0 { old.frame_written } else { 0 };
            let bytes = reader.read(frame.bytes as usize - written);
            match frame.kind {
                FrameKind::Message { provenance, seq, is_tracked } if written == 0 => {
                    let frame = Bytes::from(bytes);
                    loose.push(LooseMessage {
                        is_tracked,
                        ..LooseMessage::new(seq, frame, provenance)
                    });
                }
                kind => {
                    let account = Account { pool: &mut *pool, budget: &mut *budget, user };
                    self.push_copy(&[&bytes], kind, account);
                    self.restore_written(written);
                }
            }
        }
        self.take_counts_of(&old);
        // What is left gets new marks, and those given before are never reached.
        let is_first = old.taken == (0, 0);
        self.taken.0 = if is_first { old.frames_done } else { old.taken.0 };
        self.taken.1 = old.frames_queued;
        self.frames_done = old.frames_queued;
        self.frames_queued = old.frames_queued + self.frames.len() as u64;
        old.discard(Account { pool, budget, user });
        loose
    }

    /// Makes the one frame that is queued a frame whose first `written` bytes have left already.
    fn restore_written(&mut self, written: usize) {
        if written == 0 {
            return;
        }
        self.frame_written = written;
        if let Some(begun) = self.frames.back_mut() {
            begun.bytes += written as u32;
            if begun.kind == FrameKind::Control {
                self.control_bytes += written;
            }
        }
    }

    /// Takes out the messages for whose `seq` `is_wanted` is true, unless they have begun to be written.
    /// Their places stay, without bytes: no mark behind them moves.
    pub(crate) fn withdraw(
        &mut self,
        is_wanted: impl Fn(u64) -> bool,
        account: Account<'_>,
    ) -> Vec<LooseMessage> {
        let Account { pool, budget, user } = account;
        let is_begun = |index: usize| index == 0 && self.frame_written > 0;
        let is_it = |(index, frame): (usize, &QueuedFrame)| {
            let wanted = matches!(frame.kind, FrameKind::Message { seq, .. } if is_wanted(seq));
            wanted && !is_begun(index)
        };
        let mut withdrawn = Vec::new();
        if !self.frames.iter().enumerate().any(is_it) {
            return withdrawn;
        }
        let old = core::mem::take(self);
        let mut reader = ChunkReader { chunks: &old.chunks, chunk: 0, at: old.chunk_written };
        for (index, frame) in old.frames.iter().enumerate() {
            let written = if index == 0 { old.frame_written } else { 0 };
            let bytes = reader.read(frame.bytes as usize - written);
            if let FrameKind::Message { provenance, seq, .. } = frame.kind
                && written == 0
                && is_wanted(seq)
            {
                self.frames.push_back(QueuedFrame { bytes: 0, charged: 0, kind: FrameKind::Hole });
                withdrawn.push(LooseMessage::new(seq, Bytes::from(bytes), provenance));
                continue;
            }
            let account = Account { pool: &mut *pool, budget: &mut *budget, user };
            self.push_copy(&[&bytes], frame.kind, account);
            self.restore_written(written);
        }
        self.take_counts_of(&old);
        self.drop_holes();
        old.discard(Account { pool, budget, user });
        withdrawn
    }

    /// Goes on counting where another queue was.
    fn take_counts_of(&mut self, old: &Outbox) {
        self.peak_bytes = old.peak_bytes;
        self.frames_done = old.frames_done;
        self.taken = old.taken;
        self.written_until = old.written_until;
        self.queued_until += old.written_until;
        self.frames_queued = old.frames_done + self.frames.len() as u64;
    }

    /// Places without bytes at the front are passed.
    fn drop_holes(&mut self) {
        while self.frames.front().is_some_and(|first| first.kind == FrameKind::Hole) {
            self.frames.pop_front();
            self.frames_done += 1;
        }
    }

    /// Drops everything. Returns how many messages were lost, a begun one included.
    pub(crate) fn discard(self, account: Account<'_>) -> usize {
        for chunk in self.chunks {
            match chunk {
                Chunk::Copied(chunk) => account.pool.put(chunk),
                Chunk::Shared { body, .. } => body.release(account.budget),
            }
        }
        let charged = self.frames.iter().map(|frame| frame.charged as usize).sum();
        account.budget.refund(account.user, charged);
        self.messages
    }
}

/// Reads on through chunks.
struct ChunkReader<'a> {
    chunks: &'a VecDeque<Chunk>,
    chunk: usize,
    at: usize,
}

impl ChunkReader<'_> {
    fn read(&mut self, bytes: usize) -> Vec<u8> {
        let mut out = Vec::with_capacity(bytes);
        while out.len() < bytes {
            let rest = &self.chunks[self.chunk].bytes()[self.at..];
            let taken = rest.len().min(bytes - out.len());
            out.extend_from_slice(&rest[..taken]);
            self.at += taken;
            if taken == rest.len() {
                self.chunk += 1;
                self.at = 0;
            }
        }
        out
    }
}

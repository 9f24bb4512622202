//! Where senders write by themselves: past the session's task, as long as it has nothing to write.
//!
//! Frames leave whole and in order because of two rules. Whatever is in the queue, or with the session
//! and not wholly written, holds a [`Place`]; while there is one, nobody writes here. And a place is
//! given out only under the lock under which is written here.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::transport::WriteNow;

/// Shared by the senders and the session.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lane(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    /// `None` while there is no session, and where the transport has no such thing.
    socket: Mutex<Option<Box<dyn WriteNow>>>,
    places: Arc<AtomicUsize>,
}

/// Something that is to be written before everything that comes later.
#[derive(Debug)]
pub(crate) struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Release);
    }
}

/// What became of a frame.
#[derive(Debug)]
pub(crate) enum Written {
    All,
    /// So many bytes of it. The rest must be queued under the same lock.
    Begun(usize),
    /// It has to be queued.
    Nothing,
}

/// The lane, and nobody else in it.
pub(crate) struct Held<'l> {
    lane: &'l Lane,
    socket: MutexGuard<'l, Option<Box<dyn WriteNow>>>,
}

impl Lane {
    pub(crate) fn hold(&self) -> Held<'_> {
        // Nothing under this lock panics half-way.
        let socket = self.0.socket.lock().unwrap_or_else(PoisonError::into_inner);
        Held { lane: self, socket }
    }

    /// A place for a frame that is queued.
    pub(crate) fn queue_up(&self) -> Place {
        self.hold().queue_up()
    }

    /// A session began.
    pub(crate) fn open(&self, socket: Option<Box<dyn WriteNow>>) {
        *self.hold().socket = socket;
    }

    /// The session ended: from here on nobody writes to its socket.
    pub(crate) fn close(&self) {
        *self.hold().socket = None;
    }
}

impl Held<'_> {
    pub(crate) fn queue_up(&self) -> Place {
        let places = &self.lane.0.places;
        places.fetch_add(1, Ordering::Relaxed);
        Place(Arc::clone(places))
    }

    /// Writes a frame, if nothing waits before it.
    pub(crate) fn write(&self, frame: &[u8]) -> Written {
        let Some(socket) = &*self.socket else { return Written::Nothing };
        if self.lane.0.places.load(Ordering::Acquire) > 0 {
            return Written::Nothing;
        }
        loop {
            return match socket.write_now(frame) {
                Ok(0) => Written::Nothing,
                Ok(bytes) if bytes == frame.len() => Written::All,
                Ok(bytes) => Written::Begun(bytes),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                // What has broken, the session sees as well.
                Err(_) => Written::Nothing,
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::outbox::{Writing, outbox};
    use std::future::poll_fn;

    const PATIENCE: Duration = Duration::from_secs(5);

    /// A socket with so many bytes of room, and what was written to it.
    #[derive(Clone, Debug, Default)]
    struct Pipe(Arc<Mutex<(usize, Vec<u8>)>>);

    impl Pipe {
        fn with_room(bytes: usize) -> Self {
            Pipe(Arc::new(Mutex::new((bytes, Vec::new()))))
        }

        fn make_room(&self) {
            self.0.lock().unwrap().0 = usize::MAX;
        }

        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().1.clone()).unwrap()
        }
    }

    impl WriteNow for Pipe {
        fn write_now(&self, bytes: &[u8]) -> io::Result<usize> {
            let mut pipe = self.0.lock().unwrap();
            let taken = bytes.len().min(pipe.0);
            if taken == 0 {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            pipe.0 -= taken;
            pipe.1.extend_from_slice(&bytes[..taken]);
            Ok(taken)
        }
    }

    /// What the session writes goes to the same socket.
    async fn write_all(writing: &mut Writing, pipe: &Pipe) {
        while !writing.is_empty() {
            let mut written = Vec::new();
            poll_fn(|cx| writing.poll_write(cx, &mut written)).await.unwrap();
            pipe.0.lock().unwrap().1.extend_from_slice(&written);
        }
    }

    #[tokio::test]
    async fn a_sender_writes_by_itself_only_while_nothing_waits() {
        let (outbox, mut arrivals) = outbox();
        let (mut writing, pipe) = (Writing::default(), Pipe::with_room(usize::MAX));
        assert!(!outbox.begin(b"early ".to_vec(), PATIENCE).is_done(), "there is no session");
        arrivals.session_began(Some(Box::new(pipe.clone())));
        assert!(outbox.begin(b"one ".to_vec(), PATIENCE).is_done());
        writing.push_own(&mut arrivals, b"own ".to_vec());
        let two = outbox.begin(b"two ".to_vec(), PATIENCE);
        assert!(!two.is_done(), "it would overtake, or come into the middle of another frame");
        let two = tokio::spawn(two.finish());
        tokio::task::yield_now().await;
        assert!(!outbox.begin(b"never ".to_vec(), PATIENCE).is_done(), "and so would this");
        writing.gather(&mut arrivals);
        write_all(&mut writing, &pipe).await;
        two.await.unwrap().unwrap();
        assert!(outbox.begin(b"three".to_vec(), PATIENCE).is_done());
        assert_eq!(pipe.text(), "one own two three");
    }

    /// An acknowledgement of the session's own, or a later message, must not come into the middle.
    #[tokio::test]
    async fn what_a_sender_has_begun_the_session_completes_before_anything_else() {
        let (outbox, mut arrivals) = outbox();
        let (mut writing, pipe) = (Writing::default(), Pipe::with_room(4));
        arrivals.session_began(Some(Box::new(pipe.clone())));
        let begun = tokio::spawn(outbox.begin(b"message ".to_vec(), PATIENCE).finish());
        pipe.make_room();
        let later = tokio::spawn(outbox.begin(b"later".to_vec(), PATIENCE).finish());
        tokio::task::yield_now().await;
        writing.push_own(&mut arrivals, b"own ".to_vec());
        writing.gather(&mut arrivals);
        write_all(&mut writing, &pipe).await;
        assert_eq!(pipe.text(), "message own later");
        begun.await.unwrap().unwrap();
        later.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn what_was_begun_when_the_session_ended_goes_whole_to_the_next() {
        let (outbox, mut arrivals) = outbox();
        let (mut writing, pipe) = (Writing::default(), Pipe::with_room(4));
        arrivals.session_began(Some(Box::new(pipe.clone())));
        let begun = tokio::spawn(outbox.begin(b"message".to_vec(), PATIENCE).finish());
        writing.connection_ended(&mut arrivals);
        let next = Pipe::with_room(usize::MAX);
        arrivals.session_began(Some(Box::new(next.clone())));
        assert!(!outbox.begin(b"later".to_vec(), PATIENCE).is_done());
        write_all(&mut writing, &next).await;
        assert_eq!((pipe.text().as_str(), next.text().as_str()), ("mess", "message"));
        begun.await.unwrap().unwrap();
    }
}

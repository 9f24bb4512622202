//! The store, as the loop has it. Orders of the router go to it once a turn; its answers come back
//! when it wakes the loop.
//!
//! A store that cannot be opened keeps nobody from talking: the bus runs without it, refuses what
//! must be kept, says so, and tries again on a thread of its own as long as that can help.

use std::collections::VecDeque;
use std::fmt;
use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::mpsc::{self, Receiver, TryRecvError};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use hermes_bus_core::Histogram;
use hermes_bus_core::storage::{Answer, Order, Recovered, Ticket};
use hermes_bus_store::{
    CloseError, HistoryEntry, Notice, OpenError, Opened, Options, Retention, Store, Unavailable,
};
use mio::Waker;

use crate::config::Settings;
use crate::logging::target;
use crate::metrics::{self, Removed};
use crate::root::Root;

/// How long a store that could not be opened is left alone.
const AGAIN: Duration = Duration::from_secs(3);
/// How often the store is tried to be opened in a row.
const TRIES: u32 = 3;
/// How long it is left alone in between.
const BETWEEN_TRIES: Duration = Duration::from_millis(50);
/// How long the bus waits for the store before it begins without it.
const OPEN_PATIENCE: Duration = Duration::from_secs(4);
/// How long the last orders may take when the bus ends.
pub(crate) const CLOSE_PATIENCE: Duration = Duration::from_secs(2);
/// Submissions whose answers are waited for; of more than so many, how long they took is not known.
const SUBMISSIONS_MAX: usize = 100_000;

/// Wakes the loop, from any thread, as soon as there is a loop.
#[derive(Clone, Default)]
pub(crate) struct Wake(Arc<OnceLock<Arc<Waker>>>);

impl Wake {
    /// From now on this is what wakes the loop. It is woken at once: something may have come before.
    pub(crate) fn set(&self, waker: Arc<Waker>) {
        let _ = self.0.set(waker);
        self.wake();
    }

    pub(crate) fn wake(&self) {
        if let Some(waker) = self.0.get() {
            // What the system refuses now, the next turn finds all the same.
            let _ = waker.wake();
        }
    }
}

impl fmt::Debug for Wake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Wake")
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Storage {
    options: Options,
    wake: Wake,
    state: State,
    /// Orders of this turn.
    orders: Vec<(Ticket, Order)>,
    /// The last order of each submission that is not carried out yet, and when it was handed over.
    submitted: VecDeque<(Ticket, Instant)>,
    /// Why nothing can be written for now.
    trouble: Option<String>,
    tally: Tally,
}

#[derive(Debug)]
enum State {
    /// The configuration wants none.
    Off,
    Open(Store),
    Failed {
        why: String,
        /// When it is tried again; none if that cannot help.
        again_at: Option<Instant>,
    },
    /// It is tried again.
    Opening {
        why: String,
        result: Receiver<Result<Opened, OpenError>>,
    },
}

/// What was asked of the store so far, and how it went.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    /// Orders handed over.
    pub(crate) orders: u64,
    /// Orders of which it is not known yet that they are carried out.
    pub(crate) pending: u64,
    /// Messages that could not be kept.
    pub(crate) refused: u64,
    /// Times that orders were said to be on disk.
    pub(crate) commits: u64,
    /// What was let go of on disk.
    pub(crate) removed: Removed,
    /// From the handing over of orders until it was known that they are on disk.
    pub(crate) latency: Histogram,
    /// The last order that was handed over, and the last one that is carried out.
    last: Ticket,
    stored: Ticket,
}

/// How the store is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Health<'a> {
    /// The configuration wants none.
    Off,
    /// All is well.
    Open,
    /// It is open, but cannot be written for now.
    Trouble(&'a str),
    /// It could not be opened.
    Failed(&'a str),
}

impl<'a> Health<'a> {
    /// One word.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Health::Off => "off",
            Health::Open => "open",
            Health::Trouble(_) => "trouble",
            Health::Failed(_) => "failed",
        }
    }

    /// What is wrong.
    pub(crate) fn why(self) -> Option<&'a str> {
        match self {
            Health::Off | Health::Open => None,
            Health::Trouble(why) | Health::Failed(why) => Some(why),
        }
    }
}

/// What a store is opened with under this configuration.
fn options(root: &Root, settings: &Settings) -> Options {
    let mut options = Options::new(root.store_file());
    (options.dead_letters, options.history) = retention(settings);
    options.recent = settings.router.repetition_window;
    options.recent_max = settings.router.repetitions_max;
    options
}

/// How much is kept of dead letters and of history under this configuration.
fn retention(settings: &Settings) -> (Retention, Retention) {
    let store = &settings.store;
    let dead_letters =
        Retention { age: store.dead_letters_for, bytes: store.dead_letters_bytes_max };
    (dead_letters, Retention { age: store.history_for, bytes: store.history_bytes_max })
}

impl Storage {
    /// Opens the store, if there is to be one. The caller holds the root's lock. What the last process
    /// has left is for the router.
    pub(crate) fn open(
        root: &Root,
        settings: &Settings,
        now: Instant,
    ) -> (Self, Option<Recovered>) {
        let mut storage = Storage {
            options: options(root, settings),
            wake: Wake::default(),
            state: State::Off,
            orders: Vec::new(),
            submitted: VecDeque::new(),
            trouble: None,
            tally: Tally::default(),
        };
        if !settings.store.is_enabled {
            return (storage, None);
        }
        // An error of the system's is one of the opening.
        storage.state = storage.begin_to_open("it is still being looked through", now);
        let State::Opening { result, .. } = &storage.state else { return (storage, None) };
        match result.recv_timeout(OPEN_PATIENCE) {
            Ok(opened) => {
                let recovered = storage.take_over(opened, now);
                (storage, recovered)
            }
            Err(_) => {
                tracing::warn!(
                    target: target::STORE,
                    "the store is still being looked through: nothing is kept on disk until that is done"
                );
                (storage, None)
            }
        }
    }

    /// Opens the store on a thread of its own. Until it is open, `why` says why it is not.
    fn begin_to_open(&self, why: &str, now: Instant) -> State {
        let (done, result) = mpsc::channel();
        let (options, wake) = (self.options.clone(), self.wake.clone());
        let thread = thread::Builder::new().name("store opening".to_owned());
        let spawned = thread.spawn(move || {
            let _ = done.send(open(&options, &wake));
            wake.wake();
        });
        match spawned {
            Ok(_) => State::Opening { why: why.to_owned(), result },
            Err(error) => State::Failed {
                why: format!("{why}; no thread: {error}"),
                again_at: Some(now + AGAIN),
            },
        }
    }

    /// Has the loop woken from now on when there is something to take.
    pub(crate) fn wake_with(&self, waker: Arc<Waker>) {
        self.wake.set(waker);
    }

    fn take_over(&mut self, opened: Result<Opened, OpenError>, now: Instant) -> Option<Recovered> {
        let known = match &self.state {
            State::Opening { why, .. } => why.clone(),
            _ => String::new(),
        };
        match opened {
            Ok(Opened { store, recovered, set_aside }) => {
                if let Some(set_aside) = set_aside {
                    tracing::error!(target: target::STORE, "{set_aside}");
                }
                if recovered.unclean {
                    tracing::warn!(
                        target: target::STORE,
                        "the last bus did not end in good order: messages that it had handed over may \
                         come again"
                    );
                }
                self.trouble = None;
                // It may have been opened with what the configuration said before.
                store.retain(self.options.dead_letters, self.options.history);
                self.state = State::Open(store);
                Some(recovered)
            }
            Err(error) => {
                let can_help = !matches!(error, OpenError::TooNew { .. });
                let why = error.to_string();
                if known != why {
                    tracing::error!(
                        target: target::STORE,
                        "nothing is kept on disk, and what must be is refused: {why}"
                    );
                }
                let again_at = can_help.then(|| now + AGAIN);
                self.state = State::Failed { why, again_at };
                None
            }
        }
    }

    /// Tries again to open a store that could not be opened. When that has worked, what the last
    /// process has left is for the router.
    pub(crate) fn look(&mut self, now: Instant) -> Option<Recovered> {
        match &self.state {
            State::Off | State::Open(_) => None,
            State::Failed { again_at, .. } if again_at.is_none_or(|at| now < at) => None,
            State::Failed { why, .. } => {
                self.state = self.begin_to_open(why, now);
                None
            }
            State::Opening { why, result } => match result.try_recv() {
                Ok(opened) => self.take_over(opened, now),
                Err(TryRecvError::Empty) => None,
                Err(TryRecvError::Disconnected) => {
                    self.state = State::Failed { why: why.clone(), again_at: Some(now + AGAIN) };
                    None
                }
            },
        }
    }

    /// How long the loop may sleep until there is something to do here.
    pub(crate) fn due(&self, now: Instant) -> Option<Duration> {
        if !self.orders.is_empty() {
            return Some(Duration::ZERO);
        }
        match &self.state {
            State::Failed { again_at: Some(at), .. } => Some(at.saturating_duration_since(now)),
            _ => None,
        }
    }

    /// Whether orders are carried out.
    pub(crate) fn is_open(&self) -> bool {
        matches!(self.state, State::Open(_))
    }

    /// Where the database is or would be.
    pub(crate) fn file(&self) -> &Path {
        &self.options.path
    }

    /// What is measured of it; none where there is to be no store.
    pub(crate) fn measured(&self) -> Option<metrics::Store> {
        let health = self.health();
        (health != Health::Off).then(|| {
            let Tally { orders, pending, refused, commits, removed, latency, .. } = self.tally();
            metrics::Store {
                can_write: health == Health::Open,
                orders,
                pending,
                refused,
                commits,
                removed,
                latency,
                file: self.path().map(Path::to_owned),
                figures: None,
            }
        })
    }

    /// Where the database is, if it is open.
    pub(crate) fn path(&self) -> Option<&Path> {
        self.is_open().then_some(&self.options.path)
    }

    /// How the store is.
    pub(crate) fn health(&self) -> Health<'_> {
        match &self.state {
            State::Off => Health::Off,
            State::Failed { why, .. } | State::Opening { why, .. } => Health::Failed(why),
            State::Open(_) => self.trouble.as_deref().map_or(Health::Open, Health::Trouble),
        }
    }

    /// What was asked of the store so far.
    pub(crate) fn tally(&self) -> Tally {
        let pending = self.tally.last.0.saturating_sub(self.tally.stored.0);
        Tally { pending, ..self.tally.clone() }
    }

    /// Keeps as much of dead letters and history as a configuration that was read again says.
    pub(crate) fn reload(&mut self, settings: &Settings) {
        (self.options.dead_letters, self.options.history) = retention(settings);
        if let State::Open(store) = &self.state {
            store.retain(self.options.dead_letters, self.options.history);
        }
    }

    // ---- once a turn ------------------------------------------------------------------------------

    /// Takes an order of the router. It is handed over with the next [`Storage::submit`].
    pub(crate) fn order(&mut self, ticket: Ticket, order: Order) {
        self.orders.push((ticket, order));
    }

    /// Hands over the orders since the last time.
    pub(crate) fn submit(&mut self) {
        let Some((last, _)) = self.orders.last() else { return };
        let last = *last;
        let State::Open(store) = &self.state else {
            // The router knows that there is no store, and orders nothing.
            let orders = self.orders.drain(..).len();
            tracing::error!(target: target::STORE, "orders without a store: {orders}");
            return;
        };
        self.tally.orders += self.orders.len() as u64;
        self.tally.last = last;
        if self.submitted.len() < SUBMISSIONS_MAX {
            self.submitted.push_back((last, Instant::now()));
        }
        store.submit(self.orders.drain(..));
    }

    /// What the store has to say to the router. What it has to say to people is logged.
    pub(crate) fn take_answers(&mut self, now: Instant) -> Vec<Answer> {
        let State::Open(store) = &self.state else { return Vec::new() };
        for notice in store.take_notices() {
            self.tally.removed.note(&notice);
            log_notice(&notice);
        }
        let answers = store.take_answers();
        for answer in &answers {
            match answer {
                Answer::Stored(ticket) => {
                    self.tally.commits += 1;
                    self.tally.stored = *ticket;
                    while self.submitted.front().is_some_and(|(last, _)| last <= ticket) {
                        if let Some((_, at)) = self.submitted.pop_front() {
                            self.tally.latency.record(now.saturating_duration_since(at));
                        }
                    }
                }
                Answer::Refused { tickets, .. } => self.tally.refused += tickets.len() as u64,
                // The router has it logged.
                Answer::Trouble(why) => self.trouble.clone_from(why),
                Answer::Loaded { .. } | Answer::Overdue(_) | Answer::Buried(_) => {}
            }
        }
        answers
    }

    /// Records what was routed.
    pub(crate) fn record_history(&self, entries: Vec<HistoryEntry>) {
        if let State::Open(store) = &self.state
            && !entries.is_empty()
        {
            store.record_history(entries);
        }
    }

    /// Everything up to this order is on disk.
    pub(crate) fn stored(&self) -> Ticket {
        self.tally.stored
    }

    /// Removes dead letters behind all orders that were submitted, and says how many there were.
    pub(crate) fn remove_dead_letters(
        &self,
        numbers: Vec<u64>,
        done: impl FnOnce(Result<u64, Unavailable>) + Send + 'static,
    ) {
        match &self.state {
            State::Open(store) => store.remove_dead_letters(numbers, done),
            _ => done(Err(Unavailable("it is not open".to_owned()))),
        }
    }

    /// Carries out what was ordered, and closes the store in good order. Takes [`CLOSE_PATIENCE`] at
    /// most.
    pub(crate) fn close(&mut self, seq_next: u64) {
        self.submit();
        let State::Open(store) = std::mem::replace(&mut self.state, State::Off) else { return };
        match store.close(Some(seq_next), CLOSE_PATIENCE) {
            Ok(()) => {}
            Err(CloseError::Late) => tracing::error!(
                target: target::STORE,
                "the disk did not take the last orders in time; what was said to be stored is"
            ),
            Err(CloseError::Unavailable(why)) => tracing::error!(
                target: target::STORE,
                "the last orders could not be written ({why}); what was said to be stored is"
            ),
        }
    }
}

/// Opens the store. What has failed may work at once when it is tried again, as after one sync that
/// failed; a bus that begins without its store knows nobody and refuses much.
fn open(options: &Options, wake: &Wake) -> Result<Opened, OpenError> {
    for _ in 1..TRIES {
        match try_to_open(options, wake) {
            Err(OpenError::Failed { .. }) => thread::sleep(BETWEEN_TRIES),
            result => return result,
        }
    }
    try_to_open(options, wake)
}

fn try_to_open(options: &Options, wake: &Wake) -> Result<Opened, OpenError> {
    if let Some(directory) = options.path.parent() {
        make_directory(directory).map_err(|error| OpenError::Failed {
            path: options.path.clone(),
            why: format!("{}: {error}", directory.display()),
        })?;
    }
    let wake = wake.clone();
    Store::open(options.clone(), move || wake.wake())
}

/// Makes the store's directory in the root. Its name, and the root's, are on disk when this returns:
/// a loss of power would take all that is in it along otherwise. Whether an earlier process lived to
/// see to that is not known, so it is seen to each time.
fn make_directory(directory: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    // What the root lies in need not be ours to look into.
    for (above, named) in directory.ancestors().skip(1).take(2).enumerate() {
        match File::open(named).and_then(|named| named.sync_all()) {
            Err(error) if above > 0 && error.kind() == io::ErrorKind::PermissionDenied => {}
            synced => synced?,
        }
    }
    Ok(())
}

fn log_notice(notice: &Notice) {
    match notice.is_bad() {
        true => tracing::error!(target: target::STORE, "{notice}"),
        false => tracing::info!(target: target::STORE, "{notice}"),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use hermes_bus_core::storage::{Keep, Record, Sender};
    use hermes_bus_proto::EndpointName;
    use mio::{Events, Poll, Token};

    use super::*;

    /// A root of its own, and something to be woken.
    struct World {
        directory: tempfile::TempDir,
        root: Root,
        poll: Poll,
        waker: Arc<Waker>,
    }

    const PATIENCE: Duration = Duration::from_secs(20);

    impl World {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let root = Root::find(Some(directory.path())).unwrap();
            let poll = Poll::new().unwrap();
            let waker = Arc::new(Waker::new(poll.registry(), Token(0)).unwrap());
            World { directory, root, poll, waker }
        }

        fn open(&self) -> (Storage, Option<Recovered>) {
            let (storage, recovered) =
                Storage::open(&self.root, &Settings::default(), Instant::now());
            storage.wake_with(self.waker.clone());
            (storage, recovered)
        }

        /// Waits to be woken until something is found.
        fn wait<T>(&mut self, mut find: impl FnMut() -> Option<T>) -> T {
            let deadline = Instant::now() + PATIENCE;
            let mut events = Events::with_capacity(8);
            loop {
                if let Some(found) = find() {
                    return found;
                }
                let left = deadline.saturating_duration_since(Instant::now());
                assert!(!left.is_zero(), "it did not come");
                match self.poll.poll(&mut events, Some(left)) {
                    Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                        panic!("{error}")
                    }
                    _ => {}
                }
            }
        }
    }

    fn keep(seq: u64) -> Order {
        Order::Keep(Box::new(Record {
            seq,
            endpoint: EndpointName::level_1("worker").unwrap(),
            keep: Keep::Mailbox,
            payload: Bytes::from(format!("{{\"id\": \"m{seq}\", \"body\": \"text\"}}")),
            sender: Some(Sender { uid: 1, pid: 2, endpoint: None }),
            via: None,
            wanted: None,
            arrived_unix_us: 1_000_000,
            expires_unix_us: None,
            deliveries: 0,
        }))
    }

    #[test]
    fn what_was_ordered_is_there_after_a_close() {
        let mut world = World::new();
        let (mut storage, recovered) = world.open();
        assert_eq!(recovered.map(|recovered| recovered.waiting), Some(Vec::new()));
        assert_eq!(storage.health(), Health::Open);
        storage.order(Ticket(1), keep(1));
        storage.order(Ticket(2), keep(2));
        assert_eq!(storage.due(Instant::now()), Some(Duration::ZERO), "they are to be handed over");
        storage.submit();
        assert_eq!(storage.due(Instant::now()), None);
        world.wait(|| {
            storage.take_answers(Instant::now()).contains(&Answer::Stored(Ticket(2))).then_some(())
        });
        let tally = storage.tally();
        assert_eq!((tally.orders, tally.pending, tally.refused), (2, 0, 0));
        assert!(tally.commits >= 1 && tally.latency.buckets().map(|(_, n)| n).sum::<u64>() == 1);
        // The last orders are handed over and carried out by closing.
        storage.order(Ticket(3), keep(3));
        storage.close(1);
        let (_, recovered) = world.open();
        let recovered = recovered.unwrap();
        assert_eq!(recovered.waiting.iter().map(|w| w.messages).sum::<u64>(), 3);
        assert!(!recovered.unclean, "it was closed in good order");
    }

    #[test]
    fn the_database_is_for_its_user_alone() {
        use std::os::unix::fs::MetadataExt;
        let world = World::new();
        let (storage, _) = world.open();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().mode() & 0o777;
        assert_eq!(mode(storage.file()), 0o600);
        assert_eq!(mode(storage.file().parent().unwrap()), 0o700);
    }

    #[test]
    fn a_store_in_use_is_opened_as_soon_as_it_is_free() {
        let mut world = World::new();
        let (mut first, _) = world.open();
        let now = Instant::now();
        let (mut second, recovered) = world.open();
        assert_eq!(recovered, None);
        assert!(matches!(second.health(), Health::Failed(why) if why.contains("in use")));
        assert!(second.due(now).is_some_and(|due| due <= AGAIN + Duration::from_secs(1)));
        assert_eq!(second.look(now), None, "it is too early");
        assert_eq!(second.due(now + 2 * AGAIN), Some(Duration::ZERO));
        first.close(1);
        let later = now + 2 * AGAIN;
        let recovered = world.wait(|| second.look(later));
        assert!(recovered.waiting.is_empty() && second.is_open());
        assert_eq!(second.look(later), None, "once is enough");
    }

    #[test]
    fn without_a_place_for_it_the_bus_goes_on_without_a_store() {
        let mut world = World::new();
        let in_the_way = world.directory.path().join("hermes-bus");
        std::fs::write(&in_the_way, "").unwrap();
        let (mut storage, recovered) = world.open();
        assert_eq!(recovered, None);
        assert!(matches!(storage.health(), Health::Failed(_)) && storage.path().is_none());
        // As soon as the place is free, it can be opened.
        std::fs::remove_file(&in_the_way).unwrap();
        let later = Instant::now() + 2 * AGAIN;
        world.wait(|| storage.look(later));
        assert_eq!(storage.health(), Health::Open);
    }

    #[test]
    fn a_store_that_is_switched_off_is_never_opened() {
        let world = World::new();
        let mut settings = Settings::default();
        settings.store.is_enabled = false;
        let now = Instant::now();
        let (mut storage, recovered) = Storage::open(&world.root, &settings, now);
        assert_eq!((recovered, storage.health()), (None, Health::Off));
        assert_eq!((storage.look(now + 2 * AGAIN), storage.due(now)), (None, None));
        assert!(!storage.file().exists() && storage.measured().is_none());
    }
}

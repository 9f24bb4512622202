//! Failures on order, and what the thread makes of them.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use bytes::Bytes;
use hermes_bus_core::storage::{Answer, Ending, Keep, Order, Record, Sender, SpillEnd, Ticket};
use hermes_bus_proto::control::Status;
use hermes_bus_proto::{EndpointName, ErrorCode};
use rusqlite::ffi::{SQLITE_IOERR_FSYNC, SQLITE_READONLY};

use crate::{CloseError, Opened, Options, Page, Store};

/// What every commit of a database comes to: an error code while there is one.
#[derive(Clone, Default)]
pub(crate) struct Faults(Arc<Mutex<Option<i32>>>);

static ALL: LazyLock<Mutex<HashMap<PathBuf, Faults>>> = LazyLock::new(Mutex::default);

impl Faults {
    pub(crate) fn of(path: &Path) -> Self {
        ALL.lock().unwrap().entry(path.to_owned()).or_default().clone()
    }

    pub(crate) fn strike(&self) -> rusqlite::Result<()> {
        (*self.0.lock().unwrap()).map_or(Ok(()), |code| {
            Err(rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(code), None))
        })
    }

    fn set(&self, code: Option<i32>) {
        *self.0.lock().unwrap() = code;
    }
}

struct World {
    store: Store,
    woken: Receiver<()>,
    answers: Vec<Answer>,
    ticket: u64,
}

impl World {
    fn open(path: &Path) -> Self {
        let (wake, woken) = channel();
        let options = Options { retry: Duration::from_millis(5), ..Options::new(path) };
        let Opened { store, .. } = Store::open(options, move || {
            let _ = wake.send(());
        })
        .unwrap();
        World { store, woken, answers: Vec::new(), ticket: 0 }
    }

    fn submit(&mut self, orders: impl IntoIterator<Item = Order>) -> Ticket {
        let orders = orders.into_iter().map(|order| {
            self.ticket += 1;
            (Ticket(self.ticket), order)
        });
        self.store.submit(orders);
        Ticket(self.ticket)
    }

    fn wait_for(&mut self, is_it: impl Fn(&Answer) -> bool) -> Vec<Answer> {
        loop {
            self.answers.extend(self.store.take_answers());
            if let Some(at) = self.answers.iter().position(&is_it) {
                return self.answers.drain(..=at).collect();
            }
            self.woken.recv_timeout(Duration::from_secs(60)).unwrap();
        }
    }

    fn stored(&mut self, orders: impl IntoIterator<Item = Order>) {
        let ticket = self.submit(orders);
        self.wait_for(|answer| matches!(answer, Answer::Stored(stored) if *stored >= ticket));
    }

    fn loaded(&mut self) -> Vec<(u64, u32)> {
        self.submit([load()]);
        match self.wait_for(|answer| matches!(answer, Answer::Loaded { .. })).pop() {
            Some(Answer::Loaded { records, .. }) => {
                records.iter().map(|record| (record.seq, record.deliveries)).collect()
            }
            other => panic!("{other:?}"),
        }
    }

    /// The dead letters, the oldest first.
    fn buried(&self) -> Vec<u64> {
        let all = Page { rows_max: usize::MAX, bytes_max: usize::MAX };
        let letters = self.store.reader().unwrap().dead_letters(None, all).unwrap();
        letters.iter().rev().map(|dead| dead.letter.record.seq).collect()
    }
}

fn name() -> EndpointName {
    EndpointName::level_2("a").unwrap()
}

fn keep_as(seq: u64, keep: Keep) -> Order {
    Order::Keep(Box::new(Record {
        seq,
        endpoint: name(),
        keep,
        payload: Bytes::from_static(b"{\"type\": \"message\", \"to\": \"a\"}"),
        sender: Some(Sender { uid: 1, pid: 1, endpoint: None }),
        via: None,
        wanted: Some(Status::Stored),
        arrived_unix_us: 1,
        expires_unix_us: None,
        deliveries: 0,
    }))
}

fn keep(seq: u64) -> Order {
    keep_as(seq, Keep::Mailbox)
}

fn release(seqs: &[u64]) -> Order {
    Order::Release { endpoint: name(), seqs: seqs.to_vec(), ending: Ending::Acked }
}

fn end_spilled() -> Order {
    Order::EndSpilled(Box::new(SpillEnd {
        endpoint: name(),
        reason: ErrorCode::ReceiverGone,
        detail: String::new(),
        died_unix_us: crate::writer::now_unix_us(),
    }))
}

fn load() -> Order {
    Order::Load { endpoint: name(), from: 0, messages_max: 1_000, bytes_max: usize::MAX }
}

#[test]
fn while_the_disk_fails_new_messages_are_refused_and_all_else_holds() {
    for code in [SQLITE_IOERR_FSYNC, SQLITE_READONLY] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store.db");
        let mut world = World::open(&path);
        world.stored((1..=4).map(keep).chain([keep_as(5, Keep::Spill)]));
        let faults = Faults::of(&path);
        faults.set(Some(code));
        let first = world.submit([keep(6), release(&[1])]);
        let answers = world.wait_for(|answer| matches!(answer, Answer::Refused { .. }));
        assert!(
            matches!(answers[..], [Answer::Trouble(Some(_)), Answer::Refused { .. }]),
            "{answers:?}"
        );
        let refused = |answers: &[Answer]| match answers.last() {
            Some(Answer::Refused { tickets, .. }) => tickets.clone(),
            other => panic!("{other:?}"),
        };
        assert_eq!(refused(&answers), [Ticket(first.0 - 1)]);
        // What was ordered holds for all who read, written or not.
        let delivered = Order::Delivered { endpoint: name(), seq: 3, deliveries: 9 };
        let second = world.submit([delivered, keep(7), keep(8), release(&[8]), end_spilled()]);
        let answers = world.wait_for(|answer| matches!(answer, Answer::Refused { .. }));
        assert_eq!(refused(&answers), [Ticket(second.0 - 3)]);
        assert_eq!(world.loaded(), [(2, 0), (3, 9), (4, 0)]);
        let (tell, told) = channel();
        world.store.remove_dead_letters(vec![1], move |result| tell.send(result).unwrap());
        assert!(told.recv_timeout(Duration::from_secs(60)).unwrap().is_err());
        // Nothing is said to be stored meanwhile.
        world.answers.extend(world.store.take_answers());
        let stored = |answer: &Answer| matches!(answer, Answer::Stored(_) | Answer::Trouble(_));
        assert!(!world.answers.iter().any(stored), "{:?}", world.answers);
        faults.set(None);
        let answers = world.wait_for(|answer| *answer == Answer::Trouble(None));
        assert!(answers.contains(&Answer::Stored(Ticket(world.ticket))), "{answers:?}");
        assert!(answers.contains(&Answer::Buried(1)), "what was spilled ends when it can");
        assert_eq!(world.buried(), [5]);
        world.stored([keep(9)]);
        assert_eq!(world.loaded(), [(2, 0), (3, 9), (4, 0), (9, 0)]);
        world.store.close(None, Duration::from_secs(60)).unwrap();
        assert_eq!(World::open(&path).loaded(), [(2, 0), (3, 9), (4, 0), (9, 0)]);
    }
}

#[test]
fn a_store_that_ends_in_trouble_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.db");
    let mut world = World::open(&path);
    world.stored([keep(1)]);
    let faults = Faults::of(&path);
    faults.set(Some(SQLITE_IOERR_FSYNC));
    world.submit([release(&[1])]);
    let result = world.store.close(None, Duration::from_secs(60));
    assert!(matches!(result, Err(CloseError::Unavailable(_))), "{result:?}");
    faults.set(None);
    // The release was never said to be stored.
    assert_eq!(World::open(&path).loaded(), [(1, 1)]);
}

#[test]
fn orders_of_any_kind_come_to_the_same_whether_in_one_commit_or_in_many() {
    let mut random = 7u64;
    let mut draw = |below: u64| {
        // Knuth's constants.
        random =
            random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % below
    };
    let directory = tempfile::tempdir().unwrap();
    let (one, many) = (directory.path().join("one.db"), directory.path().join("many.db"));
    let (mut one, mut many) = (World::open(&one), World::open(&many));
    let mut seq = 0;
    for _ in 0..40 {
        let orders: Vec<Order> = (0..draw(30))
            .map(|_| match draw(10) {
                0..=4 => {
                    seq += 1;
                    keep_as(seq, [Keep::Mailbox, Keep::Queued, Keep::Spill][draw(3) as usize])
                }
                5 | 6 => {
                    let seqs: HashSet<u64> = (0..draw(8)).map(|_| draw(seq + 1)).collect();
                    let mut seqs: Vec<u64> = seqs.into_iter().collect();
                    seqs.sort_unstable();
                    release(&seqs)
                }
                7 | 8 => Order::Delivered {
                    endpoint: name(),
                    seq: draw(seq + 1),
                    deliveries: draw(5) as u32,
                },
                _ if draw(4) == 0 => Order::Purge { endpoint: name(), from: 0, to: u64::MAX },
                _ => end_spilled(),
            })
            .collect();
        for order in orders.clone() {
            many.stored([order]);
        }
        one.stored(orders);
        assert_eq!((one.loaded(), one.buried()), (many.loaded(), many.buried()));
    }
    assert!(seq > 100 && one.buried().len() > 10);
}

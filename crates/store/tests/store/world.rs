//! A store in a directory of its own, and short ways to make messages.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hermes_bus_core::storage::{
    Answer, DeadLetter, Ending, Keep, Order, Record, Recovered, Sender, Ticket,
};
use hermes_bus_proto::control::Status;
use hermes_bus_proto::{EndpointName, ErrorCode};
use hermes_bus_store::{Notice, Opened, Options, Page, Reader, SetAside, Store};

/// Longer than anything here takes, however busy the machine is.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Everything at once.
pub(crate) const ALL: Page = Page { rows_max: usize::MAX, bytes_max: usize::MAX };

/// A directory for a database.
pub(crate) struct Place(tempfile::TempDir);

impl Place {
    pub(crate) fn new() -> Self {
        Place(tempfile::tempdir().unwrap())
    }

    pub(crate) fn directory(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.0.path().join("store.db")
    }

    pub(crate) fn options(&self) -> Options {
        Options { retry: Duration::from_millis(20), ..Options::new(self.path()) }
    }

    pub(crate) fn open(&self) -> World {
        World::open(self.options())
    }

    /// What kill -9 leaves: the files as they are at this moment.
    pub(crate) fn snapshot(&self) -> Place {
        let copy = Place::new();
        for suffix in ["", "-wal"] {
            let file = |place: &Place| {
                let mut name = place.path().into_os_string();
                name.push(suffix);
                PathBuf::from(name)
            };
            if file(self).exists() {
                std::fs::copy(file(self), file(&copy)).unwrap();
            }
        }
        copy
    }

    pub(crate) fn reader(&self) -> Reader {
        Reader::open(&self.path()).unwrap()
    }
}

/// An open store and what it has answered.
pub(crate) struct World {
    pub(crate) store: Store,
    pub(crate) recovered: Recovered,
    pub(crate) set_aside: Option<SetAside>,
    woken: Receiver<()>,
    ticket: u64,
    answers: Vec<Answer>,
    notices: Vec<Notice>,
}

impl World {
    pub(crate) fn open(options: Options) -> Self {
        let (wake, woken) = channel();
        let Opened { store, recovered, set_aside } = Store::open(options, move || {
            let _ = wake.send(());
        })
        .unwrap();
        let (answers, notices) = (Vec::new(), Vec::new());
        World { store, recovered, set_aside, woken, ticket: 0, answers, notices }
    }

    /// Submits orders in one piece. Returns the last ticket.
    pub(crate) fn submit(&mut self, orders: impl IntoIterator<Item = Order>) -> Ticket {
        let orders = orders.into_iter().map(|order| {
            self.ticket += 1;
            (Ticket(self.ticket), order)
        });
        self.store.submit(orders);
        Ticket(self.ticket)
    }

    /// Waits until `is_it` holds for an answer. Returns all answers up to then.
    pub(crate) fn wait_for(&mut self, mut is_it: impl FnMut(&Answer) -> bool) -> Vec<Answer> {
        loop {
            self.answers.extend(self.store.take_answers());
            if let Some(at) = self.answers.iter().position(&mut is_it) {
                return self.answers.drain(..=at).collect();
            }
            self.woken.recv_timeout(PATIENCE).unwrap();
        }
    }

    pub(crate) fn wait_for_notice(&mut self, is_it: impl Fn(&Notice) -> bool) -> Notice {
        loop {
            self.notices.extend(self.store.take_notices());
            if let Some(at) = self.notices.iter().position(&is_it) {
                return self.notices.remove(at);
            }
            self.woken.recv_timeout(PATIENCE).unwrap();
        }
    }

    /// Submits orders, and waits until they are stored. Returns the answers but for that.
    pub(crate) fn carry_out(&mut self, orders: impl IntoIterator<Item = Order>) -> Vec<Answer> {
        let ticket = self.submit(orders);
        let is_it = |answer: &Answer| matches!(answer, Answer::Stored(stored) if *stored >= ticket);
        let mut answers = self.wait_for(is_it);
        answers.retain(|answer| !matches!(answer, Answer::Stored(_)));
        answers
    }

    /// All that waits for an endpoint, as the router would load it.
    pub(crate) fn load(&mut self, endpoint: &str) -> Vec<Record> {
        let answers = self.carry_out([load(endpoint)]);
        let [Answer::Loaded { records, is_all: true, .. }] = &answers[..] else {
            panic!("{answers:?}");
        };
        records.clone()
    }

    pub(crate) fn loaded_seqs(&mut self, endpoint: &str) -> Vec<u64> {
        self.load(endpoint).iter().map(|record| record.seq).collect()
    }

    pub(crate) fn remove_dead(
        &self,
        numbers: &[u64],
    ) -> Result<u64, hermes_bus_store::Unavailable> {
        let (tell, told) = channel();
        self.store.remove_dead_letters(numbers.to_vec(), move |result| tell.send(result).unwrap());
        told.recv_timeout(PATIENCE).unwrap()
    }

    /// Ends in good order.
    pub(crate) fn close(self) {
        self.store.close(None, PATIENCE).unwrap();
    }
}

pub(crate) fn name(text: &str) -> EndpointName {
    EndpointName::level_2(text).unwrap()
}

pub(crate) fn now_unix_us() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros() as u64
}

/// A message for an endpoint, with a body.
pub(crate) fn record(seq: u64, endpoint: &str, body: &str) -> Record {
    let payload = format!(
        "{{\"type\": \"message\", \"to\": \"{endpoint}\", \"body\": {body}, \"id\": \"id-{seq}\"}}"
    );
    Record {
        seq,
        endpoint: name(endpoint),
        keep: Keep::Mailbox,
        payload: payload.into(),
        sender: Sender { uid: 1000, pid: 42, endpoint: Some(name("sender")) },
        via: None,
        wanted: Some(Status::Stored),
        arrived_unix_us: now_unix_us(),
        expires_unix_us: None,
        deliveries: 0,
    }
}

pub(crate) fn keep(seq: u64, endpoint: &str) -> Order {
    Order::Keep(Box::new(record(seq, endpoint, "\"hello\"")))
}

pub(crate) fn keep_record(record: &Record) -> Order {
    Order::Keep(Box::new(record.clone()))
}

pub(crate) fn release(endpoint: &str, seqs: impl IntoIterator<Item = u64>) -> Order {
    Order::Release {
        endpoint: name(endpoint),
        seqs: seqs.into_iter().collect(),
        ending: Ending::Acked,
    }
}

pub(crate) fn load(endpoint: &str) -> Order {
    Order::Load {
        endpoint: name(endpoint),
        from: 0,
        messages_max: usize::MAX,
        bytes_max: usize::MAX,
    }
}

pub(crate) fn letter(seq: u64, endpoint: &str, detail: &str) -> DeadLetter {
    DeadLetter {
        record: record(seq, endpoint, "\"a dead body\""),
        reason: ErrorCode::Rejected,
        detail: detail.to_owned(),
        died_unix_us: now_unix_us(),
    }
}

pub(crate) fn bury(letter: &DeadLetter) -> Order {
    Order::Bury(Box::new(letter.clone()))
}

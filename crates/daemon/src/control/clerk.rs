//! The clerk: looks things up on disk for the daemon's owner, on a thread of its own, one after the
//! other. What changes the router's books comes back to the routing thread as an [`Outcome`], which
//! does that part.
//!
//! Every look opens the database anew, so no connection lies open while nobody asks. A copy of the
//! whole database takes long; it has a thread for itself.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;

use hermes_bus_core::SessionKey;
use hermes_bus_core::storage::{Answer, Record, Ticket};
use hermes_bus_proto::{EndpointName, ErrorCode};
use hermes_bus_store::{
    Figures, NumberedDeadLetter, Page as Rows, Query, ReadError, Reader, Seen, Sorting, Unavailable,
};

use super::text::{self, Members, PAGE_BYTES_MAX, PAGE_ITEMS, PAGE_ITEMS_MAX, Page};
use super::trace::Question;
use super::{Asker, HistoryQuery, Look, Order as Wanted, Which};
use crate::logging::target;
use crate::metrics::{self, Snapshot};

/// Requests that wait for the clerk.
const WAITING_MAX: usize = 16;
/// Dead letters that are tried again or dropped in one step.
const LETTERS_AT_ONCE: usize = 256;

/// The clerk, as the routing thread has it.
#[derive(Debug)]
pub(crate) struct Clerk {
    jobs: Sender<Job>,
    /// Jobs that are not done with.
    waiting: Arc<AtomicUsize>,
    outcomes: Receiver<Outcome>,
    post: Post,
}

/// Where outcomes are handed in, from any thread. Never waits.
#[derive(Clone)]
pub(crate) struct Post {
    outcomes: Sender<Outcome>,
    wake: Arc<dyn Fn() + Send + Sync>,
}

impl std::fmt::Debug for Post {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Post").finish_non_exhaustive()
    }
}

impl Post {
    /// Hands in an outcome, and wakes the routing thread.
    pub(crate) fn send(&self, outcome: Outcome) {
        // Nobody may be there any more to hear of it.
        let _ = self.outcomes.send(outcome);
        (self.wake)();
    }
}

/// Something to look up.
#[derive(Debug)]
enum Job {
    /// `stored`: everything up to this order was on disk before.
    Look {
        asker: Asker,
        look: Look,
        path: PathBuf,
        stored: Ticket,
    },
    Letters {
        errand: Errand,
        path: PathBuf,
    },
    Metrics {
        asker: Asker,
        snapshot: Box<Snapshot>,
    },
    Trace {
        question: Question,
        id: String,
        path: PathBuf,
    },
}

/// What the routing thread is to do now.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// Give this frame to this session.
    Answer { key: SessionKey, frame: Vec<u8> },
    /// Add what only the routing thread knows of the store, and answer.
    Figures { asker: Asker, figures: Figures },
    /// Answer with what the router knows and with this.
    Traced { question: Question, seen: Vec<Seen> },
    /// Let go of these messages, seen when everything up to this order was on disk, and answer with
    /// these members.
    Drain {
        asker: Asker,
        endpoint: EndpointName,
        messages: Vec<Record>,
        as_of: Ticket,
        answer: Members,
    },
    /// Try these dead letters again or drop them, then go on with the errand if it has more.
    Letters { errand: Errand, letters: Vec<NumberedDeadLetter> },
    /// So many dead letters of the errand are gone now; go on with it, or answer.
    Removed { errand: Errand, removed: Result<u64, Unavailable> },
}

/// Dead letters are tried again or dropped, step by step.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Errand {
    pub(crate) asker: Asker,
    pub(crate) what: Deed,
    which: Which,
    /// The step begins behind this letter.
    after: Option<u64>,
    /// Nothing is behind this step.
    is_last: bool,
    /// Letters that are done with.
    pub(crate) done: u64,
    /// Letters whose messages have no place now, and why the last of them has none.
    pub(crate) refused: u64,
    pub(crate) why: Option<String>,
    /// Letters whose messages are on their way to the disk, with the orders that keep them.
    pub(crate) on_their_way: Vec<(Ticket, u64)>,
    /// Letters that may go now.
    pub(crate) may_go: Vec<u64>,
}

impl Errand {
    /// What the store says of the messages that are on their way. Says whether it has said it of all.
    pub(crate) fn hear(&mut self, answer: &Answer) -> bool {
        match answer {
            Answer::Stored(ticket) => {
                let is_kept = |(kept, _): &mut (Ticket, u64)| *kept <= *ticket;
                let kept = self.on_their_way.extract_if(.., is_kept).map(|(_, number)| number);
                self.may_go.extend(kept);
            }
            Answer::Refused { tickets, why } => {
                let before = self.on_their_way.len();
                self.on_their_way.retain(|(kept, _)| !tickets.contains(kept));
                let refused = before - self.on_their_way.len();
                self.refused += refused as u64;
                if refused > 0 {
                    self.why = Some(format!("{}: {why}", ErrorCode::StoreUnavailable));
                }
            }
            Answer::Loaded { .. } | Answer::Overdue(_) | Answer::Buried(_) | Answer::Trouble(_) => {
            }
        }
        self.on_their_way.is_empty()
    }
}

/// What is done with dead letters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Deed {
    Retry,
    Drop,
}

impl Clerk {
    /// Starts the thread. `wake` wakes the routing thread when there is an outcome.
    pub(crate) fn start(wake: impl Fn() + Send + Sync + 'static) -> std::io::Result<Self> {
        let (jobs, inbox) = mpsc::channel();
        let waiting = Arc::new(AtomicUsize::new(0));
        let own_waiting = waiting.clone();
        let (sender, outcomes) = mpsc::channel();
        let post = Post { outcomes: sender, wake: Arc::new(wake) };
        let own_post = post.clone();
        thread::Builder::new().name("clerk".to_owned()).spawn(move || {
            serve(&inbox, &own_waiting, &own_post);
        })?;
        Ok(Clerk { jobs, waiting, outcomes, post })
    }

    /// Has something looked up in the database at `path`. Never waits; refuses when too much waits
    /// already.
    pub(crate) fn look(
        &self,
        asker: Asker,
        look: Look,
        path: &Path,
        stored: Ticket,
    ) -> Result<(), Vec<u8>> {
        let path = path.to_owned();
        let errand = |what, which| Errand {
            asker: asker.clone(),
            what,
            which,
            after: None,
            is_last: false,
            done: 0,
            refused: 0,
            why: None,
            on_their_way: Vec::new(),
            may_go: Vec::new(),
        };
        let job = match look {
            Look::Backup { path: to } => {
                self.back_up(asker, path, to);
                return Ok(());
            }
            Look::Retry(which) => Job::Letters { errand: errand(Deed::Retry, which), path },
            Look::Drop(which) => Job::Letters { errand: errand(Deed::Drop, which), path },
            look => Job::Look { asker: asker.clone(), look, path, stored },
        };
        self.hand_in(job).map_err(|_| too_many(&asker))
    }

    /// Has looked up what stands on disk of a message whose id is this text. Never waits; gives the
    /// question back when too much waits already.
    pub(crate) fn trace(
        &self,
        question: Question,
        id: String,
        path: &Path,
    ) -> Result<(), Box<Question>> {
        let job = Job::Trace { question, id, path: path.to_owned() };
        self.hand_in(job).map_err(|job| match *job {
            Job::Trace { question, .. } => Box::new(question),
            _ => unreachable!("it is the job that was handed in"),
        })
    }

    /// Has a snapshot written down. Never waits.
    pub(crate) fn metrics(&self, asker: Asker, snapshot: Snapshot) -> Result<(), Vec<u8>> {
        let job = Job::Metrics { asker: asker.clone(), snapshot: Box::new(snapshot) };
        self.hand_in(job).map_err(|_| too_many(&asker))
    }

    fn hand_in(&self, job: Job) -> Result<(), Box<Job>> {
        if self.waiting.load(Ordering::Relaxed) >= WAITING_MAX {
            return Err(Box::new(job));
        }
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let _ = self.jobs.send(job);
        Ok(())
    }

    /// Goes on with an errand, or gives it back when it is done. Who has begun is not turned away.
    pub(crate) fn go_on(&self, errand: Errand, path: &Path) -> Result<(), Box<Errand>> {
        if errand.is_last {
            return Err(Box::new(errand));
        }
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let job = Job::Letters { errand, path: path.to_owned() };
        // The thread ends only when this value does.
        let _ = self.jobs.send(job);
        Ok(())
    }

    /// What has come since the last time.
    pub(crate) fn outcomes(&self) -> impl Iterator<Item = Outcome> {
        self.outcomes.try_iter()
    }

    /// Where outcomes are handed in that others have.
    pub(crate) fn post(&self) -> Post {
        self.post.clone()
    }

    fn back_up(&self, asker: Asker, path: PathBuf, to: PathBuf) {
        let post = self.post();
        let back_up = move |asker: &Asker| {
            if !to.is_absolute() {
                // The daemon's own directory is nobody's choice.
                let what = "field 'path' must be a whole path, from / on";
                return asker.refusal(ErrorCode::InvalidField, what);
            }
            match Reader::open(&path).and_then(|reader| reader.back_up(&to)) {
                Ok(bytes) => {
                    let mut answer = Members::default();
                    answer.value("path", to.display().to_string());
                    answer.value("bytes", bytes);
                    asker.result_text(&answer)
                }
                Err(error) => asker.refusal(ErrorCode::Rejected, &error.to_string()),
            }
        };
        let (key, own) = (asker.key, asker.clone());
        let thread = thread::Builder::new().name("backup".to_owned());
        let own_post = post.clone();
        let spawned = thread.spawn(move || {
            let frame = back_up(&own);
            own_post.send(Outcome::Answer { key, frame });
        });
        if let Err(error) = spawned {
            let frame = asker.refusal(ErrorCode::Rejected, &format!("no thread: {error}"));
            post.send(Outcome::Answer { key, frame });
        }
    }
}

fn too_many(asker: &Asker) -> Vec<u8> {
    asker.refusal(ErrorCode::OverLimit, "too many requests wait already; ask again")
}

// ---- the thread -------------------------------------------------------------------------------------

fn serve(jobs: &Receiver<Job>, waiting: &AtomicUsize, post: &Post) {
    while let Ok(job) = jobs.recv() {
        post.send(carry_out(job));
        waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

fn carry_out(job: Job) -> Outcome {
    let (asker, looked) = match job {
        Job::Look { asker, look, path, stored } => {
            let looked =
                Reader::open(&path).and_then(|reader| look_up(&reader, &asker, look, stored));
            (asker, looked)
        }
        Job::Letters { errand, path } => {
            let asker = errand.asker.clone();
            (asker, Reader::open(&path).and_then(|reader| next_letters(&reader, errand)))
        }
        Job::Metrics { asker, mut snapshot } => {
            snapshot.look_at_disk();
            let mut answer = Members::default();
            answer.value("text", metrics::render(&snapshot, metrics::Form::OpenMetrics));
            return Outcome::Answer { key: asker.key, frame: asker.result_text(&answer) };
        }
        Job::Trace { question, id, path } => {
            // What the router knows is an answer, too.
            let seen = Reader::open(&path).and_then(|reader| reader.trail(&id));
            let seen = seen.unwrap_or_else(|error| {
                tracing::warn!(target: target::STORE, "{error}");
                Vec::new()
            });
            return Outcome::Traced { question, seen };
        }
    };
    looked.unwrap_or_else(|error| {
        let frame = asker.refusal(ErrorCode::StoreUnavailable, &error.to_string());
        Outcome::Answer { key: asker.key, frame }
    })
}

fn look_up(
    reader: &Reader,
    asker: &Asker,
    look: Look,
    stored: Ticket,
) -> Result<Outcome, ReadError> {
    let answer =
        |members: Members| Outcome::Answer { key: asker.key, frame: asker.result_text(&members) };
    Ok(match look {
        Look::Figures => Outcome::Figures { asker: asker.clone(), figures: reader.figures()? },
        Look::Waiting { endpoint, after, limit } => {
            let (members, _) = waiting(reader, &endpoint, after, limit, |_| {})?;
            answer(members)
        }
        Look::Drain { endpoint, after, limit } => {
            let mut messages = Vec::new();
            let (mut members, more) = waiting(reader, &endpoint, after, limit, |record| {
                messages.push(record.clone());
            })?;
            members.value("more", more);
            let (asker, as_of, answer) = (asker.clone(), stored, members);
            Outcome::Drain { asker, endpoint, messages, as_of, answer }
        }
        Look::DeadLetters { endpoint, after, limit } => {
            answer(dead_letters(reader, endpoint.as_deref(), after, limit)?)
        }
        Look::DeadLetter { key } => match reader.dead_letter(key)? {
            Some(NumberedDeadLetter { number, letter }) => {
                answer(text::dead_whole(number, &letter))
            }
            None => no_letter(asker, key),
        },
        Look::History(query) => match history(reader, query)? {
            Ok(members) => answer(members),
            Err(what) => Outcome::Answer {
                key: asker.key,
                frame: asker.refusal(ErrorCode::InvalidField, what),
            },
        },
        Look::Backup { .. } | Look::Retry(_) | Look::Drop(_) => {
            unreachable!("these have a way of their own")
        }
    })
}

fn no_letter(asker: &Asker, key: u64) -> Outcome {
    let what = format!("there is no dead letter {key}");
    Outcome::Answer { key: asker.key, frame: asker.refusal(ErrorCode::Rejected, &what) }
}

/// How many items an answer has at most.
fn items_max(limit: Option<usize>) -> usize {
    limit.unwrap_or(PAGE_ITEMS).clamp(1, PAGE_ITEMS_MAX)
}

/// Messages that wait: an answer with as many as fit, and whether there are more.
fn waiting(
    reader: &Reader,
    endpoint: &EndpointName,
    after: Option<u64>,
    limit: Option<usize>,
    mut taken: impl FnMut(&Record),
) -> Result<(Members, bool), ReadError> {
    let (items_max, mut last) = (items_max(limit), after);
    let mut page = Page::default();
    let mut members = Members::default();
    'pages: loop {
        // One more than fits says whether there are more.
        let rows = Rows { rows_max: items_max + 1 - page.len(), bytes_max: PAGE_BYTES_MAX };
        let records = reader.messages(endpoint, last, rows)?;
        if records.is_empty() {
            members.page("messages", page);
            return Ok((members, false));
        }
        for record in records {
            if page.len() == items_max || !page.push(&text::waiting(&record)) {
                break 'pages;
            }
            last = Some(record.seq);
            taken(&record);
        }
    }
    members.page("messages", page);
    if let Some(last) = last {
        members.value("next", last);
    }
    Ok((members, true))
}

fn dead_letters(
    reader: &Reader,
    endpoint: Option<&str>,
    after: Option<u64>,
    limit: Option<usize>,
) -> Result<Members, ReadError> {
    let (items_max, mut last) = (items_max(limit), after);
    let mut page = Page::default();
    let mut members = Members::default();
    'pages: loop {
        let rows = Rows { rows_max: items_max + 1, bytes_max: PAGE_BYTES_MAX };
        let letters = reader.dead_letters(last, rows)?;
        if letters.is_empty() {
            members.page("dead", page);
            return Ok(members);
        }
        for NumberedDeadLetter { number, letter } in letters {
            let is_meant = endpoint.is_none_or(|name| letter.record.endpoint.as_str() == name);
            if is_meant && (page.len() == items_max || !page.push(&text::dead(number, &letter))) {
                break 'pages;
            }
            last = Some(number);
        }
    }
    members.page("dead", page);
    if let Some(last) = last {
        members.value("next", last);
    }
    Ok(members)
}

/// The next step of an errand.
fn next_letters(reader: &Reader, mut errand: Errand) -> Result<Outcome, ReadError> {
    let mut letters = Vec::new();
    if let Which::Key(key) = errand.which {
        let Some(letter) = reader.dead_letter(key)? else {
            return Ok(no_letter(&errand.asker, key));
        };
        letters.push(letter);
        errand.is_last = true;
        return Ok(Outcome::Letters { errand, letters });
    }
    while letters.is_empty() && !errand.is_last {
        let rows = Rows { rows_max: LETTERS_AT_ONCE, bytes_max: PAGE_BYTES_MAX };
        let found = reader.dead_letters(errand.after, rows)?;
        match found.last() {
            Some(last) => errand.after = Some(last.number),
            None => errand.is_last = true,
        }
        letters.extend(found.into_iter().filter(|found| match &errand.which {
            Which::Endpoint(name) => found.letter.record.endpoint.as_str() == name,
            Which::All | Which::Key(_) => true,
        }));
    }
    Ok(Outcome::Letters { errand, letters })
}

fn history(
    reader: &Reader,
    query: HistoryQuery,
) -> Result<Result<Members, &'static str>, ReadError> {
    let HistoryQuery { search, from, to, since, until, limit, after, order } = query;
    let after = match after.map(|after| after.parse()) {
        None => None,
        Some(Ok(after)) => Some(after),
        Some(Err(_)) => return Ok(Err("field 'after' must be the 'next' of an earlier answer")),
    };
    let micros = |seconds: f64| (seconds.max(0.0) * 1e6) as u64;
    let query = Query {
        text: search,
        from,
        to,
        since_unix_us: since.map(micros),
        until_unix_us: until.map(micros),
        order: match order {
            Wanted::Newest => Sorting::NewestFirst,
            Wanted::Oldest => Sorting::OldestFirst,
        },
        after,
        ..Query::default()
    };
    let rows = Rows { rows_max: items_max(limit), bytes_max: PAGE_BYTES_MAX };
    let (found, next) = reader.find(&query, rows)?;
    let mut page = Page::default();
    for entry in found {
        page.push_all(&text::found(&entry));
    }
    let mut members = Members::default();
    members.page("entries", page);
    if let Some(next) = next {
        members.value("next", next.to_string());
    }
    Ok(Ok(members))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use hermes_bus_core::storage::{
        Answer, DeadLetter, Keep, Order, Sender as MessageSender, Ticket,
    };
    use hermes_bus_store::{Depth, HistoryEntry, Opened, Options, Step, Store};
    use serde_json::{Value, json};

    use super::*;
    use crate::control::tests::{said, some_key};

    const PATIENCE: Duration = Duration::from_secs(20);

    /// A store with something in it, and a clerk.
    struct World {
        _directory: tempfile::TempDir,
        path: PathBuf,
        store: Store,
        woken: Receiver<()>,
        tickets: u64,
        clerk: Clerk,
    }

    impl World {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("store.db");
            let (wake, woken) = mpsc::channel();
            let options = Options::new(&path);
            let Opened { store, .. } = Store::open(options, move || {
                let _ = wake.send(());
            })
            .unwrap();
            let clerk = Clerk::start(|| {}).unwrap();
            World { _directory: directory, path, store, woken, tickets: 0, clerk }
        }

        fn carry_out(&mut self, orders: Vec<Order>) {
            let mut numbered = Vec::new();
            for order in orders {
                self.tickets += 1;
                numbered.push((Ticket(self.tickets), order));
            }
            self.store.submit(numbered);
            let last = Answer::Stored(Ticket(self.tickets));
            while !self.store.take_answers().contains(&last) {
                self.woken.recv_timeout(PATIENCE).expect("the store answers");
            }
        }

        fn outcome(&self) -> Outcome {
            self.clerk.outcomes.recv_timeout(PATIENCE).expect("the clerk is done in time")
        }

        fn look(&self, look: Look) -> Outcome {
            self.clerk.look(asker(), look, &self.path, Ticket(0)).unwrap();
            self.outcome()
        }

        fn answer(&self, look: Look) -> Value {
            match self.look(look) {
                Outcome::Answer { frame, .. } => said(&frame),
                other => panic!("{other:?}"),
            }
        }
    }

    fn asker() -> Asker {
        let payload = Bytes::from_static(br#"{"op": "history", "req": 1}"#);
        crate::control::read(some_key(), &payload).unwrap().0
    }

    fn name(name: &str) -> EndpointName {
        EndpointName::level_1(name).unwrap()
    }

    fn record(seq: u64, endpoint: &str, body: &str) -> Record {
        Record {
            seq,
            endpoint: name(endpoint),
            keep: Keep::Mailbox,
            payload: Bytes::from(
                json!({
                    "type": "message", "id": format!("m{seq}"), "to": endpoint, "from": "x",
                    "ts": 1.5, "body": body,
                })
                .to_string(),
            ),
            sender: Some(MessageSender { uid: 1, pid: 2, endpoint: None }),
            via: None,
            wanted: None,
            arrived_unix_us: 1_000_000 + seq,
            expires_unix_us: None,
            deliveries: 0,
        }
    }

    fn keep(seq: u64, endpoint: &str, body: &str) -> Order {
        Order::Keep(Box::new(record(seq, endpoint, body)))
    }

    fn bury(seq: u64, endpoint: &str) -> Order {
        Order::Bury(Box::new(DeadLetter {
            record: record(seq, endpoint, "dead"),
            reason: ErrorCode::Rejected,
            detail: "no".to_owned(),
            died_unix_us: now_unix_s() * 1_000_000,
        }))
    }

    /// What is long past is not kept long.
    fn now_unix_s() -> u64 {
        let unix = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        unix.unwrap().as_secs()
    }

    fn waiting(endpoint: &str, after: Option<u64>, limit: usize) -> Look {
        Look::Waiting { endpoint: name(endpoint), after, limit: Some(limit) }
    }

    fn seqs(answer: &Value) -> Vec<u64> {
        let messages = answer["messages"].as_array().unwrap();
        messages.iter().map(|message| message["seq"].as_u64().unwrap()).collect()
    }

    #[test]
    fn a_mailbox_is_shown_page_by_page_to_its_end() {
        let mut world = World::new();
        let orders = (1..=5).map(|seq| keep(seq, "a", "b")).chain([keep(6, "other", "c")]);
        world.carry_out(orders.collect());
        let first = world.answer(waiting("a", None, 2));
        assert_eq!((seqs(&first), &first["next"]), (vec![1, 2], &json!(2)));
        assert_eq!(first["messages"][0]["message"]["body"], "b");
        let second = world.answer(waiting("a", Some(2), 3));
        assert_eq!((seqs(&second), second.get("next")), (vec![3, 4, 5], None));
        assert_eq!(seqs(&world.answer(waiting("nobody", None, 3))), Vec::<u64>::new());
    }

    #[test]
    fn a_page_of_large_messages_has_few_of_them_and_none_is_left_out() {
        let mut world = World::new();
        let body = "x".repeat(PAGE_BYTES_MAX / 3);
        world.carry_out((1..=7).map(|seq| keep(seq, "a", &body)).collect());
        let (mut found, mut after) = (Vec::new(), None);
        for _ in 0..7 {
            let answer = world.answer(waiting("a", after, 100));
            let page = seqs(&answer);
            assert!((1..=3).contains(&page.len()), "{page:?}");
            found.extend(page);
            after = answer["next"].as_u64();
            if after.is_none() {
                break;
            }
        }
        assert_eq!(found, [1, 2, 3, 4, 5, 6, 7]);
    }

    #[test]
    fn draining_names_what_is_to_be_let_go_of_and_says_whether_there_is_more() {
        let mut world = World::new();
        world.carry_out((1..=3).map(|seq| keep(seq, "a", "b")).collect());
        let drain = |after, limit| Look::Drain { endpoint: name("a"), after, limit: Some(limit) };
        for (after, limit, expected, more) in [
            (None, 2, vec![1, 2], true),
            (None, 3, vec![1, 2, 3], false),
            (Some(1), 1, vec![2], true),
            (Some(2), 2, vec![3], false),
        ] {
            let Outcome::Drain { messages, answer, .. } = world.look(drain(after, limit)) else {
                panic!("a mailbox is drained")
            };
            let found: Vec<u64> = messages.iter().map(|message| message.seq).collect();
            assert_eq!(found, expected);
            let bytes = record(1, "a", "b").payload.len();
            assert!(messages.iter().all(|message| message.payload.len() == bytes));
            let answer: Value = serde_json::from_slice(&answer.into_object()).unwrap();
            assert_eq!((seqs(&answer), &answer["more"]), (expected.clone(), &json!(more)));
            assert_eq!(answer["next"].as_u64(), more.then(|| expected[expected.len() - 1]));
        }
    }

    #[test]
    fn dead_letters_are_listed_and_shown() {
        let mut world = World::new();
        world.carry_out(vec![bury(1, "a"), bury(2, "b"), bury(3, "a"), bury(4, "a")]);
        let list = |endpoint: Option<&str>, after: Option<u64>, limit| {
            let endpoint = endpoint.map(str::to_owned);
            let answer = world.answer(Look::DeadLetters { endpoint, after, limit: Some(limit) });
            let dead = answer["dead"].as_array().unwrap().clone();
            let ids: Vec<_> = dead.iter().map(|d| d["id"].as_str().unwrap().to_owned()).collect();
            (ids, answer["next"].as_u64(), dead)
        };
        let (ids, next, dead) = list(None, None, 10);
        assert_eq!((ids, next), (["m4", "m3", "m2", "m1"].map(str::to_owned).to_vec(), None));
        assert_eq!(dead[0]["reason"], "rejected");
        let (ids, next, _) = list(Some("a"), None, 2);
        assert_eq!(ids, ["m4", "m3"]);
        let (ids, next, _) = list(Some("a"), next, 2);
        assert_eq!((ids, next), (vec!["m1".to_owned()], None));
        let key = dead[3]["key"].as_u64().unwrap();
        assert_eq!(world.answer(Look::DeadLetter { key })["message"]["id"], "m1");
        let unknown = world.answer(Look::DeadLetter { key: 999_999 });
        assert_eq!((&unknown["code"], &unknown["req"]), (&json!("rejected"), &json!(1)));
    }

    #[test]
    fn an_errand_comes_by_every_letter_that_is_meant_once() {
        let mut world = World::new();
        let letters = 2 * LETTERS_AT_ONCE as u64 + 10;
        let orders = (1..=letters).map(|n| bury(n, if n % 2 == 0 { "even" } else { "odd" }));
        world.carry_out(orders.collect());
        for (which, expected) in
            [(Which::All, letters), (Which::Endpoint("odd".to_owned()), letters / 2)]
        {
            let mut numbers = Vec::new();
            let mut outcome = world.look(Look::Drop(which));
            loop {
                let Outcome::Letters { errand, letters } = outcome else { panic!("{outcome:?}") };
                assert_eq!(errand.what, Deed::Drop);
                numbers.extend(letters.iter().map(|letter| letter.number));
                match world.clerk.go_on(errand, &world.path) {
                    Ok(()) => outcome = world.outcome(),
                    Err(_) => break,
                }
            }
            let found = numbers.len() as u64;
            numbers.sort_unstable();
            numbers.dedup();
            assert_eq!((found, numbers.len() as u64), (expected, expected));
        }
    }

    #[test]
    fn one_letter_is_one_step() {
        let mut world = World::new();
        world.carry_out(vec![bury(1, "a")]);
        let outcome = world.look(Look::Retry(Which::Key(1)));
        let Outcome::Letters { errand, letters } = outcome else { panic!("{outcome:?}") };
        assert_eq!((errand.what, letters.len()), (Deed::Retry, 1));
        assert!(world.clerk.go_on(errand, &world.path).is_err(), "there is no further step");
        // One that is not there is not tried again in silence.
        for look in [Look::Retry(Which::Key(77)), Look::Drop(Which::Key(77))] {
            let answer = world.answer(look);
            assert_eq!(answer["code"], "rejected");
            assert_eq!(answer["detail"], "there is no dead letter 77");
        }
    }

    #[test]
    fn the_history_is_searched_and_paged() {
        let mut world = World::new();
        let begin_s = now_unix_s();
        let entry = |n: u64, to: &str| HistoryEntry {
            unix_us: (begin_s + n) * 1_000_000,
            payload: Bytes::from(
                json!({"id": format!("m{n}"), "to": to, "from": "x", "body": "b"}).to_string(),
            ),
            outcome: "accepted",
            depth: Depth::Message,
        };
        world.store.record_history((1..=5).map(|n| entry(n, "a")).chain([entry(6, "b")]).collect());
        // Behind a later order, the history is written too.
        world.carry_out(vec![keep(1, "z", "c")]);
        let ask = |query: HistoryQuery| {
            let answer = world.answer(Look::History(query));
            let entries = answer["entries"].as_array().unwrap().clone();
            let ids: Vec<String> =
                entries.iter().map(|e| e["id"].as_str().unwrap().to_owned()).collect();
            (ids, answer["next"].as_str().map(str::to_owned), entries)
        };
        let of_a = |after: Option<String>| HistoryQuery {
            to: Some("a".to_owned()),
            limit: Some(2),
            order: Wanted::Oldest,
            after,
            ..HistoryQuery::default()
        };
        let deadline = std::time::Instant::now() + PATIENCE;
        while ask(HistoryQuery::default()).0.len() < 7 {
            assert!(std::time::Instant::now() < deadline, "the history is written");
        }
        let (ids, next, entries) = ask(of_a(None));
        assert_eq!(ids, ["m1", "m2"]);
        assert_eq!(entries[0]["ts"], begin_s as f64 + 1.0);
        assert_eq!(
            (&entries[0]["outcome"], &entries[0]["place"]),
            (&json!("accepted"), &json!("history"))
        );
        let (ids, next, _) = ask(of_a(next));
        assert_eq!(ids, ["m3", "m4"]);
        assert_eq!(ask(of_a(next)).0, ["m5"]);
        let (since, until) = (Some(begin_s as f64 + 5.0), Some(begin_s as f64 + 6.5));
        let since = HistoryQuery { since, until, ..HistoryQuery::default() };
        assert_eq!(ask(since).0, ["m6", "m5"]);
        let strange = HistoryQuery { after: Some("zebra".to_owned()), ..HistoryQuery::default() };
        assert_eq!(world.answer(Look::History(strange))["code"], "invalid_field");
    }

    #[test]
    fn what_stands_on_disk_of_a_message_is_traced() {
        let mut world = World::new();
        world.carry_out(vec![keep(1, "a", "b")]);
        let question = Question { key: some_key(), id: Bytes::from_static(b"\"m1\""), req: None };
        world.clerk.trace(question, "m1".to_owned(), &world.path).unwrap();
        let Outcome::Traced { seen, .. } = world.outcome() else { panic!("a trace") };
        let steps: Vec<Step> = seen.iter().map(|one| one.step).collect();
        assert_eq!(steps, [Step::Accepted, Step::Stored]);
    }

    #[test]
    fn a_copy_of_the_database_has_everything_in_it() {
        let mut world = World::new();
        world.carry_out(vec![keep(1, "a", "b"), keep(2, "a", "c")]);
        let to = world.path.with_file_name("copy.db");
        let answer = world.answer(Look::Backup { path: to.clone() });
        assert!(answer["bytes"].as_u64() > Some(0), "{answer}");
        let copied = Reader::open(&to).unwrap().mailboxes().unwrap();
        assert_eq!(copied.iter().map(|mailbox| mailbox.messages).sum::<u64>(), 2);
        let again = world.answer(Look::Backup { path: to });
        assert_eq!(again["code"], "rejected", "what is there is not overwritten: {again}");
        let relative = world.answer(Look::Backup { path: "copy.db".into() });
        assert_eq!(relative["code"], "invalid_field");
    }

    #[test]
    fn a_database_that_cannot_be_read_is_an_answer_too() {
        let world = World::new();
        world.clerk.look(asker(), Look::Figures, Path::new("/nowhere/at all"), Ticket(0)).unwrap();
        let Outcome::Answer { frame, .. } = world.outcome() else { panic!("an answer") };
        assert_eq!(said(&frame)["code"], "store_unavailable");
    }
}

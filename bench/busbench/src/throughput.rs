//! How many messages go through: 1→1, n→1, pairs, and 1→n as broadcast or topic.
//!
//! A sender writes up to 64 KiB at a time and is at most `window` bytes ahead of its receivers, since NATS, Redis and
//! mosquitto do not make a sender wait, but drop what a slow receiver leaves, or its connection. Up to four senders and
//! receivers have a thread each, as they would be processes of their own; more are served by one thread on each side.
use crate::conn::{Conn, Proto};
use crate::message::{json, Batch};
use crate::{arguments, machine, sock, Job};
use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

const THREADS_MAX: u64 = 4;
/// Until subscriptions are known everywhere in a broker.
const SETTLING: Duration = Duration::from_millis(200);

/// Messages that one receiver has got; on a cache line of its own.
#[repr(align(128))]
#[derive(Default)]
struct Got(AtomicU64);
type Books = Arc<Vec<Got>>;

struct Receiver {
    conn: Conn,
    number: usize,
    expected: u64,
}

struct Sender {
    conn: Conn,
    batch: Batch,
    sent: u64,
    total: u64,
    /// Whose books to look at.
    receivers: std::ops::Range<usize>,
    /// Deliveries for each message that this one sends, counting all senders of the same receivers.
    share: u64,
    window: u64,
}

impl Sender {
    /// Sends what the window lets; whether that was anything.
    fn go_on(&mut self, books: &Books) -> bool {
        let got: u64 = self.receivers.clone().map(|number| books[number].0.load(Relaxed)).sum();
        let room = self.window.saturating_sub((self.sent * self.share).saturating_sub(got)) / self.share;
        let left = self.total - self.sent;
        if room < (self.window / self.share / 4).clamp(1, left.max(1)) {
            return false;
        }
        let mut room = room.min(left);
        while room > 0 {
            let count = room.min(self.batch.room());
            self.conn.s.write_all(self.batch.messages(self.sent, count)).unwrap();
            self.sent += count;
            room -= count;
        }
        true
    }
}

pub fn run(job: &Job, work: &str) {
    let many: u64 = arguments::value("c", 1);
    let fans_out = work == "fanout" || work == "topic";
    let (senders, receivers) = match work {
        "tput" => (1, 1),
        "fanin" => (many, 1),
        "pairs" => (many, many),
        _ => (1, many),
    };
    let each = job.n / senders;
    let deliveries = if fans_out { each * receivers } else { each * senders };
    let one = json("r0", "s0", &job.text, 0).len() as u64;
    // In deliveries. Four large frames are on their way at once.
    let window = (arguments::value("window", 4u64 << 20).max(4 * one) / one).min(16384);
    let books: Books = Arc::new((0..receivers).map(|_| Got::default()).collect());

    let all: Vec<Receiver> = (0..receivers)
        .map(|number| {
            let name = job.name("r", number);
            let conn = match work {
                "topic" => Conn::subscribed(job.proto, &job.address, &name, "bench.news"),
                _ => Conn::named(job.proto, &job.address, &name),
            };
            Receiver { conn: conn.unwrap(), number: number as usize, expected: deliveries / receivers }
        })
        .collect();
    let sending: Vec<Sender> = (0..senders)
        .map(|number| {
            let to = match work {
                "fanout" => "all".to_string(),
                "topic" => subject(job.proto).to_string(),
                _ => job.name("r", number % receivers),
            };
            let sharing = if fans_out { receivers } else { senders / receivers.min(senders) };
            let seen = if fans_out { 0..receivers as usize } else { (number % receivers) as usize..(number % receivers) as usize + 1 };
            Sender {
                conn: Conn::publisher(job.proto, &job.address).unwrap(),
                batch: Batch::new(job.proto, &to, "s", &job.text),
                sent: 0,
                total: each,
                receivers: seen,
                share: sharing.max(1),
                window: if fans_out { window.max(receivers * 16) } else { (window / if work == "pairs" { senders } else { 1 }).max(4) },
            }
        })
        .collect();
    thread::sleep(SETTLING);

    let pid: u32 = arguments::value("pid", 0);
    let (used, ours) = (machine::cpu(pid), machine::cpu(std::process::id()));
    let began = Instant::now();
    let threads = receive(all, &books, job.text.len()).into_iter().chain(send(sending, &books));
    let mut own = Duration::ZERO;
    for thread in threads.collect::<Vec<_>>() {
        own += thread.join().unwrap();
    }
    let took = began.elapsed().as_secs_f64();
    let used = machine::cpu(pid).saturating_sub(used).as_secs_f64();
    let own = own.saturating_sub(ours).as_secs_f64();
    println!(
        "{work} per_s={:.0} mb_per_s={:.1} broker_us={:.3} generator_us={:.3} n={deliveries} seconds={took:.3}",
        deliveries as f64 / took,
        (deliveries * one) as f64 / took / 1e6,
        used * 1e6 / deliveries as f64,
        own * 1e6 / deliveries as f64,
    );
}

/// How a topic is written as an addressee.
fn subject(proto: Proto) -> &'static str {
    match proto {
        Proto::Hermes => "#bench.news",
        _ => "bench.news",
    }
}

/// Processor time of the thread that asks.
fn own_cpu() -> Duration {
    let line = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    Duration::from_nanos(line.split(' ').next().and_then(|field| field.parse().ok()).unwrap_or(0))
}

fn receive(all: Vec<Receiver>, books: &Books, at_least: usize) -> Vec<JoinHandle<Duration>> {
    if all.len() as u64 > THREADS_MAX {
        let books = books.clone();
        return vec![thread::spawn(move || {
            receive_many(all, &books, at_least);
            own_cpu()
        })];
    }
    all.into_iter()
        .map(|mut receiver| {
            let books = books.clone();
            thread::spawn(move || {
                while !receiver.take_all(&books, at_least) {
                    receiver.conn.fill().unwrap();
                }
                // The connections stay until the program ends, so that nobody pays for their end.
                std::mem::forget(receiver);
                own_cpu()
            })
        })
        .collect()
}

impl Receiver {
    /// Counts what has been read; whether everything has come.
    fn take_all(&mut self, books: &Books, at_least: usize) -> bool {
        let mut count = 0;
        while let Some(length) = self.conn.take().unwrap() {
            assert!(length >= at_least, "no message: {}", String::from_utf8_lossy(self.conn.taken(length)));
            count += 1;
        }
        self.expected -= count;
        books[self.number].0.fetch_add(count, Relaxed);
        self.expected == 0
    }
}

fn receive_many(mut all: Vec<Receiver>, books: &Books, at_least: usize) {
    let mut polled: Vec<libc::pollfd> = all.iter().map(|receiver| receiver.conn.s.readable()).collect();
    let mut unfinished = all.len();
    while unfinished > 0 {
        assert!(sock::poll(&mut polled, 30_000) > 0, "nothing has come for 30 s");
        for (receiver, polled) in all.iter_mut().zip(&mut polled) {
            if polled.revents != 0 {
                receiver.conn.fill().unwrap();
                if receiver.take_all(books, at_least) {
                    polled.fd = -1;
                    unfinished -= 1;
                }
            }
        }
    }
    std::mem::forget(all);
}

fn send(all: Vec<Sender>, books: &Books) -> Vec<JoinHandle<Duration>> {
    let groups: Vec<Vec<Sender>> =
        if all.len() as u64 > THREADS_MAX { vec![all] } else { all.into_iter().map(|sender| vec![sender]).collect() };
    let thread = |mut senders: Vec<Sender>| {
        let books = books.clone();
        thread::spawn(move || {
            while senders.iter().any(|sender| sender.sent < sender.total) {
                let unfinished = senders.iter_mut().filter(|sender| sender.sent < sender.total);
                if unfinished.filter_map(|sender| sender.go_on(&books).then_some(())).count() == 0 {
                    thread::sleep(Duration::from_micros(20));
                }
            }
            // The connections stay until the program ends: some brokers drop what a sender that leaves has written.
            std::mem::forget(senders);
            own_cpu()
        })
    };
    groups.into_iter().map(thread).collect()
}

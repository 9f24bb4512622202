//! How fast the store is on this machine: rows a second for commits of 256, a long drain, and the
//! time to open with many messages waiting.
//!
//! `cargo run --release -p hermes-bus-store --example measure -- [messages] [directory]`

#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a program for people at a terminal")]

use std::path::PathBuf;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use hermes_bus_core::storage::{Answer, Ending, Keep, Order, Record, Sender, Ticket};
use hermes_bus_proto::EndpointName;
use hermes_bus_proto::control::Status;
use hermes_bus_store::{Opened, Options, Store};

struct Bench {
    store: Store,
    woken: mpsc::Receiver<()>,
    ticket: u64,
}

impl Bench {
    fn open(path: PathBuf) -> (Self, hermes_bus_core::storage::Recovered) {
        let (wake, woken) = mpsc::channel();
        let Opened { store, recovered, .. } = Store::open(Options::new(path), move || {
            let _ = wake.send(());
        })
        .unwrap();
        (Bench { store, woken, ticket: 0 }, recovered)
    }

    fn submit(&mut self, orders: impl IntoIterator<Item = Order>) -> Ticket {
        let orders: Vec<_> = orders
            .into_iter()
            .map(|order| {
                self.ticket += 1;
                (Ticket(self.ticket), order)
            })
            .collect();
        self.store.submit(orders);
        Ticket(self.ticket)
    }

    /// Waits until everything up to a ticket is stored; returns what was loaded meanwhile.
    fn wait(&mut self, ticket: Ticket) -> Vec<Record> {
        let mut loaded = Vec::new();
        loop {
            for answer in self.store.take_answers() {
                match answer {
                    Answer::Stored(stored) if stored >= ticket => return loaded,
                    Answer::Loaded { records, .. } => loaded.extend(records),
                    Answer::Refused { why, .. } => panic!("refused: {why}"),
                    _ => {}
                }
            }
            self.woken.recv().unwrap();
        }
    }
}

fn record(seq: u64, endpoint: &EndpointName) -> Record {
    let id = format!("{seq:08x}-0000-4000-8000-000000000000");
    let text = "the quick brown fox jumps over the lazy dog and goes on".repeat(2);
    let payload = format!(
        "{{\"type\": \"message\", \"to\": \"worker\", \"body\": {{\"n\": {seq}, \"text\": \"{text}\"}}, \
         \"id\": \"{id}\", \"ts\": 1700000000.000000, \"from\": \"sender\"}}"
    );
    Record {
        seq,
        endpoint: endpoint.clone(),
        keep: Keep::Mailbox,
        payload: payload.into(),
        sender: Some(Sender {
            uid: 1000,
            pid: 4242,
            endpoint: EndpointName::level_2("sender").ok(),
        }),
        via: None,
        wanted: Some(Status::Stored),
        arrived_unix_us: 1_700_000_000_000_000 + seq,
        expires_unix_us: None,
        deliveries: 0,
    }
}

fn rate(what: &str, rows: u64, begin: Instant) {
    let took = begin.elapsed();
    println!("{what}: {:.0} rows/s ({took:.2?})", rows as f64 / took.as_secs_f64());
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let messages: u64 = arguments.next().map_or(1_000_000, |text| text.parse().unwrap());
    let directory = arguments.next().map_or_else(std::env::temp_dir, PathBuf::from);
    let directory = tempfile::tempdir_in(directory).unwrap();
    let path = directory.path().join("store.db");
    let worker = EndpointName::level_2("worker").unwrap();
    println!("payload: {} bytes", record(1, &worker).payload.len());

    let (mut bench, _) = Bench::open(path.clone());
    let mut seq = 0;
    let mut keeps = |count: u64| -> Vec<Order> {
        let from = seq;
        seq += count;
        (from..from + count).map(|seq| Order::Keep(Box::new(record(seq + 1, &worker)))).collect()
    };

    // One commit after the other, as with one sender that has 256 messages outstanding.
    let batches: Vec<Vec<Order>> = (0..messages / 4 / 256).map(|_| keeps(256)).collect();
    let rows = batches.len() as u64 * 256;
    let mut slowest = Duration::ZERO;
    let begin = Instant::now();
    for batch in batches {
        let submitted = Instant::now();
        let ticket = bench.submit(batch);
        bench.wait(ticket);
        slowest = slowest.max(submitted.elapsed());
    }
    rate("commits of 256, each waited for", rows, begin);
    println!("  slowest commit: {slowest:.2?}");

    // As much as it takes.
    let mut left = messages - rows;
    let mut taken = Duration::ZERO;
    let all = left;
    while left > 0 {
        let batch = keeps(left.min(16_384));
        left -= batch.len() as u64;
        let submitted = Instant::now();
        let ticket = bench.submit(batch);
        bench.wait(ticket);
        taken += submitted.elapsed();
    }
    println!("commits of 16,384: {:.0} rows/s", all as f64 / taken.as_secs_f64());

    let store = bench.store;
    let begin = Instant::now();
    store.close(None, Duration::from_secs(60)).unwrap();
    println!("close: {:.2?}", begin.elapsed());
    let begin = Instant::now();
    let (mut bench, recovered) = Bench::open(path.clone());
    let waiting: u64 = recovered.waiting.iter().map(|waiting| waiting.messages).sum();
    println!("open with {waiting} messages waiting: {:.2?}", begin.elapsed());
    println!("database: {} bytes", std::fs::metadata(&path).unwrap().len());

    // Load and release, a thousand at a time.
    let (mut loading, mut releasing) = (Duration::ZERO, Duration::ZERO);
    let mut from = 0;
    let mut drained = 0;
    loop {
        let begin = Instant::now();
        let ticket = bench.submit([Order::Load {
            endpoint: worker.clone(),
            from,
            messages_max: 1024,
            bytes_max: 1 << 20,
        }]);
        let loaded = bench.wait(ticket);
        loading += begin.elapsed();
        let Some(last) = loaded.last() else { break };
        from = last.seq + 1;
        drained += loaded.len() as u64;
        let seqs = loaded.iter().map(|record| record.seq).collect();
        let begin = Instant::now();
        let release = Order::Release { endpoint: worker.clone(), seqs, ending: Ending::Acked };
        // Nobody waits for a release: the next load does not either.
        let urgent = Order::Load {
            endpoint: worker.clone(),
            from: u64::MAX >> 1,
            messages_max: 1,
            bytes_max: 1,
        };
        let ticket = bench.submit([release, urgent]);
        bench.wait(ticket);
        releasing += begin.elapsed();
    }
    println!("load: {:.0} rows/s", drained as f64 / loading.as_secs_f64());
    println!(
        "release, committed 1024 at a time: {:.0} rows/s",
        drained as f64 / releasing.as_secs_f64()
    );
    println!(
        "load and release: {:.0} rows/s",
        drained as f64 / (loading + releasing).as_secs_f64()
    );
    println!("log: {} bytes", std::fs::metadata(path.with_extension("db-wal")).unwrap().len());
    bench.store.close(None, Duration::from_secs(60)).unwrap();
}

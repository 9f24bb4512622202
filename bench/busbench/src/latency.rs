//! How long a message takes.
//!
//! `rtt`: there and back, one outstanding; one thread plays both peers, so that the broker and this program take turns.
//! `oneway`: at a fixed rate. Every message counts from the moment at which it should have been sent, so a broker that makes
//! the sender wait pays for all that was delayed (coordinated omission). `beside=reads|stalls`: a second receiver that
//! does or does not read, and a sender that goes on sending to it.
use crate::conn::Conn;
use crate::message::{number_of, Batch};
use crate::{arguments, machine, Job};
use hdrhistogram::Histogram;
use std::io::Write;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// What is not measured at the beginning of `oneway`.
const WARM_UP: Duration = Duration::from_millis(500);
/// How long an answer may take before that ends the measurement.
const PATIENCE: Duration = Duration::from_secs(30);

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 600_000_000_000, 3).expect("bounds that fit")
}

fn quantiles(latency: &Histogram<u64>) -> String {
    let at = |quantile| latency.value_at_quantile(quantile) as f64 / 1e3;
    format!("p50_us={:.1} p90_us={:.1} p99_us={:.1} p999_us={:.1} max_us={:.1}", at(0.5), at(0.9), at(0.99), at(0.999), at(1.0))
}

pub fn round_trip(job: &Job) {
    let (left, right) = (job.name("a", 0), job.name("b", 0));
    let mut x = Conn::named(job.proto, &job.address, &left).unwrap();
    let mut y = Conn::named(job.proto, &job.address, &right).unwrap();
    x.s.read_timeout(Some(PATIENCE));
    y.s.read_timeout(Some(PATIENCE));
    let mut there = Batch::new(job.proto, &right, &left, &job.text);
    let mut back = Batch::new(job.proto, &left, &right, &job.text);
    let warm_up = job.n / 10;
    let mut latency = histogram();
    for number in 0..job.n + warm_up {
        let began = Instant::now();
        x.s.write_all(there.messages(number, 1)).unwrap();
        y.next().unwrap();
        y.s.write_all(back.messages(number, 1)).unwrap();
        x.next().unwrap();
        if number >= warm_up {
            latency.record(began.elapsed().as_nanos() as u64).unwrap();
        }
    }
    println!("rtt {} n={}", quantiles(&latency), job.n);
}

pub fn one_way(job: &Job) {
    let rate: u64 = arguments::value("rate", 100_000);
    let seconds: f64 = arguments::value("secs", 3.0);
    let beside = arguments::text("beside");
    let neighbours = beside.map(|kind| Neighbours::begin(job, kind == "stalls"));

    let name = job.name("live", 0);
    let mut receiver = Conn::named(job.proto, &job.address, &name).unwrap();
    receiver.s.read_timeout(Some(PATIENCE));
    let mut sender = Conn::publisher(job.proto, &job.address).unwrap();
    let mut batch = Batch::new(job.proto, &name, "s", &job.text);
    thread::sleep(Duration::from_millis(200));

    let warm_up = (WARM_UP.as_secs_f64() * rate as f64) as u64;
    let total = warm_up + (seconds * rate as f64) as u64;
    let pid: u32 = arguments::value("pid", 0);
    let used = machine::cpu(pid);
    let began = Instant::now() + Duration::from_millis(1);
    let due = move |number: u64| began + Duration::from_nanos((number as f64 * 1e9 / rate as f64) as u64);
    let sending = thread::spawn(move || {
        let mut sent = 0;
        while sent < total {
            let elapsed = Instant::now().saturating_duration_since(began).as_secs_f64();
            let count = (((elapsed * rate as f64) as u64 + 1).min(total) - sent.min(total)).min(batch.room());
            if Instant::now() < due(sent) || count == 0 {
                thread::sleep(due(sent).saturating_duration_since(Instant::now()));
                continue;
            }
            sender.s.write_all(batch.messages(sent, count)).unwrap();
            sent += count;
        }
        sender
    });
    let mut latency = histogram();
    let mut got = 0;
    while got < total {
        receiver.fill().unwrap();
        let now = Instant::now();
        while let Some(length) = receiver.take().unwrap() {
            let number = number_of(receiver.taken(length)).expect("a message with an id");
            if number >= warm_up {
                latency.record(now.saturating_duration_since(due(number)).as_nanos().max(1) as u64).unwrap();
            }
            got += 1;
        }
    }
    let took = began.elapsed().as_secs_f64();
    let used = machine::cpu(pid).saturating_sub(used).as_secs_f64();
    let sender = sending.join().unwrap();
    let flood = neighbours.map_or(0, Neighbours::end);
    println!(
        "oneway {} per_s={:.0} broker_us={:.3} n={total} beside={flood}",
        quantiles(&latency),
        total as f64 / took,
        used * 1e6 / total as f64
    );
    drop(sender);
}

/// A receiver that reads or does not, and who sends to it at a steady rate.
struct Neighbours {
    over: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
}

impl Neighbours {
    /// Returns when `fill` bytes have been sent to the receiver, as far as the broker takes them within 5 s.
    fn begin(job: &Job, stalls: bool) -> Neighbours {
        let name = job.name("beside", 0);
        let mut receiver = Conn::named(job.proto, &job.address, &name).unwrap();
        let mut sender = Conn::publisher(job.proto, &job.address).unwrap();
        let mut batch = Batch::new(job.proto, &name, "n", &job.text);
        let fill: u64 = arguments::value("fill", 32 << 20);
        let rate: u64 = arguments::value("beside_rate", 2_000);
        let (over, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (filled, is_filled) = std::sync::mpsc::channel();
        let (ended, counted) = (over.clone(), sent.clone());
        thread::spawn(move || {
            if stalls {
                // Open, and never read from.
                std::mem::forget(receiver);
            } else {
                thread::spawn(move || while receiver.take().is_ok_and(|taken| taken.is_some()) || receiver.fill().is_ok() {});
            }
            let room = batch.room();
            let one = batch.messages(0, 1).len() as u64;
            let mut number = 0;
            while number * one < fill && sender.s.write_all(batch.messages(number, room)).is_ok() {
                number += room;
            }
            let _ = filled.send(());
            let began = Instant::now();
            let mut after = 0;
            while !ended.load(Relaxed) && sender.s.write_all(batch.messages(number + after, 1)).is_ok() {
                after += 1;
                counted.store(after, Relaxed);
                let due = began + Duration::from_nanos(after * 1_000_000_000 / rate);
                thread::sleep(due.saturating_duration_since(Instant::now()));
            }
            std::mem::forget(sender);
        });
        let _ = is_filled.recv_timeout(Duration::from_secs(5));
        thread::sleep(Duration::from_secs(1));
        Neighbours { over, sent }
    }

    /// How many messages were sent to the neighbour beside the measurement.
    fn end(self) -> u64 {
        self.over.store(true, Relaxed);
        self.sent.load(Relaxed)
    }
}

//! `hermes-bus bench`.

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use clap::{Args, ValueHint};
use hermes_bus_bench::{PEERS_MAX, Workload, parse_bytes, parse_sizes};
use hermes_bus_daemon::config::parse_time;

/// `hermes-bus bench`
#[derive(Args, Debug)]
pub struct Bench {
    /// What to measure [default: a bit of everything, in less than half a minute]
    #[arg(value_name = "WORKLOAD", value_parser = parse_workloads())]
    pub workloads: Vec<Workloads>,
    /// Bytes of text in each message, 16 B to 10 MiB: one size, or several with commas between them (128,4KiB,1MiB)
    /// [default: 128]
    #[arg(long, value_name = "SIZES", value_parser = parse_size_list)]
    pub size: Option<Sizes>,
    /// Senders, pairs, receivers or members, where there are several [default: 4; broadcast and topic: 64]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=PEERS_MAX as i64))]
    pub peers: Option<u32>,
    /// Messages a second of 'steady'
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub rate: u32,
    /// Messages of 'durable' that are not answered yet, at a time
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub outstanding: u32,
    /// Sessions of 'idle' [default: 10000; on a bus that runs 1000]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub connections: Option<u32>,
    /// Bytes of messages under way, at a time, where it goes for throughput
    #[arg(long, value_name = "SIZE", default_value = "4MiB", value_parser = parse_window)]
    pub window: u64,
    /// How long messages are sent in each round [default: 500ms; with --messages until all are sent]
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    pub duration: Option<Duration>,
    /// How many messages are sent in each round, at most
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=u64::from(u32::MAX)))]
    pub messages: Option<u64>,
    /// How often everything is measured; the medians count
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub rounds: u32,
    /// How long nothing may come before a message counts as lost
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = parse_time)]
    pub timeout: Duration,
    /// Measure a bus of its own, in a directory that goes away; that is the default
    #[arg(long)]
    pub private: bool,
    /// Measure the bus that other commands use, and start it where it does not run; --root and --socket imply it
    #[arg(long, conflicts_with = "private")]
    pub live: bool,
    /// Where the directory of the private bus is made [default: the system's temporary directory]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath, conflicts_with = "live")]
    pub dir: Option<PathBuf>,
    /// Send to everybody, and to topics, even if others would get it
    #[arg(long)]
    pub broadcast: bool,
    /// Draw the latencies, as SVG
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub plot: Option<PathBuf>,
}

/// What a word on the command line stands for.
#[derive(Clone, Copy, Debug)]
pub struct Workloads(pub &'static [Workload]);

/// Sizes in bytes.
#[derive(Clone, Debug)]
pub struct Sizes(pub Vec<usize>);

/// Every word, what it stands for, and what that is.
const WORDS: [(&str, &[Workload], &str); 15] = [
    (
        "latency",
        &[Workload::RoundTrip, Workload::OneWay, Workload::Steady],
        "round-trip, one-way and steady",
    ),
    (
        "throughput",
        &[
            Workload::OneToOne,
            Workload::FanIn,
            Workload::Pairs,
            Workload::Group,
            Workload::Broadcast,
            Workload::Topic,
        ],
        "one-to-one, fan-in, pairs, group, broadcast and topic",
    ),
    ("all", &Workload::ALL, "all of these"),
    ("round-trip", &[Workload::RoundTrip], "a message there and one back, one at a time"),
    ("one-way", &[Workload::OneWay], "a message there, one at a time"),
    (
        "steady",
        &[Workload::Steady],
        "messages at a fixed rate, each measured from the moment at which it was due",
    ),
    ("one-to-one", &[Workload::OneToOne], "one sender, one receiver, as much as goes through"),
    ("fan-in", &[Workload::FanIn], "several senders, one receiver"),
    ("pairs", &[Workload::Pairs], "several senders, each with a receiver of its own"),
    ("group", &[Workload::Group], "one sender, a group of which one member gets each message"),
    ("broadcast", &[Workload::Broadcast], "one sender, everybody"),
    ("topic", &[Workload::Topic], "one sender, all subscribers of a topic"),
    ("durable", &[Workload::Durable], "messages that are stored for somebody who is away"),
    ("connect", &[Workload::Connect], "connect, send one message, wait for the receipt, close"),
    ("idle", &[Workload::Idle], "sessions that do nothing: what they take of the daemon's memory"),
];

fn parse_workloads() -> impl TypedValueParser<Value = Workloads> {
    let values = WORDS.map(|(word, _, meaning)| PossibleValue::new(word).help(meaning));
    PossibleValuesParser::new(values).map(|word| {
        let found = WORDS.iter().find(|(known, ..)| *known == word);
        Workloads(found.expect("it is one of the words").1)
    })
}

fn parse_size_list(text: &str) -> Result<Sizes, String> {
    parse_sizes(text).map(Sizes)
}

fn parse_window(text: &str) -> Result<u64, String> {
    // More than a receiver's queue holds goes through the disk.
    const WINDOW_BYTES: std::ops::RangeInclusive<u64> = 1..=64 << 20;
    let bytes = parse_bytes(text)?;
    let window = Some(bytes).filter(|bytes| WINDOW_BYTES.contains(bytes));
    window.ok_or_else(|| "a window is 1 B to 64 MiB".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_workload_has_a_word_of_its_own() {
        for workload in Workload::ALL {
            let own = WORDS.iter().find(|(word, ..)| *word == workload.name());
            assert_eq!(own.map(|(_, stands_for, _)| *stands_for), Some(&[workload][..]));
        }
    }
}

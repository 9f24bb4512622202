//! What is to be measured.

use std::time::Duration;

use hermes_bus_proto::limits::PAYLOAD_BYTES_MAX;
use serde::Serialize;

/// A kind of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Workload {
    /// A message there, and one back; one at a time.
    RoundTrip,
    /// A message there; one at a time.
    OneWay,
    /// Messages at a fixed rate, each measured from the moment at which it was due.
    Steady,
    /// One sender, one receiver.
    OneToOne,
    /// Several senders, one receiver.
    FanIn,
    /// One sender, everybody.
    Broadcast,
    /// One sender, all subscribers of a topic.
    Topic,
    /// Several senders, each with a receiver of its own.
    Pairs,
    /// One sender, a group of which one member gets each message.
    Group,
    /// Messages that are kept on disk for a receiver that is away.
    Durable,
    /// Connect, send one message, wait for the receipt, close.
    Connect,
    /// Sessions that do nothing.
    Idle,
}

impl Workload {
    /// Every one, in the order in which they are measured: what opens many files last.
    pub const ALL: [Workload; 12] = [
        Workload::RoundTrip,
        Workload::OneWay,
        Workload::Steady,
        Workload::OneToOne,
        Workload::FanIn,
        Workload::Pairs,
        Workload::Group,
        Workload::Broadcast,
        Workload::Topic,
        Workload::Durable,
        Workload::Connect,
        Workload::Idle,
    ];

    /// The word on the command line and in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Workload::RoundTrip => "round-trip",
            Workload::OneWay => "one-way",
            Workload::Steady => "steady",
            Workload::OneToOne => "one-to-one",
            Workload::FanIn => "fan-in",
            Workload::Broadcast => "broadcast",
            Workload::Topic => "topic",
            Workload::Pairs => "pairs",
            Workload::Group => "group",
            Workload::Durable => "durable",
            Workload::Connect => "connect",
            Workload::Idle => "idle",
        }
    }

    /// Whether it says how long messages take.
    pub fn has_latency(self) -> bool {
        use Workload::{Connect, Durable, OneWay, RoundTrip, Steady};
        matches!(self, RoundTrip | OneWay | Steady | Durable | Connect)
    }

    /// How many take part on the side of which there can be several, where nobody says; None where it is one.
    fn peers_default(self) -> Option<usize> {
        match self {
            Workload::FanIn | Workload::Pairs | Workload::Group => Some(4),
            Workload::Broadcast | Workload::Topic => Some(64),
            _ => None,
        }
    }

    /// Whether its messages have a text.
    fn has_size(self) -> bool {
        self != Workload::Idle
    }
}

/// One line of the result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Case {
    /// The kind of work.
    pub workload: Workload,
    /// Bytes of text in each message.
    pub text_bytes: usize,
    /// Senders, receivers, pairs or members; 1 where the workload has only one.
    pub peers: usize,
}

/// Most peers: a stamp has room for more, but nobody has the processors.
pub const PEERS_MAX: usize = 1024;
/// Smallest and largest text.
pub const TEXT_BYTES: std::ops::RangeInclusive<usize> = 16..=PAYLOAD_BYTES_MAX;
/// The text where nobody says.
const TEXT_BYTES_DEFAULT: usize = 128;

/// The cases of some workloads at some sizes. Without sizes, each has its usual one.
pub fn cases(workloads: &[Workload], text_bytes: &[usize], peers: Option<usize>) -> Vec<Case> {
    let sizes = if text_bytes.is_empty() { &[TEXT_BYTES_DEFAULT] } else { text_bytes };
    let mut cases = Vec::new();
    for workload in Workload::ALL.into_iter().filter(|workload| workloads.contains(workload)) {
        let peers = workload.peers_default().map_or(1, |usual| peers.unwrap_or(usual));
        let sizes = if workload.has_size() { sizes } else { &[0] };
        cases.extend(sizes.iter().map(|&text_bytes| Case { workload, text_bytes, peers }));
    }
    cases
}

/// A bit of everything, for who says nothing: every workload at 128 bytes, and one sender to one receiver with
/// larger messages as well.
pub fn suite() -> Vec<Case> {
    const LARGER: [usize; 3] = [4 << 10, 64 << 10, 10 << 20];
    let mut suite = cases(&Workload::ALL, &[], None);
    let larger = cases(&[Workload::OneToOne], &LARGER, None);
    let behind = suite.iter().position(|case| case.workload == Workload::OneToOne);
    let behind = behind.map_or(suite.len(), |at| at + 1);
    suite.splice(behind..behind, larger);
    suite
}

/// How it is measured.
#[derive(Clone, Debug, Serialize)]
pub struct Settings {
    /// How often each case is measured. The rounds are interleaved.
    pub rounds: u32,
    /// For how long messages are sent, in each round; without it, `messages` alone is the end.
    #[serde(rename = "duration_s", serialize_with = "seconds_or_null")]
    pub duration: Option<Duration>,
    /// How many are sent in each round, at most.
    pub messages: Option<u64>,
    /// Bytes that may be under way at a time where it goes for throughput.
    pub window_bytes: u64,
    /// Messages a second of [`Workload::Steady`].
    #[serde(rename = "steady_per_s")]
    pub rate: u32,
    /// Unanswered messages of [`Workload::Durable`].
    #[serde(rename = "durable_outstanding")]
    pub outstanding: u32,
    /// Sessions of [`Workload::Idle`].
    #[serde(rename = "idle_connections")]
    pub connections: u32,
    /// How long nothing may come before something counts as lost.
    #[serde(rename = "timeout_s", serialize_with = "seconds")]
    pub patience: Duration,
    /// Whether messages may reach endpoints that are not of this program.
    #[serde(rename = "broadcast")]
    pub reaches_others: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            rounds: 3,
            duration: Some(Duration::from_millis(500)),
            messages: None,
            window_bytes: 4 << 20,
            rate: 100_000,
            outstanding: 256,
            connections: 10_000,
            patience: Duration::from_secs(10),
            reaches_others: false,
        }
    }
}

fn seconds<S: serde::Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(time.as_secs_f64())
}

fn seconds_or_null<S: serde::Serializer>(
    time: &Option<Duration>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    time.map(|time| time.as_secs_f64()).serialize(serializer)
}

/// Reads sizes: `128`, `128,4KiB,1MiB`, each within [`TEXT_BYTES`], without repetitions.
///
/// # Errors
/// What is wrong, for people.
pub fn parse_sizes(text: &str) -> Result<Vec<usize>, String> {
    let mut sizes = Vec::new();
    for part in text.split(',') {
        let size = parse_size(part.trim())?;
        if !sizes.contains(&size) {
            sizes.push(size);
        }
    }
    Ok(sizes)
}

/// Reads one size within [`TEXT_BYTES`].
///
/// # Errors
/// What is wrong, for people.
pub fn parse_size(text: &str) -> Result<usize, String> {
    let bytes = parse_bytes(text)?;
    let in_range = usize::try_from(bytes).ok().filter(|bytes| TEXT_BYTES.contains(bytes));
    in_range.ok_or_else(|| format!("a size is 16 B to 10 MiB, not {text}"))
}

/// Reads a number of bytes: `128`, `4KiB`, `1 MiB`, `10kB`.
///
/// # Errors
/// What is wrong, for people.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let unit_bytes: Option<u64> = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => Some(1),
        "k" | "kib" => Some(1 << 10),
        "m" | "mib" => Some(1 << 20),
        "kb" => Some(1_000),
        "mb" => Some(1_000_000),
        _ => None,
    };
    let bytes = unit_bytes.and_then(|unit| number.parse::<u64>().ok()?.checked_mul(unit));
    bytes.ok_or_else(|| format!("'{}' is no size: write 128, 4KiB or 1MiB", text.escape_debug()))
}

/// A size as people read it: `128 B`, `4 KiB`, `10 MiB`.
pub fn show_bytes(bytes: u64) -> String {
    const KIB: u64 = 1 << 10;
    const MIB: u64 = 1 << 20;
    match bytes {
        0..KIB => format!("{bytes} B"),
        KIB..MIB if bytes.is_multiple_of(KIB) => format!("{} KiB", bytes / KIB),
        KIB..MIB => format!("{:.1} KiB", bytes as f64 / KIB as f64),
        _ if bytes.is_multiple_of(MIB) => format!("{} MiB", bytes / MIB),
        _ => format!("{:.1} MiB", bytes as f64 / MIB as f64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_numbers_with_or_without_a_unit() {
        assert_eq!(parse_sizes("128"), Ok(vec![128]));
        assert_eq!(parse_sizes("16, 4KiB,1MiB,4096 B,10m"), Ok(vec![16, 4096, 1 << 20, 10 << 20]));
        assert_eq!(parse_sizes("64kB"), Ok(vec![64_000]));
        for wrong in
            ["", "15", "0", "11MiB", "-1", "1.5KiB", "4XiB", "128,", "99999999999999999999", "kib"]
        {
            assert!(parse_sizes(wrong).is_err(), "{wrong}");
        }
        assert!(parse_sizes("\u{1b}[1m").is_err_and(|error| !error.contains('\u{1b}')));
    }

    #[test]
    fn sizes_are_shown_as_they_are_written() {
        for (bytes, shown) in [
            (128, "128 B"),
            (4096, "4 KiB"),
            (1500, "1.5 KiB"),
            (10 << 20, "10 MiB"),
            (1_600_000, "1.5 MiB"),
        ] {
            assert_eq!(show_bytes(bytes), shown);
        }
    }

    #[test]
    fn a_case_has_as_many_peers_as_its_work_has_room_for() {
        let wanted = [Workload::Pairs, Workload::OneToOne, Workload::Idle];
        let cases = cases(&wanted, &[16, 1024], Some(7));
        let shown: Vec<_> =
            cases.iter().map(|case| (case.workload, case.text_bytes, case.peers)).collect();
        let (one, pairs) = (Workload::OneToOne, Workload::Pairs);
        let expected = [
            (one, 16, 1),
            (one, 1024, 1),
            (pairs, 16, 7),
            (pairs, 1024, 7),
            (Workload::Idle, 0, 1),
        ];
        assert_eq!(shown, expected);
    }

    #[test]
    fn the_suite_has_every_workload_and_the_largest_frame() {
        let suite = suite();
        for workload in Workload::ALL {
            assert!(suite.iter().any(|case| case.workload == workload), "{workload:?}");
        }
        assert!(suite.iter().any(|case| case.text_bytes == 10 << 20));
    }
}

//! Where one case is measured: the bus, the names that are used on it, and what its daemon spends.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::error::BenchError;
use crate::link::{Link, Registration, Watch, list};
use crate::plan::{Settings, Workload};
use crate::sys::{CpuTime, Memory, peer_pid};

/// The bus of one measurement.
#[derive(Debug)]
pub(crate) struct Site<'s> {
    pub(crate) socket: PathBuf,
    pub(crate) settings: &'s Settings,
    pub(crate) watch: Watch,
    /// The daemon, where the kernel says which process it is.
    pub(crate) pid: Option<u32>,
    /// Whether it is nobody else's bus.
    pub(crate) is_private: bool,
    /// Marks the messages of this measurement.
    pub(crate) run: u16,
    /// Makes the names of this measurement unlike all others.
    tag: String,
}

impl<'s> Site<'s> {
    pub(crate) fn new(
        socket: PathBuf,
        settings: &'s Settings,
        watch: Watch,
        is_private: bool,
    ) -> Result<Self, BenchError> {
        let pid = peer_pid(&Link::open(&socket, "a first connection")?.stream);
        let tag = format!("{:012x}", fastrand::u64(..) >> 16);
        Ok(Site { socket, settings, watch, pid, is_private, run: fastrand::u16(..), tag })
    }

    /// The name of an endpoint of this measurement; all of one role have the same length.
    pub(crate) fn name(&self, role: &str, number: usize) -> String {
        format!("bench-{}-{role}{number:05}", self.tag)
    }

    pub(crate) fn group(&self) -> String {
        format!("bench-{}", self.tag)
    }

    pub(crate) fn topic(&self) -> String {
        format!("bench.{}.all", self.tag)
    }

    pub(crate) fn sender(&self) -> String {
        format!("bench-{}", self.tag)
    }

    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// A session that receives.
    pub(crate) fn receiver(
        &self,
        number: usize,
        how: Registration<'_>,
    ) -> Result<Link, BenchError> {
        Link::register(&self.socket, &self.name("r", number), how, &self.watch)
    }

    /// An error, if others would get messages to everybody or to the topic, and nobody has asked for that.
    pub(crate) fn keep_to_itself(&self, workload: Workload) -> Result<(), BenchError> {
        if self.is_private || self.settings.reaches_others {
            return Ok(());
        }
        let listing = list(&self.socket, &self.watch)?;
        let own = |name: &str| name.starts_with("bench-") && name.contains(&self.tag);
        let others: Vec<&str> = match workload {
            Workload::Topic => {
                let may_match = |details: &&hermes_bus_proto::listing::EndpointDetails| {
                    details.topics.iter().any(|pattern| matches(pattern, &self.topic()))
                };
                let matching = listing.details.iter().filter(may_match);
                matching
                    .map(|details| details.endpoint.as_str())
                    .filter(|name| !own(name))
                    .collect()
            }
            _ => listing.endpoints.keys().map(String::as_str).filter(|name| !own(name)).collect(),
        };
        let Some(first) = others.first() else { return Ok(()) };
        let first = first.chars().take(60).collect::<String>().escape_debug().to_string();
        let who = match others.len() {
            1 => format!("'{first}'"),
            count => format!("'{first}' and {} other endpoints", count - 1),
        };
        Err(BenchError::OthersConnected { workload: workload.name(), who })
    }

    /// Begins to count what the daemon spends.
    pub(crate) fn meter(&self) -> Meter {
        Meter { pid: self.pid, cpu: self.pid.map(CpuTime::of), began: Instant::now() }
    }
}

/// Whether a pattern of topics matches a topic.
fn matches(pattern: &str, topic: &str) -> bool {
    let mut parts = topic.split('.');
    for token in pattern.split('.') {
        match (token, parts.next()) {
            (">", Some(_)) => return true,
            ("*", Some(_)) => {}
            (token, Some(part)) if token == part => {}
            _ => return false,
        }
    }
    parts.next().is_none()
}

/// What the daemon spends from a moment on.
#[derive(Debug)]
pub(crate) struct Meter {
    pid: Option<u32>,
    cpu: Option<CpuTime>,
    /// When it began.
    pub(crate) began: Instant,
}

impl Meter {
    /// What was spent on `messages` up to now; the clock was stopped at `ended`.
    pub(crate) fn end(self, ended: Instant, count: Count) -> Sample {
        Sample {
            elapsed: ended.saturating_duration_since(self.began),
            cpu: self.cpu.and_then(|cpu| cpu.elapsed()),
            memory: self.pid.and_then(Memory::of),
            count,
            latency: None,
            steady: None,
            idle: None,
        }
    }
}

/// What went through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Count {
    pub(crate) sent: u64,
    /// Deliveries: a message to many counts for each of them.
    pub(crate) received: u64,
    /// Bytes of one frame, header included.
    pub(crate) frame_bytes: u64,
    /// Bytes of text in it.
    pub(crate) text_bytes: u64,
}

/// The result of one round.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    pub(crate) count: Count,
    pub(crate) elapsed: Duration,
    pub(crate) cpu: Option<Duration>,
    pub(crate) memory: Option<Memory>,
    /// Nanoseconds.
    pub(crate) latency: Option<Histogram<u64>>,
    pub(crate) steady: Option<Steady>,
    pub(crate) idle: Option<Idle>,
}

/// How well a sender kept to its rate.
#[derive(Clone, Debug)]
pub(crate) struct Steady {
    pub(crate) sent_per_s: f64,
    pub(crate) kept_the_rate: bool,
    /// How late messages were written, in nanoseconds.
    pub(crate) lag: Histogram<u64>,
}

/// What sessions cost that do nothing.
#[derive(Clone, Debug)]
pub(crate) struct Idle {
    pub(crate) connections: u64,
    pub(crate) asked: u64,
    /// Resident memory of the daemon for each of them, in bytes.
    pub(crate) bytes_each: Option<f64>,
    /// Where there are fewer than were asked for: why.
    pub(crate) ended_by: Option<String>,
}

/// A histogram of nanoseconds with three significant digits, up to an hour.
pub(crate) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 3_600_000_000_000, 3).expect("the bounds are sound")
}

/// Nanoseconds, as stamps and histograms have them.
pub(crate) fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_the_bus_has_it() {
        let topic = "bench.0f.all";
        for pattern in [">", "bench.>", "*.*.all", "*.0f.*", topic, "bench.0f.>"] {
            assert!(matches(pattern, topic), "{pattern}");
        }
        for pattern in ["bench", "*", "*.*", "bench.0f.all.>", "bench.0e.all", "*.*.*.*", "build.>"]
        {
            assert!(!matches(pattern, topic), "{pattern}");
        }
    }
}

//! The result: medians over the rounds, with their spread, as types that are JSON.
//!
//! Keys are stable: what does not apply to a workload, or cannot be measured on this system, is `null`. Units are
//! part of the keys.

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::error::BenchError;
use crate::plan::{Case, Settings, Workload, show_bytes};
use crate::site::{Idle, Sample, Steady, histogram};
use crate::sys::Machine;

/// Everything that was measured.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Whether all of it was measured, without a loss.
    pub ok: bool,
    /// With what, on what.
    #[serde(flatten)]
    pub about: About,
    /// How.
    pub settings: Settings,
    /// A row for each case.
    pub results: Vec<Row>,
    /// Cases that failed.
    pub failures: Vec<Failure>,
    /// Cases that were not measured, which is no failure.
    pub left_out: Vec<Failure>,
}

impl Report {
    pub(crate) fn new(
        about: About,
        settings: Settings,
        results: Vec<Row>,
        failures: Vec<Failure>,
    ) -> Self {
        let (ok, left_out) = (failures.is_empty(), Vec::new());
        Report { ok, about, settings, results, failures, left_out }
    }

    /// Has failures with these codes count as cases that were left out.
    pub fn leave_out(&mut self, codes: &[&str]) {
        let failures = std::mem::take(&mut self.failures);
        let is_left_out = |failed: &Failure| codes.contains(&failed.error.as_str());
        let (left_out, failures) = failures.into_iter().partition(is_left_out);
        self.left_out.extend::<Vec<Failure>>(left_out);
        self.failures = failures;
        self.ok = self.failures.is_empty();
    }
}

/// With what was measured, and on what.
#[derive(Clone, Debug, Serialize)]
pub struct About {
    /// Of the measuring program.
    pub version: &'static str,
    /// RFC 3339, UTC.
    pub started_at: String,
    /// How long all of it took.
    pub took_s: f64,
    /// The machine.
    pub machine: Machine,
    /// The bus.
    pub bus: BusInfo,
}

/// The bus that was measured.
#[derive(Clone, Debug, Serialize)]
pub struct BusInfo {
    /// `NAME/VERSION`, where it says so.
    pub server: Option<String>,
    /// Whether it was started for this.
    pub is_private: bool,
    /// The directory in which it is.
    pub place: String,
    /// The kind of file system there: what is kept on disk depends on it.
    pub file_system: Option<String>,
}

/// A case without a result.
#[derive(Clone, Debug, Serialize)]
pub struct Failure {
    /// The workload.
    pub workload: &'static str,
    /// Bytes of text in each message.
    pub text_bytes: usize,
    /// A word for scripts.
    pub error: String,
    /// What failed, in words.
    pub detail: String,
}

impl Failure {
    pub(crate) fn of(case: &Case, error: &BenchError) -> Self {
        let Case { workload, text_bytes, .. } = *case;
        let (error, detail) = (error.code().to_owned(), error.to_string());
        Failure { workload: workload.name(), text_bytes, error, detail }
    }
}

/// A figure of each round: the one in the middle, and the extremes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    /// In the middle.
    pub median: f64,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
}

impl Spread {
    /// Of some figures; None of none.
    pub fn of(figures: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut figures: Vec<f64> = figures.into_iter().collect();
        figures.sort_by(f64::total_cmp);
        let (min, max) = (*figures.first()?, *figures.last()?);
        let (below, above) = (figures[(figures.len() - 1) / 2], figures[figures.len() / 2]);
        Some(Spread { median: (below + above) / 2.0, min, max })
    }

    /// How far the farthest figure is from the median, as a part of it.
    pub fn deviation(&self) -> f64 {
        if self.median == 0.0 {
            return 0.0;
        }
        (self.max - self.median).max(self.median - self.min) / self.median
    }
}

/// Of a figure that some rounds may lack: only if all have it.
fn spread_of_all(figures: impl IntoIterator<Item = Option<f64>>) -> Option<Spread> {
    let figures: Option<Vec<f64>> = figures.into_iter().collect();
    Spread::of(figures?)
}

/// The result of a case.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// The workload.
    pub workload: &'static str,
    /// The same in words.
    pub title: String,
    /// Bytes of text in each message, 0 where there are none.
    pub text_bytes: u64,
    /// Bytes of each frame, header included.
    pub frame_bytes: u64,
    /// Senders, receivers, pairs or members.
    pub peers: usize,
    /// How many rounds there were.
    pub rounds: usize,
    /// In all rounds.
    pub messages_sent: u64,
    /// Deliveries in all rounds: a message to many counts for each of them. Of kept messages, receipts.
    pub messages_received: u64,
    /// From the first write to the last arrival.
    pub elapsed_s: Option<Spread>,
    /// Deliveries; of kept messages, receipts.
    pub messages_per_s: Option<Spread>,
    /// Bytes of their frames.
    pub bytes_per_s: Option<Spread>,
    /// How long it took.
    pub latency: Option<Latency>,
    /// Processor time of the daemon for each message that was received.
    pub daemon_cpu_us_per_message: Option<Spread>,
    /// Memory of the daemon at the end of a round.
    pub daemon_resident_bytes: Option<Spread>,
    /// The most that it had since it was started.
    pub daemon_peak_bytes: Option<Spread>,
    /// Of [`Workload::Steady`].
    pub steady: Option<SteadyRow>,
    /// Of [`Workload::Idle`].
    pub idle: Option<IdleRow>,
}

/// Latencies.
#[derive(Clone, Debug, Serialize)]
pub struct Latency {
    /// From where to where.
    pub measures: &'static str,
    /// How many there are, in all rounds.
    pub count: u64,
    /// The mean.
    pub mean_us: Option<Spread>,
    /// Half of them took this long at most.
    pub p50_us: Option<Spread>,
    /// 90 %
    pub p90_us: Option<Spread>,
    /// 99 %
    pub p99_us: Option<Spread>,
    /// 99.9 %
    pub p99_9_us: Option<Spread>,
    /// 99.99 %
    pub p99_99_us: Option<Spread>,
    /// All of them.
    pub max_us: Option<Spread>,
    /// All rounds together.
    #[serde(skip)]
    pub curve: Curve,
}

/// A distribution of latencies, as it is drawn: which part of them took how long at most.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Curve(pub Vec<(f64, f64)>);

/// How well a sender kept to its rate.
#[derive(Clone, Debug, Serialize)]
pub struct SteadyRow {
    /// What it was to send.
    pub asked_per_s: u32,
    /// What it sent.
    pub sent_per_s: Option<Spread>,
    /// Whether it kept the rate in every round. If not, the latencies say more about it than about the bus.
    pub sender_kept_the_rate: bool,
    /// How late it wrote messages, in the middle and at most.
    pub sender_lag_p50_us: f64,
    /// 99 %
    pub sender_lag_p99_us: f64,
    /// At most.
    pub sender_lag_max_us: f64,
}

/// What idle sessions cost.
#[derive(Clone, Debug, Serialize)]
pub struct IdleRow {
    /// How many there were, at least.
    pub connections: u64,
    /// How many there were to be.
    pub connections_asked: u64,
    /// Why there are fewer.
    pub ended_by: Option<String>,
    /// Sessions that were opened a second.
    pub connections_per_s: Option<Spread>,
    /// What the daemon's resident memory grew by, for each.
    pub daemon_bytes_per_connection: Option<Spread>,
}

impl Row {
    pub(crate) fn of(case: Case, settings: &Settings, samples: &[Sample]) -> Self {
        let Case { workload, peers, .. } = case;
        let count = samples.first().map(|sample| sample.count).unwrap_or_default();
        let of =
            |figure: &dyn Fn(&Sample) -> Option<f64>| spread_of_all(samples.iter().map(figure));
        let per_s = |sample: &Sample, amount: f64| {
            let seconds = sample.elapsed.as_secs_f64();
            (seconds > 0.0 && amount > 0.0).then(|| amount / seconds)
        };
        let received = |sample: &Sample| sample.count.received as f64;
        let frame_bytes = count.frame_bytes as f64;
        Row {
            workload: workload.name(),
            title: title(case, settings),
            text_bytes: count.text_bytes,
            frame_bytes: count.frame_bytes,
            peers,
            rounds: samples.len(),
            messages_sent: samples.iter().map(|sample| sample.count.sent).sum(),
            messages_received: samples.iter().map(|sample| sample.count.received).sum(),
            elapsed_s: of(&|sample| Some(sample.elapsed.as_secs_f64())),
            messages_per_s: of(&|sample| per_s(sample, received(sample))),
            bytes_per_s: of(&|sample| per_s(sample, received(sample) * frame_bytes)),
            latency: latency(workload, samples),
            daemon_cpu_us_per_message: of(&|sample| {
                let micros = sample.cpu?.as_secs_f64() * 1e6;
                (sample.count.received > 0).then(|| micros / received(sample))
            }),
            daemon_resident_bytes: of(&|sample| Some(sample.memory?.resident as f64)),
            daemon_peak_bytes: of(&|sample| Some(sample.memory?.peak as f64)),
            steady: steady(settings, samples),
            idle: idle(samples),
        }
    }
}

/// What a case is called in tables.
fn title(case: Case, settings: &Settings) -> String {
    let peers = case.peers;
    match case.workload {
        Workload::RoundTrip => "round trip".to_owned(),
        Workload::OneWay => "one way".to_owned(),
        Workload::Steady => format!("one way, {}/s", with_commas(u64::from(settings.rate))),
        Workload::OneToOne => "1→1".to_owned(),
        Workload::FanIn => format!("{peers}→1"),
        Workload::Pairs => format!("{peers} pairs"),
        Workload::Group => format!("group of {peers}"),
        Workload::Broadcast => format!("1→{peers}, to everybody"),
        Workload::Topic => format!("1→{peers}, topic"),
        Workload::Durable => format!("stored, {} outstanding", settings.outstanding),
        Workload::Connect => "connect, send, close".to_owned(),
        Workload::Idle => format!("{} idle sessions", with_commas(u64::from(settings.connections))),
    }
}

/// A number with commas between its thousands.
pub fn with_commas(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

fn latency(workload: Workload, samples: &[Sample]) -> Option<Latency> {
    let histograms: Option<Vec<&Histogram<u64>>> =
        samples.iter().map(|sample| sample.latency.as_ref()).collect();
    let histograms =
        histograms.filter(|histograms| histograms.iter().any(|one| !one.is_empty()))?;
    let micros = |ns: u64| ns as f64 / 1e3;
    let at = |quantile: f64| {
        Spread::of(histograms.iter().map(|one| micros(one.value_at_quantile(quantile))))
    };
    let mut all = histogram();
    for one in &histograms {
        all.add(*one).expect("all have the same bounds");
    }
    let measures = match workload {
        Workload::RoundTrip => "from before the write to the answer's read",
        Workload::Steady => "from when it was due to the read",
        Workload::Durable => "from before the write to the receipt's read",
        Workload::Connect => "from before the connect to after the close",
        _ => "from before the write to the read",
    };
    Some(Latency {
        measures,
        count: all.len(),
        mean_us: Spread::of(histograms.iter().map(|one| one.mean() / 1e3)),
        p50_us: at(0.5),
        p90_us: at(0.9),
        p99_us: at(0.99),
        p99_9_us: at(0.999),
        p99_99_us: at(0.9999),
        max_us: Spread::of(histograms.iter().map(|one| micros(one.max()))),
        curve: curve(&all),
    })
}

/// Points at even steps between the nines, as far as there are enough latencies to tell them apart.
fn curve(all: &Histogram<u64>) -> Curve {
    const STEPS_PER_NINE: u32 = 24;
    let nines = (all.len().max(1) as f64).log10();
    let steps = (nines * f64::from(STEPS_PER_NINE)).floor() as u32;
    let quantiles =
        (0..=steps).map(|step| 1.0 - 10_f64.powf(-f64::from(step) / f64::from(STEPS_PER_NINE)));
    Curve(quantiles.map(|part| (part, all.value_at_quantile(part) as f64 / 1e3)).collect())
}

fn steady(settings: &Settings, samples: &[Sample]) -> Option<SteadyRow> {
    let rounds: Option<Vec<&Steady>> =
        samples.iter().map(|sample| sample.steady.as_ref()).collect();
    let rounds = rounds.filter(|rounds| !rounds.is_empty())?;
    let mut lag = histogram();
    for round in &rounds {
        lag.add(&round.lag).expect("all have the same bounds");
    }
    let at = |quantile: f64| lag.value_at_quantile(quantile) as f64 / 1e3;
    Some(SteadyRow {
        asked_per_s: settings.rate,
        sent_per_s: Spread::of(rounds.iter().map(|round| round.sent_per_s)),
        sender_kept_the_rate: rounds.iter().all(|round| round.kept_the_rate),
        sender_lag_p50_us: at(0.5),
        sender_lag_p99_us: at(0.99),
        sender_lag_max_us: at(1.0),
    })
}

fn idle(samples: &[Sample]) -> Option<IdleRow> {
    let rounds: Option<Vec<(&Sample, &Idle)>> =
        samples.iter().map(|sample| Some((sample, sample.idle.as_ref()?))).collect();
    let rounds = rounds.filter(|rounds| !rounds.is_empty())?;
    Some(IdleRow {
        connections: rounds.iter().map(|(_, idle)| idle.connections).min().unwrap_or(0),
        connections_asked: rounds.iter().map(|(_, idle)| idle.asked).max().unwrap_or(0),
        ended_by: rounds.iter().find_map(|(_, idle)| idle.ended_by.clone()),
        connections_per_s: Spread::of(rounds.iter().map(|(sample, idle)| {
            idle.connections as f64 / sample.elapsed.as_secs_f64().max(1e-9)
        })),
        daemon_bytes_per_connection: spread_of_all(rounds.iter().map(|(_, idle)| idle.bytes_each)),
    })
}

impl Row {
    /// Whether its rate is a result, and not only how often something was tried.
    pub fn is_rate_of_interest(&self) -> bool {
        !["round-trip", "one-way"].contains(&self.workload)
    }

    /// The size of a message's text, as people read it; empty where there is none.
    pub fn size(&self) -> String {
        if self.text_bytes == 0 {
            return String::new();
        }
        // The largest text is a little shorter than the largest frame.
        let largest = hermes_bus_proto::limits::PAYLOAD_BYTES_MAX as u64;
        let is_largest = self.frame_bytes > largest;
        show_bytes(if is_largest { largest } else { self.text_bytes })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::site::Count;
    use crate::sys::Memory;
    use serde_json::Value;
    use std::time::Duration;

    pub(crate) fn sample(received: u64, took_ms: u64, latencies_us: &[u64]) -> Sample {
        let mut latency = histogram();
        for micros in latencies_us {
            latency.record(micros * 1_000).unwrap();
        }
        Sample {
            count: Count { sent: received, received, frame_bytes: 300, text_bytes: 128 },
            elapsed: Duration::from_millis(took_ms),
            cpu: Some(Duration::from_micros(received * 2)),
            memory: Some(Memory { resident: 9 << 20, peak: 10 << 20 }),
            latency: (!latencies_us.is_empty()).then_some(latency),
            steady: None,
            idle: None,
        }
    }

    fn case(workload: Workload) -> Case {
        Case { workload, text_bytes: 128, peers: 1 }
    }

    #[test]
    fn a_spread_has_its_median_in_the_middle() {
        let spread = Spread::of([3.0, 1.0, 2.0]).unwrap();
        assert_eq!(spread, Spread { median: 2.0, min: 1.0, max: 3.0 });
        assert_eq!(spread.deviation(), 0.5);
        assert_eq!(Spread::of([1.0, 2.0]).unwrap().median, 1.5);
        assert_eq!(Spread::of([]), None);
    }

    #[test]
    fn percentiles_are_of_the_rounds_and_the_curve_is_of_all() {
        let fast: Vec<u64> = (1..=1_000).collect();
        let slow: Vec<u64> = (1..=1_000).map(|micros| micros * 3).collect();
        let samples = [sample(1_000, 500, &fast), sample(1_000, 1_000, &slow)];
        let row = Row::of(case(Workload::OneWay), &Settings::default(), &samples);
        let latency = row.latency.unwrap();
        let close = |figure: f64, wanted: f64| (figure / wanted - 1.0).abs() < 0.002;
        let p50 = latency.p50_us.unwrap();
        assert!(
            close(p50.min, 500.0) && close(p50.max, 1_500.0) && close(p50.median, 1_000.0),
            "{p50:?}"
        );
        assert!(close(latency.p99_us.unwrap().min, 990.0));
        assert!(close(latency.max_us.unwrap().max, 3_000.0));
        assert_eq!(latency.count, 2_000);
        let Curve(points) = latency.curve;
        assert!(points.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1));
        assert!(
            points.last().unwrap().0 <= 1.0 - 1.0 / 2_000.0 + 1e-9,
            "no part of a latency is drawn"
        );
        let rate = row.messages_per_s.unwrap();
        assert_eq!((rate.min, rate.max), (1_000.0, 2_000.0));
        assert_eq!(row.daemon_cpu_us_per_message.unwrap().median, 2.0);
    }

    #[test]
    fn what_one_round_could_not_measure_is_missing() {
        let mut samples = [sample(10, 1, &[]), sample(10, 1, &[])];
        samples[1].cpu = None;
        let row = Row::of(case(Workload::OneToOne), &Settings::default(), &samples);
        assert_eq!(row.daemon_cpu_us_per_message, None);
        assert!(row.latency.is_none() && row.daemon_peak_bytes.is_some());
    }

    pub(crate) fn report_of(results: Vec<Row>) -> Report {
        let machine = Machine::this();
        let bus = BusInfo {
            server: None,
            is_private: true,
            place: "/tmp".to_owned(),
            file_system: Some("ext4".to_owned()),
        };
        let started_at = "2026-11-30T12:00:00Z".to_owned();
        let about = About { version: "0.1.0", started_at, took_s: 1.0, machine, bus };
        Report::new(about, Settings::default(), results, Vec::new())
    }

    fn report() -> Report {
        let row =
            Row::of(case(Workload::OneWay), &Settings::default(), &[sample(10, 1, &[1, 2, 3])]);
        let failed =
            Failure::of(&case(Workload::OneToOne), &BenchError::Wrong("3 were lost".to_owned()));
        let Report { about, settings, .. } = report_of(Vec::new());
        Report::new(about, settings, vec![row], vec![failed])
    }

    fn keys(value: &Value) -> Vec<&str> {
        value.as_object().unwrap().keys().map(String::as_str).collect()
    }

    /// Scripts rely on these: add, but do not rename.
    #[test]
    fn the_keys_of_the_json_are_these() {
        let json = serde_json::to_value(report()).unwrap();
        let wanted = [
            "bus",
            "failures",
            "left_out",
            "machine",
            "ok",
            "results",
            "settings",
            "started_at",
            "took_s",
            "version",
        ];
        assert_eq!(keys(&json), wanted);
        assert_eq!(keys(&json["bus"]), ["file_system", "is_private", "place", "server"]);
        assert_eq!(keys(&json["machine"]), ["architecture", "cores", "cpu", "kernel"]);
        assert_eq!(keys(&json["failures"][0]), ["detail", "error", "text_bytes", "workload"]);
        let row = &json["results"][0];
        let wanted = "bytes_per_s daemon_cpu_us_per_message daemon_peak_bytes daemon_resident_bytes elapsed_s \
                      frame_bytes idle latency messages_per_s messages_received messages_sent peers rounds steady \
                      text_bytes title workload";
        assert_eq!(keys(row).join(" "), wanted);
        let wanted = "count max_us mean_us measures p50_us p90_us p99_99_us p99_9_us p99_us";
        assert_eq!(keys(&row["latency"]).join(" "), wanted);
        assert_eq!(keys(&row["latency"]["p50_us"]), ["max", "median", "min"]);
        let wanted = "broadcast durable_outstanding duration_s idle_connections messages rounds steady_per_s \
                      timeout_s window_bytes";
        assert_eq!(keys(&json["settings"]).join(" "), wanted);
        assert_eq!((&row["idle"], &json["ok"]), (&Value::Null, &Value::Bool(false)));
        assert_eq!(json["settings"]["duration_s"], 0.5);
    }

    #[test]
    fn numbers_have_commas_and_the_largest_text_is_called_what_was_asked_for() {
        assert_eq!(
            ["1", "999", "1000", "1234567"].map(|n| with_commas(n.parse().unwrap())),
            ["1", "999", "1,000", "1,234,567"]
        );
        let mut row = Row::of(case(Workload::OneToOne), &Settings::default(), &[sample(1, 1, &[])]);
        assert_eq!(row.size(), "128 B");
        (row.frame_bytes, row.text_bytes) = ((10 << 20) + 4, (10 << 20) - 200);
        assert_eq!(row.size(), "10 MiB");
    }
}

//! A snapshot as families of samples: names, types, units and help, independent of how they are
//! written down.
//!
//! Names follow OpenMetrics: base units (seconds, bytes) stand at the end of a family's name.

use std::borrow::Cow;
use std::collections::HashSet;

use hermes_bus_core::{Counters, Histogram, Usage};

use super::{Endpoint, Snapshot, Store, label};
use crate::hooks;

/// Endpoints that have series of their own. The others are counted in one gauge.
const ENDPOINTS_MAX: usize = 1_000;

/// What kind of figures a family has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Goes up and down.
    Gauge,
    /// Only goes up, as long as the daemon (or, for an endpoint, its session) lives.
    Counter,
    /// Durations by their size.
    Histogram,
    /// Words instead of figures.
    Info,
}

impl Kind {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Kind::Gauge => "gauge",
            Kind::Counter => "counter",
            Kind::Histogram => "histogram",
            Kind::Info => "info",
        }
    }
}

/// A figure.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Value {
    Whole(u64),
    Real(f64),
}

/// One figure with what it is about.
#[derive(Clone, Debug)]
pub(super) struct Sample<'a> {
    /// What is added to the family's name.
    pub(super) suffix: &'static str,
    pub(super) label: Option<(&'static str, Cow<'a, str>)>,
    pub(super) value: Value,
}

/// Figures of one kind.
#[derive(Clone, Debug)]
pub(super) struct Family<'a> {
    /// Without the prefix of all of them.
    pub(super) name: Cow<'a, str>,
    pub(super) kind: Kind,
    pub(super) unit: Option<&'static str>,
    pub(super) help: Cow<'a, str>,
    pub(super) samples: Vec<Sample<'a>>,
}

impl<'a> Family<'a> {
    fn new(name: &'static str, kind: Kind, help: &'static str) -> Self {
        let unit =
            ["bytes", "seconds"].into_iter().find(|unit| name.ends_with(&format!("_{unit}")));
        Family { name: name.into(), kind, unit, help: help.into(), samples: Vec::new() }
    }

    /// With one more sample.
    fn with(mut self, label: Option<(&'static str, Cow<'a, str>)>, value: Value) -> Self {
        let suffix = match self.kind {
            Kind::Gauge | Kind::Histogram => "",
            Kind::Counter => "_total",
            Kind::Info => "_info",
        };
        self.samples.push(Sample { suffix, label, value });
        self
    }
}

fn gauge(name: &'static str, help: &'static str, value: Value) -> Family<'static> {
    Family::new(name, Kind::Gauge, help).with(None, value)
}

fn whole(count: usize) -> Value {
    Value::Whole(count as u64)
}

/// Everything in a snapshot.
pub(super) fn families(snapshot: &Snapshot) -> Vec<Family<'_>> {
    let Snapshot {
        server,
        uptime_s,
        connections,
        router,
        usage,
        endpoints,
        delivery,
        turns,
        hooks,
        store,
    } = snapshot;
    let mut families = vec![
        Family::new("build", Kind::Info, "The bus that runs.")
            .with(Some(("server", server.as_str().into())), Value::Whole(1)),
        gauge("uptime_seconds", "Time since the daemon began.", Value::Real(*uptime_s)),
        gauge("open_connections", "Open connections, registered or not.", whole(*connections)),
        gauge("sessions", "Registered endpoints.", whole(endpoints.len())),
    ];
    families.extend(of_usage(usage));
    families.extend(of_router(Counters::iter(router)));
    families.push(histogram(
        "delivery_seconds",
        "From a message's arrival until its bytes are in the receiver's socket.",
        delivery,
    ));
    families.push(histogram(
        "turn_seconds",
        "Turns of the loop: from the wake-up until the thread sleeps again.",
        turns,
    ));
    if let Some(hooks) = hooks {
        families.extend(of_hooks(hooks));
    }
    if let Some(store) = store {
        families.extend(of_store(store));
    }
    families.extend(of_endpoints(endpoints));
    families
}

fn of_usage(usage: &Usage) -> [Family<'static>; 2] {
    let Usage { queued, answers, intake, held, receipts, timers } = *usage;
    let mut memory = Family::new(
        "memory_bytes",
        Kind::Gauge,
        "Memory charged for messages: queued for receivers, answers not read yet, unfinished and \
         waiting frames, held for names that are away for a moment, receipts that are waited for.",
    );
    for (of, bytes) in [
        ("queues", queued),
        ("answers", answers),
        ("intake", intake),
        ("held", held),
        ("receipts", receipts),
    ] {
        memory = memory.with(Some(("of", of.into())), whole(bytes));
    }
    [memory, gauge("timers", "Timers of the router.", whole(timers))]
}

// ---- counters of the router -------------------------------------------------------------------------

/// Counters of the router that belong together.
struct Group {
    family: &'static str,
    help: &'static str,
    label: &'static str,
    members: Members,
}

/// Which counters, and the value of the label of each.
enum Members {
    /// All that begin so; the label's value is the rest.
    Prefix(&'static str),
    Named(&'static [(&'static str, &'static str)]),
    /// A single one, without a label.
    Single(&'static str),
}

impl Members {
    /// The label's value of a counter that belongs here, empty if there is no label.
    fn value_of(&self, counter: &'static str) -> Option<&'static str> {
        match self {
            Members::Prefix(prefix) => counter.strip_prefix(prefix),
            Members::Single(name) => (*name == counter).then_some(""),
            Members::Named(named) => {
                named.iter().find(|(name, _)| *name == counter).map(|(_, value)| *value)
            }
        }
    }
}

const fn single(counter: &'static str, family: &'static str, help: &'static str) -> Group {
    Group { family, help, label: "", members: Members::Single(counter) }
}

const GROUPS: &[Group] = &[
    single("connections", "connections", "Connections accepted."),
    single("registrations", "registrations", "Registrations that succeeded."),
    single("replaced", "replaced_sessions", "Live sessions that lost their name to a newer one."),
    Group {
        family: "messages",
        help: "Messages that came so far: accepted by the router, handed over (once for each \
               receiver), held for an absent name, handed to it when it came back. A message can \
               count in several.",
        label: "outcome",
        members: Members::Named(&[
            ("messages", "accepted"),
            ("handed_over", "handed_over"),
            ("held", "held"),
            ("held_delivered", "held_delivered"),
        ]),
    },
    Group {
        family: "message_bytes",
        help: "Bytes of accepted payloads, and of frames handed over.",
        label: "outcome",
        members: Members::Named(&[
            ("message_bytes", "accepted"),
            ("handed_over_bytes", "handed_over"),
        ]),
    },
    single("broadcasts", "broadcasts", "Messages to everyone."),
    single("published", "published_messages", "Messages to topics."),
    Group {
        family: "followed_messages",
        help: "Messages that are followed until something is proven, by what happened to them: \
               ordered to be kept on disk, spilled to it because the receiver is slow, stored, \
               acknowledged, given back, given to another member of the group, recognised as a \
               repetition, given up, expired, removed by the bus's owner, buried as dead letters, \
               taken in once more. A message can count in several.",
        label: "step",
        members: Members::Named(&[
            ("kept", "kept"),
            ("spilled", "spilled"),
            ("stored", "stored"),
            ("acked", "acked"),
            ("nacked", "nacked"),
            ("rerouted", "rerouted"),
            ("repeated", "repeated"),
            ("given_up", "given_up"),
            ("expired", "expired"),
            ("purged", "purged"),
            ("dead_letters", "dead"),
            ("retried", "retried"),
        ]),
    },
    single(
        "receipts",
        "receipts",
        "Receipts given: those that senders have asked for, and courtesy receipts.",
    ),
    Group {
        family: "sender_waits",
        help: "Times that a sender was kept waiting: for a receiver's queue or the disk, or because it sent more \
               than it may.",
        label: "reason",
        members: Members::Named(&[("sender_waits", "queue_full"), ("pace_waits", "pace")]),
    },
    Group {
        family: "refused",
        help: "Messages, frames and connections that were refused.",
        label: "reason",
        members: Members::Prefix("refused_"),
    },
    Group {
        family: "dropped_messages",
        help: "Messages that were accepted and then dropped.",
        label: "reason",
        members: Members::Prefix("dropped_"),
    },
    single(
        "presence_left_out",
        "presence_left_out",
        "Endpoints that came or went unseen by somebody who watches, and leaves too much unread.",
    ),
    Group {
        family: "ignored_frames",
        help: "Frames that were ignored.",
        label: "reason",
        members: Members::Prefix("ignored_"),
    },
    Group {
        family: "timeouts",
        help: "Connections that were ended because their time was up.",
        label: "reason",
        members: Members::Prefix("timeout_"),
    },
    single("impatient_pongs", "impatient_pongs", "Unsolicited pongs to impatient clients."),
];

/// Every counter, in its group. One that belongs to no group is a family of its own, so that none
/// is ever missing.
fn of_router(counters: impl Iterator<Item = (&'static str, u64)>) -> Vec<Family<'static>> {
    let mut families: Vec<Family<'static>> =
        GROUPS.iter().map(|group| Family::new(group.family, Kind::Counter, group.help)).collect();
    for (counter, count) in counters {
        let place = GROUPS.iter().enumerate().find_map(|(index, group)| {
            Some((index, group.label, group.members.value_of(counter)?))
        });
        match place {
            Some((index, label, value)) => {
                let label = (!label.is_empty()).then_some((label, value.into()));
                let family = &mut families[index];
                family.samples.push(Sample { suffix: "_total", label, value: Value::Whole(count) });
            }
            None => families.push(
                Family::new(counter, Kind::Counter, "A counter of the router.")
                    .with(None, Value::Whole(count)),
            ),
        }
    }
    families
}

// ---- hooks, durations, endpoints --------------------------------------------------------------------

fn of_hooks(hooks: &hooks::Counters) -> [Family<'static>; 4] {
    let hooks::Counters {
        succeeded,
        failed,
        timed_out,
        not_started,
        skipped,
        dropped,
        ref exits,
        running,
        waiting,
    } = *hooks;
    let mut runs = Family::new("hook_runs", Kind::Counter, "Calls of hooks, by how they ended.");
    for (result, count) in [
        ("succeeded", succeeded),
        ("failed", failed),
        ("timed_out", timed_out),
        ("not_started", not_started),
        ("skipped", skipped),
        ("dropped", dropped),
    ] {
        runs = runs.with(Some(("result", result.into())), Value::Whole(count));
    }
    let mut ends = Family::new(
        "hook_exits",
        Kind::Counter,
        "Hooks whose process ended by itself, by exit code or signal.",
    );
    for (exit, count) in exits {
        let exit = match exit {
            hooks::Exit::Code(code) => format!("code {code}"),
            hooks::Exit::Signal(signal) => format!("signal {signal}"),
        };
        ends = ends.with(Some(("exit", exit.into())), Value::Whole(*count));
    }
    [
        runs,
        ends,
        gauge("hooks_running", "Hooks that run now.", Value::Whole(running)),
        gauge("hooks_waiting", "Calls of hooks that wait now.", Value::Whole(waiting)),
    ]
}

fn of_store(store: &Store) -> Vec<Family<'static>> {
    let Store { can_write, orders, pending, refused, commits, removed, latency, file: _, figures } =
        store;
    let counter = |name, help, count: u64| {
        Family::new(name, Kind::Counter, help).with(None, Value::Whole(count))
    };
    let mut families = vec![
        gauge(
            "store_up",
            "Whether messages can be kept on disk now (1) or are refused (0).",
            Value::Whole(u64::from(*can_write)),
        ),
        counter("store_orders", "Orders that were handed to the store.", *orders),
        gauge(
            "store_pending_orders",
            "Orders of which it is not known yet that they are on disk.",
            Value::Whole(*pending),
        ),
        counter("store_refused_messages", "Messages that could not be kept.", *refused),
        counter("store_commits", "Times that orders were said to be on disk.", *commits),
        Family::new(
            "store_removed_dead_letters",
            Kind::Counter,
            "Dead letters that were removed: kept for their time, or more than may be kept.",
        )
        .with(Some(("reason", "age".into())), Value::Whole(removed.dead_letters_aged))
        .with(Some(("reason", "room".into())), Value::Whole(removed.dead_letters_displaced)),
        counter(
            "store_dropped_history_entries",
            "Entries of the history that were dropped: the disk did not keep up with them.",
            removed.history_dropped,
        ),
        histogram(
            "store_latency_seconds",
            "From the handing over of orders until it was known that they are on disk.",
            latency,
        ),
    ];
    let Some(figures) = figures else { return families };
    let mut bytes = Family::new("store_bytes", Kind::Gauge, "Sizes of the store's files.");
    for (of, count) in [
        ("database", figures.database_bytes),
        ("write_ahead_log", figures.wal_bytes),
        ("free_in_database", figures.free_bytes),
    ] {
        bytes = bytes.with(Some(("of", of.into())), Value::Whole(count));
    }
    families.push(bytes);
    for (name, help, count) in [
        ("store_waiting_messages", "Messages that wait on disk.", figures.messages),
        ("store_dead_letters", "Dead letters.", figures.dead_letters),
        ("store_dead_letter_bytes", "Bytes of dead letters.", figures.dead_letter_bytes),
        ("store_history_entries", "Entries of the history.", figures.history_entries),
        ("store_history_bytes", "Bytes of the history.", figures.history_bytes),
    ] {
        families.push(gauge(name, help, Value::Whole(count)));
    }
    families
}

fn histogram(name: &'static str, help: &'static str, durations: &Histogram) -> Family<'static> {
    let mut family = Family::new(name, Kind::Histogram, help);
    let mut up_to = 0;
    for (bound, count) in durations.buckets() {
        up_to += count;
        let bound = bound.map_or("+Inf".to_owned(), |bound| canonical(bound.as_secs_f64()));
        let label = Some(("le", bound.into()));
        family.samples.push(Sample { suffix: "_bucket", label, value: Value::Whole(up_to) });
    }
    let sum = Value::Real(durations.sum().as_secs_f64());
    for (suffix, value) in [("_count", Value::Whole(up_to)), ("_sum", sum)] {
        family.samples.push(Sample { suffix, label: None, value });
    }
    family
}

/// A bound as OpenMetrics wants it written, so that every program writes the same one the same way:
/// like Go's `%g`, and with `.0` behind whole numbers.
fn canonical(bound: f64) -> String {
    if bound >= 1e-4 {
        return format!("{bound:?}");
    }
    let scientific = format!("{bound:e}");
    match scientific.split_once("e-") {
        Some((digits, exponent)) if exponent.len() == 1 => format!("{digits}e-0{exponent}"),
        _ => scientific,
    }
}

/// Series of an endpoint: name, kind, help, value.
type EndpointSeries = (&'static str, Kind, &'static str, fn(&Endpoint) -> Value);

const ENDPOINT_SERIES: [EndpointSeries; 9] = [
    (
        "endpoint_session_start_time_seconds",
        Kind::Gauge,
        "When the endpoint's session registered, as Unix time. Its counters begin there.",
        |endpoint| Value::Real(endpoint.details.connected_at),
    ),
    (
        "endpoint_queue_bytes",
        Kind::Gauge,
        "Bytes that wait for the endpoint to read.",
        |endpoint| Value::Whole(endpoint.details.pending.bytes),
    ),
    (
        "endpoint_queue_peak_bytes",
        Kind::Gauge,
        "The most bytes that ever waited for the endpoint's session.",
        |endpoint| Value::Whole(endpoint.pending_bytes_peak),
    ),
    (
        "endpoint_queue_messages",
        Kind::Gauge,
        "Messages that wait for the endpoint to read.",
        |endpoint| Value::Whole(endpoint.details.pending.messages),
    ),
    ("endpoint_sent_messages", Kind::Counter, "Messages that the endpoint sent.", |endpoint| {
        Value::Whole(endpoint.details.sent.total.messages)
    }),
    ("endpoint_sent_bytes", Kind::Counter, "Bytes of their frames.", |endpoint| {
        Value::Whole(endpoint.details.sent.total.bytes)
    }),
    (
        "endpoint_received_messages",
        Kind::Counter,
        "Messages handed over to the endpoint.",
        |endpoint| Value::Whole(endpoint.details.received.total.messages),
    ),
    ("endpoint_received_bytes", Kind::Counter, "Bytes of their frames.", |endpoint| {
        Value::Whole(endpoint.details.received.total.bytes)
    }),
    (
        "endpoint_dropped_messages",
        Kind::Counter,
        "Messages for the endpoint that were dropped.",
        |endpoint| Value::Whole(endpoint.details.dropped),
    ),
];

/// The series of endpoints: of those that have been there longest, if there are too many. So a
/// series does not come and go with every newcomer.
fn of_endpoints(endpoints: &[Endpoint]) -> impl Iterator<Item = Family<'_>> {
    let mut oldest_first: Vec<&Endpoint> = endpoints.iter().collect();
    oldest_first.sort_by(|a, b| {
        let (a, b) = (&a.details, &b.details);
        a.connected_at.total_cmp(&b.connected_at).then_with(|| a.endpoint.cmp(&b.endpoint))
    });
    let mut taken = HashSet::new();
    let mut shown: Vec<(Cow<'_, str>, &Endpoint)> = Vec::new();
    for endpoint in oldest_first {
        let label = label::endpoint(&endpoint.details.endpoint);
        // Somebody may have chosen the label of another one as a name; the same series twice would
        // make the whole text unreadable.
        if shown.len() < ENDPOINTS_MAX && taken.insert(label.clone()) {
            shown.push((label, endpoint));
        }
    }
    let left_out = gauge(
        "endpoints_left_out",
        "Registered endpoints without series of their own.",
        whole(endpoints.len() - shown.len()),
    );
    let series = ENDPOINT_SERIES.into_iter().map(move |(name, kind, help, value)| {
        shown.iter().fold(Family::new(name, kind, help), |family, (label, endpoint)| {
            family.with(Some(("endpoint", label.clone())), value(endpoint))
        })
    });
    std::iter::once(left_out).chain(series)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::metrics::tests::endpoint;

    #[test]
    fn every_counter_of_the_router_has_its_place() {
        let counters = Counters::default();
        // A figure of its own for each, to see where it ends up.
        let counted: Vec<_> =
            counters.iter().enumerate().map(|(n, (name, _))| (name, 1_000 + n as u64)).collect();
        let families = of_router(counted.clone().into_iter());
        assert_eq!(families.len(), GROUPS.len(), "a counter without a group has no help: add it");
        for (name, count) in counted {
            let found = families.iter().flat_map(|family| &family.samples);
            let found = found.filter(|sample| sample.value == Value::Whole(count)).count();
            assert_eq!(found, 1, "{name}");
        }
        for family in &families {
            assert!(!family.samples.is_empty(), "no counter belongs to {}", family.name);
        }
    }

    #[test]
    fn a_counter_that_nobody_thought_of_is_not_lost() {
        let families = of_router([("brand_new", 7)].into_iter());
        let family = families.iter().find(|family| family.name == "brand_new").unwrap();
        assert_eq!(family.samples[0].value, Value::Whole(7));
    }

    #[test]
    fn buckets_hold_everything_up_to_their_bound() {
        let mut durations = Histogram::default();
        for (duration, count) in [(1, 2), (3, 5), (100_000_000, 1)] {
            durations.record_many(Duration::from_micros(duration), count);
        }
        let family = histogram("x_seconds", "", &durations);
        let at = |le: &str| {
            let of_bound = |sample: &&Sample<'_>| sample.label.as_ref().is_some_and(|l| l.1 == le);
            family.samples.iter().find(of_bound).map(|sample| sample.value)
        };
        assert_eq!(at("1e-06"), Some(Value::Whole(2)));
        assert_eq!(at("2e-06"), Some(Value::Whole(2)));
        assert_eq!(at("4e-06"), Some(Value::Whole(7)));
        assert_eq!(at("67.108864"), Some(Value::Whole(7)));
        assert_eq!(at("+Inf"), Some(Value::Whole(8)));
        let [count, sum] = family.samples.last_chunk().unwrap();
        assert_eq!((count.suffix, count.value), ("_count", Value::Whole(8)));
        assert_eq!((sum.suffix, sum.value), ("_sum", Value::Real(100.000017)));
    }

    #[test]
    fn bounds_are_written_in_the_canonical_way() {
        for (bound, written) in [
            (1e-6, "1e-06"),
            (6.4e-5, "6.4e-05"),
            (0.000128, "0.000128"),
            (1.048576, "1.048576"),
            (1.0, "1.0"),
            (67.108864, "67.108864"),
        ] {
            assert_eq!(canonical(bound), written);
        }
    }

    #[test]
    fn the_oldest_endpoints_have_series_and_the_rest_is_counted() {
        let mut endpoints: Vec<Endpoint> =
            (0..1_500).map(|n| endpoint(&format!("e{n}"), 2_000.0 - f64::from(n))).collect();
        // One takes the label of another one for a name.
        endpoints.push(endpoint("\u{7}", 1.0));
        endpoints.push(endpoint(&label::endpoint("\u{7}"), 2.0));
        let families: Vec<_> = of_endpoints(&endpoints).collect();
        assert_eq!(families[0].name, "endpoints_left_out");
        assert_eq!(families[0].samples[0].value, Value::Whole(502));
        for family in &families[1..] {
            let labels: HashSet<_> =
                family.samples.iter().map(|sample| sample.label.clone().unwrap().1).collect();
            assert_eq!((family.samples.len(), labels.len()), (1_000, 1_000), "{}", family.name);
            assert!(
                labels.contains("e1499") && labels.contains("e501") && !labels.contains("e500")
            );
        }
    }
}

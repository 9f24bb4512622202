//! The router's events as log lines.

use std::time::{Duration, Instant};

use hermes_bus_core::{Event, Severity};

use super::target;
use super::throttle::Throttle;

/// How long events of a kind are counted together.
const WINDOW: Duration = Duration::from_secs(10);
/// A name that is not there is no emergency, and some senders try for hours.
const NOT_FOUND_WINDOW: Duration = Duration::from_secs(60);

/// Writes one line for an event; when there are too many of a kind, only how many more.
pub(crate) struct EventLog {
    throttle: Throttle<Culprit, Event>,
}

/// Whom an event names.
#[derive(PartialEq, Eq, Hash)]
enum Culprit {
    Endpoint(String),
    Process(Option<u32>),
}

impl Culprit {
    fn of(event: &Event) -> Self {
        let fields = event.fields();
        match fields.endpoint {
            Some(name) => Culprit::Endpoint(name.to_owned()),
            None => Culprit::Process(fields.pid),
        }
    }
}

impl EventLog {
    pub(crate) fn new() -> Self {
        EventLog { throttle: Throttle::new() }
    }

    /// Writes a line, or counts it.
    pub(crate) fn log(&mut self, event: Event) {
        if event.severity() == Severity::Debug {
            let f = event.fields();
            tracing::debug!(
                target: target::ROUTER,
                event = f.event,
                endpoint = f.endpoint,
                reason = f.reason,
                "{event}"
            );
            return;
        }
        let window = match event {
            Event::NotFound { .. } => NOT_FOUND_WINDOW,
            _ => WINDOW,
        };
        let (kind, culprit) = (event.fields().event, Culprit::of(&event));
        if let Some(event) = self.throttle.admit(kind, culprit, window, Instant::now(), event) {
            warn(&event, None);
        }
    }

    /// Says how many lines were left out of the kinds whose time is up.
    pub(crate) fn sum_up(&mut self) {
        for (count, last) in self.throttle.take_over(Instant::now()) {
            warn(&last, Some(count));
        }
    }

    /// Says how many lines were left out of all kinds.
    pub(crate) fn sum_up_all(&mut self) {
        for (count, last) in self.throttle.take_all() {
            warn(&last, Some(count));
        }
    }
}

/// A line about an event, or about so many that were left out.
fn warn(event: &Event, left_out: Option<u64>) {
    let f = event.fields();
    let more = left_out.map_or(String::new(), |count| format!("{count} more like this: "));
    tracing::warn!(
        target: target::ROUTER,
        event = f.event,
        endpoint = f.endpoint,
        uid = f.uid,
        pid = f.pid,
        messages = f.messages,
        bytes = f.bytes,
        reason = f.reason,
        left_out,
        "{more}{event}"
    );
}

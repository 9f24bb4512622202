//! The last calls into the router, kept cheaply and written out when a run fails.

use std::collections::VecDeque;
use std::fmt;

use hermes_bus_core::{CloseReason, Effect, Next, Probed, Reading, SessionKey};

use crate::Script;
use crate::call::Call;

/// Lines that are kept.
const LINES_MAX: usize = 100;
/// Bytes of a payload that are shown.
const SHOWN_BYTES: usize = 88;

/// The beginning of some bytes.
#[derive(Clone, Copy)]
struct Snippet {
    bytes: usize,
    shown: [u8; SHOWN_BYTES],
}

impl Snippet {
    fn of(bytes: &[u8]) -> Self {
        let mut shown = [0; SHOWN_BYTES];
        let beginning = &bytes[..bytes.len().min(SHOWN_BYTES)];
        shown[..beginning.len()].copy_from_slice(beginning);
        Snippet { bytes: bytes.len(), shown }
    }
}

impl fmt::Display for Snippet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = &self.shown[..self.bytes.min(SHOWN_BYTES)];
        let more = if self.bytes > SHOWN_BYTES { "…" } else { "" };
        write!(f, "{} bytes: {}{more}", self.bytes, shown.escape_ascii())
    }
}

#[derive(Clone, Copy)]
enum Line {
    Event(usize),
    Named(&'static str),
    Of(&'static str, SessionKey),
    Connected(SessionKey, u32),
    Reading(SessionKey, Reading),
    Frame(SessionKey, Snippet, Probed, Next),
    Buffered(SessionKey, usize, Option<usize>),
    Closed(SessionKey, CloseReason),
    Written(SessionKey, Snippet),
    Many(&'static str, usize),
    EffectClose(SessionKey, CloseReason),
    EffectResume(SessionKey),
    EffectAdmin(SessionKey),
    EffectLog(&'static str),
}

/// The last calls.
#[derive(Default)]
pub(super) struct Trail {
    lines: VecDeque<(u64, Line)>,
}

impl Trail {
    fn push(&mut self, at_us: u64, line: Line) {
        if self.lines.len() == LINES_MAX {
            self.lines.pop_front();
        }
        self.lines.push_back((at_us, line));
    }

    /// An event of the script is played.
    pub(super) fn event(&mut self, at_us: u64, index: usize) {
        self.push(at_us, Line::Event(index));
    }

    /// The router was called.
    pub(super) fn call(&mut self, at_us: u64, call: &Call<'_>, effects: &[Effect]) {
        let line = match *call {
            Call::Began { restored, .. } => {
                Line::Many("a router begins; names restored", restored.len())
            }
            Call::TurnBegan => Line::Named("begin_turn"),
            Call::Connected { key, credentials } => Line::Connected(key, credentials.uid),
            Call::Reading { key, reading } => Line::Reading(key, reading),
            Call::Frame { key, payload, probed, next } => {
                Line::Frame(key, Snippet::of(payload), probed, next)
            }
            Call::FrameRefused { key, .. } => Line::Of("refuse_frame", key),
            Call::Buffered { key, bytes, missing } => Line::Buffered(key, bytes, missing),
            Call::Eof { key } => Line::Of("eof", key),
            Call::Leaving { key } => Line::Of("leaving", key),
            Call::Deaf { key } => Line::Of("deaf", key),
            Call::Closed { key, reason } => Line::Closed(key, reason),
            Call::Written { key, bytes } => Line::Written(key, Snippet::of(bytes)),
            Call::MoreInput { key } => Line::Of("more_input", key),
            Call::TurnEnded => Line::Named("end_turn"),
            Call::Configured { .. } => Line::Named("configure"),
            Call::AdminAnswered { key, .. } => Line::Of("answer_admin", key),
            Call::ShutDown => Line::Named("shut_down"),
            Call::NamedSessionsEnded => Line::Named("end_named_sessions"),
            Call::WaitingSendersTaken { taken } => Line::Many("take_waiting_senders", taken.len()),
            Call::Tapped { batch } => Line::Many("take_tapped", batch.len()),
            Call::Ended { left: None } => Line::Named("the router ends, and leaves nothing"),
            Call::Ended { left: Some(left) } => {
                Line::Many("the router ends; names left", left.len())
            }
            Call::Settled => Line::Named("everything has settled"),
        };
        self.push(at_us, line);
        for effect in effects {
            let line = match effect {
                Effect::Close(key, reason) => Line::EffectClose(*key, *reason),
                Effect::Resume(key) => Line::EffectResume(*key),
                Effect::Admin(key, _) => Line::EffectAdmin(*key),
                Effect::Log(event) => Line::EffectLog(event.fields().event),
            };
            self.push(at_us, line);
        }
    }

    /// What people read. `who` says whose a session is.
    pub(super) fn lines(&self, script: &Script, who: impl Fn(SessionKey) -> String) -> Vec<String> {
        self.lines.iter().map(|(at_us, line)| show(*at_us, *line, script, &who)).collect()
    }
}

fn show(at_us: u64, line: Line, script: &Script, who: &impl Fn(SessionKey) -> String) -> String {
    let (ms, us) = (at_us / 1_000, at_us % 1_000);
    let text = match line {
        Line::Event(index) => match script.events.get(index) {
            Some(event) => format!("event {index}: client {} {:?}", event.client, event.action),
            None => format!("event {index}"),
        },
        Line::Named(name) => name.to_owned(),
        Line::Of(name, key) => format!("{name} {}", who(key)),
        Line::Connected(key, uid) => format!("connected {} uid={uid}", who(key)),
        Line::Reading(key, reading) => format!("reading {} -> {reading:?}", who(key)),
        Line::Frame(key, payload, probed, next) => {
            let probed = if probed == Probed::Yes { " (probed)" } else { "" };
            let next = match next {
                Next::Probe(holder) => format!("Probe({})", who(holder)),
                next => format!("{next:?}"),
            };
            format!("frame {}{probed} -> {next}; {payload}", who(key))
        }
        Line::Buffered(key, bytes, missing) => {
            format!("buffered {} {bytes} bytes, missing {missing:?}", who(key))
        }
        Line::Closed(key, reason) => format!("closed {} {}", who(key), reason.as_str()),
        Line::Written(key, bytes) => format!("written {} {bytes}", who(key)),
        Line::Many(name, count) => format!("{name}: {count}"),
        Line::EffectClose(key, reason) => format!("  => close {} {}", who(key), reason.as_str()),
        Line::EffectResume(key) => format!("  => resume {}", who(key)),
        Line::EffectAdmin(key) => format!("  => admin {}", who(key)),
        Line::EffectLog(event) => format!("  => log {event}"),
    };
    format!("{ms:>9}.{us:03} ms  {text}")
}

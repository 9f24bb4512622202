//! The last calls into the router, kept cheaply and written out when a run fails.
//!
//! What repeats itself and tells nothing new is one line with a count, so that what matters is not
//! pushed out by it: turns in which nothing happens, a peer that drips, a queue that is written out.
//! Events of the script are never left out.

use std::collections::VecDeque;
use std::fmt;

use hermes_bus_core::{CloseReason, Effect, Next, Probed, Reading, SessionKey};

use crate::call::Call;

/// One line of what happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Virtual time, in microseconds.
    pub at_us: u64,
    /// What happened.
    pub what: Happened,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Happened {
    /// An event was played: its place in the script that was played.
    Event(usize),
    /// A call into the router, or several that are alike, or an effect, for people.
    Call(String),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>9}.{:03} ms  ", self.at_us / 1_000, self.at_us % 1_000)?;
        match &self.what {
            Happened::Event(place) => write!(f, "event {place}"),
            Happened::Call(text) => f.write_str(text),
        }
    }
}

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
    TurnBegan,
    /// Turns in which nothing happened.
    QuietTurns,
    Named(&'static str),
    Of(&'static str, SessionKey),
    Connected(SessionKey, u32),
    /// `reading`, and `buffered` if that came right behind it.
    Read(SessionKey, Reading, Option<Kept>),
    Frame(SessionKey, Snippet, Probed, Next),
    Buffered(SessionKey, Kept),
    Closed(SessionKey, CloseReason),
    /// What was written first, and the bytes of all writes.
    Written(SessionKey, Snippet, usize),
    Many(&'static str, usize),
    EffectClose(SessionKey, CloseReason),
    EffectResume(SessionKey),
    EffectAdmin(SessionKey),
    EffectLog(&'static str),
}

/// What the driver keeps of a connection: how much, and what the unfinished frame lacks.
#[derive(Clone, Copy)]
struct Kept {
    bytes: usize,
    missing: Option<usize>,
}

impl fmt::Display for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.missing {
            Some(missing) => write!(f, "{} bytes, {missing} missing", self.bytes),
            None => write!(f, "{} bytes", self.bytes),
        }
    }
}

impl Line {
    /// Whether this is what a driver does all the time, and the other is the same again.
    fn repeats(&self, other: &Line) -> bool {
        match (self, other) {
            (Line::Read(key, reading, _), Line::Read(other_key, other_reading, _)) => {
                key == other_key && reading == other_reading
            }
            (Line::Written(key, ..), Line::Written(other_key, ..)) => key == other_key,
            _ => false,
        }
    }
}

/// A line, and how often it was seen in a row.
#[derive(Clone, Copy)]
struct Entry {
    /// When it was seen last.
    at_us: u64,
    line: Line,
    times: u64,
}

impl Entry {
    /// Takes up a later entry that says the same.
    fn merge(&mut self, later: Entry) {
        self.at_us = later.at_us;
        self.times += later.times;
        match (&mut self.line, later.line) {
            (Line::Written(_, _, bytes_in_all), Line::Written(_, _, bytes)) => {
                *bytes_in_all += bytes;
            }
            (line, later) => *line = later,
        }
    }
}

/// The last calls.
#[derive(Default)]
pub(super) struct Trail {
    entries: VecDeque<Entry>,
    /// When each event was played.
    events_at_us: Vec<u64>,
    /// Lines other than events that are not kept any more.
    left_out: u64,
}

impl Trail {
    fn push(&mut self, at_us: u64, line: Line) {
        if self.entries.len() == LINES_MAX {
            let oldest = self.entries.pop_front();
            let is_call = oldest.is_some_and(|entry| !matches!(entry.line, Line::Event(_)));
            self.left_out += u64::from(is_call);
        }
        self.entries.push_back(Entry { at_us, line, times: 1 });
    }

    /// The entry so far from the end; 0 is the last one.
    fn back(&mut self, distance: usize) -> Option<&mut Entry> {
        let at = self.entries.len().checked_sub(distance + 1)?;
        self.entries.get_mut(at)
    }

    /// An event of the script is played.
    pub(super) fn event(&mut self, at_us: u64, index: usize) {
        self.events_at_us.push(at_us);
        self.push(at_us, Line::Event(index));
    }

    /// The router was called.
    pub(super) fn call(&mut self, at_us: u64, call: &Call<'_>, effects: &[Effect]) {
        match *call {
            Call::Reading { key, reading } => self.reading(at_us, key, reading),
            Call::Buffered { key, bytes, missing } => {
                self.buffered(at_us, key, Kept { bytes, missing });
            }
            Call::Written { key, bytes } => self.written(at_us, key, bytes),
            Call::TurnEnded if effects.is_empty() => self.turn_ended(at_us),
            _ => self.push(at_us, line(call)),
        }
        for effect in effects {
            let line = match effect {
                Effect::Close(key, reason) => Line::EffectClose(*key, *reason),
                Effect::Resume(key) => Line::EffectResume(*key),
                Effect::Admin(key, _) => Line::EffectAdmin(*key),
                // The model takes offence at it.
                Effect::Store(..) | Effect::LookWhetherRead(_) | Effect::Trace(..) => continue,
                Effect::Log(event) => Line::EffectLog(event.fields().event),
            };
            self.push(at_us, line);
        }
    }

    /// The driver asks twice where once would do: the second answer, if it is the same, is no news.
    fn reading(&mut self, at_us: u64, key: SessionKey, reading: Reading) {
        let line = Line::Read(key, reading, None);
        match self.back(0) {
            Some(Entry { line: last @ Line::Read(_, _, None), .. }) if last.repeats(&line) => {}
            _ => self.push(at_us, line),
        }
    }

    fn buffered(&mut self, at_us: u64, key: SessionKey, kept: Kept) {
        match self.back(0) {
            Some(Entry { line: Line::Read(of, _, kept_then @ None), .. }) if *of == key => {
                *kept_then = Some(kept);
            }
            _ => return self.push(at_us, Line::Buffered(key, kept)),
        }
        // Was it the same before that?
        let Some(read) = self.entries.pop_back() else { return };
        match self.back(0) {
            Some(before) if before.line.repeats(&read.line) => before.merge(read),
            _ => self.entries.push_back(read),
        }
    }

    fn written(&mut self, at_us: u64, key: SessionKey, bytes: &[u8]) {
        match self.back(0) {
            Some(Entry { line: Line::Written(to, _, bytes_in_all), times, at_us: at })
                if *to == key =>
            {
                *bytes_in_all += bytes.len();
                *times += 1;
                *at = at_us;
            }
            _ => self.push(at_us, Line::Written(key, Snippet::of(bytes), bytes.len())),
        }
    }

    /// Without any effect.
    fn turn_ended(&mut self, at_us: u64) {
        let is_routine = |entry: &&Entry| matches!(entry.line, Line::Read(..) | Line::Written(..));
        let lines = self.entries.iter().rev().take_while(is_routine).count();
        let is_routine = matches!(self.back(lines), Some(Entry { line: Line::TurnBegan, .. }));
        if is_routine && lines == 0 {
            self.entries.pop_back();
            return match self.back(0) {
                Some(Entry { line: Line::QuietTurns, times, at_us: at }) => {
                    *times += 1;
                    *at = at_us;
                }
                _ => self.push(at_us, Line::QuietTurns),
            };
        }
        self.push(at_us, Line::Named(END_TURN));
        if is_routine && self.is_like_the_turn_before(lines + 2) {
            for _ in 0..lines + 2 {
                let Some(last) = self.entries.pop_back() else { return };
                // The line that this one repeats is one turn away.
                if let Some(before) = self.back(lines + 1) {
                    before.merge(last);
                }
            }
        }
    }

    /// Whether the last so many lines, which are a turn, repeat those before them.
    fn is_like_the_turn_before(&self, lines: usize) -> bool {
        let Some(began) = self.entries.len().checked_sub(lines) else { return false };
        let Some(began_before) = began.checked_sub(lines) else { return false };
        let line = |at: usize| self.entries[at].line;
        matches!(line(began_before), Line::TurnBegan)
            && matches!(line(began - 1), Line::Named(END_TURN))
            && (1..lines - 1).all(|n| line(began_before + n).repeats(&line(began + n)))
    }

    /// What people read: all events, and the last calls. `who` says whose a session is.
    pub(super) fn steps(&self, who: impl Fn(SessionKey) -> String) -> Vec<Step> {
        let event_of = |entry: &Entry| match entry.line {
            Line::Event(index) => Some(index),
            _ => None,
        };
        let kept_from = self.entries.iter().find_map(event_of).unwrap_or(self.events_at_us.len());
        let early = self.events_at_us.iter().enumerate().take(kept_from);
        let mut steps: Vec<Step> = early
            .map(|(index, at_us)| Step { at_us: *at_us, what: Happened::Event(index) })
            .collect();
        if let Some(oldest) = self.entries.front().filter(|_| self.left_out > 0) {
            let what = format!("… and {} lines before this one", self.left_out);
            steps.push(Step { at_us: oldest.at_us, what: Happened::Call(what) });
        }
        steps.extend(self.entries.iter().map(|entry| {
            let what = match event_of(entry) {
                Some(index) => Happened::Event(index),
                None => Happened::Call(show(entry, &who)),
            };
            Step { at_us: entry.at_us, what }
        }));
        steps
    }
}

const END_TURN: &str = "end_turn";

fn line(call: &Call<'_>) -> Line {
    match *call {
        Call::Began { restored, .. } => {
            Line::Many("a router begins; names restored", restored.len())
        }
        Call::TurnBegan => Line::TurnBegan,
        Call::Connected { key, credentials } => Line::Connected(key, credentials.uid),
        Call::Reading { key, reading } => Line::Read(key, reading, None),
        Call::Frame { key, payload, probed, next } => {
            Line::Frame(key, Snippet::of(payload), probed, next)
        }
        Call::FrameRefused { key, .. } => Line::Of("refuse_frame", key),
        Call::Buffered { key, bytes, missing } => Line::Buffered(key, Kept { bytes, missing }),
        Call::Eof { key } => Line::Of("eof", key),
        Call::Leaving { key } => Line::Of("leaving", key),
        Call::Deaf { key } => Line::Of("deaf", key),
        Call::Closed { key, reason } => Line::Closed(key, reason),
        Call::Written { key, bytes } => Line::Written(key, Snippet::of(bytes), bytes.len()),
        Call::MoreInput { key } => Line::Of("more_input", key),
        Call::TurnEnded => Line::Named(END_TURN),
        Call::Configured { .. } => Line::Named("configure"),
        Call::AdminAnswered { key, .. } => Line::Of("answer_admin", key),
        Call::ShutDown => Line::Named("shut_down"),
        Call::NamedSessionsEnded => Line::Named("end_named_sessions"),
        Call::WaitingSendersTaken { taken } => Line::Many("take_waiting_senders", taken.len()),
        Call::Tapped { batch } => Line::Many("take_tapped", batch.len()),
        Call::Ended { left: None } => Line::Named("the router ends, and leaves nothing"),
        Call::Ended { left: Some(left) } => Line::Many("the router ends; names left", left.len()),
        Call::Settled => Line::Named("everything has settled"),
    }
}

fn show(entry: &Entry, who: &impl Fn(SessionKey) -> String) -> String {
    let text = match entry.line {
        Line::Event(index) => format!("event {index}"),
        Line::TurnBegan => "begin_turn".to_owned(),
        Line::QuietTurns => "begin_turn, end_turn: nothing happens".to_owned(),
        Line::Named(name) => name.to_owned(),
        Line::Of(name, key) => format!("{name} {}", who(key)),
        Line::Connected(key, uid) => format!("connected {} uid={uid}", who(key)),
        Line::Read(key, reading, kept) => {
            let reading = match reading {
                Reading::UpTo(usize::MAX) => "anything".to_owned(),
                Reading::UpTo(bytes) => format!("up to {bytes} bytes"),
                Reading::Held => "held".to_owned(),
                Reading::Over => "over".to_owned(),
            };
            let kept = kept.map(|kept| format!("; buffered {kept}")).unwrap_or_default();
            format!("reading {} -> {reading}{kept}", who(key))
        }
        Line::Frame(key, payload, probed, next) => {
            let probed = if probed == Probed::Yes { " (probed)" } else { "" };
            let next = match next {
                Next::Probe(holder) => format!("Probe({})", who(holder)),
                next => format!("{next:?}"),
            };
            format!("frame {}{probed} -> {next}; {payload}", who(key))
        }
        Line::Buffered(key, kept) => format!("buffered {} {kept}", who(key)),
        Line::Closed(key, reason) => format!("closed {} {}", who(key), reason.as_str()),
        Line::Written(key, bytes, _) if entry.times == 1 => format!("written {} {bytes}", who(key)),
        Line::Written(key, first, bytes_in_all) => {
            let times = entry.times;
            let who = who(key);
            return format!("written {who} {times} times, {bytes_in_all} bytes; first {first}");
        }
        Line::Many(name, count) => format!("{name}: {count}"),
        Line::EffectClose(key, reason) => format!("  => close {} {}", who(key), reason.as_str()),
        Line::EffectResume(key) => format!("  => resume {}", who(key)),
        Line::EffectAdmin(key) => format!("  => admin {}", who(key)),
        Line::EffectLog(event) => format!("  => log {event}"),
    };
    if entry.times == 1 { text } else { format!("{text} ({} times)", entry.times) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hermes_bus_core::{Config, Credentials, Moment, Now, Router};

    /// The keys of two sessions.
    fn keys() -> [SessionKey; 2] {
        let mut router = Router::new(Config::default(), 1);
        router.begin_turn(Now { moment: Moment::from_micros(1), unix_us: 1 });
        [1, 2].map(|pid| router.connected(Credentials { uid: 0, pid }))
    }

    fn shown(trail: &Trail) -> Vec<String> {
        let text = |step: Step| match step.what {
            Happened::Event(index) => format!("{} event {index}", step.at_us),
            Happened::Call(text) => format!("{} {text}", step.at_us),
        };
        trail.steps(|key| format!("#{}", key.index())).into_iter().map(text).collect()
    }

    /// A turn in which a peer has sent so many more bytes of a frame of 100.
    fn drip(trail: &mut Trail, at_us: u64, key: SessionKey, bytes: usize) {
        let reading = Reading::UpTo(usize::MAX);
        trail.call(at_us, &Call::TurnBegan, &[]);
        trail.call(at_us, &Call::Reading { key, reading }, &[]);
        trail.call(at_us, &Call::Reading { key, reading }, &[]);
        trail.call(at_us, &Call::Buffered { key, bytes, missing: Some(100 - bytes) }, &[]);
        trail.call(at_us, &Call::TurnEnded, &[]);
    }

    #[test]
    fn turns_in_which_nothing_happens_are_one_line() {
        let mut trail = Trail::default();
        for at_us in 0..5 {
            trail.call(at_us, &Call::TurnBegan, &[]);
            trail.call(at_us, &Call::TurnEnded, &[]);
        }
        trail.event(7, 0);
        trail.call(8, &Call::TurnBegan, &[]);
        trail.call(8, &Call::TurnEnded, &[Effect::Resume(keys()[0])]);
        let expected = [
            "4 begin_turn, end_turn: nothing happens (5 times)",
            "7 event 0",
            "8 begin_turn",
            "8 end_turn",
            "8   => resume #0",
        ];
        assert_eq!(shown(&trail), expected);
    }

    #[test]
    fn who_drips_takes_three_lines_whatever_it_does_to_others() {
        let [key, other] = keys();
        let mut trail = Trail::default();
        (1..=50).for_each(|bytes| drip(&mut trail, bytes as u64, key, bytes));
        let expected = [
            "50 begin_turn (50 times)",
            "50 reading #0 -> anything; buffered 50 bytes, 50 missing (50 times)",
            "50 end_turn (50 times)",
        ];
        assert_eq!(shown(&trail), expected);
        drip(&mut trail, 51, other, 3);
        assert_eq!(shown(&trail)[3..].len(), 3, "another one is no repetition");
        trail.call(52, &Call::Reading { key, reading: Reading::Held }, &[]);
        assert_eq!(shown(&trail)[6..], ["52 reading #0 -> held"]);
    }

    #[test]
    fn a_queue_that_is_written_out_turn_by_turn_takes_three_lines() {
        let [key, other] = keys();
        let mut trail = Trail::default();
        let turn = |trail: &mut Trail, key, bytes: &str| {
            trail.call(1, &Call::TurnBegan, &[]);
            trail.call(1, &Call::Written { key, bytes: bytes.as_bytes() }, &[]);
            trail.call(1, &Call::TurnEnded, &[]);
        };
        for bytes in ["abc", "de", "f"] {
            turn(&mut trail, key, bytes);
        }
        let expected = [
            "1 begin_turn (3 times)",
            "1 written #0 3 times, 6 bytes; first 3 bytes: abc",
            "1 end_turn (3 times)",
        ];
        assert_eq!(shown(&trail), expected);
        turn(&mut trail, other, "g");
        assert_eq!(shown(&trail).len(), 6, "another one is no repetition");
    }

    #[test]
    fn reads_in_a_row_of_one_connection_are_one_line_and_the_last_call_is_told() {
        let [key, _] = keys();
        let mut trail = Trail::default();
        let reading = Reading::UpTo(10);
        for bytes in 1..=9 {
            trail.call(1, &Call::Reading { key, reading }, &[]);
            trail.call(1, &Call::Buffered { key, bytes, missing: None }, &[]);
        }
        trail.call(1, &Call::Reading { key, reading }, &[]);
        let expected = [
            "1 reading #0 -> up to 10 bytes; buffered 9 bytes (9 times)",
            "1 reading #0 -> up to 10 bytes",
        ];
        assert_eq!(shown(&trail), expected);
    }

    #[test]
    fn writes_in_a_row_to_one_session_are_one_line() {
        let [key, other] = keys();
        let mut trail = Trail::default();
        for (key, bytes) in [(key, "abc"), (key, "de"), (key, "f"), (other, "g"), (key, "h")] {
            trail.call(1, &Call::Written { key, bytes: bytes.as_bytes() }, &[]);
        }
        let expected = [
            "1 written #0 3 times, 6 bytes; first 3 bytes: abc",
            "1 written #1 1 bytes: g",
            "1 written #0 1 bytes: h",
        ];
        assert_eq!(shown(&trail), expected);
    }

    #[test]
    fn every_event_is_kept_when_the_calls_are_not() {
        let [key, _] = keys();
        let mut trail = Trail::default();
        for event in 0..200 {
            trail.event(event, event as usize);
            trail.call(event, &Call::Eof { key }, &[]);
        }
        let shown = shown(&trail);
        let events: Vec<&String> = shown.iter().filter(|line| line.contains("event")).collect();
        let expected: Vec<String> =
            (0..200).map(|event| format!("{event} event {event}")).collect();
        assert_eq!(events, expected.iter().collect::<Vec<_>>());
        assert!(shown[150].contains("and 150 lines before this one"), "{}", shown[150]);
        assert_eq!(shown.len(), 200 + 1 + LINES_MAX / 2);
    }
}

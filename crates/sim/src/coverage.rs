//! Which kinds of events, answers and effects were seen, and how often. A kind that never occurs is
//! a rule that is never checked.
//!
//! What can be seen is taken from the code where it has a list. For its enums, a match without a
//! catch-all keeps each table complete: a new variant does not compile until it is named here.

use std::collections::HashMap;
use std::fmt;
use std::sync::LazyLock;

use hermes_bus_core as core;
use hermes_bus_core::{CloseReason, Counters, Effect, Next, Outcome, Probed, Reading, SessionKey};
use hermes_bus_proto::ErrorCode;
use hermes_bus_proto::control::Status;
use hermes_bus_proto::frame::{Decoded, decode};
use hermes_bus_proto::listing::{LEVEL_1_TYPE, LEVEL_2_TYPE};

use crate::call::Call;
use crate::script::{Action, Event};

/// Makes the names of an enum's kinds, and a function that says which of them a value is.
macro_rules! kinds {
    ($names:ident, $place:ident($value:ident: $of:ty) { $($name:ident = $pattern:pat,)+ }) => {
        const $names: &[&str] = &[$(stringify!($name)),+];

        fn $place($value: $of) -> usize {
            #[expect(non_camel_case_types, reason = "the kinds' names as people read them")]
            enum Place { $($name),+ }
            match $value { $($pattern => Place::$name as usize),+ }
        }
    };
}

kinds!(CALLS, place_of_call(call: &Call<'_>) {
    began = Call::Began { restored: [], .. },
    began_with_names = Call::Began { .. },
    turn_began = Call::TurnBegan,
    connected = Call::Connected { .. },
    reading = Call::Reading { .. },
    frame = Call::Frame { probed: Probed::No, .. },
    frame_after_probe = Call::Frame { probed: Probed::Yes, .. },
    frame_refused = Call::FrameRefused { .. },
    buffered_unfinished = Call::Buffered { missing: Some(_), .. },
    buffered = Call::Buffered { .. },
    eof = Call::Eof { .. },
    leaving = Call::Leaving { .. },
    deaf = Call::Deaf { .. },
    closed = Call::Closed { .. },
    written = Call::Written { .. },
    more_input = Call::MoreInput { .. },
    turn_ended = Call::TurnEnded,
    configured = Call::Configured { .. },
    admin_answered = Call::AdminAnswered { .. },
    shut_down = Call::ShutDown,
    named_sessions_ended = Call::NamedSessionsEnded,
    waiting_senders_taken = Call::WaitingSendersTaken { .. },
    tapped = Call::Tapped { .. },
    ended = Call::Ended { left: None },
    ended_with_a_successor = Call::Ended { left: Some(_) },
    settled = Call::Settled,
});

kinds!(NEXTS, place_of_next(next: Next) {
    taken = Next::Taken,
    taken_then_hold = Next::TakenThenHold,
    hold = Next::Hold,
    probe = Next::Probe(_),
    finished = Next::Finished,
});

kinds!(READINGS, place_of_reading(reading: Reading) {
    anything = Reading::UpTo(usize::MAX),
    up_to_a_limit = Reading::UpTo(_),
    held = Reading::Held,
    over = Reading::Over,
});

kinds!(EFFECTS, place_of_effect(effect: &Effect) {
    close = Effect::Close(..),
    resume = Effect::Resume(_),
    admin = Effect::Admin(..),
    look_whether_read = Effect::LookWhetherRead(_),
    trace = Effect::Trace(..),
    store = Effect::Store(..),
    log = Effect::Log(_),
});

kinds!(CLOSINGS, place_of_closing(reason: CloseReason) {
    peer_closed = CloseReason::PeerClosed,
    connection_lost = CloseReason::ConnectionLost,
    replaced = CloseReason::Replaced,
    refused = CloseReason::Refused,
    heartbeat = CloseReason::Heartbeat,
    frame_timeout = CloseReason::FrameTimeout,
    drain_timeout = CloseReason::DrainTimeout,
    shutting_down = CloseReason::ShuttingDown,
});

kinds!(LOG_EVENTS, place_of_log_event(event: &core::Event) {
    registered = core::Event::Registered { .. },
    ended = core::Event::Ended { .. },
    fight = core::Event::Fight { .. },
    stall_began = core::Event::StallBegan { .. },
    stall_ended = core::Event::StallEnded { .. },
    broadcast_dropped = core::Event::BroadcastDropped { .. },
    held_dropped = core::Event::HeldDropped { .. },
    held_overflow = core::Event::HeldOverflow { .. },
    stalled_to_the_end = core::Event::StalledToTheEnd { .. },
    not_found = core::Event::NotFound { .. },
    too_large = core::Event::TooLarge { .. },
    ignored = core::Event::Ignored { .. },
    silent = core::Event::Silent { .. },
    left_unread = core::Event::LeftUnread { .. },
    cut_off = core::Event::CutOff { .. },
    given_up = core::Event::GivenUp { .. },
    not_kept = core::Event::NotKept { .. },
    store_lost = core::Event::StoreLost { .. },
    store_trouble = core::Event::StoreTrouble { .. },
    store_works_again = core::Event::StoreWorksAgain,
    misbehaved = core::Event::Misbehaved { .. },
    intake_full = core::Event::IntakeFull { .. },
});

kinds!(OUTCOMES, place_of_outcome(outcome: Outcome) {
    accepted = Outcome::Accepted,
    held = Outcome::Held,
    not_found = Outcome::NotFound,
    dropped = Outcome::Dropped,
});

kinds!(RECEIPTS, place_of_receipt(status: Status) {
    accepted = Status::Accepted,
    stored = Status::Stored,
    delivered = Status::Delivered,
    acked = Status::Acked,
});

kinds!(FRAMES, place_of_frame(frame: &Written) {
    message = Written::Message,
    registered = Written::Registered,
    pong = Written::Pong,
    listing_level_1 = Written::ListingLevel1,
    listing_level_2 = Written::ListingLevel2,
    receipt = Written::Receipt(_),
    error = Written::Error(_),
});

/// A frame that went to a client.
enum Written {
    Message,
    Registered,
    Pong,
    ListingLevel1,
    ListingLevel2,
    Receipt(Option<Status>),
    Error(Option<ErrorCode>),
}

impl Written {
    /// Tells the bus's own frames by how [`hermes_bus_proto::control`] begins and ends them. Answers to
    /// `admin` requests are not the router's, and count as what is left: messages.
    fn of(payload: &[u8]) -> Self {
        let Some(rest) = payload.strip_prefix(br#"{"type": ""#) else { return Written::Message };
        let Some((kind, rest)) = until_quote(rest) else { return Written::Message };
        match kind {
            b"registered" => Written::Registered,
            b"pong" => Written::Pong,
            kind if kind == LEVEL_1_TYPE.as_bytes() => Written::ListingLevel1,
            kind if kind == LEVEL_2_TYPE.as_bytes() => Written::ListingLevel2,
            b"receipt" => Written::Receipt(status_at_the_end_of(rest)),
            b"error" => {
                let code = rest.strip_prefix(br#", "code": ""#).and_then(until_quote);
                let known = |code: &[u8]| {
                    let is_it = |known: &&(ErrorCode, _)| known.0.as_str().as_bytes() == code;
                    ErrorCode::ALL.iter().find(is_it).map(|(known, _)| *known)
                };
                Written::Error(code.and_then(|(code, _)| known(code)))
            }
            _ => Written::Message,
        }
    }
}

/// What stands before the next quote, and what behind it.
fn until_quote(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = text.iter().position(|byte| *byte == b'"')?;
    Some((&text[..end], &text[end + 1..]))
}

/// A receipt's status stands behind the id, which a client chose.
fn status_at_the_end_of(receipt: &[u8]) -> Option<Status> {
    const KEY: &[u8] = br#""status": ""#;
    let at = receipt.windows(KEY.len()).rposition(|window| window == KEY)?;
    let (word, _) = until_quote(&receipt[at + KEY.len()..])?;
    Status::of(std::str::from_utf8(word).ok()?)
}

/// Effects, receipts, log events and counters that only level 2 or a store brings about: without a store
/// nothing is kept, and on level 1 nobody acknowledges, subscribes or asks for more than to be routed.
const OF_LEVEL_2: &[&str] = &[
    // Effects.
    "look_whether_read",
    "trace",
    "store",
    // Receipts, and the counters of the same names.
    "stored",
    "acked",
    // Log events, and a counter of the first one's name.
    "given_up",
    "not_kept",
    "store_lost",
    "store_trouble",
    "store_works_again",
    // Counters.
    "dropped_store_failed",
    "dropped_topic",
    "dropped_tap",
    "presence_left_out",
    "published",
    "kept",
    "spilled",
    "nacked",
    "rerouted",
    "repeated",
    "expired",
    "purged",
    "retried",
    "dead_letters",
    "refused_messages",
    "refused_mailbox_full",
    "refused_store_unavailable",
    "refused_requests",
    "refused_name_taken",
];

/// Whether the router gives this code on level 1.
fn is_given(code: ErrorCode) -> bool {
    match code {
        ErrorCode::EndpointNotFound
        | ErrorCode::InvalidJson
        | ErrorCode::InvalidFrame
        | ErrorCode::InvalidField
        | ErrorCode::FrameTooLarge
        | ErrorCode::NameInvalid
        | ErrorCode::Forbidden
        | ErrorCode::Unauthorized
        | ErrorCode::OverLimit
        | ErrorCode::ReceiverGone => true,
        ErrorCode::UnknownType
        | ErrorCode::NotRegistered
        | ErrorCode::NameTaken
        | ErrorCode::MailboxFull
        | ErrorCode::Expired
        | ErrorCode::Rejected
        | ErrorCode::DeliveriesExceeded
        | ErrorCode::ReceiptImpossible
        | ErrorCode::HopsExceeded
        | ErrorCode::StoreUnavailable
        | ErrorCode::ShuttingDown => false,
    }
}

/// What is counted together.
#[derive(Clone, Copy)]
enum Group {
    Events,
    Calls,
    Nexts,
    Readings,
    Effects,
    Closings,
    LogEvents,
    Frames,
    Errors,
    Receipts,
    Tapped,
    TapLeftOut,
    Counters,
}

const GROUPS: [Group; 13] = [
    Group::Events,
    Group::Calls,
    Group::Nexts,
    Group::Readings,
    Group::Effects,
    Group::Closings,
    Group::LogEvents,
    Group::Frames,
    Group::Errors,
    Group::Receipts,
    Group::Tapped,
    Group::TapLeftOut,
    Group::Counters,
];

impl Group {
    fn title(self) -> &'static str {
        match self {
            Group::Events => "event",
            Group::Calls => "call",
            Group::Nexts => "a frame's next",
            Group::Readings => "reading",
            Group::Effects => "effect",
            Group::Closings => "closed for",
            Group::LogEvents => "log event",
            Group::Frames => "frame written",
            Group::Errors => "error told",
            Group::Receipts => "receipt given",
            Group::Tapped => "tapped as",
            Group::TapLeftOut => "tap",
            Group::Counters => "counter",
        }
    }

    fn names(self) -> &'static [&'static str] {
        static COUNTERS: LazyLock<Vec<&str>> =
            LazyLock::new(|| Counters::default().iter().map(|(name, _)| name).collect());
        static ERRORS: LazyLock<Vec<&str>> =
            LazyLock::new(|| ErrorCode::ALL.iter().map(|(code, _)| code.as_str()).collect());
        match self {
            Group::Events => Action::KINDS,
            Group::Calls => CALLS,
            Group::Nexts => NEXTS,
            Group::Readings => READINGS,
            Group::Effects => EFFECTS,
            Group::Closings => CLOSINGS,
            Group::LogEvents => LOG_EVENTS,
            Group::Frames => FRAMES,
            Group::Errors => &ERRORS,
            Group::Receipts => RECEIPTS,
            Group::Tapped => OUTCOMES,
            Group::TapLeftOut => &["left_out"],
            Group::Counters => &COUNTERS,
        }
    }

    fn is_required(self, place: usize) -> bool {
        match self {
            Group::Errors => is_given(ErrorCode::ALL[place].0),
            Group::Effects | Group::Receipts | Group::LogEvents | Group::Counters => {
                !OF_LEVEL_2.contains(&self.names()[place])
            }
            _ => true,
        }
    }
}

/// How often each kind was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Coverage {
    /// One list of counts a group, in the order of its names.
    counts: [Vec<u64>; GROUPS.len()],
    /// Frames of which only a part is written.
    cut: HashMap<SessionKey, Vec<u8>>,
}

impl Default for Coverage {
    fn default() -> Self {
        Coverage { counts: GROUPS.map(|group| vec![0; group.names().len()]), cut: HashMap::new() }
    }
}

/// A kind with the group it belongs to, and how often it was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// What is counted.
    pub group: &'static str,
    /// The kind in a word.
    pub kind: &'static str,
    /// How often.
    pub count: u64,
    /// Whether a long run must see it.
    pub is_required: bool,
}

impl Coverage {
    /// An event of a script was played.
    pub fn event(&mut self, event: &Event) {
        let kind = event.action.kind();
        let place = Action::KINDS.iter().position(|known| *known == kind);
        self.see(Group::Events, place.expect("Action::KINDS lists every kind"));
    }

    /// The router was called.
    pub fn call(&mut self, call: &Call<'_>, effects: &[Effect]) {
        self.see(Group::Calls, place_of_call(call));
        match call {
            // Another router uses the same keys for other connections.
            Call::Began { .. } => self.cut.clear(),
            Call::Frame { next, .. } => self.see(Group::Nexts, place_of_next(*next)),
            Call::Reading { reading, .. } => {
                self.see(Group::Readings, place_of_reading(*reading));
            }
            Call::Written { key, bytes } => self.written(*key, bytes),
            Call::Tapped { batch } => {
                batch
                    .iter()
                    .for_each(|tapped| self.see(Group::Tapped, place_of_outcome(tapped.outcome)));
                self.counts[Group::TapLeftOut as usize][0] += batch.left_out();
            }
            _ => {}
        }
        for effect in effects {
            self.see(Group::Effects, place_of_effect(effect));
            match effect {
                Effect::Close(key, reason) => {
                    self.see(Group::Closings, place_of_closing(*reason));
                    self.cut.remove(key);
                }
                Effect::Log(event) => self.see(Group::LogEvents, place_of_log_event(event)),
                Effect::Resume(_) | Effect::Admin(..) => {}
                Effect::Store(..) | Effect::LookWhetherRead(_) | Effect::Trace(..) => {}
            }
        }
    }

    /// A router has ended with these counters.
    pub fn counters(&mut self, counters: &Counters) {
        let counts = &mut self.counts[Group::Counters as usize];
        for (count, (_, value)) in counts.iter_mut().zip(counters.iter()) {
            *count += value;
        }
    }

    /// Takes up what another run has seen.
    pub fn add(&mut self, other: &Coverage) {
        for (counts, others) in self.counts.iter_mut().zip(&other.counts) {
            for (count, other) in counts.iter_mut().zip(others) {
                *count += other;
            }
        }
    }

    /// Every kind there is with its count, group by group.
    pub fn seen(&self) -> impl Iterator<Item = Seen> {
        GROUPS.into_iter().flat_map(move |group| {
            let counts = self.counts[group as usize].iter().enumerate();
            counts.map(move |(place, count)| Seen {
                group: group.title(),
                kind: group.names()[place],
                count: *count,
                is_required: group.is_required(place),
            })
        })
    }

    /// What must be seen and never was.
    pub fn missing(&self) -> Vec<Seen> {
        self.seen().filter(|seen| seen.is_required && seen.count == 0).collect()
    }

    fn see(&mut self, group: Group, place: usize) {
        self.counts[group as usize][place] += 1;
    }

    /// Counts the frames that are in the peer's socket now. A write may begin and end within one.
    fn written(&mut self, key: SessionKey, bytes: &[u8]) {
        let Some(mut begun) = self.cut.remove(&key) else {
            let rest = self.whole_frames(bytes);
            if !rest.is_empty() {
                self.cut.insert(key, rest.to_vec());
            }
            return;
        };
        begun.extend_from_slice(bytes);
        let rest_bytes = self.whole_frames(&begun).len();
        if rest_bytes > 0 {
            begun.drain(..begun.len() - rest_bytes);
            self.cut.insert(key, begun);
        }
    }

    /// Counts the frames in front, and says what is left behind them.
    fn whole_frames<'a>(&mut self, mut bytes: &'a [u8]) -> &'a [u8] {
        loop {
            match decode(bytes) {
                Decoded::Frame { payload, frame_bytes } => {
                    self.frame(payload);
                    bytes = &bytes[frame_bytes..];
                }
                Decoded::Incomplete { .. } => return bytes,
                // The model says what is wrong with it.
                Decoded::Refused(_) => return &[],
            }
        }
    }

    fn frame(&mut self, payload: &[u8]) {
        let written = Written::of(payload);
        self.see(Group::Frames, place_of_frame(&written));
        match written {
            Written::Receipt(Some(status)) => self.see(Group::Receipts, place_of_receipt(status)),
            Written::Error(Some(code)) => {
                let place = ErrorCode::ALL.iter().position(|(known, _)| *known == code);
                self.see(Group::Errors, place.expect("the table holds every code"));
            }
            _ => {}
        }
    }
}

impl fmt::Display for Coverage {
    /// A table: the kinds of each group, the rarest last.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const COLUMNS: usize = 3;
        for group in GROUPS {
            let mut seen: Vec<Seen> = self.seen().filter(|s| s.group == group.title()).collect();
            seen.retain(|seen| seen.is_required || seen.count > 0);
            seen.sort_by_key(|seen| std::cmp::Reverse(seen.count));
            for (number, row) in seen.chunks(COLUMNS).enumerate() {
                write!(f, "{:<16}", if number == 0 { group.title() } else { "" })?;
                let cells: Vec<String> =
                    row.iter().map(|seen| format!("{:<27}{:>11}", seen.kind, seen.count)).collect();
                writeln!(f, "{}", cells.join("   "))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use hermes_bus_core::{Config, Credentials, Moment, Now, Payload, Router};
    use hermes_bus_proto::control::{self, Detail, Receipt, Targets};
    use hermes_bus_proto::{EndpointName, Raw};

    fn count(coverage: &Coverage, group: Group, kind: &str) -> u64 {
        let found = coverage.seen().find(|s| s.group == group.title() && s.kind == kind);
        found.unwrap_or_else(|| panic!("there is no {kind} in {}", group.title())).count
    }

    /// A router with one anonymous connection, whose key is needed to name a session.
    fn router() -> (Router, SessionKey) {
        let mut router = Router::new(Config::default(), 1);
        let key = router.connected(Credentials { uid: 0, pid: 1 });
        (router, key)
    }

    fn frames(write: impl Fn(&mut Vec<u8>)) -> Vec<u8> {
        let mut bytes = Vec::new();
        write(&mut bytes);
        bytes
    }

    #[test]
    fn every_frame_of_the_bus_is_told_by_its_bytes_however_they_are_cut() {
        let (_, key) = router();
        let id = Raw::new(br#"{"status": "accepted"}"#);
        let name = EndpointName::level_1("a").unwrap();
        let bytes = frames(|out| {
            control::registered(out, &name, "s");
            control::pong(out);
            let targets = Some(Targets { endpoints: 3, failed: None });
            for (id, status, targets) in [
                (id, Status::Delivered, None),
                (id, Status::Accepted, targets),
                (Raw::new(b"1"), Status::Accepted, None),
            ] {
                control::receipt(out, &Receipt { id, status, to: None, targets });
            }
            control::error(out, ErrorCode::OverLimit, Detail::Text("\"code\": \"x"), Some(id));
            control::append_text(out, r#"{"type": "message", "to": "a"}"#);
            control::append_text(out, r#"{"to":"a","type":"message","body":{"type": "pong"}}"#);
        });
        let expected = [
            (Group::Frames, "registered", 1),
            (Group::Frames, "pong", 1),
            (Group::Frames, "receipt", 3),
            (Group::Frames, "error", 1),
            (Group::Frames, "message", 2),
            (Group::Receipts, "delivered", 1),
            (Group::Receipts, "accepted", 2),
            (Group::Errors, "over_limit", 1),
            (Group::Errors, "forbidden", 0),
        ];
        for piece_bytes in [1, 3, 7, 64, bytes.len()] {
            let mut coverage = Coverage::default();
            for piece in bytes.chunks(piece_bytes) {
                coverage.call(&Call::Written { key, bytes: piece }, &[]);
            }
            for (group, kind, times) in expected {
                assert_eq!(count(&coverage, group, kind), times, "{kind} in {piece_bytes} bytes");
            }
            assert!(coverage.cut.is_empty(), "nothing is kept of whole frames");
        }
    }

    #[test]
    fn listings_are_told_by_their_level() {
        let (mut router, key) = router();
        router.begin_turn(Now { moment: Moment::from_micros(1), unix_us: 1 });
        for question in
            [r#"{"type": "list_endpoints"}"#, r#"{"type": "list_endpoints", "protocol": 2}"#]
        {
            let _ = router.frame(key, Payload::Borrowed(question.as_bytes()), Probed::No);
        }
        let bytes: Vec<u8> = router.next_write(key).flatten().copied().collect();
        let mut coverage = Coverage::default();
        coverage.call(&Call::Written { key, bytes: &bytes }, &[]);
        assert_eq!(count(&coverage, Group::Frames, "listing_level_1"), 1);
        assert_eq!(count(&coverage, Group::Frames, "listing_level_2"), 1);
    }

    #[test]
    fn what_was_cut_off_is_forgotten_with_its_connection_and_its_router() {
        let (_, key) = router();
        let begun = [0, 0, 0, 9, b'{'];
        let mut coverage = Coverage::default();
        coverage.call(&Call::Written { key, bytes: &begun }, &[]);
        assert_eq!(coverage.cut.len(), 1);
        coverage.call(&Call::TurnEnded, &[Effect::Close(key, CloseReason::Replaced)]);
        assert!(coverage.cut.is_empty());
        coverage.call(&Call::Written { key, bytes: &begun }, &[]);
        coverage.call(&Call::Began { config: &Config::default(), restored: &[] }, &[]);
        assert!(coverage.cut.is_empty());
    }

    #[test]
    fn calls_answers_effects_and_counters_are_counted_and_added_up() {
        let (_, key) = router();
        let mut coverage = Coverage::default();
        let frame = |next, probed| Call::Frame { key, payload: b"{}", probed, next };
        coverage.call(&frame(Next::Probe(key), Probed::No), &[]);
        coverage.call(&frame(Next::Taken, Probed::Yes), &[Effect::Resume(key)]);
        coverage.call(
            &Call::Reading { key, reading: Reading::UpTo(1) },
            &[Effect::Admin(key, Bytes::new())],
        );
        let full = core::Event::IntakeFull { bytes: 1, most: None };
        coverage.call(&Call::TurnEnded, &[Effect::Log(full)]);
        coverage.counters(&Counters { receipts: 5, ..Counters::default() });
        let mut twice = coverage.clone();
        twice.add(&coverage);
        let expected = [
            (Group::Calls, "frame", 1),
            (Group::Calls, "frame_after_probe", 1),
            (Group::Nexts, "probe", 1),
            (Group::Nexts, "taken", 1),
            (Group::Readings, "up_to_a_limit", 1),
            (Group::Readings, "anything", 0),
            (Group::Effects, "resume", 1),
            (Group::Effects, "admin", 1),
            (Group::LogEvents, "intake_full", 1),
            (Group::Counters, "receipts", 5),
        ];
        for (group, kind, times) in expected {
            assert_eq!(count(&coverage, group, kind), times, "{kind}");
            assert_eq!(count(&twice, group, kind), 2 * times, "{kind}");
        }
    }

    #[test]
    fn what_was_never_seen_is_missing_unless_level_1_cannot_show_it() {
        let mut coverage = Coverage::default();
        let all = coverage.missing();
        assert!(all.iter().any(|seen| seen.kind == "timeout_drain"));
        assert!(!all.iter().any(|seen| seen.kind == "hops_exceeded"));
        coverage.counters(&Counters { timeout_drain: 1, ..Counters::default() });
        let left = coverage.missing();
        assert_eq!(left.len(), all.len() - 1);
        assert!(!left.iter().any(|seen| seen.kind == "timeout_drain"));
    }

    #[test]
    fn every_kind_that_only_level_2_brings_about_is_one() {
        let coverage = Coverage::default();
        for kind in OF_LEVEL_2 {
            assert!(coverage.seen().any(|seen| seen.kind == *kind), "there is no {kind}");
        }
    }

    #[test]
    fn log_events_have_the_names_of_the_log() {
        let name = EndpointName::level_1("a").unwrap();
        let peer = hermes_bus_core::Peer { endpoint: None, uid: 1, pid: 1 };
        let events = [
            core::Event::Fight { name: name.clone(), pause_ms: 1 },
            core::Event::StalledToTheEnd { name, dropped: 1 },
            core::Event::LeftUnread { peer },
        ];
        for event in events {
            assert_eq!(LOG_EVENTS[place_of_log_event(&event)], event.fields().event);
        }
    }

    #[test]
    fn the_table_shows_the_rarest_of_a_group_last() {
        let mut coverage = Coverage::default();
        let counters =
            Counters { connections: 1, receipts: 7, messages: 30, ..Counters::default() };
        coverage.counters(&counters);
        let table = coverage.to_string();
        let place = |text: &str| table.find(text).unwrap_or_else(|| panic!("no {text} in {table}"));
        assert!(place(" messages ") < place(" receipts "));
        assert!(place(" receipts ") < place(" connections "));
        assert!(!table.contains("hops_exceeded"), "what cannot be seen is not shown");
    }
}

//! Where messages went: the last states of every message, in a ring.
//!
//! Every message passes here, so a state costs a few stores and no allocation: ids are kept inline, and
//! an endpoint is a label, whose name is looked up when somebody asks. A label belongs to one endpoint
//! from when it was first noted until it is forgotten; the names of those who are gone are kept as long
//! as a message in the ring may have been theirs.

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::hash::{BuildHasher, Hasher};

use hermes_bus_proto::{EndpointName, ErrorCode};

use crate::endpoint::EndpointKey;
use crate::session::SessionKey;

/// How much of an id is kept: a UUID with its quotes, and a little more. Of a longer one the rest is
/// only known by its length and hash.
const ID_BYTES_KEPT: usize = 40;

/// States that are kept of one message: the first one, and the last ones.
const STATES_KEPT: usize = 6;

/// What the names of endpoints that are gone may take, in bytes.
const DEPARTED_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Most messages with one id that are found.
const FOUND_MAX: usize = 16;

/// What has happened to a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TraceState {
    /// The router has it.
    Accepted,
    /// It is on disk, synced.
    Stored,
    /// Its bytes are in the receiver's socket.
    Delivered,
    /// The receiver has confirmed it.
    Acked,
    /// The receiver cannot confirm; the kernel shows that it has read it.
    Read,
    /// It waits until its endpoint is back from a short absence.
    Held,
    /// It waits in the mailbox of an endpoint that is away.
    Waiting,
    /// It waits on disk, because the receiver is slow.
    Spilled,
    /// It was not acknowledged, and will come again.
    Requeued,
    /// Another member of its group gets it.
    Rerouted,
    /// It is the same as an earlier one, and goes nowhere.
    Repeated,
    /// Its time to live ran out.
    Expired,
    /// It was dropped, for this reason.
    Dropped(ErrorCode),
    /// It became a dead letter, for this reason.
    Dead(ErrorCode),
    /// The router did not take it, for this reason.
    Refused(ErrorCode),
    /// The bus's owner removed it.
    Purged,
}

impl TraceState {
    /// The word on the wire.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            TraceState::Accepted => "accepted",
            TraceState::Stored => "stored",
            TraceState::Delivered => "delivered",
            TraceState::Acked => "acked",
            TraceState::Read => "read",
            TraceState::Held => "held",
            TraceState::Waiting => "waiting",
            TraceState::Spilled => "spilled",
            TraceState::Requeued => "requeued",
            TraceState::Rerouted => "rerouted",
            TraceState::Repeated => "repeated",
            TraceState::Expired => "expired",
            TraceState::Dropped(_) => "dropped",
            TraceState::Dead(_) => "dead",
            TraceState::Refused(_) => "refused",
            TraceState::Purged => "purged",
        }
    }

    /// Why, where that is more than the word says.
    pub(crate) fn reason(self) -> Option<ErrorCode> {
        match self {
            TraceState::Dropped(code) | TraceState::Dead(code) | TraceState::Refused(code) => {
                Some(code)
            }
            _ => None,
        }
    }
}

/// A message in the ring, for as long as it is there. The default one is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct TraceRef {
    index: u32,
    /// Tells apart the messages that used one place one after the other; never 0 in the ring.
    generation: u32,
}

/// Stands for an endpoint in the ring; 0 for none.
type Label = u32;

#[derive(Clone, Copy)]
struct Record {
    generation: u32,
    uid: u32,
    sender: SessionKey,
    id_bytes: u32,
    /// How many of `states` are in use.
    states_count: u32,
    /// States that are not kept any more: they came between the first and the second.
    left_out: u32,
    id: [u8; ID_BYTES_KEPT],
    states: [Noted; STATES_KEPT],
}

#[derive(Clone, Copy)]
struct Noted {
    unix_us: u64,
    label: Label,
    state: TraceState,
}

impl Record {
    const EMPTY: Record = Record {
        generation: 0,
        uid: 0,
        sender: SessionKey { index: 0, generation: 0 },
        id_bytes: 0,
        states_count: 0,
        left_out: 0,
        id: [0; ID_BYTES_KEPT],
        states: [Noted { unix_us: 0, label: 0, state: TraceState::Accepted }; STATES_KEPT],
    };
}

/// An endpoint that is gone.
struct Departed {
    label: Label,
    name: EndpointName,
    /// How many messages had been traced by then.
    traced: u64,
}

/// The ring.
pub(crate) struct Trace {
    records: Vec<Record>,
    /// The hash of each one's id.
    hashes: Vec<u64>,
    /// Where the next message comes.
    next: usize,
    records_max: usize,
    /// Messages traced so far.
    traced: u64,
    hasher: IdHasher,
    /// The label of each endpoint that has one, by its key.
    labels: Vec<Label>,
    last_label: Label,
    /// Oldest first.
    departed: VecDeque<Departed>,
    departed_bytes: usize,
}

/// A message that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Traced {
    /// Its place, to be compared with those of messages that are on their way.
    pub(crate) at: TraceRef,
    /// The session that sent it; it may be over.
    pub(crate) sender: SessionKey,
    /// The user who sent it.
    pub(crate) uid: u32,
    /// The first state and the last ones, in order.
    pub(crate) states: Vec<TracedState>,
    /// States between the first and the second that are not known any more.
    pub(crate) left_out: u32,
}

/// A state of a message that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TracedState {
    /// What happened.
    pub(crate) state: TraceState,
    /// When, in microseconds of Unix time.
    pub(crate) unix_us: u64,
    /// The endpoint that it happened at.
    pub(crate) endpoint: Option<EndpointName>,
}

impl Trace {
    /// A ring for `records_max` messages; with 0, nothing is traced.
    pub(crate) fn new(records_max: usize, hash_seed: u64) -> Self {
        Trace {
            records: Vec::new(),
            hashes: Vec::new(),
            next: 0,
            records_max: records_max.min(u32::MAX as usize),
            traced: 0,
            hasher: IdHasher(foldhash::fast::FixedState::with_seed(hash_seed)),
            labels: Vec::new(),
            last_label: 0,
            departed: VecDeque::new(),
            departed_bytes: 0,
        }
    }

    /// Changes the size of the ring. If it is another one, what was traced so far is forgotten.
    pub(crate) fn set_max(&mut self, records_max: usize) {
        if self.records_max != records_max {
            let seeded = self.hasher.clone();
            // Counting goes on: no place of the old ring means anything in the new one.
            let (traced, labels, last_label) =
                (self.traced, core::mem::take(&mut self.labels), self.last_label);
            *self =
                Trace { hasher: seeded, traced, labels, last_label, ..Trace::new(records_max, 0) };
        }
    }

    /// A message has come. `id` is the JSON of its id.
    #[inline]
    pub(crate) fn begin(&mut self, id: &[u8], sender: SessionKey, uid: u32) -> TraceRef {
        if self.next >= self.records.len() && !self.make_place() {
            return TraceRef::default();
        }
        let index = self.next;
        self.next = if index + 1 == self.records_max { 0 } else { index + 1 };
        self.traced += 1;
        let generation = (self.traced as u32).max(1);
        self.hashes[index] = self.hasher.of(id);
        let record = &mut self.records[index];
        record.generation = generation;
        record.uid = uid;
        record.sender = sender;
        record.id_bytes = u32::try_from(id.len()).unwrap_or(u32::MAX);
        record.states_count = 0;
        record.left_out = 0;
        let kept = id.len().min(ID_BYTES_KEPT);
        record.id[..kept].copy_from_slice(&id[..kept]);
        TraceRef { index: index as u32, generation }
    }

    /// Something has happened to a message; nothing, if it is not in the ring any more.
    #[inline]
    pub(crate) fn note(
        &mut self,
        at: TraceRef,
        state: TraceState,
        endpoint: Option<EndpointKey>,
        unix_us: u64,
    ) {
        let label = endpoint.map_or(0, |endpoint| self.label(endpoint));
        let Some(record) = self.records.get_mut(at.index as usize) else { return };
        if record.generation != at.generation {
            return;
        }
        let mut place = record.states_count as usize;
        if place == STATES_KEPT {
            record.states.copy_within(2.., 1);
            record.left_out = record.left_out.saturating_add(1);
            place -= 1;
        }
        record.states[place] = Noted { unix_us, label, state };
        record.states_count = place as u32 + 1;
    }

    /// Whether the last that is known of a message is that it became a dead letter, expired or was
    /// removed.
    pub(crate) fn is_over(&self, at: TraceRef) -> bool {
        let record = self.records.get(at.index as usize);
        let Some(record) = record.filter(|record| record.generation == at.generation) else {
            return true;
        };
        let last = record.states[..record.states_count as usize].last();
        last.is_some_and(|last| {
            matches!(last.state, TraceState::Dead(_) | TraceState::Expired | TraceState::Purged)
        })
    }

    /// An endpoint is forgotten: its key may stand for another one from now on.
    pub(crate) fn forget_endpoint(&mut self, endpoint: EndpointKey, name: &EndpointName) {
        let Some(label) = self.labels.get_mut(endpoint.0).map(core::mem::take) else { return };
        if label == 0 {
            return;
        }
        self.departed_bytes += departed_bytes(name);
        let departed = Departed { label, name: name.clone(), traced: self.traced };
        self.departed.push_back(departed);
        while let Some(oldest) = self.departed.front() {
            let messages_since = self.traced - oldest.traced;
            let is_needed = messages_since < self.records_max as u64
                && self.departed_bytes <= DEPARTED_BYTES_MAX;
            if is_needed {
                break;
            }
            self.departed_bytes -= departed_bytes(&oldest.name);
            self.departed.pop_front();
        }
    }

    /// The messages with this id, the newest last; the newest few if there are many. `name_of` says
    /// what an endpoint is called that is not forgotten.
    pub(crate) fn find(
        &self,
        id: &[u8],
        name_of: impl Fn(EndpointKey) -> Option<EndpointName>,
    ) -> Vec<Traced> {
        let hash = self.hasher.of(id);
        let kept = &id[..id.len().min(ID_BYTES_KEPT)];
        let is_it = |index: &usize| {
            let record = &self.records[*index];
            self.hashes[*index] == hash
                && record.id_bytes as usize == id.len()
                && record.id[..kept.len()] == *kept
        };
        // From the newest to the oldest: what is before the next place, then what is from it on.
        let (older, newer) = (self.next..self.records.len(), 0..self.next);
        let newest_first = newer.rev().chain(older.rev());
        let mut found: Vec<Traced> = newest_first
            .filter(is_it)
            .take(FOUND_MAX)
            .map(|index| self.traced(index, &name_of))
            .collect();
        found.reverse();
        found
    }

    fn traced(
        &self,
        index: usize,
        name_of: &impl Fn(EndpointKey) -> Option<EndpointName>,
    ) -> Traced {
        let record = &self.records[index];
        let states =
            record.states[..record.states_count as usize].iter().map(|noted| TracedState {
                state: noted.state,
                unix_us: noted.unix_us,
                endpoint: self.endpoint_of(noted.label, name_of),
            });
        Traced {
            at: TraceRef { index: index as u32, generation: record.generation },
            sender: record.sender,
            uid: record.uid,
            states: states.collect(),
            left_out: record.left_out,
        }
    }

    fn endpoint_of(
        &self,
        label: Label,
        name_of: &impl Fn(EndpointKey) -> Option<EndpointName>,
    ) -> Option<EndpointName> {
        if label == 0 {
            return None;
        }
        let departed = self.departed.iter().find(|departed| departed.label == label);
        departed.map(|departed| departed.name.clone()).or_else(|| {
            let key = self.labels.iter().position(|living| *living == label)?;
            name_of(EndpointKey(key))
        })
    }

    /// Makes the ring longer by one place; false if it may have none.
    #[cold]
    fn make_place(&mut self) -> bool {
        if self.records_max == 0 {
            return false;
        }
        self.records.push(Record::EMPTY);
        self.hashes.push(0);
        true
    }

    #[inline]
    fn label(&mut self, endpoint: EndpointKey) -> Label {
        match self.labels.get(endpoint.0) {
            Some(label) if *label != 0 => *label,
            _ => self.new_label(endpoint),
        }
    }

    #[cold]
    fn new_label(&mut self, endpoint: EndpointKey) -> Label {
        if self.labels.len() <= endpoint.0 {
            self.labels.resize(endpoint.0 + 1, 0);
        }
        self.last_label = self.last_label.checked_add(1).unwrap_or(1);
        self.labels[endpoint.0] = self.last_label;
        self.last_label
    }

    /// Hashes ids.
    pub(crate) fn hasher(&self) -> &IdHasher {
        &self.hasher
    }
}

/// Hashes ids as nobody outside can foresee.
#[derive(Clone)]
pub(crate) struct IdHasher(foldhash::fast::FixedState);

impl IdHasher {
    #[inline]
    pub(crate) fn of(&self, id: &[u8]) -> u64 {
        let mut hasher = self.0.build_hasher();
        hasher.write(id);
        hasher.finish()
    }
}

/// What it takes to remember the name of an endpoint that is gone.
fn departed_bytes(name: &EndpointName) -> usize {
    name.as_str().len() + size_of::<Departed>()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SENDER: SessionKey = SessionKey { index: 3, generation: 7 };

    fn name(text: &str) -> EndpointName {
        EndpointName::level_1(text).expect("a valid name")
    }

    /// What the endpoints are called that are not forgotten.
    fn name_of(endpoint: EndpointKey) -> Option<EndpointName> {
        Some(name(&format!("living-{}", endpoint.0)))
    }

    /// State, time and endpoint of a message, in short.
    fn told(traced: &Traced) -> Vec<String> {
        let endpoint = |state: &TracedState| match &state.endpoint {
            Some(name) => format!(" {name}"),
            None => String::new(),
        };
        let tell = |state: &TracedState| {
            format!("{} {}{}", state.unix_us, state.state.as_str(), endpoint(state))
        };
        traced.states.iter().map(tell).collect()
    }

    fn find(trace: &Trace, id: &str) -> Vec<Vec<String>> {
        trace.find(id.as_bytes(), name_of).iter().map(told).collect()
    }

    #[test]
    fn a_message_is_found_with_its_states() {
        let mut trace = Trace::new(4, 1);
        let at = trace.begin(b"\"a\"", SENDER, 1_000);
        trace.begin(b"\"b\"", SENDER, 1_000);
        trace.note(at, TraceState::Accepted, None, 10);
        trace.note(at, TraceState::Delivered, Some(EndpointKey(2)), 11);
        trace.note(at, TraceState::Dead(ErrorCode::ReceiverGone), Some(EndpointKey(0)), 12);
        assert_eq!(
            find(&trace, "\"a\""),
            [["10 accepted", "11 delivered living-2", "12 dead living-0"]]
        );
        let found = &trace.find(b"\"a\"", name_of)[0];
        assert_eq!((found.at, found.sender, found.uid, found.left_out), (at, SENDER, 1_000, 0));
        assert_eq!(found.states[2].state.reason(), Some(ErrorCode::ReceiverGone));
        assert!(trace.find(b"\"c\"", name_of).is_empty());
        assert!(trace.find(b"a", name_of).is_empty(), "the id is JSON");
    }

    #[test]
    fn the_first_state_and_the_last_ones_are_kept() {
        let mut trace = Trace::new(4, 1);
        let at = trace.begin(b"1", SENDER, 0);
        trace.note(at, TraceState::Accepted, None, 0);
        for time in 1..=20 {
            trace.note(at, TraceState::Requeued, None, time);
        }
        let expected = [
            "0 accepted",
            "16 requeued",
            "17 requeued",
            "18 requeued",
            "19 requeued",
            "20 requeued",
        ];
        assert_eq!(find(&trace, "1"), [expected]);
        assert_eq!(trace.find(b"1", name_of)[0].left_out, 15);
    }

    #[test]
    fn the_oldest_messages_are_overwritten_and_their_places_mean_nothing() {
        let mut trace = Trace::new(3, 1);
        let first = trace.begin(b"0", SENDER, 0);
        for id in 1..=3 {
            let at = trace.begin(id.to_string().as_bytes(), SENDER, 0);
            trace.note(at, TraceState::Accepted, None, id);
        }
        trace.note(first, TraceState::Acked, None, 99);
        trace.note(TraceRef::default(), TraceState::Acked, None, 99);
        assert!(find(&trace, "0").is_empty());
        for id in 1..=3 {
            assert_eq!(find(&trace, &id.to_string()), [[format!("{id} accepted")]]);
        }
    }

    #[test]
    fn several_with_one_id_are_found_newest_last() {
        let mut trace = Trace::new(50, 1);
        for time in 0..70 {
            let at = trace.begin(b"\"same\"", SENDER, 0);
            trace.note(at, TraceState::Accepted, None, time);
        }
        let times: Vec<u64> =
            trace.find(b"\"same\"", name_of).iter().map(|found| found.states[0].unix_us).collect();
        assert_eq!(times, (70 - FOUND_MAX as u64..70).collect::<Vec<_>>());
    }

    #[test]
    fn long_ids_are_told_apart() {
        let mut trace = Trace::new(10, 1);
        let long = |end: &str| format!("\"{}{end}\"", "x".repeat(100));
        for id in [long("a"), long("b"), long("ab")] {
            trace.begin(id.as_bytes(), SENDER, 0);
        }
        assert_eq!(trace.find(long("a").as_bytes(), name_of).len(), 1);
        assert_eq!(trace.find(long("c").as_bytes(), name_of).len(), 0);
        assert_eq!(trace.find("x".repeat(100).as_bytes(), name_of).len(), 0);
    }

    #[test]
    fn an_endpoint_that_is_gone_keeps_its_name() {
        let mut trace = Trace::new(4, 1);
        let at = trace.begin(b"1", SENDER, 0);
        trace.note(at, TraceState::Accepted, Some(EndpointKey(5)), 1);
        trace.forget_endpoint(EndpointKey(5), &name("first"));
        trace.note(at, TraceState::Rerouted, Some(EndpointKey(5)), 2);
        trace.forget_endpoint(EndpointKey(5), &name("second"));
        trace.note(at, TraceState::Delivered, Some(EndpointKey(5)), 3);
        assert_eq!(
            find(&trace, "1"),
            [["1 accepted first", "2 rerouted second", "3 delivered living-5"]]
        );
    }

    #[test]
    fn names_are_kept_as_long_as_a_message_may_have_been_theirs() {
        let mut trace = Trace::new(8, 1);
        for number in 0..10_000 {
            let at = trace.begin(b"1", SENDER, 0);
            trace.note(at, TraceState::Accepted, Some(EndpointKey(number % 3)), number as u64);
            trace.forget_endpoint(EndpointKey(number % 3), &name(&format!("gone-{number}")));
        }
        let expected: Vec<[String; 1]> =
            (9_992..10_000).map(|number| [format!("{number} accepted gone-{number}")]).collect();
        assert_eq!(find(&trace, "1"), expected);
        assert_eq!(trace.departed.len(), 8);
        // Endpoints that come and go without a message leave nothing.
        trace.forget_endpoint(EndpointKey(1), &name("quiet"));
        trace.forget_endpoint(EndpointKey(1_000), &name("quiet"));
        assert_eq!(trace.departed.len(), 8);
    }

    #[test]
    fn long_names_of_those_who_are_gone_do_not_fill_the_memory() {
        let mut trace = Trace::new(100_000, 1);
        let long = name(&"n".repeat(8_000));
        for _ in 0..2_000 {
            let at = trace.begin(b"1", SENDER, 0);
            trace.note(at, TraceState::Accepted, Some(EndpointKey(0)), 0);
            trace.forget_endpoint(EndpointKey(0), &long);
        }
        let kept: usize =
            trace.departed.iter().map(|departed| departed_bytes(&departed.name)).sum();
        assert!(kept <= DEPARTED_BYTES_MAX && kept == trace.departed_bytes && kept > 1_000_000);
    }

    #[test]
    fn a_ring_of_another_size_begins_anew() {
        let mut trace = Trace::new(2, 1);
        let old = trace.begin(b"1", SENDER, 0);
        trace.note(old, TraceState::Accepted, Some(EndpointKey(0)), 0);
        trace.set_max(2);
        assert_eq!(find(&trace, "1").len(), 1);
        trace.set_max(1);
        let new = trace.begin(b"2", SENDER, 0);
        trace.note(old, TraceState::Acked, None, 1);
        trace.note(new, TraceState::Accepted, Some(EndpointKey(0)), 2);
        assert!(find(&trace, "1").is_empty());
        assert_eq!(find(&trace, "2"), [["2 accepted living-0"]]);
        trace.set_max(0);
        let none = trace.begin(b"3", SENDER, 0);
        trace.note(none, TraceState::Accepted, None, 3);
        assert_eq!((none, trace.find(b"3", name_of)), (TraceRef::default(), Vec::new()));
    }
}

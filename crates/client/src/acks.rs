//! Acknowledgements on their way to the bus, and the ids of what came before.
//!
//! Whoever has a message settles it here, in memory; the session takes all that was settled since
//! its last turn and tells the bus in one frame. What came in an earlier session cannot be settled
//! any more: the bus delivers it again, and by its sequence number alone it could be mistaken for
//! another message of a bus that was restarted.
//!
//! Always by their numbers, never "up to": a message that was given back comes again behind later
//! ones, and "up to" would confirm it unseen.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use hermes_bus_proto::control;
use hermes_bus_proto::limits::{ACK_ENTRIES_MAX, DEDUP_ID_BYTES_MAX, REASON_BYTES_MAX};
use serde_json::json;
use tokio::sync::Notify;

use crate::message::Message;
use crate::options::Repeats;

/// What is settled, and what was.
#[derive(Debug)]
pub(crate) struct Acks {
    state: Mutex<State>,
    /// Told to the session when something was settled.
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// Counts sessions; the last one is the current one.
    session: u64,
    /// What came in it and is not settled; empty as soon as it has ended.
    unsettled: HashSet<u64>,
    acked: Vec<u64>,
    given_back: Vec<GivenBack>,
    known: Option<Known>,
}

#[derive(Debug)]
struct GivenBack {
    seq: u64,
    reason: String,
    requeue: bool,
}

/// By what a message is settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Delivery {
    session: u64,
    seq: u64,
}

/// How a message is settled.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Settle<'r> {
    Ack,
    Nack { reason: &'r str, requeue: bool },
}

/// What is known of a message that is about to be handed out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Repeat {
    New,
    /// It was handed out before.
    Seen,
    /// It was acknowledged before, and is not to be handed out.
    Hidden,
}

impl Acks {
    /// `repeats`: what to do about messages that come more than once, and how many ids to remember.
    pub(crate) fn new(repeats: Option<(Repeats, usize)>) -> Self {
        let known = repeats.map(|(repeats, window)| Known::new(repeats, window));
        Acks { state: Mutex::new(State { known, ..State::default() }), changed: Notify::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing in here panics half-way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // ---- the session's side ---------------------------------------------------------------------

    pub(crate) fn session_began(&self) {
        self.state().session += 1;
    }

    /// What was not told to the bus will not be.
    pub(crate) fn session_ended(&self) {
        let mut state = self.state();
        state.unsettled.clear();
        state.acked.clear();
        state.given_back.clear();
    }

    /// A message that is to be acknowledged came.
    pub(crate) fn arrived(&self, seq: u64) -> Delivery {
        let mut state = self.state();
        state.unsettled.insert(seq);
        Delivery { session: state.session, seq }
    }

    /// Waits until something was settled.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// The frames for what was settled since the last call; empty if nothing was.
    pub(crate) fn take_frames(&self) -> Vec<u8> {
        let mut state = self.state();
        let (acked, given_back) =
            (std::mem::take(&mut state.acked), std::mem::take(&mut state.given_back));
        drop(state);
        let mut frames = Vec::new();
        for seqs in acked.chunks(ACK_ENTRIES_MAX) {
            control::append_text(&mut frames, &json!({"type": "ack", "seqs": seqs}).to_string());
        }
        for GivenBack { seq, reason, requeue } in given_back {
            let nack = json!({"type": "nack", "seq": seq, "reason": reason, "requeue": requeue});
            control::append_text(&mut frames, &nack.to_string());
        }
        frames
    }

    // ---- the readers' side ----------------------------------------------------------------------

    /// Settles a message. `false`: it was settled before, or its session is over.
    pub(crate) fn settle(&self, delivery: Delivery, message: &Message, how: Settle<'_>) -> bool {
        let mut state = self.state();
        if let (Some(known), Settle::Ack, Some(key)) = (&mut state.known, how, key_of(message)) {
            known.note(key, Stage::Acknowledged);
        }
        let is_current = state.session == delivery.session;
        if !is_current || !state.unsettled.remove(&delivery.seq) {
            return false;
        }
        let was_empty = state.acked.is_empty() && state.given_back.is_empty();
        match how {
            Settle::Ack => state.acked.push(delivery.seq),
            Settle::Nack { reason, requeue } => {
                let (seq, reason) = (delivery.seq, beginning(reason).to_owned());
                state.given_back.push(GivenBack { seq, reason, requeue });
            }
        }
        drop(state);
        if was_empty {
            self.changed.notify_one();
        }
        true
    }

    /// Notes that a message is handed out, and says whether it was before. One that nobody
    /// acknowledges counts as acknowledged.
    pub(crate) fn hand_out(&self, message: &Message, is_acknowledged: bool) -> Repeat {
        let mut state = self.state();
        let Some(known) = &mut state.known else { return Repeat::New };
        let Some(key) = key_of(message) else { return Repeat::New };
        let stage = if is_acknowledged { Stage::HandedOut } else { Stage::Acknowledged };
        match (known.stages.get(&key), known.repeats) {
            (Some(Stage::Acknowledged), Repeats::Hide) => Repeat::Hidden,
            (Some(_), _) => Repeat::Seen,
            (None, _) => {
                known.note(key, stage);
                Repeat::New
            }
        }
    }
}

/// As much of a reason as the bus takes.
fn beginning(reason: &str) -> &str {
    let mut end = reason.len().min(REASON_BYTES_MAX);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    &reason[..end]
}

// ---- ids that came before -----------------------------------------------------------------------

/// A message's sender and id.
type Key = (String, String);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    HandedOut,
    Acknowledged,
}

/// The last so many messages.
#[derive(Debug)]
struct Known {
    repeats: Repeats,
    window: usize,
    stages: HashMap<Key, Stage>,
    order: VecDeque<Key>,
}

impl Known {
    fn new(repeats: Repeats, window: usize) -> Self {
        let (stages, order) = (HashMap::new(), VecDeque::new());
        Known { repeats, window: window.max(1), stages, order }
    }

    fn note(&mut self, key: Key, stage: Stage) {
        if let Some(known) = self.stages.get_mut(&key) {
            *known = stage.max(*known);
            return;
        }
        if self.order.len() >= self.window
            && let Some(oldest) = self.order.pop_front()
        {
            self.stages.remove(&oldest);
        }
        self.order.push_back(key.clone());
        self.stages.insert(key, stage);
    }
}

/// `None`: the message cannot be recognised.
fn key_of(message: &Message) -> Option<Key> {
    let id = message.id().filter(|id| (1..=DEDUP_ID_BYTES_MAX).contains(&id.len()))?;
    let from = message.from().unwrap_or_default();
    (from.len() <= DEDUP_ID_BYTES_MAX).then(|| (from.into_owned(), id.into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use hermes_bus_proto::Object;

    fn message(id: &str) -> Message {
        let json = format!("{{\"from\": \"x\", \"id\": \"{id}\"}}");
        Message::new(Object::scan(Bytes::from(json)).unwrap())
    }

    fn frames(acks: &Acks) -> String {
        String::from_utf8_lossy(&acks.take_frames()).into_owned()
    }

    #[test]
    fn what_is_settled_goes_out_once_and_in_one_frame() {
        let acks = Acks::new(None);
        acks.session_began();
        let deliveries = [3, 4, 5].map(|seq| acks.arrived(seq));
        let m = message("m");
        assert!(acks.settle(deliveries[1], &m, Settle::Ack));
        assert!(acks.settle(deliveries[0], &m, Settle::Ack));
        assert!(!acks.settle(deliveries[0], &m, Settle::Ack), "twice");
        let nack = Settle::Nack { reason: "no", requeue: false };
        assert!(acks.settle(deliveries[2], &m, nack));
        let sent = frames(&acks);
        assert!(sent.contains("[4,3]"), "{sent}");
        assert!(sent.contains(r#""reason":"no","requeue":false,"seq":5"#), "{sent}");
        assert_eq!(frames(&acks), "");
    }

    #[test]
    fn what_came_in_an_earlier_session_cannot_be_settled_in_the_next() {
        let acks = Acks::new(None);
        acks.session_began();
        let early = acks.arrived(7);
        let settled_and_not_told = acks.arrived(8);
        assert!(acks.settle(settled_and_not_told, &message("m"), Settle::Ack));
        acks.session_ended();
        assert!(!acks.settle(early, &message("m"), Settle::Ack));
        acks.session_began();
        let again = acks.arrived(7);
        assert!(!acks.settle(early, &message("m"), Settle::Ack), "the number is another session's");
        assert_eq!(frames(&acks), "");
        assert!(acks.settle(again, &message("m"), Settle::Ack));
    }

    #[test]
    fn a_message_is_hidden_only_when_it_was_acknowledged_even_if_too_late() {
        let acks = Acks::new(Some((Repeats::Hide, 10)));
        acks.session_began();
        let first = acks.arrived(1);
        assert_eq!(acks.hand_out(&message("a"), true), Repeat::New);
        assert_eq!(acks.hand_out(&message("a"), true), Repeat::Seen, "nobody is done with it");
        acks.session_ended();
        acks.settle(first, &message("a"), Settle::Ack);
        assert_eq!(acks.hand_out(&message("a"), true), Repeat::Hidden);
        assert_eq!(acks.hand_out(&message("b"), true), Repeat::New);
    }

    #[test]
    fn only_so_many_ids_are_remembered() {
        let acks = Acks::new(Some((Repeats::Mark, 2)));
        let ids = ["a", "b", "c"].map(message);
        ids.iter().for_each(|id| assert_eq!(acks.hand_out(id, true), Repeat::New));
        assert_eq!(acks.hand_out(&ids[2], true), Repeat::Seen);
        assert_eq!(acks.hand_out(&ids[0], true), Repeat::New);
    }
}

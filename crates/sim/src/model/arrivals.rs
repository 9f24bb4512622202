//! What peers get: every byte is somebody's.

use std::rc::Rc;

use hermes_bus_core::{SessionKey, TapBatch};
use hermes_bus_proto::frame::{self, Decoded};
use hermes_bus_proto::limits::HEADER_BYTES;
use hermes_bus_proto::listing::Level;
use hermes_bus_proto::{Envelope, Raw};

use crate::call::Violation;

use super::message::{Copied, check_tapped, is_uuid};
use super::session::{First, Owed, OwedId};
use super::{Checked, Expected, Model, ensure};

impl Model {
    /// These bytes are in the peer's socket.
    pub(super) fn written(
        &mut self,
        key: SessionKey,
        bytes: &[u8],
        expected: &mut Expected,
    ) -> Checked {
        let now = self.now.moment;
        let session = self.session(key)?;
        ensure!(session.corked_until.is_none(), "pause", "{key:?} is told something meanwhile");
        session.last_told = now;
        session.partial.extend_from_slice(bytes);
        let mut partial = std::mem::take(&mut session.partial);
        let mut at = 0;
        loop {
            match frame::decode(&partial[at..]) {
                Decoded::Incomplete { .. } => break,
                Decoded::Refused(error) => {
                    let what = format!("{key:?} gets what is no frame: {error}");
                    return Err(Violation::new("frames", what));
                }
                Decoded::Frame { payload, frame_bytes } => {
                    self.arrived(key, payload, expected)?;
                    at += frame_bytes;
                }
            }
        }
        partial.drain(..at);
        self.session(key)?.partial = partial;
        Ok(())
    }

    fn arrived(&mut self, key: SessionKey, payload: &[u8], expected: &mut Expected) -> Checked {
        let session = self.session(key)?;
        if session.queue.front().is_some_and(|copy| copy.message.is(payload))
            && let Some(copy) = session.queue.pop_front()
        {
            ensure!(
                !session.answers.iter().any(|owed| matches!(owed, Owed::Registered { .. })),
                "order",
                "{key:?} gets message {} before it hears that it is registered",
                copy.message.number()
            );
            expected.handed_over += 1;
            expected.handed_over_bytes += (payload.len() + HEADER_BYTES) as u64;
            self.note_handed_over(key, &copy);
            if let Some(id) = copy.message.made_id.known() {
                self.check_made_id(id, &format!("message {}", copy.message.number()))?;
            }
            return Ok(());
        }
        let Ok(envelope) = Envelope::scan(payload) else {
            return Err(Violation::new("frames", format!("{key:?} gets what is no object")));
        };
        let kind = envelope.member("type").and_then(|kind| kind.text().ok());
        if session.answers.front().is_some_and(|owed| owed.is(&envelope)) {
            session.answers.pop_front();
            return Ok(());
        }
        // A message's own id may look like one that the bus has made: what is owed with that id comes first.
        let exact = session.late.iter().position(|owed| owed.is_exact() && owed.is(&envelope));
        let late = exact.or_else(|| session.late.iter().position(|owed| owed.is(&envelope)));
        if let Some(at) = late {
            session.late.remove(at);
            return Ok(());
        }
        if session.is_impatient && kind.as_deref() == Some("pong") {
            return Ok(());
        }
        let text = String::from_utf8_lossy(&payload[..payload.len().min(200)]).into_owned();
        let next = session.queue.iter().take(3).map(|copy| copy.message.number());
        let next: Vec<&str> = next.collect();
        let rule = if kind.as_deref() == Some("message") { "order" } else { "answer" };
        Err(Violation::new(
            rule,
            format!(
                "{key:?} ({:?}) gets {text}, but it is owed messages {next:?} and {:?} {:?}",
                session.name, session.answers, session.late
            ),
        ))
    }

    /// A copy is whole in its receiver's socket.
    fn note_handed_over(&mut self, receiver: SessionKey, copy: &Copied) {
        for sender in self.sessions.values_mut() {
            if let First::Due { message, copies, .. } = &mut sender.first
                && Rc::ptr_eq(message, &copy.message)
            {
                for (to, is_written) in copies {
                    *is_written |= *to == receiver;
                }
            }
        }
    }

    /// The driver has answered a request of the owner's.
    pub(super) fn admin_answered(&mut self, key: SessionKey, frame: &[u8]) {
        if let Some(session) = self.sessions.get_mut(&key) {
            session.owe_late(Owed::Admin { frame: frame.to_vec() });
        }
    }

    /// Those who look on have got a batch.
    pub(super) fn tapped(&mut self, batch: &TapBatch) -> Checked {
        let left_out = batch.left_out() as usize;
        ensure!(
            left_out + batch.len() == self.tapped.len(),
            "tap",
            "{} messages and {left_out} left out, of {} that were routed",
            batch.len(),
            self.tapped.len()
        );
        self.tapped.drain(..left_out);
        for tapped in batch.iter() {
            if let Some((message, outcome)) = self.tapped.pop_front() {
                check_tapped(&message, outcome, &tapped)?;
            }
        }
        Ok(())
    }
}

impl Owed {
    /// Whether no other frame can be meant. An error about a message whose id the bus has made may be about
    /// another one: which of them was lost, and when it was told, is known only by number.
    fn is_exact(&self) -> bool {
        !matches!(self, Owed::Error { id: OwedId::Made(_), .. })
    }

    /// Whether this is the frame that is owed.
    fn is(&self, envelope: &Envelope<'_>) -> bool {
        let text = |key: &str| {
            envelope.member(key).and_then(|value| value.text().ok()).map(|text| text.into_owned())
        };
        let is = |key: &str, value: &str| text(key).as_deref() == Some(value);
        match self {
            Owed::Pong => is("type", "pong"),
            Owed::Registered { name, session_id } => {
                is("type", "registered") && is("endpoint", name) && is("session_id", session_id)
            }
            Owed::Listing { level, entries } => {
                let kind = match level {
                    Level::One => "endpoints_list",
                    Level::Two => "endpoint_list",
                };
                is("type", kind) && lists(envelope, entries)
            }
            Owed::Error { code, id } => {
                let is_id = match (id, envelope.id) {
                    (OwedId::Made(_), Some(shown)) => {
                        shown.text().is_ok_and(|text| is_uuid(text.as_bytes()))
                    }
                    (id, shown) => id.is(shown),
                };
                is("type", "error") && is("code", code.as_str()) && is_id
            }
            Owed::Receipt { id, status, endpoints } => {
                let shown = envelope.member("endpoints").and_then(Raw::integer);
                is("type", "receipt")
                    && is("status", status.as_str())
                    && id.is(envelope.id)
                    && shown == endpoints.map(|endpoints| endpoints as i64)
            }
            Owed::Admin { frame } => envelope.payload() == &frame[HEADER_BYTES..],
        }
    }
}

fn lists(envelope: &Envelope<'_>, entries: &[(String, String)]) -> bool {
    let listing: Result<serde_json::Value, _> = serde_json::from_slice(envelope.payload());
    let Ok(listing) = listing else { return false };
    let Some(listed) = listing["endpoints"].as_object() else { return false };
    let is_listed = |(name, session_id): &(String, String)| {
        listed.get(name).and_then(|shown| shown.as_str()) == Some(session_id)
    };
    listed.len() == entries.len() && entries.iter().all(is_listed)
}

impl OwedId {
    fn is(&self, shown: Option<Raw<'_>>) -> bool {
        match (self, shown) {
            (OwedId::None, None) => true,
            (OwedId::Given(id), Some(shown)) => shown.as_bytes() == *id,
            (OwedId::Made(made), Some(shown)) => {
                shown.text().is_ok_and(|text| made.may_be(text.as_bytes()))
            }
            _ => false,
        }
    }
}

//! Messages as they were sent, and what a receiver is to get of them.

use std::cell::OnceCell;
use std::rc::Rc;

use hermes_bus_core::{Moment, SessionKey};
use hermes_bus_proto::limits::PAYLOAD_BYTES_MAX;
use hermes_bus_proto::{Envelope, Raw};

use crate::call::Violation;

use super::ensure;

/// An id that the bus has made: unknown until somebody sees it, and then the same wherever it is shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct MadeId(Rc<OnceCell<Vec<u8>>>);

impl MadeId {
    /// Whether this may be it.
    pub(super) fn may_be(&self, shown: &[u8]) -> bool {
        is_uuid(shown) && self.known().is_none_or(|known| known == shown)
    }

    /// Whether this may be it; then it is it from now on.
    fn is(&self, shown: &[u8]) -> bool {
        let may_be = self.may_be(shown);
        may_be && self.0.get_or_init(|| shown.to_vec()) == shown
    }

    /// What it is, if anybody has seen it.
    pub(super) fn known(&self) -> Option<&[u8]> {
        self.0.get().map(Vec::as_slice)
    }
}

/// A message that the router has taken.
#[derive(Debug)]
pub(super) struct Message {
    /// Its number in the run, for people.
    n: String,
    payload: Vec<u8>,
    closing_brace_at: usize,
    /// Its own `id` as JSON.
    pub(super) id: Option<Vec<u8>>,
    /// The one that the bus adds if it has none.
    pub(super) made_id: MadeId,
    /// `ts` as the bus adds it.
    ts: Option<String>,
    /// `from` as the bus adds it.
    from: Option<String>,
    /// The name it is for, as the log shows it.
    pub(super) wanted: String,
}

const ID_FIELD_BYTES: usize = r#", "id": """#.len() + 36;

impl Message {
    /// Reads what was offered at a time, by a session of this name.
    pub(super) fn read(
        payload: &[u8],
        envelope: &Envelope<'_>,
        unix_us: u64,
        name: Option<&str>,
    ) -> Self {
        let n = envelope.member("n").map_or_else(
            || "without a number".to_owned(),
            |n| String::from_utf8_lossy(n.as_bytes()).into_owned(),
        );
        let (seconds, fraction) = (unix_us / 1_000_000, unix_us % 1_000_000);
        let ts = envelope.ts.is_none().then(|| format!(", \"ts\": {seconds}.{fraction:06}"));
        let from = name.filter(|_| envelope.from.is_none());
        let mut message = Message {
            n,
            payload: payload.to_vec(),
            closing_brace_at: envelope.closing_brace_at(),
            id: envelope.id.map(|id| id.as_bytes().to_vec()),
            made_id: MadeId::default(),
            ts,
            from: from.map(|name| format!(", \"from\": {}", serde_json::Value::from(name))),
            wanted: shown(envelope.to),
        };
        // A message that just fits is delivered without its sender's name.
        if message.payload_bytes() > PAYLOAD_BYTES_MAX {
            message.from = None;
        }
        message
    }

    pub(super) fn number(&self) -> &str {
        &self.n
    }

    pub(super) fn sent_bytes(&self) -> usize {
        self.payload.len()
    }

    /// Its payload as a receiver gets it.
    pub(super) fn payload_bytes(&self) -> usize {
        let fields = [&self.ts, &self.from];
        let inserted: usize = fields.into_iter().flatten().map(String::len).sum();
        let id = if self.id.is_none() { ID_FIELD_BYTES } else { 0 };
        self.payload.len() + inserted + id
    }

    /// Whether a receiver's payload may begin so.
    pub(super) fn begins_with(&self, seen: &[u8]) -> bool {
        let before = &self.payload[..self.closing_brace_at];
        let common = seen.len().min(before.len());
        seen[..common] == before[..common]
    }

    /// Whether this is the message as a receiver is to get it: what is missing added before the
    /// closing brace, every other byte as it was.
    pub(super) fn is(&self, payload: &[u8]) -> bool {
        let (before, after) = self.payload.split_at(self.closing_brace_at);
        let inside = payload.strip_prefix(before).and_then(|rest| rest.strip_suffix(after));
        let Some(mut inserted) = inside else { return false };
        let mut uuid = None;
        if self.id.is_none() {
            let Some((field, rest)) = inserted.split_at_checked(ID_FIELD_BYTES) else {
                return false;
            };
            uuid = field.strip_prefix(br#", "id": ""#).and_then(|id| id.strip_suffix(b"\""));
            inserted = rest;
        }
        let fields = [self.ts.as_deref(), self.from.as_deref()].map(Option::unwrap_or_default);
        let is_as_it_came = inserted == fields.concat().as_bytes();
        is_as_it_came && (self.id.is_some() || uuid.is_some_and(|uuid| self.made_id.is(uuid)))
    }
}

pub(super) fn is_uuid(text: &[u8]) -> bool {
    let dashes = [8, 13, 18, 23];
    text.len() == 36
        && text.iter().enumerate().all(|(at, byte)| match dashes.contains(&at) {
            true => *byte == b'-',
            false => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
        })
}

/// A name as the log shows it: its beginning, as Python shows it.
fn shown(to: Option<Raw<'_>>) -> String {
    const BYTES_MAX: usize = 80;
    const NAME_BYTES_MAX: usize = 8 * 1024;
    let mut shown = Vec::new();
    if let Some(to) = to.filter(|to| to.as_bytes().len() <= NAME_BYTES_MAX) {
        to.append_shown_by_python(&mut shown);
    }
    let is_cut = shown.len() > BYTES_MAX;
    shown.truncate(BYTES_MAX);
    let text = String::from_utf8_lossy(&shown).into_owned();
    if is_cut { text + "…" } else { text }
}

/// One receiver's copy of a message.
#[derive(Clone, Debug)]
pub(super) struct Copied {
    pub(super) message: Rc<Message>,
    /// The anonymous sender that may still hear what becomes of it.
    pub(super) waiter: Option<SessionKey>,
    pub(super) arrived: Moment,
}

/// Finds what of a batch for those who look on is whole.
pub(super) fn check_tapped(
    message: &Message,
    outcome: hermes_bus_core::Outcome,
    tapped: &hermes_bus_core::Tapped<'_>,
) -> Result<(), Violation> {
    ensure!(
        tapped.outcome == outcome,
        "tap",
        "message {} was tapped as {:?}, but became {outcome:?}",
        message.number(),
        tapped.outcome
    );
    ensure!(
        message.is(&tapped.text()),
        "tap",
        "message {} was tapped with other bytes",
        message.number()
    );
    Ok(())
}

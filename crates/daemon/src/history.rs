//! The history of live traffic: what the tap has shown becomes entries for the store, each message
//! once. A batch that the hooks could not take yet is shown again, with what has come since.

use std::time::{SystemTime, UNIX_EPOCH};

use hermes_bus_core::TapBatch;
use hermes_bus_store::{Depth, HistoryEntry};

/// How much of the tap's batch is recorded already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Recorded {
    /// Counted from the batch's beginning, with what was left out of it since.
    messages: u64,
}

impl Recorded {
    /// The messages that are new in the batch. They were routed in this turn.
    pub(crate) fn entries(&self, batch: &TapBatch, depth: Depth) -> Vec<HistoryEntry> {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let unix_us = unix.as_micros() as u64;
        let known = self.messages.saturating_sub(batch.left_out());
        let new = batch.iter().skip(usize::try_from(known).unwrap_or(usize::MAX));
        let entry = |tapped: hermes_bus_core::Tapped<'_>| HistoryEntry {
            unix_us,
            payload: tapped.payload(),
            outcome: tapped.outcome.as_str(),
            depth,
        };
        new.map(entry).collect()
    }

    /// The batch will be shown again.
    pub(crate) fn is_kept(&mut self, batch: &TapBatch) {
        self.messages = batch.left_out() + batch.len() as u64;
    }
}

#[cfg(test)]
mod tests {
    use hermes_bus_core::Outcome;

    use super::*;

    fn texts(entries: &[HistoryEntry]) -> Vec<String> {
        entries.iter().map(|e| String::from_utf8_lossy(&e.payload).into_owned()).collect()
    }

    #[test]
    fn a_message_is_recorded_once_however_often_its_batch_is_shown() {
        let mut recorded = Recorded::default();
        let mut batch = TapBatch::default();
        batch.push_copy(&[b"{\"n\": 1}"], Outcome::Accepted);
        batch.push_copy(&[b"{\"n\": 2}"], Outcome::NotFound);
        let entries = recorded.entries(&batch, Depth::Message);
        assert_eq!(texts(&entries), ["{\"n\": 1}", "{\"n\": 2}"]);
        assert_eq!(entries[1].outcome, "endpoint_not_found");
        recorded.is_kept(&batch);
        assert_eq!(recorded.entries(&batch, Depth::Message), []);
        batch.push_copy(&[b"{\"n\": 3}"], Outcome::Accepted);
        assert_eq!(texts(&recorded.entries(&batch, Depth::Message)), ["{\"n\": 3}"]);
    }

    #[test]
    fn what_was_left_out_of_a_batch_was_recorded_before() {
        let mut recorded = Recorded::default();
        let mut batch = TapBatch::default();
        for number in 0..10 {
            batch.push_copy(&[format!("{{\"n\": {number}}}").as_bytes()], Outcome::Accepted);
        }
        assert_eq!(recorded.entries(&batch, Depth::Envelope).len(), 10);
        recorded.is_kept(&batch);
        for number in 10..13 {
            batch.push_copy(&[format!("{{\"n\": {number}}}").as_bytes()], Outcome::Accepted);
        }
        // The oldest go: some that are recorded, and then all but the newest.
        batch.shrink_to(batch.bytes() / 2);
        assert!(batch.left_out() > 0 && batch.len() > 3);
        let new = texts(&recorded.entries(&batch, Depth::Envelope));
        assert_eq!(new, ["{\"n\": 10}", "{\"n\": 11}", "{\"n\": 12}"]);
        batch.shrink_to(1);
        assert_eq!(texts(&recorded.entries(&batch, Depth::Envelope)), ["{\"n\": 12}"]);
    }
}

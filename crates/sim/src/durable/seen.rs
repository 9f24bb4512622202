//! Which kinds of things were seen, and how often. A kind that never occurs is a rule that is never
//! checked.

use std::collections::BTreeMap;

use hermes_bus_core::storage::{Answer, Ending, Order};
use hermes_bus_core::{Counters, Event};
use hermes_bus_proto::control::Status;

use super::model::Model;
use super::script::Action;

/// Counts by kind.
#[derive(Debug, Default)]
pub(super) struct Seen(BTreeMap<String, u64>);

impl Seen {
    pub(super) fn note(&mut self, kind: &str) {
        *self.0.entry(kind.to_owned()).or_default() += 1;
    }

    pub(super) fn add(&mut self, kind: String, times: u64) {
        *self.0.entry(kind).or_default() += times;
    }

    pub(super) fn action(&mut self, kind: &str) {
        self.add(format!("event {kind}"), 1);
    }

    pub(super) fn frame(&mut self, kind: &str) {
        self.add(format!("frame {kind}"), 1);
    }

    pub(super) fn order(&mut self, order: &Order) {
        let kind = match order {
            Order::Keep(record) => return self.add(format!("order keep {:?}", record.keep), 1),
            Order::Release { .. } => "order release",
            Order::EndSpilled(_) => "order end_spilled",
            Order::Purge { .. } => "order purge",
            Order::Move { .. } => "order move",
            Order::Delivered { .. } => "order delivered",
            Order::Bury(_) => "order bury",
            Order::Load { .. } => "order load",
            Order::LoadOverdue { .. } => "order load_overdue",
            Order::Remember(_) => "order remember",
            Order::Forget(_) => "order forget",
        };
        self.note(kind);
    }

    pub(super) fn answer(&mut self, answer: &Answer) {
        self.note(match answer {
            Answer::Stored(_) => "answer stored",
            Answer::Refused { .. } => "answer refused",
            Answer::Loaded { is_all: true, .. } => "answer loaded all",
            Answer::Loaded { .. } => "answer loaded some",
            Answer::Overdue(records) if records.is_empty() => "answer overdue nothing",
            Answer::Overdue(_) => "answer overdue",
            Answer::Buried(_) => "answer buried",
            Answer::Trouble(Some(_)) => "answer trouble",
            Answer::Trouble(None) => "answer trouble over",
        });
    }

    pub(super) fn log(&mut self, event: &Event) {
        self.add(format!("log {}", event.fields().event), 1);
    }

    pub(super) fn counters(&mut self, counters: &Counters) {
        for (name, value) in counters.iter().filter(|(_, value)| *value > 0) {
            self.add(format!("counter {name}"), value);
        }
    }

    pub(super) fn add_model(&mut self, model: &Model) {
        for (kinds, group) in
            [(&model.receipts, "receipt"), (&model.errors, "error"), (&model.endings, "ending")]
        {
            for (kind, times) in kinds {
                self.add(format!("{group} {kind}"), *times);
            }
        }
        for (kind, times) in &model.kinds {
            self.add(kind.clone(), *times);
        }
        self.add("redelivered".to_owned(), model.redelivered);
    }

    pub(super) fn into_counts(self) -> BTreeMap<String, u64> {
        self.0
    }
}

/// What a long run must have seen.
pub(crate) fn required() -> Vec<String> {
    let mut all: Vec<String> = Action::KINDS.iter().map(|kind| format!("event {kind}")).collect();
    all.extend(Status::ALL.iter().map(|status| format!("receipt {}", status.as_str())));
    let endings = [Ending::Acked, Ending::Read, Ending::Expired, Ending::Dead, Ending::Dropped];
    all.extend(endings.iter().map(|ending| format!("ending {}", ending.as_str())));
    let others = [
        "order keep Mailbox",
        "order keep Queued",
        "order keep Spill",
        "order release",
        "order end_spilled",
        "order delivered",
        "order bury",
        "order load",
        "order load_overdue",
        "order remember",
        "answer stored",
        "answer refused",
        "answer loaded all",
        "answer loaded some",
        "answer overdue",
        "answer buried",
        "answer trouble",
        "answer trouble over",
        "frame message",
        "frame receipt",
        "frame error",
        "frame bye",
        "frame subscribed",
        "frame gap",
        "error expired",
        "error rejected",
        "error deliveries_exceeded",
        "error receiver_gone",
        "error receipt_impossible",
        "error store_unavailable",
        "error mailbox_full",
        "error endpoint_not_found",
        "error over_limit",
        "has_read_all",
        "redelivered",
        "counter repeated",
        "counter rerouted",
        "counter retried",
        "counter sender_waits",
        "counter dropped_topic",
        "counter dropped_broadcast",
        "counter dropped_receiver_gone",
        "counter dropped_store_failed",
        "counter refused_name_taken",
        "order move",
        "order purge",
        "frame watching",
        "frame presence",
        "frame tap",
        "gap topic",
        "gap broadcast",
        "expired Mailbox",
        "expired Queued",
        "expired Spill",
        "expired Mailbox given back",
        "expired Queued given back",
        "purged Mailbox",
        "purged Queued",
        "read Mailbox level 1",
        "read Queued level 1",
        "suffix",
        "purged",
        "drained",
        "retried",
        "handed on",
        "untouched goes on",
        "waiting sender goes on",
    ];
    all.extend(others.iter().map(|kind| (*kind).to_owned()));
    all
}

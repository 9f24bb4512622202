//! What the daemon's owner asks for of what is kept: what of it the routing thread does.

use std::collections::HashSet;
use std::time::Instant;

use hermes_bus_core::Config;
use hermes_bus_core::storage::Recovered;
use hermes_bus_proto::{EndpointName, ErrorCode};
use hermes_bus_store::{Figures, Mailbox};
use serde_json::json;

use super::Driver;
use crate::control::clerk::{Deed, Errand, Outcome};
use crate::control::text::{Members, Page};
use crate::control::{Asker, Look, Operation};
use crate::logging::target;
use crate::storage::Health;

impl Driver {
    /// Takes what the store and the clerk have to say, if they have woken the loop.
    pub(super) fn look_at_store(&mut self) {
        let now = Instant::now();
        if let Some(recovered) = self.storage.look(now) {
            tracing::info!(target: target::STORE, "the store is open: messages are kept from now on");
            self.recover(recovered);
        }
        if std::mem::take(&mut self.was_woken) {
            for answer in self.storage.take_answers(now) {
                self.router.storage(answer);
            }
            let outcomes: Vec<Outcome> = self.clerk.outcomes().collect();
            outcomes.into_iter().for_each(|outcome| self.on_outcome(outcome));
        }
        self.carry_out_effects();
    }

    /// From now on orders are carried out.
    pub(super) fn recover(&mut self, recovered: Recovered) {
        self.router.configure(Config { store: true, ..self.router.config().clone() });
        self.router.recover(recovered);
    }

    pub(super) fn on_question(&mut self, asker: Asker, operation: Operation) {
        match operation {
            Operation::Config => {
                let answer =
                    asker.result(json!({"config": self.surroundings.settings().to_json()}));
                self.router.answer_admin(asker.key, &answer);
            }
            Operation::Metrics => {
                let snapshot = self.surroundings.snapshot(
                    &mut self.router,
                    &self.storage,
                    &self.turns,
                    Instant::now(),
                );
                let asked = self.clerk.metrics(asker.clone(), snapshot);
                self.answer_refusal(&asker, asked);
            }
            Operation::Purge { endpoint } => {
                if self.has_store(&asker) {
                    let (messages, bytes) = self.router.purge(&endpoint).unwrap_or_default();
                    let answer = asker.result(json!({"messages": messages, "bytes": bytes}));
                    self.router.answer_admin(asker.key, &answer);
                }
            }
            Operation::Look(Look::Figures) if !self.storage.is_open() => {
                let answer = asker.result_text(&self.health());
                self.router.answer_admin(asker.key, &answer);
            }
            Operation::Look(look) => {
                if self.has_store(&asker)
                    && let Some(path) = self.storage.path()
                {
                    let asked = self.clerk.look(asker.clone(), look, path);
                    self.answer_refusal(&asker, asked);
                }
            }
            // These were dealt with already.
            Operation::Reload | Operation::Restart => {}
        }
    }

    fn answer_refusal(&mut self, asker: &Asker, asked: Result<(), Vec<u8>>) {
        if let Err(refusal) = asked {
            self.router.answer_admin(asker.key, &refusal);
        }
    }

    /// Whether there is a store to ask; else the asker hears why not.
    fn has_store(&mut self, asker: &Asker) -> bool {
        let why = match self.storage.health() {
            Health::Open | Health::Trouble(_) => return true,
            Health::Off => "nothing is kept on disk (store.enabled is off)".to_owned(),
            Health::Failed(why) => why.to_owned(),
        };
        self.refuse(asker, ErrorCode::StoreUnavailable, &why);
        false
    }

    // ---- what the clerk has found -------------------------------------------------------------------

    fn on_outcome(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Answer { key, frame } => self.router.answer_admin(key, &frame),
            Outcome::Mailboxes { asker, after, mailboxes } => {
                self.on_mailboxes(&asker, after.as_deref(), &mailboxes);
            }
            Outcome::Figures { asker, figures, mailboxes } => {
                let mut answer = self.health();
                add_figures(&mut answer, &figures, &mailboxes);
                self.router.answer_admin(asker.key, &asker.result_text(&answer));
            }
            Outcome::Drain { asker, endpoint, seqs, answer } => {
                // Messages are let go of only when somebody gets them.
                if self.connection(asker.key).is_some() {
                    self.router.answer_admin(asker.key, &asker.result_text(&answer));
                    self.router.remove(&endpoint, &seqs);
                }
            }
            Outcome::Letters { errand, letters } => {
                let mut numbers = Vec::with_capacity(letters.len());
                for numbered in letters {
                    let is_done_with = match errand.what {
                        Deed::Drop => true,
                        Deed::Retry => self.router.retry(numbered.letter.record),
                    };
                    if is_done_with {
                        numbers.push(numbered.number);
                    }
                }
                // The messages are kept first; only then their letters go.
                self.carry_out_effects();
                self.storage.submit();
                let post = self.clerk.post();
                self.storage.remove_dead_letters(numbers, move |removed| {
                    post.send(Outcome::Removed { errand, removed });
                });
            }
            Outcome::Removed { errand, removed } => self.on_removed(errand, removed),
        }
    }

    fn on_removed(
        &mut self,
        mut errand: Errand,
        removed: Result<u64, hermes_bus_store::Unavailable>,
    ) {
        let asker = errand.asker.clone();
        match removed {
            Ok(letters) => errand.done += letters,
            Err(why) => {
                return self.refuse(&asker, ErrorCode::StoreUnavailable, &why.to_string());
            }
        }
        let gone_on = match self.storage.path() {
            Some(path) => self.clerk.go_on(errand, path),
            None => Err(errand),
        };
        if let Err(errand) = gone_on {
            let answer = match errand.what {
                Deed::Retry => json!({"retried": errand.done}),
                Deed::Drop => json!({"dropped": errand.done}),
            };
            self.router.answer_admin(asker.key, &asker.result(answer));
        }
    }

    fn on_mailboxes(&mut self, asker: &Asker, after: Option<&str>, mailboxes: &[Mailbox]) {
        let present: HashSet<String> =
            self.router.endpoints().map(|(details, _)| details.endpoint).collect();
        let mut page = Page::default();
        let mut answer = Members::default();
        let (mut last, mut has_more) = (None, false);
        let behind =
            |mailbox: &&Mailbox| after.is_none_or(|after| mailbox.endpoint.as_str() > after);
        for mailbox in mailboxes.iter().filter(behind) {
            let Mailbox { endpoint, messages, load_bytes, oldest_unix_us } = mailbox;
            let mut item = Members::default();
            item.value("endpoint", endpoint.as_str());
            item.value("messages", messages);
            item.value("bytes", load_bytes);
            item.time("oldest_ts", *oldest_unix_us);
            item.value("online", present.contains(endpoint.as_str()));
            has_more = !page.push(&item);
            if has_more {
                break;
            }
            last = Some(endpoint);
        }
        answer.page("mailboxes", page);
        if has_more {
            answer.value("next", last.map(EndpointName::as_str));
        }
        self.router.answer_admin(asker.key, &asker.result_text(&answer));
    }

    /// How the store is, as far as this thread knows.
    fn health(&self) -> Members {
        let health = self.storage.health();
        let mut members = Members::default();
        members.value("state", health.as_str());
        if let Some(why) = health.why() {
            members.value("why", why);
        }
        members.value("file", self.storage.file().display().to_string());
        let quota = self.router.config().mailbox_bytes_total_max;
        members.value("quota_bytes", quota);
        members.value("pending", self.storage.tally().pending);
        members.value("refused", self.storage.tally().refused);
        members
    }
}

fn add_figures(answer: &mut Members, figures: &Figures, mailboxes: &[Mailbox]) {
    answer.value("mailboxes", mailboxes.len());
    answer.value("messages", mailboxes.iter().map(|mailbox| mailbox.messages).sum::<u64>());
    answer.value("bytes", mailboxes.iter().map(|mailbox| mailbox.load_bytes).sum::<u64>());
    if let Some(oldest) = mailboxes.iter().map(|mailbox| mailbox.oldest_unix_us).min() {
        answer.time("oldest_ts", oldest);
    }
    answer.value("dead_letters", figures.dead_letters);
    answer.value("dead_letter_bytes", figures.dead_letter_bytes);
    answer.value("history_entries", figures.history_entries);
    answer.value("history_bytes", figures.history_bytes);
    answer.value("database_bytes", figures.database_bytes);
    answer.value("free_bytes", figures.free_bytes);
    answer.value("wal_bytes", figures.wal_bytes);
    answer.value("schema", figures.schema);
}

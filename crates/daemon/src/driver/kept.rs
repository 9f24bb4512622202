//! What the daemon's owner asks for of what is kept: what of it the routing thread does.

use std::time::Instant;

use bytes::Bytes;
use hermes_bus_core::storage::Recovered;
use hermes_bus_core::{Config, Mailbox, Member, SessionKey};
use hermes_bus_proto::listing::Amount;
use hermes_bus_proto::{EndpointName, Envelope, ErrorCode, Raw, requests};
use hermes_bus_store::{Figures, Seen};
use serde_json::{Value, json};

use super::Driver;
use crate::control::clerk::{Deed, Errand, Outcome};
use crate::control::text::{Members, Page};
use crate::control::trace::Question;
use crate::control::{Asker, Look, Operation};
use crate::logging::target;
use crate::storage::Health;
use crate::sys;

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
                let is_done = |errand: &mut Errand| errand.hear(&answer);
                let done: Vec<Errand> = self.errands.extract_if(.., is_done).collect();
                done.into_iter().for_each(|errand| self.remove_dead_letters(errand));
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
            // What stands on disk is not known before it is open: "nothing" would not be true.
            Operation::Purge { .. } | Operation::Mailboxes { .. } if !self.has_store(&asker) => {}
            Operation::Purge { endpoint } => {
                let Amount { messages, bytes } =
                    self.router.purge(endpoint.as_str()).unwrap_or_default();
                let answer = asker.result(json!({"messages": messages, "bytes": bytes}));
                self.router.answer_admin(asker.key, &answer);
            }
            Operation::Mailboxes { after } => {
                let answer = asker.result_text(&self.list_mailboxes(after.as_deref()));
                self.router.answer_admin(asker.key, &answer);
            }
            Operation::Groups { group } => {
                let answer = asker.result(self.list_groups(group.as_deref()));
                self.router.answer_admin(asker.key, &answer);
            }
            Operation::Look(Look::Figures) if !self.storage.is_open() => {
                let answer = asker.result_text(&self.health());
                self.router.answer_admin(asker.key, &answer);
            }
            Operation::Look(look) => {
                if self.has_store(&asker)
                    && let Some(path) = self.storage.path()
                {
                    let stored = self.storage.stored();
                    let asked = self.clerk.look(asker.clone(), look, path, stored);
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
            Outcome::Traced { question, seen } => self.on_traced(question, seen),
            Outcome::Figures { asker, figures } => {
                let mut answer = self.health();
                add_figures(&mut answer, &figures);
                self.router.answer_admin(asker.key, &asker.result_text(&answer));
            }
            Outcome::Drain { asker, endpoint, messages, as_of, mut answer } => {
                // Messages are let go of only when somebody gets them.
                if self.connection(asker.key).is_some() {
                    let removed = self.router.remove(endpoint.as_str(), &messages, as_of);
                    answer.value("removed", removed);
                    self.router.answer_admin(asker.key, &asker.result_text(&answer));
                }
            }
            Outcome::Letters { mut errand, letters } => {
                for numbered in letters {
                    match errand.what {
                        Deed::Drop => errand.may_go.push(numbered.number),
                        Deed::Retry => match self.router.retry(numbered.letter.record) {
                            Ok(ticket) => errand.on_their_way.push((ticket, numbered.number)),
                            Err((code, detail)) => {
                                errand.refused += 1;
                                errand.why = Some(format!("{code}: {detail}"));
                            }
                        },
                    }
                }
                // The messages are kept first; only then their letters go.
                if errand.on_their_way.is_empty() {
                    self.remove_dead_letters(errand);
                } else {
                    self.errands.push(errand);
                }
            }
            Outcome::Removed { errand, removed } => self.on_removed(errand, removed),
        }
    }

    fn remove_dead_letters(&mut self, mut errand: Errand) {
        let numbers = std::mem::take(&mut errand.may_go);
        let post = self.clerk.post();
        self.storage.remove_dead_letters(numbers, move |removed| {
            post.send(Outcome::Removed { errand, removed });
        });
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
            None => Err(Box::new(errand)),
        };
        if let Err(errand) = gone_on {
            let answer = match errand.what {
                Deed::Retry if errand.refused > 0 => json!({
                    "retried": errand.done, "refused": errand.refused, "why": errand.why,
                }),
                Deed::Retry => json!({"retried": errand.done}),
                Deed::Drop => json!({"dropped": errand.done}),
            };
            self.router.answer_admin(asker.key, &asker.result(answer));
        }
    }

    fn list_mailboxes(&self, after: Option<&str>) -> Members {
        let mut page = Page::default();
        let mut answer = Members::default();
        let (mut last, mut has_more) = (None, false);
        let mailboxes = self.router.mailboxes();
        let behind =
            |mailbox: &&Mailbox| after.is_none_or(|after| mailbox.endpoint.as_str() > after);
        for mailbox in mailboxes.iter().filter(behind) {
            let mut item = Members::default();
            item.value("endpoint", mailbox.endpoint.as_str());
            item.value("messages", mailbox.kept.messages);
            item.value("bytes", mailbox.kept.bytes);
            match mailbox.oldest_unix_us {
                Some(oldest) => item.time("oldest_ts", oldest),
                None => item.raw("oldest_ts", b"null"),
            }
            item.value("online", mailbox.is_online);
            has_more = !page.push(&item);
            if has_more {
                break;
            }
            last = Some(&mailbox.endpoint);
        }
        answer.page("mailboxes", page);
        if has_more {
            answer.value("next", last.map(EndpointName::as_str));
        }
        answer
    }

    fn list_groups(&self, only: Option<&str>) -> Value {
        let member = |member: Member| {
            let Member { endpoint, load } = member;
            json!({"endpoint": endpoint.as_str(), "online": load.is_some(), "load": load.unwrap_or(0)})
        };
        let groups = self.router.groups(only.map(|name| name.trim_start_matches('@')));
        let groups = groups.into_iter().map(|(group, members)| {
            json!({"group": group, "members": members.into_iter().map(member).collect::<Vec<_>>()})
        });
        json!({"groups": groups.collect::<Vec<_>>()})
    }

    // ---- trace ----------------------------------------------------------------------------------------

    /// Where a message is: what the router knows, and for the bus's owner what stands on disk.
    pub(super) fn on_trace(&mut self, key: SessionKey, payload: &Bytes) {
        // The router has read it already, and found nothing wrong.
        let Ok(envelope) = Envelope::scan(payload) else { return };
        let (Ok(id), Ok(req)) = (requests::traced_id(&envelope), requests::req(&envelope)) else {
            return;
        };
        let question = Question {
            key,
            id: payload.slice_ref(id.as_bytes()),
            req: req.map(|req| payload.slice_ref(req.as_bytes())),
        };
        let id = question.id_text().filter(|_| self.owns_bus(key));
        let asked = match (id, self.storage.path()) {
            (Some(id), Some(path)) => self.clerk.trace(question, id, path),
            _ => Err(Box::new(question)),
        };
        if let Err(question) = asked {
            self.on_traced(*question, Vec::new());
        }
    }

    fn on_traced(&mut self, question: Question, seen: Vec<Seen>) {
        let key = question.key;
        // Asked only now: what the disk has said may be over already.
        let known = self.router.trace_of(key, Raw::new(&question.id));
        let on_disk =
            |one: &Seen| self.router.standing_on_disk(&one.endpoint, one.seq, one.unix_us);
        let frame = question.answer(seen, known, on_disk);
        self.router.answer_admin(key, &frame);
    }

    /// Whether a session is the bus's owner's: what stands on disk does not say whose it was.
    fn owns_bus(&self, key: SessionKey) -> bool {
        let owner = self.router.config().owner_uid;
        self.connection(key)
            .and_then(|connection| sys::peer_credentials(&connection.stream).ok())
            .is_some_and(|peer| peer.uid == 0 || peer.uid == owner)
    }

    /// How the store is, as far as this thread knows.
    fn health(&self) -> Members {
        let health = self.storage.health();
        let mailboxes = self.router.mailboxes();
        let sum = |of: fn(&Mailbox) -> u64| mailboxes.iter().map(of).sum::<u64>();
        let waiting = mailboxes.iter().filter(|mailbox| mailbox.kept.messages > 0);
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
        let removed = self.storage.tally().removed;
        members.value("dead_letters_aged", removed.dead_letters_aged);
        members.value("dead_letters_displaced", removed.dead_letters_displaced);
        members.value("history_dropped", removed.history_dropped);
        members.value("mailboxes", waiting.count());
        members.value("messages", sum(|mailbox| mailbox.kept.messages));
        members.value("bytes", sum(|mailbox| mailbox.kept.bytes));
        if let Some(oldest) = mailboxes.iter().filter_map(|mailbox| mailbox.oldest_unix_us).min() {
            members.time("oldest_ts", oldest);
        }
        members
    }
}

fn add_figures(answer: &mut Members, figures: &Figures) {
    answer.value("dead_letters", figures.dead_letters);
    answer.value("dead_letter_bytes", figures.dead_letter_bytes);
    answer.value("history_entries", figures.history_entries);
    answer.value("history_bytes", figures.history_bytes);
    answer.value("database_bytes", figures.database_bytes);
    answer.value("free_bytes", figures.free_bytes);
    answer.value("wal_bytes", figures.wal_bytes);
    answer.value("schema", figures.schema);
}

//! A disk for tests: it carries out the router's orders in memory, when it is told to.

use std::collections::BTreeMap;

use hermes_bus_core::SessionKey;
use hermes_bus_core::storage::{
    Answer, BUS_HAS_ENDED, DeadLetter, Ending, Keep, Order, Recent, Record, Recovered, Remembered,
    SpillEnd, Waiting, is_judged,
};
use hermes_bus_proto::control::Status;
use hermes_bus_proto::{EndpointName, Envelope, ErrorCode};
use serde_json::{Value, json};

use crate::world::{OWNER, World};

/// What is on disk, and what is on its way there.
#[derive(Default)]
pub(crate) struct Shelf {
    pub(crate) records: BTreeMap<u64, Record>,
    pub(crate) dead: Vec<DeadLetter>,
    pub(crate) remembered: BTreeMap<String, Remembered>,
    pub(crate) endings: Vec<(u64, Ending)>,
    seq_from: u64,
}

impl Shelf {
    /// What a process finds that follows one that crashed: everything that was synced.
    pub(crate) fn recovered(&self) -> Recovered {
        let mut waiting: BTreeMap<String, Waiting> = BTreeMap::new();
        for record in self.records.values() {
            let name = record.endpoint.as_str().to_owned();
            let entry = waiting.entry(name).or_insert_with(|| Waiting {
                endpoint: record.endpoint.clone(),
                messages: 0,
                load_bytes: 0,
                first_seq: record.seq,
                oldest_unix_us: record.arrived_unix_us,
            });
            entry.messages += 1;
            entry.load_bytes += record.load_bytes();
        }
        Recovered {
            seq_from: self.seq_from + 1_000,
            unclean: true,
            remembered: self.remembered.values().cloned().collect(),
            waiting: waiting.into_values().collect(),
            recent: self.records.values().filter_map(recent).collect(),
        }
    }

    fn carry_out(&mut self, order: Order) -> Option<Answer> {
        match order {
            Order::Keep(record) => {
                self.seq_from = self.seq_from.max(record.seq);
                self.records.insert(record.seq, *record);
            }
            Order::Release { seqs, ending, .. } => {
                for seq in seqs {
                    self.records.remove(&seq);
                    self.endings.push((seq, ending));
                }
            }
            Order::EndSpilled(end) => {
                let buried = self.end_spilled(|record| record.endpoint == end.endpoint, &end);
                return (buried > 0).then_some(Answer::Buried(buried));
            }
            Order::Purge { endpoint, from, to } => {
                let is_it = |seq: &u64| (from..=to).contains(seq);
                self.records.retain(|seq, kept| kept.endpoint != endpoint || !is_it(seq));
            }
            Order::Move { seq, to, new_seq, .. } => {
                if let Some(mut record) = self.records.remove(&seq) {
                    (record.endpoint, record.seq) = (to, new_seq);
                    self.records.insert(new_seq, record);
                }
            }
            Order::Delivered { seq, deliveries, .. } => {
                if let Some(record) = self.records.get_mut(&seq) {
                    record.deliveries = deliveries;
                }
            }
            Order::Bury(letter) => self.dead.push(*letter),
            Order::Load { endpoint, from, messages_max, bytes_max } => {
                let of_it = |record: &&Record| record.endpoint == endpoint;
                let mut found = self.records.range(from..).map(|(_, record)| record).filter(of_it);
                let (mut records, mut bytes, mut is_all) = (Vec::<Record>::new(), 0, true);
                while let (true, Some(record)) = (is_all, found.next()) {
                    bytes += record.payload.len();
                    let is_full = records.len() == messages_max || bytes > bytes_max;
                    is_all = records.is_empty() || !is_full;
                    records.extend(is_all.then(|| record.clone()));
                }
                return Some(Answer::Loaded { endpoint, records, is_all });
            }
            Order::LoadOverdue { unix_us, messages_max } => {
                let is_over =
                    |record: &&Record| record.expires_unix_us.is_some_and(|at| at <= unix_us);
                let over = self.records.values().filter(is_over).take(messages_max);
                return Some(Answer::Overdue(over.cloned().collect()));
            }
            Order::Remember(facts) => {
                self.remembered.insert(facts.endpoint.as_str().to_owned(), *facts);
            }
            Order::Forget(name) => {
                self.remembered.remove(name.as_str());
            }
        }
        None
    }
}

impl Shelf {
    /// Ends what is only spilled, and meant. Says how many of it have become dead letters.
    fn end_spilled(&mut self, is_meant: impl Fn(&Record) -> bool, end: &SpillEnd) -> u64 {
        let is_it = |record: &Record| record.keep == Keep::Spill && is_meant(record);
        let (ended, left): (BTreeMap<_, _>, BTreeMap<_, _>) =
            std::mem::take(&mut self.records).into_iter().partition(|(_, record)| is_it(record));
        self.records = left;
        let missed = ended.into_values().filter(|record| record.wanted.is_some());
        let letters: Vec<DeadLetter> = missed
            .map(|record| DeadLetter {
                record,
                reason: end.reason,
                detail: end.detail.clone(),
                died_unix_us: end.died_unix_us,
            })
            .collect();
        let buried = letters.len() as u64;
        self.dead.extend(letters);
        buried
    }
}

impl World {
    /// The disk writes everything that was ordered, and says so.
    pub(crate) fn sync(&mut self) {
        loop {
            let orders = std::mem::take(&mut self.orders);
            let Some((last, _)) = orders.last() else { return };
            let last = *last;
            let answers: Vec<Answer> =
                orders.into_iter().filter_map(|(_, order)| self.shelf.carry_out(order)).collect();
            for answer in answers {
                self.router.storage(answer);
            }
            self.router.storage(Answer::Stored(last));
            self.turn();
        }
    }

    /// The disk takes none of the messages that are on their way.
    pub(crate) fn refuse_all(&mut self, why: &str) {
        let orders = std::mem::take(&mut self.orders);
        let (keeps, others): (Vec<_>, Vec<_>) =
            orders.into_iter().partition(|(_, order)| matches!(order, Order::Keep(_)));
        let tickets = keeps.into_iter().map(|(ticket, _)| ticket).collect();
        self.router.storage(Answer::Refused { tickets, why: why.to_owned() });
        self.orders = others;
        self.turn();
    }

    /// A session of level 2 that has read its welcome.
    pub(crate) fn join(&mut self, name: &str, options: Value) -> SessionKey {
        let (key, welcome) = self.join_and_take(name, options);
        assert_eq!(welcome.len(), 1, "{welcome:?}");
        key
    }

    /// The same with all that came with the welcome.
    pub(crate) fn join_and_take(&mut self, name: &str, options: Value) -> (SessionKey, Vec<Value>) {
        self.join_as(OWNER, name, options)
    }

    pub(crate) fn join_as(
        &mut self,
        uid: u32,
        name: &str,
        options: Value,
    ) -> (SessionKey, Vec<Value>) {
        let key = self.connect_as(uid);
        let mut frame = json!({"type": "register", "endpoint": name, "protocol": 2});
        let members = options.as_object().expect("options are an object").clone();
        frame.as_object_mut().expect("it is one").extend(members);
        self.send(key, &frame);
        let answer = self.take(key);
        assert_eq!(answer[0]["type"], "registered", "{answer:?}");
        (key, answer)
    }

    /// Sends a message with these members.
    pub(crate) fn ask(&mut self, from: SessionKey, to: &str, members: Value) {
        let mut frame = json!({"type": "message", "to": to});
        let members = members.as_object().expect("members are an object").clone();
        frame.as_object_mut().expect("it is one").extend(members);
        self.send(from, &frame);
    }

    /// The process has crashed, and another one follows with what is on disk.
    pub(crate) fn crash(mut self) -> World {
        self.orders.clear();
        let mut next = World::with(|config| *config = self.router.config().clone());
        next.shelf = std::mem::take(&mut self.shelf);
        let end = SpillEnd {
            endpoint: EndpointName::level_1("").expect("a name"),
            reason: ErrorCode::ReceiverGone,
            detail: BUS_HAS_ENDED.to_owned(),
            died_unix_us: 0,
        };
        next.shelf.end_spilled(|_| true, &end);
        for record in next.shelf.records.values_mut() {
            record.deliveries = record.deliveries.max(1);
        }
        let recovered = next.shelf.recovered();
        next.router.recover(recovered);
        std::mem::forget(self);
        next
    }
}

fn recent(record: &Record) -> Option<Recent> {
    let message: Value = serde_json::from_slice(&record.payload).ok()?;
    let envelope = Envelope::scan(&record.payload).ok()?;
    if !is_judged(record.keep, record.wanted, &envelope) {
        return None;
    }
    let sender = record.sender.as_ref()?;
    Some(Recent {
        uid: sender.uid,
        from: sender.endpoint.as_ref().map(|name| name.as_str().into()),
        to: message["to"].as_str()?.into(),
        id: message["id"].as_str()?.into(),
        status: Status::Stored,
        waits_for: Some(record.endpoint.clone()),
        arrived_unix_us: record.arrived_unix_us,
    })
}

/// What a frame says in short: its type, and what matters of it.
pub(crate) fn brief(frame: &Value) -> String {
    let text = |key: &str| match &frame[key] {
        Value::Null => String::new(),
        Value::String(text) => format!(" {text}"),
        other => format!(" {other}"),
    };
    match frame["type"].as_str().unwrap_or_default() {
        "message" => format!(
            "message{}{}",
            text("body"),
            match &frame["delivery"] {
                Value::Null => String::new(),
                delivery => format!(" again:{delivery}"),
            }
        ),
        "receipt" => format!("receipt{}{}", text("id"), text("status")),
        "error" => format!("error{}{}", text("id"), text("code")),
        other => other.to_owned(),
    }
}

pub(crate) fn briefly(frames: &[Value]) -> Vec<String> {
    frames.iter().map(brief).collect()
}

//! A store that fails: it keeps what the router orders kept, as the rules of the port say, and takes
//! every liberty that they leave.
//!
//! Orders are gathered and carried out in commits that take time. What is not committed is lost in a
//! crash, but for any beginning of it. What a commit could not do is refused if it is a message, and
//! kept here and tried again if it is anything else.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use hermes_bus_core::storage::{
    Answer, BUS_HAS_ENDED, DeadLetter, Ending, Keep, Order, Recent, Record, Recovered, Remembered,
    SpillEnd, Ticket, Waiting, is_judged,
};
use hermes_bus_proto::control::Status;
use hermes_bus_proto::{EndpointName, Envelope, ErrorCode};

use super::model::number_in;
use super::script::Health;
use crate::draw::Dice;

/// What is on disk.
#[derive(Clone, Debug, Default)]
pub(super) struct Disk {
    pub(super) rows: BTreeMap<u64, Record>,
    /// By their numbers.
    pub(super) dead: BTreeMap<u64, DeadLetter>,
    dead_next: u64,
    known: BTreeMap<EndpointName, Remembered>,
    ended: Vec<Recent>,
    /// Rows below this `seq` were left by a process that did not say that it ended: they may have been
    /// handed over.
    unclean_below: u64,
}

/// Something to be done.
#[derive(Clone, Debug)]
enum Work {
    Order(Ticket, Order),
    /// These dead letters go, after everything that was ordered before.
    RemoveDead(Vec<u64>),
}

/// A commit under way: it covers so many of the orders that wait.
#[derive(Clone, Copy, Debug)]
struct Commit {
    orders: usize,
    done_us: u64,
}

/// The store.
pub(super) struct Store {
    pub(super) disk: Disk,
    /// Every row that ever survived a crash, if there had been one.
    pub(super) synced: BTreeSet<u64>,
    waiting: VecDeque<Work>,
    commit: Option<Commit>,
    answers: VecDeque<Answer>,
    health: Health,
    is_in_trouble: bool,
    commit_bits: u32,
    dice: Dice,
    seq_next: u64,
    is_clean: bool,
    pub(super) commits: u64,
    /// Everything up to it has been carried out.
    pub(super) carried_out: Ticket,
}

/// What every process of the bus may use up of the numbers.
const SEQS_RESERVED: u64 = 1 << 32;

impl Store {
    pub(super) fn new(seed: u64, commit_bits: u32) -> Self {
        Store {
            disk: Disk::default(),
            synced: BTreeSet::new(),
            waiting: VecDeque::new(),
            commit: None,
            answers: VecDeque::new(),
            health: Health::Well,
            is_in_trouble: false,
            commit_bits,
            dice: Dice::new(seed),
            seq_next: 1,
            is_clean: true,
            commits: 0,
            carried_out: Ticket::default(),
        }
    }

    pub(super) fn set_health(&mut self, health: Health) {
        self.health = health;
    }

    /// Whether nothing waits to be carried out or answered.
    pub(super) fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.answers.is_empty() && !self.is_in_trouble
    }

    /// When it is next to be looked at.
    pub(super) fn next_at(&self) -> Option<u64> {
        self.commit.map(|commit| commit.done_us)
    }

    pub(super) fn order(&mut self, ticket: Ticket, order: Order) {
        if let Some(seq) = highest_seq(&order) {
            self.seq_next = self.seq_next.max(seq + 1);
        }
        self.waiting.push_back(Work::Order(ticket, order));
    }

    /// These dead letters are not wanted any more.
    pub(super) fn remove_dead(&mut self, numbers: Vec<u64>) {
        self.waiting.push_back(Work::RemoveDead(numbers));
    }

    /// Whether a dead letter is still there, and nobody is about to remove it.
    pub(super) fn has_dead(&self, number: u64) -> bool {
        let is_going =
            |work: &Work| matches!(work, Work::RemoveDead(numbers) if numbers.contains(&number));
        self.disk.dead.contains_key(&number) && !self.waiting.iter().any(is_going)
    }

    /// Whether a message is a dead letter now.
    pub(super) fn has_letter_of(&self, n: u64) -> bool {
        let mut letters = self.disk.dead.values();
        letters.any(|letter| number_in(&letter.record.payload) == Some(n))
    }

    /// Time has passed.
    pub(super) fn work(&mut self, now_us: u64) {
        if let Some(commit) = self.commit.filter(|commit| commit.done_us <= now_us) {
            self.commit = None;
            self.end(commit.orders);
        }
        if self.commit.is_none() && (!self.waiting.is_empty() || self.is_in_trouble) {
            let bits = if self.health == Health::Slow { 21 } else { self.commit_bits };
            let mut takes_us = u64::from(self.dice.magnitude(bits));
            if self.is_in_trouble {
                takes_us += 50_000;
            }
            let all = self.waiting.len();
            let orders = if self.dice.one_in(4) && all > 1 {
                1 + self.dice.below(all as u32) as usize
            } else {
                all
            };
            self.commit = Some(Commit { orders, done_us: now_us + takes_us });
        }
    }

    /// The next answer, if there is one.
    pub(super) fn answer(&mut self) -> Option<Answer> {
        self.answers.pop_front()
    }

    fn end(&mut self, orders: usize) {
        self.commits += 1;
        match self.health {
            Health::Well | Health::Slow | Health::Picky => {
                let was_in_trouble = std::mem::take(&mut self.is_in_trouble);
                // What was refused stays refused, but what came while it worked again is taken.
                self.carry_out(orders, self.health == Health::Picky, false);
                if was_in_trouble {
                    self.answers.push_back(Answer::Trouble(None));
                }
            }
            Health::Full => {
                self.begin_trouble("no space is left");
                self.carry_out(orders, false, true);
            }
            Health::Broken => {
                self.begin_trouble("an error of the device");
                self.refuse(orders);
            }
        }
    }

    fn begin_trouble(&mut self, why: &str) {
        if !std::mem::replace(&mut self.is_in_trouble, true) {
            self.answers.push_back(Answer::Trouble(Some(why.to_owned())));
        }
    }

    /// Carries out the first orders, durably.
    fn carry_out(&mut self, orders: usize, is_picky: bool, is_full: bool) {
        let batch: Vec<Work> = self.waiting.drain(..orders.min(self.waiting.len())).collect();
        let mut last = None;
        let mut refused = Vec::new();
        let mut kept = Vec::new();
        let mut loaded = Vec::new();
        for work in batch {
            let (ticket, order) = match work {
                Work::Order(ticket, order) => (ticket, order),
                Work::RemoveDead(numbers) => {
                    self.disk.remove_dead(&numbers);
                    continue;
                }
            };
            last = Some(ticket);
            if let Order::Keep(record) = &order {
                if is_full || is_picky && self.dice.one_in(3) {
                    refused.push(ticket);
                    continue;
                }
                kept.push(record.seq);
            }
            loaded.extend(self.disk.load(&order, &mut self.dice));
            if let Order::Move { new_seq, .. } = &order {
                kept.push(*new_seq);
            }
            let buried = self.disk.apply(&order);
            loaded.extend((buried > 0).then_some(Answer::Buried(buried)));
        }
        // What was kept and released in one commit was never on disk.
        kept.retain(|seq| self.disk.rows.contains_key(seq));
        self.synced.extend(kept);
        if !refused.is_empty() {
            let why = "no space is left".to_owned();
            self.answers.push_back(Answer::Refused { tickets: refused, why });
        }
        self.answers.extend(loaded);
        self.carried_out = last.unwrap_or(self.carried_out);
        self.answers.extend(last.map(Answer::Stored));
    }

    /// The commit has failed: messages are refused, reading goes on, everything else is tried again.
    fn refuse(&mut self, orders: usize) {
        let mut tickets = Vec::new();
        let mut view = self.disk.clone();
        let mut left = VecDeque::new();
        for (place, work) in std::mem::take(&mut self.waiting).into_iter().enumerate() {
            let (ticket, order) = match work {
                Work::Order(ticket, order) if place < orders => (ticket, order),
                work => {
                    left.push_back(work);
                    continue;
                }
            };
            match order {
                Order::Keep(_) => tickets.push(ticket),
                Order::Load { .. } | Order::LoadOverdue { .. } => {
                    self.answers.extend(view.load(&order, &mut self.dice));
                }
                order => {
                    view.apply(&order);
                    left.push_back(Work::Order(ticket, order));
                }
            }
        }
        self.waiting = left;
        if !tickets.is_empty() {
            let why = "an error of the device".to_owned();
            self.answers.push_back(Answer::Refused { tickets, why });
        }
    }

    // ---- the end of a process -----------------------------------------------------------------------

    /// The process is killed, or the machine stops: any beginning of what was not committed is there.
    pub(super) fn crash(&mut self) {
        let survives = self.dice.below(self.waiting.len() as u32 + 1) as usize;
        let is_possible = self.commit.is_some() && self.health != Health::Broken;
        let survives = if is_possible { survives } else { 0 };
        let batch: Vec<Work> = self.waiting.drain(..survives).collect();
        for work in batch {
            match work {
                Work::RemoveDead(numbers) => self.disk.remove_dead(&numbers),
                Work::Order(_, Order::Keep(_)) if self.health == Health::Full => {}
                Work::Order(_, order) => drop(self.disk.apply(&order)),
            }
        }
        self.is_clean = false;
        self.disk.unclean_below = self.seq_next;
        self.forget();
    }

    /// The process ends in good order.
    pub(super) fn close(&mut self) {
        if self.health == Health::Broken {
            self.is_clean = false;
            self.disk.unclean_below = self.seq_next;
        } else {
            let orders = self.waiting.len();
            self.carry_out(orders, false, self.health == Health::Full);
            self.is_clean = true;
        }
        self.forget();
    }

    fn forget(&mut self) {
        self.waiting.clear();
        self.answers.clear();
        self.commit = None;
        self.carried_out = Ticket::default();
        self.is_in_trouble = false;
        let end = SpillEnd {
            endpoint: EndpointName::level_1("").expect("a name"),
            reason: ErrorCode::ReceiverGone,
            detail: BUS_HAS_ENDED.to_owned(),
            died_unix_us: 0,
        };
        self.disk.end_spilled(|_| true, &end);
        self.synced.extend(self.disk.rows.keys());
    }

    /// Whether the last process ended in good order, with everything on disk.
    pub(super) fn is_clean(&self) -> bool {
        self.is_clean
    }

    /// What a new process finds.
    pub(super) fn recovered(&mut self, unix_us: u64, window_us: u64) -> Recovered {
        let seq_from = self.seq_next;
        self.seq_next += SEQS_RESERVED;
        let mut remembered: Vec<Remembered> = self.disk.known.values().cloned().collect();
        remembered.sort_by_key(|known| known.seen_unix_us);
        let mut waiting: BTreeMap<&EndpointName, Waiting> = BTreeMap::new();
        for record in self.disk.rows.values() {
            let one = waiting.entry(&record.endpoint).or_insert_with(|| Waiting {
                endpoint: record.endpoint.clone(),
                messages: 0,
                load_bytes: 0,
                first_seq: record.seq,
                oldest_unix_us: record.arrived_unix_us,
            });
            one.messages += 1;
            one.load_bytes += record.load_bytes();
            one.oldest_unix_us = one.oldest_unix_us.min(record.arrived_unix_us);
        }
        let kept = self.disk.rows.values().filter_map(|record| recent(record, Status::Stored));
        let since = unix_us.saturating_sub(window_us);
        let mut recent: Vec<Recent> = self.disk.ended.iter().cloned().chain(kept).collect();
        recent.retain(|recent| recent.arrived_unix_us >= since);
        recent.sort_by_key(|recent| recent.arrived_unix_us);
        let waiting = waiting.into_values().collect();
        Recovered { seq_from, unclean: !self.is_clean, remembered, waiting, recent }
    }
}

impl Disk {
    /// Says how many spilled messages have become dead letters.
    fn apply(&mut self, order: &Order) -> u64 {
        match order {
            Order::Keep(record) => {
                self.rows.insert(record.seq, (**record).clone());
            }
            Order::Release { endpoint, seqs, ending } => {
                for seq in seqs {
                    let is_whose = self.rows.get(seq).is_some_and(|row| row.endpoint == *endpoint);
                    let Some(row) = is_whose.then(|| self.rows.remove(seq)).flatten() else {
                        continue;
                    };
                    let status = match ending {
                        Ending::Acked => Status::Acked,
                        Ending::Read => Status::Delivered,
                        _ => continue,
                    };
                    self.ended.extend(recent(&row, status));
                }
            }
            Order::EndSpilled(end) => {
                return self.end_spilled(|row| row.endpoint == end.endpoint, end);
            }
            Order::Move { seq, to, new_seq, .. } => {
                if let Some(mut row) = self.rows.remove(seq) {
                    (row.endpoint, row.seq) = (to.clone(), *new_seq);
                    self.rows.insert(*new_seq, row);
                }
            }
            Order::Purge { endpoint, from, to } => self
                .rows
                .retain(|seq, row| row.endpoint != *endpoint || !(from..=to).contains(&seq)),
            Order::Delivered { seq, deliveries, .. } => {
                if let Some(row) = self.rows.get_mut(seq) {
                    row.deliveries = *deliveries;
                }
            }
            Order::Bury(letter) => {
                self.dead_next += 1;
                self.dead.insert(self.dead_next, (**letter).clone());
            }
            Order::Remember(facts) => {
                self.known.insert(facts.endpoint.clone(), (**facts).clone());
            }
            Order::Forget(endpoint) => {
                self.known.remove(endpoint);
            }
            Order::Load { .. } | Order::LoadOverdue { .. } => {}
        }
        0
    }

    /// Ends what is only spilled, and meant. Says how many of it have become dead letters.
    fn end_spilled(&mut self, is_meant: impl Fn(&Record) -> bool, end: &SpillEnd) -> u64 {
        let is_ended = |row: &Record| row.keep == Keep::Spill && is_meant(row);
        let (ended, left): (BTreeMap<_, _>, BTreeMap<_, _>) =
            std::mem::take(&mut self.rows).into_iter().partition(|(_, row)| is_ended(row));
        self.rows = left;
        let missed: Vec<Record> = ended.into_values().filter(|row| row.wanted.is_some()).collect();
        for row in &missed {
            self.dead_next += 1;
            let letter = DeadLetter {
                record: self.read(row),
                reason: end.reason,
                detail: end.detail.clone(),
                died_unix_us: end.died_unix_us,
            };
            self.dead.insert(self.dead_next, letter);
        }
        missed.len() as u64
    }

    fn remove_dead(&mut self, numbers: &[u64]) {
        for number in numbers {
            self.dead.remove(number);
        }
    }

    fn read(&self, row: &Record) -> Record {
        let may_have_come = u32::from(row.seq < self.unclean_below);
        Record { deliveries: row.deliveries.max(may_have_come), ..row.clone() }
    }

    fn load(&self, order: &Order, dice: &mut Dice) -> Option<Answer> {
        match order {
            Order::Load { endpoint, from, messages_max, bytes_max } => {
                let mut records = Vec::new();
                let mut bytes = 0;
                let mut is_all = true;
                // As many as fit, or fewer: how much fits is the store's business.
                let messages_max =
                    if dice.one_in(3) { 1 + dice.below(4) as usize } else { *messages_max };
                for row in self.rows.range(from..).map(|(_, row)| row) {
                    if row.endpoint != *endpoint {
                        continue;
                    }
                    let is_full = bytes + row.payload.len() > *bytes_max;
                    if records.len() >= messages_max || is_full && !records.is_empty() {
                        is_all = false;
                        break;
                    }
                    bytes += row.payload.len();
                    records.push(self.read(row));
                }
                Some(Answer::Loaded { endpoint: endpoint.clone(), records, is_all })
            }
            Order::LoadOverdue { unix_us, messages_max } => {
                let is_due = |row: &&Record| row.expires_unix_us.is_some_and(|at| at <= *unix_us);
                let mut due: Vec<Record> =
                    self.rows.values().filter(is_due).map(|row| self.read(row)).collect();
                due.sort_by_key(|row| row.expires_unix_us);
                due.truncate(*messages_max);
                Some(Answer::Overdue(due))
            }
            _ => None,
        }
    }
}

/// What is remembered of a message that asked to be judged by its id.
fn recent(record: &Record, status: Status) -> Option<Recent> {
    let envelope = Envelope::scan(&record.payload).ok()?;
    if record.keep == Keep::Spill || !is_judged(record.keep, record.wanted, &envelope) {
        return None;
    }
    let text = |value: Option<hermes_bus_proto::Raw<'_>>| -> Option<Box<str>> {
        Some(value?.text().ok()?.into())
    };
    let sender = record.sender.as_ref()?;
    let from = sender.endpoint.as_ref().map(|name| name.as_str().into());
    Some(Recent {
        uid: sender.uid,
        from: from.or_else(|| text(envelope.from)),
        to: text(envelope.to)?,
        id: text(envelope.id)?,
        status,
        waits_for: (status == Status::Stored).then(|| record.endpoint.clone()),
        arrived_unix_us: record.arrived_unix_us,
    })
}

fn highest_seq(order: &Order) -> Option<u64> {
    match order {
        Order::Keep(record) => Some(record.seq),
        Order::Release { seqs, .. } => seqs.last().copied(),
        Order::Delivered { seq, .. } => Some(*seq),
        Order::Bury(letter) => Some(letter.record.seq),
        _ => None,
    }
}

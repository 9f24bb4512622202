//! What has happened.

use hermes_bus_core::storage::{Ending, Keep, Order, RECORD_OVERHEAD_BYTES};
use hermes_bus_proto::control::Status;
use hermes_bus_proto::register::Conflict;
use hermes_bus_proto::{ErrorCode, topic};
use serde_json::Value;

use super::super::script::{GROUPS, Join, NAMES, PATTERNS, TOPICS, To};
use super::super::store::Store;
use super::{Checked, Copy, Handed, LinkId, Model, Promises, Row, Taken, UNIX_US, ensure};

impl Model {
    // ---- senders --------------------------------------------------------------------------------

    /// The router has taken a message.
    pub(in super::super) fn taken(&mut self, n: u64) {
        self.orders += 1;
        let taken = Taken { at_us: self.now_us, process: self.process, order: self.orders };
        let Some(sent) = self.sent.get_mut(&n) else { return };
        sent.taken = Some(taken);
        sent.from = self.sessions.get(&sent.link).map(|session| session.endpoint);
        if !sent.is_anonymous {
            let id = Model::id_of(sent);
            let promises: &mut Promises = self.promises.entry((sent.link, id)).or_default();
            promises.sent += 1;
            promises.wanted += u64::from(sent.asks.receipt.is_some());
        }
    }

    /// The router has not taken it after all: it is to be offered again, or never.
    pub(in super::super) fn not_taken(&mut self, n: u64) {
        let Some(sent) = self.sent.get_mut(&n) else { return };
        if sent.taken.take().is_none() || sent.is_anonymous {
            return;
        }
        let id = Model::id_of(sent);
        if let Some(promises) = self.promises.get_mut(&(sent.link, id)) {
            promises.sent -= 1;
            promises.wanted -= u64::from(sent.asks.receipt.is_some());
        }
    }

    /// A session's request for a name was taken: it has the name now, unless that is in use.
    /// Returns whose it was.
    pub(in super::super) fn asked_to_join(&mut self, link: LinkId, join: &Join) -> Vec<LinkId> {
        let others =
            self.sessions.iter().filter(|(_, other)| other.endpoint == join.name && !other.is_over);
        let others: Vec<LinkId> = others.map(|(link, _)| *link).collect();
        if join.level_2 && join.conflict == Conflict::Refuse && !others.is_empty() {
            return Vec::new();
        }
        self.joined(link, join);
        others
    }

    /// A sender is told something about a message.
    pub(in super::super) fn told(&mut self, link: LinkId, frame: &Value, store: &Store) -> Checked {
        let is_receipt = frame["type"] == "receipt";
        let Some(id) = frame["id"].as_str().map(str::to_owned) else { return Ok(()) };
        let Some(promises) = self.promises.get_mut(&(link, id.clone())) else {
            // A message without an id of its own, or one that was not taken.
            ensure!(!is_receipt || !id.starts_with('m'), "answer", "{frame} of a message not sent");
            return Ok(());
        };
        // The courtesy receipt says that the router has it, and promises nothing.
        let is_courtesy = is_receipt && promises.wanted == 0 && frame["status"] == "accepted";
        promises.answers += u64::from(!is_courtesy);
        ensure!(
            promises.answers <= promises.sent,
            "answered once",
            "{frame} is answer {} to {} messages",
            promises.answers,
            promises.sent
        );
        if is_receipt {
            self.told_receipt(link, &id, frame, store)
        } else {
            self.told_error(link, &id, frame)
        }
    }

    fn told_receipt(&mut self, link: LinkId, id: &str, frame: &Value, store: &Store) -> Checked {
        let word = frame["status"].as_str().unwrap_or_default();
        let status = Status::of(word);
        let Some(status) = status else {
            ensure!(false, "answer", "{frame} has no status");
            return Ok(());
        };
        *self.receipts.entry(status.as_str()).or_default() += 1;
        let to = frame["to"].as_str().and_then(Model::endpoint);
        let of_id = |sent: &&super::Sent| !sent.is_anonymous && Model::id_of(sent) == id;
        let sent: Vec<&super::Sent> = self.sent.values().filter(of_id).collect();
        let here: Vec<&super::Sent> =
            sent.iter().copied().filter(|sent| sent.link == link).collect();
        let wanted = here.iter().filter_map(|sent| sent.asks.receipt).min();
        let is_to_many = here.iter().any(|sent| matches!(sent.to, To::Topic(_) | To::Everyone));
        let targets = frame["endpoints"].as_u64().unwrap_or(1);
        let failed = frame["failed"].as_u64().unwrap_or(0);
        ensure!(failed <= targets, "receipt", "{frame}: more have failed than there are");
        if let Some(wanted) = wanted.filter(|_| !is_to_many || failed < targets) {
            ensure!(status >= wanted, "receipt", "{frame} though {wanted:?} was asked for");
        }
        let is_true = |sent: &super::Sent, endpoint: u8| {
            let copy = self.copy_for(sent.n, endpoint);
            match status {
                Status::Accepted => sent.taken.is_some(),
                // What goes to another member of its group is on disk all the while.
                Status::Stored => self.rows.iter().any(|(seq, row)| {
                    let is_its = row.endpoint == endpoint || matches!(copy, Copy::Member(_));
                    row.n == sent.n && is_its && store.synced.contains(seq)
                }),
                Status::Delivered => self
                    .handed
                    .get(&copy)
                    .is_some_and(|handed| handed.iter().any(|one| one.endpoint == endpoint)),
                // One that was tried once more may have been acknowledged by another process.
                Status::Acked => self.acked.contains_key(&copy) || self.is_retried(copy),
            }
        };
        let true_of = (0..NAMES.len() as u8)
            .filter(|endpoint| to.is_none_or(|to| to == *endpoint))
            .filter(|endpoint| sent.iter().any(|sent| is_true(sent, *endpoint)))
            .count() as u64;
        // A message for many is counted; nobody but the bus knows how many there are.
        let needed = if status == Status::Accepted && is_to_many { 0 } else { targets - failed };
        ensure!(true_of >= needed, "not true", "{frame}, but it is so of {true_of}");
        Ok(())
    }

    fn told_error(&mut self, link: LinkId, id: &str, frame: &Value) -> Checked {
        let word = frame["code"].as_str().unwrap_or_default();
        let code = ErrorCode::ALL.iter().map(|(code, _)| *code).find(|code| code.as_str() == word);
        let Some(code) = code else {
            ensure!(false, "answer", "{frame} has no code");
            return Ok(());
        };
        *self.errors.entry(code.as_str()).or_default() += 1;
        let now_us = self.now_us;
        let of_id = |sent: &&mut super::Sent| !sent.is_anonymous && Model::id_of(sent) == id;
        let mut sent: Vec<&mut super::Sent> = self.sent.values_mut().filter(of_id).collect();
        match code {
            ErrorCode::Expired => {
                let is_over = sent.iter().any(|sent| {
                    let due = sent.taken.zip(sent.asks.ttl_ms);
                    due.is_some_and(|(taken, ttl)| taken.at_us + u64::from(ttl) * 1_000 <= now_us)
                });
                let may_be = is_over || sent.iter().any(|sent| sent.asks.is_queued());
                ensure!(may_be, "not true", "{frame} before its time");
            }
            ErrorCode::ReceiptImpossible => return Ok(()),
            _ => {}
        }
        if let [only] = &mut sent[..] {
            ensure!(only.link == link, "answer", "{frame} to somebody else");
            let is_news = !self.retried.keys().any(|copy| copy.message() == only.n);
            only.failed = only.failed.or(is_news.then_some(code));
        }
        Ok(())
    }

    // ---- receivers ------------------------------------------------------------------------------

    /// A message is in a receiver's socket, whole. `began_us` is when its first byte was written.
    pub(in super::super) fn handed_over(
        &mut self,
        link: LinkId,
        frame: &Value,
        began_us: u64,
    ) -> Checked {
        let Some(session) = self.sessions.get(&link).cloned() else {
            ensure!(false, "answer", "{frame} to a connection without a name");
            return Ok(());
        };
        let n = frame["n"].as_u64().unwrap_or(u64::MAX);
        let endpoint = session.endpoint;
        self.check_content(n, frame, &session)?;
        let copy = self.copy_for(n, endpoint);
        self.check_time(n, began_us)?;
        // What a session that has lost its name still gets had begun before it did.
        if !session.is_over {
            self.check_again(link, copy, frame, &session)?;
        }
        if !session.is_over && self.handed.get(&copy).is_none_or(Vec::is_empty) {
            self.check_order(n, endpoint, copy)?;
            self.check_repetition(n, endpoint)?;
        }
        self.delivered += 1;
        self.ids.insert(n, frame["id"].as_str().unwrap_or_default().to_owned());
        if let Some(seq) = frame["seq"].as_u64() {
            self.check_window(link, seq, n, copy)?;
        }
        let handed = Handed {
            link,
            endpoint,
            process: self.process,
            acks: session.acks,
            is_over: session.is_over,
            is_nacked: false,
            is_read: false,
            is_known_to_be_read: false,
        };
        self.handed.entry(copy).or_default().push(handed);
        Ok(())
    }

    /// A receiver has taken all bytes of a message.
    pub(in super::super) fn read(&mut self, link: LinkId, n: u64) {
        let Some(session) = self.sessions.get(&link) else { return };
        let copy = self.copy_for(n, session.endpoint);
        let handed = self.handed.get_mut(&copy).into_iter().flatten();
        for one in handed.filter(|one| one.link == link) {
            one.is_read = true;
        }
    }

    /// The router has been told that a receiver has read everything.
    pub(in super::super) fn known_to_be_read(&mut self, link: LinkId) {
        for one in self.handed.values_mut().flatten().filter(|one| one.link == link) {
            one.is_known_to_be_read = one.is_read;
        }
    }

    /// The router has taken an acknowledgement.
    pub(in super::super) fn acknowledged(&mut self, link: LinkId, frame: &Value) {
        let Some(session) = self.sessions.get_mut(&link).filter(|session| session.acks) else {
            return;
        };
        if session.is_over {
            return;
        }
        let endpoint = session.endpoint;
        let listed = |value: &Value| -> Vec<u64> {
            value.as_array().into_iter().flatten().filter_map(Value::as_u64).collect()
        };
        let mut seqs = listed(&frame["seqs"]);
        if let Some(up_to) = frame["up_to"].as_u64() {
            seqs.extend(session.held.range(..=up_to).map(|(seq, _)| *seq));
        }
        for id in frame["ids"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            let ids = &self.ids;
            let is_it = |n: &u64| ids.get(n).is_some_and(|known| known == id);
            seqs.extend(session.held.iter().filter(|(_, n)| is_it(n)).map(|(seq, _)| *seq));
        }
        let taken: Vec<u64> = seqs.iter().filter_map(|seq| session.held.remove(seq)).collect();
        for n in taken {
            let copy = self.copy_for(n, endpoint);
            self.acked.insert(copy, self.process);
        }
    }

    /// The router has taken a message back.
    pub(in super::super) fn gave_back(&mut self, link: LinkId, frame: &Value) {
        let Some(session) = self.sessions.get_mut(&link).filter(|session| session.acks) else {
            return;
        };
        let Some(seq) = frame["seq"].as_u64() else { return };
        let Some(n) = session.held.remove(&seq) else { return };
        let endpoint = session.endpoint;
        let copy = self.copy_for(n, endpoint);
        for one in self.handed.get_mut(&copy).into_iter().flatten() {
            if one.link == link {
                one.is_over = true;
                one.is_nacked = true;
            }
        }
        if frame["requeue"] == false {
            self.rejected.insert(copy);
        }
    }

    /// A message has begun to be written to a session that ends. Its number may be cut off, too.
    pub(in super::super) fn cut_off(&mut self, n: Option<u64>) {
        *self.cuts.entry(n).or_default() += 1;
    }

    /// A session has lost its name, or its connection.
    pub(in super::super) fn session_ended(&mut self, link: LinkId) {
        let Some(session) = self.sessions.get_mut(&link) else { return };
        session.is_over = true;
        session.held.clear();
        for one in self.handed.values_mut().flatten().filter(|one| one.link == link) {
            one.is_over = true;
        }
    }

    // ---- the store ------------------------------------------------------------------------------

    /// The router has ordered something. Says which endpoint's books have changed.
    pub(in super::super) fn ordered(&mut self, order: &Order) -> Checked {
        match order {
            Order::Keep(record) => {
                let n = number_in(&record.payload);
                let (Some(n), Some(endpoint)) = (n, Model::endpoint(record.endpoint.as_str()))
                else {
                    ensure!(false, "invented", "an order to keep what nobody sent: {record:?}");
                    return Ok(());
                };
                ensure!(!self.rows.contains_key(&record.seq), "books", "{} twice", record.seq);
                let row = Row {
                    n,
                    endpoint,
                    keep: record.keep,
                    load_bytes: record.load_bytes(),
                    expires_unix_us: record.expires_unix_us,
                    ended: None,
                };
                self.rows.insert(record.seq, row);
                let book = self.books.entry(endpoint).or_default();
                book.0 += 1;
                book.1 += record.load_bytes();
                let max = self.mailbox_bytes_max;
                ensure!(book.1 <= max, "quota", "{} bytes kept, of {max}", book.1);
                let total: u64 = self.books.values().map(|book| book.1).sum();
                let max = self.mailbox_bytes_total_max;
                ensure!(total <= max, "quota", "{total} bytes kept for all, of {max}");
                Ok(())
            }
            Order::Release { endpoint, seqs, ending } => {
                let endpoint = Model::endpoint(endpoint.as_str()).unwrap_or(u8::MAX);
                seqs.iter().try_for_each(|seq| self.released(*seq, endpoint, *ending))
            }
            Order::EndSpilled(end) => {
                let endpoint = Model::endpoint(end.endpoint.as_str()).unwrap_or(u8::MAX);
                let is_it = |row: &Row| row.endpoint == endpoint && row.keep == Keep::Spill;
                let of_it = self.rows.iter().filter(|(_, row)| is_it(row) && row.ended.is_none());
                let (seqs, messages): (Vec<u64>, Vec<u64>) =
                    of_it.map(|(seq, row)| (*seq, row.n)).unzip();
                for n in messages {
                    let Some(sent) = self.sent.get_mut(&n) else { continue };
                    if sent.asks.receipt.is_some() {
                        sent.buried = true;
                        sent.buried_for.push(end.reason);
                    }
                }
                seqs.iter().try_for_each(|seq| self.released(*seq, endpoint, Ending::Dropped))
            }
            Order::Move { endpoint, seq, to, new_seq } => {
                let [from, to] =
                    [endpoint, to].map(|name| Model::endpoint(name.as_str()).unwrap_or(u8::MAX));
                self.moved(*seq, from, *new_seq, to)
            }
            Order::Bury(letter) => {
                let n = number_in(&letter.record.payload);
                if let Some(sent) = n.and_then(|n| self.sent.get_mut(&n)) {
                    sent.buried = true;
                    sent.buried_for.push(letter.reason);
                }
                Ok(())
            }
            Order::Purge { endpoint, from, to } => {
                let endpoint = Model::endpoint(endpoint.as_str()).unwrap_or(u8::MAX);
                self.purge(endpoint, *from, *to)
            }
            _ => Ok(()),
        }
    }

    fn released(&mut self, seq: u64, endpoint: u8, ending: Ending) -> Checked {
        let Some(row) = self.rows.get(&seq).cloned() else {
            ensure!(false, "books", "{seq} is released ({ending:?}), but was never kept");
            return Ok(());
        };
        ensure!(row.endpoint == endpoint, "books", "{seq} is another endpoint's");
        ensure!(
            row.ended.is_none(),
            "books",
            "{seq} is released twice: {:?}, {ending:?}",
            row.ended
        );
        self.check_ending(seq, &row, ending)?;
        let copy = self.copy_for(row.n, row.endpoint);
        let last = self.handed.get(&copy).and_then(|handed| handed.last());
        let kind = match (ending, last.map(|one| one.is_nacked)) {
            (Ending::Expired, Some(true)) => format!("expired {:?} given back", row.keep),
            (Ending::Expired | Ending::Purged, _) => format!("{} {:?}", ending.as_str(), row.keep),
            (Ending::Read, _) if last.is_some_and(|one| self.is_level_1(one.link)) => {
                format!("read {:?} level 1", row.keep)
            }
            _ => format!("ended {:?}", row.keep),
        };
        *self.kinds.entry(kind).or_default() += 1;
        if ending == Ending::Purged {
            self.was_purged(&row)?;
        }
        *self.endings.entry(ending.as_str()).or_default() += 1;
        if let Some(row) = self.rows.get_mut(&seq) {
            row.ended = Some(ending);
        }
        self.forget_in_books(&row);
        Ok(())
    }

    fn is_level_1(&self, link: LinkId) -> bool {
        self.sessions.get(&link).is_some_and(|session| !session.level_2)
    }

    /// The router hears that these could not be kept.
    pub(in super::super) fn refused(&mut self, seqs: impl Iterator<Item = u64>) {
        self.has_failed = true;
        for mut seq in seqs {
            while let Some(new_seq) = self.moves.get(&seq) {
                seq = *new_seq;
            }
            let Some(row) = self.rows.get_mut(&seq) else { continue };
            if row.ended.replace(Ending::Dropped).is_none() {
                let row = row.clone();
                self.forget_in_books(&row);
            }
        }
    }

    /// A row goes to another member of its group.
    fn moved(&mut self, seq: u64, from: u8, new_seq: u64, to: u8) -> Checked {
        let row = self.rows.get(&seq).filter(|row| row.endpoint == from && row.ended.is_none());
        let Some(row) = row.cloned() else {
            ensure!(false, "books", "{seq} is moved, but is not kept there");
            return Ok(());
        };
        ensure!(!self.rows.contains_key(&new_seq), "books", "{new_seq} is used twice");
        self.forget_in_books(&row);
        if let Some(row) = self.rows.get_mut(&seq) {
            row.ended = Some(Ending::Dropped);
        }
        let book = self.books.entry(to).or_default();
        book.0 += 1;
        book.1 += row.load_bytes;
        self.rows.insert(new_seq, Row { endpoint: to, ..row });
        self.moves.insert(seq, new_seq);
        Ok(())
    }

    pub(super) fn forget_in_books(&mut self, row: &Row) {
        let book = self.books.entry(row.endpoint).or_default();
        book.0 = book.0.saturating_sub(1);
        book.1 = book.1.saturating_sub(row.load_bytes);
    }

    // ---- processes ------------------------------------------------------------------------------

    /// A process has ended, and another one has begun with what is on disk.
    pub(in super::super) fn restarted(&mut self, was_clean: bool, store: &Store) {
        if !was_clean {
            self.unclean.insert(self.process);
        }
        let links: Vec<LinkId> = self.sessions.keys().copied().collect();
        links.into_iter().for_each(|link| self.session_ended(link));
        for one in self.handed.values_mut().flatten() {
            one.is_over = true;
        }
        self.process += 1;
        self.is_in_trouble = false;
        self.books.clear();
        for (seq, row) in &mut self.rows {
            if let Some(kept) = store.disk.rows.get(seq) {
                row.ended = None;
                let book = self.books.entry(row.endpoint).or_default();
                book.0 += 1;
                book.1 += kept.payload.len() as u64 + RECORD_OVERHEAD_BYTES;
            } else if row.ended.is_none() {
                row.ended = Some(Ending::Dropped);
            }
        }
    }

    /// Whether an endpoint may get what is sent to this address.
    pub(super) fn may_get(&self, to: To, endpoint: u8) -> bool {
        match to {
            To::Name(name) => name == endpoint,
            To::Everyone => true,
            To::Group(group) => self.members.contains(&(endpoint, group)),
            To::Topic(place) => (0..PATTERNS.len() as u8).any(|pattern| {
                self.subscribers.contains(&(endpoint, pattern))
                    && matches(PATTERNS[pattern as usize], TOPICS[place as usize])
            }),
        }
    }

    pub(super) fn via(to: To) -> Option<String> {
        match to {
            To::Name(_) | To::Everyone => None,
            To::Group(group) => Some(format!("@{}", GROUPS[group as usize])),
            To::Topic(place) => Some(format!("#{}", TOPICS[place as usize])),
        }
    }

    /// Promises that were not kept, of the connections that are still there.
    pub(in super::super) fn unanswered(&self, is_there: impl Fn(LinkId) -> bool) -> Vec<String> {
        let open = self
            .promises
            .iter()
            .filter(|((link, _), promises)| is_there(*link) && promises.answers < promises.wanted);
        open.map(|((link, id), _)| format!("{id} of #{link}")).collect()
    }

    /// The wall clock.
    pub(in super::super) fn unix_us(&self) -> u64 {
        UNIX_US + self.now_us
    }
}

/// Whether a pattern matches a topic, by the protocol's words.
pub(super) fn matches(pattern: &str, name: &str) -> bool {
    debug_assert!(topic::topic(name).is_ok());
    let mut tokens = name.split('.');
    for token in pattern.split('.') {
        match (token, tokens.next()) {
            (">", Some(_)) => return true,
            ("*", Some(_)) => {}
            (token, Some(other)) if token == other => {}
            _ => return false,
        }
    }
    tokens.next().is_none()
}

/// Every message of this world begins with its number.
pub(in super::super) fn number_in(payload: &[u8]) -> Option<u64> {
    let rest = payload.strip_prefix(br#"{"type":"message","n":"#)?;
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let is_whole = digits < rest.len();
    std::str::from_utf8(&rest[..digits]).ok()?.parse().ok().filter(|_| is_whole)
}

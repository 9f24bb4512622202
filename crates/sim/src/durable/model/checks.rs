//! What must hold of a message that comes to a receiver, and of one that leaves the disk.

use hermes_bus_core::storage::{Ending, Keep};
use hermes_bus_proto::ErrorCode;
use serde_json::Value;

use super::super::script::{NAMES, To};
use super::{Checked, Copy, LinkId, Model, Row, Sent, Session, Taken, ensure};

impl Model {
    /// What came is what was sent, and to whom it was sent.
    pub(super) fn check_content(&self, n: u64, frame: &Value, session: &Session) -> Checked {
        let Some(sent) = self.sent.get(&n) else {
            ensure!(false, "invented", "{frame} was never sent");
            return Ok(());
        };
        ensure!(sent.taken.is_some(), "invented", "{frame} was never taken");
        let endpoint = session.endpoint;
        let name = NAMES[endpoint as usize];
        ensure!(self.may_get(sent.to, endpoint), "wrong endpoint", "{frame} for {name}");
        let body = frame["body"].as_str().unwrap_or_default();
        ensure!(body.len() == sent.body_bytes, "content", "{frame} had {} bytes", sent.body_bytes);
        if !sent.is_anonymous {
            ensure!(frame["id"] == Model::id_of(sent).as_str(), "content", "{frame}: its id");
        }
        if !session.level_2 {
            let added =
                ["sender", "via", "seq", "delivery"].iter().any(|key| !frame[*key].is_null());
            ensure!(!added, "level 1", "{frame} has what level 1 does not know");
            return Ok(());
        }
        // A session of level 1 is not told who sent what is queued for it, and its heir cannot be.
        let had_level_1 =
            self.sessions.values().any(|session| session.endpoint == endpoint && !session.level_2);
        if frame["sender"].is_null() && had_level_1 {
            return Ok(());
        }
        let via = Model::via(sent.to);
        ensure!(frame["via"].as_str() == via.as_deref(), "content", "{frame}: came via {via:?}");
        let from = sent.from.map(|from| NAMES[from as usize]);
        ensure!(
            frame["sender"]["endpoint"].as_str() == from,
            "content",
            "{frame} is from {from:?}"
        );
        ensure!(frame["sender"]["uid"] == sent.uid, "content", "{frame} is user {}'s", sent.uid);
        ensure!(frame["seq"].is_u64() == session.acks, "content", "{frame}: its seq");
        Ok(())
    }

    /// A message comes again only where it may, and says so.
    pub(super) fn check_again(
        &mut self,
        link: LinkId,
        copy: Copy,
        frame: &Value,
        session: &Session,
    ) -> Checked {
        let endpoint = session.endpoint;
        let (n, times) = match copy {
            Copy::To(n, _) | Copy::Member(n) => (n, self.handed.get(&copy).map_or(0, Vec::len)),
        };
        let Some(sent) = self.sent.get(&n) else { return Ok(()) };
        let taken_in = sent.taken.map_or(0, |taken| taken.process);
        let delivery = frame["delivery"].as_u64().unwrap_or(1);
        let may_be_again = self.was_killed_since(taken_in);
        // A process that is killed in the middle of it may leave the letter and the message.
        if self.is_retried(copy) && !session.is_over {
            self.redelivered += u64::from(times > 0);
            return Ok(());
        }
        if session.level_2 {
            ensure!(times == 0 || delivery > 1, "delivery", "{frame} came {times} times before");
            let crashes = self.unclean.range(taken_in..self.process).count() as u64;
            // What was cut off may have been counted.
            let cuts: u64 = [Some(n), None].iter().filter_map(|cut| self.cuts.get(cut)).sum();
            let most = 1 + times as u64 + crashes + cuts;
            let is_retried = self.is_retried(copy);
            ensure!(
                delivery <= most || is_retried,
                "delivery",
                "{frame} came {times} times before"
            );
            // What is handed on in memory is so with its count, also by one that cannot close its disk.
            let is_handed_on = self.handed_on.contains(&copy);
            let is_exact = crashes == 0 && taken_in == self.process || is_handed_on;
            ensure!(
                !is_exact || delivery > times as u64,
                "delivery",
                "{frame} came {times} times before, in one process"
            );
            let is_marked = !may_be_again || delivery > 1 || is_handed_on;
            ensure!(is_marked, "delivery", "{frame} was left by a process that was killed");
        }
        if let Some(process) = self.acked.get(&copy) {
            let may_be = self.was_killed_since(*process);
            ensure!(may_be, "acknowledged", "{frame} to {endpoint}: it was acknowledged");
        }
        ensure!(
            !self.rejected.contains(&copy) || may_be_again,
            "acknowledged",
            "{frame}: it was rejected"
        );
        let has_failed = sent.failed.filter(|_| sent.first == n);
        // The rest of what had begun may still come.
        let may_be = has_failed.is_none() || may_be_again || session.is_over;
        ensure!(may_be, "failed", "{frame}: {has_failed:?} was told");
        let Some(last) = self.handed.get(&copy).and_then(|handed| handed.last()) else {
            return Ok(());
        };
        self.redelivered += 1;
        ensure!(last.is_over, "twice", "{frame} to #{link} is in the hands of #{}", last.link);
        let is_kept = self.rows.values().any(|row| row.n == n && row.keep != Keep::Spill);
        ensure!(last.acks || is_kept, "at most once", "{frame} was not kept");
        let is_done = last.is_known_to_be_read && !self.was_killed_since(last.process);
        ensure!(last.acks || !is_done, "acknowledged", "{frame} is known to be read");
        Ok(())
    }

    /// Nothing begins to be delivered after its time.
    pub(super) fn check_time(&self, n: u64, began_us: u64) -> Checked {
        let Some(sent) = self.sent.get(&n) else { return Ok(()) };
        let (Some(taken), Some(ttl_ms)) = (sent.taken, sent.asks.ttl_ms) else { return Ok(()) };
        // Who tries a dead letter once more wants it whatever its time was.
        if self.retried.keys().any(|copy| copy.message() == n) {
            return Ok(());
        }
        let until = taken.at_us + u64::from(ttl_ms) * 1_000;
        let is_in_time = began_us < until || ttl_ms == 0 && began_us == until;
        ensure!(is_in_time, "time to live", "message {n} at {began_us}, was over at {until}");
        Ok(())
    }

    /// First deliveries of one sender to one endpoint come in the order sent. What was given up before a
    /// crash may come back behind what went on without it.
    pub(super) fn check_order(&mut self, n: u64, endpoint: u8, copy: Copy) -> Checked {
        let Some(sent) = self.sent.get(&n) else { return Ok(()) };
        // What is tried once more comes whenever the owner says so.
        let has_order = matches!(copy, Copy::To(..)) && !self.is_retried(copy);
        // What the owner had removed before a crash may come back, too.
        let was_removed = self.rejected.contains(&copy)
            && sent.taken.is_some_and(|taken| self.was_killed_since(taken.process));
        let has_order = has_order && !was_removed;
        let Some(taken) = sent.taken.filter(|_| has_order) else {
            return Ok(());
        };
        if sent.buried && self.was_killed_since(taken.process) {
            return Ok(());
        }
        let newest = self.newest.entry((sent.client, endpoint)).or_default();
        ensure!(
            newest.0 < taken.order,
            "order",
            "message {n} to {} comes behind {}",
            NAMES[endpoint as usize],
            newest.1
        );
        *newest = (taken.order, n);
        Ok(())
    }

    /// What a session holds is within its window, and in order.
    pub(super) fn check_window(&mut self, link: LinkId, seq: u64, n: u64, copy: Copy) -> Checked {
        let was_nacked =
            self.handed.get(&copy).into_iter().flatten().any(|handed| handed.is_nacked);
        let Some(session) = self.sessions.get_mut(&link) else { return Ok(()) };
        ensure!(
            seq > session.seq_max || was_nacked,
            "order",
            "message {n} has {seq}, behind {} in #{link}",
            session.seq_max
        );
        session.seq_max = session.seq_max.max(seq);
        if session.is_over {
            return Ok(());
        }
        session.held.insert(seq, n);
        let (held, max) = (session.held.len(), session.in_flight);
        ensure!(held <= max, "window", "#{link} holds {held} messages, of {max}");
        let bytes_of = |n: &u64| self.sent.get(n).map_or(0, |sent| sent.body_bytes);
        let (bytes, max): (usize, _) =
            (session.held.values().map(bytes_of).sum(), self.in_flight_bytes_max);
        ensure!(bytes <= max || held == 1, "window", "#{link} holds {bytes} bytes, of {max}");
        Ok(())
    }

    /// A message that was sent again is not delivered again, unless the first one failed.
    pub(super) fn check_repetition(&self, n: u64, endpoint: u8) -> Checked {
        let Some(sent) = self.sent.get(&n) else { return Ok(()) };
        let (Some(taken), To::Name(_) | To::Group(_)) = (sent.taken, sent.to) else {
            return Ok(());
        };
        if sent.is_anonymous || !sent.asks.is_judged() {
            return Ok(());
        }
        let window_us = self.window.as_micros() as u64;
        let is_same = |earlier: &&Sent| {
            earlier.first == sent.first
                && earlier.n != n
                && !earlier.is_anonymous
                && earlier.asks.is_judged()
                && (earlier.uid, earlier.from, earlier.to) == (sent.uid, sent.from, sent.to)
        };
        let first = sent.first;
        let of_it = || self.sent.range(first..n).map(|(_, sent)| sent).filter(is_same);
        let may_be_new = |earlier: &Sent| {
            earlier.failed.is_some()
                || earlier.buried
                || self.has_expired(earlier.n)
                || self.has_failed
                || self.rejected.contains(&self.copy_for(earlier.n, endpoint))
                || self.is_retried(self.copy_for(earlier.n, endpoint))
        };
        let is_new = taken.process == self.process && !self.may_be_forgotten;
        let is_found = is_new && self.was_found(sent, taken);
        ensure!(
            !is_found || of_it().next().is_none() || of_it().any(may_be_new),
            "repetition",
            "message {n} repeats one that an earlier process has left word of"
        );
        for earlier in of_it() {
            let is_retried = self.is_retried(self.copy_for(earlier.n, endpoint));
            let is_before = |before: &Taken| before.order < taken.order && !is_retried;
            let Some(before) = earlier.taken.filter(is_before) else {
                continue;
            };
            let is_recent = taken.at_us < before.at_us + window_us;
            let has_come = match self.copy_for(earlier.n, endpoint) {
                Copy::Member(n) => self.handed.get(&Copy::Member(n)),
                copy @ Copy::To(..) => self.handed.get(&copy),
            };
            let has_come = has_come.is_some_and(|handed| !handed.is_empty());
            let is_known = before.process == taken.process && !self.may_be_forgotten;
            let may_have_failed = earlier.failed.is_some()
                || earlier.buried
                || self.has_failed
                || self.rejected.contains(&self.copy_for(earlier.n, endpoint));
            ensure!(
                !(is_recent && has_come && is_known) || may_have_failed,
                "repetition",
                "message {n} repeats {}, which has come",
                earlier.n
            );
        }
        Ok(())
    }

    fn has_expired(&self, n: u64) -> bool {
        self.rows.values().any(|row| row.n == n && row.ended == Some(Ending::Expired))
    }

    /// A message leaves the disk for a reason that is true.
    pub(super) fn check_ending(&self, seq: u64, row: &Row, ending: Ending) -> Checked {
        if ending == Ending::Purged && self.is_purging {
            return Ok(());
        }
        let copy = self.copy_for(row.n, row.endpoint);
        let is_true = match ending {
            Ending::Acked => self.acked.contains_key(&copy),
            Ending::Read => {
                let mut handed = self.handed.get(&copy).into_iter().flatten();
                handed.any(|one| one.is_known_to_be_read && one.endpoint == row.endpoint)
            }
            Ending::Expired => {
                let is_over = row.expires_unix_us.is_some_and(|at| at <= self.unix_us());
                let is_missed = row.keep != Keep::Spill
                    || self.sent.get(&row.n).is_some_and(|sent| sent.asks.receipt.is_some());
                let reasons = self.sent.get(&row.n).map(|sent| &sent.buried_for);
                let is_mourned =
                    reasons.is_some_and(|reasons| reasons.contains(&ErrorCode::Expired));
                ensure!(
                    is_mourned || !is_missed,
                    "dead letter",
                    "{seq} (message {}, {:?}) has expired, and is no dead letter",
                    row.n,
                    row.keep
                );
                is_over
            }
            Ending::Dead => {
                let is_buried = self.sent.get(&row.n).is_some_and(|sent| sent.buried);
                is_buried || self.is_in_trouble || row.keep == Keep::Spill
            }
            Ending::Dropped => row.keep == Keep::Spill,
            Ending::Purged => false,
        };
        ensure!(
            is_true,
            "row",
            "{seq} (message {}, {:?}) is released: {ending:?}",
            row.n,
            row.keep
        );
        Ok(())
    }
}

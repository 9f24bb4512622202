//! What the owner of the bus does, and what processes leave to each other.

use std::collections::BTreeSet;

use hermes_bus_core::Lingering;
use hermes_bus_core::storage::{Ending, Recent};
use hermes_bus_proto::limits::HEADER_BYTES;

use super::super::script::{GROUPS, NAMES, To};
use super::super::store::Store;
use super::{Checked, Copy, Model, Row, Sent, Taken, ensure, number_in};

impl Model {
    /// The owner has a dead letter tried once more: it begins anew, but may have come before.
    pub(in super::super) fn retried(&mut self, n: u64, endpoint: u8) {
        let copy = self.copy_for(n, endpoint);
        self.acked.remove(&copy);
        self.rejected.remove(&copy);
        let came = self.handed.entry(copy).or_default();
        came.iter_mut().for_each(|one| one.is_over = true);
        self.retried.insert(copy, came.len());
        if let Some(sent) = self.sent.get_mut(&n) {
            (sent.failed, sent.buried) = (None, false);
            sent.buried_for.clear();
        }
    }

    /// Whether a copy was a dead letter and is tried once more.
    pub(super) fn is_retried(&self, copy: Copy) -> bool {
        self.retried.contains_key(&copy)
    }

    /// Rows from one number to another are removed.
    pub(super) fn purge(&mut self, endpoint: u8, from: u64, to: u64) -> Checked {
        ensure!(self.is_purging, "books", "nobody has purged anything");
        let is_it = |row: &Row| row.endpoint == endpoint && row.ended.is_none();
        let rows = self.rows.range(from..=to).filter(|(_, row)| is_it(row));
        let gone: Vec<(u64, Row)> = rows.map(|(seq, row)| (*seq, row.clone())).collect();
        for (seq, row) in gone {
            self.was_purged(&row)?;
            if let Some(row) = self.rows.get_mut(&seq) {
                row.ended = Some(Ending::Purged);
            }
            self.forget_in_books(&row);
        }
        Ok(())
    }

    /// The owner has removed what a row stood for. Nobody may be about to deal with it.
    pub(super) fn was_purged(&mut self, row: &Row) -> Checked {
        let copy = self.copy_for(row.n, row.endpoint);
        let in_hands = self.handed.get(&copy).and_then(|handed| handed.last());
        // What was tried once more is there twice.
        let is_retried = self.is_retried(copy);
        let is_held = !is_retried && in_hands.is_some_and(|one| one.acks && !one.is_over);
        ensure!(!is_held, "owner", "message {} is purged, and in somebody's hands", row.n);
        self.purged += 1;
        self.rejected.insert(copy);
        Ok(())
    }

    /// What a process hands on in memory, with all that it knows of it.
    pub(in super::super) fn handed_on(&mut self, left: &[Lingering]) {
        let mut copies = BTreeSet::new();
        for Lingering { name, messages, .. } in left {
            let place = NAMES.iter().position(|known| *known == name.as_str());
            let Some(endpoint) = place.and_then(|place| u8::try_from(place).ok()) else { continue };
            let numbers =
                messages.iter().filter_map(|message| number_in(message.frame.get(HEADER_BYTES..)?));
            copies.extend(numbers.map(|n| self.copy_for(n, endpoint)));
        }
        self.handed_on = copies;
    }

    /// A process finds messages of earlier ones by which it knows repetitions.
    pub(in super::super) fn found(&mut self, recent: &[Recent]) {
        self.recent.clear();
        for one in recent {
            let Recent { uid, from, to, id, arrived_unix_us, .. } = one;
            let identity =
                (*uid, from.as_deref().map(str::to_owned), to.to_string(), id.to_string());
            self.recent.insert(identity, *arrived_unix_us);
        }
    }

    /// Whether an earlier process has left word of the message that this one repeats.
    pub(super) fn was_found(&self, sent: &Sent, taken: Taken) -> bool {
        let from = sent.from.map(|from| NAMES[from as usize].to_owned());
        let to = match sent.to {
            To::Name(name) => NAMES[name as usize].to_owned(),
            To::Group(group) => format!("@{}", GROUPS[group as usize]),
            To::Topic(_) | To::Everyone => return false,
        };
        let arrived = self.recent.get(&(sent.uid, from, to, Model::id_of(sent)));
        let window_us = self.window.as_micros() as u64;
        arrived.is_some_and(|arrived| super::UNIX_US + taken.at_us < arrived + window_us)
    }

    /// Messages for one receiver that this process has taken, and nobody has got.
    pub(in super::super) fn never_handed_over(&self) -> Vec<u64> {
        let came: BTreeSet<u64> = self
            .handed
            .iter()
            .filter(|(_, handed)| !handed.is_empty())
            .map(|(copy, _)| copy.message())
            .collect();
        let is_it = |sent: &&Sent| {
            let is_of_now = sent.taken.is_some_and(|taken| taken.process == self.process);
            is_of_now && matches!(sent.to, To::Name(_) | To::Group(_)) && !came.contains(&sent.n)
        };
        self.sent.values().filter(is_it).map(|sent| sent.n).collect()
    }

    /// What was tried once more has come once more, or is a dead letter again.
    pub(in super::super) fn check_retried(&self, store: &Store) -> Checked {
        for (copy, before) in &self.retried {
            let n = copy.message();
            let has_come = self.handed.get(copy).is_some_and(|handed| handed.len() > *before);
            let is_dead = self.sent.get(&n).is_some_and(|sent| sent.buried);
            let is_letter = store.has_letter_of(n);
            let is_removed = self.rejected.contains(copy);
            ensure!(
                has_come || is_dead || is_letter || is_removed,
                "lost",
                "message {n} was a dead letter, is tried once more, and came to nobody"
            );
        }
        Ok(())
    }
}

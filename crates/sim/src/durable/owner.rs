//! What the owner of the bus does to what is kept.

use hermes_bus_proto::listing::Amount;

use super::model::{Checked, Model, ensure, number_in};
use super::script::{Deed, NAMES};
use super::world::World;

impl World<'_> {
    pub(super) fn owner_does(&mut self, deed: Deed) -> Checked {
        match deed {
            Deed::Purge(name) => self.purge(name),
            Deed::Drain(name, count) => self.drain(name, usize::from(count)),
            Deed::Retry { newest } => self.retry(newest),
        }
    }

    /// All that waits goes, but for what a session holds.
    fn purge(&mut self, name: u8) -> Checked {
        let endpoint = NAMES[usize::from(name)];
        self.model.is_purging = true;
        self.model.removed_from.insert(name);
        let before = self.model.purged;
        let removed = self.router.purge(endpoint);
        self.tell(|| format!("purge {endpoint} -> {removed:?}"));
        self.carry_out_effects()?;
        self.model.is_purging = false;
        let rows = self.model.purged - before;
        let Amount { messages, .. } = removed.unwrap_or_default();
        ensure!(messages >= rows, "owner", "{messages} were purged of {endpoint}, and {rows} rows");
        self.seen.add("purged".to_owned(), messages);
        self.moves += 1;
        Ok(())
    }

    /// What was seen on disk before is taken from there, as far as it still waits.
    fn drain(&mut self, name: u8, count: usize) -> Checked {
        if let Some((name, messages, as_of)) = self.looked_at.take() {
            let endpoint = NAMES[usize::from(name)];
            self.model.is_purging = true;
            self.model.removed_from.insert(name);
            let before = self.model.purged;
            let removed = self.router.remove(endpoint, &messages, as_of);
            let seqs: Vec<u64> = messages.iter().map(|record| record.seq).collect();
            self.tell(|| format!("remove {seqs:?} of {endpoint} -> {removed}"));
            self.carry_out_effects()?;
            self.model.is_purging = false;
            let rows = self.model.purged - before;
            ensure!(removed >= rows, "owner", "{removed} were removed, and {rows} rows");
            self.seen.add("drained".to_owned(), removed);
            self.moves += 1;
        }
        let of_it = |row: &&hermes_bus_core::storage::Record| {
            Model::endpoint(row.endpoint.as_str()) == Some(name)
        };
        let rows = self.store.disk.rows.values().filter(of_it).take(count);
        let messages = rows.cloned().collect();
        self.looked_at = Some((name, messages, self.store.carried_out));
        Ok(())
    }

    /// A dead letter is taken in once more. Its letter goes when the message is kept, and not before.
    fn retry(&mut self, newest: bool) -> Checked {
        let mut letters = self.store.disk.dead.iter();
        let letter = if newest { letters.next_back() } else { letters.next() };
        let Some((number, letter)) = letter.map(|(number, letter)| (*number, letter.clone()))
        else {
            return Ok(());
        };
        let is_tried = self.retries.iter().any(|(_, tried)| *tried == number);
        if is_tried || !self.store.has_dead(number) {
            return Ok(());
        }
        let keeps = self.keeps.len();
        let (n, endpoint) = (number_in(&letter.record.payload), letter.record.endpoint.clone());
        let outcome = self.router.retry(letter.record);
        self.tell(|| format!("retry message {n:?} for {} -> {outcome:?}", endpoint.as_str()));
        if outcome.is_ok() {
            if let (Some(n), Some(endpoint)) = (n, Model::endpoint(endpoint.as_str())) {
                self.model.retried(n, endpoint);
            }
            self.seen.note("retried");
        }
        self.carry_out_effects()?;
        self.retries.extend(self.keeps.get(keeps).map(|(ticket, _)| (*ticket, number)));
        self.moves += 1;
        Ok(())
    }
}

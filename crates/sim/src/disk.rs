//! A disk that fails: records are appended, a sync makes them durable after a while, and a crash keeps
//! what was synced and any beginning of what was not.
//!
//! The router keeps nothing on disk yet; what will (mailboxes) is to be born on this one.

use std::collections::VecDeque;

/// How a disk fails: in so many of 1,000 calls, or when it is full.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// Appends that fail, of 1,000.
    pub append_fails: u64,
    /// Syncs that fail, of 1,000.
    pub sync_fails: u64,
    /// Bytes that it takes; none: as many as come.
    pub bytes_max: Option<usize>,
    /// The longest that a sync takes, in microseconds.
    pub sync_us_max: u64,
}

/// Why the disk did not do it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskError {
    /// No space is left.
    Full,
    /// An error of the device. After one in a sync, nobody knows what of the unsynced records is there.
    Broken,
}

/// The disk.
#[derive(Debug)]
pub struct Disk {
    faults: Faults,
    random: fastrand::Rng,
    /// In the order in which they were appended; those before `durable` survive everything.
    records: Vec<Vec<u8>>,
    durable: usize,
    /// Syncs under way: when each is done, and how many records it covers.
    syncs: VecDeque<(u64, usize)>,
}

impl Disk {
    /// An empty disk. The same seed fails in the same places.
    pub fn new(faults: Faults, seed: u64) -> Self {
        let random = fastrand::Rng::with_seed(seed);
        Disk { faults, random, records: Vec::new(), durable: 0, syncs: VecDeque::new() }
    }

    /// Appends a record. It is not durable before a sync that began later is done.
    pub fn append(&mut self, record: &[u8]) -> Result<(), DiskError> {
        let used: usize = self.records.iter().map(Vec::len).sum();
        if self.faults.bytes_max.is_some_and(|max| used + record.len() > max) {
            return Err(DiskError::Full);
        }
        if self.random.u64(..1_000) < self.faults.append_fails {
            return Err(DiskError::Broken);
        }
        self.records.push(record.to_vec());
        Ok(())
    }

    /// Begins to make durable what was appended. Says at which moment, in microseconds, it is done.
    pub fn sync(&mut self, now_us: u64) -> Result<u64, DiskError> {
        if self.random.u64(..1_000) < self.faults.sync_fails {
            return Err(DiskError::Broken);
        }
        let earliest = self.syncs.back().map_or(now_us, |(done, _)| now_us.max(*done));
        let done = earliest + self.random.u64(..=self.faults.sync_us_max);
        self.syncs.push_back((done, self.records.len()));
        Ok(done)
    }

    /// Time has passed: how many records are durable now.
    pub fn durable(&mut self, now_us: u64) -> usize {
        while let Some((done, covers)) = self.syncs.front().copied()
            && done <= now_us
        {
            self.durable = self.durable.max(covers);
            self.syncs.pop_front();
        }
        self.durable
    }

    /// The machine stops at this moment: of what is not durable any beginning is left.
    pub fn crash(&mut self, now_us: u64) {
        let durable = self.durable(now_us);
        let left = self.random.u64(durable as u64..=self.records.len() as u64) as usize;
        self.records.truncate(left);
        self.durable = left;
        self.syncs.clear();
    }

    /// What is read back, oldest first.
    pub fn records(&self) -> impl Iterator<Item = &[u8]> {
        self.records.iter().map(Vec::as_slice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crash_keeps_what_was_synced_and_a_beginning_of_the_rest() {
        let mut left_over = [0; 4];
        for seed in 0..200 {
            let mut disk = Disk::new(Faults { sync_us_max: 500, ..Faults::default() }, seed);
            disk.append(b"1").unwrap();
            let done = disk.sync(0).unwrap();
            assert_eq!(disk.durable(done), 1);
            disk.append(b"2").unwrap();
            disk.append(b"3").unwrap();
            disk.crash(done);
            let records: Vec<&[u8]> = disk.records().collect();
            assert_eq!(records, [b"1", b"2", b"3"][..records.len()]);
            left_over[records.len()] += 1;
        }
        assert_eq!(left_over[0], 0, "what was synced is there");
        assert!(left_over[1..].iter().all(|seen| *seen > 0), "{left_over:?}");
    }

    #[test]
    fn a_sync_covers_what_was_appended_before_it_and_only_once_it_is_done() {
        let mut disk = Disk::new(Faults { sync_us_max: 1_000, ..Faults::default() }, 7);
        disk.append(b"before").unwrap();
        let first = disk.sync(10).unwrap();
        disk.append(b"after").unwrap();
        assert_eq!(disk.durable(first.saturating_sub(1)), usize::from(first <= 10));
        assert_eq!(disk.durable(first), 1);
        let second = disk.sync(first).unwrap();
        assert!(second >= first, "syncs end in order");
        assert_eq!(disk.durable(second), 2);
    }

    #[test]
    fn a_disk_is_full_or_broken_as_often_as_it_is_told_to_be() {
        let mut full = Disk::new(Faults { bytes_max: Some(5), ..Faults::default() }, 1);
        full.append(b"12345").unwrap();
        assert_eq!(full.append(b"6"), Err(DiskError::Full));
        let faults = Faults { append_fails: 500, sync_fails: 500, ..Faults::default() };
        let mut broken = Disk::new(faults, 1);
        let appends = (0..1_000).filter(|_| broken.append(b"x").is_err()).count();
        let syncs = (0..1_000).filter(|now| broken.sync(*now).is_err()).count();
        assert!((400..600).contains(&appends) && (400..600).contains(&syncs));
    }
}

//! Counters that the runner's thread writes and others read.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::Counters;

#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) succeeded: Count,
    pub(super) failed: Count,
    pub(super) timed_out: Count,
    pub(super) not_started: Count,
    pub(super) skipped: Count,
    pub(super) dropped: Count,
    pub(super) running: Gauge,
    pub(super) waiting: Gauge,
}

/// Only grows.
#[derive(Debug, Default)]
pub(super) struct Count(AtomicU64);

impl Count {
    pub(super) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// How many there are now.
#[derive(Debug, Default)]
pub(super) struct Gauge(AtomicUsize);

impl Gauge {
    pub(super) fn set(&self, value: usize) {
        self.0.store(value, Ordering::Relaxed);
    }

    fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed) as u64
    }
}

impl Tally {
    pub(super) fn counters(&self) -> Counters {
        Counters {
            succeeded: self.succeeded.value(),
            failed: self.failed.value(),
            timed_out: self.timed_out.value(),
            not_started: self.not_started.value(),
            skipped: self.skipped.value(),
            dropped: self.dropped.value(),
            running: self.running.value(),
            waiting: self.waiting.value(),
        }
    }
}

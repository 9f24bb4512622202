//! Counters that the runner's thread writes and others read.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::{Counters, Exit};

#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) succeeded: Count,
    pub(super) failed: Count,
    pub(super) timed_out: Count,
    pub(super) not_started: Count,
    pub(super) skipped: Count,
    pub(super) dropped: Count,
    pub(super) exits: Exits,
    pub(super) running: Gauge,
    pub(super) waiting: Gauge,
}

/// Calls by how their process ended.
#[derive(Debug)]
pub(super) struct Exits {
    /// By exit code.
    codes: [AtomicU64; 256],
    /// By signal; the system has 64.
    signals: [AtomicU64; 65],
}

impl Default for Exits {
    fn default() -> Self {
        let none = || AtomicU64::new(0);
        Exits { codes: [(); 256].map(|()| none()), signals: [(); 65].map(|()| none()) }
    }
}

impl Exits {
    pub(super) fn add(&self, exit: Exit) {
        let count = match exit {
            Exit::Code(code) => self.codes.get(usize::from(code)),
            Exit::Signal(signal) => self.signals.get(usize::from(signal)),
        };
        if let Some(count) = count {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn values(&self) -> Vec<(Exit, u64)> {
        let codes = (0..=u8::MAX).map(Exit::Code).zip(&self.codes);
        let signals = (0..=u8::MAX).map(Exit::Signal).zip(&self.signals);
        let all = codes.chain(signals).map(|(exit, count)| (exit, count.load(Ordering::Relaxed)));
        all.filter(|(_, count)| *count > 0).collect()
    }
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
            exits: self.exits.values(),
            running: self.running.value(),
            waiting: self.waiting.value(),
        }
    }
}

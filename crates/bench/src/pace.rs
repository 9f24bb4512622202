//! Messages at a fixed rate.
//!
//! Every message is due at a moment that is known before the first one is sent, and is measured from that moment
//! on. A sender that is held up sends what has become due meanwhile as fast as it can, and the time that these
//! have waited counts. Were they measured from when they were sent, a stall would show in one message, and not in
//! all that should have been sent during it ("coordinated omission").

use std::ops::Range;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::error::BenchError;
use crate::site::{histogram, nanos};

/// When each message is due.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Schedule {
    /// Messages a second.
    per_s: u64,
}

const SECOND_NS: u128 = 1_000_000_000;

impl Schedule {
    /// `per_s` messages a second, but at least one.
    pub(crate) fn new(per_s: u32) -> Self {
        Schedule { per_s: u64::from(per_s.max(1)) }
    }

    /// When a message is due, in nanoseconds since the first one was.
    pub(crate) fn due_ns(&self, number: u64) -> u64 {
        let due = u128::from(number) * SECOND_NS / u128::from(self.per_s);
        u64::try_from(due).unwrap_or(u64::MAX)
    }

    /// How many are due at a moment, those before it included.
    pub(crate) fn ready(&self, now_ns: u64) -> u64 {
        let before = u128::from(now_ns) * u128::from(self.per_s) / SECOND_NS;
        u64::try_from(before).unwrap_or(u64::MAX).saturating_add(1)
    }

    /// How many are due in a time.
    pub(crate) fn within(&self, time: Duration) -> u64 {
        self.ready(nanos(time).saturating_sub(1))
    }
}

/// What tells a sender the time.
pub(crate) trait Clock {
    /// Nanoseconds since the first message was due.
    fn now_ns(&self) -> u64;
    /// Waits until then, or a little longer.
    fn sleep_until(&self, ns: u64);
}

/// The real time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RealClock(pub(crate) Instant);

impl Clock for RealClock {
    fn now_ns(&self) -> u64 {
        nanos(self.0.elapsed())
    }

    fn sleep_until(&self, ns: u64) {
        std::thread::sleep(Duration::from_nanos(ns.saturating_sub(self.now_ns())));
    }
}

/// What became of a schedule.
#[derive(Debug)]
pub(crate) struct Paced {
    pub(crate) sent: u64,
    pub(crate) ended_ns: u64,
    /// How late messages were written, in nanoseconds.
    pub(crate) lag: Histogram<u64>,
}

/// Writes `total` messages when they are due, at most `batch` at once, never before. Gives up at `end_ns`, so that a
/// rate that cannot be kept comes to an end.
pub(crate) fn keep_pace(
    schedule: Schedule,
    total: u64,
    batch: u64,
    end_ns: u64,
    clock: &impl Clock,
    mut write: impl FnMut(Range<u64>) -> Result<(), BenchError>,
) -> Result<Paced, BenchError> {
    let mut paced = Paced { sent: 0, ended_ns: 0, lag: histogram() };
    while paced.sent < total {
        let now_ns = clock.now_ns();
        if now_ns >= end_ns {
            break;
        }
        let ready = schedule.ready(now_ns).min(total).min(paced.sent.saturating_add(batch));
        if ready <= paced.sent {
            clock.sleep_until(schedule.due_ns(paced.sent));
            continue;
        }
        write(paced.sent..ready)?;
        let written_ns = clock.now_ns();
        for number in paced.sent..ready {
            paced.lag.saturating_record(written_ns.saturating_sub(schedule.due_ns(number)));
        }
        paced.sent = ready;
    }
    paced.ended_ns = clock.now_ns();
    Ok(paced)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::{Cell, RefCell};

    /// A clock that moves only when somebody sleeps or works.
    #[derive(Default)]
    struct VirtualClock(Cell<u64>);

    impl Clock for VirtualClock {
        fn now_ns(&self) -> u64 {
            self.0.get()
        }

        fn sleep_until(&self, ns: u64) {
            self.0.set(self.0.get().max(ns));
        }
    }

    const MS: u64 = 1_000_000;

    #[test]
    fn a_schedule_has_no_drift_and_says_what_is_due() {
        let schedule = Schedule::new(3);
        assert_eq!(
            [0, 1, 2, 3].map(|number| schedule.due_ns(number)),
            [0, 333_333_333, 666_666_666, 1_000_000_000]
        );
        let fast = Schedule::new(100_000);
        assert_eq!(fast.due_ns(100_000 * 3600), 3600 * 1_000_000_000);
        assert_eq!((fast.ready(0), fast.ready(9_999), fast.ready(10_000)), (1, 1, 2));
        assert_eq!(fast.within(Duration::from_millis(500)), 50_000);
    }

    #[test]
    fn nothing_is_sent_before_it_is_due_and_everything_at_its_time() {
        let (clock, schedule) = (VirtualClock::default(), Schedule::new(1_000));
        let writes = RefCell::new(Vec::new());
        let write = |numbers: Range<u64>| {
            writes.borrow_mut().push((clock.now_ns(), numbers));
            Ok(())
        };
        let paced = keep_pace(schedule, 100, 50, u64::MAX, &clock, write).unwrap();
        assert_eq!((paced.sent, paced.lag.max()), (100, 0));
        let writes = writes.into_inner();
        assert_eq!(writes.len(), 100);
        assert!(writes.iter().all(|(now, numbers)| *now == schedule.due_ns(numbers.start)));
    }

    /// A receiver is there at once, but the bus takes nothing for 50 ms in the middle of a second.
    #[test]
    fn a_stall_counts_for_all_that_should_have_been_sent_during_it() {
        let (clock, schedule) = (VirtualClock::default(), Schedule::new(10_000));
        let (mut from_due, mut from_sent) = (histogram(), histogram());
        let write = |numbers: Range<u64>| {
            let sent = clock.now_ns();
            if numbers.contains(&5_000) {
                clock.sleep_until(sent + 50 * MS);
            }
            for number in numbers {
                from_due.saturating_record(clock.now_ns() - schedule.due_ns(number));
                from_sent.saturating_record(clock.now_ns() - sent);
            }
            Ok(())
        };
        let paced = keep_pace(schedule, 10_000, 200, u64::MAX, &clock, write).unwrap();
        assert_eq!((paced.sent, from_due.len()), (10_000, 10_000));
        // 500 of 10,000 were due during the stall: on average they waited for half of it.
        let late = from_due.count_between(MS, u64::MAX);
        assert!((480..=500).contains(&late), "{late}");
        assert!(
            from_due.value_at_quantile(0.99) >= 39 * MS,
            "{}",
            from_due.value_at_quantile(0.99)
        );
        // Measured from when they were sent, the stall is one message, and 99.9 % saw nothing of it.
        assert_eq!(from_sent.count_between(MS, u64::MAX), 1);
        assert_eq!(from_sent.value_at_quantile(0.999), 0);
    }

    #[test]
    fn a_rate_that_cannot_be_kept_ends_and_shows_how_late_it_was() {
        let (clock, schedule) = (VirtualClock::default(), Schedule::new(1_000_000));
        let write = |numbers: Range<u64>| {
            clock.sleep_until(clock.now_ns() + (numbers.end - numbers.start) * 2_000);
            Ok(())
        };
        let paced = keep_pace(schedule, 1_000_000, 100, 1_000 * MS, &clock, write).unwrap();
        assert!((499_000..501_000).contains(&paced.sent), "{}", paced.sent);
        assert!(paced.lag.max() > 490 * MS);
    }
}

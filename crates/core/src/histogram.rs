//! Durations, counted by their size.

use core::time::Duration;

/// Upper bounds in microseconds: powers of two from 1 µs to 2^26 µs (67 s), then everything above.
const BOUNDS: usize = 27;

/// How many durations of which size there were, and their sum. Recording one takes a nanosecond or two.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Histogram {
    buckets: [u64; BOUNDS + 1],
    sum_us: u64,
}

impl Histogram {
    /// Counts one duration.
    #[inline]
    pub fn record(&mut self, duration: Duration) {
        self.record_many(duration, 1);
    }

    /// Counts the same duration several times.
    #[inline]
    pub fn record_many(&mut self, duration: Duration, count: u64) {
        let us = duration.as_micros() as u64;
        let bucket = (u64::BITS - us.saturating_sub(1).leading_zeros()) as usize;
        self.buckets[if us <= 1 { 0 } else { bucket.min(BOUNDS) }] += count;
        self.sum_us += us * count;
    }

    /// The upper bound of each bucket (none for the last one: no bound), and how many durations are
    /// in it and not in one before it.
    pub fn buckets(&self) -> impl Iterator<Item = (Option<Duration>, u64)> {
        self.buckets.iter().enumerate().map(|(index, count)| {
            let bound = (index < BOUNDS).then(|| Duration::from_micros(1 << index));
            (bound, *count)
        })
    }

    /// How many durations were counted.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// The sum of all of them.
    pub fn sum(&self) -> Duration {
        Duration::from_micros(self.sum_us)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_in_the_bucket_that_it_just_fits() {
        for (us, bound) in
            [(0, 1), (1, 1), (2, 2), (3, 4), (4, 4), (5, 8), (1024, 1024), (1025, 2048)]
        {
            let mut histogram = Histogram::default();
            histogram.record(Duration::from_micros(us));
            let bucket = histogram.buckets().find(|(_, count)| *count == 1);
            assert_eq!(bucket, Some((Some(Duration::from_micros(bound)), 1)), "{us} µs");
        }
        let mut histogram = Histogram::default();
        histogram.record_many(Duration::from_secs(1_000), 3);
        assert_eq!(histogram.buckets().last(), Some((None, 3)));
        assert_eq!((histogram.count(), histogram.sum()), (3, Duration::from_secs(3_000)));
    }
}

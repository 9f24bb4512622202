//! How often a line may be repeated.
//!
//! Of each kind a few lines are written in a while; over that only the first of each culprit, so
//! that a flood by one does not hide another. What was left out is summed up when the while is over.
//! Memory is bounded: kinds are few, and culprits beyond a limit are summed up together.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

/// Lines of one kind within its window.
const LINES: u32 = 10;
/// Culprits of one kind that are told apart within a window.
const CULPRITS_MAX: usize = 64;

/// Decides which lines are written. `K` names a culprit, `T` is what is remembered of a line.
pub(crate) struct Throttle<K, T> {
    windows: HashMap<&'static str, Window<K, T>>,
}

struct Window<K, T> {
    end: Instant,
    lines: u32,
    culprits: HashMap<K, LeftOut<T>>,
    /// Those who are not told apart any more.
    others: LeftOut<T>,
}

/// Lines that were left out.
struct LeftOut<T> {
    count: u64,
    last: Option<T>,
}

impl<T> Default for LeftOut<T> {
    fn default() -> Self {
        LeftOut { count: 0, last: None }
    }
}

impl<K: Eq + Hash, T> Throttle<K, T> {
    pub(crate) fn new() -> Self {
        Throttle { windows: HashMap::new() }
    }

    /// Returns the line if it is to be written now. Else it is counted, and remembered as the last one.
    /// `window` is how long lines of this kind are counted together.
    pub(crate) fn admit(
        &mut self,
        kind: &'static str,
        culprit: K,
        window: Duration,
        now: Instant,
        line: T,
    ) -> Option<T> {
        let window = self.windows.entry(kind).or_insert_with(|| Window {
            end: now + window,
            lines: 0,
            culprits: HashMap::new(),
            others: LeftOut::default(),
        });
        let mut is_new = false;
        let left_out =
            if window.culprits.contains_key(&culprit) || window.culprits.len() < CULPRITS_MAX {
                window.culprits.entry(culprit).or_insert_with(|| {
                    is_new = true;
                    LeftOut::default()
                })
            } else {
                &mut window.others
            };
        if is_new || window.lines < LINES {
            window.lines += 1;
            return Some(line);
        }
        left_out.count += 1;
        left_out.last = Some(line);
        None
    }

    /// What was left out in the windows that are over at `now`: how many lines, and the last of them.
    pub(crate) fn take_over(&mut self, now: Instant) -> Vec<(u64, T)> {
        let over = self.windows.extract_if(|_, window| window.end <= now);
        over.flat_map(|(_, window)| window.left_out()).collect()
    }

    /// What was left out in all windows.
    pub(crate) fn take_all(&mut self) -> Vec<(u64, T)> {
        self.windows.drain().flat_map(|(_, window)| window.left_out()).collect()
    }
}

impl<K, T> Window<K, T> {
    fn left_out(self) -> impl Iterator<Item = (u64, T)> {
        let all = self.culprits.into_values().chain([self.others]);
        all.filter_map(|left_out| Some((left_out.count, left_out.last?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Duration = Duration::from_secs(10);

    fn count(
        throttle: &mut Throttle<String, usize>,
        culprit: &str,
        lines: usize,
        now: Instant,
    ) -> usize {
        let admitted =
            (0..lines).filter_map(|n| throttle.admit("kind", culprit.into(), WINDOW, now, n));
        admitted.count()
    }

    #[test]
    fn a_flood_is_cut_and_summed_up_when_its_window_is_over() {
        let (mut throttle, now) = (Throttle::new(), Instant::now());
        assert_eq!(count(&mut throttle, "loud", 1_000, now), 10);
        assert!(throttle.take_over(now + WINDOW / 2).is_empty());
        assert_eq!(throttle.take_over(now + WINDOW), [(990, 999)]);
        assert_eq!(count(&mut throttle, "loud", 1, now + WINDOW), 1);
        assert!(throttle.take_all().is_empty(), "nothing was left out");
    }

    #[test]
    fn a_flood_by_one_does_not_hide_the_first_line_of_another() {
        let (mut throttle, now) = (Throttle::new(), Instant::now());
        count(&mut throttle, "loud", 1_000, now);
        assert_eq!(count(&mut throttle, "quiet", 3, now), 1);
        let mut left_out = throttle.take_all();
        left_out.sort_unstable();
        assert_eq!(left_out, [(2, 2), (990, 999)]);
    }

    #[test]
    fn kinds_do_not_hide_each_other() {
        let (mut throttle, now) = (Throttle::new(), Instant::now());
        count(&mut throttle, "loud", 1_000, now);
        assert!(throttle.admit("another", "loud".to_owned(), WINDOW, now, 0).is_some());
    }

    #[test]
    fn more_culprits_than_can_be_told_apart_are_summed_up_together() {
        let (mut throttle, now) = (Throttle::new(), Instant::now());
        let admitted: usize =
            (0..10_000).map(|n| count(&mut throttle, &format!("culprit {n}"), 1, now)).sum();
        assert_eq!(admitted, CULPRITS_MAX);
        assert_eq!(throttle.windows["kind"].culprits.len(), CULPRITS_MAX);
        assert_eq!(throttle.take_all(), [(10_000 - CULPRITS_MAX as u64, 0)]);
    }
}

//! Names that were registered here not long ago: a message may be queued for them though nobody is
//! there, and one of them is what somebody may have meant.
//!
//! A table that is bounded by time, number and bytes; by the wall clock, because it outlives the
//! process: whoever keeps things on disk is told of what is forgotten here.

use alloc::collections::BTreeSet;
use alloc::vec::Vec;
use core::time::Duration;

use hashbrown::HashMap;
use hermes_bus_proto::limits::ADDRESS_BYTES_MAX;
use hermes_bus_proto::{EndpointName, nearest};

/// What comparing a mistyped name with known ones may cost: that many pairs of bytes, which take about
/// a millisecond. Those seen last are compared first.
const PAIRS_MAX: usize = 1 << 20;

/// What it costs to look at a name, however short it is, in pairs.
const PAIRS_PER_NAME: usize = 512;

/// What all names may take, in bytes: more than enough for as many names of level 2 as there may be by
/// default.
const BYTES_MAX: usize = 64 * 1024 * 1024;

/// Names, who registered them last, and when.
pub(crate) struct KnownNames {
    names: HashMap<EndpointName, Known, foldhash::fast::FixedState>,
    /// The same names, the one seen longest ago first.
    by_age: BTreeSet<(u64, EndpointName)>,
    known_for_us: u64,
    names_max: usize,
    /// What the names take.
    bytes: usize,
}

/// What a name takes, in both tables.
fn load_bytes(name: &EndpointName) -> usize {
    name.as_str().len() + size_of::<(EndpointName, Known)>() + size_of::<(u64, EndpointName)>() + 32
}

/// What is known of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Known {
    /// The user who registered it last.
    pub(crate) uid: u32,
    /// When it was last there, in microseconds of Unix time.
    pub(crate) seen_unix_us: u64,
}

impl KnownNames {
    /// Without names. Each is known for `known_for` after it was there, and at most `names_max` are.
    pub(crate) fn new(known_for: Duration, names_max: usize, hash_seed: u64) -> Self {
        let mut known = KnownNames {
            names: HashMap::with_hasher(foldhash::fast::FixedState::with_seed(hash_seed)),
            by_age: BTreeSet::new(),
            known_for_us: 0,
            names_max: 0,
            bytes: 0,
        };
        known.set_limits(known_for, names_max);
        known
    }

    /// Changes the limits. What is over them is forgotten with [`KnownNames::forget_one`].
    pub(crate) fn set_limits(&mut self, known_for: Duration, names_max: usize) {
        self.known_for_us = u64::try_from(known_for.as_micros()).unwrap_or(u64::MAX);
        self.names_max = names_max.max(1);
    }

    /// A name is there, or was until now. Others may have to be forgotten for it: see
    /// [`KnownNames::forget_one_too_many`].
    pub(crate) fn note(&mut self, name: &EndpointName, uid: u32, unix_us: u64) {
        let known = Known { uid, seen_unix_us: unix_us };
        match self.names.insert(name.clone(), known) {
            Some(before) => drop(self.by_age.remove(&(before.seen_unix_us, name.clone()))),
            None => self.bytes += load_bytes(name),
        }
        self.by_age.insert((unix_us, name.clone()));
    }

    /// Forgets the name seen longest ago and returns it, if there are too many. To be asked until it
    /// says `None`.
    #[must_use = "what is forgotten here must not be kept elsewhere"]
    pub(crate) fn forget_one_too_many(&mut self) -> Option<EndpointName> {
        if self.are_too_many() { self.forget_oldest() } else { None }
    }

    fn are_too_many(&self) -> bool {
        self.names.len() > self.names_max || self.bytes > BYTES_MAX
    }

    /// What is known of a name at this time.
    pub(crate) fn of(&self, name: &str, now_unix_us: u64) -> Option<Known> {
        let known = self.names.get(name).copied();
        known.filter(|known| !self.is_over(known.seen_unix_us, now_unix_us))
    }

    #[cfg(test)]
    /// Whether a name is known at this time.
    pub(crate) fn contains(&self, name: &str, now_unix_us: u64) -> bool {
        self.of(name, now_unix_us).is_some()
    }

    #[cfg(test)]
    /// Forgets a name, because the bus's owner says so.
    pub(crate) fn forget(&mut self, name: &EndpointName) -> bool {
        let Some(known) = self.names.remove(name) else { return false };
        self.bytes -= load_bytes(name);
        self.by_age.remove(&(known.seen_unix_us, name.clone()))
    }

    /// Forgets the name seen longest ago and returns it, if it has been known for its time or there
    /// are too many. To be asked until it says `None`.
    pub(crate) fn forget_one(&mut self, now_unix_us: u64) -> Option<EndpointName> {
        let (seen, _) = self.by_age.first()?;
        let is_over = self.is_over(*seen, now_unix_us) || self.are_too_many();
        if is_over { self.forget_oldest() } else { None }
    }

    #[cfg(test)]
    /// When [`KnownNames::forget_one`] next has something to do, in microseconds of Unix time.
    pub(crate) fn next_forgotten_unix_us(&self) -> Option<u64> {
        let (seen, _) = self.by_age.first()?;
        Some(seen.saturating_add(self.known_for_us).saturating_add(1))
    }

    /// The known names that are most like `wanted`, the likeliest first.
    pub(crate) fn suggestions(&self, wanted: &str, now_unix_us: u64) -> Vec<EndpointName> {
        let mut pairs = 0;
        let newest = self.by_age.iter().rev().take_while(|(_, name)| {
            pairs += PAIRS_PER_NAME + wanted.len() * name.as_str().len().min(ADDRESS_BYTES_MAX);
            pairs <= PAIRS_MAX
        });
        let known = newest.filter(|(seen, _)| !self.is_over(*seen, now_unix_us));
        nearest(wanted, known.map(|(_, name)| name.as_str()))
            .into_iter()
            .filter_map(|name| self.names.get_key_value(name).map(|(name, _)| name.clone()))
            .collect()
    }

    #[cfg(test)]
    /// The number of names.
    pub(crate) fn len(&self) -> usize {
        self.names.len()
    }

    fn is_over(&self, seen_unix_us: u64, now_unix_us: u64) -> bool {
        now_unix_us.saturating_sub(seen_unix_us) > self.known_for_us
    }

    fn forget_oldest(&mut self) -> Option<EndpointName> {
        let (_, name) = self.by_age.pop_first()?;
        self.names.remove(&name);
        self.bytes -= load_bytes(&name);
        Some(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000;

    fn name(text: &str) -> EndpointName {
        EndpointName::level_1(text).expect("a valid name")
    }

    /// Returns the one that had to be forgotten for it.
    fn note(known: &mut KnownNames, text: &str, uid: u32, unix_us: u64) -> Option<EndpointName> {
        known.note(&name(text), uid, unix_us);
        known.forget_one_too_many()
    }

    fn for_ten_seconds(names_max: usize) -> KnownNames {
        KnownNames::new(Duration::from_secs(10), names_max, 1)
    }

    #[test]
    fn a_name_is_known_for_its_time_after_it_was_last_there() {
        let mut known = for_ten_seconds(10);
        assert_eq!(note(&mut known, "a", 1_000, 0), None);
        assert_eq!(note(&mut known, "a", 1_001, 5 * SECOND), None);
        assert!(known.contains("a", 15 * SECOND) && !known.contains("a", 15 * SECOND + 1));
        assert_eq!(known.of("a", 6 * SECOND), Some(Known { uid: 1_001, seen_unix_us: 5 * SECOND }));
        assert!(!known.contains("b", 0));
        assert_eq!(known.next_forgotten_unix_us(), Some(15 * SECOND + 1));
        assert_eq!(known.forget_one(15 * SECOND), None);
        assert_eq!(known.forget_one(15 * SECOND + 1), Some(name("a")));
        assert_eq!((known.forget_one(99 * SECOND), known.len(), known.by_age.len()), (None, 0, 0));
    }

    #[test]
    fn the_one_seen_longest_ago_makes_room() {
        let mut known = for_ten_seconds(2);
        assert_eq!(note(&mut known, "a", 0, 1), None);
        assert_eq!(note(&mut known, "b", 0, 2), None);
        assert_eq!(note(&mut known, "a", 0, 3), None, "it is there already");
        assert_eq!(note(&mut known, "c", 0, 4), Some(name("b")));
        assert!(known.contains("a", 4) && known.contains("c", 4) && !known.contains("b", 4));
        known.set_limits(Duration::from_secs(10), 1);
        assert_eq!(known.forget_one(4), Some(name("a")));
        assert_eq!(known.forget_one(4), None);
    }

    #[test]
    fn memory_is_bounded_in_bytes_too() {
        let mut known = for_ten_seconds(100_000);
        let mut forgotten = 0;
        for number in 0..20_000 {
            let long = format!("{number:08}").repeat(1_000);
            forgotten += usize::from(note(&mut known, &long, 0, number).is_some());
        }
        assert!(known.bytes <= BYTES_MAX && known.len() > 8_000, "{} names", known.len());
        assert_eq!(known.len() + forgotten, 20_000, "whoever keeps them is told of each");
        let left: usize = known.names.keys().map(load_bytes).sum();
        assert_eq!(known.bytes, left);
        while known.forget_one(u64::MAX).is_some() {}
        assert_eq!((known.bytes, known.len()), (0, 0));
    }

    #[test]
    fn as_many_names_of_level_2_as_are_known_by_default_fit() {
        let mut known = for_ten_seconds(100_000);
        for number in 0..100_000 {
            assert_eq!(note(&mut known, &format!("{number:0255}"), 0, number), None);
        }
        assert!(note(&mut known, "one more", 0, 100_000).is_some());
    }

    #[test]
    fn a_clock_that_was_set_back_forgets_nobody() {
        let mut known = for_ten_seconds(10);
        assert_eq!(note(&mut known, "a", 0, 100 * SECOND), None);
        assert_eq!(note(&mut known, "a", 0, 50 * SECOND), None);
        assert!(known.contains("a", 20 * SECOND));
        assert_eq!((known.len(), known.by_age.len()), (1, 1));
    }

    #[test]
    fn only_so_many_names_are_compared() {
        let mut known = for_ten_seconds(100_000);
        assert_eq!(note(&mut known, "lead-agent", 0, 0), None);
        for number in 0..10_000 {
            assert_eq!(note(&mut known, &format!("{number}"), 0, 1), None);
        }
        assert!(
            known.suggestions("lead-agnet", 1).is_empty(),
            "it was seen long before the others"
        );
        assert_eq!(note(&mut known, "lead-agent", 0, 2), None);
        assert_eq!(known.suggestions("lead-agnet", 2), [name("lead-agent")]);
    }

    #[test]
    fn what_is_forgotten_is_not_known() {
        let mut known = for_ten_seconds(10);
        assert_eq!(note(&mut known, "a", 0, 1), None);
        assert!(known.forget(&name("a")) && !known.forget(&name("a")));
        assert_eq!((known.contains("a", 1), known.by_age.len()), (false, 0));
    }

    #[test]
    fn a_slip_is_answered_with_the_names_that_are_like_it() {
        let mut known = for_ten_seconds(10);
        for text in ["worker-alpha", "worker-beta", "lead-agent", "zebra"] {
            assert_eq!(note(&mut known, text, 0, 0), None);
        }
        assert_eq!(known.suggestions("lead-agnet", 0), [name("lead-agent")]);
        assert_eq!(known.suggestions("worker-alpah", 0)[0], name("worker-alpha"));
        assert!(
            known.suggestions("lead-agnet", 11 * SECOND).is_empty(),
            "nobody knows it any more"
        );
        assert!(known.suggestions("other", 0).is_empty());
    }
}

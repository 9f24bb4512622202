//! The window in which a message that is sent again is recognised.
//!
//! A sender that does not know whether its message arrived sends it again. Within the window it is
//! answered with the state of the first one, or waits for that with the first one's sender; nothing is
//! delivered twice. A message that failed is forgotten, so that a retry of it is new.
//!
//! Bounded by time, number and bytes, the oldest out first. Who waits is never dropped: where the
//! window lets go of a message, they stay with it until it has reached what they wait for.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::vec::Vec;
use core::hash::BuildHasher;
use core::time::Duration;

use hashbrown::HashTable;
use hermes_bus_proto::EndpointName;
use hermes_bus_proto::control::Status;
use slab::Slab;

use crate::storage::Recent;
use crate::time::{Moment, Now};

/// What all entries may take, in bytes.
const BYTES_MAX: usize = 64 * 1024 * 1024;

/// Longer keys are not remembered: two of the longest names, and the longest id.
const KEY_BYTES_MAX: usize =
    2 * hermes_bus_proto::limits::NAME_BYTES_MAX + hermes_bus_proto::limits::DEDUP_ID_BYTES_MAX;

/// What a message is recognised by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Identity<'a> {
    /// The user who sends it.
    pub(crate) uid: u32,
    /// The sender's endpoint, or what it says in `from`.
    pub(crate) from: Option<&'a str>,
    /// What it says in `to`.
    pub(crate) to: &'a str,
    /// Its id.
    pub(crate) id: &'a str,
}

impl Identity<'_> {
    fn text_bytes(&self) -> usize {
        self.from.map_or(0, str::len) + self.to.len() + self.id.len()
    }
}

/// A message in the window, for as long as it is there: what is in flight holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct RepetitionKey {
    index: u32,
    generation: u32,
}

/// A message that was sent before.
#[derive(Debug)]
pub(crate) struct Entry<F> {
    key: RepetitionKey,
    status: Status,
    expires: Moment,
    /// Whether it is found by its identity. If not, it is here only for its followers.
    is_listed: bool,
    /// Its time in the window is over, but it is found as long as somebody waits for it: one that an
    /// earlier process has left on disk is recognised by its identity when it is read.
    is_leaving: bool,
    /// Whether its receiver had it and does not acknowledge.
    is_unackable: bool,
    /// The endpoint that it waits for on disk, if an earlier process of the bus has taken it.
    waits_for: Option<EndpointName>,
    followers: Vec<(Status, F)>,
    /// The hash of its identity: who lets go of it need not look at the text.
    hash: u64,
    uid: u32,
    /// `from`, `to` and `id`, one behind the other.
    text: Box<str>,
    from_bytes: Option<u32>,
    to_bytes: u32,
}

impl<F> Entry<F> {
    /// How far the message has come.
    pub(crate) fn status(&self) -> Status {
        self.status
    }

    /// Its name for [`Repetitions::reached`] and [`Repetitions::failed`].
    pub(crate) fn key(&self) -> RepetitionKey {
        self.key
    }

    /// Whether its receiver had it, and will never acknowledge it.
    pub(crate) fn is_unackable(&self) -> bool {
        self.is_unackable
    }

    /// `follower` waits until the message has come as far as `wanted`, or has failed. It must not have
    /// come so far yet.
    pub(crate) fn follow(&mut self, wanted: Status, follower: F) {
        debug_assert!(self.status < wanted, "there is nothing to wait for");
        self.followers.push((wanted, follower));
    }

    fn identity(&self) -> Identity<'_> {
        let (from, rest) = self.text.split_at(self.from_bytes.unwrap_or(0) as usize);
        let (to, id) = rest.split_at(self.to_bytes as usize);
        Identity { uid: self.uid, from: self.from_bytes.map(|_| from), to, id }
    }

    fn load_bytes(&self) -> usize {
        self.text.len() + size_of::<Self>() + size_of::<(RepetitionKey, usize)>()
    }
}

/// The place of an entry that is found by its identity, with the hash of that: so a table that grows
/// does not look into every entry.
#[derive(Clone, Copy, Debug)]
struct Listed {
    hash: u64,
    index: usize,
}

/// The window. `F` is whoever waits for the state of a message that it has repeated.
pub(crate) struct Repetitions<F> {
    entries: Slab<Entry<F>>,
    /// Those that are found by their identity.
    listed: HashTable<Listed>,
    hasher: foldhash::fast::FixedState,
    /// In the order in which they leave the window. Some may be gone already.
    order: VecDeque<RepetitionKey>,
    generation: u32,
    /// How many of the listed ones are leaving.
    leaving: usize,
    /// What the listed ones take, but for those that are leaving.
    bytes: usize,
    window: Duration,
    entries_max: usize,
}

impl<F> Repetitions<F> {
    /// An empty window.
    pub(crate) fn new(window: Duration, entries_max: usize, hash_seed: u64) -> Self {
        Repetitions {
            entries: Slab::new(),
            listed: HashTable::new(),
            hasher: foldhash::fast::FixedState::with_seed(hash_seed),
            order: VecDeque::new(),
            generation: 0,
            leaving: 0,
            bytes: 0,
            window,
            entries_max: entries_max.max(1),
        }
    }

    /// Changes the limits. What is in the window already stays for its time.
    pub(crate) fn set_limits(&mut self, window: Duration, entries_max: usize) {
        self.window = window;
        self.entries_max = entries_max.max(1);
        self.shrink();
    }

    /// Takes over what an earlier process of the bus has remembered, oldest first.
    pub(crate) fn recover(&mut self, recent: impl IntoIterator<Item = Recent>, now: Now) {
        for Recent { uid, from, to, id, status, waits_for, arrived_unix_us } in recent {
            let age = Duration::from_micros(now.unix_us.saturating_sub(arrived_unix_us));
            let Some(left) = self.window.checked_sub(age) else { continue };
            let identity = Identity { uid, from: from.as_deref(), to: &to, id: &id };
            let key = self.insert(&identity, status, now.moment.after(left));
            if let Some(entry) = self.entry_mut(key) {
                entry.waits_for = waits_for;
                // One that was acknowledged would have come further.
                entry.is_unackable = status == Status::Delivered;
            }
        }
    }

    /// The message that has been sent before with this identity.
    pub(crate) fn seen(&mut self, identity: &Identity<'_>) -> Option<&mut Entry<F>> {
        let index = self.find(self.hasher.hash_one(identity), identity)?;
        self.entries.get_mut(index)
    }

    /// Remembers a message that was not seen before; the router has it. A later one with the same
    /// identity takes its place.
    pub(crate) fn begin(&mut self, identity: &Identity<'_>, now: Moment) -> RepetitionKey {
        self.insert(identity, Status::Accepted, now.after(self.window))
    }

    /// A message has come so far. Returns those who waited for that.
    #[must_use = "they wait to be told"]
    pub(crate) fn reached(&mut self, key: RepetitionKey, status: Status) -> Vec<F> {
        let Some(entry) = self.entry_mut(key) else { return Vec::new() };
        entry.status = entry.status.max(status);
        if entry.followers.is_empty() {
            return Vec::new();
        }
        let status = entry.status;
        let told = entry.followers.extract_if(.., |(wanted, _)| *wanted <= status);
        let told = told.map(|(_, follower)| follower).collect();
        self.drop_if_done(key);
        told
    }

    /// A message has come to a receiver that does not acknowledge. Returns those who waited for that.
    #[must_use = "they wait to be told"]
    pub(crate) fn cannot_be_acked(&mut self, key: RepetitionKey) -> Vec<F> {
        let Some(entry) = self.entry_mut(key) else { return Vec::new() };
        entry.is_unackable = true;
        let told = entry.followers.extract_if(.., |(wanted, _)| *wanted == Status::Acked);
        let told = told.map(|(_, follower)| follower).collect();
        self.drop_if_done(key);
        told
    }

    /// A message has failed: it is forgotten. Returns those who waited.
    #[must_use = "they wait to be told"]
    pub(crate) fn failed(&mut self, key: RepetitionKey) -> Vec<F> {
        let Some(entry) = self.entry_mut(key) else { return Vec::new() };
        let followers = core::mem::take(&mut entry.followers);
        self.unlist(key);
        followers.into_iter().map(|(_, follower)| follower).collect()
    }

    /// What is on disk is for another endpoint from now on.
    pub(crate) fn moved(&mut self, key: RepetitionKey, to: &EndpointName) {
        if let Some(waits_for) = self.entry_mut(key).and_then(|entry| entry.waits_for.as_mut()) {
            *waits_for = to.clone();
        }
    }

    /// What an earlier process had left on disk for this endpoint and nobody has looked at since has
    /// failed: it is forgotten. Returns those who waited.
    #[must_use = "they wait to be told"]
    pub(crate) fn failed_on_disk(&mut self, endpoint: &EndpointName) -> Vec<F> {
        let is_it = |entry: &&Entry<F>| {
            entry.status == Status::Stored && entry.waits_for.as_ref() == Some(endpoint)
        };
        let found = self.entries.iter().map(|(_, entry)| entry).filter(is_it);
        let keys: Vec<RepetitionKey> = found.map(|entry| entry.key).collect();
        keys.into_iter().flat_map(|key| self.failed(key)).collect()
    }

    /// Whether a message can still be recognised, or somebody waits for it.
    pub(crate) fn has(&self, key: RepetitionKey) -> bool {
        self.entries.get(key.index as usize).is_some_and(|entry| entry.key == key)
    }

    /// Drops the followers for which `keeps` is false: nobody waits there any more.
    pub(crate) fn retain_followers(&mut self, keeps: impl Fn(&F) -> bool) {
        let mut left = Vec::new();
        for (_, entry) in &mut self.entries {
            let followers = entry.followers.len();
            entry.followers.retain(|(_, follower)| keeps(follower));
            if entry.followers.len() < followers {
                left.push(entry.key);
            }
        }
        left.into_iter().for_each(|key| self.drop_if_done(key));
    }

    /// Lets go of what has been in the window for its time.
    pub(crate) fn expire(&mut self, now: Moment) {
        while let Some(oldest) = self.order.front().copied() {
            match self.listed_entry(oldest) {
                Some(entry) if entry.expires > now => return,
                Some(_) => self.leave(oldest),
                None => {}
            }
            self.order.pop_front();
        }
    }

    #[cfg(test)]
    /// When [`Repetitions::expire`] next has something to do.
    pub(crate) fn next_expiry(&self) -> Option<Moment> {
        self.order.iter().find_map(|key| self.listed_entry(*key)).map(|entry| entry.expires)
    }

    #[cfg(test)]
    /// The number of messages that would be recognised.
    pub(crate) fn len(&self) -> usize {
        self.listed.len()
    }

    fn insert(
        &mut self,
        identity: &Identity<'_>,
        status: Status,
        expires: Moment,
    ) -> RepetitionKey {
        self.generation = self.generation.wrapping_add(1);
        let generation = self.generation;
        if identity.text_bytes() > KEY_BYTES_MAX {
            return RepetitionKey { index: u32::MAX, generation };
        }
        let hash = self.hasher.hash_one(identity);
        if let Some(index) = self.find(hash, identity) {
            self.unlist(self.entries[index].key);
        }
        let Identity { uid, from, to, id } = *identity;
        let mut text = String::with_capacity(identity.text_bytes());
        [from.unwrap_or_default(), to, id].into_iter().for_each(|part| text.push_str(part));
        let place = self.entries.vacant_entry();
        let key = RepetitionKey { index: place.key() as u32, generation };
        let entry = place.insert(Entry {
            key,
            status,
            expires,
            is_listed: true,
            is_leaving: false,
            is_unackable: false,
            waits_for: None,
            followers: Vec::new(),
            hash,
            uid,
            text: text.into_boxed_str(),
            from_bytes: from.map(|from| from.len() as u32),
            to_bytes: to.len() as u32,
        });
        self.bytes += entry.load_bytes();
        self.listed
            .insert_unique(hash, Listed { hash, index: key.index as usize }, |listed| listed.hash);
        self.order.push_back(key);
        self.shrink();
        key
    }

    /// Lets go of the oldest until the window is within its bounds, and of the places of those that
    /// are gone already.
    fn shrink(&mut self) {
        while self.listed.len() - self.leaving > self.entries_max || self.bytes > BYTES_MAX {
            let Some(oldest) = self.order.pop_front() else { break };
            if self.listed_entry(oldest).is_some() {
                self.leave(oldest);
            }
        }
        if self.order.len() > 2 * self.listed.len() + 64 {
            let mut order = core::mem::take(&mut self.order);
            order.retain(|key| self.listed_entry(*key).is_some());
            self.order = order;
        }
    }

    fn find(&self, hash: u64, identity: &Identity<'_>) -> Option<usize> {
        let is_it = |listed: &Listed| {
            listed.hash == hash && self.entries[listed.index].identity() == *identity
        };
        self.listed.find(hash, is_it).map(|listed| listed.index)
    }

    fn entry_mut(&mut self, key: RepetitionKey) -> Option<&mut Entry<F>> {
        self.entries.get_mut(key.index as usize).filter(|entry| entry.key == key)
    }

    fn listed_entry(&self, key: RepetitionKey) -> Option<&Entry<F>> {
        let entry = self.entries.get(key.index as usize)?;
        Some(entry).filter(|entry| entry.key == key && entry.is_listed)
    }

    /// Its time in the window is over.
    fn leave(&mut self, key: RepetitionKey) {
        match self.entry_mut(key) {
            Some(entry) if !entry.followers.is_empty() => {
                let was_leaving = core::mem::replace(&mut entry.is_leaving, true);
                debug_assert!(!was_leaving, "it has left the order");
                let bytes = entry.load_bytes();
                self.leaving += 1;
                self.bytes -= bytes;
            }
            _ => self.unlist(key),
        }
    }

    /// It is not found any more.
    fn unlist(&mut self, key: RepetitionKey) {
        if let Some(entry) = self.listed_entry(key) {
            let (hash, is_leaving, bytes) = (entry.hash, entry.is_leaving, entry.load_bytes());
            if is_leaving {
                self.leaving -= 1;
            } else {
                self.bytes -= bytes;
            }
            let place = self.listed.find_entry(hash, |listed| listed.index == key.index as usize);
            if let Ok(place) = place {
                place.remove();
            }
        }
        if let Some(entry) = self.entry_mut(key) {
            entry.is_listed = false;
        }
        self.drop_if_done(key);
    }

    fn drop_if_done(&mut self, key: RepetitionKey) {
        let Some(entry) = self.entry_mut(key).filter(|entry| entry.followers.is_empty()) else {
            return;
        };
        if entry.is_leaving && entry.is_listed {
            self.unlist(key);
        } else if !entry.is_listed {
            self.entries.remove(key.index as usize);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Duration = Duration::from_secs(600);

    type Window = Repetitions<&'static str>;

    fn window(entries_max: usize) -> Window {
        Repetitions::new(WINDOW, entries_max, 1)
    }

    fn at(seconds: u64) -> Moment {
        Moment::from_micros(seconds * 1_000_000)
    }

    fn message(id: &str) -> Identity<'_> {
        Identity { uid: 1_000, from: Some("lead"), to: "worker", id }
    }

    fn status(window: &mut Window, id: &str) -> Option<Status> {
        window.seen(&message(id)).map(|entry| entry.status())
    }

    /// Nothing is left but what is listed.
    fn is_tidy<F>(window: &Repetitions<F>) -> bool {
        window.entries.len() == window.listed.len()
            && window.bytes
                == window.entries.iter().map(|(_, entry)| entry.load_bytes()).sum::<usize>()
            && window.order.len() <= 2 * window.listed.len() + 64
    }

    #[test]
    fn a_repetition_finds_the_state_of_the_first_one() {
        let mut window = window(10);
        assert_eq!(status(&mut window, "a"), None);
        let key = window.begin(&message("a"), at(0));
        assert_eq!(status(&mut window, "a"), Some(Status::Accepted));
        assert_eq!(window.reached(key, Status::Acked), [""; 0]);
        assert_eq!(window.reached(key, Status::Stored), [""; 0]);
        assert_eq!(status(&mut window, "a"), Some(Status::Acked), "a state is never taken back");
    }

    #[test]
    fn all_four_parts_tell_messages_apart() {
        let mut window = window(10);
        let first = Identity { uid: 1, from: Some("ab"), to: "c", id: "d" };
        window.begin(&first, at(0));
        for other in [
            Identity { uid: 2, ..first },
            Identity { from: Some("a"), to: "bc", ..first },
            Identity { to: "cd", id: "", ..first },
            Identity { from: None, to: "abc", ..first },
            Identity { from: Some(""), to: "abc", ..first },
        ] {
            assert!(window.seen(&other).is_none(), "{other:?}");
        }
        window.begin(&Identity { from: None, ..first }, at(0));
        assert!(window.seen(&Identity { from: Some(""), ..first }).is_none());
        assert!(window.seen(&Identity { from: None, ..first }).is_some());
        assert!(window.seen(&first).is_some());
    }

    #[test]
    fn many_are_found_again() {
        let mut window = window(1_000);
        let ids: Vec<String> = (0..1_000).map(|number| number.to_string()).collect();
        let nameless = |id| Identity { uid: 1, from: None, to: "worker", id };
        for id in &ids {
            window.begin(&nameless(id), at(0));
            window.begin(&message(id), at(0));
        }
        assert_eq!(window.len(), 1_000);
        assert!(ids[500..].iter().all(|id| window.seen(&nameless(id)).is_some()));
        assert!(ids[500..].iter().all(|id| window.seen(&message(id)).is_some()));
        assert!(ids[..500].iter().all(|id| window.seen(&message(id)).is_none()));
    }

    #[test]
    fn who_repeats_hears_with_the_first_one_or_of_its_failure() {
        let mut window = window(10);
        let key = window.begin(&message("a"), at(0));
        let entry = window.seen(&message("a")).expect("it was sent");
        assert_eq!(entry.key(), key);
        entry.follow(Status::Stored, "wants stored");
        entry.follow(Status::Acked, "wants acked");
        entry.follow(Status::Delivered, "wants delivered");
        assert_eq!(window.reached(key, Status::Delivered), ["wants stored", "wants delivered"]);
        assert_eq!(status(&mut window, "a"), Some(Status::Delivered));
        assert_eq!(window.failed(key), ["wants acked"]);
        assert_eq!(status(&mut window, "a"), None, "a retry is new");
        assert!(window.failed(key).is_empty() && window.reached(key, Status::Acked).is_empty());
        assert!(is_tidy(&window) && window.len() == 0);
    }

    #[test]
    fn a_handle_of_what_is_gone_means_nothing() {
        let mut window = window(10);
        let old = window.begin(&message("a"), at(0));
        assert!(window.failed(old).is_empty());
        let new = window.begin(&message("a"), at(0));
        assert_eq!(old.index, new.index, "the place is used again");
        assert!(window.reached(old, Status::Acked).is_empty() && window.failed(old).is_empty());
        assert_eq!(status(&mut window, "a"), Some(Status::Accepted));
    }

    #[test]
    fn the_window_is_as_long_as_it_says() {
        let mut window = window(10);
        let key = window.begin(&message("a"), at(0));
        window.begin(&message("b"), at(1));
        assert_eq!(window.reached(key, Status::Acked), [""; 0]);
        window.expire(at(599));
        assert_eq!((window.len(), window.next_expiry()), (2, Some(at(600))));
        window.expire(at(600));
        assert_eq!((status(&mut window, "a"), window.len()), (None, 1));
        window.expire(at(601));
        assert!(window.len() == 0 && is_tidy(&window) && window.next_expiry().is_none());
    }

    #[test]
    fn the_oldest_make_room() {
        let mut window = window(2);
        for id in ["a", "b", "c"] {
            window.begin(&message(id), at(0));
        }
        assert_eq!(status(&mut window, "a"), None);
        assert!(status(&mut window, "b").is_some() && status(&mut window, "c").is_some());
        window.set_limits(WINDOW, 1);
        assert!(status(&mut window, "b").is_none() && status(&mut window, "c").is_some());
        assert!(is_tidy(&window));
    }

    #[test]
    fn what_somebody_waits_for_is_known_though_its_time_is_over() {
        let mut window = window(1);
        let key = window.begin(&message("a"), at(0));
        window.seen(&message("a")).expect("it was sent").follow(Status::Acked, "waits");
        window.begin(&message("b"), at(0));
        window.begin(&message("c"), at(0));
        assert!(status(&mut window, "a").is_some(), "somebody waits for it");
        assert!(status(&mut window, "b").is_none(), "it made room");
        assert!(status(&mut window, "c").is_some(), "who waits takes no room");
        assert!(window.reached(key, Status::Stored).is_empty());
        assert_eq!(window.reached(key, Status::Acked), ["waits"]);
        assert!(status(&mut window, "a").is_none(), "nobody waits any more");
        assert!(is_tidy(&window));
    }

    #[test]
    fn who_waits_is_told_though_another_message_has_taken_the_place() {
        let mut window = window(2);
        let key = window.begin(&message("a"), at(0));
        window.seen(&message("a")).expect("it was sent").follow(Status::Acked, "waits");
        let again = window.begin(&message("a"), at(0));
        assert!(window.reached(again, Status::Acked).is_empty(), "that is another message");
        assert_eq!(window.reached(key, Status::Acked), ["waits"]);
        assert!(is_tidy(&window));
    }

    #[test]
    fn who_gives_up_waiting_leaves_nothing_behind() {
        let mut window = window(1);
        window.begin(&message("a"), at(0));
        let entry = window.seen(&message("a")).expect("it was sent");
        entry.follow(Status::Acked, "stays");
        entry.follow(Status::Acked, "goes");
        window.begin(&message("b"), at(0));
        window.retain_followers(|follower| *follower == "stays");
        assert!(!is_tidy(&window), "one still waits");
        window.retain_followers(|_| false);
        assert!(is_tidy(&window));
    }

    #[test]
    fn what_is_on_disk_is_remembered_for_the_rest_of_its_time() {
        let recent = |id: &str, arrived_s: u64| Recent {
            uid: 1_000,
            from: Some("lead".into()),
            to: "worker".into(),
            id: id.into(),
            status: Status::Stored,
            waits_for: None,
            arrived_unix_us: arrived_s * 1_000_000,
        };
        let mut window = window(10);
        let now = Now { moment: at(5), unix_us: 1_000_000_000 };
        window.recover([recent("old", 399), recent("a", 500), recent("future", 2_000)], now);
        assert_eq!(status(&mut window, "old"), None);
        assert_eq!(status(&mut window, "a"), Some(Status::Stored));
        window.expire(at(104));
        assert!(status(&mut window, "a").is_some());
        window.expire(at(105));
        assert!(status(&mut window, "a").is_none());
        window.expire(at(605));
        assert_eq!(window.len(), 0, "a clock that was set back makes nothing last longer");
    }

    /// A message that was sent, and who waits for what of it.
    struct Sent {
        id: String,
        key: RepetitionKey,
        status: Status,
        waiting: Vec<(Status, u32)>,
    }

    #[test]
    fn everybody_who_waits_is_told_once_whatever_happens_to_the_window() {
        let mut random = fastrand::Rng::with_seed(11);
        let mut window: Repetitions<u32> = Repetitions::new(WINDOW, 20, random.u64(..));
        let (mut sent, mut now, mut followers) = (Vec::<Sent>::new(), 0, 0);
        let mut waited_outside = 0;
        for _ in 0..50_000 {
            match random.u8(..10) {
                0..4 => {
                    let id = random.u8(..40).to_string();
                    match window.seen(&message(&id)) {
                        Some(entry) => {
                            let first = sent.iter_mut().rfind(|first| first.key == entry.key());
                            let first = first.expect("what is in the window was sent");
                            assert_eq!((&first.id, first.status), (&id, entry.status()));
                            let wanted = Status::ALL[random.usize(..4)];
                            if wanted > first.status {
                                followers += 1;
                                entry.follow(wanted, followers);
                                first.waiting.push((wanted, followers));
                            }
                        }
                        None => {
                            let key = window.begin(&message(&id), at(now));
                            sent.push(Sent { id, key, status: Status::Accepted, waiting: vec![] });
                        }
                    }
                }
                4..8 if !sent.is_empty() => {
                    let first = random.usize(..sent.len());
                    let status = Status::ALL[random.usize(..4)];
                    let first = &mut sent[first];
                    first.status = first.status.max(status);
                    let is_due = |waiting: &mut (Status, u32)| waiting.0 <= first.status;
                    let due: Vec<u32> = first
                        .waiting
                        .extract_if(.., is_due)
                        .map(|(_, follower)| follower)
                        .collect();
                    assert_eq!(window.reached(first.key, status), due);
                }
                8 if !sent.is_empty() => {
                    let Sent { id, key, waiting, .. } =
                        sent.swap_remove(random.usize(..sent.len()));
                    let is_leaving = window.entry_mut(key).is_some_and(|entry| entry.is_leaving);
                    waited_outside += usize::from(is_leaving);
                    let told = window.failed(key);
                    assert_eq!(
                        told,
                        waiting.iter().map(|(_, follower)| *follower).collect::<Vec<_>>()
                    );
                    assert!(window.seen(&message(&id)).is_none_or(|entry| entry.key() != key));
                }
                _ => {
                    now += random.u64(..30);
                    window.expire(at(now));
                    assert!(window.next_expiry().is_none_or(|next| next > at(now)));
                }
            }
            let waited_for = sent.iter().filter(|first| !first.waiting.is_empty()).count();
            assert!(window.len() <= 20 + waited_for);
            assert!(window.entries.len() - window.len() <= waited_for);
        }
        assert!(
            waited_outside > 50,
            "hardly anybody waited longer than the window: {waited_outside}"
        );
        for Sent { key, waiting, .. } in sent {
            assert_eq!(window.failed(key).len(), waiting.len());
        }
        assert!(is_tidy(&window) && window.len() == 0);
    }

    #[test]
    fn memory_is_bounded_in_bytes_too() {
        let mut window = window(1_000_000);
        let name = "n".repeat(8_000);
        for number in 0..20_000 {
            let id = number.to_string();
            window.begin(&Identity { uid: 1, from: Some(&name), to: &name, id: &id }, at(0));
        }
        assert!(window.bytes <= BYTES_MAX && window.len() > 1_000 && is_tidy(&window));
        let long = "n".repeat(KEY_BYTES_MAX);
        let endless = Identity { uid: 1, from: Some(&long), to: "x", id: "y" };
        let key = window.begin(&endless, at(0));
        assert!(window.seen(&endless).is_none() && window.failed(key).is_empty());
    }

    #[test]
    fn failures_leave_no_trace() {
        let mut window = window(100_000);
        for number in 0..10_000 {
            let id = number.to_string();
            let key = window.begin(&message(&id), at(0));
            assert!(window.failed(key).is_empty());
        }
        assert!(window.order.len() <= 65 && window.entries.is_empty() && window.bytes == 0);
    }
}

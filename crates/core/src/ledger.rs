//! Who uses how much: memory is charged to a user and to all, and refunded when it is free again.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

/// One budget.
#[derive(Debug)]
pub(crate) struct Ledger {
    used: usize,
    max: usize,
}

impl Ledger {
    pub(crate) fn new(max: usize) -> Self {
        Ledger { used: 0, max }
    }

    pub(crate) fn set_max(&mut self, max: usize) {
        self.max = max;
    }

    /// Raises the limit until it is set anew.
    pub(crate) fn allow_more(&mut self, bytes: usize) {
        self.max = self.max.saturating_add(bytes);
    }

    pub(crate) fn used(&self) -> usize {
        self.used
    }

    pub(crate) fn has_room_for(&self, bytes: usize) -> bool {
        self.used.saturating_add(bytes) <= self.max
    }

    /// Whether there would be room for `bytes` if `freed` of those in use were not.
    pub(crate) fn has_room_in_place_of(&self, freed: usize, bytes: usize) -> bool {
        self.used.saturating_sub(freed).saturating_add(bytes) <= self.max
    }

    pub(crate) fn is_full(&self) -> bool {
        self.used >= self.max
    }

    pub(crate) fn charge(&mut self, bytes: usize) {
        self.used += bytes;
    }

    pub(crate) fn refund(&mut self, bytes: usize) {
        debug_assert!(bytes <= self.used, "refunded more than was charged");
        self.used = self.used.saturating_sub(bytes);
    }
}

/// A user's place in a [`Budget`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct UserKey(usize);

/// One budget for all and one for each user. Users are few (the owner, root and those who are
/// allowed; strangers share the last place) and stay for good.
#[derive(Debug)]
pub(crate) struct Budget {
    total: Ledger,
    users: Vec<(u32, Ledger)>,
    user_max: usize,
}

impl Budget {
    pub(crate) fn new(user_max: usize, total_max: usize) -> Self {
        Budget { total: Ledger::new(total_max), users: Vec::new(), user_max }
    }

    pub(crate) fn user(&mut self, uid: u32) -> UserKey {
        let known = self.users.iter().position(|(user, _)| *user == uid);
        UserKey(known.unwrap_or_else(|| {
            self.users.push((uid, Ledger::new(self.user_max)));
            self.users.len() - 1
        }))
    }

    pub(crate) fn set_max(&mut self, user_max: usize, total_max: usize) {
        self.user_max = user_max;
        self.total.set_max(total_max);
        for (_, ledger) in &mut self.users {
            ledger.set_max(user_max);
        }
    }

    /// Whose place it is.
    pub(crate) fn uid(&self, user: UserKey) -> u32 {
        self.users[user.0].0
    }

    pub(crate) fn total(&self) -> &Ledger {
        &self.total
    }

    pub(crate) fn of_user(&self, user: UserKey) -> &Ledger {
        &self.users[user.0].1
    }

    pub(crate) fn has_room_for(&self, user: UserKey, bytes: usize) -> bool {
        self.total.has_room_for(bytes) && self.of_user(user).has_room_for(bytes)
    }

    pub(crate) fn charge(&mut self, user: UserKey, bytes: usize) {
        self.total.charge(bytes);
        self.users[user.0].1.charge(bytes);
    }

    pub(crate) fn refund(&mut self, user: UserKey, bytes: usize) {
        self.total.refund(bytes);
        self.users[user.0].1.refund(bytes);
    }
}

/// Bytes on disk: of all, and of each user who has any. What waits for an endpoint is its user's.
#[derive(Debug, Default)]
pub(crate) struct DiskUse {
    total: u64,
    users: BTreeMap<u32, u64>,
}

impl DiskUse {
    pub(crate) fn total(&self) -> u64 {
        self.total
    }

    pub(crate) fn of_user(&self, uid: u32) -> u64 {
        self.users.get(&uid).copied().unwrap_or(0)
    }

    pub(crate) fn charge(&mut self, uid: u32, bytes: u64) {
        self.total += bytes;
        *self.users.entry(uid).or_default() += bytes;
    }

    pub(crate) fn refund(&mut self, uid: u32, bytes: u64) {
        self.total = self.total.saturating_sub(bytes);
        let left = self.of_user(uid).saturating_sub(bytes);
        if left > 0 {
            self.users.insert(uid, left);
        } else {
            self.users.remove(&uid);
        }
    }
}

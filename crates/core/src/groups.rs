//! Which endpoints are members of which groups, and whose turn it is in each.
//!
//! A group is there as long as it has a member. Whether a member is present, and what it has to do
//! already, is for whoever asks to say.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::sync::Arc;
use alloc::vec::Vec;

use hashbrown::HashMap;

use crate::endpoint::EndpointKey;

/// The groups and their members.
pub(crate) struct Groups {
    groups: HashMap<Arc<str>, Group, foldhash::fast::FixedState>,
    /// The groups of each endpoint that is in any.
    memberships: BTreeMap<EndpointKey, BTreeSet<Arc<str>>>,
}

#[derive(Default)]
struct Group {
    /// In the order in which they joined.
    members: Vec<EndpointKey>,
    /// The place of the member whose turn it is, if several have as little to do.
    next: usize,
}

impl Group {
    fn remove(&mut self, endpoint: EndpointKey) {
        let Some(place) = self.members.iter().position(|member| *member == endpoint) else {
            return;
        };
        self.members.remove(place);
        if place < self.next {
            self.next -= 1;
        }
    }
}

impl Groups {
    /// Without groups.
    pub(crate) fn new(hash_seed: u64) -> Self {
        let hasher = foldhash::fast::FixedState::with_seed(hash_seed);
        Groups { groups: HashMap::with_hasher(hasher), memberships: BTreeMap::new() }
    }

    /// Makes an endpoint a member. False if it was one already.
    pub(crate) fn join(&mut self, group: &str, endpoint: EndpointKey) -> bool {
        let memberships = self.memberships.entry(endpoint).or_default();
        if memberships.contains(group) {
            return false;
        }
        let known = self.groups.get_key_value(group).map(|(name, _)| name.clone());
        let name = known.unwrap_or_else(|| group.into());
        memberships.insert(name.clone());
        self.groups.entry(name).or_default().members.push(endpoint);
        true
    }

    /// Ends a membership. False if there was none.
    pub(crate) fn leave(&mut self, group: &str, endpoint: EndpointKey) -> bool {
        let Some(memberships) = self.memberships.get_mut(&endpoint) else { return false };
        if !memberships.remove(group) {
            return false;
        }
        if memberships.is_empty() {
            self.memberships.remove(&endpoint);
        }
        self.remove_member(group, endpoint);
        true
    }

    /// Ends all memberships of an endpoint.
    pub(crate) fn remove(&mut self, endpoint: EndpointKey) {
        for group in self.memberships.remove(&endpoint).into_iter().flatten() {
            self.remove_member(&group, endpoint);
        }
    }

    fn remove_member(&mut self, group: &str, endpoint: EndpointKey) {
        let Some(entry) = self.groups.get_mut(group) else { return };
        entry.remove(endpoint);
        if entry.members.is_empty() {
            self.groups.remove(group);
        }
    }

    /// The groups of an endpoint, sorted.
    pub(crate) fn of(&self, endpoint: EndpointKey) -> impl Iterator<Item = &str> {
        self.memberships.get(&endpoint).into_iter().flatten().map(|group| &**group)
    }

    /// Whether an endpoint is in a group.
    pub(crate) fn is_member(&self, endpoint: EndpointKey, group: &str) -> bool {
        self.memberships.get(&endpoint).is_some_and(|groups| groups.contains(group))
    }

    /// How many groups an endpoint is in.
    pub(crate) fn count_of(&self, endpoint: EndpointKey) -> usize {
        self.memberships.get(&endpoint).map_or(0, BTreeSet::len)
    }

    /// The members of a group, in the order in which they joined; none if there is no such group.
    pub(crate) fn members(&self, group: &str) -> &[EndpointKey] {
        self.groups.get(group).map_or(&[], |group| &group.members)
    }

    /// The member that has the least to do, and then has had its turn. `loads` says how much that is for
    /// each of [`Groups::members`], or `None` for one that can take nothing now. Members with as little
    /// to do take turns.
    pub(crate) fn pick(&mut self, group: &str, loads: &[Option<u64>]) -> Option<EndpointKey> {
        let group = self.groups.get_mut(group)?;
        let count = group.members.len();
        let mut best: Option<(u64, usize)> = None;
        for step in 0..count {
            let place = (group.next + step) % count;
            let Some(load) = loads.get(place).copied().flatten() else { continue };
            if best.is_none_or(|(least, _)| load < least) {
                best = Some((load, place));
            }
        }
        let (_, place) = best?;
        group.next = place + 1;
        Some(group.members[place])
    }

    /// The members of a group with their places, the one whose turn it is first.
    pub(crate) fn in_turn(&self, group: &str) -> impl Iterator<Item = (usize, EndpointKey)> {
        let (members, next) =
            self.groups.get(group).map_or((&[][..], 0), |group| (&group.members[..], group.next));
        let (later, first) = members.split_at(next.min(members.len()));
        let places = (next..members.len()).chain(0..members.len());
        places.zip(first.iter().chain(later).copied())
    }

    /// The member of a group at this place has had its turn.
    pub(crate) fn had_turn(&mut self, group: &str, place: usize) {
        if let Some(group) = self.groups.get_mut(group) {
            group.next = place + 1;
        }
    }

    /// Every group with the number of its members, sorted.
    pub(crate) fn names(&self) -> Vec<(&str, usize)> {
        let mut names: Vec<(&str, usize)> =
            self.groups.iter().map(|(name, group)| (&**name, group.members.len())).collect();
        names.sort_unstable();
        names
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: usize) -> EndpointKey {
        EndpointKey(number)
    }

    fn of_three() -> Groups {
        let mut groups = Groups::new(1);
        for member in 1..=3 {
            assert!(groups.join("workers", key(member)));
        }
        groups
    }

    fn pick(
        groups: &mut Groups,
        group: &str,
        load: impl Fn(EndpointKey) -> Option<u64>,
    ) -> Option<EndpointKey> {
        let loads: Vec<_> = groups.members(group).iter().map(|member| load(*member)).collect();
        groups.pick(group, &loads)
    }

    fn picks(groups: &mut Groups, count: usize) -> Vec<usize> {
        let idle = |_| Some(0);
        (0..count).filter_map(|_| pick(groups, "workers", idle)).map(|member| member.0).collect()
    }

    #[test]
    fn idle_members_take_turns() {
        assert_eq!(picks(&mut of_three(), 7), [1, 2, 3, 1, 2, 3, 1]);
    }

    #[test]
    fn who_has_the_least_to_do_gets_it() {
        let mut groups = of_three();
        let load = |member: EndpointKey| Some([9, 5, 2, 7][member.0]);
        assert_eq!(pick(&mut groups, "workers", load), Some(key(2)));
        assert_eq!(
            pick(&mut groups, "workers", load),
            Some(key(2)),
            "again, though its turn is over"
        );
        let but_2 = |member: EndpointKey| load(member).filter(|_| member != key(2));
        assert_eq!(pick(&mut groups, "workers", but_2), Some(key(1)));
        assert_eq!(pick(&mut groups, "workers", |_| None), None);
        assert_eq!(pick(&mut groups, "strangers", load), None);
    }

    #[test]
    fn turns_go_on_when_a_member_leaves() {
        let mut groups = of_three();
        assert_eq!(picks(&mut groups, 2), [1, 2]);
        assert!(groups.leave("workers", key(1)));
        assert_eq!(picks(&mut groups, 3), [3, 2, 3]);
        groups.remove(key(3));
        groups.join("workers", key(4));
        assert_eq!(picks(&mut groups, 3), [4, 2, 4], "the new one stands where 3 had its turn");
    }

    #[test]
    fn members_are_listed_as_they_joined_and_groups_by_name() {
        let mut groups = of_three();
        assert!(!groups.join("workers", key(2)), "it is in already");
        groups.join("alpha", key(2));
        assert!(groups.leave("workers", key(1)) && groups.join("workers", key(1)));
        assert_eq!(groups.members("workers"), [key(2), key(3), key(1)]);
        assert_eq!(groups.of(key(2)).collect::<Vec<_>>(), ["alpha", "workers"]);
        assert_eq!((groups.count_of(key(2)), groups.count_of(key(9))), (2, 0));
        assert_eq!(groups.names(), [("alpha", 1), ("workers", 3)]);
    }

    #[test]
    fn nothing_is_left_of_a_group_without_members() {
        let mut groups = of_three();
        groups.join("alpha", key(1));
        assert!(!groups.leave("alpha", key(2)) && !groups.leave("beta", key(1)));
        assert!(groups.leave("alpha", key(1)));
        (1..=3).for_each(|member| groups.remove(key(member)));
        assert!(groups.groups.is_empty() && groups.memberships.is_empty());
        assert_eq!(groups.members("workers"), []);
    }
}

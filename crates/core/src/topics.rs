//! Who is subscribed to which topics.
//!
//! Patterns live in a tree of their parts, so that finding the subscribers of a topic costs as much as
//! it has parts and subscribers, however many other patterns there are. Nodes stand in a slab and the
//! ways between them in one hash table: nothing here recurses, and a node without a subscriber below it
//! is gone. Knows nothing of sessions or messages.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::hash::BuildHasher;

use hashbrown::HashTable;
use slab::Slab;

use crate::endpoint::EndpointKey;

/// Most nodes that all patterns together may take: about 100 MB. A pattern takes one for each part
/// that no other pattern begins with.
const NODES_MAX: usize = 1 << 20;

/// The node that every pattern begins at.
const ROOT: usize = 0;

/// When an endpoint began to be subscribed to anything: the order in which subscribers are found.
type Serial = u64;

/// Subscriptions of endpoints to patterns. Patterns are taken as they are: `*` as a part stands for
/// one part of a topic, `>` as the last part for one or more.
pub(crate) struct Topics {
    nodes: Slab<Node>,
    /// From a node and a part to the next node. The node itself says which two they are.
    edges: HashTable<usize>,
    hasher: foldhash::fast::FixedState,
    /// The endpoints that are subscribed to anything.
    subscribers: BTreeMap<EndpointKey, Subscriber>,
    serials: Serial,
    subscriptions: usize,
    /// Nodes at which what was read so far of a topic ends; kept for its memory.
    reached: Vec<usize>,
    /// Subscribers found so far; kept for its memory.
    found: Vec<(Serial, EndpointKey)>,
}

struct Subscriber {
    serial: Serial,
    /// Where each pattern ends.
    patterns: BTreeMap<Arc<str>, usize>,
}

struct Node {
    parent: usize,
    /// The part of the pattern that leads here from the parent.
    part: Box<str>,
    children: usize,
    /// The child for `*`.
    any: Option<usize>,
    /// The child for `>`.
    rest: Option<usize>,
    /// Those who hold the pattern that ends here.
    endpoints: BTreeMap<Serial, EndpointKey>,
    /// That pattern, while somebody holds it.
    pattern: Option<Arc<str>>,
}

impl Node {
    fn new(parent: usize, part: &str) -> Self {
        Node {
            parent,
            part: part.into(),
            children: 0,
            any: None,
            rest: None,
            endpoints: BTreeMap::new(),
            pattern: None,
        }
    }
}

impl Topics {
    /// Without subscriptions.
    pub(crate) fn new(hash_seed: u64) -> Self {
        let mut nodes = Slab::new();
        let root = nodes.insert(Node::new(ROOT, ""));
        debug_assert_eq!(root, ROOT, "a slab begins at 0");
        Topics {
            nodes,
            edges: HashTable::new(),
            hasher: foldhash::fast::FixedState::with_seed(hash_seed),
            subscribers: BTreeMap::new(),
            serials: 0,
            subscriptions: 0,
            reached: Vec::new(),
            found: Vec::new(),
        }
    }

    /// Subscribes an endpoint. False if it held this pattern already.
    pub(crate) fn subscribe(&mut self, endpoint: EndpointKey, pattern: &str) -> bool {
        let held = self.subscribers.get(&endpoint);
        if held.is_some_and(|subscriber| subscriber.patterns.contains_key(pattern)) {
            return false;
        }
        let end = self.node_of(pattern);
        let node = &mut self.nodes[end];
        let pattern = node.pattern.get_or_insert_with(|| pattern.into()).clone();
        let subscriber = self.subscribers.entry(endpoint).or_insert_with(|| {
            self.serials += 1;
            Subscriber { serial: self.serials, patterns: BTreeMap::new() }
        });
        node.endpoints.insert(subscriber.serial, endpoint);
        subscriber.patterns.insert(pattern, end);
        self.subscriptions += 1;
        true
    }

    /// Ends a subscription. False if the endpoint did not hold this pattern.
    pub(crate) fn unsubscribe(&mut self, endpoint: EndpointKey, pattern: &str) -> bool {
        let Some(subscriber) = self.subscribers.get_mut(&endpoint) else { return false };
        let Some(end) = subscriber.patterns.remove(pattern) else { return false };
        let serial = subscriber.serial;
        if subscriber.patterns.is_empty() {
            self.subscribers.remove(&endpoint);
        }
        self.leave(end, serial);
        true
    }

    /// Ends all subscriptions of an endpoint.
    pub(crate) fn remove(&mut self, endpoint: EndpointKey) {
        let Some(subscriber) = self.subscribers.remove(&endpoint) else { return };
        for end in subscriber.patterns.into_values() {
            self.leave(end, subscriber.serial);
        }
    }

    /// The patterns that an endpoint holds, sorted.
    pub(crate) fn of(&self, endpoint: EndpointKey) -> impl Iterator<Item = &str> {
        let patterns = self.subscribers.get(&endpoint).map(|subscriber| subscriber.patterns.keys());
        patterns.into_iter().flatten().map(|pattern| &**pattern)
    }

    /// Whether an endpoint holds a pattern.
    pub(crate) fn holds(&self, endpoint: EndpointKey, pattern: &str) -> bool {
        let subscriber = self.subscribers.get(&endpoint);
        subscriber.is_some_and(|subscriber| subscriber.patterns.contains_key(pattern))
    }

    /// How many patterns an endpoint holds.
    pub(crate) fn count_of(&self, endpoint: EndpointKey) -> usize {
        self.subscribers.get(&endpoint).map_or(0, |subscriber| subscriber.patterns.len())
    }

    /// Appends the endpoints that are subscribed to `topic`, each once, in the order in which they
    /// began to be subscribed to anything.
    pub(crate) fn matching(&mut self, topic: &str, into: &mut Vec<EndpointKey>) {
        let Topics { nodes, reached, found, .. } = self;
        if nodes[ROOT].children == 0 {
            return;
        }
        let mut reached = core::mem::take(reached);
        let mut found = core::mem::take(found);
        reached.push(ROOT);
        for part in topic.split('.') {
            // What is reached with this part comes behind what was reached before it, and takes its place.
            let before = reached.len();
            for place in 0..before {
                let node = &self.nodes[reached[place]];
                found.extend(node.rest.iter().flat_map(|rest| self.holders(*rest)));
                reached.extend(node.any);
                // One whose only way on is `*` or `>` needs no looking up.
                if node.children
                    > usize::from(node.any.is_some()) + usize::from(node.rest.is_some())
                {
                    reached.extend(self.child(reached[place], part));
                }
            }
            reached.drain(..before);
        }
        found.extend(reached.iter().flat_map(|end| self.holders(*end)));
        // Who holds several patterns that fit is found as often, always with the same serial.
        found.sort_unstable();
        found.dedup();
        into.extend(found.iter().map(|(_, endpoint)| *endpoint));
        reached.clear();
        found.clear();
        (self.reached, self.found) = (reached, found);
    }

    #[cfg(test)]
    /// Every pattern that somebody holds, sorted, with the number of its holders.
    pub(crate) fn patterns(&self) -> Vec<(&str, usize)> {
        let with_holders = self.nodes.iter().filter_map(|(_, node)| {
            node.pattern.as_ref().map(|pattern| (&**pattern, node.endpoints.len()))
        });
        let mut patterns: Vec<(&str, usize)> = with_holders.collect();
        patterns.sort_unstable();
        patterns
    }

    #[cfg(test)]
    /// The number of subscriptions.
    pub(crate) fn len(&self) -> usize {
        self.subscriptions
    }

    /// Whether there is memory for one more subscription, whatever its pattern.
    pub(crate) fn has_room(&self) -> bool {
        // A pattern of 255 bytes has 128 parts at most.
        self.nodes.len() + hermes_bus_proto::limits::ADDRESS_BYTES_MAX <= NODES_MAX
    }

    fn holders(&self, end: usize) -> impl Iterator<Item = (Serial, EndpointKey)> {
        self.nodes[end].endpoints.iter().map(|(serial, endpoint)| (*serial, *endpoint))
    }

    fn child(&self, parent: usize, part: &str) -> Option<usize> {
        let is_it = |key: &usize| {
            let node = &self.nodes[*key];
            node.parent == parent && *node.part == *part
        };
        self.edges.find(self.hash(parent, part), is_it).copied()
    }

    fn hash(&self, parent: usize, part: &str) -> u64 {
        self.hasher.hash_one((parent, part))
    }

    /// The node at which a pattern ends, made with those on the way to it where there is none.
    fn node_of(&mut self, pattern: &str) -> usize {
        let mut at = ROOT;
        for part in pattern.split('.') {
            at = self.child(at, part).unwrap_or_else(|| self.add_child(at, part));
        }
        at
    }

    fn add_child(&mut self, parent: usize, part: &str) -> usize {
        let key = self.nodes.insert(Node::new(parent, part));
        self.nodes[parent].children += 1;
        match part {
            "*" => self.nodes[parent].any = Some(key),
            ">" => self.nodes[parent].rest = Some(key),
            _ => {}
        }
        let Topics { nodes, hasher, .. } = self;
        let hash = hasher.hash_one((parent, part));
        let rehash = |key: &usize| hasher.hash_one((nodes[*key].parent, &*nodes[*key].part));
        self.edges.insert_unique(hash, key, rehash);
        key
    }

    /// Takes an endpoint from where a pattern of its ends, and the nodes that nobody needs any more.
    fn leave(&mut self, end: usize, serial: Serial) {
        self.subscriptions -= 1;
        let node = &mut self.nodes[end];
        node.endpoints.remove(&serial);
        if !node.endpoints.is_empty() {
            return;
        }
        node.pattern = None;
        let mut at = end;
        while at != ROOT && self.nodes[at].children == 0 && self.nodes[at].endpoints.is_empty() {
            let Node { parent, part, .. } = self.nodes.remove(at);
            let hash = self.hash(parent, &part);
            if let Ok(edge) = self.edges.find_entry(hash, |key| *key == at) {
                edge.remove();
            }
            let parent_node = &mut self.nodes[parent];
            parent_node.children -= 1;
            match &*part {
                "*" => parent_node.any = None,
                ">" => parent_node.rest = None,
                _ => {}
            }
            at = parent;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: usize) -> EndpointKey {
        EndpointKey(number)
    }

    fn matching(topics: &mut Topics, topic: &str) -> Vec<usize> {
        let mut found = Vec::new();
        topics.matching(topic, &mut found);
        found.into_iter().map(|endpoint| endpoint.0).collect()
    }

    fn is_empty(topics: &Topics) -> bool {
        topics.len() == 0
            && topics.nodes.len() == 1
            && topics.nodes[ROOT].children == 0
            && topics.edges.is_empty()
            && topics.subscribers.is_empty()
    }

    #[test]
    fn a_star_is_one_part_and_an_arrow_at_least_one() {
        let mut topics = Topics::new(1);
        for (number, pattern) in
            ["build.done", "build.*", "build.>", "*.done", ">", "*.*.*", "build.*.done"]
                .iter()
                .enumerate()
        {
            assert!(topics.subscribe(key(number), pattern));
        }
        assert_eq!(matching(&mut topics, "build.done"), [0, 1, 2, 3, 4]);
        assert_eq!(matching(&mut topics, "build"), [4]);
        assert_eq!(matching(&mut topics, "build.x.done"), [2, 4, 5, 6]);
        assert_eq!(matching(&mut topics, "build.x.y.done"), [2, 4]);
        assert_eq!(matching(&mut topics, "Build.done"), [3, 4]);
    }

    #[test]
    fn each_endpoint_is_found_once_in_the_order_in_which_they_came() {
        let mut topics = Topics::new(1);
        topics.subscribe(key(7), "a.b");
        topics.subscribe(key(3), ">");
        topics.subscribe(key(5), "a.*");
        topics.subscribe(key(3), "a.b");
        topics.subscribe(key(7), "*.b");
        assert_eq!(matching(&mut topics, "a.b"), [7, 3, 5]);
        topics.remove(key(7));
        topics.subscribe(key(7), "a.b");
        assert_eq!(matching(&mut topics, "a.b"), [3, 5, 7], "who left comes last");
    }

    #[test]
    fn what_is_held_twice_is_held_once() {
        let mut topics = Topics::new(1);
        assert!(topics.subscribe(key(1), "a"));
        assert!(!topics.subscribe(key(1), "a"));
        assert_eq!((topics.len(), topics.count_of(key(1))), (1, 1));
        assert!(topics.unsubscribe(key(1), "a"));
        assert!(!topics.unsubscribe(key(1), "a"));
        assert!(is_empty(&topics));
    }

    #[test]
    fn listings_are_sorted() {
        let mut topics = Topics::new(1);
        for pattern in ["b", "a.>", "a"] {
            topics.subscribe(key(1), pattern);
        }
        topics.subscribe(key(2), "b");
        assert_eq!(topics.of(key(1)).collect::<Vec<_>>(), ["a", "a.>", "b"]);
        assert_eq!(topics.of(key(3)).count(), 0);
        assert_eq!(topics.patterns(), [("a", 1), ("a.>", 1), ("b", 2)]);
    }

    /// What the tree must do, said the plain way.
    fn fits(pattern: &str, topic: &str) -> bool {
        let (pattern, topic): (Vec<&str>, Vec<&str>) =
            (pattern.split('.').collect(), topic.split('.').collect());
        let (open, fixed) = match pattern.split_last() {
            Some((&">", fixed)) => (true, fixed),
            _ => (false, &pattern[..]),
        };
        let long_enough = if open { topic.len() > fixed.len() } else { topic.len() == fixed.len() };
        long_enough && fixed.iter().zip(&topic).all(|(part, word)| *part == "*" || part == word)
    }

    #[test]
    fn the_tree_agrees_with_the_plain_way_and_leaves_nothing_behind() {
        let mut random = fastrand::Rng::with_seed(7);
        let mut topics = Topics::new(random.u64(..));
        let mut plain: Vec<(usize, String)> = Vec::new();
        let mut matched = 0;
        for _ in 0..20_000 {
            let parts = random.usize(1..5);
            let mut words: Vec<&str> = (0..parts)
                .map(|_| random.choice(["a", "b", "c"]))
                .map(|word| word.unwrap_or("a"))
                .collect();
            let topic = words.join(".");
            match random.u8(..4) {
                0 => {
                    for word in &mut words {
                        if random.u8(..3) == 0 {
                            *word = "*";
                        }
                    }
                    if random.bool() {
                        *words.last_mut().expect("one part at least") = ">";
                    }
                    let (endpoint, pattern) = (random.usize(..20), words.join("."));
                    let is_new = !plain.contains(&(endpoint, pattern.clone()));
                    assert_eq!(topics.subscribe(key(endpoint), &pattern), is_new);
                    if is_new {
                        plain.push((endpoint, pattern));
                    }
                }
                1 if !plain.is_empty() => {
                    let (endpoint, pattern) = plain.remove(random.usize(..plain.len()));
                    assert!(topics.unsubscribe(key(endpoint), &pattern));
                }
                2 if random.u8(..20) == 0 => {
                    let gone = random.usize(..20);
                    plain.retain(|(endpoint, _)| *endpoint != gone);
                    topics.remove(key(gone));
                }
                _ => {
                    let mut expected: Vec<usize> = plain
                        .iter()
                        .filter(|(_, pattern)| fits(pattern, &topic))
                        .map(|(endpoint, _)| *endpoint)
                        .collect();
                    expected.sort_unstable();
                    expected.dedup();
                    let mut found = matching(&mut topics, &topic);
                    found.sort_unstable();
                    assert_eq!(found, expected, "{topic}");
                    matched += found.len();
                }
            }
            assert_eq!(topics.len(), plain.len());
        }
        assert!(matched > 1_000, "the patterns hardly ever fit: {matched}");
        (0..20).for_each(|endpoint| topics.remove(key(endpoint)));
        assert!(is_empty(&topics));
    }

    #[test]
    fn long_patterns_do_not_fill_the_memory() {
        let mut topics = Topics::new(1);
        let mut number = 0;
        while topics.has_room() {
            let pattern = format!("{number}{}", ".a".repeat(120));
            assert!(topics.subscribe(key(number / 1_000), &pattern));
            number += 1;
        }
        assert!(topics.nodes.len() <= NODES_MAX);
        assert_eq!(matching(&mut topics, &format!("5{}", ".a".repeat(120))), [0]);
    }
}

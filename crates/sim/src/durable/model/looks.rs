//! What those must see who look on or subscribe: every message once, or a gap.

use std::collections::BTreeSet;

use serde_json::Value;

use super::super::script::{PATTERNS, TOPICS, To};
use super::facts::matches;
use super::{Checked, Copy, LinkId, Model, ensure};

/// What a session that looks on has been shown.
#[derive(Clone, Debug, Default)]
pub(super) struct Looking {
    /// What was taken behind this place in the order of all is to be shown; none while it does not look.
    since: Option<u64>,
    newest: u64,
    seen: BTreeSet<u64>,
}

/// What a session is to get without being addressed, and what it has been told that it missed.
#[derive(Clone, Debug, Default)]
pub(super) struct Gaps {
    /// Messages of topics and broadcasts.
    wanted: [BTreeSet<u64>; 2],
    /// Those that it may get.
    possible: [u64; 2],
    told: [u64; 2],
    told_tap: u64,
}

const TOPIC: usize = 0;
const BROADCAST: usize = 1;

impl Model {
    /// A message has been taken: who is subscribed to it, or there, gets it.
    pub(in super::super) fn routed(&mut self, n: u64) {
        let Some(sent) = self.sent.get(&n) else { return };
        let (source, topic) = match sent.to {
            To::Topic(place) => (TOPIC, Some(TOPICS[place as usize])),
            To::Everyone => (BROADCAST, None),
            To::Name(_) | To::Group(_) => return,
        };
        // Whatever it asks for may have it refused, or take it away in time.
        let is_plain = sent.asks == super::Asks::default();
        for (link, session) in self.sessions.iter().filter(|(_, session)| !session.is_over) {
            let has_asked = topic.is_none_or(|topic| {
                PATTERNS.iter().enumerate().any(|(place, pattern)| {
                    session.topics & 1 << place != 0 && matches(pattern, topic)
                })
            });
            let gaps = self.gaps.entry(*link).or_default();
            gaps.possible[source] += 1;
            if session.level_2 && is_plain && has_asked {
                gaps.wanted[source].insert(n);
            }
        }
    }

    /// A session is told that it has missed something.
    pub(in super::super) fn told_of_gap(&mut self, link: LinkId, frame: &Value) -> Checked {
        let count = frame["count"].as_u64().unwrap_or(0);
        ensure!(count > 0, "gap", "{frame} to #{link}");
        let gaps = self.gaps.entry(link).or_default();
        let source = frame["source"].as_str();
        *self.kinds.entry(format!("gap {}", source.unwrap_or_default())).or_default() += 1;
        match source {
            Some("topic") => gaps.told[TOPIC] += count,
            Some("broadcast") => gaps.told[BROADCAST] += count,
            Some("tap") => gaps.told_tap += count,
            _ => ensure!(false, "gap", "{frame} to #{link}"),
        }
        for source in [TOPIC, BROADCAST] {
            let (told, possible) = (gaps.told[source], gaps.possible[source]);
            ensure!(told <= possible, "gap", "{frame} to #{link}: {told} of {possible} messages");
        }
        Ok(())
    }

    /// A session begins to look at messages, or does not look any more.
    pub(in super::super) fn looks(&mut self, link: LinkId, at_messages: bool) {
        let uid_may = self.sessions.get(&link).is_some_and(|session| session.endpoint != 4);
        let since = self.orders;
        let looking = self.looking.entry(link).or_default();
        if !at_messages || looking.since.is_none() {
            looking.since = (at_messages && uid_may).then_some(since);
        }
    }

    /// A session is shown a message of others.
    pub(in super::super) fn shown(&mut self, link: LinkId, frame: &Value) -> Checked {
        let n = frame["message"]["n"].as_u64().unwrap_or(u64::MAX);
        let taken = self.sent.get(&n).and_then(|sent| sent.taken);
        let Some(taken) = taken else {
            ensure!(false, "tap", "{frame} was never taken");
            return Ok(());
        };
        let looking = self.looking.entry(link).or_default();
        ensure!(looking.newest < taken.order, "tap", "{frame} comes behind a later one to #{link}");
        looking.newest = taken.order;
        looking.seen.insert(n);
        Ok(())
    }

    /// A session is told that an endpoint has come or gone.
    pub(in super::super) fn told_presence(&mut self, link: LinkId, frame: &Value) -> Checked {
        let name = frame["endpoint"].as_str().unwrap_or_default().to_owned();
        let is_online = frame["state"] == "online";
        let before = self.present.insert((link, name), is_online);
        let is_news = is_online || before != Some(false);
        ensure!(is_news, "presence", "{frame} to #{link}, which has heard so");
        Ok(())
    }

    /// Everything has arrived: nobody has missed anything without a word.
    pub(in super::super) fn check_gaps(&self, is_there: impl Fn(LinkId) -> bool) -> Checked {
        for (link, gaps) in self.gaps.iter().filter(|(link, _)| is_there(**link)) {
            let Some(session) = self.sessions.get(link).filter(|session| !session.is_over) else {
                continue;
            };
            // What waited in memory only is removed without a trace on disk.
            let is_excused = self.has_failed || self.removed_from.contains(&session.endpoint);
            for source in [TOPIC, BROADCAST] {
                let copy = |n: &u64| Copy::To(*n, session.endpoint);
                let has_come = |n: &u64| {
                    let handed = self.handed.get(&copy(n)).into_iter().flatten();
                    handed.into_iter().any(|one| one.link == *link)
                };
                let is_missing = |n: &&u64| !has_come(n) && !self.rejected.contains(&copy(n));
                let missing: Vec<&u64> = gaps.wanted[source].iter().filter(is_missing).collect();
                let told = gaps.told[source];
                ensure!(
                    missing.len() as u64 <= told || is_excused,
                    "gap",
                    "#{link} has missed {missing:?}, and was told of {told}"
                );
            }
        }
        for (link, looking) in self.looking.iter().filter(|(link, _)| is_there(**link)) {
            let (Some(since), Some(session)) = (looking.since, self.sessions.get(link)) else {
                continue;
            };
            if session.is_over {
                continue;
            }
            let to_see = |n: &u64| {
                let taken = self.sent.get(n).and_then(|sent| sent.taken);
                taken.is_some_and(|taken| taken.order > since && taken.process == self.process)
            };
            // What the owner tries again was shown when it came, if it was not refused.
            let came = self.handed.keys().filter(|copy| !self.is_retried(**copy));
            let came = came.map(|copy| copy.message());
            let came: BTreeSet<u64> = came.filter(to_see).collect();
            let unseen = came.difference(&looking.seen).count() as u64;
            let told = self.gaps.get(link).map_or(0, |gaps| gaps.told_tap);
            ensure!(
                unseen <= told,
                "tap",
                "#{link} was not shown {unseen}, and was told of {told}"
            );
        }
        Ok(())
    }
}

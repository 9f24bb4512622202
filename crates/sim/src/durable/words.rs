//! What clients say.

use super::model::{Model, Sent};
use super::script::{GROUPS, Join, Look, NAMES, PATTERNS, TOPICS, To};

/// A session asks for its name.
pub(super) fn words_of_join(join: &Join) -> String {
    let name = NAMES[join.name as usize];
    if !join.level_2 {
        return format!("{{\"type\":\"register\",\"endpoint\":\"{name}\"}}");
    }
    let Join { ack, in_flight, mailbox, topics, groups, conflict, .. } = join;
    let conflict = conflict.as_str();
    format!(
        "{{\"type\":\"register\",\"endpoint\":\"{name}\",\"protocol\":2,\"ack\":{ack},\
         \"in_flight\":{in_flight},\"mailbox\":{mailbox},\"conflict\":\"{conflict}\"{}}}",
        lists(*topics, *groups)
    )
}

/// The lists of topics and groups of a frame.
pub(super) fn lists(topics: u8, groups: u8) -> String {
    let pick = |all: &[&str], bits: u8| {
        let picked = all.iter().enumerate().filter(|(place, _)| bits & 1 << place != 0);
        let quoted: Vec<String> = picked.map(|(_, name)| format!("\"{name}\"")).collect();
        quoted.join(",")
    };
    format!(",\"topics\":[{}],\"groups\":[{}]", pick(PATTERNS, topics), pick(GROUPS, groups))
}

/// A message. It begins with its number.
pub(super) fn words_of_message(sent: &Sent) -> String {
    let to = match sent.to {
        To::Name(name) => NAMES[name as usize].to_owned(),
        To::Group(group) => format!("@{}", GROUPS[group as usize]),
        To::Topic(topic) => format!("#{}", TOPICS[topic as usize]),
        To::Everyone => String::new(),
    };
    let mut text = format!("{{\"type\":\"message\",\"n\":{}", sent.n);
    if !sent.is_anonymous {
        text += &format!(",\"id\":\"{}\"", Model::id_of(sent));
    }
    text += &format!(",\"to\":\"{to}\"");
    if let Some(receipt) = sent.asks.receipt {
        text += &format!(",\"receipt\":\"{}\"", receipt.as_str());
    }
    if sent.asks.queue {
        text += ",\"queue\":true";
    }
    if let Some(ttl_ms) = sent.asks.ttl_ms {
        text += &format!(",\"ttl_s\":{}", f64::from(ttl_ms) / 1_000.0);
    }
    text += &format!(",\"body\":\"{}\"}}", "x".repeat(sent.body_bytes));
    text
}

/// A session looks on from now on.
pub(super) fn words_of_watch(look: Look) -> String {
    let is_presence = look == Look::Presence;
    let tap = if look == Look::Messages { "messages" } else { "none" };
    format!("{{\"type\":\"watch\",\"presence\":{is_presence},\"tap\":\"{tap}\"}}")
}

//! Values that are lists or mappings: users, names of endpoints, and levels of log targets.

use hermes_bus_proto::EndpointName;

use super::error::{Fault, shown};
use super::scalars::{LEVELS, level_words, parse_count, parse_word};
use super::yaml::{Content, Node};
use crate::logging::{Level, TARGETS};

/// Most users, protected names and log targets that may be listed.
pub(super) const LIST_MAX: usize = 1_000;

/// The items of a list; none where nothing is written.
pub(super) fn items<'n>(node: &'n Node, form: &str) -> Result<&'n [Node], Vec<Fault>> {
    let fault = |what| Err(vec![Fault::new(node.at, what)]);
    match &node.content {
        Content::Null => Ok(&[]),
        Content::List(items) if items.len() > LIST_MAX => {
            fault(format!("{} items are over the limit of {LIST_MAX}", items.len()))
        }
        Content::List(items) => Ok(items),
        _ => fault(format!("must be {form}, not {}", node.kind())),
    }
}

/// A user's id.
pub(super) fn read_uid(node: &Node) -> Result<u32, Fault> {
    let Content::Text(text) = &node.content else {
        return Err(Fault::new(node.at, format!("a user id is a number, not {}", node.kind())));
    };
    // The largest number means "no user" to the kernel.
    let uid = parse_count(text).ok().and_then(|uid| u32::try_from(uid).ok());
    uid.filter(|uid| *uid != u32::MAX).ok_or_else(|| {
        let what = format!("'{}' is no user id (a number up to {})", shown(text), u32::MAX - 1);
        Fault::new(node.at, what)
    })
}

pub(super) fn read_users(node: &Node) -> Result<Vec<u32>, Vec<Fault>> {
    let mut users = Vec::new();
    let mut faults = Vec::new();
    for item in items(node, "a list of user ids ([1000, 1001])")? {
        match read_uid(item) {
            Ok(uid) if users.contains(&uid) => {}
            Ok(uid) => users.push(uid),
            Err(fault) => faults.push(fault),
        }
    }
    if faults.is_empty() { Ok(users) } else { Err(faults) }
}

pub(super) fn read_names(node: &Node) -> Result<Vec<String>, Vec<Fault>> {
    let mut names = Vec::new();
    let mut faults = Vec::new();
    for item in items(node, "a list of names ([worker, lead])")? {
        match read_name(item) {
            Ok(name) if names.contains(&name) => {}
            Ok(name) => names.push(name),
            Err(fault) => faults.push(fault),
        }
    }
    if faults.is_empty() { Ok(names) } else { Err(faults) }
}

/// The name of an endpoint.
pub(super) fn read_name(node: &Node) -> Result<String, Fault> {
    let fault = |what: String| Err(Fault::new(node.at, what));
    match &node.content {
        Content::Text(name) if name.is_empty() => fault("a name must not be empty".to_owned()),
        Content::Text(name) => match EndpointName::level_1(name) {
            Ok(_) => Ok(name.clone()),
            Err(error) => fault(error.to_string()),
        },
        _ => fault(format!("a name is a text, not {}", node.kind())),
    }
}

pub(super) fn read_levels(node: &Node) -> Result<Vec<(String, Level)>, Vec<Fault>> {
    let words = level_words();
    let entries = match &node.content {
        Content::Null => return Ok(Vec::new()),
        Content::Mapping(entries) if entries.len() <= LIST_MAX => entries,
        Content::Mapping(entries) => {
            let what = format!("{} targets are over the limit of {LIST_MAX}", entries.len());
            return Err(vec![Fault::new(node.at, what)]);
        }
        _ => {
            let what = format!("must be a mapping (router: debug), not {}", node.kind());
            return Err(vec![Fault::new(node.at, what)]);
        }
    };
    let mut levels = Vec::new();
    let mut faults = Vec::new();
    for entry in entries {
        if !TARGETS.contains(&entry.key.as_str()) {
            let targets = TARGETS.join(", ");
            let what = format!("'{}' is not one of the targets {targets}", shown(&entry.key));
            faults.push(Fault::new(entry.key_at, what));
            continue;
        }
        let level = match &entry.value.content {
            Content::Text(text) => parse_word(text, &words),
            _ => Err(format!("must be one of {}, not {}", words.join(", "), entry.value.kind())),
        };
        match level {
            Ok(index) => levels.push((entry.key.clone(), LEVELS[index].1)),
            Err(what) => faults.push(Fault::new(entry.value.at, what)),
        }
    }
    levels.sort();
    if faults.is_empty() { Ok(levels) } else { Err(faults) }
}

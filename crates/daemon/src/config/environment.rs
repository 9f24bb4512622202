//! The environment's part of a configuration, and names that somebody may have meant.

use std::ffi::{OsStr, OsString};

use hermes_bus_client::nearest;

use super::keys::{GROUPS, KEYS, Key};

const PREFIX: &str = "HERMES_BUS_";

/// Variables of the bus that are no keys, and beginnings of such.
const OTHERS: [&str; 9] =
    ["ROOT", "HOOKS", "CONFIG", "ENDPOINT", "SERVER", "SOCKET", "DEMO_", "PLUGIN_", "MESSAGE_"];

/// A variable that sets a key.
pub(super) struct Variable {
    pub(super) key: &'static Key,
    pub(super) name: String,
    /// What it says, or why that cannot be read.
    pub(super) value: Result<String, String>,
}

/// What the environment says.
pub(super) struct Environment {
    pub(super) settings: Vec<Variable>,
    pub(super) warnings: Vec<String>,
}

/// Finds the variables that set keys, in the order of the table. One that is empty counts as unset.
pub(super) fn read(variables: &[(OsString, OsString)]) -> Environment {
    let mut settings = Vec::new();
    for key in KEYS {
        let name = key.variable();
        let is_it = |(known, value): &&(OsString, OsString)| *known == *name && !value.is_empty();
        if let Some((_, value)) = variables.iter().find(is_it) {
            let value = value.to_str().map(str::to_owned).ok_or("holds no UTF-8".to_owned());
            settings.push(Variable { key, name, value });
        }
    }
    let set = variables.iter().filter(|(_, value)| !value.is_empty());
    let mut warnings: Vec<String> = set.filter_map(|(name, _)| misspelt(name)).collect();
    warnings.sort();
    Environment { settings, warnings }
}

/// A warning, if this looks like the variable of a key and is none.
fn misspelt(variable: &OsStr) -> Option<String> {
    let variable = variable.to_str()?;
    let name = variable.strip_prefix(PREFIX)?;
    let is_other = |other: &str| name == other || other.ends_with('_') && name.starts_with(other);
    let names: Vec<String> = KEYS.iter().map(Key::variable).collect();
    if OTHERS.iter().any(|other| is_other(other)) || names.iter().any(|known| known == variable) {
        return None;
    }
    let ending = |full: &'static Key| full.name.replace('.', "_").to_ascii_uppercase();
    let meant = KEYS.iter().find(|key| ending(key) == name).map(Key::variable).or_else(|| {
        let names = names.iter().filter_map(|known| known.strip_prefix(PREFIX));
        nearest(name, names).first().map(|near| format!("{PREFIX}{near}"))
    })?;
    Some(format!("{variable} is no setting of the bus (did you mean {meant}?)"))
}

/// The key or group that was probably meant by a name that is none.
pub(super) fn suggest(name: &str) -> Option<String> {
    /// Longer ones are no slips.
    const NAME_BYTES_MAX: usize = 64;
    if name.len() > NAME_BYTES_MAX {
        return None;
    }
    let groups = || GROUPS.iter().map(|group| group.name);
    let (group, leaf) = match name.split_once('.') {
        Some((group, leaf)) => (nearest(group, groups()).first().copied(), leaf),
        None => (None, name),
    };
    let in_group = |key: &&Key| group.is_none_or(|group| key.group() == group);
    // `max_bytes` is `bytes_max` to most people.
    let exact = || KEYS.iter().filter(in_group).find(|key| words(key.leaf()) == words(leaf));
    let near = || {
        let leaves = KEYS.iter().filter(in_group).map(Key::leaf);
        let near = *nearest(leaf, leaves).first()?;
        KEYS.iter().filter(in_group).find(|key| key.leaf() == near)
    };
    let anywhere = || KEYS.iter().find(|key| words(key.leaf()) == words(leaf));
    if group.is_none()
        && let Some(key) = exact()
    {
        return Some(key.name.to_owned());
    }
    if !name.contains('.')
        && let Some(group) = nearest(name, groups()).first()
    {
        return Some((*group).to_owned());
    }
    exact().or_else(near).or_else(anywhere).map(|key| key.name.to_owned())
}

/// The words of a name in an order of their own.
fn words(name: &str) -> Vec<&str> {
    let mut words: Vec<&str> = name.split('_').collect();
    words.sort_unstable();
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_in_keys_are_recognised() {
        for (wrong, meant) in [
            ("sessions.lingr", "sessions.linger"),
            ("session.linger", "sessions.linger"),
            ("sesions.hartbeat", "sessions.heartbeat"),
            ("linger", "sessions.linger"),
            ("queue", "queues"),
            ("hooks.stall", "queues.stall"),
            ("log.levle", "log.level"),
            ("queues.max_bytes", "queues.bytes_max"),
        ] {
            assert_eq!(suggest(wrong).as_deref(), Some(meant), "{wrong}");
        }
        for stranger in ["zebra", "log.zebra", "", "x.y.z", &"linger".repeat(50)] {
            assert_eq!(suggest(stranger), None, "{stranger}");
        }
    }

    #[test]
    fn variables_that_look_like_keys_are_warned_of_and_others_are_not() {
        let warning = |name: &str| misspelt(OsStr::new(name));
        let meant =
            |name| warning(name).and_then(|text| Some(text.split_once("mean ")?.1.to_owned()));
        let linger = Some("HERMES_BUS_SESSIONS_LINGER?)".to_owned());
        assert_eq!(meant("HERMES_BUS_SESSION_LINGER"), linger);
        assert_eq!(meant("HERMES_BUS_LINGER"), linger);
        assert_eq!(meant("HERMES_BUS_LOG_LEVEL"), Some("HERMES_BUS_LOG?)".to_owned()));
        for other in [
            "HERMES_BUS_ROOT",
            "HERMES_BUS_HOOKS",
            "HERMES_BUS_CONFIG",
            "HERMES_BUS_LOG",
            "HERMES_BUS_ENDPOINT",
            "HERMES_BUS_PLUGIN_TOOLSET",
            "HERMES_BUS_MESSAGE_TO",
            "HERMES_BUS_HOOKS_TIMEOUT",
            "HERMES_HOME",
            "SESSIONS_LINGER",
        ] {
            assert_eq!(warning(other), None, "{other}");
        }
    }
}

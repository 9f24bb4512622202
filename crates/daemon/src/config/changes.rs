//! What a reload changes.

use std::fmt;

use super::Settings;
use super::keys::{KEYS, Key, OnReload};

/// The difference of two configurations.
#[derive(Debug, Default)]
pub struct Changes {
    /// What a reload applies.
    pub applied: Vec<Change>,
    /// What holds after a restart only.
    pub need_restart: Vec<Change>,
}

/// One key with another value. Shown as `sessions.linger: 3s -> 5s`; secrets are left out.
#[derive(Debug)]
pub struct Change {
    /// The key.
    pub key: &'static Key,
    /// The value before, as it is written in a file.
    pub before: String,
    /// The value now.
    pub after: String,
}

impl Changes {
    /// What is different in `after`.
    pub fn between(before: &Settings, after: &Settings) -> Self {
        let mut changes = Changes::default();
        for key in KEYS.iter().filter(|key| !key.kind.is_same(before, after)) {
            let change = Change { key, before: key.written(before), after: key.written(after) };
            match key.on_reload {
                OnReload::Applies => changes.applied.push(change),
                OnReload::NeedsRestart => changes.need_restart.push(change),
            }
        }
        changes
    }

    /// Whether nothing is different.
    pub fn is_empty(&self) -> bool {
        self.applied.is_empty() && self.need_restart.is_empty()
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Change { key, before, after } = self;
        if before == after {
            // Only what is not shown is different.
            return write!(f, "{}: another token", key.name);
        }
        write!(f, "{}: {before} -> {after}", key.name)
    }
}

impl Settings {
    /// The settings that hold after a reload: those of `wanted`, except for what needs a restart.
    #[must_use]
    pub fn reloaded(&self, wanted: &Settings) -> Settings {
        let mut settings = wanted.clone();
        for key in KEYS.iter().filter(|key| key.on_reload == OnReload::NeedsRestart) {
            key.kind.copy(self, &mut settings);
        }
        settings
    }
}

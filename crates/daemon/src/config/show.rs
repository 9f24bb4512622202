//! A configuration as text: what holds, and where it is from.

use std::fmt::Write;

use super::keys::{GROUPS, KEYS, Key, OnReload};
use super::sources::{Loaded, Origin};
use super::{Settings, access};

impl Settings {
    /// Every key with its value as a JSON object: times in seconds, sizes in bytes. Secrets are left
    /// out.
    pub fn to_json(&self) -> Vec<serde_json::Value> {
        let object = |key: &Key| {
            serde_json::json!({
                "key": key.name,
                "value": key.kind.json(self),
                "text": key.written(self),
                "variable": key.variable(),
                "on_reload": match key.on_reload {
                    OnReload::Applies => "applies",
                    OnReload::NeedsRestart => "needs_restart",
                },
            })
        };
        KEYS.iter().map(object).collect()
    }
}

impl Loaded {
    /// The defaults, as if nobody had set anything.
    pub fn defaults() -> Self {
        Loaded {
            settings: Settings::default(),
            file: None,
            warnings: Vec::new(),
            origins: vec![Origin::Default; KEYS.len()],
        }
    }

    /// Every key with its value, as a configuration file that reads back as the same; a comment says
    /// where a value is from. Tokens that are from no file are left out.
    pub fn to_yaml(&self) -> String {
        const VALUE_COLUMN: usize = 32;
        let mut text = String::new();
        for group in GROUPS {
            let _ = writeln!(text, "{}:", group.name);
            for key in KEYS.iter().filter(|key| key.group() == group.name) {
                let line = format!("  {}: {}", key.leaf(), key.written(&self.settings));
                let _ = writeln!(text, "{line:VALUE_COLUMN$}  # {}", self.origin_shown(key));
            }
        }
        text
    }

    /// Every key with its value as a JSON object: times in seconds, sizes in bytes.
    pub fn to_json(&self) -> Vec<serde_json::Value> {
        let mut objects = self.settings.to_json();
        for (object, key) in objects.iter_mut().zip(KEYS) {
            object["origin"] = self.origin_shown(key).into();
        }
        objects
    }

    /// Where a value is from, in a few words on one line.
    fn origin_shown(&self, key: &Key) -> String {
        let mut shown = match self.origin(key) {
            Origin::Default => "default".to_owned(),
            Origin::Variable(name) => name.clone(),
            Origin::Flag => "--set".to_owned(),
            Origin::File(position) => {
                let file = self.file.as_ref().map(|path| path.display().to_string());
                let file = file.unwrap_or_else(|| "config.yaml".to_owned());
                // The name may hold anything, and this is a comment.
                format!("{}:{}", file.escape_debug(), position.line)
            }
        };
        if key.name == "access.protected" && access::hides_a_token(&self.settings) {
            shown.push_str("; a token is not shown");
        }
        shown
    }
}

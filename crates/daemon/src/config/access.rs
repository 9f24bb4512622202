//! Protected names: who may register them. A token is a secret: it is never shown, and may be written
//! down only where other users cannot read it.

use std::path::{Path, PathBuf};

use hermes_bus_client::nearest;
use hermes_bus_core::Protection;

use super::error::{Fault, shown};
use super::lists::{items, read_name, read_uid};
use super::scalars::quoted;
use super::value::{Context, Field};
use super::yaml::{Content, Entry, Node};
use super::{Settings, files};

/// Longest token, in bytes.
const TOKEN_BYTES_MAX: usize = 1_024;

/// What an entry may say.
const KEYS: [&str; 4] = ["name", "uid", "token", "token_file"];

/// A protection, and the file that its token is from.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Protected {
    protection: Protection,
    token_file: Option<PathBuf>,
}

pub(super) const FIELD: Field<Vec<Protected>> = Field {
    get: |settings| {
        let protected = settings.router.protected.iter().cloned().map(|protection| {
            let token_file = settings.token_files.get(&protection.name).cloned();
            Protected { protection, token_file }
        });
        protected.collect()
    },
    set: |settings, protected| {
        let files = protected.iter().filter_map(|protected| {
            Some((protected.protection.name.clone(), protected.token_file.clone()?))
        });
        settings.token_files = files.collect();
        settings.router.protected =
            protected.into_iter().map(|protected| protected.protection).collect();
    },
};

impl Protected {
    /// As it may be written in a file. A token that is from no file is left out.
    pub(super) fn written(&self) -> String {
        let mut parts = vec![format!("name: {}", quoted(&self.protection.name))];
        parts.extend(self.protection.uid.map(|uid| format!("uid: {uid}")));
        let file = self.token_file.as_ref();
        parts.extend(file.map(|file| format!("token_file: {}", quoted(&file.to_string_lossy()))));
        format!("{{{}}}", parts.join(", "))
    }

    /// The same for programs.
    pub(super) fn json(&self) -> serde_json::Value {
        serde_json::json!({
            "name": self.protection.name,
            "uid": self.protection.uid,
            "has_token": self.protection.token.is_some(),
            "token_file": self.token_file.as_ref().map(|file| file.to_string_lossy()),
        })
    }
}

pub(super) fn read_protected(
    node: &Node,
    context: &Context<'_>,
) -> Result<Vec<Protected>, Vec<Fault>> {
    let mut protected: Vec<Protected> = Vec::new();
    let mut faults = Vec::new();
    for item in items(node, "a list of mappings ({name: lead, token_file: /path})")? {
        match read_one(item, context) {
            Ok(one) => {
                let is_known = |known: &Protected| known.protection.name == one.protection.name;
                if protected.iter().any(is_known) {
                    let what = format!("'{}' is protected twice", shown(&one.protection.name));
                    faults.push(Fault::new(item.at, what));
                }
                protected.push(one);
            }
            Err(more) => faults.extend(more),
        }
    }
    if faults.is_empty() { Ok(protected) } else { Err(faults) }
}

fn read_one(node: &Node, context: &Context<'_>) -> Result<Protected, Vec<Fault>> {
    let Content::Mapping(entries) = &node.content else {
        let what = format!("an entry must be a mapping ({{name: lead}}), not {}", node.kind());
        return Err(vec![Fault::new(node.at, what)]);
    };
    let mut faults: Vec<Fault> = entries.iter().filter_map(unknown_key).collect();
    let entry = |key: &str| entries.iter().find(|entry| entry.key == key);
    let mut note = |fault| faults.push(fault);

    let mut name = None;
    match entry("name").map(|entry| read_name(&entry.value)) {
        Some(Ok(read)) => name = Some(read),
        Some(Err(fault)) => note(fault),
        None => note(Fault::new(node.at, "an entry needs a name")),
    }
    let uid = entry("uid").filter(|entry| !matches!(entry.value.content, Content::Null));
    let uid = uid.map(|entry| read_uid(&entry.value)).transpose().map_err(&mut note).ok().flatten();
    let token = match entry("token") {
        Some(token) => read_inline_token(token, context).map(Some),
        None => Ok(None),
    };
    let mut token = token.map_err(&mut note).ok().flatten();
    let mut token_file = None;
    if let Some(file) = entry("token_file") {
        if entry("token").is_some() {
            note(Fault::new(file.key_at, "an entry has either a token or a token_file"));
        } else {
            match read_token_file(file, context) {
                Ok((path, read)) => (token_file, token) = (Some(path), Some(read)),
                Err(fault) => note(fault),
            }
        }
    }
    match name {
        Some(name) if faults.is_empty() => {
            Ok(Protected { protection: Protection { name, uid, token }, token_file })
        }
        _ => Err(faults),
    }
}

fn unknown_key(entry: &Entry) -> Option<Fault> {
    if KEYS.contains(&entry.key.as_str()) {
        return None;
    }
    let what = match nearest(&shown(&entry.key), KEYS).first() {
        Some(near) => format!("unknown key '{}' (did you mean '{near}'?)", shown(&entry.key)),
        // It may be the rest of a token.
        None => {
            format!("unknown key; there are {} (a token with ',' needs quotes)", KEYS.join(", "))
        }
    };
    Some(Fault::new(entry.key_at, what))
}

fn read_inline_token(entry: &Entry, context: &Context<'_>) -> Result<String, Fault> {
    if let Err(why) = context.secrets {
        return Err(Fault::new(entry.key_at, why));
    }
    let Content::Text(token) = &entry.value.content else {
        let what = format!("a token is a text, not {}", entry.value.kind());
        return Err(Fault::new(entry.value.at, what));
    };
    checked(token.trim()).map_err(|what| Fault::new(entry.value.at, what))
}

fn read_token_file(entry: &Entry, context: &Context<'_>) -> Result<(PathBuf, String), Fault> {
    let fault = |what: String| Fault::new(entry.value.at, what);
    let Content::Text(text) = &entry.value.content else {
        return Err(fault(format!("a token_file is a path, not {}", entry.value.kind())));
    };
    let path = Path::new(text);
    // The daemon's own directory is nobody's choice.
    if !path.is_absolute() {
        return Err(fault("a token_file is given with its whole path, from / on".to_owned()));
    }
    let token = (context.read_token)(path).and_then(|token| checked(&token)).map_err(fault)?;
    Ok((path.to_owned(), token))
}

/// The content of a token file, without the white space around it.
pub(super) fn token_in(path: &Path) -> Result<String, String> {
    let shown_path = shown(&path.display().to_string());
    let content = files::read(path, TOKEN_BYTES_MAX as u64 + 2)
        .map_err(|error| format!("the token file {shown_path} cannot be read: {error}"))?;
    if content.is_open_to_others() {
        return Err(format!(
            "the token file {shown_path} is open to other users: chmod 600 {shown_path}"
        ));
    }
    let token = String::from_utf8(content.bytes)
        .map_err(|_| format!("the token file {shown_path} holds no UTF-8"))?;
    Ok(token.trim().to_owned())
}

/// A token that can be shown in a `register` frame. The reasons never hold the token.
fn checked(token: &str) -> Result<String, String> {
    if token.is_empty() {
        Err("the token is empty".to_owned())
    } else if token.len() > TOKEN_BYTES_MAX {
        Err(format!("the token is over the limit of {TOKEN_BYTES_MAX} bytes"))
    } else if token.chars().any(char::is_control) {
        Err("the token holds a control character or several lines".to_owned())
    } else {
        Ok(token.to_owned())
    }
}

/// Whether a token is part of the settings that cannot be shown.
pub(super) fn hides_a_token(settings: &Settings) -> bool {
    (FIELD.get)(settings)
        .iter()
        .any(|protected| protected.protection.token.is_some() && protected.token_file.is_none())
}

//! Which hooks there are: the rules of released versions, and the file's richer form.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use hermes_bus_proto::object::{Shape, check_value};

use super::entries;
use super::hook::Hook;

/// Names hooks: file paths with commas between, or a JSON array of them.
pub const VARIABLE: &str = "HERMES_BUS_HOOKS";

/// Where the file of hooks is below `$HERMES_HOME`, or else below the bus's root.
pub const FILE: &str = "hermes-bus/hooks.yaml";

/// Most bytes of a file of hooks (1 MiB). People write these by hand; a larger one is a mistake.
pub const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Most hooks (256). Each is run for each message; more are a mistake.
pub const HOOKS_MAX: usize = 256;

/// What of the daemon's environment says which hooks there are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Environment {
    /// [`VARIABLE`]; empty counts as unset.
    pub hooks: Option<OsString>,
    /// `HERMES_HOME`, else `~/.hermes`.
    pub hermes_home: Option<PathBuf>,
    /// What `~` stands for.
    pub home: Option<PathBuf>,
}

impl Environment {
    /// That of this process. A variable that is set to nothing counts as unset; the home directory is
    /// then that of the user's entry in the system's list.
    pub fn of_process() -> Self {
        let variable = |name| env::var_os(name).filter(|value: &OsString| !value.is_empty());
        let home = variable("HOME").map(PathBuf::from).or_else(|| {
            let user = nix::unistd::User::from_uid(nix::unistd::Uid::effective()).ok()??;
            Some(user.dir)
        });
        let in_home = || Some(home.as_ref()?.join(".hermes"));
        Environment {
            hooks: variable(VARIABLE),
            hermes_home: variable("HERMES_HOME").map(PathBuf::from).or_else(in_home),
            home,
        }
    }

    /// A path with `~` or `~NAME` in front made whole, if that user has a home.
    pub(super) fn expand(&self, path: &OsStr) -> PathBuf {
        self.expanded(path).unwrap_or_else(|| path.into())
    }

    fn expanded(&self, path: &OsStr) -> Option<PathBuf> {
        let after = path.as_bytes().strip_prefix(b"~")?;
        let name_ends = after.iter().position(|byte| *byte == b'/').unwrap_or(after.len());
        let (name, rest) = after.split_at(name_ends);
        let home = if name.is_empty() {
            self.home.clone()?
        } else {
            nix::unistd::User::from_name(str::from_utf8(name).ok()?).ok()??.dir
        };
        let home = home.into_os_string().into_vec();
        let end = home.iter().rposition(|byte| *byte != b'/').map_or(0, |last| last + 1);
        let whole = [&home[..end], rest].concat();
        Some(OsString::from_vec(if whole.is_empty() { b"/".to_vec() } else { whole }).into())
    }
}

/// The hooks of a bus, and where they are named.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// In the order in which they are called for a message.
    pub hooks: Vec<Hook>,
    /// What names them.
    pub source: Source,
    /// What is wrong, for people, each with its place. What it concerns is not among the hooks.
    pub errors: Vec<String>,
    /// What looks like a mistake but hinders nothing.
    pub warnings: Vec<String>,
}

/// What names the hooks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Source {
    /// Nothing does.
    #[default]
    Nothing,
    /// The variable [`VARIABLE`].
    Variable,
    /// This file.
    File(PathBuf),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Nothing => f.write_str("nothing"),
            Source::Variable => f.write_str(VARIABLE),
            Source::File(path) => path.display().fmt(f),
        }
    }
}

impl Found {
    /// The paths in one line: `/a.py, /b.py`, or `(none)`.
    pub fn listing(&self) -> String {
        if self.hooks.is_empty() {
            return "(none)".to_owned();
        }
        let paths = self.hooks.iter().map(|hook| hook.path.display().to_string());
        paths.collect::<Vec<_>>().join(", ")
    }

    /// The bus whose root is `root` has these: those that the environment names, else those of the
    /// file below `$HERMES_HOME`, else those of the file below the root, else none.
    pub fn find(environment: &Environment, root: &Path) -> Found {
        let mut found = if let Some(names) = environment.hooks.as_ref().filter(|it| !it.is_empty())
        {
            in_variable(names, environment)
        } else {
            let homes = environment.hermes_home.as_deref().into_iter().chain([root]);
            let mut files = homes.map(|home| home.join(FILE));
            files.find_map(|file| in_file(file, environment)).unwrap_or_default()
        };
        if found.hooks.len() > HOOKS_MAX {
            let (source, hooks) = (&found.source, found.hooks.len());
            let text = format!(
                "{source}: names {hooks} hooks; those after the first {HOOKS_MAX} are not run"
            );
            found.errors.push(text);
            found.hooks.truncate(HOOKS_MAX);
        }
        found
    }
}

// ---- the variable -----------------------------------------------------------------------------------

fn in_variable(names: &OsStr, environment: &Environment) -> Found {
    let mut found = Found { source: Source::Variable, ..Found::default() };
    let whole = trim(names.as_bytes());
    if whole.is_empty() || whole.eq_ignore_ascii_case(b"none") {
        return found;
    }
    if let Some(list) = json_list(whole) {
        for (number, item) in list.into_iter().enumerate() {
            match item {
                serde_json::Value::String(path) => {
                    found.hooks.push(Hook::at(environment.expand(path.as_ref())));
                }
                _ => found.errors.push(format!(
                    "{VARIABLE}: item {} of the list is no text, and is not run",
                    number + 1
                )),
            }
        }
    } else if is_odd_list(whole) {
        found.errors.push(format!(
            "{VARIABLE}: the list holds a number or a character that stands for no path; nothing of it is run"
        ));
    } else {
        let paths = whole.split(|byte| *byte == b',').map(trim).filter(|path| !path.is_empty());
        found.hooks.extend(paths.map(|path| Hook::at(environment.expand(OsStr::from_bytes(path)))));
    }
    found
}

fn json_list(text: &[u8]) -> Option<Vec<serde_json::Value>> {
    text.starts_with(b"[").then(|| serde_json::from_slice(text).ok()).flatten()
}

/// A list that Python reads, and whose items cannot be told here.
fn is_odd_list(text: &[u8]) -> bool {
    let is_list = |text| matches!(check_value(text), Ok(Shape::Other("an array")));
    text.starts_with(b"[") && str::from_utf8(text).is_ok_and(is_list)
}

fn trim(bytes: &[u8]) -> &[u8] {
    str::from_utf8(bytes).map_or_else(|_| bytes.trim_ascii(), |text| trim_text(text).as_bytes())
}

/// Without the white space around it, as Python sees it.
pub(super) fn trim_text(text: &str) -> &str {
    text.trim_matches(|c: char| c.is_whitespace() || matches!(c, '\x1c'..='\x1f'))
}

// ---- the file ---------------------------------------------------------------------------------------

/// What a file says, or None if there is none.
fn in_file(path: PathBuf, environment: &Environment) -> Option<Found> {
    let mut found = Found::default();
    match read(&path) {
        Ok(text) => {
            let read = entries::read(&text, environment);
            found.hooks = read.hooks;
            found.errors = prefixed(&path, read.errors);
            found.warnings = prefixed(&path, read.warnings);
            let says_something =
                |line: &str| !matches!(line.trim(), "" | "hooks:" | "[]" | "hooks: []");
            let mut lines = text.lines().filter(|line| !line.trim_start().starts_with('#'));
            let is_told = !found.errors.is_empty() || !found.warnings.is_empty();
            if found.hooks.is_empty() && !is_told && lines.any(says_something) {
                let what = "names no hook: a line '- PATH' does";
                found.warnings.push(format!("{}: {what}", path.display()));
            }
        }
        Err(error) if is_missing(&error) => return None,
        Err(error) => found.errors.push(format!("{}: cannot be read: {error}", path.display())),
    }
    found.source = Source::File(path);
    Some(found)
}

fn prefixed(path: &Path, texts: Vec<entries::Remark>) -> Vec<String> {
    let path = path.display();
    texts.into_iter().map(|remark| format!("{path}{remark}")).collect()
}

fn read(path: &Path) -> io::Result<String> {
    // To open a pipe would wait for somebody who writes to it.
    if !path.metadata()?.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    let mut text = Vec::new();
    File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_end(&mut text)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(io::Error::other(format!("it is over the limit of {FILE_BYTES_MAX} bytes")));
    }
    String::from_utf8(text).map_err(|_| io::Error::other("it is no UTF-8"))
}

fn is_missing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

#[cfg(test)]
#[path = "resolve_tests.rs"]
mod tests;

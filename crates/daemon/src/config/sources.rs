//! The layers of a configuration: defaults, the file, the environment, the command line. Each key has
//! the value of the last layer that sets it. All problems of all layers are found in one go.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::environment::{self, Variable, suggest};
use super::error::{ConfigError, Fault, PROBLEMS_MAX, Place, Position, Problem, shown};
use super::keys::{self, GROUPS, KEYS, Key, NOT_OVER};
use super::value::Context;
use super::yaml::{self, Content, Node};
use super::{FILE_BYTES_MAX, Settings, access, files};
use crate::root::Root;

/// How often released clients ping (`HEARTBEAT_INTERVAL` of the Python package).
const PING_INTERVAL: Duration = Duration::from_secs(60);

/// The variable that names the configuration file.
const FILE_VARIABLE: &str = "HERMES_BUS_CONFIG";

/// Where a configuration is read from. Can be read again and again, as a reload does.
#[derive(Clone, Debug)]
pub struct Sources {
    file: PathBuf,
    /// A file that somebody named must be there; the usual one need not.
    file_is_named: bool,
    environment: Vec<(OsString, OsString)>,
    flags: Vec<String>,
}

/// Which layer a value is from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nobody has set it.
    Default,
    /// The file, at the place of the key.
    File(Position),
    /// An environment variable.
    Variable(String),
    /// `--set` on the command line.
    Flag,
}

/// A configuration that was read and found good.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The values.
    pub settings: Settings,
    /// The file that was read; none where there is none.
    pub file: Option<PathBuf>,
    /// What is doubtful but no error, each a line.
    pub warnings: Vec<String>,
    /// One for each of [`KEYS`].
    pub(super) origins: Vec<Origin>,
}

impl Sources {
    /// The sources of the bus in `root`: the file given, else the one that `HERMES_BUS_CONFIG` names,
    /// else `hermes-bus/config.yaml` in the root directory; this process's environment; and `flags`,
    /// each `KEY=VALUE`.
    pub fn new(root: &Root, file: Option<PathBuf>, flags: Vec<String>) -> Self {
        Sources::with_environment(root, file, flags, std::env::vars_os().collect())
    }

    /// The same with another environment.
    pub fn with_environment(
        root: &Root,
        file: Option<PathBuf>,
        flags: Vec<String>,
        environment: Vec<(OsString, OsString)>,
    ) -> Self {
        let is_it =
            |(name, value): &&(OsString, OsString)| name == FILE_VARIABLE && !value.is_empty();
        let in_environment = || environment.iter().find(is_it).map(|(_, path)| PathBuf::from(path));
        // A daemon may change its directory before it reads the file again.
        let whole = |path: PathBuf| std::path::absolute(&path).unwrap_or(path);
        let named = file.or_else(in_environment).map(whole);
        let file_is_named = named.is_some();
        let file = named.unwrap_or_else(|| root.config_file());
        Sources { file, file_is_named, environment, flags }
    }

    /// The configuration file. It need not exist.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// What another program of the bus is to be told, wherever it runs, so that it has the same file
    /// and flags.
    pub fn arguments(&self) -> Vec<OsString> {
        let mut arguments = Vec::new();
        if self.file_is_named {
            arguments.extend(["--config".into(), self.file.clone().into_os_string()]);
        }
        for flag in &self.flags {
            arguments.extend(["--set".into(), flag.into()]);
        }
        arguments
    }

    /// A file alone, without environment and command line. It must be there.
    pub fn of_file(file: &Path) -> Self {
        let file = file.to_owned();
        Sources { file, file_is_named: true, environment: Vec::new(), flags: Vec::new() }
    }

    #[cfg(test)]
    pub(super) fn environment_for_tests(&mut self) -> &mut Vec<(OsString, OsString)> {
        &mut self.environment
    }

    /// Reads all layers.
    ///
    /// # Errors
    /// Everything that is wrong in any of them, at once. A file that was named and does not exist is
    /// an error; the usual one may be missing.
    pub fn load(&self) -> Result<Loaded, ConfigError> {
        let read_token = |path: &Path| access::token_in(path);
        let mut layers = Layers::new(&read_token);
        self.read_file(&mut layers);
        let known = environment::read(&self.environment);
        for Variable { key, name, value } in known.settings {
            match value {
                Ok(text) => layers.text(key, &text, &Origin::Variable(name)),
                Err(what) => {
                    let key = key.name.to_owned();
                    layers.problem(Problem { place: Place::Variable(name), key, what });
                }
            }
        }
        layers.warnings.extend(known.warnings);
        for flag in &self.flags {
            layers.flag(flag);
        }
        layers.finish()
    }

    fn read_file(&self, layers: &mut Layers<'_>) {
        let content = match files::read(&self.file, FILE_BYTES_MAX) {
            Ok(content) => content,
            Err(error) if is_missing(&error) && !self.file_is_named => return,
            Err(error) => {
                layers.file = Some(self.file.clone());
                let what = match is_missing(&error) {
                    true => "no such file".to_owned(),
                    false => format!("cannot be read: {error}"),
                };
                return layers.problem(Problem { place: Place::File, key: String::new(), what });
            }
        };
        layers.file = Some(self.file.clone());
        if content.is_writable_for_others() {
            let shown = self.file.display();
            layers
                .warnings
                .push(format!("{shown}: other users may change this file: chmod go-w {shown}"));
        }
        let secrets = match content.is_open_to_others() {
            true => Err("a token may be only in a file that is closed to other users: chmod 600"),
            false => Ok(()),
        };
        layers.document(&content.bytes, secrets);
    }
}

/// The configuration that a text alone makes, without environment and command line. Token files are
/// read with `read_token`, which gives the content or says why there is none.
///
/// # Errors
/// Everything that is wrong in the text, at once.
pub fn parse(
    text: &[u8],
    read_token: &dyn Fn(&Path) -> Result<String, String>,
) -> Result<Loaded, ConfigError> {
    let mut layers = Layers::new(read_token);
    if text.len() as u64 > FILE_BYTES_MAX {
        let what = format!("is over the limit of {FILE_BYTES_MAX} bytes");
        layers.problem(Problem { place: Place::File, key: String::new(), what });
    } else {
        layers.document(text, Ok(()));
    }
    layers.finish()
}

impl Loaded {
    /// Where the value of a key is from.
    pub fn origin(&self, key: &Key) -> &Origin {
        let index = KEYS.iter().position(|known| known.name == key.name);
        index.and_then(|index| self.origins.get(index)).unwrap_or(&Origin::Default)
    }
}

/// A configuration that is being put together.
struct Layers<'a> {
    settings: Settings,
    origins: Vec<Origin>,
    file: Option<PathBuf>,
    warnings: Vec<String>,
    problems: Vec<Problem>,
    more_problems: usize,
    read_token: &'a dyn Fn(&Path) -> Result<String, String>,
}

impl<'a> Layers<'a> {
    fn new(read_token: &'a dyn Fn(&Path) -> Result<String, String>) -> Self {
        Layers {
            settings: Settings::default(),
            origins: vec![Origin::Default; KEYS.len()],
            file: None,
            warnings: Vec::new(),
            problems: Vec::new(),
            more_problems: 0,
            read_token,
        }
    }

    fn problem(&mut self, problem: Problem) {
        if self.problems.len() < PROBLEMS_MAX {
            self.problems.push(problem);
        } else {
            self.more_problems += 1;
        }
    }

    fn problem_at(&mut self, at: Position, key: &str, what: impl Into<String>) {
        let (key, what) = (shown(key), what.into());
        self.problem(Problem { place: Place::At(at), key, what });
    }

    // ---- the file ---------------------------------------------------------------------------------

    fn document(&mut self, bytes: &[u8], secrets: Result<(), &'static str>) {
        let node = match yaml::parse(bytes) {
            Ok(node) => node,
            Err(Fault { at, what }) => return self.problem_at(at, "", what),
        };
        let entries = match node.content {
            Content::Null => return,
            Content::Mapping(entries) => entries,
            _ => {
                let what = format!("must be a mapping of groups (log:), not {}", node.kind());
                return self.problem_at(node.at, "", what);
            }
        };
        for entry in entries {
            if GROUPS.iter().any(|group| group.name == entry.key) {
                self.group(&entry.key, &entry.value, secrets);
            } else if let Some(key) = keys::find(&entry.key) {
                let what = format!("write '{}:' below '{}:'", key.leaf(), key.group());
                self.problem_at(entry.key_at, &entry.key, what);
            } else {
                self.unknown(&entry.key, entry.key_at);
            }
        }
    }

    fn group(&mut self, group: &str, node: &Node, secrets: Result<(), &'static str>) {
        let entries = match &node.content {
            // All its lines may be comments.
            Content::Null => return,
            Content::Mapping(entries) => entries,
            _ => {
                let what = format!("must be a mapping of keys, not {}", node.kind());
                return self.problem_at(node.at, group, what);
            }
        };
        for entry in entries {
            let name = format!("{group}.{}", entry.key);
            let Some(index) = KEYS.iter().position(|key| key.name == name) else {
                self.unknown(&name, entry.key_at);
                continue;
            };
            let context = Context { secrets, read_token: self.read_token };
            match KEYS[index].kind.read(&entry.value, &context, &mut self.settings) {
                Ok(()) => self.origins[index] = Origin::File(entry.key_at),
                Err(faults) => {
                    for Fault { at, what } in faults {
                        self.problem_at(at, &name, what);
                    }
                }
            }
        }
    }

    fn unknown(&mut self, name: &str, at: Position) {
        // Of a text that is no configuration at all, not every word is worth a thought.
        if self.problems.len() >= PROBLEMS_MAX {
            self.more_problems += 1;
            return;
        }
        self.problem_at(at, name, unknown_key(name));
    }

    // ---- the environment and the command line -----------------------------------------------------

    /// `KEY=VALUE`
    fn flag(&mut self, flag: &str) {
        let wrong = |key: &str, what: String| Problem { place: Place::Flag, key: shown(key), what };
        let Some((name, text)) = flag.split_once('=') else {
            let what = "must be KEY=VALUE (sessions.linger=5s)".to_owned();
            return self.problem(wrong(flag, what));
        };
        match keys::find(name) {
            Some(key) => self.text(key, text, &Origin::Flag),
            None => self.problem(wrong(name, unknown_key(name))),
        }
    }

    /// A value that is given as text outside of the file. It is written as in the file.
    fn text(&mut self, key: &'static Key, text: &str, origin: &Origin) {
        // Command lines are there for everybody to read, and hooks inherit the environment.
        let secrets = Err("a token must not be here, where others see it: use token_file");
        let context = Context { secrets, read_token: self.read_token };
        let is_too_large = text.len() as u64 > FILE_BYTES_MAX;
        let read = match yaml::parse(text.as_bytes()) {
            _ if is_too_large => Err(vec![format!("is over the limit of {FILE_BYTES_MAX} bytes")]),
            Err(fault) => Err(vec![fault.what]),
            Ok(node) => key
                .kind
                .read(&node, &context, &mut self.settings)
                .map_err(|faults| faults.into_iter().map(|fault| fault.what).collect()),
        };
        match read {
            Ok(()) => {
                if let Some(index) = KEYS.iter().position(|known| known.name == key.name) {
                    self.origins[index] = origin.clone();
                }
            }
            Err(reasons) => {
                let key = key.name.to_owned();
                for what in reasons {
                    let place = place_of(origin);
                    self.problem(Problem { place, key: key.clone(), what });
                }
            }
        }
    }

    // ---- what goes together -----------------------------------------------------------------------

    fn finish(mut self) -> Result<Loaded, ConfigError> {
        let is_wrong = |name: &str| self.problems.iter().any(|problem| problem.key == name);
        let mut mismatches = Vec::new();
        for (small, large) in NOT_OVER {
            if !is_wrong(small) && !is_wrong(large) {
                mismatches.extend(self.mismatch(small, large));
            }
        }
        for mismatch in mismatches {
            self.problem(mismatch);
        }
        // What does not go together is found last, and stands where it was written. The sort is stable.
        self.problems.sort_by_key(|problem| match &problem.place {
            Place::File => (0, None),
            Place::At(position) => (1, Some(*position)),
            Place::Variable(_) => (2, None),
            Place::Flag => (3, None),
        });
        if self.settings.router.heartbeat <= PING_INTERVAL {
            let what =
                "sessions.heartbeat: released clients ping every 60 s, and are closed before";
            self.warnings.push(what.to_owned());
        }
        let Layers { settings, origins, file, warnings, problems, more_problems, .. } = self;
        if problems.is_empty() {
            Ok(Loaded { settings, file, warnings, origins })
        } else {
            Err(ConfigError { file, problems, more: more_problems })
        }
    }

    /// Says what is wrong if the first value is over the second, where the later of the two was set.
    fn mismatch(&self, small: &str, large: &str) -> Option<Problem> {
        let place = |name: &str| KEYS.iter().position(|key| key.name == name);
        let (small, large) = (place(small)?, place(large)?);
        let value = |index: usize| KEYS[index].kind.magnitude(&self.settings);
        if value(small)? <= value(large)? {
            return None;
        }
        let weight = |index: usize| match &self.origins[index] {
            Origin::Default => (0, None),
            Origin::File(position) => (1, Some(*position)),
            Origin::Variable(_) => (2, None),
            Origin::Flag => (3, None),
        };
        let (blamed, other, relation) = match weight(small) >= weight(large) {
            true => (small, large, "over"),
            false => (large, small, "under"),
        };
        let written = |index: usize| KEYS[index].written(&self.settings);
        let default = if self.origins[other] == Origin::Default { ", the default" } else { "" };
        let what = format!(
            "{} is {relation} {} ({}{default})",
            written(blamed),
            KEYS[other].name,
            written(other),
        );
        let place = place_of(&self.origins[blamed]);
        Some(Problem { place, key: KEYS[blamed].name.to_owned(), what })
    }
}

fn unknown_key(name: &str) -> String {
    match suggest(name) {
        Some(near) => format!("unknown key (did you mean '{near}'?)"),
        None => "unknown key ('hermes-bus config show' lists all)".to_owned(),
    }
}

fn place_of(origin: &Origin) -> Place {
    match origin {
        Origin::Default => Place::File,
        Origin::File(position) => Place::At(*position),
        Origin::Variable(name) => Place::Variable(name.clone()),
        Origin::Flag => Place::Flag,
    }
}

fn is_missing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

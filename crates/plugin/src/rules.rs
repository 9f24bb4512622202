//! What `bus-rules.yaml` says to senders: `role_map`, their display names. (What it says to receivers is in
//! [`crate::engine::rulebook`].)
//!
//! Keys that are not understood are skipped whatever they hold, so that one file serves several
//! versions. The file is read under limits and its shape is found out while it is read: nothing is
//! built for what is skipped. This module does not know who asks for a name, nor for what.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::{env, fmt};

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{DuplicateKeyPolicy, Spanned};

/// Most bytes of a rules file (1 MiB). People write these by hand; a larger one is a mistake.
pub const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// What a rules file says. The default says nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// Display names by session key; only of entries that have one.
    names: HashMap<String, String>,
    odd_entries: Vec<String>,
}

impl Rules {
    /// `$HERMES_HOME/bus-rules.yaml`, else `~/.hermes/bus-rules.yaml`; none without a home. A
    /// variable that is set to nothing counts as unset.
    pub fn default_path() -> Option<PathBuf> {
        let is_set = |path: &PathBuf| !path.as_os_str().is_empty();
        let hermes_home = env::var_os("HERMES_HOME").map(PathBuf::from).filter(is_set);
        let in_home = || env::home_dir().filter(is_set).map(|home| home.join(".hermes"));
        Some(hermes_home.or_else(in_home)?.join("bus-rules.yaml"))
    }

    /// Reads a file.
    pub fn load(path: &Path) -> Result<Rules, RulesError> {
        Rules::parse(&read_text(path)?).map_err(|fault| RulesError::at(path, fault))
    }

    /// Understands the text of a file.
    pub fn parse(text: &str) -> Result<Rules, Fault> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let options = serde_saphyr::options! {
            // Of a key that is there twice the last value holds, as with the released programs.
            duplicate_keys: DuplicateKeyPolicy::PassThrough,
            with_snippet: false,
        };
        // A file of nothing, or of comments only, has no document in it.
        let document = serde_saphyr::from_str_with_options::<Option<Document>>(text, options)
            .map_err(|error| Fault::syntax(&error))?;
        let role_map = match document {
            None | Some(Document::Nothing) => return Ok(Rules::default()),
            Some(Document::Odd(found)) => return Err(Fault::shape(Part::File, found, None)),
            Some(Document::RoleMap(role_map)) => role_map,
        };
        let location = Position::of(role_map.referenced);
        match role_map.value {
            RoleMap::Nothing => Ok(Rules::default()),
            RoleMap::Odd(found) => Err(Fault::shape(Part::RoleMap, found, location)),
            RoleMap::Entries(entries) => Ok(Rules::of_entries(entries)),
        }
    }

    fn of_entries(entries: Vec<(Option<String>, Entry)>) -> Rules {
        let mut last: HashMap<String, Entry> = HashMap::new();
        for (key, entry) in entries {
            if let Some(key) = key {
                last.insert(key, entry);
            }
        }
        let mut rules = Rules::default();
        for (key, entry) in last {
            match entry {
                Entry::Named(name) => {
                    rules.names.insert(key, name);
                }
                Entry::Nameless => {}
                Entry::Odd => rules.odd_entries.push(key),
            }
        }
        rules.odd_entries.sort_unstable();
        rules
    }

    /// The display name of a sender's token: of a session key its entry's name. Everything else,
    /// display names included, stands for itself.
    ///
    /// Released programs look for the token among the names as well, but all that can come of it is
    /// the token again.
    pub fn display_name<'a>(&'a self, token: &'a str) -> &'a str {
        // No token is nobody, even if the map has an entry for it.
        if token.is_empty() {
            return token;
        }
        self.names.get(token).map_or(token, String::as_str)
    }

    /// Keys of `role_map` whose entries are no mappings, sorted. Such an entry gives no name;
    /// released programs died of it, but only if their search came across it.
    pub fn odd_entries(&self) -> &[String] {
        &self.odd_entries
    }
}

/// The text of a rules file. Fails where there is none, or too much of it.
pub(crate) fn read_text(path: &Path) -> Result<String, RulesError> {
    let path_shown = || path.to_owned();
    let mut text = Vec::new();
    let read = |text: &mut Vec<u8>| File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_end(text);
    match read(&mut text) {
        Err(error) if is_missing(&error) => {
            return Err(RulesError::Missing { path: path_shown() });
        }
        Err(error) => return Err(RulesError::Read { path: path_shown(), error }),
        Ok(read_bytes) if read_bytes as u64 > FILE_BYTES_MAX => {
            return Err(RulesError::TooLarge { path: path_shown() });
        }
        Ok(_) => {}
    }
    String::from_utf8(text).map_err(|error| {
        let fault = Fault::not_utf8(error.as_bytes(), error.utf8_error());
        RulesError::at(path, fault)
    })
}

fn is_missing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

// ---- errors -----------------------------------------------------------------------------------------

/// Where in a text, both from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// The line.
    pub line: u64,
    /// The column, in characters.
    pub column: u64,
}

impl Position {
    fn of(location: serde_saphyr::Location) -> Option<Position> {
        let (line, column) = (location.line(), location.column());
        (line > 0).then_some(Position { line, column })
    }
}

/// What cannot be of a wrong shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The whole file.
    File,
    /// The value of `role_map`.
    RoleMap,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Part::File => "the file",
            Part::RoleMap => "'role_map'",
        })
    }
}

/// What is wrong with a text of rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is no YAML, or over the limits for aliases and nesting.
    Syntax {
        /// What is wrong.
        reason: String,
        /// Where, if known.
        position: Option<Position>,
    },
    /// It is YAML, but not rules.
    Shape {
        /// What should be a mapping.
        part: Part,
        /// What it is instead: "a list".
        found: &'static str,
        /// Where, if known.
        position: Option<Position>,
    },
}

impl Fault {
    pub(crate) fn syntax(error: &serde_saphyr::Error) -> Fault {
        let position = error.location().and_then(Position::of);
        let text = error.without_snippet().to_string();
        // The position is told in our own words; the library appends its own to some messages.
        let reason = text.split(" at line ").next().unwrap_or(&text);
        let reason = reason.lines().next().unwrap_or(reason).trim_end().to_owned();
        Fault::Syntax { reason, position }
    }

    fn shape(part: Part, found: &'static str, position: Option<Position>) -> Fault {
        Fault::Shape { part, found, position }
    }

    fn not_utf8(text: &[u8], error: std::str::Utf8Error) -> Fault {
        let before = &text[..error.valid_up_to()];
        let line_start = before.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
        let line = before.iter().filter(|&&byte| byte == b'\n').count() as u64 + 1;
        let in_line = String::from_utf8_lossy(&before[line_start..]);
        let position = Some(Position { line, column: in_line.chars().count() as u64 + 1 });
        Fault::Syntax { reason: "a byte that is no UTF-8".to_owned(), position }
    }

    /// Where, if known.
    pub fn position(&self) -> Option<Position> {
        match self {
            Fault::Syntax { position, .. } | Fault::Shape { position, .. } => *position,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Syntax { reason, .. } => write!(f, "no valid YAML: {reason}"),
            Fault::Shape { part, found, .. } => {
                write!(f, "{part} must be a mapping (lines of 'key: value'), but is {found}")
            }
        }
    }
}

impl std::error::Error for Fault {}

/// Why there are no rules.
#[derive(Debug, thiserror::Error)]
pub enum RulesError {
    /// No such file.
    #[error("{}: no such file", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// The file cannot be read.
    #[error("{}: cannot be read: {error}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// Over [`FILE_BYTES_MAX`].
    #[error("{}: over the limit of {FILE_BYTES_MAX} bytes", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// No YAML.
    #[error("{}{}: {fault}", path.display(), colons(fault))]
    Syntax {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        fault: Fault,
    },
    /// YAML, but not rules.
    #[error("{}{}: {fault}", path.display(), colons(fault))]
    Shape {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        fault: Fault,
    },
}

/// `:3:9`, as compilers write it and editors read it.
fn colons(fault: &Fault) -> String {
    let position = fault.position();
    position.map_or_else(String::new, |at| format!(":{}:{}", at.line, at.column))
}

impl RulesError {
    fn at(path: &Path, fault: Fault) -> RulesError {
        let path = path.to_owned();
        match fault {
            Fault::Syntax { .. } => RulesError::Syntax { path, fault },
            Fault::Shape { .. } => RulesError::Shape { path, fault },
        }
    }

    /// True where released programs silently go on as if there were no rules; false where they die.
    /// They read files of any size; one that is refused for its size is best gone on without, too.
    pub fn is_ignored_by_original(&self) -> bool {
        !matches!(self, RulesError::Shape { .. })
    }

    /// What of the text has a wrong shape, if that is the error.
    pub fn odd_part(&self) -> Option<Part> {
        match self {
            RulesError::Shape { fault: Fault::Shape { part, .. }, .. } => Some(*part),
            _ => None,
        }
    }
}

// ---- shapes -----------------------------------------------------------------------------------------

/// What is taken where a mapping is expected: a mapping is read by `M`, whatever counts as nothing
/// in Python (null, false, zero, an empty text or list) is nothing, all else is odd.
trait FromMapping<'de>: Sized {
    const NOTHING: Self;
    fn odd(found: &'static str) -> Self;
    fn from_mapping<A: MapAccess<'de>>(mapping: A) -> Result<Self, A::Error>;
}

struct Lenient<T>(std::marker::PhantomData<T>);

impl<T> Lenient<T> {
    const NEW: Self = Lenient(std::marker::PhantomData);
}

fn scalar<'de, T: FromMapping<'de>>(is_nothing: bool, found: &'static str) -> T {
    if is_nothing { T::NOTHING } else { T::odd(found) }
}

impl<'de, T: FromMapping<'de>> Visitor<'de> for Lenient<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a mapping")
    }

    fn visit_map<A: MapAccess<'de>>(self, mapping: A) -> Result<T, A::Error> {
        T::from_mapping(mapping)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<T, A::Error> {
        let mut length = 0usize;
        while list.next_element::<IgnoredAny>()?.is_some() {
            length += 1;
        }
        Ok(scalar(length == 0, "a list"))
    }

    fn visit_unit<E>(self) -> Result<T, E> {
        Ok(T::NOTHING)
    }

    fn visit_none<E>(self) -> Result<T, E> {
        Ok(T::NOTHING)
    }

    fn visit_some<D: Deserializer<'de>>(self, value: D) -> Result<T, D::Error> {
        value.deserialize_any(self)
    }

    fn visit_bool<E>(self, value: bool) -> Result<T, E> {
        Ok(scalar(!value, "a truth value"))
    }

    fn visit_i64<E>(self, value: i64) -> Result<T, E> {
        Ok(scalar(value == 0, "a number"))
    }

    fn visit_u64<E>(self, value: u64) -> Result<T, E> {
        Ok(scalar(value == 0, "a number"))
    }

    fn visit_i128<E>(self, value: i128) -> Result<T, E> {
        Ok(scalar(value == 0, "a number"))
    }

    fn visit_u128<E>(self, value: u128) -> Result<T, E> {
        Ok(scalar(value == 0, "a number"))
    }

    fn visit_f64<E>(self, value: f64) -> Result<T, E> {
        Ok(scalar(value == 0.0, "a number"))
    }

    fn visit_str<E>(self, value: &str) -> Result<T, E> {
        Ok(scalar(value.is_empty(), "a text"))
    }
}

enum Document {
    Nothing,
    Odd(&'static str),
    RoleMap(Spanned<RoleMap>),
}

impl<'de> FromMapping<'de> for Document {
    const NOTHING: Self = Document::Nothing;

    fn odd(found: &'static str) -> Self {
        Document::Odd(found)
    }

    fn from_mapping<A: MapAccess<'de>>(mut mapping: A) -> Result<Self, A::Error> {
        let mut document = Document::Nothing;
        // A key of another kind than text is nobody's concern here.
        while let Some(key) = mapping.next_key::<Option<String>>()? {
            if key.as_deref() == Some("role_map") {
                document = Document::RoleMap(mapping.next_value()?);
            } else {
                mapping.next_value::<IgnoredAny>()?;
            }
        }
        Ok(document)
    }
}

enum RoleMap {
    Nothing,
    Odd(&'static str),
    Entries(Vec<(Option<String>, Entry)>),
}

impl<'de> FromMapping<'de> for RoleMap {
    const NOTHING: Self = RoleMap::Nothing;

    fn odd(found: &'static str) -> Self {
        RoleMap::Odd(found)
    }

    fn from_mapping<A: MapAccess<'de>>(mut mapping: A) -> Result<Self, A::Error> {
        let mut entries = Vec::new();
        // A key that is written as a number is taken as it is written: tmux calls its sessions 0, 1
        // and so on unless told otherwise, and whoever writes `0:` here means that session. (Released
        // programs never find such an entry.)
        while let Some(entry) = mapping.next_entry()? {
            entries.push(entry);
        }
        Ok(RoleMap::Entries(entries))
    }
}

enum Entry {
    Named(String),
    Nameless,
    Odd,
}

impl<'de> FromMapping<'de> for Entry {
    const NOTHING: Self = Entry::Nameless;

    fn odd(_: &'static str) -> Self {
        Entry::Odd
    }

    fn from_mapping<A: MapAccess<'de>>(mut mapping: A) -> Result<Self, A::Error> {
        let mut entry = Entry::Nameless;
        while let Some(key) = mapping.next_key::<Option<String>>()? {
            if key.as_deref() == Some("name") {
                // A name that is written as a number or as `yes` is shown as it is written. (Python
                // would show `0x10` as 16 and `yes` as True.) A null is no name.
                entry =
                    mapping.next_value::<Option<String>>()?.map_or(Entry::Nameless, Entry::Named);
            } else {
                mapping.next_value::<IgnoredAny>()?;
            }
        }
        Ok(entry)
    }
}

macro_rules! deserialize_leniently {
    ($($shape:ty),*) => {$(
        impl<'de> Deserialize<'de> for $shape {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_any(Lenient::<$shape>::NEW)
            }
        }
    )*};
}

deserialize_leniently!(Document, RoleMap, Entry);

#[cfg(test)]
mod tests;

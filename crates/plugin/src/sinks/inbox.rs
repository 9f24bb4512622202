//! The local inbox of an agent: contexts on disk, until somebody takes them.
//!
//! A directory of files, one for each context, written under another name, synced and renamed, so that one that is there
//! is whole, and outlives the agent, this program and a loss of power. An entry is marked before it is handed out and
//! removed after: who is killed in between hands it out once more, and says so. The inbox is bounded: what is over its
//! limits is refused, and the message stays with the bus.

use std::collections::HashSet;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::engine::{AgentState, Incoming, Piece};

/// Most contexts that wait.
pub const ENTRIES_MAX: usize = 1_000;

/// Most bytes of them, with the whole texts of what is too long for a context (64 MiB).
pub const BYTES_MAX: u64 = 64 * 1024 * 1024;

/// How long another one may be busy with the inbox.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);

const FRESH: &str = ".json";
/// Of an entry that somebody was about to hand out.
const HANDED: &str = ".handed.json";

/// Where a message came from, for who takes a context.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Origin {
    /// Its id, as text.
    pub id: String,
    /// Who it says it is from. Not attested.
    pub from: Option<String>,
    /// The endpoint that the bus says it is from, if it is one.
    pub sender: Option<String>,
    /// The user that the bus says it is from.
    pub sender_uid: Option<u32>,
    /// Type of the body; empty without one.
    #[serde(rename = "type")]
    pub body_type: String,
    /// When it was sent, in seconds since 1970.
    pub ts: Option<f64>,
}

impl Origin {
    /// The origin of a message.
    pub fn of(message: &Incoming) -> Self {
        Origin {
            id: message.id.clone(),
            from: message.from.clone(),
            sender: message.sender.as_ref().and_then(|sender| sender.endpoint.clone()),
            sender_uid: message.sender.as_ref().map(|sender| sender.uid),
            body_type: message.body_type_text.clone(),
            ts: message.ts,
        }
    }
}

/// A context, as it waits and is handed out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// For the model: marked as the words of its senders, without escapes, cut where it is too long.
    pub text: String,
    /// The chat that it belongs to; empty for none.
    pub channel: String,
    /// The messages that it was made of, oldest first.
    pub messages: Vec<Origin>,
    /// Files with the whole texts of what was cut.
    pub whole: Vec<PathBuf>,
    /// When it was put here, in seconds since 1970.
    pub kept_ts: f64,
    /// Whether it may have been handed out before.
    pub again: bool,
}

/// A context to be kept: its parts, each with what its format script has printed.
#[derive(Clone, Debug)]
pub struct Kept<'a> {
    /// The parts.
    pub pieces: Vec<(&'a Piece, Option<String>)>,
    /// The chat that they belong to.
    pub channel: &'a str,
    /// Their messages.
    pub messages: Vec<Origin>,
    /// Whether the same may have been put here before.
    pub again: bool,
    /// The time, in seconds since 1970.
    pub now_s: f64,
}

/// Why nothing can be done with an inbox.
#[derive(Debug, thiserror::Error)]
pub enum InboxError {
    /// It is full.
    #[error("the inbox {} is full ({entries} contexts, {bytes} bytes): take them with 'hermes-bus agent drain'", path.display())]
    Full {
        /// Its directory.
        path: PathBuf,
        /// Contexts in it.
        entries: usize,
        /// Their bytes.
        bytes: u64,
    },
    /// Somebody else is busy with it.
    #[error("the inbox {} is being drained by somebody else: try again", path.display())]
    Busy {
        /// Its directory.
        path: PathBuf,
    },
    /// The system refuses.
    #[error("the inbox {}: {error}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
}

/// The inbox of one agent.
#[derive(Clone, Debug)]
pub struct Inbox {
    directory: PathBuf,
}

impl Inbox {
    /// The inbox of the agent `name` on the bus whose root directory is `root`. It need not be there.
    pub fn of(root: &Path, name: &str) -> Inbox {
        Inbox { directory: root.join("hermes-bus/inbox").join(file_name(name)) }
    }

    /// Its directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Makes what is missing of it, for this user alone.
    pub fn create(&self) -> Result<(), InboxError> {
        for directory in [&self.waiting(), &self.whole()] {
            let mut builder = DirBuilder::new();
            builder.recursive(true).mode(0o700);
            builder.create(directory).map_err(|error| self.trouble(directory, error))?;
        }
        Ok(())
    }

    fn waiting(&self) -> PathBuf {
        self.directory.join("waiting")
    }

    fn whole(&self) -> PathBuf {
        self.directory.join("whole")
    }

    fn trouble(&self, path: &Path, error: io::Error) -> InboxError {
        InboxError::Io { path: path.to_owned(), error }
    }

    // ---- putting ------------------------------------------------------------------------------------

    /// Keeps a context. When this returns `Ok`, it is on disk. One that waits here already is not kept twice.
    pub fn put(&self, kept: &Kept<'_>) -> Result<(), InboxError> {
        self.create()?;
        let names = self.names()?;
        let mark = kept.mark();
        if names.iter().any(|name| stem(name).ends_with(&mark)) {
            return Ok(());
        }
        let stem = format!("{:020}-{mark}", next_number(&names, kept.now_s));
        let (entry, wholes) = self.entry(kept, &stem);
        let json = serde_json::to_vec(&entry)
            .map_err(|error| self.trouble(&self.directory, error.into()))?;
        let wanted = json.len() + wholes.iter().map(|(_, text)| text.len()).sum::<usize>();
        self.make_room(&names, wanted as u64)?;
        for (path, text) in &wholes {
            write(path, text.as_bytes()).map_err(|error| self.trouble(path, error))?;
        }
        let path = self.waiting().join(format!("{stem}{FRESH}"));
        let sync = |directory: PathBuf| {
            File::open(&directory)
                .and_then(|open| open.sync_all())
                .map_err(|e| self.trouble(&directory, e))
        };
        if !wholes.is_empty() {
            sync(self.whole())?;
        }
        write(&path, &json).map_err(|error| self.trouble(&path, error))?;
        sync(self.waiting())
    }

    fn entry(&self, kept: &Kept<'_>, stem: &str) -> (Entry, Vec<(PathBuf, String)>) {
        let mut wholes = Vec::new();
        let mut texts = Vec::new();
        for (number, (piece, script)) in kept.pieces.iter().enumerate() {
            let whole = piece.whole(script.as_deref());
            let path = self.whole().join(format!("{stem}-{number}.txt"));
            texts.push(piece.marked(&whole, &path.display().to_string()));
            if piece.is_cut(&whole) {
                wholes.push((path, whole));
            }
        }
        let entry = Entry {
            text: texts.join("\n"),
            channel: kept.channel.to_owned(),
            messages: kept.messages.clone(),
            whole: wholes.iter().map(|(path, _)| path.clone()).collect(),
            kept_ts: kept.now_s,
            again: kept.again,
        };
        (entry, wholes)
    }

    /// Whole texts of contexts that were taken make room, the oldest first; what waits does not.
    fn make_room(&self, names: &[String], wanted: u64) -> Result<(), InboxError> {
        let size = |path: &Path| fs::metadata(path).map_or(0, |file| file.len());
        let waiting: HashSet<&str> = names.iter().map(|name| stem(name)).collect();
        let mut bytes: u64 = names.iter().map(|name| size(&self.waiting().join(name))).sum();
        let mut taken = Vec::new();
        for name in list(&self.whole()).map_err(|error| self.trouble(&self.whole(), error))? {
            let path = self.whole().join(&name);
            let whole_bytes = size(&path);
            bytes += whole_bytes;
            let is_waited_for =
                name.rsplit_once('-').is_some_and(|(stem, _)| waiting.contains(stem));
            if !is_waited_for {
                taken.push((path, whole_bytes));
            }
        }
        for (path, whole_bytes) in taken {
            if bytes + wanted <= BYTES_MAX {
                break;
            }
            fs::remove_file(&path).map_err(|error| self.trouble(&path, error))?;
            bytes -= whole_bytes;
        }
        if names.len() >= ENTRIES_MAX || bytes + wanted > BYTES_MAX {
            return Err(InboxError::Full {
                path: self.directory.clone(),
                entries: names.len(),
                bytes,
            });
        }
        Ok(())
    }

    /// The entries' file names, oldest first.
    fn names(&self) -> Result<Vec<String>, InboxError> {
        let directory = self.waiting();
        let mut names = list(&directory).map_err(|error| self.trouble(&directory, error))?;
        names.retain(|name| name.ends_with(FRESH));
        Ok(names)
    }

    /// How many contexts wait.
    pub fn len(&self) -> Result<usize, InboxError> {
        Ok(self.names()?.len())
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> Result<bool, InboxError> {
        Ok(self.len()? == 0)
    }

    // ---- taking -------------------------------------------------------------------------------------

    /// What waits, oldest first, `limit` at most. It stays.
    pub fn look(&self, limit: usize) -> Result<Vec<Entry>, InboxError> {
        let names = self.names()?;
        names.iter().take(limit).filter_map(|name| self.read(name).transpose()).collect()
    }

    /// Hands out what waits, oldest first, `limit` at most, and removes what `hand_out` has taken. Returns how many
    /// that were. An error of `hand_out` leaves the rest, marked as perhaps handed out before.
    pub fn drain(
        &self,
        limit: usize,
        hand_out: impl FnOnce(&[Entry]) -> io::Result<()>,
    ) -> Result<Result<usize, io::Error>, InboxError> {
        if !self.waiting().exists() {
            return Ok(hand_out(&[]).map(|()| 0));
        }
        let _lock = self.lock()?;
        let mut handed = Vec::new();
        let mut entries = Vec::new();
        for name in self.names()?.into_iter().take(limit) {
            let Some(mut entry) = self.read(&name)? else { continue };
            let marked = format!("{}{HANDED}", stem(&name));
            entry.again |= name == marked;
            let (old, new) = (self.waiting().join(&name), self.waiting().join(&marked));
            fs::rename(&old, &new).map_err(|error| self.trouble(&old, error))?;
            handed.push(new);
            entries.push(entry);
        }
        if let Err(error) = hand_out(&entries) {
            return Ok(Err(error));
        }
        for path in &handed {
            fs::remove_file(path).map_err(|error| self.trouble(path, error))?;
        }
        Ok(Ok(handed.len()))
    }

    /// `None`: it is none of ours, and is set aside.
    fn read(&self, name: &str) -> Result<Option<Entry>, InboxError> {
        let path = self.waiting().join(name);
        let text = match fs::read(&path) {
            Ok(text) => text,
            // Somebody else has taken it meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(self.trouble(&path, error)),
        };
        match serde_json::from_slice(&text) {
            Ok(entry) => Ok(Some(entry)),
            Err(_) => {
                let aside = path.with_extension("unreadable");
                fs::rename(&path, aside).map_err(|error| self.trouble(&path, error))?;
                Ok(None)
            }
        }
    }

    /// Held until it is dropped. Of two that drain at the same time, each gets what the other one did not.
    fn lock(&self) -> Result<File, InboxError> {
        let path = self.directory.join("lock");
        let file =
            OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path);
        let file = file.map_err(|error| self.trouble(&path, error))?;
        let patience_ends = Instant::now() + LOCK_PATIENCE;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::WouldBlock) if Instant::now() < patience_ends => {
                    std::thread::sleep(Duration::from_millis(20));
                }
                Err(TryLockError::WouldBlock) => {
                    return Err(InboxError::Busy { path: self.directory.clone() });
                }
                Err(TryLockError::Error(error)) => return Err(self.trouble(&path, error)),
            }
        }
    }

    // ---- the agent's state --------------------------------------------------------------------------

    /// What the agent was last said to be doing; idle where nobody has said anything.
    pub fn state(&self) -> AgentState {
        let text = fs::read_to_string(self.directory.join("state")).unwrap_or_default();
        AgentState::of(text.trim()).unwrap_or_default()
    }

    /// Says what the agent is doing.
    pub fn set_state(&self, state: AgentState) -> Result<(), InboxError> {
        self.create()?;
        let path = self.directory.join("state");
        write(&path, format!("{}\n", state.as_str()).as_bytes())
            .map_err(|error| self.trouble(&path, error))
    }
}

impl Kept<'_> {
    /// What tells this context from all others, also when its messages come again.
    fn mark(&self) -> String {
        let mut hasher = DefaultHasher::new();
        for origin in &self.messages {
            (&origin.id, &origin.from, &origin.sender, origin.sender_uid, &origin.body_type)
                .hash(&mut hasher);
            origin.ts.map(f64::to_bits).hash(&mut hasher);
        }
        for (piece, script) in &self.pieces {
            piece.whole(script.as_deref()).hash(&mut hasher);
        }
        self.channel.hash(&mut hasher);
        format!("{:016x}", hasher.finish())
    }
}

/// The name without what says whether it was handed out.
fn stem(name: &str) -> &str {
    name.strip_suffix(HANDED).or_else(|| name.strip_suffix(FRESH)).unwrap_or(name)
}

/// Behind all that wait, and growing with the time, so that what is drained leaves no number behind.
fn next_number(names: &[String], now_s: f64) -> u64 {
    let last = names.iter().filter_map(|name| name.split('-').next()?.parse::<u64>().ok()).max();
    last.map_or(0, |last| last.saturating_add(1)).max((now_s * 1e6) as u64)
}

/// The names in a directory, sorted.
fn list(directory: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut names = Vec::new();
    for entry in entries {
        if let Ok(name) = entry?.file_name().into_string() {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// Writes a file that is there as a whole or not at all.
fn write(path: &Path, text: &[u8]) -> io::Result<()> {
    let partial = path.with_extension("partial");
    let mut file =
        OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&partial)?;
    file.write_all(text)?;
    file.sync_all()?;
    fs::rename(&partial, path)
}

/// The name of an endpoint as that of a directory.
fn file_name(name: &str) -> String {
    /// Systems take 255 bytes.
    const BYTES_MAX: usize = 200;
    let mut encoded = String::new();
    for byte in name.bytes() {
        let is_plain = byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
        if is_plain || (byte == b'.' && !encoded.is_empty()) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    if encoded.len() > BYTES_MAX {
        let mut hasher = DefaultHasher::new();
        name.hash(&mut hasher);
        encoded.truncate(BYTES_MAX);
        encoded.push_str(&format!("~{:016x}", hasher.finish()));
    }
    if encoded.is_empty() { "%".to_owned() } else { encoded }
}

#[cfg(test)]
#[path = "inbox_tests.rs"]
mod tests;

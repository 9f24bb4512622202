//! The system's journal, in its own protocol: one datagram a line, with fields.
//!
//! Not through `tracing-journald`: that one waits when the journal does not read, and the bus's loop
//! may wait for nobody. The protocol is <https://systemd.io/JOURNAL_NATIVE_PROTOCOL/>.

use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tracing::Level;

use super::record::Record;

/// Where the journal listens.
pub(super) const SOCKET: &str = "/run/systemd/journal/socket";
/// Under which name `journalctl -t` finds the lines.
const IDENTIFIER: &str = "hermes-bus-server";

/// A way to the journal. It holds no connection: a journal that is restarted is found again.
#[derive(Debug)]
pub(super) struct Journal {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Journal {
    /// Fails if no journal listens there.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        UnixDatagram::unbound()?.connect(path)?;
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        Ok(Journal { socket, path: path.to_owned() })
    }

    /// Sends a line; never waits.
    pub(super) fn write(&self, record: &Record) -> io::Result<()> {
        self.socket.send_to(&entry(record), &self.path)?;
        Ok(())
    }
}

/// Most bytes of a text: a datagram has a limit of some 200 kB, and a line over it would be lost as a
/// whole.
const TEXT_BYTES_MAX: usize = 48 * 1024;

/// The beginning and the end of a text that is too long: at the end stands what failed.
fn shortened(text: &str) -> String {
    if text.len() <= TEXT_BYTES_MAX {
        return text.to_owned();
    }
    let is_boundary = |at: &usize| text.is_char_boundary(*at);
    let head = (0..=TEXT_BYTES_MAX / 2).rev().find(is_boundary).unwrap_or(0);
    let tail = (text.len() - TEXT_BYTES_MAX / 2..).find(is_boundary).unwrap_or(text.len());
    format!("{} … {}", &text[..head], &text[tail..])
}

fn entry(record: &Record) -> Vec<u8> {
    let mut entry = Vec::with_capacity(256);
    push(&mut entry, "MESSAGE", &shortened(&record.text()));
    push(&mut entry, "PRIORITY", priority(record.level));
    push(&mut entry, "SYSLOG_IDENTIFIER", IDENTIFIER);
    push(&mut entry, "HERMES_BUS_TARGET", record.target);
    for (name, value) in &record.fields {
        let name = format!("HERMES_BUS_{}", name.to_ascii_uppercase().replace('.', "_"));
        match value {
            Value::String(text) => push(&mut entry, &name, &shortened(text)),
            other => push(&mut entry, &name, &other.to_string()),
        }
    }
    entry
}

/// Always in the form with a length: it holds whatever a value holds.
fn push(entry: &mut Vec<u8>, name: &str, value: &str) {
    entry.extend_from_slice(name.as_bytes());
    entry.push(b'\n');
    entry.extend_from_slice(&(value.len() as u64).to_le_bytes());
    entry.extend_from_slice(value.as_bytes());
    entry.push(b'\n');
}

fn priority(level: Level) -> &'static str {
    match level {
        Level::ERROR => "3",
        Level::WARN => "4",
        Level::INFO => "6",
        Level::DEBUG | Level::TRACE => "7",
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Takes an entry apart, as the journal does.
    pub(crate) fn parse(mut entry: &[u8]) -> Vec<(String, String)> {
        let mut fields = Vec::new();
        while !entry.is_empty() {
            let end = entry.iter().position(|byte| *byte == b'\n').unwrap();
            let name = String::from_utf8(entry[..end].to_vec()).unwrap();
            let (length, rest) = entry[end + 1..].split_first_chunk::<8>().unwrap();
            let (value, rest) = rest.split_at(u64::from_le_bytes(*length) as usize);
            assert_eq!(rest[0], b'\n');
            fields.push((name, String::from_utf8(value.to_vec()).unwrap()));
            entry = &rest[1..];
        }
        fields
    }

    #[test]
    fn an_entry_has_priority_text_and_fields() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("journal");
        assert!(Journal::open(&path).is_err(), "nobody listens");
        let receiver = UnixDatagram::bind(&path).unwrap();
        let journal = Journal::open(&path).unwrap();
        let mut record = Record::new(Level::WARN, "router", "two\nPRIORITY=0 lines".to_owned());
        record.fields.push(("endpoint", "a".into()));
        record.fields.push(("pid", 7.into()));
        journal.write(&record).unwrap();
        let mut buffer = [0; 4096];
        let length = receiver.recv(&mut buffer).unwrap();
        let fields = parse(&buffer[..length]);
        let expected = [
            ("MESSAGE", "two\nPRIORITY=0 lines"),
            ("PRIORITY", "4"),
            ("SYSLOG_IDENTIFIER", IDENTIFIER),
            ("HERMES_BUS_TARGET", "router"),
            ("HERMES_BUS_ENDPOINT", "a"),
            ("HERMES_BUS_PID", "7"),
        ];
        let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(fields, expected);
    }

    #[test]
    fn a_line_that_no_datagram_takes_is_shortened() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("journal");
        let receiver = UnixDatagram::bind(&path).unwrap();
        let journal = Journal::open(&path).unwrap();
        let text = format!("first {} last", "é".repeat(500_000));
        journal.write(&Record::new(Level::WARN, "hooks", text)).unwrap();
        let mut buffer = vec![0; 100_000];
        let length = receiver.recv(&mut buffer).unwrap();
        let (_, message) = parse(&buffer[..length]).swap_remove(0);
        assert!(message.starts_with("first é") && message.ends_with("é last"));
        assert!(message.len() <= TEXT_BYTES_MAX + 5, "{}", message.len());
    }

    #[test]
    fn a_journal_that_does_not_read_is_not_waited_for_and_one_that_came_back_is_found() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("journal");
        let receiver = UnixDatagram::bind(&path).unwrap();
        let journal = Journal::open(&path).unwrap();
        let record = Record::new(Level::INFO, "bus", "x".repeat(1_000));
        // Ends, because a socket's queue is finite.
        while journal.write(&record).is_ok() {}
        drop(receiver);
        std::fs::remove_file(&path).unwrap();
        assert!(journal.write(&record).is_err());
        let _receiver = UnixDatagram::bind(&path).unwrap();
        journal.write(&record).unwrap();
    }
}

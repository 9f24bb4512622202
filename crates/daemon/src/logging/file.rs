//! The log file. It is kept small, and other programs write to it as well: `hermes-busd` appends to it
//! by its path, and a detached server's own output goes there.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::{FlockOperation, OFlags};

use super::record::{push_printable, stamp};

/// What is left at most of a file that is cut in place: it is copied while everything else waits.
const KEPT_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// What is looked at for the last lines.
const TAIL_BYTES: u64 = 250_000;

/// How a log file is kept small.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Room {
    /// A file over this size makes room.
    pub(super) bytes_max: u64,
    /// Older files that are kept; with 0 the file is cut in place.
    pub(super) files_kept: u32,
}

/// An open log file, as the server has it.
#[derive(Debug)]
pub(super) struct LogFile {
    path: PathBuf,
    file: File,
    room: Room,
    /// A line was written in part: the next one begins anew.
    is_torn: bool,
}

impl LogFile {
    /// Opens or creates the file, and makes room in it.
    pub(super) fn open(path: &Path, room: Room) -> io::Result<Self> {
        let file = append_to(path)?;
        let mut log = LogFile { path: path.to_owned(), file, room, is_torn: false };
        log.make_room()?;
        Ok(log)
    }

    pub(super) fn set_room(&mut self, room: Room) {
        self.room = room;
    }

    /// Adds a whole line.
    pub(super) fn write(&mut self, line: &[u8]) -> io::Result<()> {
        if identity(&fs::metadata(&self.path)) != identity(&self.file.metadata()) {
            // It was moved or deleted.
            self.reopen()?;
        }
        self.make_room()?;
        if self.is_torn {
            self.write_all(b"\n")?;
            self.is_torn = false;
        }
        self.write_all(line)
    }

    fn write_all(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.file.write(bytes) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    bytes = &bytes[written..];
                    self.is_torn = !bytes.is_empty();
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn make_room(&mut self) -> io::Result<()> {
        let found = self.file.metadata()?;
        if !found.is_file() || found.len() <= self.room.bytes_max {
            return Ok(());
        }
        if self.room.files_kept > 0 && self.rotate().is_ok() {
            return Ok(());
        }
        self.cut()
    }

    /// Gives older files the next number, and begins a new one.
    fn rotate(&mut self) -> io::Result<()> {
        let kept = self.room.files_kept;
        // Left over from when more were kept.
        for number in kept + 1.. {
            if fs::remove_file(numbered(&self.path, number)).is_err() {
                break;
            }
        }
        for number in (1..kept).rev() {
            match fs::rename(numbered(&self.path, number), numbered(&self.path, number + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        fs::rename(&self.path, numbered(&self.path, 1))?;
        self.reopen()
    }

    /// Opens what the path leads to now. Where this process's own output went to the old file, it
    /// follows.
    fn reopen(&mut self) -> io::Result<()> {
        let old = std::mem::replace(&mut self.file, append_to(&self.path)?);
        self.is_torn = false;
        let of = |found: rustix::io::Result<rustix::fs::Stat>| {
            found.ok().map(|found| (found.st_dev, found.st_ino))
        };
        let old = of(rustix::fs::fstat(&old));
        if of(rustix::fs::fstat(rustix::stdio::stdout())) == old {
            rustix::stdio::dup2_stdout(&self.file)?;
        }
        if of(rustix::fs::fstat(rustix::stdio::stderr())) == old {
            rustix::stdio::dup2_stderr(&self.file)?;
        }
        Ok(())
    }

    /// Leaves the last whole lines. In place, because other programs have the file open.
    fn cut(&mut self) -> io::Result<()> {
        let kept_bytes = (self.room.bytes_max / 2).min(KEPT_BYTES_MAX);
        let bytes = self.file.metadata()?.len();
        // `hermes-busd` holds it while it writes a line; then the next line makes room. Who holds it for
        // ever does not make the file grow for ever.
        let lock = Flock::take(&self.file, FlockOperation::NonBlockingLockExclusive);
        if lock.is_err() && bytes < self.room.bytes_max.saturating_mul(2) {
            return Ok(());
        }
        let mut kept = Vec::with_capacity(kept_bytes as usize + 4096);
        self.file.seek(SeekFrom::Start(bytes.saturating_sub(kept_bytes)))?;
        // Until nothing has been added meanwhile: what is not read here is lost.
        while self.file.read_to_end(&mut kept)? > 0 {}
        self.file.set_len(0)?;
        let whole_lines = kept.iter().position(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        self.write_all(&kept[whole_lines..])
    }
}

/// A lock on a file for as long as this value lives.
struct Flock(File);

impl Flock {
    fn take(file: &File, how: FlockOperation) -> io::Result<Self> {
        let file = file.try_clone()?;
        rustix::fs::flock(&file, how)?;
        Ok(Flock(file))
    }
}

impl Drop for Flock {
    fn drop(&mut self) {
        let _ = rustix::fs::flock(&self.0, FlockOperation::Unlock);
    }
}

/// Opens or creates a log file, for lines at its end. A pipe in its place is not waited for.
pub(crate) fn append_to(path: &Path) -> io::Result<File> {
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let mut options = OpenOptions::new();
    options.read(true).append(true).create(true).mode(0o600).custom_flags(flags);
    options.open(path)
}

/// Adds a line with the time in front, as programs beside the server do.
pub(crate) fn note(path: &Path, text: &str) -> io::Result<()> {
    let mut file = append_to(path)?;
    let mut line = format!("[{}] ", stamp(SystemTime::now()));
    push_printable(&mut line, text);
    line.push('\n');
    // A server that cuts the file is done in a moment. One that was stopped while it did is not
    // waited for.
    let _cutter = Flock::take(&file, FlockOperation::NonBlockingLockShared);
    file.write_all(line.as_bytes())
}

/// `busd.log` with a number behind it.
fn numbered(path: &Path, number: u32) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(format!(".{number}"));
    PathBuf::from(name)
}

/// Device and inode.
fn identity(found: &io::Result<fs::Metadata>) -> Option<(u64, u64)> {
    found.as_ref().ok().map(|found| (found.dev(), found.ino()))
}

/// The last `count` lines of a log.
pub(crate) fn tail(path: &Path, count: usize) -> io::Result<Vec<String>> {
    let file = File::open(path)?;
    let bytes = file.metadata()?.len();
    let start = bytes.saturating_sub(TAIL_BYTES);
    let mut text = vec![0; (bytes - start) as usize];
    let read = file.read_at(&mut text, start)?;
    let text = String::from_utf8_lossy(&text[..read]);
    let lines: Vec<&str> = text.lines().collect();
    Ok(lines[lines.len().saturating_sub(count)..].iter().map(|line| (*line).to_owned()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const CUT: Room = Room { bytes_max: 10_000, files_kept: 0 };
    const KEEP_2: Room = Room { bytes_max: 10_000, files_kept: 2 };

    fn read(path: &Path) -> String {
        fs::read_to_string(path).unwrap()
    }

    fn fill(log: &mut LogFile, numbers: std::ops::Range<u32>) {
        for number in numbers {
            log.write(format!("line {number:06}\n").as_bytes()).unwrap();
        }
    }

    #[test]
    fn a_large_log_is_cut_in_place_to_its_last_whole_lines() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("busd.log");
        let text: String = (0..2_000).map(|n| format!("line {n:06} of an old log\n")).collect();
        fs::write(&path, &text).unwrap();
        let mut other = OpenOptions::new().append(true).open(&path).unwrap();
        let mut log = LogFile::open(&path, CUT).unwrap();
        log.write(b"new\n").unwrap();
        other.write_all(b"from another program\n").unwrap();
        let cut = read(&path);
        assert!((4_900..5_100).contains(&cut.len()), "{}", cut.len());
        assert!(cut.starts_with("line 00"), "it begins with a whole line");
        assert!(cut.ends_with("line 001999 of an old log\nnew\nfrom another program\n"));
        assert_eq!(tail(&path, 2).unwrap(), ["new", "from another program"]);
        fill(&mut log, 0..10_000);
        assert!(read(&path).len() <= 10_000 + 12);
    }

    #[test]
    fn older_files_are_kept_as_many_as_wanted_and_no_line_is_missing_in_them() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("busd.log");
        let mut log = LogFile::open(&path, KEEP_2).unwrap();
        fill(&mut log, 0..3_000);
        let mut names: Vec<_> = fs::read_dir(directory.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["busd.log", "busd.log.1", "busd.log.2"]);
        let all = read(&numbered(&path, 2)) + &read(&numbered(&path, 1)) + &read(&path);
        let lines: Vec<&str> = all.lines().collect();
        let first = 3_000 - lines.len();
        assert!(lines.len() > 1_600, "{}", lines.len());
        for (place, line) in lines.iter().enumerate() {
            assert_eq!(*line, format!("line {:06}", first + place));
        }
        // With fewer to keep, the others go.
        log.set_room(Room { files_kept: 1, ..KEEP_2 });
        fill(&mut log, 3_000..4_000);
        assert!(!numbered(&path, 2).exists() && numbered(&path, 1).exists());
    }

    #[test]
    fn a_file_that_was_moved_or_deleted_is_opened_anew() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("busd.log");
        let mut log = LogFile::open(&path, CUT).unwrap();
        log.write(b"first\n").unwrap();
        fs::rename(&path, directory.path().join("moved")).unwrap();
        log.write(b"second\n").unwrap();
        assert_eq!(read(&path), "second\n");
        assert_eq!(read(&directory.path().join("moved")), "first\n");
        fs::remove_file(&path).unwrap();
        log.write(b"third\n").unwrap();
        assert_eq!(read(&path), "third\n");
    }

    #[test]
    fn what_another_program_notes_stays_when_the_file_is_cut() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("busd.log");
        let mut log = LogFile::open(&path, CUT).unwrap();
        fill(&mut log, 0..800);
        note(&path, "two\nlines").unwrap();
        fill(&mut log, 800..900);
        let text = read(&path);
        assert!(text.contains("Z] two\\nlines\nline 000800\n"));
        assert!(!text.contains("line 000000"), "it was cut");
    }

    #[test]
    fn a_pipe_in_place_of_the_log_is_not_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("busd.log");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &path,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
            0,
        )
        .unwrap();
        let mut log = LogFile::open(&path, CUT).unwrap();
        // Ends, because a pipe's buffer is finite.
        while log.write(&[b'x'; 1_000]).is_ok() {}
    }
}

//! Where lines go. Whatever is wrong there never ends the daemon and never keeps it waiting: lines
//! that cannot be written are counted, and that is said when it works again.

use std::io::{self, Write};
use std::os::fd::AsFd;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tracing::Level;

use super::file::LogFile;
use super::journal::Journal;
use super::record::Record;
use super::{Format, target};

/// What a pipe takes at once or not at all.
const PIECE_BYTES: usize = 4096;

/// An open place for lines.
#[derive(Debug)]
pub(super) enum Place {
    File(LogFile),
    StandardError,
    Journal(Journal),
}

/// Writes records to a place.
#[derive(Debug)]
pub(super) struct Output {
    pub(super) place: Place,
    pub(super) format: Format,
    /// Lines that could not be written since the last one that could.
    lost: u64,
    /// Why.
    trouble: String,
    /// A line was written to standard error in part: the next one begins anew.
    is_torn: bool,
}

impl Output {
    pub(super) fn new(place: Place, format: Format) -> Self {
        Output { place, format, lost: 0, trouble: String::new(), is_torn: false }
    }

    /// Writes a line, or counts it.
    pub(super) fn write(&mut self, record: &Record) {
        let written = self.tell_of_lost().and_then(|()| self.put(record));
        if let Err(error) = written {
            self.lost += 1;
            self.trouble = error.to_string();
        }
    }

    fn tell_of_lost(&mut self) -> io::Result<()> {
        if self.lost == 0 {
            return Ok(());
        }
        let text = format!("log lines that could not be written: {} ({})", self.lost, self.trouble);
        self.put(&Record::new(Level::WARN, target::BUS, text))?;
        self.lost = 0;
        Ok(())
    }

    fn put(&mut self, record: &Record) -> io::Result<()> {
        match &mut self.place {
            Place::File(file) => file.write(record.line(self.format).as_bytes()),
            Place::StandardError => {
                let error = io::stderr().lock();
                write_in_pieces(error, record.line(self.format).as_bytes(), &mut self.is_torn)
            }
            Place::Journal(journal) => journal.write(record),
        }
    }
}

/// Writes as far as `place` takes it without keeping this process waiting.
fn write_in_pieces(
    mut place: impl Write + AsFd,
    line: &[u8],
    is_torn: &mut bool,
) -> io::Result<()> {
    let end_of_torn: &[u8] = if *is_torn { b"\n" } else { b"" };
    let whole = [end_of_torn, line].concat();
    for piece in whole.chunks(PIECE_BYTES) {
        let mut fds = [PollFd::new(&place, PollFlags::OUT)];
        if poll(&mut fds, Some(&Timespec::default()))? == 0 {
            return Err(io::Error::new(io::ErrorKind::WouldBlock, "nobody reads standard error"));
        }
        place.write_all(piece)?;
        *is_torn = true;
    }
    *is_torn = false;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::logging::file::Room;

    #[test]
    fn lines_for_a_full_disk_are_counted_and_spoken_of_when_there_is_room_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("busd.log");
        symlink("/dev/full", &path).unwrap();
        let room = Room { bytes_max: 10_000, files_kept: 0 };
        let file = LogFile::open(&path, room).unwrap();
        let mut output = Output::new(Place::File(file), Format::Human);
        let record = |text: &str| Record::new(Level::INFO, target::BUS, text.to_owned());
        output.write(&record("first"));
        output.write(&record("second"));
        std::fs::remove_file(&path).unwrap();
        output.write(&record("third"));
        output.write(&record("fourth"));
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = text.lines().map(|line| line.split_once(' ').unwrap().1).collect();
        let lost =
            "warn: log lines that could not be written: 2 (No space left on device (os error 28))";
        assert_eq!(lines, [lost, "info: third", "info: fourth"]);
    }

    #[test]
    fn a_line_behind_one_that_was_cut_off_begins_anew() {
        let (mut reader, writer) = io::pipe().unwrap();
        let mut is_torn = false;
        let mut write = |line: &[u8]| write_in_pieces(&writer, line, &mut is_torn);
        let long = [b"x".repeat(1_000_000), b"\n".to_vec()].concat();
        assert_eq!(write(&long).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        assert_eq!(write(b"refused\n").unwrap_err().kind(), io::ErrorKind::WouldBlock);
        let mut taken = vec![0; 60_000];
        reader.read_exact(&mut taken).unwrap();
        write(b"next\n").unwrap();
        drop(writer);
        let mut rest = String::new();
        reader.read_to_string(&mut rest).unwrap();
        assert!(rest.ends_with("x\nnext\n") && rest.matches('\n').count() == 2, "{rest}");
    }

    #[test]
    fn a_directory_that_is_gone_costs_lines_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let run = directory.path().join("run");
        std::fs::create_dir(&run).unwrap();
        let room = Room { bytes_max: 10_000, files_kept: 3 };
        let file = LogFile::open(&run.join("busd.log"), room).unwrap();
        let mut output = Output::new(Place::File(file), Format::Human);
        std::fs::remove_dir_all(&run).unwrap();
        output.write(&Record::new(Level::INFO, target::BUS, "lost".to_owned()));
        std::fs::create_dir(&run).unwrap();
        output.write(&Record::new(Level::INFO, target::BUS, "found".to_owned()));
        let text = std::fs::read_to_string(run.join("busd.log")).unwrap();
        assert!(text.contains("could not be written: 1 (") && text.ends_with("info: found\n"));
    }
}

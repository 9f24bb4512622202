//! The daemon's ends of a hook's pipes: the message going in, the output coming out.

use std::io;
use std::os::fd::OwnedFd;

use bytes::Bytes;
use rustix::io::ioctl_fionbio;
use tokio::net::unix::pipe;

/// What is read of a hook's output at a time.
const READ_BYTES: usize = 16 * 1024;
/// What is read at most of what a hook has left behind in the pipe when it ends: a pipe holds no more,
/// unless somebody still writes.
const LAST_READS: usize = 64;

/// The message on its way into a hook's standard input.
pub(super) struct Input {
    /// None once the hook has it all, or has closed its side.
    pipe: Option<pipe::Sender>,
    message: Bytes,
    written: usize,
}

impl Input {
    /// A pipe for a message, and the hook's end of it.
    pub(super) fn of(message: Bytes) -> io::Result<(Self, io::PipeReader)> {
        let (theirs, ours) = io::pipe()?;
        let ours = OwnedFd::from(ours);
        ioctl_fionbio(&ours, true)?;
        let pipe = Some(pipe::Sender::from_owned_fd(ours)?);
        let mut input = Input { pipe, message, written: 0 };
        input.write();
        Ok((input, theirs))
    }

    /// Whether the hook does not have all yet.
    pub(super) fn is_open(&self) -> bool {
        self.pipe.is_some()
    }

    /// Waits until the pipe takes more, and writes it. May be dropped while it waits.
    pub(super) async fn go_on(&mut self) {
        if let Some(pipe) = &self.pipe {
            match pipe.writable().await {
                Ok(()) => self.write(),
                Err(_) => self.pipe = None,
            }
        }
    }

    fn write(&mut self) {
        while let Some(pipe) = &self.pipe {
            match pipe.try_write(&self.message[self.written..]) {
                Ok(written) => self.written += written,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // It has closed its side: it does not want to know, which is no failure.
                Err(_) => self.pipe = None,
            }
            if self.written == self.message.len() {
                self.pipe = None;
            }
        }
    }
}

/// A hook's standard output and standard error, of which the end is kept.
pub(super) struct Output {
    /// None once all who could write have closed it.
    pipe: Option<pipe::Receiver>,
    kept: Vec<u8>,
    kept_bytes_max: usize,
    read_bytes: u64,
}

impl Output {
    /// A pipe whose last `kept_bytes_max` bytes are kept, and the hook's end of it.
    pub(super) fn keeping(kept_bytes_max: usize) -> io::Result<(Self, io::PipeWriter)> {
        let (ours, theirs) = io::pipe()?;
        let ours = OwnedFd::from(ours);
        ioctl_fionbio(&ours, true)?;
        let pipe = Some(pipe::Receiver::from_owned_fd(ours)?);
        Ok((Output { pipe, kept: Vec::new(), kept_bytes_max, read_bytes: 0 }, theirs))
    }

    /// Whether somebody can still write.
    pub(super) fn is_open(&self) -> bool {
        self.pipe.is_some()
    }

    /// Waits for output and reads some. May be dropped while it waits.
    pub(super) async fn go_on(&mut self) {
        if let Some(pipe) = &self.pipe {
            match pipe.readable().await {
                Ok(()) => {
                    self.read();
                }
                Err(_) => self.pipe = None,
            }
        }
    }

    /// Reads what has been written so far.
    pub(super) fn read_what_is_there(&mut self) {
        for _ in 0..LAST_READS {
            if !self.read() {
                break;
            }
        }
    }

    /// Reads once; false if nothing was there.
    fn read(&mut self) -> bool {
        let Some(pipe) = &self.pipe else { return false };
        let mut buffer = [0; READ_BYTES];
        match pipe.try_read(&mut buffer) {
            Ok(read @ 1..) => {
                self.keep(&buffer[..read]);
                true
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => false,
            _ => {
                self.pipe = None;
                false
            }
        }
    }

    fn keep(&mut self, bytes: &[u8]) {
        self.read_bytes += bytes.len() as u64;
        let end = &bytes[bytes.len() - bytes.len().min(self.kept_bytes_max)..];
        let room = self.kept_bytes_max - end.len();
        if self.kept.len() > room {
            self.kept.drain(..self.kept.len() - room);
        }
        self.kept.extend_from_slice(end);
    }

    /// The end of the output in one line, harmless for a log and a terminal; None if there was none.
    pub(super) fn shown(&self) -> Option<String> {
        let text = String::from_utf8_lossy(&self.kept);
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        let line = lines.collect::<Vec<_>>().join(" | ");
        if line.is_empty() {
            return None;
        }
        let mut shown = String::with_capacity(line.len() + 1);
        if self.read_bytes > self.kept.len() as u64 {
            shown.push('…');
        }
        for character in line.chars() {
            if character.is_control() || is_direction(character) {
                shown.extend(character.escape_unicode());
            } else {
                shown.push(character);
            }
        }
        Some(shown)
    }
}

/// Whether a character has a terminal show others in another order or on another line.
fn is_direction(character: char) -> bool {
    matches!(character, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output(kept_bytes_max: usize, pieces: &[&str]) -> Output {
        let mut output = Output { pipe: None, kept: Vec::new(), kept_bytes_max, read_bytes: 0 };
        pieces.iter().for_each(|piece| output.keep(piece.as_bytes()));
        output
    }

    #[test]
    fn the_end_of_the_output_is_kept() {
        assert_eq!(output(8, &["abc", "def"]).shown().as_deref(), Some("abcdef"));
        assert_eq!(output(4, &["abc", "def"]).shown().as_deref(), Some("…cdef"));
        assert_eq!(output(4, &["abc", "defghijk"]).shown().as_deref(), Some("…hijk"));
        assert_eq!(output(0, &["abc"]).shown(), None);
        assert_eq!(output(4, &[]).shown(), None);
        assert_eq!(output(4, &[" \n "]).shown(), None);
    }

    #[test]
    fn output_is_one_harmless_line() {
        let text = "Traceback:\n  File \"x\"\r\n\nError: \u{1b}[31mred\u{7}\u{202e}é\0\n";
        let shown = output(1_000, &[text]).shown().unwrap();
        let expected = "Traceback: | File \"x\" | Error: \\u{1b}[31mred\\u{7}\\u{202e}é\\u{0}";
        assert_eq!(shown, expected);
    }
}

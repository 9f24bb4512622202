//! What kind of program a file is, and the command that runs it. Never a shell.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::fs::{Access, AtFlags, CWD, accessat};
use tokio::process::Child;

use crate::service::PRIVATE_VARIABLES;

/// Names the Python interpreter that runs hooks which are no programs of their own.
pub const PYTHON_VARIABLE: &str = "HERMES_BUS_PYTHON";

/// Keeps the files that this process was given when it was started, or that were opened without care,
/// from all its children: only the three standard streams are passed on. To be called before hooks are
/// run, while nothing is open that is meant for another program.
pub fn keep_files_from_children() {
    close_fds::set_fds_cloexec(3, &[]);
}

/// How a file is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// By itself.
    Direct,
    /// By the Python interpreter.
    Python,
}

/// How a file begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    /// As native code.
    Native,
    /// With `#!`, and whether that names a Python.
    Script {
        asks_for_python: bool,
    },
    Other,
}

/// What is read of a file's beginning: a whole first line, as long as the kernel takes one.
const START_BYTES: u64 = 256;

/// Looks at a hook's file, now. None where there is no file that could be run: nothing, a directory,
/// a pipe.
pub(crate) fn look_at(path: &Path) -> Option<Kind> {
    if !path.metadata().is_ok_and(|metadata| metadata.is_file()) {
        return None;
    }
    let is_executable = accessat(CWD, path, Access::EXEC_OK, AtFlags::EACCESS).is_ok();
    // What cannot be read, Python cannot read either.
    let runs_itself = || start_of(path).map_or(true, |start| start != Start::Other);
    Some(if is_executable && runs_itself() { Kind::Direct } else { Kind::Python })
}

/// How the file at a path begins.
pub(crate) fn start_of(path: &Path) -> io::Result<Start> {
    const NATIVE: [[u8; 4]; 6] = [
        *b"\x7fELF",
        // Mach-O.
        [0xfe, 0xed, 0xfa, 0xce],
        [0xfe, 0xed, 0xfa, 0xcf],
        [0xce, 0xfa, 0xed, 0xfe],
        [0xcf, 0xfa, 0xed, 0xfe],
        [0xca, 0xfe, 0xba, 0xbe],
    ];
    let mut start = Vec::new();
    File::open(path)?.take(START_BYTES).read_to_end(&mut start)?;
    if NATIVE.iter().any(|magic| start.starts_with(magic)) {
        return Ok(Start::Native);
    }
    if !start.starts_with(b"#!") {
        return Ok(Start::Other);
    }
    let first_line = start.split(|byte| *byte == b'\n').next().unwrap_or_default();
    Ok(Start::Script { asks_for_python: String::from_utf8_lossy(first_line).contains("python") })
}

/// What runs hooks that do not run by themselves: the first of these that is found.
pub(crate) fn interpreters() -> Vec<OsString> {
    match std::env::var_os(PYTHON_VARIABLE).filter(|python| !python.is_empty()) {
        Some(python) => vec![python],
        None => vec!["python3".into(), "python".into()],
    }
}

/// What a call of a hook is started with.
pub(super) struct Launch<'a> {
    pub(super) path: &'a Path,
    pub(super) kind: Kind,
    pub(super) args: &'a [String],
    /// Beside the daemon's own; of a name that is there twice the last value counts.
    pub(super) variables: Vec<(&'a str, &'a str)>,
    pub(super) input: io::PipeReader,
    pub(super) output: io::PipeWriter,
}

/// How often, and how long apart, it is tried to start a program that somebody is just writing.
const BUSY_TRIES: usize = 5;
const BUSY_PAUSE: Duration = Duration::from_millis(5);

impl Launch<'_> {
    /// Starts the program in a process group of its own, in the daemon's working directory.
    pub(super) fn start(self) -> io::Result<Child> {
        let mut failure = None;
        for program in self.programs() {
            match self.start_as(&program) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => failure = Some(error),
                result => return result,
            }
        }
        Err(failure.unwrap_or_else(|| io::ErrorKind::NotFound.into()))
    }

    /// What to execute: the first of these that is found.
    fn programs(&self) -> Vec<OsString> {
        if self.kind == Kind::Direct {
            return vec![as_path(self.path).into()];
        }
        interpreters()
    }

    fn start_as(&self, program: &OsString) -> io::Result<Child> {
        let mut tries = 1;
        loop {
            match tokio::process::Command::from(self.command(program)?).spawn() {
                Err(error)
                    if error.kind() == io::ErrorKind::ExecutableFileBusy && tries < BUSY_TRIES =>
                {
                    tries += 1;
                    std::thread::sleep(BUSY_PAUSE);
                }
                Err(error) => {
                    let program = Path::new(program).display();
                    return Err(io::Error::new(error.kind(), format!("{program}: {error}")));
                }
                child => return child,
            }
        }
    }

    fn command(&self, program: &OsString) -> io::Result<Command> {
        let mut command = Command::new(program);
        if self.kind == Kind::Python {
            command.arg(as_path(self.path));
        }
        command.args(self.args);
        // What the service manager has told the daemon is not for others.
        for name in PRIVATE_VARIABLES {
            command.env_remove(name);
        }
        command.envs(self.variables.iter().copied());
        command.stdin(self.input.try_clone()?);
        command.stdout(self.output.try_clone()?).stderr(self.output.try_clone()?);
        command.process_group(0);
        Ok(command)
    }
}

/// A file's path as neither the search for programs nor an interpreter can take it for anything else.
fn as_path(path: &Path) -> PathBuf {
    if path.is_absolute() { path.to_owned() } else { Path::new(".").join(path) }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_file_is_run_by_itself_only_if_it_can_be() {
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str, content: &[u8], mode: u32| {
            let path = directory.path().join(name);
            fs::write(&path, content).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            look_at(&path)
        };
        assert_eq!(file("script", b"#!/bin/sh\n", 0o755), Some(Kind::Direct));
        assert_eq!(file("no-x", b"#!/bin/sh\n", 0o644), Some(Kind::Python));
        assert_eq!(file("no-shebang", b"print(1)\n", 0o755), Some(Kind::Python));
        assert_eq!(file("empty", b"", 0o755), Some(Kind::Python));
        assert_eq!(file("elf", b"\x7fELF\x02\x01", 0o755), Some(Kind::Direct));
        assert_eq!(file("mach-o", b"\xcf\xfa\xed\xfe\x07", 0o755), Some(Kind::Direct));
        assert_eq!(file("elf-no-x", b"\x7fELF\x02\x01", 0o644), Some(Kind::Python));
        assert_eq!(look_at(Path::new("/bin/cat")), Some(Kind::Direct));
    }

    #[test]
    fn what_is_no_file_is_not_run() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(look_at(directory.path()), None);
        assert_eq!(look_at(&directory.path().join("missing")), None);
        assert_eq!(look_at(Path::new("")), None);
        assert_eq!(look_at(Path::new("/a\0b")), None);
        assert_eq!(look_at(Path::new("/dev/null")), None);
    }

    #[test]
    fn a_relative_path_is_never_searched_for() {
        assert_eq!(as_path(Path::new("cat")), Path::new("./cat"));
        assert_eq!(as_path(Path::new("-c")), Path::new("./-c"));
        assert_eq!(as_path(Path::new("/bin/cat")), Path::new("/bin/cat"));
    }
}

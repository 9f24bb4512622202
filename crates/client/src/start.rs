//! Starting a daemon where there is none.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;
use tokio::time::timeout;

use crate::address::bus_directory;

/// Whether a client may start the daemon.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Start {
    /// Never.
    #[default]
    Never,
    /// Where no bus runs: `hermes-busd start`, found beside the running program, else on `PATH`. When
    /// a client comes back after its session has ended, only a bus that has crashed is started: a
    /// socket that is gone means that somebody has stopped it.
    Directory(PathBuf),
}

/// Why no daemon could be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// There is no such program.
    #[error("hermes-busd was not found, neither beside this program nor on PATH")]
    NoProgram,
    /// It cannot be run.
    #[error("cannot run {program}: {source}")]
    Run {
        /// Its path.
        program: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It ended with a failure.
    #[error("'{program} start' failed ({status}): {output}")]
    Failed {
        /// Its path.
        program: PathBuf,
        /// How it ended.
        status: String,
        /// The last line that it printed.
        output: String,
    },
    /// It did not end in time.
    #[error("'hermes-busd start' did not end within {0:?}")]
    Slow(Duration),
}

/// The daemon manager.
const MANAGER: &str = "hermes-busd";
/// More than a manager allows a daemon to take until it answers.
const PATIENCE: Duration = Duration::from_secs(12);
/// How long the last words of a manager are waited for.
const OUTPUT_PATIENCE: Duration = Duration::from_millis(20);

/// Starts the daemon of a directory, and returns when it runs. Several at once give one daemon. A
/// manager that does not end in time, or that nobody waits for any more, is ended by force.
/// Without a `manager` one is looked for.
pub(crate) async fn start(directory: &Path, manager: Option<&Path>) -> Result<(), StartError> {
    let program = manager.map(Path::to_owned).or_else(find_manager);
    let program = program.ok_or(StartError::NoProgram)?;
    let mut command = Command::new(&program);
    command.arg("start").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.kill_on_drop(true);
    // Also understood by managers that have no option for it.
    if bus_directory(None).ok().as_deref() != Some(directory) {
        command.env("HERMES_BUS_ROOT", directory);
    }
    let run = |source| StartError::Run { program: program.clone(), source };
    let mut manager = command.spawn().map_err(run)?;
    let ended = timeout(PATIENCE, manager.wait()).await;
    let status = ended.map_err(|_| StartError::Slow(PATIENCE))?.map_err(run)?;
    if status.success() {
        return Ok(());
    }
    let mut said = Vec::new();
    take_output(&mut said, manager.stdout.as_mut()).await;
    take_output(&mut said, manager.stderr.as_mut()).await;
    // The last line says why; those before it may be of earlier days.
    let said = String::from_utf8_lossy(&said);
    let last = said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
    let output = last.trim().to_owned();
    Err(StartError::Failed { program, status: status.to_string(), output })
}

/// What a manager that has ended has printed. Its children may still hold the pipe open.
async fn take_output(said: &mut Vec<u8>, pipe: Option<&mut (impl AsyncRead + Unpin)>) {
    let Some(pipe) = pipe else { return };
    while let Ok(Ok(1..)) = timeout(OUTPUT_PATIENCE, pipe.read_buf(said)).await {}
}

/// All executable files of a name in the directories of `path` (as `PATH` has them), in order. Relative
/// directories are passed over: what lies about somewhere is not to be run.
pub fn executables_on_path(
    path: &OsStr,
    program: impl AsRef<OsStr>,
) -> impl Iterator<Item = PathBuf> {
    let directories: Vec<PathBuf> =
        std::env::split_paths(path).filter(|directory| directory.is_absolute()).collect();
    let program = program.as_ref().to_owned();
    let files = directories.into_iter().map(move |directory| directory.join(&program));
    files.filter(|file| is_executable(file))
}

/// The manager that was installed together with this program, else the first one on `PATH`.
fn find_manager() -> Option<PathBuf> {
    let beside = std::env::current_exe().ok().map(|program| program.with_file_name(MANAGER));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let beside = beside.filter(|program| is_executable(program));
    beside.or_else(|| executables_on_path(&path, MANAGER).next())
}

fn is_executable(program: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(program)
        .is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

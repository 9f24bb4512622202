//! Starting a daemon where there is none.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

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
        /// What it printed, on one line.
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

/// Starts the daemon of a directory, and returns when it runs. Several at once give one daemon.
pub(crate) async fn start(directory: &Path) -> Result<(), StartError> {
    let directory = directory.to_owned();
    let starting = tokio::task::spawn_blocking(move || run_manager(&directory));
    match tokio::time::timeout(PATIENCE, starting).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(_)) => Err(StartError::NoProgram),
        Err(_) => Err(StartError::Slow(PATIENCE)),
    }
}

fn run_manager(directory: &Path) -> Result<(), StartError> {
    let program = find_manager().ok_or(StartError::NoProgram)?;
    let mut command = Command::new(&program);
    command.arg("start").stdin(Stdio::null());
    // Also understood by managers that have no option for it.
    if bus_directory(None).ok().as_deref() != Some(directory) {
        command.env("HERMES_BUS_ROOT", directory);
    }
    let output = match command.output() {
        Ok(output) => output,
        Err(source) => return Err(StartError::Run { program, source }),
    };
    if output.status.success() {
        return Ok(());
    }
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    let output_line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let status = output.status.to_string();
    Err(StartError::Failed { program, status, output: output_line })
}

/// The manager that was installed together with this program, else the first one on `PATH`.
fn find_manager() -> Option<PathBuf> {
    let beside = std::env::current_exe().ok().map(|program| program.with_file_name(MANAGER));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&path).map(|directory| directory.join(MANAGER));
    beside.into_iter().chain(on_path).find(|program| is_executable(program))
}

fn is_executable(program: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(program)
        .is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

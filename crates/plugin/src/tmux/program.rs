//! Running the `tmux` program: bounded in time and output, with its input and output as pipes that
//! cannot block each other. It does not know what is asked of tmux.

use std::io::{self, Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

/// How long one call may take. Ordinary calls take a few milliseconds.
pub(super) const PATIENCE: Duration = Duration::from_secs(3);
/// Most bytes that are read of what a call says (4 MiB): far more than any screen.
const OUTPUT_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// How often is looked whether a program that has closed its output has ended.
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// Why tmux could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum TmuxError {
    /// There is no such program.
    #[error("tmux is not installed, or not on PATH: install it, or add its directory to PATH")]
    NotInstalled,
    /// It cannot be started or spoken to.
    #[error("tmux cannot be run: {0}")]
    Run(#[from] io::Error),
    /// It took too long and was ended.
    #[error(
        "'tmux {command}' did not answer within {patience_s} s and was ended: the tmux server may \
         hang; see whether 'tmux list-sessions' answers"
    )]
    TimedOut {
        /// What was asked.
        command: String,
        /// How long it was waited for.
        patience_s: u64,
    },
    /// No server runs, or it cannot be reached.
    #[error("no tmux server can be reached ({said}): start the session first, or set TMUX_TMPDIR")]
    NoServer {
        /// What tmux says.
        said: String,
    },
    /// It failed for another reason.
    #[error("'tmux {command}' failed: {said}")]
    Failed {
        /// What was asked.
        command: String,
        /// What tmux says.
        said: String,
    },
}

/// What a call said.
#[derive(Debug)]
pub(super) struct Output {
    pub(super) succeeded: bool,
    pub(super) stdout: String,
    pub(super) stderr: String,
}

/// Asks tmux, as a client that takes UTF-8 whatever the locale says: in others, tmux replaces what is
/// not ASCII by underscores.
pub(super) fn ask(arguments: &[&str], input: Option<&[u8]>) -> Result<Output, TmuxError> {
    let arguments: Vec<&str> = ["-u"].iter().chain(arguments).copied().collect();
    run(&arguments, input, PATIENCE)
}

/// Asks tmux for something that should not fail.
pub(super) fn must(arguments: &[&str], input: Option<&[u8]>) -> Result<String, TmuxError> {
    let output = ask(arguments, input)?;
    if output.succeeded {
        return Ok(output.stdout);
    }
    Err(failure(arguments, &output))
}

/// What a failed call means.
pub(super) fn failure(arguments: &[&str], output: &Output) -> TmuxError {
    let said = output.stderr.trim();
    let no_server = ["no server running", "error connecting", "server exited", "lost server"];
    if no_server.iter().any(|start| said.trim_start_matches('[').starts_with(start)) {
        return TmuxError::NoServer { said: said.to_owned() };
    }
    let said = if said.is_empty() { "it did not say why" } else { said };
    TmuxError::Failed { command: name_of(arguments), said: said.to_owned() }
}

/// Whether tmux says that the target of a command does not exist. A server that has lost its last
/// session, and is about to end, has no "current" one to fall back to.
pub(super) fn is_missing(said: &str) -> bool {
    said.contains("can't find") || said.contains("no current")
}

/// The command's name, without options: `-u`.
fn name_of(arguments: &[&str]) -> String {
    let name = arguments.iter().find(|argument| !argument.starts_with('-'));
    name.copied().unwrap_or_default().to_owned()
}

/// Runs tmux with these arguments and this input. What it says does not have to be UTF-8.
pub(super) fn run(
    arguments: &[&str],
    input: Option<&[u8]>,
    patience: Duration,
) -> Result<Output, TmuxError> {
    let mut command = Command::new("tmux");
    command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() });
    let mut child = command.spawn().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => TmuxError::NotInstalled,
        _ => TmuxError::Run(error),
    })?;
    let deadline = Instant::now() + patience;
    let result = converse(&mut child, input, deadline);
    if !matches!(result, Ok(Some(_))) {
        // Whatever happened, it is not left behind.
        let _ = child.kill();
        let _ = child.wait();
    }
    result?.ok_or_else(|| TmuxError::TimedOut {
        command: name_of(arguments),
        patience_s: patience.as_secs(),
    })
}

/// None if the deadline passes.
fn converse(
    child: &mut Child,
    input: Option<&[u8]>,
    deadline: Instant,
) -> io::Result<Option<Output>> {
    if let (Some(mut pipe), Some(input)) = (child.stdin.take(), input) {
        let input = input.to_vec();
        // It ends with the program. One that ends without reading all is no error here: its exit
        // status tells.
        thread::spawn(move || pipe.write_all(&input));
    }
    let stdout = collect(child.stdout.take());
    let stderr = collect(child.stderr.take());
    let left = || deadline.saturating_duration_since(Instant::now());
    let (Ok(stdout), Ok(stderr)) = (stdout.recv_timeout(left()), stderr.recv_timeout(left()))
    else {
        return Ok(None);
    };
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(Output { succeeded: status.success(), stdout, stderr }));
        }
        if left().is_zero() {
            return Ok(None);
        }
        thread::sleep(LOOK_EVERY);
    }
}

fn collect(pipe: Option<impl Read + Send + 'static>) -> Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(pipe) = pipe {
            // What came before an error is all that there is.
            let _ = pipe.take(OUTPUT_BYTES_MAX).read_to_end(&mut bytes);
        }
        // Nobody may wait any more.
        let _ = sender.send(String::from_utf8_lossy(&bytes).into_owned());
    });
    receiver
}

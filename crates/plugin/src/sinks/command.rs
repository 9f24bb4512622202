//! Running a rule's command.

use std::io;
use std::process::{ExitStatus, Stdio};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{ChildStderr, ChildStdin};
use tokio::time::timeout;

use super::group::Group;
use crate::engine::Command;
use crate::engine::clean::one_line;

/// Most bytes of what a command writes to standard error that are kept: the last ones.
const ERROR_BYTES_MAX: usize = 4 * 1024;

/// Why a command has not succeeded.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// It could not be started.
    #[error("the command cannot be started: {0}")]
    Start(io::Error),
    /// It ended with something else than exit code 0.
    #[error("the command failed ({status}){}", said(.error))]
    Failed {
        /// How it ended.
        status: ExitStatus,
        /// The end of what it wrote to standard error.
        error: String,
    },
    /// It ran for too long, and was ended.
    #[error("the command was ended after {} s{}", .after.as_secs_f64(), said(.error))]
    TimedOut {
        /// Its time.
        after: std::time::Duration,
        /// The end of what it wrote to standard error.
        error: String,
    },
}

fn said(error: &str) -> String {
    match error.trim() {
        "" => String::new(),
        error => format!(": {}", one_line(error, 300)),
    }
}

/// Runs a command in a shell and waits for its end. It has the environment of this process and the variables of the
/// message, the message as JSON on standard input, and nobody reads its standard output. What it leaves running in the
/// background is nobody's business. Dropped while the command runs, this asks it to end.
pub async fn run(command: &Command) -> Result<(), CommandError> {
    let mut shell = tokio::process::Command::new("sh");
    shell.arg("-c").arg(&command.command);
    shell.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    for (name, value) in &command.variables {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    let mut group = Group::start(&mut shell).map_err(CommandError::Start)?;
    let input = group.child().stdin.take();
    let mut output = Output { pipe: group.child().stderr.take(), end: Vec::new() };
    let exit = async {
        let mut feeding = std::pin::pin!(feed(input, command.input.as_bytes()));
        let mut is_fed = false;
        loop {
            tokio::select! {
                status = group.wait() => return status,
                () = &mut feeding, if !is_fed => is_fed = true,
                () = output.read(), if output.pipe.is_some() => {}
            }
        }
    };
    match timeout(command.timeout, exit).await {
        Ok(Ok(status)) if status.success() => Ok(()),
        Ok(Ok(status)) => {
            output.read_what_is_there().await;
            Err(CommandError::Failed { status, error: output.text() })
        }
        Ok(Err(error)) => Err(CommandError::Start(error)),
        Err(_) => {
            group.end().await;
            output.read_what_is_there().await;
            Err(CommandError::TimedOut { after: command.timeout, error: output.text() })
        }
    }
}

/// The command need not read it.
async fn feed(input: Option<ChildStdin>, text: &[u8]) {
    if let Some(mut input) = input {
        let _ = input.write_all(text).await;
    }
}

/// The end of what a command writes.
struct Output {
    pipe: Option<ChildStderr>,
    end: Vec<u8>,
}

impl Output {
    /// Reads some. May be dropped while it waits.
    async fn read(&mut self) {
        let Some(pipe) = &mut self.pipe else { return };
        let mut piece = [0; 4096];
        match pipe.read(&mut piece).await {
            Ok(0) | Err(_) => self.pipe = None,
            Ok(read) => {
                self.end.extend_from_slice(&piece[..read]);
                let too_many = self.end.len().saturating_sub(ERROR_BYTES_MAX);
                self.end.drain(..too_many);
            }
        }
    }

    /// Somebody whom the command has left behind may hold the pipe open: what has been written is there already.
    async fn read_what_is_there(&mut self) {
        let at_once = std::time::Duration::from_millis(20);
        for _ in 0..64 {
            if self.pipe.is_none() || timeout(at_once, self.read()).await.is_err() {
                return;
            }
        }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.end).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn command(text: &str) -> Command {
        Command {
            command: text.to_owned(),
            variables: vec![("TEXT", Some("a $HOME; b".to_owned())), ("HOME", None)],
            input: "x".repeat(1_000_000),
            timeout: Duration::from_secs(20),
        }
    }

    #[tokio::test]
    async fn success_is_exit_code_0_whatever_becomes_of_its_input() {
        run(&command("test \"$TEXT\" = 'a $HOME; b'")).await.unwrap();
        run(&command("test -z \"$HOME\"")).await.unwrap();
        run(&command("test $(wc -c) = 1000000")).await.unwrap();
        run(&command("head -c 10 > /dev/null; yes | head -c 300000 >&2")).await.unwrap();
    }

    #[tokio::test]
    async fn a_failure_says_how_and_what_was_written_last() {
        let error = run(&command("echo \"$TEXT\" >&2; exit 3")).await.unwrap_err();
        assert_eq!(error.to_string(), "the command failed (exit status: 3): a $HOME; b");
        let error = run(&command("yes | head -c 100000 >&2; echo the end >&2; kill -9 $$")).await;
        let error = error.unwrap_err().to_string();
        assert!(error.starts_with("the command failed (signal: 9 (SIGKILL))"), "{error}");
    }

    #[tokio::test]
    async fn one_that_runs_for_too_long_is_ended_with_all_that_it_has_started() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("alive");
        let text = format!("(trap 'touch {}' TERM; sleep 100) & sleep 100", file.display());
        let error = run(&Command { timeout: Duration::from_millis(300), ..command(&text) }).await;
        assert!(error.unwrap_err().to_string().starts_with("the command was ended after 0.3 s"));
        for _ in 0..500 {
            if file.exists() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("what the command has started was not asked to end");
    }
}

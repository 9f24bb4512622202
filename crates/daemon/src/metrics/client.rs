//! Reads metrics from a daemon's socket.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::Form;

/// Much more than metrics ever are.
const ANSWER_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Why there are no metrics.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// Nothing listens.
    #[error("nobody offers metrics on {}", .path.display())]
    NobodyThere {
        /// The socket.
        path: PathBuf,
    },
    /// The socket cannot be used.
    #[error("cannot read metrics from {}: {source}", .path.display())]
    Io {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The bus did not answer in time.
    #[error("{} did not answer within {patience:?}", .path.display())]
    NoAnswer {
        /// The socket.
        path: PathBuf,
        /// How long was waited.
        patience: Duration,
    },
    /// The daemon could not give metrics now.
    #[error("the bus gives no metrics: {reason}")]
    Refused {
        /// What it said.
        reason: String,
    },
    /// What answers there is no daemon of this kind, or the answer was cut off.
    #[error("what {} answers are no metrics", .path.display())]
    Unexpected {
        /// The socket.
        path: PathBuf,
    },
}

/// The metrics of the daemon that offers them on this socket.
pub async fn fetch(path: &Path, form: Form, patience: Duration) -> Result<String, FetchError> {
    let path = path.to_owned();
    let asked = timeout(patience, ask(&path, form)).await;
    let answer = match asked {
        Err(_) => return Err(FetchError::NoAnswer { path, patience }),
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => {
            return Err(match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                    FetchError::NobodyThere { path }
                }
                _ => FetchError::Io { path, source: error },
            });
        }
    };
    match parse(&answer) {
        Some((200, body)) => Ok(body.to_owned()),
        Some((_, body)) => Err(FetchError::Refused { reason: body.trim().to_owned() }),
        None => Err(FetchError::Unexpected { path }),
    }
}

/// Sends a request of HTTP/1.0, whose answer ends with the connection.
async fn ask(path: &Path, form: Form) -> io::Result<Vec<u8>> {
    let mut stream = UnixStream::connect(path).await?;
    stream.write_all(format!("GET {} HTTP/1.0\r\n\r\n", form.path()).as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer).await?;
    Ok(answer)
}

/// Status and body of an answer that is whole.
fn parse(answer: &[u8]) -> Option<(u16, &str)> {
    let answer = str::from_utf8(answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let mut lines = head.lines();
    let status = lines.next()?.strip_prefix("HTTP/1.")?.split(' ').nth(1)?.parse().ok()?;
    let length: usize = lines
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .and_then(|(_, value)| value.trim().parse().ok())?;
    (body.len() == length).then_some((status, body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_answer_counts() {
        let answer = |text: &str| parse(text.as_bytes()).map(|(status, b)| (status, b.to_owned()));
        let whole = "HTTP/1.0 200 OK\r\nContent-Type: x\r\ncontent-length: 3\r\n\r\nabc";
        assert_eq!(answer(whole), Some((200, "abc".to_owned())));
        let refused = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n";
        assert_eq!(answer(refused), Some((503, String::new())));
        assert_eq!(answer(&whole[..whole.len() - 1]), None, "cut off");
        for strange in ["", "SSH-2.0-x\r\n\r\n", "HTTP/1.0 200 OK\r\n\r\nabc"] {
            assert_eq!(answer(strange), None, "{strange}");
        }
    }

    #[tokio::test]
    async fn a_missing_and_a_dead_socket_are_nobody() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("metrics.sock");
        let fetched = || fetch(&path, Form::OpenMetrics, Duration::from_secs(30));
        assert!(matches!(fetched().await, Err(FetchError::NobodyThere { .. })));
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(matches!(fetched().await, Err(FetchError::NobodyThere { .. })));
        let listener = tokio::net::UnixListener::bind(directory.path().join("other")).unwrap();
        let stranger = async { drop(listener.accept().await) };
        let path = directory.path().join("other");
        let fetching = fetch(&path, Form::OpenMetrics, Duration::from_secs(30));
        let (fetched, ()) = tokio::join!(fetching, stranger);
        assert!(matches!(fetched, Err(FetchError::Unexpected { .. } | FetchError::Io { .. })));
    }
}

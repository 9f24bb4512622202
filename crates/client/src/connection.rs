//! One connection: whole frames in and out, and the calls that need no name.

use std::fmt;
use std::io;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use hermes_bus_proto::frame::{self, Decoded};
use hermes_bus_proto::limits::{ADDED_BYTES_MAX, PAYLOAD_BYTES_MAX};
use hermes_bus_proto::listing::{self, Level, Listing};
use hermes_bus_proto::{FrameError, Object, control};
use serde_json::{Map, Value};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::error::CallError;
use crate::receipts::suggestions;
use crate::transport::{Link, Stream, WriteNow};

/// Room that is made for what is read at a time.
pub(crate) const READ_BYTES: usize = 64 * 1024;
/// Smaller frames are copied out of the read buffer, so that a message that is kept does not keep
/// the buffer, which may be as large as the largest frame.
const SHARED_BYTES_MIN: usize = 1024 * 1024;

/// A connection to the bus, without a name.
pub struct Connection {
    stream: Box<dyn Stream>,
    /// What has arrived and is not taken yet.
    input: BytesMut,
    write_now: Option<Box<dyn WriteNow>>,
    peer_pid: Option<u32>,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let input_bytes = self.input.len();
        f.debug_struct("Connection").field("input_bytes", &input_bytes).finish_non_exhaustive()
    }
}

impl Connection {
    pub(crate) fn over(link: Link) -> Self {
        let Link { stream, write_now, peer_pid } = link;
        Connection { stream, input: BytesMut::new(), write_now, peer_pid }
    }

    /// Process id of the bus, where the system tells it.
    pub fn peer_pid(&self) -> Option<u32> {
        self.peer_pid
    }

    /// Who is connected. A bus that only speaks level 1 gives names and session ids only.
    pub async fn list(&mut self, patience: Duration) -> Result<Listing, CallError> {
        let mut request = Vec::new();
        listing::request(&mut request, Level::Two);
        let kinds = [listing::LEVEL_1_TYPE, listing::LEVEL_2_TYPE];
        let answer = self.ask(&request, &kinds, patience).await?;
        serde_json::from_slice(answer.as_bytes())
            .map_err(|error| CallError::Unexpected(error.to_string()))
    }

    /// Has the daemon do something that only its own user, and root, may ask for: one of
    /// [`ServerDetails::admin_ops`](hermes_bus_proto::listing::ServerDetails::admin_ops), with its
    /// arguments. Other buses do not answer.
    pub async fn admin(
        &mut self,
        op: &str,
        arguments: &Map<String, Value>,
        patience: Duration,
    ) -> Result<Map<String, Value>, CallError> {
        let answer = self.admin_raw(op, arguments, patience).await?;
        serde_json::from_slice(answer.as_bytes())
            .map_err(|error| CallError::Unexpected(error.to_string()))
    }

    /// The same, with the answer as it came: it may hold messages with Python's `NaN` and lone
    /// surrogates, which a [`Value`] cannot.
    pub async fn admin_raw(
        &mut self,
        op: &str,
        arguments: &Map<String, Value>,
        patience: Duration,
    ) -> Result<Object, CallError> {
        let mut request = Vec::new();
        control::admin(&mut request, op, arguments);
        self.ask(&request, &[control::ADMIN_RESULT_TYPE], patience).await
    }

    /// How long the bus takes to answer.
    pub async fn ping(&mut self, patience: Duration) -> Result<Duration, CallError> {
        let mut request = Vec::new();
        control::ping(&mut request);
        let began = Instant::now();
        self.ask(&request, &["pong"], patience).await?;
        Ok(began.elapsed())
    }

    /// Sends a request and waits for an answer of one of these types. What comes before it is
    /// dropped, so this is for connections without a name.
    pub(crate) async fn ask(
        &mut self,
        request: &[u8],
        kinds: &[&str],
        patience: Duration,
    ) -> Result<Object, CallError> {
        let asking = async {
            self.write(request).await?;
            loop {
                let frame = self.receive().await?;
                match frame.text("type").as_deref() {
                    Some(kind) if kinds.contains(&kind) => return Ok(frame),
                    Some("error") => return Err(refusal(&frame)),
                    _ => {}
                }
            }
        };
        timeout(patience, asking).await.unwrap_or(Err(CallError::NoAnswer(patience)))
    }

    /// Writes whole frames. To be dropped only together with the connection.
    pub(crate) async fn write(&mut self, frames: &[u8]) -> Result<(), CallError> {
        self.stream.write_all(frames).await.map_err(broken)
    }

    /// The next frame, whatever it is. May be dropped and called again.
    pub(crate) async fn receive(&mut self) -> Result<Object, CallError> {
        loop {
            if let Some(frame) = take_frame(&mut self.input).map_err(not_a_frame)? {
                return Ok(frame);
            }
            self.input.reserve(READ_BYTES);
            if self.stream.read_buf(&mut self.input).await.map_err(broken)? == 0 {
                return Err(CallError::Closed);
            }
        }
    }

    pub(crate) fn stream(&mut self) -> &mut Box<dyn Stream> {
        &mut self.stream
    }

    /// The stream, what has arrived already, and the hand of those who write by themselves.
    pub(crate) fn into_parts(self) -> (Box<dyn Stream>, BytesMut, Option<Box<dyn WriteNow>>) {
        (self.stream, self.input, self.write_now)
    }
}

/// Takes a whole frame from the beginning of what has arrived, if there is one.
pub(crate) fn take_frame(input: &mut BytesMut) -> Result<Option<Object>, FrameError> {
    let limit = PAYLOAD_BYTES_MAX + ADDED_BYTES_MAX;
    let (payload_bytes, frame_bytes) = match frame::decode_within(input, limit) {
        Decoded::Frame { payload, frame_bytes } => (payload.len(), frame_bytes),
        Decoded::Refused(error) => return Err(error),
        Decoded::Incomplete { .. } => return Ok(None),
    };
    let frame = input.split_to(frame_bytes);
    if input.is_empty() {
        // Room that a large frame needed is not kept for small ones.
        *input = BytesMut::new();
    }
    let payload = &frame[frame_bytes - payload_bytes..];
    let payload = if payload_bytes < SHARED_BYTES_MIN {
        Bytes::copy_from_slice(payload)
    } else {
        frame.freeze().slice(frame_bytes - payload_bytes..)
    };
    Object::scan(payload).map(Some)
}

/// What an `error` frame says.
pub(crate) fn refusal(frame: &Object) -> CallError {
    let (code, detail) = code_and_detail(frame);
    CallError::Refused { code, detail, suggestions: suggestions(frame) }
}

/// `code` and `detail` of an `error` frame.
pub(crate) fn code_and_detail(frame: &Object) -> (String, String) {
    let text = |key| frame.text(key).unwrap_or_default().into_owned();
    (text("code"), text("detail"))
}

fn not_a_frame(error: FrameError) -> CallError {
    CallError::Unexpected(error.to_string())
}

/// An error of the stream.
pub(crate) fn broken(error: io::Error) -> CallError {
    match error.kind() {
        io::ErrorKind::BrokenPipe
        | io::ErrorKind::ConnectionReset
        | io::ErrorKind::UnexpectedEof => CallError::Closed,
        _ => CallError::Io(error),
    }
}

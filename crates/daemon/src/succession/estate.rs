//! What one server process tells the next one, as JSON, besides descriptors and the bytes of messages.
//!
//! The two may be of different versions. A process passes over members that it does not know, and goes
//! without those that it misses: then it knows no more of a message than its bytes.

use anyhow::bail;
use bytes::Bytes;
use hermes_bus_core::storage::Sender;
use hermes_bus_core::{LeftMessage, Lingering};
use hermes_bus_proto::EndpointName;
use serde::{Deserialize, Serialize};

use crate::private_socket::Identity;

/// What is handed over besides the descriptors and held frames.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Estate {
    /// The socket's device and inode: its path may lead somewhere else.
    pub(super) identity: Identity,
    /// Whether the bus has bound the socket itself, so that it removes it at its end.
    pub(super) socket_is_ours: bool,
    pub(super) names: Vec<LeftName>,
    /// How many bytes each newcomer has sent already. They stand behind the held frames.
    pub(super) newcomers_sent: Vec<usize>,
}

/// A name that was in use.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LeftName {
    name: String,
    uid: u32,
    /// How many of the frames behind the estate are for this name.
    frames: usize,
    /// What is known of each of them. Empty: nothing.
    #[serde(default)]
    facts: Vec<Facts>,
}

/// What is known of a held message besides its bytes.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct Facts {
    /// Its place in the order of all messages.
    seq: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sender: Option<LeftSender>,
    #[serde(skip_serializing_if = "Option::is_none")]
    via: Option<Box<str>>,
    /// When it is not wanted any more, in microseconds of Unix time.
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_unix_us: Option<u64>,
    /// How often it was handed over.
    deliveries: u32,
    /// Whether it becomes a dead letter if it fails.
    is_mourned: bool,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct LeftSender {
    uid: u32,
    pid: u32,
    endpoint: Option<String>,
}

impl LeftName {
    /// A name with what is known of what is held for it.
    pub(super) fn of(lingering: &Lingering) -> Self {
        LeftName {
            name: lingering.name.as_str().to_owned(),
            uid: lingering.uid,
            frames: lingering.messages.len(),
            facts: lingering.messages.iter().map(Facts::of).collect(),
        }
    }

    /// The name with all that is held for it: `read_frame` reads one frame after the other. None if it
    /// is no name; its frames are read nevertheless.
    ///
    /// # Errors
    /// If a frame cannot be read, or the facts are those of other messages.
    pub(super) fn read(
        self,
        mut read_frame: impl FnMut() -> anyhow::Result<Bytes>,
    ) -> anyhow::Result<Option<Lingering>> {
        let LeftName { name, uid, frames, facts } = self;
        if !facts.is_empty() && facts.len() != frames {
            bail!("the old server knows {} messages, and hands over {frames}", facts.len());
        }
        let mut facts = facts.into_iter();
        let message = |_| Ok(facts.next().unwrap_or_default().into_message(read_frame()?));
        let messages = (0..frames).map(message).collect::<anyhow::Result<_>>()?;
        let name = EndpointName::level_1(&name).ok();
        Ok(name.map(|name| Lingering { name, uid, messages }))
    }
}

impl Facts {
    fn of(message: &LeftMessage) -> Self {
        let sender = message.sender.as_ref().map(|Sender { uid, pid, endpoint }| LeftSender {
            uid: *uid,
            pid: *pid,
            endpoint: endpoint.as_ref().map(|endpoint| endpoint.as_str().to_owned()),
        });
        Facts {
            seq: message.seq,
            sender,
            via: message.via.clone(),
            expires_unix_us: message.expires_unix_us,
            deliveries: message.deliveries,
            is_mourned: message.is_mourned,
        }
    }

    fn into_message(self, frame: Bytes) -> LeftMessage {
        let Facts { seq, sender, via, expires_unix_us, deliveries, is_mourned } = self;
        let sender = sender.map(|LeftSender { uid, pid, endpoint }| Sender {
            uid,
            pid,
            endpoint: endpoint.and_then(|endpoint| EndpointName::level_1(&endpoint).ok()),
        });
        LeftMessage { frame, seq, sender, via, expires_unix_us, deliveries, is_mourned }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> EndpointName {
        EndpointName::level_1(text).expect("a name")
    }

    fn read(json: &str, frames: &[&'static [u8]]) -> anyhow::Result<Option<Lingering>> {
        let left: LeftName = serde_json::from_str(json)?;
        let mut frames = frames.iter();
        left.read(|| Ok(Bytes::from_static(frames.next().expect("one more frame"))))
    }

    #[test]
    fn what_is_known_of_a_message_comes_back_as_it_was() {
        let known = LeftMessage {
            frame: Bytes::from_static(b"\0\0\0\x02{}"),
            seq: Some(7),
            sender: Some(Sender { uid: 1000, pid: 12, endpoint: Some(name("a\"b")) }),
            via: Some("#build.done".into()),
            expires_unix_us: Some(1_716_307_200_123_456),
            deliveries: 2,
            is_mourned: true,
        };
        let unknown = LeftMessage::unknown(Bytes::from_static(b"\0\0\0\x03{ }"));
        let messages = vec![known, unknown];
        let lingering = Lingering { name: name("ear"), uid: 1000, messages };
        let json = serde_json::to_string(&LeftName::of(&lingering)).expect("JSON");
        let frames: &[&[u8]] = &[b"\0\0\0\x02{}", b"\0\0\0\x03{ }"];
        assert_eq!(read(&json, frames).expect("read"), Some(lingering));
    }

    #[test]
    fn a_process_that_knows_less_hands_over_its_frames_alone() {
        let left = read(r#"{"name": "ear", "uid": 1, "frames": 1}"#, &[b"\0\0\0\x02{}"]);
        let messages = vec![LeftMessage::unknown(Bytes::from_static(b"\0\0\0\x02{}"))];
        let expected = Lingering { name: name("ear"), uid: 1, messages };
        assert_eq!(left.expect("read"), Some(expected));
    }

    #[test]
    fn what_a_newer_process_says_besides_is_passed_over() {
        let json = r#"{"name": "ear", "uid": 1, "frames": 1, "mood": "good",
            "facts": [{"deliveries": 3, "colour": "red"}]}"#;
        let left = read(json, &[b"\0\0\0\x02{}"]).expect("read").expect("a name");
        assert_eq!((left.messages[0].deliveries, left.messages[0].seq), (3, None));
    }

    #[test]
    fn facts_of_other_messages_are_refused() {
        let json = r#"{"name": "ear", "uid": 1, "frames": 2, "facts": [{}]}"#;
        let error = read(json, &[]).expect_err("one is not known");
        assert!(error.to_string().contains("knows 1 messages, and hands over 2"), "{error}");
    }
}

//! What a client asks for when it takes its name, and what the bus says to it.

use std::collections::BTreeSet;
use std::time::Duration;

use hermes_bus_proto::limits::{IN_FLIGHT_DEFAULT, IN_FLIGHT_MAX, PAYLOAD_BYTES_MAX};
use hermes_bus_proto::topic::{self, AddressError};
use hermes_bus_proto::{EndpointName, Object, control};
use serde_json::{Map, Value};

/// What happens if another session has the name when a client first connects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Conflict {
    /// It loses the name, and its connection.
    #[default]
    Replace,
    /// Connecting fails with [`crate::ConnectError::NameTaken`]. A bus that speaks level 2 decides
    /// that in one step. With another one the client looks before it registers: of two that look
    /// at the same moment, the later one wins.
    Refuse,
    /// The client gets the first free one of `name-2`, `name-3`, …; [`crate::Client::name`] says
    /// which. It keeps that name when it comes back; if somebody else has taken it by then, the
    /// client is closed. Level 2.
    Suffix,
}

/// Who confirms messages to the bus, and when. A message that is not confirmed comes again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Acknowledge {
    /// Nobody: a message that is handed over is done with.
    #[default]
    Never,
    /// Whoever has the message says so, with [`crate::Message::ack`].
    Explicit,
    /// The client, when the next message is asked for, or when the handler of
    /// [`crate::Inbox::serve`] returns. The last message before the end of a program is therefore
    /// confirmed only by asking for another one, or by [`crate::Message::ack`].
    Automatic,
}

/// What is done about messages that come more than once, recognised by their sender and `id`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Repeats {
    /// They are handed out with [`crate::Message::is_repeated`].
    #[default]
    Mark,
    /// What was acknowledged once is not handed out again, but acknowledged again. Only for
    /// senders that never use an `id` twice.
    Hide,
}

/// How many ids are remembered where repeats are recognised.
pub(crate) const REPEATS_WINDOW: usize = 4_096;

/// The further keys of `register`.
#[derive(Clone)]
pub(crate) struct Options {
    pub(crate) conflict: Conflict,
    pub(crate) mailbox: Option<bool>,
    pub(crate) acknowledge: Acknowledge,
    pub(crate) in_flight: u32,
    pub(crate) token: Option<String>,
    pub(crate) meta: Option<Map<String, Value>>,
}

impl std::fmt::Debug for Options {
    /// Without the token, which is a secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options")
            .field("conflict", &self.conflict)
            .field("mailbox", &self.mailbox)
            .field("acknowledge", &self.acknowledge)
            .field("in_flight", &self.in_flight)
            .field("has_token", &self.token.is_some())
            .finish_non_exhaustive()
    }
}

impl Default for Options {
    fn default() -> Self {
        Options {
            conflict: Conflict::default(),
            mailbox: None,
            acknowledge: Acknowledge::default(),
            in_flight: IN_FLIGHT_DEFAULT,
            token: None,
            meta: None,
        }
    }
}

/// The groups and topics of a client.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subscriptions {
    /// Patterns of topics, without `#`.
    pub topics: BTreeSet<String>,
    /// Groups, without `@`.
    pub groups: BTreeSet<String>,
}

impl Subscriptions {
    /// As `subscribed` says it.
    pub(crate) fn read(frame: &Object) -> Option<Self> {
        let list = |key| serde_json::from_slice(frame.get(key)?.as_bytes()).ok();
        Some(Subscriptions { topics: list("topics")?, groups: list("groups")? })
    }
}

impl Options {
    pub(crate) fn acknowledges(&self) -> bool {
        self.acknowledge != Acknowledge::Never
    }

    /// What a bus of level 1 could not give; `None` if it could give everything.
    pub(crate) fn needs_level_2(&self, subscriptions: &Subscriptions) -> Option<&'static str> {
        let needs = [
            (self.conflict == Conflict::Suffix, "a name with a suffix"),
            (self.mailbox == Some(true), "a mailbox"),
            (self.acknowledges(), "acknowledgements"),
            (!subscriptions.groups.is_empty(), "groups"),
            (!subscriptions.topics.is_empty(), "topics"),
        ];
        needs.into_iter().find(|(is_needed, _)| *is_needed).map(|(_, what)| what)
    }

    /// The `register` frame. A name that level 2 does not allow is registered on level 1, where
    /// nothing of level 2 is asked for.
    pub(crate) fn register(
        &self,
        name: &str,
        conflict: Conflict,
        subscriptions: &Subscriptions,
    ) -> Vec<u8> {
        let mut frame = Vec::new();
        let wants_level_2 = self.needs_level_2(subscriptions).is_some();
        let mut request = Map::new();
        request.insert("type".to_owned(), "register".into());
        request.insert("endpoint".to_owned(), name.into());
        if let Some(token) = &self.token {
            request.insert("token".to_owned(), token.as_str().into());
        }
        if wants_level_2 || EndpointName::level_2(name).is_ok() {
            request.insert("protocol".to_owned(), 2.into());
            let conflict = match conflict {
                Conflict::Replace => None,
                Conflict::Refuse => Some("refuse"),
                Conflict::Suffix => Some("suffix"),
            };
            let mut set = |key: &str, value: Option<Value>| {
                value.map(|value| request.insert(key.to_owned(), value))
            };
            set("conflict", conflict.map(Value::from));
            set("mailbox", self.mailbox.map(Value::from));
            if self.acknowledges() {
                set("ack", Some(true.into()));
                set("in_flight", Some(self.in_flight.into()));
            }
            let list = |names: &BTreeSet<String>| {
                (!names.is_empty()).then(|| names.iter().map(String::as_str).collect())
            };
            set("groups", list(&subscriptions.groups));
            set("topics", list(&subscriptions.topics));
            set("meta", self.meta.clone().map(Value::Object));
        }
        control::append_text(&mut frame, &Value::Object(request).to_string());
        frame
    }

    pub(crate) fn limit_in_flight(messages: u32) -> u32 {
        messages.clamp(1, IN_FLIGHT_MAX)
    }
}

/// What the bus said when it gave the client its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Welcome {
    /// The name that the session got.
    pub name: String,
    /// UUID of the session.
    pub session_id: String,
    /// The level of the protocol that is spoken: 1 or 2.
    pub protocol: u8,
    /// `NAME/VERSION` of the bus, where it says so.
    pub server: Option<String>,
    /// Silence after which the bus closes the session, where it says so.
    pub heartbeat: Option<Duration>,
    /// The largest frame that the bus takes, in bytes of JSON.
    pub payload_bytes_max: usize,
    /// Messages that waited in the mailbox.
    pub mailbox_depth: u64,
}

impl Welcome {
    /// Reads `registered`. `None`: it has no session id.
    pub(crate) fn read(frame: &Object, wanted: &str) -> Option<Self> {
        let number = |key| frame.get(key).and_then(|value| value.finite_number());
        let count = |key| {
            let number = frame.get(key).and_then(|value| value.integer());
            number.and_then(|number| u64::try_from(number).ok())
        };
        let payload_bytes_max = count("payload_bytes_max").and_then(|n| usize::try_from(n).ok());
        let heartbeat = number("heartbeat_s");
        Some(Welcome {
            name: frame
                .text("endpoint")
                .map_or_else(|| wanted.to_owned(), |name| name.into_owned()),
            session_id: frame.text("session_id")?.into_owned(),
            protocol: if count("protocol").is_some_and(|level| level >= 2) { 2 } else { 1 },
            server: frame.text("server").map(|server| server.into_owned()),
            heartbeat: heartbeat.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()),
            payload_bytes_max: payload_bytes_max.unwrap_or(PAYLOAD_BYTES_MAX),
            mailbox_depth: count("mailbox_depth").unwrap_or(0),
        })
    }
}

/// The address of a topic: `build.done` becomes `#build.done`, which reaches every subscriber of a
/// matching pattern.
pub fn topic_address(topic: &str) -> Result<String, AddressError> {
    let name = topic.strip_prefix('#').unwrap_or(topic);
    topic::topic(name).map(|name| format!("#{name}"))
}

/// The address of a group: `workers` becomes `@workers`, which reaches one of its members.
pub fn group_address(group: &str) -> Result<String, AddressError> {
    topic::group(group).map(|name| format!("@{name}"))
}

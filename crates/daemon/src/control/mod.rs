//! What the daemon's own user may ask of it, with an `admin` request.
//!
//! What only the router knows is answered in the same turn. What stands on disk is looked up by a
//! thread of its own ([`clerk`]), so the answers of one connection may come in another order than its
//! requests; each names its `op`, and echoes `req`.

use std::path::PathBuf;

use bytes::Bytes;
use hermes_bus_core::SessionKey;
use hermes_bus_proto::{EndpointName, ErrorCode, control, frame};
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

pub(crate) mod clerk;
pub(crate) mod text;
pub(crate) mod trace;

use self::text::Members;

/// Reads the configuration and the hooks again.
pub(crate) const RELOAD: &str = "reload";
/// Has another process follow this one.
pub(crate) const RESTART: &str = "restart";
/// How the store is, in figures.
pub(crate) const STORE: &str = "store";

/// Every operation, as listings show them.
pub(crate) const OPS: &[&str] = &[
    RELOAD,
    RESTART,
    STORE,
    "backup",
    "config",
    "dead.drop",
    "dead.list",
    "dead.retry",
    "dead.show",
    "groups",
    "history",
    "mailbox.drain",
    "mailbox.list",
    "mailbox.purge",
    "mailbox.show",
    "metrics",
];

/// An operation with its arguments.
#[derive(Debug, PartialEq, Deserialize)]
#[serde(tag = "op")]
pub(crate) enum Operation {
    #[serde(rename = "reload")]
    Reload,
    #[serde(rename = "restart")]
    Restart,
    #[serde(rename = "config")]
    Config,
    #[serde(rename = "metrics")]
    Metrics,
    #[serde(rename = "groups")]
    Groups { group: Option<String> },
    #[serde(rename = "mailbox.list")]
    Mailboxes { after: Option<String> },
    #[serde(rename = "mailbox.purge")]
    Purge {
        #[serde(deserialize_with = "endpoint")]
        endpoint: EndpointName,
    },
    /// One that begins with a look at the disk.
    #[serde(skip)]
    Look(Look),
}

/// An operation that begins with a look at the disk.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(tag = "op")]
pub(crate) enum Look {
    #[serde(rename = "store")]
    Figures,
    #[serde(rename = "backup")]
    Backup { path: PathBuf },
    #[serde(rename = "mailbox.show")]
    Waiting {
        #[serde(deserialize_with = "endpoint")]
        endpoint: EndpointName,
        after: Option<u64>,
        limit: Option<usize>,
    },
    #[serde(rename = "mailbox.drain")]
    Drain {
        #[serde(deserialize_with = "endpoint")]
        endpoint: EndpointName,
        after: Option<u64>,
        limit: Option<usize>,
    },
    #[serde(rename = "dead.list")]
    DeadLetters { endpoint: Option<String>, after: Option<u64>, limit: Option<usize> },
    #[serde(rename = "dead.show")]
    DeadLetter { key: u64 },
    #[serde(rename = "dead.retry")]
    Retry(Which),
    #[serde(rename = "dead.drop")]
    Drop(Which),
    #[serde(rename = "history")]
    History(HistoryQuery),
}

/// The operations of [`Look`].
const LOOKS: &[&str] = &[
    STORE,
    "backup",
    "mailbox.show",
    "mailbox.drain",
    "dead.list",
    "dead.show",
    "dead.retry",
    "dead.drop",
    "history",
];

/// Which dead letters are meant.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(try_from = "WhichAsWritten")]
pub(crate) enum Which {
    Key(u64),
    Endpoint(String),
    All,
}

#[derive(Deserialize)]
struct WhichAsWritten {
    key: Option<u64>,
    endpoint: Option<String>,
    #[serde(default)]
    all: bool,
}

impl TryFrom<WhichAsWritten> for Which {
    type Error = &'static str;

    fn try_from(written: WhichAsWritten) -> Result<Self, Self::Error> {
        match (written.key, written.endpoint, written.all) {
            (Some(key), None, false) => Ok(Which::Key(key)),
            (None, Some(endpoint), false) => Ok(Which::Endpoint(endpoint)),
            (None, None, true) => Ok(Which::All),
            _ => Err("exactly one of 'key', 'endpoint' and 'all': true must be there"),
        }
    }
}

/// What is looked for in the history.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub(crate) struct HistoryQuery {
    pub(crate) search: Option<String>,
    pub(crate) from: Option<String>,
    pub(crate) to: Option<String>,
    /// In seconds of Unix time.
    pub(crate) since: Option<f64>,
    /// In seconds of Unix time.
    pub(crate) until: Option<f64>,
    pub(crate) limit: Option<usize>,
    pub(crate) after: Option<String>,
    #[serde(default)]
    pub(crate) order: Order,
}

/// What comes first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Order {
    #[default]
    Newest,
    Oldest,
}

fn endpoint<'de, D: Deserializer<'de>>(deserializer: D) -> Result<EndpointName, D::Error> {
    let name = String::deserialize(deserializer)?;
    EndpointName::level_1(&name).map_err(serde::de::Error::custom)
}

/// Who has asked, and is to be answered.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Asker {
    pub(crate) key: SessionKey,
    op: &'static str,
    req: Option<Value>,
}

/// A request that was refused: the frame that says so.
pub(crate) type Refusal = Vec<u8>;

/// Reads an `admin` request.
pub(crate) fn read(key: SessionKey, payload: &Bytes) -> Result<(Asker, Operation), Refusal> {
    let request: Value = serde_json::from_slice(payload).unwrap_or_default();
    let req = request.get("req").cloned();
    let op = request.get("op").and_then(Value::as_str).unwrap_or_default();
    let Some(op) = OPS.iter().find(|known| **known == op) else {
        let what = format!("field 'op' must be one of: {}", OPS.join(", "));
        return Err(refusal(req.as_ref(), ErrorCode::InvalidField, &what));
    };
    let operation = match LOOKS.contains(op) {
        true => serde_json::from_value(request).map(Operation::Look),
        false => serde_json::from_value(request),
    };
    match operation {
        Ok(operation) => Ok((Asker { key, op, req }, operation)),
        Err(error) => Err(refusal(req.as_ref(), ErrorCode::InvalidField, &error.to_string())),
    }
}

impl Asker {
    /// It was done.
    pub(crate) fn result(&self, result: Value) -> Vec<u8> {
        let mut frame = Vec::new();
        let result = result.as_object().cloned().unwrap_or_default();
        control::admin_result(&mut frame, self.op, self.req.as_ref(), result);
        frame
    }

    /// It was done; the answer holds messages as they came.
    pub(crate) fn result_text(&self, result: &Members) -> Vec<u8> {
        let mut head = Members::default();
        head.value("type", control::ADMIN_RESULT_TYPE);
        head.value("op", self.op);
        if let Some(req) = &self.req {
            head.value("req", req);
        }
        let mut out = Vec::new();
        frame::append(&mut out, |out| {
            out.push(b'{');
            out.extend_from_slice(head.as_bytes());
            if !result.as_bytes().is_empty() {
                out.extend_from_slice(b", ");
                out.extend_from_slice(result.as_bytes());
            }
            out.push(b'}');
        });
        out
    }

    /// It was not done.
    pub(crate) fn refusal(&self, code: ErrorCode, detail: &str) -> Vec<u8> {
        refusal(self.req.as_ref(), code, detail)
    }
}

fn refusal(req: Option<&Value>, code: ErrorCode, detail: &str) -> Refusal {
    let mut error = json!({"type": "error", "code": code.as_str(), "detail": detail});
    if let Some(req) = req {
        error["req"] = req.clone();
    }
    let mut frame = Vec::new();
    control::append_text(&mut frame, &error.to_string());
    frame
}

#[cfg(test)]
pub(crate) mod tests {
    use hermes_bus_core::{Credentials, Router};
    use hermes_bus_proto::frame::Decoded;

    use super::*;

    pub(crate) fn some_key() -> SessionKey {
        Router::new(Default::default(), 0).connected(Credentials { uid: 0, pid: 1 })
    }

    /// What a frame says.
    pub(crate) fn said(frame: &[u8]) -> Value {
        let Decoded::Frame { payload, .. } = frame::decode(frame) else { panic!("{frame:?}") };
        serde_json::from_slice(payload).unwrap()
    }

    fn ask(request: Value) -> Result<Operation, Value> {
        let payload = Bytes::from(request.to_string());
        let read = read(some_key(), &payload);
        read.map(|(_, operation)| operation).map_err(|frame| said(&frame))
    }

    #[test]
    fn every_operation_is_read_with_its_arguments() {
        let name = |name: &str| EndpointName::level_1(name).unwrap();
        let history = HistoryQuery {
            search: Some("w".to_owned()),
            since: Some(1.5),
            order: Order::Oldest,
            after: Some("c".to_owned()),
            ..HistoryQuery::default()
        };
        let examples = [
            (json!({}), RELOAD, Operation::Reload),
            (json!({}), RESTART, Operation::Restart),
            (json!({}), STORE, Operation::Look(Look::Figures)),
            (json!({"path": "/x"}), "backup", Operation::Look(Look::Backup { path: "/x".into() })),
            (json!({}), "config", Operation::Config),
            (json!({"all": true}), "dead.drop", Operation::Look(Look::Drop(Which::All))),
            (
                json!({"endpoint": "e", "after": 3, "limit": 9}),
                "dead.list",
                Operation::Look(Look::DeadLetters {
                    endpoint: Some("e".to_owned()),
                    after: Some(3),
                    limit: Some(9),
                }),
            ),
            (json!({"key": 5}), "dead.retry", Operation::Look(Look::Retry(Which::Key(5)))),
            (json!({"key": 5}), "dead.show", Operation::Look(Look::DeadLetter { key: 5 })),
            (json!({"group": "g"}), "groups", Operation::Groups { group: Some("g".to_owned()) }),
            (
                json!({"search": "w", "since": 1.5, "order": "oldest", "after": "c"}),
                "history",
                Operation::Look(Look::History(history)),
            ),
            (
                json!({"endpoint": "e", "after": 7}),
                "mailbox.drain",
                Operation::Look(Look::Drain { endpoint: name("e"), after: Some(7), limit: None }),
            ),
            (
                json!({"after": "a"}),
                "mailbox.list",
                Operation::Mailboxes { after: Some("a".to_owned()) },
            ),
            (json!({"endpoint": "e"}), "mailbox.purge", Operation::Purge { endpoint: name("e") }),
            (
                json!({"endpoint": "e", "after": 7}),
                "mailbox.show",
                Operation::Look(Look::Waiting { endpoint: name("e"), after: Some(7), limit: None }),
            ),
            (json!({}), "metrics", Operation::Metrics),
        ];
        let ops: Vec<&str> = examples.iter().map(|(_, op, _)| *op).collect();
        assert_eq!(ops, OPS, "every operation has an example");
        for (mut request, op, operation) in examples {
            request["op"] = op.into();
            request["type"] = "admin".into();
            assert_eq!(ask(request), Ok(operation), "{op}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_request_is_told() {
        for (request, told) in [
            (json!({"req": 1}), "field 'op' must be one of: reload, "),
            (json!({"op": "mailbox.show", "req": 1}), "missing field `endpoint`"),
            (json!({"op": "mailbox.show", "endpoint": 5, "req": 1}), "invalid type"),
            (json!({"op": "mailbox.show", "endpoint": "bus.x", "req": 1}), "bus."),
            (json!({"op": "dead.drop", "req": 1}), "exactly one of 'key', 'endpoint' and 'all'"),
            (json!({"op": "dead.drop", "key": 1, "all": true, "req": 1}), "exactly one of"),
            (json!({"op": "history", "order": "random", "req": 1}), "unknown variant `random`"),
            (json!({"op": "history", "limit": -1, "req": 1}), "invalid value"),
        ] {
            let error = ask(request.clone()).unwrap_err();
            assert_eq!(error["code"], "invalid_field", "{request}");
            assert_eq!(error["req"], 1, "{request}");
            assert!(error["detail"].as_str().unwrap().contains(told), "{request}: {error}");
        }
    }

    #[test]
    fn an_answer_names_its_operation_and_echoes_the_request() {
        let payload = Bytes::from(json!({"op": "history", "req": ["a", 1]}).to_string());
        let (asker, _) = read(some_key(), &payload).unwrap();
        let mut result = Members::default();
        result.value("n", 5);
        let expected = json!({"type": "admin_result", "op": "history", "req": ["a", 1], "n": 5});
        assert_eq!(said(&asker.result_text(&result)), expected);
        assert_eq!(said(&asker.result(json!({"n": 5}))), expected);
        let empty = asker.result_text(&Members::default());
        assert_eq!(said(&empty), asker_head());
    }

    fn asker_head() -> Value {
        json!({"type": "admin_result", "op": "history", "req": ["a", 1]})
    }
}

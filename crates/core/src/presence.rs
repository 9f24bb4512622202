//! What watchers hear of endpoints that come and go.
//!
//! An endpoint goes when its linger is over, not when its session ends: one that is away for a moment
//! was never gone. It then only has a new session.

use alloc::vec::Vec;

use hermes_bus_proto::EndpointName;
use hermes_bus_proto::control::{self, Presence};

use crate::CloseReason;

/// What has happened to an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// A session has registered it.
    Registered,
    /// A new session has it, before its linger was over.
    Returned,
    /// A new session has taken it from another one.
    TakenOver,
    /// Nobody has it any more: its session ended for this reason, and nobody came back.
    Gone(CloseReason),
}

impl Change {
    fn reason(self) -> &'static str {
        match self {
            Change::Registered => "registered",
            Change::Returned => "returned",
            Change::TakenOver => "taken_over",
            Change::Gone(reason) => reason.as_str(),
        }
    }
}

/// Appends the frame that says so. `session_id` is that of the session that came or went.
pub(crate) fn append(
    out: &mut Vec<u8>,
    endpoint: &EndpointName,
    change: Change,
    session_id: &str,
    unix_us: u64,
) {
    let is_online = !matches!(change, Change::Gone(_));
    let presence = Presence { endpoint, is_online, session_id, unix_us, reason: change.reason() };
    control::presence(out, &presence);
}

#[cfg(test)]
mod tests {
    use super::*;
    use hermes_bus_proto::limits::HEADER_BYTES;
    use serde_json::{Value, json};

    #[test]
    fn an_endpoint_is_there_until_it_is_gone() {
        let name = EndpointName::level_1("a \"name\"").expect("a name");
        for (change, state, reason) in [
            (Change::Registered, "online", "registered"),
            (Change::Returned, "online", "returned"),
            (Change::TakenOver, "online", "taken_over"),
            (Change::Gone(CloseReason::Heartbeat), "offline", "heartbeat"),
        ] {
            let mut out = Vec::new();
            append(&mut out, &name, change, "uuid", 1_500_000);
            let frame: Value = serde_json::from_slice(&out[HEADER_BYTES..]).expect("it is JSON");
            let expected = json!({"type": "presence", "endpoint": "a \"name\"", "state": state,
                                  "session_id": "uuid", "ts": 1.5, "reason": reason});
            assert_eq!(frame, expected);
        }
    }
}

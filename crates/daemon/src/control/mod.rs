//! What the daemon's own user may ask of it, with an `admin` request.

use bytes::Bytes;
use hermes_bus_core::SessionKey;
use hermes_bus_proto::{ErrorCode, control};
use serde::Deserialize;
use serde_json::{Value, json};

/// Every operation, as listings show them.
pub(crate) const OPS: &[&str] = &[RELOAD, RESTART];
/// Reads the configuration and the hooks again.
pub(crate) const RELOAD: &str = "reload";
/// Has another process follow this one.
pub(crate) const RESTART: &str = "restart";

/// An operation with its arguments.
#[derive(Debug, Deserialize)]
#[serde(tag = "op", rename_all = "lowercase")]
pub(crate) enum Operation {
    Reload,
    Restart,
}

/// Who has asked, and is to be answered.
#[derive(Clone, Debug)]
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
    match serde_json::from_value(request) {
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

//! What a message asks of the bus besides being routed: `receipt`, `queue`, `ttl_s`, `hops`.

use core::time::Duration;

use crate::control::Status;
use crate::envelope::{Asking, Raw};
use crate::limits::{HOPS_MAX, TTL_MAX};

/// What a message asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ask {
    /// The state that its sender wants to hear of.
    pub receipt: Option<Status>,
    /// Whether it is to be stored if its target is away. A `receipt` of `stored` implies it.
    pub queue: bool,
    /// For how long it is wanted.
    pub ttl: Option<Duration>,
    /// How often automatic forwarders have passed it on.
    pub hops: u32,
}

/// A field whose value is of the wrong type or out of range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("field '{field}' must be {expected}")]
pub struct InvalidField {
    /// Its key.
    pub field: &'static str,
    /// What it must be.
    pub expected: &'static str,
}

impl Ask {
    /// Reads what a message of a level 2 session asks for.
    pub fn strict(asking: &Asking<'_>) -> Result<Ask, InvalidField> {
        let mut ask = Ask::default();
        if let Some(value) = asking.receipt {
            ask.receipt = Some(read_receipt(value)?);
        }
        if let Some(value) = asking.queue {
            ask.queue = read_bool("queue", value)?;
        }
        if let Some(value) = asking.ttl_s {
            ask.ttl = Some(read_ttl(value)?);
        }
        if let Some(value) = asking.hops {
            ask.hops = read_hops(value)?;
        }
        ask.queue |= ask.receipt == Some(Status::Stored);
        Ok(ask)
    }

    /// Reads what any other message asks for: a value that does not fit asks for nothing.
    pub fn lenient(asking: &Asking<'_>) -> Ask {
        let receipt = asking.receipt.and_then(|value| read_receipt(value).ok());
        let queue = asking.queue.and_then(|value| read_bool("queue", value).ok());
        Ask {
            receipt,
            queue: queue.unwrap_or(false) || receipt == Some(Status::Stored),
            ttl: asking.ttl_s.and_then(|value| read_ttl(value).ok()),
            hops: asking.hops.and_then(|value| read_hops(value).ok()).unwrap_or(0),
        }
    }

    /// Whether it was passed on too often: a loop.
    pub fn is_looping(&self) -> bool {
        self.hops > HOPS_MAX
    }
}

fn read_receipt(value: Raw<'_>) -> Result<Status, InvalidField> {
    let expected = "'accepted', 'stored', 'delivered' or 'acked'";
    let word = value.text().ok();
    word.and_then(|word| Status::of(&word)).ok_or(InvalidField { field: "receipt", expected })
}

/// Reads `true` or `false`.
pub(crate) fn read_bool(field: &'static str, value: Raw<'_>) -> Result<bool, InvalidField> {
    match value.as_bytes() {
        b"true" => Ok(true),
        b"false" => Ok(false),
        _ => Err(InvalidField { field, expected: "true or false" }),
    }
}

fn read_ttl(value: Raw<'_>) -> Result<Duration, InvalidField> {
    let invalid = InvalidField { field: "ttl_s", expected: "a number of seconds from 0 on" };
    let seconds = value.finite_number().filter(|seconds| *seconds >= 0.0).ok_or(invalid)?;
    Ok(Duration::try_from_secs_f64(seconds).unwrap_or(TTL_MAX).min(TTL_MAX))
}

fn read_hops(value: Raw<'_>) -> Result<u32, InvalidField> {
    let invalid = InvalidField { field: "hops", expected: "a whole number from 0 on" };
    let hops = value.integer().filter(|hops| *hops >= 0).ok_or(invalid)?;
    Ok(u32::try_from(hops).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Envelope;

    fn asking(members: &str) -> Result<Ask, InvalidField> {
        let json = format!("{{\"type\": \"message\"{members}}}");
        let envelope = Envelope::scan(json.as_bytes()).expect("the members are JSON");
        Ask::strict(&envelope.asking)
    }

    #[test]
    fn a_message_that_asks_for_nothing_asks_for_nothing() {
        assert_eq!(asking(""), Ok(Ask::default()));
    }

    #[test]
    fn everything_can_be_asked_for() {
        let ask = asking(r#", "receipt": "acked", "queue": true, "ttl_s": 1.5, "hops": 3"#);
        let ttl = Some(Duration::from_millis(1_500));
        assert_eq!(ask, Ok(Ask { receipt: Some(Status::Acked), queue: true, ttl, hops: 3 }));
        assert_eq!(asking(r#", "ttl_s": 1e300"#).map(|ask| ask.ttl), Ok(Some(TTL_MAX)));
        assert_eq!(asking(r#", "ttl_s": 0"#).map(|ask| ask.ttl), Ok(Some(Duration::ZERO)));
    }

    #[test]
    fn to_be_told_that_it_is_stored_a_message_must_be_stored() {
        assert_eq!(asking(r#", "receipt": "stored""#).map(|ask| ask.queue), Ok(true));
    }

    #[test]
    fn what_does_not_fit_is_named_or_passed_over() {
        for (field, value) in [
            ("receipt", "\"read\""),
            ("receipt", "true"),
            ("queue", "1"),
            ("ttl_s", "-1"),
            ("ttl_s", "NaN"),
            ("ttl_s", "Infinity"),
            ("ttl_s", "\"5\""),
            ("hops", "-1"),
            ("hops", "1.5"),
        ] {
            let members = format!(", \"{field}\": {value}");
            assert_eq!(asking(&members).map_err(|error| error.field), Err(field), "{value}");
            let json = format!("{{\"type\": \"message\"{members}}}");
            let envelope = Envelope::scan(json.as_bytes()).expect("it is JSON");
            assert_eq!(Ask::lenient(&envelope.asking), Ask::default(), "{members}");
        }
    }
}

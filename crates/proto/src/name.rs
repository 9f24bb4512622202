//! Endpoint names, and where a message is addressed to.

use alloc::borrow::{Borrow, Cow};
use alloc::string::String;
use alloc::sync::Arc;
use core::fmt;

use crate::envelope::{NotText, Raw};
use crate::limits::{ADDRESS_BYTES_MAX, NAME_BYTES_MAX, RESERVED_NAME_PREFIX};

/// The name of an endpoint: any text of up to [`NAME_BYTES_MAX`] bytes that is not the bus's own.
/// Compared byte for byte. Cloning is cheap.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EndpointName(Arc<str>);

/// Why a text cannot be an endpoint's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Over [`NAME_BYTES_MAX`].
    #[error("an endpoint name of {0} bytes is over the limit of {NAME_BYTES_MAX} bytes")]
    TooLong(usize),
    /// On level 2: empty, or over [`ADDRESS_BYTES_MAX`].
    #[error("an endpoint name must be 1 to {ADDRESS_BYTES_MAX} bytes long, not {0}")]
    Length2(usize),
    /// On level 2: a control character, or the beginning of another kind of address.
    #[error("an endpoint name must not begin with '@' or '#' or contain control characters")]
    Character,
    /// Begins with [`RESERVED_NAME_PREFIX`].
    #[error("endpoint names that begin with '{RESERVED_NAME_PREFIX}' belong to the bus itself")]
    Reserved,
}

impl EndpointName {
    /// A name as level 1 allows it.
    pub fn level_1(text: &str) -> Result<Self, NameError> {
        if text.len() > NAME_BYTES_MAX {
            return Err(NameError::TooLong(text.len()));
        }
        if text.starts_with(RESERVED_NAME_PREFIX) {
            return Err(NameError::Reserved);
        }
        Ok(EndpointName(Arc::from(text)))
    }

    /// A name as level 2 allows it: 1 to 255 bytes, no control characters, and nothing that an
    /// address of a group or topic begins with.
    pub fn level_2(text: &str) -> Result<Self, NameError> {
        if text.is_empty() || text.len() > ADDRESS_BYTES_MAX {
            return Err(NameError::Length2(text.len()));
        }
        if text.starts_with(['@', '#']) || text.chars().any(char::is_control) {
            return Err(NameError::Character);
        }
        EndpointName::level_1(text)
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name as a JSON string, quotes included.
    pub fn to_json(&self) -> String {
        json_string(&self.0)
    }
}

impl Borrow<str> for EndpointName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for EndpointName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// `text` as a JSON string: quotes, backslashes and control characters escaped, all else raw.
pub fn json_string(text: &str) -> String {
    serde_json::to_string(text).expect("text always has a JSON form")
}

/// Where a message is addressed to: its `to`, read as level 1 reads it.
#[derive(Debug, PartialEq, Eq)]
pub enum Destination<'a> {
    /// Every registered endpoint: `to` is missing, or a value that is false in Python.
    Everyone,
    /// The endpoint of this name, if there is one.
    Endpoint(Cow<'a, str>),
    /// No endpoint can have this name: a number, `true`, or text with a lone surrogate.
    Nobody,
    /// An array or object that is not empty.
    Invalid,
}

impl<'a> Destination<'a> {
    /// Reads `to`.
    #[inline]
    pub fn of(to: Option<Raw<'a>>) -> Self {
        let Some(to) = to else { return Destination::Everyone };
        match to.text() {
            Ok(name) if name.is_empty() => Destination::Everyone,
            Ok(name) => Destination::Endpoint(name),
            Err(NotText::LoneSurrogate) => Destination::Nobody,
            Err(NotText::OtherType) if to.is_false_in_python() => Destination::Everyone,
            Err(NotText::OtherType) if to.is_container() => Destination::Invalid,
            Err(NotText::OtherType) => Destination::Nobody,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn destination(json: &str) -> Destination<'_> {
        Destination::of(Some(Raw::new(json.as_bytes())))
    }

    #[test]
    fn what_python_takes_for_false_means_everyone() {
        assert_eq!(Destination::of(None), Destination::Everyone);
        for json in [
            "\"\"", "null", "false", "0", "-0", "0.0", "-0.0", "0e9", "1e-999", "[]", "[ \n]", "{}",
        ] {
            assert_eq!(destination(json), Destination::Everyone, "{json}");
        }
    }

    #[test]
    fn other_values_name_nobody_or_are_invalid() {
        for json in ["5", "true", "NaN", "-Infinity", "1e400", "\"\\ud800\"", "\"x\\udc00y\""] {
            assert_eq!(destination(json), Destination::Nobody, "{json}");
        }
        for json in ["[1]", "{\"a\":1}", "[[]]"] {
            assert_eq!(destination(json), Destination::Invalid, "{json}");
        }
    }

    #[test]
    fn names_are_unescaped_and_compared_exactly() {
        assert_eq!(destination("\"a\\u0062c\""), Destination::Endpoint("abc".into()));
        assert_eq!(destination("\"\\ud83d\\ude00\""), Destination::Endpoint("😀".into()));
        assert_eq!(destination("\"*\""), Destination::Endpoint("*".into()));
    }

    #[test]
    fn names_have_a_length_and_a_reserved_corner() {
        assert!(EndpointName::level_1("").is_ok());
        assert!(EndpointName::level_1(&"é".repeat(NAME_BYTES_MAX / 2)).is_ok());
        let long = "x".repeat(NAME_BYTES_MAX + 1);
        assert_eq!(EndpointName::level_1(&long), Err(NameError::TooLong(NAME_BYTES_MAX + 1)));
        assert_eq!(EndpointName::level_1("bus.stats"), Err(NameError::Reserved));
        assert!(EndpointName::level_1("bus").is_ok());
    }
}

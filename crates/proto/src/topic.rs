//! Groups and topics: addresses that name several endpoints.

use alloc::borrow::Cow;

use crate::limits::ADDRESS_BYTES_MAX;

/// What the first letter of an address makes of it, where no endpoint has exactly that name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address<'a> {
    /// An endpoint's name.
    Endpoint(Cow<'a, str>),
    /// `@group`, without the `@`: one of its members.
    Group(Cow<'a, str>),
    /// `#topic.name`, without the `#`: every subscriber.
    Topic(Cow<'a, str>),
}

impl<'a> Address<'a> {
    /// Reads an address.
    pub fn of(text: Cow<'a, str>) -> Self {
        let rest = |text: Cow<'a, str>| match text {
            Cow::Borrowed(text) => Cow::Borrowed(&text[1..]),
            Cow::Owned(mut text) => {
                text.remove(0);
                Cow::Owned(text)
            }
        };
        match text.as_bytes().first() {
            Some(b'@') => Address::Group(rest(text)),
            Some(b'#') => Address::Topic(rest(text)),
            _ => Address::Endpoint(text),
        }
    }
}

/// Why a text cannot be a group, a topic or a pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// Nothing, or over [`ADDRESS_BYTES_MAX`].
    #[error("must be 1 to {ADDRESS_BYTES_MAX} bytes long")]
    Length,
    /// A control character.
    #[error("must not contain control characters")]
    Control,
    /// Two dots side by side, or one at an end.
    #[error("has an empty part between its dots")]
    EmptyToken,
    /// `*` or `>` where a message is published.
    #[error("names several topics ('*' and '>' are for subscriptions)")]
    Wildcard,
    /// `>` that is not the last part.
    #[error("has a '>' that is not its last part")]
    RestNotLast,
}

fn check_text(text: &str) -> Result<(), AddressError> {
    if text.is_empty() || text.len() > ADDRESS_BYTES_MAX {
        return Err(AddressError::Length);
    }
    if text.chars().any(char::is_control) {
        return Err(AddressError::Control);
    }
    Ok(())
}

/// The name of a group, as `groups` lists it (with or without its `@`), without the `@`.
pub fn group(text: &str) -> Result<&str, AddressError> {
    let name = text.strip_prefix('@').unwrap_or(text);
    check_text(name).map(|()| name)
}

/// A topic that a message is published to, without its `#`.
pub fn topic(name: &str) -> Result<&str, AddressError> {
    check_text(name)?;
    for token in name.split('.') {
        match token {
            "" => return Err(AddressError::EmptyToken),
            "*" | ">" => return Err(AddressError::Wildcard),
            _ => {}
        }
    }
    Ok(name)
}

/// A pattern of topics, as `topics` lists it (with or without its `#`), without the `#`: `*` stands
/// for one part between dots, `>` at the end for one or more.
pub fn pattern(text: &str) -> Result<&str, AddressError> {
    let pattern = text.strip_prefix('#').unwrap_or(text);
    check_text(pattern)?;
    let mut tokens = pattern.split('.').peekable();
    while let Some(token) = tokens.next() {
        match token {
            "" => return Err(AddressError::EmptyToken),
            ">" if tokens.peek().is_some() => return Err(AddressError::RestNotLast),
            _ => {}
        }
    }
    Ok(pattern)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_letter_says_what_an_address_is() {
        assert_eq!(Address::of("a.b".into()), Address::Endpoint("a.b".into()));
        assert_eq!(Address::of("@workers".into()), Address::Group("workers".into()));
        assert_eq!(Address::of(Cow::Owned("#a.b".to_owned())), Address::Topic("a.b".into()));
        assert_eq!(Address::of("".into()), Address::Endpoint("".into()));
    }

    #[test]
    fn a_topic_is_words_between_dots() {
        assert_eq!(topic("build.done"), Ok("build.done"));
        assert_eq!(topic(""), Err(AddressError::Length));
        assert_eq!(topic(&"x".repeat(ADDRESS_BYTES_MAX + 1)), Err(AddressError::Length));
        assert_eq!(topic("a..b"), Err(AddressError::EmptyToken));
        assert_eq!(topic("a."), Err(AddressError::EmptyToken));
        assert_eq!(topic("a.*"), Err(AddressError::Wildcard));
        assert_eq!(topic("a\nb"), Err(AddressError::Control));
        assert_eq!(topic("a.b*"), Ok("a.b*"), "a star within a word is a letter");
    }

    #[test]
    fn a_pattern_may_leave_words_open() {
        assert_eq!(pattern("#build.*.done"), Ok("build.*.done"));
        assert_eq!(pattern(">"), Ok(">"));
        assert_eq!(pattern("a.>"), Ok("a.>"));
        assert_eq!(pattern("a.>.b"), Err(AddressError::RestNotLast));
        assert_eq!(group("@workers"), Ok("workers"));
        assert_eq!(group("@"), Err(AddressError::Length));
    }
}

//! Endpoint names as label values.
//!
//! A name is any text of up to 8 KiB. As a label value it is short, and on a terminal it steers
//! nothing. A name that had to be changed for that ends in a hash of all of it, so that two names
//! that begin alike stay apart.

use std::borrow::Cow;
use std::hash::{DefaultHasher, Hash, Hasher};

/// Bytes of a name that are shown.
const SHOWN_BYTES_MAX: usize = 128;

/// The label value of a name.
pub(super) fn endpoint(name: &str) -> Cow<'_, str> {
    if name.len() <= SHOWN_BYTES_MAX && !name.contains(is_harmful) {
        return Cow::Borrowed(name);
    }
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    let end = (0..=SHOWN_BYTES_MAX.min(name.len())).rev().find(|end| name.is_char_boundary(*end));
    let shown = name[..end.unwrap_or(0)].replace(is_harmful, "\u{fffd}");
    Cow::Owned(format!("{shown}…{:016x}", hasher.finish()))
}

/// Whether a terminal could take a character for more than a letter. A line end is none: it is
/// written as an escape.
fn is_harmful(c: char) -> bool {
    (c.is_control() && c != '\n') || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ordinary_name_is_its_own_label() {
        for name in ["", "worker-1", "测试端点", "two\nlines", "a \"quoted\" \\ name"] {
            assert_eq!(endpoint(name), name);
        }
    }

    #[test]
    fn a_long_name_is_cut_between_characters_and_stays_apart_from_its_like() {
        let (one, other) = ("é".repeat(4_000) + "1", "é".repeat(4_000) + "2");
        let label = endpoint(&one);
        assert!(label.starts_with(&"é".repeat(64)), "{label}");
        assert!(label.len() < SHOWN_BYTES_MAX + 32, "{label}");
        assert_ne!(label, endpoint(&other));
        assert_eq!(label, endpoint(&one), "the same name has the same label");
    }

    #[test]
    fn a_name_cannot_steer_a_terminal() {
        let label = endpoint("\u{1b}[2Jgone\r\u{202e}");
        assert!(label.starts_with("\u{fffd}[2Jgone\u{fffd}\u{fffd}…"), "{label}");
        assert_ne!(label, endpoint("\u{7f}[2Jgone\r\u{202e}"));
    }
}

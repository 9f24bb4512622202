//! Patterns of names, as users write them into files: which messages a hook or a rule is for. (Patterns of
//! topics are another thing: see [`crate::topic`].)

use alloc::string::String;

/// A text in which `*` stands for any characters, or none. Everything else stands for itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern(String);

impl Pattern {
    /// The pattern of this text.
    pub fn new(text: impl Into<String>) -> Self {
        Pattern(text.into())
    }

    /// The pattern as it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether all of `text` fits.
    pub fn fits(&self, text: &str) -> bool {
        let mut pieces = self.0.split('*');
        let Some(mut rest) = text.strip_prefix(pieces.next().unwrap_or_default()) else {
            return false;
        };
        let Some(last) = pieces.next_back() else { return rest.is_empty() };
        // Between the stars the first place is as good as any: it leaves the most to what follows.
        for piece in pieces {
            let Some(at) = rest.find(piece) else { return false };
            rest = &rest[at + piece.len()..];
        }
        rest.ends_with(last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_anything_and_all_else_for_itself() {
        let cases = [
            ("lead", "lead", true),
            ("lead", "leader", false),
            ("lead", "a lead", false),
            ("", "", true),
            ("", "x", false),
            ("*", "", true),
            ("*", "anything", true),
            ("agent-*", "agent-", true),
            ("agent-*", "agent-7", true),
            ("agent-*", "an agent-7", false),
            ("*-agent", "lead-agent", true),
            ("*-agent", "lead-agents", false),
            ("a*b*c", "abc", true),
            ("a*b*c", "a b b c c", true),
            ("a*b*c", "ac", false),
            ("a*a", "a", false),
            ("ab*ba", "aba", false),
            ("*ab*ab*", "abab", true),
            ("*ab*ab*", "aba", false),
            ("a**b", "ab", true),
            ("a?b", "axb", false),
            ("é*ü", "é—ü", true),
        ];
        for (pattern, text, expected) in cases {
            assert_eq!(Pattern::new(pattern).fits(text), expected, "{pattern:?} on {text:?}");
        }
    }
}

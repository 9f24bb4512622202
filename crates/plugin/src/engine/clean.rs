//! Taking out of a text what could steer a terminal, or pass for what it is not.
//!
//! Invariant: what [`plain`] gives holds no control character but line ends and tabs, no bidirectional override and no
//! invisible tag, whatever came in; and what [`own_colours`] gives holds no escape but those of colours.

use std::borrow::Cow;

/// Text of others without escapes. Whole escape sequences go; other ways to end a line become `\n`.
pub fn plain(text: &str) -> Cow<'_, str> {
    clean(text, Keep::Nothing)
}

/// Text of the user's own: the escapes of colours and weights (`ESC [ … m`) stay, everything else goes.
pub fn own_colours(text: &str) -> Cow<'_, str> {
    clean(text, Keep::Colours)
}

/// Text of others on one line, for names and the like: line ends and tabs become spaces. Cut after `chars_max`.
pub fn one_line(text: &str, chars_max: usize) -> String {
    let mut line: String = plain(text).replace(['\n', '\t'], " ");
    if let Some((end, _)) = line.char_indices().nth(chars_max) {
        line.truncate(end);
        line.push('…');
    }
    line
}

/// The longest beginning of a text that is not over `bytes_max` and ends between characters.
pub fn beginning(text: &str, bytes_max: usize) -> &str {
    let mut end = text.len().min(bytes_max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Keep {
    Nothing,
    Colours,
}

/// What is not passed on as it is.
fn is_suspect(character: char) -> bool {
    matches!(character,
        '\0'..='\u{8}' | '\u{b}'..='\u{1f}' | '\u{7f}'..='\u{9f}'
        // Line and paragraph separators, embeddings and overrides, isolates.
        | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
        // Interlinear annotations; tags, which nobody sees and models read.
        | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

fn clean(text: &str, keep: Keep) -> Cow<'_, str> {
    let Some(first) = text.find(is_suspect) else { return Cow::Borrowed(text) };
    let mut cleaned = String::with_capacity(text.len());
    let mut strings = Strings { none_from: None };
    let mut rest_at = first;
    cleaned.push_str(&text[..first]);
    while let Some(character) = text[rest_at..].chars().next() {
        let after = rest_at + character.len_utf8();
        let next = text[after..].find(is_suspect).map_or(text.len(), |length| after + length);
        match character {
            '\x1b' => {
                let end = after + escape_bytes(text, after, &mut strings);
                if keep == Keep::Colours && is_colour(&text[rest_at..end]) {
                    cleaned.push_str(&text[rest_at..end]);
                }
                rest_at = end;
            }
            '\u{9b}' => rest_at = after + control_sequence_bytes(&text[after..]),
            '\u{90}' | '\u{98}' | '\u{9d}'..='\u{9f}' => {
                rest_at = after + strings.bytes(text, after);
            }
            _ => {
                let ends_line = match character {
                    '\r' => !text[after..].starts_with('\n'),
                    other => {
                        matches!(other, '\u{b}' | '\u{c}' | '\u{85}' | '\u{2028}' | '\u{2029}')
                    }
                };
                if ends_line {
                    cleaned.push('\n');
                } else if !is_suspect(character) {
                    cleaned.push(character);
                }
                cleaned.push_str(&text[after..next]);
                rest_at = next;
            }
        }
    }
    Cow::Owned(cleaned)
}

/// How many bytes behind an ESC belong to its sequence.
fn escape_bytes(text: &str, at: usize, strings: &mut Strings) -> usize {
    let rest = &text.as_bytes()[at..];
    match rest.first() {
        Some(b'[') => 1 + control_sequence_bytes(&text[at + 1..]),
        Some(b']' | b'P' | b'X' | b'^' | b'_') => 1 + strings.bytes(text, at + 1),
        Some(b' '..=b'/') => {
            let between = rest.iter().take_while(|byte| matches!(byte, b' '..=b'/')).count();
            between + usize::from(rest.get(between).is_some_and(|byte| matches!(byte, b'0'..=b'~')))
        }
        Some(b'0'..=b'~') => 1,
        _ => 0,
    }
}

/// Parameters, intermediates and the final byte of a control sequence.
fn control_sequence_bytes(text: &str) -> usize {
    let bytes = text.as_bytes();
    let count = |from: usize, range: std::ops::RangeInclusive<u8>| {
        bytes[from..].iter().take_while(|byte| range.contains(byte)).count()
    };
    let parameters = count(0, b'0'..=b'?');
    let before_final = parameters + count(parameters, b' '..=b'/');
    let is_whole = bytes.get(before_final).is_some_and(|byte| matches!(byte, b'@'..=b'~'));
    before_final + usize::from(is_whole)
}

/// Strings that a terminal reads up to a terminator: titles, links, pictures.
struct Strings {
    /// Where it is known that no terminator follows, so that each is looked for once.
    none_from: Option<usize>,
}

impl Strings {
    /// Bytes up to the terminator, and with it; none where it never comes.
    fn bytes(&mut self, text: &str, at: usize) -> usize {
        if self.none_from.is_some_and(|from| at >= from) {
            return 0;
        }
        let found = text[at..].find(['\x07', '\x1b', '\u{9c}']).map(|length| at + length);
        let Some(end) = found else {
            self.none_from = Some(at);
            return 0;
        };
        // An ESC ends it, too: with its backslash, or as the beginning of something else.
        let terminator = match text.as_bytes()[end] {
            b'\x07' => 1,
            b'\x1b' => 2 * usize::from(text[end + 1..].starts_with('\\')),
            _ => '\u{9c}'.len_utf8(),
        };
        end + terminator - at
    }
}

/// Whether an escape sequence only changes colours and weights.
pub(super) fn is_colour(sequence: &str) -> bool {
    let inner = sequence.strip_prefix("\x1b[").and_then(|inner| inner.strip_suffix('m'));
    inner.is_some_and(|inner| inner.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b';' | b':')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_go_as_a_whole_and_text_stays() {
        let table = [
            ("plain ⚕ 测试 \u{1f469}\u{200d}\u{1f4bb}", "plain ⚕ 测试 \u{1f469}\u{200d}\u{1f4bb}"),
            ("a\tb\nc", "a\tb\nc"),
            ("\x1b[31mred\x1b[0m", "red"),
            ("\x1b[38:2::1:2:3mred\x1b[m", "red"),
            ("\x1b]0;title\x07text", "text"),
            ("\x1b]8;;http://evil\x1b\\link\x1b]8;;\x1b\\", "link"),
            ("\x1bP1$r0m\x1b\\x", "x"),
            ("\u{9b}31mred\u{9d}0;t\u{9c}x", "redx"),
            ("\x1b]0;never ends", "0;never ends"),
            ("\x1b]52;c;ZXZpbA==\x1b[31mx", "x"),
            ("\x1b\x1b[0m[31mx", "[31mx"),
            ("\x1b(0x\x1b7y\x1bcz", "xyz"),
            ("\x1b[12", ""),
            ("\x1b", ""),
            ("\x1b测", "测"),
            ("a\r\nb\rc\u{b}d\u{c}e\u{85}f\u{2028}g\u{2029}h", "a\nb\nc\nd\ne\nf\ng\nh"),
            ("x\u{202e}gpj.exe\u{202c}\u{2066}y\u{2069}", "xgpj.exey"),
            ("hi\u{e0049}\u{e0067}\u{e007f}", "hi"),
            ("a\0b\x08c\x7fd", "abcd"),
        ];
        for (text, expected) in table {
            assert_eq!(plain(text), expected, "{text:?}");
        }
    }

    #[test]
    fn of_ones_own_escapes_only_colours_stay() {
        let text = "\x1b[1;32mok\x1b[0m\x1b[2J\x1b]0;t\x07\x1b[?25l\u{9b}31m!";
        assert_eq!(own_colours(text), "\x1b[1;32mok\x1b[0m!");
    }

    #[test]
    fn many_beginnings_without_an_end_take_no_longer_than_few() {
        // Quadratic work would take minutes here.
        let text = "\x1b]".repeat(2_000_000);
        assert_eq!(plain(&text), "");
        let text = "\u{9d}".repeat(2_000_000);
        assert_eq!(plain(&text), "");
    }

    #[test]
    fn a_line_is_one_line_and_not_too_long() {
        assert_eq!(one_line("a\nb\r\nc\td\x1b[1m!", 100), "a b c d!");
        assert_eq!(one_line("äöü", 2), "äö…");
        assert_eq!(beginning("äöü", 3), "ä");
    }
}

//! What search knows of a body, and how what a person types becomes a query.
//!
//! The index cuts text into words where something is neither letter nor digit. Scripts that are
//! written without spaces are cut into single characters first, in bodies and in queries alike: a
//! Chinese word is then a phrase of its characters, found wherever it stands.

use hermes_bus_proto::Envelope;

/// Bytes of one body that search knows; what is behind is not found.
const TEXT_BYTES_MAX: usize = 256 * 1024;

/// The text of a message's body as it is given to the index; none without a body.
pub(crate) fn of_payload(payload: &[u8]) -> Option<String> {
    let body = Envelope::scan(payload).ok()?.member("body")?;
    let text = spaced(&unescaped(body.as_bytes()));
    (!text.trim().is_empty()).then_some(text)
}

/// JSON text with the escapes of its strings resolved: words, however they are written.
fn unescaped(json: &[u8]) -> String {
    let json = String::from_utf8_lossy(&json[..json.len().min(TEXT_BYTES_MAX)]);
    let mut text = String::with_capacity(json.len());
    let mut rest = json.chars();
    let mut high = None;
    while let Some(character) = rest.next() {
        if character != '\\' {
            text.push(character);
            continue;
        }
        match rest.next() {
            Some('u') => {
                let digits: String = rest.by_ref().take(4).collect();
                let unit = u32::from_str_radix(&digits, 16).unwrap_or(0xfffd);
                match (high.take(), unit) {
                    (_, 0xd800..=0xdbff) => high = Some(unit),
                    (Some(high), 0xdc00..=0xdfff) => {
                        let value = 0x10000 + ((high - 0xd800) << 10) + (unit - 0xdc00);
                        text.push(char::from_u32(value).unwrap_or('\u{fffd}'));
                    }
                    _ => text.push(char::from_u32(unit).unwrap_or('\u{fffd}')),
                }
            }
            Some('"') => text.push('"'),
            Some('\\') => text.push('\\'),
            Some('/') => text.push('/'),
            // A line break, a tab: where words end.
            Some(_) => text.push(' '),
            None => {}
        }
    }
    text
}

/// Whether this script is written without spaces.
fn is_unspaced(character: char) -> bool {
    matches!(u32::from(character),
        0x0e00..=0x0eff // Thai, Lao
        | 0x1000..=0x109f // Myanmar
        | 0x1780..=0x17ff // Khmer
        | 0x3040..=0x30ff // Hiragana, Katakana
        | 0x3400..=0x4dbf | 0x4e00..=0x9fff | 0xf900..=0xfaff // Han
        | 0xac00..=0xd7af // Hangul
        | 0x20000..=0x3ffff) // Han
}

fn spaced(text: &str) -> String {
    let mut spaced = String::with_capacity(text.len());
    for character in text.chars() {
        if is_unspaced(character) {
            spaced.extend([' ', character, ' ']);
        } else {
            spaced.push(character);
        }
    }
    spaced
}

/// The query that finds what a person typed; none if there is nothing in it that could be found.
///
/// Every word becomes a quoted phrase, so that no character of it is taken for an operator.
pub(crate) fn query(typed: &str) -> Option<String> {
    let mut phrases = Vec::new();
    let mut is_quoted = false;
    for part in typed.split('"') {
        if is_quoted {
            phrases.extend(phrase(part, false));
        } else {
            for word in part.split_whitespace() {
                phrases.extend(phrase(word, word.ends_with('*')));
            }
        }
        is_quoted = !is_quoted;
    }
    (!phrases.is_empty()).then(|| phrases.join(" "))
}

fn phrase(text: &str, is_beginning: bool) -> Option<String> {
    // SQLite takes text for ended at its first zero byte.
    let text = spaced(text).replace('\0', " ");
    text.chars().any(char::is_alphanumeric).then(|| {
        let star = if is_beginning { " *" } else { "" };
        format!("\"{}\"{star}", text.trim())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_become_what_they_stand_for() {
        let payload =
            br#"{"type":"message","body":"a\tb \u4f60\u597d \ud83d\ude00 \ud800x \"q\" c\\d"}"#;
        let text = of_payload(payload).unwrap();
        assert_eq!(text, "\"a b  你  好  😀 \u{fffd}x \"q\" c\\d\"".replace("\u{fffd}x", "x"));
        assert_eq!(of_payload(br#"{"type":"message"}"#), None);
        assert_eq!(of_payload(b"not json"), None);
    }

    #[test]
    fn what_is_typed_becomes_phrases() {
        assert_eq!(query("disk full").as_deref(), Some("\"disk\" \"full\""));
        assert_eq!(query("\"disk full\" dep*").as_deref(), Some("\"disk full\" \"dep*\" *"));
        assert_eq!(query("你好").as_deref(), Some("\"你  好\""));
        assert_eq!(query("\"open").as_deref(), Some("\"open\""));
        assert_eq!(query(" -- ** \"\" "), None);
    }
}

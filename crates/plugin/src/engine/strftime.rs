//! `{ts:FORMAT}`: what Python's `datetime.fromtimestamp(ts).strftime(FORMAT)` prints in the C locale.

use jiff::Zoned;
use jiff::fmt::strtime;

/// Formats a moment. What is no directive stays as it is, as the C library leaves it.
pub(super) fn format(moment: &Zoned, format: &str) -> String {
    let mut formatted = String::new();
    let mut rest = format;
    while let Some(at) = rest.find('%') {
        formatted.push_str(&rest[..at]);
        let directive = directive(&rest[at..]);
        match one(moment, directive) {
            Some(text) => formatted.push_str(&text),
            None => formatted.push_str(directive),
        }
        rest = &rest[at + directive.len()..];
    }
    formatted.push_str(rest);
    formatted
}

/// `%`, flags, width, one letter.
fn directive(text: &str) -> &str {
    let mut letters = text.char_indices().skip(1);
    let end = letters.find(|(_, c)| !matches!(c, '-' | '_' | '^' | '#' | '0'..='9'));
    end.map_or(text, |(at, letter)| &text[..at + letter.len_utf8()])
}

fn one(moment: &Zoned, directive: &str) -> Option<String> {
    let whole = match directive.chars().last()? {
        '%' => return Some("%".to_owned()),
        'n' => return Some("\n".to_owned()),
        't' => return Some("\t".to_owned()),
        // Python's own: microseconds. A moment without a zone has no name of one to print.
        'f' => return Some(format!("{:06}", moment.subsec_nanosecond() / 1_000)),
        'z' | 'Z' => return Some(String::new()),
        'c' => "%a %b %e %H:%M:%S %Y",
        'x' | 'D' => "%m/%d/%y",
        'X' | 'T' => "%H:%M:%S",
        'r' => "%I:%M:%S %p",
        'R' => "%H:%M",
        'F' => "%Y-%m-%d",
        // Everything with an argument of its own, and what only this library knows.
        'E' | 'O' | '.' | ':' | 'Q' | 'q' | 'N' | 'i' | 'J' | 'K' | 'L' | 'o' | 'v' => return None,
        _ => return strtime::format(directive, moment).ok(),
    };
    strtime::format(whole, moment).ok()
}

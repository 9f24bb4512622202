//! What the last line asks of whoever types: a question, a secret, or what a pager does next.

use super::lines::{Line, is_input};
use super::menus::{Choice, choice};
use super::{Obstacle, footers};

/// How many characters may follow the bracket of a question: `: `, `? `, or a reply begun.
const REPLY_CHARACTERS: usize = 3;

/// Whether the first of these lines, which are in order from the bottom up, waits for an answer. With
/// the cursor below it, it does so only if it names the answers and nothing has followed.
pub(super) fn at_end(lines: &[Line], cursor_row: usize) -> Option<Obstacle> {
    let last = lines.first()?;
    if cursor_row <= last.row {
        return asks(lines, cursor_row == last.row);
    }
    let names_answers = ends_in_choices(last.text.to_lowercase().trim_end());
    let is_next = cursor_row == last.row + 1;
    (is_next && names_answers).then(|| Obstacle::Question(last.text.to_owned()))
}

/// Whether the first of these lines, which are in order from the bottom up, asks something. Programs
/// of the line-by-line kind wait with the cursor on it; what may also be a remark of others counts
/// only then.
fn asks(lines: &[Line], has_cursor: bool) -> Option<Obstacle> {
    let line = lines.first()?.text;
    let lower = line.to_lowercase();
    let lower = lower.trim_end();
    let question = || Some(Obstacle::Question(line.to_owned()));
    // `select` of a shell shows its options and then this.
    if lower == "#?" || ends_in_choices(lower) {
        return question();
    }
    if is_pager(lower, has_cursor) {
        return Some(Obstacle::Pager(line.to_owned()));
    }
    if asks_for_secret(lower) && !is_input(line) {
        return Some(Obstacle::Secret(line.to_owned()));
    }
    // A draft, or a command that was typed.
    if is_input(line) {
        return None;
    }
    let questions = ["do you want to ", "would you like to ", "are you sure"];
    let is_question = lower.ends_with('?') && questions.iter().any(|asked| lower.contains(asked));
    let waits =
        has_cursor && (is_of_a_tool(lower) || is_key_awaited(lower) || lists_letters(lower));
    let numbered = has_cursor && lower.ends_with([':', '?']) && is_under_numbers(&lines[1..]);
    if is_question || waits || numbered { question() } else { None }
}

/// `Password:`, `One-time code:`, `Enter password>`, `? Token`.
fn asks_for_secret(lower: &str) -> bool {
    let phrases = [
        "password",
        "passphrase",
        "passcode",
        "verification code",
        "pin for",
        "enter pin",
        "api key",
        "one-time",
        "secret key",
        "access key",
    ];
    // Words that are also parts of harmless ones.
    let words = ["token", "secret", "otp", "pin"];
    let is_named = |text: &str| {
        let mut all = text.split(|c: char| !c.is_alphanumeric());
        phrases.iter().any(|phrase| text.contains(phrase)) || all.any(|word| words.contains(&word))
    };
    if let Some(rest) = lower.strip_prefix("? ") {
        return is_named(rest) && !rest.contains('?');
    }
    // `my-secrets>` is a prompt for something else: the word has to be what is asked for.
    let last = lower.strip_suffix('>').and_then(|rest| rest.split_whitespace().last());
    lower.ends_with(':') && is_named(lower)
        || last.is_some_and(|last| is_named(last) && !last.contains('-'))
}

/// `more` and `less`, whatever they are called.
fn is_pager(lower: &str, has_cursor: bool) -> bool {
    lower.starts_with("--more--")
        || lower.ends_with("(end)")
        || lower.contains("(press h for help or q to quit)")
        || (has_cursor && lower == ":")
}

/// `rm: remove regular file 'a'?`
fn is_of_a_tool(lower: &str) -> bool {
    let first = lower.split_whitespace().next().unwrap_or_default();
    lower.ends_with('?') && first.len() > 1 && first.ends_with(':')
}

/// `Press any key to continue`, `Enter a value:`
fn is_key_awaited(lower: &str) -> bool {
    let keys = ["any key", "enter", "return", "space"];
    let verbs = ["press ", "hit ", "press [", "hit [", "press <"];
    let is_pressed = |key: &str| verbs.iter().any(|verb| lower.contains(&format!("{verb}{key}")));
    // What Enter would choose is a menu's business.
    lower == "enter a value:"
        || (keys.iter().any(|key| is_pressed(key)) && !footers::tells_keys(lower))
}

/// `[O]pen Read-Only, (E)dit anyway, (A)bort:`
fn lists_letters(lower: &str) -> bool {
    let is_letter = |word: &&str| {
        let mut characters = word.chars();
        let (open, letter, close) = (characters.next(), characters.next(), characters.next());
        matches!(open, Some('(' | '['))
            && letter.is_some_and(char::is_alphabetic)
            && matches!(close, Some(')' | ']'))
    };
    lower.ends_with(':') && lower.split_whitespace().filter(is_letter).count() >= 2
}

/// `2) b`, `1) a` above the prompt.
fn is_under_numbers(above: &[Line]) -> bool {
    let number = |line: &Line| match choice(line.text) {
        Some(Choice::Number(number)) => Some(number),
        _ => None,
    };
    let numbers: Vec<u32> = above.iter().take(2).filter_map(number).collect();
    matches!(numbers[..], [last, before] if before + 1 == last)
}

/// `[y/N]`, `(yes/no)`, `(yes/no/[fingerprint])?`, `[o/s/a/D]:` and the like, with hardly anything
/// after it.
fn ends_in_choices(lower: &str) -> bool {
    let openings = lower.char_indices().filter(|(_, c)| matches!(c, '[' | '('));
    let mut inside = openings.map(|(at, bracket)| (&lower[..at], &lower[at + 1..], bracket));
    let is_asked = |opening: &str| opening.trim_end().ends_with('?');
    inside.any(|(opening, text, bracket)| {
        let Some(close) = text.rfind(if bracket == '[' { ']' } else { ')' }) else { return false };
        let answers: Vec<&str> = text[..close].split(['/', '|', ',']).map(str::trim).collect();
        let is_yes_no = matches!(answers[..], ["y" | "yes", "n" | "no", ..]);
        // `Is this OK? (yes)`: what Enter alone would answer.
        let is_default = matches!(answers[..], ["y" | "yes" | "n" | "no"]) && is_asked(opening);
        let is_letter = |answer: &&str| answer.len() == 1 && !answer.as_bytes()[0].is_ascii_digit();
        let is_letters = bracket == '[' && answers.len() > 2 && answers.iter().all(is_letter);
        let reply = text[close + 1..].trim();
        let is_reply = |c: char| c.is_alphanumeric() || matches!(c, ':' | '?' | '>' | ' ');
        let is_at_end = reply.chars().count() <= REPLY_CHARACTERS && reply.chars().all(is_reply);
        is_at_end && (is_yes_no || is_letters || is_default)
    })
}

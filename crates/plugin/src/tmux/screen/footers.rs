//! Lines that tell what Enter or Esc does: `Press enter to confirm or esc to cancel`, `enter select ·
//! esc back`. Wherever Enter chooses something, some line says so.

/// What Enter does in a menu. What it does in an input line (`send`, `insert`) is not among them.
const CHOOSING: [&str; 10] = [
    "confirm", "select", "submit", "approve", "continue", "choose", "resume", "rewind", "change",
    "accept",
];
/// How Esc leaves a menu.
const LEAVING: [&str; 6] = ["cancel", "close", "dismiss", "back", "exit", "clear"];
const ENTER: [&str; 5] = ["enter", "return", "↵", "⏎", "↩"];

/// The parts of a line that are separated by two or more spaces.
pub(super) fn cells(line: &str) -> impl Iterator<Item = &str> {
    line.split("  ").map(str::trim)
}

/// Whether this line tells what Enter or Esc does to a choice.
pub(super) fn tells_keys(line: &str) -> bool {
    let lower = line.to_lowercase();
    if lower.contains("use arrow keys") {
        return true;
    }
    // The way out of a mode, not of a menu.
    let lower = lower.replace("esc exit shell mode", "");
    let words: Vec<&str> = lower.split_whitespace().collect();
    (0..words.len()).any(|at| is_choice_by_enter(&words, at) || is_left_by_esc(&words, at))
}

fn bare(word: &str) -> &str {
    word.trim_matches(|c: char| c.is_ascii_punctuation() || c == '·')
}

/// The word that says what the key before it does, and the rest of the line.
fn action<'a>(words: &[&'a str], at: usize) -> Option<&'a str> {
    let skipped = usize::from(words.get(at + 1).is_some_and(|word| *word == "to"));
    words.get(at + 1 + skipped).copied()
}

/// `enter confirm`, `Enter/↓ to select`, `↵ rewind`; and `Resume: Enter`.
fn is_choice_by_enter(words: &[&str], at: usize) -> bool {
    // `enter/↓`, `(enter)`.
    let keys = bare(words[at]);
    let is_enter = ENTER.iter().any(|enter| {
        keys.strip_prefix(enter).is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', '↓']))
    });
    let chooses = |word: &str| CHOOSING.contains(&bare(word));
    let before = at.checked_sub(1).map(|before| words[before]);
    is_enter
        && (action(words, at).is_some_and(chooses)
            || before.is_some_and(|word| word.ends_with(':') && chooses(word)))
}

/// `esc to cancel`, `esc back`. Not `esc to interrupt`, which agents say while they work, nor
/// `(esc to cancel, 3s)`, which is the same; nor what Esc does to an input line when it is pressed
/// twice.
fn is_left_by_esc(words: &[&str], at: usize) -> bool {
    let Some(leaves) = action(words, at) else { return false };
    let is_seconds = |word: &&str| {
        let number = bare(word).strip_suffix(['s', 'm', 'h']);
        number.is_some_and(|number| number.parse::<u32>().is_ok())
    };
    let is_stopwatch = words[at + 1..].iter().take(4).any(is_seconds);
    // `double tap esc to clear input`; `? / esc close`, a list of keys above a live input line.
    let is_other = at.checked_sub(1).is_some_and(|before| matches!(words[before], "tap" | "/"));
    bare(words[at]) == "esc" && LEAVING.contains(&bare(leaves)) && !is_stopwatch && !is_other
}

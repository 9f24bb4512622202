//! What on a screen forbids pressing Enter: a menu, a question, or a prompt for a secret. Pure
//! functions over the captured text.
//!
//! Only what is alive counts, and that is found from the bottom up:
//!
//! - Lines are taken without frames and the space around them. Going up from the bottom, at most
//!   [`REGION_LINES`] lines with something on them are looked at, and none above an input line: one
//!   that starts with `❯`, `›`, `»` or `>`, or a shell's prompt. What is above has scrolled by.
//! - A menu is a selected option (`❯ 1. Yes`, `● Yes`) with another option near it that is not
//!   selected; or a footer that says what Enter does (`Enter to confirm`).
//! - A question (`[y/N]`, `(yes/no)`, `Do you want to …?`) or a prompt for a secret (`Password:`)
//!   counts if it is the last line and the cursor is not below it.
//!
//! Lines that belong to a text which was put in by us are no obstacle: see [`find`]. When in doubt
//! there is an obstacle: a text that waits does less harm than an approval nobody gave.

use std::fmt;

use super::text::squash;

/// How many lines from the bottom are looked at.
const REGION_LINES: usize = 24;
/// How many lines an option may be away from the selected one: options wrap.
const OPTION_DISTANCE_LINES: usize = 4;
/// How many characters may follow the bracket of a question: `: `, `? `, or a reply begun.
const REPLY_CHARACTERS: usize = 3;
/// From how many squashed bytes on a part of a line is known to be ours.
const OWN_BYTES_MIN: usize = 8;

/// What forbids pressing Enter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// Enter would choose something: the selected line.
    Menu(String),
    /// Enter, or the text, would answer something: the question.
    Question(String),
    /// The text would be taken for a secret: the prompt.
    Secret(String),
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Obstacle::Menu(line) => write!(f, "a menu waits for a choice there (\"{line}\")"),
            Obstacle::Question(line) => {
                write!(f, "a question waits for an answer there (\"{line}\")")
            }
            Obstacle::Secret(line) => write!(f, "a secret is asked for there (\"{line}\")"),
        }
    }
}

/// Looks for an obstacle. The cursor's row counts from 0. `own` is a text of ours that is known to
/// be on the screen: lines that are part of it are left out, lest a text that quotes a menu or asks a
/// question stands in its own way.
pub(super) fn find(screen: &str, cursor_row: usize, own: Option<&str>) -> Option<Obstacle> {
    // From the bottom up, each with the one above it.
    let all = screen.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let mut lines = all.collect::<Vec<_>>();
    lines.reverse();
    lines.truncate(REGION_LINES);
    let own = own.map(Own::new);
    let is_own = |index: usize| {
        let above = lines.get(index + 1).map_or("", |(_, line)| unframed(line));
        own.as_ref().is_some_and(|own| own.has(unframed(lines[index].1), above))
    };
    let last = lines.iter().position(|(_, line)| !is_border(line));
    if let Some(index) = last
        && let (row, line) = lines[index]
        && cursor_row <= row
        && let Some(obstacle) = asks(unframed(line))
        && !is_own(index)
    {
        return Some(obstacle);
    }
    let region = lines.iter().enumerate().map(|(index, (_, line))| (index, unframed(line)));
    let region = region.take_while(|(_, line)| !is_input(line));
    let region = region.filter(|(index, line)| !line.is_empty() && !is_own(*index));
    let region: Vec<&str> = region.map(|(_, line)| line).collect();
    menu(&region)
}

// ---- menus ------------------------------------------------------------------------------------------

/// Which option a line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Choice {
    Number(u32),
    /// One of the words that answer an approval.
    Word,
}

fn menu(region: &[&str]) -> Option<Obstacle> {
    for (index, line) in region.iter().enumerate() {
        let lower = line.to_lowercase();
        if ["enter to confirm", "enter to select", "enter to approve"]
            .iter()
            .any(|f| lower.contains(f))
        {
            return Some(Obstacle::Menu((*line).to_owned()));
        }
        let Some(selected) = marked(line) else { continue };
        // Both choices on one line: `● Yes / ○ No`.
        if line.contains('○') && choice(selected) == Some(Choice::Word) {
            return Some(Obstacle::Menu((*line).to_owned()));
        }
        let Some(chosen) = choice(selected) else { continue };
        let from = index.saturating_sub(OPTION_DISTANCE_LINES);
        let near = &region[from..region.len().min(index + OPTION_DISTANCE_LINES + 1)];
        let is_other = |other: &&str| match (chosen, choice(open(other))) {
            (Choice::Number(own), Some(Choice::Number(other))) => own.abs_diff(other) == 1,
            (Choice::Word, Some(Choice::Word)) => true,
            _ => false,
        };
        if near.iter().filter(|other| marked(other).is_none()).any(is_other) {
            return Some(Obstacle::Menu((*line).to_owned()));
        }
    }
    None
}

/// What follows the mark of a selected option.
fn marked(line: &str) -> Option<&str> {
    let rest = line.strip_prefix(['❯', '›', '»', '>', '●', '◉', '▸', '▶', '→', '➤', '➜'])?;
    Some(rest.trim_start())
}

/// An option that is not selected, without the mark of that.
fn open(line: &str) -> &str {
    line.strip_prefix(['○', '◯', '◦']).unwrap_or(line).trim_start()
}

fn choice(option: &str) -> Option<Choice> {
    let boxes = ["[ ]", "[x]", "[✔]", "☐", "☑", "☒"];
    let stripped = boxes.iter().find_map(|mark| option.strip_prefix(mark));
    let option = stripped.unwrap_or(option).trim_start();
    let digits = option.len() - option.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    if (1..=2).contains(&digits) {
        let rest = option[digits..].strip_prefix(['.', ')', ':'])?;
        return if rest.trim().is_empty() {
            None
        } else {
            option[..digits].parse().ok().map(Choice::Number)
        };
    }
    let word: String =
        option.chars().take_while(|c| c.is_alphabetic()).collect::<String>().to_lowercase();
    let words = [
        "yes", "no", "allow", "deny", "approve", "reject", "accept", "decline", "proceed",
        "cancel", "trust", "always", "never", "abort", "continue",
    ];
    words.contains(&word.as_str()).then_some(Choice::Word)
}

// ---- questions --------------------------------------------------------------------------------------

/// Whether the last line asks something of whoever types.
fn asks(line: &str) -> Option<Obstacle> {
    let lower = line.to_lowercase();
    let lower = lower.trim_end();
    // `select` of a shell shows its options and then this.
    if lower == "#?" || ends_in_choices(lower) {
        return Some(Obstacle::Question(line.to_owned()));
    }
    // A draft, or a command that was typed.
    if is_input(line) {
        return None;
    }
    let secrets =
        ["password", "passphrase", "passcode", "verification code", "pin for", "enter pin"];
    if lower.ends_with(':') && secrets.iter().any(|secret| lower.contains(secret)) {
        return Some(Obstacle::Secret(line.to_owned()));
    }
    let questions = ["do you want to ", "would you like to ", "are you sure"];
    let is_question = lower.ends_with('?') && questions.iter().any(|asked| lower.contains(asked));
    is_question.then(|| Obstacle::Question(line.to_owned()))
}

/// `[y/N]`, `(yes/no)`, `(yes/no/[fingerprint])?`, `[o/s/a/D]:` and the like, with hardly anything
/// after it.
fn ends_in_choices(lower: &str) -> bool {
    let openings = lower.char_indices().filter(|(_, c)| matches!(c, '[' | '('));
    let mut inside = openings.map(|(at, bracket)| (&lower[at + 1..], bracket));
    inside.any(|(text, bracket)| {
        let Some(close) = text.rfind(if bracket == '[' { ']' } else { ')' }) else { return false };
        let answers: Vec<&str> = text[..close].split(['/', '|', ',']).map(str::trim).collect();
        let is_yes_no = matches!(answers[..], ["y" | "yes", "n" | "no", ..]);
        let is_letter = |answer: &&str| answer.len() == 1 && !answer.as_bytes()[0].is_ascii_digit();
        let is_letters = bracket == '[' && answers.len() > 2 && answers.iter().all(is_letter);
        let reply = text[close + 1..].trim();
        let is_reply = |c: char| c.is_alphanumeric() || matches!(c, ':' | '?' | '>' | ' ');
        let is_at_end = reply.chars().count() <= REPLY_CHARACTERS && reply.chars().all(is_reply);
        is_at_end && (is_yes_no || is_letters)
    })
}

// ---- lines ------------------------------------------------------------------------------------------

fn is_frame(c: char) -> bool {
    // Box drawing and block elements.
    matches!(c, '\u{2500}'..='\u{259f}' | '|')
}

/// A line without its frame and the space around it.
fn unframed(line: &str) -> &str {
    line.trim_matches(|c: char| c.is_whitespace() || is_frame(c))
}

/// The upper or lower edge of a frame, or a rule between two parts.
fn is_border(line: &str) -> bool {
    let line = line.trim();
    line.chars().all(is_frame)
        && line.chars().filter(|c| matches!(c, '─' | '━' | '═' | '▀' | '▄')).count() >= 3
}

/// Whether this is where somebody types: an agent's input line, or a shell's prompt.
fn is_input(line: &str) -> bool {
    if let Some(rest) = line.strip_prefix(['❯', '›', '»', '>']) {
        let rest = rest.trim_start_matches('>');
        let is_spaced = rest.is_empty() || rest.starts_with(char::is_whitespace);
        return is_spaced && choice(rest.trim_start()).is_none();
    }
    let first = line.split_whitespace().next().unwrap_or_default();
    let is_prompt = |word: &str| word.ends_with(['$', '#']) && word != "#";
    // `user@host:~/x$ ls`, `$`, `host%`.
    is_prompt(first)
        || line == "#"
        || line.ends_with(['$', '❯'])
        || (line.ends_with('%') && first == line && line.contains('@'))
}

/// A text of ours, to know its lines again.
struct Own {
    all: String,
    lines: Vec<String>,
}

impl Own {
    fn new(text: &str) -> Own {
        let lines = text.lines().map(squash).filter(|line| !line.is_empty()).collect();
        Own { all: squash(text), lines }
    }

    /// A line is ours if it is a whole line of the text; or if it is long enough to be no accident,
    /// alone or as the continuation of the line above it, and is a part of the text or ends in its
    /// last line, behind whatever prompt that was put.
    fn has(&self, line: &str, above: &str) -> bool {
        let bare = |line: &str| squash(line.trim_start_matches(['❯', '›', '»', '>']));
        let line = bare(line);
        let wrapped = bare(above) + &line;
        let is_last = |part: &String| {
            let last = self.lines.last().filter(|last| last.len() >= OWN_BYTES_MIN);
            last.is_some_and(|last| part.ends_with(last))
        };
        let is_part = |part: &String| {
            part.len() >= OWN_BYTES_MIN && (self.all.contains(part) || is_last(part))
        };
        self.lines.contains(&line) || is_part(&line) || (!line.is_empty() && is_part(&wrapped))
    }
}

#[cfg(test)]
mod tests;

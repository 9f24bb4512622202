//! Menus: whatever Enter, or a letter, would choose from.

use super::lines::Line;
use super::{Obstacle, footers};

/// How many lines an option may be away from the selected one: options wrap.
const OPTION_DISTANCE_LINES: usize = 4;

/// From how many columns on a title is one: the smallest dialogs are wider, tables narrower.
const TITLE_COLUMNS_MIN: usize = 20;

/// Which option a line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Choice {
    Number(u32),
    /// One of the words that answer an approval.
    Word,
}

/// A menu among these lines, which are in order from the bottom up.
pub(super) fn in_region(region: &[&str]) -> Option<Obstacle> {
    let menu = |line: &&str| Obstacle::Menu((*line).to_owned());
    // The selected line says most.
    let selected = (0..region.len()).find(|&index| is_selected_option(region, index));
    if let Some(index) = selected {
        return Some(menu(&region[index]));
    }
    let by_keys = region.iter().find(|line| footers::tells_keys(line) || is_row_of_choices(line));
    by_keys.or_else(|| numbered_answers(region)).map(menu)
}

/// `Run this command?` over `1. Yes` and `2. No`, with nothing below: a selection that is not marked,
/// or a number that is to be typed. Returns the question.
fn numbered_answers<'r, 't>(region: &'r [&'t str]) -> Option<&'r &'t str> {
    let number = |line: &&str| match choice(line) {
        Some(Choice::Number(number)) => Some(number),
        _ => None,
    };
    let options = region.iter().map_while(number).collect::<Vec<_>>();
    let count = u32::try_from(options.len()).ok()?;
    let is_list = count >= 2 && options.iter().copied().eq((1..=count).rev());
    let answers = |line: &&str| {
        let option = line.trim_start_matches(|c: char| c.is_ascii_digit() || ".):".contains(c));
        choice(option.trim_start()) == Some(Choice::Word)
    };
    let question = region.get(options.len())?;
    let is_answered = region[..options.len()].iter().any(answers);
    (is_list && is_answered && question.ends_with('?')).then_some(question)
}

/// Whether this is a selected option with another one near it that is not.
fn is_selected_option(region: &[&str], index: usize) -> bool {
    let line = region[index];
    let Some(selected) = marked(line) else { return false };
    let Some(chosen) = choice(selected) else { return false };
    // Both choices on one line: `● Yes / ○ No`.
    if line.contains('○') && chosen == Choice::Word {
        return true;
    }
    let from = index.saturating_sub(OPTION_DISTANCE_LINES);
    let near = &region[from..region.len().min(index + OPTION_DISTANCE_LINES + 1)];
    let is_other = |other: &&str| match (chosen, choice(open(other))) {
        (Choice::Number(own), Some(Choice::Number(other))) => own.abs_diff(other) == 1,
        (Choice::Word, Some(Choice::Word)) => true,
        _ => false,
    };
    near.iter().filter(|other| marked(other).is_none()).any(is_other)
}

/// `Allow once   Allow always   Reject`, `< Yes >  < No >`: a selection by colour only. A single
/// choice counts if it is a button.
fn is_row_of_choices(line: &str) -> bool {
    let phrases = [
        "allow",
        "allow once",
        "allow always",
        "always allow",
        "deny",
        "reject",
        "approve",
        "accept",
        "decline",
        "yes",
        "no",
        "ok",
        "cancel",
        "confirm",
        "abort",
        "retry",
        "continue",
        "quit",
    ];
    let is_edge = |c: char| c.is_whitespace() || matches!(c, '<' | '>' | '[' | ']');
    let cells = footers::cells(line).map(|cell| cell.trim_matches(is_edge).to_lowercase());
    let cells = cells.filter(|cell| !cell.is_empty());
    let choices = cells.take_while(|cell| phrases.contains(&cell.as_str())).count();
    let is_button = line.starts_with('<') && line.ends_with('>');
    choices >= 2 || (choices == 1 && is_button)
}

/// A list whose selected option looks like an input line: `» alpha` below `? Pick (Use arrow keys)`.
/// `end` is the input line's index.
pub(super) fn above_input(lines: &[Line], end: usize) -> Option<Obstacle> {
    let input = lines.get(end)?;
    let mut row = input.row;
    let mut list = lines[end + 1..].iter().take_while(|line| {
        row = row.wrapping_sub(1);
        line.row == row && !line.is_border()
    });
    let is_asked = |line: &&Line| line.text.to_lowercase().contains("arrow keys");
    list.any(|line| is_asked(&line)).then(|| Obstacle::Menu(input.text.to_owned()))
}

/// A dialog over the middle of a screen that still shows its input line: its title ends in what closes
/// it, `Commands              esc`, with nothing above and below. The text around it goes on beside it.
pub(super) fn titled<'a>(rows: &[&'a str]) -> Option<&'a str> {
    let is_blank = |row: Option<&&str>, (from, to): (usize, usize)| {
        row.is_some_and(|row| row.chars().skip(from).take(to - from).all(char::is_whitespace))
    };
    let title_at = |index: usize| {
        let (title, columns) = title(rows[index])?;
        let is_alone = is_blank(rows.get(index.checked_sub(1)?), columns)
            && is_blank(rows.get(index + 1), columns);
        is_alone.then_some(title)
    };
    (0..rows.len()).find_map(title_at)
}

/// A title in a row, and the columns from its first to behind its last character.
fn title(row: &str) -> Option<(&str, (usize, usize))> {
    let row = row.trim_end();
    row.match_indices("  esc").find_map(|(at, esc)| {
        let end = at + esc.len();
        let end = if row[end..].starts_with("/enter") { end + "/enter".len() } else { end };
        let is_end = row[end..].is_empty() || row[end..].starts_with("  ");
        let before = row[..at].trim_end();
        let start = before.rfind("  ").map_or(0, |gap| gap + 2);
        let columns = (row[..start].chars().count(), row[..end].chars().count());
        let is_title = is_end && start < before.len() && columns.1 - columns.0 >= TITLE_COLUMNS_MIN;
        is_title.then(|| (row[start..end].trim_start(), columns))
    })
}

/// A mode of an agent in which a text is no message: its shell mode, which shows by what it says or by
/// a `!` where its `❯` would be; or its view of the whole conversation.
pub(super) fn mode(lines: &[Line], end: usize) -> Option<Obstacle> {
    let is_border = |index: usize| lines.get(index).is_some_and(Line::is_border);
    let mode_at = |index: usize| {
        let text = lines[index].text;
        let lower = text.to_lowercase();
        let is_marked = text == "!" || text.starts_with("! ");
        let is_input = is_marked && index > 0 && is_border(index - 1) && is_border(index + 1);
        if is_input || lower.contains("shell mode enabled") || lower.contains("exit shell mode") {
            Some(Obstacle::Shell(text.to_owned()))
        } else if lower.starts_with("showing detailed transcript") {
            Some(Obstacle::Pager(text.to_owned()))
        } else {
            None
        }
    };
    (0..end).find_map(mode_at)
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

pub(super) fn choice(option: &str) -> Option<Choice> {
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

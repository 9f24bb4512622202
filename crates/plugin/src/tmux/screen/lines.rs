//! Lines of a screen: without their frames, and told apart as borders, input lines and lines of a
//! text of ours.

use super::super::text::squash;
use super::menus::{choice, in_region};

/// From how many squashed bytes on a part of a line is known to be ours.
pub(in super::super) const OWN_BYTES_MIN: usize = 8;
/// What stands before what is typed, or before a selected option.
const MARKS: [char; 4] = ['❯', '›', '»', '>'];

/// A line with something on it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Line<'a> {
    /// From 0, from the top.
    pub(super) row: usize,
    /// As it is on the screen.
    pub(super) raw: &'a str,
    /// Without its frame and the space around it.
    pub(super) text: &'a str,
}

impl Line<'_> {
    /// The upper or lower edge of a frame, or a rule between two parts.
    pub(super) fn is_border(&self) -> bool {
        let line = self.raw.trim();
        line.chars().all(is_frame)
            && line.chars().filter(|c| matches!(c, '─' | '━' | '═' | '▀' | '▄')).count() >= 3
    }

    /// Whether it is inside of a frame with sides.
    fn is_framed(&self) -> bool {
        self.raw.trim_start().starts_with(['│', '┃', '║'])
    }
}

fn is_frame(c: char) -> bool {
    // Box drawing and block elements.
    matches!(c, '\u{2500}'..='\u{259f}' | '|')
}

/// A line without its frame and the space around it.
pub(super) fn unframed(line: &str) -> &str {
    line.trim_matches(|c: char| c.is_whitespace() || is_frame(c))
}

/// What of a line can be recognised, without its frame and its mark.
pub(in super::super) fn bare(line: &str) -> String {
    squash(unframed(line).trim_start_matches(MARKS))
}

/// Whether this text is where somebody types: an agent's input line, or a shell's prompt.
pub(super) fn is_input(line: &str) -> bool {
    if let Some(rest) = line.strip_prefix(MARKS) {
        let rest = rest.trim_start_matches('>');
        let is_spaced = rest.is_empty() || rest.starts_with(char::is_whitespace);
        // The selected row of a table is not.
        let is_row = rest.contains(" │ ");
        return is_spaced && !is_row && choice(rest.trim_start()).is_none();
    }
    let first = line.split_whitespace().next().unwrap_or_default();
    let is_prompt = |word: &str| word.ends_with(['$', '#']) && word != "#";
    // `user@host:~/x$ ls`, `$`, `host%`.
    is_prompt(first)
        || line == "#"
        || line.ends_with(['$', '❯'])
        || (line.ends_with('%') && first == line && line.contains('@'))
}

/// Whether there is an input line at `index` of the lines, which are in order from the bottom up.
pub(super) fn input_at(lines: &[Line], index: usize) -> bool {
    let line = &lines[index];
    let above = lines.get(index + 1);
    if is_input(line.text) {
        // In a frame that also has other lines, a `>` is a remark: the input line is the first.
        let is_remark = line.is_framed() && above.is_some_and(|above| !above.is_border());
        return !is_remark || !line.text.starts_with(MARKS);
    }
    // A box without a mark: `┃` at the left and `╹▀▀▀` below. One with options in it is a menu.
    let is_bottom = line.raw.trim_start().starts_with("╹▀▀▀");
    let mut rows = line.row;
    let inside = lines[index + 1..].iter().take_while(|line| {
        rows = rows.wrapping_sub(1);
        line.row == rows && line.raw.trim_start().starts_with('┃')
    });
    let inside: Vec<&str> = inside.map(|line| line.text).collect();
    is_bottom && !inside.is_empty() && in_region(&inside).is_none()
}

/// A text of ours, to know its lines again.
pub(super) struct Own {
    all: String,
    lines: Vec<String>,
}

impl Own {
    pub(super) fn new(text: &str) -> Own {
        let lines = text.lines().map(squash).filter(|line| !line.is_empty()).collect();
        Own { all: squash(text), lines }
    }

    /// A line is ours if it is a whole line of the text; or if it is long enough to be no accident,
    /// alone or as the continuation of the line above it, and is a part of the text or ends in its
    /// last line, behind whatever prompt that was put.
    pub(super) fn has(&self, line: &str, above: &str) -> bool {
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

//! What on a screen forbids pressing Enter: a menu, a question, a prompt for a secret, a pager, a
//! shell mode. Pure functions over the captured text.
//!
//! Only what is alive counts, and that is found from the bottom up:
//!
//! - Lines are taken without frames and the space around them. Going up from the bottom, at most
//!   [`REGION_LINES`] lines with something on them are looked at, and none above an input line (see
//!   [`lines`]). What is above has scrolled by.
//! - [`menus`]: a selected option near others, a row of buttons, a line that says what Enter or Esc
//!   would do. Some programs show the selection by colour only, so that line matters most.
//! - [`questions`]: what the last line asks, if the cursor is not below it.
//!
//! Lines that belong to a text which was put in by us are no obstacle: see [`find`]. When in doubt
//! there is an obstacle: a text that waits does less harm than an approval nobody gave.

use std::fmt;

use lines::{Line, Own, input_at, unframed};

mod footers;
mod lines;
mod menus;
mod questions;

pub(super) use lines::{OWN_BYTES_MIN, bare};

/// How many lines from the bottom are looked at.
const REGION_LINES: usize = 24;

/// What forbids pressing Enter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// Enter would choose something: the selected line, or what says so.
    Menu(String),
    /// Enter, or the text, would answer something: the question.
    Question(String),
    /// The text would be taken for a secret: the prompt.
    Secret(String),
    /// The text would be keys of a program that only shows something: its last line.
    Pager(String),
    /// The text would run as a command of a shell: what says so.
    Shell(String),
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Obstacle::Menu(line) => write!(f, "a menu waits for a choice there (\"{line}\")"),
            Obstacle::Question(line) => {
                write!(f, "a question waits for an answer there (\"{line}\")")
            }
            Obstacle::Secret(line) => write!(f, "a secret is asked for there (\"{line}\")"),
            Obstacle::Pager(line) => {
                write!(f, "a pager is open there and would take the text for keys (\"{line}\")")
            }
            Obstacle::Shell(line) => {
                write!(
                    f,
                    "its shell mode is on, where the text would run as a command (\"{line}\")"
                )
            }
        }
    }
}

/// Looks for an obstacle. The cursor's row counts from 0. `own_text` is a text of ours that is known to
/// be on the screen: lines that are part of it are left out, lest a text that quotes a menu or asks a
/// question stands in its own way.
pub(super) fn find(screen: &str, cursor_row: usize, own_text: Option<&str>) -> Option<Obstacle> {
    let rows: Vec<&str> = screen.lines().collect();
    // From the bottom up.
    let all = rows.iter().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let mut lines: Vec<Line> =
        all.map(|(row, raw)| Line { row, raw, text: unframed(raw) }).collect();
    lines.reverse();
    lines.truncate(REGION_LINES);
    let own = own_text.map(Own::new);
    let is_own = |index: usize| {
        let above = lines.get(index + 1).map_or("", |line| line.text);
        own.as_ref().is_some_and(|own| own.has(lines[index].text, above))
    };
    if let Some(index) = lines.iter().position(|line| !line.is_border())
        && !is_own(index)
        && let Some(obstacle) = questions::at_end(&lines[index..], cursor_row)
    {
        return Some(obstacle);
    }
    let end = (0..lines.len()).find(|&index| input_at(&lines, index)).unwrap_or(lines.len());
    let alive = (0..end).filter(|&index| !lines[index].text.is_empty() && !is_own(index));
    let region: Vec<&str> = alive.map(|index| lines[index].text).collect();
    // A text that begins with `!` switches it on by itself.
    let is_command = own_text.is_some_and(|text| text.trim_start().starts_with('!'));
    let is_meant = |mode: &Obstacle| !(is_command && matches!(mode, Obstacle::Shell(_)));
    let mode = || menus::mode(&lines, end).filter(is_meant);
    let list = || menus::above_input(&lines, end).filter(|_| !is_own(end));
    let title = || {
        let title = menus::titled(&rows)?;
        let is_own = own.as_ref().is_some_and(|own| own.has(unframed(title), ""));
        (!is_own).then(|| Obstacle::Menu(title.to_owned()))
    };
    mode().or_else(|| menus::in_region(&region)).or_else(list).or_else(title)
}

#[cfg(test)]
mod captured;
#[cfg(test)]
mod tests;

//! Whether something may be typed into a pane: by what tmux says about it, by its program, and by what
//! is on its screen.

use std::fmt;

use super::super::pane::Pane;
use super::super::program::{self, TmuxError};
use super::super::screen::{self, Obstacle};
use super::super::text::Text;

/// True for panes that nothing may be typed into; tmux evaluates it in the step that types.
pub(super) const FORBIDDEN: &str = "#{||:#{||:#{pane_dead},#{pane_in_mode}},#{||:#{pane_input_off},\
                         #{&&:#{pane_synchronized},#{!=:#{window_panes},1}}}}";
/// What our tmux commands say when that is so.
pub(super) const REFUSED: &str = "refused";

/// Why nothing may be typed into a pane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Its program has ended.
    Dead,
    /// tmux itself takes the keys. The mode's name.
    Mode(String),
    /// It takes no keys.
    InputOff,
    /// Keys go to several panes.
    Synchronized,
    /// Its program takes a text for keys or commands. The program's name.
    Program(String),
    /// An editor is not in its insert mode. The program's name.
    Editor(String),
    /// Something on the screen waits for an answer.
    Screen(Obstacle),
    /// It does not exist any more.
    Gone,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::Dead => f.write_str("the program in it has ended: start it anew there"),
            Refusal::Mode(mode) if mode.is_empty() => {
                f.write_str("it is in a mode of tmux: leave that by pressing q there")
            }
            Refusal::Mode(mode) => {
                write!(f, "it is in tmux's {mode}: leave that by pressing q there")
            }
            Refusal::InputOff => {
                f.write_str("its input is switched off: switch it on with 'tmux select-pane -e'")
            }
            Refusal::Synchronized => f.write_str(
                "synchronize-panes is on, so that Enter would go to other panes too: switch it off \
                 with 'tmux set-option -w synchronize-panes off'",
            ),
            Refusal::Program(name) => write!(
                f,
                "'{name}' only shows something and would take the text for keys: leave it by pressing q \
                 there"
            ),
            Refusal::Editor(name) => write!(
                f,
                "'{name}' would take the text for commands: leave it, or press i there to insert the text"
            ),
            Refusal::Screen(obstacle @ (Obstacle::Pager(_) | Obstacle::Shell(_))) => {
                write!(f, "{obstacle}: leave it there first")
            }
            Refusal::Screen(obstacle) => write!(f, "{obstacle}: answer it there first"),
            Refusal::Gone => f.write_str("it has been closed"),
        }
    }
}

/// Why keys would not arrive, or arrive elsewhere too, whatever is on the screen.
pub(super) fn deaf(pane: &Pane) -> Option<Refusal> {
    if pane.is_dead {
        Some(Refusal::Dead)
    } else if pane.input_is_off {
        Some(Refusal::InputOff)
    } else if pane.is_synchronized {
        Some(Refusal::Synchronized)
    } else {
        None
    }
}

/// Why nothing may be typed. `own` is a text of ours on the screen.
pub(super) fn refusal(pane: &Pane, own: Option<&Text>) -> Option<Refusal> {
    let mode = || pane.mode.clone().map(Refusal::Mode);
    let view = &pane.view;
    let obstacle = || screen::find(&view.screen, view.cursor_row, own.map(Text::as_str));
    deaf(pane)
        .or_else(mode)
        .or_else(|| obstacle().map(Refusal::Screen))
        .or_else(|| unfit(&pane.command, &view.screen))
}

/// Programs for which no text is just text.
fn unfit(command: &str, screen: &str) -> Option<Refusal> {
    let pagers = ["less", "more", "most", "man", "pg", "view"];
    let editors = ["vi", "vim", "nvim", "vimdiff", "vim.basic", "vim.tiny", "vim.nox"];
    let inserts = |line: &str| {
        let line = line.trim();
        ["-- INSERT", "-- REPLACE", "-- (insert)"].iter().any(|mode| line.starts_with(mode))
    };
    if pagers.contains(&command) {
        Some(Refusal::Program(command.to_owned()))
    } else if editors.contains(&command) && !screen.lines().any(inserts) {
        Some(Refusal::Editor(command.to_owned()))
    } else {
        None
    }
}

/// Runs one tmux command on a pane, unless tmux finds that nothing may be typed there. True if it ran.
pub(super) fn unless_forbidden(
    pane: &Pane,
    otherwise: &str,
    command: &str,
) -> Result<bool, TmuxError> {
    let otherwise = format!("{otherwise}display-message -p {REFUSED}");
    let said =
        program::must(&["if-shell", "-F", "-t", &pane.id, FORBIDDEN, &otherwise, command], None)?;
    Ok(said.trim() != REFUSED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pagers_and_editors() {
        assert_eq!(unfit("less", ""), Some(Refusal::Program("less".to_owned())));
        assert_eq!(unfit("vim", "text\n~\n"), Some(Refusal::Editor("vim".to_owned())));
        assert_eq!(unfit("nvim", "text\n~\n-- INSERT --   1,1  All\n"), None);
        assert_eq!(unfit("vi", "text\n~\n-- REPLACE --\n"), None);
        for command in ["bash", "node", "claude", "lessons", "nano"] {
            assert_eq!(unfit(command, ""), None, "{command}");
        }
    }
}

//! Typing a text into a tmux pane and submitting it, without harm to whoever uses that pane.
//!
//! The target is resolved once, to a pane id; everything after that speaks of the id. The text is
//! put in at most once and never travels as an argument. Enter is pressed only where it submits the
//! text: not in a mode, not on a menu, not into several panes. Writers take turns, one per pane.
//! Every call of tmux is bounded. This module does not know where texts come from.

use std::time::Duration;

mod lock;
mod pane;
mod program;
mod screen;
mod text;
mod typing;

pub use lock::LockError;
pub use pane::TargetError;
pub use program::TmuxError;
pub use screen::Obstacle;
pub use text::{TEXT_BYTES_MAX, Text, TextError};
pub use typing::{Interrupt, Plan, Refusal, Report, Seen, TypingError, plan, type_into};

/// How long the name of one's own session may take; as released programs have it.
const NAME_PATIENCE: Duration = Duration::from_secs(2);

/// The name of the session a pane is in; none if it cannot be found out.
pub fn session_name(pane: &str) -> Option<String> {
    // The order of the arguments is what released programs have, with the pane added: stand-ins for
    // tmux look at the first and the last.
    let arguments = ["display-message", "-p", "-t", pane, "#S"];
    let output = program::run(&arguments, None, NAME_PATIENCE).ok()?;
    let name = output.stdout.trim();
    (output.succeeded && !name.is_empty()).then(|| name.to_owned())
}

//! One text, from the look before to the look after Enter.
//!
//! The order is: wait for one's turn, interrupt if asked to, check, put the text in, wait until it
//! shows, let it settle, check again, press Enter, see that something happens. The text is put in at
//! most once. What must not be (a dead pane, a mode, ...) is checked again by tmux itself in the same
//! step that types.

use std::time::{Duration, SystemTime, UNIX_EPOCH};
use std::{env, process, thread};

use super::lock::{LockError, Turn};
use super::pane::{Pane, TargetError};
use super::program::{self, TmuxError};
use super::text::Text;
use checks::{FORBIDDEN, REFUSED, deaf, refusal};
use enter::Unsubmitted;

pub use checks::Refusal;

mod checks;
mod enter;

/// How long an interrupted program gets to come back to its prompt; as released programs have it.
const INTERRUPT_SETTLES: Duration = Duration::from_millis(500);
/// How often tmux's own check may refuse what ours allowed, until it is given up.
const REFUSALS_MAX: u32 = 3;

/// Whether the program in the pane is interrupted first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interrupt {
    /// It is left alone.
    No,
    /// Ctrl-C is pressed once. It also ends copy mode.
    First,
}

/// Why a text was not typed, or not submitted.
#[derive(Debug, thiserror::Error)]
pub enum TypingError {
    /// No such pane.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// Others are typing.
    #[error("nothing was typed into pane {pane} (session '{session}'): {error}")]
    Lock {
        /// The pane's id.
        pane: String,
        /// Its session.
        session: String,
        /// Why.
        error: LockError,
    },
    /// Nothing was typed.
    #[error("nothing was typed into pane {pane} (session '{session}'): {refusal}")]
    Refused {
        /// The pane's id.
        pane: String,
        /// Its session.
        session: String,
        /// Why.
        refusal: Refusal,
    },
    /// The text is in the pane, but Enter was not pressed.
    #[error(
        "the text is in pane {pane} (session '{session}') but was not submitted: {refusal}; then \
         press Enter there, or delete the text"
    )]
    NotSubmitted {
        /// The pane's id.
        pane: String,
        /// Its session.
        session: String,
        /// Why.
        refusal: Refusal,
    },
    /// The text was put in but does not show, in a program that draws its own screen.
    #[error(
        "the text was put into pane {pane} (session '{session}') but does not show there, so Enter \
         was not pressed: something in '{command}' may have taken it for keys; look there, and if the \
         text stands in the input line, press Enter there"
    )]
    NotShown {
        /// The pane's id.
        pane: String,
        /// Its session.
        session: String,
        /// The program in it.
        command: String,
    },
    /// The pane was closed between the text and Enter.
    #[error("pane {pane} (session '{session}') was closed before the text could be submitted")]
    Lost {
        /// The pane's id.
        pane: String,
        /// Its session.
        session: String,
    },
    /// tmux failed while the text was being put in or submitted.
    #[error(
        "the text may be in pane {pane} (session '{session}') without having been submitted: {error}"
    )]
    Broken {
        /// The pane's id.
        pane: String,
        /// Its session.
        session: String,
        /// Why.
        error: TmuxError,
    },
    /// tmux failed before anything was typed.
    #[error("nothing was typed: {0}")]
    Tmux(#[from] TmuxError),
}

impl TypingError {
    /// True if Ctrl-C would clear the way.
    pub fn ends_by_interrupt(&self) -> bool {
        matches!(self, TypingError::Refused { refusal: Refusal::Mode(_), .. })
    }
}

/// What of the text was seen before Enter was pressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// Its end.
    Text,
    /// What the program shows instead of a long text.
    Placeholder,
    /// Nothing: the program does not show what is typed.
    Nothing,
}

/// What was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The pane's id.
    pub pane: String,
    /// Its session.
    pub session: String,
    /// The program in it.
    pub command: String,
    /// Bytes that were typed.
    pub text_bytes: usize,
    /// What was seen of them.
    pub seen: Seen,
    /// How often Enter was pressed.
    pub enters: u32,
    /// Whether the screen changed after that.
    pub changed: bool,
    /// Whether the text still stands where the cursor is, although the screen changed.
    pub stands: bool,
}

/// What would be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The pane's id.
    pub pane: String,
    /// Its session.
    pub session: String,
    /// The program in it.
    pub command: String,
}

/// Finds the pane and checks it as [`type_into`] does, and types nothing.
pub fn plan(target: &str, interrupt: Interrupt) -> Result<Plan, TypingError> {
    let pane = Pane::find(target)?;
    let refusal = match interrupt {
        Interrupt::No => refusal(&pane, None),
        Interrupt::First => deaf(&pane),
    };
    match refusal {
        Some(refusal) => Err(refused(&pane, refusal)),
        None => Ok(Plan { pane: pane.id, session: pane.session, command: pane.command }),
    }
}

/// Types a text into a pane and submits it. The target is a session's name, `name:window.pane`, or an
/// id as tmux has them.
pub fn type_into(target: &str, text: &Text, interrupt: Interrupt) -> Result<Report, TypingError> {
    let found = Pane::find(target)?;
    let _turn = wait_for_turn(&found)?;
    if interrupt == Interrupt::First {
        interrupt_program(&found)?;
    }
    let (before, typed) = put_in(&found, text)?;
    enter::submit(&before, &typed).map_err(|error| {
        let (pane, session) = (before.id.clone(), before.session.clone());
        match error {
            Unsubmitted::NotShown => {
                TypingError::NotShown { pane, session, command: before.command.clone() }
            }
            Unsubmitted::Refused(Refusal::Gone) => TypingError::Lost { pane, session },
            Unsubmitted::Refused(refusal) => TypingError::NotSubmitted { pane, session, refusal },
            Unsubmitted::Tmux(error) => TypingError::Broken { pane, session, error },
        }
    })
}

fn refused(pane: &Pane, refusal: Refusal) -> TypingError {
    TypingError::Refused { pane: pane.id.clone(), session: pane.session.clone(), refusal }
}

fn wait_for_turn(pane: &Pane) -> Result<Turn, TypingError> {
    // A tmux that does not tell its socket still tells its panes, and this user has few servers.
    let unknown = || env::temp_dir().join("unknown");
    let socket = pane.socket.clone().unwrap_or_else(unknown);
    Turn::wait(&socket, &pane.id).map_err(|error| TypingError::Lock {
        pane: pane.id.clone(),
        session: pane.session.clone(),
        error,
    })
}

// ---- before Enter -----------------------------------------------------------------------------------

fn interrupt_program(pane: &Pane) -> Result<(), TypingError> {
    let now = pane.again()?.ok_or_else(|| refused(pane, Refusal::Gone))?;
    if let Some(refusal) = deaf(&now) {
        return Err(refused(pane, refusal));
    }
    program::must(&["send-keys", "-t", &pane.id, "C-c"], None)?;
    thread::sleep(INTERRUPT_SETTLES);
    Ok(())
}

/// Checks the pane and puts the text in. Returns the pane as it was before, and what was typed.
fn put_in(pane: &Pane, text: &Text) -> Result<(Pane, Text), TypingError> {
    for _ in 0..REFUSALS_MAX {
        let now = pane.again()?.ok_or_else(|| refused(pane, Refusal::Gone))?;
        if let Some(refusal) = refusal(&now, None) {
            return Err(refused(&now, refusal));
        }
        // Only there does Enter mean anything else than the end of a line.
        let typed = if now.draws_itself { text.guarded() } else { text.clone() };
        match paste(&now, &typed) {
            Ok(true) => return Ok((now, typed)),
            // Something changed since the look: look again for what it is.
            Ok(false) => {}
            Err(TmuxError::Failed { said, .. }) if program::is_missing(&said) => {
                return Err(refused(&now, Refusal::Gone));
            }
            Err(error @ TmuxError::TimedOut { .. }) => {
                let (pane, session) = (now.id, now.session);
                return Err(TypingError::Broken { pane, session, error });
            }
            Err(error) => return Err(error.into()),
        }
    }
    Err(refused(pane, Refusal::Mode(String::new())))
}

/// Puts a text in by a buffer of its own, bracketed if the program asked for that. False if tmux
/// refused. The buffer is gone afterwards.
fn paste(pane: &Pane, text: &Text) -> Result<bool, TmuxError> {
    let clock = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    let buffer = format!("hermes-bus-{}-{clock}", process::id());
    let paste = format!("paste-buffer -p -d -b {buffer} -t '{}'", pane.id);
    let otherwise = format!("delete-buffer -b {buffer} ; display-message -p {REFUSED}");
    let arguments = [
        "load-buffer",
        "-b",
        &buffer,
        "-",
        ";",
        "if-shell",
        "-F",
        "-t",
        &pane.id,
        FORBIDDEN,
        &otherwise,
        &paste,
    ];
    let outcome = program::must(&arguments, Some(text.as_str().as_bytes()));
    if outcome.is_err() {
        // It may or may not be there.
        let _ = program::ask(&["delete-buffer", "-b", &buffer], None);
    }
    Ok(outcome?.trim() != REFUSED)
}

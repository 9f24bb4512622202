//! One text, from the look before to the look after Enter.
//!
//! The order is: wait for one's turn, interrupt if asked to, check, put the text in, wait until it
//! shows, let it settle, check again, press Enter, see that something happens. The text is put in at
//! most once. What must not be (a dead pane, a mode, ...) is checked again by tmux itself in the same
//! step that types.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use std::{env, fmt, process, thread};

use super::lock::{LockError, Turn};
use super::pane::{Pane, TargetError, View};
use super::program::{self, TmuxError};
use super::screen::{self, Obstacle};
use super::text::{Found, Needle, Text};

/// How long an interrupted program gets to come back to its prompt; as released programs have it.
const INTERRUPT_SETTLES: Duration = Duration::from_millis(500);
/// How long the text may take to show.
const SHOW_PATIENCE: Duration = Duration::from_secs(2);
/// How long a text that shows is left alone: some programs take an Enter that follows a paste at
/// once for a part of the paste.
const TEXT_SETTLES: Duration = Duration::from_millis(150);
/// How long the screen may take to change after Enter.
const ENTER_PATIENCE: Duration = Duration::from_millis(500);
/// Presses of Enter for one text, if the screen does not change.
const ENTERS_MAX: u32 = 3;
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How often tmux's own check may refuse what ours allowed, until it is given up.
const REFUSALS_MAX: u32 = 3;

/// True for panes that nothing may be typed into; tmux evaluates it in the step that types.
const FORBIDDEN: &str = "#{||:#{||:#{pane_dead},#{pane_in_mode}},#{||:#{pane_input_off},\
                         #{&&:#{pane_synchronized},#{!=:#{window_panes},1}}}}";
/// What our tmux commands say when that is so.
const REFUSED: &str = "refused";

/// Whether the program in the pane is interrupted first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interrupt {
    /// It is left alone.
    No,
    /// Ctrl-C is pressed once. It also ends copy mode.
    First,
}

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
            Refusal::Screen(obstacle) => write!(f, "{obstacle}: answer it there first"),
            Refusal::Gone => f.write_str("it has been closed"),
        }
    }
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
    let before = put_in(&found, text)?;
    submit(&before, text).map_err(|error| {
        let (pane, session) = (before.id.clone(), before.session.clone());
        match error {
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

// ---- checks -----------------------------------------------------------------------------------------

/// Why keys would not arrive, or arrive elsewhere too, whatever is on the screen.
fn deaf(pane: &Pane) -> Option<Refusal> {
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
fn refusal(pane: &Pane, own: Option<&Text>) -> Option<Refusal> {
    let mode = || pane.mode.clone().map(Refusal::Mode);
    let view = &pane.view;
    let obstacle = || screen::find(&view.screen, view.cursor_row, own.map(Text::as_str));
    deaf(pane).or_else(mode).or_else(|| obstacle().map(Refusal::Screen))
}

/// Runs one tmux command on a pane, unless tmux finds that nothing may be typed there. True if it ran.
fn unless_forbidden(pane: &Pane, otherwise: &str, command: &str) -> Result<bool, TmuxError> {
    let otherwise = format!("{otherwise}display-message -p {REFUSED}");
    let said =
        program::must(&["if-shell", "-F", "-t", &pane.id, FORBIDDEN, &otherwise, command], None)?;
    Ok(said.trim() != REFUSED)
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

/// Checks the pane and puts the text in. Returns the pane as it was before.
fn put_in(pane: &Pane, text: &Text) -> Result<Pane, TypingError> {
    for _ in 0..REFUSALS_MAX {
        let now = pane.again()?.ok_or_else(|| refused(pane, Refusal::Gone))?;
        if let Some(refusal) = refusal(&now, None) {
            return Err(refused(&now, refusal));
        }
        match paste(&now, text) {
            Ok(true) => return Ok(now),
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

// ---- Enter ------------------------------------------------------------------------------------------

enum Unsubmitted {
    Refused(Refusal),
    Tmux(TmuxError),
}

impl From<TmuxError> for Unsubmitted {
    fn from(error: TmuxError) -> Self {
        Unsubmitted::Tmux(error)
    }
}

/// Submits a text that was put in. `before` is the pane as it was before that.
fn submit(before: &Pane, text: &Text) -> Result<Report, Unsubmitted> {
    let seen = wait_for_text(before, text)?;
    thread::sleep(TEXT_SETTLES);
    // More than one press only if it is known that the text is there and that nothing happens.
    let presses_max = if seen == Seen::Text { ENTERS_MAX } else { 1 };
    let own = (seen == Seen::Text).then_some(text);
    let mut report = Report {
        pane: before.id.clone(),
        session: before.session.clone(),
        command: before.command.clone(),
        text_bytes: text.as_str().len(),
        seen,
        enters: 0,
        changed: false,
    };
    // As many looks more as tmux may refuse what ours allowed.
    for _ in 0..presses_max + REFUSALS_MAX {
        let obstacle = match before.again()? {
            Some(now) => refusal(&now, own).map_or(Ok(now), Err),
            None => Err(Refusal::Gone),
        };
        let now = match obstacle {
            Ok(now) => now,
            Err(refusal) if report.enters == 0 => return Err(Unsubmitted::Refused(refusal)),
            // A press that seemed to do nothing has done this.
            Err(_) => return Ok(Report { changed: true, ..report }),
        };
        if press_enter(&now)? {
            report.enters += 1;
            report.changed = wait_for_change(&now)?;
        }
        if report.changed || report.enters == presses_max {
            return Ok(report);
        }
    }
    Err(Unsubmitted::Refused(Refusal::Mode(String::new())))
}

/// False if tmux refused; the next look tells why.
fn press_enter(pane: &Pane) -> Result<bool, Unsubmitted> {
    let command = format!("send-keys -t '{}' Enter", pane.id);
    match unless_forbidden(pane, "", &command) {
        Err(TmuxError::Failed { said, .. }) if program::is_missing(&said) => {
            Err(Unsubmitted::Refused(Refusal::Gone))
        }
        outcome => Ok(outcome?),
    }
}

fn wait_for_text(before: &Pane, text: &Text) -> Result<Seen, Unsubmitted> {
    let needle = Needle::of(text);
    let old = needle.find(&before.view.screen);
    let deadline = Instant::now() + SHOW_PATIENCE;
    loop {
        let now = before.again()?.ok_or(Unsubmitted::Refused(Refusal::Gone))?;
        if let Some(refusal) = deaf(&now).or_else(|| now.mode.map(Refusal::Mode)) {
            return Err(Unsubmitted::Refused(refusal));
        }
        if let Some(seen) = what_is_seen(&needle, old, &before.view, &now.view) {
            return Ok(seen);
        }
        if Instant::now() >= deadline {
            return Ok(Seen::Nothing);
        }
        thread::sleep(LOOK_EVERY);
    }
}

/// None if nothing is seen yet.
fn what_is_seen(needle: &Needle, old: Found, before: &View, now: &View) -> Option<Seen> {
    let moved = now.moved_from(before);
    if needle.is_empty() {
        return (now != before).then_some(Seen::Text);
    }
    let new = needle.find(&now.screen);
    // One that was there already may have been scrolled out while another one came.
    let is_new = |old: usize, new: usize| new > old || (new > 0 && moved);
    if is_new(old.text, new.text) {
        Some(Seen::Text)
    } else if new.placeholder > old.placeholder
        || (is_new(old.placeholder, new.placeholder) && now != before)
    {
        Some(Seen::Placeholder)
    } else {
        None
    }
}

/// Waits for anything to happen on the screen. A pane that is gone has changed as well.
fn wait_for_change(before: &Pane) -> Result<bool, TmuxError> {
    let deadline = Instant::now() + ENTER_PATIENCE;
    loop {
        match before.again()? {
            None => return Ok(true),
            Some(now) if now.view != before.view || now.is_dead => return Ok(true),
            Some(_) if Instant::now() >= deadline => return Ok(false),
            Some(_) => thread::sleep(LOOK_EVERY),
        }
    }
}

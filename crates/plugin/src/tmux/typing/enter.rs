//! From the text that was put in to the look after Enter.

use std::thread;
use std::time::{Duration, Instant};

use super::super::pane::{Pane, View};
use super::super::program::{self, TmuxError};
use super::super::text::{Found, Needle, Text};
use super::checks::{Refusal, deaf, refusal, unless_forbidden};
use super::{REFUSALS_MAX, Report, Seen};

/// How long the text may take to show in a program that reads lines: the terminal itself shows it.
const SHOW_PATIENCE: Duration = Duration::from_secs(2);
/// The same for a program that draws its own screen: some are busy for seconds with 20 KB.
const SHOW_PATIENCE_DRAWN: Duration = Duration::from_secs(10);
/// How long a text that shows is left alone: some programs take an Enter that follows a paste at
/// once for a part of the paste.
const TEXT_SETTLES: Duration = Duration::from_millis(150);
/// How long the screen may take to change after Enter. An agent's first message has been seen to take
/// over 1.5 s; an Enter too many waits in its terminal and may answer the next menu.
const ENTER_PATIENCE: Duration = Duration::from_secs(2);
/// Presses of Enter for one text, if the screen does not change.
const ENTERS_MAX: u32 = 3;
/// The same for a program that draws its own screen, where a menu may open next.
const ENTERS_MAX_DRAWN: u32 = 2;
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Why a text that was put in was not submitted.
pub(super) enum Unsubmitted {
    Refused(Refusal),
    /// It does not show where it should.
    NotShown,
    Tmux(TmuxError),
}

impl From<TmuxError> for Unsubmitted {
    fn from(error: TmuxError) -> Self {
        Unsubmitted::Tmux(error)
    }
}

/// Submits a text that was put in. `before` is the pane as it was before that.
pub(super) fn submit(before: &Pane, text: &Text) -> Result<Report, Unsubmitted> {
    let needle = Needle::of(text);
    let seen = wait_for_text(before, &needle)?;
    thread::sleep(TEXT_SETTLES);
    let presses_max = match (seen, before.draws_itself) {
        (Seen::Text, true) => ENTERS_MAX_DRAWN,
        (Seen::Text, false) => ENTERS_MAX,
        // More than one only if it is known that the text is there.
        _ => 1,
    };
    let own = (seen == Seen::Text).then_some(text);
    let mut report = Report {
        pane: before.id.clone(),
        session: before.session.clone(),
        command: before.command.clone(),
        text_bytes: text.as_str().len(),
        seen,
        enters: 0,
        changed: false,
        stands: false,
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
        // A menu that shows its selection by colour takes texts without showing them, and Enter for
        // an answer. Only programs that read lines may be silent about it.
        if seen == Seen::Nothing && (before.draws_itself || now.draws_itself) {
            return Err(Unsubmitted::NotShown);
        }
        if press_enter(&now)? {
            report.enters += 1;
            report.changed = wait_for_change(&now)?;
            report.stands = report.changed && seen != Seen::Nothing && stays(before, &needle)?;
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

fn wait_for_text(before: &Pane, needle: &Needle) -> Result<Seen, Unsubmitted> {
    let old = needle.find(&before.view.screen);
    let patience = if before.draws_itself { SHOW_PATIENCE_DRAWN } else { SHOW_PATIENCE };
    let deadline = Instant::now() + patience;
    loop {
        let now = before.again()?.ok_or(Unsubmitted::Refused(Refusal::Gone))?;
        if let Some(refusal) = deaf(&now).or_else(|| now.mode.map(Refusal::Mode)) {
            return Err(Unsubmitted::Refused(refusal));
        }
        if let Some(seen) = what_is_seen(needle, old, before, &now.view) {
            return Ok(seen);
        }
        if Instant::now() >= deadline {
            return Ok(Seen::Nothing);
        }
        thread::sleep(LOOK_EVERY);
    }
}

/// None if nothing is seen yet.
fn what_is_seen(needle: &Needle, old: Found, pane: &Pane, now: &View) -> Option<Seen> {
    let before = &pane.view;
    // Programs that draw move the cursor about; they leave it where one types.
    let moved = now.moved_from(before) && (!pane.draws_itself || needle.is_near_cursor(now));
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

/// Whether the end of the text does not leave the line where the cursor is: Enter may have done
/// something else than submit it. A pane that is gone has nothing.
fn stays(pane: &Pane, needle: &Needle) -> Result<bool, TmuxError> {
    let deadline = Instant::now() + ENTER_PATIENCE;
    while let Some(now) = pane.again()? {
        if !needle.is_at_cursor(&now.view) {
            return Ok(false);
        }
        if Instant::now() >= deadline {
            return Ok(true);
        }
        thread::sleep(LOOK_EVERY);
    }
    Ok(false)
}

//! What has arrived but is no message yet: unfinished frames, and frames whose sender is kept
//! waiting. The driver keeps the bytes; who may go on reading, and for how long, is decided here.
//!
//! When the budget is used up, the connection that needs the fewest further bytes may always go on,
//! so that something always finishes. Connections without an unfinished frame are read in small
//! pieces: small messages go on flowing.

use alloc::format;

use hermes_bus_proto::ErrorCode;

use crate::router::Router;
use crate::session::{Deadline, Holds, Intake, Session, SessionKey};
use crate::timers::Timer;
use crate::{CloseReason, Event, Peer};

/// What is read at a time while the budget is used up.
const SMALL_READ_BYTES: usize = 4 * 1024;

impl Router {
    /// Whether the driver is to offer what it keeps of this connection, and to read more of it.
    pub fn reading(&mut self, key: SessionKey) -> Reading {
        let Some(session) = self.session(key).filter(|session| session.is_open()) else {
            return Reading::Over;
        };
        if session.holds.any() {
            return Reading::Held;
        }
        let (user, missing) = (session.user, session.intake.missing);
        let total_is_full = self.intake.total().is_full();
        if !total_is_full && !self.intake.of_user(user).is_full() {
            return Reading::UpTo(usize::MAX);
        }
        let Some(missing) = missing else { return Reading::UpTo(SMALL_READ_BYTES) };
        let is_rival = |rival: &SessionKey| {
            let rival = self.session(*rival);
            rival.is_some_and(|rival| rival.reads() && (total_is_full || rival.user == user))
        };
        let nearest = self.unfinished.iter().map(|(_, rival)| *rival).find(is_rival);
        if nearest == Some(key) {
            return Reading::UpTo(missing.max(1));
        }
        self.hold_intake(key);
        Reading::Held
    }

    /// The driver keeps `bytes` of this connection's input. `missing` says how many bytes the
    /// unfinished frame in front still lacks; none if frames in front are whole, or nothing is kept.
    pub fn buffered(&mut self, key: SessionKey, bytes: usize, missing: Option<usize>) {
        let now = self.now.moment;
        let Some(session) = self.session(key).filter(|session| session.is_open()) else { return };
        let Intake { bytes: bytes_before, missing: missing_before, .. } = session.intake;
        let (user, frames_taken) = (session.user, session.frames_taken);
        if (bytes, missing) == (0, None) && (bytes_before, missing_before) == (0, None) {
            return;
        }
        if let Some(missing) = missing_before {
            self.unfinished.remove(&(missing, key));
        }
        if let Some(missing) = missing {
            self.unfinished.insert((missing, key));
        }
        self.intake.refund(user, bytes_before);
        self.intake.charge(user, bytes);
        // Somebody else may be nearest to its end now, or there is room.
        let is_farther =
            missing_before.is_some_and(|before| missing.is_none_or(|now| now > before));
        let is_freed = bytes < bytes_before || is_farther;
        self.intake_was_freed |= is_freed && !self.intake_held.is_empty();
        let allowed = self.config.frame_deadline;
        let until = now.after(allowed);
        let Some(session) = self.session_mut(key) else { return };
        let is_held = session.holds.any();
        let intake = &mut session.intake;
        (intake.bytes, intake.missing) = (bytes, missing);
        let is_same_frame = intake.clock_of_frame == frames_taken;
        match missing {
            None => intake.deadline = None,
            Some(_) if intake.deadline.is_some() && is_same_frame => {}
            Some(_) if is_held => {
                intake.deadline = Some(Deadline::StandsStill { left: allowed });
                intake.clock_of_frame = frames_taken;
            }
            Some(_) => {
                intake.deadline = Some(Deadline::At(until));
                intake.clock_of_frame = frames_taken;
                self.timers.set(until, Timer::FrameDeadline(key));
            }
        }
    }

    fn hold_intake(&mut self, key: SessionKey) {
        if let Some(session) = self.session_mut(key) {
            session.holds.intake = true;
        }
        self.stop_frame_clock(key);
        if self.intake_held.is_empty() {
            let bytes = self.intake.total().used();
            let sessions = self.sessions.iter().map(|(_, session)| session);
            let most = sessions.max_by_key(|session| session.intake.bytes);
            let most = most.map(|session| (Peer::of(session), session.intake.bytes));
            self.log(Event::IntakeFull { bytes, most });
        }
        self.intake_held.insert(key);
    }

    /// Lets those go on for whom there is room again.
    pub(crate) fn resume_intake(&mut self) {
        for key in core::mem::take(&mut self.intake_held) {
            let Some(session) = self.session_mut(key) else { continue };
            session.holds.intake = false;
            // Asking for its allowance puts it back on hold if there is still no room for it.
            if self.reading(key) != Reading::Held {
                self.resume(key);
            }
        }
    }

    /// The bus does not read from this connection now: the clock of its unfinished frame stands still.
    pub(crate) fn stop_frame_clock(&mut self, key: SessionKey) {
        let now = self.now.moment;
        if let Some(session) = self.session_mut(key)
            && let Some(Deadline::At(until)) = session.intake.deadline
        {
            session.intake.deadline = Some(Deadline::StandsStill { left: until.since(now) });
        }
    }

    /// The clock of an unfinished frame goes on where it stood still.
    pub(crate) fn restart_frame_clock(&mut self, key: SessionKey) {
        let now = self.now.moment;
        let Some(session) = self.session_mut(key) else { return };
        let intake = &mut session.intake;
        if let Some(Deadline::StandsStill { left }) = intake.deadline {
            let until = now.after(left);
            intake.deadline = Some(Deadline::At(until));
            self.timers.set(until, Timer::FrameDeadline(key));
        }
    }

    pub(crate) fn check_frame_deadline(&mut self, key: SessionKey) {
        let (now, allowed) = (self.now.moment, self.config.frame_deadline);
        let Some(session) = self.session_mut(key).filter(|session| session.is_open()) else {
            return;
        };
        let Some(Deadline::At(until)) = session.intake.deadline else { return };
        if until > now {
            self.timers.set(until, Timer::FrameDeadline(key));
            return;
        }
        self.counters.timeout_frame += 1;
        let what = format!("a frame was not complete {} s after its first byte", allowed.as_secs());
        self.refuse_for(CloseReason::FrameTimeout, key, ErrorCode::InvalidFrame, &what, None);
    }

    /// Gives the budget back that a connection has used.
    pub(crate) fn forget_intake(&mut self, key: SessionKey) {
        let Some(session) = self.session_mut(key) else { return };
        let (user, intake) = (session.user, core::mem::take(&mut session.intake));
        self.intake.refund(user, intake.bytes);
        if let Some(missing) = intake.missing {
            self.unfinished.remove(&(missing, key));
        }
        self.intake_held.remove(&key);
        self.intake_was_freed |= !self.intake_held.is_empty();
    }
}

/// Whether a connection is read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// Yes: at most so many bytes at a time, at least 1.
    UpTo(usize),
    /// Not until [`Effect::Resume`](crate::Effect::Resume).
    Held,
    /// Never again.
    Over,
}

impl Session {
    /// Whether nothing but the budget of unfinished frames keeps the bus from reading on.
    fn reads(&self) -> bool {
        let Holds { receiver, unread_answers, pace, disk, intake: _ } = self.holds;
        self.is_open() && receiver.is_none() && !unread_answers && !pace && !disk
    }

    /// Whether bytes have arrived that are no frame yet.
    pub(crate) fn has_unread_input(&self) -> bool {
        self.intake.bytes > 0
    }
}

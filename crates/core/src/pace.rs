//! How fast one connection may send, where the configuration limits it. Who is over it is not read from
//! for a moment; nothing is lost.

use alloc::vec::Vec;
use core::time::Duration;

use crate::Moment;
use crate::router::{Next, Router};
use crate::session::SessionKey;
use crate::timers::Timer;

/// How much of each rate a connection has used up.
#[derive(Clone, Copy, Default)]
pub(crate) struct Pace {
    messages: Rate,
    bytes: Rate,
    /// When the pause is over, while there is one.
    until: Moment,
}

/// A second that was not used may be used up at once.
const BURST: Duration = Duration::from_secs(1);

/// What was sent, as the time that it takes at the rate.
#[derive(Clone, Copy, Default)]
struct Rate {
    /// When all of it is made up for.
    even_at: Moment,
}

impl Rate {
    /// Takes note of an amount, and says from when on more may be sent.
    fn sent(&mut self, amount: usize, per_s: Option<u64>, now: Moment) -> Moment {
        let Some(per_s) = per_s else { return now };
        let cost = Duration::from_secs_f64(amount as f64 / per_s.max(1) as f64);
        self.even_at = self.even_at.max(now).after(cost);
        now.after(self.even_at.since(now).saturating_sub(BURST))
    }
}

impl Router {
    /// Takes note of a message that was taken, and holds its sender if it was one too many.
    #[inline]
    pub(crate) fn keep_pace(&mut self, key: SessionKey, bytes: usize, next: Next) -> Next {
        let (messages_per_s, bytes_per_s) = (self.config.messages_per_s, self.config.bytes_per_s);
        if messages_per_s.is_none() && bytes_per_s.is_none() {
            return next;
        }
        if !matches!(next, Next::Taken | Next::TakenThenHold) {
            return next;
        }
        let now = self.now.moment;
        let Some(session) = self.session_mut(key) else { return next };
        let until = session.pace.messages.sent(1, messages_per_s, now);
        let until = session.pace.bytes.sent(bytes, bytes_per_s, now).max(until);
        if until <= now {
            return next;
        }
        session.pace.until = until;
        session.holds.pace = true;
        self.counters.pace_waits += 1;
        self.stop_frame_clock(key);
        self.timers.set(until, Timer::Pace(key));
        Next::TakenThenHold
    }

    /// Lets all those go on that are held for a rate, as if they had not sent anything yet.
    pub(crate) fn forget_paces(&mut self) {
        let mut held = Vec::new();
        for (index, session) in &mut self.sessions {
            session.pace = Pace::default();
            if session.holds.pace {
                held.push(SessionKey { index: index as u32, generation: session.generation });
            }
        }
        held.into_iter().for_each(|key| self.check_pace(key));
    }

    /// Looks whether the pause of a connection that had sent too much is over.
    pub(crate) fn check_pace(&mut self, key: SessionKey) {
        let now = self.now.moment;
        let Some(session) = self.session_mut(key).filter(|session| session.holds.pace) else {
            return;
        };
        let until = session.pace.until;
        if until > now {
            // The timer was for an earlier pause, which a change of the rates has ended.
            return self.timers.set(until, Timer::Pace(key));
        }
        session.holds.pace = false;
        self.resume(key);
    }
}

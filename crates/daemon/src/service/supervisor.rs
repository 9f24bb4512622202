//! What the service manager is told. Without one, nothing.

use std::io;
use std::time::{Duration, Instant};

use sd_notify::NotifyState;

use crate::logging::target;

/// The service manager that has started this process, if it wants to hear from it.
///
/// The watchdog's sign of life comes from whoever calls [`Supervisor::tick`]: that has to be the loop
/// itself, so that a loop that hangs is noticed.
#[derive(Debug)]
pub struct Supervisor {
    /// Half of the time after which the service manager takes this process for hung.
    interval: Option<Duration>,
    next_sign: Instant,
    /// It cannot be reached; that was logged.
    is_lost: bool,
}

impl Supervisor {
    /// As the environment says.
    pub fn from_environment(now: Instant) -> Self {
        Supervisor::new(sd_notify::watchdog_enabled(), now)
    }

    fn new(watchdog: Option<Duration>, now: Instant) -> Self {
        let interval = watchdog.map(|time| time / 2).filter(|interval| !interval.is_zero());
        Supervisor { interval, next_sign: now, is_lost: false }
    }

    /// The socket answers. Also ends what [`Supervisor::reloading`] began. `status` is for people.
    pub fn ready(&mut self, status: &str) {
        self.tell(&[NotifyState::Ready, NotifyState::Status(status)]);
    }

    /// The configuration is read anew; [`Supervisor::ready`] is to follow.
    pub fn reloading(&mut self) {
        let Ok(now) = NotifyState::monotonic_usec_now() else { return };
        self.tell(&[NotifyState::Reloading, now]);
    }

    /// The daemon goes down.
    pub fn stopping(&mut self) {
        self.tell(&[NotifyState::Stopping, NotifyState::Status("stopping")]);
    }

    /// Another process is the daemon from now on. The service manager believes only the one that it
    /// knows, so the old one has to say so.
    pub fn hand_over(&mut self, pid: u32) {
        self.tell(&[NotifyState::MainPid(pid)]);
    }

    /// How long the loop may sleep until [`Supervisor::tick`] is due; none where no watchdog waits.
    pub fn due(&self, now: Instant) -> Option<Duration> {
        self.interval.map(|_| self.next_sign.saturating_duration_since(now))
    }

    /// Gives a sign of life, if one is due.
    pub fn tick(&mut self, now: Instant) {
        if let Some(interval) = self.interval
            && now >= self.next_sign
        {
            self.next_sign = now + interval;
            self.tell(&[NotifyState::Watchdog]);
        }
    }

    fn tell(&mut self, state: &[NotifyState<'_>]) {
        let told = sd_notify::notify(state);
        self.take_note(told);
    }

    fn take_note(&mut self, told: io::Result<()>) {
        match told {
            Ok(()) => self.is_lost = false,
            Err(error) if !self.is_lost => {
                self.is_lost = true;
                tracing::warn!(
                    target: target::SERVICE,
                    "the service manager cannot be told how the bus is: {error}"
                );
            }
            Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signs_of_life_are_due_twice_as_often_as_they_are_missed() {
        let now = Instant::now();
        let mut supervisor = Supervisor::new(Some(Duration::from_secs(10)), now);
        assert_eq!(supervisor.due(now), Some(Duration::ZERO));
        supervisor.tick(now);
        assert_eq!(supervisor.due(now), Some(Duration::from_secs(5)));
        supervisor.tick(now + Duration::from_secs(3));
        assert_eq!(supervisor.due(now + Duration::from_secs(3)), Some(Duration::from_secs(2)));
        let late = now + Duration::from_secs(8);
        assert_eq!(supervisor.due(late), Some(Duration::ZERO));
        supervisor.tick(late);
        assert_eq!(supervisor.due(late), Some(Duration::from_secs(5)));
    }

    #[test]
    fn without_a_watchdog_nothing_is_due() {
        let now = Instant::now();
        assert_eq!(Supervisor::new(None, now).due(now), None);
        assert_eq!(Supervisor::new(Some(Duration::ZERO), now).due(now), None);
    }
}

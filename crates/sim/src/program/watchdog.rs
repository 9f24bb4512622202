//! Sees that every run ends. A run is not told to stop: the router does not wait for anybody, so a run
//! that does not end is an endless loop.

use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::Run;

/// No run takes so long for each so many events; most take a thousandth of it.
const PATIENCE: Duration = Duration::from_secs(20);
const PATIENCE_STEPS: usize = 10_000;
/// How often it looks.
const INTERVAL: Duration = Duration::from_millis(500);

/// What each thread is playing, and since when.
pub(super) struct Watch {
    playing: Vec<Mutex<Option<(Instant, Run)>>>,
    patience: Duration,
}

impl Watch {
    pub(super) fn new(threads: usize) -> Self {
        Watch::with_patience(threads, PATIENCE)
    }

    pub(super) fn with_patience(threads: usize, patience: Duration) -> Self {
        Watch { playing: (0..threads).map(|_| Mutex::new(None)).collect(), patience }
    }

    /// Plays a run, which the watchdog can see meanwhile.
    pub(super) fn playing<R>(&self, thread: usize, run: &Run, play: impl FnOnce() -> R) -> R {
        *self.slot(thread) = Some((Instant::now(), run.clone()));
        let played = play();
        *self.slot(thread) = None;
        played
    }

    fn slot(&self, thread: usize) -> MutexGuard<'_, Option<(Instant, Run)>> {
        self.playing[thread].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A run that takes too long.
    fn stuck(&self) -> Option<Run> {
        (0..self.playing.len()).find_map(|thread| {
            let slot = self.slot(thread);
            let (since, run) = slot.as_ref()?;
            let steps = u32::try_from(run.steps / PATIENCE_STEPS).unwrap_or(u32::MAX);
            let allowed = self.patience.saturating_mul(steps.saturating_add(1));
            (since.elapsed() > allowed).then(|| run.clone())
        })
    }
}

/// Works, and has `stuck` called for a run that does not end.
pub(super) fn watched<R>(
    watch: &Watch,
    stuck: impl Fn(&Run) + Sync,
    work: impl FnOnce() -> R,
) -> R {
    let (working, end) = channel::<()>();
    let stuck = &stuck;
    thread::scope(move |scope| {
        scope.spawn(move || {
            while let Err(RecvTimeoutError::Timeout) = end.recv_timeout(INTERVAL) {
                if let Some(run) = watch.stuck() {
                    stuck(&run);
                }
            }
        });
        let done = work();
        drop(working);
        done
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_that_does_not_end_is_named_and_one_that_ends_is_not() {
        let watch = Watch::with_patience(2, Duration::from_millis(1));
        let run = |seed| Run { seed, steps: 10, only: None };
        let (told, hears) = channel();
        watched(
            &watch,
            |run: &Run| told.send(run.clone()).unwrap(),
            || {
                watch.playing(0, &run(1), || ());
                // This one ends only because it was seen.
                let named = watch.playing(1, &run(2), || hears.recv().unwrap());
                assert_eq!(named, run(2));
            },
        );
        assert_eq!(watch.stuck(), None);
    }

    #[test]
    fn a_long_script_may_take_longer() {
        let watch = Watch::with_patience(1, Duration::from_secs(3_600));
        let long = Run { seed: 1, steps: usize::MAX, only: None };
        watch.playing(0, &long, || assert_eq!(watch.stuck(), None));
    }
}

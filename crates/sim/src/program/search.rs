//! Plays one run after another, on several threads, until one fails or it is time to end.
//!
//! Runs are begun in their order. Those before one that fails are played to their end, so the first
//! failure is the same however many threads there are.

use std::panic;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::watchdog::Watch;
use super::{Places, Run, Simulator, World};
use crate::shrink::Scenario;
use crate::{Coverage, Failure, Played, Violation};

/// The runs that are to be played.
pub(super) struct Sequence {
    pub(super) world: World,
    /// It ends when so many processes of the bus were killed.
    pub(super) crashes: Option<u64>,
    /// They come first.
    pub(super) regressions: Vec<Run>,
    pub(super) seed: u64,
    pub(super) steps: usize,
    pub(super) only: Option<Places>,
    /// How many, besides the regressions.
    pub(super) runs: u64,
    /// How many of them are played twice.
    pub(super) verified: u64,
}

impl Sequence {
    fn run(&self, number: u64) -> Option<Run> {
        let regressions = self.regressions.len() as u64;
        if number < regressions {
            return self.regressions.get(number as usize).cloned();
        }
        let fresh = number - regressions;
        let seed = self.seed.wrapping_add(fresh);
        let run = Run { seed, steps: self.steps, only: self.only.clone() };
        (fresh < self.runs).then_some(run)
    }
}

/// A run that failed.
pub(super) struct Found<S> {
    /// Its number, from 0.
    pub(super) number: u64,
    pub(super) run: Run,
    pub(super) script: S,
    pub(super) failure: Box<Failure>,
}

/// What was played. Runs are counted once, also those that are played twice.
#[derive(Default)]
pub(super) struct Statistics {
    pub(super) runs: u64,
    /// How many of them are regressions.
    pub(super) regressions: u64,
    /// Sums over all runs.
    pub(super) played: Played,
    pub(super) coverage: Coverage,
}

impl Statistics {
    fn add(&mut self, other: &Statistics) {
        self.runs += other.runs;
        self.regressions += other.regressions;
        self.coverage.add(&other.coverage);
        self.add_played(&other.played);
    }

    fn add_run(&mut self, is_regression: bool, played: &Played) {
        self.runs += 1;
        self.regressions += u64::from(is_regression);
        self.coverage.add(&played.coverage);
        self.add_played(played);
    }

    fn add_played(&mut self, played: &Played) {
        let sum = &mut self.played;
        sum.events += played.events;
        sum.calls += played.calls;
        sum.messages += played.messages;
        sum.virtual_us += played.virtual_us;
        sum.digest = sum.digest.wrapping_add(played.digest);
        sum.crashes += played.crashes;
        for (kind, times) in &played.seen {
            match sum.seen.get_mut(kind) {
                Some(seen) => *seen += times,
                None => drop(sum.seen.insert(kind.clone(), *times)),
            }
        }
    }
}

/// How the search ended.
pub(super) struct Searched<S> {
    pub(super) statistics: Statistics,
    /// The first run that failed.
    pub(super) found: Option<Found<S>>,
    pub(super) elapsed: Duration,
}

/// What all threads share.
struct Shared<'a, S> {
    sequence: &'a Sequence,
    simulator: &'a Simulator<'a, S>,
    deadline: Option<Instant>,
    watch: &'a Watch,
    next: AtomicU64,
    /// Runs from this one on need not be played: it has failed.
    end: AtomicU64,
    crashes: AtomicU64,
}

/// Plays until a run fails, all are played, or the deadline has passed.
pub(super) fn search<S: Scenario>(
    sequence: &Sequence,
    simulator: &Simulator<'_, S>,
    threads: usize,
    deadline: Option<Instant>,
    watch: &Watch,
) -> Searched<S> {
    let began = Instant::now();
    let (next, end) = (AtomicU64::new(0), AtomicU64::new(u64::MAX));
    let crashes = AtomicU64::new(0);
    let shared = &Shared { sequence, simulator, deadline, watch, next, end, crashes };
    let results: Vec<(Statistics, Option<Found<S>>)> = thread::scope(|scope| {
        let workers: Vec<_> =
            (0..threads).map(|thread| scope.spawn(move || work(shared, thread))).collect();
        let joined = workers.into_iter().map(|worker| worker.join());
        joined.map(|result| result.unwrap_or_else(|panic| panic::resume_unwind(panic))).collect()
    });
    let (mut statistics, mut found) = (Statistics::default(), None::<Found<S>>);
    for (of_thread, found_by_thread) in results {
        statistics.add(&of_thread);
        let earlier =
            |other: &Found<S>| found.as_ref().is_none_or(|found| other.number < found.number);
        if let Some(first) = found_by_thread.filter(earlier) {
            found = Some(first);
        }
    }
    Searched { statistics, found, elapsed: began.elapsed() }
}

fn work<S: Scenario>(shared: &Shared<'_, S>, thread: usize) -> (Statistics, Option<Found<S>>) {
    let mut statistics = Statistics::default();
    loop {
        if shared.deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            return (statistics, None);
        }
        let crashes = shared.crashes.load(Ordering::Relaxed);
        if shared.sequence.crashes.is_some_and(|enough| crashes >= enough) {
            return (statistics, None);
        }
        let number = shared.next.fetch_add(1, Ordering::Relaxed);
        let run = shared.sequence.run(number);
        let Some(run) = run.filter(|_| number < shared.end.load(Ordering::Relaxed)) else {
            return (statistics, None);
        };
        let script = run.script(shared.simulator);
        let is_verified = number < shared.sequence.verified;
        let play = || match is_verified {
            true => play_twice(&script, shared.simulator),
            false => (shared.simulator.play)(&script),
        };
        match shared.watch.playing(thread, &run, play) {
            Ok(played) => {
                let is_regression = number < shared.sequence.regressions.len() as u64;
                shared.crashes.fetch_add(played.crashes, Ordering::Relaxed);
                statistics.add_run(is_regression, &played);
            }
            Err(failure) => {
                shared.end.fetch_min(number, Ordering::Relaxed);
                return (statistics, Some(Found { number, run, script, failure }));
            }
        }
    }
}

/// The rule that the program itself watches.
const SAME_AGAIN: &str = "the same script, the same run";

fn play_twice<S>(script: &S, simulator: &Simulator<'_, S>) -> Result<Played, Box<Failure>> {
    let [first, second] = [(); 2].map(|()| (simulator.play)(script));
    if first == second {
        return first;
    }
    let shown = |result: &Result<Played, Box<Failure>>| match result {
        Ok(Played { events, calls, messages, virtual_us, digest, .. }) => format!(
            "{events} events, {calls} calls, {messages} messages, {virtual_us} µs, \
             digest {digest:016x}"
        ),
        Err(failure) => format!("a failure: {}", failure.violation),
    };
    let what = format!("first {}; then {}", shown(&first), shown(&second));
    let violation = Violation::new(SAME_AGAIN, what);
    Err(Box::new(Failure { event: None, violation, trail: Vec::new() }))
}

/// Plays a part of a script that failed, in the way in which it failed.
pub(super) fn play_again<S>(
    found: &Found<S>,
    script: &S,
    simulator: &Simulator<'_, S>,
) -> Result<Played, Box<Failure>> {
    if found.failure.violation.rule == SAME_AGAIN {
        play_twice(script, simulator)
    } else {
        (simulator.play)(script)
    }
}

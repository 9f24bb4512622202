//! The program: seeds, threads, real time, and what people read.
//!
//! Run `i` of seed `X` is run 0 of seed `X + i`: whichever fails can be played by itself. What is found
//! does not depend on how many threads look for it.

mod arguments;
mod likeness;
mod places;
mod regressions;
mod report;
mod search;
mod watchdog;

use std::hash::{BuildHasher, RandomState};
use std::io::{self, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context;

use crate::shrink::{self, Scenario};
use crate::{Failure, Played, Script, durable, play};
pub use arguments::Arguments;
pub use places::Places;
use search::{Found, Searched, Sequence};
use watchdog::Watch;

/// A run that has seen fewer events need not have seen every kind.
pub const COVERAGE_EVENTS_MIN: u64 = 1_000_000;

/// One run: what a command line replays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// What the script is drawn from.
    pub seed: u64,
    /// Events drawn.
    pub steps: usize,
    /// Events played; all if there is no list.
    pub only: Option<Places>,
}

impl Run {
    fn script<S: Scenario>(&self, simulator: &Simulator<'_, S>) -> S {
        let whole = (simulator.draw)(self.seed, self.steps);
        match &self.only {
            None => whole,
            Some(places) => whole.only(places.as_slice()),
        }
    }
}

/// Draws a script from a seed with so many events.
pub type Draw<'a, S = Script> = &'a (dyn Fn(u64, usize) -> S + Sync);
/// Plays a script.
pub type Play<'a, S = Script> = &'a (dyn Fn(&S) -> Result<Played, Box<Failure>> + Sync);

/// What draws and plays scripts. Tests bring their own.
#[derive(Clone, Copy)]
pub struct Simulator<'a, S = Script> {
    /// Which of the worlds it is.
    pub world: World,
    /// Makes scripts.
    pub draw: Draw<'a, S>,
    /// Plays them.
    pub play: Play<'a, S>,
}

/// The worlds that the router is simulated in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum World {
    /// Clients of level 1, and an exact model.
    Live,
    /// Clients of both levels, a store that fails, and crashes.
    Durable,
}

impl Simulator<'static> {
    /// The simulator of the router.
    pub fn real() -> Self {
        Simulator { world: World::Live, draw: &Script::draw, play: &play }
    }
}

impl Simulator<'static, durable::Script> {
    /// The simulator of the router with a store.
    pub fn durable() -> Self {
        let (draw, play) = (&durable::Script::draw, &durable::play);
        Simulator { world: World::Durable, draw, play }
    }
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// No rule was broken, and every kind of event was seen that must be.
    Clean,
    /// A rule was broken, or a kind was never seen.
    Failed,
}

impl Outcome {
    /// For the shell: 0 or 1.
    pub fn exit_code(self) -> ExitCode {
        match self {
            Outcome::Clean => ExitCode::SUCCESS,
            Outcome::Failed => ExitCode::FAILURE,
        }
    }
}

/// Does what the command line asks for, which is [checked](Arguments::checked), and tells about it on
/// `out`. Fails if `out` does, or the list
/// of regression seeds cannot be read.
pub fn run<S: Scenario>(
    arguments: &Arguments,
    simulator: &Simulator<'_, S>,
    out: &mut impl Write,
) -> anyhow::Result<Outcome> {
    let sequence = sequence(arguments, simulator.world).context("crates/sim/seeds.txt")?;
    report::beginning(&sequence, out)?;
    let threads = arguments.threads();
    let deadline = arguments.seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let watch = Watch::new(threads);
    let searched = watchdog::watched(&watch, stuck(simulator.world), || {
        search::search(&sequence, simulator, threads, deadline, &watch)
    });
    match searched.found {
        Some(found) => {
            let budget = Duration::from_secs(arguments.shrink_seconds);
            watchdog::watched(&watch, stuck(simulator.world), || {
                tell_failure(&found, searched.elapsed, budget, simulator, &watch, out)
            })?;
            report::clean_before(&searched.statistics, searched.elapsed, out)?;
            Ok(Outcome::Failed)
        }
        None => Ok(tell_end(&sequence, &searched, out)?),
    }
}

fn sequence(arguments: &Arguments, world: World) -> anyhow::Result<Sequence> {
    let regressions = match arguments.seed {
        Some(_) => Vec::new(),
        None => regressions::all(world)?,
    };
    // The keys of a hash table are where the standard library has fresh random numbers. A shorter one
    // is easier to copy.
    let fresh = || RandomState::new().hash_one(0) >> 24;
    Ok(Sequence {
        world,
        crashes: arguments.crashes,
        regressions,
        seed: arguments.seed.unwrap_or_else(fresh),
        steps: arguments.steps,
        only: arguments.only.clone(),
        runs: arguments.runs(),
        verified: arguments.verify,
    })
}

/// Tells that a run does not end, and ends the program: there is no other way to end the run.
fn stuck(world: World) -> impl Fn(&Run) + Sync {
    move |run| {
        let mut out = io::stdout();
        let _ = report::stuck(world, run, &mut out).and_then(|()| out.flush());
        std::process::exit(1);
    }
}

fn tell_failure<S: Scenario>(
    found: &Found<S>,
    elapsed: Duration,
    budget: Duration,
    simulator: &Simulator<'_, S>,
    watch: &Watch,
    out: &mut impl Write,
) -> io::Result<()> {
    report::failure(simulator.world, found, elapsed, out)?;
    let began = Instant::now();
    let place = |places: &[usize]| found.run.places(places);
    let shrunk = shrink::shrink(
        &found.script,
        &found.failure,
        |script, places| {
            let run = Run { only: Some(place(places)), ..found.run.clone() };
            watch.playing(0, &run, || search::play_again(found, script, simulator))
        },
        |_| began.elapsed() < budget,
    );
    let run = Run { only: Some(place(&shrunk.kept)), ..found.run.clone() };
    report::shrunk(simulator.world, found, &run, &shrunk, began.elapsed(), out)
}

fn tell_end<S>(
    sequence: &Sequence,
    searched: &Searched<S>,
    out: &mut impl Write,
) -> io::Result<Outcome> {
    let statistics = &searched.statistics;
    report::clean(sequence, statistics, searched.elapsed, out)?;
    if statistics.runs > 1 && statistics.played.events > 0 {
        report::seen(sequence.world, statistics, out)?;
        report::statistics(statistics, searched.elapsed, out)?;
    }
    let missing = report::never_seen(sequence.world, statistics);
    let is_long = statistics.played.events >= COVERAGE_EVENTS_MIN && sequence.only.is_none();
    if !is_long || missing.is_empty() {
        return Ok(Outcome::Clean);
    }
    report::missing(&missing, out)?;
    Ok(Outcome::Failed)
}

impl Run {
    /// A place in the script that is played as a place in the script that is drawn: it is the one
    /// number that an event has.
    fn place(&self, played: usize) -> Option<usize> {
        match &self.only {
            None => Some(played),
            Some(only) => only.as_slice().get(played).copied(),
        }
    }

    fn places(&self, played: &[usize]) -> Places {
        played.iter().filter_map(|place| self.place(*place)).collect()
    }
}

#[cfg(test)]
mod tests;

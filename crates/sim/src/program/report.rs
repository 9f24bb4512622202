//! What people read.

use std::io::{self, Write};
use std::time::Duration;

use super::search::{Found, Sequence, Statistics};
use super::{Run, World};
use crate::shrink::{Scenario, Shrunk};
use crate::world::{Happened, Step};
use crate::{Failure, durable};

/// More events than anybody reads.
const EVENTS_SHOWN_MAX: usize = 300;

/// With or without the assertions in the code of the router: a failure may need them.
const PROFILE: &str = if cfg!(debug_assertions) { "--profile sim" } else { "--release" };

/// The command that replays a run.
pub(super) fn command(world: World, run: &Run) -> String {
    let Run { seed, steps, only } = run;
    let world = match world {
        World::Live => "",
        World::Durable => "--durable ",
    };
    let mut command = format!(
        "cargo run {PROFILE} -p hermes-bus-sim -- {world}--seed {seed} --runs 1 --steps {steps}"
    );
    if let Some(places) = only {
        command += &format!(" --only {places}");
    }
    command
}

pub(super) fn beginning(sequence: &Sequence, out: &mut impl Write) -> io::Result<()> {
    let Sequence { regressions, seed, steps, .. } = sequence;
    let assertions = if cfg!(debug_assertions) { "with" } else { "without" };
    writeln!(out, "seed {seed}, {steps} events a run, {assertions} the assertions of the router")?;
    if !regressions.is_empty() {
        let runs = counted(regressions.len() as u64, "run");
        writeln!(out, "first {runs} of seeds.txt, which failed once")?;
    }
    out.flush()
}

pub(super) fn stuck(world: World, run: &Run, out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "FAILED: the run of seed {} does not end", run.seed)?;
    writeln!(out, "replay:\n  {}", command(world, run))
}

/// Comes before the script is made shorter: that may take a while.
pub(super) fn failure<S>(
    world: World,
    found: &Found<S>,
    elapsed: Duration,
    out: &mut impl Write,
) -> io::Result<()> {
    let Found { number, run, failure, .. } = found;
    let after = elapsed.as_secs_f64();
    let (seed, what) = (run.seed, broken(failure, run));
    writeln!(out, "FAILED after {after:.1} s, run {number}, seed {seed}, {what}")?;
    writeln!(out, "  {}", command(world, run))?;
    out.flush()
}

pub(super) fn shrunk<S: Scenario>(
    world: World,
    found: &Found<S>,
    run: &Run,
    shrunk: &Shrunk,
    elapsed: Duration,
    out: &mut impl Write,
) -> io::Result<()> {
    let (kept, all) = (shrunk.kept.len(), found.script.events());
    let end = if shrunk.is_minimal { "none can be spared" } else { "there was no time for more" };
    writeln!(
        out,
        "shrunk to {kept} of {} in {:.1} s ({} played; {end})",
        counted(all as u64, "event"),
        elapsed.as_secs_f64(),
        counted(shrunk.tries, "script"),
    )?;
    writeln!(out, "\nwhat the run is like (what is not named is as usual):")?;
    for line in found.script.likeness() {
        writeln!(out, "  {line}")?;
    }
    writeln!(out, "\nwhat happens:")?;
    let drawn = run.only.as_ref().map(|places| places.as_slice()).unwrap_or_default();
    for (place, kept) in drawn.iter().zip(&shrunk.kept).take(EVENTS_SHOWN_MAX) {
        writeln!(out, "  event {place:>6}: {}", found.script.event(*kept))?;
    }
    if kept > EVENTS_SHOWN_MAX {
        writeln!(out, "  … and {} more", kept - EVENTS_SHOWN_MAX)?;
    }
    writeln!(out, "\nand {}", broken(&shrunk.failure, run))?;
    writeln!(out, "\nthe last calls into the router:")?;
    let trail = &shrunk.failure.trail;
    for step in &trail[trail.len().saturating_sub(EVENTS_SHOWN_MAX)..] {
        match &step.what {
            Happened::Event(played) => {
                let (place, kept) = (drawn.get(*played), shrunk.kept.get(*played));
                let (Some(place), Some(kept)) = (place, kept) else { continue };
                let what = format!("event {place}: {}", found.script.event(*kept));
                let step = Step { at_us: step.at_us, what: Happened::Call(what) };
                writeln!(out, "  {step}")?;
            }
            Happened::Call(_) => writeln!(out, "  {step}")?,
        }
    }
    writeln!(out, "\nreplay:\n  {}\n", command(world, run))?;
    out.flush()
}

/// Where a run broke a rule, and which: the place is that in the whole script.
fn broken(failure: &Failure, run: &Run) -> String {
    let violation = &failure.violation;
    match failure.event.and_then(|played| run.place(played)) {
        Some(place) => format!("at event {place}: {violation}"),
        None => format!("after the last event: {violation}"),
    }
}

pub(super) fn clean(
    sequence: &Sequence,
    statistics: &Statistics,
    elapsed: Duration,
    out: &mut impl Write,
) -> io::Result<()> {
    let Statistics { runs, regressions, played, .. } = statistics;
    let real_s = elapsed.as_secs_f64();
    let failed_once = match sequence.regressions.len() {
        0 => String::new(),
        listed => format!(", {regressions} of the {listed} of seeds.txt among them,"),
    };
    let counts = counted(*runs, "run");
    let meant_to_be_empty = sequence.only.as_ref().is_some_and(|only| only.as_slice().is_empty());
    if *runs == 0 {
        return writeln!(out, "nothing was played: no run was begun");
    }
    if played.events == 0 && !meant_to_be_empty {
        return writeln!(out, "nothing was played: {counts}{failed_once} without any event");
    }
    write!(out, "clean: {counts}{failed_once}")?;
    if *runs > 1 {
        return writeln!(out, " in {real_s:.1} s");
    }
    let (events, calls) = (counted(played.events, "event"), counted(played.calls, "call"));
    let (messages, digest) = (counted(played.messages, "message"), played.digest);
    writeln!(out, " of {events} in {real_s:.1} s: {calls}, {messages}, digest {digest:016x}")
}

/// What was played before a run that failed, if anything.
pub(super) fn clean_before(
    statistics: &Statistics,
    elapsed: Duration,
    out: &mut impl Write,
) -> io::Result<()> {
    if statistics.runs == 0 {
        return Ok(());
    }
    writeln!(out, "what was clean:")?;
    self::statistics(statistics, elapsed, out)
}

pub(super) fn statistics(
    statistics: &Statistics,
    elapsed: Duration,
    out: &mut impl Write,
) -> io::Result<()> {
    let Statistics { runs, played, .. } = statistics;
    let real_s = elapsed.as_secs_f64().max(1e-6);
    let virtual_s = played.virtual_us as f64 / 1e6;
    writeln!(out, "runs          {runs:>14}")?;
    for (title, count) in
        [("events", played.events), ("router calls", played.calls), ("messages", played.messages)]
    {
        writeln!(out, "{title:<14}{count:>14}  ({:.0} a second)", count as f64 / real_s)?;
    }
    if played.crashes > 0 {
        writeln!(out, "crashes       {:>14}", played.crashes)?;
    }
    let faster = virtual_s / real_s;
    writeln!(out, "virtual time  {virtual_s:>12.0} s  ({faster:.0} times as fast as real time)")?;
    writeln!(out, "digest      {:016x}", played.digest)
}

/// What was seen in all runs, as a table.
pub(super) fn seen(world: World, statistics: &Statistics, out: &mut impl Write) -> io::Result<()> {
    if world == World::Live {
        return writeln!(out, "\n{}", statistics.coverage);
    }
    writeln!(out)?;
    for (kind, times) in &statistics.played.seen {
        writeln!(out, "{kind:<42}{times:>14}")?;
    }
    writeln!(out)
}

/// What must be seen in a long search and never was.
pub(super) fn never_seen(world: World, statistics: &Statistics) -> Vec<String> {
    match world {
        World::Live => {
            let missing = statistics.coverage.missing();
            missing.iter().map(|seen| format!("{}: {}", seen.group, seen.kind)).collect()
        }
        World::Durable => durable::never_seen(&statistics.played.seen),
    }
}

pub(super) fn missing(missing: &[String], out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "\nFAILED: in so many events, these kinds were never seen:")?;
    for seen in missing {
        writeln!(out, "  {seen}")?;
    }
    Ok(())
}

/// "1 run", "2 runs".
fn counted(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

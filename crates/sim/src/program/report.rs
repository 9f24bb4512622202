//! What people read.

use std::io::{self, Write};
use std::time::Duration;

use super::Run;
use super::search::{Found, Sequence, Statistics};
use crate::coverage::Seen;
use crate::shrink::Shrunk;

/// More events than anybody reads.
const EVENTS_SHOWN_MAX: usize = 300;

/// With or without the assertions in the code of the router: a failure may need them.
const PROFILE: &str = if cfg!(debug_assertions) { "--profile sim" } else { "--release" };

/// The command that replays a run.
pub(super) fn command(run: &Run) -> String {
    let Run { seed, steps, only } = run;
    let mut command =
        format!("cargo run {PROFILE} -p hermes-bus-sim -- --seed {seed} --runs 1 --steps {steps}");
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
        writeln!(out, "first {} that failed once", counted(regressions.len() as u64, "run"))?;
    }
    out.flush()
}

pub(super) fn stuck(run: &Run, out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "FAILED: the run of seed {} does not end", run.seed)?;
    writeln!(out, "replay:\n  {}", command(run))
}

/// Comes before the script is made shorter: that may take a while.
pub(super) fn failure(found: &Found, elapsed: Duration, out: &mut impl Write) -> io::Result<()> {
    let Found { number, run, failure, .. } = found;
    let after = elapsed.as_secs_f64();
    writeln!(out, "FAILED after {after:.1} s, run {number}, seed {}, {failure}", run.seed)?;
    writeln!(out, "  {}", command(run))?;
    out.flush()
}

pub(super) fn shrunk(
    found: &Found,
    run: &Run,
    shrunk: &Shrunk,
    elapsed: Duration,
    out: &mut impl Write,
) -> io::Result<()> {
    let (kept, all) = (shrunk.kept.len(), found.script.events.len());
    let end = if shrunk.is_minimal { "none can be spared" } else { "there was no time for more" };
    writeln!(
        out,
        "shrunk to {kept} of {} in {:.1} s ({} played; {end})",
        counted(all as u64, "event"),
        elapsed.as_secs_f64(),
        counted(shrunk.tries, "script"),
    )?;
    writeln!(out, "\nwhat the run is like:\n  {:?}", found.script.character)?;
    writeln!(out, "\nwhat happens:")?;
    let drawn = run.only.as_ref().map(|places| places.as_slice()).unwrap_or_default();
    for (place, kept) in drawn.iter().zip(&shrunk.kept).take(EVENTS_SHOWN_MAX) {
        if let Some(event) = found.script.events.get(*kept) {
            writeln!(out, "  {place:>6}  client {:>3}  {:?}", event.client, event.action)?;
        }
    }
    if kept > EVENTS_SHOWN_MAX {
        writeln!(out, "  … and {} more", kept - EVENTS_SHOWN_MAX)?;
    }
    let violation = &shrunk.failure.violation;
    match shrunk.failure.event.and_then(|event| drawn.get(event)) {
        Some(place) => writeln!(out, "\nand at event {place}\n  {violation}")?,
        None => writeln!(out, "\nand after the last event\n  {violation}")?,
    }
    writeln!(out, "\nthe last calls into the router:")?;
    for line in &shrunk.failure.trail {
        writeln!(out, "  {line}")?;
    }
    writeln!(out, "\nreplay:\n  {}\n", command(run))?;
    out.flush()
}

pub(super) fn clean(
    statistics: &Statistics,
    elapsed: Duration,
    out: &mut impl Write,
) -> io::Result<()> {
    let runs = counted(statistics.runs, "run");
    writeln!(out, "clean: {runs} in {:.1} s\n", elapsed.as_secs_f64())
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
    let faster = virtual_s / real_s;
    writeln!(out, "virtual time  {virtual_s:>12.0} s  ({faster:.0} times as fast as real time)")?;
    writeln!(out, "digest      {:016x}", played.digest)
}

pub(super) fn missing(missing: &[Seen], out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "\nFAILED: in so many events, these kinds were never seen:")?;
    for seen in missing {
        writeln!(out, "  {}: {}", seen.group, seen.kind)?;
    }
    Ok(())
}

/// "1 run", "2 runs".
fn counted(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

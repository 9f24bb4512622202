//! The program with scripts and players of the tests' own.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use clap::Parser;

use super::*;
use crate::script::{Action, Event};
use crate::world::{Happened, Step};
use crate::{Coverage, Violation};

/// A script whose events tell seed and place by their `draw`.
fn draw(seed: u64, events: usize) -> Script {
    let event =
        |place: usize| Event { client: 1, action: Action::Pass { us: seed }, draw: place as u64 };
    Script { events: (0..events).map(event).collect(), ..Script::draw(seed, 0) }
}

fn clean(script: &Script) -> Result<Played, Box<Failure>> {
    let events = script.events.len() as u64;
    Ok(Played { events, digest: script.seed.wrapping_mul(0x9e37), ..Played::default() })
}

fn failure(event: Option<usize>) -> Result<Played, Box<Failure>> {
    let violation = Violation::new("a rule", "it was broken");
    let call = Happened::Call("the last call".to_owned());
    let played = event.map(Happened::Event).into_iter().chain([call]);
    let trail = played.map(|what| Step { at_us: 1, what }).collect();
    Err(Box::new(Failure { event, violation, trail }))
}

/// Fails at the later of the places 3 and 40, where both are there.
fn needs_two(script: &Script) -> Result<Played, Box<Failure>> {
    let place = |wanted| script.events.iter().position(|event| event.draw == wanted);
    match (place(3), place(40)) {
        (Some(_), Some(second)) => failure(Some(second)),
        _ => clean(script),
    }
}

fn simulate(line: &str, play: Play<'_>) -> (Outcome, String) {
    let arguments = Arguments::try_parse_from(line.split_whitespace()).unwrap();
    let mut out = Vec::new();
    let outcome =
        run(&arguments, &Simulator { world: World::Live, draw: &draw, play }, &mut out).unwrap();
    (outcome, String::from_utf8(out).unwrap())
}

/// The last command of a report, as a command line for [`simulate`].
fn replay(report: &str) -> String {
    let command = report.lines().rfind(|line| line.contains("cargo run")).unwrap();
    format!("sim {}", command.split_once(" -- ").unwrap().1)
}

#[test]
fn the_seed_is_told_before_anything_is_played() {
    let said = Mutex::new(Vec::new());
    struct Shared<'a>(&'a Mutex<Vec<u8>>);
    impl Write for Shared<'_> {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let play = |script: &Script| {
        assert!(said.lock().unwrap().starts_with(b"seed 77, 5 events a run"));
        clean(script)
    };
    let arguments = Arguments::parse_from(["sim", "--seed", "77", "--steps", "5", "--runs", "1"]);
    let simulator = Simulator { world: World::Live, draw: &draw, play: &play };
    assert_eq!(run(&arguments, &simulator, &mut Shared(&said)).unwrap(), Outcome::Clean);
}

#[test]
fn runs_have_the_numbers_from_the_seed_on_and_are_as_many_as_asked_for() {
    for threads in [1, 2, 5] {
        let played = Mutex::new(Vec::new());
        let play = |script: &Script| {
            played.lock().unwrap().push((script.seed, script.events.len()));
            clean(script)
        };
        let line = format!("sim --seed 10 --runs 6 --steps 4 --verify 0 --threads {threads}");
        let (outcome, said) = simulate(&line, &play);
        assert_eq!(outcome, Outcome::Clean);
        let mut played = played.into_inner().unwrap();
        played.sort_unstable();
        assert_eq!(played, (10..16).map(|seed| (seed, 4)).collect::<Vec<_>>());
        assert!(said.contains("clean: 6 runs"), "{said}");
    }
}

#[test]
fn a_fresh_seed_is_another_one_each_time() {
    let first_line = || simulate("sim --runs 0", &clean).1.lines().next().unwrap().to_owned();
    assert_ne!(first_line(), first_line());
}

#[test]
fn a_time_ends_it_too() {
    let (outcome, said) = simulate("sim --seed 1 --seconds 0", &clean);
    assert_eq!(outcome, Outcome::Clean);
    assert!(said.contains("nothing was played: no run was begun"), "{said}");
}

#[test]
fn the_lowest_seed_that_fails_is_named_however_many_threads_look_for_it() {
    for threads in [1, 2, 8] {
        // 130 fails at once, 107 only after all that are begun at the same time.
        let begun = AtomicU64::new(0);
        let play = |script: &Script| {
            begun.fetch_add(1, Ordering::Relaxed);
            match script.seed {
                107 => {
                    (0..1_000).for_each(|_| std::thread::yield_now());
                    failure(None)
                }
                108.. => failure(None),
                _ => clean(script),
            }
        };
        let line = format!("sim --seed 100 --runs 1000 --verify 0 --threads {threads}");
        let (outcome, said) = simulate(&format!("{line} --shrink-seconds 0"), &play);
        assert_eq!(outcome, Outcome::Failed);
        assert!(said.contains("run 7, seed 107, after the last event: a rule"), "{said}");
        assert!(begun.load(Ordering::Relaxed) < 50, "it went on after the failure");
    }
}

#[test]
fn no_thread_goes_on_after_a_failure() {
    let play = |script: &Script| match script.seed {
        104 => failure(None),
        seed => {
            assert!(seed < 10_000_000, "nobody has told this thread to end");
            clean(script)
        }
    };
    let line = "sim --seed 100 --seconds 3600 --steps 0 --verify 0 --threads 2";
    assert_eq!(simulate(line, &play).0, Outcome::Failed);
}

#[test]
fn the_command_of_a_report_replays_what_is_left_of_the_script() {
    let (outcome, said) = simulate("sim --seed 5 --runs 3 --steps 100", &needs_two);
    assert_eq!(outcome, Outcome::Failed);
    assert!(said.contains("at event 40: a rule: it was broken"), "{said}");
    assert!(said.contains("shrunk to 2 of 100 events"), "{said}");
    assert!(said.contains("the last call"), "{said}");
    assert!(said.contains("--seed 5 --runs 1 --steps 100 --only 3,40"), "{said}");

    // Again, and from a script that is a part already: the places stay those of the whole.
    let (outcome, again) = simulate(&replay(&said), &needs_two);
    assert_eq!(outcome, Outcome::Failed);
    assert_eq!(again.matches("at event 40: a rule: it was broken").count(), 2, "{again}");
    assert!(again.contains("ms  event 40: client 1 Pass"), "{again}");
    assert!(again.contains("  event     40: client 1 Pass"), "{again}");
    assert!(!again.contains("event 1:") && !again.contains("event 1,"), "{again}");
    assert_eq!(replay(&again), replay(&said));
    let part = "sim --seed 5 --steps 100 --only 1-3,30-50";
    assert!(simulate(part, &needs_two).1.contains("--only 3,40"));
    assert_eq!(simulate("sim --seed 5 --steps 100 --only 1-39", &needs_two).0, Outcome::Clean);
}

#[test]
fn a_run_that_is_not_the_same_when_it_is_played_again_fails() {
    let plays = AtomicU64::new(0);
    let play = |script: &Script| {
        let digest = plays.fetch_add(1, Ordering::Relaxed);
        Ok(Played { digest, events: script.events.len() as u64, ..Played::default() })
    };
    let (outcome, said) = simulate("sim --seed 1 --runs 1 --steps 10", &play);
    assert_eq!(outcome, Outcome::Failed);
    assert!(said.contains("the same script, the same run: first"), "{said}");
    assert!(said.contains("shrunk to 0 of 10 events"), "{said}");
    assert_eq!(simulate("sim --seed 1 --runs 1 --steps 10 --verify 0", &play).0, Outcome::Clean);
}

#[test]
fn a_long_run_fails_for_kinds_that_it_never_saw_and_a_short_one_does_not() {
    let play = |script: &Script| {
        let mut coverage = Coverage::default();
        script.events.iter().for_each(|event| coverage.event(event));
        Ok(Played { events: COVERAGE_EVENTS_MIN / 2, coverage, ..Played::default() })
    };
    let (outcome, said) = simulate("sim --seed 1 --runs 2 --steps 10", &play);
    assert_eq!(outcome, Outcome::Failed);
    assert!(said.contains("\n  counter: timeout_drain\n"), "{said}");
    assert!(!said.contains("\n  event: pass\n"), "{said}");
    assert_eq!(simulate("sim --seed 1 --runs 1 --steps 10", &play).0, Outcome::Clean);
}

#[test]
fn statistics_are_sums_that_do_not_depend_on_threads() {
    let digest = |threads: u64| {
        let line = format!("sim --seed 3 --runs 40 --steps 7 --threads {threads}");
        let (_, said) = simulate(&line, &clean);
        assert!(said.lines().any(|line| line.starts_with("events") && line.contains(" 280 ")));
        said.lines().rfind(|line| line.starts_with("digest")).unwrap().to_owned()
    };
    assert_eq!(digest(1), digest(3));
}

#[test]
fn wrong_command_lines_are_refused() {
    for (wrong, why) in [
        ("--only 3", "--seed"),
        ("--seed x", "invalid digit"),
        ("--seed 1 --only 4,3", "rising places"),
        ("--seed 1 --only 610 --steps 500", "place 610 is beyond --steps 500"),
        ("--seed 1 --only 500 --steps 500", "place 500 is beyond --steps 500"),
        ("--threads 0", "there can be from 1 to 1024 threads"),
        ("--threads 1025", "there can be from 1 to 1024 threads"),
        ("--steps 10000001", "a run has from 0 to 10000000 events"),
        ("--runs -1", "unexpected argument"),
    ] {
        let line = std::iter::once("sim").chain(wrong.split_whitespace());
        let error = Arguments::try_parse_from(line).and_then(Arguments::checked).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{wrong}");
        assert!(error.to_string().contains(why), "{error}");
    }
    let line = ["sim", "--seed", "1", "--steps", "500", "--only", "3,499"];
    assert!(Arguments::try_parse_from(line).and_then(Arguments::checked).is_ok());
}

#[test]
fn what_has_played_nothing_says_so() {
    for nothing in ["--runs 0", "--seconds 0", "--steps 0", "--steps 0 --runs 1"] {
        let (outcome, said) = simulate(&format!("sim --seed 1 {nothing}"), &clean);
        assert_eq!(outcome, Outcome::Clean);
        assert!(said.contains("\nnothing was played: "), "{nothing}: {said}");
        assert!(!said.contains("clean") && !said.contains("digest"), "{nothing}: {said}");
    }
    // A script without any event is one that was asked for: everybody still reads and leaves.
    let (_, said) = simulate("sim --seed 1 --only none", &clean);
    assert!(said.contains("clean: 1 run of 0 events"), "{said}");
}

#[test]
fn one_clean_run_is_one_line_and_one_that_fails_at_once_has_no_sums() {
    let (_, said) = simulate("sim --seed 1 --runs 1 --steps 10", &clean);
    assert_eq!(said.lines().count(), 2, "{said}");
    let (_, said) = simulate("sim --seed 1 --runs 1 --steps 100", &needs_two);
    assert!(!said.contains("what was clean"), "{said}");
    let fails_third = |script: &Script| match script.seed {
        3 => failure(None),
        _ => clean(script),
    };
    let (_, said) = simulate("sim --seed 1 --runs 9 --steps 10 --threads 1", &fails_third);
    assert!(said.contains("what was clean:\nruns                       2\n"), "{said}");
}

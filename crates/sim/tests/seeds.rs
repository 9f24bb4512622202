//! A few seeds that stay the same, and all that failed once: what `cargo test` sees of the simulator.
//! Fresh seeds, and many of them, are for the program.

use clap::Parser;
use hermes_bus_sim::program::{Arguments, Outcome, Simulator, run};

fn is_clean(line: &[&str]) {
    let arguments = Arguments::parse_from(line);
    let mut report = Vec::new();
    let outcome = run(&arguments, &Simulator::real(), &mut report).expect("a Vec takes all");
    assert_eq!(outcome, Outcome::Clean, "\n{}", String::from_utf8_lossy(&report));
}

#[test]
fn the_same_few_seeds_break_no_rule() {
    is_clean(&["sim", "--seed", "1", "--runs", "24", "--steps", "400"]);
}

#[test]
fn what_failed_once_does_not_fail_again() {
    is_clean(&["sim", "--runs", "0"]);
}

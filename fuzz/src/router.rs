//! Any bytes as a row of events for the router: what a run is like, then clients, faults and time. The
//! simulator plays them, and its model says what must hold.
//!
//! The first 8 bytes make the character, each 6 that follow one event (`Script::from_bytes`).

use hermes_bus_sim::{Script, play};

/// Events of one input, at most: more say nothing that fewer do not, and take long.
const EVENTS_MAX: usize = 300;

/// Plays the script in `input`.
pub fn check(input: &[u8]) {
    let mut script = Script::from_bytes(input);
    script.events.truncate(EVENTS_MAX);
    if let Err(failure) = play(&script) {
        let trail: Vec<String> = failure.trail.iter().map(ToString::to_string).collect();
        panic!("{failure}\n{:#?}\n{}", script.events, trail.join("\n"));
    }
}

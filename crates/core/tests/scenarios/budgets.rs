//! Unfinished frames: their clocks and their budget.

use hermes_bus_core::{CloseReason, Reading};
use serde_json::json;

use crate::world::{OWNER, World};

const KIB: usize = 1024;

#[test]
fn a_frame_must_be_complete_30_seconds_after_its_first_byte() {
    let mut world = World::new();
    let (slow, steady) = (world.connect(), world.register("steady"));
    world.router.buffered(slow, 3, Some(1));
    world.turn();
    for _ in 0..3 {
        // Another unfinished frame every time: each has its own 30 s.
        world.router.buffered(steady, 5, Some(100));
        world.pass_ms(9_999);
        world.send(steady, &json!({"type": "ping"}));
    }
    world.router.buffered(slow, 4, Some(50));
    assert_eq!(world.closed(slow), None);
    world.pass_ms(3);
    assert_eq!(world.take(slow)[0]["code"], "invalid_frame");
    assert_eq!(world.closed(slow), Some(CloseReason::FrameTimeout));
    assert_eq!(world.closed(steady), None);
    assert_eq!(world.counters().timeout_frame, 1);
    world.end();
}

#[test]
fn when_the_budget_is_used_up_only_the_one_that_is_nearest_to_its_end_goes_on() {
    let mut world = World::with(|config| config.intake_bytes_total_max = 100 * KIB);
    let (far, near, idle) = (world.connect(), world.connect(), world.connect());
    world.router.buffered(far, 60 * KIB, Some(90 * KIB));
    world.router.buffered(near, 60 * KIB, Some(10 * KIB));
    assert_eq!(world.router.reading(far), Reading::Held);
    assert_eq!(world.router.reading(near), Reading::UpTo(10 * KIB), "to its frame's end");
    assert_eq!(world.router.reading(idle), Reading::UpTo(4 * KIB), "small messages go on flowing");
    world.turn();
    // The other one has finished.
    world.router.buffered(near, 0, None);
    world.turn();
    assert_eq!(world.router.reading(far), Reading::UpTo(usize::MAX));
    assert_eq!(world.router.usage().intake, 60 * KIB);
    world.router.buffered(far, 0, None);
    world.end();
}

#[test]
fn the_clock_of_a_frame_stands_still_while_the_bus_does_not_read_it() {
    let mut world = World::with(|config| {
        config.intake_bytes_total_max = 10 * KIB;
        config.frame_deadline = std::time::Duration::from_secs(30);
    });
    let (waiting, hogging) = (world.connect(), world.connect());
    world.router.buffered(waiting, 6 * KIB, Some(50 * KIB));
    world.pass_ms(20_000);
    world.router.buffered(hogging, 6 * KIB, Some(KIB));
    assert_eq!(world.router.reading(waiting), Reading::Held);
    world.pass_ms(29_000);
    assert_eq!(world.closed(waiting), None, "49 s, but 29 of them on hold");
    world.pass_ms(1_000);
    assert_eq!(world.closed(hogging), Some(CloseReason::FrameTimeout));
    assert_ne!(world.router.reading(waiting), Reading::Held);
    world.pass_ms(9_999);
    assert_eq!(world.closed(waiting), None);
    world.pass_ms(1);
    assert_eq!(world.closed(waiting), Some(CloseReason::FrameTimeout));
    world.end();
}

#[test]
fn a_session_that_the_bus_does_not_read_from_is_not_silent() {
    let mut world = World::with(|config| {
        config.intake_bytes_total_max = 10 * KIB;
        config.frame_deadline = std::time::Duration::from_secs(3_600);
    });
    let (waiting, hogging) = (world.register("waiting"), world.connect());
    world.router.buffered(waiting, 6 * KIB, Some(50 * KIB));
    world.router.buffered(hogging, 6 * KIB, Some(KIB));
    assert_eq!(world.router.reading(waiting), Reading::Held);
    world.pass_ms(300_000);
    assert_eq!(world.closed(waiting), None);
    world.hang_up(hogging);
    world.pass_ms(180_000);
    assert_eq!(world.closed(waiting), Some(CloseReason::Heartbeat), "now it is");
    world.end();
}

#[test]
fn one_user_cannot_use_up_the_budget_of_another() {
    let mut world = World::with(|config| {
        config.intake_bytes_user_max = 50 * KIB;
        config.intake_bytes_total_max = 100 * KIB;
        config.allow_uids = vec![OWNER + 1];
    });
    let (greedy, greedier) = (world.connect(), world.connect());
    let neighbour = world.connect_as(OWNER + 1);
    world.router.buffered(greedy, 30 * KIB, Some(20 * KIB));
    world.router.buffered(greedier, 30 * KIB, Some(30 * KIB));
    world.router.buffered(neighbour, 30 * KIB, Some(70 * KIB));
    assert_eq!(world.router.reading(greedier), Reading::Held);
    assert_eq!(world.router.reading(greedy), Reading::UpTo(20 * KIB));
    assert_eq!(world.router.reading(neighbour), Reading::UpTo(usize::MAX));
    world.end();
}

#[test]
fn the_clock_of_a_frame_also_stands_still_while_answers_are_unread() {
    let mut world = World::with(|config| config.answer_bytes_max = 100);
    let rude = world.connect();
    world.stop_reading(rude, 0);
    world.write(rude, &[r#"{"type":"ping"}"#; 10]);
    world.router.buffered(rude, 50, Some(50));
    world.pass_ms(60_000);
    assert_eq!(world.closed(rude), None);
    world.read_on(rude);
    world.router.buffered(rude, 50, Some(50));
    world.pass_ms(29_000);
    assert_eq!(world.closed(rude), None);
    world.pass_ms(1_001);
    assert_eq!(world.closed(rude), Some(CloseReason::FrameTimeout));
    world.end();
}

#[test]
fn who_was_nearest_and_turns_out_to_be_far_lets_another_go_on() {
    let mut world = World::with(|config| config.intake_bytes_total_max = 10 * KIB);
    let (header_only, waiting) = (world.connect(), world.connect());
    world.router.buffered(waiting, 20 * KIB, Some(500 * KIB));
    world.router.buffered(header_only, 2, Some(2));
    assert_eq!(world.router.reading(waiting), Reading::Held);
    assert_eq!(world.router.reading(header_only), Reading::UpTo(2));
    world.router.buffered(header_only, 4, Some(10 * 1024 * KIB));
    world.turn();
    assert_eq!(world.router.reading(waiting), Reading::UpTo(500 * KIB));
    world.end();
}

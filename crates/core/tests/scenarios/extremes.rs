//! The least and the largest values that a configuration may have: the bus is smaller or larger, and
//! still a bus. (The ranges are those of the daemon's table of keys.)

use core::time::Duration;

use hermes_bus_core::Config;

use crate::world::World;

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

fn smallest(config: &mut Config) {
    config.heartbeat = Duration::from_secs(1);
    config.frame_deadline = Duration::from_secs(1);
    config.linger = Duration::ZERO;
    config.drain = Duration::ZERO;
    config.answer = Duration::from_millis(10);
    config.stall = Duration::from_millis(10);
    config.intake_bytes_user_max = MIB;
    config.intake_bytes_total_max = MIB;
    config.queue_bytes_max = 64 * KIB;
    config.queue_bytes_user_max = 64 * KIB;
    config.queue_bytes_total_max = 64 * KIB;
    config.queue_bytes_reserved = 4 * KIB;
    config.held_bytes_max = 0;
    config.held_bytes_total_max = 0;
    config.answer_bytes_max = 4 * KIB;
    config.answer_bytes_total_max = 64 * KIB;
}

fn largest(config: &mut Config) {
    let day = Duration::from_secs(24 * 3_600);
    let tebibyte = MIB * MIB;
    config.heartbeat = day;
    config.frame_deadline = Duration::from_secs(3_600);
    config.linger = Duration::from_secs(3_600);
    config.drain = Duration::from_secs(60);
    config.answer = Duration::from_millis(900);
    config.stall = Duration::from_secs(60);
    config.intake_bytes_user_max = tebibyte;
    config.intake_bytes_total_max = tebibyte;
    config.queue_bytes_max = tebibyte;
    config.queue_bytes_user_max = tebibyte;
    config.queue_bytes_total_max = tebibyte;
    config.queue_bytes_reserved = 16 * MIB;
    config.held_bytes_max = tebibyte;
    config.held_bytes_total_max = tebibyte;
    config.answer_bytes_max = tebibyte;
    config.answer_bytes_total_max = tebibyte;
}

#[test]
fn a_bus_of_the_smallest_limits_still_carries_the_largest_message() {
    let mut world = World::with(smallest);
    let (reader, sender) = (world.register("reader"), world.register("sender"));
    let body = "x".repeat(9 * MIB);
    for _ in 0..3 {
        world.message(sender, "reader", body.as_str());
        world.message(sender, "reader", "small");
        assert_eq!(world.bodies(reader), [body.as_str(), "small"]);
    }
    assert_eq!(world.counters().dropped(), 0);
    world.end();
}

#[test]
fn with_the_smallest_limits_what_does_not_fit_is_counted_and_the_rest_goes_on() {
    let mut world = World::with(smallest);
    let (slow, reader) = (world.register("slow"), world.register("reader"));
    let sender = world.register("sender");
    world.stop_reading(slow, 0);
    for number in 0..4 {
        world.message(sender, "slow", "x".repeat(60 * KIB));
        world.pass_ms(10);
        world.message(sender, "reader", number);
    }
    assert_eq!(world.bodies(reader), [0, 1, 2, 3]);
    assert_eq!(world.counters().dropped_receiver_stalled, 3, "one waits, three were too many");
    world.read_on(slow);
    world.pass_ms(1);
    assert_eq!(world.bodies(slow).len(), 1);
    world.message(sender, "slow", "again");
    assert_eq!(world.bodies(slow), ["again"]);
    world.end();
}

#[test]
fn without_linger_and_room_to_hold_a_name_is_gone_at_once() {
    let mut world = World::with(smallest);
    let (away, sender) = (world.register("away"), world.register("sender"));
    world.stop_reading(away, 0);
    world.message(sender, "away", "not read");
    world.hang_up(away);
    world.pass_ms(0);
    world.message(sender, "away", "too late");
    let (back, bodies) = world.register_and_take("away");
    assert!(bodies.is_empty(), "{bodies:?}");
    world.message(sender, "away", "new");
    assert_eq!(world.bodies(back), ["new"]);
    assert_eq!(world.router.usage().held, 0);
    world.end();
}

#[test]
fn a_bus_of_the_largest_limits_keeps_its_clocks() {
    let mut world = World::with(largest);
    let (away, sender) = (world.register("away"), world.register("sender"));
    world.hang_up(away);
    world.message(sender, "away", "held");
    world.pass(Duration::from_secs(3_599));
    let (_, bodies) = world.register_and_take("away");
    assert_eq!(bodies, ["held"]);
    world.pass(Duration::from_secs(24 * 3_600));
    assert!(world.endpoints().is_empty(), "silent for a day");
    world.pass(Duration::from_secs(3_600));
    world.end();
}

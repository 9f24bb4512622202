//! A name whose session ended a moment ago.

use serde_json::json;

use crate::world::World;

#[test]
fn messages_for_a_name_that_is_away_for_a_moment_wait_for_it_in_order() {
    let mut world = World::new();
    let (away, sender) = (world.register("away"), world.register("sender"));
    world.stop_reading(away, 0);
    world.message(sender, "away", "not read");
    world.hang_up(away);
    assert_eq!(world.endpoints(), ["sender"], "it is not listed");
    world.message(sender, "away", "sent meanwhile");
    world.message(sender, "", "a broadcast");
    world.pass_ms(2_900);
    let (back, bodies) = world.register_and_take("away");
    assert_eq!(bodies, ["not read", "sent meanwhile"], "a broadcast does not wait");
    world.message(sender, "away", "new");
    assert_eq!(world.bodies(back), ["new"]);
    assert_eq!(world.counters().held_delivered, 2);
    world.end();
}

#[test]
fn nobody_comes_back_and_it_is_counted() {
    let mut world = World::new();
    let (away, sender) = (world.register("away"), world.register("sender"));
    world.hang_up(away);
    world.message(sender, "away", 1);
    world.message(sender, "away", 2);
    world.pass_ms(3_000);
    assert_eq!(world.counters().dropped_receiver_gone, 2);
    assert_eq!(world.router.usage().held, 0);
    let (_, bodies) = world.register_and_take("away");
    assert!(bodies.is_empty());
    world.end();
}

#[test]
fn an_anonymous_sender_hears_after_700_ms_that_the_endpoint_is_gone() {
    let mut world = World::new();
    let (away, script) = (world.register("away"), world.connect());
    world.hang_up(away);
    world.pass_ms(500);
    world.send(script, &json!({"type": "message", "to": "away", "id": "i", "body": 1}));
    world.pass_ms(699);
    assert!(world.take(script).is_empty(), "nothing is said before it is decided");
    world.pass_ms(1);
    assert_eq!(
        world.take(script),
        [json!({"type": "error", "code": "endpoint_not_found",
                "detail": "Endpoint 'away' is not connected", "id": "i"})]
    );
    let (_, bodies) = world.register_and_take("away");
    assert!(bodies.is_empty(), "what was refused is not delivered after all");
    assert_eq!(world.counters().dropped(), 0, "refused, not dropped");
    world.end();
}

#[test]
fn an_anonymous_sender_hears_of_the_delivery_when_the_endpoint_is_back_in_time() {
    let mut world = World::new();
    let (away, script) = (world.register("away"), world.connect());
    world.hang_up(away);
    world.send(script, &json!({"type": "message", "to": "away", "id": 5, "body": 1}));
    world.pass_ms(300);
    let (_, bodies) = world.register_and_take("away");
    assert_eq!(bodies, [1]);
    assert_eq!(world.take(script), [json!({"type": "receipt", "id": 5, "status": "delivered"})]);
    world.end();
}

#[test]
fn a_sender_that_did_not_wait_has_its_message_held_for_the_whole_linger() {
    let mut world = World::new();
    let (away, script) = (world.register("away"), world.connect());
    world.hang_up(away);
    world.message(script, "away", "from a script that has gone");
    world.hang_up(script);
    world.pass_ms(2_500);
    let (_, bodies) = world.register_and_take("away");
    assert_eq!(bodies, ["from a script that has gone"]);
    world.end();
}

#[test]
fn a_half_closed_sender_still_hears_the_end_of_the_story() {
    let mut world = World::new();
    let (away, script) = (world.register("away"), world.connect());
    world.hang_up(away);
    world.put(script, &[r#"{"type":"message","to":"away","id":1}"#]);
    world.half_close(script);
    assert_eq!(world.closed(script), None, "its answer is still to come");
    world.pass_ms(700);
    assert_eq!(world.take(script)[0]["code"], "endpoint_not_found");
    assert!(world.closed(script).is_some());
    world.end();
}

#[test]
fn older_messages_make_room_and_are_counted() {
    let mut world = World::with(|config| config.held_bytes_max = 10_000);
    let (away, sender) = (world.register("away"), world.register("sender"));
    world.hang_up(away);
    for n in 0..20 {
        let filling = "x".repeat(900);
        world.message(sender, "away", json!([n, filling]));
    }
    world.message(sender, "away", "y".repeat(20_000));
    assert!(world.router.usage().held <= 10_000);
    let (_, bodies) = world.register_and_take("away");
    let numbers: Vec<i64> = bodies.iter().filter_map(|body| body[0].as_i64()).collect();
    assert!(!numbers.is_empty());
    assert_eq!(numbers, (20 - numbers.len() as i64..20).collect::<Vec<_>>(), "the newest ones");
    let kept = bodies.len() as u64;
    assert_eq!(world.counters().dropped_held_overflow, 21 - kept);
    world.end();
}

#[test]
fn held_messages_of_all_names_have_a_limit_together() {
    let mut world = World::with(|config| config.held_bytes_total_max = 5_000);
    let sender = world.register("sender");
    for name in ["a", "b", "c"] {
        let key = world.register(name);
        world.hang_up(key);
        for _ in 0..3 {
            world.message(sender, name, "z".repeat(900));
        }
        assert!(world.router.usage().held <= 5_000);
    }
    assert!(world.counters().dropped_held_overflow > 0);
    world.end();
}

#[test]
fn what_a_half_closed_receiver_does_not_read_goes_to_its_next_session_first() {
    let mut world = World::new();
    let (old, sender) = (world.register("old"), world.register("sender"));
    world.stop_reading(old, 0);
    world.message(sender, "old", 1);
    world.half_close(old);
    world.message(sender, "old", 2);
    let (_, bodies) = world.register_and_take("old");
    assert_eq!(bodies, [1, 2]);
    world.end();
}

#[test]
fn what_a_half_closed_receiver_does_not_read_in_time_waits_in_front_of_newer_messages() {
    let mut world = World::with(|config| config.linger = std::time::Duration::from_secs(5));
    let (old, sender) = (world.register("old"), world.register("sender"));
    world.stop_reading(old, 0);
    world.message(sender, "old", 1);
    world.half_close(old);
    world.message(sender, "old", 2);
    world.pass_ms(2_000);
    assert!(world.closed(old).is_some());
    let (_, bodies) = world.register_and_take("old");
    assert_eq!(bodies, [1, 2]);
    world.end();
}

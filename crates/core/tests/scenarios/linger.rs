//! A name whose session ended a moment ago.

use std::time::Duration;

use hermes_bus_core::{Event, HELD_OVERHEAD_BYTES, SessionKey};
use serde_json::{Value, json};

use crate::world::World;

/// A body that makes a held message take a little more than so many bytes.
fn sized(number: usize, bytes: usize) -> Value {
    json!([number, "x".repeat(bytes - HELD_OVERHEAD_BYTES)])
}

fn numbers(bodies: &[Value]) -> Vec<u64> {
    bodies.iter().filter_map(|body| body[0].as_u64()).collect()
}

/// How many messages the log says could not be held for each name.
fn overflows(world: &World) -> Vec<(&str, u64)> {
    let overflows = world.log.iter().filter_map(|event| match event {
        Event::HeldOverflow { name, messages } => Some((name.as_str(), *messages)),
        _ => None,
    });
    overflows.collect()
}

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
    let mut world = World::with(|config| config.linger = Duration::from_secs(5));
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

// ---- senders that are done ------------------------------------------------------------------------

#[test]
fn a_sender_that_is_done_is_let_go_when_all_its_messages_are_handed_over() {
    let mut world = World::new();
    let (away, script) = (world.register("away"), world.connect());
    world.hang_up(away);
    world.message(script, "away", 1);
    world.pass_ms(400);
    world.put(script, &[r#"{"type":"message","to":"away","body":2}"#]);
    world.put(script, &[r#"{"type":"message","to":"away","body":3}"#]);
    world.half_close(script);
    world.pass_ms(300);
    let refused = world.take(script);
    assert_eq!(refused.len(), 1, "the first one has waited long enough: {refused:?}");
    world.pass_ms(399);
    assert_eq!(world.closed(script), None, "two are still open");
    let (_, bodies) = world.register_and_take("away");
    assert_eq!(bodies, [2, 3]);
    world.assert_let_go(script);
    world.end();
}

#[test]
fn a_sender_that_is_done_and_gets_no_receipt_is_let_go_all_the_same() {
    let mut world = World::new();
    let (away, script) = (world.register("away"), world.connect());
    world.hang_up(away);
    // The second message is on its way when the first one's turn ends, so there is no receipt.
    world.has_more_input(script);
    world.message(script, "away", 1);
    world.put(script, &[r#"{"type":"message","to":"away","body":2}"#]);
    world.half_close(script);
    assert_eq!(world.closed(script), None);
    let (_, bodies) = world.register_and_take("away");
    assert_eq!(bodies, [1, 2]);
    assert!(world.take(script).is_empty());
    world.assert_let_go(script);
    world.end();
}

#[test]
fn a_sender_that_reads_no_more_is_let_go_when_it_would_have_heard() {
    let mut world = World::with(|config| config.linger = Duration::from_secs(5));
    let (away, script) = (world.register("away"), world.connect());
    world.hang_up(away);
    world.message(script, "away", "held on");
    world.half_close(script);
    world.go_deaf(script);
    world.pass_ms(699);
    assert_eq!(world.closed(script), None);
    world.pass_ms(1);
    world.assert_let_go(script);
    let (_, bodies) = world.register_and_take("away");
    assert_eq!(bodies, ["held on"], "nobody waits for an answer, so the message may wait");
    world.end();
}

#[test]
fn who_cannot_hear_of_a_message_does_not_wait_for_it_when_it_goes_back_to_its_name() {
    type Change = fn(&mut World, SessionKey);
    let registers: Change = |world, script| {
        world.send(script, &json!({"type": "register", "endpoint": "script"}));
        assert_eq!(world.take(script).pop().expect("an answer")["type"], "registered");
    };
    let goes_deaf: Change = |world, script| world.go_deaf(script);
    for change in [registers, goes_deaf] {
        let mut world = World::new();
        let (away, script) = (world.register("away"), world.connect());
        world.stop_reading(away, 0);
        // All of this in one moment: the message is queued, and its sender might wait for this turn.
        world.message(script, "away", "goes back");
        change(&mut world, script);
        world.hang_up(away);
        world.half_close(script);
        world.assert_let_go(script);
        world.pass_ms(2_900);
        let (_, bodies) = world.register_and_take("away");
        assert_eq!(bodies, ["goes back"], "held for the whole linger");
        assert_eq!(world.counters().refused_endpoint_not_found, 0);
        world.end();
    }
}

// ---- more than can be held ------------------------------------------------------------------------

/// "away" ends with messages of these sizes that it has not read; they are numbered from 0.
fn leaves_unread(world: &mut World, sizes: &[usize]) {
    let (away, sender) = (world.register("away"), world.register("sender"));
    world.stop_reading(away, 0);
    for (n, bytes) in sizes.iter().enumerate() {
        world.message(sender, "away", sized(n, *bytes));
    }
    world.hang_up(away);
}

#[test]
fn of_what_a_session_leaves_unread_the_newest_are_held() {
    let mut world = World::with(|config| config.held_bytes_max = 10_000);
    leaves_unread(&mut world, &[1_000; 20]);
    assert!(world.router.usage().held <= 10_000);
    let (_, bodies) = world.register_and_take("away");
    let kept = bodies.len() as u64;
    assert!((8..=9).contains(&kept), "as many as fit: {kept}");
    assert_eq!(numbers(&bodies), (20 - kept..20).collect::<Vec<_>>());
    assert_eq!(world.counters().dropped_held_overflow, 20 - kept);
    assert_eq!(overflows(&world), [("away", 20 - kept)], "logged once");
    world.end();
}

#[test]
fn nothing_is_held_that_is_older_than_what_did_not_fit() {
    let mut world = World::with(|config| config.held_bytes_max = 10_000);
    leaves_unread(&mut world, &[1_000, 6_000, 6_000, 1_000]);
    let (_, bodies) = world.register_and_take("away");
    assert_eq!(numbers(&bodies), [2, 3], "the first one would fit, but the second is lost");
    assert_eq!(world.counters().dropped_held_overflow, 2);
    assert_eq!(overflows(&world), [("away", 2)]);
    world.end();
}

#[test]
fn one_that_can_never_be_held_is_lost_alone() {
    let mut world = World::with(|config| config.held_bytes_max = 10_000);
    leaves_unread(&mut world, &[1_000, 1_000, 10_001, 1_000]);
    let (_, bodies) = world.register_and_take("away");
    assert_eq!(numbers(&bodies), [0, 1, 3]);
    assert_eq!(overflows(&world), [("away", 1)]);
    world.end();
}

#[test]
fn what_a_session_leaves_unread_drives_out_nothing_that_came_since() {
    let mut world = World::with(|config| {
        config.linger = Duration::from_secs(5);
        config.held_bytes_max = 10_000;
    });
    let (away, sender) = (world.register("away"), world.register("sender"));
    world.stop_reading(away, 0);
    for (n, bytes) in [1_000, 3_000, 3_000].into_iter().enumerate() {
        world.message(sender, "away", sized(n, bytes));
    }
    world.half_close(away);
    world.message(sender, "away", sized(3, 5_000));
    world.pass_ms(2_000);
    assert!(world.closed(away).is_some(), "it has had its time to read");
    let (_, bodies) = world.register_and_take("away");
    assert_eq!(numbers(&bodies), [2, 3]);
    assert_eq!(world.counters().dropped_held_overflow, 2);
    world.end();
}

#[test]
fn no_message_makes_room_in_vain_for_one_that_others_leave_no_room_for() {
    let mut world = World::with(|config| config.held_bytes_total_max = 10_000);
    let (sender, script) = (world.register("sender"), world.connect());
    for name in ["greedy", "modest"] {
        let key = world.register(name);
        world.hang_up(key);
    }
    world.message(sender, "greedy", sized(0, 7_000));
    world.message(sender, "modest", sized(1, 800));
    world.message(sender, "modest", sized(2, 800));
    let held_before = world.router.usage().held;
    world.message(sender, "modest", sized(3, 4_000));
    assert_eq!(world.router.usage().held, held_before);
    assert_eq!(overflows(&world), [("modest", 1)], "the new one alone");
    world.message(script, "modest", sized(4, 4_000));
    assert_eq!(world.take(script)[0]["code"], "endpoint_not_found", "at once");
    assert_eq!(world.counters().dropped_held_overflow, 1, "refused, not dropped");
    world.message(sender, "modest", sized(5, 1_000));
    let (_, bodies) = world.register_and_take("modest");
    assert_eq!(numbers(&bodies), [2, 5], "the older one has made room for one that fits then");
    let (_, bodies) = world.register_and_take("greedy");
    assert_eq!(numbers(&bodies), [0], "another name's message never makes room");
    world.end();
}

#[test]
fn a_smaller_total_makes_nothing_make_room_in_vain() {
    let mut world = World::with(|config| config.held_bytes_total_max = 10_000);
    let sender = world.register("sender");
    for name in ["greedy", "modest"] {
        let key = world.register(name);
        world.hang_up(key);
    }
    world.message(sender, "greedy", sized(0, 7_000));
    world.message(sender, "modest", sized(1, 800));
    world.message(sender, "modest", sized(2, 800));
    let mut config = world.router.config().clone();
    config.held_bytes_total_max = 5_000;
    world.router.configure(config);
    let held_before = world.router.usage().held;
    world.message(sender, "modest", sized(3, 700));
    assert_eq!(world.router.usage().held, held_before, "there is no room, whoever makes some");
    let (_, bodies) = world.register_and_take("modest");
    assert_eq!(numbers(&bodies), [1, 2]);
    world.end();
}

// ---- heirs that do not stay -----------------------------------------------------------------------

#[test]
fn a_script_hears_that_its_message_is_delivered_when_two_register_in_the_turn_that_it_waits_for() {
    let mut world = World::new();
    let (away, script) = (world.register("away"), world.connect());
    world.hang_up(away);
    world.message(script, "away", "once");
    world.pass_ms(300);
    let (first, second) = (world.connect(), world.connect());
    world.put(first, &[r#"{"type":"register","endpoint":"away"}"#]);
    world.put(second, &[r#"{"type":"register","endpoint":"away"}"#]);
    world.turn();
    assert!(world.bodies(first).is_empty());
    assert_eq!(world.bodies(second), ["once"]);
    assert_eq!(world.take(script)[0]["status"], "delivered");
    world.end();
}

#[test]
fn a_script_is_told_of_no_loss_while_its_message_is_held_for_the_next_heir() {
    let mut world = World::new();
    let (away, script) = (world.register("away"), world.connect());
    world.hang_up(away);
    world.message(script, "away", "once");
    world.pass_ms(300);
    let first = world.connect();
    world.put(first, &[r#"{"type":"register","endpoint":"away"}"#]);
    world.put_hang_up(first);
    world.turn();
    assert!(world.take(script).is_empty(), "its fate is open");
    let (_, bodies) = world.register_and_take("away");
    assert_eq!(bodies, ["once"]);
    assert_eq!(world.take(script)[0]["status"], "delivered");
    world.end();
}

//! Two things at once: sessions end, move and come back while the disk is being read, or in the middle
//! of a message.

use hermes_bus_core::storage::Order;
use serde_json::{Value, json};

use crate::shelf::briefly;
use crate::world::World;

/// A bus with a disk.
fn durable() -> World {
    World::with(|config| config.store = true)
}

/// Sends messages that are kept, numbered from 1.
fn keep_many(world: &mut World, from: hermes_bus_core::SessionKey, to: &str, count: u64) {
    for n in 1..=count {
        let id = format!("m{n}");
        world.ask(from, to, json!({"id": id, "receipt": "stored", "body": n}));
    }
    world.sync();
}

#[test]
fn what_expires_while_it_is_being_read_expires_once() {
    let mut world = durable();
    let a = world.join("a", json!({}));
    let b = world.connect();
    world.stop_reading(b, 0);
    world.send(b, &json!({"type": "register", "endpoint": "b", "protocol": 2, "mailbox": true}));
    // The first one fills the queue of a session that does not acknowledge; the other one waits in
    // memory behind it.
    world.ask(a, "b", json!({"id": "m1", "queue": true, "body": "x".repeat(60_000)}));
    world.ask(a, "b", json!({"id": "m2", "receipt": "acked", "ttl_s": 1, "body": 2}));
    world.sync();
    // The session leaves: the first one is on disk only, and is read for the next session.
    world.hang_up(b);
    let b = world.join("b", json!({"mailbox": true, "ack": true}));
    assert!(world.orders.iter().any(|(_, order)| matches!(order, Order::Load { .. })));
    world.pass_ms(1_100);
    world.sync();
    let ids: Vec<Value> = world.take(b).iter().map(|frame| frame["id"].clone()).collect();
    assert_eq!(ids, [json!("m1")]);
    assert_eq!(briefly(&world.take(a)), ["error m2 expired"]);
    assert_eq!((world.counters().expired, world.shelf.dead.len()), (1, 1));
    world.send(b, &json!({"type": "ack", "ids": ["m1"]}));
    world.sync();
    world.end_with_mailboxes();
}

#[test]
fn what_a_session_left_in_memory_is_not_read_from_disk_as_well() {
    let mut world = durable();
    let (a, b) = (world.join("a", json!({})), world.register("b"));
    world.hang_up(b);
    world.pass_ms(4_000);
    // More than is read from disk at a time.
    let body = "x".repeat(60_000);
    for n in 1..=45 {
        let members = json!({"id": format!("m{n}"), "queue": true, "body": format!("{n} {body}")});
        world.ask(a, "b", members);
    }
    world.sync();
    let mut world = world.crash();
    // It reads so much that the rest is in memory, but is not known to have read it, and leaves.
    let b = world.connect();
    world.stop_reading(b, 20 * 60_200);
    world.send(b, &json!({"type": "register", "endpoint": "b"}));
    for _ in 0..5 {
        world.sync();
    }
    world.hang_up(b);
    let b = world.connect();
    world.send(b, &json!({"type": "register", "endpoint": "b", "protocol": 2, "ack": true}));
    let mut ids = Vec::new();
    for _ in 0..60 {
        world.sync();
        for frame in world.take(b).iter().filter(|frame| frame["type"] == "message") {
            ids.push(frame["id"].as_str().expect("an id").to_owned());
            world.send(b, &json!({"type": "ack", "seqs": [frame["seq"]]}));
        }
    }
    let all: Vec<String> = (1..=45).map(|n| format!("m{n}")).collect();
    assert_eq!(ids, all, "each once, in order");
    world.end();
}

#[test]
fn what_moved_to_another_member_is_not_looked_for_where_it_was() {
    let mut world = durable();
    let a = world.join("a", json!({}));
    let options = json!({"ack": true, "mailbox": true, "groups": ["workers"]});
    let one = world.join("one", options.clone());
    world.message(a, "one", 0);
    world.ask(a, "@workers", json!({"id": "m1", "receipt": "acked", "ttl_s": 1, "body": 1}));
    world.sync();
    assert_eq!(briefly(&world.take(one)), ["message 0", "message 1"]);
    let two = world.join("two", options);
    // The disk is asked what has expired, and finds also what a receiver holds. Before it answers, that
    // receiver is gone: what is its own is on disk only now, and the group's message has moved.
    world.pass_ms(61_000);
    assert!(world.orders.iter().any(|(_, order)| matches!(order, Order::LoadOverdue { .. })));
    world.hang_up(one);
    world.pass_ms(4_000);
    world.sync();
    assert_eq!(briefly(&world.take(a)), ["error m1 expired"]);
    assert_eq!((world.counters().expired, world.shelf.dead.len()), (1, 1));
    assert_eq!(world.take(two).len(), 0);
    world.end_with_mailboxes();
}

#[test]
fn a_message_that_moves_into_a_mailbox_is_missed_if_nobody_takes_it() {
    let mut world = World::with(|config| {
        config.store = true;
        config.deliveries_max = 2;
    });
    let a = world.register("a");
    let one = world.join("one", json!({"ack": true, "groups": ["workers"]}));
    world.message(a, "@workers", 1);
    assert_eq!(briefly(&world.take(one)), ["message 1"]);
    let two = world.join("two", json!({"ack": true, "mailbox": true, "groups": ["workers"]}));
    world.hang_up(one);
    assert_eq!(briefly(&world.take(two)), ["message 1 again:2"]);
    world.hang_up(two);
    world.sync();
    let reasons: Vec<&str> = world.shelf.dead.iter().map(|dead| dead.reason.as_str()).collect();
    assert_eq!(reasons, ["deliveries_exceeded"]);
    world.end_with_mailboxes();
}

#[test]
fn who_cannot_be_passed_on_disk_is_not_waited_for() {
    let mut world = World::with(|config| {
        config.store = true;
        config.mailbox_bytes_max = 3_000;
    });
    let (a, c) = (world.join("a", json!({})), world.register("c"));
    let b = world.join("b", json!({"ack": true, "mailbox": true, "in_flight": 1}));
    world.hang_up(b);
    world.pass_ms(4_000);
    keep_many(&mut world, a, "b", 50);
    assert!(world.counters().refused_mailbox_full > 0);
    world.take(a);
    // Its next session has no mailbox, and what waits on disk is still to be read: it cannot be passed,
    // and cannot become more.
    let b = world.join("b", json!({"ack": true, "in_flight": 1}));
    world.ask(a, "b", json!({"id": "no", "body": "x".repeat(200)}));
    world.ask(a, "c", json!({"id": "other", "body": 2}));
    assert_eq!(briefly(&world.take(a)), ["error no over_limit"]);
    assert_eq!(world.bodies(c), [json!(2)], "at once");
    assert_eq!(world.counters().dropped_receiver_stalled, 1);
    world.sync();
    while !world.take(b).is_empty() {
        world.send(b, &json!({"type": "ack", "up_to": 1_u64 << 52}));
        world.sync();
    }
    world.end();
}

#[test]
fn what_is_inherited_in_two_forms_keeps_its_order() {
    let mut world = durable();
    let a = world.register("a");
    let b = world.join("b", json!({}));
    world.stop_reading(b, 0);
    world.message(a, "b", 1);
    world.hang_up(b);
    world.message(a, "b", 2);
    let (_, bodies) = world.register_and_take("b");
    assert_eq!(bodies, [json!(1), json!(2)]);
    world.end();
}

#[test]
fn a_script_s_message_that_waits_behind_the_disk_is_accepted_when_its_receiver_is_replaced() {
    let mut world = durable();
    let a = world.join("a", json!({}));
    let b = world.join("b", json!({}));
    world.ask(a, "b", json!({"id": "m1", "queue": true, "body": 1}));
    world.sync();
    assert_eq!(briefly(&world.take(b)), ["message 1"], "but nobody knows that it was read");
    let (script, heir) = (world.connect(), world.connect());
    // In one turn: the script's message comes, and another session takes the name.
    world.put(script, &[r#"{"type":"message","id":"m2","to":"b","body":2}"#]);
    world.put(heir, &[r#"{"type":"register","endpoint":"b"}"#]);
    world.turn();
    assert_eq!(briefly(&world.take(script)), ["receipt m2 accepted"]);
    world.sync();
    assert_eq!(briefly(&world.take(heir)), ["registered", "message 1", "message 2"]);
    world.router.has_read_all(heir);
    world.sync();
    world.end();
}

#[test]
fn a_spilled_message_that_had_begun_to_leave_is_not_given_to_the_next_session() {
    let mut world = World::with(|config| {
        config.store = true;
        config.queue_bytes_max = 2_000;
    });
    let a = world.register("a");
    let b = world.join("b", json!({}));
    world.stop_reading(b, 0);
    for n in 0..40 {
        world.message(a, "b", format!("{n} {}", "x".repeat(100)));
    }
    assert!(world.counters().spilled > 10, "{:?}", world.counters());
    let number =
        |frame: &Value| frame["body"].as_str().and_then(|b| b.split_once(' ')?.0.parse().ok());
    // It reads, until it is in the middle of one that was on disk.
    let mut seen: Vec<u64> = Vec::new();
    while seen.last().is_none_or(|newest| *newest < 30) {
        world.read_some(b, 90);
        world.sync();
        seen.extend(world.take(b).iter().filter_map(number));
    }
    world.read_some(b, 70);
    let (heir, frames) = world.join_and_take("b", json!({}));
    world.read_on(b);
    seen.extend(world.take(b).iter().filter_map(number));
    let mut heirs: Vec<u64> = frames.iter().filter_map(number).collect();
    world.sync();
    heirs.extend(world.take(heir).iter().filter_map(number));
    let all: Vec<u64> = seen.iter().chain(&heirs).copied().collect();
    assert_eq!(all, (0..40).collect::<Vec<u64>>(), "each once: {seen:?}, then {heirs:?}");
    world.sync();
    world.end();
}

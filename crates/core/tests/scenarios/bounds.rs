//! Nothing grows without a bound: memory, the disk's quota, the work of one turn.

use serde_json::{Value, json};

use crate::shelf::briefly;
use crate::world::World;

#[test]
fn receipts_of_topics_count_among_those_that_are_waited_for() {
    let mut world = World::with(|config| config.receipts_waiting_max = 3);
    let reader = world.join("reader", json!({"topics": ["news"]}));
    let sender = world.join("sender", json!({}));
    world.stop_reading(reader, 0);
    let publish = |world: &mut World, id: u32| {
        world.ask(sender, "#news", json!({"id": id.to_string(), "receipt": "delivered"}));
    };
    (1..=4).for_each(|id| publish(&mut world, id));
    assert_eq!(briefly(&world.take(sender)), ["error 4 over_limit"]);
    world.read_on(reader);
    let told = briefly(&world.take(sender));
    assert_eq!(told, ["receipt 1 delivered", "receipt 2 delivered", "receipt 3 delivered"]);
    assert_eq!(world.router.usage().receipts, 0);
    // Those that were told count no more.
    (5..=20).for_each(|id| publish(&mut world, id));
    assert_eq!(world.take(sender).len(), 16);
    assert_eq!(world.counters().refused_messages, 1);
    world.end();
}

#[test]
fn a_receipt_that_comes_too_late_is_told_once_and_forgotten() {
    let mut world = World::new();
    let reader = world.join("reader", json!({"topics": ["news"]}));
    let sender = world.join("sender", json!({}));
    world.stop_reading(reader, 0);
    world.ask(sender, "#news", json!({"id": "late", "receipt": "delivered"}));
    assert!(world.router.usage().receipts > 0);
    world.send(reader, &json!({"type": "ping"}));
    world.pass_ms(30_000);
    assert_eq!(briefly(&world.take(sender)), ["receipt late accepted"]);
    assert_eq!(world.router.usage().receipts, 0);
    world.read_on(reader);
    assert_eq!(world.take(sender), [] as [Value; 0]);
    world.end();
}

#[test]
fn the_receipts_that_one_connection_waits_for_are_bounded_in_bytes() {
    let mut world = World::with(|config| config.queue_bytes_max = 1 << 30);
    let reader = world.join("reader", json!({"ack": true, "in_flight": 65_536}));
    let sender = world.join("sender", json!({}));
    let other = world.join("other", json!({}));
    let long = "i".repeat(1_000);
    let mut refused = 0;
    for number in 0..20_000 {
        let id = format!("{number:05} {long}");
        world.put(
            sender,
            &[&json!({"type": "message", "to": "reader", "id": id, "receipt": "acked"})
                .to_string()],
        );
        if number % 500 == 0 {
            world.turn();
        }
    }
    world.turn();
    for frame in world.take(sender) {
        assert_eq!((&frame["type"], &frame["code"]), (&json!("error"), &json!("over_limit")));
        refused += 1;
    }
    // 16 MiB, with 128 bytes for each.
    assert_eq!(refused, 20_000 - (16 << 20) / (128 + 1_000 + 6 + 2));
    world.ask(other, "reader", json!({"id": "x", "receipt": "accepted"}));
    assert_eq!(briefly(&world.take(other)), ["receipt x accepted"], "others go on");
    world.hang_up(sender);
    assert_eq!(world.router.usage().receipts, 0);
    world.hang_up(reader);
    world.end();
}

/// Fills what a user may keep on disk, and shows that another user still has room, also in the next
/// process.
#[test]
fn one_user_does_not_fill_the_disk_of_all() {
    const OTHER: u32 = 2_000;
    let mut world = World::with(|config| {
        config.store = true;
        config.allow_uids = vec![OTHER];
        config.mailbox_bytes_user_max = 1_200;
        config.mailbox_bytes_total_max = 2_400;
    });
    for name in ["first", "second"] {
        let receiver = world.join(name, json!({"mailbox": true, "ack": true}));
        world.hang_up(receiver);
    }
    let (receiver, _) = world.join_as(OTHER, "theirs", json!({"mailbox": true, "ack": true}));
    world.hang_up(receiver);
    world.pass_ms(4_000);
    let sender = world.join("sender", json!({}));
    let mut sent = 0;
    let mut send = |world: &mut World, to: &str| {
        sent += 1;
        let body = format!("{sent} {}", "x".repeat(100));
        world.ask(sender, to, json!({"id": sent.to_string(), "body": body, "receipt": "stored"}));
        world.sync();
        world.take(sender).pop().expect("an answer")
    };
    let status =
        |frame: &Value| frame["status"].as_str().or(frame["code"].as_str()).map(String::from);
    for to in ["first", "first", "second"] {
        assert_eq!(status(&send(&mut world, to)).as_deref(), Some("stored"));
    }
    let refused = send(&mut world, "second");
    assert_eq!(status(&refused).as_deref(), Some("mailbox_full"));
    let detail = refused["detail"].as_str().expect("a text");
    assert!(detail.contains("for the endpoints of its user, of at most 1200"), "{detail}");
    assert_eq!(world.shelf.dead.len(), 1);
    assert_eq!(status(&send(&mut world, "theirs")).as_deref(), Some("stored"), "others go on");
    // What is on disk is whose it was, in the next process, too.
    let mut world = world.crash();
    let sender = world.join("sender", json!({}));
    for (to, answer) in [("first", "mailbox_full"), ("theirs", "stored")] {
        let body = "x".repeat(100);
        world.ask(sender, to, json!({"id": to, "body": body, "receipt": "stored"}));
        world.sync();
        let frame = world.take(sender).pop().expect("an answer");
        assert_eq!(status(&frame).as_deref(), Some(answer), "{to}");
    }
    // Who takes what waits makes room.
    let (first, frames) = world.join_and_take("first", json!({"mailbox": true, "ack": true}));
    let seqs: Vec<&Value> = frames.iter().map(|frame| &frame["seq"]).collect();
    world.sync();
    let more = world.take(first);
    let last = more.iter().map(|frame| &frame["seq"]).chain(seqs).filter_map(Value::as_u64).max();
    world.send(first, &json!({"type": "ack", "up_to": last}));
    world.sync();
    world.ask(sender, "second", json!({"id": "room", "receipt": "stored"}));
    world.sync();
    assert_eq!(briefly(&world.take(sender)), ["receipt room stored"]);
    world.end_with_mailboxes();
}

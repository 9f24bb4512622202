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

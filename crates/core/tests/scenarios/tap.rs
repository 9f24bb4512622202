//! Those who look on see every message that is routed, once, and nobody waits for them.

use hermes_bus_core::TapBatch;
use serde_json::{Value, json};

use crate::world::World;

fn seen(batch: &TapBatch) -> Vec<(Value, &'static str)> {
    let read = |payload: &[u8]| serde_json::from_slice::<Value>(payload).expect("JSON");
    batch.iter().map(|m| (read(&m.payload())["body"].clone(), m.outcome.as_str())).collect()
}

#[test]
fn every_message_is_seen_once_with_what_became_of_it() {
    let mut world = World::new();
    world.router.set_tap(Some(1 << 20));
    let (a, b) = (world.register("a"), world.register("b"));
    let script = world.connect();
    world.message(a, "b", "taken");
    world.message(a, "nobody", "nobody heard of it");
    world.message(script, "nobody", "refused");
    world.message(a, "", "for all");
    world.send(a, &json!({"type": "ping"}));
    world.send(a, &json!({"type": "list_endpoints"}));
    world.hang_up(b);
    world.message(a, "b", "held");
    world.pass_ms(1_000);
    let (_, bodies) = world.register_and_take("b");
    assert_eq!(bodies, ["held"]);
    let expected = [
        (json!("taken"), "accepted"),
        (json!("nobody heard of it"), "endpoint_not_found"),
        (json!("refused"), "endpoint_not_found"),
        (json!("for all"), "accepted"),
        (json!("held"), "held"),
    ];
    assert_eq!(seen(&world.router.take_tapped()), expected, "the held one once, not again");
    assert!(!world.router.has_tapped());
    world.end();
}

#[test]
fn it_is_seen_as_a_level_1_receiver_gets_it() {
    let mut world = World::new();
    world.router.set_tap(Some(1 << 20));
    let (a, b) = (world.register("a"), world.register("b"));
    world.send_text(a, r#"{"type":"message","to":"b","body":{"n":1.50}}"#);
    world.send_text(a, r#"{ "type": "message", "to": "b", "id": 7, "ts": null, "from": "x" }"#);
    let got = world.take_texts(b);
    let batch = world.router.take_tapped();
    let tapped: Vec<_> =
        batch.iter().map(|m| String::from_utf8_lossy(&m.payload()).into_owned()).collect();
    assert_eq!(tapped, got);
    world.end();
}

#[test]
fn a_message_whose_sender_is_kept_waiting_is_seen_once() {
    let mut world = World::with(|config| config.queue_bytes_max = 2_000);
    world.router.set_tap(Some(1 << 20));
    let (slow, sender) = (world.register("slow"), world.register("sender"));
    world.stop_reading(slow, 0);
    for number in 0..3 {
        world.message(sender, "slow", json!({"n": number, "fill": "x".repeat(900)}));
    }
    let before = world.router.take_tapped().len();
    assert!(before < 3, "the last one waits");
    world.pass_ms(2_000);
    let after = world.router.take_tapped();
    assert_eq!(before + after.len(), 3);
    assert_eq!(after.iter().last().map(|m| m.outcome.as_str()), Some("over_limit"));
    world.end();
}

#[test]
fn what_nobody_takes_is_bounded_and_the_oldest_goes_first() {
    let mut world = World::new();
    world.router.set_tap(Some(10_000));
    let a = world.register("a");
    for number in 0..1_000 {
        world.message(a, "nobody", number);
    }
    let batch = world.router.take_tapped();
    assert!(batch.bytes() <= 10_000 && batch.len() > 10, "{} bytes", batch.bytes());
    assert_eq!(batch.len() as u64 + batch.left_out(), 1_000);
    assert_eq!(seen(&batch).last().map(|(body, _)| body.clone()), Some(json!(999)));
    world.router.set_tap(None);
    world.message(a, "nobody", "unseen");
    assert!(!world.router.has_tapped());
    world.end();
}

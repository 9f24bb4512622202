//! The receipt that lets released one-shot senders return at once.

use serde_json::json;

use crate::world::World;

const TO_B: &str = r#"{"type":"message","to":"b","id":"i","body":1}"#;
const PING: &str = r#"{"type":"ping"}"#;

#[test]
fn the_first_message_of_an_anonymous_connection_is_answered_with_how_far_it_has_come() {
    let mut world = World::new();
    let (x, y, b) = (world.connect(), world.connect(), world.register("b"));
    world.send_text(x, TO_B);
    assert_eq!(world.take(x), [json!({"type": "receipt", "id": "i", "status": "delivered"})]);
    world.stop_reading(b, 10);
    world.send_text(y, TO_B);
    assert_eq!(world.take(y), [json!({"type": "receipt", "id": "i", "status": "accepted"})]);
    world.end();
}

#[test]
fn an_id_made_by_the_bus_is_the_one_that_the_receiver_sees() {
    let mut world = World::new();
    let (x, b) = (world.connect(), world.register("b"));
    world.message(x, "b", 1);
    assert_eq!(world.take(x)[0]["id"], world.take(b)[0]["id"]);
    world.end();
}

#[test]
fn a_broadcast_says_how_many_endpoints_it_went_to() {
    let mut world = World::new();
    let (x, y, z) = (world.connect(), world.connect(), world.connect());
    world.message(x, "", 1);
    let receipt = world.take(x).remove(0);
    assert_eq!((&receipt["status"], &receipt["endpoints"]), (&json!("accepted"), &json!(0)));
    let (a, _b) = (world.register("a"), world.register("b"));
    world.message(y, "", 1);
    let receipt = world.take(y).remove(0);
    assert_eq!((&receipt["status"], &receipt["endpoints"]), (&json!("delivered"), &json!(2)));
    world.stop_reading(a, 0);
    world.message(z, "", 1);
    let receipt = world.take(z).remove(0);
    assert_eq!((&receipt["status"], &receipt["endpoints"]), (&json!("accepted"), &json!(2)));
    world.end();
}

#[test]
fn who_sends_anything_else_with_it_reads_answers_by_position_and_gets_no_receipt() {
    let mut world = World::new();
    world.register("b");
    for frames in [[TO_B, PING], [PING, TO_B]] {
        let x = world.connect();
        world.write(x, &frames);
        assert_eq!(world.take(x), [json!({"type": "pong"})]);
    }
    let two = world.connect();
    world.write(two, &[TO_B, TO_B]);
    assert!(world.take(two).is_empty());
    let more = world.connect();
    world.has_more_input(more);
    world.send_text(more, TO_B);
    assert!(world.take(more).is_empty(), "more of it is in the socket already");
    let partial = world.connect();
    world.put(partial, &[TO_B]);
    world.router.buffered(partial, 3, Some(1));
    world.turn();
    assert!(world.take(partial).is_empty(), "a part of the next frame is there");
    world.router.buffered(partial, 0, None);
    world.end();
}

#[test]
fn only_the_first_message_is_receipted_and_not_after_an_error() {
    let mut world = World::new();
    world.register("b");
    let x = world.connect();
    world.send_text(x, PING);
    world.send_text(x, TO_B);
    world.send_text(x, TO_B);
    let kinds: Vec<_> = world.take(x).iter().map(|frame| frame["type"].clone()).collect();
    assert_eq!(kinds, ["pong", "receipt"]);
    let y = world.connect();
    world.message(y, "nobody", 1);
    world.send_text(y, TO_B);
    let kinds: Vec<_> = world.take(y).iter().map(|frame| frame["type"].clone()).collect();
    assert_eq!(kinds, ["error"]);
    world.end();
}

#[test]
fn registered_senders_never_get_one() {
    let mut world = World::new();
    let (a, _b) = (world.register("a"), world.register("b"));
    world.send_text(a, TO_B);
    assert!(world.take(a).is_empty());
    world.end();
}

#[test]
fn a_receiver_that_ends_in_the_same_turn_makes_no_false_receipt() {
    let mut world = World::new();
    let (x, b) = (world.connect(), world.register("b"));
    world.stop_reading(b, 0);
    // The sender was connected first, so its message is routed before the end is noticed.
    world.put(x, &[TO_B]);
    world.put_hang_up(b);
    world.turn();
    assert!(world.take(x).is_empty(), "the message is held: nothing is known yet");
    world.pass_ms(700);
    assert_eq!(world.take(x)[0]["code"], "endpoint_not_found");
    world.end();
}

#[test]
fn a_broadcast_whose_receiver_ends_in_the_same_turn_is_accepted_and_not_refused_later() {
    for to in [r#""to":"","#, ""] {
        let mut world = World::new();
        let (x, healthy, dying) =
            (world.connect(), world.register("healthy"), world.register("dying"));
        world.stop_reading(dying, 0);
        world.put(x, &[&format!("{{\"type\":\"message\",{to}\"id\":1,\"body\":1}}")]);
        world.put_hang_up(dying);
        world.turn();
        assert_eq!(world.bodies(healthy), [1]);
        let expected = json!({"type": "receipt", "id": 1, "status": "accepted", "endpoints": 2});
        assert_eq!(world.take(x), [expected]);
        world.pass_ms(5_000);
        assert!(world.take(x).is_empty());
        world.end();
    }
}

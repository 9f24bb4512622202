//! Delivery that is proven: acknowledgements, receipts, mailboxes, groups, topics.

use hermes_bus_core::storage::{Ending, Ticket};
use serde_json::json;

use crate::shelf::briefly;
use crate::world::{OWNER, World};

/// A place behind all messages.
const EVERYTHING: u64 = 1 << 52;

/// A bus with a disk.
fn durable() -> World {
    World::with(|config| config.store = true)
}

#[test]
fn a_session_of_level_2_is_welcomed_with_what_it_must_know() {
    let mut world = World::new();
    let (_, welcome) = world.join_and_take("a", json!({"req": 7}));
    let welcome = &welcome[0];
    assert_eq!(welcome["protocol"], 2);
    assert_eq!(welcome["req"], 7);
    assert_eq!(welcome["heartbeat_s"].as_f64(), Some(90.0));
    assert_eq!(welcome["payload_bytes_max"], 10 * 1024 * 1024);
    assert_eq!(welcome["mailbox_depth"], 0);
    world.end();
}

#[test]
fn a_message_carries_who_sent_it_as_the_kernel_says() {
    let mut world = World::new();
    let (a, b) = (world.register("a"), world.join("b", json!({"ack": true})));
    world.ask(a, "b", json!({"from": "the boss", "sender": {"uid": 0}, "seq": 9, "body": 1}));
    let message = &world.take(b)[0];
    assert_eq!(message["sender"], json!({"uid": OWNER, "pid": 7, "endpoint": "a"}));
    assert_eq!(message["from"], "the boss");
    assert_eq!(message["seq"], 1);
    assert_eq!(message.get("delivery"), None);
    world.end();
}

#[test]
fn an_acknowledgement_is_what_an_acked_receipt_says() {
    let mut world = World::new();
    let (a, b) = (world.join("a", json!({})), world.join("b", json!({"ack": true})));
    world.ask(a, "b", json!({"id": "m1", "receipt": "acked", "body": "x"}));
    assert_eq!(briefly(&world.take(a)), Vec::<String>::new(), "nobody has confirmed anything");
    let seq = world.take(b)[0]["seq"].clone();
    world.send(b, &json!({"type": "ack", "seqs": [seq]}));
    assert_eq!(briefly(&world.take(a)), ["receipt m1 acked"]);
    world.end();
}

#[test]
fn nobody_can_confirm_what_it_has_not_been_sent() {
    let mut world = World::new();
    let (a, b) = (world.join("a", json!({})), world.join("b", json!({"ack": true})));
    world.stop_reading(b, 0);
    world.ask(a, "b", json!({"id": "m1", "receipt": "acked", "body": "x"}));
    world.send(b, &json!({"type": "ack", "up_to": EVERYTHING}));
    assert_eq!(briefly(&world.take(a)), Vec::<String>::new());
    world.read_on(b);
    world.send(b, &json!({"type": "ack", "up_to": EVERYTHING}));
    assert_eq!(briefly(&world.take(a)), ["receipt m1 acked"]);
    world.end();
}

#[test]
fn a_delivered_receipt_waits_for_the_last_byte_in_the_socket() {
    let mut world = World::new();
    let (a, b) = (world.join("a", json!({})), world.register("b"));
    world.stop_reading(b, 40);
    world.ask(a, "b", json!({"id": "m1", "receipt": "delivered", "body": "x"}));
    assert_eq!(briefly(&world.take(a)), Vec::<String>::new());
    world.read_on(b);
    assert_eq!(briefly(&world.take(a)), ["receipt m1 delivered"]);
    world.end();
}

#[test]
fn a_receiver_that_cannot_acknowledge_is_said_to_be_one() {
    let mut world = World::new();
    let (a, _b) = (world.join("a", json!({})), world.register("b"));
    world.ask(a, "b", json!({"id": "m1", "receipt": "acked", "body": "x"}));
    let frames = world.take(a);
    assert_eq!(briefly(&frames), ["error m1 receipt_impossible"]);
    assert_eq!(frames[0]["status"], "delivered");
    world.end();
}

#[test]
fn an_error_says_no_more_to_who_speaks_level_1_than_it_knows() {
    let mut world = durable();
    let (old, _b) = (world.register("old"), world.register("b"));
    let script = world.connect();
    for sender in [old, script] {
        for ask in [json!({"receipt": "acked"}), json!({"receipt": "acked", "queue": true})] {
            let mut message = ask;
            message["id"] = json!("m1");
            world.ask(sender, "b", message);
            world.sync();
            let frames = world.take(sender);
            assert_eq!(briefly(&frames), ["error m1 receipt_impossible"]);
            let keys: Vec<&String> = frames[0].as_object().expect("an object").keys().collect();
            assert_eq!(keys, ["code", "detail", "id", "type"], "{frames:?}");
        }
    }
    world.end();
}

#[test]
fn a_receipt_is_given_only_for_an_id_of_a_size_that_can_be_kept() {
    let mut world = World::new();
    let (a, b) = (world.join("a", json!({})), world.join("b", json!({"ack": true})));
    // With its quotes it is as long as it may be.
    let (longest, too_long) = ("x".repeat(1_022), "x".repeat(1_023));
    for to in ["b", "#b", ""] {
        world.ask(a, to, json!({"id": too_long, "receipt": "acked", "body": 1}));
        let error = &world.take(a)[0];
        assert_eq!((&error["code"], &error["id"]), (&json!("invalid_field"), &json!(too_long)));
        let detail = "field 'id': a receipt is given for ids of at most 1024 bytes";
        assert_eq!(error["detail"], detail);
    }
    assert!(world.take(b).is_empty(), "it is not routed");
    world.ask(a, "b", json!({"id": too_long, "body": 2}));
    world.ask(a, "b", json!({"id": longest, "receipt": "delivered", "body": 3}));
    assert_eq!(briefly(&world.take(b)), ["message 2", "message 3"]);
    assert_eq!(briefly(&world.take(a)), [format!("receipt {longest} delivered")]);
    world.send(b, &json!({"type": "ack", "up_to": EVERYTHING}));
    world.end();
}

#[test]
fn from_level_1_a_message_with_a_long_id_is_passed_on_and_asks_for_no_receipt() {
    let mut world = World::new();
    let (old, b) = (world.register("old"), world.register("b"));
    let script = world.connect();
    let too_long = "x".repeat(1_023);
    for (sender, heard) in [(old, None), (script, Some("delivered"))] {
        // Who asks for no receipt does not hear that it is impossible.
        world.ask(sender, "b", json!({"id": too_long, "receipt": "acked", "body": 1}));
        assert_eq!(world.bodies(b), [json!(1)]);
        let frames = world.take(sender);
        let courtesy = frames.first().map(|frame| frame["status"].as_str().unwrap_or("none"));
        assert_eq!((courtesy, frames.len()), (heard, heard.iter().count()), "{frames:?}");
    }
    world.end();
}

#[test]
fn a_worker_takes_as_many_messages_as_it_has_asked_for() {
    let mut world = World::new();
    let a = world.register("a");
    let b = world.join("b", json!({"ack": true, "in_flight": 2}));
    for n in 1..=5 {
        world.message(a, "b", n);
    }
    assert_eq!(briefly(&world.take(b)), ["message 1", "message 2"]);
    world.send(b, &json!({"type": "ack", "up_to": EVERYTHING}));
    let frames = world.take(b);
    assert_eq!(briefly(&frames), ["message 3", "message 4"]);
    world.send(b, &json!({"type": "ack", "up_to": frames[0]["seq"]}));
    assert_eq!(briefly(&world.take(b)), ["message 5"]);
    world.send(b, &json!({"type": "ack", "up_to": EVERYTHING}));
    world.end();
}

#[test]
fn a_worker_dies_with_three_unacknowledged_messages_and_its_next_session_gets_them_first() {
    let mut world = World::new();
    let a = world.register("a");
    let b = world.join("b", json!({"ack": true}));
    for n in 1..=3 {
        world.message(a, "b", n);
    }
    let second = world.take(b)[1]["seq"].clone();
    world.send(b, &json!({"type": "ack", "seqs": [second]}));
    world.hang_up(b);
    world.message(a, "b", 4);
    let (b, frames) = world.join_and_take("b", json!({"ack": true}));
    let expected = ["registered", "message 1 again:2", "message 3 again:2", "message 4"];
    assert_eq!(briefly(&frames), expected);
    world.send(b, &json!({"type": "ack", "up_to": EVERYTHING}));
    world.end();
}

#[test]
fn without_a_mailbox_what_was_not_acknowledged_dies_with_the_linger() {
    let mut world = durable();
    let a = world.join("a", json!({}));
    let b = world.join("b", json!({"ack": true}));
    world.ask(a, "b", json!({"id": "m1", "receipt": "acked", "body": 1}));
    world.hang_up(b);
    world.pass_ms(2_900);
    assert_eq!(briefly(&world.take(a)), Vec::<String>::new());
    world.pass_ms(200);
    assert_eq!(briefly(&world.take(a)), ["error m1 receiver_gone"]);
    world.sync();
    assert_eq!(world.shelf.dead.len(), 1, "it asked for a receipt, so it is missed");
    world.end();
}

#[test]
fn a_message_that_is_given_back_comes_again_after_a_pause_that_doubles() {
    let mut world = World::new();
    let (a, b) = (world.register("a"), world.join("b", json!({"ack": true})));
    world.message(a, "b", "x");
    let seq = world.take(b)[0]["seq"].clone();
    let mut pause_ms = 1_000;
    for delivery in 2..=16 {
        world.send(b, &json!({"type": "nack", "seq": seq}));
        world.pass_ms(pause_ms - 1);
        assert_eq!(briefly(&world.take(b)), Vec::<String>::new(), "delivery {delivery}");
        world.pass_ms(1);
        assert_eq!(briefly(&world.take(b)), [format!("message x again:{delivery}")]);
        world.send(b, &json!({"type": "ping"}));
        assert_eq!(briefly(&world.take(b)), ["pong"]);
        pause_ms = (pause_ms * 2).min(60_000);
    }
    world.send(b, &json!({"type": "nack", "seq": seq}));
    world.pass_ms(80_000);
    assert_eq!(briefly(&world.take(b)), Vec::<String>::new(), "16 times are enough");
    assert_eq!(world.counters().given_up, 1);
    world.end();
}

#[test]
fn a_message_that_the_receiver_refuses_is_a_dead_letter_and_its_sender_hears_why() {
    let mut world = durable();
    let (a, b) = (world.join("a", json!({})), world.join("b", json!({"ack": true})));
    world.ask(a, "b", json!({"id": "m1", "receipt": "acked", "body": 1}));
    let seq = world.take(b)[0]["seq"].clone();
    let reason = "not my department";
    world.send(b, &json!({"type": "nack", "seq": seq, "requeue": false, "reason": reason}));
    let frames = world.take(a);
    assert_eq!(briefly(&frames), ["error m1 rejected"]);
    assert_eq!(frames[0]["detail"], reason);
    world.sync();
    assert_eq!(world.shelf.dead[0].detail, reason);
    world.end();
}

// ---- mailboxes --------------------------------------------------------------------------------------

#[test]
fn messages_wait_in_the_mailbox_of_an_endpoint_that_is_away() {
    let mut world = durable();
    let a = world.join("a", json!({}));
    let b = world.join("b", json!({"mailbox": true, "ack": true}));
    world.hang_up(b);
    world.pass_ms(10_000);
    for n in 1..=3 {
        world.ask(a, "b", json!({"id": format!("m{n}"), "receipt": "stored", "body": n}));
    }
    assert_eq!(briefly(&world.take(a)), Vec::<String>::new(), "nothing is on disk yet");
    world.sync();
    assert_eq!(
        briefly(&world.take(a)),
        ["receipt m1 stored", "receipt m2 stored", "receipt m3 stored"]
    );
    let (b, frames) = world.join_and_take("b", json!({"mailbox": true, "ack": true}));
    assert_eq!(frames[0]["mailbox_depth"], 3);
    world.sync();
    assert_eq!(briefly(&world.take(b)), ["message 1", "message 2", "message 3"]);
    world.send(b, &json!({"type": "ack", "up_to": EVERYTHING}));
    world.sync();
    assert!(world.shelf.records.is_empty());
    world.end_with_mailboxes();
}

#[test]
fn a_stored_message_survives_a_crash_and_says_that_it_may_have_come_before() {
    let mut world = durable();
    let a = world.join("a", json!({}));
    let b = world.join("b", json!({"mailbox": true, "ack": true}));
    world.ask(a, "b", json!({"id": "m1", "receipt": "stored", "body": 1}));
    assert_eq!(briefly(&world.take(a)), ["receipt m1 delivered"], "the later state answers");
    world.sync();
    assert_eq!(world.take(b).len(), 1);
    let mut world = world.crash();
    let (b, frames) = world.join_and_take("b", json!({"mailbox": true, "ack": true}));
    assert_eq!(frames[0]["mailbox_depth"], 1);
    world.sync();
    assert_eq!(briefly(&world.take(b)), ["message 1 again:2"]);
    world.send(b, &json!({"type": "ack", "up_to": EVERYTHING}));
    world.sync();
    assert!(world.shelf.records.is_empty());
    world.end_with_mailboxes();
}

#[test]
fn what_comes_live_never_overtakes_what_is_on_disk() {
    let mut world = durable();
    let a = world.register("a");
    let b = world.join("b", json!({"mailbox": true, "ack": true, "in_flight": 2}));
    world.hang_up(b);
    world.pass_ms(5_000);
    for n in 1..=4 {
        world.message(a, "b", n);
    }
    let (b, _) = world.join_and_take("b", json!({"mailbox": true, "ack": true, "in_flight": 100}));
    // The disk has not answered yet.
    world.message(a, "b", 5);
    assert_eq!(briefly(&world.take(b)), Vec::<String>::new());
    world.sync();
    world.message(a, "b", 6);
    world.sync();
    let expected: Vec<String> = (1..=6).map(|n| format!("message {n}")).collect();
    assert_eq!(briefly(&world.take(b)), expected);
    world.send(b, &json!({"type": "ack", "up_to": EVERYTHING}));
    world.sync();
    assert!(world.shelf.records.is_empty());
    world.end_with_mailboxes();
}

#[test]
fn an_acknowledgement_that_overtakes_the_commit_is_all_that_is_said() {
    let mut world = durable();
    let a = world.join("a", json!({}));
    let b = world.join("b", json!({"mailbox": true, "ack": true}));
    world.ask(a, "b", json!({"id": "m1", "receipt": "acked", "body": 1}));
    let seq = world.take(b)[0]["seq"].clone();
    world.send(b, &json!({"type": "ack", "seqs": [seq]}));
    assert_eq!(briefly(&world.take(a)), ["receipt m1 acked"]);
    world.sync();
    assert_eq!(briefly(&world.take(a)), Vec::<String>::new(), "it was told already");
    assert_eq!(world.shelf.endings, [(1, Ending::Acked)]);
    world.end_with_mailboxes();
}

#[test]
fn a_released_client_with_a_mailbox_keeps_its_messages_until_it_has_read_them() {
    let mut world = World::with(|config| {
        config.store = true;
        config.mailboxes = vec!["old".to_owned()];
    });
    let a = world.register("a");
    world.message(a, "old", 1);
    world.sync();
    let (old, bodies) = world.register_and_take("old");
    assert_eq!(bodies.len(), 0);
    world.sync();
    assert_eq!(world.bodies(old), [json!(1)]);
    assert_eq!(world.shelf.records.len(), 1, "nobody knows whether it was read");
    world.pass_ms(10);
    assert_eq!(world.looks.first(), Some(&old));
    world.router.has_read_all(old);
    world.turn();
    world.sync();
    assert_eq!(world.shelf.endings, [(1, Ending::Read)]);
    assert!(world.shelf.records.is_empty());
    world.end_with_mailboxes();
}

#[test]
fn what_waits_for_a_configured_name_is_for_the_first_who_registers_it() {
    let configured = |config: &mut hermes_bus_core::Config| {
        config.store = true;
        config.allow_uids = vec![1_001, 1_002];
        config.mailboxes = vec!["old".to_owned()];
    };
    let mut world = World::with(configured);
    let a = world.register("a");
    world.message(a, "old", 1);
    world.sync();
    // The next process knows as little of who has the name, and goes on keeping.
    let shelf = std::mem::take(&mut world.shelf);
    world.end();
    let mut world = World::with(configured);
    world.router.recover(shelf.recovered());
    world.shelf = shelf;
    let a = world.register("a");
    world.message(a, "old", 2);
    world.sync();
    let old = world.register_as(1_001, "old");
    world.sync();
    assert_eq!(world.bodies(old), [json!(1), json!(2)]);
    world.hang_up(old);
    world.pass_ms(4_000);
    // From now on it is that user's.
    let thief = world.connect_as(1_002);
    world.send(thief, &json!({"type": "register", "endpoint": "old"}));
    assert_eq!(world.take(thief)[0]["code"], "unauthorized");
    let owner = world.connect();
    world.send(owner, &json!({"type": "register", "endpoint": "old"}));
    assert_eq!(world.take(owner)[0]["code"], "unauthorized");
    world.end_with_mailboxes();
}

#[test]
fn a_name_has_its_mailbox_as_soon_as_the_configuration_says_so() {
    let mut world = World::with(|config| config.store = true);
    let (a, old) = (world.register("a"), world.register("old"));
    let mut config = world.router.config().clone();
    config.mailboxes = vec!["old".to_owned()];
    world.router.configure(config);
    world.hang_up(old);
    world.message(a, "old", 1);
    world.pass_ms(4_000);
    world.sync();
    assert_eq!(world.shelf.records.len(), 1, "the name does not only linger");
    world.end_with_mailboxes();
}

#[test]
fn what_a_released_client_was_not_seen_to_read_comes_again() {
    let mut world = World::with(|config| {
        config.store = true;
        config.mailboxes = vec!["old".to_owned()];
    });
    let (a, old) = (world.register("a"), world.register("old"));
    for n in 1..=3 {
        world.message(a, "old", n);
    }
    world.sync();
    assert_eq!(world.bodies(old).len(), 3);
    world.hang_up(old);
    world.message(a, "old", 4);
    let (new, frames) = world.join_and_take("old", json!({"ack": true}));
    assert_eq!(briefly(&frames), ["registered"]);
    world.sync();
    let expected = ["message 1 again:2", "message 2 again:2", "message 3 again:2", "message 4"];
    assert_eq!(briefly(&world.take(new)), expected);
    world.send(new, &json!({"type": "ack", "up_to": EVERYTHING}));
    world.sync();
    world.end_with_mailboxes();
}

#[test]
fn a_script_is_not_told_that_a_kept_message_is_lost_with_its_receiver() {
    let mut world = durable();
    let b = world.join("b", json!({"mailbox": true, "ack": true}));
    let script = world.connect();
    world.put(script, &[r#"{"type": "message", "to": "b", "body": 1}"#]);
    world.put_hang_up(b);
    world.turn();
    assert_eq!(world.take(script)[0]["status"], "accepted");
    let (b, _) = world.join_and_take("b", json!({"mailbox": true, "ack": true}));
    world.sync();
    world.send(b, &json!({"type": "ack", "up_to": EVERYTHING}));
    world.sync();
    world.end_with_mailboxes();
}

#[test]
fn a_message_that_moves_to_another_member_takes_its_count_along() {
    let mut world = durable();
    let a = world.join("a", json!({}));
    let options = json!({"mailbox": true, "ack": true, "groups": ["g"]});
    let one = world.join("one", options.clone());
    world.ask(a, "@g", json!({"id": "m1", "receipt": "stored", "body": 1}));
    world.sync();
    assert_eq!(briefly(&world.take(one)), ["message 1"]);
    let two = world.join("two", options);
    world.hang_up(one);
    world.sync();
    assert_eq!(briefly(&world.take(two)), ["message 1 again:2"]);
    // It is on disk once, for its new endpoint.
    let kept: Vec<(&str, u32)> =
        world.shelf.records.values().map(|r| (r.endpoint.as_str(), r.deliveries)).collect();
    assert_eq!(kept, [("two", 1)]);
    world.send(two, &json!({"type": "ack", "up_to": EVERYTHING}));
    world.sync();
    assert!(world.shelf.records.is_empty());
    world.end_with_mailboxes();
}

#[test]
fn a_queued_message_waits_for_somebody_who_was_here_before() {
    let mut world = durable();
    let a = world.join("a", json!({}));
    world.ask(a, "b", json!({"id": "m0", "queue": true, "body": 0}));
    assert_eq!(briefly(&world.take(a)), ["error m0 endpoint_not_found"]);
    let b = world.register("b");
    world.hang_up(b);
    world.pass_ms(4_000);
    world.ask(a, "b", json!({"id": "m1", "queue": true, "receipt": "stored", "body": 1}));
    world.sync();
    assert_eq!(briefly(&world.take(a)), ["receipt m1 stored"]);
    let (b, _) = world.register_and_take("b");
    world.sync();
    assert_eq!(world.bodies(b), [json!(1)]);
    world.router.has_read_all(b);
    world.turn();
    world.sync();
    assert!(world.shelf.records.is_empty());
    world.end();
}

#[test]
fn names_that_look_like_the_wanted_one_are_suggested() {
    let mut world = World::new();
    let a = world.join("a", json!({}));
    world.register("builder");
    world.ask(a, "bulider", json!({"id": 1, "body": 0}));
    let frames = world.take(a);
    assert_eq!(frames[0]["code"], "endpoint_not_found");
    assert_eq!(frames[0]["suggestions"], json!(["builder"]));
    world.end();
}

#[test]
fn another_user_cannot_open_a_mailbox() {
    let mut world = World::with(|config| {
        config.store = true;
        config.allow_uids = vec![2_000];
    });
    let a = world.register("a");
    let b = world.join("b", json!({"mailbox": true}));
    world.hang_up(b);
    world.message(a, "b", "a secret");
    world.sync();
    world.pass_ms(4_000);
    let thief = world.connect_as(2_000);
    world.send(thief, &json!({"type": "register", "endpoint": "b"}));
    assert_eq!(world.take(thief)[0]["code"], "unauthorized");
    assert_eq!(world.shelf.records.len(), 1);
    world.end_with_mailboxes();
}

// ---- the disk fails ---------------------------------------------------------------------------------

#[test]
fn a_message_that_the_disk_does_not_take_is_refused_and_forgotten() {
    let mut world = durable();
    let a = world.join("a", json!({}));
    let b = world.join("b", json!({"mailbox": true, "ack": true}));
    world.hang_up(b);
    world.pass_ms(4_000);
    world.ask(a, "b", json!({"id": "m1", "receipt": "stored", "body": 1}));
    world.refuse_all("no space left on device");
    let frames = world.take(a);
    assert_eq!(briefly(&frames), ["error m1 store_unavailable"]);
    assert_eq!(frames[0]["detail"], "no space left on device");
    // The retry is a new message.
    world.ask(a, "b", json!({"id": "m1", "receipt": "stored", "body": 1}));
    world.sync();
    assert_eq!(briefly(&world.take(a)), ["receipt m1 stored"]);
    assert_eq!(world.router.mailboxes()[0].kept.messages, 1);
    world.end_with_mailboxes();
}

#[test]
fn before_the_disk_is_there_nobody_is_said_to_be_unknown() {
    use hermes_bus_core::Config;
    use hermes_bus_core::storage::Recovered;
    let mut world = World::new();
    let a = world.join("a", json!({}));
    let script = world.connect();
    for to in ["seen-last-week", "@crew"] {
        world.ask(a, to, json!({"id": "m1", "queue": true, "body": 1}));
        let frames = world.take(a);
        assert_eq!(briefly(&frames), ["error m1 store_unavailable"], "{to}");
        assert_eq!(frames[0]["detail"], "the bus keeps nothing on disk");
        // Nobody needs a disk to say that nobody is there.
        world.ask(a, to, json!({"id": "m2", "body": 2}));
        assert_eq!(briefly(&world.take(a)), ["error m2 endpoint_not_found"], "{to}");
    }
    world.ask(script, "seen-last-week", json!({"id": "m3", "receipt": "stored", "body": 3}));
    assert_eq!(briefly(&world.take(script)), ["error m3 store_unavailable"]);
    world.router.configure(Config { store: true, ..world.router.config().clone() });
    world.router.recover(Recovered::default());
    world.ask(a, "seen-last-week", json!({"id": "m4", "queue": true, "body": 4}));
    assert_eq!(briefly(&world.take(a)), ["error m4 endpoint_not_found"]);
    world.end();
}

#[test]
fn without_a_disk_what_must_be_kept_is_refused_and_the_rest_goes_on() {
    use hermes_bus_core::storage::Answer;
    let mut world = durable();
    let a = world.join("a", json!({}));
    let b = world.join("b", json!({"mailbox": true, "ack": true}));
    let c = world.register("c");
    world.sync();
    world.router.storage(Answer::Trouble(Some("the file system is read-only".to_owned())));
    world.ask(a, "b", json!({"id": "here", "receipt": "acked", "body": 1}));
    let seq = world.take(b)[0]["seq"].clone();
    world.send(b, &json!({"type": "ack", "seqs": [seq]}));
    assert_eq!(briefly(&world.take(a)), ["receipt here acked"], "nothing had to be kept for that");
    world.hang_up(b);
    world.pass_ms(4_000);
    world.ask(a, "b", json!({"id": "away", "receipt": "stored", "body": 2}));
    assert_eq!(briefly(&world.take(a)), ["error away store_unavailable"]);
    world.message(a, "c", "live");
    assert_eq!(world.bodies(c), [json!("live")]);
    world.router.storage(Answer::Trouble(None));
    world.ask(a, "b", json!({"id": "again", "receipt": "stored", "body": 3}));
    world.sync();
    assert_eq!(briefly(&world.take(a)), ["receipt again stored"]);
    world.end_with_mailboxes();
}

#[test]
fn a_slow_receiver_is_spilled_to_disk_and_nobody_waits_for_it() {
    let mut world = World::with(|config| {
        config.store = true;
        config.queue_bytes_max = 2_000;
    });
    let (a, slow) = (world.register("a"), world.register("slow"));
    world.stop_reading(slow, 0);
    for n in 0..50 {
        world.message(a, "slow", format!("{n} {}", "x".repeat(100)));
    }
    assert_eq!(world.counters().sender_waits, 0);
    assert!(world.counters().spilled > 20, "{:?}", world.counters());
    world.sync();
    world.read_on(slow);
    for _ in 0..5 {
        world.sync();
        world.turn();
    }
    let numbers: Vec<u64> = world
        .bodies(slow)
        .iter()
        .map(|body| body.as_str().expect("text")[..2].trim().parse().expect("a number"))
        .collect();
    assert_eq!(numbers, (0..50).collect::<Vec<_>>());
    world.sync();
    assert!(world.shelf.records.is_empty(), "{:?}", world.shelf.records.len());
    world.end();
}

#[test]
fn what_was_only_spilled_ends_with_the_linger_of_its_receiver() {
    let mut world = World::with(|config| {
        config.store = true;
        config.queue_bytes_max = 2_000;
    });
    let (a, slow) = (world.register("a"), world.register("slow"));
    world.stop_reading(slow, 0);
    for _ in 0..50 {
        world.message(a, "slow", "x".repeat(100));
    }
    world.sync();
    world.hang_up(slow);
    world.pass_ms(3_100);
    world.sync();
    assert!(world.shelf.records.is_empty());
    assert_eq!(world.counters().dropped_receiver_gone + world.counters().given_up, 50);
    world.end();
}

#[test]
fn a_mailbox_is_read_to_its_end_by_a_released_client() {
    let mut world = World::with(|config| {
        config.store = true;
        config.mailboxes = vec!["old".to_owned()];
    });
    let a = world.register("a");
    for n in 0..40 {
        world.message(a, "old", format!("{n} {}", "x".repeat(20_000)));
    }
    world.sync();
    let (old, _) = world.register_and_take("old");
    for _ in 0..10 {
        world.sync();
        world.turn();
    }
    assert_eq!(world.bodies(old).len(), 40);
    world.router.has_read_all(old);
    world.turn();
    world.sync();
    world.end_with_mailboxes();
}

// ---- time to live -----------------------------------------------------------------------------------

#[test]
fn a_message_that_is_not_wanted_any_more_is_not_delivered() {
    let mut world = durable();
    let a = world.join("a", json!({}));
    let b = world.register("b");
    world.stop_reading(b, 0);
    world.message(a, "b", "before");
    world.ask(a, "b", json!({"id": "m1", "receipt": "delivered", "ttl_s": 1.5, "body": "late"}));
    world.message(a, "b", "behind");
    world.pass_ms(1_499);
    assert_eq!(briefly(&world.take(a)), Vec::<String>::new());
    world.pass_ms(1);
    assert_eq!(briefly(&world.take(a)), ["error m1 expired"]);
    world.read_on(b);
    assert_eq!(world.bodies(b), [json!("before"), json!("behind")]);
    world.end();
}

#[test]
fn a_message_expires_in_a_mailbox_and_its_sender_hears_of_it() {
    let mut world = durable();
    let a = world.join("a", json!({}));
    let b = world.join("b", json!({"mailbox": true, "ack": true}));
    world.hang_up(b);
    world.pass_ms(4_000);
    world.ask(a, "b", json!({"id": "m1", "receipt": "acked", "ttl_s": 2, "body": 1}));
    world.sync();
    world.pass_ms(2_100);
    world.sync();
    assert_eq!(briefly(&world.take(a)), ["error m1 expired"]);
    world.sync();
    assert!(world.shelf.records.is_empty());
    assert_eq!(world.shelf.dead.len(), 1);
    world.end_with_mailboxes();
}

#[test]
fn what_expires_in_a_queue_is_a_dead_letter_with_its_sender() {
    let mut world = durable();
    let a = world.join("a", json!({}));
    let (old, new) = (world.register("old"), world.join("new", json!({})));
    for receiver in [old, new] {
        world.stop_reading(receiver, 0);
    }
    for n in 0..3 {
        world.message(a, "old", format!("before {n}"));
        let members = |id: String| json!({"id": id, "queue": true, "ttl_s": 1, "body": n});
        world.ask(a, "old", members(format!("old {n}")));
        world.ask(a, "new", members(format!("new {n}")));
    }
    world.sync();
    assert_eq!(world.shelf.records.len(), 6);
    world.pass_ms(1_000);
    world.sync();
    assert!(world.shelf.records.is_empty());
    assert_eq!((world.counters().expired, world.shelf.dead.len()), (6, 6));
    for letter in &world.shelf.dead {
        let sender = letter.record.sender.as_ref().and_then(|sender| sender.endpoint.as_ref());
        assert_eq!(sender.map(|name| name.as_str()), Some("a"));
        assert_eq!(letter.reason.as_str(), "expired");
    }
    world.read_on(old);
    assert_eq!(world.bodies(old), [json!("before 0"), json!("before 1"), json!("before 2")]);
    world.end();
}

#[test]
fn now_or_never() {
    let mut world = World::new();
    let a = world.join("a", json!({}));
    let b = world.register("b");
    world.ask(a, "b", json!({"id": "m1", "receipt": "delivered", "ttl_s": 0, "body": 1}));
    assert_eq!(briefly(&world.take(a)), ["receipt m1 delivered"]);
    world.stop_reading(b, 0);
    world.ask(a, "b", json!({"id": "m2", "receipt": "delivered", "ttl_s": 0, "body": 2}));
    world.pass_ms(1);
    assert_eq!(briefly(&world.take(a)), ["error m2 expired"]);
    world.end();
}

// ---- repetitions ------------------------------------------------------------------------------------

#[test]
fn a_message_that_is_sent_again_is_answered_and_not_delivered_again() {
    let mut world = durable();
    let a = world.join("a", json!({}));
    let b = world.join("b", json!({"mailbox": true, "ack": true}));
    let ask = json!({"id": "m1", "receipt": "acked", "body": 1});
    world.ask(a, "b", ask.clone());
    world.ask(a, "b", ask.clone());
    let frames = world.take(b);
    assert_eq!(briefly(&frames), ["message 1"]);
    world.send(b, &json!({"type": "ack", "seqs": [frames[0]["seq"]]}));
    assert_eq!(briefly(&world.take(a)), ["receipt m1 acked", "receipt m1 acked"]);
    world.ask(a, "b", ask);
    assert_eq!(briefly(&world.take(a)), ["receipt m1 acked"]);
    assert_eq!(world.take(b).len(), 0);
    assert_eq!(world.counters().repeated, 2);
    world.end_with_mailboxes();
}

#[test]
fn what_is_stored_is_judged_by_its_id_and_what_only_arrives_is_not() {
    let mut world = durable();
    let a = world.join("a", json!({}));
    let b = world.join("b", json!({"mailbox": true, "ack": true}));
    for _ in 0..2 {
        world.ask(a, "b", json!({"id": "m1", "receipt": "stored", "body": 1}));
        world.sync();
        world.ask(a, "b", json!({"id": "m2", "receipt": "delivered", "body": 2}));
    }
    assert_eq!(briefly(&world.take(b)), ["message 1", "message 2", "message 2"]);
    let answers = briefly(&world.take(a));
    assert_eq!(answers.iter().filter(|answer| answer.starts_with("receipt m1")).count(), 2);
    world.send(b, &json!({"type": "ack", "up_to": EVERYTHING}));
    world.sync();
    world.end_with_mailboxes();
}

#[test]
fn who_sends_again_after_a_crash_hears_of_the_message_that_survived_it() {
    let mut world = durable();
    let a = world.join("a", json!({}));
    let b = world.join("b", json!({"mailbox": true, "ack": true}));
    world.hang_up(b);
    world.pass_ms(4_000);
    let ask = json!({"id": "m1", "receipt": "acked", "body": 1});
    world.ask(a, "b", ask.clone());
    world.sync();
    let mut world = world.crash();
    let a = world.join("a", json!({}));
    world.ask(a, "b", ask);
    assert_eq!(briefly(&world.take(a)), Vec::<String>::new());
    let (b, _) = world.join_and_take("b", json!({"mailbox": true, "ack": true}));
    world.sync();
    assert_eq!(briefly(&world.take(b)), ["message 1 again:2"], "once");
    world.send(b, &json!({"type": "ack", "ids": ["m1"]}));
    assert_eq!(briefly(&world.take(a)), ["receipt m1 acked"]);
    world.sync();
    world.end_with_mailboxes();
}

#[test]
fn a_message_that_goes_round_in_circles_is_stopped() {
    let mut world = World::new();
    let (a, b) = (world.join("a", json!({})), world.register("b"));
    world.ask(a, "b", json!({"id": "ok", "hops": 16, "body": 1}));
    world.ask(a, "b", json!({"id": "no", "hops": 17, "body": 2}));
    assert_eq!(briefly(&world.take(a)), ["error no hops_exceeded"]);
    assert_eq!(world.bodies(b), [json!(1)]);
    world.end();
}

// ---- groups and topics ------------------------------------------------------------------------------

#[test]
fn a_group_s_message_goes_to_one_member_the_least_loaded_first() {
    let mut world = World::new();
    let a = world.register("a");
    let one = world.join("one", json!({"ack": true, "groups": ["workers"]}));
    let two = world.join("two", json!({"ack": true, "groups": ["@workers"]}));
    for n in 1..=4 {
        world.message(a, "@workers", n);
    }
    assert_eq!(briefly(&world.take(one)), ["message 1", "message 3"]);
    let frames = world.take(two);
    assert_eq!(briefly(&frames), ["message 2", "message 4"]);
    assert_eq!(frames[0]["via"], "@workers");
    world.send(two, &json!({"type": "ack", "up_to": EVERYTHING}));
    world.message(a, "@workers", 5);
    assert_eq!(briefly(&world.take(two)), ["message 5"]);
    world.end();
}

#[test]
fn a_member_s_unfinished_work_goes_to_another_member() {
    let mut world = World::new();
    let a = world.join("a", json!({}));
    let one = world.join("one", json!({"ack": true, "groups": ["workers"]}));
    let two = world.join("two", json!({"ack": true, "groups": ["workers"]}));
    world.ask(a, "@workers", json!({"id": "m1", "receipt": "acked", "body": 1}));
    assert_eq!(world.take(one).len(), 1);
    world.hang_up(one);
    let frames = world.take(two);
    assert_eq!(briefly(&frames), ["message 1 again:2"]);
    world.send(two, &json!({"type": "ack", "seqs": [frames[0]["seq"]]}));
    let receipt = &world.take(a)[0];
    assert_eq!((&receipt["status"], &receipt["to"]), (&json!("acked"), &json!("two")));
    world.end();
}

#[test]
fn a_group_without_anybody_is_an_unknown_address() {
    let mut world = World::new();
    let a = world.join("a", json!({}));
    world.ask(a, "@nobody", json!({"id": "m1", "body": 1}));
    assert_eq!(briefly(&world.take(a)), ["error m1 endpoint_not_found"]);
    world.end();
}

#[test]
fn a_topic_s_message_goes_to_every_subscriber_once() {
    let mut world = World::new();
    let a = world.join("a", json!({}));
    let one = world.join("one", json!({"topics": ["build.*", "build.done"]}));
    let two = world.join("two", json!({"topics": ["build.>"]}));
    let three = world.join("three", json!({"topics": ["test.>"]}));
    world.ask(a, "#build.done", json!({"id": "m1", "receipt": "delivered", "body": 1}));
    let frames = world.take(one);
    assert_eq!(briefly(&frames), ["message 1"]);
    assert_eq!(frames[0]["via"], "#build.done");
    assert_eq!(world.take(two).len(), 1);
    assert_eq!(world.take(three).len(), 0);
    let receipt = &world.take(a)[0];
    assert_eq!(receipt["endpoints"], 2);
    assert_eq!((&receipt["failed"], &receipt["status"]), (&json!(0), &json!("delivered")));
    world.send(two, &json!({"type": "unsubscribe", "topics": ["build.>"], "req": "r"}));
    let expected = json!({"type": "subscribed", "topics": [], "groups": [], "req": "r"});
    assert_eq!(world.take(two), [expected]);
    world.ask(a, "#build.done", json!({"body": 2}));
    assert_eq!((world.take(one).len(), world.take(two).len()), (1, 0));
    world.end();
}

#[test]
fn a_subscription_of_an_endpoint_with_a_mailbox_outlives_its_session_and_a_crash() {
    let mut world = durable();
    let options = json!({"mailbox": true, "ack": true, "topics": ["news.>"]});
    let b = world.join("b", options);
    world.sync();
    world.hang_up(b);
    world.pass_ms(4_000);
    let a = world.register("a");
    world.message(a, "#news.today", 1);
    world.sync();
    let mut world = world.crash();
    let a = world.register("a");
    world.message(a, "#news.today", 2);
    world.sync();
    let (b, _) = world.join_and_take("b", json!({"mailbox": true, "ack": true}));
    world.sync();
    assert_eq!(briefly(&world.take(b)), ["message 1 again:2", "message 2"]);
    world.send(b, &json!({"type": "ack", "up_to": EVERYTHING}));
    world.sync();
    world.end_with_mailboxes();
}

#[test]
fn a_subscriber_that_does_not_read_hears_of_its_gap() {
    let mut world = World::with(|config| config.queue_bytes_max = 2_000);
    let a = world.register("a");
    let slow = world.join("slow", json!({"topics": ["t"]}));
    world.stop_reading(slow, 0);
    for _ in 0..50 {
        world.message(a, "#t", "x".repeat(100));
    }
    world.read_on(slow);
    let frames = world.take(slow);
    let messages = frames.iter().filter(|frame| frame["type"] == "message").count();
    let gap = frames.iter().find(|frame| frame["type"] == "gap").expect("a gap");
    assert_eq!(gap["source"], "topic");
    assert_eq!(gap["count"].as_u64(), Some(50 - messages as u64));
    world.end();
}

#[test]
fn an_acked_broadcast_has_one_receipt_when_the_last_one_has_confirmed() {
    let mut world = World::new();
    let a = world.join("a", json!({"ack": true}));
    let b = world.join("b", json!({"ack": true}));
    let old = world.register("old");
    world.ask(a, "", json!({"id": "m1", "receipt": "acked", "body": 1}));
    for key in [a, b] {
        world.send(key, &json!({"type": "ack", "ids": ["m1"]}));
    }
    let frames = world.take(a);
    let receipt = frames.iter().find(|frame| frame["type"] == "receipt").expect("a receipt");
    assert_eq!((&receipt["endpoints"], &receipt["failed"]), (&json!(3), &json!(1)));
    assert_eq!(receipt["status"], "acked");
    assert_eq!(world.bodies(old), [json!(1)]);
    world.end();
}

// ---- sessions ---------------------------------------------------------------------------------------

#[test]
fn who_loses_its_name_is_told_so() {
    let mut world = World::new();
    let old = world.join("a", json!({}));
    let _new = world.join("a", json!({}));
    assert_eq!(world.take(old), [json!({"type": "bye", "reason": "replaced"})]);
    assert!(world.closed(old).is_some());
    world.end();
}

#[test]
fn a_name_can_be_asked_for_without_taking_it_from_anybody() {
    let mut world = World::new();
    let old = world.join("a", json!({}));
    let new = world.connect();
    let ask = |conflict: &str| json!({"type": "register", "endpoint": "a", "protocol": 2, "conflict": conflict});
    world.send(new, &ask("refuse"));
    assert_eq!(world.take(new)[0]["code"], "name_taken");
    world.send(new, &ask("suffix"));
    assert_eq!(world.take(new)[0]["endpoint"], "a-2");
    assert_eq!(world.closed(old), None);
    world.end();
}

#[test]
fn what_level_2_does_not_know_is_refused_and_level_1_never_hears_of_it() {
    let mut world = World::new();
    let (one, two) = (world.register("one"), world.join("two", json!({})));
    for (frame, code) in [
        (json!({"type": "sing", "req": 1}), "unknown_type"),
        (json!({"type": "register", "endpoint": "x", "req": 2}), "forbidden"),
        (json!({"type": "ack", "up_to": 1, "req": 3}), "forbidden"),
        (json!({"type": "subscribe", "topics": "x", "req": 4}), "invalid_field"),
        (json!({"type": "message", "to": "one", "receipt": "read", "req": 5}), "invalid_field"),
    ] {
        world.send(two, &frame);
        let answer = world.take(two);
        assert_eq!(answer[0]["code"], code, "{frame}");
        world.send(one, &frame);
        let heard = world.take(one);
        assert!(heard.iter().all(|frame| frame["type"] == "message"), "{heard:?}");
    }
    assert_eq!(world.closed(two), None);
    world.end();
}

#[test]
fn a_question_s_name_is_a_string_or_a_number_whatever_is_asked() {
    let mut world = World::new();
    let (one, two) = (world.register("one"), world.join("two", json!({})));
    for (kind, of_one, of_two) in
        [("ping", "pong", "pong"), ("list_endpoints", "endpoints_list", "endpoint_list")]
    {
        for (req, is_one) in [(json!("x"), true), (json!(5), true), (json!([1]), false)] {
            let frame = json!({"type": kind, "req": req});
            world.send(two, &frame);
            let answer = world.take(two);
            let expected = if is_one { of_two } else { "error" };
            assert_eq!((answer.len(), &answer[0]["type"]), (1, &json!(expected)), "{frame}");
            assert_eq!(answer[0].get("req"), is_one.then_some(&req), "{frame}");
            assert!(is_one || answer[0]["code"] == "invalid_field", "{frame}");
            world.send(one, &frame);
            assert_eq!(world.take(one)[0]["type"], of_one, "level 1 knows nothing of it");
        }
    }
    let anonymous = world.connect();
    world.send(
        anonymous,
        &json!({"type": "register", "endpoint": "three", "protocol": 2, "token": 5}),
    );
    assert_eq!(briefly(&world.take(anonymous)), ["error invalid_field"]);
    world.end();
}

#[test]
fn those_who_watch_hear_who_comes_and_who_goes_for_good() {
    let mut world = World::new();
    let watcher = world.join("watcher", json!({}));
    world.send(watcher, &json!({"type": "watch", "presence": true}));
    let b = world.register("b");
    world.hang_up(b);
    world.pass_ms(3_100);
    let frames = world.take(watcher);
    let seen: Vec<(&str, &str)> = frames
        .iter()
        .filter(|frame| frame["type"] == "presence")
        .map(|frame| {
            (frame["endpoint"].as_str().unwrap_or(""), frame["state"].as_str().unwrap_or(""))
        })
        .collect();
    assert_eq!(seen, [("b", "online"), ("b", "offline")]);
    assert_eq!(frames.last().expect("the last one")["reason"], "peer_closed");
    world.end();
}

#[test]
fn who_watches_and_does_not_read_hears_how_much_it_has_missed() {
    let mut world = World::with(|config| config.answer_bytes_max = 1_000);
    let watcher = world.join("watcher", json!({}));
    world.send(watcher, &json!({"type": "watch", "presence": true}));
    world.take(watcher);
    world.stop_reading(watcher, 0);
    for n in 0..50 {
        world.register(&format!("b{n}"));
    }
    world.read_on(watcher);
    let frames = world.take(watcher);
    let seen = frames.iter().filter(|frame| frame["type"] == "presence").count() as u64;
    let gap = frames.iter().find(|frame| frame["type"] == "gap").expect("a gap");
    assert_eq!((&gap["source"], &gap["count"]), (&json!("presence"), &json!(50 - seen)));
    assert!(gap["bytes"].as_u64() > Some(50 * (50 - seen)) && seen > 0, "{gap}");
    assert_eq!(world.counters().presence_left_out, 50 - seen);
    world.register("c");
    assert_eq!(world.take(watcher).last().expect("it hears on")["endpoint"], "c");
    world.end();
}

#[test]
fn no_more_is_held_than_a_name_may_hold_however_it_is_asked_for() {
    let many =
        |from: usize, to: usize| -> Vec<String> { (from..to).map(|n| format!("t{n}")).collect() };
    let mut world = World::new();
    let a = world.join("a", json!({"mailbox": true, "topics": many(0, 1_000)}));
    // What is held already takes no place.
    world.send(
        a,
        &json!({"type": "subscribe", "topics": many(500, 1_024), "groups": many(0, 1_024)}),
    );
    let subscribed = world.take(a);
    assert_eq!(subscribed[0]["topics"].as_array().map(Vec::len), Some(1_024));
    // Neither does what is not asked for: it is only a question.
    for question in [json!({}), json!({"topics": ["t7"]}), json!({"groups": ["t7"]})] {
        let mut frame = question;
        frame["type"] = "subscribe".into();
        world.send(a, &frame);
        assert_eq!(world.take(a)[0]["type"], "subscribed", "{frame}");
    }
    world.send(a, &json!({"type": "subscribe", "topics": ["t7", "one more"], "req": 1}));
    assert_eq!(world.take(a)[0]["code"], "over_limit");
    // A new session of the name finds the same limit, and keeps trying with less.
    let again = world.connect();
    let mut register = json!({"type": "register", "endpoint": "a", "protocol": 2, "req": 2});
    register["mailbox"] = true.into();
    for key in ["topics", "groups"] {
        register[key] = json!(["t7", "one more"]);
        world.send(again, &register);
        let error = &world.take(again)[0];
        assert_eq!((&error["code"], &error["req"]), (&json!("over_limit"), &json!(2)), "{key}");
        register[key] = json!(["t7"]);
    }
    assert_eq!(world.closed(a), None, "it has lost nothing by that");
    world.send(again, &register);
    assert_eq!(world.take(again)[0]["type"], "registered");
    world.end_with_mailboxes();
}

#[test]
fn a_trace_tells_how_long_a_message_is_still_held_and_what_it_does_not_remember() {
    use hermes_bus_proto::Raw;
    let mut world = World::new();
    let (a, b) = (world.join("a", json!({})), world.register("b"));
    world.hang_up(b);
    world.ask(a, "b", json!({"id": "m1", "body": 1}));
    world.pass_ms(1_000);
    let held = world.router.trace_of(a, Raw::new(b"\"m1\""));
    let standing = &held.standings[0];
    assert_eq!((standing.place, held.standings.len(), held.left_out), ("held", 1, 0));
    assert!(standing.next.ends_with("is back within 2 s, and dropped else"), "{standing:?}");
    world.pass_ms(2_100);
    assert_eq!(world.router.trace_of(a, Raw::new(b"\"m1\"")).standings, []);
    let b = world.join("b", json!({"ack": true}));
    world.ask(a, "b", json!({"id": "m2", "receipt": "acked", "body": 2}));
    for pause_ms in [1_000, 2_000, 4_000, 8_000, 16_000] {
        let seq = world.take(b)[0]["seq"].clone();
        world.send(b, &json!({"type": "nack", "seq": seq, "requeue": true}));
        world.pass_ms(pause_ms + 100);
    }
    let often = world.router.trace_of(a, Raw::new(b"\"m2\""));
    assert!(often.left_out > 0, "{often:?}");
    world.end();
}

#[test]
fn the_owner_can_look_at_everything_that_is_routed() {
    let mut world = World::new();
    let watcher = world.join("watcher", json!({}));
    world.send(watcher, &json!({"type": "watch", "tap": "messages"}));
    let (a, _b) = (world.register("a"), world.register("b"));
    world.message(a, "b", "x");
    let frames = world.take(watcher);
    let tapped = frames.iter().find(|frame| frame["type"] == "tap").expect("a tap");
    assert_eq!(tapped["outcome"], "accepted");
    assert_eq!(tapped["message"]["body"], "x");
    world.end();
}

// ---- the owner's books ------------------------------------------------------------------------------

#[test]
fn a_mailbox_can_be_emptied_by_the_owner() {
    let mut world = durable();
    let a = world.join("a", json!({}));
    let b = world.join("b", json!({"mailbox": true, "ack": true, "in_flight": 1}));
    for n in 1..=3 {
        world.ask(a, "b", json!({"id": n, "receipt": "acked", "body": n}));
    }
    world.sync();
    assert_eq!(world.take(b).len(), 1);
    let removed = world.router.purge("b").expect("it has a mailbox");
    assert_eq!(removed.messages, 2, "one is in the receiver's hands");
    world.turn();
    assert_eq!(briefly(&world.take(a)), ["error 2 rejected", "error 3 rejected"]);
    world.send(b, &json!({"type": "ack", "up_to": EVERYTHING}));
    world.sync();
    assert_eq!(briefly(&world.take(a)), ["receipt 1 acked"]);
    assert!(world.shelf.records.is_empty());
    assert_eq!(world.router.mailboxes()[0].kept.messages, 0);
    world.end_with_mailboxes();
}

#[test]
fn emptying_one_members_mailbox_after_a_crash_leaves_those_of_others_known() {
    let mut world = durable();
    let sender = world.join("sender", json!({}));
    for member in ["b", "c"] {
        let member = world.join(member, json!({"mailbox": true, "ack": true, "groups": ["g"]}));
        world.hang_up(member);
    }
    world.pass_ms(4_000);
    let send = |world: &mut World, sender, n| {
        world.ask(sender, "@g", json!({"id": format!("m{n}"), "receipt": "stored", "body": n}));
        world.sync();
        briefly(&world.take(sender))
    };
    for n in [1, 2] {
        assert_eq!(send(&mut world, sender, n), [format!("receipt m{n} stored")]);
    }
    let mut world = world.crash();
    assert_eq!(world.router.purge("b").map(|removed| removed.messages), Some(1));
    world.turn();
    let sender = world.join("sender", json!({}));
    for n in [1, 2] {
        assert_eq!(send(&mut world, sender, n), [format!("receipt m{n} stored")]);
    }
    assert_eq!(world.counters().repeated, 1, "one was removed: sent again, it is new");
    assert_eq!(world.shelf.records.len(), 2);
    world.end_with_mailboxes();
}

#[test]
fn who_repeats_what_an_earlier_process_has_left_hears_that_the_owner_took_it() {
    let mut world = durable();
    let sender = world.join("sender", json!({}));
    let b = world.join("b", json!({"mailbox": true, "ack": true}));
    world.hang_up(b);
    world.pass_ms(4_000);
    let message = json!({"id": "m1", "receipt": "acked", "body": 1});
    world.ask(sender, "b", message.clone());
    world.sync();
    let mut world = world.crash();
    let sender = world.join("sender", json!({}));
    world.ask(sender, "b", message.clone());
    world.sync();
    assert!(world.take(sender).is_empty(), "it waits with the first one");
    let seen: Vec<_> = world.shelf.records.values().cloned().collect();
    assert_eq!(world.router.remove("b", &seen, Ticket(u64::MAX)), 1);
    world.turn();
    assert_eq!(briefly(&world.take(sender)), ["error m1 rejected"]);
    world.ask(sender, "b", message);
    world.sync();
    assert_eq!(world.shelf.records.len(), 1, "sent again, it is new");
    world.end_with_mailboxes();
}

#[test]
fn a_trace_tells_who_holds_a_message() {
    use hermes_bus_proto::Raw;
    let mut world = World::new();
    let a = world.join("a", json!({}));
    let b = world.join("b", json!({"ack": true, "in_flight": 1}));
    for n in 1..=2 {
        world.ask(a, "b", json!({"id": format!("m{n}"), "receipt": "acked", "body": n}));
    }
    world.take(b);
    let held = world.router.trace_of(a, Raw::new(b"\"m1\""));
    let states: Vec<&str> = held.states.iter().map(|state| state.state).collect();
    assert_eq!(states, ["accepted", "delivered"]);
    assert_eq!(held.standings[0].place, "in_flight");
    let waiting = world.router.trace_of(a, Raw::new(b"\"m2\""));
    assert_eq!(waiting.standings[0].place, "waiting");
    assert!(waiting.standings[0].blocked_by.contains("holds 1"), "{waiting:?}");
    world.end();
}

#[test]
fn a_dead_letter_that_is_tried_again_is_traced_again() {
    use hermes_bus_proto::Raw;
    let mut world = durable();
    let a = world.join("a", json!({}));
    let b = world.join("b", json!({"mailbox": true, "ack": true}));
    world.ask(a, "b", json!({"id": "m1", "receipt": "acked", "body": 1}));
    let seq = world.take(b)[0]["seq"].clone();
    world.send(b, &json!({"type": "nack", "seq": seq, "requeue": false}));
    world.sync();
    let letter = world.shelf.dead.pop().expect("it is dead");
    world.pass_ms(1_000);
    assert!(world.router.retry(letter.record).is_ok());
    world.turn();
    assert_eq!(briefly(&world.take(b)), ["message 1 again:2"]);
    let traced = world.router.trace_of(a, Raw::new(b"\"m1\""));
    let states: Vec<&str> = traced.states.iter().map(|state| state.state).collect();
    let first = ["accepted", "delivered", "dead"];
    assert_eq!(states, [&first[..], &["accepted", "delivered"]].concat(), "{traced:?}");
    assert_eq!(traced.standings[0].place, "in_flight");
    world.send(b, &json!({"type": "ack", "up_to": EVERYTHING}));
    world.sync();
    world.end_with_mailboxes();
}

#[test]
fn what_stands_on_disk_waits_only_as_long_as_the_router_says_so() {
    let mut world = World::with(|config| config.store = true);
    let a = world.join("a", json!({}));
    let b = world.join("b", json!({"mailbox": true, "ack": true}));
    world.hang_up(b);
    world.pass_ms(4_000);
    world.ask(a, "b", json!({"id": "m1", "receipt": "acked", "body": 1}));
    world.sync();
    let (name, seq) = {
        let record = world.shelf.records.values().next().expect("it is on disk");
        (record.endpoint.clone(), record.seq)
    };
    let standing = |world: &World| world.router.standing_on_disk(&name, seq, None);
    let away = standing(&world).expect("it waits");
    assert_eq!((away.place, away.blocked_by.as_str()), ("stored", "b is away"));
    let b = world.join("b", json!({"mailbox": true, "ack": true}));
    world.sync();
    assert_eq!(briefly(&world.take(b)), ["message 1"]);
    assert_eq!(standing(&world), None, "it is in memory");
    // The disk has not heard of it.
    world.send(b, &json!({"type": "ack", "seqs": [seq]}));
    assert!(world.shelf.records.contains_key(&seq) && standing(&world).is_none());
    world.sync();
    world.end_with_mailboxes();
}

#[test]
fn what_a_receiver_without_words_has_not_read_stays_on_disk_and_is_said_to() {
    let mut world = World::with(|config| config.store = true);
    let a = world.join("a", json!({}));
    let b = world.register("b");
    world.stop_reading(b, 1_000_000);
    world.ask(a, "b", json!({"id": "m1", "queue": true, "body": 1}));
    world.sync();
    let record = world.shelf.records.values().next().expect("it is on disk").clone();
    let standing =
        |world: &World| world.router.standing_on_disk(&record.endpoint, record.seq, None);
    let unread = standing(&world).expect("it is not read");
    assert!(
        unread.blocked_by.ends_with("has not read all that was handed over to it"),
        "{unread:?}"
    );
    world.hang_up(b);
    world.pass_ms(4_000);
    assert_eq!(standing(&world).expect("it waits").blocked_by, "b is away");
    world.end_with_mailboxes();
}

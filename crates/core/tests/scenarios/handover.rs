//! One process of the bus ends, and the next one takes over.

use std::time::Duration;

use serde_json::json;

use crate::shelf::briefly;
use crate::world::{OWNER, World};

#[test]
fn names_and_what_is_held_for_them_go_on_in_the_next_process() {
    let mut world = World::new();
    let (reader, busy) = (world.register("reader"), world.register("busy"));
    world.stop_reading(busy, 0);
    world.message(reader, "busy", "not read before the end");
    world.router.shut_down();
    world.pass_ms(2_000);
    assert!(world.router.is_idle());
    let mut left = world.router.lingering();
    left.sort_by(|a, b| a.name.as_str().cmp(b.name.as_str()));
    let names: Vec<&str> = left.iter().map(|lingering| lingering.name.as_str()).collect();
    assert_eq!(names, ["busy", "reader"]);

    let mut next = World::new();
    next.router.restore(left);
    let sender = next.register("sender");
    next.message(sender, "reader", "sent meanwhile");
    next.message(sender, "busy", "later");
    assert_eq!(next.endpoints(), ["sender"], "nobody is there yet");
    let (_, bodies) = next.register_and_take("reader");
    assert_eq!(bodies, ["sent meanwhile"]);
    let (_, bodies) = next.register_and_take("busy");
    assert_eq!(bodies, ["not read before the end", "later"]);
    next.end();
}

#[test]
fn who_sent_what_was_queued_for_a_session_of_level_1_is_not_known_and_nobody_is_named_for_it() {
    let mut world = World::new();
    let (reader, busy) = (world.register("reader"), world.register("busy"));
    world.stop_reading(busy, 0);
    world.message(reader, "busy", "held");
    world.router.shut_down();
    world.pass_ms(2_000);
    let left = world.router.lingering();

    let mut next = World::with(|config| config.store = true);
    next.router.restore(left);
    let (busy, frames) = next.join_and_take("busy", json!({"mailbox": true, "ack": true}));
    let message = frames.last().expect("it was held");
    assert_eq!((&message["body"], message.get("sender")), (&json!("held"), None));
    next.send(busy, &json!({"type": "ack", "seqs": [message["seq"]]}));
    next.end_with_mailboxes();
}

/// The bus ends, and another process goes on with what it leaves, in memory and on disk.
fn followed(mut world: World) -> World {
    world.router.shut_down();
    world.pass_ms(2_000);
    world.router.end();
    world.turn();
    world.sync();
    let left = world.router.lingering();
    let mut next = world.crash();
    next.router.restore(left);
    next.turn();
    next
}

#[test]
fn what_was_in_hands_when_the_process_ended_is_marked_as_come_again() {
    let mut world = World::new();
    let (mouth, ear) = (world.join("mouth", json!({})), world.join("ear", json!({"ack": true})));
    world.message(mouth, "ear", "in its hands");
    assert_eq!(briefly(&world.take(ear)), ["message in its hands"]);
    let mut next = followed(world);
    let (ear, frames) = next.join_and_take("ear", json!({"ack": true}));
    assert_eq!(briefly(&frames), ["registered", "message in its hands again:2"]);
    assert_eq!(frames[1]["sender"]["endpoint"], "mouth");

    // It is counted on over one more process.
    next.message(ear, "ear", "new");
    assert_eq!(briefly(&next.take(ear)), ["message new"]);
    let mut last = followed(next);
    let (ear, frames) = last.join_and_take("ear", json!({"ack": true}));
    let expected = ["registered", "message in its hands again:3", "message new again:2"];
    assert_eq!(briefly(&frames), expected);
    last.send(ear, &json!({"type": "ack", "up_to": frames[2]["seq"]}));
    last.end();
}

#[test]
fn the_time_to_live_goes_on_in_the_next_process() {
    let mut world = World::with(|config| config.store = true);
    let (mouth, ear) = (world.join("mouth", json!({})), world.register("ear"));
    world.hang_up(ear);
    world.pass_ms(1);
    for (body, ttl_s, asks) in [("now", 0.5, "delivered"), ("soon", 2.0, "delivered")] {
        let members = json!({"id": body, "body": body, "ttl_s": ttl_s, "receipt": asks});
        world.ask(mouth, "ear", members);
    }
    world.ask(mouth, "ear", json!({"id": "later", "body": "later", "ttl_s": 60}));
    world.router.shut_down();
    let left = world.router.lingering();
    let bodies = left.iter().map(|left| left.messages.len()).sum::<usize>();
    assert_eq!(bodies, 3);

    let mut next = World::with(|config| config.store = true);
    next.pass_ms(1_000);
    next.router.restore(left);
    next.turn();
    next.sync();
    let dead = |next: &World| -> Vec<String> {
        let ids = next.shelf.dead.iter().map(|letter| {
            let message: serde_json::Value =
                serde_json::from_slice(&letter.record.payload).expect("JSON");
            assert_eq!(letter.reason, hermes_bus_proto::ErrorCode::Expired);
            message["id"].as_str().expect("an id").to_owned()
        });
        ids.collect()
    };
    assert_eq!(dead(&next), ["now"], "its time was over before");
    next.pass_ms(1_000);
    assert_eq!(next.counters().expired, 1);
    next.pass_ms(1);
    next.sync();
    assert_eq!(dead(&next), ["now", "soon"]);
    let (ear, frames) = next.join_and_take("ear", json!({}));
    assert_eq!(briefly(&frames), ["registered", "message later"]);
    next.hang_up(ear);
    next.end();
}

#[test]
fn what_is_missed_becomes_a_dead_letter_in_the_next_process_too() {
    let mut world = World::with(|config| config.store = true);
    let (mouth, ear) = (world.join("mouth", json!({})), world.join("ear", json!({"ack": true})));
    world.ask(mouth, "ear", json!({"id": "missed", "body": 1, "receipt": "acked"}));
    world.ask(mouth, "ear", json!({"id": "not missed", "body": 2}));
    assert_eq!(world.take(ear).len(), 2);
    let mut next = followed(world);
    next.pass_ms(3_000);
    next.sync();
    assert_eq!(next.counters().dropped_receiver_gone, 2);
    let [letter] = &next.shelf.dead[..] else { panic!("{:?}", next.shelf.dead) };
    let message: serde_json::Value = serde_json::from_slice(&letter.record.payload).expect("JSON");
    assert_eq!(message["id"], "missed");
    let sender = letter.record.sender.as_ref().expect("it is known");
    assert_eq!(sender.endpoint.as_ref().map(|name| name.as_str()), Some("mouth"));
    next.end();
}

#[test]
fn the_topic_that_a_message_came_through_is_known_in_the_next_process() {
    let mut world = World::new();
    let mouth = world.join("mouth", json!({}));
    let options = json!({"ack": true, "topics": ["build.*"]});
    let ear = world.join("ear", options.clone());
    world.stop_reading(ear, 0);
    world.message(mouth, "#build.done", "green");
    let mut next = followed(world);
    let (ear, frames) = next.join_and_take("ear", options);
    assert_eq!(briefly(&frames), ["registered", "message green"]);
    assert_eq!((&frames[1]["via"], &frames[1]["delivery"]), (&json!("#build.done"), &json!(null)));
    next.send(ear, &json!({"type": "ack", "up_to": frames[1]["seq"]}));
    next.end();
}

#[test]
fn what_is_in_memory_and_what_is_on_disk_keep_their_order_over_a_hand_over() {
    let mut world = World::with(|config| config.store = true);
    let (mouth, ear) = (world.join("mouth", json!({})), world.join("ear", json!({"ack": true})));
    world.stop_reading(ear, 0);
    for n in 0..6 {
        world.ask(mouth, "ear", json!({"id": n.to_string(), "body": n, "queue": n % 2 == 1}));
    }
    world.sync();
    let mut next = followed(world);
    let (ear, mut frames) = next.join_and_take("ear", json!({"ack": true}));
    next.sync();
    frames.extend(next.take(ear));
    let frames = &frames[1..];
    let bodies: Vec<_> = frames.iter().map(|frame| &frame["body"]).collect();
    assert_eq!(bodies, [0, 1, 2, 3, 4, 5]);
    next.send(ear, &json!({"type": "ack", "up_to": frames[5]["seq"]}));
    next.sync();
    next.end();
}

#[test]
fn a_released_client_that_inherits_over_a_hand_over_gets_what_level_1_knows() {
    let mut world = World::new();
    let (a, busy) = (world.register("a"), world.join("busy", json!({})));
    world.stop_reading(busy, 0);
    world.message(a, "busy", "held");
    world.router.shut_down();
    world.pass_ms(2_000);
    let left = world.router.lingering();
    let mut next = World::new();
    next.router.restore(left);
    let busy = next.connect();
    next.send(busy, &json!({"type": "register", "endpoint": "busy"}));
    let frames = next.take(busy);
    assert_eq!((frames.len(), &frames[1]["body"]), (2, &json!("held")));
    assert_eq!((frames[1].get("sender"), &frames[1]["from"]), (None, &json!("a")));
    next.end();
}

#[test]
fn what_was_only_spilled_ends_with_its_process_and_is_counted() {
    let mut world = World::with(|config| {
        config.store = true;
        config.queue_bytes_max = 2_000;
    });
    let (a, b) = (world.register("a"), world.register("b"));
    world.stop_reading(b, 0);
    for n in 0..40 {
        world.message(a, "b", format!("{n} {}", "x".repeat(100)));
    }
    world.sync();
    let spilled = world.shelf.records.len() as u64;
    assert!(spilled > 10);
    world.router.shut_down();
    world.pass_ms(2_000);
    let dropped = world.counters().dropped_receiver_gone;
    world.router.end();
    assert_eq!(world.counters().dropped_receiver_gone - dropped, spilled);
    world.turn();
    world.sync();
    assert_eq!(world.shelf.records.len(), 0);
}

#[test]
fn all_that_was_queued_goes_on_however_much_it_is() {
    let limits = |config: &mut hermes_bus_core::Config| {
        config.held_bytes_max = 3_000;
        config.held_bytes_total_max = 3_000;
        config.queue_bytes_max = 20_000;
        config.linger = Duration::from_millis(500);
    };
    let mut world = World::with(limits);
    let (slow, mouth) = (world.register("slow"), world.register("mouth"));
    world.stop_reading(slow, 0);
    for number in 0..30 {
        let text =
            json!({"type": "message", "to": "slow", "body": number, "fill": "x".repeat(900)});
        world.put(mouth, &[&text.to_string()]);
    }
    world.turn();
    assert_eq!(world.counters().sender_waits, 1, "not all of it fits");
    world.router.configure(world.router.config().before_a_successor());
    world.turn();
    assert_eq!(world.counters().messages, 30, "the sender is not held any more");
    world.router.shut_down();
    world.pass_ms(2_000);
    assert!(world.router.is_idle());
    let left = world.router.lingering();
    assert_eq!(left.len(), 2, "though they linger for half a second only");

    let mut next = World::with(limits);
    next.router.restore(left);
    let mouth = next.register("mouth");
    for number in 30..32 {
        next.message(mouth, "slow", number);
    }
    let (_, bodies) = next.register_and_take("slow");
    assert_eq!(bodies, (0..32).collect::<Vec<_>>(), "nothing made room for anything");
    assert_eq!(next.counters().dropped(), 0);
    next.end();
}

#[test]
fn a_sender_that_leaves_answers_unread_is_heard_to_the_end() {
    let mut world = World::with(|config| config.answer_bytes_max = 100);
    let (ear, rude) = (world.register("ear"), world.register("rude"));
    world.stop_reading(rude, 0);
    for _ in 0..10 {
        world.put(rude, &[r#"{"type": "ping"}"#]);
    }
    world.put(rude, &[&json!({"type": "message", "to": "ear", "body": "last words"}).to_string()]);
    world.turn();
    assert!(world.bodies(ear).is_empty(), "it is not read from");
    world.router.configure(world.router.config().at_the_end());
    world.turn();
    assert_eq!(world.bodies(ear), ["last words"]);
    world.end();
}

#[test]
fn a_name_that_nobody_comes_back_for_is_forgotten_and_counted() {
    let mut world = World::new();
    let gone = world.register("gone");
    world.stop_reading(gone, 0);
    let sender = world.connect();
    world.message(sender, "gone", 1);
    world.router.shut_down();
    world.pass_ms(2_000);
    let left = world.router.lingering();
    assert_eq!((left.len(), left[0].uid, left[0].messages.len()), (1, OWNER, 1));

    let mut next = World::new();
    next.router.restore(left);
    next.pass_ms(2_999);
    assert_eq!(next.counters().dropped_receiver_gone, 0);
    next.pass_ms(1);
    assert_eq!(next.counters().dropped_receiver_gone, 1);
    assert_eq!(next.router.lingering(), []);
    next.end();
}

#[test]
fn another_user_does_not_get_what_was_held() {
    let mut world = World::with(|config| config.allow_uids = vec![1001]);
    let mine = world.register("mine");
    world.stop_reading(mine, 0);
    let sender = world.connect();
    world.message(sender, "mine", "secret");
    world.router.shut_down();
    world.pass_ms(2_000);
    let mut next = World::with(|config| config.allow_uids = vec![1001]);
    next.router.restore(world.router.lingering());
    let thief = next.register_as(1001, "mine");
    assert_eq!(next.bodies(thief), Vec::<serde_json::Value>::new());
    assert_eq!(next.counters().dropped_receiver_gone, 1);
    next.end();
}

#[test]
fn a_name_that_is_in_use_already_is_left_alone() {
    let mut world = World::new();
    let name = world.register("name");
    world.stop_reading(name, 0);
    let sender = world.connect();
    world.message(sender, "name", "late");
    world.router.shut_down();
    world.pass_ms(2_000);
    let mut next = World::new();
    let holder = next.register("name");
    next.router.restore(world.router.lingering());
    assert_eq!(next.counters().dropped_receiver_gone, 1);
    next.send(holder, &json!({"type": "ping"}));
    assert_eq!(next.take(holder)[0]["type"], "pong");
    next.end();
}

#[test]
fn only_connections_that_have_said_and_heard_nothing_are_untouched() {
    let mut world = World::new();
    let quiet = world.connect();
    let begun = world.connect();
    world.router.buffered(begun, 1, Some(3));
    let asked = world.connect();
    world.send(asked, &json!({"type": "ping"}));
    world.register("named");
    let stranger = world.connect_as(4242);
    assert_eq!(world.closed(stranger), Some(hermes_bus_core::CloseReason::Refused));
    assert_eq!(world.router.untouched(), [quiet]);
    world.router.buffered(begun, 0, None);
    world.end();
}

#[test]
fn a_sender_that_waits_goes_on_with_its_message_as_if_both_had_just_come() {
    let mut world = World::new();
    let away = world.register("away");
    world.hang_up(away);
    let (waits, has_sent_two) = (world.connect(), world.connect());
    let message = json!({"type": "message", "to": "away", "id": "first", "body": 1}).to_string();
    world.send_text(waits, &message);
    world.message(has_sent_two, "away", 2);
    world.message(has_sent_two, "away", 3);
    let taken = world.router.take_waiting_senders();
    let [(sender, frame)] = &taken[..] else { panic!("{} were taken", taken.len()) };
    assert_eq!(*sender, waits);
    let frame: serde_json::Value = serde_json::from_slice(&frame[4..]).expect("JSON");
    assert_eq!((&frame["id"], &frame["body"]), (&json!("first"), &json!(1)));
    world.hang_up(waits);
    assert_eq!(world.router.lingering()[0].messages.len(), 2, "the others' messages stay");
    let (_, bodies) = world.register_and_take("away");
    assert_eq!(bodies, [2, 3]);
    world.end();
}

#[test]
fn named_sessions_end_at_once_and_what_they_had_not_read_is_held() {
    let mut world = World::new();
    let (stuck, mouth) = (world.register("stuck"), world.register("mouth"));
    world.stop_reading(stuck, 0);
    let asks = world.connect();
    world.stop_reading(asks, 0);
    world.send(asks, &json!({"type": "ping"}));
    world.message(mouth, "stuck", "not read");
    world.router.shut_down();
    world.router.end_named_sessions();
    world.turn();
    assert!(world.closed(stuck).is_some() && world.closed(mouth).is_some());
    assert_eq!(world.closed(asks), None, "it has its time to read the answer");
    let left = world.router.lingering();
    assert_eq!(left.iter().map(|name| name.messages.len()).sum::<usize>(), 1);
    world.pass_ms(2_000);
    assert!(world.router.is_idle());
}

//! Where memory and the disk must agree: what is told, counted and delivered while the disk is behind,
//! full, or just being read.

use hermes_bus_core::SessionKey;
use hermes_bus_core::storage::{Answer, Order, Record};
use hermes_bus_proto::{ErrorCode, Raw};
use serde_json::{Value, json};

use crate::shelf::briefly;
use crate::world::World;

/// A bus with a disk.
fn durable() -> World {
    World::with(|config| config.store = true)
}

/// A bus with a disk whose receivers have room for a few messages in memory.
fn spilling() -> World {
    World::with(|config| {
        config.store = true;
        config.queue_bytes_max = 2_000;
    })
}

/// Sends messages of about 100 bytes, numbered from 0.
fn send_many(world: &mut World, from: SessionKey, to: &str, count: u64) {
    for n in 0..count {
        world.message(from, to, format!("{n} {}", "x".repeat(100)));
    }
}

/// The number of a message of [`send_many`].
fn number(message: &Value) -> u64 {
    let (number, _) = message["body"].as_str().expect("text").split_once(' ').expect("a number");
    number.parse().expect("a number")
}

fn acknowledge(world: &mut World, key: SessionKey) {
    world.send(key, &json!({"type": "ack", "up_to": 1_u64 << 52}));
}

// ---- time to live -----------------------------------------------------------------------------------

#[test]
fn what_expires_while_its_receiver_comes_back_expires_once() {
    let mut world = durable();
    let a = world.join("a", json!({}));
    let b = world.join("b", json!({"mailbox": true, "ack": true}));
    world.hang_up(b);
    world.pass_ms(4_000);
    world.ask(a, "b", json!({"id": "m1", "receipt": "acked", "ttl_s": 2, "body": 1}));
    world.sync();
    // The disk is asked for what has expired, and then for what waits for the receiver: both find it.
    world.pass_ms(2_100);
    let b = world.join("b", json!({"mailbox": true, "ack": true}));
    let asked = |order: &Order| matches!(order, Order::LoadOverdue { .. } | Order::Load { .. });
    assert_eq!(world.orders.iter().filter(|(_, order)| asked(order)).count(), 2);
    world.sync();
    assert_eq!(briefly(&world.take(b)), Vec::<String>::new());
    assert_eq!(briefly(&world.take(a)), ["error m1 expired"]);
    assert_eq!((world.counters().expired, world.shelf.dead.len()), (1, 1));
    world.end_with_mailboxes();
}

#[test]
fn a_slow_disk_finds_an_expired_message_once_however_often_it_is_time_to_look() {
    let mut world = durable();
    let a = world.join("a", json!({}));
    let b = world.join("b", json!({"mailbox": true, "ack": true}));
    world.hang_up(b);
    world.pass_ms(4_000);
    world.ask(a, "b", json!({"id": "m1", "receipt": "acked", "ttl_s": 2, "body": 1}));
    world.sync();
    world.pass_ms(2_100);
    // The disk is asked what has expired, and before it has answered there is more of that.
    world.ask(a, "b", json!({"id": "m2", "receipt": "acked", "ttl_s": 1, "body": 2}));
    world.pass_ms(1_100);
    world.sync();
    assert_eq!(briefly(&world.take(a)), ["error m1 expired", "error m2 expired"]);
    assert_eq!((world.counters().expired, world.shelf.dead.len()), (2, 2));
    world.end_with_mailboxes();
}

#[test]
fn a_message_without_any_time_to_live_is_delivered_to_who_can_take_it_now() {
    let mut world = World::new();
    let a = world.join("a", json!({}));
    let b = world.join("b", json!({"ack": true, "in_flight": 1}));
    for n in 1..=2 {
        let id = format!("m{n}");
        world.ask(a, "b", json!({"id": id, "receipt": "acked", "ttl_s": 0, "body": n}));
    }
    world.pass_ms(1);
    assert_eq!(briefly(&world.take(a)), ["error m2 expired"]);
    assert_eq!(briefly(&world.take(b)), ["message 1"]);
    acknowledge(&mut world, b);
    assert_eq!(briefly(&world.take(a)), ["receipt m1 acked"]);
    assert_eq!(world.take(b).len(), 0);
    world.end();
}

// ---- how often, and through whom --------------------------------------------------------------------

#[test]
fn a_message_that_had_begun_to_leave_is_marked_when_it_comes_again() {
    let mut world = World::new();
    let a = world.register("a");
    let b = world.join("b", json!({"ack": true}));
    world.stop_reading(b, 40);
    for n in 1..=2 {
        world.message(a, "b", n);
    }
    world.hang_up(b);
    let (b, frames) = world.join_and_take("b", json!({"ack": true}));
    assert_eq!(briefly(&frames), ["registered", "message 1 again:2", "message 2"]);
    acknowledge(&mut world, b);
    world.end();
}

#[test]
fn a_held_message_keeps_how_often_it_came_and_through_which_group() {
    let mut world = World::new();
    let a = world.register("a");
    let one = world.join("one", json!({"ack": true, "groups": ["workers"]}));
    world.message(a, "@workers", 1);
    assert_eq!(briefly(&world.take(one)), ["message 1"]);
    let two = world.join("two", json!({"groups": ["workers"]}));
    world.stop_reading(two, 0);
    // It goes to the other member, who leaves before it has begun to read.
    world.hang_up(one);
    world.hang_up(two);
    let (two, frames) = world.join_and_take("two", json!({"ack": true}));
    assert_eq!(briefly(&frames), ["registered", "message 1 again:2"]);
    assert_eq!(frames[1]["via"], "@workers");
    acknowledge(&mut world, two);
    world.end();
}

#[test]
fn a_spilled_message_is_counted_as_often_as_it_was_handed_over() {
    let mut world = spilling();
    let a = world.register("a");
    let options = json!({"ack": true, "in_flight": 1});
    let b = world.join("b", options.clone());
    send_many(&mut world, a, "b", 50);
    assert!(world.counters().spilled > 20, "{:?}", world.counters());
    let mut newest = 0;
    while newest < 45 {
        world.sync();
        newest = number(world.take(b).last().expect("one at a time"));
        if newest < 45 {
            acknowledge(&mut world, b);
        }
    }
    world.hang_up(b);
    // Now somebody who does not acknowledge has its name, and leaves without having read anything.
    let b = world.connect();
    world.stop_reading(b, 0);
    world.send(b, &json!({"type": "register", "endpoint": "b", "protocol": 2}));
    world.sync();
    world.hang_up(b);
    let (b, mut frames) = world.join_and_take("b", options);
    world.sync();
    frames.extend(world.take(b));
    let first = frames.iter().find(|frame| frame["type"] == "message").expect("a message");
    assert_eq!((number(first), &first["delivery"]), (45, &json!(2)));
    for _ in 45..50 {
        acknowledge(&mut world, b);
        world.sync();
    }
    world.end();
}

// ---- repetitions ------------------------------------------------------------------------------------

#[test]
fn who_repeats_a_message_to_a_receiver_that_does_not_acknowledge_is_told_so() {
    let mut world = World::new();
    let (a, b) = (world.join("a", json!({})), world.register("b"));
    world.stop_reading(b, 0);
    let ask = json!({"id": "m1", "receipt": "acked", "body": 1});
    world.ask(a, "b", ask.clone());
    world.ask(a, "b", ask.clone());
    assert_eq!(briefly(&world.take(a)), Vec::<String>::new());
    world.read_on(b);
    assert_eq!(world.bodies(b), [json!(1)]);
    let impossible = "error m1 receipt_impossible";
    assert_eq!(briefly(&world.take(a)), [impossible, impossible]);
    world.ask(a, "b", ask);
    assert_eq!(briefly(&world.take(a)), [impossible], "also when it is known already");
    assert_eq!(world.take(b).len(), 0);
    world.end();
}

// ---- the disk is full, or behind --------------------------------------------------------------------

#[test]
fn a_group_s_message_on_disk_moves_to_another_member_even_while_nothing_new_can_be_kept() {
    let mut world = durable();
    let a = world.join("a", json!({}));
    let options = json!({"ack": true, "mailbox": true, "groups": ["workers"]});
    let one = world.join("one", options.clone());
    world.ask(a, "@workers", json!({"id": "m1", "receipt": "stored", "body": 1}));
    world.sync();
    assert_eq!(world.take(one).len(), 1);
    let two = world.join("two", options);
    world.sync();
    world.router.storage(Answer::Trouble(Some("no space left on device".to_owned())));
    world.hang_up(one);
    assert_eq!(briefly(&world.take(two)), ["message 1 again:2"]);
    assert_eq!(world.shelf.records.len(), 1, "it is on disk all the while");
    world.router.storage(Answer::Trouble(None));
    world.sync();
    let endpoints: Vec<&str> =
        world.shelf.records.values().map(|record| record.endpoint.as_str()).collect();
    assert_eq!(endpoints, ["two"]);
    acknowledge(&mut world, two);
    world.sync();
    assert!(world.shelf.records.is_empty());
    world.end_with_mailboxes();
}

#[test]
fn what_is_spilled_and_refused_is_lost_once_in_the_books() {
    let mut world = spilling();
    let (a, slow) = (world.register("a"), world.register("slow"));
    world.stop_reading(slow, 0);
    send_many(&mut world, a, "slow", 50);
    let spilled = world.counters().spilled;
    assert!(spilled > 20, "{:?}", world.counters());
    world.refuse_all("no space left on device");
    assert_eq!(world.counters().dropped_store_failed, spilled);
    world.hang_up(slow);
    world.pass_ms(3_100);
    world.sync();
    assert_eq!(world.counters().dropped_store_failed, spilled);
    assert_eq!(world.counters().dropped_receiver_gone, 50 - spilled);
    world.end();
}

#[test]
fn what_is_dropped_on_its_way_to_the_disk_and_refused_there_is_lost_once() {
    let mut world = spilling();
    let a = world.join("a", json!({}));
    let slow = world.register("slow");
    world.stop_reading(slow, 0);
    world.ask(a, "slow", json!({"id": "m1", "queue": true, "body": "queued"}));
    world.sync();
    send_many(&mut world, a, "slow", 50);
    let spilled = world.counters().spilled;
    assert!(spilled > 20, "{:?}", world.counters());
    world.hang_up(slow);
    world.pass_ms(3_100);
    assert_eq!(world.counters().dropped_receiver_gone, 50);
    world.refuse_all("no space left on device");
    world.sync();
    assert_eq!(world.counters().dropped_store_failed, 0, "they were dropped before");
    assert_eq!(world.router.mailboxes()[0].kept.messages, 1, "one of them was not");
    let slow = world.register("slow");
    world.sync();
    assert_eq!(world.bodies(slow), [json!("queued")]);
    world.router.has_read_all(slow);
    world.turn();
    world.sync();
    world.end();
}

#[test]
fn what_the_owner_removes_on_its_way_to_the_disk_is_not_lost_there_once_more() {
    let mut world = durable();
    let a = world.join("a", json!({}));
    let b = world.join("b", json!({"mailbox": true, "ack": true}));
    world.hang_up(b);
    world.pass_ms(4_000);
    world.ask(a, "b", json!({"id": "m1", "receipt": "stored", "body": 1}));
    assert_eq!(world.router.purge("b").map(|removed| removed.messages), Some(1));
    world.turn();
    assert_eq!(briefly(&world.take(a)), ["error m1 rejected"]);
    world.ask(a, "b", json!({"id": "m2", "receipt": "stored", "body": 2}));
    let late = world.orders.pop().expect("the second message");
    world.refuse_all("no space left on device");
    world.orders.push(late);
    world.sync();
    assert_eq!(briefly(&world.take(a)), ["receipt m2 stored"]);
    assert_eq!(world.counters().dropped_store_failed, 0);
    assert_eq!(world.router.mailboxes()[0].kept.messages, 1);
    world.end_with_mailboxes();
}

#[test]
fn what_was_dropped_is_told_and_not_delivered_by_a_disk_that_answers_late() {
    let mut world = spilling();
    let (a, slow) = (world.join("a", json!({})), world.register("slow"));
    world.stop_reading(slow, 0);
    send_many(&mut world, a, "slow", 50);
    world.ask(a, "slow", json!({"id": "m1", "receipt": "delivered", "body": "spilled"}));
    world.ask(a, "slow", json!({"id": "m2", "queue": true, "body": "queued"}));
    // The disk is asked for what it has of the receiver, and is slow.
    let is_load = |order: &Order| matches!(order, Order::Load { .. });
    assert!(world.orders.iter().any(|(_, order)| is_load(order)), "{:?}", world.orders);
    world.hang_up(slow);
    world.pass_ms(3_100);
    assert_eq!(briefly(&world.take(a)), ["error m1 receiver_gone"]);
    assert_eq!(world.counters().dropped_receiver_gone, 51, "all but the one that is to wait");
    // Only now the disk answers.
    let slow = world.register("slow");
    world.sync();
    world.sync();
    assert_eq!(world.bodies(slow), [json!("queued")]);
    world.router.has_read_all(slow);
    world.turn();
    world.sync();
    world.end();
}

// ---- what is not promised, and to whom --------------------------------------------------------------

#[test]
fn what_is_only_spilled_is_never_said_to_be_stored() {
    let mut world = spilling();
    let a = world.join("a", json!({}));
    let b = world.join("b", json!({"ack": true, "in_flight": 1}));
    send_many(&mut world, a, "b", 30);
    assert!(world.counters().spilled > 0);
    world.ask(a, "b", json!({"id": "m1", "receipt": "acked", "body": "1"}));
    world.sync();
    world.ask(a, "b", json!({"id": "m1", "receipt": "stored", "body": "1"}));
    world.sync();
    assert_eq!(briefly(&world.take(a)), Vec::<String>::new());
    while !world.take(b).is_empty() {
        acknowledge(&mut world, b);
        world.sync();
    }
    assert_eq!(briefly(&world.take(a)), ["receipt m1 delivered", "receipt m1 acked"]);
    world.end();
}

/// Half of so many messages for a receiver that does not read ask for a receipt: the odd ones.
fn send_half_missed(world: &mut World, from: SessionKey, to: &str, count: u64) {
    for n in 0..count {
        let body = format!("{n} {}", "x".repeat(100));
        match n % 2 {
            0 => world.message(from, to, body),
            _ => world.ask(
                from,
                to,
                json!({"id": format!("m{n}"), "receipt": "delivered", "body": body}),
            ),
        }
    }
}

/// The numbers of the dead letters, ascending, each with a reason and the time of its death.
fn buried(world: &World, reason: ErrorCode) -> Vec<u64> {
    let mut numbers: Vec<u64> = Vec::new();
    for letter in &world.shelf.dead {
        assert_eq!(letter.reason, reason);
        assert!(!letter.detail.is_empty() && letter.died_unix_us >= letter.record.arrived_unix_us);
        numbers.push(number(&serde_json::from_slice(&letter.record.payload).expect("JSON")));
    }
    numbers.sort_unstable();
    numbers
}

const ODD: [u64; 20] = [1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31, 33, 35, 37, 39];

#[test]
fn what_was_spilled_and_is_missed_is_a_dead_letter_when_its_receiver_is_gone() {
    let mut world = spilling();
    let a = world.join("a", json!({}));
    let slow = world.register("slow");
    world.stop_reading(slow, 0);
    send_half_missed(&mut world, a, "slow", 40);
    world.sync();
    let spilled = world.counters().spilled;
    assert!(spilled > 20, "{spilled}");
    world.hang_up(slow);
    world.pass_ms(3_100);
    world.sync();
    assert_eq!(buried(&world, ErrorCode::ReceiverGone), ODD);
    assert_eq!(world.counters().dead_letters, 20);
    assert_eq!(world.counters().dropped_receiver_gone + world.counters().given_up, 40);
    assert!(world.shelf.records.is_empty());
    let told = briefly(&world.take(a));
    assert_eq!(told, ODD.map(|n| format!("error m{n} receiver_gone")));
    let traced = world.router.trace_of(a, Raw::new(b"\"m39\""));
    let states: Vec<&str> = traced.states.iter().map(|state| state.state).collect();
    assert_eq!(states, ["accepted", "spilled", "dead"]);
    world.end();
}

#[test]
fn what_was_spilled_and_is_missed_is_a_dead_letter_when_its_process_ends() {
    let mut world = spilling();
    let a = world.join("a", json!({}));
    let slow = world.register("slow");
    world.stop_reading(slow, 0);
    send_half_missed(&mut world, a, "slow", 40);
    world.sync();
    let missed = |world: &World| {
        let is_missed = |record: &&Record| record.wanted.is_some();
        world.shelf.records.values().filter(is_missed).count()
    };
    let spilled = missed(&world);
    assert!(spilled > 5);
    world.router.shut_down();
    world.pass_ms(2_000);
    world.router.end();
    world.turn();
    world.sync();
    let letters = buried(&world, ErrorCode::ReceiverGone);
    assert_eq!(letters, ODD[ODD.len() - spilled..], "the newest were spilled");
    assert_eq!(world.shelf.records.len(), 0);
}

#[test]
fn another_user_gets_nothing_of_what_a_name_s_last_user_had_not_acknowledged() {
    for has_left in [false, true] {
        let mut world = World::with(|config| config.allow_uids = vec![1_001, 1_002]);
        let a = world.join("a", json!({}));
        let (victim, _) = world.join_as(1_001, "victim", json!({"ack": true, "groups": ["g"]}));
        world.ask(a, "victim", json!({"id": "m1", "receipt": "acked", "body": "secret"}));
        assert_eq!(briefly(&world.take(victim)), ["message secret"]);
        if has_left {
            world.hang_up(victim);
        }
        let (thief, frames) = world.join_as(1_002, "victim", json!({}));
        assert_eq!(briefly(&frames), ["registered"]);
        assert_eq!(briefly(&world.take(a)), ["error m1 receiver_gone"]);
        world.message(a, "@g", "for the group");
        assert_eq!(world.take(thief).len(), 0, "it is not in the last one's groups");
        world.end();
    }
}

#[test]
fn what_a_subscriber_s_mailbox_has_no_room_for_is_missed_aloud() {
    let mut world = World::with(|config| {
        config.store = true;
        config.mailbox_bytes_max = 1_000;
    });
    let a = world.join("a", json!({}));
    let b = world.join("b", json!({"mailbox": true, "ack": true, "topics": ["t"]}));
    world.hang_up(b);
    world.pass_ms(4_000);
    for n in 0..10 {
        world.message(a, "#t", format!("{n} {}", "x".repeat(100)));
    }
    world.sync();
    let kept = world.shelf.records.len();
    assert!(kept > 0 && kept < 10, "{kept}");
    assert_eq!(world.counters().refused_mailbox_full as usize, 10 - kept);
    assert_eq!(world.shelf.dead.len(), 10 - kept);
    world.end_with_mailboxes();
}

#[test]
fn a_publisher_waits_for_the_disk_where_mailboxes_listen() {
    let mut world = World::with(|config| {
        config.store = true;
        config.store_pending_bytes_max = 1_000;
    });
    let a = world.join("a", json!({}));
    let b = world.join("b", json!({"mailbox": true, "ack": true, "topics": ["t"]}));
    world.hang_up(b);
    world.pass_ms(4_000);
    for n in 0..20 {
        world.message(a, "#t", format!("{n} {}", "x".repeat(100)));
    }
    for _ in 0..20 {
        world.sync();
    }
    assert_eq!(world.shelf.records.len(), 20);
    world.end_with_mailboxes();
}

#[test]
fn what_was_queued_for_a_mailbox_is_recognised_by_the_next_process() {
    let mut world = World::with(|config| config.store = true);
    let receiver = world.join("b", json!({"mailbox": true, "ack": true}));
    world.hang_up(receiver);
    world.pass_ms(4_000);
    let sender = world.join("a", json!({}));
    world.ask(sender, "b", json!({"id": "queued", "queue": true, "body": 1}));
    world.ask(sender, "b", json!({"id": "watched", "receipt": "delivered", "body": 2}));
    world.sync();
    let mut world = world.crash();
    let sender = world.join("a", json!({}));
    // The same once more: the first is known, and waited for; the second never was to be.
    world.ask(sender, "b", json!({"id": "queued", "queue": true, "receipt": "acked", "body": 1}));
    world.ask(sender, "b", json!({"id": "watched", "receipt": "delivered", "body": 2}));
    world.sync();
    assert_eq!((world.counters().repeated, world.take(sender).len()), (1, 0));
    let (receiver, mut frames) = world.join_and_take("b", json!({"mailbox": true, "ack": true}));
    world.sync();
    frames.extend(world.take(receiver));
    let bodies: Vec<&Value> = frames.iter().map(|frame| &frame["body"]).skip(1).collect();
    assert_eq!(bodies, [1, 2, 2]);
    assert_eq!(briefly(&world.take(sender)), ["receipt watched delivered"]);
    world.send(receiver, &json!({"type": "ack", "up_to": frames[3]["seq"]}));
    assert_eq!(briefly(&world.take(sender)), ["receipt queued acked"]);
    world.end_with_mailboxes();
}

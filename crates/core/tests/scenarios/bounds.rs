//! Nothing grows without a bound: memory, the disk's quota, the work of one turn.

use hermes_bus_core::storage::Answer;
use hermes_bus_core::{Event, SessionKey};
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

// ---- the work of one turn ---------------------------------------------------------------------------

/// A member that holds so many messages of a group, and so many others that hold none.
fn group_with(world: &mut World, held: usize, others: usize) -> (SessionKey, Vec<SessionKey>) {
    let mailbox = world.router.config().store;
    let options = json!({"groups": ["g"], "ack": true, "in_flight": 65_536, "mailbox": mailbox});
    let first = world.join("first", options.clone());
    let sender = world.join("sender", json!({}));
    let text = json!({"type": "message", "to": "@g", "body": 1}).to_string();
    let texts = vec![&*text; held];
    for some in texts.chunks(1_000) {
        world.write(sender, some);
        world.sync();
    }
    assert_eq!(world.take(first).len(), held);
    let others = (0..others).map(|n| world.join(&format!("m{n}"), options.clone())).collect();
    (first, others)
}

/// A receiver that holds so many messages of 1 KiB, whose ids are their numbers.
fn holder_of(world: &mut World, held: usize) -> SessionKey {
    let holder = world.join("holder", json!({"ack": true, "in_flight": 65_536}));
    let sender = world.join("sender", json!({}));
    let body = "x".repeat(1_000);
    for n in 0..held {
        let frame = json!({"type": "message", "to": "holder", "id": n.to_string(), "body": body});
        world.put(sender, &[&frame.to_string()]);
    }
    world.turn();
    assert_eq!(world.take(holder).len(), held);
    holder
}

#[test]
fn what_a_member_held_is_dealt_evenly_to_the_others_when_it_dies() {
    let mut world = World::new();
    let (first, others) = group_with(&mut world, 103, 10);
    // Two have something to do already.
    let sender = world.connect();
    (0..5).for_each(|_| world.message(sender, "m3", "before"));
    world.message(sender, "m7", "before");
    world.hang_up(first);
    let got: Vec<usize> = others.iter().map(|other| world.take(*other).len()).collect();
    // All have as much to do now, or one more.
    assert_eq!(got.iter().sum::<usize>(), 103 + 6);
    assert!(got.iter().all(|count| (10..=11).contains(count)), "{got:?}");
    assert_eq!(world.counters().rerouted, 103);
    // It goes on in turns.
    (0..10).for_each(|_| world.message(sender, "@g", "after"));
    let after: Vec<usize> = others.iter().map(|other| world.take(*other).len()).collect();
    let all: Vec<usize> = got.iter().zip(&after).map(|(got, after)| got + after).collect();
    assert!(all.iter().all(|count| (11..=12).contains(count)), "{all:?}");
}

#[test]
fn acknowledgements_by_id_take_all_with_the_id_and_nothing_else() {
    let mut world = World::new();
    let holder = holder_of(&mut world, 10);
    let sender = world.connect();
    let seqs = |frames: &[Value]| frames.iter().filter_map(|f| f["seq"].as_u64()).count();
    world.send(holder, &json!({"type": "ack", "ids": ["3", "nobody's"]}));
    assert_eq!(world.counters().acked, 1);
    // The same id twice, in another spelling, and as a number, which is no text.
    for text in [r#""3""#, r#""3""#, r#""\u0033""#, "3"] {
        world.send_text(sender, &format!(r#"{{"type":"message","to":"holder","id":{text}}}"#));
    }
    assert_eq!(seqs(&world.take(holder)), 4);
    world.send(holder, &json!({"type": "ack", "ids": ["3"]}));
    assert_eq!(world.counters().acked, 4);
    world.send(holder, &json!({"type": "ack", "ids": ["3", "4", "4"]}));
    assert_eq!(world.counters().acked, 5);
    // By other means, too, while ids are known.
    world.send(holder, &json!({"type": "ack", "seqs": [1]}));
    world.send(holder, &json!({"type": "ack", "ids": ["0", "1"]}));
    assert_eq!(world.counters().acked, 7);
    // One that was given back is not held, until it comes again.
    world.send(holder, &json!({"type": "nack", "seq": 6}));
    world.send(holder, &json!({"type": "ack", "ids": ["5"]}));
    assert_eq!(world.counters().acked, 7);
    world.pass_ms(1_000);
    assert_eq!(seqs(&world.take(holder)), 1);
    world.send(holder, &json!({"type": "ack", "ids": ["5"]}));
    assert_eq!(world.counters().acked, 8);
    world.send(holder, &json!({"type": "ack", "up_to": 1_000}));
    assert_eq!(world.counters().acked, 14);
    world.end();
}

#[test]
fn dead_letters_that_a_dead_disk_does_not_take_are_bounded_and_counted() {
    let mut world = World::with(|config| {
        config.store = true;
        config.mailbox_bytes_max = 1_000;
    });
    let receiver = world.join("box", json!({"mailbox": true, "ack": true}));
    world.hang_up(receiver);
    world.pass_ms(4_000);
    let sender = world.join("sender", json!({}));
    let body = "x".repeat(1 << 20);
    for id in 0..20 {
        world.ask(sender, "box", json!({"id": id.to_string(), "receipt": "stored", "body": body}));
    }
    assert!(world.take(sender).iter().all(|frame| frame["code"] == "mailbox_full"));
    // 16 MiB of them may wait; the sender has heard of all.
    let counters = world.counters();
    assert_eq!((counters.dead_letters, counters.dropped_store_failed), (15, 5));
    let lost = world.log.iter().filter(|event| matches!(event, Event::StoreLost { messages: 1 }));
    assert_eq!(lost.count(), 5);
    // As soon as the disk takes them there is room again.
    world.sync();
    assert_eq!(world.shelf.dead.len(), 15);
    world.ask(sender, "box", json!({"id": "late", "receipt": "stored", "body": body}));
    world.sync();
    assert_eq!(world.shelf.dead.len(), 16);
    world.end_with_mailboxes();
}

#[test]
fn what_the_owner_removed_says_so_once_in_its_trace() {
    let mut world = World::with(|config| config.store = true);
    let receiver = world.join("box", json!({"mailbox": true, "ack": true, "in_flight": 1}));
    let sender = world.join("sender", json!({}));
    // One in the hands of the receiver, one in memory, and one on disk only, when nobody is there.
    let states = |world: &World, id: &str| -> Vec<&'static str> {
        let found = world.router.trace_of(sender, hermes_bus_proto::Raw::new(id.as_bytes()));
        found.states.iter().map(|state| state.state).collect()
    };
    for id in ["held", "memory"] {
        world.ask(sender, "box", json!({"id": id, "receipt": "acked"}));
    }
    world.sync();
    world.router.purge("box");
    world.turn();
    assert_eq!(states(&world, "\"memory\""), ["accepted", "stored", "purged"]);
    assert_eq!(briefly(&world.take(sender)), ["error memory rejected"]);
    world.hang_up(receiver);
    world.pass_ms(4_000);
    world.ask(sender, "box", json!({"id": "disk", "receipt": "acked"}));
    world.sync();
    world.router.purge("box");
    world.turn();
    assert_eq!(states(&world, "\"disk\""), ["accepted", "waiting", "stored", "purged"]);
    world.end_with_mailboxes();
}

#[test]
fn who_changes_its_subscriptions_faster_than_the_disk_remembers_them_waits_for_it() {
    let mut world = World::with(|config| {
        config.store = true;
        config.store_pending_bytes_max = 2_000;
    });
    let topics: Vec<String> = (0..10).map(|n| format!("{n}{}", "x".repeat(90))).collect();
    let box_ = world.join("box", json!({"mailbox": true, "topics": topics}));
    world.sync();
    let orders = |world: &World| world.orders.len();
    // What changes nothing is only a question.
    for _ in 0..10 {
        world.send(box_, &json!({"type": "subscribe", "topics": topics}));
    }
    assert_eq!((orders(&world), world.take(box_).len()), (0, 10));
    let change = |n: usize| {
        let kind = if n.is_multiple_of(2) { "subscribe" } else { "unsubscribe" };
        json!({"type": kind, "groups": ["g"], "req": n}).to_string()
    };
    let changes: Vec<String> = (0..20).map(change).collect();
    let texts: Vec<&str> = changes.iter().map(String::as_str).collect();
    world.write(box_, &texts);
    let (ordered, heard) = (orders(&world), world.take(box_).len());
    assert!((1..5).contains(&ordered) && heard == ordered, "{ordered} ordered, {heard} heard");
    // Everybody else goes on meanwhile.
    let other = world.join("other", json!({}));
    world.send(other, &json!({"type": "subscribe", "groups": ["g"]}));
    assert_eq!(world.take(other).len(), 1);
    let mut last = Value::Null;
    for _ in 0..20 {
        world.sync();
        last = world.take(box_).pop().unwrap_or(last);
    }
    assert_eq!((&last["req"], &last["groups"]), (&json!(19), &json!([])));
    assert_eq!(world.shelf.remembered["box"].groups.len(), 0);
    // Who cannot be remembered is told so.
    world.router.storage(Answer::Trouble(Some("an error of the device".to_owned())));
    world.write(box_, &texts);
    let heard = world.take(box_);
    assert_eq!((heard.len(), &heard[19]["code"]), (20, &json!("store_unavailable")));
    world.sync();
    world.router.storage(Answer::Trouble(None));
    world.end_with_mailboxes();
}

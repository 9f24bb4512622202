//! Receivers that do not read: who waits, how long, and what is dropped.

use hermes_bus_core::{Event, SessionKey};
use serde_json::{Value, json};

use crate::world::World;

const KIB: usize = 1024;

fn small_queues() -> World {
    World::with(|config| config.queue_bytes_max = 100 * KIB)
}

fn fill(world: &mut World, sender: SessionKey, to: &str, messages: usize) {
    for n in 0..messages {
        world.message(sender, to, json!([n, "x".repeat(10 * KIB)]));
    }
}

fn numbers(bodies: &[Value]) -> Vec<u64> {
    bodies.iter().filter_map(|body| body[0].as_u64()).collect()
}

#[test]
fn a_sender_waits_for_a_full_queue_and_nothing_is_lost() {
    let mut world = small_queues();
    let (slow, sender, other) =
        (world.register("slow"), world.register("sender"), world.register("other"));
    world.stop_reading(slow, 0);
    fill(&mut world, sender, "slow", 15);
    assert!(world.counters().sender_waits > 0);
    assert!(world.router.usage().queued <= 110 * KIB);
    world.message(sender, "other", "behind the wait");
    assert!(world.take(other).is_empty(), "the sender is not read from");
    world.message(slow, "other", "somebody else's");
    assert_eq!(world.bodies(other), ["somebody else's"], "nobody else is held up");
    world.pass_ms(1_900);
    world.read_on(slow);
    assert_eq!(numbers(&world.bodies(slow)), (0..15).collect::<Vec<_>>());
    assert_eq!(world.bodies(other), ["behind the wait"]);
    assert_eq!(world.counters().dropped(), 0);
    world.end();
}

#[test]
fn after_two_seconds_messages_are_dropped_until_half_of_the_queue_is_read() {
    let mut world = small_queues();
    let (stuck, sender, other) =
        (world.register("stuck"), world.register("sender"), world.register("other"));
    world.stop_reading(stuck, 0);
    fill(&mut world, sender, "stuck", 12);
    world.message(sender, "other", "waits too");
    world.pass_ms(1_999);
    assert!(world.take(other).is_empty());
    world.pass_ms(1);
    assert_eq!(world.bodies(other), ["waits too"], "the sender is free again");
    let dropped = world.counters().dropped_receiver_stalled;
    assert!(dropped > 0);
    fill(&mut world, sender, "stuck", 5);
    assert_eq!(world.counters().dropped_receiver_stalled, dropped + 5, "at once, without a wait");
    let stalls = world.log.iter().filter(|event| matches!(event, Event::StallBegan { .. })).count();
    assert_eq!(stalls, 1, "logged once");
    world.read_some(stuck, 30 * KIB);
    fill(&mut world, sender, "stuck", 1);
    assert_eq!(world.counters().dropped_receiver_stalled, dropped + 6, "not half yet");
    world.read_some(stuck, 30 * KIB);
    let ended = Event::StallEnded {
        name: hermes_bus_proto::EndpointName::level_1("stuck").expect("a name"),
        dropped: dropped + 6,
    };
    assert!(world.log.contains(&ended), "{:?}", world.log);
    world.take(stuck);
    world.message(sender, "stuck", "again");
    world.read_on(stuck);
    assert_eq!(world.bodies(stuck).last(), Some(&json!("again")));
    world.end();
}

#[test]
fn an_anonymous_sender_is_told_that_its_message_was_dropped() {
    let mut world = small_queues();
    let (stuck, sender, script) =
        (world.register("stuck"), world.register("sender"), world.connect());
    world.stop_reading(stuck, 0);
    fill(&mut world, sender, "stuck", 12);
    world.pass_ms(2_000);
    world.send(script, &json!({"type": "message", "to": "stuck", "id": 9, "body": 1}));
    let answer = world.take(script).remove(0);
    assert_eq!((&answer["code"], &answer["id"]), (&json!("over_limit"), &json!(9)));
    assert!(
        answer["detail"].as_str().is_some_and(|detail| detail.contains("does not read")),
        "{answer}"
    );
    world.end();
}

#[test]
fn senders_that_wait_go_on_in_their_order() {
    let mut world = small_queues();
    let slow = world.register("slow");
    world.stop_reading(slow, 0);
    let filler = world.register("filler");
    fill(&mut world, filler, "slow", 9);
    let senders: Vec<SessionKey> = (0..5).map(|n| world.register(&format!("s{n}"))).collect();
    for (n, sender) in senders.iter().enumerate() {
        world.message(*sender, "slow", json!([100 + n, "y".repeat(10 * KIB)]));
    }
    world.read_on(slow);
    assert_eq!(numbers(&world.bodies(slow))[9..], [100, 101, 102, 103, 104]);
    world.end();
}

#[test]
fn a_small_message_does_not_overtake_a_large_one_that_waits() {
    let mut world = small_queues();
    let slow = world.register("slow");
    world.stop_reading(slow, 0);
    let (filler, patient, nimble) =
        (world.register("filler"), world.register("patient"), world.register("nimble"));
    fill(&mut world, filler, "slow", 8);
    world.message(patient, "slow", json!([100, "p".repeat(50 * KIB)]));
    world.message(nimble, "slow", json!([101, "small"]));
    world.read_on(slow);
    assert_eq!(numbers(&world.bodies(slow))[8..], [100, 101]);
    world.end();
}

#[test]
fn an_empty_queue_takes_one_message_of_any_size() {
    let mut world = small_queues();
    let (reader, sender) = (world.register("reader"), world.register("sender"));
    world.message(sender, "reader", "m".repeat(300 * KIB));
    assert_eq!(world.bodies(reader).len(), 1);
    assert_eq!(world.counters().sender_waits, 0);
    world.end();
}

#[test]
fn a_slow_reader_that_keeps_reading_loses_nothing_however_many_senders_press() {
    let mut world = small_queues();
    let slow = world.register("slow");
    world.stop_reading(slow, 0);
    let senders: Vec<SessionKey> = (0..8).map(|n| world.register(&format!("s{n}"))).collect();
    for sender in &senders {
        for n in 0..20 {
            let body = json!([n, "z".repeat(10 * KIB)]);
            let message = json!({"type": "message", "to": "slow", "body": body}).to_string();
            world.put(*sender, &[&message]);
        }
    }
    world.turn();
    for _ in 0..200 {
        world.pass_ms(200);
        world.read_some(slow, 20 * KIB);
    }
    assert_eq!(world.bodies(slow).len(), 160);
    assert_eq!(world.counters().dropped(), 0);
    world.end();
}

#[test]
fn a_broadcast_is_dropped_for_the_one_whose_queue_is_full_and_nobody_waits() {
    let mut world = small_queues();
    let (stuck, sender, other) =
        (world.register("stuck"), world.register("sender"), world.register("other"));
    world.stop_reading(stuck, 0);
    fill(&mut world, sender, "stuck", 9);
    for n in 0..5 {
        world.message(sender, "", json!([n, "b".repeat(10 * KIB)]));
    }
    assert_eq!(numbers(&world.bodies(other)), (0..5).collect::<Vec<_>>());
    assert!(world.counters().dropped_broadcast >= 4);
    assert_eq!(world.counters().sender_waits, 0);
    world.end();
}

#[test]
fn who_sends_to_itself_without_reading_only_holds_up_itself() {
    let mut world = small_queues();
    let (selfish, other) = (world.register("selfish"), world.register("other"));
    world.stop_reading(selfish, 0);
    fill(&mut world, selfish, "selfish", 20);
    world.pass_ms(5_000);
    assert!(world.counters().dropped_receiver_stalled > 0);
    world.message(other, "other", 1);
    assert_eq!(world.bodies(other), [1]);
    world.end();
}

#[test]
fn a_receiver_that_ends_frees_those_who_wait_and_their_messages_are_held() {
    let mut world = small_queues();
    let (stuck, sender) = (world.register("stuck"), world.register("sender"));
    world.stop_reading(stuck, 0);
    fill(&mut world, sender, "stuck", 12);
    world.hang_up(stuck);
    let back = world.connect();
    world.send(back, &json!({"type": "register", "endpoint": "stuck"}));
    assert_eq!(numbers(&world.bodies(back)), (0..12).collect::<Vec<_>>());
    world.end();
}

#[test]
fn answers_that_a_peer_does_not_read_stop_the_bus_from_reading_more_questions() {
    let mut world = World::with(|config| config.answer_bytes_max = 1_000);
    let rude = world.connect();
    world.stop_reading(rude, 0);
    let pings = vec![r#"{"type":"ping"}"#; 10_000];
    world.write(rude, &pings);
    assert!(world.router.usage().answers < 5_000, "{:?}", world.router.usage());
    world.read_on(rude);
    assert_eq!(world.take(rude).len(), 10_000, "and then answers them all");
    world.end();
}

#[test]
fn queues_that_others_have_filled_do_not_keep_a_reader_from_its_messages() {
    let mut world = World::with(|config| {
        config.queue_bytes_max = 100 * KIB;
        config.queue_bytes_total_max = 200 * KIB;
        config.queue_bytes_user_max = 200 * KIB;
        config.queue_bytes_reserved = 30 * KIB;
    });
    let sender = world.register("sender");
    for name in ["stuck-1", "stuck-2", "stuck-3"] {
        let stuck = world.register(name);
        world.stop_reading(stuck, 0);
        fill(&mut world, sender, name, 9);
        world.pass_ms(2_000);
    }
    let reader = world.register("reader");
    for n in 0..50 {
        world.message(sender, "reader", json!([n, "r".repeat(20 * KIB)]));
    }
    assert_eq!(world.bodies(reader).len(), 50);
    world.end();
}

#[test]
fn timers_do_not_pile_up_however_busy_it_is() {
    let mut world = small_queues();
    let (slow, sender) = (world.register("slow"), world.register("sender"));
    world.stop_reading(slow, 0);
    for _ in 0..300 {
        fill(&mut world, sender, "slow", 1);
        world.read_some(slow, 10 * KIB);
        let (away, _) = world.register_and_take("away");
        world.hang_up(away);
        let script = world.connect();
        world.message(script, "away", 1);
        world.hang_up(script);
    }
    let timers = world.router.usage().timers;
    assert!(timers < 20, "{timers} timers for a handful of sessions");
    world.end();
}

#[test]
fn a_script_hears_within_a_second_that_its_message_does_not_fit() {
    let mut world = small_queues();
    let (full, sender, script) =
        (world.register("full"), world.register("sender"), world.connect());
    world.stop_reading(full, 0);
    fill(&mut world, sender, "full", 9);
    let bulk = "s".repeat(20 * KIB);
    world.send(script, &json!({"type": "message", "to": "full", "id": 1, "body": bulk}));
    world.pass_ms(699);
    assert!(world.take(script).is_empty());
    world.pass_ms(1);
    assert_eq!(world.take(script)[0]["code"], "over_limit");
    world.read_on(full);
    assert_eq!(world.bodies(full).len(), 9, "what was refused does not come after all");
    let stalls = world.log.iter().any(|event| matches!(event, Event::StallBegan { .. }));
    assert!(!stalls, "the receiver still had time");
    world.end();
}

#[test]
fn what_a_sender_that_waits_had_sent_before_it_left_arrives_all_the_same() {
    let mut world = small_queues();
    let (slow, sender) = (world.register("slow"), world.register("sender"));
    world.stop_reading(slow, 0);
    let messages: Vec<String> = (0..30)
        .map(|n| {
            json!({"type": "message", "to": "slow", "body": [n, "x".repeat(10 * KIB)]}).to_string()
        })
        .collect();
    let messages: Vec<&str> = messages.iter().map(String::as_str).collect();
    world.put(sender, &messages);
    world.put_hang_up(sender);
    world.turn();
    // While it is held.
    world.go_deaf(sender);
    let (heir, _) = world.register_and_take("sender");
    world.read_on(slow);
    assert_eq!(numbers(&world.bodies(slow)), (0..30).collect::<Vec<_>>());
    assert_eq!(world.closed(heir), None);
    assert_eq!(world.counters().replaced, 0);
    world.end();
}

#[test]
fn answers_that_all_peers_together_leave_unread_have_a_limit() {
    let mut world = World::with(|config| config.answer_bytes_total_max = 2_000);
    let rude: Vec<SessionKey> = (0..10).map(|_| world.connect()).collect();
    for key in &rude {
        world.stop_reading(*key, 0);
        world.write(*key, &[r#"{"type":"ping"}"#; 30]);
    }
    let answers = world.router.usage().answers;
    assert!(answers < 3_000, "{answers}");
    let polite = world.connect();
    world.send(polite, &json!({"type": "ping"}));
    assert_eq!(world.take(polite).len(), 1, "who reads is answered");
    for key in &rude {
        world.read_on(*key);
        assert_eq!(world.take(*key).len(), 30, "and the others when they read");
    }
    world.end();
}

#[test]
fn a_peer_that_leaves_with_unread_answers_is_read_to_its_end() {
    let mut world = World::with(|config| config.answer_bytes_max = 1_000);
    let (rude, listener) = (world.connect(), world.register("listener"));
    world.stop_reading(rude, 0);
    let mut frames = vec![r#"{"type":"ping"}"#; 500];
    frames.push(r#"{"type":"message","to":"listener","body":"last words"}"#);
    world.put(rude, &frames);
    world.put_hang_up(rude);
    world.turn();
    assert_eq!(world.closed(rude), None, "held for its unread answers");
    world.go_deaf(rude);
    assert!(world.closed(rude).is_some());
    assert_eq!(world.bodies(listener), ["last words"]);
    world.end();
}

#[test]
fn who_stands_behind_a_script_that_gives_up_goes_on_if_it_fits() {
    let mut world = small_queues();
    let (full, sender, script, small) = (
        world.register("full"),
        world.register("sender"),
        world.connect(),
        world.register("small"),
    );
    world.stop_reading(full, 0);
    fill(&mut world, sender, "full", 9);
    world.message(script, "full", "s".repeat(20 * KIB));
    world.message(small, "full", "fits");
    world.pass_ms(3_000);
    assert_eq!(world.take(script)[0]["code"], "over_limit");
    world.read_on(full);
    assert_eq!(world.bodies(full).last(), Some(&json!("fits")));
    assert_eq!(world.counters().dropped_receiver_stalled, 1, "the script's own");
    world.end();
}

#[test]
fn a_script_that_has_gone_leaves_its_message_the_time_of_all_others() {
    let mut world = small_queues();
    let (full, sender, script) =
        (world.register("full"), world.register("sender"), world.connect());
    world.stop_reading(full, 0);
    fill(&mut world, sender, "full", 9);
    world.message(script, "full", "s".repeat(20 * KIB));
    world.put_hang_up(script);
    world.go_deaf(script);
    world.pass_ms(1_900);
    world.read_on(full);
    assert_eq!(world.bodies(full).len(), 10);
    assert_eq!(world.counters().dropped(), 0);
    world.end();
}

#[test]
fn a_script_waits_once_and_not_again_when_its_receiver_ends() {
    let mut world = small_queues();
    let (full, sender, script) =
        (world.register("full"), world.register("sender"), world.connect());
    world.stop_reading(full, 0);
    fill(&mut world, sender, "full", 9);
    world.message(script, "full", "s".repeat(20 * KIB));
    world.pass_ms(500);
    world.hang_up(full);
    world.pass_ms(199);
    assert!(world.take(script).is_empty());
    world.pass_ms(1);
    assert_eq!(world.take(script)[0]["code"], "endpoint_not_found");
    world.end();
}

#[test]
fn a_receiver_has_its_whole_time_when_a_script_that_came_long_before_reads_no_more() {
    for (reads_after_ms, dropped) in [(2_499, 0), (2_500, 1)] {
        let mut world = small_queues();
        let (first, sender, script) =
            (world.register("full"), world.register("sender"), world.connect());
        world.stop_reading(first, 0);
        fill(&mut world, sender, "full", 9);
        world.message(script, "full", json!([9, "s".repeat(20 * KIB)]));
        world.pass_ms(500);
        // The name's next session inherits a full queue: the script begins to wait for this one.
        let second = world.connect();
        world.stop_reading(second, 0);
        world.send(second, &json!({"type": "register", "endpoint": "full"}));
        assert_eq!(world.counters().sender_waits, 2);
        world.pass_ms(100);
        world.go_deaf(script);
        world.pass_ms(reads_after_ms - 600);
        let stalls = |event: &Event| matches!(event, Event::StallBegan { .. });
        assert_eq!(world.log.iter().filter(|event| stalls(event)).count() as u64, dropped);
        world.read_on(second);
        assert_eq!(numbers(&world.bodies(second)), (0..10 - dropped).collect::<Vec<_>>());
        assert_eq!(world.counters().dropped(), dropped);
        world.end();
    }
}

#[test]
fn a_large_broadcast_is_charged_once_and_fits_where_there_is_room_for_it_once() {
    let mut world = World::with(|config| {
        config.queue_bytes_total_max = 32 * 1024;
        config.queue_bytes_reserved = 0;
    });
    let (sender, slow) = (world.connect(), world.register("slow"));
    world.stop_reading(slow, 0);
    world.message(sender, "slow", "small");
    world.message(sender, "", "b".repeat(20 * 1024));
    assert_eq!(world.counters().dropped_broadcast, 0);
    // For another one there is no room, shared or not.
    world.message(sender, "", "c".repeat(20 * 1024));
    assert_eq!(world.counters().dropped_broadcast, 1);
    world.read_on(slow);
    assert_eq!(world.bodies(slow).len(), 2);
    world.end();
}

#[test]
fn nobody_pays_for_the_broadcasts_that_another_user_does_not_read() {
    let mut world = World::with(|config| {
        config.allow_uids = vec![5];
        config.queue_bytes_user_max = 64 * 1024;
        config.queue_bytes_reserved = 0;
    });
    let (reader, slow) = (world.register("reader"), world.register_as(5, "slow"));
    let sender = world.register("sender");
    world.stop_reading(slow, 0);
    for _ in 0..10 {
        world.message(sender, "", "b".repeat(20 * 1024));
    }
    assert_eq!(world.bodies(reader).len(), 10);
    assert_eq!(world.counters().dropped_broadcast, 7, "its own user's budget is used up");
    world.stop_reading(reader, 0);
    world.message(sender, "reader", 1);
    world.message(sender, "reader", 2);
    assert_eq!(world.counters().sender_waits, 0, "nothing else is queued for this user");
    world.end();
}

//! Registration, replacement, fights, heartbeats, impatient clients.

use std::time::Duration;

use hermes_bus_core::{CloseReason, Event};
use serde_json::json;

use crate::world::World;

#[test]
fn registered_comes_first_whatever_is_sent_to_the_name_meanwhile() {
    let mut world = World::new();
    let (a, sender) = (world.connect(), world.register("sender"));
    world.put(a, &[r#"{"type":"register","endpoint":"a"}"#]);
    world.put(sender, &[r#"{"type":"message","to":"a","body":1}"#]);
    world.turn();
    let frames = world.take(a);
    assert_eq!(frames[0]["type"], "registered");
    assert_eq!(frames[0]["endpoint"], "a");
    assert_eq!(frames[1]["body"], 1);
    world.end();
}

#[test]
fn names_that_cannot_be_are_refused() {
    let mut world = World::new();
    for (endpoint, code) in [
        ("", "invalid_field"),
        (r#","endpoint":5"#, "invalid_field"),
        (r#","endpoint":null"#, "invalid_field"),
        (r#","endpoint":"\ud800""#, "name_invalid"),
        (r#","endpoint":"bus.stats""#, "forbidden"),
    ] {
        let key = world.connect();
        world.send_text(key, &format!("{{\"type\":\"register\"{endpoint}}}"));
        assert_eq!(world.take(key)[0]["code"], code, "{endpoint}");
        assert_eq!(world.closed(key), Some(CloseReason::Refused));
    }
    let key = world.connect();
    world.send(key, &json!({"type": "register", "endpoint": "x".repeat(8 * 1024 + 1)}));
    assert_eq!(world.take(key)[0]["code"], "name_invalid");
    assert!(world.endpoints().is_empty());
    world.end();
}

#[test]
fn a_newer_session_takes_the_name_and_what_the_old_one_had_not_read() {
    let mut world = World::new();
    let (old, sender) = (world.register("dup"), world.register("sender"));
    world.stop_reading(old, 0);
    for n in 0..3 {
        world.message(sender, "dup", n);
    }
    let new = world.connect();
    world.send(new, &json!({"type": "register", "endpoint": "dup"}));
    assert_eq!(world.closed(old), Some(CloseReason::Replaced));
    world.message(sender, "dup", 3);
    let frames = world.take(new);
    assert_eq!(frames[0]["type"], "registered");
    let bodies: Vec<_> = frames[1..].iter().map(|frame| frame["body"].clone()).collect();
    assert_eq!(bodies, [0, 1, 2, 3]);
    assert_eq!(world.counters().dropped(), 0);
    world.end();
}

#[test]
fn a_message_cut_off_by_the_end_of_its_receiver_is_counted() {
    let mut world = World::new();
    let (old, sender) = (world.register("dup"), world.register("sender"));
    world.stop_reading(old, 10);
    world.message(sender, "dup", "begun");
    world.message(sender, "dup", "not begun");
    let new = world.register_and_take("dup");
    assert_eq!(new.1, ["not begun"]);
    assert_eq!(world.counters().dropped_cut_off, 1);
    world.end();
}

#[test]
fn a_session_that_is_done_is_let_go_when_its_heir_has_all_that_it_left() {
    let mut world = World::new();
    let (done, sender) = (world.register("dup"), world.register("sender"));
    world.stop_reading(done, 0);
    world.message(sender, "dup", "not read");
    world.half_close(done);
    assert_eq!(world.closed(done), None, "it may still read");
    let (_, bodies) = world.register_and_take("dup");
    assert_eq!(bodies, ["not read"]);
    world.assert_let_go(done);
    world.end();
}

#[test]
fn a_session_that_is_done_reads_what_it_has_begun_to_read_and_its_heir_the_rest() {
    let mut world = World::new();
    let (done, sender) = (world.register("dup"), world.register("sender"));
    world.stop_reading(done, 10);
    world.message(sender, "dup", "begun");
    world.message(sender, "dup", "not begun");
    world.half_close(done);
    let (_, bodies) = world.register_and_take("dup");
    assert_eq!(bodies, ["not begun"]);
    assert_eq!(world.closed(done), None);
    world.read_on(done);
    assert_eq!(world.bodies(done), ["begun"]);
    world.assert_let_go(done);
    assert_eq!(world.counters().dropped(), 0);
    world.end();
}

#[test]
fn another_user_takes_the_name_but_not_what_was_for_the_first() {
    let mut world = World::with(|config| config.allow_uids = vec![5]);
    let (old, sender) = (world.register("dup"), world.register("sender"));
    world.stop_reading(old, 0);
    world.message(sender, "dup", "private");
    let new = world.register_as(5, "dup");
    assert!(world.take(new).is_empty());
    assert_eq!(world.counters().dropped_receiver_gone, 1);
    world.end();
}

#[test]
fn three_replacements_are_free_and_the_next_ones_wait_longer_and_longer() {
    let mut world = World::new();
    let mut holder = world.register("dup");
    for _ in 0..3 {
        let next = world.register("dup");
        assert_eq!(world.closed(holder), Some(CloseReason::Replaced));
        holder = next;
    }
    for pause_ms in [100, 200, 400, 800, 1_000, 1_000] {
        let next = world.connect();
        world.send(next, &json!({"type": "register", "endpoint": "dup"}));
        assert_eq!(world.closed(holder), Some(CloseReason::Replaced), "at once");
        world.message(next, "dup", "behind it");
        world.pass_ms(pause_ms - 1);
        assert!(world.take(next).is_empty(), "not before {pause_ms} ms");
        world.pass_ms(1);
        let frames = world.take(next);
        assert_eq!(
            (&frames[0]["type"], &frames[1]["body"]),
            (&json!("registered"), &json!("behind it"))
        );
        holder = next;
    }
    let fights = world.log.iter().filter(|event| matches!(event, Event::Fight { .. })).count();
    assert_eq!(fights, 1, "logged once");
    world.pass(Duration::from_secs(11));
    let calm = world.register("dup");
    assert_eq!(world.closed(calm), None, "after ten quiet seconds all is forgotten");
    world.end();
}

#[test]
fn a_session_that_is_overtaken_while_it_waits_is_closed_and_its_messages_go_on() {
    let mut world = World::new();
    for _ in 0..4 {
        world.register("dup");
    }
    let waiting = world.connect();
    world.send(waiting, &json!({"type": "register", "endpoint": "dup"}));
    let sender = world.register("sender");
    world.message(sender, "dup", "for whoever wins");
    let last = world.connect();
    world.send(last, &json!({"type": "register", "endpoint": "dup"}));
    assert_eq!(world.closed(waiting), Some(CloseReason::Replaced));
    assert!(world.take(waiting).is_empty());
    world.pass_ms(1_000);
    assert_eq!(world.bodies(last), ["for whoever wins"]);
    world.end();
}

#[test]
fn a_session_whose_peer_had_hung_up_is_no_replacement_and_its_last_words_count() {
    let mut world = World::new();
    let listener = world.register("listener");
    for n in 0..10 {
        let key = world.connect();
        world.put(key, &[r#"{"type":"register","endpoint":"again"}"#]);
        world.turn();
        assert_eq!(world.take(key)[0]["type"], "registered", "never slowed down");
        world.put(key, &[&json!({"type": "message", "to": "listener", "body": n}).to_string()]);
        world.put_hang_up(key);
    }
    world.turn();
    assert_eq!(world.bodies(listener), (0..10).collect::<Vec<_>>());
    assert_eq!(world.counters().replaced, 0);
    world.end();
}

#[test]
fn a_silent_session_is_closed_after_90_seconds_and_any_frame_is_a_sign_of_life() {
    let mut world = World::new();
    let (silent, pinger, talker) =
        (world.register("silent"), world.register("pinger"), world.register("talker"));
    let anonymous = world.connect();
    for _ in 0..3 {
        world.pass_ms(29_999);
        world.send(pinger, &json!({"type": "ping"}));
        world.send(talker, &json!({"type": "whatever"}));
    }
    assert_eq!(world.closed(silent), None, "89.997 s");
    world.pass_ms(3);
    assert_eq!(world.closed(silent), Some(CloseReason::Heartbeat));
    world.pass_ms(60_000);
    for key in [pinger, talker, anonymous] {
        assert_eq!(world.closed(key), None);
    }
    assert_eq!(world.counters().timeout_heartbeat, 1);
    world.end();
}

#[test]
fn an_impatient_client_is_told_a_pong_twice_a_second_and_nobody_else_is() {
    let mut world = World::new();
    let patient = world.register("patient");
    let first = world.register("svc");
    world.pass_ms(1_000);
    world.hang_up(first);
    world.pass_ms(1_000);
    let second = world.connect();
    world.send(second, &json!({"type": "register", "endpoint": "svc"}));
    world.pass_ms(5_000);
    let frames = world.take(second);
    assert_eq!(frames[0]["type"], "registered");
    assert_eq!(frames[1..].len(), 10);
    assert!(frames[1..].iter().all(|frame| *frame == json!({"type": "pong"})));
    world.message(patient, "svc", "work");
    world.pass_ms(499);
    assert_eq!(world.take(second).len(), 1, "a message is as good as a pong");
    assert!(world.take(patient).is_empty());
    world.end();
}

#[test]
fn a_client_that_gives_up_while_it_waits_in_a_fight_is_not_impatient() {
    let mut world = World::new();
    for _ in 0..8 {
        world.register_and_take("dup");
    }
    let waiting = world.connect();
    world.send(waiting, &json!({"type": "register", "endpoint": "dup"}));
    world.pass_ms(950);
    world.hang_up(waiting);
    world.pass_ms(500);
    let (last, _) = world.register_and_take("dup");
    world.pass_ms(5_000);
    let frames = world.take(last);
    assert!(frames.iter().all(|frame| frame["type"] != "pong"), "{frames:?}");
    world.end();
}

#[test]
fn a_client_that_does_not_read_gets_no_pongs_on_top() {
    let mut world = World::new();
    let first = world.register("svc");
    world.pass_ms(1_000);
    world.hang_up(first);
    let second = world.register("svc");
    world.stop_reading(second, 0);
    world.pass_ms(20_000);
    assert_eq!(world.counters().impatient_pongs, 1, "one waits to be read");
    world.end();
}

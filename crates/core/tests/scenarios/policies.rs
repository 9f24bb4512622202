//! What the configuration can forbid or slow down.

use std::time::Duration;

use hermes_bus_core::{CloseReason, Config, Event, Protection};
use serde_json::{Value, json};

use crate::world::{OWNER, World};

fn protect(name: &str, uid: Option<u32>, token: Option<&str>) -> Protection {
    Protection { name: name.to_owned(), uid, token: token.map(str::to_owned) }
}

fn register(world: &mut World, uid: u32, frame: &Value) -> (Value, Option<CloseReason>) {
    let key = world.connect_as(uid);
    world.send(key, frame);
    let answer = world.take(key).pop().expect("an answer");
    (answer, world.closed(key))
}

// ---- protected names ----------------------------------------------------------------------------

#[test]
fn a_protected_name_is_for_those_who_show_its_token_or_are_its_user() {
    let mut world = World::with(|config| {
        config.allow_uids = vec![1001, 1002];
        config.protected =
            vec![protect("vault", None, Some("s3cret")), protect("cron", Some(1001), None)];
    });
    let ask = |endpoint: &str, token: Value| json!({"type": "register", "endpoint": endpoint, "token": token});
    for token in [json!("wrong!"), json!("s3cre"), json!("s3cret2"), json!(7), Value::Null] {
        let (answer, closed) = register(&mut world, OWNER, &ask("vault", token));
        assert_eq!(answer["code"], "unauthorized");
        assert!(!answer.to_string().contains("s3cre"), "{answer}");
        assert_eq!(closed, Some(CloseReason::Refused));
    }
    let bare = json!({"type": "register", "endpoint": "vault"});
    assert_eq!(register(&mut world, 0, &bare).0["code"], "unauthorized", "root needs it too");
    assert_eq!(register(&mut world, 1002, &ask("vault", json!("s3cret"))).0["type"], "registered");
    let cron = json!({"type": "register", "endpoint": "cron"});
    assert_eq!(register(&mut world, OWNER, &cron).0["code"], "unauthorized");
    assert_eq!(register(&mut world, 1001, &cron).0["type"], "registered");
    assert_eq!(
        register(&mut world, OWNER, &json!({"type": "register", "endpoint": "free"})).0["type"],
        "registered"
    );
    assert_eq!(world.counters().refused_unauthorized, 7);
    world.end();
}

#[test]
fn the_holder_of_a_protected_name_is_not_disturbed_by_those_without_the_token() {
    let mut world =
        World::with(|config| config.protected = vec![protect("vault", None, Some("t"))]);
    let holder = world.connect();
    world.send(holder, &json!({"type": "register", "endpoint": "vault", "token": "t"}));
    let (answer, _) =
        register(&mut world, OWNER, &json!({"type": "register", "endpoint": "vault"}));
    assert_eq!(answer["code"], "unauthorized");
    assert_eq!((world.closed(holder), world.counters().replaced), (None, 0));
    world.end();
}

// ---- strict_from --------------------------------------------------------------------------------

#[test]
fn strict_from_refuses_messages_under_another_name() {
    let mut world = World::with(|config| config.strict_from = true);
    let (a, b) = (world.register("a"), world.register("b"));
    for from in [json!("b"), json!(""), Value::Null, json!(1)] {
        world.send(a, &json!({"type": "message", "to": "b", "from": from, "id": "i", "body": 1}));
        let error = &world.take(a)[0];
        assert_eq!((&error["code"], &error["id"]), (&json!("forbidden"), &json!("i")));
    }
    assert!(world.bodies(b).is_empty());
    world.send(a, &json!({"type": "message", "to": "b", "from": "a", "body": "own name"}));
    world.send(a, &json!({"type": "message", "to": "b", "body": "no name"}));
    let script = world.connect();
    world.send(script, &json!({"type": "message", "to": "b", "from": "cron", "body": "a script"}));
    assert_eq!(world.bodies(b), ["own name", "no name", "a script"]);
    assert_eq!(world.counters().refused_from, 4);
    assert!(
        world
            .log
            .iter()
            .any(|event| matches!(event, Event::Misbehaved { peer, .. } if peer.pid == 7))
    );
    world.end();
}

// ---- rates --------------------------------------------------------------------------------------

#[test]
fn a_sender_over_its_rate_waits_and_loses_nothing() {
    let mut world = World::with(|config| config.messages_per_s = Some(10));
    let (reader, sender) = (world.register("reader"), world.register("sender"));
    let messages: Vec<String> = (0..30)
        .map(|n| json!({"type": "message", "to": "reader", "body": n}).to_string())
        .collect();
    let messages: Vec<&str> = messages.iter().map(String::as_str).collect();
    world.write(sender, &messages);
    let first = world.bodies(reader).len();
    assert!((10..=11).contains(&first), "a second's worth at once: {first}");
    world.pass_ms(500);
    let second = world.bodies(reader).len();
    assert!((4..=6).contains(&second), "half a second's worth: {second}");
    world.pass_ms(1_500);
    let all = first + second + world.bodies(reader).len();
    assert_eq!(all, 30, "all are there after 3 s less the first one");
    assert!(world.counters().pace_waits >= 10);
    world.end();
}

#[test]
fn nobody_is_held_for_a_rate_that_was_lifted_or_when_the_bus_is_about_to_end() {
    type Lift = fn(&mut World);
    let lift: [Lift; 2] = [
        |world| {
            let config = world.router.config().clone();
            world.router.configure(Config { messages_per_s: None, ..config });
        },
        |world| world.router.configure(world.router.config().at_the_end()),
    ];
    for lift in lift {
        let mut world = World::with(|config| config.messages_per_s = Some(1));
        let (reader, sender) = (world.register("reader"), world.register("sender"));
        let message = json!({"type": "message", "to": "reader", "body": 1}).to_string();
        world.write(sender, &vec![message.as_str(); 100]);
        assert!(world.bodies(reader).len() < 3);
        lift(&mut world);
        world.turn();
        assert!(world.bodies(reader).len() >= 97, "without any further waiting");
        world.end();
    }
}

#[test]
fn a_pause_is_not_ended_by_the_timer_of_one_that_a_change_of_the_rates_has_ended() {
    let mut world = World::with(|config| config.messages_per_s = Some(1));
    let (reader, sender) = (world.register("reader"), world.register("sender"));
    let message = json!({"type": "message", "to": "reader", "body": 1}).to_string();
    world.write(sender, &[message.as_str(); 3]);
    assert_eq!(world.bodies(reader).len(), 2, "the pause is over after 1 s");
    world.pass_ms(900);
    world.router.configure(Config { messages_per_s: Some(2), ..world.router.config().clone() });
    world.turn();
    assert_eq!(world.bodies(reader).len(), 1, "the change lets it go on");
    world.write(sender, &[message.as_str(); 4]);
    assert_eq!(world.bodies(reader).len(), 2, "a new pause, until half a second from now");
    assert_eq!(world.counters().pace_waits, 2);
    world.pass_ms(499);
    assert!(world.bodies(reader).is_empty(), "the timer of the first pause means nothing");
    world.pass_ms(1);
    assert_eq!(world.bodies(reader).len(), 1);
    world.pass_ms(499);
    assert!(world.bodies(reader).is_empty());
    world.pass_ms(1);
    assert_eq!(world.bodies(reader).len(), 1);
    world.end();
}

#[test]
fn bytes_are_limited_by_themselves() {
    let mut world = World::with(|config| config.bytes_per_s = Some(10_000));
    let (reader, sender) = (world.register("reader"), world.register("sender"));
    world.message(sender, "reader", "x".repeat(30_000));
    world.put(sender, &[&json!({"type": "message", "to": "reader", "body": "next"}).to_string()]);
    world.turn();
    assert_eq!(world.bodies(reader).len(), 1, "a message over the rate goes through whole");
    world.pass_ms(1_900);
    assert!(world.bodies(reader).is_empty());
    world.pass_ms(200);
    assert_eq!(world.bodies(reader), ["next"]);
    world.end();
}

#[test]
fn who_is_slowed_down_is_not_taken_for_silent_and_others_are_not_slowed_down() {
    let mut world = World::with(|config| config.bytes_per_s = Some(1_000));
    let (reader, sender) = (world.register("reader"), world.register("sender"));
    let other = world.register("other");
    world.message(sender, "reader", "x".repeat(200_000));
    for _ in 0..19 {
        world.pass(Duration::from_secs(10));
        world.send(reader, &json!({"type": "ping"}));
        world.send(other, &json!({"type": "ping"}));
    }
    world.message(other, "reader", "quick");
    assert_eq!(world.bodies(reader).len(), 2);
    assert_eq!(world.closed(sender), None, "190 s without a word, because nobody listened");
    world.end();
}

// ---- changes while the bus runs -----------------------------------------------------------------

#[test]
fn limits_change_while_the_bus_runs() {
    let mut world = World::new();
    let (reader, sender) = (world.register("reader"), world.register("sender"));
    let mut config = world.router.config().clone();
    config.linger = Duration::from_millis(100);
    config.strict_from = true;
    config.queue_bytes_max = 1_000;
    config.server = "somebody else".to_owned();
    config.owner_uid = 4;
    world.router.configure(config);
    assert_eq!(world.router.config().owner_uid, OWNER);
    assert!(world.router.config().server.starts_with("hermes-bus/"));
    world.send(sender, &json!({"type": "message", "to": "reader", "from": "x", "body": 1}));
    assert_eq!(world.take(sender)[0]["code"], "forbidden");
    world.stop_reading(reader, 0);
    world.message(sender, "reader", "x".repeat(600));
    world.message(sender, "reader", "x".repeat(600));
    assert_eq!(world.counters().sender_waits, 1);
    world.read_on(reader);
    assert_eq!(world.bodies(reader).len(), 2);
    world.hang_up(reader);
    world.message(sender, "reader", "held for a moment");
    world.pass_ms(100);
    assert_eq!(world.counters().dropped_receiver_gone, 1);
    world.end();
}

#[test]
fn a_larger_queue_lets_waiting_senders_go_on() {
    let mut world = World::with(|config| config.queue_bytes_max = 1_000);
    let (reader, sender) = (world.register("reader"), world.register("sender"));
    world.stop_reading(reader, 0);
    world.message(sender, "reader", "x".repeat(600));
    world.message(sender, "reader", "x".repeat(600));
    assert_eq!(world.counters().messages, 1);
    let mut config = world.router.config().clone();
    config.queue_bytes_max = 10_000;
    world.router.configure(config);
    world.turn();
    assert_eq!(world.counters().messages, 2);
    world.end();
}

#[test]
fn smaller_budgets_hold_for_what_comes_next() {
    let mut world = World::new();
    let (reader, sender) = (world.register("reader"), world.register("sender"));
    let mut config = world.router.config().clone();
    config.queue_bytes_reserved = 0;
    config.queue_bytes_user_max = 1_000;
    config.held_bytes_total_max = 1_000;
    world.router.configure(config);
    world.stop_reading(reader, 0);
    world.message(sender, "reader", "x".repeat(600));
    world.message(sender, "reader", "y".repeat(600));
    assert_eq!(world.counters().sender_waits, 1, "the user's budget is used up");
    world.read_on(reader);
    assert_eq!(world.bodies(reader).len(), 2);
    world.hang_up(reader);
    world.message(sender, "reader", "x".repeat(600));
    world.message(sender, "reader", "y".repeat(600));
    assert_eq!(world.counters().dropped_held_overflow, 1, "the older one made room");
    world.end();
}

#[test]
fn how_fights_are_slowed_down_can_be_set() {
    let mut world = World::with(|config| {
        config.fight_replacements = 0;
        config.fight_pause = Duration::from_millis(500);
        config.fight_pause_max = Duration::from_millis(700);
    });
    world.register("name");
    for pause_ms in [500, 700, 700] {
        let newcomer = world.connect();
        world.send(newcomer, &json!({"type": "register", "endpoint": "name"}));
        world.pass_ms(pause_ms - 1);
        assert!(world.take(newcomer).is_empty(), "{pause_ms}");
        world.pass_ms(1);
        assert_eq!(world.take(newcomer)[0]["type"], "registered");
    }
    world.end();
}

#[test]
fn impatient_clients_can_be_left_to_themselves() {
    for impatient_pongs in [true, false] {
        let mut world = World::with(|config| config.impatient_pongs = impatient_pongs);
        let client = world.register("client");
        world.pass_ms(1_000);
        world.hang_up(client);
        world.pass_ms(1_000);
        let client = world.register("client");
        world.pass_ms(2_000);
        assert_eq!(!world.take(client).is_empty(), impatient_pongs);
        world.end();
    }
}

// ---- requests that are not the router's ---------------------------------------------------------

#[test]
fn the_owner_and_root_may_ask_the_daemon_and_nobody_else() {
    let mut world = World::with(|config| config.allow_uids = vec![1001]);
    let ask = json!({"type": "admin", "op": "reload", "protocol": 2, "req": 5});
    for uid in [OWNER, 0] {
        let key = world.connect_as(uid);
        world.send(key, &ask);
        let (asker, request) = world.admin.pop().expect("a request");
        assert_eq!((asker, &request["op"]), (key, &json!("reload")));
        let mut answer = Vec::new();
        hermes_bus_proto::control::append_text(&mut answer, r#"{"type": "admin_result"}"#);
        world.router.answer_admin(key, &answer);
        world.turn();
        assert_eq!(world.take(key), [json!({"type": "admin_result"})]);
    }
    let guest = world.connect_as(1001);
    world.send(guest, &ask);
    let refusal = &world.take(guest)[0];
    assert_eq!((&refusal["code"], &refusal["req"]), (&json!("forbidden"), &json!(5)));
    // Who has registered on level 2 need not say it again.
    let session = world.join("session", json!({}));
    world.send(session, &json!({"type": "admin", "op": "reload"}));
    assert_eq!(world.admin.pop().map(|(asker, _)| asker), Some(session));
    assert!(world.take(session).is_empty());
    let old = world.connect();
    world.send(old, &json!({"type": "admin", "op": "reload"}));
    assert!(world.take(old).is_empty(), "on level 1 it is an unknown type");
    assert!(world.admin.is_empty());
    assert_eq!(world.counters().ignored_unknown_type, 1);
    world.end();
}
